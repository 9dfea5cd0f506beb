"""What a GGUF file says of itself: its metadata, and which tensors lie where.

::

    "GGUF"  version  number of tensors  number of metadata
    metadata    key, type, value: architecture, sizes, the vocabulary, the chat template
    tensors     name, shape, type of quantisation, offset
    padding     to a multiple of `general.alignment`
    data        the tensors

Read here and not with the package ``gguf``, whose reader takes seconds for a vocabulary and cuts a
tensor of a truncated file short without a word.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Header", "Tensor", "read_header"]

MAGIC = b"GGUF"

VERSIONS = (2, 3)
"""Of the format. Version 1 counts in 32 bits, and a file of another byte order reads as another."""

FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Types of plain metadata, as `struct` writes them."""

STRING = 8
ARRAY = 9


class Tensor(NamedTuple):
    """A tensor of the file.

    Attributes:
        name: as llama.cpp names it.
        shape: the fastest-moving axis first.
        kind: number of its type of quantisation.
        offset: in bytes, from the beginning of the data.

    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """Metadata and tensors of a GGUF file.

    Attributes:
        path: the file.
        metadata: values by key; arrays are lists.
        tensors: in the order of the file.
        data: position of the first tensor, in bytes.

    """

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data: int

    @property
    def architecture(self) -> str:
        """The architecture, as llama.cpp names it; keys of its settings begin with it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """The metadata of the architecture, without its name."""
        start = f"{self.architecture}."
        return {k.removeprefix(start): v for k, v in self.metadata.items() if k.startswith(start)}

    @property
    def vocabulary(self) -> dict[str, Any]:
        """The metadata of the tokenizer."""
        start = "tokenizer.ggml."
        return {k.removeprefix(start): v for k, v in self.metadata.items() if k.startswith(start)}

    @property
    def numbers(self) -> int:
        """How many numbers all tensors have."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as GGUF files do.

    Example:
        >>> is_gguf(Path("missing"))
        False
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> Header:
    """Read all that precedes the tensors' data.

    Raises:
        OSError: the file cannot be read, is not GGUF, or ends before its header does.

    Example:
        >>> read_header(Path("missing.gguf"))
        Traceback (most recent call last):
        OSError: missing.gguf: no such file; give a GGUF file

    """
    if not path.is_file():
        raise OSError(f"{path}: no such file; give a GGUF file")
    if not is_gguf(path):
        raise OSError(f"{path}: not a GGUF file (it does not begin with GGUF); give another file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, data)
    except (struct.error, UnicodeDecodeError, MemoryError, OverflowError, KeyError) as error:
        raise OSError(
            f"{path}: not a whole GGUF file (its header cannot be read: {error}); download it again"
        ) from None


def _read(path: Path, data: mmap.mmap) -> Header:
    cursor = _Cursor(data, len(MAGIC))
    (version,) = cursor.take("I")
    if version not in VERSIONS:
        raise OSError(
            f"{path}: GGUF version {version} cannot be read here, only 2 and 3; convert it anew"
        )
    tensors, keys = cursor.take("QQ")
    metadata = {cursor.text(): cursor.value(*cursor.take("I")) for _ in range(keys)}
    found = tuple(cursor.tensor() for _ in range(tensors))
    alignment = metadata.get("general.alignment", 32)
    return Header(path, metadata, found, math.ceil(cursor.position / alignment) * alignment)


class _Cursor:
    """A position in the file; reading past the end raises `struct.error`."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position

    def take(self, form: str) -> tuple[Any, ...]:
        form = f"<{form}"
        values = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        (value,) = self.take(f"{length}s")
        return bytes(value).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            kind, count = self.take("IQ")
            if kind in FORMATS:
                return list(self.take(f"{count}{FORMATS[kind]}"))
            return [self.value(kind) for _ in range(count)]
        return self.take(FORMATS[kind])[0]

    def tensor(self) -> Tensor:
        name = self.text()
        (axes,) = self.take("I")
        shape = self.take(f"{axes}Q")
        kind, offset = self.take("IQ")
        return Tensor(name, shape, kind, offset)
