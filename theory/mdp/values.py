"""Values, occupancies and covariances of a policy: sweeps over the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from theory.arrays.kernels import by_blocks, columns, expected
from theory.arrays.namespace import (
    Array,
    array_namespace,
    exp,
    expand,
    is_enclosure,
    is_torch_array,
    like,
    require_positive,
)
from theory.arrays.tensors import needs_gradient, numpy_can_read, through_numpy
from theory.mdp.policy import NEVER, Policy, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP

__all__ = [
    "by_layer",
    "covariance",
    "expectation",
    "expected_sums",
    "occupancy",
    "plain_value",
    "plain_values",
    "regularised_value",
    "trajectory_entropy",
]


def expected_sums(policy: Policy, tables: Sequence[Array]) -> tuple[Array, ...]:
    """Return the expected sum of a per-token quantity from each state on: `H` arrays ``(*batch,
    n_h)``.

    ``W(s) = Σ_a π(a|s) [x(s,a) + W(s⊕a)]``. A token of probability zero contributes nothing,
    whatever its `x`. With a reward's tables this is `plain_values`.

    Args:
        policy: `π`.
        tables: `x`, `H` tables ``(*batch, n_h, V)``.

    Example:
        Number of tokens 1 in a response of two, each with probability 3/4:

        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.window([[[0.0, 1.0]], [[0.0, 1.0]] * 2], window=1)
        >>> policy = Policy.from_probs(mdp.dynamics, [[[0.25, 0.75]], [[0.25, 0.75]] * 2])
        >>> expected_sums(policy, mdp.rewards)[0].tolist()
        [1.5]
    """
    return _expected_sums(policy, tables)


def _expected_sums(policy: Policy, tables: Sequence[Array] | None) -> tuple[Array, ...]:
    """`expected_sums`, of ``−log π`` where `tables` is None."""
    if numpy_can_read(policy.log_probs, () if tables is None else tables):
        return through_numpy(_expected_sums, policy, tables)
    if is_torch_array(policy.log_probs[0]):
        tables = [-table for table in policy.log_probs] if tables is None else tables
        if needs_gradient(policy.log_probs, tables):
            from theory.arrays import torch_kernels

            return torch_kernels.expected_sums(expected_sums, policy, tables)
        return _expected_sums_of_tensors(policy, tables)
    sums: list[Array] = []
    following: Array | None = None
    by_kernel = all(
        columns(*layers) is not None
        for layers in zip(
            policy.log_probs, policy.log_probs if tables is None else tables, strict=True
        )
    )
    if not by_kernel:
        tables = [-table for table in policy.log_probs] if tables is None else tables
        tables = by_layer(_zero_unless_chosen, policy.log_probs, tables)
        probs = by_layer(exp, policy.log_probs)
    for h in reversed(range(policy.horizon)):
        log_p = policy.log_probs[h]
        children = policy.dynamics.children(h, following)
        if by_kernel:
            layer = columns(log_p, log_p if tables is None else tables[h], children)
            assert layer is not None
            p, x, below = layer
            following = by_blocks(
                expected, _expected_exactly, p, None if tables is None else x, below
            ).reshape(log_p.shape[:-1])
        else:
            assert tables is not None
            following = expectation(probs[h], log_p, tables[h] + children)
        sums.append(following)
    return tuple(reversed(sums))


def _expected_exactly(log_p: Array, x: Array | None, children: Array | None) -> Array:
    """``Σ_a p(a) [x(a) + W(s⊕a)]`` where tokens are never chosen or values are infinite."""
    x = _zero_unless_chosen(log_p, -log_p if x is None else x)
    return expectation(np.exp(log_p), log_p, x if children is None else x + children)


def _expected_sums_of_tensors(policy: Policy, tables: Sequence[Array]) -> tuple[Array, ...]:
    from theory.arrays import torch_kernels

    sums: list[Array] = []
    for h in reversed(range(policy.horizon)):
        children = policy.dynamics.children(h, sums[-1] if sums else None)
        sums.append(torch_kernels.expectation(policy.log_probs[h], tables[h], children))
    return tuple(reversed(sums))


def expectation(prob: Array, log_probs: Array, values: Array) -> Array:
    """Average over tokens, ``Σ_a π(a|s) x(s,a)``: ``(*batch, n, V)`` to ``(*batch, n)``.

    A token of probability zero does not count; an infinite `x` of any other does.

    Example:
        >>> p = np.array([[0.5, 0.5, 0.0]])
        >>> expectation(p, np.log([[0.5, 0.5, 1e-9]]), np.array([[1.0, 3.0, 7.0]])).tolist()
        [2.0]
    """
    xp = array_namespace(prob, values)
    if is_enclosure(values) and values.coarse:
        # Probabilities sum to one, so what all values share is taken out first: the errors of the
        # probabilities then multiply the remaining differences only.
        shared = xp.max(xp.where(xp.isfinite(values), values, NEVER), axis=-1).midpoint()
        shared = xp.where(xp.isfinite(shared), shared, 0.0)
        return shared + xp.sum(
            _expected_terms(prob, log_probs, values - shared[..., None]), axis=-1
        )
    return xp.sum(_expected_terms(prob, log_probs, values), axis=-1)


def by_layer(function: Callable[..., Array], *tables: Sequence[Array]) -> list[Array]:
    """Apply a function that treats each state by itself to every layer: ``f(tables[0][h], …)``.

    Enclosures spend more on each operation than on its arithmetic, so those of many layers are
    joined to one table before and split after.

    Example:
        >>> layers = [np.ones((1, 2)), np.ones((2, 2))]
        >>> [table.tolist() for table in by_layer(np.add, layers, layers)]
        [[[2.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]]
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
    found = function(*joined)
    ends = np.cumsum(sizes)
    return [found[..., end - size : end, :] for end, size in zip(ends, sizes, strict=True)]


def _zero_unless_chosen(log_probs: Array, table: Array) -> Array:
    """Return `table` with zeros for tokens that are never chosen."""
    xp = array_namespace(log_probs, table)
    return xp.where(~(log_probs == NEVER), table, 0.0)


def _expected_terms(prob: Array, log_probs: Array, values: Array) -> Array:
    """Return ``p(a)·x(a)``: 0 for a token never chosen, infinite for any other infinite `x`."""
    xp = array_namespace(prob, values)
    # a GPU would have to be waited for
    if not is_torch_array(values) and bool(xp.all(xp.isfinite(values))):
        return prob * values
    chosen = ~(log_probs == NEVER)
    infinite = xp.abs(values) == float("inf")
    counted = xp.where(chosen & ~infinite, values, 0.0)
    return xp.where(chosen & infinite, values, prob * counted)


def plain_values(mdp: TokenMDP, policy: Policy) -> tuple[Array, ...]:
    """Return the plain value from each state on, ``V^π_r(s)``: `H` arrays ``(*batch, n_h)``, reward
    units.

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]])
        >>> uniform = Policy.from_logits(mdp.dynamics, [np.zeros((1, 2)), np.zeros((2, 2))])
        >>> [value.tolist() for value in plain_values(mdp, uniform)]
        [[1.25], [1.0, 0.5]]
    """
    require_same_dynamics(mdp.dynamics, policy.dynamics)
    return expected_sums(policy, mdp.rewards)


def plain_value(mdp: TokenMDP, policy: Policy) -> Array:
    """Return the plain value ``V^π_r = E_π[r(τ)]``, averaged over prompts: ``batch``, reward units.

    Example:
        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> print(plain_value(mdp, Policy.from_probs(mdp.dynamics, [[[0.25, 0.75]]])))
        0.75
    """
    return mdp.dynamics.average(plain_values(mdp, policy)[0])


def trajectory_entropy(policy: Policy) -> Array:
    """Return the entropy ``H(π(τ)) = −E_π[log π(τ|s₁)]`` of the response: ``batch``, nats, prompts
    averaged.

    Example:
        Two fair coins carry two bits:

        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.window([[[0, 0]], [[0, 0]] * 2], window=1).dynamics
        >>> uniform = Policy.from_logits(dynamics, [np.zeros((1, 2)), np.zeros((2, 2))])
        >>> round(float(trajectory_entropy(uniform) / np.log(2)), 6)
        2.0
    """
    return policy.dynamics.average(_expected_sums(policy, None)[0])


def regularised_value(mdp: TokenMDP, policy: Policy, alpha: Any) -> Array:
    """Return the regularised value ``V^π_{r,α} = E_π[r(τ)] + α·H(π(τ))``: ``batch``, reward units.

    Prompts are averaged. `alpha` is the temperature, scalar or ``batch``.

    Example:
        The soft-optimal policy attains the soft value, the maximum ``α log Σ_a exp(r/α)``:

        >>> from theory import TokenMDP, soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> policy, values = soft_optimal(mdp, alpha=1.0)
        >>> print(round(float(regularised_value(mdp, policy, 1.0)), 4), values[0].round(4))
        1.3133 [1.3133]
    """
    alpha = require_positive("alpha", alpha)
    if needs_gradient(mdp.rewards, policy.log_probs) and not needs_gradient(alpha):
        require_same_dynamics(mdp.dynamics, policy.dynamics)
        # one backward sweep, not one for each term
        tables = zip(mdp.rewards, policy.log_probs, strict=True)
        sums = expected_sums(policy, [r - expand(alpha, 2) * log_p for r, log_p in tables])
        return policy.dynamics.average(sums[0])
    return plain_value(mdp, policy) + alpha * trajectory_entropy(policy)


def covariance(policy: Policy, first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Return ``Cov_π(x(τ), y(τ))`` of the sums of two per-token quantities, per prompt: ``(*batch,
    P)``.

    With ``X`` the expected sum of `x` from a state on, ``x(s,a) + X(s⊕a) − X(s)`` are martingale
    differences, so the covariance is the expected sum of the products of those of `x` and `y`: one
    more sweep, no response enumerated, no difference of large numbers.

    Args:
        policy: `π`.
        first: `x`, `H` tables ``(*batch, n_h, V)``.
        second: `y`, likewise. A token that `π` never chooses does not count.

    Example:
        The variance of the number of heads of two fair coins is 2 · ¼:

        >>> from theory import TokenMDP
        >>> mdp = TokenMDP.window([[[0, 1]], [[0, 1]] * 2], window=1)
        >>> fair = Policy.from_logits(mdp.dynamics, [np.zeros((1, 2)), np.zeros((2, 2))])
        >>> covariance(fair, mdp.rewards, mdp.rewards).tolist()
        [0.5]
    """
    one = _advantages(policy, first)
    two = one if second is first else _advantages(policy, second)
    products = [a * b for a, b in zip(one, two, strict=True)]
    return expected_sums(policy, products)[0]


def _advantages(policy: Policy, tables: Sequence[Array]) -> list[Array]:
    """``x(s,a) + X(s⊕a) − X(s)`` by layer; meaningless where `policy` never chooses `a`."""
    sums = (*expected_sums(policy, tables), None)
    found = []
    for h, (table, log_probs) in enumerate(zip(tables, policy.log_probs, strict=True)):
        x = _zero_unless_chosen(log_probs, table)
        found.append(x + policy.dynamics.children(h, sums[h + 1]) - sums[h][..., None])
    return found


def occupancy(policy: Policy) -> tuple[Array, ...]:
    """Return the probability of being in each state: `H` arrays ``(*batch, n_h)``, each layer of
    sum one.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 1]], [[0, 1]] * 2]).dynamics
        >>> policy = Policy.from_probs(dynamics, [[[0.25, 0.75]], [[0.5, 0.5]] * 2])
        >>> [layer.tolist() for layer in occupancy(policy)]
        [[1.0], [0.25, 0.75]]
    """
    dynamics = policy.dynamics
    first = policy.log_probs[0]
    xp = array_namespace(first)
    mass = xp.zeros_like(first[..., 0]) + like(dynamics.prompt_weights, first)
    layers = [mass]
    for h in range(policy.horizon - 1):
        mass = dynamics.push(h, mass[..., None] * exp(policy.log_probs[h]))
        layers.append(mass)
    return tuple(layers)
