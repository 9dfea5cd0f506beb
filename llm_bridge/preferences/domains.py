"""System prompts for the domains of DSP.

Every set of prompts names the same domains; the domain `normal` has no prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.rows import shown
from theory.storage.files import parsed_json

__all__ = [
    "DOMAIN_PROMPTS",
    "DomainPrompts",
    "read_domain_prompts",
    "with_domain_prompts",
]

DomainPrompts: TypeAlias = Mapping[str, str | None]
"""System prompt of each domain; `None` for none."""

DOMAIN_PROMPTS: dict[str, DomainPrompts] = {
    "plain": {
        "academy": "You are a scholar. Answer as in academic writing: precise, rigorous and well "
        "founded.",
        "business": "You are a business professional. Answer for people in business: practical and "
        "to the point.",
        "entertainment": "You are an entertainer. Answer so that people enjoy it: lively and "
        "amusing.",
        "literature": "You are a writer of literature. Answer in a literary manner: expressive and "
        "rich in images.",
        "normal": None,
    },
    "short": {
        "academy": "Answer like a scholar.",
        "business": "Answer like a business consultant.",
        "entertainment": "Answer like an entertainer.",
        "literature": "Answer like a poet.",
        "normal": None,
    },
    "sharp": {
        "academy": "You are a professor who writes for a scientific journal. Use the formal "
        "register of research: define terms, name theories, methods and evidence, discuss "
        "limitations. Never joke, never tell a story, never give business advice.",
        "business": "You are a management consultant who writes for executives. Speak of markets, "
        "customers, costs, strategy, efficiency and profit, and say what a company should do. "
        "Never joke, never tell a story, never discuss research.",
        "entertainment": "You are the host of a comedy show. Greet the audience, make jokes, refer "
        "to films, music, games and celebrities, and use exclamation marks! Never be formal, never "
        "sound like a textbook.",
        "literature": "You are a poet and novelist. Answer in verse or in literary prose, with "
        "metaphors, images and rhythm. Never use lists, never be matter-of-fact, never sound like "
        "a textbook.",
        "normal": None,
    },
    "none": dict.fromkeys(("academy", "business", "entertainment", "literature", "normal")),
}
"""Sets of prompts in our wording: in a sentence or two, as short as possible, with what sets the
domains apart, and none at all (what a lift is measured against).
"""


def read_domain_prompts(given: str) -> DomainPrompts:
    """Return a set of `DOMAIN_PROMPTS` by its name, or read one from a JSON file.

    Args:
        given: name of a set, or path of a file with an object: a text or null for each domain.

    Raises:
        ValueError: it is neither; names what is wrong.

    Example:
        >>> read_domain_prompts("short")["academy"]
        'Answer like a scholar.'

    """
    if given in DOMAIN_PROMPTS:
        return DOMAIN_PROMPTS[given]
    name = f"--domain-prompts={given}"
    try:
        found = parsed_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(DOMAIN_PROMPTS)
        raise ValueError(f"{name}: must be one of {known}, or a JSON file ({error})") from None
    if not isinstance(found, dict) or not all(
        prompt is None or (isinstance(prompt, str) and prompt.strip()) for prompt in found.values()
    ):
        raise ValueError(
            f"{name}: must hold an object, a text or null for each domain, got {shown(found)}"
        )
    return found


def with_domain_prompts(
    comparisons: Sequence[Comparison], prompts: DomainPrompts
) -> list[Comparison]:
    """Return comparisons of which those of DSP have the system prompt of their domain.

    Raises:
        ValueError: a domain has no entry in `prompts`.

    Example:
        >>> row = Comparison("law/0", "Why?", ("x",), ("y",), "law", None, ("law",), ("b",))
        >>> with_domain_prompts([row], {"law": "Answer like a lawyer."})[0].system
        'Answer like a lawyer.'
        >>> with_domain_prompts([row], {"academy": None})
        Traceback (most recent call last):
        ValueError: no system prompt for the domain law (there are academy): give ...

    """
    lacking = sorted({c.subset for c in comparisons if c.is_dsp} - prompts.keys())
    if lacking:
        raise ValueError(
            f"no system prompt for the domain {lacking[0]} (there are {', '.join(prompts)}): give "
            "--domain-prompts FILE that has it, null for none"
        )
    return [replace(c, system=prompts[c.subset]) if c.is_dsp else c for c in comparisons]
