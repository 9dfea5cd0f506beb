"""The report of ``endorm ppo``: where a run has come, against where it must end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theory.reports.report import Column, Report, Table, Text

__all__ = ["progress_report"]

SHOWN = (
    "objective",
    "accuracy_sampled",
    "accuracy_map",
    "accuracy_greedy",
    "kl_to_anchor",
    "entropy",
)
"""What is measured exactly, and compared with the optimum."""


def progress_report(
    title: str,
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    optimum: Mapping[str, float] | None = None,
) -> Report:
    """Report the first and the last row of a run's metrics.

    Args:
        title: heading.
        first: metrics before training.
        last: metrics now.
        optimum: what the exact optimum has; `None` where it is not known, and the metrics are those
            of tasks, whose names have a slash.

    Example:
        >>> first, last = {"objective": 0.0}, {"objective": 1.5, "kl_to_optimum": 0.1}
        >>> report = progress_report("half the way", first, last, {"objective": 3.0})
        >>> report.sections[0].rows
        [('objective', 0.0, 1.5, 3.0, 0.5)]

    """
    if optimum is None:
        columns = [Column("task"), Column("π̂", ".3f", "right"), Column("now", ".3f", "right")]
        tasks = [(name, first[name], last[name]) for name in first if "/" in name]
        return Report(title, sections=[Table("", columns, tasks)] if tasks else [])
    columns = [
        Column("on prompts not trained on"),
        Column("π̂", ".4f", "right"),
        Column("now", ".4f", "right"),
        Column("optimum", ".4f", "right"),
        Column("share", ".0%", "right"),
    ]
    rows = []
    for name in (name for name in SHOWN if name in first and name in last):
        way = optimum[name] - first[name]
        share = (last[name] - first[name]) / way if abs(way) > 1e-3 else None
        rows.append((name, first[name], last[name], optimum[name], share))
    distance = (
        f"exact distance to the optimum: {optimum['objective'] - last['objective']:.4f} reward "
        f"units, KL(π‖optimum) = {last['kl_to_optimum']:.4f} nats"
    )
    return Report(title, sections=[Table("", columns, rows), Text(distance)])
