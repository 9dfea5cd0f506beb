"""Figures of the curves of `theory.studies`, drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.solve.improve import SharpeningCurve
from theory.studies.learning import Cell, LearningCurve
from theory.studies.sweep import FAMILIES, HorizonCurve, PreferenceCurve

__all__ = [
    "constant_figure",
    "crossover_figure",
    "horizon_figure",
    "learning_figure",
    "preference_figure",
    "sharpening_figure",
]

CLONE = "#b3322c"
RL = "#1f5f99"
"""Colours of cloning and of RL on the endogenous reward, in every figure."""

PALETTE = ("#b3322c", "#d98a1f", "#3a8a4d", "#1f5f99", "#7a4a9c", "#8c6d4f", "#4aa3a2", "#555555")
"""Colours of lines that are neither."""

LABEL_GAP = 0.045
"""Least distance of two labels at the ends of lines, as a share of the value axis."""


DASHED: dict[str, Any] = {"ls": "--", "lw": 1.2}
DOTTED: dict[str, Any] = {"ls": ":", "lw": 1.4}
HORIZON_LINES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "coin-payoff": [
        ("clone_paper", "cloning, paper's bound", DOTTED),
        ("clone_stepwise", "cloning, sharp bound", DASHED),
        ("clone", "cloning, exact worst clone", {"marker": "o", "ms": 4, "lw": 1.8}),
    ],
    "swapped-pair": [
        ("rl_paper", "RL on $\\hat r$, paper ($\\alpha\\leq 1/2$)", DOTTED),
        ("rl_bound", "", DASHED),
        (
            "rl",
            "RL on $\\hat r$, exact, ≤ $2\\alpha H\\epsilon$",
            {"marker": "s", "ms": 4, "mfc": "white", "lw": 1.8},
        ),
    ],
}
"""Lines of each family: field of the curve, label at its end, style."""


def horizon_figure(curve: HorizonCurve, families: Collection[str] = tuple(FAMILIES)) -> Figure:
    """Draw the worst-case error over ε against `H` on log axes, each line labelled at its end.

    Args:
        curve: what to draw.
        families: cloning's lines (``"coin-payoff"``), those of RL (``"swapped-pair"``), or both.

    Example:
        >>> from theory.studies.sweep import horizon_curve
        >>> (axes,) = horizon_figure(horizon_curve([64, 128]), ["swapped-pair"]).axes
        >>> len(axes.lines), axes.get_xscale()
        (3, 'log')

    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    ends = []
    for family in FAMILIES:
        for name, label, style in HORIZON_LINES[family] if family in families else ():
            color = CLONE if name.startswith("clone") else RL
            axes.loglog(curve.horizons, curve.per_epsilon(name), color=color, **style)
            slope = curve.local_exponent(name)
            power = "" if slope is None else f"$H^{{{slope:.2f}}}$  "
            if label:
                ends.append((float(curve.per_epsilon(name)[-1]), power + label, color))
    _label_ends(axes, curve.horizons[-1], ends)
    if len(families) > 1 and curve.crossover is not None:
        axes.axvline(curve.crossover, color="0.6", lw=0.8, zorder=0)
        axes.annotate(
            f" cloning can \n lose more from \n $H={curve.crossover}$ on ",
            (curve.crossover, 0.02),
            xycoords=("data", "axes fraction"),
            ha="left" if curve.crossover**2 < curve.horizons[0] * curve.horizons[-1] else "right",
            fontsize=8,
            color="0.35",
        )
    axes.set(
        xlabel="horizon $H$ (tokens)",
        ylabel="plain-value error / $\\epsilon$ (reward units per nat)",
    )
    instances = {
        "coin-payoff": f"cloning: coin–payoff, $V={curve.vocab_size}$, against the expert",
        "swapped-pair": "RL on $\\hat r$: swapped pair, against the best policy",
    }
    figure.suptitle(
        f"What the worst policy within $\\epsilon={_formula(curve)}$ nats of the expert loses, "
        f"$\\alpha={curve.alpha:g}$\n"
        + "; ".join(text for family, text in instances.items() if family in families),
        fontsize=9.5,
    )
    _finish(axes)
    return figure


def constant_figure(curves: Sequence[HorizonCurve]) -> Figure:
    """Draw ``gap/(ε H^{3/2})`` of the worst clone against `H`: flat where the exponent is 3/2. One
    panel per radius rule.

    Example:
        >>> from theory.studies.sweep import horizon_curve
        >>> (axes,) = constant_figure([horizon_curve([64, 128])]).axes
        >>> axes.lines[0].get_xdata().tolist()
        [64, 128]

    """
    figure, _ = _panels(
        curves,
        lambda curve: curve.per_epsilon("clone") / np.array(curve.horizons) ** 1.5,
        "What the worst clone loses, over $\\epsilon H^{3/2}$ (coin–payoff)",
        "gap / ($\\epsilon H^{3/2}$)",
    )
    return figure


def crossover_figure(curves: Sequence[HorizonCurve]) -> Figure:
    """Draw what the worst clone loses over what RL can lose at most, ``2αHε``, against `H`. One
    panel per radius rule.

    Example:
        >>> from theory.studies.sweep import horizon_curve
        >>> (axes,) = crossover_figure([horizon_curve([64, 128])]).axes
        >>> axes.lines[0].get_xdata().tolist()
        [64, 128]

    """
    figure, panels = _panels(
        curves,
        lambda curve: np.array(curve.clone) / np.array(curve.rl_bound),
        "What the worst clone loses, over the bound on RL, $2\\alpha H\\epsilon$",
        "cloning / bound on RL",
    )
    for axes, group in panels:
        axes.axhline(1.0, color="0.3", lw=0.9)
        crossings = sorted(
            (curve.crossover, color) for curve, color in group if curve.crossover is not None
        )
        for k, (horizon, color) in enumerate(crossings):
            axes.plot(horizon, 1.0, color=color, marker="o", ms=6, mec="white")
            axes.annotate(
                f"{horizon:,}",
                (horizon, 1.0),
                xytext=(4, -11 - 9 * (k % 2)),  # every other one lower: neighbours may be close
                textcoords="offset points",
                fontsize=8,
                color=color,
            )
    return figure


def preference_figure(curve: PreferenceCurve) -> Figure:
    """Draw the preference error against ε: the worst case over the ball and over pairs, a sampled
    policy, and the bounds.

    Example:
        >>> from theory.studies.sweep import preference_curve
        >>> (axes,) = preference_figure(preference_curve(horizon=2, vocab_size=2, points=3)).axes
        >>> axes.get_ylabel()
        'TV of preferences'

    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    lines: list[tuple[str, str, str, dict[str, Any]]] = [
        ("paper", "paper: $\\alpha H\\epsilon/2$", "0.4", {"ls": ":"}),
        ("sharp", "sharp: $\\tanh(\\alpha H\\epsilon/2)$", "0.4", {"ls": "--"}),
        ("worst", "exact worst case over ball and pairs", CLONE, {"marker": "o", "ms": 4}),
        ("sampled", "a sampled policy, worst pair", RL, {"marker": "s", "ms": 4, "ls": "none"}),
    ]
    for name, label, color, style in lines:
        axes.plot(curve.epsilons, getattr(curve, name), label=label, color=color, **style)
    axes.axhline(1.0, color="0.7", lw=0.8)
    axes.set(
        xscale="log", ylim=(0, 1.15), xlabel="$\\epsilon_\\pi$ (nats)", ylabel="TV of preferences"
    )
    axes.set_title(
        f"Preference error, $H={curve.horizon}$, $\\alpha={curve.alpha:g}$; above 1 a bound is "
        "vacuous",
        fontsize=10,
    )
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3, lw=0.4)
    return figure


def learning_figure(curve: LearningCurve) -> Figure:
    """Draw errors of cloning and of RL on its reward, against `H` at the middle `n` and against `n`
    at the longest `H`.

    Bands are the middle 90 % of the seeds. What RL loses is often zero, and then not on the axes.

    Example:
        >>> from theory.studies.learning import LearningSetting, learning_curve
        >>> curve = learning_curve([2, 4], [10, 100], setting=LearningSetting(seeds=2, prompts=1))
        >>> [axes.get_xlabel() for axes in learning_figure(curve).axes]
        ['horizon $H$ (tokens)', 'demonstrations $n$']

    """
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = sorted({cell.n for cell in curve.cells})
    middle = sizes[len(sizes) // 2]
    longest = max(cell.horizon for cell in curve.cells)
    for k, expert in enumerate(dict.fromkeys(cell.expert for cell in curve.cells)):
        _learning_lines(left, curve.select(expert, n=middle), "horizon", first=k == 0)
        _learning_lines(right, curve.select(expert, horizon=longest), "n", first=k == 0)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        _finish(axes)
    shown = [x for c in curve.cells for x in (c.size("clone"), c.size("rl")) if x > 1e-9]
    left.set_ylim(max(min(shown, default=1e-6) / 2, 1e-6), 2 * longest)
    left.set(xlabel="horizon $H$ (tokens)", ylabel="mean |plain-value error| (reward units)")
    right.set_xlabel("demonstrations $n$")
    left.set_title(f"$n={middle:,}$", fontsize=9.5)
    right.set_title(f"$H={longest}$", fontsize=9.5)
    shape = (
        f"$V={curve.vocab_size}$, window {curve.window}, {curve.prompts} prompts, "
        f"$\\alpha={curve.alpha:g}$"
    )
    smoothing = f"smoothing {curve.smoothing:g}" if curve.smoothing else "no smoothing"
    figure.suptitle(
        f"What $n$ demonstrations teach: {shape}, {smoothing}, {curve.seeds} seeds", fontsize=10
    )
    _legend_below(figure, left, ncols=3)
    return figure


def _learning_lines(axes: Axes, cells: Sequence[Cell], axis: str, *, first: bool) -> None:
    """Draw the errors of one expert; the first one's lines are solid, and have their bounds."""
    x = [getattr(cell, axis) for cell in cells]
    for quantity, color, name in (("clone", CLONE, "cloning"), ("rl", RL, "RL on $\\hat r$")):
        values = np.abs([getattr(cell, quantity) for cell in cells])
        low, high = np.maximum(np.quantile(values, [0.05, 0.95], axis=1), 1e-9)
        means = values.mean(axis=1)
        axes.plot(
            x,
            np.where(means > 0, means, np.nan),
            ls="-" if first else "--",
            marker="o",
            ms=4,
            lw=1.6,
            color=color,
            mfc=color if first else "white",
            label=f"{name}, {cells[0].expert} expert",
        )
        axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)
    if first:
        label = "$HR\\sqrt{KL/2}$ of these $\\hat\\pi$"
        pinsker = [cell.size("pinsker") for cell in cells]
        axes.plot(x, pinsker, color="0.35", ls=":", lw=1.4, label=label)
        label = "worst clone at their $\\epsilon_\\pi$, at most"
        ball = [cell.size("stepwise") for cell in cells]
        axes.plot(x, ball, color="0.6", ls="-.", lw=1.2, label=label)


def sharpening_figure(curves: Mapping[str, SharpeningCurve]) -> Figure:
    """Draw true and endogenous value of the power policies against their exponent, one panel for
    each named curve.

    The endogenous value is drawn as a share of its range; the dot is the best exponent of the grid
    (its last where the value rises to a plateau), the dotted line the value of `π̂`.

    Example:
        >>> from theory.studies.sweep import sharpening_curves
        >>> curves = sharpening_curves(points=3)
        >>> [axes.get_title() for axes in sharpening_figure(curves).axes] == list(curves)
        True

    """
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        exponents = np.asarray(curve.exponents)
        value = np.asarray(curve.value)
        best = int(np.argmax(value))
        last = len(exponents) - 1
        if value[last] >= value[best] - 1e-9:
            best = last
        peak = exponents[best], value[best]
        span = np.ptp(curve.endogenous_value)
        # a constant has no range to have a share of, but for rounding, and is not drawn
        span = 0.0 if span <= 1e-12 * np.max(np.abs(curve.endogenous_value)) else span
        share = (curve.endogenous_value - np.min(curve.endogenous_value)) / (span or np.nan)
        label = "endogenous value, as a share of its range"
        axes.semilogx(exponents, share, color=RL, lw=1.4, ls="--", label=label)
        axes.semilogx(exponents, value, color=CLONE, lw=2.0, label="true value (reward units)")
        axes.axhline(value[0], color=CLONE, lw=0.7, ls=":")
        axes.plot(*peak, color=CLONE, marker="o", ms=6, mec="white", clip_on=False)
        where = f" at $\\kappa={peak[0]:.1f}$" if best < last else ""
        axes.annotate(
            f"{peak[1]:.2f}{where}",
            peak,
            xytext=(0, 6),
            textcoords="offset points",
            ha="left" if 3 * best < last else "right" if 3 * best > 2 * last else "center",
            fontsize=8,
            color=CLONE,
        )
        axes.set_title(name, fontsize=9.5)
        axes.set_xlabel("exponent $\\kappa=1+\\alpha/\\beta$")
        _finish(axes)
    panels[0].set_ylim(-0.03, 1.12)
    _legend_below(figure, panels[0], ncols=2)
    return figure


Panel = tuple[Axes, list[tuple[HorizonCurve, str]]]


def _panels(
    curves: Sequence[HorizonCurve], of: Callable[[HorizonCurve], np.ndarray], title: str, label: str
) -> tuple[Figure, list[Panel]]:
    """A figure with a quantity of each curve against `H`: a panel for each radius rule, with its
    curves, and a colour for each (V, α).
    """
    rules = list(dict.fromkeys(curve.rule for curve in curves))
    pairs = list(dict.fromkeys(map(_pair, curves)))
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    row = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    row[0].set_ylabel(label)
    panels: list[Panel] = []
    for axes, rule in zip(row, rules, strict=True):
        colors = {pair: PALETTE[k % len(PALETTE)] for k, pair in enumerate(pairs)}
        group = [(curve, colors[_pair(curve)]) for curve in curves if curve.rule == rule]
        for curve, color in group:
            axes.loglog(
                curve.horizons, of(curve), color=color, marker="o", ms=3, lw=1.5, label=_pair(curve)
            )
        axes.set_title(f"$\\epsilon={_formula(group[0][0])}$", fontsize=9.5)
        axes.set_xlabel("horizon $H$ (tokens)")
        _finish(axes)
        panels.append((axes, group))
    _legend_below(figure, row[0], ncols=min(len(pairs), 4))
    return figure, panels


def _legend_below(figure: Figure, axes: Axes, ncols: int) -> None:
    """Write the legend of one of the panels below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=ncols, fontsize=8, frameon=False
    )


def _label_ends(axes: Axes, x: float, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write each label right of the axes at the height of its line's end, moved up where two would
    touch.
    """
    low, high = np.log10(axes.get_ylim())
    position = -np.inf
    for value, label, color in sorted(ends):
        position = max((np.log10(value) - low) / (high - low), position + LABEL_GAP)
        axes.annotate(
            label,
            (1.01, position),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )
    axes.set_xlim(right=1.2 * x)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _pair(curve: HorizonCurve) -> str:
    return f"$V={curve.vocab_size}$, $\\alpha={curve.alpha:g}$"


def _formula(curve: HorizonCurve) -> str:
    return f"{curve.epsilon:g}/\\sqrt{{H}}" if curve.over_sqrt else f"{curve.epsilon:g}"
