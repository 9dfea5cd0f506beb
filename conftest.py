"""Without torch the examples of `llm_bridge` are not collected: its modules cannot be imported."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") and find_spec("transformers") else ["llm_bridge"]
