"""Scoring many comparisons: a fixed plan of batches, a line for each result as it is found, and going on after a stop.

The batches depend on the work alone, not on the number of processes or on what was done before: process `r` of `n`
takes each `n`-th batch that is still to do. So results are the same, to the byte, for one process, for several, and
after any number of interruptions, on one machine with as many threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from llm_bridge.pairs import Comparison, Key, Problem
from llm_bridge.score import batches
from llm_bridge.scorers import Record, Request, Scorer
from llm_bridge.workers import Workers
from theory.files import replacing

__all__ = ["Plan", "Results", "claimed", "digest", "plan", "read_records", "results", "run"]

RESPONSES, RUN, LOCK = "responses.jsonl", "run.json", "run.lock"
IDENTITY = ("id", "role", "index")


@dataclass(frozen=True)
class Plan:
    """All the work: comparisons that can be scored, their requests in order, and the batches that these go in."""

    comparisons: list[Comparison]
    requests: list[Request]
    batches: list[list[int]]
    problems: list[Problem]


def plan(scorer: Scorer, comparisons: Sequence[Comparison], batch_tokens: int, *, progress: bool = True) -> Plan:
    """Tokenise everything; a comparison that cannot be scored becomes a problem and does not lose the others."""
    kept, requests, problems = [], [], []
    for comparison in tqdm(comparisons, desc="tokenising", disable=None if progress else True, leave=False):
        try:
            work = scorer.requests(comparison)
        except ValueError as error:
            problems.append(Problem(comparison.place, str(error)))
        else:
            kept.append(comparison)
            requests += work
    return Plan(kept, requests, list(batches([request.size for request in requests], batch_tokens)), problems)


@dataclass(frozen=True)
class Results:
    """What is known at the end: comparisons that were scored, records by key without arrays, problems."""

    comparisons: list[Comparison]
    records: dict[Key, Record]
    problems: list[Problem]


def run(scorer: Scorer, work: Plan, folder: Path, workers: Workers, *, progress: bool = True) -> int:
    """Score what is not yet in `folder`, each process into a file of its own, and put all lines in order at the end.

    A line is written as soon as its batch is scored. Raises what the model raises, apart from ValueError: a request
    that is refused gets a line that says why. Returns the number of tokens that were still to read, by all processes.
    """
    own = folder / (RESPONSES if workers.first else f"responses.{workers.rank}.jsonl")
    done = {key for path in _shards(folder) for key, _ in _lines(path)}
    _cut_last_line(own)
    workers.wait()  # nobody writes before all have read
    todo = [batch for batch in work.batches if any(work.requests[i].key not in done for i in batch)]
    share = todo[workers.rank :: workers.size]
    sizes = [sum(work.requests[i].size for batch in some for i in batch) for some in (share, todo)]
    with (
        own.open("ab") as file,
        tqdm(total=sizes[0], desc="scoring", unit="tok", unit_scale=True, disable=None if progress else True) as bar,
    ):
        for batch in share:
            requests = [work.requests[i] for i in batch]
            for request, record in zip(requests, _records(scorer, requests), strict=True):
                identity = dict(zip(IDENTITY, request.key, strict=True))
                file.write(json.dumps(identity | record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            bar.update(sum(request.size for request in requests))
    workers.wait()
    if workers.first:
        _merge(folder, work)
    workers.wait()
    return sizes[1]


def _records(scorer: Scorer, requests: list[Request]) -> list[Record]:
    """Records of a batch; where it is refused, of each request by itself, or why there is none: an ``error``."""
    try:
        return [_finite(record) for record in scorer.records(requests)]
    except ValueError as error:
        if len(requests) == 1:
            return [{"error": str(error)}]
        return [record for request in requests for record in _records(scorer, [request])]


def _finite(record: Record) -> Record:
    for name, value in record.items():
        for x in value if isinstance(value, list) else [value]:
            if isinstance(x, float) and not math.isfinite(x):
                verb = "hold" if isinstance(value, list) else "is"
                return {"error": f"{name} {verb} {x}; load the model in another dtype"}
    return record


def _merge(folder: Path, work: Plan) -> None:
    """All lines in one file, in the order of the work: each once, and none of it twice in memory."""
    places = {key: (path, start) for path in _shards(folder) for key, start in _lines(path)}
    files = {path: path.open("rb") for path in _shards(folder)}
    try:
        with replacing(folder / RESPONSES) as merged:
            for request in work.requests:
                path, start = places[request.key]
                files[path].seek(start)
                merged.write(files[path].readline())
    finally:
        for file in files.values():
            file.close()
    for path in files:
        if path.name != RESPONSES:
            path.unlink()


def results(folder: Path, work: Plan) -> Results:
    """What a finished run has found; a comparison with a refused response is a problem."""
    records: dict[Key, Record] = {}
    refused: dict[str, str] = {}
    for key, record in read_records(folder / RESPONSES):
        if "error" in record:
            refused.setdefault(key[0], record["error"])
        records[key] = {name: value for name, value in record.items() if not isinstance(value, list)}
    problems = [Problem(c.place, refused[c.id]) for c in work.comparisons if c.id in refused]
    kept = [c for c in work.comparisons if c.id not in refused]
    return Results(
        kept, {key: record for key, record in records.items() if key[0] not in refused}, [*work.problems, *problems]
    )


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("responses*.jsonl"))


def read_records(path: Path) -> Iterator[tuple[Key, Record]]:
    """Keys and whole records of a file of lines; a last line that was not finished is none.

    Raises:
        ValueError: a line is not one of a run.

    """
    for key, _, record in _read(path):
        yield key, {name: value for name, value in record.items() if name not in IDENTITY}


def _lines(path: Path) -> Iterator[tuple[Key, int]]:
    """Keys of a file of lines, and where each begins."""
    for key, start, _ in _read(path):
        yield key, start


def _read(path: Path) -> Iterator[tuple[Key, int, Record]]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                key = record["id"], record["role"], record["index"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a line of a run ({error!r}): give another --out") from None
            yield key, start, record
            start += len(line)


def _cut_last_line(path: Path) -> None:
    """Remove what a stop in the middle of a line has left after the last whole one."""
    if path.exists():
        with path.open("rb+") as file:
            end = 0
            for line in file:
                end += len(line) if line.endswith(b"\n") else 0
            file.truncate(end)


@contextmanager
def claimed(folder: Path, facts: Mapping[str, Any], workers: Workers) -> Iterator[None]:
    """The folder for this run alone, which is noted in it; ValueError if it holds another, or one is under way."""
    written = json.loads(json.dumps(facts))
    if folder.is_dir():
        _require_same(folder, written)
    workers.wait()
    lock = folder / LOCK
    with ExitStack() as stack:
        if workers.first:
            folder.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(lock.open("wb")), lock)
            stack.callback(lock.unlink, missing_ok=True)
            if not (folder / RUN).exists():
                with replacing(folder / RUN) as run_file:
                    run_file.write(json.dumps(written, ensure_ascii=False, indent=1).encode() + b"\n")
        workers.wait()
        yield


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino  # not one just removed
    except BlockingIOError:
        same = False
    if not same:
        raise ValueError(f"{path.parent}: another run is writing there; wait for it, or give another --out")


def _require_same(folder: Path, written: dict[str, Any]) -> None:
    path = folder / RUN
    if not path.exists():
        if _shards(folder):
            raise ValueError(f"{folder} has a {RESPONSES} and no {RUN}: give another --out")
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the note of a run ({error}): give another --out") from None
    for name in [*written, *before]:
        if before.get(name) != written.get(name):
            was, now = (json.dumps(x.get(name), ensure_ascii=False) for x in (before, written))
            raise ValueError(f"{folder} has a run with {name} = {was}, not {now}: give another --out, or remove it")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
