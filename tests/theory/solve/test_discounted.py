"""Discounted token MDPs: against long plain sweeps, exact fractions, the finite-horizon package,
and closed forms.
"""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import changed
from scipy.optimize import linprog
from strategies import read_number, seeds

import theory.solve.worst_clone
from theory.claims import bounds
from theory.claims import discounted as discounted_statements
from theory.claims.discounted import DISCOUNTED_STATEMENTS, DiscountedInstance
from theory.claims.findings import decide, decide_each
from theory.claims.verdict import check
from theory.mdp.discounted import DiscountedMDP, reachable
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_values as finite_plain_values
from theory.solve import fixed_point, soft
from theory.solve.discounted import (
    endogenous_reward,
    entropy_values,
    expected_sums,
    kl_values,
    plain_values,
    regularised_values,
    soft_value_iteration,
    value_iteration,
    worst_clone,
)

BY_NAME = {statement.name: statement for statement in DISCOUNTED_STATEMENTS}
quick = settings(max_examples=25, deadline=None, derandomize=True)
alphas = st.floats(math.log(0.02), math.log(20)).map(math.exp)
epsilons = st.floats(math.log(1e-2), math.log(4.0)).map(math.exp)
discounts = st.sampled_from([0.1, 0.5, 0.8, 0.95])


# --- Random MDPs and policies, and oracles written plainly ----------------------------------------


def random_mdp(rng, n, V, discount):
    return DiscountedMDP.table(rng.random((n, V)), rng.integers(0, n, (n, V)), discount)


@st.composite
def mdps(draw, max_states=6, min_vocab=1, max_vocab=4, discounts=discounts):
    rng = np.random.default_rng(draw(seeds))
    n, V = draw(st.integers(1, max_states)), draw(st.integers(min_vocab, max_vocab))
    return random_mdp(rng, n, V, draw(discounts))


def random_policy(mdp, rng, scale=2.0):
    logits = scale * rng.normal(size=mdp.rewards.shape)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def random_clone(policy, epsilon, rng):
    """A policy of the ball around `policy`, by the finite-horizon package's sampler."""
    dynamics = TokenMDP.table([np.zeros(policy.shape)], []).dynamics
    return sample_log_ratio_ball(Policy(dynamics, (policy,)), epsilon, rng).log_probs[0]


def as_finite(mdp, H):
    """The first `H` tokens as a finite-horizon token MDP with rewards ``γ^h r``; every state is a
    prompt.
    """
    rewards = [mdp.discount**h * mdp.rewards for h in range(H)]
    return TokenMDP.table(rewards, [mdp.next_states] * (H - 1))


def soft_backup(mdp, values, alpha):
    """``α log Σ_a exp((r + γV')/α)``, one state after the other, in extended precision."""
    alpha, gamma = np.longdouble(alpha), np.longdouble(mdp.discount)
    new = []
    for s in range(len(mdp.rewards)):
        q = [
            np.longdouble(r) + gamma * values[t]
            for r, t in zip(mdp.rewards[s], mdp.next_states[s], strict=True)
        ]
        new.append(max(q) + alpha * np.log(sum(np.exp((x - max(q)) / alpha) for x in q)))
    return new


def least_row(p, q, epsilon):
    """Fractional knapsack in plain steps: floors, then the cheapest token first up to its cap."""
    floor = np.exp(-np.longdouble(epsilon))
    row = [floor * x for x in p]
    left = 1 - sum(row)
    for a in sorted(range(len(p)), key=lambda a: q[a]):
        extra = min(left, p[a] / floor - row[a])
        row[a] += extra
        left -= extra
    return row


def worst_backup(mdp, values, log_p, epsilon):
    gamma, new = np.longdouble(mdp.discount), []
    for s in range(len(mdp.rewards)):
        p = [np.exp(np.longdouble(x)) for x in log_p[s]]
        p = [x / sum(p) for x in p]
        q = [
            np.longdouble(r) + gamma * values[t]
            for r, t in zip(mdp.rewards[s], mdp.next_states[s], strict=True)
        ]
        new.append(sum(x * y for x, y in zip(least_row(p, q, epsilon), q, strict=True)))
    return new


def swept(backup, n, discount, digits):
    """Fixed point of a `backup` by plain iteration from zero, until ``γ^T`` is below
    ``10^-digits``.
    """
    values = [np.longdouble(0)] * n
    for _ in range(math.ceil(digits * math.log(10) / -math.log(discount))):
        values = backup(values)
    return np.array(values)


def fraction_solve(A, b):
    """Gauss elimination in exact fractions."""
    rows = [[*row, right] for row, right in zip(A, b, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]


def exact_deterministic_values(mdp, tokens, table=None):
    """``Σ_h γ^h x(s_h, d(s_h))`` in exact fractions of the stored doubles."""
    n, gamma = len(tokens), Fraction(mdp.discount)
    table = mdp.rewards if table is None else table
    A = [
        [Fraction(int(s == t)) - gamma * int(mdp.next_states[s, tokens[s]] == t) for t in range(n)]
        for s in range(n)
    ]
    return fraction_solve(A, [Fraction(float(table[s, tokens[s]])) for s in range(n)])


def deterministic(tokens, V):
    return np.where(np.arange(V) == np.asarray(tokens)[:, None], 0.0, -np.inf)


def all_deterministic(mdp):
    return itertools.product(range(mdp.vocab_size), repeat=len(mdp.rewards))


def within(values, exact, error):
    """Whether no value is further than `error` from the exact one (longdouble or fractions)."""
    pairs = zip(map(float, values), exact, strict=True)
    return all(
        abs(Fraction(value) - Fraction(*x.as_integer_ratio())) <= error for value, x in pairs
    )


# --- Solvers --------------------------------------------------------------------------------------


@quick
@given(mdps(), alphas)
def test_soft_values_against_a_plain_sweep_within_the_certified_error(mdp, alpha):
    solution = soft_value_iteration(mdp, alpha)
    exact = swept(lambda v: soft_backup(mdp, v, alpha), len(mdp.rewards), mdp.discount, 20)
    assert within(solution.values, exact, solution.error)
    assert solution.error <= 1e-10 * mdp.effective_horizon * (
        1 + alpha * math.log(mdp.vocab_size + 1)
    )
    q = mdp.rewards + mdp.discount * exact.astype(float)[mdp.next_states]
    assert np.allclose(
        solution.policy, (q - exact.astype(float)[:, None]) / alpha, atol=1e-9 * (1 + 1 / alpha)
    )
    # the policy is worth what is said of it
    own = regularised_values(mdp, solution.policy, alpha)
    assert np.abs(own.values - solution.values).max() <= own.error + solution.error


@pytest.mark.parametrize(
    ("discount", "tolerance"), [(0.99, 1e-10), (0.999, 1e-10), (0.9999, 1e-10), (0.999999, 1e-7)]
)
def test_discounts_near_one_in_closed_form(discount, tolerance):
    """One state: ``V* = α log Σ exp(r/α)/(1−γ)``. The certificate holds, and is good relative to
    ``1/(1−γ)``.
    """
    mdp = DiscountedMDP.table([[0.2, 0.7, 0.4]], [[0, 0, 0]], discount)
    alpha = 0.3
    per_step = soft_backup(mdp, [np.longdouble(0)], alpha)[0]
    exact = [per_step / (1 - np.longdouble(discount))]
    solution = soft_value_iteration(mdp, alpha, tolerance)
    assert within(solution.values, exact, solution.error)
    best = value_iteration(mdp, tolerance)
    assert within(best.values, [np.longdouble(0.7) / (1 - np.longdouble(discount))], best.error)
    assert best.error <= tolerance * 0.7 / (1 - discount)


def test_certificate_near_one_covers_the_error_of_many_states():
    """At ``γ = 0.999`` the rest of the way, swept in extended precision from the answer, is within
    the certificate.
    """
    mdp, alpha = random_mdp(np.random.default_rng(4), 12, 3, 0.999), np.longdouble(0.4)
    solution = soft_value_iteration(mdp, 0.4)
    values = solution.values.astype(np.longdouble)
    for _ in range(12_000):
        q = (mdp.rewards + np.longdouble(mdp.discount) * values[mdp.next_states]) / alpha
        values = alpha * np.log(np.exp(q - q.max()).sum(axis=1)) + alpha * q.max()
    assert within(solution.values, values, solution.error)
    assert solution.error < 1e-8


@quick
@given(mdps(max_states=3, min_vocab=2, max_vocab=3))
def test_plain_optimal_values_against_every_deterministic_policy_in_fractions(mdp):
    each = {tokens: exact_deterministic_values(mdp, tokens) for tokens in all_deterministic(mdp)}
    best = [max(values[s] for values in each.values()) for s in range(len(mdp.rewards))]
    solution = value_iteration(mdp)
    assert within(solution.values, best, solution.error)
    tokens = tuple(int(a) for a in solution.policy.argmax(axis=1))
    assert within(solution.values, each[tokens], solution.error)
    evaluated = plain_values(mdp, deterministic(tokens, mdp.vocab_size))
    assert within(evaluated.values, each[tokens], evaluated.error)
    assert max(solution.error, evaluated.error) <= 1e-12 * mdp.effective_horizon**2


@quick
@given(mdps(), seeds)
def test_expected_sums_against_a_plain_sweep(mdp, seed):
    rng = np.random.default_rng(seed)
    one, two = random_policy(mdp, rng), random_policy(mdp, rng)
    p = np.exp(one.astype(np.longdouble))
    p /= p.sum(axis=1, keepdims=True)
    for solution, table in (
        (plain_values(mdp, one), mdp.rewards),
        (entropy_values(mdp, one), -one),
        (kl_values(mdp, one, two), one - two),
        (regularised_values(mdp, one, 0.7), mdp.rewards - 0.7 * one),
    ):
        x = table.astype(np.longdouble)
        exact = swept(
            lambda v, x=x: (
                p * (x + np.longdouble(mdp.discount) * np.array(v)[mdp.next_states])
            ).sum(axis=1),
            len(x),
            mdp.discount,
            20,
        )
        assert within(solution.values, exact, solution.error)
        assert solution.error <= 1e-12 * mdp.effective_horizon**2 * (1 + np.abs(table).max())


def test_a_row_that_does_not_quite_sum_to_one_is_part_of_the_certificate():
    """Rows are normalised in exact arithmetic; what they lack in doubles is in the error."""
    mdp = random_mdp(np.random.default_rng(0), 4, 3, 0.9)
    policy = random_policy(mdp, np.random.default_rng(1))
    off = plain_values(mdp, policy + 5e-10)
    true = plain_values(mdp, policy)
    difference = np.abs(off.values - true.values).max()
    assert true.error < 1e-12 < 1e-9 < difference <= off.error


def test_newton_crosses_a_corridor_longer_than_its_steps():
    """The only reward is 3,000 tokens away. Plain backups carry it; a Newton step alone carries it
    by one state.
    """
    n, discount = 3000, 0.999
    links = np.stack([np.arange(n), np.minimum(np.arange(n) + 1, n - 1)], axis=1)
    rewards = np.zeros((n, 2))
    rewards[-1, 1] = 1.0
    solution = value_iteration(DiscountedMDP.table(rewards, links, discount))
    exact = discount ** (n - 1 - np.arange(n)) / (1 - discount)
    assert np.abs(solution.values - exact).max() <= solution.error + 1e-12 / (1 - discount)


@pytest.mark.parametrize("alpha", [0.02, 0.3, 5.0])
def test_newton_needs_a_handful_of_steps_near_one(alpha, monkeypatch):
    """Where plain iteration alone would need hundreds of thousands."""
    monkeypatch.setattr(fixed_point, "MAX_STEPS", 6)
    mdp = random_mdp(np.random.default_rng(5), 100, 3, 0.9999)
    expert = soft_value_iteration(mdp, alpha, 1e-9).policy
    for solution in (
        value_iteration(mdp),
        worst_clone(mdp, expert, 0.5),
        plain_values(mdp, expert),
    ):
        assert solution.error < 1e-9 * mdp.effective_horizon


def test_of_equal_tokens_the_first_is_chosen():
    mdp = DiscountedMDP.table([[0.5, 1.0, 1.0], [0.3, 0.3, 0.3]], [[0, 1, 1], [1, 1, 1]], 0.5)
    assert value_iteration(mdp).policy.argmax(axis=1).tolist() == [1, 0]


@pytest.mark.parametrize("alpha", [1e-300, 1e-12, 1e-3])
@pytest.mark.parametrize("discount", [0.5, 0.999])
def test_small_temperatures_neither_overflow_nor_lose_the_limit(alpha, discount):
    """``0 ≤ V*_α − max_π V^π ≤ α log V/(1−γ)``."""
    mdp = random_mdp(np.random.default_rng(2), 5, 3, discount)
    cold, best = soft_value_iteration(mdp, alpha), value_iteration(mdp)
    error = cold.error + best.error
    gap = cold.values - best.values
    assert (gap >= -error).all()
    assert (gap <= alpha * math.log(3) * mdp.effective_horizon + error).all()
    again = regularised_values(mdp, cold.policy, alpha)
    assert np.abs(again.values - cold.values).max() <= again.error + cold.error


@quick
@given(mdps(max_states=3), alphas, st.integers(2, 4))
def test_rewards_move_values_as_they_should(mdp, alpha, scale):
    """A constant `c` adds ``c/(1−γ)`` and changes no policy; rewards and temperature scale
    together.
    """
    base = soft_value_iteration(mdp, alpha)
    shifted = soft_value_iteration(mdp.with_rewards(mdp.rewards + 0.5), alpha)
    assert np.allclose(shifted.values, base.values + 0.5 * mdp.effective_horizon, rtol=1e-10)
    assert np.allclose(shifted.policy, base.policy, atol=1e-8 * (1 + 1 / alpha))
    scaled = soft_value_iteration(mdp.with_rewards(scale * mdp.rewards), scale * alpha)
    assert np.allclose(scaled.values, scale * base.values, rtol=1e-10)


def test_a_tolerance_that_doubles_cannot_certify_is_refused():
    mdp = random_mdp(np.random.default_rng(0), 5, 3, 0.999)
    for solve in (
        lambda tolerance: soft_value_iteration(mdp, 0.5, tolerance),
        lambda tolerance: value_iteration(mdp, tolerance),
        lambda tolerance: worst_clone(mdp, np.log(np.full((5, 3), 1 / 3)), 0.5, tolerance),
    ):
        assert solve(1e-10).error < 1e-10 * 1.7 * mdp.effective_horizon
        with pytest.raises(ValueError, match=r"tolerance=1e-16.*discount=0.999.*larger tolerance"):
            solve(1e-16)


@quick
@given(st.integers(2, 4), st.integers(1, 3), seeds)
def test_window_states_are_the_last_tokens(V, size, seed):
    rng = np.random.default_rng(seed)
    mdp = DiscountedMDP.window(rng.random((V**size, V)), size, 0.9)
    tokens = [int(a) for a in rng.integers(0, V, size + 6)]
    state = read_number(tokens[:size], V)
    for k in range(size, len(tokens)):
        state = mdp.next_states[state, tokens[k]]
        assert state == read_number(tokens[k + 1 - size : k + 1], V)


# --- Finite and infinite horizons -----------------------------------------------------------------


@quick
@given(mdps(max_states=4, discounts=st.sampled_from([0.2, 0.5, 0.7])), seeds, epsilons)
def test_plain_values_and_adversaries_are_limits_of_finite_horizons(mdp, seed, epsilon):
    """With rewards ``γ^h r``, `r` in [0, 1], the tokens after `H` are worth between 0 and
    ``γ^H/(1−γ)``. The finite adversary may change its rows from step to step, and gains nothing by
    it.
    """
    H = 40
    finite, policy = as_finite(mdp, H), random_policy(mdp, np.random.default_rng(seed))
    layers = Policy(finite.dynamics, (policy,) * H)
    for infinite, first in (
        (value_iteration(mdp), soft.plain_optimal(finite).values[0]),
        (plain_values(mdp, policy), finite_plain_values(finite, layers)[0]),
        (
            worst_clone(mdp, policy, epsilon),
            theory.solve.worst_clone.worst_clone(finite, layers, epsilon).values[0],
        ),
    ):
        tail = infinite.values - first
        error = infinite.error + 1e-12
        assert (tail >= -error).all()
        assert (tail <= mdp.discount**H * mdp.effective_horizon + error).all()


def test_discounted_rewards_over_a_finite_horizon_are_another_soft_problem():
    """Undiscounted entropy: late tokens of the finite problem become uniform, and its value has no
    limit in `H`.
    """
    mdp, alpha = random_mdp(np.random.default_rng(3), 4, 3, 0.7), 0.2
    solution = soft_value_iteration(mdp, alpha)
    short, long = (soft.soft_optimal(as_finite(mdp, H), alpha) for H in (30, 60))
    assert np.allclose(np.exp(long.policy.log_probs[-1]), 1 / 3, atol=1e-6)
    assert np.exp(solution.policy).max() > 0.6
    assert np.allclose(long.values[0] - short.values[0], 30 * alpha * math.log(3), rtol=1e-3)
    # with the temperature of step h at αγ^h it is the same problem
    following = np.zeros(4)
    for h in reversed(range(60)):
        temperature = alpha * mdp.discount**h
        q = (mdp.discount**h * mdp.rewards + following[mdp.next_states]) / temperature
        following = temperature * np.log(np.exp(q - q.max()).sum(axis=1)) + temperature * q.max()
    assert np.allclose(following, solution.values, atol=1e-7)


# --- The endogenous reward ------------------------------------------------------------------------


@quick
@given(mdps(), alphas, seeds)
def test_endogenous_reward_telescopes_and_is_solved_by_its_policy(mdp, alpha, seed):
    rng = np.random.default_rng(seed)
    policy, gauge = random_policy(mdp, rng), rng.normal(size=len(mdp.rewards))
    for values in (None, gauge):
        read = endogenous_reward(mdp, policy, alpha, values)
        start = np.zeros_like(gauge) if values is None else gauge
        # along a long response, by hand
        state, total, log_prob = 0, 0.0, 0.0
        for h in range(400):
            token = int(rng.integers(mdp.vocab_size))
            total += mdp.discount**h * read.rewards[state, token]
            log_prob += mdp.discount**h * policy[state, token]
            state = mdp.next_states[state, token]
        assert total == pytest.approx(alpha * log_prob + start[0], abs=1e-6 * (1 + alpha))
        solution = soft_value_iteration(read, alpha)
        assert np.abs(solution.values - start).max() <= 4 * solution.error
        assert np.abs(solution.policy - policy).max() <= 8 * solution.error / alpha
    expert = soft_value_iteration(mdp, alpha)
    again = endogenous_reward(mdp, expert.policy, alpha, expert.values)
    assert np.abs(again.rewards - mdp.rewards).max() <= 2 * expert.error


@quick
@given(mdps(max_states=3, min_vocab=2, max_vocab=3), alphas, seeds)
def test_rl_plays_the_greatest_discounted_log_probability(mdp, alpha, seed):
    """Against every deterministic policy, in fractions, and in any gauge."""
    rng = np.random.default_rng(seed)
    policy, gauge = random_policy(mdp, rng), rng.normal(size=len(mdp.rewards))
    each = [exact_deterministic_values(mdp, tokens, policy) for tokens in all_deterministic(mdp)]
    best = np.array([float(max(values[s] for values in each)) for s in range(len(mdp.rewards))])
    plain, moved = (
        value_iteration(endogenous_reward(mdp, policy, alpha, values)) for values in (None, gauge)
    )
    assert np.allclose(plain.values, alpha * best, rtol=1e-10)
    assert np.allclose(moved.values, alpha * best + gauge, rtol=1e-9, atol=1e-9)
    assert (plain.policy == moved.policy).all()


# --- The adversary --------------------------------------------------------------------------------


@quick
@given(mdps(), epsilons, seeds)
def test_worst_clone_within_its_certificate_and_beaten_by_no_policy_of_the_ball(mdp, epsilon, seed):
    rng = np.random.default_rng(seed)
    expert = random_policy(mdp, rng)
    worst = worst_clone(mdp, expert, epsilon)
    exact = swept(
        lambda v: worst_backup(mdp, v, expert, epsilon), len(mdp.rewards), mdp.discount, 18
    )
    assert within(worst.values, exact, worst.error)
    assert worst.error <= 1e-11 * mdp.effective_horizon**2 * math.exp(epsilon)
    assert np.abs(worst.policy - expert).max() <= epsilon + 1e-12
    own = plain_values(mdp, worst.policy)
    assert np.abs(own.values - worst.values).max() <= own.error + worst.error
    for _ in range(5):
        other = plain_values(mdp, random_clone(expert, epsilon, rng))
        assert (other.values >= worst.values - other.error - worst.error).all()


@pytest.mark.parametrize("V", [3, 12])
def test_worst_clone_solves_the_linear_program_of_every_state(V):
    mdp = random_mdp(np.random.default_rng(7), 5, V, 0.9)
    expert, epsilon = random_policy(mdp, np.random.default_rng(8)), 0.8
    worst = worst_clone(mdp, expert, epsilon)
    q, p = mdp.q_values(worst.values), np.exp(expert)
    for s in range(5):
        box = np.stack([p[s] * math.exp(-epsilon), p[s] * math.exp(epsilon)], axis=1)
        assert linprog(q[s], A_eq=np.ones((1, V)), b_eq=[1.0], bounds=box).fun == pytest.approx(
            worst.values[s], abs=1e-9
        )


# --- Statements -----------------------------------------------------------------------------------


def random_instances(seed=0, count=40):
    """Half of them with the policy that is worst for cloning, half with a random policy of the
    ball.
    """
    rng = np.random.default_rng(seed)
    for k in range(count):
        mdp = random_mdp(
            rng,
            int(rng.integers(1, 7)),
            int(rng.integers(2, 5)),
            float(rng.choice([0.3, 0.7, 0.9, 0.98])),
        )
        alpha, epsilon = np.exp(rng.uniform(-3, 3)), np.exp(rng.uniform(-5, 1))
        expert = soft_value_iteration(mdp, alpha).policy
        policy = (
            worst_clone(mdp, expert, epsilon).policy
            if k % 2
            else random_clone(expert, epsilon, rng)
        )
        gauge = None if k % 3 else rng.normal(size=len(mdp.rewards))
        yield DiscountedInstance(mdp, policy, float(alpha), gauge)


INSTANCES = list(random_instances())


def test_no_statement_was_lost():
    assert list(BY_NAME) == [
        *("soft-value", "telescoping", "endogenous-telescoping", "soft-rl-fixed-point"),
        *("theorem-1", "theorem-1-sharp"),
        *(
            "theorem-2-clone",
            "clone-elementary",
            "clone-three-halves",
            "clone-pinsker",
            "clone-stepwise",
        ),
        *(
            "theorem-2-rl",
            "rl-expert",
            "rl-any-comparator",
            "rl-anchored",
            "regularised-equality",
            "kl-ball",
        ),
    ]


@pytest.mark.parametrize("name", BY_NAME)
def test_statement_holds_on_random_instances(name):
    summary = decide(BY_NAME[name], INSTANCES)
    assert summary.verdict == "holds"
    assert summary.error_bound < 1e-7  # a bound this small cannot hide a mistake in a formula
    if BY_NAME[name].equality:
        assert summary.certified == len(INSTANCES)
        assert summary.equal_within < 1e-28


def planted(statement, delta):
    """The statement, made false by that share of its sides."""
    if statement.equality:
        return changed(statement, right=lambda i: statement.bound.of(i) * (1 + delta))
    return changed(
        statement,
        right=lambda i: statement.quantity.of(i) - delta * (abs(statement.quantity.of(i)) + 1e-3),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_planted_violations_are_found(name):
    """Past the other side by as little as one part in ten trillion, on every instance: none of them
    holds.
    """
    deltas = (1.0, 1e-9, 1e-13)
    found = decide_each([planted(BY_NAME[name], delta) for delta in deltas], INSTANCES)
    for delta, summary in zip(deltas, found, strict=True):
        assert summary.verdict == "violated", delta
        assert set(summary.outcomes) <= {"violated", "does not apply"}, delta


def test_instance_quantities_match_their_definitions():
    instance = INSTANCES[0]
    mdp, alpha, policy = instance.mdp, instance.alpha, instance.policy
    expert = soft_value_iteration(mdp, alpha)
    value = {
        name: plain_values(mdp, p).values
        for name, p in (("expert", expert.policy), ("clone", policy))
    }
    assert instance.horizon == pytest.approx(1 / (1 - mdp.discount))
    reached = reachable(mdp)
    local = np.abs(expert.policy - policy).max(axis=1)
    assert np.allclose(instance.epsilon, [local[row].max() for row in reached], rtol=1e-9)
    assert np.allclose(instance.clone_gap, value["expert"] - value["clone"])
    assert np.allclose(instance.expert_value, value["expert"])
    assert np.allclose(instance.best_value, value_iteration(mdp).values)
    rl = value_iteration(endogenous_reward(mdp, policy, alpha)).policy
    assert np.allclose(instance.rl_value, plain_values(mdp, rl).values)
    assert np.all(np.abs(instance.rl_shortfall) < 1e-9)
    assert np.allclose(instance.kl_to_expert, kl_values(mdp, policy, expert.policy).values)
    assert np.allclose(instance.kl_from_expert, kl_values(mdp, expert.policy, policy).values)
    entropy = entropy_values(mdp, policy).values
    assert np.allclose(instance.regularised(policy), value["clone"] + alpha * entropy)


def test_anchored_policy_maximises_reward_less_kl():
    """No policy near or far has a greater ``V^π_{r̂} − α KL_γ(π‖π̂)`` than the one whose value the
    instance reports.
    """
    instance, rng = INSTANCES[2], np.random.default_rng(0)
    mdp, alpha, policy = instance.mdp, instance.alpha, instance.policy
    read = endogenous_reward(mdp, policy, alpha)

    def objective(other):
        return plain_values(read, other).values - alpha * kl_values(mdp, other, policy).values

    anchored = soft_value_iteration(mdp.with_rewards(2 * alpha * policy), alpha).policy
    assert np.allclose(instance.anchored_value, plain_values(mdp, anchored).values)
    others = [random_policy(mdp, rng) for _ in range(5)] + [
        random_clone(anchored, 0.05, rng) for _ in range(5)
    ]
    assert all(
        (objective(other) <= objective(anchored) + 1e-9).all() for other in [policy, *others]
    )


def test_pairs_of_responses_against_walked_ones():
    """Two responses that share `k` tokens and part in state `s`: sums by walking, TV by its
    definition.
    """
    instance = INSTANCES[3]
    mdp, V, T = instance.mdp, instance.mdp.vocab_size, 3000
    continuations = instance.continuations[:2]

    def walked(state, tokens, policy):
        true = read = 0.0
        for h in range(T):
            a = tokens[h] if h < len(tokens) else int(policy[state].argmax())
            true += mdp.discount**h * mdp.rewards[state, a]
            read += mdp.discount**h * instance.alpha * instance.policy[state, a]
            state = mdp.next_states[state, a]
        return true, read

    i, j = np.triu_indices(4 * V, k=1)
    pairs = [(a, b) for a, b in zip(i, j, strict=True) if a % V != b % V]
    for pair in (m for m, (a, b) in enumerate(pairs) if b < 2 * V):
        for k, shared in enumerate(discounted_statements.SHARED_STEPS):
            start = state = 0
            for _ in range(shared):
                state = mdp.next_states[state, 1]
            one, two = (
                walked(start, [1] * shared + [x % V], continuations[x // V]) for x in pairs[pair]
            )
            logistic = [1 / (1 + math.exp(-(x - y))) for x, y in zip(one, two, strict=True)]
            assert instance.pair_tv[state, k, pair] == pytest.approx(
                abs(logistic[0] - logistic[1]), abs=1e-9
            )
            steps = instance.diverging_steps[k, 0]
            assert steps == pytest.approx(mdp.discount**shared / (1 - mdp.discount))


@pytest.mark.parametrize("bits", [53, 128, 256])
def test_enclosures_hold_the_oracle(bits):
    """Both sides of every statement, against Newton's method in 60 digits that shares no code."""
    rng = np.random.default_rng(bits)
    for discount, alpha, scale in (
        (0.5, 0.3, 1.0),
        (0.99, 1e-3, 1.0),
        (0.9999, 1.0, 1e6),
        (1 - 1e-6, 30.0, 1e-3),
    ):
        n, V = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        rewards = scale * (rng.random((n, V)) - 0.5)
        options = {"reward_range": (-scale / 2, scale / 2)}
        links = rng.integers(0, n, (n, V))
        links[:, 0] = (np.arange(n) + 1) % n  # every state leads to every other: ε is that of all
        mdp = DiscountedMDP.table(rewards, links, discount, **options)
        policy = random_clone(random_policy(mdp, rng), float(rng.choice([1e-9, 0.3])), rng)
        instance = DiscountedInstance(mdp, policy, alpha, rng.normal(size=n) if bits > 53 else None)
        oracle = reference.DiscountedOracle(reference.describe_discounted(instance))
        sides, counted = oracle.sides(), np.flatnonzero(instance.counts)
        for statement in DISCOUNTED_STATEMENTS:
            found = check(statement, instance, bits)
            for k, side in enumerate(sides[statement.name]):
                if "theorem-1" in statement.name:
                    side = [[x for layer in side for x in layer[s]] for s in range(n)]
                low, high = (found.ends[2 * k + end].reshape(n, -1) for end in (0, 1))
                assert (np.isfinite(high - low) | (bits == 53)).all(), statement.name
                for s in counted:
                    exact = np.ravel(np.asarray(side[s], dtype=object))
                    assert exact.size in (1, low.shape[1]), statement.name
                    for x, least, most in zip(
                        np.broadcast_to(exact, low.shape[1]), low[s], high[s], strict=True
                    ):
                        with mpmath.workdps(90):
                            slip = abs(x) * mpmath.mpf(10) ** -50 + mpmath.mpf(10) ** -50
                            assert mpmath.mpf(least) - slip <= x <= mpmath.mpf(most) + slip, (
                                statement.name,
                                discount,
                            )


@pytest.mark.parametrize("discount", [0.9, 0.9999, 1 - 1e-6])
def test_every_statement_is_decided_however_long_the_response(discount):
    """True ones hold, and a millionth of a billionth too little is found, at any discount."""
    mdp = random_mdp(np.random.default_rng(3), 5, 3, discount)
    policy = random_clone(
        soft_value_iteration(mdp, 0.4, 1e-3).policy, 0.2, np.random.default_rng(4)
    )
    instance = DiscountedInstance(mdp, policy, 0.4, np.arange(5.0))
    found = decide_each(DISCOUNTED_STATEMENTS, [instance])
    assert {summary.verdict for summary in found} <= {"holds", "does not apply"}
    planted = [
        changed(s, right=lambda i, s=s: s.quantity.of(i) - 1e-15 * (abs(s.quantity.of(i)) + 1e-3))
        for s in DISCOUNTED_STATEMENTS
    ]
    found = decide_each(planted, [instance])
    assert {summary.verdict for summary in found} <= {"violated", "does not apply"}


def test_states_that_nothing_leads_to_do_not_count():
    """State 1 is never entered: what `π̂` does there changes no verdict and no `ε` of the states
    that are.
    """
    rewards, links = np.array([[0.2, 0.9], [0.5, 0.1]]), np.zeros((2, 2), dtype=int)
    mdp = DiscountedMDP.table(rewards, links, 0.9, initial_weights=[1.0, 0.0])
    expert = soft_value_iteration(mdp, 0.5).policy
    policy = np.stack([expert[0], np.log([0.999, 0.001])])
    instance = DiscountedInstance(mdp, policy, 0.5)
    assert instance.counts.tolist() == [True, False]
    assert instance.epsilon[0] < 1e-12 < 1 < instance.epsilon[1]
    found = check(BY_NAME["theorem-2-clone"], instance)
    assert found.applies.tolist() == [True, False]
    assert found.right[0] < 1e-9


# --- How sharp the bounds are ---------------------------------------------------------------------


@pytest.mark.parametrize("discount", [0.2, 0.9, 0.99])
@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 5.0])
def test_stepwise_bound_is_the_discounted_series(discount, epsilon):
    steps = range(1, math.ceil(40 / (1 - discount)))
    series = math.fsum(
        discount ** (h - 1) * float(bounds.tv_randomised_response(h, epsilon)) for h in steps
    )
    assert float(bounds.clone_gap_discounted(discount, epsilon)) == pytest.approx(series, rel=1e-12)


@settings(deadline=None, derandomize=True)
@given(st.floats(math.log(1e-8), math.log(0.999)), st.floats(math.log(1e-6), math.log(20)))
def test_stepwise_bound_is_below_the_others_at_the_effective_horizon(log_rest, log_epsilon):
    """So the bounds that are not linear in `H` hold with ``1/(1−γ)`` for `H`, too."""
    discount, epsilon = 1 - math.exp(log_rest), math.exp(log_epsilon)
    h = bounds.effective_horizon(discount)
    sharp = bounds.clone_gap_discounted(discount, epsilon) * (1 - 1e-12)
    assert sharp <= h
    assert (
        sharp
        <= bounds.clone_gap_elementary(h, epsilon)
        <= bounds.clone_gap_paper(h, np.tanh(epsilon / 2))
    )
    assert sharp <= bounds.clone_gap_three_halves(h, epsilon)


@pytest.mark.parametrize("discount", [0.5, 0.99, 0.9999])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_preference_bound_is_attained(discount, alpha):
    """Two tokens whose discounted returns differ by ``αε/(1−γ)``, and a policy that swaps them."""
    epsilon = 0.7 * (1 - discount) / alpha
    mdp = DiscountedMDP.table([[alpha * epsilon, 0.0]], [[0, 0]], discount)
    swapped = soft_value_iteration(mdp, alpha).policy[:, ::-1]
    instance = DiscountedInstance(mdp, swapped, alpha)
    assert instance.epsilon == pytest.approx(epsilon, rel=1e-9)
    assert instance.pair_tv.max() == pytest.approx(math.tanh(0.35), rel=1e-7)


@pytest.mark.parametrize("discount", [0.5, 0.99, 0.9999])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.01), (0.1, 0.3)])
def test_rl_bound_is_approached_against_any_comparator(discount, alpha, epsilon):
    """Probabilities ``∝ e^ε, e^{−ε}, 0.9``: the clone lowers the first by ε, raises the second, and
    RL turns round.
    """
    near = epsilon * (1 - 1e-3)
    rewards = 0.5 + alpha * np.array([[near, -near, math.log(0.9)]])
    mdp = DiscountedMDP.table(rewards, [[0, 0, 0]], discount)
    expert = soft_value_iteration(mdp, alpha).policy
    policy = expert + np.array([[-epsilon, epsilon, 0.0]])
    policy[0, 2] = math.log1p(-math.exp(policy[0, 0]) - math.exp(policy[0, 1]))
    instance = DiscountedInstance(mdp, policy, alpha)
    assert instance.epsilon == pytest.approx(epsilon, rel=1e-9)
    result = check(BY_NAME["rl-any-comparator"], instance)
    assert result.verdict == "holds"
    assert result.left == pytest.approx((1 - 1e-3) * result.right, rel=1e-6)


def coin_walk(discount, alpha):
    """The family on which cloning loses ``(1−γ)^{−3/2}``: the state is heads less tails, capped
    where it hardly gets.

    Tokens 0 and 1 are heads, 2 and 3 tails. Ahead, one of each pays 1 and one 0; else all pay a
    level of the same soft value. So the soft values are equal everywhere and the expert's coin is
    fair, while the plain values differ.
    """
    top = int(6 / math.sqrt(1 - discount)) + 2
    state = np.arange(2 * top + 1)
    heads, tails = np.minimum(state + 1, 2 * top), np.maximum(state - 1, 0)
    level = 1 + alpha * math.log((1 + math.exp(-1 / alpha)) / 2)
    rewards = np.where((state > top)[:, None], np.array([1.0, 0.0, 1.0, 0.0]), level)
    start = (state == top).astype(float)
    return DiscountedMDP.table(
        rewards, np.stack([heads, heads, tails, tails], 1), discount, initial_weights=start
    )


def test_cloning_loses_three_halves_and_more_than_rl_can():
    """On the coin walk at ``ε = 0.05·√(1−γ)`` the exponent is 3/2; from ``γ = 0.99`` on the loss
    exceeds 2αε/(1−γ).
    """
    alpha, losses, discounts = 0.18, [], (0.99, 0.999, 0.9999)
    for discount in discounts:
        mdp, epsilon = coin_walk(discount, alpha), 0.05 * math.sqrt(1 - discount)
        expert = soft_value_iteration(mdp, alpha, 1e-9).policy
        assert np.allclose(np.exp(expert[:, :2]).sum(axis=1), 0.5, atol=1e-9)
        loss = mdp.average(
            plain_values(mdp, expert).values - worst_clone(mdp, expert, epsilon, 1e-7).values
        )
        assert 0.11 < loss / bounds.clone_gap_discounted(discount, epsilon) < 0.13
        assert loss > bounds.rl_gap(mdp.effective_horizon, epsilon, alpha)
        losses.append(loss / epsilon)
    slope = np.polyfit(-np.log10(1 - np.array(discounts)), np.log10(losses), 1)[0]
    assert slope == pytest.approx(1.5, abs=0.01)


# --- Bad input ------------------------------------------------------------------------------------

GOOD = {
    "rewards": np.full((4, 2), 0.5),
    "next_states": np.zeros((4, 2), dtype=int),
    "discount": 0.9,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [0.5, 0.5]}, r"rewards has shape \(2,\): must be \(n, V\)"),
        ({"rewards": np.full((4, 2), 1.5)}, r"rewards holds 1.5 at \(0, 0\), outside reward_range"),
        ({"rewards": np.full((4, 2), np.nan)}, "rewards holds nan at .* must be finite"),
        (
            {"next_states": np.zeros((4, 3), dtype=int)},
            r"next_states: int64 of shape \(4, 3\), must be integers \(4, 2\)",
        ),
        ({"next_states": np.zeros((4, 2))}, "next_states: float64"),
        ({"next_states": np.full((4, 2), 4)}, "next_states holds 4 to 4: states are 0 to 3"),
        ({"next_states": np.full((4, 2), -1)}, "next_states holds -1 to -1"),
        ({"discount": 1.0}, "discount=1.0: must be strictly between 0 and 1"),
        ({"discount": 0.0}, "discount=0.0"),
        ({"discount": math.nan}, "discount=nan"),
        (
            {"initial_weights": np.full(4, 0.5)},
            "initial_weights must be non-negative and sum to 1, got sum 2",
        ),
        ({"initial_weights": [1.5, -0.5, 0, 0]}, "initial_weights"),
        ({"reward_range": (1.0, 0.0)}, r"reward_range=\(1.0, 0.0\)"),
        ({"reward_range": (0.0, math.inf)}, "reward_range"),
    ],
)
def test_bad_mdps_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DiscountedMDP.table(**(GOOD | change))


@pytest.mark.parametrize(("shape", "size"), [((4, 2), 3), ((4, 2), 1), ((4,), 1)])
def test_windows_of_the_wrong_shape_are_named(shape, size):
    with pytest.raises(ValueError, match=rf"rewards has shape .*must be \(V\^{size}, V\)"):
        DiscountedMDP.window(np.full(shape, 0.5), size, 0.9)
    with pytest.raises(ValueError, match="size=0: give the number of tokens"):
        DiscountedMDP.window(np.full((4, 2), 0.5), 0, 0.9)


def test_bad_policies_and_parameters_are_named():
    mdp = DiscountedMDP.table(**GOOD)
    fair, sure = np.log(np.full((4, 2), 0.5)), deterministic([0] * 4, 2)
    for alpha in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"alpha={alpha}: must be positive"):
            soft_value_iteration(mdp, alpha)
    with pytest.raises(ValueError, match=r"alpha has shape \(2,\): must be one number"):
        soft_value_iteration(mdp, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"epsilon=0\.0: must be positive"):
        worst_clone(mdp, fair, 0.0)
    with pytest.raises(ValueError, match=r"expert has shape \(2,\): must be \(4, 2\)"):
        worst_clone(mdp, [0.5, 0.5], 0.1)
    with pytest.raises(ValueError, match=r"policy: row 0 sums to 3\.29744"):
        plain_values(mdp, np.full((4, 2), 0.5))
    with pytest.raises(
        ValueError, match="table is not finite where the policy has probability, in state 0"
    ):
        kl_values(mdp, fair, sure)
    with pytest.raises(ValueError, match=r"policy forbids token \(0, 1\)"):
        endogenous_reward(mdp, sure, 1.0)
    with pytest.raises(ValueError, match=r"values has shape \(3,\): must be \(4,\)"):
        endogenous_reward(mdp, fair, 1.0, np.zeros(3))


def test_a_token_never_chosen_counts_nothing():
    mdp = DiscountedMDP.table(**GOOD)
    sure, fair = deterministic([0] * 4, 2), np.log(np.full((4, 2), 0.5))
    assert entropy_values(mdp, sure).values == pytest.approx(0)
    assert kl_values(mdp, sure, fair).values == pytest.approx(10 * math.log(2))
    assert kl_values(mdp, sure, sure).values == pytest.approx(0)
    assert expected_sums(mdp, sure, np.array([[1.0, -np.inf]] * 4)).values == pytest.approx(10)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_a_gauge_that_is_not_finite_is_refused_by_its_first_such_number(wrong):
    mdp = DiscountedMDP.window([[0.0, 1.0], [1.0, 0.0]], 1, 0.5)
    policy = np.log(np.full((2, 2), 0.5))
    for make in (DiscountedInstance, endogenous_reward):
        with pytest.raises(ValueError, match=f"values holds {wrong}: the gauge must be finite"):
            make(mdp, policy, 1.0, [0.0, wrong])
