"""Readers of preference data: every format, every kind of bad row, and the published files."""

import json
import os
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from llm_bridge.preferences.domains import DOMAIN_PROMPTS, with_domain_prompts
from llm_bridge.preferences.pairs import (
    FORMATS,
    RM_BENCH_STYLES,
    Comparison,
    iter_comparisons,
    read_comparisons,
)
from llm_bridge.preferences.rows import Problem

SHARED = (
    Path(os.environ.get("ENDORM_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
)

PAIR = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
RM_BENCH = {
    "id": 8,
    "prompt": "q",
    "subset": "s",
    "chosen": ["a", "bb", "# c"],
    "rejected": ["x", "yy", "# z"],
}
REWARDBENCH_2 = {
    "id": "17",
    "prompt": "q",
    "chosen": ["a"],
    "rejected": ["b", "c", "d"],
    "num_correct": 1,
    "subset": "Factuality",
}
RMGAP = {
    "id": "m1",
    "domain": "Chat",
    "responses": [{"key": key, "text": f"text {key}"} for key in ("r2", "r1", "r3", "r4")],
    "prompt_groups": [
        {"winner": key, "prompts": [{"text": f"{key} {p}"} for p in range(3)]}
        for key in ("r1", "r2", "r3", "r4")
    ],
}
DSP = {"query": "q", "responses": {"academy": "a", "business": "b", "normal": "n"}}
LLMBAR = {"input": "q", "output_1": "one", "output_2": "two", "label": 2}
GSM8K = {
    "question": "q",
    "ground_truth": "g",
    "small": {"is_correct": False, "solution": "w"},
    "large": {"is_correct": True, "solution": "r"},
    "other": {"is_correct": True, "solution": "s"},
}
HH = {side: f"\n\nHuman: q\n\nAssistant: {side}" for side in ("chosen", "rejected")}
REWARDBENCH = PAIR | {"subset": "llmbar-natural", "id": 3, "chosen_model": "m"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


@pytest.fixture
def write(tmp_path):
    def write(rows, name="pairs.jsonl"):
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif isinstance(rows, str):
            path.write_text(rows, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        else:
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        return path

    return write


def only(path, format=None):
    comparisons, problems = read_comparisons(path, format=format)
    assert [str(problem) for problem in problems] == []
    return comparisons


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_plain_pairs_as_lines_and_as_a_list(write, name):
    path = write([PAIR, PAIR | {"id": "b", "subset": "sums", "system": "Be brief."}], name)
    first, second = only(path)
    assert first == Comparison("pairs/0", "2 + 2?", ("4",), ("5",), "pairs")
    assert (second.id, second.subset, second.system) == ("sums/b", "sums", "Be brief.")
    assert list(second.responses()) == [
        (("sums/b", "chosen", 0), "4"),
        (("sums/b", "rejected", 0), "5"),
    ]
    assert only(path, "jsonl") == [first, second]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"prompt": [user("q")], "chosen": "a", "rejected": "b"},
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {
            "prompt": [user("q")],
            "chosen": [user("q"), assistant("a")],
            "rejected": [assistant("b")],
        },
        {
            "prompt": [user("q")],
            "chosen": [user("q"), assistant("a")],
            "rejected": [user("q"), assistant("b")],
        },
    ],
)
def test_messages(write, row):
    (comparison,) = only(write([row]))
    assert (comparison.prompt, comparison.chosen, comparison.rejected) == (
        [user("q")],
        ("a",),
        ("b",),
    )
    assert comparison.system is None


@pytest.mark.parametrize(
    "row",
    [
        {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [system("s"), user("q")], "chosen": "a", "rejected": "b"},
        {
            "chosen": [system("s"), user("q"), assistant("a")],
            "rejected": [system("s"), user("q"), assistant("b")],
        },
        {
            "prompt": "q",
            "chosen": [system("s"), user("q"), assistant("a")],
            "rejected": [user("q"), assistant("b")],
        },
    ],
)
def test_a_system_message_becomes_the_system_prompt(write, row):
    (comparison,) = only(write([row]))
    assert comparison.system == "s"
    assert comparison.prompt in ("q", [user("q")])


def test_a_conversation_is_a_prompt(write):
    turns = [user("q"), assistant("a"), user("and?")]
    (comparison,) = only(write([{"prompt": turns, "chosen": "b", "rejected": "c"}]))
    assert comparison.prompt == turns


def test_rm_bench(write):
    (comparison,) = only(write([RM_BENCH], "chat_filtered.json"))
    assert (comparison.id, comparison.subset) == ("chat/8", "chat")
    assert (comparison.chosen, comparison.rejected) == (("a", "bb", "# c"), ("x", "yy", "# z"))
    assert comparison.chosen_styles == comparison.rejected_styles == RM_BENCH_STYLES
    assert comparison.is_rm_bench
    assert only(write([RM_BENCH], "total.json"))[0].id == "s/8"
    assert (
        only(write([RM_BENCH | {"domain": "safety-refuse"}], "chat_filtered.json"))[0].subset
        == "safety-refuse"
    )


def test_rewardbench(write):
    (comparison,) = only(write([REWARDBENCH]))
    assert comparison == Comparison("llmbar-natural/3", "2 + 2?", ("4",), ("5",), "llmbar-natural")
    _, problems = read_comparisons(
        write([{k: v for k, v in REWARDBENCH.items() if k != "id"}]), format="rewardbench"
    )
    assert "id is missing" in str(problems[0])


def test_dsp_gives_a_comparison_for_each_domain(write):
    academy, business, normal = only(write([DSP]))
    assert (academy.id, academy.chosen, academy.rejected) == ("academy/0", ("a",), ("b", "n"))
    assert (academy.chosen_styles, academy.rejected_styles) == (
        ("academy",),
        ("business", "normal"),
    )
    assert academy.is_dsp
    assert not academy.is_rm_bench
    for prompts in DOMAIN_PROMPTS.values():
        assert prompts.keys() == {"academy", "business", "entertainment", "literature", "normal"}
        found = with_domain_prompts([academy, business, normal], prompts)
        assert [c.system for c in found] == [
            prompts[name] for name in ("academy", "business", "normal")
        ]
        assert prompts["normal"] is None
    assert len({DOMAIN_PROMPTS[name]["academy"] for name in ("plain", "short", "sharp")}) == 3
    assert set(DOMAIN_PROMPTS["none"].values()) == {None}
    with pytest.raises(ValueError, match="no system prompt for the domain business"):
        with_domain_prompts([academy, business], {"academy": "Be exact."})


def test_rewardbench_2_compares_one_with_three(write):
    (row,) = only(write([REWARDBENCH_2]))
    assert (row.id, row.subset, row.benchmark) == ("Factuality/17", "Factuality", "rewardbench-2")
    assert (row.chosen, row.rejected) == (("a",), ("b", "c", "d"))
    assert not row.strict
    assert not row.is_tie_question
    tied = REWARDBENCH_2 | {
        "id": "tied:3",
        "subset": "Ties",
        "chosen": ["a", "e"],
        "num_correct": 2,
    }
    (row,) = only(write([tied]))
    assert row.is_tie_question
    for wrong, message in (
        ({"num_correct": 3}, "num_correct is 3, and 2 chosen"),
        ({"id": "3"}, "id of Ties must be ref:NUMBER or tied:NUMBER"),
        ({"rejected": "b"}, "rejected must be a list of responses"),
    ):
        _, (problem,) = read_comparisons(write([tied | wrong]))
        assert message in problem.message


def test_rmgap_gives_a_comparison_for_each_prompt(write):
    rows = only(write([RMGAP]))
    assert len(rows) == 12
    assert rows[4].id == "Chat/m1/1/1"
    assert (rows[4].prompt, rows[4].chosen) == ("r2 1", ("text r2",))
    assert rows[4].rejected == ("text r1", "text r3", "text r4")
    assert {row.group for row in rows} == {"Chat/m1"}
    assert all(row.strict and row.benchmark == "rmgap" for row in rows)
    for wrong, message in (
        ({"prompt_groups": [{"winner": "r9", "prompts": [{"text": "q"}]}]}, "no response has the"),
        ({"responses": RMGAP["responses"][:1] * 2}, "the key 'r2' is there twice"),
        ({"responses": []}, "responses must be a list of objects"),
        ({"domain": None}, "domain is missing"),
    ):
        _, (problem,) = read_comparisons(write([RMGAP | wrong]))
        assert message in problem.message


def test_llmbar_puts_the_label_first(write):
    two, one = only(write([LLMBAR, LLMBAR | {"label": 1}], "Natural.json"))
    assert (two.chosen, two.rejected, two.id) == (("two",), ("one",), "Natural/0")
    assert (one.chosen, one.rejected) == (("one",), ("two",))


def test_gsm8k_compares_right_solutions_with_wrong_ones(write):
    right = {"question": "q", "m": {"is_correct": True, "solution": "r"}}
    (comparison,), (problem,) = read_comparisons(write([right, GSM8K]))
    assert (comparison.id, comparison.chosen, comparison.rejected) == (
        "pairs/1",
        ("r", "s"),
        ("w",),
    )
    assert (problem.message, problem.fault) == (
        "no pair: every solution is right",
        False,
    )  # counted, nothing is wrong


@pytest.mark.parametrize(
    ("row", "format"),
    list(
        zip(
            [RM_BENCH, REWARDBENCH, REWARDBENCH_2, DSP, LLMBAR, GSM8K, RMGAP, HH, PAIR],
            FORMATS,
            strict=True,
        )
    ),
)
def test_the_format_is_guessed_from_the_first_object(write, row, format):
    path = write(["no object", row])
    assert list(iter_comparisons(path)) == list(iter_comparisons(path, format))
    assert isinstance(list(iter_comparisons(path))[-1], Comparison)


@pytest.mark.parametrize(
    ("sides", "missing"), [((("a",), ()), "rejected"), (((), ("b",)), "chosen")]
)
def test_a_comparison_has_both_sides(sides, missing):
    """Else its accuracy would be a mean over no pair."""
    with pytest.raises(ValueError, match=f"s/0: no {missing} response; there is no pair"):
        Comparison("s/0", "q", *sides, "s")


def wrong(row, message, format="jsonl"):
    return pytest.param(row, message, format, id=f"{format}: {message[:40]}")


@pytest.mark.parametrize(
    ("row", "message", "format"),
    [
        wrong([1, 2], "must be a JSON object, got [1, 2]"),
        wrong(None, "must be a JSON object, got null"),
        wrong({"chosen": "a", "rejected": "b"}, "prompt is missing"),
        wrong({"prompt": [system("s")], "chosen": "a", "rejected": "b"}, "prompt is missing"),
        wrong({"prompt": "q", "rejected": "b"}, "chosen is missing"),
        wrong(PAIR | {"rejected": None}, "rejected is missing"),
        wrong(PAIR | {"rejected": " \n"}, "rejected is empty"),
        wrong(PAIR | {"rejected": 5}, "rejected must be text, got 5"),
        wrong(PAIR | {"rejected": []}, "rejected must be text or a list of messages, got []"),
        wrong(PAIR | {"rejected": ["5"]}, "rejected must be text or a list of messages"),
        wrong(
            PAIR | {"rejected": [{"role": "assistant", "content": "5"}, "6"]},
            "rejected must be text or a list of messages",
        ),
        wrong(PAIR | {"rejected": [{"role": "assistant"}]}, "rejected: content is missing"),
        wrong(PAIR | {"rejected": [user("5")]}, "must end with the assistant's message"),
        wrong(PAIR | {"prompt": [user("q"), assistant("a")]}, "and the prompt must not"),
        wrong(PAIR | {"rejected": "4"}, "one response is both chosen and rejected"),
        wrong(PAIR | {"id": True}, "id must be text or a whole number, got true"),
        wrong(PAIR | {"id": 1.5}, "id must be text or a whole number"),
        wrong(PAIR | {"subset": 3}, "subset must be text"),
        wrong(PAIR | {"id": "\ud800"}, "id holds half a surrogate pair, which is no text"),
        wrong(
            DSP | {"responses": {"academy": "a", "\udc00": "b"}},
            "id holds half a surrogate pair",
            "dsp",
        ),
        wrong(PAIR | {"chosen": "\ud800"}, "chosen holds half a surrogate pair, which is no text"),
        wrong(
            PAIR | {"system": "s", "prompt": [system("t"), user("q")]},
            "do not answer the same prompt",
        ),
        wrong(PAIR | {"chosen": [user("2 + 3?"), assistant("4")]}, "do not answer the same prompt"),
        wrong(
            {"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]},
            "do not answer the same prompt",
        ),
        wrong(
            RM_BENCH | {"chosen": ["a", "b"]}, "chosen must be a list of 3 responses", "rm-bench"
        ),
        wrong(RM_BENCH | {"rejected": "abc"}, "rejected must be a list of 3 responses", "rm-bench"),
        wrong(RM_BENCH | {"rejected": ["a", "", "c"]}, "rejected is empty", "rm-bench"),
        wrong(RM_BENCH | {"subset": None}, "subset is missing", "rm-bench"),
        wrong(
            {"query": "q", "responses": {"academy": "a"}},
            "responses must be an object of two or more",
            "dsp",
        ),
        wrong(
            {"query": "q", "responses": {"academy": "a", "normal": ""}}, "normal is empty", "dsp"
        ),
        wrong({"responses": {"academy": "a", "normal": "b"}}, "query is missing", "dsp"),
        wrong(LLMBAR | {"label": 3}, "label must be 1 or 2, got 3", "llmbar"),
        wrong(LLMBAR | {"output_1": "two"}, "both chosen and rejected", "llmbar"),
        wrong({"question": "q", "answer": "a"}, "no marked solution", "gsm8k"),
        wrong(
            GSM8K | {"small": {"is_correct": "no", "solution": "w"}},
            "small: is_correct must be",
            "gsm8k",
        ),
        wrong(
            GSM8K | {"small": {"is_correct": False, "solution": "r"}},
            "both chosen and rejected",
            "gsm8k",
        ),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_bad_row_is_one_line_and_does_not_lose_the_rest(write, name, row, message, format):
    rows = {"jsonl": PAIR, "rm-bench": RM_BENCH, "dsp": DSP, "llmbar": LLMBAR, "gsm8k": GSM8K}
    good = rows[format]
    path = write([good, row, good | {"id": 99}], name)
    comparisons, problems = read_comparisons(path, format=format)
    assert len(comparisons) == 2 * (3 if format == "dsp" else 1)
    (problem,) = problems
    assert str(problem).startswith(f"{path}:{problem.place.line}: row 1: ")
    assert message in str(problem)
    assert "\n" not in str(problem)
    text = path.read_text(encoding="utf-8").splitlines()
    assert (
        problem.place.line == 2
        if name == "rows.jsonl"
        else text[problem.place.line - 1].startswith((" {", " [", " null"))
    )


def test_an_id_twice(write):
    comparisons, problems = read_comparisons(write([PAIR | {"id": 1}, PAIR | {"id": 1}]))
    assert len(comparisons) == 1
    assert "id 'pairs/1' is there already" in str(problems[0])


def test_lines_that_are_no_json(write):
    good = json.dumps(PAIR).encode()
    path = write(
        b"\xef\xbb\xbf"
        + b"\n".join([good, b"", b"{broken", b'{"a": "\xff"}', b"[" * 100_000, good])
    )
    comparisons, problems = read_comparisons(path)
    assert [c.id for c in comparisons] == ["pairs/0", "pairs/4"]
    assert [problem.place.line for problem in problems] == [3, 4, 5]
    assert all("invalid JSON" in str(problem) and "\n" not in str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        (',\n{"prompt": }]', 3),
        (",\n]", 3),
        ("", 2),
        (" 3]", 2),
        ("] 3", 2),
        (",\n" + "[" * 100_000, 3),
    ],
)
def test_a_broken_list_keeps_what_came_before(write, tail, line):
    path = write(f"[\n{json.dumps(PAIR)}{tail}", "pairs.json")
    comparisons, (problem,) = read_comparisons(path)
    assert len(comparisons) == 1
    assert problem.place.line == line
    assert "invalid JSON" in str(problem)
    assert "\n" not in str(problem)


def test_an_empty_file_has_nothing(write):
    for text, name in (("", "a.jsonl"), ("[]", "a.json"), (" [ \n] \n", "b.json")):
        assert read_comparisons(write(text, name), format="jsonl") == ([], [])
        with pytest.raises(ValueError, match="no JSON object to guess the format from"):
            read_comparisons(write(text, name))


def test_what_is_wrong_with_the_whole_file_is_raised_at_once(write, tmp_path):
    with pytest.raises(
        ValueError, match=r"^format 'csv': must be one of rm-bench, rewardbench, rewardbench-2, dsp"
    ):
        iter_comparisons(write([PAIR]), "csv")
    with pytest.raises(
        ValueError, match=r"no format has the fields of its first row \(question, answer\)"
    ):
        iter_comparisons(write([{"question": "q", "answer": "a"}]))
    with pytest.raises(ValueError, match=r"pairs\.json: line 1: 'utf-8' codec can't decode"):
        iter_comparisons(write(b'["\xff"]', "pairs.json"), "jsonl")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        iter_comparisons(tmp_path / "nowhere.jsonl")


def test_rows_are_read_as_they_are_asked_for(write):
    items = iter_comparisons(write("".join(f"{json.dumps(PAIR)}\n" for _ in range(3)) + "{"))
    assert [type(next(items)) for _ in range(4)] == [Comparison] * 3 + [Problem]


def test_nothing_heavy_is_imported_before_words_are_read():
    code = (
        "import sys, llm_bridge.commands.main, llm_bridge.preferences.accuracy;"
        "heavy = 'torch', 'transformers', 'matplotlib', 'scipy', 'datasets';"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "format", "subsets", "problems"),
    [
        ("rm-bench/chat_filtered.json", "rm-bench", {"chat": 129}, 0),
        ("rm-bench/code_filtered.json", "rm-bench", {"code": 228}, 0),
        (
            "dsp/domain_specific_preference.test.json",
            "dsp",
            dict.fromkeys(("academy", "business", "entertainment", "literature", "normal"), 660),
            1,
        ),
        ("llmbar/LLMBar_Natural.json", "llmbar", {"LLMBar_Natural": 100}, 0),
        ("llmbar/LLMBar_Adversarial_Manual.json", "llmbar", {"LLMBar_Adversarial_Manual": 46}, 0),
        (
            "llmbar/LLMBar_Adversarial_Neighbor.json",
            "llmbar",
            {"LLMBar_Adversarial_Neighbor": 134},
            0,
        ),
        ("gsm8k/example_model_solutions.jsonl", "gsm8k", {"example_model_solutions": 731}, 588),
    ],
)
def test_published_files(name, format, subsets, problems):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}: set ENDORM_SHARED to the folder that holds data/")
    comparisons, found = read_comparisons(path)
    assert Counter(comparison.subset for comparison in comparisons) == subsets
    assert len(found) == problems
    assert comparisons == read_comparisons(path, format=format)[0]


def test_sources_together(tmp_path):
    """Ids stay apart, and `limit` counts good rows of each source."""
    (tmp_path / "other").mkdir()
    one, two, three = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "other" / "a.jsonl"
    for path in (one, two, three):
        path.write_text("".join(json.dumps(PAIR) + "\n" for _ in range(3)))
    comparisons, problems = read_comparisons(one, two)
    assert [c.id for c in comparisons] == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    assert [str(c.place) for c in comparisons][3:5] == [f"{two}:1: row 0", f"{two}:2: row 1"]
    assert problems == []
    assert [c.id for c in read_comparisons(one, two, limit=2)[0]] == ["a/0", "a/1", "b/0", "b/1"]
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit={limit}: must be at least 1"):
            read_comparisons(one, limit=limit)
    comparisons, problems = read_comparisons(one, three)
    assert [c.id for c in comparisons][::3] == [f"{tmp_path.name}/a/0", "other/a/0"]
    assert problems == []
    for path in (one, two):
        path.write_text(json.dumps(PAIR | {"subset": "s"}) + "\n")
    comparisons, (problem,) = read_comparisons(one, two)
    assert len(comparisons) == 1
    assert str(problem) == f"{two}:1: row 0: id 's/0' is there already ({one}:1: row 0)"


def test_the_format_is_guessed_from_the_first_good_row(write):
    """What stands before it is a problem of its own."""
    path = write("{\n" + json.dumps({"prompt": "q", "chosen": "a"}) + "\n" + json.dumps(PAIR))
    comparisons, problems = read_comparisons(path)
    assert [c.id for c in comparisons] == [f"{path.stem}/2"]
    assert [p.place.line for p in problems] == [1, 2]
    with pytest.raises(
        ValueError, match=r":1: row 0: no format has the fields of its first row \(a\)"
    ):
        read_comparisons(write([{"a": 1}, {"b": 2}]))
    with pytest.raises(ValueError, match=":1: row 0: invalid JSON"):
        read_comparisons(write("{\n{\n"))


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package ``datasets``: splits by name."""
    splits = {
        "someone/pairs": {"train": [PAIR, {"prompt": "q"}]},
        "someone/two": {"train": [PAIR], "test": [PAIR]},
    }

    def load_dataset(name, split=None):
        if name not in splits:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist\non the Hub")
        return splits[name] if split is None else splits[name][split]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.usefixtures("hub")
def test_data_sets_of_the_hub():
    comparisons, (problem,) = read_comparisons("hub:someone/pairs", format="jsonl")
    assert [(c.id, c.subset) for c in comparisons] == [("pairs/0", "pairs")]
    assert str(problem) == "hub:someone/pairs: row 1: chosen is missing (there are prompt)"
    assert [c.id for c in read_comparisons("hub:someone/two:test")[0]] == ["two/0"]
    with pytest.raises(
        ValueError,
        match="hub:someone/two: has the splits train, test: name one, hub:someone/two:train",
    ):
        read_comparisons("hub:someone/two")
    with pytest.raises(ValueError, match=r"hub:no/where: cannot be loaded .* doesn't exist"):
        read_comparisons("hub:no/where")


def test_the_hub_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError,
        match=r"hub:a/b: data sets of the hub need the package datasets: pip install "
        r"'endorm\[data\]'",
    ):
        read_comparisons("hub:a/b")


def test_data_sets_as_the_package_loads_them(tmp_path, monkeypatch):
    """Its own reader on a file: rows have every field of any row, `None` where they lack it."""
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (PAIR, PAIR | {"subset": "other"})))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: load(
            "json", data_files=str(path), split=split, cache_dir=str(tmp_path / "cache")
        ),
    )
    assert [c.id for c in read_comparisons("hub:a/b:train")[0]] == ["b/0", "other/1"]
