"""Every command's page and JSON: the verdict on top, the exit code and the file are one value."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, look
from planted import changed

from llm_bridge.commands.main import main
from theory.claims.findings import Group
from theory.claims.statements import STATEMENTS
from theory.mdp.token_mdp import TokenMDP
from theory.reports.report import WIDTH, Column, Report, Table, display_width
from theory.studies.gallery import swapped_pair

DOCS = Path(__file__).resolve().parents[3] / "docs"


def schema(name):
    """The schema of a command's JSON, from the page of the documentation that has it."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    (text,) = re.findall("```json\n(.*?)```", (DOCS / "json.md").read_text(), re.DOTALL)
    definitions = json.loads(text)["$defs"]
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def keys(value):
    """All keys of nested objects."""
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


def top(page):
    """The verdict of a page, and the tone it has."""
    ((tone, sentence),) = re.findall(r'<p class="verdict ?(\w*)">(.*?)</p>', page)
    hats = re.sub(r"<mover.*?<mi>(.)</mi>.*?</mover>", "\\1\u0302", sentence)
    return tone, html.unescape(re.sub("<.*?>", "", hats))


def seen(text):
    """A sentence without what typesetting moves: the marks of scripts, and blanks."""
    digits = str.maketrans("₀₁₂²³", "01223", "_^{} \n")
    return text.translate(digits)


def held(out, name, kind, code, capsys=None):
    """Hold page, JSON and exit code of a folder against each other; return page and numbers."""
    page = (out / "report.html").read_text(encoding="utf-8")
    tone, sentence = top(page)
    assert tone == {0: tone, 1: "bad"}[code]
    assert tone != "bad" or code == 1
    if name is None:
        return page, None
    found = json.loads((out / name).read_text(encoding="utf-8"))
    assert found["exit_code"] == code
    assert seen(found["verdict"]) == seen(sentence)
    assert found["schema"].startswith(f"endorm/{kind}/")
    schema(kind).validate(found)
    odd = [key for key in keys(found) if not key.isascii()]
    assert odd == []
    return page, found


@pytest.fixture
def mdp(tmp_path):
    path = tmp_path / "mdp.npz"
    TokenMDP.tree([np.zeros((1, 2)), np.array([[0.0, 0.0], [0.0, 1.0]])]).save(path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tiny import saved

    folder = tmp_path_factory.mktemp("models")
    return saved(folder / "one", seed=0), saved(folder / "two", seed=1)


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"{n} \u202e<b>no</b>"}
        for n in range(12)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def few(monkeypatch, *statements):
    """Let verify examine three small instances, and these statements; by default all."""
    from llm_bridge.commands import verify as command
    from theory.studies import groups as verify

    pairs = [swapped_pair(H, alpha=0.4, epsilon=0.1) for H in (2, 3, 4)]
    group = Group("pairs", pairs, {"horizons": (2, 3, 4)}, statements or STATEMENTS)
    monkeypatch.setattr(verify, "exact_groups", lambda *_, **__: [group])
    monkeypatch.setattr(command, "_model_groups", lambda *_: ([], "no model"))


def test_verify(monkeypatch, tmp_path, capsys):
    few(monkeypatch)
    code = main(["verify", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    page, found = held(tmp_path, "report.json", "verify", code)
    assert code == 0
    silent = sum(
        x["instances"] and not x["tested"] for x in found["groups"][0]["statements"].values()
    )
    said = f"40 statements checked on 3 instances, none violated; {silent} could not fail here."
    assert top(page) == ("good", said)
    assert out.splitlines()[1] == found["verdict"]
    assert max(map(display_width, out.replace(str(tmp_path), "").splitlines())) <= WIDTH
    assert set(found["groups"][0]["statements"]) == set(STATEMENTS.names)
    assert "<math>" in page
    assert main(["verify", "--out", str(tmp_path), "--verbose"]) == 0
    more = capsys.readouterr().out
    assert len(more.splitlines()) > len(out.splitlines()) + 2 * len(STATEMENTS) - 10
    assert max(map(display_width, more.replace(str(tmp_path), "").splitlines())) <= WIDTH


def test_a_violation_is_on_top_and_red(monkeypatch, tmp_path, capsys):
    false = changed(STATEMENTS["tv-affinity"], right=lambda i: 0.0 * i.kl_to_expert)
    few(monkeypatch, STATEMENTS["theorem-1"], false)
    code = main(["verify", "--out", str(tmp_path)])
    assert code == 1
    page, found = held(tmp_path, "report.json", "verify", code)
    tone, sentence = top(page)
    assert tone == "bad"
    assert sentence == "1 of 2 statements VIOLATED on 3 instances: tv-affinity."
    assert sentence in capsys.readouterr().out
    assert found["groups"][0]["statements"]["tv-affinity"]["verdict"] == "violated"
    assert page.index("VIOLATED") < page.index("<main>") < page.index("What was checked")


def test_nothing_good_is_read_off_an_empty_set(monkeypatch, tmp_path):
    never = changed(STATEMENTS["theorem-1"], when=lambda i: i.pair_counts & False)
    few(monkeypatch, never)
    code = main(["verify", "--out", str(tmp_path)])
    assert code == 1
    page, _ = held(tmp_path, "report.json", "verify", code)
    said = "Nothing was checked: no statement applies to any of the 3 instances."
    assert top(page) == ("bad", said)


def test_verify_named_statements(monkeypatch, tmp_path, capsys):
    few(monkeypatch)
    words = ["verify", "--out", str(tmp_path)]
    assert main([*words, "--statements", "theorem-1", "kl-length"]) == 0
    _, found = held(tmp_path, "report.json", "verify", 0)
    assert [list(group["statements"]) for group in found["groups"]] == [["theorem-1", "kl-length"]]
    assert found["verdict"] == "2 statements checked on 3 instances, none violated."
    assert found["curves"] == {"horizon": None, "preference": None}
    capsys.readouterr()
    assert main([*words, "--statements", "theorem-3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("endorm verify: --statements: no statement is called 'theorem-3'")
    assert "theorem-1" in line


def test_verify_a_model_alone(tiny, tmp_path):
    words = ["verify", "--model", str(tiny[0]), "--expert", str(tiny[1]), "--prompt", "ab"]
    words += ["--tokens", "abc", "--horizon", "2", "--out", str(tmp_path)]
    assert main([*words, "--statements", "theorem-2-clone", "rl-expert"]) == 0
    _, found = held(tmp_path, "report.json", "verify", 0)
    assert len(found["groups"]) == 1
    assert found["groups"][0]["instances"] == 1


def test_literature(tmp_path):
    pytest.importorskip("scipy")
    code = main(["verify", "--literature", "--out", str(tmp_path)])
    page, found = held(tmp_path, "literature.json", "literature", code)
    assert code == 0
    assert top(page)[0] == "good"
    assert len(found["claims"]) == 11


def test_solve_to_standard_output_and_not_over_its_input(mdp, tmp_path, capsys, monkeypatch):
    words = ["solve", str(mdp), "--alpha", "0.5", "--epsilon", "0.1"]
    assert main([*words, "--json", "-", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    _, found = held(tmp_path / "out", "solution.json", "solve", 0)
    assert json.loads(printed.out) == found
    assert found["verdict"] in " ".join(printed.err.split())
    before = mdp.read_bytes()
    link = tmp_path / "link.npz"
    link.symlink_to(mdp)
    for path in (mdp, link):
        assert main([*words, "--json", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f"endorm solve: --json={path}: would overwrite what MDP reads; give another file"
        )
    assert mdp.read_bytes() == before


def test_json_keeps_links_and_writes_into_pipes(mdp, tmp_path, capsys):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    link.symlink_to(target)
    words = ["solve", str(mdp), "--alpha", "0.5", "--json"]
    assert main([*words, str(link)]) == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["alpha"] == 0.5
    assert main([*words, "/dev/null"]) == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="no FIFOs here")
def test_json_goes_through_a_fifo(mdp, tmp_path):
    import os
    import threading

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = []
    thread = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    thread.start()
    assert main(["solve", str(mdp), "--alpha", "0.5", "--json", str(fifo)]) == 0
    thread.join(timeout=60)
    assert json.loads(read[0])["alpha"] == 0.5
    assert fifo.is_fifo()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["curves", "--family", "preference", "--alphas", "1"], "curves.json"),
        (["curves", "--horizons", "64,128,256", "--vocabs", "2", "--alphas", "1"], "curves.json"),
        (
            ["learn", "--horizons", "2", "--demonstrations", "10,100", "--seeds", "2"],
            "learning.json",
        ),
        (
            ["minimax", "--horizons", "1,2", "--per-reward", "32", "--per-epsilon", "2"],
            "minimax.json",
        ),
    ],
    ids=["preference", "curves", "learn", "minimax"],
)
def test_commands_on_token_mdps(words, name, tmp_path, capsys):
    extra = ["--processes", "1"] if words[0] == "minimax" else []
    assert main([*words, *extra, "--out", str(tmp_path)]) == 0
    page, _ = held(tmp_path, name, words[0], 0)
    assert "<img alt=" in page
    assert "<figcaption>" in page
    assert top(page)[0] == ""
    out = capsys.readouterr().out.replace(str(tmp_path), "")
    assert max(map(display_width, out.splitlines())) <= WIDTH


def test_check_exact_and_sampled(tiny, tmp_path):
    words = ["check", "--model", str(tiny[0]), "--expert", str(tiny[1]), "--prompt", "ab"]
    exact, sampled = tmp_path / "exact", tmp_path / "sampled"
    more = ["--tokens", "abc", "--horizon", "2", "--alpha", "0.5"]
    assert main([*words, *more, "--out", str(exact)]) == 0
    page, found = held(exact, "check.json", "check", 0)
    assert top(page)[0] == "good"
    assert list(found["exact"]["statements"]) == STATEMENTS.names
    assert main([*words, "--sampled", "8", "--horizon", "3", "--out", str(sampled)]) == 0
    page, _ = held(sampled, "check.json", "check", 0)
    assert top(page)[0] == ""  # estimates are no verdict


@pytest.mark.slow
def test_validate(tmp_path):
    pytest.importorskip("torch")
    code = main(["validate", "--out", str(tmp_path)])
    page, found = held(tmp_path, "validation.json", "validate", code)
    assert found["holds"] == (code == 0)
    assert top(page)[0] == ("good" if code == 0 else "bad")


def test_score_and_train_reward(tiny, pairs, tmp_path, capsys):
    given = ["--model", str(tiny[0]), "--pairs", str(pairs), "--resamples", "50"]
    assert main(["score", *given, "--out", str(tmp_path / "score")]) == 0
    page, found = held(tmp_path / "score", "summary.json", "score", 0)
    assert "\u202e" not in page
    assert "⟨U+202E⟩" in page
    assert page.index("How often each score is right") < page.index("chosen − rejected")
    assert found["scores"]["sum"]["accuracy"]["value"] is not None
    assert main(["train-reward", *given, "--out", str(tmp_path / "reward")]) == 0
    held(tmp_path / "reward", "calibration.json", "train-reward", 0)
    with pairs.open("a") as file:
        file.write('{"prompt": "q"}\n')
    capsys.readouterr()
    assert main(["score", *given, "--out", str(tmp_path / "bad")]) == 1
    page, _ = held(tmp_path / "bad", "summary.json", "score", 1)
    assert top(page)[1].startswith("1 row could NOT be scored. sum: ")


def test_ppo(tiny, tmp_path, capsys):
    pytest.importorskip("math_verify")
    problems = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} plus one?", "answer": str(i + 1)} for i in range(9)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["ppo", "--model", str(tiny[0]), "--data", str(problems), "--max-tokens", "4"]
    words += ["--steps", "1", "--eval-samples", "2", "--prompts-per-step", "4", "--samples", "2"]
    words += ["--minibatch", "8", "--microbatch", "8", "--no-weights"]
    code = main([*words, "--out", str(tmp_path / "run")])
    assert code == 0, capsys.readouterr().err
    page, found = held(tmp_path / "run", "summary.json", "ppo", 0)
    assert found["last"]["step"] == 1
    assert "Some responses of batch 1" in page
    assert "What is " in page.partition("Some responses")[2]


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")


@pytest.mark.slow
def test_pages_in_a_browser(browser, monkeypatch, tiny, pairs, tmp_path):
    """At the width of a desk and of a phone: no error, nothing beside the page, formulas seen."""
    given = ["--model", str(tiny[0]), "--pairs", str(pairs), "--resamples", "50"]
    runs = {
        "score": (["score", *given], 0),
        "curves": (["curves", "--horizons", "64,128", "--vocabs", "2", "--alphas", "1"], 0),
        "verify": (["verify"], 1),
    }
    false = changed(STATEMENTS["tv-affinity"], right=lambda i: 0.0 * i.kl_to_expert)
    few(monkeypatch, *STATEMENTS[7:12], false)
    for name, (argv, code) in runs.items():
        assert main([*argv, "--out", str(tmp_path / name)]) == code
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        found, console = look(page)
        assert console == [], name
        assert set(found) == {1280, 390}
        for width, one in found.items():
            assert one["needed"] <= width, (name, one)
            assert one["broken"] == one["flat"] == 0
            assert seen(one["verdict"]) == seen(top(page)[1])
            assert (one["color"] == "rgb(179, 50, 44)") == (code == 1)
        assert found[390]["math"] > 0
    columns = [Column("name"), Column("claim", kind="formula"), Column("source")]
    rows = [(statement.name, statement.claim, statement.source) for statement in STATEMENTS]
    found, console = look(Report("Claims", sections=[Table("", columns, rows)]).html())
    assert console == []
    for width, one in found.items():
        assert one["needed"] <= width
        assert one["math"] >= 2 * len(rows)
        assert one["flat"] == 0


def test_a_browser_sees_what_is_wrong(browser):
    """The looker itself: an error, a page that is too wide, a picture that is none."""
    page = "<p class=verdict>x</p><div style='width:2000px'>wide</div><img src=none.png>"
    found, console = look(page + "<script>console.error('broken')</script>")
    assert found[390]["needed"] >= 2000
    assert found[390]["broken"] == 1
    assert any("broken" in line for line in console)


QUICK = ("solve", "learn", "check", "score", "train-reward")
SLOW = ("verify", "curves", "minimax", "validate", "ppo")


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import faults

    return faults.commands(tmp_path_factory.mktemp("every"))


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW)])
def test_standard_output_has_the_numbers_of_the_file_and_nothing_else(
    name, every, tmp_path, capsys
):
    code = main([*every[name], "--out", str(tmp_path / "out"), "--json", "-"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert code == found["exit_code"] == 0
    assert seen(found["verdict"]) in seen(said.err)
    schema(name).validate(found)
    (written,) = (
        path
        for path in (tmp_path / "out").glob("*.json")
        if json.loads(path.read_text()).get("schema") == found["schema"]
    )
    assert written.read_text() == said.out


def test_every_command_writes_json():
    from llm_bridge.commands.main import COMMANDS

    assert {command.name for command in COMMANDS} == {*QUICK, *SLOW}


def test_a_dry_run_has_no_numbers(tiny, tmp_path, capsys):
    words = ["ppo", "--model", str(tiny[0]), "--task", "addition", "--dry-run", "--json", "-"]
    assert main(words) == 2
    assert "--json means nothing with --dry-run" in capsys.readouterr().err
