"""Several runs of ``endorm ppo`` on one task: two tables in Markdown, and one figure.

    python benchmarks/ppo_seeds.py RUN… --figure docs/figures/smollm2_ppo

Each `RUN` is the folder of a run that was measured by sampling. The first table is how near the
optimum each run came, the second how many answers are right, and what decoding gives without
training.
"""

import argparse
import json
from math import isnan
from pathlib import Path

from matplotlib.figure import Figure

from llm_bridge.improve.report import share_of_the_way
from llm_bridge.improve.run import read_metrics
from theory.reports.figures import CLONE, PALETTE, RL
from theory.reports.report import Column, Table, save_figure


def between(row, name, digits=3):
    """A number with its interval; where it is only enclosed, its bounds."""
    low, high = (f"{row[f'{name}_{end}']:.{digits}f}" for end in ("low", "high"))
    if name in row and not isnan(row[name]):
        return f"{row[name]:.{digits}f} [{low}, {high}]"
    return low if low == high else f"{low} to {high}"


class Run:
    """A run: its hyperparameters, and the rows of its evaluations."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        rows = read_metrics(folder)
        self.task = next(name for name in rows[0] if "/" in name).split("/")[0]
        self.rows = [row for row in rows if f"{self.task}/objective" in row]
        self.seconds = sum(row["seconds"] for row in rows)
        self.first, self.last = self.rows[0], self.rows[-1]

    def at(self, row, name, digits=3):
        """A quantity of the task, with its interval where there is one."""
        name = f"{self.task}/{name}"
        return between(row, name, digits) if f"{name}_low" in row else f"{row[name]:.{digits}f}"

    def objective(self):
        """Where the run is, and where it must end."""
        way = share_of_the_way(self.first, self.last, self.task)
        known = "" if way is None or way.value is None else f"{way.value:.0%} "
        return (
            f"{self.config['beta']:g}",
            self.config["seed"],
            self.last["step"],
            self.at(self.first, "objective"),
            self.at(self.last, "objective"),
            self.at(self.first, "optimum", 4) if f"{self.task}/optimum_low" in self.first else "–",
            "–" if way is None else f"{known}[{way.low:.0%}, {way.high:.0%}]",
            self.at(self.last, "kl", 2),
            self.at(self.first, "entropy", 2),
            self.at(self.last, "entropy", 2),
            round(self.seconds),
        )

    def right(self):
        """Shares of right answers."""
        without = ("greedy", "best", "vote", "cold", "power")
        known = {name.removesuffix("_low") for name in self.first}
        return (
            f"{self.config['beta']:g}",
            self.config["seed"],
            self.at(self.first, "sampled"),
            self.at(self.last, "sampled"),
            self.at(self.last, "greedy"),
            *(self.at(self.first, x) if f"{self.task}/{x}" in known else "–" for x in without),
        )


def tables(runs):
    """Both, in Markdown."""
    way = ["β", "seed", "batches", "`J` before", "`J` after", "`J*`, enclosed", "of the way", "KL"]
    way += ["entropy before", "after", "seconds"]
    right = ["β", "seed", "sampled: before", "after", "greedy, after", "untrained: greedy"]
    right += ["best of k", "vote of k", "cold", "power, enclosed"]
    heads = way, right
    rows = [run.objective() for run in runs], [run.right() for run in runs]
    return "\n\n".join(
        Table("", [Column(name, "", "right") for name in names], some).markdown()
        for names, some in zip(heads, rows, strict=True)
    )


def figure(runs):
    """Objective, KL and right answers against the batch, a line for each run."""
    drawn = Figure(figsize=(11, 3.4), layout="constrained")
    panels = (("objective", "objective J, reward units"), ("kl", "KL to $\\hat\\pi$, nats"))
    panels += (("sampled", "right answers"),)
    for axes, (name, label) in zip(drawn.subplots(1, 3), panels, strict=True):
        for i, run in enumerate(runs):
            at = f"{run.task}/{name}"
            steps = [row["step"] for row in run.rows]
            color = (RL, CLONE, *PALETTE[2:])[i]
            told = f"β = {run.config['beta']:g}, seed {run.config['seed']}"
            axes.plot(steps, [row[at] for row in run.rows], "o-", ms=3, color=color, label=told)
            ends = [[row[f"{at}_{end}"] for row in run.rows] for end in ("low", "high")]
            axes.fill_between(steps, *ends, color=color, alpha=0.15, lw=0)
            if name == "objective" and f"{run.task}/optimum_low" in run.first:
                low, high = (run.first[f"{run.task}/optimum_{end}"] for end in ("low", "high"))
                axes.axhline((low + high) / 2, color=color, lw=0.9, ls="--")
            if name == "sampled":
                axes.axhline(run.first[f"{run.task}/greedy"], color=color, lw=0.9, ls=":")
        axes.set(xlabel="batch", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    objective, _, right = drawn.axes
    objective.plot([], [], color="0.3", lw=0.9, ls="--", label="$J^*$, enclosed")
    objective.legend(fontsize=8, frameon=False)
    right.plot([], [], color="0.3", lw=0.9, ls=":", label="untrained, greedy")
    right.set_ylim(0, 1)
    right.legend(handles=right.lines[-1:], fontsize=8, frameon=False)
    return drawn


def main():
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    runs = [Run(folder) for folder in arguments.runs]
    print(tables(runs))
    if arguments.figure is not None:
        save_figure(figure(runs), arguments.figure.parent, arguments.figure.name)


if __name__ == "__main__":
    main()
