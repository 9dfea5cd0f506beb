"""What the theory says of a model and an expert: every statement, the worst cases of the ball, and
how near they are.

Numbers are averages over prompts, each of which is an instance of its own. A bound is *vacuous* on
a prompt where it is no less than what its left side can never exceed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.arrays.namespace import Array
from theory.claims.findings import BUDGET, Finding, decide_each
from theory.claims.instance import VISITED, Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.responses import greedy_response
from theory.solve.ball import SMALL_VOCABULARY
from theory.solve.reward import returns
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map
from theory.storage.files import ascii_keys

__all__ = ["BEYOND", "SHARES", "Comparison", "compare", "within"]

SHARES = (0.5, 0.9, 0.99)
"""Shares of the expert's tokens, for quantiles of the log-ratio."""

BEYOND = np.geomspace(1.0, 1e-5, 61)[1:]
"""Shares of the expert's tokens, for the curve of the log-ratio that so many exceed."""


@dataclass(frozen=True)
class Comparison:
    """A model against an expert.

    Attributes:
        prompts: number of them.
        findings: every statement, one each.
        closeness: nats: `ε_π` of the whole tree and of the visited part (averages and largest),
            quantiles of the log-ratio of the expert's tokens, both divergences.
        gaps: ``V^{π_E} − V^π`` in plain value, reward units, for the policies by name; ``range of
            the return`` is the most that any of them can be.
        worst: for each radius by name, what the worst policy of that ball around the expert loses:
            the largest left sides of Theorem 2, reward units, and the largest divergence, nats; NaN
            where it is out of reach.
        out_of_reach: why, by name.
        exceeded: log-ratio that a share of `BEYOND` of the expert's tokens exceeds, nats; average
            over the prompts.

    """

    prompts: int
    findings: tuple[Finding, ...]
    closeness: dict[str, float]
    gaps: dict[str, float]
    worst: dict[str, dict[str, float]]
    out_of_reach: dict[str, str]
    exceeded: Array

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text; findings by the statement's name."""
        arrays = ("findings", "exceeded")
        found = {name: value for name, value in vars(self).items() if name not in arrays}
        statements = {x.statement.name: x.as_dict() for x in self.findings}
        spelled: dict[str, Any] = ascii_keys(found)
        return spelled | {"statements": statements}


def compare(
    instances: Sequence[Instance], weights: Array | None = None, budget: float = BUDGET
) -> Comparison:
    """Compare on instances that are batches of problems of one prompt each, see
    `llm_bridge.check.exact.ModelInstance`.

    Args:
        instances: batches of problems.
        weights: of the prompts, over all instances: positive, of sum one; uniform by default.
        budget: see `theory.claims.findings.decide_each`.

    Raises:
        ValueError: there are no instances, or not as many weights as prompts.

    Example:
        >>> from theory.mdp.token_mdp import TokenMDP
        >>> from theory.solve.soft import soft_optimal
        >>> mdp = TokenMDP.random(2, 2, batch=(3,), seed=0)
        >>> expert, policy = (soft_optimal(mdp, alpha).policy for alpha in (1.0, 2.0))
        >>> found = compare([Instance(mdp, expert, policy, 1.0)])
        >>> found.prompts, sorted({finding.verdict for finding in found.findings})
        (3, ['does not apply', 'holds'])

    """
    instances = [part for instance in instances for part in instance.alike()]
    n = sum(math.prod(instance.batch_shape) for instance in instances)
    shares = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    findings = decide_each(STATEMENTS, instances, budget, weights=shares)
    average = _Average(tuple(instances), shares / shares.sum())
    worst, out_of_reach = _worst_cases(average)
    return Comparison(
        n,
        tuple(findings),
        _closeness(average),
        _gaps(average),
        worst,
        out_of_reach,
        average.quantiles(list(1 - BEYOND)),
    )


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

    def quantiles(self, shares: Sequence[float]) -> Array:
        """Of the log-ratio of the expert's tokens, ``(len(shares),)``, nats."""
        each = [instance.log_ratio_quantiles(shares) for instance in self.instances]
        return self.weights @ np.concatenate([np.reshape(x, (-1, len(shares))) for x in each])


def _closeness(average: _Average) -> dict[str, float]:
    found = {
        "ε_π": average(lambda i: i.epsilon),
        "ε_π, largest of a prompt": max(
            float(np.max(instance.epsilon)) for instance in average.instances
        ),
        f"ε of tokens in {VISITED:g} of the responses": average(lambda i: i.epsilon_visited),
    }
    found |= within(average.quantiles(SHARES))
    found["KL(π_E‖π̂)"] = average(lambda i: i.kl_from_expert)
    return found | {"KL(π̂‖π_E)": average(lambda i: i.kl_to_expert)}


def within(quantiles: Array) -> dict[str, float]:
    """Return the quantiles at `SHARES` of the log-ratio of the expert's tokens, by name.

    Example:
        >>> within(np.array([0.1, 0.5, 2.0]))["90% of the expert's tokens within"]
        0.5

    """
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
    mdp = instance.mdp
    expert = instance.expert
    average = instance.mdp.dynamics.average
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
    kl = nothing
    if mdp.vocab_size <= SMALL_VOCABULARY:
        kl = average(worst_kl(expert, epsilon).values[0])
    else:
        out_of_reach["KL(π̂‖π_E)"] = f"{mdp.vocab_size} tokens; at most {SMALL_VOCABULARY}"
    return found | {"KL(π̂‖π_E)": kl}
