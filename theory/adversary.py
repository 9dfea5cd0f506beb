"""Exact worst cases in the log-ratio ball around an expert.

The ball holds the policies with ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` in every state. It is rectangular: what a policy
does in one state restricts nothing in another. So its worst members are found by backward induction, exactly, with no
sampling. Rows are normalised, and a token that the expert never chooses stays so. NumPy only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from theory.arrays import Array, expand, pick, require_positive, token_major
from theory.mdp import TokenMDP
from theory.policy import Policy, Responses, all_responses, log_prob, require_same_dynamics
from theory.reward import preference_tv, returns
from theory.soft import Solution

__all__ = [
    "MapAdversary",
    "best_clone",
    "caps",
    "floors",
    "worst_clone",
    "worst_map",
    "worst_preference",
    "worst_preference_pair",
]

MAP_TOLERANCE = 1e-12
"""Relative tolerance, in log-probability, with which two responses count as equally probable."""

MAX_PAIR_RESPONSES = 512


class MapAdversary(NamedTuple):
    """The worst MAP response of the ball, one per prompt."""

    responses: Responses
    returns: Array
    """``(*batch, P)``: true return of each."""
    policy: Policy
    """A policy of the ball whose MAP responses these are (on the tree of all prefixes)."""


def caps(log_probs: Array, epsilon: Any) -> Array:
    """Largest probability that the ball and normalisation allow: ``min(e^ε p, 1 − e^{−ε}(1 − p))``, ``(*batch, n, V)``."""
    p, radius = np.exp(log_probs), expand(epsilon, 2)
    return np.where(p > 0, np.minimum(np.exp(radius) * p, 1 - np.exp(-radius) * (1 - p)), 0.0)


def floors(log_probs: Array, epsilon: Any) -> Array:
    """Smallest probability that the ball and normalisation allow: ``max(e^{−ε} p, 1 − e^ε(1 − p))``, ``(*batch, n, V)``."""
    p, radius = np.exp(log_probs), expand(epsilon, 2)
    return np.where(p > 0, np.maximum(np.exp(-radius) * p, 1 - np.exp(radius) * (1 - p)), 0.0)


def worst_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the least plain value, and its values: exact.

    In each state a fractional knapsack: every token starts at its floor ``e^{−ε}p``, and the mass that is left goes to
    the tokens of least continuation value first, up to their cap ``e^ε p``.

    Args:
        mdp: the true reward.
        expert: the centre of the ball, on the same dynamics.
        epsilon: radius in nats, scalar or ``batch``.

    Raises:
        ValueError: `epsilon` is not positive and finite, or the dynamics differ.
    """
    return _extreme_clone(mdp, expert, epsilon, sign=1)


def best_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the greatest plain value: `worst_clone` with the order reversed."""
    return _extreme_clone(mdp, expert, epsilon, sign=-1)


def _extreme_clone(mdp: TokenMDP, expert: Policy, epsilon: Any, sign: int) -> Solution:
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = require_positive("epsilon", epsilon)
    log_probs, values = [], []
    following: Array | None = None
    for h in reversed(range(mdp.horizon)):
        total = mdp.rewards[h] + mdp.dynamics.children(h, following)
        table = expert.log_probs[h]
        rows = _fill(np.exp(table), sign * total, np.exp(expand(radius, 2)))
        following = (rows * total).sum(axis=-1)
        with np.errstate(divide="ignore"):
            log_probs.append(token_major(np.log(rows)))
        values.append(following)
    return Solution(Policy(mdp.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def _fill(p: Array, cost: Array, factor: Any) -> Array:
    """Rows of the ball ``[p/factor, p·factor]`` that sum to one and put as much mass as they can on the least cost."""
    order = np.argsort(cost, axis=-1, kind="stable")
    sorted_p = np.take_along_axis(p, order, axis=-1)
    low = sorted_p / factor
    room = sorted_p * factor - low
    left = 1.0 - low.sum(axis=-1, keepdims=True)  # mass to hand out beyond the floors
    before = np.cumsum(room, axis=-1) - room
    filled = low + np.clip(left - before, 0.0, room)
    rows = np.empty_like(filled)
    np.put_along_axis(rows, order, filled, axis=-1)
    return rows


def worst_map(mdp: TokenMDP, expert: Policy, epsilon: Any) -> MapAdversary:
    """The least true return that the most probable response of any policy in the ball can have: exact.

    A response ``τ`` can be made the MAP iff at every step `k` of it ``∏_{j≥k} up_j ≥ t(s_k, a_k)``: its own token at
    its cap ``up``, ``t`` the least level that the paths through its siblings, which share ``1 − up``, can be held to.

    Args:
        mdp: the true reward; dynamics that are not a tree are unrolled.
        expert: the centre of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Raises:
        ValueError: `epsilon` is not positive and finite, the dynamics differ, or the tree does not fit into memory.
    """
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = require_positive("epsilon", epsilon)
    tree, centre = mdp.as_tree(), expert.as_tree()
    H, V, P = tree.horizon, tree.vocab_size, tree.dynamics.n_prompts
    # Backward: M(s), the smallest possible largest path probability below s, as a log.
    child_levels: list[Array] = []
    row_levels: list[Array] = []
    level = np.zeros((*np.broadcast_shapes(tree.batch_shape, np.shape(radius)), P * V**H))
    for h in reversed(range(H)):
        children = level.reshape((*level.shape[:-1], -1, V))
        low, high = floors(centre.log_probs[h], radius), caps(centre.log_probs[h], radius)
        level = _water_level(low, high, children, np.ones(level.shape[:-1] + (children.shape[-2],)))
        child_levels.append(children)
        row_levels.append(level)
    child_levels.reverse()
    row_levels.reverse()
    # Forward: U, log-probability of the path at its caps, and the largest sibling level met so far.
    path, met = np.zeros_like(row_levels[0]), np.full_like(row_levels[0], -np.inf)
    total = np.zeros_like(path)
    for h in range(H):
        sibling = _sibling_levels(centre.log_probs[h], child_levels[h], radius)
        met = np.maximum(met[..., None], sibling + path[..., None])
        with np.errstate(divide="ignore"):
            path = path[..., None] + np.log(caps(centre.log_probs[h], radius))
        total = total[..., None] + tree.rewards[h]
        met, path, total = (x.reshape((*x.shape[:-2], -1)) for x in np.broadcast_arrays(met, path, total))
    feasible = (met <= path + MAP_TOLERANCE * np.abs(path)) & (path > -np.inf)
    candidates = np.where(feasible, total, np.inf).reshape((*total.shape[:-1], P, V**H))
    leaf = np.argmin(candidates, axis=-1)
    worst = np.take_along_axis(candidates, leaf[..., None], axis=-1)[..., 0]
    tokens = np.stack([leaf // V ** (H - 1 - h) % V for h in range(H)], axis=-1)
    responses = Responses(np.arange(P), tokens)
    return MapAdversary(responses, worst, _map_policy(centre, responses, child_levels, row_levels, radius))


def _water_level(low: Array, high: Array, log_m: Array, mass: Array) -> Array:
    """Least ``log t`` such that rows in ``[low, high]`` with sum `mass` keep ``p_b m_b ≤ t`` for every token.

    ``t`` is where ``Σ_b min(high_b, t/m_b)`` reaches the mass, and at least every ``low_b m_b``.
    """
    with np.errstate(divide="ignore"):
        breaks = np.where(high > 0, np.log(high) + log_m, -np.inf)  # token b is at its cap from this level on
        at_least = np.max(np.where(low > 0, np.log(low) + log_m, -np.inf), axis=-1)
    breaks, high, log_m = np.broadcast_arrays(breaks, high, log_m)
    order = np.argsort(breaks, axis=-1)
    breaks, caps_, log_m = (np.take_along_axis(x, order, axis=-1) for x in (breaks, high, log_m))
    capped = np.cumsum(caps_, axis=-1) - caps_  # mass of the tokens already at their cap
    # rate of the others: Σ 1/m over tokens k…, scaled by the largest term to stay in range
    inverse = np.where(caps_ > 0, -log_m, -np.inf)
    rate = np.flip(np.logaddexp.accumulate(np.flip(inverse, -1), axis=-1), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        candidate = np.log(np.maximum(mass[..., None] - capped, 0.0)) - rate
        candidate = np.where(np.isneginf(rate), -np.inf, candidate)
        # The segment that holds the solution: the level at which the tokens k… are all below their caps.
        reachable = candidate <= breaks + 1e-15 * np.abs(breaks)
    first = np.argmax(reachable, axis=-1)
    level = np.take_along_axis(candidate, first[..., None], axis=-1)[..., 0]
    level = np.where(reachable.any(axis=-1), level, breaks[..., -1])
    return np.maximum(level, at_least)


def _sibling_levels(log_probs: Array, child_levels: Array, radius: Any) -> Array:
    """``log t(s,a)``: least level of the paths through the other tokens while `a` is at its cap."""
    high = caps(log_probs, radius)
    levels = []
    for a in range(log_probs.shape[-1]):
        others = np.arange(log_probs.shape[-1]) != a
        plain = np.exp(log_probs) * others
        bounds_low, bounds_high = plain * np.exp(-expand(radius, 2)), plain * np.exp(expand(radius, 2))
        mass = np.broadcast_to(1.0 - high[..., a], child_levels.shape[:-1])
        levels.append(_water_level(bounds_low, bounds_high, child_levels, mass))
    return np.stack(levels, axis=-1)


def _map_policy(
    centre: Policy, responses: Responses, child_levels: list[Array], row_levels: list[Array], radius: Any
) -> Policy:
    """The adversary's policy: caps along the responses, everything else as low as it can be held."""
    tables = []
    states = centre.dynamics.walk(responses.prompts, responses.tokens)
    for h, log_probs in enumerate(centre.log_probs):
        p, factor = np.exp(log_probs), np.exp(expand(radius, 2))
        low, high = floors(log_probs, radius), caps(log_probs, radius)
        rows = _rows_at_level(low, high, child_levels[h], row_levels[h], np.ones(row_levels[h].shape))
        sibling = _sibling_levels(log_probs, child_levels[h], radius)
        batch = rows.shape[:-2]
        s, a = np.broadcast_to(states[h], responses.tokens.shape[:-1]), responses.tokens[..., h]
        grids = np.ix_(*(np.arange(size) for size in batch), np.arange(1))[:-1]
        where = (*grids, s)
        own = np.arange(log_probs.shape[-1]) == a[..., None]
        top = np.broadcast_to(high, rows.shape)[where]
        plain = np.where(own, 0.0, np.broadcast_to(p, rows.shape)[where])
        spread = np.broadcast_to(factor, (*batch, 1, 1)) if batch else factor
        mass = 1.0 - np.where(own, top, 0.0).sum(axis=-1)
        level = pick(sibling, s, a)
        others = _rows_at_level(plain / spread, plain * spread, np.broadcast_to(child_levels[h], rows.shape)[where], level, mass)
        rows[where] = np.where(own, top, others)
        with np.errstate(divide="ignore"):
            tables.append(token_major(np.log(rows)))
    return Policy(centre.dynamics, tuple(tables))


def _rows_at_level(low: Array, high: Array, log_m: Array, level: Array, mass: Array) -> Array:
    """Rows in ``[low, high]`` with sum `mass` and no ``p_b m_b`` above the level: as low as the level leaves room for."""
    ceiling = np.maximum(np.minimum(high, np.exp(np.minimum(level[..., None] - log_m, 700.0))), low)
    excess = ceiling.sum(axis=-1, keepdims=True) - mass[..., None]  # where floors set the level there is room to give back
    room = ceiling - low
    total = room.sum(axis=-1, keepdims=True)
    share = np.where(total > 0, room / np.where(total > 0, total, 1.0), 0.0)
    return np.clip(ceiling - np.maximum(excess, 0.0) * share, low, high)


def worst_preference(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> Array:
    """Largest ``|σ(Δ*) − σ(Δ̂)|`` over the ball, for pairs of responses to one prompt: ``(*batch, N)``.

    Shared tokens cancel. Where the pair parts both tokens move at once (`_part`); from there on every token of one
    response is at its cap and every token of the other at its floor. Both directions are tried.
    """
    radius, alpha = require_positive("epsilon", epsilon), require_positive("alpha", alpha)
    true = returns(mdp, first) - returns(mdp, second)
    moved = [
        _largest_log_ratio(expert, radius, one, two) * sign for one, two, sign in ((first, second, 1), (second, first, -1))
    ]
    return np.maximum(*(preference_tv(true, expand(alpha, 1) * m) for m in moved))


def _largest_log_ratio(expert: Policy, radius: Any, up: Responses, down: Responses) -> Array:
    """Largest ``log π̂(τ) − log π̂(τ')`` over the ball."""
    dynamics = expert.dynamics
    shared = np.ones(np.shape(up.tokens)[:-1], dtype=bool)
    total: Array = 0.0
    steps = zip(dynamics.walk(up.prompts, up.tokens), dynamics.walk(down.prompts, down.tokens), strict=True)
    for h, (s_up, s_down) in enumerate(steps):
        a_up, a_down = up.tokens[..., h], down.tokens[..., h]
        high, low = caps(expert.log_probs[h], radius), floors(expert.log_probs[h], radius)
        p = np.exp(expert.log_probs[h])
        x, y = _part(pick(p, s_up, a_up), pick(p, s_up, a_down), np.exp(expand(radius, 1)))
        parting = shared & (a_up != a_down)
        with np.errstate(divide="ignore"):
            apart = np.log(pick(high, s_up, a_up)) - np.log(pick(low, s_down, a_down))
            here = np.log(x) - np.log(y)
        shared = shared & (a_up == a_down)
        total = total + np.where(shared, 0.0, np.where(parting, here, apart))
    return total


def _part(p_up: Array, p_down: Array, factor: Any) -> tuple[Array, Array]:
    """Largest ratio of two tokens of one row: ``x = e^ε p``, ``y = e^{−ε} p'``, mended so that the rest can sum to one."""
    rest = np.maximum(1.0 - p_up - p_down, 0.0)
    x, y = factor * p_up, p_down / factor
    x = np.where(1 - x - y < rest / factor, 1 - y - rest / factor, x)
    y = np.where(1 - x - y > rest * factor, 1 - x - rest * factor, y)
    return x, y


def worst_preference_pair(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any
) -> tuple[Array, Responses, Responses]:
    """The largest preference error over the ball and over all pairs of responses to one prompt, and the pair.

    Raises:
        ValueError: there are more than `MAX_PAIR_RESPONSES` responses to a prompt.
    """
    dynamics = mdp.dynamics
    n = dynamics.vocab_size**dynamics.horizon
    if n > MAX_PAIR_RESPONSES or mdp.batch_shape:
        raise ValueError(
            f"{n} responses a prompt: all pairs are compared up to {MAX_PAIR_RESPONSES}, without batch axes; "
            "use worst_preference on pairs of your choice"
        )
    everything = all_responses(dynamics)
    i, j = np.triu_indices(n, k=1)
    offsets = n * np.arange(dynamics.n_prompts)[:, None]
    i, j = (offsets + i).reshape(-1), (offsets + j).reshape(-1)
    possible = log_prob(expert, everything) > -np.inf
    keep = possible[i] & possible[j]
    first, second = (Responses(everything.prompts[k[keep]], everything.tokens[k[keep]]) for k in (i, j))
    errors = worst_preference(mdp, expert, epsilon, alpha, first, second)
    worst = int(np.argmax(errors))
    chosen = (Responses(r.prompts[worst : worst + 1], r.tokens[worst : worst + 1]) for r in (first, second))
    return (errors[worst], *chosen)  # type: ignore[return-value]
