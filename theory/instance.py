"""What a statement is about: an instance ``(mdp, π_E, π̂, α)``, and the quantities that statements are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from theory.arrays import Array, array_namespace, expand
from theory.dynamics import Dynamics
from theory.mdp import TokenMDP
from theory.policy import (
    Policy,
    Responses,
    all_responses,
    best_continuations,
    bhattacharyya,
    expected_sums,
    kl,
    log_prob,
    log_ratios,
    map_response,
    max_log_ratio,
    occupancy,
    plain_value,
    regularised_value,
    renyi,
    response_sum,
    sample,
    trajectory_tv,
)
from theory.reward import endogenous_reward, preference_tv, returns
from theory.soft import power_policy, soft_optimal, soft_values

__all__ = ["MAX_LEAVES", "Instance", "Unit", "finite", "single"]

Unit = Literal["reward", "nats", "probability"]

VISITED = 1e-3
"""Share of the responses that must write a token for it to count as visited."""

POOL = 128
"""Responses per prompt among which all pairs are compared: all of them where there are no more."""

MAX_LEAVES = 1 << 17
"""Responses up to which the total variation between two laws of a response is summed over all of them."""


@dataclass(frozen=True, eq=False)
class Instance:
    """A token MDP, its soft-optimal policy, and a policy that should be close to it.

    The arrays are NumPy's, or balls (`theory.intervals`): the same code gives every quantity rigorously.

    Attributes:
        mdp: the true reward `r*`.
        expert: `π_E`, soft-optimal for `mdp` at `alpha`.
        policy: `π̂`, whose endogenous reward is judged.
        alpha: temperature, scalar or ``batch``.
        chosen_responses: the responses to compare; `responses` says which by default.
        chosen_rl_response: what RL on `r̂` plays; the most probable response of `π̂` by default.

    """

    mdp: TokenMDP
    expert: Policy
    policy: Policy
    alpha: Any
    chosen_responses: Responses | None = None
    chosen_rl_response: Responses | None = None

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.mdp.horizon

    @property
    def width(self) -> Any:
        """Width `R` of the reward range."""
        return self.mdp.reward_width

    @property
    def temperature(self) -> Array:
        """`alpha` as an array, scalar or ``batch``."""
        return np.asarray(self.alpha)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for a single instance."""
        shapes = [x.batch_shape for x in (self.mdp, self.expert, self.policy)] + [self.temperature.shape]
        return np.broadcast_shapes(*shapes)

    @cached_property
    def epsilon(self) -> Array:
        """``ε_π``: ``batch``, nats."""
        return max_log_ratio(self.expert, self.policy)

    @cached_property
    def epsilon_visited(self) -> Array:
        """``ε_π`` of the tokens that `VISITED` of the responses of `π_E`, or of `π̂`, write: ``batch``, nats."""
        reached = zip(*(self._written(policy) for policy in (self.expert, self.policy)), strict=True)
        ratios = log_ratios(self.expert, self.policy)
        layers = [
            np.where(np.maximum(*masses) >= VISITED, np.abs(ratio), 0.0).max(axis=(-2, -1))
            for masses, ratio in zip(reached, ratios, strict=True)
        ]
        return np.stack(layers).max(axis=0)

    def log_ratio_quantiles(self, shares: Sequence[float]) -> Array:
        """Quantiles of ``|log π_E(a|s) − log π̂(a|s)|`` over what `π_E` writes: ``(*batch, len(shares))``, nats.

        A share of 0.99 gives the least `x` that at most one in a hundred of all tokens in responses of `π_E` exceeds.
        Where a state allows a single token, as after the end of a response, that is no token that is written.
        """
        x = self._flat(map(np.abs, log_ratios(self.expert, self.policy)))
        chosen = [(t > -np.inf).sum(axis=-1, keepdims=True) > 1 for t in self.expert.log_probs]
        mass = self._flat(m * c for m, c in zip(self._written(self.expert), chosen, strict=True))
        mass = mass / np.maximum(mass.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        order = np.argsort(x, axis=-1)
        x, below = np.take_along_axis(x, order, axis=-1), np.cumsum(np.take_along_axis(mass, order, axis=-1), axis=-1)
        # a sum of masses may miss its share by its rounding
        rank = np.stack([(below < share * (1 - 1e-12)).sum(axis=-1) for share in shares], axis=-1)
        return np.take_along_axis(x, np.minimum(rank, x.shape[-1] - 1), axis=-1)

    def _flat(self, tables: Iterable[Array]) -> Array:
        """Tables ``(*batch, n_h, V)`` as one array over all states and tokens: ``(*batch, N)``."""
        batch = self.batch_shape
        rows = [np.broadcast_to(t, (*batch, *t.shape[-2:])).reshape((*batch, -1)) for t in tables]
        return np.concatenate(rows, axis=-1)

    @staticmethod
    def _written(policy: Policy) -> list[Array]:
        """Probability that a response passes a state and writes a token there: `H` tables ``(*batch, n_h, V)``."""
        return [d[..., None] * np.exp(t) for d, t in zip(occupancy(policy), policy.log_probs, strict=True)]

    @cached_property
    def endogenous(self) -> TokenMDP:
        """`r̂` in the policy's own gauge (``logprob`` where it carries no logits)."""
        gauge: Literal["logits", "logprob"] = "logprob" if self.policy.log_normalizers is None else "logits"
        return endogenous_reward(self.policy, self.alpha, gauge=gauge)

    # --- Values ---

    @cached_property
    def soft_value(self) -> Array:
        """``E V*(s₁)``: ``batch``."""
        return self.mdp.dynamics.average(self.soft_values[0])

    @cached_property
    def soft_values(self) -> tuple[Array, ...]:
        """``V*`` of every state."""
        return soft_values(self.mdp, self.alpha)

    @cached_property
    def expert_value(self) -> Array:
        """``V^{π_E}_{r*}``, plain: ``batch``."""
        return plain_value(self.mdp, self.expert)

    @cached_property
    def clone_gap(self) -> Array:
        """``V^{π_E}_{r*} − V^{π̂}_{r*}``, plain: ``batch``."""
        return self.expert_value - plain_value(self.mdp, self.policy)

    @cached_property
    def best_value(self) -> Array:
        """``max_π V^π_{r*}``, plain: ``batch``."""
        return self._average(_greatest(self.mdp.dynamics, self.mdp.rewards))

    @cached_property
    def return_range(self) -> Array:
        """Width of the range of ``r*(τ)`` among the responses to one prompt, the largest of all prompts: ``batch``.

        At most ``HR``, and in every gauge of `r*` the same.
        """
        highest, lowest = (_greatest(self.mdp.dynamics, tuple(s * r for r in self.mdp.rewards)) for s in (1.0, -1.0))
        widths = highest + lowest
        widest: Array = array_namespace(widths).max(widths, axis=-1)
        return widest

    @cached_property
    def rl_response(self) -> Responses:
        """What RL on `r̂` plays: the most probable response of `π̂`, one per prompt."""
        return self.chosen_rl_response or map_response(self.policy)

    @cached_property
    def rl_value(self) -> Array:
        """``V^{π_RL}_{r*}``, plain: ``batch``."""
        return self._average(returns(self.mdp, self.rl_response))

    @cached_property
    def rl_shortfall(self) -> Array:
        """``E [max_τ log π̂(τ) − log π̂(τ_RL)]``, nats: how far `rl_response` is from the most probable one.

        Rounding alone, where the response is `map_response`. Every bound on RL holds for *any* response with ``α``
        times this added, so that a tie decided by the last bit of a double voids no verdict.
        """
        greatest = _greatest(self.policy.dynamics, self.policy.log_probs)
        return self._average(greatest - log_prob(self.policy, self.rl_response))

    @cached_property
    def anchored_value(self) -> Array:
        """``V^{π_β}_{r*}``, plain, for ``π_β = argmax_π V^π_{r̂} − β KL(π‖π̂) ∝ π̂^{1+α/β}`` at ``β = α``: ``batch``."""
        return plain_value(self.mdp, power_policy(self.policy, 2.0))

    @cached_property
    def endogenous_soft_values(self) -> tuple[Array, ...]:
        """``V_r̂`` of every state, solved from `r̂` anew."""
        return soft_values(self.endogenous, self.alpha)

    def irl_dual(self, expert: Policy) -> Array:
        """MaxEnt IRL's objective at `r̂` (eq. 6), an expert's law as data: ``E r̂(τ) − E V_r̂(s₁)``: ``batch``."""
        return plain_value(self.endogenous, expert) - self._average(self.endogenous_soft_values[0])

    @cached_property
    def inverse_soft_q_objective(self) -> Array:
        """Inverse soft-Q learning's objective at ``Q̂ = r̂ + V_r̂``, the expert's law as data (eq. 7): ``batch``."""
        values = (*self.endogenous_soft_values, None)
        tables = [
            reward + self.endogenous.dynamics.children(h, values[h + 1]) - values[h][..., None]
            for h, reward in enumerate(self.endogenous.rewards)
        ]
        return self._average(expected_sums(self.expert, tables)[0])

    def regularised(self, policy: Policy) -> Array:
        """``V^π_{r*,α}``: ``batch``."""
        return regularised_value(self.mdp, policy, self.alpha)

    def _average(self, per_prompt: Array) -> Array:
        return self.mdp.dynamics.average(per_prompt)

    # --- Distances between the laws of a response ---

    @cached_property
    def kl_to_expert(self) -> Array:
        """``KL(π̂(τ)‖π_E(τ))``: ``batch``, nats."""
        return kl(self.policy, self.expert)

    @cached_property
    def renyi_to_expert(self) -> Array:
        """``D_2(π̂(τ)‖π_E(τ))``, averaged over prompts: ``batch``, nats."""
        return self._average(renyi(self.policy, self.expert, 2.0))

    @cached_property
    def kl_from_expert(self) -> Array:
        """``KL(π_E(τ)‖π̂(τ))``: ``batch``, nats."""
        return kl(self.expert, self.policy)

    @cached_property
    def affinity(self) -> Array:
        """``BC = Σ_τ √(π_E(τ) π̂(τ))``, averaged over prompts: ``batch``."""
        return self._average(bhattacharyya(self.expert, self.policy))

    @property
    def n_leaves(self) -> int:
        """Number of responses, ``P·V^H``."""
        leaves: int = self.mdp.dynamics.n_prompts * self.mdp.vocab_size**self.horizon
        return leaves

    @cached_property
    def trajectory_tv(self) -> Array:
        """``TV(π_E(τ), π̂(τ))``, averaged over prompts: ``batch``; one where there are over `MAX_LEAVES` responses."""
        if self.n_leaves > MAX_LEAVES:
            return np.ones(self.batch_shape)
        return self._average(trajectory_tv(self.expert, self.policy))

    # --- Responses, and pairs of them ---

    @cached_property
    def responses(self) -> Responses:
        """Responses that are compared, prompt by prompt: all, or `POOL` a prompt where there are more."""
        if self.chosen_responses is not None:
            return self.chosen_responses
        dynamics = self.mdp.dynamics
        V, H, P = dynamics.vocab_size, self.horizon, dynamics.n_prompts
        if V**H <= POOL:
            return all_responses(dynamics)
        rng, third = np.random.default_rng(0), POOL // 3
        tokens = np.array(np.broadcast_to(rng.integers(V, size=(P, POOL, H)), (*self.batch_shape, P, POOL, H)))
        who = np.repeat(np.arange(P), third)
        for k, policy in enumerate((self.expert, self.policy)):  # a third of each, and the unlikely rest
            drawn = sample(policy, P * third, rng, prompts=who).tokens
            tokens[..., k * third : (k + 1) * third, :] = drawn.reshape((*policy.batch_shape, P, third, H))
            tokens[..., k * third, :] = map_response(policy).tokens
        return Responses(np.repeat(np.arange(P), POOL), tokens.reshape((*self.batch_shape, P * POOL, H)))

    @cached_property
    def expert_log_prob(self) -> Array:
        """``log π_E(τ|s₁)`` of `responses`."""
        return log_prob(self.expert, self.responses)

    @cached_property
    def policy_log_prob(self) -> Array:
        """``log π̂(τ|s₁)`` of `responses`."""
        return log_prob(self.policy, self.responses)

    @cached_property
    def true_return(self) -> Array:
        """``r*(τ)`` of `responses`; zero for one that `π_E` never gives."""
        return finite(returns(self.mdp, self.responses), self.expert_log_prob)

    @cached_property
    def telescoped(self) -> Array:
        """``α log π_E(τ|s₁) + V*(s₁)`` of `responses`; zero for one that `π_E` never gives."""
        total = expand(self.temperature, 1) * self.expert_log_prob + self.at_prompt(self.soft_values[0])
        return finite(total, self.expert_log_prob)

    @cached_property
    def endogenous_return(self) -> Array:
        """``r̂(τ)`` of `responses`; zero for one that `π̂` never gives."""
        total = response_sum(self.mdp.dynamics, self.endogenous.rewards, self.responses)
        return finite(total, self.policy_log_prob)

    @cached_property
    def endogenous_telescoped(self) -> Array:
        """``α log π̂(τ|s₁) + V̂(s₁)`` of `responses`; zero for one that `π̂` never gives."""
        total = expand(self.temperature, 1) * self.policy_log_prob
        if self.policy.log_normalizers is not None:
            total = total + expand(self.temperature, 1) * self.at_prompt(self.policy.log_normalizers[0])
        return finite(total, self.policy_log_prob)

    @cached_property
    def resolved_log_prob(self) -> Array:
        """``log π(τ|s₁)`` of `responses` under the soft-optimal policy of `r̂`; zero for one that `π̂` never gives."""
        again = soft_optimal(self.endogenous, self.alpha).policy
        return finite(log_prob(again, self.responses), self.policy_log_prob)

    def at_prompt(self, first_layer: Array) -> Array:
        """A first-layer value ``(*batch, P)`` for each of `responses`."""
        return first_layer[..., np.asarray(self.responses.prompts)]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices ``(i, j)`` of all pairs of the responses to one prompt."""
        return np.triu_indices(len(self.responses.prompts) // self.mdp.dynamics.n_prompts, k=1)

    def differences(self, values: Array) -> Array:
        """``x(τ) − x(τ')`` over `pairs`, for numbers of `responses` ``(*batch, P·N)``: ``(*batch, P, M)``."""
        grouped = values.reshape((*values.shape[:-1], self.mdp.dynamics.n_prompts, -1))
        i, j = self.pairs
        with np.errstate(invalid="ignore"):
            return grouped[..., i] - grouped[..., j]

    @cached_property
    def diverging_steps(self) -> Array:
        """``H − k`` for each pair that shares its first `k` tokens: ``(P, M)``, or ``(*batch, P, M)``."""
        tokens = np.asarray(self.responses.tokens)
        tokens = tokens.reshape((*tokens.shape[:-2], self.mdp.dynamics.n_prompts, -1, self.horizon))
        i, j = self.pairs
        same = np.cumprod(tokens[..., i, :] == tokens[..., j, :], axis=-1)
        steps: Array = self.horizon - same.sum(axis=-1)
        return steps

    @cached_property
    def pair_tv(self) -> Array:
        """``|σ(Δ*) − σ(Δ̂)|`` over pairs: ``(*batch, P, M)``; zero where a response is forbidden."""
        true = self.differences(returns(self.mdp, self.responses))
        read = expand(self.temperature, 2) * self.differences(self.policy_log_prob)
        xp, possible = array_namespace(read), self.pair_possible
        return xp.where(possible, preference_tv(true, xp.where(possible, read, 0.0)), 0.0)

    @cached_property
    def pair_possible(self) -> Array:
        """Pairs of which both policies give both responses: ``(*batch, P, M)``, boolean."""
        never = float("-inf")
        possible = ~(self.expert_log_prob == never) & ~(self.policy_log_prob == never)
        grouped = possible.reshape((*possible.shape[:-1], self.mdp.dynamics.n_prompts, -1))
        i, j = self.pairs
        return grouped[..., i] & grouped[..., j]

    @cached_property
    def pair_log_ratio(self) -> Array:
        """``D(τ) − D(τ')`` over pairs, ``D = log π_E − log π̂``: ``(*batch, P, M)``; infinite or NaN where forbidden."""
        with np.errstate(invalid="ignore"):
            return self.differences(self.expert_log_prob) - self.differences(self.policy_log_prob)

    def pair_mean(self, values: Array) -> Array:
        """Mean over prompts and pairs of different responses: ``(*batch, P, M)`` to ``batch``."""
        different = self.diverging_steps > 0
        weights = different / np.maximum(different.sum(axis=(-2, -1), keepdims=True), 1)
        return (values * weights).sum(axis=(-2, -1))

    # --- Rounding ---

    @cached_property
    def magnitudes(self) -> tuple[float, float, float]:
        """Of both policies: largest finite ``|log π|`` and ``|log normaliser|`` (nats), and ``|Σ_a π(a|s) − 1|``."""
        policies = (self.expert, self.policy)
        logs = max(_largest(p.log_probs) for p in policies)
        gauges = max(_largest(p.log_normalizers or ()) for p in policies)
        defect = max(float(np.abs(np.exp(t).sum(axis=-1) - 1.0).max()) for p in policies for t in p.log_probs)
        return logs, gauges, defect

    def rounding(self, unit: Unit) -> tuple[Array, Array]:
        """Bounds on rounding errors, to first order: of a quantity in `unit`, and of a bound that reads `ε`: ``batch``.

        They are against exact arithmetic on what is stored: rewards and `alpha` as they are, `π_E` the soft-optimal
        policy of them, `π̂` the softmax of its stored log-probabilities.

        Each layer of a sweep adds a few roundings of numbers no larger than what is summed, and a sum over tokens `V`
        of them. A stored log-probability is off by `stored`: the rounding of ``Q/α``, and what its row lacks to sum to
        one. A response's probability is then off by ``H·stored`` of itself, an expected return by that of its greatest
        size, offsets of the reward included. A bound moves with `ε` by at most ``RH² + αH(2 + e^ε log V)`` in reward
        units (the last term, of `bounds.clone_gap_entropy`, up to ``ε = 5``, from where that bound is far above
        anything), ``2H(1 + ε)`` in nats and ``(1 + α)H`` in probability.
        """
        H, alpha = self.horizon, self.temperature
        u = 4 * float(np.finfo(np.float64).eps) * (H + self.mdp.vocab_size)
        logs, gauges, defect = self.magnitudes
        rewards = H * max(map(abs, self.mdp.reward_range))
        nats = H * (1 + logs) + gauges + rewards / alpha
        stored = u * (1 + logs + rewards / alpha) + defect
        finite_epsilon = np.where(np.isfinite(self.epsilon), self.epsilon, 0.0)
        if unit == "reward":
            growth = 2 + np.exp(np.minimum(finite_epsilon, 5.0)) * np.log(self.mdp.vocab_size)
            quantity = (u + H * stored) * (rewards + alpha * nats) + alpha * H * stored
            slope = self.width * H**2 + alpha * H * growth
        elif unit == "nats":
            quantity = (u + H * stored) * nats + H * stored
            slope = 2 * H * (1 + finite_epsilon)
        else:
            quantity = u * (1 + alpha * nats) + (1 + alpha) * H * stored
            slope = (1 + alpha) * H
        return quantity, slope * stored


@lru_cache(maxsize=64)
def single(instance: Instance, index: int) -> Instance:
    """One instance of a batch (`index` counts through it in C order), with the responses that the batch compares.

    The same object for the same arguments, so that what it has computed is kept.
    """

    def pick_one(arrays: Any, inner: int) -> Any:
        """Of arrays with `inner` axes beside those of a batch."""
        if arrays is None:
            return None
        return tuple(x[at] if x.ndim > inner else x for x in arrays)

    at = np.unravel_index(index, instance.batch_shape)

    def pick_policy(policy: Policy) -> Policy:
        tables, normalizers = pick_one(policy.log_probs, 2), pick_one(policy.log_normalizers, 1)
        return replace(policy, log_probs=tables, log_normalizers=normalizers)

    def pick_responses(responses: Responses) -> Responses:
        return Responses(responses.prompts, pick_one((responses.tokens,), 2)[0])

    return Instance(
        replace(instance.mdp, rewards=pick_one(instance.mdp.rewards, 2)),
        pick_policy(instance.expert),
        pick_policy(instance.policy),
        pick_one((instance.temperature,), 0)[0],
        pick_responses(instance.responses),
        pick_responses(instance.rl_response),
    )


def _greatest(dynamics: Dynamics, tables: tuple[Array, ...]) -> Array:
    """Greatest sum of a per-token quantity along a response to each prompt: ``(*batch, P)``."""
    first = best_continuations(dynamics, tables)[0]
    greatest: Array = array_namespace(first).max(first, axis=-1)
    return greatest


def finite(values: Array, where: Array) -> Array:
    """`values`, and zero where the log-probabilities `where` say never."""
    kept: Array = array_namespace(values, where).where(~(where == float("-inf")), values, 0.0)
    return kept


def _largest(tables: Iterable[Array]) -> float:
    """Largest finite absolute value of some arrays."""
    return max((float(np.abs(t[np.isfinite(t)]).max(initial=0.0)) for t in map(np.asarray, tables)), default=0.0)
