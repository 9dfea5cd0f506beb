"""Build HTML in which every text is escaped unless it says that it is HTML, and one page of it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib import resources
from string import Template

__all__ = ["PICTURES", "Markup", "element", "escape", "join", "page"]

REORDERING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
PICTURES: dict[int, int | str] = dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
PICTURES |= {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n"} | {0x7F: 0x2421}
PICTURES |= {c: f"⟨U+{c:04X}⟩" for c in REORDERING}
"""Control characters, which HTML forbids, and what pictures them; also those that change the order
in which text is shown, so that it would read as what it is not.
"""

VOID = frozenset({"img", "input"})
"""Elements that have no content and no end tag."""


class Markup(str):
    """Mark text that is HTML already, and is written as it is.

    Example:
        >>> escape("<b>"), escape(Markup("<b>"))
        ('&lt;b&gt;', '<b>')

    """

    __slots__ = ()


def escape(text: str) -> Markup:
    r"""Return a text as HTML that shows it; control characters become pictures of themselves.

    >>> escape("a < b\x00"), escape("\u202egnp.exe")
    ('a &lt; b␀', '⟨U+202E⟩gnp.exe')
    >>> escape(Markup("<b>kept</b>"))
    '<b>kept</b>'
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(text.translate(PICTURES)))


def element(tag: str, *children: str, **attributes: str | int | bool | None) -> Markup:
    """Return an element around its children, each escaped unless it is `Markup`.

    Args:
        tag: its name.
        children: what it contains, one after the other.
        attributes: its attributes. A trailing underscore is dropped (``class_``), others become
            hyphens; ``True`` writes the name alone, and ``None`` or ``False`` leaves it out.

    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    >>> element("input", type="radio", checked=True)
    '<input type="radio" checked>'
    """
    written = ""
    for name, value in attributes.items():
        key = name.removesuffix("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{escape(str(value))}"'
    start = f"<{tag}{written}>"
    return Markup(start if tag in VOID else f"{start}{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Markup:
    """Return parts as one piece of HTML, each escaped unless it is `Markup`.

    Example:
        >>> join(["a < b", Markup("<br>")])
        'a &lt; b<br>'

    """
    return Markup("".join(map(escape, parts)))


def page(title: str, body: Markup, style: str = "") -> str:
    """Return a whole page that loads nothing and runs no script.

    Args:
        title: name of the page in a browser.
        body: what it shows.
        style: CSS beside that of every page (``page.css``).

    Example:
        >>> whole = page("Gaps", element("p", "1 < 2"))
        >>> "<title>Gaps</title>" in whole, "<p>1 &lt; 2</p>" in whole, "<script" in whole
        (True, True, False)

    """
    here = resources.files(__package__)
    template, common = (
        here.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css")
    )
    return Template(template).substitute(title=escape(title), style=common + style, body=body)
