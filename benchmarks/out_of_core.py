"""Trees past memory: time and memory of the streamed solver, against the solver in memory.

    python benchmarks/out_of_core.py [--quick] [--threads 2]

Rewards are a hash of the prefix, computed when they are asked for. At H = 12 the streamed and the
in-memory solver take turns and are judged by their best times. The large tree, V = 4, H = 15, with
1.4 billion prefixes (10.7 GiB of rewards), is solved in a process of its own: its memory is the
greatest resident set of that process, Python and NumPy included.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import platform
import subprocess
import sys
import time

import numpy as np
from scoring import peak
from solver import cpu_model, print_times, run_times, verdict

from theory.mdp.streamed import StreamedTree
from theory.mdp.token_mdp import TokenMDP
from theory.solve.prompt_values import prompt_values
from theory.solve.soft import soft_values
from theory.solve.streamed import top_soft_values

V, ALPHA = 4, 0.5
TARGET_GIB = 1.0


def rewards(h, first, last):
    """Rewards in [0, 1), a hash of layer, prefix and token; stored token by token."""
    prefix = np.arange(first, last, dtype=np.uint32)
    token = np.arange(V, dtype=np.uint32)[:, None] + np.uint32(V * h)
    mixed = prefix * np.uint32(2654435761) ^ token * np.uint32(2246822519)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(3266489917)
    return (mixed * 2.0**-32).T


def read_all(tree):
    """Ask for every block, and do nothing with it."""
    for first, last in tree.blocks():
        tree.subtree(first, last)


def measure(solve, horizon, threads):
    """One large tree in this process: seconds, GiB and the prompt's soft value."""
    tree = StreamedTree(V, horizon, rewards)
    start = time.perf_counter()
    if solve == "soft":
        value = top_soft_values(tree, ALPHA, threads=threads)[0]
    else:
        value = prompt_values(tree, ALPHA, threads=threads).soft_value
    seconds = time.perf_counter() - start
    gib = peak("cpu") / 2**30
    return {"seconds": seconds, "gib": gib, "value": float(value[0]), "prefixes": tree.n_prefixes}


def benchmark_small(horizon, rounds):
    """Streamed against in memory; returns the best ns per prefix in memory."""
    tree = StreamedTree(V, horizon, rewards)
    tables = [rewards(h, 0, V**h) for h in range(horizon)]
    mdp = TokenMDP.tree(tables)
    ours = "`soft_values`, in memory"
    contenders = {
        ours: lambda: soft_values(mdp, ALPHA),
        "the reward function, in memory": lambda: [rewards(h, 0, V**h) for h in range(horizon)],
        "the reward function and its checks, streamed": lambda: read_all(tree),
        "`top_soft_values`, streamed, one thread": lambda: top_soft_values(tree, ALPHA),
        "`top_soft_values`, streamed, two threads": lambda: top_soft_values(tree, ALPHA, threads=2),
        "`prompt_values`, streamed, one thread": lambda: prompt_values(tree, ALPHA),
    }
    whole = soft_values(mdp, ALPHA)
    for one, two in zip(top_soft_values(tree, ALPHA), whole, strict=False):
        np.testing.assert_array_equal(one, two)
    times = run_times(contenders, rounds, 0.0)
    print(f"\n## V={V}, H={horizon}: {tree.n_prefixes:,} prefixes, alpha {ALPHA}\n")
    print_times(times, ours, tree.n_prefixes)
    print("\n- streamed and in-memory values are equal to the bit")
    return 1e6 * min(times[ours]) / tree.n_prefixes


def benchmark_large(horizon, threads, in_memory):
    """The large tree, in a process for each solver."""
    print(f"\n## V={V}, H={horizon}, {threads} threads, alpha {ALPHA}\n")
    print("| solver | prefixes | seconds | ns per prefix | over in memory | peak GiB |")
    print("|---|---:|---:|---:|---:|---:|")
    worst = 0.0
    for solve, name in (("soft", "`top_soft_values`"), ("prompt", "`prompt_values`")):
        command = [sys.executable, __file__, "--measure", solve, str(horizon), str(threads)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        per_prefix = 1e9 * found["seconds"] / found["prefixes"]
        worst = max(worst, found["gib"])
        print(
            f"| {name} | {found['prefixes']:,} | {found['seconds']:.1f} | {per_prefix:.1f} "
            f"| {per_prefix / in_memory:.1f} | {found['gib']:.2f} |"
        )
    print(f"\n- peak memory: {worst:.2f} GiB, {verdict(worst, TARGET_GIB, ' GiB')}")


def main():
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller trees, fewer runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        solve, horizon, threads = arguments.measure
        print(json.dumps(measure(solve, int(horizon), int(threads))))
        return
    print(f"{cpu_model()}, {os.cpu_count()} cores; Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}")
    in_memory = benchmark_small(10 if arguments.quick else 12, 3 if arguments.quick else 7)
    benchmark_large(12 if arguments.quick else 15, arguments.threads, in_memory)


if __name__ == "__main__":
    main()
