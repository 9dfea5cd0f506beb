"""Enclosures: arrays of numbers that are each known to lie within a radius, a third kind beside
NumPy's and torch's.

Every operation on enclosures encloses every possible result, rounding included, so that what is
computed from them is proved. There are two kinds with one interface, and all of the package runs on
either as it stands:

- `Doubles`: midpoints and radii in float64, as fast as a few NumPy operations. They assume what
  NumPy's own tests do: ``+ − × ÷ √`` rounded to nearest, ``exp``, ``log``, … to within `ULPS` units
  in the last place.
- `Balls`: Arb's balls (by python-flint) at any number of bits (`precision`).

An enclosure never becomes a single number by itself: ``float(x)``, ``math.sqrt(x)`` and
``np.asarray(x)`` raise. A comparison of enclosures that overlap is not yes and not no: it is a
`Truth`, ``where`` joins both of its branches, and asking for its ``bool`` raises `Undecided`.

Widths stay narrow over long horizons because functions that are Lipschitz are evaluated at the
midpoint, with the radius carried over (`Enclosure.carry`): a soft maximum of values within `δ` is
within `δ`, and term by term it would be `3δ`. See ``docs/theory.md``, "Verdicts".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any, Self

import numpy as np

__all__ = [
    "NAMESPACE",
    "Balls",
    "Doubles",
    "Enclosure",
    "Truth",
    "Undecided",
    "enclose",
    "is_enclosure",
    "precision",
]

DOUBLE = 53
"""Bits of `Doubles`; every other precision is that of `Balls`."""

EPS = 2.0**-52
"""Twice the largest relative rounding of an operation on doubles, so that it covers those of the
radius too.
"""

GROW = 1 + 2.0**-48
"""What a radius is multiplied by to cover the rounding of its own few operations."""

TINY = 1e-300
"""More than underflow can lose."""

NORMAL = 2.0**-1022
"""The least double that has all its digits."""

ULPS = 4
"""Largest error of NumPy's ``exp``, ``log``, … in units in the last place, as NumPy's tests demand
of float64.
"""

NEVER = float("-inf")


class Undecided(ArithmeticError):
    """A comparison of enclosures that overlap was asked for a plain yes or no."""


class Truth:
    """An array of answers, each yes, no or uncertain.

    Attributes:
        certain: boolean array, where the answer is yes.
        possible: boolean array, where it is not no.
    """

    __array_ufunc__ = None

    def __init__(self, certain: Any, possible: Any) -> None:
        """Broadcast both to one shape."""
        self.certain, self.possible = np.broadcast_arrays(
            np.asarray(certain, bool), np.asarray(possible, bool)
        )

    @classmethod
    def of(cls, value: Any) -> Truth:
        """`value` itself, or a boolean array of which every answer is certain."""
        return value if isinstance(value, Truth) else cls(value, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.certain.shape)

    def reshape(self, *shape: Any) -> Truth:
        """As of NumPy arrays."""
        return Truth(self.certain.reshape(*shape), self.possible.reshape(*shape))

    def __getitem__(self, key: Any) -> Truth:
        """Some of the answers."""
        return Truth(self.certain[key], self.possible[key])

    def settled(self) -> Any:
        """A boolean array where every answer is certain, else this."""
        return self.certain if (self.certain == self.possible).all() else self

    def __and__(self, other: Any) -> Any:
        """Both."""
        other = Truth.of(other)
        return Truth(self.certain & other.certain, self.possible & other.possible).settled()

    def __or__(self, other: Any) -> Any:
        """Either."""
        other = Truth.of(other)
        return Truth(self.certain | other.certain, self.possible | other.possible).settled()

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Any:
        """The opposite."""
        return Truth(~self.possible, ~self.certain)

    def any(self, axis: Any = None) -> Any:
        """Whether some answer is yes."""
        return Truth(self.certain.any(axis=axis), self.possible.any(axis=axis)).settled()

    def all(self, axis: Any = None) -> Any:
        """Whether every answer is yes."""
        return Truth(self.certain.all(axis=axis), self.possible.all(axis=axis)).settled()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """A boolean array, where every answer is certain."""
        if (self.certain == self.possible).all():
            return np.array(self.certain, dtype=dtype)
        raise Undecided(
            "enclosures overlap: the comparison is neither true nor false; more precision may "
            "decide it"
        )

    def __bool__(self) -> bool:
        """Raise unless it is one certain answer."""
        if self.certain.size == 1 and (self.certain == self.possible).all():
            return bool(self.certain)
        raise Undecided(
            "enclosures overlap: the comparison is neither true nor false; more precision may "
            "decide it"
        )


class Enclosure:
    """An array of numbers, each within a radius of a midpoint. Build one with `enclose`."""

    coarse = False
    """Whether precision is dear: forms that keep more of it are worth more operations."""

    __hash__ = None  # type: ignore[assignment]

    # --- What the two kinds provide ---

    @classmethod
    def of(cls, values: Any) -> Self:
        """Exact numbers as enclosures of radius zero; an enclosure of this kind as it is."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """The arrays that it is made of, all of its shape."""
        raise NotImplementedError

    def centre(self) -> Self:
        """Midpoints, exact."""
        raise NotImplementedError

    def radius(self) -> Self:
        """Upper bounds on the radii, exact."""
        raise NotImplementedError

    def widen(self, by: Self) -> Self:
        """The same numbers, each known to `by` (not negative) less."""
        raise NotImplementedError

    def lower(self) -> np.ndarray:
        """Doubles that are no more than the numbers."""
        raise NotImplementedError

    def upper(self) -> np.ndarray:
        """Doubles that are no less than the numbers."""
        raise NotImplementedError

    def sum(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Sum over axes."""
        raise NotImplementedError

    def max(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Largest over axes."""
        raise NotImplementedError

    def cumprod(self) -> Self:
        """Products of the first, the first two, … entries of the last axis."""
        raise NotImplementedError

    def hull(self, other: Self, where: np.ndarray) -> Self:
        """Enclosures of both numbers where `where`, and these elsewhere."""
        raise NotImplementedError

    def root(self) -> Self:
        """Square root of numbers that are known not to be negative, though their enclosures may
        reach below zero.
        """
        raise NotImplementedError

    def compare(self, name: str, other: Self) -> Any:
        """``less``, ``less_equal`` or ``equal``, elementwise."""
        raise NotImplementedError

    def nearest(self) -> np.ndarray:
        """Doubles in the middle, for what needs no proof."""
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = self.lower(), self.upper()
            middle = low / 2 + high / 2
        found: np.ndarray = np.where(low == high, low, middle)
        return found

    def is_finite(self) -> np.ndarray:
        """Where the number is known to be finite."""
        raise NotImplementedError

    def is_nan(self) -> np.ndarray:
        """Where nothing is known: not even a bound on one side."""
        raise NotImplementedError

    # --- Shapes ---

    @classmethod
    def _made_of(cls, *parts: Any) -> Self:
        made = cls.__new__(cls)
        for name, part in zip(cls.__slots__, parts, strict=True):  # type: ignore[attr-defined]
            setattr(made, name, part)
        return made

    def _each(self, function: Callable[[np.ndarray], Any]) -> Self:
        """A change of shape, applied to all parts."""
        return self._made_of(*map(function, self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.parts[0].shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.parts[0].ndim

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.parts[0].size

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> Self:
        """Entries, as an enclosure of their own; of one entry without axes."""
        return self._each(lambda x: _array(x[key], x.dtype))

    def __iter__(self) -> Any:
        """The entries of the first axis."""
        return (self[k] for k in range(len(self)))

    def reshape(self, *shape: Any) -> Self:
        """As of NumPy arrays."""
        return self._each(lambda x: x.reshape(*shape))

    def min(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Least over axes."""
        least: Self = -((-self).max(axis, keepdims))
        return least

    def carry(self, function: Callable[[Self], Self], slack: Self) -> Self:
        """``function(self)`` by way of the midpoints, where moving within the radii moves no result
        by over `slack`.
        """
        return function(self.centre()).widen(slack)

    # --- Never a plain number ---

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "an enclosure is not one number: use its operators and NumPy's functions (np.sqrt, not "
            "math.sqrt or "
            "float), or lower() and upper()"
        )

    __float__ = __int__ = __index__ = __complex__ = __array__ = _refuse

    def __bool__(self) -> bool:
        """Refuse: an enclosure has no truth value."""
        self._refuse()
        return False

    # --- NumPy's protocols ---

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's elementwise functions."""
        operation = getattr(self, f"_{ufunc.__name__}", None)
        if method != "__call__" or options or operation is None or not all(map(_is_number, inputs)):
            return NotImplemented
        return self._apply(ufunc.__name__, *inputs)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """NumPy's functions of whole arrays, those that `NAMESPACE` has."""
        own = getattr(_Namespace, function.__name__, None)
        return NotImplemented if own is None else own(*arguments, **options)

    def _apply(self, name: str, *inputs: Any) -> Any:
        kind = type(self)
        with np.errstate(all="ignore"):
            return getattr(kind, f"_{name}")(
                *(x if type(x) is kind else kind.of(x) for x in inputs)
            )

    def __add__(self, other: Any) -> Any:
        return self._apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._apply("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._apply("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._apply("multiply", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._apply("divide", other, self)

    def __pow__(self, exponent: int) -> Any:
        if not isinstance(exponent, int) or exponent < 1:
            raise TypeError(
                f"exponent={exponent!r}: enclosures are raised to whole numbers of 1 or more"
            )
        return reduce(lambda x, _: x * self, range(exponent - 1), self)

    def __neg__(self) -> Any:
        return self._apply("negative", self)

    def __abs__(self) -> Any:
        return self._apply("absolute", self)

    def __lt__(self, other: Any) -> Any:
        return self.compare("less", self.of(other))

    def __le__(self, other: Any) -> Any:
        return self.compare("less_equal", self.of(other))

    def __gt__(self, other: Any) -> Any:
        return self.of(other).compare("less", self)

    def __ge__(self, other: Any) -> Any:
        return self.of(other).compare("less_equal", self)

    def __eq__(self, other: Any) -> Any:
        return self.compare("equal", self.of(other))

    def __ne__(self, other: Any) -> Any:
        return ~self.compare("equal", self.of(other))

    def _less(self, other: Self) -> Any:
        return self.compare("less", other)

    def _less_equal(self, other: Self) -> Any:
        return self.compare("less_equal", other)

    def _greater(self, other: Self) -> Any:
        return other.compare("less", self)

    def _greater_equal(self, other: Self) -> Any:
        return other.compare("less_equal", self)

    def _equal(self, other: Self) -> Any:
        return self.compare("equal", other)

    def _square(self) -> Any:
        return self * self

    def _isfinite(self) -> Any:
        return self.is_finite()

    def _isnan(self) -> Any:
        return self.is_nan()

    def _minimum(self, other: Any) -> Any:
        return -type(self)._maximum(-self, -other)  # type: ignore[attr-defined]


def _is_number(value: Any) -> bool:
    return isinstance(value, Enclosure | float | int | np.number | np.ndarray)


def _array(value: Any, dtype: Any) -> np.ndarray:
    """`value` as an array, an object too (which NumPy hands out bare where no axis is left)."""
    if isinstance(value, np.ndarray):
        return value
    found = np.empty((), dtype=dtype)
    found[()] = value
    return found


class Doubles(Enclosure):
    """Midpoints and radii in float64. A radius of infinity says that nothing is known."""

    __slots__ = ("mid", "rad")
    coarse = True
    mid: np.ndarray
    rad: np.ndarray

    @classmethod
    def of(cls, values: Any) -> Doubles:
        """Numbers as they are; see `Enclosure.of`."""
        if isinstance(values, cls):
            return values
        if isinstance(values, Enclosure):
            raise TypeError("enclosures of two kinds in one operation")
        mid = _exact_doubles(values).view()
        mid.flags.writeable = False  # it may be an array of the caller's
        return cls._made_of(mid, np.broadcast_to(0.0, mid.shape))

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """Midpoints and radii."""
        return self.mid, self.rad

    def centre(self) -> Doubles:
        """Midpoints."""
        return self.of(self.mid)

    def radius(self) -> Doubles:
        """Radii."""
        return self.of(self.rad)

    def widen(self, by: Doubles) -> Doubles:
        """See `Enclosure.widen`."""
        with np.errstate(all="ignore"):
            mid, rad = np.broadcast_arrays(self.mid, (self.rad + by.mid + by.rad) * GROW)
        return _known(mid, np.where(np.isinf(mid) & np.isfinite(rad), self.rad, rad))

    def lower(self) -> np.ndarray:
        """See `Enclosure.lower`."""
        with np.errstate(all="ignore"):
            least = np.nextafter(self.mid - self.rad, -np.inf)
        found: np.ndarray = np.where(
            self.rad == 0, self.mid, np.where(np.isnan(least), -np.inf, least)
        )
        return found

    def upper(self) -> np.ndarray:
        """See `Enclosure.upper`."""
        with np.errstate(all="ignore"):
            most = np.nextafter(self.mid + self.rad, np.inf)
        found: np.ndarray = np.where(
            self.rad == 0, self.mid, np.where(np.isnan(most), np.inf, most)
        )
        return found

    def is_finite(self) -> np.ndarray:
        """See `Enclosure.is_finite`."""
        return np.asarray(np.isfinite(self.mid) & np.isfinite(self.rad))

    def is_nan(self) -> np.ndarray:
        """See `Enclosure.is_nan`."""
        return np.asarray(np.isnan(self.mid) | np.isposinf(self.rad))

    def compare(self, name: str, other: Doubles) -> Any:
        """See `Enclosure.compare`."""
        unknown = np.isnan(self.mid) | np.isnan(other.mid)
        low, high, other_low, other_high = self.lower(), self.upper(), other.lower(), other.upper()
        if name == "equal":
            certain = (self.rad == 0) & (other.rad == 0) & (self.mid == other.mid)
            possible = (low <= other_high) & (other_low <= high)
        else:
            relation = getattr(np, name)
            certain, possible = relation(high, other_low), relation(low, other_high)
        return Truth(certain & ~unknown, possible | unknown).settled()

    def hull(self, other: Doubles, where: np.ndarray) -> Doubles:
        """See `Enclosure.hull`."""
        low, high = np.minimum(self.lower(), other.lower()), np.maximum(self.upper(), other.upper())
        joined = _between(low, high)
        return self._made_of(
            np.where(where, joined.mid, self.mid), np.where(where, joined.rad, self.rad)
        )

    def sum(self, axis: Any = None, keepdims: bool = False) -> Doubles:
        """See `Enclosure.sum`. In any order, `n` terms are rounded by at most ``n·EPS`` of the sum
        of their sizes.
        """
        with np.errstate(all="ignore"):
            mid = self.mid.sum(axis=axis, keepdims=keepdims)
            n = self.mid.size // max(mid.size, 1)
            sizes = np.abs(self.mid).sum(axis=axis, keepdims=keepdims) if n > 1 else 0.0
            rad = (self.rad.sum(axis=axis, keepdims=keepdims) + n * EPS * sizes) * (GROW + n * EPS)
            infinite = np.isinf(self.mid).any(axis=axis, keepdims=keepdims)
        return _settled(
            np.asarray(mid),
            np.asarray(rad),
            infinite,
            np.isfinite(self.rad).all(axis, keepdims=keepdims),
        )

    def max(self, axis: Any = None, keepdims: bool = False) -> Doubles:
        """See `Enclosure.max`."""
        low, high = (end.max(axis=axis, keepdims=keepdims) for end in (self.lower(), self.upper()))
        if np.isposinf(high).any():  # where one is not a number, neither is the largest
            high = np.where(np.isnan(self.mid).any(axis=axis, keepdims=keepdims), np.nan, high)
        return _between(low, high)

    def cumprod(self) -> Doubles:
        """See `Enclosure.cumprod`. What a product loses by underflow is multiplied by the factors
        that follow.
        """
        with np.errstate(all="ignore"):
            largest = np.abs(self.mid) + self.rad
            mid, most = np.cumprod(self.mid, axis=-1), np.cumprod(largest, axis=-1)
            k = np.arange(1, mid.shape[-1] + 1)
            lost = TINY * np.cumprod(np.maximum(largest, 1.0), axis=-1)
            rad = (
                np.maximum(most * (1 + 4 * k * EPS) - np.abs(mid), 0.0)
                + 4 * k * EPS * np.abs(mid)
                + lost
            )
        return _known(mid, rad)

    @staticmethod
    def _add(a: Doubles, b: Doubles) -> Doubles:
        mid = a.mid + b.mid
        rad = (a.rad + b.rad + EPS * np.abs(mid)) * GROW
        if np.isfinite(mid).all():
            return Doubles._made_of(mid, rad)
        return _settled(
            mid, rad, np.isinf(a.mid) | np.isinf(b.mid), np.isfinite(a.rad) & np.isfinite(b.rad)
        )

    @staticmethod
    def _subtract(a: Doubles, b: Doubles) -> Doubles:
        return Doubles._add(a, Doubles._negative(b))

    @staticmethod
    def _multiply(a: Doubles, b: Doubles) -> Doubles:
        mid = a.mid * b.mid
        size, other = np.abs(a.mid), np.abs(b.mid)
        rad = (size * b.rad + (other + b.rad) * a.rad + EPS * np.abs(mid)) * GROW + TINY
        zero = ((size == 0) & (a.rad == 0) & np.isfinite(other)) | (
            (other == 0) & (b.rad == 0) & np.isfinite(size)
        )
        if zero.any():  # exactly so
            mid, rad = np.where(zero, 0.0, mid), np.where(zero, 0.0, rad)
        if np.isfinite(mid).all():
            return _known(mid, rad)
        signs = (size > a.rad) & (other > b.rad)
        infinite = (np.isinf(a.mid) | np.isinf(b.mid)) & signs
        return _settled(mid, rad, infinite, np.isfinite(a.rad) & np.isfinite(b.rad))

    @staticmethod
    def _divide(a: Doubles, b: Doubles) -> Doubles:
        mid, least = a.mid / b.mid, (np.abs(b.mid) - b.rad) * (1 - EPS)
        # quotients first: a product of two small numbers would lose its digits
        moved = np.abs(mid) * (b.rad / least) + a.rad / least
        rad = np.where(least > 0, (moved + EPS * np.abs(mid)) * GROW + TINY, np.inf)
        zero = (a.mid == 0) & (a.rad == 0) & (least > 0)
        rad = np.where(
            zero | (np.isinf(b.mid) & (b.rad == 0) & np.isfinite(a.mid) & (a.rad == 0)), 0.0, rad
        )
        if np.isfinite(mid).all():
            return _known(mid, rad)
        return _settled(
            mid, rad, np.isinf(a.mid) & np.isfinite(b.mid) & (least > 0), np.isfinite(a.rad)
        )

    @staticmethod
    def _negative(a: Doubles) -> Doubles:
        return Doubles._made_of(-a.mid, a.rad)

    @staticmethod
    def _absolute(a: Doubles) -> Doubles:
        return Doubles._made_of(np.abs(a.mid), a.rad)

    @staticmethod
    def _maximum(a: Doubles, b: Doubles) -> Doubles:
        low, high = np.maximum(a.lower(), b.lower()), np.maximum(a.upper(), b.upper())
        if np.isposinf(high).any():
            high = np.where(np.isnan(a.mid) | np.isnan(b.mid), np.nan, high)
        return _between(low, high)

    @staticmethod
    def _exp(a: Doubles) -> Doubles:
        mid = np.exp(a.mid)
        moved = np.maximum(mid, NORMAL) * np.expm1(a.rad)
        if (a.rad > 1).any():  # no number is further from `mid` than the largest is from zero
            most = np.exp(np.nextafter(a.mid + a.rad, np.inf)) * (1 + ULPS * EPS)
            moved = np.where(a.mid + a.rad < 0, np.fmin(moved, np.maximum(most, mid)), moved)
        rad = (moved + ULPS * EPS * mid) * GROW + TINY
        rad = np.where(np.isinf(a.mid) & (a.rad == 0), 0.0, rad)
        return _settled(mid, rad, np.isposinf(a.mid), a.rad == 0)

    @staticmethod
    def _expm1(a: Doubles) -> Doubles:
        mid = np.expm1(a.mid)
        slope = np.maximum(np.exp(a.mid), NORMAL) * (1 + ULPS * EPS)
        rad = (slope * np.expm1(a.rad) + ULPS * EPS * np.abs(mid)) * GROW + TINY
        rad = np.where(np.isinf(a.mid) & (a.rad == 0), 0.0, rad)
        return _settled(mid, rad, np.isposinf(a.mid), a.rad == 0)

    @staticmethod
    def _log(a: Doubles) -> Doubles:
        return _logarithm(np.log(a.mid), a.mid, a)

    @staticmethod
    def _log1p(a: Doubles) -> Doubles:
        return _logarithm(np.log1p(a.mid), (1 + a.mid) * (1 - EPS), a)

    def _sqrt(self) -> Doubles:
        found = self.root()
        return _known(found.mid, np.where(self.lower() < 0, np.inf, found.rad))

    def root(self) -> Doubles:
        """See `Enclosure.root`."""
        with np.errstate(all="ignore"):
            return self._root(self)

    @staticmethod
    def _root(a: Doubles) -> Doubles:
        mid = np.sqrt(a.mid)
        rad = (a.rad / mid + EPS * mid) * GROW
        top = np.sqrt(np.maximum(a.mid + a.rad, 0.0)) * (1 + 4 * EPS) + math.sqrt(TINY) * (
            a.rad > 0
        )
        near = ~(a.mid > a.rad)
        mid, rad = np.where(near, top / 2, mid), np.where(near, top / 2, rad)
        negative = a.mid + a.rad < 0
        return _settled(np.where(negative, np.nan, mid), rad, np.isposinf(a.mid), a.rad == 0)

    @staticmethod
    def _tanh(a: Doubles) -> Doubles:
        mid = np.tanh(a.mid)
        slope = np.minimum(
            4 * np.exp(-2 * np.maximum(np.abs(a.mid) - a.rad, 0.0)) * (1 + ULPS * EPS), 1.0
        )
        moved = np.minimum(np.where(a.rad > 0, slope * a.rad, 0.0), 2.0)
        rad = (moved + ULPS * EPS * np.abs(mid)) * GROW + np.where(mid == 0, 0.0, TINY)
        return _known(mid, np.where(np.isinf(a.mid) & (a.rad == 0), 0.0, rad))

    @staticmethod
    def _sinh(a: Doubles) -> Doubles:
        mid, slope = np.sinh(a.mid), np.cosh((np.abs(a.mid) + a.rad) * GROW) * (1 + ULPS * EPS)
        return _settled(mid, _growth(slope, a.rad, mid), np.isinf(a.mid), a.rad == 0)

    @staticmethod
    def _cosh(a: Doubles) -> Doubles:
        mid, slope = np.cosh(a.mid), np.cosh((np.abs(a.mid) + a.rad) * GROW) * (1 + ULPS * EPS)
        return _settled(mid, _growth(slope, a.rad, mid), np.isinf(a.mid), a.rad == 0)


def _exact_doubles(values: Any) -> np.ndarray:
    """An array of numbers, all of which are doubles.

    Raises:
        ValueError: one is not, and would be rounded: a large integer, or a long double.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{values!r}: must be real numbers")
    with np.errstate(all="ignore"):
        doubles = array.astype(np.float64, copy=False)
        if array.dtype not in (np.float64, np.float32, np.bool_):
            rounded = (doubles.astype(array.dtype) != array) & ~np.isnan(doubles)
            if rounded.any():
                raise ValueError(
                    f"{array[rounded].ravel()[0]!r} is not a double, and would be rounded; give "
                    "float64 arrays"
                )
    return doubles


def _growth(slope: np.ndarray, rad: np.ndarray, mid: np.ndarray) -> np.ndarray:
    return np.asarray(
        (np.where(rad > 0, slope * rad, 0.0) + ULPS * EPS * np.abs(mid)) * GROW + TINY
    )


def _known(mid: np.ndarray, rad: np.ndarray) -> Doubles:
    """What is not a number has an infinite radius: nothing is known of it."""
    mid, rad = np.broadcast_arrays(mid, rad)
    unknown = np.isnan(rad) | np.isnan(mid)
    return Doubles._made_of(mid, np.where(unknown, np.inf, rad) if unknown.any() else rad)


def _settled(mid: np.ndarray, rad: np.ndarray, infinite: np.ndarray, known: np.ndarray) -> Doubles:
    """An infinite result is exact where it comes of an operand that is known to be infinite; else
    it is overflow.
    """
    exact = np.isinf(mid) & infinite & known
    return _known(mid, np.where(exact, 0.0, np.where(np.isinf(mid), np.inf, rad)))


def _between(low: np.ndarray, high: np.ndarray) -> Doubles:
    """Enclosures of the numbers from `low` to `high`."""
    with np.errstate(all="ignore"):
        mid = np.where(low == high, low, low / 2 + high / 2)
        rad = np.where(
            low == high, 0.0, np.maximum(high - mid, mid - low) * GROW + EPS * np.abs(mid)
        )
    return _known(mid, rad)


def _logarithm(mid: np.ndarray, argument: np.ndarray, a: Doubles) -> Doubles:
    """A logarithm of numbers within a relative ``q`` of `argument`: it moves by at most ``−log(1 −
    q)``.
    """
    share = np.where(a.rad > 0, a.rad / argument, 0.0) * GROW
    rad = np.where(share < 1, -np.log1p(-share), np.inf) * GROW + ULPS * EPS * np.abs(mid)
    rad = rad + np.where(mid == 0, 0.0, TINY)
    rad = np.where((argument == 0) & (a.rad == 0) | np.isposinf(a.mid), 0.0, rad)
    return _settled(mid, np.where(argument < 0, np.inf, rad), np.isinf(mid), a.rad == 0)


class Balls(Enclosure):
    """Arb's balls, in an array of objects. Their precision is that in force (`precision`) when they
    are computed.
    """

    __slots__ = ("data",)
    data: np.ndarray

    @classmethod
    def of(cls, values: Any) -> Balls:
        """Numbers as exact balls; see `Enclosure.of`."""
        if isinstance(values, cls):
            return values
        if isinstance(values, Enclosure):
            raise TypeError("enclosures of two kinds in one operation")
        array = np.asarray(values)
        return cls._made_of(
            _objects(_ball_of(array if array.dtype == object else _exact_doubles(array)))
        )

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """The balls."""
        return (self.data,)

    def centre(self) -> Balls:
        """Midpoints."""
        return self._map(_middle)

    def radius(self) -> Balls:
        """Radii."""
        return self._map(_radius)

    def widen(self, by: Balls) -> Balls:
        """See `Enclosure.widen`."""
        return self._map(_widened, by)

    def lower(self) -> np.ndarray:
        """See `Enclosure.lower`."""
        with np.errstate(all="ignore"):
            return np.asarray(_least(self.data), dtype=np.float64)

    def upper(self) -> np.ndarray:
        """See `Enclosure.upper`."""
        return np.asarray(-((-self).lower()))

    def is_finite(self) -> np.ndarray:
        """See `Enclosure.is_finite`."""
        return _flags(_is_finite, self.data)

    def is_nan(self) -> np.ndarray:
        """See `Enclosure.is_nan`."""
        return _flags(_is_unknown, self.data)

    def compare(self, name: str, other: Balls) -> Any:
        """See `Enclosure.compare`."""
        yes, no = _RELATIONS[name]
        certain, impossible = (
            np.asarray(relation(self.data, other.data), dtype=bool) for relation in (yes, no)
        )
        return certain if (certain != impossible).all() else Truth(certain, ~impossible)

    def hull(self, other: Balls, where: np.ndarray) -> Balls:
        """See `Enclosure.hull`."""
        return self._map(_union, other, np.asarray(where, dtype=object))

    def sum(self, axis: Any = None, keepdims: bool = False) -> Balls:
        """See `Enclosure.sum`."""
        return self._made_of(
            _objects(np.sum(self.data, axis=axis, keepdims=keepdims, initial=_ball(0.0)))
        )

    def max(self, axis: Any = None, keepdims: bool = False) -> Balls:
        """See `Enclosure.max`."""
        top, axes = (
            self.data,
            range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,),
        )
        for one in sorted((a % self.ndim for a in axes), reverse=True):
            found = _objects(reduce(lambda a, b: _larger(a, b), np.moveaxis(top, one, 0)))
            top = np.expand_dims(found, one) if keepdims else found
        return self._made_of(top)

    def cumprod(self) -> Balls:
        """See `Enclosure.cumprod`."""
        return self._made_of(np.cumprod(self.data, axis=-1))

    def _map(self, function: Any, *others: Any) -> Balls:
        """A function of objects, made by `np.frompyfunc`, of each ball."""
        return _balls(function(self.data, *(x.data if isinstance(x, Balls) else x for x in others)))

    def __add__(self, other: Any) -> Balls:
        return _balls(self.data + _raw(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Balls:
        return _balls(self.data - _raw(other))

    def __rsub__(self, other: Any) -> Balls:
        return _balls(_raw(other) - self.data)

    def __mul__(self, other: Any) -> Balls:
        return _balls(self.data * _raw(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Balls:
        return _balls(self.data / _raw(other))

    def __rtruediv__(self, other: Any) -> Balls:
        return _balls(_raw(other) / self.data)

    def __neg__(self) -> Balls:
        return _balls(-self.data)

    def __abs__(self) -> Balls:
        return _balls(abs(self.data))

    def _add(self, other: Balls) -> Balls:
        return self + other

    def _subtract(self, other: Balls) -> Balls:
        return self - other

    def _multiply(self, other: Balls) -> Balls:
        return self * other

    def _divide(self, other: Balls) -> Balls:
        return self / other

    def _negative(self) -> Balls:
        return -self

    def _absolute(self) -> Balls:
        return abs(self)

    @staticmethod
    def _maximum(a: Balls, b: Balls) -> Balls:
        return _balls(_larger(a.data, b.data))

    def _sqrt(self) -> Balls:
        return self._map(_plain_root)

    def root(self) -> Balls:
        """See `Enclosure.root`."""
        return self._map(_root)


def _balls(values: Any) -> Balls:
    """An array of balls, or one ball, as it is."""
    made = Balls.__new__(Balls)
    made.data = _objects(values)
    return made


def _raw(value: Any) -> Any:
    """What arithmetic of balls takes: their array, and numbers, which are exact, as they are."""
    if type(value) is Balls:
        return value.data
    if isinstance(value, Enclosure):
        raise TypeError("enclosures of two kinds in one operation")
    return value if isinstance(value, float | int) else np.asarray(value)


def _elementwise(name: str) -> Any:
    function = np.frompyfunc(operator.methodcaller(name), 1, 1)
    return lambda a: a._map(function)


for _name in ("exp", "expm1", "log", "log1p", "tanh", "sinh", "cosh"):
    setattr(Balls, f"_{_name}", _elementwise(_name))


def _ball(number: Any) -> Any:
    from flint import arb  # here, so that `import theory` does not load it

    if isinstance(number, arb):
        return number
    if not isinstance(number, float | int):
        raise ValueError(f"{number!r}: must be a real number")
    return arb(number)


def _below(x: Any) -> float:
    """The double itself where an exact ball is one, else the one below the least number of a
    ball.
    """
    if x.is_exact() or _is_infinity(x):
        x = x.mid()
        double = float(x)
        return double if _ball(double) == x else math.nextafter(double, -math.inf)
    return math.nextafter(float(x.lower()), -math.inf)


def _is_infinity(x: Any) -> bool:
    """Whether a ball is an infinity for certain; after a sum with an inexact ball it keeps that
    one's radius.
    """
    return not x.is_finite() and not x.is_nan() and bool(x.rad().is_finite())


def _widen(x: Any, by: Any) -> Any:
    from flint import arb

    return x if by == 0 else x + arb(0, by)  # `by` may be a ball that holds zero, and is not zero


def _take_root(x: Any) -> Any:
    least, most = x.lower(), x.upper()
    if least > 0 or not most >= 0:
        return x.sqrt()
    return _ball(0).union(most.sqrt()) if most > 0 else _ball(0)


_ball_of = np.frompyfunc(_ball, 1, 1)

_larger = np.frompyfunc(lambda a, b: a.max(b), 2, 1)

_plain_root = np.frompyfunc(operator.methodcaller("sqrt"), 1, 1)

_root, _widened = np.frompyfunc(_take_root, 1, 1), np.frompyfunc(_widen, 2, 1)

_middle, _radius = (np.frompyfunc(operator.methodcaller(name), 1, 1) for name in ("mid", "rad"))

_union = np.frompyfunc(lambda a, b, join: a.union(b) if join else a, 3, 1)

_least = np.frompyfunc(_below, 1, 1)

_is_finite = np.frompyfunc(operator.methodcaller("is_finite"), 1, 1)

_is_unknown = np.frompyfunc(lambda x: not (x.is_finite() or _is_infinity(x)), 1, 1)

_RELATIONS = {
    "equal": tuple(np.frompyfunc(f, 2, 1) for f in (operator.eq, operator.ne)),
    "less": tuple(np.frompyfunc(f, 2, 1) for f in (operator.lt, operator.ge)),
    "less_equal": tuple(np.frompyfunc(f, 2, 1) for f in (operator.le, operator.gt)),
}


def _objects(values: Any) -> np.ndarray:
    return _array(values, object)


def _flags(function: Any, array: np.ndarray) -> np.ndarray:
    return np.asarray(function(array), dtype=bool)


def enclose(values: Any, bits: int) -> Enclosure:
    """The numbers of an array (or one number), exactly, as `Doubles` for 53 bits and as `Balls` for
    more.

    Raises:
        ValueError: one is not real, or not a double (a large integer, a long double), and would be
            rounded.
    """
    return Doubles.of(values) if bits == DOUBLE else Balls.of(values)


def precision(bits: int) -> AbstractContextManager[Any]:
    """Context in which balls are computed with `bits` bits; `Doubles` have theirs."""
    if bits == DOUBLE:
        return nullcontext()
    from flint import ctx

    context: AbstractContextManager[Any] = ctx.workprec(bits)
    return context


def is_enclosure(value: Any) -> bool:
    """Whether `value` is an `Enclosure`."""
    return isinstance(value, Enclosure)


def _kind(values: Sequence[Any]) -> type[Enclosure]:
    return next(type(x) for x in values if isinstance(x, Enclosure))


class _Namespace:
    """NumPy's functions, of enclosures where one of their arguments is an `Enclosure`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        """`a` where yes, `b` where no, and both where neither is certain."""
        if not (is_enclosure(a) or is_enclosure(b)):
            return np.where(condition, a, b)
        kind = _kind((a, b))
        a, b = kind.of(a), kind.of(b)
        truth = Truth.of(condition)
        shape = np.broadcast_shapes(truth.shape, a.shape, b.shape)
        chosen = kind._made_of(
            *(np.where(truth.certain, x, y) for x, y in zip(a.parts, b.parts, strict=True))
        )
        open_ = truth.possible & ~truth.certain
        if not open_.any():
            return chosen
        full = _Namespace.broadcast_to
        return full(chosen, shape).hull(full(a, shape), np.broadcast_to(open_, shape))

    @staticmethod
    def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.max(axis, keepdims)

    @staticmethod
    def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.min(axis, keepdims)

    amax, amin = max, min

    @staticmethod
    def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.sum(axis, keepdims)

    @staticmethod
    def cumprod(x: Any, axis: int = -1) -> Any:
        if axis not in (-1, x.ndim - 1):
            raise TypeError("cumprod of enclosures runs over the last axis")
        return x.cumprod()

    @staticmethod
    def shape(x: Any) -> tuple[int, ...]:
        return tuple(x.shape)

    @staticmethod
    def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
        return _joined(np.stack, arrays, axis)

    @staticmethod
    def concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
        return _joined(np.concatenate, arrays, axis)

    concat = concatenate

    @staticmethod
    def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
        return x._each(lambda part: np.broadcast_to(part, shape))

    @staticmethod
    def broadcast_arrays(*arrays: Any) -> Any:
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        return [
            _Namespace.broadcast_to(x, shape) if is_enclosure(x) else np.broadcast_to(x, shape)
            for x in arrays
        ]

    @staticmethod
    def moveaxis(x: Any, source: Any, destination: Any) -> Any:
        return x._each(lambda part: np.moveaxis(part, source, destination))

    @staticmethod
    def reshape(x: Any, shape: Any) -> Any:
        return x.reshape(shape)

    @staticmethod
    def zeros_like(x: Any) -> Any:
        return type(x).of(np.zeros(x.shape)) if is_enclosure(x) else np.zeros_like(x)

    @staticmethod
    def ones_like(x: Any) -> Any:
        return type(x).of(np.ones(x.shape)) if is_enclosure(x) else np.ones_like(x)

    @staticmethod
    def any(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return (
            Truth.of(x).any(axis)
            if isinstance(x, Truth)
            else np.any(x, axis=axis, keepdims=keepdims)
        )

    @staticmethod
    def all(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return (
            Truth.of(x).all(axis)
            if isinstance(x, Truth)
            else np.all(x, axis=axis, keepdims=keepdims)
        )

    @staticmethod
    def argmax(*_: Any, **__: Any) -> Any:
        raise TypeError(
            "enclosures that overlap have no argmax: choose in floating point, evaluate the choice "
            "here"
        )

    argmin = argmax


def _joined(join: Callable[..., np.ndarray], arrays: Sequence[Any], axis: int) -> Enclosure:
    kind = _kind(arrays)
    columns = zip(*(kind.of(x).parts for x in arrays), strict=True)
    return kind._made_of(*(join(column, axis=axis) for column in columns))


NAMESPACE: Any = _Namespace()
