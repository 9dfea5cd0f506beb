"""Exact adversaries: the policy of a log-ratio ball that does the most harm.

The ball around an expert `π_E` holds the policies with ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` for every state and token;
rows sum to one and a token of probability zero stays so. The ball is rectangular over states: what `π̂` does in one
state restricts nothing in another. Each worst case is therefore found state by state, by sweeps over the layers, and
nothing is sampled. `π̂` may read the whole prefix (where states recur too); ``ε`` is a scalar or of shape ``batch``,
in nats. The cloning adversaries take torch tensors too, with their gradients; the others are NumPy only.

``ε = ∞`` is the limit of large radii: the extreme is then one over all policies that write no token of probability
zero, and the policy returned, which may leave out tokens of the expert, attains it.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from theory.arrays import Array, array_namespace, as_float, expand, like, pick, require_positive, token_major
from theory.mdp import TokenMDP
from theory.policy import Policy, Responses, all_responses, log_prob, require_same_dynamics
from theory.reward import preference_tv, returns
from theory.soft import Solution

__all__ = [
    "MapAdversary",
    "best_clone",
    "caps",
    "extreme_tilt",
    "floors",
    "preference_attaining_policy",
    "worst_clone",
    "worst_kl",
    "worst_map",
    "worst_preference",
    "worst_preference_pair",
]

MAP_TOLERANCE = 1e-12
"""Relative tolerance on ``log π̂(τ)`` with which a response counts as no less probable than another."""

MAX_PAIR_RESPONSES = 4096
"""Responses per prompt up to which `worst_preference_pair` compares all pairs."""

PAIRS_AT_ONCE = 1 << 18
"""Pairs in one array program of `worst_preference_pair`."""

SMALL_VOCABULARY = 8
"""Up to this many tokens, comparing each pair of them is faster than sorting."""

LARGE = float(np.finfo(np.float64).max) / 2
"""Stands for an infinite radius where it is added to ``log p``, which may be ``-inf``."""

CERTAIN = 100.0
"""``σ`` of this much more than ``|Δ*|``, against ``σ(Δ*)``, is one or zero as far as doubles can tell."""

LOG_OVERFLOW = 1000.0
"""``e^{−t}`` is zero from here on."""

NEAR = 0.25
"""Up to this ``|t|``, `SERIES` is more precise than the function."""

SERIES = [1.0 / (k * math.factorial(k - 2)) for k in range(2, 17)]
"""Taylor coefficients of ``(t e^t − e^t + 1)/t²``."""


class MapAdversary(NamedTuple):
    """The worst most probable response that a policy of the ball can have, for each prompt."""

    responses: Responses
    """One per prompt; tokens ``(*batch, P, H)``."""
    returns: Array
    """``(*batch, P)``, their true returns, reward units."""
    policy: Policy
    """A policy of the ball, on the tree of all prefixes, to which no response is more probable than these."""


def caps(log_probs: Array, epsilon: Any) -> Array:
    """Largest probability that the ball and normalisation allow, ``up(a) = min(e^ε p_a, 1 − e^{−ε}(1 − p_a))``.

    Args:
        log_probs: ``log p``, ``(*batch, n, V)``, nats.
        epsilon: radius, scalar or ``batch``.

    """
    caps_: Array = np.exp(_log_caps(log_probs, _radius(epsilon)))
    return caps_


def floors(log_probs: Array, epsilon: Any) -> Array:
    """Smallest probability that the ball and normalisation allow, ``down(a) = max(e^{−ε} p_a, 1 − e^ε(1 − p_a))``.

    Args:
        log_probs: ``log p``, ``(*batch, n, V)``, nats.
        epsilon: radius, scalar or ``batch``.

    """
    floors_: Array = np.exp(_log_floors(log_probs, _radius(epsilon)))
    return floors_


def _radius(epsilon: Any) -> Array | float:
    """`epsilon` as a float or floating-point array, all of it positive; it may be infinite."""
    try:
        array = as_float(epsilon)
    except (TypeError, ValueError):
        raise ValueError(f"epsilon={epsilon!r}: must be a positive number") from None
    bad = ~(array > 0)
    if bool(bad.any()):
        raise ValueError(f"epsilon={float(array[bad][0])}: must be positive")
    return array if array.ndim else float(array)


def _log_caps(log_p: Array, radius: Array | float) -> Array:
    return _caps_and_left_over(log_p, radius)[0]


def _caps_and_left_over(log_p: Array, radius: Array | float) -> tuple[Array, Array]:
    """``log up = log p + min(ε, log(1 + (1 − e^{−ε}) o))``, `o` the odds against a token, and
    ``1 − up = max(1 − e^ε p, e^{−ε}(1 − p))``: ``(*batch, n, V)`` each.
    """
    eps, log_rest, known = expand(radius, 2), _log_rest(log_p), log_p > -np.inf
    by_others = np.logaddexp(0.0, log_rest - np.where(known, log_p, 0.0) + np.log(-np.expm1(-eps)))
    left = np.maximum(1.0 - _capped(log_p, eps), np.exp(log_rest - eps))
    return np.minimum(log_p + np.where(known, np.minimum(eps, by_others), 0.0), 0.0), left


def _log_floors(log_p: Array, radius: Array | float) -> Array:
    """``log down = log p − min(ε, −log(1 − (e^ε − 1) o))``, `o` the odds against a token."""
    eps, known = expand(radius, 2), log_p > -np.inf
    log_odds = _log_rest(log_p) - np.where(known, log_p, 0.0)
    taken = log_odds + np.minimum(eps, LARGE) + np.log(-np.expm1(-eps))
    with np.errstate(divide="ignore"):
        by_others = -np.log1p(-np.exp(np.minimum(taken, 0.0)))
    return log_p - np.where(known, np.minimum(eps, by_others), 0.0)


def _capped(log_p: Array, eps: Array | float) -> Array:
    """``min(e^ε p, 1)``."""
    return np.exp(np.minimum(log_p + np.minimum(eps, LARGE), 0.0))


def _log_rest(log_p: Array) -> Array:
    """``log Σ_{b≠a} p_b`` for each token `a`: of the most probable one from the others, as ``1 − p`` would cancel."""
    top = np.argmax(log_p, axis=-1)[..., None]
    others = token_major(_without(log_p, top[..., 0]))
    second = np.maximum(others.max(axis=-1, keepdims=True), -LARGE)
    with np.errstate(divide="ignore"):
        rest_of_top = second + np.log(np.exp(others - second).sum(axis=-1, keepdims=True))
    return np.where(np.arange(log_p.shape[-1]) == top, rest_of_top, np.log(1.0 - np.exp(others)))


def _log_normal(p: Array, log_low: Array) -> Array:
    """``log p``, and `log_low` where `p` is too small to be a normal number."""
    xp = array_namespace(p)
    normal = p > xp.finfo(p.dtype).smallest_normal
    if bool(xp.all(normal)):
        return xp.log(p)
    return xp.where(normal, xp.log(xp.where(normal, p, 1.0)), log_low)


# --- Cloning: the extreme plain values -----------------------------------------------------------------------------


def worst_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the least plain value, ``min_π̂ V^π̂_r``, and its plain values: exact.

    The ball is rectangular over states, so this is a backward induction, ``W(s) = min_p̂ Σ_a p̂(a) [r(s,a) + W(s⊕a)]``,
    each step a fractional knapsack: every token starts at its floor ``e^{−ε}p`` and what is left goes to the least
    continuation value first, up to the cap ``e^ε p``. That raises to their caps exactly the tokens that hold the first
    ``1/(1 + e^ε)`` of the expert's own mass in this order.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Returns:
        The policy and its values, `H` arrays ``(*batch, n_h)``, reward units.

    Raises:
        ValueError: `epsilon` is not positive, or the dynamics differ.

    """
    return _extreme_clone(mdp, expert, epsilon, sign=1.0)


def best_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the greatest plain value: `worst_clone` with the greatest continuation first."""
    return _extreme_clone(mdp, expert, epsilon, sign=-1.0)


def _extreme_clone(mdp: TokenMDP, expert: Policy, epsilon: Any, sign: float) -> Solution:
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = _radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(mdp.horizon)):
        log_p = expert.log_probs[h]
        total = mdp.rewards[h] + mdp.dynamics.children(h, following)
        p_hat, log_p_hat = extreme_tilt(log_p, sign * total, radius)
        following = array_namespace(p_hat).sum(p_hat * total, axis=-1)
        log_probs.append(token_major(log_p_hat))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def extreme_tilt(log_p: Array, cost: Array, radius: Array | float) -> tuple[Array, Array]:
    """Tilt each row `p` to the row `p̂` of the ball that has the least expected cost, the knapsack of `worst_clone`.

    Of what the floors leave, ``1 − e^{−ε}``, a token can take the share ``(1 + e^ε) p``, or all if that is more. So
    ``p̂ = e^{−ε} p + (1 − e^{−ε}) g`` with ``g(a)`` what the tokens before `a` leave of its share: nothing overflows.

    Args:
        log_p: the expert's rows, ``(*batch, n, V)``, nats.
        cost: what each token leads to, of the same shape.
        radius: ε, scalar or ``batch``.

    Returns:
        `p̂`, in which what is too small for a double is zero, and ``log p̂``, in which it is ``log p − ε``.

    """
    xp = array_namespace(log_p)
    eps = expand(radius, 2)
    eps = like(np.asarray(eps) if isinstance(eps, float) else eps, log_p)
    at_most = xp.clip(eps, None, float(xp.finfo(log_p.dtype).max) / 2)  # as ε = ∞ and log p = −∞ have no sum
    share = xp.exp(xp.clip(log_p + (at_most + xp.log1p(xp.exp(-eps))), None, 0.0))
    taken = xp.minimum(xp.clip(_left_by_cheaper(share, cost), 0.0, None), share)
    log_floor = log_p - eps
    p_hat = xp.exp(log_floor) - xp.expm1(-eps) * taken
    return p_hat, _log_normal(p_hat, log_floor)


def _left_by_cheaper(share: Array, cost: Array) -> Array:
    """One less the shares of the tokens of lower cost (of equals, of lower index) than each: ``(*batch, n, V)``."""
    xp = array_namespace(share, cost)
    share, cost = xp.broadcast_arrays(share, cost)
    V = share.shape[-1]
    if V <= SMALL_VOCABULARY:
        left = [xp.ones_like(share[..., 0]) for _ in range(V)]
        for a, b in combinations(range(V), 2):
            a_first = cost[..., a] <= cost[..., b]
            left[b] -= a_first * share[..., a]
            left[a] -= ~a_first * share[..., b]
        return _stack_tokens(left)
    order = xp.argsort(cost, axis=-1, stable=True)
    in_order = xp.take_along_axis(share, order, axis=-1)
    rank = xp.argsort(order, axis=-1)
    return xp.take_along_axis(1.0 + in_order - xp.cumulative_sum(in_order, axis=-1), rank, axis=-1)


def _stack_tokens(columns: list[Array]) -> Array:
    """One array per token as a table, stored token-major."""
    xp = array_namespace(*columns)
    return xp.moveaxis(xp.stack(columns, axis=0), 0, -1)


# --- Divergence ----------------------------------------------------------------------------------------------------


def worst_kl(expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the greatest ``KL(π̂(τ)‖π_E(τ))``: exact. ``α`` times it is the regularised gap.

    ``K(s) = max_p̂ Σ_a p̂(a) [log p̂(a)/p(a) + K(s⊕a)]`` is convex in the row, so it is attained at a vertex of the row's
    ball: all tokens but one at ``e^{±ε}p``. (Which ones is a subset-sum problem, so every vertex is looked at.) The
    divergence of a row is summed as ``Σ_a p(a) (t e^t − e^t + 1)``, ``t = log p̂(a)/p(a)``: both rows have sum one, and
    no term is negative. At ``ε = ∞`` the vertices are single tokens, ``K(s) = max_a [−log p(a) + K(s⊕a)]``.

    Args:
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Returns:
        The policy and the divergences from each state on, `H` arrays ``(*batch, n_h)``, nats.

    Raises:
        ValueError: `epsilon` is not positive, or there are more than `SMALL_VOCABULARY` tokens.

    """
    V = expert.dynamics.vocab_size
    if V > SMALL_VOCABULARY:
        raise ValueError(f"vocab_size={V}: worst_kl looks at V·2^(V-1) vertices a state; at most {SMALL_VOCABULARY}")
    radius = _radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(expert.horizon)):
        log_p = expert.log_probs[h]
        tilt, following = _most_divergent_tilt(log_p, radius, expert.dynamics.children(h, following))
        log_probs.append(token_major(np.minimum(log_p + tilt, 0.0)))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def _most_divergent_tilt(log_p: Array, radius: Array | float, below: Array | float) -> tuple[Array, Array]:
    """``t = log p̂/p`` of the best vertex of each row ``(*batch, n, V)``, and its objective ``(*batch, n)``."""
    log_p, eps, below = np.broadcast_arrays(log_p, expand(radius, 2), below)
    V, known = log_p.shape[-1], log_p > -np.inf
    ends = [np.where(known, t, 0.0) for t in (-eps, eps)]
    # Raised to a probability of e, a token leaves the others less than nothing: no vertex, and no overflow
    bounded = [ends[0], np.minimum(ends[1], 1.0 - log_p)]
    growths = [_growth(log_p, t) for t in bounded]
    worths = [_worth(log_p, t, below) for t in bounded]
    best, best_tilt = np.full(log_p.shape[:-1], -np.inf), np.zeros(log_p.shape)
    for free in range(V):
        others = [a for a in range(V) if a != free]
        growth = worth = np.zeros((1, *best.shape))
        for a in others:  # bit k of the number of a vertex is the end at which the k-th of the others is
            growth = np.concatenate([growth + end[..., a] for end in growths])
            worth = np.concatenate([worth + end[..., a] for end in worths])
        tilt, possible = _tilt_of_the_rest(log_p[..., free], growth, eps[..., 0])
        value = np.where(possible, worth + _worth(log_p[..., free], tilt, below[..., free]), -np.inf)
        vertex = np.argmax(value, axis=0)[None]
        value, tilt = (np.take_along_axis(x, vertex, axis=0)[0] for x in (value, tilt))
        tilts = {a: np.where(vertex[0] >> k & 1, ends[1][..., a], ends[0][..., a]) for k, a in enumerate(others)}
        row = _stack_tokens([tilts.get(a, tilt) for a in range(V)])
        best_tilt = np.where((value > best)[..., None], row, best_tilt)
        best = np.maximum(best, value)
    return best_tilt, best


def _growth(log_p: Array, t: Array) -> Array:
    """``p (e^t − 1)``, small where `t` is small, without overflow."""
    return -np.sign(t) * np.exp(log_p + np.maximum(t, 0.0)) * np.expm1(-np.abs(t))


def _worth(log_p: Array, t: Array, below: Array) -> Array:
    """``p (t e^t − e^t + 1)`` without cancellation, and ``p e^t`` times what is below; `t` may be ``-inf``."""
    p, p_hat, near = np.exp(log_p), np.exp(log_p + t), np.clip(t, -NEAR, NEAR)
    by_series = p * near**2 * np.polynomial.polynomial.polyval(near, SERIES)
    divergence = np.where(near == t, by_series, p_hat * (np.maximum(t, -LOG_OVERFLOW) - 1.0) + p)
    return divergence + p_hat * below


def _tilt_of_the_rest(log_p: Array, growth: Array, eps: Array) -> tuple[Array, Array]:
    """``log p̂/p`` of the token that gives what the others have grown by, and where the ball allows it; else zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_part = np.log(np.abs(growth)) - log_p
        tilt = np.where(growth < 0, np.logaddexp(0.0, log_part), np.log1p(-np.exp(np.minimum(log_part, 0.0))))
    possible = (log_p > -np.inf) & ((growth <= 0) | (log_part < 0)) & (np.abs(tilt) <= eps * (1 + 1e-12))
    return np.where(possible, np.clip(tilt, -eps, eps), 0.0), possible


# --- Reinforcement learning: the worst most probable response ------------------------------------------------------


def worst_map(mdp: TokenMDP, expert: Policy, epsilon: Any) -> MapAdversary:
    """The least return that the most probable (MAP) response of a policy in the ball can have, per prompt: exact.

    The ball is rectangular over states, and on the tree the subtrees beside a response are disjoint from it. So ``τ``
    can be made a MAP response iff at every step ``k``

        ``∏_{j≥k} up_j ≥ t(s_k, a_k)``,

    its own tokens at their caps, and ``t(s,a)`` the least level under which every path through a sibling of `a` can be
    held while the siblings share ``1 − up(a)``. With ``U_k = log ∏_{j<k} up_j`` that is
    ``max_k [U_k + log t(s_k, a_k)] ≤ U_H``: one backward sweep for `t`, one forward sweep for the condition, which is
    checked with relative tolerance `MAP_TOLERANCE`.

    Args:
        mdp: the true reward; dynamics that are not a tree are unrolled.
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Raises:
        ValueError: `epsilon` is not positive, the dynamics differ, or the tree does not fit into memory.

    """
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = _radius(epsilon)
    tree, centre = mdp.as_tree(), expert.as_tree()
    P, V, H = tree.dynamics.n_prompts, tree.vocab_size, tree.horizon
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
    """``log M(s)``, least possible largest path probability below each state: layers ``0 … H``, ``(*batch, n_h)``."""
    V = centre.dynamics.vocab_size
    levels = [np.zeros(centre.dynamics.layer_sizes[-1] * V)]
    for log_p in reversed(centre.log_probs):
        levels.append(_water_level(log_p, radius, _by_parent(levels[-1], V), 1.0))
    return levels[::-1]


def _by_parent(level: Array, vocab_size: int) -> Array:
    return level.reshape((*level.shape[:-1], -1, vocab_size))


def _water_level(log_p: Array, radius: Array | float, log_m: Array, mass: Any) -> Array:
    """Least ``log t`` for which a row of the ball with sum `mass` has ``p̂_b M_b ≤ t`` for every token.

    Needed are ``e^{−ε}p_b M_b ≤ t`` and ``Σ_b min(e^ε p_b, t/M_b) ≥ mass``. The sum is the least over all sets `S` of
    ``Σ_S e^ε p + t Σ_{not S} 1/M``, found at a set of lowest ``e^ε p M``; so `t` is the largest root over those sets.

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
    cap = np.take_along_axis(_capped(log_p, eps), order, axis=-1)
    slope = np.take_along_axis(np.where(log_p > -np.inf, -log_m, -np.inf), order, axis=-1)
    capped = np.cumsum(cap, axis=-1) - cap
    slopes = np.flip(np.logaddexp.accumulate(np.flip(slope, axis=-1), axis=-1), axis=-1)
    with np.errstate(divide="ignore"):
        to_share = np.log(np.maximum(np.asarray(mass)[..., None] - capped, 0.0))
    roots = np.where(slopes > -np.inf, to_share - np.where(slopes > -np.inf, slopes, 0.0), -np.inf)
    level: Array = np.maximum(roots, path - eps).max(axis=-1)
    return level


def _sibling_levels(log_p: Array, radius: Array | float, log_m: Array, left: Array) -> Array:
    """``log t(s,a)`` for each token: least level of the paths through its siblings, which share what is `left`."""
    levels = [_water_level(_without(log_p, a), radius, log_m, left[..., a]) for a in range(log_p.shape[-1])]
    return np.stack(levels, axis=-1)


def _without(log_p: Array, tokens: Array | int) -> Array:
    """Rows ``(*batch, n, V)`` without one token each, `tokens` a number or ``(*batch, n)``."""
    return np.where(np.arange(log_p.shape[-1]) == np.asarray(tokens)[..., None], -np.inf, log_p)


def _sweep_to_leaves(
    tree: TokenMDP, centre: Policy, radius: Array | float, below: list[Array]
) -> tuple[Array, Array, Array]:
    """``U_H``, ``max_k [U_k + log t(s_k, a_k)]`` and the return of every response: ``(*batch, P·V^H)`` each."""
    log_up = total = np.zeros(tree.dynamics.n_prompts)
    met = np.full(tree.dynamics.n_prompts, -np.inf)
    for h, log_p in enumerate(centre.log_probs):
        log_cap, left = _caps_and_left_over(log_p, radius)
        siblings = _sibling_levels(log_p, radius, _by_parent(below[h + 1], tree.vocab_size), left)
        met = np.maximum(met[..., None], log_up[..., None] + siblings)
        log_up = log_up[..., None] + log_cap
        total = total[..., None] + tree.rewards[h]
        met, log_up, total = (x.reshape((*x.shape[:-2], -1)) for x in (met, log_up, total))
    return log_up, met, total


def _map_policy(centre: Policy, radius: Array | float, below: list[Array], responses: Responses) -> Policy:
    """Along the responses the caps, their siblings held at the level; elsewhere the rows that attain ``M(s)``."""
    batch = responses.tokens.shape[:-2]
    tables = []
    for h, states in enumerate(centre.dynamics.walk(responses.prompts, responses.tokens)):
        token = responses.tokens[..., h]
        at = np.broadcast_to(states, token.shape)[..., None]
        log_p, log_m = np.broadcast_arrays(centre.log_probs[h], _by_parent(below[h + 1], centre.dynamics.vocab_size))
        rows = _rows_at_level(log_p, radius, log_m, below[h], 1.0)
        log_p, log_m, rows = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (log_p, log_m, rows))
        own_p, own_m = (np.take_along_axis(x, at, axis=-2) for x in (log_p, log_m))
        others = _without(own_p, token)
        log_cap, left = _caps_and_left_over(own_p, radius)
        left = np.take_along_axis(left, token[..., None], axis=-1)[..., 0]
        held = _rows_at_level(others, radius, own_m, _water_level(others, radius, own_m, left), left)
        rows = rows.copy()
        np.put_along_axis(rows, at, np.where(np.isneginf(others), log_cap, held), axis=-2)
        tables.append(token_major(rows))
    return Policy(centre.dynamics, tuple(tables))


def _rows_at_level(log_p: Array, radius: Array | float, log_m: Array, level: Array, mass: Any) -> Array:
    """Rows of the ball, as logs, with sum `mass` and ``p̂_b M_b ≤ t``: each the same share of the way from its floor
    ``e^{−ε}p`` to its ceiling ``min(e^ε p, t/M)``.
    """
    eps = expand(radius, 2)
    log_floor = log_p - eps
    log_cap = np.minimum(log_p + np.minimum(eps, LARGE), 0.0)
    floor, ceiling = np.exp(log_floor), np.exp(np.clip(level[..., None] - log_m, log_floor, log_cap))
    room = (ceiling - floor).sum(axis=-1, keepdims=True)
    missing = np.asarray(mass)[..., None] - floor.sum(axis=-1, keepdims=True)
    way = np.clip(missing, 0.0, room) / np.where(room > 0, room, 1.0)
    return _log_normal(floor + way * (ceiling - floor), log_floor)


# --- Preferences ---------------------------------------------------------------------------------------------------


def worst_preference(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> Array:
    """Largest ``|σ(Δ*) − σ(Δ̂)|`` over the ball for pairs of responses to one prompt: exact.

    ``Δ* = r*(τ) − r*(τ')`` and ``Δ̂ = α [log π̂(τ) − log π̂(τ')]``. Tokens that the two share first cancel; from where
    they part, ``Δ̂`` is greatest with every token of ``τ`` at its cap ``up`` and every token of ``τ'`` at its floor
    ``down``. The ball is rectangular over states, so they move independently; in the state where the two part they can
    too, because ``up(a) < e^ε p_a`` needs ``p_a > 1/(1+e^ε)``, ``down(a') > e^{−ε}p_{a'}`` needs
    ``p_{a'} > e^ε/(1+e^ε)``, and not both can hold. The least ``Δ̂`` mirrors this; the worse of the two counts.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball, soft-optimal for `mdp` at `alpha` (then ``Δ* = α log π_E(τ)/π_E(τ')``).
        epsilon: radius in nats, scalar or ``batch``.
        alpha: temperature in reward units, scalar or ``batch``.
        first: `N` responses `τ` that the expert can give.
        second: `N` responses `τ'` to the same prompts.

    Returns:
        ``(*batch, N)``, total variation.

    Raises:
        ValueError: `epsilon` is not positive, `alpha` is not positive and finite, the dynamics differ, or a pair has
            two prompts.

    """
    errors: Array = np.maximum(*_both_directions(mdp, expert, epsilon, alpha, first, second))
    return errors


def _both_directions(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> tuple[Array, Array]:
    """TV with the first response raised, and with the second raised: ``(*batch, N)`` each."""
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    if not np.array_equal(first.prompts, second.prompts):
        raise ValueError("first and second answer different prompts: a preference compares responses to one prompt")
    radius, alpha = _radius(epsilon), expand(require_positive("alpha", alpha), 1)
    delta = returns(mdp, first) - returns(mdp, second)
    most = np.abs(delta) + CERTAIN
    with np.errstate(over="ignore"):
        raised = alpha * _greatest_log_ratio(expert, radius, first, second)
        lowered = -alpha * _greatest_log_ratio(expert, radius, second, first)
    return preference_tv(delta, np.clip(raised, -most, most)), preference_tv(delta, np.clip(lowered, -most, most))


def _greatest_log_ratio(expert: Policy, radius: Array | float, up: Responses, down: Responses) -> Array:
    """``max_π̂ [log π̂(τ) − log π̂(τ')] = Σ_{h after parting} [log up(a_h) − log down(a'_h)]``, ``(*batch, N)``."""
    walk = expert.dynamics.walk
    parted = (up.tokens != down.tokens).cumsum(axis=-1) > 0
    total: Array = np.zeros(())
    steps = zip(expert.log_probs, walk(up.prompts, up.tokens), walk(down.prompts, down.tokens), strict=True)
    for h, (log_p, s_up, s_down) in enumerate(steps):
        cap = pick(_log_caps(log_p, radius), s_up, up.tokens[..., h])
        floor = pick(_log_floors(log_p, radius), s_down, down.tokens[..., h])
        total = total + np.where(parted[..., h], cap - floor, 0.0)
    return total


def preference_attaining_policy(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any, first: Responses, second: Responses
) -> Policy:
    """A policy of the ball, on the tree of all prefixes, that attains `worst_preference` for one pair.

    Args:
        mdp: see `worst_preference`, here without batch axes.
        expert: see `worst_preference`.
        epsilon: radius in nats, a number.
        alpha: temperature in reward units, a number.
        first: one response.
        second: one response to the same prompt.

    Raises:
        ValueError: see `worst_preference`; or the tree does not fit into memory.

    """
    raised, lowered = _both_directions(mdp, expert, epsilon, alpha, first, second)
    up, down = (first, second) if raised.item() >= lowered.item() else (second, first)
    centre, radius = expert.as_tree(), float(_radius(epsilon))
    walk = centre.dynamics.walk
    tables = [table.copy() for table in centre.log_probs]
    for h, states in enumerate(zip(walk(up.prompts, up.tokens), walk(down.prompts, down.tokens), strict=True)):
        s_up, s_down = (state.item() for state in states)
        a_up, a_down = up.tokens[0, h], down.tokens[0, h]
        if (s_up, a_up) == (s_down, a_down):
            continue
        log_p = centre.log_probs[h]
        moves: dict[int, list[tuple[int, float]]] = {}
        moves.setdefault(s_up, []).append((a_up, _log_caps(log_p, radius)[s_up, a_up]))
        moves.setdefault(s_down, []).append((a_down, _log_floors(log_p, radius)[s_down, a_down]))
        for state, tokens in moves.items():
            tables[h][state] = _row_with(log_p[state], radius, tokens)
    return Policy(centre.dynamics, tuple(tables))


def _row_with(log_p: Array, radius: float, moved: list[tuple[int, float]]) -> Array:
    """The row ``(V,)`` with some tokens moved to given log-probabilities and the others scaled to what is left."""
    row = log_p.copy()
    others = np.ones(len(row), dtype=bool)
    for token, log_probability in moved:
        row[token], others[token] = log_probability, False
    log_rest = np.logaddexp.reduce(log_p[others], initial=-np.inf)
    if log_rest > -np.inf:
        with np.errstate(divide="ignore"):
            log_left = np.log(np.maximum(1.0 - np.exp(row[~others]).sum(), 0.0))
        row[others] = np.minimum(row[others] + np.clip(log_left - log_rest, -radius, radius), 0.0)
    return row


def worst_preference_pair(
    mdp: TokenMDP, expert: Policy, epsilon: Any, alpha: Any
) -> tuple[Array, Responses, Responses]:
    """The largest `worst_preference` over all pairs of responses to one prompt: the total variation and the pair.

    Args:
        mdp: see `worst_preference`, here without batch axes.
        expert: see `worst_preference`. Responses that it never gives are left out.
        epsilon: radius in nats, a number.
        alpha: temperature in reward units, a number.

    Raises:
        ValueError: there are batch axes, or more than `MAX_PAIR_RESPONSES` responses to a prompt.

    """
    dynamics = mdp.dynamics
    n = dynamics.vocab_size**dynamics.horizon
    if n > MAX_PAIR_RESPONSES:
        raise ValueError(f"{n} responses per prompt: at most {MAX_PAIR_RESPONSES}; give pairs to worst_preference")
    if mdp.batch_shape or expert.batch_shape or np.ndim(epsilon) or np.ndim(alpha):
        raise ValueError("worst_preference_pair takes one problem, without batch axes; give pairs to worst_preference")
    every = all_responses(dynamics)
    possible = np.flatnonzero(log_prob(expert, every) > -np.inf)
    best: tuple[Array, Responses, Responses] | None = None
    for prompt in range(dynamics.n_prompts):
        own = possible[possible // n == prompt]
        for one in np.array_split(own, max(1, len(own) ** 2 // PAIRS_AT_ONCE)):
            i, j = np.meshgrid(one, own, indexing="ij")
            i, j = i[i <= j], j[i <= j]  # with itself too: then the error is zero
            if not i.size:
                continue
            first, second = (Responses(every.prompts[k], every.tokens[k]) for k in (i, j))
            errors = worst_preference(mdp, expert, epsilon, alpha, first, second)
            k = int(np.argmax(errors))
            if best is None or errors[k] > best[0]:
                first, second = (Responses(r.prompts[k : k + 1], r.tokens[k : k + 1]) for r in (first, second))
                best = errors[k], first, second
    assert best is not None  # every state allows a token, so every prompt has a response
    return best
