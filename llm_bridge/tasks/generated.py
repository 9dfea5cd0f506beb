"""Make tasks whose answers can be checked: sums, comparisons and sorted letters.

`addition` and `sorting` are for models that write nothing else; `sums` and `comparisons` ask in
words, for models that read text. `llm_bridge.tasks.mathematics` reads word problems,
`llm_bridge.tasks.choices` makes questions with two answers to choose from.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from llm_bridge.models.prompt_format import Prompt
from llm_bridge.tasks.answers import last_number

__all__ = [
    "ADDITION_LEVELS",
    "Task",
    "addition",
    "addition_answer",
    "comparisons",
    "sorting",
    "sums",
]

NUMBERS = 10**6
"""Number of prompts of the addition task: all strings of six digits."""


@dataclass(frozen=True)
class Task:
    """`P` prompts, the right answer to each, and how a response is judged.

    Attributes:
        name: name in reports.
        prompts: `P` texts or conversations.
        answers: `P` right answers.
        extract: gives the answer in a response, `None` if there is none; by default all of it.
        same: whether the right answer (first) and a response's are the same; by default whether
            their letters are.
        describe: measures all responses of a policy together, such as how varied they are; `None`
            where there is nothing to measure but whether each is right.

    Raises:
        ValueError: there are no prompts, or not one answer for each.

    Example:
        >>> task = Task("sums", ("1+1=", "2+3="), ("2", "5"), extract=str.strip)
        >>> task.correct([" 2", "6"])
        array([ True, False])

    """

    name: str
    prompts: tuple[Prompt, ...]
    answers: tuple[str, ...]
    extract: Callable[[str], str | None] = str
    same: Callable[[str, str], bool] = operator.eq
    describe: Callable[[Sequence[str]], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.answers):
            sizes = f"{len(self.prompts)} prompts and {len(self.answers)} answers"
            raise ValueError(
                f"{self.name}: {sizes}; give at least one prompt and one answer for each"
            )

    def judge(self, response: str, answer: str) -> bool:
        """Return whether a response is right; one without an answer is wrong."""
        given = self.extract(response)
        return given is not None and self.same(answer, given)

    def correct(self, responses: Sequence[str] | Sequence[Sequence[str]]) -> np.ndarray:
        """Return whether responses are right, as booleans.

        Args:
            responses: `P` texts, or `P` lists of `k` texts.

        Returns:
            ``(P,)`` or ``(P, k)``.

        Raises:
            ValueError: not one entry for each prompt, or lists of different lengths.

        """
        if isinstance(responses, str) or len(responses) != len(self.answers):
            raise ValueError(
                f"responses: {len(responses)}, must be one for each of {len(self.answers)} prompts"
            )
        sizes = {1 if isinstance(row, str) else len(row) for row in responses}
        if len(sizes) > 1 or 0 in sizes or len({isinstance(row, str) for row in responses}) > 1:
            raise ValueError(
                f"responses: {sorted(sizes)} for a prompt, must be as many for one as for another"
            )
        rows = list(zip(responses, self.answers, strict=True))
        if isinstance(responses[0], str):
            return np.array([self.judge(str(one), answer) for one, answer in rows], dtype=bool)
        return np.array(
            [[self.judge(one, answer) for one in row] for row, answer in rows], dtype=bool
        )

    def split(self, n: int) -> tuple[Task, Task]:
        """Split off the first `n` prompts, such as to train on, from the others.

        Raises:
            ValueError: one of the two would be empty.

        """
        if not 0 < n < len(self.prompts):
            raise ValueError(
                f"n={n}: must be from 1 to {len(self.prompts) - 1}, to leave prompts on both sides"
            )
        return self.take(range(n)), self.take(range(n, len(self.prompts)))

    def take(self, places: Iterable[int]) -> Task:
        """Select the prompts at these positions, in this order."""
        kept = [(self.prompts[i], self.answers[i]) for i in places]
        return replace(self, prompts=tuple(p for p, _ in kept), answers=tuple(a for _, a in kept))

    def vote(self, responses: Sequence[str]) -> str | None:
        """Return the answer that most responses give, the first of them where several do.

        Answers that are the same (`same`) count together.

        Example:
            >>> task = Task("sums", ("1+1=",), ("2",), extract=last_number)
            >>> task.vote(["1+1=3", "two", "2", "It is 2."])
            '2'

        """
        votes: dict[str, int] = {}
        for given in filter(None, map(self.extract, responses)):
            known = next((other for other in votes if self.same(other, given)), given)
            votes[known] = votes.get(known, 0) + 1
        return max(votes, key=votes.__getitem__, default=None)


ADDITION_LEVELS = ("carries-0", "carries-1", "carries-2", "carries-3", "thousands")
"""Levels of difficulty of the addition task.

``carries-c``: `c` of the three columns (ones, tens, hundreds) carry, that is, add up to 10 or more
with the carry into them. Each prompt is in one of these four. ``thousands``: the sum is 1000 or
more, that is, the hundreds carry; it overlaps with ``carries-1`` to ``carries-3``.
"""


@cache
def _levels() -> np.ndarray:
    """Return whether each prompt, numbered by its digits, belongs to each level: ``(5, 10⁶)``."""
    first, second = divmod(np.arange(NUMBERS), 1000)
    carries = [first % power + second % power >= power for power in (10, 100, 1000)]
    count = np.sum(carries, axis=0)
    return np.stack([*(count == c for c in range(4)), carries[-1]])


def addition_answer(prompt: str) -> str:
    """Add two numbers of three digits that stand side by side; the answer has four digits.

    Raises:
        ValueError: the prompt is not six digits.

    Example:
        >>> addition_answer("123456")
        '0579'

    """
    if len(prompt) != 6 or not (prompt.isascii() and prompt.isdigit()):
        raise ValueError(f"prompt={prompt!r}: must be six digits, such as '123456' for 123 + 456")
    return f"{int(prompt[:3]) + int(prompt[3:]):04d}"


def addition(n: int, seed: int = 0, *, level: str | None = None) -> Task:
    """Sample `n` different sums of two three-digit numbers, in random order.

    Args:
        n: number of prompts.
        seed: seed of the sample.
        level: sample from this one of `ADDITION_LEVELS`, which is then the task's name; `None` for
            all 10⁶ sums.

    Raises:
        ValueError: there are fewer than `n` sums, or the level is unknown.

    Example:
        >>> task = addition(100, level="carries-0")
        >>> task.name, len(set(task.prompts))
        ('carries-0', 100)

    """
    if level is not None and level not in ADDITION_LEVELS:
        raise ValueError(f"level={level!r}: must be one of {', '.join(ADDITION_LEVELS)}")
    if level is None:
        numbers = np.arange(NUMBERS)
    else:
        numbers = np.flatnonzero(_levels()[ADDITION_LEVELS.index(level)])
    if not 0 < n <= len(numbers):
        raise ValueError(f"n={n}: must be from 1 to {len(numbers):,}")
    chosen = np.random.default_rng(seed).choice(numbers, n, replace=False)
    prompts = [f"{number:06d}" for number in chosen]
    return Task(level or "addition", tuple(prompts), tuple(map(addition_answer, prompts)))


def sorting(n: int | None = None, seed: int = 0, *, letters: str = "ABC", length: int = 6) -> Task:
    """Sample `n` different words to sort, in random order; all of them if `n` is `None`.

    Args:
        n: number of prompts.
        seed: seed of the sample.
        letters: letters that words are made of.
        length: letters in a word.

    Raises:
        ValueError: there are fewer than `n` words.

    Example:
        >>> task = sorting(letters="AB", length=2)
        >>> sorted(zip(task.prompts, task.answers))
        [('AA', 'AA'), ('AB', 'AB'), ('BA', 'AB'), ('BB', 'BB')]

    """
    words = ["".join(word) for word in itertools.product(letters, repeat=length)]
    n = len(words) if n is None else n
    if not 0 < n <= len(words):
        raise ValueError(
            f"n={n}: must be from 1 to {len(words)}, the words of {length} letters from {letters!r}"
        )
    prompts = [words[i] for i in np.random.default_rng(seed).permutation(len(words))[:n]]
    return Task("sorting", tuple(prompts), tuple("".join(sorted(word)) for word in prompts))


SHOTS = ((12, 3), (7, 8), (16, 13))
"""Pairs of numbers whose answers are shown before each question."""


def sums(n: int | None = None, seed: int = 0, *, below: int = 20) -> Task:
    """Ask for sums of two numbers in words, after three examples with their answers; all sums, in
    random order, if `n` is `None`.

    Args:
        n: number of prompts, which are all different.
        seed: seed of the sample.
        below: the numbers are from 1 to one less.

    Raises:
        ValueError: there are fewer than `n` sums.

    Example:
        >>> task = sums(1)
        >>> [message["content"] for message in task.prompts[0]][:2], task.prompts[0][-1]["content"]
        (['What is 12 + 3?', '12 + 3 = 15'], 'What is 17 + 11?')
        >>> task.correct(["17 + 11 = 28."])
        array([ True])

    """
    return _in_words(
        "sums", "What is {} + {}?", lambda a, b: f"{a} + {b} = {a + b}", n, seed, below
    )


def comparisons(n: int | None = None, seed: int = 0, *, below: int = 100) -> Task:
    """Ask in words which of two numbers is larger, after three examples with their answers; all
    pairs, in random order, if `n` is `None`.

    Args:
        n: number of prompts, which are all different.
        seed: seed of the sample.
        below: the numbers are from 1 to one less.

    Raises:
        ValueError: there are fewer than `n` pairs.

    Example:
        >>> task = comparisons(1)
        >>> task.prompts[0][-1]["content"], task.answers
        ('Which number is larger, 40 or 60?', ('60',))

    """
    asked = "Which number is larger, {} or {}?"
    return _in_words("comparisons", asked, lambda a, b: str(max(a, b)), n, seed, below, apart=True)


def _in_words(
    name: str,
    question: str,
    answer: Callable[[int, int], str],
    n: int | None,
    seed: int,
    below: int,
    apart: bool = False,
) -> Task:
    """Ask about pairs of numbers from 1 to ``below − 1``, if `apart` of different ones only."""
    pairs = [
        (a, b)
        for a, b in itertools.product(range(1, below), repeat=2)
        if (a, b) not in SHOTS and not (apart and a == b)
    ]
    n = len(pairs) if n is None else n
    if not 0 < n <= len(pairs):
        raise ValueError(f"n={n}: must be from 1 to {len(pairs):,}, all pairs below {below}")
    chosen = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))[:n]]
    shown = [
        {"role": role, "content": text}
        for pair in SHOTS
        for role, text in (("user", question.format(*pair)), ("assistant", answer(*pair)))
    ]
    prompts = ([*shown, {"role": "user", "content": question.format(*pair)}] for pair in chosen)
    numbers = (str(last_number(answer(*pair))) for pair in chosen)
    return Task(name, tuple(prompts), tuple(numbers), last_number)
