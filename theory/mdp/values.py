"""Values and occupancies of a policy: backward sweeps over the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    is_enclosure,
    like,
    require_positive,
)
from theory.mdp.policy import NEVER, Policy, _exp, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP

__all__ = [
    "covariance",
    "occupancy",
    "plain_value",
    "plain_values",
    "regularised_value",
    "trajectory_entropy",
]


def expected_sums(policy: Policy, tables: Sequence[Array]) -> tuple[Array, ...]:
    """Expected sum of a per-token quantity under `policy` from each state on: `H` arrays ``(*batch,
    n_h)``.

    ``W(s) = Σ_a π(a|s) [x(s,a) + W(s⊕a)]``. A token of probability zero contributes nothing,
    whatever its `x`.
    """
    sums: list[Array] = []
    following: Array | None = None
    tables = by_layer(_of_chosen, policy.log_probs, tables)
    for h, prob in reversed(list(enumerate(by_layer(_exp, policy.log_probs)))):
        following = _mean(
            prob, policy.log_probs[h], tables[h] + policy.dynamics.children(h, following)
        )
        sums.append(following)
    return tuple(reversed(sums))


def _mean(prob: Array, log_probs: Array, values: Array) -> Array:
    """``Σ_a π(a|s) x(s,a)``: ``(*batch, n, V)`` to ``(*batch, n)``."""
    xp = array_namespace(prob, values)
    if is_enclosure(values) and values.coarse:
        # Probabilities sum to one, so what all values share is taken out, and their own errors
        # weigh the rest only.
        shared = xp.max(xp.where(xp.isfinite(values), values, NEVER), axis=-1).centre()
        shared = xp.where(xp.isfinite(shared), shared, 0.0)
        return shared + xp.sum(_expected(prob, log_probs, values - shared[..., None]), axis=-1)
    return xp.sum(_expected(prob, log_probs, values), axis=-1)


def by_layer(function: Callable[..., Array], *tables: Sequence[Array]) -> list[Array]:
    """``function(tables[0][h], tables[1][h], …)`` for each layer `h`, where it acts on each state
    by itself.

    Enclosures of many layers, whose every operation takes longer than its arithmetic, are joined to
    one table before and parted after it.
    """
    if not any(is_enclosure(each[0]) for each in tables) or len(tables[0]) < 8:
        return [function(*layers) for layers in zip(*tables, strict=True)]
    sizes = [table.shape[-2] for table in tables[0]]
    joined = []
    for each in tables:
        batch = np.broadcast_shapes(*(table.shape[:-2] for table in each))
        xp = array_namespace(*each)
        joined.append(
            xp.concatenate([xp.broadcast_to(t, (*batch, *t.shape[-2:])) for t in each], axis=-2)
        )
    found, ends = function(*joined), np.cumsum(sizes)
    return [found[..., end - size : end, :] for end, size in zip(ends, sizes, strict=True)]


def _of_chosen(log_probs: Array, table: Array) -> Array:
    """`table`, and zero for tokens that are never chosen."""
    xp = array_namespace(log_probs, table)
    return xp.where(~(log_probs == NEVER), table, 0.0)


def _expected(prob: Array, log_probs: Array, values: Array) -> Array:
    """``p(a)·x(a)``; zero for a token that is never chosen, infinite for an infinite `x`, however
    small its `p`.
    """
    xp = array_namespace(prob, values)
    if bool(xp.all(xp.isfinite(values))):
        return prob * values
    chosen, infinite = ~(log_probs == NEVER), xp.abs(values) == float("inf")
    counted = xp.where(chosen & ~infinite, values, 0.0)
    return xp.where(chosen & infinite, values, prob * counted)


def plain_values(mdp: TokenMDP, policy: Policy) -> tuple[Array, ...]:
    """Plain value from each state on, ``V^π_r(s)``: `H` arrays ``(*batch, n_h)``, reward units."""
    require_same_dynamics(mdp.dynamics, policy.dynamics)
    return expected_sums(policy, mdp.rewards)


def plain_value(mdp: TokenMDP, policy: Policy) -> Array:
    """Plain value ``V^π_r = E_π[r(τ)]``, averaged over prompts: ``batch``, reward units."""
    return mdp.dynamics.average(plain_values(mdp, policy)[0])


def trajectory_entropy(policy: Policy) -> Array:
    """Entropy of the response, ``H(π(τ)) = −E_π[log π(τ|s₁)]``, averaged over prompts: ``batch``,
    nats.
    """
    return policy.dynamics.average(expected_sums(policy, [-table for table in policy.log_probs])[0])


def regularised_value(mdp: TokenMDP, policy: Policy, alpha: Any) -> Array:
    """Regularised value ``V^π_{r,α} = E_π[r(τ)] + α·H(π(τ))``, averaged over prompts: ``batch``,
    reward units.
    """
    return plain_value(mdp, policy) + require_positive("alpha", alpha) * trajectory_entropy(policy)


def covariance(policy: Policy, first: Sequence[Array], second: Sequence[Array]) -> Array:
    """``Cov_π(x(τ), y(τ))`` of the sums of two per-token quantities, for each prompt: ``(*batch,
    P)``.

    ``x(s,a) + X(s⊕a) − X(s)``, ``X`` the expected sum from a state on, are martingale differences,
    so the covariance is the expected sum of the products of those of `x` and `y`: one more sweep,
    no response enumerated, no difference of large numbers.

    Args:
        policy: `π`.
        first: `x`, `H` tables ``(*batch, n_h, V)``.
        second: `y`, likewise. What `π` never writes does not count, whatever its `x` and `y`.

    """
    products = [
        a * b for a, b in zip(_advantages(policy, first), _advantages(policy, second), strict=True)
    ]
    return expected_sums(policy, products)[0]


def _advantages(policy: Policy, tables: Sequence[Array]) -> list[Array]:
    """``x(s,a) + X(s⊕a) − X(s)`` by layer; no meaning where `policy` never chooses `a`."""
    sums = (*expected_sums(policy, tables), None)
    found = []
    for h, (table, log_probs) in enumerate(zip(tables, policy.log_probs, strict=True)):
        xp = array_namespace(log_probs)
        x = xp.where(log_probs == float("-inf"), 0.0, table)
        found.append(x + policy.dynamics.children(h, sums[h + 1]) - sums[h][..., None])
    return found


def _leaves(tables: Sequence[Array], states: list[np.ndarray], n_prompts: int) -> Array:
    """Sum of a per-token quantity along every response to each prompt: ``(*batch, P, V^H)``."""
    total: Array = 0.0
    for table, index in zip(tables, states, strict=True):
        total = (total + table[..., index, :]).reshape((*table.shape[:-2], -1, 1))
    return total.reshape((*total.shape[:-2], n_prompts, -1))


def occupancy(policy: Policy) -> tuple[Array, ...]:
    """Probability of being in each state: `H` arrays ``(*batch, n_h)``, each layer summing to
    one.
    """
    dynamics = policy.dynamics
    first = policy.log_probs[0]
    xp = array_namespace(first)
    mass = xp.zeros_like(first[..., 0]) + like(dynamics.prompt_weights, first)
    layers = [mass]
    for h in range(policy.horizon - 1):
        mass = dynamics.push(h, mass[..., None] * _exp(policy.log_probs[h]))
        layers.append(mass)
    return tuple(layers)
