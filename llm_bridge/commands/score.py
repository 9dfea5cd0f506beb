"""The ``endorm score`` command. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, everything was scored; 1, some rows could not be; 2, bad input. Rows that were left
out are listed, and in ``summary.json``, also those that only have nothing to compare.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from llm_bridge.preferences.domains import read_domain_prompts, with_domain_prompts
from llm_bridge.preferences.pairs import FORMATS, Comparison, read_comparisons
from llm_bridge.preferences.records import (
    ENDOGENOUS,
    OTHER_METHODS,
    PLAN,
    RESPONSES,
    columns,
    read_json,
    read_lift,
    read_records,
    read_results,
)
from llm_bridge.preferences.rows import Place, Problem, digests
from llm_bridge.read.aggregate import AggregationOptions
from llm_bridge.read.reading import RewardReading
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, Options, option
from theory.storage.files import ascii_key, digest, write_json
from theory.storage.runs import RunFolder, shards

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM
    from llm_bridge.preferences.run import Plan
    from llm_bridge.preferences.scorers import Scorer
    from theory.reports.report import Section

__all__ = ["COMMAND", "ScoreOptions"]

SHOWN = 10
"""Rows that are listed of those left out."""

CONVERSATION = "conversation"
REPORT = "report"

SCORING = (
    "format",
    "limit",
    "method",
    "tokenizer",
    "batch_tokens",
    "separator",
    "eos",
    "truncate",
    "domain_prompts",
)
"""Options that belong to scoring, not to its report."""


@dataclass(frozen=True)
class ScoreOptions(Options):
    """What is scored, how prompts and responses become tokens, and what is reported."""

    pairs: tuple[str, ...] = option(
        (),
        help="files (JSON, CSV, parquet), folders, or hub:NAME[:SPLIT]",
        words="following",
        metavar="FILE",
        may_be_empty=True,
        default_text="required; with --again those of the run",
    )
    again: bool = option(
        False, help="report the run in --out anew, finished or not; loads no model, scores nothing"
    )
    format: str | None = option(
        None,
        help="of all files",
        choices=tuple(FORMATS),
        default_text="each guessed from its first row",
    )
    limit: int | None = option(None, help="only the first N comparisons of each file", low=1)
    method: str = option(
        ENDOGENOUS,
        help="what scores; all but endogenous are there to hold it against",
        choices=(ENDOGENOUS, *OTHER_METHODS),
    )
    reward_head: Path | None = option(
        None,
        help="linear reward on the hidden states of --model, from endorm train-reward",
        metavar="FILE",
    )
    tokenizer: str | None = option(
        None,
        help="that of --model, where this is the URL of a server: folder, GGUF file or hub id",
        metavar="T",
    )
    batch_tokens: int = option(8192, help="tokens of one pass of the model", low=1)
    out: Path = shared.out("out/score", "responses.jsonl, summary.json and report.html")
    json: Path | None = shared.json_file()
    domain_prompts: str = option(
        "plain",
        help="system prompts of DSP's domains: a set by name (plain, short, sharp, none), or a "
        "JSON file with a text or null for each domain",
        metavar="NAME|FILE",
        group=CONVERSATION,
    )
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
    lift_from: Path | None = option(
        None,
        help="also the lift α log π(y|x,c)/π(y|x) over the same responses in the run of another "
        "folder, made without the system prompt c",
        metavar="DIR",
        group=REPORT,
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
        """A run that is there already says what was scored, and how; the endogenous reward has
        options that other methods do not read.
        """
        if self.again:
            return dict.fromkeys(SCORING, "is not read with {again}: the run says it")
        others = () if self.method == ENDOGENOUS else ("truncate", "eos", "html", "lift_from")
        head = () if self.method == "reward-model" else ("reward_head",)
        return dict.fromkeys((*others, *head), f"is not read by {{method}} {self.method}")

    def check(self) -> None:
        """Refuse a file that is given twice, and none at all."""
        if not self.pairs and not self.again:
            raise OptionError("pairs", "is missing")
        repeated = [name for n, name in enumerate(self.pairs) if name in self.pairs[:n]]
        if repeated:
            raise OptionError("pairs", "is given twice", repeated[0])


class _Task(NamedTuple):
    """What is scored with what."""

    options: ScoreOptions
    sums: AggregationOptions
    model: ModelSpec
    reading: RewardReading
    reference: ModelSpec | None
    format: PromptFormat


def _read_task(arguments: argparse.Namespace) -> _Task:
    options = ScoreOptions.read(arguments)
    sums = AggregationOptions.read(arguments)
    if options.method != ENDOGENOUS:
        reason = f"is not read by --method {options.method}"
        RewardReading.refuse(arguments, reason)
        AggregationOptions.refuse(arguments, reason)
        ModelSpec.refuse(arguments, reason, prefix="reference-")
    model = ModelSpec.read(arguments)
    if model.device_map is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--device-map spreads one process over the GPUs: start one, without torchrun"
        )
    reference = read_second(arguments, "reference-", model, dtype=model.dtype)
    gauge: dict[str, Any] = {"gauge": "logprob"} if model.served else {}
    reading = RewardReading.read(arguments, **gauge)
    _require_tokenizer(options, model)
    given = PromptFormat.read(arguments)
    if given.own_system is not None:
        reason = "and --system or --no-system: give one of them"
        ScoreOptions.refuse(arguments, reason, ("domain_prompts",))
    return _Task(options, sums, model, reading, reference, given)


def _require_tokenizer(options: ScoreOptions, model: ModelSpec) -> None:
    if model.served and options.tokenizer is None:
        raise ValueError(
            f"--model={model.model}: needs --tokenizer, the folder, GGUF file or hub id of the "
            "model that is served"
        )
    if options.tokenizer is not None and not model.served:
        raise ValueError("--tokenizer is read only with --model at a server: a model has its own")


def run(arguments: argparse.Namespace) -> int:
    """Score, write and print; returns 1 if a row could not be scored, else 0."""
    if arguments.again:
        return _again(arguments)
    task = _read_task(arguments)
    options = task.options
    require_packages()
    comparisons, problems = read_comparisons(
        *options.pairs, format=options.format, limit=options.limit
    )
    prompts = read_domain_prompts(options.domain_prompts)
    comparisons = with_domain_prompts(comparisons, prompts)
    import torch

    from llm_bridge.models.processes import workers
    from llm_bridge.preferences import run as scoring
    from theory import __version__

    with workers() as group:
        scorer, lm, facts = _scorer(task)
        given = {name: getattr(options, name) for name in ("format", "limit", "batch_tokens")}
        facts = {"version": __version__} | facts | given | {"pairs": digests(options.pairs)}
        if any(comparison.is_dsp for comparison in comparisons):
            facts["domain_prompts"] = dict(prompts)
        with RunFolder(options.out, facts, lines=[RESPONSES], processes=group) as folder:
            work = scoring.plan(scorer, comparisons, options.batch_tokens, progress=group.first)
            if group.first:
                _write_plan(options, work, [*problems, *work.problems], lm)
            started = time.monotonic()
            try:
                with _forgotten_plan(options.out, first=group.first):
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
            code = _report(options, task.sums, comparisons)
            speed = f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
            print(
                f"{speed if tokens else 'nothing was left to score'}; summary.json and report in "
                f"{options.out}",
                file=shared.text_stream(options.json),
            )
            group.wait()
    return code


def _again(arguments: argparse.Namespace) -> int:
    """Report a run that is there already; returns 1 if a row was not scored, else 0."""
    options = ScoreOptions.read(arguments)
    sums = AggregationOptions.read(arguments)
    reason = "is not read with --again: the run says it"
    for group in (ModelSpec, PromptFormat, RewardReading):
        group.refuse(arguments, reason)
    ModelSpec.refuse(arguments, reason, prefix="reference-")
    noted = read_json(options.out / "run.json")
    if "method" not in noted or "pairs" not in noted:
        raise ValueError(f"--out={options.out}: has no run of endorm score")
    if noted["method"] != ENDOGENOUS:
        reason = f"is not read by --method {noted['method']}, which the run has"
        AggregationOptions.refuse(arguments, reason)
        ScoreOptions.refuse(arguments, reason, ("html", "lift_from"))
    pairs = options.pairs or tuple(noted["pairs"])
    for (name, found), before in zip(digests(pairs).items(), noted["pairs"].values(), strict=False):
        if found != before:
            raise ValueError(f"--pairs={name}: is not the file that was scored")
    if len(pairs) != len(noted["pairs"]):
        raise ValueError(f"--pairs: {len(pairs)} files, and {len(noted['pairs'])} were scored")
    comparisons, _ = read_comparisons(*pairs, format=noted["format"], limit=noted["limit"])
    comparisons = with_domain_prompts(comparisons, noted.get("domain_prompts", {}))
    with RunFolder(options.out):
        return _report(options, sums, comparisons)


@contextmanager
def _forgotten_plan(out: Path, *, first: bool) -> Iterator[None]:
    """Remove the plan if nothing was scored, so that a mistaken option can be corrected."""
    try:
        yield
    finally:
        if first and not shards(out / RESPONSES):
            (out / PLAN).unlink(missing_ok=True)


def _write_plan(
    options: ScoreOptions, work: Plan, problems: Sequence[Problem], lm: CausalLM
) -> None:
    """Note what a report says of rows and model, so that it can be made anew without the model."""
    from llm_bridge.preferences.token_texts import token_bytes
    from theory.reports.environment import environment

    if "reader" in vars(lm):  # an explicit reward model has none
        lm.reader.prepare(max((request.size for request in work.requests), default=0))
    shown = {c.id for c in work.comparisons[: options.html]}
    pieces = [
        [*request.key, [piece.decode("latin-1") for piece in token_bytes(lm.tokenizer, ids)]]
        for request in work.requests
        if options.method == ENDOGENOUS and request.key[0] in shown
        for ids in [request.rows[1].tolist()]
    ]
    write_json(
        options.out / PLAN,
        {
            "left_out": [
                {"place": asdict(one.place), "message": one.message, "fault": one.fault}
                for one in problems
            ],
            "scored": [comparison.id for comparison in work.comparisons],
            "model_findings": model_findings(lm),
            "environment": environment(),
            "pieces": pieces,
        },
    )


def _scorer(task: _Task) -> tuple[Scorer, CausalLM, dict[str, Any]]:
    """Scorer, its model, and what is noted of both."""
    from llm_bridge.preferences import judges, scorers
    from llm_bridge.preferences.reward_head import RewardHead
    from llm_bridge.read.reward import EndogenousReward

    options = task.options
    explicit = options.method == "reward-model" and options.reward_head is None
    lm = formatted(_model(task, explicit), task.format, options.out)
    chat = bool(lm.format.chat)
    if chat and options.separator is not None:
        raise ValueError("--separator is not read in a chat template; add --no-chat")
    separator = {} if options.separator is None else {"separator": options.separator}
    conversation = scorers.Conversation(lm, chat, lm.format.own_system, options.eos, **separator)
    facts: dict[str, Any] = {
        "method": options.method,
        "model": lm.name,
        "weights": _identity(lm),
        "dtype": task.model.dtype,
        "eos": conversation.ends,
        "separator": None if chat else conversation.separator,
    }
    facts |= format_facts(lm)
    if options.reward_head is not None:
        head = RewardHead.load(options.reward_head)
        facts["reward_head"] = digest(options.reward_head)
        return scorers.LinearReward(lm, conversation, head, options.batch_tokens), lm, facts
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
        anchor = _reference(task.reference, lm)
        # of which only log π is read, in either gauge
        reference = EndogenousReward(
            anchor,
            reading=RewardReading(gauge="logprob"),
            batch_tokens=options.batch_tokens,
            end_tokens=(),
        )
        facts |= {"reference": anchor.name, "reference_weights": _identity(anchor)}
        facts |= {"reference_dtype": task.reference.dtype}
    scorer = scorers.Endogenous(reward, conversation, reference, truncate=options.truncate)
    return scorer, lm, facts


def _model(task: _Task, explicit: bool) -> CausalLM:
    """Load the model, or connect to its server."""
    from llm_bridge.models.load import load_tokenizer
    from llm_bridge.models.served import connect

    if not task.model.served:
        return task.model.load(reward_model=explicit)
    options = task.options
    if options.method == "reward-model":
        raise ValueError(
            f"--method reward-model is not read off a server ({task.model.model}); give the "
            "model's folder or hub id"
        )
    assert options.tokenizer is not None  # see _require_tokenizer
    lm = connect(task.model.model, *load_tokenizer(options.tokenizer))
    if options.truncate and lm.context is None:
        raise ValueError(f"--truncate: {task.model.model} does not say how many tokens fit")
    return lm


def _reference(spec: ModelSpec, lm: CausalLM) -> CausalLM:
    """Load the reference, or connect to its server: it reads the token ids of the model."""
    from llm_bridge.models.served import connect

    return connect(spec.model, lm.tokenizer) if spec.served else spec.load()


def _identity(lm: CausalLM) -> str:
    from llm_bridge.models.load import fingerprint
    from llm_bridge.models.served import ServedLM

    return lm.identity if isinstance(lm, ServedLM) else fingerprint(lm)


def _report(
    options: ScoreOptions, sums: AggregationOptions, comparisons: Sequence[Comparison]
) -> int:
    """Write summary, HTML and figures from the files of a run, and print the table.

    Returns:
        1 if a row was not scored, else 0.

    """
    from llm_bridge.preferences import accuracy, page
    from theory.reports.report import WIDTH, Text

    run = read_json(options.out / "run.json")
    planned = read_json(options.out / PLAN)
    scored = set(planned["scored"])
    comparisons = [comparison for comparison in comparisons if comparison.id in scored]
    lift = None if options.lift_from is None else read_lift(options.lift_from, run, comparisons)
    results = read_results(options.out, comparisons, columns(run, sums, lift))
    left_out = [
        Problem(Place(**one["place"]), one["message"], one["fault"]) for one in planned["left_out"]
    ]
    problems = [*left_out, *results.problems]
    _list(problems)
    notes = planned["model_findings"]
    facts = {name: run[name] for name in SHOWN_FACTS if run.get(name) is not None}
    facts["read as"] = "chat template" if run["chat"] else "plain text"
    facts["seed of the bootstrap"] = options.seed
    facts["found of the model"] = notes or "nothing to note"
    made: dict[str, Any] = {"missing": _missing(problems, results.waiting)}
    if "environment" in planned:
        made["environment"] = planned["environment"]
    title = f"{SCORERS.get(run['method'], run['method'])} of {run['model']}"
    summary = {
        "run": run,
        "comparisons": len(results.comparisons),
        "comparisons_cut": results.cut,
        "comparisons_waiting": results.waiting,
        "lift_from": None if options.lift_from is None else str(options.lift_from),
        "left_out": [{"place": str(one.place), "message": one.message} for one in problems],
        "model_findings": notes,
    }
    if not results.comparisons:
        empty = page.score_report(title, facts, {}, **made).head("score/1") | {"exit_code": 2}
        write_json(options.out / "summary.json", empty | summary)
        shared.hand_over(empty | summary, options.json)
        raise ValueError("nothing is scored yet" if results.waiting else "nothing could be scored")
    how = {
        name: getattr(options, name) for name in ("tolerance", "resamples", "seed", "confidence")
    }
    scores = {
        name: accuracy.summary(results.comparisons, values, tokens=results.tokens, **how)
        for name, values in results.scores.items()
    }
    tokens = _token_sections(options, results.comparisons, planned["pieces"])
    report = page.score_report(title, facts, scores, tokens, **made)
    named = {"scores": {ascii_key(name): found for name, found in scores.items()}}
    summary = report.head("score/1") | summary | named
    write_json(options.out / "summary.json", summary)
    report.save(options.out)
    stream = shared.text_stream(options.json)
    print(report.text(verbose=False), file=stream)
    for note in notes:
        print(Text(f"note: {note}").text(WIDTH), file=stream)
    if results.cut:
        cut = f"responses of {results.cut} comparisons were cut to the context of {run['model']}"
        print(Text(cut).text(WIDTH), file=stream)
    if results.waiting:
        waiting = f"{results.waiting} comparisons are not scored yet: start endorm score once more"
        print(waiting, file=stream)
    shared.hand_over(summary, options.json)
    return report.exit_code


SCORERS = {
    ENDOGENOUS: "Endogenous reward",
    "reward-model": "Reward model",
    "verifier": "Verifier",
    "pointwise": "Pointwise judge",
    "pairwise": "Pairwise judge",
}
"""What the title calls each method."""


def _missing(problems: Sequence[Problem], waiting: int) -> str:
    """Say how many rows have no score; those that only have nothing to compare are no fault."""
    faults = sum(bool(problem.fault) for problem in problems)
    parts = []
    if faults:
        parts.append(f"{faults} row{'s' * (faults != 1)} could NOT be scored.")
    if waiting:
        parts.append(f"{waiting} comparisons are NOT scored yet.")
    return " ".join(parts)


def _token_sections(
    options: ScoreOptions, comparisons: Sequence[Comparison], pieces: Sequence[Any]
) -> list[Section]:
    """Return the first comparisons token by token: as many as asked for and noted."""
    from llm_bridge.preferences import page

    noted = {
        (name, role, index): [text.encode("latin-1") for text in texts]
        for name, role, index, texts in pieces
    }
    ids = {key[0] for key in noted}
    shown = [comparison for comparison in comparisons if comparison.id in ids][: options.html]
    if not shown:
        return []
    kept = {comparison.id for comparison in shown}  # a refused response has no numbers
    whole = {key: record for key, record in read_records(options.out) if key[0] in kept}
    return page.token_sections(shown, whole, noted)


SHOWN_FACTS = ("model", "alpha", "gauge", "terminal", "eos", "system", "dtype")


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
            optional=True,
            defaults={"model": "required without --again"},
        ),
        Group(PromptFormat, CONVERSATION),
        Group(RewardReading, "endogenous reward"),
        Group(AggregationOptions, REPORT),
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
    (
        "endorm score --model M --pairs pairs.jsonl --out DIR",
        "endorm score --again --out DIR",
    ),
)
