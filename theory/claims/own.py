"""Statements of one's own, read from a Python file."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from theory.claims.statement import Statement, Statements
from theory.claims.statements import STATEMENTS

__all__ = ["choose_statements", "read_statements"]


def choose_statements(names: Sequence[str]) -> Statements[Any]:
    """Return statements by name, and all those of each Python file among the names.

    Args:
        names: names of `STATEMENTS`, or paths that end in ``.py`` (`read_statements`).

    Raises:
        OSError: a file cannot be read.
        ValueError: no statement has a name, two have the same, or a file is refused.

    Example:
        >>> choose_statements(["theorem-1", "clone-pinsker"]).names
        ['theorem-1', 'clone-pinsker']

    """
    chosen: list[Statement[Any]] = []
    for name in names:
        if name.endswith(".py"):
            chosen += read_statements(name)
            continue
        try:
            chosen.append(STATEMENTS[name])
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    return Statements(chosen)


def read_statements(path: str | Path) -> Statements[Any]:
    """Run a Python file and return the statements among its global names, in order.

    The file runs as any program of yours does: with your rights. A name that a statement of this
    package has already is refused, so that a table never shows two of one name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it fails (names the line), has no statement, or one of a name that is taken.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "mine.py")
        >>> _ = path.write_text('''
        ... from theory import Quantity, Statement
        ... best = Quantity("V*", lambda i: i.soft_value)
        ... bound = Quantity("H·(R + α log V)", lambda i: i.horizon * (i.width + i.alpha * 0.7))
        ... mine = Statement("mine", "by me", best, "≤", bound)
        ... ''')
        >>> read_statements(path)
        (<Statement mine: V* ≤ H·(R + α log V)>,)

    """
    path = Path(path)
    path.open("rb").close()  # an error of the file itself, before one of what it does
    try:
        found = runpy.run_path(str(path))
    except Exception as error:
        lines = [
            at.lineno for at in traceback.extract_tb(error.__traceback__) if at.name == "<module>"
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else 0)
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    except SystemExit as error:
        raise ValueError(f"{path}: ends the program ({error}) before it is read") from error
    imported = set(map(id, STATEMENTS))
    own: dict[int, Statement[Any]] = {
        id(value): value
        for value in found.values()
        if isinstance(value, Statement) and id(value) not in imported
    }
    for value in found.values():  # lists of statements, too
        if isinstance(value, list | tuple):
            own |= {id(x): x for x in value if isinstance(x, Statement) and id(x) not in imported}
    if not own:
        raise ValueError(
            f"{path}: no global name is a Statement; write, say, mine = Statement(…) at top level"
        )
    statements = Statements(own.values())
    for statement in statements:
        if statement.name in STATEMENTS.names:
            raise ValueError(f"{path}: the name {statement.name!r} is taken; give it another")
    return statements
