"""Write a conversation as one text, by the chat template of a tokenizer, with nothing lost.

Templates are programs: they can trim a message, drop a block of reasoning, ignore the system
prompt, insert one of their own, or print today's date. What a template does is found by rendering
*marks* in the place of the messages. The rendered text must have every message of the prompt whole;
a response that the template would change is read verbatim in its place. Whatever is added or read
otherwise is noted. A text that writes a control token of the template is refused: it would be
another conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from llm_bridge.models.calls import first_line
from llm_bridge.models.limit import time_limit
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompt_format import Message
from llm_bridge.models.text import find_special_tokens

__all__ = ["content", "prints_date", "prompt_text", "render", "turn_text"]

DATE = "strftime_now"
"""Function by which templates print the date."""

STRFTIME = (
    "{% macro strftime_now(format) %}{% for piece in format.split('%%') %}"
    "{% set found = namespace(text=piece) %}"
    "{% for directive, word in run_date.items() %}"
    "{% set found.text = found.text.replace(directive, word) %}"
    "{% endfor %}{{ '' if loop.first else '%' }}{{ found.text }}{% endfor %}{% endmacro %}\n"
)
"""The same for a given day. It ends in a new line, which Jinja removes, so that the template still
begins a line."""

SECONDS = 10.0
"""Time that a template has to write one conversation; it takes milliseconds."""

OTHER_DAY = "1904-02-29"
"""A day that no run has, to see whether a template prints the date."""

REMEDY = "give another --chat-template, or --no-chat (in the library: a text as prompt)"


def content(message: Message) -> str:
    """Return the text of a message.

    Raises:
        ValueError: its content is neither a text nor a list of parts that are texts.

    Example:
        >>> content({"role": "user", "content": [{"type": "text", "text": "Hi"}]})
        'Hi'

    """
    found = message.get("content")
    if isinstance(found, str) or found is None:
        return found or ""
    parts = found if isinstance(found, list | tuple) else [found]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"content={_shown(str(found))}: must be a text, or a list of parts such as "
            "{'type': 'text', 'text': 'Hi'}"
        )
    return "".join(map(str, texts))


def render(
    lm: CausalLM,
    messages: Sequence[Message],
    *,
    generation: bool,
    name: str = "prompt",
    **template: Any,
) -> str:
    """Render messages as they are, without looking at what the template makes of them.

    Args:
        lm: has the tokenizer, whose template it is, and the date that a template prints.
        messages: the conversation.
        generation: end with the generation prompt.
        name: what an error calls the conversation.
        template: further variables of the template, such as ``tools``.

    Raises:
        ValueError: there is no template, or it refuses the conversation.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.chat_template = (
        ...     "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        ...     "{% if add_generation_prompt %}<assistant>{% endif %}"
        ... )
        >>> render(lm, [{"role": "user", "content": "cab"}], generation=True)
        '<user>cab<assistant>'

    """
    if not lm.tokenizer.chat_template and "chat_template" not in template:
        raise ValueError(
            f"{name}: messages, and the tokenizer of {lm.name} has no chat template; use texts, "
            "or give a template"
        )
    today = lm.format.date or date.today().isoformat()
    text = _rendered(lm, messages, generation, name, template, today)
    if DATE in _source(lm, template):
        other = _rendered(lm, messages, generation, name, template, OTHER_DAY)
        if text != other:
            lm.text_notes.add(f"the chat template prints the date, here that of {today}")
    return text


def _rendered(
    lm: CausalLM,
    messages: Sequence[Message],
    generation: bool,
    name: str,
    template: Mapping[str, Any],
    today: str,
) -> str:
    """Render messages on a day."""
    options = {"add_generation_prompt": generation} | dict(template)
    try:
        source = _source(lm, template)
        if DATE in source:  # a macro goes before what transformers gives, the date of the clock
            options |= {"chat_template": STRFTIME + source, "run_date": _directives(source, today)}
        with time_limit(SECONDS):  # loops in loops are finite, and may outlast us
            return str(lm.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception as error:  # a template can raise anything
        raise ValueError(f"{name}: the chat template refuses it ({first_line(error)})") from None


def _source(lm: CausalLM, template: Mapping[str, Any]) -> str:
    """Return the template itself."""
    given = template.get("chat_template"), template.get("tools")
    return str(lm.tokenizer.get_chat_template(*given))


def _directives(source: str, today: str) -> dict[str, str]:
    """Return what each directive of the dates in a template is on a day."""
    found = set(re.findall(r"%[-_^#]?[A-Za-z]", source))
    return {one: datetime.fromisoformat(today).strftime(one) for one in sorted(found)}


def prints_date(lm: CausalLM) -> bool:
    """Return whether the chat template of a model can print the date, in any conversation.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> prints_date(letter_lm(4))
        False

    """
    return bool(lm.tokenizer.chat_template) and DATE in _source(lm, {})


def prompt_text(lm: CausalLM, messages: Sequence[Message], name: str = "prompt") -> str:
    """Render a conversation with the generation prompt, every message whole and verbatim.

    Args:
        lm: has the tokenizer, and says whether a system prompt that the template inserts stays.
        messages: the conversation.
        name: what an error calls it.

    Raises:
        ValueError: the template refuses, drops or changes a message, or inserts a system prompt
            that was not to be there, or a message writes a control token of the template; names the
            message and the remedy.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.content|trim }}]{% endfor %}"
        >>> prompt_text(lm, [{"role": "user", "content": "cab"}])
        '[cab]'
        >>> prompt_text(lm, [{"role": "user", "content": "cab "}])
        Traceback (most recent call last):
        ValueError: prompt: the chat template changes the user message 'cab ', such as by ...

    """
    return _prompt(lm, messages, name).text


def turn_text(
    lm: CausalLM,
    messages: Sequence[Message],
    response: str,
    names: tuple[str, str] = ("prompt", "response"),
) -> tuple[str, str]:
    """Render a conversation and the assistant's turn that follows it.

    Args:
        lm: as in `prompt_text`.
        messages: the conversation.
        response: content of the assistant's turn.
        names: what an error calls the two.

    Returns:
        `prompt_text`, and what follows it: the response, between what the template puts before and
        after a turn. Different responses are different texts.

    Raises:
        ValueError: see `prompt_text`; or the template drops the turn or rewrites the prompt before
            it, or the response goes on after a control token.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.chat_template = (
        ...     "{% for m in messages %}[{{ m.content }}]{% endfor %}"
        ...     "{% if add_generation_prompt %}[{% endif %}"
        ... )
        >>> turn_text(lm, [{"role": "user", "content": "cab"}], "dd")
        ('[cab][', 'dd]')

    """
    prompt = _prompt(lm, messages, names[0])
    bare = render(lm, prompt.form(prompt.messages), generation=False, name=names[0])

    def with_turn(text: str, form: _Form) -> str:
        turns = [*prompt.messages, {"role": "assistant", "content": text}]
        return render(lm, form(turns), generation=False, name=names[1])

    mark = _mark(len(messages))
    # messages that were given in parts are as they are in both forms; the turn is not
    forms = (prompt.form, _Form(parts=True))
    form = next((one for one in forms if mark in with_turn(mark, one)), None)
    if form is None:
        raise ValueError(f"{names[1]}: the chat template drops the assistant's turn; {REMEDY}")
    head, _, tail = with_turn(mark, form).rpartition(mark)
    _require_end(lm, response, prompt.marked, tail, names[1])
    if head.startswith(prompt.text):
        text = head[len(prompt.text) :] + response + tail
    elif head.startswith(bare):  # there is more in the generation prompt than before a turn
        text = response + tail
    else:
        at = _common(head, bare)
        raise ValueError(
            f"{names[1]}: the chat template rewrites the prompt once a response follows: "
            f"{bare[at : at + 20]!r} becomes {head[at : at + 20]!r}; {REMEDY}"
        )
    if prompt.text + text != with_turn(response, form):
        lm.text_notes.add(
            "the chat template changes the response, which is read as the model would write it, "
            "verbatim",
            (prompt.text, response),
            repr(response[:40]),
        )
    return prompt.text, text


def _require_end(lm: CausalLM, response: str, before: str, tail: str, name: str) -> None:
    """Refuse a response that goes on after a token that the template prints before or after it."""
    for token in find_special_tokens(lm, response):
        if token in before + tail and response.find(token) + len(token) < len(response):
            kind = "end" if token in tail else "control"
            raise ValueError(
                f"{name}: its text goes on after the {kind} token {token!r}; take it out, or use "
                "--no-chat"
            )


class _Form(NamedTuple):
    """How a template takes the contents of messages: as texts, or as lists of parts."""

    parts: bool

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages in this form; parts that were given stay parts."""
        if not self.parts:
            return list(messages)
        return [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message.get("content"), str)
            else message
            for message in messages
        ]


class _Prompt(NamedTuple):
    """A rendered prompt: its text, also with marks for its contents, and messages and form that it
    was rendered from.
    """

    text: str
    marked: str
    messages: list[Message]
    form: _Form


def _prompt(lm: CausalLM, messages: Sequence[Message], name: str) -> _Prompt:
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"{name}: message {number} has no 'role'; give role and content")
        try:
            content(message)
        except ValueError as error:
            raise ValueError(f"{name}: message {number}: {error}") from None
    form = _form(lm, messages, name)
    kept = _without_default_system(lm, list(messages), form, name)
    text = render(lm, form(kept), generation=True, name=name)
    marked = render(lm, form(_marked(kept)), generation=True, name=name)
    contents = [content(message) for message in kept]
    _require_no_control(lm, kept, form, marked, name)
    between = re.split(r"Xq(\d+)qX", marked)  # text, number of the message, text, …
    filled = list(between)
    filled[1::2] = [contents[int(number)] for number in between[1::2]]
    if text != "".join(filled):  # the template looks into the messages: they may still be whole
        at = 0
        for i in range(1, len(between), 2):
            # beside white space of the template's own, a message that is trimmed can seem whole
            before = re.search(r"\S?\s*$", between[i - 1])
            after = re.match(r"\s*\S?", between[i + 1])
            edges = [edge[0] if edge else "" for edge in (before, after)]
            found = text.find(edges[0] + filled[i] + edges[1], at)
            if found < 0:
                role = kept[int(between[i])]["role"]
                raise ValueError(
                    f"{name}: the chat template changes the {role} message {_shown(filled[i])}, "
                    "such as by trimming it or dropping a part; write it as the template prints "
                    f"it, {REMEDY}"
                )
            at = found + len(edges[0] + filled[i])
    return _Prompt(text, marked, kept, form)


def _require_no_control(
    lm: CausalLM, messages: Sequence[Message], form: _Form, marked: str, name: str
) -> None:
    """Refuse messages that write a token by which the template itself tells turns apart.

    Args:
        lm: has tokenizer and template.
        messages: the conversation.
        form: in which the template takes it.
        marked: how it is rendered with marks for its contents.
        name: what an error calls it.

    """
    for number, message in enumerate(messages):
        written = find_special_tokens(lm, content(message))
        if not written:
            continue
        turns = [*_marked(messages), {"role": "assistant", "content": _mark(len(messages))}]
        try:  # what ends the turn of a model may not be in a prompt
            own = marked + render(lm, form(turns), generation=False, name=name)
        except ValueError:
            own = marked
        control = [token for token in written if token in own]
        if control:
            raise ValueError(
                f"{name}: message {number} ({message['role']}) writes {control[0]!r}, a control "
                "token of the chat template; take it out, or use --no-chat (in the library: a text "
                "as prompt)"
            )


def _form(lm: CausalLM, messages: Sequence[Message], name: str) -> _Form:
    """Find the form in which the template prints every message."""
    marked = _marked(messages)
    dropped: list[int] = []
    refused: ValueError | None = None
    for form in (_Form(parts=False), _Form(parts=True)):
        try:
            text = render(lm, form(marked), generation=True, name=name)
        except ValueError as error:
            refused = refused or error
            continue
        missing = [i for i in range(len(messages)) if content(messages[i]) and _mark(i) not in text]
        if not missing:
            return form
        dropped = dropped or missing
    if refused is not None and not dropped:
        raise refused
    role = messages[dropped[0]]["role"]
    remedy = "put it into the user's message, leave it out (--no-system), " * (role == "system")
    raise ValueError(f"{name}: the chat template drops the {role} message; {remedy}{REMEDY}")


def _without_default_system(
    lm: CausalLM, messages: list[Message], form: _Form, name: str
) -> list[Message]:
    """Note the system prompt that a template inserts, or return messages for which it does not."""
    given = any(message["role"] == "system" for message in messages)
    inserted = "" if given else _default_system(lm, messages, form, name)
    if not inserted:
        _note_preamble(lm, messages, form, name)
        return messages
    if not lm.format.without_system:
        lm.text_notes.add(f"the chat template inserts a system prompt, {_shown(inserted)}")
        return messages
    empty = [{"role": "system", "content": ""}, *messages]
    try:
        text = render(lm, form(_marked(empty)), generation=True, name=name)
    except ValueError:  # it takes no system prompt, and inserts one
        text = inserted
    if inserted in text:
        raise ValueError(
            f"{name}: the chat template inserts the system prompt {_shown(inserted)} also where "
            f"there is to be none; {REMEDY}"
        )
    return empty


def _default_system(lm: CausalLM, messages: Sequence[Message], form: _Form, name: str) -> str:
    """Return what stands in the place of a system message where none is given."""
    marked = _marked(messages)
    mark = _mark(len(messages))
    text = render(lm, form(marked), generation=True, name=name)
    before = text.partition("Xq")[0]
    try:
        given = [{"role": "system", "content": mark}, *marked]
        start, found, end = render(lm, form(given), generation=True, name=name).partition(mark)
    except ValueError:  # it takes no system prompt
        found = ""
    if found:
        fits = text.startswith(start) and text.endswith(end)
        if fits and len(text) >= len(start) + len(end):
            return text[len(start) : len(text) - len(end)]
        before = before[: _common(before, start)]  # it stays beside one that is given
    return before if "system" in before.lower() else ""


def _note_preamble(lm: CausalLM, messages: Sequence[Message], form: _Form, name: str) -> None:
    """Note a text that a template puts before a conversation and not before a later turn."""
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": _mark(i)} for i, role in enumerate(roles)]
    try:
        text = render(lm, form(turns), generation=False, name=name)
    except ValueError:  # it has one turn, and nothing tells what is before all of them
        return
    special = getattr(lm.tokenizer, "all_special_tokens", ())
    first, _, later = text.partition(_mark(0))
    later = later.partition(_mark(1))[2].partition(_mark(2))[0]
    for token in special:
        first = first.replace(token, "")
        later = later.replace(token, "")
    preamble = first[: len(first) - _common(first[::-1], later[::-1])].strip()
    if preamble and preamble in render(lm, form(_marked(messages)), generation=True, name=name):
        lm.text_notes.add(
            f"the chat template begins with a text of its own, {_shown(preamble)}, whatever the "
            "system prompt"
        )


def _mark(number: int) -> str:
    """A word that no template trims, escapes or has itself."""
    return f"Xq{number}qX"


def _marked(messages: Sequence[Message]) -> list[Message]:
    """Replace each content that is not empty by its mark, in the form that it has."""
    found: list[Message] = []
    for number, message in enumerate(messages):
        given = message.get("content")
        mark: Any = _mark(number) if content(message) else ""
        if isinstance(given, list):
            mark = [{"type": "text", "text": mark}]
        found.append({**message, "content": mark if given is not None else None})
    return found


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _common(one: str, two: str) -> int:
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
