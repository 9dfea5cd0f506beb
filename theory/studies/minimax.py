"""The minimax constants of cloning and of RL on the endogenous reward, between certified values.

For each vocabulary, temperature, radius and horizon: what the worst policy of the ball loses on the
worst of *all* token MDPs with rewards in [0, 1]. No family of instances is chosen for cloning, and
nothing is sampled. See ``docs/minimax.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from theory import __version__
from theory.arrays.precision import DOUBLE, precision
from theory.claims import bounds
from theory.claims.instance import Instance
from theory.mdp.token_mdp import TokenMDP
from theory.solve.minimax import Ball, Mesh, Minimax, require_mesh
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.storage.runs import Lines, RunFolder
from theory.studies.engine import Engine, run_cells

__all__ = ["Constant", "certified_gap", "indifferent_gap", "minimax_curves"]

INSIDE = 1 - 2.0**-30
"""Share of the radius that certified clones use, so that their enclosures are within the ball."""

MORE_BITS = (128, 256)
"""Tried one after another where doubles leave open whether a clone is in its ball."""

ROUNDING = 2.0**-40
"""Relative widening of closed forms, more than the rounding of their evaluation."""

POINTS = "points.jsonl"


def certified_gap(mdp: TokenMDP, alpha: float, epsilon: float) -> float:
    """Return what the worst clone of a token MDP's expert loses, rounded downwards: certified.

    The clone is the exact adversary's; its gap and its distance from the expert are enclosed.

    Args:
        mdp: the true reward, without batch axes.
        alpha: temperature of the soft-optimal expert, reward units.
        epsilon: radius of the ball, nats.

    Raises:
        ArithmeticError: rounding leaves open whether the clone is in the ball.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> round(certified_gap(mdp, alpha=1.0, epsilon=0.1), 6)  # (e^0.1 − 1)/(1 + e)
        0.028285
    """
    expert = soft_optimal(mdp, alpha).policy
    clone = worst_clone(mdp, expert, epsilon * INSIDE).policy
    instance = Instance(mdp, expert, clone, alpha)
    for bits in (DOUBLE, *MORE_BITS):
        exact = instance.enclosed(bits)
        with precision(bits):
            if (exact.epsilon.upper() <= epsilon).all():
                return float(exact.clone_gap.lower().min())
    raise ArithmeticError(
        f"epsilon={epsilon:g}: {bits} bits leave open whether the clone is in the ball"
    )


@dataclass(frozen=True)
class Constant:
    """The minimax constants at one horizon, each between two certified values; reward units.

    Example:
        >>> (point,) = minimax_curves([Ball(2, 1.0, 0.1)], [1], Mesh(32, 2))
        >>> point.clone_lower < 0.028285 < point.clone_upper
        True
    """

    vocab_size: int
    alpha: float
    epsilon: float
    horizon: int
    clone_lower: float
    """Attained by `Minimax.hardest_mdp`."""
    clone_upper: float
    """No token MDP exceeds it: the recursion's for two tokens, else the least bound."""
    rl_lower: float
    """Attained by a recurring state with two rewards, of which a uniform `π̂` knows nothing."""
    rl_upper: float
    """``αHε(1 + tanh(ε/2))``, and at most `H`."""
    states: int
    """States of the token MDP that attains `clone_lower`."""

    @property
    def ball(self) -> Ball:
        """Tokens, temperature and radius."""
        return Ball(self.vocab_size, self.alpha, self.epsilon)


def minimax_curves(
    balls: Sequence[Ball],
    horizons: Sequence[int],
    mesh: Mesh = Mesh(),  # noqa: B008
    *,
    run: RunFolder | None = None,
    engine: Engine = Engine(),
) -> list[Constant]:
    """Enclose the minimax constants at every horizon; a cell of the engine for each ball.

    Args:
        balls: tokens, temperatures and radii.
        horizons: values of `H`; the cost is that of the longest.
        mesh: see `Mesh`.
        run: folder, entered, whose ``points.jsonl`` gets the constants of each ball as they are
            found. What is there is not computed again.
        engine: where curves are computed; the numbers are the same everywhere.

    Raises:
        ValueError: a list is empty or repeats itself, a parameter is out of range, the folder has
            other constants or damaged ones, or curves failed.
        OSError: the engine is not there or is lost.

    Example:
        >>> found = minimax_curves([Ball(2, 1.0, 0.1)], [1, 2], Mesh(32, 2))
        >>> [point.horizon for point in found]
        [1, 2]
    """
    given: tuple[tuple[str, Sequence[Any]], ...] = (("balls", balls), ("horizons", horizons))
    for name, values in given:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r}: must not be empty, nor have one twice")
    for ball in balls:
        require_mesh(ball, max(horizons), mesh)
    lines: Lines[Constant] | None = None
    if run is not None:
        run.identify({"version": __version__, "kind": "minimax"} | mesh._asdict(), lines=[POINTS])
        lines = run.lines(POINTS, _constant)
    found = {(point.ball, point.horizon): point for point in lines or ()}
    missing = {ball: [H for H in horizons if (ball, H) not in found] for ball in balls}
    todo = {ball: (ball, absent, mesh) for ball, absent in missing.items() if absent}
    done = len(balls) - len(todo)
    for _, points in run_cells(_curve, todo, engine, what="curves", done=done):
        found |= {(point.ball, point.horizon): point for point in points}
        if lines is not None:
            lines.append(*map(asdict, points))
    if lines is not None:
        lines.merge(point for _, point in sorted(found.items()))
    return [found[ball, H] for ball in balls for H in horizons]


def _curve(ball: Ball, horizons: Sequence[int], mesh: Mesh) -> list[Constant]:
    worst = Minimax(ball, max(horizons), mesh)
    return [_point(worst, H) for H in horizons]


def _point(worst: Minimax, H: int) -> Constant:
    V, alpha, epsilon = worst.ball
    mdp = worst.hardest_mdp(H)
    upper = [
        float(bounds.clone_gap_stepwise(H, epsilon)) * (1 + ROUNDING),
        float(bounds.clone_gap_entropy(H, epsilon, alpha, V)) * (1 + ROUNDING),
    ]
    if V == 2:
        upper.append(worst.upper(H))
    return Constant(
        *worst.ball,
        horizon=H,
        clone_lower=certified_gap(mdp, alpha, epsilon),
        clone_upper=min(upper),
        rl_lower=H * indifferent_gap(worst.ball) * (1 - ROUNDING),
        rl_upper=min(float(bounds.rl_gap_expert(H, epsilon, alpha)), H) * (1 + ROUNDING),
        states=sum(mdp.dynamics.layer_sizes),
    )


def indifferent_gap(ball: Ball) -> float:
    """Return what RL can lose in each step of one recurring state of which a uniform `π̂` knows
    nothing: reward units.

    `n` tokens pay ``x``, the others nothing. All responses tie, and one without pay is a MAP
    response. With ``y = e^{x/α}`` the expert has ``1/(V − n + ny)`` and `y` times that, both within
    ``e^{±ε}/V``: `gallery.indifferent_learner` for any ``ε``.

    Example:
        >>> round(indifferent_gap(Ball(2, alpha=1.0, epsilon=0.1)), 4)  # bound: 0.1050
        0.1045
    """
    V, alpha, epsilon = ball
    ratio = math.exp(epsilon)
    best = 0.0
    for n in range(1, V):
        y = (V * ratio - (V - n)) / n
        if ratio * n < V:
            y = min(y, ratio * (V - n) / (V - ratio * n))
        x = min(alpha * math.log(y), 1.0) * (1 - ROUNDING)
        y = math.exp(x / alpha)
        best = max(best, x * n * y / (V - n + n * y))
    return best


def _constant(row: Mapping[str, Any]) -> Constant:
    point = Constant(**row)
    if not np.isfinite([float(value) for value in asdict(point).values()]).all():
        raise ValueError("not finite numbers")
    return point
