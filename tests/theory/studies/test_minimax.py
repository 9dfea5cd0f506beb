"""Certified curves: both ends against other ways to the same numbers, and runs that go on."""

import json
import math

import numpy as np
import pytest

from llm_bridge.commands.main import main
from theory.claims import bounds
from theory.claims.instance import Instance
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.reports.minimax import minimax_figure, minimax_report, outward
from theory.solve.minimax import Ball, Mesh, Minimax
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.storage.runs import RunFolder
from theory.studies import minimax
from theory.studies.engine import Engine
from theory.studies.minimax import certified_gap, indifferent_gap, minimax_curves

SMALL = Mesh(16, 2)
BALL = Ball(2, 1.0, 0.1)


def test_the_certified_gap_is_below_the_exact_one_by_rounding_only():
    """In balls of 256 bits, which the doubles' ends must enclose."""
    pytest.importorskip("flint")
    mdp = Minimax(BALL, 6, Mesh(32, 4)).hardest_mdp(6)
    expert = soft_optimal(mdp, 1.0).policy
    clone = worst_clone(mdp, expert, 0.1 * minimax.INSIDE).policy
    exact = Instance(mdp, expert, clone, 1.0).enclosed(256)
    from theory.arrays.precision import precision

    with precision(256):
        gap = exact.clone_gap
        assert float(exact.epsilon.upper().max()) <= 0.1
    low = certified_gap(mdp, 1.0, 0.1)
    assert low <= float(gap.lower().min())
    assert low == pytest.approx(float(gap.upper().min()), rel=1e-9)
    whole = worst_clone(mdp, expert, 0.1).policy
    assert low == pytest.approx(plain_value(mdp, expert) - plain_value(mdp, whole), rel=1e-7)


def test_a_clone_that_may_be_outside_is_refused(monkeypatch):
    monkeypatch.setattr(minimax, "INSIDE", 1 + 1e-9)
    monkeypatch.setattr(minimax, "MORE_BITS", ())
    with pytest.raises(ArithmeticError, match=r"epsilon=0\.1"):
        certified_gap(TokenMDP.tree([[[0.0, 1.0]]]), 1.0, 0.1)


def test_a_tiny_ball_takes_more_bits():
    pytest.importorskip("flint")
    mdp = TokenMDP.tree([[[0.0, 1.0]]])
    exact = math.expm1(1e-6) / (1 + math.e)
    assert 0 < exact - certified_gap(mdp, 1.0, 1e-6) < 1e-8 * exact


@pytest.mark.parametrize(("V", "H"), [(2, 3), (3, 2), (4, 2)])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.1), (0.3, 0.7), (4.0, 1.0)])
def test_rl_loses_what_is_claimed(V, H, alpha, epsilon):
    """The exact adversary, on the instance written out: a MAP response without pay."""
    step = indifferent_gap(Ball(V, alpha, epsilon))
    pay = np.linspace(0.0, 1.0, 2001)[1:, None]
    best = (0.0, 0.0, 0)
    for n in range(1, V):
        reward = np.where(np.arange(V) < n, pay, 0.0)
        odds = np.exp(reward / alpha)
        p = odds / odds.sum(axis=1, keepdims=True)
        tied = np.abs(np.log(p * V)).max(axis=1) <= epsilon  # a uniform clone is in the ball
        value = np.where(tied, (p * reward).sum(axis=1), 0.0)
        best = max(best, (value.max(), pay[value.argmax(), 0], n))
    assert 0.99 * step <= best[0] <= step * (1 + 1e-9)
    reward = np.where(np.arange(V) < best[2], best[1], 0.0)
    mdp = TokenMDP.tree([np.tile(reward, (V**h, 1)) for h in range(H)])
    expert = soft_optimal(mdp, alpha).policy
    assert plain_value(mdp, expert) == pytest.approx(H * best[0])
    assert worst_map(mdp, expert, epsilon).returns.item() == 0.0
    assert H * step <= bounds.rl_gap_expert(H, epsilon, alpha)


def test_rl_of_many_tokens_tends_to_its_bound():
    for epsilon in (0.05, 0.3, 1.0):
        bound = bounds.rl_gap_expert(1, epsilon, 0.3)
        assert indifferent_gap(Ball(2**12, 0.3, epsilon)) == pytest.approx(bound, rel=2e-3)


def weighted_majority(V, H, alpha, epsilon):
    """Tokens of two kinds in shares that give one kind `e^ε` to 1 whatever follows; a step pays
    where the first kind leads. States are (step, lead).
    """
    p = 1 / (1 + math.exp(-epsilon))
    rewards, successors, after = [], [], np.zeros(H + 1)
    for h in reversed(range(H)):  # a state is the number of tokens of the first kind so far
        ones = np.arange(h + 1)
        first, second = (2 * (ones + k) > h + 1 for k in (1, 0))
        q = np.stack([first + after[1 : h + 2], second + after[: h + 1]])
        odds = np.exp((q[1] - q[0]) / alpha) * p / (1 - p)
        n = np.rint(V * odds / (1 + odds)).astype(int)
        kind = np.arange(V) < n[:, None]
        rewards.append(np.where(kind, first[:, None], second[:, None]).astype(float))
        successors.append(np.where(kind, ones[:, None] + 1, ones[:, None]))
        share = n / V
        after = alpha * np.log(share * np.exp(q[0] / alpha) + (1 - share) * np.exp(q[1] / alpha))
    return TokenMDP.table(rewards[::-1], successors[::-1][:-1])


@pytest.mark.parametrize(("alpha", "H"), [(0.5, 3), (1.0, 5), (1.0, 8)])
def test_with_many_tokens_nothing_is_left_of_the_temperature(alpha, H):
    """The bound that knows neither α nor V is approached as V grows, at any temperature."""
    bound = bounds.clone_gap_stepwise(H, 0.1)
    found = [certified_gap(weighted_majority(V, H, alpha, 0.1), alpha, 0.1) for V in (64, 2**14)]
    assert found[0] < found[1] <= bound
    assert found[1] > 0.999 * bound


def test_points_are_in_order_and_certified_on_both_sides():
    balls = [Ball(2, 1.0, 0.1), Ball(4, 0.5, 0.3)]
    points = minimax_curves(balls, [1, 3, 2], SMALL, engine=Engine(processes=1))
    assert [(p.ball, p.horizon) for p in points] == [(b, h) for b in balls for h in (1, 3, 2)]
    for p in points:
        bound = bounds.clone_gap_stepwise(p.horizon, p.epsilon)
        assert 0 < p.clone_lower < p.clone_upper <= bound * (1 + 1e-11)
        assert 0 < p.rl_lower < p.rl_upper
        assert p.states >= p.horizon
    # for two tokens the recursion's own upper value, which is sharper than any bound
    worst = Minimax(BALL, 3, SMALL)
    assert [p.clone_upper for p in points[:3]] == [worst.upper(h) for h in (1, 3, 2)]


def test_a_run_goes_on_and_grows(tmp_path, monkeypatch):
    with RunFolder(tmp_path) as folder:
        first = minimax_curves([BALL], [1, 2], SMALL, run=folder, engine=Engine(processes=1))
    computed = []
    monkeypatch.setattr(
        minimax, "Minimax", lambda *args: computed.append(args[1]) or Minimax(*args)
    )
    with RunFolder(tmp_path) as folder:
        again = minimax_curves([BALL], [1, 2, 3], SMALL, run=folder, engine=Engine(processes=1))
        assert computed == [3]
        assert (
            minimax_curves([BALL], [3, 1], SMALL, run=folder, engine=Engine(processes=1))[0]
            == again[2]
        )
    assert computed == [3]
    assert again[:2] == first
    rows = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert [row["horizon"] for row in rows] == [1, 2, 3]
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(ValueError, match="per_reward = 16, not 32"),
    ):
        minimax_curves([BALL], [1], Mesh(32, 2), run=folder, engine=Engine(processes=1))
    (tmp_path / "points.jsonl").write_text(json.dumps(rows[0] | {"clone_upper": math.nan}) + "\n")
    with RunFolder(tmp_path) as folder, pytest.raises(ValueError, match=r"points\.jsonl:1"):
        minimax_curves([BALL], [1], SMALL, run=folder, engine=Engine(processes=1))


def test_two_processes_give_the_same(tmp_path):
    balls = [Ball(2, 1.0, 0.1), Ball(2, 0.5, 0.1)]
    alone = minimax_curves(balls, [1, 2], SMALL, engine=Engine(processes=1))
    with RunFolder(tmp_path) as folder:
        assert minimax_curves(balls, [1, 2], SMALL, run=folder, engine=Engine(processes=2)) == alone


@pytest.mark.parametrize(
    ("balls", "horizons", "name"),
    [([], [1], "balls"), ([BALL, BALL], [1], "balls"), ([BALL], [], "horizons")],
)
def test_nothing_is_read_off_an_empty_list(balls, horizons, name):
    with pytest.raises(ValueError, match=name):
        minimax_curves(balls, horizons, SMALL)


def test_what_is_printed_is_certified_too():
    assert outward(0.99996, math.ceil) == "1"
    assert outward(12.3456, math.floor) == "12.34"
    points = minimax_curves([BALL], [1, 2, 4], SMALL, engine=Engine(processes=1))
    for row, point in zip(minimax_report(points).sections[1].rows, points, strict=True):
        assert float(row[1]) <= point.clone_lower <= point.clone_upper <= float(row[2])
        assert float(row[2]) - float(row[1]) < 1.01 * (point.clone_upper - point.clone_lower) + 2e-4
        assert float(row[-3]) <= point.rl_lower <= point.rl_upper <= float(row[-2])
        assert row[3] == f"{point.clone_upper / point.clone_lower - 1:.1%}"
    (axes,) = minimax_figure(points).axes
    assert len(axes.lines) == 7


def test_the_command_writes_points_and_figure(tmp_path, capsys):
    words = "minimax --horizons 1,2 --vocabs 2,4 --per-reward 16 --per-epsilon 2 --processes 1"
    argv = [*words.split(), "--out", str(tmp_path)]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "V = 2, α = 1, ε = 0.1" in shown
    assert "V = 4, α = 1, ε = 0.1" in shown
    written = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "points.jsonl", "minimax.png"} <= written
    assert main([*argv, "--per-reward", "8"]) == 2
    assert "per_reward = 16, not 8" in capsys.readouterr().err
    assert main(["minimax", "--vocabs", "2,3,4", "--alphas", "1,2,3", "--out", str(tmp_path)]) == 2
    assert "a figure can show 8" in capsys.readouterr().err
    assert main(["minimax", "--alphas", "0.001", "--out", str(tmp_path / "new")]) == 2
    assert "alpha=0.001" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
