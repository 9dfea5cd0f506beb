"""Tables (Markdown, on standard output) and the two figures of what ``validation.py`` has
written.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from resumable import markdown, results

from llm_bridge.check.diagonal import MARKERS, diagonal_figure
from llm_bridge.check.points import Point, deviations
from theory.reports.figures import PALETTE
from theory.reports.report import save_figure

MODELS = ("add-small", "add-fair", "add-good", "add-poor", "add-teacher")
PROBLEMS = {"tree": "random tree", "window": "window of two tokens", "coin": "coin–payoff"}
SIZES, NUMBERS, SEEDS = ("4k", "40k", "260k"), (300, 3000, 30_000), (0, 1)
SHORT = {
    "value of sampling": "sampling",
    "value of greedy decoding": "greedy",
    "value of the MAP response": "MAP",
    "value of π̂^2": "`π̂²`",
    "preference agreement": "agreement",
    "mean preference error (TV)": "mean TV",
}
FAMILIES = {
    "addition": "models of addition (5)",
    "trained": "trained here on demonstrations",
}


def report(out):
    """Whatever is there."""
    found = results(out)
    print(
        f"{len(found)} jobs, {sum(job['cpu_seconds'] for job in found.values()) / 60:.1f} minutes "
        "of one core\n"
    )
    for table in (
        on_the_diagonal,
        planted,
        addition,
        distances,
        steps,
        agreements,
        epsilons,
        values,
    ):
        print(f"{table(found)}\n")
    save_figure(both_families(found), out, "predicted_measured")
    save_figure(curves_figure(found), out, "validation_curves")


def points_of(rows, **wanted):
    """Those whose fields are as wanted; `how` is one of a file's."""
    kept = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return [Point(**{name: row[name] for name in Point._fields if name in row}) for row in kept]


def family(found, name):
    """Rows of all of its models."""
    long = {"trained": ("trained", "long")}.get(name, (name,))
    return [row for stem, job in found.items() if stem.startswith(long) for row in job["points"]]


# --- Predicted and measured -----------------------------------------------------------------------


def on_the_diagonal(found):
    """Both families, all models: how many points, how many of them on the diagonal."""
    heads = ["quantity", "points", "on the diagonal", "largest deviation", "largest gap"]
    rows = []
    for name in FAMILIES:
        for quantity, d in deviations(points_of(family(found, name))).items():
            rows.append(
                (
                    f"{name}: {quantity}",
                    d.points,
                    f"{d.share:.1%}",
                    f"{d.largest:.2f}",
                    f"{d.gap:.1e}",
                )
            )
    return markdown(heads, rows)


def planted(found):
    """Share of points on the diagonal where what is measured has an error."""
    jobs = found["planted-add-fair"]["planted"]
    heads = ["planted in `add-fair`", *(SHORT.get(quantity, quantity) for quantity in MARKERS)]
    rows = []
    for what, some in jobs.items():
        d = deviations(points_of(some))
        shown = [f"{d[q].share:.0%} ({d[q].largest:.2g})" if q in d else "–" for q in MARKERS]
        rows.append((what, *shown))
    return markdown(heads, rows)


def addition(found):
    """Predicted, and below it measured with its interval."""
    columns = [("", name) for name in list(MARKERS)[3:7]]
    columns += [(how, name) for how in ("expert 0", "expert 0.5") for name in list(MARKERS)[7:]]
    heads = ["model", *(f"{SHORT[name]}{', ' + how if how else ''}" for how, name in columns)]
    rows = []
    for model in MODELS:
        some = [
            points_of(found[f"addition-{model}"]["points"], quantity=name, how=how)[0]
            for how, name in columns
        ]
        rows.append((f"{model}, predicted", *(f"{p.predicted:.4f}" for p in some)))
        rows.append(
            ("… measured", *(f"{p.measured:.4f} [{p.low:.4f}, {p.high:.4f}]" for p in some))
        )
    return markdown(heads, rows)


# --- The self-trained family ----------------------------------------------------------------------


def runs(found, problem, size, n):
    """Curves of all seeds."""
    return [found[f"trained-{problem}-{size}-{n}-{seed}"]["curve"] for seed in SEEDS]


def at_the_end(found, problem, size, n, quantity):
    """One number for each seed."""
    return [curve[-1][quantity] for curve in runs(found, problem, size, n)]


def at_its_best(found, problem, size, n):
    """Least distance to the truth on the way, for each seed."""
    return [min(row["to_truth"] for row in curve) for curve in runs(found, problem, size, n)]


def counted(found, problem, n, way, quantity):
    """Of the tabular fit, one number for each data set."""
    return [row[way][quantity] for row in found[f"tabular-{problem}-{n}"]["rows"]]


def tabular_columns(found, problem, n, quantity, digits=3):
    """Prefix counts, back-off and counts of the MDP's own states: mean over the data sets."""
    columns = []
    for way in ("prefixes", "back-off", "states"):
        numbers = counted(found, problem, n, way, quantity)
        columns.append(
            "same" if way == "states" and problem == "tree" else f"{np.mean(numbers):.{digits}f}"
        )
    return columns


def distances(found):
    """To the truth, at the end of training and, after a slash, at the best step (by the truth,
    which no user has).
    """
    columns = ("counts of prefixes + ½", "best number added", "back-off", "counts of states + ½")
    heads = ["distance to the truth", *columns, *SIZES]
    rows = []
    for problem, name in PROBLEMS.items():
        for n in NUMBERS:
            cells = [
                f"{np.mean(at_the_end(found, problem, size, n, 'to_truth')):.3f}"
                f" / {np.mean(at_its_best(found, problem, size, n)):.3f}"
                for size in SIZES
            ]
            fits = tabular_columns(found, problem, n, "to_truth")
            fits.insert(1, best_smoothing(found, problem, n))
            rows.append((f"{name}, n = {n:,}", *fits, *cells))
    return markdown(heads, rows)


def best_smoothing(found, problem, n):
    """Of the numbers to add to a prefix's counts the one that ends nearest to the truth: as unfair
    as the best step.
    """
    rows = [row["smoothing"] for row in found[f"tabular-{problem}-{n}"]["rows"]]
    mean = {added: np.mean([row[added] for row in rows]) for added in rows[0]}
    best = min(mean, key=mean.get)
    return f"{mean[best]:.3f} ({best})"


def steps(found):
    """With the steps: to the truth and, after a slash, to the unsmoothed fit of the same
    demonstrations.
    """
    every = [row["step"] for row in runs(found, "tree", "260k", 300)[0]]
    heads = ["260k, to the truth / to the fit, at step", *map(str, every)]
    rows = []
    for problem, name in PROBLEMS.items():
        for n in NUMBERS:
            curves = runs(found, problem, "260k", n)
            cells = [
                " / ".join(
                    f"{np.mean([curve[k][to] for curve in curves]):.3f}"
                    for to in ("to_truth", "to_fit")
                )
                for k in range(len(every))
            ]
            rows.append((f"{name}, n = {n:,}", *cells))
    if "long-tree-260k-30000-0" in found:
        curve = found["long-tree-260k-30000-0"]["curve"]
        cells = [
            f"{row['to_truth']:.3f} / {row['to_fit']:.3f} (step {row['step']:,})" for row in curve
        ]
        rows.append(("random tree, n = 30,000, three times the steps", *cells))
    return markdown(heads, rows)


def agreements(found):
    """Exact preference agreement with the truth."""
    heads = [
        "agreement, uniform pairs / half of the expert",
        "prefixes + ½",
        "back-off",
        "states + ½",
        *SIZES,
    ]
    rows = []
    names = ("agreement_0", "agreement_0.5")
    for problem, name in PROBLEMS.items():
        for n in NUMBERS:
            tables = zip(*(tabular_columns(found, problem, n, q) for q in names), strict=True)
            cells = [" / ".join(dict.fromkeys(pair)) for pair in tables]
            for size in SIZES:
                cells.append(
                    " / ".join(
                        f"{np.mean(at_the_end(found, problem, size, n, q)):.3f}" for q in names
                    )
                )
            rows.append((f"{name}, n = {n:,}", *cells))
    return markdown(heads, rows)


def epsilons(found):
    """The largest log-ratio to the expert on the whole tree."""
    heads = [
        "`ε_π` (nats)",
        "counts, no smoothing",
        "prefixes + ½",
        "back-off",
        "states + ½",
        *SIZES,
    ]
    rows = []
    for problem, name in PROBLEMS.items():
        for n in NUMBERS:
            plain = counted(found, problem, n, "unsmoothed", "epsilon")
            first = "∞" if np.isinf(plain).all() else f"∞ in {np.isinf(plain).mean():.0%}"
            cells = [
                f"{np.mean(at_the_end(found, problem, size, n, 'epsilon')):.2f}" for size in SIZES
            ]
            rows.append(
                (
                    f"{name}, n = {n:,}",
                    first,
                    *tabular_columns(found, problem, n, "epsilon", 2),
                    *cells,
                )
            )
    return markdown(heads, rows)


def values(found):
    """Gap of the plain value to the best, of four policies: of the expert, of the tabular fit, of
    the largest model.
    """
    kinds = ("sampling", "greedy", "map", "power")
    heads = ["gap to `max_π V^π`: sampling, greedy, MAP, `π̂²`", "expert", "prefixes + ½", *SIZES]
    rows = []
    for problem, name in PROBLEMS.items():
        for n in NUMBERS:
            table = found[f"tabular-{problem}-{n}"]
            best = table["best"]
            fits = counted(found, problem, n, "prefixes", "values")
            models = [at_the_end(found, problem, size, n, "values") for size in SIZES]
            cells = [
                ", ".join(f"{best - np.mean([one[kind] for one in some]):.3f}" for kind in kinds)
                for some in ([table["expert"]], fits, *models)
            ]
            rows.append((f"{name}, n = {n:,}", *cells))
    return markdown(heads, rows)


# --- Figures --------------------------------------------------------------------------------------


def both_families(found):
    """Predicted against measured, and in grey what shows where an error is planted."""
    wrong = [row for some in found["planted-add-fair"]["planted"].values() for row in some]
    far = [point for point in points_of(wrong) if point.deviation > 2]
    series = {text: points_of(family(found, name)) for name, text in FAMILIES.items()}
    return diagonal_figure(series, {"an error planted (add-fair), where it shows": far})


def curves_figure(found):
    """The reward's distance to the truth up to the gauge: against the training step, and against
    demonstrations.
    """
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    rows = figure.subplots(2, 3, sharey="row")
    by_number = dict(zip(NUMBERS, (PALETTE[1], PALETTE[2], PALETTE[3]), strict=True))
    by_size = dict(zip(SIZES, (PALETTE[4], PALETTE[0], PALETTE[6]), strict=True))
    for problem, top, bottom in zip(PROBLEMS, rows[0], rows[1], strict=True):
        for n, color in by_number.items():
            curves = runs(found, problem, "260k", n)
            x = [row["step"] for row in curves[0]]
            for to, style in (
                ("to_truth", {"ls": "-", "marker": "o", "ms": 3.5}),
                ("to_fit", {"ls": ":"}),
            ):
                y = np.mean([[row[to] for row in curve] for curve in curves], axis=0)
                top.loglog(x, y, color=color, lw=1.6, **style)
            top.axhline(
                np.mean(counted(found, problem, n, "prefixes", "to_truth")),
                color=color,
                lw=0.9,
                ls="--",
            )
        for size, color in by_size.items():
            ends = [np.mean(at_the_end(found, problem, size, n, "to_truth")) for n in NUMBERS]
            best = [np.mean(at_its_best(found, problem, size, n)) for n in NUMBERS]
            bottom.loglog(NUMBERS, ends, color=color, marker="o", ms=4, lw=1.6)
            bottom.loglog(NUMBERS, best, color=color, marker="o", ms=4, mfc="white", lw=1.1, ls=":")
        for way, style in (("prefixes", "--"), ("states", "-.")):
            if way != "states" or problem != "tree":
                y = [np.mean(counted(found, problem, n, way, "to_truth")) for n in NUMBERS]
                bottom.loglog(NUMBERS, y, color="0.25", ls=style, lw=1.3)
        top.set_title(PROBLEMS[problem], fontsize=10)
        finish(top, x, "training step, 260k parameters")
        finish(bottom, NUMBERS, "demonstrations $n$")
    rows[0, 0].set_ylabel("distance of rewards\nup to the gauge (reward units)", fontsize=9)
    rows[1, 0].set_ylabel("distance to the truth\nup to the gauge (reward units)", fontsize=9)
    styles = (
        ("-", "o", "0.2", "to the truth"),
        (":", "", None, "to the fit of its data,\nno smoothing"),
        ("--", "", None, "counts of prefixes + ½,\nto the truth"),
    )
    key(rows[0, 2], {f"$n={n:,}$": color for n, color in by_number.items()}, styles)
    styles = (
        ("-", "o", "0.2", "last step"),
        (":", "o", "white", "best step in hindsight"),
        ("--", "", None, "counts of prefixes + ½"),
        ("-.", "", None, "counts of states + ½"),
    )
    key(rows[1, 2], {f"{size} parameters": color for size, color in by_size.items()}, styles)
    return figure


def finish(axes, ticks, label):
    """Log axes with these ticks, as plain numbers."""
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label, fontsize=9)
    axes.grid(alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def key(axes, colors, styles):
    """What colours and styles say, right of the axes."""
    lines = [Line2D([], [], color=color, lw=3, label=label) for label, color in colors.items()]
    lines += [
        Line2D([], [], color="0.2", ls=ls, marker=marker or None, mfc=fill, ms=4, label=label)
        for ls, marker, fill, label in styles
    ]
    axes.legend(
        handles=lines, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False
    )
