"""Enclosures of doubles: midpoints and radii in float64, as fast as a few NumPy operations.

They assume what NumPy's own tests do: ``+ − × ÷ √`` rounded to nearest, ``exp``, ``log``, … to
within `ULPS` units in the last place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays.enclosure import Enclosure, exact_doubles
from theory.arrays.truth import Truth

__all__ = ["Doubles"]

EPS = 2.0**-52
"""Twice the largest relative rounding of one operation: half is left for the radius's own."""

GROW = 1 + 2.0**-48
"""Factor on a radius that covers the rounding of the few operations that computed it."""

TINY = 1e-300
"""More than an operation can lose by underflow."""

NORMAL = 2.0**-1022
"""The least double that has all its digits."""

ULPS = 4
"""Largest error of NumPy's ``exp``, ``log``, … in units in the last place: NumPy tests for it."""


class Doubles(Enclosure):
    """Midpoints and radii in float64; a radius of infinity says that nothing is known.

    Example:
        >>> tenth = Doubles.of(1.0) / 10
        >>> total = sum([tenth] * 10, Doubles.of(0.0))  # encloses 1, though 0.1 has no double
        >>> bool(total.lower() < 1 < total.upper()), bool(total.radius().upper() < 1e-14)
        (True, True)
    """

    __slots__ = ("mid", "rad")
    coarse = True
    mid: np.ndarray
    rad: np.ndarray

    @classmethod
    def exact(cls, values: Any) -> Doubles:
        """See `Enclosure.exact`."""
        mid = exact_doubles(values).view()
        mid.flags.writeable = False  # it may be an array of the caller's
        return cls._from_parts(mid, np.broadcast_to(0.0, mid.shape))

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """Midpoints and radii."""
        return self.mid, self.rad

    def midpoint(self) -> Doubles:
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
        return self._end(-1.0)

    def upper(self) -> np.ndarray:
        """See `Enclosure.upper`."""
        return self._end(1.0)

    def _end(self, side: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            end = np.nextafter(self.mid + side * self.rad, side * np.inf)
        known = np.where(np.isnan(end), side * np.inf, end)
        return np.where(self.rad == 0, self.mid, known)

    def is_finite(self) -> np.ndarray:
        """See `Enclosure.is_finite`."""
        return np.asarray(np.isfinite(self.mid) & np.isfinite(self.rad))

    def is_nan(self) -> np.ndarray:
        """See `Enclosure.is_nan`."""
        return np.asarray(np.isnan(self.mid) | np.isposinf(self.rad))

    def compare(self, name: str, other: Doubles) -> Any:
        """See `Enclosure.compare`."""
        unknown = np.isnan(self.mid) | np.isnan(other.mid)
        low = self.lower()
        high = self.upper()
        other_low = other.lower()
        other_high = other.upper()
        if name == "equal":
            certain = (self.rad == 0) & (other.rad == 0) & (self.mid == other.mid)
            possible = (low <= other_high) & (other_low <= high)
        else:
            relation = getattr(np, name)
            certain = relation(high, other_low)
            possible = relation(low, other_high)
        return Truth(certain & ~unknown, possible | unknown).settled()

    def hull(self, other: Doubles, where: np.ndarray) -> Doubles:
        """See `Enclosure.hull`."""
        low = np.minimum(self.lower(), other.lower())
        high = np.maximum(self.upper(), other.upper())
        joined = _between(low, high)
        return self._from_parts(
            np.where(where, joined.mid, self.mid), np.where(where, joined.rad, self.rad)
        )

    def sum(self, axis: Any = None, keepdims: bool = False) -> Doubles:
        """See `Enclosure.sum`."""
        with np.errstate(all="ignore"):
            # In any order of summation, n terms are rounded by at most n·EPS of the sum of sizes.
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
        """See `Enclosure.cumprod`."""
        with np.errstate(all="ignore"):
            largest = np.abs(self.mid) + self.rad
            mid = np.cumprod(self.mid, axis=-1)
            most = np.cumprod(largest, axis=-1)
            k = np.arange(1, mid.shape[-1] + 1)  # factors, so roundings
            # what underflow loses is multiplied by the factors that follow
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
            return Doubles._from_parts(mid, rad)
        return _settled(
            mid, rad, np.isinf(a.mid) | np.isinf(b.mid), np.isfinite(a.rad) & np.isfinite(b.rad)
        )

    @staticmethod
    def _subtract(a: Doubles, b: Doubles) -> Doubles:
        return Doubles._add(a, Doubles._negative(b))

    @staticmethod
    def _multiply(a: Doubles, b: Doubles) -> Doubles:
        mid = a.mid * b.mid
        size = np.abs(a.mid)
        other = np.abs(b.mid)
        rad = (size * b.rad + (other + b.rad) * a.rad + EPS * np.abs(mid)) * GROW + TINY
        zero = ((size == 0) & (a.rad == 0) & np.isfinite(other)) | (
            (other == 0) & (b.rad == 0) & np.isfinite(size)
        )
        if zero.any():  # a factor is exactly zero, so the product is
            mid = np.where(zero, 0.0, mid)
            rad = np.where(zero, 0.0, rad)
        if np.isfinite(mid).all():
            return _known(mid, rad)
        signs = (size > a.rad) & (other > b.rad)
        infinite = (np.isinf(a.mid) | np.isinf(b.mid)) & signs
        return _settled(mid, rad, infinite, np.isfinite(a.rad) & np.isfinite(b.rad))

    @staticmethod
    def _divide(a: Doubles, b: Doubles) -> Doubles:
        mid = a.mid / b.mid
        least = (np.abs(b.mid) - b.rad) * (1 - EPS)
        # quotients first: a product of two small numbers would lose its digits
        spread = np.abs(mid) * (b.rad / least) + a.rad / least
        rad = np.where(least > 0, (spread + EPS * np.abs(mid)) * GROW + TINY, np.inf)
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
        return Doubles._from_parts(-a.mid, a.rad)

    @staticmethod
    def _absolute(a: Doubles) -> Doubles:
        return Doubles._from_parts(np.abs(a.mid), a.rad)

    @staticmethod
    def _maximum(a: Doubles, b: Doubles) -> Doubles:
        low = np.maximum(a.lower(), b.lower())
        high = np.maximum(a.upper(), b.upper())
        if np.isposinf(high).any():
            high = np.where(np.isnan(a.mid) | np.isnan(b.mid), np.nan, high)
        return _between(low, high)

    @staticmethod
    def _exp(a: Doubles) -> Doubles:
        mid = np.exp(a.mid)
        spread = np.maximum(mid, NORMAL) * np.expm1(a.rad)
        if (a.rad > 1).any():
            # Of a wide exponent below 0, e^x is no further from `mid` than the largest e^x is from
            # zero, which is less than the slope says.
            most = np.exp(np.nextafter(a.mid + a.rad, np.inf)) * (1 + ULPS * EPS)
            spread = np.where(a.mid + a.rad < 0, np.fmin(spread, np.maximum(most, mid)), spread)
        rad = (spread + ULPS * EPS * mid) * GROW + TINY
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
        near = ~(a.mid > a.rad)  # it reaches zero: the root is from 0 to `top`
        mid = np.where(near, top / 2, mid)
        rad = np.where(near, top / 2, rad)
        negative = a.mid + a.rad < 0
        return _settled(np.where(negative, np.nan, mid), rad, np.isposinf(a.mid), a.rad == 0)

    @staticmethod
    def _tanh(a: Doubles) -> Doubles:
        mid = np.tanh(a.mid)
        slope = np.minimum(
            4 * np.exp(-2 * np.maximum(np.abs(a.mid) - a.rad, 0.0)) * (1 + ULPS * EPS), 1.0
        )
        spread = np.minimum(np.where(a.rad > 0, slope * a.rad, 0.0), 2.0)  # tanh is within ±1
        rad = (spread + ULPS * EPS * np.abs(mid)) * GROW + np.where(mid == 0, 0.0, TINY)
        return _known(mid, np.where(np.isinf(a.mid) & (a.rad == 0), 0.0, rad))

    @staticmethod
    def _sinh(a: Doubles) -> Doubles:
        mid = np.sinh(a.mid)
        slope = np.cosh((np.abs(a.mid) + a.rad) * GROW) * (1 + ULPS * EPS)
        spread = np.where(a.rad > 0, slope * a.rad, 0.0)
        rad = (spread + ULPS * EPS * np.abs(mid)) * GROW + TINY
        return _settled(mid, rad, np.isinf(a.mid), a.rad == 0)


def _known(mid: np.ndarray, rad: np.ndarray) -> Doubles:
    """Doubles of `mid` and `rad`; a NaN has an infinite radius, because nothing is known of it."""
    mid, rad = np.broadcast_arrays(mid, rad)
    unknown = np.isnan(rad) | np.isnan(mid)
    return Doubles._from_parts(mid, np.where(unknown, np.inf, rad) if unknown.any() else rad)


def _settled(mid: np.ndarray, rad: np.ndarray, infinite: np.ndarray, known: np.ndarray) -> Doubles:
    """Doubles whose infinite midpoints are exact where `infinite` and `known`, else overflow.

    Overflow has an infinite radius; an operand that is known to be infinite gives an exact result.
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
    """Logarithm `mid` of numbers within a share `q` of `argument`: off by ``−log(1 − q)``."""
    share = np.where(a.rad > 0, a.rad / argument, 0.0) * GROW
    rad = np.where(share < 1, -np.log1p(-share), np.inf) * GROW + ULPS * EPS * np.abs(mid)
    rad = rad + np.where(mid == 0, 0.0, TINY)
    rad = np.where((argument == 0) & (a.rad == 0) | np.isposinf(a.mid), 0.0, rad)
    return _settled(mid, np.where(argument < 0, np.inf, rad), np.isinf(mid), a.rad == 0)
