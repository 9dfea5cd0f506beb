"""Find a language model's most probable response by beam search, with a certificate.

A response is never more probable than its prefixes. So every response that was not examined is at
most as probable as the most probable prefix that was dropped. If that is no more than the best
response found, the best is proven to be the most probable one (MAP), whatever the beam's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_prompt
from llm_bridge.read.prefixes import (
    PrefixReader,
    require_integer,
    require_prompts,
    require_token_ids,
    select,
)
from theory.arrays.namespace import require_positive
from theory.storage.files import number

if TYPE_CHECKING:
    from theory.storage.runs import Lines

__all__ = ["Beam", "Found", "beam_search", "parse_found"]

Found: TypeAlias = tuple[np.ndarray, float, float]
"""Best response to one prompt, its log-probability, and `Beam.missed`."""


@dataclass(frozen=True, eq=False)
class Beam:
    """Best response found for each of `P` prompts.

    Attributes:
        responses: token ids of the best response to each prompt, its end token included.
        log_probs: ``(P,)`` ``log π(τ|s₁)`` of these, nats.
        missed: ``(P,)`` upper bound of ``log π(τ|s₁)`` over all responses that were not examined,
            nats; ``-inf`` if there are none.

    """

    responses: tuple[np.ndarray, ...]
    log_probs: np.ndarray
    missed: np.ndarray

    @property
    def shortfall(self) -> np.ndarray:
        """``(P,)`` nats by which another response may be more probable; 0 if none can be."""
        return np.asarray(np.maximum(self.missed - self.log_probs, 0.0))

    @property
    def proven(self) -> np.ndarray:
        """``(P,)`` whether the response is proven to be a most probable one."""
        return np.asarray(np.isfinite(self.log_probs) & (self.missed <= self.log_probs))


def beam_search(
    lm: CausalLM,
    prompts: Sequence[Prompt],
    horizon: int,
    width: int,
    *,
    end_tokens: Sequence[int] = (),
    temperature: float = 1.0,
    memory: int = 2**30,
    lines: Lines[Found] | None = None,
) -> Beam:
    """Search for the most probable response of up to `horizon` tokens to each prompt.

    Args:
        lm: model to search.
        prompts: `P` texts or conversations.
        horizon: most tokens `H` of a response, which an end token ends earlier.
        width: prefixes kept at each token; 1 is greedy decoding if there are no end tokens.
        end_tokens: ids after which a response is over.
        temperature: temperature at which the model is sampled.
        memory: bytes for reading and for choosing among continuations, see
            `llm_bridge.read.tree.token_tree`. If the beam does not fit into one pass, its prefixes
            are read again from the prompt on at every token.
        lines: results of the first prompts that are known already (`parse_found`); new ones are
            added.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, a single prefix does not fit
            into `memory`, or logits have no softmax.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> beam = beam_search(letter_lm(4), ["a"], horizon=2, width=16)
        >>> len(beam.responses[0]), beam.proven.tolist()
        (2, [True])

    """
    for name, value in (("horizon", horizon), ("width", width), ("memory", memory)):
        require_integer(name, value)
    temperature = float(require_positive("temperature", temperature))
    require_prompts(prompts)
    ids = [encode_prompt(lm, prompt, horizon) for prompt in prompts]
    reader = PrefixReader(lm, horizon, memory)
    ends = require_token_ids(lm, "end_tokens", end_tokens)
    found = list(lines or ())
    todo = ids[len(found) :]
    with evaluation(lm.model):
        for prompt in tqdm(todo, desc=f"{lm.name}: beams", disable=None, leave=False):
            found.append(_search(reader, np.array([prompt]), width, ends, temperature))
            if lines is not None:
                response, *numbers = found[-1]
                lines.append([response.tolist(), *numbers])
    responses, log_probs, missed = zip(*found, strict=True)
    return Beam(tuple(responses), np.array(log_probs), np.array(missed))


def parse_found(row: list[Any]) -> Found:
    """Parse a line that `beam_search` has added.

    Example:
        >>> parse_found([[3, 1], -0.5, "-inf"])
        (array([3, 1]), -0.5, -inf)

    """
    response, log_prob, missed = row
    return np.array(response, dtype=np.int64), float(number(log_prob)), float(number(missed))


def _search(
    reader: PrefixReader, prompt: np.ndarray, width: int, ends: np.ndarray, temperature: float
) -> Found:
    """Search from one prompt ``(1, length)``: best response, its log-probability, and `missed`."""
    length = prompt.shape[1]
    rows = reader.rows(length, 2 * (length + reader.layers - 1), width)
    shares = width <= rows and reader.shares_cache(prompt)
    prefixes = prompt
    totals = np.zeros(1)
    cache = None
    best = prompt[0, :0]
    best_total = -np.inf
    missed = -np.inf
    none = np.zeros(0, dtype=np.int64)
    for h in range(reader.layers):
        going: tuple[np.ndarray, ...] = (np.zeros(0), none, none)
        for first in range(0, len(prefixes), rows):
            some = slice(first, first + rows)
            logits, kept = reader.logits(prefixes[some], cache, shares)
            log_probs = torch.log_softmax(logits.div_(temperature), dim=-1).numpy()
            children = totals[some, None] + log_probs
            over = ends if h + 1 < reader.layers else np.arange(children.shape[1])
            done = children[:, over]
            if done.max(initial=-np.inf) > best_total:
                parent, place = np.unravel_index(np.argmax(done), done.shape)
                best = np.append(prefixes[first + parent, length:], over[place])
                best_total = float(done[parent, place])
            # a continuation is no more probable than its prefix: prefixes at or below the best can
            # be dropped without being missed, and responses that are over are among these
            going = _largest_of(going, children, best_total, width + 1, first)
        values, parents, tokens = (x[going[0] > best_total] for x in going)
        missed = max(missed, float(values[width:].max(initial=-np.inf)))
        values = values[:width]
        parents = parents[:width]
        tokens = tokens[:width]
        if not len(values):
            break
        prefixes = np.concatenate([prefixes[parents], tokens[:, None]], axis=1)
        totals = values
        cache = select(kept, parents) if shares else None
    return best, best_total, missed


def _largest_of(
    going: tuple[np.ndarray, ...], children: np.ndarray, least: float, n: int, first: int
) -> tuple[np.ndarray, ...]:
    """Select the `n` largest of `going` and of the `children` above `least`, largest first.

    Args:
        going: values, parents and tokens, ``(m,)`` each, selected so far.
        children: ``(rows, V)`` values; row `i` has the parent ``first + i``, column `a` token `a`.
        least: smaller or equal values are left out.
        n: most values selected.
        first: parent of the first row.

    Returns:
        Values, parents and tokens, ``(n,)`` each at most.

    """
    places = np.flatnonzero(children > least)
    places = places[_largest(children.reshape(-1)[places], n)]
    rows, tokens = np.divmod(places, children.shape[1])
    found = zip(going, (children[rows, tokens], first + rows, tokens), strict=True)
    values, parents, tokens = (np.concatenate(pair) for pair in found)
    chosen = _largest(values, n)
    return values[chosen], parents[chosen], tokens[chosen]


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Return positions of the `n` largest values, largest first; of equals the first ones."""
    if len(values) > n:
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")[:n]]
