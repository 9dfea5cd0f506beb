"""RLHF's first step in tabular form: a reward fitted to preferences (EndoRM, eqs. 3–4).

Only differences of returns count, so no number of winners identifies a reward:

- *gauge*: a potential ``Φ(s) − Φ(s⊕a)`` adds ``Φ(s₁)`` to all returns of a prompt and changes no
  difference;
- *data*: where no chain of comparisons ties two responses, the difference of their returns is open.

`fit_reward` gives the maximum-likelihood reward of least norm, and `RewardFit.contrast` the
standard error of a difference of returns: infinite where the data do not identify it. Arrays are
NumPy's, without batch axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity
from scipy.special import expit

from theory.arrays.memory import require_memory
from theory.fit.features import check_features
from theory.fit.preferences import Preferences
from theory.mdp.dynamics import Dynamics
from theory.mdp.responses import Responses, check_responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import with_rewards

__all__ = ["Contrast", "RewardFit", "fit_reward", "separable_pairs"]

MAX_STEPS = 200
"""Newton steps before a fit is given up; a dozen is usual."""


class Contrast(NamedTuple):
    """Differences of returns, with their standard errors.

    Example:
        >>> Contrast(np.array([1.0]), np.array([math.inf])).standard_error.tolist()
        [inf]
    """

    estimate: np.ndarray
    """``(N,)``, reward units."""
    standard_error: np.ndarray
    """``(N,)``, reward units; infinite where the data do not identify the difference."""


@dataclass(frozen=True, eq=False)
class RewardFit:
    """A reward fitted to preferences.

    Attributes:
        reward: the fitted reward, a `TokenMDP`. Of all that fit equally well it has the least norm.
        weights: ``(d,)``: the weights of the features, or every ``r(s,a)``, layer by layer.
        features: ``(n, d)``: those of every (state, token), layer by layer; `None` where the reward
            is tabular.
        columns: ``(c,)``: which weights the comparisons touch.
        row_space: ``(c, rank)``: orthonormal basis, over `columns`, of what the comparisons
            identify. A change of the weights orthogonal to it does not change the likelihood.
        covariance: ``(rank, rank)``: of the fitted weights, in that basis.
        log_likelihood: of the data, nats, without the penalty.

    Example:
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> won, lost = np.array([[1], [0]]), np.array([[0], [1]])
        >>> fit = fit_reward(Preferences(dynamics, np.zeros(2, int), won, lost))
        >>> fit.rank, round(fit.log_likelihood, 4)  # 2 log ½
        (1, -1.3863)
    """

    reward: TokenMDP
    weights: np.ndarray
    features: np.ndarray | None
    columns: np.ndarray
    row_space: np.ndarray
    covariance: np.ndarray
    log_likelihood: float

    @property
    def rank(self) -> int:
        """Dimension of what the comparisons identify.

        If the reward is tabular it is at most the number of reachable (state, token) pairs less
        that of reachable states. Proof: let a reward have equal returns over all responses to each
        prompt. Then what is still to come from a state on, ``Φ(s)``, depends neither on how it was
        reached nor on what follows, so ``r(s,a) = Φ(s) − Φ(s⊕a)``; and every ``Φ`` gives such a
        reward. ``Φ ↦ r`` is one-to-one (``Φ = 0`` after the last token), so these have as many
        dimensions as there are states.
        """
        return int(self.row_space.shape[1])

    def contrast(self, one: Responses, other: Responses) -> Contrast:
        """Differences ``r(τ) − r(τ')``; standard errors ``√(cᵀ Cov c)``, ``c = φ(τ) − φ(τ')``.

        With a penalty the error is that of the penalised estimate about its own mean: the bias is
        not in it.

        Raises:
            ValueError: as `Preferences.of`, though the prompts of a pair may differ and the
                responses be equal.
        """
        dynamics = self.reward.dynamics
        pairs = [check_responses(name, x, dynamics) for name, x in (("one", one), ("other", other))]
        if len(pairs[0].prompts) != len(pairs[1].prompts):
            raise ValueError(
                f"other holds {len(pairs[1].prompts)} responses, one {len(pairs[0].prompts)}: give "
                "as many"
            )
        design = _design(dynamics, pairs[0], pairs[1], self.features)
        inside = design[:, self.columns] @ self.row_space
        norms = np.asarray(design.power(2).sum(axis=1)).reshape(-1)
        identified = norms - (inside**2).sum(axis=1) <= 1e-10 * norms
        variance = np.einsum("nr,rq,nq->n", inside, self.covariance, inside)
        return Contrast(
            design @ self.weights,
            np.where(identified, np.sqrt(np.maximum(variance, 0.0)), math.inf),
        )


def fit_reward(
    preferences: Preferences, features: Sequence[Any] | None = None, l2: float = 0.0
) -> RewardFit:
    """Fit the maximum-likelihood reward of Bradley–Terry preferences (EndoRM, eq. 4).

        max_w Σ_i log σ(w·(φ(τ_i) − φ(τ'_i))) − (l2/2) |w|²,      τ_i chosen over τ'_i,

    where ``φ(τ) = Σ_h φ(s_h, a_h)`` has the features given, or one for each (state, token): then
    `w` is a tabular reward. What no comparison sees stays zero: the answer is the maximiser of
    least norm, the limit ``l2 → 0``. Its covariance is the inverse Fisher information on what is
    identified; with a penalty the sandwich ``A⁻¹FA⁻¹``, ``A = F + l2``.

    Newton's method with a line search on a dense ``(m, c)`` matrix: `m` different comparisons that
    touch `c` weights. It ends when less than 1e-10 nats, or 1e-13 a pair, are to gain, with one
    step more.

    Args:
        preferences: the data.
        features: `H` tables ``(n_h, V, k)`` for ``r(s,a) = w·φ(s,a)``; tabular by default.
        l2: penalty, at least zero.

    Raises:
        ValueError: features of the wrong shape; a negative `l2`; a matrix too large for memory; or
            ``l2 = 0`` and *separable* pairs, which leave the likelihood without a maximiser
            (`separable_pairs`).

    Example:
        Token 1 beats token 0 three times of four, so the difference is log 3:

        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> won, lost = np.array([[1], [1], [1], [0]]), np.array([[0], [0], [0], [1]])
        >>> fit = fit_reward(Preferences(dynamics, np.zeros(4, int), won, lost))
        >>> one, zero = (Responses(np.array([0]), np.array([[token]])) for token in (1, 0))
        >>> [part.round(4).tolist() for part in fit.contrast(one, zero)]  # error (4·¾·¼)^−½
        [[1.0986], [1.1547]]
    """
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2={l2}: must be finite and not negative")
    problem = _compare(preferences, features)
    if l2 == 0 and (separable := _separable(problem)).any():
        i = int(np.argmax(separable))
        one = preferences.chosen[i].tolist()
        other = preferences.rejected[i].tolist()
        raise ValueError(
            f"preferences: {separable.sum()} of {len(separable)} pairs are separable, first pair "
            f"{i}, {one} over {other}: no finite reward is the most likely; pass l2 > 0, or add "
            "pairs that the other response wins"
        )
    singular = problem.singular
    penalty = l2 / singular**2
    u, fisher, log_likelihood = _newton(problem.rows, problem.wins, problem.counts, penalty)
    inverse = np.linalg.inv(fisher + np.diag(penalty))
    weights = np.zeros(problem.design.shape[1])
    weights[problem.columns] = problem.basis @ (u / singular)
    return RewardFit(
        _reward(preferences.dynamics, weights, problem.features),
        weights,
        problem.features,
        problem.columns,
        problem.basis,
        covariance=inverse @ fisher @ inverse / np.outer(singular, singular),
        log_likelihood=log_likelihood,
    )


class _Comparisons(NamedTuple):
    """Pairs of `Preferences`, each two responses once, and the SVD of their features."""

    features: np.ndarray | None
    design: Any
    """``(m, d)``, sparse: features of the one response less those of the other."""
    wins: np.ndarray
    """``(m,)``: number of comparisons that the first response won."""
    counts: np.ndarray
    """``(m,)``: number of comparisons of the two responses."""
    of_pair: np.ndarray
    """``(N,)``: the row in which each pair is counted."""
    columns: np.ndarray
    """``(c,)``: the columns of the design that are not zero."""
    singular: np.ndarray
    """``(rank,)``: singular values above rounding."""
    basis: np.ndarray
    """``(c, rank)``: right singular vectors."""
    rows: np.ndarray
    """``(m, rank)``: left singular vectors, the design with orthonormal columns."""


def _compare(preferences: Preferences, features: Sequence[Any] | None) -> _Comparisons:
    dynamics = preferences.dynamics
    chosen = preferences.chosen
    rejected = preferences.rejected
    table = None if features is None else _joined(check_features(features, dynamics))
    # `one` of each two responses is the first in order of tokens.
    pairs = np.arange(len(chosen))
    differ = np.argmax(chosen != rejected, axis=1)
    wins = chosen[pairs, differ] < rejected[pairs, differ]
    one, other = np.where(wins[:, None], (chosen, rejected), (rejected, chosen))
    keys, of_pair = np.unique(
        np.column_stack([preferences.prompts, one, other]), axis=0, return_inverse=True
    )
    of_pair = of_pair.reshape(-1)
    prompts = keys[:, 0]
    one, other = np.split(keys[:, 1:], 2, axis=1)
    design = _design(dynamics, Responses(prompts, one), Responses(prompts, other), table)
    columns = np.unique(design.indices)
    if not len(columns):
        raise ValueError(
            "features: the same for both responses of every pair; they say nothing about any weight"
        )
    m = len(keys)
    c = len(columns)
    require_memory(
        8 * (3 * m * c + c * c),
        f"fitting {m} comparisons of {c} weights",
        "use features, or fewer pairs",
    )
    dense = design[:, columns].toarray()
    _, singular, basis = np.linalg.svd(dense, full_matrices=False)
    rank = int((singular > max(m, c) * np.finfo(float).eps * singular.max(initial=0.0)).sum())
    singular = singular[:rank]
    basis = basis[:rank].T
    rows = dense @ basis / singular
    return _Comparisons(
        table,
        design,
        np.bincount(of_pair, weights=wins),
        np.bincount(of_pair),
        of_pair,
        columns,
        singular,
        basis,
        rows,
    )


def _joined(tables: Sequence[np.ndarray]) -> np.ndarray:
    """The feature tables as one, ``(n, k)``."""
    return np.concatenate([table.reshape(-1, table.shape[-1]) for table in tables])


def _design(
    dynamics: Dynamics, one: Responses, other: Responses, features: np.ndarray | None
) -> Any:
    """``φ(τ) − φ(τ')`` for each two responses, ``(N, d)``, sparse."""
    V = dynamics.vocab_size
    H = dynamics.horizon
    n = len(one.prompts)
    first = V * np.cumsum([0, *dynamics.layer_sizes])
    states = [dynamics.walk(*responses) for responses in (one, other)]
    columns = [
        np.stack(s, axis=1) * V + x.tokens + first[:-1]
        for s, x in zip(states, (one, other), strict=True)
    ]
    signs = np.tile(np.repeat([1.0, -1.0], H), n)
    design = csr_matrix(
        (signs, np.concatenate(columns, axis=1).reshape(-1), 2 * H * np.arange(n + 1)),
        (n, first[-1]),
    )
    design.sum_duplicates()  # what both responses share cancels
    if features is not None:
        design = design @ features
        # The same features summed in another order differ by rounding, which is no evidence.
        design = csr_matrix(
            np.where(np.abs(design) > 1e-14 * H * np.abs(features).max(axis=0), design, 0.0)
        )
    design.eliminate_zeros()
    return design


def _newton(
    rows: np.ndarray, wins: np.ndarray, counts: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Maximise ``Σ [w log σ(x·u) + (n − w) log σ(−x·u)] − ½ Σ penalty u²``.

    Returns the maximiser, the Fisher information and the log-likelihood there.
    """

    def loss(u: np.ndarray, penalty: np.ndarray) -> float:
        fit = wins @ np.logaddexp(0.0, -(rows @ u)) + (counts - wins) @ np.logaddexp(0.0, rows @ u)
        return float(fit + penalty @ u**2 / 2)

    u = np.zeros(rows.shape[1])
    near = max(1e-10, 1e-13 * counts.sum())  # nats to gain; above the rounding of the loss
    done = False
    steps_at_the_end = 0
    for _ in range(MAX_STEPS):
        p = expit(rows @ u)
        q = expit(-(rows @ u))
        gradient = rows.T @ (wins * q - (counts - wins) * p) - penalty * u
        fisher = rows.T @ (rows * (counts * p * q)[:, None])
        if done:
            return u, fisher, -loss(u, 0.0 * penalty)
        step = np.linalg.solve(fisher + np.diag(penalty), gradient)
        gain = float(gradient @ step)  # twice what the quadratic model still promises
        # √gain is the distance to go in standard errors, and one full step more squares it.
        flat = gain <= near
        steps_at_the_end += flat
        # With a small penalty, a pair that is always won has its maximum far out, where little is
        # left to gain: there the step must be short too.
        short = not penalty.any() or bool((np.abs(step) <= 1e-9 * (1 + np.abs(u))).all())
        if steps_at_the_end > MAX_STEPS // 2 and not short:
            raise ValueError(
                f"l2: {penalty.max():.3g} is too small to place pairs that are always won; pass a "
                "larger one"
            )
        done = flat and short
        size = 1.0
        while not flat and loss(u + size * step, penalty) > loss(u, penalty) - size * gain / 4:
            size /= 2
        u = u + size * step
    raise ValueError(
        f"preferences: no maximum of the likelihood within {MAX_STEPS} Newton steps; pass a larger "
        "l2"
    )


def _reward(dynamics: Dynamics, weights: np.ndarray, features: np.ndarray | None) -> TokenMDP:
    rewards = weights if features is None else features @ weights
    tables = np.split(rewards, dynamics.vocab_size * np.cumsum(dynamics.layer_sizes)[:-1])
    tables = [table.reshape(-1, dynamics.vocab_size) for table in tables]
    masks = [True if mask is None else mask for mask in dynamics.allowed]
    return with_rewards(
        dynamics, tuple(np.where(mask, t, 0.0) for t, mask in zip(tables, masks, strict=True))
    )


def separable_pairs(preferences: Preferences, features: Sequence[Any] | None = None) -> np.ndarray:
    """Return which pairs some reward orders right, ever more surely, at no other's cost: ``(N,)``.

    The likelihood has a maximiser if and only if there is none (Albert and Anderson 1984: neither
    complete nor quasi-complete separation). On a tree with a tabular reward: if and only if, of any
    two responses that a chain of comparisons ties, each has beaten the other along some chain
    (Zermelo 1929, Ford 1957).

    Let ``x_i = φ(τ_i) − φ(τ'_i)``, chosen less rejected. The linear program ``max Σ t_i``, ``0 ≤
    t_i ≤ 1``, ``x_i·w ≥ t_i`` (``x_i·w = 0`` where each response won some) has optimum ``t_i = 1``
    for every pair that a `w` of this cone separates, since such `w` can be added and scaled, and
    ``t_i = 0`` for the others: no tolerance decides.

    Raises:
        ValueError: as `fit_reward` without a penalty, but for separable pairs.

    Example:
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> always = Preferences(dynamics, np.zeros(1, int), np.array([[1]]), np.array([[0]]))
        >>> separable_pairs(always).tolist()
        [True]
    """
    return _separable(_compare(preferences, features))


def _separable(problem: _Comparisons) -> np.ndarray:
    # Tabular rows have entries ±1 and are sparse. Features may have any scale, so their rows with
    # orthonormal columns are taken.
    rows = problem.design if problem.features is None else csr_matrix(problem.rows)
    # HiGHS reads coefficients below 1e-9 as zero, so each row is scaled to a largest entry of one.
    largest = np.maximum(abs(rows).max(axis=1).toarray().reshape(-1), np.finfo(float).tiny)
    rows = rows.multiply((np.where(problem.wins > 0, 1.0, -1.0) / largest)[:, None]).tocsr()
    one_sided = (problem.wins == 0) | (problem.wins == problem.counts)
    m = int(one_sided.sum())
    rest = len(one_sided) - m
    d = rows.shape[1]
    solved = linprog(
        np.concatenate([np.zeros(d), -np.ones(m)]),
        A_ub=hstack([-rows[one_sided], identity(m)]).tocsr(),
        b_ub=np.zeros(m),
        A_eq=hstack([rows[~one_sided], csr_matrix((rest, m))]).tocsr(),
        b_eq=np.zeros(rest),
        bounds=[(None, None)] * d + [(0, 1)] * m,
    )
    t = solved.x[d:] if solved.status == 0 else np.full(m, math.nan)
    if not (np.abs(t - np.round(t)) < 1e-6).all():
        raise ValueError(
            f"preferences: the test for separable pairs failed ({solved.message}); pass l2 > 0"
        )
    separable = np.zeros(len(one_sided), dtype=bool)
    separable[one_sided] = t > 0.5
    return np.asarray(separable[problem.of_pair])
