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
    """Raise `ValueError` unless the parts fit together and the expert is soft-optimal.

    Example:
        >>> from theory.studies.gallery import swapped_pair
        >>> validate(swapped_pair(4, alpha=1.0, epsilon=0.1))  # an `Instance` is a `Problem`

    """
    mdp = problem.mdp
    if isinstance(problem.alpha, str) or np.size(problem.alpha) == 0:
        raise ValueError(
            f"alpha={problem.alpha!r}: must be a positive number, or one for each problem of a "
            "batch"
        )
    alpha = require_positive("alpha", problem.alpha)
    if is_torch_array(alpha):
        raise ValueError("alpha: is a torch tensor; an instance takes NumPy arrays")
    _require_arrays("mdp.rewards", mdp.rewards, _table_shapes(mdp.dynamics))
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
    never = float("-inf")
    _require_arrays(f"{name}.log_probs", policy.log_probs, _table_shapes(dynamics), exempt=never)
    gauge = policy.log_normalizers
    if gauge is not None:
        of_layers = [(n,) for n in dynamics.layer_sizes]
        after_last = [()] if len(gauge) > len(of_layers) else []
        _require_arrays(f"{name}.log_normalizers", gauge, [*of_layers, *after_last])
    for h, (table, mask) in enumerate(zip(policy.log_probs, policy.dynamics.allowed, strict=True)):
        if (table == never).all(axis=-1).any():
            raise ValueError(f"{name}.log_probs[{h}]: forbids every token of some state")
        if mask is not None and (table[..., ~mask] > never).any():
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


def _table_shapes(dynamics: Dynamics) -> list[tuple[int, ...]]:
    return [(n, dynamics.vocab_size) for n in dynamics.layer_sizes]


def _require_arrays(
    name: str, arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]], exempt: float = 0.0
) -> None:
    """Raise `ValueError` unless there is a NumPy array for each shape, batch axes before it, and
    all numbers are finite or `exempt`.
    """
    if len(arrays) != len(shapes):
        raise ValueError(f"{name} has {len(arrays)} layers: must have {len(shapes)}, one for each")
    for h, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError(
                f"{name}[{h}]: is no NumPy array of real floating-point numbers, which an instance "
                "takes"
            )
        if array.shape[array.ndim - len(shape) :] != shape:
            raise ValueError(f"{name}[{h}] has shape {array.shape}: must end in {shape}")
        bad = ~np.isfinite(array) & ~(array == exempt)
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            raise ValueError(f"{name}[{h}] holds {array[bad][0]} at {at}")


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
        each = 1 if one else max(1, len(prompts) // d.n_prompts)
        fits = (
            tokens.shape[-2:] == (len(prompts), d.horizon)
            and tokens.dtype.kind in "iu"
            and np.array_equal(prompts, np.repeat(np.arange(d.n_prompts), each))
        )
        if not fits:
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
    dynamics = policy.dynamics
    layers = []
    reached = np.broadcast_to(dynamics.prompt_weights > 0, policy.log_probs[0].shape[:-1])
    for h, table in enumerate(policy.log_probs):
        layers.append(reached[..., None])
        if h + 1 < policy.horizon:
            passed = (reached[..., None] & (table > float("-inf"))).astype(np.float64)
            reached = dynamics.push(h, passed) > 0
    return layers
