"""What can judge a response, all behind one interface: the endogenous reward, and what it is held
against.

A scorer turns a `Comparison` into requests, each a row of tokens for the model, and requests into
*records*: what one line of ``responses.jsonl`` says. A column of the records is a score, and its
accuracy is `llm_bridge.preferences.accuracy.summary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, get_args

import numpy as np
import torch
from scipy.special import softmax

from llm_bridge.models.head import call, device_of, evaluation
from llm_bridge.models.load import CausalLM, encode, require_same_tokenizer
from llm_bridge.models.prompts import (
    PAIRWISE,
    POINTWISE,
    VERIFIER,
    Prompt,
    Question,
    as_text,
    prompt_ids,
    response_ids,
)
from llm_bridge.preferences.accuracy import PAIR
from llm_bridge.preferences.pairs import Comparison, Key
from llm_bridge.read.reward import Aggregation, EndogenousReward, aggregate

__all__ = [
    "Conversation",
    "Endogenous",
    "Pairwise",
    "Pointwise",
    "Record",
    "Request",
    "RewardModel",
    "Scorer",
    "Verifier",
]

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Request:
    """What is scored at once: a response, or a pair as `accuracy.of_pairs` counts them.

    Attributes:
        key: of the response or the pair.
        rows: rows of token ids that the model reads for it; which they are is the scorer's own
            matter.
        facts: what its record says before the scores: ``tokens`` of the response, and of those left
            out of it ``cut``.

    """

    key: Key
    rows: tuple[np.ndarray, ...]
    facts: Mapping[str, int]

    @property
    def size(self) -> int:
        """Tokens read."""
        return sum(map(len, self.rows))


class Scorer(Protocol):
    """Judges comparisons."""

    def requests(self, comparison: Comparison) -> list[Request]:
        """The work that a comparison is; ValueError, in one line, where it cannot be scored."""

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """What is found for the requests, in their order; a batch is one pass of the model."""

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The scores in records ``(n,)`` by name, arrays ``(n,)``; the first is the one that
        counts.
        """


@dataclass(frozen=True)
class Conversation:
    """How a comparison is put to a model: in its tokenizer's chat template, or (`chat` false) as
    plain text.

    Plain: system prompt, prompt and response, `separator` after each of the first two. `system`
    replaces every comparison's own, and an empty one leaves it out. An end-of-turn or
    end-of-sequence token is part of the response if `eos`; `None`: in the chat template only.
    """

    lm: CausalLM
    chat: bool
    system: str | None = None
    eos: bool | None = None
    separator: str = "\n\n"

    @property
    def ends(self) -> bool:
        """Whether the token that ends a response is scored with it."""
        return self.chat if self.eos is None else self.eos

    def prompt(self, comparison: Comparison) -> Prompt:
        """Messages in the chat template, else a text."""
        system = self._system(comparison)
        if not self.chat:
            if not isinstance(comparison.prompt, str) and len(comparison.prompt) > 1:
                several = f"{len(comparison.prompt)} messages"
                raise ValueError(
                    f"prompt: {several}, and {self.lm.name} is given plain text: a chat template "
                    "is needed"
                )
            return as_text(comparison.prompt, system, self.separator) + self.separator
        turns: Prompt = comparison.prompt
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        return [*([] if system is None else [{"role": "system", "content": system}]), *turns]

    def question(self, comparison: Comparison) -> str:
        """The prompt as a judge reads it, one text."""
        return as_text(comparison.prompt, self._system(comparison))

    def _system(self, comparison: Comparison) -> str | None:
        return comparison.system if self.system is None else self.system or None


class Endogenous:
    """The endogenous reward, in the aggregations of `llm_bridge.read.reward.aggregate`;
    ``anchored`` with a `reference`.

    A record has `reward_sum`, `log_prob`, `soft_value_prompt` and `end_value` of `Score`,
    `reference_log_prob`, and of each token `token_ids`, `rewards` and `log_probs`. With `truncate`
    a response is cut to what the context holds.
    """

    def __init__(
        self,
        reward: EndogenousReward,
        conversation: Conversation,
        reference: EndogenousReward | None = None,
        *,
        truncate: bool = False,
    ) -> None:
        self.reward, self.conversation, self.reference, self.truncate = (
            reward,
            conversation,
            reference,
            truncate,
        )
        contexts = [
            r.lm.context for r in (reward, reference) if r is not None and r.lm.context is not None
        ]
        self._context = min(contexts, default=None)
        if reference is not None:
            require_same_tokenizer(reward.lm, reference.lm)

    def requests(self, comparison: Comparison) -> list[Request]:
        """One for each response."""
        prompt, requests, before = self.conversation.prompt(comparison), [], None
        for key, text in comparison.responses():
            names, ends = ("prompt", f"{key[1]}[{key[2]}]"), self.conversation.ends
            before, answer = self.reward.encode(prompt, text, eos=ends, names=names, before=before)
            kept = self._fitting(before, answer, names[1])
            facts = {"tokens": len(kept)} | (
                {"cut": len(answer) - len(kept)} if self.truncate else {}
            )
            requests.append(Request(key, (_ids(before), _ids(kept)), facts))
        return requests

    def _fitting(self, before: list[int], answer: list[int], name: str) -> list[int]:
        if not before or not answer:
            raise ValueError(f"{name if before else 'prompt'}: has no token")
        if self._context is None:
            return answer
        room = (
            self._context - len(before) + (self.reward.reading.terminal == "zero")
        )  # whose last token is not fed
        if len(answer) > room and not (self.truncate and room > 0):
            sizes = f"prompt and response have {len(before)} + {len(answer)} tokens"
            raise ValueError(
                f"{name}: {sizes}, {self.reward.lm.name} has {self._context} positions"
            )
        return answer[:room]

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """One for each response."""
        prompts, answers = ([request.rows[n] for request in requests] for n in (0, 1))
        scores = self.reward.score_ids(prompts, answers, progress=False)
        records: list[Record] = [
            dict(request.facts)
            | {name: getattr(score, name) for name in OF_RESPONSE}
            | {
                "token_ids": score.ids.tolist(),
                "rewards": _short(score.rewards),
                "log_probs": _short(score.log_probs),
            }
            for request, score in zip(requests, scores, strict=True)
        ]
        if self.reference is not None:
            anchors = self.reward.anchor(scores, self.reference, progress=False)
            for record, anchor in zip(records, anchors.tolist(), strict=True):
                record["reference_log_prob"] = anchor
        return records

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Sum, mean, log-probability, and anchored log-probability where there is a reference."""
        found = {
            name: np.array([record[name] for record in records])
            for name in ("reward_sum", "log_prob", "tokens")
        }
        anchor = (
            None
            if self.reference is None
            else np.array([record["reference_log_prob"] for record in records])
        )
        names = [how for how in get_args(Aggregation) if how != "anchored" or anchor is not None]
        return {
            how: aggregate(how, self.reward.reading.alpha, **found, reference_log_prob=anchor)
            for how in names
        }


OF_RESPONSE = ("reward_sum", "log_prob", "soft_value_prompt", "end_value")


class Judge:
    """A model asked a `Question`: it answers by the probabilities of the tokens that tell the
    answers apart.

    Tokens that all answers begin with (a space, a template's empty reasoning) are read as part of
    the prompt.
    """

    question: Question

    def __init__(self, reward: EndogenousReward, conversation: Conversation) -> None:
        self.reward, self.conversation = reward, conversation
        answers = [self._encode("?", answer)[1] for answer in self.question.answers]
        places = range(min(map(len, answers)))
        apart = next((k for k in places if len({answer[k] for answer in answers}) > 1), len(places))
        self._prefix, self._tokens = (
            answers[0][:apart],
            [answer[apart] for answer in answers if len(answer) > apart],
        )
        if len(set(self._tokens)) < len(answers):
            words = ", ".join(self.question.answers)
            raise ValueError(
                f"{reward.lm.name}: no token tells the answers {words} apart; use another --method"
            )

    def _encode(self, text: str, answer: str) -> tuple[list[int], list[int]]:
        prompt: Prompt = (
            [{"role": "user", "content": text}]
            if self.conversation.chat
            else text + self.conversation.separator
        )
        return self.reward.encode(prompt, answer, eos=False)

    def _row(self, name: str, **texts: str) -> np.ndarray:
        ids = (
            self._encode(self.question.text.format(**texts), self.question.answers[0])[0]
            + self._prefix
        )
        context = self.reward.lm.context
        if context is not None and len(ids) > context:
            raise ValueError(
                f"{name}: the question has {len(ids)} tokens, {self.reward.lm.name} has {context} "
                "positions"
            )
        return _ids(ids)

    def requests(self, comparison: Comparison) -> list[Request]:
        """One for each response."""
        prompt, tokenizer = self.conversation.question(comparison), self.reward.lm.tokenizer

        def tokens(text: str) -> int:
            return len(encode(tokenizer, text, special_tokens=False))

        return [
            Request(
                key,
                (self._row(f"{key[1]}[{key[2]}]", prompt=prompt, response=text),),
                {"tokens": tokens(text)},
            )
            for key, text in comparison.responses()
        ]

    def _answers(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        """``log π`` of the answers `(n, k)` and soft values `(n,)` after every row of the
        requests.
        """
        log_probs, values = self.reward.next_tokens(
            [row for request in requests for row in request.rows], self._tokens
        )
        return log_probs.astype(float), values.astype(float)


class Verifier(Judge):
    """The generative reward model: is the answer correct? Columns ``log_prob``, ``reward_sum`` and
    ``log_odds``.

    The endogenous reward of the one-token response "Yes": its `reward_sum` is the logit, whose
    ``V(s₁)`` differs from response to response and so does not cancel, `log_prob` is ``log
    π(Yes)``, `log_odds` is ``log π(Yes)/π(No)``.
    """

    question = VERIFIER

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """One for each response."""
        log_probs, values = self._answers(requests)
        found = np.column_stack(
            [
                log_probs[:, 0],
                self.reward.reading.alpha * log_probs[:, 0] + values,
                values,
                -np.diff(log_probs),
            ]
        )
        names = ("log_prob", "reward_sum", "soft_value_prompt", "log_odds")
        return [
            dict(r.facts) | dict(zip(names, row, strict=True))
            for r, row in zip(requests, found.tolist(), strict=True)
        ]

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Three readings of one answer."""
        return {
            name: np.array([record[name] for record in records])
            for name in ("log_prob", "reward_sum", "log_odds")
        }


class Pointwise(Judge):
    """A rating from 1 to 5: its expectation among these five answers (column ``rating``); `mass` is
    what they have.
    """

    question = POINTWISE

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """One for each response."""
        log_probs = self._answers(requests)[0]
        shares = softmax(log_probs, axis=1)  # also of five answers that all underflow
        mass, ratings = np.exp(log_probs).sum(1), shares @ np.arange(1, 1 + shares.shape[1])
        found = zip(requests, ratings.tolist(), mass.tolist(), strict=True)
        return [
            dict(request.facts) | {"rating": rating, "mass": total}
            for request, rating, total in found
        ]

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The expected rating."""
        return {"rating": np.array([record["rating"] for record in records])}


class Pairwise(Judge):
    """Which of two answers is better, asked in both orders: column ``log_odds``, the mean of ``log
    π(A)/π(B)`` of them.

    `first` and `second` are the log-odds of the chosen response in the first and in the second
    place.
    """

    question = PAIRWISE

    def requests(self, comparison: Comparison) -> list[Request]:
        """One for each pair, of two rows."""
        prompt, rows = self.conversation.question(comparison), []
        for i, chosen in enumerate(comparison.chosen):
            for j, rejected in enumerate(comparison.rejected):
                name, both = (
                    f"chosen[{i}] with rejected[{j}]",
                    ((chosen, rejected), (rejected, chosen)),
                )
                rows.append(
                    tuple(
                        self._row(name, prompt=prompt, first=one, second=two) for one, two in both
                    )
                )
        return [Request((comparison.id, PAIR, k), row, {}) for k, row in enumerate(rows)]

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """One for each pair."""
        log_probs, _ = self._answers(requests)
        odds = (log_probs[:, 0] - log_probs[:, 1]).reshape(-1, 2) * (1, -1)
        return [
            {"log_odds": (one + two) / 2, "first": one, "second": two} for one, two in odds.tolist()
        ]

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The mean of both orders, and each, so that what the order does is seen."""
        return {
            name: np.array([record[name] for record in records])
            for name in ("log_odds", "first", "second")
        }


class RewardModel:
    """An explicit reward model, a sequence classifier with one label: column ``score``, its
    output.
    """

    def __init__(self, lm: CausalLM, conversation: Conversation) -> None:
        self.lm, self.conversation = lm, conversation

    def requests(self, comparison: Comparison) -> list[Request]:
        """One for each response; the whole conversation, with the token that ends it in a chat
        template.
        """
        prompt, requests = self.conversation.prompt(comparison), []
        before = prompt_ids(self.lm.tokenizer, prompt)
        for key, text in comparison.responses():
            name = f"{key[1]}[{key[2]}]"
            answer = response_ids(self.lm.tokenizer, prompt, before, text, name)
            row = _ids([*before, *answer])
            if self.lm.context is not None and len(row) > self.lm.context:
                raise ValueError(
                    f"{name}: {len(row)} tokens, {self.lm.name} has {self.lm.context} positions"
                )
            requests.append(Request(key, (row,), {"tokens": len(answer)}))
        return requests

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """One for each response: rows padded with the model's own padding token, or alone where it
        has none.
        """
        pad, rows = (
            self.lm.model.config.get_text_config().pad_token_id,
            [request.rows[0] for request in requests],
        )
        records: list[Record] = []
        with evaluation(self.lm.model):
            for batch in [[row] for row in rows] if pad is None else [rows]:
                ids = torch.full((len(batch), max(map(len, batch))), 0 if pad is None else pad)
                mask = torch.zeros_like(ids)
                for n, row in enumerate(batch):
                    ids[n, : len(row)], mask[n, : len(row)] = torch.from_numpy(row), 1
                logits = call(
                    self.lm.model, ids, attention_mask=mask.to(device_of(self.lm.model))
                ).logits
                records += [{"score": score} for score in logits[:, 0].double().tolist()]
        return [
            dict(request.facts) | record for request, record in zip(requests, records, strict=True)
        ]

    def columns(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The score."""
        return {"score": np.array([record["score"] for record in records])}


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.array(
        ids, dtype=np.int32
    )  # half the memory of the default, and there can be millions


def _short(values: np.ndarray) -> list[float]:
    """Numbers with no more digits than they have: of a float32 the shortest that give it back."""
    return [float(str(x)) for x in values]
