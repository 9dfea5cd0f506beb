"""Statements are found by name and go to another process; objects say what they are."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from theory import (
    DISCOUNTED_STATEMENTS,
    STATEMENTS,
    DiscountedInstance,
    DiscountedMDP,
    Instance,
    TokenMDP,
    decide,
    soft_optimal,
)
from theory.arrays.precision import precision
from theory.claims.statement import Statements


@pytest.mark.parametrize("statements", [STATEMENTS, DISCOUNTED_STATEMENTS])
def test_each_statement_is_found_by_its_name_and_pickled_as_itself(statements):
    for statement in statements:
        assert statements[statement.name] is statement
        # the two lists share names: a discounted one must not come back as the other
        assert pickle.loads(pickle.dumps(statement)) is statement
    assert pickle.loads(pickle.dumps(statements)) == statements


def test_a_changed_statement_does_not_come_back_as_the_one_it_was_made_from():
    changed = replace(STATEMENTS["theorem-1"], source="elsewhere")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(changed)


def test_a_name_that_is_not_there_gets_its_neighbours():
    with pytest.raises(KeyError, match=r"'theorem-3'; did you mean theorem-1"):
        STATEMENTS["theorem-3"]
    assert STATEMENTS[:2] == (STATEMENTS[0], STATEMENTS[1])
    with pytest.raises(ValueError, match="two statements are called 'theorem-1'"):
        Statements([STATEMENTS["theorem-1"], *STATEMENTS])


def test_every_object_says_in_one_line_what_it_is():
    mdp = TokenMDP.tree([np.zeros((3, 1, 2)), np.ones((3, 2, 2))])
    policy, _ = soft_optimal(mdp, 0.5)
    instance = Instance(mdp, policy, policy, 0.5)
    assert repr(mdp) == (
        "<TokenMDP tree, V=2, H=2, 1 prompt, 6 prefixes, rewards in [0.0, 1.0], batch (3,)>"
    )
    assert repr(policy) == (
        "<Policy tree, V=2, H=2, 1 prompt, 6 prefixes, read from logits, batch (3,)>"
    )
    assert repr(instance).endswith("batch (3,), α: 0.5>")
    finding = decide(STATEMENTS["telescoping"], [instance])
    assert repr(finding).startswith("<Finding telescoping: holds, 3 instances, least slack -")
    assert repr(STATEMENTS["theorem-2-clone"]) == (
        "<Statement theorem-2-clone: V^{π_E} − V^{π̂} ≤ R·H²ε>"
    )
    window = TokenMDP.window([np.zeros((2, 2)), np.zeros((4, 2)), np.zeros((4, 2))], 1)
    assert repr(window.dynamics) == (
        "<Dynamics window of 1, V=2, H=3, 2 prompts, 20 state-token pairs>"
    )
    endless = DiscountedMDP.window([[0.0, 1.0], [1.0, 0.0]], 1, 0.5)
    assert repr(endless) == "<DiscountedMDP 2 states, V=2, γ=0.5, rewards in [0.0, 1.0]>"
    discounted = DiscountedInstance(endless, np.log(np.full((2, 2), 0.5)), alpha=1.0)
    assert "\n" not in repr(discounted)
    with precision(64):  # enclosures have a line too
        assert "\n" not in repr(instance.enclosed(64))
