"""The ``endorm validate`` command: a model's rewards, preferences and values, as they are measured,
against what tables predict. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, every point is where the tables predict; 1, one is off by more than rounding or
chance; 2, bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_bridge.check.points import Point, Sampling
from llm_bridge.commands.options import (
    AS_FIRST,
    HORIZON,
    TreeOptions,
    as_prompts,
    format_facts,
    formatted,
    model_findings,
    read_second,
    read_table,
    require_packages,
)
from llm_bridge.models.prompt_format import Prompt, PromptFormat
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reading import RewardReading
from theory.commands import shared
from theory.commands.options import Command, Group, Options, option

if TYPE_CHECKING:
    from llm_bridge.check.truth import Truth
    from llm_bridge.check.validation import Validation
    from llm_bridge.models.load import CausalLM
    from theory.mdp.token_mdp import TokenMDP
    from theory.reports.report import Report
    from theory.storage.runs import RunFolder

__all__ = ["COMMAND", "ValidateOptions"]

POINTS = "points.jsonl"
N_PROMPTS = 50
SHOWN = 20
"""Points off the diagonal that are listed."""

RESPONSES = ("prompt", "prompts", "limit", "horizon")
"""Options that say which responses there are, where nothing else does."""

DTYPES = ("float32", "float64")
"""In others rounding would hide what is compared."""


@dataclass(frozen=True)
class ValidateOptions(Options):
    """Which responses are compared, and where the report goes."""

    task: Literal["addition", "sorting"] | None = option(
        None, help="prompts made here, their responses judged right or wrong", group="responses"
    )
    n_prompts: int | None = option(
        None, help="prompts of --task", low=1, default_text=str(N_PROMPTS), group="responses"
    )
    scored: int = option(
        1, help="sampled responses to each prompt compared token by token", low=1, group="responses"
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
    out: Path = shared.out("out/validate", "validation.json, report.html and the figure")
    json: Path | None = shared.json_file()

    def unread(self) -> dict[str, str]:
        """Only a task has a number of prompts."""
        return {"n_prompts": "needs {task}"} if self.task is None else {}


class _Subject(NamedTuple):
    """What is validated, and against what.

    Attributes:
        validation: of the model; its tree is read only where something is left to compare.
        facts: what the model and the truth are, and what tells them from others.
        truth: what responses are worth; `None` if nothing says so: rewards alone are compared.
        preference_truth: the same for pairs.

    """

    validation: Validation
    facts: dict[str, Any]
    truth: Truth | None = None
    preference_truth: Truth | None = None


class _Request:
    """The options of a call, read and checked before anything is loaded."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options = ValidateOptions.read(arguments)
        self.reading = RewardReading.read(arguments)
        self.sampling = Sampling.read(arguments)
        self.tree = TreeOptions.read(arguments)
        self.format = PromptFormat.read(arguments)
        self.model: ModelSpec | None = None
        self.table = read_table(
            arguments, (ValidateOptions, ("task",)), (TreeOptions, ("horizon",))
        )
        self.expert: ModelSpec | None = None
        if "model" not in ModelSpec.given(arguments):
            for prefix in ("", "expert-"):
                ModelSpec.refuse(arguments, "needs --model", prefix=prefix)
            TreeOptions.refuse(arguments, "needs --model", RESPONSES)
            PromptFormat.refuse(arguments, "needs --model")
            ValidateOptions.refuse(arguments, "needs --model", ("task", "n_prompts"))
            return
        self.model = ModelSpec.read(arguments)
        if self.table is None:
            self.expert = read_second(arguments, "expert-", self.model, dtype=self.model.dtype)
        for spec, prefix in ((self.model, ""), (self.expert, "expert-")):
            if spec is not None and spec.dtype not in DTYPES:
                raise ValueError(
                    f"--{prefix}dtype={spec.dtype}: must be {' or '.join(DTYPES)}; rounding would "
                    "hide what is compared"
                )
        if self.options.task is not None:
            reason = f"is not read with --task {self.options.task}, which has its own"
            TreeOptions.refuse(arguments, reason, RESPONSES)

    def subject(self) -> _Subject:
        """Load the models, or train one, and find out what responses are worth."""
        if self.model is None:
            return self._trained()
        from llm_bridge.models.load import fingerprint

        lm = formatted(self.model.load(), self.format, self.options.out)
        facts = {"model": lm.name, "read as": str(self.model), "weights": fingerprint(lm)}
        facts |= format_facts(lm)
        if self.table is not None:
            from theory.mdp.token_mdp import TokenMDP
            from theory.storage.files import digest

            mdp = TokenMDP.load(self.table)
            facts |= {"expert": self.table.name, "expert file": digest(self.table)}
            return self._of_mdp(lm, as_prompts(lm, self.tree.texts()), mdp, facts)
        truth = preference_truth = None
        if self.options.task is None:
            prompts: Sequence[Prompt] = as_prompts(lm, self.tree.texts())
            horizon = self.tree.horizon or HORIZON
        else:
            from llm_bridge.check.truth import task_truth
            from llm_bridge.tasks.generated import addition, sorting

            make = addition if self.options.task == "addition" else sorting
            task = make(self.options.n_prompts or N_PROMPTS)
            task = replace(task, prompts=tuple(as_prompts(lm, task.prompts)))
            truth = preference_truth = task_truth(lm, task)
            prompts = task.prompts
            horizon = truth.mdp.horizon
        if self.expert is not None:
            from llm_bridge.check.truth import model_truth
            from llm_bridge.models.load import require_same_vocabulary

            expert = self.expert.load()
            require_same_vocabulary(lm, expert)
            expert = expert.read_as(lm)
            preference_truth = model_truth(expert, prompts, horizon, self.reading.alpha)
            truth = truth or preference_truth
            facts |= {"expert": expert.name, "expert read as": str(self.expert)}
            facts |= {"expert weights": fingerprint(expert)}
        return _Subject(self._validation(lm, prompts, horizon), facts, truth, preference_truth)

    def _validation(
        self, lm: CausalLM, prompts: Sequence[Prompt], horizon: int, end_tokens: Sequence[int] = ()
    ) -> Validation:
        from llm_bridge.check.validation import Validation

        return Validation(
            lm,
            prompts,
            horizon,
            reading=self.reading,
            sampling=self.sampling,
            end_tokens=end_tokens,
        )

    def _of_mdp(
        self, lm: CausalLM, prompts: Sequence[Prompt], mdp: TokenMDP, facts: dict[str, Any]
    ) -> _Subject:
        """Take a token MDP as the truth; the model's other tokens end a response."""
        from llm_bridge.check.truth import mdp_truth

        truth = mdp_truth(lm, prompts, mdp, self.reading.alpha)
        ends = range(mdp.vocab_size, lm.vocab_size)
        return _Subject(self._validation(lm, prompts, mdp.horizon, ends), facts, truth, truth)

    def _trained(self) -> _Subject:
        """Train a model for a moment on demonstrations of a random token MDP's expert."""
        from llm_bridge.models.cloned import train_on_demonstrations
        from theory.mdp.token_mdp import TokenMDP
        from theory.solve.soft import soft_optimal

        V = 4
        H = HORIZON
        prompts = ("A", "B")
        demonstrations = 3000
        steps = 200
        mdp = TokenMDP.random(V, H, n_prompts=len(prompts), seed=self.sampling.seed)
        expert = soft_optimal(mdp, self.reading.alpha).policy
        lm = train_on_demonstrations(
            expert,
            n_demonstrations=demonstrations,
            steps=steps,
            hidden=32,
            heads=2,
            seed=self.sampling.seed,
        )
        facts = {
            "model": lm.name,
            "expert": f"random token MDP, V={V}, H={H}",
            "demonstrations": demonstrations,
            "training steps": steps,
        }
        return self._of_mdp(lm, prompts, mdp, facts)


def _points(request: _Request, subject: _Subject, folder: RunFolder) -> list[Point]:
    """Compare stage by stage what the folder does not have yet, each in one piece."""
    options = request.options
    validation = subject.validation
    stages = {"rewards": partial(validation.rewards, options.scored)}
    if subject.truth is not None:
        stages["values"] = partial(validation.values, subject.truth)
    if subject.preference_truth is not None:
        for share in options.expert_share:
            stages[f"preferences {share}"] = partial(
                validation.preferences,
                subject.preference_truth,
                expert_share=share,
                first=options.pair_prompts,
            )
    lines = folder.lines(POINTS, _stage)
    notes = validation.lm.text_notes
    done = {}
    for name, points, noted in lines:
        done[name] = points
        notes.restore(noted)
    for name, compare in stages.items():
        if name not in done:
            done[name] = compare()
            row = {"stage": name, "points": [p._asdict() for p in done[name]]}
            lines.append(row | {"notes": notes.as_dict()})
    return [point for name in stages for point in done[name]]


def _stage(row: dict[str, Any]) -> tuple[str, list[Point], dict[str, Any]]:
    """Name and points of a stage, and what was noted of texts up to its end."""
    from theory.storage.files import number

    points = [{name: number(value) for name, value in one.items()} for one in row["points"]]
    return row["stage"], [Point(**one) for one in points], dict(row["notes"])


def run(arguments: argparse.Namespace) -> int:
    """Compare, write and print; returns 1 if a point is off the diagonal, else 0."""
    from llm_bridge.check.points import deviations, off_the_diagonal
    from theory import __version__
    from theory.storage.files import ascii_key, write_json
    from theory.storage.runs import RunFolder

    started = time.monotonic()
    request = _Request(arguments)
    require_packages()
    subject = request.subject()
    validation = subject.validation
    prompts = hashlib.sha256(repr(list(validation.prompts)).encode()).hexdigest()
    identity = {"version": __version__, "kind": "validate"} | subject.facts
    for part in (request.options, request.reading, request.sampling):
        identity |= part.as_dict(results_only=True)
    identity |= {"horizon": validation.horizon, "prompts": prompts}
    with RunFolder(request.options.out, identity, lines=[POINTS]) as folder:
        points = _points(request, subject, folder)
        off = off_the_diagonal(points)
        report = _report(request, subject, points, off)
        report.save(folder.path)
        found = report.head("validate/1") | {
            "run": identity,
            "holds": not off,
            "quantities": {ascii_key(q): d._asdict() for q, d in deviations(points).items()},
            "off": [p._asdict() for p in off],
            "model_findings": model_findings(validation.lm),
            "points": [p._asdict() for p in points],
        }
        write_json(folder.path / "validation.json", found)  # last: whoever waits for it finds all
    seconds = time.monotonic() - started
    last = f"validation.json and report.html in {request.options.out} ({seconds:.0f} s)"
    return shared.show(report, last, found, request.options.json)


def _report(
    request: _Request, subject: _Subject, points: Sequence[Point], off: Sequence[Point]
) -> Report:
    from llm_bridge.check.diagonal import diagonal_figure
    from llm_bridge.check.points import deviations
    from theory.reports.report import Column, Plot, Report, Table

    validation = subject.validation
    name = subject.validation.lm.name
    summary = [
        f"{len(off)} of {len(points):,} points are OFF the diagonal by more than rounding or "
        "chance explains."
        if off
        else f"All {len(points):,} points are where the tables predict, within rounding or chance."
        if points
        else "Nothing was compared: there are no points."
    ]
    if subject.truth is None:
        summary.append("Nothing says what responses are worth (--task, --expert): rewards alone.")
    facts = {name: x for name, x in subject.facts.items() if x is not None}
    facts.pop("chat_template", None)  # as long as a page
    facts |= {"prompts": len(validation.prompts), "horizon": validation.horizon}
    facts |= request.reading.as_dict() | request.sampling.as_dict()
    facts |= {"found of the model": model_findings(validation.lm) or "nothing to note"}
    rows: list[Any] = [(quantity, *d) for quantity, d in deviations(points).items()]
    columns = [
        Column("quantity"),
        Column("points", ",", "right"),
        Column("in the interval", ".1%", "right"),
        Column("largest deviation", ".2f", "right"),
        Column("largest gap", ".1e", "right"),
    ]
    note = (
        "Each point has an interval of its own, of 95 % where it is sampled: one in twenty is "
        "outside by chance. A deviation is its distance from the prediction over that side of the "
        "interval. What counts against the tables is what chance explains once in 10,000 times, or "
        "rounding does not."
    )
    sections: list[Any] = [Table("Predicted and measured", columns, rows, note)]
    if off:
        columns = [Column("quantity"), Column("of")]
        columns += [Column(x, ".5g", "right") for x in ("predicted", "measured", "deviation")]
        worst = sorted(off, key=lambda point: -point.deviation)[:SHOWN]
        rows = [(p.quantity, p.label, p.predicted, p.measured, p.deviation) for p in worst]
        sections.append(Table("Off the diagonal", columns, rows, tones=["bad"] * len(rows)))
    caption = "Below: how far points are off the diagonal; grey is inside the interval."
    alt = "Predicted against measured rewards, probabilities and values, beside the diagonal."
    sections.append(Plot("predicted_measured", diagonal_figure({name: points}), alt, caption))
    passed = bool(points) and not off
    return Report(f"{name} against its tables", summary, facts, sections, passed)


MODELS = "models (without --model, one is trained here; --expert may be a token MDP, FILE.npz)"

COMMAND = Command(
    "validate",
    "a model's measured rewards, preferences and values against what tables predict",
    (
        Group(ModelSpec, MODELS, without=("temperature",), optional=True),
        Group(
            ModelSpec,
            MODELS,
            prefix="expert-",
            without=("temperature",),
            optional=True,
            defaults=AS_FIRST | {"dtype": "that of --dtype"},
        ),
        Group(RewardReading, "reward"),
        Group(ValidateOptions),
        Group(TreeOptions, without=("tokens", "alpha", "memory")),
        Group(PromptFormat, "prompts"),
        Group(Sampling, "sampling"),
    ),
    run,
    (
        "endorm validate --model M --task addition --out DIR",
        "endorm validate --out DIR",
    ),
)
