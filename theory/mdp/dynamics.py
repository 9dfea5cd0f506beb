"""Token dynamics: which state of the next layer a token leads to.

One *successor rule* says where token `a` leads from state `s` of layer `h`:

======== ======================== ================== ===========================================
rule     successor of ``(s, a)``  ``n_h``            for
======== ======================== ================== ===========================================
`Tree`   ``s·V + a``              ``P·V^h``          the token MDP itself: a state is a prefix
`Window` the last `k` tokens      ``P·V^min(h, k)``  rewards that read `k` tokens; long horizons
`Table`  ``next_states[h][s, a]`` any                other quotients; responses that end early
======== ======================== ================== ===========================================

The last two are exact quotients of the tree: states with the same future are one state. Only the
rules know which is which; every algorithm of the package is a sweep over layers that asks for
`children` (backward) or calls `push` (forward). Axes: see `theory`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from theory.arrays.memory import require_memory
from theory.arrays.namespace import Array, array_namespace, is_numpy_array, like, scatter_add

__all__ = ["Dynamics", "SuccessorRule", "Table", "Tree", "Window", "require_tree_memory"]


@dataclass(frozen=True)
class Tree:
    """Rule under which every prefix is a state: prefix ``s``, then token ``a``, is ``s·V + a``.

    Example:
        >>> Tree().step(0, np.array([0, 1]), np.array([1, 1]), vocab_size=2).tolist()
        [1, 3]
    """

    def children(self, h: int, next_value: Array, vocab_size: int) -> Array:
        """Return the value of each successor: ``(*batch, n_{h+1})`` to ``(*batch, n_h, V)``."""
        return next_value.reshape((*next_value.shape[:-1], -1, vocab_size))

    def push(self, h: int, mass: Array, size: int) -> Array:
        """Sum mass ``(*batch, n_h, V)`` by successor: ``(*batch, n_{h+1})``, of length `size`."""
        return mass.reshape((*mass.shape[:-2], -1))

    def step(self, h: int, states: Array, tokens: Array, vocab_size: int) -> Array:
        """Return the successor of each ``(state, token)`` of layer `h`, elementwise."""
        return states * vocab_size + tokens


@dataclass(frozen=True)
class Window:
    """Rule under which a state is the prompt and the last `size` tokens (or all, if fewer).

    State ``s`` of layer ``h`` is ``prompt·V^m + (tokens read as a number in base V)``,
    ``m = min(h, size)``.

    Example:
        Two tokens are remembered; after 0, 1 (state 1) the token 1 leads to the window 1, 1:

        >>> Window(2).step(2, np.array([1]), np.array([1]), vocab_size=2).tolist()
        [3]
    """

    size: int

    def children(self, h: int, next_value: Array, vocab_size: int) -> Array:  # noqa: D102
        if h < self.size:
            return Tree().children(h, next_value, vocab_size)
        kept = vocab_size ** (self.size - 1)
        by_window = next_value.reshape((*next_value.shape[:-1], -1, 1, kept, vocab_size))
        prompts = by_window.shape[-4]
        xp = array_namespace(next_value)
        if is_numpy_array(next_value):  # token-major: long runs, here and in what is added to it
            first = np.moveaxis(by_window, -1, 0)
            shape = (vocab_size, *next_value.shape[:-1], prompts, vocab_size, kept)
            tokens = np.broadcast_to(first, shape).reshape(vocab_size, *next_value.shape[:-1], -1)
            return np.moveaxis(tokens, 0, -1)
        every = xp.broadcast_to(
            by_window, (*next_value.shape[:-1], prompts, vocab_size, kept, vocab_size)
        )
        return every.reshape((*next_value.shape[:-1], -1, vocab_size))

    def push(self, h: int, mass: Array, size: int) -> Array:  # noqa: D102
        if h < self.size:
            return Tree().push(h, mass, size)
        vocab_size = mass.shape[-1]
        kept = vocab_size ** (self.size - 1)
        xp = array_namespace(mass)
        by_oldest = mass.reshape((*mass.shape[:-2], -1, vocab_size, kept, vocab_size))
        return xp.sum(by_oldest, axis=-3).reshape((*mass.shape[:-2], -1))

    def step(self, h: int, states: Array, tokens: Array, vocab_size: int) -> Array:  # noqa: D102
        following = states * vocab_size + tokens
        if h < self.size:
            return following
        windows = vocab_size**self.size
        return states // windows * windows + following % windows


@dataclass(frozen=True, eq=False)
class Table:
    """Rule that reads successors from tables: ``next_states[h][s, a]``, a state of layer `h + 1`.

    There are ``H − 1`` tables ``(n_h, V)``: the last token leads nowhere.

    Example:
        >>> rule = Table((np.array([[0, 2]]),))
        >>> rule.step(0, np.array([0]), np.array([1]), vocab_size=2).tolist()
        [2]
    """

    next_states: tuple[np.ndarray, ...]

    def children(self, h: int, next_value: Array, vocab_size: int) -> Array:  # noqa: D102
        return next_value[..., like(self.next_states[h], next_value)]

    def push(self, h: int, mass: Array, size: int) -> Array:  # noqa: D102
        return scatter_add(
            mass.reshape((*mass.shape[:-2], -1)), self.next_states[h].reshape(-1), size
        )

    def step(self, h: int, states: Array, tokens: Array, vocab_size: int) -> Array:  # noqa: D102
        return like(self.next_states[h], states)[states, tokens]


SuccessorRule: TypeAlias = Tree | Window | Table
"""Rules that link a layer `h` with the next; what their methods do is said at `Tree`."""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """States, successors, forbidden tokens and prompts: a token MDP without its reward.

    Attributes:
        vocab_size: number of tokens `V`.
        layer_sizes: ``n_0 … n_{H-1}``; ``n_0 = P`` is the number of prompts.
        rule: the successor rule.
        prompt_weights: ``(P,)``, the prompt distribution ``ρ``.
        allowed: for each layer ``None`` (every token) or a boolean ``(n_h, V)``; ``False`` forbids
            a token.
        eos: the token that ends a response, where the dynamics were built with one.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.window([[[0, 1]], [[0, 1]] * 2, [[0, 1]] * 2], window=1).dynamics
        >>> dynamics.horizon, dynamics.layer_sizes
        (3, (1, 2, 2))
        >>> dynamics.successors(1).tolist()  # a state is the last token
        [[0, 1], [0, 1]]
    """

    vocab_size: int
    layer_sizes: tuple[int, ...]
    rule: SuccessorRule
    prompt_weights: np.ndarray
    allowed: tuple[np.ndarray | None, ...]
    eos: int | None = None

    def __str__(self) -> str:
        """Sizes, in words: ``tree, V=2, H=3, 1 prompt, 14 prefixes``."""
        rule = self.rule
        kind = f"window of {rule.size}" if isinstance(rule, Window) else type(rule).__name__.lower()
        prompts = f"{self.n_prompts:,} prompt{'s' * (self.n_prompts != 1)}"
        unit = "prefixes" if isinstance(rule, Tree) else "state-token pairs"
        return (
            f"{kind}, V={self.vocab_size}, H={self.horizon}, {prompts}, {self.n_prefixes:,} {unit}"
        )

    def __repr__(self) -> str:
        """One line: no arrays."""
        return f"<{type(self).__name__} {self}>"

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return len(self.layer_sizes)

    @property
    def n_prompts(self) -> int:
        """Number of prompts `P`."""
        return self.layer_sizes[0]

    @property
    def n_prefixes(self) -> int:
        """Number of (state, token) pairs over all layers; on a tree, the number of its prefixes."""
        return self.vocab_size * sum(self.layer_sizes)

    def children(self, h: int, next_value: Array | None) -> Array | float:
        """Return the value of each successor of layer `h`: ``(*batch, n_h, V)``; 0 at the end."""
        return 0.0 if next_value is None else self.rule.children(h, next_value, self.vocab_size)

    def push(self, h: int, mass: Array) -> Array:
        """Sum mass ``(*batch, n_h, V)`` on (state, token) by successor: ``(*batch, n_{h+1})``."""
        return self.rule.push(h, mass, self.layer_sizes[h + 1])

    def walk(self, prompts: Array, tokens: Array) -> list[Array]:
        """Return the states visited while `tokens` ``(*batch, N, H)`` follow `prompts` ``(N,)``.

        Returns:
            `H` integer arrays ``(*batch, N)``: the state in which each token is chosen.
        """
        states = [prompts]
        for h in range(tokens.shape[-1] - 1):
            states.append(self.rule.step(h, states[-1], tokens[..., h], self.vocab_size))
        return states

    def average(self, value: Array) -> Array:
        """Average a first-layer value ``(*batch, P)`` over the prompts: ``batch``."""
        xp = array_namespace(value)
        weights = like(self.prompt_weights, value)
        # A prompt of weight zero may have an infinite value (a KL, say) and does not count.
        return xp.sum(xp.where(weights > 0, value, 0.0) * weights, axis=-1)

    def same_as(self, other: Dynamics) -> bool:
        """Whether states, successors and prompts are the same; forbidden tokens may differ."""
        if self is other:
            return True
        if (self.vocab_size, self.layer_sizes) != (other.vocab_size, other.layer_sizes):
            return False
        # An inexact enclosure does not compare equal to itself, so identity comes first.
        same_weights = self.prompt_weights is other.prompt_weights
        if not (same_weights or np.array_equal(self.prompt_weights, other.prompt_weights)):
            return False
        return self.rule == other.rule or all(
            np.array_equal(self.successors(h), other.successors(h)) for h in range(self.horizon - 1)
        )

    def successors(self, h: int) -> np.ndarray:
        """Return the successor of each state and token of layer `h`: integers ``(n_h, V)``."""
        states = np.arange(self.layer_sizes[h])[:, None]
        tokens = np.arange(self.vocab_size)
        return np.asarray(self.rule.step(h, states, tokens, self.vocab_size))

    def prefix_states(self) -> list[np.ndarray]:
        """Return the state that each prefix of the tree is in: `H` integer arrays ``(P·V^h,)``.

        Raises:
            ValueError: the tree does not fit into memory.
        """
        require_tree_memory(
            self.vocab_size, self.horizon, self.n_prompts, "unrolling these dynamics to a tree"
        )
        states = [np.arange(self.n_prompts)]
        tokens = np.arange(self.vocab_size)
        for h in range(self.horizon - 1):
            states.append(
                self.rule.step(h, states[-1][:, None], tokens, self.vocab_size).reshape(-1)
            )
        return states

    def as_tree(self) -> Dynamics:
        """Return the same dynamics with every prefix a state of its own."""
        states = self.prefix_states()
        allowed = tuple(
            None if mask is None else mask[index]
            for mask, index in zip(self.allowed, states, strict=True)
        )
        sizes = tuple(len(index) for index in states)
        return Dynamics(self.vocab_size, sizes, Tree(), self.prompt_weights, allowed, self.eos)

    def by_prompt(self) -> tuple[Dynamics, list[np.ndarray]]:
        """Return the dynamics after one prompt, the same for all, and the states of each prompt.

        The states are `H` integer arrays ``(P, m_h)``: ``table[states[h]]`` of a layer's table is a
        batch ``(P,)`` of tables on the dynamics of one prompt.

        Raises:
            ValueError: two responses meet in one state after the first prompt and not after
                another, or prompts forbid different tokens.
        """
        tokens = np.arange(self.vocab_size)
        states = [np.arange(self.n_prompts)[:, None]]
        tables: list[np.ndarray] = []
        for h in range(self.horizon - 1):
            following = np.asarray(self.rule.step(h, states[h][..., None], tokens, self.vocab_size))
            reached, table = np.unique(following[0], return_inverse=True)
            tables.append(table.reshape(following.shape[1:]))
            own = np.empty((self.n_prompts, len(reached)), dtype=following.dtype)
            own[:, tables[h]] = following
            if not np.array_equal(own[:, tables[h]], following):
                raise ValueError(
                    f"layer {h + 1}: responses meet in a state after one prompt and not after "
                    "another"
                )
            states.append(own)
        masks = [
            None if mask is None else mask[own]
            for mask, own in zip(self.allowed, states, strict=True)
        ]
        for h, mask in enumerate(masks):
            if mask is not None and not (mask == mask[0]).all():
                raise ValueError(f"layer {h}: one prompt forbids other tokens than another")
        sizes = tuple(own.shape[1] for own in states)
        tree = all(np.array_equal(table.reshape(-1), np.arange(table.size)) for table in tables)
        rule = Tree() if tree else Table(tuple(tables))
        allowed = tuple(None if mask is None else mask[0] for mask in masks)
        return Dynamics(self.vocab_size, sizes, rule, np.ones(1), allowed, self.eos), states


LONGEST = 10_000
"""Steps of a tree whose size is computed to the last digit; no longer one fits any memory."""

REMEDY = (
    "use a smaller horizon or vocabulary, fewer prompts, or dynamics whose states recur (window, "
    "table)"
)


def require_tree_memory(
    vocab_size: int,
    horizon: int,
    n_prompts: int,
    what: str,
    bytes_per_prefix: int = 8,
    remedy: str = REMEDY,
) -> None:
    """Refuse a full tree that does not fit into memory, before any of it is allocated.

    Raises:
        ValueError: names the number of prefixes, the size, and what would fit.

    Example:
        >>> require_tree_memory(2, 100, 1, "the tree")
        Traceback (most recent call last):
        ValueError: the tree: about 10^30 prefixes (vocab_size=2, horizon=100, prompts=1) needs ...
    """
    if vocab_size == 1:
        n_prefixes = n_prompts * horizon
        count = f"{n_prefixes:,}"
    else:
        steps = min(horizon, LONGEST)  # the number itself would take seconds, only to be refused
        n_prefixes = n_prompts * ((vocab_size**steps - 1) * vocab_size // (vocab_size - 1))
        digits = math.log10(n_prefixes) + (horizon - steps) * math.log10(vocab_size)
        count = f"{n_prefixes:,}" if n_prefixes < 10**15 else f"about 10^{digits:.0f}"
    which = (
        f"{what}: {count} prefixes (vocab_size={vocab_size}, horizon={horizon}, "
        f"prompts={n_prompts})"
    )
    if horizon > LONGEST and vocab_size > 1:
        raise ValueError(f"{which} fit no memory; {remedy}")
    require_memory(n_prefixes * bytes_per_prefix, which, remedy)
