"""The report of ``endorm verify --literature``: what the field claims, and what is true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from theory.claims.findings import Finding
from theory.claims.literature import LiteratureFinding
from theory.reports.report import Column, Report, Table, Text
from theory.solve.soft import power_policy
from theory.studies.gradient_noise import GRADIENTS, gradient_noise
from theory.studies.intrinsic import careful_or_sure, compare_intrinsic
from theory.studies.literature import power_estimate_bias

__all__ = [
    "claims_table",
    "intrinsic_table",
    "literature_report",
    "noise_table",
    "power_table",
    "statements_table",
]

BETAS = (4.0, 1.0, 0.25)
"""KL coefficients of the table of intrinsic rewards."""

DRAWS = (2, 3, 4, 5)
"""Continuations drawn of each token, in the table of power sampling."""


def literature_report(
    found: Sequence[LiteratureFinding], facts: Mapping[str, Any] | None = None
) -> Report:
    """Report every claim with its verdict, then what was checked, then what rewards sharpen.

    Args:
        found: of each claim.
        facts: how it was found, by name.

    Example:
        >>> literature_report([]).summary, literature_report([]).passed
        (['No claim was decided.'], False)

    """
    wrong = [x.claim.name for x in found if not x.confirmed]
    checked = sum(len(x.holds) + len(x.fails) for x in found)
    said = f"NOT as the list says: {', '.join(wrong)}" if wrong else "all as the list says"
    sentence = f"{len(found)} claims, {checked} statements decided: {said}."
    verdicts = Counter(x.claim.verdict for x in found)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    return Report(
        "What the field claims, and what is true",
        [sentence, f"Of the claims: {counts}."] if found else ["No claim was decided."],
        facts or {},
        [
            claims_table(found),
            *(
                Text(
                    f"{x.claim.name}. {x.claim.paper}: {x.claim.says}. "
                    f"{x.claim.verdict.capitalize()}: {x.claim.because}.",
                    detail=True,
                )
                for x in found
            ),
            statements_table(found),
            intrinsic_table(),
            noise_table(),
            power_table(),
        ],
        bool(found) and not wrong,
    )


def claims_table(found: Sequence[LiteratureFinding]) -> Table:
    """Show a row for each claim: paper, verdict, and whether it was found so.

    Example:
        >>> [column.name for column in claims_table([]).columns if not column.detail]
        ['claim', 'arXiv', 'verdict', 'found so']

    """
    columns = [
        Column("claim"),
        Column("arXiv"),
        Column("what is claimed", detail=True, kind="formula"),
        Column("verdict"),
        Column("because", detail=True, kind="formula"),
        Column("found so"),
    ]
    rows = [
        (
            x.claim.name,
            x.claim.paper,
            x.claim.says,
            x.claim.verdict,
            x.claim.because,
            "yes" if x.confirmed else "NO",
        )
        for x in found
    ]
    return Table("Claims", columns, rows, tones=["" if x.confirmed else "bad" for x in found])


def statements_table(found: Sequence[LiteratureFinding]) -> Table:
    """Show a row for each statement that was decided on the token trees.

    The last column has the largest left/right of an inequality, and the largest difference of the
    sides of an equality that fails.

    Example:
        >>> statements_table([]).title
        'What was decided, in enclosures'

    """
    columns = [
        Column("claim"),
        Column("statement", kind="formula"),
        Column("expected"),
        Column("decided"),
        Column("largest", kind="formula"),
    ]
    rows = [
        (x.claim.name, finding.statement.formula, expected, finding.verdict, _measure(finding))
        for x in found
        for expected, findings in (("holds", x.holds), ("violated", x.fails))
        for finding in findings
    ]
    return Table("What was decided, in enclosures", columns, rows, detail=True)


def _measure(finding: Finding) -> str:
    if not finding.statement.equality:
        if math.isnan(finding.worst_ratio):  # both sides are negative
            return f"right − left ≥ {finding.smallest_slack:.2g}"
        return f"left/right ≤ {finding.worst_ratio:.3g}"
    if finding.verdict == "holds":
        return f"equal to {10.0 ** math.ceil(math.log10(max(finding.equal_within, 1e-300))):.0e}"
    return f"apart by {-finding.smallest_slack:.2g}"


def intrinsic_table() -> Table:
    """Show what RL on each intrinsic reward ends at, on one tree, side by side.

    Example:
        >>> intrinsic_table().rows[0][0]
        '(none)'

    """
    instance = careful_or_sure()
    solved = [compare_intrinsic(instance, beta) for beta in BETAS]
    columns = [
        Column("reward", kind="formula"),
        Column("slope", "+.3f", "right"),
        *(Column(f"value, β = {beta:g}", ".3f", "right") for beta in BETAS),
        Column("MAP mass", ".3f", "right"),
        Column("E log π̂", ".2f", "right"),
        Column("entropy", ".2f", "right"),
    ]
    middle = solved[BETAS.index(1.0)]
    rows = [
        (
            row.reward,
            row.covariance + 0.0,
            *(rows[k].value for rows in solved),
            row.map_mass,
            row.log_likelihood,
            row.entropy,
        )
        for k, row in enumerate(middle)
    ]
    note = (
        "careful_or_sure: true value (probability of a right answer) of the exact optimum; the "
        "slope is its derivative in 1/β at π̂; the last three columns at β = 1, nats."
    )
    return Table("What each intrinsic reward sharpens", columns, rows, note, detail=True)


def noise_table() -> Table:
    """Show the exact variance of each policy gradient, on the way from `π̂` to the optimum.

    Example:
        >>> [column.name for column in noise_table().columns]
        ['estimator', 'at π̂', 'half way', 'at the optimum']

    """
    policy = careful_or_sure().policy
    at = [gradient_noise(power_policy(policy, kappa), policy) for kappa in (1.0, 1.5, 2.0)]
    names = ("at π̂", "half way", "at the optimum")
    columns = [Column("estimator"), *(Column(name, ".4f", "right") for name in names)]
    rows = [(name, *(round(noise[name], 9) + 0.0 for noise in at)) for name in GRADIENTS]
    note = "One response, α = β = 1, summed over all logits; the optimum is π̂²."
    return Table("Noise of the policy gradient", columns, rows, note, detail=True)


def power_table() -> Table:
    """Show the exact bias of the power policy's next token, estimated from drawn continuations.

    Example:
        >>> [row[0] for row in power_table().rows]
        [2, 3, 4, 5]

    """
    rest = np.array([[0.5, 0.5], [0.95, 0.05]])
    first = np.array([0.6, 0.4])
    columns = [
        Column("continuations", align="right"),
        Column("bias", "+.5f", "right"),
        Column("with jackknife", "+.5f", "right"),
    ]
    rows = [(draws, *power_estimate_bias(rest, first, 2.0, draws)) for draws in DRAWS]
    note = "κ = 2, π̂ = (0.6, 0.4), then (0.5, 0.5) or (0.95, 0.05); of the probability of token 0."
    return Table("Estimates of the power policy", columns, rows, note, detail=True)
