"""Score responses by asking a language model for its judgement of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from llm_bridge.models.prompts import PAIRWISE, POINTWISE, VERIFIER, Prompt, Question
from llm_bridge.models.served import NO_LOGITS
from llm_bridge.models.text import encode_text
from llm_bridge.preferences.accuracy import PAIR
from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.records import Record
from llm_bridge.preferences.scorers import (
    Conversation,
    Request,
    Scorer,
    compact_ids,
    with_facts,
)
from llm_bridge.read.reward import EndogenousReward

__all__ = ["GenerativeVerifier", "Judge", "Pairwise", "Pointwise"]


class Judge(Scorer):
    """A model asked a `Question`, read by the probabilities of the tokens that begin its answers.

    Tokens that all answers begin with (a space, a template's empty reasoning) are read as part of
    the prompt.

    Args:
        reward: the model, and its `α`.
        conversation: how the question is put to it.

    Raises:
        ValueError: no single token tells the answers apart.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(384, context=512).model, ByT5Tokenizer())
        >>> judge = GenerativeVerifier(reward, Conversation(reward.lm, chat=False))
        >>> [of_4, of_5] = judge.requests(Comparison("s/0", "2 + 2?", ("4",), ("5",), "s"))
        >>> reward.lm.tokenizer.decode(of_4.rows[0]).strip().splitlines()[-4:]
        ['[Answer]', '4', '', 'Is the answer correct and helpful? Reply with one word, Yes or No.']

    """

    question: Question

    def __init__(self, reward: EndogenousReward, conversation: Conversation) -> None:
        self.reward = reward
        self.conversation = conversation
        self._tokens = self._read("?")[1]
        if len(set(self._tokens)) < len(self.question.answers):
            words = ", ".join(self.question.answers)
            raise ValueError(
                f"{reward.lm.name}: no token tells the answers {words} apart; use another --method"
            )

    def _read(self, text: str, name: str = "question") -> tuple[list[int], list[int]]:
        """Ids of a question with what all of its answers begin with, and the token of each answer
        that comes next.
        """
        if self.conversation.chat:
            prompt: Prompt = [{"role": "user", "content": text}]
        else:
            prompt = text + self.conversation.separator
        rows = []
        for answer in self.question.answers:
            before, ids = self.reward.encode(prompt, answer, eos=False, names=(name, name))
            rows.append([*before, *ids])
        shared = 0
        while shared < min(map(len, rows)) and len({row[shared] for row in rows}) == 1:
            shared += 1
        return rows[0][:shared], [row[shared] for row in rows if len(row) > shared]

    def _row(self, name: str, **texts: str) -> np.ndarray:
        question = self.question.text.format(**texts)
        ids, tokens = self._read(question, name)
        if tokens != self._tokens:
            raise ValueError(
                f"{name}: after this question the answers begin with other tokens in "
                f"{self.reward.lm.name}; tokenise them apart (join=apart)"
            )
        self.reward.lm.require_room(f"{name}: question and texts", len(ids))
        return compact_ids(ids)

    def requests(self, comparison: Comparison) -> list[Request]:
        """Return a request for each response."""
        prompt = self.conversation.question(comparison)
        requests = []
        for key, text in comparison.responses():
            name = f"{key[1]}[{key[2]}]"
            row = self._row(name, prompt=prompt, response=text)
            tokens = len(encode_text(self.reward.lm, text, special=False, name=name))
            requests.append(Request(key, (row,), {"tokens": tokens}))
        return requests

    def _answers(self, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
        """Return ``log π`` of the answers ``(n, k)`` and soft values ``(n,)`` after every row."""
        rows = [row for request in requests for row in request.rows]
        log_probs, values = self.reward.next_tokens(rows, self._tokens)
        return log_probs.astype(float), values.astype(float)


class GenerativeVerifier(Judge):
    """The generative reward model (arXiv 2408.15240): is the answer correct, yes or no?

    Scores: ``log_prob`` is ``log π(Yes)``; ``reward_sum`` is the endogenous reward of the response
    "Yes", its logit, whose ``V(s₁)`` differs from response to response and so does not
    cancel; ``log_odds`` is ``log π(Yes)/π(No)``.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(384, context=512).model, ByT5Tokenizer())
        >>> _ = reward.lm.model.lm_head.weight.data.zero_()  # no token is preferred
        >>> judge = GenerativeVerifier(reward, Conversation(reward.lm, chat=False))
        >>> requests = judge.requests(Comparison("s/0", "2 + 2?", ("4",), ("5",), "s"))
        >>> [record["log_odds"] for record in judge.records(requests)]
        [0.0, 0.0]

    """

    question = VERIFIER

    def __init__(self, reward: EndogenousReward, conversation: Conversation) -> None:
        if not reward.has_values:
            raise ValueError(
                f"{reward.lm.name}: a verifier's reward has V(s₁), and {NO_LOGITS}; ask for a "
                "rating (pointwise) or a choice (pairwise), or give the model's folder, GGUF file "
                "or hub id"
            )
        super().__init__(reward, conversation)

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each response."""
        log_probs, values = self._answers(requests)
        yes, no = log_probs.T
        found = {
            "log_prob": yes,
            "reward_sum": self.reward.reading.alpha * yes + values,
            "soft_value_prompt": values,
            "log_odds": yes - no,
        }
        return with_facts(requests, found)


class Pointwise(Judge):
    """A rating from 1 to 5: column ``rating`` is its expectation, `mass` the five's probability.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(384, context=512).model, ByT5Tokenizer())
        >>> _ = reward.lm.model.lm_head.weight.data.zero_()  # all of 384 tokens are as likely
        >>> judge = Pointwise(reward, Conversation(reward.lm, chat=False))
        >>> requests = judge.requests(Comparison("s/0", "2 + 2?", ("4",), ("5",), "s"))
        >>> [(round(x["rating"], 4), round(x["mass"] * 384, 4)) for x in judge.records(requests)]
        [(3.0, 5.0), (3.0, 5.0)]

    """

    question = POINTWISE

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each response."""
        log_probs = self._answers(requests)[0]
        shares = softmax(log_probs, axis=1)  # also of five answers that all underflow
        ratings = shares @ np.arange(1, 1 + shares.shape[1])
        return with_facts(requests, {"rating": ratings, "mass": np.exp(log_probs).sum(1)})


class Pairwise(Judge):
    """Which of two answers is better, asked in both orders.

    Scores: ``first`` and ``second`` are the log-odds of the chosen response in the first and in
    the second place, ``log_odds`` their mean.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(384, context=512).model, ByT5Tokenizer())
        >>> judge = Pairwise(reward, Conversation(reward.lm, chat=False))
        >>> requests = judge.requests(Comparison("s/0", "2 + 2?", ("4",), ("4",), "s"))
        >>> [record] = judge.records(requests)
        >>> abs(record["first"]) > 0.1, abs(record["log_odds"]) < 1e-4  # the place does not count
        (True, True)

    """

    question = PAIRWISE

    def requests(self, comparison: Comparison) -> list[Request]:
        """Return a request for each pair, of two rows."""
        prompt = self.conversation.question(comparison)
        requests: list[Request] = []
        for i, chosen in enumerate(comparison.chosen):
            for j, rejected in enumerate(comparison.rejected):
                name = f"chosen[{i}] with rejected[{j}]"
                rows = tuple(
                    self._row(name, prompt=prompt, first=one, second=two)
                    for one, two in ((chosen, rejected), (rejected, chosen))
                )
                requests.append(Request((comparison.id, PAIR, len(requests)), rows, {}))
        return requests

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each pair."""
        log_probs, _ = self._answers(requests)
        odds = log_probs[:, 0] - log_probs[:, 1]
        first = odds[::2]
        second = -odds[1::2]
        means = (first + second) / 2
        return with_facts(requests, {"log_odds": means, "first": first, "second": second})
