"""Confidence intervals of sampled quantities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    pass

__all__ = ["Estimate"]


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes:
        value: NaN where it is unknown or not defined.
        low: lower end.
        high: upper end.
        guaranteed: whether the interval holds with its confidence for any number of draws; else it
            is approximate, and knows nothing of what no draw met.

    """

    value: float
    low: float
    high: float
    guaranteed: bool = False


def _interval(parts: Sequence[np.ndarray], confidence: float, low: float = -np.inf) -> Estimate:
    """Estimate the sum of the means of independent parts ``(P, n)``, each averaged over its
    prompts.

    Student's interval with Welch's degrees of freedom, corrected for the skewness `a` of the
    estimate (Hall 1992): ``t → 3/a·((1 + a(t − a/6))^{1/3} − 1)``. Without, sums of rare large
    numbers are covered too seldom.

    A state that was passed and adds ±∞ makes the mean ±∞ for certain.
    """
    value = sum(float(part.mean()) for part in parts)
    if not math.isfinite(value):
        return Estimate(value, value, value)
    centred = [part - part.mean(axis=1, keepdims=True) for part in parts]
    scale = [part.size for part in parts]  # each number counts 1/(P n)
    variances = np.concatenate(
        [
            (x**2).sum(axis=1) * x.shape[1] / (x.shape[1] - 1) / k**2
            for x, k in zip(centred, scale, strict=True)
        ]
    )
    total = float(variances.sum())
    if total == 0:
        return Estimate(value, value, value)
    freedom = np.concatenate([np.full(len(part), part.shape[1] - 1) for part in parts])
    degrees = total**2 / (variances**2 / freedom).sum()
    skewness = (
        sum(float((x**3).sum()) / k**3 for x, k in zip(centred, scale, strict=True)) / total**1.5
    )
    t = stats.t.ppf([(1 + confidence) / 2, (1 - confidence) / 2], degrees)
    ends = value - np.sqrt(total) * _without_skewness(t, skewness)
    return Estimate(value, max(float(ends[0]), low), float(ends[1]))


def _without_skewness(t: np.ndarray, skewness: float) -> np.ndarray:
    """Quantiles of the studentised estimate for those of a symmetric one."""
    if abs(skewness) < 1e-6:
        return t
    return np.asarray(3 / skewness * (np.cbrt(1 + skewness * (t - skewness / 6)) - 1))


def _share(events: np.ndarray, confidence: float) -> Estimate:
    """Estimate a share from independent events, as many for each prompt: an array of 0 and 1, of
    any shape.

    Clopper and Pearson's interval of the pooled count `k` of `n`. Probabilities differ from prompt
    to prompt, so `k` is not binomial, but its tails are no heavier: beyond `np ± 1`, `p` the
    average of the probabilities, they are at most those of ``Bin(n, p)`` (Hoeffding 1956). The ends
    are that far out for tails of at most a quarter, since a binomial number is at or above its mean
    with a probability of over a quarter, and at or below it too. The one end which is nearer, at `k
    = 1` (or `n − 1`), is missed with at most ``−log(1 − tail)``, and the other end then never is.
    """
    value, n, k = float(events.mean()), events.size, events.sum()
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = min((1 - confidence) / 2, 0.25)
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return Estimate(value, low, high, guaranteed=True)


def _bounded(values: np.ndarray, confidence: float) -> Estimate:
    """Estimate the mean of independent numbers from 0 to 1, as many for each prompt: an array of
    any shape.

    By betting (Waudby-Smith and Ramdas 2024) with constant stakes: if `m` is the mean, ``∏ (1 +
    λ(x_i − m))`` has an expectation of at most 1 for every fixed `λ` in ``[−1/(1−m), 1/m]``, as
    expectations ``m_i`` that differ but have the average `m` give ``∏ (1 + λ(m_i − m)) ≤ 1`` (means
    of logarithms). So has its average over several `λ`, and by Markov's inequality it exceeds
    ``1/tail`` with a probability of at most `tail`: such an `m` is not in the interval.
    """
    value = float(values.mean())
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = (1 - confidence) / 2
    numbers, counts = np.unique(values, return_counts=True)
    low, high = _lower_end(numbers, counts, tail), 1 - _lower_end(1 - numbers, counts, tail)
    return Estimate(value, min(low, value), max(high, value), guaranteed=True)


def _lower_end(values: np.ndarray, counts: np.ndarray, tail: float) -> float:
    """The least mean against which bets on larger numbers, which are `values` so many times, win
    less than `1/tail`.
    """
    mean = values @ counts / counts.sum()
    if mean <= 0:
        return 0.0
    n_stakes = 4 + math.ceil(
        math.log2(counts.sum()) / 2
    )  # down to the best for n numbers with a variance of 1/4
    stakes = 0.5 ** np.arange(n_stakes)  # as shares of the largest, 1/m

    def excess(log_mean: float) -> float:
        with np.errstate(divide="ignore"):  # all is staked and lost
            won = np.log1p(stakes[:, None] * (values / math.exp(log_mean) - 1)) @ counts
        return float(np.logaddexp.reduce(won)) - math.log(n_stakes / tail)

    least = math.log(np.finfo(float).tiny)
    return math.exp(optimize.brentq(excess, least, math.log(mean))) if excess(least) > 0 else 0.0
