"""The report of ``endorm verify``: the verdict, then every statement on every group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from theory.claims.findings import Finding, Group
from theory.claims.proved import is_proved
from theory.claims.statements import STATEMENTS
from theory.reports.figures import horizon_figure, preference_figure
from theory.reports.report import DIGITS, Column, Plot, Report, Section, Table, Text, Tone, show
from theory.studies.sweep import HorizonCurve, PreferenceCurve

__all__ = [
    "VACUOUS",
    "cannot_fail",
    "could_not_fail",
    "count_instances",
    "count_verdicts",
    "tone",
    "undecided",
    "undecided_sentences",
    "verdict",
    "verify_report",
    "violations",
]

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
    horizon: HorizonCurve | None = None,
    preference: PreferenceCurve | None = None,
    note: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Report:
    """Report the verdict on all groups, the findings of each, and how much of each bound is
    attained; then the curves where they are given.

    Args:
        groups: what was examined.
        findings: of each of their statements, one.
        horizon: worst cases against the horizon.
        preference: preference error against ε.
        note: what was left out, and why.
        facts: how it was examined, by name.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> group = Group("a pair", [swapped_pair(4, alpha=1.0, epsilon=0.1)], {}, STATEMENTS)
        >>> findings = decide_each(STATEMENTS, group.instances, group="a pair")
        >>> verify_report([group], findings).summary[0].split("; ")[:2]
        ['40 statements checked on 1 instance, none violated', '12 could not fail here']

    """
    instances = {group.name: count_instances(group) for group in groups}
    sentence, passed = verdict(findings, sum(instances.values()))
    curves: list[Section] = []
    if horizon is not None:
        exponents = (
            f"Exponents in H of the exact error over ε (ε = {horizon.rule}): cloning "
            f"{horizon.exponent('clone')} ({horizon.local_exponent('clone'):.2f} at the longest), "
            f"RL on the endogenous reward {horizon.exponent('rl')}."
        )
        curves += [
            Text(exponents),
            Plot(
                "error_vs_horizon",
                horizon_figure(horizon),
                "Worst-case error over ε against H, on log axes: cloning rises faster than RL.",
                "What the worst policy within ε of the expert loses: exact, beside the bounds.",
            ),
        ]
    if preference is not None:
        curves.append(
            Plot(
                "tv_vs_epsilon",
                preference_figure(preference),
                "Largest preference error against ε, beside the paper's bound and the sharp one.",
                "Total variation between the preferences of the true reward and of the one read "
                "off the policy: the worst policy within ε, and its bounds.",
            )
        )
    return Report(
        "Every statement, checked",
        [sentence, *_silent(findings), *undecided_sentences(findings), *([note] if note else [])],
        facts or {},
        [
            *violations(findings),
            _overview(instances, findings),
            *curves,
            *(_group(group, findings) for group in groups),
            _attained(groups, findings),
        ],
        passed,
    )


def count_instances(group: Group) -> int:
    """Return how many instances a group has, those of batches counted one by one.

    Example:
        >>> from theory.studies.groups import exact_groups
        >>> [count_instances(group) for group in exact_groups(n_instances=8)]
        [8, 30, 56, 8]

    """
    return sum(math.prod(instance.batch_shape) for instance in group.instances)


def verdict(
    findings: Sequence[Finding], instances: int, noun: str = "instance"
) -> tuple[str, bool]:
    """Say in one sentence what was found of all statements, and whether nothing speaks against
    them; a statement that was checked on no instance does not speak for them.

    Args:
        findings: of each statement, one for each group.
        instances: in all groups.
        noun: what an instance is called.

    Example:
        >>> verdict([], 2)
        ('Nothing was checked: no statement applies to any of the 2 instances.', False)

    """
    of: dict[str, list[Finding]] = {}
    for finding in findings:
        of.setdefault(finding.statement.name, []).append(finding)
    here = _plural(instances, noun)
    violated = [name for name, found in of.items() if any(x.verdict == "violated" for x in found)]
    absent = [name for name, found in of.items() if not any(x.instances for x in found)]
    if violated:
        checked = _plural(len(of), "statement")
        return f"{len(violated)} of {checked} VIOLATED on {here}: {', '.join(violated)}.", False
    if len(absent) == len(of):
        return f"Nothing was checked: no statement applies to any of the {here}.", False
    silent = [
        name
        for name, found in of.items()
        if name not in absent and not any(x.tested for x in found)
    ]
    parts = [f"{_plural(len(of), 'statement')} checked on {here}, none violated"]
    if silent:
        parts.append(f"{len(silent)} could not fail here")
    if absent:
        apply = "applies" if len(absent) == 1 else "apply"
        parts.append(f"{len(absent)} {apply} to no {noun} here")
    return f"{'; '.join(parts)}.", True


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _silent(findings: Sequence[Finding]) -> list[str]:
    """Say on which groups statements could not fail, where they could on others."""
    groups = dict.fromkeys(finding.group for finding in findings)
    count = {name: sum(could_not_fail(x) for x in findings if x.group == name) for name in groups}
    return [
        f"{n} of them could not fail on {name}."
        for name, n in count.items()
        if n and len(groups) > 1
    ]


def undecided_sentences(findings: Sequence[Finding]) -> list[str]:
    """Say which statements are undecided, a sentence for each reason.

    Example:
        >>> undecided_sentences([])
        []

    """
    of: dict[str, list[Finding]] = {}
    for finding in findings:
        for reason in finding.reasons:
            of.setdefault(reason, []).append(finding)
    return [
        f"Undecided {_plural(sum(x.reasons[reason] for x in found), 'time')}, a statement on an "
        f"instance each ({reason}): {', '.join(dict.fromkeys(x.statement.name for x in found))}."
        for reason, found in of.items()
    ]


def violations(findings: Sequence[Finding]) -> list[Table]:
    """Return the violations with the numbers that show them; no table where there is none.

    Example:
        >>> violations([])
        []

    """
    found = [finding for finding in findings if finding.verdict == "violated"]
    columns = [
        Column("statement"),
        Column("claim", kind="formula"),
        Column("left", ".6g", "right"),
        Column("right", ".6g", "right"),
        Column("violated on", align="right"),
        Column("of", kind="formula"),
    ]
    rows = [
        (
            x.statement.name,
            x.statement.claim,
            x.left,
            x.right,
            f"{x.outcomes.get('violated', 0):,} of {x.instances:,}",
            x.group,
        )
        for x in found
    ]
    return [Table("Violated", columns, rows, tones=["bad"] * len(rows))] if rows else []


def _overview(instances: Mapping[str, int], findings: Sequence[Finding]) -> Table:
    """How many statements have each verdict, group by group."""
    columns = [
        Column("instances of", kind="formula"),
        *(
            Column(name, ",", "right")
            for name in ("number", "hold", "violated", "undecided", "cannot fail", "do not apply")
        ),
    ]
    rows = []
    for name, n in instances.items():
        here = [finding for finding in findings if finding.group == name]
        count = Counter(finding.verdict for finding in here)
        silent = sum(map(could_not_fail, here))
        rows.append(
            (
                name,
                n,
                count["holds"],
                count["violated"],
                count["undecided"],
                silent,
                count["does not apply"],
            )
        )
    note = (
        "Statements by verdict. Those that cannot fail hold here whatever is true: on every "
        "instance the bound is no less than the most that its left side can be, the left side is "
        "not positive, or both sides are one expression."
    )
    tones: list[Tone] = ["bad" if row[3] else "" for row in rows]
    return Table("What was checked", columns, rows, note, tones)


def count_verdicts(verdicts: Iterable[str]) -> str:
    """Say how many statements have each verdict that occurs; violations always.

    >>> count_verdicts(["holds", "undecided", "holds"])
    '2 hold, 0 violated, 1 undecided'
    """
    counts = Counter(verdicts)
    shown = [verdict for verdict in WORDS if counts[verdict] or verdict == "violated"]
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in shown)


def tone(finding: Finding) -> Tone:
    """Return how the row of a finding is coloured: quiet where it could not fail.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> found = decide_each(STATEMENTS, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
        >>> {tone(x) for x in found if x.statement.name == "rl-expert"}  # its left side is negative
        {'quiet'}

    """
    if finding.verdict == "violated":
        return "bad"
    silent = could_not_fail(finding) or finding.verdict == "does not apply"
    return "quiet" if silent else ""


def could_not_fail(finding: Finding) -> bool:
    """Return whether a statement applies, but on no instance on which a mistake would show.

    Example:
        >>> from theory.claims.findings import decide_each
        >>> from theory.studies.gallery import swapped_pair
        >>> found = decide_each(STATEMENTS, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
        >>> [x.statement.name for x in found if could_not_fail(x)][:2]  # without a gauge
        ['endogenous-telescoping', 'soft-rl-fixed-point']

    """
    return finding.instances > 0 and finding.tested == 0


def cannot_fail(findings: Sequence[Finding]) -> list[Text]:
    """Return which statements could not fail, beside those whose bound is always vacuous.

    Example:
        >>> cannot_fail([])
        []

    """
    names = [x.statement.name for x in findings if could_not_fail(x) and x.vacuous_share != 1]
    why = (
        "the bound says nothing, the left side is not positive, or both sides are one expression, "
        "on every instance"
    )
    return [Text(f"cannot fail here ({why}): {', '.join(names)}")] if names else []


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


def _group(group: Group, findings: Sequence[Finding]) -> Table:
    """The findings of a group, and what their table alone would let a reader miss."""
    here = [finding for finding in findings if finding.group == group.name]
    columns = [
        Column("statement"),
        Column("claim", detail=True, kind="formula"),
        Column("source", detail=True),
        Column("instances", align="right", detail=True),
        Column("tested", align="right"),
        Column("left/right", align="right", kind="formula"),
        Column("slack", ".2e", "right"),
        Column("verdict"),
        Column("proved", detail=True),
        VACUOUS,
        Column("in balls", align="right", detail=True),
    ]
    rows = [
        (
            finding.statement.name,
            finding.statement.claim,
            finding.statement.source,
            finding.instances,
            finding.tested,
            _ratio(finding),
            finding.smallest_slack + 0.0 if finding.instances else None,  # no negative zero
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
    facts += [remark.paragraph for finding in here for remark in undecided(finding)]
    if vacuous:
        facts.append(f"vacuous here (the bound says nothing): {', '.join(vacuous)}")
    facts += [text.paragraph for text in cannot_fail(here)]
    if absent:
        facts.append(f"conditions met by no instance here: {', '.join(absent)}")
    tones = list(map(tone, here))
    return Table(group.name, columns, rows, "\n".join(facts), tones, detail=True)


def _attained(groups: Sequence[Group], findings: Sequence[Finding]) -> Table:
    """The largest ``left/right`` of each bound in each group, side by side."""
    found = {(finding.group, finding.statement.name): finding for finding in findings}
    rows = []
    for statement in (statement for statement in STATEMENTS if not statement.equality):
        here = [found.get((group.name, statement.name)) for group in groups]
        ratios = ["–" if finding is None else _ratio(finding) for finding in here]
        rows.append((statement.name, statement.formula, *ratios))
    names = [f"({k})" for k, _ in enumerate(groups, start=1)]
    columns = [
        Column("statement"),
        Column("claim", detail=True, kind="formula"),
        *(Column(x, align="right") for x in names),
    ]
    note = "\n".join(f"{name} {group.name}" for name, group in zip(names, groups, strict=True))
    title = "attained fraction of each bound, largest left/right"
    return Table(title, columns, rows, note, detail=True)


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
