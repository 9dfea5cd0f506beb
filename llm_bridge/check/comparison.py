"""What the theory says of a model and an expert: every statement, the worst cases of the ball, and
how near they are.

Numbers are averages over prompts, each of which is an instance of its own. A bound is *vacuous* on
a prompt where it is no less than what its left side can never exceed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from theory.arrays.namespace import Array
from theory.claims.instance import VISITED, Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import BUDGET, Check, Summary, check, summarise_each
from theory.mdp.responses import greedy_response
from theory.solve.ball import SMALL_VOCABULARY
from theory.solve.reward import returns
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map

__all__ = ["SHARES", "Comparison", "Line", "compare", "within"]

SHARES = (0.5, 0.9, 0.99)
"""Shares of the expert's tokens, for quantiles of the log-ratio."""


@dataclass(frozen=True)
class Line:
    """A statement on all prompts.

    Attributes:
        quantity: its left side, as claimed.
        left: average over the prompts on which it applies; of pairs of responses, the largest of
            each prompt. NaN where there are none.
        right: likewise the bound.
        applies: share of prompts on which its assumptions hold.
        vacuous: share of these on which it says nothing; NaN for a claim that cannot be vacuous.
        verdict: the worst over all of these.
        undecided: why some are undecided; empty where none is.

    """

    name: str
    source: str
    claim: str
    quantity: str
    left: float
    right: float
    applies: float
    vacuous: float
    verdict: str
    undecided: str


@dataclass(frozen=True)
class Comparison:
    """A model against an expert.

    Attributes:
        prompts: number of them.
        lines: every statement.
        closeness: nats: `ε_π` of the whole tree and of the visited part (averages and largest),
            quantiles of the log-ratio of the expert's tokens, both divergences.
        gaps: ``V^{π_E} − V^π`` in plain value, reward units, for the policies by name; ``range of
            the return`` is the most that any of them can be.
        worst: for each radius by name, what the worst policy of that ball around the expert loses:
            the largest left sides of Theorem 2, reward units, and the largest divergence, nats; NaN
            where it is out of reach.
        out_of_reach: why, by name.

    """

    prompts: int
    lines: tuple[Line, ...]
    closeness: dict[str, float]
    gaps: dict[str, float]
    worst: dict[str, dict[str, float]]
    out_of_reach: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return asdict(self)


def compare(
    instances: Sequence[Instance], weights: Array | None = None, budget: float = BUDGET
) -> Comparison:
    """Compare on instances that are batches of problems of one prompt each, see
    `llm_bridge.check.exact.ModelInstance`.

    Args:
        instances: batches of problems.
        weights: of the prompts, over all instances: positive, of sum one; uniform by default.
        budget: see `theory.claims.verdict.summarise_each`.

    Raises:
        ValueError: there are no instances, or not as many weights as prompts.

    """
    instances = [part for instance in instances for part in instance.alike()]
    n = sum(math.prod(instance.batch_shape) for instance in instances)
    shares = np.full(n, 1 / max(n, 1)) if weights is None else np.asarray(weights, dtype=float)
    if shares.shape != (n,) or not ((shares > 0).all() and 0 < shares.sum() < np.inf):
        raise ValueError(f"weights={weights}: must be {n} positive numbers, one for each prompt")
    summaries = summarise_each(STATEMENTS, instances, budget)
    average = _Average(tuple(instances), shares / shares.sum())
    lines = tuple(_line(summary, average) for summary in summaries)
    worst, out_of_reach = _worst_cases(average)
    return Comparison(n, lines, _closeness(average), _gaps(average), worst, out_of_reach)


@dataclass(frozen=True, eq=False)
class _Average:
    """Averages over the prompts of all instances."""

    instances: tuple[Instance, ...]
    weights: Array

    def __call__(self, of: Callable[[Instance], Array]) -> float:
        """Of a quantity with one number for each prompt of an instance."""
        return self.of([of(instance) for instance in self.instances])

    def of(self, values: Sequence[Array]) -> float:
        """Of one array for each instance."""
        return float(np.concatenate([np.reshape(x, -1) for x in values]) @ self.weights)


def _line(summary: Summary, average: _Average) -> Line:
    statement = summary.statement
    columns = [_of_prompts(check(statement, instance)) for instance in average.instances]
    left, right, applies, vacuous = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    weights = average.weights[applies]

    def mean(values: Array) -> float:
        return float(values[applies] @ weights / weights.sum()) if len(weights) else math.nan

    says_nothing = math.nan if statement.ceiling is None else _share(vacuous[applies], weights)
    return Line(
        statement.name,
        statement.source,
        statement.claim,
        statement.claim.split(" ≤ ")[0].split(" = ")[0],
        mean(left),
        mean(right),
        _share(applies, average.weights),
        says_nothing,
        summary.verdict,
        "; ".join(f"{reason} on {count}" for reason, count in summary.reasons.items()),
    )


def _share(where: Array, weights: Array) -> float:
    """Share of the weights that are `where`: exactly 1 of all of them, NaN of none."""
    return math.fsum(weights[where]) / math.fsum(weights) if len(weights) else math.nan


def _of_prompts(found: Check) -> tuple[Array, ...]:
    """For each prompt the largest left and right side where the statement applies, whether it does,
    and is vacuous.
    """
    n = len(found.applies)
    left, right, applies, vacuous = (
        x.reshape(n, -1)
        for x in (found.left, found.right, found.applies | found.uncertain, found.vacuous)
    )
    largest = (np.where(applies, x, -np.inf).max(axis=1, initial=-np.inf) for x in (left, right))
    return (*largest, applies.any(axis=1), (vacuous | ~applies).all(axis=1))


def _closeness(average: _Average) -> dict[str, float]:
    quantiles = np.concatenate(
        [instance.log_ratio_quantiles(SHARES) for instance in average.instances]
    )
    found = {
        "ε_π": average(lambda i: i.epsilon),
        "ε_π, largest of a prompt": max(
            float(np.max(instance.epsilon)) for instance in average.instances
        ),
        f"ε of tokens in {VISITED:g} of the responses": average(lambda i: i.epsilon_visited),
    }
    found |= within(average.weights @ quantiles)
    found["KL(π_E‖π̂)"] = average(lambda i: i.kl_from_expert)
    return found | {"KL(π̂‖π_E)": average(lambda i: i.kl_to_expert)}


def within(quantiles: Array) -> dict[str, float]:
    """Quantiles at `SHARES` of the log-ratio of the expert's tokens, by name."""
    return {
        f"{share:.0%} of the expert's tokens within": float(x)
        for share, x in zip(SHARES, quantiles, strict=True)
    }


def _gaps(average: _Average) -> dict[str, float]:
    return {
        "sampling π̂": average(lambda i: i.clone_gap),
        "greedy decoding": average(
            lambda i: i.expert_value - _return(i, greedy_response(i.policy))
        ),
        "π̂², the anchored optimum at β = α": average(lambda i: i.expert_value - i.anchored_value),
        "π_RL, the most probable response": average(lambda i: i.expert_value - i.rl_value),
        "best policy": average(lambda i: i.expert_value - i.best_value),
        "range of the return": average(lambda i: i.return_range),
    }


def _return(instance: Instance, responses: Any) -> Array:
    return instance.mdp.dynamics.average(returns(instance.mdp, responses))


def _worst_cases(average: _Average) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The exact worst policies of three balls: of radius `ε_π`, of the visited part's, of the
    median log-ratio's.
    """
    radii: dict[str, Callable[[Instance], Array]] = {
        "ε_π": lambda i: i.epsilon,
        "ε visited": lambda i: i.epsilon_visited,
        "median": lambda i: i.log_ratio_quantiles((0.5,))[..., 0],
    }
    worst: dict[str, dict[str, float]] = {}
    out_of_reach: dict[str, str] = {}
    for name, radius in radii.items():
        found = [_worst(i, np.maximum(radius(i), 1e-12), out_of_reach) for i in average.instances]
        worst[name] = {key: average.of([one[key] for one in found]) for key in found[0]}
    return worst, out_of_reach


def _worst(instance: Instance, epsilon: Array, out_of_reach: dict[str, str]) -> dict[str, Array]:
    """For each prompt the radius, and the largest left sides of Theorem 2 in the ball."""
    mdp, expert, average = instance.mdp, instance.expert, instance.mdp.dynamics.average
    nothing = np.full(epsilon.shape, np.nan)
    found = {
        "radius": epsilon,
        "cloning": instance.expert_value - average(worst_clone(mdp, expert, epsilon).values[0]),
    }
    try:
        least = average(worst_map(mdp, expert, epsilon).returns)
    except ValueError as error:
        out_of_reach["RL"], least = str(error), nothing
    found |= {
        "RL, against π_E": instance.expert_value - least,
        "RL, against the best": instance.best_value - least,
    }
    if mdp.vocab_size <= SMALL_VOCABULARY:
        kl = average(worst_kl(expert, epsilon).values[0])
    else:
        out_of_reach["KL(π̂‖π_E)"], kl = (
            f"{mdp.vocab_size} tokens; at most {SMALL_VOCABULARY}",
            nothing,
        )
    return found | {"KL(π̂‖π_E)": kl}
