"""Scoring many comparisons: a fixed plan of batches, a line for each result as it is found, and going on after a stop.

The batches depend on the work alone, not on the number of processes or on what was done before: process `r` of `n`
takes each `n`-th batch that is still to do. So results are the same, to the byte, for one process, for several, and
after any number of interruptions on one machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from llm_bridge.pairs import Comparison, Key, Problem
from llm_bridge.score import batches
from llm_bridge.scorers import Record, Request, Scorer
from llm_bridge.workers import Workers
from theory.files import replacing

__all__ = ["Plan", "Results", "digest", "plan", "read_records", "run", "same_run"]

RESPONSES, RUN = "responses.jsonl", "run.json"


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
    """What is known at the end: comparisons that were scored, all their records by key, problems, and the speed."""

    comparisons: list[Comparison]
    records: dict[Key, Record]
    problems: list[Problem]
    tokens: int
    seconds: float


def run(scorer: Scorer, work: Plan, folder: Path, workers: Workers, *, progress: bool = True) -> Results:
    """Score what is not yet in `folder`, each process into a file of its own, and put all lines in order at the end.

    A line is written as soon as its batch is scored. Raises what the model raises, apart from ValueError: a request
    that is refused gets a line that says why, and its comparison becomes a problem.
    """
    own = folder / (RESPONSES if workers.first else f"responses.{workers.rank}.jsonl")
    done = {key for path in _shards(folder) for key, _ in _lines(path)}
    _cut_last_line(own)
    workers.wait()  # nobody writes before all have read
    todo = [batch for batch in work.batches if any(work.requests[i].key not in done for i in batch)]
    share = [batch for n, batch in enumerate(todo) if n % workers.size == workers.rank]
    tokens, started = (
        [sum(work.requests[i].size for batch in some for i in batch) for some in (share, todo)],
        monotonic(),
    )
    with (
        own.open("ab") as file,
        tqdm(total=tokens[0], desc="scoring", unit="tok", unit_scale=True, disable=None if progress else True) as bar,
    ):
        for batch in share:
            requests = [work.requests[i] for i in batch]
            for request, record in zip(requests, _records(scorer, requests), strict=True):
                identity = dict(zip(("id", "role", "index"), request.key, strict=True))
                file.write(json.dumps(identity | record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            bar.update(sum(request.size for request in requests))
    seconds = monotonic() - started
    workers.wait()
    if workers.first:
        _merge(folder, work)
    workers.wait()
    return _results(folder, work, tokens[1], seconds)


def _records(scorer: Scorer, requests: list[Request]) -> list[Record]:
    """Records of a batch; where it is refused, of each request by itself, or why there is none: an ``error``."""
    try:
        return [_finite(record) for record in scorer.records(requests)]
    except ValueError as error:
        if len(requests) == 1:
            return [{"error": str(error)}]
        return [record for request in requests for record in _records(scorer, [request])]


def _finite(record: Record) -> Record:
    wrong = [name for name, x in record.items() if isinstance(x, float) and not math.isfinite(x)]
    return {"error": f"{wrong[0]} is {record[wrong[0]]}; load the model in another dtype"} if wrong else record


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


def _results(folder: Path, work: Plan, tokens: int, seconds: float) -> Results:
    records = dict(read_records(folder / RESPONSES))
    refused: dict[str, str] = {}
    for (identity, _, _), record in records.items():
        if "error" in record:
            refused.setdefault(identity, record["error"])
    problems = [Problem(c.place, refused[c.id]) for c in work.comparisons if c.id in refused]
    kept = [c for c in work.comparisons if c.id not in refused]
    records = {key: record for key, record in records.items() if key[0] not in refused}
    return Results(kept, records, [*work.problems, *problems], tokens, seconds)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("responses*.jsonl"))


def read_records(path: Path) -> Iterator[tuple[Key, Record]]:
    """Keys and records of a file of lines, those of a line that was not finished left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                record = json.loads(line)
                yield (record.pop("id"), record.pop("role"), record.pop("index")), record


def _lines(path: Path) -> Iterator[tuple[Key, int]]:
    """Keys of a file of lines, and where each begins."""
    start = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                record = json.loads(line)
                yield (record["id"], record["role"], record["index"]), start
            start += len(line)


def _cut_last_line(path: Path) -> None:
    """Remove what a stop in the middle of a line has left after the last whole one."""
    if path.exists():
        with path.open("rb+") as file:
            end = 0
            for line in file:
                end += len(line) if line.endswith(b"\n") else 0
            file.truncate(end)


def same_run(folder: Path, facts: Mapping[str, Any], workers: Workers) -> None:
    """Note in `folder` what is run there, or raise ValueError if it was something else."""
    path, written = folder / RUN, json.loads(json.dumps(facts))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name in [*written, *before]:
            if before.get(name) != written.get(name):
                was, now = (json.dumps(x.get(name), ensure_ascii=False) for x in (before, written))
                raise ValueError(f"{folder} has a run with {name} = {was}, not {now}: give another --out, or remove it")
    elif _shards(folder):
        raise ValueError(f"{folder} has a {RESPONSES} and no {RUN}: give another --out")
    workers.wait()
    if workers.first and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(written, ensure_ascii=False, indent=1).encode() + b"\n")
    workers.wait()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
