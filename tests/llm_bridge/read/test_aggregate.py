"""Aggregations against plain loops over exact fractions of the same doubles."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_bridge.read.aggregate import FORMULAS, Aggregation, AggregationOptions, aggregate


@dataclass
class Response:
    rewards: np.ndarray
    log_probs: np.ndarray
    reward_sum: float
    log_prob: float


LOGS = st.lists(st.floats(-30, 0, width=32), min_size=1, max_size=40)


def by_hand(how, y, alpha, other, discount, floor):
    """The definitions, token by token, in exact fractions."""
    n, a = len(y.rewards), Fraction(alpha)
    logs = [a * Fraction(float(x)) for x in y.log_probs]
    rewards = [Fraction(float(r)) for r in y.rewards]
    if how.startswith("clipped"):
        logs, rewards = ([max(x, Fraction(floor)) for x in each] for each in (logs, rewards))
    terms = logs if "logprob" in how else rewards
    if how in ("anchored", "lift"):
        return a * (Fraction(y.log_prob) - Fraction(other))
    if how in ("sum", "mean"):
        return Fraction(y.reward_sum) / (n if how == "mean" else 1)
    if how in ("logprob", "logprob_mean"):
        return a * Fraction(y.log_prob) / (n if how == "logprob_mean" else 1)
    total = Fraction(0)
    for h, term in enumerate(terms):
        total += Fraction(discount) ** h * term
    return total


@pytest.mark.parametrize("how", get_args(Aggregation))
@given(
    logs=LOGS,
    shift=st.floats(-20, 20, width=32),
    alpha=st.sampled_from([1.0, 0.3, 2.0]),
    discount=st.sampled_from([1.0, 0.95, 0.5]),
    floor=st.sampled_from([0.0, -1.5, 2.0]),
)
def test_every_aggregation_is_its_formula(how, logs, shift, alpha, discount, floor):
    logs = np.array(logs, dtype=np.float32)
    rewards = (alpha * logs + np.float32(shift)).astype(np.float32)
    y = Response(rewards, logs, float(rewards.sum(dtype=float)), float(logs.sum(dtype=float)))
    options = {"other_log_prob": -7.25, "discount": discount, "floor": floor}
    expected = float(by_hand(how, y, alpha, -7.25, discount, floor))
    size = 1 + sum(abs(float(x)) for x in [*rewards, *logs])
    assert aggregate(how, y, alpha, **options) == pytest.approx(expected, abs=1e-13 * size)


def test_the_formulas_are_those_of_the_type():
    assert tuple(FORMULAS) == get_args(Aggregation)


def test_the_page_has_every_formula():
    page = Path(__file__).parents[3] / "docs/scoring.md"
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    formulas = [(how, formula) for how, (formula, _) in FORMULAS.items()]
    assert [(how, formula.replace("\\|", "|")) for how, formula in rows] == formulas


@pytest.mark.parametrize("how", ["anchored", "lift"])
def test_a_difference_needs_both_sides(how):
    with pytest.raises(ValueError, match=f"how='{how}' needs other_log_prob"):
        aggregate(how, Response(np.ones(1), np.ones(1), 1.0, 1.0), 1.0)


def test_columns_of_several_discounts():
    names = [name for name, *_ in AggregationOptions(discount=(0.9, 1.0), floor=-2).columns("lift")]
    assert names == [
        "sum",
        "mean",
        "logprob",
        "logprob_mean",
        "lift",
        "discounted γ=0.9",
        "discounted_logprob γ=0.9",
        "discounted γ=1",
        "discounted_logprob γ=1",
        "clipped γ=0.9 m=-2",
        "clipped_logprob γ=0.9 m=-2",
        "clipped γ=1 m=-2",
        "clipped_logprob γ=1 m=-2",
    ]
    assert [name for name, *_ in AggregationOptions(floor=0.0).columns()][-2:] == [
        "clipped γ=1 m=0",
        "clipped_logprob γ=1 m=0",
    ]
