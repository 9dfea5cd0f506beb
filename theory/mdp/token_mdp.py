"""Token MDPs: dynamics and a reward.

The state is what has been written, the action the next token, the transition appends it; a response
is `H` tokens. See `theory.mdp.dynamics` for how states are numbered and `theory.arrays.namespace`
for the shape of tables and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    is_numpy_array,
    like,
    token_major,
)
from theory.mdp.dynamics import Dynamics, SuccessorRule, Table, Tree, Window
from theory.storage.files import read_arrays, replacing

__all__ = ["TokenMDP"]

Layers = Sequence[Any]

ARRAYS = r"(reward|next|allowed)_\d+|prompt_weights|reward_range|rule|window|eos"
"""Names of the arrays in a file."""


@dataclass(frozen=True, eq=False)
class TokenMDP:
    """A token MDP. Build one with `tree`, `window` or `table`, which validate; the raw constructor
    does not.

    Attributes:
        dynamics: states, successors, forbidden tokens, prompts.
        rewards: `H` tables ``(*batch, n_h, V)``, reward units; zero on forbidden tokens.
        reward_range: the interval that every reward lies in. Bounds scale with its width.

    """

    dynamics: Dynamics
    rewards: tuple[Array, ...]
    reward_range: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def tree(
        cls,
        rewards: Layers,
        *,
        prompt_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        allowed: Sequence[Any] | None = None,
        eos: int | None = None,
    ) -> Self:
        """The token MDP itself: every prefix is a state.

        Args:
            rewards: ``rewards[h]`` of shape ``(*batch, P·V^h, V)``; prefix ``s`` followed by ``a``
                is ``s·V + a``.
            prompt_weights: ``(P,)`` distribution over prompts; uniform by default.
            reward_range: interval that the rewards must lie in.
            allowed: for each layer ``None`` or a boolean ``(n_h, V)`` whose ``False`` forbids a
                token.
            eos: end-of-sequence token. After it the response is over: one absorbing state a layer,
                only `eos` allowed in it, reward zero. Rewards of prefixes that contain it are not
                read.

        Raises:
            ValueError: names the argument, the layer and the value.

        """
        return cls._build(rewards, Tree(), None, prompt_weights, reward_range, allowed, eos)

    @classmethod
    def window(
        cls,
        rewards: Layers,
        window: int,
        *,
        prompt_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        allowed: Sequence[Any] | None = None,
        eos: int | None = None,
    ) -> Self:
        """A token MDP whose reward reads the prompt and the last `window` tokens only.

        Args:
            rewards: ``rewards[h]`` of shape ``(*batch, P·V^min(h, window), V)``.
            window: how many tokens a state remembers, at least one.
            prompt_weights: see `tree`.
            reward_range: see `tree`.
            allowed: see `tree`.
            eos: see `tree`.

        Raises:
            ValueError: names the argument, the layer and the value.

        """
        if not isinstance(window, int | np.integer) or window < 1:
            raise ValueError(
                f"window={window!r}: give the number of tokens a state remembers, 1 or more"
            )
        return cls._build(
            rewards, Window(int(window)), None, prompt_weights, reward_range, allowed, eos
        )

    @classmethod
    def table(
        cls,
        rewards: Layers,
        next_states: Layers,
        *,
        prompt_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        allowed: Sequence[Any] | None = None,
        eos: int | None = None,
    ) -> Self:
        """A token MDP whose successors are given by table.

        Args:
            rewards: ``rewards[h]`` of shape ``(*batch, n_h, V)``.
            next_states: ``next_states[h]`` of shape ``(n_h, V)``, states of layer ``h + 1``, for
                ``h < H - 1``.
            prompt_weights: see `tree`; the states of layer 0 are the prompts.
            reward_range: see `tree`.
            allowed: see `tree`.
            eos: see `tree`.

        Raises:
            ValueError: names the argument, the layer and the value.

        """
        return cls._build(rewards, None, next_states, prompt_weights, reward_range, allowed, eos)

    @classmethod
    def _build(
        cls,
        rewards: Layers,
        rule: SuccessorRule | None,
        next_states: Layers | None,
        prompt_weights: Any,
        reward_range: tuple[float, float],
        allowed: Sequence[Any] | None,
        eos: int | None,
    ) -> Self:
        tables = tuple(token_major(as_float(table)) for table in rewards)
        sizes, vocab_size = _check_shapes(tables, rule)
        if rule is None:
            assert next_states is not None
            rule = Table(_check_next_states(next_states, sizes, vocab_size))
        masks = _check_allowed(allowed, sizes, vocab_size)
        weights = _check_prompt_weights(prompt_weights, sizes[0])
        dynamics = Dynamics(vocab_size, sizes, rule, weights, masks)
        tables = _check_rewards(tables, masks, reward_range)
        mdp = cls(dynamics, tables, (float(reward_range[0]), float(reward_range[1])))
        return mdp if eos is None else mdp._ended_by(eos)

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.dynamics.horizon

    @property
    def vocab_size(self) -> int:
        """Number of tokens `V`."""
        return self.dynamics.vocab_size

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes that all rewards share: ``()`` for a single MDP."""
        return tuple(self.rewards[0].shape[:-2])

    @property
    def reward_width(self) -> float:
        """Width of the reward range: the `R` that bounds scale with (1 for rewards in [0, 1])."""
        return self.reward_range[1] - self.reward_range[0]

    def as_tree(self) -> TokenMDP:
        """The same MDP with every prefix a state of its own.

        Raises:
            ValueError: the tree does not fit into memory.

        """
        states = self.dynamics.prefix_states()
        rewards = tuple(
            token_major(r[..., s, :]) for r, s in zip(self.rewards, states, strict=True)
        )
        return TokenMDP(self.dynamics.as_tree(), rewards, self.reward_range)

    def _ended_by(self, eos: int) -> Self:
        """Route `eos` to one absorbing state a layer and drop the states that can no longer be
        reached.
        """
        dynamics = self.dynamics
        V, H = dynamics.vocab_size, dynamics.horizon
        if not isinstance(eos, int | np.integer) or not 0 <= eos < V:
            raise ValueError(f"eos={eos!r} is not a token: give an index from 0 to {V - 1}")
        tokens = np.arange(V)
        live = np.arange(
            dynamics.n_prompts
        )  # states of the layer that are reached without eos, in order
        rewards, next_states, allowed, sizes = [], [], [], []
        for h in range(H):
            ended = int(h > 0)  # from the second layer on, the last state is the absorbing one
            n = len(live) + ended
            mask = dynamics.allowed[h]
            permitted = np.ones((len(live), V), dtype=bool) if mask is None else mask[live]
            allowed.append(np.concatenate([permitted, np.broadcast_to(tokens == eos, (ended, V))]))
            reward = self.rewards[h][..., live, :]
            xp = array_namespace(reward)
            after_end = xp.zeros_like(
                self.rewards[h][..., :ended, :]
            )  # not of `reward`: no state may be live
            rewards.append(token_major(xp.concat([reward, after_end], axis=-2)))
            sizes.append(n)
            if h + 1 < H:
                following = dynamics.rule.step(h, live[:, None], tokens, V)
                following_live = np.unique(following[:, tokens != eos][permitted[:, tokens != eos]])
                link = np.full((n, V), len(following_live))
                position = np.searchsorted(following_live, following).clip(
                    max=max(len(following_live) - 1, 0)
                )
                kept = (tokens != eos) & permitted
                link[: len(live)][kept] = position[kept]
                next_states.append(link)
                live = following_live
        masks = tuple(None if mask.all() else mask for mask in allowed)
        ended_dynamics = Dynamics(
            V, tuple(sizes), Table(tuple(next_states)), dynamics.prompt_weights, masks, int(eos)
        )
        low, high = self.reward_range
        return replace(
            self,
            dynamics=ended_dynamics,
            rewards=tuple(rewards),
            reward_range=(min(low, 0.0), max(high, 0.0)),
        )

    def save(self, path: str | Path) -> None:
        """Write the MDP to an ``.npz`` file that `load` reads: ``reward_h`` ``(n_h, V)`` for each
        layer, ``next_h`` for table dynamics, ``allowed_h`` where tokens are forbidden,
        ``prompt_weights``, and the scalars ``rule``, ``window``, ``eos``, ``reward_range``. The
        file appears whole or not at all.
        """
        dynamics = self.dynamics
        rule = dynamics.rule
        arrays: dict[str, Any] = {f"reward_{h}": np.asarray(r) for h, r in enumerate(self.rewards)}
        arrays |= {
            f"allowed_{h}": mask for h, mask in enumerate(dynamics.allowed) if mask is not None
        }
        arrays |= {
            "prompt_weights": dynamics.prompt_weights,
            "reward_range": np.array(self.reward_range),
        }
        arrays["rule"] = np.array(type(rule).__name__.lower())
        if isinstance(rule, Window):
            arrays["window"] = np.array(rule.size)
        if isinstance(rule, Table):
            arrays |= {f"next_{h}": table for h, table in enumerate(rule.next_states)}
        if dynamics.eos is not None:
            arrays["eos"] = np.array(dynamics.eos)
        with replacing(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an MDP from an ``.npz`` file. Only ``reward_0 … reward_{H-1}`` must be there:
        without a ``rule`` the file holds a table if it has ``next_0``, a window if it has
        ``window``, else a tree.

        Raises:
            OSError: the file does not exist or is not a whole ``.npz``.
            ValueError: what it holds is not a token MDP; names the array.

        """
        arrays = read_arrays(path, "TokenMDP.save", ARRAYS)
        try:
            return cls._from_arrays(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        H = sum(name.startswith("reward_") and name[7:].isdigit() for name in arrays)
        missing = [f"reward_{h}" for h in range(H) if f"reward_{h}" not in arrays]
        if H == 0 or missing:
            raise ValueError(
                f"{missing[0] if missing else 'reward_0'} is missing; store one reward_h per layer "
                "from 0"
            )
        for name, array in arrays.items():
            if name.startswith(("reward_", "prompt_weights")) and (array.dtype.kind not in "fiub"):
                raise ValueError(f"{name} has dtype {array.dtype}: must hold real numbers")
        default = "table" if "next_0" in arrays else "window" if "window" in arrays else "tree"
        rule = str(arrays.get("rule", default))
        read = {"rule", "eos", "prompt_weights", "reward_range"}
        read |= {f"{kind}_{h}" for kind in ("reward", "allowed") for h in range(H)}
        if rule == "window":
            read.add("window")
        if rule == "table":
            read |= {f"next_{h}" for h in range(H - 1)}
        unread = sorted(arrays.keys() - read)
        if unread:
            raise ValueError(
                f"{unread[0]} is not read: rule={rule!r}, a horizon of {H}; leave it out or "
                "correct those"
            )
        rewards = [arrays[f"reward_{h}"] for h in range(H)]
        masks = [arrays.get(f"allowed_{h}") for h in range(H)]
        options: dict[str, Any] = {"prompt_weights": arrays.get("prompt_weights"), "allowed": masks}
        if "reward_range" in arrays:
            options["reward_range"] = _pair(arrays["reward_range"])
        if rule == "tree":
            mdp = cls.tree(rewards, **options)
        elif rule == "window":
            mdp = cls.window(rewards, _integer("window", arrays.get("window")), **options)
        elif rule == "table":
            tables = [arrays[f"next_{h}"] for h in range(H - 1) if f"next_{h}" in arrays]
            mdp = cls.table(rewards, tables, **options)
        else:
            raise ValueError(f"rule={rule!r}: must be 'tree', 'window' or 'table'")
        if "eos" not in arrays:
            return mdp
        eos = _integer("eos", arrays["eos"])
        if rule != "table" or all(mask is None for mask in masks):
            return mdp._ended_by(eos)  # written by hand: the end is not yet built in
        return replace(mdp, dynamics=replace(mdp.dynamics, eos=eos))


def _integer(name: str, value: np.ndarray | None) -> int:
    if value is None or np.ndim(value) != 0 or value.dtype.kind not in "iu":
        raise ValueError(f"{name} must be an integer scalar, got {value!r}")
    return int(value)


def _pair(value: np.ndarray) -> tuple[float, float]:
    if np.shape(value) != (2,):
        raise ValueError(
            f"reward_range must be two numbers (low, high), got shape {np.shape(value)}"
        )
    return float(value[0]), float(value[1])


def _check_shapes(
    tables: tuple[Array, ...], rule: SuccessorRule | None
) -> tuple[tuple[int, ...], int]:
    if not tables:
        raise ValueError(
            "rewards is empty: the horizon must be at least 1, one (n_h, V) table per layer"
        )
    for h, table in enumerate(tables):
        if table.ndim < 2:
            raise ValueError(
                f"rewards[{h}] has shape {tuple(table.shape)}: must be (n_{h}, V), states by tokens"
            )
    batch, (n_prompts, V) = tables[0].shape[:-2], tables[0].shape[-2:]
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
            wanted = (
                f"{expected} ({type(rule).__name__.lower()} with {n_prompts} prompt(s) and {V} "
                "token(s))"
            )
            raise ValueError(f"rewards[{h}] has shape {tuple(table.shape)}: must be {wanted}")
    return tuple(table.shape[-2] for table in tables), V


def _check_rewards(
    tables: tuple[Array, ...],
    masks: tuple[np.ndarray | None, ...],
    reward_range: tuple[float, float],
) -> tuple[Array, ...]:
    low, high = reward_range
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(
            f"reward_range={reward_range}: must be two finite numbers (low, high), low <= high"
        )
    checked = []
    for h, (table, mask) in enumerate(zip(tables, masks, strict=True)):
        xp = array_namespace(table)
        counted = table
        if mask is not None:
            counted = token_major(xp.where(like(mask, table), table, xp.zeros_like(table)))
        bad = ~xp.isfinite(counted)
        if bool(xp.any(bad)):
            raise ValueError(
                f"rewards[{h}] holds {float(counted[bad][0])} at {_first(bad)}: rewards must be "
                "finite; "
                "forbid a token with allowed=, not with an infinite reward"
            )
        # A masked reward is stored as zero and need not lie in the range.
        outside = (counted < low) | (counted > high)
        if mask is not None:
            outside = outside & like(mask, table)
        if bool(xp.any(outside)):
            raise ValueError(
                f"rewards[{h}] holds {float(counted[outside][0]):.6g} at {_first(outside)}, "
                "outside "
                f"reward_range=({low:g}, {high:g}): pass reward_range=(low, high)"
            )
        checked.append(counted)
    return tuple(checked)


def _first(flags: Array) -> tuple[int, ...]:
    flags = flags if is_numpy_array(flags) else flags.cpu().numpy()
    return tuple(int(i) for i in np.argwhere(flags)[0])


def _check_next_states(
    next_states: Layers, sizes: tuple[int, ...], vocab_size: int
) -> tuple[np.ndarray, ...]:
    tables = tuple(np.asarray(table) for table in next_states)
    if len(tables) != len(sizes) - 1:
        raise ValueError(
            f"next_states has {len(tables)} tables for {len(sizes)} layers: one per layer but the "
            "last"
        )
    for h, table in enumerate(tables):
        if table.shape != (sizes[h], vocab_size):
            raise ValueError(
                f"next_states[{h}] has shape {table.shape}: must be {(sizes[h], vocab_size)}"
            )
        if not np.issubdtype(table.dtype, np.integer):
            raise ValueError(
                f"next_states[{h}] has dtype {table.dtype}: must hold integer states of layer "
                f"{h + 1}"
            )
        if table.min() < 0 or table.max() >= sizes[h + 1]:
            raise ValueError(
                f"next_states[{h}] holds {table.min()} to {table.max()}: "
                f"layer {h + 1} has states 0 to {sizes[h + 1] - 1}"
            )
    return tables


def _check_allowed(
    allowed: Sequence[Any] | None, sizes: tuple[int, ...], vocab_size: int
) -> tuple[np.ndarray | None, ...]:
    if allowed is None:
        return (None,) * len(sizes)
    if len(allowed) != len(sizes):
        raise ValueError(
            f"allowed has {len(allowed)} entries for {len(sizes)} layers: one (n_h, V) mask or "
            "None each"
        )
    masks: list[np.ndarray | None] = []
    for h, mask in enumerate(allowed):
        array = None if mask is None else np.asarray(mask)
        if array is not None:
            if array.shape != (sizes[h], vocab_size) or array.dtype != np.bool_:
                raise ValueError(
                    f"allowed[{h}] has shape {array.shape}, dtype {array.dtype}: "
                    f"must be boolean {(sizes[h], vocab_size)}"
                )
            if not array.any(axis=-1).all():
                state = int(np.argmin(array.any(axis=-1)))
                raise ValueError(
                    f"allowed[{h}] forbids every token of state {state}: at least one must be "
                    "allowed"
                )
        masks.append(array)
    return tuple(masks)


def _check_prompt_weights(weights: Any, n_prompts: int) -> np.ndarray:
    if weights is None:
        return np.full(n_prompts, 1.0 / n_prompts)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n_prompts,):
        raise ValueError(
            f"prompt_weights has shape {array.shape}: must be ({n_prompts},), one per state of "
            "layer 0"
        )
    if not np.isfinite(array).all() or (array < 0).any() or abs(array.sum() - 1.0) > 1e-9:
        raise ValueError(
            f"prompt_weights must be non-negative and sum to 1, got sum {array.sum():.12g}"
        )
    # Weights that sum to one up to rounding stay as they are: what was saved and loaded is the same
    # MDP, bit by bit.
    settled = abs(array.sum() - 1.0) <= n_prompts * np.finfo(np.float64).eps
    return array.copy() if settled else np.asarray(array / array.sum())
