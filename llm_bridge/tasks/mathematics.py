r"""Mathematics problems from JSON lines as a `Task`, and whether two answers written in LaTeX say
the same.

A response's answer is what stands in its last ``\boxed{…}`` or, without one, after its last
``####``. Two answers are the same if they are after normalisation; if they are two numbers, by
their values; else by what ``math-verify`` says. That package can hang where no timer interrupts it
(a tower of powers), and its timers work in the main thread only: so it runs in a process of its
own, which is ended when an answer takes too long.
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
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from llm_bridge.preferences.pairs import Place, Problem, _rows, _show, _text
from llm_bridge.tasks.generated import Task

__all__ = ["BENCHMARKS", "BOXED", "DATA", "boxed", "equivalent", "final_answer", "problems"]

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
"""The prompt of Qwen2.5-Math; ``{problem}`` is where the problem goes, other braces stay as they
are.
"""

DATA = {
    "math500": "math/math500.jsonl",
    "aime24": "math/aime24.jsonl",
    "amc23": "math/amc23.jsonl",
    "minerva": "math/minerva_math.jsonl",
    "olympiad": "math/olympiadbench.jsonl",
    "math-train": "math/math-train.jsonl",
    "math-test": "math/math-test.jsonl",
    "gsm8k-train": "gsm8k/train.jsonl",
    "gsm8k": "gsm8k/test.jsonl",
}
"""Short names, and where their files lie in a data folder."""

BENCHMARKS = ("math500", "aime24", "amc23", "minerva", "olympiad")
"""The five benchmarks of the paper's experiment with PPO."""

SECONDS = 5.0
"""Time in which an answer must be judged; what takes longer is wrong."""
LONGEST = 500
"""Letters of an answer; one that is longer is right if it is the right one letter by letter."""
MEMORY = 4 * 2**30
"""Bytes that judging may take."""
INSTALL = "pip install 'endorm[math]'"


def problems(
    source: str | Path,
    folder: str | Path | None = None,
    *,
    template: str = BOXED,
    tokenizer: Any = None,
    limit: int | None = None,
) -> tuple[Task, list[Problem]]:
    r"""Problems with their answers, and the rows that have none.

    A row has `problem` or `question` (with its `context`, if any), and its answer in `answer` (a
    number, a text, or one that ends in ``#### answer``), in `final_answer` (a list, all of which is
    asked for), or in the last ``\boxed{…}`` of `solution`.

    Args:
        source: a file, or a short name of `DATA`.
        folder: where short names are looked for.
        template: the prompt, with ``{problem}`` in it.
        tokenizer: one with a chat template, to make the prompt the user's turn of a conversation.
        limit: stop after so many problems.

    Raises:
        ValueError: no ``{problem}`` in the template, no row that can be used, or a chat template
            whose text is not read back as the tokens it stands for.
        OSError: there is no such file; lists those that are there.

    """
    if "{problem}" not in template:
        raise ValueError(f"template={template!r}: must have {{problem}} where the problem goes")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1; None for all")
    path = _find(str(source), folder)
    good: list[tuple[str, str]] = []
    bad: list[Problem] = []
    for item in _problems(path):
        if isinstance(item, Problem):
            bad.append(item)
        else:
            good.append((template.replace("{problem}", item[0]), item[1]))
        if len(good) == limit:
            break
    if not good:
        raise ValueError(
            str(bad[0]) if bad else f"{path}: no rows; give JSON lines with problem and answer"
        )
    prompts = tuple(prompt if tokenizer is None else _chat(tokenizer, prompt) for prompt, _ in good)
    name = str(source) if str(source) in DATA else path.stem
    return Task(name, prompts, tuple(answer for _, answer in good), final_answer, equivalent), bad


def _find(name: str, folder: str | Path | None) -> Path:
    if name in DATA:
        if folder is None:
            raise ValueError(
                f"folder=None: {name} is a short name; give the folder that has {DATA[name]}"
            )
        path = Path(folder) / DATA[name]
    else:
        path = Path(name)
    if path.is_file():
        return path
    found = (
        []
        if folder is None
        else [short for short, file in DATA.items() if (Path(folder) / file).is_file()]
    )
    there = (
        f"{folder} has {', '.join(found) or 'none of the known files'}"
        if folder is not None
        else "give a file"
    )
    raise OSError(f"{path}: no such file; {there} (short names: {', '.join(DATA)})")


def _problems(path: Path) -> Iterator[tuple[str, str] | Problem]:
    for number, (line, row) in enumerate(_rows(path)):
        try:
            if isinstance(row, ValueError):
                raise row
            if not isinstance(row, dict):
                raise ValueError(f"must be a JSON object, got {_show(row)}")
            question = _text(row, "problem" if "problem" in row else "question")
            context = "" if row.get("context") is None else _text(row, "context") + "\n"
            yield context + question, _answer(row)
        except ValueError as error:
            yield Problem(Place(str(path), line, number), str(error))


def _answer(row: dict[str, Any]) -> str:
    if "answer" in row:
        value = row["answer"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ValueError(f"answer must be a finite number, got {value}")
            return str(int(value) if value == int(value) else value)
        answer = _text(row, "answer").rpartition("####")[2]
    elif "final_answer" in row:
        parts = row["final_answer"]
        if (
            not isinstance(parts, list)
            or not parts
            or not all(isinstance(part, str) for part in parts)
        ):
            raise ValueError(f"final_answer must be a list of texts, got {_show(parts)}")
        answer = ", ".join(parts)
    elif "solution" in row:
        found = boxed(_text(row, "solution"))
        if found is None:
            raise ValueError("solution has no \\boxed{…}")
        answer = found
    else:
        raise ValueError("answer, final_answer and solution are missing")
    if not answer.strip():
        raise ValueError("the answer is empty")
    return answer.strip()


def _chat(tokenizer: Any, prompt: str) -> str:
    """The text that is read, special tokens added, as the tokens of a conversation that begins with
    `prompt`.
    """
    from llm_bridge.models.load import encode, first_line
    from llm_bridge.models.prompts import prompt_ids

    message = [{"role": "user", "content": prompt}]
    ids = prompt_ids(tokenizer, message)
    text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    # a template writes the token at the beginning itself, a tokenizer adds it once more
    for one in (text, text.removeprefix(tokenizer.bos_token or "")):
        try:
            if encode(tokenizer, one) == ids:
                return one
        except ValueError as error:
            raise ValueError(
                f"tokenizer: its chat template cannot be encoded ({first_line(error)})"
            ) from None
    raise ValueError(
        "tokenizer: its chat template's text has other tokens than the template; give token ids"
    )


# What a response answers


_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(
    r"(?=[-+]?\s*(?:\.?\d|\\[A-Za-z{]|[(\[]|[A-Za-z](?![A-Za-z])))"
    r"(?:(?!\$|\\[)\]]|\\(?:boxed|fbox)|[.,;](?:\s|$)).)+"
)
"""What stands after ``\\boxed`` without a brace, up to the end of the formula, the sentence or the
line.
"""


def boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{…}``, or after the last ``\boxed`` without a brace, with
    something in it.

    `None` without one, or where that is cut off.
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
    r"""From `start` to the brace that closes the one before it; ``\{`` and ``\}`` are letters."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : start + match.start()]
    return None


def final_answer(response: str) -> str | None:
    r"""The answer of a response: of its last ``\boxed`` or else after its last ``####``, on that
    line; or `None`.
    """
    for match in _BOX.finditer(response):
        if re.compile(r"\{\s*[^\s}]").match(response, match.end()) or _BARE.match(
            response, match.end()
        ):
            return boxed(response)
    rest = response.rpartition("####")[2] if "####" in response else ""
    return next(iter(rest.strip().splitlines()), None)


# Whether two answers are the same


@lru_cache(maxsize=2**16)
def equivalent(answer: str, given: str) -> bool:
    """Whether a given answer says the same as the right one; False where it takes too long or
    cannot be judged.

    Numbers written in two different bases are never the same; digits without a base are taken in
    the other's.

    Raises:
        ValueError: the package math-verify is not installed, or cannot be used.

    """
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            f"answers are judged by the package math-verify, which is not installed: {INSTALL}"
        )
    texts = _clean(answer), _clean(given)
    short = _tidy(texts[0]), _tidy(texts[1])
    if not all(short) or short[0] == short[1]:
        return all(short)
    numbers = _number(texts[0]), _number(texts[1])
    if numbers[0] is not None and numbers[1] is not None:
        return _equal(*numbers[0], *numbers[1])
    bases = [sorted(_BASE.findall(text)) for text in short]
    if len(given) > LONGEST or (all(bases) and bases[0] != bases[1]):
        return False
    one, two = (_SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) for text in texts)
    return _worker.ask(one, two)


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
    r"""Without dollars and the LaTeX of thousands, ``1,\!000`` and ``1{,}000``; fractions of one
    size.
    """
    text = re.sub(r"(?<=\d)(?:,\s*\\!|\{,\})\s*(?=\d{3})", "", re.sub(r"\\?\$", "", text))
    return re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).strip().rstrip(".,;")


def _tidy(text: str) -> str:
    """A cleaned text without what changes nothing: spaces, degrees, ``text``, sizes of brackets."""
    text = re.sub(
        r"(\\frac\{[^{}]\})(\d)", r"\1{\2}", re.sub(r"\\frac\s*(\d)", r"\\frac{\1}", text)
    )
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


def _number(text: str) -> tuple[Fraction, bool, bool] | None:
    """The value of a cleaned text that is a number and a unit at most, whether it is a decimal, and
    a percentage.
    """
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
    return (
        (-value if sign == "-" else value),
        "." in match[0] or bool(power or exponent),
        percent is not None,
    )


def _equal(
    one: Fraction, rough: bool, percent: bool, two: Fraction, rough_too: bool, percent_too: bool
) -> bool:
    """Equal, to a millionth where there is a decimal; a percentage is also the number before its
    sign.
    """
    tolerance = Fraction(1, 10**6) * max(abs(one), abs(two)) if rough or rough_too else Fraction(0)
    values = [two] if percent == percent_too else [two, two / 100 if percent_too else two * 100]
    return any(abs(one - value) <= tolerance for value in values)


class _Worker:
    """The process that math-verify runs in: started when it is needed, ended when an answer takes
    too long.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, answer: str, given: str) -> bool:
        with self.lock:
            process = (
                self.process
                if self.process is not None and self.process.poll() is None
                else self._start()
            )
            reply = _reply(process, json.dumps([answer, given]), SECONDS)
            if not reply:
                self.close()
            return reply == "True"

    def _start(self) -> subprocess.Popen[str]:
        self.close()
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=os.environ
            | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
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
    """The line that a process answers a line with; empty where it takes longer than that, and is
    killed, or dies.
    """
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
    """What the worker does: for each pair of answers, a line of JSON, it writes True or False, or
    what went wrong.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the one who asks
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
    """What math-verify says with numbers compared by `_exactly`."""
    from math_verify import LatexExtractionConfig, parse, verify

    _exactly()
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
def _exactly() -> None:
    """Make math-verify compare expressions by the size they have, also inside sets, intervals and
    equations.

    It rounds decimals to six places and takes a difference below 1e-15 for zero, so that
    ``1/2^{99}`` is ``1/2^{98}``.
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
            # exact already, apart from a percentage, which is also the number before its sign
            return True
        return _vanishes(one - two)

    grader.sympy_numeric_eq = compared


def _at_a_point(expression: Any) -> dict[Any, Any]:
    """Numbers in place of the variables, at which what is different is different."""
    from sympy import Rational, prime

    names = sorted(expression.free_symbols, key=str)
    return {name: Rational(prime(n + 5), 7) for n, name in enumerate(names)}


def _nearly(one: Any, two: Any) -> bool:
    """Whether two expressions are equal to a millionth; not where they have no value."""
    point = _at_a_point(one + two)
    first, second = (side.evalf(30, subs=point) for side in (one, two))
    if not (first.is_number and second.is_number):
        return False
    millionth = 1e-6 * (1 + 1e-9)  # of binary numbers: 0.333333 is 1/3
    return bool(abs(first - second) <= millionth * max(abs(first), abs(second)))


def _vanishes(difference: Any) -> bool:
    """Whether a difference is zero: 200 digits of its terms show nothing of it."""
    from sympy.core.evalf import PrecisionExhausted

    try:
        return bool(difference.evalf(5, subs=_at_a_point(difference), maxn=200, strict=True) == 0)
    except PrecisionExhausted:
        return True
