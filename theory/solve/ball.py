"""One row of the log-ratio ball: the distributions within `ε` nats of a given one, and its extreme
points.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    expand,
    like,
    token_major,
)

__all__ = ["caps", "extreme_tilt", "floors"]

SMALL_VOCABULARY = 8
"""Up to this many tokens, comparing each pair of them is faster than sorting."""

LARGE = float(np.finfo(np.float64).max) / 2
"""Stands for an infinite radius where it is added to ``log p``, which may be ``-inf``."""

CERTAIN = 100.0
"""``σ`` of this much more than ``|Δ*|``, against ``σ(Δ*)``, is one or zero as far as doubles can
tell.
"""

LOG_OVERFLOW = 1000.0
"""``e^{−t}`` is zero from here on."""

NEAR = 0.25
"""Up to this ``|t|``, `SERIES` is more precise than the function."""

SERIES = [1.0 / (k * math.factorial(k - 2)) for k in range(2, 17)]
"""Taylor coefficients of ``(t e^t − e^t + 1)/t²``."""


def caps(log_probs: Array, epsilon: Any) -> Array:
    """Largest probability that the ball and normalisation allow, ``up(a) = min(e^ε p_a, 1 −
    e^{−ε}(1 − p_a))``.

    Args:
        log_probs: ``log p``, ``(*batch, n, V)``, nats.
        epsilon: radius, scalar or ``batch``.
    """
    caps_: Array = np.exp(_log_caps(log_probs, _radius(epsilon)))
    return caps_


def floors(log_probs: Array, epsilon: Any) -> Array:
    """Smallest probability that the ball and normalisation allow, ``down(a) = max(e^{−ε} p_a, 1 −
    e^ε(1 − p_a))``.

    Args:
        log_probs: ``log p``, ``(*batch, n, V)``, nats.
        epsilon: radius, scalar or ``batch``.
    """
    floors_: Array = np.exp(_log_floors(log_probs, _radius(epsilon)))
    return floors_


def _radius(epsilon: Any) -> Array | float:
    """`epsilon` as a float or floating-point array, all of it positive; it may be infinite."""
    try:
        array = as_float(epsilon)
    except (TypeError, ValueError):
        raise ValueError(f"epsilon={epsilon!r}: must be a positive number") from None
    bad = ~(array > 0)
    if bool(bad.any()):
        raise ValueError(f"epsilon={float(array[bad][0])}: must be positive")
    return array if array.ndim else float(array)


def _log_caps(log_p: Array, radius: Array | float) -> Array:
    return _caps_and_left_over(log_p, radius)[0]


def _caps_and_left_over(log_p: Array, radius: Array | float) -> tuple[Array, Array]:
    """``log up = log p + min(ε, log(1 + (1 − e^{−ε}) o))``, `o` the odds against a token, and
    ``1 − up = max(1 − e^ε p, e^{−ε}(1 − p))``: ``(*batch, n, V)`` each.
    """
    eps, log_rest, known = expand(radius, 2), _log_rest(log_p), log_p > -np.inf
    by_others = np.logaddexp(0.0, log_rest - np.where(known, log_p, 0.0) + np.log(-np.expm1(-eps)))
    left = np.maximum(1.0 - _capped(log_p, eps), np.exp(log_rest - eps))
    return np.minimum(log_p + np.where(known, np.minimum(eps, by_others), 0.0), 0.0), left


def _log_floors(log_p: Array, radius: Array | float) -> Array:
    """``log down = log p − min(ε, −log(1 − (e^ε − 1) o))``, `o` the odds against a token."""
    eps, known = expand(radius, 2), log_p > -np.inf
    log_odds = _log_rest(log_p) - np.where(known, log_p, 0.0)
    taken = log_odds + np.minimum(eps, LARGE) + np.log(-np.expm1(-eps))
    with np.errstate(divide="ignore"):
        by_others = -np.log1p(-np.exp(np.minimum(taken, 0.0)))
    return log_p - np.where(known, np.minimum(eps, by_others), 0.0)


def _capped(log_p: Array, eps: Array | float) -> Array:
    """``min(e^ε p, 1)``."""
    return np.exp(np.minimum(log_p + np.minimum(eps, LARGE), 0.0))


def _log_rest(log_p: Array) -> Array:
    """``log Σ_{b≠a} p_b`` for each token `a`: of the most probable one from the others, as ``1 −
    p`` would cancel.
    """
    top = np.argmax(log_p, axis=-1)[..., None]
    others = token_major(_without(log_p, top[..., 0]))
    second = np.maximum(others.max(axis=-1, keepdims=True), -LARGE)
    with np.errstate(divide="ignore"):
        rest_of_top = second + np.log(np.exp(others - second).sum(axis=-1, keepdims=True))
    return np.where(np.arange(log_p.shape[-1]) == top, rest_of_top, np.log(1.0 - np.exp(others)))


def _log_normal(p: Array, log_low: Array) -> Array:
    """``log p``, and `log_low` where `p` is too small to be a normal number."""
    xp = array_namespace(p)
    normal = p > xp.finfo(p.dtype).smallest_normal
    if bool(xp.all(normal)):
        return xp.log(p)
    return xp.where(normal, xp.log(xp.where(normal, p, 1.0)), log_low)


def extreme_tilt(log_p: Array, cost: Array, radius: Array | float) -> tuple[Array, Array]:
    """Tilt each row `p` to the row `p̂` of the ball that has the least expected cost, the knapsack
    of `worst_clone`.

    Of what the floors leave, ``1 − e^{−ε}``, a token can take the share ``(1 + e^ε) p``, or all if
    that is more. So ``p̂ = e^{−ε} p + (1 − e^{−ε}) g`` with ``g(a)`` what the tokens before `a`
    leave of its share: nothing overflows.

    Args:
        log_p: the expert's rows, ``(*batch, n, V)``, nats.
        cost: what each token leads to, of the same shape.
        radius: ε, scalar or ``batch``.

    Returns:
        `p̂`, in which what is too small for a double is zero, and ``log p̂``, in which it is ``log
        p − ε``.
    """
    xp = array_namespace(log_p)
    eps = expand(radius, 2)
    eps = like(np.asarray(eps) if isinstance(eps, float) else eps, log_p)
    at_most = xp.clip(
        eps, None, float(xp.finfo(log_p.dtype).max) / 2
    )  # as ε = ∞ and log p = −∞ have no sum
    share = xp.exp(xp.clip(log_p + (at_most + xp.log1p(xp.exp(-eps))), None, 0.0))
    taken = xp.minimum(xp.clip(_left_by_cheaper(share, cost), 0.0, None), share)
    log_floor = log_p - eps
    p_hat = xp.exp(log_floor) - xp.expm1(-eps) * taken
    return p_hat, _log_normal(p_hat, log_floor)


def _left_by_cheaper(share: Array, cost: Array) -> Array:
    """One less the shares of the tokens of lower cost (of equals, of lower index) than each:
    ``(*batch, n, V)``.
    """
    xp = array_namespace(share, cost)
    share, cost = xp.broadcast_arrays(share, cost)
    V = share.shape[-1]
    if V <= SMALL_VOCABULARY:
        left = [xp.ones_like(share[..., 0]) for _ in range(V)]
        for a, b in combinations(range(V), 2):
            a_first = cost[..., a] <= cost[..., b]
            left[b] -= a_first * share[..., a]
            left[a] -= ~a_first * share[..., b]
        return _stack_tokens(left)
    order = xp.argsort(cost, axis=-1, stable=True)
    in_order = xp.take_along_axis(share, order, axis=-1)
    rank = xp.argsort(order, axis=-1)
    return xp.take_along_axis(1.0 + in_order - xp.cumulative_sum(in_order, axis=-1), rank, axis=-1)


def _stack_tokens(columns: list[Array]) -> Array:
    """One array per token as a table, stored token-major."""
    xp = array_namespace(*columns)
    return xp.moveaxis(xp.stack(columns, axis=0), 0, -1)


def _most_divergent_tilt(
    log_p: Array, radius: Array | float, below: Array | float
) -> tuple[Array, Array]:
    """``t = log p̂/p`` of the best vertex of each row ``(*batch, n, V)``, and its objective
    ``(*batch, n)``.
    """
    log_p, eps, below = np.broadcast_arrays(log_p, expand(radius, 2), below)
    V, known = log_p.shape[-1], log_p > -np.inf
    ends = [np.where(known, t, 0.0) for t in (-eps, eps)]
    # Raised to a probability of e, a token leaves the others less than nothing: no vertex, and no
    # overflow
    bounded = [ends[0], np.minimum(ends[1], 1.0 - log_p)]
    growths = [_growth(log_p, t) for t in bounded]
    worths = [_worth(log_p, t, below) for t in bounded]
    best, best_tilt = np.full(log_p.shape[:-1], -np.inf), np.zeros(log_p.shape)
    for free in range(V):
        others = [a for a in range(V) if a != free]
        growth = worth = np.zeros((1, *best.shape))
        for a in (
            others
        ):  # bit k of the number of a vertex is the end at which the k-th of the others is
            growth = np.concatenate([growth + end[..., a] for end in growths])
            worth = np.concatenate([worth + end[..., a] for end in worths])
        tilt, possible = _tilt_of_the_rest(log_p[..., free], growth, eps[..., 0])
        value = np.where(
            possible, worth + _worth(log_p[..., free], tilt, below[..., free]), -np.inf
        )
        vertex = np.argmax(value, axis=0)[None]
        value, tilt = (np.take_along_axis(x, vertex, axis=0)[0] for x in (value, tilt))
        tilts = {
            a: np.where(vertex[0] >> k & 1, ends[1][..., a], ends[0][..., a])
            for k, a in enumerate(others)
        }
        row = _stack_tokens([tilts.get(a, tilt) for a in range(V)])
        best_tilt = np.where((value > best)[..., None], row, best_tilt)
        best = np.maximum(best, value)
    return best_tilt, best


def _growth(log_p: Array, t: Array) -> Array:
    """``p (e^t − 1)``, small where `t` is small, without overflow."""
    return -np.sign(t) * np.exp(log_p + np.maximum(t, 0.0)) * np.expm1(-np.abs(t))


def _worth(log_p: Array, t: Array, below: Array) -> Array:
    """``p (t e^t − e^t + 1)`` without cancellation, and ``p e^t`` times what is below; `t` may be
    ``-inf``.
    """
    p, p_hat, near = np.exp(log_p), np.exp(log_p + t), np.clip(t, -NEAR, NEAR)
    by_series = p * near**2 * np.polynomial.polynomial.polyval(near, SERIES)
    divergence = np.where(near == t, by_series, p_hat * (np.maximum(t, -LOG_OVERFLOW) - 1.0) + p)
    return divergence + p_hat * below


def _tilt_of_the_rest(log_p: Array, growth: Array, eps: Array) -> tuple[Array, Array]:
    """``log p̂/p`` of the token that gives what the others have grown by, and where the ball allows
    it; else zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_part = np.log(np.abs(growth)) - log_p
        tilt = np.where(
            growth < 0, np.logaddexp(0.0, log_part), np.log1p(-np.exp(np.minimum(log_part, 0.0)))
        )
    possible = (
        (log_p > -np.inf) & ((growth <= 0) | (log_part < 0)) & (np.abs(tilt) <= eps * (1 + 1e-12))
    )
    return np.where(possible, np.clip(tilt, -eps, eps), 0.0), possible


def _without(log_p: Array, tokens: Array | int) -> Array:
    """Rows ``(*batch, n, V)`` without one token each, `tokens` a number or ``(*batch, n)``."""
    return np.where(np.arange(log_p.shape[-1]) == np.asarray(tokens)[..., None], -np.inf, log_p)
