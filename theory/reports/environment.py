"""The environment in which a report was made: versions and hardware."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["environment"]

PACKAGES = ("numpy", "scipy", "python-flint", "torch", "transformers")
"""Packages on whose versions numbers can depend."""


def environment() -> dict[str, str | int]:
    """Return versions, system, processor and accelerator, by name; torch is not loaded for it.

    Example:
        >>> list(environment())[:3]
        ['endorm', 'python', 'numpy']

    """
    from theory import __version__

    found: dict[str, str | int] = {"endorm": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    found["processor"] = _processor()
    found["cores"] = os.cpu_count() or 1
    found["accelerator"] = _accelerator()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _accelerator() -> str:
    """Name the GPUs if torch is loaded: without it nothing here has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "none used"
    names = {torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} × {', '.join(sorted(names))}"
