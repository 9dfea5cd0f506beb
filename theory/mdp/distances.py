"""Distances between two policies over the same states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from theory.arrays.kernels import by_blocks, columns, divergence
from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    constant,
    exp,
    expand,
    is_enclosure,
    is_torch_array,
    like,
    log_mean_exp,
    require_positive,
    soft_maximum,
)
from theory.arrays.tensors import numpy_can_read, through_numpy
from theory.mdp.dynamics import require_tree_memory
from theory.mdp.policy import NEVER, Policy, require_same_dynamics
from theory.mdp.values import by_layer, expectation

__all__ = [
    "best_of_n_kl",
    "coverage_profile",
    "divergence_terms",
    "kl",
    "le_cam",
    "log_ratios",
    "max_log_ratio",
    "overlap",
    "renyi",
    "squared_hellinger",
    "trajectory_tv",
]


def kl(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """Return ``KL(π(τ)‖π'(τ)) = E_π[log π(τ|s₁) − log π'(τ|s₁)]``, nats; may be infinite.

    A row's divergence is summed as ``Σ_a [p log(p/p') − p + p']``, no term of which is negative, so
    that policies that nearly agree lose no digits.

    Args:
        policy: `π`.
        other: `π'`; where it misses a token that `π` may choose, the divergence is infinite.
        per_prompt: return one number for each prompt, ``(*batch, P)``, not their average ``batch``.

    Raises:
        ValueError: the dynamics differ.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> print(round(float(kl(p, q)), 4))  # ½ log 2 + ½ log ⅔ = ½ log 4/3
        0.1438
    """
    if numpy_can_read(policy.log_probs, other.log_probs):
        return through_numpy(kl, policy, other, per_prompt=per_prompt)
    require_same_dynamics(policy.dynamics, other.dynamics)
    following: Array | None = None
    layers = list(zip(policy.log_probs, other.log_probs, strict=True))
    by_kernel = all(columns(*pair) is not None for pair in layers)
    if not by_kernel:
        ratios = log_ratios(policy, other)
        rows = by_layer(divergence_terms, policy.log_probs, other.log_probs, ratios)
        probs = by_layer(exp, policy.log_probs)
    for h, (log_p, log_q) in reversed(list(enumerate(layers))):
        children = policy.dynamics.children(h, following)
        if by_kernel:
            tables = columns(log_p, log_q, children)
            assert tables is not None
            following = by_blocks(divergence, _divergence_exactly, *tables)
            following = following.reshape(log_p.shape[:-1])
        else:
            following = _divergence_with_children(rows[h], probs[h], log_p, children)
    return following if per_prompt else policy.dynamics.average(following)


def _divergence_exactly(log_p: Array, log_q: Array, children: Array | None) -> Array:
    """A layer's divergences where a token is never chosen, or a value is infinite."""
    terms = divergence_terms(log_p, log_q, _log_ratio(log_p, log_q))
    return _divergence_with_children(terms, np.exp(log_p), log_p, children)


def _divergence_with_children(
    terms: Array, prob: Array, log_p: Array, children: Array | float | None
) -> Array:
    here = array_namespace(terms).sum(terms, axis=-1)
    if children is None or isinstance(children, float):
        return here
    return here + expectation(prob, log_p, children)


def divergence_terms(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """Return the terms ``p log(p/q) − p + q ≥ 0`` of a divergence: ``(*batch, n, V)``; ``∞`` at q =
    0 < p.

    Args:
        log_p: ``log p``, nats.
        log_q: ``log q``, nats.
        ratio: ``log(p/q)``, given apart because a caller may know it more precisely.

    Example:
        >>> p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
        >>> terms = divergence_terms(np.log(p), np.log(q), np.log(p / q))
        >>> terms.sum(axis=-1).round(4).tolist()  # the KL divergence of the row
        [0.1438]
    """
    xp = array_namespace(log_p, log_q, ratio)
    if is_enclosure(ratio) and not ratio.coarse:  # with digits to spare, terms may cancel
        p = xp.exp(log_p)
        terms = p * xp.where(log_p == NEVER, 0.0, ratio) - p + xp.exp(log_q)
        return xp.where(ratio == float("inf"), float("inf"), terms)
    # With t = log(p/q): q (t e^t − expm1 t) where p ≤ q, elsewhere p (t + expm1(−t)). Neither
    # cancels, whatever t is. Where `p` underflows and `q` is zero, 0·∞ is computed and not used.
    with np.errstate(invalid="ignore"):
        p_smaller = xp.exp(log_q) * _below_one(ratio)
        p_larger = xp.exp(log_p) * _above_one(ratio)
    infinite = ratio == float("inf")
    return xp.where(ratio <= 0, p_smaller, xp.where(infinite, float("inf"), p_larger))


def _below_one(t: Array) -> Array:
    """``t e^t − expm1(t)``, which falls from 1 at ``−∞`` to 0 at 0."""
    if is_enclosure(t):
        xp = array_namespace(t)
        radius = t.radius()
        # The derivative is t e^t: at most (|mid| + radius) e^{mid + radius} within the radius.
        slack = radius * (abs(t.midpoint()) + radius) * xp.exp(t.midpoint() + radius)
        return t.carry(_below_one_exact, xp.where(xp.abs(t) == float("inf"), 0.0, slack))
    return _below_one_exact(t)


def _below_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    # Below −700 the function is 1 to 300 digits; above 0 its value is not used.
    inside = xp.where(t < -700.0, -700.0, xp.where(t > 1.0, 1.0, t))
    return xp.where(t < -700.0, 1.0, inside * xp.exp(inside) - xp.expm1(inside))


def _above_one(t: Array) -> Array:
    """``t + expm1(−t)``, for ``t ≥ 0``; 0 at 0."""
    if is_enclosure(t):
        xp = array_namespace(t)
        radius = t.radius()
        # The derivative 1 − e^{−t} is monotone: its largest size is at an end.
        slopes = (xp.abs(xp.expm1(-(t.midpoint() + side * radius))) for side in (-1, 1))
        return t.carry(_above_one_exact, radius * xp.maximum(*slopes))
    return _above_one_exact(t)


def _above_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    inside = xp.where(t < -1.0, -1.0, t)  # below 0 its value is not used
    return inside + xp.expm1(-inside)


def squared_hellinger(policy: Policy, other: Policy) -> Array:
    """Return the squared Hellinger distance ``½ Σ_τ (√π(τ|s₁) − √π'(τ|s₁))²`` per prompt:
    ``(*batch, P)``.

    From 0 (equal) to 1 (disjoint). It is ``1 − BC`` with the Bhattacharyya coefficient
    ``BC = Σ_τ √(π π')``, and ``1 − BC(s) = Σ_a ½(√p − √p')² + √(pp') (1 − BC(s⊕a))`` has positive
    terms only, so that policies that nearly agree lose no digits.

    Raises:
        ValueError: the dynamics differ.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> one, fair = (Policy.from_probs(d, [[row]]) for row in ([1.0, 0.0], [0.5, 0.5]))
        >>> squared_hellinger(one, fair).round(4).tolist()  # 1 − √½
        [0.2929]
    """
    if numpy_can_read(policy.log_probs, other.log_probs):
        return through_numpy(squared_hellinger, policy, other)
    require_same_dynamics(policy.dynamics, other.dynamics)
    rows = by_layer(_hellinger_terms, policy.log_probs, other.log_probs, log_ratios(policy, other))
    overlaps = by_layer(lambda p, q: exp((p + q) / 2), policy.log_probs, other.log_probs)
    following: Array | None = None
    for h, (terms, overlap) in reversed(list(enumerate(zip(rows, overlaps, strict=True)))):
        if following is not None:
            terms = terms + overlap * policy.dynamics.children(h, following)
        following = array_namespace(terms).sum(terms, axis=-1)
    return following


def _hellinger_terms(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """``½(√p − √q)²``: ``(*batch, n, V)``, from ``log(p/q)``."""
    xp = array_namespace(log_p, log_q, ratio)
    relative = xp.expm1(-xp.abs(ratio) / 2)  # (√smaller − √larger)/√larger
    return xp.exp(xp.where(ratio <= 0, log_q, log_p)) * relative * relative / 2


def overlap(policy: Policy, other: Policy) -> tuple[Policy, Array]:
    """Return the distribution ``√(π π')/BC`` of responses, as a policy, and ``log BC``: ``(*batch,
    P)``.

    ``BC = Σ_τ √(π π')`` is the Bhattacharyya coefficient; one backward sweep, ``log BC(s) = log
    Σ_a √(p p') BC(s⊕a)``. Where the two share no response, ``log BC`` is minus infinity and the
    policy is `policy`.

    Raises:
        ValueError: the dynamics differ.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.1, 0.9]))
        >>> between, log_affinity = overlap(p, q)
        >>> np.exp(between.log_probs[0]).round(4).tolist(), np.exp(log_affinity).round(4).tolist()
        ([[0.25, 0.75]], [0.8944])
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    rows: list[Array] = []
    following: Array | None = None
    for h, (p, q) in reversed(list(enumerate(zip(policy.log_probs, other.log_probs, strict=True)))):
        total = (p + q) / 2 + policy.dynamics.children(h, following)
        xp = array_namespace(total)
        dead = xp.all(total == NEVER, axis=-1, keepdims=True)
        total = xp.where(dead, p, total)
        value = soft_maximum(total, 1.0)
        rows.append(total - value[..., None])
        following = xp.where(dead[..., 0], NEVER, value)
    return Policy(policy.dynamics, tuple(reversed(rows))), following


def renyi(policy: Policy, other: Policy, order: Any) -> Array:
    """Return the Rényi divergence ``log Σ_τ π^q π'^{1−q} / (q − 1)``, order ``q > 1``: ``(*batch,
    P)``, nats.

    Nondecreasing in `q`: KL for ``q → 1``, the greatest ``log π(τ)/π'(τ)`` for ``q → ∞``;
    infinite where `π'` misses support. Where every
    ``|log π(a|s) − log π'(a|s)| ≤ ε`` it is at most ``H/(q−1) · log(cosh((q−½)ε)/cosh(ε/2))``, and
    randomised responses attain that. With ``q = 1 + α/β`` it bounds what KL-regularised RL on `r̂`
    can lose:

        V^{π_E}_{r*} − V^{π_β}_{r*} ≤ (α + β) KL(π_E‖π̂) + α D_{1+α/β}(π̂‖π_E).

    Args:
        policy: `π`.
        other: `π'`.
        order: `q`, scalar or ``batch``.

    Raises:
        ValueError: `order` is not above 1 and finite, or the dynamics differ.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> renyi(p, q, 2.0).round(4).tolist()  # log(¼/¼ + ¼/¾) = log 4/3
        [0.2877]
    """
    if numpy_can_read(policy.log_probs, other.log_probs, order):
        return through_numpy(renyi, policy, other, order)
    require_same_dynamics(policy.dynamics, other.dynamics)
    excess = require_positive("order - 1", as_float(order) - 1)
    value: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        log_probs = policy.log_probs[h]
        xp = array_namespace(log_probs, ratio)
        never = log_probs == NEVER
        tilt = xp.where(never, 0.0, ratio) * expand(excess, 2) + policy.dynamics.children(h, value)
        infinite = (tilt == float("inf")) & ~never  # a token that `other` never chooses
        finite = log_mean_exp(log_probs, xp.where(infinite | never, 0.0, tilt))
        value = xp.where(xp.any(infinite, axis=-1), float("inf"), finite)
    assert value is not None
    return value / expand(excess, 1)


def trajectory_tv(policy: Policy, other: Policy) -> Array:
    """Return the total variation ``½ Σ_τ |π(τ|s₁) − π'(τ|s₁)|`` over responses, per prompt:
    ``(*batch, P)``.

    Raises:
        ValueError: the tree of all responses does not fit into memory.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> trajectory_tv(p, q).round(4).tolist()
        [0.25]
    """
    laws = _laws(policy, other)
    xp = array_namespace(laws.log_ratio)
    gap = xp.where(laws.both, -xp.expm1(-xp.abs(laws.log_ratio)), 1.0)
    return xp.sum(laws.larger() * gap, axis=-1) / 2


def le_cam(policy: Policy, other: Policy) -> Array:
    """Return the Le Cam distance ``Σ_τ (π − π')²/(π + π')`` of responses, per prompt: ``(*batch,
    P)``.

    From 0 (equal) to 2 (disjoint); also called triangular discrimination. A term is the larger of
    the two probabilities times ``(1 − e^{−|D|})²/(1 + e^{−|D|})``, ``D`` the log-ratio, in which
    nothing cancels.

    Raises:
        ValueError: the tree of all responses does not fit into memory.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> le_cam(p, q).round(4).tolist()  # 1/12 + 1/20
        [0.1333]
    """
    laws = _laws(policy, other)
    xp = array_namespace(laws.log_ratio)
    apart = xp.abs(laws.log_ratio)
    less = xp.expm1(-apart)
    term = xp.where(laws.both, less * less / (1 + xp.exp(-apart)), 1.0)
    return xp.sum(laws.larger() * term, axis=-1)


def coverage_profile(policy: Policy, other: Policy, ratio: float) -> Array:
    """Return the share ``P_π[π(τ) ≥ N π'(τ)]`` of responses that `π'` covers badly, per prompt:
    ``(*batch, P)``.

    To draw a response of that share from `π'` takes `N` times as many draws as from `π`. It is
    finite where the largest log-ratio is not.

    Args:
        policy: `π`.
        other: `π'`.
        ratio: `N`, above 1.

    Raises:
        ValueError: `ratio` is not above 1, or the tree of all responses does not fit into memory.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.1, 0.9]))
        >>> coverage_profile(p, q, 4.0).tolist()
        [0.5]
    """
    require_positive("ratio - 1", ratio - 1)
    laws = _laws(policy, other)
    xp = array_namespace(laws.log_ratio)
    missed = laws.log_two == NEVER
    badly = missed | (laws.both & (laws.log_ratio >= xp.log(constant(ratio, laws.log_ratio))))
    return xp.sum(xp.where(badly, xp.exp(laws.log_one), 0.0), axis=-1)


def best_of_n_kl(policy: Policy, n: int) -> Array:
    """Return ``KL(BoN‖π)``, where *BoN* is the most probable of `n` draws of `π`, per prompt:
    ``(*batch, P)``, nats.

    With `F` the probability of a response that is no more probable (of equally probable ones, one
    that comes no later), and ``F⁻`` without itself, ``P(BoN = τ) = F(τ)^n − F⁻(τ)^n``, which is
    ``π(τ) Σ_j F^j F⁻^{n−1−j}``.

    Args:
        policy: `π`.
        n: number of draws, at least 1.

    Raises:
        ValueError: `n` is below 1, or the tree of all responses does not fit into memory.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> fair = Policy.from_probs(d, [[[0.5, 0.5]]])
        >>> best_of_n_kl(fair, 2).round(4).tolist()  # ¼ and ¾ against ½ and ½
        [0.1308]
    """
    require_positive("n", n)
    log_probs = _laws(policy, policy).log_one
    if is_torch_array(log_probs):
        law = exp(log_probs.sort(dim=-1, stable=True).values)
    else:
        middle = log_probs.midpoint().nearest() if is_enclosure(log_probs) else log_probs
        order = np.argsort(middle, axis=-1, kind="stable")
        outer = np.ogrid[tuple(map(slice, order.shape))][:-1]
        law = exp(log_probs[(*outer, order)])
    xp = array_namespace(law)
    up_to = _running_sums(law)
    before = xp.concatenate([xp.zeros_like(law[..., :1]), up_to[..., :-1]], axis=-1)
    gain = power = xp.ones_like(law)
    for _ in range(n - 1):  # Σ_j F^j F⁻^{n−1−j}
        power = power * before
        gain = gain * up_to + power
    possible = law > 0
    kept = xp.where(possible, gain, 1.0)
    return xp.sum(xp.where(possible, law * (kept * xp.log(kept) - kept + 1), 0.0), axis=-1)


def _running_sums(values: Array) -> Array:
    """``Σ_{j≤k} x_j`` along the last axis, by doubling."""
    xp = array_namespace(values)
    step = 1
    while step < values.shape[-1]:
        shifted = [xp.zeros_like(values[..., :step]), values[..., :-step]]
        values = values + xp.concatenate(shifted, axis=-1)
        step *= 2
    return values


class _Laws(NamedTuple):
    """Two policies' probabilities of every response to each prompt, ``(*batch, P, V^H)``."""

    log_one: Array
    log_two: Array
    log_ratio: Array
    """``log π − log π'``; zero unless both write it."""
    both: Array
    """Whether both write it."""

    def larger(self) -> Array:
        """The larger of the two probabilities; zero where neither writes it."""
        xp = array_namespace(self.log_one, self.log_two)
        never = self.log_one == NEVER
        log_larger = xp.where(
            never,
            self.log_two,
            xp.where(self.log_two == NEVER, self.log_one, xp.maximum(self.log_one, self.log_two)),
        )
        return xp.where(never & (self.log_two == NEVER), 0.0, xp.exp(log_larger))


def _laws(policy: Policy, other: Policy) -> _Laws:
    require_same_dynamics(policy.dynamics, other.dynamics)
    d = policy.dynamics
    batch = int(np.prod(np.broadcast_shapes(policy.batch_shape, other.batch_shape)))
    what = "the distribution of every response"
    require_tree_memory(d.vocab_size, d.horizon, d.n_prompts, what, bytes_per_prefix=48 * batch)
    states = d.prefix_states()
    tables = (policy.log_probs, other.log_probs, log_ratios(policy, other))
    with np.errstate(invalid="ignore"):  # ∞ − ∞ of a response that neither writes
        log_one, log_two, log_ratio = (_all_sums(each, states, d.n_prompts) for each in tables)
    both = ~(log_one == NEVER) & ~(log_two == NEVER)
    xp = array_namespace(log_one, log_two, log_ratio)
    return _Laws(log_one, log_two, xp.where(both, log_ratio, 0.0), both)


def _all_sums(tables: Sequence[Array], states: list[np.ndarray], n_prompts: int) -> Array:
    """Sum of a per-token quantity along every response to each prompt: ``(*batch, P, V^H)``."""
    total: Array = 0.0
    for table, index in zip(tables, states, strict=True):
        total = (total + table[..., index, :]).reshape((*table.shape[:-2], -1, 1))
    return total.reshape((*total.shape[:-2], n_prompts, -1))


def log_ratios(policy: Policy, other: Policy) -> list[Array]:
    """Return ``log π(a|s) − log π'(a|s)`` by layer; 0 where neither policy ever chooses the token.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> log_ratios(p, q)[0].round(4).tolist()
        [[0.6931, -0.4055]]
    """
    return by_layer(_log_ratio, policy.log_probs, other.log_probs)


def _log_ratio(one: Array, two: Array) -> Array:
    xp = array_namespace(one, two)
    neither = (one == NEVER) & (two == NEVER)
    with np.errstate(invalid="ignore"):
        return xp.where(neither, 0.0, one - two)


def max_log_ratio(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """Return ``ε_π = max |log π(a|s) − log π'(a|s)|`` over what can happen: ``batch``, nats.

    The states that count follow a prompt of positive weight with positive probability under
    `policy` or `other`. Infinite where one of them has a token there that the other never chooses.

    Args:
        policy: `π`.
        other: `π'`.
        per_prompt: return one number for each prompt, ``(*batch, P)``, whatever its weight.

    Raises:
        ValueError: the dynamics differ.

    Example:
        >>> from theory import TokenMDP
        >>> d = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> p, q = (Policy.from_probs(d, [[row]]) for row in ([0.5, 0.5], [0.25, 0.75]))
        >>> print(round(float(max_log_ratio(p, q)), 4))  # log 2
        0.6931
    """
    if numpy_can_read(policy.log_probs, other.log_probs):
        return through_numpy(max_log_ratio, policy, other, per_prompt=per_prompt)
    require_same_dynamics(policy.dynamics, other.dynamics)
    following: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        one = policy.log_probs[h]
        two = other.log_probs[h]
        xp = array_namespace(one, two)
        largest = xp.abs(ratio)
        if following is not None:
            below = policy.dynamics.children(h, following)
            chosen = ~((one == NEVER) & (two == NEVER))
            # a GPU would have to be waited for
            everywhere = not is_torch_array(chosen) and bool(xp.all(chosen))
            largest = xp.maximum(largest, below if everywhere else xp.where(chosen, below, 0.0))
        following = xp.max(largest, axis=-1)
    if per_prompt:
        return following
    xp = array_namespace(following)
    possible = like(policy.dynamics.prompt_weights > 0, following)
    return xp.max(xp.where(possible, following, 0.0), axis=-1)
