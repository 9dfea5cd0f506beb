"""Backups of one layer for plain NumPy tables: a few passes over blocks that fit a core's cache.

A sweep over layers is bound by memory, not by arithmetic, if every operation of a formula makes a
table of its own. A kernel here computes the same formula block by block in scratch that stays in
the cache. Its tables are *columns* ``(V, N)``, one row for each token and ``N`` states side by side
(those of a batch are further states); `columns` says whether arrays can be seen so. torch tensors,
enclosures, long doubles and tables that only broadcast to one shape go through the generic code of
the functions that call a kernel.

A kernel computes with finite numbers. Where a token is never chosen or a value is infinite, its
result is not finite, and `by_blocks` leaves that block to the generic code: what ``0·∞`` means is
said in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = [
    "blocks",
    "by_blocks",
    "column_scalars",
    "columns",
    "divergence",
    "empty_table",
    "expected",
    "greedy_backup",
    "mask_columns",
    "max_backup",
    "max_tokens",
    "part",
    "read_reward",
    "scratch_like",
    "soft_backup",
    "states_per_block",
    "sum_tokens",
    "written_columns",
]

BLOCK = 32_768
"""Table entries in a block: as doubles 256 KiB, so that a few of them fit a core's L2 cache."""

FEW_TOKENS = 8
"""Up to this many tokens, adding row to row is faster than NumPy's reduction."""

SAFE_SHARE = 0.85
"""Share of the exponents that floats have: ``e^x`` and sums of many neither over- nor underflow."""

SHARP_EXPONENT = 8.0
"""Exponents up to here need no shift in a policy either: rows lose a few roundings, and no token's
share of a row, at least ``e^{−16}``, is lost, so that no log-probability is rounded above 0."""

LARGEST_EXPONENT = {kind: float(np.log(np.finfo(kind).max)) for kind in (np.float64, np.float32)}
LEAST_EXPONENT = {kind: float(np.log(np.finfo(kind).tiny)) for kind in (np.float64, np.float32)}
"""Exponents of the largest number, and of the least one that has all its digits."""

Columns = np.ndarray
"""A table ``(V, N)``."""


def columns(*tables: Any) -> list[Any] | None:
    """Return tables ``(*batch, n, V)`` of one layer as ``(V, N)``, or None for the generic code.

    They must be NumPy arrays of doubles, or of singles, all of one dtype and shape. Token-major
    tables are not copied. A number instead of a table (the value after the last token) is None.

    Example:
        >>> table, nothing = columns(np.array([[1.0, 2.0], [3.0, 4.0]]), 0.0)
        >>> table.tolist(), nothing
        ([[1.0, 3.0], [2.0, 4.0]], None)
        >>> columns(np.zeros((1, 2)), np.zeros((3, 1, 2))) is None
        True
    """
    first = tables[0]
    if not isinstance(first, np.ndarray) or first.dtype.type not in LARGEST_EXPONENT:
        return None
    for table in tables[1:]:
        if isinstance(table, float):
            continue
        if (
            not isinstance(table, np.ndarray)
            or table.dtype != first.dtype
            or table.shape != first.shape
        ):
            return None
    return [None if isinstance(table, float) else _columns(table) for table in tables]


def _columns(table: np.ndarray) -> Columns:
    if table.ndim == 2:
        return table.T
    return np.moveaxis(table, -1, 0).reshape(table.shape[-1], -1)


def written_columns(table: np.ndarray) -> Columns:
    """Return a table's memory as ``(V, N)``, to write into.

    Example:
        >>> table = empty_table(np.zeros((3, 2)))
        >>> written_columns(table)[1] = 7.0
        >>> table[0, 1].item()
        7.0
    """
    found = _columns(table)
    assert np.shares_memory(found, table)
    return found


def column_scalars(scalars: Any, table: np.ndarray) -> Any:
    """Return a number as it is, and numbers ``batch`` for each column of a table: ``(N,)``.

    Example:
        >>> column_scalars(np.array([1.0, 2.0]), np.zeros((2, 3, 4))).tolist()
        [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    """
    if isinstance(scalars, float):
        return scalars
    spread = np.broadcast_to(np.asarray(scalars)[..., None], table.shape[:-1])
    return np.ascontiguousarray(spread, dtype=table.dtype).reshape(-1)


def mask_columns(mask: np.ndarray | None, table: np.ndarray) -> np.ndarray | None:
    """Return a mask ``(n, V)`` for each column of a table ``(*batch, n, V)``: ``(V, N)``.

    Example:
        >>> mask_columns(np.array([[True, False]]), np.zeros((3, 1, 2))).tolist()
        [[True, True, True], [False, False, False]]
    """
    return None if mask is None else _columns(np.broadcast_to(mask, table.shape))


def empty_table(table: np.ndarray) -> np.ndarray:
    """Return a table of the same shape ``(*batch, n, V)``, token-major, that is not yet written.

    Example:
        >>> empty_table(np.zeros((3, 2))).strides
        (8, 24)
    """
    *states, V = table.shape
    return np.moveaxis(np.empty((V, *states), dtype=table.dtype), 0, -1)


def blocks(vocab_size: int, n: int) -> Iterator[slice]:
    """Yield slices that cover `n` states in blocks of about `BLOCK` table entries.

    Example:
        >>> [(block.start, block.stop) for block in blocks(4, BLOCK // 4 + 1)]
        [(0, 8192), (8192, 8193)]
    """
    size = states_per_block(vocab_size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def states_per_block(vocab_size: int) -> int:
    """Return how many states a block has.

    Example:
        >>> states_per_block(4), states_per_block(100_000)
        (8192, 1)
    """
    return max(1, BLOCK // vocab_size)


def scratch_like(table: Columns) -> np.ndarray:
    """Return memory for the largest block of a table: ``(V, k)``.

    Example:
        >>> scratch_like(np.zeros((2, 100_000))).shape
        (2, 16384)
    """
    V, n = table.shape
    return np.empty((V, min(n, states_per_block(V))), dtype=table.dtype)


def part(table: Any, block: slice) -> Any:
    """Return the columns of a block; what is no array (None, a number) is every column's.

    Example:
        >>> part(np.array([1.0, 2.0]), slice(1, 2)).tolist(), part(0.5, slice(1, 2))
        ([2.0], 0.5)
    """
    return table[..., block] if isinstance(table, np.ndarray) else table


def _least(scalars: Any) -> float:
    return scalars if isinstance(scalars, float) else float(scalars.min())


def sum_tokens(table: Columns, out: np.ndarray) -> np.ndarray:
    """Sum over tokens, ``(V, k)`` to ``(k,)``, into `out`, in one order whatever the block.

    Example:
        >>> sum_tokens(np.array([[1.0], [2.0]]), np.empty(1)).tolist()
        [3.0]
    """
    if not 1 < len(table) <= FEW_TOKENS:
        return np.add.reduce(table, axis=0, out=out)
    np.add(table[0], table[1], out=out)
    for row in table[2:]:
        np.add(out, row, out=out)
    return out


def max_tokens(table: Columns, out: np.ndarray) -> np.ndarray:
    """Return the greatest entry over tokens, ``(V, k)`` to ``(k,)``, into `out`.

    Example:
        >>> max_tokens(np.array([[1.0], [2.0]]), np.empty(1)).tolist()
        [2.0]
    """
    if not 1 < len(table) <= FEW_TOKENS:
        return np.maximum.reduce(table, axis=0, out=out)
    np.maximum(table[0], table[1], out=out)
    for row in table[2:]:
        np.maximum(out, row, out=out)
    return out


def _totals(
    reward: Columns, children: Columns | None, allowed: np.ndarray | None, out: np.ndarray
) -> np.ndarray:
    """``reward + children`` in `out`, ``-inf`` where forbidden; `reward` itself if that is all."""
    if children is None and allowed is None:
        return reward
    if children is None:
        np.copyto(out, reward)
    else:
        np.add(reward, children, out=out)
    if allowed is not None:
        np.copyto(out, -np.inf, where=~allowed)
    return out


def soft_backup(
    reward: Columns,
    children: Columns | None,
    alpha: Any,
    *,
    allowed: np.ndarray | None = None,
    largest_q: float = np.inf,
    log_probs: Columns | None = None,
) -> np.ndarray:
    """Return the soft values of a layer's states, ``V(s) = α log Σ_a exp((r(s,a) + V(s⊕a))/α)``.

    Where ``|Q|/α`` is small the exponential needs no shift, which saves two passes; elsewhere, and
    for a policy, the largest entry of each state is taken out first.

    Args:
        reward: ``(V, N)``, reward units.
        children: values of the successors, ``(V, N)``; None after the last token, where they are 0.
        alpha: temperature, a number or one for each state, ``(N,)``.
        allowed: ``(V, N)``, False forbids a token; None allows every token.
        largest_q: a number that no ``|r + V|`` exceeds, if one is known.
        log_probs: ``(V, N)``, where ``log π(a|s) = (Q(s,a) − V(s))/α`` is written, nats. It is
            never above 0, and rows sum to one within a few roundings, because the large part of
            both cancels before the division. It may be `reward` itself.

    Returns:
        ``(N,)``, reward units.

    Example:
        >>> soft_backup(np.array([[0.0], [1.0]]), None, 1.0).round(4).tolist()  # log(1 + e)
        [1.3133]
    """
    value = np.empty(reward.shape[1], dtype=reward.dtype)
    scratch = scratch_like(reward)
    kind = reward.dtype.type
    least = LEAST_EXPONENT[kind] + 1
    exponent = largest_q / _least(alpha)
    small = SAFE_SHARE * LARGEST_EXPONENT[kind] if log_probs is None else SHARP_EXPONENT
    # where one token is left, its log-probability and its value are exact only with a shift
    shifted = exponent > small or allowed is not None or len(reward) == 1
    clipped = shifted and (allowed is not None or 2 * exponent > -least)
    top = np.empty(scratch.shape[1] if shifted else 0, dtype=reward.dtype)
    inverse = 1.0 / alpha
    for block in blocks(*reward.shape):
        out = value[block]
        e = scratch[:, : len(out)]
        q = e if log_probs is None else log_probs[:, block]
        total = _totals(reward[:, block], part(children, block), part(allowed, block), out=q)
        if shifted:
            total = np.subtract(total, max_tokens(total, top[: len(out)]), out=q)
        np.multiply(total, part(inverse, block), out=q)
        # far below, NumPy's exponential takes twenty times as long; next to e^0 it is nothing
        np.exp(np.maximum(q, least, out=e) if clipped else q, out=e)
        np.log(sum_tokens(e, out), out=out)
        if log_probs is not None:
            np.subtract(q, out, out=q)
        out *= part(alpha, block)
        if shifted:
            out += top[: len(out)]
    return value


def max_backup(
    x: Columns, children: Columns | None, *, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Return ``max_a [x(s,a) + m(s⊕a)]`` for a layer's states: ``(N,)``.

    Args:
        x: ``(V, N)``.
        children: `m` of the successors, ``(V, N)``; None where it is 0.
        allowed: ``(V, N)``, False leaves a token out.

    Example:
        >>> max_backup(np.array([[0.0], [1.0]]), np.array([[0.5], [0.25]])).tolist()
        [1.25]
    """
    value = np.empty(x.shape[1], dtype=x.dtype)
    scratch = scratch_like(x)
    for block in blocks(*x.shape):
        out = value[block]
        total = _totals(
            x[:, block], part(children, block), part(allowed, block), scratch[:, : len(out)]
        )
        max_tokens(total, out)
    return value


def greedy_backup(
    x: Columns, children: Columns | None, log_probs: Columns, *, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Return `max_backup`, and write the policy that takes the first largest token.

    Args:
        x: ``(V, N)``.
        children: as in `max_backup`.
        log_probs: ``(V, N)``, where 0 is written for the token taken and ``-inf`` for the others.
        allowed: as in `max_backup`.

    Example:
        >>> log_probs = np.empty((2, 1))
        >>> value = greedy_backup(np.array([[0.0], [1.0]]), None, log_probs)
        >>> log_probs.tolist()
        [[-inf], [0.0]]
    """
    value = np.empty(x.shape[1], dtype=x.dtype)
    scratch = scratch_like(x)
    is_best = np.empty(scratch.shape, dtype=bool)
    found = np.empty(scratch.shape[1], dtype=bool)
    bits = np.dtype(f"i{x.dtype.itemsize}")
    mantissa = np.finfo(x.dtype).nmant
    for block in blocks(*x.shape):
        out = value[block]
        k = len(out)
        total = _totals(x[:, block], part(children, block), part(allowed, block), scratch[:, :k])
        best = np.equal(total, max_tokens(total, out), out=is_best[:, :k])
        earlier = found[:k]
        np.copyto(earlier, best[0])
        for row in best[1:]:
            np.greater(row, earlier, out=row)
            np.logical_or(earlier, row, out=earlier)
        # 1 becomes the bits of 0.0, and 0 those of -inf: a sign and an exponent of ones
        code = log_probs[:, block].view(bits)
        np.copyto(code, best)
        np.subtract(code, 1, out=code)
        np.left_shift(code, mantissa, out=code)
    return value


def by_blocks(
    kernel: Callable[..., None],
    generic: Callable[..., np.ndarray],
    tables: Columns,
    *others: Any,
) -> np.ndarray:
    """Compute a number for each state block by block: by `kernel`, by `generic` if not finite.

    Args:
        kernel: takes tables ``(V, k)``, scratch ``(2, V, k)`` and where to write, ``(k,)``.
        generic: takes the same tables as ``(k, V)`` and returns ``(k,)``.
        tables: ``(V, N)``.
        others: further ``(V, N)``, or what is the same for all blocks.

    Example:
        >>> p = np.array([[0.0], [-np.inf]])
        >>> generic = lambda p, x, below: np.where(p == -np.inf, 0.0, np.exp(p) * x).sum(axis=-1)
        >>> by_blocks(expected, generic, p, np.array([[3.0], [np.inf]]), None).tolist()
        [3.0]
    """
    V, n = tables.shape
    value = np.empty(n, dtype=tables.dtype)
    scratch = np.empty((2, V, min(n, states_per_block(V))), dtype=tables.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(V, n):
            out = value[block]
            parts = [part(table, block) for table in (tables, *others)]
            kernel(*parts, scratch[:, :, : len(out)], out)
            if not np.isfinite(out).all():
                out[:] = generic(*(x.T if isinstance(x, np.ndarray) else x for x in parts))
    return value


def expected(
    log_p: Columns, x: Columns | None, children: Columns | None, scratch: np.ndarray, out: Any
) -> None:
    """Write ``Σ_a p(a) [x(a) + W(s⊕a)]`` of a block (see `by_blocks`); None stands for ``−log p``.

    Example:
        >>> out = np.empty(1)
        >>> p = np.log([[0.25], [0.75]])
        >>> expected(p, np.array([[4.0], [0.0]]), None, np.empty((2, 2, 1)), out)
        >>> out.round(12).tolist()
        [1.0]
    """
    p, terms = scratch
    np.exp(log_p, out=p)
    if x is None:
        total = np.subtract(0.0 if children is None else children, log_p, out=terms)
    else:
        total = x if children is None else np.add(x, children, out=terms)
    sum_tokens(np.multiply(p, total, out=terms), out)


def divergence(
    log_p: Columns, log_q: Columns, children: Columns | None, scratch: np.ndarray, out: Any
) -> None:
    """Write ``Σ_a [p log(p/q) − p + q + p·K(s⊕a)]`` of a block (see `by_blocks`).

    A term is ``p (expm1(d) − d)``, ``d = log q − log p``: of no sign but plus, and without
    cancellation. That needs a `p` with all its digits: else NaN is written, for the generic code.

    Example:
        >>> out = np.empty(1)
        >>> p, q = np.array([[0.5], [0.5]]), np.array([[0.25], [0.75]])
        >>> divergence(np.log(p), np.log(q), None, np.empty((2, 2, 1)), out)
        >>> out.round(4).tolist()
        [0.1438]
    """
    if not log_p.min() > LEAST_EXPONENT[log_p.dtype.type]:
        out[...] = np.nan
        return
    d, terms = scratch
    np.subtract(log_q, log_p, out=d)
    np.subtract(np.expm1(d, out=terms), d, out=terms)
    if children is not None:
        np.add(terms, children, out=terms)
    sum_tokens(np.multiply(terms, np.exp(log_p, out=d), out=terms), out)


def read_reward(
    log_p: Columns, alpha: Any, value: np.ndarray | None, children: Columns | None, out: Columns
) -> tuple[float, float]:
    """Write the reward ``α log p + V(s) − V(s⊕a)``, and return its least and greatest entry.

    Args:
        log_p: ``(V, N)``, nats.
        alpha: temperature, a number or ``(N,)``.
        value: ``(N,)``, reward units; None where it is 0.
        children: ``(V, N)``, likewise.
        out: ``(V, N)``, where the reward is written.

    Returns:
        Both are infinite or NaN where a token has probability zero.

    Example:
        >>> out = np.empty((2, 1))
        >>> read_reward(np.log([[0.5], [0.5]]), 2.0, np.zeros(1), np.ones((2, 1)), out)
        (-2.386..., -2.386...)
    """
    low = np.inf
    high = -np.inf
    for block in blocks(*log_p.shape):
        reward = np.multiply(log_p[:, block], part(alpha, block), out=out[:, block])
        if value is not None:
            np.add(reward, value[block], out=reward)
        if children is not None:
            np.subtract(reward, children[:, block], out=reward)
        low = np.minimum(low, reward.min())
        high = np.maximum(high, reward.max())
    return float(low), float(high)
