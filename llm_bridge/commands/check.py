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

from llm_bridge.commands.options import EXPERT, HORIZON, TreeOptions, read_pair, require_packages
from llm_bridge.models.spec import ModelSpec
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, option

if TYPE_CHECKING:
    from llm_bridge.check.exact import ModelInstance
    from llm_bridge.models.load import CausalLM
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
        """Refuse two ways to choose tokens."""
        if self.tokens is not None and self.top_k is not None:
            raise OptionError("tokens", "and {top_k}: give one of them")


class _Task(NamedTuple):
    """What is compared: two models, or a model with a token MDP from a file."""

    options: CheckOptions
    policy: ModelSpec
    expert: ModelSpec | Path
    prompts: list[str]


def _read(arguments: argparse.Namespace) -> _Task:
    options = CheckOptions.read(arguments)
    path = ModelSpec.given(arguments, "expert-").get("model", "")
    if not path.endswith(".npz"):
        eos = options.eos is not False
        options = replace(options, horizon=options.horizon or HORIZON, eos=eos)
        return _Task(options, *read_pair(arguments), options.texts())
    if options.sampled is not None:
        raise ValueError(
            f"--expert={path}: a token MDP is compared on its whole tree, without --sampled"
        )
    reason = f"is not read with --expert={path}: a token MDP says it itself"
    CheckOptions.refuse(arguments, reason, UNREAD_OF_TABLE)
    others = ModelSpec.declared().keys() - {"model"}
    ModelSpec.refuse(arguments, reason, others, prefix="expert-")
    return _Task(options, ModelSpec.read(arguments), Path(path), options.texts())


def run(arguments: argparse.Namespace) -> int:
    """Check, write and print; returns 1 if a statement is violated, else 0."""
    from theory import __version__
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    started = time.monotonic()
    task = _read(arguments)
    require_packages()
    expert = {"expert": str(task.expert)}
    if isinstance(task.expert, ModelSpec):
        expert = task.expert.as_dict("expert-", results_only=True)
    noted = {"command": "check"} | task.policy.as_dict(results_only=True) | expert
    noted |= task.options.as_dict(results_only=True)
    report: dict[str, Any] = {"version": __version__, "arguments": noted}
    with RunFolder(task.options.out) as folder:
        compare = _exact if task.options.sampled is None else _sampled
        code, text = compare(task, report, folder)
        write_json(folder.path / "check.json", report)
    print(text)  # now that all is written: whoever reads this may stop reading
    seconds = time.monotonic() - started
    print(f"check.json and report.html in {task.options.out} ({seconds:.0f} s)")
    return code


def _identify(
    folder: RunFolder, report: dict[str, Any], prompts: list[str], **weights: str
) -> None:
    """Claim the folder for these options, prompts and weights."""
    from llm_bridge.check.draws import DRAWS

    given = report["arguments"] | {
        "prompt": None,
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
    }
    folder.identify({"version": report["version"]} | given | weights, lines=DRAWS)


def _exact(task: _Task, report: dict[str, Any], folder: RunFolder) -> tuple[int, str]:
    """Write figures and page, and add to the report; exit code and what to print."""
    from llm_bridge.check import exact as checks
    from llm_bridge.check.comparison import compare
    from llm_bridge.check.report import exact_report
    from theory.claims.verdict import BUDGET

    of = _table if isinstance(task.expert, Path) else _pair
    title, found, about, weights = of(task)
    if found.instance.mdp.vocab_size == 1:
        raise ValueError(
            "one token makes one response, and nothing to compare; give more with --tokens, or "
            "--rest"
        )
    _identify(folder, report, task.prompts, **weights)
    comparison = compare([found.instance], found.weights, task.options.budget or BUDGET)
    about |= checks.facts(found)
    report |= {"facts": about, "exact": comparison.as_dict()}
    shown = exact_report(title, about, comparison, found.instance)
    shown.save(folder.path)
    code = int(any(line.verdict == "violated" for line in comparison.lines))
    return code, shown.text()


def _table(task: _Task) -> tuple[str, ModelInstance, dict[str, Any], dict[str, str]]:
    """Title, instance, what is compared, and hashes of weights: a model and a token MDP."""
    from llm_bridge.check.exact import tabular_instance
    from llm_bridge.models.load import fingerprint
    from llm_bridge.preferences.run import digest
    from llm_bridge.read.tree import parse_tokens
    from theory.mdp.token_mdp import TokenMDP

    options = task.options
    assert isinstance(task.expert, Path)
    lm = task.policy.load()
    found = tabular_instance(
        lm,
        TokenMDP.load(task.expert),
        task.prompts,
        options.alpha,
        tokens=None if options.tokens is None else parse_tokens(lm, options.tokens),
        temperature=task.policy.temperature,
        memory=options.memory * 2**20,
    )
    name = task.expert.name
    about = {
        "model π̂": f"{lm.name} ({task.policy})",
        "expert π_E": f"soft-optimal for {name} at α = {options.alpha:g}",
    }
    weights = {"weights": fingerprint(lm), "expert_weights": digest(task.expert)}
    return f"{lm.name} against {name}", found, about, weights


def _pair(task: _Task) -> tuple[str, ModelInstance, dict[str, Any], dict[str, str]]:
    """Title, instance, what is compared, and hashes of weights: two models."""
    from llm_bridge.check.exact import model_instance
    from llm_bridge.read.reward import find_end_tokens
    from llm_bridge.read.tree import parse_tokens

    options = task.options
    lm, teacher, about, weights = _load_pair(task)
    found = model_instance(
        lm,
        teacher,
        task.prompts,
        options.horizon or HORIZON,
        alpha=options.alpha,
        temperature=task.policy.temperature,
        expert_temperature=_model(task.expert).temperature,
        tokens=None if options.tokens is None else parse_tokens(lm, options.tokens),
        rest=options.rest,
        top_k=options.top_k,
        end_tokens=find_end_tokens(lm) if options.eos else (),
        memory=options.memory * 2**20,
    )
    return f"{lm.name} against {teacher.name}", found, about, weights


def _sampled(task: _Task, report: dict[str, Any], folder: RunFolder) -> tuple[int, str]:
    """Write the page and add to the report; exit code and what to print."""
    from llm_bridge.check.report import sampled_report
    from llm_bridge.check.sampled import estimate
    from llm_bridge.read.reward import find_end_tokens

    options = task.options
    assert options.sampled is not None
    lm, teacher, about, weights = _load_pair(task)
    ends = find_end_tokens(lm) if options.eos else ()
    _identify(folder, report, task.prompts, **weights)
    found = estimate(
        lm,
        teacher,
        task.prompts,
        options.horizon or HORIZON,
        options.sampled,
        alpha=options.alpha,
        temperature=task.policy.temperature,
        expert_temperature=_model(task.expert).temperature,
        end_tokens=ends,
        width=options.beam,
        confidence=options.confidence,
        seed=options.seed,
        memory=options.memory * 2**20,
        run=folder,
    )
    about |= {
        "prompts": task.prompts if len(task.prompts) <= 8 else len(task.prompts),
        "horizon": options.horizon,
        "end tokens": ends,
        "alpha": options.alpha,
        "confidence of each interval": options.confidence,
    }
    report |= {"facts": about, "sampled": found.as_dict()}
    shown = sampled_report(f"{lm.name} against {teacher.name}, sampled", about, found)
    shown.save(folder.path)
    return 0, shown.text()


def _model(expert: ModelSpec | Path) -> ModelSpec:
    assert isinstance(expert, ModelSpec)
    return expert


def _load_pair(task: _Task) -> tuple[CausalLM, CausalLM, dict[str, Any], dict[str, str]]:
    """Both models, what reports call them, and hashes of their weights."""
    from llm_bridge.models.load import fingerprint

    expert = _model(task.expert)
    lm, teacher = task.policy.load_pair(expert)
    about = {"model π̂": f"{lm.name} ({task.policy})", "expert π_E": f"{teacher.name} ({expert})"}
    return lm, teacher, about, {"weights": fingerprint(lm), "expert_weights": fingerprint(teacher)}


MODELS = "models (--expert may also be a token MDP, FILE.npz)"

COMMAND = Command(
    "check",
    "the theorems on a real model: exact on its token tree, or sampled",
    (
        Group(ModelSpec, MODELS),
        Group(ModelSpec, MODELS, prefix="expert-", optional=True, defaults=EXPERT),
        Group(CheckOptions),
    ),
    run,
)
