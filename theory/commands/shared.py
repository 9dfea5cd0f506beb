"""Options that several commands have: one name, one range, one meaning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from theory.commands.option import STANDARD_OUTPUT, option

if TYPE_CHECKING:
    from theory.reports.report import Report

__all__ = [
    "ALPHAS",
    "alpha",
    "confidence",
    "hand_over",
    "json_file",
    "out",
    "seed",
    "show",
    "text_stream",
    "verbose",
]

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


def out(default: str | None, what: str) -> Any:
    """Declare the folder that results are written to; `None` for none unless it is given.

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
        None if default is None else Path(default),
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
        help="also write the numbers to FILE; - is standard output, the text is on standard error",
        metavar="FILE",
        writes="file",
        affects_results=False,
    )


def verbose() -> Any:
    """Declare whether a terminal shows everything that the page shows as text.

    Example:
        >>> from dataclasses import dataclass
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     verbose: bool = verbose()
        >>> Draw().verbose
        False

    """
    return option(False, help="print every row, not the summary alone", affects_results=False)


def show(
    report: Report,
    last: str,
    numbers: Any = None,
    json: Path | None = None,
    *,
    verbose: bool = True,
) -> int:
    """Print a report, and write its numbers where they are also wanted; returns the exit code.

    Args:
        report: what was found.
        last: the line after it: where the files are.
        numbers: what the command writes as JSON.
        json: file for them; ``-`` for standard output, and the text goes to standard error.
        verbose: whether sections of detail are shown.

    Example:
        >>> from theory.reports.report import Report
        >>> show(Report("A model", ["1 statement is violated."], passed=False), "in out/check")
        A model
        1 statement is violated.
        <BLANKLINE>
        in out/check
        1

    """
    from theory.reports.report import WIDTH, Text

    print(f"{report.text(verbose=verbose)}\n\n{Text(last).text(WIDTH)}", file=text_stream(json))
    hand_over(numbers, json)
    return report.exit_code


def text_stream(json: Path | None) -> TextIO:
    """Return where text goes: standard error where standard output is for the numbers.

    Example:
        >>> text_stream(None) is sys.stdout, text_stream(Path("-")) is sys.stderr
        (True, True)

    """
    return sys.stderr if json == STANDARD_OUTPUT else sys.stdout


def hand_over(numbers: Any, json: Path | None) -> None:
    """Write what a command found where ``--json`` says.

    Example:
        >>> hand_over({"alpha": 0.5}, Path("-"))
        {
         "alpha": 0.5
        }

    """
    from theory.storage.files import json_text, write_json

    if json == STANDARD_OUTPUT:
        sys.stdout.write(json_text(numbers))
    elif json is not None:
        write_json(json, numbers)
