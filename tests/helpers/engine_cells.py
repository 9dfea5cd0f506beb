"""Cells that the processes of an engine import by name."""

import os
import signal
import time


def square(k):
    return k * k, os.getpid()


def square_unless_lost(k, lost, mark):
    """Square; the first process that has the cell `lost` is killed there."""
    time.sleep(0.02)
    if k == lost:
        try:
            open(mark, "x").close()
        except FileExistsError:
            return k * k
        os.kill(os.getpid(), signal.SIGKILL)
    return k * k


def killed(k):
    if k == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return k


def raises(k):
    if k % 3 == 2:
        raise KeyError(f"cell {k}\non two lines")
    return k
