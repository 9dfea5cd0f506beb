"""Every notebook runs from top to bottom, and prints what a reader sees without running it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reader_sees_outputs_and_a_figure_without_running_it(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert not any("/home/" in str(output) or "/tmp/" in str(output) for output in outputs)
    assert any("$" in cell.source for cell in notebook.cells if cell.cell_type == "markdown")


NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def said(notebook):
    """What each code cell prints or shows: its words, and its numbers."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            printed = [o for o in cell.outputs if o.get("name") != "stderr"]
            texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in printed]
            text = " ".join(x for x in texts if not x.startswith("<"))
            numbers = [float(x.replace(",", "").replace("−", "-")) for x in NUMBER.findall(text)]
            yield re.sub(r"[\s─-]+", " ", NUMBER.sub("#", text)), numbers


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    stored = list(said(notebook))
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not any("violated" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for number, (before, now) in enumerate(zip(stored, said(notebook), strict=True)):
        assert now[0] == before[0], f"cell {number}: store its outputs again"
        assert now[1] == pytest.approx(before[1], rel=2e-3, abs=1e-9), f"cell {number}"
