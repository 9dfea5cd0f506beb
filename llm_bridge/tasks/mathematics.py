r"""Read mathematics problems from JSON lines as a `Task`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_bridge.preferences.rows import (
    Place,
    Problem,
    require_object,
    require_text,
    shown,
    source_rows,
)
from llm_bridge.tasks.answers import boxed, final_answer
from llm_bridge.tasks.equivalence import equivalent
from llm_bridge.tasks.generated import Task

__all__ = ["BOXED", "DATA", "problems"]

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Prompt of Qwen2.5-Math; the problem replaces ``{problem}``, other braces are kept."""

DATA = {
    "math500": "math/math500.jsonl",
    "aime24": "math/aime24.jsonl",
    "amc23": "math/amc23.jsonl",
    "minerva": "math/minerva_math.jsonl",
    "olympiad": "math/olympiadbench.jsonl",
    "math-train": "math/math-train.jsonl",
    "math-test": "math/math-test.jsonl",
    "gsm8k-train": "gsm8k/train.jsonl",
    "gsm8k": "gsm8k/test.jsonl",
}
"""Short names of data sets, and their files in a data folder; the first five are the benchmarks of
the paper's experiment with PPO.
"""


def problems(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    template: str = BOXED,
    limit: int | None = None,
) -> tuple[Task, list[Problem]]:
    r"""Read problems with their answers, and the rows that cannot be used.

    A row has `problem` or `question` (after its `context`, if any), and its answer in `answer` (a
    number, a text, or one that ends in ``#### answer``), in `final_answer` (a list whose entries
    are all asked for), or in the last ``\boxed{…}`` of `solution`.

    Args:
        source: a file, or a short name of `DATA`.
        folder: data folder in which short names are looked up.
        template: prompt, with ``{problem}`` in it.
        limit: most problems; `None` for all.

    Raises:
        ValueError: no ``{problem}`` in the template, or no row that can be used.
        OSError: there is no such file; lists the known files.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        ...     _ = file.write(b'{"problem": "1 + 1?", "answer": 2}\n')
        ...     file.flush()
        ...     task, bad = problems(file.name, template="Q: {problem} A:")
        >>> task.prompts, task.answers, bad
        (('Q: 1 + 1? A:',), ('2',), [])

    """
    if "{problem}" not in template:
        raise ValueError(f"template={template!r}: must have {{problem}} where the problem goes")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1; None for all")
    path = _find(str(source), folder)
    good: list[tuple[str, str]] = []
    bad: list[Problem] = []
    for item in _problems(path):
        if isinstance(item, Problem):
            bad.append(item)
        else:
            good.append((template.replace("{problem}", item[0]), item[1]))
        if len(good) == limit:
            break
    if not good:
        raise ValueError(
            str(bad[0]) if bad else f"{path}: no rows; give data with problem and answer"
        )
    prompts = tuple(prompt for prompt, _ in good)
    name = str(source) if str(source) in DATA else path.stem
    return Task(name, prompts, tuple(answer for _, answer in good), final_answer, equivalent), bad


def _find(name: str, folder: str | Path | None) -> Path:
    if name in DATA:
        if folder is None:
            raise ValueError(
                f"folder=None: {name} is a short name; give the folder that has {DATA[name]}"
            )
        path = Path(folder) / DATA[name]
    else:
        path = Path(name)
    if path.exists():
        return path
    if folder is None:
        there = "give a file"
    else:
        found = [short for short, file in DATA.items() if (Path(folder) / file).is_file()]
        there = f"{folder} has {', '.join(found) or 'none of the known files'}"
    raise OSError(f"{path}: no such file; {there} (short names: {', '.join(DATA)})")


def _problems(path: Path) -> Iterator[tuple[str, str] | Problem]:
    for number, (line, value) in enumerate(source_rows(str(path))):
        try:
            row = require_object(value)
            question = require_text(row, "problem" if "problem" in row else "question")
            context = "" if row.get("context") is None else require_text(row, "context") + "\n"
            yield context + question, _answer(row)
        except ValueError as error:
            yield Problem(Place(str(path), line, number), str(error))


def _answer(row: dict[str, Any]) -> str:
    if "answer" in row:
        value = row["answer"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"answer must be a finite number, got {value}")
            return str(int(value) if value == int(value) else value)
        answer = require_text(row, "answer").rpartition("####")[2]
    elif "final_answer" in row:
        parts = row["final_answer"]
        texts = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
        if not parts or not texts:
            raise ValueError(f"final_answer must be a list of texts, got {shown(parts)}")
        answer = ", ".join(parts)
    elif "solution" in row:
        found = boxed(require_text(row, "solution"))
        if found is None:
            raise ValueError("solution has no \\boxed{…}")
        answer = found
    else:
        raise ValueError("answer, final_answer and solution are missing")
    if not answer.strip():
        raise ValueError("the answer is empty")
    return answer.strip()
