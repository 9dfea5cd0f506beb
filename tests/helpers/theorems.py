"""Read ``formal/``: its theorems, their assumptions, and the table of them in ``docs/proofs.md``.

As a program it writes that table (`make docs`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.proved import THEOREMS, WITHOUT_THEOREM
from theory.claims.statements import STATEMENTS

ROOT = Path(__file__).parents[2]
FORMAL = ROOT / "formal"
PAGE = ROOT / "docs" / "proofs.md"

INSTALL = "needs Coq 8.16 or later and Coq-Interval: apt-get install coq libcoq-interval"

SEEDS = (0,)
"""Random instances on which Coq evaluates both sides of each row, of each kind."""

AXIOMS = {
    "ClassicalDedekindReals.sig_not_dec",
    "ClassicalDedekindReals.sig_forall_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}
"""What the real numbers of Coq's standard library rest on."""

UNPROVED = ("Admitted", "admit", "Axiom", "Axioms", "Parameter", "Parameters", "Conjecture")
"""Words with which a file of Coq assumes what it does not prove."""


class Theorem(NamedTuple):
    """A theorem, and the file that proves it."""

    file: str
    name: str


def files() -> list[Path]:
    """The files of the theorems, in the order in which they are built."""
    listed = (FORMAL / "_CoqProject").read_text().split()
    return [FORMAL / name for name in listed if name.endswith(".v")]


def without_comments(text: str) -> str:
    """Take out comments, which nest.

    >>> without_comments("a (* b (* c *) d *) e")
    'a  e'
    """
    kept, depth = [], 0
    for part in re.split(r"(\(\*|\*\))", text):
        if part == "(*":
            depth += 1
        elif part == "*)":
            depth -= 1
        elif depth == 0:
            kept.append(part)
    return "".join(kept)


def theorems() -> Iterator[Theorem]:
    """Every theorem of every file."""
    for file in files():
        for name in re.findall(r"\bTheorem\s+(\w+)", without_comments(file.read_text())):
            yield Theorem(file.stem, name)


def rows() -> dict[str, Theorem]:
    """The theorem of each row that has one, by its name; the paper's own setting restates some."""
    found = {theorem.name: theorem for theorem in reversed([*theorems()])}
    return {name: found[name] for name in THEOREMS if name in found}


def run_coq(*arguments: str, cwd: Path = FORMAL) -> subprocess.CompletedProcess[str]:
    """Run ``coqc`` on a file that reads the built theorems."""
    command = ["coqc", "-R", str(FORMAL), "Endorm", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def has_coq() -> bool:
    """Whether Coq is installed."""
    return shutil.which("coqc") is not None


def axioms_file() -> str:
    """A file in which Coq prints what all theorems together assume."""
    every = list(theorems())
    needed = " ".join(dict.fromkeys(theorem.file for theorem in every))
    listed = ", ".join(f"@{theorem.file}.{theorem.name}" for theorem in every)
    return (
        f"From Endorm Require {needed}.\nDefinition every := ({listed}).\n"
        "Print Assumptions every.\n"
    )


def page_table() -> str:
    """The table of ``docs/proofs.md``."""
    proofs, every = rows(), {theorem.name: theorem for theorem in theorems()}
    lines = [
        "| row | claim | proved for all | attained | checked numerically | instances certified |",
        "|---|---|---|---|---|---|",
    ]
    for prefix, statements in (("", STATEMENTS), ("discounted_", DISCOUNTED_STATEMENTS)):
        for statement in statements:
            name = prefix + statement.name.replace("-", "_")
            proof = f"`{proofs[name].file}.v`" if name in proofs else WITHOUT_THEOREM[name]
            sharp = every.get(f"{name}_attained")
            attained = "an equality" if statement.equality else f"`{sharp.file}.v`" if sharp else ""
            row = f"{statement.name}{', discounted' if prefix else ''}"
            claim = statement.claim.replace("|", "\\|")
            lines.append(f"| *{row}* | `{claim}` | {proof} | {attained} | yes | {len(SEEDS)} |")
    return "\n".join(lines)


def page_with_table(page: str) -> str:
    """The page with its table written anew, between the two marks."""
    begin, end = "<!-- written by tests/helpers/theorems.py -->\n", "<!-- until here -->"
    before, rest = page.split(begin)
    return before + begin + "\n" + page_table() + "\n\n" + end + rest.split(end)[1]


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
