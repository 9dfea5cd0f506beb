"""Tables (Markdown, on standard output) and figures of what ``self_improvement.py`` has written."""

import numpy as np
from matplotlib.figure import Figure
from resumable import results

from theory.reports.figures import PALETTE
from theory.reports.report import save_figure

STUDENTS = ("add-small", "add-fair", "add-good", "add-poor")
LEVELS = ("carries-0", "carries-1", "carries-2", "carries-3", "thousands", "average")
NAMES = {
    "carries-0": "no carry",
    "carries-1": "1 carry",
    "carries-2": "2",
    "carries-3": "3",
    "thousands": "≥ 1000",
}


def report(out):
    """Whatever is there."""
    found = results(out)
    for table in (improvement, objectives, baselines, others, rounds, few):
        lines = table(found)
        if lines:
            print("\n".join([*lines, ""]))
    for name, draw in (("self_improvement", curves), ("variance", ways)):
        figure = draw(found)
        if figure is not None:
            save_figure(figure, out, name)


def head(first, columns):
    """First two lines of a table."""
    return [f"| {first} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]


def runs(found, model):
    """Those of all seeds."""
    return [
        found[f"improve-{model}-{seed}"] for seed in range(3) if f"improve-{model}-{seed}" in found
    ]


def row(name, values):
    """A line of percentages."""
    return f"| {name} | " + " | ".join(f"{100 * v:.1f}" for v in values) + " |"


def spread(many):
    """Mean over seeds, and half the range where there are several."""
    mean = np.mean(many)
    return f"{100 * mean:.1f}" + (f" ± {50 * (max(many) - min(many)):.1f}" if len(many) > 1 else "")


def improvement(found):
    """The paper's table in small: sampled accuracy by difficulty, before and after."""
    lines = head("sampled accuracy, %", [NAMES.get(level, level) for level in LEVELS])
    for model in STUDENTS:
        done = runs(found, model)
        if not done:
            continue
        first = done[0]
        lines.append(
            row(f"{model} `π̂`", [first["before"]["levels_sampled"][level] for level in LEVELS])
        )
        after = [
            spread([run["after"]["levels_sampled"][level] for run in done]) for level in LEVELS
        ]
        lines.append(
            f"| {model} + PPO ({len(done)} seed{'s' * (len(done) > 1)}) | "
            + " | ".join(after)
            + " |"
        )
        for name, where, how in (
            ("exact optimum `π̂^{1+α/β}`", "optimum", "sampled"),
            ("`π̂`, greedy", "before", "greedy"),
            ("`π̂`, most probable", "before", "map"),
        ):
            lines.append(
                row(f"{model} {name}", [first[where][f"levels_{how}"][level] for level in LEVELS])
            )
        greedy = [
            spread([run["after"]["levels_greedy"][level] for run in done]) for level in LEVELS
        ]
        lines.append(f"| {model} + PPO, greedy | " + " | ".join(greedy) + " |")
    return lines if len(lines) > 2 else []


def objectives(found):
    """How near the exact optimum each run came."""
    lines = head(
        "run", ["`J(π̂)`", "`J(π)`", "`J(π*)`", "share", "`KL(π‖π*)`", "`KL(π‖π̂)`", "seconds"]
    )
    for name, run in found.items():
        if not name.startswith(("improve", "distil", "beta", "way", "long")):
            continue
        after = run["after"]
        ends = [f"{after[x]:.3f}" for x in ("objective_start", "objective", "objective_optimum")]
        kls = [f"{after[x]:.3f}" for x in ("kl_to_optimum", "kl_to_anchor")]
        lines.append(
            f"| {name} | "
            + " | ".join([*ends, f"{after['share']:.1%}", *kls, f"{run['seconds']:.0f}"])
            + " |"
        )
    return lines


def baselines(found):
    """What decoding alone gives."""
    there = [m for m in STUDENTS if f"decoding-{m}" in found]
    if not there:
        return []
    lines = head("accuracy on all levels, %, without training", there)
    for name in found[f"decoding-{there[0]}"]["decoding"]:
        lines.append(
            row(name, [found[f"decoding-{m}"]["decoding"][name]["average"] for m in there])
        )
    return lines


def others(found):
    """The same loop with other rewards."""
    named = {
        "improve-add-fair-0": "its own endogenous reward, β = 0.1",
        "extra-checked": "the same + 1 for 1 % checked answers",
        "extra-bradley-terry": "a Bradley–Terry reward model, β = 0.1",
        "extra-right": "1 for the right answer, β = 0.1",
        "distil-add-fair": "the endogenous reward of `add-teacher`, β = 0.1",
        "distil-add-small": "the same, for `add-small`",
        "beta-1": "its own, β = 1",
        "beta-0.3": "its own, β = 0.3",
        "beta-0.01": "its own, β = 0.01",
    }
    lines = head(
        "PPO on …",
        ["sampled before", "sampled after", "greedy before", "greedy after", "optimum, sampled"],
    )
    for name, text in named.items():
        if name in found:
            run = found[name]
            values = [
                run[w][f"accuracy_{h}"] for h in ("sampled", "greedy") for w in ("before", "after")
            ]
            best = (
                run["optimum"]["accuracy_sampled"] if not name.startswith("extra") else float("nan")
            )
            lines.append(row(text, [*values, best]).replace("nan", "–"))
    return lines if len(lines) > 2 else []


def rounds(found):
    """Iteration, by PPO and exactly."""
    columns = ["exponent", "sampled, PPO", "sampled, exact", "entropy, PPO", "entropy, exact"]
    lines = head("scheme, round (β = 1)", columns)
    for scheme in ("compound", "reread", "anchor"):
        for k, one in enumerate(found.get(f"iterate-{scheme}", {"rounds": []})["rounds"], 1):
            values = [one[w][n] for n in ("accuracy_sampled", "entropy") for w in ("ppo", "exact")]
            shown = [
                f"{one['exponent']:g}",
                *(f"{100 * v:.1f}" for v in values[:2]),
                *(f"{v:.3f}" for v in values[2:]),
            ]
            lines.append(f"| {scheme}, {k} | " + " | ".join(shown) + " |")
    return lines if len(lines) > 2 else []


def few(found):
    """A few dozen prompts, trained on and measured."""
    lines = head(
        "32 prompts, trained on", ["β", "`J(π̂)`", "`J(π)`", "`J(π*)`", "share", "`KL(π‖π*)`"]
    )
    for name, run in found.items():
        if name.startswith("few-"):
            model, _, beta = name.removeprefix("few-").rpartition("-")
            after = run["after"]
            ends = [
                f"{after[x]:.4f}" for x in ("objective_start", "objective", "objective_optimum")
            ]
            lines.append(
                f"| {model} | "
                + " | ".join(
                    [beta, *ends, f"{after['share']:.2%}", f"{after['kl_to_optimum']:.4f}"]
                )
                + " |"
            )
    return lines if len(lines) > 2 else []


def curves(found):
    """Accuracy against the batch, with the ends that are known exactly."""
    there = [m for m in STUDENTS if found.get(f"improve-{m}-0", {}).get("curve")]
    if not there:
        return None
    figure = Figure(figsize=(3.1 * len(there), 3.4), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(there))), there, strict=True):
        run = found[f"improve-{model}-0"]
        rows = run["curve"]
        steps = np.linspace(0, 100, len(rows))
        for name, color, label in (
            ("sampled", PALETTE[3], "sampled"),
            ("greedy", PALETTE[1], "greedy"),
            ("map", PALETTE[2], "most probable"),
        ):
            axes.plot(
                steps, [r[f"accuracy_{name}"] for r in rows], "o-", ms=3, color=color, label=label
            )
        axes.axhline(
            rows[0]["accuracy_map"],
            color=PALETTE[2],
            lw=0.9,
            ls=":",
            label="$\\hat\\pi$, most probable",
        )
        axes.set(title=model, xlabel="batch", ylim=(0, 1.02))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if model == there[0]:
            axes.set_ylabel("accuracy, 60 prompts not trained on")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def ways(found):
    """The share of the way to the exact optimum, for each way to give the reward."""
    named = {
        "improve-add-fair-0": ("expected over all tokens", PALETTE[0], "-"),
        "way-dense-logprob-1": ("token drawn, logprob gauge", PALETTE[3], "-"),
        "way-dense-logits-1": ("token drawn, logits gauge", PALETTE[2], "-"),
        "way-dense-logprob-0.9": ("logprob, λ = 0.9", PALETTE[3], ":"),
        "way-dense-logits-0.9": ("logits, λ = 0.9", PALETTE[2], ":"),
    }
    there = [name for name in named if found.get(name, {}).get("curve")]
    if len(there) < 2:
        return None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name in there:
        label, color, style = named[name]
        share = [r["share"] for r in found[name]["curve"]]
        axes.plot(
            np.linspace(0, 100, len(share)),
            share,
            style,
            marker="o",
            ms=3,
            color=color,
            label=label,
        )
    axes.axhline(1, color="0.6", lw=0.8)
    axes.set(
        xlabel="batch of 1,024 responses",
        ylabel="share of the way from $J(\\hat\\pi)$ to $J(\\pi^*)$",
    )
    axes.set_ylim(-0.3, 1.05)  # what starts without a baseline first goes far below
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure
