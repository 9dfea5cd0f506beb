"""Read the checkpoint of a training run, and refuse one that is damaged or of another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_checkpoint"]

KEYS = {"identity", "done", "beta", "actor", "optimizer", "generator"}
"""Entries of a checkpoint, see `llm_bridge.improve.trainer.Trainer.save`."""


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint on the CPU.

    Args:
        path: file of the checkpoint.
        identity: `llm_bridge.improve.trainer.Trainer.identity` of the run that goes on.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or of another run; names the file and the remedy.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     read_checkpoint(Path(file.name), {})  # doctest: +ELLIPSIS
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
    for name, value in identity.items():
        its = state["identity"].get(name)
        if value != its:
            raise ValueError(f"{name}={value!r}: {path} has {its!r}; give that, or start anew")
    return state
