"""The report of ``endorm learn``: what demonstrations teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theory.reports.figures import learning_figure
from theory.reports.report import Column, Plot, Report, Table
from theory.studies.learning import LearningCurve

__all__ = ["learning_report"]


EXPONENTS = (
    "The power with which the mean error over seeds grows: fitted to all points, with its interval "
    "of 95 %, and between the last two. The clone is fitted to n responses of the expert; rl is "
    "the best policy for the reward in it."
)
"""What the table of exponents shows."""


def learning_report(curve: LearningCurve, facts: Mapping[str, Any] | None = None) -> Report:
    """Report exponents in `H` at the most demonstrations and in `n` at the longest horizon, for
    each expert and error.

    Args:
        curve: what was measured.
        facts: how, by name.

    Example:
        >>> from theory.studies.learning import LearningSetting, learning_curve
        >>> curve = learning_curve([2, 4], [10, 100], setting=LearningSetting(seeds=2, prompts=1))
        >>> learning_report(curve).sections[1].rows[0][:2]
        ('stochastic', 'clone')

    """
    longest = max(cell.horizon for cell in curve.cells)
    most = max(cell.n for cell in curve.cells)
    columns = [
        Column("expert"),
        Column("error"),
        Column(f"exponent in H (n = {most:,})"),
        Column(f"exponent in n (H = {longest})"),
        Column("mean |error|", ".4g", "right"),
    ]
    rows = []
    for expert in dict.fromkeys(cell.expert for cell in curve.cells):
        for quantity in ("clone", "rl"):
            in_horizon = curve.exponent(curve.select(expert, n=most), quantity, "horizon")
            in_n = curve.exponent(curve.select(expert, horizon=longest), quantity, "n")
            (last,) = curve.select(expert, horizon=longest, n=most)
            rows.append((expert, quantity, str(in_horizon), str(in_n), last.size(quantity)))
    plot = Plot(
        "learning",
        learning_figure(curve),
        "Errors of cloning and of RL on its reward, against the horizon and the demonstrations.",
        "Bands are the middle 90 % of the seeds.",
    )
    kind, quantity, _, in_n, _ = rows[0]
    sentence = (
        f"With n demonstrations the error of the {quantity} goes as n to the power {in_n} "
        f"({kind} expert, H = {longest})."
    )
    table = Table("How the errors grow", columns, rows, EXPONENTS)
    return Report("What demonstrations teach", [sentence], facts or {}, [plot, table])
