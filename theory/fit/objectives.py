"""The concave objectives of MaxEnt IRL (in the reward) and inverse soft-Q learning (in `Q`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from theory.arrays.namespace import forbid, require_positive, soft_maximum, token_major
from theory.fit.demonstrations import Demonstrations
from theory.fit.features import LinearFeatures, TabularFeatures, check_features
from theory.fit.smoothing import fitted_model
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, occupancy
from theory.solve.reward import with_rewards
from theory.solve.soft import soft_optimal

__all__ = [
    "MaxEntDual",
    "SoftQObjective",
    "entropy_gauge",
    "greatest_objective",
    "require_single",
    "with_placeholders",
]

REACH = 40.0
"""Bound in nats on a tabular variable in L-BFGS: it can overshoot to where nothing curves, and
Newton steps, of a nat at most, would be long in coming back."""

UNVARIED = 1e-10
"""Ratio of two variances of a return below which the smaller one counts as zero."""


def entropy_gauge(dynamics: Dynamics, q: Sequence[np.ndarray], alpha: float) -> list[np.ndarray]:
    """Shift `q` in each state so that ``V(s)`` is `α` times the entropy of the tokens that follow.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> entropy_gauge(dynamics, [np.array([[5.0, 5.0]])], 1.0)[0].tolist()  # −log 2 + log 2
        [[0.0, 0.0]]
    """
    policy = Policy.from_logits(dynamics, q, temperature=alpha)
    entropies = expected_sums(policy, [-table for table in policy.log_probs])
    return [alpha * (t + e[:, None]) for t, e in zip(policy.log_probs, entropies, strict=True)]


class MaxEntDual:
    """Dual objective ``L(θ)`` of MaxEnt IRL (see `maxent_irl`), its gradient and its curvature.

    Args:
        demonstrations: one data set.
        alpha: temperature, reward units.
        l2: ridge on `θ`, in 1/reward units.
        features: `H` tables ``(n_h, V, k)``; `None` for a tabular reward.

    Example:
        >>> from theory import TokenMDP
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> value, gradient = MaxEntDual(data, 1.0, 0.0, None).value_and_gradient(np.zeros(2))
        >>> round(value, 4), gradient.tolist()  # −log 2; frequencies less ½
        (-0.6931, [0.25, -0.25])
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        alpha: float,
        l2: float,
        features: Sequence[Any] | None,
    ) -> None:
        dynamics = demonstrations.dynamics
        self.alpha = alpha
        self.l2 = l2
        self._at: np.ndarray | None = None
        allowed = [
            np.ones((n, dynamics.vocab_size), dtype=bool) if mask is None else mask
            for n, mask in zip(dynamics.layer_sizes, dynamics.allowed, strict=True)
        ]
        self.features: TabularFeatures | LinearFeatures
        if features is not None:
            self.features = LinearFeatures(check_features(features, dynamics), allowed)
        elif l2 > 0:
            self.features = TabularFeatures(allowed)
        else:
            self.features = TabularFeatures(demonstrations.seen)
            # Allowed are the tokens seen. An unvisited state is not reached by them, whatever is
            # allowed there; some token must be.
            allowed = [
                np.where(visited[:, None], seen, mask)
                for mask, seen, visited in zip(
                    allowed, demonstrations.seen, demonstrations.visited, strict=True
                )
            ]
        # Prompts are weighted as in the data, not as in the MDP.
        prompts = demonstrations.state_counts[0] / demonstrations.n
        self.dynamics = replace(dynamics, allowed=tuple(allowed), prompt_weights=prompts)
        frequencies = demonstrations.frequencies
        self.target = self.features.expectation(frequencies)
        self.square = self.features.square(frequencies)
        self.n_variables = len(self.target)
        self.reach = REACH * alpha if features is None else np.inf

    def mdp(self, theta: np.ndarray) -> TokenMDP:
        """Return the MDP whose reward has the weights `theta`."""
        return with_rewards(self.dynamics, tuple(self.features.tables(theta)))

    def _solve(self, theta: np.ndarray) -> None:
        """Find and keep the soft-optimal policy of `theta`, its value and its occupancy."""
        if self._at is not None and np.array_equal(self._at, theta):
            return
        self._at = theta.copy()
        self._policy, values = soft_optimal(self.mdp(theta), self.alpha)
        self._value = float(self.dynamics.average(values[0]))
        visits = occupancy(self._policy)
        self._visits = [
            m[:, None] * np.exp(t) for m, t in zip(visits, self._policy.log_probs, strict=True)
        ]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return ``L(θ)`` and ``E_D φ − E_{π_r} φ − l2·θ``."""
        self._solve(theta)
        value = theta @ self.target - self._value - self.l2 / 2 * theta @ theta
        return float(value), self.target - self.features.expectation(self._visits) - self.l2 * theta

    def curvature(self, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return minus the Hessian times `direction`: the change of the feature expectations.

        A change `u` of the reward changes ``α log π(a|s)`` by its advantage, ``A(s,a) = u + U(s⊕a)
        − U(s)``, with `U` the value of `u` under `π`; the occupancy follows forward.
        """
        self._solve(theta)
        dynamics = self.dynamics
        change = self.features.tables(direction)
        probs = [np.exp(t) for t in self._policy.log_probs]
        log_change: list[np.ndarray] = []
        following: np.ndarray | None = None
        for h in reversed(range(dynamics.horizon)):
            total = change[h] + dynamics.children(h, following)
            following = (probs[h] * total).sum(axis=-1)
            log_change.append((total - following[:, None]) / self.alpha)
        visits_change = np.zeros(dynamics.n_prompts)
        tables: list[np.ndarray] = []
        for h, log_h in enumerate(reversed(log_change)):
            tables.append(probs[h] * visits_change[:, None] + self._visits[h] * log_h)
            if h + 1 < dynamics.horizon:
                visits_change = dynamics.push(h, tables[-1])
        return self.features.expectation(tables) + self.l2 * direction

    def scale(self, theta: np.ndarray) -> np.ndarray:
        """Return the unit of each variable in which its curvature is of order one."""
        self._solve(theta)
        square = (
            np.maximum(self.square, self.features.square(self._visits)) / self.alpha**2
            + self.l2 / self.alpha
        )
        return np.asarray(1.0 / np.sqrt(np.where(square > 0, square, 1.0)))

    def is_determined(self, theta: np.ndarray) -> bool:
        """Whether returns vary under `π_r` wherever they vary at ``r = 0``, in directions of `θ`.

        Where no maximum is attained, `π_r` has lost the responses that would tell, in the limit or
        to rounding.
        """
        unit = np.eye(len(theta))
        before, now = (
            np.stack([self.curvature(at, e) for e in unit]) for at in (0.0 * theta, theta)
        )
        spread, axes = np.linalg.eigh((before + before.T) / 2)
        varied = spread > UNVARIED * spread.max(initial=1e-300)
        whitened = axes[:, varied] / np.sqrt(spread[varied])
        return bool(
            np.linalg.eigvalsh(whitened.T @ (now + now.T) @ whitened / 2).min(initial=1.0)
            > UNVARIED
        )

    def size(self, direction: np.ndarray) -> float:
        """Largest change of a reward, in nats."""
        return max(float(np.abs(t).max()) for t in self.features.tables(direction)) / self.alpha

    def shortened(self, step: np.ndarray) -> np.ndarray:
        """Shorten `step` so that no reward changes by more than a nat."""
        if isinstance(self.features, TabularFeatures):
            return np.asarray(np.clip(step, -self.alpha, self.alpha))
        return np.asarray(step / max(1.0, self.size(step)))


class SoftQObjective:
    """Objective of inverse soft-Q learning: a sum over the `N` visited states.

    Args:
        demonstrations: one data set.
        alpha: temperature, reward units.
        printed: see `inverse_soft_q`.

    Example:
        >>> from theory import TokenMDP
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> value, gradient = SoftQObjective(data, 1.0, False).value_and_gradient(np.zeros(2))
        >>> round(value, 4), gradient.tolist()
        (-0.6931, [0.25, -0.25])
    """

    def __init__(self, demonstrations: Demonstrations, alpha: float, printed: bool) -> None:
        self.demonstrations = demonstrations
        self.alpha = alpha
        self.printed = printed
        self.temperature = 1.0 if printed else alpha
        rows = [
            f[states]
            for f, states in zip(demonstrations.frequencies, demonstrations.visited, strict=True)
        ]
        self.weights = np.concatenate(rows)
        self.seen = self.weights > 0
        self.total = self.weights.sum(axis=-1, keepdims=True)
        self.offset = alpha * np.log(alpha) if printed else 0.0
        self.n_variables = int(self.seen.sum())
        self.reach = REACH * self.temperature
        least = (1 - alpha) / self.seen.sum(axis=-1, keepdims=True)
        if printed and (self.weights <= least * self.total)[self.seen & (least > 0)].any():
            raise ValueError(
                f"printed=True at alpha={alpha}: some n(s,a)/n(s) is (1 − alpha)/m or less, and "
                "the printed objective has no maximum; give more even demonstrations or alpha >= 1"
            )

    def table(self, theta: np.ndarray) -> np.ndarray:
        """Return `θ` as rows ``(N, V)``, zero on tokens not seen; centred if `printed`.

        The printed objective would see a row's mean, which the gauge sets to zero.
        """
        table = np.zeros(self.weights.shape)
        table[self.seen] = theta
        return self.centred(table) if self.printed else table

    def centred(self, table: np.ndarray) -> np.ndarray:
        """Shift rows to mean zero over the tokens seen."""
        mean = table.sum(axis=-1, keepdims=True) / self.seen.sum(axis=-1, keepdims=True)
        return np.where(self.seen, table - mean, 0.0)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective, reward units per response, and its gradient."""
        q = self.table(theta)
        among_seen = np.where(self.seen, q, -np.inf)
        soft = (
            soft_maximum(among_seen, self.temperature) * (self.alpha / self.temperature)
            - self.offset
        )
        value = (self.weights * q).sum() - (self.total[:, 0] * soft).sum()
        pull = self.alpha / self.temperature * self._probs(among_seen)
        return float(value), self.table((self.weights - self.total * pull)[self.seen])[self.seen]

    def curvature(self, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return minus the Hessian times `direction`, ``n(s)/n · (α/τ²) π(a|s)(u(a) − E_π u)``."""
        probs = self._probs(np.where(self.seen, self.table(theta), -np.inf))
        change = self.table(direction)
        spread = probs * (change - (probs * change).sum(axis=-1, keepdims=True))
        curved = self.total * (self.alpha / self.temperature**2) * spread
        return self.table(curved[self.seen])[self.seen]

    def scale(self, theta: np.ndarray) -> np.ndarray:
        """Return the unit of each variable in which its curvature is of order one."""
        probs = self._probs(np.where(self.seen, self.table(theta), -np.inf))
        return np.asarray(
            self.temperature / np.sqrt(np.maximum(self.weights, self.total * probs)[self.seen])
        )

    def _probs(self, q: np.ndarray) -> np.ndarray:
        powers = np.exp((q - q.max(axis=-1, keepdims=True)) / self.temperature)
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def size(self, direction: np.ndarray) -> float:
        """Largest change of a ``Q``, in nats."""
        return float(np.abs(direction).max()) / self.temperature

    def shortened(self, step: np.ndarray) -> np.ndarray:
        """Shorten `step` so that no ``Q`` changes by more than a nat."""
        return np.asarray(np.clip(step, -self.temperature, self.temperature))

    def q_tables(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return `θ` as `H` tables ``(n_h, V)``."""
        found = np.where(self.seen, self.centred(self.table(theta)), -np.inf)
        tables: list[np.ndarray] = []
        start = 0
        for states in self.demonstrations.visited:
            table = np.zeros((len(states), found.shape[-1]))
            end = start + int(states.sum())
            table[states] = found[start:end]
            start = end
            tables.append(table)
        return with_placeholders(self.demonstrations, tables)


def with_placeholders(
    demonstrations: Demonstrations, q: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Set the allowed tokens of unvisited states to zero: rows that softmax makes uniform.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]], [[0, 0]] * 2]).dynamics
        >>> data = Demonstrations(dynamics, (np.array([[1, 0]]), np.array([[1, 0], [0, 0]])))
        >>> with_placeholders(data, [np.ones((1, 2)), np.ones((2, 2))])[1].tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    return tuple(
        token_major(np.where(visited[:, None], table, forbid(np.zeros(table.shape), mask)))
        for table, mask, visited in zip(
            q, demonstrations.dynamics.allowed, demonstrations.visited, strict=True
        )
    )


def greatest_objective(demonstrations: Demonstrations, alpha: float) -> float:
    """Return the supremum ``α (1/n) Σ_D log(n(s,a)/n(s))`` of both objectives, the primal value of
    MaxEnt IRL.

    Only one policy has the occupancy of the data, so the greatest entropy among such policies is
    its own.

    Example:
        >>> from theory import TokenMDP
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[1, 1]]),))
        >>> round(greatest_objective(data, 1.0), 4)  # −log 2
        -0.6931
    """
    return alpha * float(demonstrations.log_likelihood(fitted_model(demonstrations)))


def require_single(demonstrations: Demonstrations, alpha: Any) -> float:
    """Return the temperature as a number; ValueError for a batch, which optimisers do not take.

    Example:
        >>> from theory import TokenMDP
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[1, 1]]),))
        >>> require_single(data, 2)
        2.0
    """
    if demonstrations.batch_shape or np.ndim(alpha):
        shapes = (
            f"demonstrations of batch {demonstrations.batch_shape}, alpha of shape "
            f"{np.shape(alpha)}"
        )
        raise ValueError(
            f"{shapes}: an optimiser takes one data set at one alpha; use demonstrations[i]"
        )
    return float(require_positive("alpha", alpha))
