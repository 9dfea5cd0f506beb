"""Read a run folder of ``endorm score`` and make scores of its records. Needs no torch.

::

    run.json         what was scored, and how (`theory.storage.runs`)
    plan.json        what was known before the first batch: rows that cannot be scored, what is
                     noted of the model, the bytes of the tokens that the report shows
    responses.jsonl  a record for each response, or for each pair

Scores are made of these files alone, when a run ends and when it is reported again: so equal
options give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm_bridge.preferences.accuracy import PAIR
from llm_bridge.preferences.pairs import Comparison, Key
from llm_bridge.preferences.rows import Problem
from llm_bridge.read.aggregate import Aggregation, AggregationOptions, aggregate
from theory.storage.files import parsed_json
from theory.storage.runs import read_lines, shards

__all__ = [
    "ENDOGENOUS",
    "IDENTITY",
    "OTHER_METHODS",
    "PLAN",
    "RESPONSES",
    "Lift",
    "Record",
    "Results",
    "columns",
    "key_of",
    "read_json",
    "read_lift",
    "read_records",
    "read_results",
]

Record: TypeAlias = dict[str, Any]

RESPONSES = "responses.jsonl"
"""File of the records in a run folder, a line for each."""

PLAN = "plan.json"
"""File of what was known before the first batch."""

IDENTITY = ("id", "role", "index")
"""Fields of a line that are its key."""

ENDOGENOUS = "endogenous"

OTHER_METHODS: dict[str, tuple[str, ...]] = {
    "verifier": ("log_prob", "reward_sum", "log_odds"),
    "pointwise": ("rating",),
    "pairwise": ("log_odds", "first", "second"),
    "reward-model": ("score",),
}
"""Fields of a record that are scores, for each method but the endogenous reward; the first is the
main one.
"""


@dataclass(frozen=True)
class _Tokens:
    """A record as `aggregate` reads it."""

    rewards: NDArray[Any]
    log_probs: NDArray[Any]
    reward_sum: float
    log_prob: float


@dataclass(frozen=True)
class Lift:
    """Log-probabilities of the same responses without a context, see `read_lift`.

    Attributes:
        folder: run that they are read from.
        responses: token ids and ``log π(τ|x)``, nats, by key.
        same: ids of the comparisons whose prompt has no context here either.

    """

    folder: Path
    responses: Mapping[Key, tuple[bytes, float]]
    same: Collection[str]

    def log_prob(self, key: Key, record: Mapping[str, Any]) -> float:
        """Return ``log π(τ|x)`` of the response with this key and record, nats.

        Raises:
            ValueError: the other run has not scored it, or has read other tokens.

        """
        if key[0] in self.same:
            return float(record["log_prob"])  # not what another batch rounds otherwise
        found = self.responses.get(key)
        if found is None:
            raise ValueError(
                f"--lift-from={self.folder}: has no score of {key}; finish that run, or score the "
                "same --pairs there"
            )
        if found[0] != _packed(record):
            raise ValueError(
                f"--lift-from={self.folder}: {key} has other tokens there; use one model and "
                "template, and --join apart"
            )
        return found[1]


def columns(
    run: Mapping[str, Any], options: AggregationOptions, lift: Lift | None = None
) -> Callable[[Key, Mapping[str, Any]], dict[str, float]]:
    """Return the function that makes scores of a record, by name; the first is the main one.

    Args:
        run: note of the run: ``method``, and for the endogenous reward ``alpha`` and ``dtype``.
        options: discounted and clipped sums.
        lift: log-probabilities without the context, for the lift.

    Example:
        >>> record = {"reward_sum": -3.0, "log_prob": -3.0, "rewards": [-3.0], "log_probs": [-3.0]}
        >>> run = {"method": "endogenous", "alpha": 2.0, "dtype": "float32"}
        >>> columns(run, AggregationOptions())(("s/0", "chosen", 0), record)["logprob"]
        -6.0

    """
    if run["method"] != ENDOGENOUS:
        fields = OTHER_METHODS[run["method"]]
        return lambda key, record: {name: float(record[name]) for name in fields}
    others: list[Aggregation] = []
    if run.get("reference") is not None:
        others.append("anchored")
    if lift is not None:
        others.append("lift")
    named = list(options.columns(*others))
    # lines have the fewest digits that give a number of this precision back
    precise = np.float64 if run["dtype"] == "float64" else np.float32

    def scores(key: Key, record: Mapping[str, Any]) -> dict[str, float]:
        tokens = _Tokens(
            np.array(record["rewards"], dtype=precise),
            np.array(record["log_probs"], dtype=precise),
            record["reward_sum"],
            record["log_prob"],
        )
        other: dict[str, float | None] = {"anchored": record.get("reference_log_prob")}
        if lift is not None:
            other["lift"] = lift.log_prob(key, record)
        return {
            name: aggregate(
                how,
                tokens,
                run["alpha"],
                other_log_prob=other.get(how),
                discount=discount,
                floor=floor,
            )
            for name, how, discount, floor in named
        }

    return scores


@dataclass(frozen=True)
class Results:
    """What a run has found so far.

    Attributes:
        comparisons: those with all their scores.
        scores: for each name of a score, numbers by key of the response or pair.
        tokens: lengths of whole responses, also of those that were cut; `None` where there are
            none.
        problems: why others were not scored.
        cut: number of comparisons with a response that was cut.
        waiting: number of comparisons that are not scored yet.

    """

    comparisons: list[Comparison]
    scores: dict[str, dict[Key, float]]
    tokens: dict[Key, int] | None
    problems: list[Problem] = field(default_factory=list)
    cut: int = 0
    waiting: int = 0


def read_results(
    folder: Path,
    comparisons: Sequence[Comparison],
    scores: Callable[[Key, Mapping[str, Any]], Mapping[str, float]],
) -> Results:
    """Read what a run has found; a comparison with a refused response is a problem.

    Args:
        folder: folder of the run, finished or not.
        comparisons: those that can be scored.
        scores: see `columns`.

    Raises:
        ValueError: a line is not one of a run.

    Example:
        >>> import tempfile
        >>> from theory.storage.runs import RunFolder
        >>> with RunFolder(tempfile.mkdtemp()) as run:
        ...     for role, score in (("chosen", 2.0), ("rejected", 1.0)):
        ...         line = {"id": "s/0", "role": role, "index": 0, "score": score}
        ...         run.lines(RESPONSES, key_of).append(line)
        >>> comparisons = [Comparison("s/0", "2 + 2?", ("4",), ("5",), "s")]
        >>> scores = columns({"method": "reward-model"}, AggregationOptions())
        >>> read_results(run.path, comparisons, scores).scores
        {'score': {('s/0', 'chosen', 0): 2.0, ('s/0', 'rejected', 0): 1.0}}

    """
    wanted = {comparison.id for comparison in comparisons}
    found: dict[str, dict[Key, float]] = {}
    tokens: dict[Key, int] = {}
    refused: dict[str, str] = {}
    done: dict[str, set[Key]] = {}
    cut = set()
    for key, record in read_records(folder):
        if key[0] not in wanted:
            continue
        if "error" in record:
            refused.setdefault(key[0], record["error"])
            continue
        try:
            made = scores(key, record)
        except ValueError as error:  # it has no lift
            refused.setdefault(key[0], str(error))
            continue
        for name, value in made.items():
            found.setdefault(name, {})[key] = value
        if "tokens" in record:
            tokens[key] = record["tokens"] + record.get("cut", 0)
        if record.get("cut"):
            cut.add(key[0])
        done.setdefault(key[0], set()).add(key)
    problems = [Problem(c.place, refused[c.id]) for c in comparisons if c.id in refused]
    kept = [
        c
        for c in comparisons
        if c.id not in refused and _needed(c, done.get(c.id, set())) <= done.get(c.id, set())
    ]
    ids = {c.id for c in kept}
    whole = {
        name: {key: value for key, value in column.items() if key[0] in ids}
        for name, column in found.items()
    }
    lengths = {key: n for key, n in tokens.items() if key[0] in ids} or None
    waiting = len(comparisons) - len(kept) - len(problems)
    return Results(kept, whole, lengths, problems, len(cut & ids), waiting)


def _needed(comparison: Comparison, done: set[Key]) -> set[Key]:
    """Return the keys of a comparison's records: of its pairs if one of them is there."""
    if any(role == PAIR for _, role, _ in done):
        pairs = len(comparison.chosen) * len(comparison.rejected)
        return {(comparison.id, PAIR, k) for k in range(pairs)}
    return {key for key, _ in comparison.responses()}


def read_lift(folder: Path, run: Mapping[str, Any], comparisons: Sequence[Comparison]) -> Lift:
    """Read a run of the same responses without a context, or with another one.

    Args:
        folder: folder of the other run.
        run: note of the run whose lift is wanted.
        comparisons: its comparisons.

    Raises:
        ValueError: there is no such run, or it differs in more than what is put before the prompt.

    Example:
        >>> import tempfile
        >>> from theory.storage.runs import RunFolder
        >>> line = {"id": "s/0", "role": "chosen", "index": 0, "token_ids": [7], "log_prob": -2.0}
        >>> with RunFolder(tempfile.mkdtemp(), {"no_system": True}) as other:
        ...     other.lines(RESPONSES, key_of).append(line)
        >>> comparison = Comparison("s/0", "2 + 2?", ("4",), ("5",), "s", system="Be brief.")
        >>> lift = read_lift(other.path, {}, [comparison])
        >>> lift.log_prob(("s/0", "chosen", 0), {"token_ids": [7], "log_prob": -0.5})
        -2.0

    """
    name = f"--lift-from={folder}"
    if not (folder / "run.json").exists():
        raise ValueError(f"{name}: has no run; give the folder of a run of endorm score")
    other = read_json(folder / "run.json")
    for fact in SAME:
        if other.get(fact) != run.get(fact):
            shown = (json.dumps(note.get(fact), ensure_ascii=False)[:60] for note in (other, run))
            raise ValueError("{}: has {} = {}, not {}".format(name, fact, *shown))
    responses = {
        key: (_packed(record), float(record["log_prob"]))
        for key, record in read_records(folder)
        if "error" not in record
    }
    same = {c.id for c in comparisons if _context(c, run) == _context(c, other)}
    return Lift(folder, responses, same)


SAME = (
    "method",
    "weights",
    "dtype",
    "chat",
    "chat_template",
    "eos",
    "join",
    "separator",
    "truncate",
)
"""Facts in which two runs agree whose log-probabilities are subtracted."""


def _context(comparison: Comparison, run: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the system prompt of a comparison in a run, and whether a template may add its own."""
    system = run.get("system")
    bare = bool(run.get("no_system")) or system == ""
    if system is None:
        prompts = run.get("domain_prompts")
        of_domain = prompts is not None and comparison.is_dsp
        system = prompts[comparison.subset] if of_domain else comparison.system  # type: ignore[index]
    return (None if bare else system), bare


def _packed(record: Mapping[str, Any]) -> bytes:
    return np.array(record["token_ids"], dtype=np.int32).tobytes()


def read_records(folder: Path) -> Iterator[tuple[Key, Record]]:
    """Yield the keys and whole records of a run folder, of all its processes, without unfinished
    lines.

    Raises:
        ValueError: a line is not one of a run.

    Example:
        >>> import tempfile
        >>> from theory.storage.runs import RunFolder
        >>> line = {"id": "s/0", "role": "chosen", "index": 0, "log_prob": -1.5}
        >>> with RunFolder(tempfile.mkdtemp()) as run:
        ...     run.lines(RESPONSES, key_of).append(line)
        >>> list(read_records(run.path))
        [(('s/0', 'chosen', 0), {'log_prob': -1.5})]

    """
    for path in shards(folder / RESPONSES):
        yield from read_lines(
            path,
            lambda row: (key_of(row), {k: value for k, value in row.items() if k not in IDENTITY}),
        )


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key of a line.

    Example:
        >>> key_of({"id": "s/0", "role": "chosen", "index": 0, "tokens": 3})
        ('s/0', 'chosen', 0)

    """
    return row["id"], row["role"], row["index"]


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a file of a run folder holds.

    Raises:
        ValueError: there is no such file, or it holds no object; names the remedy.

    Example:
        >>> read_json(Path("nowhere/run.json"))
        Traceback (most recent call last):
        ValueError: nowhere/run.json: cannot be read ([Errno 2] ...); give the folder of a run ...

    """
    try:
        return dict(parsed_json(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); give the folder of a run of endorm score, or the "
            "command that made it once more: nothing is scored twice"
        ) from None
