"""The ``endorm learn`` command: errors of what ``n`` demonstrations teach."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from theory.commands import shared
from theory.commands.engine import ENGINE, EngineOptions
from theory.commands.options import Command, Group, Options, option

__all__ = ["COMMAND", "LearnOptions"]


@dataclass(frozen=True)
class LearnOptions(Options):
    """The grid that is measured, and the instances of each of its cells."""

    horizons: tuple[int, ...] | None = option(
        None,
        help="tokens of a response",
        low=1,
        high=2**16,
        metavar="H",
        default_text="2,4,8,…,256",
    )
    demonstrations: tuple[int, ...] | None = option(
        None,
        help="responses of the expert",
        low=1,
        high=10**15,
        default_text="30,100,300,…,100000",
    )
    experts: tuple[Literal["stochastic", "deterministic"], ...] = option(
        ("stochastic", "deterministic"),
        help="kinds of expert: soft-optimal (stochastic), plain-optimal (deterministic)",
    )
    alpha: float = shared.alpha(0.2)
    vocab: int = option(4, help="vocabulary size", low=1, high=2**16, metavar="V")
    window: int = option(1, help="tokens that rewards read", low=1, high=64, metavar="K")
    n_prompts: int = option(16, help="number of prompts", low=1, high=2**20)
    smoothing: float = option(
        0.0,
        help="added to every count; its bias can be most of the error",
        low=0,
        unit="counts",
    )
    seeds: int = option(20, help="MDPs and data sets of each point", low=1, high=10**6)
    seed: int = shared.seed()
    out: Path = shared.out(
        "out/learn",
        "report.html, learning.json, the figure, and learning.jsonl for a run that goes on",
    )
    json: Path | None = shared.json_file()


def run(arguments: argparse.Namespace) -> int:
    """Measure, draw and print the curve; returns the exit code."""
    from theory.reports.learning import learning_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies import learning

    started = time.monotonic()
    options = LearnOptions.read(arguments)
    engine = EngineOptions.read(arguments)
    with RunFolder(options.out) as folder:
        curve = learning.learning_curve(
            sorted(set(options.horizons or learning.HORIZONS)),
            sorted(set(options.demonstrations or learning.SIZES)),
            experts=[name for name in learning.EXPERTS if name in options.experts],
            setting=learning.LearningSetting(
                alpha=options.alpha,
                vocab_size=options.vocab,
                window=options.window,
                prompts=options.n_prompts,
                smoothing=options.smoothing,
                seeds=options.seeds,
            ),
            seed=options.seed,
            run=folder,
            engine=engine.chosen(),
        )
        shown = learning_report(curve, {"α": options.alpha, "seed": options.seed})
        numbers = shown.head("learn/1") | {
            "arguments": {"command": "learn"} | options.as_dict(results_only=True),
            "cells": asdict(curve)["cells"],
        }
        shown.save(folder.path)
        write_json(folder.path / "learning.json", numbers)
    seconds = time.monotonic() - started
    last = f"report.html, learning.json and figure in {options.out} ({seconds:.0f} s)"
    return shared.show(shown, last, numbers, options.json)


COMMAND = Command(
    "learn",
    "errors of what n demonstrations teach, against horizon and n",
    (Group(LearnOptions), Group(EngineOptions, ENGINE)),
    run,
    ("endorm learn --demonstrations 100,1000,10000 --out DIR",),
)
