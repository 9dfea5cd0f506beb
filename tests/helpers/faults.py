"""Every command that writes, interrupted for real; what is left, and what comes of going on.

``python tests/helpers/faults.py --trials 20`` (``make faults``) runs each command in forked
processes and disturbs it: signals at random moments, a disk that is full after so many bytes,
memory that is not there, a folder that is removed, another run in it, a reader that has gone, a
place that cannot be written. After each the command is given again. It must end with the files of
an undisturbed run, to the byte, and nothing but one line may have been said.
"""

import argparse
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

KINDS = ("kill", "term", "int", "full disk", "memory", "removed", "two at once", "pipe", "no place")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
SECONDS = re.compile(rb'"seconds[a-z_]*": *[0-9.e+-]+|[0-9.]+(?= s\b)')


def commands(folder):
    """Every command that writes, on input that is read in seconds."""
    from tiny import saved

    from theory.mdp.token_mdp import TokenMDP

    models = [str(saved(folder / "one", seed=0)), str(saved(folder / "two", seed=1))]
    TokenMDP.random(2, 3, seed=0).save(folder / "mdp.npz")
    pairs = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"{n} no"}
        for n in range(24)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = folder / "problems.jsonl"
    rows = [{"problem": f"What is {i} plus one?", "answer": str(i + 1)} for i in range(9)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = ["--processes", "1"]
    both = ["--model", models[0], "--expert", models[1], "--prompt", "ab"]
    given = ["--model", models[0], "--pairs", str(pairs), "--resamples", "50"]
    ppo = ["ppo", "--model", models[0], "--data", str(problems), "--max-tokens", "4"]
    ppo += ["--steps", "4", "--eval-samples", "2", "--prompts-per-step", "4", "--samples", "2"]
    ppo += ["--minibatch", "8", "--microbatch", "8", "--checkpoint-every", "1"]
    return {
        "verify": ["verify", *both, "--tokens", "abc", "--horizon", "2"],
        "curves": ["curves", "--horizons", "2,4", "--vocabs", "2", "--alphas", "1", *one],
        "learn": ["learn", "--horizons", "2", "--demonstrations", "10,100", "--seeds", "2", *one],
        "minimax": ["minimax", "--horizons", "1", "--per-reward", "16", "--per-epsilon", "1",
                    "--vocabs", "2", "--alphas", "1", *one],
        "solve": ["solve", str(folder / "mdp.npz"), "--alpha", "0.5", "--epsilon", "0.1"],
        "check": ["check", *both, "--tokens", "abc", "--horizon", "2"],
        "check, sampled": ["check", *both, "--sampled", "64", "--horizon", "3"],
        "validate": ["validate", *both, "--horizon", "2", "--draws", "16",
                     "--pairs-per-prompt", "8"],
        "score": ["score", *given],
        "train-reward": ["train-reward", *given],
        "ppo": ppo,
    }  # fmt: skip


class Run:
    """A command in a process of its own."""

    def __init__(self, argv, scratch, *, file_limit=None, memory=None, closed=False):
        self.errors = Path(scratch, f"errors-{time.monotonic_ns()}")
        self.since = time.monotonic()
        read, write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            code = 99
            try:
                os.setsid()
                out = write if closed else os.open(os.devnull, os.O_WRONLY)
                os.close(read)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out, 1)
                os.dup2(os.open(self.errors, os.O_WRONLY | os.O_CREAT), 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if file_limit is not None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
                if memory is not None:
                    used = int(Path("/proc/self/statm").read_text().split()[0])
                    limit = used * os.sysconf("SC_PAGE_SIZE") + memory
                    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                from llm_bridge.commands.main import main

                code = main(argv)
                sys.stdout.flush()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        os.close(read)

    def send(self, number):
        try:
            os.kill(self.process, number)
        except ProcessLookupError:
            return

    def wait(self, seconds=300.0):
        """The exit code, a signal as its negative; None after so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self.seconds = time.monotonic() - self.since
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return None

    def said(self):
        return self.errors.read_text(errors="replace").strip()


def files(out):
    """Bytes of every file of a folder, without locks and without the seconds that a step took."""
    return {
        str(path.relative_to(out)): content(path)
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def content(path):
    """Bytes of a file; of a checkpoint its values, since a pickle's bytes depend on which objects
    were shared.
    """
    if path.suffix != ".pt":
        return SECONDS.sub(b"", path.read_bytes())
    import torch

    def plain(value):
        if isinstance(value, torch.Tensor):
            return [str(value.dtype), value.tolist()]
        if isinstance(value, dict):
            return {repr(name): plain(one) for name, one in sorted(value.items(), key=repr)}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    return repr(plain(torch.load(path, weights_only=True))).encode()


class Subject:
    """A command, how long it takes, and those of its files that are the same in every run."""

    def __init__(self, name, words, scratch):
        self.name, self.words, self.scratch = name, words, scratch
        made = []
        for k in range(2):
            out = scratch / f"whole-{k}"
            run = Run([*words, "--out", str(out)], scratch)
            self.code = run.wait()
            if self.code not in (0, 1):
                raise RuntimeError(f"{name}: {self.code}, {run.said()}")
            made.append(files(out))
        self.seconds = run.seconds
        self.whole = {name: data for name, data in made[0].items() if made[1].get(name) == data}
        self.timed = sorted(set(made[0]) - set(self.whole))
        if not self.whole:
            raise RuntimeError(f"{name}: no file is the same in two runs: nothing can be compared")
        self.largest = max(len(data) for data in made[0].values())

    def again(self, out):
        """Go on; what is wrong with what then is there, or nothing."""
        words = [*self.words, "--out", str(out)]
        if self.words[0] == "ppo" and (out / "checkpoint.pt").exists():
            words.append("--resume")
        run = Run(words, self.scratch)
        code = run.wait()
        if code == 2 and not self.differs(out):
            return None  # it had ended, and says so
        if code != self.code:
            return f"going on ends with {code}: {run.said()[-300:]}"
        return self.differs(out)

    def differs(self, out):
        found = files(out)
        bad = [name for name, data in self.whole.items() if found.get(name) != data]
        left = [name for name in found if name.endswith(".partial")]
        return f"files that differ: {bad}" if bad else f"left: {left}" if left else None


def disturbed(subject, kind, rng):
    """Run a command, disturb it, go on; returns how it ended, and what is wrong or nothing."""
    out = subject.scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    moment = rng.uniform(0, 1.05) * subject.seconds
    place = Path("/proc/endorm") if kind == "no place" else out
    options = {}
    if kind == "full disk":
        options["file_limit"] = rng.randrange(subject.largest)
    elif kind == "memory":
        options["memory"] = rng.randrange(1 << 20, 96 << 20)
    elif kind == "pipe":
        options["closed"] = True
    run = Run([*subject.words, "--out", str(place)], subject.scratch, **options)
    other = None
    if kind in SIGNALS:
        time.sleep(moment)
        run.send(SIGNALS[kind])
    elif kind == "removed":
        time.sleep(moment)
        shutil.rmtree(out, ignore_errors=True)
    elif kind == "two at once":
        time.sleep(moment)
        other = Run([*subject.words, "--out", str(out)], subject.scratch)
    code = run.wait()
    if code is None:
        return "hangs", "does not end"
    wrong = bad_end(code, run.said(), kind, subject.code)
    if other is not None:
        second = other.wait()
        wrong = wrong or bad_end(second, other.said(), usual=subject.code)
        if code == 2 and second == 2:
            wrong = wrong or "neither run ended well"
    if not wrong and kind != "no place":
        if kind == "pipe" and code != 2 and subject.differs(out):
            wrong = f"without a reader {subject.differs(out)}"
        wrong = wrong or subject.again(out)
    if kind == "no place" and code != 2:
        wrong = wrong or f"exit code {code} where nothing can be written"
    return str(code), wrong


def bad_end(code, said, kind=None, usual=0):
    """What is wrong with an exit code and with what was said, or nothing."""
    sent = SIGNALS.get(kind)
    if sent in (signal.SIGKILL, signal.SIGTERM) and code == -sent:
        return None  # the system's own way; what was written stays
    allowed = {0, 2, usual} | {"int": {130}, "term": {130, 143}, "pipe": {141}}.get(kind, set())
    lines = said.splitlines()
    if code not in allowed:
        return f"exit code {code}: {said[-300:]}"
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    if code == 2 and not (lines and lines[-1].startswith("endorm")):
        return f"no line of ours: {said[-300:]}"
    if code == 2 and sum(line.startswith("endorm") for line in lines) > 1:
        return f"more than one line: {said[-300:]}"
    return None


def campaign(names, kinds, trials, seed, report=print):
    """Disturb commands; returns rows ``(command, kind, outcomes, what is wrong)``."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        every = commands(Path(folder))
        for module in ("torch", "transformers", "llm_bridge.commands.main"):
            importlib.import_module(module)  # once: the forked processes have them

        for name in names or every:
            scratch = Path(folder, "of " + name)
            scratch.mkdir()
            subject = Subject(name, every[name], scratch)
            report(f"{name}: {subject.seconds:.1f} s, the same in every run: {len(subject.whole)}, "
                   f"not: {', '.join(subject.timed)}")  # fmt: skip
            for kind in kinds:
                outcomes, wrongs = Counter(), []
                rng = random.Random(f"{seed} {name} {kind}")
                for _ in range(1 if kind == "no place" else trials):
                    outcome, wrong = disturbed(subject, kind, rng)
                    outcomes[outcome] += 1
                    if wrong:
                        wrongs.append(wrong)
                        report(f"{name}, {kind}: {wrong}")
                rows.append((name, kind, dict(outcomes), wrongs))
            shutil.rmtree(scratch, ignore_errors=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path, default=Path("out/faults"))
    options = parser.parse_args()
    rows = campaign(options.commands, options.kinds, options.trials, options.seed)
    lines = ["| command | fault | exit codes | wrong |", "|---|---|---|---:|"]
    for name, kind, outcomes, wrong in rows:
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(outcomes.items()))
        lines.append(f"| {name} | {kind} | {codes} | {len(wrong)} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    (options.out / "rows.json").write_text(json.dumps(rows))
    print("\n".join(lines))
    return 1 if any(row[3] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
