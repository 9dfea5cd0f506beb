"""Responses: all of them, sampled ones, the most probable one, and sums along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from theory.arrays.kernels import columns, mask_columns, max_backup
from theory.arrays.namespace import (
    Array,
    array_namespace,
    expand,
    forbid,
    like,
    pick,
    require_positive,
    token_major,
)
from theory.arrays.tensors import numpy_can_read, through_numpy
from theory.mdp.dynamics import Dynamics, require_tree_memory
from theory.mdp.policy import Policy, Responses, Seed

__all__ = [
    "Responses",
    "all_responses",
    "best_continuations",
    "best_response",
    "best_sums",
    "check_responses",
    "greedy_path",
    "greedy_response",
    "log_prob",
    "map_response",
    "response_sum",
    "sample_log_ratio_ball",
]


def check_responses(
    name: str, responses: Responses, dynamics: Dynamics, *, batch: bool = False
) -> Responses:
    """Return responses as integer arrays, or raise ValueError.

    Args:
        name: of the argument, for the message.
        responses: ``prompts (N,)`` and ``tokens (N, H)``.
        dynamics: the dynamics to which they must belong.
        batch: whether `tokens` may have batch axes, ``(*batch, N, H)``.

    Raises:
        ValueError: no response, a wrong shape, a token or prompt that does not exist, or a
            forbidden token. Names the argument, the index and the value.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> check_responses("chosen", Responses(np.array([0]), np.array([[2]])), dynamics)
        Traceback (most recent call last):
        ValueError: chosen.tokens[0, 0] is 2: must be from 0 to 1
    """
    H = dynamics.horizon
    try:
        prompts, tokens = (np.asarray(part) for part in responses)
    except ValueError:
        raise ValueError(
            f"{name}.tokens holds responses of different lengths: each must have {H} tokens"
        ) from None
    if not tokens.size:
        raise ValueError(f"{name} is empty: give at least one response")
    own = tokens.shape[-2:] if batch else tokens.shape
    if prompts.ndim != 1 or own != (len(prompts), H):
        raise ValueError(
            f"{name} has shapes {prompts.shape} and {tokens.shape}: must be prompts (N,), tokens "
            f"(N, {H})"
        )
    sizes = {"prompts": dynamics.n_prompts, "tokens": dynamics.vocab_size}
    for part, array in (("prompts", prompts), ("tokens", tokens)):
        n = sizes[part]
        if array.dtype.kind not in "iu":
            raise ValueError(
                f"{name}.{part} has dtype {array.dtype}: must hold integers from 0 to {n - 1}"
            )
        for at in np.argwhere((array < 0) | (array >= n))[:1]:
            raise ValueError(
                f"{name}.{part}{at.tolist()} is {array[tuple(at)]}: must be from 0 to {n - 1}"
            )
    prompts = prompts.astype(np.int64)
    tokens = tokens.astype(np.int64)
    for h, states in enumerate(dynamics.walk(prompts, tokens)):
        mask = dynamics.allowed[h]
        chosen = tokens[..., h]
        for at in [] if mask is None else np.argwhere(~mask[states, chosen])[:1]:
            state = np.broadcast_to(states, chosen.shape)[tuple(at)]
            raise ValueError(
                f"{name}.tokens{[*at.tolist(), h]} is {chosen[tuple(at)]}, forbidden in state "
                f"{state} of layer {h}: leave the response out or allow the token"
            )
    return Responses(prompts, tokens)


def response_sum(dynamics: Dynamics, tables: Sequence[Array], responses: Responses) -> Array:
    """Sum of a per-token quantity along each response: ``(*batch, N)``.

    With a reward's tables this is the return ``r(τ) = Σ_h r(s_h, a_h)``.

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> response_sum(mdp.dynamics, mdp.rewards, all_responses(mdp.dynamics)).tolist()
        [0.5, 0.2, 2.0, 1.0]
    """
    states = dynamics.walk(responses.prompts, responses.tokens)
    terms = [
        pick(table, s, responses.tokens[..., h])
        for h, (table, s) in enumerate(zip(tables, states, strict=True))
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def log_prob(policy: Policy, responses: Responses) -> Array:
    """Return ``log π(τ|s₁)`` of each response: ``(*batch, N)``, nats.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> policy = Policy.from_probs(dynamics, [[[0.25, 0.75]]])
        >>> np.exp(log_prob(policy, all_responses(dynamics))).round(6).tolist()
        [0.25, 0.75]
    """
    return response_sum(policy.dynamics, policy.log_probs, responses)


def all_responses(dynamics: Dynamics) -> Responses:
    """Return every response to every prompt, ``N = P·V^H``, sorted by prompt, then by tokens.

    Raises:
        ValueError: they do not fit into memory.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.window([[[0, 0]], [[0, 0]] * 2], window=1).dynamics
        >>> all_responses(dynamics).tokens.tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    V = dynamics.vocab_size
    H = dynamics.horizon
    P = dynamics.n_prompts
    require_tree_memory(V, H, P, "listing every response", bytes_per_prefix=8 * H)
    index = np.arange(V**H)
    tokens = np.stack([index // V ** (H - 1 - h) % V for h in range(H)], axis=-1)
    return Responses(np.repeat(np.arange(P), V**H), np.tile(tokens, (P, 1)))


def greedy_response(policy: Policy) -> Responses:
    """Return for each prompt the response of the most probable token at every step (first of
    equals).

    Example:
        Greedy decoding need not find the most probable response (here 1, 0 with probability 0.4):

        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]], [[0, 0]] * 2]).dynamics
        >>> policy = Policy.from_probs(dynamics, [[[0.6, 0.4]], [[0.5, 0.5], [1.0, 0.0]]])
        >>> greedy_response(policy).tokens.tolist(), map_response(policy).tokens.tolist()
        ([[0, 0]], [[1, 0]])
    """
    return greedy_path(policy.dynamics, policy.log_probs)


def map_response(policy: Policy) -> Responses:
    """Return for each prompt the single most probable response: sequence-level MAP, not greedy
    decoding.

    ``m(s) = max_a [log π(a|s) + m(s⊕a)]``; of equals, the one with the first token is taken.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]], [[0, 0]] * 2]).dynamics
        >>> policy = Policy.from_probs(dynamics, [[[0.6, 0.4]], [[0.5, 0.5], [1.0, 0.0]]])
        >>> np.exp(log_prob(policy, map_response(policy))).round(6).tolist()
        [0.4]
    """
    if numpy_can_read(policy.log_probs):
        return through_numpy(map_response, policy)
    return best_response(policy.dynamics, policy.log_probs)


def best_continuations(dynamics: Dynamics, tables: Sequence[Array]) -> list[Array]:
    """Return ``x(s,a) + max_{τ'} x(τ'|s⊕a)`` for a per-token quantity: `H` tables ``(*batch, n_h,
    V)``.

    Forbidden tokens are ``-inf``. With a reward's tables these are the plain-optimal Q-values.

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> best_continuations(mdp.dynamics, mdp.rewards)[0].tolist()
        [[0.5, 2.0]]
    """
    following = [*best_sums(dynamics, tables)[1:], None]
    return [
        forbid(table + dynamics.children(h, following[h]), dynamics.allowed[h])
        for h, table in enumerate(tables)
    ]


def best_sums(dynamics: Dynamics, tables: Sequence[Array]) -> list[Array]:
    """Return the greatest sum of a per-token quantity from each state on: `H` arrays ``(*batch,
    n_h)``.

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> [sums.tolist() for sums in best_sums(mdp.dynamics, mdp.rewards)]
        [[2.0], [0.5, 1.0]]
    """
    sums: list[Array] = []
    following: Array | None = None
    for h in reversed(range(dynamics.horizon)):
        table = tables[h]
        children = dynamics.children(h, following)
        layer = columns(table, children)
        if layer is not None:
            mask = mask_columns(dynamics.allowed[h], table)
            following = max_backup(*layer, allowed=mask).reshape(table.shape[:-1])
        else:
            total = forbid(table + children, dynamics.allowed[h])
            following = array_namespace(total).max(total, axis=-1)
        sums.append(following)
    return sums[::-1]


def best_response(dynamics: Dynamics, tables: Sequence[Array]) -> Responses:
    """Return for each prompt the response with the greatest sum of a per-token quantity (first of
    equals).

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.3, 0.4]], [[1.0, 0.2], [0.1, 0.0]]])
        >>> best_response(mdp.dynamics, mdp.rewards).tokens.tolist()
        [[0, 0]]
    """
    return _best_path(dynamics, tables, best_sums(dynamics, tables))


def greedy_path(dynamics: Dynamics, tables: Sequence[Array]) -> Responses:
    """Return for each prompt the response of the largest entry of every row on its way (first of
    equals).

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> greedy_path(mdp.dynamics, mdp.rewards).tokens.tolist()
        [[1, 0]]
    """
    return _best_path(dynamics, tables, None)


def _best_path(
    dynamics: Dynamics, tables: Sequence[Array], sums: Sequence[Array] | None
) -> Responses:
    """`greedy_path` of the tables, to which what can still be had (`best_sums`) is added.

    Only rows on the way are looked at.
    """
    V = dynamics.vocab_size
    first = tables[0]
    xp = array_namespace(first)
    batch = first.shape[:-2]
    prompts = like(np.arange(dynamics.n_prompts), first)
    every = like(np.arange(V), first)
    states = xp.broadcast_to(prompts, (*batch, dynamics.n_prompts))
    tokens: list[Array] = []
    for h, table in enumerate(tables):
        at = states[..., None] + 0 * every
        flat = xp.reshape(at, (*batch, -1))
        row = xp.reshape(pick(table, flat, xp.reshape(0 * at + every, flat.shape)), at.shape)
        if sums is not None:
            if h + 1 < dynamics.horizon:
                following = xp.reshape(dynamics.rule.step(h, at, 0 * at + every, V), flat.shape)
                more = pick(sums[h + 1][..., None], following, xp.zeros_like(following))
                row = row + xp.reshape(more, at.shape)
            mask = dynamics.allowed[h]
            if mask is not None:
                row = xp.where(like(mask, table)[states], row, float("-inf"))
        tokens.append(xp.argmax(row, axis=-1))
        if h + 1 < dynamics.horizon:
            states = dynamics.rule.step(h, states, tokens[-1], V)
    return Responses(prompts, xp.stack(tokens, axis=-1))


def sample_log_ratio_ball(
    policy: Policy, epsilon: Any, seed: Seed = None, spread: float = 4.0
) -> Policy:
    """Sample a policy with ``max_log_ratio`` at most `epsilon`, often on the ball's boundary.

    Each row is ``π(a|s)·exp(clip(u_a + c, −ε, ε))`` with ``u`` uniform in ``±spread·ε`` and `c`
    such that it sums to one. NumPy policies only.

    Args:
        policy: the centre.
        epsilon: radius in nats, scalar or ``batch``.
        seed: a seed or a `numpy.random.Generator`.
        spread: how far the proposals overshoot the ball; the larger, the more entries lie on the
            boundary.

    Example:
        >>> from theory import TokenMDP
        >>> from theory.mdp.distances import max_log_ratio
        >>> expert = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[0.25, 0.75]]])
        >>> near = sample_log_ratio_ball(expert, 0.1, seed=0)
        >>> bool(max_log_ratio(near, expert) <= 0.1 + 1e-12)  # up to rounding
        True
    """
    rng = np.random.default_rng(seed)
    radius = expand(require_positive("epsilon", epsilon), 2)
    tables = []
    for table in policy.log_probs:
        u = rng.uniform(-spread, spread, table.shape) * radius
        low = np.broadcast_to(-(spread + 1) * radius, (*table.shape[:-1], 1))
        high = -low
        for _ in range(60):  # bisection on c: the sum grows from at most e^-ε to at least e^ε
            middle = (low + high) / 2
            total = np.exp(table + np.clip(u + middle, -radius, radius)).sum(axis=-1, keepdims=True)
            low = np.where(total < 1, middle, low)
            high = np.where(total < 1, high, middle)
        table = table + np.clip(u + (low + high) / 2, -radius, radius)
        tables.append(token_major(table - np.log(np.exp(table).sum(axis=-1, keepdims=True))))
    return Policy(policy.dynamics, tuple(tables))
