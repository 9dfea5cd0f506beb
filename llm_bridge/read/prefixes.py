"""Read a language model's logits after token prefixes, each token once if the cache allows it.

Next-token scoring is off by one: the model's output at a position is its prediction of the token
at the *next* position.

    position      0     1     2     3     4
    token         p₁    p₂    a₁    a₂    a₃         prompt p₁ p₂, response a₁ a₂ a₃
    state               s₁    s₂    s₃               s_h = all tokens up to this position
    logits        ·     f(s₁) f(s₂) f(s₃) ·          softmax f(s_h) = π(·|s_h), predicts a_h
                        ╰─────┴─────┴──▶ logits[P−1 : P−1+T] score tokens[P : P+T]

So the first response token is scored by the logits at the prompt's *last* token, and the logits at
the response's last token score nothing. Here a prefix is one such state, and its logits are those
at its last position.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

from llm_bridge.models.calls import (
    call,
    device_of,
    evaluation,
    require_distribution,
)
from llm_bridge.models.gate import disagreement, rounding
from llm_bridge.models.load import CausalLM
from theory.arrays.memory import require_memory

__all__ = [
    "Ids",
    "PrefixReader",
    "TreeReader",
    "require_integer",
    "require_prompts",
    "require_token_ids",
    "select",
]

Ids: TypeAlias = Sequence[int] | np.ndarray
"""Token ids."""

ERRORS = (AttributeError, IndexError, TypeError, ValueError, RuntimeError)
"""Errors of models that cannot continue from a cache."""


def require_integer(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an integer of at least 1.

    Example:
        >>> require_integer("horizon", 0)
        Traceback (most recent call last):
        ValueError: horizon=0: must be an integer of at least 1

    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def require_prompts(prompts: Sequence[Any]) -> None:
    """Raise `ValueError` unless `prompts` is a non-empty sequence of prompts and not one text.

    Example:
        >>> require_prompts(["once upon a time"])

    """
    if isinstance(prompts, str) or not len(prompts):
        example = "such as ['once upon a time']"
        raise ValueError(f"prompts={prompts!r}: must be a sequence of at least one text, {example}")


def require_token_ids(lm: CausalLM, name: str, values: Sequence[int]) -> np.ndarray:
    """Return `values` as an integer array.

    Raises:
        ValueError: they are not distinct token ids of the model; names `name` and the id.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> require_token_ids(letter_lm(4), "end_tokens", [3, 1])
        array([3, 1])

    """
    ids = np.asarray(list(values))
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
        raise ValueError(f"{name}={values!r}: must be a sequence of token ids")
    outside = ids[(ids < 0) | (ids >= lm.vocab_size)]
    if outside.size:
        raise ValueError(
            f"{name}: {outside[0]} is not an id of {lm.name}; use ids from 0 to {lm.vocab_size - 1}"
        )
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name}: {unique[counts > 1][0]} is given twice; give each token once")
    return ids.astype(np.int64)


class PrefixReader:
    """Read the logits after prefixes that grow by one token at a time, many in one pass.

    A 16-bit model rounds logits near 16 to multiples of 0.06, so its head is applied in float32 if
    it is found.

    Args:
        lm: model to read.
        layers: lengths that prefixes have, that of the prompt included.
        memory: bytes for caches, logits and (estimated) activations of one pass.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reader = PrefixReader(letter_lm(4), layers=1, memory=2**20)
        >>> with evaluation(reader.lm.model):
        ...     logits, _ = reader.logits(np.array([[0, 1], [2, 3]]), None, False)
        >>> logits.shape
        torch.Size([2, 4])

    """

    def __init__(self, lm: CausalLM, layers: int, memory: int) -> None:
        self.lm = lm
        self.layers = layers
        self.memory = memory
        self.accepted = inspect.signature(lm.model.forward).parameters
        self.precision = next(p.dtype for p in lm.model.parameters() if p.is_floating_point())
        # the head in float32, where the model's own precision is less
        low = self.precision.itemsize < torch.float32.itemsize
        self.decoder: Any = lm.reader.decoder if low else None
        self.head = lm.reader.head if low else None
        self._shares: dict[int, bool] = {}
        with evaluation(lm.model):
            self.cache_bytes = self._cache_bytes()

    def rows(self, length: int, cached: int, most: int) -> int:
        """Return how many prefixes fit into one pass, at most `most`.

        Args:
            length: tokens of the longest prompt.
            cached: tokens whose keys and values are held for each prefix.
            most: largest number that is of use.

        Raises:
            ValueError: not one prefix fits into `memory`, or `memory` not into the machine.

        """
        model = self.lm.model
        longest = length + self.layers - 1
        number = next(model.parameters()).element_size()
        positions = 1 if "logits_to_keep" in self.accepted else longest
        logits = self.lm.vocab_size * (6 * 8 + number * positions)
        width = getattr(model.config.get_text_config(), "hidden_size", 0)
        row = cached * (self.cache_bytes or 0) + logits + 16 * number * longest * width
        if row > self.memory:
            raise ValueError(
                f"memory={self.memory}: a prefix of {longest} tokens takes {row} bytes; give at "
                "least those"
            )
        rows = min(self.memory // row, most) if self.lm.reader.batches else 1
        if device_of(model).type == "cpu":
            require_memory(rows * row, f"reading {rows:,} prefixes at once", "use a smaller memory")
        return int(rows)

    def logits(self, prefixes: np.ndarray, cache: Any, keep: bool) -> tuple[torch.Tensor, Any]:
        """Return the logits at the last position of each prefix, and its cache.

        Args:
            prefixes: ``(n, length)`` token ids.
            cache: cache of all tokens but the last, which the model then extends, or `None`.
            keep: whether to return the extended cache.

        Returns:
            Logits ``(n, vocabulary)`` in double precision on the CPU, and the cache or `None`.

        Raises:
            ValueError: a row has no softmax (`llm_bridge.models.calls.require_distribution`).

        """
        ids = torch.from_numpy(prefixes).to(device_of(self.lm.model))
        options = {
            "attention_mask": torch.ones_like(ids),
            "past_key_values": cache,
            "logits_to_keep": 1,
        }
        ids = ids if cache is None else ids[:, -1:]
        module = self.lm.model if self.head is None else self.decoder
        output = call(module, ids, use_cache=keep, **options)
        if self.head is None:
            logits = output.logits[:, -1].cpu().double()
        else:
            logits = torch.empty(len(ids), self.head.vocab_size, dtype=torch.double)
            for rows, start, block in self.head.blocks(output[0][:, -1]):
                logits[rows, start : start + block.shape[-1]] = block.cpu().double()
        require_distribution(self.lm.name, logits, lambda row: prefixes[row].tolist())
        return logits, output.past_key_values if keep else None

    def shares_cache(self, prompt: np.ndarray) -> bool:
        """Return whether copied caches give the logits of reading the whole prefix again.

        It is tried along one branch after the first prompt of each length, ``(1, length)``.
        """
        length = prompt.shape[1]
        if length not in self._shares:
            self._shares[length] = self.cache_bytes is not None and self._copies_agree(prompt)
        return self._shares[length]

    def _copies_agree(self, prompt: np.ndarray) -> bool:
        prefixes = prompt
        try:
            found, cache = self.logits(prefixes, None, True)
            for h in range(1, self.layers):
                parent = cache
                before = prefixes
                # two children: reading the first must leave the parent's cache as it is
                for last in (0, h % self.lm.vocab_size):
                    prefixes = np.concatenate([before, [[last]]], axis=1)
                    found, cache = self.logits(prefixes, select(parent, [0]), True)
        except ERRORS:
            return False
        expected = self.logits(prefixes, None, False)[0]
        return disagreement(found, expected) <= rounding(self.lm.model)

    def _cache_bytes(self) -> int | None:
        """Return bytes of a token in a cache whose rows can be copied, or `None`.

        Rows of keys and values that only grow can be copied. Sliding windows and recurrent states
        change what siblings would share.
        """
        if self.layers == 1 or not {"past_key_values", "use_cache"} <= set(self.accepted):
            return None
        try:
            layers = self.logits(np.zeros((1, 1), dtype=np.int64), None, True)[1].layers
            if not layers or any(type(layer) is not DynamicLayer for layer in layers):
                return None
            return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
        except ERRORS:
            return None


def select(cache: Any, rows: Any) -> Any:
    """Return a new cache of some rows of `cache`, in this order.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> ids = torch.tensor([[0], [1]])
        >>> cache = call(letter_lm(4).model, ids, use_cache=True).past_key_values
        >>> children = select(cache, [0, 0, 1])  # two children of row 0 and one of row 1
        >>> len(children.layers[0].keys), len(cache.layers[0].keys)
        (3, 2)

    """
    selected = copy(cache)
    selected.layers = [copy(layer) for layer in cache.layers]
    selected.reorder_cache(torch.as_tensor(rows))
    return selected


@dataclass(frozen=True, eq=False)
class _Siblings:
    """Prefixes of layer `h` still to be read: the prompts, or the children of some states.

    Attributes:
        h: layer; 0 for prompts.
        states: ``(n,)`` states of the layer above; for prompts their own numbers.
        prefixes: ``(n, length)`` token ids of these states.
        cache: their cache.
        start: number of the first child that is not yet read.

    """

    h: int
    states: np.ndarray
    prefixes: np.ndarray
    cache: Any = None
    start: int = 0


IdOf: TypeAlias = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""Layer, states ``(n,)`` and child numbers ``(n,)`` to the token ids ``(n,)`` of the children."""


class TreeReader(PrefixReader):
    """Read the logits after every prefix of a tree, each prefix once.

    Blocks of prefixes are read depth first, so that only the caches of one branch exist at a time.
    A child's cache is a copy of its parent's row; the parent keeps its own for its other children.

    Args:
        lm: model to read.
        layers: layers of the tree.
        branching: children `B` of a prefix.
        memory: bytes, see `PrefixReader`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(2)
        >>> with evaluation(lm.model):
        ...     blocks = TreeReader(lm, 2, 2, 2**20).read([[0]], lambda h, states, child: child)
        ...     [(h, states.tolist()) for h, states, logits in blocks]
        [(0, [0]), (1, [0, 1])]

    """

    def __init__(self, lm: CausalLM, layers: int, branching: int, memory: int) -> None:
        super().__init__(lm, layers, memory)
        self.branching = branching

    def at_once(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return how many prefixes fit into one pass, for these prompts; see `rows`."""
        length = max(map(len, prompts))
        if self.branching > 1:  # each layer above keeps its cache for children still to come
            cached = sum(length + h for h in range(self.layers))
        else:
            cached = 2 * (length + self.layers - 1)
        return self.rows(length, cached, len(prompts) * max(1, self.branching ** (self.layers - 1)))

    def read(
        self, prompts: list[list[int]], id_of: IdOf
    ) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        """Yield layer, states ``(n,)`` and logits ``(n, vocabulary)`` of one block after another.

        A block has prompts of one length only: models differ in how they treat padding. The longest
        come first, so that what does not fit fails at once.

        Args:
            prompts: token ids of each prompt.
            id_of: gives the token id of a state's `b`-th child, once the state has been read.

        """
        for length in sorted({len(ids) for ids in prompts}, reverse=True):
            group = [p for p, ids in enumerate(prompts) if len(ids) == length]
            texts = [prompts[p] for p in group]
            rows = self.at_once(texts)
            shares = self.shares_cache(np.array(texts[:1]))
            waiting = [_Siblings(0, np.array(group), np.array(texts))]
            while waiting:
                h, states, prefixes, cache = self._next_block(waiting, rows, id_of)
                logits, cache = self.logits(prefixes, cache, shares)
                if h + 1 < self.layers and self.branching:
                    waiting.append(_Siblings(h + 1, states, prefixes, cache))
                del cache  # else it would still exist beside the next block's
                yield h, states, logits

    def _next_block(
        self, waiting: list[_Siblings], rows: int, id_of: IdOf
    ) -> tuple[int, np.ndarray, np.ndarray, Any]:
        """Take up to `rows` prefixes off the end of `waiting`: layer, states, prefixes, cache."""
        group = waiting.pop()
        B = self.branching if group.h else 1
        stop = min(group.start + rows, len(group.states) * B)
        if stop < len(group.states) * B:
            waiting.append(replace(group, start=stop))
        parents, b = np.divmod(np.arange(group.start, stop), B)
        states = group.states[parents]
        prefixes = group.prefixes[parents]
        if not group.h:
            return 0, states, prefixes, None
        prefixes = np.concatenate([prefixes, id_of(group.h - 1, states, b)[:, None]], axis=1)
        cache = None if group.cache is None else select(group.cache, parents)
        return group.h, states * B + b, prefixes, cache
