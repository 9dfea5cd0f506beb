"""``import endorm`` and ``python -m endorm``; modules of the same names in front are recognised."""

import subprocess
import sys
from pathlib import Path

import pytest

import endorm
import llm_bridge
import theory
from endorm.ours import require_ours

ROOT = Path(__file__).parent.parent


def run(code, folder, *path):
    given = ":".join(map(str, (*path, ROOT)))
    environment = {"PYTHONPATH": given, "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, *code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_the_door_has_every_name_once():
    assert sorted(endorm.__all__) == sorted({*theory.__all__, *llm_bridge.__all__})
    assert endorm.TokenMDP is theory.TokenMDP
    assert set(endorm.__all__) <= set(dir(endorm))
    with pytest.raises(AttributeError, match="'endorm' has no attribute 'no_such_name'"):
        endorm.no_such_name  # noqa: B018


def test_it_loads_no_torch(tmp_path):
    code = "import sys, endorm; endorm.TokenMDP; print('torch' in sys.modules)"
    assert run(["-c", code], tmp_path).stdout == "False\n"


def test_python_m_endorm_is_the_command(tmp_path):
    done = run(["-m", "endorm", "--version"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"endorm {endorm.__version__}\n", "")


@pytest.mark.parametrize("name", ["theory", "llm_bridge"])
def test_a_file_of_that_name_in_front_is_named_in_one_line(tmp_path, name):
    mine = tmp_path / f"{name}.py"
    mine.write_text("x = 1\n")
    done = run(["-m", "endorm", "--version"], tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"endorm: {mine} is imported as {name!r} instead of endorm's: rename it, or run from "
        "another folder\n"
    )
    done = run(["-c", "import endorm; endorm.TokenMDP"], tmp_path, tmp_path)
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {mine} is imported as {name!r}")


def test_a_package_of_another_distribution_is_named(tmp_path):
    """``llm-bridge`` on the index installs a package `llm_bridge`."""
    (tmp_path / "llm_bridge").mkdir()
    (tmp_path / "llm_bridge" / "__init__.py").write_text("")
    info = tmp_path / "llm_bridge-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-bridge\nVersion: 1.0\n")
    (info / "RECORD").write_text("llm_bridge/__init__.py,,\n")
    done = run(["-m", "endorm", "--version"], tmp_path, tmp_path)
    assert done.returncode == 2
    assert "llm_bridge/__init__.py is of the distribution llm-bridge, not of endorm" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ours_are_ours():
    require_ours()
