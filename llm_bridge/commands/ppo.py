"""The ``endorm ppo`` command. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, the run is complete; 1, it was stopped for a reason that is printed (a reward that is
not finite, a KL that diverges, …); 2, bad input, or a folder that cannot be written; 130, it was
asked to end and can go on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_bridge.improve.config import PPOConfig
    from llm_bridge.improve.run import Evaluate
    from llm_bridge.improve.target import ExactTarget
    from llm_bridge.models.load import CausalLM
    from llm_bridge.tasks.generated import Task

__all__ = ["add_ppo"]

TASKS = {"addition": 4, "sorting": 6}
"""Built-in prompts, and the tokens of their answers."""


def add_ppo(commands: Any) -> None:
    """Add the command to those of a parser."""
    ppo = commands.add_parser("ppo", help="train a model with PPO on its own endogenous reward")
    ppo.set_defaults(run=_ppo)
    ppo.add_argument("--model", required=True, metavar="M", help="folder or hub id")
    what = ppo.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompts", choices=tuple(TASKS), help="prompts made here, with an exact target"
    )
    what.add_argument(
        "--data",
        metavar="FILE",
        help="problems to train on: JSON lines, or a short name as in --eval",
    )
    ppo.add_argument(
        "--n-prompts", type=int, metavar="N", help="prompts to train on (default: 50,000, or all)"
    )
    ppo.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("out/ppo"), help="default out/ppo"
    )
    ppo.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    ppo.add_argument(
        "--config", type=Path, metavar="FILE", help="hyperparameters as JSON; options come on top"
    )
    ppo.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any other hyperparameter",
    )
    ppo.add_argument(
        "--dry-run", action="store_true", help="print hyperparameters, memory and time, and stop"
    )

    often = ppo.add_argument_group("hyperparameters (all of them: --dry-run)")
    for name, kind, help_ in (
        ("alpha", float, "temperature of the reward"),
        ("beta", float, "KL coefficient"),
        ("steps", int, "batches"),
        ("lr", float, "learning rate"),
        ("max-tokens", int, "where a response is cut"),
        ("seed", int, "of prompts, samples and minibatches"),
        ("lora", int, "rank of adapters; default: all weights"),
    ):
        often.add_argument(f"--{name}", type=kind, help=help_)
    often.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of products and of the frozen weights"
    )

    evaluation = ppo.add_argument_group("evaluation")
    evaluation.add_argument(
        "--eval", metavar="NAME,…", help="math500, aime24, amc23, minerva, olympiad, or files"
    )
    evaluation.add_argument(
        "--data-folder", type=Path, metavar="DIR", help="where short names are looked for"
    )
    evaluation.add_argument(
        "--eval-prompts", type=int, metavar="N", help="of each task (default 80, or all)"
    )
    evaluation.add_argument(
        "--eval-samples", type=int, default=1, metavar="K", help="responses to a problem (1)"
    )
    evaluation.add_argument(
        "--eval-every", type=int, default=20, metavar="N", help="batches (default 20)"
    )
    evaluation.add_argument(
        "--chat", action="store_true", help="problems as the user's turn of the chat template"
    )

    machine = ppo.add_argument_group(
        "machine (several processes: torchrun --no-python --nproc-per-node N …)"
    )
    machine.add_argument(
        "--device", help="default: the GPU if there is one, of each process its own"
    )
    machine.add_argument(
        "--checkpoint-every", type=int, default=10, metavar="N", help="batches (default 10)"
    )
    machine.add_argument(
        "--tensorboard", action="store_true", help="also write the metrics for TensorBoard"
    )


def _ppo(arguments: argparse.Namespace) -> int:
    from llm_bridge.commands.main import check_counts, check_llm, check_out

    check_out(arguments.out)
    check_llm()
    if arguments.eval_samples < 0:
        raise ValueError(f"--eval-samples={arguments.eval_samples}: must be at least 0")
    check_counts(arguments, "n_prompts", "eval_prompts", "eval_every", "checkpoint_every")
    from llm_bridge.improve.run import train
    from llm_bridge.models.processes import workers
    from llm_bridge.models.spec import ModelSpec
    from llm_bridge.read.rollout import Diverged

    config = _config(arguments)
    with workers() as group:
        lm = ModelSpec(arguments.model, dtype=config.dtype, device=arguments.device).load()
        prompts, evaluate, target = _tasks(arguments, lm, config)
        if group.first:
            _announce(arguments, lm, config, prompts, group.size)
        if arguments.dry_run:
            return 0
        started = time.monotonic()
        try:
            with _terminated() as stop:
                trainer = train(
                    lm,
                    prompts,
                    config,
                    out=arguments.out,
                    evaluate=evaluate,
                    eval_every=arguments.eval_every,
                    checkpoint_every=arguments.checkpoint_every,
                    resume=arguments.resume,
                    tensorboard=arguments.tensorboard,
                    group=group,
                    stop=stop,
                )
        except Diverged as error:
            print(
                f"endorm ppo: stopped: {error}; the last checkpoint is in {arguments.out}",
                file=sys.stderr,
            )
            return 1
        if group.first and trainer.done == config.steps:
            _report(arguments.out, target, trainer.done, time.monotonic() - started)
    if trainer.done < config.steps:
        print(f"stopped after batch {trainer.done}; go on with --resume", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to end (SIGTERM, as schedulers send it before they kill)."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _config(arguments: argparse.Namespace) -> PPOConfig:
    """Defaults, then those of the task, then the file, then the options."""
    from llm_bridge.improve.config import PPOConfig

    known = {field.name for field in fields(PPOConfig)}
    found: dict[str, Any] = {}
    if arguments.prompts is not None:
        found |= {"max_tokens": TASKS[arguments.prompts], "end_tokens": ()}
    else:
        found |= {
            "max_tokens": 1024,
            "prompts_per_step": 64,
            "samples": 4,
            "minibatch": 64,
            "microbatch": 4,
        }
        found |= {"epochs": 1, "lr": 1e-6, "gradient_checkpointing": True}
    if arguments.config is not None:
        try:
            given = json.loads(arguments.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--config={arguments.config}: cannot be read as JSON ({error})"
            ) from None
        if not isinstance(given, dict):
            raise ValueError(
                f"--config={arguments.config}: must be a JSON object of hyperparameters"
            )
        found |= given
    for pair in arguments.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: must be NAME=VALUE, such as --set epochs=1")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    options = ("alpha", "beta", "steps", "lr", "max_tokens", "seed", "lora", "dtype")
    found |= {name: value for name in options if (value := getattr(arguments, name)) is not None}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise ValueError(
            f"{unknown[0]}: no such hyperparameter; there are {', '.join(sorted(known))}"
        )
    if isinstance(found.get("end_tokens"), list):
        found["end_tokens"] = tuple(found["end_tokens"])
    try:
        return PPOConfig(**found)
    except TypeError as error:
        raise ValueError(f"hyperparameters: {error}; give numbers as JSON writes them") from None


def _tasks(
    arguments: argparse.Namespace, lm: CausalLM, config: PPOConfig
) -> tuple[Sequence[str], Evaluate | None, ExactTarget | None]:
    """Prompts to train on, what is evaluated, and the exact target where there is one (on prompts
    held out).
    """
    from llm_bridge.improve.target import ExactTarget
    from llm_bridge.tasks.accuracy import evaluate_tasks
    from llm_bridge.tasks.generated import addition, sorting

    if arguments.prompts is not None:
        if arguments.eval is not None or arguments.chat:
            raise ValueError(
                f"--prompts {arguments.prompts} is evaluated exactly; leave --eval and --chat out"
            )
        held = arguments.eval_prompts or 80
        if arguments.prompts == "addition":
            both = addition((arguments.n_prompts or 50_000) + held, seed=config.seed)
        else:
            both = sorting(
                None if arguments.n_prompts is None else arguments.n_prompts + held,
                seed=config.seed,
            )
        kept, seen = both.split(held)
        target = ExactTarget(lm, kept.prompts, config, kept.answers)
        return seen.prompts, target.report, target
    train_on = _problems(arguments.data, arguments, lm, config, arguments.n_prompts)
    if arguments.eval is None:
        return train_on.prompts, None, None
    tasks = [
        _problems(name, arguments, lm, config, arguments.eval_prompts)
        for name in arguments.eval.split(",")
    ]

    def evaluate(policy: CausalLM) -> dict[str, float]:
        return evaluate_tasks(
            policy,
            tasks,
            config.max_tokens,
            samples=arguments.eval_samples,
            end_tokens=config.end_tokens,
            seed=config.seed,
        )

    return train_on.prompts, evaluate, None


def _problems(
    name: str, arguments: argparse.Namespace, lm: CausalLM, config: PPOConfig, limit: int | None
) -> Task:
    """The first problems of a file that the model has room for; says how many it has none for, and
    why.
    """
    from llm_bridge.models.load import encode_prompt
    from llm_bridge.tasks.mathematics import DATA, problems

    if arguments.chat and not lm.tokenizer.chat_template:
        raise ValueError(f"--chat: the tokenizer of {lm.name} has no chat template; leave it out")
    folder = arguments.data_folder
    if folder is None and name in DATA:
        folder = Path(os.environ.get("ENDORM_SHARED", "../shared")) / "data"
    task, unusable = problems(name, folder, tokenizer=lm.tokenizer if arguments.chat else None)
    kept: list[int] = []
    left_out = [str(problem) for problem in unusable]
    for i, prompt in enumerate(task.prompts):
        if len(kept) == limit:
            break
        try:
            encode_prompt(lm, prompt, config.max_tokens)
        except ValueError as error:
            left_out.append(str(error))
        else:
            kept.append(i)
    if left_out:
        text = (
            left_out[0] if len(left_out[0]) < 300 else f"{left_out[0][:80]} … {left_out[0][-200:]}"
        )
        print(
            f"endorm ppo: {task.name}: {len(left_out)} left out, the first: {text}", file=sys.stderr
        )
    if not kept:
        raise ValueError(f"{name}: no problem that {lm.name} has room for; give fewer --max-tokens")
    return task.take(kept)


def _announce(
    arguments: argparse.Namespace,
    lm: CausalLM,
    config: PPOConfig,
    prompts: Sequence[str],
    processes: int,
) -> None:
    from llm_bridge.improve.cost import cost
    from llm_bridge.models.load import encode

    shown = prompts[:64]
    length = sum(len(encode(lm.tokenizer, prompt)) for prompt in shown) / len(shown)
    print(
        f"{lm.name}: {len(prompts):,} prompts of about {length:.0f} tokens, {config.steps} batches "
        "of "
        f"{config.prompts_per_step} × {config.samples} responses"
    )
    print("\n".join(cost(lm, config, length, processes).lines(config)))
    if arguments.dry_run:
        print(json.dumps(asdict(config), indent=1))


def _report(out: Path, target: ExactTarget | None, done: int, seconds: float) -> None:
    """Where the run ended, against where it must end."""
    from llm_bridge.improve.run import read_metrics

    rows = [row for row in read_metrics(out) if row["step"] in (0, done)]
    first, last = rows[0], rows[-1]
    print(f"{seconds:.0f} s, batch {done}; metrics, samples, checkpoint and model in {out}")
    if target is None:
        for name in (name for name in first if "/" in name):
            print(f"  {name:<24}{first[name]:>9.3f} → {last[name]:.3f}")
        return
    best = target.measure(target.optimum)
    print(f"{'on prompts not trained on':<28}{'π̂':>10}{'now':>10}{'optimum':>10}{'share':>9}")
    for name in (
        "objective",
        "accuracy_sampled",
        "accuracy_map",
        "accuracy_greedy",
        "kl_to_anchor",
        "entropy",
    ):
        if name in first and name in last:
            way = best[name] - first[name]
            share = f"{(last[name] - first[name]) / way:>8.0%}" if abs(way) > 1e-3 else f"{'–':>8}"
            print(f"  {name:<26}{first[name]:>10.4f}{last[name]:>10.4f}{best[name]:>10.4f} {share}")
    distance = best["objective"] - last["objective"]
    print(
        f"exact distance to the optimum: {distance:.4f} reward units, KL(π‖optimum) = "
        f"{last['kl_to_optimum']:.4f} nats"
    )
