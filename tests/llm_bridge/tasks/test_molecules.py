"""Molecules: RDKit's verdict on known texts, and metrics of sets against numbers by hand."""

import itertools
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.check.improvement import SampledTarget
from llm_bridge.commands.main import main
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.run import read_metrics
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.tasks import molecules as module
from llm_bridge.tasks.molecules import (
    canonical_smiles,
    molecule_metrics,
    molecules,
    read_molecule,
)
from llm_bridge.tasks.sampling import sample_texts

Chem = pytest.importorskip(
    "rdkit.Chem", reason="RDKit is not installed: pip install 'endorm[molecules]'"
)

GOLDEN = {  # heavy atoms as the formula has them; QED as published with RDKit's implementation
    "CC(=O)Oc1ccccc1C(=O)O": (13, 0.5501217966938848),  # aspirin, C9H8O4
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C": (14, None),  # caffeine, C8H10N4O2
    "c1ccccc1": (6, None),
    "[NH4+]": (1, None),
}
INVALID = {
    "": "no atom",
    "C1CC": "a ring that is not closed",
    "C(C": "a branch that is not closed",
    "C(C)(C)(C)(C)C": "a carbon with five bonds",
    "c1cccc1": "five aromatic carbons, which no double bonds can be given to",
    "n1cccc1": "a pyrrole without its hydrogen",
    "<PAD>": "a token that is no atom",
    "C X": "a name after white space",
    "CC\n": "white space",
    "CC\0": "a zero byte at the end, which RDKit does not see",
    "CQ": "a letter that is no element",
}


@pytest.mark.parametrize("text", GOLDEN)
def test_known_molecules(text):
    atoms, qed = GOLDEN[text]
    found = read_molecule(text)
    assert found.heavy_atoms == atoms
    if qed is not None:
        assert found.qed == pytest.approx(qed, abs=1e-9)
    assert canonical_smiles(found.smiles) == found.smiles


@pytest.mark.parametrize("text", INVALID, ids=list(INVALID.values()))
def test_what_is_no_molecule(text, capfd):
    assert canonical_smiles(text) is None
    assert read_molecule(text) is None
    assert capfd.readouterr().err == ""  # RDKit's complaints are the result, not noise


def test_two_texts_of_one_molecule_are_one():
    assert canonical_smiles("OCC") == canonical_smiles("C(O)C") == "CCO"
    assert canonical_smiles("c1ccccc1") == canonical_smiles("C1=CC=CC=C1")
    # mirror images are two
    left, right = "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"
    assert canonical_smiles(left) != canonical_smiles(right)


def bits(smiles):
    """The set bits of ECFP4, by the older of RDKit's two interfaces."""
    from rdkit import rdBase
    from rdkit.Chem import AllChem

    with rdBase.BlockLogs():  # it warns of its age
        found = AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(smiles), 2, nBits=2048)
    return set(found.GetOnBits())


def tanimoto(one, other):
    return len(bits(one) & bits(other)) / len(bits(one) | bits(other))


def test_metrics_of_a_small_set_by_hand():
    """ECFP4 of ethanol and of ethylamine have six bits each: three atoms, and around each of them
    what is one bond away. Shared are CH3, CH2, and CH3 beside a carbon: ``T = 3/(6 + 6 − 3)``.
    """
    assert (len(bits("CCO")), len(bits("CCN"))) == (6, 6)
    T = 1 / 3
    found = molecule_metrics(["CCO", "OCC", "CCN", "C1CC", ""])
    assert found["validity"] == 3 / 5
    assert found["uniqueness"] == 2 / 3
    # pairs of the three: ethanol with itself 0, and twice ethanol with ethylamine
    assert found["diversity"] == pytest.approx((0 + 2 * (1 - T)) / 3)
    assert found["heavy_atoms"] == 3
    qeds = [read_molecule(text).qed for text in ("CCO", "CCN")]
    assert found["qed"] == pytest.approx((2 * qeds[0] + qeds[1]) / 3)


POOL = ("CCO", "OCC", "CCN", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "C", "C1CC", "", "CC(")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=12))
def test_metrics_are_those_of_their_definitions(texts):
    valid = [text for text in texts if text and Chem.MolFromSmiles(text) is not None]
    found = molecule_metrics(texts)
    assert found["validity"] == len(valid) / len(texts)
    if not valid:
        assert all(math.isnan(found[name]) for name in found if name != "validity")
        return
    different = {Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in valid}
    assert found["uniqueness"] == len(different) / len(valid)
    atoms = [Chem.MolFromSmiles(text).GetNumAtoms() for text in valid]
    assert found["heavy_atoms"] == pytest.approx(np.mean(atoms))
    pairs = [1 - tanimoto(*pair) for pair in itertools.combinations(valid, 2)]
    if pairs:
        assert found["diversity"] == pytest.approx(np.mean(pairs))
    else:
        assert math.isnan(found["diversity"])


@pytest.mark.parametrize("texts", [[], "CCO", ()])
def test_no_texts_are_refused(texts):
    with pytest.raises(ValueError, match=r"texts=.*: must be a sequence of at least one text"):
        molecule_metrics(texts)


def test_all_the_same_molecule_has_no_diversity():
    found = molecule_metrics(["CCO"] * 10)
    assert (found["validity"], found["uniqueness"], found["diversity"]) == (1, 0.1, 0)


def test_the_task_judges_any_valid_molecule_right():
    task = molecules()
    assert task.correct([[*GOLDEN, *INVALID]]).tolist() == [
        [True] * len(GOLDEN) + [False] * len(INVALID)
    ]


def test_without_rdkit_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    module._rdkit.cache_clear()
    try:
        for use in (molecules, lambda: molecule_metrics(["C"]), lambda: canonical_smiles("")):
            with pytest.raises(ValueError, match="pip install 'endorm\\[molecules\\]'") as error:
                use()
            assert "\n" not in str(error.value)
    finally:
        module._rdkit.cache_clear()


@pytest.mark.slow
def test_a_real_model_writes_molecules(shared_models):
    """200 samples of each were counted when the models were converted: 166 and 180 valid."""
    for name, valid in (("smiles-small", 166), ("smiles-large", 180)):
        lm = ModelSpec(shared_models / name).load()
        found = sample_texts(lm, [""], 74, samples=200)
        metrics = molecule_metrics(found.texts[0])
        # standard deviation of a difference of two shares of 200
        deviation = math.sqrt(2 * valid * (200 - valid) / 200) / 200
        assert abs(metrics["validity"] - valid / 200) < 4 * deviation
        assert metrics["uniqueness"] > 0.97
        assert found.ended.mean() > 0.97


# --- Commands -------------------------------------------------------------------------------------


def test_the_empty_prompt_is_one_beginning_token(shared_models):
    lm = ModelSpec(shared_models / "smiles-small").load()
    assert encode_prompt(lm, "", 74) == [lm.tokenizer.bos_token_id]
    with pytest.raises(ValueError, match="need 75 positions, smiles-small has 74"):
        encode_prompt(lm, "", 75)


@pytest.mark.slow
def test_ppo_trains_on_molecules(shared_models, tmp_path, capsys):
    """What it measures of all samples together is `molecule_metrics`, before training and after."""
    small = str(shared_models / "smiles-small")
    words = ["ppo", "--model", small, "--teacher", str(shared_models / "smiles-large")]
    words += ["--task", "molecules", "--n-prompts", "1", "--prompts-per-step", "1"]
    words += ["--samples", "16", "--minibatch", "8", "--steps", "1"]
    words += ["--eval-prompts", "3", "--eval-samples", "4", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    first, last = read_metrics(tmp_path / "run")
    lm = ModelSpec(small).load()
    config = PPOConfig(max_tokens=74)
    texts = SampledTarget(lm, molecules(3), config, samples=4)._sample(lm).texts
    expected = molecule_metrics([text for row in texts for text in row])
    assert {name: first[f"molecules/{name}"] for name in expected} == pytest.approx(expected)
    assert first["molecules/sampled"] == pytest.approx(expected["validity"])
    assert 0 < last["molecules/validity"] <= 1
    shown = capsys.readouterr().out.splitlines()
    [row] = [line.split() for line in shown if line.startswith("diversity ")]
    assert row[1:] == [f"{r['molecules/diversity']:.3f}" for r in (first, last)]


def test_ppo_without_rdkit_is_refused_in_one_line(shared_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    module._rdkit.cache_clear()
    words = ["ppo", "--model", str(shared_models / "smiles-small"), "--task", "molecules"]
    try:
        assert main([*words, "--out", str(tmp_path / "run")]) == 2
    finally:
        module._rdkit.cache_clear()
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("which is not installed: pip install 'endorm[molecules]'")


@pytest.mark.slow
def test_check_reads_the_empty_prompt(shared_models, tmp_path):
    """The entropy of the first token, from a plain pass of the model on its beginning token."""
    import torch

    small, large = (str(shared_models / f"smiles-{name}") for name in ("small", "large"))
    words = ["check", "--model", small, "--expert", large, "--prompt", "", "--horizon", "1"]
    assert main([*words, "--no-eos", "--out", str(tmp_path / "check")]) == 0
    found = json.loads((tmp_path / "check" / "check.json").read_text())["exact"]
    laws = []
    for path in (large, small):
        lm = ModelSpec(path).load()
        with torch.no_grad():
            logits = lm.model(torch.tensor([[lm.tokenizer.bos_token_id]])).logits[0, -1].double()
        laws.append(torch.log_softmax(logits, dim=-1))
    kl = float((laws[0].exp() * (laws[0] - laws[1])).sum())
    assert found["closeness"]["KL(pi_E||pi_hat)"] == pytest.approx(kl, rel=1e-4)
