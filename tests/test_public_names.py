"""The public names are what the stubs say, and loading a package loads no torch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("package", ["theory", "llm_bridge"])
def test_every_public_name_is_the_one_of_its_module(package):
    if package == "llm_bridge":
        pytest.importorskip("torch")
    module = importlib.import_module(package)
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
    names = []
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            room = importlib.import_module(f"{package}.{node.module}")
            for alias in node.names:
                names.append(alias.name)
                assert getattr(module, alias.name) is getattr(room, alias.name)
    assert sorted(module.__all__) == sorted(names)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


def test_packages_load_nothing_heavy():
    code = "import sys, theory, llm_bridge; from theory import TokenMDP, STATEMENTS\n"
    code += "print(*(m for m in ('torch', 'matplotlib', 'scipy.optimize') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("", "")
