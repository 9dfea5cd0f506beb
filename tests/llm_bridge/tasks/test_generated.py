"""Tasks with checkable answers: sums by their carries, and sorted words."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_bridge.tasks.generated import (
    ADDITION_LEVELS,
    Task,
    addition,
    addition_answer,
    sorting,
)

six_digits = st.text("0123456789", min_size=6, max_size=6)
PAIR = Task("pair", ("a", "b"), ("1", "2"))
LAST = Task("last", ("a", "b"), ("1", "2"), lambda response: response.split(":")[-1] or None)


def carries_of(prompt):
    """The columns that carry, ones first, as a child adds."""
    found, carry = [], 0
    for one, two in zip(reversed(prompt[:3]), reversed(prompt[3:]), strict=True):
        carry = int(int(one) + int(two) + carry > 9)
        found.append(carry)
    return found


@given(six_digits)
def test_a_sum_has_four_digits(prompt):
    answer = addition_answer(prompt)
    assert len(answer) == 4
    assert int(answer) == int(prompt[:3]) + int(prompt[3:])


@given(st.sampled_from([None, *ADDITION_LEVELS]), st.integers(1, 50), st.integers(0, 2**32))
def test_sums_of_a_level_are_different_and_of_that_level(level, n, seed):
    task = addition(n, seed, level=level)
    assert len(set(task.prompts)) == n
    assert task.name == (level or "addition")
    assert task.answers == tuple(map(addition_answer, task.prompts))
    assert task == addition(n, seed, level=level)
    if level is not None:
        for prompt in task.prompts:
            carries = carries_of(prompt)
            assert carries[2] if level == "thousands" else level == f"carries-{sum(carries)}"


def test_every_sum_is_of_one_number_of_carries():
    # a column carries for 45 of 100 pairs of digits without a carry into it and for 55 with one
    law = np.zeros((4, 2))
    law[0, 0] = 1
    for _ in range(3):
        stays = law @ [[0.55, 0], [0.45, 0]]
        goes = law @ [[0, 0.45], [0, 0.55]]
        law = stays + np.roll(goes, 1, axis=0)
    sizes = np.append(law.sum(axis=1), law[:, 1].sum()) * 10**6
    for level, size in zip(ADDITION_LEVELS, sizes, strict=True):
        assert len(addition(round(size), level=level).prompts) == round(size)
        with pytest.raises(ValueError, match=rf"must be from 1 to {round(size):,}"):
            addition(round(size) + 1, level=level)
    assert sum(np.round(sizes[:4])) == 10**6


def test_sums_are_drawn_evenly_within_a_level():
    task = addition(100_000, level="carries-1")
    columns = Counter(carries_of(prompt).index(1) for prompt in task.prompts)
    sizes = np.array([0.45 * 0.45 * 0.55, 0.55 * 0.45 * 0.45, 0.55 * 0.55 * 0.45])
    drawn = np.array([columns[i] for i in range(3)]) / 100_000
    assert drawn == pytest.approx(sizes / sizes.sum(), abs=0.01)


def test_sorted_words():
    for word, answer in zip(sorting().prompts, sorting().answers, strict=True):
        assert Counter(answer) == Counter(word)
        assert all(one <= two for one, two in itertools.pairwise(answer))


def test_all_words():
    task = sorting()
    assert len(task.prompts) == len(set(task.prompts)) == 729
    assert task.prompts != sorting(seed=1).prompts
    assert task.correct(task.answers).all()
    assert sorting(5).prompts == task.prompts[:5]
    assert set(sorting(letters="AB", length=2).prompts) == {"AA", "AB", "BA", "BB"}


def test_one_response_a_prompt_and_many():
    assert PAIR.correct(["1", "1"]).tolist() == [True, False]
    many = PAIR.correct([["1", "2", "1 "], ["1", "2", "2"]])
    assert many.tolist() == [[True, False, False], [False, True, True]]
    assert many.dtype == bool
    assert PAIR.correct([("1",), ("2",)]).shape == (2, 1)


def test_a_response_without_an_answer_is_wrong():
    assert LAST.correct(["so: 1:1", "2:"]).tolist() == [True, False]
    assert LAST.judge("answer:2", "2")


def test_a_split_keeps_everything_else():
    task = addition(10, level="thousands")
    train, test = task.split(4)
    assert train.prompts + test.prompts == task.prompts
    assert train.answers + test.answers == task.answers
    assert train.name == test.name == "thousands"
    assert LAST.split(1)[1].extract is LAST.extract


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: addition(0), "n=0: must be from 1 to 1,000,000"),
        (
            lambda: addition(5, level="easy"),
            "level='easy': must be one of carries-0, .*, thousands",
        ),
        (lambda: addition_answer("12345"), "prompt='12345': must be six digits, such as '123456'"),
        (lambda: addition_answer("12345६"), "must be six digits"),
        (lambda: sorting(730), "n=730: must be from 1 to 729, the words of 6 letters from 'ABC'"),
        (lambda: PAIR.split(2), "n=2: must be from 1 to 1"),
        (lambda: PAIR.correct(["1"]), "responses: 1, must be one for each of 2 prompts"),
        (lambda: PAIR.correct("12"), "responses: 2, must be one for each"),
        (
            lambda: PAIR.correct([["1"], ["1", "2"]]),
            r"responses: \[1, 2\] for a prompt, must be as many for one",
        ),
        (lambda: PAIR.correct([[], []]), r"responses: \[0\] for a prompt"),
        (lambda: PAIR.correct(["1", ["2"]]), "must be as many for one as for another"),
        (lambda: Task("none", (), ()), "none: 0 prompts and 0 answers; give at least one prompt"),
        (lambda: Task("odd", ("a",), ()), "odd: 1 prompts and 0 answers"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
