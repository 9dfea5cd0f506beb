"""Turn a prompt and a response into token ids, and state the questions that a judge is asked.

The one place where prompts become token ids, for all that reads, samples or trains a model. How a
text becomes ids is `llm_bridge.models.text`, how a conversation becomes a text
`llm_bridge.models.chat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from llm_bridge.models.chat import content, prompt_text, turn_text
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompt_format import Prompt
from llm_bridge.models.text import encode_joined, encode_text, find_special_tokens, spell

__all__ = [
    "PAIRWISE",
    "POINTWISE",
    "VERIFIER",
    "Prompt",
    "Question",
    "as_prompt",
    "as_text",
    "decode_answer",
    "encode_answer",
    "encode_pair",
    "encode_prompt",
    "is_prompt",
]


def encode_prompt(lm: CausalLM, prompt: Prompt, horizon: int, name: str = "") -> list[int]:
    """Encode a prompt: a text after its leading special tokens, or a chat with generation prompt.

    Args:
        lm: the model; see `llm_bridge.models.text` and `llm_bridge.models.chat` for what is noted.
        prompt: text or conversation. The empty text is the special tokens that the tokenizer begins
            a text with, where there are some.
        horizon: number of tokens `H` that will be read after it: the model sees all of them but the
            last.
        name: what an error calls the prompt; the prompt itself where it is left out.

    Raises:
        ValueError: the prompt has no token, cannot be written in the vocabulary, is changed by the
            chat template, or leaves no room for `horizon` tokens.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_prompt(letter_lm(4), "cab", horizon=2)
        [2, 0, 1]
        >>> encode_prompt(letter_lm(4), "", horizon=2)
        Traceback (most recent call last):
        ValueError: prompt='': must not be empty: letters begins a text with no token of ...

    """
    name = name or f"prompt={_shown(prompt)}"
    _require_tokenizer(lm)
    if isinstance(prompt, str):
        find_special_tokens(lm, prompt)
        ids = encode_text(lm, prompt, name=name)
    elif not prompt:
        raise ValueError(f"{name}: must not be empty; give at least one message")
    else:
        ids = encode_text(lm, prompt_text(lm, prompt, name), special=False, name=name)
    if not ids:
        lacks = f"must not be empty: {lm.name} begins a text with no token of its own"
        if prompt:
            lacks = f"has no token in {lm.name}"
        raise ValueError(f"{name}: {lacks}; give a text that has one")
    if max(ids) >= lm.vocab_size:
        raise ValueError(
            f"{name}: token {max(ids)} has no logit in {lm.name} (V={lm.vocab_size}); use symbols "
            f"of {lm.name}'s vocabulary"
        )
    positions = len(ids) + horizon - 1
    if lm.context is not None and positions > lm.context:
        raise ValueError(
            f"{name}: {len(ids)} tokens and horizon={horizon} need {positions} positions, "
            f"{lm.name} has {lm.context}; use a shorter prompt or horizon"
        )
    return ids


def encode_pair(
    lm: CausalLM,
    prompt: Prompt,
    response: str,
    names: tuple[str, str] = ("prompt", "response"),
) -> tuple[list[int], list[int]]:
    """Encode a prompt and the response to it.

    Args:
        lm: the model, whose `format` says how the two are joined.
        prompt: text or conversation.
        response: text; after a conversation the content of the assistant's turn.
        names: what an error calls the two.

    Returns:
        Ids of the prompt, as `encode_prompt` has them (of a plain text where no token spans its
        end), and of the response: the text, or all that the chat template adds for the assistant's
        turn.

    Raises:
        ValueError: the ids would not spell both texts, see `llm_bridge.models.text` and
            `llm_bridge.models.chat`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_pair(letter_lm(4), "cab", "dd")
        ([2, 0, 1], [3, 3])

    """
    _require_tokenizer(lm)
    if isinstance(prompt, str):
        for text in (prompt, response):
            find_special_tokens(lm, text)
        return encode_joined(lm, prompt, response, names=names)
    texts = turn_text(lm, prompt, response, names)
    return encode_joined(lm, *texts, special=False, keep=True, names=names)


def encode_answer(lm: CausalLM, prompt: Prompt, answer: str, name: str = "answer") -> list[int]:
    """Encode what a model writes after a prompt: a text, and nothing that a chat template adds.

    Args:
        lm: the model.
        prompt: text or conversation.
        answer: text.
        name: what an error calls the answer.

    Raises:
        ValueError: as `encode_pair`, or no tokens after those of the prompt spell the answer.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_answer(letter_lm(4), "cab", "dd")
        [3, 3]

    """
    _require_tokenizer(lm)
    plain = isinstance(prompt, str)
    text = prompt if isinstance(prompt, str) else prompt_text(lm, prompt)
    names = ("prompt", name)
    before, ids = encode_joined(lm, text, answer, special=plain, keep=True, names=names)
    if before != encode_text(lm, text, special=plain):
        raise ValueError(
            f"{name}: {answer!r} shares a token with the prompt {_shown(prompt)} in {lm.name}; "
            "tokenise them apart (join=apart)"
        )
    return ids


def decode_answer(lm: CausalLM, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of a response where it stands: tokenizers write the first word of a text
    otherwise than one after others.

    Args:
        lm: the model.
        prompt_ids: ids of the prompt.
        ids: ids of the response.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> decode_answer(letter_lm(4), [2, 0, 1], [3, 3])
        'dd'

    """
    _require_tokenizer(lm)
    start, whole = (spell(lm.tokenizer, each) for each in (prompt_ids, [*prompt_ids, *ids]))
    return whole[len(start) :] if whole.startswith(start) else spell(lm.tokenizer, ids)


def is_prompt(given: Any) -> TypeGuard[Prompt]:
    """Return whether something is a text or a conversation, and not token ids already.

    Example:
        >>> is_prompt("5 7"), is_prompt([{"role": "user", "content": "5 7"}]), is_prompt([5, 7])
        (True, True, False)

    """
    return isinstance(given, str) or bool(len(given) and isinstance(given[0], Mapping))


def _require_tokenizer(lm: CausalLM) -> None:
    if lm.tokenizer is None:
        raise ValueError(f"{lm.name} was given without a tokenizer; use score_ids")


def _shown(prompt: Prompt) -> str:
    text = repr(prompt)
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"


def as_prompt(
    prompt: Prompt, *, chat: bool, system: str | None = None, separator: str = "\n\n"
) -> Prompt:
    r"""Put a system prompt before a prompt, and a text into the user's turn of a conversation.

    Args:
        prompt: text or messages.
        chat: whether the prompt becomes messages; else it becomes a text.
        system: replaces the system message of the prompt; empty to leave it out, `None` to keep it.
        separator: between system prompt and prompt in plain text.

    Raises:
        ValueError: plain text is asked for, and the prompt has several messages.

    Example:
        >>> as_prompt("Why?", chat=True, system="Be brief.")
        [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Why?'}]
        >>> as_prompt([{"role": "user", "content": "Why?"}], chat=False, system="Be brief.")
        'Be brief.\n\nWhy?'

    """
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is not None:
        turns = [message for message in turns if message["role"] != "system"]
        turns = [{"role": "system", "content": system}, *turns] if system else turns
    if chat:
        return turns
    own = content(turns.pop(0)) if turns and turns[0]["role"] == "system" else None
    if len(turns) != 1:
        raise ValueError(
            f"prompt: {len(turns)} messages, and the model is given plain text: a chat template "
            "is needed"
        )
    return as_text(content(turns[0]), own, separator)


def as_text(prompt: Prompt, system: str | None = None, separator: str = "\n\n") -> str:
    r"""Write a prompt as one text: a system prompt first, and roles where there are several turns.

    Example:
        >>> as_text([{"role": "user", "content": "Why?"}], system="Be brief.")
        'Be brief.\n\nWhy?'
        >>> as_text([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        'user: Hi\n\nassistant: Hello'

    """
    if not isinstance(prompt, str):
        lines = [f"{message['role']}: {content(message)}" for message in prompt]
        prompt = content(prompt[0]) if len(prompt) == 1 else "\n\n".join(lines)
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
