"""Demonstrations against preferences: regret of cloning, RL on its reward, and RLHF on a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import next_token_mle
from theory.fit.preferences import sample_preferences
from theory.fit.rlhf import rlhf
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward
from theory.solve.soft import plain_optimal, soft_optimal

__all__ = ["Budget", "BudgetSetting", "budget_comparison"]

SMOOTHING = 0.1
"""Of the clone's counts."""

L2 = 1.0
"""Of the reward fit (`theory.fit.reward_fit.fit_reward`)."""

BETA = 1e-3
"""RLHF's KL coefficient; its anchor is uniform, so that a small one is RL on the fitted reward."""


@dataclass(frozen=True)
class Budget:
    """Regret ``max_π V^π − V^π`` of four ways to spend `n` data: mean and standard error.

    Attributes:
        alpha: temperature of the expert, and of the reward read from its clone.
        n: demonstrations of the expert, or pairs of responses with a Bradley–Terry winner (at
            temperature 1).
        regrets: reward units, by name: ``clone``, ``rl`` on the endogenous reward of the clone,
            ``rlhf_expert`` and ``rlhf_uniform``: RLHF from pairs that the expert, or the uniform
            policy, gave.

    Example:
        >>> Budget(0.5, 100, {"clone": (0.08, 0.03)}).regrets["clone"]
        (0.08, 0.03)
    """

    alpha: float
    n: int
    regrets: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class BudgetSetting:
    """Random trees of a budget comparison.

    Attributes:
        vocab_size: `V`.
        horizon: `H`.
        seeds: trees and data sets for each row, at least two: one has no standard error.

    Example:
        >>> BudgetSetting(seeds=5).horizon
        3
    """

    vocab_size: int = 4
    horizon: int = 3
    seeds: int = 20


def budget_comparison(
    sizes: Sequence[int] = (30, 100, 1000, 10_000),
    alphas: Sequence[float] = (0.1, 0.5, 1.0, 2.0),
    setting: BudgetSetting = BudgetSetting(),
) -> list[Budget]:
    """Compare cloning, RL on `r̂`, and RLHF from as many pairs as demonstrations.

    Args:
        sizes: values of `n`.
        alphas: temperatures.
        setting: trees and seeds.

    Raises:
        ValueError: no `sizes` or `alphas`, or fewer than two seeds.

    Example:
        >>> small = BudgetSetting(vocab_size=2, horizon=1, seeds=2)
        >>> (row,) = budget_comparison([1000], [0.5], small)
        >>> {name: round(mean, 3) for name, (mean, error) in row.regrets.items()}
        {'clone': 0.0..., 'rl': 0.0, 'rlhf_expert': 0.0, 'rlhf_uniform': 0.0...}
    """
    for name, values in (("sizes", sizes), ("alphas", alphas)):
        if not len(values):
            raise ValueError(f"{name}={values!r}: must not be empty")
    if setting.seeds < 2:
        raise ValueError(f"seeds={setting.seeds}: must be at least 2, for a standard error")
    rows = []
    for alpha in alphas:
        for n in sizes:
            found = [_regrets(alpha, n, k, setting) for k in range(setting.seeds)]
            regrets: dict[str, tuple[float, float]] = {}
            for name in found[0]:
                values = [regret[name] for regret in found]
                error = np.std(values, ddof=1) / np.sqrt(setting.seeds)
                regrets[name] = float(np.mean(values)), float(error)
            rows.append(Budget(alpha, n, regrets))
    return rows


def _regrets(alpha: float, n: int, k: int, setting: BudgetSetting) -> dict[str, float]:
    """Regret of each way to spend `n` data on tree number `k`."""
    rng = np.random.default_rng([0, k, n, round(1e6 * alpha)])
    mdp = TokenMDP.random(setting.vocab_size, setting.horizon, seed=rng)
    best = float(mdp.dynamics.average(plain_optimal(mdp).values[0]))
    teacher = soft_optimal(mdp, alpha).policy
    uniform = Policy.from_logits(mdp.dynamics, [np.zeros_like(table) for table in mdp.rewards])
    data = Demonstrations.sample(teacher, n, rng)
    clone = next_token_mle(data, alpha, smoothing=SMOOTHING).policy
    reward = endogenous_reward(clone, alpha, gauge="logprob")
    learned = {"clone": clone, "rl": plain_optimal(reward).policy}
    for name, behaviour in (("rlhf_expert", teacher), ("rlhf_uniform", uniform)):
        pairs = sample_preferences(mdp, behaviour, n, rng)
        learned[name] = rlhf(pairs, uniform, BETA, l2=L2).policy
    return {name: best - float(plain_value(mdp, policy)) for name, policy in learned.items()}
