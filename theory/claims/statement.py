"""Statements: a quantity of an instance, a relation, a bound, and when it is claimed.

The text of a claim is derived from its parts, so that what is printed is what is checked.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, SupportsIndex, TypeVar, overload

from theory.arrays.namespace import Array
from theory.claims.quantities import Unit

__all__ = ["Condition", "Quantity", "Relation", "Statement", "Statements"]

I = TypeVar("I", contravariant=True)  # noqa: E741 - an instance; what reads less reads more
"""Kind of instance that is read. A statement about every `Quantities` is one about `Instance`."""

Relation = Literal["≤", "="]


@dataclass(frozen=True)
class Quantity(Generic[I]):
    """A number that is read off an instance.

    Attributes:
        symbol: how it is written.
        of: reads it: one number for each prompt, or for each of its responses or pairs.
        unit: its unit.
        ceiling: the most that it can ever be; a bound at or above it says nothing (is *vacuous*).

    Raises:
        ValueError: `of` or `ceiling` is no function of an instance.

    >>> gap = Quantity("V^{π_E} − V^{π̂}", lambda i: i.clone_gap, ceiling=lambda i: i.return_range)
    >>> gap.unit
    'reward'

    """

    symbol: str
    of: Callable[[I], Array]
    unit: Unit = "reward"
    ceiling: Callable[[I], Array | float] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        _require_function(f"quantity {self.symbol!r}: of", self.of)
        if self.ceiling is not None:
            _require_function(f"quantity {self.symbol!r}: ceiling", self.ceiling)


@dataclass(frozen=True)
class Condition(Generic[I]):
    """A condition on an instance.

    Attributes:
        symbol: how it is written.
        of: reads it: booleans, or a comparison of quantities (`theory.arrays.enclosure.Truth`).

    """

    symbol: str
    of: Callable[[I], Any]

    def __post_init__(self) -> None:
        """Validate."""
        _require_function(f"condition {self.symbol!r}: of", self.of)


@dataclass(frozen=True)
class Statement(Generic[I]):
    """The claim ``quantity ≤ bound`` (or ``=``) on every instance on which `when` holds.

    A statement of a list (`Statements`) is pickled as its place there, so that it goes to another
    process although it is made of functions.

    Attributes:
        name: name in tables and reports.
        source: where the claim is from.
        quantity: left side.
        relation: ``"≤"`` or ``"="``.
        bound: right side.
        when: condition of the claim; `None` for a claim on every instance.
        term: of an equality, what its sides bring about in two ways; the left side by default.
            Where it is zero both sides are one expression, and the claim cannot fail.

    Raises:
        ValueError: `relation` is neither.

    Example:
        >>> from theory.claims.statements import STATEMENTS
        >>> STATEMENTS["theorem-2-clone"].claim
        'V^{π_E} − V^{π̂} ≤ R·H²ε'

    """

    name: str
    source: str
    quantity: Quantity[I]
    relation: Relation
    bound: Quantity[I]
    when: Condition[I] | None = None
    term: Quantity[I] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.relation not in ("≤", "="):
            raise ValueError(
                f"statement {self.name!r}: relation={self.relation!r} must be '≤' or '='"
            )

    def __repr__(self) -> str:
        """The name and the claim, in one line."""
        return f"<{type(self).__name__} {self.name}: {self.claim}>"

    def __reduce__(self) -> Any:
        """Pickle by place; a statement of one's own by its parts, as any object."""
        for place in LISTS:
            if any(self is statement for statement in _at(place)):
                return _named, (place, self.name)
        return super().__reduce__()

    @property
    def equality(self) -> bool:
        """Whether both sides are claimed to be equal."""
        return self.relation == "="

    @property
    def formula(self) -> str:
        """The claim without its condition."""
        return f"{self.quantity.symbol} {self.relation} {self.bound.symbol}"

    @property
    def claim(self) -> str:
        """The claim as text."""
        return self.formula if self.when is None else f"{self.formula}, if {self.when.symbol}"


class Statements(tuple[Statement[I], ...]):
    """Statements in order, each also found by its name.

    Raises:
        ValueError: two have one name.
        KeyError: no statement has the name; says which come near.

    Example:
        >>> from theory.claims.statements import STATEMENTS
        >>> STATEMENTS["theorem-1"] is STATEMENTS[STATEMENTS.names.index("theorem-1")]
        True
        >>> STATEMENTS["theorem1"]
        Traceback (most recent call last):
        KeyError: "no statement is called 'theorem1'; did you mean theorem-1, ...?"

    """

    __slots__ = ()

    def __new__(cls, statements: Iterable[Statement[I]]) -> Statements[I]:
        """Validate the names."""
        made = super().__new__(cls, statements)
        names = made.names
        if len(set(names)) < len(names):
            raise ValueError(f"two statements are called {max(names, key=names.count)!r}")
        return made

    @property
    def names(self) -> list[str]:
        """Names, in order."""
        return [statement.name for statement in self]

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Statement[I]: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Statement[I], ...]: ...
    def __getitem__(self, key: SupportsIndex | slice | str) -> Any:
        """Return the statement at a place, of a name, or those of a slice."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        for statement in self:
            if statement.name == key:
                return statement
        near = difflib.get_close_matches(key, self.names, n=3, cutoff=0.4) or self.names[:3]
        raise KeyError(f"no statement is called {key!r}; did you mean {', '.join(near)}, …?")


LISTS = ("theory.claims.statements:STATEMENTS", "theory.claims.discounted:DISCOUNTED_STATEMENTS")
"""Where statements are found again by their names."""


def _at(place: str) -> Statements[Any]:
    module, name = place.split(":")
    found: Statements[Any] = getattr(importlib.import_module(module), name)
    return found


def _named(place: str, name: str) -> Statement[Any]:
    return _at(place)[name]


def _require_function(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{name}={value!r} must be a function of an instance")
