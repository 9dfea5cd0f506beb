"""Gradient search for near-worst instances: gradients, closed forms, and what it finds recomputed
exactly.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

from theory.claims import bounds
from theory.mdp.distances import max_log_ratio
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.studies.gallery import majority_vote
from theory.studies.search import Ascent, clone_fraction, search

torch = pytest.importorskip("torch")

STEPWISE = clone_fraction(bounds.clone_gap_stepwise)

pytestmark = pytest.mark.usefixtures("one_thread")


def recomputed(found):
    """The ratio from the policy of the exact adversary alone."""
    expert = soft_optimal(found.mdp, found.alpha).policy
    policy = worst_clone(found.mdp, expert, found.epsilon).policy
    assert max_log_ratio(policy, expert) <= found.epsilon * (1 + 1e-9)
    gap = plain_value(found.mdp, expert) - plain_value(found.mdp, policy)
    steps = range(1, found.mdp.horizon + 1)
    return float(gap / sum(bounds.tv_randomised_response(h, found.epsilon) for h in steps))


@pytest.mark.parametrize(("V", "H"), [(2, 3), (3, 2), (4, 2)])
def test_gradients_agree_with_finite_differences(V, H):
    objective, epsilon, step = STEPWISE, 0.4, 1e-6
    mdp = TokenMDP.random(V, H, batch=(3,), seed=V)
    log_alpha = np.array([-1.0, 0.2, 1.5])
    rewards = [torch.tensor(table.copy(), requires_grad=True) for table in mdp.rewards]
    free = torch.tensor(log_alpha, requires_grad=True)
    value = objective(TokenMDP(mdp.dynamics, tuple(rewards)), torch.exp(free), epsilon)
    assert_allclose(value.detach().numpy(), objective(mdp, np.exp(log_alpha), epsilon), rtol=1e-12)
    value.sum().backward()

    def along(direction, turn):
        moved = [table + step * d for table, d in zip(mdp.rewards, direction, strict=True)]
        return objective(
            TokenMDP(mdp.dynamics, tuple(moved)), np.exp(log_alpha + step * turn), epsilon
        )

    rng = np.random.default_rng(0)
    for turn in (0.0, 1.0):
        direction = [rng.normal(size=table.shape) for table in mdp.rewards]
        difference = (along(direction, turn) - along([-d for d in direction], -turn)) / (2 * step)
        slope = sum(
            (r.grad.numpy() * d).sum(axis=(-2, -1)) for r, d in zip(rewards, direction, strict=True)
        )
        assert_allclose(slope + turn * free.grad.numpy(), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("V", "H"), [(2, 3), (3, 2), (4, 2)])
def test_found_instances_are_valid_and_their_ratios_exact(V, H):
    found = search(STEPWISE, V, H, 0.3, ascent=Ascent(16, 60))
    assert found.mdp.batch_shape == ()
    assert (found.mdp.vocab_size, found.mdp.horizon, found.mdp.reward_range) == (V, H, (0.0, 1.0))
    assert all(table.min() >= 0 and table.max() <= 1 for table in found.mdp.rewards)
    assert_allclose(found.ratio, recomputed(found), rtol=1e-12)
    assert found.ratio <= 1 + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("V", "H", "alpha"), [(2, 3, None), (3, 3, None), (2, 4, 0.5), (4, 2, 1.0)]
)
def test_search_beats_random_search(V, H, alpha):
    """Twelve starts of the search against four thousand random instances, binary and uniform."""
    epsilon, n = 0.2, 4096
    rng = np.random.default_rng(1)
    mdp = TokenMDP.random(V, H, batch=(n,), seed=rng)
    binary = np.arange(n)[:, None, None] % 2 == 0
    mdp = TokenMDP.tree([np.where(binary, np.round(table), table) for table in mdp.rewards])
    alphas = (
        np.exp(rng.uniform(np.log(0.1), np.log(10 * H / epsilon), n))
        if alpha is None
        else np.full(n, alpha)
    )
    found = search(STEPWISE, V, H, epsilon, alpha=alpha, ascent=Ascent(12, 120))
    assert found.ratio > STEPWISE(mdp, alphas, epsilon).max()
    assert alpha is None or found.alpha == alpha


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.01, 1.0])
@pytest.mark.parametrize("horizon", [1, 2])
def test_two_steps_attain_the_bound_with_binary_rewards(horizon, epsilon):
    found = search(STEPWISE, 2, horizon, epsilon, ascent=Ascent(16, 200))
    assert found.ratio == pytest.approx(1.0, abs=1e-8)
    assert all(set(np.unique(table)) <= {0.0, 1.0} for table in found.mdp.rewards)
    assert horizon == 2 or found.alpha == pytest.approx(1 / epsilon, rel=1e-6)


@pytest.mark.parametrize(("alpha", "epsilon"), [(0.3, 0.1), (1.0, 0.1), (20.0, 0.1), (0.3, 1.0)])
def test_one_step_at_fixed_temperature_against_its_closed_form(alpha, epsilon):
    """V = 2, H = 1, rewards (g, 0): the worse token has ``1/(1 + e^{g/α})`` and is raised to its
    cap.
    """

    def fraction(g):
        low = 1 / (1 + math.exp(g / alpha))
        return (
            g
            * min(low * math.expm1(epsilon), -(1 - low) * math.expm1(-epsilon))
            / math.tanh(epsilon / 2)
        )

    best = max(
        -minimize_scalar(
            lambda g: -fraction(g), bounds=(0, 1), method="bounded", options={"xatol": 1e-10}
        ).fun,
        fraction(1.0),
    )
    found = search(STEPWISE, 2, 1, epsilon, alpha=alpha, ascent=Ascent(16, 200))
    assert found.ratio == pytest.approx(best, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("horizon", "epsilon", "least"), [(3, 0.1, 0.9975), (3, 1.0, 0.978), (4, 0.1, 0.9988)]
)
def test_best_known_fractions_of_two_tokens(horizon, epsilon, least):
    """Found, and at least what the majority vote attains at any temperature."""
    found = search(STEPWISE, 2, horizon, epsilon, ascent=Ascent(16, 200))
    assert found.ratio >= least
    alphas = np.geomspace(0.1, 10 * horizon / epsilon, 40)
    votes = [float(STEPWISE(majority_vote(horizon, a, epsilon), a, epsilon)) for a in alphas]
    assert found.ratio > max(votes)


@pytest.mark.slow
def test_the_same_seed_finds_the_same_instance():
    one, two, other = (
        search(STEPWISE, 3, 2, 0.3, ascent=Ascent(6, 30, seed)) for seed in (5, 5, 6)
    )
    assert (one.alpha, one.ratio) == (two.alpha, two.ratio)
    for first, second in zip(one.mdp.rewards, two.mdp.rewards, strict=True):
        assert (first == second).all()
    assert one.ratio != other.ratio


@pytest.mark.parametrize("name", ["vocab_size", "horizon", "restarts", "steps", "epsilon", "alpha"])
def test_bad_input_is_named(name):
    arguments = {"vocab_size": 2, "horizon": 2, "epsilon": 0.1, "alpha": 1.0}
    ascent = Ascent(restarts=2, steps=2)
    if name in arguments:
        arguments[name] = 0
    else:
        ascent = ascent._replace(**{name: 0})
    with pytest.raises(ValueError, match=f"{name}=0"):
        search(STEPWISE, **arguments, ascent=ascent)


def test_trees_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="searching trees"):
        search(STEPWISE, 4, 20, 0.1)


def test_objectives_need_no_torch():
    code = "import sys, theory.studies.search; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_has_nothing_to_attain_attains_nothing():
    """One token, or rewards that are all equal: the worst clone is the expert, and 0/0 is no
    fraction.
    """
    for V in (1, 2):
        same = TokenMDP.tree([np.zeros((1, V)), np.zeros((V, V))])
        assert STEPWISE(same, 1.0, 0.5) == 0
    assert search(STEPWISE, 1, 2, 0.5, ascent=Ascent(2, 2)).ratio == 0


@pytest.mark.parametrize("everywhere", [False, True])
def test_nan_is_not_the_best_that_was_found(everywhere):
    def fraction(mdp, alpha, epsilon):
        """In NumPy NaN wherever a reward is neither 0 nor 1, and so on every instance before it is
        rounded.
        """
        found, rewards = STEPWISE(mdp, alpha, epsilon), mdp.rewards[0]
        if not isinstance(rewards, np.ndarray):
            return found
        inside = ((rewards > 0) & (rewards < 1)).any(-1).any(-1)
        return np.where(inside | everywhere, np.nan, found)

    if everywhere:
        with pytest.raises(ValueError, match="objective: NaN on every instance found"):
            search(fraction, 2, 1, 0.5, ascent=Ascent(2, 2), alpha=1.0)
    else:
        assert 0 <= search(fraction, 2, 1, 0.5, ascent=Ascent(2, 2), alpha=1.0).ratio <= 1
