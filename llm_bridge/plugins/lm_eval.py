"""lm-evaluation-harness: log-likelihoods, from the states and the head that rewards are read from.

The harness asks for a subclass of its own ``LM``:

    import lm_eval
    from lm_eval.api.model import LM
    from llm_bridge.plugins.lm_eval import EndogenousLM

    class Endorm(EndogenousLM, LM):
        pass

    lm_eval.simple_evaluate(model=Endorm(reward), tasks=["lambada_openai"])

Texts are tokenised as in the harness's ``HFLM``, and the numbers are its numbers, except where they
would be of another text:

- a token that spans the join of context and continuation is scored with the continuation, where
  ``HFLM`` scores a part of the continuation, or stops;
- a text of `loglikelihood_rolling` has the prefix token once, where ``HFLM`` predicts a second one
  if the tokenizer adds it (``add_bos_token``);
- an end token that the tokenizer adds to every text is left out: it would end the context before
  the continuation.

Follows ``TemplateLM`` and ``HFLM`` of lm-eval 0.4.13:
https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/api/model.py
https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/models/huggingface.py
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from llm_bridge.models.text import encode_joined, encode_text, find_special_tokens
from llm_bridge.plugins import from_environment, require_tokenizer
from llm_bridge.read.reward import EndogenousReward

__all__ = ["EndogenousLM"]


class EndogenousLM:
    """The log-likelihood requests of the harness.

    Args:
        reward: what scores, with a tokenizer; `None` for the model that the environment names. Of
            its settings only ``batch_tokens`` matters here: likelihoods have neither temperature
            nor end tokens.

    Example:
        >>> import math
        >>> from types import SimpleNamespace
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.bos_token = "a"
        >>> requests = [SimpleNamespace(args=("c", token)) for token in "abcd"]
        >>> found = EndogenousLM(EndogenousReward(lm)).loglikelihood(requests)
        >>> round(sum(math.exp(log_prob) for log_prob, greedy in found), 3)
        1.0

    """

    def __init__(self, reward: EndogenousReward | None = None) -> None:
        super().__init__()  # the harness's LM, where it stands next in line
        reward = from_environment()[0] if reward is None else reward
        self.reward = EndogenousReward(reward.lm, batch_tokens=reward.batch_tokens, end_tokens=())
        self.tokenizer = tokenizer = require_tokenizer(reward)
        prefix = (
            tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        )
        if prefix is None:
            raise ValueError(
                f"reward: {reward.lm.name} has no token to begin or end a text with; set its "
                "bos_token"
            )
        self.prefix_token_id = int(prefix)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """``log π(continuation|context)`` in nats, and whether greedy decoding would write it.

        Args:
            requests: each has ``args``, ``(context, continuation)``. A context too long is cut from
                the left.
            disable_tqdm: no progress bar.

        """
        pairs = [self._cut(*self._encode_pair(*request.args)) for request in requests]
        scores = self.reward.score_ids(
            [a for a, _ in pairs], [b for _, b in pairs], progress=not disable_tqdm
        )
        return [(score.log_prob, bool(score.greedy.all())) for score in scores]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """``log π(text)`` in nats of ``(text,)`` each, in disjoint windows where it is longer than
        the context.
        """
        texts = [self._windows_of(*request.args) for request in requests]
        pairs = [pair for windows in texts for pair in windows]
        scores = iter(
            self.reward.score_ids(
                [a for a, _ in pairs], [b for _, b in pairs], progress=not disable_tqdm
            )
        )
        return [sum(next(scores).log_prob for _ in windows) for windows in texts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Not available: choose tasks that compare or sum likelihoods."""
        raise NotImplementedError(
            "generate_until: only log-likelihoods are scored; the harness's HFLM generates"
        )

    def _special(self, text: str) -> bool:
        """No special tokens around a text that begins with one itself."""
        return not text.startswith(self.tokenizer.decode([self.prefix_token_id]))

    def _windows_of(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Windows of a text, each of its tokens predicted once, the first of them after the prefix
        token, which the text has only once.
        """
        ids = encode_text(self.reward.lm, text, special=False)
        if ids[:1] == [self.prefix_token_id]:
            del ids[0]
        return list(self._windows(ids))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both; spaces between them go to the continuation, with whose words they form
        tokens.
        """
        start = context.rstrip()
        continuation = context[len(start) :] + continuation
        names = ("context", "continuation")
        for text in (start, continuation):
            find_special_tokens(self.reward.lm, text)
        special = self._special(start or continuation)
        before, ids = encode_joined(
            self.reward.lm, start, continuation, special=special and bool(start), names=names
        )
        if before:
            return before, ids
        if ids[:1] == [self.prefix_token_id]:
            return ids[:1], ids[1:]
        return [self.prefix_token_id], ids

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The context without its first tokens, where the model has no positions for all."""
        length = self.reward.lm.context
        surplus = 0 if length is None else len(context) + len(continuation) - 1 - length
        if 0 < surplus < len(context):
            warnings.warn(
                f"the first {surplus} of {len(context)} tokens of a context do not fit: cut",
                stacklevel=3,
            )
            return context[surplus:], continuation
        return context, continuation

    def _windows(self, ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Context and continuation of each window: every token is predicted once, the last window's
        context is full.
        """
        length = self.reward.lm.context or max(1, len(ids))
        for start in range(0, len(ids), length):
            stop = min(start + length, len(ids))
            yield (
                ids[stop - length - 1 : start] if start else [self.prefix_token_id],
                ids[start:stop],
            )
