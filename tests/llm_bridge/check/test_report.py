"""Reports of a check: rows, verdicts and figures are those of what was found."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from theory.mdp.token_mdp import TokenMDP

pytest.importorskip("torch")

from llm_bridge.check.comparison import compare
from llm_bridge.check.confidence import Estimate
from llm_bridge.check.figures import bounds_figure
from llm_bridge.check.report import exact_report, sampled_report
from llm_bridge.check.sampled import Sampled
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.responses import sample_log_ratio_ball
from theory.reports.notation import typeset
from theory.solve.soft import soft_optimal


@pytest.fixture(scope="module")
def found():
    mdp = TokenMDP.random(3, 3, batch=(2,), seed=0)
    expert = soft_optimal(mdp, 0.5).policy
    policy = sample_log_ratio_ball(expert, 3.0, np.random.default_rng(1))
    instance = Instance(mdp, expert, policy, 0.5)
    return compare([instance])


def test_every_statement_has_its_row_and_the_summary_counts_them(found):
    made = exact_report("a model", {"alpha": 0.5}, found)
    text = made.text()
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    html = made.html()
    for statement in STATEMENTS:
        assert statement.name in lines
        assert typeset(statement.claim) in html
    assert made.summary[0].startswith("40 statements checked on 2 prompts, none violated")
    assert made.passed
    for name, loss in found.gaps.items():
        assert f"{loss:.5g}" in text
        assert name in text
    assert made.html().count('src="data:image/png') == 2


def test_rows_that_could_not_fail_and_violated_rows_are_marked(found):
    comparison = found
    html = exact_report("m", {}, comparison).html()
    quiet = [x for x in comparison.findings if x.tested == 0]
    assert quiet
    assert html.count('<tr class="quiet">') == len(quiet)
    assert '<tr class="bad">' not in html


def test_bounds_are_drawn_where_they_are(found):
    figure = bounds_figure(found)
    findings = {x.statement.name: x for x in found.findings}
    drawn = 0
    for axes in figure.axes:
        labels = [label.get_text() for label in axes.get_yticklabels()]
        bars = [x for x in axes.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]
        bars = {bar.get_ydata()[0]: bar for bar in bars if bar.get_ydata()[0] == bar.get_ydata()[1]}
        for row, label in enumerate(labels):
            name, _, bound = label.partition(": ")
            finding = findings[name]
            assert bound.replace("$\\hat{\\pi}$", "π\u0302") == finding.statement.bound.symbol
            left, right = bars[row].get_xdata()
            assert left == pytest.approx(max(finding.mean_left, axes.get_xlim()[0]))
            assert right == pytest.approx(max(finding.mean_right, axes.get_xlim()[0]))
            drawn += 1
    bounded = [s for s in STATEMENTS if not s.equality and s.quantity.unit != "nats"]
    assert drawn == len(bounded) == 28


def test_intervals_of_estimates():
    estimates = {
        "share": Estimate(0.25, 0.2, 0.3, guaranteed=True),
        "value": Estimate(1.5, 1.0, 2.0),
        "certain": Estimate(1.0, 1.0, 1.0),
        "none": Estimate(np.nan, np.nan, np.nan),
        "lower end": Estimate(np.nan, 1.0, np.inf),
    }
    made = sampled_report("m", {}, Sampled(2, 8, estimates, {"largest": 0.5}, 0.5))
    rows = {row[0]: row[2:] for row in made.sections[0].rows}
    assert rows == {
        "share": ("[0.2, 0.3]", "guaranteed"),
        "value": ("[1, 2]", "approximate"),
        "certain": ("all draws agree", "–"),
        "none": ("not defined", "–"),
        "lower end": ("[1, inf]", "approximate"),
    }
    assert "on 50% of the prompts" in " ".join(made.text().split())
    assert made.html().startswith("<!DOCTYPE html>")


def test_the_curve_of_log_ratios_weights_prompts_as_the_numbers_do():
    mdp = TokenMDP.random(3, 3, batch=(2,), seed=0)
    expert = soft_optimal(mdp, 0.5).policy
    policy = sample_log_ratio_ball(expert, np.array([0.1, 3.0]), np.random.default_rng(1))
    instance = Instance(mdp, expert, policy, 0.5)
    each = [compare([instance.take([k])]).exceeded for k in range(2)]
    weighted = compare([instance], np.array([0.9, 0.1]))
    assert_allclose(weighted.exceeded, 0.9 * each[0] + 0.1 * each[1], rtol=1e-12)
    assert weighted.exceeded[-1] < compare([instance]).exceeded[-1]
