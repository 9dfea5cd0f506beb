"""The quantities of an instance, which statements are made of.

Read by a person, a quantity is a double, averaged over the prompts. A verdict reads the same
quantities of `Problem.enclosed`, where they are enclosures (`theory.arrays.enclosure`) and one for
each prompt: what holds for every prompt holds on average over any distribution of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_array,
    constant,
    expand,
)
from theory.arrays.truth import Truth
from theory.claims import bounds
from theory.claims.problem import Problem
from theory.mdp.distances import (
    best_of_n_kl,
    coverage_profile,
    kl,
    le_cam,
    log_ratios,
    max_log_ratio,
    overlap,
    renyi,
    squared_hellinger,
    trajectory_tv,
)
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    best_continuations,
    log_prob,
    response_sum,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, expected_sums, occupancy, plain_values
from theory.solve.reward import endogenous_reward, preference_tv, returns
from theory.solve.soft import Solution, power_policy, soft_optimal, soft_values

__all__ = ["COVERED", "MAX_LEAVES", "Instance", "finite"]

COVERED = 4
"""Draws of `π̂` of which the best is taken, and for one of `π_E`, from which on a response counts
as badly covered.
"""

VISITED = 1e-3
"""Share of the responses that must write a token for it to count as visited."""

MAX_LEAVES = 1 << 17
"""Responses up to which the total variation between two laws of a response is summed over all of
them.
"""


class Instance(Problem):
    """A `Problem` and every quantity that can be read off it."""

    @cached_property
    def epsilon(self) -> Array:
        """``ε_π``: ``batch``, nats."""
        return max_log_ratio(self.expert, self.policy, per_prompt=self.per_prompt)

    @cached_property
    def epsilon_visited(self) -> Array:
        """``ε_π`` of the tokens that `VISITED` of the responses of `π_E`, or of `π̂`, write:
        ``batch``, nats.
        """
        mass = np.maximum(*(self._flat(self._written(pi)) for pi in (self.expert, self.policy)))
        ratios = self._flat(log_ratios(self.expert, self.policy))
        return np.where(mass >= VISITED, np.abs(ratios), 0.0).max(axis=-1)

    def log_ratio_quantiles(self, shares: Sequence[float]) -> Array:
        """Quantiles of ``|log π_E(a|s) − log π̂(a|s)|`` over what `π_E` writes: ``(*batch,
        len(shares))``, nats.

        A share of 0.99 gives the least `x` that at most one in a hundred of all tokens in responses
        of `π_E` exceeds. Where a state allows a single token, as after the end of a response, that
        is no token that is written.
        """
        x = self._flat(map(np.abs, log_ratios(self.expert, self.policy)))
        chosen = [(t > -np.inf).sum(axis=-1, keepdims=True) > 1 for t in self.expert.log_probs]
        mass = self._flat(m * c for m, c in zip(self._written(self.expert), chosen, strict=True))
        mass = mass / np.maximum(mass.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        order = np.argsort(x, axis=-1)
        x = np.take_along_axis(x, order, axis=-1)
        below = np.cumsum(np.take_along_axis(mass, order, axis=-1), axis=-1)
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
        """Probability that a response passes a state and writes a token there: `H` tables
        ``(*batch, n_h, V)``.
        """
        return [
            d[..., None] * np.exp(t)
            for d, t in zip(occupancy(policy), policy.log_probs, strict=True)
        ]

    @cached_property
    def endogenous(self) -> TokenMDP:
        """`r̂` in the policy's own gauge (``logprob`` where it carries no logits)."""
        gauge: Literal["logits", "logprob"] = (
            "logprob" if self.policy.log_normalizers is None else "logits"
        )
        return endogenous_reward(self.policy, self.alpha, gauge=gauge)

    # --- Values ---

    @cached_property
    def soft_value(self) -> Array:
        """``E V*(s₁)``: ``batch``."""
        return self.averaged(self.soft_values[0])

    @cached_property
    def soft_values(self) -> tuple[Array, ...]:
        """``V*`` of every state."""
        return soft_values(self.mdp, self.alpha)

    @cached_property
    def expert_value(self) -> Array:
        """``V^{π_E}_{r*}``, plain: ``batch``."""
        return self._plain(self.expert)

    @cached_property
    def clone_gap(self) -> Array:
        """``V^{π_E}_{r*} − V^{π̂}_{r*}``, plain: ``batch``."""
        return self.expert_value - self._plain(self.policy)

    @cached_property
    def best_value(self) -> Array:
        """``max_π V^π_{r*}``, plain: ``batch``."""
        return self.averaged(_greatest(self.mdp.dynamics, self.mdp.rewards))

    @cached_property
    def return_range(self) -> Array:
        """Width of the range of ``r*(τ)`` among the responses to one prompt, averaged: ``batch``.

        At most ``HR``, and in every gauge of `r*` the same. No gap in value can be more.
        """
        return self.averaged(self._return_ranges)

    @cached_property
    def _return_ranges(self) -> Array:
        highest, lowest = (
            _greatest(self.mdp.dynamics, tuple(s * r for r in self.mdp.rewards))
            for s in (1.0, -1.0)
        )
        return highest + lowest

    def clone_bound(self, tv: Array) -> Array:
        """``E [R_τ(s₁) · TV(s₁)]`` for a bound on the total variation of each prompt ``(*batch,
        P)``: ``batch``.
        """
        return self.averaged(self._return_ranges * tv)

    @cached_property
    def clone_bound_of_variance(self) -> Array:
        """``√(Σ(√π_E − √π̂)²) · min_c √(Σ(√π_E + √π̂)²(r* − c)²)``, averaged over prompts:
        ``batch``.
        """
        between, log_affinity = overlap(self.expert, self.policy)
        affinity = array_namespace(log_affinity).exp(log_affinity)
        laws = (self.expert, self.policy, between)
        return self.averaged(
            bounds.clone_gap_variance(
                2 * self._squared_hellinger,
                (constant(1.0, affinity), constant(1.0, affinity), 2 * affinity),
                *self._return_moments(laws),
            )
        )

    @cached_property
    def clone_bound_of_le_cam(self) -> Array:
        """``√(Σ(π_E − π̂)²/(π_E + π̂)) · min_c √(Σ(π_E + π̂)(r* − c)²)``, averaged over prompts:
        ``batch``; `return_range` where there are over `MAX_LEAVES` responses.
        """
        if not self.has_leaves:
            return self.return_range
        distance = le_cam(self.expert, self.policy)
        one = constant(1.0, distance)
        moments = self._return_moments((self.expert, self.policy))
        return self.averaged(bounds.clone_gap_variance(distance, (one, one), *moments))

    def _return_moments(self, laws: Sequence[Policy]) -> tuple[list[Array], list[Array]]:
        """Mean and variance of the return under each law, for each prompt."""
        rewards = self.mdp.rewards
        means = [plain_values(self.mdp, law)[0] for law in laws]
        return means, [covariance(law, rewards, rewards) for law in laws]

    @cached_property
    def rl_value(self) -> Array:
        """``V^{π_RL}_{r*}``, plain: ``batch``."""
        return self.averaged(returns(self.mdp, self.rl_response))

    @cached_property
    def rl_shortfall(self) -> Array:
        """``E [max_τ log π̂(τ) − log π̂(τ_RL)]``, nats: how far `rl_response` is from the most
        probable one.

        Rounding alone, where the response is `map_response`. Every bound on RL holds for *any*
        response with ``α`` times this added, so that a tie decided by the last bit of a double
        voids no verdict.
        """
        greatest = _greatest(self.policy.dynamics, self.policy.log_probs)
        return self.averaged(greatest - log_prob(self.policy, self.rl_response))

    @cached_property
    def anchored_value(self) -> Array:
        """``V^{π_β}_{r*}``, plain, for ``π_β = argmax_π V^π_{r̂} − β KL(π‖π̂) ∝ π̂^{1+α/β}`` at ``β
        = α``: ``batch``.
        """
        return self._plain(power_policy(self.policy, 2.0))

    @cached_property
    def _resolved(self) -> Solution:
        """Soft-optimal policy and values of `r̂`, solved anew."""
        return soft_optimal(self.endogenous, self.alpha)

    def irl_dual(self, expert: Policy) -> Array:
        """MaxEnt IRL's objective at `r̂` (eq. 6), an expert's law as data: ``E r̂(τ) − E
        V_r̂(s₁)``: ``batch``.
        """
        return self.averaged(plain_values(self.endogenous, expert)[0] - self._resolved.values[0])

    @cached_property
    def inverse_soft_q_objective(self) -> Array:
        """Inverse soft-Q learning's objective at ``Q̂ = r̂ + V_r̂``, the expert's law as data (eq.
        7): ``batch``.
        """
        values = (*self._resolved.values, None)
        tables = [
            reward + self.endogenous.dynamics.children(h, values[h + 1]) - values[h][..., None]
            for h, reward in enumerate(self.endogenous.rewards)
        ]
        return self.averaged(expected_sums(self.expert, tables)[0])

    def regularised(self, policy: Policy) -> Array:
        """``V^π_{r*,α}``: ``batch``."""
        return self._plain(policy) + self.temperature * self.entropy(policy)

    def entropy(self, policy: Policy) -> Array:
        """``H(π(τ))``: ``batch``, nats."""
        return -self.expected_log_prob(policy, policy)

    def expected_log_prob(self, policy: Policy, other: Policy) -> Array:
        """``E_π log π'(τ|s₁)``: ``batch``, nats."""
        return self.averaged(expected_sums(policy, other.log_probs)[0])

    def _plain(self, policy: Policy) -> Array:
        return self.averaged(plain_values(self.mdp, policy)[0])

    def averaged(self, values: Array) -> Array:
        """Values ``(*batch, P)`` as they are, or averaged over the prompts."""
        return values if self.per_prompt else self.mdp.dynamics.average(values)

    # --- Distances between the laws of a response ---

    @cached_property
    def kl_to_expert(self) -> Array:
        """``KL(π̂(τ)‖π_E(τ))``: ``batch``, nats."""
        return self.averaged(self._kl_to_expert)

    @cached_property
    def _kl_to_expert(self) -> Array:
        return kl(self.policy, self.expert, per_prompt=True)

    @cached_property
    def hellinger(self) -> Array:
        """``1 − BC``, the squared Hellinger distance, averaged over prompts: ``batch``."""
        return self.averaged(self._squared_hellinger)

    @cached_property
    def coverage(self) -> Array:
        """``P_{π_E}[π_E(τ) ≥ N π̂(τ)]`` for ``N`` = `COVERED`, averaged over prompts: ``batch``; one
        where there are over `MAX_LEAVES` responses.
        """
        if self.has_leaves:
            return self.averaged(coverage_profile(self.expert, self.policy, COVERED))
        return self.trajectory_tv

    @cached_property
    def best_of_n_kl(self) -> Array:
        """``KL(BoN‖π̂)`` of the best by `r̂` of `COVERED` draws of `π̂`, averaged over prompts:
        ``batch``, nats; that of the most probable response where there are over `MAX_LEAVES`.
        """
        if self.has_leaves:
            return self.averaged(best_of_n_kl(self.policy, COVERED))
        return self.averaged(-_greatest(self.policy.dynamics, self.policy.log_probs))

    @cached_property
    def tv_of_one_response(self) -> Array:
        """``D² + 2√η·D``, ``D² = 2(1 − BC)`` and ``η = 1 − max_τ π_E(τ)``, and never above one, for
        each prompt: ``(*batch, P)``.
        """
        greatest = _greatest(self.expert.dynamics, self.expert.log_probs)
        missing = -array_namespace(greatest).expm1(greatest)
        return bounds.tv_of_one_response(self._squared_hellinger, missing)

    # --- Length: states with a choice on the way ---

    @cached_property
    def _choices(self) -> list[np.ndarray]:
        """Whether a state allows more than one token, for each token alike: `H` tables ``(n_h, V)``
        of zeros and ones.
        """
        d = self.mdp.dynamics
        V = d.vocab_size
        counts = [
            np.full(n, V) if mask is None else mask.sum(axis=-1)
            for n, mask in zip(d.layer_sizes, d.allowed, strict=True)
        ]
        return [np.repeat((count > 1.0)[:, None], V, axis=1).astype(float) for count in counts]

    def choices(self, policy: Policy) -> Array:
        """``E_π[T]``, the expected number of states with a choice on the way: ``batch``."""
        tables = [constant(table, policy.log_probs[0]) for table in self._choices]
        return self.averaged(expected_sums(policy, tables)[0])

    @cached_property
    def rl_choices(self) -> Array:
        """``T`` of `rl_response`, averaged over prompts: ``batch``."""
        return self.averaged(response_sum(self.mdp.dynamics, self._choices, self.rl_response))

    @cached_property
    def pair_choices(self) -> np.ndarray:
        """``T + T'`` of each pair, from where its responses part: ``(P, M)``, or ``(*batch, P,
        M)``.
        """
        prompts, tokens = self.responses
        d = self.mdp.dynamics
        tokens = np.asarray(tokens)
        to_go = np.zeros((*tokens.shape[:-1], self.horizon + 1))
        states = d.walk(prompts, tokens)
        for h in reversed(range(self.horizon)):
            to_go[..., h] = to_go[..., h + 1] + self._choices[h][np.asarray(states[h]), 0]
        shape = (*tokens.shape[:-2], d.n_prompts, -1, self.horizon + 1)
        to_go = to_go.reshape(shape)
        parted = self.horizon - self.diverging_steps
        outer = np.ogrid[tuple(map(slice, parted.shape))][:-1]  # of the batch, and of the prompts
        first, second = (to_go[(*outer, side, parted)] for side in self.pairs)
        total: np.ndarray = first + second
        return total

    @cached_property
    def renyi_to_expert(self) -> Array:
        """``D_2(π̂(τ)‖π_E(τ))``, averaged over prompts: ``batch``, nats."""
        return self.averaged(renyi(self.policy, self.expert, 2.0))

    @cached_property
    def kl_from_expert(self) -> Array:
        """``KL(π_E(τ)‖π̂(τ))``: ``batch``, nats."""
        return kl(self.expert, self.policy, per_prompt=self.per_prompt)

    @cached_property
    def hellinger_tv(self) -> Array:
        """``√(1 − BC²)`` for each prompt: ``(*batch, P)``."""
        return bounds.tv_hellinger(self._squared_hellinger)

    @cached_property
    def _squared_hellinger(self) -> Array:
        """``1 − BC`` for each prompt: ``(*batch, P)``."""
        return squared_hellinger(self.expert, self.policy)

    @cached_property
    def pinsker_tv(self) -> Array:
        """``√(KL(π̂(τ)‖π_E(τ))/2)``, and never above one, for each prompt: ``(*batch, P)``."""
        return bounds.tv_pinsker(self._kl_to_expert)

    @property
    def has_leaves(self) -> bool:
        """Whether sums over all ``P·V^H`` responses are made: they are at most `MAX_LEAVES`."""
        return bool(self.mdp.dynamics.n_prompts * self.mdp.vocab_size**self.horizon <= MAX_LEAVES)

    @cached_property
    def trajectory_tv(self) -> Array:
        """``TV(π_E(τ), π̂(τ))``, averaged over prompts: ``batch``; one where there are over
        `MAX_LEAVES` responses.
        """
        return self.averaged(self.response_tv)

    @cached_property
    def response_tv(self) -> Array:
        """`trajectory_tv` for each prompt: ``(*batch, P)``."""
        if self.has_leaves:
            return trajectory_tv(self.expert, self.policy)
        return constant(
            np.ones((*self.batch_shape, self.mdp.dynamics.n_prompts)), self.policy.log_probs[0]
        )

    # --- Responses, and pairs of them ---

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
        total = expand(self._alpha, 1) * self.expert_log_prob + self.at_prompt(self.soft_values[0])
        return finite(total, self.expert_log_prob)

    @cached_property
    def endogenous_return(self) -> Array:
        """``r̂(τ)`` of `responses`; zero for one that `π̂` never gives."""
        total = response_sum(self.mdp.dynamics, self.endogenous.rewards, self.responses)
        return finite(total, self.policy_log_prob)

    @cached_property
    def endogenous_telescoped(self) -> Array:
        """``α log π̂(τ|s₁) + V̂(s₁)`` of `responses`; zero for one that `π̂` never gives."""
        total = expand(self._alpha, 1) * self.policy_log_prob
        if self.policy.log_normalizers is not None:
            total = total + expand(self._alpha, 1) * self.at_prompt(self.policy.log_normalizers[0])
        return finite(total, self.policy_log_prob)

    @cached_property
    def later_gauge(self) -> Array:
        """``Σ_{h≥2} V̂(s_h)`` of `responses`, reward units: what their `endogenous_return` loses and
        gains again; zero for one that `π̂` never gives.
        """
        total = response_sum(self.mdp.dynamics, self._later_gauge, self.responses)
        return finite(expand(self._alpha, 1) * total, self.policy_log_prob)

    def expected_later_gauge(self, policy: Policy) -> Array:
        """``E_π Σ_{h≥2} V̂(s_h)``: ``batch``, reward units."""
        return self.temperature * self.averaged(expected_sums(policy, self._later_gauge)[0])

    @cached_property
    def _later_gauge(self) -> list[Array]:
        """``V̂`` of the state after each token, nats."""
        log_probs = self.policy.log_probs
        gauge = self.policy.log_normalizers
        zero = [array_namespace(t).zeros_like(t) for t in log_probs]
        if gauge is None:
            return zero
        following = [*gauge[1 : self.horizon], None]
        d = self.policy.dynamics
        return [z + d.children(h, v) for h, (z, v) in enumerate(zip(zero, following, strict=True))]

    @cached_property
    def myopic_log_prob(self) -> Array:
        """``log π(τ|s₁)`` of `responses` under ``π ∝ e^{r̂/α}``, token by token; zero for one that
        `π̂` never gives.
        """
        logits = [table / expand(self._alpha, 2) for table in self.endogenous.rewards]
        myopic = Policy.from_logits(self.endogenous.dynamics, logits)
        return finite(log_prob(myopic, self.responses), self.policy_log_prob)

    @cached_property
    def resolved_log_prob(self) -> Array:
        """``log π(τ|s₁)`` of `responses` under the soft-optimal policy of `r̂`; zero for one that
        `π̂` never gives.
        """
        return finite(log_prob(self._resolved.policy, self.responses), self.policy_log_prob)

    def at_prompt(self, first_layer: Array) -> Array:
        """A first-layer value ``(*batch, P)`` for each of `responses`."""
        return first_layer[..., np.asarray(self.responses.prompts)]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices ``(i, j)`` of all pairs of the responses to one prompt."""
        return np.triu_indices(len(self.responses.prompts) // self.mdp.dynamics.n_prompts, k=1)

    def differences(self, values: Array) -> Array:
        """``x(τ) − x(τ')`` over `pairs`, for numbers of `responses` ``(*batch, P·N)``: ``(*batch,
        P, M)``.
        """
        first, second = self._of_pairs(values)
        with np.errstate(invalid="ignore"):
            return first - second

    def _of_pairs(self, values: Array) -> tuple[Array, Array]:
        """Numbers of `responses`, of the first and of the second of each pair."""
        grouped = values.reshape((*values.shape[:-1], self.mdp.dynamics.n_prompts, -1))
        i, j = self.pairs
        return grouped[..., i], grouped[..., j]

    @cached_property
    def diverging_steps(self) -> Array:
        """``H − k`` for each pair that shares its first `k` tokens: ``(P, M)``, or ``(*batch, P,
        M)``.
        """
        tokens = np.asarray(self.responses.tokens)
        tokens = tokens.reshape((*tokens.shape[:-2], self.mdp.dynamics.n_prompts, -1, self.horizon))
        steps = np.empty((*tokens.shape[:-2], len(self.pairs[0])), dtype=np.int64)
        first = 0
        # a row of pairs at a time: long responses fit into memory
        for i in range(tokens.shape[-2] - 1):
            differ = tokens[..., i : i + 1, :] != tokens[..., i + 1 :, :]
            last = first + differ.shape[-2]
            parted = self.horizon - np.argmax(differ, axis=-1)
            steps[..., first:last] = np.where(differ.any(axis=-1), parted, 0)
            first = last
        return steps

    @cached_property
    def pair_tv(self) -> Array:
        """``|σ(Δ*) − σ(Δ̂)|`` over pairs: ``(*batch, P, M)``; zero where a response is
        forbidden.
        """
        true = self.differences(self.true_return)
        read = expand(self._alpha, 2) * self.differences(self.policy_log_prob)
        xp = array_namespace(read)
        possible = self.pair_possible
        return preference_tv(*(xp.where(possible, x, 0.0) for x in (true, read)))

    @cached_property
    def pair_possible(self) -> Array:
        """Pairs of which both policies give both responses, to a prompt that can occur: ``(*batch,
        P, M)``, boolean.
        """
        never = float("-inf")
        possible = ~(self.expert_log_prob == never) & ~(self.policy_log_prob == never)
        first, second = self._of_pairs(possible)
        return first & second & self.counts[:, None]

    @cached_property
    def pair_log_ratio(self) -> Array:
        """``D(τ) − D(τ')`` over pairs, ``D = log π_E − log π̂``: ``(*batch, P, M)``; infinite or
        NaN where forbidden.
        """
        with np.errstate(invalid="ignore"):
            return self.differences(self.expert_log_prob) - self.differences(self.policy_log_prob)

    @cached_property
    def pair_counts(self) -> Array:
        """Pairs of different responses that both policies give: ``(*batch, P, M)``, boolean."""
        return self.pair_possible & (self.diverging_steps > 0)

    def pair_mean(self, values: Array) -> Array:
        """Mean over `pair_counts`, of each prompt: ``(*batch, P, M)`` to ``(*batch, P)``.

        NaN where there are none, and where it is not known which.
        """
        kept = Truth.of(self.pair_counts)
        xp = array_namespace(values)
        n = np.where(
            (kept.certain == kept.possible).all(axis=-1), kept.certain.sum(axis=-1), np.nan
        )
        with np.errstate(invalid="ignore"):
            return xp.sum(xp.where(kept.certain, values, 0.0), axis=-1) / n

    def over_pairs(self, values: Any) -> Array:
        """A quantity of the instance or of each prompt, against pairs ``(*batch, P, M)``."""
        array = as_array(values)
        return expand(array, len(self.batch_shape) + 2 - array.ndim)


def _greatest(dynamics: Dynamics, tables: tuple[Array, ...]) -> Array:
    """Greatest sum of a per-token quantity along a response to each prompt: ``(*batch, P)``."""
    first = best_continuations(dynamics, tables)[0]
    greatest: Array = array_namespace(first).max(first, axis=-1)
    return greatest


def finite(values: Array, where: Array) -> Array:
    """Return `values`, and zero where the log-probabilities `where` say never.

    >>> finite(np.array([1.5, np.nan]), where=np.log([0.5, 0.5]) * [1, np.inf]).tolist()
    [1.5, 0.0]
    """
    kept: Array = array_namespace(values, where).where(~(where == float("-inf")), values, 0.0)
    return kept
