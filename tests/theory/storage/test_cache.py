"""A folder that is made once: whole or not there, whoever needs it and whatever happens to it."""

import multiprocessing
import os

import pytest
from kept_folders import make, take

from theory.storage.cache import made_once
from theory.storage.files import digest


def not_again(folder):
    pytest.fail("made again")


@pytest.fixture
def kept(tmp_path):
    return made_once(tmp_path / "parent" / "kept", make)


def test_made_once(kept):
    assert made_once(kept, not_again) == kept
    assert (kept / "deep" / "numbers").read_bytes() == b"1 2 3"


def flip(path):
    path.write_bytes(b"1 2 4")  # as long, and as old if the clock is coarse


def extend(path):
    path.with_name("another").touch()


def cut(path):
    path.write_bytes(b"1 2")


def forget(path):
    path.parents[1].joinpath("digests.json").unlink()


def spoil(path):
    path.parents[1].joinpath("digests.json").write_text("{")


@pytest.mark.parametrize("damage", [flip, cut, extend, os.unlink, forget, spoil])
def test_a_damaged_folder_is_made_anew(kept, damage):
    damage(kept / "deep" / "numbers")
    made_once(kept, make)
    assert (kept / "deep" / "numbers").read_bytes() == b"1 2 3"
    made_once(kept, not_again)


def test_what_fails_leaves_nothing(tmp_path):
    def fail(folder):
        make(folder)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        made_once(tmp_path / "kept", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.lock"]


def test_what_a_killed_process_left_is_not_taken(tmp_path):
    partial = tmp_path / "kept.partial"
    partial.mkdir()
    (partial / "text").write_text("half a te")
    kept = made_once(tmp_path / "kept", make)
    assert sorted(path.name for path in kept.iterdir()) == ["deep", "digests.json", "text"]
    assert not partial.exists()


def test_of_several_processes_one_makes_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=take, args=(tmp_path / "kept", start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "makers").read_text() == "one\n"
    assert made_once(tmp_path / "kept", not_again)


def test_digest_is_of_the_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
