"""The ``endorm`` command: its parser, its errors and its exit codes.

torch is loaded only where a model is needed. Exit codes: 0, everything holds; 1, a statement is
violated, or rows were left out; 2, bad input (one line on standard error); 70, a fault of ours (one
line, or the traceback with ``ENDORM_DEBUG=1``); 130, stopped by hand; 141, whoever read the output
has gone.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import shtab

import theory
from llm_bridge.commands import check, ppo, score, train_reward, validate, verify
from theory.commands import curves, learn, minimax, solve

__all__ = ["COMMANDS", "main", "page"]

COMMANDS = (
    verify.COMMAND,
    curves.COMMAND,
    minimax.COMMAND,
    learn.COMMAND,
    solve.COMMAND,
    check.COMMAND,
    validate.COMMAND,
    score.COMMAND,
    train_reward.COMMAND,
    ppo.COMMAND,
)

BAD_INPUT = 2
FAULT = 70
STOPPED = 130
PIPE_CLOSED = 141
"""Exit codes: `FAULT` is ``EX_SOFTWARE`` of sysexits.h, and the last two are those of a shell for a
process that SIGINT or SIGPIPE ends.
"""


NO_MEMORY = ("can't allocate memory", "failed to map segment", "Cannot allocate memory")
"""What torch says on a CPU, in a RuntimeError, and Python of a library that finds no place."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Example:
        >>> main(["check", "--model", "./missing", "--prompt", "Hi"])  # says so on standard error
        2

    """
    try:
        try:
            return _run(_parsed(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before a command was chosen
        print("endorm: stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        with suppress(OSError):  # nothing is left to be flushed when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _run(arguments: argparse.Namespace) -> int:
    name = f"endorm {arguments.command}"
    try:
        with warnings.catch_warnings(), _without_tracebacks():
            # that its bars cannot have a thread of their own, where memory runs out
            warnings.filterwarnings("ignore", "tqdm:disabling monitor support")
            warnings.showwarning = lambda text, *_, **__: print(
                f"{name}: {' '.join(str(text).split())}", file=sys.stderr
            )
            code: int = arguments.run(arguments)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"{name}: {_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            size = _line(error) or "its size is not known"
            remedy = "ask for less, or use a machine with more"
            print(f"{name}: out of memory ({size}): {remedy}", file=sys.stderr)
            return BAD_INPUT
        if os.environ.get("ENDORM_DEBUG"):
            raise
        print(f"{name}: {_fault(error)}", file=sys.stderr)
        return FAULT
    return code


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Let code in C that goes on after an error, as matplotlib's does where memory runs out, print
    no traceback of it; what comes of it is said in one line.
    """
    hooks = sys.excepthook, sys.unraisablehook
    if not os.environ.get("ENDORM_DEBUG"):
        sys.excepthook = lambda *_: None
        sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def _line(error: Exception) -> str:
    """Its message in one line; what comes from data cannot steer a terminal."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str | Path):
        names = [str(x) for x in (error.filename, error.filename2) if x]
        if names:
            text = f"{' -> '.join(names)}: {error.strerror}"  # without the error's number
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _fault(error: Exception) -> str:
    """What is said of an error that nobody foresaw: one line."""
    text = _line(error)[:300]
    at = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"a fault of endorm {theory.__version__}, not of your input: {type(error).__name__}: "
        f"{text} ({Path(at.filename).name}, line {at.lineno}); please report this line and the "
        "command, and what it prints with ENDORM_DEBUG=1 set"
    )


def page() -> str:
    """Return the page of the documentation that has every option of every command.

    Example:
        >>> page().splitlines()[0]
        '# Options of the commands'

    """
    title = "# Options of the commands\n\nMade from the code by `make docs`.\n"
    return "\n".join([title, *(command.markdown() for command in COMMANDS)])


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that does not hide that its reader has gone."""

    commands: dict[str, argparse.ArgumentParser]

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says; a misspelt word gets its neighbour."""
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(BAD_INPUT)
    own = parser.commands
    if not argv[0].startswith("-") and argv[0] not in own:
        known = f"the commands are {', '.join(own)}"
        options = [word for action in parser._actions for word in action.option_strings]
        meant = f"--{argv[0]}"
        near = f"did you mean {meant}?" if meant in options else _near(argv[0], own)
        parser.error(f"{argv[0]}: no such command; {near or known}")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        command = own[arguments.command]
        options = [word for action in command._actions for word in action.option_strings]
        what = "no such option" if name.startswith("-") else "one argument too many"
        near = _near(name, options) if name.startswith("-") else ""
        command.error(f"{name}: {what}{near and '; '}{near}")
    return arguments


def _near(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {found[0]}?" if found else ""


def _parser() -> _Parser:
    parser = _Parser(
        prog="endorm",
        description="What is a language model's endogenous reward worth? Exact checks.",
    )
    shtab.add_argument_to(parser, "--print-completion", help="of bash, zsh or tcsh, for eval")
    parser.add_argument("--version", action="version", version=f"endorm {theory.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.commands = {command.name: command.add_to(commands) for command in COMMANDS}
    return parser


if __name__ == "__main__":
    sys.exit(main())
