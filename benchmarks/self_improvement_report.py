"""Tables (Markdown, on standard output) and figures of what ``self_improvement.py`` has written."""

import numpy as np
from matplotlib.figure import Figure
from resumable import markdown, results

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
        text = table(found)
        if text:
            print(f"{text}\n")
    for name, draw in (("self_improvement", curves), ("variance", ways)):
        figure = draw(found)
        if figure is not None:
            save_figure(figure, out, name)


def runs(found, model):
    """Those of all seeds."""
    return [
        found[f"improve-{model}-{seed}"] for seed in range(3) if f"improve-{model}-{seed}" in found
    ]


def row(name, values):
    """A row of percentages."""
    return (name, *(f"{100 * v:.1f}" for v in values))


def spread(many):
    """Mean over seeds, and half the range where there are several."""
    mean = np.mean(many)
    return f"{100 * mean:.1f}" + (f" ± {50 * (max(many) - min(many)):.1f}" if len(many) > 1 else "")


def improvement(found):
    """The paper's table in small: sampled accuracy by difficulty, before and after."""
    rows = []
    for model in STUDENTS:
        done = runs(found, model)
        if not done:
            continue

        def levels(where, how, of=done[0]):
            return [of[where][f"levels_{how}"][level] for level in LEVELS]

        def trained(how, done=done):
            return [
                spread([run["after"][f"levels_{how}"][level] for run in done]) for level in LEVELS
            ]

        seeds = f"{len(done)} seed{'s' * (len(done) > 1)}"
        rows += [
            row(f"{model} `π̂`", levels("before", "sampled")),
            (f"{model} + PPO ({seeds})", *trained("sampled")),
            row(f"{model} exact optimum `π̂^{{1+α/β}}`", levels("optimum", "sampled")),
            row(f"{model} `π̂`, greedy", levels("before", "greedy")),
            row(f"{model} `π̂`, most probable", levels("before", "map")),
            (f"{model} + PPO, greedy", *trained("greedy")),
        ]
    heads = ["sampled accuracy, %", *(NAMES.get(level, level) for level in LEVELS)]
    return markdown(heads, rows)


def objectives(found):
    """How near the exact optimum each run came."""
    rows = []
    for name, run in found.items():
        if not name.startswith(("improve", "distil", "beta", "way", "long")):
            continue
        after = run["after"]
        ends = [f"{after[x]:.3f}" for x in ("objective_start", "objective", "objective_optimum")]
        kls = [f"{after[x]:.3f}" for x in ("kl_to_optimum", "kl_to_anchor")]
        rows.append((name, *ends, f"{after['share']:.1%}", *kls, f"{run['seconds']:.0f}"))
    columns = ["`J(π̂)`", "`J(π)`", "`J(π*)`", "share", "`KL(π‖π*)`", "`KL(π‖π̂)`", "seconds"]
    return markdown(["run", *columns], rows)


def baselines(found):
    """What decoding alone gives."""
    jobs = {m: found[f"decoding-{m}"] for m in STUDENTS if f"decoding-{m}" in found}
    rows = [
        row(name, [job["decoding"][name]["average"] for job in jobs.values()])
        for name in (next(iter(jobs.values()))["decoding"] if jobs else ())
    ]
    return markdown(["accuracy on all levels, %, without training", *jobs], rows)


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
    columns = ["sampled before", "sampled after", "greedy before", "greedy after"]
    columns += ["optimum, sampled", "seconds"]
    rows = []
    for name, text in named.items():
        if name in found:
            run = found[name]
            values = [
                run[w][f"accuracy_{h}"] for h in ("sampled", "greedy") for w in ("before", "after")
            ]
            own = not name.startswith("extra")
            best = f"{100 * run['optimum']['accuracy_sampled']:.1f}" if own else "–"
            rows.append((*row(text, values), best, f"{run['seconds']:.0f}"))
    return markdown(["PPO on …", *columns], rows)


def rounds(found):
    """Iteration, by PPO and exactly."""
    rows = []
    for scheme in ("compound", "reread", "anchor"):
        for k, one in enumerate(found.get(f"iterate-{scheme}", {"rounds": []})["rounds"], 1):
            values = [one[w][n] for n in ("accuracy_sampled", "entropy") for w in ("ppo", "exact")]
            accuracies = [f"{100 * v:.1f}" for v in values[:2]]
            entropies = [f"{v:.3f}" for v in values[2:]]
            rows.append((f"{scheme}, {k}", f"{one['exponent']:g}", *accuracies, *entropies))
    columns = ["exponent", "sampled, PPO", "sampled, exact", "entropy, PPO", "entropy, exact"]
    return markdown(["scheme, round (β = 1)", *columns], rows)


def few(found):
    """A few dozen prompts, trained on and measured."""
    rows = []
    for name, run in found.items():
        if name.startswith("few-"):
            model, _, beta = name.removeprefix("few-").rpartition("-")
            after = run["after"]
            ends = [
                f"{after[x]:.4f}" for x in ("objective_start", "objective", "objective_optimum")
            ]
            share, kl = f"{after['share']:.2%}", f"{after['kl_to_optimum']:.4f}"
            rows.append((model, beta, *ends, share, kl, f"{run['wall_seconds']:.0f}"))
    columns = ["β", "`J(π̂)`", "`J(π)`", "`J(π*)`", "share", "`KL(π‖π*)`", "seconds"]
    return markdown(["32 prompts, trained on", *columns], rows)


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
