"""Coq accepts the theorems from the four axioms of its real numbers, and our doubles on instances.

`make proofs` builds the theorems, and then runs this.
"""

import re

import certified
import certified_discounted
import pytest
import theorems

pytestmark = [
    pytest.mark.coq,
    pytest.mark.skipif(not theorems.has_coq(), reason=theorems.INSTALL),
]


@pytest.fixture(scope="module")
def built():
    """The theorems, and what evaluates their definitions."""
    missing = [file.name for file in theorems.files() if not file.with_suffix(".vo").exists()]
    assert not missing, f"run `make proofs`, which builds {missing}"
    for name in ("Evaluate.v", "EvaluateDiscounted.v"):
        done = theorems.run_coq(name, cwd=theorems.FORMAL / "instances")
        assert done.returncode == 0, done.stderr


def assumptions(folder, text):
    """The names of what Coq prints as assumed, at the end of a file."""
    (folder / "Axioms.v").write_text(text)
    done = theorems.run_coq(str(folder / "Axioms.v"))
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^(\S+)(?= :|$)", done.stdout.split("Axioms:\n")[1], flags=re.M))


def test_theorems_rest_on_four_axioms(built, tmp_path):
    assert len(list(theorems.theorems())) >= 47
    assert assumptions(tmp_path, theorems.axioms_file()) == theorems.AXIOMS


def test_an_axiom_of_ones_own_is_seen(built, tmp_path):
    """The four are all that pass: a fifth, beside a theorem of ours, is named."""
    text = theorems.axioms_file().replace(
        "Definition every := (",
        "Axiom fifth : False.\nTheorem wrong : 1 = 2.\nProof. destruct fifth. Qed.\n"
        "Definition every := (wrong, ",
    )
    assert assumptions(tmp_path, text) == {*theorems.AXIOMS, "fifth"}


@pytest.mark.parametrize("seed", theorems.SEEDS)
def test_both_sides_are_our_doubles(built, seed, tmp_path):
    instance, logits = certified.random_instance(seed)
    found = list(certified.claims(instance))
    assert {claim.row for claim in found} == set(certified.VARIABLES)
    (tmp_path / "Instance.v").write_text(certified.instance_file(instance, logits, found))
    done = theorems.run_coq(str(tmp_path / "Instance.v"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", theorems.SEEDS)
def test_both_sides_are_our_doubles_with_a_discount(built, seed, tmp_path):
    (tmp_path / "Instance.v").write_text(certified_discounted.instance_file(seed))
    done = theorems.run_coq(str(tmp_path / "Instance.v"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_error_of_1e_11_is_rejected(built, side, tmp_path):
    instance, logits = certified.random_instance(theorems.SEEDS[0])
    found = {claim.row: claim for claim in certified.claims(instance)}["clone-tv"]
    for error, accepted in ((0.0, True), (1e-11, False)):
        planted = found._replace(**{side: getattr(found, side) + error})
        (tmp_path / "Instance.v").write_text(certified.instance_file(instance, logits, [planted]))
        done = theorems.run_coq(str(tmp_path / "Instance.v"))
        assert (done.returncode == 0) is accepted, done.stderr
    assert "Numerical evaluation failed" in done.stderr


def test_an_error_of_1e_11_is_rejected_with_a_discount(built, tmp_path):
    for error, accepted in ((0.0, True), (1e-11, False)):
        text = certified_discounted.instance_file(theorems.SEEDS[0], ("kl-ball",), error)
        (tmp_path / "Instance.v").write_text(text)
        done = theorems.run_coq(str(tmp_path / "Instance.v"))
        assert (done.returncode == 0) is accepted, done.stderr
    assert "Numerical evaluation failed" in done.stderr
