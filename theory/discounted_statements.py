"""The statements without end: what `theory.instance` and `theory.statements` are for a finite horizon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from theory import bounds
from theory.arrays import Array
from theory.discounted import (
    EPS,
    DiscountedMDP,
    Solution,
    endogenous_reward,
    expected_sums,
    kl_values,
    plain_values,
    regularised_values,
    require_number,
    require_policy,
    soft_value_iteration,
    value_iteration,
)
from theory.reward import preference_tv
from theory.statements import STATEMENTS
from theory.verdict import Statement

__all__ = ["DISCOUNTED_STATEMENTS", "DiscountedInstance"]

SHARED_STEPS = (0, 1, 3)
"""Numbers of shared first tokens for which preferences are compared."""


class DiscountedInstance:
    """What `theory.instance.Instance` is, without end: its quantities by the same names, one for each state ``(n,)``.

    `horizon` is ``1/(1−γ)``. A response is a first token and then a deterministic stationary policy: the best of `r*`,
    the best of `r̂`, those along which ``log π_E − log π̂`` adds up to most and to least. All ``(n, 4V)`` are compared.
    """

    batch_shape: tuple[int, ...] = ()

    def __init__(self, mdp: DiscountedMDP, policy: Array, alpha: float, gauge: Array | None = None) -> None:
        """Solve everything.

        Args:
            mdp: the true reward `r*`.
            policy: `π̂`, ``(n, V)``, log-probabilities, all of them finite.
            alpha: temperature, a number. `π_E` is soft-optimal at it.
            gauge: `V̂`, ``(n,)``, in which the reward of `π̂` is read; zero by default.

        """
        self.mdp, self.policy, self.alpha = (
            mdp,
            require_policy("policy", policy, mdp)[0],
            require_number("alpha", alpha),
        )
        self.temperature = np.asarray(self.alpha)
        self.horizon, self.width = mdp.effective_horizon, mdp.reward_width
        self.return_range = self.horizon * self.width
        self.endogenous = endogenous_reward(mdp, policy, alpha, gauge)
        self.gauge = np.zeros(len(mdp.rewards)) if gauge is None else np.asarray(gauge)
        self.error = 0.0
        self._solve()
        self._sum_responses()

    def _certified(self, solution: Solution, weight: float = 1.0) -> np.ndarray:
        """The values of `solution`; its error is added to what any quantity may be off by."""
        self.error += weight * solution.error
        return solution.values

    def _solve(self) -> None:
        mdp, alpha, policy, certified = self.mdp, self.alpha, self.policy, self._certified
        soft, resolved = soft_value_iteration(mdp, alpha), soft_value_iteration(self.endogenous, alpha)
        self.expert, self.resolved_log_prob, self.policy_log_prob = soft.policy, resolved.policy, policy
        self.epsilon = np.abs(self.expert - policy).max()
        # As stored, `π_E` is soft-optimal for a reward whose values are no further than this from those of `r*`.
        self.soft_value = certified(soft, 2.0)
        self.error += 4.0 * resolved.error  # and this one covers how `r̂` is stored
        self.nats_error = 4.0 * resolved.error / alpha
        self.expert_value = certified(plain_values(mdp, self.expert))
        self.clone_gap = self.expert_value - certified(plain_values(mdp, policy))
        self.best = value_iteration(mdp)
        self.best_value = certified(self.best)
        self.rl = value_iteration(self.endogenous)
        self.rl_value = certified(plain_values(mdp, self.rl.policy))
        self.rl_shortfall = 2.0 * self.rl.error / alpha
        anchored = soft_value_iteration(
            mdp.with_rewards(2 * alpha * policy), alpha
        )  # V^π_{r̂} − α KL(π‖π̂), in one reward
        self.anchored_value = certified(plain_values(mdp, anchored.policy))
        self.error += 2.0 * anchored.error
        kls = kl_values(mdp, policy, self.expert), kl_values(mdp, self.expert, policy)
        self.kl_to_expert, self.kl_from_expert = (certified(each, alpha) for each in kls)
        self.nats_error += kls[0].error
        self.error += sum(regularised_values(mdp, each, alpha).error for each in (self.expert, policy))

    def regularised(self, policy: Array) -> np.ndarray:
        """``V^π_{r*,α}``."""
        return regularised_values(self.mdp, policy, self.alpha).values

    def _sum_responses(self) -> None:
        log_ratio = self.expert - self.policy
        extreme = (value_iteration(self.mdp.with_rewards(sign * log_ratio)).policy for sign in (1, -1))
        continuations = [self.best.policy, self.rl.policy, *extreme]

        def sums(table: np.ndarray) -> np.ndarray:
            each = [self._certified(expected_sums(self.mdp, d, table)) for d in continuations]
            return np.concatenate([table + self.mdp.discount * x[self.mdp.next_states] for x in each], axis=1)

        self.true_return, self.endogenous_return = sums(self.mdp.rewards), sums(self.endogenous.rewards)
        self.telescoped = sums(self.alpha * self.expert) + self.soft_value[:, None]
        self.endogenous_telescoped = sums(self.alpha * self.policy) + self.gauge[:, None]
        first_token = np.tile(np.arange(self.mdp.vocab_size), len(continuations))
        i, j = np.triu_indices(len(first_token), k=1)
        part = first_token[i] != first_token[j]
        # A pair that parts after k shared tokens has both its differences, and its share of 1/(1−γ), scaled by γ^k.
        after = self.mdp.discount ** np.array(SHARED_STEPS, dtype=np.float64)[:, None, None]
        true, read = (x[:, i[part]] - x[:, j[part]] for x in (self.true_return, self.endogenous_telescoped))
        self.pair_tv = preference_tv(after * true, after * read)
        self.diverging_steps = after * self.horizon

    def rounding(self, unit: str) -> tuple[float, float]:
        """Bounds on the errors of a quantity in `unit` and of a bound that reads `ε`, against exact arithmetic.

        A quantity is off by the certified errors of all it may be made of; a bound by its slope in `ε` times the
        rounding of stored log-probabilities.
        """
        h, epsilon = self.horizon, float(self.epsilon)
        quantity = {"reward": self.error, "nats": self.nats_error}.get(unit, self.error + 16 * EPS)
        slope = {"reward": self.width * h**2 + 2 * self.alpha * h, "nats": 2 * h * (1 + epsilon)}
        tables = (self.expert, self.policy)
        defect = max(require_policy("policy", table, self.mdp)[1] for table in tables)
        logs = max(float(np.abs(table).max()) for table in tables)
        return quantity, slope.get(unit, self.alpha * h) * (8 * EPS * (1 + logs) + defect)


_CLAIMS = {
    "soft-value": "V^{π_E}_{r*,α}(s) = V*(s)",
    "telescoping": "Σγ^{h−1}r* = α Σγ^{h−1} log π_E + V*(s₁)",
    "endogenous-telescoping": "Σγ^{h−1}r̂ = α Σγ^{h−1} log π̂ + V̂(s₁)",
    "soft-rl-fixed-point": "soft-optimal policy of r̂ at α is π̂",
    "theorem-1": "TV(P_r*, P_r̂) ≤ αε/2(1−γ)",
    "theorem-1-sharp": "TV(P_r*, P_r̂) ≤ tanh(αγ^kε/2(1−γ))",
    "theorem-2-clone": "V^{π_E} − V^{π̂} ≤ ε/(1−γ)²",
    "clone-elementary": "V^{π_E} − V^{π̂} ≤ tanh(ε/2)·h(h+1)/2, h = 1/(1−γ)",
    "clone-three-halves": "V^{π_E} − V^{π̂} ≤ ½ε/(1−γ)^{3/2}",
    "clone-stepwise": "V^{π_E} − V^{π̂} ≤ Σγ^{h−1} TV_RR(h,ε)",
    "clone-pinsker": "V^{π_E} − V^{π̂} ≤ R√(KL_γ(π̂‖π_E)/2)/(1−γ)",
    "theorem-2-rl": "V^{π_E} − V^{π_RL} ≤ ε/(1−γ)  (α(1 + tanh(ε/2)) ≤ R)",
    "rl-expert": "V^{π_E} − V^{π_RL} ≤ αε(1 + tanh(ε/2))/(1−γ)",
    "rl-any-comparator": "max_π V^π − V^{π_RL} ≤ 2αε/(1−γ)",
    "rl-anchored": "V^{π_E} − V^{π_β} ≤ αε/(1−γ) + (α+β) KL_γ(π_E‖π̂)  (β = α)",
    "regularised-equality": "V^{π_E}_α − V^{π̂}_α = α KL_γ(π̂‖π_E)",
    "kl-ball": "KL_γ(π̂‖π_E) ≤ ε tanh(ε/2)/(1−γ)",
}


def _discounted(statement: Statement) -> Statement:
    source = statement.source if "paper" in statement.source else "docs §6"
    again = replace(statement, claim=_CLAIMS[statement.name], source=source)
    if statement.name != "clone-stepwise":
        return again
    return replace(again, right=lambda i: bounds.clone_gap_discounted(i.mdp.discount, i.epsilon, i.width))


DISCOUNTED_STATEMENTS: tuple[Statement, ...] = tuple(_discounted(s) for s in STATEMENTS if s.name in _CLAIMS)
"""Those of `STATEMENTS` that make sense without end: the same two sides, with ``1/(1−γ)`` for `H`."""
