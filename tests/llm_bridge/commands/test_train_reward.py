"""``endorm train-reward``: a reward on the hidden states of a model, read by the score command."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny import saved

from llm_bridge.commands.main import main
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.scorers import last_states

PAIRS = [
    {"prompt": f"What is {n}?", "chosen": f"It is {n * n}.", "rejected": f"{n % 7} {n}" * 2}
    for n in range(40)
]


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "base")
    saved(tmp_path / "other", seed=1)
    lines = "".join(json.dumps(row) + "\n" for row in PAIRS)
    (tmp_path / "pairs.jsonl").write_text(lines)
    return tmp_path


def run(folder, command, *words, model="base"):
    given = ["--model", folder / model, "--pairs", folder / "pairs.jsonl", "--resamples", 50]
    return main([command, *map(str, [*given, *words])])


def test_a_trained_reward_is_read_by_score(folder, capsys):
    out = folder / "reward"
    assert run(folder, "train-reward", "--out", out) == 0
    assert "log loss" in capsys.readouterr().out
    found = json.loads((out / "calibration.json").read_text())
    train, held = set(found["train"]), set(found["held_out"])
    assert train | held == {f"pairs/{n}" for n in range(40)}
    assert not train & held
    words = ["--method", "reward-model", "--reward-head", out / "head.npz"]
    assert run(folder, "score", *words, "--out", folder / "score") == 0
    lines = (folder / "score/responses.jsonl").read_text().splitlines()
    scores = {(r["id"], r["role"]): r["score"] for r in map(json.loads, lines)}
    margins = np.array([scores[name, "chosen"] - scores[name, "rejected"] for name in sorted(held)])
    judged = found["calibration"]
    assert judged["accuracy"]["value"] == pytest.approx(np.mean(margins > 0))
    assert judged["log_loss"]["value"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-4)
    assert judged["accuracy"]["value"] > 0.9  # the wording gives it away
    code = run(folder, "score", *words, "--out", folder / "wrong", model="other")
    assert code == 2
    assert "the reward head was trained on another model" in capsys.readouterr().err


def test_the_features_are_kept_and_the_result_is_the_same(folder, monkeypatch):
    out = folder / "reward"
    run(folder, "train-reward", "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("llm_bridge.preferences.scorers.last_states", None)  # nothing is read again
    assert run(folder, "train-reward", "--out", out) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert set(before) == {
        "run.json",
        "features.npz",
        "head.npz",
        "calibration.json",
        "report.html",
    }


def test_too_few_prompts_are_one_line(folder, capsys):
    assert run(folder, "train-reward", "--limit", 4, "--out", folder / "few") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "training prompts: must be at least folds=5" in line


def test_the_last_state_is_what_the_model_says_of_the_row_alone(folder):
    lm = ModelSpec(str(folder / "base")).load()
    rows = [np.array([256, *range(65, 65 + n)]) for n in (3, 9, 1, 5)]
    for row, state in zip(rows, last_states(lm, rows, 12), strict=True):
        with torch.no_grad():
            hidden = lm.model(torch.tensor([row.tolist()]), output_hidden_states=True)
        np.testing.assert_allclose(state, hidden.hidden_states[-1][0, -1], atol=1e-5)
