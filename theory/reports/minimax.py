"""The report of ``endorm minimax``: certified worst cases over all token MDPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from theory.claims import bounds
from theory.reports.figures import CLONE, RL
from theory.reports.report import Column, Plot, Report, Table
from theory.studies.minimax import Constant

__all__ = ["minimax_figure", "minimax_report"]

Bound = Callable[[Constant], float]

CLONE_BOUNDS: dict[str, Bound] = {
    "Σ TV_RR": lambda p: float(bounds.clone_gap_stepwise(p.horizon, p.epsilon)),
    "fixed temperature": lambda p: float(
        bounds.clone_gap_entropy(p.horizon, p.epsilon, p.alpha, p.vocab_size)
    ),
    "H·TV_RR": lambda p: float(bounds.clone_gap_composition(p.horizon, p.epsilon)),
    "½H^1.5·ε": lambda p: float(bounds.clone_gap_three_halves(p.horizon, p.epsilon)),
    "H²ε": lambda p: float(bounds.clone_gap_paper(p.horizon, p.epsilon)),
}
"""Bounds on cloning as a table names them."""

WIDE = ("fixed temperature", "H·TV_RR", "states")
"""Columns of a table that a terminal has no room for."""

STYLES = {
    "Σ TV_RR": ("-", "#333333"),
    "fixed temperature": ("-.", "#3a8a4d"),
    "H·TV_RR": ("--", "#333333"),
    "½H^1.5·ε": (":", "#333333"),
    "H²ε": (":", "#d98a1f"),
}


def minimax_report(points: Sequence[Constant]) -> Report:
    """Report the two certified values of each constant beside every bound, and draw them.

    Certified values are rounded outwards.

    Args:
        points: of one or more curves.

    Example:
        >>> from theory.solve.minimax import Ball, Mesh
        >>> from theory.studies.minimax import minimax_curves
        >>> points = minimax_curves([Ball(2, 1.0, 0.1)], [1, 2], Mesh(32, 2))
        >>> minimax_report(points).sections[1].rows[0][:3]
        (1, '0.02828', '0.02838')

    """
    plot = Plot(
        "minimax",
        minimax_figure(points),
        "What the worst policy loses on the worst token MDP, over ε, against the horizon.",
        "Bands are certified: no token MDP lies above, and one attains the lower edge.",
    )
    balls = list(dict.fromkeys(point.ball for point in points))
    tables = [_table([point for point in points if point.ball == ball]) for ball in balls]
    widest = max(point.clone_upper / point.clone_lower - 1 for point in points)
    horizons = f"H ≤ {max(point.horizon for point in points)}"
    sentence = (
        f"The most that cloning loses on any token MDP is enclosed to within {widest:.2%} "
        f"({horizons}; RL likewise, see the table)."
    )
    return Report("Worst cases over all token MDPs", [sentence], sections=[plot, *tables])


def _table(curve: Sequence[Constant]) -> Table:
    first = curve[0]
    columns: list[tuple[str, Callable[[Constant], Any]]] = [
        ("H", lambda p: p.horizon),
        ("cloning ≥", lambda p: outward(p.clone_lower, math.floor)),
        ("cloning ≤", lambda p: outward(p.clone_upper, math.ceil)),
        ("apart", lambda p: f"{p.clone_upper / p.clone_lower - 1:.1%}"),
        *((name, _shown(bound)) for name, bound in CLONE_BOUNDS.items()),
        ("RL ≥", lambda p: outward(p.rl_lower, math.floor)),
        ("RL ≤", lambda p: outward(p.rl_upper, math.ceil)),
        ("states", lambda p: p.states),
    ]
    return Table(
        f"V = {first.vocab_size}, α = {first.alpha:g}, ε = {first.epsilon:g}; reward units",
        [Column(name, align="right", detail=name in WIDE) for name, _ in columns],
        [tuple(of(point) for _, of in columns) for point in curve],
    )


def _shown(bound: Bound) -> Callable[[Constant], str]:
    return lambda point: f"{bound(point):.4g}"


def outward(value: float, towards: Callable[[float], int]) -> str:
    """Return a positive number with four digits, rounded by `math.floor` or `math.ceil`.

    Example:
        >>> outward(0.232333, math.floor), outward(0.232333, math.ceil)
        ('0.2323', '0.2324')
    """
    digits = 3 - math.floor(math.log10(value))
    return f"{towards(value * 10.0**digits) / 10.0**digits:.4g}"


def minimax_figure(points: Sequence[Constant]) -> Figure:
    """Draw the certified bands of cloning and RL over ε against `H`, and the bounds: a panel for
    each curve.

    Example:
        >>> from theory.solve.minimax import Ball, Mesh
        >>> from theory.studies.minimax import minimax_curves
        >>> points = minimax_curves([Ball(2, 1.0, 0.1)], [1, 2], Mesh(32, 2))
        >>> len(minimax_figure(points).axes)
        1

    """
    balls = list(dict.fromkeys(point.ball for point in points))
    columns = min(len(balls), 3)
    rows = math.ceil(len(balls) / columns)
    size = (max(3.6 * columns, 6.4), 3.6 * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, ball in zip(panels, balls, strict=False):
        curve = [point for point in points if point.ball == ball]
        horizons = [point.horizon for point in curve]
        for name, bound in CLONE_BOUNDS.items():
            style, color = STYLES[name]
            values = [bound(point) / ball.epsilon for point in curve]
            axes.loglog(horizons, values, ls=style, color=color, lw=1.1, label=f"bound {name}")
        for name, color in (("clone", CLONE), ("rl", RL)):
            low, high = (
                [getattr(point, f"{name}_{end}") / ball.epsilon for point in curve]
                for end in ("lower", "upper")
            )
            label = {"clone": "cloning, certified", "rl": "RL on $\\hat r$, certified"}[name]
            axes.fill_between(horizons, low, high, color=color, alpha=0.35, lw=0)
            axes.loglog(horizons, low, color=color, marker="o", ms=2.5, lw=1.4, label=label)
        axes.set_title(
            f"$V={ball.vocab_size}$, $\\alpha={ball.alpha:g}$, $\\epsilon={ball.epsilon:g}$",
            fontsize=9.5,
        )
        axes.grid(alpha=0.3, lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("horizon $H$ (tokens)")
    for axes in panels[len(balls) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("worst case / $\\epsilon$ (reward units per nat)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle("What the worst policy loses on the worst of all token MDPs", fontsize=10)
    return figure
