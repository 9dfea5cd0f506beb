"""The picture of a validation: predicted against measured, and how far off the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

    """
    behind = behind or {}
    everything = [point for points in series.values() for point in points]
    units = [unit for unit in PANELS if any(point.unit == unit for point in everything)]
    figure = Figure(figsize=(3.5 * max(len(units), 1), 6.6), layout="constrained")
    axes = figure.subplots(2, len(units), sharex="col", height_ratios=(3, 1.15), squeeze=False)
    for unit, top, bottom in zip(units, axes[0], axes[1], strict=True):
        for points in behind.values():
            _scatter(top, [point for point in points if point.unit == unit], BEHIND, 0)
        colours = dict(zip(series, _colours(len(series)), strict=True))
        # the smallest series last, so that it is not covered
        for order, name in enumerate(sorted(series, key=lambda name: -len(series[name])), start=2):
            some = [point for point in series[name] if point.unit == unit]
            _scatter(top, some, colours[name], order)
            _deviations(bottom, some, colours[name], order)
        _frame(top, bottom, [point.predicted for point in everything if point.unit == unit])
        top.set_title(PANELS[unit], fontsize=10)
    axes[0, 0].set_ylabel("measured on the model")
    axes[1, 0].set_ylabel("off the diagonal,\nhalf-widths of\nthe interval", fontsize=8)
    shown = {point.quantity for point in everything}
    handles = _handles(series, behind, [quantity for quantity in MARKERS if quantity in shown])
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(units) + 1, 4),
        fontsize=8,
        frameon=False,
    )
    return figure


def _colours(n: int) -> list[str]:
    """Return colours that are told apart, the first of them blue."""
    return [PALETTE[(3 + 5 * k) % len(PALETTE)] for k in range(n)]


def _scatter(axes: Axes, points: Sequence[Point], colour: str, order: int) -> None:
    """Draw points with their intervals."""
    for quantity, marker in MARKERS.items():
        some = [point for point in points if point.quantity == quantity]
        if not some:
            continue
        x = [p.predicted for p in some]
        y = [p.measured for p in some]
        sides = [[p.measured - p.low for p in some], [p.high - p.measured for p in some]]
        axes.errorbar(
            x, y, yerr=sides, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.8, zorder=order
        )
        paint: dict[str, Any] = (
            {"facecolors": "none", "edgecolors": colour} if marker in HOLLOW else {"color": colour}
        )
        axes.scatter(
            x, y, marker=marker, s=14, linewidths=0.8, alpha=0.8, zorder=order + 0.5, **paint
        )


def _deviations(axes: Axes, points: Sequence[Point], colour: str, order: int) -> None:
    """Draw how far points are from the diagonal, above it where more was measured."""
    for quantity, marker in MARKERS.items():
        some = [point for point in points if point.quantity == quantity]
        signed = [p.deviation if p.measured > p.predicted else -p.deviation for p in some]
        axes.scatter(
            [p.predicted for p in some],
            [min(max(y, -FAR), FAR) for y in signed],
            marker=marker,
            color=colour,
            s=9,
            lw=0.5,
            alpha=0.6,
            zorder=order,
        )


def _frame(top: Axes, bottom: Axes, predicted: Sequence[float]) -> None:
    """Draw the diagonal and the width of an interval, and cut the axes to the predictions."""
    low, high = min(predicted), max(predicted)
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


def _handles(
    series: Mapping[str, Sequence[Point]],
    behind: Mapping[str, Sequence[Point]],
    quantities: Sequence[str],
) -> list[Line2D]:
    """Return the legend: colours say whose, markers say what."""
    colours = [*_colours(len(series)), *[BEHIND] * len(behind)]
    handles = [
        Line2D([], [], color=colour, lw=3, label=name)
        for name, colour in zip([*series, *behind], colours, strict=True)
    ]
    for quantity in quantities:
        marker = MARKERS[quantity]
        name = {"value of π̂^2": r"value of $\hat\pi^2$"}.get(quantity, quantity)
        fill = "none" if marker in HOLLOW else "0.2"
        handles.append(
            Line2D([], [], color="0.2", marker=marker, mfc=fill, ls="none", ms=6, label=name)
        )
    return handles
