"""How prompts are put to a model: chat template or plain text, system prompt, tokenisation.

Needs no torch, so that commands can list these options without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeAlias

from theory.commands.options import OptionError, Options, option

__all__ = ["Join", "Message", "Prompt", "PromptFormat"]

Join = Literal["joint", "apart"]

Message: TypeAlias = Mapping[str, Any]
"""One turn: ``role`` and ``content``, a text or a list of parts ``{"type": "text", "text": …}``."""

Prompt: TypeAlias = str | Sequence[Message]
"""A text, or a conversation: messages."""


@dataclass(frozen=True)
class PromptFormat(Options):
    """Say how prompts and responses are put to a model.

    In the library a text is plain text and messages are a conversation, whatever `chat` says; a
    command makes its texts messages where `chat` is on (`llm_bridge.models.prompts.as_prompt`).

    Attributes:
        chat: put texts into the chat template as the user's turn; `None` to do so where the
            tokenizer has a template.
        system: system prompt of all prompts, instead of their own; empty for none at all.
        no_system: no system prompt, not even one that the template inserts by itself.
        chat_template: file of a template that replaces the tokenizer's own.
        join: ``"joint"`` tokenises prompt and response as the one text that they are; ``"apart"``
            each by itself.
        date: what a chat template prints as today's date, ``YYYY-MM-DD``.

    Raises:
        OptionError: a `ValueError` that names the field, its value and what to give instead.

    Example:
        >>> PromptFormat(chat=False, chat_template=Path("own.jinja"))
        Traceback (most recent call last):
        theory.commands.option.OptionError: chat and chat_template: give one of them

    """

    chat: bool | None = option(
        None,
        help="texts as the user's turn of the chat template, or as plain text",
        default_text="the template if there is one",
    )
    system: str | None = option(
        None, help="system prompt of every prompt; '' for none", metavar="TEXT|FILE"
    )
    no_system: bool = option(
        False, help="no system prompt, not even one that the chat template inserts"
    )
    chat_template: Path | None = option(None, help="instead of the tokenizer's own", metavar="FILE")
    join: Join = option("joint", help="tokenise prompt and response as one text, or each by itself")
    date: str | None = option(
        None,
        help="that a chat template prints, YYYY-MM-DD",
        default_text="today, or that of the run which is gone on with",
    )

    @property
    def without_system(self) -> bool:
        """Whether there is to be no system prompt at all."""
        return self.no_system or self.system == ""

    @property
    def own_system(self) -> str | None:
        """The system prompt in place of every prompt's own: empty for none, `None` to keep it."""
        return "" if self.without_system else self.system

    def check(self) -> None:
        """Refuse options that contradict each other, and what is no date."""
        if self.chat is False and self.chat_template is not None:
            raise OptionError("chat", "and {chat_template}: give one of them")
        if self.no_system and self.system:
            raise OptionError("no_system", "and {system}: give one of them")
        if self.date is not None and not _is_day(self.date):
            raise OptionError("date", "must be YYYY-MM-DD, such as 2026-01-31", self.date)


def _is_day(text: str) -> bool:
    try:  # ISO 8601 writes a day in other ways too
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
