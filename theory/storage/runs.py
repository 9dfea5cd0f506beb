"""The folder of a run: whose it is, one writer at a time, lines as they come, resuming.

::

    run.json    everything that the result depends on; another run is refused
    run.lock    held while a run writes there; the system releases it when the process ends
    NAME.jsonl  rows, one a line, each whole as soon as it is written; further processes write
                NAME.1.jsonl, … until the end

Everything else in a folder is written whole or not at all (`theory.storage.files`).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from theory.storage.files import json_line, parsed_json, replacing, write_json

__all__ = ["Lines", "Processes", "RunFolder", "noted", "read_lines", "shards"]

RUN = "run.json"
LOCK = "run.lock"
REMEDY = "give another --out"

T = TypeVar("T")


class Processes(Protocol):
    """Protocol of the processes of one run, see `llm_bridge.models.processes.Workers`.

    Example:
        >>> RunFolder("out").processes.size  # without `processes` a run is alone
        1
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0 on."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""

    def wait(self) -> None:
        """Return when every process is here."""


class _Alone:
    rank = 0
    size = 1
    first = True

    def wait(self) -> None:
        pass


class RunFolder:
    """Claim a folder for one run while the block is entered.

    The first process makes the folder, locks it and notes the identity. A block that fails before
    it has written anything leaves the folder as it was, so that a mistaken option can be corrected.

    Args:
        path: the folder.
        identity: see `identify`; `None` if it is not known yet, or any run may write there.
        lines: see `identify`.
        processes: those that enter together.

    Raises:
        OSError: the folder cannot be written.
        ValueError: another run is writing there, or the folder has a run of another identity.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp()
        >>> with RunFolder(path, {"seed": 0}) as folder:
        ...     rows = folder.lines("rows.jsonl", parse=dict)
        ...     rows.append({"step": 1}, {"step": 2})
        ...     list(rows)
        [{'step': 1}, {'step': 2}]
        >>> with RunFolder(path, {"seed": 1}):
        ...     pass
        Traceback (most recent call last):
        ValueError: ... has a run with seed = 0, not 1: give another --out, or remove it
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any] | None = None,
        *,
        lines: Sequence[str] = (),
        processes: Processes = _Alone(),  # noqa: B008
    ) -> None:
        self.path = Path(path)
        self.processes = processes
        self._identity = identity
        self._names = lines
        self._stack = ExitStack()

    def __enter__(self) -> RunFolder:
        with ExitStack() as stack:
            if self.processes.first:
                made = not self.path.exists()
                self.path.mkdir(parents=True, exist_ok=True)
                if made:
                    stack.callback(self._remove_empty)
                stack.enter_context(_locked(self.path / LOCK))
                stack.callback((self.path / LOCK).unlink, missing_ok=True)
            self.processes.wait()
            self._stack = stack
            if self._identity is not None:
                self.identify(self._identity, lines=self._names)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def identify(self, identity: Mapping[str, Any], *, lines: Sequence[str] = ()) -> None:
        """Note the identity of the run, or raise if the folder has a run of another.

        Args:
            identity: everything that the result depends on, as JSON values by name.
            lines: names of the files of lines: a folder that has one of them and no identity is
                refused.
        """
        now = json.loads(json_line(identity))
        self._require_same(now, lines)  # every process, so that none waits for one that was refused
        self.processes.wait()
        if self.processes.first and not (self.path / RUN).exists():
            write_json(self.path / RUN, now)
            self._stack.push(self._forget)
        self.processes.wait()

    @property
    def foreign(self) -> bool:
        """Whether the folder has files and no note of which run they are."""
        # files of a run that was killed before it noted its identity
        ours = (LOCK, f"{RUN}.partial")
        return not (self.path / RUN).exists() and any(
            path.name not in ours for path in self.path.iterdir()
        )

    def lines(self, name: str, parse: Callable[[Any], T]) -> Lines[T]:
        """Open a file of rows to read and to append to; an unfinished last line is cut off.

        Args:
            name: of the file, such as ``"metrics.jsonl"``.
            parse: maps a row to what reading gives; raises ValueError, KeyError or TypeError where
                it is none.
        """
        return Lines(self.path / name, parse, self.processes.rank)

    def _require_same(self, now: Mapping[str, Any], lines: Sequence[str]) -> None:
        path = self.path / RUN
        if not path.exists():
            for name in lines:
                if any(shards(self.path / name)):
                    raise ValueError(f"{self.path} has a {name} and no {RUN}: {REMEDY}")
            return
        try:
            before = dict(parsed_json(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not the note of a run ({error}): {REMEDY}") from None
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                values = [json.dumps(each.get(name), ensure_ascii=False) for each in (before, now)]
                raise ValueError(
                    f"{self.path} has a run with {name} = {values[0]}, not {values[1]}: {REMEDY}, "
                    "or remove it"
                )

    def _forget(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the identity again if the block failed and nothing else was written."""
        if kind is not None and {path.name for path in self.path.iterdir()} <= {RUN, LOCK}:
            (self.path / RUN).unlink()

    def _remove_empty(self) -> None:
        with suppress(OSError):  # it is not empty
            self.path.rmdir()


def noted(path: Path, name: str) -> Any:
    """Return a value of the note of the run in a folder; `None` where there is no such note.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp())
        >>> with RunFolder(path, {"seed": 3}) as folder:
        ...     folder.lines("rows.jsonl", parse=dict).append({"step": 1})
        >>> noted(path, "seed"), noted(path, "date")
        (3, None)
    """
    try:
        return dict(parsed_json((path / RUN).read_bytes())).get(name)
    except (OSError, ValueError, TypeError):
        return None  # identify says what is wrong with it


def _locked(path: Path) -> BinaryIO:
    """Open a file that no other process has locked, and lock it."""
    while True:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"{path.parent}: another run is writing there; wait for it, or {REMEDY}"
            ) from None
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()  # its owner removed it while we were opening it


class Lines(Generic[T]):
    """Rows that are only added: each process appends to its own file, and reading gives all files.

    Iterating parses each whole line, in order; ValueError names file and line of one that is
    damaged.

    Example:
        >>> import tempfile
        >>> rows = Lines(Path(tempfile.mkdtemp(), "rows.jsonl"), parse=int)
        >>> rows.append(3, 1, 2)
        >>> rows.merge(order=[1, 2, 3])
        >>> list(rows)
        [1, 2, 3]
    """

    def __init__(self, path: Path, parse: Callable[[Any], T], rank: int = 0) -> None:
        self.path = path
        self.parse = parse
        self._own = path if rank == 0 else path.with_suffix(f".{rank}{path.suffix}")
        if self._own.exists():
            with self._own.open("rb+") as file:
                file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def __iter__(self) -> Iterator[T]:
        for path in shards(self.path):
            yield from read_lines(path, self.parse)

    def append(self, *rows: Any) -> None:
        """Add rows; once this returns they outlive the process."""
        with self._own.open("ab") as file:
            file.write(b"".join(map(json_line, rows)))

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop the rows of this process that are not wanted."""
        kept = (
            [line for line, row in _scan(self._own, self.parse) if wanted(row)]
            if self._own.exists()
            else []
        )
        with replacing(self._own) as file:
            file.writelines(kept)

    def merge(self, order: Iterable[T]) -> None:
        """Put the lines of all processes into one file, each once, ordered by their parsed values.

        Lines are copied from file to file: none is kept in memory.
        """
        places: dict[Any, tuple[int, int]] = {}
        with ExitStack() as stack:
            paths = shards(self.path)
            files = [stack.enter_context(path.open("rb")) for path in paths]
            for k, path in enumerate(paths):
                start = 0
                for line, row in _scan(path, self.parse):
                    places[row] = k, start
                    start += len(line)
            with replacing(self.path) as merged:
                for row in order:
                    k, start = places[row]
                    files[k].seek(start)
                    merged.write(files[k].readline())
        for path in paths:
            if path != self.path:
                path.unlink()


def read_lines(path: Path, parse: Callable[[Any], T]) -> Iterator[T]:
    r"""Yield the parsed lines of a file; an unfinished last line is left out.

    Raises:
        OSError: there is no such file.
        ValueError: a line is damaged, or `parse` refuses it; names file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "rows.jsonl")
        >>> _ = path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
        >>> [row["a"] for row in read_lines(path, dict)]
        [1, 2]
    """
    for _, row in _scan(path, parse):
        yield row


def _scan(path: Path, parse: Callable[[Any], T]) -> Iterator[tuple[bytes, T]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = parse(parsed_json(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number}: not a line of a run ({error!r}): {REMEDY}"
                ) from None
            yield line, row


def shards(path: Path) -> list[Path]:
    """Return the existing files of all processes, that of the first process first.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "rows.jsonl")
        >>> Lines(path, parse=int, rank=1).append(3)
        >>> [each.name for each in shards(path)]
        ['rows.1.jsonl']
    """
    further = sorted(path.parent.glob(f"{path.stem}.[0-9]*{path.suffix}"))
    return [*([path] if path.exists() else []), *further]
