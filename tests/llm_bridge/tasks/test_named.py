"""The tasks that commands know by name."""

import re

import pytest

pytest.importorskip("torch")

from llm_bridge.tasks.answers import chosen_letter, last_number
from llm_bridge.tasks.generated import SHOTS, Task, comparisons, sums
from llm_bridge.tasks.named import TASKS


@pytest.fixture
def data(shared_models):
    return shared_models.parent / "data"


def asked(task):
    return [prompt[-1]["content"] for prompt in task.prompts]


@pytest.mark.parametrize("make", [sums, comparisons])
def test_every_question_is_asked_once_and_none_that_is_shown(make):
    task = make()
    questions = asked(task)
    assert len(set(questions)) == len(questions) == (358 if make is sums else 99 * 98 - 3)
    shown = {
        tuple(map(int, re.findall(r"\d+", m["content"])))
        for m in task.prompts[0][:-1]
        if m["role"] == "user"
    }
    assert shown == set(SHOTS)
    for question, answer in zip(questions, task.answers, strict=True):
        a, b = map(int, re.findall(r"\d+", question))
        assert int(answer) == (a + b if make is sums else max(a, b))
        assert (a, b) not in shown


@pytest.mark.parametrize("make", [sums, comparisons])
def test_the_answers_that_are_shown_are_right(make):
    task = make(1)
    messages = task.prompts[0][:-1]
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        a, b = map(int, re.findall(r"\d+", question["content"]))
        right = str(a + b) if make is sums else str(max(a, b))
        assert last_number(answer["content"]) == right


@pytest.mark.parametrize("n", [0, 359])
def test_there_are_no_more_sums(n):
    with pytest.raises(ValueError, match=f"^n={n}: must be from 1 to 358, all pairs below 20$"):
        sums(n)


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("12 + 13 = 25.", "25"),
        ("It is 1,024!", "1024"),
        ("$3.50", "3.5"),
        ("-7", "-7"),
        ("12-5", "5"),
        ("room b12", None),
        ("007", "7"),
        ("100", "100"),
        ("", None),
    ],
)
def test_last_number(response, number):
    assert last_number(response) == number


@pytest.mark.parametrize(
    ("response", "letter"),
    [("A", "A"), ("(B)", "B"), ("Answer: B.", "B"), ("Both", None), ("C or A", "A"), ("A's", None)],
)
def test_chosen_letter(response, letter):
    assert chosen_letter(response) == letter


def test_a_vote_counts_answers_that_are_the_same():
    task = Task("t", ("p",), ("1/2",), str.strip, lambda a, b: float(eval(a)) == float(eval(b)))
    assert task.vote(["3", "1/2", "0.5", "3", "0.50"]) == "1/2"
    assert task.vote(["2", "1"]) == "2"  # the first of equals
    assert Task("t", ("p",), ("1",), last_number).vote(["none", ""]) is None


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_makes_as_many_prompts_as_are_asked_for(name, data):
    if name in ("gsm8k", "choices") and not data.is_dir():
        pytest.skip(f"no data in {data}")
    if name == "molecules":
        pytest.importorskip("rdkit", reason="RDKit is not installed")
    task = TASKS[name].make(12, 0, data)
    assert len(task.prompts) == len(task.answers) == 12
    assert task.name == name
    assert task.correct(list(task.answers)).all()
    other = TASKS[name].make(12, 1, data)
    assert name in ("gsm8k", "molecules") or other.prompts != task.prompts


@pytest.mark.parametrize("name", ["gsm8k", "choices"])
def test_a_task_says_which_folder_it_needs(name):
    with pytest.raises(ValueError, match=r"^folder=None: .*give the folder that has "):
        TASKS[name].make(None, 0, None)


def test_the_better_response_is_in_either_place(data):
    task = TASKS["choices"].make(None, 0, data)
    assert 0.4 < task.answers.count("A") / len(task.answers) < 0.6
    assert set(task.answers) == {"A", "B"}
    assert max(map(len, task.prompts)) <= 2000
