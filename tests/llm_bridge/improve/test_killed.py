"""Real runs that are killed at random moments, once by each signal, end at the bits of one that was
left alone.
"""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.improve.run import read_metrics

CODE = "import torch; torch.set_num_threads(1); "
CODE += "from llm_bridge.commands.main import main; raise SystemExit(main())"
STEPS = 10
MOLECULES = ["--task", "molecules", "--n-prompts", "1", "--prompts-per-step", "1"]
MOLECULES += ["--samples", "16", "--minibatch", "8", "--eval-prompts", "1", "--eval-samples", "4"]
CHAT = ["--task", "comparisons", "--prompts-per-step", "1", "--samples", "2", "--minibatch", "2"]
CHAT += ["--epochs", "1", "--eval-prompts", "1", "--eval-samples", "2", "--dtype", "bfloat16"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "options"),
    [("smiles-small", MOLECULES), ("smollm2-135m-instruct", CHAT)],
    ids=["molecules", "chat"],
)
def test_killed_by_each_signal_and_resumed(shared_models, tmp_path, model, options):
    """The order of the signals and the moments, between two batches, are drawn anew each time."""
    if model == "smiles-small":
        pytest.importorskip("rdkit", reason="RDKit is not installed")
    else:
        pytest.importorskip("gguf", reason="gguf is not installed")
    folder = shared_models / model
    path = next(folder.glob("*.gguf"), folder)
    command = [sys.executable, "-W", "ignore", "-c", CODE, "ppo", "--model", str(path), *options]
    command += ["--steps", str(STEPS), "--checkpoint-every", "2", "--eval-every", "5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(command, whole) == 0
    random = np.random.default_rng()
    for number in random.permutation(SIGNALS).tolist():
        share = random.uniform(0, 0.9)
        code = run(command, killed, number, share)
        where = f"{signal.Signals(number).name}, {share:.0%} of a batch's time after one"
        print(f"{where}: exit {code} at batch {read_metrics(killed)[-1]['step']}")
        assert code == (-number if number == signal.SIGKILL else 130), where
    assert run(command, killed) == 0
    for name in ("model/model.safetensors", "samples.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    ends = [torch.load(folder / "checkpoint.pt") for folder in (whole, killed)]
    assert equal(*ends)
    rows = [[r | {"seconds": 0} for r in read_metrics(out)] for out in (whole, killed)]
    assert repr(rows[0]) == repr(rows[1])  # NaN is like NaN


def run(command, out, number=None, share=0.0):
    """Run the command in a folder, or go on there; send it a signal after its first batch and a
    share of the time that this one took.
    """
    metrics = out / "metrics.jsonl"
    resume = ["--resume"] if metrics.exists() else []
    before = lines(metrics)
    process = subprocess.Popen([*command, "--out", str(out), *resume], stdout=subprocess.DEVNULL)
    while number is not None and process.poll() is None:
        if lines(metrics) > max(before, 1):  # a batch; the first line of a run is before it
            time.sleep(share * read_metrics(out)[-1]["seconds"])
            process.send_signal(number)
            break
        time.sleep(0.01)
    return process.wait()


def lines(metrics):
    return metrics.read_text().count("\n") if metrics.exists() else 0


def equal(one, two):
    """Whether two checkpoints have the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two
