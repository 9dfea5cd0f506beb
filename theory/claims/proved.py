"""Which statements are proved: those with a machine-checked theorem in ``formal/``.

A statement's theorem has its name, with ``_`` for ``-``, and ``discounted_`` before it where
rewards are discounted. ``tests/proofs`` holds this file to the theorems, and ``make proofs`` checks
the theorems; ``docs/proofs.md`` says what that means.
"""

from __future__ import annotations

from typing import Any

from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.statement import Statement
from theory.claims.statements import STATEMENTS

__all__ = ["THEOREMS", "WITHOUT_THEOREM", "is_proved"]

WITHOUT_THEOREM: dict[str, str] = {}
"""Theorems that are not there, by the name that they would have, and why."""

THEOREMS: dict[str, Statement[Any]] = {
    name: statement
    for prefix, statements in (("", STATEMENTS), ("discounted_", DISCOUNTED_STATEMENTS))
    for statement in statements
    if (name := prefix + statement.name.replace("-", "_")) not in WITHOUT_THEOREM
}
"""The statement that each theorem of ``formal/`` proves, by the theorem's name."""


def is_proved(statement: Statement[Any]) -> bool:
    """Return whether a statement is proved for all instances, and not only checked on some.

    Example:
        >>> from dataclasses import replace
        >>> is_proved(STATEMENTS[0]), is_proved(replace(STATEMENTS[0], name="another"))
        (True, False)

    """
    return statement in THEOREMS.values()
