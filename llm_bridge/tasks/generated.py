"""Tasks whose answers can be checked: adding numbers, sorting letters;
`llm_bridge.tasks.mathematics` has word problems.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

__all__ = [
    "ADDITION_LEVELS",
    "Task",
    "addition",
    "addition_answer",
    "addition_levels",
    "majority",
    "sorting",
    "sorting_answer",
]

NUMBERS = 10**6
"""Prompts of the addition task: every string of six digits."""


@dataclass(frozen=True)
class Task:
    """`P` prompts, the right answer to each, and how a response is judged.

    Attributes:
        name: what reports call it.
        prompts: `P` texts as the model reads them.
        answers: `P` texts.
        extract: the answer that a response gives, `None` where it gives none; by default all of it.
        same: whether the right answer (first) and a response's are the same; by default letter by
            letter.

    Raises:
        ValueError: no prompts, or not one answer for each.

    """

    name: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    extract: Callable[[str], str | None] = str
    same: Callable[[str, str], bool] = operator.eq

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.answers):
            sizes = f"{len(self.prompts)} prompts and {len(self.answers)} answers"
            raise ValueError(
                f"{self.name}: {sizes}; give at least one prompt and one answer for each"
            )

    def judge(self, response: str, answer: str) -> bool:
        """Whether a response is right; one without an answer is wrong."""
        given = self.extract(response)
        return given is not None and self.same(answer, given)

    def correct(self, responses: Sequence[str] | Sequence[Sequence[str]]) -> np.ndarray:
        """Whether responses are right: ``(P,)`` bool for one response a prompt, ``(P, k)`` for `k`
        of them.

        Raises:
            ValueError: not one response for each prompt, or not as many for one prompt as for
                another.

        """
        self._require_responses(responses)
        if isinstance(responses[0], str):
            pairs = zip(responses, self.answers, strict=True)
            return np.array([self.judge(str(one), answer) for one, answer in pairs], dtype=bool)
        rows = zip(responses, self.answers, strict=True)
        return np.array(
            [[self.judge(one, answer) for one in row] for row, answer in rows], dtype=bool
        )

    def majority(self, responses: Sequence[Sequence[str]]) -> list[str]:
        """Of `k` responses to each prompt one that gives the most frequent answer, see `majority`:
        `P` texts.

        Raises:
            ValueError: as `correct`.

        """
        self._require_responses(responses)
        return [row[majority([self.extract(one) for one in row], self.same)] for row in responses]

    def split(self, n: int) -> tuple[Task, Task]:
        """The first `n` prompts and the others: to train on, and to evaluate on.

        Raises:
            ValueError: one of the two would be empty.

        """
        if not 0 < n < len(self.prompts):
            raise ValueError(
                f"n={n}: must be from 1 to {len(self.prompts) - 1}, to leave prompts on both sides"
            )
        return self.take(range(n)), self.take(range(n, len(self.prompts)))

    def take(self, places: Iterable[int]) -> Task:
        """The prompts at these places, in this order."""
        kept = [(self.prompts[i], self.answers[i]) for i in places]
        return replace(self, prompts=tuple(p for p, _ in kept), answers=tuple(a for _, a in kept))

    def _require_responses(self, responses: Sequence[str] | Sequence[Sequence[str]]) -> None:
        if isinstance(responses, str) or len(responses) != len(self.answers):
            raise ValueError(
                f"responses: {len(responses)}, must be one for each of {len(self.answers)} prompts"
            )
        sizes = {1 if isinstance(row, str) else len(row) for row in responses}
        if len(sizes) > 1 or 0 in sizes or len({isinstance(row, str) for row in responses}) > 1:
            raise ValueError(
                f"responses: {sorted(sizes)} for a prompt, must be as many for one as for another"
            )


def majority(answers: Sequence[str | None], same: Callable[[str, str], bool] = operator.eq) -> int:
    """The place of the most frequent answer's first occurrence; of a tie, the answer that comes
    first.

    `None`, no answer, does not vote; where all are `None`, 0. An answer joins the first group whose
    first answer it is the `same` as.

    Raises:
        ValueError: no answers.

    """
    if not len(answers):
        raise ValueError("answers: empty; give at least one")
    votes: dict[int, int] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            leader = next((k for k in votes if same(str(answers[k]), answer)), i)
            votes[leader] = votes.get(leader, 0) + 1
    return max(votes, key=lambda k: votes[k], default=0)


ADDITION_LEVELS = ("carries-0", "carries-1", "carries-2", "carries-3", "thousands")
"""Benchmarks of graded difficulty on the addition task.

``carries-c``: `c` of the three columns (ones, tens, hundreds) add up, with the carry that comes
into them, to 10 or more. Every prompt is of one of these four. ``thousands``: the sum is 1000 or
more, that is, the column of the hundreds carries. It overlaps with ``carries-1`` to ``carries-3``
and has all of ``carries-3``.
"""


def _carries(prompts: Any) -> list[Any]:
    """Whether the ones, the tens and the hundreds of prompts, read as numbers, carry."""
    first, second = divmod(prompts, 1000)
    return [first % power + second % power >= power for power in (10, 100, 1000)]


@cache
def _levels() -> np.ndarray:
    """Which prompts belong to a level: ``(5, 10⁶)``, bool; prompt `i` is the text of `i`."""
    carries = _carries(np.arange(NUMBERS))
    count = np.sum(carries, axis=0)
    return np.stack([*(count == c for c in range(4)), carries[-1]])


def addition_levels(prompt: str) -> tuple[str, ...]:
    """The levels of `ADDITION_LEVELS` that a prompt belongs to: one by its carries, and
    ``thousands`` or not.

    Raises:
        ValueError: the prompt is not six digits.

    """
    _require_digits(prompt)
    carries = _carries(int(prompt))
    return (f"carries-{sum(carries)}", *(["thousands"] if carries[-1] else []))


def addition_answer(prompt: str) -> str:
    """``"123456"`` (two numbers of three digits, nothing between them) has the answer ``"0579"``:
    four digits.

    Raises:
        ValueError: the prompt is not six digits.

    """
    _require_digits(prompt)
    return f"{int(prompt[:3]) + int(prompt[3:]):04d}"


def _require_digits(prompt: str) -> None:
    if len(prompt) != 6 or not (prompt.isascii() and prompt.isdigit()):
        raise ValueError(f"prompt={prompt!r}: must be six digits, such as '123456' for 123 + 456")


def addition(n: int, seed: int = 0, *, level: str | None = None) -> Task:
    """`n` different sums of two three-digit numbers, drawn evenly from all 10⁶ or from a level, in
    random order.

    Args:
        n: number of prompts.
        seed: of the draw.
        level: one of `ADDITION_LEVELS`, which then is the task's name; `None` for all sums.

    Raises:
        ValueError: there are not so many, or an unknown level.

    """
    if level is not None and level not in ADDITION_LEVELS:
        raise ValueError(f"level={level!r}: must be one of {', '.join(ADDITION_LEVELS)}")
    numbers = (
        np.arange(NUMBERS)
        if level is None
        else np.flatnonzero(_levels()[ADDITION_LEVELS.index(level)])
    )
    if not 0 < n <= len(numbers):
        raise ValueError(f"n={n}: must be from 1 to {len(numbers):,}")
    prompts = [
        f"{number:06d}" for number in np.random.default_rng(seed).choice(numbers, n, replace=False)
    ]
    return Task(level or "addition", tuple(prompts), tuple(map(addition_answer, prompts)))


def sorting_answer(prompt: str) -> str:
    """The letters of the prompt in alphabetical order."""
    return "".join(sorted(prompt))


def sorting(n: int | None = None, seed: int = 0, *, letters: str = "ABC", length: int = 6) -> Task:
    """`n` different words of `length` letters in random order; `None` for all of them.

    Raises:
        ValueError: there are not so many.

    """
    words = ["".join(word) for word in itertools.product(letters, repeat=length)]
    n = len(words) if n is None else n
    if not 0 < n <= len(words):
        raise ValueError(
            f"n={n}: must be from 1 to {len(words)}, the words of {length} letters from {letters!r}"
        )
    prompts = [words[i] for i in np.random.default_rng(seed).permutation(len(words))[:n]]
    return Task("sorting", tuple(prompts), tuple(map(sorting_answer, prompts)))
