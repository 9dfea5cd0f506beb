"""What holds for every test and example, before torch and NumPy are imported."""

import os
from importlib.util import find_spec

# one thread per process: `make test` runs a process per core, and sums are rounded the same way
# however many cores there are
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# examples of modules whose packages are not installed
collect_ignore = []
if not (find_spec("torch") and find_spec("transformers")):
    collect_ignore.append("llm_bridge")  # its modules cannot be imported
if not find_spec("torch"):
    collect_ignore.append("theory/arrays/torch_kernels.py")
if not find_spec("triton"):
    collect_ignore.append("theory/arrays/triton_kernels.py")
if not find_spec("math_verify"):
    collect_ignore.append("llm_bridge/tasks/equivalence.py")
if not find_spec("rdkit"):
    collect_ignore.append("llm_bridge/tasks/molecules.py")
if not find_spec("peft"):
    collect_ignore += ["llm_bridge/improve/policy.py", "llm_bridge/models/weights.py"]
if not find_spec("gguf"):
    collect_ignore.append("tests/helpers/gguf_files.py")
