"""What is made of the lines of two runs."""

from pathlib import Path

import numpy as np
import pytest

from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.records import Lift, columns, read_results
from llm_bridge.read.aggregate import AggregationOptions
from theory.storage.files import json_line

KEY = ("s/0", "chosen", 0)
RECORD = {
    "tokens": 2,
    "reward_sum": -3.0,
    "log_prob": -3.0,
    "token_ids": [5, 7],
    "rewards": [-1.0, -2.0],
    "log_probs": [-1.0, -2.0],
}
RUN = {"method": "endogenous", "alpha": 2.0, "dtype": "float32"}


def lift(log_prob=-5.0, ids=(5, 7), same=()):
    return Lift(Path("plain"), {KEY: (np.array(ids, dtype=np.int32).tobytes(), log_prob)}, same)


def test_the_lift_is_a_difference_by_key():
    made = columns(RUN, AggregationOptions(), lift())(KEY, RECORD)
    assert made["lift"] == 2.0 * (-3.0 + 5.0)
    assert "lift" not in columns(RUN, AggregationOptions())(KEY, RECORD)


def test_a_prompt_that_is_the_same_has_no_lift_whatever_rounding_says():
    scores = columns(RUN, AggregationOptions(), lift(-3.0000001, same={"s/0"}))
    assert scores(KEY, RECORD)["lift"] == 0.0


def test_a_lift_needs_the_same_tokens():
    with pytest.raises(ValueError, match=r"--lift-from=plain: .* has other tokens there"):
        lift(ids=(5, 8)).log_prob(KEY, RECORD)
    with pytest.raises(ValueError, match=r"--lift-from=plain: has no score of .*rejected"):
        lift().log_prob(("s/0", "rejected", 0), RECORD)


def test_the_lines_of_all_processes_are_read_and_an_unfinished_one_is_not(tmp_path):
    row = Comparison("s/0", "q", ("a",), ("b",), "s")
    other = Comparison("s/1", "q", ("a",), ("b",), "s")
    lines = [
        json_line({"id": name, "role": role, "index": 0} | RECORD)
        for name in ("s/0", "s/1")
        for role in ("chosen", "rejected")
    ]
    (tmp_path / "responses.jsonl").write_bytes(lines[0])
    (tmp_path / "responses.2.jsonl").write_bytes(lines[1] + lines[2] + lines[3][:-1])
    found = read_results(tmp_path, [row, other], columns(RUN, AggregationOptions()))
    assert (found.comparisons, found.waiting) == ([row], 1)
    assert found.scores["logprob"] == {KEY: -6.0, ("s/0", "rejected", 0): -6.0}
    assert found.tokens == {KEY: 2, ("s/0", "rejected", 0): 2}
