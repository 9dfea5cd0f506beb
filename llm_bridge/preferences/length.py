"""Fit how much the length of a response alone explains of its wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["LengthFit", "fit_length"]

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class LengthFit:
    """Logistic fit of wins on the length difference; `None` is what the data do not determine.

    Attributes:
        value: accuracy at a length difference of zero.
        low: lower end of its interval.
        high: upper end of its interval.
        log_odds_per_100: change of a win's log-odds for 100 more characters or tokens in the chosen
            response.
        note: why something is `None`.

    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    log_odds_per_100: float | None = None
    note: str = ""


def fit_length(
    wins: Array, difference: Array, weights: Array, units: Array, *, confidence: float
) -> LengthFit:
    """Fit ``P(win) = σ(a + b·difference)`` by maximum likelihood; the value is ``σ(a)``.

    A tie is half a win and half a loss. The interval is normal on the scale of `a`, with the
    sandwich variance, which allows for dependence among the pairs of one unit. If a threshold on
    the length separates wins from losses, the likelihood has no maximum, and there is no value.

    Args:
        wins: ``(n,)`` from 0 to 1.
        difference: ``(n,)`` length of the chosen response minus that of the rejected one.
        weights: ``(n,)``; pairs of weight zero do not count.
        units: ``(n,)`` labels, such as the prompt of each pair.
        confidence: confidence of the interval.

    Raises:
        ValueError: no pair counts, a win is not from 0 to 1, or a difference or a weight is not
            finite.

    Example:
        >>> wins, difference = np.array([1, 1, 0, 1, 0]), np.array([20, 5, 5, -5, -10])
        >>> fit = fit_length(wins, difference, np.ones(5), np.arange(5), confidence=0.95)
        >>> round(fit.value, 3), fit.note
        (0.556, '5 independent prompts: too few for an interval')

    """
    from scipy.optimize import minimize  # a fifth of a second: wrong paths are refused before
    from scipy.special import expit, log_expit, ndtri

    y, x, w = (np.asarray(values, dtype=float) for values in (wins, difference, weights))
    _require("wins", y, (y >= 0) & (y <= 1), "must be from 0 to 1")
    _require("difference", x, np.isfinite(x), "must be finite")
    _require("weights", w, (w >= 0) & (w < np.inf), "must be finite and not negative")
    counts = w > 0
    if not counts.any():
        raise ValueError(
            f"weights: of {len(w)} pairs none counts; give at least one with a positive weight"
        )
    y = y[counts]
    x = x[counts]
    w = w[counts]
    labels = units[counts]
    w = w / w.sum()
    scale = float(np.sqrt(np.mean(x**2)))
    undetermined = _undetermined(y, x, scale)
    if undetermined is not None:
        return undetermined

    z = np.column_stack([np.ones(len(x)), x / scale]) if scale > 0 else np.ones((len(x), 1))

    def loss(theta: Array) -> tuple[float, Array]:
        t = z @ theta
        return -float(w @ (y * log_expit(t) + (1 - y) * log_expit(-t))), z.T @ (w * (expit(t) - y))

    def hessian(theta: Array) -> Any:
        p = expit(z @ theta)
        return np.einsum("n,ni,nj->ij", w * p * (1 - p), z, z)

    start = np.zeros(z.shape[1])
    fit = minimize(
        loss, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-6}
    )
    if not fit.success:
        return LengthFit(note=f"the fit did not converge: {fit.message}")
    # one more Newton step reaches rounding error
    theta = fit.x - np.linalg.solve(hessian(fit.x), loss(fit.x)[1])
    value = float(expit(theta[0]))
    slope = float(100 * theta[1] / scale) if scale > 0 else None
    _, unit = np.unique(labels, return_inverse=True)
    n = int(unit.max()) + 1
    if n < 10:
        note = f"{n} independent prompts: too few for an interval"
        return LengthFit(value, None, None, slope, note)
    score = np.zeros((n, z.shape[1]))
    np.add.at(score, unit, z * (w * (y - expit(z @ theta)))[:, None])
    half_bread = score @ np.linalg.inv(hessian(theta))[:, 0]
    half = float(ndtri(0.5 + confidence / 2) * np.sqrt(half_bread @ half_bread * n / (n - 1)))
    return LengthFit(value, float(expit(theta[0] - half)), float(expit(theta[0] + half)), slope)


def _require(name: str, array: Array, good: Array, what: str) -> None:
    if not good.all():
        raise ValueError(f"{name} hold {array[~good][0]:g}: {what}")


def _undetermined(y: Array, x: Array, scale: float) -> LengthFit | None:
    """Return the result where the likelihood has no unique maximum, else `None`."""
    won = x[y > 0]
    lost = x[y < 1]
    if not len(won) or not len(lost):
        note = f"every pair is {'won' if len(won) else 'lost'}: nothing to fit"
        return LengthFit(float(len(won) > 0), note=note)
    if scale == 0:
        return None
    if np.ptp(x) == 0:
        return LengthFit(note="the length difference is the same for all pairs, and not zero")
    if won.min() >= lost.max() or won.max() <= lost.min():
        side, edge = ("above", lost.max()) if won.min() >= lost.max() else ("below", lost.min())
        return LengthFit(
            note=f"separated: wins where the length difference is {side} {edge:g}, so no maximum"
        )
    return None
