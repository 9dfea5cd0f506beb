"""The statements without end: what `theory.claims.instance` and `theory.claims.statements` are for
a finite horizon.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_array,
    expand,
    require_positive_number,
)
from theory.arrays.precision import enclose, precision
from theory.claims import bounds
from theory.claims.quantities import Quantities
from theory.claims.statement import Quantity, Statement, Statements
from theory.claims.statements import CLONE_GAP, CLONING, DISTANCES, PREFERENCES, REWARDS, RL
from theory.mdp.discounted import DiscountedMDP, reachable, require_stationary
from theory.mdp.distances import divergence_terms
from theory.solve.discounted import endogenous_reward
from theory.solve.fixed_point import fixed_point, maxima, means, soft_maxima
from theory.solve.reward import preference_tv
from theory.solve.soft import greedy_rows, log_softmax

__all__ = ["DISCOUNTED_STATEMENTS", "DiscountedInstance"]

SHARED_STEPS = (0, 1, 3)
"""Numbers of shared first tokens for which preferences are compared."""


class DiscountedInstance:
    """Hold the quantities of `theory.claims.instance.Instance` without a last token.

    They have the same names; each has one number for each state, ``(n,)``.

    `horizon` is ``1/(1−γ)``. A response is a first token and then a deterministic stationary
    policy: the best of `r*`, the best of `r̂`, those along which ``log π_E − log π̂`` adds up to
    most and to least. All ``(n, 4V)`` are compared.

    Attributes:
        mdp: the true reward `r*`, as doubles.
        alpha: temperature, a number.
        policy: `π̂`, ``(n, V)``, log-probabilities.
        rewards: `r*`, ``(n, V)``.
        gauge: `V̂`, ``(n,)``.
        batch_shape: none.

    Example:
        >>> mdp = DiscountedMDP.window([[0.0, 1.0], [1.0, 0.0]], 1, 0.5)
        >>> instance = DiscountedInstance(mdp, np.log(np.full((2, 2), 0.5)), alpha=1.0)
        >>> float(instance.horizon), instance.batch_shape
        (2.0, ())

    """

    batch_shape: tuple[int, ...] = ()

    def __init__(
        self, mdp: DiscountedMDP, policy: Array, alpha: float, gauge: Array | None = None
    ) -> None:
        """Validate.

        Args:
            mdp: the true reward `r*`.
            policy: `π̂`, ``(n, V)``, log-probabilities, all of them finite.
            alpha: temperature, a number. `π_E` is soft-optimal at it.
            gauge: `V̂`, ``(n,)``, in which the reward of `π̂` is read; zero by default.

        Raises:
            ValueError: names the argument and the value.

        """
        endogenous_reward(
            mdp, policy, alpha, gauge
        )  # refuses what is not a policy, a temperature or a gauge
        self.mdp = mdp
        self.alpha = require_positive_number("alpha", alpha)
        self.policy: Array = require_stationary("policy", policy, mdp)[0]
        self.rewards: Array = mdp.rewards
        self.gauge: Array = (
            np.zeros(len(mdp.rewards)) if gauge is None else np.asarray(gauge, float)
        )
        self.discount: Array = np.asarray(mdp.discount)
        self.temperature: Array = np.asarray(self.alpha)
        self.width: Array = mdp.reward_width

    def __repr__(self) -> str:
        """One line: no arrays."""
        return f"<{type(self).__name__} {self.mdp}, α: {self.alpha}>"

    def enclosed(self, bits: int) -> DiscountedInstance:
        """The instance in enclosures of `bits` bits; read its quantities inside
        ``precision(bits)``.

        It is exact by definition: rewards, `γ`, `α` and gauge as they are stored, `π_E` the
        soft-optimal policy of these, `π̂` the softmax of its stored log-probabilities.
        """
        exact = object.__new__(DiscountedInstance)
        with precision(bits):
            stored = (self.mdp.rewards, self.gauge, self.discount, self.temperature)
            exact.rewards, exact.gauge, exact.discount, exact.temperature = (
                enclose(x, bits) for x in stored
            )
            low, high = (enclose(end, bits) for end in self.mdp.reward_range)
            exact.mdp = self.mdp
            exact.alpha = self.alpha
            exact.width = high - low
            exact.policy = log_softmax(enclose(self.policy, bits), 1.0)
        # what is chosen is chosen in doubles, and evaluated in enclosures
        exact.__dict__ |= {
            "continuations": self.continuations,
            "counts": self.counts,
            "_reached": self._reached,
        }
        return exact

    def take(self, index: Any) -> DiscountedInstance:
        """The instance itself: it is no batch."""
        return self

    def alike(self) -> list[DiscountedInstance]:
        """The instance itself: it is no batch."""
        return [self]

    @property
    def numbers(self) -> int:
        """Rewards, what its evaluation costs grows with."""
        return int(self.mdp.rewards.size)

    @cached_property
    def horizon(self) -> Any:
        """``1/(1−γ)``, what stands for `H`."""
        return bounds.effective_horizon(self.discount)

    @cached_property
    def counts(self) -> np.ndarray:
        """States that a first state of positive weight leads to: ``(n,)``, boolean."""
        return np.asarray(self._reached[self.mdp.initial_weights > 0].any(axis=0))

    @cached_property
    def _reached(self) -> np.ndarray:
        return reachable(self.mdp)

    @cached_property
    def epsilon(self) -> Array:
        """``ε_π`` over the states that a state leads to: ``(n,)``, nats."""
        ratios = np.abs(self.expert - self.policy)
        xp = array_namespace(ratios)
        own = xp.max(ratios, axis=-1)
        sets, which = np.unique(self._reached, axis=0, return_inverse=True)
        return xp.max(xp.where(sets, own, 0.0), axis=-1)[which.reshape(-1)]

    # --- Values ---

    def _soft(self, table: Array) -> tuple[Array, Array]:
        """Soft-optimal policy and soft values of a reward."""
        values = fixed_point(self.mdp, table, soft_maxima, self.temperature)
        q = self._then(table, values)
        if isinstance(q, np.ndarray):
            return log_softmax(q, self.alpha), values
        return (q - values[:, None]) / self.temperature, values

    def _then(self, table: Array, values: Array) -> Array:
        """A quantity of a token plus the discounted value of the state after it: ``(n, V)``."""
        return table + self.discount * values[self.mdp.next_states]

    def expected(self, policy: Array, table: Array) -> Array:
        """``E_π Σ_h γ^{h−1} x(s_h, a_h)`` from each state: ``(n,)``."""
        return fixed_point(self.mdp, table, means, policy)

    @cached_property
    def _solution(self) -> tuple[Array, Array]:
        return self._soft(self.rewards)

    @property
    def expert(self) -> Array:
        """`π_E`: ``(n, V)``, log-probabilities."""
        return self._solution[0]

    @property
    def soft_value(self) -> Array:
        """``V*``."""
        return self._solution[1]

    @cached_property
    def endogenous(self) -> Array:
        """`r̂`, ``(n, V)``."""
        following = self.discount * self.gauge[self.mdp.next_states]
        return self.temperature * self.policy + (self.gauge[:, None] - following)

    @cached_property
    def later_gauge(self) -> Array:
        """``Σ_{h≥2} γ^{h−1} V̂(s_h)`` of all responses: ``(n, 4V)``."""
        return self._sums(self.discount * self.gauge[self.mdp.next_states] + 0.0 * self.endogenous)

    @cached_property
    def myopic_log_prob(self) -> Array:
        """``π ∝ e^{r̂/α}``: ``(n, V)``, nats."""
        return log_softmax(self.endogenous, self.temperature)

    @cached_property
    def resolved_log_prob(self) -> Array:
        """The soft-optimal policy of `r̂`: ``(n, V)``, nats."""
        return self._soft(self.endogenous)[0]

    @property
    def policy_log_prob(self) -> Array:
        """`π̂`: ``(n, V)``, nats."""
        return self.policy

    @cached_property
    def expert_value(self) -> Array:
        """``V^{π_E}``, plain."""
        return self.expected(self.expert, self.rewards)

    @cached_property
    def clone_gap(self) -> Array:
        """``V^{π_E} − V^{π̂}``, plain."""
        return self.expert_value - self.expected(self.policy, self.rewards)

    @cached_property
    def best_value(self) -> Array:
        """``max_π V^π``, plain."""
        return fixed_point(self.mdp, self.rewards, maxima)

    @cached_property
    def return_range(self) -> Array:
        """Width of the range of the discounted return; no gap in value can be more."""
        return self.best_value + fixed_point(self.mdp, -self.rewards, maxima)

    @cached_property
    def rl_value(self) -> Array:
        """``V^{π_RL}`` under `r*`, plain; `π_RL` is the second of `continuations`."""
        return self.expected(self.continuations[1], self.rewards)

    @cached_property
    def rl_shortfall(self) -> Array:
        """How far `π_RL` is from the best that `r̂` allows, over `α`: nats."""
        best = fixed_point(self.mdp, self.endogenous, maxima)
        return (best - self.expected(self.continuations[1], self.endogenous)) / self.temperature

    @cached_property
    def anchored_value(self) -> Array:
        """``V^{π_β}`` for ``π_β = argmax_π V^π_{r̂} − β KL(π‖π̂)`` at ``β = α``, plain."""
        anchored, _ = self._soft(2.0 * self.temperature * self.policy)  # both in one reward
        return self.expected(anchored, self.rewards)

    def regularised(self, policy: Array) -> Array:
        """``V^π_{r*,α}``, rewards and entropies discounted alike."""
        return self.expected(policy, self.rewards - self.temperature * policy)

    # --- Distances between the policies ---

    def _divergence(self, policy: Array, other: Array) -> Array:
        rows = divergence_terms(policy, other, policy - other)
        xp = array_namespace(rows)
        return self.expected(policy, xp.broadcast_to(xp.sum(rows, axis=-1)[:, None], rows.shape))

    @cached_property
    def kl_to_expert(self) -> Array:
        """Discounted ``KL(π̂‖π_E)``, nats."""
        return self._divergence(self.policy, self.expert)

    @cached_property
    def kl_from_expert(self) -> Array:
        """Discounted ``KL(π_E‖π̂)``, nats."""
        return self._divergence(self.expert, self.policy)

    @cached_property
    def pinsker_tv(self) -> Array:
        """``√(KL_γ(π̂‖π_E)/2)``, and never above one."""
        return bounds.tv_pinsker(self.kl_to_expert)

    def clone_bound(self, tv: Array) -> Array:
        """``R·TV/(1−γ)``."""
        return self.width * self.horizon * tv

    # --- Responses, and pairs of them ---

    @cached_property
    def continuations(self) -> tuple[Array, ...]:
        """The deterministic policies of responses: tables ``(n, V)`` of log-probabilities, 0 and
        ``−∞``.
        """
        log_ratio = self.expert - self.policy
        return tuple(
            greedy_rows(self._then(x, fixed_point(self.mdp, x, maxima)))
            for x in (self.rewards, self.endogenous, log_ratio, -log_ratio)
        )

    def _sums(self, table: Array) -> Array:
        """Sum of a per-token quantity along all responses: ``(n, 4V)``."""
        each = [self._then(table, self.expected(policy, table)) for policy in self.continuations]
        return array_namespace(table).concatenate(each, axis=1)

    @cached_property
    def true_return(self) -> Array:
        """Discounted `r*` of all responses: ``(n, 4V)``."""
        return self._sums(self.rewards)

    @cached_property
    def endogenous_return(self) -> Array:
        """Discounted `r̂` of all responses: ``(n, 4V)``."""
        return self._sums(self.endogenous)

    @cached_property
    def telescoped(self) -> Array:
        """``α Σ γ^{h−1} log π_E + V*(s₁)`` of all responses: ``(n, 4V)``."""
        return self._sums(self.temperature * self.expert) + self.soft_value[:, None]

    @cached_property
    def endogenous_telescoped(self) -> Array:
        """``α Σ γ^{h−1} log π̂ + V̂(s₁)`` of all responses: ``(n, 4V)``."""
        return self._sums(self.temperature * self.policy) + self.gauge[:, None]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the pairs of responses that part at once."""
        first_token = np.tile(np.arange(self.mdp.vocab_size), len(self.continuations))
        i, j = np.triu_indices(len(first_token), k=1)
        part = first_token[i] != first_token[j]
        return i[part], j[part]

    @cached_property
    def _after(self) -> Array:
        """``γ^k``: a pair that parts after `k` shared tokens has its differences and ``1/(1−γ)``
        scaled by it.
        """
        powers = [self.discount**k if k else self.discount * 0.0 + 1.0 for k in SHARED_STEPS]
        return array_namespace(self.discount).stack(powers)[:, None]

    @cached_property
    def pair_tv(self) -> Array:
        """``|σ(Δ*) − σ(Δ̂)|`` over `SHARED_STEPS` and pairs: ``(n, 3, M)``."""
        i, j = self.pairs
        true, read = (x[:, i] - x[:, j] for x in (self.true_return, self.endogenous_telescoped))
        return preference_tv(*(self._after * x[:, None, :] for x in (true, read)))

    @property
    def diverging_steps(self) -> Array:
        """``γ^k/(1−γ)``: ``(3, 1)``."""
        return self._after * self.horizon

    @property
    def pair_counts(self) -> np.ndarray:
        """Every pair: ``(n, 3, M)``, boolean."""
        return np.ones((len(self.mdp.rewards), len(SHARED_STEPS), len(self.pairs[0])), dtype=bool)

    def over_pairs(self, values: Any) -> Array:
        """A quantity of the instance or of each state, against pairs ``(n, 3, M)``."""
        return expand(as_array(values), 2)


SYMBOLS = {
    "theorem-1-sharp": "tanh(αγ^kHε/2)",
    "clone-pinsker": "R·H·√(KL(π̂‖π_E)/2)",
}
"""How bounds are written that are not those of a finite horizon at ``H = 1/(1−γ)``."""


def _discounted(statement: Statement[Quantities]) -> Statement[DiscountedInstance]:
    paper = "paper" in statement.source
    symbol = SYMBOLS.get(statement.name, statement.bound.symbol)
    bound = replace(statement.bound, symbol=symbol)
    return replace(statement, source=statement.source if paper else "docs §6", bound=bound)


DISCOUNTED_STATEMENTS: Statements[DiscountedInstance] = Statements(
    (
        *map(_discounted, (*REWARDS, *PREFERENCES, *CLONING)),
        Statement(
            "clone-stepwise",
            "docs §6",
            CLONE_GAP,
            "≤",
            Quantity(
                "R·Σ_h γ^{h−1} TV_RR(h,ε)",
                lambda i: bounds.clone_gap_discounted(i.discount, i.epsilon, i.width),
            ),
        ),
        *map(_discounted, (*RL, *DISTANCES)),
    )
)
"""The statements that make sense without a last token: the same two sides, where `H` is ``1/(1−γ)``
and returns, log-probabilities and divergences of a response are discounted.
"""
