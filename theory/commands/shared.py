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
    """Declare the temperature ``α`` of the reward; required unless a default is given.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Solve(Options):
        ...     alpha: float = alpha(1.0)
        >>> Solve(), Solve.declared()["alpha"].range
        (Solve(alpha=1.0), 'from 1e-09 to 1e+09')

    """
    return option(*default, help="temperature α of the reward", **ALPHAS)


def seed(*, help: str = "of the random numbers", **declared: Any) -> Any:
    """Declare a seed, by default 0.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     seed: int = seed(help="of the draws")
        >>> Draw(), Draw.declared()["seed"].help
        (Draw(seed=0), 'of the draws')

    """
    return option(0, help=help, low=0, high=2**63 - 1, **declared)


def confidence(**declared: Any) -> Any:
    """Declare the confidence of intervals.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     confidence: float = confidence()
        >>> Draw.declared()["confidence"].range
        'above 0 and below 1'

    """
    return option(0.95, help="confidence of each interval", above=0, below=1, **declared)


def out(default: str, what: str) -> Any:
    """Declare the folder that results are written to.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     out: Path = out("out/draws", "the draws")
        >>> Draw.declared()["out"].help
        'folder for the draws'

    """
    return option(
        Path(default),
        help=f"folder for {what}",
        metavar="DIR",
        writes="folder",
        affects_results=False,
    )


def json_file() -> Any:
    """Declare a file that the numbers are also written to.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     json: Path | None = json_file()
        >>> print(Draw().json)
        None

    """
    return option(
        None,
        help="also write the numbers to FILE",
        metavar="FILE",
        writes="file",
        affects_results=False,
    )
