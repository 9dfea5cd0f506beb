"""Instances on which sharpening helps or harms: is the most probable response the right one?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from theory.arrays.namespace import require_positive_number
from theory.claims.instance import Instance
from theory.mdp.dynamics import Dynamics, Tree
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

__all__ = [
    "Verifier",
    "map_is_not_greedy",
    "map_is_right",
    "map_is_wrong",
    "rise_then_fall",
    "verifier_disagreement",
]


def map_is_not_greedy(map_mass: float = 0.36, first: float = 0.4) -> tuple[TokenMDP, float]:
    """Make an MDP and a temperature whose soft-optimal policy has a MAP response that greedy
    misses.

    The policy chooses token 1 with probability `first` and then token 0, which makes (1, 0) a
    response of mass `map_mass`; after token 0 any token has ½. At 0.36 greedy takes (0, ·) with
    0.30. Greedy misses the MAP as long as ``first < ½``, so `map_mass` may be anything below ½;
    above ½ ``first > map_mass`` is too, and greedy finds it (Huang et al. 2024: a response of mass
    above ½ is the greedy one; this family shows that ½ is tight).

    Args:
        map_mass: mass of the MAP response, above that of any other response.
        first: probability of its first token, above `map_mass`.

    Raises:
        ValueError: names the arguments and their values.

    Example:
        >>> from theory.mdp.responses import greedy_response, map_response
        >>> mdp, alpha = map_is_not_greedy()
        >>> policy = soft_optimal(mdp, alpha).policy
        >>> greedy_response(policy).tokens.tolist(), map_response(policy).tokens.tolist()
        ([[0, 0]], [[1, 0]])
    """
    if not max((1 - first) / 2, first - map_mass) < map_mass < first < 1:
        raise ValueError(
            f"map_mass={map_mass}, first={first}: (1, 0) must have less mass than token 1 and be "
            "the MAP"
        )
    second = map_mass / first
    probs = [np.array([[1 - first, first]]), np.array([[0.5, 0.5], [second, 1 - second]])]
    rewards: list[Any] = [np.log(table) for table in probs]
    low = min(float(table.min()) for table in rewards)
    return TokenMDP.tree(rewards, reward_range=(low, 0.0)), 1.0


def map_is_right(accuracy: float = 0.4) -> Instance:
    """Make an MDP on which sharpening always helps: one response of 16 is right, and in `π̂` it is
    the most probable.

    Args:
        accuracy: of `π̂`; above 1/16, so that the right response is the MAP.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> from theory.solve.improve import sharpening_curve
        >>> instance = map_is_right()
        >>> curve = sharpening_curve(instance.mdp, instance.policy, 1.0, [1.0, 2.0, 4.0])
        >>> curve.value.round(3).tolist()
        [0.4, 0.87, 0.999]
    """
    if not 1 / 16 < accuracy < 1:
        raise ValueError(
            f"accuracy={accuracy}: must be above 1/16 and below 1, so that the right response is "
            "the MAP"
        )
    return _one_against_fifteen([accuracy], [True], 1.0)


def map_is_wrong(accuracy: float = 0.9) -> Instance:
    """Make an MDP on which sampling is right with probability `accuracy`, and RL on `r̂` is always
    wrong.

    V = 4, H = 2. One response of 16 is wrong (it pays 0, the others 1), and in `π̂` it is the most
    probable: the right ones share `accuracy`, 1/15 each. RL on `r̂` finds what the policy likes
    best, not what is right.

    Args:
        accuracy: of `π̂`; below 15/16, so that the wrong response is the MAP.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> from theory.solve.improve import sharpening_curve
        >>> instance = map_is_wrong()
        >>> curve = sharpening_curve(instance.mdp, instance.policy, 1.0, [1.0, 2.0, 8.0])
        >>> curve.value.round(3).tolist()
        [0.9, 0.844, 0.2...]
    """
    if not 0 < accuracy < 15 / 16:
        raise ValueError(
            f"accuracy={accuracy}: must be positive and below 15/16, else the wrong response is "
            "not the MAP"
        )
    return _one_against_fifteen([1 - accuracy], [False], 1.0)


def rise_then_fall(alpha: float = 1.0) -> Instance:
    """Make an MDP on which sharpening first raises accuracy and then lowers it: power policies
    ``π̂^κ`` on two prompts.

    V = 4, H = 2. For prompt 0 one response of 16 is right and has mass 0.4: a small `κ` finds it.
    For prompt 1 one is wrong and has mass 0.07, above the others' 0.062: a large `κ` finds that.
    Accuracy starts at 0.665, passes 0.95 and ends at ½. ``π̂^κ`` is soft-optimal at temperature 1
    for the reward ``κ log π̂``.

    Example:
        >>> from theory.solve.improve import sharpening_curve
        >>> instance = rise_then_fall()
        >>> curve = sharpening_curve(instance.mdp, instance.policy, 1.0, [1.0, 8.0, 200.0])
        >>> curve.value.round(3).tolist()
        [0.665, 0.9..., 0.5]
    """
    return _one_against_fifteen([0.4, 0.07], [True, False], alpha)


def _one_against_fifteen(mass: list[float], right: list[bool], alpha: float) -> Instance:
    """Instance in which response (0, 0) to each prompt has `mass` in `π̂` and is `right` or not.

    The others share the rest, and are the opposite. The last token pays 1 for a right response.
    """
    probs = np.stack([np.array([m] + [(1 - m) / 15] * 15).reshape(4, 4) for m in mass])
    first = probs.sum(axis=-1)
    second = (probs / first[..., None]).reshape(-1, 4)
    is_first = np.arange(16).reshape(4, 4) == 0
    pays = np.concatenate([np.where(is_first, r, not r) for r in right]).astype(float)
    mdp = TokenMDP.tree([np.zeros((len(mass), 4)), pays])
    return Instance(
        mdp,
        soft_optimal(mdp, alpha).policy,
        Policy.from_probs(mdp.dynamics, [first, second]),
        alpha,
    )


class Verifier(NamedTuple):
    """Verdicts on two responses: "Yes" (token 0) or "No" (1), after a prompt with the response.

    Example:
        >>> verifier_disagreement().policy.dynamics.n_prompts
        2
    """

    policy: Policy
    """Two prompts, one for each response; H = 1, V = 2."""
    log_probs: np.ndarray
    """``(2,)``: ``α log π(Yes|y)``, reward units."""
    logits: np.ndarray
    """``(2,)``: the logit of "Yes", reward units."""
    soft_values: np.ndarray
    """``(2,)``: ``V(y) = α log Σ_a exp(logit_a/α)``, reward units."""


def verifier_disagreement(
    accept: tuple[float, float] = (0.4, 0.7), lead: float = 1.0, alpha: float = 1.0
) -> Verifier:
    """Make a verifier with the larger probability, but the smaller logit, of "Yes" on a response.

    It accepts the second response more often and has the larger logit of "Yes" on the first. The
    state ``s₁ = (x, y, "is it right?")`` holds the response, so its soft value does not cancel
    between two of them:

        logit_Yes(y) = α log π(Yes|y) + V(y).

    Let ``L`` be the difference of the logits and ``ΔV`` that of the soft values, first less second.
    Then ``α Δ log π(Yes) = L − ΔV``: the two rewards order the responses differently if and only if
    ``L(L − ΔV) < 0``, that is, if ``ΔV`` has the sign of ``L`` and is larger. They are the gauges
    ``logits`` and ``logprob`` of one `endogenous_reward`. Adding ``c(y)`` to both logits of a state
    changes no probability and adds ``c(y)`` to that of "Yes": any verifier that is not indifferent
    has logits that order the responses the other way.

    Args:
        accept: ``π(Yes|y)`` of the first and of the second response, increasing.
        lead: ``L``, positive: the logits of "Yes" are `lead` and 0.
        alpha: temperature.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> verifier = verifier_disagreement()
        >>> np.exp(verifier.log_probs).round(3).tolist(), verifier.logits.tolist()
        ([0.4, 0.7], [1.0, 0.0])
    """
    if not 0 < accept[0] < accept[1] < 1:
        raise ValueError(
            f"accept={accept}: must be two increasing probabilities, else the two rewards agree"
        )
    lead = require_positive_number("lead", lead)
    alpha = require_positive_number("alpha", alpha)
    p = np.array(accept)
    yes = np.array([lead, 0.0])
    no = yes + alpha * (np.log1p(-p) - np.log(p))
    dynamics = Dynamics(2, (2,), Tree(), np.array([0.5, 0.5]), (None,))
    policy = Policy.from_logits(dynamics, [np.stack([yes, no], axis=1)], temperature=alpha)
    assert policy.log_normalizers is not None
    return Verifier(
        policy, alpha * policy.log_probs[0][:, 0], yes, alpha * policy.log_normalizers[0]
    )
