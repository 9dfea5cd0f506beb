"""Large vocabularies of which a state allows few tokens, as token MDPs over *slots*.

The allowed tokens of a state, in increasing order, are its slots ``0 … d − 1``. What a policy does
in a state is the choice of a slot, so the token MDP over slots, whose vocabulary is the largest
number of tokens that a state allows, has the same values, distances and worst cases; every function
of the package works on it as it is. Only the names of the tokens are kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from theory.arrays.memory import require_memory
from theory.mdp.checks import once_each
from theory.mdp.dynamics import Dynamics
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP

__all__ = ["SparseLayer", "SparseMDP"]

ABSENT = -1
"""Token of a slot that a state does not have."""

BYTES = 8 + 1 + 8 + 4
"""Of a slot: reward, mask, successor, token."""


class SparseLayer(NamedTuple):
    """A layer in compressed rows: state ``s`` allows ``tokens[indptr[s]:indptr[s + 1]]``.

    Example:
        State 0 allows the tokens 7 and 40,000, which lead to the states 0 and 1; state 1 only 3:

        >>> layer = SparseLayer(
        ...     indptr=[0, 2, 3],
        ...     tokens=[7, 40_000, 3],
        ...     rewards=[0.0, 1.0, 0.5],
        ...     next_states=[0, 1, 1],
        ... )
        >>> len(layer.indptr) - 1  # states
        2
    """

    indptr: Any
    """``(n_h + 1,)``, increasing integers from 0 on."""
    tokens: Any
    """``(m,)``, integers; those of a state in any order, each once."""
    rewards: Any
    """``(m,)``, reward units."""
    next_states: Any = None
    """``(m,)``, states of the next layer; not read in the last layer."""


@dataclass(frozen=True, eq=False)
class SparseMDP:
    """A token MDP over slots, and the tokens that they stand for. Build one with `from_rows`.

    Attributes:
        mdp: the token MDP over slots: table dynamics, slots that a state does not have forbidden.
        tokens: `H` tables ``(n_h, d)``: the token of each slot, −1 where there is none.
        vocab_size: number of tokens `V`.

    Example:
        >>> first = SparseLayer([0, 2], [7, 40_000], [0.0, 1.0], [0, 1])
        >>> last = SparseLayer([0, 1, 3], [5, 5, 49_999], [1.0, 0.5, 0.25])
        >>> sparse = SparseMDP.from_rows([first, last], vocab_size=50_000)
        >>> sparse.mdp.vocab_size, sparse.mdp.rewards[1].tolist()
        (2, [[1.0, 0.0], [0.5, 0.25]])
        >>> from theory import map_response, soft_optimal
        >>> best = map_response(soft_optimal(sparse.mdp, alpha=0.5).policy)
        >>> sparse.to_tokens(best).tokens.tolist()
        [[40000, 5]]
    """

    mdp: TokenMDP
    tokens: tuple[np.ndarray, ...]
    vocab_size: int

    @classmethod
    def from_rows(
        cls,
        layers: Sequence[SparseLayer],
        vocab_size: int,
        *,
        prompt_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """Build one from compressed rows.

        Args:
            layers: `H` layers. One that is given several times as the same object is stored once.
            vocab_size: number of tokens `V`.
            prompt_weights: ``(P,)`` distribution over the states of layer 0; uniform by default.
            reward_range: interval that the rewards must lie in.

        Raises:
            ValueError: names the layer, the array and the value; or the slots do not fit into
                memory, because some state allows many more tokens than the others.
        """
        if not layers:
            raise ValueError("layers is empty: the horizon must be at least 1, one layer a token")
        rows = once_each(lambda h, layer: _checked(h, layer, vocab_size), layers)
        width = max(int(np.diff(row.indptr).max()) for row in rows)
        distinct = {id(row): row for row in rows}.values()
        n_slots = width * sum(len(row.indptr) - 1 for row in distinct)
        n_tokens = sum(len(row.tokens) for row in distinct)
        require_memory(
            n_slots * BYTES,
            f"a slot for each of the {width:,} tokens that some state allows, in every state "
            f"({n_slots:,} slots for {n_tokens:,} tokens)",
            "split the states that allow most",
        )
        padded = once_each(lambda h, row: _padded(row, width), rows)
        links = [each.next_states for each in padded[:-1]]
        if any(link is None for link in links):
            raise ValueError(
                f"layers[{links.index(None)}].next_states is None: only the last layer has none"
            )
        mdp = TokenMDP.table(
            [each.rewards for each in padded],
            links,
            prompt_weights=prompt_weights,
            reward_range=reward_range,
            allowed=[each.allowed for each in padded],
        )
        return cls(mdp, tuple(each.tokens for each in padded), vocab_size)

    @property
    def dynamics(self) -> Dynamics:
        """Dynamics of the token MDP over slots."""
        return self.mdp.dynamics

    def to_tokens(self, responses: Responses) -> Responses:
        """Return responses of slots as responses of tokens.

        Raises:
            ValueError: a slot is none of its state; names the response and its place.
        """
        states = self.dynamics.walk(responses.prompts, responses.tokens)
        slots = np.moveaxis(responses.tokens, -1, 0)
        names = [self.tokens[h][s, a] for h, (s, a) in enumerate(zip(states, slots, strict=True))]
        tokens = np.stack(names, axis=-1)
        if (tokens == ABSENT).any():
            where = tuple(map(int, np.argwhere(tokens == ABSENT)[0]))
            raise ValueError(f"responses.tokens: the slot at {where} is none of its state")
        return Responses(responses.prompts, tokens)

    def to_slots(self, responses: Responses) -> Responses:
        """Return responses of tokens as responses of slots, for `log_prob`, `returns` and the like.

        Raises:
            ValueError: a token is not allowed in its state; names the response, its place and it.
        """
        tokens = np.asarray(responses.tokens)
        state = np.asarray(responses.prompts)
        slots = np.empty_like(tokens)
        for h, names in enumerate(self.tokens):
            same = names[state] == tokens[..., h, None]
            if not same.any(axis=-1).all():
                where = np.argwhere(~same.any(axis=-1))[0]
                raise ValueError(
                    f"responses.tokens holds {tokens[(*where, h)]} at {(*map(int, where), h)}: not "
                    "allowed in that state"
                )
            slots[..., h] = same.argmax(axis=-1)
            if h + 1 < len(self.tokens):
                state = self.dynamics.rule.step(h, state, slots[..., h], self.dynamics.vocab_size)
        return Responses(responses.prompts, slots)


def _checked(h: int, layer: SparseLayer, vocab_size: int) -> SparseLayer:
    """The rows as arrays, the tokens of each state in increasing order."""
    name = f"layers[{h}]"
    indptr = _integers(f"{name}.indptr", layer.indptr)
    tokens = _integers(f"{name}.tokens", layer.tokens)
    rewards = np.asarray(layer.rewards)
    links = layer.next_states
    links = None if links is None else _integers(f"{name}.next_states", links)
    if len(indptr) < 2 or indptr[0] != 0 or indptr[-1] != len(tokens):
        raise ValueError(
            f"{name}.indptr: must go from 0 to the number of tokens, {len(tokens)}, with one entry "
            "more than there are states"
        )
    degrees = np.diff(indptr)
    if degrees.min() < 1:
        raise ValueError(
            f"{name}.indptr: state {int(degrees.argmin())} allows {int(degrees.min())} tokens: at "
            "least one must be allowed"
        )
    for field, values in (("rewards", rewards), ("next_states", links)):
        if values is not None and values.shape != tokens.shape:
            raise ValueError(f"{name}.{field} has shape {values.shape}: must be {tokens.shape}")
    if rewards.dtype.kind not in "fiub":
        raise ValueError(f"{name}.rewards has dtype {rewards.dtype}: must hold real numbers")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"{name}.tokens holds {tokens.min()} to {tokens.max()}: vocab_size={vocab_size} has "
            f"tokens 0 to {vocab_size - 1}"
        )
    states = np.repeat(np.arange(len(degrees)), degrees)
    order = np.lexsort((tokens, states))
    tokens = tokens[order]
    again = np.flatnonzero((states[1:] == states[:-1]) & (tokens[1:] == tokens[:-1]))
    if len(again):
        raise ValueError(
            f"{name}.tokens: state {states[again[0]]} has token {tokens[again[0]]} twice"
        )
    links = None if links is None else links[order]
    return SparseLayer(indptr, tokens, rewards[order].astype(float), links)


def _integers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has shape {array.shape}, dtype {array.dtype}: must hold integers, (m,)"
        )
    return array


class _Padded(NamedTuple):
    """A layer's tables ``(n_h, width)``."""

    rewards: np.ndarray
    allowed: np.ndarray | None
    tokens: np.ndarray
    next_states: np.ndarray | None


def _padded(row: SparseLayer, width: int) -> _Padded:
    degrees = np.diff(row.indptr)
    allowed = np.arange(width)[:, None] < degrees  # token-major, as the tables that it masks
    allowed = allowed.T
    shape = allowed.shape

    def table(values: np.ndarray, fill: int, dtype: Any) -> np.ndarray:
        filled = np.full(shape[::-1], fill, dtype=dtype).T
        filled[allowed] = values
        return filled

    links = row.next_states
    return _Padded(
        table(row.rewards, 0, float),
        None if allowed.all() else allowed,
        table(row.tokens, ABSENT, np.int32),
        None if links is None else table(links, 0, np.intp),
    )
