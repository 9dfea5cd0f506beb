"""Figures of ``endorm check``: bounds beside what they bound, and how far apart the policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm_bridge.check.comparison import BEYOND, Comparison
from theory.claims.findings import Finding
from theory.reports.figures import CLONE, PALETTE, RL

__all__ = ["bounds_figure", "log_ratio_figure"]

FINE = PALETTE[2]
"""Colour of a bound that says something."""


WORST = {
    "V^{π_E} − V^{π̂}": "cloning",
    "V^{π_E} − V^{π_RL}": "RL, against π_E",
    "max_π V^π − V^{π_RL}": "RL, against the best",
}
"""Worst case of `Comparison.worst` that belongs to a quantity which is bounded in ε."""


def bounds_figure(comparison: Comparison) -> Figure:
    """Draw a row for each bound on a value or a total variation: the exact left side, the bound,
    and the region in which a bound says nothing.

    Example:
        >>> from llm_bridge.check.comparison import compare
        >>> from theory.studies.gallery import swapped_pair
        >>> figure = bounds_figure(compare([swapped_pair(4, alpha=1.0, epsilon=0.1)]))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['total variation', 'plain value, reward units']

    """
    bounds = [finding for finding in comparison.findings if not finding.statement.equality]
    gap = [x for x in bounds if x.statement.quantity.unit == "reward"]
    pairs = [x for x in bounds if x.statement.quantity.unit == "probability"]
    figure = Figure(figsize=(9.6, 1.6 + 0.27 * (len(gap) + len(pairs))), layout="constrained")
    heights = [len(pairs) + 1, len(gap) + 1]
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _bars(upper, pairs, {}, 1.0, "total variation")
    _bars(
        lower,
        gap,
        comparison.worst["ε_π"],
        comparison.gaps["range of the return"],
        "plain value, reward units",
    )
    title = (
        "● exact   ◇ worst case within $\\epsilon_\\pi$ of the expert   | bound: green, or red "
        "where it says nothing"
    )
    figure.suptitle(title, fontsize=10)
    return figure


def _bars(
    axes: Axes, findings: Sequence[Finding], worst: Mapping[str, float], ceiling: float, label: str
) -> None:
    """Draw left side and bound of each finding; `ceiling` is the most that a left side can be."""
    rights = [x.mean_right for x in findings if math.isfinite(x.mean_right) and x.mean_right > 0]
    lefts = [x.mean_left for x in findings if x.mean_left > 0]
    high = 3 * max([*rights, ceiling])
    low = max(min([*lefts, *rights, ceiling]) / 3, high * 1e-9)
    for row, finding in enumerate(reversed(findings)):
        color = CLONE if finding.mean_right >= ceiling * (1 - 1e-9) else FINE
        left, right = (min(max(x, low), high) for x in (finding.mean_left, finding.mean_right))
        axes.plot([left, right], [row, row], color=color, lw=1.6, alpha=0.7)
        quantity = finding.statement.quantity.symbol
        if quantity in WORST and "ε" in finding.statement.bound.symbol:
            axes.plot([worst[WORST[quantity]]], [row], "D", color="black", mfc="white", ms=4)
        axes.plot([left], [row], "<" if finding.mean_left <= low else "o", color="black", ms=4)
        axes.plot(
            [right], [row], ">" if finding.mean_right > high else "|", color=color, ms=9, mew=2
        )
    axes.axvspan(ceiling, high, color="0.92", zorder=0)
    axes.axvline(ceiling, color="0.5", lw=1)
    axes.set_xscale("log")
    axes.set(xlim=(low, high), ylim=(-0.7, len(findings) - 0.3), xlabel=label)
    axes.set_yticks(range(len(findings)), [_label(x) for x in reversed(findings)], fontsize=8)
    axes.grid(axis="x", alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _label(finding: Finding) -> str:
    """Name and bound, with `π̂` as a formula: fonts put its accent beside the letter."""
    statement = finding.statement
    return f"{statement.name}: {statement.bound.symbol}".replace("π\u0302", "$\\hat{\\pi}$")


def log_ratio_figure(comparison: Comparison) -> Figure:
    """Draw the share of the expert's tokens on which the two policies differ by more than so many
    nats, and `ε_π`.

    Example:
        >>> from llm_bridge.check.comparison import compare
        >>> from theory.studies.gallery import swapped_pair
        >>> (axes,) = log_ratio_figure(compare([swapped_pair(4, alpha=1.0, epsilon=0.1)])).axes
        >>> axes.get_ylabel()
        'share beyond'

    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        np.maximum(comparison.exceeded, 1e-6),
        BEYOND,
        color=RL,
        lw=1.8,
        label="tokens of the expert, average of prompts",
    )
    near = comparison.closeness
    visited = next(value for name, value in near.items() if name.startswith("ε of tokens"))
    axes.axvline(
        near["ε_π"],
        color=CLONE,
        lw=1.4,
        label=f"$\\epsilon_\\pi$, the whole tree: {near['ε_π']:.3g}",
    )
    axes.axvline(
        visited,
        color=CLONE,
        lw=1.4,
        ls="--",
        label=f"what 1 in 1000 responses visits: {visited:.3g}",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=r"$|\log \pi_E(a|s) - \log \hat\pi(a|s)|$, nats",
        ylabel="share beyond",
    )
    axes.set_ylim(1e-5, 1.3)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    axes.grid(alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
