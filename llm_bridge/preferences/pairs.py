"""Read preference data, published benchmarks and plain JSON lines, into `Comparison` rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from llm_bridge.preferences.rows import (
    HUB,
    Place,
    Problem,
    Row,
    require_object,
    require_text,
    require_unicode,
    shown,
    source_rows,
)

__all__ = [
    "FORMATS",
    "RM_BENCH_STYLES",
    "TIES",
    "Comparison",
    "Key",
    "guess_format",
    "iter_comparisons",
    "read_comparisons",
]

Message: TypeAlias = dict[str, str]
Key: TypeAlias = tuple[str, str, int]
"""Key of a response: comparison's id, ``"chosen"`` or ``"rejected"``, and its index there."""

RM_BENCH_STYLES = ("concise", "plain", "markdown")
"""RM-Bench's styles in its own order: concise, detailed plain text, detailed markdown."""

TIES = "Ties"
"""Subset of RewardBench 2 whose questions have several right answers."""

NOWHERE = Place("(memory)", None, 0)


@dataclass(frozen=True)
class Comparison:
    """Responses to one prompt; every chosen one should score above every rejected one.

    Attributes:
        id: identifier, unique in a data set.
        prompt: text or conversation.
        chosen: better responses, at least one.
        rejected: worse responses, at least one.
        subset: group that it is reported in.
        system: system prompt, if any.
        chosen_styles: style or domain of each chosen response, where the data set has them.
        rejected_styles: those of the rejected responses.
        benchmark: benchmark whose rules apply where they are not the usual ones:
            ``"rewardbench-2"`` or ``"rmgap"``.
        group: comparisons of one group are resampled together; empty for those of one prompt.
        place: where it was read.

    Raises:
        ValueError: there is no chosen or no rejected response.

    Example:
        >>> comparison = Comparison("math/0", "2 + 2?", ("4",), ("5", "6"), "math")
        >>> [key for key, text in comparison.responses()]
        [('math/0', 'chosen', 0), ('math/0', 'rejected', 0), ('math/0', 'rejected', 1)]

    """

    id: str
    prompt: str | list[Message]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str
    system: str | None = None
    chosen_styles: tuple[str, ...] = ()
    rejected_styles: tuple[str, ...] = ()
    benchmark: str = ""
    group: str = ""
    place: Place = field(default=NOWHERE, compare=False)

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            side = "rejected" if self.chosen else "chosen"
            raise ValueError(f"{self.id}: no {side} response; there is no pair")

    @property
    def is_rm_bench(self) -> bool:
        """Whether RM-Bench's rules apply: hard, normal and easy, and a tie counts as wrong."""
        return self.chosen_styles == self.rejected_styles == RM_BENCH_STYLES

    @property
    def is_tie_question(self) -> bool:
        """Whether it is of RewardBench 2's subset *Ties*."""
        return self.benchmark == "rewardbench-2" and self.subset == TIES

    @property
    def strict(self) -> bool:
        """Whether a tie counts as wrong; else it is half right."""
        return self.is_rm_bench or self.benchmark == "rmgap"

    @property
    def is_dsp(self) -> bool:
        """Whether the chosen response is that of the domain, whose system prompt it is given."""
        return self.chosen_styles == (self.subset,)

    def responses(self) -> Iterator[tuple[Key, str]]:
        """Yield the key and the text of every response."""
        for role, texts in (("chosen", self.chosen), ("rejected", self.rejected)):
            for index, text in enumerate(texts):
                yield (self.id, role, index), text


def read_comparisons(
    *sources: str | Path, format: str | None = None, limit: int | None = None
) -> tuple[list[Comparison], list[Problem]]:
    r"""Read the comparisons of one or more sources, and the problems of the rows that have none.

    Files of the same name are told apart by their folders. An id that is already taken is a problem
    of the later row.

    Args:
        sources: see `iter_comparisons`.
        format: see `iter_comparisons`.
        limit: most comparisons of each source; `None` for all.

    Raises:
        ValueError, OSError: `limit` is below 1, or see `iter_comparisons`.

    Example:
        >>> import tempfile
        >>> row = b'{"id": 1, "prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n'
        >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        ...     _ = file.write(row + b"{}\n")
        ...     file.flush()
        ...     comparisons, problems = read_comparisons(file.name)
        >>> comparisons[0].chosen, [problem.message for problem in problems]
        (('4',), ['chosen is missing'])

    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1; None for all")
    found: dict[str, Comparison] = {}
    problems = []
    names = [str(source) for source in sources]
    stems = [_stem(name) for name in names]
    for name, stem in zip(names, stems, strict=True):
        start = len(found)
        if stems.count(stem) > 1:
            stem = _stem(name, 1)
        for item in iter_comparisons(name, format, stem):
            if isinstance(item, Problem):
                problems.append(item)
            elif item.id in found:
                problems.append(
                    Problem(item.place, f"id {item.id!r} is there already ({found[item.id].place})")
                )
            else:
                found[item.id] = item
            if len(found) - start == limit:
                break
    return list(found.values()), problems


def iter_comparisons(
    source: str | Path, format: str | None = None, stem: str | None = None
) -> Iterator[Comparison | Problem]:
    r"""Read a source row by row; a bad row yields a `Problem`, and reading continues.

    Ids are ``subset/id``, or ``subset/`` and the row's number from 0 if it has no id. The subset is
    the row's own or the file's name; for RM-Bench the domain (``domain``, or ``chat`` for
    ``chat_filtered.json``). A row gives a comparison for each prompt in RMGAP, and for each domain
    in DSP (its system prompt: `llm_bridge.preferences.domains`); one of GSM8K needs right and wrong
    solutions, and one without both is a `Problem` and no fault.

    Args:
        source: JSON, CSV, parquet, a folder, or a data set of the hub: see
            `llm_bridge.preferences.rows`.
        format: one of `FORMATS`; `None` to guess it from the first object, see `guess_format`.
        stem: name of the source in ids; `None` for the file's, without folders and suffix.

    Raises:
        ValueError, OSError: an unknown format, none that can be guessed, or a source that cannot be
            read.

    Example:
        >>> import tempfile
        >>> row = b'{"id": 1, "prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n'
        >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        ...     _ = file.write(row)
        ...     file.flush()
        ...     [item.id for item in iter_comparisons(file.name, stem="sums")]
        ['sums/1']

    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format {format!r}: must be one of {', '.join(FORMATS)}")
    name = str(source)
    rows = source_rows(name)
    read: list[Row] = []
    wrong: list[str] = []
    try:
        # up to the first good object, so that what is wrong with the whole source raises here
        for row in rows:
            read.append(row)
            try:
                format = format or guess_format(row[1])
                break
            except ValueError as error:
                why = str(row[1] if isinstance(row[1], ValueError) else error)
                wrong.append(str(Problem(Place(name, row[0], len(read) - 1), why)))
        if format is None:
            raise ValueError("no JSON object to guess the format from")
    except ValueError as error:
        raise ValueError(wrong[0] if wrong else f"{name}: {error}") from None
    return _comparisons(name, stem or _stem(name), chain(read, rows), FORMATS[format])


def _stem(name: str, parents: int = 0) -> str:
    """Return a source's name in ids: its last part, and that many of the folders before it."""
    if name.startswith(HUB):
        path = Path(name.split(":")[1])
    elif Path(name).is_file():
        path = Path(name.removesuffix(".gz")).with_suffix("")
    else:  # a folder, of which a split may be named
        path = Path(name.replace(":", "/"))
    return "/".join(path.parts[-1 - parents :])


def guess_format(row: Any) -> str:
    """Guess the format of a file from its first object, by the first rule that fits.

    `query` and `responses`: ``dsp``. `responses` and `prompt_groups`: ``rmgap``. `output_1` and
    `output_2`: ``llmbar``. `question` and a field that holds an object with `is_correct`:
    ``gsm8k``. `chosen` and `rejected`: ``hh-rlhf`` if both are one text with the turns of `Human`
    and `Assistant`, and there is no `prompt`; ``rewardbench-2`` if `num_correct` is there too,
    ``rm-bench`` if `chosen` is a list of texts, ``rewardbench`` if `prompt`, `subset` and `id` are
    there too, ``jsonl`` otherwise.

    Raises:
        ValueError: no rule fits.

    Example:
        >>> guess_format({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
        'jsonl'

    """
    if not isinstance(row, dict):
        raise ValueError("no JSON object to guess the format from")
    if {"query", "responses"} <= row.keys():
        return "dsp"
    if {"responses", "prompt_groups"} <= row.keys():
        return "rmgap"
    if {"output_1", "output_2"} <= row.keys():
        return "llmbar"
    marked = [value for value in row.values() if isinstance(value, dict) and "is_correct" in value]
    if "question" in row and marked:
        return "gsm8k"
    texts = [row.get(side) for side in ("prompt", "chosen", "rejected")]
    if texts[0] is None and all(isinstance(x, str) and TURN.match(x) for x in texts[1:]):
        return "hh-rlhf"
    if {"chosen", "rejected", "num_correct"} <= row.keys():
        return "rewardbench-2"
    if {"chosen", "rejected"} <= row.keys():
        if isinstance(row["chosen"], list) and all(isinstance(text, str) for text in row["chosen"]):
            return "rm-bench"
        return "rewardbench" if {"prompt", "subset", "id"} <= row.keys() else "jsonl"
    fields = ", ".join(list(row)[:8]) or "none"
    raise ValueError(
        f"no format has the fields of its first row ({fields}): name one of {', '.join(FORMATS)}"
    )


_Reader: TypeAlias = Callable[[dict[str, Any], str, int], list[Comparison]]
"""Reads a row, given its file's stem and its number there."""


def _comparisons(
    source: str, stem: str, rows: Iterable[Row], reader: _Reader
) -> Iterator[Comparison | Problem]:
    seen: set[str] = set()
    for number, (line, row) in enumerate(rows):
        place = Place(source, line, number)
        try:
            comparisons = reader(require_object(row), stem, number)
            for comparison in comparisons:
                _require_good(comparison, seen)
        except ValueError as error:
            yield Problem(place, str(error), fault=not isinstance(error, _NoPair))
        else:
            seen.update(comparison.id for comparison in comparisons)
            yield from (replace(comparison, place=place) for comparison in comparisons)


def _require_good(comparison: Comparison, seen: set[str]) -> None:
    require_unicode("id", comparison.id)
    if comparison.id in seen:
        raise ValueError(f"id {comparison.id!r} is there already")
    if not comparison.chosen_styles and set(comparison.chosen) & set(comparison.rejected):
        raise ValueError("one response is both chosen and rejected")


class _NoPair(ValueError):
    """A good row without two responses to compare."""


def _pair(
    row: dict[str, Any], stem: str, number: int, required: Sequence[str] = ()
) -> list[Comparison]:
    missing = [name for name in required if row.get(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    subset = stem if row.get("subset") is None else require_text(row, "subset")
    systems = set() if row.get("system") is None else {require_text(row, "system")}
    chosen = _conversation(row, "chosen", "assistant")
    rejected = _conversation(row, "rejected", "assistant")
    own = [] if row.get("prompt") is None else _conversation(row, "prompt", "user")
    prompts = [own, chosen[:-1], rejected[:-1]]
    for messages in prompts:
        if messages and messages[0]["role"] == "system":
            systems.add(messages.pop(0)["content"])
    asked = [messages for messages in prompts if messages]
    if not asked:
        raise ValueError(
            "prompt is missing: give it in a column of its own, or chosen and rejected as lists of "
            "messages"
        )
    if len(systems) > 1 or any(messages != asked[0] for messages in asked):
        raise ValueError("chosen and rejected do not answer the same prompt")
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant" != asked[0][-1]["role"]:
        raise ValueError(
            "chosen and rejected must end with the assistant's message, and the prompt must not"
        )
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else asked[0]
    sides = (chosen[-1]["content"],), (rejected[-1]["content"],)
    return [Comparison(_id(row, subset, number), prompt, *sides, subset, next(iter(systems), None))]


TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \n]?")
"""Where a turn begins in a text of hh-rlhf, whose prompt is the turns that both sides share."""


def _hh_rlhf(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    sides: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        before, *turns = TURN.split(require_text(row, side))
        if before.strip() or len(turns) < 4:
            raise ValueError(f"{side} must be turns, Human: … and Assistant: …, after empty lines")
        sides[side] = [
            {"role": {"Human": "user"}.get(who, "assistant"), "content": text}
            for who, text in zip(turns[::2], turns[1::2], strict=True)
        ]
    return _pair(row | sides, stem, number)


def _rm_bench(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    styles = RM_BENCH_STYLES
    if row.get("domain"):
        domain = require_text(row, "domain")
    elif stem.endswith("_filtered"):
        domain = stem.removesuffix("_filtered")
    else:
        domain = require_text(row, "subset")
    for role in ("chosen", "rejected"):
        if not isinstance(row.get(role), list) or len(row[role]) != len(styles):
            raise ValueError(
                f"{role} must be a list of {len(styles)} responses, got {shown(row.get(role))}"
            )
    chosen, rejected = (
        tuple(require_text({role: t}, role) for t in row[role]) for role in ("chosen", "rejected")
    )
    identity = _id(row, domain, number)
    prompt = require_text(row, "prompt")
    return [Comparison(identity, prompt, chosen, rejected, domain, None, styles, styles)]


def _dsp(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    query = require_text(row, "query")
    responses = row.get("responses")
    if not isinstance(responses, dict) or len(responses) < 2:
        raise ValueError(f"responses must be an object of two or more, got {shown(responses)}")
    texts = {domain: require_text(responses, domain) for domain in responses}
    comparisons = []
    for domain, text in texts.items():
        others = tuple(name for name in texts if name != domain)
        sides = (text,), tuple(texts[name] for name in others)
        identity = _id(row, domain, number)
        comparisons.append(Comparison(identity, query, *sides, domain, None, (domain,), others))
    return comparisons


def _rewardbench_2(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    chosen, rejected = (_texts(row, role) for role in ("chosen", "rejected"))
    if row.get("num_correct", len(chosen)) != len(chosen):
        raise ValueError(f"num_correct is {shown(row['num_correct'])}, and {len(chosen)} chosen")
    subset = require_text(row, "subset")
    prompt = require_text(row, "prompt")
    identity = _id(row, subset, number)
    if subset == TIES and not re.fullmatch(r"(ref|tied):.+", identity.removeprefix(f"{TIES}/")):
        raise ValueError(f"id of {TIES} must be ref:NUMBER or tied:NUMBER, got {shown(row['id'])}")
    return [Comparison(identity, prompt, chosen, rejected, subset, benchmark="rewardbench-2")]


def _texts(row: dict[str, Any], field: str) -> tuple[str, ...]:
    texts = row.get(field)
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{field} must be a list of responses, got {shown(texts)}")
    return tuple(require_text({field: text}, field) for text in texts)


def _rmgap(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    domain = require_text(row, "domain")
    texts: dict[str, str] = {}
    for one in _objects(row, "responses"):
        key = require_text(one, "key", "responses: ")
        if key in texts:
            raise ValueError(f"responses: the key {key!r} is there twice")
        texts[key] = require_text(one, "text", "responses: ")
    comparisons = []
    identity = _id(row, domain, number)
    for g, group in enumerate(_objects(row, "prompt_groups")):
        winner = require_text(group, "winner", "prompt_groups: ")
        if winner not in texts:
            raise ValueError(f"prompt_groups: no response has the key {winner!r}")
        others = tuple(sorted(texts.keys() - {winner}))
        sides = (texts[winner],), tuple(texts[key] for key in others)
        for p, prompt in enumerate(_objects(group, "prompts")):
            comparisons.append(
                Comparison(
                    f"{identity}/{g}/{p}",
                    require_text(prompt, "text", "prompts: "),
                    *sides,
                    domain,
                    chosen_styles=(winner,),
                    rejected_styles=others,
                    benchmark="rmgap",
                    group=identity,
                )
            )
    return comparisons


def _objects(row: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = row.get(field)
    if not isinstance(found, list) or not found or not all(isinstance(x, dict) for x in found):
        raise ValueError(f"{field} must be a list of objects, got {shown(found)}")
    return found


def _llmbar(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    if row.get("label") not in (1, 2):
        raise ValueError(f"label must be 1 or 2, got {shown(row.get('label'))}")
    chosen, rejected = (
        (require_text(row, f"output_{n}"),) for n in (row["label"], 3 - row["label"])
    )
    prompt = require_text(row, "input")
    return [Comparison(_id(row, stem, number), prompt, chosen, rejected, stem)]


def _gsm8k(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    marked: dict[bool, list[str]] = {True: [], False: []}
    for name, solution in row.items():
        if isinstance(solution, dict):
            if not isinstance(solution.get("is_correct"), bool):
                raise ValueError(f"{name}: is_correct must be true or false")
            marked[solution["is_correct"]].append(require_text(solution, "solution"))
    sides = tuple(marked[True]), tuple(marked[False])
    question = require_text(row, "question")
    if not any(sides):
        raise ValueError("no marked solution")
    if not all(sides):
        raise _NoPair(f"no pair: every solution is {'right' if sides[0] else 'wrong'}")
    return [Comparison(_id(row, stem, number), question, *sides, stem)]


FORMATS: dict[str, _Reader] = {
    "rm-bench": _rm_bench,
    "rewardbench": partial(_pair, required=("prompt", "subset", "id")),
    "rewardbench-2": _rewardbench_2,
    "dsp": _dsp,
    "llmbar": _llmbar,
    "gsm8k": _gsm8k,
    "rmgap": _rmgap,
    "hh-rlhf": _hh_rlhf,
    "jsonl": _pair,
}
"""Reader of each format's rows, see `guess_format`."""


def _conversation(row: dict[str, Any], field: str, role: str) -> list[Message]:
    """Read a field as messages; plain text is one message of `role`."""
    messages = row.get(field)
    if not isinstance(messages, list):
        return [{"role": role, "content": require_text(row, field)}]
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{field} must be text or a list of messages, got {shown(messages)}")
    return [
        {part: require_text(message, part, f"{field}: ") for part in ("role", "content")}
        for message in messages
    ]


def _id(row: dict[str, Any], subset: str, number: int) -> str:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise ValueError(f"id must be text or a whole number, got {shown(value)}")
    return f"{subset}/{number if value in (None, '') else value}"
