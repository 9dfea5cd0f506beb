"""Data as people have it: one set of pairs, kept in every way, gives the same comparisons."""

import csv
import gzip
import json
import sys

import pytest

from llm_bridge.commands.options import read_prompts
from llm_bridge.preferences.pairs import read_comparisons
from llm_bridge.preferences.rows import digests, source_rows

PAIRS = [
    {
        "id": "a",
        "prompt": "2 + 2, at\nlast?",
        "chosen": 'four, "4"',
        "rejected": "5",
        "subset": "s",
    },
    {"id": "b", "prompt": "Capital?", "chosen": "Paris\n\nyes", "rejected": " Lyon", "subset": "s"},
]
MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def as_csv(folder, delimiter=",", name="pairs.csv", rows=PAIRS):
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_tsv(folder):
    return as_csv(folder, "\t", "pairs.tsv")


def as_lines(folder):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def as_list(folder):
    path = folder / "pairs.json"
    path.write_text(json.dumps(PAIRS))
    return path


def compressed(write):
    def written(folder):
        path = write(folder)
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        return packed

    return written


def as_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(PAIRS), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def as_saved(folder):
    datasets = pytest.importorskip("datasets", reason="a folder of data needs datasets")
    datasets.Dataset.from_list(PAIRS).save_to_disk(folder / "pairs")
    return folder / "pairs"


def as_repository(folder):
    """What a clone of a data set's repository has."""
    pytest.importorskip("datasets", reason="a folder of data needs datasets")
    (folder / "pairs" / "data").mkdir(parents=True)
    as_parquet(folder).rename(folder / "pairs" / "data" / "train-00000-of-00001.parquet")
    return folder / "pairs"


WAYS = [
    as_csv,
    as_tsv,
    as_lines,
    as_list,
    compressed(as_csv),
    compressed(as_lines),
    compressed(as_list),
    as_parquet,
    as_saved,
    as_repository,
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("way", WAYS)
def test_the_same_pairs_kept_in_every_way(tmp_path, way):
    path = way(tmp_path)
    found, problems = read_comparisons(path)
    assert problems == []
    assert found == read_comparisons(as_lines(tmp_path))[0]
    assert [item.id for item in found] == ["s/a", "s/b"]
    assert read_prompts(path) == [row["prompt"] for row in PAIRS]
    assert len(digests([str(path)])[str(path)]) == 64


def test_rows_without_a_subset_are_named_after_the_file(tmp_path):
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in PAIRS]
    path = as_csv(tmp_path, name="capitals.csv", rows=rows)
    assert [item.id for item in read_comparisons(path)[0]] == ["capitals/0", "capitals/1"]
    packed = path.with_name("capitals.csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [item.id for item in read_comparisons(packed)[0]] == ["capitals/0", "capitals/1"]


def test_several_splits_need_a_name(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(PAIRS)
    folder = tmp_path / "two"
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(folder)
    with pytest.raises(ValueError, match=rf"has the splits train, test: name one, {folder}:train"):
        read_comparisons(folder)
    with pytest.raises(ValueError, match=rf"no split 'dev': .*name one, {folder}:train"):
        read_comparisons(f"{folder}:dev")
    assert [item.id for item in read_comparisons(f"{folder}:test")[0]] == ["s/b"]
    plain = whole.remove_columns([x for x in whole.column_names if x in ("subset", "id")])
    datasets.DatasetDict({"train": plain, "test": plain}).save_to_disk(tmp_path / "plain")
    found = read_comparisons(f"{tmp_path / 'plain'}:test")[0]
    assert [item.id for item in found] == ["test/0", "test/1"]


def test_a_folder_that_changed_is_another_source(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.csv").write_text("prompt\nx\n")
    before = digests([str(path)])
    (path / "a.csv").write_text("prompt\ny\n")
    assert digests([str(path)]) != before


@pytest.mark.parametrize("notation", [json.dumps, repr])
def test_a_conversation_in_a_cell_is_a_conversation(tmp_path, notation):
    other = [MESSAGES[0], {"role": "assistant", "content": "No."}]
    row = {"chosen": notation(MESSAGES), "rejected": notation(other)}
    [found], problems = read_comparisons(as_csv(tmp_path, rows=[row]))
    assert problems == []
    assert (found.prompt, found.chosen, found.rejected) == (MESSAGES[:1], ("So.",), ("No.",))


def test_a_conversation_that_cannot_be_read_is_not_scored_as_text(tmp_path):
    """NumPy's notation, which pandas writes: no commas."""
    cell = "[{'content': 'Why?', 'role': 'user'}\n {'content': 'So.', 'role': 'assistant'}]"
    path = as_csv(tmp_path, rows=[{"prompt": "Why?", "chosen": cell, "rejected": "No."}])
    found, [problem] = read_comparisons(path, format="jsonl")
    assert found == []
    assert str(problem) == (
        f"{path}:2: row 0: chosen looks like a list of messages and is neither JSON nor Python; "
        "write it as JSON, or keep the data in parquet or JSON lines"
    )


HUMAN = "\n\nHuman: Hello\nthere\n\nAssistant: Hi.\n\nHuman: And?\n\nAssistant: "


def test_the_prompt_of_hh_rlhf_is_the_turns_that_both_sides_share(tmp_path):
    path = tmp_path / "hh.jsonl"
    rows = [
        {"chosen": HUMAN + "Yes.\n\nFully.", "rejected": HUMAN + "No."},
        {"chosen": HUMAN + "Yes.", "rejected": HUMAN.replace("Hello", "Bye") + "No."},
        {"chosen": HUMAN + "Yes.", "rejected": "\n\nHuman: only a question"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [found], problems = read_comparisons(path)
    assert [message["content"] for message in found.prompt] == ["Hello\nthere", "Hi.", "And?"]
    assert [message["role"] for message in found.prompt] == ["user", "assistant", "user"]
    assert (found.chosen, found.rejected) == (("Yes.\n\nFully.",), ("No.",))
    assert [problem.message for problem in problems] == [
        "chosen and rejected do not answer the same prompt",
        "rejected must be turns, Human: … and Assistant: …, after empty lines",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,chosen\na,b,c\n", ":2: row 0: 3 cells for 2 columns (prompt, chosen)"),
        ('prompt,chosen\n"a,b\n', ":2: row 0: invalid CSV, nothing after it was read"),
        ("question,good,bad\na,b,c\n", "no format has the fields of its first row (question,"),
        ("prompt,prompt\na,b\n", "line 1: a column is named twice: prompt, prompt"),
        ("prompt,chosen,rejected\n\xff,b,c\n".encode("latin-1"), "line 2: 'utf-8' codec can't"),
    ],
)
def test_a_bad_csv_says_where(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        said = str(read_comparisons(path)[1][0])
    except ValueError as error:
        said = str(error)
    assert message in said
    assert str(path) in said
    assert "\n" not in said


def test_what_is_missing_is_named_beside_what_is_there(tmp_path):
    path = as_csv(tmp_path, rows=[{"prompt": "a", "chosen": "b", "rejectd": "c"}])
    _, [problem] = read_comparisons(path, format="jsonl")
    assert problem.message == "rejected is missing (there are prompt, chosen, rejectd)"


@pytest.mark.parametrize("cut", [slice(None, -9), slice(None, 30), slice(12, None)])
def test_a_damaged_compressed_file_is_one_line(tmp_path, cut):
    data = compressed(as_lines)(tmp_path).read_bytes()
    for damaged in (data[cut], data[:20] + bytes([data[20] ^ 255]) + data[21:]):
        (tmp_path / "cut.jsonl.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: not a whole \.gz file") as error:
            read_comparisons(tmp_path / "cut.jsonl.gz")
        assert "\n" not in str(error.value)


def test_damaged_parquet_and_folders_are_one_line(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(ValueError, match="is no parquet file that can be read"):
        read_comparisons(path)
    with pytest.raises(FileNotFoundError):
        read_comparisons(tmp_path / "none.parquet")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="is a folder that the package datasets cannot read"):
        list(source_rows(str(empty)))


def test_parquet_without_its_package_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'endorm\[data\]'"):
        read_comparisons(tmp_path / "a.parquet")


def test_prompts_of_conversations_and_columns(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        "text",
        MESSAGES[:1],
        {"messages": MESSAGES},
        {"question": "q"},
        {"prompt": "p", "x": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(path) == ["text", MESSAGES[:1], MESSAGES[:1], "q", "p"]
    path.write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl: line 1: must be .* and has text$"):
        read_prompts(path)
