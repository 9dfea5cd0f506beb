"""Files that appear whole or not at all, archives read whole or not at all, and one form of JSON.

JSON has no numbers that are not finite. They are written as the texts ``"inf"``, ``"-inf"`` and
``"nan"``, so that `json.loads` and every other reader takes the file; `number` turns them back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = [
    "ascii_key",
    "ascii_keys",
    "digest",
    "json_line",
    "json_text",
    "number",
    "parsed_json",
    "read_arrays",
    "replacing",
    "write_json",
]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` if the block ends well, and is removed otherwise.

    A link stays a link: what it leads to is replaced. What is no file, such as a pipe, is written
    to as it is.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "result")
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        ...     path.exists()
        False
        >>> path.read_bytes()
        b'whole'
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(
                file.fileno()
            )  # else a crash of the machine may leave the name of an empty file
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Let a folder's names survive a crash of the machine, where its file system can do that."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     digest(Path(file.name))[:8]
        'e3b0c442'

    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON; the file appears whole or not at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "result.json")
        >>> write_json(path, {"gap": np.inf})
        >>> json.loads(path.read_text())
        {'gap': 'inf'}
    """
    with replacing(path) as file:
        file.write(_encoded(value, indent=1))


def json_text(value: Any) -> str:
    """Return the text that `write_json` writes.

    Example:
        >>> print(json_text({"gap": np.inf}), end="")
        {
         "gap": "inf"
        }

    """
    return _encoded(value, indent=1).decode()


def json_line(row: Any) -> bytes:
    r"""Return a value as one line of JSON, with its line break.

    Example:
        >>> json_line({"values": np.array([0.5, np.nan])})
        b'{"values": [0.5, "nan"]}\n'
    """
    return _encoded(row)


def parsed_json(text: str | bytes) -> Any:
    """Return the value of a text in JSON; all that is wrong with it is a ValueError.

    Raises:
        ValueError: no JSON, or nested more deeply than Python can read.

    Example:
        >>> parsed_json('{"n": [1, 2]}')
        {'n': [1, 2]}
        >>> parsed_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def number(value: Any) -> Any:
    """Return ``inf``, ``-inf`` or ``nan`` for its text in JSON, and anything else as it is.

    Example:
        >>> number("-inf"), number(0.5)
        (-inf, 0.5)
    """
    return float(value) if value in ("inf", "-inf", "nan") else value


SPELLED = str.maketrans(
    {
        "α": "alpha",
        "β": "beta",
        "γ": "gamma",
        "ε": "epsilon",
        "κ": "kappa",
        "π": "pi",
        "τ": "tau",
        "Σ": "sum",
        "‖": "||",
        "−": "-",
        "–": "-",
        "²": "^2",
        "₁": "_1",
        "√": "sqrt ",
        "≥": ">=",
        "≤": "<=",
        "·": "*",
        "\u0302": "_hat",
    }
)
"""Symbols in names, and how they are spelled in keys."""


def ascii_key(name: str) -> str:
    r"""Return a name as a key of ASCII: symbols of ours spelled out, others escaped.

    Example:
        >>> ascii_key("KL(π̂‖π_E)"), ascii_key("ж")
        ('KL(pi_hat||pi_E)', '\\u0436')

    """
    return name.translate(SPELLED).encode("ascii", "backslashreplace").decode()


def ascii_keys(value: Any) -> Any:
    """Return nested mappings with keys of ASCII (`ascii_key`); other values as they are.

    Example:
        >>> ascii_keys({"ball": {"ε_π": 0.5}})
        {'ball': {'epsilon_pi': 0.5}}

    """
    if not isinstance(value, dict):
        return value
    return {ascii_key(str(key)): ascii_keys(item) for key, item in value.items()}


def _encoded(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    # A surrogate by itself has no UTF-8: it is escaped as \udXXX, as JSON would write it.
    return f"{text}\n".encode(errors="backslashreplace")


def _plain(value: Any) -> Any:
    """Replace NumPy's types, paths and numbers that are not finite by what JSON has."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def read_arrays(path: str | Path, writer: str, names: str, room: int) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file that the method `writer` wrote.

    Args:
        path: the file.
        writer: what messages name as the remedy.
        names: regular expression of the names that `writer` gives. Another may be one of them
            misspelt, and an array that nothing reads may be of any size: it is refused before it is
            read.
        room: bytes of memory that all arrays may take. A file of megabytes may hold terabytes of
            zeros: they are refused before any is read.

    Raises:
        OSError: the file does not exist or is not a whole ``.npz``.
        ValueError: an array has another name, or they take more than `room`.

    Example:
        >>> read_arrays("missing.npz", "TokenMDP.save", "reward", 2**20)
        Traceback (most recent call last):
        OSError: missing.npz: no such file; give an .npz written by TokenMDP.save
    """
    if not Path(path).is_file():
        raise OSError(f"{path}: no such file; give an .npz written by {writer}")
    if not zipfile.is_zipfile(path):
        raise OSError(
            f"{path}: not a whole .npz file (no zip archive); write it again with {writer}"
        )
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            unknown = sorted(name for name in archive.files if not re.fullmatch(names, name))
            n_bytes = sum(member.file_size for member in archive.zip.infolist())
            if not unknown and n_bytes <= room:
                return {name: _array(name, archive[name]) for name in archive.files}
    except Exception as error:  # a damaged archive can raise anything: zlib, struct, tokenizer
        reason = " ".join(str(error).split())
        raise OSError(
            f"{path}: not a whole .npz file ({reason}); write it again with {writer}"
        ) from None
    if unknown:
        raise ValueError(
            f"{path}: {unknown[0]!r} is no array that {writer} writes; correct its name or leave "
            "it out"
        )
    raise ValueError(
        f"{path}: its arrays take {n_bytes:,} bytes and {room:,} can be used here; read it on a "
        "larger machine"
    )


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):  # NumPy gives bytes for a member without .npy
        raise ValueError(f"{name} is no array")
    return value
