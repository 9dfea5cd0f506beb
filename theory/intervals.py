"""Rigorous arithmetic: NumPy arrays of `flint.arb` balls, a third kind of array beside NumPy's and torch's.

A ball holds a number that is known to lie in it; every operation on balls holds every possible result. NumPy carries
arrays of Python objects through ``+ − × ÷``, indexing and sums, and its ``exp``, ``log``, ``tanh`` call the method of
that name, so all of the package runs on balls as it stands. What remains are the few functions in which NumPy would
compare two balls that overlap and pick one: they are replaced here. `theory.arrays.array_namespace` returns
`NAMESPACE` for an array of balls.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import reduce
from typing import Any

import numpy as np

__all__ = ["NAMESPACE", "ball", "balls", "is_balls", "precision"]


def balls(values: Any) -> np.ndarray:
    """The numbers of an array (or one number), as exact balls: an object array of the same shape."""
    from flint import arb  # here, so that `import theory` does not load it

    return np.asarray(np.frompyfunc(arb, 1, 1)(values), dtype=object)


def ball(number: Any) -> Any:
    """One number as an exact ball."""
    from flint import arb

    return arb(number)


def precision(bits: int) -> AbstractContextManager[Any]:
    """Context in which ball arithmetic is carried out with `bits` bits."""
    from flint import ctx

    context: AbstractContextManager[Any] = ctx.workprec(bits)
    return context


def is_balls(value: Any) -> bool:
    """Whether `value` is an array of balls."""
    return isinstance(value, np.ndarray) and value.dtype == object


def _root(x: Any) -> Any:
    """Square root of a ball around a number that is known not to be negative, though the ball may be."""
    least, most = x.lower(), x.upper()
    if least > 0:
        return x.sqrt()
    return ball(0).union(most.sqrt()) if most > 0 else ball(0) if most == 0 else x.sqrt()


def _either(name: str) -> Any:
    from flint import arb

    return np.frompyfunc(lambda a, b: getattr(arb(a), name)(arb(b)), 2, 1)


class _Namespace:
    """NumPy, except where it would decide between overlapping balls or leave a domain by rounding."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return _either("max")(a, b)

    @staticmethod
    def minimum(a: Any, b: Any) -> Any:
        return _either("min")(a, b)

    @staticmethod
    def sqrt(x: Any) -> Any:
        return np.frompyfunc(_root, 1, 1)(x)

    @staticmethod
    def max(x: np.ndarray, axis: int | tuple[int, ...], keepdims: bool = False) -> Any:
        axes = axis if isinstance(axis, tuple) else (axis,)
        for one in sorted((a % x.ndim for a in axes), reverse=True):
            top = reduce(_Namespace.maximum, np.moveaxis(x, one, 0))
            x = np.expand_dims(top, one) if keepdims else np.asarray(top, dtype=object)
        return x

    @staticmethod
    def where(condition: Any, a: Any, b: Any) -> np.ndarray:
        """Both branches as balls: a float among them would have no ``exp`` method."""
        return np.where(condition, balls(a), balls(b))

    @staticmethod
    def zeros_like(x: np.ndarray) -> np.ndarray:
        return balls(np.zeros(x.shape))

    @staticmethod
    def isfinite(x: Any) -> Any:
        return np.asarray(np.frompyfunc(lambda ball: ball.is_finite(), 1, 1)(x), dtype=bool)

    @staticmethod
    def isnan(x: Any) -> Any:
        return np.asarray(np.frompyfunc(lambda ball: ball.is_nan(), 1, 1)(x), dtype=bool)

    @staticmethod
    def argmax(*_: Any, **__: Any) -> Any:
        raise TypeError("balls that overlap have no argmax: choose in floating point, evaluate the choice in balls")


NAMESPACE: Any = _Namespace()
