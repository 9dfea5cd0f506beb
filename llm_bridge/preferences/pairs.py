"""Preference data in: published benchmarks and plain JSON lines, each row a `Comparison` or a
`Problem`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

HUB, NEWLINE = "hub:", b"\n"

__all__ = [
    "DSP_SYSTEMS",
    "FORMATS",
    "RM_BENCH_STYLES",
    "Comparison",
    "Place",
    "Problem",
    "iter_comparisons",
    "read_comparisons",
]

Message: TypeAlias = dict[str, str]
Key: TypeAlias = tuple[str, str, int]
"""A response: the comparison's id, ``"chosen"`` or ``"rejected"``, and its index there."""

RM_BENCH_STYLES = ("concise", "plain", "markdown")
"""RM-Bench's styles in its own order: concise, detailed plain text, detailed markdown."""

DSP_SYSTEMS = {
    "academy": "You are a scholar. Answer as in academic writing: precise, rigorous and well "
    "founded.",
    "business": "You are a business professional. Answer for people in business: practical and to "
    "the point.",
    "entertainment": "You are an entertainer. Answer so that people enjoy it: lively and amusing.",
    "literature": "You are a writer of literature. Answer in a literary manner: expressive and "
    "rich in images.",
}
"""System prompt of each domain of DSP, our wording; `normal`, the answers written without one, has
none.
"""


@dataclass(frozen=True)
class Place:
    """Where a row stands: a file and a line of it, or a hub data set; rows count from 0."""

    source: str
    line: int | None
    row: int

    def __str__(self) -> str:
        return (
            f"{self.source}: row {self.row}"
            if self.line is None
            else f"{self.source}:{self.line}: row {self.row}"
        )


NOWHERE = Place("(memory)", None, 0)


@dataclass(frozen=True)
class Problem:
    """A row that could not be used; as text one line, ``file:line: row N: what is wrong``.

    It is no `fault` where nothing is wrong with the row, and there is only nothing in it to
    compare.
    """

    place: Place
    message: str
    fault: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.message.split())}"


@dataclass(frozen=True)
class Comparison:
    """Responses to one prompt, of which every chosen one should score above every rejected one."""

    id: str
    prompt: str | list[Message]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str
    system: str | None = None
    chosen_styles: tuple[str, ...] = ()
    rejected_styles: tuple[str, ...] = ()
    place: Place = field(default=NOWHERE, compare=False)

    def __post_init__(self) -> None:
        if not self.chosen or not self.rejected:
            raise ValueError(
                f"{self.id}: no {'rejected' if self.chosen else 'chosen'} response; there is no "
                "pair"
            )

    @property
    def is_rm_bench(self) -> bool:
        """Whether hard, normal and easy are defined, and a tie counts as wrong, as RM-Bench
        publishes it.
        """
        return self.chosen_styles == self.rejected_styles == RM_BENCH_STYLES

    def responses(self) -> Iterator[tuple[Key, str]]:
        """Every response with the key its score goes by."""
        for role, texts in (("chosen", self.chosen), ("rejected", self.rejected)):
            for index, text in enumerate(texts):
                yield (self.id, role, index), text


def read_comparisons(
    *sources: str | Path, format: str | None = None, limit: int | None = None
) -> tuple[list[Comparison], list[Problem]]:
    """Good comparisons of one or more sources and their problems, see `iter_comparisons`; at most
    `limit` of each.

    Files of the same name are told apart by their folders; an id that two sources have in common
    all the same is a problem of the later row.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be at least 1; None for all")
    found: dict[str, Comparison] = {}
    problems = []
    names = [str(source) for source in sources]
    stems = [_stem(name) for name in names]
    for name, stem in zip(names, stems, strict=True):
        start = len(found)
        for item in _items(name, stem if stems.count(stem) == 1 else _stem(name, 1), format):
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
    source: str | Path, format: str | None = None
) -> Iterator[Comparison | Problem]:
    """Read a source row by row; a bad row yields a `Problem` and does not lose the others.

    Ids are ``subset/id``, or the row's number (from 0) where a row has none. The subset is the
    row's own or the file's name, for RM-Bench the domain (``domain``, or ``chat`` for
    ``chat_filtered.json``). DSP gives a comparison for each domain of a row, GSM8K one for each
    question solved both rightly and wrongly; others have no pair, which is a `Problem` and no
    fault.

    Args:
        source: a JSON list, or JSON lines (always, for a name ending in ``.jsonl``); or
            ``hub:NAME`` or ``hub:NAME:SPLIT`` for a data set that the package ``datasets`` loads,
            by default its only split.
        format: one of `FORMATS`; `None` to guess it from the first object, see `guess_format`.

    Raises:
        ValueError, OSError: an unknown format, none that can be guessed, or a source that cannot be
        read.
    """
    return _items(str(source), _stem(str(source)), format)


def _stem(name: str, parents: int = 0) -> str:
    """What a source is called in ids: its last part, and so many of the folders before it."""
    path = Path(name.split(":")[1]) if name.startswith(HUB) else Path(name).with_suffix("")
    return "/".join(path.parts[-1 - parents :])


def _items(name: str, stem: str, format: str | None) -> Iterator[Comparison | Problem]:
    if format is not None and format not in FORMATS:
        raise ValueError(f"format {format!r}: must be one of {', '.join(FORMATS)}")
    rows, read, wrong = _hub_rows(name) if name.startswith(HUB) else _rows(Path(name)), [], []
    try:
        for row in rows:  # up to the first good object: what is wrong with the whole file is raised here and not later
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
    return _comparisons(name, stem, chain(read, rows), FORMATS[format])


def guess_format(row: Any) -> str:
    """The format of a file from its first object, by the first rule that fits.

    `query` and `responses`: ``dsp``. `output_1` and `output_2`: ``llmbar``. `question` and a field
    that holds an object with `is_correct`: ``gsm8k``. `chosen` and `rejected`: ``rm-bench`` where
    `chosen` is a list of texts, ``rewardbench`` where `prompt`, `subset` and `id` are there too,
    ``jsonl`` otherwise. No other: ValueError.
    """
    if not isinstance(row, dict):
        raise ValueError("no JSON object to guess the format from")
    if {"query", "responses"} <= row.keys():
        return "dsp"
    if {"output_1", "output_2"} <= row.keys():
        return "llmbar"
    if "question" in row and any(
        isinstance(value, dict) and "is_correct" in value for value in row.values()
    ):
        return "gsm8k"
    if {"chosen", "rejected"} <= row.keys():
        if isinstance(row["chosen"], list) and all(isinstance(text, str) for text in row["chosen"]):
            return "rm-bench"
        return "rewardbench" if {"prompt", "subset", "id"} <= row.keys() else "jsonl"
    fields = ", ".join(list(row)[:8]) or "none"
    raise ValueError(
        f"no format has the fields of its first row ({fields}): name one of {', '.join(FORMATS)}"
    )


_Row: TypeAlias = tuple[
    int | None, Any
]  # a line and the value that begins there, or a ValueError: why there is none


def _rows(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if start[:1] == b"[" and path.suffix != ".jsonl":
            whole = file.read()
            try:
                text = whole.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"line {whole.count(NEWLINE, 0, error.start) + 1}: {error}"
                ) from None
            yield from _list_rows(text)
            return
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig").strip()
                if text:
                    yield number, json.loads(text)
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"invalid JSON: {error}")


def _hub_rows(name: str) -> Iterator[_Row]:
    _, identity, split = [*name.split(":"), ""][:3]
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "data sets of the hub need the package datasets: pip install 'endorm[data]'"
        ) from None
    try:
        loaded = datasets.load_dataset(identity, split=split or None)
    except Exception as error:  # of many kinds, by what the hub answers
        raise ValueError(f"cannot be loaded ({error}); give hub:NAME or hub:NAME:SPLIT") from None
    if not split and len(loaded) != 1:
        raise ValueError(
            f"has the splits {', '.join(loaded)}: name one, {name}:{next(iter(loaded))}"
        )
    for row in loaded if split else next(iter(loaded.values())):
        yield None, row


_COMMA, _END = re.compile(r"\s*,\s*"), re.compile(r"\s*\]\s*\Z")


def _list_rows(text: str) -> Iterator[_Row]:
    """Elements of a JSON list one by one, with the lines they begin at; where the list breaks it
    cannot go on.
    """
    decoder, line, counted = json.JSONDecoder(), 1, 0
    place = len(text) - len(text[text.index("[") + 1 :].lstrip())
    while not (counted == 0 and _END.match(text, place)):
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield line, ValueError(f"invalid JSON, nothing after it was read: {error}")
            return
        yield line, value
        comma = _COMMA.match(text, place)
        if comma is None:
            if not _END.match(text, place):
                yield (
                    line,
                    ValueError(
                        "invalid JSON: the list is broken after the row before; nothing more was "
                        "read"
                    ),
                )
            return
        place = comma.end()


_Reader: TypeAlias = Callable[
    [dict[str, Any], str, int], list[Comparison]
]  # a row, its file's stem, its number there


def _comparisons(
    source: str, stem: str, rows: Iterable[_Row], reader: _Reader
) -> Iterator[Comparison | Problem]:
    seen: set[str] = set()
    for number, (line, row) in enumerate(rows):
        place = Place(source, line, number)
        try:
            if not isinstance(row, dict):
                raise (
                    row
                    if isinstance(row, ValueError)
                    else ValueError(f"must be an object, got {_show(row)}")
                )
            comparisons = reader(row, stem, number)
            for comparison in comparisons:
                _require_characters("id", comparison.id)
                if comparison.id in seen:
                    raise ValueError(f"id {comparison.id!r} is there already")
                if not comparison.chosen_styles and set(comparison.chosen) & set(
                    comparison.rejected
                ):
                    raise ValueError("one response is both chosen and rejected")
        except ValueError as error:
            yield Problem(place, str(error), fault=not isinstance(error, _NoPair))
        else:
            seen.update(comparison.id for comparison in comparisons)
            yield from (replace(comparison, place=place) for comparison in comparisons)


def _pair(
    row: dict[str, Any], stem: str, number: int, required: Sequence[str] = ()
) -> list[Comparison]:
    missing = [name for name in required if row.get(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    subset = stem if row.get("subset") is None else _text(row, "subset")
    systems = set() if row.get("system") is None else {_text(row, "system")}
    chosen, rejected = (
        _conversation(row, "chosen", "assistant"),
        _conversation(row, "rejected", "assistant"),
    )
    prompts = [
        [] if row.get("prompt") is None else _conversation(row, "prompt", "user"),
        chosen[:-1],
        rejected[:-1],
    ]
    for messages in prompts:
        if messages and messages[0]["role"] == "system":
            systems.add(messages.pop(0)["content"])
    asked = [messages for messages in prompts if messages]
    if not asked:
        raise ValueError("prompt is missing")
    if len(systems) > 1 or any(messages != asked[0] for messages in asked):
        raise ValueError("chosen and rejected do not answer the same prompt")
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant" != asked[0][-1]["role"]:
        raise ValueError(
            "chosen and rejected must end with the assistant's message, and the prompt must not"
        )
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else asked[0]
    sides = (chosen[-1]["content"],), (rejected[-1]["content"],)
    return [Comparison(_id(row, subset, number), prompt, *sides, subset, next(iter(systems), None))]


def _rm_bench(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    styles, named = RM_BENCH_STYLES, stem.removesuffix("_filtered")
    domain = (
        _text(row, "domain")
        if row.get("domain")
        else named
        if named != stem
        else _text(row, "subset")
    )
    for role in ("chosen", "rejected"):
        if not isinstance(row.get(role), list) or len(row[role]) != len(styles):
            raise ValueError(
                f"{role} must be a list of {len(styles)} responses, got {_show(row.get(role))}"
            )
    chosen, rejected = (
        tuple(_text({role: t}, role) for t in row[role]) for role in ("chosen", "rejected")
    )
    return [
        Comparison(
            _id(row, domain, number),
            _text(row, "prompt"),
            chosen,
            rejected,
            domain,
            None,
            styles,
            styles,
        )
    ]


def _dsp(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    query, responses = _text(row, "query"), row.get("responses")
    if not isinstance(responses, dict) or len(responses) < 2:
        raise ValueError(f"responses must be an object of two or more, got {_show(responses)}")
    texts = {domain: _text(responses, domain) for domain in responses}
    comparisons = []
    for domain, text in texts.items():
        styles = (domain,), tuple(name for name in texts if name != domain)
        sides = (text,), tuple(texts[name] for name in styles[1])
        comparisons.append(
            Comparison(
                _id(row, domain, number), query, *sides, domain, DSP_SYSTEMS.get(domain), *styles
            )
        )
    return comparisons


def _llmbar(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    if row.get("label") not in (1, 2):
        raise ValueError(f"label must be 1 or 2, got {_show(row.get('label'))}")
    chosen, rejected = ((_text(row, f"output_{n}"),) for n in (row["label"], 3 - row["label"]))
    return [Comparison(_id(row, stem, number), _text(row, "input"), chosen, rejected, stem)]


def _gsm8k(row: dict[str, Any], stem: str, number: int) -> list[Comparison]:
    marked: dict[bool, list[str]] = {True: [], False: []}
    for name, solution in row.items():
        if isinstance(solution, dict):
            if not isinstance(solution.get("is_correct"), bool):
                raise ValueError(f"{name}: is_correct must be true or false")
            marked[solution["is_correct"]].append(_text(solution, "solution"))
    sides = tuple(marked[True]), tuple(marked[False])
    question = _text(row, "question")
    if not any(sides):
        raise ValueError("no marked solution")
    if not all(sides):
        raise _NoPair(f"no pair: every solution is {'right' if sides[0] else 'wrong'}")
    return [Comparison(_id(row, stem, number), question, *sides, stem)]


class _NoPair(ValueError):
    """A good row without two responses to compare."""


FORMATS: dict[str, _Reader] = {
    "rm-bench": _rm_bench,
    "rewardbench": partial(_pair, required=("prompt", "subset", "id")),
    "dsp": _dsp,
    "llmbar": _llmbar,
    "gsm8k": _gsm8k,
    "jsonl": _pair,
}


def _conversation(row: dict[str, Any], field: str, role: str) -> list[Message]:
    """A field as messages; plain text is one message of `role`."""
    messages = row.get(field)
    if not isinstance(messages, list):
        return [{"role": role, "content": _text(row, field)}]
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{field} must be text or a list of messages, got {_show(messages)}")
    return [
        {part: _text(message, part, f"{field}: ") for part in ("role", "content")}
        for message in messages
    ]


def _text(row: dict[str, Any], field: str, where: str = "") -> str:
    text = row.get(field)
    if text is None:
        raise ValueError(f"{where}{field} is missing")
    if not isinstance(text, str):
        raise ValueError(f"{where}{field} must be text, got {_show(text)}")
    if not text.strip():
        raise ValueError(f"{where}{field} is empty")
    _require_characters(f"{where}{field}", text)
    return text


def _require_characters(name: str, text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} holds half a surrogate pair, which is no text")


def _id(row: dict[str, Any], subset: str, number: int) -> str:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise ValueError(f"id must be text or a whole number, got {_show(value)}")
    return f"{subset}/{number if value in (None, '') else value}"


def _show(value: Any) -> str:
    return json.dumps(value)[:40]
