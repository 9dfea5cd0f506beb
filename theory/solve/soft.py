"""Soft-optimal and plain-optimal policies of a token MDP, by one backward sweep over its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from theory.arrays.kernels import (
    column_scalars,
    columns,
    empty_table,
    greedy_backup,
    mask_columns,
    soft_backup,
    written_columns,
)
from theory.arrays.memory import require_memory
from theory.arrays.namespace import (
    Array,
    array_namespace,
    expand,
    forbid,
    is_enclosure,
    is_torch_array,
    require_positive,
    soft_maximum,
    token_major,
)
from theory.arrays.tensors import needs_gradient, numpy_can_read, through_numpy
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import endogenous_reward

__all__ = [
    "Solution",
    "greedy_rows",
    "log_softmax",
    "plain_optimal",
    "power_policy",
    "soft_optimal",
    "soft_q_values",
    "soft_values",
]


class Solution(NamedTuple):
    """A policy and its values.

    Example:
        >>> policy, values = plain_optimal(TokenMDP.tree([[[0.0, 1.0]]]))
        >>> values[0].tolist()
        [1.0]
    """

    policy: Policy
    values: tuple[Array, ...]
    """`H` arrays ``(*batch, n_h)``, reward units."""


def soft_values(mdp: TokenMDP, alpha: Any) -> tuple[Array, ...]:
    """Return the soft value of every state, ``V*(s) = α log Σ_a exp(Q*(s,a)/α)``.

    ``Q*(s,a) = r(s,a) + V*(s⊕a)``, and the value after the last token is zero.

    Args:
        mdp: the token MDP.
        alpha: temperature in reward units, scalar or ``batch``.

    Returns:
        `H` arrays ``(*batch, n_h)``, reward units; no policy is stored.

    Raises:
        ValueError: `alpha` is not positive and finite.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> soft_values(mdp, alpha=1.0)[0].round(4).tolist()  # log(1 + e)
        [1.3133]
    """
    if numpy_can_read(mdp.rewards, alpha):
        return through_numpy(soft_values, mdp, alpha)
    alpha = require_positive("alpha", alpha)
    if needs_gradient(mdp.rewards, alpha):
        from theory.arrays import torch_kernels

        return torch_kernels.soft_values(soft_values, mdp, alpha)
    layers = [_shifted(value, shift) for value, shift, _ in _sweep(mdp, alpha)]
    return tuple(reversed(layers))


def soft_optimal(mdp: TokenMDP, alpha: Any, *, overwrite_rewards: bool = False) -> Solution:
    """Return the soft-optimal policy ``π_E = softmax(Q*/α)`` and the soft values ``V*``.

    The policy maximises the regularised value; its gauge (`Policy.log_normalizers`) is ``V*/α``, so
    that ``endogenous_reward(policy, alpha)`` returns the reward it was solved for.

    Args:
        mdp: the token MDP.
        alpha: temperature in reward units, scalar or ``batch``.
        overwrite_rewards: write the policy into the memory of ``mdp.rewards``, which saves a table
            of their size; `mdp` holds log-probabilities in their place then. NumPy only.

    Raises:
        ValueError: `alpha` is not positive and finite, the policy does not fit into memory, or
            `overwrite_rewards` is asked for rewards that are no writable NumPy tables.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> np.exp(soft_optimal(mdp, alpha=1.0).policy.log_probs[0]).round(4).tolist()
        [[0.2689, 0.7311]]
    """
    if overwrite_rewards:
        _require_writable(mdp.rewards)
    if numpy_can_read(mdp.rewards, alpha):
        return through_numpy(soft_optimal, mdp, alpha)
    alpha = require_positive("alpha", alpha)
    if not overwrite_rewards:
        batch = int(np.prod(mdp.batch_shape))
        require_memory(
            8 * batch * mdp.dynamics.n_prefixes,
            "the soft-optimal policy",
            "use soft_values, or a smaller MDP",
        )
    log_probs: list[Array] = []
    values: list[Array] = []
    for value, shift, table in _sweep(mdp, alpha, policy=True, overwrite=overwrite_rewards):
        log_probs.append(table)
        values.append(_shifted(value, shift))
    values.reverse()
    normalizers = tuple(value / expand(alpha, 1) for value in values)
    return Solution(Policy(mdp.dynamics, tuple(reversed(log_probs)), normalizers), tuple(values))


def soft_q_values(mdp: TokenMDP, alpha: Any) -> tuple[Array, ...]:
    """Return the soft Q-values ``Q*(s,a) = r(s,a) + V*(s⊕a)``: `H` tables ``(*batch, n_h, V)``.

    They are ``-inf`` on forbidden tokens; `alpha` as in `soft_values`.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
        >>> soft_q_values(mdp, alpha=1.0)[0].round(4).tolist()  # log 2, 1 + log(1 + e)
        [[0.6931, 2.3133]]
    """
    if numpy_can_read(mdp.rewards, alpha):
        return through_numpy(soft_q_values, mdp, alpha)
    values = (*soft_values(mdp, alpha), None)
    return tuple(
        _q_table(mdp, h, mdp.dynamics.children(h, values[h + 1])) for h in range(mdp.horizon)
    )


def plain_optimal(mdp: TokenMDP) -> Solution:
    """Return a deterministic policy of greatest plain value, and the values ``max_π V^π_r(s)``.

    Of equally good tokens the first is chosen. ``α → 0`` of `soft_optimal`, up to how ties are
    shared.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> [value.tolist() for value in plain_optimal(mdp).values]
        [[2.0], [0.5, 1.0]]
    """
    if numpy_can_read(mdp.rewards):
        return through_numpy(plain_optimal, mdp)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(mdp.horizon)):
        reward = mdp.rewards[h]
        children = mdp.dynamics.children(h, following)
        tables = columns(reward, children)
        if tables is not None:
            mask = mask_columns(mdp.dynamics.allowed[h], reward)
            table = empty_table(reward)
            x, below = tables
            best = greedy_backup(x, below, written_columns(table), allowed=mask)
            following = best.reshape(reward.shape[:-1])
        else:
            q = _q_table(mdp, h, children)
            table = greedy_rows(q)
            following = array_namespace(q).max(q, axis=-1)
        log_probs.append(table)
        values.append(following)
    return Solution(Policy(mdp.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def power_policy(policy: Policy, exponent: Any) -> Policy:
    """Return the sequence-level power ``π^κ(τ|s₁)``, normalised: sharper for κ > 1, flatter for κ <
    1.

    It is the soft-optimal policy of the reward ``κ log π`` at temperature 1, and with ``κ = 1 +
    α/β`` the maximiser of ``V^π'_{r̂} − β KL(π'‖π)``, `r̂` the endogenous reward of `π` at
    temperature `α`. It is not a token-level temperature: each conditional needs the sum over
    continuations.

    Args:
        policy: `π`. What it never chooses stays so.
        exponent: `κ`, positive, scalar or ``batch``.

    Raises:
        ValueError: `exponent` is not positive and finite.

    Example:
        >>> policy = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[0.25, 0.75]]])
        >>> np.exp(power_policy(policy, 2.0).log_probs[0]).round(4).tolist()  # 1 : 9
        [[0.1, 0.9]]
    """
    reward = endogenous_reward(policy, require_positive("exponent", exponent), gauge="logprob")
    return soft_optimal(reward, 1.0).policy


def _sweep(
    mdp: TokenMDP, alpha: Array | float, *, policy: bool = False, overwrite: bool = False
) -> Iterator[tuple[Array, Array | float, Array | None]]:
    """Yield soft values, a shift of them, and the policy if asked for; the last layer first.

    Enclosures of doubles are kept apart from what the values of a layer share, the shift: it grows
    with the horizon and would be rounded in every step, and policies do not depend on it.
    """
    value: Array = None
    shift: Array | float = 0.0
    own_alpha = isinstance(alpha, float) or alpha.shape == mdp.batch_shape
    largest_reward = max(map(abs, mdp.reward_range))
    tensors = is_torch_array(mdp.rewards[0])
    known = soft_values(mdp, alpha) if needs_gradient(mdp.rewards, alpha) else None
    for h in reversed(range(mdp.horizon)):
        reward = mdp.rewards[h]
        steps = mdp.horizon - h
        children = mdp.dynamics.children(h, value)
        log_probs: Array | None = None
        q: Array | None = None
        tables = columns(reward, children)
        if tables is not None and own_alpha:
            if policy:
                log_probs = reward if overwrite else empty_table(reward)
            # |Q| is at most the rewards still to come, and the entropies of the tokens after this
            hottest = alpha if isinstance(alpha, float) else float(np.max(alpha))
            largest_entropy = hottest * math.log(mdp.vocab_size)
            x, below = tables
            value = soft_backup(
                x,
                below,
                column_scalars(alpha, reward),
                allowed=mask_columns(mdp.dynamics.allowed[h], reward),
                largest_q=steps * largest_reward + (steps - 1) * largest_entropy,
                log_probs=None if log_probs is None else written_columns(log_probs),
            ).reshape(reward.shape[:-1])
        elif known is not None:  # with gradients in closed form
            value = known[h]
        elif tensors:
            from theory.arrays import torch_kernels

            allowed = forbid(reward, mdp.dynamics.allowed[h])
            value, log_probs = torch_kernels.soft_backup(allowed, children, alpha, policy=policy)
        else:
            q = _q_table(mdp, h, children)
            value = soft_maximum(q, alpha)
        if policy and log_probs is None:
            q = _q_table(mdp, h, children) if q is None else q
            if is_enclosure(q):  # it bounds its own rounding, others are normalised
                log_probs = (q - value[..., None]) / expand(alpha, 2)
            else:
                log_probs = log_softmax(q, alpha)
        yield value, shift, log_probs
        if is_enclosure(value) and value.coarse:
            shared = value.max(axis=-1, keepdims=True).midpoint()
            value = value - shared
            shift = shift + shared


def _shifted(value: Array, shift: Array | float) -> Array:
    """``value + shift``, without a copy where there is no shift."""
    return value + shift if is_enclosure(value) else value


def _require_writable(rewards: tuple[Array, ...]) -> None:
    """Raise ValueError unless the kernels can write into the memory of the rewards."""
    for h, reward in enumerate(rewards):
        tables = columns(reward)
        if tables is None or not np.shares_memory(tables[0], reward) or not reward.flags.writeable:
            raise ValueError(
                f"overwrite_rewards=True, but rewards[{h}] is no writable NumPy table of doubles "
                "in one block of memory: leave the policy a table of its own"
            )


def _q_table(mdp: TokenMDP, h: int, children: Array | float) -> Array:
    """``r(s,a) + V(s⊕a)`` of layer `h`, ``-inf`` on forbidden tokens."""
    return forbid(mdp.rewards[h] + children, mdp.dynamics.allowed[h])


def log_softmax(q: Array, alpha: Array | float) -> Array:
    """Return ``log softmax(q/α)`` over tokens: ``(*batch, n, V)``, nats.

    It is computed from differences of `q`, so that large values cancel before the division.

    Example:
        >>> log_softmax(np.array([[1e6, 1e6 + 1.0]]), alpha=1.0).round(4).tolist()
        [[-1.3133, -0.3133]]
    """
    if is_enclosure(q):
        radius = q.radius()
        slack = (radius + radius.max(axis=-1, keepdims=True)) / expand(alpha, 2)
        return q.carry(lambda exact: _log_softmax(exact, alpha), slack)
    return _log_softmax(q, alpha)


def _log_softmax(q: Array, alpha: Array | float) -> Array:
    xp = array_namespace(q)
    scaled = (q - xp.max(q, axis=-1, keepdims=True)) / expand(alpha, 2)
    return token_major(scaled - xp.log(xp.sum(xp.exp(scaled), axis=-1, keepdims=True)))


def greedy_rows(q: Array) -> Array:
    """Return the log-probabilities of the policy that takes the first largest entry: ``(*batch, n,
    V)``.

    Example:
        >>> greedy_rows(np.array([[0.0, 2.0, 2.0]])).tolist()
        [[-inf, 0.0, -inf]]
    """
    xp = array_namespace(q)
    first_best = xp.argmax(q, axis=-1, keepdims=True)
    tokens = xp.arange(q.shape[-1], device=first_best.device)
    return token_major(xp.where(tokens == first_best, xp.zeros_like(q), float("-inf")))
