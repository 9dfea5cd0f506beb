"""The report of ``endorm check``, exact or sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llm_bridge.check.comparison import Comparison
from llm_bridge.check.confidence import Estimate
from llm_bridge.check.figures import bounds_figure, log_ratio_figure
from llm_bridge.check.sampled import Sampled
from theory.reports.report import Column, Plot, Report, Table, Text, show
from theory.reports.verify import VACUOUS, count_verdicts, tone, undecided

__all__ = ["exact_report", "sampled_report"]


def exact_report(title: str, facts: Mapping[str, Any], comparison: Comparison) -> Report:
    """Report what the theory says of a model and an expert.

    Args:
        title: heading.
        facts: what was compared and how, by name.
        comparison: every statement, distances and losses.

    Example:
        >>> from llm_bridge.check.comparison import compare
        >>> from theory.studies.gallery import swapped_pair
        >>> pair = compare([swapped_pair(4, alpha=1.0, epsilon=0.1)])
        >>> exact_report("A swapped pair", {}, pair).summary[0].partition(" (")[0]
        '39 hold, 0 violated, 1 do not apply'

    """
    findings = comparison.findings
    vacuous = sum(finding.vacuous_share == 1 for finding in findings)
    bounds = Plot(
        "bounds",
        bounds_figure(comparison),
        "For each bound, its exact left side, the bound, and where it would say nothing.",
        "The nearer the bar on the right is to the dot, the sharper the bound; in the grey region "
        "a bound says nothing.",
    )
    ratios = Plot(
        "log_ratios",
        log_ratio_figure(comparison),
        "Share of the expert's tokens on which the policies differ by more than so many nats.",
    )
    return Report(
        title,
        [
            f"{count_verdicts(x.verdict for x in findings)} ({vacuous} of the bounds are "
            "vacuous: they hold and say nothing).",
        ],
        facts,
        [
            bounds,
            _statements(comparison),
            *(remark for finding in findings for remark in undecided(finding)),
            _numbers("How near the two are, nats", comparison.closeness),
            ratios,
            _numbers(
                "What each policy loses against the expert, plain value",
                comparison.gaps,
                "Under the true reward, averages over prompts; a negative number is a gain.",
            ),
            *_worst_cases(comparison),
        ],
    )


def _statements(comparison: Comparison) -> Table:
    """Both sides of every statement."""
    columns = [
        Column("statement"),
        Column("left", align="right"),
        Column("right", align="right"),
        Column("verdict"),
        Column("applies", ".0%", "right"),
        VACUOUS,
        Column("claim"),
        Column("source", detail=True),
    ]
    rows = [
        (
            finding.statement.name,
            finding.mean_left,
            finding.mean_right,
            finding.verdict,
            finding.applies,
            finding.vacuous_share,
            finding.statement.claim,
            finding.statement.source,
        )
        for finding in comparison.findings
    ]
    note = (
        f"Averages over those of {comparison.prompts} prompts on which a statement applies (of "
        "pairs of responses, the largest). A bound is vacuous where its left side can never be "
        "larger."
    )
    return Table("Statements", columns, rows, note, tones=list(map(tone, comparison.findings)))


def _worst_cases(comparison: Comparison) -> list[Table | Text]:
    """The worst policy of each ball, and why some are not known."""
    losses = list(next(iter(comparison.worst.values())))
    columns = [Column("radius of the ball"), *(Column(name, align="right") for name in losses)]
    rows = [(name, *(row[x] for x in losses)) for name, row in comparison.worst.items()]
    note = (
        "What the worst of all policies within so many nats of the expert loses: beside the "
        "statements it shows how much of a bound is the ball, and how much the bound."
    )
    return [
        Table("The worst policy of the ball around the expert, exact", columns, rows, note),
        *(Text(f"{name}: out of reach ({why})") for name, why in comparison.out_of_reach.items()),
    ]


def sampled_report(title: str, facts: Mapping[str, Any], found: Sampled) -> Report:
    """Report estimates and their intervals.

    Args:
        title: heading.
        facts: what was compared and how, by name.
        found: the estimates.

    Example:
        >>> name, found = "KL(π_E‖π̂)", Estimate(0.5, 0.25, 0.75, guaranteed=False)
        >>> report = sampled_report("A model", {}, Sampled(1, 8, {name: found}, {}, 1.0))
        >>> report.sections[0].rows
        [('KL(π_E‖π̂)', 0.5, '[0.25, 0.75]', 'approximate')]

    """
    columns = [
        Column("quantity"),
        Column("estimate", align="right"),
        Column("interval"),
        Column("which is"),
    ]
    rows = [(name, x.value, _interval(x), _kind(x)) for name, x in found.estimates.items()]
    note = (
        f"Averages over {found.prompts} prompts, from {found.responses} responses of each policy "
        "to each; unbiased, and each interval is of its confidence by itself. A guaranteed "
        "interval covers with its confidence, however rare what it counts; an approximate one "
        "knows nothing of what no draw met, which can have a probability of about three over the "
        "number of draws."
    )
    proven = (
        "τ found, the best of a beam, is proven to be the most probable response on "
        f"{found.proven:.0%} of the prompts. The bound is of τ found; where that is "
        "not proven on every prompt, the row of π_RL has a lower end and no more."
    )
    return Report(
        title,
        facts=facts,
        sections=[
            Table("Estimates", columns, rows, note),
            Text(proven),
            _numbers(
                "How near the two are, nats",
                found.closeness,
                "Without intervals. The largest is over the states passed, and the theorems' ε is "
                "at least that; quantiles are those of the expert's tokens, averaged over prompts.",
            ),
        ],
    )


def _interval(one: Estimate) -> str:
    if math.isnan(one.low):
        return "not defined"
    if one.low == one.high and math.isfinite(one.value):
        return "all draws agree"
    return f"[{show(one.low)}, {show(one.high)}]"


def _kind(one: Estimate) -> str:
    """Say how far the interval can be trusted, where there is one."""
    if math.isnan(one.low) or one.low == one.high:
        return "–"
    return "guaranteed" if one.guaranteed else "approximate"


def _numbers(title: str, numbers: Mapping[str, float], note: str = "") -> Table:
    """Numbers by name."""
    return Table(title, [Column(), Column(align="right")], list(numbers.items()), note)
