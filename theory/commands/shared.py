"""Options that several commands have: one name, one range, one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from theory.commands.option import option

__all__ = ["ALPHAS", "alpha", "confidence", "json_file", "out", "seed"]

ALPHAS = {
    "unit": "reward units",
    "low": 1e-9,
    "high": 1e9,
    "remedy": "doubles hold no more",
}
"""Declares temperatures ``α``."""


def alpha(*default: float | None) -> Any:
    """The temperature ``α`` of the reward; required unless a default is given."""
    return option(*default, help="temperature α of the reward", **ALPHAS)


def seed(*, help: str = "of the random numbers", **declared: Any) -> Any:
    """A seed, by default 0."""
    return option(0, help=help, low=0, high=2**63 - 1, **declared)


def confidence(**declared: Any) -> Any:
    """The confidence of intervals."""
    return option(0.95, help="confidence of each interval", above=0, below=1, **declared)


def out(default: str, what: str) -> Any:
    """The folder that results are written to."""
    return option(
        Path(default),
        help=f"folder for {what}",
        metavar="DIR",
        writes="folder",
        affects_results=False,
    )


def json_file() -> Any:
    """A file that the numbers are also written to."""
    return option(
        None,
        help="also write the numbers to FILE",
        metavar="FILE",
        writes="file",
        affects_results=False,
    )
