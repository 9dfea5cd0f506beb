"""Three-valued truth: comparisons of enclosures that may be neither true nor false."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Truth", "Undecided"]

OVERLAP = (
    "enclosures overlap: the comparison is neither true nor false; more precision may decide it"
)


class Undecided(ArithmeticError):
    """Raised where a comparison of overlapping enclosures is asked for a plain yes or no.

    Example:
        >>> bool(Truth(False, True))
        Traceback (most recent call last):
        theory.arrays.truth.Undecided: enclosures overlap: ...
    """


class Truth:
    """An array of answers, each yes, no or uncertain (Kleene's three-valued logic).

    Attributes:
        certain: boolean array, where the answer is yes.
        possible: boolean array, where it is not no.

    Example:
        >>> answers = Truth([True, False, False], [True, True, False])  # yes, uncertain, no
        >>> (answers & True).possible.tolist(), bool(answers.any())
        ([True, True, False], True)
    """

    __array_ufunc__ = None

    def __init__(self, certain: Any, possible: Any) -> None:
        """Broadcast both to one shape."""
        self.certain, self.possible = np.broadcast_arrays(
            np.asarray(certain, bool), np.asarray(possible, bool)
        )

    @classmethod
    def of(cls, value: Any) -> Truth:
        """Return a `Truth` as it is, and a boolean array as certain answers."""
        return value if isinstance(value, Truth) else cls(value, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.certain.shape)

    def reshape(self, *shape: Any) -> Truth:
        """Reshape like a NumPy array."""
        return Truth(self.certain.reshape(*shape), self.possible.reshape(*shape))

    def __getitem__(self, key: Any) -> Truth:
        """Index like a NumPy array."""
        return Truth(self.certain[key], self.possible[key])

    def settled(self) -> Any:
        """Return a plain boolean array if every answer is certain, else this object."""
        return self.certain if (self.certain == self.possible).all() else self

    def __and__(self, other: Any) -> Any:
        """Whether both are true."""
        other = Truth.of(other)
        return Truth(self.certain & other.certain, self.possible & other.possible).settled()

    def __or__(self, other: Any) -> Any:
        """Whether one of both is true."""
        other = Truth.of(other)
        return Truth(self.certain | other.certain, self.possible | other.possible).settled()

    __rand__ = __and__
    __ror__ = __or__

    def __invert__(self) -> Any:
        """Whether it is false."""
        return Truth(~self.possible, ~self.certain)

    def any(self, axis: Any = None) -> Any:
        """Whether some answer is yes."""
        return Truth(self.certain.any(axis=axis), self.possible.any(axis=axis)).settled()

    def all(self, axis: Any = None) -> Any:
        """Whether every answer is yes."""
        return Truth(self.certain.all(axis=axis), self.possible.all(axis=axis)).settled()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Return a boolean array; raise `Undecided` if an answer is uncertain."""
        if (self.certain == self.possible).all():
            return np.array(self.certain, dtype=dtype)
        raise Undecided(OVERLAP)

    def __bool__(self) -> bool:
        """Return the one answer; raise `Undecided` if it is uncertain or there are several."""
        if self.certain.size == 1 and (self.certain == self.possible).all():
            return bool(self.certain)
        raise Undecided(OVERLAP)
