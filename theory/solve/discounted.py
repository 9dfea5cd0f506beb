"""Infinite responses with a discount, on states that recur: ``1/(1−γ)`` in the place of `H`.

Soft values discount rewards and entropies alike,

    V*(s) = max_π E Σ_h γ^{h−1} [r(s_h,a_h) + α H(π(·|s_h))],
    Q*(s,a) = r(s,a) + γV*(s'),        π_E = softmax(Q*/α),

and only then is `π_E` stationary and does ``α log π_E(a|s) = r(s,a) + γV*(s') − V*(s)`` telescope
under the weights ``γ^{h−1}``. This is *not* a finite horizon with rewards ``γ^{h−1} r``: there
entropy is not discounted, step `h` has in effect the temperature ``α/γ^{h−1}``, and late tokens
become uniform. Plain values do agree. (With `γ` the probability that a response goes on after each
token, rewards and entropies count while it lasts.)

The telescoped sum needs no rule for the end: ``γ^h V̂(s_{h+1})`` vanishes. It needs the same `γ` in
the sum and in the endogenous reward ``r̂(s,a) = α log π̂(a|s) + V̂(s) − γV̂(s')``; then RL on `r̂`
does not depend on the gauge `V̂`.

Every `error` is certified, see `theory.solve.fixed_point`. Policies are stationary: tables of
log-probabilities ``(n, V)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.arrays.namespace import Array, require_positive_number, soft_maximum
from theory.mdp.discounted import DiscountedMDP, require_stationary
from theory.solve.ball import extreme_tilt
from theory.solve.fixed_point import EPS, certified_fixed_point
from theory.solve.soft import greedy_rows, log_softmax

__all__ = [
    "CertifiedSolution",
    "endogenous_reward",
    "entropy_values",
    "expected_sums",
    "kl_values",
    "plain_values",
    "regularised_values",
    "soft_value_iteration",
    "value_iteration",
    "worst_clone",
]


class CertifiedSolution(NamedTuple):
    """A stationary policy and values, with a certificate.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> value_iteration(mdp).error < 1e-12
        True
    """

    policy: np.ndarray
    """``(n, V)``, log-probabilities."""
    values: np.ndarray
    """``(n,)``: of the policy, and optimal where a solver says so."""
    error: float
    """Largest distance of a value from the exact one: the optimal one, and that of `policy`."""


def soft_value_iteration(
    mdp: DiscountedMDP, alpha: float, tolerance: float = 1e-10
) -> CertifiedSolution:
    """Return the soft-optimal policy ``π_E = softmax(Q*/α)`` and the soft values ``V*``.

    ``V*`` is the fixed point of ``TV(s) = α log Σ_a exp((r(s,a) + γV(s'))/α)``. A Newton step is
    soft policy iteration.

    Args:
        mdp: the MDP.
        alpha: temperature in reward units, a number.
        tolerance: largest error that is accepted, as a share of the largest value that rewards and
            entropies allow.

    Raises:
        ValueError: `alpha` is not a positive number; or doubles cannot certify `tolerance`, and
            what they can.

    Example:
        One state: ``V* = log(1 + e)/(1 − γ)``.

        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> soft_value_iteration(mdp, alpha=1.0).values.round(4).tolist()
        [13.1326]
    """
    alpha = require_positive_number("alpha", alpha)

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        return soft_maximum(q, alpha), np.exp(log_softmax(q, alpha))

    values, error = certified_fixed_point(mdp, backup, 4 * EPS, alpha, tolerance)
    return CertifiedSolution(log_softmax(mdp.q_values(values), alpha), values, error)


def value_iteration(mdp: DiscountedMDP, tolerance: float = 1e-10) -> CertifiedSolution:
    """Return a deterministic policy of greatest plain value, and the values ``max_π V^π(s)``.

    Of equally good tokens the first is chosen. `tolerance` as in `soft_value_iteration`.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> value_iteration(mdp).values.round(9).tolist()
        [10.0]
    """

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        return q.max(axis=1), np.exp(greedy_rows(q))

    values, error = certified_fixed_point(mdp, backup, 4 * EPS, tolerance=tolerance)
    return CertifiedSolution(greedy_rows(mdp.q_values(values)), values, error)


def worst_clone(
    mdp: DiscountedMDP, expert: Array, epsilon: float, tolerance: float = 1e-8
) -> CertifiedSolution:
    """Return the policy within `epsilon` of `expert` with the least plain value from every state:
    exact.

    The ball ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` is rectangular over states, so the least value is
    the fixed point of ``TV(s) = min_p̂ Σ_a p̂(a) [r(s,a) + γV(s')]``, a fractional knapsack in each
    state. No policy of the ball that reads the whole past does more harm: whatever it does later, a
    row at `s` is worth at least ``TV(s)`` when what follows is worth at least `V`; and the
    stationary policy that plays the minimising rows attains `V`.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball, ``(n, V)``, log-probabilities.
        epsilon: radius in nats, a number; infinite for all policies that choose no token that
            `expert` never chooses.
        tolerance: see `soft_value_iteration`.

    Raises:
        ValueError: an argument is not what it should be; or doubles cannot certify `tolerance`.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> worst_clone(mdp, np.log([[0.5, 0.5]]), epsilon=np.log(2)).values.round(9).tolist()
        [2.5]
    """
    log_p, defect = require_stationary("expert", expert, mdp)
    endless = np.ndim(epsilon) == 0 and epsilon == math.inf
    radius = math.inf if endless else require_positive_number("epsilon", epsilon)

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        rows, _ = extreme_tilt(log_p, q, radius)
        return (rows * q).sum(axis=1), rows

    # A row is e^{−ε}p + (1 − e^{−ε})g, g(a) = min(s(a), 1 − Σ_before s), s = (1 + e^ε)p: both
    # weights, and all that g takes, are at most one. The error of the shares before the token that
    # g cuts is that token's error too; so the defect, a share of every p and s, changes a row by at
    # most 2·defect. Rounding, in EPS: exp(x) is off by a share of |x|/2 + 1, where |x|e^x < 0.4,
    # and x by ε/2 more, up to ε = 37; 1 − Σ_before s by V, and twice as much in all tokens; the sum
    # of p̂q by V/2 + 3, the defect itself by V. In all at most:
    noise = (6 * mdp.vocab_size + 12 + min(radius, 40.0)) * EPS + 2 * defect
    values, error = certified_fixed_point(mdp, backup, noise, tolerance=tolerance)
    return CertifiedSolution(extreme_tilt(log_p, mdp.q_values(values), radius)[1], values, error)


def expected_sums(mdp: DiscountedMDP, policy: Array, table: Array) -> CertifiedSolution:
    """Return the discounted sums ``E_π Σ_h γ^{h−1} x(s_h, a_h)`` of a per-token quantity `table`.

    They solve the linear system ``W(s) = Σ_a π(a|s) [x(s,a) + γW(s')]``. A token of probability
    zero contributes nothing, whatever its `x`.

    Raises:
        ValueError: `policy` is not a policy, or `table` is infinite where it has probability.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> sums = expected_sums(mdp, np.log([[0.5, 0.5]]), np.array([[1.0, 3.0]]))
        >>> sums.values.round(9).tolist()
        [20.0]
    """
    log_p, defect = require_stationary("policy", policy, mdp)
    p = np.exp(log_p)
    counted = mdp.with_rewards(np.where(p > 0, table, 0.0))
    if not np.isfinite(counted.rewards).all():
        state = int(np.argmin(np.isfinite(counted.rewards).all(axis=1)))
        raise ValueError(
            f"table is not finite where the policy has probability, in state {state}: so is no sum "
            "of it"
        )

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (p * counted.q_values(values)).sum(axis=1), p

    return CertifiedSolution(
        log_p, *certified_fixed_point(counted, backup, (mdp.vocab_size + 8) * EPS + defect)
    )


def plain_values(mdp: DiscountedMDP, policy: Array) -> CertifiedSolution:
    """Return the plain values ``V^π(s) = E_π Σ_h γ^{h−1} r(s_h, a_h)`` of a stationary policy.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> plain_values(mdp, np.log([[0.5, 0.5]])).values.round(9).tolist()
        [5.0]
    """
    return expected_sums(mdp, policy, mdp.rewards)


def entropy_values(mdp: DiscountedMDP, policy: Array) -> CertifiedSolution:
    """Return the discounted entropy ``Σ_h γ^{h−1} E_π H(π(·|s_h))``, nats.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> entropy_values(mdp, np.log([[0.5, 0.5]])).values.round(4).tolist()  # 10 log 2
        [6.9315]
    """
    return expected_sums(mdp, policy, -np.asarray(policy))


def regularised_values(mdp: DiscountedMDP, policy: Array, alpha: float) -> CertifiedSolution:
    """Return the regularised values: plain values plus `alpha` times the discounted entropy.

    Example:
        The soft-optimal policy attains the soft values:

        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> optimal = soft_value_iteration(mdp, alpha=1.0)
        >>> regularised_values(mdp, optimal.policy, 1.0).values.round(4).tolist()
        [13.1326]
    """
    return expected_sums(
        mdp, policy, mdp.rewards - require_positive_number("alpha", alpha) * np.asarray(policy)
    )


def kl_values(mdp: DiscountedMDP, policy: Array, other: Array) -> CertifiedSolution:
    """Return the discounted KL ``Σ_h γ^{h−1} E_π KL(π(·|s_h)‖π'(·|s_h))``, nats.

    Raises:
        ValueError: it is infinite, because `other` never chooses a token that `policy` chooses.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 1.0]], [[0, 0]], discount=0.9)
        >>> p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
        >>> kl_values(mdp, p, q).values.round(4).tolist()  # 10 · ½ log 4/3
        [1.4384]
    """
    log_q, _ = require_stationary("other", other, mdp)
    with np.errstate(invalid="ignore"):  # −∞ − (−∞), where neither chooses the token
        return expected_sums(mdp, policy, np.asarray(policy) - log_q)


def endogenous_reward(
    mdp: DiscountedMDP, policy: Array, alpha: float, values: Array | None = None
) -> DiscountedMDP:
    """Return the endogenous reward ``r̂(s,a) = α log π̂(a|s) + V̂(s) − γV̂(s')`` of a policy.

    RL on it plays ``value_iteration(endogenous_reward(…)).policy``, the response of greatest
    ``Σ_h γ^{h−1} log π̂(a_h|s_h)``, whose first tokens weigh most. RL with entropy at `alpha` plays
    `policy` itself.

    Args:
        mdp: states and discount; its reward is not read.
        policy: `π̂`, ``(n, V)``, log-probabilities.
        alpha: temperature in reward units, a number.
        values: the gauge `V̂`, ``(n,)``: ``α log Σ_a exp(logits)`` for the policy's own logits,
            zero by default.

    Raises:
        ValueError: an argument is not what it should be, or `policy` gives a token probability
            zero.

    Example:
        >>> mdp = DiscountedMDP.table([[0.5, 1.0]], [[0, 0]], discount=0.9)
        >>> optimal = soft_value_iteration(mdp, alpha=1.0)
        >>> endogenous_reward(mdp, optimal.policy, 1.0, optimal.values).rewards.round(9).tolist()
        [[0.5, 1.0]]
    """
    log_p, _ = require_stationary("policy", policy, mdp)
    if not np.isfinite(log_p).all():
        raise ValueError(
            f"policy forbids token {tuple(map(int, np.argwhere(~np.isfinite(log_p))[0]))}: r̂ is "
            "-inf there"
        )
    rewards = require_positive_number("alpha", alpha) * log_p
    if values is not None:
        if np.shape(values) != rewards.shape[:1]:
            raise ValueError(
                f"values has shape {np.shape(values)}: must be ({len(rewards)},), one per state"
            )
        gauge = np.asarray(values, dtype=np.float64)
        if not np.isfinite(gauge).all():
            wrong = gauge[~np.isfinite(gauge)][0]
            raise ValueError(f"values holds {wrong}: the gauge must be finite")
        rewards = rewards + (gauge[:, None] - mdp.discount * gauge[mdp.next_states])
    return mdp.with_rewards(rewards)
