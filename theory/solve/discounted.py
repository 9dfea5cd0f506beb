"""Infinite responses with a discount, on states that recur: ``1/(1−γ)`` in the place of `H`.

A *stationary policy* is a table of log-probabilities ``(n, V)``; values are ``(n,)``. Soft values
discount rewards and entropies alike,

    V*(s) = max_π E Σ_h γ^{h−1} [r(s_h,a_h) + α H(π(·|s_h))],    Q*(s,a) = r(s,a) + γV*(s'),    π_E
    = softmax(Q*/α),

and only then is `π_E` stationary and does ``α log π_E(a|s) = r(s,a) + γV*(s') − V*(s)`` telescope
under the weights ``γ^{h−1}``. This is *not* a finite horizon with rewards ``γ^{h−1} r``: there
entropy is not discounted, step `h` has in effect the temperature ``α/γ^{h−1}``, and late tokens
become uniform. Plain values do agree. (With `γ` the probability that a response goes on after each
token, rewards and entropies count while it lasts.)

The telescoped sum needs no rule for the end: ``γ^h V̂(s_{h+1})`` vanishes. It needs the same `γ` in
the sum and in the endogenous reward ``r̂(s,a) = α log π̂(a|s) + V̂(s) − γV̂(s')``; then RL on `r̂`
does not depend on the gauge `V̂`.

Every `error` is certified. All these Bellman operators contract by `γ` in the largest norm, so `V`
is within ``(‖TV − V‖ + rounding)/(1−γ)`` of the fixed point, however it was found: by Newton steps,
which no `γ` makes slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.sparse import csr_matrix, identity
from scipy.sparse.csgraph import shortest_path
from scipy.sparse.linalg import spsolve

from theory.arrays.namespace import (
    Array,
    array_namespace,
    is_enclosure,
    require_positive,
    soft_maximum,
)
from theory.solve.ball import extreme_tilt
from theory.solve.soft import greedy_rows, log_softmax

__all__ = [
    "DiscountedMDP",
    "Solution",
    "endogenous_reward",
    "entropy_values",
    "expected_sums",
    "fixed_values",
    "kl_values",
    "maxima",
    "means",
    "plain_values",
    "reachable",
    "regularised_values",
    "require_number",
    "require_policy",
    "soft_maxima",
    "soft_value_iteration",
    "value_iteration",
    "worst_clone",
]

EPS = float(np.finfo(np.float64).eps)

MAX_STEPS = 200
"""Newton steps before a solver gives up. A handful are enough, and `SWEEPS` make that true of long
corridors too.
"""

SWEEPS = 30
"""Plain Bellman backups before each Newton step. Cheap, and they carry rewards over as many
states.
"""


@dataclass(frozen=True, eq=False)
class DiscountedMDP:
    """A token MDP without end. Build one with `window` or `table`, which validate; the raw
    constructor does not.

    Attributes:
        rewards: ``(n, V)``, reward units.
        next_states: ``(n, V)``, the state that each token leads to.
        discount: `γ`, between 0 and 1.
        initial_weights: ``(n,)``, the distribution of the first state.
        reward_range: the interval that every reward lies in. Bounds scale with its width.
    """

    rewards: np.ndarray
    next_states: np.ndarray
    discount: float
    initial_weights: np.ndarray
    reward_range: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def table(
        cls,
        rewards: Any,
        next_states: Any,
        discount: float,
        *,
        initial_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """States by table.

        Args:
            rewards: ``(n, V)``.
            next_states: ``(n, V)`` integers from 0 to ``n − 1``.
            discount: `γ`, strictly between 0 and 1.
            initial_weights: ``(n,)``, non-negative, of sum one; uniform by default.
            reward_range: interval that the rewards must lie in.

        Raises:
            ValueError: names the argument and the value.
        """
        table, links = np.asarray(rewards, dtype=np.float64), np.asarray(next_states)
        if table.ndim != 2 or 0 in table.shape:
            raise ValueError(
                f"rewards has shape {table.shape}: must be (n, V), states by tokens, both at least "
                "1"
            )
        if links.shape != table.shape or not np.issubdtype(links.dtype, np.integer):
            raise ValueError(
                f"next_states: {links.dtype} of shape {links.shape}, must be integers {table.shape}"
            )
        if links.min() < 0 or links.max() >= len(table):
            raise ValueError(
                f"next_states holds {links.min()} to {links.max()}: states are 0 to "
                f"{len(table) - 1}"
            )
        if not 0 < discount < 1:
            raise ValueError(
                f"discount={discount}: must be strictly between 0 and 1; for a fixed length use "
                "TokenMDP"
            )
        low, high = map(float, reward_range)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"reward_range={reward_range}: must be two finite numbers (low, high), low <= high"
            )
        outside = ~((table >= low) & (table <= high))
        if outside.any():
            raise ValueError(
                f"rewards holds {table[outside][0]:.6g} at "
                f"{tuple(map(int, np.argwhere(outside)[0]))}, outside "
                f"reward_range=({low:g}, {high:g}): rewards must be finite; pass "
                "reward_range=(low, high)"
            )
        weights = (
            np.full(len(table), 1.0 / len(table))
            if initial_weights is None
            else np.asarray(initial_weights)
        )
        if (
            weights.shape != (len(table),)
            or not (weights >= 0).all()
            or not abs(weights.sum() - 1.0) <= 1e-9
        ):
            raise ValueError(
                f"initial_weights: must be {len(table)} non-negative numbers of sum 1, got "
                f"{weights}"
            )
        return cls(table, links, float(discount), weights.astype(np.float64), (low, high))

    @classmethod
    def window(cls, rewards: Any, size: int, discount: float, **options: Any) -> Self:
        """States that are the last `size` tokens, read as a number in base `V` (the newest token is
        the last digit).

        Args:
            rewards: ``(V^size, V)``.
            size: how many tokens a state remembers, at least one.
            discount: see `table`.
            **options: see `table`.

        Raises:
            ValueError: names the argument and the value.
        """
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(
                f"size={size!r}: give the number of tokens a state remembers, 1 or more"
            )
        n, V = np.shape(rewards) if np.ndim(rewards) == 2 else (0, 0)
        if n == 0 or n != V**size:
            raise ValueError(
                f"rewards has shape {np.shape(rewards)}: must be (V^{size}, V) for size={size}"
            )
        return cls.table(
            rewards, (np.arange(n)[:, None] * V + np.arange(V)) % n, discount, **options
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens `V`."""
        return int(self.rewards.shape[1])

    @property
    def effective_horizon(self) -> float:
        """``1/(1−γ)``."""
        return 1 / (1 - self.discount)

    @property
    def reward_width(self) -> float:
        """Width of the reward range, the `R` that bounds scale with."""
        return self.reward_range[1] - self.reward_range[0]

    def average(self, values: np.ndarray) -> float:
        """Average of values ``(n,)`` over the first state."""
        return float(self.initial_weights @ values)

    def q_values(self, values: np.ndarray) -> np.ndarray:
        """``r(s,a) + γ V(s')``: ``(n, V)``."""
        table: np.ndarray = self.rewards + self.discount * values[self.next_states]
        return table

    def with_rewards(self, rewards: np.ndarray) -> Self:
        """The same states with other rewards ``(n, V)``; `reward_range` is that of the rewards
        given.
        """
        return replace(
            self, rewards=rewards, reward_range=(float(rewards.min()), float(rewards.max()))
        )


def reachable(mdp: DiscountedMDP) -> np.ndarray:
    """Whether state `t` is reached from state `s`, `s` itself included: ``(n, n)``, boolean."""
    n, V = mdp.rewards.shape
    links = csr_matrix(
        (np.ones(n * V), mdp.next_states.ravel(), np.arange(0, n * V + 1, V)), shape=(n, n)
    )
    found: np.ndarray = np.isfinite(shortest_path(links, unweighted=True))
    return found


class Solution(NamedTuple):
    """A stationary policy and values, with a certificate."""

    policy: np.ndarray
    """``(n, V)``, log-probabilities."""
    values: np.ndarray
    """``(n,)``: of the policy, and optimal where a solver says so."""
    error: float
    """No value is further than this from the exact one: of the fixed point, and of `policy`
    itself.
    """


# --- Fixed points ---------------------------------------------------------------------------------

Backup = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Values ``(n,)`` to ``TV`` ``(n,)`` and the rows ``(n, V)`` of `P`, ``γP`` the derivative of
`T`.
"""


def _fixed_point(
    mdp: DiscountedMDP,
    backup: Backup,
    noise: float,
    alpha: float = 0.0,
    tolerance: float = 1.0,
    sweeps: int = SWEEPS,
) -> tuple[np.ndarray, float]:
    """Values and certified error of the fixed point of a `γ`-contraction, by Newton steps ``V + (I
    − γP)⁻¹(TV − V)``.

    One backup rounds by at most ``noise·(|r| + 2|V|) + 8αV·EPS``. Ends where the residual is no
    larger than that, or stops falling while the error meets `tolerance`, a share of the largest
    value that rewards and entropies allow.
    """
    n, V = mdp.rewards.shape
    largest = float(np.abs(mdp.rewards).max())
    most = (largest + alpha * math.log(V + 1)) * mdp.effective_horizon
    allowed = tolerance * most if tolerance < math.inf else math.inf
    values, previous = np.zeros(n), math.inf
    for _ in range(MAX_STEPS):
        backed_up, rows = backup(values)
        residual = float(np.abs(backed_up - values).max())
        rounding = noise * (largest + 2 * float(np.abs(values).max())) + 8 * alpha * V * EPS
        error = (residual + rounding) * mdp.effective_horizon
        if residual <= rounding or (residual > previous / 2 and error <= allowed):
            if error <= allowed:
                return values, error
            break
        previous = residual
        for _ in range(sweeps):
            values = backed_up
            backed_up, rows = backup(values)
        values = values + spsolve(_newton_matrix(mdp, rows), backed_up - values)
    raise ValueError(
        f"tolerance={tolerance:.3g}: at discount={mdp.discount} doubles certify "
        f"{error / allowed * tolerance:.1e} "
        "of the largest value; pass a larger tolerance or a smaller discount"
    )


ROUGHLY = 1e-2
"""Share of the largest value that values in doubles may be off by, where Newton's method starts in
enclosures.
"""

Reduce = Callable[..., Array]
"""``Q`` ``(n, V)``, and parameters, to one number for each state ``(n,)``, or to rows ``(n,
V)``.
"""


def soft_maxima(q: Array, alpha: Array | float) -> Array:
    """``α log Σ_a exp(Q/α)``: ``(n,)``."""
    return soft_maximum(q, alpha)


def maxima(q: Array) -> Array:
    """``max_a Q``: ``(n,)``."""
    return array_namespace(q).max(q, axis=-1)


def means(q: Array, log_probs: Array) -> Array:
    """``Σ_a π(a|s) Q``: ``(n,)``."""
    xp = array_namespace(q, log_probs)
    p = xp.exp(log_probs)
    if (
        is_enclosure(q) and q.coarse
    ):  # probabilities sum to one: errors of theirs weigh differences of `Q` only
        shared = q.max(axis=-1).centre()
        return shared + xp.sum(p * (q - shared[..., None]), axis=-1)
    return xp.sum(p * q, axis=-1)


_ROWS: dict[Reduce, Reduce] = {
    soft_maxima: lambda q, alpha: np.exp(log_softmax(q, alpha)),
    maxima: lambda q: np.exp(greedy_rows(q)),
    means: lambda q, log_probs: np.exp(log_probs),
}
"""The derivative of each in `Q`."""


def fixed_values(mdp: DiscountedMDP, table: Array, reduce: Reduce, *parameters: Array) -> Array:
    """The fixed point of ``V = reduce(x + γV', …)`` for a per-token quantity `x`, in its
    arithmetic: ``(n,)``.

    In doubles it is found by Newton steps and says nothing of its error; `soft_value_iteration` and
    its kin do. In enclosures (`theory.arrays.enclosures`) it is proved: Newton steps in the
    precision in force, whose linear systems are solved in doubles, and then the last residual over
    ``1 − γ`` for a radius.

    Args:
        mdp: states and discount; its reward is not read.
        table: `x`, ``(n, V)``, finite.
        reduce: `soft_maxima`, `maxima` or `means`: contracts by `γ` in the largest norm.
        parameters: of `reduce`, in the arithmetic of `table`.
    """
    plain, known = mdp.with_rewards(_nearest(table)), [_nearest(x) for x in parameters]
    if reduce is means and is_enclosure(table):
        known = [log_softmax(known[0], 1.0)]  # midpoints of wide enclosures need not sum to one
    rows = _ROWS[reduce]

    def newton(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = plain.q_values(values)
        return reduce(q, *known), rows(q, *known)

    sweeps = 0 if reduce is means else SWEEPS  # a linear system is solved in one step
    try:
        entropy = float(known[0]) if reduce is soft_maxima else 0.0
        start, _ = _fixed_point(plain, newton, 4 * EPS, entropy, ROUGHLY, sweeps)
    except ValueError:
        if not is_enclosure(table):
            raise
        start = np.zeros(
            len(plain.rewards)
        )  # what follows is proved from anywhere, and wide from here
    if not is_enclosure(table):
        return start
    values = type(table).of(start)

    def residual(values: Array) -> Array:
        return reduce(table + values[mdp.next_states] * mdp.discount, *parameters) - values

    rest, previous = residual(values), math.inf
    while not table.coarse and previous > 0:
        size = float(_largest(rest))
        if not 0 < size < previous / 2:
            break
        previous = size
        scale = 2.0 ** min(-math.frexp(size)[1], 1000)  # exact, and the system is solved near one
        q = table + values[mdp.next_states] * mdp.discount
        apart = (
            q - q.max(axis=-1, keepdims=True).centre()
        ).nearest()  # no row depends on what its tokens share
        step = spsolve(_newton_matrix(plain, rows(apart, *known)), (rest * scale).nearest())
        if not np.isfinite(step).all():
            break
        values = (values + type(table).of(step) / scale).centre()
        rest = residual(values)
    bound = type(table).of(_largest(rest)) / (type(table).of(1.0) - mdp.discount)
    return values.widen(bound)


def _nearest(values: Any) -> Any:
    return values.nearest() if is_enclosure(values) else values


def _largest(values: Array) -> Any:
    """An upper bound on the largest absolute value."""
    return np.maximum(np.abs(values.lower()), np.abs(values.upper())).max()


def _newton_matrix(mdp: DiscountedMDP, rows: np.ndarray) -> Any:
    """``I − γP``, sparse."""
    n, V = mdp.rewards.shape
    links = csr_matrix(
        (rows.ravel(), mdp.next_states.ravel(), np.arange(0, n * V + 1, V)), shape=(n, n)
    )
    return (identity(n) - mdp.discount * links).tocsc()


def soft_value_iteration(mdp: DiscountedMDP, alpha: float, tolerance: float = 1e-10) -> Solution:
    """Soft-optimal policy ``π_E = softmax(Q*/α)`` and the soft values ``V*``, the fixed point of
    ``TV(s) = α log Σ_a exp((r(s,a) + γV(s'))/α)``. A Newton step is soft policy iteration.

    Args:
        mdp: the MDP.
        alpha: temperature in reward units, a number.
        tolerance: largest error that is accepted, as a share of the largest value that rewards and
            entropies allow.

    Raises:
        ValueError: `alpha` is not a positive number; or doubles cannot certify `tolerance`, and
            what they can.
    """
    alpha = require_number("alpha", alpha)

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        return soft_maximum(q, alpha), np.exp(log_softmax(q, alpha))

    values, error = _fixed_point(mdp, backup, 4 * EPS, alpha, tolerance)
    return Solution(log_softmax(mdp.q_values(values), alpha), values, error)


def value_iteration(mdp: DiscountedMDP, tolerance: float = 1e-10) -> Solution:
    """A deterministic policy of greatest plain value, and the values ``max_π V^π(s)``; `tolerance`
    as in `soft_value_iteration`. Of equally good tokens the first is chosen.
    """

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        return q.max(axis=1), np.exp(greedy_rows(q))

    values, error = _fixed_point(mdp, backup, 4 * EPS, tolerance=tolerance)
    return Solution(greedy_rows(mdp.q_values(values)), values, error)


def worst_clone(
    mdp: DiscountedMDP, expert: Array, epsilon: float, tolerance: float = 1e-8
) -> Solution:
    """The policy within `epsilon` of `expert` that has the least plain value from every state, and
    that value: exact.

    The ball ``|log π̂(a|s) − log π_E(a|s)| ≤ ε`` is rectangular over states, so the least value is
    the fixed point of ``TV(s) = min_p̂ Σ_a p̂(a) [r(s,a) + γV(s')]``, a fractional knapsack in each
    state. No policy of the ball that reads the whole past does more harm: whatever it does later, a
    row at `s` is worth at least ``TV(s)`` when what follows is worth at least `V`; and the
    stationary policy that plays the minimising rows attains `V`.

    Args:
        mdp: the true reward.
        expert: the centre `π_E` of the ball, ``(n, V)``, log-probabilities.
        epsilon: radius in nats, a number; infinite for all policies that write nothing that
            `expert` never writes.
        tolerance: see `soft_value_iteration`.

    Raises:
        ValueError: an argument is not what it should be; or doubles cannot certify `tolerance`.
    """
    log_p, defect = require_policy("expert", expert, mdp)
    endless = np.ndim(epsilon) == 0 and epsilon == math.inf
    radius = math.inf if endless else require_number("epsilon", epsilon)

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = mdp.q_values(values)
        rows, _ = extreme_tilt(log_p, q, radius)
        return (rows * q).sum(axis=1), rows

    # A row is e^{−ε}p + (1 − e^{−ε})g, g(a) = min(s(a), 1 − Σ_before s), s = (1 + e^ε)p: both
    # weights, and all that g takes, are at most one. What the s before the token that g cuts are
    # off by, that token is off by too; so the defect, a share of every p and s, moves a row by at
    # most 2·defect. Rounding, in EPS: exp(x) is off by a share of
    # |x|/2 + 1, where |x|e^x < 0.4, and x by ε/2 more, up to ε = 37; 1 − Σ_before s by V, and twice
    # as much in all tokens; the sum of p̂q by V/2 + 3, the defect itself by V. No more than this:
    noise = (6 * mdp.vocab_size + 12 + min(radius, 40.0)) * EPS + 2 * defect
    values, error = _fixed_point(mdp, backup, noise, tolerance=tolerance)
    return Solution(extreme_tilt(log_p, mdp.q_values(values), radius)[1], values, error)


def expected_sums(mdp: DiscountedMDP, policy: Array, table: Array) -> Solution:
    """``E_π Σ_h γ^{h−1} x(s_h, a_h)`` from each state, for a per-token quantity `table` ``(n, V)``:
    the linear system ``W(s) = Σ_a π(a|s) [x(s,a) + γW(s')]``. A token of probability zero
    contributes nothing, whatever its `x`.

    Raises:
        ValueError: `policy` is not a policy, or `table` is infinite where it has probability.
    """
    log_p, defect = require_policy("policy", policy, mdp)
    p = np.exp(log_p)
    counted = mdp.with_rewards(np.where(p > 0, table, 0.0))
    if not np.isfinite(counted.rewards).all():
        state = int(np.argmin(np.isfinite(counted.rewards).all(axis=1)))
        raise ValueError(
            f"table is not finite where the policy has probability, in state {state}: so is no sum "
            "of it"
        )

    def backup(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (p * counted.q_values(values)).sum(axis=1), p

    return Solution(log_p, *_fixed_point(counted, backup, (mdp.vocab_size + 8) * EPS + defect))


def plain_values(mdp: DiscountedMDP, policy: Array) -> Solution:
    """Plain values ``V^π(s) = E_π Σ_h γ^{h−1} r(s_h, a_h)`` of a stationary policy."""
    return expected_sums(mdp, policy, mdp.rewards)


def entropy_values(mdp: DiscountedMDP, policy: Array) -> Solution:
    """Discounted entropy ``Σ_h γ^{h−1} E_π H(π(·|s_h))``, nats."""
    return expected_sums(mdp, policy, -np.asarray(policy))


def regularised_values(mdp: DiscountedMDP, policy: Array, alpha: float) -> Solution:
    """Regularised values, ``V^π + α`` times the discounted entropy."""
    return expected_sums(
        mdp, policy, mdp.rewards - require_number("alpha", alpha) * np.asarray(policy)
    )


def kl_values(mdp: DiscountedMDP, policy: Array, other: Array) -> Solution:
    """Discounted KL ``Σ_h γ^{h−1} E_π KL(π(·|s_h)‖π'(·|s_h))``, nats.

    Raises:
        ValueError: it is infinite, because `other` misses a token that `policy` writes.
    """
    with np.errstate(invalid="ignore"):
        return expected_sums(
            mdp, policy, np.asarray(policy) - require_policy("other", other, mdp)[0]
        )


def endogenous_reward(
    mdp: DiscountedMDP, policy: Array, alpha: float, values: Array | None = None
) -> DiscountedMDP:
    """`mdp` with the endogenous reward of `policy`, ``r̂(s,a) = α log π̂(a|s) + V̂(s) − γV̂(s')``.

    RL on it plays ``value_iteration(endogenous_reward(…)).policy``, the response of greatest
    ``Σ_h γ^{h−1} log π̂(a_h|s_h)``, whose first tokens weigh most. RL with entropy at `alpha` plays
    `policy` itself.

    Args:
        mdp: states and discount; its reward is not read.
        policy: `π̂`, ``(n, V)``, log-probabilities.
        alpha: temperature in reward units, a number.
        values: the gauge `V̂`, ``(n,)``: ``α log Σ_a exp(logits)`` for the policy's own logits,
            zero by default.

    Raises:
        ValueError: an argument is not what it should be, or `policy` gives a token probability
            zero.
    """
    log_p, _ = require_policy("policy", policy, mdp)
    if not np.isfinite(log_p).all():
        raise ValueError(
            f"policy forbids token {tuple(map(int, np.argwhere(~np.isfinite(log_p))[0]))}: r̂ is "
            "-inf there"
        )
    rewards = require_number("alpha", alpha) * log_p
    if values is not None:
        if np.shape(values) != rewards.shape[:1]:
            raise ValueError(
                f"values has shape {np.shape(values)}: must be ({len(rewards)},), one per state"
            )
        gauge = np.asarray(values, dtype=np.float64)
        rewards = rewards + (gauge[:, None] - mdp.discount * gauge[mdp.next_states])
    return mdp.with_rewards(rewards)


def require_number(name: str, value: Any) -> float:
    """`value` as one positive, finite number."""
    number = require_positive(name, value)
    if not isinstance(number, float):
        raise ValueError(f"{name} has shape {number.shape}: must be one number")
    return number


def require_policy(name: str, log_probs: Any, mdp: DiscountedMDP) -> tuple[np.ndarray, float]:
    """A stationary policy, checked, and the most that a row of it is off one by."""
    table = np.asarray(log_probs, dtype=np.float64)
    if table.shape != mdp.rewards.shape:
        raise ValueError(
            f"{name} has shape {table.shape}: must be {mdp.rewards.shape}, log-probabilities"
        )
    off = np.abs(np.exp(table).sum(axis=1) - 1.0)
    if not (off <= 1e-9).all():
        state = int(np.argmin(off <= 1e-9))
        raise ValueError(
            f"{name}: row {state} sums to {np.exp(table[state]).sum():.12g}, must be 1: give "
            "log-probabilities"
        )
    return table, float(off.max())
