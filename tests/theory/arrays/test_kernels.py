"""The sweeps by kernels give what the generic code gives, whatever the tables and the blocks."""

import math
from contextlib import contextmanager
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import build, random_policy, seeds, token_mdps

import theory.arrays.kernels
from theory.arrays.kernels import columns, soft_backup
from theory.mdp import distances, responses, values
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import best_sums, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, occupancy, plain_value, trajectory_entropy
from theory.solve import reward, soft, worst_clone, worst_kl, worst_map
from theory.solve.reward import endogenous_reward
from theory.solve.soft import plain_optimal, soft_optimal, soft_values

check = settings(derandomize=True, deadline=None, max_examples=40)
few = settings(derandomize=True, deadline=None, max_examples=15)
MODULES = (distances, responses, values, reward, soft, worst_clone, worst_kl)


@contextmanager
def generic():
    """Every sweep takes the code that tensors and enclosures take."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "columns", lambda *tables: None)
        patch.setattr(worst_map, "_is_linear", lambda *args: False)
        yield


@contextmanager
def blocks_of(entries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory.arrays.kernels, "BLOCK", entries)
        yield


@st.composite
def cases(draw, **options):
    """``(mdp, expert, other)``: single or a batch, singles or doubles, any rule, masks or none.

    Policies may miss tokens that the other has, and may hold probabilities near the end of doubles.
    """
    mdp = draw(token_mdps(**options))
    rng = np.random.default_rng(draw(seeds))
    batch = draw(st.sampled_from([(), (), (2,), (2, 3)]))
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32]))
    scale = draw(st.sampled_from([0.1, 1.5, 30.0, 400.0]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.3]))

    def policy(dynamics):
        tables = []
        for n, mask in zip(dynamics.layer_sizes, dynamics.allowed, strict=True):
            logits = scale * rng.normal(size=(*batch, n, dynamics.vocab_size))
            never = rng.uniform(size=logits.shape[-2:]) < missing
            never[np.arange(n), 0 if mask is None else mask.argmax(axis=1)] = False
            tables.append(np.where(never, -np.inf, logits))
        made = Policy.from_logits(dynamics, tables)
        return Policy(
            dynamics,
            *([t.astype(dtype) for t in part] for part in (made.log_probs, made.log_normalizers)),
        )

    moved = [
        np.where(r == 0, r, r * rng.uniform(0.5, 1, (*batch, *r.shape))).astype(dtype)
        for r in mdp.rewards
    ]
    return replace(mdp, rewards=tuple(moved)), policy(mdp.dynamics), policy(mdp.dynamics)


def tolerance(mdp, alpha=1.0):
    eps = np.finfo(mdp.rewards[0].dtype).eps
    return (
        200 * eps * (1 + mdp.horizon * (1 + float(np.max(alpha)) * (1 + math.log(mdp.vocab_size))))
    )


def same(found, expected, rtol, atol=0.0):
    for one, two in zip(found, expected, strict=True):
        assert one.shape == two.shape
        assert_allclose(one, two, rtol=rtol, atol=atol)


@check
@given(cases(), st.sampled_from([1e-6, 1e-2, 0.5, 3.0, 1e6]), st.integers(1, 9), st.booleans())
def test_soft_solutions(case, alpha, entries, many):
    mdp, *_ = case
    if many:
        alpha = alpha * np.linspace(1.0, 2.0, math.prod(mdp.batch_shape)).reshape(mdp.batch_shape)
    with generic():
        expected, expected_values = soft_optimal(mdp, alpha), soft_values(mdp, alpha)
    with blocks_of(entries):
        found, found_values = soft_optimal(mdp, alpha), soft_values(mdp, alpha)
    atol = tolerance(mdp, alpha)
    eps = np.finfo(mdp.rewards[0].dtype).eps
    same(found_values, expected_values, rtol=50 * eps, atol=atol)
    same(found.values, expected.values, rtol=50 * eps, atol=atol)
    for one, two in zip(found.policy.log_probs, expected.policy.log_probs, strict=True):
        assert one.dtype == mdp.rewards[0].dtype
        assert one.max() <= 0
        assert_allclose(np.exp(one).sum(axis=-1), 1.0, rtol=30 * eps)
        slack = 2 * atol / float(np.min(alpha))
        assert_allclose(np.exp(one), np.exp(two), rtol=min(slack, 1.0), atol=20 * eps)


@check
@given(cases(masked=False), st.sampled_from([1e-6, 0.5, 1e6]))
def test_a_policy_in_the_place_of_the_rewards(case, alpha):
    mdp, *_ = case
    kept = replace(mdp, rewards=tuple(np.copy(r) for r in mdp.rewards))
    stored = replace(
        mdp, rewards=tuple(np.moveaxis(np.moveaxis(r, -1, 0).copy(), 0, -1) for r in mdp.rewards)
    )
    found = soft_optimal(stored, alpha, overwrite_rewards=True)
    expected = soft_optimal(kept, alpha)
    for h, table in enumerate(found.policy.log_probs):
        assert table is stored.rewards[h]
        assert_array_equal(table, expected.policy.log_probs[h])
        assert_array_equal(found.values[h], expected.values[h])


def test_rewards_that_no_kernel_can_write_into_are_refused():
    mdp = build("tree", np.random.default_rng(0), 2, 3, 3)
    wide = replace(mdp, rewards=tuple(r.astype(np.longdouble) for r in mdp.rewards))
    with pytest.raises(ValueError, match=r"overwrite_rewards=True, but rewards\[0\]"):
        soft_optimal(wide, 1.0, overwrite_rewards=True)
    apart = tuple(np.stack([r, r, r])[::2] for r in mdp.rewards)  # every second member of a batch
    with pytest.raises(ValueError, match=r"rewards\[0\] .* one block of memory"):
        soft_optimal(replace(mdp, rewards=apart), 1.0, overwrite_rewards=True)


@check
@given(cases(), st.integers(1, 9), st.booleans())
def test_plain_optimum_and_first_of_equals(case, entries, rounded):
    mdp, policy, _ = case
    if rounded:  # many ties
        mdp = replace(mdp, rewards=tuple(np.round(2 * r) / 2 for r in mdp.rewards))
    with generic():
        expected, sums = plain_optimal(mdp), best_sums(policy.dynamics, policy.log_probs)
        path = map_response(policy)
    with blocks_of(entries):
        found = plain_optimal(mdp)
        same(best_sums(policy.dynamics, policy.log_probs), sums, rtol=0)
        assert_array_equal(map_response(policy).tokens, path.tokens)
    same(found.values, expected.values, rtol=0)
    same(found.policy.log_probs, expected.policy.log_probs, rtol=0)
    assert_allclose(np.asarray(log_prob(policy, path)), np.asarray(sums[0]), rtol=1e-5)


@check
@given(cases(), st.integers(1, 9))
def test_values_of_policies(case, entries):
    mdp, policy, other = case
    rng = np.random.default_rng(0)
    wild = [
        np.where(rng.uniform(size=r.shape) < 0.1, rng.choice([np.inf, np.nan], r.shape), r).astype(
            r.dtype
        )
        for r in mdp.rewards
    ]
    with generic():
        expected = [
            expected_sums(policy, mdp.rewards),
            expected_sums(policy, wild),
            occupancy(policy),
        ]
        numbers = [plain_value(mdp, policy), trajectory_entropy(policy), kl(policy, other)]
    with blocks_of(entries):
        found = [expected_sums(policy, mdp.rewards), expected_sums(policy, wild), occupancy(policy)]
        again = [plain_value(mdp, policy), trajectory_entropy(policy), kl(policy, other)]
    rtol = 200 * np.finfo(mdp.rewards[0].dtype).eps
    for one, two in zip(found, expected, strict=True):
        same(one, two, rtol=rtol, atol=1e-300)
    for one, two in zip(again, numbers, strict=True):
        assert_allclose(one, two, rtol=10 * rtol, atol=rtol)


def test_kl_loses_no_digits_where_policies_nearly_agree():
    rng = np.random.default_rng(0)
    dynamics = build("tree", rng, 1, 3, 3).dynamics
    policy = random_policy(dynamics, rng)
    size = 1e-5
    other = Policy.from_logits(
        dynamics, [t + size * rng.normal(size=t.shape) for t in policy.log_probs]
    )
    with mpmath.workdps(50):

        def below(h, s):
            if h == 3:
                return mpmath.mpf(0)
            total = mpmath.mpf(0)
            rows = [[mpmath.mpf(float(x)) for x in p.log_probs[h][s]] for p in (policy, other)]
            for a, (x, y) in enumerate(zip(*rows, strict=True)):
                p = mpmath.exp(x)
                total += p * (x - y) - p + mpmath.exp(y) + p * below(h + 1, 3 * s + a)
            return total

        exact = float(below(0, 0))
    assert kl(policy, other) == pytest.approx(exact, rel=1e-9)


def test_infinite_divergence_and_a_prompt_of_weight_zero():
    dynamics = TokenMDP.tree([[[0, 0]] * 2, [[0, 0]] * 4], prompt_weights=[1.0, 0.0]).dynamics
    fair = Policy.from_probs(dynamics, [np.full((2, 2), 0.5), np.full((4, 2), 0.5)])
    sure = Policy.from_probs(dynamics, [[[0.5, 0.5], [0.0, 1.0]], np.full((4, 2), 0.5)])
    assert kl(fair, sure) == 0.0
    assert kl(fair, sure, per_prompt=True).tolist() == [0.0, math.inf]
    assert kl(sure, fair, per_prompt=True) == pytest.approx([0.0, math.log(2)])


@check
@given(
    cases(),
    st.sampled_from([1e-6, 0.5, 1e6]),
    st.integers(1, 9),
    st.sampled_from(["logits", "logprob"]),
)
def test_endogenous_rewards(case, alpha, entries, gauge):
    _, policy, _ = case
    with pytest.MonkeyPatch.context() as patch:  # a batch of one support
        patch.setattr(reward, "_shared_support", lambda chosen, h: None)
        with generic():
            expected = endogenous_reward(policy, alpha, gauge=gauge)
        with blocks_of(entries):
            found = endogenous_reward(policy, alpha, gauge=gauge)
    largest = max(abs(x) for x in expected.reward_range)
    rtol = 20 * np.finfo(policy.log_probs[0].dtype).eps
    same(found.rewards, expected.rewards, rtol=rtol, atol=rtol * largest)
    assert_allclose(found.reward_range, expected.reward_range, rtol=rtol, atol=rtol * largest)
    assert found.reward_range[0] == min(r.min() for r in found.rewards)
    assert found.reward_range[1] == max(r.max() for r in found.rewards)


radii = st.sampled_from([1e-6, 1e-3, 0.1, 0.7, 3.0, 800.0, math.inf])


@check
@given(cases(), radii, st.integers(1, 40))
def test_worst_and_best_clones(case, epsilon, entries):
    mdp, expert, _ = case
    with generic():
        expected = [
            f(mdp, expert, epsilon) for f in (worst_clone.worst_clone, worst_clone.best_clone)
        ]
    with blocks_of(entries):
        found = [f(mdp, expert, epsilon) for f in (worst_clone.worst_clone, worst_clone.best_clone)]
    rtol = 100 * np.finfo(mdp.rewards[0].dtype).eps
    for one, two in zip(found, expected, strict=True):
        same(one.values, two.values, rtol=rtol, atol=rtol)
        same(
            [np.exp(t) for t in one.policy.log_probs],
            [np.exp(t) for t in two.policy.log_probs],
            rtol=rtol,
            atol=rtol,
        )


@check
@given(cases(), radii, st.integers(1, 200))
def test_most_divergent_policies(case, epsilon, entries):
    _, expert, _ = case
    with generic():
        expected = worst_kl.worst_kl(expert, epsilon)
    with blocks_of(entries):
        found = worst_kl.worst_kl(expert, epsilon)
    eps = np.finfo(expert.log_probs[0].dtype).eps
    least = np.finfo(expert.log_probs[0].dtype).tiny
    same(found.values, expected.values, rtol=1e4 * eps, atol=float(least) / eps)
    for h, table in enumerate(found.policy.log_probs):
        p = expert.log_probs[h]
        off = np.where(p > -np.inf, np.abs(table - np.where(p > -np.inf, p, 0.0)), 0.0)
        assert (
            off <= epsilon * (1 + 4 * eps) + 4 * eps * (1 + np.abs(np.where(p > -np.inf, p, 0)))
        ).all()
        largest = np.abs(p[p > -np.inf]).max()  # rounded in log p + t
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, rtol=4 * eps * (10 + largest))


@few
@given(cases(), radii, st.integers(1, 200))
def test_worst_most_probable_responses(case, epsilon, entries):
    mdp, expert, _ = case
    if mdp.rewards[0].dtype != np.float64:
        return
    with generic():
        expected = worst_map.worst_map(mdp, expert, epsilon)
    with blocks_of(entries):
        found = worst_map.worst_map(mdp, expert, epsilon)
    assert_array_equal(found.responses.tokens, expected.responses.tokens)
    assert_array_equal(found.returns, expected.returns)
    for one, two in zip(found.policy.log_probs, expected.policy.log_probs, strict=True):
        assert_allclose(np.exp(one), np.exp(two), rtol=1e-9, atol=1e-13)


def test_soft_backup_against_fifty_digits():
    rng = np.random.default_rng(0)
    for alpha in (1e-6, 1e-3, 0.5, 1e6):
        q = rng.uniform(-1, 1, (4, 7))
        below = rng.uniform(-10, 10, (4, 7))
        log_probs = np.empty_like(q)
        value = soft_backup(q, below, alpha, log_probs=log_probs)
        with mpmath.workdps(50):
            for s in range(7):
                total = [
                    mpmath.mpf(float(a + b)) for a, b in zip(q[:, s], below[:, s], strict=True)
                ]
                exact = alpha * mpmath.log(sum(mpmath.exp(x / alpha) for x in total))
                assert value[s] == pytest.approx(float(exact), rel=1e-15)
                for a in range(4):
                    row = float((total[a] - exact) / alpha)
                    assert log_probs[a, s] == pytest.approx(row, rel=4e-16, abs=1e-15)


def test_what_is_no_table_of_one_shape_goes_through_the_generic_code():
    table = np.zeros((3, 2))
    assert columns(table, table.astype(np.float32)) is None
    assert columns(table.astype(np.longdouble)) is None
    assert columns(table, np.zeros((5, 3, 2))) is None
    assert columns([[0.0]]) is None
    (found,) = columns(np.moveaxis(np.zeros((2, 5, 3)), 0, -1))
    assert found.shape == (2, 15)


@check
@given(st.integers(1, 5), radii.filter(lambda epsilon: epsilon < 100), seeds, st.integers(1, 90))
def test_levels_of_uneven_subtrees(vocab_size, epsilon, seed, entries):
    """Successors' levels far apart, so that floors bind as well as caps."""
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.full(vocab_size, 0.5), 20) + 1e-12)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    log_m = rng.uniform(-15, 0, log_p.shape)
    with blocks_of(entries):
        found = worst_map._level_backup(log_p.T, np.exp(log_m).T, epsilon)
    assert_allclose(np.log(found), worst_map._water_level(log_p, epsilon, log_m, 1.0), atol=1e-9)


@pytest.mark.parametrize("rest", [1e-2, 1e-4, 1e-9, 1e-20, 1e-90])
@pytest.mark.parametrize("epsilon", [1e-6, 0.02, 0.1, 1.0])
def test_the_most_divergent_row_of_a_nearly_sure_one(rest, epsilon):
    """A token of mass `rest` is raised: ``rest·(ε e^ε − e^ε + 1)`` and what the other one loses."""
    expert = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[1.0 - rest, rest]]])
    with mpmath.workdps(250):
        e, p = mpmath.mpf(epsilon), mpmath.exp(mpmath.mpf(float(expert.log_probs[0][0, 1])))
        q = 1 - p
        ends = []
        for t in (e, -e):
            moved = p * mpmath.expm1(t)
            left = q - moved
            if abs(mpmath.log(left / q)) <= e:
                ends.append(p * mpmath.exp(t) * t + left * mpmath.log(left / q))
        exact = float(max(ends))
    assert worst_kl.worst_kl(expert, epsilon).values[0][0] == pytest.approx(exact, rel=1e-11, abs=0)
