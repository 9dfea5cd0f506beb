"""Bootstrap intervals of weighted means, and what they miss: values that are all equal."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from theory.arrays.namespace import require_positive

__all__ = ["bootstrap", "equal_units_interval", "mean_intervals"]

Array: TypeAlias = NDArray[Any]

EQUAL = 1e-12
"""Means of units that differ by less are equal: they were only added in another order."""


def bootstrap(
    values: Array,
    weights: Array,
    strata: Array,
    units: Array,
    *,
    resamples: int,
    seed: int,
) -> Array:
    """Compute weighted means of columns on resampled rows: ``(resamples, k)``.

    Args:
        values: ``(n, k)`` columns of finite numbers.
        weights: ``(n,)`` positive and finite.
        strata: ``(n,)`` labels; units are resampled within their stratum.
        units: ``(n,)`` labels; rows of one unit (a prompt with several comparisons) are resampled
            together.
        resamples: number of resamples.
        seed: seed of the resampling.

    Raises:
        ValueError: there is no row, a value is not finite, or a weight not positive and finite:
            some resample would have a mean of nothing.

    Example:
        >>> values, one = np.array([[0.0], [1.0]]), np.ones(2)
        >>> means = bootstrap(values, one, one, np.arange(2), resamples=1000, seed=0)
        >>> means.shape, sorted(set(means[:, 0].tolist()))
        ((1000, 1), [0.0, 0.5, 1.0])

    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"values of shape {values.shape}: must be at least one row, all of it finite"
        )
    require_positive("weights", weights)
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: must be at least 1")
    rng = np.random.default_rng(seed)
    stratum, unit = _units(strata, units)
    sums = np.zeros((len(stratum), values.shape[1] + 1))
    np.add.at(sums, unit, weights[:, None] * np.column_stack([values, np.ones(len(values))]))
    totals = np.zeros((resamples, sums.shape[1]))
    for s in range(stratum.max() + 1):
        block = sums[stratum == s]
        size = len(block)
        step = max(1, 4_000_000 // size)  # resamples at a time, to bound memory
        for start in range(0, resamples, step):
            m = min(step, resamples - start)
            sampled = rng.integers(size, size=(m, size)) + size * np.arange(m)[:, None]
            counts = np.bincount(sampled.ravel(), minlength=m * size).reshape(m, size)
            totals[start : start + m] += counts @ block
    return np.asarray(totals[:, :-1] / totals[:, -1:])


def _units(strata: Array, units: Array) -> tuple[Array, Array]:
    """Return the stratum of each unit, and the unit of each row; numbers from 0 on."""
    labels = [np.unique(labels, return_inverse=True)[1] for labels in (strata, units)]
    keys, unit = np.unique(np.column_stack(labels), axis=0, return_inverse=True)
    return keys[:, 0], unit.ravel()


def equal_units_interval(
    values: Array, weights: Array, strata: Array, units: Array, tail: float
) -> Array | None:
    """Bound a mean of numbers in [0, 1] whose units are all equal, where a bootstrap has no width.

    If all of `n` independent units with mean `μ` are `c` or more, that had a probability of at most
    ``(μ/c)^n`` (Markov), so ``μ ≥ c·tail^{1/n}``, and of ``1 − c`` likewise. For right and wrong
    these are the binomial bounds. Strata with different values share the tail.

    Args:
        values: ``(n,)`` numbers.
        weights: ``(n,)`` positive.
        strata: ``(n,)`` labels.
        units: ``(n,)`` labels.
        tail: probability that the interval may miss the mean on either side.

    Returns:
        Low and high end; `None` if units of a stratum differ.

    Example:
        >>> one = np.ones(10)
        >>> equal_units_interval(one, one, one, np.arange(10), tail=0.025).round(3)
        array([0.692, 1.   ])

    """
    stratum, unit = _units(strata, units)
    total = np.bincount(unit, weights)
    means = np.bincount(unit, weights * values) / total
    group = stratum if np.ptp(means) > EQUAL else np.zeros_like(stratum)
    if any(np.ptp(means[group == g]) > EQUAL for g in range(group.max() + 1)):
        return None
    sizes = np.bincount(group)
    share = np.bincount(group, total) / total.sum()
    of_group = np.bincount(group, means) / sizes
    doubt = (tail / len(sizes)) ** (1 / sizes)
    return np.array([share @ (of_group * doubt), 1 - share @ ((1 - of_group) * doubt)])


def mean_intervals(
    values: Array,
    weights: Array,
    strata: Array,
    units: Array,
    *,
    resamples: int,
    seed: int,
    confidence: float,
    lowest: float | None = 0.0,
) -> list[dict[str, float]]:
    """Compute ``value``, ``low`` and ``high`` of the weighted mean of each column: percentiles.

    Args:
        values: ``(n, k)`` columns of numbers from `lowest` to 1, or of any finite ones.
        weights: ``(n,)`` positive and finite.
        strata: ``(n,)`` labels, see `bootstrap`.
        units: ``(n,)`` labels, see `bootstrap`.
        resamples: number of resamples.
        seed: seed of the resampling.
        confidence: confidence of each interval.
        lowest: `None` where the numbers have no bounds: an interval of equal ones has no width.

    Example:
        >>> one = np.ones(10)
        >>> how = {"resamples": 100, "seed": 0, "confidence": 0.95}
        >>> (found,) = mean_intervals(one[:, None], one, one, np.arange(10), **how)
        >>> found["value"], round(found["low"], 3), found["high"]
        (1.0, 0.692, 1.0)

    """
    tail = (1 - confidence) / 2
    means = bootstrap(values, weights, strata, units, resamples=resamples, seed=seed)
    value = np.average(values, axis=0, weights=weights)
    ends = np.quantile(means, [tail, 1 - tail], axis=0)
    for k, column in enumerate(values.T):
        if lowest is None:
            break
        # if all units are equal, so are all resamples, and show no width
        span = 1 - lowest
        found = equal_units_interval((column - lowest) / span, weights, strata, units, tail)
        if found is not None:
            ends[:, k] = lowest + span * found
    return [
        {"value": v, "low": a, "high": b}
        for v, a, b in zip(value.tolist(), *ends.tolist(), strict=True)
    ]
