"""What `n` demonstrations cost: plain-value errors of the fitted policy and of RL on its reward,
against `H` and `n`.

With data in place of a ball `π̂` is an estimate and not an adversary. Each cell of a curve is a
batch of random window MDPs, an expert of each, and `n` demonstrations drawn from it; all that is
computed from them is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from theory import __version__
from theory.arrays.memory import require_memory
from theory.claims import bounds
from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import next_token_mle
from theory.fit.preferences import sample_preferences
from theory.fit.rlhf import rlhf
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward, returns
from theory.solve.soft import plain_optimal, soft_optimal
from theory.studies.gallery import random_tree

if TYPE_CHECKING:
    from theory.storage.runs import Lines, RunFolder

__all__ = [
    "EXPERTS",
    "HORIZONS",
    "QUANTITIES",
    "SIZES",
    "Budget",
    "Cell",
    "LearningCurve",
    "Slope",
    "budget_comparison",
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
    """Slope on log axes, a 95 % interval of it from resampled seeds, and the slope between the last
    two points.

    The interval is NaN where the seeds give none. `zeros` counts points without a logarithm, which
    are left out.
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


@dataclass(frozen=True)
class LearningCurve:
    """Cells on a grid of experts, horizons and numbers of demonstrations, and how they were
    made.
    """

    alpha: float
    vocab_size: int
    window: int
    prompts: int
    smoothing: float
    seeds: int
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
        """Slope of the mean absolute error on log axes; where there is none, why: ``"zero"`` or
        ``"few points"``.

        The interval is of 1,000 resamples of the seeds, which are independent from cell to cell.
        There is none for a single seed, nor where so many resamples have a mean of zero that the
        interval would leave more out than 5 %.

        Raises:
            ValueError: an error is not finite.
        """
        x = np.log([getattr(cell, axis) for cell in cells])
        values = np.abs([getattr(cell, quantity) for cell in cells])
        if not np.isfinite(values).all():
            bad = cells[int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise ValueError(
                f"{quantity} of H={bad.horizon}, n={bad.n} is not finite: measure that cell again"
            )
        if not values.any():
            return "zero"
        kept = (values > 0).any(axis=1)
        if kept.sum() < 3:
            return "few points"
        x, values = x[kept], values[kept]
        drawn = np.random.default_rng(0).integers(values.shape[1], size=(1000, *values.shape))
        means = np.take_along_axis(values[None], drawn, axis=2).mean(axis=2)
        usable = (means > 0).all(axis=1)
        means = np.vstack([values.mean(axis=1), means[usable]])
        centred = x - x.mean()
        slopes = np.log(means) @ centred / (centred @ centred)
        low, high = np.nan, np.nan
        if values.shape[1] > 1 and usable.mean() >= 0.95:
            low, high = np.quantile(slopes[1:], [0.025, 0.975])
        last = (np.log(means[0, -1]) - np.log(means[0, -2])) / (x[-1] - x[-2])
        return Slope(float(slopes[0]), float(low), float(high), float(last), int((~kept).sum()))

    def render(self) -> str:
        """Exponents in `H` at the most demonstrations and in `n` at the longest horizon, a line for
        each expert.
        """
        longest, most = max(c.horizon for c in self.cells), max(c.n for c in self.cells)
        head = f"{'expert':<15}{'error':<8}{f'exponent in H (n = {most:,})':<41}{f'exponent in n (H = {longest})':<41}"
        lines = [f"{head}{'mean |error|':>12}"]
        for expert in dict.fromkeys(c.expert for c in self.cells):
            for quantity in ("clone", "rl"):
                in_horizon = self.exponent(self.select(expert, n=most), quantity, "horizon")
                in_n = self.exponent(self.select(expert, horizon=longest), quantity, "n")
                (last,) = self.select(expert, horizon=longest, n=most)
                lines.append(
                    f"{expert:<15}{quantity:<8}{in_horizon!s:<41}{in_n!s:<41}{last.size(quantity):>12.4g}"
                )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON report."""
        return asdict(self)


def learning_curve(
    horizons: Sequence[int] = HORIZONS,
    sizes: Sequence[int] = SIZES,
    *,
    experts: Sequence[Expert] = EXPERTS,
    alpha: float = 0.2,
    vocab_size: int = 4,
    window: int = 1,
    prompts: int = 16,
    smoothing: float = 0.0,
    seeds: int = 20,
    seed: int = 0,
    run: RunFolder | None = None,
) -> LearningCurve:
    """Measure every cell of the grid.

    Args:
        horizons: values of `H`.
        sizes: values of `n`.
        experts: kinds of expert, from `EXPERTS`.
        alpha: temperature of the stochastic expert and of the reward read from `π̂`.
        vocab_size: `V`.
        window: tokens that the true reward, the expert and the fitted policy read, besides the
            prompt.
        prompts: number of equally likely prompts, each with rewards of its own.
        smoothing: added to every count (`theory.fit.imitation.next_token_mle`). The bias that it
            brings can be most of the error: with 0.5 cloning's is many times that of none.
        seeds: MDPs and data sets for each cell. An MDP is that of its seed and `H`, whatever the
            expert and `n`.
        seed: of the random numbers. A cell's depend on its own place in the grid and on nothing
            else.
        run: folder, entered, whose ``learning.jsonl`` gets a line for each cell. Cells that are
            there are not measured again, so that a run that was stopped goes on, and a grid can
            grow.

    Raises:
        ValueError: an argument is out of range, or the folder has cells of other options or damaged
            ones.
    """
    options: dict[str, Any] = {
        "alpha": alpha,
        "vocab_size": vocab_size,
        "window": window,
        "prompts": prompts,
    }
    options |= {"smoothing": smoothing, "seeds": seeds}
    for name, values in (("horizons", horizons), ("sizes", sizes), ("seeds", (seeds,))):
        if not len(values) or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f"{name}={values!r}: must be positive integers, each once")
    if not experts:
        raise ValueError(f"experts={experts!r}: must name at least one of {', '.join(EXPERTS)}")
    wrong = [expert for expert in experts if expert not in EXPERTS]
    if wrong:
        raise ValueError(f"experts={wrong[0]!r}: must be one of {', '.join(EXPERTS)}")
    lines: Lines[Cell] | None = None
    if run is not None:
        run.identify(
            {"version": __version__, "kind": "learning curve"} | options | {"seed": seed},
            lines=[CELLS],
        )
        lines = run.lines(CELLS, lambda row: _cell(row, seeds))
    done = {(cell.expert, cell.horizon, cell.n): cell for cell in lines or ()}
    cells = []
    for expert in experts:
        for horizon in horizons:
            for n in sizes:
                cell = done.get((expert, horizon, n))
                if cell is None:
                    cell = measure(expert, horizon, n, **options, seed=seed)
                    if lines is not None:
                        lines.append(asdict(cell))
                cells.append(cell)
    return LearningCurve(**options, cells=tuple(cells))


def measure(
    expert: Expert,
    horizon: int,
    n: int,
    *,
    alpha: float,
    vocab_size: int,
    window: int,
    prompts: int,
    smoothing: float,
    seeds: int,
    seed: int = 0,
) -> Cell:
    """One cell; see `learning_curve`."""
    what = (
        f"prompts={prompts}, vocab_size={vocab_size}, window={window}, horizon={horizon}, "
        f"seeds={seeds}"
    )
    states = horizon * prompts * vocab_size ** min(horizon - 1, window)
    require_memory(80 * seeds * states * vocab_size, what, "give fewer of one of them")
    sizes = [prompts * vocab_size ** min(h, window) for h in range(horizon)]
    own = [np.random.default_rng([seed, k, horizon]) for k in range(seeds)]
    mdp = TokenMDP.window(
        [np.stack([rng.random((size, vocab_size)) for rng in own]) for size in sizes], window
    )
    best = plain_optimal(mdp)
    teacher = best.policy if expert == "deterministic" else soft_optimal(mdp, alpha).policy
    rng = np.random.default_rng([seed, seeds, horizon, EXPERTS.index(expert), n])
    data = Demonstrations.sample(teacher, np.full(seeds, n), rng)
    fitted: Policy = next_token_mle(data, alpha, smoothing=smoothing).policy
    average, value = mdp.dynamics.average, plain_value(mdp, teacher)
    epsilon, most = max_log_ratio(teacher, fitted), np.full(seeds, horizon * mdp.reward_width)
    finite = np.isfinite(epsilon)
    stepwise = most.copy()
    stepwise[finite] = bounds.clone_gap_stepwise(horizon, epsilon[finite]) * mdp.reward_width
    divergence = np.minimum(kl(teacher, fitted), kl(fitted, teacher))

    def error(of: Any, than: Any) -> Any:
        """The difference, zero where it is rounding; NaN stays NaN."""
        return np.where(np.abs(than - of) <= 1e-12 * horizon, 0.0, than - of)

    found = {
        "clone": error(plain_value(mdp, fitted), value),
        "rl": error(average(returns(mdp, map_response(fitted))), average(best.values[0])),
        "pinsker": np.minimum(most, most * np.sqrt(np.maximum(divergence, 0) / 2)),
        "stepwise": np.minimum(most, stepwise),
    }
    return Cell(
        expert, horizon, n, **{name: tuple(np.asarray(x).tolist()) for name, x in found.items()}
    )


@dataclass(frozen=True)
class Budget:
    """Regret ``max_π V^π − V^π`` of four ways to spend `n` data, mean and standard error over
    seeds, reward units.

    Attributes:
        alpha: temperature of the expert, and of the reward read from its clone.
        n: demonstrations of the expert, or pairs of responses with a Bradley–Terry winner (at
            temperature 1).
        regrets: by name: ``clone``, ``rl`` on the endogenous reward of the clone, ``rlhf_expert``
            and ``rlhf_uniform``: RLHF from pairs that the expert, or the uniform policy, wrote.
    """

    alpha: float
    n: int
    regrets: dict[str, tuple[float, float]]


def budget_comparison(
    sizes: Sequence[int] = (30, 100, 1000, 10_000),
    alphas: Sequence[float] = (0.1, 0.5, 1.0, 2.0),
    *,
    vocab_size: int = 4,
    horizon: int = 3,
    smoothing: float = 0.1,
    l2: float = 1.0,
    beta: float = 1e-3,
    seeds: int = 20,
    seed: int = 0,
) -> list[Budget]:
    """Demonstrations against preferences on random trees: cloning, RL on `r̂`, and RLHF from as
    many pairs.

    Args:
        sizes: values of `n`.
        alphas: temperatures.
        vocab_size: `V`.
        horizon: `H`.
        smoothing: of the clone's counts.
        l2: of the reward fit (`theory.fit.preferences.fit_reward`).
        beta: RLHF's KL coefficient; its anchor is uniform, so that a small one is RL on the fitted
            reward.
        seeds: trees and data sets for each row, at least two: one has no standard error.
        seed: of the random numbers.

    Raises:
        ValueError: no `sizes` or `alphas`, or fewer than two seeds.
    """
    for name, values in (("sizes", sizes), ("alphas", alphas)):
        if not len(values):
            raise ValueError(f"{name}={values!r}: must not be empty")
    if seeds < 2:
        raise ValueError(f"seeds={seeds}: must be at least 2, for a standard error")
    rows = []
    for alpha in alphas:
        for n in sizes:
            found: dict[str, list[float]] = {}
            for k in range(seeds):
                rng = np.random.default_rng([seed, k, n, round(1e6 * alpha)])
                mdp = random_tree(vocab_size, horizon, seed=rng)
                best, teacher = (
                    float(mdp.dynamics.average(plain_optimal(mdp).values[0])),
                    soft_optimal(mdp, alpha).policy,
                )
                uniform = Policy.from_logits(
                    mdp.dynamics, [np.zeros_like(table) for table in mdp.rewards]
                )
                clone = next_token_mle(
                    Demonstrations.sample(teacher, n, rng), alpha, smoothing=smoothing
                ).policy
                learned = {
                    "clone": clone,
                    "rl": plain_optimal(endogenous_reward(clone, alpha, gauge="logprob")).policy,
                }
                for name, writer in (("rlhf_expert", teacher), ("rlhf_uniform", uniform)):
                    pairs = sample_preferences(mdp, writer, n, rng)
                    learned[name] = rlhf(pairs, uniform, beta, l2=l2).policy
                for name, policy in learned.items():
                    found.setdefault(name, []).append(best - float(plain_value(mdp, policy)))
            error = {name: float(np.std(x, ddof=1) / np.sqrt(seeds)) for name, x in found.items()}
            rows.append(
                Budget(
                    alpha, n, {name: (float(np.mean(x)), error[name]) for name, x in found.items()}
                )
            )
    return rows


def _cell(row: Mapping[str, Any], seeds: int) -> Cell:
    numbers = {name: tuple(map(float, row[name])) for name in QUANTITIES}
    if any(len(x) != seeds or not np.isfinite(x).all() for x in numbers.values()):
        raise ValueError("not one finite number for each seed")
    return Cell(row["expert"], int(row["horizon"]), int(row["n"]), **numbers)
