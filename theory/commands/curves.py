"""The ``endorm curves`` command: exact worst cases against the horizon, drawn and fitted."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from theory.commands import shared
from theory.commands.engine import ENGINE, EngineOptions
from theory.commands.options import Command, Group, OptionError, Options, option

__all__ = ["COMMAND", "CurvesOptions"]

UNREAD = {
    "preference": ("horizons", "vocabs", "epsilon", "epsilon_over_sqrt"),
    "sharpening": ("horizons", "alphas", "vocabs", "epsilon", "epsilon_over_sqrt"),
    "swapped-pair": ("vocabs",),
}
"""Options that a family has no use for."""

MAX_CURVES = 8
RADII = {"low": 1e-12, "high": 20.0, "unit": "nats", "metavar": "E"}


@dataclass(frozen=True)
class CurvesOptions(Options):
    """Which curves are computed."""

    family: Literal["coin-payoff", "swapped-pair", "preference", "sharpening", "all"] = option(
        "all", help="coin-payoff (cloning), swapped-pair (RL), preference, sharpening, or all"
    )
    horizons: tuple[int, ...] | None = option(
        None,
        help="tokens of a response",
        low=2,
        high=2**22,
        metavar="H",
        default_text="2,4,8,…,65536",
    )
    alphas: tuple[float, ...] = option(
        (0.18, 1.0),
        help="temperatures α; preferences are computed at the largest",
        metavar="A",
        **shared.ALPHAS,
    )
    vocabs: tuple[int, ...] = option(
        (2, 256), help="vocabulary sizes of coin–payoff, even", low=2, high=2**20, metavar="V"
    )
    epsilon: float | None = option(
        None, help="radius of the ball, the same at every horizon", **RADII
    )
    epsilon_over_sqrt: float | None = option(
        None,
        help="radius times √H",
        default_text="0.01, and also --epsilon 0.01 in a second panel",
        **RADII,
    )
    out: Path = shared.out(
        "out/curves", "report.html, curves.json, figures, and horizon.jsonl for a run that goes on"
    )
    json: Path | None = shared.json_file()

    def unread(self) -> dict[str, str]:
        """Options that the family has no use for."""
        reason = f"is not read by {{family}} {self.family}"
        return dict.fromkeys(UNREAD.get(self.family, ()), reason)

    def check(self) -> None:
        """Refuse odd vocabularies, two radii, and more curves than a figure can show."""
        odd = [V for V in self.vocabs if V % 2]
        if odd:
            text = "must be even, so that half the tokens are heads"
            raise OptionError("vocabs", text, odd[0])
        if self.epsilon is not None and self.epsilon_over_sqrt is not None:
            raise OptionError("epsilon", "and {epsilon_over_sqrt}: give one of them")
        n_curves = len(self.alphas) * len(self.vocabs)
        if n_curves > MAX_CURVES:
            text = f"and {{vocabs}}: {n_curves} pairs; a figure can show {MAX_CURVES}"
            raise OptionError("alphas", text)

    @property
    def families(self) -> tuple[str, ...]:
        """The families of curves against the horizon."""
        return tuple(
            name for name in ("coin-payoff", "swapped-pair") if self.family in (name, "all")
        )

    def grid(self) -> list[dict[str, Any]]:
        """The arguments of `theory.studies.sweep.horizon_curve` for each curve."""
        from theory.studies.sweep import HORIZONS

        if not self.families:
            return []
        vocabs = sorted(set(self.vocabs))
        if "coin-payoff" not in self.families:
            vocabs = vocabs[:1]  # the swapped pair's gap has no V in it
        given = {"epsilon_over_sqrt": self.epsilon_over_sqrt, "epsilon": self.epsilon}
        radii = [{name: radius} for name, radius in given.items() if radius is not None]
        horizons = sorted(set(self.horizons or HORIZONS))
        return [
            {"alpha": alpha, "vocab_size": V, "horizons": horizons} | radius
            for radius in radii or [{name: 0.01} for name in given]
            for V in vocabs
            for alpha in sorted(set(self.alphas))
        ]


def run(arguments: argparse.Namespace) -> int:
    """Compute, write and print the curves; returns the exit code."""
    from theory.reports.curves import curves_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies import sweep

    started = time.monotonic()
    options = CurvesOptions.read(arguments)
    # a curve takes less time than it takes to start a process
    engine = EngineOptions.read(arguments).chosen(processes=1)
    with RunFolder(options.out) as folder:
        curves = sweep.horizon_curves(options.grid(), run=folder, engine=engine)
        preference = None
        if options.family in ("preference", "all"):
            preference = sweep.preference_curve(alpha=max(options.alphas))
        sharpening = None
        if options.family in ("sharpening", "all"):
            sharpening = sweep.sharpening_curves()
        shown = curves_report(
            curves, options.families, preference=preference, sharpening=sharpening
        )
        report = shown.head("curves/1") | {
            "arguments": {"command": "curves"} | options.as_dict(results_only=True),
            "horizon": [curve.as_dict(options.families) for curve in curves],
            "preference": None if preference is None else asdict(preference),
            "sharpening": None
            if sharpening is None
            else {name: asdict(one) for name, one in sharpening.items()},
        }
        shown.save(folder.path)
        write_json(folder.path / "curves.json", report)
    seconds = time.monotonic() - started
    last = f"report.html, curves.json and figures in {options.out} ({seconds:.0f} s)"
    return shared.show(shown, last, report, options.json)


COMMAND = Command(
    "curves",
    "exact worst cases against the horizon, their exponents and crossover",
    (Group(CurvesOptions), Group(EngineOptions, ENGINE, defaults={"processes": "1"})),
    run,
    ("endorm curves --vocabs 2,256 --alphas 0.18,1 --out DIR",),
)
