"""Score many comparisons in a run folder: by fixed batches, in several processes, resumable.

The batches depend on the work alone, not on the number of processes or on what was done before;
process `r` of `n` takes each `n`-th batch that is still to do. So results are the same to the byte
for any number of processes and interruptions, on one machine with as many threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.records import IDENTITY, RESPONSES, Record, key_of
from llm_bridge.preferences.rows import Problem
from llm_bridge.preferences.scorers import Request, Scorer
from llm_bridge.read.reward import batches
from theory.storage.runs import RunFolder

__all__ = ["Plan", "plan", "run"]


@dataclass(frozen=True)
class Plan:
    """All the work of a run.

    Attributes:
        comparisons: those that can be scored.
        requests: their requests, in order.
        copies: numbers of the requests that read the same rows, by the number of the first: a
            response that comes again after the same prompt is scored once.
        batches: numbers of the first requests that are scored together.
        problems: why other comparisons cannot be scored.

    """

    comparisons: list[Comparison]
    requests: list[Request]
    copies: dict[int, list[int]]
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

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.preferences.scorers import Conversation, Endogenous
        >>> from llm_bridge.read.reward import EndogenousReward
        >>> lm = letter_lm(4)
        >>> scorer = Endogenous(EndogenousReward(lm), Conversation(lm, chat=False, separator=""))
        >>> comparison = Comparison("s/0", "ab", ("c",), ("d", "c"), "s")
        >>> plan(scorer, [comparison], batch_tokens=64).copies  # the "c" is read once
        {0: [0, 2], 1: [1]}

    """
    kept = []
    requests = []
    problems = []
    disable = None if progress else True
    for comparison in tqdm(comparisons, desc="tokenising", disable=disable, leave=False):
        try:
            work = scorer.requests(comparison)
        except ValueError as error:
            problems.append(Problem(comparison.place, str(error)))
        else:
            kept.append(comparison)
            requests += work
    seen: dict[bytes, int] = {}
    copies: dict[int, list[int]] = {}
    for i, request in enumerate(requests):
        # a digest, since the rows of all requests need no second place in memory
        rows = hashlib.sha256(b"".join(row.tobytes() for row in request.rows))
        rows.update(repr([len(row) for row in request.rows]).encode())
        copies.setdefault(seen.setdefault(rows.digest(), i), []).append(i)
    firsts = list(copies)
    sizes = [requests[i].size for i in firsts]
    batched = [[firsts[k] for k in batch] for batch in batches(sizes, batch_tokens)]
    return Plan(kept, requests, copies, batched, problems)


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

    Example:
        >>> import tempfile
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.preferences.scorers import Conversation, Endogenous
        >>> from llm_bridge.read.reward import EndogenousReward
        >>> lm = letter_lm(4)
        >>> scorer = Endogenous(EndogenousReward(lm), Conversation(lm, chat=False, separator=""))
        >>> work = plan(scorer, [Comparison("s/0", "ab", ("c",), ("d",), "s")], batch_tokens=64)
        >>> with RunFolder(tempfile.mkdtemp(), {"model": "letters"}, lines=[RESPONSES]) as folder:
        ...     run(scorer, work, folder), run(scorer, work, folder)  # nothing is left to read
        (6, 0)

    """
    workers = folder.processes
    lines = folder.lines(RESPONSES, key_of)
    done = set(lines)
    workers.wait()  # nobody writes before all have read
    todo = [
        batch
        for batch in work.batches
        if any(work.requests[k].key not in done for i in batch for k in work.copies[i])
    ]
    share = todo[workers.rank :: workers.size]
    disable = None if workers.first else True
    total = _tokens(work, share)
    with tqdm(total=total, desc="scoring", unit="tok", unit_scale=True, disable=disable) as bar:
        for batch in share:
            requests = [work.requests[i] for i in batch]
            records = _records(scorer, requests)
            lines.append(
                *(
                    dict(zip(IDENTITY, copy.key, strict=True)) | record | _facts(copy, record)
                    for i, record in zip(batch, records, strict=True)
                    for copy in (work.requests[k] for k in work.copies[i])
                )
            )
            bar.update(_tokens(work, [batch]))
    workers.wait()
    if workers.first:
        lines.merge(request.key for request in work.requests)
    workers.wait()
    return _tokens(work, todo)


def _facts(request: Request, record: Record) -> Record:
    """Return what a record says of a request itself; nothing where the model refused it."""
    return {} if "error" in record else dict(request.facts)


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
