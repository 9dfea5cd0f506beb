"""The ``endorm ppo`` command. torch is loaded when it runs, not when its options are listed.

Exit codes: 0, the run is complete; 1, it was stopped for a reason that is printed (a reward that is
not finite, a KL that diverges, …); 2, bad input, or a folder that cannot be written; 130, it was
asked to end and can go on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_bridge.commands.options import (
    AS_FIRST,
    as_prompts,
    formatted,
    model_findings,
    read_second,
    require_packages,
)
from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.prompt_format import Prompt, PromptFormat
from llm_bridge.models.spec import ModelSpec
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, Options, option

if TYPE_CHECKING:
    from llm_bridge.improve.run import Evaluate
    from llm_bridge.improve.target import ExactTarget
    from llm_bridge.models.load import CausalLM
    from llm_bridge.tasks.generated import Task

__all__ = ["COMMAND", "PPOOptions"]

OF_TASKS: dict[str, dict[str, Any]] = {
    "addition": {"max_tokens": 4, "end_tokens": ()},
    "sorting": {"max_tokens": 6, "end_tokens": ()},
    "molecules": {"max_tokens": 74, "prompts_per_step": 1, "samples": 128, "minibatch": 32},
}
"""Hyperparameters of the built-in tasks: their answers have so many tokens."""

OF_DATA = {
    "max_tokens": 1024,
    "prompts_per_step": 64,
    "samples": 4,
    "minibatch": 64,
    "microbatch": 4,
    "epochs": 1,
    "lr": 1e-6,
    "gradient_checkpointing": True,
}
"""Hyperparameters where problems of a file are trained on."""

EVALUATION = "evaluation"
PLACE = "run"
HELD_OUT = 80
N_PROMPTS = 50_000
N_MOLECULES = 256


@dataclass(frozen=True)
class PPOOptions(Options):
    """What is trained on, what is evaluated, and where the run is kept."""

    task: Literal["addition", "sorting", "molecules"] | None = option(
        None,
        help="prompts made here, with an exact target; or molecules from the empty prompt, "
        "judged by RDKit",
    )
    data: str | None = option(
        None,
        help="problems to train on: JSON lines, or a short name as in --eval",
        metavar="FILE",
    )
    n_prompts: int | None = option(
        None, help="prompts to train on", low=1, default_text=f"{N_PROMPTS:,}, or all"
    )
    config: Path | None = option(
        None, help="hyperparameters as JSON; options come on top", metavar="FILE"
    )
    dry_run: bool = option(False, help="print hyperparameters, memory and time, and stop")
    out: Path = shared.out("out/ppo", "metrics, samples, checkpoint and model")
    resume: bool = option(False, help="go on from the checkpoint in --out", group=PLACE)
    checkpoint_every: int = option(10, help="batches between checkpoints", low=1, group=PLACE)
    tensorboard: bool = option(False, help="also write the metrics for TensorBoard", group=PLACE)
    eval: tuple[str, ...] | None = option(
        None,
        help="math500, aime24, amc23, minerva, olympiad, or files",
        metavar="NAME",
        group=EVALUATION,
    )
    data_folder: Path | None = option(
        None, help="where short names are looked for", metavar="DIR", group=EVALUATION
    )
    eval_prompts: int | None = option(
        None,
        help="problems of each task",
        low=1,
        default_text=f"{HELD_OUT}, or all",
        group=EVALUATION,
    )
    eval_samples: int | None = option(
        None,
        help="responses to a problem",
        low=0,
        default_text=f"1, or {N_MOLECULES} molecules",
        group=EVALUATION,
    )
    eval_every: int = option(20, help="batches between evaluations", low=1, group=EVALUATION)

    def check(self) -> None:
        """Take prompts from one place."""
        if (self.task is None) == (self.data is None):
            raise OptionError("task", "or {data}: give one of them")

    def unread(self) -> dict[str, str]:
        """A built-in task is evaluated exactly, on prompts of its own; a file only on request."""
        if self.task is None:
            names = () if self.eval else ("eval_prompts", "eval_samples", "eval_every")
            return dict.fromkeys(names, "needs {eval}")
        if self.task == "molecules":
            reason = "is not read with {task} molecules, which has one prompt of its own"
            return dict.fromkeys(("n_prompts", "eval", "eval_prompts", "data_folder"), reason)
        reason = f"is not read with {{task}} {self.task}, which is evaluated exactly"
        return dict.fromkeys(("eval", "eval_samples", "data_folder"), reason)


def run(arguments: argparse.Namespace) -> int:
    """Train, or say what training would take; returns the exit code."""
    options = PPOOptions.read(arguments)
    config = _config(arguments, options)
    # where all weights are trained, the frozen ones are read as those are: in float32
    dtype = "float32" if config.lora is None else config.dtype
    model = ModelSpec.read(arguments, dtype=dtype)
    teacher = read_second(arguments, "teacher-", model, dtype=dtype)
    if options.task is not None:
        PromptFormat.refuse(arguments, f"is not read with --task {options.task}: plain text")
    given = PromptFormat.read(arguments, chat=None if options.task is None else False)
    require_packages()
    from llm_bridge.improve.run import train
    from llm_bridge.improve.trainer import Trainer
    from llm_bridge.models.processes import workers
    from llm_bridge.read.rollout import Diverged

    with workers() as group:
        lm = formatted(model.load(), given, options.out if options.resume else None)
        reward_of = None if teacher is None else teacher.load().read_as(lm)
        prompts, evaluate, target = _prompts(options, config, lm, reward_of)
        if group.first:
            _announce(options, lm, config, prompts, group.size)
        if options.dry_run:
            return 0
        started = time.monotonic()
        try:
            with _asked_to_stop() as stop:
                trainer = train(
                    Trainer(lm, prompts, config, teacher=reward_of, group=group),
                    out=options.out,
                    evaluate=evaluate,
                    eval_every=options.eval_every,
                    checkpoint_every=options.checkpoint_every,
                    resume=options.resume,
                    tensorboard=options.tensorboard,
                    stop=stop,
                )
        except Diverged as error:
            print(
                f"endorm ppo: stopped: {error}; the last checkpoint is in {options.out}",
                file=sys.stderr,
            )
            return 1
        if group.first and trainer.done == config.steps:
            _report(options.out, target, trainer.done, time.monotonic() - started)
    if trainer.done < config.steps:
        print(f"stopped after batch {trainer.done}; go on with --resume", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM and the first Ctrl-C; yield whether one has come.

    The batch is completed and its checkpoint saved. A second Ctrl-C stops at once.
    """
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: Any) -> None:
        asked.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
            print("stopping after this batch; Ctrl-C again stops at once", file=sys.stderr)

    try:
        for number in before:
            signal.signal(number, ask)
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(arguments: argparse.Namespace, options: PPOOptions) -> PPOConfig:
    """Defaults, then those of the task, then the file, then the options."""
    found: dict[str, Any] = dict(OF_DATA if options.task is None else OF_TASKS[options.task])
    if options.config is not None:
        found |= _read_config(options.config)
    return PPOConfig.read(arguments, **found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--config={path}: cannot be read as JSON ({error})") from None
    if not isinstance(given, dict):
        raise ValueError(f"--config={path}: must be a JSON object of hyperparameters")
    known = PPOConfig.declared()
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"--config={path}: {unknown[0]}: no such hyperparameter; there are "
            f"{', '.join(sorted(known))}"
        )
    return {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}


def _prompts(
    options: PPOOptions, config: PPOConfig, lm: CausalLM, teacher: CausalLM | None
) -> tuple[Sequence[Prompt], Evaluate | None, ExactTarget | None]:
    """Prompts to train on, what is evaluated, and the exact target where there is one (on prompts
    held out).
    """
    if options.task == "molecules":
        from llm_bridge.tasks.molecules import evaluate_molecules, molecules

        samples = N_MOLECULES if options.eval_samples is None else options.eval_samples
        evaluate = partial(
            evaluate_molecules,
            max_tokens=config.max_tokens,
            samples=samples,
            end_tokens=config.end_tokens,
            seed=config.seed,
        )
        return molecules().prompts, evaluate, None
    if options.task is not None:
        from llm_bridge.improve.target import ExactTarget
        from llm_bridge.tasks.generated import addition, sorting

        held = options.eval_prompts or HELD_OUT
        n = options.n_prompts
        if options.task == "addition":
            both = addition((n or N_PROMPTS) + held, seed=config.seed)
        else:
            both = sorting(None if n is None else n + held, seed=config.seed)
        kept, seen = both.split(held)
        target = ExactTarget(lm, kept.prompts, config, kept.answers, teacher)
        return seen.prompts, target.report, target
    from llm_bridge.tasks.accuracy import evaluate_tasks

    assert options.data is not None
    train_on = _problems(options.data, options, lm, config, options.n_prompts)
    if options.eval is None:
        return train_on.prompts, None, None
    tasks = [_problems(name, options, lm, config, options.eval_prompts) for name in options.eval]
    evaluate = partial(
        evaluate_tasks,
        tasks=tasks,
        max_tokens=config.max_tokens,
        samples=1 if options.eval_samples is None else options.eval_samples,
        end_tokens=config.end_tokens,
        seed=config.seed,
    )
    return train_on.prompts, evaluate, None


def _problems(
    name: str, options: PPOOptions, lm: CausalLM, config: PPOConfig, limit: int | None
) -> Task:
    """The first problems of a file that the model has room for; says how many it has none for, and
    why.
    """
    from llm_bridge.models.prompts import encode_prompt
    from llm_bridge.tasks.mathematics import DATA, problems

    folder = options.data_folder
    if folder is None and name in DATA:
        raise ValueError(f"{name}: a short name; give --data-folder, a folder with {DATA[name]}")
    task, unusable = problems(name, folder)
    task = replace(task, prompts=tuple(as_prompts(lm, task.prompts)))
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
        first = left_out[0]
        if len(first) >= 300:
            first = f"{first[:80]} … {first[-200:]}"
        print(
            f"endorm ppo: {task.name}: {len(left_out)} left out, the first: {first}",
            file=sys.stderr,
        )
    if not kept:
        raise ValueError(f"{name}: no problem that {lm.name} has room for; give fewer --max-tokens")
    return task.take(kept)


def _announce(
    options: PPOOptions,
    lm: CausalLM,
    config: PPOConfig,
    prompts: Sequence[Prompt],
    processes: int,
) -> None:
    from llm_bridge.improve.cost import cost
    from llm_bridge.models.prompts import encode_prompt

    shown = prompts[:64]
    length = sum(len(encode_prompt(lm, prompt, 1)) for prompt in shown) / len(shown)
    print(
        f"{lm.name}: {len(prompts):,} prompts of about {length:.0f} tokens, {config.steps} batches "
        "of "
        f"{config.prompts_per_step} × {config.samples} responses"
    )
    print("\n".join(cost(lm, config, length, processes).lines(config)))
    for note in model_findings(lm):
        print(f"note: {note}")
    if options.dry_run:
        print(json.dumps(config.as_dict(), indent=1))


def _report(out: Path, target: ExactTarget | None, done: int, seconds: float) -> None:
    """Where the run ended, against where it must end."""
    from llm_bridge.improve.report import progress_report
    from llm_bridge.improve.run import read_metrics

    rows = [row for row in read_metrics(out) if row["step"] in (0, done)]
    title = f"{seconds:.0f} s, batch {done}; metrics, samples, checkpoint and model in {out}"
    best = None if target is None else target.measure(target.optimum)
    print(progress_report(title, rows[0], rows[-1], best).text())


WITHOUT = ("temperature", "dtype", "device_map")
"""PPO trains at temperature 1, on one device a process; its dtype is a hyperparameter."""

COMMAND = Command(
    "ppo",
    "train a model with PPO on its own endogenous reward",
    (
        Group(PPOOptions),
        Group(
            ModelSpec,
            "model (several processes: torchrun --no-python --nproc-per-node N endorm ppo …)",
            without=WITHOUT,
        ),
        Group(
            ModelSpec,
            "teacher: the reward of another model than --model itself",
            prefix="teacher-",
            without=WITHOUT,
            optional=True,
            defaults=AS_FIRST,
        ),
        Group(PPOConfig),
        Group(PromptFormat, "prompts"),
    ),
    run,
)
