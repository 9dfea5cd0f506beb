"""Tables (Markdown, on standard output), figures and ``summary.json`` of ``molecules.py``."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rdkit import DataStructs
from resumable import markdown, results
from scipy import stats

from llm_bridge.check.confidence import mean_interval, share_interval
from llm_bridge.tasks.molecules import molecule_metrics, read_molecule
from theory.reports.figures import PALETTE
from theory.reports.report import Column, Table, save_figure
from theory.storage.files import write_json

BETAS = ("1", "0.3", "0.1", "0.03", "0.01")
COLORS = dict(zip(BETAS, ("#9ecae1", "#4a98c9", "#1764ab", "#7a4a9c", "#b3322c"), strict=True))
SOFT = "#3a8a4d"
METRICS = {
    "validity": "valid",
    "uniqueness": "different among valid",
    "diversity": "diversity among valid",
    "qed": "QED (drug-likeness)",
}
OF = {"own": "its own reward", "large": "the larger model's reward"}
CONFIDENCE = 0.95
RESAMPLES = 1000
NEIGHBOURS = 200
"""Untrained samples nearest in size whose average is what the size alone would give."""


def report(out):
    """Report whatever is there."""
    found = results(out)
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    summary = {}
    if {"untrained", "temperatures", "most-probable"} <= found.keys():
        summary["policies"] = policies(found)
        print(policy_table(summary["policies"]), end="\n\n")
        print(responses(found), end="\n\n")
        save_figure(curves(found), folder, "molecules")
    known = {}
    if {"untrained", "enumerated-small", "enumerated-large"} <= found.keys():
        summary["optima"] = known = optima(found)
        print(optimum_table(known), end="\n\n")
    if "policies" in summary:
        save_figure(frontier(summary["policies"], found, known), folder, "molecules_frontier")
    if "untrained" in found:
        summary["knows"] = knows(found["untrained"]["columns"])
        print(knows_table(summary["knows"]), end="\n\n")
        save_figure(knows_figure(summary["knows"]), folder, "molecules_knows")
    for name in ("check-exact", "check-sampled"):
        if name in found:
            print(found[name]["text"])
    summary["seconds"] = times = {
        name: [one["wall_seconds"], one["cpu_seconds"]] for name, one in found.items()
    }
    print(times_table(times), end="\n\n")
    print(f"{len(found)} jobs, {sum(cpu for _, cpu in times.values()):.0f} s of CPU")
    write_json(folder / "summary.json", summary)


# --- Policies -------------------------------------------------------------------------------------


def policies(found):
    """By name, a row for each policy: what is measured of its samples, by seed where trained."""
    untrained = found["untrained"]["columns"]
    rows = {}
    for name, one in found["temperatures"]["temperatures"].items():
        label = "larger model" if name == "large" else f"temperature {name}"
        rows[label] = [with_nulls(one, untrained)]
    for signal, label in (("small_log_prob", "own reward"), ("large_log_prob", "larger model's")):
        for k in (4, 16):
            rows[f"best of {k}, {label}"] = [best_of(untrained, signal, k)]
    for name, one in found.items():
        kind, _, _ = name.rpartition("-")
        if kind.startswith(("own-", "large-", "soft-")):
            rows.setdefault(kind, []).append(with_nulls(one["after"], untrained))
    return rows


def with_nulls(one, untrained):
    """Add intervals, and what untrained samples of the same sizes have."""
    valid = np.array(untrained["valid"])
    row = {name: one[name] for name in (*METRICS, "heavy_atoms", "kl", "samples", "n_valid")}
    row["tokens"] = float(np.mean(one["tokens"]))
    if len(set(one["qeds"])) > 1:
        row["qed_interval"] = mean_interval([np.array([one["qeds"]])], CONFIDENCE)[1:3]
    row["validity_of_length"] = matched(untrained["tokens"], valid, one["tokens"])
    atoms, qeds = (np.array(untrained[x], dtype=float)[valid] for x in ("heavy_atoms", "qed"))
    row["qed_of_size"] = matched(atoms, qeds, one["heavy"])
    row["most_common"] = one["most_common"][0] if one["most_common"] else None
    row["first"] = one["first"]
    return row


def matched(sizes, values, wanted):
    """Average over `wanted` sizes of the mean value of the untrained samples nearest in size."""
    sizes, values = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    means = {}
    for size in set(wanted):
        distance = np.abs(sizes - size)
        near = distance <= np.partition(distance, NEIGHBOURS)[NEIGHBOURS]  # ties are all in
        means[size] = values[near].mean()
    return float(np.mean([means[size] for size in wanted]))


def best_of(columns, signal, k):
    """Measure the best of each `k` untrained samples by a reward."""
    reward = np.array(columns[signal]).reshape(-1, k)
    chosen = np.arange(len(reward)) * k + reward.argmax(axis=1)
    smiles = [columns["smiles"][i] for i in chosen]
    qeds = [columns["qed"][i] for i in chosen if columns["valid"][i]]
    one = molecule_metrics([text or "" for text in smiles]) | {
        "samples": len(chosen),
        "n_valid": len(qeds),
        "kl": float(np.log(k) - (k - 1) / k),
        "tokens": [columns["tokens"][i] for i in chosen],
        "heavy": [columns["heavy_atoms"][i] for i in chosen if columns["valid"][i]],
        "qeds": qeds,
        "most_common": [],
        "first": [],
    }
    return with_nulls(one, columns)


def named(kind):
    """Name a trained policy in the table."""
    if kind == "soft-large":
        return "PPO, larger model's, soft RL"
    reward, beta = kind.split("-")
    return f"PPO, {'own' if reward == 'own' else 'larger model’s'}, β = {beta}"


def policy_table(rows):
    """All policies, each a line."""
    columns = ["KL(π‖π̂)", "valid %", "at that length", "different %", "diversity", "QED"]
    columns += ["at that size", "heavy atoms", "tokens", "most common"]
    lines = []
    order = [kind for kind in rows if not kind.startswith(("own-", "large-", "soft-"))]
    order += [f"own-{b}" for b in BETAS] + [f"large-{b}" for b in BETAS] + ["soft-large"]
    for kind in order:
        many = rows.get(kind, [])
        if not many:
            continue
        trained = kind.startswith(("own-", "large-", "soft-"))
        low, high = valid_interval(many)
        valid = f"{spread(many, 'validity', 100, 1)} [{100 * low:.1f}, {100 * high:.1f}]"
        common = max(
            (row["most_common"] for row in many if row["most_common"]),
            default=None,
            key=lambda pair: pair[1],
        )
        cells = [
            spread(many, "kl", 1, 2),
            valid,
            spread(many, "validity_of_length", 100, 1, alone=True),
            spread(many, "uniqueness", 100, 1),
            spread(many, "diversity", 1, 3),
            spread(many, "qed", 1, 3),
            spread(many, "qed_of_size", 1, 3, alone=True),
            spread(many, "heavy_atoms", 1, 1, alone=True),
            spread(many, "tokens", 1, 1, alone=True),
            "–" if common is None or common[1] < 0.01 else f"`{common[0]}` {common[1]:.0%}",
        ]
        seeds = f" ({len(many)} seeds)" if trained else ""
        small = f" (n = {many[0]['samples']})" if many[0]["samples"] != 1000 else ""
        name = named(kind) if trained else kind
        lines.append((f"{name}{seeds}{small}", *cells))
    return markdown(["policy", *columns], lines)


def valid_interval(many):
    """What sampling leaves open of the share of valid molecules, the samples of all seeds
    together.
    """
    n, good = (sum(row[name] for row in many) for name in ("samples", "n_valid"))
    return share_interval(np.repeat([1.0, 0.0], [good, n - good]), CONFIDENCE)[1:3]


def spread(many, name, factor, digits, alone=False):
    """Mean over seeds, and half the range where there are several."""
    values = [factor * row[name] for row in many]
    half = (max(values) - min(values)) / 2
    more = f" ± {half:.{digits}f}" if len(values) > 1 and not alone else ""
    return f"{np.mean(values):.{digits}f}{more}"


def responses(found):
    """The greedy responses and the most probable ones."""
    columns = [Column("response"), Column("SMILES"), Column("valid")]
    columns += [Column("log π", ".2f", "right"), Column("QED", ".2f", "right"), Column("proven")]
    rows = [
        (
            name,
            f"`{one['smiles']}`",
            "yes" if one["valid"] else "no",
            one["log_prob"],
            one["qed"],
            one["proven"],
        )
        for name, one in found["most-probable"]["responses"].items()
    ]
    return Table("", columns, rows).markdown()


def times_table(times):
    """Seconds of each job."""
    rows = [(name, f"{wall:.0f}", f"{cpu:.0f}") for name, (wall, cpu) in times.items()]
    return markdown(["job", "seconds", "of CPU"], rows)


# --- The exact optimum ----------------------------------------------------------------------------


def optima(found):
    """The exact optimum ``∝ π̂ · π_r^{1/β}`` of PPO (α = 1), where the enumerated responses have it.

    With `π_r` the model whose reward is maximised, all `τ` with ``π_r(τ) ≥ e^t`` are enumerated;
    the others weigh together at most ``e^{t/β} · Σ π̂(τ)``. Rows where that is over a hundredth of
    the whole are left out.
    """
    rows = {}
    for reward, name, least in (("own", "small", -12.5), ("large", "large", -11.5)):
        one = found[f"enumerated-{name}"]
        prior, log_reward = np.array(one["small"]), np.array(one[name])
        molecules = [read_molecule(text) for text in one["smiles"]]
        for beta in BETAS:
            b = float(beta)
            weights = prior + log_reward / b
            total = np.logaddexp.reduce(weights)
            rest = least / b + np.log1p(-np.exp(prior).sum())
            if rest - total > np.log(0.01):
                continue
            row = of_distribution(np.exp(weights - total), molecules)
            row |= {
                "objective": [b * total, b * np.logaddexp(total, rest)],
                "rest": float(np.exp(rest - total)),
                "kl": float(np.exp(weights - total) @ (weights - total - prior)),
                "best": one["smiles"][int(weights.argmax())],
                "share_of_best": float(np.exp(weights.max() - total)),
            }
            start = float(np.mean(found["untrained"]["columns"][f"{name}_log_prob"]))
            row["start"] = start
            runs = [r for k, r in found.items() if k.rpartition("-")[0] == f"{reward}-{beta}"]
            if not runs:
                continue
            row["reached"] = [
                float(np.mean([c["reward"] - b * c["kl"] for c in run["curve"][-5:]]))
                for run in runs
            ]
            rows[f"{reward}-{beta}"] = row
    return rows


def of_distribution(p, molecules):
    """Metrics of a distribution over texts: expectations, for 1,000 samples."""
    valid = np.array([m is not None for m in molecules])
    kept = [m for m in molecules if m is not None]
    q = p[valid] / p[valid].sum()
    prints = [m.fingerprint for m in kept]
    similar = np.array([DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints])
    names = {m.smiles for m in kept}
    shares = np.array([q[[m.smiles == name for m in kept]].sum() for name in names])
    return {
        "validity": float(p[valid].sum()),
        "uniqueness": float((1 - (1 - shares) ** 1000).sum() / 1000),
        "diversity": float(q @ (1 - similar) @ q),
        "qed": float(q @ [m.qed for m in kept]),
        "heavy_atoms": float(q @ [m.heavy_atoms for m in kept]),
    }


def optimum_table(rows):
    """The optimum beside what PPO has reached of the objective."""
    columns = ["most probable", "its share", "valid %", "different %", "QED", "heavy atoms"]
    columns += ["`J(π̂)`", "`J(π)`", "`J(π*)`", "share of the way"]
    lines = []
    for kind, row in rows.items():
        reached = np.array(row["reached"])
        share = (reached - row["start"]) / (row["objective"][0] - row["start"])
        cells = [
            f"`{row['best']}`",
            f"{row['share_of_best']:.1%}",
            f"{100 * row['validity']:.1f}",
            f"{100 * row['uniqueness']:.2f}",
            f"{row['qed']:.3f}",
            f"{row['heavy_atoms']:.1f}",
            f"{row['start']:.2f}",
            ", ".join(f"{x:.2f}" for x in reached),
            f"{row['objective'][0]:.3f}",
            ", ".join(f"{x:.0%}" for x in share),
        ]
        lines.append((named(kind).removeprefix("PPO, "), *cells))
    return markdown(["optimum of PPO on", *columns], lines)


# --- What the reward knows ------------------------------------------------------------------------

SIGNALS = {
    "small_log_prob": ("own reward r̂(τ)", PALETTE[3]),
    "small_mean": ("own, mean of a token", PALETTE[3]),
    "small_worst": ("own, its lowest token", PALETTE[3]),
    "large_log_prob": ("larger model's r̂(τ)", PALETTE[0]),
    "large_mean": ("larger, mean of a token", PALETTE[0]),
    "large_worst": ("larger, its lowest token", PALETTE[0]),
    "ratio": ("larger − own", PALETTE[4]),
    "shorter": ("fewer tokens (no model)", "#555555"),
}


def knows(columns):
    """How a reward orders valid before invalid samples, and how it goes with QED, with intervals.

    ``auc``: probability that a valid sample has more than an invalid one; ``auc_same_length``: of
    pairs with equal numbers of tokens. ``qed``: Spearman's correlation over valid samples;
    ``qed_same_length``: the partial one, given the number of tokens.
    """
    tokens = np.array(columns["tokens"])
    valid = np.array(columns["valid"])
    signals = {name: np.array(columns[name]) for name in SIGNALS if name in columns}
    signals["ratio"] = signals["large_log_prob"] - signals["small_log_prob"]
    signals["shorter"] = -tokens.astype(float)
    qed = np.array([q for q in columns["qed"] if q is not None])
    same = tokens[valid][:, None] == tokens[~valid][None, :]
    rng = np.random.default_rng(0)
    good, bad = int(valid.sum()), int((~valid).sum())
    weights = [
        np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)])
        for n in (good, bad)
    ]
    weights = [np.vstack([np.ones(n), w]) for n, w in zip((good, bad), weights, strict=True)]
    picks = [np.arange(good), *(rng.integers(good, size=good) for _ in range(RESAMPLES))]
    total = good * bad
    pairs = np.einsum("bi,bi->b", weights[0] @ same.astype(float), weights[1])
    found = {}
    for name, signal in signals.items():
        one, other = signal[valid][:, None], signal[~valid][None, :]
        wins = (one > other) + 0.5 * (one == other)
        auc = np.einsum("bi,bi->b", weights[0] @ wins, weights[1]) / total
        within = np.einsum("bi,bi->b", weights[0] @ (wins * same), weights[1]) / pairs
        rho = [correlations(signal[valid][i], qed[i], tokens[valid][i]) for i in picks]
        plain, partial = np.array(rho).T
        found[name] = {
            "auc": with_interval(auc),
            "auc_same_length": None if name == "shorter" else with_interval(within),
            "qed": with_interval(plain),
            "qed_same_length": None if name == "shorter" else with_interval(partial),
        }
    return {"n_valid": good, "n_invalid": bad, "signals": found}


def correlations(x, y, given):
    """Return Spearman's correlation of `x` and `y`, and the partial one given a third."""
    a, b, c = (stats.rankdata(v) for v in (x, y, given))
    r = np.corrcoef([a, b, c])
    free = np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    return r[0, 1], (r[0, 1] - r[0, 2] * r[1, 2]) / free if free > 1e-9 else np.nan


def with_interval(values):
    """Return the value (the first) and the 95 % bootstrap interval of the others."""
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(values[0]), float(low), float(high)]


def knows_table(found):
    """The same as a table."""
    lines = []
    for name, one in found["signals"].items():
        cells = ["–" if v is None else f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for v in one.values()]
        lines.append((SIGNALS[name][0], *cells))
    heads = ["signal", "AUC", "AUC, same length", "rank corr. with QED", "given length"]
    counted = f"{found['n_valid']} valid, {found['n_invalid']} invalid samples"
    return f"{counted}\n\n{markdown(heads, lines)}"


def knows_figure(found):
    """Draw AUCs and correlations as points with intervals: all samples, and at equal length."""
    figure = Figure(figsize=(8.4, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(found["signals"])[::-1]
    for axes, plain, within in (
        (left, "auc", "auc_same_length"),
        (right, "qed", "qed_same_length"),
    ):
        for y, name in enumerate(names):
            color = SIGNALS[name][1]
            for shift, what, face in ((0.14, plain, color), (-0.14, within, "white")):
                point = found["signals"][name][what]
                if point is None:
                    continue
                axes.plot(point[1:], [y + shift] * 2, color=color, lw=1.6)
                axes.plot(point[0], y + shift, "o", ms=6, color=color, mfc=face, mew=1.4)
        axes.grid(axis="x", alpha=0.3, lw=0.4)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    left.axvline(0.5, color="0.5", lw=0.9, ls="--")
    right.axvline(0, color="0.5", lw=0.9, ls="--")
    left.set_yticks(range(len(names)), [SIGNALS[name][0] for name in names], fontsize=9)
    left.set_xlabel("AUC: a valid sample scores above an invalid one\n(0.5: knows nothing)")
    right.set_xlabel("rank correlation with QED, valid samples\n(0: knows nothing)")
    marks = [
        Line2D([], [], marker="o", color="0.3", mfc=face, ls="", ms=6, mew=1.4)
        for face in ("0.3", "white")
    ]
    labels = ["all samples", "samples of the same length"]
    figure.legend(marks, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(
        f"What the reward knows of {found['n_valid'] + found['n_invalid']:,} molecules that "
        "smiles-small wrote",
        fontsize=10.5,
    )
    return figure


# --- Over-optimisation ----------------------------------------------------------------------------


def curves(found):
    """Draw each metric against the batch: a row for each reward, a colour for each β."""
    start = found["temperatures"]["temperatures"]["1"]
    cold = found["temperatures"]["temperatures"]["0.4"]
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True)
    for line, (reward, told) in zip(grid, OF.items(), strict=True):
        for axes, (metric, label) in zip(line, METRICS.items(), strict=True):
            axes.axhline(start[metric], color="0.55", lw=1, ls="--")
            axes.axhline(cold[metric], color="black", lw=1, ls=":")
            for beta in BETAS:
                draw_runs(axes, found, f"{reward}-{beta}", metric, COLORS[beta])
            if reward == "large":
                draw_runs(axes, found, "soft-large", metric, SOFT)
            axes.set_ylim(0.3 if metric == "qed" else 0, 1.03)
            if metric == "validity":
                axes.set_ylim(0.8, 1.01)
                axes.set_ylabel(f"PPO on\n{told}", fontsize=10)
            if reward == "own":
                axes.set_title(label, fontsize=10)
            else:
                axes.set_xlabel("batch of 128 samples")
            axes.grid(alpha=0.3, lw=0.4)
            axes.spines[["top", "right"]].set_visible(False)
    marks = [Line2D([], [], color=COLORS[b], lw=2, label=f"β = {b}") for b in BETAS]
    marks += [Line2D([], [], color=SOFT, lw=2, label="soft RL (entropy bonus, β = 0)")]
    marks += [Line2D([], [], color="0.55", lw=1, ls="--", label="untrained")]
    marks += [Line2D([], [], color="black", lw=1, ls=":", label="untrained, temperature 0.4")]
    figure.legend(handles=marks, loc="outside lower center", ncols=8, fontsize=8.5, frameon=False)
    return figure


def draw_runs(axes, found, kind, metric, color):
    """Draw the mean over seeds, and the range; the last point is of 1,000 samples."""
    runs = [one for name, one in found.items() if name.rpartition("-")[0] == kind]
    if not runs:
        return
    lines = []
    for run in runs:
        points = [(c["batch"], c[metric]) for c in run["curve"] if metric in c]
        lines.append([*points, (len(run["curve"]), run["after"][metric])])
    x = [point[0] for point in lines[0]]
    y = np.array([[point[1] for point in line] for line in lines], dtype=float)
    axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=color, alpha=0.18, lw=0)
    axes.plot(x, y.mean(axis=0), color=color, lw=1.6)
    axes.plot(x[-1], y.mean(axis=0)[-1], "o", color=color, ms=4)


def frontier(rows, found, optimum):
    """Draw each metric against the distance from the untrained model: PPO's way, and decoding's."""
    figure = Figure(figsize=(11.5, 4.1), layout="constrained")
    for axes, (metric, label) in zip(figure.subplots(1, 4), METRICS.items(), strict=True):
        path = {
            float(name.split()[1]): many[0]
            for name, many in rows.items()
            if name.startswith("temperature")
        }
        points = [(row["kl"], row[metric]) for row in path.values()]
        axes.plot(*zip(*points, strict=True), color="black", lw=1.4, marker="s", ms=4, zorder=4)
        shift = (4, -11) if metric in ("validity", "qed") else (4, 4)
        for temperature in (0.5,) if metric == "validity" else (0.5, 0.3, 0.2):
            row = path[temperature]
            axes.annotate(
                f"T = {temperature:g}",
                (row["kl"], row[metric]),
                xytext=shift,
                textcoords="offset points",
                fontsize=8,
                zorder=5,
            )
        best = [rows[f"best of {k}, own reward"][0] for k in (4, 16)]
        axes.plot(
            [r["kl"] for r in best],
            [r[metric] for r in best],
            "*",
            color="#d98a1f",
            ms=11,
            mec="white",
            mew=0.5,
            zorder=6,
        )
        for kind, color in ways():
            runs = [one for name, one in found.items() if name.rpartition("-")[0] == kind]
            if not runs:
                continue
            line = "-" if kind.startswith("own") else "--"
            x, y = (smooth([along(run, what) for run in runs]) for what in ("kl", metric))
            axes.plot(x, y, line, color=color, lw=1.3, alpha=0.9)
            axes.plot(x[-1], y[-1], "o" if line == "-" else "^", color=color, ms=6, zorder=5)
            if kind in optimum and kind.startswith("own"):
                there = optimum[kind]
                axes.plot(there["kl"], there[metric], "X", color=color, ms=8, mec="white", zorder=7)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("KL(π‖untrained), nats")
        if metric == "validity":
            axes.set_ylim(0.85, 1.01)
        axes.grid(alpha=0.3, lw=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    grey = "0.35"
    star = {"color": "#d98a1f", "ls": "", "marker": "*", "ms": 11, "mec": "white"}
    marks = [
        Line2D([], [], color="black", lw=1.4, marker="s", ms=4, label="no training: temperature T"),
        Line2D([], [], **star, label="no training: best of 4, of 16 by own reward"),
        Line2D([], [], color=grey, marker="o", ms=6, label="PPO on own reward, 40 batches"),
        Line2D([], [], color=grey, ls="", marker="X", ms=8, mec="white", label="its exact optimum"),
        Line2D([], [], color=grey, ls="--", marker="^", ms=6, label="PPO on larger model's reward"),
        Line2D([], [], color=SOFT, ls="--", marker="^", ms=6, label="soft RL on it"),
    ]
    marks += [Line2D([], [], color=COLORS[b], lw=4, label=f"β = {b}") for b in BETAS]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    return figure


def along(run, what):
    """Return a metric of the batches on which it was measured, and of the policy at the end."""
    rows = [row for row in run["curve"] if "validity" in row]
    return [*(row[what] for row in rows), run["after"][what]]


def smooth(many):
    """Average over seeds and three neighbours; the end, of more samples, over seeds."""
    mean = np.mean(many, axis=0)
    return np.append(np.convolve(mean[:-1], np.ones(3) / 3, mode="valid"), mean[-1])


def ways():
    """The kinds of trained policies, with their colours."""
    for reward in OF:
        for beta in BETAS:
            yield f"{reward}-{beta}", COLORS[beta]
    yield "soft-large", SOFT
