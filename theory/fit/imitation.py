"""Four routes from demonstrations to one reward.

================ ========= ============================================ ====================
route            equations what it solves                               gauge: ``V̂(s)``
================ ========= ============================================ ====================
`next_token_mle` 2         max over `π` of ``Σ_D log π(a|s)``           0
`maxent_irl`     6         max over `r` of ``E_D r(τ) − E V_{r,α}(s₁)`` `α` times an entropy
`inverse_soft_q` 7, 8      max over `Q` of ``Σ_D [Q(s,a) − V_Q(s)]``    where ``Σ_a Q = 0``
`endogenous`     9–12      reads the logits of the fitted model         ``α log n(s)``, or 0
================ ========= ============================================ ====================

All four give the empirical frequencies ``n(s,a)/n(s)`` in every visited state, and rewards that
differ by a potential ``Φ(s⊕a) − Φ(s)``, their gauge. Both optimisers reach ``α`` times the mean
log-likelihood of a response and no more.

The data leave two things open. On a state that was never visited no route says anything:
`Fit.visited` is false there and its row is a placeholder, uniform over the allowed tokens. A token
never seen in a visited state has probability zero in the limit, which no finite reward reaches:
without `smoothing` or `l2` it is forbidden in the answer (``Q = −inf``), and ``ε_π`` against an
expert that may choose it is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from theory.arrays.namespace import Array, expand, require_positive
from theory.fit.demonstrations import Demonstrations
from theory.fit.objectives import (
    MaxEntDual,
    SoftQObjective,
    entropy_gauge,
    greatest_objective,
    require_single,
    with_placeholders,
)
from theory.fit.optimise import maximise
from theory.fit.smoothing import Smoothing, fitted_model
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import Gauge, endogenous_reward
from theory.solve.soft import soft_q_values

__all__ = ["Fit", "Optimum", "endogenous", "inverse_soft_q", "maxent_irl", "next_token_mle"]


class Optimum(NamedTuple):
    """Result of an optimiser.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> optimum = inverse_soft_q(data, alpha=1.0).optimum
        >>> round(optimum.objective, 4), abs(optimum.gap) < 1e-9
        (-0.5623, True)
    """

    objective: float
    """Maximum found, reward units per response."""
    gap: float
    """Duality gap, reward units: the supremum less `objective`; NaN where it is not known."""
    residual: float
    """Largest absolute entry of the gradient; for MaxEnt IRL, of a feature expectation's error."""
    iterations: int
    converged: bool
    """Whether a Newton step is below the tolerance."""
    weights: np.ndarray | None = None
    """Weights ``(k,)`` of linear features, where these were given."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of a route: soft Q-values, and with them a policy and a reward.

    Attributes:
        dynamics: the dynamics of the demonstrations.
        q: `H` tables ``(*batch, n_h, V)``, reward units; ``-inf`` on a token that the fit never
            chooses.
        alpha: temperature, scalar or ``batch``.
        visited: `H` boolean arrays ``(*batch, n_h)``; where false, the rows of `q` are
            placeholders.
        optimum: where the optimiser stopped; `None` where the answer is in closed form.
        errors: for `soft_q_learning`, the largest ``|Q − Q*|`` after each round, reward units.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> np.exp(endogenous(data, alpha=2.0).policy.log_probs[0]).round(4).tolist()
        [[0.75, 0.25]]
    """

    dynamics: Dynamics
    q: tuple[Array, ...]
    alpha: Any
    visited: tuple[np.ndarray, ...]
    optimum: Optimum | None = None
    errors: np.ndarray | None = None

    @cached_property
    def policy(self) -> Policy:
        """The policy ``π̂ = softmax(Q/α)``; its gauge is ``V_Q/α``."""
        return Policy.from_logits(self.dynamics, self.q, temperature=self.alpha)

    @cached_property
    def reward(self) -> TokenMDP:
        """The reward ``r̂(s,a) = Q(s,a) − V_Q(s⊕a)``, ``V_Q = α log Σ exp(Q/α)`` (eq. 8).

        A token with ``Q = −inf`` is forbidden.

        Raises:
            ValueError: the fits of a batch forbid different tokens.
        """
        return endogenous_reward(self.policy, self.alpha)


# --- Routes 1 and 4: closed forms -----------------------------------------------------------------


def next_token_mle(
    demonstrations: Demonstrations, alpha: Any, *, smoothing: Smoothing = 0.0
) -> Fit:
    """Fit by next-token maximum likelihood, which is behaviour cloning (eq. 2): ``π̂(a|s) =
    n(s,a)/n(s)``.

    Args:
        demonstrations: one data set or a batch.
        alpha: temperature in reward units, scalar or ``batch``. The policy does not depend on it.
        smoothing: ``0`` for none, ``λ > 0`` to add to every count, or ``"witten-bell"`` for
            back-off over windows; the formulas are in `theory.fit.smoothing.fitted_model`.

    Returns:
        The fit in the gauge ``V̂ ≡ 0``: ``Q = r̂ = α log π̂``. An unvisited state has the uniform
        row, or with ``"witten-bell"`` that of its longest suffix that was visited.

    Raises:
        ValueError: `alpha` is not positive, `smoothing` is neither, or back-off has no windows or
            no counts.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> next_token_mle(data, alpha=2.0).reward.rewards[0].round(4).tolist()  # 2 log ¾, 2 log ¼
        [[-0.5754, -2.7726]]
    """
    alpha = require_positive("alpha", alpha)
    log_probs = fitted_model(demonstrations, smoothing).log_probs
    return Fit(
        demonstrations.dynamics,
        tuple(expand(alpha, 2) * table for table in log_probs),
        alpha,
        demonstrations.visited,
    )


def endogenous(
    demonstrations: Demonstrations,
    alpha: Any,
    *,
    gauge: Gauge = "logits",
) -> Fit:
    """Read the reward in the logits of the fitted model (eqs. 9–12): ``Q = α·f``, `f` the logits.

    The logits of a model of counts are the logarithms of its counts, and their
    normaliser is ``V̂(s) = α log n(s)``. On a tree ``n(s⊕a) = n(s,a)``, so in this gauge all of the
    reward sits in the last token.

    Args:
        demonstrations: one data set or a batch.
        alpha: temperature in reward units, scalar or ``batch``.
        gauge: ``"logits"``, or ``"logprob"`` for ``V̂ ≡ 0``; see
            `theory.solve.reward.endogenous_reward`.

    Raises:
        ValueError: `alpha` is not positive, or `gauge` is neither.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> endogenous(data, alpha=2.0).reward.rewards[0].round(4).tolist()  # 2 log 3, 2 log 1
        [[2.1972, 0.0]]
    """
    alpha = require_positive("alpha", alpha)
    if gauge not in ("logits", "logprob"):
        raise ValueError(f"gauge={gauge!r}: must be 'logits' or 'logprob'")
    model = fitted_model(demonstrations)
    logits = list(model.log_probs)
    if gauge == "logits" and model.log_normalizers is not None:
        logits = [
            table + z[..., None] for table, z in zip(logits, model.log_normalizers, strict=True)
        ]
    return Fit(
        model.dynamics, tuple(expand(alpha, 2) * f for f in logits), alpha, demonstrations.visited
    )


# --- Route 2: maximum-entropy IRL -----------------------------------------------------------------


def maxent_irl(
    demonstrations: Demonstrations,
    alpha: float,
    *,
    features: Sequence[Any] | None = None,
    l2: float = 0.0,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Fit:
    """Fit by maximum-entropy IRL (eq. 6), ``max_r min_π E_D r(τ) − V^π_{r,α}``, as a saddle point.

    The inner problem is solved exactly by `soft_optimal`, which leaves the concave dual

        L(r) = E_D r(τ) − E V_{r,α}(s₁) − (l2/2)‖θ‖²,
        ∂L/∂r(s,a) = occupancy in the data − occupancy of π_r,

    of ``r = θ`` (one weight for each state and token) or ``r(s,a) = θ·φ(s,a)``. Prompts are
    averaged as they are in the data; under another prompt distribution `L` has no upper bound. The
    primal problem is the greatest entropy ``α H(π)`` among policies with the feature expectations
    of the data.

    Without `l2`, a tabular reward is sought on the tokens seen: of any other the supremum lies at
    ``r = −∞``, so it is forbidden in the answer. With `l2` every allowed token takes part and the
    answer is finite and unique, but no longer that of the other routes. To smooth, fit the
    occupancy of a smoothed policy, ``Demonstrations.of_policy(next_token_mle(d, alpha,
    smoothing=1).policy)``: counts that are smoothed state by state are not a flow, and no policy
    has them as its occupancy.

    Args:
        demonstrations: one data set.
        alpha: temperature in reward units.
        features: ``φ``, `H` tables ``(n_h, V, k)``; tabular rewards by default. They may need `l2`
            for a finite answer.
        l2: ridge on `θ`, in 1/reward units.
        tolerance: of the last Newton step, in nats of any reward.
        max_iterations: of L-BFGS.

    Returns:
        The fit, with ``Q*`` of the reward found. The dual does not see a potential; without `l2`, a
        tabular reward is given in the gauge in which the mean reward in each state is zero, ``Σ_a
        π̂(a|s) r̂(s,a) = 0``, and so ``V̂(s)`` is `α` times the entropy of what follows.

    Raises:
        ValueError: a batch; an argument out of range or of wrong shape; or linear features that
            determine no finite reward.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> fit = maxent_irl(data, alpha=2.0)
        >>> reward = fit.reward.rewards[0][0]
        >>> round(float(reward[0] - reward[1]), 4), fit.optimum.converged  # 2 log 3
        (2.1972, True)
    """
    alpha = require_single(demonstrations, alpha)
    if not 0 <= l2 < np.inf:
        raise ValueError(f"l2={l2!r}: must be 0 or a positive finite number")
    dual = MaxEntDual(demonstrations, alpha, l2, features)
    theta, iterations, converged = maximise(dual, tolerance, max_iterations)
    if features is not None and l2 == 0 and not (converged and dual.is_determined(theta)):
        raise ValueError(
            "features: no finite weights attain the feature expectations of the data (they "
            "single out responses that were never seen), or "
            f"max_iterations={max_iterations} is too few; pass l2 > 0"
        )
    objective, gradient = dual.value_and_gradient(theta)
    q = soft_q_values(dual.mdp(theta), alpha)
    if l2 > 0:
        # The primal is αH(π) − ‖E_D φ − E_π φ‖²/(2·l2), taken at π_r.
        gap = float(gradient @ gradient) / (2 * l2)
    elif features is not None:
        # π_r has the greatest entropy for its own feature expectations, which are those of the data
        # at the end.
        gap = abs(float(theta @ gradient))
    else:
        gap = greatest_objective(demonstrations, alpha) - objective
        q = with_placeholders(demonstrations, entropy_gauge(dual.dynamics, q, alpha))
    weights = theta if features is not None else None
    optimum = Optimum(objective, gap, float(np.abs(gradient).max()), iterations, converged, weights)
    return Fit(demonstrations.dynamics, q, alpha, demonstrations.visited, optimum)


# --- Route 3: inverse soft-Q learning -------------------------------------------------------------


def inverse_soft_q(
    demonstrations: Demonstrations,
    alpha: float,
    *,
    printed: bool = False,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Fit:
    """Fit by inverse soft-Q learning (eqs. 7–8): maximise ``(1/n) Σ_D [Q(s,a) − V_Q(s)]`` over `Q`.

    ``V_Q(s) = α log Σ_a exp(Q(s,a)/α)``; the reward of the answer is ``r̂(s,a) = Q(s,a) −
    V_Q(s⊕a)``. The objective does not see a constant added to a row; the answer is in the gauge
    ``Σ_a Q(s,a) = 0`` over the tokens seen in `s`. A token never seen would go to ``Q = −∞`` and is
    forbidden.

    Args:
        demonstrations: one data set.
        alpha: temperature in reward units.
        printed: take ``V_Q(s) = α log Σ_a exp(Q(s,a))/α``, as the paper prints it. That objective
            sees the constant: `c` added to a row of `k` visits adds ``(1−α) k c/n``, so unless ``α
            = 1`` it has no upper bound. Within the gauge the maximiser, where there is one, has
            ``softmax(Q)_a = (n(s,a)/n(s) − (1−α)/m)/α`` over the `m` tokens seen: neither
            ``softmax(Q)`` nor ``softmax(Q/α)`` is the policy of the other routes.
        tolerance: of the last Newton step, in nats of any ``Q``.
        max_iterations: of L-BFGS.

    Raises:
        ValueError: a batch, or `alpha` is not positive; with `printed`, a frequency of ``(1−α)/m``
            or less, where the objective has no upper bound even within the gauge.

    Example:
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> inverse_soft_q(data, alpha=2.0).q[0].round(4).tolist()  # ±log 3
        [[1.0986, -1.0986]]
    """
    alpha = require_single(demonstrations, alpha)
    rows = SoftQObjective(demonstrations, alpha, printed)
    theta, iterations, converged = maximise(rows, tolerance, max_iterations)
    objective, gradient = rows.value_and_gradient(theta)
    gap = float("nan") if printed else greatest_objective(demonstrations, alpha) - objective
    optimum = Optimum(objective, gap, float(np.abs(gradient).max()), iterations, converged)
    return Fit(
        demonstrations.dynamics, rows.q_tables(theta), alpha, demonstrations.visited, optimum
    )
