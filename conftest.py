"""Examples of modules whose packages are not installed are not collected."""

from importlib.util import find_spec

collect_ignore = []
if not (find_spec("torch") and find_spec("transformers")):
    collect_ignore.append("llm_bridge")  # its modules cannot be imported
if not find_spec("math_verify"):
    collect_ignore.append("llm_bridge/tasks/equivalence.py")
