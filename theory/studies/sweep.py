"""Curves of exact worst cases against the horizon and against ε, and exponents fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from theory import __version__
from theory.arrays.namespace import require_positive
from theory.claims import bounds
from theory.claims.instance import Instance
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.improve import SharpeningCurve, sharpening_curve
from theory.solve.soft import soft_optimal
from theory.solve.worst_preference import worst_preference_pair
from theory.storage.files import number
from theory.storage.runs import Lines, RunFolder
from theory.studies import sharpening
from theory.studies.engine import Engine, run_cells
from theory.studies.gallery import coin_payoff_gap, swapped_pair_gap

__all__ = [
    "COIN_FRACTIONS",
    "FAMILIES",
    "HORIZONS",
    "Exponent",
    "HorizonCurve",
    "PreferenceCurve",
    "fit_exponent",
    "headlines",
    "horizon_curve",
    "horizon_curves",
    "preference_curve",
    "sharpening_curves",
]

HORIZONS = tuple(2**k for k in range(1, 17))
COIN_FRACTIONS = (0.3, 0.5, 0.6)
"""Shares of the horizon spent on coins: at each horizon the one is used that costs cloning most."""

FAMILIES = {"coin-payoff": "clone", "swapped-pair": "rl"}
"""Families of instances, and the prefix of their fields in `HorizonCurve`."""

CURVES = "horizon.jsonl"

Place: TypeAlias = tuple[int, float, bool, float, tuple[int, ...]]
"""Vocabulary, temperature, rule and scale of the radius, and horizons of a curve."""


@dataclass(frozen=True)
class Exponent:
    """Slope of a straight line on log axes, with the half-width of its 95 % interval.

    Example:
        >>> print(Exponent(1.5, 0.02))
        1.50 ± 0.02
    """

    slope: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.slope:.2f} ± {self.half_width:.2f}"


def fit_exponent(x: Any, y: Any) -> Exponent:
    """Fit the least-squares slope of ``log y`` against ``log x``, with a Student-t interval.

    The points of an exact curve have no noise: the interval measures how far the curve is from a
    power law.

    Raises:
        ValueError: a number is not positive and finite, or there are fewer than three different
            `x`.

    Example:
        >>> print(fit_exponent([1, 2, 4, 8], [3, 12, 48, 192]))
        2.00 ± 0.00
    """
    from scipy.special import stdtrit

    x, y = (np.asarray(require_positive(name, values)) for name, values in (("x", x), ("y", y)))
    n = len(x)
    if len(np.unique(x)) < 3:
        raise ValueError(f"x={x.tolist()}: an exponent needs at least 3 different points")
    log_x = np.log(x)
    log_y = np.log(y)
    centred = log_x - log_x.mean()
    slope = float(centred @ log_y / (centred @ centred))
    residual = log_y - log_y.mean() - slope * centred
    error = float(np.sqrt(residual @ residual / (n - 2) / (centred @ centred)))
    return Exponent(slope, float(stdtrit(n - 2, 0.975)) * error)


@dataclass(frozen=True)
class HorizonCurve:
    """Worst cases and bounds at each horizon: plain values, reward units, rewards in [0, 1].

    Example:
        >>> curve = horizon_curve([64, 128], epsilon_over_sqrt=0.1)
        >>> curve.rule, curve.epsilons.round(4).tolist()
        ('0.1/√H', [0.0125, 0.0088])
    """

    vocab_size: int
    """`V` of the coin–payoff family; the swapped pair has four tokens, and its gap no `V` in it."""
    alpha: float
    epsilon: float
    """Radius of the ball, nats; if `over_sqrt`, the radius times ``√H``."""
    over_sqrt: bool
    horizons: tuple[int, ...]
    clone: tuple[float, ...]
    """``V^{π_E} − min_π̂ V^π̂`` on coin–payoff: exact, so no bound for all token MDPs is smaller."""
    coin_fractions: tuple[float, ...]
    """The entry of `COIN_FRACTIONS` that attains `clone`."""
    clone_paper: tuple[float, ...]
    clone_composition: tuple[float, ...]
    clone_stepwise: tuple[float, ...]
    clone_three_halves: tuple[float, ...]
    rl: tuple[float, ...]
    """``max_π V^π − V^{π_RL}`` on the swapped pair: within 0.1 % of `rl_bound`, and so of the worst
    case, unless ε is too large for the pair (``2ε > log 2`` or ``2αε > 1``)."""
    rl_bound: tuple[float, ...]
    rl_paper: tuple[float, ...]
    crossover: int | None
    """Horizon from which the *bound* on RL is below what cloning loses; `None`: at none of
    `horizons`. The number of coins is whole, so that within a few horizons of it the order of the
    two can change again."""

    @property
    def place(self) -> Place:
        """What the curve depends on, by which it is found among others."""
        return self.vocab_size, self.alpha, self.over_sqrt, self.epsilon, self.horizons

    @property
    def rule(self) -> str:
        """Radius as a formula in `H`."""
        return f"{self.epsilon:g}/√H" if self.over_sqrt else f"{self.epsilon:g}"

    @property
    def epsilons(self) -> np.ndarray:
        """Radius at each horizon, nats."""
        return np.array([_radius(self.epsilon, self.over_sqrt, h) for h in self.horizons])

    def per_epsilon(self, name: str) -> np.ndarray:
        """Divide a field by ε at each horizon: only its power of `H` is left of a bound."""
        scaled: np.ndarray = np.array(getattr(self, name)) / self.epsilons
        return scaled

    def exponent(self, name: str) -> Exponent | None:
        """Exponent in `H` of a field over ε at all horizons; `None` for fewer than three."""
        return (
            fit_exponent(self.horizons, self.per_epsilon(name)) if len(self.horizons) > 2 else None
        )

    def local_exponent(self, name: str) -> float | None:
        """Exponent in `H` of a field over ε at the two longest horizons; `None` for one."""
        if len(self.horizons) < 2:
            return None
        rise = np.diff(np.log(self.per_epsilon(name)[-2:])).item()
        return float(rise / np.diff(np.log(self.horizons[-2:])).item())

    def as_dict(self, families: Collection[str] = tuple(FAMILIES)) -> dict[str, Any]:
        """Return numbers of the families named, with their exponents, for a report."""
        names = [FAMILIES[family] for family in families]
        fits = {name: self.exponent(name) for name in names}
        left_out = {"rl"} - set(names)
        if "clone" not in names:
            left_out |= {name for name in vars(self) if name.startswith("clone")}
            left_out |= {"coin_fractions", "crossover", "vocab_size"}
        numbers = {name: x for name, x in asdict(self).items() if name not in left_out}
        return numbers | {
            "epsilons": self.epsilons,
            "exponents": {name: None if fit is None else asdict(fit) for name, fit in fits.items()},
            "local_exponents": {name: self.local_exponent(name) for name in names},
        }


def horizon_curve(
    horizons: Sequence[int] = HORIZONS,
    *,
    alpha: float = 0.18,
    vocab_size: int = 256,
    epsilon: float | None = None,
    epsilon_over_sqrt: float | None = None,
) -> HorizonCurve:
    """Compute the worst cases of cloning and of RL on the endogenous reward against `H`: exact,
    with bounds.

    Args:
        horizons: increasing, each at least 2.
        alpha: temperature, reward units.
        vocab_size: `V` of the coin–payoff family, even.
        epsilon: the same radius at every horizon, nats.
        epsilon_over_sqrt: the radius times ``√H``; 0.01 by default. So the total variation of the
            distributions of a response stays what it is; at a fixed radius it grows to one, and
            nothing can lose more than `H`.

    Raises:
        ValueError: both radii are given, horizons do not increase, or a parameter is not one of the
            families'; names it.

    Example:
        >>> curve = horizon_curve([4096, 8192, 16384])
        >>> print(curve.exponent("clone"), "|", curve.exponent("rl"))
        1.48 ± 0.02 | 1.00 ± 0.00
    """
    if epsilon is not None and epsilon_over_sqrt is not None:
        raise ValueError(
            f"epsilon={epsilon} and epsilon_over_sqrt={epsilon_over_sqrt}: give one of them"
        )
    over_sqrt = epsilon is None
    scale = 0.01 if epsilon_over_sqrt is None else epsilon_over_sqrt
    if epsilon is not None:
        scale = epsilon
    steps = [int(h) for h in horizons]
    if not steps or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"horizons={steps}: must be at least one, each longer than the one before")

    def worst(h: int) -> tuple[float, float]:
        """Return what cloning loses at most at a horizon, and the coin fraction that does it."""
        gap = partial(coin_payoff_gap, h, _radius(scale, over_sqrt, h), alpha)
        return max((gap(coin_fraction=x, vocab_size=vocab_size), x) for x in COIN_FRACTIONS)

    def along(quantity: Callable[..., Any], *more: float) -> tuple[float, ...]:
        """Return a function of horizon and radius at each horizon."""
        return tuple(float(quantity(h, _radius(scale, over_sqrt, h), *more)) for h in steps)

    def cloning_is_worse(h: int) -> bool:
        return worst(h)[0] > float(bounds.rl_gap(h, _radius(scale, over_sqrt, h), alpha))

    clone, coin_fractions = zip(*map(worst, steps), strict=True)
    return HorizonCurve(
        vocab_size,
        alpha,
        scale,
        over_sqrt,
        tuple(steps),
        clone=clone,
        coin_fractions=coin_fractions,
        clone_paper=along(bounds.clone_gap_paper),
        clone_composition=along(bounds.clone_gap_composition),
        clone_stepwise=along(bounds.clone_gap_stepwise),
        clone_three_halves=along(bounds.clone_gap_three_halves),
        rl=along(lambda h, radius: swapped_pair_gap(h, alpha, radius)),
        rl_bound=along(bounds.rl_gap, alpha),
        rl_paper=along(bounds.rl_gap_paper),
        crossover=_first(cloning_is_worse, steps),
    )


def horizon_curves(
    points: Sequence[Mapping[str, Any]],
    *,
    run: RunFolder | None = None,
    engine: Engine = Engine(),
) -> list[HorizonCurve]:
    """Compute several curves, see `horizon_curve`.

    Args:
        points: the arguments of each curve, all of them but one radius.
        run: folder, entered, whose ``horizon.jsonl`` gets a line for each curve. What is there is
            not computed again.
        engine: where curves are computed; the numbers are the same everywhere.

    Raises:
        ValueError: the folder has damaged lines, or curves failed.
        OSError: the engine is not there or is lost.

    Example:
        >>> point = {"horizons": [64, 128], "vocab_size": 2, "epsilon": 0.1}
        >>> [c.alpha for c in horizon_curves([point | {"alpha": alpha} for alpha in (0.1, 0.5)])]
        [0.1, 0.5]
    """
    lines: Lines[HorizonCurve] | None = None
    if run is not None:
        run.identify({"version": __version__, "kind": "curves"}, lines=[CURVES])
        lines = run.lines(CURVES, _curve)
    found = {curve.place: curve for curve in lines or ()}
    places = [_place(**point) for point in points]
    todo = {
        place: tuple(point.items())
        for place, point in zip(places, points, strict=True)
        if place not in found
    }
    done = len(set(places)) - len(todo)
    for place, curve in run_cells(_horizon_curve, todo, engine, what="curves", done=done):
        found[place] = curve
        if lines is not None:
            lines.append(asdict(curve))
    if lines is not None and found:
        lines.merge(curve for _, curve in sorted(found.items()))
    return [found[place] for place in places]


def _horizon_curve(*arguments: tuple[str, Any]) -> HorizonCurve:
    return horizon_curve(**dict(arguments))


def _place(
    *,
    vocab_size: int,
    alpha: float,
    horizons: Sequence[int],
    epsilon: float | None = None,
    epsilon_over_sqrt: float = math.nan,
) -> Place:
    radius = epsilon_over_sqrt if epsilon is None else epsilon
    return vocab_size, alpha, epsilon is None, radius, tuple(horizons)


def _curve(row: Mapping[str, Any]) -> HorizonCurve:
    values: dict[str, Any] = {
        name: tuple(map(number, value)) if isinstance(value, list) else number(value)
        for name, value in row.items()
    }
    return HorizonCurve(**values)


def _radius(scale: float, over_sqrt: bool, horizon: int) -> float:
    return scale / math.sqrt(horizon) if over_sqrt else scale


def _first(holds: Callable[[int], bool], horizons: Sequence[int]) -> int | None:
    """Return the horizon from which `holds` is true, by bisection before the first that has it."""
    low = horizons[0]
    for high in horizons:
        if holds(high):
            break
        low = high
    else:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def headlines(curves: Sequence[HorizonCurve]) -> list[HorizonCurve]:
    """Return for each radius rule the curve of largest cloning loss over RL's bound at the longest
    H.

    Example:
        >>> curves = [horizon_curve([64, 128], alpha=alpha) for alpha in (0.1, 0.5)]
        >>> [curve.alpha for curve in headlines(curves)]
        [0.1]
    """
    rules = dict.fromkeys(curve.rule for curve in curves)
    return [
        max(
            (c for c in curves if c.rule == rule),
            key=lambda c: c.per_epsilon("clone")[-1] / c.per_epsilon("rl_bound")[-1],
        )
        for rule in rules
    ]


@dataclass(frozen=True)
class PreferenceCurve:
    """Preference error against ε: worst of the ball, a sampled policy, and both bounds.

    Example:
        >>> curve = preference_curve(horizon=2, vocab_size=2, points=3)
        >>> print(curve)
        preferences, α = 1, H = 2: the exact worst case is at least ... of the sharp bound; ...
    """

    alpha: float
    horizon: int
    epsilons: tuple[float, ...]
    worst: tuple[float, ...]
    sampled: tuple[float, ...]
    paper: tuple[float, ...]
    sharp: tuple[float, ...]

    def __str__(self) -> str:
        attained = np.min(np.divide(self.worst, self.sharp))  # NaN, where one of them is
        return (
            f"preferences, α = {self.alpha:g}, H = {self.horizon}: the exact worst case is at "
            f"least {attained:.3g} of "
            f"the sharp bound; αHε/2 is vacuous from ε = {2 / (self.alpha * self.horizon):.3g}"
        )


def preference_curve(
    *, alpha: float = 1.0, horizon: int = 4, vocab_size: int = 3, points: int = 25, seed: int = 0
) -> PreferenceCurve:
    """Compute the largest ``TV(P_{r*}, P_{r̂})`` over pairs of responses against ε, on a random
    token tree.

    Args:
        alpha: temperature, reward units.
        horizon: `H`.
        vocab_size: `V`.
        points: number of radii, from 0.01 to 3 nats.
        seed: of the tree and the sampled policies.

    Raises:
        ValueError: `points` is below 1.

    Example:
        >>> curve = preference_curve(horizon=2, vocab_size=2, points=2)
        >>> curve.sampled[0] <= curve.worst[0] <= curve.sharp[0] <= curve.paper[0]
        True
    """
    if points < 1:
        raise ValueError(f"points={points}: must be at least 1")
    rng = np.random.default_rng(seed)
    mdp = TokenMDP.random(vocab_size, horizon, seed=rng)
    expert = soft_optimal(mdp, alpha).policy
    epsilons = np.geomspace(1e-2, 3.0, points)
    policies = [sample_log_ratio_ball(expert, eps, rng) for eps in epsilons]
    return PreferenceCurve(
        alpha,
        horizon,
        tuple(epsilons.tolist()),
        tuple(float(worst_preference_pair(mdp, expert, eps, alpha)[0]) for eps in epsilons),
        tuple(float(Instance(mdp, expert, pi, alpha).pair_tv.max()) for pi in policies),
        tuple(bounds.preference_tv_paper(horizon, epsilons, alpha).tolist()),
        tuple(bounds.preference_tv_sharp(horizon, epsilons, alpha).tolist()),
    )


def sharpening_curves(points: int = 160) -> dict[str, SharpeningCurve]:
    """Compute the true value against the exponent on three instances of
    `theory.studies.sharpening`, by name.

    Example:
        >>> [float(curve.value[-1].round(2)) for curve in sharpening_curves(points=3).values()]
        [1.0, 0.0, 0.5]
    """
    instances = {
        "helps: the MAP is right": sharpening.map_is_right(),
        "hurts: the MAP is wrong": sharpening.map_is_wrong(),
        "rises, then falls": sharpening.rise_then_fall(),
    }
    exponents = np.geomspace(1, 200, points)
    return {
        name: sharpening_curve(i.mdp, i.policy, 1.0, exponents) for name, i in instances.items()
    }
