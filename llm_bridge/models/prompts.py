"""Turn a prompt and a response into token ids, and state the questions that a judge is asked.

Prompt and response are tokenised separately, so that no token spans the join. In a chat template
the ids of the prompt must begin those of the whole conversation, or the pair is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llm_bridge.models.calls import first_line
from llm_bridge.models.load import encode

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
    """Encode a prompt: a text after its leading special tokens, or a chat with generation prompt.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        prompt: text or conversation.
        name: what an error calls the prompt.

    Raises:
        ValueError: the tokenizer or its chat template refuses the prompt.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> prompt_ids(letter_lm(4).tokenizer, "cab")
        [2, 0, 1]

    """
    if not isinstance(prompt, str):
        return _render(tokenizer, list(prompt), name, add_generation_prompt=True)
    plain = _encode(tokenizer, prompt, name)
    whole = _encode(tokenizer, prompt, name, special_tokens=True)
    if not plain:
        return whole[:1] if whole[:1] == [tokenizer.bos_token_id] else []
    # a tokenizer may put special tokens after the text: they do not belong before a response
    ends = range(len(plain), len(whole) + 1)
    return next((whole[:k] for k in ends if whole[k - len(plain) : k] == plain), whole)


def response_ids(
    tokenizer: Any, prompt: Prompt, before: Sequence[int], response: str, name: str = "response"
) -> list[int]:
    """Encode a response: a text alone, or all that an assistant's turn adds to a conversation.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        prompt: text or conversation.
        before: ids of the prompt, see `prompt_ids`.
        response: text of the response.
        name: what an error calls the response.

    Raises:
        ValueError: the chat template changes the prompt's ids once there is a response, or refuses
            the conversation.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> response_ids(letter_lm(4).tokenizer, "cab", [2, 0, 1], "dd")
        [3, 3]

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
        found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        return list(found["input_ids"])
    except Exception as error:  # a template can raise anything
        raise ValueError(f"{name}: the chat template refuses it ({first_line(error)})") from None


def as_text(prompt: Prompt, system: str | None = None, separator: str = "\n\n") -> str:
    r"""Write a prompt as one text: a system prompt first, and roles where there are several turns.

    Example:
        >>> as_text([{"role": "user", "content": "Why?"}], system="Be brief.")
        'Be brief.\n\nWhy?'
        >>> as_text([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        'user: Hi\n\nassistant: Hello'

    """
    if not isinstance(prompt, str):
        lines = [f"{message['role']}: {message['content']}" for message in prompt]
        prompt = str(prompt[0]["content"]) if len(prompt) == 1 else "\n\n".join(lines)
    return prompt if system is None else f"{system}{separator}{prompt}"


@dataclass(frozen=True)
class Question:
    """A question to a judge and its possible answers, which differ in one token each."""

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
"""A rating of one response from 1 to 5."""

PAIRWISE = Question(
    "Below are a question and two answers to it.\n\n[Question]\n{prompt}\n\n[Answer A]\n{first}\n\n"
    "[Answer B]\n{second}\n\nWhich answer is better? Reply with one letter, A or B.",
    ("A", "B"),
)
"""A choice between two responses, asked in both orders."""
