"""Right-hand sides against exact arithmetic, and the order among them."""

import math
from fractions import Fraction
from math import comb, exp, pi, sqrt, tanh

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from theory.claims import bounds


@pytest.mark.parametrize("horizon", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("odds", [Fraction(3, 2), Fraction(101, 100), Fraction(7)])
def test_tv_randomised_response_against_exact_fractions(horizon, odds):
    """``e^ε`` rational, the sum as printed in exact fractions."""
    p, q = odds / (1 + odds), 1 / (1 + odds)
    exact = (
        sum(
            comb(horizon, k) * abs(p**k * q ** (horizon - k) - q**k * p ** (horizon - k))
            for k in range(horizon + 1)
        )
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


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 60), st.floats(1e-6, 5))
def test_stepwise_is_the_sum_and_below_every_other_cloning_bound(horizon, epsilon):
    stepwise = float(bounds.clone_gap_stepwise(horizon, epsilon))
    parts = [float(bounds.tv_randomised_response(h, epsilon)) for h in range(1, horizon + 1)]
    assert stepwise == pytest.approx(sum(parts), rel=1e-12)
    assert (np.diff(parts) >= -1e-15).all()
    for other in (
        bounds.clone_gap_composition,
        bounds.clone_gap_elementary,
        bounds.clone_gap_three_halves,
        bounds.clone_gap_paper,
    ):
        assert stepwise <= float(other(horizon, epsilon)) * (1 + 1e-12)
    entropy = float(bounds.clone_gap_entropy(horizon, epsilon, 0.3, 5))
    assert entropy == pytest.approx(
        0.3 * np.log(5) * (sum(parts[:-1]) + horizon * np.expm1(epsilon)), rel=1e-12
    )


@settings(derandomize=True, deadline=None)
@given(st.floats(0.01, 0.995), st.floats(1e-4, 5))
def test_discounted_clone_bound_is_the_discounted_sum(discount, epsilon):
    """``Σ_h γ^{h−1} TV_RR(h, ε)``, summed until what is left is below 1e-13 of it."""
    n = int(np.ceil(np.log(1e-16) / np.log(discount))) + 2
    terms = [
        discount ** (h - 1) * float(bounds.tv_randomised_response(h, epsilon)) for h in range(1, n)
    ]
    assert float(bounds.clone_gap_discounted(discount, epsilon)) == pytest.approx(
        sum(terms), rel=1e-11
    )
    assert float(bounds.clone_gap_discounted(discount, epsilon)) <= float(
        bounds.effective_horizon(discount)
    )


def test_asymptotic_constant_is_no_bound_at_one_step():
    """``H^{3/2} ε/√(2π)`` is below the exact ``tanh(ε/2)`` at ``H = 1``, and above from ``H = 2``
    on, stepwise.
    """
    assert 0.1 / sqrt(2 * pi) < float(bounds.clone_gap_stepwise(1, 0.1))
    assert float(bounds.clone_gap_three_halves(1, 0.1)) >= float(bounds.clone_gap_stepwise(1, 0.1))


@pytest.mark.parametrize("kl", [0.1, 0.3, 5.0])
def test_hellinger_at_the_least_affinity_that_a_divergence_allows(kl):
    """``BC ≥ exp(−KL/2)`` (Jensen), where the bound is ``√(1 − e^{−KL})``."""
    assert float(bounds.tv_hellinger(0.0)) == 0.0
    assert float(bounds.tv_hellinger(1.0)) == 1.0
    assert float(bounds.tv_hellinger(-np.expm1(-kl / 2))) == pytest.approx(
        sqrt(-np.expm1(-kl)), rel=1e-12
    )


def test_every_bound_goes_by_its_functions_name():
    found = bounds.every_bound(4, 0.2, 0.5, 3, width=2.0)
    assert set(found) - {"regularised_gap"} <= set(bounds.__all__)
    assert found["clone_gap_paper"] == pytest.approx(6.4)
    assert found["regularised_gap"] == pytest.approx(0.5 * found["kl_ball"])


def test_values_by_hand():
    assert bounds.rl_gap_expert(10, 0.2, 0.5) == pytest.approx(1.0 * (1 + tanh(0.1)))
    assert bounds.rl_gap_anchored(10, 0.2, 0.5, 2.0) == pytest.approx(1.0 + 2.5 * 2 * tanh(0.1))
    assert bounds.preference_tv_of_pair(-0.8, 0.5) == pytest.approx(tanh(0.1))
    assert bounds.preference_tv_paper(10, 0.1, 0.5) == pytest.approx(0.25)
    assert bounds.preference_tv_sharp(10, 0.1, 0.5) == pytest.approx(tanh(0.25))
    assert bounds.clone_gap_paper(10, 0.1, 2.0) == pytest.approx(20.0)
    assert bounds.clone_gap_elementary(4, 0.2) == pytest.approx(10 * tanh(0.1))
    assert bounds.rl_gap(10, 0.1, 0.5) == pytest.approx(1.0)
    assert bounds.rl_gap_paper(10, 0.1, 3.0) == pytest.approx(3.0)
    assert bounds.kl_ball(10, 0.2) == pytest.approx(2 * (exp(0.2) - 1) / (exp(0.2) + 1))
    assert bounds.tv_pinsker([0.02, 8.0]) == pytest.approx([0.1, 1.0])


def test_anchored_rl_loses_a_square_of_the_radius():
    """``β log[cosh((α/β+½)ε)/cosh(ε/2)]`` is the largest of two-point laws; its limits are RL's
    constant and ``ε²``.
    """
    for alpha, beta, eps in ((0.5, 2.0, 0.2), (1.0, 1.0, 3.0), (2.0, 0.3, 0.05)):
        plain = beta * math.log(math.cosh((alpha / beta + 0.5) * eps) / math.cosh(eps / 2))
        expected = 10 * ((alpha + beta) * eps * math.tanh(eps / 2) + plain)
        assert bounds.rl_gap_anchored_sharp(10, eps, alpha, beta) == pytest.approx(expected)
        assert bounds.rl_gap_anchored_sharp(10, eps, alpha, beta) <= bounds.rl_gap_anchored(
            10, eps, alpha, beta
        )
        small = bounds.rl_gap_anchored_sharp(10, 1e-6, alpha, beta)
        assert small == pytest.approx(10 * 1e-12 * (alpha + beta) ** 2 / (2 * beta), rel=1e-4)
        assert bounds.rl_gap_anchored_sharp(10, eps, alpha, 1e-9) == pytest.approx(
            bounds.rl_gap_expert(10, eps, alpha)
        )
    at_equal = [
        bounds.rl_gap_anchored_sharp(1, eps, 1.0, 1.0) / bounds.rl_gap_expert(1, eps, 1.0)
        for eps in (0.773, 0.775)
    ]
    assert at_equal[0] < 1 < at_equal[1]


@pytest.mark.parametrize(
    "bound", [bounds.clone_gap_paper, bounds.clone_gap_three_halves, bounds.rl_gap_paper]
)
def test_rewards_that_are_all_equal_are_worth_the_same_however_far_the_policies(bound):
    """Zero times infinity is zero here: a width of zero leaves nothing to lose."""
    assert float(bound(3, np.inf, 0.0)) == 0.0
    assert float(bound(3, np.inf, 1.0)) == np.inf


@pytest.mark.parametrize("horizon", [1, 2, 7, 100])
def test_tv_affinity_lies_between_randomised_response_and_its_elementary_bound(horizon):
    epsilon = np.geomspace(1e-9, 200, 60)
    exact = bounds.tv_randomised_response(horizon, epsilon)
    closed = bounds.tv_affinity(horizon, epsilon)
    assert (exact <= closed * (1 + 1e-12)).all()
    assert (closed <= np.minimum(np.sqrt(horizon) * np.tanh(epsilon / 2), 1) * (1 + 1e-12)).all()
    if horizon == 1:
        assert closed == pytest.approx(exact, rel=1e-13)
    assert float(bounds.tv_affinity(horizon, np.inf)) == 1.0


def test_tv_affinity_has_its_digits_at_any_epsilon():
    for epsilon in (1e-9, 1e-3, 1.0, 1.999, 2.0, 2.001, 30.0):
        with mp.workdps(60):
            exact = mp.sqrt(1 - mp.cosh(mpf(epsilon) / 2) ** -8)
        assert float(bounds.tv_affinity(4, epsilon)) == pytest.approx(float(exact), rel=1e-13)


def test_one_token_has_no_entropy_and_two_have_log_two():
    """``α log V·[Σ TV_RR(h, ε) + H(e^ε − 1)]``, of which one step has the last term alone."""
    assert float(bounds.clone_gap_entropy(5, 0.3, alpha=0.7, vocab_size=1)) == 0.0
    exact = 0.7 * math.log(2) * math.expm1(0.3)
    assert float(bounds.clone_gap_entropy(1, 0.3, alpha=0.7, vocab_size=2)) == pytest.approx(exact)
    two = 0.7 * math.log(3) * (math.tanh(0.15) + 2 * math.expm1(0.3))  # TV_RR(1, ε) = tanh(ε/2)
    assert float(bounds.clone_gap_entropy(2, 0.3, alpha=0.7, vocab_size=3)) == pytest.approx(two)


def test_divergence_by_length_is_that_of_one_step_so_many_times():
    """``T·ε·tanh(ε/2)``: of one token at most that of a coin of log-odds `ε` from its mirror."""
    p = 1 / (1 + math.exp(-0.9))
    of_a_coin = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert float(bounds.kl_ball_of_choices(3.5, 0.9)) == pytest.approx(3.5 * of_a_coin)
