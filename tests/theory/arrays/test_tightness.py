"""Enclosures are no wider than the numbers that they enclose make them, and a few roundings.

`test_enclosures` asks that no number is left out, which the whole line would do too. Here the exact
ends of a result are known (the functions are monotone), and the radius is compared with them.
"""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from theory.arrays.balls import Balls
from theory.arrays.doubles import EPS, ULPS, Doubles
from theory.arrays.enclosure import NAMESPACE
from theory.arrays.precision import enclose, precision

BITS = 300
KINDS = {"doubles": 53, "balls": 128}
RADIUS = 2.0**-20
kinds = pytest.mark.parametrize("bits", KINDS.values(), ids=KINDS)

# how many times the exact half-width a radius may be: a slope is bounded, and not the difference
FUNCTIONS = {
    "exp": (np.exp, mp.exp, 1.0, (-20.0, -0.5, 0.25, 3.0, 30.0)),
    "expm1": (np.expm1, mp.expm1, 1.0, (-20.0, -0.5, 0.25, 3.0, 30.0)),
    "log": (np.log, mp.log, 1.0, (1e-3, 0.5, 3.0, 1e6)),
    "log1p": (np.log1p, mp.log1p, 1.0, (-0.75, 0.5, 3.0, 1e6)),
    "sqrt": (np.sqrt, mp.sqrt, 2.0, (1e-3, 0.5, 3.0, 1e6)),
    "root": (lambda x: x.root(), mp.sqrt, 2.0, (1e-3, 0.5, 3.0, 1e6)),
    "tanh": (np.tanh, mp.tanh, 4.0, (-3.0, -0.5, 0.25, 2.0)),
    "sinh": (np.sinh, mp.sinh, 1.25, (-3.0, -0.5, 0.25, 3.0, 30.0)),
}
OPERATIONS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}
OPERANDS = ((3.0, 0.7), (-3.0, 0.7), (1e-3, -0.1), (5e4, 1e-2))


@pytest.fixture(autouse=True)
def _exact():
    with mp.workprec(BITS):
        yield


def made(centre, radius, bits):
    return enclose(np.array([centre]), bits).widen(enclose(np.array([radius]), bits))


def half_width(x):
    if isinstance(x, Balls):
        return mpf(tuple(map(int, x.data[0].rad().man_exp())))
    return mpf(float(x.rad[0]))


def assert_tight(found, low, high, factor, bits, roundings):
    """At most `factor` times the half-width of the exact ends, one in a hundred, and roundings."""
    size = max(abs(low), abs(high))
    most = factor * (high - low) / 2 * mpf("1.01") + roundings * size * mpf(2) ** -bits
    assert half_width(found) <= most
    assert float(found.lower()[0]) <= low
    assert high <= float(found.upper()[0])


@kinds
@pytest.mark.parametrize("radius", [0.0, RADIUS])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_as_wide_as_its_slope_makes_it(name, radius, bits):
    ours, exact, factor, centres = FUNCTIONS[name]
    with precision(bits):
        for centre in centres:
            r = radius * abs(centre)
            low, high = (exact(mpf(centre) + s * mpf(r)) for s in (-1, 1))
            found = ours(made(centre, r, bits))
            assert_tight(found, low, high, factor, bits, roundings=2 * ULPS + 1)


@kinds
@pytest.mark.parametrize("radii", [(0.0, 0.0), (RADIUS, 0.0), (0.0, RADIUS), (RADIUS, RADIUS)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_as_wide_as_its_operands_make_it(name, radii, bits):
    operation = OPERATIONS[name]
    with precision(bits):
        for centres in OPERANDS:
            r = [abs(c) * radius for c, radius in zip(centres, radii, strict=True)]
            one, other = (
                [mpf(c) + s * mpf(x) for s in (-1, 1)] for c, x in zip(centres, r, strict=True)
            )
            ends = [operation(x, y) for x in one for y in other]
            found = operation(*(made(c, x, bits) for c, x in zip(centres, r, strict=True)))
            assert_tight(found, min(ends), max(ends), 1.0, bits, roundings=3)


@kinds
def test_many_terms_are_as_wide_as_they_make_it(bits):
    """Sums: the radii, and a rounding of each term's size. Products: the radii's shares."""
    with precision(bits):
        x = enclose(np.array([[0.5, -1.5, 2.0]]), bits)
        assert_tight(x.sum(axis=-1), mpf(1), mpf(1), 1.0, bits, roundings=25)
        product = x.cumprod()[:, -1]
        assert_tight(product, mpf(-1.5), mpf(-1.5), 1.0, bits, roundings=3 * 16)
        wide = x.widen(enclose(np.array([[RADIUS, 0.0, 0.0]]), bits))
        r = mpf(RADIUS)
        assert_tight(wide.sum(axis=-1), 1 - r, 1 + r, 1.0, bits, roundings=25)
        assert_tight(
            wide.cumprod()[:, -1], -3 * (mpf(0.5) + r), -3 * (mpf(0.5) - r), 1.0, bits, 3 * 16
        )
        # the largest of two that overlap has the larger of both ends
        two = enclose(np.array([[0.0, 1.0]]), bits).widen(enclose(np.array([[3.0, 0.5]]), bits))
        assert_tight(two.max(axis=-1), mpf(0.5), mpf(3), 1.0, bits, roundings=4)
        assert_tight(two.min(axis=-1), mpf(-3), mpf(1.5), 1.0, bits, roundings=4)


@kinds
def test_the_root_of_what_may_be_zero_reaches_zero_and_no_further(bits):
    """Rounding makes a sum of squares a little negative: its root is from 0 to that of the upper
    end; that of a number known to be negative is none.
    """
    with precision(bits):
        found = made(0.25, 0.75, bits).root()
        assert float(found.lower()[0]) == pytest.approx(0.0, abs=1e-8)
        assert float(found.upper()[0]) == pytest.approx(1.0, rel=1e-8)
        assert float(found.lower()[0]) <= 0.0
        assert float(found.upper()[0]) >= 1.0
        beyond = made(-1.0, 5.0, bits).root()
        assert float(beyond.upper()[0]) == pytest.approx(2.0, rel=1e-8)
        assert float(beyond.lower()[0]) == pytest.approx(0.0, abs=1e-8)
        zero = enclose(np.zeros(1), bits).root()
        assert float(zero.lower()[0]) == float(zero.upper()[0]) == 0.0
        assert bool(made(-4.0, 1.0, bits).root().is_nan()[0])
        assert bool(np.sqrt(made(0.25, 0.75, bits)).is_nan()[0])  # as a function it must be known
        endless = enclose(np.array([math.inf]), bits).root()
        assert float(endless.lower()[0]) == math.inf


@kinds
@pytest.mark.parametrize(("function", "value"), [("zeros_like", 0.0), ("ones_like", 1.0)])
def test_constants_are_exact_and_of_the_kind_and_shape_they_are_like(function, value, bits):
    with precision(bits):
        x = enclose(np.full((2, 3), 7.0), bits)
        found = getattr(NAMESPACE, function)(x)
        assert type(found) is type(x)
        assert found.shape == (2, 3)
        assert (found.lower() == value).all()
        assert (found.upper() == value).all()
        plain = getattr(NAMESPACE, function)(np.full((2, 3), 7.0))
        assert type(plain) is np.ndarray
        assert (plain.shape, plain.tolist()) == ((2, 3), [[value] * 3] * 2)


@kinds
def test_a_branch_that_is_not_known_encloses_both_and_one_that_is_has_its_own(bits):
    with precision(bits):
        left = enclose(np.array([1.0, 1.0]), bits)
        right = enclose(np.array([2.0, 2.0]), bits)
        x = enclose(np.array([0.0, 5.0]), bits).widen(enclose(np.array([1.0, 1.0]), bits))
        found = NAMESPACE.where(x > 0, left, right)
        assert_tight(found[:1], mpf(1), mpf(2), 1.0, bits, roundings=4)
        assert float(found.lower()[1]) == float(found.upper()[1]) == 1.0


def test_what_doubles_are_widened_by_is_added():
    """To the radius, once; an exact infinity stays one."""
    x = Doubles.of([1.0, math.inf]).widen(Doubles.of(0.25)).widen(Doubles.of(0.5))
    assert x.rad[0] == pytest.approx(0.75, rel=1e-13)
    assert x.rad[0] >= 0.75
    assert x.rad[1] == 0.0
    assert Doubles.of([1.0]).widen(made(0.25, 0.125, 53)).rad[0] >= 0.375
    assert float(Doubles.of(1.0).lower()) == 1.0
    assert 1 - float(made(1.0, EPS, 53).lower()[0]) < 3 * EPS
