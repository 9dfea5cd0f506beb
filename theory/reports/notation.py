"""Typeset the formulas in a text, as our statements write them, in MathML.

Formulas are plain text everywhere else: ``V^{π_E} − V^{π̂} ≤ R·Σ_h TV_RR(h,ε)``. Here the same text
becomes what a browser sets as mathematics; no second spelling is kept beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from theory.reports.html import Markup, element, join

__all__ = ["formula", "typeset"]

HAT = "\u0302"
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789−+")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

TOKEN = re.compile(
    rf"""(?P<letter>[^\W\d_]{HAT})
    |(?P<number>\d+(?:[.,]\d+)*|[½¼¾])
    |(?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+)
    |(?P<lowered>[₀₁₂₃₄₅₆₇₈₉]+)
    |(?P<word>[A-Za-z]+)
    |(?P<script>[_^])
    |(?P<blank>\s+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
NAMES = frozenset({"log", "tanh", "cosh", "exp", "max", "min", "argmax", "mean"})
"""Functions that are words; other words of small letters are English."""

RELATIONS = frozenset("≤≥=<>")
OPENING = frozenset("([{")
CLOSING = frozenset(")]}")
TIGHT = frozenset("/|‖·'")
"""Operators without blanks beside them."""


class _Parser:
    """Read a formula from left to right; every character is kept but those that only say where a
    script begins.
    """

    def __init__(self, text: str) -> None:
        self.tokens = [(str(m.lastgroup), m[0]) for m in TOKEN.finditer(text)]
        self.at = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("", "")

    def take(self) -> tuple[str, str]:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, until: str = "") -> list[Markup]:
        """Read up to the character `until` outside of further brackets, or to the end."""
        parts: list[Markup] = []
        depth = 0
        while self.peek()[0] and not (depth <= 0 and self.peek()[1] == until):
            kind, text = self.peek()
            depth += (text in OPENING) - (text in CLOSING)
            if kind == "blank":
                self.take()
                if parts and self._sides_are_atoms():
                    parts.append(element("mspace", width="0.22em"))
            else:
                parts.append(self.scripted())
        return parts

    def _sides_are_atoms(self) -> bool:
        def operator(text: str) -> bool:
            return text in RELATIONS or text in "+−·/,|‖"

        before = self.tokens[self.at - 2][1]
        after = self.peek()[1]
        return bool(after) and not operator(before) and not operator(after)

    def scripted(self) -> Markup:
        """Read an atom with what stands above and below it."""
        large = self.peek()[1] in ("Σ", "max", "argmax", "min")
        base = self.atom()
        below: list[Markup] = []
        above: list[Markup] = []
        while True:
            kind, text = self.peek()
            if kind == "script" and self.at + 1 < len(self.tokens):
                self.take()
                (below if text == "_" else above).append(self.operand())
            elif kind == "raised":
                self.take()
                above.append(_number(text.translate(RAISED)))
            elif kind == "lowered":
                self.take()
                below.append(_number(text.translate(LOWERED)))
            elif text in ("*", "'") and kind == "other":
                self.take()
                above.append(element("mo", "*" if text == "*" else "′"))
            else:
                break
        if not below and not above:
            return base
        if not above:
            return element("munder" if large else "msub", base, _row(below))
        if not below:
            return element("msup", base, _row(above))
        return element("msubsup", base, _row(below), _row(above))

    def operand(self) -> Markup:
        """Read what a script is: all in braces, or one atom, with its star."""
        if self.peek()[1] == "{":
            self.take()
            parts = self.row("}")
            if self.peek()[1] == "}":
                self.take()
            return _row(parts)
        sign = [element("mo", self.take()[1])] if self.peek()[1] in ("−", "+") else []
        if not self.peek()[0]:
            return _row(sign)
        base = self.atom()
        if self.peek()[1] == "*":
            self.take()
            base = element("msup", base, element("mo", "*"))
        return _row([*sign, base])

    def atom(self) -> Markup:
        """Read a letter, a number, a word, a root or an operator."""
        kind, text = self.take()
        if kind == "letter":
            hat = element("mo", "^", stretchy="false")
            return element("mover", element("mi", text[0]), hat, accent="true")
        if kind == "number":
            return element("mn", text)
        if kind in ("raised", "lowered"):  # with nothing before it
            return element("mn", text)
        if kind == "word":
            english = text.islower() and len(text) > 1 and text not in NAMES
            return element("mtext" if english else "mi", text)
        if text == "√" and self.peek()[0]:
            return self.root()
        if text == "Σ":
            return element("mo", "∑", movablelimits="true")
        if text.isalpha() and len(text) == 1:
            return element("mi", text)
        if text in TIGHT:
            return element("mo", text, stretchy="false", lspace=0, rspace=0)
        return element("mo", text, stretchy="false" if text in OPENING | CLOSING else None)

    def root(self) -> Markup:
        """Read what stands under a root: brackets, an atom, or a whole sum up to the next dot.

        The line over it is drawn by the style of the page: browsers draw none for ``<msqrt>``, and
        not even the root, where no font for mathematics is installed.
        """
        if self.peek()[1] == "(":
            self.take()
            parts = self.row(")")
            if self.peek()[1] == ")":
                self.take()
        else:
            parts = self.row("·") if self.peek()[1] == "Σ" else [self.scripted()]
        sign = element("mo", "√", form="prefix", stretchy="false", lspace=0, rspace=0)
        return element("mrow", sign, element("mrow", *parts, class_="root"))


def _number(text: str) -> Markup:
    sign, digits = (text[0], text[1:]) if text[0] in "−+" else ("", text)
    parts = [element("mo", sign)] if sign else []
    return _row([*parts, element("mn", digits)])


def _row(parts: list[Markup]) -> Markup:
    return parts[0] if len(parts) == 1 else element("mrow", *parts)


def formula(text: str) -> Markup:
    """Return a formula in MathML; a line may end before each relation.

    Args:
        text: with ``_`` and ``^`` before subscripts and superscripts, ``{…}`` around long ones.

    Example:
        >>> formula("H²")
        '<math><msup><mi>H</mi><mn>2</mn></msup></math>'
        >>> formula("V^π ≤ 2αH")[:58]
        '<math><msup><mi>V</mi><mi>π</mi></msup></math> <math><mo>≤'

    """
    return join(
        part
        for k, side in enumerate(_sides(text))
        for part in ([" "] if k else []) + [element("math", *_Parser(side).row())]
    )


def _sides(text: str) -> Iterator[str]:
    """Yield the text cut before each relation that stands in no brackets."""
    depth = start = 0
    for k, c in enumerate(text):
        depth += (c in OPENING) - (c in CLOSING)
        if c in RELATIONS and depth == 0 and text[start:k].strip():
            yield text[start:k].strip()
            start = k
    yield text[start:].strip()


SYMBOL = re.compile(rf"[α-ωΓΔΘΛΞΠΣΦΨΩ√‖∞{HAT}²³⁻₁₂]|^[A-Zr]\*|^[A-Z](?:_|\^)|e\^")
"""What tells that a word belongs to a formula."""

GLUE = re.compile(
    r"[−+·=≤≥<>/|]+|\d[\d.,/]*[A-Z]?|[b-hj-zB-HJ-Z]\d?|[A-Z]{1,3}(?:[(\[_].*)?|"
    r"(?:log|tanh|cosh|max|argmax)(?:[(\[_].*)?|[\[(].{0,2}"
)
"""Words that belong to a formula where one of their neighbours does."""


NUMBER = re.compile(r"\d[\d.,;:]*")
OPERATOR = re.compile(r"[−+·=≤≥<>/|]+")


def typeset(text: str) -> Markup:
    r"""Return a text as HTML, its formulas in MathML and all else escaped.

    A formula is a run of words with Greek letters, hats, roots or scripts, and of the numbers,
    operators and functions between them.

    Example:
        >>> typeset("a < b, where H² is")
        'a &lt; b, where <math><msup><mi>H</mi><mn>2</mn></msup></math> is'

    """
    parts: list[str] = []
    run: list[str] = []
    depth = 0

    def flush() -> None:
        parts.extend(_flushed(run))
        run.clear()

    for word in re.findall(r"\s+|\S+", text):
        bare = word.rstrip(",.;:")
        if word.isspace():
            if "\n" in word:
                flush()
            (run if run else parts).append(word)
            continue
        before = [one for one in run if not one.isspace()][-1:]
        if word[0] == "(" and depth == 0 and before and not OPERATOR.fullmatch(before[0]):
            flush()  # brackets apart from a formula are the sentence's
        if not (depth > 0 or SYMBOL.search(bare) or GLUE.fullmatch(bare)):
            flush()
            parts.append(word)
            continue
        run.append(word)
        depth = max(0, depth + sum((c in OPENING) - (c in CLOSING) for c in word))
        if word != bare and depth == 0:
            flush()
    flush()
    return join(parts)


def _flushed(run: list[str]) -> Iterator[str]:
    """Yield a run of words: what is a formula as one, and the words around it."""
    words = [k for k, word in enumerate(run) if not word.isspace()]
    symbols = [k for k in words if SYMBOL.search(run[k])]
    if not symbols:
        yield from run
        return
    while NUMBER.fullmatch(run[words[-1]]) and not OPERATOR.fullmatch(run[words[-2]]):
        words.pop()  # a number that only follows the formula
    last = words[-1] + 1
    whole = "".join(run[:last])
    stop = len(whole.rstrip(",.;:"))
    body = whole[:stop]
    extra = _unclosed(body)
    yield body[:extra]
    rest = body[extra:]
    close = _unopened(rest)
    yield formula(rest[:close])
    yield rest[close:] + whole[stop:]
    yield from run[last:]


def _unclosed(text: str) -> int:
    """Return how many opening brackets at the beginning are never closed."""
    missing = sum((c in OPENING) - (c in CLOSING) for c in text)
    found = 0
    while found < missing and found < len(text) and text[found] in OPENING:
        found += 1
    return found


def _unopened(text: str) -> int:
    """Return where the closing brackets at the end begin that were never opened."""
    excess = sum((c in CLOSING) - (c in OPENING) for c in text)
    end = len(text)
    while excess > 0 and end > 0 and text[end - 1] in CLOSING:
        end -= 1
        excess -= 1
    return end
