"""Token MDPs: dynamics and a reward.

The state is the text so far, the action the next token, the transition appends it; a response is
`H` tokens. See `theory.mdp.dynamics` for how states are numbered and `theory` for the axes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from theory.arrays.memory import usable_memory
from theory.arrays.namespace import Array, array_namespace, as_float, token_major
from theory.mdp.checks import (
    check_allowed,
    check_next_states,
    check_rewards,
    check_shapes,
    check_weights,
    once_each,
)
from theory.mdp.dynamics import (
    Dynamics,
    SuccessorRule,
    Table,
    Tree,
    Window,
    require_tree_memory,
)
from theory.mdp.policy import Seed
from theory.storage.files import read_arrays, replacing

__all__ = ["TokenMDP"]

Layers = Sequence[Any]

ARRAYS = r"(reward|next|allowed)_\d+|prompt_weights|reward_range|rule|window|eos"
"""Names of the arrays in a file."""


@dataclass(frozen=True, eq=False)
class TokenMDP:
    """A token MDP. Build one with `tree`, `window` or `table`, which check their arguments.

    Attributes:
        dynamics: states, successors, forbidden tokens, prompts.
        rewards: `H` tables ``(*batch, n_h, V)``, reward units; zero on forbidden tokens.
        reward_range: the interval that every reward lies in. Bounds scale with its width.

    Example:
        Two tokens, V = 2: one prompt, then the two prefixes of one token.

        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> mdp.horizon, mdp.dynamics.layer_sizes
        (2, (1, 2))
        >>> ends = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]], eos=0)
        >>> ends.rewards[1].tolist()  # after token 1, and the absorbing state after the end
        [[1.0, 0.0], [0.0, 0.0]]
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
        """Build the token MDP itself: every prefix is a state.

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
    def random(
        cls,
        vocab_size: int,
        horizon: int,
        *,
        n_prompts: int = 1,
        batch: tuple[int, ...] = (),
        seed: Seed = None,
    ) -> Self:
        """Make a token tree of independent uniform rewards: the typical case, far from every bound.

        Raises:
            ValueError: a size is below 1, or the tree does not fit into memory.

        Example:
            >>> TokenMDP.random(vocab_size=3, horizon=2, seed=0).dynamics.layer_sizes
            (1, 3)
        """
        sizes = (("vocab_size", vocab_size), ("horizon", horizon), ("n_prompts", n_prompts))
        for name, size in sizes:
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        problems = n_prompts * math.prod(batch)
        require_tree_memory(vocab_size, horizon, problems, "a random token tree")
        rng = np.random.default_rng(seed)
        shapes = [(*batch, n_prompts * vocab_size**h, vocab_size) for h in range(horizon)]
        return cls.tree([rng.random(shape) for shape in shapes])

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
        """Build a token MDP whose reward reads the prompt and the last `window` tokens only.

        A layer that is given several times as the same array is stored once, here and in `table`:
        ``[*first_layers, *[layer] * 100_000]`` needs the memory of ``layer``.

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
        """Build a token MDP whose successors are given by table.

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
        tables = once_each(lambda h, table: token_major(as_float(table)), rewards)
        sizes, vocab_size = check_shapes(tables, rule)
        if rule is None:
            assert next_states is not None
            rule = Table(check_next_states(next_states, sizes, vocab_size))
        masks = check_allowed(allowed, sizes, vocab_size)
        weights = check_weights("prompt_weights", prompt_weights, sizes[0])
        dynamics = Dynamics(vocab_size, sizes, rule, weights, masks)
        tables = check_rewards(tables, masks, reward_range)
        mdp = cls(dynamics, tables, (float(reward_range[0]), float(reward_range[1])))
        return mdp if eos is None else mdp._ended_by(eos)

    def __str__(self) -> str:
        """Sizes and the range of the rewards, in words."""
        low, high = self.reward_range
        batch = f", batch {self.batch_shape}" if self.batch_shape else ""
        return f"{self.dynamics}, rewards in [{low}, {high}]{batch}"

    def __repr__(self) -> str:
        """One line: no arrays."""
        return f"<{type(self).__name__} {self}>"

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
        """Return the same MDP with every prefix a state of its own.

        Raises:
            ValueError: the tree does not fit into memory.
        """
        states = self.dynamics.prefix_states()
        rewards = tuple(
            token_major(r[..., s, :]) for r, s in zip(self.rewards, states, strict=True)
        )
        return TokenMDP(self.dynamics.as_tree(), rewards, self.reward_range)

    def _ended_by(self, eos: int) -> Self:
        """Route `eos` to one absorbing state a layer and drop states that are no longer reached."""
        dynamics = self.dynamics
        V = dynamics.vocab_size
        H = dynamics.horizon
        if not isinstance(eos, int | np.integer) or not 0 <= eos < V:
            raise ValueError(f"eos={eos!r} is not a token: give an index from 0 to {V - 1}")
        tokens = np.arange(V)
        live = np.arange(dynamics.n_prompts)  # states of the layer reached without eos, in order
        rewards: list[Array] = []
        next_states: list[np.ndarray] = []
        allowed: list[np.ndarray] = []
        for h in range(H):
            ended = int(h > 0)  # from the second layer on, the last state is the absorbing one
            mask = dynamics.allowed[h]
            permitted = np.ones((len(live), V), dtype=bool) if mask is None else mask[live]
            allowed.append(np.concatenate([permitted, np.broadcast_to(tokens == eos, (ended, V))]))
            reward = self.rewards[h][..., live, :]
            xp = array_namespace(reward)
            # shaped after the whole layer, not after `reward`: no state may be live
            after_end = xp.zeros_like(self.rewards[h][..., :ended, :])
            rewards.append(token_major(xp.concat([reward, after_end], axis=-2)))
            if h + 1 < H:
                following = dynamics.rule.step(h, live[:, None], tokens, V)
                following_live = np.unique(following[:, tokens != eos][permitted[:, tokens != eos]])
                link = np.full((len(live) + ended, V), len(following_live))
                position = np.searchsorted(following_live, following).clip(
                    max=max(len(following_live) - 1, 0)
                )
                kept = (tokens != eos) & permitted
                link[: len(live)][kept] = position[kept]
                next_states.append(link)
                live = following_live
        sizes = tuple(map(len, allowed))
        masks = tuple(None if mask.all() else mask for mask in allowed)
        ended_dynamics = Dynamics(
            V, sizes, Table(tuple(next_states)), dynamics.prompt_weights, masks, int(eos)
        )
        low, high = self.reward_range
        return replace(
            self,
            dynamics=ended_dynamics,
            rewards=tuple(rewards),
            reward_range=(min(low, 0.0), max(high, 0.0)),
        )

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file that `load` reads; it appears whole or not at all.

        It holds ``reward_h`` ``(n_h, V)`` for each layer, ``next_h`` for table dynamics,
        ``allowed_h`` where tokens are forbidden, ``prompt_weights``, and the scalars ``rule``,
        ``window``, ``eos``, ``reward_range``.

        Raises:
            OSError: the file cannot be written, or the disk has no room for all layers.
        """
        dynamics = self.dynamics
        rule = dynamics.rule
        arrays: dict[str, Any] = {f"reward_{h}": np.asarray(r) for h, r in enumerate(self.rewards)}
        masks = enumerate(dynamics.allowed)
        arrays |= {f"allowed_{h}": mask for h, mask in masks if mask is not None}
        arrays["prompt_weights"] = dynamics.prompt_weights
        arrays["reward_range"] = np.array(self.reward_range)
        arrays["rule"] = np.array(type(rule).__name__.lower())
        if isinstance(rule, Window):
            arrays["window"] = np.array(rule.size)
        if isinstance(rule, Table):
            arrays |= {f"next_{h}": table for h, table in enumerate(rule.next_states)}
        if dynamics.eos is not None:
            arrays["eos"] = np.array(dynamics.eos)
        n_bytes = sum(np.asarray(array).nbytes for array in arrays.values())
        free = shutil.disk_usage(Path(path).absolute().parent).free
        if n_bytes > free:  # a repeated layer is one array here, and a file has each by itself
            raise OSError(
                f"{path}: {dynamics.horizon:,} layers are {n_bytes:,} bytes and {free:,} are free: "
                "store fewer, or the program that builds the MDP"
            )
        with replacing(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an MDP from an ``.npz`` file, written by `save` or by hand.

        Only ``reward_0 … reward_{H-1}`` must be there: without a ``rule`` the file holds a table if
        it has ``next_0``, a window if it has ``window``, else a tree.

        Raises:
            OSError: the file does not exist or is not a whole ``.npz``.
            ValueError: what it holds is not a token MDP; names the array.
        """
        arrays = read_arrays(path, "TokenMDP.save", ARRAYS, usable_memory())
        try:
            return cls._from_arrays(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        H = sum(name.startswith("reward_") and name[7:].isdigit() for name in arrays)
        default = "table" if "next_0" in arrays else "window" if "window" in arrays else "tree"
        rule = str(arrays.get("rule", default))
        _check_names(arrays, H, rule)
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
        # `save` writes an MDP with an end as a table with masks; any other file was written by
        # hand, and its end is not yet built in.
        if rule != "table" or all(mask is None for mask in masks):
            return mdp._ended_by(eos)
        return replace(mdp, dynamics=replace(mdp.dynamics, eos=eos))


def _check_names(arrays: dict[str, np.ndarray], H: int, rule: str) -> None:
    """Raise ValueError unless all layers are there, hold numbers, and every array is read."""
    missing = [f"reward_{h}" for h in range(max(H, 1)) if f"reward_{h}" not in arrays]
    if missing:
        raise ValueError(f"{missing[0]} is missing; store one reward_h per layer from 0")
    for name, array in arrays.items():
        if name.startswith(("reward_", "prompt_weights")) and array.dtype.kind not in "fiub":
            raise ValueError(f"{name} has dtype {array.dtype}: must hold real numbers")
    read = {"rule", "eos", "prompt_weights", "reward_range"}
    read |= {f"{kind}_{h}" for kind in ("reward", "allowed") for h in range(H)}
    if rule == "window":
        read.add("window")
    if rule == "table":
        read |= {f"next_{h}" for h in range(H - 1)}
    unread = sorted(arrays.keys() - read)
    if unread:
        raise ValueError(
            f"{unread[0]} is not read: rule={rule!r}, a horizon of {H}; leave it out or correct "
            "those"
        )


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
