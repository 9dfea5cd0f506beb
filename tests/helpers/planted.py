"""Statements of a test's own, and wrong versions of ours, as a careless author may write them.

A row of ``endorm verify`` is worth its ink where such a version would be found *violated*.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from theory.arrays.namespace import array_namespace, expand
from theory.claims.instance import finite
from theory.claims.one_prompt import log_sum, normalised
from theory.claims.statement import Condition, Quantity, Statement
from theory.mdp.policy import Policy
from theory.mdp.responses import log_prob, response_sum
from theory.mdp.values import expected_sums
from theory.solve.soft import log_softmax


def claim(name, left, right, *, equality=False, when=None, ceiling=None, unit="reward"):
    """The claim ``left ≤ right`` (or ``=``) on what `when` says yes to."""
    return Statement(
        name,
        "",
        Quantity("left", left, unit, ceiling),
        "=" if equality else "≤",
        Quantity("right", right, unit),
        None if when is None else Condition("when", when),
    )


def changed(statement, *, left=None, right=None, when=None):
    """The statement with another side or condition."""
    if left is not None:
        statement = replace(statement, quantity=replace(statement.quantity, of=left))
    if right is not None:
        statement = replace(statement, bound=replace(statement.bound, of=right))
    if when is not None:
        statement = replace(statement, when=Condition("when", when))
    return statement


class Altered:
    """An instance that answers some questions otherwise."""

    def __init__(self, instance, **answers):
        self._instance = instance
        self.__dict__ |= answers

    def __getattr__(self, name):
        return getattr(self._instance, name)


def at_one_step(statement):
    """A bound that has forgotten its power of the horizon."""
    return changed(statement, right=lambda i: statement.bound.of(Altered(i, horizon=1)))


# --- What an equality would be without one of its terms -----------------------------------------


def _has_last_token(i):
    return hasattr(i, "at_prompt")


def _of_first(i):
    """``V*(s₁)`` of every response."""
    return i.at_prompt(i.soft_values[0]) if _has_last_token(i) else i.soft_value[:, None]


def _own_reward(i):
    """``r̂`` without the value of what follows: ``α log π̂ + V̂(s)``."""
    if not _has_last_token(i):
        return i.temperature * i.policy + i.gauge[:, None]
    alpha = expand(i._alpha, 2)
    gauge = i.policy.log_normalizers or [0.0 * t[..., 0] for t in i.policy.log_probs]
    tables = zip(i.policy.log_probs, gauge, strict=False)
    return [alpha * t + alpha * z[..., None] for t, z in tables]


def _own_return(i):
    tables = _own_reward(i)
    if not _has_last_token(i):
        return i._sums(tables)
    return finite(response_sum(i.mdp.dynamics, tables, i.responses), i.policy_log_prob)


def _log_prob(i, tables):
    """``log π(τ)`` of a policy by its tables."""
    policy = Policy(i.policy.dynamics, tuple(tables))
    return finite(log_prob(policy, i.responses), i.policy_log_prob)


def _myopic(i):
    """``log softmax(r̂/α)``, token by token."""
    if not _has_last_token(i):
        return log_softmax(i.endogenous, i.temperature)
    return _log_prob(i, [log_softmax(t, i._alpha) for t in i.endogenous.rewards])


def _dual_of_own_reward(i, policy):
    """``E r̂ − E V_r̂(s₁)`` with a reward that lacks the value of what follows."""
    own = i.averaged(expected_sums(policy, _own_reward(i))[0])
    return own - i.averaged(i._resolved.values[0])


def _inverse_soft_q_without_the_next_value(i):
    tables = [
        reward - value[..., None]
        for reward, value in zip(i.endogenous.rewards, i._resolved.values, strict=False)
    ]
    return i.averaged(expected_sums(i.expert, tables)[0])


LEFT: dict[str, Callable[[Any], Any]] = {
    "soft-value": lambda i: i.expert_value,  # no entropy
    "endogenous-telescoping": _own_return,
    "soft-rl-fixed-point": _myopic,
    "irl-saddle": lambda i: _dual_of_own_reward(i, i.policy),
    "irl-gap": lambda i: -(i.temperature * i.entropy(i.expert)) - _dual_of_own_reward(i, i.expert),
    "inverse-soft-q": _inverse_soft_q_without_the_next_value,
    # no entropy of π̂
    "regularised-equality": lambda i: i.regularised(i.expert) - (i.expert_value - i.clone_gap),
    # the literature's
    "energy-law": lambda i: normalised(_own_return(i) / i.temperature),
    "residual-calibrated": lambda i: _own_return(i) / i.temperature - i.at_prompt(i.gauge[0]),
    "distillation-objective": lambda i: -i.kl_from_expert,  # the other direction
    "distillation-optimum-half": lambda i: i.distilled(scale=1.0),
    "distillation-optimum-twice": lambda i: i.distilled(scale=1.0),
    "process-any-reward": lambda i: i.first_log_ratio(i.tuned),
    "secret-return": lambda i: log_prob(i.tuned, i.responses) - i.policy_log_prob,  # no α
    "q-sharp-value": lambda i: i.guided_objective,
    "vote-odds": lambda i: i.log_odds(i.policy),
    "undiscounted-differences": lambda i: i.differences(_own_return(i)),
    "rao-blackwell-unbiased": lambda i: i.averaged(expected_sums(i.expert, i.kl_tables)[0]),
}
"""Another left side, by the statement's name: a term or a factor dropped, or another policy."""

RIGHT: dict[str, Callable[[Any], Any]] = {
    "telescoping": lambda i: i.telescoped - _of_first(i),
    "endogenous-telescoping": lambda i: i.endogenous_telescoped + _of_first(i),
    "anchored-two-ways": lambda i: _log_prob(
        i, [log_softmax(2.0 * t, 1.0) for t in i.policy.log_probs]
    ),
    "process-own-reward": lambda i: i.prefix_value(
        i.temperature * (i.policy_log_prob - i.expert_log_prob)
    ),
    "secret-return": lambda i: i.true_return,
    "power-conditional": lambda i: normalised(log_sum(i.by_first_token(i.policy_log_prob))),
    "baseline-value": lambda i: -i.averaged(i.kl_tables[0][..., 0]),
    "discounted-split": lambda i: i.discounted_log_prob,
}
"""Another right side, likewise."""


def wrong(statement):
    """Wrong versions of a statement; of an inequality the one whose bound is wrong by any factor,
    which is the easiest to find.
    """
    found = []
    if statement.name in LEFT:
        found.append(changed(statement, left=LEFT[statement.name]))
    if statement.name in RIGHT:
        found.append(changed(statement, right=RIGHT[statement.name]))
    if not statement.equality:
        found.append(changed(statement, right=lambda i: _by_any_factor(statement.bound.of(i))))
    return found


def _by_any_factor(bound):
    """A positive bound goes to zero, and a negative one to 1e15 times itself."""
    xp = array_namespace(bound)
    return xp.where(bound < 0, 1e15 * bound, 0.0 * xp.where(bound == np.inf, 1.0, bound))
