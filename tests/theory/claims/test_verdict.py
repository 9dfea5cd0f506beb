"""Verdicts: small violations are found, small slack is not called one, and enclosures hold what
they should.
"""

import dataclasses
import math
from fractions import Fraction

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import changed, claim
from strategies import alphas, epsilons, policies_in_ball, random_policy, seeds, token_mdps

from theory.arrays.balls import Balls
from theory.arrays.doubles import Doubles
from theory.arrays.enclosure import NAMESPACE, is_enclosure
from theory.arrays.namespace import array_namespace
from theory.arrays.precision import enclose, precision
from theory.claims.findings import NOT_EVALUATED, PRECISIONS, decide, decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import EQUAL_WITHIN, check
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.studies.gallery import coin_payoff, indifferent_learner, swapped_pair

NAMES = [statement.name for statement in STATEMENTS]
BY_NAME = dict(zip(NAMES, STATEMENTS, strict=True))


def instance_for(name):
    """An adversary's instance, on which the left side of the statement is not zero."""
    mdp = TokenMDP.random(3, 3, n_prompts=2, seed=4)
    expert = soft_optimal(mdp, 0.4).policy
    adversary = worst_map if "rl" in name else worst_clone
    radius = 2.0 if name == "coverage" else 0.3  # of responses four times as probable
    return Instance(mdp, expert, adversary(mdp, expert, radius).policy, 0.4)


def in_balls(statement, instance):
    """The verdict of balls alone, with as many bits as it takes."""
    verdicts = (check(statement, instance, bits).verdict for bits in PRECISIONS[1:])
    return next((verdict for verdict in verdicts if verdict != "undecided"), "undecided")


def sides(statement, exact, bits):
    """Both sides, as enclosures, of an instance in enclosures of `bits` bits."""
    found = (side(exact) for side in (statement.quantity.of, statement.bound.of))
    return [side if is_enclosure(side) else enclose(side, bits) for side in found]


def assert_covers(wide, narrow, name):
    """All that the narrow enclosure, in balls, may be is in the wide one; of a wide one that is one
    number, it is.
    """
    shape = np.broadcast_shapes(wide.shape, narrow.shape)
    low, high = (np.broadcast_to(end, shape).ravel() for end in (wide.lower(), wide.upper()))
    for a, b, x in zip(
        low.tolist(), high.tolist(), np.broadcast_to(narrow.data, shape).ravel(), strict=True
    ):
        # a ball has 30 bits of radius: a root that begins at zero begins a little below it
        below = a - 2.0**-28 * float(abs(x).upper()) if -1e-300 < a <= 0 else a
        inside = x.contains(flint.arb(a)) or x == a if a == b else x >= below and x <= b
        assert inside or x.is_nan(), f"{name}: {x} is not in [{a}, {b}]"


@pytest.mark.parametrize("name", NAMES)
def test_a_violation_of_one_part_in_ten_trillion_is_found(name):
    statement, instance = BY_NAME[name], instance_for(name)
    if statement.equality:
        planted = changed(statement, right=lambda i: statement.bound.of(i) * (1 + 1e-13))
    else:
        planted = changed(
            statement,
            right=lambda i: statement.quantity.of(i) - 1e-13 * np.abs(statement.quantity.of(i)),
        )
    assert np.any(statement.quantity.of(instance) != 0)
    summary = decide(planted, [instance])
    assert summary.verdict == "violated"
    assert summary.certified == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_slack_of_1e_15_is_not_a_violation(name):
    statement, instance = BY_NAME[name], instance_for(name)
    if statement.equality:
        summary = decide(statement, [instance])
        assert summary.equal_within <= EQUAL_WITHIN * 10
    else:
        tight = changed(statement, right=lambda i: statement.quantity.of(i) + 1e-15)
        summary = decide(tight, [instance])
    assert summary.verdict == "holds"
    assert summary.certified == 1


@pytest.mark.parametrize("name", [name for name in NAMES if not BY_NAME[name].equality])
def test_no_tolerance_turns_undecided_into_holds(name):
    """Two sides that are the same number overlap at every precision."""
    statement = BY_NAME[name]
    tied = changed(statement, right=statement.quantity.of)
    assert decide(tied, [instance_for(name)]).verdict == "undecided"


@pytest.mark.parametrize("offset", [0.0, -1e6])
@pytest.mark.parametrize("defect", [0.0, 5e-10, -5e-10])
def test_doubles_cover_offsets_of_the_reward_and_rows_that_do_not_sum_to_one(offset, defect):
    """What doubles call certain is so: they hold all that the exact number may be."""
    rewards = TokenMDP.random(2, 3, seed=0).rewards
    mdp = TokenMDP.tree([r + offset for r in rewards], reward_range=(offset, offset + 1))
    expert = soft_optimal(mdp, 0.7).policy
    policy = Policy.from_log_probs(mdp.dynamics, [table + defect for table in expert.log_probs])
    assert_covered(Instance(mdp, expert, policy, 0.7))


def test_doubles_cover_temperatures_far_below_the_rewards():
    rng = np.random.default_rng(0)
    scale = 1.7e-7
    rewards = [rng.integers(0, 2, (3**h, 3)) * scale - 0.167 for h in range(3)]
    mdp = TokenMDP.tree(rewards, reward_range=(-0.167, -0.167 + scale))
    expert = soft_optimal(mdp, 1.8e-11).policy
    assert_covered(Instance(mdp, expert, sample_log_ratio_ball(expert, 1e-9, rng), 1.8e-11))


def assert_covered(instance, bits=512):
    """Of every statement, both sides and the slack with `bits` bits are inside what doubles say,
    wherever it applies or not.
    """
    with precision(bits):
        coarse, fine = instance.enclosed(53), instance.enclosed(bits)
        for statement in STATEMENTS:
            wide, narrow = sides(statement, coarse, 53), sides(statement, fine, bits)
            for name, one, other in zip(("left", "right"), wide, narrow, strict=True):
                assert_covers(one, other, f"{statement.name}, {name}")
            assert_covers(wide[1] - wide[0], narrow[1] - narrow[0], f"{statement.name}, slack")
            result = check(statement, instance)
            with np.errstate(invalid="ignore"):
                got = result.right - result.left
            exact = np.broadcast_to((narrow[1] - narrow[0]).data, result.left.shape)[result.applies]
            for a, b, error in zip(
                exact, got[result.applies], result.error[result.applies], strict=True
            ):
                if math.isfinite(b) and math.isfinite(error):
                    assert float(abs(a - flint.arb(float(b))).upper()) <= error, statement.name


def test_an_assumption_is_certain_or_does_not_apply():
    """``α(1 + tanh(ε/2)) = R`` up to an ulp: doubles may say that it applies, and no violation may
    come of it.
    """
    alpha = 0.4003289280267998
    found = indifferent_learner(2, alpha, vocab_size=5, low=3)
    width = float(alpha * (1 + np.tanh(found.epsilon / 2)))
    mdp = dataclasses.replace(found.mdp, reward_range=(0.0, width))
    summary = decide(BY_NAME["theorem-2-rl"], [Instance(mdp, found.expert, found.policy, alpha)])
    assert summary.verdict != "violated"


def test_balls_that_lost_every_digit_decide_nothing():
    """Exponents beyond every precision: the balls say nothing, and nothing is certified from
    them.
    """
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.ones((2, 2))])
    expert = soft_optimal(mdp, 1e-60).policy
    instance = Instance(mdp, expert, expert, 1e-60)
    false = claim("false", lambda i: i.expert_value, lambda i: i.expert_value * 0 + 0.5)
    for bits in PRECISIONS:
        assert check(false, instance, bits).verdict != "holds"
    assert decide(false, [instance]).verdict != "holds"


@pytest.mark.parametrize("bits", [53, 128, 256])
def test_every_side_is_rigorous_at_every_precision(bits):
    """A double constant in a formula would leave a ball that misses the one of higher precision."""
    instance = instance_for("clone")
    values = {}
    for precise in (bits, 2048):
        with precision(precise):
            exact = instance.enclosed(precise)
            values[precise] = [sides(s, exact, precise) for s in STATEMENTS]
    with precision(2048):
        for statement, coarse, fine in zip(STATEMENTS, *values.values(), strict=True):
            for name, wide, narrow in zip(("left", "right"), coarse, fine, strict=True):
                assert_covers(wide, narrow, f"{statement.name}, {name}")
                if bits > 53:
                    assert all(
                        a.overlaps(b)
                        for a, b in zip(wide.data.ravel(), narrow.data.ravel(), strict=True)
                    )


def test_floating_point_alone_decides_where_slack_is_wide():
    summary = decide(BY_NAME["clone-elementary"], [instance_for("clone")])
    assert (summary.verdict, summary.certified) == ("holds", 0)


def test_only_the_instances_left_open_are_evaluated_in_balls():
    rng = np.random.default_rng(0)
    mdp = TokenMDP.random(2, 3, batch=(5,), seed=rng)
    expert = soft_optimal(mdp, 0.7).policy
    instance = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.2, rng), 0.7)

    def planted_in_the_third(
        i,
    ):  # doubles cannot see it; in balls every instance of those that are evaluated has it
        below = np.abs(i.clone_gap) * (1 - 2.0**-53)
        third = np.arange(5)[:, None] == 2
        return NAMESPACE.where(third, below, 10.0) if isinstance(below, Doubles) else below

    statement = claim("planted", lambda i: np.abs(i.clone_gap), planted_in_the_third)
    summary = decide(statement, [instance])
    assert (summary.verdict, summary.certified, summary.instances) == ("violated", 1, 5)
    assert summary.outcomes == {"holds": 4, "violated": 1}


def test_what_is_over_the_budget_of_balls_stays_undecided():
    mdp = TokenMDP.random(2, 12, seed=0)
    expert = soft_optimal(mdp, 0.7).policy
    instance = Instance(mdp, expert, expert, 0.7)
    tied = changed(BY_NAME["clone-elementary"], right=lambda i: i.clone_gap + 1e-18)
    summary = decide(tied, [instance], budget=instance.numbers - 1)
    assert (summary.verdict, summary.certified) == ("undecided", 0)
    assert summary.reasons == {NOT_EVALUATED: 1}
    both = decide(tied, [instance, instance.take(())], budget=instance.numbers)
    assert (both.verdict, both.certified) == ("undecided", 1)
    assert both.outcomes == {"holds": 1, "undecided": 1}
    assert both.reasons == {NOT_EVALUATED: 1}
    assert decide(tied, [instance]).verdict == "holds"


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data(), token_mdps(), alphas, epsilons, seeds)
def test_doubles_hold_the_balls(data, mdp, alpha, epsilon, seed):
    """The enclosures of doubles hold those of 256 bits, on every kind of dynamics."""
    expert = soft_optimal(mdp, alpha).policy
    policy = data.draw(policies_in_ball(expert, min(epsilon, 3.0)))
    assert_covered(Instance(mdp, expert, policy, alpha), 256)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=15)
@given(token_mdps(masked=True, min_vocab=2), alphas, epsilons, seeds)
def test_every_statement_is_certified_where_tokens_are_forbidden(mdp, alpha, epsilon, seed):
    expert = soft_optimal(mdp, alpha).policy
    policy = sample_log_ratio_ball(expert, min(epsilon, 2.0), seed)
    instance = Instance(mdp, expert, policy, alpha)
    for statement, summary in zip(STATEMENTS, decide_each(STATEMENTS, [instance]), strict=True):
        assert summary.verdict != "violated", statement.name
        assert in_balls(statement, instance) != "violated", statement.name


def test_balls_against_exact_fractions():
    """H = 1 with rational probabilities: the plain-value gap is a fraction, and the ball holds
    it.
    """
    p, q = [Fraction(1, 8), Fraction(7, 8)], [Fraction(1, 2), Fraction(1, 2)]
    mdp = TokenMDP.tree([np.array([[0.25, 1.0]])])
    alpha = 1.0
    # π_E is softmax(r/α) and not p: let the policy carry the fractions
    policy = Policy.from_probs(mdp.dynamics, [np.array([[float(x) for x in p]])])
    other = Policy.from_probs(mdp.dynamics, [np.array([[float(x) for x in q]])])
    with precision(200):
        a = Instance(mdp, soft_optimal(mdp, alpha).policy, policy, alpha).enclosed(200)
        b = Instance(mdp, soft_optimal(mdp, alpha).policy, other, alpha).enclosed(200)
        gap = (a.clone_gap - b.clone_gap).data[0]  # V^{π_E} cancels: E_q r − E_p r
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
    """Rows that sum to one within the tolerance only are normalised."""
    mdp = TokenMDP.random(3, 2, seed=0)
    expert = soft_optimal(mdp, 0.5).policy
    off = Policy.from_log_probs(mdp.dynamics, [t + 5e-10 for t in expert.log_probs])
    instance = Instance(mdp, expert, off, 0.5)
    with precision(128):
        for table in instance.enclosed(128).policy.log_probs:
            for row in np.exp(table).sum(axis=-1).data.ravel():
                assert row.contains(flint.arb(1))
                assert float(row.rad()) < 1e-30
    for table in instance.enclosed(53).policy.log_probs:
        rows = np.exp(table).sum(axis=-1)
        assert (rows.lower() <= 1).all()
        assert (rows.upper() >= 1).all()
        assert (rows.rad < 1e-13).all()
    # read as it is, π̂ "loses" -1e-9 nats a step; the verdict must not come from that
    assert decide(BY_NAME["kl-ball"], [instance]).verdict == "holds"
    result = check(BY_NAME["kl-ball"], instance)
    assert np.abs(result.left).max() < 1e-13
    assert np.abs(result.right).max() < 1e-13


def test_a_prompt_counts_where_it_can_occur_and_by_itself():
    """A violation at one prompt is no average with the slack of the others, and none at a prompt of
    weight zero.
    """
    mdp = TokenMDP.tree([np.zeros((3, 2))], prompt_weights=[0.1, 0.9, 0.0])
    expert = soft_optimal(mdp, 1.0).policy
    instance = Instance(mdp, expert, expert, 1.0)
    for at, verdict in enumerate(("violated", "violated", "holds")):
        right = np.where(np.arange(3) == at, -1e-20, 1.0)
        statement = claim("planted", lambda i: i.expert_value * 0, lambda i, right=right: right)
        assert decide(statement, [instance]).verdict == verdict
        assert check(statement, instance, 128).verdicts.tolist()[2] == "does not apply"


@pytest.mark.slow
@pytest.mark.parametrize("bits", [53, 128])
def test_single_takes_one_of_a_batch(bits):
    rng = np.random.default_rng(1)
    mdp = TokenMDP.random(3, 3, batch=(2, 2), seed=rng)
    alpha = rng.uniform(0.2, 2, (2, 2))
    expert = soft_optimal(mdp, alpha).policy
    batch = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.3, rng), alpha)
    for statement in STATEMENTS:
        whole = check(statement, batch, bits)
        for k, at in enumerate(np.ndindex(2, 2)):
            one = check(statement, batch.take(k), bits)
            assert (one.codes == whole.codes[at]).all()
            np.testing.assert_allclose(one.left, whole.left[at], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(
                one.right, np.broadcast_to(whole.right, whole.left.shape)[at], rtol=1e-12
            )


@pytest.mark.parametrize("bits", [53, 128])
def test_a_number_that_is_no_double_is_not_rounded(bits):
    """A verdict would be about other rewards than those given."""
    mdp = TokenMDP.tree([np.array([[1, 2]], np.longdouble) / 4])
    expert = soft_optimal(mdp, 1.0).policy
    doubles = Policy.from_logits(mdp.dynamics, [np.array([[0.0, 1.0]])])
    assert check(BY_NAME["kl-ball"], Instance(mdp, expert, doubles, 1.0), bits).verdict == "holds"
    with pytest.raises(ValueError, match="is not a double"):
        check(BY_NAME["kl-ball"], Instance(mdp, expert, expert, 1.0), bits)


def test_overlapping_balls_are_joined_and_not_picked():
    with precision(128):
        wide = enclose(1.0, 128).widen(enclose(0.5, 128))  # 1 ± 0.5
        x = NAMESPACE.stack([wide, enclose(1.2, 128), enclose(0.9, 128)])
        top = NAMESPACE.max(x, axis=-1).data[()]
        assert top.contains(flint.arb(1.2))
        assert top.contains(flint.arb(1.5))
        assert not top.contains(flint.arb(1.1))
        assert np.minimum(wide, enclose(0.9, 128)).data[()].contains(flint.arb(0.5))
        with pytest.raises(TypeError, match="no argmax"):
            NAMESPACE.argmax(x)
        kept = NAMESPACE.where(np.array([True, False]), enclose([1.0, 2.0], 128), -np.inf)
        assert isinstance(kept, Balls)
        assert kept.data[1] == -math.inf
    assert array_namespace(x) is NAMESPACE
    assert array_namespace(np.zeros(2)) is not NAMESPACE


def test_overlapping_doubles_are_joined_and_not_picked():
    wide = enclose(1.0, 53).widen(enclose(0.5, 53))  # 1 ± 0.5
    x = NAMESPACE.stack([wide, enclose(1.2, 53), enclose(0.9, 53)])
    top = NAMESPACE.max(x, axis=-1)
    assert top.lower() <= 1.2
    assert top.upper() >= 1.5
    assert top.lower() > 1.1
    assert np.minimum(wide, enclose(0.9, 53)).lower() <= 0.5
    with pytest.raises(TypeError, match="no argmax"):
        NAMESPACE.argmax(x)
    kept = NAMESPACE.where(np.array([True, False]), enclose([1.0, 2.0], 53), -np.inf)
    assert isinstance(kept, Doubles)
    assert (kept.lower() == [1.0, -math.inf]).all()
    assert (kept.upper() == [1.0, -math.inf]).all()


@pytest.mark.parametrize(
    "instance", [coin_payoff(9, 1.0), swapped_pair(6, 1.0, 0.1)], ids=["coin", "swapped"]
)
def test_tables_are_decided_in_balls_too(instance):
    if not isinstance(instance, Instance):
        expert = soft_optimal(instance, 1.0).policy
        instance = Instance(instance, expert, worst_clone(instance, expert, 0.1).policy, 1.0)
    for statement in STATEMENTS:
        if check(statement, instance).applies.any():
            assert in_balls(statement, instance) == "holds", statement.name


def test_gauge_is_carried_into_balls():
    mdp = TokenMDP.random(2, 3, seed=0)
    policy = random_policy(mdp.dynamics, np.random.default_rng(0))
    instance = Instance(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
    assert in_balls(BY_NAME["endogenous-telescoping"], instance) == "holds"
    wrong = dataclasses.replace(
        policy, log_normalizers=None
    )  # the other gauge: same statement, other reward
    assert (
        in_balls(BY_NAME["endogenous-telescoping"], dataclasses.replace(instance, policy=wrong))
        == "holds"
    )
