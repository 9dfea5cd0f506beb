"""Scoring many comparisons: a fixed plan of batches, a line for each result as it is found, and
going on after a stop.

The batches depend on the work alone, not on the number of processes or on what was done before:
process `r` of `n` takes each `n`-th batch that is still to do. So results are the same, to the
byte, for one process, for several, and after any number of interruptions, on one machine with as
many threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_bridge.preferences.pairs import Comparison, Key, Problem
from llm_bridge.preferences.scorers import Record, Request, Scorer
from llm_bridge.read.reward import batches
from theory.storage.runs import RunFolder, read_lines

__all__ = ["RESPONSES", "Plan", "Results", "digest", "plan", "read_records", "results", "run"]

RESPONSES = "responses.jsonl"
IDENTITY = ("id", "role", "index")


@dataclass(frozen=True)
class Plan:
    """All the work: comparisons that can be scored, their requests in order, and the batches that
    these go in.
    """

    comparisons: list[Comparison]
    requests: list[Request]
    batches: list[list[int]]
    problems: list[Problem]


def plan(
    scorer: Scorer, comparisons: Sequence[Comparison], batch_tokens: int, *, progress: bool = True
) -> Plan:
    """Tokenise everything; a comparison that cannot be scored becomes a problem and does not lose
    the others.
    """
    kept, requests, problems = [], [], []
    for comparison in tqdm(
        comparisons, desc="tokenising", disable=None if progress else True, leave=False
    ):
        try:
            work = scorer.requests(comparison)
        except ValueError as error:
            problems.append(Problem(comparison.place, str(error)))
        else:
            kept.append(comparison)
            requests += work
    return Plan(
        kept,
        requests,
        list(batches([request.size for request in requests], batch_tokens)),
        problems,
    )


@dataclass(frozen=True)
class Results:
    """What is known at the end: comparisons that were scored, records by key without arrays,
    problems.
    """

    comparisons: list[Comparison]
    records: dict[Key, Record]
    problems: list[Problem]


def run(scorer: Scorer, work: Plan, folder: RunFolder, *, progress: bool = True) -> int:
    """Score what is not yet in the folder, each process into a file of its own, and put all lines
    in order at the end.

    A line is written as soon as its batch is scored. Raises what the model raises, apart from
    ValueError: a request that is refused gets a line that says why. Returns the number of tokens
    that were still to read, by all processes.
    """
    workers, lines = folder.processes, folder.lines(RESPONSES, _key)
    done = set(lines)
    workers.wait()  # nobody writes before all have read
    todo = [batch for batch in work.batches if any(work.requests[i].key not in done for i in batch)]
    share = todo[workers.rank :: workers.size]
    sizes = [sum(work.requests[i].size for batch in some for i in batch) for some in (share, todo)]
    disable = None if progress else True
    with tqdm(total=sizes[0], desc="scoring", unit="tok", unit_scale=True, disable=disable) as bar:
        for batch in share:
            requests = [work.requests[i] for i in batch]
            keys = [dict(zip(IDENTITY, request.key, strict=True)) for request in requests]
            lines.append(
                *(
                    key | record
                    for key, record in zip(keys, _records(scorer, requests), strict=True)
                )
            )
            bar.update(sum(request.size for request in requests))
    workers.wait()
    if workers.first:
        lines.merge(request.key for request in work.requests)
    workers.wait()
    return sizes[1]


def _records(scorer: Scorer, requests: list[Request]) -> list[Record]:
    """Records of a batch; where it is refused, of each request by itself, or why there is none: an
    ``error``.
    """
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


def results(folder: Path, work: Plan) -> Results:
    """What a finished run has found; a comparison with a refused response is a problem."""
    records: dict[Key, Record] = {}
    refused: dict[str, str] = {}
    for key, record in read_records(folder / RESPONSES):
        if "error" in record:
            refused.setdefault(key[0], record["error"])
        records[key] = {
            name: value for name, value in record.items() if not isinstance(value, list)
        }
    problems = [Problem(c.place, refused[c.id]) for c in work.comparisons if c.id in refused]
    kept = [c for c in work.comparisons if c.id not in refused]
    return Results(
        kept,
        {key: record for key, record in records.items() if key[0] not in refused},
        [*work.problems, *problems],
    )


def read_records(path: Path) -> Iterator[tuple[Key, Record]]:
    """Yield keys and whole records of a file of lines; a last line that was not finished is none.

    Raises:
        ValueError: a line is not one of a run.

    """
    return read_lines(
        path, lambda row: (_key(row), {k: value for k, value in row.items() if k not in IDENTITY})
    )


def _key(row: Mapping[str, Any]) -> Key:
    return row["id"], row["role"], row["index"]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
