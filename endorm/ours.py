"""Whether `theory` and `llm_bridge` are this project's, and not modules of the same name."""

from __future__ import annotations

import importlib.util
from importlib.metadata import packages_distributions
from pathlib import Path

__all__ = ["require_ours"]

MARKS = {"theory": "mdp/token_mdp.py", "llm_bridge": "read/reward.py"}
"""A file that each package has, by which it is told from another of its name."""


def require_ours() -> None:
    """Raise ImportError, in one line with the remedy, where another module stands in front of ours.

    A file ``theory.py`` of one's own does so in its folder, and other distributions install
    packages of these names.

    Example:
        >>> require_ours()  # they are

    """
    for name, mark in MARKS.items():
        found = importlib.util.find_spec(name)
        at = None if found is None or found.origin is None else Path(found.origin)
        if at is not None and at.name == "__init__.py" and (at.parent / mark).is_file():
            continue
        here = Path(__file__).parents[1] / name
        others = set(packages_distributions().get(name, ())) - {"endorm"}
        if at is None:
            raise ImportError(f"the package {name} is missing: install endorm again")
        if others and at.parent == here:
            other = ", ".join(sorted(others))
            remedy = f"pip uninstall {other}, then pip install --force-reinstall --no-deps endorm"
            raise ImportError(f"{here} is overwritten by the distribution {other}: {remedy}")
        if others:
            other = ", ".join(sorted(others))
            raise ImportError(f"{at} is of the distribution {other}, not of endorm: uninstall it")
        raise ImportError(
            f"{at} is imported as {name!r} instead of endorm's: rename it, or run from another "
            "folder"
        )
