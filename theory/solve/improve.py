"""Improving with the endogenous reward: KL-regularised RL, iteration, distillation, sharpening.

RL on a reward `r` with a KL anchor `μ` at coefficient `β` must end at

    argmax_π V^π_r − β KL(π‖μ),        π_β(τ|s₁) = μ(τ|s₁) exp(r(τ)/β) / Z(s₁),

and on the endogenous reward ``r̂(τ) = α log π̂(τ|s₁) + V̂(s₁)`` of the anchor itself at the *power
policy* ``π̂^κ``, ``κ = 1 + α/β``. Iteration can only move along that one family: `SCHEMES`. Its
value in the true reward is `sharpening_curve`, the exact slope of that `sharpening_slope`, and its
maximum `best_exponent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from theory.arrays.memory import require_memory
from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_array,
    as_float,
    expand,
    forbid,
    is_enclosure,
    is_torch_array,
    like,
    log_mean_exp,
    require_positive,
    token_major,
)
from theory.mdp.distances import kl, log_ratios
from theory.mdp.policy import NEVER, Policy, require_same_dynamics
from theory.mdp.responses import log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, expected_sums, plain_value, trajectory_entropy
from theory.solve.reward import endogenous_reward, with_rewards
from theory.solve.soft import Solution, log_softmax, plain_optimal, power_policy

__all__ = [
    "SCHEMES",
    "BestExponent",
    "Scheme",
    "SharpeningCurve",
    "best_exponent",
    "distil",
    "hybrid_reward",
    "iterate",
    "kl_optimal",
    "regularised_objective",
    "scheme_exponent",
    "sharpening_curve",
    "sharpening_slope",
]

# --- The KL-regularised optimum -------------------------------------------------------------------


def kl_optimal(reward: TokenMDP, anchor: Policy, beta: Any) -> Solution:
    """Return the maximiser ``π(τ|s₁) ∝ μ(τ|s₁) exp(r(τ)/β)`` of ``V^π_r − β KL(π‖μ)``, and its
    values.

    One backward sweep: ``V(s) = β log Σ_a μ(a|s) exp((r(s,a) + V(s⊕a))/β)``, ``π(a|s) = μ(a|s)
    exp((r + V' − V)/β)``. It is the soft-optimal policy of ``r + β log μ`` at temperature `β`, and
    carries that gauge: ``endogenous_reward(π, β)`` returns ``r + β log μ``. With the endogenous
    reward of `μ` at temperature `α`, in any gauge, it is ``power_policy(μ, 1 + α/β)``; ``β → ∞``
    gives `μ`, ``β → 0`` a plain-optimal policy for `r`.

    Args:
        reward: `r`, a token MDP.
        anchor: `μ`, on the same dynamics. What it never chooses, the maximiser never chooses.
        beta: KL coefficient, reward units per nat, scalar or ``batch``. The three batches
            broadcast.

    Returns:
        The policy and ``max_π V^π_r(s) − β KL`` from each state on, reward units: accurate to
        rounding of the rewards also where `β` is large. ``-inf`` in a state from which every
        response of the anchor is forbidden.

    Raises:
        ValueError: `beta` is not positive and finite, the dynamics differ, every response of the
            anchor to a prompt is forbidden, or the policy does not fit into memory.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, np.log(3)]]], reward_range=(0, 2))
        >>> fair = Policy.from_probs(mdp.dynamics, [[[0.5, 0.5]]])
        >>> policy, values = kl_optimal(mdp, fair, beta=1.0)
        >>> np.exp(policy.log_probs[0]).round(4).tolist(), values[0].round(4).tolist()  # log 2
        ([[0.25, 0.75]], [0.6931])
    """
    beta = require_positive("beta", beta)
    require_same_dynamics(reward.dynamics, anchor.dynamics)
    d = reward.dynamics
    batch = np.broadcast_shapes(reward.batch_shape, anchor.batch_shape, np.shape(beta))
    require_memory(
        8 * int(np.prod(batch)) * d.n_prefixes,
        "the KL-optimal policy",
        "use a smaller MDP or batch",
    )
    log_probs: list[Array] = []
    values: list[Array] = []
    normalizers: list[Array] = []
    value: Array | None = None
    for h in reversed(range(d.horizon)):
        total = forbid(reward.rewards[h] + d.children(h, value), d.allowed[h])
        rows, value = _anchored_backup(total, anchor.log_probs[h], beta)
        xp = array_namespace(value)
        log_probs.append(rows)
        values.append(value)
        normalizers.append(xp.where(value == NEVER, 0.0, value) / expand(beta, 1))
    dead = (values[-1] == NEVER) & like(d.prompt_weights > 0, values[-1])
    if bool(dead.any()):
        prompt = int(np.argwhere(np.asarray(dead.cpu() if hasattr(dead, "cpu") else dead))[0][-1])
        raise ValueError(
            f"anchor: every response it gives to prompt {prompt} is forbidden by reward; give it "
            "one that is allowed"
        )
    return Solution(
        Policy(d, tuple(log_probs[::-1]), tuple(normalizers[::-1])), tuple(values[::-1])
    )


def _anchored_backup(total: Array, log_anchor: Array, beta: Array | float) -> tuple[Array, Array]:
    """Log-probabilities and values of a layer; `total` is ``r + V'``, ``-inf`` where forbidden.

    A row without a possible token has value ``-inf`` and keeps the anchor's probabilities: nothing
    leads there.
    """
    if is_enclosure(total):  # the value is 1-Lipschitz in `total`
        radius = total.radius()
        most = radius.max(axis=-1, keepdims=True)
        rows, value = _anchored_rows(total.midpoint(), log_anchor, beta)
        return rows.widen((radius + most) / expand(beta, 2)), value.widen(most[..., 0])
    return _anchored_rows(total, log_anchor, beta)


def _anchored_rows(total: Array, log_anchor: Array, beta: Array | float) -> tuple[Array, Array]:
    xp = array_namespace(total, log_anchor)
    possible = ~(total == NEVER) & ~(log_anchor == NEVER)
    dead = ~xp.any(possible, axis=-1, keepdims=True)
    top = xp.max(xp.where(possible, total, NEVER), axis=-1, keepdims=True)
    top = xp.where(dead, 0.0, top)
    scaled = (xp.where(possible, total, top) - top) / expand(beta, 2)
    logits = xp.where(possible | dead, log_anchor + scaled, NEVER)
    # log E_μ exp((r + V' − top)/β): where β is large the mean is near one, and β would multiply
    # the rounding of its logarithm.
    log_mean = log_mean_exp(log_anchor, xp.where(possible, scaled, NEVER))
    log_mean = xp.where(dead[..., 0], 0.0, log_mean)
    value = xp.where(dead[..., 0], NEVER, top[..., 0] + expand(beta, 1) * log_mean)
    return log_softmax(logits, 1.0), value


def regularised_objective(reward: TokenMDP, policy: Policy, anchor: Policy, beta: Any) -> Array:
    """Return ``V^π_r − β KL(π(τ)‖μ(τ))``, averaged over prompts: ``batch``, reward units.

    PPO with a KL penalty maximises this; at its maximum it is the average of
    ``kl_optimal(…).values[0]``, and below it by ``β KL(π‖π_β)`` elsewhere. ``-inf`` where `policy`
    chooses what the reward forbids or the anchor never chooses.

    Args:
        reward: `r`.
        policy: `π`.
        anchor: `μ`.
        beta: KL coefficient, scalar or ``batch``.

    Raises:
        ValueError: `beta` is not positive and finite, or the dynamics differ.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> fair, sure = (Policy.from_probs(mdp.dynamics, [[row]]) for row in ([0.5, 0.5], [0, 1]))
        >>> print(round(float(regularised_objective(mdp, sure, fair, beta=1.0)), 4))  # 1 − log 2
        0.3069
    """
    beta = expand(require_positive("beta", beta), 2)
    require_same_dynamics(reward.dynamics, policy.dynamics)
    require_same_dynamics(policy.dynamics, anchor.dynamics)
    tables = [
        forbid(r - beta * ratio, mask)
        for r, ratio, mask in zip(
            reward.rewards, log_ratios(policy, anchor), reward.dynamics.allowed, strict=True
        )
    ]
    return policy.dynamics.average(expected_sums(policy, tables)[0])


def distil(student: Policy, teacher: Policy, alpha: Any, beta: Any) -> Solution:
    """Improve a student on a teacher's endogenous reward: ``π_student(τ) · π_teacher(τ)^{α/β}``.

    Args:
        student: the anchor.
        teacher: whose reward at temperature `alpha` is maximised.
        alpha: temperature of that reward, scalar or ``batch``.
        beta: KL coefficient, scalar or ``batch``.

    Returns:
        The normalised product, and its values as `kl_optimal`.

    Raises:
        ValueError: see `kl_optimal`; the two must share a response to each prompt.

    Example:
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> student = Policy.from_probs(dynamics, [[[0.5, 0.5]]])
        >>> teacher = Policy.from_probs(dynamics, [[[0.1, 0.9]]])
        >>> np.exp(distil(student, teacher, 1.0, 1.0).policy.log_probs[0]).round(4).tolist()
        [[0.1, 0.9]]
    """
    return kl_optimal(endogenous_reward(teacher, alpha, gauge="logprob"), student, beta)


def hybrid_reward(reward: TokenMDP, check: TokenMDP, weight: Any) -> TokenMDP:
    """Add a checked reward, ``r + w·check``, on what neither forbids.

    With ``r = r̂`` its `kl_optimal` policy is ``∝ π̂^{1+α/β} exp(w·check/β)``. For ``β → 0`` it
    plays the response of greatest ``α log π̂(τ) + w·check(τ)``: a right response ``τ`` beats a
    wrong MAP response exactly from ``w = α log(π̂(τ_MAP)/π̂(τ))`` on.

    Args:
        reward: `r`.
        check: the checked reward; a check of complete responses has zeros in all layers but the
            last.
        weight: `w`, any finite number, scalar or ``batch``.

    Returns:
        A `TokenMDP` that forbids what either forbids.

    Raises:
        ValueError: `weight` is not finite, or the dynamics differ.

    Example:
        >>> reward, check = TokenMDP.tree([[[0.5, 1.0]]]), TokenMDP.tree([[[1.0, 0.0]]])
        >>> hybrid_reward(reward, check, weight=2.0).rewards[0].tolist()
        [[2.5, 1.0]]
    """
    require_same_dynamics(reward.dynamics, check.dynamics)
    weight = as_float(weight)
    if not bool(array_namespace(weight).isfinite(weight).all()):
        raise ValueError(
            f"weight={weight}: must be finite; forbid responses with allowed=, not by an infinite "
            "weight"
        )
    masks = tuple(
        one if two is None else two if one is None else one & two
        for one, two in zip(reward.dynamics.allowed, check.dynamics.allowed, strict=True)
    )
    weight = weight if is_torch_array(weight) else like(weight, check.rewards[0])
    sums = [r + expand(weight, 2) * c for r, c in zip(reward.rewards, check.rewards, strict=True)]
    tables = tuple(
        token_major(t if mask is None else array_namespace(t).where(like(mask, t), t, 0.0))
        for t, mask in zip(sums, masks, strict=True)
    )
    return with_rewards(replace(reward.dynamics, allowed=masks), tables)


# --- Iteration ------------------------------------------------------------------------------------

Scheme = Literal["compound", "reread", "anchor", "plain"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
"""Schemes of self-improvement, and the exponent of ``π̂`` after `K` rounds, with ``c = α/β``:

========== ================ ========== ====================== ====================================
scheme     reward read from anchor     exponent, `K` rounds   for ``K → ∞``
========== ================ ========== ====================== ====================================
`compound` the last round   last round ``(1 + c)^K``          MAP
`reread`   the last round   π̂          ``1 + c + … + c^K``    ``1/(1 − c)`` if ``α < β``, else MAP
`anchor`   π̂                last round ``1 + K c``            MAP
`plain`    the last round   none       MAP, from the first on MAP
========== ================ ========== ====================== ====================================

*MAP* is the uniform distribution on the most probable responses, for `plain` the first of them. The
limit of `reread` maximises ``−α H(π) − β KL(π‖π̂)``: where it exists, re-reading is entropy
minimisation with an anchor.
"""


def iterate(
    policy: Policy, alpha: Any, beta: Any = None, scheme: Scheme = "compound"
) -> Iterator[Policy]:
    """Yield the policy after 1, 2, … rounds, each solved exactly.

    Args:
        policy: `π̂`.
        alpha: temperature at which each reward is read, scalar or ``batch``.
        beta: KL coefficient, scalar or ``batch``; `plain` takes none.
        scheme: one of `SCHEMES`.

    Returns:
        An iterator without end.

    Raises:
        ValueError: `scheme` is none of these, `beta` is missing or has no use, or see `kl_optimal`.

    Example:
        >>> policy = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[0.25, 0.75]]])
        >>> np.exp(next(iterate(policy, 1.0, 1.0)).log_probs[0]).round(4).tolist()  # squared
        [[0.1, 0.9]]
    """
    _require_scheme(scheme)
    if (beta is None) != (scheme == "plain"):
        remedy = (
            "leave it out, plain RL has no anchor"
            if scheme == "plain"
            else "give the KL coefficient"
        )
        raise ValueError(f"beta={beta} with scheme={scheme!r}: {remedy}")
    return _rounds(policy, require_positive("alpha", alpha), beta, scheme)


def _rounds(first: Policy, alpha: Array | float, beta: Any, scheme: Scheme) -> Iterator[Policy]:
    policy = first
    while True:
        reward = endogenous_reward(first if scheme == "anchor" else policy, alpha, gauge="logprob")
        if scheme == "plain":
            policy = plain_optimal(reward).policy
        else:
            policy = kl_optimal(reward, first if scheme == "reread" else policy, beta).policy
        yield policy


def scheme_exponent(scheme: Scheme, alpha: Any, beta: Any, rounds: float) -> Array:
    """Return the exponent `κ` of `SCHEMES`: after `rounds` rounds the policy is ``power_policy(π̂,
    κ)``.

    Args:
        scheme: one of `SCHEMES`.
        alpha: temperature, scalar or ``batch``.
        beta: KL coefficient, scalar or ``batch``; not read by `plain`.
        rounds: `K`, from 0; ``math.inf`` for the limit.

    Returns:
        ``batch``; ``inf`` stands for the MAP.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> [float(scheme_exponent(s, 1.0, 1.0, 3)) for s in ("compound", "reread", "anchor")]
        [7.999..., 4.0, 4.0]
    """
    _require_scheme(scheme)
    if not rounds >= 0:
        raise ValueError(f"rounds={rounds}: must be at least 0")
    if scheme == "plain" or rounds == 0:
        return np.asarray(float("inf") if rounds else 1.0)
    ratio = as_array(require_positive("alpha", alpha) / require_positive("beta", beta))
    xp = array_namespace(ratio)
    with np.errstate(over="ignore"):
        if scheme == "compound":
            return xp.exp(rounds * xp.log1p(ratio))
        if scheme == "anchor":
            return 1 + rounds * ratio
        above = ratio - 1  # 1 + c + … + c^K = (c^{K+1} − 1)/(c − 1)
        geometric = xp.expm1((rounds + 1) * xp.log(xp.where(above == 0, 2.0, ratio)))
        return xp.where(above == 0, rounds + 1.0, geometric / xp.where(above == 0, 1.0, above))


def _require_scheme(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: must be one of {', '.join(SCHEMES)}")


# --- Over-optimisation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SharpeningCurve:
    """Value, divergence and entropy of the power policies ``π̂^κ``, averaged over prompts.

    Each array has the shape of `exponents`.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> right = Policy.from_probs(mdp.dynamics, [[[0.25, 0.75]]])
        >>> sharpening_curve(mdp, right, 1.0, [1.0, 2.0]).map_probability.round(4).tolist()
        [0.75, 0.9]
    """

    exponents: Array
    """``κ = 1 + α/β``."""
    value: Array
    """True plain value ``V^{π_κ}_{r*}``, reward units. It may rise, fall, or rise and then fall."""
    endogenous_value: Array
    """``α E log π̂(τ|s₁)``, value of `r̂` less ``E V̂(s₁)``; it never falls, slope ``α Var``."""
    kl: Array
    """``KL(π_κ(τ)‖π̂(τ))``, nats."""
    entropy: Array
    """Entropy of the response, nats."""
    map_probability: Array
    """Probability of the most probable response of `π̂`."""
    slope: Array
    """``dV^{π_κ}_{r*}/dκ``, reward units."""


def sharpening_curve(
    reward: TokenMDP, policy: Policy, alpha: Any, exponents: Any
) -> SharpeningCurve:
    """Return the over-optimisation curve of RL on the endogenous reward: exact, all exponents in a
    batch.

    Args:
        reward: the true reward `r*`.
        policy: `π̂`, without batch axes.
        alpha: temperature of its endogenous reward, a scalar.
        exponents: ``κ = 1 + α/β``, positive, ``(K,)``.

    Raises:
        ValueError: names the argument and the value.

    Example:
        Sharpening a policy that prefers the wrong token:

        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> wrong = Policy.from_probs(mdp.dynamics, [[[0.75, 0.25]]])
        >>> sharpening_curve(mdp, wrong, 1.0, [1.0, 2.0]).value.round(4).tolist()
        [0.25, 0.1]
    """
    exponents = as_float(exponents)
    if policy.batch_shape or reward.batch_shape or np.ndim(alpha) or exponents.ndim != 1:
        shapes = f"policy of batch {policy.batch_shape}, reward of batch {reward.batch_shape}"
        shapes += f", alpha of shape {np.shape(alpha)}, exponents of shape {tuple(exponents.shape)}"
        raise ValueError(f"{shapes}: take one policy, reward and alpha, and exponents (K,)")
    sharpened = power_policy(policy, exponents)
    log_mass = log_prob(sharpened, map_response(policy))
    average = policy.dynamics.average
    return SharpeningCurve(
        exponents,
        plain_value(reward, sharpened),
        require_positive("alpha", alpha) * average(expected_sums(sharpened, policy.log_probs)[0]),
        kl(sharpened, policy),
        trajectory_entropy(sharpened),
        average(array_namespace(log_mass).exp(log_mass)),
        average(covariance(sharpened, reward.rewards, policy.log_probs)),
    )


def sharpening_slope(reward: TokenMDP, policy: Policy, exponent: Any = 1.0) -> Array:
    """Return the slope ``dV^{π_κ}_r/dκ = E Cov_{π_κ}(r(τ), log π̂(τ))`` of `sharpening_curve`:
    ``batch``.

    At ``κ = 1`` its sign says whether sharpening helps at first: it does where, among responses to
    the same prompt, `π̂` prefers those that pay. As ``r*(τ) = α log π_E(τ) + V*(s₁)``, the slope is
    ``α Var_{π_κ}(log π̂) ≥ 0`` for ``π̂ = π_E``, and it is not negative as long as ``log π_E − log
    π̂`` has no greater variance than ``log π̂``.

    Args:
        reward: the true reward.
        policy: `π̂`.
        exponent: `κ`, positive, scalar or ``batch``.

    Returns:
        Reward units, averaged over prompts.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> wrong = Policy.from_probs(mdp.dynamics, [[[0.75, 0.25]]])
        >>> print(round(float(sharpening_slope(mdp, wrong)), 4))  # −(3/16) log 3
        -0.206
    """
    require_same_dynamics(reward.dynamics, policy.dynamics)
    sharpened = power_policy(policy, exponent)
    return policy.dynamics.average(covariance(sharpened, reward.rewards, policy.log_probs))


class BestExponent(NamedTuple):
    """The exponent of greatest true value.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> right = Policy.from_probs(mdp.dynamics, [[[0.25, 0.75]]])
        >>> best_exponent(mdp, right, high=10.0).exponent  # sharpening only helps
        10.0
    """

    exponent: float
    value: float
    """True plain value there, reward units."""


def best_exponent(
    reward: TokenMDP, policy: Policy, low: float = 1.0, high: float = 1e3
) -> BestExponent:
    """Return the `κ` in ``[low, high]`` of greatest ``V^{π_κ}_r``: an end, or a zero of the slope.

    Every fall of `sharpening_slope` through zero on a grid of 200 exponents (4 % apart by default)
    is refined to rounding, and the best of these and the ends is taken; an end, where no zero is
    better by more than rounding. NumPy, no batch axes.

    Args:
        reward: the true reward `r*`.
        policy: `π̂`.
        low: least exponent; the default, 1, is `π̂` itself (``β = ∞``).
        high: greatest exponent; where the value still rises there, it is returned.

    Raises:
        ValueError: `low` or `high` is not positive and finite or they are not in order, or there
            are batch axes.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> wrong = Policy.from_probs(mdp.dynamics, [[[0.75, 0.25]]])
        >>> best_exponent(mdp, wrong)  # sharpening only harms
        BestExponent(exponent=1.0, value=0.25)
    """
    low = require_positive("low", low)
    high = require_positive("high", high)
    if not low < high:
        raise ValueError(f"low={low}, high={high}: low must be below high")
    if reward.batch_shape or policy.batch_shape:
        raise ValueError(
            f"batch axes {reward.batch_shape}, {policy.batch_shape}: take the problems one at a "
            "time"
        )
    grid = np.geomspace(low, high, 200)
    slopes = sharpening_slope(reward, policy, grid)
    falls = np.flatnonzero((slopes[:-1] > 0) & (slopes[1:] <= 0))
    below = grid[falls]
    above = grid[falls + 1]
    for _ in range(52 if falls.size else 0):  # bisection, all falls at once, to the last bit
        middle = (below + above) / 2
        rising = sharpening_slope(reward, policy, middle) > 0
        below = np.where(rising, middle, below)
        above = np.where(rising, above, middle)
    found = np.array([low, high, *below])
    values = plain_value(reward, power_policy(policy, found))
    rounding = 1e-14 * policy.horizon * max(map(abs, reward.reward_range))
    best = int(np.argmax(values >= values.max() - rounding))
    return BestExponent(float(found[best]), float(values[best]))
