"""Statements: a quantity of an instance, a relation, a bound, and when it is claimed.

The text of a claim is derived from its parts, so that what is printed is what is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from theory.arrays.namespace import Array
from theory.claims.quantities import Unit

__all__ = ["Condition", "Quantity", "Relation", "Statement"]

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

    Attributes:
        name: name in tables and reports.
        source: where the claim is from.
        quantity: left side.
        relation: ``"≤"`` or ``"="``.
        bound: right side.
        when: condition of the claim; `None` for a claim on every instance.

    Raises:
        ValueError: `relation` is neither.

    >>> from theory.claims.statements import STATEMENTS
    >>> next(s for s in STATEMENTS if s.name == "theorem-2-clone").claim
    'V^{π_E} − V^{π̂} ≤ R·H²ε'

    """

    name: str
    source: str
    quantity: Quantity[I]
    relation: Relation
    bound: Quantity[I]
    when: Condition[I] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.relation not in ("≤", "="):
            raise ValueError(
                f"statement {self.name!r}: relation={self.relation!r} must be '≤' or '='"
            )

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


def _require_function(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{name}={value!r} must be a function of an instance")
