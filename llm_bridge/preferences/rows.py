"""Read rows of JSON files and of hub data sets; a bad row becomes a `Problem`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from theory.storage.files import digest

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
]

HUB = "hub:"
"""Prefix of a source that is a data set of the hub, ``hub:NAME`` or ``hub:NAME:SPLIT``."""

NEWLINE = b"\n"

Row: TypeAlias = tuple[int | None, Any]
"""A line number and the value that begins there, or the ValueError that says why there is none."""


def digests(sources: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of each file by its name, and `None` for a data set of the hub.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> digests(["hub:allenai/reward-bench"])
        {'hub:allenai/reward-bench': None}

    """
    return {name: None if name.startswith(HUB) else digest(Path(name)) for name in sources}


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
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start[:1] == b"[" and path.suffix != ".jsonl":
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
                    yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
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
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "data sets of the hub need the package datasets: pip install 'endorm[data]'"
        ) from None
    try:
        loaded = datasets.load_dataset(identity, split=split or None)
    except Exception as error:  # of many kinds, by what the hub answers
        raise ValueError(f"cannot be loaded ({error}); give hub:NAME or hub:NAME:SPLIT") from None
    if not split and len(loaded) != 1:
        first = next(iter(loaded))
        raise ValueError(f"has the splits {', '.join(loaded)}: name one, {source}:{first}")
    for row in loaded if split else next(iter(loaded.values())):
        yield None, row


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

    """
    text = row.get(field)
    name = f"{where}{field}"
    if text is None:
        raise ValueError(f"{name} is missing")
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
