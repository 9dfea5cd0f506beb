"""Jobs by name, each of which writes one file: what is there is not run again."""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from theory.files import replacing


def work(jobs, out, name):
    """Run one job; what it finds is written whole or not at all."""
    torch.set_num_threads(1)
    started, cpu = time.time(), time.process_time()
    found = jobs()[name]()
    with replacing(out / f"{name}.json") as file:
        file.write(json.dumps(found | {"cpu_seconds": time.process_time() - cpu}, indent=1).encode())
    return f"{name}: {time.time() - started:.0f} s"


def main(doc, jobs, report, *, processes=1, jobs_per_process=None):
    """Run what is not there yet, or report.

    Args:
        doc: the script's docstring.
        jobs: a function of a module that gives all jobs by name, the most wanted first.
        report: called with the folder for ``--report``.
        processes: default of ``--processes``.
        jobs_per_process: after so many a process ends and gives back its memory.

    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="jobs whose names start so")
    parser.add_argument("--processes", type=int, default=processes)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        report(arguments.out)
        return
    todo = [n for n in jobs() if n.startswith(arguments.only) and not (arguments.out / f"{n}.json").exists()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, spawn, max_tasks_per_child=jobs_per_process) as pool:
        for line in pool.map(partial(work, jobs, arguments.out), todo):
            print(line, flush=True)
