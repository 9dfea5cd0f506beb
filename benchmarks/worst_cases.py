"""Every statement on 10,000 random instances, each at its exact worst case, and every adversary
against its oracles.

    python benchmarks/worst_cases.py [--instances 10000] [--seed 0] [--out out/worst_cases.json]

Instances: token trees with V from 2 to 4 and H from 1 to 5, rewards uniform, 0/1 or sparse, α from
0.05 to 20 and ε from 1e-3 to 3, both log-uniform. On each: sampled policies of the ball against
each adversary; the cloning adversary against a linear program over path probabilities; all
statements, with sampled and with worst policies.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import OptimizeWarning, linprog
from scipy.sparse import coo_array
from tqdm import tqdm

from theory.claims.findings import decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.distances import kl
from theory.mdp.responses import map_response, sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.reports.report import Column, Report, Table
from theory.solve.reward import returns
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map
from theory.studies.groups import worst_instances

SHAPES = [(V, H) for V in (2, 3, 4) for H in (1, 2, 3, 4, 5)]
BATCH = 32
AGREE = 1e-9
LONGEST = f"worst, H={SHAPES[-1][1]}"
HIGHS = {
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
    # by default coefficients below 1e-9 are read as zero; probabilities are smaller
    "small_matrix_value": 1e-12,
}


def random_problems(rng, V, H, batch):
    """A batch of trees with rewards of three kinds, with temperatures and radii."""
    kinds = rng.integers(3, size=(batch, 1, 1))
    rewards = []
    for h in range(H):
        u, coin = rng.random((batch, V**h, V)), rng.random((batch, V**h, V))
        rewards.append(
            np.where(
                kinds == 0, u, np.where(kinds == 1, (u < 0.5) * 1.0, np.where(coin < 0.15, u, 0.0))
            )
        )
    alpha = np.exp(rng.uniform(math.log(0.05), math.log(20.0), batch))
    epsilon = np.exp(rng.uniform(math.log(1e-3), math.log(3.0), batch))
    return TokenMDP.tree(rewards), alpha, epsilon


def tree_program(rewards, probs, epsilon):
    """Least plain value over the ball as one linear program.

    Its variables are ``y(s,a) = P̂(s,a)/P(s,a)``, the probability of each prefix over the expert's,
    so that they are of one size: ``e^{−ε} y(s) ≤ y(s,a) ≤ e^ε y(s)``, ``Σ_a p(a|s) y(s,a) = y(s)``,
    and the cost is ``Σ P(s,a) r(s,a) y``.
    """
    V, cat = rewards[0].shape[-1], np.concatenate
    sizes = np.array([table.size for table in rewards])
    start = cat([[0], np.cumsum(sizes)])
    inside = np.arange(
        start[1], start[-1]
    )  # variables with a parent variable: all but the first layer's
    parent = cat(
        [[], *(start[h - 1] + np.arange(sizes[h]) // V for h in range(1, len(sizes)))]
    ).astype(int)
    n = len(inside)
    rows = cat([np.arange(n), np.arange(n), n + np.arange(n), n + np.arange(n)])
    columns = cat([inside, parent, inside, parent])
    values = cat(
        [np.ones(n), np.full(n, -np.exp(epsilon)), -np.ones(n), np.full(n, np.exp(-epsilon))]
    )
    states = np.arange(start[-1]) // V  # of all layers, in order; state k > 0 is variable k − 1
    equal = coo_array(
        (
            cat([cat([table.reshape(-1) for table in probs]), -np.ones(len(parent) // V)]),
            (
                cat([states, np.arange(1, states[-1] + 1)]),
                cat([np.arange(start[-1]), np.arange(states[-1])]),
            ),
        ),
        (states[-1] + 1, start[-1]),
    )
    right = np.zeros(states[-1] + 1)
    right[0] = 1.0
    bounds = np.tile([0.0, np.inf], (start[-1], 1))
    bounds[: sizes[0]] = np.exp(-epsilon), np.exp(epsilon)
    reach, cost = np.ones((1, 1)), []
    for r, p in zip(rewards, probs, strict=True):
        mass = reach.reshape(-1, 1) * p
        cost.append((mass * r).reshape(-1))
        reach = mass
    return least(
        cat(cost),
        A_ub=coo_array((values, (rows, columns)), (2 * n, start[-1])) if n else None,
        b_ub=np.zeros(2 * n) if n else None,
        A_eq=equal,
        b_eq=right,
        bounds=bounds,
    )


def state_programs(rewards, probs, epsilon):
    """The same by backward induction, one small linear program a state: for trees on which one
    program is ill-scaled.

    Over many layers ``y`` spans ``e^{±Hε}``, and HiGHS meets constraints to an absolute tolerance.
    """
    value = np.zeros(rewards[-1].size)
    for r, p in zip(reversed(rewards), reversed(probs), strict=True):
        cost = r + value.reshape(r.shape)
        low_high = np.tile([np.exp(-epsilon), np.exp(epsilon)], (r.shape[-1], 1))
        value = np.array(
            [
                least(q * c, A_eq=q[None], b_eq=[q.sum()], bounds=low_high)
                for q, c in zip(p, cost, strict=True)
            ]
        )
    return value[0]


def least(cost, **constraints):
    """Least value of a linear program."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", OptimizeWarning
        )  # SciPy hands small_matrix_value on and says it knows it not
        solved = linprog(cost, method="highs", options=HIGHS, **constraints)
    return solved.fun if solved.status == 0 else math.nan


def against_oracles(mdp, expert, epsilon, rng, programs):
    """Largest amount by which a sampled policy beats an adversary, and by which a linear program
    differs.
    """
    clone, mapped, far = (
        worst_clone(mdp, expert, epsilon),
        worst_map(mdp, expert, epsilon),
        worst_kl(expert, epsilon),
    )
    lowest = mdp.dynamics.average(clone.values[0])
    beaten = []
    for spread in (0.5, 1.0, 4.0, 20.0):
        member = sample_log_ratio_ball(expert, epsilon, rng, spread)
        beaten += [
            np.max(lowest - plain_value(mdp, member)),
            np.max(mapped.returns - returns(mdp, map_response(member))),
            np.max(kl(member, expert) - mdp.dynamics.average(far.values[0])),
        ]
    apart, again = 0.0, 0
    for k in range(programs):
        problem = (
            [r[k] for r in mdp.rewards],
            [np.exp(t[k]) for t in expert.log_probs],
            float(epsilon[k]),
        )
        found = tree_program(*problem)
        if not abs(found - lowest[k]) <= AGREE:
            found, again = state_programs(*problem), again + 1
        apart = max(apart, abs(found - lowest[k])) if not math.isnan(found) else math.nan
    return max(beaten), apart, again


def main():
    """Run, write the numbers, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/worst_cases.json"))
    arguments = parser.parse_args()
    started, rng = time.monotonic(), np.random.default_rng(arguments.seed)
    rounds = math.ceil(arguments.instances / BATCH)
    groups: dict[str, list[Instance]] = {"sampled": [], "worst": []}
    results: dict[tuple[str, str], dict] = {}
    beaten, apart, resolved, count = -math.inf, 0.0, 0, 0
    for k in tqdm(range(rounds), disable=None):
        V, H = SHAPES[k % len(SHAPES)]
        mdp, alpha, epsilon = random_problems(rng, V, H, BATCH)
        expert = soft_optimal(mdp, alpha).policy
        excess, difference, again = against_oracles(mdp, expert, epsilon, rng, BATCH)
        beaten, apart = max(beaten, excess), max(apart, difference)
        resolved, count = resolved + again, count + BATCH
        groups["sampled"] = [
            Instance(mdp, expert, sample_log_ratio_ball(expert, epsilon, rng), alpha)
        ]
        groups["worst"] = worst_instances(mdp, expert, alpha, epsilon)
        for group, instances in groups.items():
            for summary in decide_each(STATEMENTS, instances):
                add(results, group, summary)
                if group == "worst" and SHAPES[-1][1] == H:
                    add(results, LONGEST, summary)
    numbers = {
        "instances": count,
        "seconds": time.monotonic() - started,
        "largest excess of a sampled policy over an adversary": beaten,
        "linear programs": count,
        "of them solved again state by state": resolved,
        "largest difference between a linear program and worst_clone": apart,
        "statements": [
            {"group": group, "statement": name} | row for (group, name), row in results.items()
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(numbers, indent=1))
    report(numbers, results)


def add(results, group, summary):
    """Fold one batch's summary into the totals."""
    if summary.verdict == "does not apply":
        return
    empty = {
        "instances": 0,
        "holds": 0,
        "violated": 0,
        "undecided": 0,
        "in balls": 0,
        "attained": -math.inf,
    }
    row = results.setdefault((group, summary.statement.name), empty | {"equal within": 0.0})
    row["instances"] += summary.instances
    row[summary.verdict] += 1
    row["in balls"] += summary.certified
    row["attained"] = float(np.fmax(row["attained"], summary.worst_ratio))
    row["equal within"] = float(np.fmax(row["equal within"], summary.equal_within))


def report(numbers, results):
    """The totals as text."""
    rows = []
    for statement in STATEMENTS:
        field, form = ("equal within", ".1e") if statement.equality else ("attained", ".4f")
        of = [results.get((group, statement.name)) for group in ("sampled", "worst", LONGEST)]
        shown = [Column(format=form).show(row and row[field]) for row in of]
        balls = sum(row["in balls"] for row in of[:2] if row)
        not_holding = sum(row["violated"] + row["undecided"] for row in of[:2] if row)
        rows.append((statement.name, *shown, balls, not_holding))
    heads = ("sampled", "worst", LONGEST, "in balls", "batches not holding")
    columns = [Column("statement"), *(Column(head, align="right") for head in heads)]
    facts = {name: value for name, value in numbers.items() if name != "statements"}
    print(Report("worst cases", facts=facts, sections=[Table("", columns, rows)]).text())


if __name__ == "__main__":
    main()
