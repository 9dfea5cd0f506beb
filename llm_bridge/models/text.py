r"""Turn text into token ids that spell it, and cut them where a response begins.

Prompt and response are tokenised as the one text that they are, since a model that writes the
response never saw them apart::

    text      Once upon a time, there was a little| girl
    tokens    <s> ▁Once ▁up … ▁a ▁l itt le        | ▁g ir l

Of the special tokens that a tokenizer puts around a text, those before it stay and those after it
go: nothing ends where a response begins. A token that spans the cut belongs to the response, so
that all of the response is scored; the prompt then ends before it. In a chat the ids of the prompt
are kept, as a model writes after them, and the response is tokenised apart.

The decoded ids must be the text. Where a tokenizer reads another text by design (lower case,
Unicode's normal forms, white space) that is noted; anything else is refused. A special token that
a text writes itself is noted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from llm_bridge.models.calls import first_line
from llm_bridge.models.load import CausalLM

__all__ = ["encode_joined", "encode_text", "find_special_tokens", "spell"]


def encode_text(lm: CausalLM, text: str, *, special: bool = True, name: str = "text") -> list[int]:
    """Encode a text.

    Args:
        lm: has the tokenizer; its notes are added to.
        text: any text.
        special: begin with the special tokens that the tokenizer puts before a text.
        name: what an error calls the text.

    Raises:
        ValueError: the ids would spell another text; names the property of the tokenizer.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_text(letter_lm(4), "cab")
        [2, 0, 1]
        >>> encode_text(letter_lm(4), "cat", name="prompt")
        Traceback (most recent call last):
        ValueError: prompt: the vocabulary of letters has nothing for 't'; ...

    """
    read = _read(lm, text, special, name)
    return read.before + read.ids


def encode_joined(
    lm: CausalLM,
    prompt: str,
    response: str,
    *,
    special: bool = True,
    keep: bool = False,
    names: tuple[str, str] = ("prompt", "response"),
) -> tuple[list[int], list[int]]:
    """Encode a prompt and the response that follows it, as `lm.format.join` says.

    Args:
        lm: has tokenizer and format; its notes are added to.
        prompt: any text.
        response: what follows it.
        special: begin with the special tokens that the tokenizer puts before a text.
        keep: keep the ids that the prompt has alone. Where the two as one text have others, the
            response is tokenised after them, if its ids then spell it.
        names: what an error calls the two.

    Returns:
        Ids of the prompt, which depend on the response where a token spans the cut, and of the
        response. Together they are `encode_text` of both, or spell the same.

    Raises:
        ValueError: the ids would spell another text, or no token of the prompt ends before the
            response begins.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_joined(letter_lm(4), "cab", "dd")
        ([2, 0, 1], [3, 3])

    """
    for text, name in zip((prompt, response), names, strict=True):
        _require_unicode(text, name)
    if lm.format.join == "apart":
        before = encode_text(lm, prompt, special=special, name=names[0])
        return before, encode_text(lm, response, special=False, name=names[1])
    name = f"{names[0]} and {names[1]}"
    read = _read(lm, prompt + response, special, name)
    cut, spelled = _cut(lm, read, prompt, response, name)
    if keep:
        kept = encode_text(lm, prompt, special=special, name=names[0])
        if kept != read.before + read.ids[: cut.tokens]:
            after = _after(lm, kept[len(read.before) :], response, read)
            if after is not None:
                lm.text_notes.add(
                    "the response is tokenised apart at the end of the prompt, as a model writes "
                    "it",
                    (prompt, response),
                    repr(prompt[-12:] + response[:12]),
                )
                return kept, after
    if spelled < cut.characters:  # a token begins in the prompt and ends in the response
        token = lm.tokenizer.convert_ids_to_tokens(read.ids[cut.tokens])
        lm.text_notes.add(
            "a token spans the end of the prompt, and is scored with the response",
            (prompt, response),
            f"{token!r} in {(prompt[-12:] + response[:12])!r}",
        )
        if not cut.tokens and not read.before:
            raise ValueError(
                f"{names[0]}: its only token {token!r} goes on into the response in {lm.name}; "
                "tokenise them apart (join=apart)"
            )
    return read.before + read.ids[: cut.tokens], read.ids[cut.tokens :]


def find_special_tokens(lm: CausalLM, text: str) -> list[str]:
    """Return the special tokens that a text writes itself, and note that it does.

    Args:
        lm: has the tokenizer; its notes are added to.
        text: as it was given, not as a chat template renders it.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> find_special_tokens(letter_lm(4), "cab")
        []

    """
    tokenizer = lm.tokenizer
    if getattr(tokenizer, "split_special_tokens", False):  # it reads them as any other text
        return []
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    known = {str(token.content) for token in added if token.special}
    known |= set(getattr(tokenizer, "all_special_tokens", ()))
    found = sorted(token for token in known if token and token in text)
    if found:
        at = min(map(text.find, found))
        lm.text_notes.add(
            "a text writes special tokens itself", text, repr(text[max(0, at - 12) : at + 20])
        )
    return found


def spell(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode ids as they are: special tokens are written, and no space is cleaned up.

    Example:
        >>> from llm_bridge.models.cloned import letter_tokenizer
        >>> spell(letter_tokenizer(4), [2, 0, 1])
        'cab'

    """
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


class _Read(NamedTuple):
    """A text as a tokenizer reads it.

    Attributes:
        before: ids of the special tokens before the text.
        ids: ids of the text.
        text: what they spell.
        spell: gives the text of some of the ids, from the first on.

    """

    before: list[int]
    ids: list[int]
    text: str
    spell: Callable[[Sequence[int]], str]


class _Cut(NamedTuple):
    """Where a prompt ends, in tokens and in characters of the text that they spell."""

    tokens: int
    characters: int


def _read(lm: CausalLM, text: str, special: bool, name: str) -> _Read:
    """Tokenise a text, and require that the tokens spell it."""
    _require_unicode(text, name)
    before, ids = _tokenise(lm, text, special, name)
    ways = [partial(way, lm.tokenizer) for way in (spell, _spell_segments)]
    for way in ways:
        if (spelled := way(ids)) == text:
            return _Read(before, ids, spelled, way)
    given, found = _changed(text, ways[0](ids))
    if given:
        what = f"reads {given[:20]!r} as {found[:20]!r}" if found else f"drops {given[:20]!r}"
        raise ValueError(
            f"{name}: the tokenizer of {lm.name} {what}; take it out, or give token ids (score_ids)"
        )
    for way in ways:
        spelled = way(ids)
        try:
            again = _tokenise(lm, spelled, False, name)[1]
        except ValueError:
            continue
        if again == ids:
            given, found = _difference(text, spelled)
            lm.text_notes.add(
                "the tokenizer changes what it reads", text, f"{given!r} is read as {found!r}"
            )
            return _Read(before, ids, spelled, way)
    given, found = _difference(text, ways[0](ids))
    raise ValueError(
        f"{name}: the tokens of {lm.name} spell {found!r} in place of {given!r}, and not only by "
        "its tokenizer's normalisation; give token ids (score_ids)"
    )


def _require_unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise ValueError(
            f"{name}: character {error.start} is the lone surrogate {character!r}, which no "
            "encoding has; take it out"
        ) from None


# --- Tokens of a text -----------------------------------------------------------------------------


def _tokenise(lm: CausalLM, text: str, special: bool, name: str) -> tuple[list[int], list[int]]:
    """Ids of the special tokens before a text, and ids of the text."""
    tokenizer = lm.tokenizer
    offsets: list[tuple[int, int]] | None = None
    options = {"add_special_tokens": False}
    if tokenizer.is_fast:
        marks = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
        options = {"add_special_tokens": special} | marks
    try:
        found = tokenizer(text, **options)
    except Exception as error:  # tokenizers raise a bare Exception for a word without an id
        ids = _longest_tokens(lm, text, name, error)
        before = _specials_before(tokenizer, text, ids) if special else []
    else:
        ids = [int(i) for i in found["input_ids"]]
        if not tokenizer.is_fast:
            before = _specials_before(tokenizer, text, ids) if special else []
        else:
            offsets = found["offset_mapping"]
            mask = found["special_tokens_mask"]
            start = sum(1 for _ in takewhile(bool, mask))
            stop = len(mask) - sum(1 for _ in takewhile(bool, reversed(mask)))
            # where no token is of the text, none tells what is before it from what is after it
            alone = start == len(ids) > 0
            before = _specials_before(tokenizer, text, []) if alone else ids[:start]
            ids = ids[start:stop]
            offsets = offsets[start:stop]
            before = before if special else []
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids and tokenizer.unk_token not in text:
        where = "" if offsets is None else _at(text, offsets[ids.index(unknown)])
        raise ValueError(
            f"{name}: the vocabulary of {lm.name} has nothing for {where or 'parts of it'}: they "
            "would be unknown tokens; take them out, or use another model"
        )
    return before, ids


def _at(text: str, offset: tuple[int, int]) -> str:
    return repr(text[slice(*offset)]) if text[slice(*offset)] else ""


def _specials_before(tokenizer: Any, text: str, ids: Sequence[int]) -> list[int]:
    """Ids of the special tokens that a tokenizer puts before a text of these ids."""
    if hasattr(tokenizer, "build_inputs_with_special_tokens"):
        found = list(tokenizer.build_inputs_with_special_tokens([-1]))
        return [int(i) for i in found[: found.index(-1)]]
    if not tokenizer.is_fast:
        whole = [int(i) for i in tokenizer(text)["input_ids"]]
        starts = range(len(whole) - len(ids) + 1)
        return whole[: next((k for k in starts if whole[k : k + len(ids)] == list(ids)), 0)]
    # the vocabulary has a text that is a token: what stands before it
    for name in sorted(tokenizer.get_vocab(), key=len):
        try:
            found = tokenizer(name, return_special_tokens_mask=True)
        except Exception:  # no text of its own; the next one may be
            continue
        if not all(found["special_tokens_mask"]):
            start = sum(1 for _ in takewhile(bool, found["special_tokens_mask"]))
            return [int(i) for i in found["input_ids"][:start]]
    return []


def _longest_tokens(lm: CausalLM, text: str, name: str, error: Exception) -> list[int]:
    """Ids of the longest tokens that spell a text, for a tokenizer that has a vocabulary of whole
    words and no rule to find words: it looks up the text itself, and raises.

    Raises:
        ValueError: it is no such tokenizer, or the vocabulary cannot write the text.

    """
    backend = getattr(lm.tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "WordLevel":
        raise ValueError(f"{name}: {lm.name} cannot encode it ({first_line(error)})") from None
    remedy = "write it with the vocabulary's symbols, or give token ids (score_ids)"
    vocabulary = lm.tokenizer.get_vocab()
    splitter = getattr(backend, "pre_tokenizer", None)
    pieces = [text] if splitter is None else [p for p, _ in splitter.pre_tokenize_str(text)]
    if pieces != [text]:
        unknown = next((piece for piece in pieces if piece not in vocabulary), text)
        raise ValueError(
            f"{name}: the vocabulary of {lm.name} has nothing for {unknown!r}; {remedy}"
        ) from None
    names = sorted(vocabulary, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)))
    ids: list[int] = []
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            raise ValueError(
                f"{name}: the vocabulary of {lm.name} has nothing for {text[at]!r}; {remedy}"
            ) from None
        ids.append(int(vocabulary[match[0]]))
        at = match.end()
    lm.text_notes.add(
        "the tokenizer has no rule to split texts, the longest tokens of its vocabulary are taken"
    )
    return ids


def _spell_segments(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode what stands between added tokens by itself, as some tokenizers encode it."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    pieces: list[str] = []
    start = 0
    for n, one in enumerate([*ids, None]):
        if one is None or one in added:
            pieces.append(spell(tokenizer, ids[start:n]) if n > start else "")
            pieces.append("" if one is None else str(added[one].content))
            start = n + 1
    return "".join(pieces)


def _changed(text: str, spelled: str) -> tuple[str, str]:
    """The first characters of `text` that are not in `spelled`, in any case or normal form, and
    what is there in their place: both empty where nothing is missing.
    """
    one = _folded(text)
    two = _folded(spelled)
    start = _common(one, two)
    stop = _common(one[start:][::-1], two[start:][::-1])
    middle = SequenceMatcher(None, one[start : len(one) - stop], two[start : len(two) - stop])
    missing = [code for code in middle.get_opcodes() if code[0] in ("delete", "replace")]
    if not missing:
        return "", ""
    _, a, b, c, d = missing[0]
    while a + start and unicodedata.combining(one[start + a]):  # an accent, with its letter
        a = a - 1
        c = c - 1
    given = [i for i, each in enumerate(text) for _ in _folded(each)][start + a : start + b]
    return text[given[0] : given[-1] + 1], two[start + c : start + d]


def _folded(text: str) -> str:
    """A text without white space, in no particular case or normal form; accents stay."""
    for _ in range(2):  # capitals can be there only in the normal form, such as those of fonts
        text = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in text if not c.isspace())


def _difference(given: str, found: str) -> tuple[str, str]:
    """The words around the first difference of two texts."""
    pairs = zip(given, found, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(given), len(found)))
    start = max(0, first - 8)
    return given[start : first + 8], found[start : first + 8]


# --- The cut --------------------------------------------------------------------------------------


def _cut(lm: CausalLM, read: _Read, prompt: str, response: str, name: str) -> tuple[_Cut, int]:
    """Where the prompt ends in the text that is spelled, and how much of it the tokens before the
    response spell.
    """
    length = len(prompt)
    if read.text != prompt + response:
        length = _normalised_length(lm, read, prompt, name)
    tokens, spelled = _tokens_up_to(read, length)
    return _Cut(tokens, length), spelled


def _normalised_length(lm: CausalLM, read: _Read, prompt: str, name: str) -> int:
    """Number of characters of a prompt as the tokenizer spells it."""
    alone = read.spell(_tokenise(lm, prompt, False, name)[1])
    if not read.text.startswith(alone):
        raise ValueError(
            f"{name}: the tokenizer of {lm.name} changes the end of the prompt where the response "
            "follows; tokenise them apart (join=apart)"
        )
    return len(alone)


def _after(lm: CausalLM, kept: list[int], response: str, read: _Read) -> list[int] | None:
    """Ids of a response after those of its prompt, such that they spell both; `None` without any.

    A text that stands alone may begin with a space of the tokenizer's own (SentencePiece); behind
    another text it does not, as long as the two do not merge.
    """
    for stem in ("", "\n", "a", "."):
        try:
            start, ids = (_tokenise(lm, text, False, "")[1] for text in (stem, stem + response))
        except ValueError:
            continue
        after = ids[len(start) :]
        if ids[: len(start)] == start and read.spell(kept + after) == read.text:
            return after
    return None


def _tokens_up_to(read: _Read, length: int) -> tuple[int, int]:
    """Number of tokens that spell at most so many characters, none of them a part of a character,
    and the number of characters that they spell.
    """
    if not length:
        return 0, 0

    def spelled(n: int) -> tuple[int, bool]:
        """Characters that `n` tokens spell, and whether they are whole: the bytes of a character
        may be several tokens.
        """
        text = read.spell(read.ids[:n])
        whole = read.text.startswith(text)
        return len(text) if whole else _common(text, read.text), whole

    # the last number of tokens that spell the prompt alone is at least `low`, which spell `below`
    # characters, and less than `top`, which spell `above`
    low = below = 0
    top = len(read.ids)
    above = len(read.text)
    if above <= length:
        low = top
    guessing = True
    while top - low > 1:
        share = (length - below) / (above - below) if guessing else 0.5  # tokens are about as long
        middle = min(max(low + int(share * (top - low)), low + 1), top - 1)
        guessing = not guessing
        characters = spelled(middle)[0]
        if characters <= length:
            low, below = middle, characters
        else:
            top, above = middle, characters
    while low:  # bytes that are not whole characters yet can spell less than before them
        characters, whole = spelled(low)
        if whole and characters <= length:
            return low, characters
        low -= 1
    return 0, 0


def _common(one: str, two: str) -> int:
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
