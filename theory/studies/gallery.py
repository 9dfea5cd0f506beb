"""Named instances. Each says what it shows, and a test shows it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive
from theory.claims.bounds import tv_randomised_response
from theory.claims.instance import Instance
from theory.mdp.dynamics import Dynamics, Tree, require_tree_memory
from theory.mdp.policy import Policy, Seed
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

__all__ = [
    "Verifier",
    "coin_payoff",
    "coin_payoff_gap",
    "indifferent_learner",
    "majority_vote",
    "map_is_not_greedy",
    "map_is_right",
    "map_is_wrong",
    "random_tree",
    "randomised_response",
    "rise_then_fall",
    "swapped_pair",
    "swapped_pair_gap",
    "verifier_disagreement",
    "vote_and_pay",
]


def random_tree(
    vocab_size: int,
    horizon: int,
    *,
    n_prompts: int = 1,
    batch: tuple[int, ...] = (),
    seed: Seed = None,
) -> TokenMDP:
    """A token MDP with independent uniform rewards: the typical case, in which no bound is ever
    nearly reached.

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


def coin_payoff(
    horizon: int, alpha: float, *, coin_fraction: float = 0.5, vocab_size: int = 2
) -> TokenMDP:
    """The family on which cloning loses ``H^{3/2}``; states (step, heads so far), then (step,
    outcome).

    In the first `n` steps half the tokens are heads and half are tails, and none pays. If heads
    win, each of the ``m`` steps left is a *payoff step*: the last token pays 1, the others 0. If
    heads lose, each is a *level step*: every token pays ``b = α log((e^{1/α} + V − 1)/V)``. After a
    tie (`n` even) payoff and level steps alternate, payoff first, so that a tie pays half of a win;
    of an odd ``m`` the step left over is a payoff step.

    Payoff and level steps have the same *soft* value, ``b + α log V``: entropy in one, reward in
    the other. So the expert is uniform over the coins whatever follows. Their *plain* values
    differ, ``p = e^{1/α}/(e^{1/α} + V − 1)`` against ``b < p``: a bias of ε a coin moves about
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
    """
    coins = _count_coins(horizon, coin_fraction, vocab_size)
    level = _level(require_positive("alpha", alpha), vocab_size)
    require_memory(
        16 * vocab_size * coins**2,
        "the coin–payoff table",
        "use coin_payoff_gap, or a shorter horizon",
    )
    LOST, WON, TIE = 0, 1, 2
    outcomes = 2 if coins % 2 else 3
    rewards, next_states = [], []
    for h in range(coins):
        after = np.arange(h + 1)[:, None] + (
            np.arange(vocab_size) >= vocab_size // 2
        )  # heads, with this coin
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
    """``V^{π_E} − min_π̂ V^π̂`` of `coin_payoff` over the ball of radius ε: exact, in closed form,
    at any horizon.

    A level step is worth `b` under every policy. A payoff step is worth `p` under the expert and
    ``w = p − λ`` under the worst policy, which floors the one rewarded token: ``λ = (1 − e^{−ε})
    min(p, e^ε(1 − p))``.

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
    """``b = α log((e^{1/α} + V − 1)/V)``, the mean over ``(0, 1/α)`` of the payoff step's `p`,
    without overflow.
    """
    if 1 / alpha < 500:
        return alpha * math.log1p(math.expm1(1 / alpha) / vocab_size)
    return 1.0 + alpha * math.log((1.0 + (vocab_size - 1) * math.exp(-1 / alpha)) / vocab_size)


def _payoff_over_level(alpha: float, vocab_size: int) -> float:
    """``p − b > 0`` to full precision: with ``p(t) = e^t/(e^t + V − 1)`` it is ``α ∫_0^{1/α} t
    p'(t) dt``.
    """
    if alpha >= 1:  # the two are close, and the integrand is smooth: p' = p(1 − p)
        nodes, weights = np.polynomial.legendre.leggauss(16)
        t = (1 + nodes) / (2 * alpha)
        p = 1 / (1 + (vocab_size - 1) * np.exp(-t))
        return float(weights @ (t * p * (1 - p)) / 2)
    others = (vocab_size - 1) * math.exp(-1 / alpha)  # (1 − p)/p
    if others > 1:
        return 1 / (1 + others) - _level(alpha, vocab_size)
    return alpha * (math.log(vocab_size) - math.log1p(others)) - others / (
        1 + others
    )  # (1 − b) − (1 − p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def swapped_pair(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> Instance:
    """Two responses that swap: RL on the endogenous reward loses ``(1 − slack)·2αHε``, at any
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
    """
    _check_pair(horizon, slack)
    stay = _swapped_reward(require_positive("alpha", alpha))
    step = 2 * alpha * require_positive("epsilon", epsilon) * (1 - slack)
    if not 0 < step <= stay:
        raise ValueError(
            f"alpha={alpha}, epsilon={epsilon}: needs 2·alpha·epsilon <= {stay:.4g}, what A pays a "
            "step"
        )
    A, B, LEFT = 0, 1, 2
    rewards, next_states = (
        [np.array([[stay, stay - step, 0.0, 0.0]])],
        [np.array([[A, B, LEFT, LEFT]])],
    )
    for _ in range(1, horizon):
        rewards.append(
            np.array([[stay, 0, 0, 0], [stay - step, 0, 0, 0], [0, 0, 0, 0]], dtype=float)
        )
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
            moved[state, others] *= (1 - sum(moved[s, a] for s, a in fixed if s == state)) / moved[
                state, others
            ].sum()
        tables.append(np.log(moved))
    return Instance(mdp, expert, Policy(mdp.dynamics, tuple(tables)), alpha)


def swapped_pair_gap(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> float:
    """``max_π V^π − V^{π_RL}`` of the worst `swapped_pair` in the ball of radius ε, ``(1 −
    slack)·2αHε``: closed form.

    Where ε is too large for the pair, that of the largest radius that it allows: the smaller ball
    is in the larger one.
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
    """One recurring state, V = 2, ``π_E = (e^ε, 1)/(1 + e^ε)``, and `π̂` the swap: three bounds
    hold with equality.

    Token 0 pays ``αε``, token 1 nothing. Every step is a randomised response, so ``TV(π_E(τ),
    π̂(τ)) = TV_RR(H, ε)`` and ``KL = Hε tanh(ε/2)``. For the responses of 0s and of 1s ``Δ* = αHε =
    −Δ̂``: *theorem-1-sharp* is attained.

    Args:
        horizon: `H`.
        alpha: temperature.
        epsilon: radius, nats; ``αε <= 1`` keeps the reward in [0, 1].
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
    """What makes cloning worst when `α` or `V` is free: ``Σ_h TV_RR(h, ε)`` is approached at every
    `H`.

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
    """
    alpha, epsilon = require_positive("alpha", alpha), require_positive("epsilon", epsilon)
    if vocab_size < 2:
        raise ValueError(f"vocab_size={vocab_size}: must be at least 2, an aye and a no")
    rewards, next_states = [], []
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


def vote_and_pay(horizon: int, alpha: float, *, vocab_size: int = 4, paying: int = 1) -> TokenMDP:
    """`coin_payoff` with a coin and a payoff in the same step: at fixed `α` and `V`, cloning loses
    more of ``H^{3/2}``.

    States (step, heads so far). A token is a coin and one of ``m = V/2`` symbols. Where heads lead
    after its coin, the first `paying` symbols pay 1, the others 0; elsewhere every token pays `b`,
    the soft value of those symbols. So the expert's coins are fair in every state, and the plain
    value of a step is ``p`` or ``b``, with

        p = q/(q + (1−q) e^{−1/α}),   b = 1 + α log(q + (1−q) e^{−1/α}),   q = paying/m.

    For small ε the fraction of ``Σ_h TV_RR(h, ε)`` that the worst clone attains tends with `H` to
    ``p − b``, which is `α` times the KL divergence between coins of bias `p` and `q`.

    Args:
        horizon: `H`.
        alpha: temperature at which the expert will be soft-optimal.
        vocab_size: `V`, even, at least 4.
        paying: number of paying symbols, from 1 to ``m − 1``.

    Raises:
        ValueError: names the argument and the value; or the table, of about ``V H²`` numbers, does
            not fit into memory.
    """
    symbols = vocab_size // 2
    if vocab_size < 4 or vocab_size % 2:
        raise ValueError(
            f"vocab_size={vocab_size}: must be even and at least 4, a coin and a symbol"
        )
    if not 0 < paying < symbols:
        raise ValueError(
            f"paying={paying}: must be from 1 to {symbols - 1}, some but not all of the symbols"
        )
    require_memory(
        8 * vocab_size * horizon**2,
        "the vote-and-pay table",
        "use a shorter horizon or fewer tokens",
    )
    q = paying / symbols
    level = 1.0 + require_positive("alpha", alpha) * math.log(q + (1 - q) * math.exp(-1 / alpha))
    coin, symbol = np.divmod(np.arange(vocab_size), symbols)
    heads = [np.arange(h + 1)[:, None] + coin for h in range(horizon)]
    rewards = [np.where(2 * after > h + 1, symbol < paying, level) for h, after in enumerate(heads)]
    return TokenMDP.table(rewards, heads[:-1])


def indifferent_learner(
    horizon: int, alpha: float, *, vocab_size: int = 3, low: int = 2
) -> Instance:
    """What RL on the endogenous reward loses to the expert itself: ``αHε(1 + tanh(ε/2))``, attained
    at every horizon.

    One recurring state. The first `low` tokens pay 0, the others ``2αε``, with ``ε = log(low/(V −
    low))``. Then `π_E` is ``e^{∓ε}/V``, a uniform `π̂` is ε away from it, all responses tie, and
    the one of 0s is a MAP response.

    No instance loses more. By telescoping ``V^{π_E} − V^{π_RL} = α(E_{π_E} log π_E(τ) − log
    π_E(τ_RL))``, and ``E_{π_E} log π̂(τ) <= log π̂(τ_RL)``, so it is at most ``α(KL(π_E‖π̂) + Hε)
    <= αHε(tanh(ε/2) + 1)``.

    Args:
        horizon: `H`.
        alpha: temperature; ``2αε <= 1`` keeps the rewards in [0, 1].
        vocab_size: `V`.
        low: number of tokens that pay nothing, more than half and less than all.
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


def map_is_not_greedy(map_mass: float = 0.36, first: float = 0.4) -> tuple[TokenMDP, float]:
    """An MDP and a temperature whose soft-optimal policy has a MAP response that greedy decoding
    misses.

    The policy writes token 1 with probability `first` and then token 0, which makes (1, 0) a
    response of mass `map_mass`; after token 0 any token has ½. At 0.36 greedy takes (0, ·) with
    0.30. Greedy misses the MAP as long as ``first < ½``, so `map_mass` may be anything below ½;
    above ½ ``first > map_mass`` is too, and greedy finds it (Huang et al. 2024: a response of mass
    above ½ is the greedy one; this family shows that ½ is tight).

    Args:
        map_mass: mass of the MAP response, above that of any other response.
        first: probability of its first token, above `map_mass`.
    """
    if not max((1 - first) / 2, first - map_mass) < map_mass < first < 1:
        raise ValueError(
            f"map_mass={map_mass}, first={first}: (1, 0) must have less mass than token 1 and be "
            "the MAP"
        )
    second = map_mass / first
    probs = [np.array([[1 - first, first]]), np.array([[0.5, 0.5], [second, 1 - second]])]
    rewards: list[Any] = [np.log(table) for table in probs]
    low = min(float(table.min()) for table in rewards)
    return TokenMDP.tree(rewards, reward_range=(low, 0.0)), 1.0


def map_is_right(accuracy: float = 0.4, alpha: float = 1.0) -> Instance:
    """Sharpening always helps: one response of 16 is right, and `π̂` likes it best (`accuracy`,
    above 1/16).
    """
    if not 1 / 16 < accuracy < 1:
        raise ValueError(
            f"accuracy={accuracy}: must be above 1/16 and below 1, so that the right response is "
            "the MAP"
        )
    return _one_against_fifteen([accuracy], [True], alpha)


def map_is_wrong(accuracy: float = 0.9, alpha: float = 1.0) -> Instance:
    """Sampling is right with probability `accuracy`, and RL on the endogenous reward is always
    wrong.

    V = 4, H = 2. One response of 16 is wrong (it pays 0, the others 1), and in `π̂` it is the most
    probable: the right ones share `accuracy`, 1/15 each. RL on `r̂` finds what the policy likes
    best, not what is right.

    Args:
        accuracy: of `π̂`; below 15/16, so that the wrong response is the MAP.
        alpha: temperature at which the expert is soft-optimal for being right.
    """
    if not 0 < accuracy < 15 / 16:
        raise ValueError(
            f"accuracy={accuracy}: must be positive and below 15/16, else the wrong response is "
            "not the MAP"
        )
    return _one_against_fifteen([1 - accuracy], [False], alpha)


def rise_then_fall(alpha: float = 1.0) -> Instance:
    """Sharpening first raises accuracy and then lowers it: the power policies ``π̂^κ`` on two
    prompts.

    V = 4, H = 2. For prompt 0 one response of 16 is right and has mass 0.4: a small `κ` finds it.
    For prompt 1 one is wrong and has mass 0.07, above the others' 0.062: a large `κ` finds that.
    Accuracy starts at 0.665, passes 0.95 and ends at ½. ``π̂^κ`` is soft-optimal at temperature 1
    for the reward ``κ log π̂``.
    """
    return _one_against_fifteen([0.4, 0.07], [True, False], alpha)


def _one_against_fifteen(mass: list[float], right: list[bool], alpha: float) -> Instance:
    """For each prompt, response (0, 0) has `mass` in `π̂` and is `right` or not; the others share
    the rest, and are the opposite. The last token pays 1 for a right response.
    """
    probs = np.stack([np.array([m] + [(1 - m) / 15] * 15).reshape(4, 4) for m in mass])
    first = probs.sum(axis=-1)
    second = (probs / first[..., None]).reshape(-1, 4)
    pays = (
        np.stack([np.where(np.arange(16) == 0, r, not r).reshape(4, 4) for r in right])
        .reshape(-1, 4)
        .astype(float)
    )
    mdp = TokenMDP.tree([np.zeros((len(mass), 4)), pays])
    return Instance(
        mdp,
        soft_optimal(mdp, alpha).policy,
        Policy.from_probs(mdp.dynamics, [first, second]),
        alpha,
    )


class Verifier(NamedTuple):
    """A verifier's verdict on two responses: "Yes" (token 0) or "No" (1), after a prompt that holds
    the response.
    """

    policy: Policy
    """Two prompts, one for each response; H = 1, V = 2."""
    log_probs: np.ndarray
    """``(2,)``: ``α log π(Yes|y)``, reward units."""
    logits: np.ndarray
    """``(2,)``: the logit of "Yes", reward units."""
    soft_values: np.ndarray
    """``(2,)``: ``V(y) = α log Σ_a exp(logit_a/α)``, reward units."""


def verifier_disagreement(
    accept: tuple[float, float] = (0.4, 0.7), lead: float = 1.0, alpha: float = 1.0
) -> Verifier:
    """A verifier that accepts the second response more often and has the larger logit of "Yes" on
    the first.

    The state ``s₁ = (x, y, "is it right?")`` holds the response, so its soft value does not cancel
    between two of them:

        logit_Yes(y) = α log π(Yes|y) + V(y).

    Let ``L`` be the difference of the logits and ``ΔV`` that of the soft values, first less second.
    Then ``α Δ log π(Yes) = L − ΔV``: the two rewards order the responses differently if and only if
    ``L(L − ΔV) < 0``, that is, if ``ΔV`` has the sign of ``L`` and is larger. They are the gauges
    ``logits`` and ``logprob`` of one `endogenous_reward`. Adding ``c(y)`` to both logits of a state
    changes no probability and adds ``c(y)`` to that of "Yes": any verifier that is not indifferent
    has logits that order the responses the other way.

    Args:
        accept: ``π(Yes|y)`` of the first and of the second response, increasing.
        lead: ``L``, positive: the logits of "Yes" are `lead` and 0.
        alpha: temperature.

    Raises:
        ValueError: names the argument and the value.
    """
    if not 0 < accept[0] < accept[1] < 1:
        raise ValueError(
            f"accept={accept}: must be two increasing probabilities, else the two rewards agree"
        )
    lead, alpha = float(require_positive("lead", lead)), float(require_positive("alpha", alpha))
    p, yes = np.array(accept), np.array([lead, 0.0])
    no = yes + alpha * (np.log1p(-p) - np.log(p))
    dynamics = Dynamics(2, (2,), Tree(), np.array([0.5, 0.5]), (None,))
    policy = Policy.from_logits(dynamics, [np.stack([yes, no], axis=1)], temperature=alpha)
    assert policy.log_normalizers is not None
    return Verifier(
        policy, alpha * policy.log_probs[0][:, 0], yes, alpha * policy.log_normalizers[0]
    )
