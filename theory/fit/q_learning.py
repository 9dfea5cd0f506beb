"""Soft Q-learning from sampled responses: from a reward back to its policy, without a model."""

from __future__ import annotations

import numpy as np

from theory.arrays.namespace import forbid, require_positive, soft_maximum, token_major
from theory.fit.imitation import Fit
from theory.mdp.policy import Policy, Seed, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy
from theory.solve.soft import soft_q_values

__all__ = ["soft_q_learning"]


def soft_q_learning(
    mdp: TokenMDP,
    alpha: float,
    *,
    rounds: int = 1000,
    parallel: int = 32,
    power: float = 0.6,
    behaviour: Policy | None = None,
    seed: Seed = None,
) -> Fit:
    """Run soft Q-learning on sampled responses: from a reward to its soft-optimal policy,
    model-free.

    In each round `parallel` responses are sampled, and each token that occurs in them updates its
    Q-value once, by

        Q(s,a) ← Q(s,a) + N(s,a)^{−power} [r(s,a) + V_Q(s⊕a) − Q(s,a)],    V_Q = α log Σ exp(Q/α),

    with `N` the number of rounds so far in which it occurred. On the reward that a route found, it
    recovers `π̂`.

    Args:
        mdp: one token MDP; its rewards are read only on the responses sampled.
        alpha: temperature in reward units.
        rounds: number of rounds.
        parallel: responses sampled in each.
        power: step sizes, from 1 (averages, Watkins's classic choice, slow where targets still
            change) to 0. Transitions of token MDPs are deterministic, so that even 0, which forgets
            the old value, converges.
        behaviour: the policy of the responses; uniform over the allowed tokens by default.
        seed: a seed or a `numpy.random.Generator`.

    Returns:
        The fit; `visited` are the states that were met, and `errors` the largest ``|Q − Q*|`` after
        each round over what `behaviour` can reach, ``Q*`` the exact Q-values.

    Raises:
        ValueError: a batch, or an argument out of range.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> fit = soft_q_learning(mdp, alpha=1.0, rounds=50, power=0.0, seed=0)
        >>> bool(fit.errors[-1] < 1e-12)
        True
    """
    if mdp.batch_shape or np.ndim(alpha):
        raise ValueError(
            f"mdp of batch {mdp.batch_shape}, alpha of shape {np.shape(alpha)}: take one at a time"
        )
    for name, number in (("rounds", rounds), ("parallel", parallel)):
        if number < 1:
            raise ValueError(f"{name}={number}: must be at least 1")
    if not 0 <= power <= 1:
        raise ValueError(f"power={power}: must be from 0 to 1")
    alpha = float(require_positive("alpha", alpha))
    dynamics = mdp.dynamics
    q = [
        forbid(np.zeros(r.shape), mask)
        for r, mask in zip(mdp.rewards, dynamics.allowed, strict=True)
    ]
    behaviour = Policy.from_logits(dynamics, q) if behaviour is None else behaviour
    require_same_dynamics(dynamics, behaviour.dynamics)
    for h, (mask, table) in enumerate(zip(dynamics.allowed, behaviour.log_probs, strict=True)):
        if mask is not None and (table > -np.inf)[~mask].any():
            raise ValueError(
                f"behaviour: chooses a token of layer {h} that the MDP forbids; use a policy of "
                "this MDP"
            )
    exact = soft_q_values(mdp, alpha)
    reached = [
        (m > 0)[:, None] & (t > -np.inf)
        for m, t in zip(occupancy(behaviour), behaviour.log_probs, strict=True)
    ]
    met = [np.zeros(r.shape, dtype=np.int64) for r in mdp.rewards]
    rng = np.random.default_rng(seed)
    errors = np.empty(rounds)
    for i in range(rounds):
        responses = behaviour.sample(parallel, rng)
        states = dynamics.walk(responses.prompts, responses.tokens)
        for h, s in enumerate(states):
            a = responses.tokens[:, h]
            following = soft_maximum(q[h + 1][states[h + 1]], alpha) if h + 1 < mdp.horizon else 0.0
            met[h][s, a] += 1  # once for a pair that occurs twice in a round, as NumPy indexes
            q[h][s, a] += met[h][s, a] ** -power * (mdp.rewards[h][s, a] + following - q[h][s, a])
        errors[i] = max(
            np.abs(a[where] - b[where]).max() for a, b, where in zip(q, exact, reached, strict=True)
        )
    visited = tuple(count.sum(axis=-1) > 0 for count in met)
    return Fit(dynamics, tuple(token_major(table) for table in q), alpha, visited, errors=errors)
