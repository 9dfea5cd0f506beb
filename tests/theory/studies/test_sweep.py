"""Curves against the horizon: exponents, order of the bounds, crossover; and the ``endorm curves``
command.
"""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from llm_bridge.commands.main import main
from theory.claims import bounds
from theory.mdp.token_mdp import TokenMDP
from theory.reports.figures import sharpening_figure
from theory.solve.improve import sharpening_curve
from theory.solve.soft import soft_optimal
from theory.studies.gallery import swapped_pair, swapped_pair_gap
from theory.studies.sweep import HORIZONS, fit_exponent, headlines, horizon_curve, preference_curve

GOLDEN_PAIRS = [(2, 1.0), (256, 0.18)]
RULES = [{"epsilon": 0.01}, {"epsilon_over_sqrt": 0.01}]


def test_fit_exponent_on_a_power_law_and_around_it():
    x = np.array([2.0, 4, 8, 16, 32])
    exact = fit_exponent(x, 3 * x**1.5)
    assert exact.slope == pytest.approx(1.5)
    assert exact.half_width < 1e-12
    bent = fit_exponent(x, x**1.5 * (1 + 1 / x))
    assert abs(bent.slope - 1.5) < 2 * bent.half_width
    with pytest.raises(ValueError, match="at least 3"):
        fit_exponent(x[:2], x[:2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -4.0])
def test_no_point_of_a_fit_is_left_out(bad):
    with pytest.raises(ValueError, match=f"y={bad}: must be positive and finite"):
        fit_exponent([1, 2, 3, 4, 5], [1, bad, 9, 16, 25])
    with pytest.raises(
        ValueError, match=r"x=\[3.0, 3.0, 3.0\]: an exponent needs at least 3 different points"
    ):
        fit_exponent([3, 3, 3], [1, 2, 3])


@pytest.mark.parametrize("horizons", [(), (4, 4, 4), (65536, 4)])
def test_horizons_increase(horizons):
    """Else the crossover is sought between the wrong two, and a local exponent is 0/0."""
    with pytest.raises(
        ValueError, match=r"horizons=\[.*\]: must be at least one, each longer than the one before"
    ):
        horizon_curve(horizons)


def test_a_constant_has_no_share_of_its_range():
    """Of a policy that is uniform every power is the same: its endogenous value is not drawn at the
    bottom.
    """
    mdp = TokenMDP.tree([np.array([[0.0, 1.0]])])
    curve = sharpening_curve(
        mdp, soft_optimal(TokenMDP.tree([np.zeros((1, 2))]), 1.0).policy, 1.0, [1.0, 2.0, 4.0]
    )
    share, value = sharpening_figure({"uniform": curve}).axes[0].get_lines()[:2]
    assert np.isnan(share.get_ydata()).all()
    assert value.get_ydata() == pytest.approx(0.5)


def test_a_worst_case_that_is_nan_is_not_passed_over():
    curve = preference_curve(points=2)
    assert "at least nan" in str(replace(curve, worst=(curve.worst[0], math.nan)))
    with pytest.raises(ValueError, match="points=0: must be at least 1"):
        preference_curve(points=0)


@pytest.mark.parametrize(("vocab_size", "alpha"), [*GOLDEN_PAIRS, (4, 3.0), (2, 0.01)])
@pytest.mark.parametrize("rule", [*RULES, {"epsilon": 1.0}])
def test_exact_curves_stay_below_every_proved_bound(vocab_size, alpha, rule):
    curve = horizon_curve((2, 3, 16, 500, 4096), alpha=alpha, vocab_size=vocab_size, **rule)
    clone, stepwise, composition, closed = (
        np.array(getattr(curve, f"clone{name}"))
        for name in ("", "_stepwise", "_composition", "_three_halves")
    )
    assert (clone < stepwise).all()
    assert (stepwise <= composition * (1 + 1e-14)).all()
    assert (composition <= closed).all()
    assert (composition <= curve.horizons).all()
    assert (np.array(curve.rl) < curve.rl_bound).all()


@pytest.mark.parametrize(("vocab_size", "alpha"), GOLDEN_PAIRS)
def test_cloning_has_exponent_three_halves_and_rl_one(vocab_size, alpha):
    curve = horizon_curve(alpha=alpha, vocab_size=vocab_size, epsilon_over_sqrt=0.01)
    assert curve.horizons[-1] == 65_536
    assert curve.local_exponent("clone") == pytest.approx(1.5, abs=0.015)
    assert curve.local_exponent("clone_stepwise") == pytest.approx(1.5, abs=1e-3)
    assert curve.local_exponent("clone_paper") == pytest.approx(2.0, abs=1e-9)
    assert curve.exponent("rl").slope == pytest.approx(1.0, abs=1e-9)
    assert (
        1.3 < curve.exponent("clone").slope < 1.5
    )  # payoff steps lose too, in proportion to H: it shows at short H


def test_at_a_fixed_radius_the_gap_ends_up_linear():
    """Where ``ε√H`` is large the outcome is decided, and only the number of steps after it still
    grows.
    """
    curve = horizon_curve((2**18, 2**19, 2**20), alpha=0.18, vocab_size=256, epsilon=0.05)
    assert curve.local_exponent("clone") == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("alpha", [1e-3, 0.18, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("share", [0.01, 0.9, 1.0])
def test_swapped_pair_at_any_temperature(alpha, share):
    """Past ``α = 1/log 2`` too; at ``share = 1`` the ball is the largest that the pair allows."""
    epsilon = share * min(math.log(2), 1 / alpha) / 2
    for horizon in (1, 2, 17):
        pair = swapped_pair(horizon, alpha, epsilon)
        gap = float(pair.best_value - pair.rl_value)
        assert float(pair.epsilon) == pytest.approx(epsilon, rel=1e-9)
        assert gap == pytest.approx(0.999 * 2 * alpha * horizon * epsilon, rel=1e-9)
        assert gap == pytest.approx(swapped_pair_gap(horizon, alpha, epsilon), rel=1e-9)
        assert swapped_pair_gap(horizon, alpha, 5 * epsilon) == pytest.approx(
            gap * min(5, 1 / share), rel=1e-9
        )


def test_swapped_pair_refuses_a_ball_too_large_for_it():
    with pytest.raises(ValueError, match=r"alpha=3\.0, epsilon=0\.2: needs 2·alpha·epsilon <= 1"):
        swapped_pair(4, 3.0, 0.2)


def test_where_the_bound_on_rl_falls_below_cloning():
    crossings = {
        (V, alpha): horizon_curve(alpha=alpha, vocab_size=V, epsilon_over_sqrt=0.01).crossover
        for V, alpha in (*GOLDEN_PAIRS, (2, 0.18), (256, 1.0))
    }
    assert 4096 < crossings[2, 1.0] < 16_384
    assert 8 < crossings[256, 0.18] <= 16
    assert 256 < crossings[2, 0.18] < 512
    assert crossings[256, 1.0] is None


@pytest.mark.parametrize("rule", RULES)
def test_crossover_is_where_the_curves_cross(rule):
    crossover = horizon_curve(alpha=1.0, vocab_size=2, **rule).crossover
    for factor, above in ((0.99, False), (1.01, True)):
        near = horizon_curve([round(factor * crossover)], alpha=1.0, vocab_size=2, **rule)
        assert (near.clone[0] > near.rl_bound[0]) == above


@pytest.mark.parametrize("horizon", [64, 1024, 16_384])
def test_alpha_at_which_the_bound_on_rl_is_the_larger(horizon):
    """Of two proved bounds: past ``α ≈ √H/(2√(2π))`` (√H/5), RL's is above ``H·TV_RR``."""
    epsilon = 1e-3 / math.sqrt(horizon)
    composition = bounds.clone_gap_composition(horizon, epsilon)
    assert bounds.rl_gap(horizon, epsilon, math.sqrt(horizon) / 4.9) > composition
    assert bounds.rl_gap(horizon, epsilon, math.sqrt(horizon) / 5.2) < composition


def test_one_radius_rule():
    with pytest.raises(ValueError, match="give one of them"):
        horizon_curve(epsilon=0.1, epsilon_over_sqrt=0.1)


def test_headline_is_the_curve_with_the_widest_separation():
    curves = [
        horizon_curve((4, 64), alpha=a, vocab_size=V, epsilon=0.01)
        for V in (2, 256)
        for a in (0.18, 1.0)
    ]
    (widest,) = headlines(curves)
    assert (widest.vocab_size, widest.alpha) == (256, 0.18)


def test_preference_curve_is_in_order():
    curve = preference_curve(alpha=0.7, points=7)
    assert (np.array(curve.sampled) <= curve.worst).all()
    assert (np.array(curve.worst) <= curve.sharp).all()
    assert (np.array(curve.sharp) <= curve.paper).all()


# --- The command ----------------------------------------------------------------------------------

FIXED = ["--epsilon", "0.1", "--horizons", "2,64,16"]
OPTIONS = {"all": FIXED[2:], "coin-payoff": FIXED, "swapped-pair": FIXED, "preference": []}
CURVES = {"all": 8, "coin-payoff": 4, "swapped-pair": 2, "preference": 0}
FIGURES = {
    "all": {
        "error_vs_horizon",
        "error_vs_horizon_fixed_epsilon",
        "clone_constant",
        "crossover",
        "tv_vs_epsilon",
        "sharpening",
    },
    "coin-payoff": {"error_vs_horizon_fixed_epsilon", "clone_constant", "crossover"},
    "swapped-pair": {"error_vs_horizon_fixed_epsilon"},
    "preference": {"tv_vs_epsilon"},
}


@pytest.mark.parametrize(
    "family", [pytest.param(x, marks=[pytest.mark.slow] * (x != "preference")) for x in FIGURES]
)
def test_curves_writes_figures_and_numbers(family, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert main(["curves", "--family", family, "--out", str(out), *OPTIONS[family]]) == 0
    expected = {
        f"{name}.{kind}" for name, kind in itertools.product(FIGURES[family], ("png", "svg"))
    }
    noted = {"run.json"} | ({"horizon.jsonl"} if CURVES[family] else set())
    written = {path.name for path in out.iterdir()}
    assert written == expected | noted | {"curves.json", "report.html"}
    numbers = json.loads((out / "curves.json").read_text())
    assert (numbers["preference"] is None) == (family not in ("all", "preference"))
    assert len(numbers["horizon"]) == CURVES[family]
    for curve in numbers["horizon"]:
        assert curve["horizons"] == [2, 16, 64]
        assert ("clone" in curve) == ("crossover" in curve) == (family != "swapped-pair")
        assert ("rl" in curve) == (family != "coin-payoff")
    assert "report.html, curves.json and figures" in capsys.readouterr().out


@pytest.mark.slow
def test_curves_prints_the_exact_numbers_and_where_they_cross(tmp_path, capsys):
    argv = [
        "curves",
        "--alphas",
        "0.18",
        "--vocabs",
        "256",
        "--epsilon-over-sqrt",
        "0.01",
        "--out",
        str(tmp_path),
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    curve = horizon_curve(HORIZONS, alpha=0.18, vocab_size=256, epsilon_over_sqrt=0.01)
    longest = printed.replace("\n", " ").partition(" H 65536 ")[2]
    found = dict(re.findall(r"(cloning|RL): ([0-9.e+-]+)", longest))
    assert float(found["cloning"]) == pytest.approx(curve.clone[-1], rel=1e-3)
    assert float(found["RL"]) == pytest.approx(curve.rl[-1], rel=1e-3)
    assert f"from H = {curve.crossover}" in printed
    (stored,) = json.loads((tmp_path / "curves.json").read_text())["horizon"]
    assert stored["clone"] == list(curve.clone)
    assert stored["crossover"] == curve.crossover


@pytest.mark.slow
def test_one_horizon_has_no_exponent(tmp_path, capsys):
    assert (
        main(
            [
                "curves",
                "--horizons",
                "16",
                "--alphas",
                "1",
                "--vocabs",
                "2",
                *FIXED[:2],
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert "–" in capsys.readouterr().out
    curve = json.loads((tmp_path / "curves.json").read_text())["horizon"][0]
    assert curve["exponents"] == {"clone": None, "rl": None}


BAD = {
    "family": (["--family", "coin"], "--family=coin"),
    "horizon too short": (["--horizons", "1,2"], "--horizons=1"),
    "horizon too long": (["--horizons", "99999999"], "--horizons="),
    "horizon not an integer": (["--horizons", "2,4.5"], "--horizons=4.5: must be whole numbers"),
    "no horizon": (["--horizons", ""], "--horizons="),
    "alpha zero": (["--alphas", "0"], "--alphas=0"),
    "alpha not a number": (["--alphas", "1,x"], "--alphas=x"),
    "alpha nan": (["--alphas", "nan"], "--alphas=nan"),
    "odd vocabulary": (["--vocabs", "2,3"], "--vocabs=3: must be even"),
    "empty vocabulary": (["--vocabs", "0"], "--vocabs=0"),
    "two radii": (
        ["--epsilon", "0.1", "--epsilon-over-sqrt", "0.1"],
        "--epsilon and --epsilon-over-sqrt",
    ),
    "two epsilons": (["--epsilon", "0.1,0.2"], "--epsilon=0.1,0.2: must be a number"),
    "epsilon negative": (["--epsilon=-1"], "--epsilon=-1"),
    "epsilon infinite": (["--epsilon-over-sqrt", "inf"], "--epsilon-over-sqrt=inf"),
    "too many curves": (
        ["--alphas", "1,2,3", "--vocabs", "2,4,6"],
        "--alphas and --vocabs: 9 pairs",
    ),
    "unread vocabulary": (["--family", "swapped-pair", "--vocabs", "4"], "--vocabs is not read"),
    "unread horizons": (["--family", "preference", "--horizons", "4"], "--horizons is not read"),
    "out is a file": (["--out", "{file}"], "is a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_curves_bad_input(case, tmp_path, capsys):
    argv, message = BAD[case]
    (tmp_path / "file").touch()
    out = [] if "--out" in argv else ["--out", str(tmp_path / "out")]
    assert main(["curves", *(word.format(file=tmp_path / "file") for word in argv), *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
