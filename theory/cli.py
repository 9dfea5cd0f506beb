"""The ``endorm`` command: ``verify`` and ``solve``. torch is loaded only where a model is needed.

Exit codes: 0, everything holds; 1, a statement is violated; 2, bad input (one line on standard error).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"endorm {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endorm", description="What is a language model's endogenous reward worth? Exact checks."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    verify = commands.add_parser("verify", help="check every statement on token MDPs and on a language model")
    verify.set_defaults(run=_verify)
    model = verify.add_argument_group("language model (without --model, a small one is trained here)")
    model.add_argument("--model", metavar="M", help="causal LM whose endogenous reward is judged: folder or hub id")
    model.add_argument("--expert", metavar="M", help="causal LM that stands for the expert; default: --model itself")
    model.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; repeat for more")
    model.add_argument("--horizon", type=int, metavar="H", help="tokens of a response (default 4)")
    model.add_argument("--tokens", help="sub-vocabulary: ids '1,2,3' or characters; default: the whole vocabulary")
    model.add_argument("--alpha", type=float, help="temperature of the reward (default 1)")
    model.add_argument("--temperature", type=float, help="sampling temperature of the model (default 1)")
    model.add_argument(
        "--expert-temperature",
        type=float,
        help="sampling temperature of the expert (default 1; 0.9 when model and expert are otherwise the same)",
    )
    model.add_argument("--dtype", help="dtype of the model's weights (default float32)")
    model.add_argument("--expert-dtype", help="dtype of the expert's weights (default float32)")
    verify.add_argument(
        "--instances", type=int, default=256, metavar="N", help="random MDPs of each kind (default 256)"
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

    solve = commands.add_parser("solve", help="solve a token MDP from an .npz file")
    solve.set_defaults(run=_solve)
    solve.add_argument("file", type=Path, metavar="FILE.npz")
    solve.add_argument("--alpha", type=float, required=True, help="temperature, reward units")
    solve.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    from theory import __version__, plot, sweep, verify

    started = time.monotonic()
    _check_verify(arguments)
    model_groups, note = _model_groups(arguments)  # first: its input can be wrong, and then nothing is written
    groups = [*verify.exact_groups(arguments.seed, n_instances=arguments.instances), *model_groups]
    rows = verify.run(groups)
    print(verify.render(groups, rows))
    verdicts = [row.summary.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("holds", "violated", "undecided"))
    horizon, preference = sweep.horizon_curve(), sweep.preference_curve()
    report = {
        "version": __version__,
        "arguments": {name: value for name, value in vars(arguments).items() if name not in ("run", "out", "json")},
        "rows": [row.as_dict() for row in rows],
        "groups": {group.name: group.facts for group in groups},
        "curves": {"horizon": horizon.as_dict(), "preference": preference.as_dict()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot.save(plot.horizon_figure(horizon), arguments.out, "error_vs_horizon")
    plot.save(plot.preference_figure(preference), arguments.out, "tv_vs_epsilon")
    verify.write_json(arguments.out / "report.json", report)
    if arguments.json is not None:
        verify.write_json(arguments.json, report)
    clone, rl = (sweep.fit_exponent(horizon.horizons, ys) for ys in (horizon.clone, horizon.rl))
    print(f"\nexponents of the exact error in H: cloning {clone}, RL on the endogenous reward {rl}")
    if note:
        print(note)
    print(f"{counts}; report and figures in {arguments.out} ({time.monotonic() - started:.0f} s)")
    return 1 if "violated" in verdicts else 0


MODEL_OPTIONS = (
    "expert",
    "prompt",
    "horizon",
    "tokens",
    "alpha",
    "temperature",
    "expert_temperature",
    "dtype",
    "expert_dtype",
)
ALPHAS = (1e-9, 1e9)


def _check_verify(arguments: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in MODEL_OPTIONS if getattr(arguments, name) is not None]
    if arguments.model is None and given:
        raise ValueError(f"{given[0]} needs --model")
    if arguments.model == "" or arguments.expert == "":
        raise ValueError("--model and --expert must name a folder or a hub id, got ''")
    _check_alpha(1.0 if arguments.alpha is None else arguments.alpha)
    if arguments.instances < 1:
        raise ValueError(f"--instances={arguments.instances}: must be at least 1")
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed={arguments.seed}: must be from 0 to 2^63 - 1")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ValueError(f"--out={arguments.out} is a file: give a folder")
    parent = next(folder for folder in (arguments.out, *arguments.out.parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        raise OSError(f"--out={arguments.out}: {parent} cannot be written to; give another folder")
    _check_json(arguments.json)


def _check_alpha(alpha: float) -> None:
    from theory.arrays import require_positive

    require_positive("--alpha", alpha)
    if not ALPHAS[0] <= alpha <= ALPHAS[1]:
        raise ValueError(f"--alpha={alpha:g}: must be from {ALPHAS[0]:g} to {ALPHAS[1]:g}; doubles hold no more")


def _check_json(path: Path | None) -> None:
    if path is not None and path.is_dir():
        raise ValueError(f"--json={path} is a folder: give a file")
    if path is not None and not path.parent.is_dir():
        raise OSError(f"--json={path}: its folder does not exist; create it first")


def _model_groups(arguments: argparse.Namespace) -> tuple[list[Any], str]:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{missing[0]} is not installed: pip install 'endorm[llm]'"
        if arguments.model is not None:
            raise ValueError(f"--model={arguments.model}: {message}")
        return [], f"language model: skipped, {message}"
    from llm_bridge import checks

    if arguments.model is None:
        return [checks.trained_group(seed=arguments.seed)], ""
    given = {name: getattr(arguments, name) for name in MODEL_OPTIONS if getattr(arguments, name) is not None}
    prompts = given.pop("prompt", [])
    return [checks.model_group(arguments.model, prompts=prompts, **given)], ""


def _solve(arguments: argparse.Namespace) -> int:
    from theory.mdp import TokenMDP
    from theory.policy import log_prob, map_response, plain_value, trajectory_entropy
    from theory.reward import returns
    from theory.soft import plain_optimal, soft_optimal
    from theory.verify import write_json

    alpha = arguments.alpha
    _check_alpha(alpha)
    _check_json(arguments.json)
    mdp = TokenMDP.load(arguments.file)
    if mdp.batch_shape:
        raise ValueError(f"{arguments.file}: reward_0 has batch axes {mdp.batch_shape}; store one MDP a file")
    solution, best = soft_optimal(mdp, alpha), plain_optimal(mdp)
    answer = map_response(solution.policy)
    numbers = {
        "alpha": alpha,
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
    print(
        f"{arguments.file}: H = {mdp.horizon}, V = {mdp.vocab_size}, {mdp.dynamics.n_prompts} prompt(s), α = {alpha:g}"
    )
    print(f"  soft value  E V*(s₁)                      {numbers['soft_value']:.10g}")
    print(f"  plain value of the soft-optimal policy    {numbers['expert_plain_value']:.10g}")
    print(f"  plain value of the best policy            {numbers['optimal_plain_value']:.10g}")
    print(f"  entropy of the soft-optimal policy        {numbers['expert_entropy']:.10g} nats")
    shown = zip(numbers["map_response"], numbers["map_log_prob"], numbers["map_return"], strict=True)
    for prompt, (tokens, log_p, total) in enumerate(list(shown)[:10]):
        print(
            f"  MAP response to prompt {prompt}: {' '.join(map(str, tokens))}   log π = {log_p:.6g}, r* = {total:.6g}"
        )
    if mdp.dynamics.n_prompts > 10:
        print(f"  … {mdp.dynamics.n_prompts - 10} more prompts: all of them with --json")
    if arguments.json is not None:
        write_json(arguments.json, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
