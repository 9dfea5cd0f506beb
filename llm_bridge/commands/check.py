"""The ``endorm check`` command: every statement on a real model and an expert. torch is loaded when
it runs.

Exit codes: 0, nothing is violated; 1, a statement is; 2, bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_bridge.commands.options import (
    EXPERT,
    HORIZON,
    TreeOptions,
    as_prompts,
    format_facts,
    formatted,
    model_findings,
    read_pair,
    read_table,
    require_packages,
)
from llm_bridge.models.prompt_format import Prompt, PromptFormat
from llm_bridge.models.spec import ModelSpec
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, option

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM
    from theory.reports.report import Report
    from theory.storage.runs import RunFolder

__all__ = ["COMMAND", "CheckOptions"]

UNREAD_OF_TABLE = ("horizon", "rest", "top_k", "eos")
"""Options that mean nothing where the expert is a token MDP, which has its own horizon and
tokens.
"""


@dataclass(frozen=True)
class CheckOptions(TreeOptions):
    """Which responses are compared, exactly or by sampling, and where the report goes."""

    top_k: int | None = option(
        None,
        help="the K tokens that the model likes best in each state",
        low=1,
        metavar="K",
        group="responses",
    )
    rest: bool = option(
        False, help="count what --tokens leaves out as one token more", group="responses"
    )
    eos: bool | None = option(
        None,
        help="the model's own end tokens end a response, or are tokens as all others",
        default_text="they end it",
        group="responses",
    )
    budget: int | None = option(
        None,
        help="rewards (tokens of the tree times prompts) evaluated in balls at most, where doubles "
        "prove nothing; what is over it stays undecided",
        low=1,
        default_text="1,000,000, about a minute",
    )
    sampled: int | None = option(
        None,
        help="estimate from N responses of each policy to a prompt",
        low=4,
        group="sampling",
    )
    beam: int = option(
        64, help="width of the search for π_RL", low=1, metavar="W", group="sampling"
    )
    confidence: float = shared.confidence(group="sampling")
    seed: int = shared.seed(group="sampling")
    out: Path = shared.out("out/check", "check.json, report.html and the figures")
    json: Path | None = shared.json_file()
    verbose: bool = shared.verbose()

    def unread(self) -> dict[str, str]:
        """Sampling has options of its own, and leaves those of a tree without use."""
        found = super().unread()
        if self.sampled is None:
            found |= dict.fromkeys(("beam", "confidence", "seed"), "needs {sampled}")
        else:
            reason = "is not read with {sampled}, which samples from all tokens"
            found |= dict.fromkeys(("tokens", "top_k", "rest"), reason)
            found["budget"] = "is not read with {sampled}: intervals are not balls"
        if self.tokens is None:
            found.setdefault("rest", "needs {tokens}; with {top_k} the rest is always counted")
        return found

    def check(self) -> None:
        """Refuse two ways to choose tokens, and a tree that cannot be."""
        if self.tokens is not None and self.top_k is not None:
            raise OptionError("tokens", "and {top_k}: give one of them")
        if self.sampled is None:
            self.require_tree()


class _Task(NamedTuple):
    """What is compared: a model with another one, or with a token MDP from a file."""

    options: CheckOptions
    policy: ModelSpec
    expert: ModelSpec | Path
    prompts: list[Prompt]
    format: PromptFormat


def _read(arguments: argparse.Namespace) -> _Task:
    options = CheckOptions.read(arguments)
    table = read_table(arguments, (CheckOptions, UNREAD_OF_TABLE))
    if table is None:
        eos = options.eos is not False
        options = replace(options, horizon=options.horizon or HORIZON, eos=eos)
        given = PromptFormat.read(arguments)
        return _Task(options, *read_pair(arguments), options.texts(), given)
    if options.sampled is not None:
        raise ValueError(
            f"--expert={table}: a token MDP is compared on its whole tree, without --sampled"
        )
    given = PromptFormat.read(arguments)
    return _Task(options, ModelSpec.read(arguments), table, options.texts(), given)


class _Loaded(NamedTuple):
    """The models of a task, or the token MDP in the place of the second.

    Attributes:
        lm: `π̂`.
        expert: `π_E`, or the token MDP that it is soft-optimal for.
        title: of the report.
        about: what the report calls both.
        weights: their hashes.

    """

    lm: CausalLM
    expert: Any
    title: str
    about: dict[str, Any]
    weights: dict[str, str]

    def findings(self) -> list[str]:
        """Return what is found of the models, see `model_findings`."""
        from llm_bridge.models.load import CausalLM

        return model_findings(self.lm, self.expert if isinstance(self.expert, CausalLM) else None)


def run(arguments: argparse.Namespace) -> int:
    """Check, write and print; returns 1 if a statement is violated, else 0."""
    from theory import __version__
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    started = time.monotonic()
    task = _read(arguments)
    require_packages()
    from llm_bridge.check.draws import DRAWS
    from llm_bridge.check.sampled import BEAM

    expert = {"expert": str(task.expert)}
    if isinstance(task.expert, ModelSpec):
        expert = task.expert.as_dict("expert-", results_only=True)
    noted = {"command": "check"} | task.policy.as_dict(results_only=True) | expert
    noted |= task.options.as_dict(results_only=True) | task.format.as_dict(results_only=True)
    report: dict[str, Any] = {"arguments": noted}
    with RunFolder(task.options.out) as folder:
        loaded = _load(task)
        task = task._replace(prompts=as_prompts(loaded.lm, task.prompts))
        identity = {"version": __version__} | noted | loaded.weights | format_facts(loaded.lm)
        digest = hashlib.sha256(repr(task.prompts).encode()).hexdigest()
        folder.identify(identity | {"prompt": None, "prompts": digest}, lines=[BEAM, *DRAWS])
        compare = _exact if task.options.sampled is None else _sampled
        shown = compare(task, loaded, report, folder)
        report["model_findings"] = loaded.findings()
        shown.save(folder.path)
        report = shown.head("check/1") | report
        write_json(folder.path / "check.json", report)
    seconds = time.monotonic() - started
    last = f"check.json and report.html in {task.options.out} ({seconds:.0f} s)"
    more = "" if task.options.verbose else "; --verbose prints every row"
    # now that all is written: whoever reads this may stop reading
    options = task.options
    return shared.show(shown, last + more, report, options.json, verbose=options.verbose)


def _exact(task: _Task, loaded: _Loaded, report: dict[str, Any], _: RunFolder) -> Report:
    """Compare on the whole tree, and add to the report; what to show."""
    from llm_bridge.check import exact as checks
    from llm_bridge.check.comparison import compare
    from llm_bridge.check.report import exact_report
    from llm_bridge.read.reward import find_end_tokens
    from llm_bridge.read.tree import parse_tokens
    from theory.claims.findings import BUDGET

    options = task.options
    lm = loaded.lm
    shared: dict[str, Any] = {
        "alpha": options.alpha,
        "temperature": task.policy.temperature,
        "tokens": None if options.tokens is None else parse_tokens(lm, options.tokens),
        "memory": options.memory * 2**20,
    }
    if isinstance(task.expert, ModelSpec):
        found = checks.model_instance(
            lm,
            loaded.expert,
            task.prompts,
            options.horizon or HORIZON,
            expert_temperature=task.expert.temperature,
            rest=options.rest,
            top_k=options.top_k,
            end_tokens=find_end_tokens(lm) if options.eos else (),
            **shared,
        )
    else:
        found = checks.tabular_instance(lm, loaded.expert, task.prompts, **shared)
    if found.instance.mdp.vocab_size == 1:
        raise ValueError(
            "one token makes one response, and nothing to compare; give more with --tokens, or "
            "--rest"
        )
    comparison = compare([found.instance], found.weights, options.budget or BUDGET)
    about = (
        loaded.about
        | checks.facts(found)
        | {"found of the models": loaded.findings() or "nothing to note"}
    )
    report |= {"exact": comparison.as_dict()}
    return exact_report(loaded.title, about, comparison)


def _sampled(task: _Task, loaded: _Loaded, report: dict[str, Any], folder: RunFolder) -> Report:
    """Estimate from samples, and add to the report; what to show."""
    from llm_bridge.check.draws import DrawSetting
    from llm_bridge.check.report import sampled_report
    from llm_bridge.check.sampled import estimate
    from llm_bridge.read.reward import find_end_tokens

    options = task.options
    assert options.sampled is not None
    assert isinstance(task.expert, ModelSpec)
    ends = find_end_tokens(loaded.lm) if options.eos else ()
    sampling = DrawSetting(
        options.horizon or HORIZON,
        options.sampled,
        task.policy.temperature,
        task.expert.temperature,
        end_tokens=ends,
        width=options.beam,
        seed=options.seed,
        memory=options.memory * 2**20,
    )
    found = estimate(
        loaded.lm,
        loaded.expert,
        task.prompts,
        sampling,
        alpha=options.alpha,
        confidence=options.confidence,
        run=folder,
    )
    about = loaded.about | {
        "prompts": task.prompts if len(task.prompts) <= 8 else len(task.prompts),
        "horizon": options.horizon,
        "end tokens": ends,
        "alpha": options.alpha,
        "confidence of each interval": options.confidence,
        "found of the models": loaded.findings() or "nothing to note",
    }
    report |= {"sampled": found.as_dict()}
    return sampled_report(f"{loaded.title}, sampled", about, found)


def _load(task: _Task) -> _Loaded:
    from llm_bridge.models.load import fingerprint
    from theory.mdp.token_mdp import TokenMDP
    from theory.storage.files import digest

    expert: Any
    if isinstance(task.expert, ModelSpec):
        lm, expert = task.policy.load_pair(task.expert)
        lm = formatted(lm, task.format, task.options.out)
        expert = expert.read_as(lm)
        name = expert.name
        told = f"{expert.name} ({task.expert})"
        its_weights = fingerprint(expert)
    else:
        lm = formatted(task.policy.load(), task.format, task.options.out)
        expert = TokenMDP.load(task.expert)
        name = task.expert.name
        its_weights = digest(task.expert)
        told = f"soft-optimal for {name} at α = {task.options.alpha:g}"
    about = {"model π̂": f"{lm.name} ({task.policy})", "expert π_E": told}
    weights = {"weights": fingerprint(lm), "expert_weights": its_weights}
    return _Loaded(lm, expert, f"{lm.name} against {name}", about, weights)


MODELS = "models (--expert may also be a token MDP, FILE.npz)"

COMMAND = Command(
    "check",
    "the theorems on a real model: exact on its token tree, or sampled",
    (
        Group(ModelSpec, MODELS),
        Group(ModelSpec, MODELS, prefix="expert-", optional=True, defaults=EXPERT),
        Group(CheckOptions),
        Group(PromptFormat, "prompts"),
    ),
    run,
    (
        "endorm check --model letters --prompt A --out DIR",
        "endorm check --model student --expert teacher --prompts FILE --sampled 1000 --horizon 64",
    ),
)
