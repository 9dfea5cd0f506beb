"""The policy of the log-ratio ball that diverges most from its centre (NumPy only)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays.namespace import Array, expand, token_major
from theory.mdp.policy import Policy
from theory.solve.ball import SMALL_VOCABULARY, require_radius, stack_tokens
from theory.solve.soft import Solution

__all__ = ["worst_kl"]

LOG_OVERFLOW = 1000.0
"""``e^{−t}`` is zero in double precision from here on."""

NEAR = 0.25
"""Up to this ``|t|`` the function is computed by `SERIES`: its formula would cancel."""

SERIES = [1.0 / (k * math.factorial(k - 2)) for k in range(2, 17)]
"""Taylor coefficients of ``(t e^t − e^t + 1)/t²``."""


def worst_kl(expert: Policy, epsilon: Any) -> Solution:
    """Return the policy of the ball with the greatest ``KL(π̂(τ)‖π_E(τ))``, and its divergences:
    exact.

    ``α`` times it is the regularised gap. ``K(s) = max_p̂ Σ_a p̂(a) [log p̂(a)/p(a) + K(s⊕a)]`` is
    convex in the row, so it is attained at a vertex of the row's ball: all tokens but one at
    ``e^{±ε}p``. Which ones is a subset-sum problem, so every vertex is looked at. The divergence of
    a row is summed as ``Σ_a p(a) (t e^t − e^t + 1)``, ``t = log p̂(a)/p(a)``: both rows have sum
    one, and no term is negative. At ``ε = ∞`` the vertices are single tokens, ``K(s) = max_a [−log
    p(a) + K(s⊕a)]``.

    Args:
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Returns:
        The policy and the divergences from each state on, `H` arrays ``(*batch, n_h)``, nats.

    Raises:
        ValueError: `epsilon` is not positive, or there are more than `SMALL_VOCABULARY` tokens.

    Example:
        >>> from theory import TokenMDP
        >>> expert = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[0.2, 0.8]]])
        >>> worst = worst_kl(expert, epsilon=np.log(2))
        >>> np.exp(worst.policy.log_probs[0]).round(6).tolist(), worst.values[0].round(4).tolist()
        ([[0.4, 0.6]], [0.1046])
    """
    V = expert.dynamics.vocab_size
    if V > SMALL_VOCABULARY:
        raise ValueError(
            f"vocab_size={V}: worst_kl looks at V·2^(V-1) vertices a state; at most "
            f"{SMALL_VOCABULARY}"
        )
    radius = require_radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(expert.horizon)):
        log_p = expert.log_probs[h]
        tilt, following = _most_divergent_tilt(
            log_p, radius, expert.dynamics.children(h, following)
        )
        log_probs.append(token_major(np.minimum(log_p + tilt, 0.0)))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def _most_divergent_tilt(
    log_p: Array, radius: Array | float, below: Array | float
) -> tuple[Array, Array]:
    """Best vertex of each row, ``t = log p̂/p`` ``(*batch, n, V)``, its value ``(*batch, n)``."""
    log_p, eps, below = np.broadcast_arrays(log_p, expand(radius, 2), below)
    V = log_p.shape[-1]
    known = log_p > -np.inf
    ends = [np.where(known, t, 0.0) for t in (-eps, eps)]
    # A token is raised to a probability of e at most: above 1 its vertex is refused in any case,
    # and nothing overflows.
    bounded = [ends[0], np.minimum(ends[1], 1.0 - log_p)]
    growths = [_growth(log_p, t) for t in bounded]
    worths = [_worth(log_p, t, below) for t in bounded]
    best = np.full(log_p.shape[:-1], -np.inf)
    best_tilt = np.zeros(log_p.shape)
    for free in range(V):
        others = [a for a in range(V) if a != free]
        growth = worth = np.zeros((1, *best.shape))
        for a in others:  # bit k of a vertex's number: at which end the k-th of the others is
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
        row = stack_tokens([tilts.get(a, tilt) for a in range(V)])
        best_tilt = np.where((value > best)[..., None], row, best_tilt)
        best = np.maximum(best, value)
    return best_tilt, best


def _growth(log_p: Array, t: Array) -> Array:
    """``p (e^t − 1)``, accurate where `t` is small, without overflow."""
    return -np.sign(t) * np.exp(log_p + np.maximum(t, 0.0)) * np.expm1(-np.abs(t))


def _worth(log_p: Array, t: Array, below: Array) -> Array:
    """``p (t e^t − e^t + 1)`` without cancellation, plus ``p e^t·below``; `t` may be ``-inf``."""
    p = np.exp(log_p)
    p_hat = np.exp(log_p + t)
    near = np.clip(t, -NEAR, NEAR)
    by_series = p * near**2 * np.polynomial.polynomial.polyval(near, SERIES)
    divergence = np.where(near == t, by_series, p_hat * (np.maximum(t, -LOG_OVERFLOW) - 1.0) + p)
    return divergence + p_hat * below


def _tilt_of_the_rest(log_p: Array, growth: Array, eps: Array) -> tuple[Array, Array]:
    """``log p̂/p`` of the token that balances the others' growth, and whether the ball has it.

    The tilt is 0 where it has not.
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
