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
import os
import re
import signal
import subprocess
import sys
import threading
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

    Numbers written in two different bases are never the same; digits without a base are read in the
    base of the other answer. An answer that cannot be judged in time is wrong.

    Args:
        answer: right answer, in LaTeX.
        given: answer of a response, in LaTeX.

    Raises:
        ValueError: the package math-verify is not installed, or cannot be used.

    Example::

        equivalent(r"\frac{1}{2}", "0.5")  # True

    """
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            f"answers are judged by the package math-verify, which is not installed: {INSTALL}"
        )
    texts = [_clean(answer), _clean(given)]
    short = [_tidy(text) for text in texts]
    if not all(short) or short[0] == short[1]:
        return all(short)
    one, two = (_number(text) for text in texts)
    if one is not None and two is not None:
        return one.equals(two)
    bases = [sorted(_BASE.findall(text)) for text in short]
    if len(given) > LONGEST or (all(bases) and bases[0] != bases[1]):
        return False
    return _worker.ask(*(_SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) for text in texts))


_POINTLESS = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad|approx|degree)(?![A-Za-z])|\\[!,;: "
    r"]|\^\s*\{?\s*\\circ\s*\}?|°"
)
_NAMED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_BASE = re.compile(r"(?<!\w)(?<!_\{)\d[\dA-Za-z.]*\)?_\{?(\d+)\}?")
"""The base of a number, ``12_5`` or ``(1A)_{16}``: math-verify drops it."""
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d{1,3})(?!\w)")


def _clean(text: str) -> str:
    r"""Remove dollars and LaTeX's thousands, ``1,\!000`` and ``1{,}000``; unify ``\frac``."""
    text = re.sub(r"(?<=\d)(?:,\s*\\!|\{,\})\s*(?=\d{3})", "", re.sub(r"\\?\$", "", text))
    return re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).strip().rstrip(".,;")


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
    rf"([-+]?)(?:\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}|({_DECIMAL})(?:/({_DECIMAL}))?)"
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
    sign, top, bottom, number, divisor, power, exponent, percent = match.groups()
    above, below = Fraction(top or number), Fraction(bottom or divisor or 1)
    if below == 0:
        return None
    value = above / below * Fraction(10) ** int(power or exponent or 0)
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
    out, sys.stdout = sys.stdout, sys.stderr
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

    _compare_exactly()
    # the whole box or nothing: by default, from a box that cannot be parsed a number is picked
    whole = [LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)]
    one, two = (
        parse(f"\\boxed{{{text}}}", whole, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (answer, given)
    )
    return bool(
        one and two and verify(one, two, allow_set_relation_comp=True, timeout_seconds=None)
    )


@cache
def _compare_exactly() -> None:
    """Make math-verify compare numbers relative to their size, also inside sets and equations.

    By default it rounds decimals to six places and takes a difference below 1e-15 for zero, so that
    ``1/2^{99}`` equals ``1/2^{98}``.
    """
    from math_verify import grader
    from sympy import Expr, Float, Number

    rounded = grader.sympy_numeric_eq

    def compared(one: Any, two: Any, float_rounding: int, numeric_precision: int) -> bool:
        if not rounded(one, two, float_rounding, numeric_precision):
            return False
        if not (isinstance(one, Expr) and isinstance(two, Expr)):
            return True  # matrices: entry by entry, with this function
        if one.has(Float) or two.has(Float):
            return _nearly(one, two)
        if isinstance(one, Number) or isinstance(two, Number):
            return True  # exact already, but for a percentage and the number before its sign
        return _vanishes(one - two)

    grader.sympy_numeric_eq = compared


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
