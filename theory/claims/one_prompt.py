"""An instance with one prompt, and what the literature's claims read off it.

`r` is the reward, `π̂` the reference model, whose logits are kept, `π_E` the teacher or the trained
model, and `α` also stands for `β`. There are few responses, so that sums over all of them stand
beside the sweeps that they must agree with.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from theory.arrays.namespace import Array, array_namespace, expand, is_enclosure, soft_maximum
from theory.claims.instance import Instance
from theory.mdp.distances import kl, log_ratios
from theory.mdp.policy import Policy
from theory.mdp.responses import log_prob, response_sum
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, plain_values
from theory.solve.improve import kl_optimal
from theory.solve.reward import with_rewards
from theory.solve.soft import log_softmax

__all__ = ["DISCOUNT", "OnePrompt"]

DISCOUNT = 0.95
"""Discount of the public re-implementations that score with ``Σ γ^{h−1} r̂``."""


class OnePrompt(Instance):
    """An `Instance` with one prompt, all of whose responses are compared.

    Raises:
        ValueError: it is a batch, has several prompts, no logits, or more responses than are
            compared.

    Example:
        >>> from theory.solve.soft import soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> policy = Policy.from_logits(mdp.dynamics, [[[0.0, 0.0]]])
        >>> tree = OnePrompt(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
        >>> print(round(float(tree.log_partition), 4))  # log of (1 + e)/2
        0.6201

    """

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        if is_enclosure(self.mdp.rewards[0]):
            return
        d = self.mdp.dynamics
        compared = len(self.responses.prompts)
        if self.batch_shape or d.n_prompts != 1 or compared != d.vocab_size**d.horizon:
            raise ValueError(
                f"batch {self.batch_shape}, {d.n_prompts} prompts, {compared} responses compared: "
                "must be one problem with one prompt and all of its responses"
            )
        if self.policy.log_normalizers is None:
            raise ValueError("policy has no logits: build it with Policy.from_logits")

    # --- The reference and its logits ---

    @property
    def gauge(self) -> tuple[Array, ...]:
        """``V̂``, the normalisers of the logits by layer, nats."""
        gauge = self.policy.log_normalizers
        assert gauge is not None
        return gauge

    def bellman_sum(self, *, calibrated: bool) -> Array:
        """``Σ_h [q(s_h,a_h) − V_q(s_{h+1})]`` of the logits of `π̂`, nats: what the trajectory
        Bellman residual with ``r = 0`` wants to be ``log π̂(τ)``.

        *Calibrated*: ``V_q(s₁)`` is taken from the logits of the first state, as softmax allows.
        """
        tables = zip(self.policy.log_probs, self.gauge, strict=False)
        logits = [table + value[..., None] for table, value in tables]
        if calibrated:
            logits[0] = logits[0] - self.gauge[0][..., None]
        following: list[Any] = [*map(log_sum, logits[1:]), None]
        d = self.policy.dynamics
        return self.of_responses(
            [q - d.children(h, v) for h, (q, v) in enumerate(zip(logits, following, strict=True))]
        )

    @property
    def calibrated_loss(self) -> Array:
        """Loss of `π_E` by that residual on data of `π̂`, with ``V(s₁) = 0``: the mean square of
        ``log π_E(τ)/π̂(τ)``.
        """
        mean = self.kl_to_expert
        return self.variance(log_ratios(self.policy, self.expert)) + mean * mean

    @property
    def greatest_logit_error(self) -> Array:
        """``δ = max |q − q*|`` over all states and tokens: `q` the logits of `π̂`, `q*` the soft
        Q-values of `r` over `α`.
        """
        greatest: Any = 0.0
        for h, (expert, policy) in enumerate(
            zip(self.expert.log_probs, self.policy.log_probs, strict=True)
        ):
            soft = self.soft_values[h] / expand(self._alpha, 1)
            apart = abs(policy + self.gauge[h][..., None] - expert - soft[..., None])
            xp = array_namespace(apart)
            largest = xp.max(apart.reshape((1, -1)), axis=-1)
            greatest = largest if h == 0 else xp.maximum(greatest, largest)
        return self.averaged(greatest)

    def of_responses(self, tables: Sequence[Array]) -> Array:
        """Sum of a per-token quantity along every response."""
        return response_sum(self.policy.dynamics, tables, self.responses)

    def by_first_token(self, values: Array) -> Array:
        """Numbers of all responses, those with one first token in a row: ``(V, V^{H−1})``."""
        return values.reshape((self.mdp.vocab_size, -1))

    def variance(self, tables: Sequence[Array]) -> Array:
        """Variance of the sum of a per-token quantity along a response of `π̂`."""
        return self.averaged(covariance(self.policy, tables, tables))

    # --- RL on the reward, from the reference ---

    @cached_property
    def _tuned(self) -> Any:
        return kl_optimal(self.mdp, self.policy, self.alpha)

    @property
    def tuned(self) -> Policy:
        """``π_r = argmax_π V^π_r − α KL(π‖π̂)``."""
        policy: Policy = self._tuned.policy
        return policy

    @property
    def tuned_value(self) -> Array:
        """``max_π V^π_r − α KL(π‖π̂)``, by one sweep."""
        return self.averaged(self._tuned.values[0])

    @property
    def log_partition(self) -> Array:
        """``α log E_π̂ e^{r(τ)/α}``, summed over all responses."""
        return self.temperature * log_sum(
            self.policy_log_prob + self.true_return / self.temperature
        )

    def prefix_value(self, total: Array) -> Array:
        """``α log E_π̂[e^{r(τ)/α} | a₁]`` for every first token, summed over continuations."""
        tilted = self.by_first_token(self.policy_log_prob + total / self.temperature)
        plain = self.by_first_token(self.policy_log_prob)
        return self.temperature * (log_sum(tilted) - log_sum(plain))

    def first_log_ratio(self, policy: Policy) -> Array:
        """``α log π(a₁)/π̂(a₁)`` for every first token."""
        return self.temperature * (
            first_row(policy.log_probs[0]) - first_row(self.policy.log_probs[0])
        )

    @property
    def guided_objective(self) -> Array:
        """``V^π_r − α KL(π‖π̂)`` of ``π ∝ π̂ exp(Q^{π̂}/α)``: guided by the plain value of `π̂`."""
        following = (*plain_values(self.mdp, self.policy)[1:], None)
        rows = []
        for h, reward in enumerate(self.mdp.rewards):
            q = reward + self.mdp.dynamics.children(h, following[h])
            rows.append(log_softmax(self.policy.log_probs[h] + q / expand(self._alpha, 2), 1.0))
        guided = Policy(self.policy.dynamics, tuple(rows))
        penalty = expand(self._alpha, 1) * kl(guided, self.policy, per_prompt=True)
        return self.averaged(plain_values(self.mdp, guided)[0] - penalty)

    # --- Other rewards ---

    def distilled(self, *, scale: float) -> Array:
        """``log argmax_π λ E_π log(π_E/π̂) − KL(π‖π̂)`` of every response, `scale` = `λ`."""
        ratios = log_ratios(self.expert, self.policy)
        reward = with_rewards(self.policy.dynamics, tuple(scale * ratio for ratio in ratios))
        return log_prob(kl_optimal(reward, self.policy, 1.0).policy, self.responses)

    def mixed(self, *, scale: float) -> Array:
        """``log π̂^{1−λ} π_E^λ``, normalised, of every response, `scale` = `λ`."""
        return normalised((1 - scale) * self.policy_log_prob + scale * self.expert_log_prob)

    @property
    def certainty(self) -> TokenMDP:
        """Negative entropy of the next token's distribution, for every token alike."""
        return with_rewards(self.policy.dynamics, tuple(self._expected(self.policy.log_probs)))

    @property
    def kl_tables(self) -> list[Array]:
        """``KL(π̂(·|s)‖π_E(·|s))``, for every token alike."""
        return self._expected(log_ratios(self.policy, self.expert))

    def _expected(self, tables: Sequence[Array]) -> list[Array]:
        """``Σ_a π̂(a|s) x(s,a)`` in place of each `x`."""
        found = []
        for log_probs, table in zip(self.policy.log_probs, tables, strict=True):
            xp = array_namespace(log_probs)
            mean = xp.sum(xp.exp(log_probs) * table, axis=-1)[..., None]
            found.append(mean + xp.zeros_like(log_probs))
        return found

    @property
    def vote(self) -> TokenMDP:
        """1 for a response whose last token, its answer, is token 0."""
        tables = [array_namespace(t).zeros_like(t) for t in self.policy.log_probs]
        tables[-1] = tables[-1] + np.where(np.arange(self.mdp.vocab_size) == 0, 1.0, 0.0)
        return with_rewards(self.policy.dynamics, tuple(tables))

    def log_odds(self, policy: Policy) -> Array:
        """Log-odds of the answer 0 against all others."""
        by_answer = log_prob(policy, self.responses).reshape((-1, self.mdp.vocab_size))
        return log_sum(by_answer[..., 0]) - log_sum(by_answer[..., 1:].reshape((-1,)))

    @property
    def discounted_sum(self) -> Array:
        """``Σ_h γ^{h−1} r̂(s_h, a_h)`` in the gauge of the logits."""
        rewards = self.endogenous.rewards
        return self.of_responses([DISCOUNT**h * r for h, r in enumerate(rewards)])

    @property
    def discounted_log_prob(self) -> Array:
        """``α Σ_h γ^{h−1} log π̂(a_h|s_h)``."""
        tables = [DISCOUNT**h * t for h, t in enumerate(self.policy.log_probs)]
        return self.temperature * self.of_responses(tables)

    @property
    def discounted_values(self) -> Array:
        """``Σ_h γ^{h−1} [V̂(s_h) − V̂(s_{h+1})]``, reward units."""
        following: list[Any] = [*self.gauge[1 : self.horizon], None]
        tables = []
        for h, log_probs in enumerate(self.policy.log_probs):
            moved = self.gauge[h][..., None] - self.policy.dynamics.children(h, following[h])
            tables.append(DISCOUNT**h * moved + array_namespace(log_probs).zeros_like(log_probs))
        return self.temperature * self.of_responses(tables)


def log_sum(values: Array) -> Array:
    """``log Σ exp`` over the last axis, nats."""
    return soft_maximum(values, 1.0)


def normalised(scores: Array) -> Array:
    """``log(e^x / Σ e^x)`` over all responses."""
    return scores - log_sum(scores)


def first_row(table: Array) -> Array:
    """The row of the prompt in a table of the first layer: ``(V,)``."""
    return table[..., 0, :]


def last_step(tables: Sequence[Array]) -> list[Array]:
    """The tables with all layers but the last set to zero."""
    return [*(array_namespace(t).zeros_like(t) for t in tables[:-1]), tables[-1]]
