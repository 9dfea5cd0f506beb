"""Runs that are stopped anywhere and go on: the same bytes at the end, and nothing lost when a row
is bad.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from tiny import tiny

from llm_bridge.models.processes import Workers
from llm_bridge.preferences import records
from llm_bridge.preferences import run as scoring
from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.rows import Place
from llm_bridge.preferences.scorers import Conversation, Endogenous, Request
from llm_bridge.read.aggregate import AggregationOptions
from llm_bridge.read.reward import EndogenousReward
from theory.storage.runs import RunFolder

COMPARISONS = [
    Comparison(
        f"a/{n}",
        f"question {n}",
        ("yes " * (n % 5 + 1), "ja"),
        ("no " * (n % 3 + 1),),
        "a",
        place=Place("f", n, n),
    )
    for n in range(12)
]


class Alone(Workers):
    """One of several processes whose fellows run before and after it instead of beside it."""

    def wait(self):
        pass


@pytest.fixture(scope="module")
def scorer():
    lm = tiny()
    return Endogenous(EndogenousReward(lm, batch_tokens=80), Conversation(lm, False))


@pytest.fixture(scope="module")
def work(scorer):
    return scoring.plan(scorer, COMPARISONS, 80)


def run(scorer, work, folder, workers=None):
    with RunFolder(folder, {"a": 1}, processes=workers or Workers()) as claimed:
        return scoring.run(scorer, work, claimed)


@pytest.fixture(scope="module")
def finished(scorer, work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(scorer, work, folder)
    return folder


def scored(scorer, work, folder):
    run(scorer, work, folder)
    return results_of(folder, work)


def results_of(folder, work):
    facts = {"method": "endogenous", "alpha": 1.0, "dtype": "float32"}
    return records.read_results(
        folder, work.comparisons, records.columns(facts, AggregationOptions())
    )


def keys(work):
    return [request.key for request in work.requests]


def test_lines_are_in_the_order_of_the_work(scorer, work, finished):
    found = dict(records.read_records(finished))
    assert list(found) == keys(work) == [key for c in COMPARISONS for key, _ in c.responses()]
    assert len(work.batches) > 3
    for request, record in zip(
        work.requests, found.values(), strict=True
    ):  # each as if it had been alone
        (alone,) = scorer.records([request])
        assert record["token_ids"] == alone["token_ids"]
        np.testing.assert_allclose(record["rewards"], alone["rewards"], rtol=0, atol=1e-5)


class Stopped(Exception):
    """What ends a run from outside."""


class Failing(Endogenous):
    """Stops when so many batches are scored."""

    def __init__(self, whole, batches):
        super().__init__(whole.reward, whole.conversation)
        self.left = batches

    def records(self, requests):
        if self.left == 0:
            raise Stopped
        self.left -= 1
        return super().records(requests)


def written_by_a_stop(scorer, work, folder, workers, batches, torn):
    """A run that stops after so many batches, in the middle of writing a line."""
    with pytest.raises(Stopped):
        run(Failing(scorer, batches), work, folder, workers)
    name = "responses.jsonl" if workers.first else f"responses.{workers.rank}.jsonl"
    path = folder / name
    if path.exists():
        path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - torn)])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_stopped_run_ends_in_the_same_bytes(scorer, work, finished, tmp_path_factory, data):
    """Stopped several times, as the n-th of several processes each time, and finished as one."""
    folder = tmp_path_factory.mktemp("stopped")
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.integers(1, 3))
        done = {key for key, _ in records.read_records(folder)}
        todo = [
            batch for batch in work.batches if any(work.requests[i].key not in done for i in batch)
        ]
        rank = data.draw(st.integers(0, size - 1))
        share = len(todo[rank::size])
        if share:
            batches, torn = data.draw(st.integers(0, share - 1)), data.draw(st.integers(0, 400))
            written_by_a_stop(scorer, work, folder, Alone(rank, size), batches, torn)
    results = scored(scorer, work, folder)
    assert (folder / "responses.jsonl").read_bytes() == (finished / "responses.jsonl").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"responses.jsonl", "run.json"}
    assert set(results.scores["sum"]) == set(keys(work))


def test_what_is_done_is_not_done_again(scorer, work, finished, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    assert run(Failing(scorer, 0), work, folder) == 0
    assert set(results_of(folder, work).scores["sum"]) == set(keys(work))


def test_a_comparison_that_cannot_be_scored_does_not_lose_the_others(scorer, tmp_path):
    too_long = replace(
        COMPARISONS[0], id="a/long", chosen=("x" * 600,), place=Place("pairs.jsonl", 7, 6)
    )
    work = scoring.plan(scorer, [COMPARISONS[0], too_long, COMPARISONS[1]], 80)
    results = scored(scorer, work, tmp_path)
    assert results.comparisons == COMPARISONS[:2]
    (problem,) = work.problems
    assert not results.problems
    assert str(problem).startswith("pairs.jsonl:7: row 6: chosen[0]: prompt and response have ")


@pytest.mark.parametrize("wrong", ["refused", "not finite", "a token that is not"])
def test_a_request_that_fails_in_the_model_does_not_lose_its_batch(scorer, work, tmp_path, wrong):
    class Particular(Endogenous):
        def records(self, requests):
            bad = [request.key == ("a/3", "rejected", 0) for request in requests]
            if any(bad) and wrong == "refused":
                raise ValueError("no such\nthing")
            scored = super().records(requests)
            found = (
                {"log_prob": float("nan")}
                if wrong == "not finite"
                else {"rewards": [0.0, float("inf")]}
            )
            return [record | (found if b else {}) for record, b in zip(scored, bad, strict=True)]

    particular = Particular(scorer.reward, scorer.conversation)
    for _ in range(2):  # and a second time, from what is written
        results = scored(particular, work, tmp_path)
        assert results.comparisons == [c for c in COMPARISONS if c.id != "a/3"]
        assert {key[0] for key in results.scores["sum"]} == {c.id for c in results.comparisons}
        dtype = "load the model in another dtype"
        reasons = {"refused": "no such thing", "not finite": f"log_prob is nan; {dtype}"}
        reason = reasons.get(wrong, f"rewards hold inf; {dtype}")
        assert [str(problem) for problem in results.problems] == [f"f:3: row 3: {reason}"]
    lines = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines if "error" in line] == ["a/3"]


@pytest.mark.parametrize("line", ["{}", "[]", "no", '{"id": "a", "role": "chosen"}'])
def test_lines_of_something_else_are_named(scorer, work, tmp_path, line):
    (tmp_path / "responses.jsonl").write_text(line + "\n")
    with pytest.raises(
        ValueError, match=r"responses\.jsonl:1: not a line of a run .*: give another --out"
    ):
        run(scorer, work, tmp_path)


def test_longest_first():
    class Sized:
        def requests(self, comparison):
            return [Request((comparison.id, "chosen", 0), (np.zeros(len(comparison.prompt)),), {})]

    comparisons = [replace(COMPARISONS[0], id=str(n), prompt="x" * n) for n in (3, 9, 1)]
    assert scoring.plan(Sized(), comparisons, 6).batches == [[1], [0], [2]]


def test_a_response_that_comes_again_is_scored_once(scorer, tmp_path):
    """Two comparisons with one prompt share a response; a third has it after another prompt."""
    first, second, other = (
        Comparison(f"a/{n}", prompt, ("yes",), (f"no {n}",), "a", place=Place("f", n, n))
        for n, prompt in enumerate(("q", "q", "another"))
    )
    work = scoring.plan(scorer, [first, second, other], 80)
    assert sorted(i for batch in work.batches for i in batch) == [0, 1, 3, 4, 5]
    assert work.copies[0] == [0, 2]
    once = sum(work.requests[i].size for i in work.copies)
    assert run(scorer, work, tmp_path) == once
    found = dict(records.read_records(tmp_path))
    assert list(found) == keys(work)
    assert found["a/0", "chosen", 0] == found["a/1", "chosen", 0] != found["a/2", "chosen", 0]
    (alone,) = scorer.records([work.requests[2]])
    np.testing.assert_allclose(found["a/1", "chosen", 0]["rewards"], alone["rewards"], atol=1e-5)


def test_a_torn_batch_writes_its_copies_too(scorer, tmp_path):
    pair = [
        Comparison(f"a/{n}", "q", ("yes",), ("no",), "a", place=Place("f", n, n)) for n in range(2)
    ]
    work = scoring.plan(scorer, pair, 8000)
    run(scorer, work, tmp_path / "whole")
    whole = (tmp_path / "whole/responses.jsonl").read_bytes()
    (tmp_path / "torn").mkdir()
    first = b"".join(whole.splitlines(keepends=True)[:2])  # all but the copies
    (tmp_path / "torn/responses.jsonl").write_bytes(first)
    (tmp_path / "torn/run.json").write_bytes((tmp_path / "whole/run.json").read_bytes())
    run(scorer, work, tmp_path / "torn")
    assert (tmp_path / "torn/responses.jsonl").read_bytes() == whole
