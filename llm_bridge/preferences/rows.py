"""Read the rows of a source, whatever it is kept in; a bad row becomes a `Problem`.

==================================== ======================================================
source                               what it is
==================================== ======================================================
``pairs.jsonl``, ``pairs.json``      an object a line, or a list of objects
``pairs.csv``, ``pairs.tsv``         a first line of column names; an empty cell is no value
``pairs.parquet``                    columns
a folder, ``FOLDER`` or              what ``Dataset.save_to_disk`` wrote, or the files of a
``FOLDER:SPLIT``                     repository of the hub (``data/train-00000-of-….parquet``)
``hub:NAME`` or ``hub:NAME:SPLIT``   a data set of the hub
==================================== ======================================================

The first two may be compressed (``.gz``). Parquet, folders and the hub need the package
``datasets``, ``pip install 'endorm[data]'``; the other two need nothing.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from theory.storage.files import digest, parsed_json

__all__ = [
    "HUB",
    "Place",
    "Problem",
    "Row",
    "digests",
    "hub_rows",
    "json_rows",
    "require_object",
    "require_text",
    "require_unicode",
    "shown",
    "source_rows",
]

HUB = "hub:"
"""Prefix of a source that is a data set of the hub, ``hub:NAME`` or ``hub:NAME:SPLIT``."""

NEWLINE = b"\n"

Row: TypeAlias = tuple[int | None, Any]
"""A line number and the value that begins there, or the ValueError that says why there is none."""


def digests(sources: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of each file or folder by its name, and `None` for a data set of the hub.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> digests(["hub:allenai/reward-bench"])
        {'hub:allenai/reward-bench': None}

    """
    return {name: None if name.startswith(HUB) else _digest(_folder(name)[0]) for name in sources}


def _digest(path: Path) -> str:
    if not path.is_dir():
        return digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = (f"{file.relative_to(path)} {digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folder(source: str) -> tuple[Path, str | None]:
    """Return the path of a source, and the split that is named after a folder."""
    name, colon, split = source.rpartition(":")
    if colon and not Path(source).exists() and Path(name).is_dir():
        return Path(name), split
    return Path(source), None


def source_rows(source: str) -> Iterator[Row]:
    r"""Yield the rows of a source: a file, a folder, or a data set of the hub (see the module).

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged as a whole, a package is missing, or a split must be named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "pairs.csv")
        >>> _ = path.write_text('prompt,chosen\n"2 + 2, at last?",4\n')
        >>> list(source_rows(str(path)))
        [(2, {'prompt': '2 + 2, at last?', 'chosen': '4'})]

    """
    if source.startswith(HUB):
        return hub_rows(source)
    path, split = _folder(source)
    if not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if path.is_dir():
        return _folder_rows(source, path, split)
    if path.suffix == ".gz":
        return _whole(path, _file_rows(path, path.with_suffix("").suffix))
    return _file_rows(path, path.suffix)


def _file_rows(path: Path, kind: str) -> Iterator[Row]:
    if kind in (".csv", ".tsv"):
        return _csv_rows(path, "\t" if kind == ".tsv" else ",")
    return _parquet_rows(path) if kind == ".parquet" else json_rows(path)


def _whole(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """Rows of a compressed file, which is damaged as a whole if it is at all."""
    try:
        yield from rows
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole .gz file ({error}); compress it anew") from None


def _opened(path: Path) -> BinaryIO:
    file: Any = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115
    opened: BinaryIO = file
    return opened


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    with _opened(path) as file:
        reader = csv.reader((_decoded(line) for line in file), delimiter=delimiter, strict=True)
        columns: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except UnicodeDecodeError as error:
                raise ValueError(f"line {line}: {error}") from None
            except csv.Error as error:
                yield line, ValueError(f"invalid CSV, nothing after it was read: {error}")
                return
            if cells is None:
                return
            if columns is None:
                columns = cells
                if len(set(columns)) < len(columns):
                    raise ValueError(f"line {line}: a column is named twice: {', '.join(columns)}")
            elif len(cells) != len(columns):
                if cells:  # an empty line is no row
                    names = ", ".join(columns)
                    wrong = f"{len(cells)} cells for {len(columns)} columns ({names})"
                    yield line, ValueError(wrong)
            else:
                yield line, _cells(dict(zip(columns, cells, strict=True)))


def _decoded(line: bytes) -> str:
    return line.decode("utf-8-sig")


def _cells(row: dict[str, str]) -> dict[str, Any] | ValueError:
    """Return the cells of a row: empty ones are no value, and conversations are lists again.

    A conversation that is not one in Python's or JSON's notation is refused: scored as text it
    would be a long response that nobody wrote.
    """
    found: dict[str, Any] = {}
    for name, cell in row.items():
        value: Any = cell or None
        if re.match(r"\s*\[\s*\{\s*['\"](role|content)['\"]", cell):
            for read in (json.loads, ast.literal_eval):
                try:
                    value = read(cell)
                    break
                except (ValueError, SyntaxError, RecursionError, MemoryError):
                    continue
            else:
                return ValueError(
                    f"{name} looks like a list of messages and is neither JSON nor Python; write "
                    "it as JSON, or keep the data in parquet or JSON lines"
                )
        found[name] = value
    return found


def _parquet_rows(path: Path) -> Iterator[Row]:
    path.open("rb").close()  # an error of the file itself comes before one of the package
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise ValueError("parquet needs pyarrow: pip install 'endorm[data]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from ((None, row) for row in batch.to_pylist())
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"is no parquet file that can be read ({error})") from None


def _folder_rows(source: str, path: Path, split: str | None) -> Iterator[Row]:
    """Yield the rows of a folder that ``save_to_disk`` wrote, or of files as the hub has them."""
    datasets = _datasets("a folder of data needs")
    saved = [name for name in ("dataset_dict.json", "state.json") if (path / name).is_file()]
    datasets.disable_progress_bars()  # they are shown in pipes, too
    try:
        if saved:
            loaded = datasets.load_from_disk(str(path))
            if saved == ["state.json"]:
                loaded = {split or "train": loaded}
        else:
            loaded = datasets.load_dataset(str(path))
    except Exception as error:  # of many kinds
        raise ValueError(
            f"is a folder that the package datasets cannot read ({error.__cause__ or error}); give "
            "a file of it, or what Dataset.save_to_disk wrote"
        ) from None
    yield from _split(loaded, split, source)


def _split(loaded: Any, split: str | None, source: str) -> Iterator[Row]:
    """Yield the rows of the split that is named, or of the only one."""
    names = list(loaded)
    if split not in names and not (split is None and len(names) == 1):
        known = "" if split is None else f"no split {split!r}: it "
        whole = source if split is None else source.removesuffix(f":{split}")
        raise ValueError(f"{known}has the splits {', '.join(names)}: name one, {whole}:{names[0]}")
    for row in loaded[split or names[0]]:
        yield None, row


def _datasets(whose: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{whose} the package datasets: pip install 'endorm[data]'") from None
    return datasets


@dataclass(frozen=True)
class Place:
    """Where a row is: a source, its line (`None` for a hub data set), and its number from 0.

    Example:
        >>> str(Place("pairs.jsonl", 3, 2))
        'pairs.jsonl:3: row 2'

    """

    source: str
    line: int | None
    row: int

    def __str__(self) -> str:
        source = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{source}: row {self.row}"


@dataclass(frozen=True)
class Problem:
    """A row that could not be used; as text one line, ``file:line: row N: what is wrong``.

    Attributes:
        place: where the row is.
        message: what is wrong with it.
        fault: False if the row is correct, and only has no two responses to compare.

    """

    place: Place
    message: str
    fault: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.message.split())}"


def json_rows(path: Path) -> Iterator[Row]:
    r"""Yield the rows of a JSON list or of JSON lines (always, for a name ending in ``.jsonl``).

    Raises:
        OSError: the file cannot be read.
        ValueError: a list is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        ...     _ = file.write(b'{"prompt": "Why?"}\n\n[1, 2]\n')
        ...     file.flush()
        ...     list(json_rows(Path(file.name)))
        [(1, {'prompt': 'Why?'}), (3, [1, 2])]

    """
    with _opened(path) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start[:1] == b"[" and ".jsonl" not in path.suffixes[-2:]:
            whole = file.read()
            try:
                text = whole.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = whole.count(NEWLINE, 0, error.start) + 1
                raise ValueError(f"line {line}: {error}") from None
            yield from _list_rows(text)
            return
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig").strip()
                if text:
                    yield number, parsed_json(text)
            except ValueError as error:
                yield number, ValueError(f"invalid JSON: {error}")


_COMMA = re.compile(r"\s*,\s*")
_END = re.compile(r"\s*\]\s*\Z")


def _list_rows(text: str) -> Iterator[Row]:
    """Yield the elements of a JSON list with the lines they begin at, up to where it breaks."""
    decoder = json.JSONDecoder()
    line = 1
    counted = 0
    place = len(text) - len(text[text.index("[") + 1 :].lstrip())
    while not (counted == 0 and _END.match(text, place)):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield line, ValueError(f"invalid JSON, nothing after it was read: {error}")
            return
        yield line, value
        comma = _COMMA.match(text, place)
        if comma is None:
            if not _END.match(text, place):
                broken = "the list is broken after the row before; nothing more was read"
                yield line, ValueError(f"invalid JSON: {broken}")
            return
        place = comma.end()


def hub_rows(source: str) -> Iterator[Row]:
    """Yield the rows of ``hub:NAME`` or ``hub:NAME:SPLIT``, loaded by the package ``datasets``.

    Raises:
        ValueError: the package is not installed, the data set cannot be loaded, or it has several
            splits and none is named.

    Example::

        rows = list(hub_rows("hub:allenai/reward-bench:filtered"))

    """
    _, identity, split = [*source.split(":"), ""][:3]
    datasets = _datasets("data sets of the hub need")
    from llm_bridge.models.hub import cache_without_hub  # a package that files do not need

    try:
        with cache_without_hub():
            loaded = datasets.load_dataset(identity, split=split or None)
    except Exception as error:  # of many kinds, by what the hub answers
        raise ValueError(f"cannot be loaded ({error}); give hub:NAME or hub:NAME:SPLIT") from None
    yield from _split({split: loaded} if split else loaded, split or None, source)


def require_object(row: Any) -> dict[str, Any]:
    """Return a row that is a JSON object, or raise the ValueError that says why it is none.

    Example:
        >>> require_object([1, 2])
        Traceback (most recent call last):
        ValueError: must be a JSON object, got [1, 2]

    """
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, got {shown(row)}")
    return row


def require_text(row: dict[str, Any], field: str, where: str = "") -> str:
    """Return a field that is non-empty text, or raise a ValueError that names it.

    Example:
        >>> require_text({"prompt": "Why?"}, "prompt")
        'Why?'
        >>> require_text({"question": "Why?"}, "prompt")
        Traceback (most recent call last):
        ValueError: prompt is missing (there are question)

    """
    text = row.get(field)
    name = f"{where}{field}"
    if text is None:
        there = ", ".join(str(key) for key, value in row.items() if value is not None)
        raise ValueError(f"{name} is missing" + (f" (there are {there})" if there else ""))
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {shown(text)}")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    require_unicode(name, text)
    return text


def require_unicode(name: str, text: str) -> None:
    r"""Raise a ValueError that names a text with half a surrogate pair, which has no UTF-8.

    Example:
        >>> require_unicode("prompt", "\ud800")
        Traceback (most recent call last):
        ValueError: prompt holds half a surrogate pair, which is no text

    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} holds half a surrogate pair, which is no text")


def shown(value: Any) -> str:
    """Show a JSON value in a message, cut to 40 characters.

    Example:
        >>> shown(None)
        'null'

    """
    return json.dumps(value)[:40]
