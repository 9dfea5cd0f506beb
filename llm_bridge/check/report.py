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
from theory.reports.verify import (
    VACUOUS,
    cannot_fail,
    tone,
    undecided,
    undecided_sentences,
    verdict,
    violations,
)

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
        >>> exact_report("A swapped pair", {}, pair).summary[0].split("; ")[:2]
        ['40 statements checked on 1 prompt, none violated', '12 could not fail here']

    """
    findings = comparison.findings
    sentence, passed = verdict(findings, comparison.prompts, "prompt")
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
    loss = {"sampling π̂": "sampling from it", "greedy decoding": "decoding it greedily"}
    lost = ", ".join(
        f"{how} {'gains' if comparison.gaps[of] < 0 else 'loses'} {abs(comparison.gaps[of]):.4g}"
        for of, how in loss.items()
    )
    most = comparison.gaps["range of the return"]
    return Report(
        title,
        [
            sentence,
            *undecided_sentences(findings),
            f"Against the expert, under the true reward, {lost}, of at most {most:.4g}; ε is "
            f"{comparison.closeness['ε_π']:.4g} nats.",
        ],
        facts,
        [
            *violations(findings),
            bounds,
            _statements(comparison),
            _numbers("How near the two are, nats", comparison.closeness),
            ratios,
            _numbers(
                "What each policy loses against the expert, plain value",
                comparison.gaps,
                "Under the true reward, averages over prompts; a negative number is a gain.",
            ),
            *_worst_cases(comparison),
        ],
        passed,
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
        Column("claim", kind="formula", detail=True),
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
    found = comparison.findings
    remarks = [text.paragraph for x in found for text in undecided(x)]
    remarks += [text.paragraph for text in cannot_fail(found)]
    tones = list(map(tone, found))
    return Table("Statements", columns, rows, "\n".join([note, *remarks]), tones, detail=True)


def _worst_cases(comparison: Comparison) -> list[Table | Text]:
    """The worst policy of each ball, and why some are not known."""
    losses = list(next(iter(comparison.worst.values())))
    columns = [Column("radius of the ball", kind="formula")]
    columns += [Column(name, align="right") for name in losses]
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
        Column("quantity", kind="formula"),
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
        [
            f"Estimated from {found.responses} responses of each policy to {_prompts(found)}: "
            "intervals, and no verdict on a statement."
        ],
        facts,
        [
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


def _prompts(found: Sampled) -> str:
    return f"{found.prompts} prompt{'s' * (found.prompts != 1)}"


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
    columns = [Column(kind="formula"), Column(align="right")]
    return Table(title, columns, list(numbers.items()), note)
