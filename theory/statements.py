"""The list of statements: what the paper and ``docs/theory.md`` claim, each written once.

A statement is two functions of an *instance* ``(mdp, π_E, π̂, α)`` and the conditions it needs. The Hypothesis tests,
``endorm verify``, the curves and the checks on language models all go through `STATEMENTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from theory import bounds
from theory.arrays import Array, expand
from theory.mdp import TokenMDP
from theory.policy import (
    Policy,
    Responses,
    all_responses,
    kl,
    log_prob,
    map_response,
    max_log_ratio,
    plain_value,
    regularised_value,
    response_sum,
    sample,
)
from theory.reward import endogenous_reward, preference_tv, returns
from theory.soft import plain_optimal, soft_optimal, soft_values

__all__ = ["STATEMENTS", "Check", "Instance", "Statement", "Summary", "Verdict", "check", "summarise"]

Verdict = Literal["holds", "violated", "undecided"]
Unit = Literal["reward", "nats", "probability"]

POOL = 128
"""Responses per prompt among which all pairs are compared: all of them where there are no more."""


@dataclass(frozen=True, eq=False)
class Instance:
    """What a statement is about: a token MDP, its soft-optimal policy, and a policy that should be close to it.

    Attributes:
        mdp: the true reward `r*`.
        expert: `π_E`, soft-optimal for `mdp` at `alpha`.
        policy: `π̂`, whose endogenous reward is judged.
        alpha: temperature, scalar or ``batch``.
    """

    mdp: TokenMDP
    expert: Policy
    policy: Policy
    alpha: Any

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.mdp.horizon

    @property
    def width(self) -> float:
        """Width `R` of the reward range."""
        return self.mdp.reward_width

    @cached_property
    def epsilon(self) -> Array:
        """``ε_π``: ``batch``, nats."""
        return max_log_ratio(self.expert, self.policy)

    @cached_property
    def endogenous(self) -> TokenMDP:
        """`r̂` in the policy's own gauge (``logprob`` where it carries no logits)."""
        return endogenous_reward(self.policy, self.alpha, gauge=_gauge(self.policy))

    @cached_property
    def rl_response(self) -> Responses:
        """What RL on `r̂` plays: the most probable response of `π̂`, one per prompt."""
        return map_response(self.policy)

    @cached_property
    def expert_value(self) -> Array:
        """``V^{π_E}_{r*}``, plain: ``batch``."""
        return plain_value(self.mdp, self.expert)

    @cached_property
    def clone_gap(self) -> Array:
        """``V^{π_E}_{r*} − V^{π̂}_{r*}``, plain: ``batch``."""
        return self.expert_value - plain_value(self.mdp, self.policy)

    @cached_property
    def rl_value(self) -> Array:
        """``V^{π_RL}_{r*}``, plain: ``batch``."""
        return self.mdp.dynamics.average(returns(self.mdp, self.rl_response))

    @cached_property
    def best_value(self) -> Array:
        """``max_π V^π_{r*}``, plain: ``batch``."""
        return self.mdp.dynamics.average(plain_optimal(self.mdp).values[0])

    @cached_property
    def kl_to_expert(self) -> Array:
        """``KL(π̂(τ)‖π_E(τ))``: ``batch``, nats."""
        return kl(self.policy, self.expert)

    @cached_property
    def kl_from_expert(self) -> Array:
        """``KL(π_E(τ)‖π̂(τ))``: ``batch``, nats."""
        return kl(self.expert, self.policy)

    @cached_property
    def responses(self) -> Responses:
        """Responses that are compared, prompt by prompt: all, or `POOL` a prompt where there are more."""
        dynamics = self.mdp.dynamics
        V, H, P = dynamics.vocab_size, self.horizon, dynamics.n_prompts
        if V**H <= POOL:
            return all_responses(dynamics)
        rng = np.random.default_rng(0)
        prompts = np.repeat(np.arange(P), POOL)
        tokens = rng.integers(V, size=(P, POOL, H))
        if not self.mdp.batch_shape and not self.policy.batch_shape:
            third = POOL // 3  # what either policy writes, what it likes best, and the unlikely rest
            who = np.repeat(np.arange(P), third)
            for k, policy in enumerate((self.expert, self.policy)):
                drawn = sample(policy, P * third, rng, prompts=who).tokens.reshape(P, third, H)
                tokens[:, k * third : (k + 1) * third] = drawn
                tokens[:, k * third] = map_response(policy).tokens
        return Responses(prompts, tokens.reshape(P * POOL, H))

    def by_prompt(self, values: Array) -> Array:
        """Numbers of `responses` ``(*batch, P·N)`` as ``(*batch, P, N)``."""
        return values.reshape((*values.shape[:-1], self.mdp.dynamics.n_prompts, -1))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices ``(i, j)`` of all pairs of the responses to one prompt."""
        return np.triu_indices(len(self.responses.prompts) // self.mdp.dynamics.n_prompts, k=1)

    def differences(self, values: Array) -> Array:
        """``x(τ) − x(τ')`` over `pairs`: ``(*batch, P, M)``."""
        grouped = self.by_prompt(values)
        i, j = self.pairs
        with np.errstate(invalid="ignore"):
            return grouped[..., i] - grouped[..., j]

    @cached_property
    def expert_log_prob(self) -> Array:
        """``log π_E(τ|s₁)`` of `responses`."""
        return log_prob(self.expert, self.responses)

    @cached_property
    def policy_log_prob(self) -> Array:
        """``log π̂(τ|s₁)`` of `responses`."""
        return log_prob(self.policy, self.responses)

    @cached_property
    def pair_tv(self) -> Array:
        """``|σ(Δ*) − σ(Δ̂)|`` over pairs: ``(*batch, P, M)``; zero where a response is forbidden."""
        true = self.differences(returns(self.mdp, self.responses))
        read = expand(np.asarray(self.alpha), 2) * self.differences(self.policy_log_prob)
        possible = np.isfinite(self.differences(self.expert_log_prob)) & np.isfinite(read)
        return np.where(possible, preference_tv(true, np.where(possible, read, 0.0)), 0.0)

    @cached_property
    def diverging_steps(self) -> Array:
        """``H − k`` for each pair that shares its first `k` tokens: ``(P, M)``."""
        tokens = np.asarray(self.responses.tokens).reshape(self.mdp.dynamics.n_prompts, -1, self.horizon)
        i, j = self.pairs
        same = np.cumprod(tokens[:, i] == tokens[:, j], axis=-1)
        return self.horizon - same.sum(axis=-1)

    @cached_property
    def largest_logs(self) -> tuple[float, float]:
        """Largest finite ``|log π|`` and ``|log normaliser|`` of the two policies, nats."""
        policies = (self.expert, self.policy)
        return max(_largest(p.log_probs) for p in policies), max(_largest(p.log_normalizers or ()) for p in policies)

    def rounding(self, unit: Unit) -> tuple[Array, Array]:
        """Bounds on rounding errors, to first order: of a quantity in `unit`, and of a bound that reads `ε`: ``batch``.

        Each layer of a sweep adds a few roundings of numbers no larger than `scale`; a sum over tokens adds `V`. A
        stored log-probability is off by as much as ``Q/α`` is, so `ε` is too; a bound multiplies that by its slope in
        `ε`, at most ``RH² + 2αH`` in reward units, ``2H(1 + ε)`` in nats and ``αH`` in probability.
        """
        H, alpha = self.horizon, np.asarray(self.alpha)
        u = 4 * float(np.finfo(np.float64).eps) * (H + self.mdp.vocab_size)
        logs, gauges = self.largest_logs
        rewards = H * max(map(abs, self.mdp.reward_range))
        nats = H * logs + gauges + rewards / alpha
        finite_epsilon = np.where(np.isfinite(self.epsilon), self.epsilon, 0.0)
        slope = {
            "reward": self.width * H**2 + 2 * alpha * H,
            "nats": 2 * H * (1 + finite_epsilon),
            "probability": alpha * H,
        }[unit]
        scale = {"reward": rewards + alpha * nats, "nats": nats, "probability": 1.0 + alpha * nats}[unit]
        return u * scale, u * slope * (logs + rewards / alpha)


@dataclass(frozen=True)
class Statement:
    """One claim: ``left ≤ right`` (or ``left = right``) on every instance that satisfies `assumes`."""

    name: str
    source: str
    claim: str
    left: Callable[[Instance], Array]
    right: Callable[[Instance], Array]
    unit: Unit = "reward"
    equality: bool = False
    assumes: Callable[[Instance], Array] | None = None
    ceiling: Callable[[Instance], Array | float] | None = None
    """The most that `left` can ever be; a `right` at or above it says nothing (*vacuous*)."""


@dataclass(frozen=True)
class Check:
    """Both sides of a statement on an instance, elementwise, and what follows from them."""

    statement: Statement
    left: Array
    right: Array
    error: Array
    applies: Array
    vacuous: Array

    @property
    def slack(self) -> Array:
        """``right − left``, or ``−|right − left|`` for an equality. An infinite bound leaves infinite slack."""
        with np.errstate(invalid="ignore"):
            slack = self.right - self.left
        return -np.abs(slack) if self.statement.equality else np.where(np.isposinf(self.right), np.inf, slack)

    @property
    def verdicts(self) -> Array:
        """``holds``, ``violated`` or ``undecided`` elementwise.

        An inequality whose slack is smaller than its rounding error is undecided; no tolerance turns it into
        ``holds``. An equality holds when both sides agree to within the rounding error. What is not a number is
        undecided.
        """
        slack = self.slack
        inside = "holds" if self.statement.equality else "undecided"
        decided = np.where(slack > self.error, "holds", np.where(slack < -self.error, "violated", inside))
        return np.where(np.isnan(slack), "undecided", decided)


@dataclass(frozen=True)
class Summary:
    """A statement over many instances."""

    statement: Statement
    instances: int
    worst_ratio: float
    """Largest ``left/right`` where the right side is well above its rounding error; NaN for an equality."""
    smallest_slack: float
    left: float
    right: float
    """The two sides where the slack is smallest."""
    error_bound: float
    verdict: Verdict
    vacuous_share: float


def check(statement: Statement, instance: Instance) -> Check:
    """Evaluate both sides of `statement` on `instance` (a batch of instances elementwise)."""
    left, right = np.broadcast_arrays(np.asarray(statement.left(instance)), np.asarray(statement.right(instance)))
    batch_axes = max(len(x.batch_shape) for x in (instance.mdp, instance.expert, instance.policy))
    inner = left.ndim - batch_axes

    def spread(values: Any) -> Array:
        array = np.asarray(values)
        return np.broadcast_to(array if array.ndim in (0, left.ndim) else expand(array, inner), left.shape)

    quantity, bound = instance.rounding(statement.unit)
    error = quantity if statement.equality else quantity + bound
    applies = spread(True if statement.assumes is None else statement.assumes(instance))
    ceiling = statement.ceiling
    vacuous = right >= spread(ceiling(instance)) if ceiling is not None else np.zeros(left.shape, dtype=bool)
    return Check(statement, left, right, spread(error), applies, vacuous)


def summarise(statement: Statement, instances: Iterable[Instance]) -> Summary | None:
    """Evaluate a statement over instances; `None` where its assumptions hold on none of them."""
    count, parts = 0, []
    for instance in instances:
        result = check(statement, instance)
        n = len(np.atleast_1d(instance.epsilon))
        applies = np.broadcast_to(result.applies, result.left.shape).reshape(n, -1)
        count += int(applies.any(axis=1).sum())
        flat = applies.reshape(-1)
        parts.append(
            [
                np.reshape(x, -1)[flat]
                for x in (result.left, result.right, result.slack, result.error, result.verdicts, result.vacuous)
            ]
        )
    if count == 0:
        return None
    left, right, slack, error, verdicts, vacuous = (np.concatenate(column) for column in zip(*parts, strict=True))
    worst = int(np.argmin(slack))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(right > 1e3 * error, left / right, np.nan)  # below that, rounding is all there is
    ratio = float("nan") if statement.equality or np.isnan(ratios).all() else float(np.nanmax(ratios))
    order: tuple[Verdict, ...] = ("violated", "undecided", "holds")
    verdict = next(v for v in order if (verdicts == v).any())
    return Summary(
        statement,
        count,
        ratio,
        float(slack[worst]),
        float(left[worst]),
        float(right[worst]),
        float(error[worst]),
        verdict,
        float(np.mean(vacuous)),
    )


def _gauge(policy: Policy) -> Literal["logits", "logprob"]:
    return "logprob" if policy.log_normalizers is None else "logits"


def _largest(tables: Iterable[Array]) -> float:
    """Largest finite absolute value of some arrays."""
    return max((float(np.abs(t[np.isfinite(t)]).max(initial=0.0)) for t in map(np.asarray, tables)), default=0.0)


def _prompt_values(instance: Instance, first_layer: Array) -> Array:
    """A first-layer value repeated for each of the responses."""
    return first_layer[..., np.asarray(instance.responses.prompts)]


def _finite(values: Array, where: Array) -> Array:
    return np.where(np.isfinite(where), values, 0.0)


def _telescoped(instance: Instance) -> Array:
    """``α log π_E(τ|s₁) + V*(s₁)`` of each response (zero for a forbidden one)."""
    alpha = np.asarray(instance.alpha)
    soft = soft_values(instance.mdp, instance.alpha)[0]
    total = expand(alpha, 1) * instance.expert_log_prob + _prompt_values(instance, soft)
    return _finite(total, instance.expert_log_prob)


def _endogenous_telescoped(instance: Instance) -> Array:
    """``α log π̂(τ|s₁) + V̂(s₁)`` of each response (zero for a forbidden one)."""
    total = expand(np.asarray(instance.alpha), 1) * instance.policy_log_prob
    normalizers = instance.policy.log_normalizers
    if normalizers is not None:
        total = total + expand(np.asarray(instance.alpha), 1) * _prompt_values(instance, normalizers[0])
    return _finite(total, instance.policy_log_prob)


def _resolved_log_prob(instance: Instance) -> Array:
    """``log π(τ|s₁)`` of each response under the soft-optimal policy of `r̂`."""
    again = soft_optimal(instance.endogenous, instance.alpha).policy
    return _finite(log_prob(again, instance.responses), instance.policy_log_prob)


def _pair(values: Array) -> Array:
    """A ``batch`` quantity against pairs ``(*batch, P, M)``."""
    return expand(np.asarray(values), 2)


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "soft-value",
        "eqs. 9–10",
        "V^{π_E}_{r*,α} = E V*(s₁)",
        lambda i: regularised_value(i.mdp, i.expert, i.alpha),
        lambda i: i.mdp.dynamics.average(soft_values(i.mdp, i.alpha)[0]),
        equality=True,
    ),
    Statement(
        "telescoping",
        "eq. 12",
        "r*(τ) = α log π_E(τ|s₁) + V*(s₁)",
        lambda i: _finite(returns(i.mdp, i.responses), i.expert_log_prob),
        _telescoped,
        equality=True,
    ),
    Statement(
        "endogenous-telescoping",
        "eqs. 11–12",
        "r̂(τ) = α log π̂(τ|s₁) + V̂(s₁)",
        lambda i: _finite(response_sum(i.mdp.dynamics, i.endogenous.rewards, i.responses), i.policy_log_prob),
        _endogenous_telescoped,
        equality=True,
    ),
    Statement(
        "soft-rl-fixed-point",
        "docs §1",
        "soft-optimal policy of r̂ at α is π̂",
        _resolved_log_prob,
        lambda i: _finite(i.policy_log_prob, i.policy_log_prob),
        "nats",
        equality=True,
    ),
    Statement(
        "theorem-1",
        "paper, Thm 1",
        "TV(P_r*, P_r̂) ≤ αHε/2",
        lambda i: i.pair_tv,
        lambda i: _pair(bounds.preference_tv_paper(i.horizon, i.epsilon, i.alpha)),
        "probability",
        ceiling=lambda i: 1.0,
    ),
    Statement(
        "theorem-1-sharp",
        "docs §3",
        "TV(P_r*, P_r̂) ≤ tanh(α(H−k)ε/2)",
        lambda i: i.pair_tv,
        lambda i: bounds.preference_tv_sharp(i.diverging_steps, _pair(i.epsilon), _pair(i.alpha)),
        "probability",
        assumes=lambda i: _comparable(i),
    ),
    Statement(
        "preference-average",
        "docs §7",
        "mean TV ≤ mean tanh(α|D(τ)−D(τ')|/4)",
        lambda i: _pair_mean(i, i.pair_tv),
        lambda i: _pair_mean(i, _average_case_tv(i)),
        "probability",
        assumes=lambda i: np.asarray((i.diverging_steps > 0).any()),
        ceiling=lambda i: 1.0 - 1e-9,
    ),
    Statement(
        "theorem-2-clone",
        "paper, Thm 2",
        "V^{π_E} − V^{π̂} ≤ H²ε",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_paper(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "clone-elementary",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ tanh(ε/2)·H(H+1)/2",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_elementary(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "clone-composition",
        "docs §4",
        "V^{π_E} − V^{π̂} ≤ H·TV_RR(H,ε) ≈ H^{3/2}ε/√2π",
        lambda i: i.clone_gap,
        lambda i: bounds.clone_gap_composition(i.horizon, i.epsilon, i.width),
        ceiling=lambda i: i.horizon * i.width * (1 - 1e-9),
    ),
    Statement(
        "clone-pinsker",
        "docs §7",
        "V^{π_E} − V^{π̂} ≤ HR·√(KL(π̂‖π_E)/2)",
        lambda i: i.clone_gap,
        lambda i: i.horizon * i.width * bounds.tv_pinsker(i.kl_to_expert),
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "theorem-2-rl",
        "paper, Thm 2",
        "V^{π_E} − V^{π_RL} ≤ Hε  (α ≤ R/2)",
        lambda i: i.expert_value - i.rl_value,
        lambda i: bounds.rl_gap_paper(i.horizon, i.epsilon, i.width),
        assumes=lambda i: np.asarray(i.alpha) <= i.width / 2,
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "rl-any-comparator",
        "docs §4",
        "max_π V^π − V^{π_RL} ≤ 2αHε",
        lambda i: i.best_value - i.rl_value,
        lambda i: bounds.rl_gap(i.horizon, i.epsilon, i.alpha),
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "rl-average",
        "docs §7",
        "V^{π_E} − V^{π_RL} ≤ α KL(π_E‖π̂) − α D(τ_RL)",
        lambda i: i.expert_value - i.rl_value,
        lambda i: _average_case_rl(i),
        ceiling=lambda i: i.horizon * i.width,
    ),
    Statement(
        "regularised-equality",
        "docs §4",
        "V^{π_E}_α − V^{π̂}_α = α KL(π̂‖π_E)",
        lambda i: regularised_value(i.mdp, i.expert, i.alpha) - regularised_value(i.mdp, i.policy, i.alpha),
        lambda i: np.asarray(i.alpha) * i.kl_to_expert,
        equality=True,
        assumes=lambda i: np.isfinite(i.kl_to_expert),
    ),
    Statement(
        "kl-ball",
        "docs §4",
        "KL(π̂‖π_E) ≤ Hε tanh(ε/2)",
        lambda i: i.kl_to_expert,
        lambda i: bounds.kl_ball(i.horizon, i.epsilon),
        "nats",
    ),
)


def _pair_mean(instance: Instance, values: Array) -> Array:
    """Mean over prompts and pairs of different responses: ``(*batch, P, M)`` to ``batch``."""
    different = instance.diverging_steps > 0
    return np.where(different, values, 0.0).sum(axis=(-2, -1)) / max(int(different.sum()), 1)


def _comparable(instance: Instance) -> Array:
    """Pairs of different responses whose sharp bound is not one to nine digits, where doubles could not compare."""
    nats = _pair(instance.alpha) * instance.diverging_steps * _pair(instance.epsilon) / 2
    return (instance.diverging_steps > 0) & (nats < math.atanh(1 - 1e-9))


def _average_case_tv(instance: Instance) -> Array:
    """``tanh(α|D(τ) − D(τ')|/4)``, ``D = log π_E − log π̂``; one for a pair that a policy forbids."""
    with np.errstate(invalid="ignore"):
        ratio = instance.differences(instance.expert_log_prob) - instance.differences(instance.policy_log_prob)
    bound = np.tanh(_pair(instance.alpha) * np.abs(ratio) / 4)
    return np.where(np.isfinite(ratio), bound, 1.0)


def _average_case_rl(instance: Instance) -> Array:
    """``α KL(π_E‖π̂) − α E D(τ_RL)``."""
    rl = instance.rl_response
    ratio = log_prob(instance.expert, rl) - log_prob(instance.policy, rl)
    return np.asarray(instance.alpha) * (instance.kl_from_expert - instance.mdp.dynamics.average(ratio))
