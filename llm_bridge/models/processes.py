"""Let several processes share one job, as ``torchrun`` and ``accelerate launch`` start them."""

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
    """This process and the others of its job.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.

    Example:
        >>> Workers().first, Workers().mean([1.0, 2.0])
        (True, [1.0, 2.0])

    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files of the job."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            torch.distributed.barrier()

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """Average each number over the processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.double)
        torch.distributed.all_reduce(total)
        return [float(x) / self.size for x in total]

    def any(self, here: bool) -> bool:
        """Return whether the argument is true in any process."""
        return here if self.size == 1 else self.mean([float(here)])[0] > 0

    def average(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Replace tensors, of the same shapes in every process, by their averages, in place."""
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
    """Connect the processes that the environment names (``WORLD_SIZE``, ``RANK``); one by default.

    They communicate over gloo and, for tensors on GPUs, NCCL.

    Example:
        >>> with workers() as group:
        ...     group.size
        1

    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # the others wait at a barrier for the slowest, however long its share takes
    torch.distributed.init_process_group(backend, timeout=timedelta(days=7))
    try:
        yield Workers(int(os.environ.get("RANK", "0")), size)
    finally:
        torch.distributed.destroy_process_group()
