"""What a statement is about: an instance ``(mdp, π_E, π̂, α)``, and the quantities that statements
are made of.

Read by a person, a quantity is a double, averaged over the prompts. A verdict reads the same
quantities of `Instance.enclosed`, where they are enclosures (`theory.arrays.enclosure`) and one
for each prompt: what holds for every prompt holds on average over any distribution of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_array,
    constant,
    expand,
    is_enclosure,
    is_torch_array,
    require_positive,
)
from theory.arrays.precision import enclose, precision
from theory.arrays.truth import Truth
from theory.claims import bounds
from theory.mdp.distances import (
    kl,
    log_ratios,
    max_log_ratio,
    renyi,
    squared_hellinger,
    trajectory_tv,
)
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    best_continuations,
    log_prob,
    map_response,
    response_sum,
    sample,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, occupancy, plain_values
from theory.solve.reward import endogenous_reward, preference_tv, returns
from theory.solve.soft import Solution, power_policy, soft_optimal, soft_values

__all__ = ["MAX_LEAVES", "Instance", "Unit", "finite", "single"]

Unit = Literal["reward", "nats", "probability"]

VISITED = 1e-3
"""Share of the responses that must write a token for it to count as visited."""

POOL = 128
"""Responses per prompt among which all pairs are compared: all of them where there are no more."""

EXPERT_WITHIN = 1e-13
"""How far a given ``log π_E`` may be from the solver's, for each nat that a value and a
log-probability hold.
"""

MAX_LEAVES = 1 << 17
"""Responses up to which the total variation between two laws of a response is summed over all of
them.
"""


@dataclass(frozen=True, eq=False)
class Instance:
    """A token MDP, its soft-optimal policy, and a policy that should be close to it.

    Attributes:
        mdp: the true reward `r*`.
        expert: `π_E`, soft-optimal for `mdp` at `alpha`.
        policy: `π̂`, whose endogenous reward is judged.
        alpha: temperature, scalar or ``batch``.
        chosen_responses: the responses to compare; `responses` says which by default.
        chosen_rl_response: what RL on `r̂` plays; the most probable response of `π̂` by default.
        per_prompt: whether quantities are one for each prompt, ``(*batch, P)``, and not averages
            ``batch``.

    Raises:
        ValueError: names the argument: the dynamics or batches do not fit, an array holds NaN,
            `alpha` is not positive and finite, or `expert` is not soft-optimal for `mdp` at
            `alpha`.

    """

    mdp: TokenMDP
    expert: Policy
    policy: Policy
    alpha: Any
    chosen_responses: Responses | None = None
    chosen_rl_response: Responses | None = None
    per_prompt: bool = False

    def __post_init__(self) -> None:
        """Validate, where the arrays are a person's."""
        if not is_enclosure(self.mdp.rewards[0]):
            _validate(self)

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
        """`alpha` as an array that broadcasts with a quantity: ``batch``, or ``(*batch, 1)`` with
        `per_prompt`.
        """
        return expand(self._alpha, 1) if self.per_prompt else self._alpha

    @property
    def _alpha(self) -> Array:
        return as_array(self.alpha)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for a single instance."""
        shapes = [x.batch_shape for x in (self.mdp, self.expert, self.policy)] + [self._alpha.shape]
        return np.broadcast_shapes(*shapes)

    @property
    def counts(self) -> np.ndarray:
        """Prompts that can occur, those of positive weight: ``(P,)``, boolean."""
        possible: np.ndarray = self.mdp.dynamics.prompt_weights > 0
        return possible

    @property
    def numbers(self) -> int:
        """Rewards of one problem of the batch, what its evaluation costs grows with."""
        return self.mdp.dynamics.n_prefixes

    def take(self, index: Any) -> Instance:
        """Some problems of the batch, counted through it in C order, with the responses that the
        batch compares.

        Args:
            index: an integer, for an instance without batch axes, or integers ``(n,)`` for a batch
                of these.

        """
        batch = self.batch_shape
        if not batch:
            return self

        def chosen(arrays: Any, inner: int) -> Any:
            """Of arrays with `inner` axes beside those of the batch."""
            if arrays is None:
                return arrays
            shapes = ((*batch, *x.shape[x.ndim - inner :]) for x in arrays)
            whole = (
                x if x.ndim == inner else np.broadcast_to(x, s)
                for x, s in zip(arrays, shapes, strict=True)
            )
            return tuple(
                x if x.ndim == inner else x.reshape(-1, *x.shape[len(batch) :])[index]
                for x in whole
            )

        def chosen_policy(policy: Policy) -> Policy:
            tables, normalizers = chosen(policy.log_probs, 2), chosen(policy.log_normalizers, 1)
            return replace(policy, log_probs=tables, log_normalizers=normalizers)

        def chosen_responses(responses: Responses) -> Responses:
            return Responses(responses.prompts, chosen((responses.tokens,), 2)[0])

        return _trusted(
            Instance,
            mdp=replace(self.mdp, rewards=chosen(self.mdp.rewards, 2)),
            expert=chosen_policy(self.expert),
            policy=chosen_policy(self.policy),
            alpha=chosen((self._alpha,), 0)[0] if self._alpha.ndim else self.alpha,
            chosen_responses=chosen_responses(self.responses),
            chosen_rl_response=chosen_responses(self.rl_response),
            per_prompt=self.per_prompt,
        )

    def alike(self) -> list[Instance]:
        """The batch, or its problems one by one where their policies have different supports.

        The endogenous reward forbids what its policy never writes, and dynamics are those of a
        whole batch.
        """
        tables = [t.reshape(-1, *t.shape[-2:]) == float("-inf") for t in self.policy.log_probs]
        if not self.batch_shape or all((never == never[:1]).all() for never in tables):
            return [self]
        return [self.take([k]) for k in range(math.prod(self.batch_shape))]

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the enclosures that were computed, which belong to a process."""
        return {name: value for name, value in self.__dict__.items() if name != "_enclosures"}

    def enclosed(self, bits: int) -> Instance:
        """The instance in enclosures of `bits` bits, with one quantity for each prompt.

        It is exact by definition: rewards and `alpha` as they are stored, `π_E` the soft-optimal
        policy of these, `π̂` the softmax of its stored log-probabilities. Read its quantities
        inside ``precision(bits)``.
        """
        with precision(bits):
            batch = self.batch_shape

            def enclosed(arrays: Iterable[Array], inner: int) -> tuple[Any, ...]:
                """With all axes of the batch, which a quantity of some arrays alone would lack."""
                whole = (
                    np.broadcast_to(x, (*batch, *np.shape(x)[np.ndim(x) - inner :])) for x in arrays
                )
                return tuple(enclose(x, bits) for x in whole)

            reward_range: Any = tuple(enclose(end, bits) for end in self.mdp.reward_range)
            mdp = replace(
                self.mdp, rewards=enclosed(self.mdp.rewards, 2), reward_range=reward_range
            )
            (alpha,), gauge = enclosed([self._alpha], 0), self.policy.log_normalizers
            policy = replace(
                Policy.from_logits(self.policy.dynamics, enclosed(self.policy.log_probs, 2)),
                log_normalizers=None if gauge is None else enclosed(gauge, 1),
            )
            expert, values = soft_optimal(mdp, alpha)
        exact = Instance(
            mdp, expert, policy, alpha, self.responses, self.rl_response, per_prompt=True
        )
        exact.__dict__["soft_values"] = values
        return exact

    @cached_property
    def epsilon(self) -> Array:
        """``ε_π``: ``batch``, nats."""
        return max_log_ratio(self.expert, self.policy, per_prompt=self.per_prompt)

    @cached_property
    def epsilon_visited(self) -> Array:
        """``ε_π`` of the tokens that `VISITED` of the responses of `π_E`, or of `π̂`, write:
        ``batch``, nats.
        """
        reached = zip(
            *(self._written(policy) for policy in (self.expert, self.policy)), strict=True
        )
        ratios = log_ratios(self.expert, self.policy)
        layers = [
            np.where(np.maximum(*masses) >= VISITED, np.abs(ratio), 0.0).max(axis=(-2, -1))
            for masses, ratio in zip(reached, ratios, strict=True)
        ]
        return np.stack(layers).max(axis=0)

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
        x, below = (
            np.take_along_axis(x, order, axis=-1),
            np.cumsum(np.take_along_axis(mass, order, axis=-1), axis=-1),
        )
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
    def rl_response(self) -> Responses:
        """What RL on `r̂` plays: the most probable response of `π̂`, one per prompt."""
        return self.chosen_rl_response or map_response(self.policy)

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
    def endogenous_soft_values(self) -> tuple[Array, ...]:
        """``V_r̂`` of every state, solved from `r̂` anew."""
        return self._resolved.values

    @cached_property
    def _resolved(self) -> Solution:
        return soft_optimal(self.endogenous, self.alpha)

    def irl_dual(self, expert: Policy) -> Array:
        """MaxEnt IRL's objective at `r̂` (eq. 6), an expert's law as data: ``E r̂(τ) − E
        V_r̂(s₁)``: ``batch``.
        """
        return self.averaged(
            plain_values(self.endogenous, expert)[0] - self.endogenous_soft_values[0]
        )

    @cached_property
    def inverse_soft_q_objective(self) -> Array:
        """Inverse soft-Q learning's objective at ``Q̂ = r̂ + V_r̂``, the expert's law as data (eq.
        7): ``batch``.
        """
        values = (*self.endogenous_soft_values, None)
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
        return self.averaged(expected_sums(policy, [-table for table in policy.log_probs])[0])

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
        return squared_hellinger(self.expert, self.policy)

    @cached_property
    def pinsker_tv(self) -> Array:
        """``√(KL(π̂(τ)‖π_E(τ))/2)``, and never above one, for each prompt: ``(*batch, P)``."""
        return bounds.tv_pinsker(self._kl_to_expert)

    @property
    def n_leaves(self) -> int:
        """Number of responses, ``P·V^H``."""
        leaves: int = self.mdp.dynamics.n_prompts * self.mdp.vocab_size**self.horizon
        return leaves

    @property
    def has_leaves(self) -> bool:
        """Whether sums over all responses are made: there are at most `MAX_LEAVES` of them."""
        return self.n_leaves <= MAX_LEAVES

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
    def responses(self) -> Responses:
        """Responses that are compared, prompt by prompt: all, or `POOL` a prompt where there are
        more.
        """
        if self.chosen_responses is not None:
            return self.chosen_responses
        dynamics = self.mdp.dynamics
        V, H, P = dynamics.vocab_size, self.horizon, dynamics.n_prompts
        if V**H <= POOL:
            return all_responses(dynamics)
        rng, third = np.random.default_rng(0), POOL // 3
        tokens = np.array(
            np.broadcast_to(rng.integers(V, size=(P, POOL, H)), (*self.batch_shape, P, POOL, H))
        )
        who = np.repeat(np.arange(P), third)
        for k, policy in enumerate(
            (self.expert, self.policy)
        ):  # a third of each, and the unlikely rest
            drawn = sample(policy, P * third, rng, prompts=who).tokens
            tokens[..., k * third : (k + 1) * third, :] = drawn.reshape(
                (*policy.batch_shape, P, third, H)
            )
            tokens[..., k * third, :] = map_response(policy).tokens
        return Responses(
            np.repeat(np.arange(P), POOL), tokens.reshape((*self.batch_shape, P * POOL, H))
        )

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
        grouped = values.reshape((*values.shape[:-1], self.mdp.dynamics.n_prompts, -1))
        i, j = self.pairs
        with np.errstate(invalid="ignore"):
            return grouped[..., i] - grouped[..., j]

    @cached_property
    def diverging_steps(self) -> Array:
        """``H − k`` for each pair that shares its first `k` tokens: ``(P, M)``, or ``(*batch, P,
        M)``.
        """
        tokens = np.asarray(self.responses.tokens)
        tokens = tokens.reshape((*tokens.shape[:-2], self.mdp.dynamics.n_prompts, -1, self.horizon))
        steps = np.empty((*tokens.shape[:-2], len(self.pairs[0])), dtype=np.int64)
        first = 0
        for i in range(
            tokens.shape[-2] - 1
        ):  # a row of pairs at a time: long responses fit into memory
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
        xp, possible = array_namespace(read), self.pair_possible
        true, read = (xp.where(possible, x, 0.0) for x in (true, read))
        return xp.where(possible, preference_tv(true, read), 0.0)

    @cached_property
    def pair_possible(self) -> Array:
        """Pairs of which both policies give both responses, to a prompt that can occur: ``(*batch,
        P, M)``, boolean.
        """
        never = float("-inf")
        possible = ~(self.expert_log_prob == never) & ~(self.policy_log_prob == never)
        grouped = possible.reshape((*possible.shape[:-1], self.mdp.dynamics.n_prompts, -1))
        i, j = self.pairs
        return grouped[..., i] & grouped[..., j] & self.counts[:, None]

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
        kept, xp = Truth.of(self.pair_counts), array_namespace(values)
        n = np.where(
            (kept.certain == kept.possible).all(axis=-1), kept.certain.sum(axis=-1), np.nan
        )
        with np.errstate(invalid="ignore"):
            return xp.sum(xp.where(kept.certain, values, 0.0), axis=-1) / n

    def over_pairs(self, values: Any) -> Array:
        """A quantity of the instance or of each prompt, against pairs ``(*batch, P, M)``."""
        array = as_array(values)
        return expand(array, len(self.batch_shape) + 2 - array.ndim) if array.ndim else array


def single(instance: Instance, index: int) -> Instance:
    """One instance of a batch; see `Instance.take`."""
    return instance.take(index)


def _trusted(kind: type[Instance], **fields: Any) -> Instance:
    """An instance of parts of one that was validated."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _validate(instance: Instance) -> None:
    """Raise `ValueError` unless the parts of an instance fit together and `expert` is what it
    says.
    """
    mdp = instance.mdp
    if isinstance(instance.alpha, str) or np.size(instance.alpha) == 0:
        raise ValueError(
            f"alpha={instance.alpha!r}: must be a positive number, or one for each problem of a "
            "batch"
        )
    alpha = require_positive("alpha", instance.alpha)
    if is_torch_array(alpha):
        raise ValueError("alpha: is a torch tensor; an instance takes NumPy arrays")
    _require_tables("mdp.rewards", mdp.rewards, mdp.dynamics)
    for name, policy in (("expert", instance.expert), ("policy", instance.policy)):
        if not mdp.dynamics.same_as(policy.dynamics):
            sizes = f"V={policy.dynamics.vocab_size}, layers {policy.dynamics.layer_sizes[:4]}…"
            own = f"V={mdp.vocab_size}, layers {mdp.dynamics.layer_sizes[:4]}…"
            raise ValueError(
                f"{name}: has other dynamics ({sizes}) than mdp ({own}); build it on mdp.dynamics"
            )
        _require_tables(f"{name}.log_probs", policy.log_probs, mdp.dynamics, float("-inf"))
        _require_gauge(f"{name}.log_normalizers", policy)
        for h, (table, mask) in enumerate(
            zip(policy.log_probs, policy.dynamics.allowed, strict=True)
        ):
            if (table == float("-inf")).all(axis=-1).any():
                raise ValueError(f"{name}.log_probs[{h}]: forbids every token of some state")
            if mask is not None and (table[..., ~mask] > float("-inf")).any():
                raise ValueError(
                    f"{name}.log_probs[{h}]: a token that its dynamics forbid has probability; use "
                    "-inf there"
                )
    try:
        instance.batch_shape  # noqa: B018 - it raises where they do not fit
    except ValueError:
        shapes = (
            f"mdp {mdp.batch_shape}, expert {instance.expert.batch_shape}, policy "
            f"{instance.policy.batch_shape}"
        )
        raise ValueError(
            f"batch axes do not broadcast: {shapes}, alpha {np.shape(instance.alpha)}"
        ) from None
    _require_responses(instance)
    solved, values = soft_optimal(mdp, alpha)
    largest = max(float(np.abs(value).max()) for value in values) + max(map(abs, mdp.reward_range))
    tolerance = EXPERT_WITHIN * (1 + mdp.horizon * largest / np.asarray(alpha))
    reached = _reached(solved)
    for h, (given, exact) in enumerate(
        zip(instance.expert.log_probs, solved.log_probs, strict=True)
    ):
        with np.errstate(invalid="ignore"):
            apart = np.where(given == exact, 0.0, np.abs(given - exact))
        allowed = expand(tolerance, 2) + EXPERT_WITHIN * np.where(
            np.isfinite(exact), np.abs(exact), 0.0
        )
        wrong = (apart > allowed) & reached[h]
        if wrong.any():
            at = tuple(int(k) for k in np.argwhere(wrong)[0])
            got, want = (np.broadcast_to(x, wrong.shape)[at] for x in (given, exact))
            raise ValueError(
                f"expert: log π_E is {got:.6g} in layer {h} at {at}, and {want:.6g} of the policy "
                "that is soft-optimal "
                f"for mdp at alpha={np.ravel(instance.alpha)[0]:g}; give soft_optimal(mdp, "
                "alpha).policy"
            )


def _require_tables(
    name: str, tables: Sequence[Array], dynamics: Dynamics, exempt: float = 0.0
) -> None:
    """Raise `ValueError` unless there is a NumPy table for each layer, and all numbers are finite
    or `exempt`.
    """
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"{name} has {len(tables)} tables for a horizon of {dynamics.horizon}: one for each "
            "layer"
        )
    for h, table in enumerate(tables):
        if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
            raise ValueError(
                f"{name}[{h}]: is no NumPy array of real floating-point numbers, which an instance "
                "takes"
            )
        if table.shape[-2:] != (dynamics.layer_sizes[h], dynamics.vocab_size):
            wanted = (dynamics.layer_sizes[h], dynamics.vocab_size)
            raise ValueError(
                f"{name}[{h}] has shape {table.shape}: must end in {wanted}, states by tokens"
            )
        bad = ~np.isfinite(table) & ~(table == exempt)
        if bad.any():
            raise ValueError(
                f"{name}[{h}] holds {table[bad][0]} at {tuple(map(int, np.argwhere(bad)[0]))}"
            )


def _require_gauge(name: str, policy: Policy) -> None:
    """Raise `ValueError` unless there are no normalisers or one for each state of each layer, all
    of them finite.
    """
    gauge, sizes = policy.log_normalizers, policy.dynamics.layer_sizes
    if gauge is None:
        return
    if len(gauge) not in (len(sizes), len(sizes) + 1):
        raise ValueError(f"{name} has {len(gauge)} layers for a horizon of {len(sizes)}")
    for h, table in enumerate(gauge):
        if (
            not isinstance(table, np.ndarray)
            or table.dtype.kind != "f"
            or not np.isfinite(table).all()
        ):
            raise ValueError(f"{name}[{h}]: must be a NumPy array of finite numbers")
        if h < len(sizes) and table.shape[-1:] != sizes[h : h + 1]:
            raise ValueError(
                f"{name}[{h}] has shape {table.shape}: must end in {sizes[h]}, one for each state"
            )


def _require_responses(instance: Instance) -> None:
    """Raise `ValueError` unless chosen responses are tokens of the MDP, prompt by prompt and as
    many for each.
    """
    d = instance.mdp.dynamics
    for name in ("chosen_responses", "chosen_rl_response"):
        chosen = getattr(instance, name)
        if chosen is None:
            continue
        prompts, tokens = (np.asarray(x) for x in chosen)
        each = 1 if name == "chosen_rl_response" else len(prompts) // d.n_prompts
        fits = (
            tokens.ndim >= 2
            and tokens.shape[-2:] == (len(prompts), d.horizon)
            and tokens.dtype.kind in "iu"
        )
        if not (fits and each and np.array_equal(prompts, np.repeat(np.arange(d.n_prompts), each))):
            what = f"prompts {prompts.shape}, tokens {tokens.dtype} {tokens.shape}"
            one = name == "chosen_rl_response"
            need = (
                "one response to each prompt, in order"
                if one
                else "as many responses to each prompt, in order"
            )
            raise ValueError(f"{name}: {what}; give {need}, integers (…, N, {d.horizon})")
        if tokens.min() < 0 or tokens.max() >= d.vocab_size:
            raise ValueError(
                f"{name}: holds tokens {tokens.min()} to {tokens.max()}; they are 0 to "
                f"{d.vocab_size - 1}"
            )


def _reached(policy: Policy) -> list[np.ndarray]:
    """States that a prompt of positive weight leads to with positive probability: ``(*batch, n_h,
    1)``, boolean.
    """
    dynamics, layers = policy.dynamics, []
    reached = np.broadcast_to(dynamics.prompt_weights > 0, policy.log_probs[0].shape[:-1])
    for h, table in enumerate(policy.log_probs):
        layers.append(reached[..., None])
        if h + 1 < policy.horizon:
            passed = (reached[..., None] & (table > float("-inf"))).astype(np.float64)
            reached = dynamics.push(h, passed) > 0
    return layers


def _greatest(dynamics: Dynamics, tables: tuple[Array, ...]) -> Array:
    """Greatest sum of a per-token quantity along a response to each prompt: ``(*batch, P)``."""
    first = best_continuations(dynamics, tables)[0]
    greatest: Array = array_namespace(first).max(first, axis=-1)
    return greatest


def finite(values: Array, where: Array) -> Array:
    """`values`, and zero where the log-probabilities `where` say never."""
    kept: Array = array_namespace(values, where).where(~(where == float("-inf")), values, 0.0)
    return kept
