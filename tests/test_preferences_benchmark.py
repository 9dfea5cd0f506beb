"""The benchmark of the paper's first two experiments, rehearsed at small size."""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.commands.main import main as endorm
from llm_bridge.preferences.domains import with_domain_prompts
from llm_bridge.preferences.pairs import Comparison

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "preferences.py"
DOMAINS = ("academy", "business", "entertainment", "literature", "normal")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("preferences_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretended(run):
    """The module `subprocess` with another `run`."""
    return SimpleNamespace(
        run=run, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
    )


def rows_of(query):
    """The comparisons that a query of DSP becomes."""
    return [
        Comparison(
            f"{own}/{query}",
            query,
            (f"{query} {own}",),
            tuple(f"{query} {other}" for other in DOMAINS if other != own),
            own,
            None,
            (own,),
            tuple(other for other in DOMAINS if other != own),
        )
        for own in DOMAINS
    ]


def test_a_prompt_is_found_whatever_responses_are_like(benchmark):
    """One nat for a response behind its own prompt, hundreds between responses."""
    rng = np.random.default_rng(0)
    comparisons = [row for query in "abcdef" for row in rows_of(query)]
    prompts = {domain: f"Be {domain}." for domain in DOMAINS[:-1]} | {"normal": None}
    prompted = [row for row in with_domain_prompts(comparisons, prompts) if row.system]
    base = {text: -500 * rng.random() for row in comparisons for _, text in row.responses()}
    scores = {
        key: base[text] + text.endswith(row.subset)
        for row in prompted
        for key, text in row.responses()
    }
    found = benchmark.prompt_found(prompted, scores)
    assert found["value"] == 1.0
    assert 0.3 < found["low"] < 0.7  # six queries, all of them right
    against = {key: -value for key, value in scores.items()}
    assert benchmark.prompt_found(prompted, against)["value"] == 0.0
    assert benchmark.prompt_found(prompted[1:5], scores) is None  # no query has all of its prompts


@pytest.mark.slow
def test_both_experiments_are_run_resumed_and_tabled(
    benchmark, tmp_path, monkeypatch, shared_models
):
    data = shared_models.parent / "data"
    if not data.is_dir():
        pytest.skip(f"no {data}")
    monkeypatch.setenv("ENDORM_SHARED", str(shared_models.parent))
    started = []

    def here(words, **options):
        started.append(words[3])
        return SimpleNamespace(returncode=endorm(words[3:]))

    monkeypatch.setattr(benchmark, "subprocess", pretended(here))
    words = ["--model", str(shared_models / "stories260K"), "--limit", "10", "--judged", "2"]
    words += ["--sets", "sharp", "--out", str(tmp_path), "--device", "cpu", "--batch-tokens", "999"]
    benchmark.run(benchmark.parse(words))
    assert started.count("score") == 6  # without and with prompts, the reward and three judges
    assert started.count("train-reward") == 3
    found = benchmark.report(tmp_path, "cpu")
    scores = {row["score"] for row in found["q1"] if row["data"] == "LLMBar_Natural"}
    assert set(benchmark.LABELS.values()) <= scores
    assert {"*the shorter response wins*", "*a coin*"} <= scores
    lift = next(row for row in found["q2"] if row["score"] == "lift")
    assert lift["queries"] == 1  # of ten comparisons the second query's has responses too long
    assert set(lift["domains"]) == set(DOMAINS[:-1])
    text = (tmp_path / "preferences.md").read_text()
    for heading in ("### Accuracy\n", "LLMBar natural (", "### DSP", "| lift |"):
        assert heading in text
    lines = [json.loads(line) for line in (tmp_path / "jobs.jsonl").read_text().splitlines()]
    assert all(line["command"].startswith("endorm ") for line in lines)
    before = (tmp_path / "sharp" / "responses.jsonl").read_bytes()
    benchmark.run(benchmark.parse(["q2", *words]))  # what is done is not done again
    assert (tmp_path / "sharp" / "responses.jsonl").read_bytes() == before


def test_what_has_no_time_is_not_started(benchmark, tmp_path, monkeypatch):
    def never(*words, **options):
        raise AssertionError("it was started")

    monkeypatch.setattr(benchmark, "subprocess", pretended(never))
    arguments = benchmark.parse(["q2", "--out", str(tmp_path), "--minutes", "0"])
    assert benchmark.run(arguments) is False
    found = benchmark.report(tmp_path, "cpu")
    assert found["q1"] == found["q2"] == []
