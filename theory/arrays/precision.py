"""The kind of enclosure by its number of bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from theory.arrays.balls import Balls
from theory.arrays.doubles import Doubles
from theory.arrays.enclosure import Enclosure

__all__ = ["DOUBLE", "enclose", "precision"]

DOUBLE = 53
"""Bits of `Doubles`; every other precision is that of `Balls`."""


def enclose(values: Any, bits: int) -> Enclosure:
    """Enclose numbers exactly: as `Doubles` for 53 bits, as `Balls` for any other precision.

    Raises:
        ValueError: one is not real, or not a double (a large integer, a long double) and would be
            rounded.

    Example:
        >>> third = enclose(1.0, DOUBLE) / 3
        >>> bool(third.lower() < 1 / 3 < third.upper())
        True
    """
    return Doubles.of(values) if bits == DOUBLE else Balls.of(values)


def precision(bits: int) -> AbstractContextManager[Any]:
    """Make the context in which balls are computed with `bits` bits; `Doubles` have theirs.

    Example:
        >>> with precision(200):
        ...     third = enclose(1.0, 200) / 3
        >>> float(third.radius().upper()) < 2.0**-200
        True
    """
    if bits == DOUBLE:
        return nullcontext()
    from flint import ctx

    context: AbstractContextManager[Any] = ctx.workprec(bits)
    return context
