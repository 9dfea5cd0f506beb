"""The ``endorm validate`` command: a model's rewards, preferences and values, measured, against
what tables predict. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, every point is where the tables predict; 1, one is off by more than rounding or
chance; 2, bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reading import RewardReading
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, Options, option

if TYPE_CHECKING:
    from llm_bridge.check.points import Point
    from llm_bridge.check.truth import Truth
    from llm_bridge.check.validation import Validation
    from llm_bridge.models.load import CausalLM
    from theory.reports.report import Report
    from theory.storage.runs import RunFolder

__all__ = ["COMMAND", "Sampling", "ValidateOptions"]

POINTS = "points.jsonl"
TABLE = ".npz"
"""Suffix of an ``--expert`` that is a token MDP and not a model."""


@dataclass(frozen=True)
class ValidateOptions(Options):
    """Which responses are compared, and against which truth."""

    tasks: Literal["addition", "sorting"] | None = option(
        None, help="prompts made here, judged right or wrong", group="responses"
    )
    n_prompts: int | None = option(
        None, help="prompts of --tasks", low=1, default_text="50", group="responses"
    )
    prompt: tuple[str, ...] = option(
        (), help="a prompt; repeat for more", words="repeated", group="responses"
    )
    prompts: Path | None = option(
        None,
        help="a prompt a line, or JSON lines with a 'prompt'",
        metavar="FILE",
        group="responses",
    )
    horizon: int | None = option(
        None,
        help="tokens of a response",
        low=1,
        metavar="H",
        default_text="those of the answers or of the token MDP, else 4",
        group="responses",
    )
    scored: int = option(
        1, help="sampled responses to each prompt scored token by token", low=1, group="responses"
    )
    pair_prompts: int = option(
        6, help="prompts whose pairs of responses are compared", low=1, group="responses"
    )
    expert_share: tuple[float, ...] = option(
        (0.0, 0.5),
        help="shares of the expert's responses in pairs; the others are uniform",
        low=0,
        high=1,
        group="responses",
    )
    out: Path = shared.out("out/validate", "validation.json, report and figure")

    def check(self) -> None:
        """Refuse several sources of prompts."""
        sources = {"tasks": self.tasks, "prompt": self.prompt, "prompts": self.prompts}
        given = [name for name, value in sources.items() if value]
        if len(given) > 1:
            raise OptionError(given[1], f"and {{{given[0]}}}: give one of them")

    def unread(self) -> dict[str, str]:
        """Prompts of a file are all of them, and answers have their own length."""
        if self.tasks is None:
            return {"n_prompts": "needs {tasks}"}
        return {"horizon": "is not read with {tasks}, whose answers have their own length"}


class Subject(NamedTuple):
    """What is validated, and against what.

    Attributes:
        lm: the model.
        prompts: texts.
        horizon: tokens of a response.
        truth: what responses are worth; `None` if nothing says so, and rewards alone are compared.
        preference_truth: the same for pairs.
        end_tokens: ids after which a response is over.
        identity: what tells the model and the truth from others, as JSON values.

    """

    lm: CausalLM
    prompts: tuple[str, ...]
    horizon: int
    truth: Truth | None
    preference_truth: Truth | None
    end_tokens: tuple[int, ...]
    identity: dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Compare, report, and return the exit code."""
    from llm_bridge.check.points import off_the_diagonal
    from llm_bridge.check.validation import Sampling
    from theory import __version__
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    started = time.monotonic()
    options = ValidateOptions.read(arguments)
    reading = RewardReading.read(arguments)
    sampling = Sampling.read(arguments)
    subject = _subject(arguments, options, reading, sampling.seed)
    settings = options.as_dict(results_only=True) | reading.as_dict() | sampling.as_dict()
    identity = {"version": __version__, "kind": "validate"} | subject.identity | settings
    with RunFolder(options.out, identity, lines=[POINTS]) as folder:
        points = _points(folder, subject, options, reading, sampling)
        off = off_the_diagonal(points, sampling.confidence)
        report = _report(subject, settings, points, off)
        report.save(options.out)
        found = {"run": identity, "holds": not off, "quantities": _quantities(points)}
        found |= {name: [p._asdict() for p in some] for name, some in _named(points, off)}
        write_json(options.out / "validation.json", found)  # last: whoever waits for it finds all
    print(report.text())
    print(f"\nvalidation.json, report and figure in {options.out} ({_seconds(started)} s)")
    return 1 if off else 0
