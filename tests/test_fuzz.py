"""Damaged files are read or refused with one line; ``make fuzz`` gives a hundred thousand."""

import random

import fuzz
import numpy as np
import pytest

READERS = {reader.name: reader for reader in fuzz.readers()}


@pytest.mark.parametrize("name", READERS)
def test_right_files_are_read(name, tmp_path):
    for number, data in enumerate(READERS[name].corpus):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(data)
        READERS[name].read(folder / name)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_with_one_line(name):
    _, findings = fuzz.fuzz([name], 40 * READERS[name].weight, report=lambda line: None)
    assert findings == []


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".json", ".jsonl"))])
def test_json_that_is_nested_too_deeply_is_one_line(name, tmp_path):
    reader, deep = READERS[name], b"[" * 100_000
    (tmp_path / name).write_bytes(reader.corpus[0])
    reader.read(tmp_path / name)  # loads what is needed: a damaged file has seconds
    for number, data in enumerate(reader.corpus):
        before, colon, after = data.rpartition(b":")
        for k, damaged in enumerate([deep, data.replace(b'"', deep + b'"', 1),
                                     before + colon + deep + after,
                                     before + colon + deep + b"]" * 100_000 + after]):  # fmt: skip
            folder = tmp_path / f"{number}-{k}"
            folder.mkdir()
            assert fuzz.finding(reader, damaged, folder) is None


def test_what_is_wrong_is_found(tmp_path):
    def of(read):
        return fuzz.finding(fuzz.Reader("a.txt", [b"a"], read), b"a", tmp_path)

    def fails(error):
        def read(path):
            raise error

        return read

    assert of(lambda path: path.read_text()) is None
    assert of(fails(ValueError("a.txt: no number"))) is None
    assert of(fails(KeyError("rule"))) == "KeyError: 'rule'"
    assert of(fails(ValueError(""))) == "no message: ''"
    assert of(fails(SystemExit(3))) == "SystemExit: 3"
    assert of(lambda path: np.array([1.0]) / 0).startswith("RuntimeWarning: divide by zero")


def test_a_process_that_ends_is_a_finding_and_the_others_go_on():
    import os

    def read(path):
        if path.read_bytes() == b"":
            os.kill(os.getpid(), 11)

    reader = fuzz.Reader("a.txt", [b"ab"], read)
    empty = [k for k in range(200) if not reader.damaged(random.Random(f"0 a.txt {k}"))]
    assert empty
    done, found = fuzz.batch(reader, 0, 0, 200)
    assert done == empty[0] + 1
    assert found == [(empty[0], b"", "ended by signal 11")]


def test_a_mutation_is_the_same_for_a_seed_and_changes_something():
    for reader in READERS.values():
        made = [reader.damaged(random.Random(f"0 {k}")) for k in range(20)]
        assert made == [reader.damaged(random.Random(f"0 {k}")) for k in range(20)]
        assert sum(data not in reader.corpus for data in made) >= 12
