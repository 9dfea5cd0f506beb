"""The logits after token prefixes: each token is read once where a key/value cache can be copied
and continued.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicLayer

from llm_bridge.models.head import (
    call,
    device_of,
    evaluation,
    find_head,
    largest_difference,
    require_distribution,
)
from llm_bridge.models.load import CausalLM
from theory.arrays.memory import require_memory

__all__ = ["PrefixReader", "require_integer", "require_token_ids", "select"]

ERRORS = (AttributeError, IndexError, TypeError, ValueError, RuntimeError)
"""What models raise that cannot continue from a cache."""


def require_integer(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def require_token_ids(lm: CausalLM, name: str, values: Sequence[int]) -> np.ndarray:
    """`values` as an array; raise `ValueError` unless they are different ids of the model's
    tokens.
    """
    ids = np.asarray(list(values))
    if ids.size and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
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
    """Reads the logits after prefixes that grow by a token at a time, many in one pass.

    A model of 16 bits would round its logits to 0.06 where they are about 16: its head, where it is
    found, is applied in float32 instead.

    Args:
        lm: the model.
        layers: how often prefixes grow, the prompt itself included.
        memory: bytes that reading may hold: caches, the logits and (estimated) activations of one
            pass.

    """

    def __init__(self, lm: CausalLM, layers: int, memory: int) -> None:
        self.lm, self.layers, self.memory = lm, layers, memory
        self.accepted = inspect.signature(lm.model.forward).parameters
        self.precision = next(p.dtype for p in lm.model.parameters() if p.is_floating_point())
        self.decoder, self.head = None, None
        self._shares: dict[int, bool] = {}
        with evaluation(lm.model):
            if self.precision.itemsize < torch.float32.itemsize:
                self.decoder, self.head, _ = find_head(lm)
            self.cache_bytes = self._cache_bytes()

    def rows(self, length: int, cached: int, most: int) -> int:
        """Prefixes in one pass, after prompts of `length` tokens: at most `most`.

        Args:
            length: tokens of the longest prompt.
            cached: tokens whose keys and values are held for each prefix.
            most: more are never needed.

        Raises:
            ValueError: not one fits, or so many do not fit into the machine.

        """
        longest, model = length + self.layers - 1, self.lm.model
        number = next(model.parameters()).element_size()
        logits = self.lm.vocab_size * (
            6 * 8 + number * (1 if "logits_to_keep" in self.accepted else longest)
        )
        activations = (
            16 * number * longest * getattr(model.config.get_text_config(), "hidden_size", 0)
        )
        row = cached * (self.cache_bytes or 0) + logits + activations
        if row > self.memory:
            raise ValueError(
                f"memory={self.memory}: a prefix of {longest} tokens takes {row} bytes; give at "
                "least those"
            )
        rows = min(self.memory // row, most)
        if device_of(model).type == "cpu":
            require_memory(rows * row, f"reading {rows:,} prefixes at once", "use a smaller memory")
        return int(rows)

    def logits(self, prefixes: np.ndarray, cache: Any, keep: bool) -> tuple[torch.Tensor, Any]:
        """Last logits ``(n, vocabulary)``, double, on the CPU; the cache of the prefixes if it is
        kept.

        With a cache of all but the last token, which the model extends, only the last token is
        read.

        Raises:
            ValueError: they are no distribution's, see `llm_bridge.models.head.require_distribution`.

        """
        ids = torch.from_numpy(prefixes).to(device_of(self.lm.model))
        options = {
            "attention_mask": torch.ones_like(ids),
            "past_key_values": cache,
            "logits_to_keep": 1,
        }
        ids = ids if cache is None else ids[:, -1:]
        output = call(
            self.lm.model if self.head is None else self.decoder, ids, use_cache=keep, **options
        )
        if self.head is None:
            logits = output.logits[:, -1].cpu().double()
        else:
            logits = torch.empty(len(ids), self.head.vocab_size, dtype=torch.double)
            for rows, start, block in self.head.blocks(output[0][:, -1]):
                logits[rows, start : start + block.shape[-1]] = block.cpu().double()
        require_distribution(self.lm.name, logits, lambda row: prefixes[row].tolist())
        return logits, output.past_key_values if keep else None

    def shares_cache(self, prompt: np.ndarray) -> bool:
        """Whether logits from copied caches are those of encoding again, for prompts of the length
        of ``(1, length)``.

        It is tried along one branch after the first prompt of a length.
        """
        length = prompt.shape[1]
        if length not in self._shares:
            self._shares[length] = self.cache_bytes is not None and self._copies_agree(prompt)
        return self._shares[length]

    def _copies_agree(self, prompt: np.ndarray) -> bool:
        prefixes, cache = prompt, None
        try:
            found, cache = self.logits(prefixes, None, True)
            for h in range(1, self.layers):
                parent, before = cache, prefixes
                for last in (
                    0,
                    h % self.lm.vocab_size,
                ):  # the first must leave their parent's as it is
                    prefixes = np.concatenate([before, [[last]]], axis=1)
                    found, cache = self.logits(prefixes, select(parent, [0]), True)
        except ERRORS:
            return False
        expected = self.logits(prefixes, None, False)[0]
        apart, scale = largest_difference(found, expected)
        return bool(apart <= torch.finfo(self.precision).eps ** 0.5 / 2 * scale)

    def _cache_bytes(self) -> int | None:
        """Bytes of a token in a cache whose rows can be copied; `None` for any other kind, or where
        it is not needed.

        Keys and values that only grow can. Windows and recurrent states change what siblings would
        share.
        """
        if self.layers == 1 or not {"past_key_values", "use_cache"} <= set(self.accepted):
            return None
        try:
            layers = self.logits(np.zeros((1, 1), dtype=np.int64), None, True)[1].layers
            grows = len(layers) > 0 and all(type(layer) is DynamicLayer for layer in layers)
            return (
                sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
                if grows
                else None
            )
        except ERRORS:
            return None


def select(cache: Any, rows: Any) -> Any:
    """A cache that holds these rows of `cache`, in this order, and leaves it as it is."""
    selected = copy(cache)
    selected.layers = [copy(layer) for layer in cache.layers]
    selected.reorder_cache(torch.as_tensor(rows))
    return selected
