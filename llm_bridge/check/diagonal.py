"""The picture of a validation: predicted against measured, and how far off the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llm_bridge.check.points import Point
from theory.reports.figures import PALETTE

__all__ = ["MARKERS", "diagonal_figure"]

PANELS = {
    "reward": "rewards (reward units)",
    "probability": "probabilities",
    "value": "plain values (reward units)",
}
MARKERS = {
    "reward of a token": ".",
    "reward of the last token": "1",
    "reward of a response": "+",
    "value of sampling": "o",
    "value of greedy decoding": "s",
    "value of the MAP response": "^",
    "value of π̂^2": "D",
    "preference agreement": "P",
    "mean preference error (TV)": "X",
}
"""Marks of the quantities of `llm_bridge.check.validation`, in its order."""

HOLLOW = "os^D"
BEHIND = "0.62"
FAR = 2.6
"""Half-widths of the interval that the lower panels show on either side."""


def diagonal_figure(
    series: Mapping[str, Sequence[Point]], behind: Mapping[str, Sequence[Point]] | None = None
) -> Figure:
    """Draw predicted against measured, and below it the deviation in half-widths of the interval.

    Args:
        series: points by what the legend calls them, each with a colour of its own.
        behind: points shown in grey behind them, which do not count for the axes.

    Example:
        >>> point = Point("value of sampling", "", 0.5, 0.52, 0.48, 0.56, "value")
        >>> top, bottom = diagonal_figure({"a model": [point]}).axes
        >>> top.get_title()
        'plain values (reward units)'

    """
    behind = behind or {}
    everything = [point for points in series.values() for point in points]
    units = [unit for unit in PANELS if any(point.unit == unit for point in everything)]
    # colours that are told apart, the first of them blue
    colours = {name: PALETTE[(3 + 5 * k) % len(PALETTE)] for k, name in enumerate(series)}
    figure = Figure(figsize=(3.5 * len(units), 6.6), layout="constrained")
    axes = figure.subplots(2, len(units), sharex="col", height_ratios=(3, 1.15), squeeze=False)
    for unit, top, bottom in zip(units, axes[0], axes[1], strict=True):
        for points in behind.values():
            _draw(points, unit, BEHIND, 0, top)
        # the smallest series last, so that it is not covered
        for order, name in enumerate(sorted(series, key=lambda name: -len(series[name])), start=2):
            _draw(series[name], unit, colours[name], order, top, bottom)
        _frame(top, bottom, [point.predicted for point in everything if point.unit == unit])
        top.set_title(PANELS[unit], fontsize=10)
    axes[0, 0].set_ylabel("measured on the model")
    axes[1, 0].set_ylabel("off the diagonal,\nhalf-widths of\nthe interval", fontsize=8)
    whose = [
        Line2D([], [], color=colour, lw=3, label=name)
        for name, colour in (colours | dict.fromkeys(behind, BEHIND)).items()
    ]
    shown = {point.quantity for point in everything}
    what = [
        Line2D([], [], ms=6, label=name.replace("π̂^2", r"$\hat\pi^2$"), **_style(marker, "0.2"))
        for name, marker in MARKERS.items()
        if name in shown
    ]
    figure.legend(
        handles=whose + what,
        loc="outside lower center",
        ncols=len(units) + 1,
        fontsize=8,
        frameon=False,
    )
    return figure


def _style(marker: str, colour: str) -> dict[str, Any]:
    return {
        "marker": marker,
        "color": colour,
        "mfc": "none" if marker in HOLLOW else colour,
        "ls": "none",
    }


def _draw(
    points: Sequence[Point],
    unit: str,
    colour: str,
    order: int,
    top: Axes,
    bottom: Axes | None = None,
) -> None:
    """Draw the points of one unit with their intervals, and in `bottom` how far they are from the
    diagonal, above it where more was measured.
    """
    for quantity, marker in MARKERS.items():
        some = [point for point in points if (point.quantity, point.unit) == (quantity, unit)]
        if not some:
            continue
        style = _style(marker, colour) | {"zorder": order}
        x, y, low, high = np.array([(p.predicted, p.measured, p.low, p.high) for p in some]).T
        sides = [y - low, high - y]
        top.errorbar(x, y, yerr=sides, ms=3.7, mew=0.8, elinewidth=0.8, alpha=0.8, **style)
        if bottom is not None:
            off = np.copysign([point.deviation for point in some], y - x)
            bottom.plot(x, np.clip(off, -FAR, FAR), ms=3, mew=0.5, alpha=0.6, **style)


def _frame(top: Axes, bottom: Axes, predicted: Sequence[float]) -> None:
    """Draw the diagonal and the width of an interval, and cut the axes to the predictions."""
    low = min(predicted)
    high = max(predicted)
    pad = 0.05 * (high - low) or 0.05
    top.axline((low, low), (high + pad, high + pad), color="0.2", lw=0.7, zorder=1)
    top.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
    bottom.axhspan(-1, 1, color="0.9", lw=0, zorder=0)
    bottom.axhline(0, color="0.2", lw=0.7)
    bottom.set(ylim=(-FAR, FAR), xlabel="predicted from the token tree")
    for axes in (top, bottom):
        axes.grid(alpha=0.3, lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
