"""Jobs by name, each of which writes one file: what is there is not run again."""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from theory.reports.report import Column, Table
from theory.storage.files import number, write_json
from theory.storage.runs import RUN, RunFolder


def work(jobs, name):
    """Run one job on one thread: what it finds, and seconds."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    started, cpu = time.time(), time.process_time()
    found = jobs()[name]()
    seconds = time.time() - started
    return found | {"cpu_seconds": time.process_time() - cpu, "wall_seconds": seconds}, seconds


def end_with_parent():
    """In a process of the pool: end when the main one is killed, and leave the next run alone."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run(folder, jobs, todo, processes, jobs_per_process):
    """Run jobs and write each one's file as soon as it ends; after an error those under way still
    end.
    """
    spawn, errors = multiprocessing.get_context("spawn"), []
    with ProcessPoolExecutor(
        processes, spawn, end_with_parent, max_tasks_per_child=jobs_per_process
    ) as pool:
        names = {pool.submit(work, jobs, name): name for name in todo}
        for future in as_completed(names):
            if future.cancelled():
                continue
            if future.exception() is not None:
                errors.append(future.exception())
                for other in names:
                    other.cancel()  # does nothing to those under way
                continue
            found, seconds = future.result()
            write_json(folder.path / f"{names[future]}.json", found)
            print(f"{names[future]}: {seconds:.0f} s", flush=True)
    if errors:
        raise errors[0]


def results(out):
    """What each job has found, by name, numbers that are not finite included."""
    return {
        path.stem: _read(json.loads(path.read_text()))
        for path in sorted(out.glob("*.json"))
        if path.name != RUN
    }


def _read(value):
    if isinstance(value, dict):
        return {name: _read(item) for name, item in value.items()}
    return [_read(item) for item in value] if isinstance(value, list) else number(value)


def markdown(heads, rows):
    """A table whose first column names the rows and whose others are numbers; empty without
    rows.
    """
    first, *others = heads
    columns = [Column(first), *(Column(name, "", "right") for name in others)]
    return Table("", columns, rows).markdown() if rows else ""


def main(doc, jobs, report, *, processes=1, jobs_per_process=None):
    """Run what is not there yet, or report.

    Args:
        doc: the script's docstring.
        jobs: a function of a module that gives all jobs by name, the most wanted first.
        report: called with the folder for ``--report``.
        processes: default of ``--processes``.
        jobs_per_process: after so many a process ends and gives back its memory.

    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="jobs whose names start so")
    parser.add_argument("--processes", type=int, default=processes)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.out)
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(RunFolder(arguments.out, {"script": parser.prog}))
        except ValueError as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        todo = [
            n
            for n in jobs()
            if n.startswith(arguments.only) and not (arguments.out / f"{n}.json").exists()
        ]
        run(folder, jobs, todo, arguments.processes, jobs_per_process)
