"""The ``endorm`` command: ``verify``, ``curves``, ``learn`` and ``solve``, and those of
`llm_bridge`.

torch is loaded only where a model is needed. Exit codes: 0, everything holds; 1, a statement is
violated, or rows were left out; 2, bad input (one line on standard error).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.commands.check import READ, add_check, add_models, read_variants
from llm_bridge.commands.ppo import add_ppo
from llm_bridge.commands.score import add_score

if TYPE_CHECKING:
    from theory.mdp.policy import Policy
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import Solution

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: print(
                f"endorm {arguments.command}: {text}", file=sys.stderr
            )
            code: int = arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"endorm {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"endorm {arguments.command}: stopped", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endorm",
        description="What is a language model's endogenous reward worth? Exact checks.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    verify = commands.add_parser(
        "verify", help="check every statement on token MDPs and on a language model"
    )
    verify.set_defaults(run=_verify)
    model = verify.add_argument_group(
        "language model (without --model, a small one is trained here)"
    )
    add_models(model)
    model.add_argument(
        "--prompt", action="append", metavar="TEXT", help="a prompt; repeat for more"
    )
    model.add_argument("--horizon", type=int, metavar="H", help="tokens of a response (default 4)")
    model.add_argument(
        "--tokens", help="sub-vocabulary: ids '1,2,3' or characters; default: the whole vocabulary"
    )
    model.add_argument("--alpha", type=float, help="temperature of the reward (default 1)")
    verify.add_argument(
        "--instances",
        type=int,
        default=256,
        metavar="N",
        help="random MDPs of each kind (default 256)",
    )
    verify.add_argument("--seed", type=int, default=0)
    verify.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("out/verify"),
        help="folder for report.json and the figures (default out/verify)",
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="also write the report to FILE")

    curves = commands.add_parser(
        "curves", help="exact worst cases against the horizon, their exponents and crossover"
    )
    curves.set_defaults(run=_curves)
    curves.add_argument(
        "--family",
        default="all",
        help="coin-payoff (cloning), swapped-pair (RL), preference, sharpening, or all",
    )
    curves.add_argument(
        "--horizons", metavar="H[,H…]", help="tokens of a response (default 2,4,8,…,65536)"
    )
    curves.add_argument(
        "--alpha",
        metavar="A[,A…]",
        help="temperatures (default 0.18,1); preferences are drawn at the largest",
    )
    curves.add_argument(
        "--vocab", metavar="V[,V…]", help="vocabulary sizes of coin–payoff, even (default 2,256)"
    )
    curves.add_argument(
        "--epsilon", metavar="E", help="radius of the ball, nats, the same at every horizon"
    )
    curves.add_argument(
        "--epsilon-over-sqrt",
        metavar="C",
        help="radius C/√H; default: both, with 0.01, in two panels",
    )
    curves.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("out/curves"),
        help="folder for curves.json and the figures (default out/curves)",
    )

    learn = commands.add_parser(
        "learn", help="errors of what n demonstrations teach, against horizon and n"
    )
    learn.set_defaults(run=_learn)
    learn.add_argument(
        "--horizons", metavar="H[,H…]", help="tokens of a response (default 2,4,8,…,256)"
    )
    learn.add_argument(
        "--demonstrations",
        metavar="N[,N…]",
        help="responses of the expert (default 30,100,…,100000)",
    )
    learn.add_argument(
        "--expert",
        default="all",
        help="stochastic (soft-optimal), deterministic (plain-optimal), or all",
    )
    learn.add_argument("--alpha", type=float, default=0.2, help="temperature (default 0.2)")
    learn.add_argument("--vocab", type=int, default=4, metavar="V", help="vocabulary (default 4)")
    learn.add_argument(
        "--window", type=int, default=1, metavar="K", help="tokens that rewards read (default 1)"
    )
    learn.add_argument(
        "--prompts", type=int, default=16, metavar="P", help="number of prompts (default 16)"
    )
    learn.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        help="added to every count (default 0; its bias can be most of the error)",
    )
    learn.add_argument(
        "--seeds",
        type=int,
        default=20,
        metavar="N",
        help="MDPs and data sets of each point (default 20)",
    )
    learn.add_argument("--seed", type=int, default=0)
    learn.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("out/learn"),
        help="folder for learning.jsonl (a run that was stopped goes on from it) and the figure "
        "(default out/learn)",
    )

    solve = commands.add_parser("solve", help="solve a token MDP from an .npz file")
    solve.set_defaults(run=_solve)
    solve.add_argument("file", type=Path, metavar="FILE.npz")
    solve.add_argument("--alpha", type=float, required=True, help="temperature, reward units")
    solve.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="radius in nats of the ball around the soft-optimal policy: worst cases",
    )
    solve.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")

    add_check(commands)
    add_score(commands)
    add_ppo(commands)
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    from theory import __version__
    from theory.reports import figures as plot
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies import groups as verify
    from theory.studies import sweep

    started = time.monotonic()
    _check_verify(arguments)
    model_groups, note = _model_groups(
        arguments
    )  # first: its input can be wrong, and then nothing is written
    groups = [*verify.exact_groups(arguments.seed, n_instances=arguments.instances), *model_groups]
    with RunFolder(arguments.out) as run:
        rows = verify.run(groups)
        horizon, preference = sweep.horizon_curve(), sweep.preference_curve()
        report = {
            "version": __version__,
            "arguments": {
                name: value
                for name, value in vars(arguments).items()
                if name not in ("run", "out", "json")
            },
            "rows": [row.as_dict() for row in rows],
            "groups": {group.name: group.facts for group in groups},
            "curves": {"horizon": horizon.as_dict(), "preference": preference.as_dict()},
        }
        plot.save(plot.horizon_figure(horizon), run.path, "error_vs_horizon")
        plot.save(plot.preference_figure(preference), run.path, "tv_vs_epsilon")
        write_json(run.path / "report.json", report)  # last: whoever waits for it finds all
    if arguments.json is not None:
        write_json(arguments.json, report)
    print(verify.render(groups, rows))
    print(f"\n{verify.attained(groups, rows)}")
    print(
        f"\nexponents in H of the exact error over ε (ε = {horizon.rule}): cloning "
        f"{horizon.exponent('clone')} "
        f"({horizon.local_exponent('clone'):.2f} at the longest), RL on the endogenous reward "
        f"{horizon.exponent('rl')}"
    )
    if note:
        print(note)
    print(
        f"{verify.counts(rows)}; report and figures in {arguments.out} "
        f"({time.monotonic() - started:.0f} s)"
    )
    return 1 if "violated" in [row.summary.verdict for row in rows] else 0


MODEL_OPTIONS = (
    "prompt",
    "horizon",
    "tokens",
    "alpha",
    "expert",
    *READ,
    *(f"expert_{name}" for name in READ),
)
ALPHAS = (1e-9, 1e9)
RADII = (1e-12, 500.0)


def _check_verify(arguments: argparse.Namespace) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in MODEL_OPTIONS
        if getattr(arguments, name) is not None
    ]
    if arguments.model is None and given:
        raise ValueError(f"{given[0]} needs --model")
    check_alpha(1.0 if arguments.alpha is None else arguments.alpha)
    check_counts(arguments, "instances")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed={arguments.seed}: must be from 0 to 2^63 - 1")
    check_out(arguments.out)
    _check_json(arguments.json)


def check_out(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out={folder} is a file: give a folder")
    parent = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(parent, os.W_OK):
        raise OSError(f"--out={folder}: {parent} cannot be written to; give another folder")


def check_llm() -> None:
    """Raise `ValueError` where a package is missing that language models need."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is not installed: pip install 'endorm[llm]'")


def check_counts(arguments: argparse.Namespace, *names: str) -> None:
    """Raise `ValueError` where one of these options is given and below 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}={value}: must be at least 1")


def check_alpha(alpha: float) -> None:
    from theory.arrays.namespace import require_positive

    require_positive("--alpha", alpha)
    if not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise ValueError(
            f"--alpha={alpha:g}: must be from {ALPHAS[0]:g} to {ALPHAS[1]:g}; doubles hold no more"
        )


def _check_json(path: Path | None) -> None:
    if path is not None and path.is_dir():
        raise ValueError(f"--json={path} is a folder: give a file")
    if path is not None and not path.parent.is_dir():
        raise OSError(f"--json={path}: its folder does not exist; create it first")


def _model_groups(arguments: argparse.Namespace) -> tuple[list[Any], str]:
    try:
        check_llm()
    except ValueError as error:
        if arguments.model is not None:
            raise ValueError(f"--model={arguments.model}: {error}") from None
        return [], f"language model: skipped, {error}"
    from llm_bridge.check import exact as checks

    if arguments.model is None:
        return [checks.trained_group(seed=arguments.seed)], ""
    policy, expert = read_variants(arguments)
    if not arguments.prompt:
        raise ValueError("no prompt: --model needs at least one --prompt TEXT")
    given = {
        name: getattr(arguments, name)
        for name in ("tokens", "alpha")
        if getattr(arguments, name) is not None
    }
    horizon = 4 if arguments.horizon is None else arguments.horizon
    return [
        checks.model_group(policy, expert, prompts=arguments.prompt, horizon=horizon, **given)
    ], ""


UNREAD = {
    "preference": ("horizons", "vocab", "epsilon", "epsilon_over_sqrt"),
    "sharpening": ("horizons", "alpha", "vocab", "epsilon", "epsilon_over_sqrt"),
    "swapped-pair": ("vocab",),
}
"""Options of ``curves`` that a family has no use for."""

MAX_HORIZON, MAX_VOCAB, EPSILONS, MAX_CURVES = 2**22, 2**20, (1e-12, 20.0), 8


def _curves(arguments: argparse.Namespace) -> int:
    from theory import __version__
    from theory.reports import figures as plot
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder
    from theory.studies import sweep

    started = time.monotonic()
    families, alphas, grid = _check_curves(arguments)
    curves = [sweep.horizon_curve(**point) for point in grid]
    preference = (
        sweep.preference_curve(alpha=max(alphas))
        if arguments.family in ("preference", "all")
        else None
    )
    sharpening = sweep.sharpening_curves() if arguments.family in ("sharpening", "all") else None
    figures = {}
    for curve in sweep.headlines(curves):
        name = "error_vs_horizon" if curve.over_sqrt else "error_vs_horizon_fixed_epsilon"
        figures[name] = plot.horizon_figure(curve, families)
    if "coin-payoff" in families:
        figures |= {
            "clone_constant": plot.constant_figure(curves),
            "crossover": plot.crossover_figure(curves),
        }
    if preference is not None:
        figures["tv_vs_epsilon"] = plot.preference_figure(preference)
    if sharpening is not None:
        figures["sharpening"] = plot.sharpening_figure(sharpening)
    report = {
        "version": __version__,
        "arguments": {
            name: value for name, value in vars(arguments).items() if name not in ("run", "out")
        },
        "horizon": [curve.as_dict(families) for curve in curves],
        "preference": None if preference is None else preference.as_dict(),
        "sharpening": None
        if sharpening is None
        else {name: asdict(one) for name, one in sharpening.items()},
    }
    with RunFolder(arguments.out) as run:
        for name, figure in figures.items():
            plot.save(figure, run.path, name)
        write_json(run.path / "curves.json", report)
    if curves:
        print(sweep.render(curves, families))
    if preference is not None:
        print(preference)
    print(f"curves.json and figures in {arguments.out} ({time.monotonic() - started:.0f} s)")
    return 0


def _check_curves(
    arguments: argparse.Namespace,
) -> tuple[tuple[str, ...], list[float], list[dict[str, Any]]]:
    """Families of horizon curves, temperatures, and the arguments of each curve."""
    from theory.studies.sweep import FAMILIES, HORIZONS

    family = arguments.family
    if family not in (*FAMILIES, "preference", "sharpening", "all"):
        raise ValueError(
            f"--family={family}: must be {', '.join(FAMILIES)}, preference, sharpening or all"
        )
    for name in UNREAD.get(family, ()):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is not read by --family {family}")
    families = tuple(name for name in FAMILIES if family in (name, "all"))
    alphas = _numbers("--alpha", arguments.alpha, "0.18,1", float, *ALPHAS)
    horizons = _numbers(
        "--horizons", arguments.horizons, ",".join(map(str, HORIZONS)), int, 2, MAX_HORIZON
    )
    vocabs = _numbers("--vocab", arguments.vocab, "2,256", int, 2, MAX_VOCAB)
    odd = [V for V in vocabs if V % 2]
    if odd:
        raise ValueError(f"--vocab={odd[0]}: must be even, so that half the tokens are heads")
    if "coin-payoff" not in families:
        vocabs = vocabs[:1]  # the swapped pair's gap has no V in it
    if len(alphas) * len(vocabs) > MAX_CURVES:
        raise ValueError(
            f"--alpha, --vocab: {len(alphas) * len(vocabs)} pairs; a figure can show {MAX_CURVES}"
        )
    rules = [{"epsilon_over_sqrt": 0.01}, {"epsilon": 0.01}]
    given = [name for rule in rules for name in rule if getattr(arguments, name) is not None]
    if len(given) > 1:
        raise ValueError("--epsilon and --epsilon-over-sqrt: give one of them")
    for name in given:
        option, text = f"--{name.replace('_', '-')}", getattr(arguments, name)
        radii = _numbers(option, text, "", float, *EPSILONS)
        if len(radii) > 1:
            raise ValueError(f"{option}={text}: give one number")
        rules = [{name: radii[0]}]
    check_out(arguments.out)
    points = [
        {"alpha": alpha, "vocab_size": V, "horizons": horizons}
        for V in vocabs
        for alpha in alphas
        if families
    ]
    return families, alphas, [point | rule for rule in rules for point in points]


def _learn(arguments: argparse.Namespace) -> int:
    from theory.reports import figures as plot
    from theory.storage.runs import RunFolder
    from theory.studies import learning

    started = time.monotonic()
    if arguments.expert not in (*learning.EXPERTS, "all"):
        raise ValueError(
            f"--expert={arguments.expert}: must be {', '.join(learning.EXPERTS)} or all"
        )
    experts = [name for name in learning.EXPERTS if arguments.expert in (name, "all")]
    default = ",".join(map(str, learning.HORIZONS)), ",".join(map(str, learning.SIZES))
    horizons = _numbers("--horizons", arguments.horizons, default[0], int, 1, 2**16)
    sizes = _numbers("--demonstrations", arguments.demonstrations, default[1], int, 1, 10**15)
    check_alpha(arguments.alpha)
    for name, most in (("vocab", 2**16), ("window", 64), ("prompts", 2**20), ("seeds", 10**6)):
        if not 1 <= getattr(arguments, name) <= most:
            raise ValueError(f"--{name}={getattr(arguments, name)}: must be from 1 to {most:,}")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed={arguments.seed}: must be from 0 to 2^63 - 1")
    check_out(arguments.out)
    names = ("alpha", "window", "prompts", "smoothing", "seeds")
    options = {name: getattr(arguments, name) for name in names}
    setting = learning.LearningSetting(vocab_size=arguments.vocab, **options)
    with RunFolder(arguments.out) as run:
        curve = learning.learning_curve(
            horizons, sizes, experts=experts, setting=setting, seed=arguments.seed, run=run
        )
        plot.save(plot.learning_figure(curve), arguments.out, "learning")
    print(curve.render())
    print(f"learning.jsonl and figure in {arguments.out} ({time.monotonic() - started:.0f} s)")
    return 0


def _numbers(
    option: str,
    text: str | None,
    default: str,
    kind: type[float] | type[int],
    low: float,
    high: float,
) -> list[Any]:
    """Numbers separated by commas, in increasing order, each once, from `low` to `high`."""
    try:
        numbers = sorted({kind(word) for word in (default if text is None else text).split(",")})
    except ValueError:
        raise ValueError(
            f"{option}={text}: must be {'whole ' if kind is int else ''}numbers separated by commas"
        ) from None
    for number in numbers:
        if not low <= number <= high:
            raise ValueError(f"{option}={number:g}: must be from {low:g} to {high:g}")
    return numbers


def _solve(arguments: argparse.Namespace) -> int:
    from theory.arrays.namespace import require_positive
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import plain_optimal, soft_optimal
    from theory.storage.files import write_json

    alpha, epsilon = arguments.alpha, arguments.epsilon
    check_alpha(alpha)
    if epsilon is not None:
        require_positive("--epsilon", epsilon)
        if not RADII[0] <= epsilon <= RADII[1]:
            raise ValueError(
                f"--epsilon={epsilon:g}: must be from {RADII[0]:g} to {RADII[1]:g} nats"
            )
    _check_json(arguments.json)
    mdp = TokenMDP.load(arguments.file)
    if mdp.batch_shape:
        raise ValueError(
            f"{arguments.file}: reward_0 has batch axes {mdp.batch_shape}; store one MDP a file"
        )
    solved, best = soft_optimal(mdp, alpha), plain_optimal(mdp)
    numbers = {"alpha": alpha} | _solution(mdp, solved, best)
    print(
        f"{arguments.file}: H = {mdp.horizon}, V = {mdp.vocab_size}, {mdp.dynamics.n_prompts} "
        f"prompt(s), α = {alpha:g}"
    )
    print(f"  soft value  E V*(s₁)                      {numbers['soft_value']:.10g}")
    print(f"  plain value of the soft-optimal policy    {numbers['expert_plain_value']:.10g}")
    print(f"  plain value of the best policy            {numbers['optimal_plain_value']:.10g}")
    print(f"  entropy of the soft-optimal policy        {numbers['expert_entropy']:.10g} nats")
    shown = zip(
        numbers["map_response"], numbers["map_log_prob"], numbers["map_return"], strict=True
    )
    for prompt, (tokens, log_p, total) in enumerate(list(shown)[:10]):
        print(
            f"  MAP response to prompt {prompt}: {' '.join(map(str, tokens))}   log π = "
            f"{log_p:.6g}, r* = {total:.6g}"
        )
    if mdp.dynamics.n_prompts > 10:
        print(f"  … {mdp.dynamics.n_prompts - 10} more prompts: all of them with --json")
    if epsilon is not None:
        worst = _worst_cases(mdp, solved.policy, best, alpha, epsilon)
        _print_worst_cases(worst)
        numbers |= worst
    if arguments.json is not None:
        write_json(arguments.json, numbers)
    return 0


def _solution(mdp: TokenMDP, solution: Solution, best: Solution) -> dict[str, Any]:
    from theory.mdp.responses import log_prob, map_response
    from theory.mdp.values import plain_value, trajectory_entropy
    from theory.solve.reward import returns

    answer = map_response(solution.policy)
    return {
        "horizon": mdp.horizon,
        "vocab_size": mdp.vocab_size,
        "n_prompts": mdp.dynamics.n_prompts,
        "soft_value": float(mdp.dynamics.average(solution.values[0])),
        "expert_plain_value": float(plain_value(mdp, solution.policy)),
        "optimal_plain_value": float(mdp.dynamics.average(best.values[0])),
        "expert_entropy": float(trajectory_entropy(solution.policy)),
        "map_response": answer.tokens.tolist(),
        "map_log_prob": log_prob(solution.policy, answer).tolist(),
        "map_return": returns(mdp, answer).tolist(),
    }


def _worst_cases(
    mdp: TokenMDP, expert: Policy, optimal: Solution, alpha: float, epsilon: float
) -> dict[str, Any]:
    """The exact worst cases over the ball around the soft-optimal policy; `None` for one that is
    out of reach.
    """
    from theory.claims.bounds import every_bound
    from theory.mdp.values import plain_value
    from theory.solve.worst_clone import worst_clone
    from theory.solve.worst_kl import worst_kl
    from theory.solve.worst_map import worst_map
    from theory.solve.worst_preference import worst_preference_pair

    average = mdp.dynamics.average
    value, best = plain_value(mdp, expert), average(optimal.values[0])
    out_of_reach: dict[str, str] = {}

    def unless_too_large(name: str, find: Callable[[], Any]) -> Any:
        try:
            return find()
        except ValueError as error:
            out_of_reach[name] = str(error)
            return None

    mapped = unless_too_large("worst_map_gap", lambda: worst_map(mdp, expert, epsilon))
    least = None if mapped is None else average(mapped.returns)
    kl = unless_too_large("worst_kl", lambda: average(worst_kl(expert, epsilon).values[0]))
    pair = unless_too_large(
        "worst_preference_tv", lambda: worst_preference_pair(mdp, expert, epsilon, alpha)
    )
    return {
        "epsilon": epsilon,
        "worst_clone_gap": float(value - average(worst_clone(mdp, expert, epsilon).values[0])),
        "worst_map_gap": None if least is None else float(value - least),
        "worst_map_gap_optimal": None if least is None else float(best - least),
        "worst_map_response": None if mapped is None else mapped.responses.tokens.tolist(),
        "worst_preference_tv": None if pair is None else float(pair[0]),
        "worst_preference_pair": None
        if pair is None
        else [pair[1].tokens[0].tolist(), pair[2].tokens[0].tolist()],
        "worst_kl": None if kl is None else float(kl),
        "worst_regularised_gap": None if kl is None else float(alpha * kl),
        "bounds": every_bound(mdp.horizon, epsilon, alpha, mdp.vocab_size, mdp.reward_width),
        "out_of_reach": out_of_reach,
    }


WORST_CASES = (
    ("cloning, V^{π_E} − V^{π̂}", "worst_clone_gap", "clone_gap_stepwise", "clone_gap_paper"),
    ("RL, V^{π_E} − V^{π_RL}", "worst_map_gap", "rl_gap_expert", "rl_gap_paper"),
    ("RL, max_π V^π − V^{π_RL}", "worst_map_gap_optimal", "rl_gap", None),
    ("preferences, TV", "worst_preference_tv", "preference_tv_sharp", "preference_tv_paper"),
    ("regularised, α KL(π̂‖π_E)", "worst_regularised_gap", "regularised_gap", None),
)
"""What is shown of `_worst_cases`: a label, the worst case, its sharp bound, and the paper's."""


def _print_worst_cases(worst: dict[str, Any]) -> None:
    title = f"exact worst cases of the ball, ε = {worst['epsilon']:g} nats"
    print(f"  {title:<49}{'worst':>5}{'sharp bound':>14}{'paper':>14}")
    for label, name, sharp, paper in WORST_CASES:
        accents = label.count("\u0302")
        value = "–" if worst[name] is None else f"{worst[name]:.6g}"
        paper_value = "" if paper is None else f"{worst['bounds'][paper]:.6g}"
        print(
            "    "
            f"{label:<{38 + accents}}{value:>14}{worst['bounds'][sharp]:>14.6g}{paper_value:>14}"
        )
    for name, reason in worst["out_of_reach"].items():
        print(f"    {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
