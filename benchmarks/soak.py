"""Commands given again and again in one process each: what a process holds must not grow.

``make soak`` runs `verify`, `score` and `ppo` for an hour side by side. After every round a line of
``out/soak/<command>.jsonl`` has memory, open files, threads, child processes and temporary files.
A count that still grows over the second half of the rounds is a leak: the exit code is 1.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llm_bridge.commands.main import main as endorm
from theory.storage.files import json_line

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

COMMANDS = ("verify", "score", "ppo")
BOUNDS = {"rss_kib": 64.0, "files": 0.02, "threads": 0.02, "children": 0.02, "temporary": 0.02}
"""Growth a round that is taken for none: an allocator's noise, or one in fifty rounds."""
LEAST = 8
"""Rounds in the second half below which no slope is read."""


def rounds(command, folder):
    """The command lines of a round: one that starts a run, then one that goes on with it."""
    from faults import commands  # the same small commands that are interrupted there

    words = [*commands(folder)[command], "--out", str(folder / "run")]
    again = {"verify": [], "score": [words], "ppo": [[*words, "--resume"]]}
    return [words, *again[command]]


def held():
    """What this process holds now: KiB of memory, and counts."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    tasks = Path("/proc/self/task").glob("*/children")
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "children": sum(len(task.read_text().split()) for task in tasks),
        "temporary": len(os.listdir(tempfile.gettempdir())),
    }


def work(command, minutes, path):
    """Give a command again and again; one line of JSON after each round."""
    with tempfile.TemporaryDirectory() as folder, path.open("wb", buffering=0) as lines:
        tempfile.tempdir = str(Path(folder, "temporary"))  # this process's own, so it can count
        os.mkdir(tempfile.tempdir)
        given = rounds(command, Path(folder))
        until = time.monotonic() + 60 * minutes  # making the models is not counted
        number = 0
        while time.monotonic() < until:
            shutil.rmtree(Path(folder, "run"), ignore_errors=True)
            codes = [quiet(words) for words in given]
            lines.write(json_line({"round": number, "codes": codes, **held()}))
            number += 1


def quiet(words):
    """Run a command without its text; returns its exit code."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        try:
            return endorm(words)
        except SystemExit as end:
            return end.code


def slope(values):
    """Theil and Sen's slope: the median over pairs, which a few outliers do not move."""
    values = np.asarray(values, float)
    first, second = np.triu_indices(len(values), 1)
    return float(np.median((values[second] - values[first]) / (second - first)))


def faults(lines):
    """What is wrong with the lines of a command, as texts."""
    later = lines[len(lines) // 2 :]
    if len(later) < LEAST:
        return [f"{len(lines)} rounds are too few; give more --minutes"]
    codes = {tuple(line["codes"]) for line in lines}
    wrong = [f"exit codes {sorted(codes)}: they differ"] if len(codes) > 1 else []
    wrong += [f"exit codes {code}" for code in codes if not set(code) <= {0, 1}]
    for name, bound in BOUNDS.items():
        growth = slope([line[name] for line in later])
        if growth > bound:
            wrong.append(f"{name} grows by {growth:.3g} a round, more than {bound:g}")
    return wrong


def main():
    """Run every command in a process of its own; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--one", choices=COMMANDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work(options.one, options.minutes, options.out / f"{options.one}.jsonl")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    again = [sys.executable, __file__, "--minutes", str(options.minutes), "--out", options.out]
    running = {command: subprocess.Popen([*again, "--one", command]) for command in COMMANDS}
    ended = {command: process.wait() for command, process in running.items()}
    bad = False
    for command, code in ended.items():
        text = (options.out / f"{command}.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        wrong = [f"ended with {code}"] if code else faults(lines)
        print(f"{command}: {len(lines)} rounds: {'; '.join(wrong) or 'nothing grows'}")
        bad = bad or bool(wrong)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
