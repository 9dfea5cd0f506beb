"""The most probable response of a language model, by beam search, and a certificate of what the beam may have missed.

A response is never more probable than its prefixes. So every response that was not looked at is at most as probable as
the most probable prefix that was dropped: where that is no more than the best response found, the best is proven to be
the most probable one (MAP), whatever the width of the beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.head import evaluation
from llm_bridge.model import CausalLM, encode_prompt
from llm_bridge.prefixes import PrefixReader, require_integer, select
from theory.arrays import require_positive

__all__ = ["Beam", "beam_search"]


@dataclass(frozen=True, eq=False)
class Beam:
    """What was found for `P` prompts.

    Attributes:
        responses: token ids of the best response to each prompt, up to and with its end token.
        log_probs: ``(P,)`` ``log π(τ|s₁)`` of these, nats.
        missed: ``(P,)`` the most that ``log π(τ|s₁)`` of any response not looked at can be; ``-inf`` where all were.

    """

    responses: tuple[np.ndarray, ...]
    log_probs: np.ndarray
    missed: np.ndarray

    @property
    def shortfall(self) -> np.ndarray:
        """``(P,)`` nats by which the most probable response may be more probable: 0 where the best is proven."""
        return np.asarray(np.maximum(self.missed - self.log_probs, 0.0))

    @property
    def proven(self) -> np.ndarray:
        """``(P,)`` whether the response is a most probable one."""
        return np.asarray(self.missed <= self.log_probs)


def beam_search(
    lm: CausalLM, prompts: Sequence[str], horizon: int, width: int, *, end_tokens: Sequence[int] = (),
    temperature: float = 1.0, memory: int = 2**30,
) -> Beam:  # fmt: skip
    """Search for the most probable response of up to `horizon` tokens to each prompt.

    Args:
        lm: the model.
        prompts: `P` texts.
        horizon: tokens `H` of a response, which ends earlier after an end token.
        width: prefixes that are kept; 1 is greedy decoding where no token ends a response.
        end_tokens: ids after which a response is over.
        temperature: at which the model is sampled.
        memory: bytes that reading may hold, see `llm_bridge.tree.token_tree`.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, or a single prefix not into `memory`.

    """
    for name, value in (("horizon", horizon), ("width", width), ("memory", memory)):
        require_integer(name, value)
    temperature = float(require_positive("temperature", temperature))
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts={prompts!r}: must be a sequence of at least one text, such as ['once upon a time']")
    ids = [encode_prompt(lm, prompt, horizon) for prompt in prompts]
    reader, ends = PrefixReader(lm, horizon, memory), np.asarray(list(end_tokens), dtype=np.int64)
    searches = []
    with evaluation(lm.model), tqdm(total=len(ids), desc=f"{lm.name}: beams", disable=None, leave=False) as bar:
        for prompt in ids:
            searches.append(_search(reader, np.array([prompt]), width, ends, temperature))
            bar.update()
    responses, log_probs, missed = zip(*searches, strict=True)
    return Beam(tuple(responses), np.array(log_probs), np.array(missed))


def _search(
    reader: PrefixReader, prompt: np.ndarray, width: int, ends: np.ndarray, temperature: float
) -> tuple[np.ndarray, float, float]:
    """Best response, its log-probability, and the most that one not looked at can have, for ids ``(1, length)``."""
    length = prompt.shape[1]
    rows = reader.rows(length, 2 * (length + reader.layers - 1), width)
    shares = width <= rows and reader.shares_cache(prompt)
    prefixes, totals, cache = prompt, np.zeros(1), None
    best, best_total, missed = prompt[0, :0], -np.inf, -np.inf
    for h in range(reader.layers):
        law, cache = _laws(reader, prefixes, cache, rows, shares, temperature)
        children = totals[:, None] + law
        over = (
            np.isin(np.arange(children.shape[1]), ends) if h + 1 < reader.layers else np.ones(children.shape[1], bool)
        )
        parent, token = np.unravel_index(np.argmax(np.where(over, children, -np.inf)), children.shape)
        if over.any() and children[parent, token] > best_total:
            best, best_total = np.append(prefixes[parent, length:], token), float(children[parent, token])
        going = np.where(over, -np.inf, children).reshape(-1)
        # no continuation is more probable than its prefix: what cannot win is not kept, and not missed
        kept = np.flatnonzero(going > best_total)
        kept = kept[_largest(going[kept], width + 1)]
        if len(kept) > width:
            missed, kept = max(missed, float(going[kept[width]])), kept[:width]
        if not len(kept):
            break
        parents, tokens = np.divmod(kept, children.shape[1])
        prefixes = np.concatenate([prefixes[parents], tokens[:, None]], axis=1)
        totals, cache = going[kept], None if cache is None else select(cache, parents)
    return best, best_total, missed


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Places of the `n` largest values, largest first, of equals the first."""
    if len(values) > n:
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")[:n]]


def _laws(
    reader: PrefixReader, prefixes: np.ndarray, cache: Any, rows: int, shares: bool, temperature: float
) -> tuple[np.ndarray, Any]:
    """``log π(·|s)`` after each prefix, ``(n, V)``, and the cache of all of them where it is kept."""
    blocks = []
    for start in range(0, len(prefixes), rows):
        logits, kept = reader.logits(prefixes[start : start + rows], cache, shares)
        blocks.append(torch.log_softmax(logits / temperature, dim=-1).numpy())
    return np.concatenate(blocks), kept
