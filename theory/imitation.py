"""Four routes from demonstrations to one reward, and the way back.

=====================  ==========  ==========================================================  ======================
route                  equations   what it solves                                              gauge: ``V̂(s)``
=====================  ==========  ==========================================================  ======================
`next_token_mle`       2           max over `π` of ``Σ_D log π(a|s)``                          0
`maxent_irl`           6           max over `r` of ``E_D r(τ) − E V_{r,α}(s₁)``                `α` times an entropy
`inverse_soft_q`       7, 8        max over `Q` of ``Σ_D [Q(s,a) − V_Q(s)]``                   where ``Σ_a Q = 0``
`endogenous`           9–12        reads the logits of the fitted model                        ``α log n(s)``, or 0
=====================  ==========  ==========================================================  ======================

All four give the empirical frequencies ``n(s,a)/n(s)`` in every visited state, and rewards that differ by a potential
``Φ(s⊕a) − Φ(s)``, their gauge. Both optimisers reach ``α`` times the mean log-likelihood of a response and no more.

What data does not fix. On a state that was never visited no route says anything: `Fit.visited` is false there and its
row is a placeholder, uniform over the allowed tokens. A token never seen in a visited state has probability zero in
the limit, which no finite reward reaches: without `smoothing` or `l2` it is forbidden in the answer (``Q = −inf``),
and ``ε_π`` against an expert that may write it is infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from scipy.optimize import Bounds, minimize

from theory.arrays import Array, expand, forbid, require_positive, soft_maximum, token_major
from theory.demonstrations import Demonstrations, Smoothing, fitted_model
from theory.dynamics import Dynamics
from theory.mdp import TokenMDP
from theory.policy import Policy, Seed, expected_sums, occupancy, require_same_dynamics, sample
from theory.reward import Gauge, endogenous_reward, with_rewards
from theory.soft import soft_optimal, soft_q_values

__all__ = [
    "Fit",
    "Optimum",
    "Potential",
    "endogenous",
    "inverse_soft_q",
    "maxent_irl",
    "next_token_mle",
    "potential_residual",
    "soft_q_learning",
]

MAX_NEWTON, MAX_CONJUGATE = 500, 200
"""Newton steps after L-BFGS, and conjugate gradients in each."""

REACH = 40.0
"""Nats up to which L-BFGS may move a tabular variable: it can overshoot to where nothing curves, and Newton steps, of a
nat at most, would be long in coming back."""

FLAT = 1e-15
"""Gradient or curvature that is rounding, on variables scaled to curvatures of order one."""


UNVARIED = 1e-10
"""Ratio of two variances of a return, below which the smaller one is none."""


class Optimum(NamedTuple):
    """Where an optimiser stopped."""

    objective: float
    """What was maximised, reward units per response."""
    gap: float
    """Duality gap, reward units: how far `objective` is from its supremum; NaN where none is known."""
    residual: float
    """Largest absolute entry of the gradient: for MaxEnt IRL, by which the expectations of a feature differ."""
    iterations: int
    converged: bool
    """Whether a Newton step (for ``"gradient"``: the gradient) is below the tolerance."""
    weights: np.ndarray | None = None
    """Weights ``(k,)`` of linear features, where these were given."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What a route found: soft Q-values, and with them a policy and a reward.

    Attributes:
        dynamics: the dynamics of the demonstrations.
        q: `H` tables ``(*batch, n_h, V)``, reward units; ``-inf`` on a token that the fit never chooses.
        alpha: temperature, scalar or ``batch``.
        visited: `H` boolean arrays ``(*batch, n_h)``; where false, the rows of `q` are placeholders.
        optimum: where the optimiser stopped; `None` where the answer is in closed form.
        errors: for `soft_q_learning`, the largest ``|Q − Q*|`` after each round, reward units.

    """

    dynamics: Dynamics
    q: tuple[Array, ...]
    alpha: Any
    visited: tuple[np.ndarray, ...]
    optimum: Optimum | None = None
    errors: np.ndarray | None = None

    @cached_property
    def policy(self) -> Policy:
        """``π̂ = softmax(Q/α)``; its gauge is ``V_Q/α``."""
        return Policy.from_logits(self.dynamics, self.q, temperature=self.alpha)

    @cached_property
    def reward(self) -> TokenMDP:
        """``r̂(s,a) = Q(s,a) − V_Q(s⊕a)``, ``V_Q = α log Σ exp(Q/α)`` (eq. 8). A token with ``Q = −inf`` is forbidden.

        Raises:
            ValueError: the fits of a batch forbid different tokens.

        """
        return endogenous_reward(self.policy, self.alpha)


# --- Routes 1 and 4: closed forms -------------------------------------------------------------------------------


def next_token_mle(demonstrations: Demonstrations, alpha: Any, *, smoothing: Smoothing = 0.0) -> Fit:
    """Next-token maximum likelihood, which is behaviour cloning (eq. 2): ``π̂(a|s) = n(s,a)/n(s)``.

    Args:
        demonstrations: one data set or a batch.
        alpha: temperature in reward units, scalar or ``batch``. The policy does not depend on it.
        smoothing: ``0`` for none, ``λ > 0`` to add to every count, or ``"witten-bell"`` for back-off over windows; the
            formulas are in `theory.demonstrations.fitted_model`.

    Returns:
        The fit in the gauge ``V̂ ≡ 0``: ``Q = r̂ = α log π̂``. An unvisited state has the uniform row, or with
        ``"witten-bell"`` that of its longest suffix that was visited.

    Raises:
        ValueError: `alpha` is not positive, `smoothing` is neither, or back-off has no windows or no counts.

    """
    alpha = require_positive("alpha", alpha)
    log_probs = fitted_model(demonstrations, smoothing).log_probs
    return Fit(
        demonstrations.dynamics, tuple(expand(alpha, 2) * table for table in log_probs), alpha, demonstrations.visited
    )


def endogenous(
    demonstrations: Demonstrations, alpha: Any, *, gauge: Gauge = "logits", smoothing: Smoothing = 0.0
) -> Fit:
    """The reward in the logits of the fitted model (eqs. 9–12): ``Q = α·f``, `f` the logits.

    The logits of a model of counts are the logarithms of its (smoothed) counts, and their normaliser is ``V̂(s) =
    α log n(s)``. On a tree ``n(s⊕a) = n(s,a)``, so in this gauge all of the reward sits in the last token.

    Args:
        demonstrations: one data set or a batch.
        alpha: temperature in reward units, scalar or ``batch``.
        gauge: ``"logits"``, or ``"logprob"`` for ``V̂ ≡ 0``; see `theory.reward.endogenous_reward`.
        smoothing: see `next_token_mle`. Rows of ``"witten-bell"`` are probabilities: both gauges are ``V̂ ≡ 0``.

    Raises:
        ValueError: as `next_token_mle`, or `gauge` is neither.

    """
    alpha = require_positive("alpha", alpha)
    if gauge not in ("logits", "logprob"):
        raise ValueError(f"gauge={gauge!r}: must be 'logits' or 'logprob'")
    model = fitted_model(demonstrations, smoothing)
    logits = list(model.log_probs)
    if gauge == "logits" and model.log_normalizers is not None:
        logits = [table + z[..., None] for table, z in zip(logits, model.log_normalizers, strict=True)]
    return Fit(model.dynamics, tuple(expand(alpha, 2) * f for f in logits), alpha, demonstrations.visited)


# --- Route 2: maximum-entropy IRL -------------------------------------------------------------------------------


def maxent_irl(
    demonstrations: Demonstrations,
    alpha: float,
    *,
    features: Sequence[Any] | None = None,
    l2: float = 0.0,
    solver: Literal["lbfgs", "gradient"] = "lbfgs",
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Fit:
    """Maximum-entropy IRL (eq. 6), ``max_r min_π E_D r(τ) − V^π_{r,α}``, as a saddle point.

    The inner problem is solved exactly by `soft_optimal`, which leaves the concave dual

        L(r) = E_D r(τ) − E V_{r,α}(s₁) − (l2/2)‖θ‖²,    ∂L/∂r(s,a) = occupancy in the data − occupancy of π_r,

    of ``r = θ`` (one weight for each state and token) or ``r(s,a) = θ·φ(s,a)``. Prompts are averaged as they are in
    the data; under another prompt distribution `L` has no upper bound. The primal problem is the greatest entropy
    ``α H(π)`` among policies with the feature expectations of the data.

    Without `l2`, a tabular reward is sought on the tokens seen: of any other the supremum lies at ``r = −∞``, so it is
    forbidden in the answer. With `l2` every allowed token takes part and the answer is finite and unique, but no
    longer that of the other routes. To smooth, fit the occupancy of a smoothed policy,
    ``Demonstrations.of_policy(next_token_mle(d, alpha, smoothing=1).policy)``: counts that are smoothed state by state
    are not a flow, and no policy has them as its occupancy.

    Args:
        demonstrations: one data set.
        alpha: temperature in reward units.
        features: ``φ``, `H` tables ``(n_h, V, k)``; tabular rewards by default. They may need `l2` for a finite answer.
        l2: ridge on `θ`, in 1/reward units.
        solver: ``"lbfgs"`` is SciPy's, on variables scaled by their curvature, and then Newton steps by conjugate
            gradients; ``"gradient"`` is plain gradient ascent at the step that ascends for certain, slow.
        tolerance: of the last Newton step, in nats of any reward; for ``"gradient"``, of the largest gradient entry.
        max_iterations: of either solver.

    Returns:
        The fit, with ``Q*`` of the reward found. The dual does not see a potential; without `l2`, a tabular reward is
        given in the gauge in which the mean reward in each state is zero, ``Σ_a π̂(a|s) r̂(s,a) = 0``, and so
        ``V̂(s)`` is `α` times the entropy of what follows.

    Raises:
        ValueError: a batch; an argument out of range or of wrong shape; or linear features that determine no finite
            reward.

    """
    alpha = _single(demonstrations, alpha)
    if not 0 <= l2 < np.inf:
        raise ValueError(f"l2={l2!r}: must be 0 or a positive finite number")
    if solver not in ("lbfgs", "gradient"):
        raise ValueError(f"solver={solver!r}: must be 'lbfgs' or 'gradient'")
    dual = _Dual(demonstrations, alpha, l2, features)
    if solver == "lbfgs":
        theta, iterations, converged = _maximise(dual, tolerance, max_iterations)
        if features is not None and l2 == 0 and not (converged and dual.is_determined(theta)):
            raise ValueError(
                "features: no finite weights attain the feature expectations of the data (they single out responses "
                f"that were never seen), or max_iterations={max_iterations} is too few; pass l2 > 0"
            )
    else:
        theta, iterations, converged = _ascend(dual, tolerance, max_iterations)
    objective, gradient = dual.value_and_gradient(theta)
    q = soft_q_values(dual.mdp(theta), alpha)
    if l2 > 0:
        gap = float(gradient @ gradient) / (2 * l2)  # the primal is αH(π) − ‖E_D φ − E_π φ‖²/(2·l2), at π_r
    elif features is not None:
        gap = abs(float(theta @ gradient))  # of the greatest entropy with the feature expectations of π_r
    else:
        gap = _greatest_objective(demonstrations, alpha) - objective
        q = _with_placeholders(demonstrations, _entropy_gauge(dual.dynamics, q, alpha))
    weights = theta if features is not None else None
    optimum = Optimum(objective, gap, float(np.abs(gradient).max()), iterations, converged, weights)
    return Fit(demonstrations.dynamics, q, alpha, demonstrations.visited, optimum)


def _entropy_gauge(dynamics: Dynamics, q: Sequence[np.ndarray], alpha: float) -> list[np.ndarray]:
    """`q` moved by a constant in each state to where ``V(s)`` is `α` times the entropy of what follows `s`."""
    policy = Policy.from_logits(dynamics, q, temperature=alpha)
    entropies = expected_sums(policy, [-table for table in policy.log_probs])
    return [alpha * (t + e[:, None]) for t, e in zip(policy.log_probs, entropies, strict=True)]


class _Dual:
    """``L(θ)``, its gradient and its curvature."""

    def __init__(self, demonstrations: Demonstrations, alpha: float, l2: float, features: Sequence[Any] | None) -> None:
        dynamics = demonstrations.dynamics
        self.alpha, self.l2 = alpha, l2
        self._at: np.ndarray | None = None
        allowed = [
            np.ones((n, dynamics.vocab_size), dtype=bool) if mask is None else mask
            for n, mask in zip(dynamics.layer_sizes, dynamics.allowed, strict=True)
        ]
        self.features: _Tokens | _Linear
        if features is not None:
            self.features = _Linear(_check_features(features, dynamics), allowed)
        elif l2 > 0:
            self.features = _Tokens(allowed)
        else:
            self.features = _Tokens(demonstrations.seen)
            # No response with support on the tokens seen comes to an unvisited state, whatever is allowed there.
            seen, visited = demonstrations.seen, demonstrations.visited
            allowed = [np.where(v[:, None], x, m) for m, x, v in zip(allowed, seen, visited, strict=True)]
        # Prompts as the data have them, and not as the MDP draws them.
        prompts = demonstrations.state_counts[0] / demonstrations.n
        self.dynamics = replace(dynamics, allowed=tuple(allowed), prompt_weights=prompts)
        frequencies = demonstrations.frequencies
        self.target = self.features.expectation(frequencies)
        self.square = self.features.square(frequencies)
        self.n_variables = len(self.target)
        self.reach = REACH * alpha if features is None else np.inf

    def mdp(self, theta: np.ndarray) -> TokenMDP:
        return with_rewards(self.dynamics, tuple(self.features.tables(theta)))

    def _solve(self, theta: np.ndarray) -> None:
        """The soft-optimal policy of `theta`, its value and its occupancy; kept until another `theta` is asked for."""
        if self._at is not None and np.array_equal(self._at, theta):
            return
        self._at = theta.copy()
        self._policy, values = soft_optimal(self.mdp(theta), self.alpha)
        self._value = float(self.dynamics.average(values[0]))
        visits = occupancy(self._policy)
        self._visits = [m[:, None] * np.exp(t) for m, t in zip(visits, self._policy.log_probs, strict=True)]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """``L(θ)`` and ``E_D φ − E_{π_r} φ − l2·θ``."""
        self._solve(theta)
        value = theta @ self.target - self._value - self.l2 / 2 * theta @ theta
        return float(value), self.target - self.features.expectation(self._visits) - self.l2 * theta

    def curvature(self, theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Minus the Hessian times `direction`: how the feature expectations of `π_r` move with the reward.

        A change `u` of the reward changes ``α log π(a|s)`` by its advantage, ``A(s,a) = u + U(s⊕a) − U(s)``, with `U`
        the value of `u` under `π`; the occupancy follows forward.
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
        square = np.maximum(self.square, self.features.square(self._visits)) / self.alpha**2 + self.l2 / self.alpha
        return np.asarray(1.0 / np.sqrt(np.where(square > 0, square, 1.0)))

    def is_determined(self, theta: np.ndarray) -> bool:
        """Whether the returns vary under `π_r` in every direction of `θ` in which they vary at ``r = 0``.

        Where no maximum is attained, `π_r` has lost the responses that would tell, in the limit or to rounding.
        """
        unit = np.eye(len(theta))
        before, now = (np.stack([self.curvature(at, e) for e in unit]) for at in (0.0 * theta, theta))
        spread, axes = np.linalg.eigh((before + before.T) / 2)
        varied = spread > UNVARIED * spread.max(initial=1e-300)
        whitened = axes[:, varied] / np.sqrt(spread[varied])
        return bool(np.linalg.eigvalsh(whitened.T @ (now + now.T) @ whitened / 2).min(initial=1.0) > UNVARIED)

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
        self.longest = float(len(masks))  # each step of a response adds one unit vector, in its own layer

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        tables = []
        for mask, start, end in zip(self.masks, self.ends[:-1], self.ends[1:], strict=True):
            table = np.zeros(mask.shape)
            table[mask] = theta[start:end]
            tables.append(table)
        return tables

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([table[mask] for table, mask in zip(weights, self.masks, strict=True)])

    square = expectation


class _Linear:
    """Linear rewards ``θ·φ(s,a)``; `φ` is zero on forbidden tokens."""

    def __init__(self, phi: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        self.phi = [np.where(mask[..., None], table, 0.0) for table, mask in zip(phi, masks, strict=True)]
        self.longest = sum(float(np.sqrt((t**2).sum(axis=-1)).max()) for t in self.phi) ** 2

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        return [table @ theta for table in self.phi]

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(sum(np.einsum("sa,sak->k", w, t) for w, t in zip(weights, self.phi, strict=True)))

    def square(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(sum(np.einsum("sa,sak->k", w, t**2) for w, t in zip(weights, self.phi, strict=True)))


def _check_features(features: Sequence[Any], dynamics: Dynamics) -> list[np.ndarray]:
    tables = [np.asarray(table, dtype=np.float64) for table in features]
    if len(tables) != dynamics.horizon:
        raise ValueError(f"features has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer")
    k = tables[0].shape[-1] if tables[0].ndim == 3 else 0
    for h, table in enumerate(tables):
        expected = (dynamics.layer_sizes[h], dynamics.vocab_size, k)
        if table.shape != expected or k == 0:
            raise ValueError(
                f"features[{h}] has shape {table.shape}: must be {expected[:2]} and the number of features"
            )
        if not np.isfinite(table).all():
            raise ValueError(f"features[{h}] holds {table[~np.isfinite(table)][0]}: features must be finite")
    return tables


# --- Route 3: inverse soft-Q learning ---------------------------------------------------------------------------


def inverse_soft_q(
    demonstrations: Demonstrations,
    alpha: float,
    *,
    printed: bool = False,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Fit:
    """Inverse soft-Q learning, offline (eqs. 7–8): maximise ``(1/n) Σ_D [Q(s,a) − V_Q(s)]`` over `Q` directly.

    ``V_Q(s) = α log Σ_a exp(Q(s,a)/α)``; the reward of the answer is ``r̂(s,a) = Q(s,a) − V_Q(s⊕a)``. The objective
    does not see a constant added to a row; the answer is in the gauge ``Σ_a Q(s,a) = 0`` over the tokens seen in `s`.
    A token never seen would go to ``Q = −∞`` and is forbidden.

    Args:
        demonstrations: one data set.
        alpha: temperature in reward units.
        printed: take ``V_Q(s) = α log Σ_a exp(Q(s,a))/α``, as the paper prints it. That objective sees the constant:
            `c` added to a row of `k` visits adds ``(1−α) k c/n``, so unless ``α = 1`` it has no upper bound. Within
            the gauge the maximiser, where there is one, has ``softmax(Q)_a = (n(s,a)/n(s) − (1−α)/m)/α`` over the `m`
            tokens seen: neither ``softmax(Q)`` nor ``softmax(Q/α)`` is the policy of the other routes.
        tolerance: of the last Newton step, in nats of any ``Q``.
        max_iterations: of L-BFGS.

    Raises:
        ValueError: a batch, or `alpha` is not positive; with `printed`, a frequency of ``(1−α)/m`` or less, where the
            objective has no upper bound even within the gauge.

    """
    alpha = _single(demonstrations, alpha)
    rows = _Rows(demonstrations, alpha, printed)
    theta, iterations, converged = _maximise(rows, tolerance, max_iterations)
    objective, gradient = rows.value_and_gradient(theta)
    gap = float("nan") if printed else _greatest_objective(demonstrations, alpha) - objective
    optimum = Optimum(objective, gap, float(np.abs(gradient).max()), iterations, converged)
    return Fit(demonstrations.dynamics, rows.q_tables(theta), alpha, demonstrations.visited, optimum)


class _Rows:
    """The objective of inverse soft-Q learning: a sum over visited states, here the rows of one table ``(N, V)``."""

    def __init__(self, demonstrations: Demonstrations, alpha: float, printed: bool) -> None:
        self.demonstrations, self.alpha, self.printed = demonstrations, alpha, printed
        self.temperature = 1.0 if printed else alpha
        rows = [f[states] for f, states in zip(demonstrations.frequencies, demonstrations.visited, strict=True)]
        self.weights = np.concatenate(rows)
        self.seen = self.weights > 0
        self.total = self.weights.sum(axis=-1, keepdims=True)
        self.offset = alpha * np.log(alpha) if printed else 0.0
        self.n_variables, self.reach = int(self.seen.sum()), REACH * self.temperature
        least = (1 - alpha) / self.seen.sum(axis=-1, keepdims=True)
        if printed and (self.weights <= least * self.total)[self.seen & (least > 0)].any():
            raise ValueError(
                f"printed=True at alpha={alpha}: some n(s,a)/n(s) is (1 − alpha)/m or less, and the printed objective "
                "has no maximum; give more even demonstrations or alpha >= 1"
            )

    def table(self, theta: np.ndarray) -> np.ndarray:
        """Rows ``(N, V)``, zero on the tokens not seen; of mean zero, where the objective would see the mean."""
        table = np.zeros(self.weights.shape)
        table[self.seen] = theta
        return self.centred(table) if self.printed else table

    def centred(self, table: np.ndarray) -> np.ndarray:
        """Rows moved to mean zero over the tokens seen."""
        mean = table.sum(axis=-1, keepdims=True) / self.seen.sum(axis=-1, keepdims=True)
        return np.where(self.seen, table - mean, 0.0)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        q = self.table(theta)
        among_seen = np.where(self.seen, q, -np.inf)
        soft = soft_maximum(among_seen, self.temperature) * (self.alpha / self.temperature) - self.offset
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
        return np.asarray(self.temperature / np.sqrt(np.maximum(self.weights, self.total * probs)[self.seen]))

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
        return _with_placeholders(self.demonstrations, tables)


def _with_placeholders(demonstrations: Demonstrations, q: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """`q`, and zero on the allowed tokens of unvisited states: rows that softmax makes uniform."""
    return tuple(
        token_major(np.where(visited[:, None], table, forbid(np.zeros(table.shape), mask)))
        for table, mask, visited in zip(q, demonstrations.dynamics.allowed, demonstrations.visited, strict=True)
    )


# --- Optimisers -------------------------------------------------------------------------------------------------


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


def _maximise(problem: _Concave, tolerance: float, max_iterations: int) -> tuple[np.ndarray, int, bool]:
    """L-BFGS from zero, then Newton steps until one is below `tolerance`: the maximiser, iterations, converged.

    Values are known to about 1e-16 and so locate a maximum to 1e-8 at best, and a rare state's worse; gradients are
    relatively exact in every state. So the last digits come from steps that read the gradient only. None is longer
    than a nat, within which the quadratic model of a soft maximum is good.
    """
    theta, alpha = np.zeros(problem.n_variables), problem.alpha
    scale = problem.scale(theta)

    def descend(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(scale * y)
        return -value / alpha, -scale * gradient / alpha

    options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "ftol": 1e-9, "gtol": 1e-5}
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


def _conjugate_gradients(curvature: Callable[[np.ndarray], np.ndarray], b: np.ndarray) -> np.ndarray:
    """`x` with ``curvature(x) = b`` to five digits. Rounding along a gauge, where nothing curves, is left alone."""
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


def _ascend(dual: _Dual, tolerance: float, max_iterations: int) -> tuple[np.ndarray, int, bool]:
    """Gradient ascent ``θ ← θ + η ∂L/∂θ`` from zero: the maximiser, iterations, converged."""
    theta = np.zeros(len(dual.target))
    for iteration in range(max_iterations):
        gradient = dual.value_and_gradient(theta)[1]
        if np.abs(gradient).max() <= tolerance:
            return theta, iteration, True
        theta = theta + dual.safe_step * gradient
    return theta, max_iterations, False


def _greatest_objective(demonstrations: Demonstrations, alpha: float) -> float:
    """``α (1/n) Σ_D log(n(s,a)/n(s))``: the supremum of both optimisers, and the primal value of MaxEnt IRL.

    Only one policy has the occupancy of the data, so the greatest entropy among such policies is its own.
    """
    return alpha * float(demonstrations.log_likelihood(fitted_model(demonstrations)))


def _single(demonstrations: Demonstrations, alpha: Any) -> float:
    if demonstrations.batch_shape or np.ndim(alpha):
        shapes = f"demonstrations of batch {demonstrations.batch_shape}, alpha of shape {np.shape(alpha)}"
        raise ValueError(f"{shapes}: an optimiser takes one data set at one alpha; use demonstrations[i]")
    return float(require_positive("alpha", alpha))


# --- The way back, and comparison -------------------------------------------------------------------------------


def soft_q_learning(
    mdp: TokenMDP,
    alpha: float,
    *,
    rounds: int = 1000,
    parallel: int = 32,
    power: float = 0.6,
    behaviour: Policy | None = None,
    seed: Seed = None,
) -> Fit:
    """Soft Q-learning from sampled responses: forward from a reward to its soft-optimal policy, with no model.

    In each round `parallel` responses are written, and each token that occurs in them moves its Q-value once, by

        Q(s,a) ← Q(s,a) + N(s,a)^{−power} [r(s,a) + V_Q(s⊕a) − Q(s,a)],    V_Q = α log Σ exp(Q/α),

    with `N` the number of rounds so far in which it occurred. On the reward that a route found, it recovers `π̂`.

    Args:
        mdp: one token MDP; its rewards are read only where a response comes by.
        alpha: temperature in reward units.
        rounds: number of rounds.
        parallel: responses written in each.
        power: step sizes, from 1 (averages, Watkins's classic choice, slow where targets still move) to 0. Transitions
            of token MDPs are deterministic, so that even 0, which forgets the old value, converges.
        behaviour: the policy that writes the responses; uniform over the allowed tokens by default.
        seed: a seed or a `numpy.random.Generator`.

    Returns:
        The fit; `visited` are the states that were met, and `errors` the largest ``|Q − Q*|`` after each round over
        what `behaviour` can reach, ``Q*`` the exact Q-values.

    Raises:
        ValueError: a batch, or an argument out of range.

    """
    if mdp.batch_shape or np.ndim(alpha):
        raise ValueError(f"mdp of batch {mdp.batch_shape}, alpha of shape {np.shape(alpha)}: take one at a time")
    for name, number in (("rounds", rounds), ("parallel", parallel)):
        if number < 1:
            raise ValueError(f"{name}={number}: must be at least 1")
    if not 0 <= power <= 1:
        raise ValueError(f"power={power}: must be from 0 to 1")
    alpha, dynamics = float(require_positive("alpha", alpha)), mdp.dynamics
    q = [forbid(np.zeros(r.shape), mask) for r, mask in zip(mdp.rewards, dynamics.allowed, strict=True)]
    behaviour = Policy.from_logits(dynamics, q) if behaviour is None else behaviour
    require_same_dynamics(dynamics, behaviour.dynamics)
    exact = soft_q_values(mdp, alpha)
    reached = [(m > 0)[:, None] & (t > -np.inf) for m, t in zip(occupancy(behaviour), behaviour.log_probs, strict=True)]
    met = [np.zeros(r.shape, dtype=np.int64) for r in mdp.rewards]
    rng, errors = np.random.default_rng(seed), np.empty(rounds)
    for i in range(rounds):
        responses = sample(behaviour, parallel, rng)
        states = dynamics.walk(responses.prompts, responses.tokens)
        for h, s in enumerate(states):
            a = responses.tokens[:, h]
            following = soft_maximum(q[h + 1][states[h + 1]], alpha) if h + 1 < mdp.horizon else 0.0
            met[h][s, a] += 1  # a pair that occurs twice in a round counts, and moves, once
            q[h][s, a] += met[h][s, a] ** -power * (mdp.rewards[h][s, a] + following - q[h][s, a])
        errors[i] = max(
            float(np.abs(one[where] - two[where]).max()) for one, two, where in zip(q, exact, reached, strict=True)
        )
    visited = tuple(count.sum(axis=-1) > 0 for count in met)
    return Fit(dynamics, tuple(token_major(table) for table in q), alpha, visited, errors=errors)


class Potential(NamedTuple):
    """A potential ``Φ``, and what it leaves unexplained."""

    potential: tuple[np.ndarray, ...]
    """`H` arrays ``(*batch, n_h)``, reward units."""
    residual: Array
    """Largest ``|r₁ − r₂ − Φ(s⊕a) + Φ(s)|``: ``batch``, reward units."""


def potential_residual(one: TokenMDP, two: TokenMDP, visited: Sequence[np.ndarray] | None = None) -> Potential:
    """Fit the potential of ``r₁(s,a) − r₂(s,a) = Φ(s⊕a) − Φ(s)``, ``Φ = 0`` after the last token.

    Layer by layer from the last, ``Φ(s)`` is halfway between the least and the greatest ``Φ(s⊕a) − r₁ + r₂`` of a row.
    If the rewards differ by a potential it is found and the residual is zero; if some ``Φ`` leaves a residual `δ`,
    this one leaves at most ``2Hδ``.

    Args:
        one: `r₁`.
        two: `r₂`, on the same dynamics.
        visited: the state-tokens to compare, `H` boolean tables ``(n_h, V)`` such as `Demonstrations.seen`: with a
            token, some token of its successor. All that both allow, by default.

    Raises:
        ValueError: the dynamics differ, or nothing is to be compared.

    """
    require_same_dynamics(one.dynamics, two.dynamics)
    dynamics, following, worst = one.dynamics, None, []
    potential: list[np.ndarray] = []
    for h in reversed(range(one.horizon)):
        compared = np.ones((dynamics.layer_sizes[h], dynamics.vocab_size), dtype=bool)
        for mask in (one.dynamics.allowed[h], two.dynamics.allowed[h], None if visited is None else visited[h]):
            compared = compared if mask is None else compared & mask
        moved = dynamics.children(h, following) - (one.rewards[h] - two.rewards[h])
        least = np.where(compared, moved, np.inf).min(axis=-1)
        greatest = np.where(compared, moved, -np.inf).max(axis=-1)
        some = compared.any(axis=-1)
        following = np.where(some, (np.where(some, least, 0.0) + np.where(some, greatest, 0.0)) / 2, 0.0)
        potential.append(following)
        worst.append(np.where(some, greatest - least, -np.inf).max(axis=-1) / 2)
    residual = np.max(np.stack(worst), axis=0)
    if (residual < 0).any():
        raise ValueError("visited: no state-token is left to compare; give at least one that both rewards allow")
    return Potential(tuple(reversed(potential)), residual)
