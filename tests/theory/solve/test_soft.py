"""Soft optimality against the sum over every response, and the limits in the temperature."""

import math
import warnings
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp, softmax
from strategies import (
    along,
    alphas,
    brute_expectation,
    brute_soft_value,
    build,
    enumerate_responses,
    policies,
    random_policy,
    same_mdp_three_ways,
    seeds,
    token_mdps,
)

import theory.arrays.kernels
import theory.arrays.memory
import theory.solve.soft
from theory.arrays.precision import enclose, precision
from theory.mdp.distances import max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy, plain_value, regularised_value, trajectory_entropy
from theory.solve.reward import returns, shape_reward
from theory.solve.soft import (
    greedy_rows,
    log_softmax,
    plain_optimal,
    soft_optimal,
    soft_q_values,
    soft_values,
)
from theory.solve.streamed import soft_layers

check = settings(derandomize=True, deadline=None, max_examples=30)


def tolerance(mdp, alpha):
    """A few hundred roundings of the largest number that a value can be."""
    return 1e-13 * (1 + mdp.horizon * (1 + alpha * (1 + math.log(mdp.vocab_size))))


@check
@given(token_mdps(), alphas)
def test_soft_value_is_log_sum_over_responses(mdp, alpha):
    values = soft_values(mdp, alpha)[0]
    exact = [brute_soft_value(mdp, alpha, prompt) for prompt in range(mdp.dynamics.n_prompts)]
    assert_allclose(values, exact, rtol=1e-12, atol=tolerance(mdp, alpha))


@check
@given(token_mdps(), alphas)
def test_policy_is_gibbs_over_responses_and_telescopes(mdp, alpha):
    policy, values = soft_optimal(mdp, alpha)
    for prompt in range(mdp.dynamics.n_prompts):
        responses = enumerate_responses(mdp.dynamics, prompt)
        sums = np.array([along(mdp.rewards, response) for response in responses])
        log_p = np.array([along(policy.log_probs, response) for response in responses])
        gibbs = np.exp((sums - sums.max()) / alpha)
        assert_allclose(np.exp(log_p), gibbs / gibbs.sum(), rtol=1e-9, atol=1e-300)
        # r*(τ) = α log π_E(τ|s₁) + V*(s₁)
        assert_allclose(alpha * log_p + values[0][prompt], sums, atol=tolerance(mdp, alpha))


@check
@given(token_mdps(), alphas, st.data())
def test_soft_optimal_maximises_the_regularised_value(mdp, alpha, data):
    policy, values = soft_optimal(mdp, alpha)
    best = mdp.dynamics.prompt_weights @ values[0]
    atol = 10 * tolerance(mdp, alpha)
    assert_allclose(regularised_value(mdp, policy, alpha), best, rtol=1e-11, atol=atol)
    by_hand = brute_expectation(
        policy, lambda response, log_p: along(mdp.rewards, response) - alpha * log_p
    )
    assert_allclose(by_hand, best, rtol=1e-11, atol=atol)
    other = data.draw(policies(mdp.dynamics))
    assert regularised_value(mdp, other, alpha) <= best + atol


def test_a_nearby_policy_is_strictly_worse():
    mdp = build("tree", np.random.default_rng(3), 2, 3, 3)
    policy, values = soft_optimal(mdp, 0.3)
    rng = np.random.default_rng(0)
    for size in (1e-2, 1e-1, 1.0):
        moved = Policy.from_logits(
            mdp.dynamics, [t + size * rng.normal(size=t.shape) for t in policy.log_probs]
        )
        assert (
            regularised_value(mdp, moved, 0.3)
            < mdp.dynamics.prompt_weights @ values[0] - 1e-3 * size**2
        )


@check
@given(token_mdps(), alphas)
def test_q_values_satisfy_the_bellman_equation_state_by_state(mdp, alpha):
    values, q_values = soft_values(mdp, alpha), soft_q_values(mdp, alpha)
    masks = mdp.dynamics.allowed
    for h, q in enumerate(q_values):
        link = mdp.dynamics.successors(h) if h + 1 < mdp.horizon else None
        for s in range(len(q)):
            legal = [a for a in range(mdp.vocab_size) if masks[h] is None or masks[h][s, a]]
            for a in range(mdp.vocab_size):
                following = values[h + 1][link[s, a]] if h + 1 < mdp.horizon else 0.0
                expected = mdp.rewards[h][s, a] + following if a in legal else -np.inf
                assert q[s, a] == pytest.approx(expected, abs=tolerance(mdp, alpha))
            top = max(q[s, a] for a in legal)
            total = top + alpha * math.log(
                math.fsum(math.exp((q[s, a] - top) / alpha) for a in legal)
            )
            assert values[h][s] == pytest.approx(total, abs=tolerance(mdp, alpha), rel=1e-12)


def test_golden_values():
    # One step, rewards 0 and 1, α = 1: log(1 + e). Two steps, α = ½, by hand.
    one = TokenMDP.tree([[[0.0, 1.0]]])
    assert soft_values(one, 1.0)[0][0] == pytest.approx(1.3132616875182228, rel=1e-15)
    two = TokenMDP.tree([[[0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]])
    # Every response is worth 1: V = 1 + α log 4, and the policy is uniform.
    solution = soft_optimal(two, 0.5)
    assert solution.values[0][0] == pytest.approx(1.0 + 0.5 * math.log(4.0), rel=1e-15)
    assert_allclose(solution.policy.log_probs[0], math.log(0.5), rtol=1e-15)


# --- The misprint ---------------------------------------------------------------------------------


def printed_solution(alpha):
    """Backward recursion with ``V = α log(Σ exp(Q)/α)``, as the source text prints it. Tree, V = 2,
    H = 2.
    """
    rewards = [np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.5, 0.5]])]
    v1 = alpha * np.log(np.exp(rewards[1]).sum(axis=1) / alpha)
    q0 = rewards[0] + v1
    v0 = alpha * np.log(np.exp(q0).sum(axis=1) / alpha)
    return TokenMDP.tree(rewards), [q0, rewards[1]], [v0, v1]


@pytest.mark.parametrize("alpha", [0.25, 0.5, 2.0, 4.0])
def test_the_printed_normaliser_is_a_misprint(alpha):
    mdp, q, v = printed_solution(alpha)
    for q_h, v_h in zip(q, v, strict=True):
        mass = np.exp((q_h - v_h[:, None]) / alpha).sum(axis=1)
        assert (np.abs(mass - 1.0) > 0.05).all()  # not a distribution
    normalised = Policy.from_logits(mdp.dynamics, q, temperature=alpha)
    best = soft_values(mdp, alpha)[0][0]
    assert regularised_value(mdp, normalised, alpha) < best - 1e-5  # and, made one, not the optimum
    assert max_log_ratio(normalised, soft_optimal(mdp, alpha).policy) > 0.01


def test_the_printed_normaliser_is_right_at_temperature_one():
    mdp, q, v = printed_solution(1.0)
    policy, values = soft_optimal(mdp, 1.0)
    for h in range(2):
        assert_allclose(v[h], values[h], rtol=1e-14)
        assert_allclose(q[h] - v[h][:, None], policy.log_probs[h], rtol=1e-13)


# --- Limits in α ----------------------------------------------------------------------------------


@check
@given(token_mdps(rules=("tree", "window", "table")), seeds)
def test_low_temperature_reaches_the_exact_plain_optimum(mdp, seed):
    rng = np.random.default_rng(seed)
    rewards = [np.where(r >= 0, rng.integers(-3, 4, r.shape), 0).astype(float) for r in mdp.rewards]
    whole = TokenMDP(mdp.dynamics, tuple(rewards), (-3.0, 3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cold = soft_values(whole, 1e-6)[0]
        policy, values = plain_optimal(whole)
    slack = 1e-6 * whole.horizon * math.log(whole.vocab_size)
    average = Fraction(0)
    for prompt in range(whole.dynamics.n_prompts):
        best = max(
            sum(
                (
                    Fraction(float(whole.rewards[h][s, a]))
                    for h, (a, s) in enumerate(zip(*x, strict=True))
                ),
                Fraction(0),
            )
            for x in enumerate_responses(whole.dynamics, prompt)
        )
        assert Fraction(float(values[0][prompt])) == best
        assert float(best) - 1e-12 <= cold[prompt] <= float(best) + slack + 1e-12
        average += Fraction(float(whole.dynamics.prompt_weights[prompt])) * best
    assert plain_value(whole, policy) == pytest.approx(float(average), abs=1e-12)
    assert trajectory_entropy(policy) == 0.0


@check
@given(token_mdps(), st.sampled_from([1e-6, 1e6]))
def test_extreme_temperatures_are_finite_and_silent(mdp, alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy, values = soft_optimal(mdp, alpha)
        total = regularised_value(mdp, policy, alpha)
    assert all(np.isfinite(v).all() for v in values)
    atol = 10 * tolerance(mdp, alpha)
    assert_allclose(total, mdp.dynamics.prompt_weights @ values[0], rtol=1e-11, atol=atol)
    exact = [brute_soft_value(mdp, alpha, prompt) for prompt in range(mdp.dynamics.n_prompts)]
    assert_allclose(values[0], exact, rtol=1e-12, atol=atol)
    for table in policy.log_probs:
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, rtol=1e-14)


def test_high_temperature_is_uniform_over_responses():
    mdp = build("tree", np.random.default_rng(1), 1, 3, 3)
    policy = soft_optimal(mdp, 1e6).policy
    assert trajectory_entropy(policy) == pytest.approx(3 * math.log(3), abs=1e-9)


@check
@given(token_mdps(masked=False), alphas, st.integers(1, 7))
def test_block_kernel_does_not_depend_on_shift_or_block(mdp, alpha, block):
    whole = soft_values(mdp, alpha)
    for safe in (0.0, math.inf if alpha > 0.05 else theory.arrays.kernels.SAFE_SHARE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(theory.arrays.kernels, "SAFE_SHARE", safe)
            patch.setattr(theory.arrays.kernels, "BLOCK", block)
            for one, two in zip(whole, soft_values(mdp, alpha), strict=True):
                assert_allclose(two, one, rtol=1e-12, atol=tolerance(mdp, alpha))


def test_layer_larger_than_a_block():
    rng = np.random.default_rng(0)
    n = theory.arrays.kernels.BLOCK // 3 + 77
    mdp = TokenMDP.tree([rng.uniform(0, 1, (n, 3))])
    for alpha in (0.5, 1e-4):
        r = mdp.rewards[0]
        exact = r.max(axis=1) + alpha * np.log(
            np.exp((r - r.max(axis=1)[:, None]) / alpha).sum(axis=1)
        )
        assert_allclose(soft_values(mdp, alpha)[0], exact, rtol=1e-13)


def test_unshifted_kernel_is_used_only_where_it_is_safe():
    """Rewards of 1 over 40 steps at α = 0.05: exponents reach 800, past double precision without a
    shift.
    """
    mdp = TokenMDP.window([np.ones((2 ** min(h, 1), 2)) for h in range(40)], 1)
    for alpha in (0.05, 1 / 16):
        assert soft_values(mdp, alpha)[0][0] == pytest.approx(
            40 + alpha * 40 * math.log(2), rel=1e-13
        )
    low = TokenMDP.window(
        [-np.ones((2 ** min(h, 1), 2)) for h in range(40)], 1, reward_range=(-1, 0)
    )
    assert soft_values(low, 0.05)[0][0] == pytest.approx(-40 + 0.05 * 40 * math.log(2), rel=1e-13)


def test_entropy_alone_can_leave_double_precision():
    """1200 free coins and no reward: the exponents reach 832 by entropy only."""
    coins = TokenMDP.window([np.zeros((2 ** min(h, 1), 2)) for h in range(1200)], 1)
    assert soft_values(coins, 2.0)[0][0] == pytest.approx(2400 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 10.0, 100.0])
@pytest.mark.parametrize(
    "solve",
    [
        lambda mdp, alpha: soft_values(mdp, alpha)[0],
        lambda mdp, alpha: soft_optimal(mdp, alpha).values[0],
        lambda mdp, alpha: list(soft_layers(mdp, alpha))[-1],
    ],
    ids=["soft_values", "soft_optimal", "soft_layers"],
)
def test_one_state_and_equal_rewards_have_the_value_of_the_uniform_policy(alpha, solve):
    """``V* = H·(r + α log V)``, whatever the temperature: 200 tokens of 256 that earn 1/2 each."""
    mdp = TokenMDP.table([np.full((1, 256), 0.5)] * 200, [np.zeros((1, 256), dtype=int)] * 199)
    assert solve(mdp, alpha)[0] == pytest.approx(200 * (0.5 + alpha * math.log(256)), rel=1e-12)


@check
@given(token_mdps(), alphas)
def test_extended_precision_agrees(mdp, alpha):
    wide = TokenMDP(
        mdp.dynamics, tuple(r.astype(np.longdouble) for r in mdp.rewards), mdp.reward_range
    )
    policy, values = soft_optimal(mdp, alpha)
    wide_policy, wide_values = soft_optimal(wide, alpha)
    assert wide_values[0].dtype == np.longdouble
    assert wide_policy.log_probs[0].dtype == np.longdouble
    for h in range(mdp.horizon):
        assert_allclose(
            values[h], wide_values[h].astype(float), rtol=1e-12, atol=tolerance(mdp, alpha)
        )
        assert_allclose(
            np.exp(policy.log_probs[h]), np.exp(wide_policy.log_probs[h]).astype(float), rtol=1e-10
        )
    assert plain_value(mdp, policy) == pytest.approx(
        float(plain_value(wide, wide_policy)), abs=1e-12
    )


@check
@given(token_mdps(), alphas, seeds)
def test_adding_a_constant_reward_adds_it_once_per_step(mdp, alpha, seed):
    c = np.random.default_rng(seed).uniform(-2, 2)
    moved = TokenMDP(
        mdp.dynamics, tuple(r + c for r in mdp.rewards), (c, 1 + c) if c > 0 else (c - 1, 1 + c)
    )
    assert_allclose(
        soft_values(moved, alpha)[0],
        soft_values(mdp, alpha)[0] + c * mdp.horizon,
        atol=3 * tolerance(mdp, alpha) + 1e-12,
    )


# --- One problem in three rules, many problems in one batch ---------------------------------------


@check
@given(same_mdp_three_ways(), alphas)
def test_tree_window_and_table_give_the_same_solution(three, alpha):
    tree, *quotients = three
    soft, plain = soft_optimal(tree, alpha), plain_optimal(tree)
    for mdp in quotients:
        other, other_plain = soft_optimal(mdp, alpha), plain_optimal(mdp)
        states = [
            np.array(s).reshape(-1) for s in mdp.dynamics.prefix_states()
        ]  # checked against the definition in test_dynamics
        for h, s in enumerate(states):
            assert_allclose(other.values[h][s], soft.values[h], atol=tolerance(tree, alpha))
            assert_allclose(
                np.exp(other.policy.log_probs[h][s]), np.exp(soft.policy.log_probs[h]), rtol=1e-9
            )
            assert_allclose(other_plain.values[h][s], plain.values[h], atol=1e-13)
        assert trajectory_entropy(other.policy) == pytest.approx(
            trajectory_entropy(soft.policy), abs=1e-9
        )
        assert plain_value(mdp, other.policy) == pytest.approx(
            plain_value(tree, soft.policy), abs=1e-9
        )
        assert plain_value(mdp, other_plain.policy) == pytest.approx(
            plain_value(tree, plain.policy), abs=1e-12
        )


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_equals_its_members(rule, masked):
    members = [
        build(rule, np.random.default_rng(7), 2, 3, 4, masked=masked, window=2) for _ in range(6)
    ]
    rng = np.random.default_rng(8)
    dynamics = members[0].dynamics
    members = [
        TokenMDP(dynamics, tuple(rng.uniform(0, 1, r.shape) for r in m.rewards)) for m in members
    ]
    stacked = tuple(
        np.stack([m.rewards[h] for m in members]).reshape(2, 3, *members[0].rewards[h].shape)
        for h in range(4)
    )
    batch = TokenMDP(dynamics, stacked)
    alpha = np.exp(rng.uniform(-3, 2, (2, 3)))
    soft, plain, policy = (
        soft_optimal(batch, alpha),
        plain_optimal(batch),
        random_policy(dynamics, rng),
    )
    only_values = soft_values(batch, alpha)
    responses = all_responses(dynamics)
    total, shaped = returns(batch, responses), shape_reward(batch, tuple(v**2 for v in soft.values))
    visits = occupancy(soft.policy)
    for i, member in enumerate(members):
        at = np.unravel_index(i, (2, 3))
        one, one_plain = soft_optimal(member, alpha[at]), plain_optimal(member)
        for h in range(4):
            assert_allclose(soft.values[h][at], one.values[h], atol=1e-11)
            assert_allclose(only_values[h][at], one.values[h], atol=1e-11)
            assert_allclose(
                np.exp(soft.policy.log_probs[h][at]), np.exp(one.policy.log_probs[h]), atol=1e-11
            )
            assert_allclose(plain.values[h][at], one_plain.values[h], atol=1e-13)
            assert_allclose(visits[h][at], occupancy(one.policy)[h], atol=1e-12)
            expected = shape_reward(member, tuple(v[at] ** 2 for v in soft.values)).rewards[h]
            assert_allclose(shaped.rewards[h][at], expected, atol=1e-12)
        assert regularised_value(batch, soft.policy, alpha)[at] == pytest.approx(
            regularised_value(member, one.policy, alpha[at]), abs=1e-10
        )
        assert plain_value(batch, policy)[at] == pytest.approx(
            plain_value(member, policy), abs=1e-12
        )
        assert_allclose(total[at], returns(member, responses), atol=1e-13)
        assert_allclose(
            np.exp(log_prob(soft.policy, responses)[at]),
            np.exp(log_prob(one.policy, responses)),
            atol=1e-11,
        )


def test_many_temperatures_on_one_mdp():
    mdp = build("window", np.random.default_rng(2), 2, 3, 4, window=1)
    alpha = np.array([0.1, 1.0, 10.0])
    values = soft_values(mdp, alpha)[0]
    for i, a in enumerate(alpha):
        assert_allclose(values[i], soft_values(mdp, float(a))[0], rtol=1e-13)


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("masked", [False, True])
def test_torch_gives_the_same_numbers_and_the_occupancy_as_gradient(rule, masked):
    torch = pytest.importorskip("torch")
    mdp = build(rule, np.random.default_rng(11), 2, 3, 4, masked=masked, window=2)
    rewards = tuple(torch.tensor(np.ascontiguousarray(r), requires_grad=True) for r in mdp.rewards)
    tensor = TokenMDP(mdp.dynamics, rewards)
    alpha = 0.4
    solution, reference = soft_optimal(tensor, alpha), soft_optimal(mdp, alpha)
    assert all(isinstance(v, torch.Tensor) and v.dtype == torch.float64 for v in solution.values)
    for h in range(4):
        assert_allclose(solution.values[h].detach().numpy(), reference.values[h], rtol=1e-13)
        assert_allclose(
            solution.policy.log_probs[h].detach().numpy(), reference.policy.log_probs[h], rtol=1e-11
        )
        assert_allclose(
            occupancy(solution.policy)[h].detach().numpy(),
            occupancy(reference.policy)[h],
            rtol=1e-12,
            atol=1e-15,
        )
    for quantity in (trajectory_entropy, lambda p: plain_value(tensor, p)):
        assert isinstance(quantity(solution.policy), torch.Tensor)
    assert float(trajectory_entropy(solution.policy).detach()) == pytest.approx(
        trajectory_entropy(reference.policy)
    )
    best = plain_optimal(tensor)
    for h in range(4):
        assert_allclose(
            best.policy.log_probs[h].detach().numpy(), plain_optimal(mdp).policy.log_probs[h]
        )
    # dV/dr(s,a) is the probability that the soft-optimal policy comes by (s,a).
    mdp.dynamics.average(soft_values(tensor, alpha)[0]).backward()
    for h, visits in enumerate(occupancy(reference.policy)):
        expected = visits[:, None] * np.exp(reference.policy.log_probs[h])
        assert_allclose(rewards[h].grad.numpy(), expected, atol=1e-13)


def test_torch_single_precision_stays_single():
    torch = pytest.importorskip("torch")
    mdp = build("tree", np.random.default_rng(5), 1, 3, 3)
    tensor = TokenMDP.tree(
        [torch.tensor(np.ascontiguousarray(r), dtype=torch.float32) for r in mdp.rewards]
    )
    value = soft_values(tensor, 0.7)[0]
    assert value.dtype == torch.float32
    assert_allclose(value.numpy(), soft_values(mdp, 0.7)[0], rtol=1e-6)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf, "warm", None, [0.5, -0.5]])
@pytest.mark.parametrize("solve", [soft_values, soft_optimal, soft_q_values])
def test_bad_temperatures_are_named(solve, alpha):
    with pytest.raises(ValueError, match=r"alpha=.*must be"):
        solve(TokenMDP.tree([[[0.0, 1.0]]]), alpha)


def test_policy_larger_than_memory_is_refused(monkeypatch):
    mdp = build("tree", np.random.default_rng(0), 1, 4, 4)
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: 2000)
    with pytest.raises(ValueError, match=r"soft-optimal policy needs .*use soft_values"):
        soft_optimal(mdp, 1.0)
    assert np.isfinite(soft_values(mdp, 1.0)[0]).all()


# --- What is solved -------------------------------------------------------------------------------


def test_the_gauge_of_the_solution_is_its_value_over_the_temperature():
    mdp = TokenMDP.random(3, 2, n_prompts=2, seed=1)
    policy, values = soft_optimal(mdp, 0.25)
    for gauge, value in zip(policy.log_normalizers, values, strict=True):
        assert_allclose(gauge, 4 * value, rtol=1e-15)


def test_log_softmax_is_of_each_row_of_a_batch():
    q = np.random.default_rng(0).normal(size=(2, 3, 4))
    exact = q / 0.5 - logsumexp(q / 0.5, axis=-1, keepdims=True)
    assert_allclose(log_softmax(q, 0.5), exact, atol=1e-14)
    each = log_softmax(q, np.array([0.5, 2.0]))
    assert_allclose(each[0], exact[0], atol=1e-14)
    assert_allclose(np.exp(each[1]), softmax(q[1] / 2, axis=-1), atol=1e-14)


def test_greedy_rows_take_the_first_largest_of_each_row_of_a_batch():
    q = np.array([[[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]], [[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]]])
    best = [[1, 0], [2, 0]]
    found = greedy_rows(q)
    assert found.shape == q.shape
    assert (found.argmax(axis=-1) == best).all()
    assert np.exp(found).sum(axis=-1).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("bits", [53, 128])
def test_values_in_enclosures_hold_the_sum_over_every_response(bits):
    mdp = TokenMDP.random(2, 3, seed=2)
    with precision(bits):
        exact = replace(mdp, rewards=tuple(enclose(r, bits) for r in mdp.rewards))
        for found in (soft_values(exact, 0.7)[0], soft_optimal(exact, 0.7).values[0]):
            value = brute_soft_value(mdp, 0.7, 0)
            assert float(found.lower()[0]) == pytest.approx(value, rel=1e-12)
            assert float(found.upper()[0]) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("solve", [plain_optimal, lambda mdp: soft_optimal(mdp, 0.5)])
def test_tensors_are_solved_as_arrays_are(solve):
    torch = pytest.importorskip("torch")
    mdp = TokenMDP.random(3, 2, n_prompts=2, seed=4)
    policy, values = solve(mdp)
    tensors = replace(mdp, rewards=tuple(map(torch.tensor, mdp.rewards)))
    found = solve(tensors)
    for one, other in zip(
        (*found.policy.log_probs, *found.values), (*policy.log_probs, *values), strict=True
    ):
        assert isinstance(one, torch.Tensor)
        assert_allclose(one.numpy(), other, rtol=1e-14)


def test_tensors_that_numpy_cannot_read_are_solved_by_their_own_kernel(monkeypatch):
    """As on a GPU, where no array of NumPy has their memory."""
    torch = pytest.importorskip("torch")
    mdp = TokenMDP.random(3, 3, n_prompts=2, seed=4)
    policy, values = soft_optimal(mdp, 0.5)
    tensors = replace(mdp, rewards=tuple(map(torch.tensor, mdp.rewards)))
    monkeypatch.setattr(theory.solve.soft, "numpy_can_read", lambda *_: False)
    found = soft_optimal(tensors, 0.5)
    for one, other in zip(found.policy.log_probs, policy.log_probs, strict=True):
        assert_allclose(one.numpy(), other, atol=1e-14)
    for one, other, alone in zip(found.values, values, soft_values(tensors, 0.5), strict=True):
        assert_allclose(one.numpy(), other, rtol=1e-14)
        assert_allclose(alone.numpy(), other, rtol=1e-14)


def test_many_steps_at_a_high_temperature_stay_finite():
    """Each step is worth ``½ + α log V``, whatever follows."""
    layers = [np.full((1, 256), 0.5), *[np.full((256, 256), 0.5)] * 199]
    value = soft_values(TokenMDP.window(layers, 1), 10.0)[0]
    assert float(value[0]) == pytest.approx(200 * (0.5 + 10 * np.log(256)), rel=1e-12)
    assert round(float(value[0]), 2) == 11190.35
