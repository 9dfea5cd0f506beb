"""Right-hand sides against exact arithmetic, and the order among them."""

from fractions import Fraction
from math import comb, exp, pi, sqrt, tanh

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import bounds


@pytest.mark.parametrize("horizon", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("odds", [Fraction(3, 2), Fraction(101, 100), Fraction(7)])
def test_tv_randomised_response_against_exact_fractions(horizon, odds):
    """``e^ε`` rational, the sum as printed in exact fractions."""
    p, q = odds / (1 + odds), 1 / (1 + odds)
    exact = (
        sum(comb(horizon, k) * abs(p**k * q ** (horizon - k) - q**k * p ** (horizon - k)) for k in range(horizon + 1))
        / 2
    )
    got = bounds.tv_randomised_response(horizon, np.log(float(odds)))
    assert float(got) == pytest.approx(float(exact), rel=1e-13)


def test_tv_randomised_response_one_step_is_tanh():
    assert float(bounds.tv_randomised_response(1, 0.7)) == pytest.approx(tanh(0.35), rel=1e-14)


@pytest.mark.parametrize("horizon", [10**3, 10**6])
def test_tv_randomised_response_small_epsilon_limit(horizon):
    """``TV_RR → √(H/2π)·ε`` for ``ε√H → 0``: no digits lost to cancellation."""
    epsilon = 1e-9 / sqrt(horizon)
    assert float(bounds.tv_randomised_response(horizon, epsilon)) == pytest.approx(
        sqrt(horizon / (2 * pi)) * epsilon, rel=1 / horizon + 1e-8
    )


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 400), st.floats(1e-6, 5), st.floats(0.01, 20))
def test_order_of_bounds(horizon, epsilon, alpha):
    """Each sharp bound is below the one it sharpens."""
    sharp, elementary, paper = (
        float(f(horizon, epsilon))
        for f in (bounds.clone_gap_composition, bounds.clone_gap_elementary, bounds.clone_gap_paper)
    )
    assert sharp <= horizon * (1 + 1e-12)
    assert elementary <= paper
    assert sharp <= horizon * min(horizon * tanh(epsilon / 2), 1) * (1 + 1e-12)
    assert bounds.preference_tv_sharp(horizon, epsilon, alpha) <= min(
        bounds.preference_tv_paper(horizon, epsilon, alpha), 1
    )


def test_values_by_hand():
    assert bounds.preference_tv_paper(10, 0.1, 0.5) == pytest.approx(0.25)
    assert bounds.preference_tv_sharp(10, 0.1, 0.5) == pytest.approx(tanh(0.25))
    assert bounds.clone_gap_paper(10, 0.1, 2.0) == pytest.approx(20.0)
    assert bounds.clone_gap_elementary(4, 0.2) == pytest.approx(10 * tanh(0.1))
    assert bounds.rl_gap(10, 0.1, 0.5) == pytest.approx(1.0)
    assert bounds.rl_gap_paper(10, 0.1, 3.0) == pytest.approx(3.0)
    assert bounds.kl_ball(10, 0.2) == pytest.approx(2 * (exp(0.2) - 1) / (exp(0.2) + 1))
    assert bounds.tv_pinsker([0.02, 8.0]) == pytest.approx([0.1, 1.0])
