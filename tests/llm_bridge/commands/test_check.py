"""``endorm check``: what it writes, what it prints, and what it refuses."""

import json
import re
from contextlib import suppress

import numpy as np
import pytest

from theory.mdp.token_mdp import TokenMDP

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from planted import changed
from tiny import saved

from llm_bridge.check import draws
from llm_bridge.commands.main import main
from llm_bridge.commands.options import read_prompts
from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.load import save
from llm_bridge.read import beam
from theory.claims.statements import STATEMENTS
from theory.solve.soft import soft_optimal
from theory.storage.runs import RunFolder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return str(saved(folder / "one", seed=0)), str(saved(folder / "two", seed=1))


def run(capsys, *argv):
    code = main(["check", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_exact_report(models, tmp_path, capsys):
    argv = [
        "--model",
        models[0],
        "--expert",
        models[1],
        "--prompt",
        "ab",
        "--prompt",
        "c",
        "--top-k",
        "3",
    ]
    words = [*argv, "--horizon", "2", "--alpha", "0.5", "--out", tmp_path / "out"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "check.json",
        "report.html",
        "run.json",
        "bounds.png",
        "bounds.svg",
        "log_ratios.png",
        "log_ratios.svg",
    }
    found = json.loads((tmp_path / "out" / "check.json").read_text())
    lines = found["exact"]["statements"]
    assert list(lines) == [statement.name for statement in STATEMENTS]
    assert {line["verdict"] for line in lines.values()} <= {"holds", "–"}
    assert found["exact"]["prompts"] == 2
    assert (
        found["facts"]["token ids"]
        == "the 3 that π̂ likes best in each state, 1 end tokens, and the rest"
    )
    assert found["arguments"]["alpha"] == 0.5
    html = (tmp_path / "out" / "report.html").read_text()
    everything = run(capsys, *words, "--verbose")[1]
    for name in lines:
        assert f'<th scope="row">{name}</th>' in html
        assert re.search(rf"^  {name} ", everything, re.MULTILINE)
        assert not re.search(rf"^  {name} ", out, re.MULTILINE)
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)=(?!"data:)', html)  # needs no other file
    silent = [name for name, line in lines.items() if line["tested"] == 0]
    assert "theorem-1" in silent
    assert html.count('<tr class="quiet">') == len(silent)


@pytest.mark.slow
def test_without_an_expert_the_model_colder(models, tmp_path, capsys):
    argv = [
        "--model",
        models[0],
        "--prompt",
        "ab",
        "--tokens",
        "abc",
        "--horizon",
        "2",
        "--out",
        tmp_path,
    ]
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert "expert π_E: one (float32, temperature 0.9)" in out
    code, _, err = run(capsys, *argv, "--expert-bits", "4")
    assert code == 2
    assert re.match(
        rf"endorm check: {tmp_path} has a run with expert_(bits|temperature) = .*: give another "
        r"--out, or remove it\n",
        err,
    )
    argv = argv[:-1]
    code, out, _ = run(capsys, *argv, tmp_path / "bits", "--expert-bits", "4")
    assert code == 0
    assert "expert π_E: one (float32, temperature 1, weights of 4 bits)" in out
    code, out, _ = run(
        capsys, *argv, tmp_path / "dtype", "--dtype", "bfloat16", "--expert-temperature", "0.5"
    )
    assert code == 0
    assert "model π̂: one (bfloat16, temperature 1)" in out
    assert "expert π_E: one (float32, temperature 0.5)" in out


@pytest.mark.slow
def test_end_tokens_end_a_branch(models, tmp_path, capsys):
    """The tiny models' end token is 257; as a token like all others it is the sub-vocabulary's
    third here.
    """
    argv = ["--model", models[0], "--prompt", "ab", "--tokens", "97,98,257", "--horizon", "3"]
    prefixes = []
    for option in ("--eos", "--no-eos"):
        code, out, _ = run(capsys, *argv, option, "--out", tmp_path / option)
        assert code == 0
        prefixes.append(int(re.search(r"prefixes: \(3, 3, (\d+)\)", out)[1]))
    assert prefixes == [3 * (1 + 2 + 1 + 4 + 1), 3 * (1 + 3 + 9)]
    code, out, _ = run(capsys, *argv, "--rest", "--out", tmp_path / "rest")
    assert code == 0
    assert "token ids: [ 97  98 257  -1]" in out


@pytest.mark.slow
def test_a_token_mdp_is_an_expert(tmp_path, capsys):
    mdp = TokenMDP.random(3, 2, n_prompts=2, seed=3)
    mdp.save(tmp_path / "truth.npz")
    lm = train_on_demonstrations(
        soft_optimal(mdp, 0.5).policy, n_demonstrations=500, steps=30, hidden=16, layers=1
    )
    save(lm, tmp_path / "lm")
    argv = [
        "--model",
        tmp_path / "lm",
        "--expert",
        tmp_path / "truth.npz",
        "--tokens",
        "abc",
        "--alpha",
        "0.5",
    ]
    argv += ["--out", tmp_path / "out", "--prompt", "A"]
    code, out, _ = run(capsys, *argv, "--prompt", "B")
    assert code == 0
    assert "expert π_E: soft-optimal for truth.npz at α = 0.5" in out
    assert "reward range: (0.0, 1.0)" in out
    assert json.loads((tmp_path / "out" / "check.json").read_text())["arguments"]["horizon"] is None
    code, _, err = run(capsys, *argv, "--out", tmp_path / "other")
    assert code == 2
    assert "prompts: 1, and 2 in the MDP; tokens: 3, and 3 in the MDP" in err
    (tmp_path / "out" / "check.json").unlink()
    for option in UNREAD:
        code, _, err = run(capsys, *argv, "--prompt", "B", *option.split())
        name = option.split()[0]
        assert (code, err) == (
            2,
            f"endorm check: {name} is not read with --expert={tmp_path}/truth.npz: a token MDP "
            "says it itself\n",
        )
    assert not (tmp_path / "out" / "check.json").exists()


UNREAD = (
    "--horizon 2",
    "--rest",
    "--eos",
    "--no-eos",
    "--expert-temperature 1",
    "--expert-dtype float32",
    "--expert-bits 4",
    "--expert-adapter x",
)


def test_all_is_written_before_anything_is_printed(models, tmp_path, monkeypatch, capsys):
    """Whoever reads the output may have gone."""

    def gone(*_, file=None):
        if file is None:
            raise BrokenPipeError(32, "Broken pipe")

    for name, options in {
        "exact": ["--tokens", "abc", "--horizon", "2"],
        "sampled": ["--sampled", "4"],
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr("builtins.print", gone)
            argv = ["--model", models[0], "--prompt", "ab", *options, "--out", str(tmp_path / name)]
            with suppress(BrokenPipeError):
                main(["check", *argv])
        assert name in json.loads((tmp_path / name / "check.json").read_text())
        assert (tmp_path / name / "report.html").read_text().endswith("</html>\n")
    capsys.readouterr()


def test_a_violation_exits_1(models, tmp_path, capsys, monkeypatch):

    from llm_bridge.check import comparison

    planted = [
        changed(s, right=lambda i: -1.0 + 0 * i.clone_gap)
        for s in STATEMENTS
        if s.name == "kl-ball"
    ]
    monkeypatch.setattr(comparison, "STATEMENTS", planted)
    argv = [
        "--model",
        models[0],
        "--prompt",
        "ab",
        "--tokens",
        "abc",
        "--horizon",
        "2",
        "--out",
        tmp_path,
    ]
    code, out, _ = run(capsys, *argv)
    assert code == 1
    assert "violated" in out
    assert '<tr class="bad">' in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_prompts_of_a_file(models, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("ab\n\nthe cat\nx\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "ab", "answer": 1}\n"the cat"\n')
    assert read_prompts(tmp_path / "lines.txt") == ["ab", "the cat", "x"]
    assert read_prompts(tmp_path / "rows.jsonl") == ["ab", "the cat"]
    argv = [
        "--model",
        models[0],
        "--prompts",
        tmp_path / "lines.txt",
        "--limit",
        "2",
        "--prompt",
        "first",
    ]
    code, out, _ = run(capsys, *argv, "--tokens", "ab", "--horizon", "2", "--out", tmp_path / "out")
    assert code == 0
    assert "prompts: ['first', 'ab', 'the cat']" in out


def test_sampled_report(models, tmp_path, capsys):
    """Forty tokens: no tree. The same seed gives the same numbers; every number is in all three
    places.
    """
    argv = [
        "--model",
        models[0],
        "--expert",
        models[1],
        "--prompt",
        "ab",
        "--horizon",
        "40",
        "--sampled",
        "8",
    ]
    argv += ["--beam", "4", "--alpha", "0.5", "--seed", "3"]
    code, out, err = run(capsys, *argv, "--out", tmp_path / "one")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "one" / "check.json").read_text())["sampled"]
    html = (tmp_path / "one" / "report.html").read_text()
    assert found["responses"] == 8
    unknown = "V^{pi_E} - V^{pi_RL}"  # the beam proves nothing
    printed = " ".join(out.split())
    for name, one in found["estimates"].items():
        low, value, high = (float(one[key]) for key in ("low", "value", "high"))
        shown = "–" if name == unknown else f"{value:.5g}"
        assert low <= value <= high or name == unknown
        kind = "guaranteed" if one["guaranteed"] else "approximate"
        assert f" {shown} [{low:.5g}, {high:.5g}] {kind} " in printed
        cells = (("estimate", shown), ("interval", f"[{low:.5g}, {high:.5g}]"), ("which is", kind))
        first, *others = (f'data-label="{label}">{cell}</td>' for label, cell in cells)
        assert f'<td class="number" {first}{"".join("<td " + x for x in others)}' in html
    assert found["estimates"][unknown]["value"] == "nan"
    assert float(found["estimates"][unknown]["high"]) == np.inf
    assert found["estimates"]["alpha KL(pi_hat||pi_E), the regularised gap"][
        "value"
    ] == pytest.approx(0.5 * found["estimates"]["KL(pi_hat||pi_E)"]["value"])
    assert "proven to be the most probable response on 0% of the prompts" in printed
    again = run(capsys, *argv, "--out", tmp_path / "two")[1]
    assert again.replace("/two", "/one").rsplit("(", 1)[0] == out.rsplit("(", 1)[0]
    other = run(capsys, *argv[:-1], "4", "--out", tmp_path / "three")[1]
    assert other.partition("Estimates")[2][:2000] != out.partition("Estimates")[2][:2000]


@pytest.mark.slow
def test_sampled_goes_on_where_it_was_stopped(models, tmp_path, capsys, monkeypatch):
    """Stopped after any block, in the middle of a line: the same report to the byte, and no block
    read again.
    """
    argv = [
        "check",
        "--model",
        models[0],
        "--expert",
        models[1],
        "--prompt",
        "ab",
        "--prompt",
        "c",
        "--horizon",
        "6",
    ]
    argv += ["--sampled", "9", "--beam", "4", "--out"]
    monkeypatch.setattr(draws, "_rows", lambda *_: 2)
    read, calls = draws._read, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(draws, "_read", stopping)
    searches, search = [], beam._search
    monkeypatch.setattr(beam, "_search", lambda *a: searches.append(1) or search(*a))
    stop = 0
    assert main([*argv, str(tmp_path / "whole")]) == 0
    blocks = len(calls)
    assert blocks == 20
    for stop in (1, 2, blocks // 2 + 1, blocks):
        out = tmp_path / str(stop)
        calls.clear()
        assert main([*argv, str(out)]) == 130
        assert not (out / "check.json").exists()
        for path in out.glob("*.jsonl"):
            with path.open("ab") as file:
                file.write(b"[[0.5, 0.")
        calls.clear()
        searches.clear()
        stop = 0
        assert main([*argv, str(out)]) == 0
        assert not searches
        assert len(calls) == blocks - int(out.name) + 1
        assert {path.name for path in out.iterdir()} == {
            "beam.jsonl",
            "check.json",
            "draws_expert.jsonl",
            "draws_policy.jsonl",
            "report.html",
            "run.json",
        }
        for path in out.iterdir():
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    capsys.readouterr()
    with (out / "draws_policy.jsonl").open("ab") as file:
        file.write(b"[[1.0], [2.0]]\n")
    assert main([*argv, str(out)]) == 2
    assert "draws_policy.jsonl:11: not a line of a run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--top-k", "3"], ["--sampled", "4"]])
def test_a_folder_that_another_run_writes_to(how, models, tmp_path, capsys):
    argv = [
        "--model",
        models[0],
        "--prompt",
        "ab",
        "--horizon",
        "2",
        *how,
        "--out",
        tmp_path / "out",
    ]
    with RunFolder(tmp_path / "out"):
        refused = (
            f"endorm check: {tmp_path}/out: another run is writing there; wait for it, or give "
            "another --out\n"
        )
        assert run(capsys, *argv) == (2, "", refused)
    assert run(capsys, *argv)[0] == 0
    before = (tmp_path / "out" / "check.json").read_bytes()
    for options, name in (
        (["--alpha", "2"], "alpha = 1.0, not 2.0"),
        (["--prompt", "c"], "prompts = "),
    ):
        code, _, err = run(capsys, *argv, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert f"out has a run with {name}" in err
    assert (tmp_path / "out" / "check.json").read_bytes() == before
    assert run(capsys, *argv)[0] == 0


REFUSED = {
    "no prompt": ([], "no prompt: give --prompt TEXT or --prompts FILE"),
    "limit alone": (["--prompt", "a", "--limit", "2"], "--limit needs --prompts"),
    "horizon": (["--prompt", "a", "--horizon", "0"], "--horizon=0: must be at least 1"),
    "memory": (["--prompt", "a", "--memory", "0"], "--memory=0: must be at least 1"),
    "alpha": (["--prompt", "a", "--alpha", "-1"], "--alpha=-1"),
    "rest alone": (["--prompt", "a", "--rest"], "--rest needs --tokens"),
    "rest with top-k": (["--prompt", "a", "--top-k", "2", "--rest"], "--rest needs --tokens"),
    "sampled tokens": (
        ["--prompt", "a", "--sampled", "9", "--tokens", "ab"],
        "--tokens is not read with --sampled",
    ),
    "sampled table": (
        ["--prompt", "a", "--sampled", "9", "--expert", "x.npz"],
        "a token MDP is compared on its whole",
    ),
    "confidence": (["--prompt", "a", "--sampled", "4", "--confidence", "1"], "--confidence=1"),
    "seed": (["--prompt", "a", "--seed", "-1"], "--seed=-1"),
    "bits": (["--prompt", "a", "--bits", "1"], "--bits=1: must be from 2 to 16"),
    "expert bits": (["--prompt", "a", "--expert-bits", "40"], "--expert-bits=40"),
    "expert temperature": (
        ["--prompt", "a", "--expert-temperature", "0"],
        "--expert-temperature=0: must be above 0",
    ),
    "no such file": (["--prompts", "{tmp}/none"], "/none: cannot be read"),
    "empty file": (["--prompts", "{tmp}/empty.txt"], "no prompt in it"),
    "line without prompt": (
        ["--prompts", "{tmp}/bad.jsonl"],
        "bad.jsonl: line 2: must be a text, a list of messages",
    ),
    "no such table": (["--prompt", "a", "--expert", "{tmp}/none.npz"], "none.npz"),
    "few responses": (["--prompt", "a", "--sampled", "3"], "--sampled=3: must be at least 4"),
    "beam alone": (["--prompt", "a", "--beam", "3"], "--beam needs --sampled"),
    "seed alone": (["--prompt", "a", "--seed", "0"], "--seed needs --sampled"),
    "confidence alone": (["--prompt", "a", "--confidence", "0.9"], "--confidence needs --sampled"),
    "one token": (
        ["--prompt", "a", "--tokens", "b", "--horizon", "1"],
        "one token makes one response, and nothing to",
    ),
    "top-k table": (
        ["--prompt", "a", "--top-k", "2", "--expert", "x.npz"],
        "--top-k is not read with --expert=x.npz",
    ),
    "no such adapter": (["--prompt", "a", "--adapter", "{tmp}"], "no adapter there"),
    "no such device": (
        ["--prompt", "a", "--tokens", "ab", "--device", "nowhere"],
        "device='nowhere': ",
    ),
    "tree too large": (
        ["--prompt", "a", "--horizon", "9"],
        "or draw responses (endorm check --sampled N)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case, models, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('"a"\n{"text": "b"}\n')
    argv, message = REFUSED[case]
    argv = [
        "--model",
        models[0],
        *(word.format(tmp=tmp_path) for word in argv),
        "--out",
        tmp_path / "out",
    ]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_numbers_of_the_report_are_finite_or_said_not_to_be(models, tmp_path, capsys):
    argv = [
        "--model",
        models[0],
        "--prompt",
        "ab",
        "--top-k",
        "9",
        "--horizon",
        "1",
        "--out",
        tmp_path,
    ]
    assert run(capsys, *argv)[0] == 0
    found = json.loads((tmp_path / "check.json").read_text())["exact"]
    assert found["worst"]["epsilon_pi"]["KL(pi_hat||pi_E)"] == "nan"
    assert "KL(pi_hat||pi_E)" in found["out_of_reach"]
    numbers = [
        x[side] for x in found["statements"].values() for side in ("mean_left", "mean_right")
    ]
    assert np.isfinite(np.array(numbers, dtype=float)).all()


@pytest.mark.slow
def test_a_chat_model_is_asked_in_its_template(tmp_path, capsys):
    """Two models are given the same ids, though only one has a template."""
    one = str(saved(tmp_path / "chat", chat=True))
    two = str(saved(tmp_path / "base", seed=1))
    asked = [{"role": "user", "content": "ab"}]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": asked}) + "\n")
    argv = ["--model", one, "--expert", two, "--tokens", "xyz", "--horizon", "2"]
    found = {}
    for name, words in {
        "text": ["--prompt", "ab"],
        "messages": ["--prompts", tmp_path / "prompts.jsonl"],
        "written": ["--prompt", "<u>ab</s><a>", "--no-chat"],  # the tokenizer adds <s>
        "plain": ["--prompt", "ab", "--no-chat"],
    }.items():
        assert run(capsys, *argv, *words, "--out", tmp_path / name)[0] == 0
        report = json.loads((tmp_path / name / "check.json").read_text())
        found[name] = [
            report["facts"]["epsilon_pi (nats), at most"],
            report["facts"]["reward range"],
        ]
        said = "a text writes special tokens itself (1 text, the first: '<u>ab</s><a>')"
        assert report["model_findings"] == ([said] if name == "written" else [])
    assert found["text"] == found["messages"] == found["written"] != found["plain"]
