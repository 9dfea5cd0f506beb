"""Read the checkpoint of a training run, and refuse one that is damaged or of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llm_bridge.improve.config import PPOConfig

__all__ = ["read_checkpoint", "require_same_run"]

KEYS = {"config", "model", "done", "beta", "actor", "optimizer", "generator"}
"""Entries of a checkpoint, see `llm_bridge.improve.trainer.Trainer.save`."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged; names the file and the remedy.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     read_checkpoint(Path(file.name))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ...: damaged (...); remove it to begin at step 0, or restore a copy

    """
    with path.open("rb") as file:  # what fails here is not damage
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            missing = ", ".join(sorted(KEYS - state.keys()))
            why = f"it lacks {missing}" if missing else ""
        except Exception:  # of many kinds, OSError too, with advice that does not help
            why = "torch cannot read it"
    if why:
        raise ValueError(
            f"{path}: damaged ({why}); remove it to begin at step 0, or restore a copy"
        )
    return state


def require_same_run(
    path: Path, state: Mapping[str, Any], config: PPOConfig, identity: Sequence[str]
) -> None:
    """Raise unless a checkpoint is of a run with these hyperparameters, models and prompts.

    Args:
        path: file of the checkpoint.
        state: what `read_checkpoint` has read from it.
        config: hyperparameters.
        identity: hashes of the model, of the one whose reward is maximised, and of the prompts.

    Raises:
        ValueError: something differs; names it.

    Example::

        require_same_run(path, read_checkpoint(path), trainer.config, hashes)

    """
    its = state["config"]
    for name, value in sorted(config.as_dict(results_only=True).items()):
        if value != its.get(name):
            raise ValueError(
                f"{name}={value!r}: {path} has {its.get(name)!r}; go on with that, or start anew"
            )
    if state["model"][-1] != identity[-1]:
        raise ValueError(f"prompts: {path} is of a run on other prompts; give those, or start anew")
    if state["model"] != identity:
        which = "lm" if state["model"][0] != identity[0] else "teacher"
        raise ValueError(f"{which}: {path} is of a run from another model; give that one")
