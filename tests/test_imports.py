"""The mathematics needs neither torch, balls nor a plotting library to be imported."""

import subprocess
import sys


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
