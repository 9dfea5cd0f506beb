"""What the theory says of a model and an expert: every statement, the worst cases of the ball, and how near they are.

Numbers are averages over prompts, each of which is an instance of its own. A bound is *vacuous* on a prompt where it
is no less than what its left side can never exceed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from theory.adversary import SMALL_VOCABULARY, worst_clone, worst_kl, worst_map
from theory.arrays import Array
from theory.instance import VISITED, Instance
from theory.policy import greedy_response, plain_value
from theory.reward import returns
from theory.soft import power_policy
from theory.statements import STATEMENTS
from theory.verdict import Statement, check, summarise

__all__ = ["SHARES", "Comparison", "Line", "compare", "within"]

SHARES = (0.5, 0.9, 0.99)
"""Shares of the expert's tokens, for quantiles of the log-ratio."""


@dataclass(frozen=True)
class Line:
    """A statement on all prompts.

    Attributes:
        quantity: its left side, as claimed.
        left: average over prompts; of pairs of responses, the largest of each prompt.
        right: likewise the bound.
        applies: share of prompts on which its assumptions hold.
        vacuous: share of these on which it says nothing; NaN for a claim that cannot be vacuous.
        verdict: over all of these; ``"–"`` where there are none.

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


@dataclass(frozen=True)
class Comparison:
    """A model against an expert.

    Attributes:
        prompts: number of them.
        lines: every statement.
        closeness: nats: `ε_π` of the whole tree and of the visited part (averages and largest), quantiles of the
            log-ratio of the expert's tokens, both divergences.
        gaps: ``V^{π_E} − V^π`` in plain value, reward units, for the policies by name; ``range of the return`` is the
            most that any of them can be.
        worst: for each radius by name, what the worst policy of that ball around the expert loses: the largest left
            sides of Theorem 2, reward units, and the largest divergence, nats; NaN where it is out of reach.
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


def compare(instances: Sequence[Instance]) -> Comparison:
    """Compare on instances that are batches of problems of one prompt each, see `llm_bridge.checks.ModelInstance`."""
    lines = tuple(_line(statement, instances) for statement in STATEMENTS)
    worst, out_of_reach = _worst_cases(instances)
    n = sum(math.prod(instance.batch_shape) for instance in instances)
    return Comparison(n, lines, _closeness(instances), _gaps(instances), worst, out_of_reach)


def _line(statement: Statement, instances: Sequence[Instance]) -> Line:
    found = [check(statement, instance) for instance in instances]
    left, right, applies, vacuous = (
        np.concatenate([_of_prompts(getattr(one, name), reduce) for one in found])
        for name, reduce in (("left", np.max), ("right", np.max), ("applies", np.any), ("vacuous", np.all))
    )
    summary = summarise(statement, instances)
    some = applies.any()
    return Line(
        statement.name, statement.source, statement.claim, statement.claim.split(" ≤ ")[0].split(" = ")[0],
        float(left.mean()), float(right.mean()), float(applies.mean()),
        float(vacuous[applies].mean()) if some and statement.ceiling is not None else math.nan,
        "–" if summary is None else summary.verdict,
    )  # fmt: skip


def _of_prompts(values: Array, reduce: Callable[..., Any]) -> Array:
    """One number for each prompt of a batch, from ``(P,)`` or, of pairs, ``(P, …)``."""
    found: Array = reduce(values.reshape(len(values), -1), axis=-1)
    return found


def _average(instances: Sequence[Instance], of: Callable[[Instance], Array]) -> float:
    return float(np.concatenate([np.atleast_1d(of(instance)) for instance in instances]).mean())


def _closeness(instances: Sequence[Instance]) -> dict[str, float]:
    quantiles = np.concatenate([instance.log_ratio_quantiles(SHARES) for instance in instances]).mean(axis=0)
    found = {
        "ε_π": _average(instances, lambda i: i.epsilon),
        "ε_π, largest of a prompt": max(float(np.max(instance.epsilon)) for instance in instances),
        f"ε of tokens in {VISITED:g} of the responses": _average(instances, lambda i: i.epsilon_visited),
    }
    found |= within(quantiles)
    found["KL(π_E‖π̂)"] = _average(instances, lambda i: i.kl_from_expert)
    return found | {"KL(π̂‖π_E)": _average(instances, lambda i: i.kl_to_expert)}


def within(quantiles: Array) -> dict[str, float]:
    """Quantiles at `SHARES` of the log-ratio of the expert's tokens, by name."""
    return {f"{share:.0%} of the expert's tokens within": float(x) for share, x in zip(SHARES, quantiles, strict=True)}


def _gaps(instances: Sequence[Instance]) -> dict[str, float]:
    return {
        "sampling π̂": _average(instances, lambda i: i.clone_gap),
        "greedy decoding": _average(instances, lambda i: i.expert_value - _return(i, greedy_response(i.policy))),
        "π̂², the anchored optimum at β = α": _average(
            instances, lambda i: i.expert_value - plain_value(i.mdp, power_policy(i.policy, 2.0))
        ),
        "π_RL, the most probable response": _average(instances, lambda i: i.expert_value - i.rl_value),
        "best policy": _average(instances, lambda i: i.expert_value - i.best_value),
        "range of the return": _average(instances, lambda i: i.return_range),
    }


def _return(instance: Instance, responses: Any) -> Array:
    return instance.mdp.dynamics.average(returns(instance.mdp, responses))


def _worst_cases(instances: Sequence[Instance]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The exact worst policies of three balls: of radius `ε_π`, of the visited part's, of the median log-ratio's."""
    radii: dict[str, Callable[[Instance], Array]] = {
        "ε_π": lambda i: i.epsilon,
        "ε visited": lambda i: i.epsilon_visited,
        "median": lambda i: i.log_ratio_quantiles((0.5,))[..., 0],
    }
    worst: dict[str, dict[str, float]] = {}
    out_of_reach: dict[str, str] = {}
    for name, radius in radii.items():
        found = [_worst(instance, np.maximum(radius(instance), 1e-12), out_of_reach) for instance in instances]
        worst[name] = {key: float(np.concatenate([one[key] for one in found]).mean()) for key in found[0]}
    return worst, out_of_reach


def _worst(instance: Instance, epsilon: Array, out_of_reach: dict[str, str]) -> dict[str, Array]:
    """For each prompt the radius, and the largest left sides of Theorem 2 in the ball."""
    mdp, expert, average = instance.mdp, instance.expert, instance.mdp.dynamics.average
    nothing = np.full(epsilon.shape, np.nan)
    found = {"radius": epsilon, "cloning": instance.expert_value - average(worst_clone(mdp, expert, epsilon).values[0])}
    try:
        least = average(worst_map(mdp, expert, epsilon).returns)
    except ValueError as error:
        out_of_reach["RL"], least = str(error), nothing
    found |= {"RL, against π_E": instance.expert_value - least, "RL, against the best": instance.best_value - least}
    if mdp.vocab_size <= SMALL_VOCABULARY:
        kl = average(worst_kl(expert, epsilon).values[0])
    else:
        out_of_reach["KL(π̂‖π_E)"], kl = f"{mdp.vocab_size} tokens; at most {SMALL_VOCABULARY}", nothing
    return found | {"KL(π̂‖π_E)": kl}
