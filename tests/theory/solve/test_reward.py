"""The endogenous reward: what a policy's logits give back, and what they cannot."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from strategies import (
    along,
    alphas,
    build,
    enumerate_responses,
    policies,
    random_policy,
    seeds,
    shaped_pairs,
    token_mdps,
)

from theory.arrays.precision import enclose, precision
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, greedy_response, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import (
    bradley_terry,
    endogenous_reward,
    preference_tv,
    returns,
    shape_reward,
    with_rewards,
)
from theory.solve.soft import plain_optimal, soft_optimal, soft_values

check = settings(derandomize=True, deadline=None, max_examples=30)


def slack(mdp, alpha):
    return 1e-12 * (1 + alpha * mdp.horizon)


@check
@given(token_mdps(), alphas)
def test_the_reward_of_a_soft_optimal_policy_is_found_exactly(mdp, alpha):
    found = endogenous_reward(soft_optimal(mdp, alpha).policy, alpha)
    for h, reward in enumerate(mdp.rewards):
        mask = mdp.dynamics.allowed[h]
        legal = np.ones(reward.shape, bool) if mask is None else mask
        assert_allclose(found.rewards[h][legal], reward[legal], atol=slack(mdp, alpha))
        assert (found.rewards[h][~legal] == 0).all()
        assert found.dynamics.allowed[h] is None or (found.dynamics.allowed[h] == legal).all()


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_the_reward_is_found_where_responses_end(rule):
    mdp = build(rule, np.random.default_rng(1), 2, 3, 4, window=2, eos=1)
    found = endogenous_reward(soft_optimal(mdp, 0.3).policy, 0.3)
    for h in range(4):
        assert_allclose(found.rewards[h], mdp.rewards[h], atol=1e-13)


@check
@given(token_mdps(), alphas, st.data())
def test_gauges_differ_by_a_potential(mdp, alpha, data):
    policy = data.draw(policies(mdp.dynamics))
    logits, logprob = (endogenous_reward(policy, alpha, gauge=g) for g in ("logits", "logprob"))
    for prompt in range(mdp.dynamics.n_prompts):
        constant = alpha * policy.log_normalizers[0][prompt]
        for response in enumerate_responses(mdp.dynamics, prompt):
            # r̂(τ) = α log π̂(τ) + V̂(s₁), and without V̂ in the other gauge: differences within a
            # prompt agree.
            log_p = along(policy.log_probs, response)
            assert along(logprob.rewards, response) == pytest.approx(
                alpha * log_p, rel=1e-11, abs=1e-11
            )
            assert along(logits.rewards, response) == pytest.approx(
                alpha * log_p + constant, rel=1e-11, abs=slack(mdp, alpha)
            )
    potential = tuple(-alpha * z for z in policy.log_normalizers)
    for one, two, mask in zip(
        shape_reward(logprob, potential).rewards, logits.rewards, mdp.dynamics.allowed, strict=True
    ):
        legal = np.ones(one.shape, bool) if mask is None else mask
        assert_allclose(one[legal], two[legal], atol=slack(mdp, alpha))


def test_a_single_tokens_reward_depends_on_the_gauge():
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    logits = [np.array([[0.0, 1.0]]), np.array([[3.0, 0.0], [0.0, 0.0]])]
    moved = [logits[0], logits[1] + np.array([[5.0], [-2.0]])]  # softmax does not see it
    one, two = (Policy.from_logits(dynamics, t) for t in (logits, moved))
    assert_allclose(np.exp(one.log_probs[1]), np.exp(two.log_probs[1]), rtol=1e-14)
    first, second = endogenous_reward(one, 1.0), endogenous_reward(two, 1.0)
    assert_allclose(first.rewards[0] - second.rewards[0], [[5.0, -2.0]], atol=1e-13)
    every = all_responses(dynamics)
    assert_allclose(returns(first, every), returns(second, every), atol=1e-13)


@check
@given(token_mdps(), alphas, st.data(), st.sampled_from(["logits", "logprob"]))
def test_every_gauge_is_soft_optimal_for_its_own_reward(mdp, alpha, data, gauge):
    policy = data.draw(policies(mdp.dynamics))
    solution = soft_optimal(endogenous_reward(policy, alpha, gauge=gauge), alpha)
    for h, table in enumerate(policy.log_probs):
        assert_allclose(np.exp(solution.policy.log_probs[h]), np.exp(table), atol=1e-11)
        expected = alpha * policy.log_normalizers[h] if gauge == "logits" else 0.0
        assert_allclose(
            solution.values[h], expected + np.zeros(len(table)), atol=10 * slack(mdp, alpha)
        )


@check
@given(token_mdps(), st.data())
def test_which_temperature(mdp, data):
    """``softmax(f/α)`` with V̂ = α log Σ exp(f/α): then Q̂ = f; softmax(f) read at α: then Q̂ =
    α·f.
    """
    rng = np.random.default_rng(data.draw(seeds))
    f = [rng.normal(size=(n, mdp.vocab_size)) for n in mdp.dynamics.layer_sizes]
    for policy, q in [
        (Policy.from_logits(mdp.dynamics, f, temperature=0.3), f),
        (Policy.from_logits(mdp.dynamics, f), [0.3 * t for t in f]),
    ]:
        last = endogenous_reward(policy, 0.3).rewards[-1]
        mask = mdp.dynamics.allowed[-1]
        legal = np.ones(last.shape, bool) if mask is None else mask
        assert_allclose(
            last[legal], q[-1][legal], atol=1e-13
        )  # after the last token there is no value: r̂ = Q̂


@check
@given(shaped_pairs(), alphas)
def test_shaping_keeps_the_policy_and_lowers_returns_by_the_first_potential(pair, alpha):
    mdp, shaped, potential = pair
    one, two = soft_optimal(mdp, alpha), soft_optimal(shaped, alpha)
    for h in range(mdp.horizon):
        assert_allclose(
            np.exp(two.policy.log_probs[h]), np.exp(one.policy.log_probs[h]), rtol=1e-8, atol=1e-12
        )
        assert_allclose(two.values[h], one.values[h] - potential[h], atol=10 * slack(mdp, alpha))
    for prompt in range(mdp.dynamics.n_prompts):
        for response in enumerate_responses(mdp.dynamics, prompt):
            lowered = along(mdp.rewards, response) - potential[0][prompt]
            assert along(shaped.rewards, response) == pytest.approx(lowered, abs=1e-12)
    best = plain_optimal(shaped).policy
    assert plain_value(mdp, best) == pytest.approx(
        plain_value(mdp, plain_optimal(mdp).policy), abs=1e-12
    )


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_bootstrap_keeps_the_value_after_the_last_token(alpha):
    mdp = build("window", np.random.default_rng(0), 2, 3, 4, window=1)
    policy = random_policy(mdp.dynamics, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"needs log_normalizers for 5 layers, the policy has 4"):
        endogenous_reward(policy, alpha, terminal="bootstrap")
    # A window of one token: after the last token the state is (prompt, token) = prompt·V + token.
    after = np.random.default_rng(3).normal(size=6)
    longer = Policy(mdp.dynamics, policy.log_probs, (*policy.log_normalizers, after))
    found = endogenous_reward(longer, alpha, terminal="bootstrap")
    zero = endogenous_reward(longer, alpha)
    every = all_responses(mdp.dynamics)
    telescoped = alpha * log_prob(policy, every) + alpha * policy.log_normalizers[0][every.prompts]
    last = alpha * after[every.prompts * 3 + every.tokens[:, -1]]
    assert_allclose(returns(zero, every), telescoped, atol=1e-12)
    assert_allclose(returns(found, every), telescoped - last, atol=1e-12)


def test_bootstrap_on_a_tree():
    mdp = build("tree", np.random.default_rng(0), 1, 2, 2)
    policy = random_policy(mdp.dynamics, np.random.default_rng(1))
    longer = Policy(
        mdp.dynamics, policy.log_probs, (*policy.log_normalizers, np.array([1.0, 2.0, 3.0, 4.0]))
    )
    every = all_responses(mdp.dynamics)
    gap = returns(endogenous_reward(longer, 0.5), every) - returns(
        endogenous_reward(longer, 0.5, terminal="bootstrap"), every
    )
    assert_allclose(gap, [0.5, 1.0, 1.5, 2.0], atol=1e-13)


def test_tokens_never_chosen_are_forbidden_in_the_reward():
    dynamics = TokenMDP.tree([np.zeros((1, 3))]).dynamics
    found = endogenous_reward(Policy.from_logits(dynamics, [[[0.0, -np.inf, 1.0]]]), 2.0)
    assert found.dynamics.allowed[0].tolist() == [[True, False, True]]
    assert_allclose(found.rewards[0], [[0.0, 0.0, 2.0]], atol=1e-15)
    assert found.reward_range == (0.0, pytest.approx(2.0))


def test_batch_of_policies_must_share_its_support():
    dynamics = TokenMDP.tree([np.zeros((1, 2))]).dynamics
    mixed = Policy.from_logits(dynamics, [np.array([[[0.0, 0.0]], [[0.0, -np.inf]]])])
    with pytest.raises(ValueError, match=r"layer 0: .*different supports; take them one at a time"):
        endogenous_reward(mixed, 1.0)
    logits = np.random.default_rng(0).normal(size=(2, 1, 2))
    both = endogenous_reward(Policy.from_logits(dynamics, [logits]), np.array([0.5, 2.0]))
    for i, alpha in enumerate([0.5, 2.0]):
        one = endogenous_reward(Policy.from_logits(dynamics, [logits[i]]), alpha)
        assert_allclose(both.rewards[0][i], one.rewards[0], rtol=1e-13)


def test_refusals():
    mdp = TokenMDP.tree([[[0.0, 1.0]]])
    solved = soft_optimal(mdp, 1.0).policy
    with pytest.raises(ValueError, match="gauge='raw': must be 'logits' or 'logprob'"):
        endogenous_reward(solved, 1.0, gauge="raw")
    with pytest.raises(ValueError, match="terminal='none': must be 'zero' or 'bootstrap'"):
        endogenous_reward(solved, 1.0, terminal="none")
    bare = Policy.from_log_probs(mdp.dynamics, solved.log_probs)
    with pytest.raises(ValueError, match=r"use gauge='logprob' or Policy\.from_logits"):
        endogenous_reward(bare, 1.0)
    assert_allclose(endogenous_reward(bare, 1.0, gauge="logprob").rewards[0], solved.log_probs[0])
    for alpha in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"alpha=.*positive and finite"):
            endogenous_reward(solved, alpha)


def test_torch_rewards_stay_torch():
    torch = pytest.importorskip("torch")
    mdp = build("window", np.random.default_rng(0), 2, 3, 3, window=1)
    tensor = TokenMDP(
        mdp.dynamics, tuple(torch.tensor(np.ascontiguousarray(r)) for r in mdp.rewards)
    )
    found = endogenous_reward(soft_optimal(tensor, 0.5).policy, 0.5)
    for one, two in zip(found.rewards, mdp.rewards, strict=True):
        assert isinstance(one, torch.Tensor)
        assert_allclose(one.numpy(), two, atol=1e-13)
    assert isinstance(soft_values(found, 0.5)[0], torch.Tensor)


# --- Preferences ----------------------------------------------------------------------------------

differences = st.floats(-60, 60)


@check
@given(differences, differences)
def test_preferences(one, two):
    sigma = [1 / (1 + math.exp(-x)) for x in (one, two)]
    assert bradley_terry(np.array(one)) == pytest.approx(sigma[0], rel=1e-13)
    assert bradley_terry(np.array(one)) + bradley_terry(np.array(-one)) == pytest.approx(
        1.0, rel=1e-14
    )
    tv = preference_tv(np.array(one), np.array(two))
    assert tv == pytest.approx(abs(sigma[0] - sigma[1]), rel=1e-9, abs=1e-15)
    assert tv == pytest.approx(preference_tv(np.array(two), np.array(one)), rel=1e-14)


def test_preferences_far_out():
    assert bradley_terry(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]
    assert preference_tv(np.array(1e5), np.array(-1e5)) == 1.0
    assert preference_tv(np.array(3e4), np.array(3e4)) == 0.0
    # The derivative of σ at 0 is ¼; subtracting two sigmoids would keep few digits.
    assert preference_tv(np.array(1e-12), np.array(0.0)) == pytest.approx(2.5e-13, rel=1e-12, abs=0)


def test_return_of_a_chosen_response():
    mdp = TokenMDP.tree([[[0.25, 0.5]], [[0.125, 0.0], [1.0, 0.75]]])
    responses = Responses(np.array([0, 0]), np.array([[0, 0], [1, 1]]))
    assert returns(mdp, responses).tolist() == [0.375, 1.25]
    assert greedy_response(plain_optimal(mdp).policy).tokens.tolist() == [[1, 0]]


@pytest.mark.parametrize("bits", [53, 128])
def test_the_range_of_rewards_is_from_the_least_to_the_greatest_of_all_layers(bits):
    tables = [np.array([[0.0, 1.0]]), np.array([[-3.0, 0.5], [2.0, 0.25]])]
    mdp = TokenMDP.tree(tables, reward_range=(-9.0, 9.0))
    assert with_rewards(mdp.dynamics, mdp.rewards).reward_range == (-3.0, 2.0)
    with precision(bits):
        enclosed = tuple(enclose(r, bits) for r in mdp.rewards)
        assert with_rewards(mdp.dynamics, enclosed).reward_range == (-3.0, 2.0)
