"""``endorm score``: its files, its exit codes, and one clear line for each bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny import byte_tokenizer, saved, tiny

from llm_bridge.commands.main import main
from llm_bridge.models.load import save
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.pairs import read_comparisons
from llm_bridge.preferences.records import columns, read_records
from llm_bridge.preferences.run import plan
from llm_bridge.preferences.scorers import Conversation, Endogenous
from llm_bridge.read.aggregate import AggregationOptions
from llm_bridge.read.reward import EndogenousReward

PAIRS = [
    {"prompt": f"What is {n}?", "chosen": f"It is {n}." * (1 + n % 3), "rejected": f"{n}" * n}
    for n in range(1, 9)
]
TURNS = [("user", "Hi"), ("assistant", "Yes?"), ("user", "4?")]
CHAT_PAIR = {
    "prompt": [{"role": role, "content": content} for role, content in TURNS],
    "chosen": "four",
    "rejected": "five",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    saved(root / "base")
    saved(root / "chat", chat=True, seed=1)
    saved(root / "judged", kind="ForSequenceClassification", num_labels=1, pad=258)
    return root


@pytest.fixture
def score(models, tmp_path, capsys):
    """Run the command on rows; its exit code, output, error lines and folder."""

    def run(rows, *options, model="base", name="pairs.jsonl", out="out"):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        words = [
            "--model",
            str(models / model),
            "--pairs",
            str(tmp_path / name),
            "--out",
            str(tmp_path / out),
        ]
        capsys.readouterr()
        code = main(["score", *words, "--resamples", "50", *map(str, options)])
        printed = capsys.readouterr()
        return (
            code,
            printed.out,
            printed.err.replace(f"{tmp_path}/", "").splitlines(),
            tmp_path / out,
        )

    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def test_everything_is_written(score):
    code, out, err, folder = score(PAIRS)
    assert (code, err) == (0, [])
    assert sorted(path.name for path in folder.iterdir()) == [
        "plan.json",
        "report.html",
        "responses.jsonl",
        "run.json",
        "summary.json",
    ]
    records = lines(folder)
    assert [(r["id"], r["role"], r["index"]) for r in records] == [
        (f"pairs/{n}", role, 0) for n in range(8) for role in ("chosen", "rejected")
    ]
    assert {
        "tokens",
        "reward_sum",
        "log_prob",
        "soft_value_prompt",
        "token_ids",
        "rewards",
    } <= records[0].keys()
    summary = json.loads((folder / "summary.json").read_text())
    sums = [r["reward_sum"] for r in records]
    right = (
        sum(chosen > rejected for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)) / 8
    )
    assert summary["scores"]["sum"]["accuracy"]["value"] == pytest.approx(right)
    assert list(summary["scores"]) == ["sum", "mean", "logprob", "logprob_mean"]
    assert (summary["comparisons"], summary["left_out"], summary["comparisons_cut"]) == (8, [], 0)
    shorter = sum(len(p["chosen"]) < len(p["rejected"]) for p in PAIRS) / 8
    assert summary["scores"]["sum"]["nulls"]["shorter (characters)"]["accuracy"][
        "value"
    ] == pytest.approx(shorter, abs=0.07)
    assert f"{right:.3f} [" in out
    assert "tokens/s; summary.json and report in" in out
    assert "What is 3?" in (folder / "report.html").read_text()


def test_a_name_commands_no_terminal(score, models):
    (models / "chat").rename(models / "re\x1b[31md")
    try:
        code, out, err, _ = score(PAIRS[:2], "--no-chat", model="re\x1b[31md")
    finally:
        (models / "re\x1b[31md").rename(models / "chat")
    assert code == 0
    assert "\x1b" not in out + "".join(err)


def test_a_finished_run_is_only_read(score):
    score(PAIRS)
    code, out, _, folder = score(PAIRS, "--html", 0, "--confidence", 0.5)
    assert code == 0
    assert "nothing was left to score" in out
    assert json.loads((folder / "summary.json").read_text())["scores"]["sum"]["confidence"] == 0.5
    code, _, (line,), _ = score(PAIRS, "--alpha", 2)
    assert code == 2
    assert "has a run with alpha = 1.0, not 2.0: give another --out, or remove it" in line
    code, _, (line,), _ = score(PAIRS[:3])
    assert code == 2
    assert "has a run with pairs = " in line


@pytest.fixture
def again(tmp_path, capsys):
    """Report a run anew; exit code, output, error lines, and the files of the folder."""

    def run(*options, out="out"):
        capsys.readouterr()
        words = ["score", "--again", "--out", str(tmp_path / out), "--resamples", "50"]
        code = main([*words, *map(str, options)])
        printed = capsys.readouterr()
        err = printed.err.replace(f"{tmp_path}/", "").splitlines()
        return code, printed.out, err, files(tmp_path / out)

    return run


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_a_report_made_again_has_the_same_bytes(score, again):
    """Of a finished run with rows that cannot be scored, cut ones and a reference."""
    rows = [*PAIRS, TOO_LONG, {"prompt": "q"}]
    sums = ["--discount", "0.9,1", "--floor", "-1"]
    code, out, err, folder = score(rows, *sums, "--html", 3)
    before = files(folder)
    for name in ("summary.json", "report.html"):
        (folder / name).unlink()
    found = again(*sums, "--html", 3)
    assert found[0] == code == 1
    assert found[2] == err
    assert found[1] == out[: out.rindex("\n", 0, -1) + 1]  # without its line on speed
    assert found[3] == before
    names = json.loads(before["summary.json"])["scores"]
    assert [name for name in names if "gamma" in name][-1] == "clipped_logprob gamma=1 m=-1"


def test_numbers_made_again_are_those_of_the_library(score, again, models):
    """Bit for bit, whatever the precision of the model; per token with plain loops."""
    for dtype in ("float32", "float64", "bfloat16"):
        _, _, _, folder = score(PAIRS, "--dtype", dtype, "--reference", models / "chat", out=dtype)
        reward, other = (
            EndogenousReward(ModelSpec(str(models / name), dtype=dtype).load(), end_tokens=ends)
            for name, ends in (("base", None), ("chat", ()))
        )
        found = dict(read_records(folder))
        run = json.loads((folder / "run.json").read_text())
        options = AggregationOptions(discount=(0.95,), floor=-3)
        # in batches of one run, since other batches round otherwise
        work = plan(Endogenous(reward, Conversation(reward.lm, False), other), _pairs(folder), 8192)
        for batch in work.batches:
            requests = [work.requests[i] for i in batch]
            scored = reward.score_ids(*([r.rows[n] for r in requests] for n in (0, 1)))
            for name, how, discount, floor in options.columns("anchored"):
                reference = other if how == "anchored" else None
                by = {"discount": discount, "floor": floor}
                expected = reward.aggregate(scored, how, reference, **by)
                made = columns(run, options)
                for request, value in zip(requests, expected.tolist(), strict=True):
                    assert made(request.key, found[request.key])[name] == value


def _pairs(folder):
    return read_comparisons(*json.loads((folder / "run.json").read_text())["pairs"])[0]


def test_stored_tokens_add_up_to_the_stored_sums(score):
    """Rewards are stored in single precision: a response's sum is off by its rounding alone."""
    _, _, _, folder = score(PAIRS)
    for r in lines(folder):
        size = sum(abs(x) for x in r["rewards"])
        assert sum(r["rewards"]) == pytest.approx(r["reward_sum"], abs=2**-24 * size + 1e-9)
        assert sum(r["log_probs"]) == pytest.approx(r["log_prob"], abs=2**-24 * size + 1e-9)


def test_an_unfinished_run_is_reported_as_far_as_it_is(score, again):
    _, _, _, folder = score(PAIRS)
    whole = files(folder)
    kept = whole["responses.jsonl"].splitlines(keepends=True)
    # what two processes leave behind when they are killed, the second in the middle of a line
    (folder / "responses.jsonl").write_bytes(b"".join(kept[:6]))
    (folder / "responses.1.jsonl").write_bytes(b"".join(kept[6:11]) + kept[11][:20])
    (folder / "summary.json").unlink()
    code, out, err, now = again()
    assert (code, err) == (1, [])
    assert "3 comparisons are not scored yet: start endorm score once more" in out
    summary = json.loads(now["summary.json"])
    assert (summary["comparisons"], summary["comparisons_waiting"]) == (5, 3)
    assert summary["scores"]["sum"]["comparisons"] == 5
    score(PAIRS)
    assert files(folder) == whole
    (folder / "responses.jsonl").write_bytes(b"")
    assert again()[2] == ["endorm score: nothing is scored yet"]


def test_a_report_made_again_needs_neither_torch_nor_the_model(score, models, tmp_path):
    _, _, _, folder = score(PAIRS)
    before = files(folder)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from llm_bridge.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["score", "--again", "--out", str(folder), "--resamples", "50"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(folder) == before


def test_what_is_reported_again_is_what_was_scored(score, again, tmp_path):
    score(PAIRS)
    moved = tmp_path / "moved/pairs.jsonl"
    moved.parent.mkdir()
    (tmp_path / "pairs.jsonl").rename(moved)
    assert "No such file" in again()[2][-1]
    assert again("--pairs", moved)[0] == 0
    moved.write_text(moved.read_text().replace("It is", "It was"))
    code, _, (line,), _ = again("--pairs", moved)
    assert code == 2
    assert line == f"endorm score: --pairs={moved}: is not the file that was scored".replace(
        f"{tmp_path}/", ""
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "base"], "--model is not read with --again: the run says it"),
        (["--alpha", 2], "--alpha is not read with --again: the run says it"),
        (["--no-chat"], "--no-chat is not read with --again: the run says it"),
        (["--truncate"], "--truncate is not read with --again: the run says it"),
        (["--method", "verifier"], "--method is not read with --again: the run says it"),
        (["--discount", "0.9,0"], "--discount=0: must be above 0 and at most 1"),
        (["--floor", "nan"], "--floor=nan: must be from -1e+09 to 1e+09"),
        (["--pairs", "a", "b"], "No such file"),
        (["--lift-from", "nowhere"], "--lift-from=nowhere: has no run; give the folder of a run"),
    ],
)
def test_wrong_options_of_a_report_made_again(score, again, options, message):
    score(PAIRS)
    code, _, err, _ = again(*options)
    assert code == 2
    assert message in err[-1]


def test_a_folder_without_a_run(again, tmp_path):
    (line,) = again(out="nowhere")[2]
    assert line.startswith("endorm score: nowhere/run.json: cannot be read (")
    assert not (tmp_path / "nowhere").exists()


def test_judgements_are_reported_again(score, again):
    score(PAIRS[:3], "--method", "pairwise", "--no-chat")
    before = again()
    assert before[0] == 0
    assert list(json.loads(before[3]["summary.json"])["scores"]) == ["log_odds", "first", "second"]
    message = "--discount is not read by --method pairwise, which the run has"
    assert again("--discount", "0.9")[2] == [f"endorm score: {message}"]


def test_lift(score, again):
    """What a system prompt adds to ``log π``: the difference of two runs, by key."""
    _, _, _, base = score(PAIRS, "--alpha", 2, out="base")
    _, _, _, folder = score(
        PAIRS, "--system", "Be kind.", "--alpha", 2, "--lift-from", base, out="kind"
    )
    without, within = ({(r["id"], r["role"]): r for r in lines(one)} for one in (base, folder))
    right = sum(
        within[f"pairs/{n}", "chosen"]["log_prob"] - without[f"pairs/{n}", "chosen"]["log_prob"]
        > within[f"pairs/{n}", "rejected"]["log_prob"]
        - without[f"pairs/{n}", "rejected"]["log_prob"]
        for n in range(8)
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["scores"]["lift"]["accuracy"]["value"] == pytest.approx(right / 8)
    assert summary["lift_from"] == str(base)
    before = files(folder)
    assert again("--lift-from", base, out="kind")[3] == before
    # over itself nothing is lifted: every pair is a tie
    itself = json.loads(again("--lift-from", folder, out="kind")[3]["summary.json"])
    assert itself["scores"]["lift"]["ties"] == 8


def test_a_lift_over_another_run_is_refused(score, again, models):
    _, _, _, base = score(PAIRS, "--no-chat", model="chat", out="base")
    score(PAIRS, out="other")
    code, _, (line,), _ = again("--lift-from", base, out="other")
    assert code == 2
    assert line.startswith("endorm score: --lift-from=base: has weights = ")
    score(PAIRS[:5], "--no-chat", "--limit", 4, model="chat", out="few")
    score(PAIRS, "--no-chat", "--system", "x", model="chat", out="many")
    code, _, err, now = again("--lift-from", base.parent / "few", out="many")
    assert code == 1
    assert err[0] == "4 left out:"
    assert "--lift-from=few: has no score of ('pairs/4', 'chosen', 0); finish that run" in err[1]
    assert json.loads(now["summary.json"])["comparisons"] == 4


TOO_LONG = {"prompt": "q", "chosen": "x" * 600, "rejected": "b"}
TWO_PROMPTS = {
    role: [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    for role, prompt, answer in (("chosen", "q", "a"), ("rejected", "other", "b"))
}
BAD = [
    ({"prompt": "q", "chosen": "a"}, "rejected is missing"),
    ({"prompt": "q", "chosen": "", "rejected": "b"}, "chosen is empty"),
    (TOO_LONG, "chosen[0]: prompt and response have 4 + 600 tokens, base has 512 positions"),
    (TWO_PROMPTS, "chosen and rejected do not answer the same prompt"),
    (CHAT_PAIR, "prompt: 3 messages, and the model is given plain text: a chat template is needed"),
    ("{", "invalid JSON: Expecting property name enclosed in double quotes"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_a_bad_row_is_named_and_does_not_lose_the_others(score, row, message):
    rows = [
        json.dumps(PAIRS[0]),
        row if isinstance(row, str) else json.dumps(row),
        json.dumps(PAIRS[1]),
    ]
    code, _, err, folder = score("\n".join(rows))
    assert code == 1
    assert err[0] == "1 left out:"
    assert err[1].startswith(f"  pairs.jsonl:2: row 1: {message}")
    assert len(err) == 2
    assert len(lines(folder)) == 4
    (left,) = json.loads((folder / "summary.json").read_text())["left_out"]
    assert left["message"].startswith(message)


def test_nothing_but_bad_rows(score):
    code, _, err, folder = score([TOO_LONG] * 12)
    assert code == 2
    assert err[0] == "12 left out:"
    assert err[-2:] == ["  … and 2 more, in summary.json", "endorm score: nothing could be scored"]
    assert len(json.loads((folder / "summary.json").read_text())["left_out"]) == 12


def test_a_model_that_overflows(score, models):
    lm = tiny(seed=3)
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(float("inf"))
    save(lm, models / "infinite")
    code, _, err, _ = score(PAIRS[:2], model="infinite")
    assert code == 2
    assert err == [
        "endorm score: infinite: its logits after the tokens 164 are NaN; give another model or "
        "dtype"
    ]


def test_lengths_are_those_of_whole_responses(score):
    """What is cut to the context is not compared by what is left of it."""
    rows = [{"prompt": f"q{n}", "chosen": "x" * (600 + n), "rejected": "y" * 700} for n in range(3)]
    _, _, _, folder = score(rows, "--truncate")
    nulls = json.loads((folder / "summary.json").read_text())["scores"]["sum"]["nulls"]
    assert (
        nulls["shorter (tokens)"]["accuracy"]["value"]
        == nulls["shorter (characters)"]["accuracy"]["value"]
        == 1
    )


def test_a_template_with_a_tail(score, models, tmp_path):
    """What a template puts behind the end token is not scored, and not counted."""
    template = tmp_path / "tail.jinja"
    template.write_text(
        byte_tokenizer(chat=True).chat_template.replace("{{ eos_token }}", "{{ eos_token }}\\n")
    )
    _, _, _, folder = score(PAIRS[:2], "--chat-template", template)
    for record in lines(folder):
        assert record["tokens"] == len(record["token_ids"])
        assert record["token_ids"][-1] == 257


@pytest.mark.parametrize("model", ["base", "chat"])
def test_a_response_that_goes_on_after_an_end_token(score, model):
    row = {"prompt": "q", "chosen": "yes</s> or no", "rejected": "no"}
    code, _, err, _ = score([row, PAIRS[0]], model=model)
    assert code == 1
    assert "row 0: chosen[0]: its text goes on after the end token '</s>'; take it out" in err[1]
    _, _, _, folder = score([row | {"chosen": "yes</s>"}], model=model, out="b")
    assert lines(folder)[0]["token_ids"][-1] == 257
    assert lines(folder)[0]["tokens"] == 4


def test_a_separator(score, models):
    code, _, _, folder = score(PAIRS[:1], "--separator", "")
    assert code == 0
    other = score(PAIRS[:1], out="b")[3]
    assert lines(folder)[0]["soft_value_prompt"] != lines(other)[0]["soft_value_prompt"]
    code, _, (line,), _ = score(PAIRS[:1], "--separator", "", model="chat", out="c")
    assert (code, line) == (
        2,
        "endorm score: --separator is not read in a chat template; add --no-chat",
    )


def test_stopped_by_hand(score, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_bridge.preferences.run.run", interrupt)
    code, _, err, _ = score(PAIRS)
    assert (code, err) == (130, ["endorm score: stopped"])


def test_responses_can_be_cut(score):
    code, out, _, folder = score([TOO_LONG, PAIRS[0]], "--truncate")
    assert code == 0
    assert "responses of 1 comparisons were cut to the context of base" in out
    assert [r["cut"] for r in lines(folder)] == [600 - (512 - 4 + 1), 0, 0, 0]


def test_chat_templates(score, tmp_path):
    code, out, _, folder = score([CHAT_PAIR, PAIRS[0]], model="chat")
    assert code == 0
    assert "chat template" in out
    four = lines(folder)[0]
    assert four["token_ids"] == [
        *byte_tokenizer()("four", add_special_tokens=False)["input_ids"],
        257,
    ]
    assert len(lines(score([CHAT_PAIR], "--no-eos", model="chat", out="b")[3])[0]["token_ids"]) == 4
    code, out, _, _ = score([CHAT_PAIR, PAIRS[0]], "--no-chat", model="chat", out="c")
    assert code == 1
    assert "plain text" in out
    template = tmp_path / "template.jinja"
    template.write_text(byte_tokenizer(chat=True).chat_template)
    assert score([CHAT_PAIR], "--chat-template", template, out="d")[0] == 0


def test_the_date_of_a_template_is_that_of_the_run(score, tmp_path):
    template = tmp_path / "template.jinja"
    source = byte_tokenizer(chat=True).chat_template
    template.write_text("{{ strftime_now('%d.%m.%Y') }}" + source)
    options = ["--chat-template", template]
    code, out, _, folder = score(PAIRS[:1], *options, "--date", "2020-01-31")
    assert code == 0
    assert "note: the chat template prints the date, here that of 2020-01-31" in out
    assert json.loads((folder / "run.json").read_text())["date"] == "2020-01-31"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["model_findings"] == [
        "the chat template prints the date, here that of 2020-01-31",
        "the chat template begins with a text of its own, '31.01.2020', whatever the system prompt",
    ]
    assert "nothing was left to score" in score(PAIRS[:1], *options)[1]  # whatever day it is
    code, _, (line,), _ = score(PAIRS[:1], *options, "--date", "2020-02-01")
    assert code == 2
    assert 'date = "2020-01-31", not "2020-02-01"' in line
    code, _, (line,), _ = score(PAIRS[:1], "--date", "2020-02-01", out="b")
    assert (code, "no chat template of base prints the date" in line) == (2, True)
    assert "date" not in json.loads((score(PAIRS[:1], out="c")[3] / "run.json").read_text())


def test_what_a_template_changes_is_said(score, tmp_path):
    template = tmp_path / "template.jinja"
    source = byte_tokenizer(chat=True).chat_template
    template.write_text(source.replace("m['content']", "m['content'].split('</t>')[-1]"))
    rows = [{"prompt": "q", "chosen": "<t>so</t>yes", "rejected": "<t>no</t>yes"}]
    code, out, _, folder = score(rows, "--chat-template", template)
    assert code == 0
    assert "read as the model would write it" in " ".join(out.split())
    one, two = lines(folder)
    assert one["reward_sum"] != two["reward_sum"]  # without their reasoning they are one text
    rows = [{"prompt": "a</t>b", "chosen": "yes", "rejected": "no"}, *rows]
    code, _, err, _ = score(rows, "--chat-template", template, out="b")
    assert code == 1
    assert "row 0: prompt: the chat template changes the user message 'a</t>b'" in err[1]


def test_system_prompts(score, tmp_path):
    (tmp_path / "system.txt").write_text("Be kind.\n")
    options = {
        "none": [],
        "text": ["--system", "Be kind."],
        "file": ["--system", tmp_path / "system.txt"],
        "empty": ["--system", ""],
    }
    runs = {name: score(PAIRS[:2], *words, out=name)[3] for name, words in options.items()}
    sums = {name: [r["reward_sum"] for r in lines(folder)] for name, folder in runs.items()}
    assert sums["text"] == sums["file"] != sums["none"] == sums["empty"]


def test_options_of_the_reward(score, models):
    records = {}
    for options in (["--alpha", 2], ["--gauge", "logprob"], ["--terminal", "bootstrap"], []):
        records[str(options)] = lines(score(PAIRS[:2], *options, out=f"run{len(records)}")[3])
    plain = records["[]"]
    for one, two in zip(records["['--alpha', 2]"], plain, strict=True):
        assert one["reward_sum"] == pytest.approx(2 * two["reward_sum"])
    for one, two in zip(records["['--gauge', 'logprob']"], plain, strict=True):
        assert one["reward_sum"] == one["log_prob"] == two["log_prob"]
    for one, two in zip(records["['--terminal', 'bootstrap']"], plain, strict=True):
        assert one["reward_sum"] == pytest.approx(two["reward_sum"] - one["end_value"])
    code, _, _, folder = score(PAIRS[:2], "--reference", models / "chat", out="anchored")
    assert code == 0
    assert "anchored" in json.loads((folder / "summary.json").read_text())["scores"]
    more = ["--reference", models / "chat", "--reference-dtype", "float64"]
    code, _, errors, _ = score(PAIRS[:2], *more, out="anchored")
    assert code == 2
    assert 'reference_dtype = "float32", not "float64"' in errors[-1]


@pytest.mark.parametrize("method", ["verifier", "pointwise", "pairwise"])
def test_judges(score, method):
    code, _, _, folder = score(PAIRS[:3], "--method", method, "--no-chat")
    assert code == 0
    records = lines(folder)
    assert len(records) == (3 if method == "pairwise" else 6)
    names = {"verifier": "log_prob", "pointwise": "rating", "pairwise": "log_odds"}
    main_score = json.loads((folder / "summary.json").read_text())["scores"][names[method]]
    values = [record[names[method]] for record in records]
    above = (
        [v > 0 for v in values]
        if method == "pairwise"
        else [a > b for a, b in zip(values[::2], values[1::2], strict=True)]
    )
    assert main_score["accuracy"]["value"] == pytest.approx(sum(above) / 3)


def test_an_explicit_reward_model(score):
    code, _, _, folder = score(PAIRS, "--method", "reward-model", model="judged")
    assert code == 0
    assert "score" in lines(folder)[0]


DOMAINS = ("academy", "business", "normal")
QUERIES = [
    {"query": f"Query {n}", "responses": {name: f"{name} {n * n}" for name in DOMAINS}}
    for n in range(3)
]


def matrix_by_hand(logs):
    """How often each domain's response beats the others, from ``logs[domain, n][response]``."""
    found = {}
    for row in DOMAINS:
        found[row] = {}
        for one in DOMAINS:
            wins = 0.0
            for n in range(3):
                mine = logs[row, n][one]
                others = [logs[row, n][other] for other in DOMAINS if other != one]
                wins += sum(1.0 if mine > x else 0.5 if mine == x else 0.0 for x in others) / 2
            found[row][one] = wins / 3
    return found


def logs_of(folder):
    """``log π`` of each domain's response, by the system prompt's domain and the query."""
    found = {}
    for r in lines(folder):
        row, n = r["id"].split("/")
        others = [name for name in DOMAINS if name != row]
        name = row if r["role"] == "chosen" else others[r["index"]]
        found.setdefault((row, int(n)), {})[name] = r["log_prob"]
    return found


@pytest.mark.slow
def test_domains_by_reward_and_by_lift(score, again):
    code, _, _, base = score(QUERIES, "--domain-prompts", "none", out="base")
    assert code == 0
    _, _, _, folder = score(QUERIES, "--domain-prompts", "sharp", "--lift-from", base, out="sharp")
    assert (folder / "domains.png").stat().st_size > 1000
    scores = json.loads((folder / "summary.json").read_text())["scores"]
    with_prompt, without = logs_of(folder), logs_of(base)
    lifts = {
        key: {
            name: value - without[key][name] if key[0] != "normal" else 0.0
            for name, value in row.items()
        }
        for key, row in with_prompt.items()
    }
    for name, logs in (("sum", with_prompt), ("lift", lifts)):
        matrix = matrix_by_hand(logs)
        for row in DOMAINS:
            assert scores[name]["domains"][row] == pytest.approx(matrix[row])
            # the interval of the diagonal is that of the queries
            own = scores[name]["subsets"][row]["accuracy"]
            assert own["value"] == pytest.approx(matrix[row][row])
            assert own["low"] <= own["value"] <= own["high"]
    assert set(scores["lift"]["domains"]["normal"].values()) == {0.5}
    before = files(folder)
    assert again("--lift-from", base, out="sharp")[3] == before
    # five comparisons share their responses where no prompt tells them apart
    by_text = {}
    for (_, n), row in without.items():
        for name, value in row.items():
            by_text.setdefault((n, name), set()).add(value)
    assert {len(values) for values in by_text.values()} == {1}


def test_domain_prompts_of_a_file(score, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"academy": "Cite.", "business": None, "normal": None}))
    code, _, _, folder = score(QUERIES, "--domain-prompts", path)
    assert code == 0
    noted = json.loads((folder / "run.json").read_text())["domain_prompts"]
    assert noted == {"academy": "Cite.", "business": None, "normal": None}
    path.write_text(json.dumps({"academy": "Cite.", "normal": None}))
    code, _, (line,), _ = score(QUERIES, "--domain-prompts", path, out="b")
    assert code == 2
    assert line == (
        "endorm score: no system prompt for the domain business (there are academy, normal): give "
        "--domain-prompts FILE that has it, null for none"
    )
    path.write_text('{"academy": 3}')
    assert "a text or null for each domain" in score(QUERIES, "--domain-prompts", path)[2][-1]
    assert (
        "must be one of plain, short, sharp, none, or a JSON file"
        in (score(QUERIES, "--domain-prompts", "nowhere")[2][-1])
    )
    both = ["--domain-prompts", "short", "--system", "x"]
    message = "--domain-prompts and --system or --no-system: give one of them"
    assert message in score(QUERIES, *both, out="c")[2][-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", 0], "--limit=0: must be at least 1"),
        (["--batch-tokens", 0], "--batch-tokens=0: must be at least 1"),
        (["--resamples", 0], "--resamples=0: must be at least 1"),
        (["--html", -1], "--html=-1: must be at least 0"),
        (["--tolerance", "nan"], "--tolerance=nan: must be at least 0"),
        (["--confidence", 1], "--confidence=1: must be above 0 and below 1"),
        (["--seed", -1], "--seed=-1: must be from 0"),
        (["--method", "verifier", "--alpha", 1], "--alpha is not read by --method verifier"),
        (
            ["--method", "reward-model", "--truncate"],
            "--truncate is not read by --method reward-model",
        ),
        (["--method", "pairwise", "--no-eos"], "--no-eos is not read by --method pairwise"),
        (["--method", "pointwise", "--html", 3], "--html is not read by --method pointwise"),
        (["--system", "no/such/file"], "--system=no/such/file: cannot be read"),
        (["--system", "."], "--system=.: cannot be read"),
        (["--device", "nowhere"], "device='nowhere': "),
        (["--alpha", "1e40"], "--alpha=1e40: must be from"),
        (
            ["--gauge", "logprob", "--terminal", "bootstrap"],
            "--terminal=bootstrap: must be zero with --gauge=logprob",
        ),
        (["--no-chat", "--chat-template", "x"], "--no-chat and --chat-template: give one of them"),
        (
            ["--device", "cpu", "--device-map", "auto"],
            "--device and --device-map: give one of them",
        ),
        (["--pairs", "a", "a"], "--pairs=a: is given twice"),
        (["--pairs", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
        (["--chat-template", "nowhere.jinja"], "--chat-template=nowhere.jinja: cannot be read"),
        (["--alpha", -1], "--alpha=-1: must be from"),
        (["--dtype", "float8"], "--dtype=float8: must be one of"),
        (["--format", "llmbar"], "nothing could be scored"),
    ],
)
def test_wrong_options(score, options, message):
    code, _, err, _ = score(PAIRS, *options)
    assert code == 2
    assert message in err[-1]
    assert err[-1].startswith("endorm score: ")


def test_wrong_models(score, models, tmp_path):
    code, _, (line,), _ = score(PAIRS, "--method", "reward-model")
    assert code == 2
    assert (
        "not a reward model that can be used here (a LlamaForCausalLM is not a sequence classifier)"
        in line
    )
    lm = tiny(seed=5)
    save(lm, models / "foreign")
    saved_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=word_tokenizer())
    saved_tokenizer.save_pretrained(models / "foreign")
    code, _, (line,), _ = score(PAIRS, model="foreign")
    assert code == 2
    assert (
        "foreign: its tokenizer has 3 tokens, the model 264, so they do not belong together" in line
    )
    config = transformers.BertConfig(
        vocab_size=264,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    transformers.BertForMaskedLM(config).save_pretrained(models / "masked")
    byte_tokenizer().save_pretrained(models / "masked")
    code, _, (line,), _ = score(PAIRS, model="masked")
    assert code == 2
    assert (
        "not a causal language model that can be used here (a BertForMaskedLM does not predict the "
        "next token)" in line
    )


def word_tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_write_what_one_writes(score, models, tmp_path):
    _, _, _, folder = score(PAIRS, "--batch-tokens", 60)
    words = [
        "score",
        "--model",
        models / "base",
        "--pairs",
        tmp_path / "pairs.jsonl",
        "--out",
        tmp_path / "both",
    ]
    words += ["--batch-tokens", "60", "--resamples", "50"]
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "llm_bridge.commands.main",
    ]
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, *launch, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens/s") == 1
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == names
    for name in names:
        assert (tmp_path / "both" / name).read_bytes() == (folder / name).read_bytes(), name
