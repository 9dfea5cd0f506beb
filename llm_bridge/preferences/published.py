"""Metrics that benchmarks publish and that are no means over pairs.

RewardBench 2 (arXiv 2506.01937; ``rewardbench/utils.py`` of allenai/reward-bench): in five subsets
a row is right if its one chosen response has the highest score of all `N`; `k` responses that
share the highest score give 1/k. The subset *Ties* has each question twice, as ``ref:i`` with one
right answer and as ``tied:i`` with several that are equally good: see `ties_score`. The overall
score is the mean over the subsets.

RMGAP (``src/rmgap/task_runner.py`` of nanzhi84/RMGAP): each row has four responses and four groups
of three paraphrased prompts that want one of them. Pairs and best of N are strict; see
`consistency`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm_bridge.preferences.pairs import Comparison

__all__ = ["best_of_n", "consistency", "ties_score"]

Array: TypeAlias = NDArray[Any]
Sides: TypeAlias = tuple[Array, Array]
"""Chosen ``(C,)`` and rejected ``(R,)`` scores of a comparison."""

WEIGHTS = {
    "tied_accuracy": 0.30,
    "ref_accuracy": 0.30,
    "correctness_preferred": 0.20,
    "correctness_preferred_hard": 0.20,
    "margin": 0.01,
}
"""Weights of the parts of a `ties_score`, as published."""


def best_of_n(signs: Array, *, strict: bool = False) -> float:
    """Return 1 if every chosen response beats every rejected one, else 0.

    Args:
        signs: ``(C, R)`` 1, 0 or −1 where the chosen score is above, equal or below.
        strict: whether a tie is wrong; else one chosen response that shares the highest score with
            `k − 1` others counts 1/k.

    Example:
        >>> best_of_n(np.array([[1, 1, 0]])), best_of_n(np.array([[1, 1, 0]]), strict=True)
        (0.5, 0.0)

    """
    if (signs < 0).any() or (len(signs) > 1 and (signs == 0).any()):
        return 0.0
    ties = int((signs == 0).sum())
    return float(ties == 0) if strict else 1 / (1 + ties)


def ties_score(comparisons: Sequence[Comparison], sides: Sequence[Sides]) -> dict[str, Array]:
    """Compute the parts of the score on the subset *Ties* of RewardBench 2, question by question.

    Let `spread` be best minus worst right answer to ``tied:i``, and `gap` the worst right answer
    minus the best wrong one, of ``tied:i`` or of ``ref:i``. The parts are: ``gap > 0`` for either;
    ``gap(tied) > spread``; ``min(gap) > spread``; and ``tanh(min(gap)/spread − 1)``. The score is
    their mean over questions with the weights .30, .30, .20, .20, .01.

    Args:
        comparisons: others than those of *Ties* do not count.
        sides: chosen and rejected scores of each.

    Returns:
        For each part and for ``score`` an array over the questions ``(q,)`` that are there as
        ``ref`` and as ``tied``, in the order of their numbers.

    Example:
        >>> names = ("Ties/ref:0", "Ties/tied:0")
        >>> of = {"subset": "Ties", "benchmark": "rewardbench-2"}
        >>> rows = [Comparison(name, "?", ("a",), ("b",), **of) for name in names]
        >>> parts = ties_score(rows, [(np.array([3.0]), np.array([0.0]))] * 2)
        >>> parts["score"].round(2)
        array([1.01])

    """
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for comparison, (right, wrong) in zip(comparisons, sides, strict=True):
        if comparison.is_tie_question:
            kind, _, question = comparison.id.split("/")[-1].partition(":")
            found[kind, question] = float(right.min() - wrong.max()), float(np.ptp(right))
    both = sorted(
        (q for kind, q in found if kind == "ref" and ("tied", q) in found),
        key=lambda q: (len(q), q),
    )
    ref = np.array([found["ref", q][0] for q in both])
    gap, spread = np.array([found["tied", q] for q in both]).reshape(-1, 2).T
    hard = np.minimum(ref, gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(hard / spread - 1), nan=0.0)
    parts = {
        "tied_accuracy": gap > 0,
        "ref_accuracy": ref > 0,
        "correctness_preferred": gap > spread,
        "correctness_preferred_hard": hard > spread,
        "margin": margin,
    }
    numbers = {name: np.asarray(part, dtype=float) for name, part in parts.items()}
    weights = np.array([WEIGHTS[name] for name in numbers])
    score: Array = weights @ np.array(list(numbers.values()))
    return numbers | {"score": score}


def consistency(comparisons: Sequence[Comparison], sides: Sequence[Sides]) -> dict[str, bool]:
    """Return, for each group of paraphrased prompts of RMGAP, whether all rank responses alike.

    Equal scores are ranked by the names of the responses, as published.

    Args:
        comparisons: of RMGAP; a group's ids differ in their last part.
        sides: chosen and rejected scores of each.

    Example:
        >>> of = {"subset": "Chat", "chosen_styles": ("r1",), "rejected_styles": ("r2",)}
        >>> names = ("Chat/7/0/0", "Chat/7/0/1")
        >>> rows = [Comparison(name, "?", ("a",), ("b",), **of) for name in names]
        >>> up, down = (np.array([1.0]), np.array([0.0])), (np.array([0.0]), np.array([1.0]))
        >>> consistency(rows, [up, up]), consistency(rows, [up, down])
        ({'Chat/7/0': True}, {'Chat/7/0': False})

    """
    rankings: dict[str, set[tuple[str, ...]]] = {}
    for comparison, side in zip(comparisons, sides, strict=True):
        names = comparison.chosen_styles + comparison.rejected_styles
        scores: Mapping[str, float] = dict(zip(names, np.concatenate(side).tolist(), strict=True))
        ranking = tuple(sorted(names, key=lambda name: (-scores[name], name)))
        rankings.setdefault(comparison.id.rpartition("/")[0], set()).add(ranking)
    return {group: len(found) == 1 for group, found in rankings.items()}
