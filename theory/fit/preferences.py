"""RLHF's two steps in tabular form: a reward fitted to preferences, then the KL-regularised optimum
(EndoRM, eqs. 3–5).

Bradley–Terry (eq. 3): of two responses to one prompt the first wins with probability ``σ(r(τ) −
r(τ'))``. Only differences of returns count, so no number of winners identifies a reward:

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
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity
from scipy.special import expit

from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy, Seed, require_same_dynamics
from theory.mdp.responses import Responses, sample
from theory.mdp.token_mdp import TokenMDP
from theory.solve.improve import kl_optimal
from theory.solve.reward import bradley_terry, returns, with_rewards

__all__ = [
    "RLHF",
    "Contrast",
    "Preferences",
    "RewardFit",
    "fit_reward",
    "identifiable_rank",
    "rlhf",
    "sample_preferences",
    "separable_pairs",
]

MAX_STEPS = 200
"""Newton steps before a fit is given up; a dozen is usual."""

MAX_DRAWS = 1000
"""Times that a pair is drawn again because its two responses are the same."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """Pairs of different responses to one prompt, and which of the two won. Build them with `of`,
    which validates.

    Attributes:
        dynamics: states, successors, forbidden tokens.
        prompts: ``(N,)`` indices of prompts.
        chosen: ``(N, H)`` tokens of the response that won.
        rejected: ``(N, H)`` tokens of the one that lost.
    """

    dynamics: Dynamics
    prompts: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @classmethod
    def of(cls, dynamics: Dynamics, chosen: Responses, rejected: Responses) -> Self:
        """The pairs ``chosen[i] ≻ rejected[i]``.

        Raises:
            ValueError: no pair; a response of the wrong length, with a token or prompt that does
                not exist, or with a token that is forbidden; a pair of responses to different
                prompts, or of equal ones. Names the argument, the index and the value.
        """
        prompts, tokens = _check_responses("chosen", chosen, dynamics)
        others, losers = _check_responses("rejected", rejected, dynamics)
        if len(prompts) != len(others):
            raise ValueError(
                f"rejected holds {len(others)} responses, chosen {len(prompts)}: give as many of "
                "both"
            )
        for i in np.flatnonzero(prompts != others)[:1]:
            raise ValueError(
                f"pair {i}: chosen answers prompt {prompts[i]}, rejected {others[i]}; compare "
                "within one"
            )
        for i in np.flatnonzero((tokens == losers).all(axis=1))[:1]:
            raise ValueError(
                f"pair {i}: chosen and rejected are both {tokens[i].tolist()}; leave equal "
                "responses out"
            )
        return cls(dynamics, prompts, tokens, losers)

    def __post_init__(self) -> None:
        _check_responses("chosen", Responses(self.prompts, self.chosen), self.dynamics)
        _check_responses("rejected", Responses(self.prompts, self.rejected), self.dynamics)


def _check_responses(name: str, responses: Responses, dynamics: Dynamics) -> Responses:
    H = dynamics.horizon
    try:
        prompts, tokens = (np.asarray(part) for part in responses)
    except ValueError:
        raise ValueError(
            f"{name}.tokens holds responses of different lengths: each must have {H} tokens"
        ) from None
    if not tokens.size:
        raise ValueError(f"{name} is empty: give at least one response")
    if prompts.ndim != 1 or tokens.shape != (len(prompts), H):
        raise ValueError(
            f"{name} has shapes {prompts.shape} and {tokens.shape}: must be prompts (N,), tokens "
            f"(N, {H})"
        )
    for part, array, n in (
        ("prompts", prompts, dynamics.n_prompts),
        ("tokens", tokens, dynamics.vocab_size),
    ):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"{name}.{part} has dtype {array.dtype}: must hold integers from 0 to {n - 1}"
            )
        for at in np.argwhere((array < 0) | (array >= n))[:1]:
            raise ValueError(
                f"{name}.{part}{at.tolist()} is {array[tuple(at)]}: must be from 0 to {n - 1}"
            )
    for h, (states, mask) in enumerate(
        zip(dynamics.walk(prompts, tokens), dynamics.allowed, strict=True)
    ):
        for i in [] if mask is None else np.flatnonzero(~mask[states, tokens[:, h]])[:1]:
            raise ValueError(
                f"{name}.tokens[{i}, {h}] is {tokens[i, h]}, forbidden there: leave the response "
                "out"
            )
    return Responses(prompts, tokens)


def sample_preferences(mdp: TokenMDP, policy: Policy, n: int, seed: Seed = None) -> Preferences:
    """Draw `n` pairs from a policy, and the winner of each by Bradley–Terry with the MDP's reward
    (eq. 3).

    A pair is two independent responses to one prompt, given that they differ: equal ones are drawn
    again.

    Args:
        mdp: the true reward.
        policy: who writes the responses.
        n: number of pairs.
        seed: a seed or a `numpy.random.Generator`; the same seed gives the same pairs on one
            machine.

    Raises:
        ValueError: `n` is below 1; other dynamics; a policy that nearly always writes the same
            response.
    """
    require_same_dynamics(mdp.dynamics, policy.dynamics)
    if n < 1:
        raise ValueError(f"n={n}: draw at least one pair")
    rng = np.random.default_rng(seed)
    prompts, one = sample(policy, n, rng)
    two: np.ndarray = sample(policy, n, rng, prompts=prompts).tokens
    equal = np.arange(n)
    for _ in range(MAX_DRAWS):
        equal = equal[(one[equal] == two[equal]).all(axis=1)]
        if not len(equal):
            break
        for tokens in (one, two):
            tokens[equal] = sample(policy, len(equal), rng, prompts=prompts[equal]).tokens
    else:
        response, prompt = one[equal[0]].tolist(), prompts[equal[0]]
        raise ValueError(
            f"policy: its responses to prompt {prompt} are always {response}; use one that varies"
        )
    delta = returns(mdp, Responses(prompts, one)) - returns(mdp, Responses(prompts, two))
    one_wins = (rng.random(n) < bradley_terry(delta))[:, None]
    chosen, rejected = np.where(one_wins, (one, two), (two, one))
    return Preferences(mdp.dynamics, prompts, chosen, rejected)


def identifiable_rank(dynamics: Dynamics) -> int:
    """The largest rank that a tabular fit can have: (state, token) pairs that can be reached, less
    states that can.

    A fit of this rank identifies the difference of any two responses to one prompt. Proof: let a
    reward have equal returns over all responses to each prompt. Then what is still to come from a
    state on, ``Φ(s)``, depends neither on how it was reached nor on what follows, so ``r(s,a) =
    Φ(s) − Φ(s⊕a)``; and every ``Φ`` gives such a reward. ``Φ ↦ r`` is one-to-one (``Φ = 0`` after
    the last token), so these have as many dimensions as there are states.
    """
    rank = 0
    reached = np.ones(dynamics.n_prompts, dtype=bool)
    for h, mask in enumerate(dynamics.allowed):
        usable = reached[:, None] & (
            np.ones((len(reached), dynamics.vocab_size), dtype=bool) if mask is None else mask
        )
        rank += int(usable.sum()) - int(reached.sum())
        if h + 1 < dynamics.horizon:
            reached = dynamics.push(h, usable.astype(float)) > 0
    return rank


# --- Step one: the reward -------------------------------------------------------------------------


class Contrast(NamedTuple):
    """Differences of returns, with their standard errors."""

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
        gradient_norm: Euclidean norm of the gradient of what is maximised, in the weights: zero at
            the maximum.
    """

    reward: TokenMDP
    weights: np.ndarray
    features: np.ndarray | None
    columns: np.ndarray
    row_space: np.ndarray
    covariance: np.ndarray
    log_likelihood: float
    gradient_norm: float

    @property
    def rank(self) -> int:
        """Dimension of what the comparisons identify; for a tabular reward at most
        `identifiable_rank`.
        """
        return int(self.row_space.shape[1])

    def contrast(self, one: Responses, other: Responses) -> Contrast:
        """``r(τ) − r(τ')`` for each two responses, with standard errors ``√(cᵀ Cov c)``, ``c = φ(τ)
        − φ(τ')``.

        With a penalty the error is that of the penalised estimate about its own mean: the bias is
        not in it.

        Raises:
            ValueError: as `Preferences.of`, though the prompts of a pair may differ and the
                responses be equal.
        """
        dynamics = self.reward.dynamics
        pairs = [
            _check_responses(name, x, dynamics) for name, x in (("one", one), ("other", other))
        ]
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
    """Maximum-likelihood reward of Bradley–Terry preferences (EndoRM, eq. 4):

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
    """
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2={l2}: must be finite and not negative")
    problem = _compare(preferences, features)
    if l2 == 0 and (separable := _separable(problem)).any():
        i = int(np.argmax(separable))
        one, other = preferences.chosen[i].tolist(), preferences.rejected[i].tolist()
        raise ValueError(
            f"preferences: {separable.sum()} of {len(separable)} pairs are separable, first pair "
            f"{i}, {one} over "
            f"{other}: no finite reward is the most likely; pass l2 > 0, or add pairs that the "
            "other response wins"
        )
    singular, penalty = problem.singular, l2 / problem.singular**2
    u, gradient, fisher, log_likelihood = _newton(
        problem.rows, problem.wins, problem.counts, penalty
    )
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
        gradient_norm=float(np.linalg.norm(singular * gradient)),
    )


class _Comparisons(NamedTuple):
    """The pairs of `Preferences`, each two responses once, and the singular value decomposition of
    their features.
    """

    features: np.ndarray | None
    design: Any
    """``(m, d)``, sparse: features of the one response less those of the other."""
    wins: np.ndarray
    """``(m,)``: how often the one won …"""
    counts: np.ndarray
    """``(m,)``: … of how many comparisons."""
    of_pair: np.ndarray
    """``(N,)``: the row in which each pair is counted."""
    columns: np.ndarray
    """``(c,)``: the columns of the design that are not zero."""
    singular: np.ndarray
    """``(rank,)``: singular values above rounding, and …"""
    basis: np.ndarray
    """``(c, rank)``: … their right vectors."""
    rows: np.ndarray
    """``(m, rank)``: their left vectors, the design in units in which its columns are
    orthonormal.
    """


def _compare(preferences: Preferences, features: Sequence[Any] | None) -> _Comparisons:
    dynamics, chosen, rejected = preferences.dynamics, preferences.chosen, preferences.rejected
    table = _check_features(features, dynamics)
    pairs, differ = np.arange(len(chosen)), np.argmax(chosen != rejected, axis=1)
    wins = (
        chosen[pairs, differ] < rejected[pairs, differ]
    )  # the one is the response first in order of its tokens
    one, other = np.where(wins[:, None], (chosen, rejected), (rejected, chosen))
    keys, of_pair = np.unique(
        np.column_stack([preferences.prompts, one, other]), axis=0, return_inverse=True
    )
    of_pair = of_pair.reshape(-1)
    prompts, one, other = (
        keys[:, 0],
        keys[:, 1 : dynamics.horizon + 1],
        keys[:, dynamics.horizon + 1 :],
    )
    design = _design(dynamics, Responses(prompts, one), Responses(prompts, other), table)
    columns = np.unique(design.indices)
    if not len(columns):
        raise ValueError(
            "features: the same for both responses of every pair; they say nothing about any weight"
        )
    m, c = len(keys), len(columns)
    require_memory(
        8 * (3 * m * c + c * c),
        f"fitting {m} comparisons of {c} weights",
        "use features, or fewer pairs",
    )
    dense = design[:, columns].toarray()
    _, singular, basis = np.linalg.svd(dense, full_matrices=False)
    rank = int((singular > max(m, c) * np.finfo(float).eps * singular.max(initial=0.0)).sum())
    singular, basis = singular[:rank], basis[:rank].T
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


def _check_features(features: Sequence[Any] | None, dynamics: Dynamics) -> np.ndarray | None:
    """The feature tables as one, ``(n, k)``."""
    if features is None:
        return None
    tables = [np.asarray(table, dtype=np.float64) for table in features]
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"features has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer"
        )
    for h, table in enumerate(tables):
        expected = (dynamics.layer_sizes[h], dynamics.vocab_size, *tables[0].shape[-1:])
        if table.shape != expected or not table.size:
            raise ValueError(
                f"features[{h}] has shape {table.shape}: must be (n_h, V, k), here {expected}"
            )
        if not np.isfinite(table).all():
            raise ValueError(
                f"features[{h}] holds {table[~np.isfinite(table)][0]}: features must be finite"
            )
    return np.concatenate([table.reshape(-1, table.shape[-1]) for table in tables])


def _design(
    dynamics: Dynamics, one: Responses, other: Responses, features: np.ndarray | None
) -> Any:
    """``φ(τ) − φ(τ')`` for each two responses, ``(N, d)``, sparse."""
    V, H, n = dynamics.vocab_size, dynamics.horizon, len(one.prompts)
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Maximiser of ``Σ [w log σ(x·u) + (n − w) log σ(−x·u)] − ½ Σ penalty u²``; its gradient and
    the Fisher information and the log-likelihood there.
    """

    def loss(u: np.ndarray, penalty: np.ndarray) -> float:
        fit = wins @ np.logaddexp(0.0, -(rows @ u)) + (counts - wins) @ np.logaddexp(0.0, rows @ u)
        return float(fit + penalty @ u**2 / 2)

    u = np.zeros(rows.shape[1])
    near = max(
        1e-10, 1e-13 * counts.sum()
    )  # nats still to gain, above what rounding hides in the loss
    done, steps_at_the_end = False, 0
    for _ in range(MAX_STEPS):
        p, q = expit(rows @ u), expit(-(rows @ u))
        gradient = rows.T @ (wins * q - (counts - wins) * p) - penalty * u
        fisher = rows.T @ (rows * (counts * p * q)[:, None])
        if done:
            return u, gradient, fisher, -loss(u, 0.0 * penalty)
        step = np.linalg.solve(fisher + np.diag(penalty), gradient)
        gain = float(gradient @ step)  # twice what the quadratic model still promises
        flat = (
            gain <= near
        )  # √gain is the way to go in standard errors: one full step more squares it
        steps_at_the_end += flat
        # A small penalty stops a pair that is always won far out, where there is little left to
        # gain.
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
    """Which pairs some reward orders right, ever more surely, while it orders no other pair wrong:
    ``(N,)`` booleans.

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
    """
    return _separable(_compare(preferences, features))


def _separable(problem: _Comparisons) -> np.ndarray:
    # Tabular rows have entries ±1 and are sparse; features may be of any size, so their orthonormal
    # form is taken.
    rows = problem.design if problem.features is None else csr_matrix(problem.rows)
    # HiGHS reads coefficients below 1e-9 as zero: the largest of each row becomes one.
    largest = np.maximum(abs(rows).max(axis=1).toarray().reshape(-1), np.finfo(float).tiny)
    rows = rows.multiply((np.where(problem.wins > 0, 1.0, -1.0) / largest)[:, None]).tocsr()
    one_sided = (problem.wins == 0) | (problem.wins == problem.counts)
    m, d, rest = int(one_sided.sum()), rows.shape[1], int((~one_sided).sum())
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


# --- Step two: the policy -------------------------------------------------------------------------


class RLHF(NamedTuple):
    """What RLHF's two steps end in."""

    policy: Policy
    reward: TokenMDP
    fit: RewardFit


def rlhf(
    preferences: Preferences,
    anchor: Policy,
    beta: Any,
    features: Sequence[Any] | None = None,
    l2: float = 0.0,
) -> RLHF:
    """Fit a reward to preferences (eq. 4), then maximise ``E_π r(τ) − β KL(π‖anchor)`` exactly (eq.
    5).

    The policy does not depend on the gauge of the reward. It does on differences that the data
    leave open, which the fit of least norm fills in: `RewardFit.contrast` says which.

    Args:
        preferences: the data.
        anchor: the policy to stay near. What it never writes stays so.
        beta: weight of the KL divergence, reward units per nat, scalar or ``batch``.
        features: see `fit_reward`.
        l2: see `fit_reward`.

    Raises:
        ValueError: as `fit_reward`; other dynamics; `beta` is not positive and finite.
    """
    require_same_dynamics(preferences.dynamics, anchor.dynamics)
    beta = require_positive("beta", beta)
    fit = fit_reward(preferences, features, l2)
    return RLHF(kl_optimal(fit.reward, anchor, beta).policy, fit.reward, fit)
