"""Named instances. Each says what it shows, and a test shows it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.arrays import require_positive
from theory.dynamics import require_tree_memory
from theory.mdp import TokenMDP
from theory.policy import Policy, Seed
from theory.soft import soft_optimal
from theory.statements import Instance

__all__ = ["coin_payoff", "map_is_not_greedy", "random_tree", "swapped_pair"]


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


def coin_payoff(horizon: int, alpha: float, *, coin_fraction: float = 0.5) -> TokenMDP:
    """The family on which cloning loses ``H^{3/2}``: V = 2, states (step, heads so far).

    During the first part of the horizon both tokens are fair coins that pay nothing. If heads win, each later step
    offers one token that pays 1 and one that pays 0; else both pay ``b = α log((e^{1/α} + 1)/2)``. With this `b` the
    two continuations have the same *soft* value (entropy in one, reward in the other), so the expert really is
    uniform over the coins, while their *plain* values differ by ``Θ(H)``: a bias of ε a coin moves ``ε√H`` of the
    probability of winning, and ``H`` of value with it.

    Args:
        horizon: `H`, at least 2; the number of coins is made odd, so that there is no tie.
        alpha: temperature at which the expert will be soft-optimal.
        coin_fraction: share of the horizon spent on coins.
    """
    require_positive("alpha", alpha)
    coins = max(1, round(coin_fraction * horizon) // 2 * 2 - 1)
    if horizon < 2 or coins >= horizon:
        raise ValueError(f"horizon={horizon}, coin_fraction={coin_fraction}: leave at least one step after the coins")
    # α log((e^{1/α} + 1)/2) without overflow at small α
    level = 1.0 + alpha * math.log((1.0 + math.exp(-1.0 / alpha)) / 2)
    rewards, next_states = [], []
    for h in range(horizon):
        if h < coins:
            heads = np.arange(h + 1)
            rewards.append(np.zeros((h + 1, 2)))
            after = np.stack([heads, heads + 1], axis=1)  # token 1 is heads
            next_states.append(after if h + 1 < coins else (after > coins // 2).astype(int))
        else:  # two states: 0, heads lost; 1, heads won
            rewards.append(np.array([[level, level], [0.0, 1.0]]))
            next_states.append(np.array([[0, 0], [1, 1]]))
    return TokenMDP.table(rewards, next_states[:-1])


def swapped_pair(horizon: int, alpha: float, epsilon: float, *, slack: float = 1e-3) -> Instance:
    """Two responses that swap: RL on the endogenous reward loses ``(1 − slack)·2αHε``, at any horizon.

    V = 4. Tokens 0 and 1 of the first step open the paths A and B, on which token 0 stays; every other token leaves
    for a state that pays nothing. A pays ``2αε(1 − slack)`` a step more than B. The learner's policy lowers A by ε and
    raises B by ε at every step, which the ball allows, and that makes B its most probable response.

    Args:
        horizon: `H`.
        alpha: temperature, at most ``1/log 2`` so that the rewards stay in [0, 1].
        epsilon: radius of the ball, nats; small enough that B's reward stays positive (``ε < 0.34``).
        slack: how far below the bound the instance stays, so that B is strictly the most probable.
    """
    stay = alpha * math.log(2.0)
    step = 2 * alpha * epsilon * (1 - slack)
    if not (0 < step <= stay <= 1.0):
        raise ValueError(f"alpha={alpha}, epsilon={epsilon}: needs alpha <= 1/log 2 and 2·epsilon <= log 2")
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


def map_is_not_greedy() -> tuple[TokenMDP, float]:
    """An MDP and a temperature whose soft-optimal policy has a MAP response that greedy decoding misses.

    The policy writes token 0 with probability 0.6 and then any token with ½ each; after token 1 (0.4) it writes token 0
    with 0.9. Greedy takes (0, ·) with probability 0.30, the MAP response is (1, 0) with 0.36.
    """
    probs = [np.array([[0.6, 0.4]]), np.array([[0.5, 0.5], [0.9, 0.1]])]
    rewards: list[Any] = [np.log(table) for table in probs]
    low = min(float(table.min()) for table in rewards)
    return TokenMDP.tree(rewards, reward_range=(low, 0.0)), 1.0
