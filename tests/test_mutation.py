"""The mutation gate finds a planted fault, goes on where it was stopped, and believes no list."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

MODULE = '''"""A docstring with 1 + 1 in it."""


def area(width: "1 + 1", height: float) -> float:
    """Not 2 * 3."""
    if width < 0:
        raise ValueError(f"width={width + 1}: 1 + 1")
    return width * height


def unseen(x):
    return x + 5
'''
TEST = """
from tiny.module import area


def test_area():
    assert area(2, 3) == 6
    assert area(0, 3) == 0
"""
SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import mutation

mutation.ROOT = Path(sys.argv[2])
mutation.EQUIVALENT = mutation.ROOT / "equivalent.toml"
mutation.GROUPS = {"tiny": ["tiny/module.py"]}
mutation.IMPORTED = ("pytest",)
sys.exit(mutation.main(["--workers", "2", "--groups", "tiny", *sys.argv[3:]]))
"""


@pytest.fixture
def root(tmp_path):
    for path, text in {
        "tiny/__init__.py": "",
        "tiny/module.py": MODULE,
        "tests/tiny/test_module.py": TEST,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def gate(root, *options):
    command = [sys.executable, "-c", SCRIPT, str(BENCHMARKS), str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def rows(root):
    lines = (root / "out" / "mutation" / "mutants.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def listed(rows):
    keys = ("path", "operator", "after")
    return "".join(
        "[[equivalent]]\n"
        + "".join(f"{key} = {json.dumps(row[key])}\n" for key in keys)
        + 'reason = "nothing reads it"\n'
        for row in rows
    )


@pytest.mark.slow
def test_a_planted_fault_is_found_and_one_that_no_test_sees_survives(root):
    done = gate(root)
    found = rows(root)
    assert done.returncode == 1, done.stderr  # below the floor
    seen = [row for row in found if row["line"] in (6, 8)]
    unseen = [row for row in found if row["line"] == 12]
    assert seen
    assert unseen
    assert len(seen) + len(unseen) == len(found)  # no docstring, annotation or error
    assert {row["verdict"] for row in seen} == {"killed"}
    assert {row["verdict"] for row in unseen} == {"survived"}
    assert (root / "tiny" / "module.py").read_text() == MODULE
    # what is there is not tried again
    again = gate(root)
    assert (again.returncode, rows(root)) == (1, found)
    assert again.stdout.startswith("| group |")
    # survivors that are listed do not count
    (root / "equivalent.toml").write_text(listed(unseen))
    excused = gate(root)
    assert excused.returncode == 0
    assert "nothing reads it" in excused.stdout
    # one that is no mutant is refused
    stale = {"path": "tiny/module.py", "operator": "AddNot", "after": "return x + 6"}
    (root / "equivalent.toml").write_text(listed([*unseen, stale]))
    refused = gate(root)
    assert refused.returncode == 2
    assert "not among the mutants" in refused.stderr


@pytest.mark.slow
def test_a_test_that_fails_anyway_kills_nothing(root):
    (root / "tests" / "tiny" / "test_module.py").write_text("def test_area():\n    assert False\n")
    done = gate(root)
    assert done.returncode == 2
    assert "test_module.py fails without a mutant" in done.stderr
    assert not (root / "out" / "mutation" / "mutants.jsonl").exists()


@pytest.mark.slow
def test_without_a_test_every_mutant_survives(root):
    (root / "tests" / "tiny" / "test_module.py").unlink()
    assert gate(root).returncode == 1
    assert {row["verdict"] for row in rows(root)} == {"survived"}
