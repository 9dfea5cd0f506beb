"""``endorm validate``: right predictions end with 0, an error in what is measured with 1."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from letters import llama
from tiny import saved

from llm_bridge.check import validation as module
from llm_bridge.commands.main import main
from llm_bridge.models.load import save
from llm_bridge.read.reward import EndogenousReward, RewardReading
from theory.mdp.token_mdp import TokenMDP

TOKENS = {"reward of a token", "reward of the last token", "reward of a response"}
PREFERENCES = {"preference agreement", "mean preference error (TV)"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of two models over the same letters."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("model", "expert")):
        save(llama(seed), folder / name)
    return folder


def validate(models, out, *more):
    argv = [
        "--model",
        str(models / "model"),
        "--dtype",
        "float64",
        "--draws",
        "32",
        "--pairs-per-prompt",
        "32",
    ]
    return main(["validate", *argv, "--out", str(out), *more])


def read(out):
    return json.loads((out / "validation.json").read_text())


def test_against_an_expert(models, tmp_path, capsys):
    more = ["--prompt", "A", "--prompt", "BA", "--horizon", "2", "--scored", "3"]
    more += ["--expert", str(models / "expert"), "--alpha", "0.5"]
    assert validate(models, tmp_path, *more) == 0
    assert "points are where the tables predict" in capsys.readouterr().out
    found = read(tmp_path)
    assert found["holds"]
    assert set(found["quantities"]) > TOKENS | PREFERENCES
    assert len(found["points"]) == 2 * 3 * 3 + 2 * 2 + 4
    assert found["run"]["alpha"] == 0.5
    assert {path.name for path in tmp_path.iterdir()} >= {
        "report.html",
        "points.jsonl",
        "predicted_measured.png",
        "run.json",
    }


def test_without_a_truth_rewards_alone(models, tmp_path, capsys):
    assert validate(models, tmp_path, "--prompt", "A", "--horizon", "2") == 0
    assert set(read(tmp_path)["quantities"]) == TOKENS
    assert "Nothing says what responses are worth" in capsys.readouterr().out


def test_an_error_in_what_is_measured_ends_with_one(models, tmp_path, monkeypatch, capsys):
    def wrong(lm, *, reading, end_tokens):
        return EndogenousReward(lm, reading=RewardReading(0.9), end_tokens=end_tokens)

    monkeypatch.setattr(module, "EndogenousReward", wrong)
    assert validate(models, tmp_path, "--prompt", "A", "--horizon", "2") == 1
    found = read(tmp_path)
    assert not found["holds"]
    assert {point["quantity"] for point in found["off"]} == TOKENS
    assert "Off the diagonal" in capsys.readouterr().out


@pytest.mark.slow
def test_goes_on_and_refuses_another_run(models, tmp_path, monkeypatch, capsys):
    more = ["--prompt", "A", "--horizon", "2", "--expert", str(models / "expert")]
    whole = module.Validation.preferences
    monkeypatch.setattr(module.Validation, "preferences", lambda *_, **__: 1 / 0)
    assert validate(models, tmp_path, *more) == 70
    assert not (tmp_path / "validation.json").exists()
    monkeypatch.setattr(module.Validation, "preferences", whole)
    monkeypatch.setattr(module.Validation, "values", lambda *_, **__: 1 / 0)  # it is there already
    assert validate(models, tmp_path, *more) == 0
    first = read(tmp_path)
    monkeypatch.setattr(module, "token_tree", lambda *_, **__: 1 / 0)  # everything is
    assert validate(models, tmp_path, *more) == 0
    assert read(tmp_path) == first
    capsys.readouterr()
    assert validate(models, tmp_path, *more, "--seed", "1") == 2
    assert "has a run with seed = 0, not 1" in capsys.readouterr().err
    assert validate(models, tmp_path, *more, "--expert-dtype", "float32") == 2
    assert "has a run with expert read as = " in capsys.readouterr().err


def test_every_share_of_the_expert_is_compared(models, tmp_path):
    more = ["--prompt", "A", "--horizon", "2", "--expert", str(models / "expert")]
    assert validate(models, tmp_path, *more, "--expert-share", "0.5,0.5000001") == 0
    assert read(tmp_path)["quantities"]["preference agreement"]["points"] == 2


def test_against_a_token_mdp(models, tmp_path):
    mdp = TokenMDP.random(5, 2, n_prompts=2, seed=0)
    mdp.save(tmp_path / "mdp.npz")
    assert TokenMDP.load(tmp_path / "mdp.npz").horizon == 2
    more = ["--prompt", "A", "--prompt", "B", "--expert", str(tmp_path / "mdp.npz")]
    assert validate(models, tmp_path / "out", *more) == 0
    assert set(read(tmp_path / "out")["quantities"]) > PREFERENCES


@pytest.mark.slow
def test_trains_a_model_where_none_is_given(tmp_path, capsys):
    assert (
        main(["validate", "--draws", "16", "--pairs-per-prompt", "16", "--out", str(tmp_path)]) == 0
    )
    assert "training steps: 200" in capsys.readouterr().out


@pytest.mark.slow
def test_addition(shared_models, tmp_path):
    argv = ["validate", "--model", str(shared_models / "add-small"), "--task", "addition"]
    argv += [
        "--n-prompts",
        "3",
        "--pair-prompts",
        "1",
        "--pairs-per-prompt",
        "8",
        "--expert-share",
        "0",
    ]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    found = read(tmp_path)
    units = {point["quantity"]: point["unit"] for point in found["points"]}
    assert units["value of sampling"] == "probability"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no prompt: give --prompt TEXT or --prompts FILE"),
        (["--prompt", "A", "--n-prompts", "3"], "--n-prompts needs --task"),
        (["--task", "sorting", "--prompt", "A"], "--prompt is not read with --task sorting"),
        (["--task", "addition"], "task=addition: its answers are no texts of model"),
        (["--task", "sorting", "--expert", "x.npz"], "--task is not read with --expert=x.npz"),
        (["--prompt", "A", "--expert", "x.npz"], "x.npz: no such file; give an .npz written by"),
        (["--prompt", "A", "--expert", "x.npz", "--horizon", "2"], "--horizon is not read with"),
        (["--prompt", "A", "--expert-bits", "4"], "--expert-bits needs --expert"),
        (["--prompt", "A", "--dtype", "bfloat16"], "--dtype=bfloat16: must be float32 or float64"),
        (["--prompt", "A", "--draws", "1"], "--draws=1: must be at least 2"),
        (
            ["--prompt", "A", "--gauge", "logprob", "--terminal", "bootstrap"],
            "--terminal=bootstrap: must be zero with --gauge=logprob",
        ),
    ],
)
def test_bad_input_is_one_line(models, tmp_path, capsys, more, message):
    assert validate(models, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"endorm validate: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_that_need_a_model(tmp_path, capsys):
    for option in (["--task", "addition"], ["--prompt", "A"], ["--dtype", "float64"]):
        assert main(["validate", *option, "--out", str(tmp_path)]) == 2
        assert f"{option[0]} needs --model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_goes_on_notes_what_the_stopped_one_found_of_texts(tmp_path):
    """Random bytes are no text: that they are scored as ids is noted by the stages that wrote
    them, wherever the run was stopped.
    """
    models = [str(saved(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    words = ["validate", "--model", models[0], "--expert", models[1], "--prompt", "ab"]
    words += ["--horizon", "1", "--draws", "8", "--pairs-per-prompt", "4", "--out"]
    whole = tmp_path / "whole"
    assert main([*words, str(whole)]) in (0, 1)
    found = json.loads((whole / "validation.json").read_text())["model_findings"]
    assert any("their texts have others" in sentence for sentence in found)
    stages = (whole / "points.jsonl").read_text().splitlines(keepends=True)
    for done in range(1, len(stages)):
        cut = tmp_path / f"cut {done}"
        shutil.copytree(whole, cut)
        for path in cut.iterdir():
            if path.name not in ("run.json", "points.jsonl"):
                path.unlink()
        (cut / "points.jsonl").write_text("".join(stages[:done]))
        assert main([*words, str(cut)]) in (0, 1)
        for path in whole.iterdir():
            assert (cut / path.name).read_bytes() == path.read_bytes(), (done, path.name)
