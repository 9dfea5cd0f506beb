"""How a reward is read from a model's logits: temperature, gauge, value after the last token.

Needs no torch, so that commands can list these options without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from theory.commands import shared
from theory.commands.options import OptionError, Options, option
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import Gauge, Terminal, endogenous_reward

__all__ = ["RewardReading"]


@dataclass(frozen=True)
class RewardReading(Options):
    """Say how a reward is read from the logits `f` of a model that is sampled at temperature 1.

    Attributes:
        alpha: temperature ``α`` of the reward, reward units.
        gauge: where the value of a state comes from: ``"logits"``, ``V(s) = α log Σ exp f(s)``
            (the paper's choice), or ``"logprob"``, ``V ≡ 0``, so that ``r = α log π``.
        terminal: value after the last token of a response that does not end with an end token:
            ``"zero"``, or ``"bootstrap"`` for the model's own ``V`` there.

    Raises:
        OptionError: a `ValueError` that names the field, its value and what to give instead.

    Example:
        >>> RewardReading(alpha=0.5, gauge="logprob")
        RewardReading(alpha=0.5, gauge='logprob', terminal='zero')
        >>> RewardReading(gauge="logprob", terminal="bootstrap")
        Traceback (most recent call last):
        theory.commands.option.OptionError: terminal='bootstrap': must be zero with gauge=logprob

    """

    alpha: float = shared.alpha(1.0)
    gauge: Gauge = option("logits", help="value of a state: log-sum-exp of its logits, or 0")
    terminal: Terminal = option("zero", help="value after the last token: 0, or the model's own")

    def check(self) -> None:
        """Refuse a value after the last token in the gauge that has no values."""
        if self.gauge == "logprob" and self.terminal == "bootstrap":
            raise OptionError("terminal", "must be zero with {gauge}=logprob", "bootstrap")

    def of_policy(self, policy: Policy) -> TokenMDP:
        """Return the token MDP whose reward this reading finds in a tabular policy.

        Raises:
            ValueError: see `theory.solve.reward.endogenous_reward`.

        """
        return endogenous_reward(policy, self.alpha, gauge=self.gauge, terminal=self.terminal)
