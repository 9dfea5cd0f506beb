"""Options that several commands share: models, the tree of responses, and what they need."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.models.names import SERVERS
from llm_bridge.models.prompt_format import Prompt, PromptFormat
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.rows import Row, source_rows
from theory.commands import shared
from theory.commands.options import OptionError, Options, option
from theory.storage.runs import noted

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM

__all__ = [
    "AS_FIRST",
    "EXPERT",
    "HORIZON",
    "TreeOptions",
    "as_prompts",
    "format_facts",
    "formatted",
    "model_findings",
    "read_pair",
    "read_prompts",
    "read_second",
    "read_table",
    "require_packages",
]

HORIZON = 4
"""Tokens of a response where nothing else is said."""

LONGEST_TREE = 1000
"""Tokens of a response beyond which no token tree fits any memory: two tokens have 10^301."""


AS_FIRST = {"device": "that of --device", "device_map": "that of --device-map"}
"""Defaults of a second model, for help."""

EXPERT = AS_FIRST | {
    "model": "--model itself",
    "temperature": "1, or 0.9 where the models are otherwise the same",
}


@dataclass(frozen=True)
class TreeOptions(Options):
    """Prompts, and the responses to them that are compared."""

    prompt: tuple[str, ...] = option(
        (), help="a prompt; repeat for more", words="repeated", group="responses"
    )
    prompts: Path | None = option(
        None,
        help="a prompt a line, or data: JSON, CSV, parquet, a folder, or hub:NAME",
        metavar="FILE",
        group="responses",
    )
    limit: int | None = option(
        None, help="only the first N prompts of the file", low=1, group="responses"
    )
    horizon: int | None = option(
        None,
        help="tokens of a response",
        low=1,
        metavar="H",
        default_text=str(HORIZON),
        group="responses",
    )
    tokens: str | None = option(
        None,
        help="sub-vocabulary: ids '1,2,3' or characters",
        default_text="the whole vocabulary",
        group="responses",
    )
    alpha: float = shared.alpha(1.0)
    memory: int = option(1024, help="memory that a pass may take", unit="MiB", low=1)

    def unread(self) -> dict[str, str]:
        """The limit belongs to a file of prompts."""
        return {"limit": "needs {prompts}"} if self.prompts is None else {}

    def require_tree(self) -> None:
        """Refuse a horizon that has no token tree, before a model is loaded.

        Raises:
            OptionError: the horizon is above `LONGEST_TREE`.

        """
        if (self.horizon or HORIZON) > LONGEST_TREE:
            message = (
                f"the token tree of more than {LONGEST_TREE:,} steps fits no memory; use a smaller "
                "horizon, or draw responses (endorm check --sampled N)"
            )
            raise OptionError("horizon", message, self.horizon)

    def texts(self) -> list[Prompt]:
        """Read all prompts.

        Raises:
            ValueError: there is none, or see `read_prompts`.

        """
        if not self.prompt and self.prompts is None:
            raise ValueError("no prompt: give --prompt TEXT or --prompts FILE")
        of_file = [] if self.prompts is None else read_prompts(self.prompts)[: self.limit]
        return [*self.prompt, *of_file]


@dataclass(frozen=True)
class WholeTreeOptions(TreeOptions):
    """The same where the whole token tree is held in memory."""

    def check(self) -> None:
        """Refuse a tree that cannot be."""
        self.require_tree()


PROMPT_COLUMNS = ("prompt", "messages", "question", "query", "instruction", "problem")
"""Columns in which data sets keep prompts; the first that a row has is read."""


def read_prompts(path: Path) -> list[Prompt]:
    r"""Read prompts, texts or lists of messages, from whatever they are kept in.

    A file of a name ending in ``.txt`` or in nothing known has a text a line. JSON lines and lists
    have a text, a list of messages, or an object with one of `PROMPT_COLUMNS` in each place; all
    other sources have such columns: `llm_bridge.preferences.rows`. Of a conversation that ends with
    the assistant's message, the prompt is what comes before it.

    Raises:
        ValueError: the file cannot be read, has no prompts, or a row has none; names the row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "prompts.txt")
        >>> _ = path.write_text("once upon\n\na time")
        >>> read_prompts(path)
        ['once upon', 'a time']

    """
    known = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz"}
    plain = path.suffix not in known and path.is_file()
    prompts: list[Prompt] = []
    try:
        rows = _text_rows(path) if plain else source_rows(str(path))
        for number, (line, row) in enumerate(rows):
            if isinstance(row, ValueError):
                raise ValueError(f"{_place(number, line)}: {row}")
            columns = [name for name in PROMPT_COLUMNS if isinstance(row, dict) and row.get(name)]
            prompt = row[columns[0]] if columns else row
            if _are_messages(prompt) and prompt[-1]["role"] == "assistant":
                prompt = prompt[:-1]
            if not (isinstance(prompt, str) and prompt.strip()) and not _are_messages(prompt):
                there = f", and has {', '.join(map(str, row))}" if isinstance(row, dict) else ""
                raise ValueError(
                    f"{_place(number, line)}: must be a text, a list of messages with 'role' and "
                    f"'content', or have one as {', '.join(PROMPT_COLUMNS)}{there}"
                )
            prompts.append(prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts={path}: cannot be read ({error})") from None
    except ValueError as error:
        raise ValueError(f"--prompts={path}: {error}") from None
    if not prompts:
        raise ValueError(f"--prompts={path}: no prompt in it; give a text a line")
    return prompts


def _place(number: int, line: int | None) -> str:
    return f"row {number}" if line is None else f"line {line}"


def _text_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield number, line


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(one, dict)
            and isinstance(one.get("role"), str)
            and isinstance(one.get("content"), str | list)
            for one in value
        )
    )


def formatted(lm: CausalLM, given: PromptFormat, out: Path | None = None) -> CausalLM:
    """Return a model that reads prompts as the options say, with every choice made.

    Args:
        lm: the model; a template of the options replaces its tokenizer's.
        given: the options.
        out: folder of the run; a template that prints the date goes on with the date noted there.

    Raises:
        ValueError: a file cannot be read, or an option is not read by this model's tokenizer.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> formatted(letter_lm(4), PromptFormat()).format.chat  # it has no chat template
        False

    """
    from llm_bridge.models.chat import prints_date

    if given.chat_template is not None:
        lm.tokenizer.chat_template = read_file(given.chat_template, "--chat-template")
    template = bool(lm.tokenizer.chat_template)
    if given.chat and not template:
        raise ValueError(
            f"--chat: the tokenizer of {lm.name} has no chat template; leave it out, or give "
            "--chat-template"
        )
    chat = template if given.chat is None else given.chat
    today = None
    if chat and prints_date(lm):
        before = None if out is None else noted(out, "date")
        today = given.date or (before if isinstance(before, str) else date.today().isoformat())
    elif given.date is not None:
        raise ValueError(f"--date={given.date}: no chat template of {lm.name} prints the date")
    system = _system(given.system)
    return lm.read_as(replace(lm, format=replace(given, chat=chat, system=system, date=today)))


def format_facts(lm: CausalLM) -> dict[str, Any]:
    """Return what results depend on of how a model is read, for the note of a run.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> facts = format_facts(formatted(letter_lm(4), PromptFormat(join="apart")))
        >>> facts["chat"], facts["join"]
        (False, 'apart')

    """
    found = lm.format
    facts: dict[str, Any] = {
        "chat": found.chat,
        "system": found.system,
        "no_system": found.no_system,
        "join": found.join,
        "chat_template": lm.tokenizer.chat_template if found.chat else None,
        "model_findings": list(lm.findings),
    }
    return facts if found.date is None else facts | {"date": found.date}


def as_prompts(lm: CausalLM, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts as the model's format has them: as messages, or as plain texts.

    Raises:
        ValueError: a prompt has several messages, and the format is plain text.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> chat = replace(letter_lm(4), format=PromptFormat(chat=True))
        >>> as_prompts(chat, ["cab"])
        [[{'role': 'user', 'content': 'cab'}]]

    """
    from llm_bridge.models.prompts import as_prompt

    chat = bool(lm.format.chat)
    system = lm.format.own_system
    return [as_prompt(prompt, chat=chat, system=system) for prompt in prompts]


def model_findings(*models: CausalLM | None) -> list[str]:
    """Return what a reader of the models' numbers should know, each sentence once.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.text_notes.add("the chat template prints the date")
        >>> model_findings(lm, None, lm)
        ['the chat template prints the date']

    """
    found = (sentence for lm in models if lm is not None for sentence in lm.findings)
    return list(dict.fromkeys(found))


def _system(text: str | None) -> str | None:
    """A text, or what the file of that name holds."""
    if not text:
        return text
    one_word = not any(c.isspace() for c in text)
    like_a_path = os.sep in text or Path(text).suffix != "" or os.path.isdir(text)
    if os.path.isfile(text) or (one_word and like_a_path):
        return read_file(Path(text), "--system")
    return text


def read_file(path: Path, option: str) -> str:
    """Return the text of a file that an option names.

    Raises:
        ValueError: it cannot be read, or is empty; names the option.

    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option}={path}: cannot be read ({error})") from None
    if not text:
        raise ValueError(f"{option}={path}: the file is empty")
    return text


def read_second(
    namespace: argparse.Namespace, prefix: str, first: ModelSpec, **defaults: Any
) -> ModelSpec | None:
    """Read the options of a second model, which is placed like the first where nothing is said.

    Args:
        namespace: what the parser found.
        prefix: of the second model's options.
        first: the model whose place is taken.
        defaults: further values where the command line gives none.

    Returns:
        `None` where there is no second model.

    Raises:
        ValueError: an option is refused, or there are some and no model.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> ModelSpec.add_to(parser)
        >>> ModelSpec.add_to(parser, prefix="reference-")
        >>> words = ["--model", "gpt2", "--device", "cuda:1", "--reference", "distilgpt2"]
        >>> namespace = parser.parse_args(words)
        >>> read_second(namespace, "reference-", ModelSpec.read(namespace)).device
        'cuda:1'

    """
    given = ModelSpec.given(namespace, prefix)
    if "model" not in given and "model" not in defaults:
        ModelSpec.refuse(namespace, f"needs --{prefix.rstrip('-')}", prefix=prefix)
        return None
    if str(given.get("model", "")).startswith(SERVERS):
        defaults = {}  # a server has its model already
    elif not given.keys() & {"device", "device_map"}:
        defaults |= {"device": first.device, "device_map": first.device_map}
    return ModelSpec.read(namespace, prefix, **defaults)


def read_pair(namespace: argparse.Namespace) -> tuple[ModelSpec, ModelSpec]:
    """Read the model that is judged, and the expert: by default the same model, colder.

    Raises:
        ValueError: names the option and its value.

    Example:
        >>> from theory.commands.options import Group
        >>> parser = argparse.ArgumentParser()
        >>> ModelSpec.add_to(parser)
        >>> Group(ModelSpec, prefix="expert-", optional=True).add_to(parser)
        >>> policy, expert = read_pair(parser.parse_args(["--model", "gpt2"]))
        >>> expert.model, policy.temperature, expert.temperature
        ('gpt2', 1.0, 0.9)

    """
    policy = ModelSpec.read(namespace)
    expert = read_second(namespace, "expert-", policy, model=policy.model)
    assert expert is not None
    chosen = "temperature" in ModelSpec.given(namespace, "expert-")
    # where a model is does not tell it from another
    there = replace(policy, device=expert.device, device_map=expert.device_map)
    return policy, there.default_expert() if expert == there and not chosen else expert


def read_table(
    namespace: argparse.Namespace, *unread: tuple[type[Options], Collection[str]]
) -> Path | None:
    """Read the expert as the file of a token MDP; `None` if it is none.

    Args:
        namespace: what the parser found.
        unread: options that mean nothing beside a token MDP.

    Raises:
        ValueError: one of them is given, or another option of the expert.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> ModelSpec.add_to(parser, prefix="expert-")
        >>> read_table(parser.parse_args(["--expert", "expert.npz"]))
        PosixPath('expert.npz')
        >>> read_table(parser.parse_args(["--expert", "gpt2"])) is None
        True

    """
    path = str(ModelSpec.given(namespace, "expert-").get("model", ""))
    if not path.endswith(".npz"):
        return None
    reason = f"is not read with --expert={path}: a token MDP says it itself"
    for options, names in unread:
        options.refuse(namespace, reason, names)
    ModelSpec.refuse(namespace, reason, ModelSpec.declared().keys() - {"model"}, prefix="expert-")
    return Path(path)


def require_packages() -> None:
    """Raise `ValueError` where a package is missing that language models need.

    Example:
        >>> require_packages()  # both are installed

    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is not installed: pip install 'endorm[llm]'")
