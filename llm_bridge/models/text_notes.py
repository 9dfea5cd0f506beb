"""Notes on texts that a model reads otherwise than they are written: each kind once, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = ["TextNotes"]


class TextNotes:
    """Sentences about texts, each with the number of texts it is true of and its first example.

    A text that comes again is counted once.

    Example:
        >>> notes = TextNotes()
        >>> for text in ("Ann", "Bob", "Ann"):
        ...     notes.add("the tokenizer changes case", text, f"{text!r}")
        >>> notes.sentences()
        ("the tokenizer changes case (2 texts, the first: 'Ann')",)

    """

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._texts: dict[str, set[str]] = {}

    def add(self, sentence: str, text: object = None, example: str = "") -> None:
        """Note a sentence, of a text or (with `None`) of all of them."""
        self._first.setdefault(sentence, example)
        texts = self._texts.setdefault(sentence, set())
        if text is not None:
            texts.add(hashlib.sha256(repr(text).encode()).hexdigest()[:16])

    def as_dict(self) -> dict[str, Any]:
        """Return all that was noted, for a run that is stopped and goes on.

        Example:
            >>> notes, again = TextNotes(), TextNotes()
            >>> notes.add("the tokenizer changes case", "Ann", "'Ann'")
            >>> again.restore(notes.as_dict())
            >>> again.add("the tokenizer changes case", "Ann", "'Ann'")
            >>> again.sentences()
            ("the tokenizer changes case (1 text, the first: 'Ann')",)

        """
        return {
            sentence: {"example": example, "texts": sorted(self._texts[sentence])}
            for sentence, example in self._first.items()
        }

    def restore(self, noted: Mapping[str, Any]) -> None:
        """Note again what `as_dict` returned."""
        for sentence, found in noted.items():
            self._first.setdefault(sentence, str(found["example"]))
            self._texts.setdefault(sentence, set()).update(map(str, found["texts"]))

    def sentences(self) -> tuple[str, ...]:
        """Return all that was noted, in the order in which it was first found."""
        return tuple(
            sentence
            if not self._texts[sentence]
            else f"{sentence} ({_counted(len(self._texts[sentence]))}, the first: {example})"
            for sentence, example in self._first.items()
        )


def _counted(n: int) -> str:
    return f"{n:,} text{'s' if n > 1 else ''}"
