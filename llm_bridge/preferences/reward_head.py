"""A Bradley–Terry reward on features of a frozen model: exact fit, and how well it is calibrated.

The reward of a response is ``θ·φ``, with `φ` the last hidden state of the model that reads prompt
and response. On pairs, the loss is the mean of ``−log σ(θ·(φ(chosen) − φ(rejected)))`` plus
``λ|θ|²/2`` in standardised features: strictly convex, so its minimum is found to rounding error
and depends on no seed. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from llm_bridge.preferences.accuracy import summary
from llm_bridge.preferences.intervals import mean_intervals
from llm_bridge.preferences.pairs import Comparison, Key
from theory.arrays.memory import usable_memory
from theory.storage.files import read_arrays, replacing

__all__ = [
    "PENALTIES",
    "Pairs",
    "RewardHead",
    "calibration",
    "fit_head",
    "held_out",
    "split",
    "unit_of",
]

Array: TypeAlias = NDArray[Any]

PENALTIES = tuple(10.0**k for k in range(-4, 5))
"""Values of `λ` that cross-validation chooses from."""

POLISH = 4
"""Newton steps after the descent."""

CONVERGED = 1e-9
"""Largest entry of the gradient at the minimum."""

WRITER = "endorm train-reward"


@dataclass(frozen=True, eq=False)
class RewardHead:
    """A linear reward on the last hidden state of a model.

    Attributes:
        weights: ``(width,)`` `θ`; a constant would cancel in every comparison.
        model: fingerprint of the model that gives the features.

    """

    weights: Array
    model: str

    def rewards(self, features: Array) -> Array:
        """Return the reward ``(n,)`` of each row of features ``(n, width)``.

        Example:
            >>> RewardHead(np.array([1.0, 2.0]), "").rewards(np.ones((1, 2)))
            array([3.])

        """
        return np.asarray(features, dtype=float) @ self.weights

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file; it appears whole or not at all."""
        with replacing(path) as file:
            np.savez(file, weights=self.weights, model=np.array(self.model))

    @classmethod
    def load(cls, path: str | Path) -> RewardHead:
        """Read what `save` wrote.

        Raises:
            OSError, ValueError: there is no such file, or another.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp(), "head.npz")
            >>> RewardHead(np.ones(2), "gpt2").save(path)
            >>> RewardHead.load(path).weights
            array([1., 1.])

        """
        found = read_arrays(path, WRITER, "weights|model", usable_memory())
        if found.keys() != {"weights", "model"} or found["weights"].ndim != 1:
            raise ValueError(f"{path}: no reward head; give one written by {WRITER}")
        return cls(np.asarray(found["weights"], dtype=float), str(found["model"]))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of responses of comparisons, as differences of features.

    Attributes:
        differences: ``(n, width)`` chosen minus rejected.
        weights: ``(n,)`` sum to 1; the pairs of a comparison share its weight.
        units: ``(n,)`` number of the prompt of each.

    """

    differences: Array
    weights: Array
    units: Array

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], features: Mapping[Key, Array]) -> Pairs:
        """Take all pairs of chosen with rejected responses.

        Example:
            >>> row = Comparison("s/0", "2 + 2?", ("4",), ("5", "6"), "s")
            >>> features = {key: np.array([float(text)]) for key, text in row.responses()}
            >>> Pairs.of([row], features).differences.ravel().tolist()
            [-1.0, -2.0]

        """
        rows = []
        weights = []
        units = []
        for comparison in comparisons:
            n = len(comparison.chosen)
            found = np.array([features[key] for key, _ in comparison.responses()], dtype=float)
            table = (found[:n, None] - found[None, n:]).reshape(-1, found.shape[1])
            rows.append(table)
            weights += [1 / (len(table) * len(comparisons))] * len(table)
            units += [unit_of(comparison)] * len(table)
        numbers = np.unique(units, return_inverse=True)[1]
        return cls(np.concatenate(rows), np.array(weights), numbers)


def unit_of(comparison: Comparison) -> str:
    """Return what comparisons share that are not independent: their group, or their prompt.

    Example:
        >>> unit_of(Comparison("s/0", "2 + 2?", ("4",), ("5",), "s"))
        '"2 + 2?"'

    """
    return comparison.group or json.dumps(comparison.prompt, sort_keys=True)


def split(
    comparisons: Sequence[Comparison], share: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """Split comparisons into training and held-out ones; those of one prompt stay together.

    A prompt's place depends on its text and the seed alone, not on the other rows.

    Raises:
        ValueError: one of the two would be empty.

    Example:
        >>> rows = [Comparison(f"s/{n}", f"{n}?", ("a",), ("b",), "s") for n in range(10)]
        >>> [len(part) for part in split(rows, 0.5, seed=0)]
        [1, 9]

    """
    sides: tuple[list[Comparison], list[Comparison]] = [], []
    for comparison in comparisons:
        text = f"{seed} {unit_of(comparison)}".encode(errors="replace")
        place = int.from_bytes(hashlib.sha256(text).digest()[:8]) / 2**64
        sides[place >= share].append(comparison)
    for name, part in zip(("training", "held-out"), sides, strict=True):
        if not part:
            raise ValueError(
                f"of {len(comparisons)} comparisons none is {name} data (share={share}): give more "
                "rows"
            )
    return sides


def fit_head(pairs: Pairs, *, folds: int = 5) -> tuple[Array, dict[str, Any]]:
    """Fit `θ` by maximum likelihood with an L2 penalty, chosen by cross-validation over prompts.

    Args:
        pairs: those of the training split.
        folds: number of folds, each of whole prompts.

    Returns:
        `θ` ``(width,)``, and what was chosen: ``penalty``, and the held-out ``log_loss`` of each.

    Raises:
        ValueError: there are fewer prompts than folds.

    Example:
        >>> pairs = Pairs(np.array([[1.0], [2.0], [-1.0]]), np.ones(3) / 3, np.arange(3))
        >>> theta, chosen = fit_head(pairs, folds=3)
        >>> theta.shape, chosen["penalty"] in PENALTIES
        ((1,), True)

    """
    prompts = int(pairs.units.max()) + 1
    if prompts < folds:
        raise ValueError(f"{prompts} training prompts: must be at least folds={folds}")
    scale = np.sqrt(pairs.weights @ pairs.differences**2 / pairs.weights.sum())
    scale = np.where(scale > 0, scale, 1.0)
    # θ lies in the span of the pairs: in its coordinates the problem is as small as it can be
    basis, sizes, turn = np.linalg.svd(pairs.differences / scale, full_matrices=False)
    z = basis * sizes
    fold = pairs.units % folds
    losses = {}
    for penalty in PENALTIES:
        total = 0.0
        for k in range(folds):
            held = fold == k
            theta = _minimum(z[~held], pairs.weights[~held], penalty)
            total -= float(pairs.weights[held] @ log_expit(z[held] @ theta))
        losses[penalty] = total
    best = min(losses, key=lambda penalty: (losses[penalty], -penalty))
    theta = _minimum(z, pairs.weights, best) @ turn / scale
    return theta, {"penalty": best, "log_loss": {f"{p:g}": x for p, x in losses.items()}}


def _minimum(z: Array, weights: Array, penalty: float) -> Array:
    """Return the minimum of the penalised loss, by Newton's method to rounding error."""
    w = weights / weights.sum()

    def loss(theta: Array) -> tuple[float, Array]:
        t = z @ theta
        value = -float(w @ log_expit(t)) + penalty / 2 * float(theta @ theta)
        return value, penalty * theta - z.T @ (w * expit(-t))

    def hessian(theta: Array) -> Array:
        p = expit(z @ theta)
        return np.asarray((z.T * (w * p * (1 - p))) @ z + penalty * np.eye(z.shape[1]))

    start = np.zeros(z.shape[1])
    how = {"jac": True, "hess": hessian, "method": "trust-exact", "options": {"gtol": 1e-6}}
    theta = np.asarray(minimize(loss, start, **how).x)
    # the loss no longer tells steps apart that the gradient still does
    for _ in range(POLISH):
        theta = theta - np.linalg.solve(hessian(theta), loss(theta)[1])
    left = float(np.abs(loss(theta)[1]).max())
    if not left < CONVERGED:
        raise ValueError(f"the fit did not converge (gradient {left:.1g}); give more rows")
    return theta


def calibration(
    margins: Array,
    weights: Array,
    units: Array,
    *,
    bins: int = 10,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Say how well ``P(chosen wins) = σ(margin)`` is calibrated.

    The *confidence* of a pair is ``max(p, 1 − p)``; in each bin of it from 1/2 to 1 the reliable
    answer is right as often as it is confident. Prompts are resampled.

    Args:
        margins: ``(n,)`` reward of the chosen response minus that of the rejected one.
        weights: ``(n,)`` positive.
        units: ``(n,)`` labels of prompts.
        bins: number of bins of equal width.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        confidence: confidence of each interval.

    Returns:
        ``accuracy``, ``log_loss`` (nats; log 2 for a coin) and ``brier`` (1/4 for a coin), each
        with ``value``, ``low`` and ``high``, and ``reliability``: for each bin that is not empty
        ``from``, ``to``, ``pairs``, mean ``confidence`` and ``accuracy`` with its interval.

    Example:
        >>> found = calibration(np.zeros(4), np.ones(4), np.arange(4))
        >>> round(found["log_loss"]["value"], 3), found["brier"]["value"]
        (0.693, 0.25)

    """
    p = expit(margins)
    right = np.where(margins == 0, 0.5, (margins > 0).astype(float))
    values = np.column_stack([right, (1 - p) ** 2, -log_expit(margins)])

    how: dict[str, Any] = {"resamples": resamples, "seed": seed, "confidence": confidence}
    same = np.zeros(len(margins))
    names = ("accuracy", "brier", "log_loss")
    found = mean_intervals(values[:, :2], weights, same, units, **how)
    found += mean_intervals(values[:, 2:], weights, same, units, lowest=None, **how)
    report: dict[str, Any] = dict(zip(names, found, strict=True))
    sure = np.maximum(p, 1 - p)
    where = np.minimum((2 * bins * (sure - 0.5)).astype(int), bins - 1)
    report["reliability"] = [
        {
            "from": 0.5 + k / (2 * bins),
            "to": 0.5 + (k + 1) / (2 * bins),
            "pairs": int(inside.sum()),
            "confidence": float(np.average(sure[inside], weights=weights[inside])),
            "accuracy": mean_intervals(
                right[inside, None], weights[inside], same[inside], units[inside], **how
            )[0],
        }
        for k in range(bins)
        if (inside := where == k).any()
    ]
    return report


def held_out(
    comparisons: Sequence[Comparison], head: RewardHead, features: Mapping[Key, Array], **how: Any
) -> dict[str, Any]:
    """Report calibration on the held-out comparisons, beside accuracies and baselines by length.

    Example:
        >>> rows = [Comparison(f"s/{n}", f"{n}?", ("a",), ("b",), "s") for n in range(3)]
        >>> of = {"chosen": 1.0, "rejected": 0.0}
        >>> features = {key: np.array([of[key[1]]]) for row in rows for key, _ in row.responses()}
        >>> found = held_out(rows, RewardHead(np.array([2.0]), ""), features)
        >>> found["accuracy"]["value"], found["reliability"][0]["pairs"]
        (1.0, 3)

    """
    pairs = Pairs.of(comparisons, features)
    scores = {
        key: float(head.rewards(features[key][None])[0])
        for comparison in comparisons
        for key, _ in comparison.responses()
    }
    found = calibration(pairs.differences @ head.weights, pairs.weights, pairs.units, **how)
    how.pop("bins", None)
    return found | {"pairwise": summary(comparisons, scores, **how)}
