"""Statements of a test's own."""

from dataclasses import replace

from theory.claims.statement import Condition, Quantity, Statement


def claim(name, left, right, *, equality=False, when=None, ceiling=None, unit="reward"):
    """The claim ``left ≤ right`` (or ``=``) on what `when` says yes to."""
    return Statement(
        name,
        "",
        Quantity("left", left, unit, ceiling),
        "=" if equality else "≤",
        Quantity("right", right, unit),
        None if when is None else Condition("when", when),
    )


def changed(statement, *, left=None, right=None, when=None):
    """The statement with another side or condition."""
    if left is not None:
        statement = replace(statement, quantity=replace(statement.quantity, of=left))
    if right is not None:
        statement = replace(statement, bound=replace(statement.bound, of=right))
    if when is not None:
        statement = replace(statement, when=Condition("when", when))
    return statement
