"""Options of a command, declared once: a dataclass whose fields carry range, unit and help.

Parser, messages, the tables of the documentation and what a report notes are all derived from the
fields, so that an option is added, renamed or bounded in one place.

>>> @dataclass(frozen=True)
... class Solve(Options):
...     alpha: float = option(1.0, help="temperature", unit="reward units", above=0)
...     horizons: tuple[int, ...] = option((2, 4), help="tokens of a response", low=1)
>>> parser = argparse.ArgumentParser()
>>> Solve.add_to(parser)
>>> Solve.read(parser.parse_args(["--horizons", "8,16"]))
Solve(alpha=1.0, horizons=(8, 16))
>>> Solve.read(parser.parse_args(["--alpha", "-1"]))
Traceback (most recent call last):
ValueError: --alpha=-1: must be above 0 reward units
>>> Solve(alpha=float("nan"))
Traceback (most recent call last):
theory.commands.option.OptionError: alpha=nan: must be above 0 reward units
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from theory.commands.option import NOUNS, Option, OptionError, option

__all__ = ["Command", "Group", "OptionError", "Options", "option"]


class Options:
    """Check, parse and document dataclasses whose fields are declared by `option`; their base.

    The annotation decides how a value is read: `int`, `float`, `str`, `Path`; `bool` is a flag;
    ``tuple[kind, ...]`` takes several values; `Literal` is a choice; ``kind | None`` may be left
    out.

    Raises:
        OptionError: a `ValueError` that names option, value, range and unit.

    Example:
        >>> @dataclass(frozen=True)
        ... class Draw(Options):
        ...     sizes: tuple[int, ...] = option((2, 4), help="numbers of draws", low=1)
        >>> parser = argparse.ArgumentParser()
        >>> Draw.add_to(parser)
        >>> Draw.read(parser.parse_args(["--sizes", "8,16"]))
        Draw(sizes=(8, 16))

    """

    def __post_init__(self) -> None:
        """Check every field, then what fields mean together."""
        for name, one in self.declared().items():
            one.check(getattr(self, name))
        self.check()
        self.require_read(
            name for name, one in self.declared().items() if getattr(self, name) != one.default
        )

    def check(self) -> None:
        """Raise `OptionError` where values do not go together; for subclasses."""

    def unread(self) -> dict[str, str]:
        """Options that mean nothing beside the others, and why (``"needs {other}"``); for
        subclasses.
        """
        return {}

    def require_read(self, given: Iterable[str]) -> None:
        """Raise `OptionError` for the first of the given options that is `unread`."""
        unread = self.unread()
        for name in given:
            if name in unread:
                raise OptionError(name, unread[name])

    @classmethod
    @cache
    def declared(cls) -> dict[str, Option]:
        """The options by the names of their fields."""
        hints = get_type_hints(cls)
        found = {}
        for one_field in dataclasses.fields(cls):  # type: ignore[arg-type]  # all are dataclasses
            name = one_field.name
            one: Option = one_field.metadata["option"]
            found[name] = dataclasses.replace(one, name=name, **_understood(hints[name]))
        return found

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser, prefix: str = "") -> None:
        """Add an argument to a parser for each field, each name beginning with the prefix."""
        Group(cls, prefix=prefix).add_to(parser)

    @classmethod
    def given(cls, namespace: argparse.Namespace, prefix: str = "") -> dict[str, Any]:
        """What the command line gave: words, or booleans of flags, by the names of the fields."""
        found = {
            name: getattr(namespace, one.key(prefix), None) for name, one in cls.declared().items()
        }
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def read(cls, namespace: argparse.Namespace, prefix: str = "", **defaults: Any) -> Self:
        """Make the options from what a parser found.

        Args:
            namespace: of a parser with the arguments of `add_to`.
            prefix: as for `add_to`.
            defaults: values of fields that the command line does not give.

        Raises:
            ValueError: names the option as it is typed, with its value, range and unit.

        """
        given = cls.given(namespace, prefix)
        declared = cls.declared()
        try:
            for name, one in declared.items():
                if one.required and name not in given and name not in defaults:
                    raise OptionError(name, "is missing")
            values = {name: declared[name].parse(words) for name, words in given.items()}
            found = cls(**(defaults | values))
            found.require_read(given)
        except OptionError as error:
            shown = f"{error.value:g}" if isinstance(error.value, float) else str(error.value)
            if isinstance(error.value, tuple) or not declared[error.name].many:
                shown = str(given.get(error.name, shown))  # as it was typed
            raise ValueError(error.spelled(cls._typed(given, prefix), shown)) from None
        return found

    @classmethod
    def refuse(
        cls,
        namespace: argparse.Namespace,
        reason: str,
        names: Collection[str] | None = None,
        prefix: str = "",
    ) -> None:
        """Raise `ValueError` if the command line gives one of these fields (by default: any).

        Args:
            namespace: of a parser with the arguments of `add_to`.
            reason: what follows the name of the option, such as ``"needs --model"``.
            names: the fields.
            prefix: as for `add_to`.

        """
        given = cls.given(namespace, prefix)
        for name in given:
            if names is None or name in names:
                raise ValueError(f"{cls._typed(given, prefix)[name]} {reason}")

    @classmethod
    def _typed(cls, given: dict[str, Any], prefix: str) -> dict[str, str]:
        """The options' names as they are typed; flags that were switched off begin with no-."""
        return {
            name: f"--no-{one.spelled(prefix)}"
            if given.get(name) is False
            else one.on_command_line(prefix)
            for name, one in cls.declared().items()
        }

    def as_dict(self, prefix: str = "", *, results_only: bool = False) -> dict[str, Any]:
        """The values as JSON holds them, by the names of the command line.

        Args:
            prefix: as for `add_to`.
            results_only: whether to leave out what no result depends on.

        """
        return {
            one.key(prefix): _plain(getattr(self, name))
            for name, one in self.declared().items()
            if one.affects_results or not results_only
        }


def _understood(hint: Any) -> dict[str, Any]:
    """What an annotation says of an `Option`, by the names of its attributes."""
    found = {"nullable": get_origin(hint) in (Union, types.UnionType)}
    if found["nullable"]:
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    found["many"] = get_origin(hint) is tuple
    if found["many"]:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return found | {"kind": str, "choices": get_args(hint)}
    if hint not in NOUNS:
        raise TypeError(f"{hint}: an option is one of {', '.join(kind.__name__ for kind in NOUNS)}")
    return found | {"kind": hint}


def _titled(parser: argparse.ArgumentParser, title: str) -> Any:
    """The parser's group of that title, made if there is none; without a title the parser."""
    if not title:
        return parser
    known = {group.title: group for group in parser._action_groups}
    return known.get(title) or parser.add_argument_group(title)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Group:
    """Options of a command that are read together.

    Attributes:
        options: the dataclass.
        title: under which help lists those that have no group of their own.
        prefix: of their names, such as ``"expert-"``.
        without: fields that the command has no use for.
        optional: whether the command also runs without those that have no default.
        defaults: what help shows as defaults where the command has others.

    """

    options: type[Options]
    title: str = ""
    prefix: str = ""
    without: tuple[str, ...] = ()
    optional: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)

    def declared(self) -> list[Option]:
        """The options as this command has them."""
        return [
            dataclasses.replace(
                one,
                group=one.group or self.title,
                required=one.required and not self.optional,
                default_text=self.defaults.get(name, one.default_text),
            )
            for name, one in self.options.declared().items()
            if name not in self.without
        ]

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add an argument to a parser for each option."""
        for one in self.declared():
            one.add_to(_titled(parser, one.group), self.prefix)


def _overwrites(path: Path, source: Path) -> bool:
    """Whether a file that is written is a source, or lies in the folder that is one."""
    try:
        if not path.exists() or not source.exists():
            return False
        return path.samefile(source) or (
            source.is_dir() and path.is_file() and source.resolve() in path.resolve().parents
        )
    except OSError:  # a text that is no path, such as a long prompt
        return False


@dataclass(frozen=True)
class Command:
    """A command of the console: what help says of it, its options, and what runs.

    Attributes:
        name: the word that chooses it.
        help: one line.
        groups: its options.
        run: takes what the parser found and returns the exit code.
        examples: command lines that help shows.

    """

    name: str
    help: str
    groups: tuple[Group, ...]
    run: Callable[[argparse.Namespace], int]
    examples: tuple[str, ...] = ()

    def add_to(self, commands: Any) -> argparse.ArgumentParser:
        """Add a parser of its own to the subparsers of a console."""
        parser: argparse.ArgumentParser = commands.add_parser(
            self.name,
            help=self.help,
            description=self.help,
            epilog="\n".join(["examples:", *(f"  {each}" for each in self.examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.set_defaults(run=self.start)
        for group in self.groups:
            group.add_to(parser)
        return parser

    def start(self, namespace: argparse.Namespace) -> int:
        """Run, unless a file that would be written is one that is read; returns the exit code.

        Raises:
            ValueError: it is; names both options.

        """
        written: list[tuple[str, Path]] = []
        read: list[tuple[str, Path]] = []
        for group in self.groups:
            for one in group.options.declared().values():
                given = getattr(namespace, one.key(group.prefix), None)
                for word in given if isinstance(given, list) else [given]:
                    if isinstance(word, str) and word and one.kind in (str, Path):
                        paths = written if one.writes == "file" else read
                        if not one.writes or one.writes == "file":
                            paths.append((one.on_command_line(group.prefix), Path(word)))
        for name, path in written:
            for other, source in read:
                if _overwrites(path, source):
                    raise ValueError(
                        f"{name}={path}: would overwrite what {other} reads; give another file"
                    )
        return self.run(namespace)

    def markdown(self) -> str:
        """Every option, in tables under their titles: name, meaning, range, default.

        >>> @dataclass(frozen=True)
        ... class Solve(Options):
        ...     alpha: float = option(1.0, help="temperature", unit="reward units", above=0)
        >>> print(Command("solve", "solve it", (Group(Solve),), lambda namespace: 0).markdown())
        ## endorm solve
        <BLANKLINE>
        Solve it.
        <BLANKLINE>
        | option | meaning | range | default |
        | --- | --- | --- | --- |
        | `--alpha` | temperature | above 0 reward units | 1 |
        <BLANKLINE>
        """
        tables: dict[str, list[str]] = {}
        for group in self.groups:
            for one in group.declared():
                tables.setdefault(one.group, []).append(one.row(group.prefix))
        lines = [f"## endorm {self.name}", "", f"{self.help[0].upper()}{self.help[1:]}.", ""]
        lines += ["```sh", *self.examples, "```", ""] if self.examples else []
        for title, rows in tables.items():
            lines += [f"**{title[0].upper()}{title[1:]}**", ""] if title else []
            lines += ["| option | meaning | range | default |", "| --- | --- | --- | --- |"]
            lines += [*rows, ""]
        return "\n".join(lines)
