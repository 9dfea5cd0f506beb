"""``endorm solve`` of a folder of layers that are mapped into memory."""

import json

import numpy as np
import pytest

from llm_bridge.commands.main import main
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.prompt_values import averages, prompt_values
from theory.solve.soft import soft_values

V, H, P = 3, 4, 2


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "layers"
    path.mkdir()
    for h in range(H):
        np.save(path / f"reward_{h}.npy", rng.random((P * V**h, V)))
    np.save(path / "prompt_weights.npy", np.array([0.25, 0.75]))
    return path


def layers(folder, name):
    return [np.load(folder / f"{name}_{h}.npy") for h in range(H)]


def solved(folder, *options):
    out = folder.parent / "answer.json"
    assert main(["solve", str(folder), "--alpha", "0.5", "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def test_a_folder_is_solved_as_the_file_is(folder, capsys):
    mdp = TokenMDP.tree(layers(folder, "reward"), prompt_weights=[0.25, 0.75])
    mdp.save(folder.parent / "mdp.npz")
    found = solved(folder, "--threads", "2", "--out", str(folder.parent / "run"))
    assert "soft value" in capsys.readouterr().out
    assert solved(folder, "--out", str(folder.parent / "run")) == found
    expected = solved(folder.parent / "mdp.npz")
    assert found.keys() <= expected.keys()
    numbers = [name for name, value in found.items() if isinstance(value, float)]
    assert {"soft_value", "optimal_plain_value", "expert_entropy"} <= set(numbers)
    for name in numbers:
        assert found[name] == pytest.approx(expected[name], rel=1e-12)
    assert found["soft_value"] == pytest.approx([0.25, 0.75] @ soft_values(mdp, 0.5)[0], rel=1e-14)


def test_logits_in_the_folder_are_a_policy_that_is_compared(folder, capsys):
    rng = np.random.default_rng(1)
    for h in range(H):
        table = rng.normal(size=(P * V**h, V)).astype(np.float32)
        np.save(folder / f"logits_{h}.npy", table)
    mdp = TokenMDP.tree(layers(folder, "reward"), prompt_weights=[0.25, 0.75])
    policy = Policy.from_logits(mdp.dynamics, layers(folder, "logits"))
    found = solved(folder)
    expected = averages(prompt_values(mdp, 0.5, policy=policy), mdp.dynamics.prompt_weights)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12)
    assert "KL(π̂‖π_E)" in capsys.readouterr().out


def spoil(folder, fault):
    if fault == "missing":
        (folder / "reward_2.npy").unlink()
    elif fault == "shape":
        np.save(folder / "reward_2.npy", np.zeros((4, V)))
    elif fault == "unknown":
        np.save(folder / "rewards_2.npy", np.zeros((4, V)))
    elif fault == "logits":
        np.save(folder / "logits_1.npy", np.zeros((P * V, V)))
    elif fault == "damaged":
        whole = (folder / "reward_3.npy").read_bytes()
        (folder / "reward_3.npy").write_bytes(whole[:-8])
    elif fault == "nan":
        table = np.load(folder / "reward_3.npy")
        table[17, 2] = np.nan
        np.save(folder / "reward_3.npy", table)
    elif fault == "objects":
        np.save(folder / "reward_0.npy", np.array([[None] * V] * P), allow_pickle=True)
    elif fault == "empty":
        for path in folder.iterdir():
            path.unlink()
    elif fault == "range":
        np.save(folder / "reward_range.npy", np.zeros(3))


@pytest.mark.parametrize(
    ("fault", "options", "message"),
    [
        ("missing", (), "reward_2.npy is missing"),
        ("shape", (), "reward_2.npy has shape (4, 3): must be (18, 3)"),
        ("unknown", (), "rewards_2.npy is not read"),
        ("logits", (), "logits_0.npy is missing"),
        ("damaged", (), "reward_3.npy: not a whole .npy file"),
        ("nan", (), "rewards(h=3, first=0, last=54) holds nan at prefix 17, token 2"),
        ("objects", (), "reward_0.npy: not a whole .npy file"),
        ("empty", (), "reward_0.npy is missing"),
        ("range", (), "reward_range.npy must hold two numbers"),
        ("", ("--epsilon", "0.1"), "--epsilon: worst cases need the whole MDP in memory"),
        ("", ("--threads", "0"), "--threads=0: must be from 1"),
    ],
)
def test_bad_folders_are_one_line(folder, capsys, fault, options, message):
    spoil(folder, fault)
    assert main(["solve", str(folder), "--alpha", "1", *options]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


def test_threads_are_for_folders_and_out_is_for_both(folder, capsys):
    TokenMDP.tree([[[0.0, 1.0]]]).save(folder.parent / "mdp.npz")
    arguments = ["solve", str(folder.parent / "mdp.npz"), "--alpha", "1"]
    assert main([*arguments, "--threads", "2"]) == 2
    assert "--threads is for a folder of .npy files" in capsys.readouterr().err
    for given in (arguments, ["solve", str(folder), "--alpha", "1"]):
        out = folder.parent / f"run-{len(given[1])}"
        assert main([*given, "--out", str(out)]) == 0
        assert (out / "report.html").is_file()
        assert json.loads((out / "solution.json").read_text())["schema"] == "endorm/solve/1"
