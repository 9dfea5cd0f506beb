"""The log-ratio ball around an expert, one row at a time: its bounds and its extreme points.

The ball around an expert `π_E` holds the policies with ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` for
every state and token; rows sum to one and a token of probability zero stays so. The ball is
rectangular over states: what `π̂` does in one state restricts nothing in another. The worst cases
`worst_clone`, `worst_kl`, `worst_map` and `worst_preference` are therefore found state by state, by
sweeps over the layers, and nothing is sampled. `π̂` may depend on the whole prefix, also where
states recur; ``ε`` is a scalar or of shape ``batch``, in nats.

``ε = ∞`` is the limit of large radii: the extreme is then one over all policies that give no
probability to a token of probability zero, and the policy returned, which may leave out tokens of
the expert, attains it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from theory.arrays.kernels import (
    LARGEST_EXPONENT,
    LEAST_EXPONENT,
    blocks,
    part,
    scratch_like,
    sum_tokens,
)
from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    expand,
    is_torch_array,
    like,
    token_major,
)

__all__ = [
    "capped",
    "extreme_tilt",
    "is_small_ball",
    "log_caps",
    "log_caps_and_rest",
    "log_floors",
    "log_or_floor",
    "require_radius",
    "stack_tokens",
    "tilt_backup",
    "without_token",
]

SMALL_VOCABULARY = 8
"""Up to this many tokens, comparing each pair of them is faster than sorting."""

LARGE = float(np.finfo(np.float32).max) / 2
"""Stands for an infinite radius where it is added to ``log p``, which may be ``-inf``, in single
precision too.
"""


def require_radius(epsilon: Any) -> Array | float:
    """Return `epsilon` as a float or floating-point array; it may be infinite.

    Raises:
        ValueError: it is no number, or not positive.

    Example:
        >>> require_radius(1), require_radius(float("inf"))
        (1.0, inf)
    """
    try:
        array = as_float(epsilon)
    except (TypeError, ValueError):
        raise ValueError(f"epsilon={epsilon!r}: must be a positive number") from None
    bad = ~(array > 0)
    if bool(bad.any()):
        raise ValueError(f"epsilon={float(array[bad][0])}: must be positive")
    return array if array.ndim else float(array)


def log_caps(log_p: Array, radius: Array | float) -> Array:
    """Return the largest log-probability of each token in the ball: `log_caps_and_rest` without the
    rest.

    Example:
        >>> np.exp(log_caps(np.log([[0.1, 0.9]]), np.log(2))).round(4).tolist()
        [[0.2, 0.95]]
    """
    return log_caps_and_rest(log_p, radius)[0]


def log_caps_and_rest(log_p: Array, radius: Array | float) -> tuple[Array, Array]:
    """Return the largest log-probability of each token in the ball, and what it leaves to the
    others.

    The ball and normalisation allow ``up(a) = min(e^ε p_a, 1 − e^{−ε}(1 − p_a))``, computed as
    ``log up = log p + min(ε, log(1 + (1 − e^{−ε}) o))``, `o` the odds against the token, and
    ``1 − up = max(1 − e^ε p, e^{−ε}(1 − p))``.

    Args:
        log_p: ``log p``, ``(*batch, n, V)``, nats.
        radius: ε, scalar or ``batch``, from `require_radius`.

    Returns:
        ``log up`` and ``1 − up``, ``(*batch, n, V)`` each.

    Example:
        >>> log_up, rest = log_caps_and_rest(np.log([[0.1, 0.9]]), np.log(2))
        >>> rest.round(4).tolist()
        [[0.8, 0.05]]
    """
    eps = expand(radius, 2)
    log_rest = _log_rest(log_p)
    known = log_p > -np.inf
    by_others = np.logaddexp(0.0, log_rest - np.where(known, log_p, 0.0) + np.log(-np.expm1(-eps)))
    left = np.maximum(1.0 - capped(log_p, eps), np.exp(log_rest - eps))
    return np.minimum(log_p + np.where(known, np.minimum(eps, by_others), 0.0), 0.0), left


def log_floors(log_p: Array, radius: Array | float) -> Array:
    """Return the least log-probability of each token in the ball: ``(*batch, n, V)``, nats.

    ``down(a) = max(e^{−ε} p_a, 1 − e^ε(1 − p_a))``, computed as
    ``log down = log p − min(ε, −log(1 − (e^ε − 1) o))``, `o` the odds against the token.

    Example:
        >>> np.exp(log_floors(np.log([[0.1, 0.9]]), np.log(2))).round(4).tolist()
        [[0.05, 0.8]]
    """
    eps = expand(radius, 2)
    known = log_p > -np.inf
    log_odds = _log_rest(log_p) - np.where(known, log_p, 0.0)
    taken = log_odds + np.minimum(eps, LARGE) + np.log(-np.expm1(-eps))
    with np.errstate(divide="ignore"):
        by_others = -np.log1p(-np.exp(np.minimum(taken, 0.0)))
    return log_p - np.where(known, np.minimum(eps, by_others), 0.0)


def capped(log_p: Array, eps: Array | float) -> Array:
    """Return ``min(e^ε p, 1)``, elementwise, for any ε.

    Example:
        >>> capped(np.log([0.1, 0.9]), np.log(2)).round(4).tolist()
        [0.2, 1.0]
    """
    return np.exp(np.minimum(log_p + np.minimum(eps, LARGE), 0.0))


def _log_rest(log_p: Array) -> Array:
    """``log Σ_{b≠a} p_b`` for each token `a`.

    The most probable token's is summed over the others, because ``1 − p`` would cancel there.
    """
    top = np.argmax(log_p, axis=-1)[..., None]
    others = token_major(without_token(log_p, top[..., 0]))
    second = np.maximum(others.max(axis=-1, keepdims=True), -LARGE)
    with np.errstate(divide="ignore"):
        rest_of_top = second + np.log(np.exp(others - second).sum(axis=-1, keepdims=True))
    return np.where(np.arange(log_p.shape[-1]) == top, rest_of_top, np.log(1.0 - np.exp(others)))


def log_or_floor(p: Array, log_low: Array) -> Array:
    """Return ``log p``, and `log_low` where `p` is too small to be a normal number.

    Example:
        >>> log_or_floor(np.array([1.0, 0.0]), np.array([-5.0, -800.0])).tolist()
        [0.0, -800.0]
    """
    xp = array_namespace(p)
    normal = p > xp.finfo(p.dtype).smallest_normal
    if not is_torch_array(p) and bool(xp.all(normal)):  # a GPU would have to be waited for
        return xp.log(p)
    return xp.where(normal, xp.log(xp.where(normal, p, 1.0)), log_low)


def extreme_tilt(log_p: Array, cost: Array, radius: Array | float) -> tuple[Array, Array]:
    """Tilt each row `p` to the row `p̂` of the ball with the least expected cost.

    The floors ``e^{−ε} p`` leave ``1 − e^{−ε}``, of which a token can take the share
    ``s = min((1 + e^ε) p, 1)``. So ``p̂ = e^{−ε} p + (1 − e^{−ε}) g``, ``g(a)`` what the cheaper
    tokens leave of the share of `a`: nothing overflows.

    Args:
        log_p: the expert's rows, ``(*batch, n, V)``, nats.
        cost: cost of each token, of the same shape.
        radius: ε, scalar or ``batch``.

    Returns:
        `p̂`, 0 where it is too small for a double, and ``log p̂``, which is ``log p − ε`` there.

    Example:
        >>> p_hat, _ = extreme_tilt(np.log([[0.5, 0.5]]), np.array([[0.0, 1.0]]), np.log(2))
        >>> p_hat.round(6).tolist()  # the dearer token at its floor
        [[0.75, 0.25]]
    """
    xp = array_namespace(log_p)
    eps = expand(radius, 2)
    eps = like(np.asarray(eps) if isinstance(eps, float) else eps, log_p)
    # ε = ∞ and log p = −∞ have no sum, so an infinite radius is replaced by a large one.
    at_most = xp.clip(eps, None, float(xp.finfo(log_p.dtype).max) / 2)
    share = xp.exp(xp.clip(log_p + (at_most + xp.log1p(xp.exp(-eps))), None, 0.0))
    taken = xp.minimum(xp.clip(_left_by_cheaper(share, cost), 0.0, None), share)
    log_floor = log_p - eps
    p_hat = xp.exp(log_floor) - xp.expm1(-eps) * taken
    return p_hat, log_or_floor(p_hat, log_floor)


def is_small_ball(log_p: np.ndarray, radius: Array | float) -> bool:
    """Return whether the kernels take a table: few tokens, and ``e^{±ε}`` far from overflow.

    Example:
        >>> is_small_ball(np.zeros((1, 2)), 0.1), is_small_ball(np.zeros((1, 2)), float("inf"))
        (True, False)
    """
    if not (isinstance(radius, float) or radius.shape == log_p.shape[:-2]):
        return False
    largest = LARGEST_EXPONENT[log_p.dtype.type] / 4
    return log_p.shape[-1] <= SMALL_VOCABULARY and bool(np.max(radius) < largest)


def tilt_backup(
    log_p: np.ndarray,
    reward: np.ndarray,
    children: np.ndarray | None,
    eps: Any,
    sign: float,
    log_p_hat: np.ndarray,
) -> np.ndarray:
    """Return the extreme values of a layer's states, and write the rows that attain them.

    It is `extreme_tilt` in blocks that fit the cache; a block in which a token is never chosen, or
    as good as never, is left to it.

    Args:
        log_p: the expert's rows, columns ``(V, N)`` of at most `SMALL_VOCABULARY` tokens, nats.
        reward: ``(V, N)``, reward units.
        children: extreme values of the successors, ``(V, N)``; None where they are 0.
        eps: the radius, a number or ``(N,)``, such that `is_small_ball`.
        sign: 1 for the least value, -1 for the greatest.
        log_p_hat: ``(V, N)``, where the rows are written, nats.

    Returns:
        ``(N,)``, reward units.

    Example:
        >>> rows = np.empty((2, 1))
        >>> fair, pays = np.log([[0.5], [0.5]]), np.array([[0.0], [1.0]])
        >>> tilt_backup(fair, pays, None, np.log(2), 1.0, rows).round(6).tolist()
        [0.25]
        >>> np.exp(rows).round(6).tolist()
        [[0.75], [0.25]]
    """
    value = np.empty(log_p.shape[1], dtype=log_p.dtype)
    V = len(log_p)
    memory = [scratch_like(log_p) for _ in range(5)]
    flags = np.empty(memory[0].shape, dtype=bool)
    before = np.less_equal if sign > 0 else np.greater_equal
    low = LEAST_EXPONENT[log_p.dtype.type] + float(np.max(eps))
    down = np.exp(-eps)
    width = -np.expm1(-eps)
    reach = 1.0 + np.exp(eps)
    for block in blocks(*log_p.shape):
        out = value[block]
        total, floor, share, left, first = (x[:, : len(out)] for x in memory)
        rows = log_p[:, block]
        if children is None:
            total = reward[:, block]
        else:
            np.add(reward[:, block], children[:, block], out=total)
        if not rows.min() > low:
            # as a batch of tables of one state, each of which may have its own radius
            table, cost = rows.T[:, None], sign * total.T[:, None]
            p_hat, log_rows = extreme_tilt(table, cost, part(eps, block))
            np.copyto(log_p_hat[:, block], log_rows[:, 0].T)
            out[:] = (p_hat[:, 0] * total.T).sum(axis=-1)
            continue
        p = np.exp(rows, out=floor)
        np.minimum(np.multiply(p, part(reach, block), out=share), 1.0, out=share)
        np.multiply(p, part(down, block), out=floor)
        # one less the shares of the cheaper tokens; of each pair, one comes before the other
        left[...] = 1.0
        for k in range(1, V):
            np.subtract(left[:-k], share[k:], out=left[:-k])
        for k in range(1, V):
            is_first = first[k:]
            np.copyto(is_first, before(total[:-k], total[k:], out=flags[k:, : len(out)]))
            here = log_p_hat[k:, block]
            np.subtract(left[k:], np.multiply(is_first, share[:-k], out=here), out=left[k:])
            np.add(left[:-k], np.multiply(is_first, share[k:], out=here), out=left[:-k])
        np.minimum(np.maximum(left, 0.0, out=left), share, out=left)
        p_hat = np.add(floor, np.multiply(left, part(width, block), out=left), out=left)
        np.log(p_hat, out=log_p_hat[:, block])
        sum_tokens(np.multiply(p_hat, total, out=share), out)
    return value


def _left_by_cheaper(share: Array, cost: Array) -> Array:
    """One less the shares of all cheaper tokens (of equals, of lower index): ``(*batch, n, V)``."""
    xp = array_namespace(share, cost)
    share, cost = xp.broadcast_arrays(share, cost)
    V = share.shape[-1]
    if V <= SMALL_VOCABULARY:
        left = [xp.ones_like(share[..., 0]) for _ in range(V)]
        for a, b in combinations(range(V), 2):
            a_first = cost[..., a] <= cost[..., b]
            left[b] -= a_first * share[..., a]
            left[a] -= ~a_first * share[..., b]
        return stack_tokens(left)
    order = xp.argsort(cost, axis=-1, stable=True)
    in_order = xp.take_along_axis(share, order, axis=-1)
    rank = xp.argsort(order, axis=-1)
    return xp.take_along_axis(1.0 + in_order - xp.cumulative_sum(in_order, axis=-1), rank, axis=-1)


def stack_tokens(columns: list[Array]) -> Array:
    """Stack one array per token to a table, stored token-major.

    Example:
        >>> stack_tokens([np.array([1.0, 2.0]), np.array([3.0, 4.0])]).tolist()
        [[1.0, 3.0], [2.0, 4.0]]
    """
    xp = array_namespace(*columns)
    return xp.moveaxis(xp.stack(columns, axis=0), 0, -1)


def without_token(log_p: Array, tokens: Array | int) -> Array:
    """Return rows with ``-inf`` at one token each, `tokens` a number or ``(*batch, n)``.

    Example:
        >>> without_token(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1])).tolist()
        [[-inf, 2.0], [3.0, -inf]]
    """
    return np.where(np.arange(log_p.shape[-1]) == np.asarray(tokens)[..., None], -np.inf, log_p)
