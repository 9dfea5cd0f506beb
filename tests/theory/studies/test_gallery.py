"""What each instance of the gallery shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import softmax
from strategies import build, seeds

from theory.claims import bounds
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    greedy_response,
    log_prob,
    map_response,
    sample_log_ratio_ball,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward, preference_tv, returns
from theory.solve.soft import power_policy, soft_optimal, soft_values
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.studies.gallery import (
    indifferent_learner,
    majority_vote,
    randomised_response,
    swapped_pair,
    swapped_pair_gap,
)
from theory.studies.sharpening import map_is_not_greedy, map_is_right, map_is_wrong, rise_then_fall


def stepwise_fraction(mdp, alpha, epsilon):
    """Exact worst cloning gap of the ball over ``Σ_h TV_RR(h, ε)``."""
    expert = soft_optimal(mdp, alpha).policy
    gap = plain_value(mdp, expert) - plain_value(mdp, worst_clone(mdp, expert, epsilon).policy)
    return float(gap / bounds.clone_gap_stepwise(mdp.horizon, epsilon))


# --- Randomised response --------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2, 5, 8])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.1), (0.2, 3.0), (1.0, 1.0)])
def test_randomised_response_attains_three_bounds(horizon, alpha, epsilon):
    instance = randomised_response(horizon, alpha, epsilon)
    assert_allclose(instance.epsilon, epsilon, rtol=1e-12)
    log_e, log_p = (
        log_prob(x, all_responses(instance.mdp.dynamics))
        for x in (instance.expert, instance.policy)
    )
    tv = np.abs(np.exp(log_e) - np.exp(log_p)).sum() / 2
    assert_allclose(tv, bounds.tv_randomised_response(horizon, epsilon), rtol=1e-12)
    assert_allclose(
        (np.exp(log_p) * (log_p - log_e)).sum(), bounds.kl_ball(horizon, epsilon), rtol=1e-12
    )
    zeros, ones = (Responses(np.array([0]), np.full((1, horizon), token)) for token in (0, 1))
    true = returns(instance.mdp, zeros) - returns(instance.mdp, ones)
    read = alpha * (log_prob(instance.policy, zeros) - log_prob(instance.policy, ones))
    assert_allclose(true, alpha * horizon * epsilon, rtol=1e-12)
    assert_allclose(read, -alpha * horizon * epsilon, rtol=1e-12)
    assert_allclose(
        preference_tv(true, read), bounds.preference_tv_sharp(horizon, epsilon, alpha), rtol=1e-12
    )


def test_randomised_response_of_a_long_horizon():
    instance = randomised_response(1000, 1.0, 0.3)
    assert_allclose(kl(instance.policy, instance.expert), bounds.kl_ball(1000, 0.3), rtol=1e-12)


# --- Cloning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0])
def test_two_votes_attain_the_stepwise_bound(horizon, epsilon):
    mdp = majority_vote(horizon, 1 / epsilon, epsilon)
    assert stepwise_fraction(mdp, 1 / epsilon, epsilon) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("horizon", [3, 4, 5, 20, 101])
def test_two_tokens_near_the_stepwise_bound_at_small_epsilon(horizon):
    fractions = []
    for epsilon in (0.1, 0.01, 0.001):
        alpha = horizon**0.5 / epsilon
        fractions.append(stepwise_fraction(majority_vote(horizon, alpha, epsilon), alpha, epsilon))
    assert fractions == sorted(fractions)
    assert np.all(np.array(fractions) >= [0.98, 0.998, 0.9998])
    assert max(fractions) <= 1.0


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("horizon", [1, 3, 4])
def test_many_tokens_near_the_stepwise_bound_at_fixed_temperature(horizon, epsilon, alpha):
    few, many = (
        stepwise_fraction(majority_vote(horizon, alpha, epsilon, vocab_size=V), alpha, epsilon)
        for V in (2, 2**15)
    )
    assert 0.998 <= many <= 1 + 1e-12
    assert few < 0.9 or horizon == 1  # one vote attains the bound with two tokens where αε = 1


# --- RL on the endogenous reward ------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "low"), [(3, 2), (5, 3), (7, 6), (101, 51)])
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_indifferent_learner_attains_the_gap_to_the_expert(horizon, vocab_size, low):
    epsilon = np.log(low / (vocab_size - low))
    alpha = 0.9 / (2 * epsilon)
    instance = indifferent_learner(horizon, alpha, vocab_size=vocab_size, low=low)
    assert_allclose(instance.epsilon, epsilon, rtol=1e-12)
    gap = alpha * horizon * epsilon * (1 + np.tanh(epsilon / 2))
    assert_allclose(instance.expert_value - instance.rl_value, gap, rtol=1e-12)
    assert instance.rl_response.tokens.max() == 0
    if vocab_size**horizon <= 10_000:
        worst = worst_map(instance.mdp, instance.expert, epsilon).returns
        assert_allclose(instance.expert_value - worst[0], gap, rtol=1e-12)


def test_the_constant_of_theorem_2_fails_at_alpha_one():
    """``V^{π_E} − V^{π_RL} ≤ Hε`` as printed, at α = 1 and rewards in [0, 1]."""
    instance = indifferent_learner(10, 1.0, vocab_size=5, low=3)
    assert instance.expert_value - instance.rl_value > 1.19 * bounds.rl_gap_paper(
        10, instance.epsilon
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 4), seeds, st.floats(-3, 3), st.floats(-5, 1.2))
def test_no_worst_map_loses_more_to_the_expert(V, H, seed, log_alpha, log_epsilon):
    mdp = build("tree", np.random.default_rng(seed), 1, V, H, ["uniform", "binary"][seed % 2])
    alpha, epsilon = np.exp(log_alpha), np.exp(log_epsilon)
    expert = soft_optimal(mdp, alpha).policy
    gap = plain_value(mdp, expert) - worst_map(mdp, expert, epsilon).returns[0]
    assert gap <= alpha * H * epsilon * (1 + np.tanh(epsilon / 2)) + 1e-12


@pytest.mark.parametrize("slack", [0.9, 0.1, 1e-6])
@pytest.mark.parametrize("horizon", [1, 3])
def test_swapped_pair_stays_below_the_bound_by_its_slack(horizon, slack):
    instance = swapped_pair(horizon, 0.5, 0.2, slack=slack)
    assert_allclose(instance.epsilon, 0.2, rtol=1e-9)
    gap = instance.best_value - instance.rl_value
    assert_allclose(gap / bounds.rl_gap(horizon, 0.2, 0.5), 1 - slack, rtol=1e-9)
    lead = log_prob(instance.policy, instance.rl_response) - log_prob(
        instance.policy, map_response(instance.expert)
    )
    assert_allclose(lead, 2 * horizon * 0.2 * slack, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slack": -1.0}, "slack=-1.0: must be from 0 to below 1"),
        ({"slack": np.nan}, "slack=nan: must be from 0 to below 1"),
        ({"slack": 2.0}, "slack=2.0: must be from 0 to below 1"),
        ({"horizon": 0}, "horizon=0: must be at least 1"),
    ],
)
def test_swapped_pair_claims_no_more_than_the_bound(changes, message):
    for family in (swapped_pair, swapped_pair_gap):
        with pytest.raises(ValueError, match=message):
            family(**{"horizon": 4, "alpha": 1.0, "epsilon": 0.01} | changes)


# --- MAP responses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("map_mass", "first"), [(0.36, 0.4), (0.49, 0.495), (0.4999, 0.49995), (0.26, 0.49)]
)
def test_greedy_misses_a_map_response_below_one_half(map_mass, first):
    mdp, alpha = map_is_not_greedy(map_mass, first)
    policy = soft_optimal(mdp, alpha).policy
    best, greedy = map_response(policy), greedy_response(policy)
    assert best.tokens.tolist() == [[1, 0]]
    assert_allclose(np.exp(log_prob(policy, best)), map_mass, rtol=1e-12)
    assert_allclose(np.exp(log_prob(policy, greedy)), (1 - first) / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("map_mass", "first"), [(0.5001, 0.5002), (0.5001, 0.99), (0.51, 0.6), (0.9, 0.95)]
)
def test_greedy_finds_a_map_response_above_one_half(map_mass, first):
    mdp, alpha = map_is_not_greedy(map_mass, first)
    policy = soft_optimal(mdp, alpha).policy
    assert (
        map_response(policy).tokens.tolist() == greedy_response(policy).tokens.tolist() == [[1, 0]]
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 4), seeds, st.floats(1.0, 8.0))
def test_a_response_of_mass_above_one_half_is_greedy(V, H, seed, scale):
    rng = np.random.default_rng(seed)
    dynamics = TokenMDP.tree([np.zeros((V**h, V)) for h in range(H)]).dynamics
    policy = Policy.from_logits(dynamics, [scale * rng.normal(size=(V**h, V)) for h in range(H)])
    best = map_response(policy)
    if log_prob(policy, best)[0] > np.log(0.5):
        assert greedy_response(policy).tokens.tolist() == best.tokens.tolist()


def accuracy_at(instance, power):
    """Accuracy of ``π̂^κ``, soft-optimal at temperature 1 for the reward ``κ log π̂``; and by
    enumeration.
    """
    sharpened = soft_optimal(endogenous_reward(instance.policy, power, gauge="logprob"), 1.0).policy
    every = all_responses(instance.mdp.dynamics)
    log_mass = power * log_prob(instance.policy, every).reshape(instance.mdp.dynamics.n_prompts, -1)
    right = returns(instance.mdp, every).reshape(log_mass.shape)
    listed = (softmax(log_mass, axis=1) * right).sum(axis=1).mean()
    assert_allclose(plain_value(instance.mdp, sharpened), listed, rtol=1e-10)
    return float(listed)


@pytest.mark.parametrize("accuracy", [0.9, 0.5])
def test_map_is_wrong_and_sampling_is_right(accuracy):
    instance = map_is_wrong(accuracy)
    assert_allclose(plain_value(instance.mdp, instance.policy), accuracy, rtol=1e-12)
    assert plain_value(instance.mdp, instance.expert) > 0.9
    assert instance.rl_value == 0.0
    assert instance.best_value == 1.0
    assert np.isfinite(instance.epsilon)
    falling = [accuracy_at(instance, power) for power in (1, 2, 4, 8, 16, 64)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(accuracy)
    assert falling[-1] < 1e-3


def test_sharpening_raises_accuracy_and_then_lowers_it():
    instance = rise_then_fall()
    powers = np.geomspace(1, 300, 40)
    accuracy = np.array([accuracy_at(instance, power) for power in powers])
    top = int(np.argmax(accuracy))
    assert 0 < top < len(powers) - 1
    assert (np.diff(accuracy[: top + 1]) > 0).all()
    assert (np.diff(accuracy[top:]) < 0).all()
    assert accuracy[0] == pytest.approx(0.665)
    assert accuracy[top] > 0.95
    assert accuracy[-1] == pytest.approx(0.5, abs=1e-6)
    assert instance.rl_value == 0.5


# --- Bad input ------------------------------------------------------------------------------------


def test_bad_input_is_named():
    for call, name in (
        (lambda: randomised_response(2, 1.0, 1.1), "alpha=1.0, epsilon=1.1"),
        (lambda: majority_vote(2, 1.0, 0.1, vocab_size=1), "vocab_size=1"),
        (lambda: majority_vote(2, 0.0, 0.1), "alpha=0"),
        (lambda: indifferent_learner(2, 0.5, low=1), "low=1"),
        (lambda: indifferent_learner(2, 5.0), "alpha=5"),
        (lambda: map_is_not_greedy(0.2, 0.3), "map_mass=0.2"),
        (lambda: map_is_not_greedy(0.6, 0.5), "map_mass=0.6"),
        (lambda: map_is_wrong(0.95), "accuracy=0.95"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_gallery_policies_are_the_soft_optimal_ones_in_the_ball():
    """An instance's expert is what it must be, whatever the family."""
    for instance in (
        randomised_response(3, 0.5, 0.4),
        indifferent_learner(3, 0.3),
        swapped_pair(3, 0.5, 0.2),
        map_is_wrong(),
        rise_then_fall(),
    ):
        soft = soft_values(instance.mdp, instance.alpha)[0]
        every = all_responses(instance.mdp.dynamics)
        telescoped = instance.alpha * log_prob(instance.expert, every) + soft[every.prompts]
        assert_allclose(telescoped, returns(instance.mdp, every), atol=1e-12)
        member = sample_log_ratio_ball(instance.expert, instance.epsilon, 0)
        assert max_log_ratio(member, instance.expert) <= instance.epsilon * (1 + 1e-9)


def test_sharpening_helps_where_the_map_is_right():
    i = map_is_right(0.4)
    values = [
        float(plain_value(i.mdp, power_policy(i.policy, kappa))) for kappa in (1.0, 2.0, 5.0, 100.0)
    ]
    assert values[0] == pytest.approx(0.4)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"accuracy=0\.05: must be above 1/16"):
        map_is_right(0.05)
