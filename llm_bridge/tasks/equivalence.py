r"""Decide whether two answers written in LaTeX are the same.

They are if they are equal after normalisation; if they are two numbers, by their values; else by
the judgement of ``math-verify``. That package can hang where no timer interrupts it (a tower of
powers), and its timers work in the main thread only: so it runs in a process of its own, which is
killed if an answer takes too long.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, NamedTuple

__all__ = ["equivalent"]

SECONDS = 5.0
"""Time in which an answer must be judged; one that takes longer is wrong."""

LONGEST = 500
"""Most letters of an answer that is judged; a longer one must be the same letter by letter."""

MEMORY = 4 * 2**30
"""Bytes that the process of math-verify may take."""

INSTALL = "pip install 'endorm[math]'"


@lru_cache(maxsize=2**16)
def equivalent(answer: str, given: str) -> bool:
    r"""Return whether a given answer is the same as the right one.

    Numbers are compared by their exact values; if one is written as a decimal, to a millionth of
    their size. Numbers written in two different bases are never the same; digits without a base are
    read in the base of the other answer. A unit is ignored. An answer that cannot be judged in time
    is wrong.

    Args:
        answer: right answer, in LaTeX.
        given: answer of a response, in LaTeX.

    Raises:
        ValueError: the package math-verify is not installed, or cannot be used.

    Example:
        >>> equivalent(r"\frac{1}{2}", "0.5"), equivalent("1/2^{99}", "1/2^{98}")
        (True, False)

    """
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            f"answers are judged by the package math-verify, which is not installed: {INSTALL}"
        )
    texts = [_clean(answer), _clean(given)]
    short = [_tidy(text) for text in texts]
    if not all(short) or short[0] == short[1]:
        return all(short)
    for meaningful in (_bases, _half_days, _brackets):
        parts = [meaningful(text) for text in short]
        if all(parts) and parts[0] != parts[1]:
            return False
    if all(_bases(text) for text in short):
        texts = [_BASED.sub(_in_base_ten, text) for text in texts]
    one, two = (_number(text) for text in texts)
    if one is not None and two is not None:
        return one.equals(two)
    if len(given) > LONGEST:
        return False
    return _worker.ask(*(_SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) for text in texts))


_POINTLESS = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad|approx|degree)(?![A-Za-z])|\\[!,;: "
    r"]|\^\s*\{?\s*\\circ\s*\}?|°"
)
_NAMED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d{1,3})(?!\w)")


def _clean(text: str) -> str:
    r"""Remove dollars and LaTeX's thousands, ``1,\!000`` and ``1{,}000``; rewrite what is rare."""
    text = re.sub(r"(?<=\d)(?:,\s*\\!|\{,\})\s*(?=\d{3})", "", re.sub(r"\\?\$", "", text))
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).strip()
    if len(text) <= LONGEST:
        for pattern, rewritten in _REWRITTEN:
            text = pattern.sub(rewritten, text)
    return text.rstrip(".,;")


# Forms that math-verify misreads or cannot read, rewritten as ones that it can


def _written(value: Fraction) -> str:
    r"""Write a positive fraction in LaTeX."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _repeating(match: re.Match[str]) -> str:
    r"""Rewrite a repeating decimal, ``0.1\overline{6}`` or ``0.1666...``, as a fraction."""
    whole, fixed, *blocks = match.groups()
    block = next(filter(None, blocks))
    top = int(whole + fixed + block) - int(whole + fixed or "0")
    return _written(Fraction(top, (10 ** len(block) - 1) * 10 ** len(fixed)))


def _mixed(match: re.Match[str]) -> str:
    r"""Rewrite ``3 1/2`` as ``3\frac{1}{2}``, but not the thousands of ``10 000/3``."""
    whole, top, bottom = match.groups()
    if len(top) == 3 > len(bottom):
        return f"{whole}{top}/{bottom}"
    return f"{whole}\\frac{{{top}}}{{{bottom}}}"


_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _counted(match: re.Match[str]) -> str:
    """Rewrite ``2.5 million`` as ``2500000``."""
    number, before, word = match.groups()
    value = Fraction(number.replace(",", "")) * 10 ** _POWERS[word.lower()]
    return _written(value) + (before or "")


_NAMES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_NAMES |= {"nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}


def _subscript(match: re.Match[str]) -> str:
    r"""Rewrite a base, ``_{(5)}`` or ``_\text{five}``, as ``_{5}``."""
    base = next(filter(None, match.groups())).lower()
    return f"_{{{_NAMES.get(base, base)}}}"


_BASES = rf"(\d+|{'|'.join(_NAMES)})"
_REWRITTEN: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (
        re.compile(r"(?<=(?<!\\)\{)\d{1,3}(?:,\d{3})+(?=\})"),
        lambda match: match[0].replace(",", ""),
    ),
    (re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))"), _repeating),
    (
        re.compile(r"(\d*)\.(\d*?)(?:(\d)\3{2,}|(\d{2,}?)\4+)(?:\.{3}|…|\\[lc]?dots(?![A-Za-z]))"),
        _repeating,
    ),
    (re.compile(r"(?<![\w.,/^{])(\d+)\s+(\d+)/(\d+)(?![\d/.])"), _mixed),
    (
        re.compile(
            rf"(?<![\w.,])(\d[\d,]*\.?\d*)\s*(\\(?:text|mathrm|mbox)\s*\{{)?\s*({'|'.join(_POWERS)})\b",
            re.IGNORECASE,
        ),
        _counted,
    ),
    (
        re.compile(r"(?<![\w.)}])(\d{1,3})!!(?!!)"),
        lambda match: str(math.prod(range(int(match[1]), 0, -2))),
    ),
    (
        re.compile(
            r"(?<=[\dA-Za-z)])\s*_\s*(?:\{\s*\\(?:text|mathrm)\s*\{\s*#\s*\}\s*\}|\\(?:text|mathrm)\s*\{\s*#\s*\}"
            r"|\{\s*\(?\s*#\s*\)?\s*\}|(\d+))".replace("#", _BASES),
            re.IGNORECASE,
        ),
        _subscript,
    ),
    (re.compile(r"(?<!\w)(?:\\left)?\(\s*(\d[\dA-Za-z.]*)\s*(?:\\right)?\)(?=_\{\d)"), r"\1"),
)

# Parts of an answer that math-verify drops or confuses: answers that differ in them are different

_BASED = re.compile(r"(?<!\w)(?<!_\{)(\d[\dA-Za-z.]*)_\{?(\d+)\}?")
"""A number with its base, ``12_5`` or ``1A_{16}``."""


def _bases(text: str) -> list[str]:
    """Return the bases in which the numbers of a tidied text are written."""
    return sorted({match[2] for match in _BASED.finditer(text)})


def _half_days(text: str) -> list[str]:
    """Return ``a`` for each a.m. and ``p`` for each p.m. in a tidied text."""
    return re.findall(r"(?<=\d)([ap])\.?m(?![a-z])", text.lower())


def _brackets(text: str) -> str:
    """Return whether a tidied text lists its elements as a set, or as a tuple or interval."""
    if re.fullmatch(r"\\\{(?:(?!\\mid|[|:()\[\]]).)*\\\}", text):
        return "set"
    return "ordered" if re.fullmatch(r"[(\[][^()\[\]]*[)\]]", text) else ""


def _in_base_ten(match: re.Match[str]) -> str:
    """Return the value of a number with a base; the digits as they are if they are none of it."""
    digits = match[1]
    base = int(match[2])
    try:
        value = Fraction(int(digits.replace(".", ""), base), base ** len(digits.partition(".")[2]))
    except ValueError:
        return match[0]
    return _written(value)


def _tidy(text: str) -> str:
    """Remove from a cleaned text what has no meaning: spaces, degrees, ``text``, bracket sizes."""
    text = re.sub(r"\\frac\s*(\d)", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\{[^{}]\})(\d)", r"\1{\2}", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", _NAMED.sub(r"\1", _POINTLESS.sub("", text)))


_UNIT = re.compile(
    r"(?<=[\d}])(?:\s*\\(?:text|mathrm|mbox)\s*\{(?!\s*(?:i|e|pi)\s*\})[^{}]*\}"
    r"|\s+(?!pi\b|or\b|and\b)[A-Za-z]{2}[A-Za-z ]*)(?:\^\{?[23]\}?)?$"
)
_DECIMAL = r"(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})"
_NUMBER = re.compile(
    rf"([-+]?)(?:(\d{{1,40}})?\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}"
    rf"|({_DECIMAL})(?:/({_DECIMAL}))?)"
    r"(?:[eE]([-+]?\d{1,3})|(?:\\times|\\cdot|\*)10\^\{?([-+]?\d{1,3})\}?)?(\\?%)?"
)


class _Number(NamedTuple):
    """A number as it is written.

    Attributes:
        value: its value.
        decimal: whether it has a decimal point or a power of ten, and so may be rounded.
        percent: whether it has a percent sign, which the value leaves out.

    """

    value: Fraction
    decimal: bool
    percent: bool

    def equals(self, other: _Number) -> bool:
        """Return whether two numbers are equal, to a millionth if one is a decimal.

        A percentage equals both its value and the number before its sign.
        """
        values = [other.value]
        if self.percent != other.percent:
            values.append(other.value / 100 if other.percent else other.value * 100)
        tolerance = Fraction(0)
        if self.decimal or other.decimal:
            tolerance = Fraction(1, 10**6) * max(abs(self.value), abs(other.value))
        return any(abs(self.value - value) <= tolerance for value in values)


def _number(text: str) -> _Number | None:
    """Read a cleaned text that is a number with at most a unit."""
    text = _UNIT.sub("", text)
    if re.fullmatch(r"[-+]?\s*\d{1,3}(?:,\d{3}|\s\d{3})+(?:\.\d*)?\s*(?:\\?%)?", text):
        text = re.sub(r",|(?<=\d)\s(?=\d)", "", text)
    match = _NUMBER.fullmatch(_tidy(text))
    if match is None:
        return None
    sign, whole, top, bottom, number, divisor, power, exponent, percent = match.groups()
    above = Fraction(top or number)
    below = Fraction(bottom or divisor or 1)
    if below == 0:
        return None
    value = (int(whole or 0) + above / below) * Fraction(10) ** int(power or exponent or 0)
    decimal = "." in match[0] or bool(power or exponent)
    return _Number(-value if sign == "-" else value, decimal, percent is not None)


class _Worker:
    """The process of math-verify: started at the first question, killed if one takes too long."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, answer: str, given: str) -> bool:
        """Return whether math-verify says that the two answers are the same."""
        with self.lock:
            running = self.process is not None and self.process.poll() is None
            process = self.process if running else self._start()
            assert process is not None
            reply = _reply(process, json.dumps([answer, given]), SECONDS)
            if not reply:
                self.close()
            return reply == "True"

    def _start(self) -> subprocess.Popen[str]:
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": paths} | one_thread,
        )
        # a version whose comparison cannot be replaced by ours fails the second question
        for pair, right in ((["1", "1"], "True"), (["1/2^{99}", "1/2^{98}"], "False")):
            reply = _reply(process, json.dumps(pair), 120.0)
            if reply != right:
                self.close()
                raise ValueError(
                    f"math-verify cannot be used ({reply or 'no reply'}); install it anew: "
                    f"{INSTALL}"
                )
        return process

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _reply(process: subprocess.Popen[str], question: str, seconds: float) -> str:
    """Send a line to a process and return its answer; empty if it dies or is killed as too slow."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        process.stdin.write(question + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()
    except OSError:
        return ""
    finally:
        timer.cancel()


_worker = _Worker()
atexit.register(_worker.close)


def _serve() -> None:
    """Run the worker: answer each line, a JSON pair, with True, False, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the parent ends it
    out = sys.stdout
    sys.stdout = sys.stderr
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        try:
            reply = str(_verify(*json.loads(line)))
        except Exception as error:
            reply = " ".join(f"{type(error).__name__} {error}".split())[:200]
        print(reply, file=out, flush=True)


def _verify(answer: str, given: str) -> bool:
    """Ask math-verify, with its comparison of numbers replaced."""
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import EmptySet

    _compare_exactly()
    # the whole box or nothing: by default, from a box that cannot be parsed a number is picked
    whole = [LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)]
    one, two = (
        parse(f"\\boxed{{{text}}}", whole, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (answer, given)
    )
    # an interval with its ends the wrong way round is read as the empty set: all would be equal
    named = all(re.search(r"\\emptyset|\\\{\s*\\\}", text) for text in (answer, given))
    if not (one and two) or (one[0] == EmptySet and not named):
        return False
    return bool(verify(one, two, allow_set_relation_comp=True, timeout_seconds=None))


@cache
def _compare_exactly() -> None:
    """Make math-verify compare numbers relative to their size, also inside sets and equations.

    By default it rounds decimals to six places and takes a difference below 1e-15 for zero, so that
    ``1/2^{99}`` equals ``1/2^{98}``.
    """
    from math_verify import grader
    from sympy import Expr, Float, Number, solve

    rounded = grader.sympy_numeric_eq
    solved = grader.sympy_solve_and_compare

    def compared(one: Any, two: Any, float_rounding: int, numeric_precision: int) -> bool:
        expressions = isinstance(one, Expr) and isinstance(two, Expr)
        if expressions and (one.has(Float) or two.has(Float)):
            return _nearly(one.doit(), two.doit())
        if not rounded(one, two, float_rounding, numeric_precision):
            return False
        if not expressions:
            return True  # matrices: entry by entry, with this function
        if isinstance(one, Number) or isinstance(two, Number):
            return True  # exact already, but for a percentage and the number before its sign
        return _vanishes(one - two)

    def compared_solutions(one: Any, two: Any, *settings: int) -> bool:
        # `1 = 2` and `3 = 4` have the same solutions: none
        return solve(one, one.free_symbols) != [] and bool(solved(one, two, *settings))

    grader.sympy_numeric_eq = compared
    grader.sympy_solve_and_compare = compared_solutions


def _at_a_point(expression: Any) -> dict[Any, Any]:
    """Return numbers for the variables at which different expressions have different values."""
    from sympy import Rational, prime

    names = sorted(expression.free_symbols, key=str)
    return {name: Rational(prime(n + 5), 7) for n, name in enumerate(names)}


def _nearly(one: Any, two: Any) -> bool:
    """Return whether two expressions have values that are equal to a millionth."""
    point = _at_a_point(one + two)
    first, second = (side.evalf(30, subs=point) for side in (one, two))
    if not (first.is_number and second.is_number):
        return False
    millionth = 1e-6 * (1 + 1e-9)  # of binary numbers: 0.333333 is 1/3
    return bool(abs(first - second) <= millionth * max(abs(first), abs(second)))


def _vanishes(difference: Any) -> bool:
    """Return whether a difference is zero to 200 digits of its terms."""
    from sympy.core.evalf import PrecisionExhausted

    try:
        return bool(difference.evalf(5, subs=_at_a_point(difference), maxn=200, strict=True) == 0)
    except PrecisionExhausted:
        return True
