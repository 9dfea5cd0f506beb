"""The command: from prompts to a table that says how far the exact optimum is."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny import saved

from llm_bridge.check.improvement import SampledTarget
from llm_bridge.commands.main import main
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.cost import cost
from llm_bridge.improve.run import read_metrics
from llm_bridge.improve.target import ExactTarget
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import fingerprint
from llm_bridge.models.spec import ModelSpec
from llm_bridge.tasks.generated import Task, addition, sorting
from llm_bridge.tasks.sampling import sample_texts
from theory.mdp.distances import kl
from theory.mdp.values import trajectory_entropy
from theory.solve.improve import distil

FEW = ["--prompts-per-step", "8", "--samples", "2", "--minibatch", "16", "--microbatch", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    rows = [{"problem": f"What is {i} plus one?", "answer": str(i + 1)} for i in range(9)]
    rows.insert(2, {"problem": "Which?", "answer": ""})
    rows.insert(5, {"problem": "a" * 600, "answer": "1"})
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_real_model_is_held_against_its_exact_optimum(shared_models, tmp_path, capsys):
    command = [
        "ppo",
        "--model",
        str(shared_models / "nano-sort"),
        "--task",
        "sorting",
        "--beta",
        "0.1",
    ]
    command += [
        "--steps",
        "2",
        "--eval-prompts",
        "3",
        "--n-prompts",
        "20",
        "--out",
        str(tmp_path),
        *FEW,
    ]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nano-sort: 20 prompts of about 6 tokens, 2 batches of 8 × 2 responses"
    assert lines[1].startswith("memory, estimated: ")
    assert lines[2].startswith("time, at least: ")
    rows = {words[0]: words[1:] for line in lines if len(words := line.split()) == 5}
    assert set(rows) == {"objective", "kl_to_anchor", "entropy"} | {
        f"accuracy_{x}" for x in ("sampled", "map", "greedy")
    }
    first, last = (row for row in read_metrics(tmp_path) if row["step"] in (0, 2))
    assert rows["objective"][:2] == [f"{first['objective']:.4f}", f"{last['objective']:.4f}"]
    assert float(rows["objective"][2]) > float(rows["objective"][0])
    assert any(line.startswith("exact distance to the optimum: ") for line in lines)
    noted = json.loads((tmp_path / "summary.json").read_text())
    assert f"{noted['optimum']['objective']:.4f}" == rows["objective"][2]
    assert noted["verdict"] in " ".join(" ".join(lines).split())
    assert noted["verdict"].startswith(f"Objective: {rows['objective'][3]} of the way to the exact")
    assert "Some responses of batch 2" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["max_tokens"] == 6
    assert ModelSpec(tmp_path / "model").load().name == "model"


def test_a_teacher_is_distilled_towards_its_exact_optimum(shared_models, tmp_path, capsys):
    """The reward is that of the model's own three-bit copy, and so is the optimum."""
    model = str(shared_models / "nano-sort")
    command = ["ppo", "--model", model, "--teacher", model, "--teacher-bits", "3"]
    command += ["--task", "sorting", "--alpha", "0.5", "--beta", "0.5", "--steps", "3"]
    command += ["--eval-prompts", "3", "--n-prompts", "20", "--out", str(tmp_path), *FEW]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {words[0]: words[1:] for line in lines if len(words := line.split()) == 5}
    lm = ModelSpec(model).load()
    teacher = ModelSpec(model, bits=3).load()
    config = PPOConfig(alpha=0.5, beta=0.5, max_tokens=6, end_tokens=())
    kept, _ = sorting(23, seed=0).split(3)
    target = ExactTarget(lm, kept.prompts, config, kept.answers, teacher)
    anchor, expert = (ExactTarget(x, kept.prompts, config).anchor for x in (lm, teacher))
    optimum = distil(anchor, expert, 0.5, 0.5).policy
    assert float(kl(target.optimum, optimum)) == pytest.approx(0, abs=1e-10)
    assert rows["objective"][2] == f"{target.objective(optimum):.4f}"
    assert rows["entropy"][2] == f"{float(trajectory_entropy(optimum)):.4f}"
    noted = json.loads((tmp_path / "run.json").read_text())
    assert (noted["lm"], noted["reward_of"]) == (fingerprint(lm), fingerprint(teacher))
    assert noted["lm"] != noted["reward_of"]


@pytest.mark.slow
def test_problems_are_trained_on_and_written(folder, problems, tmp_path, capsys):
    pytest.importorskip("math_verify")
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--eval",
        str(problems),
        "--max-tokens",
        "6",
    ]
    command += ["--steps", "2", "--out", str(tmp_path / "run"), *FEW]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "problems: 2 left out, the first: " in printed.err
    assert "answer is empty" in printed.err
    assert "tiny: 9 prompts" in printed.out
    first, _, last = read_metrics(tmp_path / "run")
    measured = {"objective", "kl", "entropy", "sampled", "greedy", "cut"}
    assert {name for name in last if "/" in name and not name.endswith(("_low", "_high"))} == {
        f"problems/{name}" for name in measured
    }
    assert last["problems/greedy"] == 0
    assert (first["problems/kl"], last["problems/kl"] > 0) == (0, True)
    assert {"problems/best", "problems/vote", "problems/map", "problems/cold"} <= first.keys()
    # what is printed is what the files say
    assert f"[{last['problems/objective_low']:.3f}, " in printed.out
    assert "problems: sampled accuracy 0.000 → 0.000; without training: " in printed.out
    assert "optimum J*: enclosed in [" in printed.out
    noted = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert noted["last"]["problems/kl"] == last["problems/kl"]
    assert noted["seconds"] == sum(row["seconds"] for row in read_metrics(tmp_path / "run"))
    assert {"report.html", "progress-problems.png"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    # resuming a complete run does nothing but say where it ended
    assert main([*command, "--resume"]) == 0
    assert "batch 2" in capsys.readouterr().out


def test_the_reward_of_a_teacher(folder, problems, tmp_path):
    teacher = saved(tmp_path / "teacher", seed=3)
    command = ["ppo", "--model", str(folder), "--data", str(problems), "--max-tokens", "4", *FEW]
    command += ["--steps", "1", "--teacher", str(teacher), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    noted = json.loads((tmp_path / "run" / "run.json").read_text())
    assert noted["lm"] != noted["reward_of"] == fingerprint(ModelSpec(teacher).load())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_asked_to_end_and_go_on(number, folder, problems, tmp_path, capsys, monkeypatch):
    step = Trainer.step

    def ending(trainer):
        if trainer.done == 1:
            os.kill(os.getpid(), number)
        return step(trainer)

    before = signal.getsignal(number)
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--max-tokens",
        "4",
        "--steps",
        "3",
        *FEW,
    ]
    monkeypatch.setattr(Trainer, "step", ending)
    assert main([*command, "--out", str(tmp_path / "stopped")]) == 130
    assert "stopped after batch 2; go on with --resume" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    monkeypatch.setattr(Trainer, "step", step)
    assert main([*command, "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    ends = [read_metrics(tmp_path / name) for name in ("stopped", "whole")]
    for row in (row for rows in ends for row in rows):
        assert row.pop("seconds") > 0
    assert json.dumps(ends[0]) == json.dumps(ends[1])  # NaN is like NaN


@pytest.mark.slow
def test_two_at_once(folder, problems, tmp_path, capsys):
    """The second process is refused in one line, with the same options or others; the first ends
    well.
    """
    out = tmp_path / "run"
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--max-tokens",
        "4",
        "--out",
        str(out),
        *FEW,
    ]
    command += ["--steps", "3"]
    code = "from llm_bridge.commands.main import main; raise SystemExit(main())"
    first = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.DEVNULL)
    while not (out / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    for options in ([], ["--resume"], ["--seed", "7"]):
        assert main([*command, *options]) == 2
        refused = "another run is writing there; wait for it, or give another --out"
        assert capsys.readouterr().err.splitlines()[-1] == f"endorm ppo: {out}: {refused}"
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert [row["step"] for row in read_metrics(out)] == list(range(4))
    assert main([*command, "--seed", "7", "--resume"]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("seed = 0, not 7: give another --out, or remove it")
    )


@pytest.mark.filterwarnings("default:out=")
def test_nothing_to_go_on_from_is_said(folder, problems, tmp_path, capsys):
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--max-tokens",
        "4",
        "--steps",
        "1",
        *FEW,
    ]
    command += ["--out", str(tmp_path), "--resume"]
    (tmp_path / "notes.txt").touch()
    assert main(command) == 2
    assert (
        "has no run to go on from; give its folder, or leave resume out" in capsys.readouterr().err
    )
    (tmp_path / "notes.txt").unlink()
    assert main(command) == 0
    said = f"endorm ppo: out={str(tmp_path)!r}: has no checkpoint to go on from; begins at step 0"
    assert capsys.readouterr().err.splitlines()[-1] == said


WORDS = ["--max-tokens", "4", "--eval-samples", "2", "--steps", "1"]


def test_a_task_in_words_is_held_out_and_measured(tmp_path, capsys):
    """Prompts are conversations; a model without a chat template is told so."""
    chat = saved(tmp_path / "chat", chat=True)
    command = ["ppo", "--task", "comparisons", "--n-prompts", "16", "--eval-prompts", "3", *WORDS]
    out = tmp_path / "run"
    assert main([*command, "--model", str(chat), "--out", str(out), "--no-weights", *FEW]) == 0
    printed = capsys.readouterr().out
    assert "chat: 16 prompts" in printed
    assert "comparisons: sampled accuracy 0.000 → 0.000" in printed
    found = read_metrics(out)[0]
    assert found["comparisons/sampled_high"] == pytest.approx(1 - 0.025 ** (1 / 6))  # of 3 × 2
    assert {path.name for path in out.iterdir()} == {
        "run.json",
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
        "summary.json",
        "report.html",
        "progress-comparisons.png",
        "progress-comparisons.svg",
    }
    assert sum(path.stat().st_size for path in out.iterdir()) < 1e6
    plain = saved(tmp_path / "plain")
    assert main([*command, "--model", str(plain), "--out", str(tmp_path / "none"), *FEW]) == 2
    assert "7 messages, and the model is given plain text" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 400])
def test_as_many_prompts_are_trained_on_as_are_asked_for(shared_models, n, capsys):
    """Also where they are fewer than four times those held out."""
    command = ["ppo", "--model", str(shared_models / "add-small"), "--task", "addition"]
    assert main([*command, "--n-prompts", str(n), "--dry-run"]) == 0
    assert f"add-small: {n} prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("--n-prompts 300", ""),  # 58 are left to hold out
        ("--n-prompts 357", ""),
        (
            "--n-prompts 358",
            "--n-prompts=358: sums has 358 prompts, 1 of them held out (--eval-prompts); give at "
            "most 357",
        ),
        ("--n-prompts 278 --eval-prompts 80", ""),
        (
            "--n-prompts 300 --eval-prompts 80",
            "--n-prompts=300: sums has 358 prompts, 80 of them held out (--eval-prompts); give at "
            "most 278",
        ),
        ("--eval-prompts 357", ""),
        (
            "--eval-prompts 358",
            "--eval-prompts=358: sums has 358 prompts, and some are to train on; give at most 357",
        ),
        ("--n-prompts 359 --eval {problems}", "--n-prompts=359: sums has 358 prompts; give at "),
    ],
)
def test_more_prompts_than_there_are_name_the_most(tmp_path, problems, capsys, options, refused):
    pytest.importorskip("math_verify")
    chat = saved(tmp_path / "chat", chat=True)
    command = ["ppo", "--task", "sums", "--model", str(chat), "--dry-run"]
    words = options.format(problems=problems).split()
    assert main([*command, *words]) == (2 if refused else 0)
    printed = capsys.readouterr()
    if refused:
        assert printed.err.splitlines()[-1].startswith(f"endorm ppo: {refused}")
    else:
        wanted = words[1] if words[0] == "--n-prompts" else 1
        assert printed.out.startswith(f"chat: {wanted} prompts")


def test_checked_answers_alone_teach_nothing_where_all_are_wrong(tmp_path, capsys):
    chat = saved(tmp_path / "chat", chat=True)
    command = ["ppo", "--task", "sums", "--n-prompts", "16", "--eval-prompts", "3", *WORDS, *FEW]
    command += ["--model", str(chat), "--checked", "1", "--out", str(tmp_path / "run")]
    assert main([*command, "--alpha", "0"]) == 2
    wrong = "sums: none of 6 responses is right, so checked answers teach nothing"
    assert wrong in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_checked_answers_are_learnt(shared_models, tmp_path):
    """On a task of an exact tree: the accuracy rises beyond what the own reward could do."""
    command = ["ppo", "--model", str(shared_models / "add-fair"), "--task", "addition"]
    command += ["--alpha", "0", "--checked", "1", "--beta", "0", "--n-prompts", "8"]
    command += ["--eval-prompts", "8", "--eval-samples", "64", "--samples", "16", "--steps", "12"]
    command += ["--prompts-per-step", "8", "--minibatch", "32", "--baseline", "group"]
    command += ["--lr", "5e-5"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    rows = read_metrics(tmp_path)
    assert rows[-1]["reward"] > rows[1]["reward"] + 0.2
    assert rows[1]["reward"] <= 1


def test_a_teacher_of_another_vocabulary_is_refused(shared_models, folder, tmp_path, capsys):
    command = ["ppo", "--task", "sorting", "--model", str(shared_models / "nano-sort")]
    assert main([*command, "--teacher", str(folder), "--out", str(tmp_path / "run"), *FEW]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "nano-sort" in error[0]


def test_a_run_that_diverges_says_why(folder, problems, tmp_path, capsys):
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--max-tokens",
        "4",
        "--out",
        str(tmp_path),
    ]
    diverging = ["--stop-kl", "1e-5", "--lr", "1e-3", "--warmup", "1", "--steps", "5"]
    assert main([*command, *FEW, *diverging]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        r"endorm ppo: stopped: step [2-5]: KL to the frozen model is .*, above stop_kl=1e-05; the "
        r"last",
        error,
    )


def test_hyperparameters_come_from_a_file_and_from_options(folder, problems, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"beta": 0.3, "epochs": 3, "end_tokens": [7]}')
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--dry-run",
        "--out",
        str(tmp_path / "out"),
    ]
    command += [
        "--max-tokens",
        "8",
        "--config",
        str(tmp_path / "config.json"),
        "--beta",
        "0.2",
        "--baseline",
        "group",
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{") :])
    assert (found["beta"], found["epochs"], found["end_tokens"], found["baseline"]) == (
        0.2,
        3,
        [7],
        "group",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "{tmp}/typo.json"], "epoch: no such hyperparameter; there are adaptive_kl,"),
        (["--beta", "-1"], "--beta=-1: must be at least 0 reward units per nat"),
        (["--clip", "high"], "--clip=high: must be a number, above 0, or none for off"),
        (["--task", "addition"], "--task or --data: give one of them"),
        (["--teacher-bits", "4"], "--teacher-bits needs --teacher"),
        (
            ["--eval", "math500", "--max-tokens", "6"],
            "math500: a short name; give --data-folder, a folder with math/",
        ),
        (["--config", "nowhere.json"], "--config=nowhere.json: cannot be read as JSON"),
        (["--eval-every", "0"], "--eval-every=0: must be at least 1"),
        (["--eval-samples", "1"], "--eval-samples=1: must be at least 2"),
        (["--resume", "--no-weights"], "--resume and --no-weights: give one of them"),
        (
            ["--eval", "{problems},{problems}", "--max-tokens", "6"],
            "two tasks are called by one name",
        ),
        (["--config", "{tmp}/huge.json"], "must be above 0"),
        (["--chat"], "--chat: the tokenizer of tiny has no chat template"),
        (["--max-tokens", "511"], "no problem that tiny has room for; give fewer --max-tokens"),
    ],
)
def test_bad_input_is_one_line(folder, problems, tmp_path, capsys, options, message):
    (tmp_path / "typo.json").write_text('{"epoch": 1}')
    (tmp_path / "huge.json").write_text('{"lr": 1%s}' % ("0" * 400))  # as no double is
    command = [
        "ppo",
        "--model",
        str(folder),
        "--data",
        str(problems),
        "--out",
        str(tmp_path / "out"),
        *(word.format(tmp=tmp_path, problems=problems) for word in options),
    ]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("endorm ppo: ")


# --- Evaluation by writing, and what a run costs --------------------------------------------------


def test_written_responses_are_those_of_the_model(folder):
    lm = ModelSpec(folder).load()
    prompts = ["one", "a much longer prompt", "x"]
    greedy = sample_texts(lm, prompts, 5, seed=None, end_tokens=())
    for prompt, (text,) in zip(prompts, greedy.texts, strict=True):
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
        for _ in range(5):
            ids = torch.cat([ids, lm.model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert text == lm.tokenizer.decode(ids[0, -5:])
    drawn = sample_texts(lm, prompts, 4, samples=300, end_tokens=(), batch=128)
    assert [len(texts) for texts in drawn.texts] == [300] * 3
    again = sample_texts(lm, prompts, 4, samples=300, end_tokens=(), batch=128)
    assert again.texts == drawn.texts


@pytest.mark.slow
def test_accuracy_by_sampling_is_the_exact_one(shared_models):
    lm, sums = ModelSpec(shared_models / "add-fair").load(), addition(5, seed=3)
    config = PPOConfig(max_tokens=4, end_tokens=())
    at = ExactTarget(lm, sums.prompts, config, sums.answers)
    exact = at.measure(at.anchor)
    found = SampledTarget(lm, sums, config, samples=1000).report(lm)
    assert found["addition/greedy"] == exact["accuracy_greedy"]
    low, high = (found[f"addition/sampled_{end}"] for end in ("low", "high"))
    assert low <= exact["accuracy_sampled"] <= high < low + 0.04


def test_end_tokens_end_what_is_written(folder):
    lm = ModelSpec(folder).load()
    task = Task("empty", ("one", "two"), ("", ""))
    written = sample_texts(lm, task.prompts, 6, samples=200)
    assert 0 < written.ended.mean() < 1
    assert not any("</s>" in text for texts in written.texts for text in texts)
    right = task.correct(written.texts)
    assert 0 < right.mean() < written.ended.mean()


def test_costs_grow_as_they_must(folder):
    lm = ModelSpec(folder).load()
    lm.model.config.num_hidden_layers = 4  # checkpoints save nothing of the two that it has

    def of(**changes):
        return cost(lm, PPOConfig(max_tokens=64, **changes), 16).memory

    base = of()
    n = sum(p.numel() for p in lm.model.parameters())
    assert base["frozen weights"] == 4 * n
    assert base["trained"] == 16 * n
    assert of(lora=2)["trained"] < base["trained"]
    assert of(samples=4)["cache"] == 2 * base["cache"]
    assert of(gradient_checkpointing=True)["activations"] < base["activations"]
    assert of(microbatch=8)["activations"] == base["activations"] / 32
    assert cost(lm, PPOConfig(max_tokens=64), 16).seconds > 0
