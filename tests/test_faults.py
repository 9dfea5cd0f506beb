"""Commands that are interrupted go on and end with the files of an undisturbed run.

``make faults`` disturbs every command at many random moments; here it is two of them, and what the
campaign itself would notice.
"""

import os
import random

import faults
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    every = faults.commands(folder)

    def of(name):
        scratch = folder / f"of {name}"
        scratch.mkdir(exist_ok=True)
        return faults.Subject(name, every[name], scratch)

    return of


@pytest.mark.long
@pytest.mark.parametrize("name", ["solve", "score", "ppo"])
def test_interrupted_for_real(subjects, name):
    subject = subjects(name)
    assert subject.whole
    for kind in faults.KINDS:
        _, wrong = faults.disturbed(subject, kind, random.Random(f"{name} {kind}"))
        assert wrong is None, kind


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(subjects):
    subject = subjects("solve")
    outcome, wrong = faults.disturbed(subject, "full disk", random.Random(1))
    assert (outcome, wrong) == ("2", None)


@pytest.mark.slow
def test_where_nothing_can_be_written_is_one_line(subjects):
    outcome, wrong = faults.disturbed(subjects("solve"), "no place", random.Random(1))
    assert (outcome, wrong) == ("2", None)


@pytest.mark.slow
def test_what_is_wrong_is_found(subjects, tmp_path):
    subject = subjects("solve")
    out = tmp_path / "out"
    assert subject.again(out) is None
    (out / "solution.json").write_bytes(b"{}")
    assert "files that differ" in subject.differs(out)
    (out / "report.html.partial").write_bytes(b"")
    (out / "solution.json").write_bytes(subject.whole["solution.json"])
    assert "left" in subject.differs(out)
    assert faults.bad_end(70, "endorm solve: a fault")
    assert faults.bad_end(1, "endorm solve: violated")
    assert faults.bad_end(130, "endorm solve: stopped", "kill")
    assert faults.bad_end(130, "endorm solve: stopped", "int") is None
    assert faults.bad_end(2, "")
    assert faults.bad_end(2, "endorm: one\nendorm: two")
    assert faults.bad_end(2, "Traceback (most recent call last):\nKeyError: 3")
    assert faults.bad_end(2, "no line of ours")
    assert faults.bad_end(2, "endorm solve: out: cannot be written") is None


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    from theory.storage.files import write_json

    done = []
    sync, replace = os.fsync, os.replace

    def synced(number):
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file"
        done.append((kind, os.fstat(number).st_size if kind == "file" else None))
        sync(number)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda self, to: (done.append("name"), replace(self, to))
    )
    write_json(tmp_path / "a.json", {"a": 1})
    size = (tmp_path / "a.json").stat().st_size
    assert done == [("file", size), "name", ("folder", None)]
