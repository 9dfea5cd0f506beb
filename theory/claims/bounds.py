"""Every right-hand side: the paper's bounds and the sharp ones.

`horizon` is `H`, `epsilon` is ``ε_π = max |log π_E − log π̂|`` in nats, `alpha` the temperature in
reward units, `width` the width of the reward range (1 for rewards in [0, 1]). Arguments broadcast.
Derivations are in ``docs/theory.md``.

With a discount ``γ`` and no horizon, every bound that is linear in `H` holds with ``1/(1−γ)`` in
its place (pass `effective_horizon`); the cloning bounds that are not linear have a discounted form
of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from theory.arrays.namespace import Array, array_namespace, as_array, constant, is_torch_array, root

__all__ = [
    "best_of_n_kl",
    "clone_gap_composition",
    "clone_gap_discounted",
    "clone_gap_elementary",
    "clone_gap_entropy",
    "clone_gap_paper",
    "clone_gap_stepwise",
    "clone_gap_three_halves",
    "clone_gap_variance",
    "coverage",
    "effective_horizon",
    "every_bound",
    "hellinger_ball",
    "kl_ball",
    "kl_ball_of_choices",
    "preference_tv_of_choices",
    "preference_tv_of_pair",
    "preference_tv_paper",
    "preference_tv_sharp",
    "rl_gap",
    "rl_gap_anchored",
    "rl_gap_anchored_sharp",
    "rl_gap_expert",
    "rl_gap_of_choices",
    "rl_gap_paper",
    "tv_affinity",
    "tv_hellinger",
    "tv_of_one_response",
    "tv_pinsker",
    "tv_randomised_response",
]


def effective_horizon(discount: Any) -> Array:
    """Return ``1/(1−γ)``, what stands for `H` when rewards are discounted.

    >>> float(effective_horizon(0.9).round(6))
    10.0
    """
    return 1 / (1 - as_array(discount))


def _times(width: Any, bound: Array) -> Array:
    """``width·bound``, zero where the width is: rewards that are all equal are worth the same,
    whatever `ε` is.
    """
    scale = as_array(width)
    if is_torch_array(bound):
        return float(scale) * bound
    with np.errstate(invalid="ignore"):
        return array_namespace(scale, bound).where(scale == 0, 0.0, scale * bound)


# --- Theorem 1: preferences, total variation ------------------------------------------------------


def preference_tv_paper(horizon: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound preference errors by Theorem 1: ``TV ≤ αHε/2``. Says nothing where it is 1 or more.

    >>> float(preference_tv_paper(horizon=10, epsilon=0.1, alpha=0.5))
    0.25
    """
    return as_array(alpha) * horizon * epsilon / 2


def preference_tv_sharp(diverging_steps: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound preference errors sharply: ``TV ≤ tanh(α(H−k)ε/2)`` for responses that share their
    first `k` tokens; attained.

    >>> float(preference_tv_sharp(diverging_steps=10, epsilon=0.1, alpha=0.5).round(4))
    0.2449
    """
    return np.tanh(as_array(alpha) * diverging_steps * epsilon / 2)


def preference_tv_of_pair(log_ratio_difference: Any, alpha: Any) -> Array:
    """Bound the error of one pair, without a ball: ``TV ≤ tanh(α|D(τ) − D(τ')|/4)``, ``D = log
    π_E(τ) − log π̂(τ)``.

    >>> float(preference_tv_of_pair(log_ratio_difference=2.0, alpha=1.0).round(4))
    0.4621
    """
    return np.tanh(as_array(alpha) * np.abs(log_ratio_difference) / 4)


def preference_tv_of_choices(choices: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound preference errors by length: ``TV ≤ tanh(αε(T + T')/4)``.

    `T` and ``T'`` count the states with a choice on the way of either response, from where the two
    part; at most ``H − k`` each, which gives `preference_tv_sharp`.

    Args:
        choices: ``T + T'``.
        epsilon: ε in nats.
        alpha: temperature.

    >>> float(preference_tv_of_choices(choices=8, epsilon=0.1, alpha=0.5).round(4))
    0.0997
    """
    return np.tanh(as_array(alpha) * choices * epsilon / 4)


# --- Theorem 2: cloning, reward units -------------------------------------------------------------


def clone_gap_paper(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound cloning by Theorem 2 with the hidden constant set to one: ``V^{π_E} − V^{π̂} ≤ H²ε``.

    >>> float(clone_gap_paper(horizon=10, epsilon=0.1))
    10.0
    """
    return _times(width, horizon**2 * as_array(epsilon))


def clone_gap_elementary(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound cloning by performance differences: ``V^{π_E} − V^{π̂} ≤ tanh(ε/2)·H(H+1)/2``.

    >>> float(clone_gap_elementary(horizon=10, epsilon=0.1).round(4))
    2.7477
    """
    return as_array(width) * np.tanh(as_array(epsilon) / 2) * horizon * (horizon + 1) / 2


def clone_gap_composition(horizon: int, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound cloning by composition: ``V^{π_E} − V^{π̂} ≤ H·TV_RR(H, ε)``, about ``H^{3/2} ε/√(2π)``
    and never above `H`.

    >>> float(clone_gap_composition(10, 0.1).round(4))
    1.2254
    """
    return as_array(width) * horizon * tv_randomised_response(horizon, epsilon)


def clone_gap_stepwise(horizon: int, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound cloning by composition step by step: ``V^{π_E} − V^{π̂} ≤ Σ_{h=1}^{H} TV_RR(h, ε)``.

    The reward of step `h` reads the first `h` tokens only. About ``(2/3) H^{3/2} ε/√(2π)``; below
    the elementary bound and below `clone_gap_composition` for every `H` and `ε`.

    Args:
        horizon: `H`, a single integer.
        epsilon: ε in nats, of any shape.
        width: width of the reward range.

    >>> float(clone_gap_stepwise(10, 0.1).round(4))
    0.8998
    """
    steps = np.arange(
        0, horizon, 2
    )  # the m-th term of TV_RR(h) is there for every h > 2m: H − 2m of them
    return as_array(width) * (_randomised_response_terms(horizon, epsilon) * (horizon - steps)).sum(
        axis=-1
    )


def clone_gap_three_halves(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound cloning in closed form: ``V^{π_E} − V^{π̂} ≤ ½ H^{3/2} ε`` (Pinsker on the whole
    response).

    The asymptotic constant of `clone_gap_composition`, ``1/√(2π) ≈ 0.40``, is not a bound: at ``H =
    1`` it fails.

    >>> float(clone_gap_three_halves(10, 0.1).round(4))
    1.5811
    """
    eps = as_array(epsilon)
    root = array_namespace(eps).sqrt(constant(horizon, eps))
    return _times(width, horizon * root * eps / 2)


def clone_gap_entropy(horizon: int, epsilon: Any, alpha: Any, vocab_size: int) -> Array:
    """Bound cloning of a soft-optimal expert: ``V^{π_E} − V^{π̂} ≤ α log V · [Σ_{h<H} TV_RR(h, ε) +
    H(e^ε − 1)]``.

    What an expert of temperature `α` can lose it has spent on entropy, of which a token carries
    ``log V`` at most. So it is below `clone_gap_stepwise` where ``α log V`` is well below the width
    of the rewards.

    >>> float(clone_gap_entropy(10, 0.1, alpha=0.05, vocab_size=4).round(4))
    0.1268
    """
    eps = as_array(epsilon)
    alpha = as_array(alpha)
    if vocab_size == 1:  # one token has no entropy, and one policy
        return alpha * 0.0 * as_array(array_namespace(eps).zeros_like(eps))
    most_entropy = array_namespace(alpha).log(constant(vocab_size, alpha))  # of a token
    earlier = clone_gap_stepwise(horizon, eps) - tv_randomised_response(horizon, eps)
    return alpha * most_entropy * (earlier + horizon * np.expm1(eps))


def clone_gap_variance(
    distance: Any, weights: Sequence[Any], means: Sequence[Any], variances: Sequence[Any]
) -> Array:
    """Bound cloning by Cauchy–Schwarz: ``√(distance · min_c Σ_k w_k [variance_k + (mean_k −
    c)²])``.

    With ``D = Σ_τ (√p − √q)²`` and the laws `p`, `q` and ``√(pq)/BC`` of weights 1, 1 and ``2 BC``
    the sum is ``Σ (√p + √q)² (r − c)²``; with ``Σ (p − q)²/(p + q)`` and `p` and `q` it is ``Σ (p
    + q)(r − c)²``. The best `c` is the weighted mean.

    Args:
        distance: the squared distance of the two laws of a response.
        weights: of each law in the sum, not all zero.
        means: of the return under each law.
        variances: likewise.

    Example:
        Returns 1 and 0 with probabilities (½, ½) and (¼, ¾) are ¼ apart, and that is the bound:

        >>> bound = clone_gap_variance(2 / 15, [1, 1], [0.5, 0.25], [0.25, 0.1875])
        >>> float(bound.round(4))
        0.25
    """
    total: Any = sum(as_array(w) for w in weights)
    spread: Any = sum(as_array(w) * v for w, v in zip(weights, variances, strict=True))
    laws = range(len(weights))
    for j, k in itertools.combinations(laws, 2):  # nothing cancels, as it would about the mean
        apart = as_array(means[j]) - means[k]
        spread = spread + as_array(weights[j]) * weights[k] * apart * apart / total
    return root(as_array(distance) * spread)


def clone_gap_discounted(discount: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound discounted cloning: ``V^{π_E} − V^{π̂} ≤ Σ_h γ^{h−1} TV_RR(h, ε) = tanh(ε/2) / ((1−γ)
    √(1 − γ²/cosh²(ε/2)))``.

    About ``ε/(2√2)·(1−γ)^{−3/2}`` for small ε, against the paper's ``ε/(1−γ)²``, and never above
    ``1/(1−γ)``.

    >>> float(clone_gap_discounted(0.9, 0.1).round(4))
    1.1401
    """
    half = as_array(epsilon) / 2
    # 1 − γ² sech² = (1−γ)(1+γ) + γ² tanh², without cancellation
    below = root(
        (1 - as_array(discount)) * (1 + as_array(discount)) + (discount * np.tanh(half)) ** 2
    )
    return as_array(width) * effective_horizon(discount) * np.tanh(half) / below


def tv_randomised_response(horizon: int, epsilon: Any) -> Array:
    """Return the total variation of `H` randomised responses, the largest that two policies of the
    ball can have.

    ``TV_RR(H, ε) = ½ Σ_k C(H,k) |p^k q^{H−k} − q^k p^{H−k}|``, ``p = e^ε/(1+e^ε)``, ``q = 1 − p``
    (optimal composition: Kairouz, Oh, Viswanath 2015). It is the advantage of a majority vote,
    which one more vote raises only by breaking a tie; hence ``TV_RR(H, ε) = tanh(ε/2) Σ_{m<H/2}
    C(2m,m) (2 cosh(ε/2))^{−2m}``, all terms positive, so that small ε and long horizons lose no
    digits.

    Args:
        horizon: `H`, a single integer.
        epsilon: ε in nats, of any shape.

    Returns:
        An array of the shape of `epsilon`, at most one.

    >>> float(tv_randomised_response(10, 0.1).round(4))
    0.1225
    """
    return _randomised_response_terms(horizon, epsilon).sum(axis=-1)


def _randomised_response_terms(horizon: int, epsilon: Any) -> Array:
    """``tanh(ε/2) C(2m,m) (2 cosh(ε/2))^{−2m}`` for ``m < H/2``: shape of `epsilon`, and one axis
    of terms.
    """
    half = as_array(epsilon)[..., None] / 2
    xp = array_namespace(half)
    m = np.arange(1, (horizon + 1) // 2)
    decay = xp.exp(-half)
    sech = 2 * decay / (1 + decay * decay)  # without overflow
    tie = sech * sech * (2 * m - 1) / (2 * m)  # ratio of a term to the one before
    return xp.tanh(half) * xp.cumprod(xp.concatenate([xp.ones_like(half), tie], axis=-1), axis=-1)


# --- Theorem 2: RL on the endogenous reward, reward units -----------------------------------------


def rl_gap_paper(horizon: Any, epsilon: Any, width: Any = 1.0) -> Array:
    """Bound by Theorem 2 what is lost by RL on the endogenous reward with the hidden constant set
    to one: ``V^{π_E} − V^{π_RL} ≤ Hε``.

    True for every instance only where ``α(1 + tanh(ε/2)) ≤ width``, so for ``α ≤ ½·width`` at any
    ε: the constant contains α, see `rl_gap_expert`.

    >>> float(rl_gap_paper(horizon=10, epsilon=0.1))
    1.0
    """
    return _times(width, horizon * as_array(epsilon))


def rl_gap(horizon: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound RL on the endogenous reward: ``max_π V^π_{r*} − V^{π_RL}_{r*} ≤ 2αHε``, against any
    comparator.

    >>> float(rl_gap(horizon=10, epsilon=0.1, alpha=0.5))
    1.0
    """
    return 2 * as_array(alpha) * horizon * epsilon


def rl_gap_expert(horizon: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound RL against `π_E` itself: ``V^{π_E}_{r*} − V^{π_RL}_{r*} ≤ αHε(1 + tanh(ε/2))``;
    attained at every `H`.

    So the constant that the paper's ``≲ Hε`` hides is ``α(1 + tanh(ε/2))``, between ``α`` and
    ``2α``.

    >>> float(rl_gap_expert(horizon=10, epsilon=0.1, alpha=0.5).round(4))
    0.525
    """
    return as_array(alpha) * (horizon * as_array(epsilon) + kl_ball(horizon, epsilon))


def rl_gap_of_choices(expected: Any, played: Any, epsilon: Any, alpha: Any) -> Array:
    """Bound RL against `π_E` by length: ``αε(E_{π_E}[T] tanh(ε/2) + T(τ_RL))``, `T` the number of
    states with a choice on the way; `rl_gap_expert` where that is `H`.

    Args:
        expected: ``E_{π_E}[T]``.
        played: ``T(τ_RL)``.
        epsilon: ε in nats.
        alpha: temperature.

    >>> float(rl_gap_of_choices(expected=10, played=10, epsilon=0.1, alpha=0.5).round(4))
    0.525
    """
    eps = as_array(epsilon)
    return as_array(alpha) * ((expected * np.tanh(eps / 2) + played) * eps)


def rl_gap_anchored(horizon: Any, epsilon: Any, alpha: Any, beta: Any) -> Array:
    """Bound KL-regularised RL, ``π_β ∝ π̂^{1+α/β}``: ``V^{π_E}_{r*} − V^{π_β}_{r*} ≤ αHε + (α + β)
    Hε tanh(ε/2)``.

    >>> float(rl_gap_anchored(10, 0.1, alpha=0.5, beta=0.5).round(4))
    0.55
    """
    return rl_gap_expert(horizon, epsilon, alpha) + as_array(beta) * kl_ball(horizon, epsilon)


def rl_gap_anchored_sharp(horizon: Any, epsilon: Any, alpha: Any, beta: Any) -> Array:
    """Bound KL-regularised RL sharply: ``V^{π_E} − V^{π_β} ≤ H{(α+β) ε tanh(ε/2) + β
    log(cosh((α/β+½)ε)/cosh(ε/2))}``.

    About ``Hε²(α+β)²/(2β)`` for small ε, least at ``β = α``; `rl_gap_expert` for ``β → 0``.

    >>> float(rl_gap_anchored_sharp(10, 0.1, alpha=0.5, beta=0.5).round(4))
    0.0998
    """
    alpha = as_array(alpha)
    eps = as_array(epsilon)
    xp = array_namespace(eps)
    t = xp.tanh(eps / 2)
    tilt = alpha / beta * eps
    # log(cosh x + t sinh x): the first form has no difference of large terms, the second no
    # overflow
    near = xp.where(tilt < 1, tilt, 0.0)
    small = xp.log1p(2 * xp.sinh(near / 2) ** 2 + xp.sinh(near) * t)
    decay = xp.exp(-eps)
    large = tilt + xp.log1p(decay / (1 + decay) * xp.expm1(-2 * tilt))
    renyi = xp.where(tilt < 1, small, large)
    return horizon * ((alpha + beta) * eps * t + beta * renyi)


def every_bound(
    horizon: int, epsilon: float, alpha: float, vocab_size: int, width: float = 1.0
) -> dict[str, float]:
    """Return each bound in `ε`, by the name of its function; `regularised_gap` is ``α·kl_ball``, of
    the regularised values.

    `preference_tv_sharp` is for responses that differ from the first token on, the two
    `rl_gap_anchored` for ``β = α``.

    >>> round(every_bound(10, 0.1, alpha=0.5, vocab_size=4)["clone_gap_stepwise"], 4)
    0.8998
    """
    further: dict[Callable[..., Array], tuple[float, ...]] = {
        preference_tv_paper: (alpha,),
        preference_tv_sharp: (alpha,),
        clone_gap_paper: (width,),
        clone_gap_elementary: (width,),
        clone_gap_three_halves: (width,),
        clone_gap_composition: (width,),
        clone_gap_stepwise: (width,),
        clone_gap_entropy: (alpha, vocab_size),
        rl_gap_paper: (width,),
        rl_gap: (alpha,),
        rl_gap_expert: (alpha,),
        rl_gap_anchored: (alpha, alpha),
        rl_gap_anchored_sharp: (alpha, alpha),
        kl_ball: (),
        tv_randomised_response: (),
        tv_affinity: (),
    }
    found = {f.__name__: float(f(horizon, epsilon, *more)) for f, more in further.items()}
    return found | {"regularised_gap": alpha * found["kl_ball"]}


# --- Distances between the laws of a response -----------------------------------------------------


def kl_ball(horizon: Any, epsilon: Any) -> Array:
    """Bound both divergences: ``KL(π̂(τ)‖π_E(τ)) ≤ Hε tanh(ε/2)``, nats, and the same for
    ``KL(π_E(τ)‖π̂(τ))``.

    >>> float(kl_ball(horizon=10, epsilon=0.1).round(4))
    0.05
    """
    return as_array(horizon) * epsilon * np.tanh(as_array(epsilon) / 2)


def kl_ball_of_choices(expected: Any, epsilon: Any) -> Array:
    """Bound the divergence by length: ``KL(π̂(τ)‖π_E(τ)) ≤ E_π̂[T] ε tanh(ε/2)``, nats, `T` the
    number of states with a choice on the way.

    >>> float(kl_ball_of_choices(expected=10, epsilon=0.1).round(4))
    0.05
    """
    return as_array(expected) * epsilon * np.tanh(as_array(epsilon) / 2)


def hellinger_ball(horizon: Any, epsilon: Any) -> Array:
    """Bound the squared Hellinger distance: ``1 − BC ≤ 1 − cosh(ε/2)^{−H}``; attained.

    >>> float(hellinger_ball(horizon=10, epsilon=0.1).round(4))
    0.0124
    """
    return -np.expm1(-(horizon * _log_cosh(as_array(epsilon) / 2)))


def tv_affinity(horizon: Any, epsilon: Any) -> Array:
    """Bound the total variation in closed form: ``TV ≤ √(1 − cosh(ε/2)^{−2H}) ≤ √H tanh(ε/2)``.

    At most ``√2`` times `tv_randomised_response` wherever it was tried.

    >>> float(tv_affinity(horizon=10, epsilon=0.1).round(4))
    0.1571
    """
    return tv_hellinger(hellinger_ball(horizon, epsilon))


def _log_cosh(x: Array) -> Array:
    """``log cosh x`` for ``x ≥ 0``, without cancellation near 0 and without overflow."""
    xp = array_namespace(x)
    near = xp.where(x < 1, x, 0.0)
    small = xp.log1p(2 * xp.sinh(near / 2) ** 2)
    return xp.where(x < 1, small, x + xp.log1p(xp.expm1(-2 * x) / 2))


def tv_pinsker(kl: Any) -> Array:
    """Bound the total variation: ``TV ≤ √(KL/2)``, and never above one (Pinsker).

    >>> tv_pinsker([0.02, 8.0]).tolist()
    [0.1, 1.0]
    """
    nats = as_array(kl)
    xp = array_namespace(nats)
    return xp.minimum(root(nats / 2), constant(1.0, nats))


def tv_hellinger(squared_hellinger: Any) -> Array:
    """Bound the total variation: ``TV ≤ √(1 − BC²) = √(h²(2 − h²))`` with the squared Hellinger
    distance ``h² = 1 − BC``; at most one.

    Between close distributions it is Pinsker's bound to second order; of the two neither is always
    the lower.

    >>> float(tv_hellinger(0.5).round(4))
    0.866
    """
    apart = as_array(squared_hellinger)
    return root(apart * (2 - apart))


def tv_of_one_response(squared_hellinger: Any, missing: Any) -> Array:
    """Bound the total variation from a distribution of nearly one response: ``TV ≤ D² + 2√η·D``,
    and never above one, with ``D² = Σ (√p − √q)²`` and ``η = 1 − max p``.

    For ``η = 0``, an expert that writes one response to a prompt, it is ``D²``, with constant 1.

    Args:
        squared_hellinger: ``1 − BC``, half of ``D²``.
        missing: ``η``.

    >>> float(tv_of_one_response(0.01, missing=0.0).round(4))
    0.02
    """
    squared = 2 * as_array(squared_hellinger)
    xp = array_namespace(squared)
    bound = squared + 2 * root(squared * as_array(missing))
    return xp.minimum(bound, constant(1.0, squared))


def coverage(kl: Any, ratio: float) -> Array:
    """Bound the coverage profile: ``P_p[p ≥ N q] ≤ KL(p‖q)/(log N − (N−1)/N)``.

    ``KL = E_q φ(p/q)`` with ``φ(t) = t log t − t + 1 ≥ 0``, and ``φ(t)/t`` grows for ``t ≥ 1``. It
    is below ``KL/log(N/e)``, which says nothing for ``N ≤ e``.

    Args:
        kl: ``KL(p‖q)``, nats.
        ratio: `N`, above 1.

    >>> float(coverage(0.1, 4.0).round(4))
    0.1572
    """
    nats = as_array(kl)
    n = constant(ratio, nats)
    return nats / (array_namespace(nats).log(n) - (n - 1) / n)


def best_of_n_kl(n: Any) -> Array:
    """Bound what best of `n` can move: ``KL(BoN‖π) ≤ log n − (n−1)/n``, nats, for any ranking;
    approached where no response is probable.

    >>> float(best_of_n_kl(4).round(4))
    0.6363
    """
    draws = as_array(n)
    return array_namespace(draws).log(draws) - (draws - 1) / draws
