"""Learning curves: errors of what `n` demonstrations teach, against `H` and `n`.

They are the plain-value errors of the fitted policy and of RL on its reward. With data in place of
a ball `π̂` is an estimate and not an adversary. Each cell of a curve is a batch of random window
MDPs, an expert of each, and `n` demonstrations sampled from it; all that is computed from them is
exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from theory import __version__
from theory.arrays.memory import require_memory
from theory.claims import bounds
from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import next_token_mle
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import returns
from theory.solve.soft import plain_optimal, soft_optimal
from theory.studies.engine import Engine, run_cells

if TYPE_CHECKING:
    from theory.storage.runs import Lines, RunFolder

__all__ = [
    "EXPERTS",
    "HORIZONS",
    "QUANTITIES",
    "SIZES",
    "Cell",
    "LearningCurve",
    "LearningSetting",
    "Slope",
    "learning_curve",
    "measure",
]

Expert: TypeAlias = Literal["stochastic", "deterministic"]
EXPERTS: tuple[Expert, ...] = get_args(Expert)
QUANTITIES = ("clone", "rl", "pinsker", "stepwise")
CELLS = "learning.jsonl"

HORIZONS = (2, 4, 8, 16, 32, 64, 128, 256)
SIZES = (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


@dataclass(frozen=True)
class Cell:
    """One expert, horizon and number of demonstrations: a number for each seed, reward units.

    Attributes:
        expert: ``"stochastic"``, soft-optimal at the curve's temperature, or ``"deterministic"``,
            plain-optimal.
        horizon: `H`.
        n: demonstrations, over all prompts.
        clone: ``V^{π_E} − V^{π̂}``, plain values under the true reward. It has no sign where the
            expert is stochastic.
        rl: ``max_π V^π − V^{π_RL}``, `π_RL` playing the most probable response of `π̂`.
        pinsker: ``HR √(KL/2)`` with the smaller of the two divergences, a bound on `clone` that
            knows how far this `π̂` is on average; at most ``HR``.
        stepwise: ``R Σ_h TV_RR(h, ε_π)``, the worst clone in the ball of this `π̂`; ``HR`` where
            ``ε_π`` is infinite.

    Example:
        >>> Cell("stochastic", 2, 10, (0.1, -0.3), (0, 0), (1, 1), (1, 1)).size("clone")
        0.2
    """

    expert: Expert
    horizon: int
    n: int
    clone: tuple[float, ...]
    rl: tuple[float, ...]
    pinsker: tuple[float, ...]
    stepwise: tuple[float, ...]

    def size(self, quantity: str) -> float:
        """Mean absolute value over the seeds."""
        return float(np.abs(getattr(self, quantity)).mean())


class Slope(NamedTuple):
    """Slope on log axes, its 95 % interval from resampled seeds, and that of the last two points.

    The interval is NaN where the seeds give none. `zeros` counts points without a logarithm, which
    are left out.

    Example:
        >>> print(Slope(1.5, 1.4, 1.6, 1.48))
        1.50 [1.40, 1.60], last 1.48
    """

    value: float
    low: float
    high: float
    last: float
    zeros: int = 0

    def __str__(self) -> str:
        interval = "[no interval]" if np.isnan(self.low) else f"[{self.low:.2f}, {self.high:.2f}]"
        left_out = f", {self.zeros} zero" if self.zeros else ""
        return f"{self.value:.2f} {interval}, last {self.last:.2f}{left_out}"


@dataclass(frozen=True, kw_only=True)
class LearningSetting:
    """MDPs, experts and data sets of a cell.

    Attributes:
        alpha: temperature of the stochastic expert and of the reward read from `π̂`.
        vocab_size: `V`.
        window: tokens that the true reward, the expert and the fitted policy read, besides the
            prompt.
        prompts: number of equally likely prompts, each with rewards of its own.
        smoothing: added to every count (`theory.fit.imitation.next_token_mle`). The bias that it
            brings can be most of the error: with 0.5 cloning's is many times that of none.
        seeds: number of MDPs and data sets. An MDP depends on its seed and `H` only, not on the
            expert or `n`.

    Example:
        >>> LearningSetting(seeds=2).vocab_size
        4
    """

    alpha: float = 0.2
    vocab_size: int = 4
    window: int = 1
    prompts: int = 16
    smoothing: float = 0.0
    seeds: int = 20


@dataclass(frozen=True, kw_only=True)
class LearningCurve(LearningSetting):
    """Cells on a grid of experts, horizons and numbers of demonstrations, and their setting.

    Example:
        >>> curve = learning_curve([2, 4, 8], [100], setting=LearningSetting(seeds=3))
        >>> len(curve.cells), len(curve.select("stochastic", horizon=4))
        (6, 1)
    """

    cells: tuple[Cell, ...]

    def select(
        self, expert: Expert, *, horizon: int | None = None, n: int | None = None
    ) -> list[Cell]:
        """Cells of an expert at one horizon, by `n`, or at one `n`, by horizon."""
        kept = [
            c
            for c in self.cells
            if c.expert == expert and horizon in (None, c.horizon) and n in (None, c.n)
        ]
        return sorted(kept, key=lambda c: (c.horizon, c.n))

    def exponent(
        self, cells: Sequence[Cell], quantity: str, axis: Literal["horizon", "n"]
    ) -> Slope | str:
        """Slope of the mean absolute error on log axes, or ``"zero"``, or ``"few points"``.

        The interval is of 1,000 resamples of the seeds, which are independent from cell to cell.
        There is none for a single seed, nor where so many resamples have a mean of zero that the
        interval would leave more out than 5 %.

        Raises:
            ValueError: an error is not finite.
        """
        x = np.log([getattr(cell, axis) for cell in cells])
        values = np.abs([getattr(cell, quantity) for cell in cells])
        whole = np.isfinite(values).all(axis=1)
        if not whole.all():
            bad = cells[int(np.argmin(whole))]
            raise ValueError(
                f"{quantity} of H={bad.horizon}, n={bad.n} is not finite: measure that cell again"
            )
        if not values.any():
            return "zero"
        kept = (values > 0).any(axis=1)
        if kept.sum() < 3:
            return "few points"
        x = x[kept]
        values = values[kept]
        resampled = np.random.default_rng(0).integers(values.shape[1], size=(1000, *values.shape))
        means = np.take_along_axis(values[None], resampled, axis=2).mean(axis=2)
        usable = (means > 0).all(axis=1)
        means = np.vstack([values.mean(axis=1), means[usable]])
        centred = x - x.mean()
        slopes = np.log(means) @ centred / (centred @ centred)
        low = high = np.nan
        if values.shape[1] > 1 and usable.mean() >= 0.95:
            low, high = np.quantile(slopes[1:], [0.025, 0.975])
        last = (np.log(means[0, -1]) - np.log(means[0, -2])) / (x[-1] - x[-2])
        return Slope(float(slopes[0]), float(low), float(high), float(last), int((~kept).sum()))


def learning_curve(
    horizons: Sequence[int] = HORIZONS,
    sizes: Sequence[int] = SIZES,
    *,
    experts: Sequence[Expert] = EXPERTS,
    setting: LearningSetting = LearningSetting(),
    seed: int = 0,
    run: RunFolder | None = None,
    engine: Engine = Engine(),
) -> LearningCurve:
    """Measure every cell of the grid.

    Args:
        horizons: values of `H`.
        sizes: values of `n`.
        experts: kinds of expert, from `EXPERTS`.
        setting: MDPs, experts and data sets of each cell.
        seed: of the random numbers. A cell's depend on its own place in the grid and on nothing
            else.
        run: folder, entered, whose ``learning.jsonl`` gets a line for each cell. Cells that are
            there are not measured again, so that a run that was stopped goes on, and a grid can
            grow.
        engine: where cells are measured; the numbers are the same everywhere.

    Raises:
        ValueError: an argument is out of range, the folder has cells of other options or damaged
            ones, or cells failed (`theory.studies.engine.CellsFailed`).
        OSError: the engine is not there or is lost.

    Example:
        >>> small = LearningSetting(seeds=2, prompts=1)
        >>> curve = learning_curve([2], [10], experts=["stochastic"], setting=small)
        >>> (cell,) = curve.cells
        >>> cell.horizon, cell.n, len(cell.clone)
        (2, 10, 2)
    """
    for name, values in (("horizons", horizons), ("sizes", sizes), ("seeds", (setting.seeds,))):
        if not len(values) or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r}: must be positive integers, each once")
    if not experts or not set(experts) <= set(EXPERTS):
        raise ValueError(f"experts={experts!r}: must be some of {', '.join(EXPERTS)}")
    lines: Lines[Cell] | None = None
    if run is not None:
        kind = {"version": __version__, "kind": "learning curve"}
        run.identify(kind | asdict(setting) | {"seed": seed}, lines=[CELLS])
        lines = run.lines(CELLS, lambda row: _cell(row, setting.seeds))
    cells = {(cell.expert, cell.horizon, cell.n): cell for cell in lines or ()}
    grid = list(product(experts, horizons, sizes))
    todo = {place: (*place, setting, seed) for place in grid if place not in cells}
    for place, cell in run_cells(measure, todo, engine, done=len(grid) - len(todo)):
        cells[place] = cell
        if lines is not None:
            lines.append(asdict(cell))
    if lines is not None:
        lines.merge(sorted(cells.values(), key=_place))
    return LearningCurve(**asdict(setting), cells=tuple(cells[place] for place in grid))


def measure(expert: Expert, horizon: int, n: int, setting: LearningSetting, seed: int = 0) -> Cell:
    """Measure one cell, see `learning_curve`.

    Example:
        >>> cell = measure("deterministic", 2, 1000, LearningSetting(seeds=2, prompts=1))
        >>> cell.clone  # a deterministic expert is cloned exactly once it was seen
        (0.0, 0.0)
    """
    V = setting.vocab_size
    window = setting.window
    prompts = setting.prompts
    seeds = setting.seeds
    what = f"prompts={prompts}, vocab_size={V}, window={window}, horizon={horizon}, seeds={seeds}"
    sizes = [prompts * V ** min(h, window) for h in range(horizon)]
    require_memory(80 * seeds * horizon * sizes[-1] * V, what, "give fewer of one of them")
    own = [np.random.default_rng([seed, k, horizon]) for k in range(seeds)]
    mdp = TokenMDP.window([np.stack([rng.random((n, V)) for rng in own]) for n in sizes], window)
    best = plain_optimal(mdp)
    teacher = soft_optimal(mdp, setting.alpha).policy if expert == "stochastic" else best.policy
    rng = np.random.default_rng([seed, seeds, horizon, EXPERTS.index(expert), n])
    data = Demonstrations.sample(teacher, np.full(seeds, n), rng)
    fitted: Policy = next_token_mle(data, setting.alpha, smoothing=setting.smoothing).policy
    average = mdp.dynamics.average
    epsilon = max_log_ratio(teacher, fitted)
    finite = np.isfinite(epsilon)
    stepwise = np.full(seeds, float(horizon))
    stepwise[finite] = bounds.clone_gap_stepwise(horizon, epsilon[finite])
    divergence = np.minimum(kl(teacher, fitted), kl(fitted, teacher))

    def error(of: Any, than: Any) -> Any:
        """Return the difference, zero where it is rounding; NaN stays NaN."""
        return np.where(np.abs(than - of) <= 1e-12 * horizon, 0.0, than - of)

    found = {
        "clone": error(plain_value(mdp, fitted), plain_value(mdp, teacher)),
        "rl": error(average(returns(mdp, map_response(fitted))), average(best.values[0])),
        "pinsker": horizon * np.minimum(1, np.sqrt(np.maximum(divergence, 0) / 2)),
        "stepwise": np.minimum(horizon, stepwise),
    }
    return Cell(expert, horizon, n, **{name: tuple(x.tolist()) for name, x in found.items()})


def _place(cell: Cell) -> tuple[int, int, int]:
    return EXPERTS.index(cell.expert), cell.horizon, cell.n


def _cell(row: Mapping[str, Any], seeds: int) -> Cell:
    numbers = {name: tuple(map(float, row[name])) for name in QUANTITIES}
    if any(len(x) != seeds or not np.isfinite(x).all() for x in numbers.values()):
        raise ValueError("not one finite number for each seed")
    return Cell(row["expert"], int(row["horizon"]), int(row["n"]), **numbers)
