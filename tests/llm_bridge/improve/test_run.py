"""Runs in a folder: killed and resumed, on one process and on two, with adapters, and stopped for a
reason.
"""

import dataclasses
import errno
import json
import os
from contextlib import nullcontext

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from letters import PROMPTS, SMALL, changed, model, train, weights
from two_processes import two_processes

from llm_bridge.improve.run import read_metrics
from llm_bridge.improve.target import ExactTarget
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.rollout import Diverged
from theory.storage.runs import Lines

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lm():
    return model()


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def timeless(out):
    """Metrics of a run without the seconds, which no two runs share."""
    rows = read_metrics(out)
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


# --- Killed and resumed ---------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "killed_at", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 6))]
)
@pytest.mark.parametrize("changes", [{"value_to_trunk": True}, {"adaptive_kl": 0.1}, {"lora": 2}])
def test_resumes_bit_for_bit(lm, tmp_path, monkeypatch, killed_at, changes):
    if "lora" in changes:
        pytest.importorskip("peft")
    config = changed(SMALL, steps=7, warmup=3, **changes)
    whole = train(lm, PROMPTS, config, out=tmp_path / "whole", checkpoint_every=2, eval_every=3)
    step, out = Trainer.step, tmp_path / "killed"

    def kill(trainer):
        if trainer.done == killed_at:
            raise Killed
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", kill)
    with pytest.raises(Killed):
        train(lm, PROMPTS, config, out=out, checkpoint_every=2, eval_every=3)
    monkeypatch.setattr(Trainer, "step", step)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "unfin')  # what a kill in the middle of a line leaves
    torch.manual_seed(99)  # torch's own generator plays no part
    begins = killed_at == 1
    with (
        pytest.warns(match="has no checkpoint to go on from; begins at step 0")
        if begins
        else nullcontext()
    ):
        resumed = train(lm, PROMPTS, config, out=out, resume=True, checkpoint_every=2, eval_every=3)
    assert same(whole, resumed)
    assert whole.beta == resumed.beta
    assert timeless(out) == timeless(tmp_path / "whole")
    assert (out / "samples.jsonl").read_text() == (tmp_path / "whole/samples.jsonl").read_text()
    assert [row["step"] for row in read_metrics(out)] == list(range(8))


def test_stops_where_it_is_asked_and_goes_on(lm, tmp_path):
    config = changed(SMALL, steps=5)
    asked = iter([False, False, True])
    train(lm, PROMPTS, config, out=tmp_path / "two", stop=lambda: next(asked))
    assert read_metrics(tmp_path / "two")[-1]["step"] == 3
    assert not (tmp_path / "two" / "model").exists()
    resumed = train(lm, PROMPTS, config, out=tmp_path / "two", resume=True)
    assert same(resumed, train(lm, PROMPTS, config))


def test_other_runs_are_refused(lm, tmp_path):
    config = changed(SMALL, steps=1)
    out = tmp_path / "run"
    whole = train(lm, PROMPTS, config, out=out)
    with pytest.raises(ValueError, match="has a checkpoint; use resume=True"):
        train(lm, PROMPTS, config, out=out)
    teacher = {"teacher": model(seed=1)}
    for other, name in (
        (
            (lm, PROMPTS, changed(config, beta=0.3), {}),
            "beta = 0.5, not 0.3: give another --out, or remove it",
        ),
        ((lm, PROMPTS, changed(config, max_grad_norm=None), {}), "max_grad_norm = 1.0, not null"),
        ((lm, PROMPTS[:2], config, {}), "prompts = "),
        ((model(seed=1), PROMPTS, config, {}), "lm = "),
        ((lm, PROMPTS, config, teacher), "reward_of = "),
    ):
        with pytest.raises(ValueError, match=f"run has a run with {name}"):
            train(*other[:3], **other[3], out=out, resume=True)
    for other, message in (  # a checkpoint knows it too
        (
            (lm, PROMPTS, changed(config, beta=0.3), {}),
            "^beta=0.3: .* has 0.5; give that",
        ),
        ((lm, PROMPTS[:2], config, {}), "^prompts="),
        ((model(seed=1), PROMPTS, config, {}), "^lm="),
        ((lm, PROMPTS, config, teacher), "^reward_of="),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(*other[:3], **other[3]).load(out / "checkpoint.pt")
    machine = changed(config, microbatch=4, gradient_checkpointing=True)
    assert same(train(lm, PROMPTS, machine, out=out, resume=True), whole)
    with pytest.raises(OSError, match="give the folder of a run"):
        read_metrics(tmp_path / "nowhere")


def test_nothing_to_go_on_from(lm, tmp_path):
    """It is said, and a folder of something else is refused as it is."""
    config = changed(SMALL, steps=1)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"has no run to go on from; give its folder, or leave resume out$"
    ):
        train(lm, PROMPTS, config, out=tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.warns(match=r"out='.*/new': has no checkpoint to go on from; begins at step 0$"):
        train(lm, PROMPTS, config, out=tmp_path / "new", resume=True)
    assert [row["step"] for row in read_metrics(tmp_path / "new")] == [0, 1]


@pytest.mark.parametrize("changes", [{}, {"seed": 5}])
def test_a_second_run_is_refused_and_the_first_loses_nothing(lm, tmp_path, monkeypatch, changes):
    config = changed(SMALL, steps=3)
    whole = train(lm, PROMPTS, config, out=tmp_path / "alone")
    step, refused = Trainer.step, []

    def beside(trainer):
        for resume in (False, True):
            with pytest.raises(
                ValueError, match="run: another run is writing there; wait for it, or give another"
            ):
                train(lm, PROMPTS, changed(config, **changes), out=tmp_path / "run", resume=resume)
            refused.append(trainer.done)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", beside)
    assert same(train(lm, PROMPTS, config, out=tmp_path / "run", checkpoint_every=1), whole)
    assert refused == [0, 0, 1, 1, 2, 2]
    assert timeless(tmp_path / "run") == timeless(tmp_path / "alone")


def test_metrics_that_are_not_finite_come_back(lm, tmp_path):
    found = {"a": np.inf, "b": -np.inf, "c": np.nan, "d": np.float32(0.5)}
    train(lm, PROMPTS, changed(SMALL, steps=1), out=tmp_path, evaluate=lambda _: found)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line.pop("seconds") >= 0
    assert line == {"step": 0, "a": "inf", "b": "-inf", "c": "nan", "d": 0.5}
    assert timeless(tmp_path)[0] == pytest.approx({"step": 0} | found, nan_ok=True)
    (tmp_path / "metrics.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1: not a line of a run"):
        read_metrics(tmp_path)


# --- What a run leaves ----------------------------------------------------------------------------


def test_the_policy_is_saved_as_transformers_reads_it(lm, tmp_path):
    trainer = train(lm, PROMPTS, changed(SMALL, steps=2), out=tmp_path)
    target = ExactTarget(lm, PROMPTS, SMALL)
    assert target.report(ModelSpec(tmp_path / "model").load()) == pytest.approx(
        target.report(trainer.lm)
    )


def test_samples_and_evaluations(lm, tmp_path):
    calls = []

    def evaluate(policy):
        calls.append(policy.name)
        return {"found": float(len(calls))}

    train(lm, PROMPTS, changed(SMALL, steps=5), out=tmp_path, evaluate=evaluate, eval_every=2)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows if "found" in row] == [0, 2, 4, 5]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [2] * 4 + [4] * 4 + [5] * 4
    assert {sample["prompt"] for sample in samples} == set(PROMPTS)
    assert all(len(sample["response"]) == 3 for sample in samples)
    for sample in samples[:2]:
        reward = EndogenousReward(lm, reading=SMALL.reading, end_tokens=SMALL.end_tokens)
        score = reward.score([sample["prompt"]], [sample["response"]])[0]
        assert sample["reward"] == pytest.approx(score.reward_sum, abs=1e-4)


def test_line_breaks_in_responses_are_not_ends_of_lines(lm, tmp_path):
    train(lm, PROMPTS, changed(SMALL, steps=2), out=tmp_path, stop=lambda: True)
    with (tmp_path / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 1, "response": "a\u2028b\x85c"}, ensure_ascii=False) + "\n")
    train(lm, PROMPTS, changed(SMALL, steps=2), out=tmp_path, resume=True)
    rows = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(rows[0])["response"] == "a\u2028b\x85c"


def test_tensorboard(lm, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(lm, PROMPTS, changed(SMALL, steps=3), out=tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [event.value for event in events.Scalars("kl")]
    assert found == pytest.approx([row["kl"] for row in read_metrics(tmp_path)[1:]], rel=1e-5)


# --- Adapters, memory, precision ------------------------------------------------------------------


@pytest.mark.slow
def test_adapters_start_at_the_model_and_leave_it_alone(lm, tmp_path):
    pytest.importorskip("peft")
    before = [p.clone() for p in lm.model.parameters()]
    config = changed(SMALL, lora=4, steps=30, lr=1e-2)
    target = ExactTarget(lm, PROMPTS, config)
    assert target.report(Trainer(lm, PROMPTS, config).lm)["kl_to_anchor"] == pytest.approx(
        0, abs=1e-9
    )
    trainer = train(lm, PROMPTS, config, out=tmp_path)
    assert target.report(trainer.lm)["share"] > 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True))
    assert all(p.requires_grad for p in lm.model.parameters())
    own = {p.data_ptr() for p in lm.model.parameters()}
    trained = [p for p in trainer.lm.model.parameters() if p.requires_grad]
    assert own <= {
        p.data_ptr() for p in trainer.lm.model.parameters()
    }  # nothing of the model is there twice
    assert not own & {p.data_ptr() for p in trained}
    merged = target.report(ModelSpec(tmp_path / "model").load())
    assert merged == pytest.approx(target.report(trainer.lm), abs=1e-5)
    assert (tmp_path / "checkpoint.pt").stat().st_size < 5e5


@pytest.mark.parametrize("changes", [{"microbatch": 7}, {"gradient_checkpointing": True}])
def test_memory_switches_change_nothing(lm, changes):
    one, two = (train(lm, PROMPTS, changed(SMALL, steps=2, **more)) for more in ({}, changes))
    for a, b in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    assert not any(part.training for part in two.lm.model.modules() if not list(part.children()))


def test_checkpointing_keeps_less(lm):
    """Activations that the backward pass holds, in elements."""

    def held(gradient_checkpointing):
        trainer = Trainer(
            lm, PROMPTS, changed(SMALL, gradient_checkpointing=gradient_checkpointing)
        )
        trainer.step()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.append(x.numel()) or x, lambda x: x
        ):
            trainer.rollout.read(trainer.actor)
        return sum(sizes)

    assert held(True) < 0.5 * held(False)


# --- Several processes ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_write_and_learn_the_same(lm, tmp_path, shard):
    """With one minibatch a batch the two sum the same gradients, in another order.

    The value head learns slowly: at the mean return its gradient is rounding only, of which Adam
    makes whole steps, and a head that does not start there would be far off all the time.
    """
    config = changed(
        SMALL,
        steps=4,
        minibatch=128,
        epochs=1,
        normalise_advantages=True,
        shard=shard,
        value_lr=1e-4,
    )
    together = two_processes(config, tmp_path)
    alone = train(lm, PROMPTS, dataclasses.replace(config, shard=False), out=tmp_path / "alone")
    target = ExactTarget(lm, PROMPTS, config)
    found = [target.report(policy) for policy in (together, alone.lm)]
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[0]["share"] > 0.05
    rows = [read_metrics(folder) for folder in (tmp_path, tmp_path / "alone")]
    for name in ("kl", "reward", "policy_loss", "value_loss", "gradient", "advantage_deviation"):
        assert [row[name] for row in rows[0][1:]] == pytest.approx(
            [row[name] for row in rows[1][1:]], rel=0.005, abs=2e-4
        )
    # the checkpoint of two goes on in one
    resumed = Trainer(lm, PROMPTS, config)
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.done == 4
    assert target.report(resumed.lm) == pytest.approx(found[0], abs=1e-6)


def test_batches_must_be_shared_evenly(lm):
    from llm_bridge.models.processes import Workers

    with pytest.raises(ValueError, match="prompts_per_step=4: must be a multiple of 3 processes"):
        Trainer(lm, PROMPTS, SMALL, group=Workers(0, 3))


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
def test_a_damaged_checkpoint_is_named_with_the_remedy(lm, tmp_path, how):
    train(lm, PROMPTS, changed(SMALL, steps=1), out=tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other": b"not a zip"}[how])
    damaged = rf"{path}: damaged \(.*\); remove it to begin at step 0, or restore a copy"
    with pytest.raises(ValueError, match=damaged) as found:
        train(lm, PROMPTS, changed(SMALL, steps=1), out=tmp_path, resume=True)
    assert "\n" not in str(found.value)
    torch.save({"identity": {}}, path)
    with pytest.raises(ValueError, match="it lacks actor, beta, done"):
        train(lm, PROMPTS, changed(SMALL, steps=1), out=tmp_path, resume=True)
    path.unlink()
    with pytest.warns(UserWarning, match="no checkpoint to go on from; begins at step 0"):
        assert train(lm, PROMPTS, changed(SMALL, steps=1), out=tmp_path, resume=True).done == 1


# --- Stopped for a reason -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_stops_the_run(lm, tmp_path, bad):
    calls = []

    def reward(prompts, responses):
        calls.append(len(prompts))
        rows = [np.zeros(len(response)) for response in responses]
        rows[3][1] = bad if len(calls) == 3 else 0.0
        return rows

    with pytest.raises(Diverged, match=f"step 3: rewards hold {bad}; check the reward"):
        train(lm, PROMPTS, SMALL, out=tmp_path, extra=reward, checkpoint_every=1)
    assert timeless(tmp_path)[-1] == {
        "step": 3,
        "stopped": f"step 3: rewards hold {bad}; check the reward",
    }
    trainer = Trainer(lm, PROMPTS, SMALL)
    trainer.load(tmp_path / "checkpoint.pt")
    assert trainer.done == 2
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint", "metrics"])
def test_a_full_disk_stops_the_run(lm, tmp_path, monkeypatch, name):
    """The third checkpoint, or the line of the fifth batch, does not fit."""
    written, how = [], {"checkpoint": (torch, "save"), "metrics": (Lines, "append")}[name]
    true = getattr(*how)

    def full(*arguments):
        written.append(arguments)
        if len(written) == {"checkpoint": 3, "metrics": 6}[name]:
            if name == "checkpoint":
                arguments[1].write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true(*arguments)

    monkeypatch.setattr(*how, full)
    config = changed(SMALL, steps=8)
    with pytest.raises(OSError, match="No space left on device"):
        train(lm, PROMPTS, config, out=tmp_path, checkpoint_every=2)
    monkeypatch.setattr(*how, true)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "metrics.jsonl",
        "run.json",
        "samples.jsonl",
    ]
    resumed = train(lm, PROMPTS, config, out=tmp_path, resume=True)
    assert same(resumed, train(lm, PROMPTS, config))


def test_a_folder_that_cannot_be_written_is_found_at_once(lm, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Trainer, "step", lambda trainer: pytest.fail("a batch was spent"))
    with pytest.raises(OSError, match="file"):
        train(lm, PROMPTS, SMALL, out=tmp_path / "file")
