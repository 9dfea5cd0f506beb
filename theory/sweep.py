"""Curves: exact errors against the horizon, preference error against ε, and the exponents fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from theory import bounds
from theory.adversary import worst_clone, worst_preference_pair
from theory.gallery import coin_payoff, random_tree, swapped_pair
from theory.policy import plain_value, sample_log_ratio_ball
from theory.soft import soft_optimal
from theory.statements import Instance

__all__ = ["Exponent", "HorizonCurve", "PreferenceCurve", "fit_exponent", "horizon_curve", "preference_curve"]

HORIZONS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Exponent:
    """Slope of a straight line through points on log axes, with the half-width of its 95 % interval."""

    slope: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.slope:.2f} ± {self.half_width:.2f}"


def fit_exponent(x: Any, y: Any) -> Exponent:
    """Least-squares slope of ``log y`` against ``log x``, Student-t interval.

    The points of an exact curve have no noise: the interval measures how far the curve is from a power law.

    Raises:
        ValueError: fewer than three points are positive.
    """
    from scipy.special import stdtrit

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = (x > 0) & (y > 0)
    n = int(keep.sum())
    if n < 3:
        raise ValueError(f"{n} positive points: an exponent needs at least 3")
    log_x, log_y = np.log(x[keep]), np.log(y[keep])
    centred = log_x - log_x.mean()
    slope = float(centred @ log_y / (centred @ centred))
    residual = log_y - log_y.mean() - slope * centred
    error = float(np.sqrt(residual @ residual / (n - 2) / (centred @ centred)))
    return Exponent(slope, float(stdtrit(n - 2, 0.975)) * error)


@dataclass(frozen=True)
class HorizonCurve:
    """Exact plain-value errors and their bounds at each horizon, for one ε and α."""

    alpha: float
    epsilon: float
    horizons: tuple[int, ...]
    clone: tuple[float, ...]
    """``V^{π_E} − V^{π̂}`` for the worst `π̂` of the ball, coin–payoff family."""
    rl: tuple[float, ...]
    """``max_π V^π − V^{π_RL}`` on the swapped pair, within 0.1 % of its bound and so of its worst case."""
    clone_paper: tuple[float, ...]
    clone_composition: tuple[float, ...]
    rl_paper: tuple[float, ...]
    rl_bound: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Numbers for a report, with the fitted exponents."""
        exponents = {name: asdict(fit_exponent(self.horizons, getattr(self, name))) for name in ("clone", "rl")}
        return asdict(self) | {"exponents": exponents}


def horizon_curve(horizons: Sequence[int] = HORIZONS, *, alpha: float = 0.25, epsilon: float = 0.01) -> HorizonCurve:
    """Error against `H` for cloning and for RL on the endogenous reward, both exact, beside their bounds."""
    clone, rl = [], []
    for H in horizons:
        mdp = coin_payoff(H, alpha)
        expert = soft_optimal(mdp, alpha).policy
        worst = worst_clone(mdp, expert, epsilon)
        clone.append(float(plain_value(mdp, expert) - mdp.dynamics.average(worst.values[0])))
        pair = swapped_pair(H, alpha, epsilon)
        rl.append(float(pair.best_value - pair.rl_value))
    steps = np.array(horizons)
    composition = [float(bounds.clone_gap_composition(int(h), epsilon)) for h in horizons]
    return HorizonCurve(
        alpha,
        epsilon,
        tuple(int(h) for h in horizons),
        tuple(clone),
        tuple(rl),
        tuple(map(float, bounds.clone_gap_paper(steps, epsilon))),
        tuple(composition),
        tuple(map(float, bounds.rl_gap_paper(steps, epsilon))),
        tuple(map(float, bounds.rl_gap(steps, epsilon, alpha))),
    )


@dataclass(frozen=True)
class PreferenceCurve:
    """Preference error against ε on one token MDP: the worst of the ball, a sampled policy, and both bounds."""

    alpha: float
    horizon: int
    epsilons: tuple[float, ...]
    worst: tuple[float, ...]
    sampled: tuple[float, ...]
    paper: tuple[float, ...]
    sharp: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Numbers for a report."""
        return asdict(self)


def preference_curve(
    *, alpha: float = 1.0, horizon: int = 4, vocab_size: int = 3, points: int = 25, seed: int = 0
) -> PreferenceCurve:
    """Largest ``TV(P_{r*}, P_{r̂})`` over all pairs of responses, against ε, on a random token tree."""
    rng = np.random.default_rng(seed)
    mdp = random_tree(vocab_size, horizon, seed=rng)
    expert = soft_optimal(mdp, alpha).policy
    epsilons = np.geomspace(1e-2, 3.0, points)
    worst = [float(worst_preference_pair(mdp, expert, eps, alpha)[0]) for eps in epsilons]
    drawn = [Instance(mdp, expert, sample_log_ratio_ball(expert, eps, rng), alpha) for eps in epsilons]
    return PreferenceCurve(
        alpha,
        horizon,
        tuple(map(float, epsilons)),
        tuple(worst),
        tuple(float(instance.pair_tv.max()) for instance in drawn),
        tuple(map(float, bounds.preference_tv_paper(horizon, epsilons, alpha))),
        tuple(map(float, bounds.preference_tv_sharp(horizon, epsilons, alpha))),
    )
