"""The ``endorm score`` command. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, everything was scored; 1, some rows could not be; 2, bad input. Rows that were left
out are listed, and in ``summary.json``, also those that only have nothing to compare.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.preferences.pairs import FORMATS, read_comparisons
from llm_bridge.preferences.rows import HUB, Problem

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM
    from llm_bridge.preferences.run import Plan, Results
    from llm_bridge.preferences.scorers import Scorer
    from theory.storage.runs import RunFolder

__all__ = ["add_score"]

METHODS = ("endogenous", "verifier", "pointwise", "pairwise", "reward-model")
REWARD_OPTIONS = {
    "reference": None,
    "alpha": 1.0,
    "gauge": "logits",
    "terminal": "zero",
    "truncate": False,
}
REWARD_OPTIONS |= {"eos": None, "html": 20}
"""Options of the endogenous reward alone, and what they are where they are not given."""

SHOWN = 10


def add_score(commands: Any) -> None:
    """Add the command to those of a parser."""
    score = commands.add_parser(
        "score", help="endogenous rewards of a model's responses, and how often they are right"
    )
    score.set_defaults(run=_score)
    score.add_argument("--model", required=True, metavar="M", help="folder or hub id")
    score.add_argument(
        "--pairs", required=True, nargs="+", metavar="FILE", help="files, or hub:NAME[:SPLIT]"
    )
    score.add_argument(
        "--format", choices=FORMATS, help="of all files (default: each guessed from its first row)"
    )
    score.add_argument(
        "--limit", type=int, metavar="N", help="only the first N comparisons of each file"
    )
    score.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("out/score"), help="default out/score"
    )

    how = score.add_argument_group("what is scored")
    how.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="default endogenous; others to hold it against",
    )
    how.add_argument("--reference", metavar="M", help="also α log π/π_ref against this model")
    how.add_argument("--alpha", type=float, help="temperature of the reward (default 1)")
    how.add_argument("--gauge", choices=("logits", "logprob"), help="default logits")
    how.add_argument(
        "--terminal",
        choices=("zero", "bootstrap"),
        help="value after the last token (default zero)",
    )
    how.add_argument(
        "--system", metavar="TEXT|FILE", help="system prompt of every comparison; '' for none"
    )
    how.add_argument(
        "--separator",
        metavar="TEXT",
        help="between system, prompt and response in plain text (a blank line)",
    )
    how.add_argument(
        "--plain", action="store_true", help="texts, even if the tokenizer has a chat template"
    )
    how.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="instead of the tokenizer's own"
    )
    how.add_argument(
        "--eos",
        action=argparse.BooleanOptionalAction,
        help="reward the token that ends a response (default: in a chat template, not in plain "
        "text)",
    )
    how.add_argument(
        "--truncate",
        action="store_true",
        default=None,
        help="cut responses to the context instead of leaving them out",
    )

    machine = score.add_argument_group(
        "machine (several processes: torchrun --no-python --nproc-per-node N endorm score …)"
    )
    machine.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="of one pass (default 8192)"
    )
    machine.add_argument("--dtype", default="float32", help="of the weights (default float32)")
    machine.add_argument(
        "--device", help="default: the GPU if there is one, of each process its own"
    )
    machine.add_argument(
        "--device-map", help="'auto' spreads a model over several GPUs and the CPU"
    )

    report = score.add_argument_group("report")
    report.add_argument(
        "--html", type=int, metavar="N", help="comparisons shown token by token (default 20)"
    )
    report.add_argument(
        "--tolerance", type=float, default=0.1, help="of matched lengths (default 0.1)"
    )
    report.add_argument(
        "--confidence", type=float, default=0.95, help="of the intervals (default 0.95)"
    )
    report.add_argument(
        "--resamples", type=int, default=2000, help="of the bootstrap (default 2000)"
    )
    report.add_argument("--seed", type=int, default=0)


def _check(arguments: argparse.Namespace) -> None:
    from llm_bridge.commands.main import check_alpha, check_counts

    check_counts(arguments, "limit", "batch_tokens", "resamples")
    given = [name for name in REWARD_OPTIONS if getattr(arguments, name) is not None]
    if arguments.method != "endogenous" and given:
        raise ValueError(f"--{given[0]} is not read by --method {arguments.method}")
    for name, value in REWARD_OPTIONS.items():
        if name not in given:
            setattr(arguments, name, value)
    check_alpha(arguments.alpha)
    if arguments.html < 0:
        raise ValueError(f"--html={arguments.html}: must be at least 0")
    if not 0 <= arguments.tolerance < math.inf:
        raise ValueError(
            f"--tolerance={arguments.tolerance:g}: must be a share of the longer length, from 0 on"
        )
    if not 0 < arguments.confidence < 1:
        raise ValueError(f"--confidence={arguments.confidence:g}: must be between 0 and 1")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed={arguments.seed}: must be from 0 to 2^63 - 1")
    if arguments.gauge == "logprob" and arguments.terminal == "bootstrap":
        raise ValueError(
            "--terminal=bootstrap: in the logprob gauge nothing is added at the end; use --gauge "
            "logits"
        )
    if arguments.plain and arguments.chat_template is not None:
        raise ValueError("--plain and --chat-template: give one of them")
    if arguments.device is not None and arguments.device_map is not None:
        raise ValueError("--device and --device-map: give one of them")
    if arguments.device_map is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--device-map spreads one process over the GPUs: start one, without torchrun"
        )


def _score(arguments: argparse.Namespace) -> int:
    from llm_bridge.commands.main import check_llm, check_out
    from theory import __version__

    _check(arguments)
    check_out(arguments.out)
    check_llm()
    repeated = [name for n, name in enumerate(arguments.pairs) if name in arguments.pairs[:n]]
    if repeated:
        raise ValueError(f"--pairs: {repeated[0]} is given twice")
    comparisons, problems = read_comparisons(
        *arguments.pairs, format=arguments.format, limit=arguments.limit
    )
    from llm_bridge.models.processes import workers
    from llm_bridge.preferences import run as scoring
    from theory.storage.runs import RunFolder

    with workers() as group:
        scorer, lm, facts = _scorer(arguments)
        files = {
            name: None if name.startswith(HUB) else scoring.digest(Path(name))
            for name in arguments.pairs
        }
        given = {name: getattr(arguments, name) for name in ("format", "limit", "batch_tokens")}
        facts = {"version": __version__} | facts | given | {"pairs": files}
        with RunFolder(arguments.out, facts, lines=[scoring.RESPONSES], processes=group) as run:
            work = scoring.plan(scorer, comparisons, arguments.batch_tokens, progress=group.first)
            started = time.monotonic()
            tokens = _run(scorer, work, run, arguments)
            seconds = time.monotonic() - started
            if not group.first:
                group.wait()  # a launcher stops all when one of them ends with a code
                return 0
            results = scoring.results(arguments.out, work)
            problems += results.problems
            _report(arguments, scorer, lm, facts, results, problems)
            speed = f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
            print(
                f"{speed if tokens else 'nothing was left to score'}; summary.json and report in "
                f"{arguments.out}"
            )
            _list(problems)
            group.wait()
    return 1 if any(problem.fault for problem in problems) else 0


def _run(scorer: Scorer, work: Plan, run: RunFolder, arguments: argparse.Namespace) -> int:
    import torch

    from llm_bridge.preferences import run as scoring

    try:
        return scoring.run(scorer, work, run, progress=run.processes.first)
    except torch.OutOfMemoryError:
        size = arguments.batch_tokens
        raise ValueError(
            f"--batch-tokens={size}: out of memory; give fewer, and another --out"
        ) from None


def _scorer(arguments: argparse.Namespace) -> tuple[Scorer, CausalLM, dict[str, Any]]:
    """Scorer, its model, and what is noted of both."""
    from llm_bridge.models.load import fingerprint, load_model, load_reward_model
    from llm_bridge.preferences import judges, scorers
    from llm_bridge.read.reward import EndogenousReward

    options = {name: getattr(arguments, name) for name in ("dtype", "device", "device_map")}
    load = load_reward_model if arguments.method == "reward-model" else load_model
    lm = load(arguments.model, **options)
    if arguments.chat_template is not None:
        lm.tokenizer.chat_template = _read(arguments.chat_template, "--chat-template")
    chat, system = (
        bool(lm.tokenizer.chat_template) and not arguments.plain,
        _system(arguments.system),
    )
    if chat and arguments.separator is not None:
        raise ValueError("--separator is not read in a chat template; add --plain")
    separator = {} if arguments.separator is None else {"separator": arguments.separator}
    conversation = scorers.Conversation(lm, chat, system, arguments.eos, **separator)
    facts: dict[str, Any] = {
        "method": arguments.method,
        "model": lm.name,
        "weights": fingerprint(lm),
    }
    facts |= {"dtype": arguments.dtype, "chat": chat, "system": system, "eos": conversation.ends}
    facts |= {"separator": None if chat else conversation.separator}
    facts |= {"chat_template": lm.tokenizer.chat_template if chat else None}
    if arguments.method == "reward-model":
        return scorers.RewardModel(lm, conversation), lm, facts
    if arguments.method != "endogenous":
        methods: dict[str, Any] = {
            "verifier": judges.GenerativeVerifier,
            "pointwise": judges.Pointwise,
            "pairwise": judges.Pairwise,
        }
        reward = EndogenousReward(lm, batch_tokens=arguments.batch_tokens)
        return methods[arguments.method](reward, conversation), lm, facts
    how = {name: getattr(arguments, name) for name in ("alpha", "gauge", "terminal")}
    reward = EndogenousReward(lm, **how, batch_tokens=arguments.batch_tokens)
    facts |= how | {"truncate": arguments.truncate}
    reference = None
    if arguments.reference is not None:
        anchor = load_model(arguments.reference, **options)
        reference = EndogenousReward(anchor, batch_tokens=arguments.batch_tokens, end_tokens=())
        facts |= {"reference": anchor.name, "reference_weights": fingerprint(anchor)}
    return (
        scorers.Endogenous(reward, conversation, reference, truncate=arguments.truncate),
        lm,
        facts,
    )


def _system(text: str | None) -> str | None:
    """A text, or what the file of that name holds."""
    if not text or (any(c.isspace() for c in text) and not os.path.isfile(text)):
        return text
    looks_like_a_path = os.sep in text or Path(text).suffix != "" or os.path.isdir(text)
    if os.path.isfile(text) or looks_like_a_path:
        return _read(Path(text), "--system")
    return text


def _read(path: Path, option: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option}={path}: cannot be read ({error})") from None
    if not text:
        raise ValueError(f"{option}={path}: the file is empty")
    return text


def _report(
    arguments: argparse.Namespace,
    scorer: Scorer,
    lm: CausalLM,
    run: dict[str, Any],
    results: Results,
    problems: list[Problem],
) -> None:
    """Write summary, HTML and domain matrix, and print the table."""
    from llm_bridge.preferences import accuracy
    from llm_bridge.preferences import page as report
    from llm_bridge.preferences import run as scoring
    from theory.reports import figures as plot
    from theory.storage.files import write_json

    left_out = [{"place": str(problem.place), "message": problem.message} for problem in problems]
    cut = {key[0] for key, record in results.records.items() if record.get("cut")}
    summary = {
        "run": run,
        "comparisons": len(results.comparisons),
        "comparisons_cut": len(cut),
        "left_out": left_out,
    }
    write_json(arguments.out / "summary.json", summary)
    if not results.comparisons:
        _list(problems)
        raise ValueError("nothing could be scored")
    keys, records = list(results.records), list(results.records.values())
    options = {
        name: getattr(arguments, name) for name in ("tolerance", "resamples", "seed", "confidence")
    }
    # lengths are those of the whole responses, not of what was left of them
    tokens = {
        key: r["tokens"] + r.get("cut", 0) for key, r in results.records.items() if "tokens" in r
    } or None
    scores = {
        name: accuracy.summary(
            results.comparisons, dict(zip(keys, values, strict=True)), tokens=tokens, **options
        )
        for name, values in scorer.columns(records).items()
    }
    write_json(arguments.out / "summary.json", summary | {"scores": scores})
    main = next(iter(scores.values()))
    if "domains" in main:
        plot.save(report.domain_figure(main["domains"]), arguments.out, "domains")
    page = arguments.out / "report.html"
    page.unlink(missing_ok=True)
    if arguments.html and arguments.method == "endogenous":
        shown = results.comparisons[: arguments.html]
        ids = {comparison.id for comparison in shown}
        whole = {
            key: r
            for key, r in scoring.read_records(arguments.out / scoring.RESPONSES)
            if key[0] in ids
        }
        facts = {name: str(run[name]) for name in SHOWN_FACTS if run.get(name) is not None}
        report.write_html(
            page, shown, whole, lm.tokenizer, title=f"Endogenous reward of {lm.name}", facts=facts
        )
    print(f"{lm.name}, {arguments.method}, {'chat template' if run['chat'] else 'plain text'}")
    print("\n".join(table(scores)))
    if cut:
        print(f"responses of {len(cut)} comparisons were cut to the context of {lm.name}")


SHOWN_FACTS = ("model", "alpha", "gauge", "terminal", "chat", "eos", "system", "dtype")


def table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table: every subset, under each score, beside the null of length and with length
    held fixed.
    """
    header = (
        f"{'subset':<28}{'score':<10}{'n':>6}  "
        f"{'accuracy':<19}{'hard/normal/easy':<18}{'shorter':<9}"
    )
    lines = [header + f"{'matched (pairs)':<18}{'logistic':<9}"]
    subsets = list(next(iter(scores.values()))["subsets"])
    for subset in [*(["(all)"] if len(subsets) > 1 else []), *subsets]:
        for n, (name, whole) in enumerate(scores.items()):
            one = whole if subset == "(all)" else whole["subsets"][subset]
            matched, fit = (
                one["length_controlled"]["characters"][how] for how in ("matched", "logistic")
            )
            interval = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**one["accuracy"])
            levels = "/".join(
                f"{one[level]['value']:.3f}" for level in ("hard", "normal", "easy") if level in one
            )
            shorter = f"{one['nulls']['shorter (characters)']['accuracy']['value']:.3f}"
            first = f"{subset[:27] if n == 0 else '':<28}{name:<10}{one['comparisons'] if n == 0 else '':>6}  "
            pairs = f"{_number(matched['value'])} ({matched['pairs']})"
            lines.append(
                f"{first}{interval:<21}{levels:<18}{shorter:<9}{pairs:<18}{_number(fit['value']):<9}".rstrip()
            )
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _list(problems: list[Problem]) -> None:
    if problems:
        print(f"{len(problems)} left out:", file=sys.stderr)
        for problem in problems[:SHOWN]:
            print(f"  {problem}", file=sys.stderr)
        if len(problems) > SHOWN:
            print(f"  … and {len(problems) - SHOWN} more, in summary.json", file=sys.stderr)
