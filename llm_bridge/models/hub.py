"""The hub when it is not there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

__all__ = ["cache_without_hub"]

WAIT = 5.0
"""Seconds after which a hub that has not answered is not there."""


@contextmanager
def cache_without_hub(*, local: bool = False) -> Iterator[None]:
    """Let transformers, peft and datasets read the cache alone while the hub does not answer: by
    themselves they ask again and again for half a minute.

    Args:
        local: nothing is asked of the hub inside, so it is not tried either.

    Example:
        >>> with cache_without_hub(local=True):
        ...     constants.HF_HUB_OFFLINE
        False

    """
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not (local or _answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers() -> bool:
    """Tell whether something listens at the hub's address, or a proxy is to be asked."""
    if getproxies():
        return True
    hub = urlsplit(constants.ENDPOINT)
    port = hub.port or {"http": 80}.get(hub.scheme, 443)
    try:
        socket.create_connection((hub.hostname, port), WAIT).close()
    except OSError:
        return False
    return True
