"""The tasks that commands know by name. A further one is an entry of `TASKS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llm_bridge.tasks.answers import last_number
from llm_bridge.tasks.generated import Task, addition, comparisons, sorting, sums

__all__ = ["TASKS", "NamedTask"]


@dataclass(frozen=True)
class NamedTask:
    """How prompts of a task are made, and how long its answers are.

    Attributes:
        make: makes the task from the number of prompts (`None` for all), a seed, and the folder of
            data (`None` if there is none). Raises `ValueError` where it has not as many, or needs
            the folder.
        max_tokens: most tokens of a response.
        exact: whether prompts are plain texts and each response has exactly `max_tokens` tokens of
            a small vocabulary, so that its token tree can be enumerated.
        n_prompts: number of prompts where none is asked for; `None` for all.

    """

    make: Callable[[int | None, int, Path | None], Task]
    max_tokens: int
    exact: bool = False
    n_prompts: int | None = None


SHORT = "{problem}\nReply with the number only."
"""Prompt of a word problem whose answer alone is asked for."""

PAIRS = ("LLMBar_Natural", "LLMBar_Adversarial_Neighbor", "LLMBar_Adversarial_Manual")


def _gsm8k(n: int | None, seed: int, folder: Path | None) -> Task:
    from llm_bridge.tasks.mathematics import problems

    task, _ = problems("gsm8k-train", folder, template=SHORT, limit=n)
    numbers = tuple(last_number(answer) or answer for answer in task.answers)
    return Task("gsm8k", task.prompts, numbers, last_number)


def _choices(n: int | None, seed: int, folder: Path | None) -> Task:
    from llm_bridge.tasks.choices import choices

    if folder is None:
        raise ValueError(f"folder=None: give the folder that has llmbar/{PAIRS[0]}.json")
    return choices([folder / "llmbar" / f"{name}.json" for name in PAIRS], n, seed)


def _molecules(n: int | None, seed: int, folder: Path | None) -> Task:
    from llm_bridge.tasks.molecules import molecules

    return molecules(n or 1)


TASKS = {
    "addition": NamedTask(
        lambda n, seed, _: addition(n or 10**6, seed), max_tokens=4, exact=True, n_prompts=50_000
    ),
    "sorting": NamedTask(lambda n, seed, _: sorting(n, seed), max_tokens=6, exact=True),
    "sums": NamedTask(lambda n, seed, _: sums(n, seed), max_tokens=14),
    "comparisons": NamedTask(lambda n, seed, _: comparisons(n, seed), max_tokens=6),
    "gsm8k": NamedTask(_gsm8k, max_tokens=8),
    "choices": NamedTask(_choices, max_tokens=4),
    "molecules": NamedTask(_molecules, max_tokens=74, n_prompts=1024),
}
"""Tasks by their names, the options of ``endorm ppo --task``."""
