"""How often a model answers right, by writing its answers: where the token tree is too large to
enumerate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.head import evaluation
from llm_bridge.models.load import CausalLM, encode_prompt
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.tasks.generated import Task
from theory.arrays.namespace import require_positive

__all__ = ["Written", "evaluate_tasks", "write"]


@dataclass(frozen=True, eq=False)
class Written:
    """Responses of a model, `k` to each of `P` prompts.

    Attributes:
        texts: `P` lists of `k` texts, without end tokens.
        log_probs: ``(P, k)`` ``log π(τ|s₁)`` of the law that was sampled, nats.
        ended: ``(P, k)`` whether the model ended the response, or it was cut.

    """

    texts: list[list[str]]
    log_probs: np.ndarray
    ended: np.ndarray


def write(
    lm: CausalLM,
    prompts: Sequence[str],
    max_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    end_tokens: Sequence[int] | None = None,
    seed: int | None = 0,
    batch: int = 256,
    progress: bool = True,
) -> Written:
    """Write responses, `batch` of them at a time, prompts of like length together.

    Args:
        lm: the model.
        prompts: `P` texts.
        max_tokens: where a response is cut.
        samples: responses to each prompt.
        temperature: of each token's law.
        end_tokens: ids that end a response; `None` for those of the tokenizer.
        seed: of the draws; `None` for the most probable token each time (greedy decoding).
        batch: responses written at once.
        progress: show it on a terminal.

    Raises:
        ValueError: an argument is out of range (greedy decoding is ``seed=None``), or a prompt is
            empty, cannot be encoded, or leaves no room for `max_tokens`.

    """
    for name, value in (("max_tokens", max_tokens), ("samples", samples), ("batch", batch)):
        require_integer(name, value)
    require_positive("temperature", temperature)
    ids = [encode_prompt(lm, prompt, max_tokens) for prompt in prompts]
    ends = find_end_tokens(lm, end_tokens)
    generator = torch.Generator().manual_seed(seed or 0)
    texts: list[list[str]] = [[] for _ in prompts]
    log_probs, ended = np.empty((len(ids), samples)), np.empty((len(ids), samples), dtype=bool)
    actor = Actor(lm)
    with (
        evaluation(lm.model),
        tqdm(total=len(ids), desc=lm.name, disable=None if progress else True, leave=False) as bar,
    ):
        for rows in _batches(ids, max(1, batch // samples)):
            uniforms = torch.rand(
                len(rows) * samples, max_tokens, generator=generator, dtype=torch.double
            )
            rollout = generate(
                actor,
                [ids[i] for i in rows],
                max_tokens,
                ends,
                samples=samples,
                temperature=temperature,
                uniforms=None if seed is None else uniforms,
            )
            responses = [[t for t in row.tolist() if t not in ends] for row in rollout.texts()[1]]
            for k, i in enumerate(rows):
                of_one = slice(k * samples, (k + 1) * samples)
                texts[i] = lm.tokenizer.batch_decode(responses[of_one])
                log_probs[i] = rollout.log_probs[of_one].sum(dim=1).double().cpu()
                ended[i] = rollout.ended[of_one].cpu()
            bar.update(len(rows))
    return Written(texts, log_probs, ended)


def _batches(ids: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
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
    batch: int = 256,
) -> dict[str, float]:
    """For each task, the share of right answers: ``name/greedy``, ``name/sampled`` and
    ``name/cut``, the share cut.

    Args:
        lm: the model.
        tasks: what it is asked.
        max_tokens: where a response is cut; what is cut is judged as it stands.
        samples: responses to each prompt for ``sampled``, which is their average; 0 to leave it
            out.
        end_tokens: ids that end a response; `None` for those of the tokenizer.
        seed: of the samples.
        batch: responses written at once.

    Raises:
        ValueError: no task, or two of one name, of which one would take the other's place; and as
            `write`.

    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"tasks={names!r}: must be at least one, with different names; give replace(task, "
            "name=…)"
        )
    found: dict[str, float] = {}
    for task in tasks:
        greedy = write(lm, task.prompts, max_tokens, end_tokens=end_tokens, batch=batch, seed=None)
        found[f"{task.name}/greedy"] = float(task.correct(greedy.texts).mean())
        found[f"{task.name}/cut"] = float(1 - greedy.ended.mean())
        if samples:
            drawn = write(
                lm,
                task.prompts,
                max_tokens,
                samples=samples,
                end_tokens=end_tokens,
                batch=batch,
                seed=seed,
            )
            found[f"{task.name}/sampled"] = float(task.correct(drawn.texts).mean())
    return found
