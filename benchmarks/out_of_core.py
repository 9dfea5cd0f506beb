"""Trees past memory, sparse and long MDPs: time and memory, against the solver in memory.

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
import tracemalloc

import numpy as np
from scoring import peak
from solver import cpu_model, print_times, run_times, verdict

from theory.mdp.sparse import SparseLayer, SparseMDP
from theory.mdp.streamed import StreamedTree
from theory.mdp.token_mdp import TokenMDP
from theory.solve.prompt_values import prompt_values, soft_value
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


def benchmark_long(window, horizon, rounds, whole):
    """A window of 2 tokens to the power `window` states, the same layer `horizon` times.

    Not `whole`: the time of the long horizon follows from that of the short one.
    """
    rng = np.random.default_rng(0)
    layer = rng.random((2**window, 2))
    first = [rng.random((2**h, 2)) for h in range(window)]
    long = TokenMDP.window([*first, *[layer] * (horizon - window)], window)
    short = TokenMDP.window([*first, *[layer] * 10], window)
    contenders = {
        "`soft_values`": lambda: soft_values(short, ALPHA),
        "`soft_value`": lambda: soft_value(short, ALPHA),
        "`prompt_values`": lambda: prompt_values(short, ALPHA),
    }
    times = run_times(contenders, rounds, 0.0)
    n = short.dynamics.n_prefixes
    print(f"\n## Window of {2**window:,} states, V=2, H={short.horizon}: {n:,} pairs\n")
    print_times(times, "`soft_values`", n)
    total = long.dynamics.n_prefixes
    seconds = 1e-3 * min(times["`soft_value`"]) * total / n
    if whole:
        start = time.perf_counter()
        soft_value(long, ALPHA)
        seconds = time.perf_counter() - start
    by = "measured" if whole else "by the rate of the short one"
    print(f"\n- H={horizon:,} is {total:,} pairs: {seconds:.0f} s for `soft_value`, {by}")
    print(f"- peak memory of this process, with that MDP built: {peak('cpu') / 2**20:.0f} MiB")


def benchmark_sparse(n, rounds):
    """States that allow 3 to 20 tokens out of 50,000."""
    rng = np.random.default_rng(0)

    def layer():
        degrees = rng.integers(3, 21, n)
        indptr = np.concatenate([[0], np.cumsum(degrees)])
        start = rng.integers(0, 49_000, n)
        place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], degrees)
        tokens = np.repeat(start, degrees) + 37 * place
        return SparseLayer(indptr, tokens, rng.random(len(tokens)), rng.integers(0, n, len(tokens)))

    layers = [layer() for _ in range(5)]
    n_tokens = sum(len(each.tokens) for each in layers)
    tracemalloc.start()
    sparse = SparseMDP.from_rows(layers, 50_000)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    times = run_times({"`soft_values`": lambda: soft_values(sparse.mdp, ALPHA)}, rounds, 0.0)
    print(f"\n## V=50,000, 3 to 20 tokens a state, {n:,} states a layer, H=5\n")
    print_times(times, "`soft_values`", n_tokens)
    dense = n * 5 * 50_000 * 9
    print(
        f"\n- `SparseMDP`: {held / 2**20:.0f} MiB, {held / n_tokens:.0f} bytes for each allowed "
        f"token; dense rewards and mask: {dense / 2**30:.0f} GiB"
    )


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
    window, horizon = (12, 10_000) if arguments.quick else (17, 100_000)
    benchmark_long(window, horizon, 5, whole=not arguments.quick)
    benchmark_sparse(10_000 if arguments.quick else 100_000, 5)
    in_memory = benchmark_small(10 if arguments.quick else 12, 3 if arguments.quick else 7)
    benchmark_large(12 if arguments.quick else 15, arguments.threads, in_memory)


if __name__ == "__main__":
    main()
