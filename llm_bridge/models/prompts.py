"""From a prompt and a response to token ids, and the questions that are put to a model acting as a
judge.

The response begins where the prompt's ids end. Texts are tokenised each by itself, so no token
spans the join; in a chat template the prompt's ids must be a prefix of the whole's, or the pair is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llm_bridge.models.load import encode, first_line

__all__ = [
    "PAIRWISE",
    "POINTWISE",
    "VERIFIER",
    "Prompt",
    "Question",
    "as_text",
    "prompt_ids",
    "response_ids",
]

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or a conversation: messages with ``role`` and ``content``."""


def prompt_ids(tokenizer: Any, prompt: Prompt, name: str = "prompt") -> list[int]:
    """Ids of a text with the special tokens that go before one, or of a conversation with its
    generation prompt.
    """
    if not isinstance(prompt, str):
        return _render(tokenizer, list(prompt), name, add_generation_prompt=True)
    plain, whole = (
        _encode(tokenizer, prompt, name),
        _encode(tokenizer, prompt, name, special_tokens=True),
    )
    if not plain:
        return whole[:1] if whole[:1] == [tokenizer.bos_token_id] else []
    # special tokens that the tokenizer puts after a text do not go before a response
    starts = range(len(whole) - len(plain) + 1)
    return next(
        (whole[: k + len(plain)] for k in starts if whole[k : k + len(plain)] == plain), whole
    )


def response_ids(
    tokenizer: Any, prompt: Prompt, before: Sequence[int], response: str, name: str = "response"
) -> list[int]:
    """Ids of a response after those of its prompt: of the text alone, or all that the assistant's
    turn adds to them.
    """
    if isinstance(prompt, str):
        return _encode(tokenizer, response, name)
    whole = _render(tokenizer, [*prompt, {"role": "assistant", "content": response}], name)
    part = next((k for k, a in enumerate(before) if whole[k : k + 1] != [a]), len(before))
    if part < len(before):
        tails = (list(ids)[part : part + 4] for ids in (before, whole))
        one, two = (f"{tokenizer.decode(ids)!r} {ids}" for ids in tails)
        where = f"from token {part} on: the prompt alone has {one}, with the response {two}"
        raise ValueError(
            f"{name}: the chat template rewrites the prompt {where}; score_ids takes any split"
        )
    return whole[part:]


def _encode(tokenizer: Any, text: str, name: str, *, special_tokens: bool = False) -> list[int]:
    try:
        return encode(tokenizer, text, special_tokens=special_tokens)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _render(tokenizer: Any, messages: list[Any], name: str, **options: Any) -> list[int]:
    try:
        return list(
            tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)[
                "input_ids"
            ]
        )
    except Exception as error:  # templates raise what they like
        raise ValueError(f"{name}: the chat template refuses it ({first_line(error)})") from None


def as_text(prompt: Prompt, system: str | None = None, separator: str = "\n\n") -> str:
    """A conversation in one text: of several messages, each begins with its role; a system prompt
    goes before all.
    """
    if not isinstance(prompt, str):
        lines = [f"{message['role']}: {message['content']}" for message in prompt]
        prompt = str(prompt[0]["content"]) if len(prompt) == 1 else "\n\n".join(lines)
    return prompt if system is None else f"{system}{separator}{prompt}"


@dataclass(frozen=True)
class Question:
    """What a judge is asked, and the answers it chooses from, each told from the others by a
    token.
    """

    text: str
    answers: tuple[str, ...]


VERIFIER = Question(
    "Below are a question and an answer to it.\n\n[Question]\n{prompt}\n\n[Answer]\n{response}\n\n"
    "Is the answer correct and helpful? Reply with one word, Yes or No.",
    ("Yes", "No"),
)
"""The generative reward model: ``log π(Yes)``, wording after GenRM (arXiv 2408.15240)."""

POINTWISE = Question(
    "Below are a question and an answer to it.\n\n[Question]\n{prompt}\n\n[Answer]\n{response}\n\n"
    "Rate the quality of the answer on a scale from 1 (very poor) to 5 (excellent). Reply with the "
    "number only.",
    ("1", "2", "3", "4", "5"),
)

PAIRWISE = Question(
    "Below are a question and two answers to it.\n\n[Question]\n{prompt}\n\n[Answer A]\n{first}\n\n"
    "[Answer B]\n{second}\n\nWhich answer is better? Reply with one letter, A or B.",
    ("A", "B"),
)
