r"""Extract the answer of a response: its last ``\boxed{…}``, what follows ``####``, a number, or a
letter.
"""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["boxed", "chosen_letter", "final_answer", "last_number"]

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(
    r"(?=[-+]?\s*(?:\.?\d|\\[A-Za-z{]|[(\[]|[A-Za-z](?![A-Za-z])))"
    r"(?:(?!\$|\\[)\]]|\\(?:boxed|fbox)|[.,;](?:\s|$)).)+"
)
"""Text after ``\\boxed`` without a brace, up to the end of the formula, sentence or line."""


def boxed(text: str) -> str | None:
    r"""Return the content of the last non-empty ``\boxed{…}``, or after a ``\boxed`` without brace.

    Returns:
        The content; `None` if there is none, or it is cut off.

    Example:
        >>> boxed(r"so x is \boxed{\frac{1}{2}}, not \boxed{}")
        '\\frac{1}{2}'

    """
    for match in reversed(list(_BOX.finditer(text))):
        if text.startswith("{", match.end()):
            inside = _braced(text, match.end() + 1)
            if inside is None or inside.strip():
                return inside
        elif bare := _BARE.match(text, match.end()):
            return _braced(bare[0].strip() + "}", 0)
    return None


def _braced(text: str, start: int) -> str | None:
    r"""Return the text from `start` to the closing brace; ``\{`` and ``\}`` are letters."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


def final_answer(response: str) -> str | None:
    r"""Return a response's answer: in its last ``\boxed``, or on the line after its last ``####``.

    Example:
        >>> final_answer("2 + 2 is four.\n#### 4"), final_answer("I do not know")
        ('4', None)

    """
    for match in _BOX.finditer(response):
        if re.compile(r"\{\s*[^\s}]").match(response, match.end()) or _BARE.match(
            response, match.end()
        ):
            return boxed(response)
    rest = response.rpartition("####")[2] if "####" in response else ""
    return next(iter(rest.strip().splitlines()), None)


_NUMBER = re.compile(r"(?<![\w.])-?[0-9][0-9,]*(?:\.[0-9]+)?")
_LETTER = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")


def last_number(response: str) -> str | None:
    """Return the last number of a response, without commas and without zeros that mean nothing.

    Example:
        >>> last_number("12 + 1030 = 1,042.0."), last_number("I do not know")
        ('1042', None)

    """
    found = _NUMBER.findall(response)
    return None if not found else f"{Decimal(found[-1].replace(',', '')).normalize():f}"


def chosen_letter(response: str, letters: str = "AB") -> str | None:
    """Return the first of some letters that stands by itself in a response.

    Example:
        >>> chosen_letter("Answer B is better than A."), chosen_letter("Both are fine.")
        ('B', None)

    """
    found = (letter for letter in _LETTER.findall(response) if letter in letters)
    return next(found, None)
