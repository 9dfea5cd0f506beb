"""Improving with the endogenous reward, against sums over every response that are written out
here.
"""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import logsumexp
from strategies import (
    along,
    alphas,
    build,
    enumerate_responses,
    epsilons,
    policies,
    policies_in_ball,
    random_policy,
    same_mdp_three_ways,
    seeds,
    token_mdps,
)

import theory.arrays.memory
from theory.arrays.precision import enclose, precision
from theory.claims.instance import Instance
from theory.mdp.distances import kl, renyi
from theory.mdp.policy import Policy
from theory.mdp.responses import log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, occupancy, plain_value, trajectory_entropy
from theory.solve.improve import (
    SCHEMES,
    best_exponent,
    distil,
    hybrid_reward,
    iterate,
    kl_optimal,
    regularised_objective,
    scheme_exponent,
    sharpening_curve,
    sharpening_slope,
)
from theory.solve.reward import endogenous_reward
from theory.solve.soft import plain_optimal, power_policy, soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.studies.gallery import indifferent_learner, randomised_response, swapped_pair
from theory.studies.sharpening import map_is_wrong, rise_then_fall

check = settings(derandomize=True, deadline=None, max_examples=30)
betas = st.floats(math.log(1e-3), math.log(1e3)).map(math.exp)


def laws(policy, prompt, *tables):
    """Of every response of positive probability to a prompt: log-probability, and the sums of some
    tables.
    """
    found = []
    for response in enumerate_responses(policy.dynamics, prompt):
        log_p = along(policy.log_probs, response)
        if log_p > -math.inf:
            found.append((log_p, *(along(t, response) for t in tables)))
    return np.array(found).T


def log_law(policy, prompt):
    return np.array(
        [along(policy.log_probs, x) for x in enumerate_responses(policy.dynamics, prompt)]
    )


def normalised(log_mass):
    return np.exp(log_mass - logsumexp(log_mass))


def assert_same_law(one, two, atol=1e-12):
    for prompt in range(one.dynamics.n_prompts):
        assert_allclose(
            np.exp(log_law(one, prompt)), np.exp(log_law(two, prompt)), rtol=1e-10, atol=atol
        )


# --- The KL-regularised optimum -------------------------------------------------------------------


@check
@given(token_mdps(), betas, st.data())
def test_optimum_is_the_anchor_tilted_by_the_return(mdp, beta, data):
    anchor = data.draw(policies(mdp.dynamics))
    policy, values = kl_optimal(mdp, anchor, beta)
    for prompt in range(mdp.dynamics.n_prompts):
        log_anchor, total = laws(anchor, prompt, mdp.rewards)
        log_mass = log_anchor + total / beta
        assert_allclose(
            np.exp(laws(policy, prompt)[0]), normalised(log_mass), rtol=1e-9, atol=1e-300
        )
        assert_allclose(
            values[0][prompt], beta * logsumexp(log_mass), atol=1e-12 * (1 + beta), rtol=1e-12
        )
    for table in policy.log_probs:
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, rtol=1e-14)


@check
@given(token_mdps(), betas, st.data())
def test_objective_falls_short_by_beta_times_the_divergence_from_the_optimum(mdp, beta, data):
    anchor, other = data.draw(policies(mdp.dynamics)), data.draw(policies(mdp.dynamics))
    policy, values = kl_optimal(mdp, anchor, beta)
    best = mdp.dynamics.average(values[0])
    atol = 1e-12 * (1 + beta) * (1 + float(kl(other, policy)))
    assert_allclose(regularised_objective(mdp, policy, anchor, beta), best, atol=atol)
    assert_allclose(
        regularised_objective(mdp, other, anchor, beta), best - beta * kl(other, policy), atol=atol
    )
    by_definition = plain_value(mdp, other) - beta * kl(other, anchor)
    assert_allclose(regularised_objective(mdp, other, anchor, beta), by_definition, atol=atol)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_a_solver_on_the_simplex_finds_the_same_optimum(beta):
    rng = np.random.default_rng(4)
    mdp = TokenMDP.tree([rng.random((1, 2)), rng.random((2, 2))])
    anchor = random_policy(mdp.dynamics, rng)
    log_anchor, total = laws(anchor, 0, mdp.rewards)

    def loss(p):
        return -(p @ total - beta * (p @ (np.log(p) - log_anchor)))

    found = minimize(
        loss,
        np.full(4, 0.25),
        bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    policy, values = kl_optimal(mdp, anchor, beta)
    assert_allclose(-found.fun, values[0][0], atol=1e-9)
    assert_allclose(found.x, np.exp(laws(policy, 0)[0]), atol=1e-5)


@check
@given(token_mdps(), st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), st.data())
def test_extreme_coefficients(mdp, beta, data):
    """In extended precision, from the differences to the greatest return, so that nothing is lost
    at either end.
    """
    anchor = data.draw(policies(mdp.dynamics))
    policy, values = kl_optimal(mdp, anchor, beta)
    for prompt in range(mdp.dynamics.n_prompts):
        log_anchor, total = laws(anchor, prompt, mdp.rewards).astype(np.longdouble)
        p = np.exp(log_anchor) / np.exp(log_anchor).sum()
        top = total.max()
        gain = top + beta * np.log1p((p * np.expm1((total - top) / beta)).sum())
        if beta < 1:
            log_mass = log_anchor + (total - top) / np.longdouble(beta)
            gain = top + beta * (log_mass.max() + np.log(np.exp(log_mass - log_mass.max()).sum()))
        assert_allclose(values[0][prompt], float(gain), rtol=1e-13, atol=3e-14)
    assert np.isfinite(regularised_objective(mdp, policy, anchor, beta))


@check
@given(token_mdps(masked=False), alphas, betas, st.data())
def test_power_policy_two_ways_and_in_either_gauge(mdp, alpha, beta, data):
    policy = data.draw(policies(mdp.dynamics))
    power = power_policy(policy, 1 + alpha / beta)
    for gauge in ("logits", "logprob"):
        improved = kl_optimal(endogenous_reward(policy, alpha, gauge=gauge), policy, beta).policy
        assert_same_law(improved, power, atol=1e-10)
    for prompt in range(mdp.dynamics.n_prompts):
        expected = normalised((1 + alpha / beta) * log_law(policy, prompt))
        assert_allclose(np.exp(log_law(power, prompt)), expected, atol=1e-10)


def test_the_solution_carries_the_gauge_of_its_own_problem():
    mdp = build("window", np.random.default_rng(2), 2, 3, 4, window=2)
    anchor = random_policy(mdp.dynamics, np.random.default_rng(3))
    again = endogenous_reward(kl_optimal(mdp, anchor, 0.7).policy, 0.7)
    for h in range(4):
        assert_allclose(again.rewards[h], mdp.rewards[h] + 0.7 * anchor.log_probs[h], atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-6, 0.5, 1e6])
def test_a_strong_anchor_stays_and_a_weak_one_plays_the_map_response(alpha):
    policy = random_policy(
        build("tree", np.random.default_rng(0), 2, 3, 3).dynamics, np.random.default_rng(1)
    )
    reward = endogenous_reward(policy, alpha)
    assert kl(kl_optimal(reward, policy, 1e6 * alpha).policy, policy) < 1e-10
    greedy = kl_optimal(reward, policy, 1e-6 * alpha).policy
    assert_allclose(np.exp(log_prob(greedy, map_response(policy))), 1.0, rtol=1e-12)
    assert_allclose(
        plain_value(reward, greedy), plain_value(reward, plain_optimal(reward).policy), rtol=1e-12
    )


def test_a_weak_anchor_shares_ties_as_the_anchor_does():
    policy = indifferent_learner(3, 0.3).policy  # every response ties
    assert_allclose(
        np.exp(
            kl_optimal(
                endogenous_reward(policy, 0.3, gauge="logprob"), policy, 1e-9
            ).policy.log_probs[0]
        ),
        1 / 3,
    )
    reward = TokenMDP.tree([[[1.0, 1.0, 0.0]]])
    anchor = Policy.from_probs(reward.dynamics, [[[0.1, 0.3, 0.6]]])
    assert_allclose(
        np.exp(kl_optimal(reward, anchor, 1e-6).policy.log_probs[0]),
        [[0.25, 0.75, 0.0]],
        rtol=1e-12,
    )


@check
@given(same_mdp_three_ways(), betas, seeds)
def test_tree_window_and_table_give_the_same_answers(three, beta, seed):
    tree, window, table = three
    policy = random_policy(window.dynamics, np.random.default_rng(seed))
    numbers = []
    for mdp in (window, table):
        one = Policy(mdp.dynamics, policy.log_probs)
        numbers.append(everything(mdp, one, beta))
    whole = policy.as_tree()
    numbers.append(everything(tree, Policy(tree.dynamics, whole.log_probs), beta))
    for other in numbers[1:]:
        assert_allclose(other, numbers[0], rtol=1e-9, atol=1e-10)


def everything(mdp, policy, beta):
    solution = kl_optimal(mdp, policy, beta)
    curve = sharpening_curve(mdp, policy, 0.5, np.array([0.5, 1.0, 4.0]))
    return np.concatenate(
        [
            solution.values[0],
            [plain_value(mdp, solution.policy), kl(solution.policy, policy)],
            *(
                getattr(curve, name)
                for name in (
                    "value",
                    "endogenous_value",
                    "kl",
                    "entropy",
                    "map_probability",
                    "slope",
                )
            ),
            covariance(policy, mdp.rewards, mdp.rewards),
            renyi(solution.policy, policy, 2.5),
        ]
    )


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_batches_of_rewards_anchors_and_coefficients(rule):
    rng = np.random.default_rng(5)
    mdp = build(rule, rng, 2, 3, 3, masked=True, window=1)
    d = mdp.dynamics
    rewards = TokenMDP(d, tuple(rng.random((2, 1, *r.shape)) for r in mdp.rewards))
    anchors = [random_policy(d, rng) for _ in range(3)]
    anchor = Policy(
        d, tuple(np.stack(tables) for tables in zip(*(a.log_probs for a in anchors), strict=True))
    )
    beta = rng.uniform(0.1, 2, (2, 3))
    policy, values = kl_optimal(rewards, anchor, beta)
    objective = regularised_objective(rewards, policy, anchor, beta)
    assert policy.batch_shape == objective.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        one = TokenMDP(d, tuple(r[i, 0] for r in rewards.rewards))
        single = kl_optimal(one, anchors[j], float(beta[i, j]))
        for h in range(3):
            assert_allclose(policy.log_probs[h][i, j], single.policy.log_probs[h], rtol=1e-12)
            assert_allclose(values[h][i, j], single.values[h], rtol=1e-12)
        assert_allclose(objective[i, j], single.values[0] @ d.prompt_weights, rtol=1e-11)
    many = kl_optimal(mdp, anchors[0], beta[0])  # only the coefficient is a batch
    assert_allclose(
        many.values[0][1], kl_optimal(mdp, anchors[0], float(beta[0, 1])).values[0], rtol=1e-13
    )


# --- Supports -------------------------------------------------------------------------------------


def test_support_of_the_anchor_is_kept_and_dead_ends_are_left_out():
    """The anchor never writes token 2 first; after (1,) the reward allows only what the anchor
    never writes.
    """
    reward = TokenMDP.tree(
        [[[0.1, 0.9, 1.0]], [[0.5, 0.2, 0.0], [0.0, 0.0, 1.0], [0.3, 0.3, 0.3]]],
        allowed=[None, np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=bool)],
    )
    anchor = Policy.from_probs(
        TokenMDP.tree([np.zeros((1, 3)), np.zeros((3, 3))]).dynamics,
        [[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]],
    )
    policy, values = kl_optimal(reward, anchor, 0.5)
    assert policy.log_probs[0].tolist() == [[0.0, -math.inf, -math.inf]]
    mass = np.array([0.1, 0.15]) * np.exp(np.array([0.6, 0.3]) / 0.5)
    assert_allclose(np.exp(policy.log_probs[1][0]), [*(mass / mass.sum()), 0.0])
    assert_allclose(values[0], 0.5 * np.log(mass.sum()))
    assert values[1][1] == -math.inf
    assert_allclose(regularised_objective(reward, policy, anchor, 0.5), values[0][0], rtol=1e-13)
    assert np.isfinite(
        np.concatenate([r.ravel() for r in endogenous_reward(policy, 0.5).rewards])
    ).all()
    # Whoever writes what the reward forbids, or the anchor never writes, is out of the question.
    assert regularised_objective(reward, anchor, anchor, 0.5) == -math.inf
    assert (
        regularised_objective(
            reward, random_policy(reward.dynamics, np.random.default_rng(0)), anchor, 1
        )
        == -math.inf
    )


def test_a_prompt_without_a_response_is_named():
    dynamics = TokenMDP.tree([np.zeros((3, 2))], prompt_weights=[0.5, 0.5, 0.0]).dynamics
    student = Policy.from_probs(dynamics, [[[1.0, 0.0]] * 3])
    with pytest.raises(ValueError, match=r"anchor: .* prompt 1 is forbidden"):
        distil(
            student, Policy.from_probs(dynamics, [[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]), 1.0, 1.0
        )
    unused = distil(
        student, Policy.from_probs(dynamics, [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]), 1.0, 1.0
    )
    assert unused.values[0].tolist() == [0.0, 0.0, -math.inf]  # a prompt that is never asked


# --- Distillation and checked rewards -------------------------------------------------------------


@check
@given(token_mdps(), alphas, betas, st.data())
def test_distilled_student_is_the_product_of_the_two(mdp, alpha, beta, data):
    student, teacher = data.draw(policies(mdp.dynamics)), data.draw(policies(mdp.dynamics))
    policy = distil(student, teacher, alpha, beta).policy
    for prompt in range(mdp.dynamics.n_prompts):
        expected = normalised(log_law(student, prompt) + alpha / beta * log_law(teacher, prompt))
        assert_allclose(np.exp(log_law(policy, prompt)), expected, rtol=1e-8, atol=1e-11)


@check
@given(token_mdps(), betas, st.floats(-3, 3), st.data())
def test_hybrid_optimum_is_the_power_tilted_by_the_check(mdp, beta, weight, data):
    policy, alpha = data.draw(policies(mdp.dynamics)), 0.7
    rng = np.random.default_rng(data.draw(seeds))
    last = (rng.random(mdp.rewards[-1].shape) < 0.3) * 1.0
    check_reward = TokenMDP(mdp.dynamics, (*(np.zeros_like(r) for r in mdp.rewards[:-1]), last))
    for gauge in ("logits", "logprob"):
        reward = hybrid_reward(endogenous_reward(policy, alpha, gauge=gauge), check_reward, weight)
        improved = kl_optimal(reward, policy, beta).policy
        for prompt in range(mdp.dynamics.n_prompts):
            log_p, checked = laws(policy, prompt, check_reward.rewards)
            expected = normalised((1 + alpha / beta) * log_p + weight / beta * checked)
            assert_allclose(np.exp(laws(improved, prompt)[0]), expected, rtol=1e-7, atol=1e-11)


def test_hybrid_forbids_what_either_forbids():
    one = TokenMDP.tree(
        [[[1.0, 2.0, 3.0]]], allowed=[np.array([[True, True, False]])], reward_range=(0, 3)
    )
    two = TokenMDP.tree([[[0.5, 0.5, 0.5]]], allowed=[np.array([[False, True, True]])])
    both = hybrid_reward(one, two, 2.0)
    assert both.dynamics.allowed[0].tolist() == [[False, True, False]]
    assert both.rewards[0].tolist() == [[0.0, 3.0, 0.0]]
    free = TokenMDP.tree([[[0.5, 0.5, 0.5]]])
    assert hybrid_reward(one, free, 2.0).dynamics.allowed[0].tolist() == [[True, True, False]]
    assert hybrid_reward(free, two, 2.0).dynamics.allowed[0].tolist() == [[False, True, True]]
    assert hybrid_reward(free, free, 2.0).dynamics.allowed == (None,)
    many = hybrid_reward(free, free, np.array([0.0, 1.0]))
    assert_allclose(many.rewards[0][:, 0, 0], [0.5, 1.0])


def test_a_check_cures_a_wrong_map_from_an_exact_weight_on():
    instance = map_is_wrong(0.9)
    alpha, policy = 0.5, instance.policy
    threshold = alpha * math.log(0.1 / (0.9 / 15))  # α log(π̂(τ_MAP)/π̂(τ)), τ a right response
    reward = endogenous_reward(policy, alpha, gauge="logprob")
    for weight, accuracy in ((0.0, 0.0), (0.99 * threshold, 0.0), (1.01 * threshold, 1.0)):
        improved = kl_optimal(hybrid_reward(reward, instance.mdp, weight), policy, 1e-5).policy
        assert_allclose(plain_value(instance.mdp, improved), accuracy, atol=1e-12)


# --- Iteration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["compound", "reread", "anchor"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 1.0), (1.0, 1.0), (2.0, 0.8)])
def test_rounds_have_the_exponent_of_their_scheme(scheme, alpha, beta):
    policy = random_policy(
        build("window", np.random.default_rng(0), 2, 3, 4, window=2).dynamics,
        np.random.default_rng(1),
        0.7,
    )
    ratio = alpha / beta
    exact = {
        "compound": lambda k: (1 + ratio) ** k,
        "reread": lambda k: sum(ratio**j for j in range(k + 1)),
        "anchor": lambda k: 1 + k * ratio,
    }[scheme]
    for k, improved in enumerate(islice(iterate(policy, alpha, beta, scheme), 6), start=1):
        assert_allclose(scheme_exponent(scheme, alpha, beta, k), exact(k), rtol=1e-12)
        assert_same_law(improved, power_policy(policy, exact(k)), atol=1e-11)
    assert scheme_exponent(scheme, alpha, beta, 0) == 1.0


def test_rereading_converges_exactly_where_alpha_is_below_beta():
    policy = random_policy(
        build("tree", np.random.default_rng(0), 1, 3, 3).dynamics, np.random.default_rng(1), 0.5
    )
    limit = scheme_exponent("reread", 0.6, 1.0, math.inf)
    assert_allclose(limit, 2.5)
    after = next(islice(iterate(policy, 0.6, 1.0, "reread"), 70, None))
    assert_same_law(after, power_policy(policy, 2.5), atol=1e-12)

    # The limit maximises −α H(π) − β KL(π‖π̂), and a further round leaves it as it is.
    def objective(p):
        return -0.6 * trajectory_entropy(p) - kl(p, policy)

    assert all(
        objective(after) > objective(power_policy(policy, 2.5 + step))
        for step in (-0.1, -1e-2, 1e-2, 0.1)
    )
    assert all(
        objective(after) > objective(random_policy(policy.dynamics, np.random.default_rng(s)))
        for s in range(20)
    )
    assert_same_law(next(iterate(policy, 0.6, 1.0, "reread")), power_policy(policy, 1.6))
    for alpha in (1.0, 1.5):
        assert scheme_exponent("reread", alpha, 1.0, math.inf) == math.inf
        after = next(islice(iterate(policy, alpha, 1.0, "reread"), 150, None))
        assert_allclose(np.exp(log_prob(after, map_response(policy))), 1.0, atol=1e-6)
    # Continuous in α at β, where the geometric sum is 0/0.
    assert_allclose(
        scheme_exponent("reread", np.array([1 - 1e-9, 1.0, 1 + 1e-9]), 1.0, 9), 10.0, rtol=1e-7
    )
    assert scheme_exponent("compound", 1.0, 1.0, 5000) == math.inf


def test_iteration_reaches_nothing_that_a_smaller_coefficient_does_not():
    policy = random_policy(
        build("tree", np.random.default_rng(6), 2, 3, 3).dynamics, np.random.default_rng(7)
    )
    reward = endogenous_reward(policy, 0.5)
    for scheme in ("compound", "reread", "anchor"):
        kappa = float(scheme_exponent(scheme, 0.5, 2.0, 4))
        after = next(islice(iterate(policy, 0.5, 2.0, scheme), 3, None))
        assert_same_law(after, kl_optimal(reward, policy, 0.5 / (kappa - 1)).policy)


def test_plain_rl_is_done_after_one_round():
    policy = random_policy(
        build("table", np.random.default_rng(8), 2, 3, 4).dynamics, np.random.default_rng(9)
    )
    first, second, third = islice(iterate(policy, 0.5, scheme="plain"), 3)
    assert_allclose(log_prob(first, map_response(policy)), 0.0)
    for h in range(4):
        assert (first.log_probs[h] == second.log_probs[h]).all()
        assert (third.log_probs[h] == second.log_probs[h]).all()
    assert (
        scheme_exponent("plain", 0.5, None, 1)
        == scheme_exponent("plain", 0.5, None, math.inf)
        == math.inf
    )
    assert scheme_exponent("plain", 0.5, None, 0) == 1.0


def test_a_tie_is_a_fixed_point_only_as_a_set():
    """Uniform on the tied MAP responses maximises its own reward, and so does each of them: RL may
    pick one.
    """
    policy = Policy.from_probs(TokenMDP.tree([np.zeros((1, 3))]).dynamics, [[[0.4, 0.4, 0.2]]])
    shared = power_policy(policy, 1e6)
    assert_allclose(np.exp(shared.log_probs[0]), [[0.5, 0.5, 0.0]])
    reward = endogenous_reward(shared, 1.0, gauge="logprob")
    one = next(iterate(shared, 1.0, scheme="plain"))
    assert np.exp(one.log_probs[0]).tolist() == [[1.0, 0.0, 0.0]]
    assert_allclose(plain_value(reward, one), plain_value(reward, shared))
    for scheme in ("compound", "reread", "anchor"):  # an anchor keeps the tie shared
        assert_allclose(
            np.exp(next(iterate(shared, 1.0, 0.5, scheme)).log_probs[0]), [[0.5, 0.5, 0.0]]
        )


# --- What the true reward loses -------------------------------------------------------------------


def sharp_bound(horizon, epsilon, alpha, beta):
    """``H{(α+β) ε tanh(ε/2) + β log(cosh((α/β + ½)ε)/cosh(ε/2))}``."""
    log_cosh = [
        np.logaddexp(x, -x) - math.log(2) for x in ((alpha / beta + 0.5) * epsilon, epsilon / 2)
    ]
    return horizon * (
        (alpha + beta) * epsilon * np.tanh(epsilon / 2) + beta * (log_cosh[0] - log_cosh[1])
    )


def assert_anchored_bounds(instance, beta):
    alpha, expert, policy = float(instance.alpha), instance.expert, instance.policy
    average, epsilon = instance.mdp.dynamics.average, float(instance.epsilon)
    anchored = kl_optimal(instance.endogenous, policy, beta).policy
    gap = float(instance.expert_value - plain_value(instance.mdp, anchored))
    there, here = float(kl(expert, policy)), float(kl(anchored, policy))
    # Exactly, with D = log π_E − log π̂ and so E_{π_E} D = KL(π_E‖π̂):
    log_ratio = here - float(kl(anchored, expert))
    exact = (alpha + beta) * there - alpha * log_ratio - beta * (here + float(kl(expert, anchored)))
    slack = 1e-10 * (1 + alpha + beta) * (1 + there + here + float(kl(expert, anchored)))
    assert_allclose(gap, exact, atol=slack)
    # A chain of bounds, each below the next; the last is the one with constants 2α and β.
    chain = [
        gap,
        (alpha + beta) * there + alpha * float(average(renyi(policy, expert, 1 + alpha / beta))),
        sharp_bound(instance.horizon, epsilon, alpha, beta),
        alpha * instance.horizon * epsilon
        + (alpha + beta) * instance.horizon * epsilon * math.tanh(epsilon / 2),
        2 * alpha * instance.horizon * epsilon
        + beta * instance.horizon * epsilon * math.tanh(epsilon / 2),
    ]
    assert all(one <= two + slack for one, two in pairwise(chain)), chain
    assert gap <= 2 * alpha * instance.horizon * epsilon + beta * there + slack


@check
@given(token_mdps(), alphas, epsilons, betas, st.data())
def test_bounds_on_random_policies_of_the_ball(mdp, alpha, epsilon, beta, data):
    expert = soft_optimal(mdp, alpha).policy
    assert_anchored_bounds(
        Instance(mdp, expert, data.draw(policies_in_ball(expert, epsilon)), alpha), beta
    )


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.5, 3.0, 100.0])
def test_bounds_on_adversaries(beta):
    instances = [
        swapped_pair(5, 0.5, 0.2),
        indifferent_learner(5, 0.3),
        randomised_response(5, 0.5, 1.0),
    ]
    instances += [map_is_wrong(), rise_then_fall(0.5), two_rooms(40, 3)]
    for seed in range(4):
        mdp = build("tree", np.random.default_rng(seed), 1, 3, 4)
        expert = soft_optimal(mdp, 0.4).policy
        instances += [
            Instance(mdp, expert, find(mdp, expert, 0.3).policy, 0.4)
            for find in (worst_clone, worst_map)
        ]
    for instance in instances:
        assert_anchored_bounds(instance, beta)


def two_rooms(horizon, entry, share=1e-3):
    """The sharp bound is attained as `H` grows: ``ε = log 2``, ``α = β = 1``, so ``π_β ∝ π̂²``.

    Room B, entered with probability `share`, is where ``π̂²`` ends up: there `π_E` is uniform and
    `π̂` lowers two thirds of the tokens by ε, which is all that a Rényi divergence can be. Room A
    is where `π_E` is: there ``π̂²`` is `π_E`, at the greatest divergence from `π̂`. Both have ``Σ_a
    π̂² = 1/6`` a step; `entry` uniform steps in A, of certain ones in B, decide between them.
    """
    uniform, first = np.full(9, 1 / 9), np.eye(9)[0]
    expert, policy = [np.array([[share, 1 - share, *[0] * 7]])], []
    policy.append(expert[0])
    for h in range(1, horizon):
        rooms = [first, uniform] if h <= entry else [uniform, np.array([2 / 3] + [1 / 24] * 8)]
        expert.append(np.stack(rooms))
        tilted = [np.array([2 / 9] * 3 + [1 / 18] * 6), np.array([1 / 3] + [1 / 12] * 8)]
        policy.append(np.stack(rooms if h <= entry else tilted))
    links = [np.array([[0] + [1] * 8]), *[np.repeat([[0], [1]], 9, axis=1)] * (horizon - 2)]
    rewards = [np.log(np.where(p > 0, p, 1.0)) for p in expert]
    mdp = TokenMDP.table(rewards, links, allowed=[p > 0 for p in expert], reward_range=(-7.0, 0.0))
    return Instance(
        mdp, soft_optimal(mdp, 1.0).policy, Policy.from_probs(mdp.dynamics, policy), 1.0
    )


def test_the_sharp_bound_is_attained_as_the_horizon_grows():
    fractions = []
    for horizon in (100, 400, 3000):
        instance = two_rooms(horizon, 10)
        assert_allclose(instance.epsilon, math.log(2), rtol=1e-12)
        gap = instance.expert_value - instance.anchored_value
        fractions.append(float(gap) / sharp_bound(horizon, math.log(2), 1.0, 1.0))
    assert fractions == sorted(fractions)
    assert 0.985 < fractions[-1] < 1
    at_alpha = 2 * math.log(2) * math.tanh(math.log(2) / 2) + math.log(
        2 * math.cosh(math.log(2)) - 1
    )
    assert_allclose(sharp_bound(1, math.log(2), 1.0, 1.0), at_alpha)


def test_at_a_fixed_coefficient_the_bound_is_quadratic_in_epsilon_and_least_at_alpha():
    for alpha, beta in ((1.0, 1.0), (0.3, 1.0), (2.0, 0.5)):
        assert_allclose(
            sharp_bound(1, 1e-4, alpha, beta) / 1e-8, (alpha + beta) ** 2 / (2 * beta), rtol=1e-3
        )
    found = minimize_scalar(
        lambda b: sharp_bound(1, 1e-3, 0.7, b), bounds=(0.01, 10), method="bounded"
    )
    assert_allclose(found.x, 0.7, rtol=1e-2)
    assert_allclose(
        sharp_bound(1, 0.3, 0.5, 1e-7), 0.5 * 0.3 * (1 + math.tanh(0.15)), rtol=1e-5
    )  # that of RL


# --- Rényi divergence -----------------------------------------------------------------------------


@check
@given(token_mdps(), epsilons, st.floats(1.01, 50), st.data())
def test_renyi_divergence(mdp, epsilon, order, data):
    expert = soft_optimal(mdp, 0.5).policy
    policy = data.draw(policies_in_ball(expert, epsilon))
    found = renyi(policy, expert, order)
    ball = np.logaddexp((order - 0.5) * epsilon, (0.5 - order) * epsilon) - np.logaddexp(
        epsilon / 2, -epsilon / 2
    )
    for prompt in range(mdp.dynamics.n_prompts):
        one, two = laws(policy, prompt)[0], laws(expert, prompt)[0]
        assert_allclose(
            found[prompt],
            logsumexp(order * one + (1 - order) * two) / (order - 1),
            rtol=1e-9,
            atol=1e-11,
        )
        assert found[prompt] <= mdp.horizon * ball / (order - 1) + 1e-11
        assert found[prompt] <= renyi(policy, expert, 2 * order)[prompt] + 1e-11
        assert found[prompt] <= (one - two).max() + 1e-11
        assert found[prompt] >= kl(policy, expert, per_prompt=True)[prompt] - 1e-11


def test_renyi_limits_infinity_and_the_attaining_pair():
    instance = randomised_response(4, 0.5, 0.8)
    ball = 4 / 1.5 * math.log(math.cosh(2.0 * 0.8) / math.cosh(0.4))
    assert_allclose(renyi(instance.policy, instance.expert, 2.5), ball, rtol=1e-12)
    assert_allclose(
        renyi(instance.policy, instance.expert, 1 + 1e-7),
        kl(instance.policy, instance.expert),
        rtol=1e-5,
    )
    assert_allclose(renyi(instance.policy, instance.expert, 1e6), 4 * 0.8, rtol=1e-5)
    dynamics = TokenMDP.tree([np.zeros((1, 3))]).dynamics
    some = Policy.from_probs(dynamics, [[[0.5, 0.5, 0.0]]])
    fewer = Policy.from_probs(dynamics, [[[1.0, 0.0, 0.0]]])
    assert renyi(some, fewer, 2.0) == math.inf
    assert_allclose(renyi(fewer, some, 2.0), math.log(2))
    assert_allclose(renyi(fewer, some, np.array([2.0, 3.0]))[:, 0], math.log(2))
    # An infinite divergence below a token that is never written does not count.
    two = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    some = Policy.from_probs(two, [[[1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])
    fewer = Policy.from_probs(two, [[[0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]])
    assert_allclose(renyi(some, fewer, 2.0), math.log(2))


# --- Over-optimisation ----------------------------------------------------------------------------


@check
@given(token_mdps(), st.data())
def test_covariance_is_that_of_the_listed_responses(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    found = covariance(policy, mdp.rewards, policy.log_probs)
    for prompt in range(mdp.dynamics.n_prompts):
        log_p, total = laws(policy, prompt, mdp.rewards)
        p = np.exp(log_p)
        expected = (p * (total - p @ total) * (log_p - p @ log_p)).sum()
        assert_allclose(found[prompt], expected, rtol=1e-8, atol=1e-12)


@check
@given(token_mdps(), st.floats(0.3, 5), st.data())
def test_slope_against_finite_differences(mdp, exponent, data):
    policy = data.draw(policies(mdp.dynamics))
    step = 1e-4
    around = plain_value(mdp, power_policy(policy, exponent + step * np.array([-2, -1, 1, 2])))
    numeric = (around @ np.array([1, -8, 8, -1])) / (12 * step)
    assert_allclose(sharpening_slope(mdp, policy, exponent), numeric, rtol=1e-6, atol=1e-7)


@check
@given(token_mdps(), alphas, st.data())
def test_curve_against_the_listed_responses(mdp, alpha, data):
    policy = data.draw(policies(mdp.dynamics))
    exponents = np.array([0.5, 1.0, 2.0, 7.0])
    curve = sharpening_curve(mdp, policy, alpha, exponents)
    weights = mdp.dynamics.prompt_weights
    for i, exponent in enumerate(exponents):
        rows = []
        for prompt in range(mdp.dynamics.n_prompts):
            log_p, total = laws(policy, prompt, mdp.rewards)
            log_q = exponent * log_p - logsumexp(exponent * log_p)
            q = np.exp(log_q)
            slope = q @ (total * log_p) - (q @ total) * (q @ log_p)
            rows.append(
                [
                    q @ total,
                    alpha * (q @ log_p),
                    q @ (log_q - log_p),
                    -q @ log_q,
                    q[np.argmax(log_p)],
                    slope,
                ]
            )
        names = ("value", "endogenous_value", "kl", "entropy", "map_probability", "slope")
        expected = weights @ np.array(rows)
        atol = 1e-9 * (1 + alpha)
        assert_allclose([getattr(curve, name)[i] for name in names], expected, rtol=1e-9, atol=atol)
    # The endogenous value never falls, and more than π̂ gives by sharpening it only at a price in
    # KL.
    assert (
        np.diff(curve.endogenous_value)
        >= -1e-12 * alpha * (1 + np.abs(curve.endogenous_value[:-1]))
    ).all()
    assert (curve.exponents == exponents).all()
    assert abs(curve.kl[1]) < 1e-12


@check
@given(token_mdps(), alphas)
def test_sharpening_the_expert_itself_never_hurts(mdp, alpha):
    expert = soft_optimal(mdp, alpha).policy
    exponents = np.geomspace(0.5, 8, 9)
    assert (sharpening_slope(mdp, expert, exponents) >= -1e-12).all()
    variance = covariance(expert, expert.log_probs, expert.log_probs)
    assert_allclose(
        sharpening_slope(mdp, expert), alpha * mdp.dynamics.average(variance), rtol=1e-7, atol=1e-11
    )


@check
@given(token_mdps(masked=False), alphas, epsilons, st.data())
def test_sharpening_helps_at_first_where_the_error_varies_less_than_the_policy(
    mdp, alpha, epsilon, data
):
    expert = soft_optimal(mdp, alpha).policy
    policy = data.draw(policies_in_ball(expert, epsilon))
    error = [one - two for one, two in zip(expert.log_probs, policy.log_probs, strict=True)]
    of_error, of_policy = (
        covariance(policy, error, error),
        covariance(policy, policy.log_probs, policy.log_probs),
    )
    slope = covariance(policy, mdp.rewards, policy.log_probs)
    least = alpha * (of_policy - np.sqrt(np.maximum(of_error * of_policy, 0.0)))
    assert (slope >= least - 1e-10 * (1 + alpha * of_policy)).all()
    assert (of_error <= (mdp.horizon * epsilon) ** 2 + 1e-9).all()


def test_gallery_rises_and_falls_or_only_falls():
    exponents = np.geomspace(1, 300, 60)
    up_down, wrong = rise_then_fall(), map_is_wrong()
    curve = sharpening_curve(up_down.mdp, up_down.policy, 1.0, exponents)
    top = int(np.argmax(curve.value))
    assert (curve.slope[:top] > 0).all()
    assert (curve.slope[top + 1 : -15] < 0).all()
    assert sharpening_slope(up_down.mdp, up_down.policy) > 0
    falling = sharpening_curve(wrong.mdp, wrong.policy, 1.0, exponents)
    assert (np.diff(falling.value) <= 0).all()
    assert sharpening_slope(wrong.mdp, wrong.policy) < 0
    assert_allclose(
        [falling.value[0], falling.map_probability[0], falling.map_probability[-1]], [0.9, 0.1, 1.0]
    )


def test_best_exponent_of_rise_then_fall_in_closed_form():
    """Accuracy is ½σ(κ log 10 − log 15) + ½σ(log 15 − κ log(0.07/0.062)): its slope has one
    zero.
    """

    def slope(k):
        def bump(x):
            return 1 / (4 * math.cosh(x / 2) ** 2)

        one, two = math.log(10), math.log(0.07 / 0.062)
        return one * bump(k * one - math.log(15)) - two * bump(k * two - math.log(15))

    instance = rise_then_fall()
    best = best_exponent(instance.mdp, instance.policy)
    assert_allclose(best.exponent, brentq(slope, 2, 10, xtol=1e-14), atol=1e-10)
    assert_allclose(
        best.value, plain_value(instance.mdp, power_policy(instance.policy, best.exponent))
    )
    assert best.value > 0.95


def test_best_exponent_at_the_ends():
    wrong = map_is_wrong()
    assert best_exponent(wrong.mdp, wrong.policy) == (1.0, pytest.approx(0.9))
    mdp = build("tree", np.random.default_rng(1), 2, 3, 3)
    expert = soft_optimal(mdp, 0.5).policy
    assert best_exponent(mdp, expert).exponent == 1e3
    assert best_exponent(mdp, expert, 0.1, 2.0).exponent == 2.0
    flat = TokenMDP(mdp.dynamics, tuple(np.full(r.shape, 0.5) for r in mdp.rewards))
    assert best_exponent(flat, expert) == (1.0, pytest.approx(1.5))


@pytest.mark.parametrize("seed", range(6))
def test_best_exponent_is_the_best_of_a_fine_grid(seed):
    rng = np.random.default_rng(seed)
    mdp = build("window", rng, 3, 3, 4, "sparse", window=2)
    policy = random_policy(mdp.dynamics, rng)
    best = best_exponent(mdp, policy, 0.2, 50.0)
    grid = plain_value(mdp, power_policy(policy, np.geomspace(0.2, 50, 3000)))
    assert grid.max() - 1e-13 <= best.value <= grid.max() + 1e-4
    if 0.2 < best.exponent < 50.0:
        assert abs(sharpening_slope(mdp, policy, best.exponent)) < 1e-13


# --- Other kinds of arrays ------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0.3, 300.0])
def test_torch_gradients_are_those_of_the_envelope(masked, size):
    torch = pytest.importorskip("torch")
    mdp = build("window", np.random.default_rng(11), 2, 3, 4, masked=masked, window=2)
    policy = random_policy(mdp.dynamics, np.random.default_rng(12))
    rewards = tuple(torch.tensor(np.ascontiguousarray(r), requires_grad=True) for r in mdp.rewards)
    logs = tuple(
        torch.tensor(np.ascontiguousarray(t), requires_grad=True) for t in policy.log_probs
    )
    beta = torch.tensor(size, dtype=torch.float64, requires_grad=True)
    solution = kl_optimal(TokenMDP(mdp.dynamics, rewards), Policy(mdp.dynamics, logs), beta[None])
    reference = kl_optimal(mdp, policy, size)
    for h in range(4):
        assert_allclose(solution.values[h].detach().numpy()[0], reference.values[h], rtol=1e-13)
        assert_allclose(
            solution.policy.log_probs[h].detach().numpy()[0],
            reference.policy.log_probs[h],
            rtol=1e-11,
        )
    mdp.dynamics.average(solution.values[0]).sum().backward()
    # dV/dr is the visitation of the optimum, dV/dβ = −KL, and a masked token breaks no gradient.
    for h, visits in enumerate(occupancy(reference.policy)):
        assert_allclose(
            rewards[h].grad.numpy(),
            visits[:, None] * np.exp(reference.policy.log_probs[h]),
            atol=1e-12,
        )
        assert torch.isfinite(logs[h].grad).all()
    assert_allclose(beta.grad, -kl(reference.policy, policy), rtol=1e-6, atol=1e-12)


# `with_rewards` reads the range of rewards that carry gradients.
def test_torch_gradient_in_the_exponent_is_the_covariance():
    torch = pytest.importorskip("torch")
    mdp = build("tree", np.random.default_rng(3), 2, 3, 3, masked=True)
    policy = random_policy(mdp.dynamics, np.random.default_rng(4))
    tensor = TokenMDP(
        mdp.dynamics, tuple(torch.tensor(np.ascontiguousarray(r)) for r in mdp.rewards)
    )
    same = Policy(
        mdp.dynamics, tuple(torch.tensor(np.ascontiguousarray(t)) for t in policy.log_probs)
    )
    exponent = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    alpha, reference = 0.5, endogenous_reward(same, 0.5, gauge="logprob")
    by_power = plain_value(tensor, power_policy(same, exponent[None]))
    by_power.sum().backward()
    assert_allclose(exponent.grad, sharpening_slope(mdp, policy, 1.7), rtol=1e-10)
    beta = torch.tensor(alpha / 0.7, dtype=torch.float64, requires_grad=True)  # dκ/dβ = −α/β²
    plain_value(tensor, kl_optimal(reference, same, beta[None]).policy).sum().backward()
    assert_allclose(
        beta.grad, -(0.7**2) / alpha * float(sharpening_slope(mdp, policy, 1.7)), rtol=1e-9
    )
    curve = sharpening_curve(tensor, same, alpha, torch.tensor([1.0, 1.7]))
    assert_allclose(curve.slope.numpy()[1], sharpening_slope(mdp, policy, 1.7), rtol=1e-6)
    assert_allclose(
        renyi(same, power_policy(same, 2.0), 3.0).numpy(),
        renyi(policy, power_policy(policy, 2.0), 3.0),
    )


@pytest.mark.parametrize(("bits", "width", "rel"), [(53, 1e-12, 1e-11), (128, 1e-25, 1e-13)])
def test_enclosures_hold_the_same_numbers(bits, width, rel):
    mdp = build("tree", np.random.default_rng(0), 1, 2, 3, masked=True)
    policy = random_policy(mdp.dynamics, np.random.default_rng(1))
    with precision(bits):
        exact = TokenMDP(mdp.dynamics, tuple(enclose(r, bits) for r in mdp.rewards))
        same = Policy.from_logits(mdp.dynamics, [enclose(t, bits) for t in policy.log_probs])
        for beta in (1e-3, 0.5, 1e6):
            value = kl_optimal(exact, same, enclose(beta, bits)).values[0][0]
            assert value.radius().upper() < width
            assert value.nearest() == pytest.approx(
                kl_optimal(mdp, policy, beta).values[0][0], rel=rel
            )
        sharpened, three = power_policy(same, enclose(2.0, bits)), enclose(3.0, bits)
        found = [
            covariance(sharpened, exact.rewards, same.log_probs)[0],
            renyi(sharpened, same, three)[0],
        ]
        floats = power_policy(policy, 2.0)
        expected = [
            covariance(floats, mdp.rewards, policy.log_probs)[0],
            renyi(floats, policy, 3.0)[0],
        ]
        assert_allclose([x.nearest() for x in found], expected, rtol=1e-12)
        assert all(x.radius().upper() < width for x in found)


@check
@given(token_mdps(), seeds, st.floats(-6, 6).map(lambda x: 10.0**x))
def test_doubles_hold_what_balls_prove(mdp, seed, beta):
    """KL-optimal values, covariances and divergences: every ball of 256 bits is inside the
    enclosure in doubles.
    """
    policy = random_policy(mdp.dynamics, np.random.default_rng(seed))
    found = {}
    for bits in (53, 256):
        with precision(bits):
            exact = TokenMDP(mdp.dynamics, tuple(enclose(r, bits) for r in mdp.rewards))
            same = Policy.from_logits(mdp.dynamics, [enclose(t, bits) for t in policy.log_probs])
            value = kl_optimal(exact, same, enclose(beta, bits)).values[0]
            sharpened = power_policy(same, enclose(2.0, bits))
            found[bits] = [
                value,
                covariance(sharpened, exact.rewards, same.log_probs),
                renyi(sharpened, same, 3.0),
            ]
    for wide, narrow in zip(
        *found.values(), strict=True
    ):  # the ends of a ball are doubles next to it
        assert (narrow.lower() >= np.nextafter(wide.lower(), -np.inf)).all()
        assert (narrow.upper() <= np.nextafter(wide.upper(), np.inf)).all()


# --- Refusals -------------------------------------------------------------------------------------


def test_bad_input_is_named(monkeypatch):
    mdp = build("tree", np.random.default_rng(0), 1, 2, 2)
    policy = random_policy(mdp.dynamics, np.random.default_rng(0))
    other = random_policy(
        build("tree", np.random.default_rng(0), 1, 3, 2).dynamics, np.random.default_rng(0)
    )
    batch = power_policy(policy, np.array([1.0, 2.0]))
    for call, message in (
        (lambda: kl_optimal(mdp, policy, 0.0), r"beta=0\.0: must be positive"),
        (lambda: kl_optimal(mdp, policy, [1.0, math.nan]), "beta=nan: must be positive"),
        (lambda: kl_optimal(mdp, other, 1.0), "different dynamics"),
        (lambda: regularised_objective(mdp, policy, policy, -1), r"beta=-1\.0"),
        (lambda: regularised_objective(mdp, policy, other, 1.0), "different dynamics"),
        (lambda: regularised_objective(mdp, other, policy, 1.0), "different dynamics"),
        (lambda: distil(policy, policy, math.inf, 1.0), "alpha=inf"),
        (lambda: hybrid_reward(mdp, mdp, math.inf), "weight=inf: must be finite"),
        (lambda: hybrid_reward(mdp, endogenous_reward(other, 1.0), 1.0), "different dynamics"),
        (
            lambda: iterate(policy, 1.0, 1.0, "twice"),
            f"scheme='twice': must be one of {', '.join(SCHEMES)}",
        ),
        (lambda: iterate(policy, 1.0), "beta=None with scheme='compound': give"),
        (
            lambda: iterate(policy, 1.0, 0.5, "plain"),
            r"beta=0\.5 with scheme='plain': leave it out",
        ),
        (lambda: iterate(policy, -1.0, 0.5), r"alpha=-1\.0"),
        (lambda: next(iterate(policy, 1.0, -0.5)), r"beta=-0\.5"),
        (lambda: scheme_exponent("anchor", 1.0, 1.0, -1), "rounds=-1"),
        (lambda: scheme_exponent("anchor", 1.0, 1.0, math.nan), "rounds=nan"),
        (lambda: scheme_exponent("other", 1.0, 1.0, 1), "scheme='other'"),
        (lambda: renyi(policy, policy, 1.0), "order"),
        (lambda: renyi(policy, other, 2.0), "different dynamics"),
        (lambda: sharpening_curve(mdp, policy, 0.0, [1.0]), r"alpha=0\.0"),
        (lambda: sharpening_curve(mdp, policy, 1.0, [1.0, -1.0]), r"exponent=-1\.0"),
        (lambda: sharpening_slope(mdp, other), "different dynamics"),
        (
            lambda: best_exponent(mdp, policy, 2.0, 1.0),
            r"low=2\.0, high=1\.0: low must be below high",
        ),
        (lambda: best_exponent(mdp, policy, 0.0), r"low=0\.0: must be positive"),
        (lambda: best_exponent(mdp, batch), r"batch axes .*one at a time"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    monkeypatch.setattr(
        theory.arrays.memory, "available_memory", lambda: 100
    )  # one policy has 6 numbers
    assert kl_optimal(mdp, policy, 1.0).policy.batch_shape == ()
    for batch_of in (
        lambda: kl_optimal(mdp, policy, [1.0, 2.0]),
        lambda: kl_optimal(mdp, batch, 1.0),
    ):
        with pytest.raises(ValueError, match="KL-optimal policy needs"):
            batch_of()


def test_a_sharpening_curve_is_of_one_policy():
    i = map_is_wrong()
    with pytest.raises(
        ValueError, match=r"alpha of shape \(2,\).*take one policy, reward and alpha"
    ):
        sharpening_curve(i.mdp, i.policy, [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"exponents of shape \(\).*and exponents \(K,\)"):
        sharpening_curve(i.mdp, i.policy, 1.0, 2.0)
