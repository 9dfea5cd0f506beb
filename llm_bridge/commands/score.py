"""The ``endorm score`` command. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, everything was scored; 1, some rows could not be; 2, bad input. Rows that were left
out are listed, and in ``summary.json``, also those that only have nothing to compare.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_bridge.commands.options import (
    AS_FIRST,
    format_facts,
    formatted,
    model_findings,
    read_second,
    require_packages,
)
from llm_bridge.models.prompt_format import PromptFormat
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.pairs import FORMATS, read_comparisons
from llm_bridge.preferences.rows import HUB, Problem
from llm_bridge.read.reading import RewardReading
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, Options, option

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM
    from llm_bridge.preferences.run import Results
    from llm_bridge.preferences.scorers import Scorer

__all__ = ["COMMAND", "ScoreOptions"]

SHOWN = 10
"""Rows that are listed of those left out."""

CONVERSATION, REPORT = "conversation", "report"


@dataclass(frozen=True)
class ScoreOptions(Options):
    """What is scored, how prompts and responses become tokens, and what is reported."""

    pairs: tuple[str, ...] = option(
        help="files, or hub:NAME[:SPLIT]", words="following", metavar="FILE"
    )
    format: str | None = option(
        None,
        help="of all files",
        choices=tuple(FORMATS),
        default_text="each guessed from its first row",
    )
    limit: int | None = option(None, help="only the first N comparisons of each file", low=1)
    method: Literal["endogenous", "verifier", "pointwise", "pairwise", "reward-model"] = option(
        "endogenous", help="what scores; all but endogenous are there to hold it against"
    )
    batch_tokens: int = option(8192, help="tokens of one pass of the model", low=1)
    out: Path = shared.out("out/score", "responses.jsonl, summary.json and report.html")
    separator: str | None = option(
        None,
        help="between system, prompt and response in plain text",
        default_text="a blank line",
        group=CONVERSATION,
    )
    eos: bool | None = option(
        None,
        help="reward the token that ends a response",
        default_text="in a chat template, not in plain text",
        group=CONVERSATION,
    )
    truncate: bool = option(
        False,
        help="cut responses to the context instead of leaving them out",
        group=CONVERSATION,
    )
    html: int = option(20, help="comparisons shown token by token", low=0, group=REPORT)
    tolerance: float = option(
        0.1,
        help="difference of matched lengths, as a share of the longer one",
        low=0,
        group=REPORT,
    )
    resamples: int = option(2000, help="resamples of the bootstrap", low=1, group=REPORT)
    confidence: float = shared.confidence(group=REPORT)
    seed: int = shared.seed(help="of the bootstrap", group=REPORT)

    def unread(self) -> dict[str, str]:
        """The endogenous reward has options that other methods do not read."""
        if self.method == "endogenous":
            return {}
        return dict.fromkeys(
            ("truncate", "eos", "html"), f"is not read by {{method}} {self.method}"
        )

    def check(self) -> None:
        """Refuse a file that is given twice."""
        repeated = [name for n, name in enumerate(self.pairs) if name in self.pairs[:n]]
        if repeated:
            raise OptionError("pairs", "is given twice", repeated[0])


class _Task(NamedTuple):
    """What is scored with what."""

    options: ScoreOptions
    model: ModelSpec
    reading: RewardReading
    reference: ModelSpec | None
    format: PromptFormat


def _read_task(arguments: argparse.Namespace) -> _Task:
    options = ScoreOptions.read(arguments)
    if options.method != "endogenous":
        reason = f"is not read by --method {options.method}"
        RewardReading.refuse(arguments, reason)
        ModelSpec.refuse(arguments, reason, prefix="reference-")
    model = ModelSpec.read(arguments)
    if model.device_map is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--device-map spreads one process over the GPUs: start one, without torchrun"
        )
    reference = read_second(arguments, "reference-", model, dtype=model.dtype)
    reading, given = RewardReading.read(arguments), PromptFormat.read(arguments)
    return _Task(options, model, reading, reference, given)


def run(arguments: argparse.Namespace) -> int:
    """Score, write and print; returns 1 if a row could not be scored, else 0."""
    from theory import __version__

    task = _read_task(arguments)
    options = task.options
    require_packages()
    comparisons, problems = read_comparisons(
        *options.pairs, format=options.format, limit=options.limit
    )
    import torch

    from llm_bridge.models.processes import workers
    from llm_bridge.preferences import run as scoring
    from theory.storage.runs import RunFolder

    with workers() as group:
        scorer, lm, facts = _scorer(task)
        files = {
            name: None if name.startswith(HUB) else scoring.digest(Path(name))
            for name in options.pairs
        }
        given = {name: getattr(options, name) for name in ("format", "limit", "batch_tokens")}
        facts = {"version": __version__} | facts | given | {"pairs": files}
        with RunFolder(options.out, facts, lines=[scoring.RESPONSES], processes=group) as folder:
            work = scoring.plan(scorer, comparisons, options.batch_tokens, progress=group.first)
            started = time.monotonic()
            try:
                tokens = scoring.run(scorer, work, folder)
            except torch.OutOfMemoryError:
                raise ValueError(
                    f"--batch-tokens={options.batch_tokens}: out of memory; give fewer, and "
                    "another --out"
                ) from None
            seconds = time.monotonic() - started
            if not group.first:
                group.wait()  # a launcher stops all when one of them ends with a code
                return 0
            results = scoring.results(options.out, work)
            problems += results.problems
            _list(problems)
            _report(options, scorer, lm, facts, results, problems)
            speed = f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
            print(
                f"{speed if tokens else 'nothing was left to score'}; summary.json and report in "
                f"{options.out}"
            )
            group.wait()
    return 1 if any(problem.fault for problem in problems) else 0


def _scorer(task: _Task) -> tuple[Scorer, CausalLM, dict[str, Any]]:
    """Scorer, its model, and what is noted of both."""
    from llm_bridge.models.load import fingerprint
    from llm_bridge.preferences import judges, scorers
    from llm_bridge.read.reward import EndogenousReward

    options = task.options
    explicit = options.method == "reward-model"
    lm = formatted(task.model.load(reward_model=explicit), task.format, options.out)
    chat = bool(lm.format.chat)
    if chat and options.separator is not None:
        raise ValueError("--separator is not read in a chat template; add --no-chat")
    separator = {} if options.separator is None else {"separator": options.separator}
    conversation = scorers.Conversation(lm, chat, lm.format.own_system, options.eos, **separator)
    facts: dict[str, Any] = {
        "method": options.method,
        "model": lm.name,
        "weights": fingerprint(lm),
        "dtype": task.model.dtype,
        "eos": conversation.ends,
        "separator": None if chat else conversation.separator,
    }
    facts |= format_facts(lm)
    if options.method == "reward-model":
        return scorers.RewardModel(lm, conversation), lm, facts
    reward = EndogenousReward(lm, reading=task.reading, batch_tokens=options.batch_tokens)
    methods: dict[str, Any] = {
        "verifier": judges.GenerativeVerifier,
        "pointwise": judges.Pointwise,
        "pairwise": judges.Pairwise,
    }
    if options.method in methods:
        return methods[options.method](reward, conversation), lm, facts
    facts |= task.reading.as_dict() | {"truncate": options.truncate}
    reference = None
    if task.reference is not None:
        anchor = task.reference.load()
        reference = EndogenousReward(anchor, batch_tokens=options.batch_tokens, end_tokens=())
        facts |= {"reference": anchor.name, "reference_weights": fingerprint(anchor)}
        facts |= {"reference_dtype": task.reference.dtype}
    scorer = scorers.Endogenous(reward, conversation, reference, truncate=options.truncate)
    return scorer, lm, facts


def _report(
    options: ScoreOptions,
    scorer: Scorer,
    lm: CausalLM,
    run: dict[str, Any],
    results: Results,
    problems: list[Problem],
) -> None:
    """Write summary, HTML and domain matrix, and print the table."""
    from llm_bridge.preferences import accuracy, page
    from llm_bridge.preferences import run as scoring
    from theory.reports.report import Text
    from theory.storage.files import write_json

    left_out = [{"place": str(problem.place), "message": problem.message} for problem in problems]
    cut = {key[0] for key, record in results.records.items() if record.get("cut")}
    summary = {
        "run": run,
        "comparisons": len(results.comparisons),
        "comparisons_cut": len(cut),
        "left_out": left_out,
        "model_findings": model_findings(lm),
    }
    write_json(options.out / "summary.json", summary)
    if not results.comparisons:
        raise ValueError("nothing could be scored")
    keys, records = list(results.records), list(results.records.values())
    how = {
        name: getattr(options, name) for name in ("tolerance", "resamples", "seed", "confidence")
    }
    # lengths are those of the whole responses, not of what was left of them
    lengths = {
        key: r["tokens"] + r.get("cut", 0) for key, r in results.records.items() if "tokens" in r
    } or None
    scores = {
        name: accuracy.summary(
            results.comparisons, dict(zip(keys, values, strict=True)), tokens=lengths, **how
        )
        for name, values in scorer.columns(records).items()
    }
    write_json(options.out / "summary.json", summary | {"scores": scores})
    facts = {name: run[name] for name in SHOWN_FACTS if run.get(name) is not None}
    (options.out / "report.html").unlink(missing_ok=True)
    tokens: list[Any] = []
    if options.html and options.method == "endogenous":
        shown = results.comparisons[: options.html]
        ids = {comparison.id for comparison in shown}
        whole = {
            key: r
            for key, r in scoring.read_records(options.out / scoring.RESPONSES)
            if key[0] in ids
        }
        tokens = page.token_sections(shown, whole, lm.tokenizer)
    report = page.score_report(f"Endogenous reward of {lm.name}", facts, scores, tokens)
    (report.save if tokens else report.save_figures)(options.out)
    text = f"{lm.name}, {options.method}, {'chat template' if run['chat'] else 'plain text'}"
    print(Text(text).text(100))  # a name may have control characters
    print(page.accuracy_table(scores).text(100))
    for note in model_findings(lm):
        print(Text(f"note: {note}").text(100))
    if cut:
        print(f"responses of {len(cut)} comparisons were cut to the context of {lm.name}")


SHOWN_FACTS = ("model", "alpha", "gauge", "terminal", "chat", "eos", "system", "dtype")


def _list(problems: list[Problem]) -> None:
    if problems:
        print(f"{len(problems)} left out:", file=sys.stderr)
        for problem in problems[:SHOWN]:
            print(f"  {problem}", file=sys.stderr)
        if len(problems) > SHOWN:
            print(f"  … and {len(problems) - SHOWN} more, in summary.json", file=sys.stderr)


COMMAND = Command(
    "score",
    "endogenous rewards of a model's responses, and how often they are right",
    (
        Group(ScoreOptions),
        Group(
            ModelSpec,
            "model (several processes: torchrun --no-python --nproc-per-node N endorm score …)",
            without=("temperature",),
        ),
        Group(PromptFormat, CONVERSATION),
        Group(RewardReading, "endogenous reward"),
        Group(
            ModelSpec,
            "reference: also α log π/π_ref against this model",
            prefix="reference-",
            without=("temperature",),
            optional=True,
            defaults=AS_FIRST | {"dtype": "that of --dtype"},
        ),
    ),
    run,
)
