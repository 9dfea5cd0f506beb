"""Learning curves: what is measured is what it says, bounds hold, and a stopped run goes on."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from llm_bridge.commands.main import main
from theory.claims import bounds
from theory.fit.demonstrations import Demonstrations
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.reports.learning import learning_report
from theory.solve.reward import returns
from theory.solve.soft import plain_optimal, soft_optimal
from theory.storage.runs import RunFolder
from theory.studies import learning
from theory.studies.budget import BudgetSetting, budget_comparison
from theory.studies.engine import Engine
from theory.studies.learning import (
    QUANTITIES,
    Cell,
    LearningCurve,
    LearningSetting,
    learning_curve,
    measure,
)

SMALL = {"alpha": 0.3, "vocab_size": 3, "window": 1, "prompts": 2, "smoothing": 0.5, "seeds": 4}
SETTING = LearningSetting(**SMALL)
ALONE = Engine(processes=1)


@pytest.mark.parametrize("expert", learning.EXPERTS)
def test_a_cell_against_every_response(expert):
    """The same random numbers, each MDP by itself, and values as sums over all responses."""
    H, n = 3, 50
    cell = measure(expert, H, n, SETTING, seed=7)
    own = [np.random.default_rng([7, k, H]) for k in range(4)]
    rewards = [np.stack([rng.random((2 * 3 ** min(h, 1), 3)) for rng in own]) for h in range(H)]
    rng = np.random.default_rng([7, 4, H, learning.EXPERTS.index(expert), n])
    batch = TokenMDP.window(rewards, 1)
    teacher = (
        plain_optimal(batch).policy
        if expert == "deterministic"
        else soft_optimal(batch, 0.3).policy
    )
    data = Demonstrations.sample(teacher, np.full(4, n), rng)
    for k in range(4):
        mdp = TokenMDP.window([table[k] for table in rewards], 1)
        own = (
            plain_optimal(mdp).policy
            if expert == "deterministic"
            else soft_optimal(mdp, 0.3).policy
        )
        counts = [np.asarray(table[k]) + 0.5 for table in data.counts]
        probs = [table / table.sum(-1, keepdims=True) for table in counts]
        fitted = type(own).from_probs(mdp.dynamics, probs)
        responses = all_responses(mdp.dynamics)
        r = returns(mdp, responses).reshape(2, -1)
        law = {
            name: np.exp(log_prob(p, responses)).reshape(2, -1)
            for name, p in (("own", own), ("fitted", fitted))
        }
        value = {name: (weights * r).sum(1).mean() for name, weights in law.items()}
        assert cell.clone[k] == pytest.approx(value["own"] - value["fitted"], abs=1e-12)
        played = r[np.arange(2), law["fitted"].argmax(1)].mean()
        assert cell.rl[k] == pytest.approx(r.max(1).mean() - played, abs=1e-12)
        divergence = min(kl(own, fitted), kl(fitted, own))
        assert cell.pinsker[k] == pytest.approx(min(H, H * np.sqrt(divergence / 2)), abs=1e-12)
        ball = (
            bounds.clone_gap_stepwise(H, max_log_ratio(own, fitted))
            if expert == "stochastic"
            else H
        )
        assert cell.stepwise[k] == pytest.approx(min(H, ball))


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("expert", learning.EXPERTS)
@pytest.mark.parametrize("n", [3, 1000, 10**12])
def test_bounds_hold_and_errors_vanish(expert, n, smoothing):
    cell = measure(expert, 6, n, replace(SETTING, smoothing=smoothing))
    clone, rl = np.array(cell.clone), np.array(cell.rl)
    assert (clone <= np.array(cell.pinsker) + 1e-12).all()
    assert (clone <= np.array(cell.stepwise) + 1e-12).all()
    assert (rl >= -1e-12).all()
    if n == 10**12:
        assert abs(clone).max() < 1e-4
        assert rl.max() < 1e-4


def test_a_cell_does_not_depend_on_the_grid():
    one = learning_curve([2, 5], [10, 40], setting=SETTING)
    (other,) = learning_curve([5], [40], experts=["stochastic"], setting=SETTING).cells
    assert other == one.select("stochastic", horizon=5, n=40)[0]
    assert len(one.cells) == 8


def resumed(folder, sizes, *, seed=0, **changes):
    with RunFolder(folder) as run:
        return learning_curve(
            [2, 3], sizes, setting=replace(SETTING, **changes), seed=seed, run=run, engine=ALONE
        )


def test_a_stopped_curve_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "learning.jsonl"
    whole = resumed(tmp_path, [10, 20])
    assert whole == learning_curve([2, 3], [10, 20], setting=SETTING)
    text = path.read_bytes()
    assert text.count(b"\n") == 8
    path.write_bytes(text[: len(text) // 2])  # in the middle of a line
    measured = []
    monkeypatch.setattr(learning, "measure", lambda *a, **k: measured.append(a) or measure(*a, **k))
    assert resumed(tmp_path, [10, 20]) == whole
    assert path.read_bytes() == text
    assert 4 <= len(measured) <= 5
    assert len(resumed(tmp_path, [10, 20, 40]).cells) == 12  # the grid may grow
    assert len(measured) <= 5 + 4
    with pytest.raises(
        ValueError, match="has a run with seeds = 4, not 2: give another --out, or remove it"
    ):
        resumed(tmp_path, [10, 20], seeds=2)
    cell = json.loads(text.splitlines()[0])
    for row in (cell | {"clone": [math.nan] * SMALL["seeds"]}, cell | {"rl": []}, {}):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=r"learning\.jsonl:1: not a line of a run"):
            resumed(tmp_path, [10])


@pytest.mark.slow
def test_runs_beside_one_another_and_killed_ones(tmp_path):
    """A second run is refused in one line; killed at random moments a run ends with the same
    bytes.
    """
    words = [
        sys.executable,
        "-c",
        "from llm_bridge.commands.main import main; raise SystemExit(main())",
        "learn",
        "--seeds",
        "20",
    ]
    words += [
        "--horizons",
        "2,4,8,16",
        "--demonstrations",
        "10,100,1000,10000",
        "--n-prompts",
        "64",
        "--out",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    first = subprocess.Popen([*words, one], stdout=subprocess.DEVNULL)
    while not (one / "learning.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run([*words, one], capture_output=True, text=True)
    first.send_signal(signal.SIGCONT)
    refused = (
        f"endorm learn: {one}: another run is writing there; wait for it, or give another --out\n"
    )
    assert (second.returncode, second.stdout, second.stderr) == (2, "", refused)
    assert first.wait() == 0
    random, kills = np.random.default_rng(), 0
    while kills < 5:
        (two / "run.lock").unlink(
            missing_ok=True
        )  # of the one that was killed: shows when the next one has begun
        killed = subprocess.Popen([*words, two], stdout=subprocess.DEVNULL)
        while killed.poll() is None and not (two / "run.lock").exists():
            time.sleep(0.001)
        time.sleep(random.exponential(0.1))
        killed.kill()
        kills += killed.wait() != 0
        if killed.returncode == 0:
            break
    assert subprocess.run([*words, two], stdout=subprocess.DEVNULL).returncode == 0
    assert names(one) == names(two) == FILES
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert len((one / "learning.jsonl").read_text().splitlines()) == 2 * 4 * 4


FILES = [
    *("learning.json", "learning.jsonl", "learning.png", "learning.svg"),
    "report.html",
    "run.json",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def curve(values):
    cells = [
        Cell("stochastic", H, 10, *(tuple(column) for _ in QUANTITIES))
        for H, column in values.items()
    ]
    return LearningCurve(**SMALL, cells=tuple(cells))


def test_exponents_and_their_intervals():
    exact = curve({H: [3 * H**1.5, 3 * H**1.5] for H in (2, 4, 8, 16)})
    slope = exact.exponent(list(exact.cells), "clone", "horizon")
    assert slope == pytest.approx((1.5, 1.5, 1.5, 1.5, 0))
    rng = np.random.default_rng(0)
    noisy = curve(
        {H: (H * rng.standard_normal(20)).tolist() for H in (2, 4, 8, 16, 32)}
    )  # without a sign
    slope = noisy.exponent(list(noisy.cells), "clone", "horizon")
    assert slope.low < 1 < slope.high
    assert 0.05 < slope.high - slope.low < 0.6
    zero = curve({H: [0.0, 0.0] for H in (2, 4, 8)})
    assert zero.exponent(list(zero.cells), "rl", "horizon") == "zero"
    few = curve({2: [0.0, 1.0], 4: [0.0, 0.0], 8: [1.0, 2.0]})
    assert few.exponent(list(few.cells), "rl", "horizon") == "few points"
    assert "zero" in learning_report(zero).text()


def test_an_exponent_says_what_it_leaves_out():
    """A point without a logarithm is counted; one seed has no interval, nor have seeds whose mean
    is often zero.
    """
    dropped = curve({2: [1.0, 1.1], 4: [0.0, 0.0], 8: [4.1, 4.0], 16: [8.0, 9.0]})
    assert str(dropped.exponent(dropped.cells, "clone", "horizon")).endswith(", 1 zero")
    for values in ([1.0], [0.0, 1.0]):
        thin = curve({H: [H * x for x in values] for H in (2, 4, 8, 16)})
        slope = thin.exponent(thin.cells, "clone", "horizon")
        assert slope.value == pytest.approx(1)
        assert np.isnan([slope.low, slope.high]).all()
        assert "[no interval]" in str(slope)
    broken = curve({2: [1.0, 1.1], 4: [np.nan, 2.0], 8: [4.1, 4.0], 16: [8.0, 9.0]})
    with pytest.raises(ValueError, match="clone of H=4, n=10 is not finite"):
        broken.exponent(broken.cells, "clone", "horizon")


def test_an_error_that_is_nan_is_not_zero(monkeypatch):
    monkeypatch.setattr(
        learning, "plain_value", lambda mdp, policy: np.full(mdp.batch_shape, np.nan)
    )
    assert np.isnan(measure("stochastic", 2, 10, SETTING).clone).all()


def test_smoothing_is_a_bias():
    """Cloning's error with pseudo-counts is proportional to them; without, the deterministic expert
    is cloned.
    """
    errors = [
        measure("deterministic", 4, 10_000, replace(SETTING, smoothing=s)).size("clone")
        for s in (0.0, 0.05, 0.5)
    ]
    assert errors[0] == 0
    assert errors[2] / errors[1] == pytest.approx(10, rel=0.01)


@pytest.mark.slow
def test_nothing_to_learn_is_drawn(tmp_path):
    words = [
        "learn",
        "--horizons",
        "1",
        "--demonstrations",
        "1",
        "--vocab",
        "1",
        "--n-prompts",
        "1",
        "--seeds",
        "2",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (tmp_path / "learning.jsonl").write_bytes(b"\xff\n")
    assert main([*words, "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizons": []}, "horizons=.*: must be positive integers"),
        ({"sizes": [0]}, "sizes=.*: must be positive integers"),
        ({"sizes": [5, 5]}, "sizes=.*: must be positive integers, each once"),
        ({"experts": []}, "experts=.*: must be some of stochastic, deterministic"),
        ({"seeds": 0}, "seeds=.*: must be positive integers"),
        ({"experts": ["good"]}, "experts=.*good.*: must be some of stochastic, deterministic"),
        ({"horizons": [2000], "vocab_size": 4096}, "vocab_size=4096, .*GiB"),
    ],
)
def test_wrong_arguments(changes, message):
    grid = {"horizons": [2], "sizes": [5], "experts": learning.EXPERTS}
    setting = replace(SETTING, **{k: v for k, v in changes.items() if k not in grid})
    with pytest.raises(ValueError, match=message):
        learning_curve(**grid | {k: v for k, v in changes.items() if k in grid}, setting=setting)


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    words = [
        "learn",
        "--horizons",
        "2,4,8",
        "--demonstrations",
        "10,100,1000",
        "--seeds",
        "3",
        "--n-prompts",
        "2",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "exponent in H (n = 1,000)" in out
    assert names(tmp_path) == FILES
    rows = [json.loads(line) for line in (tmp_path / "learning.jsonl").read_text().splitlines()]
    assert {(row["expert"], row["horizon"], row["n"]) for row in rows} == {
        (e, h, n) for e in learning.EXPERTS for h in (2, 4, 8) for n in (10, 100, 1000)
    }
    drawn = (tmp_path / "learning.svg").read_bytes()
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "learning.svg").read_bytes() == drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experts", "good"], "--experts=good: must be one of stochastic, deterministic"),
        (["--horizons", "0"], "--horizons=0: must be from 1"),
        (["--demonstrations", "x"], "--demonstrations=x: must be whole numbers"),
        (["--vocab", "0"], "--vocab=0: must be from 1"),
        (["--alpha", "0"], "--alpha"),
        (["--smoothing", "-1"], "--smoothing=-1: must be at least 0 counts"),
        (["--seed", "-1"], "--seed=-1: must be from 0"),
    ],
)
def test_wrong_options(tmp_path, capsys, options, message):
    assert (
        main(
            ["learn", "--horizons", "2", "--demonstrations", "5", "--out", str(tmp_path), *options]
        )
        == 2
    )
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_budgets():
    """Cloning ends at the expert's own regret, and what optimises a reward at none."""
    (small, large) = budget_comparison([10, 20_000], [0.5], BudgetSetting(3, 2, seeds=4))
    assert (small.n, large.n, large.alpha) == (10, 20_000, 0.5)
    assert list(large.regrets) == ["clone", "rl", "rlhf_expert", "rlhf_uniform"]
    own = []
    for k in range(4):
        mdp = TokenMDP.random(3, 2, seed=np.random.default_rng([0, k, 20_000, 500_000]))
        best = plain_optimal(mdp).values[0].mean()
        own.append(best - float(plain_value(mdp, soft_optimal(mdp, 0.5).policy)))
    assert large.regrets["clone"][0] == pytest.approx(np.mean(own), abs=0.01)
    for name in ("rl", "rlhf_expert", "rlhf_uniform"):
        assert -1e-12 <= large.regrets[name][0] < 0.02 < small.regrets["rlhf_uniform"][0]
    assert all(error >= 0 for _, error in small.regrets.values())
    for changes, message in (
        ({"setting": BudgetSetting(2, 2, seeds=1)}, "seeds=1: must be at least 2"),
        ({"sizes": []}, "sizes=.*not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            budget_comparison(**{"sizes": [10], "alphas": [0.5]} | changes)
