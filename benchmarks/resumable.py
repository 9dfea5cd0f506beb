"""Jobs by name, each of which writes one file: what is there is not run again."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from theory.commands.engine import EngineOptions
from theory.reports.report import Column, Table
from theory.storage.files import number, write_json
from theory.storage.runs import RUN, RunFolder
from theory.studies.engine import end_with_parent, run_cells


def work(script, name):
    """Run a job of a script in a process of its own, which gives its memory back: what it finds,
    and seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        code = subprocess.run([sys.executable, __file__, script, name, path]).returncode
        if code:
            raise RuntimeError(f"exit code {code}")
        return json.loads(path.read_bytes())


def job(script, name, path):
    """Run a job on one thread and write what it finds, and seconds; end with the process that
    started this one, and leave its next run alone.
    """
    end_with_parent()
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(script).parent))
    spec.loader.exec_module(module)
    jobs = module.jobs()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    started, cpu = time.time(), time.process_time()
    found = jobs[name]()
    cpu, seconds = time.process_time() - cpu, time.time() - started
    write_json(path, [found | {"cpu_seconds": cpu, "wall_seconds": seconds}, seconds])


def run(folder, script, todo, engine):
    """Run jobs and write each one's file as soon as it ends; one that fails leaves the others."""
    jobs = {name: (script, name) for name in todo}
    for name, (found, seconds) in run_cells(work, jobs, engine, what="jobs"):
        write_json(folder.path / f"{name}.json", found)
        print(f"{name}: {seconds:.0f} s", flush=True)


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


def main(doc, jobs, report, *, processes=1):
    """Run what is not there yet, or report.

    Args:
        doc: the script's docstring.
        jobs: the script's function ``jobs``, which gives all jobs by name, the most wanted first.
        report: called with the folder for ``--report``.
        processes: default of ``--processes``.

    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="jobs whose names start so")
    parser.add_argument("--report", action="store_true")
    EngineOptions.add_to(parser)
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.out)
        return
    with ExitStack() as stack:
        try:
            engine = EngineOptions.read(arguments).chosen(processes)
            folder = stack.enter_context(RunFolder(arguments.out, {"script": parser.prog}))
        except ValueError as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        todo = [
            n
            for n in jobs()
            if n.startswith(arguments.only) and not (arguments.out / f"{n}.json").exists()
        ]
        try:
            run(folder, os.path.abspath(jobs.__code__.co_filename), todo, engine)
        except (ValueError, OSError) as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        except KeyboardInterrupt:
            parser.exit(130, f"{parser.prog}: stopped\n")


if __name__ == "__main__":
    job(*sys.argv[1:])
