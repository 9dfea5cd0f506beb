"""Enclosures by Arb's balls (python-flint) at any number of bits, an array of objects."""

from __future__ import annotations

import math
import operator
from functools import reduce
from typing import Any

import numpy as np

from theory.arrays.enclosure import Enclosure, as_array_of, exact_doubles
from theory.arrays.truth import Truth

__all__ = ["Balls"]


class Balls(Enclosure):
    """Arb's balls in an array of objects, computed with the precision in force (see `precision`).

    Example:
        >>> from theory.arrays.precision import precision
        >>> with precision(128):
        ...     print(np.exp(Balls.of(1.0)).data)
        [2.71828182845904523536028747135266249... +/- ...]
    """

    __slots__ = ("data",)
    data: np.ndarray

    @classmethod
    def exact(cls, values: Any) -> Balls:
        """See `Enclosure.exact`."""
        array = np.asarray(values)
        return _balls(_ball_of(array if array.dtype == object else exact_doubles(array)))

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """The balls."""
        return (self.data,)

    def midpoint(self) -> Balls:
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
        return _balls(np.sum(self.data, axis=axis, keepdims=keepdims, initial=_ball(0.0)))

    def max(self, axis: Any = None, keepdims: bool = False) -> Balls:
        """See `Enclosure.max`."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        top = self.data
        for one in sorted((a % self.ndim for a in axes), reverse=True):
            found = as_array_of(reduce(lambda a, b: _larger(a, b), np.moveaxis(top, one, 0)))
            top = np.expand_dims(found, one) if keepdims else found
        return self._from_parts(top)

    def cumprod(self) -> Balls:
        """See `Enclosure.cumprod`."""
        return self._from_parts(np.cumprod(self.data, axis=-1))

    def _map(self, function: Any, *others: Any) -> Balls:
        """Apply a function of objects, made by `np.frompyfunc`, to each ball."""
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

    # NumPy's names of the operators
    _add = __add__
    _subtract = __sub__
    _multiply = __mul__
    _divide = __truediv__
    _negative = __neg__
    _absolute = __abs__

    @staticmethod
    def _maximum(a: Balls, b: Balls) -> Balls:
        return _balls(_larger(a.data, b.data))

    def _sqrt(self) -> Balls:
        return self._map(_plain_root)

    def root(self) -> Balls:
        """See `Enclosure.root`."""
        return self._map(_root)


def _balls(values: Any) -> Balls:
    """Return an array of balls, or one ball, as `Balls`."""
    made = Balls.__new__(Balls)
    made.data = as_array_of(values)
    return made


def _raw(value: Any) -> Any:
    """Return the operand of balls' arithmetic: an array of balls, or numbers, which are exact."""
    if type(value) is Balls:
        return value.data
    if isinstance(value, Enclosure):
        return Balls.of(value).data  # raises: it is of another kind
    return value if isinstance(value, float | int) else np.asarray(value)


def _elementwise(name: str) -> Any:
    function = np.frompyfunc(operator.methodcaller(name), 1, 1)
    return lambda a: a._map(function)


for _name in ("exp", "expm1", "log", "log1p", "tanh", "sinh"):
    setattr(Balls, f"_{_name}", _elementwise(_name))


def _ball(number: Any) -> Any:
    from flint import arb  # imported late, so that `import theory` does not load python-flint

    if isinstance(number, arb):
        return number
    if not isinstance(number, float | int):
        raise ValueError(f"{number!r}: must be a real number")
    return arb(number)


def _below(x: Any) -> float:
    """The greatest double known to be no more than a ball; the number itself if it is one."""
    if x.is_exact() or _is_infinity(x):
        x = x.mid()
        double = float(x)
        return double if _ball(double) == x else math.nextafter(double, -math.inf)
    return math.nextafter(float(x.lower()), -math.inf)


def _is_infinity(x: Any) -> bool:
    """Whether a ball is certainly infinite; it keeps the radius of an inexact ball added to it."""
    return not x.is_finite() and not x.is_nan() and bool(x.rad().is_finite())


def _widen(x: Any, by: Any) -> Any:
    from flint import arb

    # An inexact `by` does not equal zero, though it may contain it.
    return x if by == 0 else x + arb(0, by)


def _take_root(x: Any) -> Any:
    least = x.lower()
    most = x.upper()
    if least > 0 or not most >= 0:
        return x.sqrt()
    return _ball(0).union(most.sqrt()) if most > 0 else _ball(0)


# Elementwise functions of arrays of balls.
_ball_of = np.frompyfunc(_ball, 1, 1)
_larger = np.frompyfunc(lambda a, b: a.max(b), 2, 1)
_plain_root = np.frompyfunc(operator.methodcaller("sqrt"), 1, 1)
_root = np.frompyfunc(_take_root, 1, 1)
_widened = np.frompyfunc(_widen, 2, 1)
_middle = np.frompyfunc(operator.methodcaller("mid"), 1, 1)
_radius = np.frompyfunc(operator.methodcaller("rad"), 1, 1)
_union = np.frompyfunc(lambda a, b, join: a.union(b) if join else a, 3, 1)
_least = np.frompyfunc(_below, 1, 1)
_is_finite = np.frompyfunc(operator.methodcaller("is_finite"), 1, 1)
_is_unknown = np.frompyfunc(lambda x: not (x.is_finite() or _is_infinity(x)), 1, 1)

_RELATIONS = {
    "equal": tuple(np.frompyfunc(f, 2, 1) for f in (operator.eq, operator.ne)),
    "less": tuple(np.frompyfunc(f, 2, 1) for f in (operator.lt, operator.ge)),
    "less_equal": tuple(np.frompyfunc(f, 2, 1) for f in (operator.le, operator.gt)),
}


def _flags(function: Any, array: np.ndarray) -> np.ndarray:
    return np.asarray(function(array), dtype=bool)
