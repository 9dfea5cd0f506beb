"""Train in a run folder: evaluation, metrics as they come, samples to read, checkpoints, resume.

The folder has

    run.json           what the result depends on; another run is refused (`theory.storage.runs`)
    config.json        every hyperparameter
    metrics.jsonl      a line a batch: what `Trainer.step` returns, and what `evaluate` returns
                       (before the first batch `start`), and the `seconds` since the line before
    samples.jsonl      a few responses of the batches that are evaluated, with their rewards
    checkpoint.pt      what the next batch depends on; replaced whole or not at all
    model/             the policy at the end, as ``from_pretrained`` reads it; these two unless
                       ``weights=False``
    tensorboard/       the metrics again, on request
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from torch.distributed.checkpoint import state_dict as checkpoints
from tqdm import tqdm

from llm_bridge.improve.policy import merged_adapters
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import CausalLM, save
from llm_bridge.models.prompts import decode_answer
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.rollout import Diverged
from theory import __version__
from theory.storage.files import number, write_json
from theory.storage.runs import Lines, RunFolder, read_lines

__all__ = ["Evaluate", "read_metrics", "save_policy", "train"]

Evaluate: TypeAlias = Callable[[CausalLM], Mapping[str, float]]
"""Measures a policy; the numbers are added to the metrics by name."""

CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
MODEL = "model"
TENSORBOARD = "tensorboard"

SHOWN = 4
"""Responses of an evaluated batch that are written to ``samples.jsonl``."""


def train(
    trainer: Trainer,
    *,
    out: Path | None = None,
    evaluate: Evaluate | None = None,
    start: Evaluate | None = None,
    eval_every: int = 20,
    checkpoint_every: int = 10,
    resume: bool = False,
    tensorboard: bool = False,
    weights: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Train until ``config.steps`` batches are done.

    Args:
        trainer: a new trainer; the first of its processes writes.
        out: run folder, as the module describes it; `None` to keep nothing.
        evaluate: measures the policy, such as `llm_bridge.improve.target.ExactTarget.report`.
        start: measures the policy before the first batch, instead of `evaluate`, such as
            `llm_bridge.check.improvement.SampledTarget.start`.
        eval_every: batches between evaluations; there is one at the start and one at the end too.
        checkpoint_every: batches between checkpoints.
        resume: go on from the checkpoint in `out`; without one there, warns and begins.
        tensorboard: write the metrics for TensorBoard too.
        weights: whether to keep the checkpoint and the policy at the end; without them the folder
            is small, and the run cannot be gone on with.
        stop: called after every batch; if it returns true, a checkpoint is written and training
            ends.

    Returns:
        The trainer; the trained policy is its `lm`.

    Raises:
        Diverged: training was stopped, with the reason; the last checkpoint stays.
        OSError: `out` cannot be written; the last checkpoint stays.
        ValueError: another run is writing to `out`, or has written to it; `out` has a checkpoint
            and `resume` is not set, or `resume` is set and it has files of something else; or the
            checkpoint is damaged.

    Example:
        >>> from llm_bridge.improve.config import PPOConfig
        >>> from llm_bridge.models.cloned import letter_lm
        >>> config = PPOConfig(
        ...     max_tokens=2, prompts_per_step=2, minibatch=4, end_tokens=(), steps=2
        ... )
        >>> train(Trainer(letter_lm(4), ["a", "b"], config)).done
        2

    """
    require_integer("eval_every", eval_every)
    require_integer("checkpoint_every", checkpoint_every)
    if resume and not weights:
        raise ValueError("resume: weights=False keeps no checkpoint to go on from; leave one out")
    if evaluate is not None and trainer.sharded:
        raise ValueError(
            "evaluate: the policy is in pieces (shard=True); evaluate what is left in model/ "
            "afterwards"
        )
    with (
        _recorded(out, resume, tensorboard, trainer) as record,
        tqdm(
            total=trainer.config.steps,
            initial=trainer.done,
            desc=trainer.lm.name,
            disable=None if trainer.group.first else True,
            leave=False,
        ) as bar,
    ):
        if not trainer.done:
            measure = start or evaluate
            record.log({"step": 0} | dict(measure(trainer.lm) if measure is not None else {}))
        while trainer.done < trainer.config.steps:
            try:
                row = trainer.step()
            except Diverged as error:
                reason = f"step {trainer.done + 1}: {error}"
                record.log({"step": trainer.done + 1, "stopped": reason})
                raise Diverged(reason) from None
            last = trainer.done == trainer.config.steps
            if evaluate is not None and (last or trainer.done % eval_every == 0):
                row = dict(evaluate(trainer.lm)) | row
                record.show()
            record.log(row)
            stopping = trainer.group.any(stop()) and not last
            if weights and (last or stopping or trainer.done % checkpoint_every == 0):
                record.save()
            bar.set_postfix(kl=f"{row['kl']:.3g}", reward=f"{row['reward']:.4g}", refresh=False)
            bar.update()
            if stopping:
                return trainer
        if out is not None and weights:
            save_policy(trainer, out / MODEL)
    return trainer


@contextmanager
def _recorded(
    out: Path | None, resume: bool, tensorboard: bool, trainer: Trainer
) -> Iterator[_Record]:
    """Claim the folder, go on from its checkpoint, and open what is written as it comes."""
    if out is None:
        yield _Record(trainer)
        return
    first = trainer.group.first
    name = f"out={str(out)!r}"
    with ExitStack() as stack:
        run = stack.enter_context(RunFolder(out, processes=trainer.group))
        found = out / CHECKPOINT
        if found.exists() and not resume:
            raise ValueError(
                f"{name}: has a checkpoint; use resume=True to go on, or another folder"
            )
        if resume and not found.exists():
            if run.foreign:
                raise ValueError(
                    f"{name}: has no run to go on from; give its folder, or leave resume out"
                )
            if first:
                warnings.warn(
                    f"{name}: has no checkpoint to go on from; begins at step 0", stacklevel=4
                )
        run.identify(
            {"version": __version__, "kind": "ppo"} | trainer.identity, lines=[METRICS, SAMPLES]
        )
        if found.exists():
            trainer.load(found)
        record = _Record(trainer, run)
        if first and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError(
                    "tensorboard: not installed: pip install 'endorm[train]'"
                ) from None
            board = SummaryWriter(str(out / TENSORBOARD), purge_step=trainer.done + 1)
            record.board = stack.enter_context(board)
        yield record


class _Record:
    """Writer of a run's files: only the first process writes, and only into a folder."""

    def __init__(self, trainer: Trainer, run: RunFolder | None = None) -> None:
        self.trainer = trainer
        self.run = run
        self.board: Any = None
        self.lines: dict[str, Lines[int]] = {}
        self.clock = time.monotonic()
        if run is not None and trainer.group.first:
            write_json(run.path / CONFIG, trainer.config.as_dict())
            for name in (METRICS, SAMPLES):
                self.lines[name] = lines = run.lines(name, lambda row: int(row["step"]))
                # lines of batches after the checkpoint will come again
                lines.keep(lambda step: trainer.done > 0 and step <= trainer.done)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to the metrics, with the wall-clock seconds since the row before."""
        now = time.monotonic()
        row = dict(row) | {"seconds": now - self.clock}
        self.clock = now
        if self.lines:
            self.lines[METRICS].append(row)
        if self.board is not None:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, row["step"])

    def show(self) -> None:
        """Add a few responses of the last batch to the samples."""
        trainer = self.trainer
        if trainer.rollout is None or not self.lines:
            return
        prompts, responses = trainer.rollout.texts()
        every = trainer.config.samples
        for i in range(0, min(SHOWN * every, len(prompts)), every):
            self.lines[SAMPLES].append(
                {
                    "step": trainer.done,
                    "prompt": trainer.lm.tokenizer.decode(prompts[i]),
                    "response": decode_answer(
                        trainer.lm, prompts[i].tolist(), responses[i].tolist()
                    ),
                    "reward": float(trainer.rewards[i]),
                    "log_prob": float(trainer.rollout.log_probs[i].sum()),
                }
            )

    def save(self) -> None:
        """Replace the checkpoint; every process takes part."""
        if self.run is not None:
            self.trainer.save(self.run.path / CHECKPOINT)


def read_metrics(out: Path) -> list[dict[str, Any]]:
    r"""Read ``metrics.jsonl`` in the folder of a run: rows in order of their steps.

    Raises:
        OSError: there is no such file.
        ValueError: a line is damaged.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> _ = (out / METRICS).write_text('{"step": 0}\n{"step": 1, "kl": 0.25}\n')
        >>> [row["kl"] for row in read_metrics(out) if row["step"]]
        [0.25]

    """
    path = out / METRICS
    if not path.is_file():
        raise OSError(f"{path}: no such file; give the folder of a run")
    return list(
        read_lines(path, lambda row: {name: number(value) for name, value in dict(row).items()})
    )


def save_policy(trainer: Trainer, folder: Path) -> None:
    """Write the policy and its tokenizer as ``from_pretrained`` reads them, adapters merged.

    Every process takes part, and the first one writes.

    Example:
        >>> import tempfile
        >>> from llm_bridge.improve.config import PPOConfig
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.models.spec import ModelSpec
        >>> config = PPOConfig(max_tokens=2, prompts_per_step=2, minibatch=4, end_tokens=())
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_policy(Trainer(letter_lm(4), ["a", "b"], config), folder)
        >>> ModelSpec(str(folder)).load().tokenizer("cab")["input_ids"]
        [2, 0, 1]

    """
    policy = trainer.lm
    weights = None
    if trainer.sharded:
        whole = checkpoints.StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = checkpoints.get_model_state_dict(policy.model, options=whole)
    if not trainer.group.first:
        return
    if trainer.config.lora is not None:
        policy = replace(
            policy, model=merged_adapters(trainer.frozen.models[0].model, policy.model)
        )
    save(policy, folder, weights)
