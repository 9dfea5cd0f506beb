"""The policy of the log-ratio ball that diverges most from its centre (NumPy only)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from theory.arrays.kernels import (
    LEAST_EXPONENT,
    blocks,
    column_scalars,
    columns,
    empty_table,
    part,
    states_per_block,
    sum_tokens,
    written_columns,
)
from theory.arrays.namespace import Array, expand, token_major
from theory.mdp.policy import Policy
from theory.solve.ball import SMALL_VOCABULARY, is_small_ball, require_radius, stack_tokens
from theory.solve.soft import Solution

__all__ = ["worst_kl"]

SHORT = 0.03
"""Up to this radius a row's divergence is summed by a series: its formula would cancel."""

LONG = 5.0
"""From this radius on ``log(1 + u)`` of a lowered token would lose digits."""

NEARLY_SURE = math.log1p(-1e-3)
"""Where a token is likelier than this, corners are not told apart by what they sum to: it hides the
others' masses. All vertices are compared then."""

FORBIDDING = {np.float64: 1e200, np.float32: 1e25}
"""Makes any violation worse than any gain, and does not overflow."""

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
        children = expert.dynamics.children(h, following)
        tables = columns(log_p, children)
        if tables is not None and is_small_ball(log_p, radius) and _is_one_formula(radius):
            rows = empty_table(log_p)
            p, below = tables
            eps = column_scalars(radius, log_p)
            following = _divergent_backup(p, below, eps, written_columns(rows))
            following = following.reshape(log_p.shape[:-1])
        else:
            tilt, following = _most_divergent_tilt(log_p, radius, children)
            rows = token_major(np.minimum(log_p + tilt, 0.0))
        log_probs.append(rows)
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def _is_one_formula(radius: Array | float) -> bool:
    """Whether `_relative_divergence` takes one formula for all radii, and it is accurate."""
    largest = float(np.max(radius))
    return largest <= LONG and (largest <= SHORT or float(np.min(radius)) > SHORT)


def _divergent_backup(
    log_p: np.ndarray, below: np.ndarray | None, eps: Any, log_p_hat: np.ndarray
) -> np.ndarray:
    """`_most_divergent_tilt` of columns ``(V, N)`` in blocks that fit the cache.

    A vertex lies on an edge of the cube of all ends: from a corner `S` (the set of raised tokens)
    whose growth ``Σ_a p̂ − p`` is not positive to ``S ∪ {b}``, whose growth is not negative; `b` is
    the free token. An edge that does not cross is charged for what it lacks, times `FORBIDDING`.
    Blocks with a token that is never chosen go through `_most_divergent_tilt`.
    """
    V, n = log_p.shape
    value = np.empty(n, dtype=log_p.dtype)
    corners = 2**V
    vertices = V * corners // 2
    size = min(n, states_per_block(corners))
    corner, over, short = (np.empty((corners, size), dtype=log_p.dtype) for _ in range(3))
    growth, worth, part_sum = (np.empty((corners // 2, size), dtype=log_p.dtype) for _ in range(3))
    worths, grown = (np.empty((vertices, size), dtype=log_p.dtype) for _ in range(2))
    raised, lowered, is_free = _vertex_ends(V, log_p.dtype)
    low = LEAST_EXPONENT[log_p.dtype.type] + 2 * float(np.max(eps))
    per_unit = [np.expm1(side * eps) for side in (-1, 1)]
    at_ends = [_relative_divergence(np.atleast_1d(c), eps) for c in per_unit]
    of_row = [float(f[0]) if isinstance(eps, float) else f for f in at_ends]
    charge = FORBIDDING[log_p.dtype.type]
    for block in blocks(corners, n):
        out = value[block]
        k = len(out)
        rows = log_p[:, block]
        reach = part(eps, block)
        child = None if below is None else below[:, block]
        if not rows.min() > low:
            beyond = 0.0 if child is None else child.T[:, None]
            tilt, best = _most_divergent_tilt(rows.T[:, None], reach, beyond)
            np.copyto(log_p_hat[:, block], np.minimum(rows + tilt[:, 0].T, 0.0))
            out[:] = best[:, 0]
            continue
        p = np.exp(rows)
        moved = [p * part(c, block) for c in per_unit]
        gain = [p * part(f, block) for f in of_row]
        if child is not None:
            gain = [g + (p + m) * child for g, m in zip(gain, moved, strict=True)]
        _corner_sums(range(V), moved, corner[:, :k])
        if child is None and rows.max() < NEARLY_SURE:
            found = _closest_corners(p, corner[:, :k], [part(c, block) for c in per_unit], eps)
            chosen = [np.take(x, found, axis=1) for x in (raised, lowered, is_free)]
            grows = chosen[0] * moved[1] + chosen[1] * moved[0]
            gains = chosen[0] * gain[1] + chosen[1] * gain[0]
            free = sum_tokens(chosen[2] * p, np.empty_like(out))
            u = -sum_tokens(grows, np.empty_like(out)) / free
            u = np.clip(u, part(per_unit[0], block), part(per_unit[1], block))
            np.multiply(_relative_divergence(u, eps), free, out=free)
            np.add(sum_tokens(gains, out), free, out=out)
            np.add(rows, (chosen[0] - chosen[1]) * reach, out=grows)
            np.add(grows, chosen[2] * np.clip(np.log1p(u), -reach, reach), out=grows)
            np.minimum(grows, 0.0, out=log_p_hat[:, block])
            continue
        np.multiply(corner[:, :k], charge, out=corner[:, :k])
        np.maximum(corner[:, :k], 0.0, out=over[:, :k])
        np.subtract(over[:, :k], corner[:, :k], out=short[:, :k])
        ratio = -1.0 / p
        for b in range(V):
            others = [a for a in range(V) if a != b]
            vertex = slice(b * corners // 2, (b + 1) * corners // 2)
            u = grown[vertex, :k]
            found = worths[vertex, :k]
            scratch = part_sum[:, :k]
            _corner_sums(others, moved, growth[:, :k])
            np.multiply(growth[:, :k], ratio[b], out=u)
            np.minimum(u, part(per_unit[1], block), out=u)
            np.maximum(u, part(per_unit[0], block), out=u)
            _relative_divergence(u, eps, out=found, scratch=scratch)
            if child is not None:
                np.multiply(np.add(u, 1.0, out=scratch), child[b], out=scratch)
                np.add(found, scratch, out=found)
            np.multiply(found, p[b], out=found)
            np.add(found, _corner_sums(others, gain, worth[:, :k]), out=found)
            by_edge = (-1, 2, 2**b, k)
            edges = found.reshape(by_edge[0], by_edge[2], k)
            np.subtract(edges, over[:, :k].reshape(by_edge)[:, 0], out=edges)
            np.subtract(edges, short[:, :k].reshape(by_edge)[:, 1], out=edges)
        np.maximum.reduce(worths[:, :k], axis=0, out=out)
        best_vertex = _set_row(np.equal(worths[:, :k], out))
        u = np.take_along_axis(grown[:, :k], best_vertex[None], axis=0)[0]
        free_tilt = np.clip(np.log1p(u), -reach, reach)
        for a in range(V):
            end = np.take(raised[a] - lowered[a], best_vertex)
            row = np.add(rows[a], end * reach, out=log_p_hat[a, block])
            row += np.take(is_free[a], best_vertex) * free_tilt
        np.minimum(log_p_hat[:, block], 0.0, out=log_p_hat[:, block])
    return value


def _corner_sums(tokens: Iterable[int], ends: list[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Sum one of two numbers of each token, for every choice: bit `k` of a row's index chooses for
    the `k`-th token.
    """
    out[0] = 0.0
    for k, a in enumerate(tokens):
        n = 2**k
        np.add(out[:n], ends[1][a], out=out[n : 2 * n])
        np.add(out[:n], ends[0][a], out=out[:n])
    return out


def _closest_corners(
    p: np.ndarray, corner: np.ndarray, per_unit: list[Any], eps: Any
) -> np.ndarray:
    """Return the best vertex of each row where nothing comes after it: ``(k,)``.

    On the row's plane the chords of the divergence, from one end of each token to its other one,
    sum to the same number everywhere. A vertex lacks what the free token's divergence is below its
    chord, and that gap is concave: of all vertices with one free token, one of the two at which it
    is nearest to an end is best. These are at the corner nearest to the plane on either side.

    Args:
        p: the expert's rows, ``(V, k)``.
        corner: what each corner's masses sum to, less one: ``(2^V, k)``, bit `a` raises token `a`.
        per_unit: ``e^{−ε} − 1`` and ``e^ε − 1``, numbers or ``(k,)``.
        eps: the radius.
    """
    V, k = p.shape
    low, high = per_unit
    bits = np.dtype(f"u{p.dtype.itemsize}")
    distance = np.empty((2, V, k), dtype=p.dtype)
    # Bits of numbers order as the numbers do, those with a minus after all others.
    above = corner.view(bits)
    below = np.negative(corner).view(bits)
    for b in range(V):
        sets = (-1, 2, 2**b, k)
        np.minimum.reduce(above.reshape(sets)[:, 1], axis=(0, 1), out=distance[0, b].view(bits))
        np.minimum.reduce(below.reshape(sets)[:, 0], axis=(0, 1), out=distance[1, b].view(bits))
    u = distance / p
    np.subtract(high, u[0], out=u[0])
    np.add(low, u[1], out=u[1])
    inside = np.clip(u, low, high)
    beyond = np.abs(np.subtract(u, inside, out=u), out=u)
    np.multiply(np.multiply(beyond, p, out=beyond), FORBIDDING[p.dtype.type], out=beyond)
    at_low, at_high = (_relative_divergence(np.atleast_1d(c), eps) for c in per_unit)
    gap = (inside - low) * ((at_high - at_low) / (high - low)) + at_low
    np.subtract(gap, _relative_divergence(inside, eps), out=gap)
    np.add(np.multiply(gap, p, out=gap), beyond, out=gap)
    gaps = gap.reshape(2 * V, k)
    nearest = _set_row(np.equal(gaps, np.minimum.reduce(gaps, axis=0)))
    distance[1] *= -1.0
    reached = np.take_along_axis(distance.reshape(2 * V, k), nearest[None], axis=0)
    side_has, vertex_of = _corner_tables(V)
    is_it = np.equal(corner, reached)
    np.logical_and(is_it, np.take(side_has, nearest, axis=1), out=is_it)
    return np.asarray(vertex_of[nearest % V, _set_row(is_it)])


def _set_row(flags: np.ndarray) -> np.ndarray:
    """Number of the first row that is true in each column: ``(n, k)`` to ``(k,)``."""
    n = len(flags)
    after = np.arange(n, 0, -1, dtype=np.min_scalar_type(n))
    largest = np.multiply(flags.view(np.uint8), after[:, None]).max(axis=0)
    return np.asarray(n - largest.astype(np.intp))


@cache
def _corner_tables(V: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners that have a token raised, then that have not, ``(2^V, 2V)``; vertex of a free token
    and a corner.
    """
    corners = np.arange(2**V)
    tokens = np.arange(V)
    has = (corners[:, None] >> tokens & 1).astype(bool)
    pattern = (corners & (1 << tokens[:, None]) - 1) | (
        corners >> tokens[:, None] + 1 << tokens[:, None]
    )
    return np.concatenate([has, ~has], axis=1), pattern + tokens[:, None] * 2 ** (V - 1)


def _vertex_ends(V: int, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a token is raised, lowered, or free at each vertex: ``(V, V·2^{V−1})`` each."""
    ends = np.zeros((V, V, 2 ** (V - 1)), dtype=int)
    pattern = np.arange(2 ** (V - 1))
    for b in range(V):
        for k, a in enumerate(a for a in range(V) if a != b):
            ends[a, b] = 2 * (pattern >> k & 1) - 1
    flat = ends.reshape(V, -1)
    return (flat > 0).astype(dtype), (flat < 0).astype(dtype), (flat == 0).astype(dtype)


def _relative_divergence(
    u: np.ndarray, eps: Any, out: np.ndarray | None = None, scratch: np.ndarray | None = None
) -> Any:
    """``(1 + u) log(1 + u) − u`` of a token that grows by the share `u`.

    The formula loses `eps` roundings over ``ε``. For small radii ``log(1 + u) = 2 artanh(s)``, ``s
    = u/(2 + u)``, is summed, so that the linear terms cancel before they are computed.
    """
    out = np.empty_like(u) if out is None else out
    scratch = np.empty_like(u) if scratch is None else scratch
    largest = float(np.max(eps))
    if largest > SHORT:
        np.multiply(np.log1p(u, out=out), np.add(u, 1.0, out=scratch), out=out)
        return np.subtract(out, u, out=out)
    s = np.divide(u, np.add(u, 2.0, out=scratch), out=scratch)
    square = s * s
    terms = 2 + math.ceil(math.log(1e-17) / math.log(max((largest / 2) ** 2, 1e-300)))
    out[...] = 1.0 / (2 * terms + 1)
    for k in range(terms - 1, 0, -1):
        np.add(np.multiply(out, square, out=out), 1.0 / (2 * k + 1), out=out)
    np.multiply(out, s, out=out)
    np.multiply(out, 1.0 + s, out=out)
    np.multiply(np.add(out, 1.0, out=out), 2.0 * square, out=out)
    return np.divide(out, np.subtract(1.0, s, out=s), out=out)


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
