"""Files that appear whole or not at all, and archives that are read whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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


def read_arrays(path: str | Path, writer: str) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file that the method `writer` wrote.

    Raises:
        OSError: the file does not exist or is not a whole ``.npz``.

    """
    if not Path(path).is_file():
        raise OSError(f"{path}: no such file; give an .npz written by {writer}")
    if not zipfile.is_zipfile(path):
        raise OSError(f"{path}: not a whole .npz file (no zip archive); write it again with {writer}")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # a damaged archive can raise anything: zlib, struct, tokenizer errors
        reason = " ".join(str(error).split())
        raise OSError(f"{path}: not a whole .npz file ({reason}); write it again with {writer}") from None
