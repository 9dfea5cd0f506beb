"""Named instances. Each says what it shows, and a test shows it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays import require_memory, require_positive
from theory.bounds import tv_randomised_response
from theory.dynamics import require_tree_memory
from theory.instance import Instance
from theory.mdp import TokenMDP
from theory.policy import Policy, Seed
from theory.soft import soft_optimal

__all__ = ["coin_payoff", "coin_payoff_gap", "map_is_not_greedy", "random_tree", "swapped_pair", "swapped_pair_gap"]


def random_tree(
    vocab_size: int, horizon: int, *, n_prompts: int = 1, batch: tuple[int, ...] = (), seed: Seed = None
) -> TokenMDP:
    """A token MDP with independent uniform rewards: the typical case, in which no bound is ever nearly reached.

    Raises:
        ValueError: a size is below 1, or the tree does not fit into memory.
    """
    for name, size in (("vocab_size", vocab_size), ("horizon", horizon), ("n_prompts", n_prompts)):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    require_tree_memory(vocab_size, horizon, n_prompts * math.prod(batch), "a random token tree")
    rng = np.random.default_rng(seed)
    shapes = [(*batch, n_prompts * vocab_size**h, vocab_size) for h in range(horizon)]
    return TokenMDP.tree([rng.random(shape) for shape in shapes])


def coin_payoff(horizon: int, alpha: float, *, coin_fraction: float = 0.5, vocab_size: int = 2) -> TokenMDP:
    """The family on which cloning loses ``H^{3/2}``; states (step, heads so far), then (step, outcome).

    In the first `n` steps half the tokens are heads and half are tails, and none pays. If heads win, each of the ``m``
    steps left is a *payoff step*: the last token pays 1, the others 0. If heads lose, each is a *level step*: every
    token pays ``b = α log((e^{1/α} + V − 1)/V)``. After a tie (`n` even) payoff and level steps alternate, payoff
    first, so that a tie pays half of a win; of an odd ``m`` the step left over is a payoff step.

    Payoff and level steps have the same *soft* value, ``b + α log V``: entropy in one, reward in the other. So the
    expert is uniform over the coins whatever follows. Their *plain* values differ, ``p = e^{1/α}/(e^{1/α} + V − 1)``
    against ``b < p``: a bias of ε a coin moves about ``ε√n`` of the probability of winning, and with it ``m`` steps'
    worth of value. `coin_payoff_gap` has the worst policy of a ball in closed form.

    Args:
        horizon: `H`, at least 2.
        alpha: temperature at which the expert will be soft-optimal.
        coin_fraction: ``n = round(coin_fraction·H)``, at least one coin and at least one step after the coins.
        vocab_size: `V`, even.

    Raises:
        ValueError: names the argument and the value; or the table, of about ``V·n²`` numbers, does not fit into memory.
    """
    coins = _count_coins(horizon, coin_fraction, vocab_size)
    level = _level(require_positive("alpha", alpha), vocab_size)
    require_memory(16 * vocab_size * coins**2, "the coin–payoff table", "use coin_payoff_gap, or a shorter horizon")
    LOST, WON, TIE = 0, 1, 2
    outcomes = 2 if coins % 2 else 3
    rewards, next_states = [], []
    for h in range(coins):
        after = np.arange(h + 1)[:, None] + (np.arange(vocab_size) >= vocab_size // 2)  # heads, with this coin
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
    """``V^{π_E} − min_π̂ V^π̂`` of `coin_payoff` over the ball of radius ε: exact, in closed form, at any horizon.

    A level step is worth `b` under every policy. A payoff step is worth `p` under the expert and ``w = p − λ`` under
    the worst policy, which floors the one rewarded token: ``λ = (1 − e^{−ε}) min(p, e^ε(1 − p))``.

    *The worst side of every coin is the same.* Let ``F(k)`` be the number of payoff steps after `k` heads: 0, ``⌈m/2⌉``
    or ``m``, nondecreasing. From the last coin on, `π̂` is worth ``m b + (w − b) F``. Going back, the least value of a
    state is ``(1 − e^{−ε}/2) x + (e^{−ε}/2) y`` with ``x ≤ y`` those after tails and after heads, in one order or the
    other: the better side is floored (``e^{−ε}/2 ≥ 1 − e^ε/2``). An average of monotone functions of `k` and ``k + 1``
    is monotone in `k`, so by induction every layer is monotone in heads, the way that the last one is: heads are the
    better side in every state if ``w > b`` and the worse in every state if ``w < b`` (large ε). So the number of heads
    is Binomial with parameter ``½``, under `π̂` with ``(1 ∓ β)/2``, ``β = 1 − e^{−ε}``, and

        gap = (p − b) E_{π_E} F − (w − b) E_π̂ F.

    *No digit is lost at small ε.* ``E_{π_E} F − E_π̂ F`` is the integral of a positive density over the bias, for heads
    as the better side ``(m/2) TV_RR(n, ε')``, ``ε' = log(2e^ε − 1)`` the log-odds of a coin, plus, where a tie leaves a
    payoff step over, ``½ C(2r, r) 4^{−r} (1 − (1 − β²)^r)``, ``n = 2r``; for heads as the worse side its mirror image.

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
    """
    coins = _count_coins(horizon, coin_fraction, vocab_size)
    epsilon, alpha = require_positive("epsilon", epsilon), require_positive("alpha", alpha)
    m, r = horizon - coins, coins // 2
    left_over = m % 2 if coins % 2 == 0 else 0
    tie = float(np.prod(1 - 0.5 / np.arange(1, r + 1)))  # C(2r, r) 4^{−r}
    beta = -math.expm1(-epsilon)

    ahead = _payoff_over_level(alpha, vocab_size)  # p − b
    odds_against = math.log(vocab_size - 1) - 1 / alpha  # log((1 − p)/p)
    lost = beta * _sigmoid(-odds_against) * math.exp(min(0.0, odds_against + epsilon))  # λ = p − w

    expected = (m + left_over * tie) / 2  # E_{π_E} F
    moved = m / 2 * float(tv_randomised_response(coins, epsilon + math.log1p(beta)))
    tilt = left_over * tie / 2 * (-math.expm1(r * math.log1p(-(beta**2))) if beta < 1 else 1.0)
    if ahead >= lost:
        return ahead * (moved + tilt) + lost * max(expected - moved - tilt, 0.0)
    return ahead * expected + (lost - ahead) * (expected + moved - tilt)


def _count_coins(horizon: int, coin_fraction: float, vocab_size: int) -> int:
    if vocab_size < 2 or vocab_size % 2:
        raise ValueError(f"vocab_size={vocab_size}: must be even, so that half the tokens are heads")
    coins = round(coin_fraction * horizon) if math.isfinite(coin_fraction) else 0
    if not 1 <= coins < horizon:
        raise ValueError(
            f"horizon={horizon}, coin_fraction={coin_fraction}: needs a coin, and a step after the coins; {coins} coins"
        )
    return coins


def _level(alpha: float, vocab_size: int) -> float:
    """``b = α log((e^{1/α} + V − 1)/V)``, the mean over ``(0, 1/α)`` of the payoff step's `p`, without overflow."""
    if 1 / alpha < 500:
        return alpha * math.log1p(math.expm1(1 / alpha) / vocab_size)
    return 1.0 + alpha * math.log((1.0 + (vocab_size - 1) * math.exp(-1 / alpha)) / vocab_size)


def _payoff_over_level(alpha: float, vocab_size: int) -> float:
    """``p − b > 0`` to full precision: with ``p(t) = e^t/(e^t + V − 1)`` it is ``α ∫_0^{1/α} t p'(t) dt``."""
    if alpha >= 1:  # the two are close, and the integrand is smooth: p' = p(1 − p)
        nodes, weights = np.polynomial.legendre.leggauss(16)
        t = (1 + nodes) / (2 * alpha)
        p = 1 / (1 + (vocab_size - 1) * np.exp(-t))
        return float(weights @ (t * p * (1 - p)) / 2)
    others = (vocab_size - 1) * math.exp(-1 / alpha)  # (1 − p)/p
    if others > 1:
        return 1 / (1 + others) - _level(alpha, vocab_size)
    return alpha * (math.log(vocab_size) - math.log1p(others)) - others / (1 + others)  # (1 − b) − (1 − p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def swapped_pair(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> Instance:
    """Two responses that swap: RL on the endogenous reward loses ``(1 − slack)·2αHε``, at any horizon.

    V = 4. Tokens 0 and 1 of the first step open the paths A and B, on which token 0 stays; every other token leaves
    for a state that pays nothing. A pays ``2αε(1 − slack)`` a step more than B. The learner's policy lowers A by ε and
    raises B by ε at every step, which the ball allows, and that makes B its most probable response.

    Args:
        horizon: `H`.
        alpha: temperature. A pays ``min(α log 2, 1)`` a step: with more than ``α log 2`` the expert would stay on a
            path with probability above ½, where the ball allows less than a factor ``e^ε``.
        epsilon: radius of the ball, nats; B's reward must not be negative, ``2αε(1 − slack) ≤ min(α log 2, 1)``.
        slack: how far below the bound the instance stays, so that B is strictly the most probable.
    """
    stay = _swapped_reward(require_positive("alpha", alpha))
    step = 2 * alpha * require_positive("epsilon", epsilon) * (1 - slack)
    if not 0 < step <= stay:
        raise ValueError(f"alpha={alpha}, epsilon={epsilon}: needs 2·alpha·epsilon <= {stay:.4g}, what A pays a step")
    A, B, LEFT = 0, 1, 2
    rewards, next_states = [np.array([[stay, stay - step, 0.0, 0.0]])], [np.array([[A, B, LEFT, LEFT]])]
    for _ in range(1, horizon):
        rewards.append(np.array([[stay, 0, 0, 0], [stay - step, 0, 0, 0], [0, 0, 0, 0]], dtype=float))
        next_states.append(np.array([[A, LEFT, LEFT, LEFT], [B, LEFT, LEFT, LEFT], [LEFT] * 4]))
    mdp = TokenMDP.table(rewards, next_states[:-1])
    expert = soft_optimal(mdp, alpha).policy
    tables = []
    for h, log_probs in enumerate(expert.log_probs):
        moved = np.exp(log_probs)
        lowered = (0, A) if h == 0 else (A, 0)
        raised = (0, B) if h == 0 else (B, 0)
        fixed = [lowered, raised]
        moved[lowered] *= math.exp(-epsilon)
        moved[raised] *= math.exp(epsilon)
        for state in range(len(moved)):
            others = [a for a in range(4) if (state, a) not in fixed]
            moved[state, others] *= (1 - sum(moved[s, a] for s, a in fixed if s == state)) / moved[state, others].sum()
        tables.append(np.log(moved))
    return Instance(mdp, expert, Policy(mdp.dynamics, tuple(tables)), alpha)


def swapped_pair_gap(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> float:
    """``max_π V^π − V^{π_RL}`` of the worst `swapped_pair` in the ball of radius ε, ``(1 − slack)·2αHε``: closed form.

    Where ε is too large for the pair, that of the largest radius that it allows: the smaller ball is in the larger one.
    """
    step = 2 * require_positive("alpha", alpha) * require_positive("epsilon", epsilon)
    return horizon * (1 - slack) * min(step, _swapped_reward(alpha))


def _swapped_reward(alpha: float) -> float:
    return min(alpha * math.log(2.0), 1.0)


def map_is_not_greedy() -> tuple[TokenMDP, float]:
    """An MDP and a temperature whose soft-optimal policy has a MAP response that greedy decoding misses.

    The policy writes token 0 with probability 0.6 and then any token with ½ each; after token 1 (0.4) it writes token 0
    with 0.9. Greedy takes (0, ·) with probability 0.30, the MAP response is (1, 0) with 0.36.
    """
    probs = [np.array([[0.6, 0.4]]), np.array([[0.5, 0.5], [0.9, 0.1]])]
    rewards: list[Any] = [np.log(table) for table in probs]
    low = min(float(table.min()) for table in rewards)
    return TokenMDP.tree(rewards, reward_range=(low, 0.0)), 1.0
