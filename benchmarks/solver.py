"""Exact solver against its floor, SciPy, plain NumPy and QuantEcon on full trees: one core.

Run ``python benchmarks/solver.py [--quick]``, or ``--sweeps`` for the first table alone. Rewards
are uniform on [0, 1]. Contenders take turns and each reports its best time. The *floor* of a sweep
is one exponential for each entry and one logarithm for each state, in blocks that fit the cache;
times over it are of the thread, not of the clock, because other work may share the machine. Inputs
are laid out before the clock starts; what that costs us is a row of its own (`TokenMDP.tree`).
QuantEcon solves the plain problem and is compared with `plain_optimal`; without QuantEcon that part
is skipped.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when NumPy and Numba are imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import platform
import time
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import scipy
from scipy.sparse import csr_array
from scipy.special import logsumexp

from theory.arrays.kernels import blocks, columns, scratch_like
from theory.mdp.distances import kl
from theory.mdp.responses import map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy, plain_value, trajectory_entropy
from theory.solve.reward import endogenous_reward
from theory.solve.soft import plain_optimal, soft_optimal, soft_values
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map

V, ALPHA, RTOL = 4, 0.5, 1e-12
COLD_ALPHA = 0.001  # every layer takes out its largest entry before the exponential
EPSILON = 0.1
BARS = {
    "`soft_values`": 1.6,
    "`soft_optimal`": 3.0,
    "`plain_optimal`": 4.0,
    "`plain_value`": 4.0,
    "`kl`": 4.0,
    "`trajectory_entropy`": 4.0,
    "`map_response`": 4.0,
    "`endogenous_reward`": 4.0,
    "`occupancy`": 1.0,
    "`worst_clone`": 10.0,
    "`worst_map`": 40.0,
    "`worst_kl`": 40.0,
}
"""Times over the floor that a sweep may take at H = 10 in doubles; half as much again at H = 8."""

SLOW = 20.0  # times over the floor; such a sweep gets a fifth of the turns
COLD_BAR = 1.5  # small temperatures against others
TARGET_BATCH = 100.0
TARGET_MS = {8: 0.3, 12: 60.0}
TARGET_MEMORY = 2.2


def random_rewards(horizon, seed=None):
    """State-major ``(V^h, V)`` rewards of every layer."""
    rng = np.random.default_rng(horizon if seed is None else seed)
    return [rng.random((V**h, V)) for h in range(horizon)]


def layered(rewards, soft_max):
    """Soft values by layers, from a soft maximum over the last axis of ``(n, V)``."""
    values, value = [], None
    for reward in reversed(rewards):
        value = soft_max(reward if value is None else reward + value.reshape(-1, V))
        values.append(value)
    return values[::-1]


def scipy_soft_max(q, alpha=ALPHA):
    """``α logsumexp(q/α)`` by SciPy."""
    return alpha * logsumexp(q / alpha, axis=-1)


def numpy_soft_max(q):
    """``α logsumexp(q/α)`` by plain NumPy."""
    top = q.max(axis=-1, keepdims=True)
    return top[:, 0] + ALPHA * np.log(np.exp((q - top) / ALPHA).sum(axis=-1))


def run_times(contenders, rounds, turn_seconds):
    """Milliseconds of every run of each contender; in a round each runs for `turn_seconds`, at
    least once.
    """
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, solve in contenders.items():
            turn_ends = time.perf_counter() + turn_seconds
            while True:
                start = time.perf_counter()
                result = solve()
                end = time.perf_counter()
                del result
                times[name].append(1e3 * (end - start))
                if end > turn_ends:
                    break
    return times


def peak_bytes(call):
    """Greatest memory that `call` holds beyond what there was before it."""
    tracemalloc.start()
    try:
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        del result
    finally:
        tracemalloc.stop()
    return peak


def require_agreement(found, expected):
    """Two solvers' values are equal to `RTOL`, relative."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=0)


def print_times(times, reference, n_prefixes):
    """Markdown table of times. Ratios and times per prefix are of the best runs."""
    print("| solver | ms, best | ms, median | runs | time / ours | ns per prefix |")
    print("|---|---:|---:|---:|---:|---:|")
    ours = min(times[reference])
    for name, runs in times.items():
        best = min(runs)
        print(f"| {name} | {best:,.3f} | {np.median(runs):,.3f} | {len(runs):,} ", end="")
        print(f"| {best / ours:.2f} | {1e6 * best / n_prefixes:.2f} |")


def verdict(measured, target, unit):
    """Whether a figure is within its target."""
    return f"target {target:g}{unit}: {'met' if measured <= target else 'MISSED'}"


def benchmark_soft(horizon, rounds, turn_seconds, with_policy):
    """Time the soft values of a full tree."""
    rewards = random_rewards(horizon)
    mdp = TokenMDP.tree(rewards)
    token_major = [np.asarray(r) for r in mdp.rewards]
    n_prefixes = sum(r.size for r in rewards)
    ours = "`soft_values` (ours)"
    contenders = {
        "SciPy logsumexp, state-major layers": lambda: layered(rewards, scipy_soft_max),
        "NumPy, state-major layers": lambda: layered(rewards, numpy_soft_max),
        "NumPy, rewards token-major": lambda: layered(token_major, numpy_soft_max),
        ours: lambda: soft_values(mdp, ALPHA),
    }
    expected = soft_values(mdp, ALPHA)
    for solve in contenders.values():
        require_agreement(solve(), expected)
    if with_policy:
        require_agreement(soft_optimal(mdp, ALPHA).values, expected)
        contenders["`soft_optimal`: values and policy (ours)"] = lambda: soft_optimal(mdp, ALPHA)
    contenders[f"`soft_values`, alpha {COLD_ALPHA}: exponents shifted (ours)"] = lambda: (
        soft_values(mdp, COLD_ALPHA)
    )
    contenders["`TokenMDP.tree`: checks and layout (ours, once)"] = lambda: TokenMDP.tree(rewards)
    cold = layered(rewards, lambda q: scipy_soft_max(q, COLD_ALPHA))
    require_agreement(soft_values(mdp, COLD_ALPHA), cold)
    del expected, cold
    times = run_times(contenders, rounds, turn_seconds)

    print(f"\n## Soft values, V={V}, H={horizon}: {n_prefixes:,} prefixes, alpha {ALPHA}\n")
    print_times(times, ours, n_prefixes)
    print()
    if horizon in TARGET_MS:
        best = min(times[ours])
        print(f"- `soft_values`: {best:.3f} ms, {verdict(best, TARGET_MS[horizon], ' ms')}")
    reward_bytes = sum(r.nbytes for r in rewards)
    solve = 1 + peak_bytes(lambda: soft_values(mdp, ALPHA)) / reward_bytes
    text = verdict(solve, TARGET_MEMORY, "x")
    print(
        f"- peak memory of `soft_values`: {solve:.2f}x its rewards ({reward_bytes / 2**20:.1f} "
        f"MiB, included), {text}"
    )
    if with_policy:
        policy = 1 + peak_bytes(lambda: soft_optimal(mdp, ALPHA)) / reward_bytes
        print(f"- peak memory of `soft_optimal`: {policy:.2f}x")
    build = 1 + peak_bytes(lambda: soft_values(TokenMDP.tree(rewards), ALPHA)) / reward_bytes
    print(f"- build and solve while the caller keeps its own state-major rewards: {build:.2f}x")
    print(f"- all values agree to {RTOL:g}, relative")


def floor_of(tables):
    """Return a call that does the exponentials and logarithms of a sweep, and nothing else."""
    flat = [columns(table)[0] for table in tables]
    scratch = scratch_like(flat[-1])
    logs = np.empty(scratch.shape[1], dtype=scratch.dtype)

    def solve():
        for table in flat:
            for block in blocks(*table.shape):
                k = block.stop - block.start
                np.exp(table[:, block], out=scratch[:, :k])
                np.log(scratch[0, :k], out=logs[:k])

    return solve


def thread_times(contenders, rounds):
    """Least milliseconds of the thread for each contender; they take turns."""
    best = dict.fromkeys(contenders, np.inf)
    for turn in range(rounds):
        for name, solve in contenders.items():
            if turn % 5 and best[name] > SLOW * best["floor"]:
                continue
            start = time.thread_time()
            result = solve()
            best[name] = min(best[name], 1e3 * (time.thread_time() - start))
            del result
    return best


def sweeps(horizon, dtype=np.float64):
    """Every sweep on a full tree, by name, and the floor."""
    mdp, other = (
        replace(tree, rewards=tuple(r.astype(dtype) for r in tree.rewards))
        for tree in (TokenMDP.tree(random_rewards(horizon, seed)) for seed in (0, 1))
    )
    policy, moved = (soft_optimal(m, ALPHA).policy for m in (mdp, other))
    return mdp, {
        "floor": floor_of(mdp.rewards),
        "`soft_values`": lambda: soft_values(mdp, ALPHA),
        f"`soft_values`, alpha {COLD_ALPHA}": lambda: soft_values(mdp, COLD_ALPHA),
        "`soft_optimal`": lambda: soft_optimal(mdp, ALPHA),
        f"`soft_optimal`, alpha {COLD_ALPHA}": lambda: soft_optimal(mdp, COLD_ALPHA),
        "`plain_optimal`": lambda: plain_optimal(mdp),
        "`plain_value`": lambda: plain_value(mdp, policy),
        "`kl`": lambda: kl(policy, moved),
        "`trajectory_entropy`": lambda: trajectory_entropy(policy),
        "`map_response`": lambda: map_response(policy),
        "`endogenous_reward`": lambda: endogenous_reward(policy, ALPHA),
        "`occupancy`": lambda: occupancy(policy),
        "`worst_clone`": lambda: worst_clone(mdp, policy, EPSILON),
        "`worst_map`": lambda: worst_map(mdp, policy, EPSILON),
        "`worst_kl`": lambda: worst_kl(policy, EPSILON),
    }


def benchmark_sweeps(rounds):
    """Print the times of every sweep over the floor of the same run, with their bars."""
    ratios, floors = {}, {}
    for horizon, dtype in ((8, np.float64), (10, np.float64), (10, np.float32)):
        mdp, contenders = sweeps(horizon, dtype)
        found = thread_times(contenders, rounds * (5 if horizon == 8 else 1))
        floors[horizon, dtype] = found.pop("floor")
        ratios[horizon, dtype] = {name: ms / floors[horizon, dtype] for name, ms in found.items()}
    short, long, single = (8, np.float64), (10, np.float64), (10, np.float32)
    print(f"\n## Sweeps over their floor, V={V}, alpha {ALPHA}, epsilon {EPSILON}\n")
    print(
        "Floors: "
        + ", ".join(
            f"{ms:.3f} ms (H={h}, {np.dtype(dtype).name})" for (h, dtype), ms in floors.items()
        )
    )
    print("\n| sweep | H=8 | bar | | H=10 | bar | | float32 / float64, H=10 |")
    print("|---|---:|---:|---|---:|---:|---|---:|")
    for name, ratio in ratios[long].items():
        base, *cold = name.split(", ")
        bars = [f * BARS[base] for f in (1.5, 1.0)]
        if cold:
            bars = [COLD_BAR * ratios[key][base] for key in (short, long)]
        shown = f"| {name} "
        for key, bar in zip((short, long), bars, strict=True):
            met = "met" if ratios[key][name] <= bar else "MISSED"
            shown += f"| {ratios[key][name]:.2f} | {bar:.2f} | {met} "
        halved = ratios[single][name] * floors[single] / (ratio * floors[long])
        print(f"{shown}| {halved:.2f} |")
    mdp, _ = sweeps(10)
    reward_bytes = sum(r.nbytes for r in mdp.rewards)
    memory = 1 + peak_bytes(lambda: soft_optimal(mdp, ALPHA)) / reward_bytes
    print(f"\n- memory of `soft_optimal`: {memory:.2f}x the rewards, them included, ", end="")
    print(verdict(memory, TARGET_MEMORY, "x"))
    memory = 1 + peak_bytes(lambda: soft_optimal(mdp, ALPHA, overwrite_rewards=True)) / reward_bytes
    print(f"- with `overwrite_rewards`: {memory:.2f}x, {verdict(memory, TARGET_MEMORY, 'x')}")


def benchmark_batch(rounds, n=10_000):
    """Print how much faster a batch of small problems is than a loop over them."""
    rng = np.random.default_rng(0)
    small = [rng.random((n, 3**h, 3)) for h in range(5)]
    many, one = TokenMDP.tree(small), TokenMDP.tree([r[0] for r in small])
    print(f"\n## {n:,} problems of V=3, H=5 at once\n")
    print("| sweep | one, µs | batch, ms | times its floor | loop / batch | |")
    print("|---|---:|---:|---:|---:|---|")
    for solve in (soft_values, soft_optimal):
        calls = {"floor": floor_of(many.rewards), "batch": lambda solve=solve: solve(many, ALPHA)}
        batch = thread_times(calls, rounds)
        calls = {"floor": floor_of(one.rewards), "one": lambda solve=solve: solve(one, ALPHA)}
        alone = thread_times(calls, 200 * rounds)["one"]
        ratio = n * alone / batch["batch"]
        met = "met" if ratio >= TARGET_BATCH else "MISSED"
        print(f"| `{solve.__name__}` | {1e3 * alone:.0f} | {batch['batch']:.1f} ", end="")
        print(f"| {batch['batch'] / batch['floor']:.2f} | {ratio:.0f} | at least ", end="")
        print(f"{TARGET_BATCH:g}: {met} |")


def quantecon_problem(rewards):
    """The tree in QuantEcon's sparse form of state-action pairs.

    Nodes are numbered layer by layer, so that the child ``a`` of node ``i`` is ``i·V + 1 + a``.
    After the last token there is one absorbing state without reward.
    """
    from quantecon.markov import DiscreteDP

    n_pairs = sum(r.size for r in rewards)
    end = n_pairs // V
    following = np.append(np.minimum(np.arange(n_pairs) + 1, end), end)
    states = np.append(np.repeat(np.arange(end), V), end)
    actions = np.append(np.tile(np.arange(V), end), 0)
    reward = np.append(np.concatenate([r.reshape(-1) for r in rewards]), 0.0)
    shape = (n_pairs + 1, end + 1)
    transitions = csr_array(
        (np.ones(n_pairs + 1), (np.arange(n_pairs + 1), following)), shape=shape
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # beta = 1: its infinite-horizon methods are off, and not used here
        return DiscreteDP(reward, transitions, 1.0, states, actions)


def benchmark_plain(horizon, rounds, turn_seconds):
    """Time the plain-optimal values and policy of a full tree."""
    from quantecon.markov import backward_induction

    rewards = random_rewards(horizon)
    mdp = TokenMDP.tree(rewards)
    problem = quantecon_problem(rewards)
    n_prefixes = sum(r.size for r in rewards)
    ours = "`plain_optimal` (ours)"
    contenders = {
        "QuantEcon `backward_induction`": lambda: backward_induction(problem, horizon),
        ours: lambda: plain_optimal(mdp),
    }
    theirs = backward_induction(problem, horizon)[0][0, :-1]
    require_agreement([theirs], [np.concatenate(plain_optimal(mdp).values)])
    times = run_times(contenders, rounds, turn_seconds)

    print(
        f"\n## Plain-optimal values and policy (not soft), V={V}, H={horizon}: {n_prefixes:,} "
        "prefixes\n"
    )
    print_times(times, ours, n_prefixes)
    q = problem.Q
    reward_bytes = sum(r.nbytes for r in rewards)
    q_bytes = q.data.nbytes + q.indices.nbytes + q.indptr.nbytes
    inputs = (
        q_bytes
        + problem.R.nbytes
        + problem.s_indices.nbytes
        + problem.a_indices.nbytes
        + problem.a_indptr.nbytes
    )
    peak = inputs + peak_bytes(contenders["QuantEcon `backward_induction`"])
    our_peak = reward_bytes + peak_bytes(contenders[ours])
    print(f"\n- QuantEcon's sparse Q: {q.shape[0]:,} x {q.shape[1]:,}, {q_bytes / 2**20:.1f} MiB")
    print(
        f"- peak memory, inputs included: QuantEcon {peak / reward_bytes:.2f}x the rewards, ",
        end="",
    )
    print(f"ours {our_peak / reward_bytes:.2f}x")
    print(f"- values agree to {RTOL:g}, relative; compilation is not timed")


def cpu_model():
    """Model name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    """Run every benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small trees only, fewer runs")
    parser.add_argument("--sweeps", action="store_true", help="the times over the floor alone")
    options = parser.parse_args()
    quick = options.quick
    print(
        f"{cpu_model()}, one core of {os.cpu_count()}; Python {platform.python_version()}, ", end=""
    )
    print(f"NumPy {np.__version__}, SciPy {scipy.__version__}")
    benchmark_sweeps(rounds=6 if quick else 40)
    benchmark_batch(rounds=3 if quick else 20)
    if options.sweeps:
        return
    for horizon in (8,) if quick else (8, 10, 12):
        turn = 0.03 if quick else 0.3
        benchmark_soft(
            horizon, rounds=5 if quick else 12, turn_seconds=turn, with_policy=horizon <= 10
        )
    try:
        import numba
        import quantecon
    except ImportError:
        print(
            "\nQuantEcon is not installed and was skipped: pip install -c constraints.txt -e "
            "'.[benchmark]'"
        )
        return
    print(f"\nQuantEcon {quantecon.__version__}, Numba {numba.__version__}")
    for horizon in (6,) if quick else (6, 8, 10):
        benchmark_plain(horizon, rounds=5 if quick else 10, turn_seconds=0.03 if quick else 0.2)


if __name__ == "__main__":
    main()
