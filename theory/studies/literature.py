"""Token trees on which the literature's claims are decided, and the bias of an estimate."""

from __future__ import annotations

import itertools

import numpy as np

from theory.claims.one_prompt import OnePrompt
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

__all__ = [
    "constant_log_ratio",
    "literature_trees",
    "power_estimate_bias",
    "sure_but_unlikely",
]


def literature_trees(seed: int = 0) -> list[OnePrompt]:
    """Make the token trees of ``endorm verify --literature``: random ones, and two counterexamples.

    Each has one prompt, and at most 27 responses, over all of which sums are made.

    Example:
        >>> [len(instance.responses.prompts) for instance in literature_trees()]
        [8, 27, 16, 4, 16]

    """
    rng = np.random.default_rng(seed)
    random = []
    for V, H, alpha in ((2, 3, 0.3), (3, 3, 1.0), (4, 2, 2.0)):
        mdp = TokenMDP.random(V, H, seed=rng)
        logits = [rng.normal(size=table.shape) for table in mdp.rewards]
        policy = Policy.from_logits(mdp.dynamics, logits)
        random.append(OnePrompt(mdp, soft_optimal(mdp, alpha).policy, policy, alpha))
    return [*random, constant_log_ratio(), sure_but_unlikely()]


def constant_log_ratio(rare: float = 1e-6) -> OnePrompt:
    """Make an instance on which the log-ratio of whole responses is constant, but for rare ones.

    V = 2, H = 2. `π̂` writes either first token with ½, and then token 0. What `π_E` loses at the
    first token it makes up for at the second: it writes both responses with 0.3. So
    ``log π̂(τ)/π_E(τ) = log 5/3`` without noise, while the divergence of the second token is 0.69
    after one first token and 0.29 after the other.

    Args:
        rare: probability of token 1 as the second token, in `π̂`.

    Raises:
        ValueError: `rare` is not between 0 and ½.

    Example:
        >>> from theory.mdp.distances import kl
        >>> instance = constant_log_ratio()
        >>> print(round(float(kl(instance.policy, instance.expert)), 4))  # log 5/3
        0.5108

    """
    if not 0 < rare < 0.5:
        raise ValueError(f"rare={rare}: must be a probability below one half")
    expert = [np.log([[0.6, 0.4]]), np.log([[0.5, 0.5], [0.75, 0.25]])]
    mdp = TokenMDP.tree(expert, reward_range=(-2.0, 0.0))
    policy = Policy.from_logits(
        mdp.dynamics, [np.log([[0.5, 0.5]]), np.log([[1 - rare, rare]] * 2)]
    )
    return OnePrompt(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)


def sure_but_unlikely(likely: float = 0.7) -> OnePrompt:
    """Make an instance on which the surest continuation follows an unlikely token.

    V = 4, H = 2. After token 0 any token may follow, after the others one token is nearly sure. A
    response that begins with token 0 pays 1, and ½ more where it ends with it.

    Args:
        likely: probability of token 0 as the first token, in `π̂`.

    Raises:
        ValueError: `likely` is not between ¼ and 1.

    Example:
        >>> instance = sure_but_unlikely()
        >>> [np.exp(table).round(2).tolist()[0] for table in instance.policy.log_probs]
        [[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]

    """
    if not 0.25 < likely < 1:
        raise ValueError(f"likely={likely}: must be a probability above one quarter")
    first = np.array([[likely] + [(1 - likely) / 3] * 3])
    second = np.array([[0.25] * 4] + [[0.97, 0.01, 0.01, 0.01]] * 3)
    pays = [np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[0.5, 0.0, 0.0, 0.0]] * 4)]
    mdp = TokenMDP.tree(pays)
    policy = Policy.from_logits(mdp.dynamics, [np.log(first) + 1.0, np.log(second) + 0.5])
    return OnePrompt(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)


def power_estimate_bias(
    rest: np.ndarray, first: np.ndarray, exponent: float = 2.0, draws: int = 4
) -> tuple[float, float]:
    """Return the exact bias of two estimates of the power policy's next token, from drawn
    continuations.

    Token `a` has weight ``p(a)^κ ζ(a)`` with ``ζ(a) = E[p(rest|a)^{κ−1}]``, of which the mean over
    `draws` continuations has no bias; the normalised weight has. The jackknife takes ``M θ̂ − (M −
    1) θ̂'``, `θ̂'` the average over estimates that leave one draw out.

    Args:
        rest: ``(V, K)``: laws of the continuations after each first token.
        first: ``(V,)``: law of the first token.
        exponent: `κ`.
        draws: `M` continuations of each first token; all ``K^{VM}`` outcomes are summed over.

    Returns:
        Bias of the probability of token 0, without and with the jackknife.

    Raises:
        ValueError: there are more than a million outcomes, or fewer than two draws.

    Example:
        >>> rest = np.array([[0.5, 0.5], [0.9, 0.1]])
        >>> [round(x, 4) for x in power_estimate_bias(rest, np.array([0.5, 0.5]), draws=4)]
        [0.0037, -0.0009]

    """
    V, K = rest.shape
    if draws < 2 or K ** (V * draws) > 1_000_000:
        raise ValueError(f"draws={draws}: must be at least 2, with at most a million outcomes")
    weights = first**exponent * (rest**exponent).sum(axis=-1)
    exact = weights[0] / weights.sum()
    outcomes = np.array(list(itertools.product(range(K), repeat=V * draws))).reshape(-1, V, draws)
    tokens = np.arange(V)[None, :, None]
    mass = rest[tokens, outcomes].prod(axis=(1, 2))
    worth = first[:, None] ** exponent * rest[tokens, outcomes] ** (exponent - 1)

    def share(total: np.ndarray) -> np.ndarray:
        """Probability of token 0 by weights ``(N, V)``."""
        chosen: np.ndarray = total[:, 0] / total.sum(axis=-1)
        return chosen

    plain = share(worth.sum(axis=-1))
    left_out = [share(worth.sum(axis=-1) - worth[..., m]) for m in range(draws)]
    jackknife = draws * plain - (draws - 1) * np.mean(left_out, axis=0)
    return float(mass @ plain - exact), float(mass @ jackknife - exact)
