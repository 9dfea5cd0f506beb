"""What a run of PPO reports of its way to the optimum."""

import math

import pytest

from llm_bridge.improve.report import progress_report, sampled_report, share_of_the_way
from theory.reports.report import Plot


def test_shares_of_the_way_to_the_optimum():
    first = {"step": 0, "objective": 1.0, "entropy": 2.0, "kl_to_optimum": 0.5}
    last = {"step": 9, "objective": 1.75, "entropy": 2.5, "kl_to_optimum": 0.125}
    report = progress_report("t", first, last, {"objective": 2.0, "entropy": 2.0005})
    table, distance = report.sections
    assert table.rows == [
        ("objective", 1.0, 1.75, 2.0, 0.75),
        ("entropy", 2.0, 2.5, 2.0005, None),  # no way to have a share of
    ]
    assert "75%" in report.text()
    assert distance.paragraph == (
        "exact distance to the optimum: 0.2500 reward units, KL(π‖optimum) = 0.1250 nats"
    )


def rows(**changes):
    """Metrics of a task `a`, with an interval of 0.1 to either side of the objective."""
    first = {"step": 0, "a/objective": 0.0, "a/sampled": 0.5, "a/greedy": 0.75}
    last = {"step": 9, "a/objective": 0.5, "a/sampled": 0.7, "a/greedy": 0.75}
    for row in (first, last):
        row |= {
            f"a/objective_{e}": row["a/objective"] + d for e, d in (("low", -0.1), ("high", 0.1))
        }
    return first | changes, last


def test_a_share_is_within_all_ends_of_the_intervals():
    first, last = rows(**{"a/optimum_low": 1.0, "a/optimum_high": 1.2})
    share = share_of_the_way(first, last, "a")
    # least: from 0.1 to 0.4 of the way to 1.2; largest: from −0.1 to 0.6 of the way to 1
    assert share.low == pytest.approx(0.3 / 1.1)
    assert share.high == pytest.approx(0.7 / 1.1)
    assert share.value is None  # the optimum is only enclosed
    estimated = share_of_the_way(first | {"a/optimum": 1.0}, last, "a")
    assert estimated.value == 0.5
    # an estimate cannot be right outside the bounds, which are certain
    for estimate, optimum in ((0.3, 1.0), (9.0, 1.2)):
        estimated = share_of_the_way(first | {"a/optimum": estimate}, last, "a")
        assert estimated.value == pytest.approx(0.5 / optimum)
        assert estimated.low <= estimated.value <= estimated.high
    assert share_of_the_way(first | {"a/optimum": math.nan}, last, "a").value is None


def test_no_share_where_nothing_is_known_or_there_is_no_way():
    first, last = rows()
    assert share_of_the_way(first, last, "a") is None
    first, last = rows(**{"a/optimum_low": 0.05, "a/optimum_high": 3.0})
    assert share_of_the_way(first, last, "a") is None  # the optimum may be the start


def test_the_report_says_what_decoding_gives_and_what_is_not_known():
    first, last = rows(**{"a/best": 0.8, "a/best_low": 0.7, "a/best_high": 0.9})
    first["a/optimum"] = first["a/optimum_sampled"] = math.nan
    first |= {"a/effective_samples": 1.5}
    first |= {"a/power_low": 0.6, "a/power_high": 0.7}
    report = sampled_report("t", [first, last], ["a"], 8)
    text = report.text()
    words = " ".join(text.split())
    assert "sampled from the optimum π̂^κ, enclosed 0.600 to 0.700" in words
    assert report.summary[0].endswith("without training: greedy 0.750, best of 8 by reward 0.800.")
    assert "best of 8 by reward 0.800 [0.700, 0.900]" in words
    assert "not estimable (1.5 effective samples of some prompt)" in " ".join(text.split())
    (plot,) = (section for section in report.sections if isinstance(section, Plot))
    assert plot.name == "progress-a"
    objective = plot.figure.axes[0].lines[0]
    assert objective.get_ydata().tolist() == [0, 0.5]
    known = sampled_report(
        "t", [first | {"a/optimum": 1.0, "a/optimum_sampled": 0.9}, last], "a", 8
    )
    text = " ".join(known.text().split())
    assert "Share of the way from π̂, if J* is as estimated: 50%" in text
