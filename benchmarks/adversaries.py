"""Time the adversaries, coin–payoff at its longest horizon and all verdicts, each against its
target.

    python benchmarks/adversaries.py

One core. Contenders of a comparison take turns in one run and are judged by their best times.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")

import numpy as np
from solver import cpu_model, peak_bytes, run_times, verdict

from theory.claims.findings import decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.studies.gallery import coin_payoff_gap

ALPHA, EPSILON = 0.5, 0.1


def benchmark_clone():
    """`worst_clone` against `soft_optimal` and a sort of the same data."""
    mdp = TokenMDP.random(4, 10, seed=0)
    expert = soft_optimal(mdp, ALPHA).policy
    contenders = {
        "`worst_clone`": lambda: worst_clone(mdp, expert, EPSILON),
        "`soft_optimal`": lambda: soft_optimal(mdp, ALPHA),
        "`np.sort` of every row": lambda: [np.sort(table, axis=-1) for table in mdp.rewards],
    }
    times = run_times(contenders, rounds=10, turn_seconds=0.2)
    best = {name: min(runs) for name, runs in times.items()}
    print(f"\n## Cloning, V=4, H=10: {mdp.dynamics.n_prefixes:,} prefixes\n")
    print("| step | ms, best | ms, median |\n|---|---:|---:|")
    for name, runs in times.items():
        print(f"| {name} | {min(runs):.1f} | {np.median(runs):.1f} |")
    ratio = best["`worst_clone`"] / (best["`soft_optimal`"] + best["`np.sort` of every row"])
    print(
        f"\n- `worst_clone` over `soft_optimal` plus the sort: {ratio:.2f}, {verdict(ratio, 4, '')}"
    )


def benchmark_map():
    """`worst_map` on a deep tree."""
    mdp = TokenMDP.random(4, 8, seed=0)
    expert = soft_optimal(mdp, ALPHA).policy
    runs = run_times({"map": lambda: worst_map(mdp, expert, EPSILON)}, rounds=10, turn_seconds=0.1)[
        "map"
    ]
    print(f"\n## RL, V=4, H=8: {mdp.dynamics.n_prefixes:,} prefixes\n")
    print(f"- `worst_map`: {min(runs):.0f} ms at best, {verdict(min(runs) / 1e3, 1, ' s')}")


def benchmark_coin():
    """The worst cloning gap of coin–payoff at H = 65,536, three coin fractions."""

    def solve():
        return [coin_payoff_gap(65_536, 0.01 / 256, 1.0, coin_fraction=c) for c in (0.3, 0.5, 0.6)]

    start = time.perf_counter()
    solve()
    seconds, memory = time.perf_counter() - start, peak_bytes(solve) / 2**30
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("\n## Coin–payoff, H=65,536, three coin fractions\n")
    print(f"- closed form: {seconds:.3f} s, {verdict(seconds, 20, ' s')}")
    print(
        f"- its arrays {memory:.3f} GiB, {verdict(memory, 1, ' GiB')}; this whole process so far "
        f"{resident:.2f} GiB"
    )


TARGETS = {
    "tree, V=3, H=6": 1,
    "table of one state, V=2, H=10000": 60,
    "window of 3 tokens, V=2, H=10000": 60,
}
"""Seconds for all statements."""


def verdict_cases():
    """Token MDPs of growing length, under each rule of successors."""
    rng = np.random.default_rng(0)
    for horizon in range(2, 8):
        yield f"tree, V=3, H={horizon}", TokenMDP.random(3, horizon, seed=rng)
    for horizon in (100, 1000, 10_000):
        rewards, links = (
            [rng.random((1, 2)) for _ in range(horizon)],
            [np.zeros((1, 2), int)] * (horizon - 1),
        )
        yield f"table of one state, V=2, H={horizon}", TokenMDP.table(rewards, links)
    for horizon in (100, 1000, 10_000):
        rewards = [rng.random((2 ** min(h, 3), 2)) for h in range(horizon)]
        yield f"window of 3 tokens, V=2, H={horizon}", TokenMDP.window(rewards, 3)


def benchmark_balls():
    """All statements decided on one instance: doubles, and balls for what they leave open."""
    print(f"\n## Verdicts: {len(STATEMENTS)} statements on one instance\n")
    print(
        "| instance | rewards | seconds | hold | do not apply | undecided | in balls |\n|---|"
        + "---:|" * 6
    )
    seconds = {}
    for name, mdp in verdict_cases():
        expert = soft_optimal(mdp, ALPHA).policy
        policy = sample_log_ratio_ball(expert, EPSILON, 0)
        runs = []
        for _ in range(3 if mdp.dynamics.n_prefixes < 5_000 else 1):
            instance = Instance(
                mdp, expert, policy, ALPHA
            )  # a new one, which keeps nothing of the last
            start = time.perf_counter()
            summaries = decide_each(STATEMENTS, [instance])
            runs.append(time.perf_counter() - start)
        found, seconds[name] = [summary.verdict for summary in summaries], min(runs)
        counts = [found.count(v) for v in ("holds", "does not apply", "undecided")]
        assert sum(counts) == len(found), found  # none is violated
        counts.append(sum(summary.certified for summary in summaries))
        print(
            f"| {name} | {mdp.dynamics.n_prefixes:,} | {min(runs):.2f} | "
            f"{' | '.join(map(str, counts))} |",
            flush=True,
        )
    print()
    for name, target in TARGETS.items():
        print(f"- {name}: {seconds[name]:.2f} s, {verdict(seconds[name], target, ' s')}")


def main():
    """Run every benchmark and print its figures."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(
        f"{cpu_model()}, one core of {os.cpu_count()}; Python {platform.python_version()}, NumPy "
        f"{np.__version__}"
    )
    for benchmark in (benchmark_clone, benchmark_map, benchmark_coin, benchmark_balls):
        benchmark()


if __name__ == "__main__":
    main()
