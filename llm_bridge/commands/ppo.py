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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from llm_bridge.tasks.named import TASKS
from theory.commands import shared
from theory.commands.options import Command, Group, OptionError, Options, option
from theory.storage.files import parsed_json, write_json

if TYPE_CHECKING:
    from llm_bridge.check.improvement import SampledTarget
    from llm_bridge.improve.run import Evaluate
    from llm_bridge.improve.target import ExactTarget
    from llm_bridge.models.load import CausalLM
    from llm_bridge.tasks.generated import Task

__all__ = ["COMMAND", "PPOOptions"]

OF_DATA = {
    "max_tokens": 1024,
    "prompts_per_step": 64,
    "samples": 4,
    "minibatch": 64,
    "microbatch": 4,
    "epochs": 1,
    "gradient_checkpointing": True,
}
"""Hyperparameters where problems of a file are trained on."""

EVALUATION = "evaluation"
PLACE = "run"
HELD_OUT = 80
"""Prompts held out; fewer where there are few: what --n-prompts leaves, or a fifth of all."""


@dataclass(frozen=True)
class PPOOptions(Options):
    """What is trained on, what is evaluated, and where the run is kept."""

    task: str | None = option(
        None,
        help="prompts made here; addition and sorting have an exact target",
        choices=tuple(TASKS),
    )
    data: str | None = option(
        None,
        help="problems to train on: JSON lines, or a short name as in --eval",
        metavar="FILE",
    )
    data_folder: Path | None = option(
        None, help="where short names and the files of tasks are looked for", metavar="DIR"
    )
    n_prompts: int | None = option(
        None, help="prompts to train on", low=1, default_text="all, or 50,000 sums of addition"
    )
    config: Path | None = option(
        None, help="hyperparameters as JSON; options come on top", metavar="FILE"
    )
    dry_run: bool = option(False, help="print hyperparameters, memory and time, and stop")
    out: Path = shared.out("out/ppo", "metrics, samples, checkpoint and model")
    json: Path | None = shared.json_file()
    resume: bool = option(False, help="go on from the checkpoint in --out", group=PLACE)
    checkpoint_every: int = option(10, help="batches between checkpoints", low=1, group=PLACE)
    tensorboard: bool = option(False, help="also write the metrics for TensorBoard", group=PLACE)
    no_weights: bool = option(
        False,
        help="keep neither checkpoint nor model: a small folder, and no run to go on with",
        group=PLACE,
    )
    eval: tuple[str, ...] | None = option(
        None,
        help="evaluated instead of held-out prompts: math500, aime24, amc23, minerva, olympiad, "
        "or files",
        metavar="NAME",
        group=EVALUATION,
    )
    eval_prompts: int | None = option(
        None,
        help="prompts held out, or of each task of --eval",
        low=1,
        default_text=f"{HELD_OUT}, or what is left, at most a fifth; all of --eval",
        group=EVALUATION,
    )
    eval_samples: int = option(
        8,
        help="responses to a prompt, which best-of-k and vote choose from",
        low=2,
        group=EVALUATION,
    )
    eval_every: int = option(20, help="batches between evaluations", low=1, group=EVALUATION)

    def check(self) -> None:
        """Take prompts from one place, and go on only from what is kept."""
        if (self.task is None) == (self.data is None):
            raise OptionError("task", "or {data}: give one of them")
        if self.resume and self.no_weights:
            raise OptionError("resume", "and {no_weights}: give one of them")

    def unread(self) -> dict[str, str]:
        """A task with an exact target is evaluated on prompts of its own."""
        dry = {"json": "means nothing with {dry_run}: nothing is found"} if self.dry_run else {}
        if self.task is None or not TASKS[self.task].exact:
            return (
                {"checkpoint_every": "means nothing with {no_weights}"} if self.no_weights else {}
            ) | dry
        reason = f"is not read with {{task}} {self.task}"
        return dict.fromkeys(("eval", "data_folder"), reason) | dry


def run(arguments: argparse.Namespace) -> int:
    """Train, or say what training would take; returns the exit code."""
    options = PPOOptions.read(arguments)
    config = _config(arguments, options)
    # where all weights are trained, the frozen ones are read as those are: in float32
    dtype = "float32" if config.lora is None else config.dtype
    model = ModelSpec.read(arguments, dtype=dtype)
    teacher = read_second(arguments, "teacher-", model, dtype=dtype)
    plain = options.task is not None and TASKS[options.task].exact
    if plain and not config.checked:
        exactly = f"is not read with --task {options.task}, which is evaluated exactly"
        PPOOptions.refuse(arguments, exactly, ("eval_samples",))
    if plain:
        PromptFormat.refuse(arguments, f"is not read with --task {options.task}: plain text")
    given = PromptFormat.read(arguments, chat=False if plain else None)
    require_packages()
    from llm_bridge.improve.run import train
    from llm_bridge.improve.trainer import Trainer
    from llm_bridge.models.load import require_same_vocabulary
    from llm_bridge.models.processes import workers
    from llm_bridge.read.rollout import Diverged
    from llm_bridge.tasks.sampling import checked_reward

    with workers() as group:
        lm = formatted(model.load(), given, options.out if options.resume else None)
        reward_of = None if teacher is None else teacher.load().read_as(lm)
        if reward_of is not None:
            require_same_vocabulary(lm, reward_of)
        training, targets = _targets(options, config, lm, reward_of)
        if group.first:
            with redirect_stdout(shared.text_stream(options.json)):
                _announce(options, lm, config, training.prompts, group.size)
        if options.dry_run:
            return 0
        started = time.monotonic()
        try:
            with _asked_to_stop() as stop:
                extra = checked_reward(lm, training, config) if config.checked else None
                trainer = train(
                    Trainer(
                        lm, training.prompts, config, teacher=reward_of, extra=extra, group=group
                    ),
                    out=options.out,
                    evaluate=_measure(targets, first=False),
                    start=_measure(targets, first=True),
                    eval_every=options.eval_every,
                    checkpoint_every=options.checkpoint_every,
                    resume=options.resume,
                    tensorboard=options.tensorboard,
                    weights=not options.no_weights,
                    stop=stop,
                )
        except Diverged as error:
            kept = "no weights are kept" if options.no_weights else "the last checkpoint is"
            print(f"endorm ppo: stopped: {error}; {kept} in {options.out}", file=sys.stderr)
            if group.first:
                _stopped(options, error, _facts(config, lm))
            return 1
        if group.first and trainer.done == config.steps:
            seconds = time.monotonic() - started
            _report(options, targets, trainer.done, seconds, _facts(config, lm))
    if trainer.done < config.steps:
        further = "no weights are kept" if options.no_weights else "go on with --resume"
        print(f"stopped after batch {trainer.done}; {further}", file=sys.stderr)
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
    found: dict[str, Any] = dict(OF_DATA)
    if options.task is not None:
        named = TASKS[options.task]
        found = {"max_tokens": named.max_tokens} | ({"end_tokens": ()} if named.exact else {})
    if options.config is not None:
        found |= _read_config(options.config)
    return PPOConfig.read(arguments, **found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        given = parsed_json(path.read_text(encoding="utf-8"))
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


def _targets(
    options: PPOOptions, config: PPOConfig, lm: CausalLM, teacher: CausalLM | None
) -> tuple[Task, list[ExactTarget] | list[SampledTarget]]:
    """Return the task that is trained on, and what is evaluated: prompts that are held out."""
    from llm_bridge.check.improvement import SampledTarget
    from llm_bridge.improve.target import ExactTarget

    held = 0 if options.eval else options.eval_prompts or HELD_OUT
    given = None if options.n_prompts is None else options.n_prompts + held
    if options.task is not None:
        task = _named(options.task, given, config.seed, options.data_folder)
        if not TASKS[options.task].exact:
            task = _that_fit(task, (), lm, config, None)
    else:
        assert options.data is not None
        task = _problems(options.data, options, lm, config, given)
    held = _held_out(options, task.name, len(task.prompts))
    if options.eval:
        others = [_problems(x, options, lm, config, options.eval_prompts) for x in options.eval]
    else:
        first, task = task.split(held)
        others = [first]
    if options.task is not None and TASKS[options.task].exact and not config.checked:
        (kept,) = others
        return task, [ExactTarget(lm, kept.prompts, config, kept.answers, teacher)]
    _require_names([task.name for task in others])
    how: dict[str, Any] = {"teacher": teacher, "samples": options.eval_samples}
    return task, [SampledTarget(lm, other, config, **how) for other in others]


def _named(name: str, n: int | None, seed: int, folder: Path | None) -> Task:
    """Make a task, of as many prompts as it has where these are fewer than `n`."""
    named = TASKS[name]
    try:
        try:
            return named.make(named.n_prompts if n is None else n, seed, folder)
        except ValueError:
            whole = named.make(None, seed, folder)
            if n is None or len(whole.prompts) >= n:
                raise
            return whole
    except ValueError as error:
        said = str(error).replace("folder=None: ", "--data-folder is missing: ")
        raise ValueError(f"--task {name}: {said}") from None


def _held_out(options: PPOOptions, name: str, n: int) -> int:
    """Return how many of `n` prompts are held out; raise unless the others are as many as are asked
    for.
    """
    wanted = options.n_prompts or 1
    if options.eval:
        held = 0
    elif options.eval_prompts:
        held = options.eval_prompts
    else:  # our own choice: of few prompts a fifth, or what those to train on leave
        few = n // 5 if options.n_prompts is None else n - wanted
        held = min(HELD_OUT, max(1, few))
    there = f"{name} has {n:,} prompts"
    if n <= held:
        most = f"give at most {n - 1}" if n > 1 else "give others with --eval"
        raise ValueError(f"--eval-prompts={held}: {there}, and some are to train on; {most}")
    if n < wanted + held:
        others = f", {held} of them held out (--eval-prompts)" if held else ""
        raise ValueError(f"--n-prompts={wanted}: {there}{others}; give at most {n - held}")
    return held


def _require_names(names: Sequence[str]) -> None:
    """Raise unless tasks have different names: their metrics go by them."""
    if len(set(names)) < len(names):
        raise ValueError(f"--eval: two tasks are called by one name ({', '.join(names)})")


def _measure(targets: Sequence[ExactTarget | SampledTarget], first: bool) -> Evaluate:
    """Return what measures a policy on all targets, `first` before training."""
    from llm_bridge.check.improvement import SampledTarget

    def evaluate(lm: CausalLM) -> dict[str, float]:
        found: dict[str, float] = {}
        for target in targets:
            if first and isinstance(target, SampledTarget):
                found |= target.start(lm)
            else:
                found |= target.report(lm)
        return found

    return evaluate


def _problems(
    name: str, options: PPOOptions, lm: CausalLM, config: PPOConfig, limit: int | None
) -> Task:
    """Return the first problems of a file that the model has room for."""
    from llm_bridge.tasks.mathematics import DATA, problems

    folder = options.data_folder
    if folder is None and name in DATA:
        raise ValueError(f"{name}: a short name; give --data-folder, a folder with {DATA[name]}")
    task, unusable = problems(name, folder)
    return _that_fit(task, [str(problem) for problem in unusable], lm, config, limit)


def _that_fit(
    task: Task, unusable: Sequence[str], lm: CausalLM, config: PPOConfig, limit: int | None
) -> Task:
    """Return the first prompts that the model has room for, as its format has them; say how many it
    has none for, and why.
    """
    from llm_bridge.models.prompts import encode_prompt

    task = replace(task, prompts=tuple(as_prompts(lm, task.prompts)))
    kept: list[int] = []
    left_out = list(unusable)
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
        raise ValueError(
            f"{task.name}: no problem that {lm.name} has room for; give fewer --max-tokens"
        )
    return task.take(kept)


def _announce(
    options: PPOOptions,
    lm: CausalLM,
    config: PPOConfig,
    prompts: Sequence[Prompt],
    processes: int,
) -> None:
    from llm_bridge.improve.config import learning_rate
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
    if config.lr is None:
        n = sum(p.numel() for p in lm.model.parameters())
        config = replace(config, lr=learning_rate(n, config.lora))
        print(f"learning rate: {config.lr:g}, by the size of the model ({n / 1e6:.3g} M)")
    for note in model_findings(lm):
        print(f"note: {note}")
    if options.dry_run:
        print(json.dumps(config.as_dict(), indent=1))


def _report(
    options: PPOOptions,
    targets: Sequence[ExactTarget | SampledTarget],
    done: int,
    seconds: float,
    facts: Mapping[str, Any],
) -> None:
    """Print where the run ended, against where it must end; write it as a page, and as JSON."""
    from llm_bridge.check.improvement import SampledTarget
    from llm_bridge.improve.report import progress_report, sampled_report, summary
    from llm_bridge.improve.run import SAMPLES, read_metrics
    from theory.storage.runs import read_lines

    out = options.out
    kept = "metrics and samples" if options.no_weights else "metrics, samples, checkpoint and model"
    rows = read_metrics(out)
    samples = list(read_lines(out / SAMPLES, dict)) if (out / SAMPLES).exists() else []
    names = [target.task.name for target in targets if isinstance(target, SampledTarget)]
    title = f"PPO of {facts['model']} on an endogenous reward"
    if names:
        evaluated = [row for row in rows if f"{names[0]}/objective" in row]
        found = summary(evaluated[0], evaluated[-1], names)
        shown = (title, evaluated, names, options.eval_samples, facts, samples)
        report = sampled_report(*shown)
    else:
        (target,) = targets
        assert not isinstance(target, SampledTarget)
        first, last = (row for row in rows if row["step"] in (0, done))
        optimum = target.measure(target.optimum)
        found = {"first": first, "last": last, "optimum": optimum}
        report = progress_report(title, first, last, optimum, facts, samples)
    report.save(out)
    found["seconds"] = sum(row["seconds"] for row in rows)
    found = report.head("ppo/1") | found
    write_json(out / "summary.json", found)
    where = f"{seconds:.0f} s, batch {done}; report.html, {kept} in {out}"
    shared.show(report, where, found, options.json, verbose=False)


def _stopped(options: PPOOptions, error: Exception, facts: Mapping[str, Any]) -> None:
    """Write a page that says why a run was stopped, where it has a folder."""
    from theory.reports.report import Report

    if options.out.is_dir():
        title = f"PPO of {facts['model']} on an endogenous reward"
        report = Report(title, [f"STOPPED: {error}"], facts, passed=False)
        report.save(options.out)
        write_json(options.out / "summary.json", report.head("ppo/1"))
        shared.hand_over(report.head("ppo/1"), options.json)


SHOWN_FACTS = ("alpha", "beta", "gamma", "steps", "prompts_per_step", "samples", "max_tokens", "lr")
"""Hyperparameters that a report shows; ``run.json`` has all."""


def _facts(config: PPOConfig, lm: CausalLM) -> dict[str, Any]:
    every = config.as_dict()
    return {
        "model": lm.name,
        **{name: every[name] for name in SHOWN_FACTS if every.get(name) is not None},
        "seed": config.seed,
        "found of the model": model_findings(lm) or "nothing to note",
    }


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
    ("endorm ppo --model M --task addition --beta 0.1 --out DIR",),
)
