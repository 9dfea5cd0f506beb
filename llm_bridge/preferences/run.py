"""Score many comparisons in a run folder: by fixed batches, in several processes, resumable.

The batches depend on the work alone, not on the number of processes or on what was done before;
process `r` of `n` takes each `n`-th batch that is still to do. So results are the same to the byte
for any number of processes and interruptions, on one machine with as many threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llm_bridge.preferences.pairs import Comparison, Key
from llm_bridge.preferences.rows import Problem
from llm_bridge.preferences.scorers import Record, Request, Scorer
from llm_bridge.read.reward import batches
from theory.storage.runs import RunFolder, read_lines

__all__ = ["RESPONSES", "Plan", "Results", "digest", "plan", "read_records", "results", "run"]

RESPONSES = "responses.jsonl"
"""File of the records in a run folder, a line for each."""

IDENTITY = ("id", "role", "index")
"""Fields of a line that are its key."""


@dataclass(frozen=True)
class Plan:
    """All the work of a run.

    Attributes:
        comparisons: those that can be scored.
        requests: their requests, in order.
        batches: numbers of the requests that are scored together.
        problems: why other comparisons cannot be scored.

    """

    comparisons: list[Comparison]
    requests: list[Request]
    batches: list[list[int]]
    problems: list[Problem]


def plan(
    scorer: Scorer, comparisons: Sequence[Comparison], batch_tokens: int, *, progress: bool = True
) -> Plan:
    """Tokenise all comparisons; one that cannot be scored becomes a problem.

    Args:
        scorer: method of scoring.
        comparisons: comparisons, in order.
        batch_tokens: most tokens of a batch.
        progress: show progress on a terminal.

    Example::

        work = plan(scorer, comparisons, batch_tokens=16_384)

    """
    kept, requests, problems = [], [], []
    disable = None if progress else True
    for comparison in tqdm(comparisons, desc="tokenising", disable=disable, leave=False):
        try:
            work = scorer.requests(comparison)
        except ValueError as error:
            problems.append(Problem(comparison.place, str(error)))
        else:
            kept.append(comparison)
            requests += work
    sizes = [request.size for request in requests]
    return Plan(kept, requests, list(batches(sizes, batch_tokens)), problems)


@dataclass(frozen=True)
class Results:
    """Results of a finished run.

    Attributes:
        comparisons: those that were scored.
        records: records by key, without their lists.
        problems: why others were not scored.

    """

    comparisons: list[Comparison]
    records: dict[Key, Record]
    problems: list[Problem]


def run(scorer: Scorer, work: Plan, folder: RunFolder) -> int:
    """Score what is not yet in the folder.

    Each process writes to a file of its own, a line as soon as its batch is scored; at the end all
    lines are put in order in one file. A request that is refused (ValueError) gets a line that says
    why; any other error of the model is raised.

    Args:
        scorer: method of scoring.
        work: see `plan`.
        folder: run folder, entered.

    Returns:
        Number of tokens that were still to read, by all processes.

    Example::

        with RunFolder("out", {"model": "gpt2"}, lines=[RESPONSES]) as folder:
            run(scorer, work, folder)
        results(folder.path, work).records

    """
    workers = folder.processes
    lines = folder.lines(RESPONSES, _key)
    done = set(lines)
    workers.wait()  # nobody writes before all have read
    todo = [batch for batch in work.batches if any(work.requests[i].key not in done for i in batch)]
    share = todo[workers.rank :: workers.size]
    disable = None if workers.first else True
    total = _tokens(work, share)
    with tqdm(total=total, desc="scoring", unit="tok", unit_scale=True, disable=disable) as bar:
        for batch in share:
            requests = [work.requests[i] for i in batch]
            records = _records(scorer, requests)
            lines.append(
                *(
                    dict(zip(IDENTITY, request.key, strict=True)) | record
                    for request, record in zip(requests, records, strict=True)
                )
            )
            bar.update(_tokens(work, [batch]))
    workers.wait()
    if workers.first:
        lines.merge(request.key for request in work.requests)
    workers.wait()
    return _tokens(work, todo)


def _tokens(work: Plan, some: Sequence[Sequence[int]]) -> int:
    return sum(work.requests[i].size for batch in some for i in batch)


def _records(scorer: Scorer, requests: list[Request]) -> list[Record]:
    """Score a batch, or its requests one by one if it is refused; a refused one is an ``error``."""
    try:
        return [_finite(record) for record in scorer.records(requests)]
    except ValueError as error:
        if len(requests) == 1:
            return [{"error": str(error)}]
        return [record for request in requests for record in _records(scorer, [request])]


def _finite(record: Record) -> Record:
    """Return a record of finite numbers, else one with an ``error``."""
    for name, value in record.items():
        for x in value if isinstance(value, list) else [value]:
            if isinstance(x, float) and not math.isfinite(x):
                verb = "hold" if isinstance(value, list) else "is"
                return {"error": f"{name} {verb} {x}; load the model in another dtype"}
    return record


def results(folder: Path, work: Plan) -> Results:
    """Read what a finished run has found; a comparison with a refused response is a problem.

    Args:
        folder: folder of the run.
        work: plan of the run.

    Raises:
        ValueError: a line is not one of a run.

    Example::

        found = results(Path("out"), work)

    """
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
    scored = {key: record for key, record in records.items() if key[0] not in refused}
    return Results(kept, scored, [*work.problems, *problems])


def read_records(path: Path) -> Iterator[tuple[Key, Record]]:
    """Yield the keys and whole records of a file of lines, without an unfinished last line.

    Raises:
        ValueError: a line is not one of a run.

    Example::

        for (id, role, index), record in read_records(Path("out") / RESPONSES):
            ...

    """
    return read_lines(
        path, lambda row: (_key(row), {k: value for k, value in row.items() if k not in IDENTITY})
    )


def _key(row: Mapping[str, Any]) -> Key:
    return row["id"], row["role"], row["index"]


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
