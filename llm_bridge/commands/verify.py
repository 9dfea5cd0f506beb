"""The ``endorm verify`` command: every statement, on token MDPs and on a language model."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_bridge.commands.options import (
    EXPERT,
    HORIZON,
    TreeOptions,
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


@dataclass(frozen=True)
class VerifyOptions(Options):
    """How many MDPs are checked, and where the report goes."""

    instances: int = option(256, help="random MDPs of each kind", low=1)
    seed: int = shared.seed()
    literature: bool = option(False, help="decide the claims of other papers instead")
    out: Path = shared.out("out/verify", "report.json and the figures")
    json: Path | None = shared.json_file()


def run(arguments: argparse.Namespace) -> int:
    """Check, write and print; returns 1 if a statement is violated, else 0."""
    from theory import __version__
    from theory.reports.verify import count_verdicts, verify_report
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
    # first: its input can be wrong, and then nothing is written
    model_groups, note = _model_groups(arguments, noted)
    groups = [*verify.exact_groups(options.seed, n_instances=options.instances), *model_groups]
    with RunFolder(options.out) as folder:
        findings = verify.run(groups, engine.chosen(), folder)
        horizon = sweep.horizon_curve()
        preference = sweep.preference_curve()
        report = {
            "version": __version__,
            "arguments": noted,
            "rows": [finding.as_dict() for finding in findings],
            "groups": {group.name: group.facts for group in groups},
            "curves": {"horizon": horizon.as_dict(), "preference": asdict(preference)},
        }
        shown = verify_report(groups, findings, horizon, preference, note)
        shown.save_figures(folder.path)
        write_json(folder.path / "report.json", report)  # last: whoever waits for it finds all
        (folder.path / verify.FINDINGS).unlink()  # a run that was stopped goes on from it
    if options.json is not None:
        write_json(options.json, report)
    print(shown.text())
    verdicts = [finding.verdict for finding in findings]
    print(
        f"{count_verdicts(verdicts)}; report and figures in {options.out} "
        f"({time.monotonic() - started:.0f} s)"
    )
    return 1 if "violated" in verdicts else 0


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
        (TreeOptions, ""),
        (PromptFormat, ""),
    ):
        options.refuse(arguments, why, prefix=prefix)


def _literature(options: VerifyOptions) -> int:
    """Decide the literature's claims, write and print; returns 1 if one is not as the list says."""
    from theory import __version__
    from theory.claims.literature import decide_literature
    from theory.reports.literature import literature_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies.literature import literature_trees

    with RunFolder(options.out) as folder:
        found = decide_literature(literature_trees(options.seed))
        report = {
            "version": __version__,
            "arguments": {"command": "verify"} | options.as_dict(results_only=True),
            "claims": [x.as_dict() for x in found],
        }
        write_json(folder.path / "literature.json", report)
    if options.json is not None:
        write_json(options.json, report)
    print(literature_report(found).text())
    return 0 if all(x.confirmed for x in found) else 1


def _given_model(arguments: argparse.Namespace, noted: dict[str, Any]) -> Any:
    policy, expert = read_pair(arguments)
    tree = TreeOptions.read(arguments)
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
        Group(TreeOptions, MODEL),
        Group(PromptFormat, MODEL),
    ),
    run,
)
