"""Four routes to one reward: that they agree, in which gauge each is, and what they cannot tell."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from potential import potential_residual
from scipy.optimize import linprog, minimize
from strategies import (
    along,
    build,
    enumerate_responses,
    policies,
    random_policy,
    same_mdp_three_ways,
    seeds,
    token_mdps,
)

import theory.fit.imitation
import theory.fit.objectives
from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import (
    endogenous,
    inverse_soft_q,
    maxent_irl,
    next_token_mle,
)
from theory.fit.q_learning import soft_q_learning
from theory.fit.smoothing import fitted_model
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, occupancy, trajectory_entropy
from theory.solve.reward import endogenous_reward, shape_reward, with_rewards
from theory.solve.soft import soft_optimal, soft_q_values, soft_values

check = settings(derandomize=True, deadline=None, max_examples=20)
few = settings(check, max_examples=8)
moderate = st.floats(math.log(0.05), math.log(5.0)).map(math.exp)


def row_tv(one, two, visited):
    """Largest total variation between the rows of two policies over visited states."""
    gaps = [
        np.abs(np.exp(a) - np.exp(b)).sum(axis=-1) / 2
        for a, b in zip(one.log_probs, two.log_probs, strict=True)
    ]
    return max(float(gap[v].max(initial=0.0)) for gap, v in zip(gaps, visited, strict=True))


@st.composite
def data_sets(draw, **options):
    """``(mdp, alpha, expert, demonstrations)``."""
    mdp, alpha = draw(token_mdps(**options)), draw(moderate)
    expert = soft_optimal(mdp, alpha).policy
    n = round(math.exp(draw(st.floats(math.log(5), math.log(2000)))))
    return mdp, alpha, expert, Demonstrations.sample(expert, n, draw(seeds))


def by_plain_ascent(data, alpha, *, l2=0.0, tolerance=1e-9, max_iterations=10_000):
    """MaxEnt IRL by gradient ascent, at the step that ascends for certain: ``1/(H/α + l2)``."""

    def ascend(dual, tolerance, max_iterations):
        theta = np.zeros(dual.n_variables)
        for iteration in range(max_iterations):
            gradient = dual.value_and_gradient(theta)[1]
            if np.abs(gradient).max() <= tolerance:
                return theta, iteration, True
            theta = theta + gradient / (data.dynamics.horizon / alpha + l2)
        return theta, max_iterations, False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory.fit.imitation, "maximise", ascend)
        return maxent_irl(data, alpha, l2=l2, tolerance=tolerance, max_iterations=max_iterations)


def small_data(rule="tree", n=40, alpha=0.5, seed=0):
    mdp = build(rule, np.random.default_rng(seed), 2, 2, 3, window=1)
    return mdp, Demonstrations.sample(soft_optimal(mdp, alpha).policy, n, seed)


ROUTES = {
    "next-token": next_token_mle,
    "maxent-irl": maxent_irl,
    "inverse-soft-q": inverse_soft_q,
    "endogenous": endogenous,
}

# --- The routes agree -----------------------------------------------------------------------------


@pytest.mark.slow
def test_four_routes_agree_on_200_random_mdps():
    """Policies to 1e-6 in total variation per visited state, rewards up to a potential to 1e-6,
    gaps of 1e-8.
    """
    rng = np.random.default_rng(2025)
    worst = {"tv": 0.0, "potential": 0.0, "gap": 0.0}
    unvisited = unseen = 0
    for i in range(200):
        rule, V, H, P = (
            ("tree", "window", "table")[i % 3],
            2 + i // 3 % 3,
            int(rng.integers(1, 6)),
            rng.integers(1, 4),
        )
        mdp = build(rule, rng, int(P), V, H, masked=i % 4 == 0, window=int(rng.integers(1, 4)))
        alpha = math.exp(rng.uniform(math.log(0.05), math.log(5.0)))
        n = round(math.exp(rng.uniform(math.log(20), math.log(2000))))
        data = Demonstrations.sample(soft_optimal(mdp, alpha).policy, n, rng)
        unvisited += any(not v.all() for v in data.visited)
        unseen += any((v[:, None] & ~s).any() for v, s in zip(data.visited, data.seen, strict=True))
        fits = {name: route(data, alpha) for name, route in ROUTES.items()}
        for one, two in itertools.combinations(fits, 2):
            worst["tv"] = max(worst["tv"], row_tv(fits[one].policy, fits[two].policy, data.visited))
            residual = float(
                potential_residual(fits[one].reward, fits[two].reward, data.seen).residual
            )
            worst["potential"] = max(worst["potential"], residual)
        for name in ("maxent-irl", "inverse-soft-q"):
            assert fits[name].optimum.converged
            worst["gap"] = max(worst["gap"], abs(fits[name].optimum.gap))
    assert worst["tv"] < 1e-6
    assert worst["potential"] < 1e-6
    assert worst["gap"] < 1e-8
    # Ten digits more than asked for, on data most of which leave states unvisited and tokens
    # unseen.
    assert max(worst.values()) < 1e-11
    assert unvisited > 100
    assert unseen > 100


@check
@given(data_sets())
def test_every_route_gives_the_empirical_frequencies(case):
    mdp, alpha, _, data = case
    for route in ROUTES.values():
        fit = route(data, alpha)
        for h, counts in enumerate(data.counts):
            v = data.visited[h]
            assert (fit.visited[h] == v).all()
            found = np.exp(fit.policy.log_probs[h])
            assert_allclose(found[v], counts[v] / counts[v].sum(axis=1, keepdims=True), atol=1e-11)
            assert (np.isneginf(fit.q[h])[v] == (counts[v] == 0)).all()
            # A placeholder, and no guess, where nothing was seen.
            mask = mdp.dynamics.allowed[h]
            legal = np.ones(counts.shape, bool) if mask is None else mask
            assert (np.isneginf(fit.q[h])[~v] == ~legal[~v]).all()
            assert_allclose(found[~v], (legal / legal.sum(axis=1, keepdims=True))[~v], atol=1e-14)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_a_placeholder_keeps_to_the_allowed_tokens(route):
    masks = [None, np.array([[True, True, True], [True, False, True], [True, True, True]])]
    mdp = TokenMDP.tree([np.zeros((1, 3)), np.zeros((3, 3))], allowed=masks)
    data = Demonstrations(
        mdp.dynamics, (np.array([[2, 0, 1]]), np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]]))
    )
    fit = route(data, 0.5)
    assert [v.tolist() for v in fit.visited] == [[True], [True, False, True]]
    assert np.isneginf(fit.q[1]).tolist() == [
        [False, False, True],
        [False, True, False],
        [True, False, True],
    ]
    assert_allclose(np.exp(fit.policy.log_probs[1][1]), [0.5, 0.0, 0.5], atol=1e-15)


@check
@given(data_sets())
def test_the_reward_is_q_less_the_value_of_what_follows(case):
    """Eq. 8, one token at a time; and the policy is the soft-optimal one of that reward."""
    mdp, alpha, _, data = case
    for route in ROUTES.values():
        fit = route(data, alpha)
        pairs = [(h, s, a) for h, seen in enumerate(data.seen) for s, a in np.argwhere(seen)]
        for h, s, a in pairs:
            following = 0.0
            if h + 1 < mdp.horizon:
                row = fit.q[h + 1][mdp.dynamics.successors(h)[s, a]]
                following = row.max() + alpha * math.log(
                    math.fsum(np.exp((row - row.max()) / alpha))
                )
            assert fit.reward.rewards[h][s, a] == pytest.approx(
                fit.q[h][s, a] - following, abs=1e-12 * (1 + alpha)
            )
        again = soft_optimal(fit.reward, alpha).policy
        assert row_tv(again, fit.policy, data.visited) < 1e-11


# --- Against other code: a dual in a few lines, responses enumerated ------------------------------


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_maxent_dual_by_enumeration(rule, l2):
    """The same dual over listed responses, ``E_D r(τ) − α Σ_p w_p log Σ_τ exp(r(τ)/α)``, by another
    of SciPy's.
    """
    alpha = 0.7
    mdp, data = small_data(rule, n=400 if l2 == 0 else 15, alpha=alpha)
    dynamics, sizes = mdp.dynamics, [t.size for t in data.counts]
    assert l2 or all((s | ~v[:, None]).all() for s, v in zip(data.seen, data.visited, strict=True))
    compared = [s | (l2 > 0) for s in data.seen]
    phi, prompt_of = [], []
    for prompt in range(2):
        for tokens, states in enumerate_responses(dynamics, prompt):
            one_hot = [np.zeros(size) for size in sizes]
            for h, (a, s) in enumerate(zip(tokens, states, strict=True)):
                one_hot[h][s * 2 + a] = 1.0
            phi.append(np.concatenate(one_hot))
            prompt_of.append(prompt)
    phi, prompt_of = np.array(phi), np.array(prompt_of)
    mean = np.concatenate([t.reshape(-1) for t in data.counts]) / data.n
    weights = data.counts[0].sum(axis=1) / data.n

    def loss(r):
        scores = phi @ r / alpha
        logs = np.array([np.logaddexp.reduce(scores[prompt_of == p]) for p in range(2)])
        gibbs = np.exp(scores - logs[prompt_of]) * weights[prompt_of]
        value = mean @ r - alpha * weights @ logs - l2 / 2 * r @ r
        return -value, -(mean - gibbs @ phi - l2 * r)

    found = minimize(
        loss,
        np.zeros(phi.shape[1]),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9, "maxiter": 5000},
    )
    fit = maxent_irl(data, alpha, l2=l2)
    assert fit.optimum.objective == pytest.approx(-found.fun, abs=1e-10)
    tables = np.split(found.x, np.cumsum(sizes)[:-1])
    by_hand = with_rewards(dynamics, tuple(t.reshape(-1, 2) for t in tables))
    assert (
        row_tv(
            soft_optimal(by_hand, alpha).policy, fit.policy, [v | (l2 > 0) for v in data.visited]
        )
        < 1e-6
    )
    assert potential_residual(fit.reward, by_hand, compared).residual < 1e-5
    if l2:  # the answer is unique, down to the gauge
        for one, two in zip(fit.reward.rewards, by_hand.rewards, strict=True):
            assert_allclose(one, two, atol=1e-6)
    else:
        slow = by_plain_ascent(data, alpha, tolerance=1e-8, max_iterations=20_000)
        assert slow.optimum.converged
        for one, two, seen in zip(slow.reward.rewards, fit.reward.rewards, compared, strict=True):
            assert_allclose(one[seen], two[seen], atol=1e-4)


def test_inverse_soft_q_by_another_optimiser():
    alpha = 0.4
    _, data = small_data("window", n=300, alpha=alpha)
    assert all(s.all() for s in data.seen)
    counts = np.concatenate(data.counts)

    def loss(x):
        q = x.reshape(counts.shape)
        value = alpha * np.logaddexp.reduce(q / alpha, axis=1)
        return -(counts * (q - value[:, None])).sum() / data.n

    found = minimize(loss, np.zeros(counts.size), method="BFGS", options={"gtol": 1e-7})
    fit = inverse_soft_q(data, alpha)
    assert fit.optimum.objective == pytest.approx(-found.fun, abs=1e-9)
    assert_allclose(
        np.concatenate(fit.q), found.x.reshape(counts.shape), atol=1e-3
    )  # both in the gauge Σ_a Q = 0


@check
@given(data_sets())
def test_both_objectives_are_the_log_likelihood(case):
    mdp, alpha, _, data = case
    best = alpha * data.log_likelihood(next_token_mle(data, alpha).policy)
    for fit in (maxent_irl(data, alpha), inverse_soft_q(data, alpha)):
        assert fit.optimum.objective == pytest.approx(best, abs=1e-12 * (1 + alpha))
        assert -1e-12 < fit.optimum.gap < 1e-8
        assert fit.optimum.residual < 1e-9
    # The primal value: the entropy of the one policy that has the occupancy of the data.
    policy = fitted_model(data)
    prompts = data.state_counts[0] / data.n
    conditional = sum(
        w
        * -math.fsum(
            math.exp(p) * p
            for r in enumerate_responses(mdp.dynamics, i)
            if (p := along(policy.log_probs, r)) > -math.inf
        )
        for i, w in enumerate(prompts)
        if w > 0
    )
    assert -alpha * conditional == pytest.approx(best, abs=1e-11 * (1 + alpha))


@check
@given(token_mdps(), moderate, st.data())
def test_duality_gap_of_any_reward_is_a_divergence(mdp, alpha, data):
    """``sup L − L(r) = α KL(π_D‖π_r)``: the gap is what MaxEnt IRL minimises, and it is zero at the
    reward of `π_D`.
    """
    demonstrator, other = data.draw(policies(mdp.dynamics)), data.draw(policies(mdp.dynamics))
    reward = endogenous_reward(other, alpha)
    dual = sum(
        float((f * r).sum())
        for f, r in zip(Demonstrations.of_policy(demonstrator).counts, reward.rewards, strict=True)
    )
    dual -= float(mdp.dynamics.average(soft_values(reward, alpha)[0]))
    primal = -alpha * trajectory_entropy(demonstrator)
    scale = 1 + alpha * 40
    assert primal - dual == pytest.approx(alpha * kl(demonstrator, other), abs=1e-12 * scale)


# --- Gauges ---------------------------------------------------------------------------------------


@check
@given(data_sets())
def test_the_gauge_of_each_route(case):
    mdp, alpha, _, data = case
    size = 1e-10 * (1 + alpha)
    mle, irl, soft_q = (
        next_token_mle(data, alpha),
        maxent_irl(data, alpha),
        inverse_soft_q(data, alpha),
    )
    logits, logprob = endogenous(data, alpha), endogenous(data, alpha, gauge="logprob")
    left = expected_sums(irl.policy, [-t for t in irl.policy.log_probs])
    for h in range(mdp.horizon):
        v, seen = data.visited[h], data.seen[h]
        n = data.state_counts[h][v]
        # V̂ = 0: r̂ = α log π̂.
        assert_allclose(mle.policy.log_normalizers[h][v], 0.0, atol=1e-13)
        assert_allclose(
            mle.reward.rewards[h][seen],
            alpha * np.log((data.frequencies[h][v] / (n / data.n)[:, None])[seen[v]]),
            atol=size,
        )
        assert_allclose(logprob.q[h][seen], mle.q[h][seen], atol=size)
        # V̂ = α log n(s).
        assert_allclose(alpha * logits.policy.log_normalizers[h][v], alpha * np.log(n), atol=size)
        # Σ_a Q(s,a) = 0 over the tokens seen.
        assert_allclose(np.where(seen, soft_q.q[h], 0.0).sum(axis=1), 0.0, atol=size)
        # The mean reward in each state is zero, and V̂ is α times the entropy of what follows.
        mean = np.where(seen, data.frequencies[h] * irl.reward.rewards[h], 0.0).sum(axis=1)
        assert_allclose(mean[v], 0.0, atol=size)
        assert_allclose(irl.policy.log_normalizers[h][v], left[h][v], atol=1e-10)


def test_on_a_tree_the_logits_of_counts_pay_with_the_last_token():
    """``n(s⊕a) = n(s,a)``: every reward but the last is zero, and the last is ``α log n(τ)``."""
    _, data = small_data("tree", n=500)
    reward = endogenous(data, 0.5).reward
    for h in range(2):
        assert_allclose(reward.rewards[h], 0.0, atol=1e-13)
    assert_allclose(reward.rewards[2], 0.5 * np.log(data.counts[2]), atol=1e-13)
    assert np.abs(next_token_mle(data, 0.5).reward.rewards[0]).min() > 0.05


# --- What is not identified -----------------------------------------------------------------------


def test_nothing_is_known_of_an_unvisited_state():
    """Any row there has the same likelihood, and rewards that differ by no potential agree on all
    that was seen.
    """
    mdp = TokenMDP.tree([np.zeros((1, 3)), np.zeros((3, 3))])
    counts = (np.array([[6, 4, 0]]), np.array([[3, 2, 1], [2, 1, 1], [0, 0, 0]]))
    data, alpha = Demonstrations(mdp.dynamics, counts), 0.8
    fits = {name: route(data, alpha) for name, route in ROUTES.items()}
    likelihood = data.log_likelihood(fits["next-token"].policy)
    for seed in range(3):
        tables = [t.copy() for t in fits["next-token"].policy.log_probs]
        tables[1][2] = np.log(np.random.default_rng(seed).dirichlet(np.ones(3)))
        other = Policy.from_log_probs(mdp.dynamics, tables)
        assert data.log_likelihood(other) == likelihood
        assert row_tv(other, fits["next-token"].policy, data.visited) == 0.0
        assert row_tv(other, fits["next-token"].policy, [np.ones(n, bool) for n in (1, 3)]) > 0.1
        full = endogenous_reward(random_policy(mdp.dynamics, np.random.default_rng(seed)), alpha)
        moved = with_rewards(
            full.dynamics,
            (full.rewards[0], full.rewards[1] + np.array([[0.0], [0], [1]]) * [0, 1, 5]),
        )
        assert potential_residual(full, moved, data.seen).residual < 1e-14
        assert potential_residual(full, moved).residual > 1.0
    # The expert may well write the third token: ε_π is infinite.
    expert = soft_optimal(mdp, alpha).policy
    for fit in fits.values():
        assert max_log_ratio(expert, fit.policy) == math.inf


def test_the_supremum_on_an_unseen_token_lies_at_minus_infinity():
    """Lower its reward, and the dual rises, and the policy tends to that of the other routes, and
    never is it.
    """
    mdp = TokenMDP.tree([np.zeros((1, 3))])
    data, alpha = Demonstrations(mdp.dynamics, (np.array([[6, 4, 0]]),)), 0.5
    fit = maxent_irl(data, alpha)
    assert fit.q[0][0, 2] == -np.inf
    assert fit.reward.dynamics.allowed[0][0].tolist() == [True, True, False]
    previous = -np.inf
    for depth in (0.0, 2.0, 4.0, 8.0):
        reward = with_rewards(
            mdp.dynamics,
            (
                np.where(
                    data.seen[0], fit.q[0], fit.q[0].max(where=data.seen[0], initial=-9) - depth
                ),
            ),
        )
        value = (data.frequencies[0] * reward.rewards[0]).sum() - soft_values(reward, alpha)[0][0]
        assert previous < value < fit.optimum.objective
        previous = value
    assert fit.optimum.objective - previous < 1e-7


def test_ridge_and_smoothing_are_finite_and_no_longer_agree():
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))])
    data, alpha = (
        Demonstrations(mdp.dynamics, (np.array([[9, 1]]), np.array([[9, 0], [1, 0]]))),
        1.0,
    )
    everywhere = [np.ones(n, bool) for n in (1, 2)]
    mle = next_token_mle(data, alpha)
    # Ridge: finite, and short of the frequencies; less so the smaller it is.
    gaps = []
    for l2 in (1.0, 0.1, 1e-3):
        ridge = maxent_irl(data, alpha, l2=l2)
        assert ridge.optimum.converged
        assert 0 <= ridge.optimum.gap < 1e-8
        assert all(np.isfinite(q).all() for q in ridge.q)
        gaps.append(row_tv(ridge.policy, mle.policy, data.visited))
    assert 0.5 > gaps[0] > gaps[1] > gaps[2] > 1e-4
    # Smoothing: counts smoothed state by state are not a flow. The occupancy of the smoothed policy
    # is, and from it all routes give the smoothed policy back.
    smoothed = next_token_mle(data, alpha, smoothing=1.0)
    with pytest.raises(ValueError, match=r"counts\[1\] has .* count whole responses"):
        Demonstrations(mdp.dynamics, tuple(t + 1.0 for t in data.counts))
    population = Demonstrations.of_policy(smoothed.policy)
    for route in (maxent_irl, inverse_soft_q, next_token_mle, endogenous):
        assert row_tv(route(population, alpha).policy, smoothed.policy, everywhere) < 1e-11
    assert max_log_ratio(smoothed.policy, soft_optimal(mdp, alpha).policy) < math.inf
    assert row_tv(maxent_irl(data, alpha, l2=0.1).policy, smoothed.policy, everywhere) > 0.02


def test_prompts_are_averaged_as_in_the_data():
    """Under another prompt distribution the dual has no bound: pay every response to one prompt
    more.
    """
    mdp = TokenMDP.tree([np.zeros((2, 2))], prompt_weights=[0.5, 0.5])
    data = Demonstrations(mdp.dynamics, (np.array([[6, 3], [1, 0]]),))
    fit = maxent_irl(data, 1.0)
    assert_allclose(np.exp(fit.policy.log_probs[0][0]), [2 / 3, 1 / 3], rtol=1e-10)

    def dual(extra, weights):
        paid = fit.reward.rewards[0] + np.array([[extra], [0.0]])
        values = soft_values(with_rewards(fit.reward.dynamics, (paid,)), 1.0)[0]
        return (data.frequencies[0] * paid).sum() - values @ weights

    assert dual(50.0, [0.9, 0.1]) == pytest.approx(dual(0.0, [0.9, 0.1]), abs=1e-12)
    assert dual(50.0, mdp.dynamics.prompt_weights) == pytest.approx(
        dual(0.0, mdp.dynamics.prompt_weights) + 20.0
    )


@few
@given(same_mdp_three_ways(min_horizon=2), moderate, seeds)
def test_tree_window_and_table(three, alpha, seed):
    """On the same responses window and table agree. The tree is a larger class: it agrees on the
    population only.
    """
    tree, window, table = three
    expert = soft_optimal(window, alpha).policy
    responses = expert.sample(60, seed)
    by_window, by_table = (
        Demonstrations.from_responses(m.dynamics, responses) for m in (window, table)
    )
    states = window.dynamics.prefix_states()
    for route in ROUTES.values():
        one, two = route(by_window, alpha), route(by_table, alpha)
        for h in range(tree.horizon):
            assert_allclose(
                np.exp(one.policy.log_probs[h]), np.exp(two.policy.log_probs[h]), atol=1e-10
            )
            assert_allclose(
                one.reward.rewards[h][by_window.seen[h]],
                two.reward.rewards[h][by_window.seen[h]],
                atol=1e-9,
            )
        population = route(Demonstrations.of_policy(soft_optimal(tree, alpha).policy), alpha)
        reached = population.visited
        for h, s in enumerate(states):
            found = np.exp(population.policy.log_probs[h])[reached[h]]
            assert_allclose(found, np.exp(expert.log_probs[h])[s][reached[h]], atol=1e-8)


def test_a_tree_fits_finite_data_more_closely_than_its_quotient():
    window = build("window", np.random.default_rng(3), 1, 2, 4, window=1)
    responses = soft_optimal(window, 0.5).policy.sample(50, 0)
    fits = [
        maxent_irl(Demonstrations.from_responses(m.dynamics, responses), 0.5)
        for m in (window.as_tree(), window)
    ]
    assert fits[0].optimum.objective > fits[1].optimum.objective + 0.01
    assert row_tv(fits[0].policy, fits[1].policy.as_tree(), fits[0].visited) > 0.05


# --- The misprint ---------------------------------------------------------------------------------


def printed_objective(data, q, alpha):
    """``(1/n) Σ_D [Q − α log Σ_a exp(Q)/α]``, as printed."""
    total = 0.0
    for counts, table in zip(data.counts, q, strict=True):
        value = alpha * np.log(np.exp(table).sum(axis=1) / alpha)
        total += (counts * (table - value[:, None])).sum()
    return total / data.n


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_printed_objective(alpha):
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))])
    data = Demonstrations(mdp.dynamics, (np.array([[12, 8]]), np.array([[7, 5], [3, 5]])))
    fit, right = inverse_soft_q(data, alpha, printed=True), inverse_soft_q(data, alpha)
    best = printed_objective(data, fit.q, alpha)
    assert fit.optimum.objective == pytest.approx(best, abs=1e-12)
    assert math.isnan(fit.optimum.gap)
    # It sees a constant added to every row, and grows with it without bound unless α = 1.
    for c in (-3.0, 5.0):
        moved = printed_objective(data, [q + c for q in fit.q], alpha)
        assert moved - best == pytest.approx(2 * (1 - alpha) * c, abs=1e-12)
        rows = printed_objective(data, [right.q[0] + c, right.q[1]], alpha)
        assert rows - printed_objective(data, right.q, alpha) == pytest.approx(
            (1 - alpha) * c, abs=1e-12
        )
    # Within the gauge Σ_a Q = 0 it is largest here, and not where the other routes end.
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = [rng.normal(size=q.shape) for q in fit.q]
        other = [
            q + 0.1 * (x - x.mean(axis=1, keepdims=True)) for q, x in zip(fit.q, step, strict=True)
        ]
        assert printed_objective(data, other, alpha) < best
    for h, q in enumerate(fit.q):
        frequencies = data.counts[h] / data.counts[h].sum(axis=1, keepdims=True)
        at_one = np.exp(q) / np.exp(q).sum(axis=1, keepdims=True)
        assert_allclose(at_one, (frequencies - (1 - alpha) / 2) / alpha, atol=1e-10)
    gap = row_tv(fit.policy, right.policy, data.visited)
    assert gap < 1e-11 if alpha == 1.0 else gap > 0.02
    softmax = Policy.from_logits(mdp.dynamics, fit.q)
    gap = row_tv(softmax, right.policy, data.visited)
    assert gap < 1e-11 if alpha == 1.0 else gap > 0.02


def test_the_printed_objective_can_be_unbounded_even_within_a_gauge():
    mdp = TokenMDP.tree([np.zeros((1, 2))])
    data = Demonstrations(mdp.dynamics, (np.array([[3, 1]]),))  # 1/4 is (1 − α)/m at α = 1/2
    with pytest.raises(
        ValueError, match=r"printed=True at alpha=0.5: .*no maximum; give more even demonstrations"
    ):
        inverse_soft_q(data, 0.5, printed=True)
    assert inverse_soft_q(data, 0.51, printed=True).optimum.converged
    values = [printed_objective(data, [np.array([[c, -c]])], 0.5) for c in (10.0, 20.0)]
    assert values[1] == pytest.approx(values[0], abs=1e-6)  # the supremum is not attained
    values = [printed_objective(data, [np.array([[c, -c]])], 0.4) for c in (10.0, 20.0)]
    assert values[1] > values[0] + 0.5


# --- Linear features ------------------------------------------------------------------------------


def expectations_are_inner(data, phi):
    """Whether some policy that gives every response probability has the feature expectations of the
    data, by a linear program in the probabilities of responses: exactly then the dual attains its
    maximum.
    """
    prompts = data.state_counts[0] / data.n
    target = sum(np.einsum("sa,sak->k", f, x) for f, x in zip(data.frequencies, phi, strict=True))
    columns = []
    for prompt in np.flatnonzero(prompts):
        for tokens, states in enumerate_responses(data.dynamics, int(prompt)):
            total = sum(phi[h][s, a] for h, (a, s) in enumerate(zip(tokens, states, strict=True)))
            columns.append(
                np.concatenate([prompts[prompt] * total, np.arange(len(prompts)) == prompt])
            )
    columns = np.array(columns).T
    columns = np.hstack(
        [columns, columns.sum(axis=1, keepdims=True)]
    )  # each has the last variable, and more
    least = -np.eye(columns.shape[1])[-1]
    found = linprog(least, A_eq=columns, b_eq=np.concatenate([target, prompts > 0]), method="highs")
    return found.x is not None and found.x[-1] > 1e-12


@check
@given(data_sets(), st.integers(1, 4), seeds)
def test_linear_features_match_expectations(case, k, seed):
    """Feature expectations agree; of all policies with these, the answer has the greatest
    entropy.
    """
    mdp, alpha, _, data = case
    phi = [
        np.random.default_rng(seed + h).normal(size=(n, mdp.vocab_size, k))
        for h, n in enumerate(mdp.dynamics.layer_sizes)
    ]
    ridge = maxent_irl(data, alpha, features=phi, l2=0.05)
    assert ridge.optimum.converged
    assert 0 <= ridge.optimum.gap < 1e-8
    try:
        fit = maxent_irl(data, alpha, features=phi)
    except ValueError:  # few responses: the data lie on the boundary of what features can be
        assert not expectations_are_inner(data, phi)
        return
    assert expectations_are_inner(data, phi)
    prompts = data.state_counts[0] / data.n
    expected = sum(np.einsum("sa,sak->k", f, x) for f, x in zip(data.frequencies, phi, strict=True))
    found, entropy = np.zeros(k), 0.0
    for prompt, weight in enumerate(prompts):
        for response in enumerate_responses(mdp.dynamics, prompt):
            p = along(fit.policy.log_probs, response)
            total = sum(phi[h][s, a] for h, (a, s) in enumerate(zip(*response, strict=True)))
            found += weight * math.exp(p) * total
            entropy -= weight * math.exp(p) * p
            # r̂(τ) = θ·φ(τ), up to the gauge of the prompt: α log π̂(τ) is θ·φ(τ) less a constant.
    assert_allclose(found, expected, atol=1e-8 * (1 + np.abs(expected).max()))
    assert fit.optimum.gap < 1e-8
    assert fit.optimum.objective == pytest.approx(-alpha * entropy, abs=1e-8 * (1 + alpha))
    for h, x in enumerate(phi):
        mask = mdp.dynamics.allowed[h]
        legal = np.ones(x.shape[:2], bool) if mask is None else mask
        assert_allclose(
            fit.reward.rewards[h][legal],
            (x @ fit.optimum.weights)[legal],
            atol=1e-9 * (1 + np.abs(fit.optimum.weights).max()),
        )


def test_features_that_single_out_every_token_are_tabular_rewards():
    _, data = small_data("window", n=2000)
    assert all(s.all() for s in data.seen)
    sizes = [t.size for t in data.counts]
    eye = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1])
    phi = [x.reshape(*t.shape, -1) for x, t in zip(eye, data.counts, strict=True)]
    one, two = maxent_irl(data, 0.5), maxent_irl(data, 0.5, features=phi)
    assert potential_residual(one.reward, two.reward).residual < 1e-10
    assert row_tv(two.policy, next_token_mle(data, 0.5).policy, data.visited) < 1e-11


def test_a_feature_of_an_unseen_response_has_no_finite_weight():
    mdp = TokenMDP.tree([np.zeros((1, 2))])
    data = Demonstrations(mdp.dynamics, (np.array([[5, 0]]),))
    for size in (1e-3, 1.0, 1e3):
        with pytest.raises(ValueError, match=r"features: no finite weights .*pass l2 > 0"):
            maxent_irl(data, 0.5, features=[np.array([[[size], [0.0]]])])
    assert maxent_irl(data, 0.5, features=[np.array([[[1.0], [0.0]]])], l2=1e-3).optimum.converged
    # Seen now and then, or of no consequence, it has one.
    both = Demonstrations(mdp.dynamics, (np.array([[10**9, 1]]),))
    weight = maxent_irl(both, 0.5, features=[np.array([[[1.0], [0.0]]])]).optimum.weights
    assert_allclose(weight, 0.5 * math.log(1e9), rtol=1e-6)
    assert maxent_irl(data, 0.5, features=[np.array([[[1.0], [1.0]]])]).optimum.converged


# --- Solvers --------------------------------------------------------------------------------------


def test_plain_ascent_climbs_to_the_same_policy():
    _, data = small_data("table", n=200, alpha=0.7)
    best = maxent_irl(data, 0.7)
    previous = -np.inf
    for iterations in (1, 2, 5, 20, 100):
        fit = by_plain_ascent(data, 0.7, max_iterations=iterations, tolerance=1e-12)
        assert not fit.optimum.converged
        assert fit.optimum.iterations == iterations
        assert previous < fit.optimum.objective < best.optimum.objective
        assert fit.optimum.gap == pytest.approx(
            best.optimum.objective - fit.optimum.objective, abs=1e-12
        )
        previous = fit.optimum.objective
    fit = by_plain_ascent(data, 0.7, tolerance=1e-8, max_iterations=20_000)
    assert fit.optimum.converged
    assert row_tv(fit.policy, best.policy, data.visited) < 1e-6


@pytest.mark.parametrize("iterations", [1, 3, 30])
def test_the_gap_of_a_ridge_is_primal_less_dual(iterations):
    """Primal: ``‖E_D φ − E_π φ‖²/(2·l2) − α H(π)``, at the policy reached; by enumeration."""
    alpha, l2 = 0.7, 0.3
    mdp, data = small_data("window", n=30, alpha=alpha)
    fit = by_plain_ascent(data, alpha, l2=l2, max_iterations=iterations)
    visits, entropy, soft = [0 * t for t in data.frequencies], 0.0, 0.0
    for prompt, weight in enumerate(data.state_counts[0] / data.n):
        responses = enumerate_responses(mdp.dynamics, prompt)
        sums = np.array([along(fit.reward.rewards, r) for r in responses]) / alpha
        soft += weight * alpha * np.logaddexp.reduce(sums)
        for p, (tokens, states) in zip(
            np.exp(sums - np.logaddexp.reduce(sums)), responses, strict=True
        ):
            entropy -= weight * p * math.log(p)
            for h, (a, s) in enumerate(zip(tokens, states, strict=True)):
                visits[h][s, a] += weight * p
    mean = sum((f * r).sum() for f, r in zip(data.frequencies, fit.reward.rewards, strict=True))
    squared = sum((r**2).sum() for r in fit.reward.rewards)
    mismatch = sum(((f - v) ** 2).sum() for f, v in zip(data.frequencies, visits, strict=True))
    dual = mean - soft - l2 / 2 * squared
    assert fit.optimum.objective == pytest.approx(dual, abs=1e-12)
    assert fit.optimum.gap == pytest.approx(mismatch / (2 * l2) - alpha * entropy - dual, abs=1e-12)
    assert fit.optimum.gap > 1e-9


@check
@given(data_sets(), seeds, st.sampled_from([0.0, 0.2]))
def test_gradient_and_curvature_by_differences(case, seed, l2):
    _, alpha, _, data = case
    rng = np.random.default_rng(seed)
    for problem in (
        theory.fit.objectives.MaxEntDual(data, alpha, l2, None),
        theory.fit.objectives.SoftQObjective(data, alpha, False),
    ):
        theta = alpha * rng.normal(size=problem.n_variables)
        direction = alpha * rng.normal(size=len(theta))
        gradient = problem.value_and_gradient(theta)[1]
        curved = problem.curvature(theta, direction)
        t = 1e-4
        (up, up_gradient), (down, down_gradient) = (
            problem.value_and_gradient(theta + x * direction) for x in (t, -t)
        )
        assert gradient @ direction == pytest.approx(
            (up - down) / (2 * t), abs=1e-6 * alpha * (1 + l2 * alpha) * len(theta)
        )
        assert_allclose(
            -curved, (up_gradient - down_gradient) / (2 * t), atol=1e-6 * (1 + l2 * alpha)
        )


@pytest.mark.parametrize(("rule", "alpha"), [("tree", 0.09), ("window", 0.06), ("table", 0.05)])
def test_populations_of_cold_experts(rule, alpha):
    """Probabilities down to 1e-20, where L-BFGS alone stops early."""
    mdp = build(rule, np.random.default_rng(7), 2, 4, 4, window=2)
    expert = soft_optimal(mdp, alpha).policy
    data = Demonstrations.of_policy(expert)
    assert min(t[t > 0].min() for t in data.counts) < 1e-10
    for route in (maxent_irl, inverse_soft_q):
        fit = route(data, alpha)
        assert fit.optimum.converged
        assert fit.optimum.gap < 1e-12
        assert row_tv(fit.policy, expert, [v > 1e-9 for v in data.state_counts]) < 1e-6


@pytest.mark.parametrize("alpha", [1e-3, 1e3])
def test_extreme_temperatures(alpha):
    """In nats the problem does not depend on α; only the rewards do."""
    _, data = small_data("tree", n=100)
    one = maxent_irl(data, 1.0)
    fit, soft_q = maxent_irl(data, alpha), inverse_soft_q(data, alpha)
    for h, reward in enumerate(fit.reward.rewards):
        assert_allclose(reward, alpha * one.reward.rewards[h], rtol=1e-8, atol=1e-10 * alpha)
    assert row_tv(soft_q.policy, one.policy, data.visited) < 1e-11


def test_rare_states_are_as_exact_as_common_ones():
    """One response of ten million: values of the dual cannot tell its state's policy, gradients
    can.
    """
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))])
    data = Demonstrations(
        mdp.dynamics, (np.array([[10**9, 4]]), np.array([[10**9 - 10**6, 10**6], [3, 1]]))
    )
    for route in (maxent_irl, inverse_soft_q):
        assert_allclose(np.exp(route(data, 0.3).policy.log_probs[1][1]), [0.75, 0.25], rtol=1e-9)


def test_closed_forms_take_batches():
    mdp = build("window", np.random.default_rng(0), 2, 3, 4, window=1)
    alphas = np.array([0.2, 1.0, 3.0])
    data = Demonstrations.sample(soft_optimal(mdp, 0.5).policy, np.full(3, 5000), 0)
    for route in (next_token_mle, endogenous):
        fit = route(data, alphas)
        for i, alpha in enumerate(alphas):
            one = route(data[i], float(alpha))
            for h in range(4):
                assert_allclose(fit.q[h][i], one.q[h], rtol=1e-12)
                assert_allclose(
                    np.exp(fit.policy.log_probs[h][i]), np.exp(one.policy.log_probs[h]), atol=1e-13
                )
        if all(s.all() for s in data.seen):
            assert_allclose(
                fit.reward.rewards[1][1], route(data[1], 1.0).reward.rewards[1], atol=1e-12
            )
    smoothed = next_token_mle(data, 1.0, smoothing="witten-bell").policy
    assert_allclose(
        smoothed.log_probs[2][1], fitted_model(data[1], "witten-bell").log_probs[2], rtol=1e-12
    )
    sparse = Demonstrations.sample(soft_optimal(mdp, 0.5).policy, np.full(3, 5), 0)
    assert next_token_mle(sparse, 1.0).policy.batch_shape == (3,)
    with pytest.raises(ValueError, match="different supports; take them one at a time"):
        _ = next_token_mle(sparse, 1.0).reward


# --- Forward: soft Q-learning ---------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("power", [0.0, 0.6, 0.9])
def test_soft_q_learning_finds_the_policy_of_a_reward(rule, power):
    alpha = 0.5
    mdp, data = small_data(rule, n=100, alpha=alpha)
    target = next_token_mle(data, alpha, smoothing=0.5)
    fit = soft_q_learning(target.reward, alpha, rounds=1500, power=power, seed=1)
    reached = [
        m > 0 for m in occupancy(Policy.from_logits(mdp.dynamics, [0 * r for r in mdp.rewards]))
    ]
    assert all((v == r).all() for v, r in zip(fit.visited, reached, strict=True))
    exact = soft_q_values(target.reward, alpha)
    assert fit.errors[-1] == max(
        np.abs(a - b)[r].max() for a, b, r in zip(fit.q, exact, reached, strict=True)
    )
    limit = {0.0: 1e-13, 0.6: 1e-3, 0.9: 0.05}[power]
    assert fit.errors[-1] < limit < fit.errors[0]
    assert row_tv(fit.policy, target.policy, reached) < limit


def test_one_round_of_soft_q_learning_by_hand():
    """V = 2, H = 2, one response a round: the second step is exact at once, the first an average of
    what it saw.
    """
    mdp, alpha = TokenMDP.tree([[[0.0, 1.0]], [[1.0, 0.5], [0.25, 0.0]]]), 0.5
    always = Policy.from_probs(mdp.dynamics, [[[0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]])
    fit = soft_q_learning(mdp, alpha, rounds=1, parallel=3, power=1.0, behaviour=always, seed=0)
    first = 1.0 + alpha * math.log(2.0)  # V of two zeros
    assert fit.q[0][0].tolist() == [0.0, pytest.approx(first)]
    assert fit.q[1].tolist() == [[0.0, 0.0], [0.25, 0.0]]
    fit = soft_q_learning(mdp, alpha, rounds=3, parallel=3, power=1.0, behaviour=always, seed=0)
    later = 1.0 + alpha * math.log(math.exp(0.25 / alpha) + 1.0)
    assert fit.q[0][0, 1] == pytest.approx((first + 2 * later) / 3)
    assert [v.tolist() for v in fit.visited] == [[True], [False, True]]
    assert len(fit.errors) == 3


def test_soft_q_learning_respects_forbidden_tokens_and_seeds():
    mdp = build("tree", np.random.default_rng(4), 2, 3, 3, masked=True)
    one, two = (soft_q_learning(mdp, 0.3, rounds=400, power=0.0, seed=5) for _ in range(2))
    for a, b, exact in zip(one.q, two.q, soft_q_values(mdp, 0.3), strict=True):
        assert (a == b).all()
        assert (np.isneginf(a) == np.isneginf(exact)).all()
    assert one.errors[-1] < 1e-13
    assert (np.diff(one.errors) < 1e-15).sum() > 300


# --- Potentials -----------------------------------------------------------------------------------


@check
@given(token_mdps(), seeds)
def test_a_potential_is_found(mdp, seed):
    rng = np.random.default_rng(seed)
    potential = tuple(rng.normal(size=n) for n in mdp.dynamics.layer_sizes)
    found = potential_residual(shape_reward(mdp, potential), mdp)
    assert found.residual < 1e-13
    for one, two in zip(found.potential, potential, strict=True):
        assert_allclose(one, two, atol=1e-12)


@check
@given(token_mdps(min_vocab=2), seeds, st.floats(1e-3, 1.0))
def test_what_no_potential_explains_is_reported(mdp, seed, size):
    """Some potential leaves `size` at most, so the residual is at most 2H times that; and it is
    what it says it is.
    """
    rng = np.random.default_rng(seed)
    potential = tuple(rng.normal(size=n) for n in mdp.dynamics.layer_sizes)
    shaped = shape_reward(mdp, potential)
    noisy = with_rewards(
        mdp.dynamics, tuple(r + size * rng.uniform(-1, 1, r.shape) for r in shaped.rewards)
    )
    found = potential_residual(noisy, mdp)
    left = []
    again = shape_reward(mdp, found.potential)
    for h, mask in enumerate(mdp.dynamics.allowed):
        gap = np.abs(noisy.rewards[h] - again.rewards[h])
        left.append(gap.max() if mask is None else gap[mask].max())
    assert found.residual == pytest.approx(max(left), rel=1e-9, abs=1e-14)
    assert found.residual <= 2 * mdp.horizon * size + 1e-12
    if mdp.dynamics.allowed[-1] is None:
        assert found.residual > 0


def test_potentials_of_a_batch():
    mdp = build("window", np.random.default_rng(0), 1, 3, 3, window=1)
    batch = TokenMDP(
        mdp.dynamics, tuple(np.stack([r, r + 0.1 * (r > 0.5), r]) for r in mdp.rewards)
    )
    residual = potential_residual(batch, mdp).residual
    assert residual.shape == (3,)
    assert residual[0] == residual[2] == 0.0
    assert (
        residual[1]
        == potential_residual(
            TokenMDP(mdp.dynamics, tuple(r[1] for r in batch.rewards)), mdp
        ).residual
        > 0.01
    )


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_bad_temperatures_are_named(route):
    _, data = small_data()
    for alpha in (0.0, -1.0, math.nan, "warm"):
        with pytest.raises(ValueError, match=r"alpha=.*must be"):
            route(data, alpha)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": -1.0}, "l2=-1.0: must be 0 or a positive finite number"),
        ({"l2": math.inf}, "l2=inf"),
        ({"features": [np.ones((2, 2, 1))]}, "features has 1 tables for a horizon of 3"),
        (
            {"features": [np.ones((2, 2)), np.ones((4, 2)), np.ones((8, 2))]},
            r"features\[0\] has shape \(2, 2\)",
        ),
        (
            {"features": [np.ones((2, 2, 1)), np.ones((4, 2, 2)), np.ones((8, 2, 1))]},
            r"features\[1\] has shape",
        ),
        (
            {"features": [np.ones((n, 2, 1)) * np.nan for n in (2, 4, 8)]},
            r"features\[0\] holds nan",
        ),
    ],
)
def test_bad_options_of_irl_are_named(options, message):
    _, data = small_data()
    with pytest.raises(ValueError, match=message):
        maxent_irl(data, 0.5, **options)


def test_other_refusals():
    mdp, data = small_data()
    batch = Demonstrations(mdp.dynamics, tuple(np.stack([t, t]) for t in data.counts))
    for route in (maxent_irl, inverse_soft_q):
        with pytest.raises(
            ValueError, match=r"demonstrations of batch \(2,\).*use demonstrations\[i\]"
        ):
            route(batch, 0.5)
        with pytest.raises(ValueError, match=r"alpha of shape \(2,\)"):
            route(data, np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="gauge='soft': must be 'logits' or 'logprob'"):
        endogenous(data, 0.5, gauge="soft")
    with pytest.raises(ValueError, match="smoothing='none'"):
        next_token_mle(data, 0.5, smoothing="none")
    for options, message in [
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"parallel": 0}, "parallel=0: must be at least 1"),
        ({"power": 1.5}, "power=1.5: must be from 0 to 1"),
        ({"alpha": np.array([1.0, 2.0])}, r"alpha of shape \(2,\): take one at a time"),
        (
            {
                "behaviour": soft_optimal(
                    build("tree", np.random.default_rng(0), 1, 3, 2), 1.0
                ).policy
            },
            "different dynamics",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            soft_q_learning(mdp, **({"alpha": 0.5} | options))
    with pytest.raises(ValueError, match="visited: no state-token is left to compare"):
        potential_residual(mdp, mdp, [np.zeros(r.shape, dtype=bool) for r in mdp.rewards])


# --- A published implementation -------------------------------------------------------------------


def test_against_the_imitation_package(tmp_path):
    """`mce_irl` holds rewards of a state, the same at every step: a table MDP and one feature per
    state hold them too.

    Its planner values the states before the `H` actions while its expectations count the state
    after the last one as well, so its gradient is not that of its own dual; at the expert's reward
    both vanish, and there it must stop.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("imitation")
        import torch
        from imitation.algorithms import mce_irl
        from imitation.rewards.reward_nets import BasicRewardNet
        from imitation.util import logger
        from seals.base_envs import TabularModelPOMDP

    S, V, H = 4, 2, 4
    rng = np.random.default_rng(0)
    links, rho, pays = (
        rng.integers(S, size=(S, V)),
        rng.dirichlet(np.ones(S)),
        rng.uniform(-1, 1, S),
    )
    mdp = TokenMDP.table(
        [np.repeat(pays[:, None], V, axis=1)] * H,
        [links] * (H - 1),
        prompt_weights=rho,
        reward_range=(-1, 1),
    )
    env = TabularModelPOMDP(
        transition_matrix=np.eye(S)[links],
        observation_matrix=np.eye(S, dtype=np.float32),
        reward_matrix=pays,
        horizon=H,
        initial_state_dist=rho,
    )
    expert, values = soft_optimal(mdp, 1.0)
    V_soft, Q, pi = mce_irl.mce_partition_fh(env)
    visits, total = mce_irl.mce_occupancy_measures(env)
    for h in range(H):
        assert_allclose(V_soft[h], values[h], atol=1e-12)
        assert_allclose(Q[h], soft_q_values(mdp, 1.0)[h], atol=1e-12)
        assert_allclose(pi[h], np.exp(expert.log_probs[h]), atol=1e-12)
        assert_allclose(visits[h], occupancy(expert)[h], atol=1e-12)
    assert total.sum() == pytest.approx(H + 1)  # one state more than there are rewards

    data = Demonstrations.of_policy(expert)
    one_hot = [np.repeat(np.eye(S)[:, None], V, axis=1)] * H
    fit = maxent_irl(data, 1.0, features=one_hot)
    everywhere = [np.ones(S, bool)] * H
    assert row_tv(fit.policy, expert, everywhere) < 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = BasicRewardNet(
            env.observation_space, env.action_space, hid_sizes=[], use_action=False, use_done=False
        )
        irl = mce_irl.MCEIRL(
            total,
            env,
            net,
            np.random.default_rng(0),
            optimizer_kwargs={"lr": 0.05},
            linf_eps=1e-5,
            grad_l2_eps=1e-9,
            log_interval=None,
            custom_logger=logger.configure(tmp_path, format_strs=[]),
        )
        irl.train(max_iter=5000)
    theirs = Policy.from_logits(mdp.dynamics, [np.log(irl.policy.pi[h]) for h in range(H)])
    assert row_tv(theirs, fit.policy, everywhere) < 1e-3


def test_the_gap_of_linear_features_closes():
    mdp = TokenMDP.random(3, 2, seed=0)
    data = Demonstrations.sample(soft_optimal(mdp, 0.5).policy, 200, 0)
    features = [np.random.default_rng(h).standard_normal((3**h, 3, 2)) for h in range(2)]
    assert maxent_irl(data, 0.5, features=features).optimum.gap < 1e-8


def test_behaviour_must_not_write_what_is_forbidden():
    mdp = TokenMDP.tree([np.zeros((1, 2))], allowed=[np.array([[True, False]])])
    free = Policy.from_probs(TokenMDP.tree([np.zeros((1, 2))]).dynamics, [np.array([[0.5, 0.5]])])
    with pytest.raises(
        ValueError, match="behaviour: chooses a token of layer 0 that the MDP forbids"
    ):
        soft_q_learning(mdp, 0.5, rounds=2, behaviour=free)
