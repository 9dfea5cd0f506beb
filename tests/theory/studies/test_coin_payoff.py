"""The coin–payoff family: what its docstring says of the expert, and its closed form against slower
ways to it.
"""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest

from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value, plain_values
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.studies.gallery import coin_payoff, coin_payoff_gap

getcontext().prec = 60
FRACTIONS = (0.3, 0.5, 0.6)


@pytest.mark.parametrize("vocab_size", [2, 4, 6])
@pytest.mark.parametrize(
    ("horizon", "coins"), [(9, 3), (9, 4), (10, 4)]
)  # no tie; a tie with a step left over; a tie
@pytest.mark.parametrize("alpha", [0.05, 0.7, 30.0])
def test_expert_is_uniform_over_coins_and_indifferent_to_their_outcome(
    vocab_size, horizon, coins, alpha
):
    mdp = coin_payoff(horizon, alpha, coin_fraction=coins / horizon, vocab_size=vocab_size)
    policy, values = soft_optimal(mdp, alpha)
    for h in range(coins):
        assert np.exp(policy.log_probs[h]) == pytest.approx(1 / vocab_size)
    assert values[coins] == pytest.approx(
        np.full(2 + (coins % 2 == 0), values[coins][0]), rel=1e-14
    )


@pytest.mark.parametrize(
    ("horizon", "coins", "payoffs_after_tie"), [(10, 4, 3), (9, 4, 3), (5, 4, 1), (4, 2, 1)]
)
def test_a_tie_pays_half_and_the_step_left_over(horizon, coins, payoffs_after_tie):
    """Plain values of the three outcomes: `m` level steps, `m` payoff steps, half of each."""
    alpha, V, m = 0.5, 4, horizon - coins
    mdp = coin_payoff(horizon, alpha, coin_fraction=coins / horizon, vocab_size=V)
    lost, won, tie = plain_values(mdp, soft_optimal(mdp, alpha).policy)[coins]
    p, level = math.exp(2) / (math.exp(2) + 3), 0.5 * math.log((math.exp(2) + 3) / 4)
    assert (lost, won) == (pytest.approx(m * level), pytest.approx(m * p))
    assert tie == pytest.approx(payoffs_after_tie * p + (m - payoffs_after_tie) * level)


def gap_by_backward_induction(horizon, epsilons, alpha, **family):
    """`worst_clone` on the table, in extended precision."""
    mdp = coin_payoff(horizon, alpha, **family)
    batch = len(epsilons)
    rewards = [np.broadcast_to(r.astype(np.longdouble), (batch, *r.shape)) for r in mdp.rewards]
    mdp = TokenMDP.table(rewards, mdp.dynamics.rule.next_states)
    expert = soft_optimal(mdp, np.full(batch, alpha, dtype=np.longdouble)).policy
    worst = worst_clone(mdp, expert, np.asarray(epsilons, dtype=np.longdouble))
    return plain_value(mdp, expert) - mdp.dynamics.average(worst.values[0])


@pytest.mark.parametrize("vocab_size", [2, 4, 6])
@pytest.mark.parametrize("horizon", [2, 3, 9, 20, 33, 80, 200])
def test_closed_form_equals_backward_induction(vocab_size, horizon):
    """At ε = 4 the payoff is floored below the level for most α, and heads become the worse
    side.
    """
    epsilons = (1e-3, 0.1, 1.0, 4.0)
    alphas = (0.05, 0.18, 1.0, 50.0) if horizon < 100 else (0.18, 1.0)
    for alpha in alphas:
        for coin_fraction in FRACTIONS if horizon < 100 else (0.3,):
            family = {"coin_fraction": coin_fraction, "vocab_size": vocab_size}
            exact = gap_by_backward_induction(horizon, epsilons, alpha, **family)
            closed = [coin_payoff_gap(horizon, epsilon, alpha, **family) for epsilon in epsilons]
            assert closed == pytest.approx(exact.astype(float), rel=1e-12)


def test_heads_become_the_worse_side_at_large_epsilon():
    """Nobody told the adversary: in the first coin it raises tails while ``w > b``, heads when ``w
    < b``.
    """
    mdp = coin_payoff(9, 1.0)
    expert = soft_optimal(mdp, 1.0).policy
    for epsilon, raised in ((0.1, 0), (2.0, 1)):
        first = worst_clone(mdp, expert, epsilon).policy.log_probs[0][0]
        assert np.argmax(first) == raised
        assert np.exp(first).min() == pytest.approx(math.exp(-epsilon) / 2)


@pytest.mark.parametrize("coins", [614, 1023, 1024])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.01), (0.18, 1e-4), (5.0, 3.0)])
def test_closed_form_equals_a_stream_over_steps_and_heads(coins, alpha, epsilon):
    """Extreme values over (step, heads), whichever side is worse in each state, for the expert and
    for the worst.
    """
    horizon = 2048
    m, e, x = horizon - coins, np.exp(-np.longdouble(epsilon)), np.exp(1 / np.longdouble(alpha))
    p, level = x / (x + 1), alpha * np.log((x + 1) / 2)
    floored = max(e * p, 1 - (1 - p) / e)
    heads = np.arange(coins + 1)
    payoffs = np.where(2 * heads > coins, m, np.where(2 * heads < coins, 0, (m + 1) // 2))
    expert, worst = (payoffs * step + (m - payoffs) * level for step in (p, floored))
    for _ in range(coins):
        expert = (expert[1:] + expert[:-1]) / 2
        low, high = np.minimum(worst[1:], worst[:-1]), np.maximum(worst[1:], worst[:-1])
        worst = low + e / 2 * (high - low)
    closed = coin_payoff_gap(horizon, epsilon, alpha, coin_fraction=coins / horizon)
    assert closed == pytest.approx(float(expert[0] - worst[0]), rel=1e-11)


def gap_in_sixty_digits(horizon, coins, epsilon, alpha, vocab_size):
    """Binomial sums, with no closed form for them."""
    m, e, x = horizon - coins, (-Decimal(epsilon)).exp(), (1 / Decimal(alpha)).exp()
    p, level = x / (x + vocab_size - 1), Decimal(alpha) * ((x + vocab_size - 1) / vocab_size).ln()
    floored = max(e * p, 1 - (1 - p) / e)

    def payoffs(heads):
        return m if 2 * heads > coins else 0 if 2 * heads < coins else (m + 1) // 2

    def mean(q):
        return sum(
            math.comb(coins, k) * q**k * (1 - q) ** (coins - k) * payoffs(k)
            for k in range(coins + 1)
        )

    return (p - level) * mean(Decimal("0.5")) - (floored - level) * mean(
        e / 2 if floored > level else 1 - e / 2
    )


@pytest.mark.parametrize("epsilon", [1e-15, 1e-9, 1e-3, 0.5, 5.0, 60.0])
@pytest.mark.parametrize("alpha", [0.01, 0.18, 1.0, 1e4])
def test_no_digit_is_lost(epsilon, alpha):
    for horizon, coins in ((2, 1), (40, 12), (41, 20), (41, 21), (300, 150)):
        for vocab_size in (2, 256):
            closed = coin_payoff_gap(
                horizon, epsilon, alpha, coin_fraction=coins / horizon, vocab_size=vocab_size
            )
            exact = gap_in_sixty_digits(horizon, coins, epsilon, alpha, vocab_size)
            assert closed == pytest.approx(float(exact), rel=2e-15)


GOLDEN = {
    (2, 1.0): {256: 0.0228, 1024: 0.0199, 4096: 0.0184, 16384: 0.0177},
    (256, 0.18): {256: 0.0685, 1024: 0.0633, 4096: 0.0605, 16384: 0.0592},
}


@pytest.mark.parametrize(("vocab_size", "alpha"), GOLDEN)
def test_gap_over_three_halves_is_a_constant(vocab_size, alpha):
    """Reference figures with the number of coins rounded down; with ``round`` the first differ by
    half a percent.
    """
    for horizon, value in GOLDEN[vocab_size, alpha].items():
        epsilon = 0.01 / math.sqrt(horizon)

        def scaled(coins, horizon=horizon, epsilon=epsilon):
            share = coins / horizon
            gap = coin_payoff_gap(
                horizon, epsilon, alpha, coin_fraction=share, vocab_size=vocab_size
            )
            return gap / (epsilon * horizon**1.5)

        assert max(scaled(math.floor(c * horizon)) for c in FRACTIONS) == pytest.approx(
            value, abs=6e-5
        )
        assert max(scaled(round(c * horizon)) for c in FRACTIONS) == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize(("vocab_size", "alpha"), [(2, 1.0), (256, 0.18)])
def test_constant_in_the_limit(vocab_size, alpha):
    """``gap/(ε H^{3/2}) → (p − b)(1 − c)√c/√(2π)``: the de Moivre–Laplace density of a tie, `m`
    steps for each win.
    """
    horizon, c = 2**22, 0.3
    x = math.exp(1 / alpha)
    advantage = x / (x + vocab_size - 1) - alpha * math.log((x + vocab_size - 1) / vocab_size)
    epsilon = 1e-6 / math.sqrt(horizon)
    gap = coin_payoff_gap(horizon, epsilon, alpha, coin_fraction=c, vocab_size=vocab_size)
    limit = advantage * (1 - c) * math.sqrt(c / (2 * math.pi))
    assert gap / (epsilon * horizon**1.5) == pytest.approx(limit, rel=3e-3)


@pytest.mark.parametrize("alpha", [1e-300, 1e-4, 1.0, 1e9])
@pytest.mark.parametrize("epsilon", [1e-12, 1.0, 1e3])
def test_no_overflow_at_extreme_temperatures(alpha, epsilon):
    gap = coin_payoff_gap(65_536, epsilon, alpha, vocab_size=256)
    assert 0 < gap < 65_536
    rewards = coin_payoff(4, alpha, vocab_size=4).rewards
    assert all(np.isfinite(table).all() for table in rewards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 3}, "vocab_size=3: must be even"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"horizon": 1}, "horizon=1"),
        ({"coin_fraction": 0.0}, "0 coins"),
        ({"coin_fraction": 1.0}, "10 coins"),
        ({"coin_fraction": math.nan}, "coin_fraction=nan"),
        ({"alpha": 0.0}, "alpha=0.0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    family = {"horizon": 10, "alpha": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        coin_payoff(**family)
    with pytest.raises(ValueError, match=message):
        coin_payoff_gap(epsilon=0.1, **family)


def test_table_that_does_not_fit_points_to_the_closed_form():
    with pytest.raises(ValueError, match="use coin_payoff_gap"):
        coin_payoff(10**8, 1.0)
