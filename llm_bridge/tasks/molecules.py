"""Judge SMILES texts with RDKit: which of them are molecules, how varied, and how drug-like.

A model of molecules writes from the empty prompt (its beginning-of-sequence token). The verifier is
exact: RDKit reads the text as a molecule or does not. RDKit is the extra ``molecules``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from llm_bridge.tasks.generated import Task

__all__ = [
    "Molecule",
    "canonical_smiles",
    "molecule_metrics",
    "molecules",
    "read_molecule",
]

INSTALL = "pip install 'endorm[molecules]'"

RADIUS = 2
"""Bonds around an atom that a Morgan fingerprint describes (that of ECFP4)."""

BITS = 2048
"""Length of a fingerprint."""


class Molecule(NamedTuple):
    """What is measured of a valid molecule.

    Attributes:
        smiles: its canonical SMILES: two texts of one molecule have the same.
        qed: quantitative estimate of drug-likeness (Bickerton et al. 2012), from 0 to 1.
        heavy_atoms: number of atoms that are not hydrogen.
        fingerprint: its Morgan fingerprint, a bit vector of RDKit.

    """

    smiles: str
    qed: float
    heavy_atoms: int
    fingerprint: Any


def canonical_smiles(text: str) -> str | None:
    """Return the canonical SMILES of a molecule; `None` for a text that is none.

    A text is a molecule if RDKit parses and sanitises it (valences, rings, aromaticity) and it has
    an atom. White space and control characters are refused: RDKit takes what follows the one for a
    name, and does not see a zero byte at the end.

    Raises:
        ValueError: RDKit is not installed.

    Example:
        >>> canonical_smiles("OCC"), canonical_smiles("C1CC"), canonical_smiles("")
        ('CCO', None, None)

    """
    molecule = read_molecule(text)
    return None if molecule is None else molecule.smiles


def read_molecule(text: str) -> Molecule | None:
    """Read a SMILES text and measure the molecule; `None` if it is none, see `canonical_smiles`.

    Raises:
        ValueError: RDKit is not installed.

    Example:
        >>> found = read_molecule("CC(=O)Oc1ccccc1C(=O)O")  # aspirin
        >>> found.heavy_atoms, round(found.qed, 2)
        (13, 0.55)

    """
    kit = _rdkit()
    if " " in text or not text.isprintable():
        return None
    with kit.BlockLogs():  # it prints a line for every text that it cannot read
        parsed = kit.MolFromSmiles(text)
    if parsed is None or not parsed.GetNumAtoms():
        return None
    return _measured(kit.MolToSmiles(parsed))


@lru_cache(maxsize=2**15)
def _measured(smiles: str) -> Molecule:
    """Measure a molecule by its canonical SMILES, so that equal molecules have equal numbers."""
    kit = _rdkit()
    with kit.BlockLogs():
        parsed = kit.MolFromSmiles(smiles)
    return Molecule(
        smiles,
        float(kit.qed(parsed)),
        parsed.GetNumHeavyAtoms(),
        kit.fingerprints.GetFingerprint(parsed),
    )


def molecule_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Measure a set of sampled texts as molecules.

    Args:
        texts: `n` texts, independent samples of one model.

    Returns:
        ``validity``, the share of texts that are molecules, and of these `m`: ``uniqueness``, the
        share of different ones (number of canonical SMILES over `m`; it falls with `n`, so it is
        compared at equal `n`); ``diversity``, 1 minus the Tanimoto similarity of Morgan
        fingerprints (radius 2, 2048 bits), averaged over all pairs of the `m`, equal ones included;
        ``qed`` and ``heavy_atoms``, averages. All but the first are NaN where ``m = 0``, and
        ``diversity`` also where ``m = 1``.

    Raises:
        ValueError: there are no texts, or RDKit is not installed.

    Example:
        >>> found = molecule_metrics(["CCO", "OCC", "C", "C1CC"])
        >>> found["validity"], round(found["uniqueness"], 2), round(found["diversity"], 2)
        (0.75, 0.67, 0.67)

    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts={texts!r}: must be a sequence of at least one text")
    read = [read_molecule(text) for text in texts]
    valid = [molecule for molecule in read if molecule is not None]
    m = len(valid)
    found = dict.fromkeys(("uniqueness", "diversity", "qed", "heavy_atoms"), math.nan)
    if m:
        found["uniqueness"] = len({molecule.smiles for molecule in valid}) / m
        found["diversity"] = _diversity(valid)
        found["qed"] = float(np.mean([molecule.qed for molecule in valid]))
        found["heavy_atoms"] = float(np.mean([molecule.heavy_atoms for molecule in valid]))
    return {"validity": m / len(texts)} | found


def _diversity(valid: Sequence[Molecule]) -> float:
    """Return ``1 − T`` averaged over the pairs of different samples; NaN where there is no pair."""
    m = len(valid)
    if m < 2:
        return math.nan
    # pairs of one molecule have T = 1 and add nothing, so each different molecule is compared once
    counts = Counter(molecule.smiles for molecule in valid)
    fingerprints = {molecule.smiles: molecule.fingerprint for molecule in valid}
    names = list(counts)
    weights = np.array([counts[name] for name in names], dtype=float)
    prints = [fingerprints[name] for name in names]
    total = 0.0
    for i in range(1, len(names)):
        similar = np.array(_rdkit().BulkTanimotoSimilarity(prints[i], prints[:i]))
        total += weights[i] * float(weights[:i] @ (1 - similar))
    return float(total / (m * (m - 1) / 2))


def molecules(n: int = 1) -> Task:
    """Return the task of writing a molecule: `n` times the empty prompt, to which any one is right.

    Args:
        n: number of prompts. They are all the same: more of them are more samples.

    Raises:
        ValueError: RDKit is not installed.

    Example:
        >>> task = molecules()
        >>> task.prompts, task.correct([["CCO", "c1ccccc1", "C1CC"]]).tolist()
        (('',), [[True, True, False]])

    """
    _rdkit()
    methane = "C"  # stands for all of them
    return Task(
        "molecules",
        ("",) * n,
        (methane,) * n,
        canonical_smiles,
        lambda _, given: bool(given),
        molecule_metrics,
    )


@cache
def _rdkit() -> Any:
    """Return the functions of RDKit that are used, or raise with the extra that has them."""
    try:
        from rdkit import Chem, DataStructs, rdBase
        from rdkit.Chem import QED, rdFingerprintGenerator
    except ImportError:
        raise ValueError(
            f"molecules are judged by RDKit, which is not installed: {INSTALL}"
        ) from None
    return _Kit(
        Chem.MolFromSmiles,
        Chem.MolToSmiles,
        QED.qed,
        rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS),
        DataStructs.BulkTanimotoSimilarity,
        rdBase.BlockLogs,
    )


class _Kit(NamedTuple):
    """The functions of RDKit that are used."""

    MolFromSmiles: Any
    MolToSmiles: Any
    qed: Any
    fingerprints: Any
    BulkTanimotoSimilarity: Any
    BlockLogs: Any
