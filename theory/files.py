"""Files that appear whole or not at all, and archives that are read whole or not at all."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["read_arrays", "replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the place of `path` when the block ends well and is removed otherwise."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_arrays(path: str | Path, writer: str, names: str) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file that the method `writer` wrote.

    Args:
        path: the file.
        writer: what messages name as the remedy.
        names: regular expression of the names that `writer` gives. Another may be one of them misspelt, and an array
            that nothing reads may be of any size: it is refused before it is read.

    Raises:
        OSError: the file does not exist or is not a whole ``.npz``.
        ValueError: an array has another name.

    """
    if not Path(path).is_file():
        raise OSError(f"{path}: no such file; give an .npz written by {writer}")
    if not zipfile.is_zipfile(path):
        raise OSError(f"{path}: not a whole .npz file (no zip archive); write it again with {writer}")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            unknown = sorted(name for name in archive.files if not re.fullmatch(names, name))
            if not unknown:
                return {name: _array(name, archive[name]) for name in archive.files}
    except Exception as error:  # a damaged archive can raise anything: zlib, struct, tokenizer errors
        reason = " ".join(str(error).split())
        raise OSError(f"{path}: not a whole .npz file ({reason}); write it again with {writer}") from None
    raise ValueError(f"{path}: {unknown[0]!r} is no array that {writer} writes; correct its name or leave it out")


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):  # a member of the archive whose name lacks .npy is bytes
        raise ValueError(f"{name} is no array")
    return value
