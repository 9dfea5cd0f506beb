"""The report of ``endorm curves``: worst cases against the horizon, and the exponents fitted to
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from theory.reports import figures
from theory.reports.report import Column, Plot, Report, Section, Table, Text
from theory.solve.improve import SharpeningCurve
from theory.studies.sweep import FAMILIES, HorizonCurve, PreferenceCurve, headlines

__all__ = ["curves_report"]

COLUMNS = {
    "clone": {
        "cloning": "clone",
        "Σ TV_RR": "clone_stepwise",
        "H·TV_RR": "clone_composition",
        "½H^1.5·ε": "clone_three_halves",
        "H²ε": "clone_paper",
    },
    "rl": {"RL": "rl", "2αHε": "rl_bound", "Hε": "rl_paper"},
}
"""Columns of a curve's table, and the fields they show: the exact worst case, then its bounds, the
sharper first.
"""


NOTES = {
    "clone": "Cloning is followed by bounds on it, the paper's H²ε last; TV_RR(h) is the largest "
    "total variation that h tokens of two policies within ε can have, and Σ runs over the steps.",
    "rl": "RL is the best policy for the worst clone's own reward, against the best policy; 2αHε "
    "bounds it, and Hε is the paper's bound.",
}
"""What the columns are."""

LOSSES = "What the worst policy within ε of the expert loses: exact, beside the bounds."
FLAT = "A flat line is an error that grows as H^{3/2}, neither faster nor slower."
ABOVE = "Above 1, cloning can lose more than RL on its reward ever does."
TV = "Total variation between preferences, of the worst policy within ε."
SHARPENING = "The exponent is κ of π̂^κ: sharpening helps on one instance and hurts on another."
"""Captions of the figures."""


def curves_report(
    curves: Sequence[HorizonCurve],
    families: Collection[str] = tuple(FAMILIES),
    *,
    preference: PreferenceCurve | None = None,
    sharpening: Mapping[str, SharpeningCurve] | None = None,
) -> Report:
    """Report the headline curve of each radius, exponents and crossover of every curve, and the
    curves of preferences and sharpening where they are given.

    Args:
        curves: may be empty.
        families: of `FAMILIES`, those whose columns and lines are shown.
        preference: preference error against ε.
        sharpening: true value of power policies, by name of the instance.

    Example:
        >>> from theory.studies.sweep import horizon_curve
        >>> report = curves_report([horizon_curve([64, 128])], ["swapped-pair"])
        >>> [type(section).__name__ for section in report.sections]
        ['Plot', 'Table', 'Table']

    """
    sections: list[Section] = []
    for curve in headlines(curves):
        name = "error_vs_horizon" if curve.over_sqrt else "error_vs_horizon_fixed_epsilon"
        figure = figures.horizon_figure(curve, families)
        sections += [
            Plot(
                name,
                figure,
                "Worst-case error over ε against the horizon, on log axes.",
                LOSSES,
            ),
            _worst_cases(curve, families),
        ]
    if "coin-payoff" in families and curves:
        constant = figures.constant_figure(curves)
        crossover = figures.crossover_figure(curves)
        sections += [
            Plot("clone_constant", constant, "What the worst clone loses, over ε H^1.5.", FLAT),
            Plot(
                "crossover", crossover, "What the worst clone loses, over the bound on RL.", ABOVE
            ),
        ]
    if curves:
        sections.append(_exponents(curves, families))
    if preference is not None:
        figure = figures.preference_figure(preference)
        sections += [
            Plot("tv_vs_epsilon", figure, "Preference error against ε, beside its bounds.", TV),
            Text(str(preference)),
        ]
    if sharpening is not None:
        figure = figures.sharpening_figure(sharpening)
        alt = "True value of the power policies against their exponent."
        sections.append(Plot("sharpening", figure, alt, SHARPENING))
    title = "Exact worst cases of a ball around the expert"
    return Report(title, _growth(curves, families, preference), sections=sections)


GROWTH = {"coin-payoff": ("clone", "cloning"), "swapped-pair": ("rl", "RL on its reward")}
"""Field of a curve, and what it is called, for each family."""


def _growth(
    curves: Sequence[HorizonCurve], families: Collection[str], preference: PreferenceCurve | None
) -> list[str]:
    """Say how fast the errors of the first headline curve grow."""
    for curve in headlines(curves):
        known = [
            (what, curve.local_exponent(field))
            for family, (field, what) in GROWTH.items()
            if family in families
        ]
        parts = [f"{what} H^{exponent:.2f}" for what, exponent in known if exponent is not None]
        if not parts:
            break  # one horizon has no exponent
        sentence = (
            f"At the longest horizons the exact worst case over ε grows as: {', '.join(parts)}"
        )
        return [f"{sentence} (V = {curve.vocab_size}, α = {curve.alpha:g}, ε = {curve.rule})."]
    if preference is not None:
        return [f"{preference}"]
    return ["True values of power policies, against their exponent."]


def _worst_cases(curve: HorizonCurve, families: Collection[str]) -> Table:
    """Worst cases and bounds at each horizon; those that no policy can exceed have a star."""
    names = [FAMILIES[family] for family in families]
    fields = {head: field for name in names for head, field in COLUMNS[name].items()}
    vocabulary = f"V = {curve.vocab_size}, " if "clone" in names else ""
    cells = [
        [_starred(x, h) for x, h in zip(getattr(curve, field), curve.horizons, strict=True)]
        for field in fields.values()
    ]
    return Table(
        f"{vocabulary}α = {curve.alpha:g}, ε = {curve.rule}; exact worst cases and bounds",
        [Column(head, align="right") for head in ("H", *fields)],
        list(zip(curve.horizons, *cells, strict=True)),
        " ".join(NOTES[name] for name in names) + " * vacuous: no policy can lose more than H.",
    )


def _starred(bound: float, horizon: int) -> str:
    """A bound, with a star where it says nothing; else a blank as wide as a digit, so that digits
    align.
    """
    return f"{bound:.4g}" + ("*" if bound >= horizon else "\u2007")


def _exponents(curves: Sequence[HorizonCurve], families: Collection[str]) -> Table:
    """What was fitted to each curve."""
    both = FAMILIES.keys()
    cloning = {"coin-payoff"}
    rl = {"swapped-pair"}
    cells: list[tuple[Collection[str], Column, Callable[[HorizonCurve], Any]]] = [
        (cloning, Column("V", "d", "right"), lambda c: c.vocab_size),
        (both, Column("α", "g", "right"), lambda c: c.alpha),
        (both, Column("ε", align="right"), lambda c: c.rule),
        (cloning, Column("cloning", align="right"), lambda c: c.exponent("clone")),
        (cloning, Column("at longest H", ".2f", "right"), lambda c: c.local_exponent("clone")),
        (
            cloning,
            Column("gap/(εH^1.5)", ".4g", "right", detail=True),
            lambda c: c.per_epsilon("clone")[-1] / c.horizons[-1] ** 1.5,
        ),
        (rl, Column("RL", align="right"), lambda c: c.exponent("rl")),
        (
            cloning,
            Column("RL loses less", align="right"),
            lambda c: "at none here" if c.crossover is None else f"from H = {c.crossover}",
        ),
    ]
    shown = [(column, of) for those, column, of in cells if set(those) & set(families)]
    return Table(
        "Exponents in H of the worst case over ε",
        [column for column, _ in shown],
        [[of(curve) for _, of in shown] for curve in curves],
    )
