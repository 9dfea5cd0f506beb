"""Memory: how much is free, and refusing what would not fit before it is allocated."""

from __future__ import annotations

import math
import os

__all__ = ["available_memory", "require_memory", "usable_memory"]

MEMORY_SHARE = 0.8
"""Share of the memory now free that one call may plan to fill."""


def available_memory() -> int:
    """Return the bytes that a new array may take: free memory, or the rest of the control group if
    less.

    Example:
        >>> available_memory() > 0
        True
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo") as lines:
            free = next(
                int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
            )
        with (
            open("/sys/fs/cgroup/memory.max") as limit,
            open("/sys/fs/cgroup/memory.current") as used,
        ):
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError, StopIteration):
        pass  # not Linux, or no limit set: the first figure that could be read stands
    return max(free, 0)


def usable_memory() -> int:
    """Return the bytes that one allocation may take: a share of what is free.

    Example:
        >>> 0 < usable_memory() < available_memory()
        True
    """
    return int(available_memory() * MEMORY_SHARE)


def require_memory(n_bytes: int, what: str, remedy: str) -> None:
    """Refuse an allocation before it is made.

    Raises:
        ValueError: `n_bytes` is more than this machine can give; names `what`, its size, and the
            `remedy`.

    Example:
        >>> require_memory(2**60, "the table", "use a shorter horizon")
        Traceback (most recent call last):
        ValueError: the table needs about 10^9 GB and ... can be used here; use a shorter horizon
    """
    room = usable_memory()
    if n_bytes > room:
        raise ValueError(
            f"{what} needs {_size(n_bytes)} and {_size(room)} can be used here; {remedy}"
        )


def _size(n_bytes: int) -> str:
    if n_bytes >= 10**6 * 2**30:
        return f"about 10^{math.log10(n_bytes) - 9:.0f} GB"
    return f"{n_bytes / 2**30:,.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"
