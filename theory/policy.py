"""Policies by layers of log-probabilities, and what a policy does: values, occupancy, entropy, KL, responses.

Values come in two kinds, and every name says which:

- *plain* value ``V^π_r = E_π[r(τ)]``;
- *regularised* value ``V^π_{r,α} = E_π[r(τ)] + α·H(π(τ))``, ``H`` the trajectory entropy in nats.

Functions that end in ``_values`` return one array ``(*batch, n_h)`` per layer (the value from that state on); their
singular averages the first layer over the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from theory.arrays import (
    Array,
    array_namespace,
    as_float,
    expand,
    forbid,
    is_enclosure,
    like,
    log_mean_exp,
    pick,
    require_positive,
    token_major,
)
from theory.dynamics import Dynamics, require_tree_memory
from theory.mdp import TokenMDP

__all__ = [
    "Policy",
    "Responses",
    "all_responses",
    "covariance",
    "divergences",
    "greedy_response",
    "kl",
    "log_prob",
    "map_response",
    "max_log_ratio",
    "occupancy",
    "plain_value",
    "plain_values",
    "regularised_value",
    "renyi",
    "response_sum",
    "sample",
    "sample_log_ratio_ball",
    "squared_hellinger",
    "trajectory_entropy",
    "trajectory_tv",
]

Seed = int | np.random.Generator | None

NEVER = float("-inf")


class Responses(NamedTuple):
    """Responses to prompts: the prompt of each and its tokens."""

    prompts: Array
    """``(N,)`` indices of prompts."""
    tokens: Array
    """``(N, H)``, or ``(*batch, N, H)`` where each problem of a batch has its own."""


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy ``π(a|s)`` on token dynamics. Build one with `from_logits`, `from_log_probs` or `from_probs`.

    The log-probabilities are stored as given and read as exact logits: ``-inf`` is a token that is never chosen.

    Attributes:
        dynamics: the dynamics it acts on.
        log_probs: `H` tables ``(*batch, n_h, V)``, nats.
        log_normalizers: ``log Σ_a exp(logits)`` for each state, `H` arrays ``(*batch, n_h)`` (or `H + 1`, the last for
            the states after the last token), where the policy was read from logits. They are the *gauge* in which
            `theory.reward.endogenous_reward` reads its reward; the policy itself does not depend on them.

    """

    dynamics: Dynamics
    log_probs: tuple[Array, ...]
    log_normalizers: tuple[Array, ...] | None = None

    @classmethod
    def from_logits(cls, dynamics: Dynamics, logits: Sequence[Any], temperature: Any = 1.0) -> Self:
        """``softmax(logits/temperature)``; its normalisers are kept as its gauge. Forbidden tokens get ``-inf``.

        Args:
            dynamics: the dynamics to act on.
            logits: `H` tables ``(*batch, n_h, V)``; ``-inf`` forbids a token.
            temperature: the temperature at which the logits are sampled, scalar or ``batch``.

        Raises:
            ValueError: a shape does not fit, a logit is NaN or ``+inf``, a state has no token left.

        """
        temperature = require_positive("temperature", temperature)
        log_probs: list[Array] = []
        log_normalizers: list[Array] = []
        for h, table in enumerate(_check_tables("logits", logits, dynamics)):
            xp = array_namespace(table)
            unit = isinstance(temperature, float) and temperature == 1.0
            scaled = forbid(table if unit else table / expand(temperature, 2), dynamics.allowed[h])
            if bool(xp.any(xp.isnan(scaled) | (scaled == float("inf")))):
                raise ValueError(f"logits[{h}] holds NaN or +inf: logits must be finite, or -inf for a forbidden token")
            top = xp.max(scaled, axis=-1, keepdims=True)
            if bool(xp.any(top == float("-inf"))):
                raise ValueError(f"logits[{h}] forbids every token of some state: at least one must be allowed")
            shifted = scaled - top
            log_total = xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
            log_probs.append(token_major(shifted - log_total))
            log_normalizers.append((top + log_total)[..., 0])
        return cls(dynamics, tuple(log_probs), tuple(log_normalizers))

    @classmethod
    def from_log_probs(cls, dynamics: Dynamics, log_probs: Sequence[Any], tolerance: float = 1e-9) -> Self:
        """A policy from its log-probabilities, kept as they are.

        Raises:
            ValueError: a shape does not fit, or a row does not sum to one within `tolerance`; names the layer.

        """
        tables = _check_tables("log_probs", log_probs, dynamics)
        for h, table in enumerate(tables):
            xp = array_namespace(table)
            total = xp.sum(xp.exp(table), axis=-1)
            off = ~(xp.abs(total - 1.0) <= tolerance)  # also where the sum is NaN
            if bool(xp.any(off)):
                raise ValueError(
                    f"log_probs[{h}]: a row sums to {float(total[off][0]):.12g}, must be 1; use Policy.from_logits"
                )
            mask = dynamics.allowed[h]
            if mask is not None and bool(xp.any(xp.exp(table) * like(~mask, table) > 0)):
                raise ValueError(f"log_probs[{h}] gives probability to a forbidden token: use -inf there")
        return cls(dynamics, tuple(token_major(table) for table in tables))

    @classmethod
    def from_probs(cls, dynamics: Dynamics, probs: Sequence[Any], tolerance: float = 1e-9) -> Self:
        """A policy from its probabilities.

        Raises:
            ValueError: as `from_log_probs`, or a probability is negative.

        """
        tables = _check_tables("probs", probs, dynamics)
        for h, table in enumerate(tables):
            if bool((table < 0).any()):
                raise ValueError(f"probs[{h}] holds a negative probability")
        with np.errstate(divide="ignore"):
            logs = [array_namespace(table).log(table) for table in tables]
        return cls.from_log_probs(dynamics, logs, tolerance)

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.dynamics.horizon

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for a single policy."""
        return tuple(self.log_probs[0].shape[:-2])

    def as_tree(self) -> Policy:
        """The same policy with every prefix a state of its own.

        Raises:
            ValueError: the tree does not fit into memory.

        """
        states = self.dynamics.prefix_states()
        log_probs = tuple(token_major(t[..., s, :]) for t, s in zip(self.log_probs, states, strict=True))
        normalizers = self.log_normalizers
        if normalizers is not None:
            normalizers = tuple(z[..., s] for z, s in zip(normalizers, states, strict=False))
        return Policy(self.dynamics.as_tree(), log_probs, normalizers)


def expected_sums(policy: Policy, tables: Sequence[Array]) -> tuple[Array, ...]:
    """Expected sum of a per-token quantity under `policy` from each state on: `H` arrays ``(*batch, n_h)``.

    ``W(s) = Σ_a π(a|s) [x(s,a) + W(s⊕a)]``. A token of probability zero contributes nothing, whatever its `x`.
    """
    sums: list[Array] = []
    following: Array | None = None
    tables = by_layer(_of_chosen, policy.log_probs, tables)
    for h, prob in reversed(list(enumerate(by_layer(_exp, policy.log_probs)))):
        following = _mean(prob, policy.log_probs[h], tables[h] + policy.dynamics.children(h, following))
        sums.append(following)
    return tuple(reversed(sums))


def _mean(prob: Array, log_probs: Array, values: Array) -> Array:
    """``Σ_a π(a|s) x(s,a)``: ``(*batch, n, V)`` to ``(*batch, n)``."""
    xp = array_namespace(prob, values)
    if is_enclosure(values) and values.coarse:
        # Probabilities sum to one, so what all values share is taken out, and their own errors weigh the rest only.
        shared = xp.max(xp.where(xp.isfinite(values), values, NEVER), axis=-1).centre()
        shared = xp.where(xp.isfinite(shared), shared, 0.0)
        return shared + xp.sum(_expected(prob, log_probs, values - shared[..., None]), axis=-1)
    return xp.sum(_expected(prob, log_probs, values), axis=-1)


def by_layer(function: Callable[..., Array], *tables: Sequence[Array]) -> list[Array]:
    """``function(tables[0][h], tables[1][h], …)`` for each layer `h`, where it acts on each state by itself.

    Enclosures of many layers, whose every operation takes longer than its arithmetic, are joined to one table before
    and parted after it.
    """
    if not any(is_enclosure(each[0]) for each in tables) or len(tables[0]) < 8:
        return [function(*layers) for layers in zip(*tables, strict=True)]
    sizes = [table.shape[-2] for table in tables[0]]
    joined = []
    for each in tables:
        batch = np.broadcast_shapes(*(table.shape[:-2] for table in each))
        xp = array_namespace(*each)
        joined.append(xp.concatenate([xp.broadcast_to(t, (*batch, *t.shape[-2:])) for t in each], axis=-2))
    found, ends = function(*joined), np.cumsum(sizes)
    return [found[..., end - size : end, :] for end, size in zip(ends, sizes, strict=True)]


def _of_chosen(log_probs: Array, table: Array) -> Array:
    """`table`, and zero for tokens that are never chosen."""
    xp = array_namespace(log_probs, table)
    return xp.where(~(log_probs == NEVER), table, 0.0)


def _expected(prob: Array, log_probs: Array, values: Array) -> Array:
    """``p(a)·x(a)``; zero for a token that is never chosen, infinite for an infinite `x`, however small its `p`."""
    xp = array_namespace(prob, values)
    if bool(xp.all(xp.isfinite(values))):
        return prob * values
    chosen, infinite = ~(log_probs == NEVER), xp.abs(values) == float("inf")
    counted = xp.where(chosen & ~infinite, values, 0.0)
    return xp.where(chosen & infinite, values, prob * counted)


def plain_values(mdp: TokenMDP, policy: Policy) -> tuple[Array, ...]:
    """Plain value from each state on, ``V^π_r(s)``: `H` arrays ``(*batch, n_h)``, reward units."""
    require_same_dynamics(mdp.dynamics, policy.dynamics)
    return expected_sums(policy, mdp.rewards)


def plain_value(mdp: TokenMDP, policy: Policy) -> Array:
    """Plain value ``V^π_r = E_π[r(τ)]``, averaged over prompts: ``batch``, reward units."""
    return mdp.dynamics.average(plain_values(mdp, policy)[0])


def trajectory_entropy(policy: Policy) -> Array:
    """Entropy of the response, ``H(π(τ)) = −E_π[log π(τ|s₁)]``, averaged over prompts: ``batch``, nats."""
    return policy.dynamics.average(expected_sums(policy, [-table for table in policy.log_probs])[0])


def regularised_value(mdp: TokenMDP, policy: Policy, alpha: Any) -> Array:
    """Regularised value ``V^π_{r,α} = E_π[r(τ)] + α·H(π(τ))``, averaged over prompts: ``batch``, reward units."""
    return plain_value(mdp, policy) + require_positive("alpha", alpha) * trajectory_entropy(policy)


def kl(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """``KL(π(τ)‖π'(τ)) = E_π[log π(τ|s₁) − log π'(τ|s₁)]``, nats; infinite where `other` misses support.

    Averaged over prompts (``batch``), or with `per_prompt` one number each (``(*batch, P)``). A row's divergence is
    ``Σ_a [p log(p/p') − p + p']``, no term of which is negative, so that policies that nearly agree lose no digits.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    rows = by_layer(divergences, policy.log_probs, other.log_probs, log_ratios(policy, other))
    following: Array | None = None
    for h, prob in reversed(list(enumerate(by_layer(_exp, policy.log_probs)))):
        here = array_namespace(rows[h]).sum(rows[h], axis=-1)
        if following is not None:
            here = here + _mean(prob, policy.log_probs[h], policy.dynamics.children(h, following))
        following = here
    return following if per_prompt else policy.dynamics.average(following)


def divergences(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """``p log(p/q) − p + q``, not negative: ``(*batch, n, V)``, from ``log(p/q)``; infinite where only `q` is zero."""
    xp = array_namespace(log_p, log_q, ratio)
    if is_enclosure(ratio) and not ratio.coarse:  # with digits to spare, terms may cancel
        p = xp.exp(log_p)
        terms = p * xp.where(log_p == NEVER, 0.0, ratio) - p + xp.exp(log_q)
        return xp.where(ratio == float("inf"), float("inf"), terms)
    # where p ≤ q it is q (t e^t − expm1 t), elsewhere p (t + expm1(−t)); both are exact for every t = log(p/q)
    with np.errstate(invalid="ignore"):  # zero times infinity, where `p` underflows and `q` is zero: not used
        one, two = xp.exp(log_q) * _below_one(ratio), xp.exp(log_p) * _above_one(ratio)
    return xp.where(ratio <= 0, one, xp.where(ratio == float("inf"), float("inf"), two))


def _below_one(t: Array) -> Array:
    """``t e^t − expm1(t)``, from 1 at ``−∞`` to 0 at 0."""
    if is_enclosure(t):
        radius, xp = t.radius(), array_namespace(t)
        moved = radius * (abs(t.centre()) + radius) * xp.exp(t.centre() + radius)
        return t.carry(_below_one_exact, xp.where(xp.abs(t) == float("inf"), 0.0, moved))
    return _below_one_exact(t)


def _below_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    inside = xp.where(t < -700.0, -700.0, xp.where(t > 1.0, 1.0, t))  # where it is 1 to 300 digits, or not used
    return xp.where(t < -700.0, 1.0, inside * xp.exp(inside) - xp.expm1(inside))


def _above_one(t: Array) -> Array:
    """``t + expm1(−t)``, from 0 at 0."""
    if is_enclosure(t):
        radius, xp = t.radius(), array_namespace(t)
        slopes = (xp.abs(xp.expm1(-(t.centre() + side * radius))) for side in (-1, 1))
        return t.carry(_above_one_exact, radius * xp.maximum(*slopes))
    return _above_one_exact(t)


def _above_one_exact(t: Array) -> Array:
    xp = array_namespace(t)
    inside = xp.where(t < -1.0, -1.0, t)
    return inside + xp.expm1(-inside)


def squared_hellinger(policy: Policy, other: Policy) -> Array:
    """``1 − BC = ½ Σ_τ (√π(τ|s₁) − √π'(τ|s₁))²`` for each prompt: ``(*batch, P)``, from 0 (equal) to 1 (disjoint).

    ``BC = Σ_τ √(π π')`` is the Bhattacharyya coefficient. ``1 − BC(s) = Σ_a ½(√p − √p')² + √(pp') (1 − BC(s⊕a))``, all
    terms positive, so that policies that nearly agree lose no digits.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    apart = by_layer(_hellinger_terms, policy.log_probs, other.log_probs, log_ratios(policy, other))
    roots = by_layer(lambda one, two: _exp((one + two) / 2), policy.log_probs, other.log_probs)
    following: Array | None = None
    for h, (terms, root) in reversed(list(enumerate(zip(apart, roots, strict=True)))):
        if following is not None:
            terms = terms + root * policy.dynamics.children(h, following)
        following = array_namespace(terms).sum(terms, axis=-1)
    return following


def _hellinger_terms(log_p: Array, log_q: Array, ratio: Array) -> Array:
    """``½(√p − √q)²``: ``(*batch, n, V)``, from ``log(p/q)``."""
    xp = array_namespace(log_p, log_q, ratio)
    apart = xp.expm1(-xp.abs(ratio) / 2)  # of the less probable to the more probable of the two
    return xp.exp(xp.where(ratio <= 0, log_q, log_p)) * apart * apart / 2


def covariance(policy: Policy, first: Sequence[Array], second: Sequence[Array]) -> Array:
    """``Cov_π(x(τ), y(τ))`` of the sums of two per-token quantities, for each prompt: ``(*batch, P)``.

    ``x(s,a) + X(s⊕a) − X(s)``, ``X`` the expected sum from a state on, are martingale differences, so the covariance
    is the expected sum of the products of those of `x` and `y`: one more sweep, no response enumerated, no difference
    of large numbers.

    Args:
        policy: `π`.
        first: `x`, `H` tables ``(*batch, n_h, V)``.
        second: `y`, likewise. What `π` never writes does not count, whatever its `x` and `y`.

    """
    products = [a * b for a, b in zip(_advantages(policy, first), _advantages(policy, second), strict=True)]
    return expected_sums(policy, products)[0]


def _advantages(policy: Policy, tables: Sequence[Array]) -> list[Array]:
    """``x(s,a) + X(s⊕a) − X(s)`` by layer; no meaning where `policy` never chooses `a`."""
    sums = (*expected_sums(policy, tables), None)
    found = []
    for h, (table, log_probs) in enumerate(zip(tables, policy.log_probs, strict=True)):
        xp = array_namespace(log_probs)
        x = xp.where(log_probs == float("-inf"), 0.0, table)
        found.append(x + policy.dynamics.children(h, sums[h + 1]) - sums[h][..., None])
    return found


def renyi(policy: Policy, other: Policy, order: Any) -> Array:
    """Rényi divergence ``D_q(π(τ)‖π'(τ)) = log Σ_τ π^q π'^{1−q} / (q − 1)`` of order ``q > 1``: ``(*batch, P)``, nats.

    Nondecreasing in `q`: KL for ``q → 1``, the greatest ``log π(τ)/π'(τ)`` for ``q → ∞``;
    infinite where `π'` misses support. Where every
    ``|log π(a|s) − log π'(a|s)| ≤ ε`` it is at most ``H/(q−1) · log(cosh((q−½)ε)/cosh(ε/2))``, and randomised responses
    attain that. With ``q = 1 + α/β`` it bounds what KL-regularised RL on `r̂` can lose:

        V^{π_E}_{r*} − V^{π_β}_{r*} ≤ (α + β) KL(π_E‖π̂) + α D_{1+α/β}(π̂‖π_E).

    Args:
        policy: `π`.
        other: `π'`.
        order: `q`, scalar or ``batch``.

    Raises:
        ValueError: `order` is not above 1 and finite, or the dynamics differ.

    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    excess = require_positive("order - 1", as_float(order) - 1)
    value: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        log_probs = policy.log_probs[h]
        xp, never = array_namespace(log_probs, ratio), log_probs == NEVER
        tilt = xp.where(never, 0.0, ratio) * expand(excess, 2) + policy.dynamics.children(h, value)
        infinite = (tilt == float("inf")) & ~never  # a token that `other` never writes
        finite = log_mean_exp(log_probs, xp.where(infinite | never, 0.0, tilt))
        value = xp.where(xp.any(infinite, axis=-1), float("inf"), finite)
    assert value is not None
    return value / expand(excess, 1)


def trajectory_tv(policy: Policy, other: Policy) -> Array:
    """``TV(π(τ|s₁), π'(τ|s₁)) = ½ Σ_τ |π(τ|s₁) − π'(τ|s₁)|`` for each prompt, over all responses: ``(*batch, P)``.

    Raises:
        ValueError: the tree of all responses does not fit into memory.

    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    d = policy.dynamics
    batch = int(np.prod(np.broadcast_shapes(policy.batch_shape, other.batch_shape)))
    what = "the distribution of every response"
    require_tree_memory(d.vocab_size, d.horizon, d.n_prompts, what, bytes_per_prefix=48 * batch)
    states = d.prefix_states()
    tables = (policy.log_probs, other.log_probs, log_ratios(policy, other))
    log_one, log_two, log_ratio = (_leaves(each, states, d.n_prompts) for each in tables)
    xp = array_namespace(log_one, log_two, log_ratio)
    never_one, never_two = log_one == NEVER, log_two == NEVER
    both = ~never_one & ~never_two
    larger = xp.exp(xp.where(never_one, log_two, xp.where(never_two, log_one, xp.maximum(log_one, log_two))))
    gap = xp.where(both, -xp.expm1(-xp.abs(xp.where(both, log_ratio, 0.0))), 1.0)
    return xp.sum(xp.where(never_one & never_two, 0.0, larger * gap), axis=-1) / 2


def _leaves(tables: Sequence[Array], states: list[np.ndarray], n_prompts: int) -> Array:
    """Sum of a per-token quantity along every response to each prompt: ``(*batch, P, V^H)``."""
    total: Array = 0.0
    for table, index in zip(tables, states, strict=True):
        total = (total + table[..., index, :]).reshape((*table.shape[:-2], -1, 1))
    return total.reshape((*total.shape[:-2], n_prompts, -1))


def log_ratios(policy: Policy, other: Policy) -> list[Array]:
    """``log π(a|s) − log π'(a|s)`` by layer; zero where neither ever chooses the token."""
    return by_layer(_log_ratio, policy.log_probs, other.log_probs)


def _log_ratio(one: Array, two: Array) -> Array:
    xp = array_namespace(one, two)
    neither = (one == NEVER) & (two == NEVER)
    with np.errstate(invalid="ignore"):
        return xp.where(neither, 0.0, one - two)


def max_log_ratio(policy: Policy, other: Policy, *, per_prompt: bool = False) -> Array:
    """``ε_π = max |log π(a|s) − log π'(a|s)|`` over what can happen: ``batch``, nats, or ``(*batch, P)``.

    Counted are the states that follow a prompt of positive weight with positive probability under `policy` or `other`.
    Infinite where one of them has a token there that the other never chooses.
    """
    require_same_dynamics(policy.dynamics, other.dynamics)
    following: Array | None = None
    for h, ratio in reversed(list(enumerate(log_ratios(policy, other)))):
        one, two = policy.log_probs[h], other.log_probs[h]
        xp = array_namespace(one, two)
        largest = xp.abs(ratio)
        if following is not None:
            below = policy.dynamics.children(h, following)
            written = ~((one == NEVER) & (two == NEVER))
            largest = xp.maximum(largest, below if bool(xp.all(written)) else xp.where(written, below, 0.0))
        following = xp.max(largest, axis=-1)
    if per_prompt:
        return following
    xp = array_namespace(following)
    possible = like(policy.dynamics.prompt_weights > 0, following)
    return xp.max(xp.where(possible, following, 0.0), axis=-1)


def occupancy(policy: Policy) -> tuple[Array, ...]:
    """Probability of being in each state: `H` arrays ``(*batch, n_h)``, each layer summing to one."""
    dynamics = policy.dynamics
    first = policy.log_probs[0]
    xp = array_namespace(first)
    mass = xp.zeros_like(first[..., 0]) + like(dynamics.prompt_weights, first)
    layers = [mass]
    for h in range(policy.horizon - 1):
        mass = dynamics.push(h, mass[..., None] * _exp(policy.log_probs[h]))
        layers.append(mass)
    return tuple(layers)


def response_sum(dynamics: Dynamics, tables: Sequence[Array], responses: Responses) -> Array:
    """Sum of a per-token quantity along each response: ``(*batch, N)``.

    With a reward's tables this is the return ``r(τ) = Σ_h r(s_h, a_h)``.
    """
    states = dynamics.walk(responses.prompts, responses.tokens)
    terms = [pick(table, s, responses.tokens[..., h]) for h, (table, s) in enumerate(zip(tables, states, strict=True))]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def log_prob(policy: Policy, responses: Responses) -> Array:
    """``log π(τ|s₁)`` of each response: ``(*batch, N)``, nats."""
    return response_sum(policy.dynamics, policy.log_probs, responses)


def sample(policy: Policy, n: int, seed: Seed = None, *, prompts: Any = None) -> Responses:
    """Draw `n` responses. NumPy policies only.

    Args:
        policy: the policy, without or with batch axes (each problem of a batch draws its own tokens).
        n: number of responses.
        seed: a seed or a `numpy.random.Generator`; the same seed gives the same responses on one machine.
        prompts: ``(n,)`` indices; drawn from the prompt distribution by default.

    """
    rng = np.random.default_rng(seed)
    dynamics = policy.dynamics
    if prompts is None:
        prompts = rng.choice(dynamics.n_prompts, size=n, p=dynamics.prompt_weights)
    prompts = np.asarray(prompts)
    batch = policy.batch_shape
    tokens = np.empty((*batch, n, policy.horizon), dtype=np.int64)
    states = np.broadcast_to(prompts, (*batch, n))
    grids = np.ix_(*(np.arange(size) for size in batch), np.arange(1))[:-1]
    for h in range(policy.horizon):
        rows = policy.log_probs[h][(*grids, states)]
        cumulative = np.cumsum(np.exp(rows), axis=-1)
        # The last token with probability catches a draw that rounding puts past the end.
        last = policy.log_probs[h].shape[-1] - 1 - np.argmax(rows[..., ::-1] > -np.inf, axis=-1)
        draw = rng.random((*batch, n, 1)) * cumulative[..., -1:]
        tokens[..., h] = np.minimum((cumulative <= draw).sum(axis=-1), last)
        if h + 1 < policy.horizon:
            states = dynamics.rule.step(h, states, tokens[..., h], dynamics.vocab_size)
    return Responses(prompts, tokens)


def all_responses(dynamics: Dynamics) -> Responses:
    """Every response to every prompt, prompt by prompt: ``N = P·V^H``, in order of the tokens read as a number.

    Raises:
        ValueError: they do not fit into memory.

    """
    V, H, P = dynamics.vocab_size, dynamics.horizon, dynamics.n_prompts
    require_tree_memory(V, H, P, "listing every response", bytes_per_prefix=8 * H)
    index = np.arange(V**H)
    tokens = np.stack([index // V ** (H - 1 - h) % V for h in range(H)], axis=-1)
    return Responses(np.repeat(np.arange(P), V**H), np.tile(tokens, (P, 1)))


def greedy_response(policy: Policy) -> Responses:
    """For each prompt the response that takes the most probable token at every step (first of equals)."""
    return follow(policy.dynamics, policy.log_probs)


def map_response(policy: Policy) -> Responses:
    """For each prompt the single most probable response: sequence-level MAP, not greedy decoding.

    ``m(s) = max_a [log π(a|s) + m(s⊕a)]``; of equals, the one with the first token is taken.
    """
    return follow(policy.dynamics, best_continuations(policy.dynamics, policy.log_probs))


def best_continuations(dynamics: Dynamics, tables: Sequence[Array]) -> list[Array]:
    """``x(s,a) + max_{τ'} x(τ'|s⊕a)`` for a per-token quantity: `H` tables ``(*batch, n_h, V)``.

    Forbidden tokens are ``-inf``. With a reward's tables these are the plain-optimal Q-values.
    """
    totals: list[Array] = []
    following: Array | None = None
    for h in reversed(range(dynamics.horizon)):
        total = forbid(tables[h] + dynamics.children(h, following), dynamics.allowed[h])
        following = array_namespace(total).max(total, axis=-1)
        totals.append(total)
    return totals[::-1]


def follow(dynamics: Dynamics, tables: Sequence[Array]) -> Responses:
    """For each prompt the response that takes the largest entry of its row at every step (first of equals)."""
    xp = array_namespace(tables[0])
    batch = tables[0].shape[:-2]
    prompts = like(np.arange(dynamics.n_prompts), tables[0])
    states = xp.broadcast_to(prompts, (*batch, dynamics.n_prompts))
    tokens: list[Array] = []
    for h, table in enumerate(tables):
        tokens.append(pick(xp.argmax(table, axis=-1)[..., None], states, xp.zeros_like(states)))
        if h + 1 < dynamics.horizon:
            states = dynamics.rule.step(h, states, tokens[-1], dynamics.vocab_size)
    return Responses(prompts, xp.stack(tokens, axis=-1))


def sample_log_ratio_ball(policy: Policy, epsilon: Any, seed: Seed = None, spread: float = 4.0) -> Policy:
    """A random policy with ``max_log_ratio`` at most `epsilon` (up to rounding), often on the ball's boundary.

    Each row is ``π(a|s)·exp(clip(u_a + c, −ε, ε))`` with ``u`` uniform in ``±spread·ε`` and `c` such that it sums to
    one. NumPy policies only.

    Args:
        policy: the centre.
        epsilon: radius in nats, scalar or ``batch``.
        seed: a seed or a `numpy.random.Generator`.
        spread: how far the proposals overshoot the ball; the larger, the more entries lie on the boundary.

    """
    rng = np.random.default_rng(seed)
    radius = expand(require_positive("epsilon", epsilon), 2)
    tables = []
    for table in policy.log_probs:
        u = rng.uniform(-spread, spread, table.shape) * radius
        low = np.broadcast_to(-(spread + 1) * radius, (*table.shape[:-1], 1))
        high = -low
        for _ in range(60):  # bisection on c: the sum grows from at most e^-ε to at least e^ε
            middle = (low + high) / 2
            total = np.exp(table + np.clip(u + middle, -radius, radius)).sum(axis=-1, keepdims=True)
            low, high = np.where(total < 1, middle, low), np.where(total < 1, high, middle)
        table = table + np.clip(u + (low + high) / 2, -radius, radius)
        tables.append(token_major(table - np.log(np.exp(table).sum(axis=-1, keepdims=True))))
    return Policy(policy.dynamics, tuple(tables))


def require_same_dynamics(one: Dynamics, two: Dynamics) -> None:
    """Raise `ValueError` unless both are the same dynamics."""
    if not one.same_as(two):
        raise ValueError(
            f"different dynamics: layers {one.layer_sizes[:4]}…, V={one.vocab_size} against layers "
            f"{two.layer_sizes[:4]}…, V={two.vocab_size}; build both on the same TokenMDP.dynamics"
        )


def _exp(table: Array) -> Array:
    return array_namespace(table).exp(table)


def _check_tables(name: str, tables: Sequence[Any], dynamics: Dynamics) -> list[Array]:
    if len(tables) != dynamics.horizon:
        raise ValueError(f"{name} has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer")
    arrays = [as_float(table) for table in tables]
    for h, table in enumerate(arrays):
        expected = (*arrays[0].shape[:-2], dynamics.layer_sizes[h], dynamics.vocab_size)
        if table.ndim < 2 or tuple(table.shape) != expected:
            raise ValueError(f"{name}[{h}] has shape {tuple(table.shape)}: must be {expected}")
    return arrays
