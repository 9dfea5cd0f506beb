"""The ``endorm minimax`` command: certified worst cases over all token MDPs."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from theory.commands import shared
from theory.commands.engine import ENGINE, EngineOptions
from theory.commands.options import Command, Group, OptionError, Options, option

__all__ = ["COMMAND", "MinimaxOptions"]

MAX_CURVES = 8


@dataclass(frozen=True)
class MinimaxOptions(Options):
    """Which constants are enclosed, and how finely."""

    vocabs: tuple[int, ...] = option(
        (2,),
        help="vocabulary sizes; only that of 2 has a recursion for its upper value",
        low=2,
        high=2**10,
        metavar="V",
    )
    alphas: tuple[float, ...] = option(
        (1.0,), help="temperatures α of the expert", metavar="A", **shared.ALPHAS
    )
    epsilons: tuple[float, ...] = option(
        (0.1,), help="radii of the ball", low=1e-6, high=20.0, unit="nats", metavar="E"
    )
    horizons: tuple[int, ...] | None = option(
        None,
        help="tokens of a response",
        low=1,
        high=2**10,
        metavar="H",
        default_text="1,2,…,16",
    )
    per_reward: int = option(
        128, help="steps of soft values in a unit of reward", low=1, high=2**16, metavar="N"
    )
    per_epsilon: int = option(
        8, help="steps of likelihood ratios in a factor e^ε", low=1, high=2**10, metavar="J"
    )
    out: Path = shared.out(
        "out/minimax",
        "report.html, minimax.json, the figure, and points.jsonl for a run that goes on",
    )
    json: Path | None = shared.json_file()

    def check(self) -> None:
        """Refuse more curves than a figure can show."""
        n_curves = len(self.vocabs) * len(self.alphas) * len(self.epsilons)
        if n_curves > MAX_CURVES:
            text = (
                f"and {{alphas}}, {{epsilons}}: {n_curves} curves; a figure can show {MAX_CURVES}"
            )
            raise OptionError("vocabs", text)


def run(arguments: argparse.Namespace) -> int:
    """Enclose, write, draw and print the constants; returns the exit code."""
    from theory.reports.minimax import minimax_report
    from theory.solve.minimax import Ball, Mesh
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies.minimax import minimax_curves

    started = time.monotonic()
    options = MinimaxOptions.read(arguments)
    engine = EngineOptions.read(arguments)
    axes = (options.vocabs, options.alphas, options.epsilons)
    balls = [Ball(int(V), *rest) for V, *rest in product(*(sorted(set(axis)) for axis in axes))]
    with RunFolder(options.out) as folder:
        points = minimax_curves(
            balls,
            sorted(set(options.horizons or range(1, 17))),
            Mesh(options.per_reward, options.per_epsilon),
            run=folder,
            engine=engine.chosen(),
        )
        shown = minimax_report(points)
        numbers = shown.head("minimax/1") | {
            "arguments": {"command": "minimax"} | options.as_dict(results_only=True),
            "points": [asdict(point) for point in points],
        }
        shown.save(folder.path)
        write_json(folder.path / "minimax.json", numbers)
    seconds = time.monotonic() - started
    last = f"report.html, minimax.json and figure in {options.out} ({seconds:.0f} s)"
    return shared.show(shown, last, numbers, options.json)


COMMAND = Command(
    "minimax",
    "certified worst cases over all token MDPs, against the horizon",
    (Group(MinimaxOptions), Group(EngineOptions, ENGINE)),
    run,
    ("endorm minimax --vocabs 2,256 --horizons 1,2,4,8 --out DIR",),
)
