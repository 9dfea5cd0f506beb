"""Distances between two policies over the same states."""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    expand,
    is_enclosure,
    like,
    log_mean_exp,
    require_positive,
)
from theory.mdp.dynamics import require_tree_memory
from theory.mdp.policy import NEVER, Policy, _exp, require_same_dynamics
from theory.mdp.values import _leaves, _mean, by_layer

__all__ = ["divergences", "kl", "max_log_ratio", "renyi", "squared_hellinger", "trajectory_tv"]


def kl(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """``KL(π(τ)‖π'(τ)) = E_π[log π(τ|s₁) − log π'(τ|s₁)]``, nats; infinite where `other` misses
    support.

    Averaged over prompts (``batch``), or with `per_prompt` one number each (``(*batch, P)``). A
    row's divergence is ``Σ_a [p log(p/p') − p + p']``, no term of which is negative, so that
    policies that nearly agree lose no digits.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    rows = by_layer(divergences, policy.log_probs, other.log_probs, log_ratios(policy, other))
    following: Array | None = None
    for h, prob in reversed(list(enumerate(by_layer(_exp, policy.log_probs)))):
        here = array_namespace(rows[h]).sum(rows[h], axis=-1)
        if following is not None:
            here = here + _mean(prob, policy.log_probs[h], policy.dynamics.children(h, following))
        following = here
    return following if per_prompt else policy.dynamics.average(following)


def divergences(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """``p log(p/q) − p + q``, not negative: ``(*batch, n, V)``, from ``log(p/q)``; infinite where
    only `q` is zero.
    """
    xp = array_namespace(log_p, log_q, ratio)
    if is_enclosure(ratio) and not ratio.coarse:  # with digits to spare, terms may cancel
        p = xp.exp(log_p)
        terms = p * xp.where(log_p == NEVER, 0.0, ratio) - p + xp.exp(log_q)
        return xp.where(ratio == float("inf"), float("inf"), terms)
    # where p ≤ q it is q (t e^t − expm1 t), elsewhere p (t + expm1(−t)); both are exact for every t
    # = log(p/q)
    with np.errstate(
        invalid="ignore"
    ):  # zero times infinity, where `p` underflows and `q` is zero: not used
        one, two = xp.exp(log_q) * _below_one(ratio), xp.exp(log_p) * _above_one(ratio)
    return xp.where(ratio <= 0, one, xp.where(ratio == float("inf"), float("inf"), two))


def _below_one(t: Array) -> Array:
    """``t e^t − expm1(t)``, from 1 at ``−∞`` to 0 at 0."""
    if is_enclosure(t):
        radius, xp = t.radius(), array_namespace(t)
        moved = radius * (abs(t.centre()) + radius) * xp.exp(t.centre() + radius)
        return t.carry(_below_one_exact, xp.where(xp.abs(t) == float("inf"), 0.0, moved))
    return _below_one_exact(t)


def _below_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    inside = xp.where(
        t < -700.0, -700.0, xp.where(t > 1.0, 1.0, t)
    )  # where it is 1 to 300 digits, or not used
    return xp.where(t < -700.0, 1.0, inside * xp.exp(inside) - xp.expm1(inside))


def _above_one(t: Array) -> Array:
    """``t + expm1(−t)``, from 0 at 0."""
    if is_enclosure(t):
        radius, xp = t.radius(), array_namespace(t)
        slopes = (xp.abs(xp.expm1(-(t.centre() + side * radius))) for side in (-1, 1))
        return t.carry(_above_one_exact, radius * xp.maximum(*slopes))
    return _above_one_exact(t)


def _above_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    inside = xp.where(t < -1.0, -1.0, t)
    return inside + xp.expm1(-inside)


def squared_hellinger(policy: Policy, other: Policy) -> Array:
    """``1 − BC = ½ Σ_τ (√π(τ|s₁) − √π'(τ|s₁))²`` for each prompt: ``(*batch, P)``, from 0 (equal)
    to 1 (disjoint).

    ``BC = Σ_τ √(π π')`` is the Bhattacharyya coefficient. ``1 − BC(s) = Σ_a ½(√p − √p')² + √(pp')
    (1 − BC(s⊕a))``, all terms positive, so that policies that nearly agree lose no digits.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    apart = by_layer(_hellinger_terms, policy.log_probs, other.log_probs, log_ratios(policy, other))
    roots = by_layer(lambda one, two: _exp((one + two) / 2), policy.log_probs, other.log_probs)
    following: Array | None = None
    for h, (terms, root) in reversed(list(enumerate(zip(apart, roots, strict=True)))):
        if following is not None:
            terms = terms + root * policy.dynamics.children(h, following)
        following = array_namespace(terms).sum(terms, axis=-1)
    return following


def _hellinger_terms(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """``½(√p − √q)²``: ``(*batch, n, V)``, from ``log(p/q)``."""
    xp = array_namespace(log_p, log_q, ratio)
    apart = xp.expm1(-xp.abs(ratio) / 2)  # of the less probable to the more probable of the two
    return xp.exp(xp.where(ratio <= 0, log_q, log_p)) * apart * apart / 2


def renyi(policy: Policy, other: Policy, order: Any) -> Array:
    """Rényi divergence ``D_q(π(τ)‖π'(τ)) = log Σ_τ π^q π'^{1−q} / (q − 1)`` of order ``q > 1``:
    ``(*batch, P)``, nats.

    Nondecreasing in `q`: KL for ``q → 1``, the greatest ``log π(τ)/π'(τ)`` for ``q → ∞``;
    infinite where `π'` misses support. Where every
    ``|log π(a|s) − log π'(a|s)| ≤ ε`` it is at most ``H/(q−1) · log(cosh((q−½)ε)/cosh(ε/2))``, and
    randomised responses attain that. With ``q = 1 + α/β`` it bounds what KL-regularised RL on `r̂`
    can lose:

        V^{π_E}_{r*} − V^{π_β}_{r*} ≤ (α + β) KL(π_E‖π̂) + α D_{1+α/β}(π̂‖π_E).

    Args:
        policy: `π`.
        other: `π'`.
        order: `q`, scalar or ``batch``.

    Raises:
        ValueError: `order` is not above 1 and finite, or the dynamics differ.

    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    excess = require_positive("order - 1", as_float(order) - 1)
    value: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        log_probs = policy.log_probs[h]
        xp, never = array_namespace(log_probs, ratio), log_probs == NEVER
        tilt = xp.where(never, 0.0, ratio) * expand(excess, 2) + policy.dynamics.children(h, value)
        infinite = (tilt == float("inf")) & ~never  # a token that `other` never writes
        finite = log_mean_exp(log_probs, xp.where(infinite | never, 0.0, tilt))
        value = xp.where(xp.any(infinite, axis=-1), float("inf"), finite)
    assert value is not None
    return value / expand(excess, 1)


def trajectory_tv(policy: Policy, other: Policy) -> Array:
    """``TV(π(τ|s₁), π'(τ|s₁)) = ½ Σ_τ |π(τ|s₁) − π'(τ|s₁)|`` for each prompt, over all responses:
    ``(*batch, P)``.

    Raises:
        ValueError: the tree of all responses does not fit into memory.

    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    d = policy.dynamics
    batch = int(np.prod(np.broadcast_shapes(policy.batch_shape, other.batch_shape)))
    what = "the distribution of every response"
    require_tree_memory(d.vocab_size, d.horizon, d.n_prompts, what, bytes_per_prefix=48 * batch)
    states = d.prefix_states()
    tables = (policy.log_probs, other.log_probs, log_ratios(policy, other))
    log_one, log_two, log_ratio = (_leaves(each, states, d.n_prompts) for each in tables)
    xp = array_namespace(log_one, log_two, log_ratio)
    never_one, never_two = log_one == NEVER, log_two == NEVER
    both = ~never_one & ~never_two
    larger = xp.exp(
        xp.where(never_one, log_two, xp.where(never_two, log_one, xp.maximum(log_one, log_two)))
    )
    gap = xp.where(both, -xp.expm1(-xp.abs(xp.where(both, log_ratio, 0.0))), 1.0)
    return xp.sum(xp.where(never_one & never_two, 0.0, larger * gap), axis=-1) / 2


def log_ratios(policy: Policy, other: Policy) -> list[Array]:
    """``log π(a|s) − log π'(a|s)`` by layer; zero where neither ever chooses the token."""
    return by_layer(_log_ratio, policy.log_probs, other.log_probs)


def _log_ratio(one: Array, two: Array) -> Array:
    xp = array_namespace(one, two)
    neither = (one == NEVER) & (two == NEVER)
    with np.errstate(invalid="ignore"):
        return xp.where(neither, 0.0, one - two)


def max_log_ratio(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """``ε_π = max |log π(a|s) − log π'(a|s)|`` over what can happen: ``batch``, nats, or ``(*batch,
    P)``.

    Counted are the states that follow a prompt of positive weight with positive probability under
    `policy` or `other`. Infinite where one of them has a token there that the other never chooses.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    following: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        one, two = policy.log_probs[h], other.log_probs[h]
        xp = array_namespace(one, two)
        largest = xp.abs(ratio)
        if following is not None:
            below = policy.dynamics.children(h, following)
            written = ~((one == NEVER) & (two == NEVER))
            largest = xp.maximum(
                largest, below if bool(xp.all(written)) else xp.where(written, below, 0.0)
            )
        following = xp.max(largest, axis=-1)
    if per_prompt:
        return following
    xp = array_namespace(following)
    possible = like(policy.dynamics.prompt_weights > 0, following)
    return xp.max(xp.where(possible, following, 0.0), axis=-1)
