"""The main job: every statement on every group of instances, as one table and one report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from theory.adversary import worst_clone, worst_map
from theory.files import replacing
from theory.gallery import coin_payoff, random_tree, swapped_pair
from theory.instance import Instance
from theory.policy import sample_log_ratio_ball
from theory.soft import soft_optimal
from theory.statements import STATEMENTS
from theory.verdict import Summary, summarise

__all__ = ["Group", "Row", "exact_groups", "render", "run", "write_json"]

SHAPES = tuple(
    (V, H, P) for V, H, P in ((2, 1, 1), (2, 3, 3), (3, 2, 1), (3, 4, 2), (2, 6, 1), (4, 3, 2), (4, 4, 1), (4, 5, 1))
)
"""Vocabulary, horizon and prompts of the random token trees."""

ALPHAS = (0.05, 20.0)
EPSILONS = (1e-3, 3.0)


@dataclass(frozen=True)
class Group:
    """Instances that are reported together."""

    name: str
    instances: Sequence[Instance]
    facts: dict[str, Any]
    """What a reader should know of them: printed above the table and kept in the report."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a statement on a group."""

    group: str
    summary: Summary

    def as_dict(self) -> dict[str, Any]:
        """The row as plain numbers and text."""
        statement = self.summary.statement
        numbers = {f.name: getattr(self.summary, f.name) for f in fields(self.summary) if f.name != "statement"}
        return {
            "group": self.group,
            "statement": statement.name,
            "source": statement.source,
            "claim": statement.claim,
            "relation": "=" if statement.equality else "<=",
            "unit": statement.unit,
        } | numbers


def exact_groups(seed: int = 0, *, n_instances: int = 256) -> list[Group]:
    """Random token trees with a sampled policy, with the worst clone of the ball, and the gallery's families.

    Args:
        seed: seed of rewards, temperatures, radii and policies.
        n_instances: how many random instances of each kind, at least one per shape.
    """
    rng = np.random.default_rng(seed)
    batch = max(1, math.ceil(n_instances / len(SHAPES)))
    sampled, adversarial = [], []
    for V, H, P in SHAPES:
        mdp = random_tree(V, H, n_prompts=P, batch=(batch,), seed=rng)
        alpha = _log_uniform(rng, ALPHAS, batch)
        epsilon = _log_uniform(rng, EPSILONS, batch)
        expert = soft_optimal(mdp, alpha).policy
        sampled.append(Instance(mdp, expert, sample_log_ratio_ball(expert, epsilon, rng), alpha))
        adversarial.append(Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, alpha))
        adversarial.append(Instance(mdp, expert, worst_map(mdp, expert, epsilon).policy, alpha))
    ranges = {"alpha": ALPHAS, "epsilon": EPSILONS, "shapes (V, H, prompts)": SHAPES}
    return [
        Group("random trees, sampled π̂", sampled, ranges),
        Group("random trees, worst π̂ of the ball", adversarial, ranges),
        Group("coin–payoff and swapped pair", list(_families()), {"horizons": (4, 16, 64), "alpha": 1.0}),
    ]


def _log_uniform(rng: np.random.Generator, interval: tuple[float, float], n: int) -> np.ndarray:
    low, high = interval
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def _families() -> Iterator[Instance]:
    for H in (4, 16, 64):
        for epsilon in (0.01, 0.1):
            mdp = coin_payoff(H, 1.0)
            expert = soft_optimal(mdp, 1.0).policy
            yield Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, 1.0)
            yield swapped_pair(H, 1.0, epsilon)


def run(groups: Sequence[Group]) -> list[Row]:
    """Check every statement on every group; progress is shown on a terminal only."""
    rows = []
    with tqdm(total=len(groups) * len(STATEMENTS), desc="statements", disable=None, leave=False) as progress:
        for group in groups:
            for statement in STATEMENTS:
                summary = summarise(statement, group.instances)
                if summary is not None:
                    rows.append(Row(group.name, summary))
                progress.update()
    return rows


def render(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """The table as text: one block per group."""
    head = (
        f"{'statement':<24}{'source':<15}{'instances':>9}{'left/right':>12}{'slack':>11}  {'verdict':<10}{'vacuous':>8}"
    )
    lines = []
    for group in groups:
        lines += [
            "",
            group.name,
            *(f"  {key}: {_show(value)}" for key, value in group.facts.items()),
            head,
            "-" * len(head),
        ]
        for summary in (row.summary for row in rows if row.group == group.name):
            statement = summary.statement
            ratio = "equal" if statement.equality else f"{summary.worst_ratio:.4g}"
            ratio = "–" if ratio == "nan" else ratio  # the right side is nowhere positive
            vacuous = {0.0: "no", 1.0: "always"}.get(summary.vacuous_share, f"{summary.vacuous_share:.1%}")
            if statement.ceiling is None:
                vacuous = "–"
            lines.append(
                f"{statement.name:<24}{statement.source:<15}{summary.instances:>9}{ratio:>12}"
                f"{summary.smallest_slack:>11.2e}  {summary.verdict:<10}{vacuous:>8}"
            )
        lines += _remarks(group, rows)
    return "\n".join(lines).lstrip("\n")


def _remarks(group: Group, rows: Sequence[Row]) -> list[str]:
    """What the table alone would let a reader miss."""
    here = {row.summary.statement.name: row.summary for row in rows if row.group == group.name}
    vacuous = [name for name, summary in here.items() if summary.vacuous_share == 1.0]
    absent = [statement.name for statement in STATEMENTS if statement.name not in here]
    remarks = []
    if vacuous:
        remarks.append(f"vacuous here (each holds and says nothing): {', '.join(vacuous)}")
    if absent:
        remarks.append(f"assumptions met by no instance here: {', '.join(absent)}")
    return remarks


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report; the file appears whole or not at all. What is not finite is written as text (``"inf"``)."""
    text = json.dumps(_plain(report), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())


def _plain(value: Any) -> Any:
    """`value` with NumPy scalars and arrays as Python numbers and lists, and non-finite numbers as text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _show(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
