"""Mutation gate: small faults are planted in the code, one at a time, and a test must turn red.

Run ``make mutate``. A seeded sample of mutants is made by cosmic-ray's operators and three of our
own; each is served to a forked process by an import hook, so no file is changed, and the quick
tests that import its module, those that name its function before the others, run until one fails.
Results are appended as they come: a run that was stopped goes on. Exit code 1 where less than
`FLOOR` of a named group is killed; mutants that no input can tell from the code do not count
(``mutation_equivalent.toml``, each with its reason).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.toml")
SEED, EACH, OTHERS, FLOOR = 0, 24, 66, 0.9
NO_TESTS, TIMEOUT = 5, -1
DEAD = ("killed", "timeout")
IMPORTED = ("hypothesis", "numpy", "pytest", "scipy.optimize", "torch", "transformers")
BUDGET, STARTUP = 30.0, 30.0
"""Seconds of tests for a mutant, as they take without it; and what importing may add."""

GROUPS = {
    "verdict": ["theory/claims/verdict.py"],
    "statements": ["theory/claims/statements.py", "theory/claims/findings.py"],
    "bounds": ["theory/claims/bounds.py"],
    "adversary": [f"theory/solve/{x}.py" for x in ("ball", "worst_clone", "worst_map", "worst_kl")],
    "soft": ["theory/solve/soft.py"],
    "reward": ["theory/solve/reward.py"],
    "instance": ["theory/claims/instance.py", "theory/claims/quantities.py"],
    "intervals": [f"theory/arrays/{x}.py" for x in ("balls", "enclosure", "doubles")],
    "discounted": [f"theory/{x}/discounted.py" for x in ("claims", "mdp", "solve")],
    "policy": ["theory/mdp/policy.py"],
    "checks": ["theory/claims/checks.py", "theory/mdp/checks.py"],
    "sampled": ["llm_bridge/check/sampled.py"],
    "target": ["llm_bridge/improve/target.py"],
    "ppo": ["llm_bridge/improve/ppo.py"],
    "accuracy": ["llm_bridge/preferences/accuracy.py"],
    "pairs": ["llm_bridge/preferences/pairs.py"],
}

BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "BitAnd_BitOr")
COMPARISON = (
    "Lt_LtE",
    "LtE_Lt",
    "Gt_GtE",
    "GtE_Gt",
    "Eq_NotEq",
    "NotEq_Eq",
    "Is_IsNot",
    "IsNot_Is",
)
OTHER = (
    *("NumberReplacer", "AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse"),
    *("ReplaceFalseWithTrue", "ReplaceUnaryOperator_Delete_Not", "ZeroIterationForLoop"),
    "ReplaceUnaryOperator_Delete_USub",
)


class _Own(Operator):
    """An operator whose `changes` of a node are numbered."""

    def mutation_positions(self, node: Any) -> Any:
        for _ in self.changes(node):
            yield (node.start_pos, node.end_pos)

    def mutate(self, node: Any, index: int) -> Any:
        new = self.parsed(self.changes(node)[index].strip())
        new.get_first_leaf().prefix = node.get_first_leaf().prefix
        return new

    def parsed(self, code: str) -> Any:
        return parso.parse(f"({code})").children[0]

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()

    def changes(self, node: Any) -> list[str]:
        raise NotImplementedError


class DropTerm(_Own):
    """``a + b`` becomes ``a``, and ``a·b`` too; ``a − b`` and ``a / b`` as well."""

    def changes(self, node: Any) -> list[str]:  # noqa: D102
        if node.type not in ("arith_expr", "term"):
            return []
        parts = node.children
        kept = [parts[: i - 1] + parts[i + 1 :] for i in range(2, len(parts), 2)]
        return ["".join(x.get_code() for x in part) for part in kept]


class SwapArguments(_Own):
    """``f(a, b)`` becomes ``f(b, a)``, for two neighbouring positional arguments."""

    def changes(self, node: Any) -> list[str]:  # noqa: D102
        if node.type != "arglist" or node.parent.type == "classdef":
            return []
        found, parts = [], node.children
        for i in range(0, len(parts) - 2, 2):
            pair = parts[i], parts[i + 2]
            if any(x.type == "argument" for x in pair) or _text(pair[0]) == _text(pair[1]):
                continue
            swapped = [*parts[:i], parts[i + 2], parts[i + 1], parts[i], *parts[i + 3 :]]
            found.append("".join(x.get_code() for x in swapped))
        return found

    def parsed(self, code: str) -> Any:  # noqa: D102
        return parso.parse(f"f({code})").children[0].children[1].children[1]


class SwapName(_Own):
    """``max`` becomes ``min``, ``all`` becomes ``any``, and the other way round."""

    OTHER: ClassVar = dict(
        pair
        for a, b in (("max", "min"), ("maximum", "minimum"), ("all", "any"), ("argmax", "argmin"))
        for pair in ((a, b), (b, a))
    )

    def changes(self, node: Any) -> list[str]:  # noqa: D102
        if node.type != "name" or node.value not in self.OTHER:
            return []
        return [self.OTHER[node.value]]

    def parsed(self, code: str) -> Any:  # noqa: D102
        return parso.parse(code).children[0]


def _text(node: Any) -> str:
    return node.get_code(include_prefix=False)


def operators() -> dict[str, Operator]:
    """Every operator by its name."""
    names = [f"ReplaceBinaryOperator_{x}" for x in BINARY]
    names += [*(f"ReplaceComparisonOperator_{x}" for x in COMPARISON), *OTHER]
    found = {name: get_operator(f"core/{name}")() for name in names}
    return found | {own.__name__: own() for own in (DropTerm, SwapArguments, SwapName)}


def excluded(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans that say nothing about numbers: docstrings, annotations, errors, names, reprs."""
    tree, lines, spans = ast.parse(source), source.split("\n"), []

    def add(node: Any) -> None:
        def column(line: int, offset: int) -> int:
            return len(lines[line - 1].encode()[:offset].decode())

        start = (node.lineno, column(node.lineno, node.col_offset))
        spans.append((start, (node.end_lineno, column(node.end_lineno, node.end_col_offset))))

    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(
            node, ast.Raise | ast.Assert | ast.ImportFrom | ast.Import | ast.JoinedStr
        ):
            add(node)
        elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            add(node.annotation)
        elif (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)) or (
            isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
        ):
            add(node)
        elif isinstance(node, ast.FunctionDef):
            if node.returns:
                add(node.returns)
            if node.name in ("__repr__", "__str__", "_repr_html_"):
                add(node)
    return spans


def mutants(path: str, n: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Up to `n` mutants of a file, the same for a seed."""
    source = (ROOT / path).read_text()
    spans, tree, found = excluded(source), get_ast(source), []
    nodes, lines = list(ast_nodes(tree)), source.split("\n")
    for name, operator in operators().items():
        occurrence = 0
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                if not any(a <= start < b for a, b in spans):
                    line = " ".join(lines[start[0] - 1].split())
                    found.append((name, occurrence, start[0], line))
                occurrence += 1
    chosen = random.Random(f"{seed} {path}")
    chosen.shuffle(found)
    made, taken = [], set()
    for name, occurrence, number, line in found:
        if len(made) == n:
            break
        if (name, number) in taken:  # one of a kind on a line
            continue
        changed = mutate_code(source, operators()[name], occurrence)
        try:
            same = changed is None or ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source))
        except SyntaxError:
            continue
        if same:
            continue
        taken.add((name, number))
        key = hashlib.sha256(f"{path} {name} {changed}".encode()).hexdigest()[:12]
        after = next(
            (
                " ".join(b.split())
                for a, b in zip(lines, changed.split("\n"), strict=False)
                if a != b
            ),
            "",
        )
        row = {"key": key, "path": path, "operator": name, "line": number}
        row["function"] = enclosing(source, number)
        made.append({**row, "before": line, "after": after, "source": changed})
    return made


@cache
def functions(source: str) -> list[tuple[int, int, str]]:
    """First line, last line and name of every function."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [(node.lineno, node.end_lineno or node.lineno, node.name) for node in found]


def enclosing(source: str, line: int) -> str:
    """Name of the innermost function around a line, empty if there is none."""
    around = [(first, name) for first, last, name in functions(source) if first <= line <= last]
    return max(around, default=(0, ""))[1]


@cache
def lines_made(path: str, operator: str) -> set[str]:
    """First lines that an operator changes in a file, as it leaves them, wherever it applies."""
    source, made = (ROOT / path).read_text(), set()
    own = operators()[operator]
    count = sum(len(list(own.mutation_positions(x))) for x in ast_nodes(get_ast(source)))
    for occurrence in range(count):
        changed = mutate_code(source, own, occurrence) or source
        pairs = zip(source.split("\n"), changed.split("\n"), strict=False)
        made |= {" ".join(b.split()) for a, b in list(pairs) if a != b}
    return made


def sample(each: int = EACH, others: int = OTHERS) -> list[dict[str, Any]]:
    """The mutants of every named group, then those of the other files."""
    made = []
    for group, paths in GROUPS.items():
        pools = [mutants(path, each) for path in paths]
        sizes = [len((ROOT / path).read_text()) for path in paths]
        shares = [max(1, round(each * size / sum(sizes))) for size in sizes]
        made += [
            {**row, "group": group}
            for pool, share in zip(pools, shares, strict=True)
            for row in pool[:share]
        ]
    named = {path for paths in GROUPS.values() for path in paths}
    rest = sorted(
        str(path.relative_to(ROOT))
        for package in ("theory", "llm_bridge")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and str(path.relative_to(ROOT)) not in named
    )
    random.Random(SEED).shuffle(rest)
    for path in rest[:others]:
        made += [{**row, "group": "others"} for row in mutants(path, 1)]
    return made


class _Served(importlib.machinery.SourceFileLoader):
    """A module whose source is not that of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source.encode()

    def get_data(self, path: str) -> bytes:
        return self._source

    def path_stats(self, path: str) -> Any:
        raise OSError  # no bytecode is read or written


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self.name = path.removesuffix(".py").replace("/", ".")
        self.path, self.source = str(ROOT / path), source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        loader = _Served(name, self.path, self.source)
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def start(arguments: list[str], mutant: dict[str, Any] | None) -> int:
    """Fork a process that runs pytest on a mutant; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.chdir(ROOT)
        sys.path.insert(0, str(ROOT))
        if mutant:
            sys.meta_path.insert(0, _Finder(mutant["path"], mutant["source"]))
        import pytest

        code = int(pytest.main(arguments))
    finally:
        os._exit(code)


def ended(process: int, until: float) -> int | None:
    """Exit code; None while it runs; `TIMEOUT` after it was ended because time was up."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found:
        return os.waitstatus_to_exitcode(status)
    if time.monotonic() < until:
        return None
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return TIMEOUT


QUIET = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m"]
QUIET += ["not (slow or long or coq)", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


def test_files(path: str) -> list[str]:
    """Tests of the same package that import a module, or have its name: first those of its name,
    then of its folder, then others.
    """
    module, stem, folder = (
        path.removesuffix(".py").replace("/", "."),
        Path(path).stem,
        Path(path).parent,
    )
    found = []
    for file in sorted((ROOT / "tests" / folder.parts[0]).rglob("test_*.py")):
        name, near = file.relative_to(ROOT), file.parent == ROOT / "tests" / folder
        imports = f"{module} import" in file.read_text()
        if imports or near:
            found.append((stem not in name.stem, not near, not imports, str(name)))
    return [entry[-1] for entry in sorted(found)]


def named_first(files: list[str], name: str) -> list[str]:
    """The files, those before the others that have the name of the function that was changed."""
    return sorted(files, key=lambda file: not name or name not in (ROOT / file).read_text())


def parallel(jobs: list[Any], launch: Any, report: Any, workers: int) -> None:
    """Run jobs, so many at a time; `report` gets each with its exit code and seconds."""
    waiting, running = list(reversed(jobs)), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                process, seconds = launch(job)
                now = time.monotonic()
                running[process] = (job, now, now + seconds)
            for process, (job, since, until) in list(running.items()):
                code = ended(process, until)
                if code is not None:
                    del running[process]
                    report(job, code, time.monotonic() - since)
            time.sleep(0.02)
    finally:
        for process in running:
            os.killpg(process, signal.SIGKILL)


def noted(store: Path) -> list[dict[str, Any]]:
    """The lines of a file of results, without those that a stop has cut."""
    rows = []
    for line in store.read_text().splitlines() if store.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def baselines(files: list[str], out: Path, workers: int) -> dict[str, float]:
    """Seconds of every test file without a mutant, infinite where it lasts too long or has no quick
    test; raise `RuntimeError` where one fails: every mutant would seem killed.
    """
    store = out / "files.jsonl"
    known = {row["file"]: row["seconds"] for row in noted(store)}

    def report(file: str, code: int, seconds: float) -> None:
        if code not in (0, NO_TESTS, TIMEOUT):
            raise RuntimeError(f"{file} fails without a mutant (exit code {code}): mend it first")
        known[file] = round(seconds, 2) if code == 0 else float("inf")
        with store.open("a") as lines:
            lines.write(json.dumps({"file": file, "seconds": known[file], "code": code}) + "\n")

    left = [file for file in files if file not in known]
    parallel(left, lambda file: (start([*QUIET, file], None), 10 * BUDGET), report, workers)
    return known


def within_budget(files: list[str], seconds: dict[str, float], budget: float = BUDGET) -> list[str]:
    """The first file, whatever it takes, and those that go into the budget with it."""
    chosen, spent = [], 0.0
    for file in files:
        if seconds[file] < float("inf") and (not chosen or spent + seconds[file] <= budget):
            chosen.append(file)
            spent += seconds[file]
    return chosen


def run(
    made: list[dict[str, Any]], out: Path, workers: int, budget: float = BUDGET
) -> dict[str, dict[str, Any]]:
    """Try every mutant that `out` has no result of; returns results by key."""
    out.mkdir(parents=True, exist_ok=True)
    store = out / "mutants.jsonl"
    results = {row["key"]: row for row in noted(store)}
    left = [mutant for mutant in made if mutant["key"] not in results]
    tests = {path: test_files(path) for path in {mutant["path"] for mutant in left}}
    seconds = baselines(sorted({x for files in tests.values() for x in files}), out, workers)
    asked = {
        mutant["key"]: within_budget(
            named_first(tests[mutant["path"]], mutant["function"]), seconds, budget
        )
        for mutant in left
    }

    def launch(mutant: dict[str, Any]) -> tuple[int, float]:
        files = asked[mutant["key"]]
        return start([*QUIET, *files], mutant), 3 * sum(seconds[x] for x in files) + STARTUP

    def report(mutant: dict[str, Any], code: int, taken: float) -> None:
        verdict = {0: "survived", 1: "killed", 2: "killed", TIMEOUT: "timeout"}.get(
            code, "no answer"
        )
        row = {name: x for name, x in mutant.items() if name != "source"}
        results[mutant["key"]] = {**row, "verdict": verdict, "seconds": round(taken, 1)}
        with store.open("a") as lines:
            lines.write(json.dumps(results[mutant["key"]]) + "\n")
        print(f"{len(results):4} {verdict:8} {taken:5.1f} s  {mutant['path']}:{mutant['line']}  "
              f"{mutant['after'][:80]}", flush=True)  # fmt: skip

    for mutant in left:
        if not asked[mutant["key"]]:  # pytest without a file would run them all
            report(mutant, 0, 0.0)
    parallel([x for x in left if asked[x["key"]]], launch, report, workers)
    return {mutant["key"]: results[mutant["key"]] for mutant in made}


def reasons() -> dict[tuple[str, str, str], str]:
    """Why a mutant cannot be told from the code, by file, operator and the mutated line."""
    listed = tomllib.loads(EQUIVALENT.read_text())["equivalent"] if EQUIVALENT.exists() else []
    return {(x["path"], x["operator"], x["after"]): x["reason"] for x in listed}


def table(rows: list[dict[str, Any]], groups: list[str]) -> tuple[str, bool]:
    """The results of groups in Markdown, and whether each that is named is above the floor."""
    why, lines, enough = reasons(), [], True
    lines += [
        "| group | mutants | killed | equivalent | survived | share |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    survivors, equivalents = [], []
    for group in groups:
        mine = [row for row in rows if row["group"] == group]
        killed = sum(row["verdict"] in DEAD for row in mine)
        alive = [row for row in mine if row["verdict"] not in DEAD]
        equal = [row for row in alive if (row["path"], row["operator"], row["after"]) in why]
        survivors += [row for row in alive if row not in equal]
        equivalents += equal
        share = killed / max(1, len(mine) - len(equal))
        enough &= group == "others" or share >= FLOOR
        lines.append(
            f"| {group} | {len(mine)} | {killed} | {len(equal)} | {len(alive) - len(equal)} "
            f"| {100 * share:.0f} % |"
        )
    lines += ["", "Survivors:", ""]
    lines += [f"- `{x['path']}`: `{x['before']}` → `{x['after']}`" for x in survivors]
    lines += ["", "Equivalent:", ""]
    for x in equivalents:
        reason = why[x["path"], x["operator"], x["after"]]
        lines.append(f"- `{x['path']}`: `{x['before']}` → `{x['after']}`: {reason}")
    return "\n".join(lines), enough


def main(arguments: list[str] | None = None) -> int:
    """Run the sample, print the table; 1 if a named group is below the floor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "mutation")
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS, "others"])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds of tests for a mutant"
    )
    options = parser.parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    groups = options.groups or [*GROUPS, "others"]
    every = sample()
    made = [row for row in every if row["group"] in groups]
    unseen = set(reasons()) - {(row["path"], row["operator"], row["after"]) for row in every}
    stale = {x for x in unseen if x[2] not in lines_made(x[0], x[1])}  # an edit moves the sample
    if stale:
        print(f"{EQUIVALENT.name}: not among the mutants: {sorted(stale)[0]}", file=sys.stderr)
        return 2
    store = options.out / "mutants.jsonl"
    if options.again and store.exists():
        rows, why = noted(store), reasons()
        kept = [
            row
            for row in rows
            if row["verdict"] in DEAD or (row["path"], row["operator"], row["after"]) in why
        ]
        store.write_text("".join(json.dumps(row) + "\n" for row in kept))
    for name in IMPORTED:
        importlib.import_module(name)  # once: the forked processes have them

    try:
        results = run(made, options.out, options.workers, options.budget)
    except RuntimeError as error:
        print(f"mutation.py: {error}", file=sys.stderr)
        return 2
    text, enough = table(list(results.values()), groups)
    (options.out / "table.md").write_text(text + "\n")
    print(text)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
