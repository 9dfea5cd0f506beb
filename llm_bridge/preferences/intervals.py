"""Bootstrap intervals of weighted means, and what they miss: values that are all equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from theory.arrays.namespace import require_positive

__all__ = ["bootstrap", "equal_units_interval"]

Array: TypeAlias = NDArray[Any]
Labels: TypeAlias = Sequence[Any] | Array | None

EQUAL = 1e-12
"""Means of units that differ by less are equal: they were only added in another order."""


def bootstrap(
    values: Array,
    weights: Array,
    strata: Labels = None,
    units: Labels = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """Compute weighted means of columns on resampled rows: ``(resamples, k)``.

    Args:
        values: ``(n, k)`` columns of finite numbers.
        weights: ``(n,)`` positive and finite.
        strata: ``(n,)`` labels; units are resampled within their stratum. One by default.
        units: ``(n,)`` labels; rows of one unit (a prompt with several comparisons) are resampled
            together. Each row its own by default.
        resamples: number of resamples.
        seed: seed of the resampling.

    Raises:
        ValueError: there is no row, a value is not finite, or a weight not positive and finite:
            some resample would have a mean of nothing.

    Example:
        >>> means = bootstrap(np.array([[0.0], [1.0]]), np.ones(2), resamples=1000)
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
    n = len(values)
    names, stratum = np.unique([""] * n if strata is None else strata, return_inverse=True)
    unit = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
    pairs, row_unit = np.unique(np.column_stack([stratum, unit]), axis=0, return_inverse=True)
    sums = np.zeros((len(pairs), values.shape[1] + 1))
    np.add.at(sums, row_unit.ravel(), weights[:, None] * np.column_stack([values, np.ones(n)]))
    totals = np.zeros((resamples, sums.shape[1]))
    for s in range(len(names)):
        block = sums[pairs[:, 0] == s]
        size = len(block)
        step = max(1, 4_000_000 // size)  # resamples at a time, to bound memory
        for start in range(0, resamples, step):
            m = min(step, resamples - start)
            sampled = rng.integers(size, size=(m, size)) + size * np.arange(m)[:, None]
            counts = np.bincount(sampled.ravel(), minlength=m * size).reshape(m, size)
            totals[start : start + m] += counts @ block
    return np.asarray(totals[:, :-1] / totals[:, -1:])


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
    stratum = np.unique(strata, return_inverse=True)[1]
    unit = np.unique(units, return_inverse=True)[1]
    keys, row = np.unique(np.column_stack([stratum, unit]), axis=0, return_inverse=True)
    total = np.bincount(row.ravel(), weights)
    means = np.bincount(row.ravel(), weights * values) / total
    group = keys[:, 0] if np.ptp(means) > EQUAL else np.zeros(len(keys), dtype=int)
    if any(np.ptp(means[group == g]) > EQUAL for g in range(group.max() + 1)):
        return None
    sizes = np.bincount(group)
    share = np.bincount(group, total) / total.sum()
    of_group = np.bincount(group, means) / sizes
    doubt = (tail / len(sizes)) ** (1 / sizes)
    return np.array([share @ (of_group * doubt), 1 - share @ ((1 - of_group) * doubt)])
