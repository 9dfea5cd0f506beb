"""The list of statements: every claim on an instance, one entry each.

A new statement is a new entry here. Tests, benchmarks, ``endorm verify`` and ``endorm check`` go
through this list. What is claimed with and without a last token is a ``Statement[Quantities]``
and is also among `theory.claims.discounted.DISCOUNTED_STATEMENTS`, where `H` is ``1/(1−γ)``;
the rest are ``Statement[Instance]``. Proofs are in ``docs/theory.md``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays.namespace import Array, array_namespace, as_array, constant
from theory.claims import bounds
from theory.claims.instance import COVERED, Instance, finite
from theory.claims.quantities import Quantities
from theory.claims.statement import Condition, Quantity, Statement, Statements
from theory.mdp.policy import Policy
from theory.mdp.responses import log_prob
from theory.solve.improve import kl_optimal
from theory.solve.soft import power_policy

__all__ = ["STATEMENTS"]

ATANH_OF_ONE = math.atanh(1 - 1e-9)
"""Nats from which on ``tanh`` is one to nine digits."""


# --- Left sides ---------------------------------------------------------------------------------


def _rl_gap(i: Quantities, comparator: Array) -> Array:
    """``V^π_{r*} − V^{π_RL}_{r*}``, less what `π_RL` is short of the maximum of `r̂`."""
    return comparator - i.rl_value - i.temperature * i.rl_shortfall


CLONE_GAP = Quantity[Quantities](
    "V^{π_E} − V^{π̂}", lambda i: i.clone_gap, ceiling=lambda i: i.return_range
)
RL_GAP = Quantity[Quantities](
    "V^{π_E} − V^{π_RL}", lambda i: _rl_gap(i, i.expert_value), ceiling=lambda i: i.return_range
)
RL_GAP_OF_ANY = Quantity[Quantities](
    "max_π V^π − V^{π_RL}", lambda i: _rl_gap(i, i.best_value), ceiling=lambda i: i.return_range
)
ANCHORED_GAP = Quantity[Quantities](
    "V^{π_E} − V^{π_{β=α}}",
    lambda i: i.expert_value - i.anchored_value,
    ceiling=lambda i: i.return_range,
)
PAIR_TV = Quantity[Quantities](
    "TV(P_r*, P_r̂)", lambda i: i.pair_tv, "probability", ceiling=lambda i: 1.0
)
POLICY_LOG_PROB = Quantity[Quantities](
    "log π̂", lambda i: finite(i.policy_log_prob, i.policy_log_prob), "nats"
)

LATER_GAUGE = Quantity[Quantities]("Σ_{h≥2} V̂(s_h)", lambda i: i.later_gauge)
EXPECTED_LATER_GAUGE = Quantity[Instance](
    "E_{π_E} Σ_{h≥2} V̂(s_h)", lambda i: i.expected_later_gauge(i.expert)
)


# --- Conditions ---------------------------------------------------------------------------------


def _is_finite(values: Any) -> Array:
    return ~(as_array(values) == float("inf"))


def _comparable(i: Quantities) -> Array:
    """Pairs that can occur, and whose sharp bound is not one to nine digits."""
    nats = i.over_pairs(i.temperature) * i.diverging_steps * i.over_pairs(i.epsilon)
    return i.pair_counts & (nats / 2 < ATANH_OF_ONE)


FINITE_KL = Condition[Quantities]("KL(π̂‖π_E) < ∞", lambda i: _is_finite(i.kl_to_expert))
FINITE_KL_FROM = Condition[Quantities]("KL(π_E‖π̂) < ∞", lambda i: _is_finite(i.kl_from_expert))
PAIRS = Condition[Quantities]("π_E and π̂ write both responses", lambda i: i.pair_counts)


# --- The reward inside a policy -----------------------------------------------------------------

REWARDS: tuple[Statement[Quantities], ...] = (
    Statement(
        "soft-value",
        "eqs. 9–10",
        Quantity("V^{π_E}_{r*,α}", lambda i: i.regularised(i.expert)),
        "=",
        Quantity("E V*(s₁)", lambda i: i.soft_value),
        term=Quantity("αH(π_E)", lambda i: i.soft_value - i.expert_value),
    ),
    Statement(
        "telescoping",
        "eq. 12",
        Quantity("r*(τ)", lambda i: i.true_return),
        "=",
        Quantity("α log π_E(τ|s₁) + V*(s₁)", lambda i: i.telescoped),
        term=Quantity("V*(s₁)", lambda i: i.soft_value),
    ),
    Statement(
        "endogenous-telescoping",
        "eqs. 11–12",
        Quantity("r̂(τ)", lambda i: i.endogenous_return),
        "=",
        Quantity("α log π̂(τ|s₁) + V̂(s₁)", lambda i: i.endogenous_telescoped),
        term=LATER_GAUGE,
    ),
    Statement(
        "soft-rl-fixed-point",
        "docs §1",
        Quantity("log argmax_π V^π_{r̂,α}", lambda i: i.resolved_log_prob, "nats"),
        "=",
        POLICY_LOG_PROB,
        term=Quantity(
            "log π − log e^{r̂/α}, normalised by the token",
            lambda i: i.resolved_log_prob - i.myopic_log_prob,
            "nats",
        ),
    ),
)

INVERSE_RL: tuple[Statement[Instance], ...] = (
    Statement(
        "irl-saddle",
        "eq. 6",
        Quantity("E_π̂ r̂(τ) − E V_r̂(s₁)", lambda i: i.irl_dual(i.policy)),
        "=",
        Quantity("−α H(π̂)", lambda i: -(i.temperature * i.entropy(i.policy))),
        term=Quantity("E_π̂ Σ_{h≥2} V̂(s_h)", lambda i: i.expected_later_gauge(i.policy)),
    ),
    Statement(
        "irl-gap",
        "eq. 6",
        Quantity(
            "−αH(π_E) − [E_{π_E} r̂(τ) − E V_r̂(s₁)]",
            lambda i: -(i.temperature * i.entropy(i.expert)) - i.irl_dual(i.expert),
        ),
        "=",
        Quantity("α KL(π_E‖π̂)", lambda i: i.temperature * i.kl_from_expert),
        FINITE_KL_FROM,
        EXPECTED_LATER_GAUGE,
    ),
    Statement(
        "inverse-soft-q",
        "eqs. 7–8",
        Quantity("E_{π_E} Σ_h [Q̂ − V_Q̂]", lambda i: i.inverse_soft_q_objective),
        "=",
        Quantity(
            "α E_{π_E} log π̂(τ)",
            lambda i: i.temperature * i.expected_log_prob(i.expert, i.policy),
        ),
        FINITE_KL_FROM,
        EXPECTED_LATER_GAUGE,
    ),
)


# --- Theorem 1: preferences ---------------------------------------------------------------------

PREFERENCES: tuple[Statement[Quantities], ...] = (
    Statement(
        "theorem-1",
        "paper, Thm 1",
        PAIR_TV,
        "≤",
        Quantity(
            "αHε/2",
            lambda i: i.over_pairs(bounds.preference_tv_paper(i.horizon, i.epsilon, i.temperature)),
            "probability",
        ),
        PAIRS,
    ),
    Statement(
        "theorem-1-sharp",
        "docs §3",
        PAIR_TV,
        "≤",
        Quantity(
            "tanh(α(H−k)ε/2)",
            lambda i: bounds.preference_tv_sharp(
                i.diverging_steps, i.over_pairs(i.epsilon), i.over_pairs(i.temperature)
            ),
            "probability",
        ),
        Condition("it is below 1 − 10⁻⁹", _comparable),
    ),
)


def _tv_of_pairs(i: Instance) -> Array:
    """``tanh(α|D(τ) − D(τ')|/4)``; zero for a pair that a policy forbids."""
    ratio = i.pair_log_ratio
    known = array_namespace(ratio).where(i.pair_possible, ratio, 0.0)
    return bounds.preference_tv_of_pair(known, i.over_pairs(i.temperature))


def _comparable_by_length(i: Instance) -> Array:
    """Pairs that can occur, and whose bound by length is not one to nine digits."""
    nats = i.over_pairs(i.temperature) * i.pair_choices * i.over_pairs(i.epsilon)
    return i.pair_counts & (nats / 4 < ATANH_OF_ONE)


PREFERENCES_WITH_LAST_TOKEN: tuple[Statement[Instance], ...] = (
    Statement(
        "preference-length",
        "docs §3",
        PAIR_TV,
        "≤",
        Quantity(
            "tanh(αε(T+T')/4)",
            lambda i: bounds.preference_tv_of_choices(
                i.pair_choices, i.over_pairs(i.epsilon), i.over_pairs(i.temperature)
            ),
            "probability",
        ),
        Condition("it is below 1 − 10⁻⁹", _comparable_by_length),
    ),
    Statement(
        "preference-average",
        "docs §7",
        Quantity(
            "mean TV(P_r*, P_r̂)",
            lambda i: i.pair_mean(i.pair_tv),
            "probability",
            ceiling=lambda i: 1.0,
        ),
        "≤",
        Quantity(
            "mean tanh(α|D(τ)−D(τ')|/4)", lambda i: i.pair_mean(_tv_of_pairs(i)), "probability"
        ),
        Condition("there are pairs", lambda i: i.pair_counts.any(axis=-1)),
    ),
)


# --- Theorem 2: cloning -------------------------------------------------------------------------

CLONING: tuple[Statement[Quantities], ...] = (
    Statement(
        "theorem-2-clone",
        "paper, Thm 2",
        CLONE_GAP,
        "≤",
        Quantity("R·H²ε", lambda i: bounds.clone_gap_paper(i.horizon, i.epsilon, i.width)),
    ),
    Statement(
        "clone-elementary",
        "docs §4",
        CLONE_GAP,
        "≤",
        Quantity(
            "R·tanh(ε/2)·H(H+1)/2",
            lambda i: bounds.clone_gap_elementary(i.horizon, i.epsilon, i.width),
        ),
    ),
    Statement(
        "clone-three-halves",
        "docs §4",
        CLONE_GAP,
        "≤",
        Quantity(
            "½R·H^{3/2}ε", lambda i: bounds.clone_gap_three_halves(i.horizon, i.epsilon, i.width)
        ),
    ),
    Statement(
        "clone-pinsker",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity("R_τ·√(KL(π̂‖π_E)/2)", lambda i: i.clone_bound(i.pinsker_tv)),
        FINITE_KL,
    ),
)

ENUMERATED = Condition[Instance](
    "KL(π̂‖π_E) < ∞ and TV is computed",
    lambda i: _is_finite(i.kl_to_expert) & np.asarray(i.has_leaves),
)

CLONING_WITH_LAST_TOKEN: tuple[Statement[Instance], ...] = (
    Statement(
        "clone-stepwise",
        "docs §4",
        CLONE_GAP,
        "≤",
        Quantity(
            "R·Σ_h TV_RR(h,ε)",
            lambda i: bounds.clone_gap_stepwise(i.horizon, i.epsilon, i.width),
        ),
    ),
    Statement(
        "clone-composition",
        "docs §4",
        CLONE_GAP,
        "≤",
        Quantity(
            "R·H·TV_RR(H,ε)",
            lambda i: bounds.clone_gap_composition(i.horizon, i.epsilon, i.width),
        ),
    ),
    Statement(
        "clone-entropy",
        "docs §4",
        CLONE_GAP,
        "≤",
        Quantity(
            "α log V [Σ_{h<H} TV_RR(h,ε) + H(e^ε−1)]",
            lambda i: bounds.clone_gap_entropy(
                i.horizon, i.epsilon, i.temperature, i.mdp.vocab_size
            ),
        ),
    ),
    Statement(
        "clone-tv",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity("R_τ·TV(π_E(τ), π̂(τ))", lambda i: i.clone_bound(i.response_tv)),
        ENUMERATED,
    ),
    Statement(
        "clone-hellinger",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity("R_τ·√(1 − BC²)", lambda i: i.clone_bound(i.hellinger_tv)),
        FINITE_KL,
    ),
    Statement(
        "clone-one-response",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity("R_τ·(D² + 2√η·D)", lambda i: i.clone_bound(i.tv_of_one_response)),
        FINITE_KL,
    ),
    Statement(
        "clone-variance",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity(
            "√Σ(√π_E−√π̂)²·√Σ(√π_E+√π̂)²(r*−c)²",
            lambda i: i.clone_bound_of_variance,
        ),
        FINITE_KL,
    ),
    Statement(
        "clone-le-cam",
        "docs §7",
        CLONE_GAP,
        "≤",
        Quantity(
            "√Σ(π_E−π̂)²/(π_E+π̂)·√Σ(π_E+π̂)(r*−c)²",
            lambda i: i.clone_bound_of_le_cam,
        ),
        ENUMERATED,
    ),
)


# --- Theorem 2: RL on the endogenous reward -----------------------------------------------------

RL: tuple[Statement[Quantities], ...] = (
    Statement(
        "theorem-2-rl",
        "paper, Thm 2",
        RL_GAP,
        "≤",
        Quantity("R·Hε", lambda i: bounds.rl_gap_paper(i.horizon, i.epsilon, i.width)),
        Condition(
            "α(1 + tanh(ε/2)) ≤ R",
            lambda i: i.temperature * (1 + np.tanh(i.epsilon / 2)) <= i.width,
        ),
    ),
    Statement(
        "rl-expert",
        "docs §4",
        RL_GAP,
        "≤",
        Quantity(
            "αHε(1 + tanh(ε/2))",
            lambda i: bounds.rl_gap_expert(i.horizon, i.epsilon, i.temperature),
        ),
    ),
    Statement(
        "rl-any-comparator",
        "docs §4",
        RL_GAP_OF_ANY,
        "≤",
        Quantity("2αHε", lambda i: bounds.rl_gap(i.horizon, i.epsilon, i.temperature)),
    ),
    Statement(
        "rl-anchored",
        "docs §4",
        ANCHORED_GAP,
        "≤",
        Quantity(
            "αHε + 2α KL(π_E‖π̂)",
            lambda i: i.temperature * (i.horizon * i.epsilon + 2 * i.kl_from_expert),
        ),
    ),
)


def _rl_average(i: Instance) -> Array:
    """``α KL(π_E‖π̂) − α E D(τ_RL)``, ``D = log π_E − log π̂``."""
    rl = i.rl_response
    log_ratio = log_prob(i.expert, rl) - log_prob(i.policy, rl)
    return i.temperature * (i.kl_from_expert - i.averaged(log_ratio))


def _beyond_temperature(i: Instance) -> Array:
    """``log π̂²(τ)``, less that of squaring each token's distribution by itself."""
    squared = Policy.from_logits(i.policy.dynamics, [2.0 * t for t in i.policy.log_probs])
    apart = log_prob(power_policy(i.policy, 2.0), i.responses) - log_prob(squared, i.responses)
    return finite(apart, i.policy_log_prob)


RL_WITH_LAST_TOKEN: tuple[Statement[Instance], ...] = (
    Statement(
        "rl-length",
        "docs §4",
        RL_GAP,
        "≤",
        Quantity(
            "αε(E_{π_E}[T] tanh(ε/2) + T(τ_RL))",
            lambda i: bounds.rl_gap_of_choices(
                i.choices(i.expert), i.rl_choices, i.epsilon, i.temperature
            ),
        ),
        FINITE_KL,
    ),
    Statement(
        "anchored-two-ways",
        "docs §8",
        Quantity(
            "log argmax_π V^π_r̂ − α KL(π‖π̂)",
            lambda i: finite(
                log_prob(kl_optimal(i.endogenous, i.policy, i.alpha).policy, i.responses),
                i.policy_log_prob,
            ),
            "nats",
        ),
        "=",
        Quantity(
            "log π̂^2",
            lambda i: finite(log_prob(power_policy(i.policy, 2.0), i.responses), i.policy_log_prob),
            "nats",
        ),
        term=Quantity("log π̂^2 − log π̂^2, token by token", _beyond_temperature, "nats"),
    ),
    Statement(
        "rl-anchored-renyi",
        "docs §8",
        ANCHORED_GAP,
        "≤",
        Quantity(
            "2α KL(π_E‖π̂) + α D_2(π̂‖π_E)",
            lambda i: i.temperature * (2 * i.kl_from_expert + i.renyi_to_expert),
        ),
    ),
    Statement(
        "rl-anchored-sharp",
        "docs §8",
        ANCHORED_GAP,
        "≤",
        Quantity(
            "αH[2ε tanh(ε/2) + log(2cosh ε − 1)]",
            lambda i: bounds.rl_gap_anchored_sharp(
                i.horizon, i.epsilon, i.temperature, i.temperature
            ),
        ),
    ),
    Statement(
        "rl-average",
        "docs §7",
        RL_GAP,
        "≤",
        Quantity("α KL(π_E‖π̂) − α D(τ_RL)", _rl_average),
    ),
)


# --- Distances between the policies -------------------------------------------------------------

DISTANCES: tuple[Statement[Quantities], ...] = (
    Statement(
        "regularised-equality",
        "docs §4",
        Quantity(
            "V^{π_E}_α − V^{π̂}_α", lambda i: i.regularised(i.expert) - i.regularised(i.policy)
        ),
        "=",
        Quantity("α KL(π̂‖π_E)", lambda i: i.temperature * i.kl_to_expert),
        FINITE_KL,
    ),
    Statement(
        "kl-ball",
        "docs §4",
        Quantity("KL(π̂‖π_E)", lambda i: i.kl_to_expert, "nats"),
        "≤",
        Quantity("Hε tanh(ε/2)", lambda i: bounds.kl_ball(i.horizon, i.epsilon), "nats"),
    ),
)

TRAJECTORY_TV = Quantity[Instance](
    "TV(π_E(τ), π̂(τ))", lambda i: i.trajectory_tv, "probability", ceiling=lambda i: 1.0
)
TV_IS_COMPUTED = Condition[Instance]("TV is computed", lambda i: np.asarray(i.has_leaves))

DISTANCES_WITH_LAST_TOKEN: tuple[Statement[Instance], ...] = (
    Statement(
        "kl-length",
        "docs §4",
        Quantity("KL(π̂‖π_E)", lambda i: i.kl_to_expert, "nats"),
        "≤",
        Quantity(
            "E_π̂[T] ε tanh(ε/2)",
            lambda i: bounds.kl_ball_of_choices(i.choices(i.policy), i.epsilon),
            "nats",
        ),
        FINITE_KL,
    ),
    Statement(
        "coverage",
        "docs §7",
        Quantity(
            f"P_{{π_E}}[π_E ≥ {COVERED}π̂]",
            lambda i: i.coverage,
            "probability",
            ceiling=lambda i: 1.0,
        ),
        "≤",
        Quantity(
            f"KL(π_E‖π̂)/(log {COVERED} − {COVERED - 1}/{COVERED})",
            lambda i: bounds.coverage(i.kl_from_expert, COVERED),
            "probability",
        ),
        TV_IS_COMPUTED,
    ),
    Statement(
        "best-of-n",
        "docs §7",
        Quantity(f"KL(best of {COVERED}‖π̂)", lambda i: i.best_of_n_kl, "nats"),
        "≤",
        Quantity(
            f"log {COVERED} − {COVERED - 1}/{COVERED}",
            lambda i: bounds.best_of_n_kl(constant(COVERED, i.kl_to_expert)),
            "nats",
        ),
        TV_IS_COMPUTED,
    ),
    Statement(
        "hellinger-ball",
        "docs §4",
        Quantity("1 − BC", lambda i: i.hellinger, "probability", ceiling=lambda i: 1.0),
        "≤",
        Quantity(
            "1 − cosh(ε/2)^{−H}",
            lambda i: bounds.hellinger_ball(i.horizon, i.epsilon),
            "probability",
        ),
    ),
    Statement(
        "tv-composition",
        "docs §4",
        TRAJECTORY_TV,
        "≤",
        Quantity(
            "TV_RR(H,ε)",
            lambda i: bounds.tv_randomised_response(i.horizon, i.epsilon),
            "probability",
        ),
        TV_IS_COMPUTED,
    ),
    Statement(
        "tv-affinity",
        "docs §4",
        TRAJECTORY_TV,
        "≤",
        Quantity(
            "√(1 − cosh(ε/2)^{−2H})",
            lambda i: bounds.tv_affinity(i.horizon, i.epsilon),
            "probability",
        ),
        TV_IS_COMPUTED,
    ),
)


STATEMENTS: Statements[Instance] = Statements(
    (
        *REWARDS,
        *INVERSE_RL,
        *PREFERENCES,
        *PREFERENCES_WITH_LAST_TOKEN,
        *CLONING,
        *CLONING_WITH_LAST_TOKEN,
        *RL,
        *RL_WITH_LAST_TOKEN,
        *DISTANCES,
        *DISTANCES_WITH_LAST_TOKEN,
    )
)
"""Every claim on a finite horizon."""
