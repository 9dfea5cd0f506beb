"""The most probable response of a language model, by beam search, and a certificate of what the
beam may have missed.

A response is never more probable than its prefixes. So every response that was not looked at is at
most as probable as the most probable prefix that was dropped: where that is no more than the best
response found, the best is proven to be the most probable one (MAP), whatever the width of the
beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.head import evaluation
from llm_bridge.models.load import CausalLM, encode_prompt
from llm_bridge.read.prefixes import PrefixReader, require_integer, require_token_ids, select
from theory.arrays.namespace import require_positive

__all__ = ["Beam", "beam_search"]


@dataclass(frozen=True, eq=False)
class Beam:
    """What was found for `P` prompts.

    Attributes:
        responses: token ids of the best response to each prompt, up to and with its end token.
        log_probs: ``(P,)`` ``log π(τ|s₁)`` of these, nats.
        missed: ``(P,)`` the most that ``log π(τ|s₁)`` of any response not looked at can be;
            ``-inf`` where all were.

    """

    responses: tuple[np.ndarray, ...]
    log_probs: np.ndarray
    missed: np.ndarray

    @property
    def shortfall(self) -> np.ndarray:
        """``(P,)`` nats by which the most probable response may be more probable: 0 where the best
        is proven.
        """
        return np.asarray(np.maximum(self.missed - self.log_probs, 0.0))

    @property
    def proven(self) -> np.ndarray:
        """``(P,)`` whether the response is a most probable one."""
        return np.asarray(np.isfinite(self.log_probs) & (self.missed <= self.log_probs))


def beam_search(
    lm: CausalLM,
    prompts: Sequence[str],
    horizon: int,
    width: int,
    *,
    end_tokens: Sequence[int] = (),
    temperature: float = 1.0,
    memory: int = 2**30,
) -> Beam:
    """Search for the most probable response of up to `horizon` tokens to each prompt.

    Args:
        lm: the model.
        prompts: `P` texts.
        horizon: tokens `H` of a response, which ends earlier after an end token.
        width: prefixes that are kept; 1 is greedy decoding where no token ends a response.
        end_tokens: ids after which a response is over.
        temperature: at which the model is sampled.
        memory: bytes that reading and the choice among continuations may hold, see
            `llm_bridge.read.tree.token_tree`. A beam of more prefixes than fit into one pass is
            read again from the prompt on at every token.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, a single prefix not into
            `memory`, or the model's logits are no distribution's.

    """
    for name, value in (("horizon", horizon), ("width", width), ("memory", memory)):
        require_integer(name, value)
    temperature = float(require_positive("temperature", temperature))
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(
            f"prompts={prompts!r}: must be a sequence of at least one text, such as ['once upon a "
            "time']"
        )
    ids = [encode_prompt(lm, prompt, horizon) for prompt in prompts]
    reader, ends = (
        PrefixReader(lm, horizon, memory),
        require_token_ids(lm, "end_tokens", end_tokens),
    )
    searches = []
    with (
        evaluation(lm.model),
        tqdm(total=len(ids), desc=f"{lm.name}: beams", disable=None, leave=False) as bar,
    ):
        for prompt in ids:
            searches.append(_search(reader, np.array([prompt]), width, ends, temperature))
            bar.update()
    responses, log_probs, missed = zip(*searches, strict=True)
    return Beam(tuple(responses), np.array(log_probs), np.array(missed))


def _search(
    reader: PrefixReader, prompt: np.ndarray, width: int, ends: np.ndarray, temperature: float
) -> tuple[np.ndarray, float, float]:
    """Best response, its log-probability, and the most that one not looked at can have, for ids
    ``(1, length)``.
    """
    length = prompt.shape[1]
    rows = reader.rows(length, 2 * (length + reader.layers - 1), width)
    shares = width <= rows and reader.shares_cache(prompt)
    prefixes, totals, cache = prompt, np.zeros(1), None
    best, best_total, missed = prompt[0, :0], -np.inf, -np.inf
    for h in range(reader.layers):
        going: tuple[np.ndarray, ...] = (
            np.zeros(0),
            np.zeros(0, dtype=np.int64),
            np.zeros(0, dtype=np.int64),
        )
        for first in range(0, len(prefixes), rows):
            some = slice(first, first + rows)
            logits, kept = reader.logits(prefixes[some], cache, shares)
            children = (
                totals[some, None] + torch.log_softmax(logits.div_(temperature), dim=-1).numpy()
            )
            over = ends if h + 1 < reader.layers else np.arange(children.shape[1])
            done = children[:, over]
            if done.max(initial=-np.inf) > best_total:
                parent, place = np.unravel_index(np.argmax(done), done.shape)
                best, best_total = (
                    np.append(prefixes[first + parent, length:], over[place]),
                    float(done[parent, place]),
                )
            # no continuation is more probable than its prefix: what cannot win is not kept, and not
            # missed; what is over is no better than the best, and so not kept either
            going = _largest_of(going, children, best_total, width + 1, first)
        values, parents, tokens = (x[going[0] > best_total] for x in going)
        missed = max(missed, float(values[width:].max(initial=-np.inf)))
        values, parents, tokens = values[:width], parents[:width], tokens[:width]
        if not len(values):
            break
        prefixes = np.concatenate([prefixes[parents], tokens[:, None]], axis=1)
        totals, cache = values, select(kept, parents) if shares else None
    return best, best_total, missed


def _largest_of(
    going: tuple[np.ndarray, ...], children: np.ndarray, least: float, n: int, first: int
) -> tuple[np.ndarray, ...]:
    """The `n` largest of `going` and of the `children` above `least`, largest first.

    Both, and what is returned, are values, parents (the rows of `children` counted from `first`)
    and tokens.
    """
    places = np.flatnonzero(children > least)
    places = places[_largest(children.reshape(-1)[places], n)]
    rows, tokens = np.divmod(places, children.shape[1])
    found = zip(going, (children[rows, tokens], first + rows, tokens), strict=True)
    values, parents, tokens = (np.concatenate(pair) for pair in found)
    chosen = _largest(values, n)
    return values[chosen], parents[chosen], tokens[chosen]


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Places of the `n` largest values, largest first, of equals the first."""
    if len(values) > n:
        least = np.partition(values, len(values) - n)[len(values) - n]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")[:n]]
