"""Points of one picture: a number as it is predicted, as it was measured, and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from theory.commands import shared
from theory.commands.options import Options, option

__all__ = [
    "Deviation",
    "Point",
    "PointUnit",
    "Sampling",
    "chance",
    "deviations",
    "exact_point",
    "importance_mean",
    "interval_point",
    "mean_point",
    "off_the_diagonal",
    "share_point",
]

PointUnit: TypeAlias = Literal["reward", "probability", "value"]
"""Unit of a point: reward of a model, probability, or what a response is worth (reward units)."""

ROUNDING = 2e-5
"""Relative error of what is measured in float32 without sampling; absolute where it is below 1."""

FALSE_ALARM = 1e-4
"""Probability that chance takes a sampled point farther from the diagonal than its tolerance."""


@dataclass(frozen=True)
class Sampling(Options):
    """Say how much is sampled, from which seed, and how sure the intervals are."""

    draws: int = option(64, help="responses sampled to each prompt", low=2)
    pairs: int = option(
        64, help="pairs of responses sampled for each prompt", low=2, flag="pairs-per-prompt"
    )
    seed: int = shared.seed(help="of everything that is sampled")
    confidence: float = shared.confidence()


class Point(NamedTuple):
    """A quantity as it is predicted and as it was measured.

    Attributes:
        quantity: its name, such as ``"value of greedy decoding"``.
        label: prompt, response and token, where there are many.
        predicted: from tables, exact.
        measured: from the model.
        low: lower end of the measured number's confidence interval, or of its rounding where
            nothing was sampled.
        high: upper end.
        unit: ``"reward"`` (of tokens and responses), ``"probability"`` or ``"value"`` (reward
            units).
        tolerance: distance from the diagonal that rounding or chance can explain, see `chance`.

    """

    quantity: str
    label: str
    predicted: float
    measured: float
    low: float
    high: float
    unit: PointUnit
    tolerance: float = 0.0

    @property
    def deviation(self) -> float:
        """Return the distance from the diagonal over that side of the interval, at most 1 inside.

        >>> Point("x", "", predicted=3.0, measured=2.0, low=0.0, high=4.0, unit="value").deviation
        0.5
        """
        gap = self.predicted - self.measured
        side = self.high - self.measured if gap > 0 else self.measured - self.low
        return abs(gap) / side if side > 0 else 0.0 if gap == 0 else float("inf")


class Deviation(NamedTuple):
    """How far the points of one quantity are from the diagonal.

    Attributes:
        points: how many there are.
        share: share of them whose interval holds the prediction.
        largest: largest `Point.deviation`.
        gap: largest ``|predicted − measured|``, in the unit of the points.

    """

    points: int
    share: float
    largest: float
    gap: float


def deviations(points: Sequence[Point]) -> dict[str, Deviation]:
    """Return the deviations by quantity, in the order of the points.

    With 95 % intervals one sampled point in twenty is off the diagonal by a little; see
    `off_the_diagonal`.

    Example:
        >>> deviations([Point("x", "", 3.0, 2.0, 0.0, 4.0, "value")])
        {'x': Deviation(points=1, share=1.0, largest=0.5, gap=1.0)}

    """
    found = {}
    for quantity in dict.fromkeys(point.quantity for point in points):
        some = [point for point in points if point.quantity == quantity]
        off = np.array([point.deviation for point in some])
        gaps = np.abs([point.predicted - point.measured for point in some])
        largest_gap = float(gaps.max())  # NaN, where one of them is
        found[quantity] = Deviation(
            len(some), float((off <= 1).mean()), float(off.max()), largest_gap
        )
    return found


def off_the_diagonal(points: Sequence[Point]) -> list[Point]:
    """Return the points whose distance from the diagonal neither rounding nor chance explains.

    An interval of 95 % leaves one sampled point in twenty out; a tolerance one in 10,000.

    Example:
        >>> near = Point("x", "", 1.2, 0.0, -1.0, 1.0, "value", tolerance=2.0)
        >>> off_the_diagonal([near, near._replace(predicted=2.1)]) == [near._replace(predicted=2.1)]
        True

    """
    return [p for p in points if not abs(p.predicted - p.measured) <= p.tolerance]


def chance(
    mean: float, bounds: tuple[float, float], n: float, variance: float | None = None
) -> float:
    """Return how far the mean of `n` independent numbers may be from its expectation `mean`.

    Bernstein's inequality: with ``L = log(2/FALSE_ALARM)``, variance `v` and width `w` of bounds
    ``√(2 v L/n) + w L/(3 n)`` is exceeded with probability `FALSE_ALARM` at most. Unlike a normal
    interval it does not shrink to nothing where all samples agree and rare ones were missed.

    Args:
        mean: where the prediction is right.
        bounds: of a number.
        n: how many.
        variance: of one number, averaged over the `n`; by default the largest of any numbers
            within the bounds that have this mean.

    Example:
        >>> round(chance(0.5, (0.0, 1.0), n=1000), 3)
        0.074

    """
    low, high = bounds
    if variance is None:
        variance = max(0.0, (mean - low) * (high - mean))
    log = np.log(2 / FALSE_ALARM)
    return float(np.sqrt(2 * variance * log / n) + (high - low) * log / (3 * n))


def normal_quantile(confidence: float) -> float:
    """Return the half-width, in standard errors, of a two-sided normal interval.

    Example:
        >>> round(normal_quantile(0.95), 4)
        1.96

    """
    return -NormalDist().inv_cdf((1 - confidence) / 2)  # a tail is exact, however small


def exact_point(
    quantity: str, label: str, predicted: float, measured: float, unit: PointUnit
) -> Point:
    """Make a point of a number that is not random, with the interval of its rounding.

    Example:
        >>> round(exact_point("reward of a token", "", 1.0, 1.00001, "reward").deviation, 3)
        0.5

    """
    half = ROUNDING * max(1.0, abs(measured))
    low = measured - half
    high = measured + half
    return Point(quantity, label, float(predicted), measured, low, high, unit, tolerance=half)


def interval_point(
    name: tuple[str, str],
    predicted: float,
    measured: float,
    error: float,
    unit: PointUnit,
    confidence: float,
    tolerance: float,
) -> Point:
    """Make a point with the normal interval of a standard error; `name` is quantity and label.

    Example:
        >>> name = "value of sampling", ""
        >>> point = interval_point(name, 1.0, 0.9, 0.1, "value", confidence=0.95, tolerance=0.4)
        >>> round(point.low, 3), round(point.high, 3)
        (0.704, 1.096)

    """
    half = normal_quantile(confidence) * error
    low = measured - half
    high = measured + half
    return Point(*name, float(predicted), measured, low, high, unit, tolerance)


def mean_point(
    name: tuple[str, str],
    predicted: float,
    values: np.ndarray,
    unit: PointUnit,
    confidence: float,
    tolerance: float,
) -> Point:
    """Make a point of the mean of values ``(P, N)``, stratified by prompt.

    Example:
        >>> values = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
        >>> name = "value of sampling", ""
        >>> point = mean_point(name, 0.8, values, "value", confidence=0.95, tolerance=1.0)
        >>> point.measured, round(point.low, 3), round(point.high, 3)
        (0.75, 0.467, 1.033)

    """
    error = np.sqrt((values.var(axis=1, ddof=1) / values.shape[1]).mean() / len(values))
    mean = float(values.mean())
    return interval_point(name, predicted, mean, float(error), unit, confidence, tolerance)


def share_point(
    name: tuple[str, str], predicted: float, values: np.ndarray, confidence: float
) -> Point:
    """Make a point of the mean of values in [0, 1], with Wilson's interval.

    It is wide enough for strata: no sample in one varies more than a coin of the overall mean.

    Example:
        >>> point = share_point(("preference agreement", ""), 0.9, np.ones(10), 0.95)
        >>> point.measured, round(point.low, 3), point.high
        (1.0, 0.722, 1.0)

    """
    normal = normal_quantile(confidence)
    share = float(values.mean())
    n = values.size
    scale = 1 + normal**2 / n
    middle = (share + normal**2 / (2 * n)) / scale
    half = normal / scale * float(np.sqrt(share * (1 - share) / n + normal**2 / (4 * n**2)))
    low = min(middle - half, share)
    high = max(middle + half, share)
    tolerance = chance(predicted, (0.0, 1.0), n)
    return Point(*name, float(predicted), share, low, high, "probability", tolerance)


def importance_mean(values: np.ndarray, log_weights: np.ndarray) -> tuple[float, float, float]:
    """Estimate the weighted mean ``Σ w x / Σ w`` of each row of ``(P, N)``, averaged over rows.

    With ``R`` the ratio, ``w̄`` the mean weight and residuals ``e_i = w_i (x_i − R)``: variance ``Σ
    e_i²/(N−1)/(N w̄²)`` and bias ``−Σ e_i w_i/(N−1)/(N w̄²)``, by Taylor's expansion (Tin 1965).

    Returns:
        The estimate less its bias to first order; its standard error; and how many equal weights
        would estimate as well: Kish's ``n = (Σ w)²/Σ w²`` of each row, ``P² / Σ_p 1/n_p`` together.

    Example:
        >>> importance_mean(np.array([[1.0, 2.0, 3.0, 2.0]]), np.zeros((1, 4)))[2]
        4.0

    """
    N = values.shape[1]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    mean = weights.mean(axis=1)
    ratio = (weights * values).mean(axis=1) / mean
    residuals = weights * (values - ratio[:, None])
    bias = -(residuals * weights).sum(axis=1) / (N - 1) / (N * mean**2)
    variance = (residuals**2).sum(axis=1) / (N - 1) / (N * mean**2)
    error = np.sqrt(variance.mean() / len(values))
    each = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    return float((ratio - bias).mean()), float(error), float(len(each) ** 2 / (1 / each).sum())
