"""Measure how often a model answers right, by sampling, where its token tree is too large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_prompt
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.tasks.generated import Task

__all__ = ["SampledTexts", "evaluate_tasks", "sample_texts"]


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
        for rows in _batches(ids, max(1, batch // samples)):
            shape = len(rows) * samples, max_tokens
            uniforms = torch.rand(*shape, generator=generator, dtype=torch.double)
            rollout = generate(
                actor,
                [ids[i] for i in rows],
                max_tokens,
                ends,
                samples=samples,
                uniforms=None if seed is None else uniforms,
            )
            responses = [[t for t in row.tolist() if t not in ends] for row in rollout.texts()[1]]
            for k, i in enumerate(rows):
                of_one = slice(k * samples, (k + 1) * samples)
                texts[i] = lm.tokenizer.batch_decode(responses[of_one])
                ended[i] = rollout.ended[of_one].cpu()
            bar.update(len(rows))
    return SampledTexts(texts, ended)


def _batches(ids: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield numbers of prompts, the longest first: a batch that does not fit fails at once."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def evaluate_tasks(
    lm: CausalLM,
    tasks: Sequence[Task],
    max_tokens: int,
    *,
    samples: int = 1,
    end_tokens: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Measure the share of right answers to each task.

    Args:
        lm: model to evaluate.
        tasks: tasks with different names.
        max_tokens: most tokens of a response; one that is cut is judged as it stands.
        samples: responses to each prompt for ``sampled``; 0 to leave it out.
        end_tokens: ids that end a response; `None` for those of the tokenizer.
        seed: seed of the samples.

    Returns:
        By ``name/greedy`` and ``name/sampled`` the share of right answers by greedy decoding and on
        average over samples; by ``name/cut`` the share of greedy responses that were cut.

    Raises:
        ValueError: there is no task, or two have one name; and as `sample_texts`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> task = Task("letters", ("a", "b"), ("aa", "bb"))
        >>> sorted(evaluate_tasks(letter_lm(4), [task], 2, end_tokens=()))
        ['letters/cut', 'letters/greedy', 'letters/sampled']

    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"tasks={names!r}: must be at least one, with different names; give replace(task, "
            "name=…)"
        )
    found: dict[str, float] = {}
    for task in tasks:
        greedy = sample_texts(lm, task.prompts, max_tokens, seed=None, end_tokens=end_tokens)
        found[f"{task.name}/greedy"] = float(task.correct(greedy.texts).mean())
        found[f"{task.name}/cut"] = float(1 - greedy.ended.mean())
        if samples:
            sampled = sample_texts(
                lm, task.prompts, max_tokens, samples=samples, seed=seed, end_tokens=end_tokens
            )
            found[f"{task.name}/sampled"] = float(task.correct(sampled.texts).mean())
    return found
