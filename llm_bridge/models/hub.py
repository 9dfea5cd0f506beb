"""The hub when it is not there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

__all__ = ["cache_without_hub"]

WAIT = 5.0
"""Seconds after which a hub that has not answered is not there, all its addresses together."""

KEPT = 60.0
"""Seconds for which what was found is not tried again."""

_LOCK = threading.Lock()
_INSIDE: list[bool] = []
"""For each block that reads the cache alone, what `HF_HUB_OFFLINE` was before the first."""
_FOUND: dict[str, tuple[float, bool]] = {}
"""By address of the hub, until when it counts, and whether it answered."""


@contextmanager
def cache_without_hub(*, local: bool = False) -> Iterator[None]:
    """Let transformers, peft and datasets read the cache alone while the hub does not answer: by
    themselves they ask again and again for half a minute.

    What they look at is a constant of the process: blocks of several threads may overlap, and the
    last that ends puts back what the user had.

    Args:
        local: nothing is asked of the hub inside, so it is not tried either.

    Example:
        >>> with cache_without_hub(local=True):
        ...     constants.HF_HUB_OFFLINE
        False

    """
    if local or _answers():
        yield
        return
    with _LOCK:
        _INSIDE.append(_INSIDE[0] if _INSIDE else constants.HF_HUB_OFFLINE)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with _LOCK:
            before = _INSIDE.pop()
            if not _INSIDE:
                constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    """Tell whether something listens at the hub's address, or a proxy is to be asked for it."""
    if constants.HF_HUB_OFFLINE and not _INSIDE:  # the user wants it so
        return True
    address = constants.ENDPOINT
    hub = urlsplit(address)
    host = hub.hostname or ""
    proxies = getproxies()
    if (hub.scheme in proxies or "all" in proxies) and not proxy_bypass(host):
        return True
    until, found = _FOUND.get(address, (0.0, False))
    if time.monotonic() >= until:
        found = _connects(host, hub.port or {"http": 80}.get(hub.scheme, 443))
        _FOUND[address] = time.monotonic() + KEPT, found
    return found


def _connects(host: str, port: int) -> bool:
    """Connect within `WAIT` in all, the search for the name and every address included."""
    done = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), WAIT).close()
            done.append(True)
        except OSError:
            done.append(False)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(WAIT)
    return bool(done) and done[0]
