"""The ``endorm verify`` command: every statement, on token MDPs and on a language model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_bridge.commands.options import (
    EXPERT,
    HORIZON,
    WholeTreeOptions,
    as_prompts,
    formatted,
    model_findings,
    read_pair,
    require_packages,
)
from llm_bridge.models.prompt_format import PromptFormat
from llm_bridge.models.spec import ModelSpec
from theory.commands import shared
from theory.commands.engine import ENGINE, EngineOptions
from theory.commands.options import Command, Group, Options, option

__all__ = ["COMMAND", "VerifyOptions"]


INSTANCES = 256
"""Random MDPs of each kind, where no model is given."""


@dataclass(frozen=True)
class VerifyOptions(Options):
    """What is checked, on how many MDPs, and where the report goes."""

    instances: int | None = option(
        None,
        help="random MDPs of each kind",
        low=1,
        default_text="256; with --model none, that model alone is checked",
    )
    statements: tuple[str, ...] = option(
        (),
        help="only these: names, or Python files of your own statements",
        words="following",
        metavar="NAME",
        default_text="all",
    )
    seed: int = shared.seed()
    literature: bool = option(False, help="decide the claims of other papers instead")
    out: Path = shared.out("out/verify", "report.html, report.json and the figures")
    json: Path | None = shared.json_file()
    verbose: bool = shared.verbose()

    def unread(self) -> dict[str, str]:
        """The literature's claims have statements and trees of their own."""
        names = ("instances", "statements") if self.literature else ()
        return dict.fromkeys(names, "has no use with {literature}")


def run(arguments: argparse.Namespace) -> int:
    """Check, write and print; returns 1 if a statement is violated or nothing was checked, else
    0.
    """
    from theory.reports.verify import verify_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies import groups as verify
    from theory.studies import sweep

    started = time.monotonic()
    options = VerifyOptions.read(arguments)
    engine = EngineOptions.read(arguments)
    if options.literature:
        _refuse_models(arguments, "has no use with --literature")
        EngineOptions.refuse(arguments, "has no use with --literature")
        return _literature(options)
    noted = {"command": "verify"} | options.as_dict(results_only=True)
    if options.statements:  # a name can be misspelt: said before anything is computed
        _restricted([], options.statements)
    # first: its input can be wrong, and then nothing is written
    groups, note = _model_groups(arguments, noted)
    everywhere = options.instances is not None or "model" not in ModelSpec.given(arguments)
    if everywhere:
        n = options.instances or INSTANCES
        groups = [*verify.exact_groups(options.seed, n_instances=n), *groups]
    if options.statements:
        groups = _restricted(groups, options.statements)
    with RunFolder(options.out) as folder:
        findings = verify.run(groups, engine.chosen(), folder)
        curves = everywhere and not options.statements
        horizon = sweep.horizon_curve() if curves else None
        preference = sweep.preference_curve() if curves else None
        notes = [note for group in groups for note in group.facts.get("model_findings", ())]
        facts = {"seed": options.seed, "found of the model": notes or "nothing to note"}
        shown = verify_report(groups, findings, horizon, preference, note, facts)
        report = shown.head("verify/1") | {
            "arguments": noted,
            "groups": [_noted(group, findings) for group in groups],
            "curves": {
                "horizon": None if horizon is None else horizon.as_dict(),
                "preference": None if preference is None else asdict(preference),
            },
        }
        shown.save(folder.path)
        write_json(folder.path / "report.json", report)  # last: whoever waits for it finds all
        (folder.path / verify.FINDINGS).unlink(missing_ok=True)  # a run that was stopped goes on
    seconds = time.monotonic() - started
    last = f"report.html, report.json and figures in {options.out} ({seconds:.0f} s)"
    more = "" if options.verbose else "; --verbose prints every row"
    return shared.show(shown, last + more, report, options.json, verbose=options.verbose)


def _restricted(groups: list[Any], names: Sequence[str]) -> list[Any]:
    from theory.studies.groups import restricted

    try:
        return restricted(groups, names)
    except ValueError as error:
        raise ValueError(f"--statements: {error}") from None


def _noted(group: Any, findings: Sequence[Any]) -> dict[str, Any]:
    """Return a group as it stands in the report: facts, and findings by the statement's name."""
    from theory.reports.verify import count_instances
    from theory.storage.files import ascii_keys

    return {
        "name": group.name,
        "instances": count_instances(group),
        "facts": ascii_keys(group.facts),
        "statements": {x.statement.name: x.as_dict() for x in findings if x.group == group.name},
    }


def _model_groups(arguments: argparse.Namespace, noted: dict[str, Any]) -> tuple[list[Any], str]:
    """Instances of the language model, and what is said where there are none.

    Adds the options of a model to those that are `noted` in the report.
    """
    if "model" in ModelSpec.given(arguments):
        return [_given_model(arguments, noted)], ""
    _refuse_models(arguments, "needs --model")
    try:
        require_packages()
    except ValueError as error:
        return [], f"language model: skipped, {error}"
    from llm_bridge.check.exact import trained_group

    return [trained_group(seed=noted["seed"])], ""


def _refuse_models(arguments: argparse.Namespace, why: str) -> None:
    """Refuse whatever says how a language model is read."""
    for options, prefix in (
        (ModelSpec, ""),
        (ModelSpec, "expert-"),
        (WholeTreeOptions, ""),
        (PromptFormat, ""),
    ):
        options.refuse(arguments, why, prefix=prefix)


def _literature(options: VerifyOptions) -> int:
    """Decide the literature's claims, write and print; returns 1 if one is not as the list says."""
    from theory.claims.literature import decide_literature
    from theory.reports.literature import literature_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies.literature import literature_trees

    started = time.monotonic()
    with RunFolder(options.out) as folder:
        found = decide_literature(literature_trees(options.seed))
        shown = literature_report(found, {"seed": options.seed})
        report = shown.head("literature/1") | {
            "arguments": {"command": "verify"} | options.as_dict(results_only=True),
            "claims": {x.claim.name: x.as_dict() for x in found},
        }
        shown.save(folder.path)
        write_json(folder.path / "literature.json", report)
    seconds = time.monotonic() - started
    last = f"report.html and literature.json in {options.out} ({seconds:.0f} s)"
    more = "" if options.verbose else "; --verbose prints every row"
    return shared.show(shown, last + more, report, options.json, verbose=options.verbose)


def _given_model(arguments: argparse.Namespace, noted: dict[str, Any]) -> Any:
    policy, expert = read_pair(arguments)
    tree = WholeTreeOptions.read(arguments)
    given = PromptFormat.read(arguments)
    prompts = tree.texts()
    noted |= given.as_dict(results_only=True)
    noted |= policy.as_dict(results_only=True)
    noted |= expert.as_dict("expert-", results_only=True)
    noted |= tree.as_dict(results_only=True)
    require_packages()
    from llm_bridge.check.exact import model_group

    lm, teacher = policy.load_pair(expert)
    lm = formatted(lm, given)
    group = model_group(
        lm,
        teacher.read_as(lm),
        (policy, expert),
        prompts=as_prompts(lm, prompts),
        horizon=tree.horizon or HORIZON,
        tokens=tree.tokens,
        alpha=tree.alpha,
        memory=tree.memory * 2**20,
    )
    return (
        replace(group, facts=group.facts | {"model_findings": model_findings(lm)})
        if model_findings(lm)
        else group
    )


MODEL = "language model (without --model, a small one is trained here)"

COMMAND = Command(
    "verify",
    "check every statement on token MDPs and on a language model",
    (
        Group(VerifyOptions),
        Group(EngineOptions, ENGINE),
        Group(ModelSpec, MODEL, optional=True),
        Group(ModelSpec, MODEL, prefix="expert-", optional=True, defaults=EXPERT),
        Group(WholeTreeOptions, MODEL),
        Group(PromptFormat, MODEL),
    ),
    run,
    (
        "endorm verify --out DIR",
        "endorm verify --statements theorem-1 mine.py",
        "endorm verify --model M --prompt TEXT --tokens 0123456789",
    ),
)
