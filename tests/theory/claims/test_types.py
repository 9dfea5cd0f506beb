"""The type checker sees a quantity that an instance does not have."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

CLAIMS = Path(__file__).parents[3] / "theory" / "claims"

MISSPELT = {
    "clone_gapp": ("statements.py", "lambda i: i.clone_gap,"),
    "hellinger_tvv": ("statements.py", "i.clone_bound(i.hellinger_tv)"),
    "vocab_sizee": ("statements.py", "i.mdp.vocab_size"),
    "rl_gap_expertt": ("statements.py", "bounds.rl_gap_expert"),
    # a quantity of a finite horizon, in a statement that is also checked without a last token
    "averagedd": ("statements.py", "return comparator - i.averaged"),
    "discountt": ("discounted.py", "i.discount"),
    "tv_randomised_responsee": ("bounds.py", "horizon * tv_randomised_response"),
}


@pytest.mark.slow
def test_misspelt_quantities_fail_the_type_check(tmp_path):
    """Each of them is named, and nothing else is."""
    texts = {name: (CLAIMS / name).read_text() for name, _ in MISSPELT.values()}
    texts["statements.py"] = texts["statements.py"].replace(
        "return comparator - i.rl_value", "return comparator - i.averaged"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path)]
    for wrong, (file, right) in MISSPELT.items():
        assert texts[file].count(right) >= 1, right
        texts[file] = texts[file].replace(right, right.replace(wrong[:-1], wrong), 1)
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
        command += ["--shadow-file", str(CLAIMS / file), str(tmp_path / file)]
    files = [str(CLAIMS / file) for file in texts]
    done = subprocess.run([*command, *files], cwd=CLAIMS.parents[1], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = done.stdout.splitlines()
    for wrong in MISSPELT:
        assert any(f'"{wrong}"' in line for line in errors), (wrong, done.stdout)
    assert len([line for line in errors if ": error: " in line]) == len(MISSPELT), done.stdout
