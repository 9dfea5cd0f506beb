"""Score responses, all methods behind one interface: the endogenous reward and reward models.

A scorer turns a `Comparison` into requests, each of one or more rows of tokens for the model, and
requests into *records*, the lines of ``responses.jsonl``. What is made of the records is
`llm_bridge.preferences.records.columns`; `llm_bridge.preferences.judges` has the models that are
asked for their judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llm_bridge.models.calls import call, device_of, evaluation
from llm_bridge.models.gate import NO_HEAD
from llm_bridge.models.load import CausalLM, fingerprint, require_same_tokenizer
from llm_bridge.models.prompts import Prompt, as_prompt, as_text, encode_pair
from llm_bridge.preferences.pairs import Comparison, Key
from llm_bridge.preferences.records import Record
from llm_bridge.preferences.reward_head import RewardHead
from llm_bridge.read.reward import EndogenousReward, batches

__all__ = [
    "Conversation",
    "Endogenous",
    "LinearReward",
    "Request",
    "RewardModel",
    "Scorer",
    "compact_ids",
    "last_states",
    "with_facts",
]

OF_RESPONSE = ("reward_sum", "log_prob", "soft_value_prompt", "end_value")
"""Fields of `llm_bridge.read.reward.Score` that a record has."""


@dataclass(frozen=True, eq=False)
class Request:
    """One response, or one pair of responses, to be scored.

    Attributes:
        key: key of the response, or of the pair (`llm_bridge.preferences.accuracy.of_pairs`).
        rows: rows of token ids that the model reads for it; each scorer has its own.
        facts: what the record says besides scores: ``tokens`` of the response and, if it may be
            truncated, ``cut``, the tokens left out.

    """

    key: Key
    rows: tuple[np.ndarray, ...]
    facts: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of tokens that the model reads."""
        return sum(map(len, self.rows))


class Scorer(Protocol):
    """A method of scoring the responses of comparisons."""

    def requests(self, comparison: Comparison) -> list[Request]:
        """Return the requests of a comparison; raise ValueError if it cannot be scored."""

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return the records of requests, in their order; a batch is one pass of the model."""


def with_facts(requests: Sequence[Request], found: Mapping[str, np.ndarray]) -> list[Record]:
    """Return the records of requests: their facts, and a number ``(n,)`` of each name.

    Example:
        >>> request = Request(("s/0", "chosen", 0), (), {"tokens": 3})
        >>> with_facts([request], {"score": np.array([0.5])})
        [{'tokens': 3, 'score': 0.5}]

    """
    rows = np.column_stack(list(found.values())).tolist()
    return [
        dict(request.facts) | dict(zip(found, row, strict=True))
        for request, row in zip(requests, rows, strict=True)
    ]


def compact_ids(ids: Sequence[int]) -> np.ndarray:
    """Return token ids as int32, half the memory of the default: there can be millions.

    Example:
        >>> compact_ids([5, 7])
        array([5, 7], dtype=int32)

    """
    return np.array(ids, dtype=np.int32)


@dataclass(frozen=True)
class Conversation:
    """How a comparison is put to a model: in its chat template, or as plain text.

    Attributes:
        lm: the model.
        chat: use the tokenizer's chat template.
        system: replaces every comparison's system prompt; an empty one leaves it out.
        eos: score the token that ends a turn or text with the response; `None` to do so in the chat
            template only.
        separator: plain text after the system prompt and after the prompt.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> comparison = Comparison("s/0", "2 + 2?", ("4",), ("5",), "s", system="Be brief.")
        >>> Conversation(letter_lm(4), chat=False, separator=" ").prompt(comparison)
        'Be brief. 2 + 2? '

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
        """Return messages in the chat template, else a text.

        Raises:
            ValueError: plain text is asked for, and the prompt has several messages.

        """
        found = as_prompt(
            comparison.prompt,
            chat=self.chat,
            system=comparison.system if self.system is None else self.system,
            separator=self.separator,
        )
        return found + self.separator if isinstance(found, str) else found

    def question(self, comparison: Comparison) -> str:
        """Return the prompt as a judge reads it, one text."""
        return as_text(comparison.prompt, self._system(comparison))

    def _system(self, comparison: Comparison) -> str | None:
        return comparison.system if self.system is None else self.system or None


class Endogenous(Scorer):
    """Scores by the endogenous reward, aggregated as in `llm_bridge.read.aggregate`.

    A record has `reward_sum`, `log_prob`, `soft_value_prompt` and `end_value` of `Score`, and of
    each token `token_ids`, `rewards` and `log_probs`. A served model has no `soft_value_prompt`.

    Args:
        reward: reward to use.
        conversation: how comparisons are put to the model.
        reference: reward of a reference model, for the aggregation ``anchored``; a record then has
            its `reference_log_prob`.
        truncate: cut a response to what the context holds, instead of refusing it.

    Raises:
        ValueError: the tokenizers of the two models differ.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(4))
        >>> scorer = Endogenous(reward, Conversation(reward.lm, chat=False, separator=""))
        >>> comparison = Comparison("s/0", "ab", ("c",), ("dd",), "s")
        >>> [(x["tokens"], x["token_ids"]) for x in scorer.records(scorer.requests(comparison))]
        [(1, [2]), (2, [3, 3])]

    """

    def __init__(
        self,
        reward: EndogenousReward,
        conversation: Conversation,
        reference: EndogenousReward | None = None,
        *,
        truncate: bool = False,
    ) -> None:
        self.reward = reward
        self.conversation = conversation
        self.reference = reference
        self.truncate = truncate
        models = [one.lm for one in (reward, reference) if one is not None]
        self._context = min((lm.context for lm in models if lm.context is not None), default=None)
        if reference is not None:
            require_same_tokenizer(reward.lm, reference.lm)

    def requests(self, comparison: Comparison) -> list[Request]:
        """Return a request for each response."""
        prompt = self.conversation.prompt(comparison)
        requests = []
        for key, text in comparison.responses():
            names = ("prompt", f"{key[1]}[{key[2]}]")
            ends = self.conversation.ends
            before, answer = self.reward.encode(prompt, text, eos=ends, names=names)
            kept = self._fitting(before, answer, names[1])
            facts = {"tokens": len(kept)}
            if self.truncate:
                facts["cut"] = len(answer) - len(kept)
            requests.append(Request(key, (compact_ids(before), compact_ids(kept)), facts))
        return requests

    def _fitting(self, before: list[int], answer: list[int], name: str) -> list[int]:
        if not before or not answer:
            raise ValueError(f"{name if before else 'prompt'}: has no token")
        if self._context is None:
            return answer
        # with terminal="zero" the last token is not fed, and needs no position
        room = self._context - len(before) + (self.reward.reading.terminal == "zero")
        if len(answer) > room and not (self.truncate and room > 0):
            sizes = f"prompt and response have {len(before)} + {len(answer)} tokens"
            raise ValueError(
                f"{name}: {sizes}, {self.reward.lm.name} has {self._context} positions"
            )
        return answer[:room]

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each response."""
        prompts, answers = ([request.rows[n] for request in requests] for n in (0, 1))
        scores = self.reward.score_ids(prompts, answers, progress=False)
        records: list[Record] = [
            dict(request.facts)
            | {
                name: getattr(score, name)
                for name in OF_RESPONSE
                if self.reward.has_values or name != "soft_value_prompt"
            }
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


class RewardModel(Scorer):
    """Scores by an explicit reward model, a sequence classifier with one label: column ``score``.

    Example:
        >>> from dataclasses import replace
        >>> from transformers import LlamaForSequenceClassification
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.model.config.num_labels = 1
        >>> lm = replace(lm, model=LlamaForSequenceClassification(lm.model.config))
        >>> scorer = RewardModel(lm, Conversation(lm, chat=False, separator=""))
        >>> scorer.records(scorer.requests(Comparison("s/0", "ab", ("c",), ("dd",), "s")))
        [{'tokens': 1, 'score': ...}, {'tokens': 2, 'score': ...}]

    """

    def __init__(self, lm: CausalLM, conversation: Conversation) -> None:
        self.lm = lm
        self.conversation = conversation

    def requests(self, comparison: Comparison) -> list[Request]:
        """Return a request for each response: the whole conversation."""
        prompt = self.conversation.prompt(comparison)
        requests = []
        for key, text in comparison.responses():
            name = f"{key[1]}[{key[2]}]"
            before, answer = encode_pair(self.lm, prompt, text, ("prompt", name))
            row = compact_ids([*before, *answer])
            self.lm.require_room(f"{name}: prompt and response", len(row))
            requests.append(Request(key, (row,), {"tokens": len(answer)}))
        return requests

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each response."""
        model = self.lm.model
        pad = model.config.get_text_config().pad_token_id
        rows = [request.rows[0] for request in requests]
        scores: list[float] = []
        with evaluation(model):
            # a classifier finds the last token by the padding token: without one, a row at a time
            for batch in [[row] for row in rows] if pad is None else [rows]:
                texts = [torch.from_numpy(row).long() for row in batch]
                ids = pad_sequence(texts, batch_first=True, padding_value=pad or 0)
                mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
                logits = call(model, ids, attention_mask=mask.to(device_of(model))).logits
                scores += logits[:, 0].double().tolist()
        return with_facts(requests, {"score": np.array(scores)})


class LinearReward(RewardModel):
    """Scores by a linear reward on the last hidden state of a causal model: ``score``.

    Raises:
        ValueError: the head was trained on another model, or the model has no hidden states that
            a head reads.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> head = RewardHead(np.eye(16)[0], fingerprint(lm))  # reads the first of 16 features
        >>> scorer = LinearReward(lm, Conversation(lm, chat=False, separator=""), head)
        >>> found = scorer.records(scorer.requests(Comparison("s/0", "ab", ("c",), ("d",), "s")))
        >>> feature = float(last_states(lm, [np.array([0, 1, 2])], batch_tokens=64)[0, 0])
        >>> abs(found[0]["score"] - feature) < 1e-5
        True

    """

    def __init__(
        self, lm: CausalLM, conversation: Conversation, head: RewardHead, batch_tokens: int = 8192
    ) -> None:
        super().__init__(lm, conversation)
        if head.model != fingerprint(lm):
            raise ValueError(f"{lm.name}: the reward head was trained on another model")
        self.head = head
        self.batch_tokens = batch_tokens

    def records(self, requests: Sequence[Request]) -> list[Record]:
        """Return a record of each response."""
        found = last_states(self.lm, [request.rows[0] for request in requests], self.batch_tokens)
        return with_facts(requests, {"score": self.head.rewards(found)})


def last_states(
    lm: CausalLM, rows: Sequence[np.ndarray], batch_tokens: int, *, progress: bool = False
) -> np.ndarray:
    """Return what the model's output head reads after the last token of each row: ``(n, width)``.

    Args:
        lm: the model.
        rows: token ids.
        batch_tokens: most tokens of a pass, padding included.
        progress: show progress on a terminal.

    Raises:
        ValueError: the model has no hidden states that a head reads, or they are not finite.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> last_states(letter_lm(4), [np.array([2, 0]), np.array([1])], 64).shape[0]
        2

    """
    reader = lm.reader
    if reader.head is None:
        raise ValueError(f"{lm.name}: {NO_HEAD}; its hidden states cannot be features")
    reader.prepare(max((len(row) for row in rows), default=0))
    found: dict[int, np.ndarray] = {}
    total = sum(len(row) for row in rows)
    disable = None if progress else True
    with (
        evaluation(lm.model),
        tqdm(total=total, desc="reading", unit="tok", disable=disable) as bar,
    ):
        for batch in batches([len(row) for row in rows], batch_tokens if reader.batches else 0):
            texts = [torch.from_numpy(rows[i]).long() for i in batch]
            states = reader.states(pad_sequence(texts, batch_first=True))
            for i, state, text in zip(batch, states, texts, strict=True):
                found[i] = state[len(text) - 1].double().cpu().numpy()
                if not np.isfinite(found[i]).all():
                    raise ValueError(f"{lm.name}: a hidden state is not finite; use another dtype")
                bar.update(len(text))
    return np.array([found[i] for i in range(len(rows))])


def _short(values: np.ndarray) -> list[float]:
    """Return numbers with the fewest digits that give the same float32 back."""
    return [float(str(x)) for x in values]
