"""The mathematics needs neither torch, balls nor a plotting library to be imported; what imports or
names a file finds it.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_core_imports_neither_torch_nor_pyplot():
    code = (
        "import sys, theory.arrays.namespace, theory.mdp.dynamics, theory.solve.soft, "
        "theory.mdp.token_mdp, theory.mdp.policy, theory.solve.reward,"
        "theory.fit.imitation, theory.solve.improve, theory.fit.rlhf, "
        "theory.claims.statements, theory.studies.groups;"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'transformers', 'flint') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_benchmarks_import_what_is_there():
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            name = node.module or ""
            if (ROOT / "tests" / f"{name}.py").exists():
                raise AssertionError(f"{path.name}: {name} is a test's")
            if name.split(".")[0] in ("theory", "llm_bridge"):
                assert importlib.util.find_spec(name) is not None, f"{path.name}: {name}"


def test_documents_name_files_that_are_there():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        if path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:theory|llm_bridge|benchmarks|tests)/[\w/]+\.\w+)`", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"
