"""One option of a command: range, unit and help, and how its words are read and checked."""

from __future__ import annotations

import argparse
import dataclasses
import math
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

__all__ = ["NOUNS", "STANDARD_OUTPUT", "Option", "OptionError", "option"]

NONE = "none"
"""Written on the command line for `None`, where an option has another default."""


STANDARD_OUTPUT = Path("-")
"""Given as the file that is written to."""


@dataclass(frozen=True)
class Option:
    """One option: what its field declares, and what its annotation says.

    Attributes:
        help: one line: what it means.
        unit: of a number.
        low, high: the least and the largest number that is allowed.
        above, below: bounds that are not allowed themselves.
        choices: the texts that are allowed.
        metavar: what help shows for the value.
        flag: its name on the command line, where that is not the field's.
        positional: a word of its own on the command line, without a name.
        main: with a prefix the prefix alone is its name (``--expert``, not ``--expert-model``).
        words: how several values are given: separated by commas, after one another, or by
            repeating the option.
        may_be_empty: whether no value at all is one, where several may be given.
        default_text: what help shows as the default.
        remedy: what to do where the value is refused.
        group: title under which help lists it.
        writes: what is written to a path: a folder, or a file in a folder that exists.
        affects_results: `False` for what may change between two runs of one result: where it
            goes, how much memory and time it takes.
        name, kind, nullable, many, default, required: from the dataclass.

    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: str = ""
    positional: bool = False
    main: bool = False
    words: Literal["commas", "following", "repeated"] = "commas"
    may_be_empty: bool = False
    default_text: str = ""
    remedy: str = ""
    group: str = ""
    writes: Literal["", "folder", "file"] = ""
    affects_results: bool = True
    name: str = ""
    kind: type = str
    nullable: bool = False
    many: bool = False
    default: Any = None
    required: bool = False

    def key(self, prefix: str = "") -> str:
        """Its name in reports, and in the namespace of a parser."""
        return self.spelled(prefix).replace("-", "_")

    def spelled(self, prefix: str = "") -> str:
        """Its name on the command line, without dashes before it."""
        if self.main and prefix:
            return prefix.rstrip("-")
        return prefix + (self.flag or self.name.replace("_", "-"))

    def on_command_line(self, prefix: str = "") -> str:
        """Its name as it is typed; a positional one has a metavar only."""
        return (self.metavar or self.name) if self.positional else f"--{self.spelled(prefix)}"

    @property
    def range(self) -> str:
        """Which numbers or texts are allowed; empty if all are."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            return f"from {_shown(self.low)} to {_shown(self.high)}"
        return " and ".join(f"{word} {_shown(limit)}" for word, _, limit in self._limits())

    def _limits(self) -> Iterator[tuple[str, Callable[[Any, Any], bool], float]]:
        """The limits of numbers that are set: how each is written, how it is compared, and its
        value.
        """
        for word, inside, limit in (
            ("at least", operator.ge, self.low),
            ("above", operator.gt, self.above),
            ("at most", operator.le, self.high),
            ("below", operator.lt, self.below),
        ):
            if limit is not None:
                yield word, inside, limit

    def parse(self, given: Any) -> Any:
        """The value that words of the command line mean, not yet checked.

        Raises:
            OptionError: a word is no number.

        """
        if isinstance(given, bool):
            return given  # a flag
        if self._can_be_off and given == NONE:
            return None
        if not self.many:
            return self._parse_word(given)
        words = given.split(",") if isinstance(given, str) else given
        if words == [""] and self.words != "repeated":  # one empty text is a text
            return ()
        return tuple(
            self._parse_word(word.strip() if self.words == "commas" else word) for word in words
        )

    @property
    def _can_be_off(self) -> bool:
        """Whether `None` has to be written, since it is not the default."""
        return self.nullable and (self.required or self.default is not None)

    def _parse_word(self, word: str) -> Any:
        try:
            return self.kind(word)
        except ValueError:
            raise OptionError(self.name, f"must be {self._wanted()}", word) from None

    def check(self, value: Any) -> None:
        """Raise `OptionError` unless the value has the type and the range of the option."""
        if value is None and self.nullable:
            return
        if self.many and not isinstance(value, tuple):
            raise OptionError(self.name, f"must be a tuple of {NOUNS[self.kind][1]}", value)
        if value == () and self.default != () and not self.may_be_empty:
            text = f"must be at least one of the {NOUNS[self.kind][1]} separated by commas"
            raise OptionError(self.name, text, value)
        for one in value if self.many else (value,):
            self._check_one(one)

    def _check_one(self, value: Any) -> None:
        kind: Any = {int: Integral, float: Real}.get(self.kind, self.kind)
        if not isinstance(value, kind) or isinstance(value, bool) != (self.kind is bool):
            raise OptionError(self.name, f"must be {self._wanted()}", value)
        inside = not self.choices or value in self.choices
        if self.kind in (int, float):
            finite = self.kind is int or _is_finite(value)
            inside = finite and all(within(value, limit) for _, within, limit in self._limits())
        if not inside:
            raise OptionError(self.name, f"must be {self._ended(self.range or 'finite')}", value)
        if self.writes:
            self._check_writable(value)

    def _check_writable(self, path: Path) -> None:
        if self.writes == "file" and path == STANDARD_OUTPUT:
            return
        if self.writes == "file" and path.is_dir():
            raise OptionError(self.name, "is a folder; give a file", path)
        if self.writes == "file" and not path.parent.is_dir():
            raise OptionError(self.name, "its folder does not exist; create it first", path)
        if self.writes == "folder" and path.exists() and not path.is_dir():
            raise OptionError(self.name, "is a file; give a folder", path)
        if self.writes == "file":
            path = path.resolve()  # where a link leads to is what is written
            if not path.parent.is_dir():
                raise OptionError(self.name, "a link that leads nowhere; remove it", path)
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(there, os.W_OK):
            text = f"{there} cannot be written to; give another {self.writes}"
            raise OptionError(self.name, text, path)

    def _wanted(self) -> str:
        """Type, range and remedy: what a value of the wrong type is told."""
        one, more = NOUNS[self.kind]
        noun = f"{more} separated by commas" if self.many else one
        return self._ended(self.range if self.choices else f"{noun}, {self.range}".rstrip(", "))

    def _ended(self, text: str) -> str:
        """A range with its remedy: what a value out of it is told."""
        return self._in_units(text) + (f"; {self.remedy}" if self.remedy else "")

    def _in_units(self, text: str) -> str:
        text += f" {self.unit}" if self.unit else ""
        return text + (f", or {NONE} for off" if self._can_be_off else "")

    def shown_default(self) -> str:
        """The default as it is typed; empty if there is none."""
        if self.default_text or self.default is None or self.default == ():
            return self.default_text
        if self.kind is bool:
            return "on" if self.default else ""
        values = self.default if self.many else (self.default,)
        return ",".join(_shown(value, plain=True) for value in values)

    def extent(self) -> str:
        """Range, unit, and the word that switches it off."""
        return self._in_units(self.range).strip()

    def described(self) -> str:
        """Help, unit, range and default in one line."""
        default = self.shown_default()
        notes = ["" if self.choices else self.extent(), f"default {default}" if default else ""]
        shown = "; ".join(filter(None, notes))
        return f"{self.help} ({shown})" if shown else self.help

    def row(self, prefix: str = "") -> str:
        """A row of a table in Markdown: name, meaning, range, default."""
        default = "required" if self.required else self.shown_default()
        words = (f"`{self.on_command_line(prefix)}`", self.help, self.extent(), default)
        return f"| {' | '.join(word.replace('|', '/') for word in words)} |"

    def add_to(self, parser: Any, prefix: str) -> None:
        """Add the argument; its value stays text, `None` where it is not given."""
        text = self.described().replace("%", "%%")
        if self.positional:
            parser.add_argument(self.name, metavar=self.metavar, help=text)
            return
        how: dict[str, Any] = {"help": text, "default": None, "dest": self.key(prefix)}
        if self.kind is bool:
            plain = self.default is False
            how["action"] = "store_true" if plain else argparse.BooleanOptionalAction
        else:
            how["required"] = self.required
            metavar = self.metavar or ("{" + ",".join(self.choices) + "}" if self.choices else "")
            how["metavar"] = metavar or METAVARS[self.kind]
            if self.many and self.words == "commas" and not self.choices:
                how["metavar"] += f"[,{how['metavar']}…]"
            how |= ACTIONS[self.words] if self.many else {}
        parser.add_argument(self.on_command_line(prefix), **how)


NOUNS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    bool: ("True or False", "booleans"),
}
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
ACTIONS: dict[str, dict[str, Any]] = {
    "commas": {},
    "following": {"nargs": "+", "action": "extend"},
    "repeated": {"action": "append"},
}


def option(default: Any = MISSING, *, help: str, **declared: Any) -> Any:
    """Declare a field of `Options`; the arguments are the attributes of `Option`.

    Args:
        default: the value where the option is not given; without one it must be given.
        help: one line: what it means.
        declared: further attributes of `Option`: ``unit``, ``low``, ``above``, ``choices``, …

    Example:
        >>> from theory.commands.options import Options
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     size: int = option(64, help="number of draws", low=1)
        >>> Draw(size=0)
        Traceback (most recent call last):
        theory.commands.option.OptionError: size=0: must be at least 1

    """
    required = default is MISSING
    one = Option(help=help, default=None if required else default, required=required, **declared)
    return dataclasses.field(default=default, metadata={"option": one})


class OptionError(ValueError):
    """An option whose value is refused.

    Args:
        name: of the field.
        message: what is wrong. ``{other}`` stands for the name of another option, as it is written
            where the error is read: a field in Python, ``--other`` on the command line.
        value: what is refused, ``name=value: message``; `None` for ``name message``.

    """

    def __init__(self, name: str, message: str, value: Any = None) -> None:
        self.name = name
        self.message = message
        self.value = value
        shown = str(value) if isinstance(value, Path) else repr(value)
        super().__init__(self.spelled({}, shown))

    def spelled(self, names: Mapping[str, str], shown: str) -> str:
        """The message, with options called by these names, and the value shown so."""
        text = re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], found[1]), self.message)
        name = names.get(self.name, self.name)
        return f"{name} {text}" if self.value is None else f"{name}={shown}: {text}"


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no double holds
        return False


def _shown(value: Any, plain: bool = False) -> str:
    """A bound or a default: powers of two as such, thousands apart unless it is to be typed.

    >>> _shown(2**63 - 1), _shown(1e-9), _shown(65536), _shown(65536, plain=True)
    ('2^63 - 1', '1e-09', '65,536', '65536')
    """
    if isinstance(value, int) and value > 2**31 and (value + 1).bit_count() == 1:
        return f"2^{value.bit_length()} - 1"
    if isinstance(value, int):
        return str(value) if plain else f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
