"""Every row has a theorem, and what the package says of proofs is what `formal/` has.

Needs no Coq: that the theorems are proved is `make proofs`.
"""

import importlib
from dataclasses import replace

import pytest
import theorems

from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.proved import THEOREMS, WITHOUT_THEOREM, is_proved
from theory.claims.statements import STATEMENTS


def test_every_row_has_a_theorem():
    assert len(THEOREMS) + len(WITHOUT_THEOREM) == len(STATEMENTS) + len(DISCOUNTED_STATEMENTS)
    assert len(STATEMENTS) >= 30
    assert len(DISCOUNTED_STATEMENTS) >= 17
    missing = set(THEOREMS) - set(theorems.rows())
    assert not missing, f"write these theorems in formal/, or say why not in proved.py: {missing}"


def test_a_row_without_a_theorem_has_none_and_says_why():
    named = {theorem.name for theorem in theorems.theorems()}
    assert not named & set(WITHOUT_THEOREM)
    assert all(reason.strip() for reason in WITHOUT_THEOREM.values())
    assert len(WITHOUT_THEOREM) <= 3


def test_a_changed_statement_is_not_proved():
    for statement in (*STATEMENTS, *DISCOUNTED_STATEMENTS):
        assert is_proved(statement)
        assert not is_proved(replace(statement, bound=replace(statement.bound, of=lambda i: 0.0)))


def test_a_theorem_that_is_missing_is_seen(monkeypatch, tmp_path):
    """A file without its theorem, or with it in a comment only."""
    text = (theorems.FORMAL / "Cloning.v").read_text()
    assert "Theorem clone_tv " in text
    for planted in ("Lemma clone_tv ", "(* Theorem clone_tv *) Lemma clone "):
        (tmp_path / "Cloning.v").write_text(text.replace("Theorem clone_tv ", planted))
        monkeypatch.setattr(theorems, "files", lambda: [tmp_path / "Cloning.v"])
        assert "clone_tv" not in theorems.rows()
        assert "clone_hellinger" in theorems.rows()


def test_every_file_is_built():
    listed = [file.name for file in theorems.files()]
    assert sorted(listed) == sorted(file.name for file in theorems.FORMAL.glob("*.v"))
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("file", theorems.files(), ids=lambda file: file.stem)
def test_nothing_is_assumed(file):
    """Not in so many words. What the theorems rest on is printed by Coq, in `make proofs`."""
    words = theorems.without_comments(file.read_text()).replace(".", " ").split()
    assert not set(theorems.UNPROVED) & set(words)


def test_the_page_has_the_table_of_today():
    page = theorems.PAGE.read_text()
    assert page == theorems.page_with_table(page), "run `make docs`"


def test_every_row_is_evaluated_by_coq():
    pytest.importorskip("mpmath")
    for name, rows in (
        ("certified", STATEMENTS),
        ("certified_discounted", DISCOUNTED_STATEMENTS),
    ):
        variables = importlib.import_module(name).VARIABLES
        assert set(variables) == {statement.name for statement in rows}
