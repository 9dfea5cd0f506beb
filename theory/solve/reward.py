"""The endogenous reward: the reward that a policy's own logits contain.

A soft-optimal policy satisfies ``π(a|s) = exp((Q(s,a) − V(s))/α)``, ``Q(s,a) = r(s,a) + V(s⊕a)``.
Read backwards,

    r̂(s,a) = α log π̂(a|s) + V̂(s) − V̂(s⊕a),        so that along a response
    r̂(τ)   = α log π̂(τ|s₁) + V̂(s₁) − V̂(s_{H+1}).

Logits fix ``V̂(s)`` only up to a constant in every state, a *gauge* that softmax does not see and
``r̂(s,a)`` does: a single token's reward is not identified by the policy. The sum over a response
is, up to the prompt's own constant, and the difference between two responses to one prompt is
identified exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from theory.arrays.kernels import column_scalars, columns, empty_table, read_reward, written_columns
from theory.arrays.namespace import (
    Array,
    array_namespace,
    expand,
    is_enclosure,
    require_positive,
    token_major,
)
from theory.arrays.tensors import numpy_can_read, through_numpy
from theory.arrays.truth import Truth, Undecided
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, response_sum
from theory.mdp.token_mdp import TokenMDP

__all__ = [
    "bradley_terry",
    "endogenous_reward",
    "preference_tv",
    "returns",
    "shape_reward",
    "with_rewards",
]

Gauge = Literal["logits", "logprob"]
Terminal = Literal["zero", "bootstrap"]


def endogenous_reward(
    policy: Policy, alpha: Any, *, gauge: Gauge = "logits", terminal: Terminal = "zero"
) -> TokenMDP:
    """Return the token MDP whose reward is the policy's endogenous reward (EndoRM, eqs. 9–12).

    Temperature: ``Policy.from_logits(dynamics, f, temperature=α)`` with the same `alpha` here is
    the model sampled at temperature ``α``, ``V̂ = α log Σ exp(f/α)``; ``from_logits(dynamics, f)``
    with `alpha` here is the model sampled at temperature 1 with ``Q̂ = α·f``. The two are different
    rewards of different policies.

    Args:
        policy: the policy `π̂`.
        alpha: temperature in reward units, scalar or ``batch``.
        gauge: ``"logits"`` takes ``V̂(s) = α log Σ_a exp(logits)`` from the policy's own logits
            (the paper's choice); ``"logprob"`` takes ``V̂ ≡ 0``, so that ``r̂ = α log π̂``. Each
            gauge satisfies the soft Bellman equation of its own reward, so neither is "the" right
            one.
        terminal: value after the last token: ``"zero"``, which the telescoped sum needs, or
            ``"bootstrap"``, the policy's own normaliser there (needs the ``H + 1``-st entry of
            `Policy.log_normalizers`).

    Returns:
        A `TokenMDP` on the policy's dynamics. A token of probability zero is forbidden in it. Its
        `reward_range` is that of the rewards found.

    Raises:
        ValueError: the gauge or the terminal rule needs normalisers that the policy does not carry.

    Example:
        Logits that are soft Q-values give back the reward they were solved for:

        >>> mdp = TokenMDP.tree([[[0.5, 1.0]], [[0.5, 0.2], [1.0, 0.3]]])
        >>> from theory.solve.soft import soft_q_values
        >>> policy = Policy.from_logits(mdp.dynamics, soft_q_values(mdp, 0.5), temperature=0.5)
        >>> [table.round(9).tolist() for table in endogenous_reward(policy, 0.5).rewards]
        [[[0.5, 1.0]], [[0.5, 0.2], [1.0, 0.3]]]
    """
    if numpy_can_read(policy.log_probs, policy.log_normalizers, alpha):
        return through_numpy(endogenous_reward, policy, alpha, gauge=gauge, terminal=terminal)
    alpha = require_positive("alpha", alpha)
    values = _gauge_values(policy, alpha, gauge, terminal)
    dynamics = policy.dynamics
    rewards: list[Array] = []
    supports: list[Array | None] = []
    ranges: list[tuple[float, float] | None] = []
    for h, log_probs in enumerate(policy.log_probs):
        value = None if values is None else values[h]
        following = None if values is None or h + 1 == len(values) else values[h + 1]
        found = _read_layer(dynamics, h, log_probs, alpha, value, following)
        rewards.append(found.reward)
        supports.append(found.chosen)
        ranges.append(found.range)
    whole = _range([r for r, known in zip(rewards, ranges, strict=True) if known is None])
    lows, highs = zip(*(known for known in (*ranges, whole) if known is not None), strict=True)
    masks = _shared_supports(supports)
    return TokenMDP(replace(dynamics, allowed=masks), tuple(rewards), (min(lows), max(highs)))


class _Layer(NamedTuple):
    """Rewards of one layer, the tokens that are chosen (`None`: all), and their range if known."""

    reward: Array
    chosen: Array | None
    range: tuple[float, float] | None


def _read_layer(
    dynamics: Dynamics,
    h: int,
    log_probs: Array,
    alpha: Array | float,
    value: Array | None,
    following: Array | None,
) -> _Layer:
    """``α log π̂(a|s) + V̂(s) − V̂(s⊕a)``; 0 where the policy never chooses the token."""
    children = dynamics.children(h, following) if following is not None else 0.0
    tables = columns(log_probs, children)
    if tables is not None and (isinstance(alpha, float) or alpha.shape == log_probs.shape[:-2]):
        reward = empty_table(log_probs)
        flat = None if value is None else value.reshape(-1)
        low, high = read_reward(
            tables[0], column_scalars(alpha, log_probs), flat, tables[1], written_columns(reward)
        )
        if np.isfinite(low) and np.isfinite(high):
            return _Layer(reward, None, (low, high))
    xp = array_namespace(log_probs)
    chosen = ~(log_probs == float("-inf"))
    reward = expand(alpha, 2) * xp.where(chosen, log_probs, 0.0)
    if value is not None:
        reward = reward + value[..., None]
    if following is not None:
        reward = reward - children
    return _Layer(token_major(xp.where(chosen, reward, 0.0)), chosen, None)


def _gauge_values(
    policy: Policy, alpha: Array | float, gauge: Gauge, terminal: Terminal
) -> tuple[Array, ...] | None:
    if gauge not in ("logits", "logprob"):
        raise ValueError(f"gauge={gauge!r}: must be 'logits' or 'logprob'")
    if terminal not in ("zero", "bootstrap"):
        raise ValueError(f"terminal={terminal!r}: must be 'zero' or 'bootstrap'")
    if gauge == "logprob":
        return None  # V̂ ≡ 0 everywhere, after the last token too
    normalizers = policy.log_normalizers
    if normalizers is None:
        raise ValueError(
            "gauge='logits' needs a policy built from logits; use gauge='logprob' or "
            "Policy.from_logits"
        )
    H = policy.horizon
    if terminal == "bootstrap" and len(normalizers) != H + 1:
        raise ValueError(
            f"terminal='bootstrap' needs log_normalizers for {H + 1} layers, the policy has "
            f"{len(normalizers)}; "
            "use terminal='zero' or read the policy one token further"
        )
    return tuple(expand(alpha, 1) * z for z in normalizers[: H + (terminal == "bootstrap")])


def _shared_supports(supports: list[Array | None]) -> tuple[np.ndarray | None, ...]:
    """Return the policy's support as masks of the dynamics, which a batch must share."""
    asked = [chosen for chosen in supports if chosen is not None]
    for h, chosen in enumerate(supports):
        if isinstance(chosen, Truth):
            raise Undecided(f"layer {h}: it is not certain which tokens the policy chooses")
    if asked:  # asked where they are, and once: a GPU's memory is far from here
        xp = array_namespace(asked[0])
        if bool(xp.all(xp.stack([xp.all(chosen) for chosen in asked]))):
            asked = []
    if not asked:
        return (None,) * len(supports)
    return tuple(
        None if chosen is None else _shared_support(chosen, h) for h, chosen in enumerate(supports)
    )


def _shared_support(chosen: Array, h: int) -> np.ndarray | None:
    if bool(chosen.all()):
        return None
    mask = np.asarray(chosen.cpu() if hasattr(chosen, "cpu") else chosen)
    mask = mask.reshape(-1, *mask.shape[-2:])
    if not (mask == mask[0]).all():
        raise ValueError(
            f"layer {h}: the policies of a batch have different supports; take them one at a time"
        )
    shared: np.ndarray = mask[0]
    return shared


def returns(mdp: TokenMDP, responses: Responses) -> Array:
    """Return of each response, ``r(τ) = Σ_h r(s_h, a_h)``: ``(*batch, N)``, reward units.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> returns(mdp, Responses(np.array([0]), np.array([[1, 0]]))).tolist()
        [2.0]
    """
    return response_sum(mdp.dynamics, mdp.rewards, responses)


def shape_reward(mdp: TokenMDP, potential: tuple[Array, ...]) -> TokenMDP:
    """Shape a reward by a potential: ``r(s,a) + Φ(s⊕a) − Φ(s)``, ``Φ = 0`` at the end (Ng et al.
    1999).

    Args:
        mdp: the token MDP.
        potential: `H` arrays ``(*batch, n_h)``, reward units.

    Returns:
        The shaped MDP: the same optimal policies, plain and soft; returns lower by ``Φ(s₁)``.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> shaped = shape_reward(mdp, (np.zeros(1), np.array([0.25, 0.5])))
        >>> [table.round(9).tolist() for table in shaped.rewards]
        [[[0.25, 1.5]], [[0.25, -0.05], [0.5, -0.5]]]
    """
    rewards = []
    for h, reward in enumerate(mdp.rewards):
        following = mdp.dynamics.children(h, potential[h + 1] if h + 1 < mdp.horizon else None)
        rewards.append(token_major(reward + following - potential[h][..., None]))
    return with_rewards(mdp.dynamics, tuple(rewards))


def with_rewards(dynamics: Dynamics, rewards: tuple[Array, ...]) -> TokenMDP:
    """Return a `TokenMDP` on `dynamics` whose `reward_range` is that of the rewards.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> with_rewards(mdp.dynamics, (np.array([[-3.0, 2.0]]),)).reward_range
        (-3.0, 2.0)
    """
    found = _range(rewards)
    assert found is not None
    return TokenMDP(dynamics, rewards, found)


def _range(rewards: Sequence[Array]) -> tuple[float, float] | None:
    """Least and greatest entry; of enclosures, ends that no entry lies beyond. None of nothing."""
    plain = [r.detach() if hasattr(r, "detach") else r for r in rewards]
    if not plain:
        return None
    if is_enclosure(plain[0]):
        return float(min(r.lower().min() for r in plain)), float(
            max(r.upper().max() for r in plain)
        )
    xp = array_namespace(*plain)  # read once: a GPU's memory is far from here
    low = float(xp.min(xp.stack([xp.min(r) for r in plain])))
    return low, float(xp.max(xp.stack([xp.max(r) for r in plain])))


def bradley_terry(delta: Array) -> Array:
    """Return the probability ``σ(r(τ) − r(τ'))`` that the first response is preferred (eq. 3),
    elementwise.

    Example:
        >>> bradley_terry(np.array([0.0, 1.0, -1000.0])).round(4).tolist()
        [0.5, 0.7311, 0.0]
    """
    xp = array_namespace(delta)
    tail = xp.exp(-xp.abs(delta))
    return xp.where(delta >= 0, 1.0, tail) / (1.0 + tail)


def preference_tv(delta: Array, other: Array) -> Array:
    """Return the total variation ``|σ(Δ) − σ(Δ')|`` between two Bradley–Terry preferences,
    elementwise.

    Computed as ``sinh(|Δ−Δ'|/2) / (2 cosh(Δ/2) cosh(Δ'/2))`` in log-space, so that neither a small
    difference nor a large return loses its digits.

    Example:
        >>> preference_tv(np.array([40.0]), np.array([41.0])).tolist()  # 1 − σ(40) = 4.2e-18
        [2.6854...e-18]
    """
    xp = array_namespace(delta, other)
    gap = xp.abs(delta - other)
    # 2 sinh(x/2) = exp(x/2)(1 − exp(−x)) and 2 cosh(x/2) = exp(|x|/2)(1 + exp(−|x|)): the exponents
    # are summed first.
    exponent = (gap - xp.abs(delta) - xp.abs(other)) / 2
    spread = (1.0 + xp.exp(-xp.abs(delta))) * (1.0 + xp.exp(-xp.abs(other)))
    return -xp.expm1(-gap) * xp.exp(exponent) / spread
