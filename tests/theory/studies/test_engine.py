"""Grids computed anywhere: the same bytes, nothing lost or done twice, one line for each fault.

The clusters are real: a scheduler and its workers as processes of this machine.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_cells import killed, raises, square, square_unless_lost

from theory.commands.engine import EngineOptions
from theory.storage.runs import RunFolder
from theory.studies import engine
from theory.studies.engine import CellsFailed, Engine, run_cells
from theory.studies.sweep import horizon_curve, horizon_curves

ROOT = Path(__file__).resolve().parents[3]
CELLS = {f"cell {k}": (k,) for k in range(12)}


def environment(*paths):
    """The environment of a process that imports from these folders alone."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


OURS = environment(ROOT, ROOT / "tests" / "helpers")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(words, folder, env=OURS):
    """A process whose working directory has none of our files."""
    return subprocess.Popen(
        [sys.executable, *words],
        env=env,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Address of a scheduler of Dask."""
    if find_spec("distributed") is None:
        pytest.skip("dask.distributed is not installed: pip install 'endorm[dask]'")
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    words = ["-m", "distributed.cli.dask_scheduler", "--host", host, "--port", port]
    process = started([*words, "--no-dashboard"], tmp_path_factory.mktemp("scheduler"))
    for _ in range(300):
        with socket.socket() as trial:
            if trial.connect_ex((host, int(port))) == 0:
                break
        time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """Address of a cluster of Ray with two workers, and that of its server for clients."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'endorm[ray]'")
    port, client = free_port(), free_port()
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block"]
    options = {
        "port": port,
        "ray-client-server-port": client,
        "num-cpus": 2,
        "include-dashboard": "false",
        "min-worker-port": 0,  # any
        "max-worker-port": 0,
        "temp-dir": tempfile.mkdtemp(prefix="ray", dir="/tmp"),  # names of sockets are short
    }
    process = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        env=OURS | {"RAY_USAGE_STATS_ENABLED": "0"},
        cwd=tmp_path_factory.mktemp("ray"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for address in (port, client):
        for _ in range(600):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", address)) == 0:
                    break
            time.sleep(0.1)
    yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
    process.terminate()
    process.wait()
    shutil.rmtree(options["temp-dir"], ignore_errors=True)


@pytest.fixture
def dask(scheduler, tmp_path):
    """Starts workers of the scheduler, one thread each, that end with the test."""
    workers = []

    def start(n, env=OURS):
        words = ["-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1"]
        workers.extend(
            started([*words, "--no-dashboard", "--local-directory", str(tmp_path)], tmp_path, env)
            for _ in range(n)
        )
        return Engine("dask", scheduler)

    yield start
    for worker in workers:
        worker.terminate()
        worker.wait()


def computed(function, cells, where):
    """The results by key, none of which comes twice."""
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "engine=dask.*no worker is there yet")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for key, result in run_cells(function, cells, where):
            assert key not in found
            found[key] = result
    return found


def test_the_same_results_on_one_process_and_on_two():
    alone, two = (computed(square, CELLS, Engine(processes=n)) for n in (1, 2))
    assert {key: x for key, (x, _) in alone.items()} == {key: x for key, (x, _) in two.items()}
    assert {pid for _, pid in alone.values()} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in two.values()}


def test_a_cell_whose_process_is_killed_is_computed_again(tmp_path):
    cells = {k: (k, 5, str(tmp_path / "mark")) for k in range(12)}
    assert computed(square_unless_lost, cells, Engine(processes=2)) == {k: k * k for k in range(12)}
    assert (tmp_path / "mark").exists()


def test_a_cell_that_kills_every_process_ends_the_run_in_one_line():
    with pytest.raises(
        OSError, match=r"processes were lost 3 times in a row with .* left"
    ) as ended:
        computed(killed, {k: (k,) for k in range(4)}, Engine(processes=2))
    assert "\n" not in str(ended.value)


def test_a_process_that_is_lost_before_any_cell_was_sent(monkeypatch):
    """A worker may be gone while cells are still handed out."""
    real, lost = engine._parallel, []

    def gone(calls):
        lost.append(len(calls))
        raise BrokenExecutor("a worker was terminated")

    @contextmanager
    def parallel(*arguments):
        with real(*arguments) as made:
            yield lambda: made() if len(lost) == 2 else gone

    monkeypatch.setattr(engine, "_parallel", parallel)
    cells = {k: (k, 2) for k in range(4)}
    assert dict(run_cells(divmod, cells, Engine(processes=1))) == {
        k: divmod(k, 2) for k in range(4)
    }
    assert lost == [4, 4]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cell_that_raises_leaves_the_others_alone(processes):
    found = {}

    results = run_cells(raises, {k: (k,) for k in range(6)}, Engine(processes=processes))
    with pytest.raises(CellsFailed, match=r"2 of 6 cells failed, the others are done") as ended:  # noqa: PT012
        for key, result in results:
            found[key] = result
    assert found == {0: 0, 1: 1, 3: 3, 4: 4}
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "dask"}, "--scheduler is missing|scheduler.*is missing"),
        ({"engine": "local", "scheduler": "a:1"}, "scheduler.*is not read"),
        ({"engine": "ray", "scheduler": "a:1", "processes": 2}, "processes.*is not read"),
    ],
)
def test_engines_that_make_no_sense(given, message):
    with pytest.raises(ValueError, match=message):
        Engine(**{"name" if key == "engine" else key: value for key, value in given.items()})
    with pytest.raises(ValueError, match=r"scheduler|processes"):
        EngineOptions(**given).require_read(given)


def test_a_scheduler_that_is_not_there_is_refused_within_seconds():
    pytest.importorskip("distributed")
    started = time.monotonic()
    with pytest.raises(OSError, match="nothing answers there"):
        computed(square, CELLS, Engine("dask", f"127.0.0.1:{free_port()}"))
    assert time.monotonic() - started < 2 * engine.REACHABLE
    with pytest.raises(ValueError, match="must be host:port"):
        computed(square, CELLS, Engine("dask", "nonsense"))


def test_a_cluster_of_two_workers_of_which_one_is_killed(dask, tmp_path):
    where = dask(2)
    cells = {k: (k, 5, str(tmp_path / "mark")) for k in range(24)}
    assert computed(square_unless_lost, cells, where) == {k: k * k for k in range(24)}
    assert (tmp_path / "mark").exists()


@pytest.mark.slow
@pytest.mark.parametrize("client", [False, True])
def test_a_cluster_of_ray_of_which_one_worker_is_killed(ray, client, tmp_path):
    where = Engine("ray", ray[client])
    cells = {k: (k, 5, str(tmp_path / "mark")) for k in range(24)}
    assert computed(square_unless_lost, cells, where) == {k: k * k for k in range(24)}
    assert (tmp_path / "mark").exists()
    with pytest.raises(CellsFailed, match=r"2 of 6 cells failed.* KeyError: 'cell [25]"):
        computed(raises, {k: (k,) for k in range(6)}, where)
    with pytest.raises(OSError, match=r"lost 3 times in a row with .* left") as ended:
        computed(killed, {k: (k,) for k in range(4)}, where)
    assert "\n" not in str(ended.value)


@pytest.mark.slow
def test_a_worker_of_ray_that_cannot_import_a_cell_is_one_line(ray, tmp_path, monkeypatch):
    (tmp_path / "cells_of_mine.py").write_text("def double(k):\n    return 2 * k\n")
    monkeypatch.syspath_prepend(tmp_path)
    for address in ray:
        with pytest.raises(OSError, match="cannot import what a cell needs") as ended:
            computed(import_module("cells_of_mine").double, {0: (3,)}, Engine("ray", address))
        assert "\n" not in str(ended.value)


@pytest.mark.slow
def test_a_command_gives_the_same_numbers_on_ray_and_here(ray, tmp_path):
    setting = ["--demonstrations", "10,100", "--horizons", "2,4", "--seeds", "4"]
    command = [sys.executable, "-m", "endorm", "learn", *setting, "--json", "-"]
    here, there = (
        subprocess.run(
            [*command, "--out", tmp_path / more[1], *more],
            env=OURS, check=True, capture_output=True,
        ).stdout
        for more in (["--processes", "1"], ["--engine", "ray", "--scheduler", ray[0]])
    )  # fmt: skip
    assert json.loads(here) == json.loads(there)


HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("theory", "llm_bridge", "endorm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
"""In ``sitecustomize.py``: a process that has everything but this package."""


def test_a_worker_without_the_package_is_one_line(dask, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    where = dask(1, environment(tmp_path, ROOT / "tests" / "helpers"))
    with pytest.raises(OSError, match=r"cannot import what a cell needs \(No module named"):
        computed(square, {0: (3,)}, where)


def test_the_first_version_that_differs_is_named():
    ours = (("endorm", "1"), ("numpy", "2.1"), ("files of endorm", "abc"))
    assert engine._difference(ours, ours) == ""
    theirs = (*ours[:1], ("numpy", "2.2"), ("files of endorm", "abd"))
    assert engine._difference(ours, theirs) == "numpy 2.2, not 2.1"


def test_a_worker_with_other_files_is_refused_by_name(dask, tmp_path):
    """Their numbers could be others."""
    other = tmp_path / "other"
    for package in ("theory", "llm_bridge"):
        shutil.copytree(
            ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    with (other / "theory" / "claims" / "bounds.py").open("a") as file:
        file.write("\n# changed\n")
    where = dask(1, environment(other, ROOT / "tests" / "helpers"))
    with pytest.raises(OSError, match=r"has files of endorm \w+, not \w+: its numbers could"):
        computed(square, {0: (3,)}, where)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_and_nothing_is_done_twice(tmp_path, stopped):
    setting = ["--demonstrations", "10,100,1000", "--horizons", "2,4", "--seeds", "40"]
    command = [sys.executable, "-m", "endorm", "learn", *setting, "--processes", "2", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, whole], env=OURS, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, cut], env=OURS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = cut / "learning.jsonl"
    for _ in range(600):
        if process.poll() is not None or (rows.exists() and rows.read_bytes().count(b"\n") > 2):
            break
        time.sleep(0.05)
    process.send_signal(stopped)
    process.wait(30)
    subprocess.run([*command, cut], env=OURS, check=True, capture_output=True)
    for path in whole.iterdir():
        if path.suffix == ".jsonl":
            assert sorted(path.read_bytes().splitlines()) == sorted(
                (cut / path.name).read_bytes().splitlines()
            )


def test_curves_are_the_same_with_and_without_a_folder(tmp_path):
    grid = [{"alpha": 1.0, "vocab_size": 2, "horizons": (2, 4, 8)}]
    with RunFolder(tmp_path) as run:
        found = horizon_curves(grid, run=run, engine=Engine(processes=1))
    again = [horizon_curve(**point) for point in grid]
    assert str([c.as_dict() for c in found]) == str([c.as_dict() for c in again])
