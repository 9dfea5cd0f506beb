"""Token MDPs whose tree does not fit into memory: rewards are asked for block by block.

The prefixes of one layer, the *cut*, are the roots of subtrees. A few neighbouring subtrees are an
ordinary `TokenMDP` with these prefixes as its prompts, so every function of the package can be
asked about them; the layers above the cut are one more `TokenMDP`. `theory.solve.streamed` goes
through them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from theory.arrays.namespace import token_major
from theory.mdp.checks import check_reward_range, check_weights
from theory.mdp.dynamics import Dynamics, Tree, require_tree_memory
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP

__all__ = ["BlockFunction", "StreamedTree"]

BlockFunction: TypeAlias = Callable[[int, int, int], Any]
"""``f(h, first, last)``: the rows of prefixes ``first … last − 1`` of layer `h`, ``(last − first,
V)``. The prefixes of a layer are in lexicographic order, prompts first. It must return the same
numbers whenever it is asked, and may be called from several threads."""

BLOCK = 2**21
"""Prefixes in a block of subtrees, unless the caller says otherwise: 16 MiB of rewards.

With blocks of an eighth, threads wait for the interpreter and two are slower than one.
"""

SAMPLE = 64
"""Rows at either end of every layer that the digest of a tree reads."""


@dataclass(frozen=True, eq=False)
class StreamedTree:
    """A token MDP, every prefix a state, whose rewards are read block by block.

    Attributes:
        vocab_size: number of tokens `V`.
        horizon: number of tokens `H` of a response.
        rewards: the rewards of a block of prefixes, reward units, see `BlockFunction`.
        logits: the logits of a policy `π̂`, likewise; None if there is no policy to compare.
        n_prompts: number of prompts `P`.
        prompt_weights: ``(P,)`` distribution over prompts; uniform by default.
        reward_range: interval that the rewards must lie in.
        block: prefixes that are in memory at a time, for each thread.

    Raises:
        ValueError: names the argument and the value.

    Example:
        Rewards that are computed when they are asked for, V = 2, H = 3:

        >>> def rewards(h, first, last):
        ...     return np.arange(first, last)[:, None] % 3 / 2 * np.array([1.0, 0.5])
        >>> tree = StreamedTree(2, 3, rewards, block=6)
        >>> tree.cut, tree.blocks()  # each prefix of one token has a subtree of 6 prefixes
        (1, [(0, 1), (1, 2)])
        >>> tree.subtree(1, 2).rewards[0].tolist()
        [[0.5, 0.25]]
    """

    vocab_size: int
    horizon: int
    rewards: BlockFunction
    logits: BlockFunction | None = None
    n_prompts: int = 1
    prompt_weights: Any = None
    reward_range: tuple[float, float] = (0.0, 1.0)
    block: int = BLOCK

    def __post_init__(self) -> None:
        for name in ("vocab_size", "horizon", "n_prompts", "block"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name}={value!r}: must be an integer, 1 or more")
        weights = check_weights("prompt_weights", self.prompt_weights, self.n_prompts)
        object.__setattr__(self, "prompt_weights", weights)
        object.__setattr__(self, "reward_range", check_reward_range(self.reward_range))

    @classmethod
    def load(cls, folder: str | Path, *, block: int = BLOCK) -> Self:
        """Open a folder of ``.npy`` files, which are mapped into memory and not read.

        It holds ``reward_0.npy … reward_{H-1}.npy``, each ``(P·V^h, V)``; ``logits_h.npy`` of the
        same shapes, where there is a policy; and ``prompt_weights.npy`` and ``reward_range.npy``,
        where they are not the defaults.

        Raises:
            OSError: there is no such folder, or a file is not a whole ``.npy``.
            ValueError: a file is missing, is not known, or has another shape; names it.
        """
        folder = Path(folder)
        names = _array_names(folder)
        H = sum(name.startswith("reward_") and name[7:].isdigit() for name in names)
        known = {f"reward_{h}" for h in range(max(H, 1))} | {"prompt_weights", "reward_range"}
        policy = {f"logits_{h}" for h in range(max(H, 1))}
        has_policy = any(name.startswith("logits_") for name in names)
        required = {f"reward_{h}" for h in range(max(H, 1))} | (policy if has_policy else set())
        for name in sorted(required - names):
            raise ValueError(f"{folder}: {name}.npy is missing; store one file per layer from 0")
        for name in sorted(names - known - policy):
            raise ValueError(
                f"{folder}: {name}.npy is not read: a tree has reward_h, logits_h, prompt_weights "
                "and reward_range; correct its name or remove it"
            )
        arrays = {name: _mapped(folder / f"{name}.npy") for name in names}
        first = arrays["reward_0"]
        if first.ndim != 2 or 0 in first.shape:
            raise ValueError(f"{folder}: reward_0.npy has shape {first.shape}: must be (P, V)")
        P, V = first.shape
        for name in sorted(required):
            wanted = (P * V ** int(name.rpartition("_")[2]), V)
            if arrays[name].shape != wanted:
                raise ValueError(
                    f"{folder}: {name}.npy has shape {arrays[name].shape}: must be {wanted} (tree "
                    f"with {P} prompt(s) and {V} token(s))"
                )
        options: dict[str, Any] = {"prompt_weights": arrays.get("prompt_weights")}
        if "reward_range" in arrays:
            if arrays["reward_range"].shape != (2,):
                raise ValueError(f"{folder}: reward_range.npy must hold two numbers (low, high)")
            options["reward_range"] = tuple(map(float, arrays["reward_range"]))
        if has_policy:
            options["logits"] = _layers([arrays[f"logits_{h}"] for h in range(H)])
        rewards = _layers([arrays[f"reward_{h}"] for h in range(H)])
        return cls(V, H, rewards, n_prompts=P, block=block, **options)

    @property
    def cut(self) -> int:
        """First layer of the subtrees: the highest one whose subtrees fit into a block."""
        V, h = int(self.vocab_size), int(self.horizon) - 1
        size = V
        while h and size + V ** (self.horizon - h + 1) <= self.block:
            size += V ** (self.horizon - h + 1)
            h -= 1
        return h

    @property
    def n_roots(self) -> int:
        """Number of subtrees: prefixes of the cut."""
        return self.layer_size(self.cut)

    @property
    def n_prefixes(self) -> int:
        """Number of prefixes of the tree, one reward each."""
        return int(self.n_prompts) * self._subtree_size(0)

    def layer_size(self, h: int) -> int:
        """Number of states of layer `h`, ``P·V^h``."""
        size: int = self.n_prompts * int(self.vocab_size) ** h
        return size

    def _subtree_size(self, h: int) -> int:
        """Number of prefixes below one prefix of layer `h`."""
        V, steps = int(self.vocab_size), int(self.horizon) - h
        return steps if V == 1 else V * (V**steps - 1) // (V - 1)

    def blocks(self) -> list[tuple[int, int]]:
        """Return the blocks of subtrees, ``(first, last)`` of their roots, in order.

        Raises:
            ValueError: the layers above the cut do not fit into memory.
        """
        if self.cut:
            require_tree_memory(
                self.vocab_size,
                self.cut,
                self.n_prompts,
                f"the layers above the subtrees (block={self.block})",
                bytes_per_prefix=32,
                remedy="use a larger block",
            )
        step = max(1, self.block // self._subtree_size(self.cut))
        n = self.n_roots
        return [(first, min(first + step, n)) for first in range(0, n, step)]

    def subtree(self, first: int, last: int) -> TokenMDP:
        """Return the subtrees of roots ``first … last − 1`` as a token MDP of horizon ``H − cut``.

        The roots are its prompts. Exact at any block: solving it is solving that part of the tree.

        Raises:
            ValueError: the function gives no finite real numbers of the right shape within the
                reward range; names the layer and the block.
        """
        tables = self._tables("rewards", self.rewards, range(self.cut, self.horizon), first, last)
        return TokenMDP(self._dynamics(tables), tables, self.reward_range)

    def subtree_policy(self, dynamics: Dynamics, first: int, last: int) -> Policy | None:
        """Return the policy `π̂` on the subtrees of a block; None where there are no logits."""
        if self.logits is None:
            return None
        layers = range(self.cut, self.horizon)
        return Policy.from_logits(
            dynamics, self._tables("logits", self.logits, layers, first, last)
        )

    def top(self) -> tuple[TokenMDP, Policy | None] | None:
        """Return the layers above the cut, and the policy there; None where the cut is layer 0.

        The values of the cut are what follows their last token.
        """
        if not self.cut:
            return None
        n = self.n_prompts
        layers = range(self.cut)
        tables = self._tables("rewards", self.rewards, layers, 0, n)
        dynamics = self._dynamics(tables, self.prompt_weights)
        policy = None
        if self.logits is not None:
            logits = self._tables("logits", self.logits, layers, 0, n)
            policy = Policy.from_logits(dynamics, logits)
        return TokenMDP(dynamics, tables, self.reward_range), policy

    def digest(self) -> str:
        """Return a digest of the first and the last rows of every layer.

        Another function gives another digest, unless it differs in other rows only.
        """
        found = hashlib.sha256()
        for name, function in (("rewards", self.rewards), ("logits", self.logits)):
            if function is None:
                continue
            for h in range(self.horizon):
                n = self.layer_size(h)
                for first, last in {(0, min(n, SAMPLE)), (max(0, n - SAMPLE), n)}:
                    table = self._rows(name, function, h, first, last)
                    found.update(np.ascontiguousarray(table).tobytes())
        return found.hexdigest()

    def _dynamics(self, tables: tuple[np.ndarray, ...], weights: Any = None) -> Dynamics:
        sizes = tuple(len(table) for table in tables)
        weights = np.full(sizes[0], 1.0 / sizes[0]) if weights is None else weights
        return Dynamics(int(self.vocab_size), sizes, Tree(), weights, (None,) * len(sizes))

    def _tables(
        self, name: str, function: BlockFunction, layers: range, first: int, last: int
    ) -> tuple[np.ndarray, ...]:
        """Rows of every layer that follow prefixes ``first … last − 1`` of the first of them."""
        factors = [int(self.vocab_size) ** (h - layers.start) for h in layers]
        return tuple(
            token_major(self._rows(name, function, h, first * factor, last * factor))
            for h, factor in zip(layers, factors, strict=True)
        )

    def _rows(
        self, name: str, function: BlockFunction, h: int, first: int, last: int
    ) -> np.ndarray:
        """What the function gives for a block, checked."""
        where = f"{name}(h={h}, first={first}, last={last})"
        table = np.asarray(function(h, first, last))
        wanted = (last - first, self.vocab_size)
        if table.shape != wanted:
            raise ValueError(f"{where} has shape {table.shape}: must be {wanted}, states by tokens")
        if table.dtype.kind not in "fiub":
            raise ValueError(f"{where} has dtype {table.dtype}: must hold real numbers")
        table = table.astype(np.float64, copy=False)
        low, high = self.reward_range if name == "rewards" else (-np.inf, np.finfo(float).max)
        # NaN is both least and greatest, and no comparison with it is true
        if not (low <= table.min() and table.max() <= high):
            state, token = map(int, np.argwhere(~((table >= low) & (table <= high)))[0])
            remedy = (
                f"must be finite and in reward_range=({low:g}, {high:g})"
                if name == "rewards"
                else "must be finite, or -inf for a forbidden token"
            )
            raise ValueError(
                f"{where} holds {table[state, token]:.6g} at prefix {first + state}, token "
                f"{token}: {remedy}"
            )
        return table


def _array_names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise OSError(f"{folder}: no such folder; give one with reward_0.npy … reward_(H-1).npy")
    return {path.stem for path in folder.iterdir() if path.suffix == ".npy"}


def _mapped(path: Path) -> np.ndarray:
    try:
        table: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())
        raise OSError(f"{path}: not a whole .npy file ({reason}); write it again") from None
    return table


def _layers(tables: list[np.ndarray]) -> BlockFunction:
    def rows(h: int, first: int, last: int) -> np.ndarray:
        return tables[h][first:last]

    return rows
