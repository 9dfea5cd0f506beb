"""RLHF in tabular form: a reward fitted to preferences, then the KL-regularised optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from theory.arrays.namespace import require_positive
from theory.fit.preferences import Preferences
from theory.fit.reward_fit import RewardFit, fit_reward
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP
from theory.solve.improve import kl_optimal

__all__ = ["RLHF", "rlhf"]


class RLHF(NamedTuple):
    """Result of RLHF's two steps: the policy, the fitted reward, and the fit itself.

    Example:
        >>> RLHF._fields
        ('policy', 'reward', 'fit')
    """

    policy: Policy
    reward: TokenMDP
    fit: RewardFit


def rlhf(
    preferences: Preferences,
    anchor: Policy,
    beta: Any,
    features: Sequence[Any] | None = None,
    l2: float = 0.0,
) -> RLHF:
    """Fit a reward to preferences (eq. 4), then maximise ``E_π r(τ) − β KL(π‖anchor)`` (eq. 5).

    Both are exact. The policy does not depend on the gauge of the reward. It does on differences
    that the data leave open, which the fit of least norm fills in: `RewardFit.contrast` says which.

    Args:
        preferences: the data.
        anchor: the policy to stay near. What it never chooses stays so.
        beta: weight of the KL divergence, reward units per nat, scalar or ``batch``.
        features: see `fit_reward`.
        l2: see `fit_reward`.

    Raises:
        ValueError: as `fit_reward`; other dynamics; `beta` is not positive and finite.

    Example:
        Token 1 wins three times of four, and ``β = 1``: the odds of a fair anchor become 3.

        >>> import numpy as np
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> won, lost = np.array([[1], [1], [1], [0]]), np.array([[0], [0], [0], [1]])
        >>> preferences = Preferences(dynamics, np.zeros(4, int), won, lost)
        >>> anchor = Policy.from_probs(dynamics, [[[0.5, 0.5]]])
        >>> np.exp(rlhf(preferences, anchor, beta=1.0).policy.log_probs[0]).round(4).tolist()
        [[0.25, 0.75]]
    """
    require_same_dynamics(preferences.dynamics, anchor.dynamics)
    beta = require_positive("beta", beta)
    fit = fit_reward(preferences, features, l2)
    return RLHF(kl_optimal(fit.reward, anchor, beta).policy, fit.reward, fit)
