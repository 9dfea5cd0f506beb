"""The endogenous reward of any causal language model, token by token, in bounded memory.

The model sampled at temperature 1 is the soft-optimal policy of ``Q = α·f`` with logits ``f``. For
a prompt ``s₁`` and the tokens ``a₁ … a_n`` of a response, the hidden state that predicts ``a_h``
stands one position before it:

    position    0 …      P−1      P       …   P+n−2      P+n−1
    token       prompt            a₁      …   a_{n−1}    a_n
    state       –        s₁       s₂      …   s_n        s_{n+1}   (read for
    ``terminal="bootstrap"`` only)

``V(s_h) = α log Σ exp f(s_h)`` and ``log π(a_h|s_h) = f(s_h)[a_h] − log Σ exp f(s_h)`` come from
these hidden states and slices of the output head: ``(batch, time, vocabulary)`` logits never exist.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llm_bridge.models.calls import evaluation
from llm_bridge.models.gate import NO_HEAD
from llm_bridge.models.head import TokenStatistics, token_statistics
from llm_bridge.models.load import CausalLM, require_same_tokenizer
from llm_bridge.models.prompts import Prompt, encode_pair
from llm_bridge.models.served import NO_LOGITS, ServedLM
from llm_bridge.models.spec import ModelSpec
from llm_bridge.models.text import encode_text
from llm_bridge.read.aggregate import Aggregation, aggregate, require_known
from llm_bridge.read.prefixes import Ids, require_integer
from llm_bridge.read.reading import RewardReading

__all__ = [
    "Aggregation",
    "EndogenousReward",
    "RewardReading",
    "Score",
    "batches",
    "find_end_tokens",
]


@dataclass(frozen=True, eq=False)
class Score:
    """The endogenous reward of a response of `n` tokens to a prompt of `P`.

    Arrays are float32 (float64 for a float64 model), sums are added in double precision.

    Attributes:
        prompt_ids: ``(P,)`` token ids of the prompt.
        ids: ``(n,)`` token ids of the response, up to and with its first end-of-sequence token.
        log_probs: ``(n,)`` ``log π(a_h|s_h)``, nats.
        soft_values: ``(n,)`` ``V(s_h)``, reward units: from the logits in either gauge; NaN of a
            served model.
        rewards: ``(n,)`` ``r(s_h, a_h)`` in the gauge asked for.
        greedy: ``(n,)`` whether ``a_h`` is a most probable token.
        end_value: value after the last token, 0 except for ``gauge="logits",
            terminal="bootstrap"``.
        reward_sum: ``r(τ)``, telescoped: ``α log π(τ) + V(s₁) − end_value``, or ``α log π(τ)``.
        log_prob: ``log π(τ)``, nats.

    """

    prompt_ids: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray
    soft_values: np.ndarray
    rewards: np.ndarray
    greedy: np.ndarray
    end_value: float
    reward_sum: float
    log_prob: float

    def __repr__(self) -> str:
        """The sums in one line: no arrays."""
        return (
            f"<{type(self).__name__} of {self.n_tokens} tokens: log π {self.log_prob:.4f} nats, "
            f"reward {self.reward_sum:.4f}>"
        )

    @property
    def soft_value_prompt(self) -> float:
        """``V(s₁)``, the same for every response to the prompt; NaN of a served model."""
        return float(self.soft_values[0])

    @property
    def n_tokens(self) -> int:
        """Number of rewarded tokens `n`."""
        return len(self.ids)


class EndogenousReward:
    """Scores responses with the reward that a causal language model's logits contain (EndoRM, eqs.
    9–12).

    In gauge ``"logits"`` ``r(s_h, a_h) = α log π(a_h|s_h) + V(s_h) − V(s_{h+1})``, in gauge
    ``"logprob"`` ``α log π``. Head products and sums are float32 at least, whatever the model's
    precision. Rows of the head beyond the tokenizer's vocabulary count, as they do in the model's
    own softmax.

    Args:
        model: what `ModelSpec` calls `model` (a folder, a GGUF file, a hub id), loaded in float32;
            a ``transformers`` causal language model; or a `CausalLM`, which brings its tokenizer.
            A `ServedLM` only in gauge ``"logprob"``.
        tokenizer: its tokenizer; `None` will do for `score_ids`.
        reading: temperature, gauge and terminal rule.
        batch_tokens: tokens in one pass of the model, padding included; what is longer goes alone.
        end_tokens: ids after which nothing is rewarded; `None` for those of tokenizer and
            generation configuration.

    The model is checked first (`llm_bridge.models.gate`): what is slower than usual is a warning.

    Raises:
        ValueError: here and in every method, one line that names the argument and the index in it.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(4))
        >>> [score] = reward.score(["ab"], ["cd"])
        >>> round(score.reward_sum - (score.log_prob + score.soft_value_prompt), 6)  # it telescopes
        0.0

    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        reading: RewardReading = RewardReading(),
        *,
        batch_tokens: int = 8192,
        end_tokens: Sequence[int] | None = None,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            if tokenizer is not None:
                raise ValueError(
                    f"tokenizer: {os.fspath(model)!r} brings its own; load the model yourself to "
                    "give another"
                )
            model = ModelSpec(os.fspath(model)).load()
        self.lm = lm = (
            model
            if isinstance(model, CausalLM)
            else CausalLM(model, tokenizer, type(model).__name__)
        )
        require_integer("batch_tokens", batch_tokens)
        self.reading = reading
        self.batch_tokens = batch_tokens
        self._ends = frozenset(find_end_tokens(lm, end_tokens))
        self.vocab_size = lm.vocab_size
        if isinstance(lm, ServedLM):
            if reading.gauge != "logprob":
                raise ValueError(
                    f"gauge={reading.gauge!r}: {lm.name} has no soft values, since {NO_LOGITS}; "
                    "use gauge='logprob', or give the model's folder, GGUF file or hub id"
                )
        elif lm.reader.head is None:
            warnings.warn(f"{lm.name}: {NO_HEAD}", stacklevel=2)

    @property
    def has_values(self) -> bool:
        """Whether soft values are read: of a served model they are NaN."""
        return not isinstance(self.lm, ServedLM)

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, eos: bool = False
    ) -> list[Score]:
        """Score texts; `encode` says how they become tokens."""
        self._require(prompts, responses)
        names = [(f"prompts[{i}]", f"responses[{i}]") for i in range(len(prompts))]
        pairs = zip(prompts, responses, names, strict=True)
        encoded = [
            self.encode(prompt, response, eos=eos, names=name) for prompt, response, name in pairs
        ]
        return self.score_ids([before for before, _ in encoded], [answer for _, answer in encoded])

    def score_messages(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        responses: Sequence[str],
        *,
        eos: bool = True,
    ) -> list[Score]:
        """Score assistant turns that follow conversations (lists of ``role`` and ``content``) in
        the chat template.
        """
        return self.score(prompts, responses, eos=eos)

    def encode(
        self,
        prompt: Prompt,
        response: str,
        *,
        eos: bool,
        names: tuple[str, str] = ("prompt", "response"),
    ) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response, as they are scored.

        Both are tokenised as one text, see `llm_bridge.models.text`, after the special tokens that
        the tokenizer puts before a text; with `eos` an end-of-sequence token follows.

        Of a conversation, the prompt is the chat template's text with the generation prompt, and
        the response all that the template adds for the assistant's turn, up to the first of
        `end_tokens`, which stays if `eos`. See `llm_bridge.models.chat`.

        A response whose own text goes on after an end token is refused: all that follows would be
        without reward.
        """
        tokenizer = self.lm.tokenizer
        text = isinstance(prompt, str)
        before, answer = encode_pair(self.lm, prompt, response, names)
        if text and eos and tokenizer.eos_token_id is None:
            raise ValueError(
                f"eos=True: the tokenizer of {self.lm.name} has no end-of-sequence token; use "
                "eos=False"
            )
        own = answer if text else encode_text(self.lm, response, special=False, name=names[1])
        if self._end(own) < len(own) - 1:
            end = tokenizer.convert_ids_to_tokens(own[self._end(own)])
            raise ValueError(
                f"{names[1]}: its text goes on after the end token {end!r}; take it out, or use "
                "score_ids"
            )
        if not text:
            return before, answer[: self._end(answer) + eos]
        if eos and self._end(own) == len(own):
            answer = [*answer, tokenizer.eos_token_id]
        return before, answer

    def score_ids(
        self, prompt_ids: Sequence[Ids], response_ids: Sequence[Ids], *, progress: bool = True
    ) -> list[Score]:
        """Score token ids as they are, each response up to its first end token, and return them in
        this order.
        """
        self._require(prompt_ids, response_ids)
        prompts = [np.asarray(ids, dtype=np.int64) for ids in prompt_ids]
        answers = [np.asarray(ids[: self._end(ids) + 1], dtype=np.int64) for ids in response_ids]
        # whether the state after the last token is read; if not, that token is not even fed
        ahead = [
            int(self.reading.terminal == "bootstrap" and self._end(a) == len(a)) for a in answers
        ]
        rows = [
            np.append(p, a[: len(a) - 1 + more])
            for p, a, more in zip(prompts, answers, ahead, strict=True)
        ]
        for i, row in enumerate(rows):
            self._require_ids(f"prompts[{i}]", prompts[i])
            self._require_ids(f"responses[{i}]", answers[i])
            self.lm.require_room(f"responses[{i}]: prompt and response", len(row))
        states = [np.arange(len(p) - 1, len(row)) for p, row in zip(prompts, rows, strict=True)]
        tokens = [
            np.pad(a, (0, more)) for a, more in zip(answers, ahead, strict=True)
        ]  # after the last one: any
        found = self._read(rows, states, tokens, progress)
        return [self._score(*of_one) for of_one in zip(prompts, answers, found, strict=True)]

    def next_tokens(
        self, prompt_ids: Sequence[Ids], tokens: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """``log π(a|s)`` `(n, k)`, nats, of each of the tokens `(k,)` after each prompt, and
        ``V(s)`` `(n,)` there.
        """
        rows = [np.asarray(ids, dtype=np.int64) for ids in prompt_ids]
        wanted = np.asarray(tokens, dtype=np.int64)
        self._require_ids("tokens", wanted)
        for i, row in enumerate(rows):
            self._require_ids(f"prompts[{i}]", row)
            self.lm.require_room(f"prompts[{i}]: its tokens", len(row))
        states = [np.full(len(wanted), len(row) - 1) for row in rows]
        found = self._read(rows, states, [wanted] * len(rows), progress=False)
        log_probs = np.array([one.log_probs for one in found]).reshape(len(rows), len(wanted))
        return log_probs, self.reading.alpha * np.array([one.normalizers[0] for one in found])

    def aggregate(
        self,
        scores: Sequence[Score],
        how: Aggregation = "sum",
        reference: EndogenousReward | None = None,
        *,
        without: Sequence[Score] | None = None,
        discount: float = 1.0,
        floor: float = -math.inf,
    ) -> np.ndarray:
        """One number for each response `(n,)`, as `llm_bridge.read.aggregate.aggregate` has it.

        Args:
            scores: of the responses.
            how: which aggregation.
            reference: model that scores the same token ids, for ``"anchored"``.
            without: scores of the same token ids after the prompts without context, for
                ``"lift"``.
            discount: `γ` of discounted and clipped sums.
            floor: `m` of clipped sums, reward units.

        """
        require_known(how)
        for given, name, needed in (
            (reference, "reference", "anchored"),
            (without, "without", "lift"),
        ):
            if (how == needed) != (given is not None):
                raise ValueError(f"how={how!r} {'needs' if given is None else 'takes no'} {name}")
        others: Sequence[float | None] = [None] * len(scores)
        if reference is not None:
            others = self.anchor(scores, reference).tolist()
        elif without is not None:
            if [s.ids.tolist() for s in scores] != [s.ids.tolist() for s in without]:
                raise ValueError("without: must have the same tokens as scores")
            others = [s.log_prob for s in without]
        alpha = self.reading.alpha
        by = {"discount": discount, "floor": floor}
        return np.array(
            [
                aggregate(how, score, alpha, other_log_prob=other, **by)
                for score, other in zip(scores, others, strict=True)
            ]
        )

    def anchor(
        self, scores: Sequence[Score], reference: EndogenousReward, *, progress: bool = True
    ) -> np.ndarray:
        """``log π_ref(τ)`` of each response `(n,)`, nats: `reference` scores the same token ids."""
        if self.lm.tokenizer is not None and reference.lm.tokenizer is not None:
            require_same_tokenizer(self.lm, reference.lm)
        found = reference.score_ids(
            [s.prompt_ids for s in scores], [s.ids for s in scores], progress=progress
        )
        if [a.n_tokens for a in found] != [s.n_tokens for s in scores]:
            raise ValueError(
                "reference: ends responses at other tokens; give both the same end_tokens"
            )
        return np.array([a.log_prob for a in found])

    def _require(self, prompts: Any, responses: Any) -> None:
        if isinstance(prompts, str) or isinstance(responses, str):
            raise ValueError("prompts and responses must be sequences: one text is [text]")
        if len(prompts) != len(responses):
            raise ValueError(
                f"{len(prompts)} prompts and {len(responses)} responses: give a response to each "
                "prompt"
            )

    def _end(self, ids: Ids) -> int:
        """Index of the first end token, or the length where there is none."""
        return next((i for i, token in enumerate(ids) if int(token) in self._ends), len(ids))

    def _require_ids(self, name: str, ids: np.ndarray) -> None:
        if not len(ids):
            raise ValueError(f"{name}: empty, must have at least one token")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"{name}: ids must be from 0 to {self.vocab_size - 1} in {self.lm.name}"
            )

    def _read(
        self,
        rows: list[np.ndarray],
        states: list[np.ndarray],
        tokens: list[np.ndarray],
        progress: bool,
    ) -> list[TokenStatistics]:
        """Of each row's `tokens`, read at its positions `states`."""
        if isinstance(self.lm, ServedLM):
            return self.lm.read(rows, states, tokens)
        found: dict[int, TokenStatistics] = {}
        reader = self.lm.reader
        reader.prepare(max((len(row) for row in rows), default=0))
        # with all logits in memory, or rows that change each other, one at a time
        limit = self.batch_tokens if reader.batches and reader.head is not None else 0
        with (
            evaluation(self.lm.model),
            tqdm(
                total=len(rows), desc=self.lm.name, disable=None if progress else True, leave=False
            ) as bar,
        ):
            for batch in batches([len(row) for row in rows], limit):
                wanted = torch.from_numpy(np.concatenate([tokens[i] for i in batch]))
                statistics = self._pass(
                    [rows[i] for i in batch], [states[i] for i in batch], wanted
                )
                cuts = np.cumsum([len(states[i]) for i in batch])[:-1]
                for i, *parts in zip(batch, *(np.split(x, cuts) for x in statistics), strict=True):
                    found[i] = one = TokenStatistics(*parts)
                    if not np.isfinite(one.normalizers).all():
                        raise ValueError(
                            f"responses[{i}]: {self.lm.name} overflows there; load it in another "
                            "dtype"
                        )
                bar.update(len(batch))
        return [found[i] for i in range(len(rows))]

    def _pass(
        self, rows: list[np.ndarray], states: list[np.ndarray], tokens: torch.Tensor
    ) -> TokenStatistics:
        """One pass of the model, rows padded to the first."""
        reader = self.lm.reader
        ids = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
        read = reader.states(ids)
        where = [torch.from_numpy(positions).to(read.device) for positions in states]
        found = torch.cat([row[positions] for row, positions in zip(read, where, strict=True)])
        blocks = [(slice(None), 0, found)] if reader.head is None else reader.head.blocks(found)
        return token_statistics(blocks, tokens, found)

    def _score(self, prompt: np.ndarray, answer: np.ndarray, found: TokenStatistics) -> Score:
        logs = found.log_probs[: len(answer)]
        greedy = found.greedy[: len(answer)]
        values = (
            self.reading.alpha * np.append(found.normalizers.astype(float), 0.0)[: len(answer) + 1]
        )
        gauge = values if self.reading.gauge == "logits" else np.zeros_like(values)
        rewards = self.reading.alpha * logs.astype(float) + gauge[:-1] - gauge[1:]
        log_prob = float(logs.sum(dtype=float))
        start = float(gauge[0])
        end = float(gauge[-1])
        arrays = logs, values[:-1].astype(logs.dtype), rewards.astype(logs.dtype)
        return Score(
            prompt,
            answer,
            *arrays,
            greedy,
            end,
            self.reading.alpha * log_prob + start - end,
            log_prob,
        )


def find_end_tokens(lm: CausalLM, given: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the ids after which a response is over: those `given`, or those of tokenizer and
    generation configuration.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.eos_token = "d"
        >>> find_end_tokens(lm), find_end_tokens(lm, given=[1])
        ((3,), (1,))

    """
    if given is None:
        configured: Any = getattr(
            getattr(lm.model, "generation_config", None), "eos_token_id", None
        )
        given = [lm.tokenizer and lm.tokenizer.eos_token_id, *np.atleast_1d(configured)]
    return tuple(sorted({int(token) for token in given if token is not None}))


FULL = 0.75
"""Least share of its longest row that each row of a batch has: padding is work for nothing."""


def batches(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield indices of rows of these sizes, longest first: what does not fit into memory fails at
    once.

    A batch has rows of similar length and at most `limit` tokens with its padding, or is one row.

    Example:
        >>> list(batches([3, 9, 4, 1], limit=10))
        [[1], [2, 0], [3]]

    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    start = 0
    while start < len(order):
        longest = sizes[order[start]]
        stop = start + 1
        while (
            stop < min(len(order), start + limit // longest)
            and sizes[order[stop]] >= FULL * longest
        ):
            stop += 1
        yield order[start:stop]
        start = stop
