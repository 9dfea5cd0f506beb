"""Compute confidence intervals of sampled quantities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

__all__ = ["Estimate", "bounded_interval", "mean_interval", "share_interval"]


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes:
        value: the number; NaN if it is unknown or not defined.
        low: lower end of the interval.
        high: upper end of the interval.
        guaranteed: whether the interval has its confidence for any number of samples; else it is
            approximate, and ignores what no sample met.

    """

    value: float
    low: float
    high: float
    guaranteed: bool = False


def mean_interval(parts: Sequence[np.ndarray], confidence: float, low: float = -np.inf) -> Estimate:
    """Estimate a sum of means of independent parts, each averaged over its prompts.

    Student's interval with Welch's degrees of freedom, corrected for the skewness `a` of the
    estimate (Hall 1992): ``t → 3/a·((1 + a(t − a/6))^{1/3} − 1)``. Without the correction, sums of
    rare large numbers are covered too seldom. It is approximate.

    Args:
        parts: ``(P, n)`` numbers each. A value of ±∞ makes the mean ±∞ for certain.
        confidence: confidence of the interval.
        low: least value that the sum can have.

    Example:
        >>> found = mean_interval([np.array([[1.0, 2.0, 3.0, 4.0]])], 0.95)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (2.5, 0.446, 4.554)

    """
    value = sum(float(part.mean()) for part in parts)
    if not math.isfinite(value):
        return Estimate(value, value, value)
    centred = [part - part.mean(axis=1, keepdims=True) for part in parts]
    variances = np.concatenate(  # each number counts 1/(P n), and P n is the size of a part
        [(x**2).sum(axis=1) * x.shape[1] / (x.shape[1] - 1) / x.size**2 for x in centred]
    )
    total = float(variances.sum())
    if total == 0:
        return Estimate(value, value, value)
    freedom = np.concatenate([np.full(len(part), part.shape[1] - 1) for part in parts])
    degrees = total**2 / (variances**2 / freedom).sum()
    skewness = sum(float((x**3).sum()) / x.size**3 for x in centred) / total**1.5
    t = stats.t.ppf([(1 + confidence) / 2, (1 - confidence) / 2], degrees)
    ends = value - np.sqrt(total) * _without_skewness(t, skewness)
    return Estimate(value, max(float(ends[0]), low), float(ends[1]))


def _without_skewness(t: np.ndarray, skewness: float) -> np.ndarray:
    """Return the quantiles of a skewed estimate for those `t` of a symmetric one."""
    if abs(skewness) < 1e-6:
        return t
    return np.asarray(3 / skewness * (np.cbrt(1 + skewness * (t - skewness / 6)) - 1))


def share_interval(events: np.ndarray, confidence: float) -> Estimate:
    """Estimate a share from independent events; guaranteed.

    Clopper and Pearson's interval of the pooled count `k` of `n`. Probabilities differ from prompt
    to prompt, so `k` is not binomial, but its tails are no heavier: beyond `np ± 1`, `p` the
    average of the probabilities, they are at most those of ``Bin(n, p)`` (Hoeffding 1956). The ends
    are that far out for tails of at most a quarter, since a binomial number is at or above its mean
    with a probability of over a quarter, and at or below it too. The one end which is nearer, at `k
    = 1` (or `n − 1`), is missed with at most ``−log(1 − tail)``, and the other end then never is.

    Args:
        events: 0 and 1, of any shape, as many for each prompt; NaN for a share that is not defined.
        confidence: confidence of the interval.

    Example:
        >>> found = share_interval(np.array([0, 0, 1, 0]), 0.95)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (0.25, 0.006, 0.806)

    """
    value = float(events.mean())
    n = events.size
    k = events.sum()
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = min((1 - confidence) / 2, 0.25)
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return Estimate(value, low, high, guaranteed=True)


def bounded_interval(values: np.ndarray, confidence: float) -> Estimate:
    """Estimate the mean of independent numbers from 0 to 1; guaranteed.

    By betting (Waudby-Smith and Ramdas 2024) with constant stakes. If `m` is the mean, ``∏ (1 +
    λ(x_i − m))`` has an expectation of at most 1 for every fixed `λ` in ``[−1/(1−m), 1/m]``:
    expectations ``m_i`` that differ but have the average `m` give ``∏ (1 + λ(m_i − m)) ≤ 1``
    (AM–GM). So has its average over several `λ`, which by Markov's inequality
    exceeds ``1/tail`` with a probability of at most `tail`: such an `m` is not in the interval.

    Args:
        values: numbers of any shape, as many for each prompt; NaN for a mean that is not defined.
        confidence: confidence of the interval.

    Example:
        >>> found = bounded_interval(np.array([0.25, 0.5, 0.75, 0.5]), 0.95)
        >>> found.value, found.low < 0.2, found.high > 0.8, found.guaranteed
        (0.5, True, True, True)

    """
    value = float(values.mean())
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = (1 - confidence) / 2
    numbers, counts = np.unique(values, return_counts=True)
    low = _lower_end(numbers, counts, tail)
    high = 1 - _lower_end(1 - numbers, counts, tail)
    return Estimate(value, min(low, value), max(high, value), guaranteed=True)


def _lower_end(values: np.ndarray, counts: np.ndarray, tail: float) -> float:
    """Return the least mean against which bets on larger numbers win less than `1/tail`.

    The numbers are `values`, each as often as `counts` says.
    """
    mean = values @ counts / counts.sum()
    if mean <= 0:
        return 0.0
    # down to the best stake for n numbers with a variance of 1/4
    n_stakes = 4 + math.ceil(math.log2(counts.sum()) / 2)
    stakes = 0.5 ** np.arange(n_stakes)  # as shares of the largest, 1/m

    def excess(log_mean: float) -> float:
        with np.errstate(divide="ignore"):  # where all is staked and lost
            won = np.log1p(stakes[:, None] * (values / math.exp(log_mean) - 1)) @ counts
        return float(np.logaddexp.reduce(won)) - math.log(n_stakes / tail)

    least = math.log(np.finfo(float).tiny)
    return math.exp(optimize.brentq(excess, least, math.log(mean))) if excess(least) > 0 else 0.0
