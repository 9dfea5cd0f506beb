"""Jobs of the benchmarks: killed at any moment they go on, and two runs do not share a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPT = """
'''Squares.'''
import sys
import time
from functools import partial
sys.path.insert(0, {benchmarks!r})
from resumable import main, results

def job(k):
    time.sleep(0.1)
    if k == {bad}:
        raise KeyError("bad")
    return {{"square": k * k, "numbers": [float("inf"), float("nan")], "job": k}}

def jobs():
    return {{f"job-{{k}}": partial(job, k) for k in range(12)}}

def report(out):
    print({{name: (found["square"], *found["numbers"]) for name, found in results(out).items()}})

if __name__ == "__main__":
    main(__doc__, jobs, report, processes=2)
"""


def command(folder, *words, name="squares.py", bad=-1):
    script = folder / name
    script.write_text(SCRIPT.format(benchmarks=str(BENCHMARKS), bad=bad))
    return [sys.executable, str(script), "--out", *map(str, words)]


def run(*words):
    return subprocess.run(words, capture_output=True, text=True)


def found(folder):
    """What each file has, apart from the time that it took."""
    rows = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    return {
        name: {key: x for key, x in row.items() if not key.endswith("_seconds")}
        for name, row in rows.items()
    }


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    words = command(tmp_path, tmp_path / "whole")
    done = run(*words)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 12)
    whole = found(tmp_path / "whole")
    assert whole["job-3.json"] == {"square": 9, "numbers": ["inf", "nan"], "job": 3}
    assert whole["run.json"] == {"script": "squares.py"}
    assert len(whole) == 13
    out, random = tmp_path / "killed", np.random.default_rng()
    for k in range(5):
        (out / "run.lock").unlink(missing_ok=True)
        killed = subprocess.Popen(
            [*words[:-1], out], stdout=subprocess.DEVNULL, start_new_session=True
        )
        while killed.poll() is None and not (out / "run.lock").exists():
            time.sleep(0.001)
        time.sleep(random.exponential(0.4))
        # the main process alone, or its pool too; either way nobody is left who writes
        os.kill(killed.pid, signal.SIGKILL) if k % 2 else os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert run(*words[:-1], out).returncode == 0
    assert found(out) == whole
    assert run(*words[:-1], out).stdout == ""
    report = run(*words[:-1], out, "--report").stdout
    assert report.startswith(
        "{'job-0': (0, inf, nan), 'job-1': (1, inf, nan), 'job-10': (100, inf, nan)"
    )


@pytest.mark.slow
def test_two_at_once_and_another_script(tmp_path):
    out = tmp_path / "out"
    words = command(tmp_path, out)
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    second = run(*words)
    first.send_signal(signal.SIGCONT)
    refused = (
        f"squares.py: {out}: another run is writing there; wait for it, or give another --out\n"
    )
    assert (second.returncode, second.stdout, second.stderr) == (2, "", refused)
    first.communicate()
    assert first.returncode == 0
    assert len(found(out)) == 13
    other = run(*command(tmp_path, out, name="cubes.py"))
    assert other.returncode == 2
    assert 'has a run with script = "squares.py", not "cubes.py"' in other.stderr


@pytest.mark.slow
def test_a_job_that_fails_does_not_lose_those_beside_it(tmp_path):
    done = run(*command(tmp_path, tmp_path / "out", bad=5))
    failed = "1 of 12 jobs failed, the others are done; the first, job-5: RuntimeError: exit code 1"
    assert done.returncode == 2
    *trace, last = done.stderr.splitlines()
    assert (trace[-1], last) == ("KeyError: 'bad'", f"squares.py: {failed}")
    there = set(found(tmp_path / "out"))
    assert there == {"run.json", *(f"job-{k}.json" for k in range(12) if k != 5)}
    assert run(*command(tmp_path, tmp_path / "out")).returncode == 0
    assert len(found(tmp_path / "out")) == 13
