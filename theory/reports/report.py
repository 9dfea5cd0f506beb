"""A report: title, conclusions, facts and sections, written as text or as a page.

Whoever has found something builds a `Report` of plain values; how numbers, tables and figures look
is decided here, once for the terminal (`Report.text`) and once for the browser (`Report.html`).
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from theory.reports.html import PICTURES, Markup, element, escape, join, page
from theory.storage.files import replacing

__all__ = [
    "DIGITS",
    "Column",
    "Fragment",
    "Plot",
    "Report",
    "Section",
    "Table",
    "Text",
    "Tone",
    "save_figure",
    "show",
]

DIGITS = 7
"""Digits of a number among the facts, which may be a probability near 1."""

Tone: TypeAlias = Literal["", "good", "bad", "quiet"]
"""How a row of a table is coloured on a page."""


class Section:
    r"""Show a part of a report; what has no text is on pages only.

    Example:
        >>> Text("one paragraph").text(width=7)
        'one\nparagraph'

    """

    def text(self, width: int) -> str:
        """Return lines for a terminal of `width` columns; empty if there is nothing to show."""
        return ""

    def html(self) -> Markup:
        """Return HTML for the body of a page."""
        raise NotImplementedError


@dataclass(frozen=True)
class Text(Section):
    """A paragraph."""

    paragraph: str

    def text(self, width: int) -> str:
        """Return the paragraph in lines of at most `width` characters."""
        return _wrap(self.paragraph, width)

    def html(self) -> Markup:
        """Return the paragraph as ``<p>``."""
        return element("p", self.paragraph)


@dataclass(frozen=True)
class Column:
    """A column of a `Table`.

    Attributes:
        name: heading; a table none of whose columns has one is shown without headings.
        format: how its values are shown: a format specification (``".3f"``) or a function. Texts
            are shown as they are, and None and NaN as a dash, whatever the format.
        align: on which side its cells stand.
        detail: shown on pages only, where a line may be as long as it needs to be.

    """

    name: str = ""
    format: str | Callable[[Any], str] = ""
    align: Literal["left", "right"] = "left"
    detail: bool = False

    def show(self, value: Any) -> str:
        """Return a cell's text."""
        if isinstance(value, str) or _missing(value) or not self.format:
            return show(value)
        return self.format(value) if callable(self.format) else f"{value:{self.format}}"


def show(value: Any, digits: int = 5) -> str:
    """Return a value as text: so many digits of a number, a dash for None and NaN.

    >>> show(2 / 3), show(float("nan")), show([1, 2]), show("as it is")
    ('0.66667', '–', '[1, 2]', 'as it is')
    """
    if _missing(value):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


@dataclass(frozen=True)
class Table(Section):
    """Rows of plain values, one for each column; the first names its row.

    Attributes:
        title: heading; may be empty.
        columns: what each value of a row is, and how it is shown.
        rows: the values.
        note: what a reader should know before reading the rows; may have several lines.
        tones: colour of each row on a page; empty for none.

    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    tones: Sequence[Tone] = ()

    def text(self, width: int) -> str:
        """Return title and note, then the rows in aligned columns, indented if there is a title."""
        columns = []
        for k, column in enumerate(self.columns):
            if column.detail:
                continue
            cells = [column.show(row[k]) for row in self.rows]
            cells = [_one_line(x) for x in ([column.name, *cells] if self._headed else cells)]
            size = max(map(display_width, cells), default=0)
            columns.append([_padded(cell, size, column.align) for cell in cells])
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        if self._headed:
            lines.insert(1, "-" * min(max(map(display_width, lines)), width - 2))
        notes = [_wrap(line, width - 2) for line in self.note.split("\n")] if self.note else []
        lines = [*"\n".join(notes).splitlines(), *lines]
        if not self.title:
            return "\n".join(lines)
        return "\n".join([_one_line(self.title), *(f"  {line}" for line in lines)])

    def markdown(self) -> str:
        """Return the rows as a table in Markdown, without title and note.

        Example:
            >>> print(Table("", [Column("policy"), Column("loss", ".2f", "right")],
            ...             [("π̂", 0.5)]).markdown())
            | policy | loss |
            |---|---:|
            | π̂ | 0.50 |

        """
        rows = [[column.name for column in self.columns]]
        rows += [
            [column.show(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]
        lines = [
            f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in row)} |"
            for row in rows
        ]
        sides = ("---:" if column.align == "right" else "---" for column in self.columns)
        return "\n".join([lines[0], f"|{'|'.join(sides)}|", *lines[1:]])

    @property
    def _headed(self) -> bool:
        return any(column.name for column in self.columns)

    def html(self) -> Markup:
        """Return a heading and a table that scrolls sideways where it is wider than the page."""
        heading = element("h2", self.title) if self.title else Markup()
        note = element("p", self.note, class_="note") if self.note else Markup()
        return join([heading, note, element("div", self._grid(), class_="wide")])

    def _grid(self) -> Markup:
        sides = ["number" if column.align == "right" else None for column in self.columns]
        heads = [
            element("th", column.name, scope="col", class_=side)
            for column, side in zip(self.columns, sides, strict=True)
        ]
        rows = [element("tr", *heads), "\n"] if self._headed else []
        for row, tone in zip(self.rows, self.tones or [""] * len(self.rows), strict=True):
            first, *others = (c.show(value) for c, value in zip(self.columns, row, strict=True))
            cells = [element("th", first, scope="row")]
            cells += [element("td", x, class_=s) for x, s in zip(others, sides[1:], strict=True)]
            rows += [element("tr", *cells, class_=tone or None), "\n"]
        return element("table", "\n", *rows)


@dataclass(frozen=True, eq=False)
class Plot(Section):
    """A figure; a terminal does not show it.

    Attributes:
        name: of the files that `Report.save` writes, without suffix.
        figure: what is drawn.
        alt: what it shows, for whoever cannot see it.
        caption: what to look at, and what the marks mean.

    """

    name: str
    figure: Figure
    alt: str
    caption: str = ""

    @cached_property
    def png(self) -> bytes:
        """The figure as a picture."""
        return _drawn(self.figure, "png", self.name)

    def html(self) -> Markup:
        """Return the picture inside the page, with its caption."""
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        caption = element("figcaption", self.caption) if self.caption else ""
        return element("figure", element("img", alt=self.alt, src=source), caption)


@dataclass(frozen=True)
class Fragment(Section):
    """A part of a page that no other section can show; a terminal does not show it.

    Attributes:
        content: escaped unless it is `theory.reports.html.Markup`; built with `element`.
        style: CSS that it needs; the same style of several fragments is written once.

    """

    content: str
    style: str = ""

    def html(self) -> Markup:
        """Return the content."""
        return escape(self.content)


@dataclass(frozen=True)
class Report:
    """What was found, in the order in which it is read.

    Attributes:
        title: heading.
        summary: conclusions, a sentence each.
        facts: what was examined and how, by name; any values.
        sections: tables, figures and paragraphs.

    >>> table = Table("Gaps", [Column("policy"), Column("loss", ".2f", "right")], [("π̂", 0.5)])
    >>> print(Report("A model", ["Nothing is violated."], {"horizon": 4}, [table]).text())
    A model
    Nothing is violated.
      horizon: 4
    <BLANKLINE>
    Gaps
      policy  loss
      ------------
      π̂       0.50
    """

    title: str
    summary: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    sections: Sequence[Section] = ()

    def text(self, width: int = 100) -> str:
        """Return the report for a terminal, without a final line break.

        Args:
            width: longest line of a paragraph; tables take what they need.

        """
        head = [_one_line(self.title), *(_wrap(sentence, width) for sentence in self.summary)]
        head += [f"  {_one_line(f'{name}: {show(x, DIGITS)}')}" for name, x in self.facts.items()]
        parts = [section.text(width) for section in self.sections]
        return "\n\n".join(["\n".join(head), *(part for part in parts if part)])

    def html(self) -> str:
        """Return a page that needs no other file and reads well on a phone; every text is escaped,
        and the page forbids scripts and the network.
        """
        styles = [s.style for s in self.sections if isinstance(s, Fragment) and s.style]
        return page(self.title, self._body(), "\n".join(dict.fromkeys(styles)))

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``report.html``, and each figure by its name as PNG and SVG; nothing is written
        where the page cannot be built.

        Args:
            folder: exists.

        Returns:
            The files, the page last.

        """
        path = Path(folder) / "report.html"
        # half a surrogate pair has no UTF-8
        whole = self.html().encode("utf-8", "backslashreplace")
        paths = self.save_figures(folder)
        with replacing(path) as file:
            file.write(whole)
        return [*paths, path]

    def save_figures(self, folder: str | Path) -> list[Path]:
        """Write each figure by its name as PNG and SVG, without the page."""
        plots = [section for section in self.sections if isinstance(section, Plot)]
        return [path for x in plots for path in save_figure(x.figure, folder, x.name)]

    def _body(self) -> Markup:
        facts = [
            element("div", element("dt", name), element("dd", show(value, DIGITS)), "\n")
            for name, value in self.facts.items()
        ]
        header = [element("h1", self.title), *(element("p", text) for text in self.summary)]
        header += [element("dl", "\n", *facts)] if facts else []
        sections = [join([section.html(), "\n"]) for section in self.sections]
        return join([element("header", *header), "\n", element("main", "\n", *sections), "\n"])

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, where neither it nor a notebook can restyle or
        reach the other.
        """
        return element("iframe", srcdoc=self.html(), sandbox=True, width="100%", height=640)


def save_figure(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` into `folder`; the same figure gives the same bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_figure(Figure(), folder, "empty")]
        ['empty.png', 'empty.svg']

    """
    paths = []
    for kind in ("png", "svg"):
        path = Path(folder) / f"{name}.{kind}"
        with replacing(path) as file:
            file.write(_drawn(figure, kind, name))
        paths.append(path)
    return paths


def _drawn(figure: Figure, kind: str, name: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


# --- Text in columns ------------------------------------------------------------------------------


def display_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: none for accents that join the character
    before them, two for wide East Asian characters.

    >>> display_width("π̂"), display_width("漢字")
    (1, 4)
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _padded(text: str, width: int, align: str) -> str:
    blank = " " * (width - display_width(text))
    return blank + text if align == "right" else text + blank


def _wrap(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_one_line, lines))


def _one_line(text: str) -> str:
    """Join lines, and picture control characters, which could command a terminal."""
    return re.sub(r"\s*\n\s*", " ", text).translate(CONTROLS)


CONTROLS = PICTURES | {ord(c): 0x2400 + ord(c) for c in "\t\n"}
