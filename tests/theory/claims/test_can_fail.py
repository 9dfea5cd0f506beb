"""Rows that can fail: a wrong version of every statement is found on every group of ``endorm
verify``, or the table says that it cannot be.
"""

import numpy as np
import pytest
from planted import at_one_step, claim, wrong

from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.findings import Group, decide, decide_each
from theory.claims.instance import Instance
from theory.claims.literature import LITERATURE
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import check, enclosed
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.reports.verify import could_not_fail, verify_report
from theory.solve.soft import soft_optimal
from theory.studies import groups
from theory.studies.gallery import randomised_response
from theory.studies.literature import literature_trees

BY_NAME = {statement.name: statement for statement in STATEMENTS}
OF_LITERATURE = tuple(s for claim in LITERATURE for s in claim.holds)


@pytest.fixture(scope="module")
def few():
    """The groups of ``endorm verify``, each with a few instances, and the literature's trees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "FAMILY_HORIZONS", (3,))
        shapes = [(2, 1, 1, {}), (3, 3, 2, {"eos": 0}), (2, 5, 1, {"window": 2})]
        patch.setattr(groups, "SHAPES", shapes)
        patch.setattr(groups, "MAX_DISCOUNTED", 6)
        found = groups.exact_groups(n_instances=24)
    yield [*found, Group("literature", literature_trees(), {}, OF_LITERATURE)]
    enclosed.cache_clear()


def any_of(elements, instance):
    """Of each problem of a batch, whether any element is so: ``(n,)``."""
    return elements.reshape(int(np.prod(instance.batch_shape)), -1).any(axis=1)


def counted(group):
    """Of each statement on how many instances it could fail, and on how many each wrong version is
    violated; asserts that what has a term is violated on every one of them.
    """
    tested = {statement.name: 0 for statement in group.statements}
    seen = {statement.name: [0] * len(wrong(statement)) for statement in group.statements}
    for instance in group.instances:
        for statement in group.statements:
            found = check(statement, instance)
            assert found.verdict != "violated", (group.name, statement.name)
            assert not (found.tests & found.vacuous).any(), (group.name, statement.name)
            could = any_of(found.tests, instance)
            tested[statement.name] += int(could.sum())
            for k, version in enumerate(wrong(statement)):
                violated = any_of(check(version, instance).verdicts == "violated", instance)
                seen[statement.name][k] += int(violated.sum())
                if statement.term is not None or not statement.equality:
                    assert (violated | ~could).all(), (group.name, statement.name, k)
    return tested, seen


def test_every_statement_has_a_wrong_version():
    for statement in (*STATEMENTS, *DISCOUNTED_STATEMENTS, *OF_LITERATURE):
        assert wrong(statement), statement.name


def assert_found_or_said(examined):
    everywhere = dict.fromkeys(BY_NAME, 0)
    for group in examined:
        tested, seen = counted(group)
        statements = {statement.name: statement for statement in group.statements}
        for name, n in tested.items():
            if n:
                assert all(seen[name]), (group.name, name)
            if group.statements is STATEMENTS:
                everywhere[name] += n
            if statements[name].equality:  # the groups have gauges
                assert n, (group.name, name)
        if group.statements is OF_LITERATURE:  # no other group has these
            assert all(tested.values()), tested
    assert all(everywhere.values()), everywhere


def test_wrong_versions_are_found_on_every_group_that_does_not_say_it_cannot(few):
    assert_found_or_said(few)


@pytest.mark.slow  # all instances of ``endorm verify``
def test_wrong_versions_are_found_on_every_instance_of_verify():
    every = groups.exact_groups()
    assert_found_or_said(every)
    discounted, _ = counted(every[-1])
    assert all(discounted.values()), discounted


def test_a_bound_without_its_power_of_the_horizon_is_violated_in_the_gallery(few):
    (gallery,) = (group for group in few if "gallery" in group.name)
    missed = []
    for statement in STATEMENTS:
        if not statement.equality and "H" in statement.bound.symbol.replace("H−k", ""):
            found = [check(at_one_step(statement), i).verdict for i in gallery.instances]
            if "violated" not in found:
                missed.append(statement.name)
    assert missed == ["rl-anchored"]  # its divergences alone grow with the horizon


def test_a_table_says_which_rows_could_not_fail():
    """Without a gauge `r̂` is ``α log π̂``, and five rows compare a number with itself."""
    plain = randomised_response(3, 1.0, 0.1)
    identities = [
        "endogenous-telescoping",
        "soft-rl-fixed-point",
        "irl-saddle",
        "irl-gap",
        "inverse-soft-q",
    ]
    found = decide_each(STATEMENTS, [plain], group="plain")
    report = verify_report([Group("plain", [plain], {}, STATEMENTS)], found)
    said = " ".join(report.text(verbose=True).split())
    silent = [x.statement.name for x in found if could_not_fail(x) and x.vacuous_share != 1]
    assert set(identities) <= set(silent)
    assert f"both sides are one expression, on every instance): {', '.join(silent)}" in said
    gauge = tuple(np.array([0.5 * h]) for h in range(3))
    shifted = Instance(
        plain.mdp, plain.expert, Policy(plain.mdp.dynamics, plain.policy.log_probs, gauge), 1.0
    )
    now = {x.statement.name: x.tested for x in decide_each(STATEMENTS, [shifted])}
    # a gauge that is the same in all states of a layer is no news to the solver
    assert [name for name in identities if not now[name]] == ["soft-rl-fixed-point"]


def test_what_cannot_happen_tests_nothing():
    """The policies differ, and there is a gauge, after a prompt of weight zero only."""
    of_first = np.repeat([0.0, 1.0], 1)[:, None], np.repeat([0.0, 1.0], 2)[:, None]
    rewards = [np.random.default_rng(h).random((2 * 2**h, 2)) * of_first[h] for h in range(2)]
    mdp = TokenMDP.tree(rewards, prompt_weights=[1, 0])
    expert = soft_optimal(mdp, 0.5).policy
    other = sample_log_ratio_ball(expert, 0.5, 0)
    half = [len(table) // 2 for table in expert.log_probs]
    tables = [
        np.concatenate([p[:n], q[n:]])
        for p, q, n in zip(expert.log_probs, other.log_probs, half, strict=True)
    ]
    gauge = tuple(np.repeat([0.0, 1.0], n) for n in half)
    instance = Instance(mdp, expert, Policy(mdp.dynamics, tuple(tables), gauge), 0.5)
    names = ("regularised-equality", "kl-ball", "hellinger-ball", "inverse-soft-q", "irl-saddle")
    for name in names:
        assert decide(BY_NAME[name], [instance]).tested == 0, name
    heard = Instance(
        TokenMDP.tree(mdp.rewards), *(_on_equal_prompts(p) for p in (expert, instance.policy)), 0.5
    )
    for name in names:
        assert decide(BY_NAME[name], [heard]).tested == 1, name


def _on_equal_prompts(policy):
    dynamics = TokenMDP.tree([np.zeros((2 * 2**h, 2)) for h in range(2)]).dynamics
    return Policy(dynamics, policy.log_probs, policy.log_normalizers)


def test_a_violation_is_a_test():
    """Also where the left side is as small as rounding."""
    tiny = claim("tiny", lambda i: 0 * i.soft_value + 1e-13, lambda i: 0 * i.soft_value)
    found = decide(tiny, [randomised_response(2, 1.0, 0.1)])
    assert (found.verdict, found.tested) == ("violated", 1)
