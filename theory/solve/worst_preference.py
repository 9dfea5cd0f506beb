"""The policy of the log-ratio ball whose reward misjudges a pair of responses most (NumPy only)."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.arrays.namespace import Array, expand, pick, require_positive
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.responses import Responses, all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.solve.ball import log_caps, log_floors, require_radius
from theory.solve.reward import preference_tv, returns

__all__ = ["preference_attaining_policy", "worst_preference", "worst_preference_pair"]

MAX_PAIR_RESPONSES = 4096
"""Responses per prompt up to which `worst_preference_pair` compares all pairs."""

PAIRS_AT_ONCE = 1 << 18
"""Pairs in one array program of `worst_preference_pair`."""

CERTAIN = 100.0
"""``|Δ̂|`` is clipped to ``|Δ*|`` plus this: ``σ`` there is 0 or 1 to double precision."""


def worst_preference(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> Array:
    """Return the largest ``|σ(Δ*) − σ(Δ̂)|`` over the ball for pairs of responses to one prompt:
    exact.

    ``Δ* = r*(τ) − r*(τ')`` and ``Δ̂ = α [log π̂(τ) − log π̂(τ')]``. Tokens that the two share first
    cancel; from where they part, ``Δ̂`` is greatest with every token of ``τ`` at its cap ``up`` and
    every token of ``τ'`` at its floor ``down``. The ball is rectangular over states, so they move
    independently; in the state where the two part they can too, because ``up(a) < e^ε p_a`` needs
    ``p_a > 1/(1+e^ε)``, ``down(a') > e^{−ε}p_{a'}`` needs ``p_{a'} > e^ε/(1+e^ε)``, and not both
    can hold. The least ``Δ̂`` mirrors this; the worse of the two counts.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball, soft-optimal for `mdp` at `alpha` (then ``Δ* = α log
            π_E(τ)/π_E(τ')``).
        epsilon: radius in nats, scalar or ``batch``.
        alpha: temperature in reward units, scalar or ``batch``.
        first: `N` responses `τ` that the expert can give.
        second: `N` responses `τ'` to the same prompts.

    Returns:
        ``(*batch, N)``, total variation.

    Raises:
        ValueError: `epsilon` is not positive, `alpha` is not positive and finite, the dynamics
            differ, or a pair has two prompts.

    Example:
        One token each: ``σ(1) − σ(1 − 2·0.1)``, two tokens that move by 0.1 nats in opposite ways.

        >>> from theory import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0, 0.5]]])
        >>> expert = soft_optimal(mdp, alpha=1.0).policy
        >>> one, two = (Responses(np.array([0]), np.array([[token]])) for token in (1, 0))
        >>> worst_preference(mdp, expert, 0.1, 1.0, one, two).round(4).tolist()
        [0.0411]
    """
    errors: Array = np.maximum(*_both_directions(mdp, expert, epsilon, alpha, first, second))
    return errors


def _both_directions(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> tuple[Array, Array]:
    """Error with the first response raised, and with the second raised: ``(*batch, N)`` each."""
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    if not np.array_equal(first.prompts, second.prompts):
        raise ValueError(
            "first and second answer different prompts: a preference compares responses to one "
            "prompt"
        )
    radius = require_radius(epsilon)
    alpha = expand(require_positive("alpha", alpha), 1)
    delta = returns(mdp, first) - returns(mdp, second)
    most = np.abs(delta) + CERTAIN
    with np.errstate(over="ignore"):
        raised = alpha * _greatest_log_ratio(expert, radius, first, second)
        lowered = -alpha * _greatest_log_ratio(expert, radius, second, first)
    return (
        preference_tv(delta, np.clip(raised, -most, most)),
        preference_tv(delta, np.clip(lowered, -most, most)),
    )


def _greatest_log_ratio(
    expert: Policy, radius: Array | float, up: Responses, down: Responses
) -> Array:
    """Greatest ``log π̂(τ) − log π̂(τ')`` over the ball: ``(*batch, N)``.

    ``Σ_{h after parting} [log up(a_h) − log down(a'_h)]``.
    """
    walk = expert.dynamics.walk
    parted = (up.tokens != down.tokens).cumsum(axis=-1) > 0
    total: Array = np.zeros(())
    steps = zip(
        expert.log_probs, walk(up.prompts, up.tokens), walk(down.prompts, down.tokens), strict=True
    )
    for h, (log_p, s_up, s_down) in enumerate(steps):
        cap = pick(log_caps(log_p, radius), s_up, up.tokens[..., h])
        floor = pick(log_floors(log_p, radius), s_down, down.tokens[..., h])
        total = total + np.where(parted[..., h], cap - floor, 0.0)
    return total


def preference_attaining_policy(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> Policy:
    """Return a policy of the ball, on the tree of prefixes, that attains `worst_preference` for a
    pair.

    Args:
        mdp: see `worst_preference`, here without batch axes.
        expert: see `worst_preference`.
        epsilon: radius in nats, a number.
        alpha: temperature in reward units, a number.
        first: one response.
        second: one response to the same prompt.

    Raises:
        ValueError: see `worst_preference`; or the tree does not fit into memory.

    Example:
        >>> from theory import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0, 0.5]]])
        >>> expert = soft_optimal(mdp, alpha=1.0).policy
        >>> one, two = (Responses(np.array([0]), np.array([[token]])) for token in (1, 0))
        >>> policy = preference_attaining_policy(mdp, expert, 0.1, 1.0, one, two)
        >>> (policy.log_probs[0] - expert.log_probs[0]).round(3).tolist()  # ±ε on the pair
        [[0.1, -0.1, 0.089]]
    """
    raised, lowered = _both_directions(mdp, expert, epsilon, alpha, first, second)
    up, down = (first, second) if raised.item() >= lowered.item() else (second, first)
    centre = expert.as_tree()
    radius = float(require_radius(epsilon))
    walk = centre.dynamics.walk
    tables = [table.copy() for table in centre.log_probs]
    for h, states in enumerate(
        zip(walk(up.prompts, up.tokens), walk(down.prompts, down.tokens), strict=True)
    ):
        s_up, s_down = (state.item() for state in states)
        a_up = up.tokens[0, h]
        a_down = down.tokens[0, h]
        if (s_up, a_up) == (s_down, a_down):
            continue
        log_p = centre.log_probs[h]
        changes: dict[int, list[tuple[int, float]]] = {}  # by state, which the two may share
        changes.setdefault(s_up, []).append((a_up, log_caps(log_p, radius)[s_up, a_up]))
        changes.setdefault(s_down, []).append((a_down, log_floors(log_p, radius)[s_down, a_down]))
        for state, tokens in changes.items():
            tables[h][state] = _row_with(log_p[state], radius, tokens)
    return Policy(centre.dynamics, tuple(tables))


def _row_with(log_p: Array, radius: float, fixed: list[tuple[int, float]]) -> Array:
    """Row ``(V,)`` with given log-probabilities for some tokens, the others scaled to the rest."""
    row = log_p.copy()
    others = np.ones(len(row), dtype=bool)
    for token, log_probability in fixed:
        row[token] = log_probability
        others[token] = False
    log_rest = np.logaddexp.reduce(log_p[others], initial=-np.inf)
    if log_rest > -np.inf:
        with np.errstate(divide="ignore"):
            log_left = np.log(np.maximum(1.0 - np.exp(row[~others]).sum(), 0.0))
        row[others] = np.minimum(row[others] + np.clip(log_left - log_rest, -radius, radius), 0.0)
    return row


def worst_preference_pair(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any
) -> tuple[Array, Responses, Responses]:
    """Return the largest `worst_preference` over all pairs of responses to one prompt, and the
    pair.

    Args:
        mdp: see `worst_preference`, here without batch axes.
        expert: see `worst_preference`. Responses that it never gives are left out.
        epsilon: radius in nats, a number.
        alpha: temperature in reward units, a number.

    Raises:
        ValueError: there are batch axes, or more than `MAX_PAIR_RESPONSES` responses to a prompt.

    Example:
        >>> from theory import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0, 0.5]]])
        >>> error, one, two = worst_preference_pair(mdp, soft_optimal(mdp, 1.0).policy, 0.1, 1.0)
        >>> print(round(float(error), 4), one.tokens, two.tokens)
        0.048 [[0]] [[2]]
    """
    dynamics = mdp.dynamics
    n = dynamics.vocab_size**dynamics.horizon
    if n > MAX_PAIR_RESPONSES:
        raise ValueError(
            f"{n} responses per prompt: at most {MAX_PAIR_RESPONSES}; give pairs to "
            "worst_preference"
        )
    if mdp.batch_shape or expert.batch_shape or np.ndim(epsilon) or np.ndim(alpha):
        raise ValueError(
            "worst_preference_pair takes one problem, without batch axes; give pairs to "
            "worst_preference"
        )
    every = all_responses(dynamics)
    possible = np.flatnonzero(log_prob(expert, every) > -np.inf)
    best: tuple[Array, Responses, Responses] | None = None
    for prompt in range(dynamics.n_prompts):
        own = possible[possible // n == prompt]
        for one in np.array_split(own, max(1, len(own) ** 2 // PAIRS_AT_ONCE)):
            i, j = np.meshgrid(one, own, indexing="ij")
            once = i <= j  # each pair once, and each response with itself: an error of zero
            if not once.any():
                continue
            first, second = (
                Responses(every.prompts[k[once]], every.tokens[k[once]]) for k in (i, j)
            )
            errors = worst_preference(mdp, expert, epsilon, alpha, first, second)
            k = int(np.argmax(errors))
            if best is None or errors[k] > best[0]:
                first, second = (
                    Responses(r.prompts[k : k + 1], r.tokens[k : k + 1]) for r in (first, second)
                )
                best = errors[k], first, second
    assert best is not None  # every state allows a token, so every prompt has a response
    return best
