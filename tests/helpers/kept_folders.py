"""What makes a folder that is kept, in processes that import it by its name."""

import time

from theory.storage.cache import made_once


def make(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers").write_bytes(b"1 2 3")
    (folder / "text").write_bytes(b"text")


def make_slowly(folder):
    with (folder.parent / "makers").open("a") as file:
        file.write("one\n")
    time.sleep(0.3)
    make(folder)


def take(folder, start):
    start.wait()
    made_once(folder, make_slowly)
