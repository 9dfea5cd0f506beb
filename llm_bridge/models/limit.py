"""A limit of time for code that is not ours and may never end."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["TooLongError", "time_limit"]


class TooLongError(ValueError):
    """Code took longer than it was given."""

    def __str__(self) -> str:
        """Return what is said where the interpreter raised it, without an argument."""
        return super().__str__() or "it does not end"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLongError` in the block, in whichever thread it runs, when its time is up.

    The interpreter raises it between two instructions of Python. A single call into C, such as a
    product of large integers, is waited for.

    Example:
        >>> with time_limit(0.05):
        ...     while True:
        ...         pass
        Traceback (most recent call last):
        llm_bridge.models.limit.TooLongError: ...

    """
    thread, lock, ended = threading.get_ident(), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not ended:
                _raise(thread, TooLongError)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TooLongError:
        raise TooLongError(f"it takes more than {seconds:g} s") from None
    finally:
        timer.cancel()
        with lock:
            ended = True
            _raise(thread, None)  # what was raised and not yet seen


def _raise(thread: int, error: type[BaseException] | None) -> None:
    """Let another thread raise an error; None takes back one that it has not raised yet."""
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
