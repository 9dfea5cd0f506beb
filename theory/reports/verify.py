"""The report of ``endorm verify``: every statement on every group of instances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from theory.claims.findings import Finding, Group
from theory.claims.proved import is_proved
from theory.claims.statements import STATEMENTS
from theory.reports.figures import horizon_figure, preference_figure
from theory.reports.report import DIGITS, Column, Plot, Report, Section, Table, Text, Tone, show
from theory.studies.sweep import HorizonCurve, PreferenceCurve

__all__ = ["VACUOUS", "count_verdicts", "tone", "undecided", "verify_report"]

VACUOUS = Column("vacuous", lambda share: {0: "no", 1: "always"}.get(share, f"{share:.1%}"))
"""Share of the instances on which a bound says nothing; a dash where it cannot be vacuous."""

WORDS = {
    "holds": "hold",
    "violated": "violated",
    "undecided": "undecided",
    "does not apply": "do not apply",
}


def verify_report(
    groups: Sequence[Group],
    findings: Sequence[Finding],
    horizon: HorizonCurve,
    preference: PreferenceCurve,
    note: str = "",
) -> Report:
    """Report the findings of each group, then how much of each bound is attained, then the curves.

    Args:
        groups: what was examined.
        findings: of each of their statements, one.
        horizon: worst cases against the horizon.
        preference: preference error against ε.
        note: what was left out, and why.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> from theory.studies.sweep import horizon_curve, preference_curve
        >>> group = Group("a pair", [swapped_pair(4, alpha=1.0, epsilon=0.1)], {}, STATEMENTS)
        >>> findings = decide_each(STATEMENTS, group.instances, group="a pair")
        >>> curves = horizon_curve([64, 128]), preference_curve(horizon=2, points=3)
        >>> verify_report([group], findings, *curves).sections[0].title
        'a pair'

    """
    exponents = (
        f"exponents in H of the exact error over ε (ε = {horizon.rule}): cloning "
        f"{horizon.exponent('clone')} ({horizon.local_exponent('clone'):.2f} at the longest), RL "
        f"on the endogenous reward {horizon.exponent('rl')}"
    )
    curves: list[Section] = [
        Plot("error_vs_horizon", horizon_figure(horizon), "Worst-case error over ε against H."),
        Text(exponents),
        Plot("tv_vs_epsilon", preference_figure(preference), "Preference error against ε."),
    ]
    return Report(
        "Every statement, checked",
        [f"{count_verdicts(finding.verdict for finding in findings)}."],
        sections=[
            *(section for group in groups for section in _group(group, findings)),
            _attained(groups, findings),
            *curves,
            *([Text(note)] if note else []),
        ],
    )


def count_verdicts(verdicts: Iterable[str]) -> str:
    """Say how many statements have each verdict that occurs; violations always.

    >>> count_verdicts(["holds", "undecided", "holds"])
    '2 hold, 0 violated, 1 undecided'
    """
    counts = Counter(verdicts)
    shown = [verdict for verdict in WORDS if counts[verdict] or verdict == "violated"]
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in shown)


def tone(finding: Finding) -> Tone:
    """Return how the row of a finding is coloured: quiet where it says nothing.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> found = decide_each(STATEMENTS, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
        >>> {x.statement.name: tone(x) for x in found if tone(x)}  # its bound is vacuous
        {'theorem-2-rl': 'quiet'}

    """
    if finding.verdict == "violated":
        return "bad"
    silent = finding.vacuous_share == 1 or finding.verdict == "does not apply"
    return "quiet" if silent else ""


def undecided(finding: Finding) -> list[Text]:
    """Return why instances are undecided, a sentence for each reason.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> found = decide_each(STATEMENTS, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
        >>> [text for x in found for text in undecided(x)]  # all are decided
        []

    """
    known = finding.equal_within < math.inf
    within = f", equal to within {finding.equal_within:.0e}" if known else ""
    return [
        Text(
            f"undecided on {count} of {finding.instances}: {finding.statement.name} "
            f"({reason}{within})"
        )
        for reason, count in finding.reasons.items()
    ]


def _group(group: Group, findings: Sequence[Finding]) -> list[Table | Text]:
    """The findings of a group, and what their table alone would let a reader miss."""
    here = [finding for finding in findings if finding.group == group.name]
    columns = [
        Column("statement"),
        Column("source"),
        Column("instances", align="right"),
        Column("left/right", align="right"),
        Column("slack", ".2e", "right"),
        Column("verdict"),
        Column("proved"),
        VACUOUS,
        Column("in balls", align="right"),
    ]
    rows = [
        (
            finding.statement.name,
            finding.statement.source,
            finding.instances,
            _ratio(finding),
            finding.smallest_slack if finding.instances else None,
            finding.verdict,
            _proved(finding),
            finding.vacuous_share,
            finding.certified,
        )
        for finding in here
    ]
    facts = [f"{name}: {' '.join(show(x, DIGITS).split())}" for name, x in group.facts.items()]
    vacuous = [x.statement.name for x in here if x.vacuous_share == 1]
    absent = [x.statement.name for x in here if x.verdict == "does not apply"]
    remarks = [remark for finding in here for remark in undecided(finding)]
    if vacuous:
        remarks.append(Text(f"vacuous here (the bound says nothing): {', '.join(vacuous)}"))
    if absent:
        remarks.append(Text(f"conditions met by no instance here: {', '.join(absent)}"))
    return [Table(group.name, columns, rows, "\n".join(facts), list(map(tone, here))), *remarks]


def _attained(groups: Sequence[Group], findings: Sequence[Finding]) -> Table:
    """The largest ``left/right`` of each bound in each group, side by side."""
    found = {(finding.group, finding.statement.name): finding for finding in findings}
    rows = []
    for statement in (statement for statement in STATEMENTS if not statement.equality):
        here = [found.get((group.name, statement.name)) for group in groups]
        ratios = ["–" if finding is None else _ratio(finding) for finding in here]
        rows.append((statement.name, statement.formula, *ratios))
    names = [f"({k})" for k, _ in enumerate(groups, start=1)]
    columns = [Column("statement"), Column("claim"), *(Column(x, align="right") for x in names)]
    note = "\n".join(f"{name} {group.name}" for name, group in zip(names, groups, strict=True))
    return Table("attained fraction of each bound, largest left/right", columns, rows, note)


def _proved(finding: Finding) -> str:
    """For all instances, by a theorem; or on those whose verdict this is."""
    return "for all" if is_proved(finding.statement) else f"on {finding.instances} instances"


def _ratio(finding: Finding) -> str:
    """``left/right``; for an equality what balls bound the difference by; a dash where the right
    side is nowhere positive, or an equality was not evaluated in balls.
    """
    if not finding.statement.equality:
        return Column(format=".4g").show(finding.worst_ratio)
    if math.isnan(finding.equal_within):
        return "–"
    return f"= to {10.0 ** math.ceil(math.log10(max(finding.equal_within, 1e-300))):.0e}"
