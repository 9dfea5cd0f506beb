"""The command: its numbers, its files, its exit codes, and one clear line for each bad input."""

import dataclasses
import json
import sys
import warnings

import numpy as np
import pytest
from planted import changed

from llm_bridge.commands.main import main
from theory.mdp.token_mdp import TokenMDP
from theory.storage.runs import RunFolder


@pytest.fixture
def two_steps(tmp_path):
    """Two tokens, two steps; only the response (1, 1) pays, 1 in all."""
    path = tmp_path / "mdp.npz"
    TokenMDP.tree([np.zeros((1, 2)), np.array([[0.0, 0.0], [0.0, 1.0]])]).save(path)
    return path


def test_solve_against_a_sum_by_hand(two_steps, tmp_path, capsys):
    out = tmp_path / "answer.json"
    assert main(["solve", str(two_steps), "--alpha", "0.5", "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())
    weights = np.exp(np.array([0, 0, 0, 1.0]) / 0.5)
    p = weights / weights.sum()
    assert numbers["soft_value"] == pytest.approx(0.5 * np.log(weights.sum()))
    assert numbers["expert_plain_value"] == pytest.approx(p[3])
    assert numbers["optimal_plain_value"] == 1.0
    assert numbers["expert_entropy"] == pytest.approx(-(p * np.log(p)).sum())
    assert numbers["map_response"] == [[1, 1]]
    assert f"{numbers['soft_value']:.10g}" in capsys.readouterr().out


def test_solve_with_a_radius_against_worst_cases_by_hand(tmp_path, capsys):
    """One token of two pays 1: the ball moves the odds 1/(1 + e^{−1/α}) by e^ε at most."""
    path, out = tmp_path / "one.npz", tmp_path / "answer.json"
    TokenMDP.tree([np.array([[1.0, 0.0]])]).save(path)
    assert main(["solve", str(path), "--alpha", "4", "--epsilon", "0.4", "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())
    p = 1 / (1 + np.exp(-1 / 4))
    low = max(p * np.exp(-0.4), 1 - (1 - p) * np.exp(0.4))
    assert numbers["worst_clone_gap"] == pytest.approx(p - low)
    assert low < 0.5  # so the other token can be made the most probable
    assert numbers["worst_map_gap"] == pytest.approx(p)
    assert numbers["worst_map_gap_optimal"] == pytest.approx(1.0)
    high = min(p * np.exp(0.4), 1 - (1 - p) * np.exp(-0.4))
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    moved = [4 * np.log(q / (1 - q)) for q in (low, high)]
    assert numbers["worst_preference_tv"] == pytest.approx(
        max(abs(sigma(1) - sigma(d)) for d in moved)
    )
    gap = max(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)) for q in (low, high))
    assert numbers["worst_kl"] == pytest.approx(gap)
    assert numbers["bounds"]["rl_gap"] == pytest.approx(3.2)
    assert numbers["bounds"]["clone_gap_paper"] == pytest.approx(0.4)
    assert numbers["out_of_reach"] == {}
    assert "Exact worst cases within ε = " in capsys.readouterr().out


def test_solve_says_what_is_out_of_reach(tmp_path, capsys):
    path, out = tmp_path / "long.npz", tmp_path / "answer.json"
    TokenMDP.window([np.full((1 if h == 0 else 2, 2), 0.5) for h in range(60)], 1).save(path)
    assert main(["solve", str(path), "--alpha", "1", "--epsilon", "0.1", "--json", str(out)]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["worst_map_gap"] is numbers["worst_preference_tv"] is None
    assert set(numbers["out_of_reach"]) == {"worst_map_gap", "worst_preference_tv"}
    assert numbers["worst_clone_gap"] == pytest.approx(0.0, abs=1e-12)
    assert "worst_map_gap: " in capsys.readouterr().out


BAD_SOLVE = {
    "epsilon zero": (
        ["solve", "{mdp}", "--alpha", "1", "--epsilon", "0"],
        "--epsilon=0: must be from 1e-12 to 500 nats",
    ),
    "epsilon past doubles": (
        ["solve", "{mdp}", "--alpha", "1", "--epsilon", "800"],
        "--epsilon=800: must be from 1e-12 to 500",
    ),
    "missing file": (["solve", "none.npz", "--alpha", "1"], "no such file"),
    "alpha zero": (
        ["solve", "{mdp}", "--alpha", "0"],
        "--alpha=0: must be from 1e-09 to 1e+09 reward units",
    ),
    "alpha negative": (["solve", "{mdp}", "--alpha", "-1"], "--alpha=-1: must be from"),
    "alpha not finite": (
        ["solve", "{mdp}", "--alpha", "inf"],
        "--alpha=inf: must be from",
    ),
    "alpha past doubles": (["solve", "{mdp}", "--alpha", "1e-320"], "doubles hold no more"),
    "complex": (["solve", "{complex}", "--alpha", "1"], "reward_0 has dtype complex128"),
    "truncated": (["solve", "{truncated}", "--alpha", "1"], "not a whole .npz"),
    "not an npz": (["solve", "{text}", "--alpha", "1"], "not a whole .npz"),
    "nan reward": (["solve", "{nan}", "--alpha", "1"], "rewards[0] holds nan at (0, 1)"),
    "out of range": (["solve", "{large}", "--alpha", "1"], "outside reward_range=(0, 1)"),
}


@pytest.mark.parametrize("case", BAD_SOLVE)
def test_solve_bad_input(case, two_steps, tmp_path, capsys):
    files = {
        name: tmp_path / f"{name}.npz" for name in ("truncated", "text", "nan", "large", "complex")
    }
    files["truncated"].write_bytes(two_steps.read_bytes()[:200])
    files["text"].write_text("not a zip")
    np.savez(files["nan"], reward_0=np.array([[0.0, np.nan]]))
    np.savez(files["complex"], reward_0=np.array([[0.0, 1j]]))
    np.savez(files["large"], reward_0=np.array([[0.0, 2.0]]))
    argv, message = BAD_SOLVE[case]
    target = tmp_path / "answer.json"
    assert (
        main([word.format(mdp=two_steps, **files) for word in argv] + ["--json", str(target)]) == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not target.exists()


BAD_VERIFY = {
    "no instances": (["--instances", "0"], "--instances=0"),
    "negative seed": (["--seed", "-1"], "--seed=-1"),
    "seed too large": (["--seed", "99999999999999999999"], "--seed=99999999999999999999"),
    "alpha without model": (["--alpha", "2"], "--alpha needs --model"),
    "horizon without model": (["--horizon", "0"], "--horizon needs --model"),
    "empty model": (["--model", ""], "--model=: must name a folder or a hub id"),
    "alpha zero": (["--model", "m", "--alpha", "0"], "--alpha=0: must"),
    "alpha past doubles": (["--model", "m", "--alpha", "1e308"], "doubles hold no more"),
    "temperature zero": (
        ["--model", "{fair}", "--prompt", "123456", "--temperature", "0"],
        "--temperature=0: must be above 0",
    ),
    "json is a folder": (["--json", "{tmp}"], "is a folder"),
    "prompt without model": (["--prompt", "x"], "--prompt needs --model"),
    "json folder missing": (["--json", "{tmp}/none/report.json"], "folder does not exist"),
    "out is a file": (["--out", "{file}"], "is a file"),
    "no such model": (["--model", "./none", "--prompt", "x"], "./none"),
    "no prompt": (["--model", "{fair}"], "--prompt"),
    "empty prompt": (["--model", "{fair}", "--prompt", ""], "prompt"),
    "prompt not in vocabulary": (["--model", "{fair}", "--prompt", "12x456"], "vocabulary"),
    "prompt too long": (["--model", "{fair}", "--prompt", "1234567890"], "positions"),
    "horizon too long": (
        ["--model", "{fair}", "--prompt", "123456", "--horizon", "5"],
        "positions",
    ),
    "horizon zero": (["--model", "{fair}", "--prompt", "123456", "--horizon", "0"], "horizon"),
    "other vocabulary": (
        ["--model", "{fair}", "--expert", "{sort}", "--prompt", "123456"],
        "vocabular",
    ),
    "token not in vocabulary": (
        ["--model", "{fair}", "--prompt", "123456", "--tokens", "01x"],
        "x",
    ),
    "tree too large": (["--model", "{stories}", "--prompt", "Once", "--horizon", "8"], "needs"),
    "bad dtype": (["--model", "{fair}", "--prompt", "123456", "--dtype", "float7"], "float7"),
    "literature": (["--literature", "--prompt", "x"], "--prompt has no use with --literature"),
}


@pytest.mark.parametrize("case", BAD_VERIFY)
def test_verify_bad_input(case, tmp_path, capsys, request):
    argv, message = BAD_VERIFY[case]
    names = {}
    if any("{" in word for word in argv):
        (tmp_path / "file").touch()
        names = {"tmp": tmp_path, "file": tmp_path / "file"}
        if "--model" in argv:
            pytest.importorskip("torch")
            models = request.getfixturevalue("shared_models")
            names |= {
                "fair": models / "add-fair",
                "sort": models / "nano-sort",
                "stories": models / "stories260K",
            }
    out = [] if "--out" in argv else ["--out", str(tmp_path / "out")]
    assert main(["verify", *(word.format(**names) for word in argv), *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_verify_real_models(shared_models, tmp_path, capsys):
    """`add-fair` against `add-teacher`: ε is above 10 nats, the paper's bounds hold and are
    vacuous.
    """
    pytest.importorskip("torch")
    argv = [
        "verify",
        "--model",
        str(shared_models / "add-fair"),
        "--expert",
        str(shared_models / "add-teacher"),
    ]
    argv += ["--prompt", "123456", "--horizon", "4", "--out", str(tmp_path), "--verbose"]
    assert main(argv) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    name = "add-fair against add-teacher"
    (group,) = report["groups"]  # the model alone: random trees are there where they are asked for
    assert group["name"] == name
    assert group["facts"]["epsilon_pi (nats), at most"] > 10
    rows = group["statements"]
    for statement in ("theorem-1", "theorem-2-clone", "theorem-2-rl"):
        assert rows[statement]["verdict"] == "holds"
        assert rows[statement]["vacuous_share"] == 1.0
    assert rows["rl-average"]["vacuous_share"] == 0.0
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json",
        "report.html",
    }
    printed = capsys.readouterr().out
    assert "vacuous here (the bound says nothing): theorem-1, theorem-2-clone" in printed
    assert printed.splitlines()[1].startswith("40 statements checked on 1 instance, none violated")


def test_verify_exits_1_on_a_violation(monkeypatch, tmp_path):
    from llm_bridge.commands import verify as command
    from theory.claims.statements import STATEMENTS
    from theory.studies import groups as verify

    false = changed(STATEMENTS[-1], right=lambda i: 0.0 * i.kl_to_expert)
    groups = verify.exact_groups(n_instances=8)[:1]
    planted = [dataclasses.replace(group, statements=(false,)) for group in groups]
    monkeypatch.setattr(verify, "exact_groups", lambda *_, **__: planted)
    monkeypatch.setattr(command, "_model_groups", lambda *_: ([], ""))
    assert main(["verify", "--instances", "8", "--out", str(tmp_path)]) == 1


def test_verify_the_literature(monkeypatch, tmp_path, capsys):
    from theory.claims import literature

    assert main(["verify", "--literature", "--out", str(tmp_path / "out")]) == 0
    assert "11 claims, 29 statements decided: all as the list says." in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "literature.json").read_text())["claims"]
    assert all(claim["confirmed"] for claim in kept.values())
    some = literature.LITERATURE[0]
    false = changed(some.holds[-1], right=lambda i: 0.0 * i.kl_to_expert)
    wrong = dataclasses.replace(some, holds=(false,))
    monkeypatch.setattr(literature, "LITERATURE", (wrong,))
    assert main(["verify", "--literature", "--out", str(tmp_path / "planted")]) == 1
    assert f"NOT as the list says: {some.name}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["verify", "--instances", "8"], ["curves", "--family", "sharpening"]]
)
def test_a_folder_that_another_run_writes_to(words, tmp_path, capsys):
    out = tmp_path / "out"
    with RunFolder(out):
        assert main([*words, "--out", str(out)]) == 2
        refused = (
            f"endorm {words[0]}: {out}: another run is writing there; wait for it, or give "
            "another --out\n"
        )
        assert capsys.readouterr().err == refused
        assert [path.name for path in out.iterdir()] == ["run.lock"]
    assert not out.exists()


def test_one_token_vocabulary_is_an_answer(shared_models, tmp_path):
    """With one token there is nothing to compare; what can still be said is said."""
    pytest.importorskip("torch")
    argv = [
        "verify",
        "--model",
        str(shared_models / "add-fair"),
        "--prompt",
        "123456",
        "--tokens",
        "5,",
    ]
    assert main([*argv, "--horizon", "2", "--out", str(tmp_path)]) == 0


def test_sharpening_is_drawn(tmp_path, capsys):
    assert main(["curves", "--family", "sharpening", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.json",
        "report.html",
        "run.json",
        "sharpening.png",
        "sharpening.svg",
    ]
    curves = json.loads((tmp_path / "curves.json").read_text())["sharpening"]
    ends = {
        name.split(":")[0]: (curve["value"][0], curve["value"][-1])
        for name, curve in curves.items()
    }
    assert ends["helps"] == (pytest.approx(0.4), pytest.approx(1))
    assert ends["hurts"] == (pytest.approx(0.9), pytest.approx(0, abs=1e-6))
    assert main(["curves", "--family", "sharpening", "--alphas", "1", "--out", str(tmp_path)]) == 2
    assert "--alphas is not read by --family sharpening" in capsys.readouterr().err


@pytest.fixture
def broken(two_steps, monkeypatch):
    """Arguments of a command in which an error that nobody foresaw is planted."""

    def planted(error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(TokenMDP, "load", fail)
        return ["solve", str(two_steps), "--alpha", "1"]

    return planted


@pytest.mark.parametrize("error", [RuntimeError("a\nb\x1b[31m"), TypeError(), KeyError("x")])
def test_an_unforeseen_error_is_one_line_and_exit_code_70(broken, capsys, error):
    assert main(broken(error)) == 70
    line = capsys.readouterr().err
    assert line.startswith("endorm solve: a fault of endorm 0")
    assert type(error).__name__ in line
    assert "Traceback" not in line
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "ENDORM_DEBUG=1" in line


def test_with_endorm_debug_its_traceback_is_shown(broken, monkeypatch):
    monkeypatch.setenv("ENDORM_DEBUG", "1")
    with pytest.raises(RuntimeError, match="planted"):
        main(broken(RuntimeError("planted")))


def test_ctrl_c_while_the_words_are_read_is_one_line(monkeypatch, capsys):
    def stopped(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_bridge.commands.main._parsed", stopped)
    assert main(["verify"]) == 130
    assert capsys.readouterr().err == "endorm: stopped\n"


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_and_one_of_progress_bars_is_none(two_steps, monkeypatch, capsys):
    def warned(*_, **__):
        warnings.warn("two\nlines", stacklevel=2)
        warnings.warn("tqdm:disabling monitor support (...) due to:\nno thread", stacklevel=2)
        raise ValueError("the end")

    monkeypatch.setattr(TokenMDP, "load", warned)
    assert main(["solve", str(two_steps), "--alpha", "1"]) == 2
    assert capsys.readouterr().err == "endorm solve: two lines\nendorm solve: the end\n"


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_code_in_c_prints_is_no_traceback(two_steps, debug, monkeypatch, capsys):
    """Such code calls Python's hook, and goes on."""

    def fail(*_, **__):
        sys.excepthook(MemoryError, MemoryError("printed"), None)
        raise MemoryError

    if debug:
        monkeypatch.setenv("ENDORM_DEBUG", "1")
    monkeypatch.setattr(TokenMDP, "load", fail)
    before = sys.excepthook, sys.unraisablehook
    assert main(["solve", str(two_steps), "--alpha", "1"]) == 2
    assert (sys.excepthook, sys.unraisablehook) == before
    *others, line = capsys.readouterr().err.splitlines()
    assert line.startswith("endorm solve: out of memory")
    assert ("MemoryError: printed" in others) == debug


def test_memory_that_is_not_there_is_no_fault_of_ours(broken, capsys):
    assert main(broken(MemoryError("Unable to allocate 3 TiB"))) == 2
    assert capsys.readouterr().err == (
        "endorm solve: out of memory (Unable to allocate 3 TiB): ask for less, or use a machine "
        "with more\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        (ImportError, "_nd_image.so: failed to map segment from shared object"),
        (ImportError, "_nd_image.so: cannot enable executable stack: Cannot allocate memory"),
    ],
)
def test_memory_that_others_miss_is_no_fault_of_ours_either(broken, capsys, error, said):
    assert main(broken(error(said))) == 2
    assert capsys.readouterr().err.startswith(f"endorm solve: out of memory ({said}): ask for less")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("endorm 0.")


def test_solve_writes_its_example_and_solves_it(tmp_path, capsys):
    path = tmp_path / "letters.npz"
    assert main(["solve", "--example", str(path)]) == 0
    said = capsys.readouterr().out
    assert "2 prompts, 4 tokens, 5 steps" in said
    assert "reward_4        float64  512 × 4" in said
    assert main(["solve", str(path), "--alpha", "0.5"]) == 0
    assert "soft value E V*(s₁): 6.41070" in capsys.readouterr().out
    assert main(["solve", "--example", str(path)]) == 2  # a file of one's own is not replaced
    assert "File exists" in capsys.readouterr().err
    assert main(["solve", "--example", str(tmp_path / "letters.txt")]) == 2
    assert "ends in .npz" in capsys.readouterr().err


def test_the_model_that_comes_with_the_package_is_near_the_expert_of_the_example(tmp_path):
    pytest.importorskip("transformers")
    from llm_bridge import ModelSpec, tabular_instance
    from theory.commands.solve import EXAMPLE

    found = tabular_instance(
        ModelSpec("letters").load(), TokenMDP.load(EXAMPLE), ["A", "B"], 0.5, tokens=range(4)
    )
    assert 0.05 < found.instance.kl_to_expert.mean() < 0.2
