"""Write docs/api.md: every public name, under the module that has it.

python tests/helpers/api.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

HEAD = """# Python interface

Made from the code by `make docs`. `from endorm import …` has all of these names; so have `theory`
and `llm_bridge`, each its own. [How the code is laid out](layout.md) shows the rooms behind them.
"""


def page():
    """The page as Markdown."""
    parts = [HEAD]
    for package, title in (("theory", "Token MDPs"), ("llm_bridge", "Language models")):
        parts.append(f"## {title}: `{package}`\n")
        stub = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
        for node in stub.body:
            if isinstance(node, ast.ImportFrom):
                parts += [f"::: {package}.{node.module}.{alias.name}\n" for alias in node.names]
    return "\n".join(parts)


if __name__ == "__main__":
    (ROOT / "docs" / "api.md").write_text(page(), encoding="utf-8")
