"""The policy of the log-ratio ball whose most probable response is worst."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from theory.arrays.namespace import Array, expand, token_major
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.ball import (
    LARGE,
    capped,
    log_caps_and_rest,
    log_or_floor,
    require_radius,
    without_token,
)

__all__ = ["MapAdversary", "worst_map"]

MAP_TOLERANCE = 1e-12
"""Relative tolerance on ``log π̂(τ)`` within which two responses count as equally probable."""


class MapAdversary(NamedTuple):
    """The worst most probable response that a policy of the ball can have, for each prompt.

    Example:
        >>> from theory import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> worst_map(mdp, soft_optimal(mdp, 1.0).policy, epsilon=0.7).responses.tokens.tolist()
        [[0]]
    """

    responses: Responses
    """One per prompt; tokens ``(*batch, P, H)``."""
    returns: Array
    """True returns ``(*batch, P)``, reward units."""
    policy: Policy
    """On the tree of all prefixes: a policy of the ball with these MAP responses."""


def worst_map(mdp: TokenMDP, expert: Policy, epsilon: Any) -> MapAdversary:
    """Return the least return of the most probable (MAP) response over the ball, for each prompt:
    exact.

    The ball is rectangular over states, and on the tree the subtrees beside a response are disjoint
    from it. So ``τ`` can be made a MAP response iff at every step ``k``

        ``∏_{j≥k} up_j ≥ t(s_k, a_k)``,

    its own tokens at their caps, and ``t(s,a)`` the least level under which every path through a
    sibling of `a` can be held while the siblings share ``1 − up(a)``. With ``U_k = log ∏_{j<k}
    up_j`` that is ``max_k [U_k + log t(s_k, a_k)] ≤ U_H``: one backward sweep for `t`, one forward
    sweep for the condition, which is checked with relative tolerance `MAP_TOLERANCE`. NumPy only.

    Args:
        mdp: the true reward; dynamics that are not a tree are unrolled.
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Raises:
        ValueError: `epsilon` is not positive, the dynamics differ, or the tree does not fit into
            memory.

    Example:
        Token 0 can reach probability ½ from ``ε = log((1 + e)/2) ≈ 0.62`` on:

        >>> from theory import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> expert = soft_optimal(mdp, alpha=1.0).policy
        >>> [worst_map(mdp, expert, epsilon).returns.tolist() for epsilon in (0.6, 0.7)]
        [[1.0], [0.0]]
    """
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = require_radius(epsilon)
    tree = mdp.as_tree()
    centre = expert.as_tree()
    P = tree.dynamics.n_prompts
    V = tree.vocab_size
    H = tree.horizon
    below = _least_levels(centre, radius)
    log_up, met, total = _sweep_to_leaves(tree, centre, radius, below)
    with np.errstate(invalid="ignore"):
        feasible = met - log_up <= MAP_TOLERANCE * (1.0 + np.abs(log_up))
    candidates = np.where(feasible & (log_up > -np.inf), total, np.inf)
    candidates = candidates.reshape((*candidates.shape[:-1], P, V**H))
    leaf = np.argmin(candidates, axis=-1)
    worst = np.take_along_axis(candidates, leaf[..., None], axis=-1)[..., 0]
    tokens = np.stack([leaf // V ** (H - 1 - h) % V for h in range(H)], axis=-1)
    responses = Responses(np.arange(P), tokens)
    return MapAdversary(responses, worst, _map_policy(centre, radius, below, responses))


def _least_levels(centre: Policy, radius: Array | float) -> list[Array]:
    """Least possible largest path probability below each state, ``log M(s)``: layers ``0 … H``."""
    V = centre.dynamics.vocab_size
    levels = [np.zeros(centre.dynamics.layer_sizes[-1] * V)]
    for log_p in reversed(centre.log_probs):
        levels.append(_water_level(log_p, radius, _by_parent(levels[-1], V), 1.0))
    return levels[::-1]


def _by_parent(level: Array, vocab_size: int) -> Array:
    return level.reshape((*level.shape[:-1], -1, vocab_size))


def _water_level(log_p: Array, radius: Array | float, log_m: Array, mass: Any) -> Array:
    """Least ``log t`` for which a row of the ball with sum `mass` has ``p̂_b M_b ≤ t`` for all `b`.

    Needed are ``e^{−ε}p_b M_b ≤ t`` and ``Σ_b min(e^ε p_b, t/M_b) ≥ mass``. The sum is the least
    over all sets `S` of ``Σ_S e^ε p + t Σ_{not S} 1/M``, found at a set of lowest ``e^ε p M``; so
    `t` is the largest root over those sets.

    Args:
        log_p: the expert's row, ``(*batch, n, V)``; ``-inf`` leaves a token out.
        radius: the radius, scalar or ``batch``.
        log_m: ``log M`` of each successor, ``(*batch, n, V)``.
        mass: what the row sums to, broadcastable to ``(*batch, n)``.

    Returns:
        ``(*batch, n)``; ``-inf`` where the row is empty.
    """
    log_p, log_m, eps = np.broadcast_arrays(log_p, log_m, expand(radius, 2))
    path = log_p + log_m
    order = np.argsort(path, axis=-1)
    cap = np.take_along_axis(capped(log_p, eps), order, axis=-1)
    slope = np.take_along_axis(np.where(log_p > -np.inf, -log_m, -np.inf), order, axis=-1)
    cheaper = np.cumsum(cap, axis=-1) - cap
    slopes = np.flip(np.logaddexp.accumulate(np.flip(slope, axis=-1), axis=-1), axis=-1)
    with np.errstate(divide="ignore"):
        to_share = np.log(np.maximum(np.asarray(mass)[..., None] - cheaper, 0.0))
    roots = np.where(slopes > -np.inf, to_share - np.where(slopes > -np.inf, slopes, 0.0), -np.inf)
    level: Array = np.maximum(roots, path - eps).max(axis=-1)
    return level


def _sibling_levels(log_p: Array, radius: Array | float, log_m: Array, left: Array) -> Array:
    """``log t(s,a)``: least level of the paths through the siblings of `a`, which share `left`."""
    levels = [
        _water_level(without_token(log_p, a), radius, log_m, left[..., a])
        for a in range(log_p.shape[-1])
    ]
    return np.stack(levels, axis=-1)


def _sweep_to_leaves(
    tree: TokenMDP, centre: Policy, radius: Array | float, below: list[Array]
) -> tuple[Array, Array, Array]:
    """``U_H``, ``max_k [U_k + log t(s_k, a_k)]`` and the return, ``(*batch, P·V^H)`` each."""
    log_up = total = np.zeros(tree.dynamics.n_prompts)
    met = np.full(tree.dynamics.n_prompts, -np.inf)
    for h, log_p in enumerate(centre.log_probs):
        log_cap, left = log_caps_and_rest(log_p, radius)
        siblings = _sibling_levels(log_p, radius, _by_parent(below[h + 1], tree.vocab_size), left)
        met = np.maximum(met[..., None], log_up[..., None] + siblings)
        log_up = log_up[..., None] + log_cap
        total = total[..., None] + tree.rewards[h]
        met, log_up, total = (x.reshape((*x.shape[:-2], -1)) for x in (met, log_up, total))
    return log_up, met, total


def _map_policy(
    centre: Policy, radius: Array | float, below: list[Array], responses: Responses
) -> Policy:
    """Policy with the responses at their caps and their siblings held at the level.

    Elsewhere it has the rows that attain ``M(s)``.
    """
    batch = responses.tokens.shape[:-2]
    tables = []
    for h, states in enumerate(centre.dynamics.walk(responses.prompts, responses.tokens)):
        token = responses.tokens[..., h]
        at = np.broadcast_to(states, token.shape)[..., None]
        log_p, log_m = np.broadcast_arrays(
            centre.log_probs[h], _by_parent(below[h + 1], centre.dynamics.vocab_size)
        )
        rows = _rows_at_level(log_p, radius, log_m, below[h], 1.0)
        log_p, log_m, rows = (
            np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (log_p, log_m, rows)
        )
        own_p, own_m = (np.take_along_axis(x, at, axis=-2) for x in (log_p, log_m))
        others = without_token(own_p, token)
        log_cap, left = log_caps_and_rest(own_p, radius)
        left = np.take_along_axis(left, token[..., None], axis=-1)[..., 0]
        held = _rows_at_level(
            others, radius, own_m, _water_level(others, radius, own_m, left), left
        )
        rows = rows.copy()
        np.put_along_axis(rows, at, np.where(np.isneginf(others), log_cap, held), axis=-2)
        tables.append(token_major(rows))
    return Policy(centre.dynamics, tuple(tables))


def _rows_at_level(
    log_p: Array, radius: Array | float, log_m: Array, level: Array, mass: Any
) -> Array:
    """Rows of the ball, as logs, with sum `mass` and ``p̂_b M_b ≤ t``.

    Each token goes the same share of the way from its floor ``e^{−ε}p`` to its ceiling
    ``min(e^ε p, t/M)``.
    """
    eps = expand(radius, 2)
    log_floor = log_p - eps
    log_cap = np.minimum(log_p + np.minimum(eps, LARGE), 0.0)
    floor = np.exp(log_floor)
    ceiling = np.exp(np.clip(level[..., None] - log_m, log_floor, log_cap))
    room = (ceiling - floor).sum(axis=-1, keepdims=True)
    missing = np.asarray(mass)[..., None] - floor.sum(axis=-1, keepdims=True)
    way = np.clip(missing, 0.0, room) / np.where(room > 0, room, 1.0)
    return log_or_floor(floor + way * (ceiling - floor), log_floor)
