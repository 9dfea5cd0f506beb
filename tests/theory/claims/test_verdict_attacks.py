"""What a reader tried who wanted a wrong verdict, or a traceback in its place."""

import gc
import math
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
from planted import changed, claim

from theory.claims import findings
from theory.claims.discounted import DISCOUNTED_STATEMENTS, DiscountedInstance
from theory.claims.findings import Group, decide, decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import check
from theory.mdp.discounted import DiscountedMDP
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.discounted import soft_value_iteration
from theory.solve.soft import soft_optimal
from theory.studies import groups as verify

BY_NAME = {statement.name: statement for statement in STATEMENTS}


def some_tree(seed=0, depth=2):
    rng = np.random.default_rng(seed)
    return TokenMDP.tree([rng.random((2**h, 2)) for h in range(depth)])


def some_instance(alpha=0.4):
    mdp = some_tree()
    expert = soft_optimal(mdp, alpha).policy
    rng = np.random.default_rng(1)
    return Instance(
        mdp,
        expert,
        Policy.from_logits(mdp.dynamics, [rng.normal(size=t.shape) for t in mdp.rewards]),
        alpha,
    )


def test_what_the_budget_leaves_out_of_a_thin_batch_is_undecided(monkeypatch):
    """The last of fifteen is false by one; a budget that ends before it must not call the others'
    verdict its own.
    """
    monkeypatch.setattr(findings, "AT_ONCE", 9_600)  # twelve of them
    H, n = 400, 15
    rng = np.random.default_rng(0)
    mdp = TokenMDP.table(
        [rng.random((n, 1, 2)) for _ in range(H)], [np.zeros((1, 2), int)] * (H - 1)
    )
    expert = soft_optimal(mdp, 0.3).policy
    instance = Instance(mdp, expert, expert, 0.3)
    last = float(mdp.rewards[0][14, 0, 0])

    def false_in_the_last(i):
        return i.soft_value + np.where(i.mdp.rewards[0][..., 0].nearest() == last, 1.0, 0.0)

    planted = changed(BY_NAME["soft-value"], right=false_in_the_last)
    assert decide(planted, [instance]).outcomes == {"holds": 14, "violated": 1}
    summary = decide(planted, [instance], budget=10_000)
    assert summary.verdict == "undecided"
    assert summary.outcomes["undecided"] == summary.reasons["over the budget of balls"] == 3
    assert (summary.instances, summary.applies) == (15, 1.0)  # of the twelve that were evaluated
    nothing = decide(planted, [instance], budget=0)
    assert (nothing.verdict, nothing.instances) == ("undecided", 15)
    assert math.isnan(nothing.applies)


@pytest.mark.parametrize("alpha", [[0.4], [0.3, 0.5], [0.3, 0.5, 0.7, 0.9]])
def test_batch_axes_on_some_arrays_only(alpha):
    """The batch is that of `alpha`; as many problems as a response has prompts, or responses,
    changes nothing.
    """
    mdp, alpha = some_tree(), np.array(alpha)
    policy = Policy.from_logits(
        mdp.dynamics, [np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.5, 0.0]])]
    )
    instance = Instance(mdp, soft_optimal(mdp, alpha).policy, policy, alpha)
    for summary in decide_each(STATEMENTS, [instance]):
        assert summary.verdict in ("holds", "does not apply"), summary.statement.name
        assert sum(summary.outcomes.values()) == len(alpha)


@pytest.mark.parametrize(
    "nothing", [None, "1", 1 + 0j, np.array([None, 5.0]), np.datetime64("2026-01-01"), 10**400]
)
def test_a_side_that_is_no_real_number_is_refused(nothing):
    with pytest.raises(ValueError, match="must be real numbers") as refused:
        decide(claim("forgot", lambda i: nothing, lambda i: 1.0), [some_instance()])
    assert any("quantity of 'forgot'" in note for note in refused.value.__notes__)


@pytest.mark.parametrize("assumed", [None, math.nan, "yes", 1.0])
def test_an_assumption_that_is_not_true_or_false_is_refused(assumed):
    statement = claim("s", lambda i: 0.0, lambda i: 1.0, when=lambda i: assumed)
    with pytest.raises(ValueError, match="must be true or false"):
        decide(statement, [some_instance()])


@pytest.mark.parametrize("name", ["regularised-equality", "irl-gap"])
def test_a_prompt_of_large_numbers_hides_no_other(name):
    mdp = TokenMDP.tree([np.array([[0.0, 1.0], [0.3, 0.31]])])
    expert = soft_optimal(mdp, 0.01).policy
    policy = Policy.from_logits(
        mdp.dynamics, [expert.log_probs[0] + np.array([[0.5, 0], [0.5, 0]])]
    )
    instance, statement = Instance(mdp, expert, policy, 0.01), BY_NAME[name]
    assert decide(statement, [instance]).verdict == "holds"
    doubled = changed(statement, right=lambda i: statement.bound.of(i) * np.array([2.0, 1.0]))
    assert decide(doubled, [instance]).verdict == "violated"


@pytest.mark.parametrize("scale", [1e20, 1e36, 1e60])
def test_one_too_much_is_found_beside_huge_numbers(scale):
    mdp = TokenMDP.tree([scale * table for table in some_tree().rewards], reward_range=(0, scale))
    expert = soft_optimal(mdp, 0.3 * scale).policy
    policy = Policy.from_logits(
        mdp.dynamics, [np.array([[0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])]
    )
    instance = Instance(mdp, expert, policy, 0.3 * scale)
    equalities = [s for s in STATEMENTS if s.equality]
    planted = [changed(s, right=lambda i, s=s: s.bound.of(i) + 1.0) for s in equalities]
    assert {summary.verdict for summary in decide_each(planted, [instance])} == {"violated"}
    assert {summary.verdict for summary in decide_each(equalities, [instance])} == {"holds"}


@pytest.mark.parametrize("name", ["regularised-equality", "irl-gap"])
def test_twice_a_tiny_number_is_another(name):
    """At a low temperature both sides are 1e-436 of a nat, and there is no floor under which
    numbers are equal.
    """
    mdp = TokenMDP.tree([np.array([[0.0, 1.0]])])
    instance = Instance(
        mdp,
        soft_optimal(mdp, 1e-3).policy,
        Policy.from_logits(mdp.dynamics, [np.array([[0, 3.0]])]),
        1e-3,
    )
    statement = BY_NAME[name]
    assert (
        decide(changed(statement, right=lambda i: statement.bound.of(i) * 2), [instance]).verdict
        == "violated"
    )


def responses(prompts, tokens):
    return Responses(np.array(prompts), np.array(tokens))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"chosen_responses": responses([0, 1, 0, 1], [[0], [0], [1], [1]])},
            "chosen_responses: .* in order",
        ),
        (
            {"chosen_responses": responses([0, 0, 1], [[0], [1], [0]])},
            "chosen_responses: .* as many",
        ),
        (
            {"chosen_responses": responses([0, 0, 1, 1], [[0], [1], [0], [2]])},
            "chosen_responses: holds tokens 0 to 2",
        ),
        (
            {"chosen_responses": responses([0, 0, 1, 1], [[0], [1], [0], [-1]])},
            "chosen_responses: holds tokens -1",
        ),
        ({"chosen_responses": responses([0, 1], [[0.0], [1.0]])}, "chosen_responses: .* integers"),
        (
            {"chosen_rl_response": responses([1, 0], [[0], [1]])},
            "chosen_rl_response: .* one response to each prompt",
        ),
    ],
)
def test_responses_that_are_none_are_refused(given, message):
    mdp = TokenMDP.tree([np.array([[0.0, 1.0], [0.3, 0.6]])])
    expert = soft_optimal(mdp, 1.0).policy
    with pytest.raises(ValueError, match=message):
        Instance(mdp, expert, expert, 1.0, **given)


def test_a_root_of_what_is_negative_is_not_a_number():
    below = claim("s", lambda i: np.sqrt((i.soft_value - i.soft_value) - 1e-20), lambda i: 1.0)
    summary = decide(below, [some_instance()])
    assert (summary.verdict, list(summary.reasons)) == ("undecided", ["a side is not a number"])


def test_groups_of_one_name_are_refused():
    group = Group("same", [some_instance()], {}, STATEMENTS)
    with pytest.raises(ValueError, match="groups: two are called 'same'"):
        verify.run([group, replace(group)])


def test_a_comparison_that_is_asked_for_a_plain_answer_leaves_the_verdict_open():
    tied = claim(
        "s",
        lambda i: 1.0 if bool((i.clone_gap >= i.clone_gap * 1.0).all()) else 0.0,
        lambda i: 2.0,
    )
    assert decide(tied, [some_instance()]).verdict == "undecided"


def test_policies_of_a_batch_may_have_different_supports():
    rng = np.random.default_rng(0)
    mdp = TokenMDP.tree([rng.random((2, 1, 2)), rng.random((2, 2, 2))])
    logits = [np.array([[[0.0, -np.inf]], [[0.0, 1.0]]]), np.zeros((2, 2, 2))]
    instance = Instance(
        mdp, soft_optimal(mdp, 0.4).policy, Policy.from_logits(mdp.dynamics, logits), 0.4
    )
    for summary in decide_each(STATEMENTS, [instance]):
        assert summary.verdict in ("holds", "does not apply"), summary.statement.name
        assert sum(summary.outcomes.values()) == 2


@pytest.mark.parametrize("alpha", ["0.4", np.array([]), 10**400, math.nan, None, -1.0])
def test_a_temperature_that_is_none_is_refused(alpha):
    instance = some_instance()
    with pytest.raises(ValueError, match="alpha"):
        replace(instance, alpha=alpha)


def test_what_is_no_table_is_refused():
    instance = some_instance()
    policy = instance.policy
    for change, message in (
        ({"log_probs": policy.log_probs[:1]}, r"policy.log_probs has 1 layers: must have 2"),
        (
            {"log_probs": tuple(t.tolist() for t in policy.log_probs)},
            r"policy.log_probs\[0\]: is no NumPy array",
        ),
        (
            {"log_probs": tuple(t + 0j for t in policy.log_probs)},
            r"policy.log_probs\[0\]: is no NumPy array of real",
        ),
        (
            {"log_probs": (np.full((1, 2), -np.inf), policy.log_probs[1])},
            "forbids every token of some state",
        ),
        ({"log_normalizers": policy.log_normalizers[:0]}, "policy.log_normalizers has 0 layers"),
        (
            {"log_normalizers": (np.zeros(3), np.zeros(2))},
            r"policy.log_normalizers\[0\] has shape \(3,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            replace(instance, policy=replace(policy, **change))


def test_an_instance_is_pickled_without_what_was_computed():
    instance = some_instance()
    found = check(BY_NAME["kl-ball"], instance, 128)
    again = check(BY_NAME["kl-ball"], pickle.loads(pickle.dumps(instance)), 128)
    assert again.left == found.left


def test_a_statement_cannot_write_into_the_rewards():
    instance = some_instance()

    def writes(i):
        i.mdp.rewards[0].mid[...] = 0.0
        return i.clone_gap

    with pytest.raises(ValueError, match="read-only"):
        decide(claim("s", writes, lambda i: 1.0), [instance])


@pytest.mark.parametrize(
    ("n", "discount", "alpha"), [(50, 0.99, 0.01), (40, 0.95, 0.02), (100, 0.99, 1.0)]
)
def test_long_corridors_without_end_are_solved(n, discount, alpha):
    """The reward is at the far end: more states away than plain backups carry it."""
    links = np.stack([np.minimum(np.arange(n) + 1, n - 1), np.maximum(np.arange(n) - 1, 0)], axis=1)
    rewards = np.zeros((n, 2))
    rewards[-1] = 1.0
    mdp = DiscountedMDP.table(rewards, links, discount)
    solved = soft_value_iteration(mdp, alpha)
    instance = DiscountedInstance(mdp, solved.policy, alpha)
    np.testing.assert_allclose(instance.soft_value, solved.values, rtol=1e-9)
    assert instance.epsilon.max() < 1e-6
    for summary in decide_each(DISCOUNTED_STATEMENTS, [instance]):
        assert summary.verdict in ("holds", "does not apply"), summary.statement.name


def test_rewards_of_zero_and_huge_gauges_without_end():
    mdp = DiscountedMDP.table([[0.0, 0.0]], [[0, 0]], 0.5)
    nothing = DiscountedInstance(mdp, np.log([[0.5, 0.5]]), 1.0)
    for summary in decide_each(DISCOUNTED_STATEMENTS, [nothing]):
        assert summary.verdict != "violated"
        assert set(summary.reasons) <= {"its sides are not separated", "its condition is undecided"}
        assert not summary.reasons or summary.equal_within < 1e-120  # of a root
    rng = np.random.default_rng(0)
    mdp = DiscountedMDP.table(rng.random((3, 2)), rng.integers(0, 3, (3, 2)), 0.9)
    gauged = DiscountedInstance(
        mdp, np.log(np.full((3, 2), 0.5)), 0.3, np.array([1e16, -3e16, 2e17])
    )
    assert {summary.verdict for summary in decide_each(DISCOUNTED_STATEMENTS, [gauged])} <= {
        "holds",
        "does not apply",
    }


def test_what_was_decided_does_not_stay_in_memory():
    instance = some_instance()
    decide_each(STATEMENTS, [instance])
    seen = weakref.ref(instance)
    del instance
    gc.collect()
    assert seen() is None
