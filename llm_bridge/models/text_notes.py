"""Notes on texts that a model reads otherwise than they are written: each kind once, counted."""

from __future__ import annotations

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
        self._texts: dict[str, set[int]] = {}

    def add(self, sentence: str, text: object = None, example: str = "") -> None:
        """Note a sentence, of a text or (with `None`) of all of them."""
        self._first.setdefault(sentence, example)
        texts = self._texts.setdefault(sentence, set())
        if text is not None:
            texts.add(hash(text))

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
