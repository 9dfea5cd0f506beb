"""What a person reads of ``endorm check``: the table, two figures, and one page with all of it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from llm_bridge.check.comparison import Comparison
from llm_bridge.check.confidence import Estimate
from llm_bridge.check.sampled import Sampled
from theory.claims.findings import Finding
from theory.claims.instance import Instance
from theory.reports.figures import CLONE, PALETTE, RL
from theory.storage.files import replacing

__all__ = [
    "bounds_figure",
    "figures",
    "log_ratio_figure",
    "render",
    "render_sampled",
    "tables_of",
    "tables_of_sampled",
    "write_html",
]

FINE = PALETTE[2]
BEYOND = np.geomspace(1.0, 1e-5, 61)[1:]
"""Shares of the expert's tokens, for the figure of how far the two policies are apart."""


# --- Text -----------------------------------------------------------------------------------------


def render(title: str, about: Mapping[str, Any], comparison: Comparison) -> str:
    """The comparison as text."""
    lines = [title, *(f"  {name}: {value}" for name, value in about.items()), ""]
    head = (
        f"{'statement':<24}{'left':>12}{'right':>12}  "
        f"{'verdict':<16}{'applies':<9}{'says nothing':<14}claim"
    )
    lines.append(
        f"averages over the prompts, of {comparison.prompts}, on which a statement applies (of "
        "pairs, the largest)"
    )
    lines += [head, "-" * len(head)]
    for line in comparison.findings:
        numbers = f"{_number(line.mean_left):>12}{_number(line.mean_right):>12}"
        lines.append(
            f"{line.statement.name:<24}{numbers}  "
            f"{line.verdict:<16}{line.applies:<9.0%}{_vacuous(line):<14}{line.statement.claim}"
        )
    lines += [
        f"undecided: {line.statement.name} ({line.undecided})"
        for line in comparison.findings
        if line.undecided
    ]
    lines += ["", "how near the two are, nats", *_pairs(comparison.closeness)]
    lines += [
        "",
        "what each policy loses against the expert, plain value",
        *_pairs(comparison.gaps),
    ]
    lines += ["", "the worst policy of the ball around the expert, exact"]
    columns = list(next(iter(comparison.worst.values())))
    lines.append(f"  {'radius of the ball':<20}" + "".join(f"{name:>22}" for name in columns))
    for name, row in comparison.worst.items():
        lines.append(f"  {name:<20}" + "".join(f"{_number(row[column]):>22}" for column in columns))
    lines += [f"  {name}: out of reach ({why})" for name, why in comparison.out_of_reach.items()]
    return "\n".join(lines)


def render_sampled(title: str, about: Mapping[str, Any], found: Sampled) -> str:
    """Estimates as text."""
    lines = [title, *(f"  {name}: {value}" for name, value in about.items()), ""]
    lines.append(
        f"averages over {found.prompts} prompts, from {found.responses} responses of each policy "
        "to each"
    )
    width = max(len(name) for name in found.estimates) + 2
    for name, one in found.estimates.items():
        lines.append(
            f"  {name:<{width + name.count(ACCENT)}}{_number(one.value):>11}  "
            f"{_span(one):<24}{_kind(one)}"
        )
    lines += [
        KINDS_NOTE,
        "",
        f"τ found is proven to be the most probable response on {found.proven:.0%} of the prompts",
    ]
    return "\n".join([*lines, "", "how near the two are, nats", *_pairs(found.closeness)])


def _span(one: Estimate) -> str:
    if math.isnan(one.low):
        return "not defined"
    if one.low == one.high and math.isfinite(one.value):
        return "all draws agree"
    return f"[{_number(one.low)}, {_number(one.high)}]"


def _kind(one: Estimate) -> str:
    """How far the interval can be trusted, where there is one."""
    if math.isnan(one.low) or one.low == one.high:
        return "–"
    return "guaranteed" if one.guaranteed else "approximate"


ACCENT = "\u0302"
"""Takes no room of its own."""


def _pairs(numbers: Mapping[str, float]) -> list[str]:
    return [
        f"  {name:<{44 + name.count(ACCENT)}}{_number(value):>11}"
        for name, value in numbers.items()
    ]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.5g}"


def _verdict(line: Finding) -> str:
    return f"{line.verdict} ({line.undecided})" if line.undecided else line.verdict


def _vacuous(line: Finding) -> str:
    if math.isnan(line.vacuous_share):
        return "–"
    return {0.0: "no", 1.0: "vacuous"}.get(line.vacuous_share, f"on {line.vacuous_share:.0%}")


# --- Figures --------------------------------------------------------------------------------------


def figures(comparison: Comparison, instance: Instance) -> dict[str, Figure]:
    """By name: each bound beside what it bounds, and how many tokens are how far apart."""
    return {
        "bounds": bounds_figure(comparison),
        "log_ratios": log_ratio_figure(comparison, instance),
    }


def bounds_figure(comparison: Comparison) -> Figure:
    """One row for each bound: the exact left side, the bound, and from where on a bound says
    nothing.
    """
    gap = [
        x
        for x in comparison.findings
        if x.statement.quantity.unit == "reward" and not x.statement.equality
    ]
    pairs = [
        x
        for x in comparison.findings
        if x.statement.quantity.unit == "probability" and not x.statement.equality
    ]
    figure = Figure(figsize=(9.6, 1.6 + 0.27 * (len(gap) + len(pairs))), layout="constrained")
    heights = [len(pairs) + 1, len(gap) + 1]
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _bars(upper, pairs, {}, 1.0, "total variation")
    _bars(
        lower,
        gap,
        comparison.worst["ε_π"],
        comparison.gaps["range of the return"],
        "plain value, reward units",
    )
    title = (
        "● exact   ◇ worst case within $\\epsilon_\\pi$ of the expert   | bound: green, or red "
        "where it says nothing"
    )
    figure.suptitle(title, fontsize=10)
    return figure


WORST = {
    "V^{π_E} − V^{π̂}": "cloning",
    "V^{π_E} − V^{π_RL}": "RL, against π_E",
    "max_π V^π − V^{π_RL}": "RL, against the best",
}
"""Which worst case belongs to a quantity that is bounded in ε."""


def _bars(
    axes: Any, lines: Sequence[Finding], worst: Mapping[str, float], ceiling: float, label: str
) -> None:
    rights = [x.mean_right for x in lines if math.isfinite(x.mean_right) and x.mean_right > 0]
    lefts = [x.mean_left for x in lines if x.mean_left > 0]
    high = 3 * max([*rights, ceiling])
    low = min([*lefts, *rights, ceiling]) / 3
    low = max(low, high * 1e-9)
    for row, line in enumerate(reversed(lines)):
        color = CLONE if line.mean_right >= ceiling * (1 - 1e-9) else FINE
        left, right = (min(max(x, low), high) for x in (line.mean_left, line.mean_right))
        axes.plot([left, right], [row, row], color=color, lw=1.6, alpha=0.7)
        if line.statement.quantity.symbol in WORST and "ε" in line.statement.bound.symbol:
            axes.plot(
                [worst[WORST[line.statement.quantity.symbol]]],
                [row],
                "D",
                color="black",
                mfc="white",
                ms=4,
            )
        axes.plot([left], [row], "<" if line.mean_left <= low else "o", color="black", ms=4)
        axes.plot([right], [row], ">" if line.mean_right > high else "|", color=color, ms=9, mew=2)
    axes.axvspan(ceiling, high, color="0.92", zorder=0)
    axes.axvline(ceiling, color="0.5", lw=1)
    axes.set_xscale("log")
    axes.set(xlim=(low, high), ylim=(-0.7, len(lines) - 0.3), xlabel=label)
    axes.set_yticks(range(len(lines)), [_plain(x) for x in reversed(lines)], fontsize=8)
    axes.grid(axis="x", alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(line: Finding) -> str:
    """Name and bound; fonts stack accents wrongly."""
    bound = line.statement.bound.symbol
    return f"{line.statement.name}: {bound}".replace("π" + ACCENT, "$\\hat{\\pi}$")


def log_ratio_figure(comparison: Comparison, instance: Instance) -> Figure:
    """Share of the expert's tokens on which the two policies differ by more than so many nats, and
    `ε_π`.
    """
    levels = instance.log_ratio_quantiles(list(1 - BEYOND)).reshape(-1, len(BEYOND)).mean(axis=0)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        np.maximum(levels, 1e-6),
        BEYOND,
        color=RL,
        lw=1.8,
        label="tokens of the expert, average of prompts",
    )
    near = comparison.closeness
    visited = next(value for name, value in near.items() if name.startswith("ε of tokens"))
    axes.axvline(
        near["ε_π"],
        color=CLONE,
        lw=1.4,
        label=f"$\\epsilon_\\pi$, the whole tree: {near['ε_π']:.3g}",
    )
    axes.axvline(
        visited,
        color=CLONE,
        lw=1.4,
        ls="--",
        label=f"what 1 in 1000 responses visits: {visited:.3g}",
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=r"$|\log \pi_E(a|s) - \log \hat\pi(a|s)|$, nats",
        ylabel="share beyond",
    )
    axes.set_ylim(1e-5, 1.3)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    axes.grid(alpha=0.3, lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# --- One page -------------------------------------------------------------------------------------


def write_html(
    path: Path,
    title: str,
    about: Mapping[str, Any],
    tables: Sequence[tuple[str, str, list[list[str]]]],
    drawn: Mapping[str, Figure],
) -> None:
    """Write one HTML file that needs no other.

    Args:
        path: replaced once all is written.
        title: the page's heading.
        about: facts by name.
        tables: heading, what it says, and rows of cells, the first of them the header.
        drawn: figures by name.

    """
    with replacing(path) as file:
        for part in _page(title, about, tables, drawn):
            file.write(part.encode())


def _page(
    title: str,
    about: Mapping[str, Any],
    tables: Sequence[tuple[str, str, list[list[str]]]],
    drawn: Mapping[str, Figure],
) -> Iterator[str]:
    yield f"{HEAD}<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    yield f"<body>\n<h1>{escape(title)}</h1>\n<dl>\n"
    yield "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>\n" for name, value in about.items()
    )
    yield "</dl>\n"
    for heading, note, (head, *rows) in tables:
        yield f"<h2>{escape(heading)}</h2>\n<p>{escape(note)}</p>\n<div class=wide><table>\n<tr>"
        yield "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head) + "</tr>\n"
        for row in rows:
            mark = next((cell for cell in row if cell in ("vacuous", "violated")), "")
            first, *others = (escape(cell) for cell in row)
            cells = "".join(f"<td>{cell}</td>" for cell in others)
            yield f"<tr class={mark or 'said'}><th scope=row>{first}</th>{cells}</tr>\n"
        yield "</table></div>\n"
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        image = base64.b64encode(buffer.getvalue()).decode()
        yield f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{image}"></figure>\n'
    yield "</body>\n</html>\n"


def tables_of(comparison: Comparison) -> list[tuple[str, str, list[list[str]]]]:
    """The comparison as tables of `write_html`."""
    head = ["statement", "claim", "left", "right", "verdict", "applies", "says nothing", "source"]
    rows = [
        [
            x.statement.name,
            x.statement.claim,
            _number(x.mean_left),
            _number(x.mean_right),
            _verdict(x),
            f"{x.applies:.0%}",
            _vacuous(x),
            x.statement.source,
        ]
        for x in comparison.findings
    ]
    columns = list(next(iter(comparison.worst.values())))
    worst = [
        [name, *(_number(row[column]) for column in columns)]
        for name, row in comparison.worst.items()
    ]
    why = "".join(
        f" {name} is out of reach: {reason}." for name, reason in comparison.out_of_reach.items()
    )
    return [
        ("Statements", STATEMENTS_NOTE.format(prompts=comparison.prompts), [head, *rows]),
        (
            "How near the two are",
            "In nats, averages over prompts.",
            [["", "nats"], *_cells(comparison.closeness)],
        ),
        (
            "What each policy loses",
            GAPS_NOTE,
            [["policy", "V^{π_E} − V^π"], *_cells(comparison.gaps)],
        ),
        (
            "The worst policy of a ball around the expert",
            WORST_NOTE + why,
            [["radius", *columns], *worst],
        ),
    ]


def tables_of_sampled(found: Sampled) -> list[tuple[str, str, list[list[str]]]]:
    """The estimates as tables of `write_html`."""
    rows = [
        [name, _number(one.value), _span(one), _kind(one)] for name, one in found.estimates.items()
    ]
    note = SAMPLED_NOTE.format(
        prompts=found.prompts, responses=found.responses, proven=f"{found.proven:.0%}"
    )
    return [
        ("Estimates", note, [["quantity", "estimate", "interval", "which is"], *rows]),
        ("How near the two are", CLOSENESS_NOTE, [["", "nats"], *_cells(found.closeness)]),
    ]


KINDS_NOTE = (
    "A guaranteed interval covers with its confidence, however rare what it counts; an approximate "
    "one "
    "knows nothing of what no draw met."
)
SAMPLED_NOTE = (
    "Averages over {prompts} prompts, from {responses} responses of each policy to each. Estimates "
    "are unbiased, and "
    "each interval is of its confidence by itself. "
    + KINDS_NOTE
    + " What so many draws miss can have a probability of about three over their number. τ found is the most probable "
    "response that a beam found, on {proven} of the prompts proven to be the most probable of all, "
    "which π_RL plays. "
    "The bound is of τ found; where that is not proven on every prompt, the row of π_RL has a "
    "lower end and no more."
)
CLOSENESS_NOTE = (
    "In nats, without intervals. The largest is over the states passed, and the theorems' ε is at "
    "least that. "
    "Quantiles are those of the tokens that the expert writes after a prompt, averaged over the "
    "prompts."
)


def _cells(numbers: Mapping[str, float]) -> list[list[str]]:
    return [[name, _number(value)] for name, value in numbers.items()]


STATEMENTS_NOTE = (
    "Both sides of every statement, averages over those of {prompts} prompts on which it applies "
    "(of pairs of "
    "responses, the largest of each). Every prompt is an instance of its own. A bound that is no "
    "less than what its "
    "left side can never exceed "
    "holds, and says nothing: it is called vacuous."
)
GAPS_NOTE = (
    "Plain values under the true reward, averages over prompts. Negative: better than the expert "
    "itself."
)
WORST_NOTE = (
    "What the worst policy loses among all within so many nats of the expert, found by backward "
    "induction. Beside the "
    "statements it shows how much of a bound is the ball, and how much the bound."
)

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
"""

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1a1a1a;--quiet:#595959;--line:#d0d0d0;--bad:#b3322c}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--ink:#ececec;--quiet:#a8a8a8;--line:#3c4045;--bad:#e2685f}}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.5rem}
h2{font-size:1.15rem;margin-top:2rem}
p{max-width:45rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.5rem;font-size:.9rem}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{border-bottom:1px solid var(--line);padding:.2rem .8rem .2rem 0;text-align:left;white-space:nowrap}
th{font-weight:400;color:var(--quiet)}
.vacuous td{color:var(--quiet)}
.violated td{color:var(--bad);font-weight:700}
figure{margin:2rem 0}
img{max-width:100%;background:#fff}
"""
