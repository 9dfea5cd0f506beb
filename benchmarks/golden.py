"""Golden files: does every command still give the numbers that it gave before a change?

``python benchmarks/golden.py record DIR --command "CMD"``  runs every case, keeps all it gives;
``python benchmarks/golden.py compare OLD NEW``             holds two such folders together.

`record` runs each command of endorm with small fixed settings and seeds, one process after the
other and one thread each (about 4 minutes), in a temporary folder. CMD is what stands for
``endorm``, such as ``python -m theory.cli`` with PYTHONPATH set. DIR/CASE/ then holds ``case.json``
(arguments, exit status, seconds, names of the files that were written), ``stdout.txt``,
``stderr.txt`` and the results: JSON, JSON lines, arrays (``.npz``, ``.safetensors``) and HTML
without its pictures. Figures and checkpoints are known by name only. The folder of shared data is
written ``<shared>``.

`compare` makes of both folders a flat table each, from a path such as
``check-add/out/check.json/exact/lines/theorem-1/left`` to a value. It prints every path whose value
differs (old → new), then those that are missing, then those that were added. Strings must be equal.
Numbers may differ by the tolerance of their case (`TOLERANCE`), in printed text by one unit of the
last place besides, unless they are whole. A list of objects that all have a different ``name`` is
read by name, and of its order only the names that both sides have are compared. It exits 1 if
anything but additions is found. Record both sides on one machine: with another processor or another
torch the floats of a model differ by more than is allowed here, and `compare` warns of that.
"""

import argparse
import difflib
import fnmatch
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

TOLERANCE = {"exact": (1e-9, 1e-12), "model": (1e-7, 1e-9), "training": (1e-7, 1e-9)}
"""Relative and absolute, by kind of case: nothing but doubles; a pass of a torch model in float32;
its training. `compare --scale` multiplies the last two."""

VOLATILE = (
    "environment.json/**",
    "*/case.json/argv",  # the input: a renamed option is no difference of results
    "*/case.json/seconds",
    "*/out/*.json/environment/**",
    "*/out/report.json/version",
    "*/copy.json/version",
    "*/out/check.json/version",
    "*/out/curves.json/version",
    "*/out/run.json/version",
    "*/out/summary.json/run/version",
    "*/out/model/*.json/transformers_version",
)
"""Paths that are not compared. ``*`` stands for one step of a path, ``**`` for any number."""

MASKS = (
    (r"\(\d+ s\)$", "(… s)"),
    (r"^\d+ s, batch", "… s, batch"),
    (r"tokens in [\d.]+ s, [\d,]+ tokens/s", "tokens in … s, … tokens/s"),
    (r"^time, at least: .*$", "time, at least: …"),
)
"""What is not compared in a line of ``stdout.txt``: wall clock, and the speed of the machine."""

RENAMES: dict[str, str] = {}
"""Fields renamed on purpose: path in OLD to path in NEW; wildcards keep their order. `--rename`
reads more of them from a JSON object."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
WORDS = {".txt", ".html"}
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
PICTURE = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+")
SHORT = 90


# The cases


@dataclass(frozen=True)
class Case:
    """A command line; ``{models}`` and ``{data}`` stand for folders.

    Attributes:
        name: of its folder.
        words: the arguments of endorm, as a shell would read them.
        kind: its tolerance, see `TOLERANCE`.
        inputs: what writes a file that the command reads, by name of the file.
        out: whether ``--out out`` is added.

    """

    name: str
    words: str
    kind: str = "model"
    inputs: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    out: bool = True

    def argv(self, shared: Path) -> list[str]:
        """Arguments without placeholders."""
        folders = {"{models}": shared / "models", "{data}": shared / "data"}
        words = shlex.split(self.words)
        for name, folder in folders.items():
            words = [word.replace(name, str(folder)) for word in words]
        return [*words, "--out", "out"] if self.out else words


def tree(vocab_size, horizon, prompts=2):
    """Writer of a token MDP on the whole tree, with random rewards."""

    def write(path):
        rng = np.random.default_rng([vocab_size, horizon, prompts])
        sizes = [prompts * vocab_size**h for h in range(horizon)]
        np.savez(path, **{f"reward_{h}": rng.random((n, vocab_size)) for h, n in enumerate(sizes)})

    return write


def table(path):
    """Write a token MDP whose states join, with forbidden tokens and prompts of unequal weight."""
    rng = np.random.default_rng(7)
    rewards = {f"reward_{h}": rng.normal(size=(n, 3)) for h, n in enumerate((2, 3, 3))}
    links = {f"next_{h}": rng.integers(0, 3, (n, 3)) for h, n in enumerate((2, 3))}
    allowed = np.array([[True, False, True], [True, True, True], [False, True, True]])
    weights, ends = np.array([0.25, 0.75]), np.array([-5.0, 5.0])
    named = {"allowed_1": allowed, "prompt_weights": weights, "reward_range": ends}
    np.savez(path, **rewards, **links, **named)


def pairs(*rows):
    """Writer of preference pairs: prompt, chosen and rejected response of each."""

    def write(path):
        names = ("prompt", "chosen", "rejected")
        lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")

    return write


def prompts(*texts):
    """Writer of prompts, one a line."""
    return lambda path: path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


SORT, ADD, STORIES = "{models}/nano-sort", "{models}/add-fair", "{models}/stories260K"
TEACHER = "{models}/add-teacher"
WORDS_TO_SORT = {"words.txt": prompts("ABCABC", "CABBAC", "CCCBAA")}
SUMS = {"sums.txt": prompts("123456", "908070", "555445", "001002")}
SORTED = {
    "pairs.jsonl": pairs(
        ("ABCABC", "AABBCC", "AABCBC"), ("CCBBAA", "ABBCCA", "AABBCC"), ("CABCAB", "AABBCC", "A")
    )
}
ADDED = {
    "pairs.jsonl": pairs(
        ("123456", "0579", "0580"), ("123457", "0580", "0579"), ("908070", "0978", "978")
    )
}
FEW = "--eval-every 1 --prompts-per-step 8 --samples 2 --minibatch 16 --microbatch 8"
ONCE = "--prompt 'Once upon a time' --expert-temperature 0.8"
FOUR = "--limit 4 --resamples 200"
ALL_SETS = (
    "{data}/dsp/domain_specific_preference.test.json {data}/gsm8k/example_model_solutions.jsonl "
    "{data}/rm-bench/code_filtered.json"
)
NATURAL = "{data}/llmbar/LLMBar_Natural.json"

CASES = (
    # without a model
    Case("curves", "curves --horizons 2,4,8,16", "exact"),
    Case(
        "curves-coin",
        "curves --family coin-payoff --horizons 2,8,32 --alphas 0.3,2 --vocabs 4 --epsilon 0.05",
        "exact",
    ),
    Case("learn", "learn --horizons 2,4,8 --demonstrations 30,100,300 --seeds 3", "exact"),
    Case(
        "learn-window",
        "learn --horizons 3 --demonstrations 50 --seeds 2 --seed 5 --experts stochastic --window 2 "
        "--vocab 3 --n-prompts 4 --alpha 0.5 --smoothing 0.1",
        "exact",
    ),
    Case(
        "solve-tree",
        "solve tree.npz --alpha 0.5 --epsilon 0.2 --json out.json",
        "exact",
        {"tree.npz": tree(3, 3)},
        out=False,
    ),
    Case(
        "solve-table",
        "solve table.npz --alpha 1.5 --epsilon 0.7 --json out.json",
        "exact",
        {"table.npz": table},
        out=False,
    ),
    # bad input: one line, exit status 2
    Case("bad-verify", "verify --prompt A", "exact"),
    Case("bad-curves", "curves --vocabs 3", "exact"),
    Case("bad-learn", "learn --horizons 0", "exact"),
    Case("bad-solve", "solve nothing.npz --alpha 1", "exact", out=False),
    Case("bad-check", f"check --model {SORT}", "exact"),
    Case("bad-score", f"score --model {STORIES} --pairs nothing.jsonl", "exact"),
    Case("bad-ppo", f"ppo --model {SORT} --task sorting --epocs 1", "exact"),
    # every statement on random instances and on a model
    Case("verify", "verify --instances 4 --json copy.json", "training"),
    Case(
        "verify-sort",
        f"verify --instances 1 --seed 1 --model {SORT} --prompt ABCABC --prompt CCBBAA --horizon 4",
    ),
    Case(
        "verify-add",
        f"verify --instances 1 --seed 2 --model {ADD} --expert {TEACHER} --prompt 123456 "
        "--horizon 2 --alpha 0.5",
    ),
    # a model against its expert, the whole tree
    Case(
        "check-sort",
        f"check --model {SORT} --prompts words.txt --limit 2 --horizon 6",
        inputs=WORDS_TO_SORT,
    ),
    Case(
        "check-sort-bits",
        f"check --model {SORT} --expert-bits 4 --dtype bfloat16 --prompt ABCABC --horizon 4 "
        "--tokens AB --rest --alpha 0.5",
    ),
    Case(
        "check-add",
        f"check --model {ADD} --expert {TEACHER} --prompts sums.txt --limit 2 --horizon 3",
        inputs=SUMS,
    ),
    Case("check-stories", f"check --model {STORIES} {ONCE} --top-k 4 --horizon 3"),
    Case(
        "check-sort-mdp",
        f"check --model {SORT} --expert truth.npz --tokens ABC --alpha 0.5 --prompt ABCABC "
        "--prompt CCBBAA",
        inputs={"truth.npz": tree(3, 3)},
    ),
    Case(
        "check-add-mdp",
        f"check --model {ADD} --expert truth.npz --tokens 0123456789 --prompt 123456",
        inputs={"truth.npz": tree(10, 2, prompts=1)},
    ),
    # … sampled
    Case(
        "sampled-sort",
        f"check --model {SORT} --prompts words.txt --sampled 40 --horizon 6 --seed 3",
        inputs=WORDS_TO_SORT,
    ),
    Case(
        "sampled-add",
        f"check --model {ADD} --expert {TEACHER} --prompts sums.txt --sampled 40 --beam 8",
        inputs=SUMS,
    ),
    Case("sampled-stories", f"check --model {STORIES} {ONCE} --sampled 20 --beam 8 --horizon 8"),
    # preference data
    Case(
        "score-stories",
        f"score --model {STORIES} --pairs {{data}}/rm-bench/chat_filtered.json {NATURAL} {FOUR} "
        "--truncate",
    ),
    Case(
        "score-stories-sets",
        f"score --model {STORIES} --pairs {ALL_SETS} --limit 3 --resamples 200 --truncate "
        "--alpha 0.5 --terminal bootstrap --eos --html 2",
    ),
    Case(
        "score-add",
        f"score --model {ADD} --pairs pairs.jsonl --separator '' --reference {TEACHER} "
        "--resamples 200",
        inputs=ADDED,
    ),
    Case(
        "score-sort",
        f"score --model {SORT} --pairs pairs.jsonl --separator '' --gauge logprob --resamples 200",
        inputs=SORTED,
    ),
    Case("score-verifier", f"score --model {STORIES} --pairs {NATURAL} {FOUR} --method verifier"),
    Case("score-pointwise", f"score --model {STORIES} --pairs {NATURAL} {FOUR} --method pointwise"),
    Case("score-pairwise", f"score --model {STORIES} --pairs {NATURAL} {FOUR} --method pairwise"),
    # a model on its own reward
    Case(
        "ppo-sort",
        f"ppo --model {SORT} --task sorting --beta 0.1 --steps 2 --n-prompts 40 "
        f"--eval-prompts 3 {FEW}",
        "training",
    ),
    Case(
        "ppo-add",
        f"ppo --model {ADD} --task addition --beta 0.1 --steps 3 --n-prompts 100 "
        f"--eval-prompts 3 --seed 1 {FEW}",
        "training",
    ),
    Case(
        "ppo-add-lora",
        f"ppo --model {ADD} --task addition --steps 2 --n-prompts 100 --eval-prompts 3 "
        f"--lora 2 --alpha 0.5 {FEW} --reward dense --gauge logits --gae-lambda 0.9",
        "training",
    ),
    Case(
        "ppo-stories",
        f"ppo --model {STORIES} --data {{data}}/math/math-train.jsonl --n-prompts 8 --max-tokens 8 "
        f"--eval math500 --data-folder {{data}} --eval-prompts 3 --steps 2 {FEW}",
        "training",
    ),
    Case("ppo-dry", f"ppo --model {ADD} --task addition --dry-run --config config.json", inputs={
        "config.json": lambda path: path.write_text('{"beta": 0.3, "epochs": 3}', encoding="utf-8")
    }),
)  # fmt: skip


# Recording


def environment():
    """What the last digits depend on."""
    versions = {}
    for name in ("numpy", "scipy", "torch", "transformers", "python-flint"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line for line in lines if line.startswith("model name")), cpu)
    return {"python": platform.python_version(), "cpu": cpu.split(":")[-1].strip()} | versions


def keep(source, target, places):
    """Copy a result without places of this machine and pictures; others are known by name only."""
    if source.suffix in (".npz", ".safetensors"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    elif source.suffix in (".json", ".jsonl", *WORDS):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(anonymous(source.read_text(encoding="utf-8"), places), encoding="utf-8")


def anonymous(text, places):
    """The text without places of this machine."""
    for name, folder in places.items():
        text = text.replace(str(folder), name)
    return PICTURE.sub("data:image/…", text)


def record_case(case, command, folder, shared, limit):
    """Run a case and store what it gives; its exit status and seconds."""
    argv = case.argv(shared)
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        work = Path(name).resolve()
        places = {"<work>": work, "<shared>": shared}
        for file, write in case.inputs.items():
            write(work / file)
        started = time.monotonic()
        status, out, err = execute([*command, *argv], work, shared, limit)
        seconds = time.monotonic() - started
        written = sorted(path for path in work.rglob("*") if path.is_file())
        written = [path for path in written if str(path.relative_to(work)) not in case.inputs]
        for path in written:
            keep(path, folder / path.relative_to(work), places)
        names = {str(path.relative_to(work)): "written" for path in written}
        (folder / "stdout.txt").write_text(anonymous(out, places), encoding="utf-8")
        (folder / "stderr.txt").write_text(anonymous(err, places), encoding="utf-8")
    argv = [anonymous(word, places) for word in argv]
    about = {"argv": argv, "kind": case.kind, "status": status, "seconds": seconds, "files": names}
    write_json(folder / "case.json", about)
    return status, seconds


def execute(words, work, shared, limit):
    """Exit status, or "timeout", and what was printed."""
    settings = dict.fromkeys(ONE_THREAD, "1") | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    settings |= {"MPLBACKEND": "Agg", "COLUMNS": "100", "ENDORM_SHARED": str(shared)}
    if "PYTHONPATH" in os.environ:
        folders = os.environ["PYTHONPATH"].split(os.pathsep)
        settings["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
    options = {"cwd": work, "env": os.environ | settings, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(words, timeout=limit, capture_output=True, check=False, **options)
    except subprocess.TimeoutExpired:
        return "timeout", "", ""
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def record_interface(command, folder, shared, limit):
    """Store the commands and the names of their options, and not the words that explain them."""
    started = time.monotonic()
    status, text, _ = execute([*command, "--help"], folder, shared, limit)
    names = re.search(r"\{([\w,-]+)\}", text)
    options = {}
    for name in names[1].split(",") if names else ():
        _, text, _ = execute([*command, name, "--help"], folder, shared, limit)
        usage = text.split("\n\n")[0]
        found = re.findall(r"(?<![\w-])--?\w[\w-]*", usage)
        options[name] = dict.fromkeys(sorted(set(found)), True)
    seconds = time.monotonic() - started
    write_json(folder / "case.json", {"kind": "exact", "status": status, "seconds": seconds})
    write_json(folder / "options.json", options)
    return status, seconds


def record(arguments):
    """Run the cases, each into a folder of its own."""
    shared = arguments.shared.resolve()
    if not (shared / "models").is_dir():
        sys.exit(f"golden: no models in {shared}: give --shared, or set ENDORM_SHARED")
    command = shlex.split(arguments.command)
    if os.sep in command[0]:
        command[0] = os.path.abspath(command[0])  # a resolved link would leave its environment
    if shutil.which(command[0]) is None:
        sys.exit(f"golden: --command: there is no {command[0]}")
    runs = {"interface": record_interface}
    runs |= {case.name: lambda *given, case=case: record_case(case, *given) for case in CASES}
    total = 0.0
    for name, run in runs.items():
        if not fnmatch.fnmatch(name, arguments.only):
            continue
        folder = arguments.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        status, seconds = run(command, folder, shared, arguments.timeout)
        total += seconds
        print(f"{name:<20} exit {status}  {seconds:6.1f} s", flush=True)
    write_json(arguments.folder / "environment.json", environment())
    print(f"{total:.0f} s; {arguments.folder}")
    return 0


def write_json(path, value):
    """Write JSON that people can read."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


# Comparing


class Order(tuple):
    """Names of a list, whose order is compared of what both sides have."""

    __slots__ = ()


class Text(tuple):
    """Lines."""

    __slots__ = ()


def name_of(item):
    """Name of an object in a list; of a finding its group and statement."""
    if not isinstance(item, dict):
        return ""
    parts = (item.get("group"), item.get("statement"))
    name = item.get("name") or ", ".join(part for part in parts if isinstance(part, str) and part)
    return name if isinstance(name, str) else ""


def flatten(value, path, table):
    """Put what a JSON value holds into a table, by path."""
    if isinstance(value, list) and value:
        names = [name_of(item) for item in value]
        if all(names) and len(set(names)) == len(names):
            table[f"{path}/(order)"] = Order(names)
            value = dict(zip(names, value, strict=True))
        else:
            value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for name, item in value.items():
            flatten(item, f"{path}/{name}", table)
    else:
        table[path] = value


def arrays(path):
    """Arrays of a file by name; a type that NumPy lacks as its bytes."""
    if zipfile.is_zipfile(path):
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
    found = {}
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = (start + n for n in about["data_offsets"])
            kind = types.get(about["dtype"], "u1")
            array = np.frombuffer(data[first:end], kind)
            found[name] = array if kind == "u1" else array.reshape(about["shape"])
    return found


def read(root, only):
    """Everything below a folder of `record`, by path."""
    table = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if "/" in name and not fnmatch.fnmatch(name.split("/")[0], only):
            continue
        if path.suffix == ".json":
            flatten(json.loads(path.read_bytes()), name, table)
        elif path.suffix == ".jsonl":
            flatten([json.loads(line) for line in path.open("rb")], name, table)
        elif path.suffix in WORDS:
            lines = path.read_text(encoding="utf-8").splitlines()
            for mask, text in MASKS if path.name == "stdout.txt" else ():
                lines = [re.sub(mask, text, line) for line in lines]
            table[name] = Text(lines)
        elif path.suffix in (".npz", ".safetensors"):
            table |= {f"{name}/{key}": array for key, array in arrays(path).items()}
    return table


def matcher(pattern):
    """Regular expression of a path with wildcards, each a group."""
    steps = re.split(r"(\*\*|\*)", pattern)
    groups = {"**": "(.*)", "*": "([^/]*)"}
    return re.compile("".join(groups.get(step) or re.escape(step) for step in steps))


def renamed(path, renames):
    """The path that this one has now."""
    for old, new in renames.items():
        found = matcher(old).fullmatch(path)
        if found:
            parts = re.split(r"\*\*|\*", new)
            if len(parts) != len(found.groups()) + 1:
                sys.exit(f"golden: --rename: {old} and {new} do not have as many wildcards")
            return parts[0] + "".join(a + b for a, b in zip(found.groups(), parts[1:], strict=True))
    return path


def is_number(value):
    """Whether JSON says that it is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def near(old, new, tolerance, more=0.0):
    """Whether two numbers are the same but for the tolerance."""
    if old == new or (math.isnan(old) and math.isnan(new)):
        return True
    return math.isclose(old, new, rel_tol=tolerance[0], abs_tol=tolerance[1] + more)


def last_place(number):
    """One unit of the last place that is printed; of a whole number none."""
    mantissa, _, exponent = number.lower().partition("e")
    if "." not in mantissa and not exponent:
        return 0.0
    return 1.0001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def same_line(old, new, tolerance):
    """Whether two lines differ in no more than the last places of their numbers."""
    if old == new:
        return True
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    return all(
        near(float(a), float(b), tolerance, max(last_place(a), last_place(b)))
        for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    )


def differences(path, old, new, tolerance):
    """Yield for each difference of two values its kind, its path, and what to print."""
    if isinstance(old, Text) and isinstance(new, Text):
        yield from text_differences(path, old, new, tolerance)
    elif isinstance(old, Order) and isinstance(new, Order):
        both = [[name for name in one if name in other] for one, other in ((old, new), (new, old))]
        if both[0] != both[1]:
            yield "changed", path, change(" ".join(both[0]), " ".join(both[1]))
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        yield from array_differences(path, old, new, tolerance)
    elif is_number(old) and is_number(new):
        if not near(old, new, tolerance):
            size = max(abs(old), abs(new))
            yield "changed", path, f"{old!r} → {new!r} ({abs(old - new) / size:.1e} relative)"
    elif type(old) is not type(new) or old != new:
        yield "changed", path, change(old, new)


def array_differences(path, old, new, tolerance):
    """As `differences`, of two arrays: the element that is farthest away."""
    if old.shape != new.shape or old.dtype != new.dtype:
        text = [f"{one.dtype}{list(one.shape)}" for one in (old, new)]
        yield "changed", path, " → ".join(text)
    elif old.dtype.kind not in "fiub":
        if not np.array_equal(old, new):
            yield "changed", path, f"{np.count_nonzero(old != new)} of {old.size} elements"
    else:
        a, b = old.astype(float), new.astype(float)
        close = np.isclose(a, b, rtol=tolerance[0], atol=tolerance[1], equal_nan=True)
        if not close.all():
            with np.errstate(invalid="ignore"):
                size = np.where(close, -1.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
            worst = np.unravel_index(np.argmax(size), size.shape)
            where = ",".join(map(str, worst))
            text = f"[{where}] {float(a[worst])!r} → {float(b[worst])!r}"
            yield "changed", path, f"{text} (worst of {np.count_nonzero(~close)} of {a.size})"


def text_differences(path, old, new, tolerance):
    """As `differences`, line by line; a line that is only in `new` is an addition."""
    keys = [[NUMBER.sub("#", line) for line in lines] for lines in (old, new)]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        for k in range(max(b - a, d - c)):
            place = f"{path}:{(a if kind != 'insert' else c) + k + 1}"
            if a + k >= b:
                yield "added", place, shorten(new[c + k])
            elif c + k >= d:
                yield "missing", place, shorten(old[a + k])
            elif not same_line(old[a + k], new[c + k], tolerance):
                yield "changed", place, change(old[a + k], new[c + k])


def change(old, new):
    """Both values, from a little before they part."""
    texts = [one if isinstance(one, str) else repr(one) for one in (old, new)]
    start = 0
    if max(map(len, texts)) > SHORT:
        equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
        start = max(sum(1 for _ in equal) - SHORT // 3, 0)
    return " → ".join(("…" if start else "") + shorten(text[start:]) for text in texts)


def shorten(value):
    """The beginning of a value."""
    if isinstance(value, np.ndarray):
        value = f"array of shape {value.shape}"
    elif isinstance(value, Text):
        value = f"{len(value)} lines"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHORT else text[:SHORT] + "…"


def tolerances(old, new, scale):
    """Of each case, by name."""
    found = {}
    for path, kind in (new | old).items():
        if path.endswith("/case.json/kind"):
            factor = 1.0 if kind == "exact" else scale
            found[path.split("/")[0]] = tuple(factor * number for number in TOLERANCE[kind])
    return found


def below(path, table):
    """Whether the table has this path as a list or an object that is not empty."""
    return path not in table and any(other.startswith(f"{path}/") for other in table)


def compare(arguments):
    """Print what differs; 1 if anything but additions does."""
    for folder in (arguments.old, arguments.new):
        if not (folder / "environment.json").is_file():
            sys.exit(f"golden: {folder} is no folder of record, or was not finished")
    renames = dict(RENAMES)
    if arguments.rename is not None:
        renames |= json.loads(arguments.rename.read_bytes())
    old, new = (read(folder, arguments.only) for folder in (arguments.old, arguments.new))
    for path in sorted(path for path in old.keys() | new.keys() if path.startswith("environment")):
        if old.get(path) != new.get(path):
            print(f"golden: {path}: {change(old.get(path), new.get(path))}", file=sys.stderr)
    allowed = tolerances(old, new, arguments.scale)
    used = {renamed(path, renames): value for path, value in old.items()}
    volatile = [matcher(pattern) for pattern in VOLATILE]
    paths = [*used, *(path for path in new if path not in used)]
    kept = [path for path in paths if not any(one.fullmatch(path) for one in volatile)]
    found = {"changed": [], "missing": [], "added": []}
    grown = [
        {
            path
            for path, value in one.items()
            if isinstance(value, list | dict) and below(path, other)
        }
        for one, other in ((used, new), (new, used))
    ]
    for path in kept:
        if path in grown[0] or path in grown[1]:
            continue  # empty on one side alone: what the other side has below it is named
        if path not in new:
            found["missing"].append((path, shorten(used[path])))
        elif path not in used:
            found["added"].append((path, shorten(new[path])))
        else:
            tolerance = allowed.get(path.split("/")[0], TOLERANCE["exact"])
            for kind, place, text in differences(path, used[path], new[path], tolerance):
                found[kind].append((place, text))
    for kind, rows in found.items():
        if rows:
            print(f"{kind}: {len(rows)}")
        for place, text in rows[: arguments.show]:
            print(f"  {place}: {text}")
        if len(rows) > arguments.show:
            print(f"  … and {len(rows) - arguments.show} more; see --show")
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in found.items())
    fields = f"{len(kept)} fields of {len(allowed)} cases, {len(paths) - len(kept)} volatile"
    print(f"{fields}; {counts}")
    return int(bool(found["changed"] or found["missing"]))


def parser():
    """The command line."""
    root = Path(__file__).resolve().parent.parent
    shared = Path(os.environ.get("ENDORM_SHARED", root.parent / "shared"))
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--only", default="*", metavar="GLOB", help="only cases of these names")
    whole = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(required=True)
    recorder = commands.add_parser("record", parents=[both], help="run every case")
    recorder.set_defaults(run=record)
    recorder.add_argument("folder", type=Path, metavar="DIR", help="cases in it are replaced")
    recorder.add_argument(
        "--command", default="endorm", metavar="CMD", help="what runs endorm (default endorm)"
    )
    recorder.add_argument(
        "--shared", type=Path, default=shared, metavar="DIR",
        help="folder of models/ and data/ (default ENDORM_SHARED, or shared beside the repository)",
    )  # fmt: skip
    recorder.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds of a case (default 600)"
    )
    comparer = commands.add_parser("compare", parents=[both], help="hold two recordings together")
    comparer.set_defaults(run=compare)
    comparer.add_argument("old", type=Path, metavar="OLD")
    comparer.add_argument("new", type=Path, metavar="NEW")
    comparer.add_argument(
        "--rename", type=Path, metavar="FILE", help="JSON object: a path in OLD to the one in NEW"
    )
    comparer.add_argument(
        "--scale", type=float, default=1.0, help="factor of the tolerances where a model is read"
    )
    comparer.add_argument("--show", type=int, default=40, metavar="N", help="lines of each kind")
    return whole


if __name__ == "__main__":
    parsed = parser().parse_args()
    sys.exit(parsed.run(parsed))
