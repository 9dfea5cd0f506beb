"""The mathematics needs neither torch, balls nor a plotting library to be imported."""

import subprocess
import sys


def test_core_imports_neither_torch_nor_pyplot():
    code = (
        "import sys, theory.arrays, theory.dynamics, theory.soft, theory.mdp, theory.policy, theory.reward,"
        "theory.imitation, theory.improve, theory.preferences, theory.statements, theory.verify;"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'transformers', 'flint') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
