"""Reports of the commands on token MDPs: the numbers are those of the studies."""

import dataclasses
import math

import pytest

from theory.claims.statements import STATEMENTS
from theory.reports.curves import curves_report
from theory.reports.learning import learning_report
from theory.reports.report import Plot, Table
from theory.reports.solution import solution_report
from theory.reports.verify import count_verdicts, verify_report
from theory.studies.engine import Engine
from theory.studies.groups import exact_groups, run
from theory.studies.learning import Cell, LearningCurve
from theory.studies.sweep import horizon_curve, preference_curve


def tables(report):
    return [section for section in report.sections if isinstance(section, Table)]


def plots(report):
    return [section.name for section in report.sections if isinstance(section, Plot)]


CURVES = [
    horizon_curve((2, 4, 8), alpha=alpha, vocab_size=V, epsilon=0.3)
    for V in (2, 4)
    for alpha in (0.2, 1)
]


def test_curves_show_every_horizon_and_every_fit():
    made = curves_report(CURVES, preference=preference_curve(points=2))
    headline, exponents = tables(made)
    assert [row[0] for row in headline.rows] == [2, 4, 8]
    assert len(exponents.rows) == len(CURVES)
    assert [row[4] for row in exponents.rows] == [
        pytest.approx(curve.local_exponent("clone")) for curve in CURVES
    ]
    assert plots(made) == [
        "error_vs_horizon_fixed_epsilon",
        "clone_constant",
        "crossover",
        "tv_vs_epsilon",
    ]
    assert "preferences, α = 1, H = 4" in made.text()


def test_a_bound_that_says_nothing_has_a_star():
    curve = dataclasses.replace(CURVES[0], clone_paper=(1.9, 4.0, 9.0))
    (headline, _) = tables(curves_report([curve]))
    names = [column.name for column in headline.columns]
    column = [row[names.index("H²ε")] for row in headline.rows]
    assert [text.endswith("*") for text in column] == [False, True, True]


@pytest.mark.parametrize(
    ("family", "shown", "hidden"), [("coin-payoff", "cloning", "RL"), ("swapped-pair", "RL", "V")]
)
def test_a_family_has_its_own_columns(family, shown, hidden):
    for table in tables(curves_report(CURVES, [family])):
        names = [column.name for column in table.columns]
        assert shown in names
        assert hidden not in names


def test_no_curve_has_no_table():
    assert curves_report([], ["coin-payoff"]).sections == []


def test_learning_has_a_row_for_each_expert_and_error():
    cells = tuple(
        Cell("stochastic", H, n, (0.1 * H, 0.2 * H), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0))
        for H in (2, 4, 8)
        for n in (10, 100, 1000)
    )
    made = learning_report(LearningCurve(prompts=2, seeds=2, cells=cells))
    (table,) = tables(made)
    assert [row[:2] for row in table.rows] == [("stochastic", "clone"), ("stochastic", "rl")]
    assert table.rows[0][2].startswith("1.00 [")
    assert table.rows[0][4] == pytest.approx(1.2)
    assert table.rows[1][2:] == ("zero", "zero", 0.0)
    assert "exponent in H (n = 1,000)" in made.text()
    assert plots(made) == ["learning"]


NUMBERS = {
    "alpha": 0.5,
    "horizon": 2,
    "vocab_size": 2,
    "n_prompts": 12,
    "soft_value": 1.0,
    "expert_plain_value": 0.123456789012,
    "optimal_plain_value": 1.0,
    "expert_entropy": 0.5,
    "map_response": [[0, 1]] * 12,
    "map_log_prob": [-0.25] * 12,
    "map_return": [1.0] * 12,
}


def test_solution_shows_ten_prompts_and_says_where_the_others_are():
    made = solution_report("mdp.npz", NUMBERS)
    text = made.text()
    assert text.startswith("mdp.npz: H = 2, V = 2, 12 prompts, α = 0.5\n")
    assert "plain value of the soft-optimal policy: 0.123456789\n" in text
    assert len(made.sections[0].rows) == 10
    assert "… 2 more prompts: all of them with --json" in text
    assert "worst" not in text


def test_solution_says_what_is_out_of_reach():
    names = ("clone_gap_stepwise", "clone_gap_paper", "rl_gap_expert", "rl_gap_paper", "rl_gap")
    names += ("preference_tv_sharp", "preference_tv_paper", "regularised_gap")
    worst = {
        "epsilon": 0.1,
        "worst_clone_gap": 0.25,
        "worst_map_gap": None,
        "worst_map_gap_optimal": None,
        "worst_preference_tv": 0.5,
        "worst_regularised_gap": 0.75,
        "bounds": {name: float(k) for k, name in enumerate(names)},
        "out_of_reach": {"worst_map_gap": "too large"},
    }
    lines = solution_report("mdp.npz", NUMBERS | worst).text().splitlines()
    rows = {line.split("  ")[1]: line.split()[-3:] for line in lines if line.startswith("  ")}
    assert rows["cloning, V^{π_E} − V^{π̂}"] == ["0.25", "0", "1"]
    assert rows["RL, V^{π_E} − V^{π_RL}"] == ["–", "2", "3"]
    assert rows["regularised, α KL(π̂‖π_E)"][1:] == ["0.75", "7"]
    assert "worst_map_gap: too large" in lines


@pytest.fixture(scope="module")
def verified():
    groups = exact_groups(n_instances=2)[:2]
    findings = run(groups, Engine(processes=1))
    return groups, findings


def test_verify_shows_every_finding_of_every_group(verified):
    groups, findings = verified
    made = verify_report(groups, findings, horizon_curve((2, 4, 8)), preference_curve(points=2))
    overview, *shown, attained = tables(made)
    assert [row[:2] for row in overview.rows] == [(groups[0].name, 8), (groups[1].name, 30)]
    assert made.summary[0] == (
        "40 statements checked on 38 instances, none violated; 6 could not fail here."
    )
    assert made.passed
    assert [table.title for table in shown] == [group.name for group in groups]
    for group, table in zip(groups, shown, strict=True):
        here = [finding for finding in findings if finding.group == group.name]
        assert [row[0] for row in table.rows] == [x.statement.name for x in here]
        assert [row[7] for row in table.rows] == [x.verdict for x in here]
    bounds = [s for s in STATEMENTS if not s.equality]
    assert [row[:2] for row in attained.rows] == [(s.name, s.formula) for s in bounds]
    text = made.text()
    assert "\n  alpha: (0.05, 20.0)\n  epsilon: (0.001, 3.0)\n" in text
    assert "\n  (1) random MDPs, sampled π̂\n  (2) random MDPs, worst π̂ of the ball\n" in text
    assert plots(made) == ["error_vs_horizon", "tv_vs_epsilon"]


def test_verify_says_what_a_table_would_let_a_reader_miss(verified):
    groups, findings = verified
    name = groups[0].name
    first, second, third, *_ = (x for x in findings if x.group == name)
    planted = [
        dataclasses.replace(first, verdict="violated"),
        dataclasses.replace(
            second, verdict="does not apply", instances=0, vacuous_share=math.nan, tested=0
        ),
        dataclasses.replace(
            third,
            verdict="undecided",
            reasons={"a reason": 2},
            instances=8,
            equal_within=1e-20,
            vacuous_share=1.0,
            tested=0,
        ),
    ]
    curves = horizon_curve((2, 4, 8)), preference_curve(points=2)
    made = verify_report(groups[:1], planted, *curves, note="no model: skipped")
    assert made.summary == [
        f"1 of 3 statements VIOLATED on 8 instances: {first.statement.name}.",
        f"Undecided 2 times, a statement on an instance each (a reason): {third.statement.name}.",
        "no model: skipped",
    ]
    assert not made.passed
    text = made.text()
    names = [x.statement.name for x in planted]
    assert f"undecided on 2 of 8: {names[2]} (a reason, equal to within 1e-20)" in text
    assert f"vacuous here (the bound says nothing): {names[2]}" in text
    assert f"conditions met by no instance here: {names[1]}" in text
    assert "violated" not in made.text(verbose=False).partition("Exponents")[2]
    assert tables(made)[0].title == "Violated"
    assert tables(made)[2].tones == ["bad", "quiet", "quiet"]


def test_verdicts_are_counted_and_violations_always_named():
    assert count_verdicts([]) == "0 violated"
    assert count_verdicts(["does not apply", "violated", "holds"]) == (
        "1 hold, 1 violated, 1 do not apply"
    )
