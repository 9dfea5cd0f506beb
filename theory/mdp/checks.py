"""Checks of what a token MDP is built from; each error names the argument, layer and value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    is_enclosure,
    is_numpy_array,
    like,
    token_major,
)
from theory.arrays.tensors import numbers
from theory.mdp.dynamics import SuccessorRule, Window

__all__ = [
    "check_allowed",
    "check_next_states",
    "check_reward_range",
    "check_rewards",
    "check_shapes",
    "check_weights",
    "first_index",
    "once_each",
]

T = TypeVar("T")


def once_each(function: Callable[..., T], *layers: Iterable[Any]) -> tuple[T, ...]:
    """Return ``function(h, layers[0][h], …)`` for every `h`, computed once for each input.

    A layer that is given several times as the same objects has one result, which is given as
    often: a horizon of 100,000 equal layers takes the time and the memory of one.

    Args:
        function: maps `h` and one entry of each of `layers`; depends on `h` in messages only.
        layers: sequences of the same length.

    Example:
        >>> table = np.zeros((1, 2))
        >>> one, two, other = once_each(lambda h, t: t + h, [table, table, np.zeros((1, 2))])
        >>> one is two, one is other
        (True, False)
    """
    made: dict[tuple[Any, ...], tuple[Any, T]] = {}
    found = []
    for h, items in enumerate(zip(*layers, strict=True)):
        key = tuple(item if isinstance(item, int) else id(item) for item in items)
        if key not in made:
            made[key] = items, function(h, *items)  # the items live on, so no other has their id
        found.append(made[key][1])
    return tuple(found)


def check_shapes(
    tables: tuple[Array, ...], rule: SuccessorRule | None
) -> tuple[tuple[int, ...], int]:
    """Return the layer sizes and `V` of reward tables, or raise ValueError.

    Example:
        >>> check_shapes((np.zeros((1, 2)), np.zeros((2, 2))), rule=None)
        ((1, 2), 2)
    """
    if not tables:
        raise ValueError(
            "rewards is empty: the horizon must be at least 1, one (n_h, V) table per layer"
        )
    for h, table in enumerate(tables):
        if table.ndim < 2:
            raise ValueError(
                f"rewards[{h}] has shape {tuple(table.shape)}: must be (n_{h}, V), states by tokens"
            )
    *batch, n_prompts, V = tables[0].shape
    if V < 1 or n_prompts < 1 or 0 in batch:
        raise ValueError(
            f"rewards[0] has shape {tuple(tables[0].shape)}: needs at least one prompt and one "
            "token"
        )
    for h, table in enumerate(tables):
        n = table.shape[-2]
        if rule is not None:
            n = n_prompts * V ** (min(h, rule.size) if isinstance(rule, Window) else h)
        expected = (*batch, n, V)
        if tuple(table.shape) != expected or n < 1:
            kind = "table" if rule is None else type(rule).__name__.lower()
            wanted = f"{expected} ({kind} with {n_prompts} prompt(s) and {V} token(s))"
            raise ValueError(f"rewards[{h}] has shape {tuple(table.shape)}: must be {wanted}")
    return tuple(table.shape[-2] for table in tables), V


def check_reward_range(reward_range: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of the rewards as two floats, or raise ValueError.

    Example:
        >>> check_reward_range((0, 2))
        (0.0, 2.0)
    """
    low, high = map(float, reward_range)
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(
            f"reward_range={reward_range}: must be two finite numbers (low, high), low <= high"
        )
    return low, high


def check_rewards(
    tables: tuple[Array, ...],
    masks: tuple[np.ndarray | None, ...],
    reward_range: tuple[float, float],
) -> tuple[Array, ...]:
    """Return the rewards with zeros on forbidden tokens; ValueError if not finite or out of range.

    Example:
        >>> check_rewards((np.array([[0.0, 2.0]]),), (None,), (0.0, 1.0))
        Traceback (most recent call last):
        ValueError: rewards[0] holds 2 at (0, 1), outside reward_range=(0, 1): pass reward_range=...
    """
    low, high = check_reward_range(reward_range)

    def check(h: int, table: Array, mask: np.ndarray | None) -> Array:
        xp = array_namespace(table)
        kept = table
        if mask is not None:
            kept = token_major(xp.where(like(mask, table), table, xp.zeros_like(table)))
        counted = numbers(kept)
        xp = array_namespace(counted)
        if not is_enclosure(counted) and bool(
            (xp.min(counted) >= low) & (xp.max(counted) <= high)  # not so if one is no number
        ):
            return kept
        bad = ~xp.isfinite(counted)
        if bool(xp.any(bad)):
            raise ValueError(
                f"rewards[{h}] holds {float(counted[bad][0])} at {first_index(bad)}: rewards must "
                "be finite; forbid a token with allowed=, not with an infinite reward"
            )
        # A masked reward is stored as zero and need not lie in the range.
        outside = (counted < low) | (counted > high)
        if mask is not None:
            outside = outside & like(mask, counted)
        if bool(xp.any(outside)):
            raise ValueError(
                f"rewards[{h}] holds {float(counted[outside][0]):.6g} at {first_index(outside)}, "
                f"outside reward_range=({low:g}, {high:g}): pass reward_range=(low, high)"
            )
        return kept

    return once_each(check, tables, masks)


def first_index(flags: Array) -> tuple[int, ...]:
    """Return where the first flag is set.

    Example:
        >>> first_index(np.array([[False, True]]))
        (0, 1)
    """
    flags = flags if is_numpy_array(flags) else flags.cpu().numpy()
    return tuple(int(i) for i in np.argwhere(flags)[0])


def check_next_states(
    next_states: Sequence[Any], sizes: tuple[int, ...], vocab_size: int
) -> tuple[np.ndarray, ...]:
    """Return the successors of all layers but the last as integer arrays, or raise ValueError.

    Example:
        >>> check_next_states([[[0, 3]]], sizes=(1, 2), vocab_size=2)
        Traceback (most recent call last):
        ValueError: next_states[0] holds 0 to 3: layer 1 has states 0 to 1
    """
    tables = once_each(lambda h, table: np.asarray(table), next_states)
    if len(tables) != len(sizes) - 1:
        raise ValueError(
            f"next_states has {len(tables)} tables for {len(sizes)} layers: one per layer but the "
            "last"
        )

    def check(h: int, table: np.ndarray, size: int, following: int) -> np.ndarray:
        if table.shape != (size, vocab_size):
            raise ValueError(
                f"next_states[{h}] has shape {table.shape}: must be {(size, vocab_size)}"
            )
        if table.dtype.kind not in "iu":
            raise ValueError(
                f"next_states[{h}] has dtype {table.dtype}: must hold integer states of layer "
                f"{h + 1}"
            )
        if table.min() < 0 or table.max() >= following:
            raise ValueError(
                f"next_states[{h}] holds {table.min()} to {table.max()}: "
                f"layer {h + 1} has states 0 to {following - 1}"
            )
        return table if table.dtype.kind == "i" else table.astype(np.intp)  # uint64 + int: floats

    return once_each(check, tables, sizes[:-1], sizes[1:])


def check_allowed(
    allowed: Sequence[Any] | None, sizes: tuple[int, ...], vocab_size: int
) -> tuple[np.ndarray | None, ...]:
    """Return one boolean mask ``(n_h, V)`` or None for each layer, or raise ValueError.

    Example:
        >>> check_allowed([np.array([[False, False]])], sizes=(1,), vocab_size=2)
        Traceback (most recent call last):
        ValueError: allowed[0] forbids every token of state 0: at least one must be allowed
    """
    if allowed is None:
        return (None,) * len(sizes)
    if len(allowed) != len(sizes):
        raise ValueError(
            f"allowed has {len(allowed)} entries for {len(sizes)} layers: one (n_h, V) mask or "
            "None each"
        )

    def check(h: int, mask: Any, size: int) -> np.ndarray | None:
        array = None if mask is None else np.asarray(mask)
        if array is not None:
            if array.shape != (size, vocab_size) or array.dtype != np.bool_:
                raise ValueError(
                    f"allowed[{h}] has shape {array.shape}, dtype {array.dtype}: "
                    f"must be boolean {(size, vocab_size)}"
                )
            if not array.any(axis=-1).all():
                state = int(np.argmin(array.any(axis=-1)))
                raise ValueError(
                    f"allowed[{h}] forbids every token of state {state}: at least one must be "
                    "allowed"
                )
        return array

    return once_each(check, allowed, sizes)


def check_weights(name: str, weights: Any, n: int) -> np.ndarray:
    """Return the distribution ``(n,)`` of the first state, uniform for None, or raise ValueError.

    Example:
        >>> check_weights("prompt_weights", None, 4).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    if weights is None:
        return np.full(n, 1.0 / n)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}: must be ({n},), one per first state")
    if not np.isfinite(array).all() or (array < 0).any() or abs(array.sum() - 1.0) > 1e-9:
        raise ValueError(f"{name} must be non-negative and sum to 1, got sum {array.sum():.12g}")
    # Weights that sum to one up to rounding are kept, so that saving and loading changes no bit.
    settled = abs(array.sum() - 1.0) <= n * np.finfo(np.float64).eps
    return array.copy() if settled else np.asarray(array / array.sum())
