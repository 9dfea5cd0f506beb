"""Verdicts: small violations are found, small slack is not called one, and balls enclose what they should."""

import dataclasses
import math
from fractions import Fraction

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import alphas, epsilons, policies_in_ball, random_policy, seeds, token_mdps

from theory.adversary import worst_clone, worst_map
from theory.arrays import array_namespace
from theory.gallery import coin_payoff, indifferent_learner, random_tree, swapped_pair
from theory.instance import Instance, single
from theory.intervals import NAMESPACE, balls, precision
from theory.mdp import TokenMDP
from theory.policy import Policy, sample_log_ratio_ball
from theory.soft import soft_optimal
from theory.statements import STATEMENTS
from theory.verdict import EQUAL_WITHIN, Statement, certify, check, exactly, summarise

NAMES = [statement.name for statement in STATEMENTS]
BY_NAME = dict(zip(NAMES, STATEMENTS, strict=True))


def instance_for(name):
    """An adversary's instance, on which the left side of the statement is not zero."""
    mdp = random_tree(3, 3, n_prompts=2, seed=4)
    expert = soft_optimal(mdp, 0.4).policy
    adversary = worst_map if "rl" in name else worst_clone
    return Instance(mdp, expert, adversary(mdp, expert, 0.3).policy, 0.4)


@pytest.mark.parametrize("name", NAMES)
def test_a_violation_of_one_part_in_ten_trillion_is_found(name):
    statement, instance = BY_NAME[name], instance_for(name)
    if statement.equality:
        planted = dataclasses.replace(statement, right=lambda i: statement.right(i) * (1 + 1e-13))
    else:
        planted = dataclasses.replace(statement, right=lambda i: statement.left(i) - 1e-13 * np.abs(statement.left(i)))
    assert np.any(statement.left(instance) != 0)
    summary = summarise(planted, [instance])
    assert summary.verdict == "violated"
    assert summary.certified == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_slack_of_1e_15_is_not_a_violation(name):
    statement, instance = BY_NAME[name], instance_for(name)
    if statement.equality:
        summary = summarise(statement, [instance])
        assert summary.equal_within <= EQUAL_WITHIN * 10
    else:
        tight = dataclasses.replace(statement, right=lambda i: statement.left(i) + 1e-15)
        summary = summarise(tight, [instance])
    assert summary.verdict == "holds"
    assert summary.certified == 1


@pytest.mark.parametrize("name", [name for name in NAMES if not BY_NAME[name].equality])
def test_no_tolerance_turns_undecided_into_holds(name):
    """Two sides that are the same number overlap at every precision."""
    statement = BY_NAME[name]
    tied = dataclasses.replace(statement, right=statement.left)
    assert summarise(tied, [instance_for(name)]).verdict == "undecided"


@pytest.mark.parametrize("offset", [0.0, -1e6])
@pytest.mark.parametrize("defect", [0.0, 5e-10, -5e-10])
def test_error_bound_covers_offsets_of_the_reward_and_rows_that_do_not_sum_to_one(offset, defect):
    """What doubles call certain is so: their slack is never further from the rigorous one than they say."""
    mdp = TokenMDP.tree([r + offset for r in random_tree(2, 3, seed=0).rewards], reward_range=(offset, offset + 1))
    expert = soft_optimal(mdp, 0.7).policy
    policy = Policy.from_log_probs(mdp.dynamics, [table + defect for table in expert.log_probs])
    assert_covered(Instance(mdp, expert, policy, 0.7))


def test_error_bound_covers_temperatures_far_below_the_rewards():
    rng = np.random.default_rng(0)
    scale = 1.7e-7
    rewards = [rng.integers(0, 2, (3**h, 3)) * scale - 0.167 for h in range(3)]
    mdp = TokenMDP.tree(rewards, reward_range=(-0.167, -0.167 + scale))
    expert = soft_optimal(mdp, 1.8e-11).policy
    assert_covered(Instance(mdp, expert, sample_log_ratio_ball(expert, 1e-9, rng), 1.8e-11))


def assert_covered(instance):
    with precision(512):
        exact = exactly(instance, 512)
        for statement in STATEMENTS:
            result = check(statement, instance)
            left, right = (np.asarray(side(exact)) for side in (statement.left, statement.right))
            slack = np.broadcast_to(right - left, result.left.shape)[result.applies]
            got = (result.right - result.left)[result.applies]
            distance = [float(abs(a - flint.arb(float(b))).upper()) for a, b in zip(slack, got, strict=True)]
            assert (np.array(distance) <= result.error[result.applies]).all(), statement.name


def test_an_assumption_is_certain_or_does_not_apply():
    """``α(1 + tanh(ε/2)) = R`` up to an ulp: doubles may say that it applies, and no violation may come of it."""
    alpha = 0.4003289280267998
    found = indifferent_learner(2, alpha, vocab_size=5, low=3)
    width = float(alpha * (1 + np.tanh(found.epsilon / 2)))
    mdp = dataclasses.replace(found.mdp, reward_range=(0.0, width))
    summary = summarise(BY_NAME["theorem-2-rl"], [Instance(mdp, found.expert, found.policy, alpha)])
    assert summary is None or summary.verdict != "violated"


def test_balls_that_lost_every_digit_decide_nothing():
    """Exponents beyond every precision: the balls say nothing, and nothing is certified from them."""
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.ones((2, 2))])
    expert = soft_optimal(mdp, 1e-60).policy
    instance = Instance(mdp, expert, expert, 1e-60)
    false = Statement("false", "", "", lambda i: i.expert_value, lambda i: i.expert_value * 0 + 0.5)
    assert certify(false, instance).verdict != "holds"


@pytest.mark.parametrize("bits", [128, 256])
def test_every_bound_is_rigorous_in_balls(bits):
    """A double constant in a formula would leave a ball that misses the one of higher precision."""
    instance = instance_for("clone")
    values = {}
    for precise in (bits, 2048):
        with precision(precise):
            exact = exactly(instance, precise)
            values[precise] = [np.asarray(s.right(exact)).ravel()[0] for s in STATEMENTS]
    with precision(2048):
        for statement, coarse, fine in zip(STATEMENTS, *values.values(), strict=True):
            assert coarse.overlaps(fine), statement.name


def test_floating_point_alone_decides_where_slack_is_wide():
    summary = summarise(BY_NAME["clone-elementary"], [instance_for("clone")])
    assert (summary.verdict, summary.certified) == ("holds", 0)


def test_only_the_instances_left_open_are_certified():
    rng = np.random.default_rng(0)
    mdp = random_tree(2, 3, batch=(5,), seed=rng)
    expert = soft_optimal(mdp, 0.7).policy
    instance = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.2, rng), 0.7)
    gaps = instance.clone_gap

    def planted_in_the_third(i):  # of the batch; a single instance is the third if its gap is
        gap = i.clone_gap
        if array_namespace(np.asarray(gap)) is NAMESPACE:
            return gap * (1 - 1e-13)
        return np.where(gap == gaps[2], gap, 10.0)

    statement = Statement("planted", "", "", lambda i: i.clone_gap, planted_in_the_third)
    positive = np.sign(gaps[2])
    statement = dataclasses.replace(statement, left=lambda i: i.clone_gap * positive)
    summary = summarise(dataclasses.replace(statement, right=lambda i: planted_in_the_third(i) * positive), [instance])
    assert (summary.verdict, summary.certified, summary.instances) == ("violated", 1, 5)


def test_too_large_for_balls_stays_undecided():
    mdp = random_tree(2, 15, seed=0)
    expert = soft_optimal(mdp, 0.7).policy
    instance = Instance(mdp, expert, expert, 0.7)
    tied = dataclasses.replace(BY_NAME["clone-elementary"], right=lambda i: i.clone_gap + 1e-18)
    summary = summarise(tied, [instance])
    assert (summary.verdict, summary.certified) == ("undecided", 0)


def test_a_batch_is_certified_one_at_a_time():
    mdp = random_tree(2, 2, batch=(3,), seed=0)
    expert = soft_optimal(mdp, 1.0).policy
    with pytest.raises(ValueError, match=r"batch axes \(3,\).*single"):
        certify(BY_NAME["kl-ball"], Instance(mdp, expert, expert, 1.0))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data(), token_mdps(), alphas, epsilons, seeds)
def test_doubles_are_inside_the_balls_and_their_error_bound(data, mdp, alpha, epsilon, seed):
    """The error bound of floating point covers the distance to the rigorous slack, on every kind of dynamics."""
    expert = soft_optimal(mdp, alpha).policy
    policy = data.draw(policies_in_ball(expert, min(epsilon, 3.0)))
    instance = Instance(mdp, expert, policy, alpha)
    with precision(256):
        exact = exactly(instance, 256)
        for statement in STATEMENTS:
            result = check(statement, instance)
            if not result.applies.any():
                continue
            left, right = (np.asarray(side(exact)) for side in (statement.left, statement.right))
            slack = np.broadcast_to(right - left, result.left.shape)[result.applies]
            got = (result.right - result.left)[result.applies]
            distance = [float(abs(a - flint.arb(float(b))).upper()) for a, b in zip(slack, got, strict=True)]
            assert (np.array(distance) <= result.error[result.applies]).all(), statement.name


@settings(derandomize=True, deadline=None, max_examples=15)
@given(token_mdps(masked=True, min_vocab=2), alphas, epsilons, seeds)
def test_every_statement_is_certified_where_tokens_are_forbidden(mdp, alpha, epsilon, seed):
    expert = soft_optimal(mdp, alpha).policy
    policy = sample_log_ratio_ball(expert, min(epsilon, 2.0), seed)
    instance = Instance(mdp, expert, policy, alpha)
    for statement in STATEMENTS:
        result = check(statement, instance)
        if result.applies.any():
            assert certify(statement, instance, result.applies).verdict != "violated", statement.name


def test_balls_against_exact_fractions():
    """H = 1 with rational probabilities: the plain-value gap is a fraction, and the ball holds it."""
    p, q = [Fraction(1, 8), Fraction(7, 8)], [Fraction(1, 2), Fraction(1, 2)]
    mdp = TokenMDP.tree([np.array([[0.25, 1.0]])])
    alpha = 1.0
    # π_E is softmax(r/α) and not p: let the policy carry the fractions
    policy = Policy.from_probs(mdp.dynamics, [np.array([[float(x) for x in p]])])
    other = Policy.from_probs(mdp.dynamics, [np.array([[float(x) for x in q]])])
    with precision(200):
        a = exactly(Instance(mdp, soft_optimal(mdp, alpha).policy, policy, alpha), 200)
        b = exactly(Instance(mdp, soft_optimal(mdp, alpha).policy, other, alpha), 200)
        gap = np.asarray(a.clone_gap - b.clone_gap)[()]  # V^{π_E} cancels: E_q r − E_p r
        truth = sum((y - x) * Fraction(r) for x, y, r in zip(p, q, (0.25, 1.0), strict=True))
        # log(1/8) is stored as a double: the softmax of what is stored is 1/8 to 1e-16 only
        assert abs(float(gap) - float(truth)) < 1e-15
        stored = [float(math.log(x)) for x in p]
        weights = [flint.arb(x).exp() for x in stored]
        by_hand = sum(w * r for w, r in zip(weights, (0.25, 1.0), strict=True)) / sum(weights)
        half = flint.arb(5) / 8
        assert gap.overlaps(half - by_hand)
        assert float(gap.rad()) < 1e-50


def test_a_policy_is_the_softmax_of_what_is_stored():
    """Rows that sum to one within the tolerance only are normalised, and the error bound knows of it."""
    mdp = random_tree(3, 2, seed=0)
    expert = soft_optimal(mdp, 0.5).policy
    off = Policy.from_log_probs(mdp.dynamics, [t + 5e-10 for t in expert.log_probs])
    instance = Instance(mdp, expert, off, 0.5)
    with precision(128):
        exact = exactly(instance, 128)
        for table in exact.policy.log_probs:
            assert all(abs(float(row) - 1.0) < 1e-30 for row in np.exp(table).sum(axis=-1).ravel())
    # read as it is, π̂ "loses" -1e-9 nats a step; the verdict must not come from that
    assert summarise(BY_NAME["kl-ball"], [instance]).verdict in ("holds", "undecided")
    assert float(np.max(check(BY_NAME["kl-ball"], instance).error)) > 1e-9


def test_prompt_weights_sum_to_one_in_balls():
    mdp = TokenMDP.tree([np.zeros((3, 2))], prompt_weights=[0.1, 0.2, 0.7])
    expert = soft_optimal(mdp, 1.0).policy
    with precision(128):
        total = exactly(Instance(mdp, expert, expert, 1.0), 128).mdp.dynamics.prompt_weights.sum()
        assert total.overlaps(flint.arb(1))
        assert float(total.rad()) < 1e-35


def test_single_takes_one_of_a_batch():
    rng = np.random.default_rng(1)
    mdp = random_tree(3, 3, batch=(2, 2), seed=rng)
    alpha = rng.uniform(0.2, 2, (2, 2))
    expert = soft_optimal(mdp, alpha).policy
    batch = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.3, rng), alpha)
    for statement in STATEMENTS:
        whole = check(statement, batch)
        for k, at in enumerate(np.ndindex(2, 2)):
            one = check(statement, single(batch, k))
            np.testing.assert_allclose(one.left, whole.left[at], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(one.right, np.broadcast_to(whole.right, whole.left.shape)[at], rtol=1e-12)


def test_overlapping_balls_are_joined_and_not_picked():
    with precision(53):
        wide = flint.arb(1, 0.5)  # 1 ± 0.5
        x = np.array([wide, flint.arb(1.2), flint.arb(0.9)], dtype=object)
        top = NAMESPACE.max(x, axis=-1)[()]
        assert top.contains(flint.arb(1.2))
        assert top.contains(flint.arb(1.5))
        assert not top.contains(flint.arb(1.1))
        assert NAMESPACE.minimum(wide, flint.arb(0.9)).contains(flint.arb(0.5))
        with pytest.raises(TypeError, match="no argmax"):
            NAMESPACE.argmax(x)
        assert NAMESPACE.where(np.array([True, False]), balls([1.0, 2.0]), -np.inf)[1] == -math.inf
    assert array_namespace(x) is NAMESPACE
    assert array_namespace(np.zeros(2)) is not NAMESPACE


@pytest.mark.parametrize("instance", [coin_payoff(9, 1.0), swapped_pair(6, 1.0, 0.1)], ids=["coin", "swapped"])
def test_tables_are_certified_too(instance):
    if not isinstance(instance, Instance):
        expert = soft_optimal(instance, 1.0).policy
        instance = Instance(instance, expert, worst_clone(instance, expert, 0.1).policy, 1.0)
    for statement in STATEMENTS:
        applies = check(statement, instance).applies
        if applies.any():
            assert certify(statement, instance, applies).verdict == "holds", statement.name


def test_gauge_is_carried_into_balls():
    mdp = random_tree(2, 3, seed=0)
    policy = random_policy(mdp.dynamics, np.random.default_rng(0))
    instance = Instance(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
    certificate = certify(BY_NAME["endogenous-telescoping"], instance)
    assert certificate.verdict == "holds"
    wrong = dataclasses.replace(policy, log_normalizers=None)  # the other gauge: same statement, other reward
    assert certify(BY_NAME["endogenous-telescoping"], dataclasses.replace(instance, policy=wrong)).verdict == "holds"
