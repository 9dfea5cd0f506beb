"""Several processes on one job, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

__all__ = ["Workers", "workers"]


@dataclass(frozen=True)
class Workers:
    """This process among `size` of them, as the one of number `rank`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def workers() -> Iterator[Workers]:
    """The processes that the environment tells of (``WORLD_SIZE``, ``RANK``), connected; one where it tells of none.

    They meet over gloo, on any hardware: they wait for each other and exchange no tensors.
    """
    size, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    if size == 1:
        yield Workers()
        return
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))  # the slowest share may take long
    try:
        yield Workers(rank, size)
    finally:
        torch.distributed.destroy_process_group()
