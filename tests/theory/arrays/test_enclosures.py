"""Enclosures against exact arithmetic: every operation holds every result that it may have.

mpmath computes with `BITS` bits at points inside the operands, their ends among them; the enclosure
of the result must hold each of those numbers. It may be unknown (an infinite radius) and it may be
wide, never too narrow.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from theory.arrays.balls import Balls
from theory.arrays.doubles import EPS, TINY, ULPS, Doubles
from theory.arrays.enclosure import NAMESPACE
from theory.arrays.namespace import array_namespace, log_mean_exp, soft_maximum
from theory.arrays.precision import enclose, precision
from theory.arrays.truth import Truth, Undecided
from theory.mdp.distances import divergence_terms
from theory.solve.soft import log_softmax

BITS = 400
KINDS = {"doubles": 53, "balls": 128}
INF, NAN = math.inf, math.nan
SMALLEST = 5e-324

few = settings(derandomize=True, deadline=None, max_examples=60)
several = settings(derandomize=True, deadline=None, max_examples=100)
kinds = pytest.mark.parametrize("bits", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def _exact():
    with mp.workprec(BITS):
        yield


# --- Operands, and the numbers that they hold -----------------------------------------------------

SPECIAL = (
    0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    SMALLEST,
    -SMALLEST,
    1e-310,
    2.0**-1022,
    1e-300,
    1e-160,
    1e-20,
    1 + EPS,
    1 - EPS / 2,
    -0.75,
    709.0,
    710.0,
    745.0,
    -709.0,
    -745.0,
    -746.0,
    1e3,
    -1e3,
    1e160,
    1.7e308,
    -1.7e308,
)
centres = st.one_of(
    st.sampled_from(SPECIAL),
    st.floats(-4, 4),
    st.floats(-800, 800),
    st.floats(allow_nan=False, allow_infinity=False),
)
shares = st.sampled_from([0.0, 0.0, 1e-16, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-15, 1.0, 1.1, 3.0])
radii = st.one_of(
    st.sampled_from([0.0, SMALLEST, 1e-310, 1e-300, 1e-16, 1.0, 700.0, 1e300, INF]),
    st.floats(0, 900),
)


@st.composite
def operands(draw, infinite=True):
    """``(centre, radius)``: a radius of its own, or a share of the centre; or an exact infinity."""
    if infinite and draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([INF, -INF])), 0.0
    centre = draw(centres)
    radius = draw(radii) if draw(st.booleans()) else abs(centre) * draw(shares)
    return centre, radius


lists = st.lists(operands(), min_size=1, max_size=5)


def made(pairs, bits):
    """An array of enclosures of the numbers within a radius of a centre."""
    centre, radius = (np.array(x, dtype=float) for x in zip(*pairs, strict=True))
    if bits == 53:
        return Doubles._from_parts(centre, radius)
    data = np.empty(len(pairs), dtype=object)
    data[:] = [arb(m, r) if r else arb(m) for m, r in pairs]
    return Balls._from_parts(data)


def points(pair):
    """Some of the numbers that an operand may be."""
    centre, radius = pair
    m = mpf(centre)
    if radius == 0:
        return [m]
    if math.isinf(radius):
        return [m, mpf(0), mpf(-3), mpf(2) ** 1100]
    r = mpf(radius)
    return [m - r, m, m + r, m + r / 3]


class Claimed:
    """What each entry of an enclosure is claimed to be: exact ends, unless nothing is known, and
    bounds in doubles.
    """

    def __init__(self, x):
        self.flat = x.reshape(-1)
        self.low, self.high = self.flat.lower().tolist(), self.flat.upper().tolist()
        self.unknown = np.asarray(self.flat.is_nan()).tolist()
        if isinstance(x, Doubles):
            assert (self.flat.rad >= 0).all(), "a radius is a number"
            assert not (np.isinf(self.flat.mid) & (self.flat.rad > 0) & (self.flat.rad < INF)).any()
        self.ends = [None if unknown else self._ends(k) for k, unknown in enumerate(self.unknown)]

    def _ends(self, k):
        if isinstance(self.flat, Doubles):
            m, r = mpf(float(self.flat.mid[k])), mpf(float(self.flat.rad[k]))
        elif self.flat.data[k].is_finite():
            m, r = (_exactly(x) for x in (self.flat.data[k].mid(), self.flat.data[k].rad()))
        else:
            m, r = mpf(float(self.flat.data[k].mid())), mpf(0)
        return m - r if r else m, m + r if r else m

    def holds(self, k, exact, what=""):
        """Entry `k` holds a number, and its bounds in doubles do too."""
        if mp.isnan(exact):
            assert self.unknown[k], (what, self.ends[k])
            return
        slack = 0 if mp.isinf(exact) else abs(exact) * mpf(2) ** (20 - BITS)
        if self.ends[k] is not None:
            assert self.ends[k][0] - slack <= exact <= self.ends[k][1] + slack, (
                what,
                self.ends[k],
                exact,
            )
        assert not self.low[k] > exact + slack, (what, self.low[k], exact)
        assert not self.high[k] < exact - slack, (what, self.high[k], exact)


def _exactly(ball):
    """The number that a ball of radius zero is."""
    return mpf(tuple(map(int, ball.man_exp())))


def assert_holds(x, k, exact, what=""):
    Claimed(x).holds(k, exact, what)


# --- Functions of one number ----------------------------------------------------------------------


def _log(x):
    return -mp.inf if x == 0 else mp.log(x)


FUNCTIONS = {
    "negative": (np.negative, lambda x: -x),
    "absolute": (np.abs, abs),
    "exp": (np.exp, mp.exp),
    "expm1": (np.expm1, lambda x: mpf(-1) if x == -mp.inf else mp.expm1(x)),
    "log": (np.log, _log),
    "log1p": (np.log1p, lambda x: -mp.inf if x == -1 else mp.log1p(x)),
    "sqrt": (np.sqrt, mp.sqrt),
    "tanh": (np.tanh, mp.tanh),
    "sinh": (np.sinh, mp.sinh),
    "square": (np.square, lambda x: x * x),
    "power": (lambda x: x**3, lambda x: x**3),
}
LEAST = {"log": 0, "log1p": -1, "sqrt": 0}


@kinds
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_hold_every_value(name, bits):
    ours, exact = FUNCTIONS[name]
    least = LEAST.get(name, -mp.inf)

    @several
    @given(lists)
    def run(pairs):
        with precision(bits), mp.workprec(BITS):
            found = ours(made(pairs, bits))
            claimed = Claimed(found)
            for k, pair in enumerate(pairs):
                inside = points(pair)
                for x in inside:
                    if x >= least:
                        claimed.holds(k, exact(x), (name, pair))
                if name != "sqrt" and min(inside) < least:
                    assert bool(found.is_nan()[k]), (name, pair)
                if name == "sqrt" and max(inside) < -0.01:
                    assert bool(found.is_nan()[k]), pair

    run()


# --- Two numbers, comparisons, branches -----------------------------------------------------------


def _quotient(x, y):
    return x / y if y != 0 else mp.nan


OPERATIONS = {
    "add": (lambda a, b: a + b, lambda x, y: x + y),
    "subtract": (lambda a, b: a - b, lambda x, y: x - y),
    "multiply": (lambda a, b: a * b, lambda x, y: x * y),
    "divide": (lambda a, b: a / b, _quotient),
    "maximum": (NAMESPACE.maximum, max),
    "minimum": (NAMESPACE.minimum, min),
}
RELATIONS = {
    "less": (lambda a, b: a < b, lambda x, y: x < y),
    "less_equal": (lambda a, b: a <= b, lambda x, y: x <= y),
    "greater": (lambda a, b: a > b, lambda x, y: x > y),
    "greater_equal": (lambda a, b: a >= b, lambda x, y: x >= y),
    "equal": (lambda a, b: a == b, lambda x, y: x == y),
    "not_equal": (lambda a, b: a != b, lambda x, y: x != y),
}
couples = st.lists(st.tuples(operands(), operands()), min_size=1, max_size=4)


@kinds
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_hold_every_value(name, bits):
    ours, exact = OPERATIONS[name]

    @several
    @given(couples)
    def run(drawn):
        first, second = zip(*drawn, strict=True)
        with precision(bits), mp.workprec(BITS):
            found = Claimed(ours(made(first, bits), made(second, bits)))
            for k, (one, other) in enumerate(drawn):
                for x in points(one):
                    for y in points(other):
                        if not (
                            name == "divide" and y == 0 and other[1]
                        ):  # zero inside: the rest is held, or nothing
                            found.holds(k, exact(x, y), (name, one, other, x, y))

    run()


@kinds
@pytest.mark.parametrize("name", RELATIONS)
def test_a_comparison_is_certain_only_where_every_pair_agrees(name, bits):
    ours, exact = RELATIONS[name]

    @few
    @given(couples)
    def run(drawn):
        first, second = zip(*drawn, strict=True)
        with precision(bits), mp.workprec(BITS):
            truth = Truth.of(ours(made(first, bits), made(second, bits)))
            for k, (one, other) in enumerate(drawn):
                answers = {bool(exact(x, y)) for x in points(one) for y in points(other)}
                assert not truth.certain[k] or answers == {True}, (name, one, other)
                assert truth.possible[k] or answers == {False}, (name, one, other)
                if one[1] == other[1] == 0:
                    assert truth.certain[k] == truth.possible[k] == answers.pop()

    run()


@kinds
def test_numbers_beside_enclosures_are_exact(bits):
    """A double, an integer or an array on either side of an operator."""
    with precision(bits):
        x = made([(0.5, 0.25), (-3.0, 0.0)], bits)
        for other in (0.1, 3, np.float64(0.1), np.array([0.1, 7.0]), np.array(2)):
            for name in ("add", "subtract", "multiply", "divide"):
                ours, exact = OPERATIONS[name]
                for k, pair in enumerate([(0.5, 0.25), (-3.0, 0.0)]):
                    y = mpf(float(np.broadcast_to(other, 2)[k]))
                    for p in points(pair):
                        assert_holds(ours(x, other), k, exact(p, y), name)
                        assert_holds(ours(other, x), k, exact(y, p), name)


@kinds
@few
@given(couples, st.data())
def test_where_holds_the_branch_or_both(bits, drawn, data):
    first, second = zip(*drawn, strict=True)
    n = len(drawn)
    possible = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    certain = possible & np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    with precision(bits), mp.workprec(BITS):
        found = Claimed(
            NAMESPACE.where(Truth(certain, possible), made(first, bits), made(second, bits))
        )
        for k, (one, other) in enumerate(drawn):
            for x in [
                *(points(one) if possible[k] else []),
                *([] if certain[k] else points(other)),
            ]:
                found.holds(k, x)


@kinds
@few
@given(couples)
def test_carry_and_widen_add_what_they_are_told(bits, drawn):
    with precision(bits), mp.workprec(BITS):
        first, second = zip(*drawn, strict=True)
        by = [
            (abs(m), 0.0 if math.isinf(m) else abs(m) * 2) for m, _ in second
        ]  # a ball that holds zero, and more
        x, slack = made(first, bits), made(by, bits)
        wider, carried = (
            Claimed(x.widen(slack)),
            Claimed(x.carry(lambda exact: exact * 2.0, x.radius() * 2.0)),
        )
        for k, (pair, (m, _)) in enumerate(zip(first, by, strict=True)):
            for p in points(pair):
                carried.holds(k, 2 * p)
                if not math.isinf(pair[0]):
                    for side in (-3, -1, 1, 3) if math.isfinite(m) else (0,):
                        wider.holds(k, p + side * mpf(m) if side else p)
                    assert math.isfinite(m) or wider.unknown[k]


@kinds
def test_what_is_not_a_number_stays_so(bits):
    with precision(bits), np.errstate(all="ignore"):
        nan = enclose(np.array([NAN]), bits)
        made_nan = enclose(np.array([INF]), bits) - INF
        for x in (nan, made_nan, nan + 0.0):
            results = {
                "widen": enclose(np.array([1.0]), bits).widen(x),
                "add": x + 1.0,
                "multiply": x * 2.0,
                "divide": x / 2.0,
                "of": 1.0 / x,
                "maximum": NAMESPACE.maximum(x, INF),
                "minimum": NAMESPACE.minimum(-INF, x),
                "sum": x.sum(keepdims=True),
                "max": x.max(keepdims=True),
                "cumprod": x.cumprod(),
                "power": x**2,
                **{name: ours(x) for name, (ours, _) in FUNCTIONS.items()},
            }
            for name, found in results.items():
                assert found.is_nan().all(), name
                assert not found.is_finite().any(), name
            after = np.tanh(
                np.log1p(enclose(np.array([2.0]), bits).widen(x))
            )  # any number: no tanh is excluded
            assert not Truth.of(after <= 0.99).certain.any()
            assert not Truth.of(after >= -0.99).certain.any()
            for relation, _ in RELATIONS.values():
                truth = Truth.of(relation(x, enclose(np.array([0.0]), bits)))
                assert truth.possible.all()
                assert not truth.certain.any()


@kinds
def test_the_largest_of_nan_and_infinity_is_unknown(bits):
    with precision(bits):
        for row in ([NAN, INF], [INF, NAN], [NAN, 1.0]):
            assert (enclose(np.array(row), bits) + 0.0).max().is_nan(), row


@kinds
def test_overflow_is_unknown_and_never_an_exact_infinity(bits):
    """Doubles overflow; balls do not, and what they round to in doubles is a bound."""
    with precision(bits):
        huge = enclose(np.array([1.7e308]), bits)
        large = enclose(np.array([1e4]), bits)
        for x in (
            huge + huge,
            -huge - huge,
            huge * huge,
            huge / 1e-300,
            np.exp(large),
            np.expm1(large),
            np.sinh(-large),
            huge**2,
            NAMESPACE.concatenate([huge, huge]).sum(keepdims=True),
            np.square(huge),
            NAMESPACE.concatenate([huge, huge]).cumprod()[-1:],
            NAMESPACE.concatenate([huge, huge, -huge]).sum(keepdims=True),
        ):
            for sign in (INF, -INF):
                assert not Truth.of(x == sign).certain.any()
            assert bits > 53 or x.is_nan().all()


@kinds
def test_exact_infinities_stay_exact(bits):
    with precision(bits), np.errstate(all="ignore"):
        plus, one = enclose(np.array([INF]), bits), made([(1.0, 0.5)], bits)
        up = (
            plus + one,
            plus - one,
            one + plus,
            plus * one,
            plus / one,
            np.exp(plus),
            np.log(plus),
            np.sqrt(plus),
            np.sinh(plus),
            np.expm1(plus),
            np.log1p(plus),
            abs(-plus),
            NAMESPACE.maximum(plus, one),
        )
        for k, x in enumerate(up):
            assert Truth.of(x == INF).certain.all(), k
            assert not x.is_nan().any(), k
            assert float(x.lower()[0]) == float(x.upper()[0]) == INF, k
        assert Truth.of(np.exp(-plus) == 0.0).certain.all()
        assert Truth.of(enclose(2.0, bits) / plus == 0.0).certain.all()
        assert_holds(one / plus, 0, mpf(0))
        for k, x in enumerate(
            (plus - plus, plus * enclose(0.0, bits), plus / plus, plus * made([(0.0, 1.0)], bits))
        ):
            assert x.is_nan().all(), k


@kinds
def test_a_divisor_that_may_be_zero_leaves_nothing_known(bits):
    with precision(bits), np.errstate(all="ignore"):
        for divisor in ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (SMALLEST, SMALLEST)):
            for number in ((1.0, 0.0), (0.0, 1.0), (1.0, 2.0), (INF, 0.0)):
                assert (made([number], bits) / made([divisor], bits)).is_nan().all(), (
                    number,
                    divisor,
                )


@pytest.mark.parametrize(
    ("result", "exact"),
    [
        # A radius that is computed from a midpoint which underflowed has lost the digits that it
        # multiplies.
        (lambda: np.exp(made([(-1000.0, 700.0)], 53)), lambda: mp.exp(-300)),
        (lambda: np.exp(made([(-740.0, 200.0)], 53)), lambda: mp.exp(-540)),
        (lambda: np.exp(made([(-1e9, 1e9)], 53)), lambda: mpf(1)),
        (lambda: np.exp(made([(-1e9, 1e9 - 1)], 53)), lambda: mp.exp(-1)),
        (lambda: np.exp(made([(-2.0, 1.9)], 53)), lambda: mp.exp(mpf(-2.0) + mpf(1.9))),
        (
            lambda: made([(5e-324, 0.0)], 53) / made([(2e-300, 0.9e-300)], 53),
            lambda: mpf(5e-324) / mpf(1.1e-300),
        ),
        (
            lambda: Doubles.of([1e-200, 1e-200, 1e300]).cumprod()[2:],
            lambda: mpf(1e-200) ** 2 * mpf(1e300),
        ),
        (
            lambda: Doubles.of([1e-200, 1e-200, 1e300, 1e300]).cumprod()[3:],
            lambda: (mpf(1e-200) * mpf(1e300)) ** 2,
        ),
    ],
)
def test_underflow_loses_nothing(result, exact):
    with mp.workprec(BITS):
        assert_holds(result(), 0, exact())


def test_a_wide_exponent_far_below_zero_stays_small():
    """Exponents of order 1e22 have errors of order 1e8: what is known of them is that their
    exponential is zero.
    """
    found = np.exp(made([(-1e22, 1e8), (-2000.0, 800.0)], 53))
    assert found.upper().max() < 1e-250


@pytest.mark.parametrize("function", [np.tanh, np.log1p, np.expm1, np.sinh])
@pytest.mark.parametrize("x", [SMALLEST, -SMALLEST, 1e-310, 2.0**-1022, 1e-200, 1e-17])
def test_a_rounded_result_is_never_exact(function, x):
    """``tanh x`` is no double for any ``x ≠ 0``, though the nearest one may be `x` itself."""
    given_ = Doubles.of(np.array([x]))
    equal = Truth.of(function(given_) == given_)
    assert not equal.certain.any()
    assert equal.possible.all()


@pytest.mark.parametrize("function", [np.tanh, np.log1p, np.sqrt])
def test_zero_stays_exact(function):
    assert np.all(function(Doubles.of(np.zeros(2))) == 0.0)
    assert np.all(Doubles.of(0.0) * made([(3.0, 1.0)], 53) == 0.0)


# --- Many numbers ---------------------------------------------------------------------------------

finite = st.lists(
    st.lists(operands(infinite=False), min_size=3, max_size=3), min_size=1, max_size=4
)


@kinds
@several
@given(finite)
def test_reductions_hold_every_value(bits, rows):
    with precision(bits), mp.workprec(BITS):
        flat = [pair for row in rows for pair in row]
        x = made(flat, bits).reshape(len(rows), 3)
        choices = [[points(pair) for pair in row] for row in rows]
        sums, columns, whole = (Claimed(x.sum(axis=axis)) for axis in (-1, 0, None))
        most, least, tops = map(
            Claimed, (x.max(axis=-1, keepdims=True), x.min(axis=-1), NAMESPACE.max(x, axis=0))
        )
        top, tops_of_all, products = (
            Claimed(x.max()),
            Claimed(x.max(axis=(0, 1))),
            Claimed(x.cumprod()),
        )
        for pick in range(4):
            table = [[some[min(pick, len(some) - 1)] for some in row] for row in choices]
            every = [v for row in table for v in row]
            for k, row in enumerate(table):
                sums.holds(k, mp.fsum(row), ("sum", rows[k]))
                most.holds(k, max(row))
                least.holds(k, min(row))
                for j, product in enumerate((row[0], row[0] * row[1], row[0] * row[1] * row[2])):
                    products.holds(3 * k + j, product, ("cumprod", rows[k]))
            for k, column in enumerate(zip(*table, strict=True)):
                columns.holds(k, mp.fsum(column))
                tops.holds(k, max(column))
            whole.holds(0, mp.fsum(every))
            top.holds(0, max(every))
            tops_of_all.holds(0, max(every))


def test_sums_and_products_of_many_doubles():
    """10,000 terms that nearly cancel, and as many factors, in every order of memory."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 100)) * 10.0 ** rng.integers(-8, 9, (100, 100))
    x[:, 50:] = -x[:, :50] * (1 + 1e-14)
    exact = mp.fsum(map(mpf, x.ravel().tolist()))
    for order in (x, np.asfortranarray(x), x[::-1, ::-1], x.ravel()):
        found = Doubles.of(order).sum()
        assert_holds(found, 0, exact)
        assert float(found.upper() - found.lower()) < 1e-4 * np.abs(x).sum()
    factors = 1 + rng.normal(size=10_000) * 1e-3
    product = Doubles.of(factors).cumprod()
    total = mpf(1)
    for k, factor in enumerate(factors.tolist()):
        total *= mpf(factor)
        if k % 1000 == 999:
            assert_holds(product, k, total)
    assert product.rad[-1] < 1e-10 * product.mid[-1]


# --- Forms that carry radii over ------------------------------------------------------------------


@st.composite
def rows_of_numbers(draw, size=3):
    """``(centre, radius)`` of one row of a table, `-inf` (exact) on some tokens; numbers inside it;
    a temperature.
    """
    scale, alpha = 10.0 ** draw(st.integers(-8, 8)), 10.0 ** draw(st.integers(-6, 6))
    pairs, inside = [], []
    for k in range(size):
        if k and draw(st.integers(0, 5)) == 0:
            pairs.append((-INF, 0.0))
            inside.append([mp.ninf] * 3)
            continue
        centre = scale * draw(st.floats(-1, 1))
        radius = draw(st.sampled_from([0.0, 1e-15, 1e-6, 0.1])) * draw(
            st.sampled_from([scale, alpha])
        )
        pairs.append((centre, radius))
        share = draw(st.sampled_from([mpf(1) / 3, mpf(-1) / 7, mpf(0)]))
        inside.append(
            [mpf(centre) + s * mpf(radius) for s in (draw(st.sampled_from([-1, 1])), share, 1)]
        )
    return pairs, list(zip(*inside, strict=True)), alpha


def exact_log_sum(terms):
    kept = [x for x in terms if x != mp.ninf]
    top = max(kept)
    return top + mp.log(mp.fsum(mp.exp(x - top) for x in kept))


@kinds
@few
@given(rows_of_numbers())
def test_soft_maximum_and_log_softmax_hold_every_value(bits, drawn):
    pairs, rows, alpha = drawn
    with precision(bits), mp.workprec(BITS):
        q, temperature = made(pairs, bits)[None], enclose(alpha, bits)
        value, policy = Claimed(soft_maximum(q, temperature)), Claimed(log_softmax(q, temperature))
        for row in rows:
            total = exact_log_sum([x / mpf(alpha) for x in row])
            value.holds(0, mpf(alpha) * total)
            for k, x in enumerate(row):
                policy.holds(k, x / mpf(alpha) - total, pairs)


@kinds
@few
@given(rows_of_numbers(), st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_log_mean_exp_holds_every_value(bits, drawn, logits):
    pairs, rows, _ = drawn
    pairs = [(m, r) if math.isinf(m) else (math.remainder(m, 50.0), min(r, 20.0)) for m, r in pairs]
    rows = [[points(pair)[min(j, len(points(pair)) - 1)] for pair in pairs] for j in (0, 2, 3)]
    with precision(bits), mp.workprec(BITS):
        log_p = log_softmax(enclose(np.array([logits]), bits), 1.0)
        total = exact_log_sum(list(map(mpf, logits)))
        found = log_mean_exp(log_p, made(pairs, bits)[None])
        for row in rows:
            exact = exact_log_sum([mpf(f) - total + x for f, x in zip(logits, row, strict=True)])
            assert_holds(found, 0, exact, (pairs, logits))


log_numbers = st.one_of(st.floats(-900, 0), st.floats(-2, 0), st.just(-INF))
wide = st.sampled_from([0.0, 1e-17, 1e-12, 1e-3, 0.5, 3.0])


@kinds
@several
@given(log_numbers, log_numbers, wide, wide, wide)
def test_divergences_hold_every_value(bits, p, q, rp, rq, rt):
    """``p log(p/q) − p + q`` from enclosures of ``log p``, ``log q`` and ``log(p/q)``."""
    assume(not (math.isinf(p) and math.isinf(q)))
    rp, rq = (0.0 if math.isinf(x) else r for x, r in ((p, rp), (q, rq)))
    with precision(bits), mp.workprec(BITS):
        t = p - q
        rt = 0.0 if math.isinf(t) else rt + 1e-12
        found = divergence_terms(
            made([(p, rp)], bits), made([(q, rq)], bits), made([(t, rt)], bits)
        )
        for x in points((p, rp)):
            for y in points((q, rq)):
                if not mp.isinf(x - y) and abs((x - y) - mpf(t)) > mpf(rt):
                    continue
                if p == -INF:
                    exact = mp.exp(y)
                elif q == -INF:
                    exact = mp.inf
                else:
                    exact = mp.exp(y) * ((x - y) * mp.exp(x - y) - mp.expm1(x - y))
                assert_holds(found, 0, exact, (p, q, rp, rq, rt))


def test_divergences_are_known_where_a_policy_never_writes():
    """A token that only the other writes adds its probability: doubles must know that much."""
    found = divergence_terms(Doubles.of([-INF]), Doubles.of([math.log(0.25)]), Doubles.of([-INF]))
    assert abs(found.nearest() - 0.25) < 1e-15
    assert found.upper() - found.lower() < 1e-14


# --- Never a plain number -------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
@pytest.mark.parametrize(
    "use",
    [
        float,
        int,
        complex,
        math.sqrt,
        math.exp,
        np.asarray,
        np.array,
        bool,
        lambda x: [0, 1][x],
        math.floor,
        hash,
    ],
)
def test_an_enclosure_is_no_plain_number(bits, shape, use):
    x = enclose(np.full(shape, 4.0), bits)
    for one in (x, x.reshape(-1)[0], next(iter(x.reshape(-1)))):
        with pytest.raises(TypeError):
            use(one)


@kinds
def test_what_numpy_cannot_enclose_is_refused(bits):
    x = enclose(np.ones(3), bits)
    for use in (
        np.sin,
        np.floor,
        np.argmax,
        np.median,
        np.sort,
        np.linalg.norm,
        lambda v: np.add.reduce(v),
    ):
        with pytest.raises(TypeError):
            use(x)
    for use in (
        lambda: x**0.5,
        lambda: x**0,
        lambda: x**-1,
        lambda: NAMESPACE.argmax(x),
        lambda: NAMESPACE.argmin(x),
    ):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError):
        NAMESPACE.cumprod(x.reshape(3, 1), axis=0)
    with pytest.raises(TypeError):
        np.ones(3).__iadd__(x)


def test_the_two_kinds_do_not_mix():
    one, other = enclose(np.ones(2), 53), enclose(np.ones(2), 128)
    for ours, _ in (*OPERATIONS.values(), *RELATIONS.values()):
        for pair in ((one, other), (other, one)):
            with pytest.raises(TypeError):
                ours(*pair)
    for join in (NAMESPACE.concatenate, NAMESPACE.stack):
        with pytest.raises(TypeError, match="two kinds"):
            join([one, other])
    with pytest.raises(TypeError, match="two kinds"):
        NAMESPACE.where(np.array([True, False]), one, other)


def test_numbers_that_are_no_doubles_are_refused():
    """Integers above 2^53 and long doubles: not rounded in silence."""
    third = np.array([1], np.longdouble) / 3
    for bits in KINDS.values():
        for values in (np.array([1, 2**53 + 1]), np.array([Fraction(1, 3)], dtype=object), third):
            if values is third and np.finfo(np.longdouble).nmant == np.finfo(float).nmant:
                continue
            with pytest.raises((TypeError, ValueError)):
                enclose(values, bits)
            with pytest.raises((TypeError, ValueError)):
                values[-1:] * enclose(np.ones(1), bits)
            if values.dtype.kind != "i" or bits == 53:  # balls hold any integer
                with pytest.raises((TypeError, ValueError)):
                    enclose(np.ones(1), bits) * values[-1:]
        assert np.all(enclose(np.array([2**53, -(2**60)]), bits) == np.array([2.0**53, -(2.0**60)]))
        assert np.all(enclose(np.longdouble(0.5), bits) == 0.5)
        assert enclose(np.array([NAN], np.longdouble), bits).is_nan().all()


# --- Truth ----------------------------------------------------------------------------------------

ANSWERS = {"yes": (True, True), "no": (False, False), "maybe": (False, True)}


def three(name):
    return Truth(*(np.array([x]) for x in ANSWERS[name]))


def said(truth):
    truth = Truth.of(truth)
    return next(
        n
        for n, a in ANSWERS.items()
        if a == (bool(truth.certain.all()), bool(truth.possible.all()))
    )


@pytest.mark.parametrize("a", ANSWERS)
@pytest.mark.parametrize("b", ANSWERS)
def test_truth_is_kleenes_logic(a, b):
    rank = {"no": 0, "maybe": 1, "yes": 2}
    least, most = (next(n for n in rank if rank[n] == f(rank[a], rank[b])) for f in (min, max))
    assert said(three(a) & three(b)) == least
    assert said(three(a) | three(b)) == most
    assert said(~three(a)) == {"yes": "no", "no": "yes", "maybe": "maybe"}[a]
    if b != "maybe":  # beside a plain array, on either side
        plain = np.array([b == "yes"])
        assert {said(three(a) & plain), said(plain & three(a))} == {least}
        assert {said(three(a) | plain), said(plain | three(a))} == {most}
    both = Truth(*(np.array([x, y]) for x, y in zip(ANSWERS[a], ANSWERS[b], strict=True)))
    assert said(both.all()) == said(NAMESPACE.all(both)) == least
    assert said(both.any()) == said(NAMESPACE.any(both, axis=-1)) == most


def test_only_a_certain_answer_is_a_bool():
    for name in ("yes", "no"):
        assert bool(three(name)) is (name == "yes")
    for unsure in (
        three("maybe"),
        Truth([True, True], [True, True]),
        Truth([False, True], [True, True]),
    ):
        with pytest.raises(Undecided):
            bool(unsure)
    with pytest.raises(Undecided):
        np.where(Truth([False, True], [True, True]), 1.0, 2.0)
    with pytest.raises(Undecided):
        NAMESPACE.where(three("maybe"), 1.0, 2.0)
    settled = Truth([True, False], [True, False]).settled()
    assert isinstance(settled, np.ndarray)
    assert isinstance(three("maybe").settled(), Truth)


# --- Shapes ---------------------------------------------------------------------------------------


@kinds
def test_shapes_are_those_of_numpy(bits):
    plain = np.arange(24.0).reshape(2, 3, 4)
    x = enclose(plain, bits)
    index = np.array([[2, 0], [1, 1]])
    changes = {
        "item": lambda xp, a: a[1, 2, 3],
        "slice": lambda xp, a: a[..., 1:, None],
        "fancy": lambda xp, a: a[:, index],
        "mask": lambda xp, a: a[plain > 7],
        "reshape": lambda xp, a: a.reshape(-1, 4),
        "reshape to nothing": lambda xp, a: a[0, 0, 0].reshape(()),
        "namespace reshape": lambda xp, a: xp.reshape(a, (4, 6)),
        "broadcast": lambda xp, a: xp.broadcast_to(a[:, :1], (5, 2, 3, 4)),
        "moveaxis": lambda xp, a: xp.moveaxis(a, -1, 0),
        "stack": lambda xp, a: xp.stack([a, a + 1.0], axis=-1),
        "concatenate": lambda xp, a: xp.concatenate([a, np.ones((2, 1, 4))], axis=1),
        "zeros": lambda xp, a: xp.zeros_like(a),
        "ones": lambda xp, a: xp.ones_like(a),
        "sum": lambda xp, a: xp.sum(a, axis=(0, 2)),
        "max": lambda xp, a: xp.max(a, axis=(0, 2), keepdims=True),
        "min": lambda xp, a: xp.min(a, axis=1),
        "cumprod": lambda xp, a: xp.cumprod(a / 8, axis=-1),
        "where": lambda xp, a: xp.where(plain[0] > 3, a, 0.0),
        "operators": lambda xp, a: a[:, :, :1] * a[0] - 2 * a,
        "of all": lambda xp, a: a.sum(),
    }
    with precision(bits):
        for name, change in changes.items():
            found, expected = change(NAMESPACE, x), change(np, plain)
            assert found.shape == np.shape(expected), name
            assert (found.ndim, found.size) == (np.ndim(expected), np.size(expected)), name
            assert ((found.lower() <= expected) & (expected <= found.upper())).all(), name
        assert [np.shape(a) for a in NAMESPACE.broadcast_arrays(x, np.ones(4))] == [(2, 3, 4)] * 2
        assert len(x) == 2
        assert [row.shape for row in x] == [(3, 4)] * 2
        assert array_namespace(x) is NAMESPACE


@kinds
@few
@given(operands())
def test_bounds_in_doubles_are_outside(bits, pair):
    with precision(bits), mp.workprec(BITS):
        x = made([pair], bits)
        for p in points(pair):
            assert_holds(x, 0, p)
        nearest = float(x.nearest()[0])
        assert math.isnan(nearest) or float(x.lower()[0]) <= nearest <= float(x.upper()[0])
        if pair[1] == 0:
            assert float(x.lower()[0]) == float(x.upper()[0]) == pair[0]


@pytest.mark.parametrize("digits", ["1e400", "-1e400", "1e-400", "-1e-400", "0.1", "1e308"])
def test_balls_beyond_the_doubles_have_bounds(digits):
    with precision(128), mp.workprec(BITS):
        for ball in (arb(digits), arb(digits).mid()):
            x = Balls.of(np.array([ball]))
            assert_holds(x, 0, _exactly(ball.mid()))
            assert bool((x.lower() < x.upper())[0])


# --- What the radii of doubles assume -------------------------------------------------------------

RANGES = {
    "exp": (-708, 709),
    "expm1": (-50, 709),
    "log": (-700, 700),
    "log1p": (-700, 700),
    "tanh": (-25, 25),
    "sinh": (-709, 709),
}


def arguments(name, n, rng):
    low, high = RANGES[name]
    small = rng.choice([-1, 1], n) * np.exp(rng.uniform(-700, 1, n))
    if name == "log":
        return np.concatenate([np.exp(rng.uniform(low, high, n)), 1 + rng.normal(size=n) * 1e-3])
    if name == "log1p":
        return np.concatenate(
            [np.exp(rng.uniform(low, high, n)), np.expm1(rng.uniform(-36, 0, n)), small[small > -1]]
        )
    return np.concatenate([rng.uniform(low, high, n), small])


@pytest.mark.parametrize("name", RANGES)
def test_numpy_is_as_accurate_as_claimed(name):
    """``ULPS·EPS`` of the result, over 10^5 arguments against long doubles, and 300 of them against
    mpmath.
    """
    function = getattr(np, name)
    x = arguments(name, 50_000, np.random.default_rng(7))
    found, strided = function(x), function(np.repeat(x, 2)[::2])  # which may be another loop
    if np.finfo(np.longdouble).nmant >= 63:
        exact = function(x.astype(np.longdouble))
        for given_ in (found, strided):
            error = np.abs(given_ - exact) / np.maximum(np.abs(exact), np.finfo(float).tiny / EPS)
            assert float(error.max()) < ULPS * EPS * (1 - 2.0**-8)
    for k in np.linspace(0, len(x) - 1, 300).astype(int):
        exact = FUNCTIONS[name][1](mpf(float(x[k])))
        assert abs(mpf(float(found[k])) - exact) <= ULPS * EPS * abs(exact) + mpf(TINY)


def test_arithmetic_is_rounded_to_nearest():
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=300) * 2.0 ** rng.integers(-500, 500, 300) for _ in range(2))
    for ours, exact in (
        (x + y, Fraction.__add__),
        (x * y, Fraction.__mul__),
        (x / y, Fraction.__truediv__),
    ):
        for a, b, c in zip(x.tolist(), y.tolist(), ours.tolist(), strict=True):
            assert abs(Fraction(c) - exact(Fraction(a), Fraction(b))) <= Fraction(2.0**-53) * abs(
                Fraction(c)
            )
    for a, c in zip(np.abs(x).tolist(), np.sqrt(np.abs(x)).tolist(), strict=True):
        assert abs(mpf(c) - mp.sqrt(mpf(a))) <= mpf(2) ** -53 * mpf(c)


@kinds
@pytest.mark.parametrize("divisor", [0.25, 1.0, 3.0, -1e-300])
def test_zero_over_a_number_is_exactly_zero(bits, divisor):
    """A reward of zero stays one: what is exact is not made wide."""
    found = enclose(np.array([0.0]), bits) / enclose(np.array([divisor]), bits)
    assert (found.lower()[0], found.upper()[0]) == (0.0, 0.0)


def test_zero_over_what_may_be_zero_is_not_known():
    found = Doubles.of([0.0]) / Doubles.of([0.5]).widen(Doubles.of([0.5]))
    assert not (np.isfinite(found.lower()[0]) and np.isfinite(found.upper()[0]))
