"""The two concave problems that the optimising routes of `theory.fit.imitation` solve, and the
optimisers.

`Dual` is MaxEnt IRL's in the reward, `Rows` is inverse soft-Q learning's in `Q`. `maximise` is
L-BFGS on variables scaled by their curvature and then Newton steps by conjugate gradients; `ascend`
is plain gradient ascent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from scipy.optimize import Bounds, minimize

from theory.arrays.namespace import forbid, require_positive, soft_maximum, token_major
from theory.fit.demonstrations import Demonstrations, fitted_model
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, occupancy
from theory.solve.reward import with_rewards
from theory.solve.soft import soft_optimal

MAX_NEWTON, MAX_CONJUGATE = 500, 200
"""Newton steps after L-BFGS, and conjugate gradients in each."""

REACH = 40.0
"""Nats up to which L-BFGS may move a tabular variable: it can overshoot to where nothing curves,
and Newton steps, of a nat at most, would be long in coming back."""

FLAT = 1e-15
"""Gradient or curvature that is rounding, on variables scaled to curvatures of order one."""


UNVARIED = 1e-10
"""Ratio of two variances of a return, below which the smaller one is none."""


def entropy_gauge(dynamics: Dynamics, q: Sequence[np.ndarray], alpha: float) -> list[np.ndarray]:
    """`q` moved by a constant in each state to where ``V(s)`` is `α` times the entropy of what
    follows `s`.
    """
    policy = Policy.from_logits(dynamics, q, temperature=alpha)
    entropies = expected_sums(policy, [-table for table in policy.log_probs])
    return [alpha * (t + e[:, None]) for t, e in zip(policy.log_probs, entropies, strict=True)]


class Dual:
    """``L(θ)``, its gradient and its curvature."""

    def __init__(
        self,
        demonstrations: Demonstrations,
        alpha: float,
        l2: float,
        features: Sequence[Any] | None,
    ) -> None:
        dynamics = demonstrations.dynamics
        self.alpha, self.l2 = alpha, l2
        self._at: np.ndarray | None = None
        allowed = [
            np.ones((n, dynamics.vocab_size), dtype=bool) if mask is None else mask
            for n, mask in zip(dynamics.layer_sizes, dynamics.allowed, strict=True)
        ]
        self.features: _Tokens | _Linear
        if features is not None:
            self.features = _Linear(check_features(features, dynamics), allowed)
        elif l2 > 0:
            self.features = _Tokens(allowed)
        else:
            self.features = _Tokens(demonstrations.seen)
            # No response with support on the tokens seen comes to an unvisited state, whatever is
            # allowed there.
            seen, visited = demonstrations.seen, demonstrations.visited
            allowed = [
                np.where(v[:, None], x, m) for m, x, v in zip(allowed, seen, visited, strict=True)
            ]
        # Prompts as the data have them, and not as the MDP draws them.
        prompts = demonstrations.state_counts[0] / demonstrations.n
        self.dynamics = replace(dynamics, allowed=tuple(allowed), prompt_weights=prompts)
        frequencies = demonstrations.frequencies
        self.target = self.features.expectation(frequencies)
        self.square = self.features.square(frequencies)
        self.n_variables = len(self.target)
        self.reach = REACH * alpha if features is None else np.inf

    def mdp(self, theta: np.ndarray) -> TokenMDP:
        """The MDP whose reward these variables are."""
        return with_rewards(self.dynamics, tuple(self.features.tables(theta)))

    def _solve(self, theta: np.ndarray) -> None:
        """The soft-optimal policy of `theta`, its value and its occupancy; kept until another
        `theta` is asked for.
        """
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
        """``L(θ)`` and ``E_D φ − E_{π_r} φ − l2·θ``."""
        self._solve(theta)
        value = theta @ self.target - self._value - self.l2 / 2 * theta @ theta
        return float(value), self.target - self.features.expectation(self._visits) - self.l2 * theta

    def curvature(self, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Minus the Hessian times `direction`: how the feature expectations of `π_r` move with the
        reward.

        A change `u` of the reward changes ``α log π(a|s)`` by its advantage, ``A(s,a) = u + U(s⊕a)
        − U(s)``, with `U` the value of `u` under `π`; the occupancy follows forward.
        """
        self._solve(theta)
        dynamics, change = self.dynamics, self.features.tables(direction)
        probs = [np.exp(t) for t in self._policy.log_probs]
        log_change: list[np.ndarray] = []
        following: np.ndarray | None = None
        for h in reversed(range(dynamics.horizon)):
            total = change[h] + dynamics.children(h, following)
            following = (probs[h] * total).sum(axis=-1)
            log_change.append((total - following[:, None]) / self.alpha)
        moved, tables = np.zeros(dynamics.n_prompts), []
        for h, log_h in enumerate(reversed(log_change)):
            tables.append(probs[h] * moved[:, None] + self._visits[h] * log_h)
            if h + 1 < dynamics.horizon:
                moved = dynamics.push(h, tables[-1])
        return self.features.expectation(tables) + self.l2 * direction

    def scale(self, theta: np.ndarray) -> np.ndarray:
        """On which each variable has a curvature of order one, here and in the data."""
        self._solve(theta)
        square = (
            np.maximum(self.square, self.features.square(self._visits)) / self.alpha**2
            + self.l2 / self.alpha
        )
        return np.asarray(1.0 / np.sqrt(np.where(square > 0, square, 1.0)))

    def is_determined(self, theta: np.ndarray) -> bool:
        """Whether the returns vary under `π_r` in every direction of `θ` in which they vary at ``r
        = 0``.

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
        """`step` with no reward moved by more than a nat."""
        if isinstance(self.features, _Tokens):
            return np.asarray(np.clip(step, -self.alpha, self.alpha))
        return np.asarray(step / max(1.0, self.size(step)))

    @property
    def safe_step(self) -> float:
        """``1/(‖φ(τ)‖²/α + l2)`` at its least: the curvature nowhere exceeds its inverse."""
        return 1.0 / (self.features.longest / self.alpha + self.l2)


class _Tokens:
    """Tabular rewards: a weight for each state and token of `masks`."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        self.masks = masks
        self.ends = np.cumsum([0, *(int(mask.sum()) for mask in masks)])
        self.longest = float(
            len(masks)
        )  # each step of a response adds one unit vector, in its own layer

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        tables = []
        for mask, start, end in zip(self.masks, self.ends[:-1], self.ends[1:], strict=True):
            table = np.zeros(mask.shape)
            table[mask] = theta[start:end]
            tables.append(table)
        return tables

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [table[mask] for table, mask in zip(weights, self.masks, strict=True)]
        )

    square = expectation


class _Linear:
    """Linear rewards ``θ·φ(s,a)``; `φ` is zero on forbidden tokens."""

    def __init__(self, phi: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        self.phi = [
            np.where(mask[..., None], table, 0.0) for table, mask in zip(phi, masks, strict=True)
        ]
        self.longest = sum(float(np.sqrt((t**2).sum(axis=-1)).max()) for t in self.phi) ** 2

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        return [table @ theta for table in self.phi]

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(
            sum(np.einsum("sa,sak->k", w, t) for w, t in zip(weights, self.phi, strict=True))
        )

    def square(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(
            sum(np.einsum("sa,sak->k", w, t**2) for w, t in zip(weights, self.phi, strict=True))
        )


def check_features(features: Sequence[Any], dynamics: Dynamics) -> list[np.ndarray]:
    """Features as `H` tables ``(n_h, V, k)``, zero on forbidden tokens; ValueError names the
    layer.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in features]
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"features has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer"
        )
    k = tables[0].shape[-1] if tables[0].ndim == 3 else 0
    for h, table in enumerate(tables):
        expected = (dynamics.layer_sizes[h], dynamics.vocab_size, k)
        if table.shape != expected or k == 0:
            raise ValueError(
                f"features[{h}] has shape {table.shape}: must be {expected[:2]} and the number of "
                "features"
            )
        if not np.isfinite(table).all():
            raise ValueError(
                f"features[{h}] holds {table[~np.isfinite(table)][0]}: features must be finite"
            )
    return tables


class Rows:
    """The objective of inverse soft-Q learning: a sum over visited states, here the rows of one
    table ``(N, V)``.
    """

    def __init__(self, demonstrations: Demonstrations, alpha: float, printed: bool) -> None:
        self.demonstrations, self.alpha, self.printed = demonstrations, alpha, printed
        self.temperature = 1.0 if printed else alpha
        rows = [
            f[states]
            for f, states in zip(demonstrations.frequencies, demonstrations.visited, strict=True)
        ]
        self.weights = np.concatenate(rows)
        self.seen = self.weights > 0
        self.total = self.weights.sum(axis=-1, keepdims=True)
        self.offset = alpha * np.log(alpha) if printed else 0.0
        self.n_variables, self.reach = int(self.seen.sum()), REACH * self.temperature
        least = (1 - alpha) / self.seen.sum(axis=-1, keepdims=True)
        if printed and (self.weights <= least * self.total)[self.seen & (least > 0)].any():
            raise ValueError(
                f"printed=True at alpha={alpha}: some n(s,a)/n(s) is (1 − alpha)/m or less, and "
                "the printed objective "
                "has no maximum; give more even demonstrations or alpha >= 1"
            )

    def table(self, theta: np.ndarray) -> np.ndarray:
        """Rows ``(N, V)``, zero on the tokens not seen; of mean zero, where the objective would see
        the mean.
        """
        table = np.zeros(self.weights.shape)
        table[self.seen] = theta
        return self.centred(table) if self.printed else table

    def centred(self, table: np.ndarray) -> np.ndarray:
        """Rows moved to mean zero over the tokens seen."""
        mean = table.sum(axis=-1, keepdims=True) / self.seen.sum(axis=-1, keepdims=True)
        return np.where(self.seen, table - mean, 0.0)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective, reward units per response, and its gradient."""
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
        """Minus the Hessian times `direction`, ``n(s)/n · (α/τ²) π(a|s)(u(a) − E_π u)``."""
        probs = self._probs(np.where(self.seen, self.table(theta), -np.inf))
        change = self.table(direction)
        spread = probs * (change - (probs * change).sum(axis=-1, keepdims=True))
        curved = self.total * (self.alpha / self.temperature**2) * spread
        return self.table(curved[self.seen])[self.seen]

    def scale(self, theta: np.ndarray) -> np.ndarray:
        """On which each variable has a curvature of order one, here and in the data."""
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
        """`step` with no ``Q`` moved by more than a nat."""
        return np.asarray(np.clip(step, -self.temperature, self.temperature))

    def q_tables(self, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """`H` tables ``(n_h, V)``."""
        found = np.where(self.seen, self.centred(self.table(theta)), -np.inf)
        tables, start = [], 0
        for states in self.demonstrations.visited:
            table = np.zeros((len(states), found.shape[-1]))
            end = start + int(states.sum())
            table[states], start = found[start:end], end
            tables.append(table)
        return with_placeholders(self.demonstrations, tables)


def with_placeholders(
    demonstrations: Demonstrations, q: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """`q`, and zero on the allowed tokens of unvisited states: rows that softmax makes uniform."""
    return tuple(
        token_major(np.where(visited[:, None], table, forbid(np.zeros(table.shape), mask)))
        for table, mask, visited in zip(
            q, demonstrations.dynamics.allowed, demonstrations.visited, strict=True
        )
    )


class _Concave(Protocol):
    """A concave objective in reward units per response, with its derivatives."""

    alpha: float
    n_variables: int
    reach: float

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]: ...
    def curvature(self, theta: np.ndarray, direction: np.ndarray) -> np.ndarray: ...
    def scale(self, theta: np.ndarray) -> np.ndarray: ...
    def size(self, direction: np.ndarray) -> float: ...
    def shortened(self, step: np.ndarray) -> np.ndarray: ...


def maximise(
    problem: _Concave, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, int, bool]:
    """L-BFGS from zero, then Newton steps until one is below `tolerance`: the maximiser,
    iterations, converged.

    Values are known to about 1e-16 and so locate a maximum to 1e-8 at best, and a rare state's
    worse; gradients are relatively exact in every state. So the last digits come from steps that
    read the gradient only. None is longer than a nat, within which the quadratic model of a soft
    maximum is good.
    """
    theta, alpha = np.zeros(problem.n_variables), problem.alpha
    scale = problem.scale(theta)

    def descend(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(scale * y)
        return -value / alpha, -scale * gradient / alpha

    options = {
        "maxiter": max_iterations,
        "maxfun": 2 * max_iterations,
        "maxcor": 20,
        "ftol": 1e-9,
        "gtol": 1e-5,
    }
    bounds = Bounds(-problem.reach / scale, problem.reach / scale)
    found = minimize(descend, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    theta, before, steps = scale * found.x, np.inf, 0
    for steps in range(1, MAX_NEWTON + 1):
        scale = problem.scale(theta)
        gradient = scale * problem.value_and_gradient(theta)[1] / alpha

        def curvature(y: np.ndarray, at: np.ndarray = theta, scale: np.ndarray = scale) -> Any:
            return scale * problem.curvature(at, scale * y) / alpha

        step = scale * _conjugate_gradients(curvature, gradient)
        size = problem.size(step)
        theta = theta + problem.shortened(step)
        if size <= tolerance:
            return theta, int(found.nit) + steps, True
        if before <= size < 0.1:  # it is rounding that moves
            break
        before = size
    return theta, int(found.nit) + steps, False


def _conjugate_gradients(
    curvature: Callable[[np.ndarray], np.ndarray], b: np.ndarray
) -> np.ndarray:
    """`x` with ``curvature(x) = b`` to five digits. Rounding along a gauge, where nothing curves,
    is left alone.
    """
    x, rest, direction = np.zeros(len(b)), b, b
    length = rest @ rest
    goal = max(1e-10 * length, len(b) * FLAT**2)
    for _ in range(MAX_CONJUGATE):
        curved = curvature(direction)
        bend = direction @ curved
        if length <= goal or bend <= FLAT * (direction @ direction):
            break
        x, rest = x + length / bend * direction, rest - length / bend * curved
        length, before = rest @ rest, length
        direction = rest + length / before * direction
    return np.asarray(x)


def ascend(dual: Dual, tolerance: float, max_iterations: int) -> tuple[np.ndarray, int, bool]:
    """Gradient ascent ``θ ← θ + η ∂L/∂θ`` from zero: the maximiser, iterations, converged."""
    theta = np.zeros(len(dual.target))
    for iteration in range(max_iterations):
        gradient = dual.value_and_gradient(theta)[1]
        if np.abs(gradient).max() <= tolerance:
            return theta, iteration, True
        theta = theta + dual.safe_step * gradient
    return theta, max_iterations, False


def greatest_objective(demonstrations: Demonstrations, alpha: float) -> float:
    """``α (1/n) Σ_D log(n(s,a)/n(s))``: the supremum of both optimisers, and the primal value of
    MaxEnt IRL.

    Only one policy has the occupancy of the data, so the greatest entropy among such policies is
    its own.
    """
    return alpha * float(demonstrations.log_likelihood(fitted_model(demonstrations)))


def require_single(demonstrations: Demonstrations, alpha: Any) -> float:
    """The temperature as a number; ValueError where there is a batch, which optimisers do not
    take.
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
