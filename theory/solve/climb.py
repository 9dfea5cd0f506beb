"""Gradient ascent on what the worst clone loses, where tokens are of two kinds in each state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from theory.mdp.token_mdp import TokenMDP

__all__ = ["TwoKinds", "climb"]

MAX_STEPS = 200
"""Of each round."""

SMOOTHINGS = (1e-1, 1e-2, 1e-3)
"""Of the rounds, as shares of ε."""


@dataclass(frozen=True)
class TwoKinds:
    """A token MDP in which each state has tokens of two kinds, ``(n_h, 2)`` arrays by layer.

    Attributes:
        rewards: of a token of each kind, reward units.
        children: states of the next layer that they lead to; not read in the last layer.
        sizes: how many tokens of each kind there are; each row sums to `V`.

    Example:
        >>> mdp = TwoKinds([np.array([[0.0, 1.0]])], [], [np.array([[2, 1]])]).token_mdp()
        >>> mdp.rewards[0].tolist()
        [[0.0, 0.0, 1.0]]
    """

    rewards: list[np.ndarray]
    children: list[np.ndarray]
    sizes: list[np.ndarray]

    def token_mdp(self) -> TokenMDP:
        """Write every token out."""
        V = int(self.sizes[0][0].sum())
        kinds = [(np.arange(V) >= sizes[:, :1]).astype(int) for sizes in self.sizes]
        rewards = [
            np.take_along_axis(r, k, axis=1) for r, k in zip(self.rewards, kinds, strict=True)
        ]
        following = zip(self.children[: len(kinds) - 1], kinds, strict=False)
        return TokenMDP.table(rewards, [np.take_along_axis(c, k, axis=1) for c, k in following])

    def gap(
        self, alpha: float, epsilon: float, smoothing: float = 0.0
    ) -> tuple[float, list[np.ndarray]]:
        """Return what the worst clone loses, and its gradient in the rewards.

        The kind of less value to the clone is raised by ``min(e^ε, e^{−ε} + (1 − e^{−ε})/p)``, `p`
        its mass, and the hardest instances sit in that corner. With `smoothing` the minimum is
        rounded off downwards, by at most that times ``log 2``.

        Example:
            >>> one = TwoKinds([np.array([[0.0, 1.0]])], [], [np.array([[1, 1]])])
            >>> gap, (gradient,) = one.gap(alpha=1.0, epsilon=0.1)
            >>> round(gap, 6), gradient.round(4).tolist()
            (0.028285, [[-0.0076, 0.0076]])
        """
        layers = []
        soft = expert = clone = np.zeros(1)
        for h in reversed(range(len(self.rewards))):
            reward = self.rewards[h]
            last = h == len(self.rewards) - 1
            child = np.zeros(reward.shape, dtype=int) if last else self.children[h]
            q, x, y = (reward + value[child] for value in (soft, expert, clone))
            top = q.max(axis=1, keepdims=True)
            odds = self.sizes[h] * np.exp((q - top) / alpha)
            total = odds.sum(axis=1, keepdims=True)
            pi = odds / total
            moved, slope = _raised(pi, y, epsilon, smoothing)
            soft = (top + alpha * np.log(total / self.sizes[h].sum(axis=1, keepdims=True)))[:, 0]
            expert = (pi * x).sum(axis=1)
            clone = (moved * y).sum(axis=1)
            layers.append((pi, moved, x, slope, child))
        gradient = []
        to_soft: np.ndarray = np.zeros((1, 1))
        to_expert: np.ndarray = np.ones((1, 1))
        to_clone: np.ndarray = -np.ones((1, 1))
        for h, (pi, moved, x, slope, child) in enumerate(reversed(layers)):
            by_pi = to_expert * x + to_clone * slope
            mean = (pi * by_pi).sum(axis=1, keepdims=True)
            parts = (
                pi * (to_soft + (by_pi - mean) / alpha),
                to_expert * pi,
                to_clone * moved,
            )
            gradient.append(sum(parts))
            if h + 1 < len(layers):
                n = len(self.rewards[h + 1])
                to_soft, to_expert, to_clone = (
                    np.bincount(child.ravel(), part.ravel(), n)[:, None] for part in parts
                )
        return float(expert[0] - clone[0]), gradient


def _raised(
    pi: np.ndarray, y: np.ndarray, epsilon: float, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """The worst clone's masses, and the derivative of its value in the expert's masses."""
    low = y[:, 1] < y[:, 0]
    p = np.where(low, pi[:, 1], pi[:, 0])
    cap = math.exp(epsilon)
    rest = -math.expm1(-epsilon)
    other = 1 - rest + rest / p
    tilt = np.minimum(cap, other)
    share = (other < cap).astype(float)  # of the second argument in the minimum
    if smoothing:
        share = 0.5 - 0.5 * np.tanh((other - cap) / (2 * smoothing))
        tilt = tilt - smoothing * np.log1p(np.exp(-np.abs(other - cap) / smoothing))
    derivative = tilt - share * rest / p
    kinds = np.arange(2) == low[:, None]
    mass = (p * tilt)[:, None]
    lost = -np.abs(y[:, 1] - y[:, 0]) * derivative
    return np.where(kinds, mass, 1 - mass), np.where(kinds, lost[:, None], 0.0)


def climb(start: TwoKinds, alpha: float, epsilon: float) -> TwoKinds:
    """Raise what the worst clone loses by gradient steps, with rewards in [0, 1].

    Args:
        start: where to begin.
        alpha: temperature, reward units.
        epsilon: radius in nats.

    Returns:
        The best of `start` and of what a round for each of `SMOOTHINGS` reaches.

    Example:
        >>> start = TwoKinds([np.array([[0.3, 0.6]])], [], [np.array([[1, 1]])])
        >>> climb(start, alpha=1.0, epsilon=0.1).rewards[0].round(6).tolist()
        [[0.0, 1.0]]
    """
    ends = np.cumsum([table.size for table in start.rewards])[:-1]

    def at(flat: np.ndarray) -> TwoKinds:
        return replace(start, rewards=[part.reshape(-1, 2) for part in np.split(flat, ends)])

    def loss(flat: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
        gap, gradient = at(flat).gap(alpha, epsilon, smoothing)
        return -gap / epsilon, -np.concatenate([table.reshape(-1) for table in gradient]) / epsilon

    flat = np.concatenate([table.reshape(-1) for table in start.rewards])
    best = start
    for share in SMOOTHINGS:
        found = minimize(
            loss,
            flat,
            args=(share * epsilon,),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, 1.0)] * len(flat),
            options={"maxiter": MAX_STEPS, "ftol": 1e-12},
        )
        flat = np.clip(found.x, 0.0, 1.0)
        best = max(best, at(flat), key=lambda one: one.gap(alpha, epsilon)[0])
    return best
