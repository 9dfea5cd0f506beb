"""Make one number of a response's rewards: every aggregation, its formula beside its code.

Needs no torch: what a finished run has stored is aggregated anew without its model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from theory.commands.options import Options, option

__all__ = [
    "FORMULAS",
    "Aggregation",
    "AggregationOptions",
    "Rewarded",
    "aggregate",
    "require_known",
]

Array: TypeAlias = NDArray[Any]

Aggregation = Literal[
    "sum",
    "mean",
    "logprob",
    "logprob_mean",
    "anchored",
    "lift",
    "discounted",
    "discounted_logprob",
    "clipped",
    "clipped_logprob",
]


class Rewarded(Protocol):
    """What is aggregated: a `llm_bridge.read.reward.Score`, or a line of ``responses.jsonl``."""

    @property
    def rewards(self) -> Array:
        """``r_h = r(s_h, a_h)`` of each token ``(n,)``."""

    @property
    def log_probs(self) -> Array:
        """``log π_h = log π(a_h|s_h)`` of each token ``(n,)``, nats."""

    @property
    def reward_sum(self) -> float:
        """``r(τ)``, telescoped in double precision."""

    @property
    def log_prob(self) -> float:
        """``log π(τ)``, nats."""


@dataclass(frozen=True)
class _Given:
    """What an aggregation reads besides the response; the names are those of `aggregate`."""

    alpha: float
    other_log_prob: float
    discount: float
    floor: float


def _discounted(rewards: Array, discount: float, floor: float = -math.inf) -> float:
    # the sum is rounded once, so that equal rewards have equal sums on every machine
    kept = np.maximum(np.asarray(rewards, dtype=float), floor)
    return math.fsum(discount ** np.arange(len(kept)) * kept)


def _log_rewards(y: Rewarded, given: _Given) -> Array:
    return given.alpha * np.asarray(y.log_probs, dtype=float)


FORMULAS: dict[Aggregation, tuple[str, Callable[[Rewarded, _Given], float]]] = {
    "sum": ("r(τ) = Σ r_h", lambda y, _: y.reward_sum),
    "mean": ("r(τ)/n", lambda y, _: y.reward_sum / len(y.rewards)),
    "logprob": ("α log π(τ)", lambda y, by: by.alpha * y.log_prob),
    "logprob_mean": (
        "α log π(τ)/n",
        lambda y, by: by.alpha * y.log_prob / len(y.log_probs),
    ),
    "anchored": (
        "α log π(τ|x)/π_ref(τ|x)",
        lambda y, by: by.alpha * (y.log_prob - by.other_log_prob),
    ),
    "lift": (
        "α log π(τ|x,c)/π(τ|x)",
        lambda y, by: by.alpha * (y.log_prob - by.other_log_prob),
    ),
    "discounted": (
        "Σ γ^{h−1} r_h",
        lambda y, by: _discounted(y.rewards, by.discount),
    ),
    "discounted_logprob": (
        "Σ γ^{h−1} α log π_h",
        lambda y, by: _discounted(_log_rewards(y, by), by.discount),
    ),
    "clipped": (
        "Σ γ^{h−1} max(r_h, m)",
        lambda y, by: _discounted(y.rewards, by.discount, by.floor),
    ),
    "clipped_logprob": (
        "Σ γ^{h−1} max(α log π_h, m)",
        lambda y, by: _discounted(_log_rewards(y, by), by.discount, by.floor),
    ),
}
"""Formula and function of each aggregation of a response `τ` of `n` tokens to a prompt `x`."""


def aggregate(
    how: Aggregation,
    response: Rewarded,
    alpha: float,
    *,
    other_log_prob: float | None = None,
    discount: float = 1.0,
    floor: float = -math.inf,
) -> float:
    """Return one number for a response, reward units; `FORMULAS` defines each.

    ``"sum"`` is the paper's ``r(τ)``; without soft values it is ``"logprob"``. The mean of rewards
    ranks responses of different lengths by the gauge: a constant added to all logits changes it,
    since ``V(s₁)`` is divided too; ``"logprob_mean"`` does not depend on it. So do discounted and
    clipped rewards, in which the soft values no longer cancel.

    Args:
        how: which aggregation.
        response: rewards of its tokens.
        alpha: temperature ``α``, reward units.
        other_log_prob: ``log π_ref(τ|x)`` for ``"anchored"``, the model's own ``log π(τ|x)``
            without the context `c` for ``"lift"``; nats.
        discount: `γ` of the discounted and clipped sums.
        floor: `m` of the clipped sums, reward units.

    Raises:
        ValueError: the aggregation is unknown, or reads a number that is not given.

    Example:
        >>> from types import SimpleNamespace as Namespace
        >>> logs = np.array([-1.0, -2.0])
        >>> y = Namespace(rewards=logs + 3, log_probs=logs, reward_sum=3.0, log_prob=-3.0)
        >>> aggregate("logprob_mean", y, 1.0), aggregate("discounted", y, 1.0, discount=0.5)
        (-1.5, 2.5)
        >>> aggregate("lift", y, 1.0, other_log_prob=-5.0)
        2.0

    """
    require_known(how)
    if other_log_prob is None and how in ("anchored", "lift"):
        raise ValueError(f"how={how!r} needs other_log_prob")
    other = math.nan if other_log_prob is None else other_log_prob
    return float(FORMULAS[how][1](response, _Given(alpha, other, discount, floor)))


def require_known(how: str) -> None:
    """Raise `ValueError` for what is no aggregation.

    Example:
        >>> require_known("max")
        Traceback (most recent call last):
        ValueError: how='max': must be one of 'sum', 'mean', 'logprob', 'logprob_mean', ...

    """
    if how not in FORMULAS:
        known = ", ".join(map(repr, get_args(Aggregation)))
        raise ValueError(f"how={how!r}: must be one of {known}")


@dataclass(frozen=True)
class AggregationOptions(Options):
    """Say which discounted and clipped sums are made besides the aggregations without parameters.

    Attributes:
        discount: factors `γ`, each with a sum of its own.
        floor: rewards below it count as `floor` in the clipped sums; `None` for no such sums.

    Example:
        >>> [name for name, _, _, _ in AggregationOptions(discount=(0.95,)).columns()]
        ['sum', 'mean', 'logprob', 'logprob_mean', 'discounted γ=0.95', 'discounted_logprob γ=0.95']

    """

    discount: tuple[float, ...] = option(
        (),
        help="also discounted sums Σ γ^(h−1) r_h, for each γ",
        above=0,
        high=1,
        may_be_empty=True,
    )
    floor: float | None = option(
        None,
        help="also clipped sums Σ γ^(h−1) max(r_h, floor); γ = 1 without --discount",
        low=-1e9,
        high=1e9,
        unit="reward units",
    )

    def columns(self, *others: Aggregation) -> Iterator[tuple[str, Aggregation, float, float]]:
        """Yield name, aggregation, discount and floor of each number that is made of a response.

        Args:
            others: ``"anchored"`` and ``"lift"``, where there is something to compare with.

        """
        floor = -math.inf if self.floor is None else self.floor
        plain: tuple[Aggregation, ...] = ("sum", "mean", "logprob", "logprob_mean", *others)
        for how in plain:
            yield how, how, 1.0, floor
        summed: tuple[Aggregation, ...] = ("discounted", "discounted_logprob")
        for discount in self.discount:
            for how in summed:
                yield f"{how} γ={discount:g}", how, discount, floor
        clipped: tuple[Aggregation, ...] = ("clipped", "clipped_logprob")
        for discount in (self.discount or (1.0,)) if self.floor is not None else ():
            for how in clipped:
                yield f"{how} γ={discount:g} m={floor:g}", how, discount, floor
