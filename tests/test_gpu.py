"""The benchmark of what waits for a GPU, rehearsed on a CPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from llm_bridge.commands.main import main as endorm

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"


def run(out, *words):
    """The command in a process, and what it wrote."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--out", str(out), *words], capture_output=True
    )
    return done.returncode, *written(out)


def written(out):
    rows = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    assert json.loads((out / "gpu.json").read_text()) == rows
    return rows, (out / "gpu.md").read_text()


def in_this_process(monkeypatch):
    """The benchmark, with all that it starts in this process, where torch is there already."""
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    process = subprocess.run

    def here(words, **options):
        if words[0] != sys.executable:
            return process(words, **options)
        if words[1] == "-m":  # a command of the experiments
            return SimpleNamespace(returncode=endorm(words[3:]))
        gpu.child(gpu.parse(words[2:]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(gpu.subprocess, "run", here)
    return gpu


def test_everything_is_measured(tmp_path, monkeypatch, one_thread):
    """Real data have a test of their own."""
    monkeypatch.setenv("ENDORM_SHARED", str(tmp_path / "nothing"))
    gpu = in_this_process(monkeypatch)
    passed = gpu.parent(
        gpu.parse(["--small", "--out", str(tmp_path), "--device", "cpu", "--minutes", "60"])
    )
    rows, table = written(tmp_path)
    assert passed, rows
    (skipped,) = (row for row in rows if "error" in row or "skipped" in row)
    assert skipped["section"] == "preferences"
    assert "set ENDORM_SHARED" in skipped["skipped"]
    solved = [row for row in rows if "function" in row]
    assert len(solved) == 10 * 2 * 3
    assert len([row for row in solved if row.get("agrees")]) == 10 * 2  # at one horizon
    assert max(row["difference"] for row in rows if "difference" in row) < 1e-5
    ours = [row for row in rows if str(row.get("way", "")).startswith("ours: ")]
    assert len(ours) == 2
    assert all(row["error_soft_values"] < 1e-5 and row["error_log_probs"] < 1e-5 for row in ours)
    results = [row for row in rows if row.get("what") == "result"]
    assert [(row["section"], row["trained"]) for row in results] == [
        ("ppo", "all weights"), ("ppo-large", "all weights"), ("ppo-large", "LoRA 4"),
    ]  # fmt: skip
    assert [row["batches"] for row in results] == [2, 1, 1]
    for row in results:
        parts = [p for p in rows if p.get("what") == "part" and p["section"] == row["section"]]
        assert {p["part"] for p in parts} == {"generation", "scoring", "reading", "update"}
        assert all(p["s"] > 0 for p in parts)
    for heading in (
        "- date: ",
        "- torch: ",
        "## solver",
        "## head",
        "## scoring",
        "## ppo\n",
        "## ppo-large",
    ):
        assert heading in table


def test_a_real_model_is_read(tmp_path, monkeypatch, one_thread, shared_models):
    if not (shared_models.parent / "data").is_dir():
        pytest.skip(f"no data beside {shared_models}")
    monkeypatch.setenv("ENDORM_SHARED", str(shared_models.parent))
    gpu = in_this_process(monkeypatch)
    words = ["--small", "--out", str(tmp_path), "--device", "cpu", "--minutes", "60"]
    assert gpu.parent(gpu.parse([*words, "--sections", "preferences"]))
    rows, table = written(tmp_path)
    assert {row["data"] for row in rows if row.get("what") == "preferences"} >= {"LLMBar_Natural"}
    assert [row["score"] for row in rows if row.get("what") == "prompts"][-1] == "lift"
    assert "## preferences" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_fails_stops_nothing(tmp_path):
    code, rows, table = run(tmp_path, "--sections", "solver", "head")
    assert code == 1
    assert [row["section"] for row in rows if "finds no GPU" in row.get("error", "")] == [
        "solver",
        "head",
    ]
    assert table.count("FAILED: error RuntimeError: torch") == 2


def test_time_that_is_over_is_said(tmp_path):
    code, rows, _ = run(tmp_path, "--device", "cpu", "--minutes", "0", "--sections", "solver")
    assert code in (0, 1)  # whether the process could say so itself
    assert any("stopped after" in row.get("error", "") or "skipped" in row for row in rows)
