"""A training run in a folder: evaluation, metrics as they come, samples to read, checkpoints, going
on after a stop.

The folder has

    run.json           everything that the result depends on: another run is refused
    (`theory.storage.runs`) config.json        every hyperparameter metrics.jsonl      a line a
    batch: what `Trainer.step` returns, and what `evaluate` says where it is asked samples.jsonl
    a few responses of the batches that are evaluated, with their rewards checkpoint.pt
    everything that the next batch depends on; replaced whole or not at all model/             the
    policy at the end, as ``from_pretrained`` reads it tensorboard/       the metrics again, where
    asked
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from torch.distributed.checkpoint import state_dict as checkpoints
from tqdm import tqdm

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Reward, Trainer
from llm_bridge.models.load import CausalLM, save
from llm_bridge.models.processes import Workers
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.rollout import Diverged, Ids
from theory import __version__
from theory.storage.files import number, write_json
from theory.storage.runs import RunFolder, read_lines

__all__ = ["Evaluate", "read_metrics", "save_policy", "train"]

Evaluate: TypeAlias = Callable[[CausalLM], Mapping[str, float]]

CONFIG = "config.json"
CHECKPOINT, METRICS, SAMPLES, MODEL, TENSORBOARD = (
    "checkpoint.pt",
    "metrics.jsonl",
    "samples.jsonl",
    "model",
    "tensorboard",
)
SHOWN = 4
"""Responses kept of a batch that is evaluated."""


def train(
    lm: CausalLM,
    prompts: Sequence[str | Ids],
    config: PPOConfig,
    *,
    out: Path | None = None,
    evaluate: Evaluate | None = None,
    eval_every: int = 20,
    checkpoint_every: int = 10,
    teacher: CausalLM | None = None,
    extra: Reward | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    group: Workers = Workers(),  # noqa: B008
    stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Train for ``config.steps`` batches and return the trainer: the result is its `lm`.

    Args:
        lm: `π̂`, which stays as it is.
        prompts: texts or token ids to train on.
        config: everything that the result depends on.
        out: folder of the run, as the module describes it; `None` to keep nothing.
        evaluate: numbers of the policy as it is, such as
            `llm_bridge.improve.target.ExactTarget.report`.
        eval_every: batches between evaluations; there is one at the start and at the end too.
        checkpoint_every: batches between checkpoints.
        teacher: whose endogenous reward is maximised, see `Trainer`.
        extra: a further reward of the tokens drawn, see `Trainer`.
        resume: go on from the checkpoint in `out`; warns where there is none yet, and begins.
        tensorboard: write the metrics for TensorBoard too.
        group: the processes of the run, see `Trainer`; the first of them writes.
        stop: asked after every batch; where it says so, a checkpoint is written and the run ends
            there.

    Raises:
        Diverged: the run was stopped, with the reason; the last checkpoint stays.
        OSError: `out` cannot be written; the last checkpoint stays.
        ValueError: another run is writing to `out`, or has written to it; `out` has a checkpoint
            and `resume` is not set, or files of something else and it is; or see `Trainer`.

    """
    require_integer("eval_every", eval_every)
    require_integer("checkpoint_every", checkpoint_every)
    trainer = Trainer(lm, prompts, config, teacher=teacher, extra=extra, group=group)
    if evaluate is not None and trainer.sharded:
        raise ValueError(
            "evaluate: the policy is in pieces (shard=True); evaluate what is left in model/ "
            "afterwards"
        )
    with _recorded(out, resume, tensorboard, trainer) as record, _bar(trainer) as bar:
        if not trainer.done:
            record.log({"step": 0} | dict(evaluate(trainer.lm) if evaluate is not None else {}))
        while trainer.done < config.steps:
            try:
                row = trainer.step()
            except Diverged as error:
                reason = f"step {trainer.done + 1}: {error}"
                record.log({"step": trainer.done + 1, "stopped": reason})
                raise Diverged(reason) from None
            last = trainer.done == config.steps
            if evaluate is not None and (last or trainer.done % eval_every == 0):
                row = dict(evaluate(trainer.lm)) | row
                record.show()
            record.log(row)
            stopping = group.any(stop()) and not last
            if last or stopping or trainer.done % checkpoint_every == 0:
                record.save()
            bar.set_postfix(kl=f"{row['kl']:.3g}", reward=f"{row['reward']:.4g}", refresh=False)
            bar.update()
            if stopping:
                return trainer
        if out is not None:
            save_policy(trainer, out / MODEL)
    return trainer


def _bar(trainer: Trainer) -> Any:
    disable = None if trainer.group.first else True
    return tqdm(
        total=trainer.config.steps,
        initial=trainer.done,
        desc=trainer.lm.name,
        disable=disable,
        leave=False,
    )


@contextmanager
def _recorded(
    out: Path | None, resume: bool, tensorboard: bool, trainer: Trainer
) -> Iterator[_Record]:
    """Claim the folder, go on from its checkpoint, and open what is written as it comes."""
    if out is None:
        yield _Record(trainer)
        return
    first, name = trainer.group.first, f"out={str(out)!r}"
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
            {"version": __version__, "kind": "ppo"} | trainer.identity(), lines=[METRICS, SAMPLES]
        )
        if found.exists():
            trainer.load(found)
        record = _Record(trainer, run)
        if first:
            write_json(out / CONFIG, trainer.config.as_dict())
            for lines in (
                record.metrics,
                record.samples,
            ):  # what was written after the checkpoint will come again
                lines.keep(lambda step: trainer.done > 0 and step <= trainer.done)
        if first and tensorboard:
            board = _board()(str(out / TENSORBOARD), purge_step=trainer.done + 1)
            record.board = stack.enter_context(board)
        yield record


def _board() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard: not installed: pip install 'endorm[train]'") from None
    return SummaryWriter


class _Record:
    """What is written of a run, by the first process; without a folder nothing is."""

    def __init__(self, trainer: Trainer, run: RunFolder | None = None) -> None:
        self.trainer, self.run = trainer, run
        self.board: Any = None
        if run is not None:
            self.metrics, self.samples = (
                run.lines(name, lambda row: int(row["step"])) for name in (METRICS, SAMPLES)
            )
        self._writes = run is not None and trainer.group.first

    def log(self, row: Mapping[str, Any]) -> None:
        if self._writes:
            self.metrics.append(row)
        if self.board is not None:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, row["step"])

    def show(self) -> None:
        """A few responses of the last batch."""
        trainer, tokenizer = self.trainer, self.trainer.lm.tokenizer
        if trainer.rollout is None or not self._writes:
            return
        prompts, responses = trainer.rollout.texts()
        every = trainer.config.samples
        for i in range(0, min(SHOWN * every, len(prompts)), every):
            texts = {
                "prompt": tokenizer.decode(prompts[i]),
                "response": tokenizer.decode(responses[i]),
            }
            numbers = {
                "reward": float(trainer.rewards[i]),
                "log_prob": float(trainer.rollout.log_probs[i].sum()),
            }
            self.samples.append({"step": trainer.done} | texts | numbers)

    def save(self) -> None:
        """Replace the checkpoint; every process takes part."""
        if self.run is not None:
            self.trainer.save(self.run.path / CHECKPOINT)


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` in the folder of a run, in order of their steps.

    Raises:
        OSError: there is none.
        ValueError: a line is damaged.

    """
    if not (out / METRICS).is_file():
        raise OSError(f"{out / METRICS}: no such file; give the folder of a run")
    return list(
        read_lines(
            out / METRICS, lambda row: {name: number(value) for name, value in dict(row).items()}
        )
    )


def save_policy(trainer: Trainer, folder: Path) -> None:
    """Write the policy and its tokenizer as ``from_pretrained`` reads them; adapters are added to
    the weights.
    """
    config, policy = trainer.config, trainer.lm
    whole = checkpoints.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = (
        checkpoints.get_model_state_dict(policy.model, options=whole) if trainer.sharded else None
    )
    if not trainer.group.first:
        return
    if config.lora is not None:
        policy = replace(policy, model=_merged(trainer.frozen[0].model, policy.model))
    save(policy, folder, weights)


def _merged(model: Any, adapted: Any) -> Any:
    """The model with the products of its adapters added to its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(model)
    for name, layer in adapted.named_modules():
        if isinstance(layer, BaseTunerLayer):
            weight = merged.get_submodule(name).weight
            weight.data += layer.get_delta_weight("default").to(weight)
    return merged
