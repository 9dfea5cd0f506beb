"""The list of statements: what the paper and ``docs/theory.md`` claim, each written once.

A statement is two functions of an *instance* and the conditions it needs. The Hypothesis tests,
``endorm verify``, the curves and the checks on language models all go through `STATEMENTS`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays.namespace import Array, array_namespace, as_array
from theory.claims import bounds
from theory.claims.instance import Instance, finite
from theory.claims.verdict import Statement
from theory.mdp.responses import log_prob
from theory.solve.improve import kl_optimal
from theory.solve.soft import power_policy

__all__ = ["STATEMENTS"]


def _comparable(instance: Instance) -> Array:
    """Pairs that can be compared, and whose sharp bound is not one to nine digits."""
    nats = (
        instance.over_pairs(instance.temperature)
        * instance.diverging_steps
        * instance.over_pairs(instance.epsilon)
    )
    return instance.pair_counts & (nats / 2 < ATANH_OF_ONE)


ATANH_OF_ONE = math.atanh(1 - 1e-9)
"""Nats from which on ``tanh`` is one to nine digits."""


def _tv_of_pairs(instance: Instance) -> Array:
    """``tanh(α|D(τ) − D(τ')|/4)``; zero for a pair that a policy forbids."""
    ratio, possible = instance.pair_log_ratio, instance.pair_possible
    xp = array_namespace(ratio)
    return bounds.preference_tv_of_pair(
        xp.where(possible, ratio, 0.0), instance.over_pairs(instance.temperature)
    )


def _is_finite(values: Any) -> Array:
    """Whether a divergence is finite: whether one policy writes all that the other does."""
    return ~(as_array(values) == float("inf"))


def _rl_gap(instance: Instance, comparator: Array) -> Array:
    """``V^π_{r*} − V^{π_RL}_{r*}``, less what `rl_response` is short of the maximum of `r̂`."""
    return comparator - instance.rl_value - instance.temperature * instance.rl_shortfall


def _rl_average(instance: Instance) -> Array:
    """``α KL(π_E‖π̂) − α E D(τ_RL)``, ``D = log π_E − log π̂``."""
    rl = instance.rl_response
    log_ratio = log_prob(instance.expert, rl) - log_prob(instance.policy, rl)
    return instance.temperature * (instance.kl_from_expert - instance.averaged(log_ratio))


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "soft-value",
        "eqs. 9–10",
        "V^{π_E}_{r*,α} = E V*(s₁)",
        lambda i: i.regularised(i.expert),
        lambda i: i.soft_value,
        equality=True,
    ),
    Statement(
        "telescoping",
        "eq. 12",
        "r*(τ) = α log π_E(τ|s₁) + V*(s₁)",
        lambda i: i.true_return,
        lambda i: i.telescoped,
        equality=True,
    ),
    Statement(
        "endogenous-telescoping",
        "eqs. 11–12",
        "r̂(τ) = α log π̂(τ|s₁) + V̂(s₁)",
        lambda i: i.endogenous_return,
        lambda i: i.endogenous_telescoped,
        equality=True,
    ),
    Statement(
        "soft-rl-fixed-point",
        "docs §1",
        "soft-optimal policy of r̂ at α is π̂",
        lambda i: i.resolved_log_prob,
        lambda i: finite(i.policy_log_prob, i.policy_log_prob),
        "nats",
        equality=True,
    ),
    Statement(
        "irl-saddle",
        "eq. 6",
        "E_π̂ r̂(τ) − E V_r̂(s₁) = −α H(π̂)",
        lambda i: i.irl_dual(i.policy),
        lambda i: -(i.temperature * i.entropy(i.policy)),
        equality=True,
    ),
    Statement(
        "irl-gap",
        "eq. 6",
        "−αH(π_E) − [E_{π_E} r̂(τ) − E V_r̂(s₁)] = α KL(π_E‖π̂)",
        lambda i: -(i.temperature * i.entropy(i.expert)) - i.irl_dual(i.expert),
        lambda i: i.temperature * i.kl_from_expert,
        assumes=lambda i: _is_finite(i.kl_from_expert),
        equality=True,
    ),
    Statement(
        "inverse-soft-q",
        "eqs. 7–8",
        "E_{π_E} Σ_h [Q̂ − V_Q̂] = α E_{π_E} log π̂(τ)",
        lambda i: i.inverse_soft_q_objective,
        lambda i: i.temperature * i.expected_log_prob(i.expert, i.policy),
        assumes=lambda i: _is_finite(i.kl_from_expert),
        equality=True,
    ),
    Statement(
        "theorem-1",
        "paper, Thm 1",
        "TV(P_r*, P_r̂) ≤ αHε/2",
        lambda i: i.pair_tv,
        lambda i: i.over_pairs(bounds.preference_tv_paper(i.horizon, i.epsilon, i.temperature)),
        "probability",
        assumes=lambda i: i.pair_counts,
        ceiling=lambda i: 1.0,
    ),
    Statement(
        "theorem-1-sharp",
        "docs §3",
        "TV(P_r*, P_r̂) ≤ tanh(α(H−k)ε/2)",
        lambda i: i.pair_tv,
        lambda i: bounds.preference_tv_sharp(
            i.diverging_steps, i.over_pairs(i.epsilon), i.over_pairs(i.temperature)
        ),
        "probability",
        assumes=_comparable,
    ),
    Statement(
        "preference-average",
        "docs §7",
        "mean TV ≤ mean tanh(α|D(τ)−D(τ')|/4)",
        lambda i: i.pair_mean(i.pair_tv),
        lambda i: i.pair_mean(_tv_of_pairs(i)),
        "probability",
        assumes=lambda i: i.pair_counts.any(axis=-1),
        ceiling=lambda i: 1.0 - 1e-9,
    ),
    Statement(
        "theorem-2-clone",
        "paper, Thm 2",
        "V^{π_E} − V^{π̂} ≤ H²ε",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_paper(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "clone-elementary",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ tanh(ε/2)·H(H+1)/2",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_elementary(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "clone-three-halves",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ ½H^{3/2}ε",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_three_halves(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "clone-composition",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ H·TV_RR(H,ε)",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_composition(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.return_range * (1 - 1e-9),
    ),
    Statement(
        "clone-stepwise",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ Σ_h TV_RR(h,ε)",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_stepwise(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.return_range * (1 - 1e-9),
    ),
    Statement(
        "clone-entropy",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ α log V [Σ_{h<H} TV_RR(h,ε) + H(e^ε−1)]",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_entropy(i.horizon, i.epsilon, i.temperature, i.mdp.vocab_size),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "clone-tv",
        "docs §7",
        "V^{π_E} − V^{π̂} ≤ R_τ·TV(π_E(τ), π̂(τ))",
        lambda i: i.clone_gap,
        lambda i: i.clone_bound(i.response_tv),
        assumes=lambda i: _is_finite(i.kl_to_expert) & np.asarray(i.has_leaves),
        ceiling=lambda i: i.return_range * (1 - 1e-9),
    ),
    Statement(
        "clone-hellinger",
        "docs §7",
        "V^{π_E} − V^{π̂} ≤ R_τ·√(1 − BC²)",
        lambda i: i.clone_gap,
        lambda i: i.clone_bound(i.hellinger_tv),
        assumes=lambda i: _is_finite(i.kl_to_expert),
        ceiling=lambda i: i.return_range * (1 - 1e-9),
    ),
    Statement(
        "clone-pinsker",
        "docs §7",
        "V^{π_E} − V^{π̂} ≤ R_τ·√(KL(π̂‖π_E)/2)",
        lambda i: i.clone_gap,
        lambda i: i.clone_bound(i.pinsker_tv),
        assumes=lambda i: _is_finite(i.kl_to_expert),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "theorem-2-rl",
        "paper, Thm 2",
        "V^{π_E} − V^{π_RL} ≤ Hε  (α(1 + tanh(ε/2)) ≤ R)",
        lambda i: _rl_gap(i, i.expert_value),
        lambda i: bounds.rl_gap_paper(i.horizon, i.epsilon, i.width),
        assumes=lambda i: i.temperature * (1 + np.tanh(i.epsilon / 2)) <= i.width,
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "rl-expert",
        "docs §4",
        "V^{π_E} − V^{π_RL} ≤ αHε(1 + tanh(ε/2))",
        lambda i: _rl_gap(i, i.expert_value),
        lambda i: bounds.rl_gap_expert(i.horizon, i.epsilon, i.temperature),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "rl-any-comparator",
        "docs §4",
        "max_π V^π − V^{π_RL} ≤ 2αHε",
        lambda i: _rl_gap(i, i.best_value),
        lambda i: bounds.rl_gap(i.horizon, i.epsilon, i.temperature),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "rl-anchored",
        "docs §4",
        "V^{π_E} − V^{π_β} ≤ αHε + (α+β) KL(π_E‖π̂)  (β = α)",
        lambda i: i.expert_value - i.anchored_value,
        lambda i: i.temperature * (i.horizon * i.epsilon + 2 * i.kl_from_expert),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "anchored-two-ways",
        "docs §8",
        "argmax V_r̂ − βKL(·‖π̂) = π̂^{1+α/β}  (β = α)",
        lambda i: finite(
            log_prob(kl_optimal(i.endogenous, i.policy, i.alpha).policy, i.responses),
            i.policy_log_prob,
        ),
        lambda i: finite(log_prob(power_policy(i.policy, 2.0), i.responses), i.policy_log_prob),
        "nats",
        equality=True,
    ),
    Statement(
        "rl-anchored-renyi",
        "docs §8",
        "V^{π_E} − V^{π_β} ≤ (α+β) KL(π_E‖π̂) + α D_{1+α/β}(π̂‖π_E)  (β = α)",
        lambda i: i.expert_value - i.anchored_value,
        lambda i: i.temperature * (2 * i.kl_from_expert + i.renyi_to_expert),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "rl-anchored-sharp",
        "docs §8",
        "V^{π_E} − V^{π_β} ≤ αH[2ε tanh(ε/2) + log(2cosh ε − 1)]  (β = α)",
        lambda i: i.expert_value - i.anchored_value,
        lambda i: bounds.rl_gap_anchored_sharp(i.horizon, i.epsilon, i.temperature, i.temperature),
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "rl-average",
        "docs §7",
        "V^{π_E} − V^{π_RL} ≤ α KL(π_E‖π̂) − α D(τ_RL)",
        lambda i: _rl_gap(i, i.expert_value),
        _rl_average,
        ceiling=lambda i: i.return_range,
    ),
    Statement(
        "regularised-equality",
        "docs §4",
        "V^{π_E}_α − V^{π̂}_α = α KL(π̂‖π_E)",
        lambda i: i.regularised(i.expert) - i.regularised(i.policy),
        lambda i: i.temperature * i.kl_to_expert,
        equality=True,
        assumes=lambda i: _is_finite(i.kl_to_expert),
    ),
    Statement(
        "kl-ball",
        "docs §4",
        "KL(π̂‖π_E) ≤ Hε tanh(ε/2)",
        lambda i: i.kl_to_expert,
        lambda i: bounds.kl_ball(i.horizon, i.epsilon),
        "nats",
    ),
    Statement(
        "tv-composition",
        "docs §4",
        "TV(π_E(τ), π̂(τ)) ≤ TV_RR(H,ε)",
        lambda i: i.trajectory_tv,
        lambda i: bounds.tv_randomised_response(i.horizon, i.epsilon),
        "probability",
        assumes=lambda i: np.asarray(i.has_leaves),
        ceiling=lambda i: 1.0 - 1e-9,
    ),
)
