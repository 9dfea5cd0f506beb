"""What a person reads of a scoring run: how often the scores are right, responses with each token
coloured by its reward, and the heat map of domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from llm_bridge.preferences.accuracy import aligned
from llm_bridge.preferences.pairs import Comparison, Key
from llm_bridge.preferences.token_texts import completed_texts
from theory.reports.figures import CLONE, PALETTE, RL
from theory.reports.html import Markup, element, escape, join
from theory.reports.notation import formula
from theory.reports.report import Column, Fragment, Plot, Report, Section, Table, Text

__all__ = ["accuracy_table", "domain_figure", "score_report", "token_sections"]

Array: TypeAlias = NDArray[Any]
Record: TypeAlias = Mapping[str, Any]
"""A line of a run's ``responses.jsonl``."""

LIGHT = CLONE, RL, PALETTE[4]
DARK = "#e2685f", "#5a9fdc", "#b98adb"
"""Ends of the scales on a light page and on a dark one: lowest reward, highest reward, least likely
token.
"""

OPACITY = 0.6
"""Of the ends, so that the text on them can be read."""

STEPS = 8
"""Shades on either side of reward 0, and from a certain token to the least likely."""

COVERED = 0.98
"""Share of tokens inside the ends of a colour scale; one beyond has the colour of the end."""


def accuracy_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a row for each subset and score: accuracy, beside how often the shorter response wins,
    and with length held fixed.

    Args:
        scores: by name of the score, what `llm_bridge.preferences.accuracy.summary` returns.

    Example:
        >>> from llm_bridge.preferences.accuracy import summary
        >>> row = Comparison("s/0", "2 + 2?", ("4",), ("5",), "s")
        >>> found = summary([row], {("s/0", "chosen", 0): 2.0, ("s/0", "rejected", 0): 1.0})
        >>> accuracy_table({"reward": found}).rows[0][:4]
        ('s', 'reward', 1, '1.000 [0.025, 1.000]')

    """
    rows: list[tuple[Any, ...]] = []
    subsets = list(next(iter(scores.values()))["subsets"])
    for subset in [*(["(all)"] if len(subsets) > 1 else []), *subsets]:
        for n, (name, whole) in enumerate(scores.items()):
            one = whole if subset == "(all)" else whole["subsets"][subset]
            controlled = one["length_controlled"]["characters"]
            matched = controlled["matched"]
            levels = [
                f"{one[level]['value']:.3f}"
                for level in ("hard", "normal", "easy", "best_of_n")
                if level in one
            ]
            rows.append(
                (
                    subset if n == 0 else "",
                    name,
                    one["comparisons"] if n == 0 else "",
                    _interval(one["accuracy"]),
                    "/".join(levels),
                    one["nulls"]["shorter (characters)"]["accuracy"]["value"],
                    f"{RATE.show(matched['value'])} ({matched['pairs']})",
                    controlled["logistic"]["value"],
                )
            )
    columns = [
        Column("subset"),
        Column("score"),
        Column("n", align="right"),
        Column("accuracy", align="right"),
        Column("best of N" if any(whole.get("best_of_n") for whole in scores.values()) else LEVELS),
        Column("shorter", ".3f", detail=True),
        Column("matched", align="right"),
        Column("logistic", ".3f", detail=True),
    ]
    at = [column.name for column in columns].index("accuracy") + 1
    if not any(row[at] for row in rows):  # no data set with levels
        del columns[at]
        rows = [row[:at] + row[at + 1 :] for row in rows]
    return Table("How often each score is right", columns, rows, NOTE)


NOTE = (
    "Accuracy with its interval; matched: of the score on pairs of nearly equal length, and how "
    "many there are. On the page also shorter: of choosing the shorter response; and logistic: of "
    "the score with length held fixed by a regression."
)
RATE = Column(format=".3f")
LEVELS = "hard/normal/easy"


def score_report(
    title: str,
    facts: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, Any]],
    tokens: Sequence[Section] = (),
    *,
    missing: str = "",
    **more: Any,
) -> Report:
    """Report how often the scores of a run are right.

    Args:
        title: heading.
        facts: what the reader should know of the run, by name.
        scores: by name of the score, what `llm_bridge.preferences.accuracy.summary` returns; empty
            where nothing is scored.
        tokens: `token_sections` of some comparisons.
        missing: which rows have no score; the report then says so first, and has not passed.
        more: further attributes of the `Report`.

    Example:
        >>> from llm_bridge.preferences.accuracy import summary
        >>> row = Comparison("s/0", "2 + 2?", ("4",), ("5",), "s")
        >>> found = summary([row], {("s/0", "chosen", 0): 2.0, ("s/0", "rejected", 0): 1.0})
        >>> score_report("A model", {"rows": 1}, {"reward": found}).summary[0]
        'reward: 1.000 [0.025, 1.000] of 1 comparison ordered right.'

    """
    passed = False if missing or not scores else None
    if not scores:
        return Report(title, [missing or "Nothing was scored."], facts, passed=passed, **more)
    panels = [name for n, name in enumerate(scores) if n == 0 or name == "lift"]
    plots = []
    if "domains" in scores[panels[0]]:
        alt = "How often a response of each domain beats each other one, by system prompt."
        caption = "Rows are system prompts, columns whose response it is."
        figure = domain_figure({name: scores[name] for name in panels})
        plots.append(Plot("domains", figure, alt, caption))
    summary = [f"{missing} {_right(scores)}"] if missing else [_right(scores)]
    shorter = next(iter(scores.values()))["nulls"]["shorter (characters)"]["accuracy"]
    summary.append(
        f"Always choosing the shorter response is right for {_interval(shorter)}. A score says "
        "something of its own only where it is above that, or right at equal length (matched)."
    )
    sections = [accuracy_table(scores), *plots, *tokens]
    return Report(title, summary, facts, sections, passed, **more)


def _right(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how often the first score is right."""
    name, whole = next(iter(scores.items()))
    n = whole["comparisons"]
    rate = _interval(whole["accuracy"])
    return f"{name}: {rate} of {n:,} comparison{'s' * (n != 1)} ordered right."


def _interval(rate: Mapping[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**rate)


def token_sections(
    comparisons: Sequence[Comparison],
    records: Mapping[Key, Record],
    pieces: Mapping[Key, Sequence[bytes]],
) -> list[Section]:
    """Return comparisons with each token coloured by its reward or by ``log π``, for a page.

    Args:
        comparisons: in the order of the page.
        records: each response's line of the run's ``responses.jsonl``.
        pieces: the bytes of each response's tokens, see `token_texts.token_bytes`.

    Raises:
        ValueError: a response has no record, see `aligned`.

    Example:
        >>> row = Comparison("s/0", "a", ("b",), ("c",), "s")
        >>> same = {"tokens": 1, "log_probs": [-1.0], "log_prob": -1.0, "soft_value_prompt": 0.0}
        >>> records = {
        ...     ("s/0", side, 0): same | {"rewards": [r], "reward_sum": r}
        ...     for side, r in (("chosen", 2.0), ("rejected", 1.0))
        ... }
        >>> pieces = {("s/0", "chosen", 0): [b"b"], ("s/0", "rejected", 0): [b"c"]}
        >>> print(token_sections([row], records, pieces)[0].paragraph)
        Of the comparisons shown, 1 of 1 pairs are ordered right, by reward sum.

    """
    sums = {key: record["reward_sum"] for key, record in records.items()}
    sides = aligned(comparisons, sums, "records")
    judged = [_Judged(pair, *side) for pair, side in zip(comparisons, sides, strict=True)]
    used = [records[key] for comparison in comparisons for key, _ in comparison.responses()]
    limits = (_limit(record[name] for record in used) for name in ("rewards", "log_probs"))
    tokens = _Tokens(records, pieces, *limits)
    right = sum(one.right for one in judged)
    pairs = sum(one.margins.size for one in judged)
    shown = f"{right} of {pairs} pairs are ordered right, by reward sum."
    return [
        Text(f"Of the comparisons shown, {shown}"),
        Fragment(tokens.html(judged), _style()),
    ]


def _limit(values: Iterable[Sequence[float]]) -> float:
    """Return the end of the colour scale for `values`, positive whatever they are."""
    sizes = np.abs(np.fromiter(chain.from_iterable(values), dtype=float))
    finite = sizes[np.isfinite(sizes)]
    return (float(np.quantile(finite, COVERED)) if len(finite) else 0.0) or 1.0


class _Judged:
    """A comparison with the margins of its sums, chosen minus rejected, shape (C, R)."""

    def __init__(self, comparison: Comparison, chosen: Array, rejected: Array) -> None:
        self.comparison = comparison
        self.margins = chosen[:, None] - rejected
        self.names = {
            "chosen": _names(comparison.chosen, comparison.chosen_styles),
            "rejected": _names(comparison.rejected, comparison.rejected_styles),
        }

    @property
    def right(self) -> int:
        """Number of pairs ordered right."""
        return int((self.margins > 0).sum())

    @property
    def heading(self) -> Markup:
        """The id with the mark of a single pair, or with how many are ordered right."""
        single = self.margins.size == 1
        verdict = _mark(self.margins[0, 0]) if single else f"✓ {self.right} of {self.margins.size}"
        return join([self.comparison.id, " ", element("small", verdict)])

    def margins_html(self) -> Markup:
        """Return whether each pair is ordered right, and by how much: chosen responses by rejected
        ones.
        """
        if self.margins.size == 1:
            return element("p", f"chosen − rejected: {_margin(self.margins[0, 0])}")
        columns = [Column(), *(Column(name, _margin) for name in self.names["rejected"])]
        rows = [(name, *row) for name, row in zip(self.names["chosen"], self.margins, strict=True)]
        return Table("", columns, rows, "chosen (rows) − rejected (columns)").html()


def _names(texts: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return names of a side's responses: their styles, or numbers where there are several."""
    return list(styles) or [str(i + 1) if len(texts) > 1 else "" for i in range(len(texts))]


def _margin(margin: float) -> str:
    return f"{_mark(margin)} {_number(margin, '+')}"


def _mark(margin: float) -> str:
    return "✓" if margin > 0 else "✗" if margin < 0 else "="


def _number(value: float, sign: str = "") -> str:
    digits = ".2g" if 0 < abs(value) < 0.1 else ".2f"
    return f"{value + 0.0:{sign}{digits}}".replace("-", "−")  # + 0.0: no negative zero


@dataclass(frozen=True)
class _Tokens:
    """Responses as HTML. Colour scales end at ``±reward_limit``, and at ``-log_prob_limit`` and
    0.
    """

    records: Mapping[Key, Record]
    pieces: Mapping[Key, Sequence[bytes]]
    reward_limit: float
    log_prob_limit: float

    def html(self, judged: Sequence[_Judged]) -> Markup:
        """Return what a reward is, the colours, and all comparisons, each reached by a link."""
        links = [element("a", one.heading, href=f"#c{n}") for n, one in enumerate(judged)]
        parts = [ABOUT, self.legend(), element("nav", *links, aria_label="Comparisons"), "\n"]
        for n, one in enumerate(judged):
            heading = element("h2", one.heading)
            parts += [element("section", heading, *self.section(one), id=f"c{n}"), "\n"]
        return join(parts)

    def legend(self) -> Markup:
        """Return the switch between the two scales, with the values of five shades of each."""
        rewards = self.reward_limit * np.linspace(-1, 1, 5)
        log_probs = self.log_prob_limit * np.linspace(-1, 0, 5)
        scales = {
            "rewards": ("r", rewards, self.reward_bins(rewards), ("≤ ", "", "", "", "≥ ")),
            "log_probs": ("p", log_probs, self.log_prob_bins(log_probs), ("≤ ", "", "", "", "")),
        }
        shown = {
            name: join(
                element("b", f"{sign}{_number(x)}", class_=f"{letter}{shade}")
                for x, shade, sign in zip(values, shades, signs, strict=True)
            )
            for name, (letter, values, shades, signs) in scales.items()
        }
        return Markup(LEGEND.format(**shown))

    def section(self, one: _Judged) -> Iterator[Markup]:
        """Yield what was asked, which pairs are ordered right, and the responses."""
        comparison = one.comparison
        asked = [] if comparison.system is None else [("system", comparison.system)]
        if isinstance(comparison.prompt, str):
            asked.append(("prompt", comparison.prompt))
        else:
            asked += [(message["role"], message["content"]) for message in comparison.prompt]
        for role, text in asked:
            yield element("h3", role)
            yield element("div", text, class_="text", dir="auto")
        yield one.margins_html()
        sides = []
        for side, names in one.names.items():
            responses: list[Markup] = []
            for index, name in enumerate(names):
                key = (comparison.id, side, index)
                responses += [element("h3", f"{side} {name}"), *self.response(key)]
            sides.append(element("div", *responses))
        yield element("div", *sides, class_="sides")

    def response(self, key: Key) -> tuple[Markup, Markup]:
        """Return the numbers of a response, then its tokens."""
        record = self.records[key]
        n = record["tokens"]
        numbers = {
            "reward sum": record["reward_sum"],
            "per token": record["reward_sum"] / n,
            "log\u00a0π": record["log_prob"],
            "V(s₁)": record.get("soft_value_prompt"),  # a server does not show it
        }
        shown = [
            part
            for name, value in numbers.items()
            if value is not None
            for part in (f"{name}\u00a0", element("strong", _number(value)), " · ")
        ]
        return (
            element("p", *shown, f"{n} tokens", class_="numbers"),
            element("div", *self.tokens(record, self.pieces[key]), class_="text", dir="auto"),
        )

    def tokens(self, record: Record, pieces: Sequence[bytes]) -> Iterator[Markup]:
        """Yield each token in its shades of both scales, with its numbers as its title."""
        texts = completed_texts(pieces)
        rewards = record["rewards"]
        log_probs = record["log_probs"]
        shades = zip(self.reward_bins(rewards), self.log_prob_bins(log_probs), strict=True)
        for piece, text, reward, log_prob, (r, p) in zip(
            pieces, texts, rewards, log_probs, shades, strict=True
        ):
            name = text.replace("\n", "⏎") or "".join(f"0x{byte:02X} " for byte in piece)
            title = f"{name or 'no text'} · reward {_number(reward)} · log π {_number(log_prob)}"
            yield element("i", _visible(text), class_=f"r{r} p{p}", tabindex=0, title=title)

    def reward_bins(self, rewards: Any) -> Array:
        """Return the shade of each reward: 0 for the lowest, `STEPS` for zero, then up to twice."""
        shares = np.clip(np.asarray(rewards) / self.reward_limit, -1, 1)
        return STEPS + np.rint(STEPS * shares).astype(int)

    def log_prob_bins(self, log_probs: Any) -> Array:
        """Return the shade of each token: 0 for a certain one, `STEPS` for the least likely."""
        shares = np.clip(-np.asarray(log_probs) / self.log_prob_limit, 0, 1)
        return np.rint(STEPS * shares).astype(int)


def _visible(text: str) -> Markup:
    """Return the text with a mark where a line ends."""
    return Markup("<u>\n</u>".join(map(escape, text.split("\n"))))


def _style() -> str:
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    dark = f"@media (prefers-color-scheme:dark){{\n{_shades(*DARK)}\n}}\n"
    return f"{style}{_shades(*LIGHT)}\n{dark}"


def _shades(low: str, high: str, unlikely: str) -> str:
    """Return CSS of each bin: the colour of the scale's end, more transparent nearer to 0."""
    alphas = [f"{round(255 * OPACITY * k / STEPS):02x}" for k in range(STEPS + 1)]
    rules = [
        f".r{STEPS - k}{{--r:{low}{alpha};--low:underline}}" for k, alpha in enumerate(alphas) if k
    ]
    rules += [f".r{STEPS + k}{{--r:{high}{alpha}}}" for k, alpha in enumerate(alphas)]
    rules += [f".p{k}{{--p:{unlikely}{alpha}}}" for k, alpha in enumerate(alphas)]
    return "\n".join(rules)


def domain_figure(scores: Mapping[str, Mapping[str, Any]]) -> Figure:
    r"""Draw heat maps of domains, one for each score: rows are system prompts, columns whose
    response it is.

    A frame marks a domain's own response, with the interval of its share when queries are
    resampled; a star the largest of a row; what was not compared has a dash.

    Args:
        scores: by name of the score, what `llm_bridge.preferences.accuracy.summary` returns.

    Example:
        >>> from llm_bridge.preferences.accuracy import summary
        >>> row = Comparison("a/0", "Why?", ("x",), ("y",), "a", None, ("a",), ("b",))
        >>> found = summary([row], {("a/0", "chosen", 0): 2.0, ("a/0", "rejected", 0): 1.0})
        >>> axes, _ = domain_figure({"sum": found}).axes
        >>> [text.get_text() for text in axes.texts]
        ['1.00 ★\n0.03–1.00', '0.00']

    """
    matrices = {name: found["domains"] for name, found in scores.items()}
    rows = list(next(iter(matrices.values())))
    every = {column for matrix in matrices.values() for row in matrix.values() for column in row}
    columns = rows + sorted(every - set(rows))
    size = (1.6 + (1.0 + 0.95 * len(columns)) * len(matrices), 2.0 + 0.6 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    colors = LinearSegmentedColormap.from_list("wins", [CLONE, "white", RL])
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        values = np.array([[matrix[row].get(column, np.nan) for column in columns] for row in rows])
        image = axes.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            own = rows[i] == columns[j]
            best = value == np.nanmax(values[i]) > np.nanmin(values[i])
            text = "–" if np.isnan(value) else f"{value:.2f}{' ★' if best else ''}"
            if own:
                share = scores[name]["subsets"][rows[i]]["accuracy"]
                text += f"\n{share['low']:.2f}–{share['high']:.2f}"
                axes.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, lw=1.8))
            weight = "bold" if best else "normal"
            color = "white" if abs(value - 0.5) > 0.4 else "black"
            look = {"size": 8 if own else 9, "weight": weight, "color": color}
            axes.text(j, i, text, ha="center", va="center", **look)
        turned = {"rotation": 30, "ha": "right"} if max(map(len, columns)) > 13 else {}
        axes.set_xticks(range(len(columns)), columns, fontsize=9, **turned)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_facecolor("0.9")
        axes.set(xlabel="whose response")
        axes.set_title(PANELS.get(name, name), fontsize=10)
    panels[0].set_ylabel("system prompt")
    marks = "framed: the prompt's own domain, with its interval; ★: largest of its row"
    figure.suptitle(f"How often a response beats each other one\n{marks}", fontsize=9.5)
    figure.colorbar(image, ax=list(panels), label="share won (ties half)")
    return figure


PANELS = {"sum": "by the reward: sum", "lift": "by what the prompt adds: lift"}
"""Titles of heat maps."""


ABOUT = Markup(
    """<details class=about open>
<summary>What is a token’s reward?</summary>
<p>A language model’s logits <var>f</var> contain a reward for each token <var>a</var> in its state
<var>s</var>, the text before it: {reward} with the
soft value {value}, or V = 0 in the gauge “logprob”.</p>
<p><strong>Compare sums, not tokens.</strong> A constant added to all logits of a state changes no
probability, yet it moves reward from one token to the next: the reward of a single token depends on
this gauge. Over a response τ the soft values telescope, {telescoped}.
V(s₁) is the same for all responses to a prompt; so, where the value of the end, {end}, is 0,
differences between their sums depend on the policy alone. The last token keeps its V(s) whole then,
and is often high.
</p>
</details>
""".format(
        reward=formula("r(s,a) = α log π(a|s) + V(s) − V(s⊕a)"),
        value=formula("V(s) = α log Σ exp f(s)"),
        end=formula("v_end"),
        telescoped=formula("r(τ) = α log π(τ) + V(s₁) − v_end"),
    )
)

LEGEND = """<fieldset>
<legend>Colour of tokens</legend>
<label><input type=radio name=colour id=by-reward checked> reward r(s,a)</label>
<span class="scale rewards">{rewards}</span>
<label><input type=radio name=colour id=by-log-prob> log π(a|s)</label>
<span class="scale log-probs">{log_probs}</span>
<small>A token below reward 0 is underlined. Point at a token, or tap it, for its numbers.</small>
</fieldset>
"""
