"""The policies of the log-ratio ball with the least and the greatest plain value.

Torch tensors are taken too, with their gradients.
"""

from __future__ import annotations

from typing import Any

from theory.arrays.kernels import column_scalars, columns, empty_table, written_columns
from theory.arrays.namespace import Array, array_namespace, token_major
from theory.arrays.tensors import numpy_can_read, through_numpy
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP
from theory.solve.ball import extreme_tilt, is_small_ball, require_radius, tilt_backup
from theory.solve.soft import Solution

__all__ = ["best_clone", "worst_clone"]


def worst_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """Return the policy of the ball with the least plain value ``min_π̂ V^π̂_r``, and its values:
    exact.

    The ball is rectangular over states, so this is a backward induction, ``W(s) = min_p̂ Σ_a p̂(a)
    [r(s,a) + W(s⊕a)]``, each step a fractional knapsack: every token starts at its floor
    ``e^{−ε}p`` and what is left goes to the least continuation value first, up to the cap ``e^ε
    p``. That raises to their caps exactly the tokens that hold the first ``1/(1 + e^ε)`` of the
    expert's own mass in this order.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Returns:
        The policy and its values, `H` arrays ``(*batch, n_h)``, reward units.

    Raises:
        ValueError: `epsilon` is not positive, or the dynamics differ.

    Example:
        A fair coin, and log 2 nats: the token that pays is halved.

        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> expert = Policy.from_probs(mdp.dynamics, [[[0.5, 0.5]]])
        >>> worst_clone(mdp, expert, epsilon=0.6931471805599453).values[0].round(6).tolist()
        [0.25]
    """
    return _extreme_clone(mdp, expert, epsilon, 1.0)


def best_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """Return the policy of the ball with the greatest plain value: `worst_clone` of the negative
    reward.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> expert = Policy.from_probs(mdp.dynamics, [[[0.5, 0.5]]])
        >>> best_clone(mdp, expert, epsilon=0.6931471805599453).values[0].round(6).tolist()
        [0.75]
    """
    return _extreme_clone(mdp, expert, epsilon, -1.0)


def _extreme_clone(mdp: TokenMDP, expert: Policy, epsilon: Any, sign: float) -> Solution:
    if numpy_can_read(mdp.rewards, expert.log_probs, epsilon):
        return through_numpy(_extreme_clone, mdp, expert, epsilon, sign)
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = require_radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(mdp.horizon)):
        log_p = expert.log_probs[h]
        children = mdp.dynamics.children(h, following)
        tables = columns(log_p, mdp.rewards[h], children)
        if tables is not None and is_small_ball(log_p, radius):
            log_p_hat = empty_table(log_p)
            eps = column_scalars(radius, log_p)
            p, reward, below = tables
            following = tilt_backup(p, reward, below, eps, sign, written_columns(log_p_hat))
            following = following.reshape(log_p.shape[:-1])
        else:
            total = mdp.rewards[h] + children
            p_hat, log_p_hat = extreme_tilt(log_p, sign * total, radius)
            following = array_namespace(p_hat).sum(p_hat * total, axis=-1)
        log_probs.append(token_major(log_p_hat))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))
