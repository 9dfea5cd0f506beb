"""The ``endorm check`` command: every statement on a real model and an expert. torch is loaded when
it runs.

Exit codes: 0, nothing is violated; 1, a statement is; 2, bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.check.exact import ModelInstance
    from llm_bridge.models.load import CausalLM
    from llm_bridge.models.spec import Variant
    from theory.storage.runs import RunFolder

__all__ = ["add_check", "add_models", "read_variants"]

READ = ("temperature", "dtype", "bits", "adapter")
"""How a model is read, see `llm_bridge.models.spec.Variant`: an option for the model, with
``expert-`` for the expert.
"""

UNREAD = ("horizon", "rest", "top_k", "eos", *(f"expert_{name}" for name in READ))
"""Options that mean nothing where the expert is a token MDP, which has its own horizon and
tokens.
"""


def add_models(group: Any, *, required: bool = False) -> None:
    """Add the options that say which model is judged and which stands for the expert."""
    group.add_argument(
        "--model",
        required=required,
        metavar="M",
        help="causal LM whose endogenous reward is judged: folder or hub id",
    )
    group.add_argument(
        "--expert",
        metavar="M",
        help="causal LM that stands for the expert; default: --model itself",
    )
    group.add_argument(
        "--temperature", type=float, help="sampling temperature of the model (default 1)"
    )
    group.add_argument(
        "--expert-temperature",
        type=float,
        help="sampling temperature of the expert (default 1; 0.9 when model and expert are "
        "otherwise the same)",
    )
    for whose in ("", "expert-"):
        who = "expert" if whose else "model"
        group.add_argument(
            f"--{whose}dtype", help=f"dtype of the {who}'s weights (default float32)"
        )
        group.add_argument(
            f"--{whose}bits",
            type=int,
            metavar="B",
            help=f"round the {who}'s linear layers to B bits",
        )
        group.add_argument(
            f"--{whose}adapter",
            metavar="DIR",
            help=f"LoRA adapter, merged into the {who}'s weights",
        )


def add_check(commands: Any) -> None:
    """Add the command to those of a parser."""
    check = commands.add_parser(
        "check", help="the theorems on a real model: exact on its token tree, or sampled"
    )
    check.set_defaults(run=_check)
    add_models(
        check.add_argument_group("models (--expert may also be a token MDP, FILE.npz)"),
        required=True,
    )

    what = check.add_argument_group("responses")
    what.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="a prompt; repeat for more"
    )
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a prompt a line, or JSON lines with a 'prompt'",
    )
    what.add_argument("--limit", type=int, metavar="N", help="only the first N prompts of the file")
    what.add_argument("--horizon", type=int, metavar="H", help="tokens of a response (default 4)")
    tokens = what.add_mutually_exclusive_group()
    tokens.add_argument(
        "--tokens", help="sub-vocabulary: ids '1,2,3' or characters; default: the whole vocabulary"
    )
    tokens.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="the K tokens that the model likes best in each state",
    )
    what.add_argument(
        "--rest", action="store_true", help="count what --tokens leaves out as one token more"
    )
    what.add_argument(
        "--eos",
        action=argparse.BooleanOptionalAction,
        help="the model's own end tokens end a response (default), or are tokens as all others",
    )

    how = check.add_argument_group("how")
    how.add_argument(
        "--alpha", type=float, default=1.0, help="temperature of the reward (default 1)"
    )
    how.add_argument(
        "--sampled",
        type=int,
        metavar="N",
        help="estimate from N responses of each policy to a prompt",
    )
    how.add_argument(
        "--beam",
        type=int,
        default=64,
        metavar="W",
        help="width of the search for π_RL (default 64)",
    )
    how.add_argument(
        "--confidence", type=float, default=0.95, help="of the intervals (default 0.95)"
    )
    how.add_argument("--seed", type=int, default=0)
    how.add_argument(
        "--memory",
        type=int,
        default=1024,
        metavar="MiB",
        help="that a pass may take (default 1024)",
    )
    how.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="rewards (tokens of the tree times prompts) evaluated in balls at most, where doubles "
        "prove nothing; what "
        "is over it stays undecided (default 1,000,000, about a minute)",
    )
    how.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("out/check"), help="default out/check"
    )


def read_variants(arguments: argparse.Namespace) -> tuple[Variant, Variant]:
    """Model and expert as the options of `add_models` name them.

    Raises:
        ValueError: names the option and its value.

    """
    from llm_bridge.models.spec import Variant, default_expert

    if "" in (arguments.model, arguments.expert):
        raise ValueError("--model and --expert must name a folder or a hub id, got ''")

    def variant(model: str, prefix: str) -> Variant:
        given = {name: getattr(arguments, prefix + name) for name in READ}
        try:
            return Variant(
                model, **{name: value for name, value in given.items() if value is not None}
            )
        except ValueError as error:
            raise ValueError(f"--{prefix.replace('_', '-')}{error}") from None

    policy = variant(arguments.model, "")
    expert = variant(arguments.expert or arguments.model, "expert_")
    same = expert.weights == policy.weights and policy.temperature == expert.temperature
    return policy, default_expert(
        policy
    ) if same and arguments.expert_temperature is None else expert


def _require(arguments: argparse.Namespace) -> None:
    from llm_bridge.commands.main import check_alpha, check_counts, check_out

    check_alpha(arguments.alpha)
    check_counts(arguments, "horizon", "limit", "top_k", "sampled", "beam", "memory", "budget")
    if not 0 < arguments.confidence < 1:
        raise ValueError(f"--confidence={arguments.confidence:g}: must be between 0 and 1")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed={arguments.seed}: must be from 0 to 2^63 - 1")
    if arguments.rest and arguments.tokens is None:
        raise ValueError("--rest needs --tokens; with --top-k the rest is always counted")
    if arguments.sampled is not None:
        for name in ("tokens", "top_k"):
            if getattr(arguments, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is not read with --sampled, which draws from all "
                    "tokens"
                )
        if _tabular(arguments):
            raise ValueError(
                f"--expert={arguments.expert}: a token MDP is compared on its whole tree, without "
                "--sampled"
            )
    for name in UNREAD if _tabular(arguments) else ():
        if getattr(arguments, name) not in (None, False) or (
            name == "eos" and arguments.eos is not None
        ):
            option = "no-eos" if name == "eos" and not arguments.eos else name.replace("_", "-")
            raise ValueError(
                f"--{option} is not read with --expert={arguments.expert}: a token MDP says it "
                "itself"
            )
    if not arguments.prompt and arguments.prompts is None:
        raise ValueError("no prompt: give --prompt TEXT or --prompts FILE")
    if arguments.limit is not None and arguments.prompts is None:
        raise ValueError("--limit needs --prompts")
    check_out(arguments.out)


def _tabular(arguments: argparse.Namespace) -> bool:
    return str(arguments.expert or "").endswith(".npz")


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: a text a line, or in a ``.jsonl`` file a string or an object with
    ``"prompt"`` a line.

    Raises:
        ValueError: the file cannot be read, has no prompts, or a line has none; names the line.

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts={path}: cannot be read ({error})") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text: Any = line
        if path.suffix == ".jsonl":
            try:
                text = json.loads(line)
            except ValueError:
                text = None
            text = text.get("prompt") if isinstance(text, dict) else text
        if not isinstance(text, str):
            raise ValueError(
                f"--prompts={path}, line {number}: must be a JSON string or an object with a "
                "'prompt'"
            )
        prompts.append(text)
    if not prompts:
        raise ValueError(f"--prompts={path}: no prompt in it; give a text a line")
    return prompts


def _check(arguments: argparse.Namespace) -> int:
    from llm_bridge.commands.main import check_llm
    from theory import __version__
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    started = time.monotonic()
    _require(arguments)
    if not _tabular(arguments):
        arguments.horizon = 4 if arguments.horizon is None else arguments.horizon
        arguments.eos = arguments.eos is not False
    check_llm()
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        prompts += read_prompts(arguments.prompts)[: arguments.limit]
    given = {name: value for name, value in vars(arguments).items() if name not in ("run", "out")}
    report: dict[str, Any] = {"version": __version__, "arguments": given}
    with RunFolder(arguments.out) as folder:
        code, text = (_exact if arguments.sampled is None else _sampled)(
            arguments, prompts, report, folder
        )
        write_json(folder.path / "check.json", report)
    print(text)  # now that all is written: whoever reads this may stop reading
    print(f"check.json and report.html in {arguments.out} ({time.monotonic() - started:.0f} s)")
    return code


def _identify(
    folder: RunFolder, report: dict[str, Any], prompts: list[str], **weights: str
) -> None:
    """Claim the folder for these options, prompts and weights."""
    from llm_bridge.check.draws import DRAWS
    from llm_bridge.check.sampled import BEAM

    given = report["arguments"] | {
        "prompt": None,
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
    }
    folder.identify({"version": report["version"]} | given | weights, lines=[BEAM, *DRAWS])


def _exact(
    arguments: argparse.Namespace, prompts: list[str], report: dict[str, Any], folder: RunFolder
) -> tuple[int, str]:
    """Write figures and page, and add to the report; exit code and what to print."""
    from llm_bridge.check import exact as checks
    from llm_bridge.check import report as check_report
    from llm_bridge.check.comparison import compare
    from theory.claims.verdict import BUDGET
    from theory.reports import figures as plot

    title, found, about, weights = _instance(arguments, prompts)
    if found.instance.mdp.vocab_size == 1:
        raise ValueError(
            "one token makes one response, and nothing to compare; give more with --tokens, or "
            "--rest"
        )
    _identify(folder, report, prompts, **weights)
    comparison = compare([found.instance], found.weights, arguments.budget or BUDGET)
    about |= checks.facts(found)
    report |= {"facts": about, "exact": comparison.as_dict()}
    figures = check_report.figures(comparison, found.instance)
    for name, figure in figures.items():
        plot.save(figure, folder.path, name)
    check_report.write_html(
        folder.path / "report.html", title, about, check_report.tables_of(comparison), figures
    )
    code = int(any(line.verdict == "violated" for line in comparison.lines))
    return code, check_report.render(title, about, comparison)


def _instance(
    arguments: argparse.Namespace, prompts: list[str]
) -> tuple[str, ModelInstance, dict[str, Any], dict[str, str]]:
    """Title, instance, what the models are, and hashes of their weights."""
    from llm_bridge.check import exact as checks
    from llm_bridge.models.load import fingerprint
    from llm_bridge.models.spec import load_pair, load_variant
    from llm_bridge.preferences.run import digest
    from llm_bridge.read.reward import find_end_tokens
    from llm_bridge.read.tree import parse_tokens
    from theory.mdp.token_mdp import TokenMDP

    memory = arguments.memory * 2**20
    policy, expert = read_variants(arguments)
    lm, teacher = (load_variant(policy), None) if _tabular(arguments) else load_pair(policy, expert)
    ids = None if arguments.tokens is None else parse_tokens(lm, arguments.tokens)
    if teacher is None:
        mdp = TokenMDP.load(arguments.expert)
        found = checks.tabular_instance(
            lm,
            mdp,
            prompts,
            arguments.alpha,
            tokens=ids,
            temperature=policy.temperature,
            memory=memory,
        )
        name = Path(arguments.expert).name
        about = {
            "model π̂": f"{lm.name} ({policy})",
            "expert π_E": f"soft-optimal for {name} at α = {arguments.alpha:g}",
        }
        weights = {"weights": fingerprint(lm), "expert_weights": digest(Path(arguments.expert))}
        return f"{lm.name} against {name}", found, about, weights
    found = checks.model_instance(
        lm,
        teacher,
        prompts,
        arguments.horizon,
        alpha=arguments.alpha,
        temperature=policy.temperature,
        expert_temperature=expert.temperature,
        tokens=ids,
        rest=arguments.rest,
        top_k=arguments.top_k,
        end_tokens=find_end_tokens(lm) if arguments.eos else (),
        memory=memory,
    )
    weights = {"weights": fingerprint(lm), "expert_weights": fingerprint(teacher)}
    return f"{lm.name} against {teacher.name}", found, _about(lm, policy, teacher, expert), weights


def _about(lm: CausalLM, policy: Variant, teacher: CausalLM, expert: Variant) -> dict[str, Any]:
    return {"model π̂": f"{lm.name} ({policy})", "expert π_E": f"{teacher.name} ({expert})"}


def _sampled(
    arguments: argparse.Namespace, prompts: list[str], report: dict[str, Any], folder: RunFolder
) -> tuple[int, str]:
    """Write the page and add to the report; exit code and what to print."""
    from llm_bridge.check import report as check_report
    from llm_bridge.check.draws import Sampling
    from llm_bridge.check.sampled import estimate
    from llm_bridge.models.load import fingerprint
    from llm_bridge.models.spec import load_pair
    from llm_bridge.read.reward import find_end_tokens

    policy, expert = read_variants(arguments)
    lm, teacher = load_pair(policy, expert)
    ends = find_end_tokens(lm) if arguments.eos else ()
    _identify(folder, report, prompts, weights=fingerprint(lm), expert_weights=fingerprint(teacher))
    sampling = Sampling(
        arguments.horizon,
        arguments.sampled,
        policy.temperature,
        expert.temperature,
        end_tokens=ends,
        width=arguments.beam,
        seed=arguments.seed,
        memory=arguments.memory * 2**20,
    )
    options = {"alpha": arguments.alpha, "confidence": arguments.confidence}
    found = estimate(lm, teacher, prompts, sampling, **options, run=folder)
    title, about = f"{lm.name} against {teacher.name}, sampled", _about(lm, policy, teacher, expert)
    about |= {
        "prompts": prompts if len(prompts) <= 8 else len(prompts),
        "horizon": arguments.horizon,
    }
    about |= {
        "end tokens": ends,
        "alpha": arguments.alpha,
        "confidence of each interval": arguments.confidence,
    }
    report |= {"facts": about, "sampled": found.as_dict()}
    check_report.write_html(
        folder.path / "report.html", title, about, check_report.tables_of_sampled(found), {}
    )
    return 0, check_report.render_sampled(title, about, found)
