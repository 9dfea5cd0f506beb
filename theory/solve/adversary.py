"""Exact adversaries: the policy of a log-ratio ball that does the most harm.

The ball around an expert `π_E` holds the policies with ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` for
every state and token; rows sum to one and a token of probability zero stays so. The ball is
rectangular over states: what `π̂` does in one state restricts nothing in another. Each worst case
is therefore found state by state, by sweeps over the layers, and nothing is sampled. `π̂` may read
the whole prefix (where states recur too); ``ε`` is a scalar or of shape ``batch``, in nats. The
cloning adversaries take torch tensors too, with their gradients; the others are NumPy only.

``ε = ∞`` is the limit of large radii: the extreme is then one over all policies that write no token
of probability zero, and the policy returned, which may leave out tokens of the expert, attains it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    token_major,
)
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP
from theory.solve.ball import SMALL_VOCABULARY, _most_divergent_tilt, _radius, extreme_tilt
from theory.solve.soft import Solution

__all__ = ["best_clone", "worst_clone", "worst_kl"]


def worst_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the least plain value, ``min_π̂ V^π̂_r``, and its plain values:
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
    """
    return _extreme_clone(mdp, expert, epsilon, sign=1.0)


def best_clone(mdp: TokenMDP, expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the greatest plain value: `worst_clone` with the greatest
    continuation first.
    """
    return _extreme_clone(mdp, expert, epsilon, sign=-1.0)


def _extreme_clone(mdp: TokenMDP, expert: Policy, epsilon: Any, sign: float) -> Solution:
    require_same_dynamics(mdp.dynamics, expert.dynamics)
    radius = _radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(mdp.horizon)):
        log_p = expert.log_probs[h]
        total = mdp.rewards[h] + mdp.dynamics.children(h, following)
        p_hat, log_p_hat = extreme_tilt(log_p, sign * total, radius)
        following = array_namespace(p_hat).sum(p_hat * total, axis=-1)
        log_probs.append(token_major(log_p_hat))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))


def worst_kl(expert: Policy, epsilon: Any) -> Solution:
    """The policy of the ball with the greatest ``KL(π̂(τ)‖π_E(τ))``: exact. ``α`` times it is the
    regularised gap.

    ``K(s) = max_p̂ Σ_a p̂(a) [log p̂(a)/p(a) + K(s⊕a)]`` is convex in the row, so it is attained at
    a vertex of the row's ball: all tokens but one at ``e^{±ε}p``. (Which ones is a subset-sum
    problem, so every vertex is looked at.) The divergence of a row is summed as ``Σ_a p(a) (t e^t −
    e^t + 1)``, ``t = log p̂(a)/p(a)``: both rows have sum one, and no term is negative. At ``ε =
    ∞`` the vertices are single tokens, ``K(s) = max_a [−log p(a) + K(s⊕a)]``.

    Args:
        expert: the centre `π_E` of the ball.
        epsilon: radius in nats, scalar or ``batch``.

    Returns:
        The policy and the divergences from each state on, `H` arrays ``(*batch, n_h)``, nats.

    Raises:
        ValueError: `epsilon` is not positive, or there are more than `SMALL_VOCABULARY` tokens.
    """
    V = expert.dynamics.vocab_size
    if V > SMALL_VOCABULARY:
        raise ValueError(
            f"vocab_size={V}: worst_kl looks at V·2^(V-1) vertices a state; at most "
            f"{SMALL_VOCABULARY}"
        )
    radius = _radius(epsilon)
    log_probs: list[Array] = []
    values: list[Array] = []
    following: Array | None = None
    for h in reversed(range(expert.horizon)):
        log_p = expert.log_probs[h]
        tilt, following = _most_divergent_tilt(
            log_p, radius, expert.dynamics.children(h, following)
        )
        log_probs.append(token_major(np.minimum(log_p + tilt, 0.0)))
        values.append(following)
    return Solution(Policy(expert.dynamics, tuple(reversed(log_probs))), tuple(reversed(values)))
