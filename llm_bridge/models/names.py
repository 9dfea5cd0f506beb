"""What the name of a model stands for; no package is loaded."""

from __future__ import annotations

import os

__all__ = ["SERVERS", "looks_like_path"]

SERVERS = ("http://", "https://")
"""Beginnings of the name of a model that a server has: the URL of its API."""


def looks_like_path(name: str) -> bool:
    """Tell a path from a hub id.

    Example:
        >>> looks_like_path("./model"), looks_like_path("organisation/model")
        (True, False)

    """
    return (
        name.startswith((".", "~", os.sep))
        or name.endswith(".gguf")
        or name.count(os.sep) > 1
        or os.path.exists(name)
    )
