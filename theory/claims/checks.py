"""Validation of an instance: its parts must fit together, and its expert be soft-optimal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from theory.arrays.namespace import (
    Array,
    expand,
    is_torch_array,
    require_positive,
)
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy
from theory.solve.soft import soft_optimal

if TYPE_CHECKING:
    from theory.claims.problem import Problem

__all__ = ["validate"]

EXPERT_WITHIN = 1e-13
"""How far a given ``log π_E`` may be from the solver's, for each nat that a value and a
log-probability hold.
"""


def validate(problem: Problem) -> None:
    """Raise `ValueError` unless the parts fit together and the expert is soft-optimal."""
    mdp = problem.mdp
    if isinstance(problem.alpha, str) or np.size(problem.alpha) == 0:
        raise ValueError(
            f"alpha={problem.alpha!r}: must be a positive number, or one for each problem of a "
            "batch"
        )
    alpha = require_positive("alpha", problem.alpha)
    if is_torch_array(alpha):
        raise ValueError("alpha: is a torch tensor; an instance takes NumPy arrays")
    _require_tables("mdp.rewards", mdp.rewards, mdp.dynamics)
    _require_policy("expert", problem.expert, mdp.dynamics)
    _require_policy("policy", problem.policy, mdp.dynamics)
    try:
        problem.batch_shape  # noqa: B018 - it raises where they do not fit
    except ValueError:
        shapes = (
            f"mdp {mdp.batch_shape}, expert {problem.expert.batch_shape}, policy "
            f"{problem.policy.batch_shape}"
        )
        raise ValueError(
            f"batch axes do not broadcast: {shapes}, alpha {np.shape(problem.alpha)}"
        ) from None
    _require_responses(problem)
    _require_soft_optimal(problem, alpha)


def _require_policy(name: str, policy: Policy, dynamics: Dynamics) -> None:
    """Raise `ValueError` unless the policy is a distribution over what these dynamics allow."""
    if not dynamics.same_as(policy.dynamics):
        sizes = f"V={policy.dynamics.vocab_size}, layers {policy.dynamics.layer_sizes[:4]}…"
        own = f"V={dynamics.vocab_size}, layers {dynamics.layer_sizes[:4]}…"
        raise ValueError(
            f"{name}: has other dynamics ({sizes}) than mdp ({own}); build it on mdp.dynamics"
        )
    _require_tables(f"{name}.log_probs", policy.log_probs, dynamics, float("-inf"))
    _require_gauge(f"{name}.log_normalizers", policy)
    for h, (table, mask) in enumerate(zip(policy.log_probs, policy.dynamics.allowed, strict=True)):
        if (table == float("-inf")).all(axis=-1).any():
            raise ValueError(f"{name}.log_probs[{h}]: forbids every token of some state")
        if mask is not None and (table[..., ~mask] > float("-inf")).any():
            raise ValueError(
                f"{name}.log_probs[{h}]: a token that its dynamics forbid has probability; use "
                "-inf there"
            )


def _require_soft_optimal(problem: Problem, alpha: Array | float) -> None:
    """Raise `ValueError` unless the expert is the soft-optimal policy of the MDP, to rounding."""
    mdp = problem.mdp
    solved, values = soft_optimal(mdp, alpha)
    largest = max(float(np.abs(value).max()) for value in values) + max(map(abs, mdp.reward_range))
    tolerance = EXPERT_WITHIN * (1 + mdp.horizon * largest / np.asarray(alpha))
    reached = _reached(solved)
    tables = zip(problem.expert.log_probs, solved.log_probs, strict=True)
    for h, (given, exact) in enumerate(tables):
        with np.errstate(invalid="ignore"):
            apart = np.where(given == exact, 0.0, np.abs(given - exact))
        size = np.where(np.isfinite(exact), np.abs(exact), 0.0)
        wrong = (apart > expand(tolerance, 2) + EXPERT_WITHIN * size) & reached[h]
        if wrong.any():
            at = tuple(int(k) for k in np.argwhere(wrong)[0])
            got, want = (np.broadcast_to(x, wrong.shape)[at] for x in (given, exact))
            raise ValueError(
                f"expert: log π_E is {got:.6g} in layer {h} at {at}, and {want:.6g} of the policy "
                f"that is soft-optimal for mdp at alpha={np.ravel(problem.alpha)[0]:g}; give "
                "soft_optimal(mdp, alpha).policy"
            )


def _require_tables(
    name: str, tables: Sequence[Array], dynamics: Dynamics, exempt: float = 0.0
) -> None:
    """Raise `ValueError` unless there is a NumPy table for each layer, and all numbers are finite
    or `exempt`.
    """
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"{name} has {len(tables)} tables for a horizon of {dynamics.horizon}: one for each "
            "layer"
        )
    for h, table in enumerate(tables):
        if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
            raise ValueError(
                f"{name}[{h}]: is no NumPy array of real floating-point numbers, which an instance "
                "takes"
            )
        if table.shape[-2:] != (dynamics.layer_sizes[h], dynamics.vocab_size):
            wanted = (dynamics.layer_sizes[h], dynamics.vocab_size)
            raise ValueError(
                f"{name}[{h}] has shape {table.shape}: must end in {wanted}, states by tokens"
            )
        bad = ~np.isfinite(table) & ~(table == exempt)
        if bad.any():
            raise ValueError(
                f"{name}[{h}] holds {table[bad][0]} at {tuple(map(int, np.argwhere(bad)[0]))}"
            )


def _require_gauge(name: str, policy: Policy) -> None:
    """Raise `ValueError` unless there are no normalisers or one for each state of each layer, all
    of them finite.
    """
    gauge, sizes = policy.log_normalizers, policy.dynamics.layer_sizes
    if gauge is None:
        return
    if len(gauge) not in (len(sizes), len(sizes) + 1):
        raise ValueError(f"{name} has {len(gauge)} layers for a horizon of {len(sizes)}")
    for h, table in enumerate(gauge):
        if (
            not isinstance(table, np.ndarray)
            or table.dtype.kind != "f"
            or not np.isfinite(table).all()
        ):
            raise ValueError(f"{name}[{h}]: must be a NumPy array of finite numbers")
        if h < len(sizes) and table.shape[-1:] != sizes[h : h + 1]:
            raise ValueError(
                f"{name}[{h}] has shape {table.shape}: must end in {sizes[h]}, one for each state"
            )


def _require_responses(problem: Problem) -> None:
    """Raise `ValueError` unless chosen responses are tokens of the MDP, prompt by prompt and as
    many for each.
    """
    d = problem.mdp.dynamics
    for name in ("chosen_responses", "chosen_rl_response"):
        chosen = getattr(problem, name)
        if chosen is None:
            continue
        prompts, tokens = (np.asarray(x) for x in chosen)
        one = name == "chosen_rl_response"
        each = 1 if one else len(prompts) // d.n_prompts
        fits = (
            tokens.ndim >= 2
            and tokens.shape[-2:] == (len(prompts), d.horizon)
            and tokens.dtype.kind in "iu"
        )
        if not (fits and each and np.array_equal(prompts, np.repeat(np.arange(d.n_prompts), each))):
            what = f"prompts {prompts.shape}, tokens {tokens.dtype} {tokens.shape}"
            need = f"{'one response' if one else 'as many responses'} to each prompt, in order"
            raise ValueError(f"{name}: {what}; give {need}, integers (…, N, {d.horizon})")
        if tokens.min() < 0 or tokens.max() >= d.vocab_size:
            raise ValueError(
                f"{name}: holds tokens {tokens.min()} to {tokens.max()}; they are 0 to "
                f"{d.vocab_size - 1}"
            )


def _reached(policy: Policy) -> list[np.ndarray]:
    """States that a prompt of positive weight leads to with positive probability: ``(*batch, n_h,
    1)``, boolean.
    """
    dynamics, layers = policy.dynamics, []
    reached = np.broadcast_to(dynamics.prompt_weights > 0, policy.log_probs[0].shape[:-1])
    for h, table in enumerate(policy.log_probs):
        layers.append(reached[..., None])
        if h + 1 < policy.horizon:
            passed = (reached[..., None] & (table > float("-inf"))).astype(np.float64)
            reached = dynamics.push(h, passed) > 0
    return layers
