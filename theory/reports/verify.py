"""How verdicts are counted in a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["count_verdicts"]

WORDS = {
    "holds": "hold",
    "violated": "violated",
    "undecided": "undecided",
    "does not apply": "do not apply",
}


def count_verdicts(verdicts: Iterable[str]) -> str:
    """Say how many statements have each verdict that occurs; violations always.

    >>> count_verdicts(["holds", "undecided", "holds"])
    '2 hold, 0 violated, 1 undecided'
    """
    counts = Counter(verdicts)
    shown = [verdict for verdict in WORDS if counts[verdict] or verdict == "violated"]
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in shown)
