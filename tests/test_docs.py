"""What README and docs print runs: Python blocks in order, commands for real or through the parser.

A page's blocks share one folder and one set of names. Commands of the pages in `RUN` are run; in
all other pages they have placeholders (``--model M``), and their options must be ones that there
are.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llm_bridge.commands.main import _parser, main
from theory.commands.solve import EXAMPLE

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
)
RUN = ("docs/tutorial.md", "docs/how-to/mdp.md", "docs/how-to/data.md")
"""Pages whose commands are run as they are printed."""

NEEDS_TORCH = re.compile(r"llm_bridge|import torch|--model")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language=None):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for found, code in BLOCK.findall(text) if language in (None, found)]


def commands(code):
    """The commands of a block, without comments, continued lines joined."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield line, words


def parses(words):
    """Whether an ``endorm`` command has options that there are; a message if not."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            _parser().parse_args(words)
        except SystemExit as ended:
            return "" if ended.code == 0 else said.getvalue()
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_options_that_there_are(page):
    for code in blocks(page, "sh"):
        for line, words in commands(code):
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            for before in ("python -m endorm", "torchrun"):
                if words[: len(before.split())] == before.split():
                    words = ["endorm", *words[words.index("endorm") + 1 :]]
            if "&&" in words or "|" in words or ">" in words:
                words = words[: min(words.index(x) for x in ("&&", "|", ">") if x in words)]
            if words and words[0] == "endorm":
                assert parses(words[1:]) == "", line
            if words and words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), line


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_every_python_block_runs(page, tmp_path, monkeypatch):
    if any(NEEDS_TORCH.search(code) for code in blocks(page)):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters.npz").write_bytes(EXAMPLE.read_bytes())
    names = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()):
        for number, code in enumerate(blocks(page, "python")):
            exec(compile(code, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_the_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    if any(NEEDS_TORCH.search(code) for code in blocks(page)):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    text = (ROOT / page).read_text(encoding="utf-8")
    for language, code in BLOCK.findall(text):
        if language == "python":
            exec(code, names)
            continue
        for line, words in commands(code):
            if words[0] == "endorm":
                assert main(words[1:]) == 0, (line, capsys.readouterr().err)
            else:
                subprocess.run(line, shell=True, check=True, cwd=tmp_path)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Tutorial" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
