"""An independent oracle in mpmath: both sides of every statement, one prompt at a time, to as many
digits as asked for.

It shares no code with the package. What it reads is a plain `Description`: tables of floats, taken
as exact numbers.

- `π_E` is the soft-optimal policy of the stored rewards at the stored `α`.
- `π̂` is the softmax, row by row, of the stored log-probabilities; ``-inf`` is a token that is
  never chosen.
- ``r̂(s,a) = α log π̂(a|s) + V̂(s) − V̂(s⊕a)``, ``V̂ = α·log_normalizers``, zero without them and
  after the last token.

`Oracle` is for a finite horizon and `DiscountedOracle` for none. `brute_force` has the same
quantities from sums over every response, without a sweep. An *x table* is ``x[h][s][a]``; a *value*
is ``x[h][s]``.

mpmath rounds every operation to the precision in force where it is done: inside this module that of
the oracle; for arithmetic on what it returns use ``with mpmath.workdps(...)``. (A single difference
or comparison is exact anyway.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpmath import mp, mpf

INF = mpf("inf")
NEVER = -INF
MAX_RESPONSES = 1 << 12
"""Responses to a prompt up to which the total variation is summed over all of them."""
MAX_LISTED = 128
"""Responses to a prompt up to which all are compared where the description lists none."""

Tokens = tuple[int, ...]
Sides = dict[str, Any]
"""``name -> (left, right)``: two numbers, or two lists (by response or pair); `None` where a side
is not computed.
"""


@dataclass(frozen=True)
class Description:
    """A finite instance as plain tables; layer `h` has ``n_h`` states, layer 0 holds the
    prompts.
    """

    rewards: Sequence[Any]
    """`H` tables ``(n_h, V)``."""
    next_states: Sequence[Any]
    """``H − 1`` integer tables ``(n_h, V)``: the state of layer ``h + 1`` that a token leads to."""
    log_probs: Sequence[Any]
    """`H` tables ``(n_h, V)``, the logits of `π̂`."""
    alpha: float
    prompt_weights: Sequence[float] = (1.0,)
    reward_range: tuple[float, float] = (0.0, 1.0)
    allowed: Sequence[Any] | None = None
    """For each layer `None` or a boolean ``(n_h, V)``."""
    log_normalizers: Sequence[Any] | None = None
    """`H` arrays ``(n_h,)``, nats; further ones are not read."""
    responses: dict[int, list[Tokens]] = field(default_factory=dict)
    """Responses to compare, by prompt. A prompt without an entry: all, up to `MAX_LISTED`, else
    none.
    """
    rl_responses: dict[int, Tokens] = field(default_factory=dict)
    """What RL plays, by prompt. A prompt without an entry: the first most probable response of
    `π̂`.
    """


def describe(instance: Any) -> Description:
    """The tables of a single ``theory.claims.instance.Instance`` (no batch axes), by reading its
    attributes.
    """
    mdp, policy, dynamics = instance.mdp, instance.policy, instance.mdp.dynamics
    if np.ndim(instance.alpha) or any(np.ndim(t) != 2 for t in (*mdp.rewards, *policy.log_probs)):
        raise ValueError("instance has batch axes: describe one problem of the batch")
    normalizers = policy.log_normalizers
    listed: dict[int, list[Tokens]] = {p: [] for p in range(dynamics.layer_sizes[0])}
    for prompt, tokens in _rows(instance.responses):
        listed[prompt].append(tokens)
    return Description(
        rewards=[np.asarray(t) for t in mdp.rewards],
        next_states=[np.asarray(dynamics.successors(h)) for h in range(dynamics.horizon - 1)],
        log_probs=[np.asarray(t) for t in policy.log_probs],
        alpha=float(instance.alpha),
        prompt_weights=[float(w) for w in dynamics.prompt_weights],
        reward_range=(float(mdp.reward_range[0]), float(mdp.reward_range[1])),
        allowed=[None if m is None else np.asarray(m) for m in dynamics.allowed],
        log_normalizers=None
        if normalizers is None
        else [np.asarray(z) for z in normalizers[: dynamics.horizon]],
        responses=listed,
        rl_responses=dict(_rows(instance.rl_response)),
    )


def _rows(responses: Any) -> list[tuple[int, Tokens]]:
    """``(prompt, tokens)`` of each of a ``theory.mdp.responses.Responses``."""
    tokens = np.asarray(responses.tokens)
    return [
        (int(p), tuple(map(int, t)))
        for p, t in zip(np.asarray(responses.prompts), tokens, strict=True)
    ]


# --- Numbers --------------------------------------------------------------------------------------


def exact(table: Any) -> list[list[mpf]]:
    """A table of floats as exact numbers."""
    return [[mpf(float(x)) for x in row] for row in np.asarray(table)]


def times(*factors: Any) -> mpf:
    """A product in which zero times infinity is zero: the limit of a bound ``c·f(ε)`` with ``c =
    0``, ``ε → ∞``.
    """
    if any(x == 0 for x in factors):
        return mpf(0)
    return mp.fprod(factors)


def log_sum_exp(terms: Iterable[mpf]) -> mpf:
    """``log Σ exp(x)``; ``-inf`` of nothing. To full relative accuracy also where one term is
    nearly all.
    """
    kept = [x for x in terms if x != NEVER]
    if not kept:
        return NEVER
    top = max(range(len(kept)), key=kept.__getitem__)
    if kept[top] == INF:
        return INF
    return kept[top] + mp.log1p(
        mp.fsum(mp.exp(x - kept[top]) for k, x in enumerate(kept) if k != top)
    )


def log_softmax(row: Sequence[mpf]) -> list[mpf]:
    """``x_a − log Σ_b exp(x_b)``; a row of ``-inf`` stays as it is.

    The largest entry ``−log(1 + Σ_{b≠a} exp(x_b − x_a))`` keeps its digits where it is nearly zero.
    """
    top = max(range(len(row)), key=row.__getitem__)
    if row[top] == NEVER:
        return list(row)
    rest = mp.log1p(mp.fsum(mp.exp(x - row[top]) for b, x in enumerate(row) if b != top))
    return [x if x == NEVER else (x - row[top]) - rest for x in row]


def preference_tv(delta: mpf, other: mpf) -> mpf:
    """``|σ(Δ) − σ(Δ')|``; on the side where both tails are small, so that neither is lost beside
    one.
    """
    sign = -1 if delta + other > 0 else 1
    return abs(_tail(sign * delta) - _tail(sign * other))


def _tail(x: mpf) -> mpf:
    """``σ(x)``, with all its digits where it is nearly zero."""
    small = mp.exp(-abs(x))
    return small / (1 + small) if x < 0 else 1 / (1 + small)


# --- Bounds ---------------------------------------------------------------------------------------


def tv_randomised_response(horizon: int, epsilon: mpf) -> mpf:
    """``TV_RR(H, ε) = ½ Σ_k C(H,k) |p^k q^{H−k} − q^k p^{H−k}|``, ``p = e^ε/(1+e^ε)``, ``q = 1 −
    p``: the defining sum.

    The terms `k` and ``H − k`` are equal, so it is ``Σ_{k>H/2} C(H,k) p^k q^{H−k} (1 −
    e^{−(2k−H)ε})``. Each term is had from the one before, which keeps powers of large `H` from
    being taken anew.
    """
    if horizon == 0:
        return mpf(0)
    if epsilon == INF:
        return mpf(1)
    decay = mp.exp(-epsilon)
    log_p = -mp.log1p(decay)
    mass, total = mp.exp(horizon * log_p), []  # C(H,k) p^k q^{H−k} at k = H
    for k in range(horizon, horizon // 2, -1):
        total.append(mass * -mp.expm1(-(2 * k - horizon) * epsilon))
        mass *= decay * k / (horizon - k + 1)  # C(H,k−1)/C(H,k) = k/(H−k+1), q/p = e^{−ε}
    return mp.fsum(total)


def tv_randomised_response_sum(horizon: int, epsilon: mpf) -> mpf:
    """``Σ_{h=1}^H TV_RR(h, ε)``.

    `TV_RR(h)` is the advantage of a majority of `h` votes. One vote more changes it only where an
    even number of votes is tied, ``C(h, h/2) (pq)^{h/2}``, and then by ``p − q = tanh(ε/2)``.
    """
    if epsilon == INF:
        return mpf(horizon)
    advantage, total, tie = mpf(0), mpf(0), mpf(1)
    gain, pq = mp.tanh(epsilon / 2), 1 / (2 * mp.cosh(epsilon / 2)) ** 2
    for h in range(horizon):  # from h votes to h + 1
        if h % 2 == 0:
            advantage += tie * gain
            half = h // 2 + 1
            tie *= pq * (2 * half) * (2 * half - 1) / half**2
        total += advantage
    return total


def tv_affinity(horizon: int, epsilon: mpf) -> mpf:
    """``√(1 − BC²)``, where `H` randomised responses have the affinity ``BC = Π_h 2√(pq)``, ``p =
    1/(1 + e^{−ε})``.

    ``1 − 4pq = (p − q)²``, so that nothing cancels where `ε` is small.
    """
    if epsilon == INF:
        return mpf(1)
    gain = -mp.expm1(-epsilon) / (1 + mp.exp(-epsilon))  # p − q
    if gain == 1:
        return mpf(1)
    return mp.sqrt(-mp.expm1(horizon * mp.log1p(-(gain**2))))


def kl_ball(horizon: Any, epsilon: mpf) -> mpf:
    """``Hε tanh(ε/2)``."""
    return horizon * epsilon * mp.tanh(epsilon / 2)


def log_growth(epsilon: mpf) -> mpf:
    """``log(2 cosh ε − 1) = log(cosh(3ε/2)/cosh(ε/2))``: the Rényi term of *rl-anchored-sharp* at
    ``β = α``.
    """
    return epsilon + mp.log1p(mp.exp(-2 * epsilon) - mp.exp(-epsilon)) if epsilon != INF else INF


# --- Sweeps ---------------------------------------------------------------------------------------


class Model:
    """A `Description` in exact numbers. Build and use it in the precision wanted."""

    def __init__(self, given: Description) -> None:
        self.horizon, self.alpha = len(given.rewards), mpf(float(given.alpha))
        self.rewards = [exact(t) for t in given.rewards]
        self.vocab_size = len(self.rewards[0][0])
        self.next = [
            [[int(t) for t in row] for row in np.asarray(table)] for table in given.next_states
        ]
        masks = given.allowed or [None] * self.horizon
        self.allowed = [
            [[True] * self.vocab_size for _ in layer]
            if mask is None
            else np.asarray(mask).astype(bool).tolist()
            for layer, mask in zip(self.rewards, masks, strict=True)
        ]
        self.permitted = [
            [
                [x if ok else NEVER for x, ok in zip(*rows, strict=True)]
                for rows in zip(*layers, strict=True)
            ]
            for layers in zip(self.rewards, self.allowed, strict=True)
        ]  # the rewards, -inf on forbidden tokens
        self.log_policy = [[log_softmax(row) for row in exact(t)] for t in given.log_probs]
        gauge = given.log_normalizers
        self.gauge = (
            [[mpf(0)] * len(layer) for layer in self.rewards]
            if gauge is None
            else [
                [self.alpha * mpf(float(z)) for z in np.asarray(layer)]
                for layer in gauge[: self.horizon]
            ]
        )
        self.prompts = [s for s, weight in enumerate(given.prompt_weights) if weight > 0]
        low, high = given.reward_range
        self.width = mpf(float(high)) - mpf(float(low))

    def following(self, h: int, s: int, value: list[list[mpf]] | None) -> list[mpf]:
        """A value in each successor of a state; zero after the last token."""
        if value is None or h + 1 == self.horizon:
            return [mpf(0)] * self.vocab_size
        return [value[h + 1][t] for t in self.next[h][s]]

    def path(self, prompt: int, tokens: Sequence[int]) -> list[tuple[int, int, int]]:
        """``(h, s, a)`` along a response."""
        found, state = [], prompt
        for h, token in enumerate(tokens):
            found.append((h, state, token))
            state = self.next[h][state][token] if h + 1 < self.horizon else -1
        return found

    def along(self, table: Any, prompt: int, tokens: Sequence[int]) -> mpf:
        """``Σ_h x(s_h, a_h)`` along a response."""
        terms = [table[h][s][a] for h, s, a in self.path(prompt, tokens)]
        return NEVER if NEVER in terms else mp.fsum(terms)


def backward(model: Model, row: Callable[[int, int, list[mpf]], Any]) -> list[list[Any]]:
    """The value ``x(s) = row(h, s, [x(s⊕a) for each a])``, from the last layer to the first."""
    value: list[list[Any]] = [[] for _ in range(model.horizon)]
    for h in reversed(range(model.horizon)):
        value[h] = [row(h, s, model.following(h, s, value)) for s in range(len(model.rewards[h]))]
    return value


def soft_values(model: Model, rewards: Any) -> list[list[mpf]]:
    """``V(s) = α log Σ_a exp((r(s,a) + V(s⊕a))/α)``."""
    alpha = model.alpha

    def row(h: int, s: int, following: list[mpf]) -> mpf:
        return alpha * log_sum_exp(
            (r + v) / alpha for r, v in zip(rewards[h][s], following, strict=True)
        )

    return backward(model, row)


def soft_policy(model: Model, rewards: Any, values: list[list[mpf]]) -> list[list[list[mpf]]]:
    """``log π(a|s) = log softmax((r(s,a) + V(s⊕a))/α)``, `values` the soft values of `rewards`."""

    def row(h: int, s: int) -> list[mpf]:
        following = model.following(h, s, values)
        return log_softmax(
            [(r + v) / model.alpha for r, v in zip(rewards[h][s], following, strict=True)]
        )

    return [[row(h, s) for s in range(len(layer))] for h, layer in enumerate(rewards)]


def endogenous_reward(model: Model) -> list[list[list[mpf]]]:
    """``r̂(s,a) = α log π̂(a|s) + V̂(s) − V̂(s⊕a)``; ``-inf`` where `π̂` never chooses the
    token.
    """

    def row(h: int, s: int) -> list[mpf]:
        following = model.following(h, s, model.gauge)
        own = model.gauge[h][s]
        return [
            model.alpha * x + own - v
            for x, v in zip(model.log_policy[h][s], following, strict=True)
        ]

    return [[row(h, s) for s in range(len(layer))] for h, layer in enumerate(model.log_policy)]


def exponentials(table: Any) -> list[list[list[mpf]]]:
    """``exp(x(s,a))``: probabilities from their logarithms."""
    return [[[mp.exp(x) for x in row] for row in layer] for layer in table]


def expected_sum(model: Model, probs: Any, table: Any) -> list[list[mpf]]:
    """``W(s) = Σ_a π(a|s) [x(s,a) + W(s⊕a)]``; what `π` never chooses does not count, whatever its
    `x`.
    """

    def row(h: int, s: int, following: list[mpf]) -> mpf:
        terms = zip(probs[h][s], table[h][s], following, strict=True)
        return mp.fsum(p * (x + w) for p, x, w in terms if p > 0)

    return backward(model, row)


def minus(table: Any) -> list[list[list[mpf]]]:
    """``−x(s,a)``."""
    return [[[-x for x in row] for row in layer] for layer in table]


def log_ratio(one: Any, two: Any) -> list[list[list[mpf]]]:
    """``log π(a|s) − log π'(a|s)``; zero where neither chooses the token."""
    return [
        [
            [mpf(0) if x == y else x - y for x, y in zip(*rows, strict=True)]
            for rows in zip(*layers, strict=True)
        ]
        for layers in zip(one, two, strict=True)
    ]


def greatest_sum(model: Model, table: Any) -> list[list[mpf]]:
    """``max_τ Σ_h x(s_h, a_h)`` over what follows a state; ``-inf`` forbids a token."""
    return backward(
        model,
        lambda h, s, following: max(x + v for x, v in zip(table[h][s], following, strict=True)),
    )


def greatest_response(model: Model, table: Any, prompt: int) -> Tokens:
    """The response that attains `greatest_sum`: of equals the one with the first token."""
    value, state, tokens = greatest_sum(model, table), prompt, []
    for h in range(model.horizon):
        totals = [
            x + v for x, v in zip(table[h][state], model.following(h, state, value), strict=True)
        ]
        tokens.append(totals.index(max(totals)))
        state = model.next[h][state][tokens[-1]] if h + 1 < model.horizon else -1
    return tuple(tokens)


def squared_hellinger(model: Model, one: Any, two: Any) -> list[list[mpf]]:
    """``1 − BC(s)``, ``BC(s) = Σ_a √(π π') BC(s⊕a)``, from terms that are not negative, so that
    none cancels:

    ``1 − BC(s) = ½ Σ_a (√π − √π')² + Σ_a √(π π') (1 − BC(s⊕a))``.
    """

    def row(h: int, s: int, following: list[mpf]) -> mpf:
        total = []
        for x, y, below in zip(one[h][s], two[h][s], following, strict=True):
            if x == NEVER or y == NEVER:  # the other one's mass, halved
                total.append((mp.exp(x) + mp.exp(y)) / 2)
            else:
                total.append(
                    mp.exp(y) * mp.expm1((x - y) / 2) ** 2 / 2 + mp.exp((x + y) / 2) * below
                )
        return mp.fsum(total)

    return backward(model, row)


def return_moments(model: Model, one: Any, two: Any) -> list[tuple[mpf, mpf, mpf]]:
    """``Σ_τ w(τ) r(τ)^k`` for ``k = 0, 1, 2`` and ``w = √(π π')``, for each prompt.

    ``M_2(s) = Σ_a √(p p') [r² M_0 + 2 r M_1 + M_2]`` of the next states, and so on.
    """

    def row(h: int, s: int, following: list[Any]) -> tuple[mpf, mpf, mpf]:
        zero, first, second = [], [], []
        for a, below in enumerate(following):
            weight = mp.exp((one[h][s][a] + two[h][s][a]) / 2)
            if weight == 0:
                continue
            r, (m0, m1, m2) = model.rewards[h][s][a], below
            zero.append(weight * m0)
            first.append(weight * (r * m0 + m1))
            second.append(weight * (r * r * m0 + 2 * r * m1 + m2))
        return mp.fsum(zero), mp.fsum(first), mp.fsum(second)

    found: Any = None
    for h in reversed(range(model.horizon)):
        layer = []
        for s in range(len(one[h])):
            below = [(mpf(1), mpf(0), mpf(0))] * model.vocab_size
            if h + 1 < model.horizon:
                below = [found[k] for k in model.next[h][s]]
            layer.append(row(h, s, below))
        found = layer
    return found


def spread(moments: Iterable[Sequence[mpf]]) -> mpf:
    """``min_c Σ w (r − c)²`` from ``Σ w r^k``, ``k = 0, 1, 2``, of measures that are added up."""
    zero, first, second = (mp.fsum(each) for each in zip(*moments, strict=True))
    return max(second - first * first / zero, mpf(0))


def renyi_2(model: Model, one: Any, two: Any) -> list[list[mpf]]:
    """``D_2(π‖π') = log Σ_τ π(τ)²/π'(τ)``: ``D_2(s) = log Σ_a exp(2 log π − log π' +
    D_2(s⊕a))``.
    """

    def row(h: int, s: int, following: list[mpf]) -> mpf:
        terms = zip(one[h][s], two[h][s], following, strict=True)
        return log_sum_exp(2 * x - y + below for x, y, below in terms if x != NEVER)

    return backward(model, row)


def power_policy(model: Model, log_policy: Any) -> list[list[list[mpf]]]:
    """``π_κ(τ) ∝ π(τ)^κ`` at ``κ = 2``: ``log softmax(2 log π(a|s) + W(s⊕a))``, `W` the log of what
    follows.
    """
    doubled = [[[2 * x for x in row] for row in layer] for layer in log_policy]

    def total(h: int, s: int, following: list[mpf]) -> mpf:
        return log_sum_exp(x + w for x, w in zip(doubled[h][s], following, strict=True))

    value = backward(model, total)
    return [
        [
            log_softmax([x + w for x, w in zip(row, model.following(h, s, value), strict=True)])
            for s, row in enumerate(layer)
        ]
        for h, layer in enumerate(doubled)
    ]


def anchored_policy(model: Model, rewards: Any, anchor: Any) -> list[list[list[mpf]]]:
    """``argmax_π V^π_r − β KL(π‖μ)`` at ``β = α``: ``π(a|s) ∝ μ(a|s) exp((r(s,a) + V(s⊕a))/β)``,
    ``V(s)`` being `β` times the logarithm of what that row sums to.
    """
    beta = model.alpha

    def logits(h: int, s: int, following: list[mpf]) -> list[mpf]:
        terms = zip(anchor[h][s], rewards[h][s], following, strict=True)
        return [NEVER if m == NEVER or r == NEVER else m + (r + v) / beta for m, r, v in terms]

    value = backward(model, lambda h, s, following: beta * log_sum_exp(logits(h, s, following)))
    return [
        [log_softmax(logits(h, s, model.following(h, s, value))) for s in range(len(layer))]
        for h, layer in enumerate(anchor)
    ]


def reached(model: Model, prompt: int, tables: Sequence[Any]) -> list[list[int]]:
    """States of each layer that can follow a prompt by tokens that one of the policies writes."""
    layers = [[prompt]]
    for h in range(model.horizon - 1):
        following = {
            model.next[h][s][a]
            for s in layers[h]
            for a in range(model.vocab_size)
            if any(t[h][s][a] != NEVER for t in tables)
        }
        layers.append(sorted(following))
    return layers


def epsilon_of(model: Model, prompt: int, one: Any, two: Any) -> mpf:
    """``max |log π(a|s) − log π'(a|s)|`` over what can follow a prompt under either; infinite where
    one forbids.
    """
    layers = enumerate(reached(model, prompt, (one, two)))
    rows = ((one[h][s], two[h][s]) for h, states in layers for s in states)
    return max(
        mpf(0) if x == y else abs(x - y) for pair in rows for x, y in zip(*pair, strict=True)
    )


def possible_responses(
    model: Model, prompt: int, one: Any, two: Any
) -> list[tuple[mpf, mpf]] | None:
    """``(log π(τ), log π'(τ))`` of all responses that either writes; `None` where there are over
    `MAX_RESPONSES`.
    """
    partial = [(prompt, mpf(0), mpf(0))]
    for h in range(model.horizon):
        partial = [
            (
                model.next[h][s][a] if h + 1 < model.horizon else -1,
                x + one[h][s][a],
                y + two[h][s][a],
            )
            for s, x, y in partial
            for a in range(model.vocab_size)
            if one[h][s][a] != NEVER or two[h][s][a] != NEVER
        ]
        if len(partial) > MAX_RESPONSES:
            return None
    return [(x, y) for _, x, y in partial]


def trajectory_tv(laws: list[tuple[mpf, mpf]] | None) -> mpf | None:
    """``½ Σ_τ |π(τ) − π'(τ)|`` over `possible_responses`."""
    return None if laws is None else mp.fsum(_difference(x, y) for x, y in laws) / 2


def best_of_4(laws: list[tuple[mpf, mpf]] | None) -> mpf | None:
    """``Σ b log(b/p)`` with ``b = F^4 − F⁻^4``, `F` the mass of responses up to one, the least
    probable first.
    """
    if laws is None:
        return None
    total, found = mpf(0), []
    with mp.workdps(8 * mp.dps):  # powers of tiny masses are subtracted
        for p in sorted(mp.exp(x) for x, _ in laws if x != NEVER):
            b = (total + p) ** 4 - total**4
            found.append(b * mp.log(b / p))
            total += p
        return mp.fsum(found)


def coverage(laws: list[tuple[mpf, mpf]] | None) -> mpf | None:
    """``P_π[π ≥ 4 π']`` over `possible_responses`."""
    if laws is None:
        return None
    return mp.fsum(mp.exp(x) for x, y in laws if x != NEVER and x - y >= mp.log(4))


def le_cam(laws: list[tuple[mpf, mpf]] | None) -> mpf | None:
    """``Σ_τ (π − π')²/(π + π')`` over `possible_responses`."""
    if laws is None:
        return None
    some = [(x, y) for x, y in laws if max(x, y) != NEVER]
    return mp.fsum(_difference(x, y) ** 2 / (mp.exp(x) + mp.exp(y)) for x, y in some)


def _difference(x: mpf, y: mpf) -> mpf:
    """``|e^x − e^y|``."""
    high, low = max(x, y), min(x, y)
    return mpf(0) if high == NEVER else mp.exp(high) * -mp.expm1(low - high)


# --- A finite instance ----------------------------------------------------------------------------


class Oracle:
    """Everything that the statements read of a finite instance, and both sides of each, prompt by
    prompt.
    """

    def __init__(self, given: Description, digits: int = 60) -> None:
        """Solve everything.

        Args:
            given: the instance.
            digits: digits of what is returned, of the size of what it is made of. The work is done
                with more: as many as the largest number has before its point, and 25.

        """
        self.given = given
        self.work = working_digits(given, digits)
        self._quantities: dict[int, dict[str, Any]] = {}
        self._sides: dict[int, Sides] = {}
        with mp.workdps(self.work):
            self._solve()

    def _solve(self) -> None:
        model = self.model = Model(self.given)
        self.prompts = model.prompts
        rewards, read, policy = model.rewards, endogenous_reward(model), model.log_policy
        self.endogenous = read
        self.soft_value = soft_values(model, model.permitted)
        expert = self.expert = soft_policy(model, model.permitted, self.soft_value)
        self.policy = policy
        self.endogenous_soft_value = soft_values(model, read)
        self.resolved = soft_policy(model, read, self.endogenous_soft_value)
        self.power, self.anchored = (
            power_policy(model, policy),
            anchored_policy(model, read, policy),
        )
        p_expert, p_policy, p_power = map(exponentials, (expert, policy, self.power))

        def first(probs: Any, table: Any) -> list[mpf]:
            return expected_sum(model, probs, table)[0]

        self.expert_value, self.policy_value = first(p_expert, rewards), first(p_policy, rewards)
        self.anchored_value = first(p_power, rewards)
        self.expert_entropy, self.policy_entropy = (
            first(p_expert, minus(expert)),
            first(p_policy, minus(policy)),
        )
        self.kl_from_expert = first(p_expert, log_ratio(expert, policy))
        self.kl_to_expert = first(p_policy, log_ratio(policy, expert))
        self.expert_reads, self.policy_reads = (
            first(p_expert, read),
            first(p_policy, read),
        )  # E r̂(τ)
        self.expert_log_policy = first(p_expert, policy)  # E_{π_E} log π̂(τ)
        self.soft_q = first(p_expert, self._advantages())
        self.squared_hellinger = squared_hellinger(model, expert, policy)[0]
        self.renyi = renyi_2(model, policy, expert)[0]
        choices = [
            [[mpf(sum(row) > 1)] * model.vocab_size for row in layer] for layer in model.allowed
        ]
        self.choices = choices
        self.expert_choices, self.policy_choices = (
            first(p_expert, choices),
            first(p_policy, choices),
        )
        self.greatest_expert = greatest_sum(model, expert)[0]
        with mp.workdps(2 * self.work):  # the mean is taken out of second moments
            own = [return_moments(model, law, law) for law in (expert, policy)]
            between = return_moments(model, expert, policy)
            twice = [tuple(2 * x for x in each) for each in between]
            self.spreads = {
                "le_cam": [spread(each) for each in zip(*own, strict=True)],
                "hellinger": [spread(each) for each in zip(*own, twice, strict=True)],
            }
        self.greatest_return = greatest_sum(model, model.permitted)[0]
        lowest = [
            [[NEVER if x == NEVER else -x for x in row] for row in layer]
            for layer in model.permitted
        ]
        self.least_return = [-x for x in greatest_sum(model, lowest)[0]]
        self.greatest_log_prob = greatest_sum(model, policy)[0]

    def _advantages(self) -> list[list[list[mpf]]]:
        """``Q̂(s,a) − V_Q̂(s)``, ``Q̂ = r̂ + V_r̂(s⊕a)`` and ``V_Q̂(s) = α log Σ_a exp(Q̂/α)``."""
        model, value = self.model, self.endogenous_soft_value
        found = []
        for h, layer in enumerate(self.endogenous):
            rows = []
            for s, row in enumerate(layer):
                q = [x + v for x, v in zip(row, model.following(h, s, value), strict=True)]
                total = model.alpha * log_sum_exp(x / model.alpha for x in q)
                rows.append([x - total for x in q])
            found.append(rows)
        return found

    def responses(self, prompt: int) -> list[Tokens]:
        """The responses to a prompt that are compared."""
        if prompt in self.given.responses:
            return self.given.responses[prompt]
        V, H = self.model.vocab_size, self.model.horizon
        few = H * math.log(V) <= math.log(MAX_LISTED) + 1e-9
        return list(itertools.product(range(V), repeat=H)) if few else []

    def quantities(self, prompt: int) -> dict[str, Any]:
        """Numbers of one prompt, by name: what the two sides are made of."""
        if prompt in self._quantities:
            return self._quantities[prompt]
        model = self.model
        with mp.workdps(self.work):
            rl = self.given.rl_responses.get(prompt) or greatest_response(
                model, self.policy, prompt
            )
            log_expert, log_policy = (
                model.along(t, prompt, rl) for t in (self.expert, self.policy)
            )
            laws = possible_responses(model, prompt, self.expert, self.policy)
            found = {
                "epsilon": epsilon_of(model, prompt, self.expert, self.policy),
                "soft_value": self.soft_value[0][prompt],
                "expert_value": self.expert_value[prompt],
                "policy_value": self.policy_value[prompt],
                "best_value": self.greatest_return[prompt],
                "return_range": self.greatest_return[prompt] - self.least_return[prompt],
                "anchored_value": self.anchored_value[prompt],
                "rl_response": rl,
                "rl_value": model.along(model.rewards, prompt, rl),
                "rl_shortfall": self.greatest_log_prob[prompt] - log_policy,
                "rl_log_ratio": log_expert
                - log_policy,  # D(τ_RL); not a number where neither gives it
                "expert_entropy": self.expert_entropy[prompt],
                "policy_entropy": self.policy_entropy[prompt],
                "kl_from_expert": self.kl_from_expert[prompt],
                "kl_to_expert": self.kl_to_expert[prompt],
                "renyi_to_expert": self.renyi[prompt],
                "affinity": 1 - self.squared_hellinger[prompt],
                "squared_hellinger": self.squared_hellinger[prompt],
                "expert_choices": self.expert_choices[prompt],
                "policy_choices": self.policy_choices[prompt],
                "rl_choices": model.along(self.choices, prompt, rl),
                "greatest_expert": mp.exp(self.greatest_expert[prompt]),
                "hellinger_spread": self.spreads["hellinger"][prompt],
                "le_cam_spread": self.spreads["le_cam"][prompt],
                "trajectory_tv": trajectory_tv(laws),
                "le_cam": le_cam(laws),
                "coverage": coverage(laws),
                "best_of_4": best_of_4(
                    possible_responses(model, prompt, self.policy, self.policy)
                    if laws is not None
                    else None
                ),
            }
        return self._quantities.setdefault(prompt, found)

    def applies(self, prompt: int) -> dict[str, bool]:
        """Whether what each statement assumes is so; not: what doubles cannot compare."""
        q, sides = self.quantities(prompt), self.sides(prompt)
        from_, to, few = (
            q["kl_from_expert"] < INF,
            q["kl_to_expert"] < INF,
            q["trajectory_tv"] is not None,
        )
        with mp.workdps(self.work):
            small = self.model.alpha * (1 + mp.tanh(q["epsilon"] / 2)) <= self.model.width
        special = {
            "irl-gap": from_,
            "inverse-soft-q": from_,
            "preference-average": sides["preference-average"] is not None,
            "clone-tv": to and few,
            "clone-hellinger": to,
            "clone-variance": to,
            "clone-le-cam": to and few,
            "clone-one-response": to,
            "rl-length": to,
            "kl-length": to,
            "coverage": few,
            "best-of-n": few,
            "clone-pinsker": to,
            "theorem-2-rl": small,
            "regularised-equality": to,
            "tv-composition": few,
            "tv-affinity": few,
        }
        return {name: bool(special.get(name, True)) for name in sides}

    def sides(self, prompt: int) -> Sides:
        """``name -> (left, right)`` of every statement for one prompt.

        Lists by response follow `responses`, lists by pair ``itertools.combinations`` of them.
        `None`: over `MAX_RESPONSES` responses for a total variation, or no pair to average over.
        """
        if prompt in self._sides:
            return self._sides[prompt]
        with mp.workdps(self.work):
            q = self.quantities(prompt)
            found = {
                **self._values(prompt, q),
                **self._by_response(prompt),
                **self._by_pair(prompt, q["epsilon"]),
                **self._cloning(q),
                **self._rl(q),
                **self._distances(q),
            }
        return self._sides.setdefault(prompt, found)

    def _values(self, prompt: int, q: dict[str, Any]) -> Sides:
        """Soft values, inverse RL, and regularised values."""
        alpha, soft = self.model.alpha, self.endogenous_soft_value[0][prompt]
        regularised = (
            q["expert_value"] + alpha * q["expert_entropy"],
            q["policy_value"] + alpha * q["policy_entropy"],
        )
        return {
            "soft-value": (regularised[0], q["soft_value"]),
            "irl-saddle": (self.policy_reads[prompt] - soft, -alpha * q["policy_entropy"]),
            "irl-gap": (
                -alpha * q["expert_entropy"] - (self.expert_reads[prompt] - soft),
                alpha * q["kl_from_expert"],
            ),
            "inverse-soft-q": (self.soft_q[prompt], alpha * self.expert_log_policy[prompt]),
            "regularised-equality": (regularised[0] - regularised[1], alpha * q["kl_to_expert"]),
        }

    def _by_response(self, prompt: int) -> Sides:
        """Lists by response; zero for one that the policy in question never gives."""
        model, alpha, listed = self.model, self.model.alpha, self.responses(prompt)

        def sums(table: Any, support: Any) -> list[mpf]:
            logs = ((tau, model.along(support, prompt, tau)) for tau in listed)
            return [
                mpf(0) if log == NEVER else model.along(table, prompt, tau) for tau, log in logs
            ]

        def telescoped(support: Any, value: mpf) -> list[mpf]:
            logs = (model.along(support, prompt, tau) for tau in listed)
            return [mpf(0) if log == NEVER else alpha * log + value for log in logs]

        policy = self.policy
        return {
            "telescoping": (
                sums(model.rewards, self.expert),
                telescoped(self.expert, self.soft_value[0][prompt]),
            ),
            "endogenous-telescoping": (
                sums(self.endogenous, policy),
                telescoped(policy, model.gauge[0][prompt]),
            ),
            "soft-rl-fixed-point": (sums(self.resolved, policy), sums(policy, policy)),
            "anchored-two-ways": (sums(self.anchored, policy), sums(self.power, policy)),
        }

    def _by_pair(self, prompt: int, epsilon: mpf) -> Sides:
        """Lists by pair of responses, and their mean over pairs of different responses that both
        policies give.
        """
        model, alpha, listed = self.model, self.model.alpha, self.responses(prompt)
        H = model.horizon
        true, log_expert, log_policy = (
            [model.along(table, prompt, tau) for tau in listed]
            for table in (model.rewards, self.expert, self.policy)
        )
        given = [x != NEVER and y != NEVER for x, y in zip(log_expert, log_policy, strict=True)]
        tvs, sharp, length, average = [], [], [], []
        for i, j in itertools.combinations(range(len(listed)), 2):
            tv = mpf(0)
            shared = next((k for k in range(H) if listed[i][k] != listed[j][k]), H)
            if given[i] and given[j]:
                tv = preference_tv(true[i] - true[j], alpha * (log_policy[i] - log_policy[j]))
                ratio = (log_expert[i] - log_policy[i]) - (log_expert[j] - log_policy[j])
                if shared < H:
                    average.append((tv, mp.tanh(alpha * abs(ratio) / 4)))
            tvs.append(tv)
            sharp.append(mp.tanh(times(alpha, H - shared, epsilon) / 2))
            steps = [
                *model.path(prompt, listed[i])[shared:],
                *model.path(prompt, listed[j])[shared:],
            ]
            chosen = sum(self.choices[h][s][a] for h, s, a in steps)
            length.append(mp.tanh(times(alpha, chosen, epsilon) / 4))
        mean = (
            tuple(mp.fsum(side) / len(average) for side in zip(*average, strict=True))
            if average
            else None
        )
        return {
            "theorem-1": (tvs, [alpha * H * epsilon / 2] * len(tvs)),
            "theorem-1-sharp": (tvs, sharp),
            "preference-length": (tvs, length),
            "preference-average": mean,
        }

    def _cloning(self, q: dict[str, Any]) -> Sides:
        """``V^{π_E} − V^{π̂}`` against its bounds."""
        H, R, V, eps = self.model.horizon, self.model.width, self.model.vocab_size, q["epsilon"]
        gap, width, tv = (
            q["expert_value"] - q["policy_value"],
            q["return_range"],
            q["trajectory_tv"],
        )
        hellinger = q["squared_hellinger"]
        entropy = self.model.alpha * mp.log(V)
        expm1 = mp.expm1(eps) if eps < INF else INF
        return {
            "theorem-2-clone": (gap, times(R, H**2, eps)),
            "clone-elementary": (gap, R * mp.tanh(eps / 2) * H * (H + 1) / 2),
            "clone-three-halves": (gap, times(R, mp.sqrt(mpf(H) ** 3), eps) / 2),
            "clone-composition": (gap, R * H * tv_randomised_response(H, eps)),
            "clone-stepwise": (gap, R * tv_randomised_response_sum(H, eps)),
            "clone-entropy": (
                gap,
                times(entropy, tv_randomised_response_sum(H - 1, eps) + H * expm1),
            ),
            "clone-tv": None if tv is None else (gap, width * tv),
            "clone-hellinger": (gap, width * mp.sqrt(max(hellinger * (2 - hellinger), mpf(0)))),
            "clone-pinsker": (gap, width * pinsker(q["kl_to_expert"])),
            "clone-one-response": (
                gap,
                width * one_response(hellinger, 1 - q["greatest_expert"]),
            ),
            "clone-variance": (gap, mp.sqrt(2 * hellinger * q["hellinger_spread"])),
            "clone-le-cam": None
            if tv is None
            else (gap, mp.sqrt(q["le_cam"] * q["le_cam_spread"])),
        }

    def _rl(self, q: dict[str, Any]) -> Sides:
        """``V^π − V^{π_RL}``, less `α` times what the response is short of the maximum of ``log
        π̂``; and `π_β`.
        """
        H, alpha, eps = self.model.horizon, self.model.alpha, q["epsilon"]
        short = alpha * q["rl_shortfall"]
        gap = q["expert_value"] - q["rl_value"] - short
        anchored = q["expert_value"] - q["anchored_value"]
        return {
            "theorem-2-rl": (gap, times(self.model.width, H, eps)),
            "rl-expert": (gap, alpha * H * eps * (1 + mp.tanh(eps / 2))),
            "rl-length": (
                gap,
                alpha * times(q["expert_choices"] * mp.tanh(eps / 2) + q["rl_choices"], eps),
            ),
            "rl-any-comparator": (q["best_value"] - q["rl_value"] - short, 2 * alpha * H * eps),
            "rl-anchored": (anchored, alpha * (H * eps + 2 * q["kl_from_expert"])),
            "rl-anchored-renyi": (
                anchored,
                alpha * (2 * q["kl_from_expert"] + q["renyi_to_expert"]),
            ),
            "rl-anchored-sharp": (anchored, alpha * (2 * kl_ball(H, eps) + H * log_growth(eps))),
            "rl-average": (gap, alpha * (q["kl_from_expert"] - q["rl_log_ratio"])),
        }

    def _distances(self, q: dict[str, Any]) -> Sides:
        """Divergences of the laws of a response."""
        H, eps, tv = self.model.horizon, q["epsilon"], q["trajectory_tv"]
        return {
            "kl-ball": (q["kl_to_expert"], kl_ball(H, eps)),
            "kl-length": (
                q["kl_to_expert"],
                times(q["policy_choices"], eps, mp.tanh(eps / 2)),
            ),
            "coverage": None
            if tv is None
            else (q["coverage"], q["kl_from_expert"] / (mp.log(4) - mpf(3) / 4)),
            "best-of-n": None if tv is None else (q["best_of_4"], mp.log(4) - mpf(3) / 4),
            "hellinger-ball": (q["squared_hellinger"], 1 - least_affinity(eps) ** H),
            "tv-composition": None if tv is None else (tv, tv_randomised_response(H, eps)),
            "tv-affinity": None if tv is None else (tv, tv_affinity(H, eps)),
        }


def least_affinity(epsilon: mpf) -> mpf:
    """``1/cosh(ε/2) = Σ √(p q)`` of a randomised response ``p = e^ε/(1+e^ε)``, ``q = 1 − p``."""
    if epsilon == INF:
        return mpf(0)
    with mp.workdps(3 * mp.dps):  # the bounds are one less a power of it
        odds = mp.exp(epsilon)
        return 2 * mp.sqrt(odds) / (1 + odds)


def one_response(hellinger: mpf, missing: mpf) -> mpf:
    """``min(1, D² + 2√η·D)``, ``D² = 2(1 − BC)``."""
    squared = 2 * max(hellinger, mpf(0))
    return min(mpf(1), squared + 2 * mp.sqrt(max(missing, mpf(0)) * squared))


def pinsker(kl: mpf) -> mpf:
    """``min(1, √(KL/2))``."""
    return mpf(1) if kl == INF else min(mpf(1), mp.sqrt(max(kl, mpf(0)) / 2))


def evaluate(given: Description, digits: int = 60) -> dict[int, Sides]:
    """``prompt -> name -> (left, right)`` for every prompt of positive weight; see
    `Oracle.sides`.
    """
    oracle = Oracle(given, digits)
    return {prompt: oracle.sides(prompt) for prompt in oracle.prompts}


def assumptions(given: Description, digits: int = 60) -> dict[int, dict[str, bool]]:
    """``prompt -> name -> whether what it assumes is so``; see `Oracle.applies`."""
    oracle = Oracle(given, digits)
    return {prompt: oracle.applies(prompt) for prompt in oracle.prompts}


def working_digits(given: Description, digits: int) -> int:
    """Digits to work with for so many: 25 more, and what the largest reward over `α`, summed, has
    before its point.
    """
    before = _digits_before_the_point(given.rewards, given.log_probs, given.log_normalizers or ())
    return (
        digits
        + 25
        + before
        + math.ceil(max(0.0, -math.log10(given.alpha)) + math.log10(len(given.rewards)))
    )


def _digits_before_the_point(*groups: Sequence[Any]) -> int:
    """Decimal digits of the largest finite number of some tables."""
    largest = 1.0
    for array in itertools.chain.from_iterable(groups):
        values = np.abs(np.asarray(array, dtype=float))
        largest = max(largest, float(np.max(values[np.isfinite(values)], initial=0.0)))
    return math.ceil(math.log10(largest)) + 1


# --- Without sweeps -------------------------------------------------------------------------------


def brute_force(given: Description, prompt: int, digits: int = 60) -> dict[str, Any]:
    """`Oracle.quantities` of a small instance from sums over every response: no sweep, no
    conditional of `π_E`.

    ``V* = α log Σ_τ e^{r*(τ)/α}`` and ``π_E(τ) = e^{(r*(τ) − V*)/α}``; what `π_E` does in a state
    is the share of responses that go on with a token.
    """
    with mp.workdps(working_digits(given, digits)):
        model = Model(given)
        every = list(itertools.product(range(model.vocab_size), repeat=model.horizon))
        allowed = [
            t for t in every if all(model.allowed[h][s][a] for h, s, a in model.path(prompt, t))
        ]
        returned = {t: model.along(model.rewards, prompt, t) for t in every}
        top, alpha = max(returned[t] for t in allowed), model.alpha
        weight = {t: mp.exp((returned[t] - top) / alpha) for t in allowed}
        total = mp.fsum(weight.values())
        expert = {t: weight[t] / total if t in weight else mpf(0) for t in every}
        policy = {t: mp.exp(model.along(model.log_policy, prompt, t)) for t in every}
        squares = mp.fsum(p**2 for p in policy.values())
        rl = given.rl_responses.get(prompt) or max(every, key=policy.__getitem__)

        def mean(law: dict[Tokens, mpf], f: Callable[[Tokens], mpf]) -> mpf:
            return mp.fsum(law[t] * f(t) for t in every if law[t] > 0)

        def divergence(one: dict[Tokens, mpf], two: dict[Tokens, mpf]) -> mpf:
            return mean(one, lambda t: mp.log(one[t] / two[t]) if two[t] > 0 else INF)

        choices = {
            t: sum(
                1 for h, s, _ in model.path(prompt, t) if sum(map(bool, model.allowed[h][s])) > 1
            )
            for t in every
        }

        def least(weight: dict[Tokens, mpf]) -> mpf:
            """``min_c Σ w (r − c)²``, about the mean itself."""
            middle = mean(weight, returned.__getitem__) / mp.fsum(weight.values())
            return mean(weight, lambda t: (returned[t] - middle) ** 2)

        missed = any(policy[t] > 0 and expert[t] == 0 for t in every)
        second = (
            INF
            if missed
            else mp.log(mp.fsum(policy[t] ** 2 / expert[t] for t in every if policy[t] > 0))
        )
        affinity = mp.fsum(mp.sqrt(expert[t] * policy[t]) for t in every)
        return {
            "epsilon": _brute_epsilon(model, prompt, every, expert, policy),
            "soft_value": top + alpha * mp.log(total),
            "expert_value": mean(expert, returned.__getitem__),
            "policy_value": mean(policy, returned.__getitem__),
            "best_value": top,
            "return_range": top - min(returned[t] for t in allowed),
            "anchored_value": mean(
                {t: policy[t] ** 2 / squares for t in every}, returned.__getitem__
            ),
            "rl_response": rl,
            "rl_value": returned[rl],
            "rl_shortfall": mp.log(max(policy.values()) / policy[rl]),
            "rl_log_ratio": mp.log(expert[rl] / policy[rl]) if expert[rl] > 0 else NEVER,
            "expert_entropy": mean(expert, lambda t: -mp.log(expert[t])),
            "policy_entropy": mean(policy, lambda t: -mp.log(policy[t])),
            "kl_from_expert": divergence(expert, policy),
            "kl_to_expert": divergence(policy, expert),
            "renyi_to_expert": second,
            "affinity": affinity,
            "squared_hellinger": 1 - affinity,
            "expert_choices": mean(expert, lambda t: mpf(choices[t])),
            "policy_choices": mean(policy, lambda t: mpf(choices[t])),
            "rl_choices": mpf(choices[rl]),
            "greatest_expert": max(expert.values()),
            "hellinger_spread": least(
                {t: (mp.sqrt(expert[t]) + mp.sqrt(policy[t])) ** 2 for t in every}
            ),
            "le_cam_spread": least({t: expert[t] + policy[t] for t in every}),
            "trajectory_tv": mp.fsum(abs(expert[t] - policy[t]) for t in every) / 2,
            "best_of_4": best_of_4([(mp.log(p), mp.log(p)) for p in policy.values() if p > 0]),
            "coverage": mp.fsum(p for t, p in expert.items() if p > 0 and p >= 4 * policy[t]),
            "le_cam": mp.fsum(
                (expert[t] - policy[t]) ** 2 / (expert[t] + policy[t])
                for t in every
                if expert[t] + policy[t] > 0
            ),
        }


def _brute_epsilon(
    model: Model,
    prompt: int,
    every: list[Tokens],
    expert: dict[Tokens, mpf],
    policy: dict[Tokens, mpf],
) -> mpf:
    """``max |log π_E(a|s) − log π̂(a|s)|`` over prefixes that either law writes, from the shares of
    responses.
    """
    largest = mpf(0)
    for h in range(model.horizon):
        for prefix in {t[: h + 1] for t in every}:
            whole, part = ([t for t in every if t[:n] == prefix[:n]] for n in (h, h + 1))
            before, after = (
                [mp.fsum(law[t] for t in ts) for law in (expert, policy)] for ts in (whole, part)
            )
            if after == [0, 0]:
                continue
            if 0 in after:
                return INF
            largest = max(largest, abs(mp.log(after[0] / before[0]) - mp.log(after[1] / before[1])))
    return largest


# --- Without end ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiscountedDescription:
    """A stationary instance as plain tables ``(n, V)``."""

    rewards: Any
    next_states: Any
    discount: float
    alpha: float
    log_probs: Any
    """The logits of `π̂`, all finite."""
    gauge: Any = None
    """`V̂`, ``(n,)``, reward units; zero by default."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    rl_policy: Sequence[int] | None = None
    """The token that RL on `r̂` plays in each state; the best one by default."""
    continuations: Sequence[Sequence[int]] | None = None
    """Deterministic policies that end the responses compared; by default the best of `r*`, what RL
    plays, and those along which ``log π_E − log π̂`` adds up to most and to least."""


def describe_discounted(instance: Any) -> DiscountedDescription:
    """The tables of a ``theory.claims.discounted.DiscountedInstance``, by reading its
    attributes.
    """
    mdp = instance.mdp
    return DiscountedDescription(
        rewards=np.asarray(mdp.rewards),
        next_states=np.asarray(mdp.next_states),
        discount=float(mdp.discount),
        alpha=float(instance.alpha),
        log_probs=np.asarray(instance.policy),
        gauge=None if instance.gauge is None else np.asarray(instance.gauge),
        reward_range=(float(mdp.reward_range[0]), float(mdp.reward_range[1])),
        rl_policy=[int(a) for a in np.asarray(instance.continuations[1]).argmax(axis=1)],
        continuations=[
            [int(a) for a in np.asarray(p).argmax(axis=1)] for p in instance.continuations
        ],
    )


SHARED_STEPS = (0, 1, 3)
"""Numbers of shared first tokens for which preferences are compared."""


class DiscountedOracle:
    """Everything that the discounted statements read, from each state on: lists ``(n,)``.

    Linear systems are solved; soft values are found by Newton's method, until the residual ``TV −
    V`` says that none is off by more than ``10^{−digits}`` of its size.
    """

    def __init__(self, given: DiscountedDescription, digits: int = 60) -> None:
        self.given = given
        small = min(given.alpha, 1.0) * (1 - given.discount) ** 3
        gauge = [] if given.gauge is None else [given.gauge]
        self.work = digits + 30 + math.ceil(-math.log10(small))
        self.work += _digits_before_the_point([given.rewards], [given.log_probs], gauge)
        self.tolerance = mpf(10) ** (-digits - 5)
        with mp.workdps(self.work):
            self._solve()

    def _solve(self) -> None:
        given = self.given
        self.rewards, self.next = (
            exact(given.rewards),
            [[int(t) for t in row] for row in np.asarray(given.next_states)],
        )
        self.n, self.vocab_size = len(self.rewards), len(self.rewards[0])
        self.discount, self.alpha = mpf(float(given.discount)), mpf(float(given.alpha))
        low, high = given.reward_range
        self.horizon, self.width = 1 / (1 - self.discount), mpf(float(high)) - mpf(float(low))
        gauge = [0.0] * self.n if given.gauge is None else np.asarray(given.gauge)
        self.gauge = [mpf(float(x)) for x in gauge]
        policy = self.policy = [log_softmax(row) for row in exact(given.log_probs)]
        self.endogenous = [
            [
                self.alpha * x + self.gauge[s] - self.discount * self.gauge[t]
                for x, t in zip(row, self.next[s], strict=True)
            ]
            for s, row in enumerate(policy)
        ]
        self.soft_value, expert = self.soft(self.rewards)
        self.expert = expert
        self.endogenous_soft_value, self.resolved = self.soft(self.endogenous)
        _, self.anchored = self.soft([[2 * self.alpha * x for x in row] for row in policy])
        self.log_ratio = [
            [x - y for x, y in zip(*rows, strict=True)] for rows in zip(expert, policy, strict=True)
        ]
        self.epsilon = max(abs(x) for row in self.log_ratio for x in row)
        self.expert_value, self.policy_value = (
            self.expected(each, self.rewards) for each in (expert, policy)
        )
        self.anchored_value = self.expected(self.anchored, self.rewards)
        self.best_policy, self.best_value = self.best(self.rewards)
        likeliest, self.greatest_log_prob = self.best(policy)
        self.rl_policy = likeliest if given.rl_policy is None else [int(a) for a in given.rl_policy]
        self.rl_value = self.deterministic_value(self.rl_policy, self.rewards)
        reached = self.deterministic_value(self.rl_policy, policy)
        self.rl_shortfall = [x - y for x, y in zip(self.greatest_log_prob, reached, strict=True)]
        negated = [[-x for x in row] for row in self.log_ratio]
        self.kl_from_expert, self.kl_to_expert = (
            self.expected(expert, self.log_ratio),
            self.expected(policy, negated),
        )
        self.regularised_expert, self.regularised_policy = (
            self.regularised(each) for each in (expert, policy)
        )
        self.continuations = given.continuations or [
            self.best_policy,
            self.rl_policy,
            self.best(self.log_ratio)[0],
            self.best(negated)[0],
        ]

    def q_values(self, table: Any, values: Sequence[mpf]) -> list[list[mpf]]:
        """``x(s,a) + γ W(s')``."""
        gamma = self.discount
        return [
            [x + gamma * values[t] for x, t in zip(*rows, strict=True)]
            for rows in zip(table, self.next, strict=True)
        ]

    def linear(self, rows: Any, right: Sequence[mpf]) -> list[mpf]:
        """``W = (I − γP)⁻¹ b``, `P` the moves of the probabilities `rows`."""
        system = mp.eye(self.n)
        for s, row in enumerate(rows):
            for p, t in zip(row, self.next[s], strict=True):
                system[s, t] -= self.discount * p
        return list(mp.lu_solve(system, mp.matrix(list(right))))

    def expected(self, log_policy: Any, table: Any) -> list[mpf]:
        """``W(s) = Σ_a π(a|s) [x(s,a) + γW(s')]``: ``E_π Σ_h γ^{h−1} x(s_h, a_h)``."""
        probs = [[mp.exp(x) for x in row] for row in log_policy]
        step = [
            mp.fsum(p * x for p, x in zip(*rows, strict=True))
            for rows in zip(probs, table, strict=True)
        ]
        return self.linear(probs, step)

    def deterministic_value(self, tokens: Sequence[int], table: Any) -> list[mpf]:
        """`expected` for a policy that always plays one token."""
        rows = [[mpf(int(a == token)) for a in range(self.vocab_size)] for token in tokens]
        return self.linear(rows, [table[s][token] for s, token in enumerate(tokens)])

    def regularised(self, log_policy: Any) -> list[mpf]:
        """``E_π Σ_h γ^{h−1} [r − α log π]``."""
        pairs = zip(self.rewards, log_policy, strict=True)
        return self.expected(
            log_policy, [[r - self.alpha * x for r, x in zip(*rows, strict=True)] for rows in pairs]
        )

    def soft(self, rewards: Any) -> tuple[list[mpf], list[list[mpf]]]:
        """The fixed point ``V(s) = α log Σ_a exp((r + γV(s'))/α)`` by Newton's method, and ``log
        softmax(Q/α)``.
        """
        values = [mpf(0)] * self.n
        for _ in range(1000):
            scaled = [[x / self.alpha for x in row] for row in self.q_values(rewards, values)]
            residual = [
                self.alpha * log_sum_exp(row) - v for row, v in zip(scaled, values, strict=True)
            ]
            policy = [log_softmax(row) for row in scaled]
            off = max(map(abs, residual)) * self.horizon  # the operator contracts by γ
            if off <= self.tolerance * (1 - self.discount) * min(self.alpha, mpf(1)):
                return values, policy
            step = self.linear([[mp.exp(x) for x in row] for row in policy], residual)
            values = [v + d for v, d in zip(values, step, strict=True)]
        raise ArithmeticError("Newton's method did not converge")

    def best(self, table: Any) -> tuple[list[int], list[mpf]]:
        """A deterministic policy of greatest ``Σ_h γ^{h−1} x(s_h, a_h)`` and its value, by policy
        iteration.
        """
        tokens = [row.index(max(row)) for row in table]
        for _ in range(1000):
            values = self.deterministic_value(tokens, table)
            better = list(tokens)
            for s, row in enumerate(self.q_values(table, values)):
                if max(row) > row[tokens[s]] + self.tolerance * (1 - self.discount):
                    better[s] = row.index(max(row))
            if better == tokens:
                return tokens, values
            tokens = better
        raise ArithmeticError("policy iteration did not converge")

    def response_sums(self, table: Any) -> list[list[mpf]]:
        """``x(s,a) + γ W_d(s')`` for each continuation `d` and first token `a`: ``(n,
        len(continuations)·V)``.
        """
        parts = [
            self.q_values(table, self.deterministic_value(d, table)) for d in self.continuations
        ]
        return [[x for part in parts for x in part[s]] for s in range(self.n)]

    def quantities(self) -> dict[str, Any]:
        """Lists ``(n,)`` by name; `epsilon`, over all states, is one number."""
        names = (
            "epsilon",
            "soft_value",
            "expert_value",
            "policy_value",
            "best_value",
            "rl_value",
            "rl_shortfall",
            "anchored_value",
            "kl_from_expert",
            "kl_to_expert",
            "regularised_expert",
            "regularised_policy",
        )
        return {name: getattr(self, name) for name in names}

    def sides(self) -> Sides:
        """``name -> (left, right)``, lists by state.

        By response: a list for each state, as `response_sums`. By pair: ``[k][s][pair]`` for `k` of
        `SHARED_STEPS`, pairs of `response_sums` with different first tokens. *soft-rl-fixed-point*:
        tables ``(n, V)``.
        """
        with mp.workdps(self.work):
            h, R, alpha, eps = self.horizon, self.width, self.alpha, self.epsilon
            tanh = mp.tanh(eps / 2)

            def gap(one: list[mpf], two: list[mpf]) -> list[mpf]:
                return [x - y for x, y in zip(one, two, strict=True)]

            def short_of(one: list[mpf]) -> list[mpf]:
                return [
                    x - alpha * y
                    for x, y in zip(gap(one, self.rl_value), self.rl_shortfall, strict=True)
                ]

            def every(bound: mpf) -> list[mpf]:
                return [bound] * self.n

            clone, rl = gap(self.expert_value, self.policy_value), short_of(self.expert_value)
            anchored = gap(self.expert_value, self.anchored_value)
            regularised = gap(self.regularised_expert, self.regularised_policy)
            # Σ_h γ^{h−1} TV_RR(h, ε) = tanh(ε/2) / ((1−γ) √(1 − γ²/cosh²(ε/2)))
            stepwise = R * h * tanh / mp.sqrt(1 - (self.discount / mp.cosh(eps / 2)) ** 2)
            return {
                "soft-value": (self.regularised_expert, self.soft_value),
                **self._telescoping(),
                "soft-rl-fixed-point": (self.resolved, self.policy),
                **self._preferences(),
                "theorem-2-clone": (clone, every(R * h**2 * eps)),
                "clone-elementary": (clone, every(R * tanh * h * (h + 1) / 2)),
                "clone-three-halves": (clone, every(R * mp.sqrt(h**3) * eps / 2)),
                "clone-stepwise": (clone, every(stepwise)),
                "clone-pinsker": (clone, [R * h * pinsker(x) for x in self.kl_to_expert]),
                "theorem-2-rl": (rl, every(R * h * eps)),
                "rl-expert": (rl, every(alpha * h * eps * (1 + tanh))),
                "rl-any-comparator": (short_of(self.best_value), every(2 * alpha * h * eps)),
                "rl-anchored": (anchored, [alpha * (h * eps + 2 * x) for x in self.kl_from_expert]),
                "regularised-equality": (regularised, [alpha * x for x in self.kl_to_expert]),
                "kl-ball": (self.kl_to_expert, every(kl_ball(h, eps))),
            }

    def applies(self) -> dict[str, bool]:
        """Whether what each statement assumes is so."""
        with mp.workdps(self.work):
            small = self.alpha * (1 + mp.tanh(self.epsilon / 2)) <= self.width
        return {name: bool(small) if name == "theorem-2-rl" else True for name in self.sides()}

    def _telescoping(self) -> Sides:
        """``Σγ^{h−1}r = α Σγ^{h−1} log π + V(s₁)`` of the responses."""

        def telescoped(policy: Any, values: list[mpf]) -> list[list[mpf]]:
            sums = self.response_sums(policy)
            return [[self.alpha * x + v for x in row] for row, v in zip(sums, values, strict=True)]

        return {
            "telescoping": (
                self.response_sums(self.rewards),
                telescoped(self.expert, self.soft_value),
            ),
            "endogenous-telescoping": (
                self.response_sums(self.endogenous),
                telescoped(self.policy, self.gauge),
            ),
        }

    def _preferences(self) -> Sides:
        """Theorem 1 for responses that part after `k` tokens: differences and ``1/(1−γ)`` are
        scaled by ``γ^k``.
        """
        true, logs = self.response_sums(self.rewards), self.response_sums(self.policy)
        columns = itertools.combinations(range(len(true[0])), 2)
        pairs = [(i, j) for i, j in columns if (i - j) % self.vocab_size]
        tvs, paper, sharp = [], [], []
        for k in SHARED_STEPS:
            scale = self.discount**k
            bound = self.alpha * scale * self.horizon * self.epsilon / 2
            tvs.append(
                [
                    [
                        preference_tv(scale * (x[i] - x[j]), scale * self.alpha * (y[i] - y[j]))
                        for i, j in pairs
                    ]
                    for x, y in zip(true, logs, strict=True)
                ]
            )
            paper.append([[self.alpha * self.horizon * self.epsilon / 2] * len(pairs)] * self.n)
            sharp.append([[mp.tanh(bound)] * len(pairs)] * self.n)
        return {"theorem-1": (tvs, paper), "theorem-1-sharp": (tvs, sharp)}


def evaluate_discounted(given: DiscountedDescription, digits: int = 60) -> dict[str, Any]:
    """Quantities by state; see `DiscountedOracle.quantities`."""
    return DiscountedOracle(given, digits).quantities()
