"""Soft-optimal and plain-optimal policies of a token MDP, by one backward sweep over its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from theory.arrays.memory import require_memory
from theory.arrays.namespace import (
    BLOCK,
    Array,
    array_namespace,
    blocks,
    expand,
    forbid,
    is_enclosure,
    is_numpy_array,
    is_torch_array,
    require_positive,
    soft_maximum,
    token_major,
)
from theory.arrays.tensors import needs_gradient, numpy_can_read, through_numpy
from theory.mdp.policy import Policy
from theory.mdp.responses import best_continuations
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

SAFE_EXPONENT = 600.0
"""``exp(±600)`` and sums of many of them neither overflow nor underflow in double precision."""


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
    return tuple(reversed([value + shift for _, _, value, shift, _ in _sweep(mdp, alpha)]))


def soft_optimal(mdp: TokenMDP, alpha: Any) -> Solution:
    """Return the soft-optimal policy ``π_E = softmax(Q*/α)`` and the soft values ``V*``.

    The policy maximises the regularised value; its gauge (`Policy.log_normalizers`) is ``V*/α``, so
    that ``endogenous_reward(policy, alpha)`` returns the reward it was solved for.

    Args:
        mdp: the token MDP.
        alpha: temperature in reward units, scalar or ``batch``.

    Raises:
        ValueError: `alpha` is not positive and finite, or the policy does not fit into memory.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> np.exp(soft_optimal(mdp, alpha=1.0).policy.log_probs[0]).round(4).tolist()
        [[0.2689, 0.7311]]
    """
    if numpy_can_read(mdp.rewards, alpha):
        return through_numpy(soft_optimal, mdp, alpha)
    alpha = require_positive("alpha", alpha)
    batch = int(np.prod(mdp.batch_shape))
    require_memory(
        8 * batch * mdp.dynamics.n_prefixes,
        "the soft-optimal policy",
        "use soft_values, or a smaller MDP",
    )
    log_probs: list[Array] = []
    values: list[Array] = []
    for h, children, value, shift, rows in _sweep(mdp, alpha, policy=True):
        if rows is None:
            q = _q_table(mdp, h, children)
            # Plain arrays are normalised once more, against rounding; an enclosure bounds its own.
            apart = is_enclosure(q)
            rows = (q - value[..., None]) / expand(alpha, 2) if apart else log_softmax(q, alpha)
        log_probs.append(rows)
        values.append(value + shift)
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
    for q in best_continuations(mdp.dynamics, mdp.rewards):
        log_probs.append(greedy_rows(q))
        values.append(array_namespace(q).max(q, axis=-1))
    return Solution(Policy(mdp.dynamics, tuple(log_probs)), tuple(values))


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
    mdp: TokenMDP, alpha: Array | float, policy: bool = False
) -> Iterator[tuple[int, Array | float, Array, Array | float, Array | None]]:
    """Yield the last layer first: `h`, successor values, soft values, a shift of both, and rows.

    The rows are the soft-optimal policy's, if `policy` asks for them and they cost nothing more.

    Enclosures of doubles are kept apart from what the values of a layer share, the shift: it grows
    with the horizon and would be rounded in every step, and policies do not depend on it.
    """
    value: Array = None
    shift: Array | float = 0.0
    tensors = is_torch_array(mdp.rewards[0])
    known = soft_values(mdp, alpha) if needs_gradient(mdp.rewards, alpha) else None
    for h in reversed(range(mdp.horizon)):
        rows: Array | None = None
        children = mdp.dynamics.children(h, value)
        reward = mdp.rewards[h]
        single = is_numpy_array(reward) and reward.ndim == 2 and isinstance(alpha, float)
        if single and mdp.dynamics.allowed[h] is None:
            # |Q| is at most the rewards still to come and the entropies of the tokens after this
            steps = mdp.horizon - h
            largest_reward = max(map(abs, mdp.reward_range))
            largest_q = steps * largest_reward + (steps - 1) * alpha * math.log(mdp.vocab_size)
            value = _soft_backup(
                reward.T, None if isinstance(children, float) else children.T, alpha, largest_q
            )
        elif known is not None:  # with gradients in closed form
            value = known[h]
        elif tensors:
            from theory.arrays import torch_kernels

            allowed = forbid(reward, mdp.dynamics.allowed[h])
            value, rows = torch_kernels.soft_backup(allowed, children, alpha, policy=policy)
        else:
            value = soft_maximum(_q_table(mdp, h, children), alpha)
        yield h, children, value, shift, rows
        if is_enclosure(value) and value.coarse:
            shared = value.max(axis=-1, keepdims=True).midpoint()
            value = value - shared
            shift = shift + shared


def _soft_backup(
    reward: np.ndarray, children: np.ndarray | None, alpha: float, largest_q: float
) -> np.ndarray:
    """`soft_maximum` of ``reward + children`` in blocks that fit the cache, without a Q-table.

    `reward` and `children` are ``(V, n)``; no ``|Q|`` exceeds `largest_q`. Where ``|Q|/α`` is small
    the exponential needs no shift, which saves two passes; elsewhere the largest entry of each row
    is taken out first.
    """
    n = reward.shape[1]
    value = np.empty(n, dtype=reward.dtype)
    scratch = np.empty((len(reward), min(n, BLOCK)), dtype=reward.dtype)
    shift = np.empty(scratch.shape[1], dtype=reward.dtype)
    shift_needed = largest_q / alpha > SAFE_EXPONENT
    for block in blocks(n):
        size = block.stop - block.start
        q = scratch[:, :size]
        top = shift[:size]
        out = value[block]
        total = (
            reward[:, block]
            if children is None
            else np.add(reward[:, block], children[:, block], out=q)
        )
        if shift_needed:
            total = np.subtract(total, np.maximum.reduce(total, axis=0, out=top), out=q)
        np.exp(np.multiply(total, 1.0 / alpha, out=q), out=q)
        np.log(np.add.reduce(q, axis=0, out=out), out=out)
        out *= alpha
        if shift_needed:
            out += top
    return value


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
