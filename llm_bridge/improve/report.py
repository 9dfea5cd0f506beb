"""The report of ``endorm ppo``: where a run has come, against where it must end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure

from theory.reports.figures import CLONE, PALETTE, RL
from theory.reports.report import Column, Plot, Report, Section, Table, Text

__all__ = [
    "Share",
    "progress_report",
    "sampled_report",
    "samples_table",
    "share_of_the_way",
    "summary",
]

SHOWN = (
    "objective",
    "accuracy_sampled",
    "accuracy_map",
    "accuracy_greedy",
    "kl_to_anchor",
    "entropy",
)
"""What is measured exactly, and compared with the optimum."""


def progress_report(
    title: str,
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    optimum: Mapping[str, float],
    facts: Mapping[str, Any] | None = None,
    samples: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Report the first and the last row of the metrics of a run whose optimum is known exactly.

    Args:
        title: heading.
        first: metrics before training.
        last: metrics now.
        optimum: what the exact optimum has.
        facts: how it was trained, by name.
        samples: responses with their numbers, lines of ``samples.jsonl``.

    Example:
        >>> first, last = {"objective": 0.0}, {"objective": 1.5, "kl_to_optimum": 0.1}
        >>> report = progress_report("half the way", first, last, {"objective": 3.0})
        >>> report.sections[0].rows
        [('objective', 0.0, 1.5, 3.0, 0.5)]

    """
    columns = [
        Column("on prompts not trained on", kind="formula"),
        Column("π̂", ".4f", "right"),
        Column("now", ".4f", "right"),
        Column("optimum", ".4f", "right"),
        Column("share", ".0%", "right"),
    ]
    rows = []
    for name in (name for name in SHOWN if name in first and name in last):
        way = optimum[name] - first[name]
        share = (last[name] - first[name]) / way if abs(way) > 1e-3 else None
        rows.append((name, first[name], last[name], optimum[name], share))
    distance = (
        f"exact distance to the optimum: {optimum['objective'] - last['objective']:.4f} reward "
        f"units, KL(π‖optimum) = {last['kl_to_optimum']:.4f} nats"
    )
    moved = (
        f"{first['objective']:.4f} → {last['objective']:.4f}, optimum {optimum['objective']:.4f}"
    )
    share = rows[0][-1]
    way = (
        "there is no way to the exact optimum"
        if share is None
        else (f"{share:.0%} of the way to the exact optimum")
    )
    table = Table("Against the exact optimum", columns, rows)
    sections = [table, Text(distance), *samples_table(samples)]
    return Report(title, [f"Objective: {way} ({moved})."], facts or {}, sections)


def samples_table(samples: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the responses of the last batch among the samples beside their numbers; no table where
    there are none.

    Args:
        samples: lines of ``samples.jsonl``.

    Example:
        >>> line = {"step": 9, "prompt": "2+2=", "response": "4", "reward": 1.5, "log_prob": -0.25}
        >>> samples_table([line | {"step": 1}, line])[0].rows
        [('2+2=', '4', 1.5, -0.25)]

    """
    step = max((line["step"] for line in samples), default=None)
    rows = [
        (line["prompt"], line["response"], line["reward"], line["log_prob"])
        for line in samples
        if line["step"] == step
    ]
    columns = [
        Column("prompt", kind="prose"),
        Column("response", kind="prose"),
        Column("reward", ".3f", "right"),
        Column("log π", ".3f", "right"),
    ]
    title = f"Some responses of batch {step}"
    note = "Reward of the whole response, reward units; log π of all its tokens, nats."
    return [Table(title, columns, rows, note, detail=True)] if rows else []


MEASURED = {
    "objective": "objective J, reward units",
    "kl": "KL to π̂, nats",
    "entropy": "entropy, nats",
    "sampled": "right, sampled",
    "greedy": "right, greedy",
    "cut": "cut without an end",
}
"""What is sampled of a policy, see `llm_bridge.check.improvement.SampledTarget.report`."""

DECODED = {
    "sampled": "sampled",
    "cold": "sampled, each token from π̂(·|s)^κ",
    "greedy": "greedy",
    "map": "most probable response found",
    "best": "best of {k} by reward",
    "vote": "vote of {k}",
}
"""Ways to decode the untrained model, see `llm_bridge.check.improvement.SampledTarget.start`."""


POWER = "sampled from the optimum π̂^κ, enclosed"
"""The same of the optimum itself, whose probability of a right answer is between two bounds."""


@dataclass(frozen=True)
class Share:
    """Share of the way from `π̂` to the optimum, and the interval that sampling leaves.

    Attributes:
        value: the share; `None` where the optimum is only enclosed, not estimated.
        low: least share within the intervals of both policies and the bounds of the optimum; one
            that is only estimated is taken as it is.
        high: largest share.

    """

    value: float | None
    low: float
    high: float


def share_of_the_way(
    first: Mapping[str, float], last: Mapping[str, float], name: str
) -> Share | None:
    """Compute how much of the way to the optimum a policy has gone, from sampled metrics.

    Args:
        first: metrics before training.
        last: metrics now.
        name: name of the task.

    Returns:
        `None` where nothing bounds the optimum, or no way to it is certain.

    Example:
        >>> names = ("a/objective", "a/objective_low", "a/objective_high")
        >>> first = dict.fromkeys(names, 0.0) | {"a/optimum_low": 1.0, "a/optimum_high": 1.0}
        >>> share_of_the_way(first, dict.fromkeys(names, 0.5), "a")
        Share(value=0.5, low=0.5, high=0.5)

    """
    at = f"{name}/objective"
    best = _number(first, f"{name}/optimum")
    low = first.get(f"{name}/optimum_low", best)
    high = first.get(f"{name}/optimum_high", best)
    if at not in last or low is None or high is None or not low > first[f"{at}_high"]:
        return None
    # it grows with J(π), and falls with J(π̂) and J* wherever it is below 1
    ends = [
        (last[at + end] - start) / (best_end - start)
        for end in ("_low", "_high")
        for start in (first[f"{at}_low"], first[f"{at}_high"])
        for best_end in (low, high)
    ]
    if best is not None:  # it is sampled, and may miss the bounds that are certain
        best = min(max(best, low), high)
    elif high - low <= 0.01 * (low - first[at]):
        best = (low + high) / 2
    value = None if best is None else (last[at] - first[at]) / (best - first[at])
    return Share(value, min(ends), max(ends))


def _number(row: Mapping[str, float], name: str) -> float | None:
    """Return a number of a row; `None` where it is missing or NaN."""
    value = row.get(name)
    return None if value is None or math.isnan(value) else value


def summary(
    first: Mapping[str, Any], last: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Return a run's metrics before and after training, and its share of the way, for JSON.

    Example:
        >>> summary({"step": 0, "a/kl": 0.0}, {"step": 9, "kl": 1.0, "a/kl": 2.0}, ["a"])["last"]
        {'step': 9, 'a/kl': 2.0}

    """
    of_tasks = tuple(f"{name}/" for name in names)
    before, now = (
        {name: x for name, x in row.items() if name == "step" or name.startswith(of_tasks)}
        for row in (first, last)
    )
    ways = {name: share_of_the_way(before, now, name) for name in names}
    shares = {name: None if way is None else asdict(way) for name, way in ways.items()}
    return {"first": before, "last": now, "share": shares}


def sampled_report(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    samples: int,
    facts: Mapping[str, Any] | None = None,
    lines: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Report what sampling says of a run: the objective and its optimum, accuracy, and how much of
    the gain decoding gives without training.

    Args:
        title: heading.
        rows: metrics of the evaluations, the first before training.
        names: names of the tasks.
        samples: responses to each prompt.
        facts: how it was trained, by name.
        lines: responses with their numbers, lines of ``samples.jsonl``.

    Example:
        >>> row = {"step": 0, "a/sampled": 0.5, "a/greedy": 0.75}
        >>> later = {"step": 9, "a/sampled": 0.7, "a/greedy": 0.75}
        >>> sampled_report("a run", [row, later], ["a"], 8).summary[0]
        'a: sampled accuracy 0.500 → 0.700; without training: greedy 0.750.'

    """
    first = rows[0]
    last = rows[-1]
    summary = []
    sections: list[Section] = []
    for name in names:
        ways = {
            text.format(k=samples): f"{name}/{way}"
            for way, text in DECODED.items()
            if f"{name}/{way}" in first
        }
        others = [f"{text} {first[at]:.3f}" for text, at in ways.items() if at != f"{name}/sampled"]
        summary.append(
            f"{name}: sampled accuracy {first[f'{name}/sampled']:.3f} → "
            f"{last[f'{name}/sampled']:.3f}; without training: {', '.join(others)}."
        )
        columns = [Column(name), Column("π̂", "", "right"), Column("now", "", "right")]
        cells = [
            (text, _interval(first, f"{name}/{of}"), _interval(last, f"{name}/{of}"))
            for of, text in MEASURED.items()
            if f"{name}/{of}" in first
        ]
        # what the task measures of all responses together
        further = [at.removeprefix(f"{name}/") for at in last if at.startswith(f"{name}/")]
        cells += [
            (of, _interval(first, f"{name}/{of}"), _interval(last, f"{name}/{of}"))
            for of in further
            if of not in MEASURED and not of.endswith(("_low", "_high"))
        ]
        note = (
            "held-out prompts, responses sampled; [95 % interval of the sampling], of no width "
            "where all draws agree"
        )
        decoded = [Column("right, without training"), Column("π̂", "", "right")]
        shares = [(text, _interval(first, at)) for text, at in ways.items()]
        if f"{name}/power_low" in first:
            low, high = (first[f"{name}/power_{end}"] for end in ("low", "high"))
            shares.append((POWER, f"{low:.3f} to {high:.3f}"))
        sections.append(Table("", columns, cells, note))
        sections.append(Table("", decoded, shares, _proven(first, name)))
        sections.append(Text(_optimum_sentence(first, last, name)))
        if len(rows) > 1:
            sections.append(_plot(rows, name))
    return Report(title, summary, facts or {}, [*sections, *samples_table(lines)])


def _interval(row: Mapping[str, Any], name: str) -> str:
    ends = (row.get(f"{name}_low"), row.get(f"{name}_high"))
    inside = "" if None in ends else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{row[name]:.3f}{inside}"


def _proven(row: Mapping[str, Any], name: str) -> str:
    share = row.get(f"{name}/map_proven")
    if share is None:
        return ""
    return (
        f"the beam proves its response to be the most probable one for {share:.0%} of the prompts"
    )


def _optimum_sentence(first: Mapping[str, float], last: Mapping[str, float], name: str) -> str:
    """Say what is known of the optimum, and how much of the way to it the policy has gone."""
    parts = []
    low = first.get(f"{name}/optimum_low")
    if low is not None:
        parts.append(f"enclosed in [{low:.4f}, {first[f'{name}/optimum_high']:.4f}]")
    best = _number(first, f"{name}/optimum")
    effective = first.get(f"{name}/effective_samples")
    if best is not None:
        right = first[f"{name}/optimum_sampled"]
        parts.append(
            f"estimated as {best:.4f} from weighted samples ({effective:.1f} effective ones at "
            f"least), right with probability {right:.3f}"
        )
    elif effective is not None:
        what = "from samples " if parts else ""
        parts.append(f"not estimable {what}({effective:.1f} effective samples of some prompt)")
    if not parts:
        return "optimum J*: not known."
    found = share_of_the_way(first, last, name) if low is not None or best is not None else None
    way = ""
    if found is not None:
        known = "" if found.value is None else f"{found.value:.0%}, "
        given = ", if J* is as estimated" if low is None else ""
        way = f" Share of the way from π̂{given}: {known}between {found.low:.0%} and "
        way += f"{found.high:.0%}."
    return f"optimum J*: {', '.join(parts)}.{way}"


def _plot(rows: Sequence[Mapping[str, Any]], name: str) -> Plot:
    """Draw objective, KL and accuracy against the batch, with their intervals."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    steps = [row["step"] for row in rows]
    first = rows[0]
    panels = (("objective", "objective J"), ("kl", "KL to $\\hat\\pi$, nats"), ("sampled", "right"))
    for axes, (of, label) in zip(figure.subplots(1, 3), panels, strict=True):
        at = f"{name}/{of}"
        values = [row.get(at, math.nan) for row in rows]
        axes.plot(steps, values, "o-", color=RL, ms=3, label="sampled")
        if f"{at}_low" in first:
            ends = [[row[f"{at}_{end}"] for row in rows] for end in ("low", "high")]
            axes.fill_between(steps, *ends, color=RL, alpha=0.2, lw=0)
        axes.set_xlabel("batch")
        axes.set_ylabel(label)
    objective, _, right = figure.axes
    if f"{name}/optimum_low" in first:
        low, high = (first[f"{name}/optimum_{end}"] for end in ("low", "high"))
        objective.axhspan(low, high, color=PALETTE[2], alpha=0.4, label="optimum")
        objective.legend(fontsize=8, loc="center right")
    right.plot(
        steps, [row[f"{name}/greedy"] for row in rows], "s--", color=CLONE, ms=3, label="greedy"
    )
    for i, way in enumerate(way for way in ("map", "best", "vote") if f"{name}/{way}" in first):
        share = first[f"{name}/{way}"]
        right.axhline(share, ls=":", color=PALETTE[i + 4], label=f"π̂, {way}")
    right.set_ylim(0, 1)
    right.legend(fontsize=8, loc="upper right")
    figure.suptitle(name, fontsize=10)
    alt = f"Objective, KL and accuracy of {name} against the batch."
    caption = "Bands are 95 % intervals of the sampling; dotted: what decoding gives untrained."
    return Plot(f"progress-{name}", figure, alt, caption)
