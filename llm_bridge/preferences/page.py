"""What a person reads of a run: responses with each token coloured by its reward, and the heat map
of domains.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from llm_bridge.preferences.accuracy import Scores, aligned
from llm_bridge.preferences.pairs import Comparison, Key
from theory.reports.figures import CLONE, PALETTE, RL
from theory.storage.files import replacing

__all__ = ["domain_figure", "token_texts", "write_html"]

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


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it, special tokens included; in linear time.

    A character split over tokens goes to the one that completes it, the others have ``""``. Joined,
    the texts are the decoded ids, except that bytes which form no character may be another number
    of ``"�"``.
    """
    return _completed(_token_bytes(tokenizer, ids))


def _completed(pieces: Sequence[bytes]) -> list[str]:
    """The characters that end in each piece of UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [
        decoder.decode(piece, final=n == len(pieces)) for n, piece in enumerate(pieces, start=1)
    ]


def _token_bytes(tokenizer: Any, ids: Sequence[int]) -> list[bytes]:
    """The bytes that each token adds: half a character has some, and decoding would lose them."""
    decode = partial(
        tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    byte_level = "ByteLevel" in repr(decoder) or hasattr(tokenizer, "byte_decoder")
    ids, pieces = [int(token) for token in ids], []
    for n, name in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if byte_level:
            name = name or ""  # a row of the head that the vocabulary has no name for
            written = all(letter in BYTES for letter in name)
            pieces.append(bytes(BYTES[letter] for letter in name) if written else name.encode())
        elif name and re.fullmatch("<0x[0-9A-F]{2}>", name) and decode([ids[n]]) != name:
            pieces.append(bytes([int(name[3:5], 16)]))
        else:  # decoded after its neighbour, since alone it may lose a space
            before = decode(ids[max(0, n - 1) : n])
            pieces.append(decode(ids[max(0, n - 1) : n + 1])[len(before) :].encode())
    return pieces


def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: its own where it is printed
    (GPT-2).
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }


BYTES = _byte_letters()


def write_html(
    path: str | Path,
    comparisons: Sequence[Comparison],
    records: Mapping[Key, Record],
    tokenizer: Any,
    *,
    title: str,
    facts: Mapping[str, str],
    scores: Scores | None = None,
) -> None:
    """Write comparisons as one HTML file that needs no other, each token coloured by its reward or
    by ``log π``.

    Args:
        path: replaced once all is written.
        comparisons: in the order of the page.
        records: each response's line of the run's ``responses.jsonl``.
        tokenizer: the one that gave `token_ids`.
        title: the page's heading.
        facts: what the reader should know of the run, by name.
        scores: what orders the responses, as in `llm_bridge.preferences.accuracy`; `None` for
            `reward_sum`.

    Raises:
        ValueError: a response has no record or no score, see `aligned`.

    """
    sides = aligned(
        comparisons, {key: record["reward_sum"] for key, record in records.items()}, "records"
    )
    if scores is not None:
        sides = aligned(comparisons, scores)
    cases = [_Case(comparison, *side) for comparison, side in zip(comparisons, sides, strict=True)]
    used = [records[key] for comparison in comparisons for key, _ in comparison.responses()]
    limits = (_limit(record[name] for record in used) for name in ("rewards", "log_probs"))
    page = _Page(records, tokenizer, scores is not None, *limits)
    with replacing(path) as file:
        for part in page.parts(cases, title, facts):
            file.write(
                part.encode("utf-8", "backslashreplace")
            )  # half a surrogate pair has no UTF-8


def _limit(values: Iterable[Sequence[float]]) -> float:
    """End of the colour scale for `values`, positive whatever they are."""
    sizes = np.abs(np.fromiter(chain.from_iterable(values), dtype=float))
    finite = sizes[np.isfinite(sizes)]
    return (float(np.quantile(finite, COVERED)) if len(finite) else 0.0) or 1.0


class _Case:
    """A comparison with its scores and their margins, chosen minus rejected, shape (C, R)."""

    def __init__(self, comparison: Comparison, chosen: Array, rejected: Array) -> None:
        self.comparison, self.scores = comparison, {"chosen": chosen, "rejected": rejected}
        with np.errstate(invalid="ignore"):
            self.margins = np.where(
                chosen[:, None] == rejected, 0.0, chosen[:, None] - rejected
            )  # also two of −∞
        self.names = {
            role: list(styles) or [str(i + 1) if len(texts) > 1 else "" for i in range(len(texts))]
            for role, texts, styles in (
                ("chosen", comparison.chosen, comparison.chosen_styles),
                ("rejected", comparison.rejected, comparison.rejected_styles),
            )
        }

    @property
    def right(self) -> int:
        """Number of pairs ordered right."""
        return int((self.margins > 0).sum())

    @property
    def heading(self) -> str:
        """The id with the mark of a single pair, or with how many are ordered right."""
        verdict = (
            _mark(self.margins[0, 0])
            if self.margins.size == 1
            else f"✓ {self.right} of {self.margins.size}"
        )
        return f"{_text(self.comparison.id)} <small>{verdict}</small>"

    def table(self) -> str:
        """Whether each pair is ordered right, and by how much: chosen responses by rejected
        ones.
        """
        pairs = [
            [f"{_mark(margin)} {_number(margin, '+')}" for margin in row] for row in self.margins
        ]
        if self.margins.size == 1:
            return f"<p>chosen − rejected: {pairs[0][0]}</p>\n"
        head = "".join(f"<th scope=col>{_text(name)}</th>" for name in self.names["rejected"])
        rows = [f"<tr><td></td>{head}</tr>\n"]
        for name, row in zip(self.names["chosen"], pairs, strict=True):
            rows.append(
                "<tr><th "
                f"scope=row>{_text(name)}</th>{''.join(f'<td>{pair}</td>' for pair in row)}</tr>\n"
            )
        caption = "<caption>chosen (rows) − rejected (columns)</caption>"
        return f"<div class=wide><table>\n{caption}\n{''.join(rows)}</table></div>\n"


@dataclass(frozen=True)
class _Page:
    """The HTML of a run. Colour scales end at ``±reward_limit``, and at ``-log_prob_limit`` and
    0.
    """

    records: Mapping[Key, Record]
    tokenizer: Any
    scored: bool
    reward_limit: float
    log_prob_limit: float

    def parts(self, cases: Sequence[_Case], title: str, facts: Mapping[str, str]) -> Iterator[str]:
        """The page from its first line to its last."""
        right, pairs = sum(case.right for case in cases), sum(case.margins.size for case in cases)
        facts = {
            **facts,
            "pairs ordered right": f"{right} of {pairs}, by "
            f"{'score' if self.scored else 'reward sum'}",
        }
        style = (
            f"{STYLE}{_shades(*LIGHT)}\n@media "
            f"(prefers-color-scheme:dark){{\n{_shades(*DARK)}\n}}\n"
        )
        yield f"{HEAD}<title>{_text(title)}</title>\n<style>{style}</style>\n</head>\n"
        yield f"<body>\n<header>\n<h1>{_text(title)}</h1>\n<dl>\n"
        yield "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(fact)}</dd></div>\n"
            for name, fact in facts.items()
        )
        yield f"</dl>\n{ABOUT}</header>\n{self.legend()}<nav aria-label=Comparisons>\n"
        for n, case in enumerate(cases):
            yield f'<a href="#c{n}">{case.heading}</a>\n'
        yield "</nav>\n<main>\n"
        for n, case in enumerate(cases):
            yield f'<section id="c{n}">\n<h2>{case.heading}</h2>\n'
            yield from self.section(case)
            yield "</section>\n"
        yield "</main>\n</body>\n</html>\n"

    def legend(self) -> str:
        """The switch between the two scales, each with the values of five of its shades."""
        rewards, log_probs = (
            self.reward_limit * np.linspace(-1, 1, 5),
            self.log_prob_limit * np.linspace(-1, 0, 5),
        )
        reward_shades = zip(
            ("≤ ", "", "", "", "≥ "), rewards, self.reward_bins(rewards), strict=True
        )
        log_prob_shades = zip(
            ("≤ ", "", "", "", ""), log_probs, self.log_prob_bins(log_probs), strict=True
        )
        return LEGEND.format(
            rewards="".join(
                f"<b class=r{shade}>{sign}{_number(x)}</b>" for sign, x, shade in reward_shades
            ),
            log_probs="".join(
                f"<b class=p{shade}>{sign}{_number(x)}</b>" for sign, x, shade in log_prob_shades
            ),
        )

    def section(self, case: _Case) -> Iterator[str]:
        """A comparison: what was asked, which pairs are ordered right, and the responses."""
        comparison = case.comparison
        asked = [] if comparison.system is None else [("system", comparison.system)]
        if isinstance(comparison.prompt, str):
            asked.append(("prompt", comparison.prompt))
        else:
            asked += [(message["role"], message["content"]) for message in comparison.prompt]
        for role, text in asked:
            yield f"<h3>{_text(role)}</h3>\n<div class=text dir=auto>{_text(text)}</div>\n"
        yield case.table()
        yield "<div class=sides>\n"
        for side, names in case.names.items():
            yield "<div>\n"
            for index, (name, score) in enumerate(zip(names, case.scores[side], strict=True)):
                yield f"<h3>{side} {_text(name)}</h3>\n"
                yield self.response(self.records[comparison.id, side, index], score)
            yield "</div>\n"
        yield "</div>\n"

    def response(self, record: Record, score: float) -> str:
        """A response: its numbers, then its tokens."""
        total, n = record["reward_sum"], record["tokens"]
        numbers = {"score": score} if self.scored else {}
        numbers |= {"reward sum": total, "per token": total / n, "log&nbsp;π": record["log_prob"]}
        numbers["V(s₁)"] = record["soft_value_prompt"]
        shown = " · ".join(
            f"{name}&nbsp;<strong>{_number(value)}</strong>" for name, value in numbers.items()
        )
        tokens = "".join(self.tokens(record))
        return (
            f"<p class=numbers>{shown} · {n} tokens</p>\n<div class=text dir=auto>{tokens}</div>\n"
        )

    def tokens(self, record: Record) -> Iterator[str]:
        """Each token of a response in its shades of both scales, with its numbers as its title."""
        pieces = _token_bytes(self.tokenizer, record["token_ids"])
        rewards, log_probs = record["rewards"], record["log_probs"]
        shades = zip(self.reward_bins(rewards), self.log_prob_bins(log_probs), strict=True)
        for piece, text, *numbers, (r, p) in zip(
            pieces, _completed(pieces), rewards, log_probs, shades, strict=True
        ):
            name = (
                _text(text).replace("\n", "⏎")
                or "".join(f"0x{byte:02X} " for byte in piece)
                or "no text"
            )
            title = "{} · reward {} · log π {}".format(name, *map(_number, numbers))
            shown = _text(text).replace("\n", "<u>\n</u>")
            yield f'<i class="r{r} p{p}" tabindex=0 title="{title}">{shown}</i>'

    def reward_bins(self, rewards: Any) -> Array:
        """Shade of each reward: 0 for the lowest, `STEPS` for zero, twice that for the highest."""
        return STEPS + np.rint(
            STEPS * np.clip(np.asarray(rewards) / self.reward_limit, -1, 1)
        ).astype(int)

    def log_prob_bins(self, log_probs: Any) -> Array:
        """Shade of each log-probability: 0 for a certain token, `STEPS` for the least likely."""
        return np.rint(STEPS * np.clip(-np.asarray(log_probs) / self.log_prob_limit, 0, 1)).astype(
            int
        )


def _mark(margin: float) -> str:
    return "✓" if margin > 0 else "✗" if margin < 0 else "="


def _number(value: float, sign: str = "") -> str:
    digits = ".2g" if 0 < abs(value) < 0.1 else ".2f"
    return f"{value + 0.0:{sign}{digits}}".replace("-", "−")  # + 0.0: no negative zero


def _text(text: str) -> str:
    """Text as HTML; what a file of it may not hold as pictures of control characters, which a
    reader can see.
    """
    return escape(text.translate(PICTURES))


def _shades(low: str, high: str, unlikely: str) -> str:
    """A colour for each bin: that of the scale's end, more transparent the nearer to its origin."""
    alphas = [f"{round(255 * OPACITY * k / STEPS):02x}" for k in range(STEPS + 1)]
    rules = [
        f".r{STEPS - k}{{--r:{low}{alpha};--low:underline}}" for k, alpha in enumerate(alphas) if k
    ]
    rules += [f".r{STEPS + k}{{--r:{high}{alpha}}}" for k, alpha in enumerate(alphas)]
    rules += [f".p{k}{{--p:{unlikely}{alpha}}}" for k, alpha in enumerate(alphas)]
    return "\n".join(rules)


def domain_figure(matrix: Mapping[str, Mapping[str, float]]) -> Figure:
    """Heat map of `llm_bridge.preferences.accuracy.domain_matrix`: rows are system prompts, columns
    whose response it is.

    A frame marks a domain's own response, a star the largest of a row; what was not compared has a
    dash.
    """
    rows = list(matrix)
    columns = rows + sorted({name for row in matrix.values() for name in row} - set(rows))
    values = np.array([[matrix[row].get(name, np.nan) for name in columns] for row in rows])
    figure = Figure(
        figsize=(2.6 + 0.95 * len(columns), 1.9 + 0.6 * len(rows)), layout="constrained"
    )
    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("wins", [CLONE, "white", RL])
    image = axes.imshow(values, cmap=colors, vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        best = value == np.nanmax(values[i])
        text = "–" if np.isnan(value) else f"{value:.2f}{' ★' if best else ''}"
        weight, color = "bold" if best else "normal", "white" if abs(value - 0.5) > 0.4 else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=9, weight=weight, color=color)
        if rows[i] == columns[j]:
            axes.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, lw=1.8))
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, columns)) > 13 else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=9, **turned)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("0.9")
    axes.set(xlabel="whose response", ylabel="system prompt")
    marks = "framed: the prompt's own domain; ★: largest of its row"
    figure.suptitle(f"How often a response beats each other one\n{marks}", fontsize=9.5)
    figure.colorbar(image, label="share won (ties half)")
    return figure


PICTURES = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"} | {0x7F: 0x2421}
PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
"""

ABOUT = """<details open>
<summary>What is a token’s reward?</summary>
<p>A language model’s logits <var>f</var> contain a reward for each token <var>a</var> in its state <var>s</var>, the
text before it: <strong>r(s,a) = α log π(a|s) + V(s) − V(s⊕a)</strong> with the soft value V(s) = α log Σ exp f(s), or
V = 0 in the gauge “logprob”.</p>
<p><strong>Compare sums, not tokens.</strong> A constant added to all logits of a state changes no probability, yet it
moves reward from one token to the next: the reward of a single token depends on this gauge. Over a response τ the soft
values telescope, r(τ) = α log π(τ) + V(s₁) − end value. V(s₁) is the same for all responses to a prompt; so, where the
end value is 0, differences between their sums depend on the policy alone. The last token keeps its V(s) whole then, and
is often high.</p>
</details>
"""

LEGEND = """<fieldset>
<legend>Colour of tokens</legend>
<label><input type=radio name=colour id=by-reward checked> reward r(s,a)</label>
<span class="scale rewards">{rewards}</span>
<label><input type=radio name=colour id=by-log-prob> log π(a|s)</label>
<span class="scale log-probs">{log_probs}</span>
<small>A token below reward 0 is underlined. Point at a token, or tap it, for its numbers.</small>
</fieldset>
"""

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1a1a1a;--quiet:#595959;--line:#d0d0d0;--box:#f6f6f4}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--ink:#ececec;--quiet:#a8a8a8;--line:#3c4045;--box:#1f2226}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:90rem;padding:1rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0 0 .5rem}
h2{font-size:1.15rem;margin:0 0 .5rem;overflow-wrap:anywhere}
h2 small{color:inherit}
h3{font-size:.9rem;margin:1rem 0 .25rem;color:var(--quiet)}
dl{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:0 0 1rem}
dl div{display:flex;gap:.5rem}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
details{max-width:50rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:1rem 0;max-height:9rem;overflow:auto;font-size:.9rem}
a{color:inherit}
fieldset{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;align-items:center;gap:.25rem .75rem;margin:0;
padding:.25rem .75rem;border:1px solid var(--line);background:var(--page);font-size:.85rem}
legend{float:left;padding:0}
small,.numbers,caption{color:var(--quiet);font-size:.85rem}
.numbers strong{color:var(--ink)}
.scale b{display:inline-block;padding:0 .4rem;font-weight:400}
section{border-top:2px solid var(--line);margin-top:2rem;padding-top:1rem;scroll-margin-top:5rem}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;white-space:nowrap}
.wide{overflow-x:auto}
th,td{border:1px solid var(--line);padding:.2rem .6rem;text-align:left;white-space:nowrap}
th{font-weight:400;color:var(--quiet)}
.text{white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4;background:var(--box);padding:.5rem .75rem;
border-radius:4px}
.numbers{margin:0 0 .25rem}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:0 1.5rem}
.sides .text{background:none;border:1px solid var(--line)}
i,b{text-underline-offset:.2em}
i{font-style:normal;background:var(--r);text-decoration:var(--low,none)}
:root:has(#by-log-prob:checked) i{background:var(--p);text-decoration:none}
.rewards b{background:var(--r);text-decoration:var(--low,none)}
.log-probs b{background:var(--p)}
i:empty::before{content:"◦"}
u{text-decoration:none}
u::before{content:"⏎";opacity:.5}
i:is(:hover,:focus){outline:2px solid}
i:is(:hover,:focus)::after{content:attr(title);position:fixed;z-index:2;inset:auto 0 0;padding:.5rem 1rem;
background:var(--ink);color:var(--page);white-space:pre-wrap}
@media (max-width:50rem){fieldset{position:static}}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}fieldset{position:static}nav{max-height:none}
h2,h3,.numbers{break-after:avoid}}
"""
