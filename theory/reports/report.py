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

from theory.reports.environment import environment
from theory.reports.html import PICTURES, Markup, element, escape, join, page
from theory.reports.notation import typeset
from theory.storage.files import ascii_keys, replacing

__all__ = [
    "DIGITS",
    "WIDTH",
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

WIDTH = 80
"""Columns of a terminal that a report takes, also where it is piped."""

DIGITS = 7
"""Digits of a number among the facts, which may be a probability near 1."""

Tone: TypeAlias = Literal["", "good", "bad", "quiet"]
"""How a row of a table is coloured on a page."""


class Section:
    r"""Show a part of a report; what has no text is on pages only.

    Attributes:
        detail: shown on pages, and on a terminal only where everything is asked for.

    Example:
        >>> Text("one paragraph").text(width=7)
        'one\nparagraph'

    """

    detail: bool = False

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
    detail: bool = False

    def text(self, width: int) -> str:
        """Return the paragraph in lines of at most `width` characters."""
        return _wrap(self.paragraph, width)

    def html(self) -> Markup:
        """Return the paragraph as ``<p>``, its formulas typeset."""
        return element("p", typeset(self.paragraph))


@dataclass(frozen=True)
class Column:
    """A column of a `Table`.

    Attributes:
        name: heading; a table none of whose columns has one is shown without headings.
        format: how its values are shown: a format specification (``".3f"``) or a function. Texts
            are shown as they are, and None and NaN as a dash, whatever the format.
        align: on which side its cells stand.
        detail: shown on pages only, where a line may be as long as it needs to be.
        kind: ``"formula"`` for cells of our own words, whose formulas are typeset on a page;
            ``"prose"`` for texts of several lines, which keep their blanks.

    """

    name: str = ""
    format: str | Callable[[Any], str] = ""
    align: Literal["left", "right"] = "left"
    detail: bool = False
    kind: Literal["", "formula", "prose"] = ""

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
        detail: see `Section`.

    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    tones: Sequence[Tone] = ()
    detail: bool = False

    def text(self, width: int) -> str:
        """Return title and note, then the rows in aligned columns, indented if there is a title.

        A table that is too wide has its widest texts in several lines; one that is still too wide
        has a line for each value.
        """
        shown = [k for k, column in enumerate(self.columns) if not column.detail]
        columns = [self.columns[k] for k in shown]
        heads = [[_one_line(column.name) for column in columns]] if self._headed else []
        rows = [[_one_line(self.columns[k].show(row[k])) for k in shown] for row in self.rows]
        lines = _in_columns(heads + rows, columns, width - 2, ruled=self._headed)
        if lines is None:
            lines = _stacked(rows, columns, width - 2)
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
        """Return a heading and a table: it scrolls sideways where it is wider than the page, and
        folds into a block for each row on a phone. What is detail is shown when it is asked for.
        """
        heading = element("h2", typeset(self.title)) if self.title else Markup()
        note = element("p", typeset(self.note), class_="note") if self.note else Markup()
        body = join([note, element("div", self._grid(), class_="wide")])
        if self.detail and heading:
            return element("details", element("summary", heading), body)
        return join([heading, body])

    def _grid(self) -> Markup:
        classes = [_classes(column) for column in self.columns]
        heads = [
            element("th", typeset(column.name), scope="col", class_=look)
            for column, look in zip(self.columns, classes, strict=True)
        ]
        head = [element("thead", element("tr", *heads)), "\n"] if self._headed else []
        rows: list[Markup] = []
        for row, tone in zip(self.rows, self.tones or [""] * len(self.rows), strict=True):
            first, *others = (
                typeset(column.show(value)) if column.kind == "formula" else column.show(value)
                for column, value in zip(self.columns, row, strict=True)
            )
            cells = [element("th", first, scope="row", class_=classes[0])]
            cells += [
                element("td", x, class_=look, data_label=column.name or None)
                for x, column, look in zip(others, self.columns[1:], classes[1:], strict=True)
            ]
            rows += [element("tr", *cells, class_=tone or None), Markup("\n")]
        # a narrow table needs no folding, and one without headings would lose nothing by it
        folds = "folds" if len(self.columns) > 2 else None
        return element("table", "\n", *head, element("tbody", "\n", *rows), class_=folds)


def _classes(column: Column) -> str | None:
    return " ".join(["number"] * (column.align == "right") + [column.kind]).strip() or None


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
        caption = element("figcaption", typeset(self.caption)) if self.caption else ""
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
        summary: conclusions, a sentence each; the first is the verdict.
        facts: what was examined and how, by name; any values.
        sections: tables, figures and paragraphs.
        passed: whether what was asked is so; `None` where nothing was asked that can be false. The
            verdict's colour and the exit code follow from it.
        environment: versions and hardware, of the moment when the report is made.

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
    passed: bool | None = None
    environment: Mapping[str, Any] = field(default_factory=environment, compare=False)

    @property
    def exit_code(self) -> int:
        """1 if what was asked is not so, else 0."""
        return int(self.passed is False)

    def text(self, width: int = WIDTH, *, verbose: bool = True) -> str:
        """Return the report for a terminal, without a final line break.

        Args:
            width: longest line, but for a word that is longer.
            verbose: whether sections of detail are shown.

        """
        head = [_one_line(self.title), *(_wrap(sentence, width) for sentence in self.summary)]
        head += [
            _wrap(_one_line(f"{name}: {show(x, DIGITS)}"), width, "  ", "    ")
            for name, x in self.facts.items()
        ]
        parts = [s.text(width) for s in self.sections if verbose or not s.detail]
        return "\n\n".join(["\n".join(head), *(part for part in parts if part)])

    def html(self) -> str:
        """Return a page that needs no other file and reads well on a phone; every text is escaped,
        and the page forbids scripts and the network.
        """
        styles = [s.style for s in self.sections if isinstance(s, Fragment) and s.style]
        return page(self.title, self._body(), "\n".join(dict.fromkeys(styles)))

    def head(self, schema: str) -> dict[str, Any]:
        """Return what every file of JSON begins with: schema, verdict, exit code, environment.

        Args:
            schema: name and version, as in ``docs/json.md``.

        Example:
            >>> head = Report("A model", ["1 is violated."], passed=False).head("verify/1")
            >>> head["schema"], head["verdict"], head["exit_code"]
            ('endorm/verify/1', '1 is violated.', 1)

        """
        return {
            "schema": f"endorm/{schema}",
            "version": self.environment["endorm"],
            "verdict": self.summary[0] if self.summary else "",
            "exit_code": self.exit_code,
            "facts": ascii_keys(self.facts),
            "environment": dict(self.environment),
        }

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
        header = [element("h1", self.title)]
        if self.summary:
            tone = {None: "", True: " good", False: " bad"}[self.passed]
            verdict, *others = map(typeset, self.summary)
            header.append(element("p", verdict, class_=f"verdict{tone}"))
            header += [element("p", text) for text in others]
        header += [_listed(self.facts)] if self.facts else []
        sections = [join([section.html(), "\n"]) for section in self.sections]
        made = element(
            "details", element("summary", "Versions and hardware"), _listed(self.environment)
        )
        return join(
            [
                element("header", *header),
                "\n",
                element("main", "\n", *sections),
                "\n",
                element("footer", made),
                "\n",
            ]
        )

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, where neither it nor a notebook can restyle or
        reach the other.
        """
        return element("iframe", srcdoc=self.html(), sandbox=True, width="100%", height=640)


def _listed(facts: Mapping[str, Any]) -> Markup:
    """Return names and values as a list of definitions."""
    rows = [
        element("div", element("dt", typeset(name)), element("dd", show(value, DIGITS)), "\n")
        for name, value in facts.items()
    ]
    return element("dl", "\n", *rows)


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


LEAST = 8
"""Columns that a text has at least where a table is made narrower."""


def _in_columns(
    rows: Sequence[Sequence[str]], columns: Sequence[Column], width: int, *, ruled: bool
) -> list[str] | None:
    """Return rows in aligned columns, texts in several lines where they are too wide; `None` where
    that is not enough.
    """
    sizes = [max(map(display_width, cells), default=0) for cells in zip(*rows, strict=True)]
    excess = sum(sizes) + 2 * (len(sizes) - 1) - width
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        if excess > 0 and columns[k].align == "left" and sizes[k] > LEAST:
            less = min(excess, sizes[k] - LEAST)
            sizes[k] -= less
            excess -= less
    wrapped = [
        [
            _wrap(cell, size).split("\n") if display_width(cell) > size else [cell]
            for cell, size in zip(row, sizes, strict=True)
        ]
        for row in rows
    ]
    widths = [
        max((display_width(line) for row in wrapped for line in row[k]), default=0)
        for k in range(len(sizes))
    ]
    if excess > 0 or sum(widths) + 2 * (len(widths) - 1) > width:
        return None
    lines = []
    for n, row in enumerate(wrapped):
        for k in range(max(map(len, row))):
            cells = [cell[k] if k < len(cell) else "" for cell in row]
            lines.append(
                "  ".join(
                    _padded(cell, size, column.align)
                    for cell, size, column in zip(cells, widths, columns, strict=True)
                ).rstrip()
            )
        if n == 0 and ruled:
            lines.append("-" * min(sum(widths) + 2 * (len(widths) - 1), width))
    return lines


def _stacked(rows: Sequence[Sequence[str]], columns: Sequence[Column], width: int) -> list[str]:
    """Return each row as its first value and a line for each of the others."""
    lines: list[str] = []
    for first, *others in rows:
        name = columns[0].name if columns[0].align == "right" else ""  # a number alone says little
        lines += _wrap(f"{_one_line(name)} {first}".strip(), width).split("\n")
        for column, cell in zip(columns[1:], others, strict=True):
            name = f"{_one_line(column.name)}: " if column.name else ""
            lines += _wrap(f"{name}{cell}", width, "  ", "    ").split("\n")
    return lines


def _padded(text: str, width: int, align: str) -> str:
    blank = " " * (width - display_width(text))
    return blank + text if align == "right" else text + blank


def _wrap(text: str, width: int, first: str = "", later: str = "") -> str:
    """Break a text into lines of `width`, indented by `first` and `later`."""
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(map(_one_line, lines))


def _one_line(text: str) -> str:
    """Join lines, and picture control characters, which could command a terminal."""
    return re.sub(r"\s*\n\s*", " ", text).translate(CONTROLS)


CONTROLS = PICTURES | {ord(c): 0x2400 + ord(c) for c in "\t\n"}
