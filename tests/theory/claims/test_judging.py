"""How both sides of a claim become a verdict, on numbers whose verdict is known.

The instances matter little here: sides are planted, for a batch, for its prompts, or for pairs.
"""

import numpy as np
import pytest
from planted import claim

from theory.arrays.precision import enclose
from theory.arrays.truth import Undecided
from theory.claims.findings import decide, decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import EQUAL_WITHIN, HOLDS, UNDECIDED, VIOLATED, check
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

PRECISIONS = pytest.mark.parametrize("bits", [53, 128])


def trivial(batch=(), weights=(0.5, 0.5)):
    """No reward, two prompts, policies that agree."""
    shape = (*batch, len(weights), 2)
    mdp = TokenMDP.tree([np.zeros(shape)], prompt_weights=list(weights))
    expert = soft_optimal(mdp, 1.0).policy
    return Instance(mdp, expert, expert, 1.0)


def planted(left, right, **options):
    return claim("planted", lambda i: np.asarray(left), lambda i: np.asarray(right), **options)


def balls(middle, radius, bits):
    return enclose(np.asarray(middle), bits).widen(enclose(np.asarray(radius), bits))


def test_codes_are_in_the_order_of_what_is_worse():
    assert (HOLDS, UNDECIDED, VIOLATED) == (1, 2, 3)


@PRECISIONS
def test_sides_may_be_of_the_batch_of_a_prompt_or_of_its_pairs(bits):
    one = check(planted(0.0, 1.0), trivial(), bits)
    assert one.codes.tolist() == [HOLDS]
    prompts = check(planted([0.0, 2.0], [1.0, 1.0]), trivial(), bits)
    assert prompts.codes.tolist() == [HOLDS, VIOLATED]
    pairs = check(planted([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [1.0, 1.0]), trivial(), bits)
    assert pairs.codes.tolist() == [[HOLDS, VIOLATED, HOLDS], [HOLDS, HOLDS, VIOLATED]]
    batch = check(planted([[[0.0], [2.0]]] * 3, 1.0), trivial((3,)), bits)
    assert batch.codes.tolist() == [[[HOLDS], [VIOLATED]]] * 3
    assert (one.verdict, prompts.verdict) == ("holds", "violated")


@PRECISIONS
def test_a_prompt_of_weight_zero_does_not_count_and_its_pairs_do_not(bits):
    instance = trivial(weights=(1.0, 0.0))
    found = check(planted([[2.0, 0.0], [2.0, 2.0]], 1.0), instance, bits)
    assert found.codes.tolist() == [[VIOLATED, HOLDS], [0, 0]]
    assert found.applies.tolist() == [[True, True], [False, False]]
    assert check(planted(2.0, 1.0), instance, bits).codes.tolist() == [VIOLATED]


@PRECISIONS
def test_a_bound_is_vacuous_from_its_ceiling_on_and_not_below(bits):
    def found(right):
        return check(planted(0.0, right, ceiling=lambda i: 2.0), trivial(), bits)

    shares = [-1.0, 0.0, 0.5, 1 - 1e-6, 1 - 1e-10, 1.0, 3.0]
    says_nothing = [bool(found(2.0 * share).vacuous.all()) for share in shares]
    assert says_nothing == [False, False, False, False, True, True, True]
    equal = check(planted(0.0, 3.0, ceiling=lambda i: 2.0, equality=True), trivial(), bits)
    assert not equal.vacuous.any()
    assert not check(planted(0.0, 3.0), trivial(), bits).vacuous.any()


@PRECISIONS
def test_an_inequality_is_decided_by_the_ends_of_its_slack(bits):
    middle, radius = [1.0, -1.0, 0.0, 0.25], [0.5, 0.5, 0.5, 0.5]
    for k, code in enumerate((HOLDS, VIOLATED, UNDECIDED, UNDECIDED)):
        statement = claim(
            "planted",
            lambda i: np.zeros(2),
            lambda i, k=k: balls([middle[k]] * 2, [radius[k]] * 2, bits),
        )
        found = check(statement, trivial(), bits)
        assert found.codes.tolist() == [code] * 2
        assert found.left.tolist() == [0.0, 0.0]
        np.testing.assert_allclose(found.right, middle[k], atol=1e-12)
        np.testing.assert_allclose(found.error, 0.5, rtol=1e-8)
        np.testing.assert_allclose(found.slack, middle[k], atol=1e-12)


@PRECISIONS
def test_infinities_decide_and_what_is_no_number_does_not(bits):
    inf, nan = np.inf, np.nan
    for left, right, code in (
        (0.0, inf, HOLDS),
        (-inf, 0.0, HOLDS),
        (inf, inf, HOLDS),
        (0.0, -inf, VIOLATED),
        (inf, 0.0, VIOLATED),
        (nan, 0.0, UNDECIDED),
        (0.0, nan, UNDECIDED),
        (nan, inf, UNDECIDED),
    ):
        found = check(planted([left] * 2, [right] * 2), trivial(), bits)
        assert found.codes.tolist() == [code] * 2, (left, right)
        assert found.unknown.tolist() == [bool(np.isnan(left) or np.isnan(right))] * 2
    endless = check(planted([0.0] * 2, [inf] * 2), trivial(), bits)
    assert endless.slack.tolist() == [inf] * 2
    assert endless.error.tolist() == [0.0] * 2  # and not the NaN of ∞ − ∞


def test_an_equality_is_within_a_share_of_the_largest_number_of_its_prompt():
    """At most one, so that a difference must be small by itself too."""
    bits = 256

    def codes(left, off, batch=()):
        left = np.asarray(left)
        statement = claim(
            "planted",
            lambda i: enclose(left, bits),
            lambda i: balls(left, off * EQUAL_WITHIN * np.ones(left.shape), bits),
            equality=True,
        )
        return check(statement, trivial(batch), bits).codes.tolist()

    sure, open_ = [HOLDS] * 2, [UNDECIDED] * 2
    assert codes([[0.0, 1.0], [0.0, 0.0]], 0.9) == [sure, open_]  # each prompt by its own
    assert codes([[0.0, 1.0], [0.0, 1.0]], 1.1) == [open_, open_]
    assert codes([[0.0, -1.0], [0.0, 0.5]], 0.9) == [sure, open_]
    assert codes([[0.0, 100.0], [0.0, -100.0]], 1.1) == [open_, open_]
    batch = [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    assert codes(batch, 0.9, (2,)) == [[sure, open_], [open_, sure]]


@PRECISIONS
def test_equal_sides_are_equal_and_apart_they_are_not(bits):
    inf = np.inf
    for left, right, code in (
        (1.0, 1.0, HOLDS),
        (inf, inf, HOLDS),
        (-inf, -inf, HOLDS),
        (1.0, 1.0 + 1e-12, VIOLATED),
        (1.0, inf, VIOLATED),
        (0.0, 1e-40, VIOLATED),
    ):
        found = check(planted([left] * 2, [right] * 2, equality=True), trivial(), bits)
        assert found.codes.tolist() == [code] * 2, (left, right)
    apart = check(planted([1.0] * 2, [3.0, -1.0], equality=True), trivial(), bits)
    assert apart.slack.tolist() == [-2.0, -2.0]


@PRECISIONS
def test_an_open_condition_decides_only_what_holds_in_any_case(bits):
    def open_(i):
        raise Undecided("planted")

    for right, code in ((1.0, HOLDS), (-1.0, UNDECIDED)):
        found = check(planted([0.0] * 2, [right] * 2, when=open_), trivial(), bits)
        assert found.codes.tolist() == [code] * 2
        assert (found.applies.tolist(), found.uncertain.tolist()) == ([False] * 2, [True] * 2)


@PRECISIONS
def test_an_open_side_decides_nothing(bits):
    def open_(i):
        raise Undecided("planted")

    found = check(claim("planted", open_, lambda i: np.ones(2)), trivial(), bits)
    assert found.codes.tolist() == [UNDECIDED] * 2
    assert found.unknown.all()


@PRECISIONS
def test_a_condition_holds_where_it_says_so(bits):
    when = np.array([[True, False], [False, True]])
    found = check(planted([[2.0, 2.0]] * 2, [1.0] * 2, when=lambda i: when), trivial(), bits)
    assert found.codes.tolist() == [[VIOLATED, 0], [0, VIOLATED]]
    assert not found.uncertain.any()
    one = check(planted([[2.0, 2.0]] * 2, [1.0] * 2, when=lambda i: when[0]), trivial(), bits)
    assert one.codes.tolist() == [[VIOLATED] * 2, [0] * 2]  # of the prompts


def test_a_condition_must_be_true_or_false():
    with pytest.raises(ValueError, match="a condition must be true or false"):
        check(planted([0.0] * 2, [1.0] * 2, when=lambda i: np.ones(2)), trivial())


def test_a_bound_by_length_that_is_one_to_nine_digits_is_not_compared():
    """``tanh(αε(T + T')/4)``: pairs of 1 and 1, and of 2 and 2 choices, at ``αε = 14.3``."""
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))])
    expert = soft_optimal(mdp, 1.0).policy
    apart = np.log([[1.0, np.exp(15.0)]])
    policy = Policy.from_logits(mdp.dynamics, [np.zeros((1, 2)), np.repeat(apart, 2, axis=0)])
    instance = Instance(mdp, expert, policy, 1.0)
    found = check(STATEMENTS["preference-length"], instance)
    nats = float(instance.epsilon) * np.array([2.0, 4.0, 4.0, 4.0, 4.0, 2.0])
    assert found.applies.tolist() == [(np.tanh(nats / 4) < 1 - 5e-10).tolist()]
    assert found.applies.any()
    assert not found.applies.all()


@pytest.mark.parametrize("slacks", [(0.25, 0.125), (0.125, 0.25), (-0.5, 0.125), (0.125, -0.5)])
def test_the_worst_of_several_instances_is_that_of_least_slack(slacks):
    """Whichever comes first, on whichever side of zero."""
    numbers = iter(slacks)
    statement = claim("planted", lambda i: np.ones(2), lambda i: np.full(2, 1.0 + next(numbers)))
    found = decide(statement, [trivial(), trivial()], budget=0)
    assert found.smallest_slack == min(slacks)
    assert (found.left, found.right) == (1.0, 1.0 + min(slacks))
    assert (
        found.outcomes
        == {
            0: {"holds": 2},
            1: {"holds": 1, "undecided": 1},  # by doubles alone, which no violation rests on
        }[sum(slack < 0 for slack in slacks)]
    )
    assert (found.mean_left, found.mean_right) == (1.0, 1.0 + sum(slacks) / 2)
    assert found.worst_ratio == 1 / (1.0 + min(slacks))


def test_what_a_statement_applies_to_is_a_share_by_weight():
    """Of two instances, of weights 3 and 1, the second is one that it says nothing of."""
    says = iter([True, False])
    statement = planted([0.0] * 2, [1.0] * 2, when=lambda i: np.full(2, next(says)))
    found = decide_each([statement], [trivial(), trivial()], weights=[3.0, 1.0])[0]
    assert found.applies == 0.75
    assert found.outcomes == {"holds": 1, "does not apply": 1}
    assert (found.mean_left, found.mean_right) == (0.0, 1.0)


def test_what_doubles_decide_is_not_counted_as_certified():
    """A violation never rests on doubles."""
    assert decide(planted([0.0] * 2, [1.0] * 2), [trivial()]).certified == 0
    assert decide(planted([2.0] * 2, [1.0] * 2), [trivial()]).certified == 1
    silent = planted([2.0] * 2, [1.0] * 2, when=lambda i: np.zeros(2, bool))
    assert decide(silent, [trivial()]).certified == 0


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("sides", [(np.nan, 1.0), (1.0, np.nan)])
def test_a_slack_that_is_not_a_number_is_less_than_any(sides, first):
    """What is not known may be the worst; it is not hidden by what is."""
    known, unknown = ([1.0, 2.0], [1.5, 2.25]), ([1.0, sides[0]], [1.5, sides[1]])
    order = [unknown, known] if first else [known, unknown]
    left, right = (iter(np.array(x)) for x in zip(*order, strict=True))
    statement = claim("planted", lambda i: next(left), lambda i: next(right))
    found = decide(statement, [trivial(), trivial()], budget=0)
    assert np.isnan(found.smallest_slack)
    np.testing.assert_array_equal((found.left, found.right), sides)
    assert found.outcomes == {"holds": 1, "undecided": 1}


def test_of_equal_slacks_the_first_is_shown():
    sides = iter([1.0, 2.0])
    statement = claim("planted", lambda i: np.full(2, next(sides)), lambda i: np.full(2, np.inf))
    found = decide(statement, [trivial(), trivial()])
    assert (found.left, found.smallest_slack) == (1.0, np.inf)


def test_the_least_slack_is_of_what_the_statement_applies_to():
    """Not of a response that it says nothing of, also where the others' slack is infinite."""
    statement = planted([7.0, 1.0], [2.0, np.inf], when=lambda i: np.array([False, True]))
    found = decide(statement, [trivial()])
    assert (found.smallest_slack, found.left, found.right) == (np.inf, 1.0, np.inf)


def test_a_slack_of_infinity_has_its_sides_too():
    found = decide(planted([0.0] * 2, [np.inf] * 2), [trivial()])
    assert (found.smallest_slack, found.left, found.right) == (np.inf, 0.0, np.inf)


@pytest.mark.parametrize("ceiling", [None, 1.0])
@pytest.mark.parametrize("equality", [False, True])
def test_only_an_inequality_with_a_ceiling_can_be_vacuous(ceiling, equality):
    """A bound at the ceiling says nothing; elsewhere there is no such share, not one of zero."""
    highest = None if ceiling is None else (lambda i: ceiling)
    statement = claim(
        "planted", lambda i: np.ones(2), lambda i: np.ones(2), equality=equality, ceiling=highest
    )
    share = decide(statement, [trivial()]).vacuous_share
    np.testing.assert_equal(share, np.nan if ceiling is None or equality else 1.0)


@pytest.mark.parametrize("weights", [[1.0, np.inf], [1.0, 0.0], [1.0, -1.0], [1.0], [np.nan, 1.0]])
def test_weights_are_positive_and_finite_and_one_an_instance(weights):
    with pytest.raises(ValueError, match="must be 2 positive numbers, one an instance"):
        decide_each([planted(0.0, 1.0)], [trivial(), trivial()], weights=weights)
