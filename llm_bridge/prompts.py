"""From a prompt and a response to token ids, and the questions that are put to a model acting as a judge.

The response begins where the prompt's ids end. Texts are tokenised each by itself, so no token spans the join; in a
chat template the prompt's ids must be a prefix of the whole's, or the pair is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llm_bridge.model import encode, first_line

__all__ = ["PAIRWISE", "POINTWISE", "VERIFIER", "Prompt", "Question", "as_text", "split_text", "split_turn"]

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or a conversation: messages with ``role`` and ``content``."""


def split_text(
    tokenizer: Any, prompt: str, response: str, names: tuple[str, str] = ("prompt", "response")
) -> tuple[list[int], list[int]]:
    """Ids of two texts: the prompt's with the special tokens that go before a text, the response's with none."""
    return _encode(tokenizer, prompt, names[0], first=True), _encode(tokenizer, response, names[1])


def split_turn(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], response: str, name: str = "prompt with response"
) -> tuple[list[int], list[int]]:
    """Ids of the conversation with the generation prompt, and those that it has more with the assistant's turn."""
    render = partial(tokenizer.apply_chat_template, tokenize=True, return_dict=True)
    try:
        before = list(render(list(messages), add_generation_prompt=True)["input_ids"])
        whole = list(render([*messages, {"role": "assistant", "content": response}])["input_ids"])
    except Exception as error:  # templates raise what they like
        raise ValueError(f"{name}: the chat template refuses them ({first_line(error)})") from None
    part = next((k for k, a in enumerate(before) if whole[k : k + 1] != [a]), len(before))
    if part < len(before):
        one, two = (f"{tokenizer.decode(ids[part : part + 4])!r} {ids[part : part + 4]}" for ids in (before, whole))
        where = f"from token {part} on: the prompt alone has {one}, with the response {two}"
        raise ValueError(f"{name}: the chat template rewrites the prompt {where}; score_ids takes any split")
    return before, whole[part:]


def _encode(tokenizer: Any, text: str, name: str, *, first: bool = False) -> list[int]:
    """Ids of the text; of the `first` one with the special tokens that are put before a text, not those after it."""
    try:
        plain = encode(tokenizer, text, special_tokens=False)
        whole = encode(tokenizer, text) if first else plain
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not plain:
        return whole[:1] if whole[:1] == [tokenizer.bos_token_id] else []
    starts = range(len(whole) - len(plain) + 1)
    return next((whole[: k + len(plain)] for k in starts if whole[k : k + len(plain)] == plain), whole)


def as_text(prompt: Prompt, system: str | None = None) -> str:
    """A conversation in one text: of several messages, each begins with its role; a system prompt goes before all."""
    if not isinstance(prompt, str):
        lines = [f"{message['role']}: {message['content']}" for message in prompt]
        prompt = str(prompt[0]["content"]) if len(prompt) == 1 else "\n\n".join(lines)
    return prompt if system is None else f"{system}\n\n{prompt}"


@dataclass(frozen=True)
class Question:
    """What a judge is asked, and the answers it chooses from, each told from the others by a token."""

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
    "Rate the quality of the answer on a scale from 1 (very poor) to 5 (excellent). Reply with the number only.",
    ("1", "2", "3", "4", "5"),
)

PAIRWISE = Question(
    "Below are a question and two answers to it.\n\n[Question]\n{prompt}\n\n[Answer A]\n{first}\n\n"
    "[Answer B]\n{second}\n\nWhich answer is better? Reply with one letter, A or B.",
    ("A", "B"),
)
