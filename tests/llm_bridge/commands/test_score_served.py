"""``endorm score`` of a model at a server: the numbers of the same model here, and resuming."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from completions import Completions, serving
from tiny import saved

from llm_bridge.commands.main import main
from llm_bridge.models import served
from llm_bridge.models.spec import ModelSpec

PAIRS = [
    {"prompt": f"What is {n}?", "chosen": f"It is {n}." * (1 + n % 3), "rejected": f"{n}" * n}
    for n in range(1, 7)
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(served, "WAITS", (0.0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    saved(root / "base")
    saved(root / "chat", chat=True, seed=1)
    return root


@pytest.fixture
def score(tmp_path, capsys):
    """Run the command; its exit code, its last error line, and its folder."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))

    def run(model, *options, out="out"):
        words = ["--model", str(model), "--pairs", str(pairs), "--out", str(tmp_path / out)]
        capsys.readouterr()
        code = main(["score", *words, "--resamples", "20", *map(str, options)])
        errors = capsys.readouterr().err.splitlines()
        return code, errors[-1] if errors else "", tmp_path / out

    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def scores(folder):
    return json.loads((folder / "summary.json").read_text())["scores"]


def require_same(found, expected):
    assert [line["token_ids"] for line in found] == [line["token_ids"] for line in expected]
    for one, own in zip(found, expected, strict=True):
        assert own.keys() - one.keys() == {"soft_value_prompt"}
        for name, value in one.items():
            if isinstance(value, float | list):
                assert value == pytest.approx(own[name], abs=1e-4), name
            else:
                assert value == own[name]


@pytest.mark.parametrize("kind", ["echo", "forced"])
@pytest.mark.parametrize("model", ["base", "chat"])
def test_a_served_model_has_the_scores_of_the_model_here(score, folder, model, kind):
    options = ("--discount", "0.9", "--floor", "-1")
    code, _, own = score(folder / model, "--gauge", "logprob", *options, out="own")
    assert code == 0
    with serving(Completions(ModelSpec(folder / model).load(), kind)) as url:
        code, error, found = score(url, "--tokenizer", folder / model, *options)
    assert (code, error) == (0, "")
    require_same(lines(found), lines(own))
    for name, values in scores(own).items():
        assert scores(found)[name]["accuracy"] == pytest.approx(values["accuracy"])
    run = json.loads((found / "run.json").read_text())
    assert run["gauge"] == "logprob"
    assert run["weights"].startswith(f"tiny at {url}, vocabulary ")
    assert "V(s₁)\u00a0" not in (found / "report.html").read_text()


@pytest.mark.parametrize("method", ["pairwise", "pointwise"])
def test_a_served_judge_says_what_the_model_here_says(score, folder, method):
    options = ("--method", method, "--limit", "2")
    _, _, own = score(folder / "base", *options, out="own")
    with serving(Completions(ModelSpec(folder / "base").load())) as url:
        code, _, found = score(url, "--tokenizer", folder / "base", *options)
    assert code == 0
    for one, expected in zip(lines(found), lines(own), strict=True):
        assert one == pytest.approx(expected, abs=1e-4)


def test_a_served_reference_anchors_a_model_here(score, folder):
    _, _, own = score(folder / "base", "--reference", folder / "chat", out="own")
    with serving(Completions(ModelSpec(folder / "chat").load())) as url:
        code, _, found = score(folder / "base", "--reference", url, "--dtype", "float32")
    assert code == 0
    for one, expected in zip(lines(found), lines(own), strict=True):
        assert one["reference_log_prob"] == pytest.approx(expected["reference_log_prob"], abs=1e-4)
        assert one["rewards"] == expected["rewards"]


def test_a_server_that_dies_leaves_what_is_scored_and_the_run_goes_on(score, folder):
    lm = ModelSpec(folder / "base").load()
    whole = Completions(lm)
    options = ("--tokenizer", folder / "base", "--batch-tokens", "64")
    completions = Completions(lm)
    with serving(completions) as url:
        code, _, expected = score(url, *options, out="whole")
        assert code == 0
        tried = len(completions.asked) - len(lines(expected))
        completions.asked.clear()
        completions.answers = tried + 6
        code, error, found = score(url, *options)
        assert code == 2
        assert "no answer" in error
        assert "give the same command again: nothing is scored twice" in error
        done = lines(found)
        assert 0 < len(done) <= 6
        completions.asked.clear()
        completions.answers = None
        code, _, _ = score(url, *options)
        assert code == 0
        assert len(completions.asked) == tried + len(lines(expected)) - len(done)
        assert lines(found) == lines(expected)
        assert scores(found) == scores(expected)
        whole.name = "another"
    with serving(whole) as other:  # neither another model nor another server goes on there
        code, error, _ = score(other, *options)
    assert code == 2
    assert "has a run with model =" in error


def test_rows_that_the_server_refuses_are_listed(score, folder):
    completions = Completions(ModelSpec(folder / "base").load(), room=30)
    stated = completions.models()
    del stated["data"][0]["max_model_len"]  # it does not say, and refuses
    completions.models = lambda: stated
    with serving(completions) as url:
        code, error, found = score(url, "--tokenizer", folder / "base")
        assert code == 1
        assert "400 " in error
        assert "30 fit" in error
        assert 0 < len([line for line in lines(found) if "error" in line]) < len(lines(found))
        code, error, _ = score(url, "--tokenizer", folder / "base", "--truncate", out="cut")
        assert code == 2
        assert "does not say how many tokens fit" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs --tokenizer, the folder, GGUF file or hub id of the model that is served"),
        (("--tokenizer", "T", "--gauge", "logits"), "gauge='logits': tiny has no soft values"),
        (("--tokenizer", "T", "--terminal", "bootstrap"), "must be zero with --gauge=logprob"),
        (("--tokenizer", "T", "--method", "verifier"), "a verifier's reward has V(s₁)"),
        (("--tokenizer", "T", "--method", "reward-model"), "--method reward-model is not read"),
        (("--tokenizer", "T", "--dtype", "float16"), "--dtype is not read with --model at"),
        (("--tokenizer", "./missing"), "./missing: no tokenizer there"),
    ],
)
def test_what_a_server_cannot_give_is_one_line(score, folder, options, message):
    words = [folder / "base" if word == "T" else word for word in options]
    with serving(Completions(ModelSpec(folder / "base").load())) as url:
        code, error, out = score(url, *words)
    assert code == 2
    assert message in error
    assert not out.exists()


def test_a_tokenizer_is_of_a_server(score, folder):
    code, error, _ = score(folder / "base", "--tokenizer", folder / "base")
    assert code == 2
    assert "--tokenizer is read only with --model at a server" in error


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--prompt", "Hi"],
        ["validate", "--prompt", "Hi"],
        ["ppo", "--data", "pairs.jsonl"],
        ["train-reward", "--pairs", "pairs.jsonl"],
    ],
)
def test_other_commands_read_logits(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    url = "http://127.0.0.1:9/v1"
    assert main([*words, "--model", url, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{url}: logits are read here" in line
    assert "give the model's folder, GGUF file or hub id" in line
