"""Every right-hand side: the paper's bounds and the sharp ones.

`horizon` is `H`, `epsilon` is ``ε_π = max |log π_E − log π̂|`` in nats, `alpha` the temperature in reward units, `width`
the width of the reward range (1 for rewards in [0, 1]). Arguments broadcast. Derivations are in ``docs/theory.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from theory.arrays import Array

__all__ = [
    "clone_gap_elementary",
    "clone_gap_paper",
    "clone_gap_randomised_response",
    "kl_ball",
    "preference_tv_paper",
    "preference_tv_sharp",
    "rl_gap",
    "rl_gap_paper",
    "tv_pinsker",
    "tv_randomised_response",
]


def preference_tv_paper(horizon: Any, epsilon: Any, alpha: Any) -> Array:
    """Theorem 1: ``TV ≤ αHε/2``. Says nothing where it is 1 or more."""
    return np.asarray(alpha) * horizon * epsilon / 2


def preference_tv_sharp(diverging_steps: Any, epsilon: Any, alpha: Any) -> Array:
    """Theorem 1, sharp: ``TV ≤ tanh(α(H−k)ε/2)`` for responses that share their first `k` tokens; attained."""
    return np.tanh(np.asarray(alpha) * diverging_steps * epsilon / 2)


def clone_gap_paper(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Theorem 2 for cloning with the hidden constant set to one: ``V^{π_E} − V^{π̂} ≤ H²ε``."""
    return np.asarray(width) * horizon**2 * epsilon


def clone_gap_elementary(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Performance-difference constant: ``V^{π_E} − V^{π̂} ≤ tanh(ε/2)·H(H+1)/2``."""
    return np.asarray(width) * np.tanh(np.asarray(epsilon) / 2) * horizon * (horizon + 1) / 2


def clone_gap_randomised_response(horizon: int, epsilon: Any, width: Any = 1.0) -> Array:
    """Cloning by composition: ``V^{π_E} − V^{π̂} ≤ H·TV_RR(H, ε)``, about ``H^{3/2} ε/√(2π)`` and never above `H`."""
    return np.asarray(width) * horizon * tv_randomised_response(horizon, epsilon)


def tv_randomised_response(horizon: int, epsilon: Any) -> Array:
    """Total variation of `H` randomised responses, the largest that two policies of the ball can have.

    ``TV_RR(H, ε) = ½ Σ_k C(H,k) |p^k q^{H−k} − q^k p^{H−k}|``, ``p = e^ε/(1+e^ε)``, ``q = 1 − p`` (optimal composition:
    Kairouz, Oh, Viswanath 2015). Summed as ``Σ_{k>H/2} C(H,k) p^k q^{H−k} (1 − e^{−(2k−H)ε})``, whose terms are all
    positive, so that small ε and long horizons lose no digits.

    Args:
        horizon: `H`, a single integer.
        epsilon: ε in nats, of any shape.

    Returns:
        An array of the shape of `epsilon`, at most one.
    """
    from scipy.stats import binom  # imported here: it alone would double the time that `import theory` takes

    eps = np.asarray(epsilon, dtype=np.float64)[..., None]
    k = np.arange(horizon // 2 + 1, horizon + 1)
    p = 1.0 / (1.0 + np.exp(-eps))
    with np.errstate(over="ignore"):
        return np.asarray((binom.pmf(k, horizon, p) * -np.expm1(-(2 * k - horizon) * eps)).sum(axis=-1))


def rl_gap_paper(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Theorem 2 for RL on the endogenous reward with the hidden constant set to one: ``V^{π_E} − V^{π_RL} ≤ Hε``.

    True for ``α ≤ ½·width`` only, since the constant contains α: see `rl_gap`.
    """
    return np.asarray(width) * horizon * epsilon


def rl_gap(horizon: Any, epsilon: Any, alpha: Any) -> Array:
    """``max_π V^π_{r*} − V^{π_RL}_{r*} ≤ 2αHε``, against any comparator."""
    return 2 * np.asarray(alpha) * horizon * epsilon


def kl_ball(horizon: Any, epsilon: Any) -> Array:
    """``KL(π̂(τ)‖π_E(τ)) ≤ Hε tanh(ε/2)``, nats."""
    return np.asarray(horizon) * epsilon * np.tanh(np.asarray(epsilon) / 2)


def tv_pinsker(kl: Any) -> Array:
    """``TV ≤ √(KL/2)``, and never above one (Pinsker)."""
    return np.minimum(np.sqrt(np.maximum(np.asarray(kl), 0.0) / 2), 1.0)
