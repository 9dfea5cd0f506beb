"""Our exact solver beside other packages on the same trees: one command, one table, one figure.

Run ``python benchmarks/peers.py``. Each package comes from the package index into an environment of
its own under ``--cache``; ``--only ours`` solves again with ours alone. Time is of the solve only,
the best of all turns; memory is the peak over the state after import, input included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("peers_worker.py")
TURN_SECONDS, CAP_GIB, RTOL, ALPHA = 60, 2, 1e-9, 0.5
HORIZONS, WIDTHS = ((4, 2), (4, 4), (4, 6), (4, 8), (4, 10)), ((2, 5), (8, 5), (16, 5))
THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
}
PINS = {
    "quantecon": "quantecon==0.11.4 numpy==2.4.6 scipy==1.17.1",
    "jaxdp": "jaxdp==0.4.0 jax==0.10.2 numpy==2.4.6",
    "mdpax": "mdpax==0.2.2 jax==0.10.2 numpy==2.4.6",
    "imitation": "imitation==1.0.1 seals==0.2.1 stable-baselines3==2.2.1 torch==2.13.0 "
    "numpy==1.26.4 setuptools==80.9.0",
    "pymdptoolbox": "pymdptoolbox==4.0b3 numpy==2.4.6 scipy==1.17.1",
    "stormpy": "stormpy==2.0.0 numpy==2.4.6",
}
# peer: its environment ("" is this one), what it solves, what it must be given
PEERS = {
    "ours, soft": ("", "soft", "rewards by layers"),
    "SciPy": ("", "soft", "rewards by layers"),
    "imitation": ("imitation", "soft", "dense transitions S x V x S, leaves included"),
    "jaxdp, soft": ("jaxdp", "soft", "dense transitions and rewards, V x S x S each"),
    "ours, plain": ("", "plain", "rewards by layers"),
    "QuantEcon": ("quantecon", "plain", "sparse state-action pairs"),
    "pymdptoolbox": ("pymdptoolbox", "plain", "a sparse S x S matrix for each action"),
    "jaxdp, plain": ("jaxdp", "plain", "dense transitions and rewards, V x S x S each"),
    "mdpax": ("mdpax", "plain", "a transition function and a table of rewards"),
    "Storm": ("stormpy", "plain", "a DRN file"),
    "Storm, exact": ("stormpy", "plain", "a DRN file, rationals"),
}


def environment(name, cache):
    """Interpreter with the pins of `name`, installed once, or the reason why there is none."""
    if not name:
        return sys.executable, ""
    folder = cache / name
    python, marker = folder / "bin" / "python", folder / "pins.txt"
    if marker.exists() and marker.read_text() == PINS[name]:
        return str(python), ""
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", *PINS[name].split()]
        done = subprocess.run(install, capture_output=True, text=True, timeout=900)
    except (subprocess.SubprocessError, OSError) as error:
        return "", f"not installed: {error}"[:160]
    if done.returncode:
        errors = [x for x in done.stderr.splitlines() if "ERROR" in x] or ["pip failed"]
        return "", f"not installed: {errors[-1]}"[:160]
    marker.write_text(PINS[name])
    return str(python), ""


def write_tree(path, V, H):
    """A full tree with uniform rewards, nodes numbered by layers."""
    nodes = sum(V**h for h in range(H))
    rewards = np.random.default_rng([V, H]).random((nodes, V))
    np.savez(path, rewards=rewards, V=V, H=H, alpha=ALPHA)


def turn(python, peer, tree, values):
    """What one run of the worker reports."""
    command = [python, str(WORKER), peer, str(tree), str(values), str(CAP_GIB)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TURN_SECONDS,
            env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {TURN_SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or [""])[-1]
        return {"failed": f"exit {done.returncode}: {error}"[:120]}
    return json.loads(lines[-1])


def measure(peers, sizes, rounds, cache):
    """Yield the rows of every size, small trees first. Peers take turns; one that failed is not
    given larger ones.
    """
    found = {name: environment(PEERS[name][0], cache) for name in peers}
    stopped = {name: reason for name, (_, reason) in found.items() if reason}
    sizes = sorted(sizes, key=lambda size: size[0] ** size[1])
    with tempfile.TemporaryDirectory() as scratch:
        for V, H in sizes:
            tree = Path(scratch) / "tree.npz"
            write_tree(tree, V, H)
            at_size = {}
            for _ in range(rounds):
                for name in peers:
                    values = Path(scratch) / f"{peers.index(name)}-{V}-{H}.npy"
                    if name in stopped:
                        result = {"failed": stopped[name]}
                    else:
                        result = turn(found[name][0], name, tree, values)
                    if "failed" in result:
                        if name not in stopped:
                            stopped[name] = f"{result['failed']} (at V={V}, H={H})"
                        at_size[name] = {"failed": stopped[name]}
                    else:
                        old = at_size.get(name, result)
                        at_size[name] = {k: min(old[k], result[k]) for k in ("seconds", "peak")}
                        problem = PEERS[name][1]
                        ours = peers.index(f"ours, {problem}")
                        expected = np.load(Path(scratch) / f"{ours}-{V}-{H}.npy")
                        gap = np.max(np.abs(np.load(values) / expected - 1))
                        at_size[name]["gap"] = float(gap)
                        if not gap <= RTOL:
                            stopped[name] = f"values differ by {gap:.1e} (at V={V}, H={H})"
                            at_size[name] = {"failed": stopped[name]}
            yield [{"peer": n, "V": V, "H": H, **row} for n, row in at_size.items()]


def table(rows):
    """The rows in Markdown, times as a ratio to ours of the same problem and size."""
    ours = {
        (PEERS[r["peer"]][1], r["V"], r["H"]): r.get("seconds")
        for r in rows
        if r["peer"].startswith("ours")
    }
    lines = ["| problem | V | H | peer | ms | time / ours | MiB | largest relative gap |"]
    lines.append("|---|---:|---:|---|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda r: (PEERS[r["peer"]][1] != "soft", r["V"], r["H"])):
        problem, V, H = PEERS[row["peer"]][1], row["V"], row["H"]
        start = f"| {problem} | {V} | {H} | {row['peer']} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed'].replace('|', '/')} | | | |")
            continue
        ratio = row["seconds"] / ours[problem, V, H]
        lines.append(
            f"{start} {1e3 * row['seconds']:,.3f} | {ratio:.2f} | {row['peak'] / 2**20:,.1f} "
            f"| {row['gap']:.0e} |"
        )
    return "\n".join(lines)


def figure(rows, path):
    """Time and memory against the number of prefixes; a cross is the last size before a failure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = (("V = 4, growing H", HORIZONS), ("H = 5, growing V", WIDTHS))
    fig, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for column, (title, sizes) in enumerate(panels):
        for line, (key, scale, label) in enumerate(
            (("seconds", 1e3, "ms, best"), ("peak", 2**-20, "MiB over import"))
        ):
            axis = axes[line, column]
            for n, name in enumerate(PEERS):
                mine = [r for r in rows if r["peer"] == name and (r["V"], r["H"]) in sizes]
                done = sorted((r[("H", "V")[column]], r[key] * scale) for r in mine if key in r)
                stop = len(done) < len(mine)
                style = "-" if PEERS[name][1] == "soft" else "--"
                text = name + (" (stops, ×)" if stop else "")
                x, y = zip(*done, strict=True) if done else ((), ())
                color = "black" if name.startswith("ours") else f"C{n % 10}"
                axis.plot(x, y, style, marker="o", ms=3, color=color, label=text)
                if stop and done:
                    axis.plot(x[-1], y[-1], "x", ms=10, color=color)
            if axis.has_data() and any("seconds" in r and (r["V"], r["H"]) in sizes for r in rows):
                axis.set(xscale="log", yscale="log")
            axis.set(xlabel=("H", "V")[column], ylabel=label)
            ticks = sorted({size[1 - column] for size in sizes})
            axis.set_xticks(ticks, [str(t) for t in ticks])
            axis.minorticks_off()
            axis.set_title(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", fontsize=8)
    fig.savefig(path, dpi=110)


def main(arguments=None):
    """Measure, print the table, write rows and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--cache", type=Path, default=home / "endorm" / "peers")
    parser.add_argument("--only", choices=("ours",), help="ours and SciPy, no environments")
    parser.add_argument("--quick", action="store_true", help="the smallest size only, one round")
    parser.add_argument("--sizes", nargs="+", metavar="V,H", help="only these sizes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="where to write the figure")
    options = parser.parse_args(arguments)
    peers = [n for n in PEERS if not PEERS[n][0]] if options.only else list(PEERS)
    sizes = HORIZONS[:1] if options.quick else HORIZONS + WIDTHS
    if options.sizes:
        sizes = tuple(tuple(map(int, size.split(","))) for size in options.sizes)
    rows = []
    try:
        for found in measure(peers, sizes, 1 if options.quick else options.rounds, options.cache):
            rows += found
    except KeyboardInterrupt:
        print("stopped by hand: the table has the sizes that were finished\n")
    print("| peer | solves | must be given |\n|---|---|---|")
    for name in peers:
        print(f"| {name} | {PEERS[name][1]} | {PEERS[name][2]} |")
    print(f"\n{table(rows)}")
    if options.figure:
        figure(rows, options.figure)
    return rows


if __name__ == "__main__":
    main()
