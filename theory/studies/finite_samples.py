"""Maximum likelihood on finite data: how often its guarantee fails, by summing over all data sets.

Of a finite class of policies that contains the expert, `n` demonstrations choose the likeliest,
`π̂`. Then (after Foster, Block and Misra 2024) with probability ``1 − δ``

    Σ_τ (√π_E − √π̂)² ≤ 2 log(|Π|/δ)/n,

and with *clone-variance* ``|V^{π_E} − V^{π̂}|`` is at most the root of that times ``√Σ(√π_E + √π̂)²
(r* − c)²``: a bound without any ``ε``. On a small tree every data set can be listed, so the
probability of failing is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory.arrays.namespace import require_positive_number
from theory.claims import bounds
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import returns

__all__ = ["MAX_DATA_SETS", "FiniteSample", "finite_sample"]

MAX_DATA_SETS = 1_000_000
"""Data sets, as counts of responses, that are listed at most."""


@dataclass(frozen=True)
class FiniteSample:
    """How often maximum likelihood fails its guarantee.

    Attributes:
        radius: ``2 log(|Π|/δ)/n``, which the squared distance should not exceed.
        failure: exact probability that it does; at most `δ`.
        gap_failure: exact probability that the gap in value exceeds its bound; at most `failure`.
        mean_gap: expectation of ``|V^{π_E} − V^{π̂}|``, reward units.
        mean_bound: expectation of the bound of the gap, reward units.

    """

    radius: float
    failure: float
    gap_failure: float
    mean_gap: float
    mean_bound: float


def finite_sample(
    mdp: TokenMDP, expert: Policy, others: Sequence[Policy], n: int, delta: float
) -> FiniteSample:
    """Sum over all data sets of `n` responses of the expert.

    Of equally likely policies the one at the largest distance counts.

    Args:
        mdp: the true reward, with one prompt.
        expert: `π_E`, one of the class.
        others: the other policies of the class, at least one.
        n: responses of the expert that are drawn.
        delta: `δ`, between 0 and 1.

    Raises:
        ValueError: names the argument: there are several prompts, no other policies, or more than
            `MAX_DATA_SETS` data sets; `delta` is not a probability.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> laws = [0.5, 0.5], [0.1, 0.9]
        >>> expert, other = (Policy.from_probs(mdp.dynamics, [[law]]) for law in laws)
        >>> found = finite_sample(mdp, expert, [other], n=20, delta=0.1)
        >>> round(found.radius, 4), found.failure, found.mean_gap < found.mean_bound
        (0.2996, 0.0, True)

    """
    delta = require_positive_number("delta", delta)
    if delta >= 1:
        raise ValueError(f"delta={delta}: must be below 1")
    if mdp.dynamics.n_prompts != 1 or not others:
        raise ValueError(
            f"{mdp.dynamics.n_prompts} prompts and {len(others)} other policies: must be one "
            "prompt and at least one policy"
        )
    responses = all_responses(mdp.dynamics)
    paid = np.asarray(returns(mdp, responses))
    log_laws = np.stack([log_prob(policy, responses) for policy in (expert, *others)])
    counts = _data_sets(log_laws.shape[1], n)

    terms = np.where(counts[:, None] == 0, 0.0, counts[:, None] * np.maximum(log_laws, -1e300))
    likelihoods = terms.sum(axis=-1)
    coefficients = np.array([math.lgamma(n + 1) - sum(map(math.lgamma, c + 1)) for c in counts])
    probability = np.exp(coefficients + likelihoods[:, 0])

    roots = np.exp(log_laws / 2)
    distances = ((roots - roots[0]) ** 2).sum(axis=-1)
    likeliest = likelihoods >= likelihoods.max(axis=1, keepdims=True) - 1e-9
    chosen = np.where(likeliest, distances, -1.0).argmax(axis=1)

    radius = 2 * math.log(len(log_laws) / delta) / n
    gaps = np.abs((roots**2 - roots[0] ** 2) @ paid)
    limits = np.array([_gap_bound(radius, roots[0], root, paid) for root in roots])
    return FiniteSample(
        radius,
        failure=float(probability @ (distances > radius)[chosen]),
        gap_failure=float(probability @ (gaps > limits * (1 + 1e-12))[chosen]),
        mean_gap=float(probability @ gaps[chosen]),
        mean_bound=float(probability @ limits[chosen]),
    )


def _data_sets(outcomes: int, n: int) -> np.ndarray:
    """All counts of `n` draws of `outcomes`, ``(N, outcomes)``: bars between stars."""
    total = math.comb(n + outcomes - 1, outcomes - 1)
    if total > MAX_DATA_SETS:
        raise ValueError(f"n={n}: {total:,} data sets are more than {MAX_DATA_SETS:,}; take fewer")
    bars = np.array(list(itertools.combinations(range(n + outcomes - 1), outcomes - 1)), dtype=int)
    ends = np.pad(bars.reshape(total, -1), ((0, 0), (1, 1)), constant_values=(-1, n + outcomes - 1))
    return np.diff(ends, axis=1) - 1


def _gap_bound(radius: float, one: np.ndarray, two: np.ndarray, paid: np.ndarray) -> float:
    """``√radius · min_c √Σ(√p + √q)²(r − c)²``, from the roots of both laws."""
    weights, means, variances = [], [], []
    for measure in (one**2, two**2, 2 * one * two):
        mass = float(measure.sum())
        mean = float(measure @ paid) / mass if mass else 0.0
        weights.append(mass)
        means.append(mean)
        variances.append(float(measure @ (paid - mean) ** 2) / mass if mass else 0.0)
    return float(bounds.clone_gap_variance(radius, weights, means, variances))
