"""The ``endorm train-reward`` command: a reward model to hold the endogenous reward against.

Exit codes: 0, everything was read; 1, some rows could not be; 2, bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_bridge.commands.options import (
    format_facts,
    formatted,
    model_findings,
    require_packages,
)
from llm_bridge.models.prompt_format import PromptFormat
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.pairs import FORMATS, Comparison, Key, read_comparisons
from llm_bridge.preferences.rows import Problem, digests
from theory.arrays.memory import usable_memory
from theory.commands import shared
from theory.commands.options import Command, Group, Options, option
from theory.storage.files import read_arrays, replacing, write_json
from theory.storage.runs import RunFolder

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM
    from llm_bridge.preferences.scorers import Request
    from theory.reports.report import Report

__all__ = ["COMMAND", "TrainRewardOptions"]

FEATURES = "features.npz"
HEAD = "head.npz"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class TrainRewardOptions(Options):
    """What a reward is trained on, and how it is judged."""

    pairs: tuple[str, ...] = option(
        help="files (JSON, CSV, parquet), folders, or hub:NAME[:SPLIT]",
        words="following",
        metavar="FILE",
    )
    format: str | None = option(
        None,
        help="of all files",
        choices=tuple(FORMATS),
        default_text="each guessed from its first row",
    )
    limit: int | None = option(None, help="only the first N comparisons of each file", low=1)
    train_share: float = option(
        0.5, help="share of the prompts to train on; the others are held out", above=0, below=1
    )
    folds: int = option(5, help="folds of the cross-validation of the L2 penalty", low=2)
    bins: int = option(10, help="bins of the reliability", low=1)
    batch_tokens: int = option(8192, help="tokens of one pass of the model", low=1)
    out: Path = shared.out("out/reward", f"report.html, {FEATURES}, {HEAD} and {CALIBRATION}")
    json: Path | None = shared.json_file()
    resamples: int = option(2000, help="resamples of the bootstrap", low=1)
    confidence: float = shared.confidence()
    seed: int = shared.seed(help="of the split and of the bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Read features, fit, judge and print; returns 1 if a row could not be read, else 0."""
    options = TrainRewardOptions.read(arguments)
    spec = ModelSpec.read(arguments)
    given = PromptFormat.read(arguments)
    require_packages()
    comparisons, problems = read_comparisons(
        *options.pairs, format=options.format, limit=options.limit
    )
    from llm_bridge.models.load import fingerprint
    from llm_bridge.preferences import reward_head
    from llm_bridge.preferences.scorers import Conversation, RewardModel
    from theory import __version__

    lm = formatted(spec.load(), given, options.out)
    conversation = Conversation(lm, bool(lm.format.chat), lm.format.own_system)
    model = fingerprint(lm)
    facts: dict[str, Any] = {"version": __version__, "model": lm.name, "weights": model}
    facts |= {"dtype": spec.dtype} | format_facts(lm)
    facts |= {"format": options.format, "limit": options.limit}
    facts["pairs"] = digests(options.pairs)
    with RunFolder(options.out, {"command": "train-reward"} | facts) as folder:
        scorer = RewardModel(lm, conversation)
        kept = []
        requests = []
        for comparison in comparisons:
            try:
                requests += scorer.requests(comparison)
                kept.append(comparison)
            except ValueError as error:
                problems.append(Problem(comparison.place, str(error)))
        for problem in problems:
            print(f"left out: {problem}", file=sys.stderr)
        if not kept:
            raise ValueError("nothing could be read")
        features = _features(folder.path / FEATURES, lm, requests, options.batch_tokens)
        train, held = reward_head.split(kept, options.train_share, options.seed)
        theta, chosen = reward_head.fit_head(
            reward_head.Pairs.of(train, features), folds=options.folds
        )
        head = reward_head.RewardHead(theta, model)
        how = {name: getattr(options, name) for name in ("bins", "resamples", "seed", "confidence")}
        found = {
            "run": facts,
            "train_share": options.train_share,
            "seed": options.seed,
            "cross_validation": chosen,
            "train": [comparison.id for comparison in train],
            "held_out": [comparison.id for comparison in held],
            "left_out": [str(problem) for problem in problems],
            "model_findings": model_findings(lm),
            "calibration": reward_head.held_out(held, head, features, **how),
        }
        head.save(folder.path / HEAD)
        faults = sum(bool(problem.fault) for problem in problems)
        report = _report(lm.name, found, train, held, faults)
        report.save(folder.path)
        found = report.head("train-reward/1") | found
        write_json(folder.path / CALIBRATION, found)
    last = f"report.html, {HEAD} and {CALIBRATION} in {options.out}"
    return shared.show(report, last, found, options.json)


def _features(
    path: Path, lm: CausalLM, requests: Sequence[Request], batch_tokens: int
) -> Mapping[Key, np.ndarray]:
    """Return the features of each response, from the folder if they were read before."""
    from llm_bridge.preferences.scorers import last_states

    if path.exists():
        found = read_arrays(path, "endorm train-reward", "features", usable_memory())["features"]
    else:
        rows = [request.rows[0] for request in requests]
        found = last_states(lm, rows, batch_tokens, progress=True).astype(np.float32)
        with replacing(path) as file:
            np.savez(file, features=found)
    if len(found) != len(requests):
        raise ValueError(f"{path}: has {len(found)} rows, not {len(requests)}: remove it")
    return {request.key: row for request, row in zip(requests, found.astype(float), strict=True)}


def _report(
    name: str,
    found: Mapping[str, Any],
    train: Sequence[Comparison],
    held: Sequence[Comparison],
    faults: int,
) -> Report:
    from theory.reports.report import Column, Report, Table

    judged = found["calibration"]
    shown = "{value:.3f} [{low:.3f}, {high:.3f}]"
    chance = {"accuracy": "0.500", "log_loss": "0.693", "brier": "0.250"}
    nulls = judged["pairwise"]["nulls"]
    shorter = nulls["shorter (characters)"]["accuracy"]
    names = {"accuracy": "accuracy", "log_loss": "log loss", "brier": "Brier score"}
    rows = [(names[key], shown.format(**judged[key]), coin) for key, coin in chance.items()]
    rows.append(("accuracy of the shorter response", shown.format(**shorter), "0.500"))
    bins = [
        (
            f"{one['from']:.2f}–{one['to']:.2f}",
            one["pairs"],
            one["confidence"],
            shown.format(**one["accuracy"]),
        )
        for one in judged["reliability"]
    ]
    columns = [
        Column("confidence"),
        Column("pairs", align="right"),
        Column("mean", ".3f"),
        Column("right"),
    ]
    facts = {
        "trained on": f"{len(train)} comparisons",
        "held out": f"{len(held)} comparisons",
        "L2 penalty": f"{found['cross_validation']['penalty']:g}",
    }
    table = Table("Held out", [Column("figure"), Column("value"), Column("a coin")], rows)
    note = "Pairs by the confidence that the reward gives them: right as often, if calibrated."
    reliability = Table("Reliability", columns, bins, note)
    facts |= {
        "seed": found["seed"],
        "found of the model": found["model_findings"] or "nothing to note",
    }
    right = shown.format(**judged["accuracy"])
    sentence = f"On prompts held out it is right on {right} of pairs; a coin on 0.500, the shorter "
    sentence += f"response on {shown.format(**shorter)}."
    if faults:
        sentence = f"{faults} row{'s' * (faults != 1)} could NOT be read. {sentence}"
    passed = False if faults else None
    return Report(f"A reward on {name}", [sentence], facts, [table, reliability], passed)


COMMAND = Command(
    "train-reward",
    "a Bradley–Terry reward on a frozen model's hidden states, and its calibration",
    (
        Group(TrainRewardOptions),
        Group(ModelSpec, "model", without=("temperature",)),
        Group(PromptFormat, "conversation"),
    ),
    run,
    ("endorm train-reward --model M --pairs pairs.jsonl --out DIR",),
)
