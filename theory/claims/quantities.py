"""What a statement may ask of an instance, as types: a misspelt quantity is found by the type
checker.

`theory.claims.instance.Instance` (a finite horizon) and `theory.claims.discounted
.DiscountedInstance` (no horizon, a discount) both satisfy `Quantities`, so that one list of
statements serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np

from theory.arrays.namespace import Array

__all__ = ["Evaluable", "Quantities", "Unit"]

Unit = Literal["reward", "nats", "probability"]


class Evaluable(Protocol):
    """An instance, or a batch of them, whose quantities can be computed in any precision."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of every quantity."""

    @property
    def counts(self) -> np.ndarray:
        """Prompts (first states) that can occur, ``(P,)``, boolean: the axis after the batch's."""

    @property
    def numbers(self) -> int:
        """Rewards of one problem of the batch: the cost of an evaluation grows with it."""

    @property
    def horizon(self) -> Any:
        """Tokens `H` of a response, or ``1/(1−γ)``."""

    def __hash__(self) -> int:
        """Return a number by which the enclosures of this instance are kept."""

    def enclosed(self, bits: int) -> Self:
        """Return the instance whose quantities are enclosures, one for each prompt."""

    def take(self, index: Any) -> Self:
        """Return some problems of the batch, counted through it in C order."""

    def alike(self) -> Sequence[Self]:
        """Return batches that can each be evaluated at once, and together are this one."""


class Quantities(Evaluable, Protocol):
    """The quantities of an instance ``(r*, π_E, π̂, α)``, with and without a last token.

    Values are in reward units, divergences in nats, for each prompt (first state). A response's
    quantities have one more axis, a pair's one or two.
    """

    # the instance
    @property
    def temperature(self) -> Array:
        """`α`, reward units per nat."""

    @property
    def width(self) -> Any:
        """Width `R` of the reward range."""

    @property
    def expert(self) -> Any:
        """`π_E`, soft-optimal for `r*` at `α`."""

    @property
    def policy(self) -> Any:
        """`π̂`."""

    # values
    def regularised(self, policy: Any, /) -> Array:
        """``V^π_{r*,α}``: return plus `α` times the entropy."""

    @property
    def soft_value(self) -> Array:
        """``V*(s₁)``."""

    @property
    def expert_value(self) -> Array:
        """``V^{π_E}_{r*}``."""

    @property
    def best_value(self) -> Array:
        """``max_π V^π_{r*}``."""

    @property
    def clone_gap(self) -> Array:
        """``V^{π_E}_{r*} − V^{π̂}_{r*}``."""

    @property
    def return_range(self) -> Array:
        """Width of the range of the return: no gap in value can be more."""

    @property
    def rl_value(self) -> Array:
        """``V^{π_RL}_{r*}``, for `π_RL` that is greedy for `r̂`."""

    @property
    def rl_shortfall(self) -> Array:
        """How far `π_RL` is from the best for `r̂`, nats: rounding alone, unless it was given."""

    @property
    def anchored_value(self) -> Array:
        """``V^{π_β}_{r*}`` of KL-regularised RL on `r̂` at ``β = α``."""

    # distances between the policies
    @property
    def epsilon(self) -> Array:
        """``ε_π = max |log π_E − log π̂|``, nats."""

    @property
    def kl_to_expert(self) -> Array:
        """``KL(π̂‖π_E)``."""

    @property
    def kl_from_expert(self) -> Array:
        """``KL(π_E‖π̂)``."""

    @property
    def pinsker_tv(self) -> Array:
        """``√(KL(π̂‖π_E)/2)``, at most one."""

    def clone_bound(self, tv: Array, /) -> Array:
        """Bound of `clone_gap` that follows from a total variation of responses."""

    # responses
    @property
    def true_return(self) -> Array:
        """``r*(τ)``."""

    @property
    def telescoped(self) -> Array:
        """``α log π_E(τ) + V*(s₁)``."""

    @property
    def endogenous_return(self) -> Array:
        """``r̂(τ)``."""

    @property
    def endogenous_telescoped(self) -> Array:
        """``α log π̂(τ) + V̂(s₁)``."""

    @property
    def later_gauge(self) -> Array:
        """``Σ_{h≥2} V̂(s_h)``: what `endogenous_return` loses and gains again on its way."""

    @property
    def myopic_log_prob(self) -> Array:
        """``log π`` of the policy that is softmax of ``r̂/α`` and sees no further token."""

    @property
    def policy_log_prob(self) -> Array:
        """``log π̂``, minus infinity where it never writes."""

    @property
    def resolved_log_prob(self) -> Array:
        """``log π`` of the policy that is soft-optimal for `r̂`."""

    # pairs of responses
    @property
    def pair_tv(self) -> Array:
        """``|P_{r*} − P_{r̂}|``: error of the probability that one response is preferred."""

    @property
    def pair_counts(self) -> Any:
        """Pairs of different responses that can occur, boolean."""

    @property
    def diverging_steps(self) -> Array:
        """Tokens from the first that differs on: ``H − k``, or ``γ^k/(1−γ)``."""

    def over_pairs(self, values: Any, /) -> Array:
        """Shape a quantity of each prompt so that it broadcasts with pairs."""
