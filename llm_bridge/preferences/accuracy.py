"""How often the chosen response scores above the rejected one, and what its length alone would have
told.

A *win* is 1 where the chosen response scores higher, 0 where lower; a tie is 1/2, and 0 on
RM-Bench, as published. A comparison's accuracy is the mean over its pairs, a subset's the mean over
its comparisons.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, ndtri

from llm_bridge.preferences.pairs import RM_BENCH_STYLES, Comparison, Key
from theory.arrays.namespace import require_positive

__all__ = [
    "LengthFit",
    "Scores",
    "aligned",
    "bootstrap",
    "domain_matrix",
    "fit_length",
    "of_pairs",
    "summary",
    "win_table",
]

Array: TypeAlias = NDArray[Any]
Scores: TypeAlias = (
    Mapping[Key, float] | Sequence[tuple[Sequence[float] | Array, Sequence[float] | Array]]
)
"""Numbers by response: by key (`Comparison.responses`), or chosen and rejected ones for each
comparison in turn; or by pair (`of_pairs`)."""

PAIR = "pair"
"""Role, in a key, of a chosen and a rejected response judged together."""

Labels: TypeAlias = Sequence[Any] | Array | None
LEVELS = ("hard", "normal", "easy")


def aligned(
    comparisons: Sequence[Comparison], scores: Scores, name: str = "scores"
) -> list[tuple[Array, Array]]:
    """`scores` as chosen (C,) and rejected (R,) arrays, one pair of them for each comparison.

    Raises ValueError where an id appears twice, a score is missing or NaN, or a shape does not fit.
    """
    _require_different(comparisons)
    if not isinstance(scores, Mapping) and len(scores) != len(comparisons):
        raise ValueError(f"{name} are for {len(scores)} comparisons, not {len(comparisons)}")
    arrays = []
    for n, comparison in enumerate(comparisons):
        keys = [key for key, _ in comparison.responses()]
        sizes = len(comparison.chosen), len(comparison.rejected)
        if isinstance(scores, Mapping):
            missing = [key for key in keys if key not in scores]
            if missing:
                raise ValueError(f"{name} have nothing for {missing[0]}")
            flat = np.array([scores[key] for key in keys], dtype=float)
            chosen, rejected = flat[: sizes[0]], flat[sizes[0] :]
        else:
            chosen, rejected = (np.asarray(side, dtype=float) for side in scores[n])
        if (chosen.shape, rejected.shape) != ((sizes[0],), (sizes[1],)):
            raise ValueError(
                f"{name} of {comparison.id}: shapes {chosen.shape} and {rejected.shape}, not "
                f"{sizes}"
            )
        if np.isnan(chosen).any() or np.isnan(rejected).any():
            raise ValueError(f"{name} of {comparison.id}: NaN")
        arrays.append((chosen, rejected))
    return arrays


def _require_different(comparisons: Sequence[Comparison]) -> None:
    for identity, times in Counter(comparison.id for comparison in comparisons).most_common(1):
        if times > 1:
            raise ValueError(f"{times} comparisons have the id {identity!r}")


def of_pairs(scores: Scores) -> bool:
    """Whether scores are of pairs: how far chosen `i` is above rejected `j` of `R`, by ``(id,
    "pair", i·R + j)``.
    """
    return isinstance(scores, Mapping) and any(role == PAIR for _, role, _ in scores)


def win_table(comparison: Comparison, chosen: Array, rejected: Array) -> Array:
    """Wins, shape (C, R): chosen response `i` against rejected response `j`; on RM-Bench these are
    the styles.
    """
    return _wins(comparison, _signs(chosen, rejected))


def _signs(chosen: Array, rejected: Array) -> Array:
    """1 where chosen response `i` is above rejected response `j`, 0 where equal and -1 where
    below.
    """
    if np.isnan(chosen).any() or np.isnan(rejected).any():
        raise ValueError(
            "scores: NaN, which is neither above nor below another, nor equal; leave the "
            "comparison out"
        )
    return (chosen[:, None] > rejected).astype(int) - (chosen[:, None] < rejected)


def _wins(comparison: Comparison, signs: Array) -> Array:
    tie = 0.0 if comparison.is_rm_bench else 0.5
    return np.where(signs == 0, tie, (signs > 0).astype(float))


def _all_signs(comparisons: Sequence[Comparison], scores: Scores) -> list[Array]:
    if not isinstance(scores, Mapping) or not of_pairs(scores):
        return [_signs(*sides) for sides in aligned(comparisons, scores)]
    _require_different(comparisons)
    tables = []
    for comparison in comparisons:
        shape = len(comparison.chosen), len(comparison.rejected)
        keys = [(comparison.id, PAIR, k) for k in range(shape[0] * shape[1])]
        missing = [key for key in keys if key not in scores]
        if missing:
            raise ValueError(f"scores have nothing for {missing[0]}")
        tables.append(np.array([scores[key] for key in keys], dtype=float).reshape(shape))
        if np.isnan(tables[-1]).any():
            raise ValueError(f"scores of {comparison.id}: NaN")
    return [np.sign(table) for table in tables]


def domain_matrix(comparisons: Sequence[Comparison], scores: Scores) -> dict[str, dict[str, float]]:
    """DSP: under the system prompt of the outer domain, how often the inner one's response beats
    each other one.

    Ties are halves. The diagonal is each domain's accuracy.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for comparison, sides in zip(comparisons, aligned(comparisons, scores), strict=True):
        both = np.concatenate(sides)
        wins = (both[:, None] > both) + 0.5 * (both[:, None] == both)
        beats = (wins.sum(1) - 0.5) / (len(both) - 1)
        for style, value in zip(
            comparison.chosen_styles + comparison.rejected_styles, beats, strict=True
        ):
            sums.setdefault((comparison.subset, style), []).append(float(value))
    rows = sorted({row for row, _ in sums})
    return {
        row: {name: float(np.mean(sums[row, name])) for r, name in sorted(sums) if r == row}
        for row in rows
    }


def bootstrap(
    values: Array,
    weights: Array,
    strata: Labels = None,
    units: Labels = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """Weighted means of the columns of `values` (n, k) on resampled rows: shape (resamples, k).

    Rows of one unit (a prompt with several comparisons) are drawn together, units with replacement
    and within their stratum; by default each row is a unit, and there is one stratum.

    Raises ValueError where there is no row, a value is not finite, or a weight not positive and
    finite: some resample would have a mean of nothing.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"values of shape {values.shape}: must be at least one row, all of it finite"
        )
    require_positive("weights", weights)
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: must be at least 1")
    rng, n = np.random.default_rng(seed), len(values)
    names, stratum = np.unique([""] * n if strata is None else strata, return_inverse=True)
    unit = np.arange(n) if units is None else np.unique(units, return_inverse=True)[1]
    pairs, row_unit = np.unique(np.column_stack([stratum, unit]), axis=0, return_inverse=True)
    sums = np.zeros((len(pairs), values.shape[1] + 1))
    np.add.at(sums, row_unit.ravel(), weights[:, None] * np.column_stack([values, np.ones(n)]))
    totals = np.zeros((resamples, sums.shape[1]))
    for s in range(len(names)):
        block = sums[pairs[:, 0] == s]
        size = len(block)
        step = max(1, 4_000_000 // size)  # resamples at a time
        for start in range(0, resamples, step):
            m = min(step, resamples - start)
            drawn = rng.integers(size, size=(m, size)) + size * np.arange(m)[:, None]
            totals[start : start + m] += (
                np.bincount(drawn.ravel(), minlength=m * size).reshape(m, size) @ block
            )
    return np.asarray(totals[:, :-1] / totals[:, -1:])


@dataclass(frozen=True)
class LengthFit:
    """Logistic fit of wins on the length difference: the accuracy where it is zero, with its
    interval.

    `log_odds_per_100` is what 100 characters or tokens more of the chosen response add to the
    log-odds of its win. What the data do not determine is `None`, and `note` says why.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    log_odds_per_100: float | None = None
    note: str = ""


COUNTED = {
    "wins": "must be from 0 to 1",
    "difference": "must be finite",
    "weights": "must be finite and not negative",
}


def fit_length(
    wins: Array,
    difference: Array,
    weights: Array | None = None,
    units: Labels = None,
    *,
    confidence: float = 0.95,
) -> LengthFit:
    """Fit ``P(win) = σ(a + b·difference)``, chosen length minus rejected, by maximum likelihood;
    the value is ``σ(a)``.

    All arrays (n,). A tie is half a win and half a loss; pairs of weight zero do not count. The
    interval is normal on the scale of `a`, its variance robust to the dependence of pairs of one
    unit (sandwich). Where a threshold on the length separates wins from losses the likelihood has
    no maximum: then there is no value, and the note says so.

    Raises ValueError where no pair counts, a win is not from 0 to 1, or a difference or a weight is
    not finite.
    """
    y, x = np.asarray(wins, dtype=float), np.asarray(difference, dtype=float)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    for name, array, good in (
        ("wins", y, (y >= 0) & (y <= 1)),
        ("difference", x, np.isfinite(x)),
        ("weights", w, (w >= 0) & (w < np.inf)),
    ):
        if not good.all():
            raise ValueError(f"{name} hold {array[~good][0]:g}: {COUNTED[name]}")
    if not (w > 0).any():
        raise ValueError(
            f"weights: of {len(w)} pairs none counts; give at least one with a positive weight"
        )
    y, x, w, units = (
        y[w > 0],
        x[w > 0],
        w[w > 0],
        None if units is None else np.asarray(units)[w > 0],
    )
    w, scale, won, lost = w / w.sum(), float(np.sqrt(np.mean(x**2))), x[y > 0], x[y < 1]
    if not len(won) or not len(lost):
        return LengthFit(
            float(len(won) > 0),
            note=f"every pair is {'won' if len(won) else 'lost'}: nothing to fit",
        )
    if np.ptp(x) == 0 and scale > 0:
        return LengthFit(note="the length difference is the same for all pairs, and not zero")
    if scale > 0 and (won.min() >= lost.max() or won.max() <= lost.min()):
        side, edge = ("above", lost.max()) if won.min() >= lost.max() else ("below", lost.min())
        return LengthFit(
            note=f"separated: wins where the length difference is {side} {edge:g}, so no maximum"
        )
    z = np.column_stack([np.ones(len(x)), x / scale]) if scale > 0 else np.ones((len(x), 1))

    def loss(theta: Array) -> tuple[float, Array]:
        t = z @ theta
        return -float(w @ (y * log_expit(t) + (1 - y) * log_expit(-t))), z.T @ (w * (expit(t) - y))

    def hessian(theta: Array) -> Any:
        p = expit(z @ theta)
        return np.einsum("n,ni,nj->ij", w * p * (1 - p), z, z)

    fit = minimize(
        loss,
        np.zeros(z.shape[1]),
        jac=True,
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-6},
    )
    if not fit.success:
        return LengthFit(note=f"the fit did not converge: {fit.message}")
    theta = fit.x - np.linalg.solve(
        hessian(fit.x), loss(fit.x)[1]
    )  # one more Newton step: to rounding
    value, slope = float(expit(theta[0])), float(100 * theta[1] / scale) if scale > 0 else None
    _, unit = np.unique(np.arange(len(y)) if units is None else units, return_inverse=True)
    n = int(unit.max()) + 1
    if n < 10:
        return LengthFit(
            value, None, None, slope, f"{n} independent prompts: too few for an interval"
        )
    score = np.zeros((n, z.shape[1]))
    np.add.at(score, unit, z * (w * (y - expit(z @ theta)))[:, None])
    half_bread = score @ np.linalg.inv(hessian(theta))[:, 0]
    half = float(ndtri(0.5 + confidence / 2) * np.sqrt(half_bread @ half_bread * n / (n - 1)))
    return LengthFit(value, float(expit(theta[0] - half)), float(expit(theta[0] + half)), slope)


def summary(
    comparisons: Sequence[Comparison],
    scores: Scores,
    *,
    tokens: Scores | None = None,
    tolerance: float = 0.1,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Accuracy of `scores` with intervals, overall and by subset, beside the nulls and with length
    held fixed.

    `tokens` are lengths, for nulls and length control beside those in characters. Each null comes
    with the accuracy above it, on the same resamples; that of a random score, which has no ties,
    with the range it stays in. `matched` keeps the pairs whose lengths differ by at most
    `tolerance` of the longer; `logistic` is `fit_length`. Prompts are resampled. On RM-Bench the
    overall figures are means over domains, as published (``safety-refuse`` and ``safety-response``
    are the halves of one), and prompts are resampled within them. Returns what ``json.dumps``
    takes; ValueError where there is no comparison or an option is out of range, and from `aligned`.
    """
    if not comparisons:
        raise ValueError("no comparison to summarise")
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance={tolerance}: must be a share of the longer length, from 0 on")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")
    options = {
        "tolerance": tolerance,
        "resamples": resamples,
        "seed": seed,
        "confidence": confidence,
    }
    given, counts = (
        _all_signs(comparisons, scores),
        None if tokens is None else aligned(comparisons, tokens, "tokens"),
    )
    texts = [json.dumps(comparison.prompt) for comparison in comparisons]
    numbers = {text: n for n, text in enumerate(sorted(set(texts)))}  # arrays of numbers are small
    cases = [
        _case(c, numbers[texts[n]], given[n], counts[n] if counts else None)
        for n, c in enumerate(comparisons)
    ]
    cases.sort(
        key=lambda case: case.comparison.id
    )  # so that resamples do not depend on the order given
    names = sorted({c.subset for c in comparisons})
    subsets = {
        s: _report([case for case in cases if case.comparison.subset == s], options) for s in names
    }
    report = options | _report(cases, options) | {"subsets": subsets}
    by_domain = [n for n, c in enumerate(comparisons) if c.chosen_styles == (c.subset,)]
    if by_domain and not of_pairs(scores):
        sides = aligned(comparisons, scores)
        report["domains"] = domain_matrix(
            [comparisons[n] for n in by_domain], [sides[n] for n in by_domain]
        )
    return report


@dataclass(frozen=True)
class _Case:
    """A comparison with the number of its prompt, its lengths by unit, and its wins (C, R) under
    score and nulls.
    """

    comparison: Comparison
    prompt: int
    lengths: dict[str, tuple[Array, Array]]
    wins: dict[str, Array]
    ties: int


def _case(
    comparison: Comparison, prompt: int, signs: Array, tokens: tuple[Array, Array] | None
) -> _Case:
    chosen, rejected = (
        np.array([len(text) for text in side]) for side in (comparison.chosen, comparison.rejected)
    )
    lengths = {"characters": (chosen, rejected)} | ({} if tokens is None else {"tokens": tokens})
    wins = {"score": _wins(comparison, signs)}
    for unit, (a, b) in lengths.items():
        wins |= {
            f"shorter ({unit})": win_table(comparison, -a, -b),
            f"longer ({unit})": win_table(comparison, a, b),
        }
    return _Case(comparison, prompt, lengths, wins, int(np.sum(signs == 0)))


def _report(cases: list[_Case], options: dict[str, Any]) -> dict[str, Any]:
    weights, scorers, shapes = (
        _weights(cases),
        list(cases[0].wins),
        np.array([c.wins["score"].shape for c in cases]),
    )
    columns = {scorer: _columns(cases, scorer) for scorer in scorers}
    values = {scorer: _intervals(columns[scorer], cases, weights, options) for scorer in scorers}
    named = {
        scorer: dict(zip(("accuracy", *LEVELS), values[scorer], strict=False)) for scorer in scorers
    }
    report: dict[str, Any] = {"comparisons": len(cases), "pairs": int(shapes.prod(1).sum())}
    report |= {"ties": sum(case.ties for case in cases)} | named.pop("score")
    if _all_rm_bench(cases):
        matrix = np.average(
            [case.wins["score"] for case in cases], axis=0, weights=weights
        ).tolist()
        report["matrix"] = {"styles": list(RM_BENCH_STYLES), "chosen_by_rejected": matrix}
    # a random score: the variance of Mann and Whitney's U over the number of pairs
    variance = (weights / weights.sum()) ** 2 @ ((shapes.sum(1) + 1) / (12 * shapes.prod(1)))
    half = min(0.5, float(ndtri(0.5 + options["confidence"] / 2) * np.sqrt(variance)))
    report["nulls"] = {
        "random": {"accuracy": {"value": 0.5, "low": 0.5 - half, "high": 0.5 + half}}
    }
    for null, figures in named.items():
        above = (columns["score"] - columns[null])[:, :1]
        figures["accuracy_above"] = _intervals(above, cases, weights, options, lowest=-1.0)[0]
        report["nulls"][null] = figures
    report["length_controlled"] = {
        unit: _length_controlled(cases, weights, unit, options) for unit in cases[0].lengths
    }
    return report


def _all_rm_bench(cases: list[_Case]) -> bool:
    return all(case.comparison.is_rm_bench for case in cases)


def _columns(cases: list[_Case], scorer: str) -> Array:
    """Accuracy of each comparison and, on RM-Bench, hard, normal and easy: shape (n, 1) or (n,
    4).
    """
    tables = [case.wins[scorer] for case in cases]
    columns = [np.array([table.mean() for table in tables])]
    if _all_rm_bench(cases):
        stack, styles = (
            np.stack(tables),
            np.subtract.outer(range(3), range(3)),
        )  # chosen style minus rejected style
        columns += [stack[:, where].mean(1) for where in (styles < 0, styles == 0, styles > 0)]
    return np.column_stack(columns)


def _weights(cases: list[_Case]) -> Array:
    """Of the comparisons: all equal, or on RM-Bench with the same sum in each domain."""
    if not _all_rm_bench(cases):
        return np.ones(len(cases))
    subsets = [case.comparison.subset for case in cases]
    domain = {subset: "safety" if subset.startswith("safety-") else subset for subset in subsets}
    sizes, parts = Counter(subsets), Counter(domain.values())
    return np.array([len(cases) / (len(parts) * parts[domain[s]] * sizes[s]) for s in subsets])


def _intervals(
    values: Array,
    cases: list[_Case],
    weights: Array,
    options: dict[str, Any],
    *,
    lowest: float = 0.0,
) -> list[dict[str, float]]:
    """Value and percentile interval of each column of numbers from `lowest` to 1.

    Where all resamples must agree, they show no width, and the interval is that of
    `_of_equal_units`.
    """
    units, tail = np.array([case.prompt for case in cases]), (1 - options["confidence"]) / 2
    strata = np.array(
        [case.comparison.subset if case.comparison.is_rm_bench else "" for case in cases]
    )
    draws = bootstrap(
        values, weights, strata, units, resamples=options["resamples"], seed=options["seed"]
    )
    mean, ends = (
        np.average(values, axis=0, weights=weights),
        np.quantile(draws, [tail, 1 - tail], axis=0),
    )
    for k, column in enumerate(values.T):
        found = _of_equal_units((column - lowest) / (1 - lowest), weights, strata, units, tail)
        if found is not None:
            ends[:, k] = lowest + (1 - lowest) * found
    return [
        {"value": v, "low": a, "high": b}
        for v, a, b in zip(mean.tolist(), *ends.tolist(), strict=True)
    ]


def _of_equal_units(
    values: Array, weights: Array, strata: Array, units: Array, tail: float
) -> Array | None:
    """Interval ``(low, high)`` of a mean of numbers in [0, 1] whose units are all equal in each
    stratum, else `None`.

    Of `n` independent units with mean `μ` all are `c` or more with probability ``(μ/c)^n`` at most
    (Markov), so ``μ ≥ c·tail^{1/n}``, and of ``1 − c`` likewise. For right and wrong these are the
    binomial bounds. Strata that differ share the tail.
    """
    keys = np.column_stack(
        [np.unique(strata, return_inverse=True)[1], np.unique(units, return_inverse=True)[1]]
    )
    keys, row = np.unique(keys, axis=0, return_inverse=True)
    total = np.bincount(row.ravel(), weights)
    means = np.bincount(row.ravel(), weights * values) / total
    group = keys[:, 0] if np.ptp(means) > EQUAL else np.zeros(len(keys), dtype=int)
    if any(np.ptp(means[group == g]) > EQUAL for g in range(group.max() + 1)):
        return None
    sizes, share = np.bincount(group), np.bincount(group, total) / total.sum()
    of_group = np.bincount(group, means) / sizes
    doubt = (tail / len(sizes)) ** (1 / sizes)
    return np.array([share @ (of_group * doubt), 1 - share @ ((1 - of_group) * doubt)])


EQUAL = 1e-12
"""Means of units that differ by less are equal, added in another order."""


def _length_controlled(
    cases: list[_Case], weights: Array, unit: str, options: dict[str, Any]
) -> dict[str, Any]:
    lengths = [(case.lengths[unit][0][:, None], case.lengths[unit][1]) for case in cases]
    near = [abs(a - b) <= options["tolerance"] * np.maximum(a, b) for a, b in lengths]
    kept = [n for n, mask in enumerate(near) if mask.any()]
    matched: dict[str, Any] = {
        "comparisons": len(kept),
        "pairs": int(sum(mask.sum() for mask in near)),
        "value": None,
    }
    if kept:
        values = [
            [cases[n].wins[of][near[n]].mean() for of in ("score", f"shorter ({unit})")]
            for n in kept
        ]
        score, shorter = _intervals(
            np.array(values), [cases[n] for n in kept], weights[kept], options
        )
        matched |= score | {"shorter": shorter}
    wins, difference = (
        [case.wins["score"].ravel() for case in cases],
        [(a - b).ravel() for a, b in lengths],
    )
    sizes = [len(part) for part in wins]
    pair_weights, units = (
        np.repeat(weights / sizes, sizes),
        np.repeat([case.prompt for case in cases], sizes),
    )
    y, x = np.concatenate(wins), np.concatenate(difference)
    return {
        "matched": matched,
        "logistic": asdict(fit_length(y, x, pair_weights, units, confidence=options["confidence"])),
    }
