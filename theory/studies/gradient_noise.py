"""Noise of policy gradients on the endogenous reward: exact variances on a token tree.

RL on the endogenous reward with a KL anchor maximises ``J = E_π Σ_h k(s_h, a_h)`` with
``k(s,a) = (α + β) log π̂(a|s) − β log π(a|s)``, whose gradient is estimated from drawn responses.
All estimators here have that one expectation; what differs is the variance, and on a tree it is a
sum over all responses. With ``g_h = ∇log π(a_h|s_h)`` and ``k̄(s) = Σ_a π(a|s) k(s,a)``:

============================ ======================================================================
`sum`                        ``Σ_h g_h · (Σ_j k_j − J)``: whole responses, an ideal baseline
`to go`                      ``Σ_h g_h · Σ_{j≥h} k_j``
`to go, next-token baseline` ``Σ_h g_h · (Σ_{j≥h} k_j − k̄(s_h))`` (arXiv 2605.07865)
`to go, ideal critic`        ``Σ_h g_h · (Σ_{j≥h} k_j − V(s_h))``
`expected`                   ``Σ_h {∇k̄(s_h) + g_h · Σ_{j>h} k̄(s_j)}``: a Rao–Blackwell estimator, in
                             arXiv 2504.10637 of a divergence; here all of `J` is of that form
`expected, ideal critic`     ``Σ_h {∇k̄(s_h) + g_h · (Σ_{j>h} k̄(s_j) − V(s_h) + k̄(s_h))}``
============================ ======================================================================
"""

from __future__ import annotations

import numpy as np

from theory.arrays.namespace import require_positive_number
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.values import expected_sums

__all__ = ["GRADIENTS", "gradient_mean_and_noise", "gradient_noise"]

GRADIENTS = (
    "sum",
    "to go",
    "to go, next-token baseline",
    "to go, ideal critic",
    "expected",
    "expected, ideal critic",
)
"""Names of the estimators."""


def gradient_noise(
    policy: Policy, reference: Policy, alpha: float = 1.0, beta: float = 1.0
) -> dict[str, float]:
    """Return the variance of each estimator of ``∇J`` from one response, summed over the logits.

    Args:
        policy: `π`, on a tree with one prompt, every token allowed; its logits are the parameters.
        reference: `π̂`, whose endogenous reward it is trained on, on the same dynamics.
        alpha: temperature of the reward.
        beta: KL coefficient.

    Raises:
        ValueError: `alpha` or `beta` is not a positive number, there are several prompts, or the
            dynamics differ.

    Example:
        At the optimum ``π ∝ π̂²`` a whole response is worth the same whichever it is:

        >>> from theory.solve.soft import power_policy
        >>> from theory.studies.intrinsic import careful_or_sure
        >>> policy = careful_or_sure().policy
        >>> noise = gradient_noise(power_policy(policy, 2.0), policy)
        >>> round(noise["sum"], 9), round(noise["expected"], 3)
        (0.0, 0.561)

    """
    found = gradient_mean_and_noise(policy, reference, alpha, beta)
    return {name: noise for name, (_, noise) in found.items()}


def gradient_mean_and_noise(
    policy: Policy, reference: Policy, alpha: float = 1.0, beta: float = 1.0
) -> dict[str, tuple[np.ndarray, float]]:
    """Return the expectation ``(n,)`` of each estimator over the `n` logits, and its variance.

    Raises:
        ValueError: see `gradient_noise`.

    Example:
        >>> from theory.studies.intrinsic import careful_or_sure
        >>> policy = careful_or_sure().policy
        >>> means = [mean for mean, _ in gradient_mean_and_noise(policy, policy).values()]
        >>> bool(np.allclose(means, means[0]))  # none has a bias
        True

    """
    alpha = require_positive_number("alpha", alpha)
    beta = require_positive_number("beta", beta)
    require_same_dynamics(policy.dynamics, reference.dynamics)
    if policy.dynamics.n_prompts != 1:
        raise ValueError(
            f"policy has {policy.dynamics.n_prompts} prompts: take one, the sum is over all of its "
            "responses"
        )
    policy = policy.as_tree()
    reference = reference.as_tree()
    responses = all_responses(policy.dynamics)
    weights = np.exp(log_prob(policy, responses))
    states = policy.dynamics.walk(responses.prompts, responses.tokens)
    probs = [np.exp(t) for t in policy.log_probs]
    pays = [
        (alpha + beta) * q - beta * p
        for p, q in zip(policy.log_probs, reference.log_probs, strict=True)
    ]
    pay_means = [(p * k).sum(axis=-1) for p, k in zip(probs, pays, strict=True)]
    values = expected_sums(policy, pays)

    rows = range(len(weights))
    steps = list(enumerate(zip(states, responses.tokens.T, strict=True)))
    drawn = np.stack([pays[h][s, a] for h, (s, a) in steps], axis=-1)
    known = np.stack([pay_means[h][s] for h, (s, _) in steps], axis=-1)
    worth = np.stack([values[h][s] for h, (s, _) in steps], axis=-1)
    to_go = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
    known_after = np.cumsum(known[:, ::-1], axis=1)[:, ::-1] - known
    weight_of_score = {
        "sum": np.broadcast_to(drawn.sum(axis=1, keepdims=True) - values[0], drawn.shape),
        "to go": to_go,
        "to go, next-token baseline": to_go - known,
        "to go, ideal critic": to_go - worth,
        "expected": known_after,
        "expected, ideal critic": known_after - (worth - known),
    }

    def gradients(weight: np.ndarray, *, closed_form: bool) -> np.ndarray:
        """The estimate from every response: ``(N, n)``."""
        parts = []
        for h, (s, a) in steps:
            table = np.zeros((len(weights), *probs[h].shape))
            here = -probs[h][s] * weight[:, h, None]
            here[rows, a] += weight[:, h]
            if closed_form:
                here = here + probs[h][s] * (pays[h][s] - pay_means[h][s][:, None])
            table[rows, s] = here
            parts.append(table.reshape(len(weights), -1))
        return np.concatenate(parts, axis=1)

    found = {}
    for name, weight in weight_of_score.items():
        each = gradients(weight, closed_form=name.startswith("expected"))
        mean = weights @ each
        found[name] = (mean, float(weights @ ((each - mean) ** 2).sum(axis=1)))
    return found
