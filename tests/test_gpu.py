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


@pytest.mark.slow
def test_everything_is_measured(tmp_path, monkeypatch, one_thread):
    """Real data have a test of their own."""
    gpu = in_this_process(monkeypatch)
    passed = gpu.parent(
        gpu.parse(["--small", "--out", str(tmp_path), "--device", "cpu", "--minutes", "60"])
    )
    rows, table = written(tmp_path)
    assert passed, rows
    assert not [row for row in rows if "error" in row or "skipped" in row]
    solved = [row for row in rows if "function" in row]
    assert len(solved) == 12 * 2 * 3
    assert {row["H"] for row in solved if row.get("agrees")} >= {5}
    checked = [row["function"] for row in solved if row.get("agrees") and row["H"] == 5]
    assert sorted(checked) == sorted(2 * list(gpu.MOVED))
    gradients = [row for row in solved if row["function"].startswith("gradient")]
    assert len(gradients) == 2 * 2 * 3
    assert all(row["over_forward"] > 1 for row in gradients)
    assert all(row["share_of_copy"] > 0 for row in solved)
    assert max(row["difference"] for row in rows if "difference" in row) < 1e-5
    ours = [row for row in rows if str(row.get("way", "")).startswith("ours: ")]
    assert len(ours) == 2
    assert all(row["error_soft_values"] < 1e-5 and row["error_log_probs"] < 1e-5 for row in ours)
    results = [row for row in rows if row.get("what") == "result"]
    assert [(row["section"], row["trained"]) for row in results] == [
        ("ppo-large", "all weights"), ("ppo-large", "LoRA 4"), ("ppo", "all weights"),
    ]  # fmt: skip
    assert [row["batches"] for row in results] == [1, 1, 2]
    assert {row["weights"] for row in results} == {"random"}
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_fails_stops_nothing(tmp_path):
    code, rows, table = run(tmp_path, "--sections", "solver", "head")
    assert code == 1
    assert [row["section"] for row in rows if "finds no GPU" in row.get("error", "")] == [
        "solver",
        "head",
    ]
    assert table.count("FAILED: error RuntimeError: torch") == 2


@pytest.mark.slow
def test_time_that_is_over_is_said(tmp_path):
    code, rows, _ = run(tmp_path, "--device", "cpu", "--minutes", "0", "--sections", "solver")
    assert code in (0, 1)  # whether the process could say so itself
    assert any("stopped after" in row.get("error", "") or "skipped" in row for row in rows)


def test_preferences_say_where_their_data_would_be(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDORM_SHARED", str(tmp_path / "nothing"))
    gpu = in_this_process(monkeypatch)
    words = ["--small", "--out", str(tmp_path), "--device", "cpu", "--sections", "preferences"]
    assert gpu.parent(gpu.parse(words))
    rows, _ = written(tmp_path)
    (skipped,) = (row for row in rows if "skipped" in row)
    assert "set ENDORM_SHARED" in skipped["skipped"]


def test_a_packaged_model_is_taken_where_it_is_installed(tmp_path, monkeypatch):
    gpu = in_this_process(monkeypatch)
    plan = gpu.PLAN[True] | {"small": True}
    run = gpu.Run("ppo", "cpu", plan, tmp_path / "gpu.jsonl", float("inf"))
    names, asked = gpu.bridge_names(), []

    def spec(name, **options):
        asked.append((name, options))
        return SimpleNamespace(load=loads.pop)

    def missing():
        raise OSError("smollm2: its package is not installed")

    names.ModelSpec = spec
    setting = plan["ppo"][0] | {"packaged": gpu.PLAN[False]["ppo"][0]["packaged"]}
    loads = SimpleNamespace(pop=lambda: "the model")
    assert gpu.ppo_model(run, names, setting) == ("the model", "smollm2")
    loads.pop = missing
    model, weights = gpu.ppo_model(run, names, setting)
    assert (model.vocab_size, weights) == (gpu.SHAPES["tiny"]["vocab_size"], "random")
    assert asked == 2 * [("smollm2", {"dtype": "bfloat16", "device": "cpu"})]
