"""Exact adversaries against linear programs, random search, and policies that attain what is
claimed.
"""

import math
from decimal import Context, Decimal, localcontext
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import linprog
from strategies import build, random_policy, same_mdp_three_ways, seeds

from theory.mdp.discounted import DiscountedMDP
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    log_prob,
    map_response,
    sample_log_ratio_ball,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value, plain_values
from theory.solve.ball import log_caps, log_floors, require_radius
from theory.solve.discounted import worst_clone as discounted_worst_clone
from theory.solve.reward import preference_tv, returns
from theory.solve.soft import plain_optimal, soft_optimal
from theory.solve.worst_clone import best_clone, worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map
from theory.solve.worst_preference import (
    preference_attaining_policy,
    worst_preference,
    worst_preference_pair,
)

check = settings(derandomize=True, deadline=None, max_examples=40)
few = settings(derandomize=True, deadline=None, max_examples=15)
epsilons = st.floats(math.log(1e-3), math.log(3.0)).map(math.exp)
alphas = st.floats(math.log(0.05), math.log(20.0)).map(math.exp)
FLOAT = {"rtol": 1e-12, "atol": 1e-12}


@st.composite
def problems(
    draw,
    max_vocab=4,
    max_horizon=4,
    rules=("tree", "window", "table"),
    prompts=2,
    soft=False,
    min_vocab=1,
):
    """``(mdp, expert)``: the soft-optimal expert at some temperature, or any policy."""
    V, H = draw(st.integers(min_vocab, max_vocab)), draw(st.integers(1, max_horizon))
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["uniform", "uniform", "binary", "sparse"]))
    rule = draw(st.sampled_from(rules))
    mdp = build(rule, rng, draw(st.integers(1, prompts)), V, H, kind, draw(st.booleans()))
    if soft or draw(st.booleans()):
        return mdp, soft_optimal(mdp, draw(alphas)).policy
    return mdp, random_policy(mdp.dynamics, rng, draw(st.sampled_from([0.3, 1.5, 4.0])))


def row_caps(log_p, epsilon):
    return np.exp(log_caps(log_p, require_radius(epsilon)))


def row_floors(log_p, epsilon):
    return np.exp(log_floors(log_p, require_radius(epsilon)))


def assert_in_ball(policy, expert, epsilon):
    assert (max_log_ratio(policy, expert) <= np.asarray(epsilon) * (1 + 1e-12) + 1e-12).all()
    for table in policy.log_probs:
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, **FLOAT)


def ball_members(expert, epsilon, n=6):
    return [
        sample_log_ratio_ball(expert, epsilon, seed, spread)
        for seed in range(n)
        for spread in (1.0, 20.0)
    ]


# --- What the ball allows -------------------------------------------------------------------------


@check
@given(problems(max_horizon=1), epsilons)
def test_caps_and_floors_are_the_extremes_of_a_row(problem, epsilon):
    _, expert = problem
    table = expert.log_probs[0]
    for row, high, low in zip(
        np.exp(table), row_caps(table, epsilon), row_floors(table, epsilon), strict=True
    ):
        for a in range(len(row)):
            for sign, claimed in ((1.0, low[a]), (-1.0, high[a])):
                best = row_program(row, sign * (np.arange(len(row)) == a), epsilon)
                assert_allclose(claimed, sign * best, rtol=1e-9, atol=1e-9)


def test_certain_and_impossible_tokens_stay():
    table = np.array([[0.0, -np.inf]])
    assert row_caps(table, 0.7).tolist() == row_floors(table, 0.7).tolist() == [[1.0, 0.0]]


def row_program(p, cost, epsilon):
    """Least ``Σ p̂ cost`` of one row of the ball, by a linear program."""
    bounds = np.stack([np.exp(-epsilon) * p, np.exp(epsilon) * p], axis=-1)
    solved = linprog(cost, A_eq=np.ones((1, len(p))), b_eq=[p.sum()], bounds=bounds, method="highs")
    assert solved.status == 0
    return solved.fun


# --- Divergence -----------------------------------------------------------------------------------


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


# --- Cloning --------------------------------------------------------------------------------------


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
    low, high = (
        plain_values(mdp, f(mdp, expert, epsilon).policy)[0] for f in (worst_clone, best_clone)
    )
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
            [
                row_program(p, cost, epsilon)
                for p, cost in zip(np.exp(expert.log_probs[h]), totals, strict=True)
            ]
        )
        assert_allclose(
            worst_clone(mdp, expert, epsilon).values[h], following, rtol=1e-9, atol=1e-9
        )


@few
@given(problems(max_vocab=3, max_horizon=3, rules=("tree",), prompts=1), epsilons)
def test_clones_are_one_program_over_path_probabilities(problem, epsilon):
    mdp, expert = problem
    plan = Plan(expert, epsilon)
    cost = np.concatenate([reward.reshape(-1) for reward in mdp.rewards])
    assert_allclose(
        worst_clone(mdp, expert, epsilon).values[0][0], plan.least(cost), rtol=1e-9, atol=1e-9
    )
    assert_allclose(
        best_clone(mdp, expert, epsilon).values[0][0], -plan.least(-cost), rtol=1e-9, atol=1e-9
    )


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
    mdp = TokenMDP(
        singles[0].dynamics,
        tuple(np.stack(r) for r in zip(*(m.rewards for m in singles), strict=True)),
    )
    epsilon, alpha = np.array([0.01, 0.2, 1.0, 2.5]), np.array([0.1, 0.4, 2.0, 5.0])
    expert = soft_optimal(mdp, alpha).policy
    clone, adversary = worst_clone(mdp, expert, epsilon), worst_map(mdp, expert, epsilon)
    every = all_responses(mdp.dynamics)
    first, second = (Responses(every.prompts[:8], every.tokens[i : i + 8]) for i in (0, 1))
    errors = worst_preference(mdp, expert, epsilon, alpha, first, second)
    shared = worst_clone(singles[0], soft_optimal(singles[0], 0.1).policy, epsilon)
    for i, single in enumerate(singles):
        one = soft_optimal(single, float(alpha[i])).policy
        assert_allclose(
            clone.values[0][i], worst_clone(single, one, float(epsilon[i])).values[0], **FLOAT
        )
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


# --- MAP ------------------------------------------------------------------------------------------


class Plan:
    """Linear programs over path probabilities ``x(s,a)`` on a tree with one prompt: ``Σ_a x(s,a) =
    x(s)`` and ``e^{−ε} p x(s) ≤ x(s,a) ≤ e^ε p x(s)``.
    """

    def __init__(self, expert, epsilon):
        V, H = expert.dynamics.vocab_size, expert.horizon
        starts = np.cumsum([0, *(V ** (h + 1) for h in range(H))])
        n = starts[-1]
        self.leaves = np.arange(starts[-2], n)
        equal, self.right, below = [], [], []
        reach = np.ones(n)  # path probabilities under the expert, the unit of each variable
        units = []  # of each state's rows
        for h, s in [(layer, state) for layer in range(H) for state in range(V**layer)]:
            children = starts[h] + s * V + np.arange(V)
            total = np.zeros(n)
            total[children] = 1.0
            parent = np.zeros(n)
            unit = reach[starts[h - 1] + s] if h > 0 else 1.0
            if h > 0:
                parent[starts[h - 1] + s] = 1.0
            reach[children] = unit * np.exp(expert.log_probs[h][s])
            units.append(unit if unit > 0 else 1.0)
            equal.append(total - parent)
            self.right.append(0.0 if h else 1.0)
            for a, child in enumerate(children):
                own, p = np.arange(n) == child, np.exp(expert.log_probs[h][s, a])
                constant = 0.0 if h else 1.0
                below.append((own - np.exp(epsilon) * p * parent, np.exp(epsilon) * p * constant))
                below.append(
                    (np.exp(-epsilon) * p * parent - own, -np.exp(-epsilon) * p * constant)
                )
        # In these units the solver's tolerances are relative to each path's probability.
        units = np.array(units)
        self.reach = reach
        self.equal = np.array(equal) * reach / units[:, None]
        self.below = np.array([row for row, _ in below]) * reach / units.repeat(2 * V)[:, None]
        self.limit = np.array([limit for _, limit in below])

    def least(self, cost):
        cost = cost * self.reach
        solved = linprog(
            cost, self.below, self.limit, self.equal, self.right, bounds=(0, None), method="highs"
        )
        assert solved.status == 0
        return solved.fun

    def lead(self, leaf):
        """Greatest ``x(leaf) − max_other x``: the response can be a MAP response iff it is not
        negative.
        """
        others = self.leaves[self.leaves != leaf]
        n = len(self.equal[0])
        rows = np.zeros(
            (len(others), n + 1)
        )  # the last variable bounds every other leaf from above
        rows[np.arange(len(others)), others] = self.reach[others]
        rows[:, n] = -1.0
        widen = [np.pad(m, ((0, 0), (0, 1))) for m in (self.below, self.equal)]
        cost = np.zeros(n + 1)
        cost[leaf], cost[n] = -self.reach[leaf], 1.0
        limit = np.concatenate([self.limit, np.zeros(len(others))])
        solved = linprog(
            cost, np.vstack([widen[0], rows]), limit, widen[1], self.right, bounds=(0, None)
        )
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
    leads = np.array(
        [plan.lead(leaf) if p else -1.0 for leaf, p in zip(plan.leaves, possible, strict=True)]
    )
    gained = returns(mdp, every)
    # A lead within the solver's precision of zero decides nothing: the answer lies between the two
    # readings.
    surely, perhaps = (
        gained[leads > 1e-8].min(initial=np.inf),
        gained[(leads > -1e-8) & possible].min(),
    )
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


# --- Preferences ----------------------------------------------------------------------------------


@st.composite
def preferences(draw, **options):
    """``(mdp, expert, alpha, first, second)``: a soft-optimal expert and one pair of responses it
    can give.
    """
    V, H = (
        draw(st.integers(2, options.get("max_vocab", 4))),
        draw(st.integers(1, options.get("max_horizon", 4))),
    )
    rng = np.random.default_rng(draw(seeds))
    rule = draw(st.sampled_from(["tree", "window", "table"]))
    mdp = build(rule, rng, 2, V, H, masked=draw(st.booleans()))
    alpha = draw(alphas)
    expert = soft_optimal(mdp, alpha).policy
    every = all_responses(mdp.dynamics)
    possible = np.flatnonzero((log_prob(expert, every) > -np.inf) & (every.prompts == 1))
    i, j = (
        possible[[k % len(possible)]]
        for k in draw(st.tuples(st.integers(0, 255), st.integers(0, 255)))
    )
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
    """``log p̂_a − log p̂_a'`` is quasi-convex in a row, so its extremes are vertices: all tokens
    but one at a bound.
    """
    mdp, expert, alpha, first, second = preference
    tree = expert.as_tree()
    walks = [np.concatenate(tree.dynamics.walk(r.prompts, r.tokens)) for r in (first, second)]
    low = high = 0.0
    for h, (s, t) in enumerate(zip(*walks, strict=True)):
        a, b = first.tokens[0, h], second.tokens[0, h]
        if (s, a) == (t, b):
            continue
        if s == t:
            ratios = [
                np.log(row[a] / row[b]) for row in vertices(np.exp(tree.log_probs[h][s]), epsilon)
            ]
        else:
            ones = [np.log(row[a]) for row in vertices(np.exp(tree.log_probs[h][s]), epsilon)]
            twos = [np.log(row[b]) for row in vertices(np.exp(tree.log_probs[h][t]), epsilon)]
            ratios = [min(ones) - max(twos), max(ones) - min(twos)]
        low, high = low + min(ratios), high + max(ratios)
    true = returns(mdp, first) - returns(mdp, second)
    brute = np.maximum(
        preference_tv(true, alpha * np.array([low])), preference_tv(true, alpha * np.array([high]))
    )
    assert_allclose(
        worst_preference(mdp, expert, epsilon, alpha, first, second), brute, rtol=1e-8, atol=1e-10
    )


def vertices(p, epsilon):
    """Vertices of the rows in ``[e^{−ε}p, e^ε p]`` that sum to one: all tokens but one at a
    bound.
    """
    for free, signs in product(range(len(p)), product((-epsilon, epsilon), repeat=len(p))):
        row = p * np.exp(signs)
        row[free] = 0.0
        row[free] = 1.0 - row.sum()
        if (
            p[free] * np.exp(-epsilon) * (1 - 1e-9)
            <= row[free]
            <= p[free] * np.exp(epsilon) * (1 + 1e-9)
        ):
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
    monkeypatch.setattr("theory.solve.worst_preference.PAIRS_AT_ONCE", 50)
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


# --- Any radius -----------------------------------------------------------------------------------

RADII = (1e-300, 1e-12, 1e-10, 1e-6, 1.0, 50.0, 700.0, 800.0, 1e5, 1e300, math.inf)
PRECISE = Context(prec=100, Emin=-(10**6), Emax=10**6)
ULP = float(np.finfo(float).eps)


def experts():
    """By name ``(mdp, expert)``: forbidden tokens; log-probabilities down to −1000, where `p`
    underflows; a `p` that rounds to one; equal probabilities; nothing to choose.
    """
    rng = np.random.default_rng(11)
    masked, single = build("tree", rng, 2, 3, 3, masked=True), build("tree", rng, 2, 1, 3)
    sharp, window = build("tree", rng, 1, 3, 2), build("window", rng, 1, 3, 3)
    return {
        "masked": (masked, soft_optimal(masked, 0.7).policy),
        "sharp": (sharp, soft_optimal(sharp, 1e-3).policy),
        "certain": (window, soft_optimal(window, 0.015).policy),
        "uniform": (window, soft_optimal(window, 1e9).policy),
        "single": (single, soft_optimal(single, 1.0).policy),
    }


EXPERTS = experts()
any_expert = pytest.mark.parametrize("name", EXPERTS)
any_radius = pytest.mark.parametrize("epsilon", RADII)


def exact_row(log_p):
    return [Decimal(0) if x == -math.inf else Decimal(float(x)).exp() for x in log_p]


def exact_bounds(p, epsilon):
    """Floors and caps of a row: a bound of the token's own, or what is left to it where all others
    are at theirs.
    """
    if epsilon > 1e5:  # the limit, to far more digits than are compared
        alone = sum(x > 0 for x in p) == 1
        return [x if alone else Decimal(0) for x in p], [sum(p) if x else x for x in p]
    up = Decimal(epsilon).exp()
    rests = [sum(p[:a] + p[a + 1 :]) for a in range(len(p))]
    least = [
        sum(p) - up * rest if x > up * rest else x / up for x, rest in zip(p, rests, strict=True)
    ]
    most = [
        sum(p) - rest / up if up * x > rest else up * x for x, rest in zip(p, rests, strict=True)
    ]
    return least, most


def exact_vertices(p, epsilon):
    """Rows of the ball with all tokens but one at a bound, and their log-ratios, without the
    impossible tokens.
    """
    support = [a for a, x in enumerate(p) if x]
    if epsilon > 1e5:
        return [({a: sum(p)}, {a: (sum(p) / p[a]).ln()}) for a in support]
    found, up, slack = [], Decimal(epsilon).exp(), 1 + Decimal("1e-80")
    for free in support:
        others = [a for a in support if a != free]
        for signs in product((-1, 1), repeat=len(others)):
            row = {a: p[a] * up**sign for a, sign in zip(others, signs, strict=True)}
            row[free] = sum(p) - sum(row.values())
            if p[free] / up <= row[free] * slack and row[free] <= p[free] * up * slack:
                found.append((row, {a: (x / p[a]).ln() for a, x in row.items()}))
    return found


def exact_values(expert, step):
    """Values of the prompts by backward induction; ``step(h, s, p, below)`` is that of a state."""
    dynamics, V = expert.dynamics, expert.dynamics.vocab_size
    values = []
    for h in reversed(range(expert.horizon)):
        rows = [exact_row(log_p) for log_p in expert.log_probs[h]]
        below = [
            [values[dynamics.rule.step(h, s, a, V)] if values else 0 for a in range(V)]
            for s in range(len(rows))
        ]
        values = [step(h, s, p, w) for s, (p, w) in enumerate(zip(rows, below, strict=True))]
    return values


def assert_rows_in_ball(policy, expert, epsilon):
    """As `assert_in_ball`, but to a few roundings of the log-probabilities themselves."""
    for table, centre in zip(policy.log_probs, expert.log_probs, strict=True):
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, rtol=0, atol=1e-12)
        centre = np.broadcast_to(centre, table.shape)
        possible = centre > -np.inf
        assert (table[~possible] == -np.inf).all()
        assert (table <= 1e-15).all()
        if epsilon < math.inf:
            off = np.abs(table[possible] - centre[possible]) - epsilon
            assert (off <= 1e-12 * epsilon + 4 * ULP * (1 + np.abs(centre[possible]))).all()


@any_expert
@any_radius
def test_clones_at_any_radius_are_exact(name, epsilon):
    mdp, expert = EXPERTS[name]

    def totals(h, s, below):
        return [Decimal(float(r)) + w for r, w in zip(mdp.rewards[h][s], below, strict=True)]

    def own(h, s, p, below):
        return sum(x * total for x, total in zip(p, totals(h, s, below), strict=True))

    for solve, extreme in ((worst_clone, min), (best_clone, max)):

        def step(h, s, p, below, extreme=extreme):
            total = totals(h, s, below)
            return extreme(
                sum(x * total[a] for a, x in row.items()) for row, _ in exact_vertices(p, epsilon)
            )

        with localcontext(PRECISE):
            exact, of_expert = exact_values(expert, step), exact_values(expert, own)
            lost = [float(x - y) for x, y in zip(of_expert, exact, strict=True)]
        policy, values = solve(mdp, expert, epsilon)
        assert_rows_in_ball(policy, expert, epsilon)
        rounding = {"rtol": 0, "atol": 4 * ULP * mdp.horizon}
        assert_allclose(values[0], [float(x) for x in exact], **rounding)
        assert_allclose(plain_values(mdp, policy)[0], values[0], **rounding)
        assert_allclose(plain_values(mdp, expert)[0] - values[0], lost, **rounding)


@any_expert
def test_sorting_a_row_gives_what_comparing_pairs_gives(name, monkeypatch):
    mdp, expert = EXPERTS[name]
    pairs = [worst_clone(mdp, expert, epsilon) for epsilon in RADII]
    monkeypatch.setattr("theory.solve.ball.SMALL_VOCABULARY", 0)
    for epsilon, (policy, values) in zip(RADII, pairs, strict=True):
        by_sorting = worst_clone(mdp, expert, epsilon)
        assert_rows_in_ball(by_sorting.policy, expert, epsilon)
        assert_allclose(by_sorting.values[0], values[0], rtol=0, atol=4 * ULP * mdp.horizon)
        assert_allclose(
            plain_values(mdp, by_sorting.policy)[0], plain_values(mdp, policy)[0], **FLOAT
        )


def test_what_a_clone_loses_at_a_small_radius_is_as_precise_as_its_numbers():
    """A fair coin that pays one on one side loses ``(1 − e^{−ε})/2``, in double and in extended
    precision.
    """
    for dtype in (np.float64, np.longdouble):
        mdp = TokenMDP.tree([np.array([[0.0, 1.0]], dtype=dtype)])
        expert = Policy(mdp.dynamics, (np.log(np.array([[0.5, 0.5]], dtype=dtype)),))
        for epsilon in (1e-10, 1e-6, 0.5):
            lost = plain_values(mdp, expert)[0] - worst_clone(mdp, expert, epsilon).values[0]
            assert lost[0] == pytest.approx(
                -math.expm1(-epsilon) / 2, rel=4 * float(np.finfo(dtype).eps) / epsilon
            )


@any_expert
@any_radius
def test_worst_kl_at_any_radius_is_exact_and_below_its_bound(name, epsilon):
    _, expert = EXPERTS[name]

    def step(h, s, p, below):
        vertices = exact_vertices(p, epsilon)
        return max(
            sum(x * (ratios[a] + below[a]) for a, x in row.items()) for row, ratios in vertices
        )

    with localcontext(PRECISE):
        exact = [float(x) for x in exact_values(expert, step)]
    policy, values = worst_kl(expert, epsilon)
    assert_rows_in_ball(policy, expert, epsilon)
    assert_allclose(values[0], exact, rtol=1e-12, atol=1e-70)
    for h, value in enumerate(values):
        assert (value >= 0).all()
        assert (value <= (expert.horizon - h) * epsilon * np.tanh(epsilon / 2) * (1 + 1e-12)).all()


@any_expert
@any_radius
def test_caps_and_floors_at_any_radius(name, epsilon):
    for table in EXPERTS[name][1].log_probs:
        with localcontext(PRECISE):
            exact = [exact_bounds(exact_row(log_p), epsilon) for log_p in table]
        for found, wanted in zip(
            (row_floors(table, epsilon), row_caps(table, epsilon)),
            zip(*exact, strict=True),
            strict=True,
        ):
            assert_allclose(found, np.array(wanted, dtype=float), rtol=3e-13, atol=1e-300)


@any_expert
@any_radius
def test_worst_map_at_any_radius(name, epsilon):
    """At a radius below the expert's leads it is the expert's own; where any row is possible, the
    least return.
    """
    mdp, expert = EXPERTS[name]
    adversary = worst_map(mdp, expert, epsilon)
    assert_rows_in_ball(adversary.policy, expert.as_tree(), epsilon)
    most = log_prob(adversary.policy, map_response(adversary.policy))
    assert_allclose(log_prob(adversary.policy, adversary.responses), most, rtol=1e-11, atol=1e-11)
    every = all_responses(mdp.dynamics)
    gained = np.where(log_prob(expert, every) > -np.inf, returns(mdp, every), np.inf)
    if epsilon <= 1e-10 and name != "uniform":
        assert_allclose(adversary.returns, returns(mdp, map_response(expert)), **FLOAT)
    if epsilon >= 1e5 or (epsilon >= 50 and name in ("masked", "uniform", "single")):
        assert_allclose(
            adversary.returns, gained.reshape(mdp.dynamics.n_prompts, -1).min(axis=-1), **FLOAT
        )


@any_expert
@any_radius
@pytest.mark.parametrize("alpha", [1e-3, 0.7, 1e300])
def test_worst_preference_at_any_radius_is_exact(name, epsilon, alpha):
    mdp, expert = EXPERTS[name]
    every = all_responses(mdp.dynamics)
    possible = np.flatnonzero((log_prob(expert, every) > -np.inf) & (every.prompts == 0))
    i, j = np.random.default_rng(0).choice(possible, (2, 8))
    first, second = (Responses(every.prompts[k], every.tokens[k]) for k in (i, j))
    exact = []
    for k in range(8):
        one, two = (Responses(r.prompts[k : k + 1], r.tokens[k : k + 1]) for r in (first, second))
        with localcontext(PRECISE):
            exact.append(exact_preference(mdp, expert, epsilon, alpha, one, two))
        policy = preference_attaining_policy(mdp, expert, epsilon, alpha, one, two)
        assert_rows_in_ball(policy, expert.as_tree(), epsilon)
    scale = (
        max(1.0, alpha)
        * mdp.horizon
        * (1 + max(float(-t[t > -np.inf].min()) for t in expert.log_probs))
    )
    found = worst_preference(mdp, expert, epsilon, alpha, first, second)
    assert_allclose(found, exact, rtol=1e-11, atol=min(1.0, 8 * ULP * scale))
    assert (found <= 1).all()


def exact_preference(mdp, expert, epsilon, alpha, first, second):
    """The larger of both directions, `first` at its caps and `second` at its floors from where they
    part.
    """

    def sigmoid(x):
        return 1 / (1 + (-x).exp()) if abs(x) < 10**5 else Decimal(int(x > 0))

    true = sum(
        Decimal(float(r)) * sign
        for r, sign in ((returns(mdp, first)[0], 1), (returns(mdp, second)[0], -1))
    )
    worst = Decimal(0)
    for sign, up, down in ((1, first, second), (-1, second, first)):
        walks = [np.concatenate(expert.dynamics.walk(r.prompts, r.tokens)) for r in (up, down)]
        ratio, parted = Decimal(0), False
        for h, (s, t) in enumerate(zip(*walks, strict=True)):
            a, b = up.tokens[0, h], down.tokens[0, h]
            parted = parted or a != b
            if parted:
                high = exact_bounds(exact_row(expert.log_probs[h][s]), epsilon)[1][a]
                low = exact_bounds(exact_row(expert.log_probs[h][t]), epsilon)[0][b]
                ratio += high.ln() - low.ln() if low else Decimal("1e9")
        if epsilon > 1e5 and ratio >= 10**8:
            ratio = Decimal("Infinity")
        worst = max(worst, abs(sigmoid(true) - sigmoid(sign * Decimal(alpha) * ratio)))
    return float(worst)


@any_expert
def test_no_worst_case_falls_as_the_radius_grows(name):
    mdp, expert = EXPERTS[name]
    every = all_responses(mdp.dynamics)
    pairs = [
        Responses(np.zeros(1, int), every.tokens[i : i + 1]) for i in (0, len(every.tokens) - 1)
    ]
    radii = sorted({*RADII, *np.geomspace(1e-3, 2000.0, 25)})
    harms = [
        np.concatenate(
            [
                -worst_clone(mdp, expert, epsilon).values[0],
                best_clone(mdp, expert, epsilon).values[0],
                worst_kl(expert, epsilon).values[0],
                -worst_map(mdp, expert, epsilon).returns,
                *(-row_floors(table, epsilon).reshape(-1) for table in expert.log_probs),
                *(row_caps(table, epsilon).reshape(-1) for table in expert.log_probs),
            ]
        )
        for epsilon in radii
    ]
    assert all(
        (later >= earlier - 1e-12 * (1 + np.abs(earlier))).all()
        for earlier, later in pairwise(harms)
    )
    assert np.isfinite(harms).all()
    if (
        log_prob(expert, Responses(*map(np.concatenate, zip(*pairs, strict=True)))) > -np.inf
    ).all():
        errors = [worst_preference(mdp, expert, epsilon, 0.7, *pairs)[0] for epsilon in radii]
        assert all(later >= earlier - 1e-12 for earlier, later in pairwise(errors))


@few
@given(
    problems(), st.lists(st.sampled_from(RADII) | st.floats(1e-300, 1e300), min_size=2, max_size=4)
)
def test_a_batch_of_any_radii_is_each_of_them(problem, radii):
    mdp, expert = problem
    batch = np.array(radii)

    def most_divergent(_, expert, epsilon):
        return worst_kl(expert, epsilon)

    for solve in (worst_clone, best_clone, most_divergent):
        together = solve(mdp, expert, batch)
        for i, epsilon in enumerate(radii):
            alone = solve(mdp, expert, epsilon)
            assert_rows_in_ball(alone.policy, expert, epsilon)
            assert_allclose(together.values[0][i], alone.values[0], rtol=1e-13, atol=1e-15)
            own = Policy(expert.dynamics, tuple(t[i] for t in together.policy.log_probs))
            assert_rows_in_ball(own, expert, epsilon)
            if solve is most_divergent:  # of vertices that diverge equally, any
                attained = kl(own, expert, per_prompt=True)
                assert_allclose(attained, alone.values[0], rtol=1e-9, atol=1e-14)
                continue
            for table, other in zip(own.log_probs, alone.policy.log_probs, strict=True):
                assert_allclose(table, other, rtol=1e-14, atol=1e-15)
    every = all_responses(mdp.dynamics)
    possible = np.flatnonzero((log_prob(expert, every) > -np.inf) & (every.prompts == 0))
    pair = [Responses(every.prompts[k], every.tokens[k]) for k in (possible[:1], possible[-1:])]
    together = worst_preference(mdp, expert, batch, 0.7, *pair)
    assert_allclose(
        together, [worst_preference(mdp, expert, epsilon, 0.7, *pair) for epsilon in radii], **FLOAT
    )
    together = worst_map(mdp, expert, batch)
    for i, epsilon in enumerate(radii):
        alone = worst_map(mdp, expert, epsilon)
        assert_allclose(together.returns[i], alone.returns, **FLOAT)
        assert_rows_in_ball(alone.policy, expert.as_tree(), epsilon)
        for table, other in zip(together.policy.log_probs, alone.policy.log_probs, strict=True):
            assert_allclose(table[i], other, **FLOAT)


@any_expert
def test_clones_of_tensors_at_any_radius(name):
    torch = pytest.importorskip("torch")
    mdp, expert = EXPERTS[name]
    for radii in (*RADII, np.array(RADII)):
        rewards = [torch.tensor(np.asarray(table), requires_grad=True) for table in mdp.rewards]
        logits = [torch.tensor(np.asarray(table), requires_grad=True) for table in expert.log_probs]
        tensors = TokenMDP(mdp.dynamics, tuple(rewards)), Policy(mdp.dynamics, tuple(logits))
        policy, values = worst_clone(*tensors, radii)
        wanted = worst_clone(mdp, expert, radii)
        assert_allclose(values[0].detach().numpy(), wanted.values[0], rtol=1e-14, atol=1e-15)
        for table, other in zip(policy.log_probs, wanted.policy.log_probs, strict=True):
            assert_allclose(table.detach().numpy(), other, rtol=1e-14, atol=1e-15)
        possible = sum(table[table > -1e300].sum() for table in policy.log_probs)
        (values[0].sum() + possible).backward()
        assert all(torch.isfinite(leaf.grad).all() for leaf in (*rewards, *logits))


@any_radius
def test_the_discounted_clone_at_any_radius(epsilon):
    """Against sweeps over the rows of least cost, and where any row is possible against the least
    return.
    """
    rng = np.random.default_rng(2)
    mdp = DiscountedMDP.table(rng.random((4, 3)), rng.integers(0, 4, (4, 3)), 0.6)
    log_p = random_policy(TokenMDP.window([rng.random((4, 3))], 1).dynamics, rng).log_probs[0]
    log_p = np.where(np.eye(4, 3, dtype=bool), -np.inf, log_p)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    worst = discounted_worst_clone(mdp, log_p, epsilon)
    assert worst.error < 1e-12
    values = np.zeros(4)
    for _ in range(80):
        q = mdp.q_values(values)
        if epsilon <= 800:
            with localcontext(PRECISE):
                for s, (p, cost) in enumerate(zip(map(exact_row, log_p), q.tolist(), strict=True)):
                    rows = (row for row, _ in exact_vertices(p, epsilon))
                    values[s] = min(
                        sum(x * Decimal(cost[a]) for a, x in row.items()) for row in rows
                    )
        else:
            values = np.where(log_p > -np.inf, q, np.inf).min(axis=1)
    assert np.abs(worst.values - values).max() <= worst.error + 1e-15


@pytest.mark.parametrize("bad", [0.0, -1.0, -math.inf, math.nan])
def test_a_radius_that_is_none_is_named(bad):
    mdp, expert = EXPERTS["single"]
    for solve in (
        worst_clone,
        best_clone,
        worst_map,
        lambda _, expert, epsilon: worst_kl(expert, epsilon),
    ):
        for epsilon in (bad, np.array([1.0, bad])):
            with pytest.raises(ValueError, match=f"epsilon={bad}: must be positive"):
                solve(mdp, expert, epsilon)
    with pytest.raises(ValueError, match="epsilon='wide': must be a positive number"):
        require_radius("wide")


def test_the_adversaries_in_single_precision():
    """A warning of an overflow is an error here."""
    mdp = TokenMDP.tree([np.random.default_rng(h).random((3**h, 3)) for h in range(4)])
    expert = soft_optimal(mdp, 0.5).policy
    single = TokenMDP(mdp.dynamics, tuple(r.astype(np.float32) for r in mdp.rewards))
    policy = Policy(mdp.dynamics, tuple(p.astype(np.float32) for p in expert.log_probs))
    for epsilon in (0.1, 1.0):
        for found, wanted in (
            (worst_clone(single, policy, epsilon), worst_clone(mdp, expert, epsilon)),
            (worst_kl(policy, epsilon), worst_kl(expert, epsilon)),
        ):
            assert found.values[0].dtype == np.float32
            assert_allclose(found.values[0], wanted.values[0], rtol=1e-4)
        mapped = worst_map(single, policy, epsilon)
        assert_allclose(mapped.returns, worst_map(mdp, expert, epsilon).returns, rtol=1e-4)
