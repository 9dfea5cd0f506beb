"""Folders that are made once and kept: whole or not there, and made anew where they are damaged."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from theory.storage.files import digest, parsed_json, write_json

__all__ = ["made_once"]

FILES = "digests.json"
"""In a folder that is kept: the digest of each of its files."""


def made_once(folder: str | Path, make: Callable[[Path], None]) -> Path:
    """Return a folder with the files that `make` writes, which is called where they are missing.

    Every file is compared with its digest each time: a folder that was damaged is made anew. Of
    several processes that need the folder at once, one makes it and the others wait.

    Args:
        folder: is made, with its parents.
        make: writes files into the empty folder that it is given. If it fails, nothing is kept.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "kept")
        >>> def make(folder):
        ...     print("making it")
        ...     _ = (folder / "numbers").write_text("1 2 3")
        >>> made_once(folder, make) == folder
        making it
        True
        >>> (made_once(folder, make) / "numbers").read_text()
        '1 2 3'
    """
    folder = Path(folder)
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    with folder.with_name(folder.name + ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file, however the process ends
        if _is_whole(folder):  # another process has just made it
            return folder
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        try:
            partial.mkdir()
            make(partial)
            write_json(partial / FILES, _digests(partial))
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILES)
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def _is_whole(folder: Path) -> bool:
    try:
        expected = parsed_json((folder / FILES).read_bytes())
        return bool(expected == _digests(folder))
    except (OSError, ValueError):  # no such folder, or no such JSON
        return False
