"""The main job: every statement on every group of instances, as one table and one report."""

from __future__ import annotations

import math
import multiprocessing
import os
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from theory.claims.discounted import DISCOUNTED_STATEMENTS, DiscountedInstance
from theory.claims.instance import POOL, Instance, single
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import VERDICTS, Statement, Summary, summarise_each
from theory.mdp.discounted import DiscountedMDP
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.discounted import soft_value_iteration
from theory.solve.discounted import worst_clone as discounted_worst_clone
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map
from theory.solve.worst_preference import preference_attaining_policy, worst_preference_pair
from theory.studies import gallery
from theory.studies.gallery import random_tree

__all__ = ["Group", "Row", "attained", "counts", "exact_groups", "render", "run", "worst_instances"]

SHAPES = tuple(
    (V, H, P)
    for V, H, P in (
        (2, 1, 1),
        (2, 3, 3),
        (3, 2, 1),
        (3, 4, 2),
        (2, 6, 1),
        (4, 3, 2),
        (4, 4, 1),
        (4, 5, 1),
    )
)
"""Vocabulary, horizon and prompts of the random token trees."""

FAMILY_HORIZONS = (2, 4, 16, 64)

DISCOUNTS = (0.5, 0.9, 0.99)

DISCOUNTED_ALPHAS = (0.3, 20.0)

DISCOUNTED_EPSILONS = (1e-2, 3.0)

MAX_DISCOUNTED = 64

ALPHAS = (0.05, 20.0)

EPSILONS = (1e-3, 3.0)


@dataclass(frozen=True)
class Group:
    """Instances that are reported together."""

    name: str
    instances: Sequence[Any]
    facts: dict[str, Any]
    """What a reader should know of them: printed above the table and kept in the report."""
    statements: tuple[Statement, ...] = STATEMENTS


@dataclass(frozen=True)
class Row:
    """One line of the table: a statement on a group."""

    group: str
    summary: Summary

    def as_dict(self) -> dict[str, Any]:
        """The row as plain numbers and text."""
        statement = self.summary.statement
        numbers = {
            f.name: getattr(self.summary, f.name)
            for f in fields(self.summary)
            if f.name != "statement"
        }
        return {
            "group": self.group,
            "statement": statement.name,
            "source": statement.source,
            "claim": statement.claim,
            "relation": "=" if statement.equality else "<=",
            "unit": statement.unit,
        } | numbers


def exact_groups(seed: int = 0, *, n_instances: int = 256) -> list[Group]:
    """Random token trees with a sampled policy and with the worst of the ball, the gallery's
    families, and the discounted statements on random window MDPs.

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
        drawn = Instance(mdp, expert, sample_log_ratio_ball(expert, epsilon, rng), alpha)
        sampled.append(_in_some_gauge(drawn, rng))
        adversarial += [
            _in_some_gauge(one, rng) for one in worst_instances(mdp, expert, alpha, epsilon)
        ]
    ranges = {"alpha": ALPHAS, "epsilon": EPSILONS, "shapes (V, H, prompts)": SHAPES}
    return [
        Group("random trees, sampled π̂", sampled, ranges),
        Group("random trees, worst π̂ of the ball", adversarial, ranges),
        Group("extremal families of the gallery", list(_families()), {"horizons": FAMILY_HORIZONS}),
        Group(
            "discounted, states that recur, worst π̂ of the ball",
            [_discounted(rng) for _ in range(min(n_instances, MAX_DISCOUNTED))],
            {
                "alpha": DISCOUNTED_ALPHAS,
                "epsilon": DISCOUNTED_EPSILONS,
                "discount": DISCOUNTS,
                "H": "1/(1 − discount)",
            },
            DISCOUNTED_STATEMENTS,
        ),
    ]


def worst_instances(
    mdp: TokenMDP, expert: Policy, alpha: np.ndarray, epsilon: np.ndarray
) -> list[Instance]:
    """For each adversary of the ball an instance with its policy: cloning, RL, divergence, and the
    worst pair.

    The worst pair is searched for where all responses to a prompt are compared (see
    `Instance.responses`).

    Args:
        mdp: token trees with one batch axis.
        expert: their soft-optimal policies.
        alpha: temperatures, ``batch``.
        epsilon: radii in nats, ``batch``.

    """
    mapped = worst_map(mdp, expert, epsilon)
    found = [
        Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, alpha),
        Instance(mdp, expert, mapped.policy, alpha, chosen_rl_response=mapped.responses),
        Instance(mdp, expert, worst_kl(expert, epsilon).policy, alpha),
    ]
    if mdp.vocab_size**mdp.horizon <= POOL:
        centre = Instance(mdp, expert, expert, alpha)
        policies = []
        for k, (a, eps) in enumerate(zip(alpha, epsilon, strict=True)):
            one = single(centre, k)
            _, first, second = worst_preference_pair(one.mdp, one.expert, eps, a)
            policies.append(preference_attaining_policy(one.mdp, one.expert, eps, a, first, second))
        tables = zip(*(policy.log_probs for policy in policies), strict=True)
        found.append(
            Instance(mdp, expert, Policy(mdp.dynamics, tuple(map(np.stack, tables))), alpha)
        )
    return found


def _in_some_gauge(instance: Instance, rng: np.random.Generator) -> Instance:
    """The instance with `π̂` read from logits of random normalisers: without, its reward is ``α log
    π̂`` and the rows on gauges compare a number with itself.
    """
    policy = instance.policy
    gauge = tuple(rng.normal(size=(*policy.batch_shape, n)) for n in policy.dynamics.layer_sizes)
    return replace(instance, policy=replace(policy, log_normalizers=gauge))


def _log_uniform(rng: np.random.Generator, interval: tuple[float, float], n: int) -> np.ndarray:
    low, high = interval
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def _families() -> Iterator[Instance]:
    """Instances of the gallery on which a bound is attained or approached, with the policy that
    does it.
    """
    for horizon in FAMILY_HORIZONS:
        for alpha, epsilon in ((1.0, 0.01), (1.0, 0.1), (0.4, 0.3)):
            yield gallery.swapped_pair(horizon, alpha, epsilon)
            yield gallery.randomised_response(horizon, alpha, epsilon)
            for mdp in (
                gallery.coin_payoff(horizon, alpha),
                gallery.majority_vote(horizon, alpha, epsilon),
            ):
                yield _with_worst_clone(mdp, alpha, epsilon)
        # where α is free the stepwise bound is approached, and nothing is left of the paper's
        # square
        alpha = max(math.sqrt(horizon), 1.0) / 0.01
        yield _with_worst_clone(gallery.majority_vote(horizon, alpha, 0.01), alpha, 0.01)
        yield gallery.indifferent_learner(horizon, 0.7)


def _discounted(rng: np.random.Generator) -> DiscountedInstance:
    """A random window MDP without end, and the policy of the ball that is worst for cloning."""
    V, size = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    mdp = DiscountedMDP.window(rng.random((V**size, V)), size, float(rng.choice(DISCOUNTS)))
    (alpha,), (epsilon,) = (
        _log_uniform(rng, DISCOUNTED_ALPHAS, 1),
        _log_uniform(rng, DISCOUNTED_EPSILONS, 1),
    )
    expert = soft_value_iteration(mdp, float(alpha)).policy
    worst = discounted_worst_clone(mdp, expert, float(epsilon)).policy
    return DiscountedInstance(mdp, worst, float(alpha), rng.normal(size=len(mdp.rewards)))


def _with_worst_clone(mdp: TokenMDP, alpha: float, epsilon: float) -> Instance:
    expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, alpha)


def run(groups: Sequence[Group], processes: int | None = None) -> list[Row]:
    """Check every statement on every group; progress is shown on a terminal only.

    Args:
        groups: the groups.
        processes: how many work at once, on groups of the known lists of statements; as many as
            there are processors by default.

    """
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ValueError(
            f"groups: two are called {max(names, key=names.count)!r}; rows go by the name of their "
            "group"
        )
    known = {id(STATEMENTS): "finite", id(DISCOUNTED_STATEMENTS): "discounted"}
    workers = min(
        processes or os.cpu_count() or 1, sum(id(group.statements) in known for group in groups)
    )
    if workers < 2:
        found = [summarise_each(group.statements, group.instances) for group in tqdm(groups, **BAR)]
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            # the longest first
            order = sorted(
                groups,
                key=lambda group: (
                    -sum(i.numbers * math.prod(i.batch_shape) for i in group.instances)
                ),
            )
            tasks = {
                id(group): pool.submit(_summaries, known[id(group.statements)], group.instances)
                for group in order
                if id(group.statements) in known
            }
            found = []
            for group in tqdm(groups, **BAR):
                if id(group) in tasks:
                    summaries = zip(group.statements, tasks[id(group)].result(), strict=True)
                    found.append(
                        [Summary(statement, **numbers) for statement, numbers in summaries]
                    )
                else:
                    found.append(summarise_each(group.statements, group.instances))
    return [
        Row(group.name, one)
        for group, summaries in zip(groups, found, strict=True)
        for one in summaries
    ]


BAR: dict[str, Any] = {"desc": "groups", "disable": None, "leave": False}


def _summaries(which: str, instances: Sequence[Any]) -> list[dict[str, Any]]:
    """In a process of its own: summaries as plain numbers, without the statements, which are
    functions.
    """
    statements = {"finite": STATEMENTS, "discounted": DISCOUNTED_STATEMENTS}[which]
    names = [f.name for f in fields(Summary) if f.name != "statement"]
    return [
        {name: getattr(s, name) for name in names} for s in summarise_each(statements, instances)
    ]


def render(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """The table as text: one block per group."""
    head = (
        f"{'statement':<24}{'source':<15}{'instances':>9}{'left/right':>12}{'slack':>11}  "
        f"{'verdict':<16}{'vacuous':>8}"
        f"{'in balls':>10}"
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
            vacuous = {0.0: "no", 1.0: "always"}.get(
                summary.vacuous_share, f"{summary.vacuous_share:.1%}"
            )
            if statement.ceiling is None or math.isnan(summary.vacuous_share):
                vacuous = "–"
            lines.append(
                f"{statement.name:<24}{statement.source:<15}{summary.instances:>9}{_ratio(summary):>12}"
                f"{_slack(summary):>11}  {summary.verdict:<16}{vacuous:>8}{summary.certified:>10}"
            )
        lines += _remarks(group, rows)
    return "\n".join(lines).lstrip("\n")


def _slack(summary: Summary) -> str:
    return f"{summary.smallest_slack:.2e}" if summary.instances else "–"


def _ratio(summary: Summary) -> str:
    """``left/right``; for an equality what balls bound the difference by."""
    number = summary.equal_within if summary.statement.equality else summary.worst_ratio
    if math.isnan(number):
        # the right side is nowhere positive, or an equality that was not evaluated in balls
        return "–"
    return (
        f"= to {10.0 ** math.ceil(math.log10(max(number, 1e-300))):.0e}"
        if summary.statement.equality
        else f"{number:.4g}"
    )


def attained(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """The largest ``left/right`` of each bound in each group, side by side, as text."""
    names = [f"({k + 1})" for k in range(len(groups))]
    lines = ["attained fraction of each bound, largest left/right"]
    lines += [f"  {name} {group.name}" for name, group in zip(names, groups, strict=True)]
    width = 2 + max(len(statement.claim) - _accents(statement.claim) for statement in STATEMENTS)
    lines.append(f"{'statement':<20}{'claim':<{width}}" + "".join(f"{name:>11}" for name in names))
    lines.append("-" * len(lines[-1]))
    summaries = {(row.group, row.summary.statement.name): row.summary for row in rows}
    for statement in (s for s in STATEMENTS if not s.equality):
        here = [summaries.get((group.name, statement.name)) for group in groups]
        shown = ["–" if summary is None else _ratio(summary) for summary in here]
        claim = f"{statement.claim:<{width + _accents(statement.claim)}}"
        lines.append(f"{statement.name:<20}{claim}" + "".join(f"{text:>11}" for text in shown))
    return "\n".join(lines)


def _accents(text: str) -> int:
    """Characters of `text` that take no room of their own."""
    return sum(map(bool, map(unicodedata.combining, text)))


def _remarks(group: Group, rows: Sequence[Row]) -> list[str]:
    """What the table alone would let a reader miss."""
    here = {row.summary.statement.name: row.summary for row in rows if row.group == group.name}
    vacuous = [name for name, summary in here.items() if summary.vacuous_share == 1.0]
    absent = [name for name, summary in here.items() if summary.verdict == "does not apply"]
    remarks = []
    for name, summary in here.items():
        for reason, count in summary.reasons.items():
            within = (
                f", equal to within {summary.equal_within:.0e}"
                if summary.equal_within < math.inf
                else ""
            )
            remarks.append(
                f"undecided on {count} of {summary.instances}: {name} ({reason}{within})"
            )
    if vacuous:
        remarks.append(f"vacuous here (each holds and says nothing): {', '.join(vacuous)}")
    if absent:
        remarks.append(f"assumptions met by no instance here: {', '.join(absent)}")
    return remarks


def counts(rows: Sequence[Row]) -> str:
    """How many rows have each verdict, as text; those that occur, and violations always."""
    found = [row.summary.verdict for row in rows]
    shown = [v for v in ("holds", "violated", *VERDICTS) if v == "violated" or v in found]
    words = {
        "holds": "hold",
        "violated": "violated",
        "undecided": "undecided",
        "does not apply": "do not apply",
    }
    return ", ".join(f"{found.count(v)} {words[v]}" for v in dict.fromkeys(shown))


def _show(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
