"""Options that several commands share: models, the tree of responses, and what they need."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_bridge.models.spec import ModelSpec
from theory.commands import shared
from theory.commands.options import Options, option

__all__ = [
    "AS_FIRST",
    "EXPERT",
    "HORIZON",
    "TreeOptions",
    "read_pair",
    "read_prompts",
    "read_second",
    "require_packages",
]

HORIZON = 4
"""Tokens of a response where nothing else is said."""


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
        help="a prompt a line, or JSON lines with a 'prompt'",
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

    def texts(self) -> list[str]:
        """Read all prompts.

        Raises:
            ValueError: there is none, or see `read_prompts`.

        """
        if not self.prompt and self.prompts is None:
            raise ValueError("no prompt: give --prompt TEXT or --prompts FILE")
        of_file = [] if self.prompts is None else read_prompts(self.prompts)[: self.limit]
        return [*self.prompt, *of_file]


def read_prompts(path: Path) -> list[str]:
    """Read a text a line, or of a ``.jsonl`` file a string or an object with ``"prompt"`` a line.

    Raises:
        ValueError: the file cannot be read, has no prompts, or a line has none; names the line.

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts={path}: cannot be read ({error})") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text: Any = line
        if path.suffix == ".jsonl":
            try:
                text = json.loads(line)
            except ValueError:
                text = None
            text = text.get("prompt") if isinstance(text, dict) else text
        if not isinstance(text, str):
            raise ValueError(
                f"--prompts={path}, line {number}: must be a JSON string or an object with a "
                "'prompt'"
            )
        prompts.append(text)
    if not prompts:
        raise ValueError(f"--prompts={path}: no prompt in it; give a text a line")
    return prompts


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

    """
    given = ModelSpec.given(namespace, prefix)
    if "model" not in given and "model" not in defaults:
        ModelSpec.refuse(namespace, f"needs --{prefix.rstrip('-')}", prefix=prefix)
        return None
    if not given.keys() & {"device", "device_map"}:
        defaults |= {"device": first.device, "device_map": first.device_map}
    return ModelSpec.read(namespace, prefix, **defaults)


def read_pair(namespace: argparse.Namespace) -> tuple[ModelSpec, ModelSpec]:
    """Read the model that is judged, and the expert: by default the same model, colder.

    Raises:
        ValueError: names the option and its value.

    """
    policy = ModelSpec.read(namespace)
    expert = read_second(namespace, "expert-", policy, model=policy.model)
    assert expert is not None
    chosen = "temperature" in ModelSpec.given(namespace, "expert-")
    # where a model is does not tell it from another
    there = replace(policy, device=expert.device, device_map=expert.device_map)
    return policy, there.default_expert() if expert == there and not chosen else expert


def require_packages() -> None:
    """Raise `ValueError` where a package is missing that language models need."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{missing[0]} is not installed: pip install 'endorm[llm]'")
