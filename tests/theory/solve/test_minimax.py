"""The minimax constant between its certified values: against closed forms and every other way to
make hard instances, none of which shares code with the recursion.
"""

import math
from itertools import pairwise, product

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import differential_evolution

from theory.mdp.token_mdp import TokenMDP
from theory.solve.minimax import (
    Ball,
    Mesh,
    Minimax,
    _best_child,
    _entropy_gain,
    _ratios,
    _slack,
    _split,
    _splits,
    require_mesh,
)
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.studies.gallery import coin_payoff, majority_vote
from theory.studies.minimax import certified_gap

BALLS = [Ball(2, alpha, epsilon) for alpha, epsilon in product((0.2, 1.0, 5.0), (0.02, 0.1, 1.0))]


def gaps(mdp, alpha, epsilon):
    expert = soft_optimal(mdp, alpha).policy
    down, up = (worst_clone(mdp, expert, e).values[0] for e in (epsilon, 1e-12))
    return (up - down)[..., 0]


def one_step(alpha, epsilon):
    """The constant of one step in 40 digits: a token pays `x`, and the clone writes it as rarely as
    the ball allows, on a grid and then to the end by golden section.
    """
    with mp.workdps(40):
        alpha, epsilon = mp.mpf(alpha), mp.mpf(epsilon)

        def gap(x):
            p = 1 / (1 + mp.exp(-x / alpha))
            return x * min(p * (1 - mp.exp(-epsilon)), (mp.exp(epsilon) - 1) * (1 - p))

        grid = [mp.mpf(k) / 1000 for k in range(1001)]
        k = max(range(1001), key=lambda k: gap(grid[k]))
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, 1000)]
        for _ in range(120):
            third = (high - low) / 3
            if gap(low + third) < gap(high - third):
                low += third
            else:
                high -= third
        return float(gap((low + high) / 2))


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_one_step_in_closed_form(ball):
    exact = one_step(ball.alpha, ball.epsilon)
    worst = Minimax(ball, 1, Mesh(512, 16))
    found = certified_gap(worst.hardest_mdp(1), ball.alpha, ball.epsilon)
    assert found <= exact <= worst.upper(1)
    assert worst.upper(1) < 1.005 * found


def test_one_step_where_it_is_known():
    """At ``α = 1`` a token pays 1 and has probability ``e/(1 + e)``: ``(e^ε − 1)/(1 + e)``."""
    assert one_step(1.0, 0.1) == pytest.approx(math.expm1(0.1) / (1 + math.e), rel=1e-15)


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_two_steps_against_a_global_search(ball):
    """Over the six rewards of a tree, with no knowledge of the recursion."""

    def loss(x):  # (6, population)
        tree = TokenMDP.tree([x[:2].T[:, None, :], x[2:].T.reshape(-1, 2, 2)])
        return -gaps(tree, ball.alpha, ball.epsilon)

    search = {"maxiter": 100, "popsize": 30, "updating": "deferred", "vectorized": True}
    found = -differential_evolution(loss, [(0, 1)] * 6, seed=0, tol=1e-9, **search).fun
    worst = Minimax(ball, 2, Mesh(256, 16))
    lower = certified_gap(worst.hardest_mdp(2), ball.alpha, ball.epsilon)
    assert found <= worst.upper(2)
    assert found == pytest.approx(worst.upper(2), rel=0.01)
    assert found == pytest.approx(lower, rel=0.01)


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_no_tree_exceeds_the_upper_value(ball):
    rng = np.random.default_rng(0)
    H = 4
    tables = [rng.random((3000, 2**h, 2)) for h in range(H)]
    tables = [np.where(np.arange(3000)[:, None, None] % 2, np.round(x), x) for x in tables]
    found = gaps(TokenMDP.tree(tables), ball.alpha, ball.epsilon).max()
    worst = Minimax(ball, H, Mesh(16, 2))
    assert found <= worst.upper(H)
    # the recursion's own instance is harder than all of these
    assert certified_gap(worst.hardest_mdp(H), ball.alpha, ball.epsilon) > found


def test_gradient_search_comes_near_and_not_above():
    pytest.importorskip("torch")
    from theory.studies.search import Ascent, clone_fraction, search

    ball = Ball(2, 1.0, 0.1)
    found = search(clone_fraction(lambda H, e: 1.0), 2, 4, 0.1, alpha=1.0, ascent=Ascent(16, 150))
    worst = Minimax(ball, 4, Mesh(128, 8))
    lower = certified_gap(worst.hardest_mdp(4), *ball[1:])
    assert 0.97 * lower < found.ratio <= worst.upper(4)


@pytest.mark.parametrize("horizon", [4, 12])
def test_the_families_of_the_gallery_are_below(horizon):
    alpha, epsilon = 1.0, 0.1
    upper = Minimax(Ball(2, alpha, epsilon), horizon, Mesh(16, 4)).upper(horizon)
    for mdp in (coin_payoff(horizon, alpha), majority_vote(horizon, alpha, epsilon)):
        assert mdp.vocab_size == 2
        assert 0.1 * upper < certified_gap(mdp, alpha, epsilon) <= upper


@pytest.mark.parametrize("ball", [Ball(2, 1.0, 0.1), Ball(2, 5.0, 1.0)], ids=str)
def test_every_mesh_bounds_what_the_finest_attains(ball):
    """The coarser, the more the mesh moves soft values: each upper value still holds."""
    H = 5
    fine = Minimax(ball, H, Mesh(128, 16))
    lower = [certified_gap(fine.hardest_mdp(h), *ball[1:]) for h in range(1, H + 1)]
    for mesh in (Mesh(1, 1), Mesh(2, 1), Mesh(3, 4), Mesh(7, 2), Mesh(32, 8)):
        coarse = Minimax(ball, H, mesh)
        for h in range(1, H + 1):
            assert lower[h - 1] <= coarse.upper(h) <= (1 + 2 / mesh.per_reward) * 1.8 * lower[h - 1]
    assert fine.upper(H) < 1.012 * lower[-1]


def test_a_longer_table_has_the_same_values():
    ball = Ball(2, 0.5, 0.3)
    long, short = Minimax(ball, 6, Mesh(16, 2)), Minimax(ball, 3, Mesh(16, 2))
    assert long.upper(3) == pytest.approx(short.upper(3), rel=1e-9)
    first, second = (certified_gap(m.hardest_mdp(3), 0.5, 0.3) for m in (long, short))
    assert first == pytest.approx(second, rel=1e-9)


@pytest.mark.parametrize("V", [2, 3, 5, 16])
def test_the_hardest_mdp_is_what_it_says(V):
    """Rewards in [0, 1], tokens of two kinds, soft values on the mesh, one prompt."""
    ball, mesh = Ball(V, 1.0, 0.2), Mesh(32, 4)
    worst = Minimax(ball, 5, mesh)
    mdp = worst._followed(5).token_mdp()
    assert (mdp.horizon, mdp.vocab_size, mdp.dynamics.layer_sizes[0]) == (5, V, 1)
    for h, table in enumerate(mdp.rewards):
        assert ((table >= 0) & (table <= 1)).all()
        assert all(len(set(map(float, row))) <= 2 for row in table)
        value = soft_optimal(mdp, ball.alpha).values[h]
        steps = (value - (5 - h) * ball.alpha * math.log(V)) * mesh.per_reward
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-8)
    climbed = worst.hardest_mdp(5)
    assert climbed.dynamics.same_as(mdp.dynamics)
    assert all(((table >= 0) & (table <= 1)).all() for table in climbed.rewards)
    assert certified_gap(climbed, 1.0, 0.2) >= certified_gap(mdp, 1.0, 0.2) - 1e-9


def test_what_has_no_upper_value_is_refused():
    worst = Minimax(Ball(3, 1.0, 0.1), 2, Mesh(4, 1))
    with pytest.raises(ValueError, match="vocab_size=3: must be 2"):
        worst.upper(1)
    for horizon in (0, 3):
        with pytest.raises(ValueError, match=f"horizon={horizon}: must be from 1 to 2"):
            worst.hardest_mdp(horizon)


def test_more_tokens_of_the_same_kinds_lose_no_less():
    """Each token twice is the same problem: the constant grows from V to 2V."""
    found = [
        certified_gap(Minimax(Ball(V, 1.0, 0.1), 3, Mesh(32, 4)).hardest_mdp(3), 1.0, 0.1)
        for V in (2, 4, 8)
    ]
    assert found == sorted(found)


def test_the_windows_of_the_next_soft_value():
    rng = np.random.default_rng(1)
    for below, above in ((3, 1), (2, 0), (3, 0), (1, 1), (4, 1)):
        table = rng.normal(size=(2, 6))
        found = _best_child(table, 9, below, above)
        for k in range(9):
            window = table[:, max(k - below, 0) : k + above + 1]
            expected = window.max(axis=1) if window.size else np.full(2, -np.inf)
            np.testing.assert_array_equal(found[:, k], expected)


@pytest.mark.parametrize(
    ("ball", "horizon", "mesh", "name"),
    [
        (Ball(1, 1.0, 0.1), 1, Mesh(), "vocab_size=1"),
        (Ball(2, 0.0, 0.1), 1, Mesh(), "alpha"),
        (Ball(2, 1.0, math.nan), 1, Mesh(), "epsilon"),
        (Ball(2, 1.0, 0.1), 0, Mesh(), "horizon=0"),
        (Ball(2, 1.0, 0.1), 1, Mesh(0, 1), "per_reward=0"),
        (Ball(2, 1.0, 0.1), 1, Mesh(1, 0), "per_epsilon=0"),
        (Ball(2, 0.01, 0.1), 8, Mesh(), "alpha=0.01"),
        (Ball(2, 1e4, 0.1), 8, Mesh(), "per_reward=128"),
        (Ball(2, 1.0, 0.1), 500, Mesh(2**16, 2**10), "horizon=500"),
    ],
)
def test_what_is_out_of_range_is_named(ball, horizon, mesh, name):
    with pytest.raises(ValueError, match=name):
        require_mesh(ball, horizon, mesh)


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_objective_between_two_splits_is_within_the_slack(ball):
    """What is not convex in the masses stays below its chord and the slack that each step adds."""
    h, mesh = 2, Mesh(max(8, round(4 / ball.alpha)), 1)
    step = 1 / (mesh.per_reward * ball.alpha)
    lowest = -h * mesh.per_reward  # a state of the highest soft value has none below
    splits = [s for s in _splits(ball, h, mesh.per_reward) if min(s.offsets) >= lowest]
    splits.sort(key=lambda split: split.masses[0])
    t = _ratios(6, h, ball.epsilon, mesh)
    slack = _slack(ball, t, h, mesh, np.zeros((1, 1)))[:, 0]
    gains = np.array([_entropy_gain(split, t, ball.alpha) for split in splits])
    largest = np.zeros(len(t))
    for k, (left, right) in enumerate(pairwise(splits)):
        for weight in (0.2, 0.5, 0.8):
            masses = tuple(
                (1 - weight) * a + weight * b
                for a, b in zip(left.masses, right.masses, strict=True)
            )
            between = _split((0.5, 0.5), masses, step, ball.epsilon)
            chord = (1 - weight) * gains[k] + weight * gains[k + 1]
            above = _entropy_gain(between, t, ball.alpha) - chord
            largest = np.maximum(largest, above)
    assert (largest <= slack).all()
    assert largest.max() > 0  # and it is needed


@pytest.mark.parametrize("ball", [Ball(2, 0.3, 0.5), Ball(2, 1.0, 0.1), Ball(2, 5.0, 1.0)], ids=str)
@pytest.mark.parametrize("mesh", [Mesh(2, 12), Mesh(5, 2), Mesh(16, 3)], ids=str)
def test_every_tree_is_below_the_table_at_its_own_soft_value(ball, mesh):
    """Not the largest entry alone: at each soft value, moved up to the mesh, and at each ratio."""
    rng = np.random.default_rng(2)
    n, H = 4000, 3
    tables = Minimax(ball, H, mesh)._tables
    for h in range(1, H + 1):
        rewards = [rng.random((n, 2**k, 2)) ** rng.choice([0.2, 1, 5], (n, 1, 1)) for k in range(h)]
        rewards = [np.where(rng.random(x.shape) < 0.4, np.round(x), x) for x in rewards]
        mdp = TokenMDP.tree(rewards)
        expert, values = soft_optimal(mdp, ball.alpha)
        soft = values[0][:, 0] - h * ball.alpha * math.log(2)
        best, worst = (worst_clone(mdp, expert, e).values[0][:, 0] for e in (1e-12, ball.epsilon))
        column = np.ceil(soft * mesh.per_reward - 1e-9).astype(int)
        for row, t in enumerate(_ratios(H, h, ball.epsilon, mesh)):
            own = best - t * worst - (1 - t) * soft
            assert (own <= tables[h][row, column] + 1e-9).all()
            assert (tables[h][row] >= 0).all()  # what constant rewards have
