"""Exact adversaries against linear programs, random search, and policies that attain what is claimed."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linprog
from strategies import build, random_policy, same_mdp_three_ways, seeds

from theory.adversary import (
    best_clone,
    caps,
    floors,
    preference_attaining_policy,
    worst_clone,
    worst_kl,
    worst_map,
    worst_preference,
    worst_preference_pair,
)
from theory.mdp import TokenMDP
from theory.policy import (
    Policy,
    Responses,
    all_responses,
    kl,
    log_prob,
    map_response,
    max_log_ratio,
    plain_value,
    plain_values,
    sample_log_ratio_ball,
)
from theory.reward import preference_tv, returns
from theory.soft import plain_optimal, soft_optimal

check = settings(derandomize=True, deadline=None, max_examples=40)
few = settings(derandomize=True, deadline=None, max_examples=15)
epsilons = st.floats(math.log(1e-3), math.log(3.0)).map(math.exp)
alphas = st.floats(math.log(0.05), math.log(20.0)).map(math.exp)
FLOAT = {"rtol": 1e-12, "atol": 1e-12}


@st.composite
def problems(draw, max_vocab=4, max_horizon=4, rules=("tree", "window", "table"), prompts=2, soft=False, min_vocab=1):
    """``(mdp, expert)``: the soft-optimal expert at some temperature, or any policy."""
    V, H = draw(st.integers(min_vocab, max_vocab)), draw(st.integers(1, max_horizon))
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["uniform", "uniform", "binary", "sparse"]))
    rule = draw(st.sampled_from(rules))
    mdp = build(rule, rng, draw(st.integers(1, prompts)), V, H, kind, draw(st.booleans()))
    if soft or draw(st.booleans()):
        return mdp, soft_optimal(mdp, draw(alphas)).policy
    return mdp, random_policy(mdp.dynamics, rng, draw(st.sampled_from([0.3, 1.5, 4.0])))


def assert_in_ball(policy, expert, epsilon):
    assert (max_log_ratio(policy, expert) <= np.asarray(epsilon) * (1 + 1e-12) + 1e-12).all()
    for table in policy.log_probs:
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, **FLOAT)


def ball_members(expert, epsilon, n=6):
    return [sample_log_ratio_ball(expert, epsilon, seed, spread) for seed in range(n) for spread in (1.0, 20.0)]


# --- What the ball allows ------------------------------------------------------------------------------------------


@check
@given(problems(max_horizon=1), epsilons)
def test_caps_and_floors_are_the_extremes_of_a_row(problem, epsilon):
    _, expert = problem
    table = expert.log_probs[0]
    for row, high, low in zip(np.exp(table), caps(table, epsilon), floors(table, epsilon), strict=True):
        for a in range(len(row)):
            for sign, claimed in ((1.0, low[a]), (-1.0, high[a])):
                best = row_program(row, sign * (np.arange(len(row)) == a), epsilon)
                assert_allclose(claimed, sign * best, rtol=1e-9, atol=1e-9)


def test_certain_and_impossible_tokens_stay():
    table = np.array([[0.0, -np.inf]])
    assert caps(table, 0.7).tolist() == floors(table, 0.7).tolist() == [[1.0, 0.0]]


def row_program(p, cost, epsilon):
    """Least ``Σ p̂ cost`` of one row of the ball, by a linear program."""
    bounds = np.stack([np.exp(-epsilon) * p, np.exp(epsilon) * p], axis=-1)
    solved = linprog(cost, A_eq=np.ones((1, len(p))), b_eq=[p.sum()], bounds=bounds, method="highs")
    assert solved.status == 0
    return solved.fun


# --- Divergence ----------------------------------------------------------------------------------------------------


@check
@given(problems(), epsilons)
def test_worst_kl_is_attained_in_the_ball_and_never_beaten(problem, epsilon):
    _, expert = problem
    policy, values = worst_kl(expert, epsilon)
    assert_in_ball(policy, expert, epsilon)
    assert_allclose(values[0], kl(policy, expert, per_prompt=True), rtol=1e-10, atol=1e-12)
    for member in ball_members(expert, epsilon):
        assert (kl(member, expert, per_prompt=True) <= values[0] + 1e-12).all()
    H = expert.horizon
    assert (values[0] <= H * epsilon * np.tanh(epsilon / 2) * (1 + 1e-12)).all()


def test_worst_kl_of_a_fair_coin_by_hand():
    """One fair coin: the ball lets one side fall to ``e^{−ε}/2``, no vertex is further."""
    mdp = TokenMDP.tree([np.zeros((1, 2))])
    expert = soft_optimal(mdp, 1.0).policy
    low = math.exp(-0.5) / 2
    assert worst_kl(expert, 0.5).values[0][0] == pytest.approx(
        low * math.log(2 * low) + (1 - low) * math.log(2 * (1 - low)), rel=1e-13
    )


def test_worst_kl_refuses_a_large_vocabulary():
    mdp = TokenMDP.tree([np.zeros((1, 9))])
    with pytest.raises(ValueError, match="vocab_size=9"):
        worst_kl(soft_optimal(mdp, 1.0).policy, 0.1)


# --- Cloning -------------------------------------------------------------------------------------------------------


@check
@given(problems(), epsilons)
def test_clones_are_in_the_ball_and_have_the_values_claimed(problem, epsilon):
    mdp, expert = problem
    for policy, values in (worst_clone(mdp, expert, epsilon), best_clone(mdp, expert, epsilon)):
        assert_in_ball(policy, expert, epsilon)
        for claimed, value in zip(values, plain_values(mdp, policy), strict=True):
            assert_allclose(claimed, value, **FLOAT)


@check
@given(problems(), epsilons)
def test_no_sampled_policy_is_outside_the_clones(problem, epsilon):
    mdp, expert = problem
    low, high = (plain_values(mdp, f(mdp, expert, epsilon).policy)[0] for f in (worst_clone, best_clone))
    for member in [expert, *ball_members(expert, epsilon)]:
        value = plain_values(mdp, member)[0]
        assert (low <= value + 1e-12).all()
        assert (value <= high + 1e-12).all()


@check
@given(problems(max_vocab=3, max_horizon=3), epsilons)
def test_worst_clone_is_backward_induction_by_linear_programs(problem, epsilon):
    mdp, expert = problem
    following = None
    for h in reversed(range(mdp.horizon)):
        totals = mdp.rewards[h] + mdp.dynamics.children(h, following)
        following = np.array(
            [row_program(p, cost, epsilon) for p, cost in zip(np.exp(expert.log_probs[h]), totals, strict=True)]
        )
        assert_allclose(worst_clone(mdp, expert, epsilon).values[h], following, rtol=1e-9, atol=1e-9)


@few
@given(problems(max_vocab=3, max_horizon=3, rules=("tree",), prompts=1), epsilons)
def test_clones_are_one_program_over_path_probabilities(problem, epsilon):
    mdp, expert = problem
    plan = Plan(expert, epsilon)
    cost = np.concatenate([reward.reshape(-1) for reward in mdp.rewards])
    assert_allclose(worst_clone(mdp, expert, epsilon).values[0][0], plan.least(cost), rtol=1e-9, atol=1e-9)
    assert_allclose(best_clone(mdp, expert, epsilon).values[0][0], -plan.least(-cost), rtol=1e-9, atol=1e-9)


@check
@given(same_mdp_three_ways(), seeds, epsilons)
def test_worst_clone_is_the_same_on_every_successor_rule(mdps, seed, epsilon):
    tree, window, table = mdps
    expert = random_policy(window.dynamics, np.random.default_rng(seed))
    values = [
        worst_clone(tree, expert.as_tree(), epsilon).values[0],
        worst_clone(table, Policy(table.dynamics, expert.log_probs), epsilon).values[0],
    ]
    for value in values:
        assert_allclose(value, worst_clone(window, expert, epsilon).values[0], **FLOAT)


@pytest.mark.parametrize("vocab_size", [3, 11])  # by pairs, and by sorting
@pytest.mark.parametrize("rule", ["tree", "window"])
def test_batches_agree_with_one_at_a_time(rule, vocab_size):
    rng = np.random.default_rng(3)
    H = 2 if vocab_size > 3 else 3
    singles = [build(rule, rng, 2, vocab_size, H, prompt_weights=[0.3, 0.7]) for _ in range(4)]
    mdp = TokenMDP(singles[0].dynamics, tuple(np.stack(r) for r in zip(*(m.rewards for m in singles), strict=True)))
    epsilon, alpha = np.array([0.01, 0.2, 1.0, 2.5]), np.array([0.1, 0.4, 2.0, 5.0])
    expert = soft_optimal(mdp, alpha).policy
    clone, adversary = worst_clone(mdp, expert, epsilon), worst_map(mdp, expert, epsilon)
    every = all_responses(mdp.dynamics)
    first, second = (Responses(every.prompts[:8], every.tokens[i : i + 8]) for i in (0, 1))
    errors = worst_preference(mdp, expert, epsilon, alpha, first, second)
    shared = worst_clone(singles[0], soft_optimal(singles[0], 0.1).policy, epsilon)
    for i, single in enumerate(singles):
        one = soft_optimal(single, float(alpha[i])).policy
        assert_allclose(clone.values[0][i], worst_clone(single, one, float(epsilon[i])).values[0], **FLOAT)
        alone = worst_map(single, one, float(epsilon[i]))
        assert_allclose(adversary.returns[i], alone.returns, **FLOAT)
        for table, other in zip(adversary.policy.log_probs, alone.policy.log_probs, strict=True):
            assert_allclose(table[i], other, rtol=1e-10, atol=1e-10)
        alone = worst_preference(single, one, float(epsilon[i]), float(alpha[i]), first, second)
        assert_allclose(errors[i], alone, **FLOAT)
        alone = worst_clone(singles[0], soft_optimal(singles[0], 0.1).policy, float(epsilon[i]))
        assert_allclose(shared.values[0][i], alone.values[0], **FLOAT)


def test_a_nearly_deterministic_expert_stays_in_the_ball():
    rewards = [np.array([[0.0, 1.0, 0.3]]), np.random.default_rng(0).uniform(0, 1, (3, 3))]
    mdp = TokenMDP.tree(rewards)
    expert = soft_optimal(mdp, 1e-3).policy  # log-probabilities down to −1000: they underflow
    assert_in_ball(worst_clone(mdp, expert, 0.5).policy, expert, 0.5)
    adversary = worst_map(mdp, expert, 0.5)
    assert_in_ball(adversary.policy, expert, 0.5)
    assert_allclose(adversary.returns, returns(mdp, map_response(expert)))


# --- MAP -----------------------------------------------------------------------------------------------------------


class Plan:
    """Linear programs over path probabilities ``x(s,a)`` on a tree with one prompt: ``Σ_a x(s,a) = x(s)`` and
    ``e^{−ε} p x(s) ≤ x(s,a) ≤ e^ε p x(s)``.
    """

    def __init__(self, expert, epsilon):
        V, H = expert.dynamics.vocab_size, expert.horizon
        starts = np.cumsum([0, *(V ** (h + 1) for h in range(H))])
        n = starts[-1]
        self.leaves = np.arange(starts[-2], n)
        equal, self.right, below = [], [], []
        for h, s in [(layer, state) for layer in range(H) for state in range(V**layer)]:
            children = starts[h] + s * V + np.arange(V)
            total = np.zeros(n)
            total[children] = 1.0
            parent = np.zeros(n)
            if h > 0:
                parent[starts[h - 1] + s] = 1.0
            equal.append(total - parent)
            self.right.append(0.0 if h else 1.0)
            for a, child in enumerate(children):
                own, p = np.arange(n) == child, np.exp(expert.log_probs[h][s, a])
                constant = 0.0 if h else 1.0
                below.append((own - np.exp(epsilon) * p * parent, np.exp(epsilon) * p * constant))
                below.append((np.exp(-epsilon) * p * parent - own, -np.exp(-epsilon) * p * constant))
        self.equal, self.below = np.array(equal), np.array([row for row, _ in below])
        self.limit = np.array([limit for _, limit in below])

    def least(self, cost):
        solved = linprog(cost, self.below, self.limit, self.equal, self.right, bounds=(0, None), method="highs")
        assert solved.status == 0
        return solved.fun

    def lead(self, leaf):
        """Greatest ``x(leaf) − max_other x``: the response can be a MAP response iff it is not negative."""
        others = self.leaves[self.leaves != leaf]
        n = len(self.equal[0])
        rows = np.zeros((len(others), n + 1))  # the last variable bounds every other leaf from above
        rows[np.arange(len(others)), others] = 1.0
        rows[:, n] = -1.0
        widen = [np.pad(m, ((0, 0), (0, 1))) for m in (self.below, self.equal)]
        cost = np.zeros(n + 1)
        cost[leaf], cost[n] = -1.0, 1.0
        limit = np.concatenate([self.limit, np.zeros(len(others))])
        solved = linprog(cost, np.vstack([widen[0], rows]), limit, widen[1], self.right, bounds=(0, None))
        assert solved.status == 0
        return -solved.fun


@check
@given(problems(), epsilons)
def test_worst_map_is_attained_in_the_ball(problem, epsilon):
    mdp, expert = problem
    adversary = worst_map(mdp, expert, epsilon)
    assert_in_ball(adversary.policy, expert.as_tree(), epsilon)
    assert_allclose(adversary.returns, returns(mdp, adversary.responses), **FLOAT)
    most = log_prob(adversary.policy, map_response(adversary.policy))
    assert_allclose(log_prob(adversary.policy, adversary.responses), most, rtol=1e-11, atol=1e-11)


@check
@given(problems(), epsilons)
def test_no_sampled_policy_has_a_worse_map(problem, epsilon):
    mdp, expert = problem
    worst = worst_map(mdp, expert, epsilon).returns
    for member in [expert, *ball_members(expert.as_tree(), epsilon)]:
        assert (worst <= returns(mdp, map_response(member)) + 1e-12).all()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(problems(max_vocab=3, max_horizon=3, rules=("tree",), prompts=1, min_vocab=2), epsilons)
def test_worst_map_is_the_least_return_that_programs_find_feasible(problem, epsilon):
    mdp, expert = problem
    plan = Plan(expert, epsilon)
    every = all_responses(mdp.dynamics)
    possible = log_prob(expert, every) > -np.inf
    leads = np.array([plan.lead(leaf) if p else -1.0 for leaf, p in zip(plan.leaves, possible, strict=True)])
    gained = returns(mdp, every)
    # A lead within the solver's precision of zero decides nothing: the answer lies between the two readings.
    surely, perhaps = gained[leads > 1e-8].min(initial=np.inf), gained[(leads > -1e-8) & possible].min()
    worst = float(worst_map(mdp, expert, epsilon).returns[0])
    assert perhaps - 1e-12 <= worst <= surely + 1e-12


@check
@given(problems(soft=True), epsilons)
def test_worst_map_falls_with_the_radius_from_the_experts_own(problem, epsilon):
    mdp, expert = problem
    radii = (1e-9, epsilon / 2, epsilon, 2 * epsilon)
    series = [worst_map(mdp, expert, radius).returns for radius in radii]
    assert all((later <= earlier + 1e-12).all() for earlier, later in pairwise(series))
    assert (worst_map(mdp, expert, 40.0).returns >= -1e-12).all()


@few
@given(st.integers(2, 4), st.integers(1, 4), seeds, alphas, epsilons)
def test_worst_map_respects_the_bound_of_theorem_2(V, H, seed, alpha, epsilon):
    mdp = build("tree", np.random.default_rng(seed), 1, V, H)
    expert = soft_optimal(mdp, alpha).policy
    gap = plain_value(mdp, plain_optimal(mdp).policy) - worst_map(mdp, expert, epsilon).returns[0]
    assert gap <= 2 * alpha * H * epsilon + 1e-9


# --- Preferences ---------------------------------------------------------------------------------------------------


@st.composite
def preferences(draw, **options):
    """``(mdp, expert, alpha, first, second)``: a soft-optimal expert and one pair of responses it can give."""
    V, H = draw(st.integers(2, options.get("max_vocab", 4))), draw(st.integers(1, options.get("max_horizon", 4)))
    rng = np.random.default_rng(draw(seeds))
    rule = draw(st.sampled_from(["tree", "window", "table"]))
    mdp = build(rule, rng, 2, V, H, masked=draw(st.booleans()))
    alpha = draw(alphas)
    expert = soft_optimal(mdp, alpha).policy
    every = all_responses(mdp.dynamics)
    possible = np.flatnonzero((log_prob(expert, every) > -np.inf) & (every.prompts == 1))
    i, j = (possible[[k % len(possible)]] for k in draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    first, second = (Responses(every.prompts[k], every.tokens[k]) for k in (i, j))
    return mdp, expert, alpha, first, second


def error(mdp, alpha, policy, first, second):
    true = returns(mdp, first) - returns(mdp, second)
    return preference_tv(true, alpha * (log_prob(policy, first) - log_prob(policy, second)))


@check
@given(preferences(), epsilons)
def test_worst_preference_is_attained_and_never_beaten(preference, epsilon):
    mdp, expert, alpha, first, second = preference
    worst = worst_preference(mdp, expert, epsilon, alpha, first, second)
    policy = preference_attaining_policy(mdp, expert, epsilon, alpha, first, second)
    assert_in_ball(policy, expert.as_tree(), epsilon)
    assert_allclose(error(mdp, alpha, policy, first, second), worst, rtol=1e-9, atol=1e-12)
    for member in ball_members(expert.as_tree(), epsilon):
        assert (error(mdp, alpha, member, first, second) <= worst + 1e-12).all()
    parted = int((first.tokens != second.tokens).cumsum(axis=-1).astype(bool).sum())
    assert worst[0] <= np.tanh(alpha * epsilon * parted / 2) + 1e-12


@few
@given(preferences(max_vocab=4, max_horizon=2), epsilons)
def test_worst_preference_is_the_extreme_over_vertices_of_every_row(preference, epsilon):
    """``log p̂_a − log p̂_a'`` is quasi-convex in a row, so its extremes are vertices: all tokens but one at a bound."""
    mdp, expert, alpha, first, second = preference
    tree = expert.as_tree()
    walks = [np.concatenate(tree.dynamics.walk(r.prompts, r.tokens)) for r in (first, second)]
    low = high = 0.0
    for h, (s, t) in enumerate(zip(*walks, strict=True)):
        a, b = first.tokens[0, h], second.tokens[0, h]
        if (s, a) == (t, b):
            continue
        if s == t:
            ratios = [np.log(row[a] / row[b]) for row in vertices(np.exp(tree.log_probs[h][s]), epsilon)]
        else:
            ones = [np.log(row[a]) for row in vertices(np.exp(tree.log_probs[h][s]), epsilon)]
            twos = [np.log(row[b]) for row in vertices(np.exp(tree.log_probs[h][t]), epsilon)]
            ratios = [min(ones) - max(twos), max(ones) - min(twos)]
        low, high = low + min(ratios), high + max(ratios)
    true = returns(mdp, first) - returns(mdp, second)
    brute = np.maximum(preference_tv(true, alpha * np.array([low])), preference_tv(true, alpha * np.array([high])))
    assert_allclose(worst_preference(mdp, expert, epsilon, alpha, first, second), brute, rtol=1e-8, atol=1e-10)


def vertices(p, epsilon):
    """Vertices of the rows in ``[e^{−ε}p, e^ε p]`` that sum to one: all tokens but one at a bound."""
    for free, signs in product(range(len(p)), product((-epsilon, epsilon), repeat=len(p))):
        row = p * np.exp(signs)
        row[free] = 0.0
        row[free] = 1.0 - row.sum()
        if p[free] * np.exp(-epsilon) * (1 - 1e-9) <= row[free] <= p[free] * np.exp(epsilon) * (1 + 1e-9):
            yield row


@few
@given(preferences(max_vocab=3, max_horizon=3), epsilons)
def test_worst_pair_is_the_worst_of_all_pairs(preference, epsilon):
    mdp, expert, alpha, first, second = preference
    worst, one, two = worst_preference_pair(mdp, expert, epsilon, alpha)
    assert (worst_preference(mdp, expert, epsilon, alpha, first, second) <= worst).all()
    assert_allclose(worst_preference(mdp, expert, epsilon, alpha, one, two), worst, **FLOAT)


def test_the_worst_pair_in_pieces_is_the_worst_pair_at_once(monkeypatch):
    mdp = build("tree", np.random.default_rng(0), 2, 2, 5)
    expert = soft_optimal(mdp, 0.7).policy
    whole = worst_preference_pair(mdp, expert, 0.3, 0.7)
    monkeypatch.setattr("theory.adversary.PAIRS_AT_ONCE", 50)
    pieces = worst_preference_pair(mdp, expert, 0.3, 0.7)
    assert pieces[0] == whole[0]
    assert worst_preference(mdp, expert, 0.3, 0.7, pieces[1], pieces[2]) == pieces[0]


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    mdp, short = build("tree", rng, 2, 2, 13), build("tree", rng, 1, 2, 2)
    expert, other = soft_optimal(mdp, 1.0).policy, soft_optimal(short, 1.0).policy
    one, two = (Responses(np.array([prompt]), np.zeros((1, 13), dtype=int)) for prompt in (0, 1))
    with pytest.raises(ValueError, match="epsilon"):
        worst_clone(mdp, expert, 0.0)
    with pytest.raises(ValueError, match="8192 responses"):
        worst_preference_pair(mdp, expert, 0.1, 1.0)
    with pytest.raises(ValueError, match="different prompts"):
        worst_preference(mdp, expert, 0.1, 1.0, one, two)
    with pytest.raises(ValueError, match="without batch axes"):
        worst_preference_pair(short, other, np.array([0.1, 0.2]), 1.0)
    with pytest.raises(ValueError, match="different dynamics"):
        worst_map(short, expert, 0.1)
