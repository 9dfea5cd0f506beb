"""Make questions with two answers to choose from out of preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_bridge.models.prompts import PAIRWISE, as_text
from llm_bridge.preferences.pairs import read_comparisons
from llm_bridge.tasks.answers import chosen_letter
from llm_bridge.tasks.generated import Task

__all__ = ["choices"]


def choices(
    sources: Sequence[str | Path], n: int | None = None, seed: int = 0, *, letters: int = 2000
) -> Task:
    r"""Ask which of two responses is better, A or B; the better one is in either place.

    Args:
        sources: files of preference pairs, see `llm_bridge.preferences.pairs.iter_comparisons`.
        n: number of prompts; `None` for all.
        seed: seed of the order, and of which response is A.
        letters: longest question, in characters; longer ones are left out.

    Raises:
        OSError: a file cannot be read.
        ValueError: there are fewer than `n` pairs of that length, or see `iter_comparisons`.

    Example:
        >>> import tempfile
        >>> row = b'{"input": "2 + 2?", "output_1": "4", "output_2": "5", "label": 1}\n'
        >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        ...     _ = file.write(row)
        ...     file.flush()
        ...     task = choices([file.name])
        >>> task.answers, "[Answer A]\n4" in task.prompts[0]
        (('A',), True)

    """
    pairs, _ = read_comparisons(*sources)
    rng = np.random.default_rng(seed)
    prompts = []
    answers = []
    for i in rng.permutation(len(pairs)):
        pair = pairs[i]
        first = bool(rng.integers(2))
        shown = pair.chosen[0], pair.rejected[0]
        texts = shown if first else shown[::-1]
        question = as_text(pair.prompt, pair.system)
        prompt = PAIRWISE.text.format(prompt=question, first=texts[0], second=texts[1])
        if len(prompt) <= letters:
            prompts.append(prompt)
            answers.append(PAIRWISE.answers[0 if first else 1])
    n = len(prompts) if n is None else n
    if not 0 < n <= len(prompts):
        raise ValueError(f"n={n}: must be from 1 to {len(prompts)}, pairs of {letters} characters")
    return Task("choices", tuple(prompts[:n]), tuple(answers[:n]), chosen_letter)
