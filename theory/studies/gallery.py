"""Named instances that attain or approach a bound. Each says what it shows, and a test shows it."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit

from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive
from theory.claims.bounds import tv_randomised_response
from theory.claims.instance import Instance
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

__all__ = [
    "coin_payoff",
    "coin_payoff_gap",
    "indifferent_learner",
    "majority_vote",
    "randomised_response",
    "swapped_pair",
    "swapped_pair_gap",
]


def coin_payoff(
    horizon: int, alpha: float, *, coin_fraction: float = 0.5, vocab_size: int = 2
) -> TokenMDP:
    """Make an instance of the family on which cloning loses ``H^{3/2}``.

    States are (step, heads so far), then (step, outcome). In the first `n` steps half the tokens
    are heads and half are tails, and none pays. If heads win, each of the ``m`` steps left is a
    *payoff step*: the last token pays 1, the others 0. If heads lose, each is a *level step*: every
    token pays ``b = α log((e^{1/α} + V − 1)/V)``. After a tie (`n` even) payoff and level steps
    alternate, payoff first, so that a tie pays half of a win; of an odd ``m`` the step left over is
    a payoff step.

    Payoff and level steps have the same *soft* value, ``b + α log V``: entropy in one, reward in
    the other. So the expert is uniform over the coins whatever follows. Their *plain* values
    differ, ``p = e^{1/α}/(e^{1/α} + V − 1)`` against ``b < p``: a bias of ε a coin shifts about
    ``ε√n`` of the probability of winning, and with it ``m`` steps' worth of value.
    `coin_payoff_gap` has the worst policy of a ball in closed form.

    Args:
        horizon: `H`, at least 2.
        alpha: temperature at which the expert will be soft-optimal.
        coin_fraction: ``n = round(coin_fraction·H)``, at least one coin and at least one step after
            the coins.
        vocab_size: `V`, even.

    Raises:
        ValueError: names the argument and the value; or the table, of about ``V·n²`` numbers, does
            not fit into memory.

    Example:
        >>> mdp = coin_payoff(horizon=4, alpha=1.0)
        >>> np.exp(soft_optimal(mdp, 1.0).policy.log_probs[0]).round(9).tolist()  # a fair coin
        [[0.5, 0.5]]
    """
    coins = _count_coins(horizon, coin_fraction, vocab_size)
    level = _level(require_positive("alpha", alpha), vocab_size)
    require_memory(
        16 * vocab_size * coins**2,
        "the coin–payoff table",
        "use coin_payoff_gap, or a shorter horizon",
    )
    LOST = 0
    WON = 1
    TIE = 2  # states of the steps after the coins
    outcomes = 2 if coins % 2 else 3
    is_heads = np.arange(vocab_size) >= vocab_size // 2
    rewards: list[np.ndarray] = []
    next_states: list[np.ndarray] = []
    for h in range(coins):
        after = np.arange(h + 1)[:, None] + is_heads  # heads, with this coin
        if h + 1 == coins:
            after = np.select([2 * after > coins, 2 * after < coins], [WON, LOST], TIE)
        rewards.append(np.zeros((h + 1, vocab_size)))
        next_states.append(after)
    for step in range(horizon - coins):
        reward = np.full((outcomes, vocab_size), level)
        paying = [WON, TIE][: outcomes - 1] if step % 2 == 0 else [WON]
        reward[paying] = np.arange(vocab_size) == vocab_size - 1
        rewards.append(reward)
        next_states.append(np.repeat(np.arange(outcomes)[:, None], vocab_size, axis=1))
    return TokenMDP.table(rewards, next_states[:-1])


def coin_payoff_gap(
    horizon: int, epsilon: float, alpha: float, *, coin_fraction: float = 0.5, vocab_size: int = 2
) -> float:
    """Return ``V^{π_E} − min_π̂ V^π̂`` of `coin_payoff` over the ball of radius ε: exact, at any
    horizon.

    A level step is worth `b` under every policy. A payoff step is worth `p` under the expert and
    ``w = p − λ`` under the worst policy, which floors the one rewarded token:
    ``λ = (1 − e^{−ε}) min(p, e^ε(1 − p))``.

    *The worst side of every coin is the same.* Let ``F(k)`` be the number of payoff steps after `k`
    heads: 0, ``⌈m/2⌉`` or ``m``, nondecreasing. From the last coin on, `π̂` is worth ``m b + (w −
    b) F``. Going back, the least value of a state is ``(1 − e^{−ε}/2) x + (e^{−ε}/2) y`` with ``x ≤
    y`` those after tails and after heads, in one order or the other: the better side is floored
    (``e^{−ε}/2 ≥ 1 − e^ε/2``). An average of monotone functions of `k` and ``k + 1`` is monotone in
    `k`, so by induction every layer is monotone in heads, the way that the last one is: heads are
    the better side in every state if ``w > b`` and the worse in every state if ``w < b`` (large ε).
    So the number of heads is Binomial with parameter ``½``, under `π̂` with ``(1 ∓ β)/2``, ``β = 1
    − e^{−ε}``, and

        gap = (p − b) E_{π_E} F − (w − b) E_π̂ F.

    *No digit is lost at small ε.* ``E_{π_E} F − E_π̂ F`` is the integral of a positive density over
    the bias, for heads as the better side ``(m/2) TV_RR(n, ε')``, ``ε' = log(2e^ε − 1)`` the
    log-odds of a coin, plus, where a tie leaves a payoff step over, ``½ C(2r, r) 4^{−r} (1 − (1 −
    β²)^r)``, ``n = 2r``; for heads as the worse side its mirror image.

    Args:
        horizon: see `coin_payoff`.
        epsilon: radius of the ball, nats.
        alpha: see `coin_payoff`.
        coin_fraction: see `coin_payoff`.
        vocab_size: see `coin_payoff`.

    Returns:
        Plain value, reward units. Time and memory are linear in `H`.

    Raises:
        ValueError: names the argument and the value.

    Example:
        Four times the horizon and half the radius lose four times as much, as ``ε H^{3/2}`` does:

        >>> short, long = (coin_payoff_gap(h, 1 / h**0.5, 0.2) for h in (400, 1600))
        >>> print(round(long / short, 1))
        4.0
    """
    coins = _count_coins(horizon, coin_fraction, vocab_size)
    epsilon = require_positive("epsilon", epsilon)
    alpha = require_positive("alpha", alpha)
    m = horizon - coins
    r = coins // 2
    left_over = m % 2 if coins % 2 == 0 else 0
    tie = float(np.prod(1 - 0.5 / np.arange(1, r + 1)))  # C(2r, r) 4^{−r}
    beta = -math.expm1(-epsilon)

    ahead = _payoff_over_level(alpha, vocab_size)  # p − b
    odds_against = math.log(vocab_size - 1) - 1 / alpha  # log((1 − p)/p)
    lost = (
        beta * float(expit(-odds_against)) * math.exp(min(0.0, odds_against + epsilon))
    )  # λ = p − w

    expected = (m + left_over * tie) / 2  # E_{π_E} F
    shift = m / 2 * float(tv_randomised_response(coins, epsilon + math.log1p(beta)))
    tilt = left_over * tie / 2 * (-math.expm1(r * math.log1p(-(beta**2))) if beta < 1 else 1.0)
    if ahead >= lost:
        return ahead * (shift + tilt) + lost * max(expected - shift - tilt, 0.0)
    return ahead * expected + (lost - ahead) * (expected + shift - tilt)


def _count_coins(horizon: int, coin_fraction: float, vocab_size: int) -> int:
    if vocab_size < 2 or vocab_size % 2:
        raise ValueError(
            f"vocab_size={vocab_size}: must be even, so that half the tokens are heads"
        )
    coins = round(coin_fraction * horizon) if math.isfinite(coin_fraction) else 0
    if not 1 <= coins < horizon:
        raise ValueError(
            f"horizon={horizon}, coin_fraction={coin_fraction}: needs a coin, and a step after the "
            f"coins; {coins} coins"
        )
    return coins


def _level(alpha: float, vocab_size: int) -> float:
    """Reward ``b = α log((e^{1/α} + V − 1)/V)`` of a level step, without overflow."""
    if 1 / alpha < 500:
        return alpha * math.log1p(math.expm1(1 / alpha) / vocab_size)
    return 1.0 + alpha * math.log((1.0 + (vocab_size - 1) * math.exp(-1 / alpha)) / vocab_size)


def _payoff_over_level(alpha: float, vocab_size: int) -> float:
    """``p − b > 0`` to full precision: ``α ∫_0^{1/α} t p'(t) dt``, ``p(t) = e^t/(e^t + V − 1)``."""
    if alpha >= 1:  # the two are close, and the integrand is smooth: p' = p(1 − p)
        nodes, weights = np.polynomial.legendre.leggauss(16)
        t = (1 + nodes) / (2 * alpha)
        p = 1 / (1 + (vocab_size - 1) * np.exp(-t))
        return float(weights @ (t * p * (1 - p)) / 2)
    others = (vocab_size - 1) * math.exp(-1 / alpha)  # (1 − p)/p
    if others > 1:
        return 1 / (1 + others) - _level(alpha, vocab_size)
    # (1 − b) − (1 − p)
    return alpha * (math.log(vocab_size) - math.log1p(others)) - others / (1 + others)


def swapped_pair(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> Instance:
    """Make an instance of two responses that swap: RL on `r̂` loses ``(1 − slack)·2αHε``, at any
    horizon.

    V = 4. Tokens 0 and 1 of the first step open the paths A and B, on which token 0 stays; every
    other token leaves for a state that pays nothing. A pays ``2αε(1 − slack)`` a step more than B.
    The learner's policy lowers A by ε and raises B by ε at every step, which the ball allows, and
    that makes B its most probable response.

    Args:
        horizon: `H`.
        alpha: temperature. A pays ``min(α log 2, 1)`` a step: with more than ``α log 2`` the expert
            would stay on a path with probability above ½, where the ball allows less than a factor
            ``e^ε``.
        epsilon: radius of the ball, nats; B's reward must not be negative, ``2αε(1 − slack) ≤ min(α
            log 2, 1)``.
        slack: how far below the bound the instance stays, so that B is strictly the most probable.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> instance = swapped_pair(horizon=8, alpha=1.0, epsilon=0.1)
        >>> from theory.mdp.responses import map_response
        >>> [map_response(p).tokens[0].tolist() for p in (instance.policy, instance.expert)]
        [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]
    """
    _check_pair(horizon, slack)
    stay = _swapped_reward(require_positive("alpha", alpha))
    step = 2 * alpha * require_positive("epsilon", epsilon) * (1 - slack)
    if not 0 < step <= stay:
        raise ValueError(
            f"alpha={alpha}, epsilon={epsilon}: needs 2·alpha·epsilon <= {stay:.4g}, what A pays a "
            "step"
        )
    A = 0
    B = 1
    LEFT = 2  # states after the first step
    later = np.zeros((3, 4))
    later[[A, B], 0] = stay, stay - step
    after = [[A, LEFT, LEFT, LEFT], [B, LEFT, LEFT, LEFT], [LEFT] * 4]
    rewards = [[[stay, stay - step, 0.0, 0.0]], *[later] * (horizon - 1)]
    next_states = [[[A, B, LEFT, LEFT]], *[after] * (horizon - 1)]
    mdp = TokenMDP.table(rewards, next_states[:-1])
    expert = soft_optimal(mdp, alpha).policy
    tables = []
    for h, log_probs in enumerate(expert.log_probs):
        probs = np.exp(log_probs)
        fixed = np.zeros(probs.shape, dtype=bool)
        for path, factor in ((A, math.exp(-epsilon)), (B, math.exp(epsilon))):
            at = (0, path) if h == 0 else (path, 0)
            probs[at] *= factor
            fixed[at] = True
        left = 1 - np.where(fixed, probs, 0.0).sum(axis=1, keepdims=True)
        others = np.where(fixed, 0.0, probs)
        probs = np.where(fixed, probs, others * (left / others.sum(axis=1, keepdims=True)))
        tables.append(np.log(probs))
    return Instance(mdp, expert, Policy(mdp.dynamics, tuple(tables)), alpha)


def swapped_pair_gap(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> float:
    """Return ``max_π V^π − V^{π_RL}`` of the worst `swapped_pair` in the ball of radius ε: closed
    form.

    It is ``(1 − slack)·2αHε``. Where ε is too large for the pair, that of the largest radius that
    it allows: the smaller ball is in the larger one.

    Example:
        >>> round(swapped_pair_gap(horizon=8, alpha=1.0, epsilon=0.1, slack=0.0), 9)
        1.6
    """
    _check_pair(horizon, slack)
    step = 2 * require_positive("alpha", alpha) * require_positive("epsilon", epsilon)
    return horizon * (1 - slack) * min(step, _swapped_reward(alpha))


def _check_pair(horizon: int, slack: float) -> None:
    if horizon < 1:
        raise ValueError(f"horizon={horizon}: must be at least 1")
    if not 0 <= slack < 1:
        raise ValueError(f"slack={slack}: must be from 0 to below 1; less would be above the bound")


def _swapped_reward(alpha: float) -> float:
    return min(alpha * math.log(2.0), 1.0)


def randomised_response(horizon: int, alpha: float, epsilon: float) -> Instance:
    """Make an instance of one recurring state, V = 2, on which three bounds hold with equality.

    ``π_E = (e^ε, 1)/(1 + e^ε)``, and `π̂` is the swap of it. Token 0 pays ``αε``, token 1 nothing.
    Every step is a randomised response, so ``TV(π_E(τ), π̂(τ)) = TV_RR(H, ε)`` and ``KL = Hε
    tanh(ε/2)``. For the responses of 0s and of 1s ``Δ* = αHε = −Δ̂``: *theorem-1-sharp* is
    attained.

    Args:
        horizon: `H`.
        alpha: temperature.
        epsilon: radius, nats; ``αε <= 1`` keeps the reward in [0, 1].

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> instance = randomised_response(horizon=5, alpha=1.0, epsilon=0.5)
        >>> from theory.mdp.distances import kl
        >>> print(round(float(kl(instance.policy, instance.expert)), 6))  # 2.5 tanh ¼
        0.612297
    """
    pay = require_positive("alpha", alpha) * require_positive("epsilon", epsilon)
    if pay > 1:
        raise ValueError(
            f"alpha={alpha}, epsilon={epsilon}: needs alpha·epsilon <= 1, what token 0 pays"
        )
    mdp = TokenMDP.table(
        [np.array([[pay, 0.0]])] * horizon, [np.zeros((1, 2), dtype=int)] * (horizon - 1)
    )
    expert = soft_optimal(mdp, alpha).policy
    swapped = tuple(table[:, ::-1] for table in expert.log_probs)
    return Instance(mdp, expert, Policy(mdp.dynamics, swapped), alpha)


def majority_vote(horizon: int, alpha: float, epsilon: float, *, vocab_size: int = 2) -> TokenMDP:
    """Make an instance of the family on which cloning is worst when `α` or `V` is free: it nears
    ``Σ_h TV_RR(h, ε)``.

    States (step, ayes so far). The first `k` tokens vote no, the others aye; a step pays 1 if the
    ayes lead after its vote, and in a tie if it votes aye. In each state `k` brings the expert's
    mass of noes, ``1/(1 + (V/k − 1) e^{Δ/α})`` with `Δ` the lead of an aye in Q, as near as it can
    to ``1/(1 + e^ε)``: there the worst clone turns a vote into the other of a pair of randomised
    responses, and that the ayes lead is the event by which ``TV_RR`` tells the two apart.

    With two tokens ``k = 1`` and the fraction nears one for ``α`` of about ``√H/ε`` and small ε (it
    is one at ``H <= 2``, ``α = 1/ε``). At any fixed `α` and ε it nears one as `V` grows past
    ``e^{H/α}``.

    Args:
        horizon: `H`.
        alpha: temperature at which the expert will be soft-optimal.
        epsilon: radius of the ball, nats.
        vocab_size: `V`, at least 2.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> from theory.mdp.values import plain_value
        >>> from theory.solve.worst_clone import worst_clone
        >>> mdp = majority_vote(horizon=2, alpha=10.0, epsilon=0.1)
        >>> expert = soft_optimal(mdp, 10.0).policy
        >>> gap = plain_value(mdp, expert) - worst_clone(mdp, expert, 0.1).values[0][0]
        >>> bound = sum(tv_randomised_response(h, 0.1) for h in (1, 2))
        >>> print(round(float(gap / bound), 6))
        1.0
    """
    alpha = require_positive("alpha", alpha)
    epsilon = require_positive("epsilon", epsilon)
    if vocab_size < 2:
        raise ValueError(f"vocab_size={vocab_size}: must be at least 2, an aye and a no")
    rewards: list[np.ndarray] = []
    next_states: list[np.ndarray] = []
    value = np.zeros(horizon + 1)
    for h in reversed(range(horizon)):
        ayes = np.arange(h + 1)[:, None] + np.arange(2)  # after a no, after an aye
        lead = 2 * ayes - (h + 1)
        pay = np.where(lead == 0, [0.0, 1.0], lead > 0)
        total = (pay + value[ayes]) / alpha
        noes = vocab_size / (1 + np.exp(np.minimum(epsilon - (total[:, 1] - total[:, 0]), 700.0)))
        noes = np.clip(np.rint(noes), 1, vocab_size - 1)
        value = alpha * np.logaddexp(
            np.log(noes) + total[:, 0], np.log(vocab_size - noes) + total[:, 1]
        )
        vote = (np.arange(vocab_size) >= noes[:, None]).astype(int)
        rewards.append(np.take_along_axis(pay, vote, axis=1))
        next_states.append(np.take_along_axis(ayes, vote, axis=1))
    return TokenMDP.table(rewards[::-1], next_states[::-1][:-1])


def indifferent_learner(
    horizon: int, alpha: float, *, vocab_size: int = 3, low: int = 2
) -> Instance:
    """Make an instance on which RL on `r̂` loses ``αHε(1 + tanh(ε/2))`` against the expert: the
    most that it can.

    One recurring state. The first `low` tokens pay 0, the others ``2αε``, with
    ``ε = log(low/(V − low))``. Then `π_E` is ``e^{∓ε}/V``, a uniform `π̂` is ε away from it, all
    responses tie, and the one of 0s is a MAP response.

    No instance loses more. By telescoping
    ``V^{π_E} − V^{π_RL} = α(E_{π_E} log π_E(τ) − log π_E(τ_RL))``, and
    ``E_{π_E} log π̂(τ) <= log π̂(τ_RL)``, so it is at most
    ``α(KL(π_E‖π̂) + Hε) <= αHε(tanh(ε/2) + 1)``.

    Args:
        horizon: `H`.
        alpha: temperature; ``2αε <= 1`` keeps the rewards in [0, 1].
        vocab_size: `V`.
        low: number of tokens that pay nothing, more than half and less than all.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> instance = indifferent_learner(horizon=3, alpha=0.5)
        >>> np.exp(instance.expert.log_probs[0]).round(4).tolist()  # ½/3, ½/3, 2/3
        [[0.1667, 0.1667, 0.6667]]
    """
    if not vocab_size < 2 * low < 2 * vocab_size:
        raise ValueError(
            f"low={low}: must be more than half and less than all of {vocab_size} tokens"
        )
    epsilon = math.log(low / (vocab_size - low))
    pay = 2 * require_positive("alpha", alpha) * epsilon
    if pay > 1:
        raise ValueError(f"alpha={alpha}: needs 2·alpha·log(low/(V − low)) <= 1, here {pay:.4g}")
    reward = np.where(np.arange(vocab_size) < low, 0.0, pay)[None]
    mdp = TokenMDP.table([reward] * horizon, [np.zeros((1, vocab_size), dtype=int)] * (horizon - 1))
    uniform = np.full((1, vocab_size), -math.log(vocab_size))
    return Instance(
        mdp, soft_optimal(mdp, alpha).policy, Policy(mdp.dynamics, (uniform,) * horizon), alpha
    )
