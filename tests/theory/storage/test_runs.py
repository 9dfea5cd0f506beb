"""Folders of runs: one writer at a time, one identity, whole lines; and the one form of JSON."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.storage.files import json_line, number, write_json
from theory.storage.runs import RunFolder, read_lines


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- JSON -----------------------------------------------------------------------------------------


def test_json_of_every_kind_of_number(tmp_path):
    value = {
        "scalars": [np.float32(0.5), np.float64(0.1), np.int64(3), np.bool_(True), True, None, 7],
        "arrays": np.array([[1.0, np.inf], [-np.inf, np.nan]]),
        "tuple": (math.inf, -math.inf, math.nan, np.float64("inf")),
        5: Path("a") / "b",
        "text": "π̂ \u2028 \ud800 inf",
    }
    expected = {
        "scalars": [0.5, 0.1, 3, True, True, None, 7],
        "arrays": [[1.0, "inf"], ["-inf", "nan"]],
        "tuple": ["inf", "-inf", "nan", "inf"],
        "5": "a/b",
        "text": "π̂ \u2028 \ud800 inf",
    }
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == expected
    assert json.loads(json_line(value)) == expected
    assert json_line(value).count(b"\n") == 1
    assert "π̂ \u2028 \\ud800".encode() in json_line(value)  # readable, and UTF-8 whatever the text
    assert names(tmp_path) == ["a.json"]


@given(st.floats())
def test_numbers_come_back(x):
    back = number(json.loads(json_line(x)))
    assert back == x or (math.isnan(x) and math.isnan(back))
    assert number(json.loads(json_line(np.float64(x)))) == pytest.approx(x, nan_ok=True, rel=0)


@pytest.mark.parametrize("value", ["Infinity", "text", None, 3, True])
def test_what_is_no_number_stays(value):
    assert number(value) is value


def test_a_value_without_json_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", [object()])
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"
    assert names(tmp_path) == ["a.json"]


# --- One run a folder -----------------------------------------------------------------------------


def test_a_folder_holds_one_run(tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        with RunFolder(folder, {"model": "a", "limit": None}):
            assert json.loads((folder / "run.json").read_text()) == {"model": "a", "limit": None}
        assert names(folder) == ["run.json"]
    for identity, message in (
        (
            {"model": "b", "limit": None},
            r'run has a run with model = "a", not "b": give another --out, or remove it$',
        ),
        ({"model": "a", "limit": math.inf}, 'limit = null, not "inf"'),
        ({"model": "a", "limit": None, "seed": 0}, "seed = null, not 0"),
    ):
        with pytest.raises(ValueError, match=message), RunFolder(folder, identity):
            pass
        assert names(folder) == ["run.json"]
    for note in ("[1]", "", "[" * 100_000):
        (folder / "run.json").write_text(note)
        with (
            pytest.raises(ValueError, match=r"run\.json: not the note of a run"),
            RunFolder(folder, {}),
        ):
            pass


def test_lines_of_nobody_are_not_taken_over(tmp_path):
    for name in ("rows.jsonl", "rows.1.jsonl"):
        (tmp_path / name).touch()
        with (
            pytest.raises(
                ValueError, match=r"has a rows\.jsonl and no run\.json: give another --out"
            ),
            RunFolder(tmp_path, {"a": 1}, lines=("rows.jsonl",)),
        ):
            pass
        (tmp_path / name).unlink()


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path):
    """So that the option that was wrong can be corrected; what has begun keeps its identity."""
    with pytest.raises(KeyError), RunFolder(tmp_path / "new", {"horizon": 99}):
        raise KeyError
    assert names(tmp_path) == []
    with pytest.raises(TypeError), RunFolder(tmp_path, {"horizon": 9}) as run:
        run.lines("rows.jsonl", int).append(1) + 1
    assert names(tmp_path) == ["rows.jsonl", "run.json"]
    with pytest.raises(KeyError), RunFolder(tmp_path, {"horizon": 9}):
        raise KeyError
    assert names(tmp_path) == ["rows.jsonl", "run.json"]


HOLD = """
import sys
from theory.storage.runs import RunFolder
with RunFolder(sys.argv[1], {"a": 1}):
    print("in", flush=True)
    input()
"""


def test_two_at_once_and_a_killed_one(tmp_path):
    """The second is refused, whoever it is; the lock of a killed process is nobody's."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "in\n"
    for identity in ({"a": 1}, {"a": 2}, None):
        with (
            pytest.raises(
                ValueError,
                match=r": another run is writing there; wait for it, or give another --out$",
            ),
            RunFolder(tmp_path, identity),
        ):
            pass
    holder.kill()
    holder.communicate()
    assert names(tmp_path) == ["run.json", "run.lock"]
    with (
        RunFolder(tmp_path, {"a": 1}),
        pytest.raises(ValueError, match="another run"),
        RunFolder(tmp_path),
    ):
        pass
    assert names(tmp_path) == ["run.json"]


# --- Lines ----------------------------------------------------------------------------------------


def test_lines_are_whole_or_cut(tmp_path):
    with RunFolder(tmp_path) as run:
        lines = run.lines("rows.jsonl", lambda row: row["n"])
        lines.append({"n": 0}, {"n": 1, "x": np.inf})
        lines.append({"n": 2})
        assert list(lines) == [0, 1, 2]
    text = (tmp_path / "rows.jsonl").read_bytes()
    assert text == b'{"n": 0}\n{"n": 1, "x": "inf"}\n{"n": 2}\n'
    for end in range(len(text)):
        (tmp_path / "rows.jsonl").write_bytes(text[:end])
        whole = text[:end].count(b"\n")
        assert list(read_lines(tmp_path / "rows.jsonl", lambda row: row["n"])) == list(range(whole))
        with RunFolder(tmp_path) as run:
            lines = run.lines("rows.jsonl", lambda row: row["n"])
            lines.append({"n": 9})
            assert list(lines) == [*range(whole), 9]
            lines.keep(lambda n: n != 9)
            assert (tmp_path / "rows.jsonl").read_bytes() == b"".join(
                text.splitlines(keepends=True)[:whole]
            )


@pytest.mark.parametrize(
    "bad", ["", "no", "[]", "{}", '{"n": "x"}', "\0" * 8, "[" * 100_000, "\udcff"]
)
def test_a_damaged_line_is_named(tmp_path, bad):
    (tmp_path / "rows.jsonl").write_bytes(
        b'{"n": 0}\n' + bad.encode(errors="surrogateescape") + b'\n{"n": 1}\n'
    )
    with (
        pytest.raises(
            ValueError, match=r"rows\.jsonl:2: not a line of a run .*: give another --out"
        ),
        RunFolder(tmp_path) as run,
    ):
        list(run.lines("rows.jsonl", lambda row: int(row["n"])))


def test_processes_write_beside_one_another(tmp_path):
    waits = []
    for rank in (0, 1, 2):
        processes = SimpleNamespace(rank=rank, first=rank == 0, wait=lambda: waits.append(1))
        with RunFolder(tmp_path, {"a": 1}, processes=processes) as run:
            lines = run.lines("rows.jsonl", int)
            lines.append(rank, rank + 10)
            assert (tmp_path / "run.lock").exists() == (rank == 0)
    assert len(waits) == 9
    assert names(tmp_path) == ["rows.1.jsonl", "rows.2.jsonl", "rows.jsonl", "run.json"]
    with RunFolder(tmp_path, {"a": 1}) as run:
        lines = run.lines("rows.jsonl", int)
        assert sorted(lines) == [0, 1, 2, 10, 11, 12]
        lines.merge([12, 11, 10, 2, 1, 0])
    assert names(tmp_path) == ["rows.jsonl", "run.json"]
    assert (tmp_path / "rows.jsonl").read_bytes() == b"12\n11\n10\n2\n1\n0\n"
