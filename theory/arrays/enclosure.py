"""Enclosures: arrays of numbers, each known to lie within a radius of a midpoint.

They are a third kind of array beside NumPy's and torch's. Every operation on enclosures encloses
every possible result, rounding included, so that a number computed from them is proved. There are
two kinds with one interface, `theory.arrays.doubles.Doubles` (fast) and
`theory.arrays.balls.Balls` (any precision), and all of the package runs on either as it stands.

An enclosure never becomes a single number by itself: ``float(x)``, ``math.sqrt(x)`` and
``np.asarray(x)`` raise. A comparison of enclosures that overlap is neither yes nor no: it is a
`theory.arrays.truth.Truth`, ``where`` joins both of its branches, and asking for its ``bool``
raises `Undecided`.

Widths stay narrow over long horizons because functions that are Lipschitz are evaluated at the
midpoint, with the radius carried over (`Enclosure.carry`): a soft maximum of values within `δ` is
within `δ`, and term by term it would be `3δ`. See ``docs/theory.md``, "Verdicts".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Self

import numpy as np

from theory.arrays.truth import Truth

__all__ = ["NAMESPACE", "Enclosure", "as_array_of", "exact_doubles", "is_enclosure"]


class Enclosure:
    """An array of numbers, each within a radius of a midpoint. Build one with `enclose`.

    Example:
        >>> from theory.arrays.doubles import Doubles
        >>> root = np.sqrt(Doubles.of([2.0, 4.0]))
        >>> root.shape, bool((root * root >= 3.9)[1]), (root.radius().upper() < 1e-15).tolist()
        ((2,), True, [True, True])
    """

    coarse = False
    """Whether precision is fixed: then forms that lose less of it are worth more operations."""

    __hash__ = None  # type: ignore[assignment]

    # --- What the two kinds provide ---

    @classmethod
    def exact(cls, values: Any) -> Self:
        """Enclose numbers exactly, with radius zero."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """Arrays that it consists of, all of its shape."""
        raise NotImplementedError

    def midpoint(self) -> Self:
        """Return the midpoints, exact."""
        raise NotImplementedError

    def radius(self) -> Self:
        """Return upper bounds on the radii, exact."""
        raise NotImplementedError

    def widen(self, by: Self) -> Self:
        """Add `by`, not negative, to the radii."""
        raise NotImplementedError

    def lower(self) -> np.ndarray:
        """Return doubles that are no more than the numbers."""
        raise NotImplementedError

    def upper(self) -> np.ndarray:
        """Return doubles that are no less than the numbers."""
        raise NotImplementedError

    def sum(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Sum over axes."""
        raise NotImplementedError

    def max(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Maximum over axes."""
        raise NotImplementedError

    def cumprod(self) -> Self:
        """Cumulative product over the last axis."""
        raise NotImplementedError

    def hull(self, other: Self, where: np.ndarray) -> Self:
        """Enclose both this and the `other` number where `where`, and this one elsewhere."""
        raise NotImplementedError

    def root(self) -> Self:
        """Square root of numbers known not to be negative; enclosures may reach below 0."""
        raise NotImplementedError

    def compare(self, name: str, other: Self) -> Any:
        """Compare elementwise; `name` is ``less``, ``less_equal`` or ``equal``."""
        raise NotImplementedError

    def nearest(self) -> np.ndarray:
        """Return doubles near the midpoints, for uses that need no proof."""
        with np.errstate(invalid="ignore", over="ignore"):
            low = self.lower()
            high = self.upper()
            middle = low / 2 + high / 2
        found: np.ndarray = np.where(low == high, low, middle)
        return found

    def is_finite(self) -> np.ndarray:
        """Whether each number is known to be finite."""
        raise NotImplementedError

    def is_nan(self) -> np.ndarray:
        """Whether nothing is known of a number: not even a bound on one side."""
        raise NotImplementedError

    # --- Making them, and their shapes ---

    @classmethod
    def of(cls, values: Any) -> Self:
        """Return numbers as enclosures of radius zero, and an enclosure of this kind as it is.

        Raises:
            TypeError: `values` is an enclosure of another kind.
            ValueError: a number is not a double, and would be rounded.
        """
        if isinstance(values, cls):
            return values
        if isinstance(values, Enclosure):
            raise TypeError("enclosures of two kinds in one operation")
        return cls.exact(values)

    @classmethod
    def _from_parts(cls, *parts: Any) -> Self:
        made = cls.__new__(cls)
        for name, part in zip(cls.__slots__, parts, strict=True):  # type: ignore[attr-defined]
            setattr(made, name, part)
        return made

    def _each(self, function: Callable[[np.ndarray], Any]) -> Self:
        """Apply a change of shape to all parts."""
        return self._from_parts(*map(function, self.parts))

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
        """Index like a NumPy array; one entry is an enclosure without axes."""
        return self._each(lambda x: as_array_of(x[key], x.dtype))

    def __iter__(self) -> Any:
        """Iterate over the first axis."""
        return (self[k] for k in range(len(self)))

    def reshape(self, *shape: Any) -> Self:
        """Reshape like a NumPy array."""
        return self._each(lambda x: x.reshape(*shape))

    def min(self, axis: Any = None, keepdims: bool = False) -> Self:
        """Minimum over axes."""
        least: Self = -((-self).max(axis, keepdims))
        return least

    def carry(self, function: Callable[[Self], Self], slack: Self) -> Self:
        """Evaluate a function at the midpoints and widen by `slack`.

        `slack` bounds how far the function's values move while its arguments move within their
        radii.
        """
        return function(self.midpoint()).widen(slack)

    # --- Never a plain number ---

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "an enclosure is not one number: use its operators and NumPy's functions (np.sqrt, not "
            "math.sqrt or float), or lower() and upper()"
        )

    __float__ = __int__ = __index__ = __complex__ = __array__ = _refuse

    def __bool__(self) -> bool:
        """Refuse: an enclosure has no truth value."""
        self._refuse()
        return False

    # --- NumPy's protocols ---

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute NumPy's elementwise functions, those that have a method here."""
        operation = getattr(self, f"_{ufunc.__name__}", None)
        if method != "__call__" or options or operation is None or not all(map(_is_number, inputs)):
            return NotImplemented
        return self._apply(ufunc.__name__, *inputs)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """Compute NumPy's functions of whole arrays, those that `NAMESPACE` has."""
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

    # NumPy's names of the comparisons
    _less = __lt__
    _less_equal = __le__
    _equal = __eq__
    _greater = __gt__
    _greater_equal = __ge__

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


def as_array_of(value: Any, dtype: Any = object) -> np.ndarray:
    """Return `value` as an array; NumPy hands out the entry itself where no axis is left.

    Example:
        >>> as_array_of("one entry").shape
        ()
    """
    if isinstance(value, np.ndarray):
        return value
    found = np.empty((), dtype=dtype)
    found[()] = value
    return found


def exact_doubles(values: Any) -> np.ndarray:
    """Return numbers as an array of doubles, without rounding.

    Raises:
        ValueError: a number is no double: a large integer, or a long double.

    Example:
        >>> exact_doubles([1, 2**53 + 1])
        Traceback (most recent call last):
        ValueError: ...9007199254740993... is not a double, and would be rounded; give ...
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


def is_enclosure(value: Any) -> bool:
    """Return whether `value` is an `Enclosure`.

    Example:
        >>> is_enclosure(1.0)
        False
    """
    return isinstance(value, Enclosure)


def _kind(values: Sequence[Any]) -> type[Enclosure]:
    return next(type(x) for x in values if isinstance(x, Enclosure))


class _Namespace:
    """NumPy's functions, for arguments of which one is an `Enclosure`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> Any:
        """Choose `a` where yes, `b` where no, and enclose both where neither is certain."""
        if not (is_enclosure(a) or is_enclosure(b)):
            return np.where(condition, a, b)
        kind = _kind((a, b))
        a = kind.of(a)
        b = kind.of(b)
        truth = Truth.of(condition)
        shape = np.broadcast_shapes(truth.shape, a.shape, b.shape)
        chosen = kind._from_parts(
            *(np.where(truth.certain, x, y) for x, y in zip(a.parts, b.parts, strict=True))
        )
        uncertain = truth.possible & ~truth.certain
        if not uncertain.any():
            return chosen
        full = _Namespace.broadcast_to
        return full(chosen, shape).hull(full(a, shape), np.broadcast_to(uncertain, shape))

    @staticmethod
    def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.max(axis, keepdims)

    @staticmethod
    def min(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.min(axis, keepdims)

    amax = max
    amin = min

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
        return x.any(axis) if isinstance(x, Truth) else np.any(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def all(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return x.all(axis) if isinstance(x, Truth) else np.all(x, axis=axis, keepdims=keepdims)

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
    return kind._from_parts(*(join(column, axis=axis) for column in columns))


NAMESPACE: Any = _Namespace()
