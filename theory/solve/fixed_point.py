"""Fixed points of discounted Bellman operators by Newton's method, with a certified error.

Every Bellman operator `T` here contracts by `γ` in the largest norm, so `V` is within
``(‖TV − V‖ + rounding)/(1−γ)`` of the fixed point, however it was found: by Newton steps
``V + (I − γP)⁻¹(TV − V)``, ``γP`` the derivative of `T`, which no `γ` makes slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, identity
from scipy.sparse.linalg import spsolve

from theory.arrays.namespace import Array, array_namespace, is_enclosure, soft_maximum
from theory.mdp.discounted import DiscountedMDP
from theory.solve.soft import greedy_rows, log_softmax

__all__ = ["certified_fixed_point", "fixed_point", "maxima", "means", "soft_maxima"]

EPS = float(np.finfo(np.float64).eps)

MAX_STEPS = 200
"""Newton steps before a solver gives up; a handful are enough, thanks to `SWEEPS`."""

SWEEPS = 30
"""Bellman backups before each Newton step: cheap, and each carries rewards one state further, so
that long corridors of states take few Newton steps too.
"""

Backup = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps values ``(n,)`` to ``TV`` and the rows ``(n, V)`` of `P`; ``γP`` is the derivative."""


def certified_fixed_point(
    mdp: DiscountedMDP,
    backup: Backup,
    noise: float,
    alpha: float = 0.0,
    tolerance: float = 1.0,
    sweeps: int = SWEEPS,
) -> tuple[np.ndarray, float]:
    """Return the values ``(n,)`` and certified error of the fixed point of a `γ`-contraction, by
    Newton steps.

    It ends where the residual ``‖TV − V‖`` is no larger than the rounding of one backup,
    ``noise·(|r| + 2|V|) + 8αV·EPS``, or stops falling while the error meets `tolerance`.

    Args:
        mdp: states, rewards and discount.
        backup: `T`, and the rows of `P`, see `Backup`.
        noise: relative rounding of a backup.
        alpha: temperature of `T`, 0 for none.
        tolerance: largest accepted error, as a share of the largest value that rewards and
            entropies allow.
        sweeps: plain backups before each Newton step.

    Raises:
        ValueError: doubles cannot certify `tolerance`.

    Example:
        >>> mdp = DiscountedMDP.table([[1.0]], [[0]], discount=0.5)
        >>> values, error = certified_fixed_point(
        ...     mdp, lambda v: (mdp.q_values(v)[:, 0], np.ones((1, 1))), noise=EPS
        ... )
        >>> values.tolist(), error < 1e-14  # 1/(1 − γ)
        ([2.0], True)
    """
    n, V = mdp.rewards.shape
    largest = float(np.abs(mdp.rewards).max())
    most = (largest + alpha * math.log(V + 1)) * mdp.effective_horizon
    allowed = tolerance * most if tolerance < math.inf else math.inf
    values = np.zeros(n)
    previous = math.inf
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
"""Tolerance of the values in doubles from which Newton's method starts in enclosures."""

Reduce = Callable[..., Array]
"""Maps ``Q`` ``(n, V)``, and parameters, to numbers ``(n,)`` or to rows ``(n, V)``."""


def soft_maxima(q: Array, alpha: Array | float) -> Array:
    """Return the soft maximum over tokens, ``α log Σ_a exp(Q/α)``: ``(n, V)`` to ``(n,)``.

    Example:
        >>> soft_maxima(np.zeros((1, 2)), 1.0).round(4).tolist()  # log 2
        [0.6931]
    """
    return soft_maximum(q, alpha)


def maxima(q: Array) -> Array:
    """Return the maximum over tokens, ``max_a Q``: ``(n, V)`` to ``(n,)``.

    Example:
        >>> maxima(np.array([[0.0, 3.0]])).tolist()
        [3.0]
    """
    return array_namespace(q).max(q, axis=-1)


def means(q: Array, log_probs: Array) -> Array:
    """Return the mean over tokens, ``Σ_a π(a|s) Q``: ``(n, V)`` to ``(n,)``.

    Example:
        >>> means(np.array([[0.0, 4.0]]), np.log([[0.75, 0.25]])).round(12).tolist()
        [1.0]
    """
    xp = array_namespace(q, log_probs)
    p = xp.exp(log_probs)
    if is_enclosure(q) and q.coarse:
        # Probabilities sum to one, so what all values share is taken out first: the errors of the
        # probabilities then multiply the remaining differences only.
        shared = q.max(axis=-1).midpoint()
        return shared + xp.sum(p * (q - shared[..., None]), axis=-1)
    return xp.sum(p * q, axis=-1)


_ROWS: dict[Reduce, Reduce] = {
    soft_maxima: lambda q, alpha: np.exp(log_softmax(q, alpha)),
    maxima: lambda q: np.exp(greedy_rows(q)),
    means: lambda q, log_probs: np.exp(log_probs),
}
"""The derivative of each in `Q`."""


def fixed_point(mdp: DiscountedMDP, table: Array, reduce: Reduce, *parameters: Array) -> Array:
    """Return the fixed point of ``V = reduce(x + γV', …)`` for a per-token quantity `x`: ``(n,)``.

    In doubles it is found by Newton steps and has no error bound; use `soft_value_iteration` and
    the other solvers of `theory.solve.discounted` for one. In enclosures
    (`theory.arrays.enclosure`) it is proved: Newton steps in the precision in force, whose linear
    systems are solved in doubles, and then the last residual over ``1 − γ`` for a radius.

    Args:
        mdp: states and discount; its reward is not read.
        table: `x`, ``(n, V)``, finite.
        reduce: `soft_maxima`, `maxima` or `means`: contracts by `γ` in the largest norm.
        parameters: of `reduce`, in the arithmetic of `table`.

    Example:
        >>> mdp = DiscountedMDP.table([[0.0, 0.0]], [[0, 0]], discount=0.9)
        >>> fixed_point(mdp, np.array([[0.0, 1.0]]), maxima).round(9).tolist()  # 1/(1 − γ)
        [10.0]
    """
    plain = mdp.with_rewards(_nearest(table))
    known = [_nearest(x) for x in parameters]
    if reduce is means and is_enclosure(table):
        known = [log_softmax(known[0], 1.0)]  # midpoints of wide enclosures need not sum to one
    rows = _ROWS[reduce]

    def newton(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = plain.q_values(values)
        return reduce(q, *known), rows(q, *known)

    sweeps = 0 if reduce is means else SWEEPS  # a linear system is solved in one step
    try:
        entropy = float(known[0]) if reduce is soft_maxima else 0.0
        start, _ = certified_fixed_point(plain, newton, 4 * EPS, entropy, ROUGHLY, sweeps)
    except ValueError:
        if not is_enclosure(table):
            raise
        # Doubles found no start. The proof below holds from anywhere; from here it is wide.
        start = np.zeros(len(plain.rewards))
    if not is_enclosure(table):
        return start
    values = type(table).of(start)

    def residual(values: Array) -> Array:
        return reduce(table + values[mdp.next_states] * mdp.discount, *parameters) - values

    rest = residual(values)
    previous = math.inf
    while not table.coarse and previous > 0:
        size = float(_largest(rest))
        if not 0 < size < previous / 2:
            break
        previous = size
        scale = 2.0 ** min(-math.frexp(size)[1], 1000)  # exact, and the system is solved near one
        q = table + values[mdp.next_states] * mdp.discount
        # A row depends on differences only: the largest entry is taken out before rounding.
        differences = (q - q.max(axis=-1, keepdims=True).midpoint()).nearest()
        step = spsolve(_newton_matrix(plain, rows(differences, *known)), (rest * scale).nearest())
        if not np.isfinite(step).all():
            break
        values = (values + type(table).of(step) / scale).midpoint()
        rest = residual(values)
    bound = type(table).of(_largest(rest)) / (type(table).of(1.0) - mdp.discount)
    return values.widen(bound)


def _nearest(values: Any) -> Any:
    return values.nearest() if is_enclosure(values) else values


def _largest(values: Array) -> Any:
    """Upper bound on the largest absolute value."""
    return np.maximum(np.abs(values.lower()), np.abs(values.upper())).max()


def _newton_matrix(mdp: DiscountedMDP, rows: np.ndarray) -> Any:
    """``I − γP``, sparse."""
    n, V = mdp.rewards.shape
    links = csr_matrix(
        (rows.ravel(), mdp.next_states.ravel(), np.arange(0, n * V + 1, V)), shape=(n, n)
    )
    return (identity(n) - mdp.discount * links).tocsc()
