"""The policy of the log-ratio ball whose most probable response is worst."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from theory.arrays.kernels import (
    LEAST_EXPONENT,
    blocks,
    column_scalars,
    columns,
    empty_table,
    max_tokens,
    part,
    scratch_like,
    states_per_block,
    sum_tokens,
    written_columns,
)
from theory.arrays.namespace import Array, expand, token_major
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.ball import (
    LARGE,
    capped,
    is_small_ball,
    log_caps_and_rest,
    log_or_floor,
    require_radius,
    without_token,
)

__all__ = ["MapAdversary", "worst_map"]

MAP_TOLERANCE = 1e-12
"""Relative tolerance on ``log π̂(τ)`` within which two responses count as equally probable."""

INFEASIBLE = 1e250
"""Makes the least excess over the tolerance worse than any return, and does not overflow."""

LEAST_ROOM = 1e-300
"""Stands for no room where it is divided by."""


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
    linear = _is_linear(centre, radius)
    below = _least_levels(centre, radius, linear)
    sweep = _sweep_columns if linear else _sweep_to_leaves
    candidates = sweep(tree, centre, radius, below)
    candidates = candidates.reshape((*candidates.shape[:-1], P, V**H))
    leaf = np.argmin(candidates, axis=-1)
    worst = np.take_along_axis(candidates, leaf[..., None], axis=-1)[..., 0]
    tokens = np.stack([leaf // V ** (H - 1 - h) % V for h in range(H)], axis=-1)
    responses = Responses(np.arange(P), tokens)
    return MapAdversary(responses, worst, _map_policy(centre, radius, below, linear, responses))


def _is_linear(centre: Policy, radius: Array | float) -> bool:
    """Whether levels may be kept as they are, not as logarithms: doubles far from underflow.

    A level is at least one over the number of responses, which fit into memory.
    """
    least = LEAST_EXPONENT[np.float64] / 2
    return all(
        log_p.dtype == np.float64
        and columns(log_p) is not None
        and is_small_ball(log_p, radius)
        and bool(log_p.min() - np.max(radius) > least)
        for log_p in centre.log_probs
    )


def _least_levels(centre: Policy, radius: Array | float, linear: bool) -> list[Array]:
    """Least possible largest path probability below each state, ``M(s)``: layers ``0 … H``.

    It is a logarithm unless `linear`.
    """
    V = centre.dynamics.vocab_size
    n_leaves = centre.dynamics.layer_sizes[-1] * V
    levels = [np.full(n_leaves, float(linear))]
    for log_p in reversed(centre.log_probs):
        if linear:
            m = np.broadcast_to(_by_parent(levels[-1], V), log_p.shape)
            table, children = columns(log_p, m)  # type: ignore[misc]
            level = _level_backup(table, children, column_scalars(radius, log_p))
            levels.append(level.reshape(log_p.shape[:-1]))
        else:
            levels.append(_water_level(log_p, radius, _by_parent(levels[-1], V), 1.0))
    return levels[::-1]


def _level_backup(log_p: np.ndarray, m: np.ndarray, eps: Any) -> np.ndarray:
    """`_water_level` of rows of sum one, all linear: columns ``(V, N)`` to ``(N,)``.

    No row is sorted: of few tokens, all sets `S` are tried.
    """
    level = np.empty(log_p.shape[1])
    rows = _Rows(*log_p.shape)
    for block in blocks(2 ** len(log_p), log_p.shape[1]):
        out = level[block]
        rows.load(log_p[:, block], m[:, block], part(eps, block))
        roots = np.subtract(1.0, rows.caps, out=rows.caps)
        np.multiply(roots, rows.shares[::-1], out=roots)
        np.maximum.reduce(roots, axis=0, out=out)
        np.maximum(max_tokens(rows.held, rows.raised[0]), out, out=out)
    return level


class _Rows:
    """Rows of a block, linear: probabilities, floors, and sums over every set of tokens.

    Attributes:
        p: ``(V, k)``, and `raised`, ``e^ε p``.
        held: ``e^{−ε} p M``, which no level is below.
        caps: ``Σ_S min(e^ε p, 1)`` for each set `S`, ``(2^V, k)``: bit `a` of a set is token `a`.
        shares: ``1/Σ_S 1/M``, likewise; 0 for the empty set.
        scratch: ``(V, k)``, and `roots`, ``(2^{V−1}, k)``.
    """

    def __init__(self, V: int, n: int) -> None:
        """Take the memory of the largest block of `n` rows, for all of them."""
        size = min(n, states_per_block(2**V))
        self._tables = np.empty((4, V, size))
        self._sets = np.empty((5, 2 ** (V - 1), size))

    def load(self, log_p: np.ndarray, m: np.ndarray, eps: Any) -> None:
        """Compute a block from ``log p`` and `M` of the successors."""
        V, k = log_p.shape
        self.p, self.raised, self.held, self.scratch = self._tables[:, :, :k]
        self.roots = self._sets[4, :, :k]
        # two tables of all sets in the memory of four of half of them
        self.caps, self.shares = self._sets[:4].reshape(2, 2**V, -1)[:, :, :k]
        np.exp(log_p, out=self.p)
        np.multiply(self.p, np.exp(eps), out=self.raised)
        np.multiply(np.multiply(self.p, m, out=self.held), np.exp(-eps), out=self.held)
        _subset_sums(np.minimum(self.raised, 1.0, out=self.scratch), self.caps)
        _subset_sums(np.divide(1.0, m, out=self.scratch), self.shares)
        self.shares[0] = np.inf
        np.divide(1.0, self.shares, out=self.shares)


def _subset_sums(x: np.ndarray, sums: np.ndarray) -> None:
    sums[0] = 0.0
    for a, row in enumerate(x):
        np.add(sums[: 2**a], row, out=sums[2**a : 2 ** (a + 1)])


def _sweep_columns(
    tree: TokenMDP, centre: Policy, radius: Array | float, below: list[Array]
) -> Array:
    """`_sweep_to_leaves`, with linear levels, in blocks that fit the cache."""
    V = tree.vocab_size
    log_up = total = np.zeros((*centre.batch_shape, tree.dynamics.n_prompts))
    met = np.full(log_up.shape, -np.inf)
    for h, log_p in enumerate(centre.log_probs):
        m = np.broadcast_to(_by_parent(below[h + 1], V), log_p.shape)
        reward = np.broadcast_to(tree.rewards[h], log_p.shape)
        table, children, gains = columns(log_p, m, reward)  # type: ignore[misc]
        states = [x.reshape(-1) for x in (log_up, met, total)]
        last = h + 1 == tree.horizon
        following = [np.empty((*log_p.shape[:-1], V)) for _ in range(1 if last else 3)]
        eps = column_scalars(radius, log_p)
        written = [written_columns(x) for x in following]
        _level_step(table, children, gains, eps, states, written)
        following = [x.reshape((*x.shape[:-2], -1)) for x in following]
        if not last:
            log_up, met, total = following
    return following[0]


def _level_step(
    log_p: np.ndarray,
    m: np.ndarray,
    reward: np.ndarray,
    eps: Any,
    states: list[np.ndarray],
    following: list[np.ndarray],
) -> None:
    """Write ``U``, ``max_k [U_k + log t]`` and the return of each successor, ``(V, N)`` each.

    Of responses, in the last layer, the return alone: `INFEASIBLE` more for each unit by which no
    policy of the ball makes it the most probable one.
    """
    V, n = log_p.shape
    share = -np.expm1(-eps)
    rows = _Rows(V, n)
    for block in blocks(2**V, n):
        log_up, met, total = (x[block] for x in states)
        k = len(log_up)
        e = part(eps, block)
        rows.load(log_p[:, block], m[:, block], e)
        rest = _without_each(np.add, rows.p, 0.0, out=rows.scratch)
        cap = np.add(rows.p, part(share, block) * rest, out=rows.p)
        np.minimum(rows.raised, cap, out=cap)
        left = np.subtract(1.0, rows.raised, out=rows.raised)
        np.maximum(left, np.multiply(np.exp(-e), rest, out=rest), out=left)
        level = _without_each(np.maximum, rows.held, 0.0, out=rows.scratch)
        for a in range(V):  # the sets of siblings: those that `a` is not in, and their complements
            sets = (-1, 2, 2**a, k)
            roots = rows.roots.reshape(-1, 2**a, k)
            np.subtract(left[a], rows.caps.reshape(sets)[:, 0], out=roots)
            np.multiply(roots, rows.shares.reshape(sets)[::-1, 0, ::-1], out=roots)
            np.maximum(level[a], rows.roots.max(axis=0), out=level[a])
        with np.errstate(divide="ignore"):  # an only token has no siblings, and their level is 0
            np.log(level, out=level)
        np.add(level, log_up, out=level)
        np.maximum(level, met, out=level)
        up = np.add(np.minimum(np.log(cap, out=cap), 0.0, out=cap), log_up, out=cap)
        if len(following) > 1:
            np.copyto(following[0][:, block], up)
            np.copyto(following[1][:, block], level)
            np.add(reward[:, block], total, out=following[2][:, block])
        else:
            excess = np.subtract(level, up, out=level)
            slack = np.multiply(np.abs(up, out=up), MAP_TOLERANCE, out=up)
            np.subtract(excess, np.add(slack, MAP_TOLERANCE, out=slack), out=excess)
            np.multiply(np.maximum(excess, 0.0, out=excess), INFEASIBLE, out=excess)
            np.add(excess, total, out=excess)
            np.add(reward[:, block], excess, out=following[0][:, block])


def _without_each(combine: Any, x: np.ndarray, neutral: float, out: np.ndarray) -> np.ndarray:
    """Combine all rows but one, for each row: ``(V, k)``; nothing cancels."""
    found = out
    found[0] = neutral
    for a in range(1, len(x)):
        combine(found[a - 1], x[a - 1], out=found[a])
    after = np.full(x.shape[1], neutral)
    for a in reversed(range(len(x) - 1)):
        combine(after, x[a + 1], out=after)
        combine(found[a], after, out=found[a])
    return found


def _rows_backup(
    log_p: np.ndarray, m: np.ndarray, level: np.ndarray, eps: Any, rows: np.ndarray
) -> None:
    """Write `_rows_at_level` of rows of sum one, all linear but the rows, in blocks."""
    scratch = scratch_like(log_p)
    more = scratch_like(log_p)
    for block in blocks(*log_p.shape):
        e = part(eps, block)
        own = level[block]
        k = len(own)
        floor = np.exp(log_p[:, block], out=scratch[:, :k])
        ceiling = np.multiply(floor, np.exp(e), out=rows[:, block])
        np.minimum(ceiling, 1.0, out=ceiling)
        np.minimum(ceiling, np.divide(own, m[:, block], out=more[:, :k]), out=ceiling)
        np.multiply(floor, np.exp(-e), out=floor)
        np.maximum(ceiling, floor, out=ceiling)
        room = np.subtract(ceiling, floor, out=ceiling)
        largest = sum_tokens(room, np.empty(k))
        missing = 1.0 - sum_tokens(floor, np.empty(k))
        way = np.clip(missing, 0.0, largest) / np.maximum(largest, LEAST_ROOM)
        np.add(floor, np.multiply(room, way, out=room), out=room)
        np.log(room, out=room)


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
) -> Array:
    """Return of every response that can be a MAP response, else infinity: ``(*batch, P·V^H)``."""
    log_up = total = np.zeros(tree.dynamics.n_prompts)
    met = np.full(tree.dynamics.n_prompts, -np.inf)
    for h, log_p in enumerate(centre.log_probs):
        log_cap, left = log_caps_and_rest(log_p, radius)
        siblings = _sibling_levels(log_p, radius, _by_parent(below[h + 1], tree.vocab_size), left)
        met = np.maximum(met[..., None], log_up[..., None] + siblings)
        log_up = log_up[..., None] + log_cap
        total = total[..., None] + tree.rewards[h]
        met, log_up, total = (x.reshape((*x.shape[:-2], -1)) for x in (met, log_up, total))
    with np.errstate(invalid="ignore"):
        feasible = met - log_up <= MAP_TOLERANCE * (1.0 + np.abs(log_up))
    return np.where(feasible & (log_up > -np.inf), total, np.inf)


def _map_policy(
    centre: Policy, radius: Array | float, below: list[Array], linear: bool, responses: Responses
) -> Policy:
    """Policy with the responses at their caps and their siblings held at the level.

    Elsewhere it has the rows that attain ``M(s)``.
    """
    batch = responses.tokens.shape[:-2]
    tables = []
    for h, states in enumerate(centre.dynamics.walk(responses.prompts, responses.tokens)):
        token = responses.tokens[..., h]
        at = np.broadcast_to(states, token.shape)[..., None]
        log_p, m = np.broadcast_arrays(
            centre.log_probs[h], _by_parent(below[h + 1], centre.dynamics.vocab_size)
        )
        if linear:
            rows = empty_table(log_p)
            table, children = columns(log_p, m)  # type: ignore[misc]
            level = below[h].reshape(-1)
            _rows_backup(
                table, children, level, column_scalars(radius, log_p), written_columns(rows)
            )
        else:
            rows = _rows_at_level(log_p, radius, m, below[h], 1.0)
        if batch:
            log_p, m, rows = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (log_p, m, rows))
        own_p, own_m = (np.take_along_axis(x, at, axis=-2) for x in (log_p, m))
        own_m = np.log(own_m) if linear else own_m
        others = without_token(own_p, token)
        log_cap, left = log_caps_and_rest(own_p, radius)
        left = np.take_along_axis(left, token[..., None], axis=-1)[..., 0]
        held = _rows_at_level(
            others, radius, own_m, _water_level(others, radius, own_m, left), left
        )
        rows = rows if rows.flags.writeable else rows.copy()
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
