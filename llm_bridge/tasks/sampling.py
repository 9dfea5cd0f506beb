"""Sample texts of a model, for tasks whose answers are checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Reward
from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_prompt
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.rollout import Actor, Ids, Rollout, generate
from llm_bridge.tasks.generated import Task

__all__ = ["SampledTexts", "batches", "checked_reward", "rollout_texts", "sample_texts"]


@dataclass(frozen=True, eq=False)
class SampledTexts:
    """Responses of a model, `k` to each of `P` prompts.

    Attributes:
        texts: `P` lists of `k` texts, without end tokens.
        ended: ``(P, k)`` whether the response has its end token; else it was cut.

    """

    texts: list[list[str]]
    ended: np.ndarray


def sample_texts(
    lm: CausalLM,
    prompts: Sequence[Prompt],
    max_tokens: int,
    *,
    samples: int = 1,
    end_tokens: Sequence[int] | None = None,
    seed: int | None = 0,
    temperature: float = 1.0,
    batch: int = 256,
) -> SampledTexts:
    """Sample responses, prompts of similar length together.

    Args:
        lm: model to sample from.
        prompts: `P` texts or conversations.
        max_tokens: most tokens of a response.
        samples: responses to each prompt.
        end_tokens: ids that end a response; `None` for those of the tokenizer.
        seed: seed of sampling; `None` for the most probable token each time (greedy decoding).
        temperature: temperature of each token's distribution.
        batch: responses sampled at once.

    Raises:
        ValueError: an argument is out of range, or a prompt is empty, cannot be encoded, or leaves
            no room for `max_tokens`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> found = sample_texts(letter_lm(4), ["a", "bc"], 3, samples=2, end_tokens=())
        >>> [len(text) for text in found.texts[0]], found.ended.tolist()
        ([3, 3], [[False, False], [False, False]])

    """
    for name, value in (("max_tokens", max_tokens), ("samples", samples), ("batch", batch)):
        require_integer(name, value)
    ids = [encode_prompt(lm, prompt, max_tokens) for prompt in prompts]
    ends = find_end_tokens(lm, end_tokens)
    generator = torch.Generator().manual_seed(seed or 0)
    texts: list[list[str]] = [[] for _ in prompts]
    ended = np.empty((len(ids), samples), dtype=bool)
    actor = Actor(lm)
    with (
        evaluation(lm.model),
        tqdm(total=len(ids), desc=lm.name, disable=None, leave=False) as bar,
    ):
        for rows in batches(ids, max(1, batch // samples)):
            shape = len(rows) * samples, max_tokens
            uniforms = torch.rand(*shape, generator=generator, dtype=torch.double)
            rollout = generate(
                actor,
                [ids[i] for i in rows],
                max_tokens,
                ends,
                samples=samples,
                uniforms=None if seed is None else uniforms,
                temperature=temperature,
            )
            found = rollout_texts(lm, rollout, ends)
            for k, i in enumerate(rows):
                of_one = slice(k * samples, (k + 1) * samples)
                texts[i] = found[of_one]
                ended[i] = rollout.ended[of_one].cpu()
            bar.update(len(rows))
    return SampledTexts(texts, ended)


def rollout_texts(lm: CausalLM, rollout: Rollout, end_tokens: Sequence[int]) -> list[str]:
    """Return the text of each response of a rollout, without end tokens.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> rollout = generate(Actor(lm), [[0], [1]], 3, uniforms=torch.rand(2, 3).double())
        >>> [len(text) for text in rollout_texts(lm, rollout, ())]
        [3, 3]

    """
    responses = [[t for t in row.tolist() if t not in end_tokens] for row in rollout.texts()[1]]
    return list(lm.tokenizer.batch_decode(responses))


def checked_reward(lm: CausalLM, task: Task, config: PPOConfig) -> Reward:
    """Return a reward of ``config.checked`` for a right answer, at the last token of a response.

    Args:
        lm: model whose prompts and responses are checked.
        task: prompts with right answers.
        config: hyperparameters of the run.

    Raises:
        ValueError: a prompt is there twice, with different answers.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> task = Task("letters", ("a", "b"), ("aa", "bb"))
        >>> config = PPOConfig(checked=0.5, max_tokens=2, end_tokens=())
        >>> reward = checked_reward(letter_lm(4), task, config)
        >>> reward([np.array([0]), np.array([1])], [np.array([0, 0]), np.array([0, 1])])
        [array([0. , 0.5]), array([0., 0.])]

    """
    ends = find_end_tokens(lm, config.end_tokens)
    answers: dict[tuple[int, ...], str] = {}
    for i, (prompt, answer) in enumerate(zip(task.prompts, task.answers, strict=True)):
        known = answers.setdefault(tuple(encode_prompt(lm, prompt, config.max_tokens)), answer)
        if known != answer and not task.same(known, answer):
            raise ValueError(
                f"prompts[{i}]: has the tokens of one before it and another answer, {answer!r} in "
                f"place of {known!r}; leave one of them out"
            )

    def reward(prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[np.ndarray]:
        written = [[t for t in row.tolist() if t not in ends] for row in map(np.asarray, responses)]
        found = []
        for prompt, response, text in zip(
            prompts, responses, lm.tokenizer.batch_decode(written), strict=True
        ):
            row = np.zeros(len(response))
            answer = answers[tuple(np.asarray(prompt).tolist())]
            row[-1] = config.checked * task.judge(text, answer)
            found.append(row)
        return found

    return reward


def batches(ids: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield numbers of prompts, the longest first: a batch that does not fit fails at once.

    Example:
        >>> list(batches([[1], [1, 2, 3], [1, 2]], 2))
        [[1, 2], [0]]

    """
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
