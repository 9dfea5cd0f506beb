"""Several processes on one job, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
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

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """The average of each number over the processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.double)
        torch.distributed.all_reduce(total)
        return [float(x) / self.size for x in total]

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return here if self.size == 1 else self.mean([float(here)])[0] > 0

    def average(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Replace tensors, of one shape in every process, by their averages over the processes."""
        there = [tensor for tensor in tensors if tensor is not None]
        if self.size == 1 or not there:
            return
        flat = torch.cat([tensor.flatten() for tensor in there])
        torch.distributed.all_reduce(flat)
        ends = list(itertools.accumulate(tensor.numel() for tensor in there))[:-1]
        for tensor, part in zip(there, (flat / self.size).tensor_split(ends), strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def workers() -> Iterator[Workers]:
    """The processes that the environment tells of (``WORLD_SIZE``, ``RANK``), connected; one where
    it tells of none.

    They meet over gloo, on any hardware, and over NCCL too for what lies on GPUs.
    """
    size, rank = (
        int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"))
    )
    if size == 1:
        yield Workers()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(
        backend, timeout=timedelta(days=7)
    )  # the slowest share may take long
    try:
        yield Workers(rank, size)
    finally:
        torch.distributed.destroy_process_group()
