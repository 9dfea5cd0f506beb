"""Findings: a statement decided on many instances, in doubles first and in balls where they do not
suffice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from theory.arrays.precision import DOUBLE
from theory.claims.quantities import Evaluable
from theory.claims.statement import Statement
from theory.claims.verdict import (
    UNDECIDED,
    VERDICTS,
    VIOLATED,
    Check,
    Contradiction,
    Verdict,
    check,
    enclosed,
)

__all__ = ["BUDGET", "Finding", "Group", "decide", "decide_each"]

PRECISIONS = (DOUBLE, 128, 256, 512, 1024)
"""Bits of the enclosures, tried in turn."""

BUDGET = 1_000_000
"""Rewards, over all instances of one call, up to which balls are used where doubles decide nothing:
a minute or two.
"""

AT_ONCE = 50_000
"""Rewards of a batch that are evaluated in balls at once."""

THIN = 32
LONG = 256
"""Where layers have fewer rewards than `THIN` and there are more than `LONG` of them, balls are as
fast as doubles, which wait for NumPy: the first evaluation is in balls, of `LONG_BITS`."""

LONG_BITS = 256


E = TypeVar("E", bound=Evaluable)


@dataclass(frozen=True)
class Group:
    """Instances that are reported together, with the statements that are checked on them.

    Attributes:
        name: heading of the group.
        instances: instances, or batches of them.
        facts: what a reader should know of the instances: printed, and kept in the report.
        statements: the statements; ``STATEMENTS`` or ``DISCOUNTED_STATEMENTS``.

    """

    name: str
    instances: Sequence[Any]
    facts: dict[str, Any]
    statements: tuple[Statement[Any], ...]


@dataclass(frozen=True)
class Finding:
    """What was found of a statement on many instances.

    Attributes:
        statement: the statement.
        group: name of the instances, `Group`.
        verdict: the worst verdict of all instances.
        instances: number of instances to which it applies, or may: those that were not evaluated
            are among them, as *undecided*.
        tested: number of these on which it could fail (`theory.claims.verdict.Check`).
        applies: share of the evaluated instances to which it applies, weighted; NaN if none was
            evaluated.
        outcomes: number of instances with each verdict.
        reasons: why instances are undecided, and how many: the sides are equal, a side is not a
            number, the condition is undecided, or they were not evaluated in balls.
        mean_left: average over the instances to which it applies, weighted, of the left side; of
            several responses or pairs, the largest. NaN where it applies to none.
        mean_right: likewise the right side.
        worst_ratio: largest ``left/right`` where the right side is well above its error; NaN for an
            equality.
        smallest_slack: least ``right − left``; for an equality ``−|right − left|``.
        left: left side where the slack is smallest.
        right: right side there.
        error_bound: bound on the error of that slack.
        vacuous_share: share of the elements to which it applies on which its bound says nothing,
            weighted; NaN where there are none, or where it cannot be vacuous.
        certified: number of instances that were evaluated in balls: all that doubles left open.
        equal_within: proved bound on the difference of the two sides: for an equality, and for an
            inequality that stays undecided, as it must where its sides are the same number. NaN
            elsewhere.

    """

    statement: Statement[Any]
    group: str
    verdict: Verdict
    instances: int
    tested: int
    applies: float
    outcomes: dict[str, int]
    reasons: dict[str, int]
    mean_left: float
    mean_right: float
    worst_ratio: float
    smallest_slack: float
    left: float
    right: float
    error_bound: float
    vacuous_share: float
    certified: int
    equal_within: float

    def __repr__(self) -> str:
        """The verdict in one line; `as_dict` has every number."""
        where = f" of {self.group!r}" if self.group else ""
        plural = "s" * (self.instances != 1)
        return (
            f"<{type(self).__name__} {self.statement.name}: {self.verdict}, {self.instances:,} "
            f"instance{plural}{where}, least slack {self.smallest_slack:.3g}>"
        )

    @property
    def undecided(self) -> str:
        """Why instances are undecided, as text; empty where none is."""
        return "; ".join(f"{reason} on {count}" for reason, count in self.reasons.items())

    def as_dict(self) -> dict[str, Any]:
        """Return the finding and the parts of its statement as plain numbers and text."""
        statement = self.statement
        numbers = {f.name: getattr(self, f.name) for f in fields(self)}
        return numbers | {
            "statement": statement.name,
            "source": statement.source,
            "claim": statement.claim,
            "quantity": statement.quantity.symbol,
            "relation": statement.relation,
            "bound": statement.bound.symbol,
            "condition": None if statement.when is None else statement.when.symbol,
            "unit": statement.quantity.unit,
        }


def decide(statement: Statement[E], instances: Iterable[E], budget: float = BUDGET) -> Finding:
    """Decide a statement on instances; see `decide_each`.

    >>> from theory.claims.statements import STATEMENTS
    >>> from theory.studies.gallery import swapped_pair
    >>> gap = next(s for s in STATEMENTS if s.name == "rl-any-comparator")
    >>> found = decide(gap, [swapped_pair(8, alpha=1.0, epsilon=0.1)])
    >>> found.verdict, round(found.worst_ratio, 3)  # attained but for the pair's slack
    ('holds', 0.999)

    """
    return decide_each([statement], instances, budget)[0]


def decide_each(
    statements: Sequence[Statement[E]],
    instances: Iterable[E],
    budget: float = BUDGET,
    *,
    weights: Any = None,
    group: str = "",
) -> list[Finding]:
    """Decide each statement on all instances, batch by batch; a terminal shows the progress.

    Args:
        statements: the statements; quantities that they share are computed once.
        instances: instances, or batches of them.
        budget: rewards, over all instances, that are evaluated in balls at most, those of the first
            instances. What is over it stays *undecided* where doubles decide nothing, with that
            reason.
        weights: weight of each instance in averages, positive; equal by default.
        group: name of the instances.

    Raises:
        ValueError: there are no instances, or not as many weights.
        Contradiction: two precisions exclude each other.

    >>> from theory.claims.statements import STATEMENTS
    >>> from theory.studies.gallery import swapped_pair
    >>> found = decide_each(STATEMENTS, [swapped_pair(4, alpha=1.0, epsilon=0.1)])
    >>> [x.statement.name for x in found if x.verdict != "holds"]  # α(1 + tanh(ε/2)) > R
    ['theorem-2-rl']
    """
    if not budget >= 0:
        raise ValueError(f"budget={budget}: must be a number of rewards, 0 or more")
    instances = list(instances)
    if not instances:
        raise ValueError("instances is empty: there is nothing to check the statements on")
    total = sum(math.prod(instance.batch_shape) for instance in instances)
    shares = np.ones(total) if weights is None else np.asarray(weights, dtype=float)
    if shares.shape != (total,) or not ((shares > 0).all() and np.isfinite(shares).all()):
        raise ValueError(f"weights={weights}: must be {total} positive numbers, one an instance")
    tallies = [_Tally(statement) for statement in statements]
    left = budget
    done = 0
    with tqdm(total=total, desc="instances", disable=None, leave=False) as progress:
        for instance in instances:
            for part in instance.alike():
                n = math.prod(part.batch_shape)
                left -= _examine(tallies, part, shares[done : done + n], left)
                done += n
                progress.update(n)
    enclosed.cache_clear()  # else the last instance, which can be a model's tree, stays in memory
    return [replace(tally.finding(), group=group) for tally in tallies]


def _examine(tallies: Sequence[_Tally], instance: Any, weights: np.ndarray, budget: float) -> float:
    """Add an instance, or a batch, to the tallies; returns the rewards evaluated in balls."""
    n = math.prod(instance.batch_shape)
    spent = 0.0
    thin = instance.horizon > LONG and instance.numbers * n < THIN * instance.horizon
    rows = [_Rows(tally.statement, n) for tally in tallies]
    if not thin:
        for each in rows:
            each.update(check(each.statement, instance), np.arange(n))
    some_open = np.flatnonzero(np.any([each.open for each in rows], axis=0))
    at_once = max(1, int(AT_ONCE // max(instance.numbers, 1)))
    for start in range(0, len(some_open), at_once):
        chunk = some_open[start : start + at_once]
        cost = float(instance.numbers * len(chunk))
        if spent + cost > budget:
            continue
        spent += cost
        for bits in PRECISIONS[PRECISIONS.index(LONG_BITS) if thin else 1 :]:
            chunk = chunk[np.any([each.open[chunk] for each in rows], axis=0)]
            if not chunk.size:
                break
            part = instance.take(chunk)
            for each in rows:
                if each.open[chunk].any():
                    each.update(check(each.statement, part, bits), chunk)
    for tally, each in zip(tallies, rows, strict=True):
        tally.add(each, weights)
    return spent


class _Rows:
    """What is known of a statement on the `n` problems of a batch, elements flat ``(n, m)``."""

    def __init__(self, statement: Statement[Any], n: int) -> None:
        self.statement = statement
        self.bits = np.zeros(n, dtype=int)
        """Precision of the last evaluation; 0 for none."""
        self.open = np.ones(n, dtype=bool)
        """Where more precision is wanted: nothing is known, it is undecided, or a violation is to
        be confirmed.
        """
        self.found: dict[str, np.ndarray] = {}

    def update(self, found: Check, index: np.ndarray) -> None:
        """Take in the evaluation of the problems `index`, where they are open."""
        n = len(index)
        flat = {name: getattr(found, name).reshape(n, -1) for name in _COLUMNS}
        flat["ends"] = np.moveaxis(found.ends.reshape(4, n, -1), 0, -1)
        if not self.found:
            self.found = {
                name: np.zeros((len(self.bits), *x.shape[1:]), x.dtype) for name, x in flat.items()
            }
            self.found["codes"][:] = UNDECIDED  # until they are evaluated
        mine = self.open[index]
        self._require_overlap(flat, index, mine & (self.bits[index] > 0), found.bits)
        for name, x in flat.items():
            self.found[name][index[mine]] = x[mine]
        self.bits[index[mine]] = found.bits
        worst = self.found["codes"].max(axis=1, initial=0)
        unconfirmed = (worst == VIOLATED) & (self.bits <= DOUBLE)
        self.open[index[mine]] = ((worst == UNDECIDED) | unconfirmed)[index[mine]]

    def _require_overlap(
        self, flat: dict[str, np.ndarray], index: np.ndarray, where: np.ndarray, bits: int
    ) -> None:
        """Raise `Contradiction` unless what was known may be what is known now."""
        before = self.found["ends"][index]
        now = flat["ends"]
        counted = where[:, None] & (flat["applies"] | flat["uncertain"])
        with np.errstate(invalid="ignore"):
            apart = (before[..., 0::2] > now[..., 1::2]) | (now[..., 0::2] > before[..., 1::2])
        apart = apart.any(axis=-1) & counted
        if apart.any():
            k, m = (int(x) for x in np.argwhere(apart)[0])
            ends = [
                f"left in [{e[0]:.17g}, {e[1]:.17g}], right in [{e[2]:.17g}, {e[3]:.17g}]"
                for e in (before[k, m], now[k, m])
            ]
            raise Contradiction(
                f"{self.statement.name}, problem {index[k]}, element {m}: {ends[0]} with "
                f"{self.bits[index[k]]} bits, and {ends[1]} with {bits}: an error of the program, "
                "or a side that depends on the precision it is computed in"
            )


_COLUMNS = [
    "left",
    "right",
    "error",
    "slack",
    "applies",
    "uncertain",
    "vacuous",
    "tests",
    "codes",
    "unknown",
]
"""Of a `Check`, what is kept of every element."""

EQUAL = "its sides are not separated"
NOT_A_NUMBER = "a side is not a number"
CONDITION = "its condition is undecided"
NOT_EVALUATED = "over the budget of balls"


class _Tally:
    """What is known of a statement over all instances so far."""

    def __init__(self, statement: Statement[Any]) -> None:
        self.statement = statement
        self.outcomes: Counter[str] = Counter()
        self.tested = 0
        self.reasons: Counter[str] = Counter()
        self.ratio = math.nan
        self.least: float | None = None
        """Least slack so far, one that is not a number being less than all others."""
        self.worst = [math.nan] * 4
        """That slack, both sides and the error there; nothing before it applied to any."""
        self.certified = 0
        self.equal_within = math.nan
        self.weight = np.zeros(2)  # of those that were evaluated, and to which it applies
        self.sums = np.zeros(2)  # of both sides, weighted
        self.elements = np.zeros(2)  # to which it applies, and of these the vacuous, weighted

    def add(self, rows: _Rows, weights: np.ndarray) -> None:
        """Add the problems of a batch."""
        self.weight[0] += weights[rows.bits > 0].sum()
        if not rows.found:  # none was evaluated
            self.outcomes["undecided"] += len(rows.bits)
            self.reasons[NOT_EVALUATED] += len(rows.bits)
            return
        of = rows.found
        worst = of["codes"].max(axis=1, initial=0)
        # a violation that was seen in doubles, and not confirmed
        worst = np.where(rows.open & (worst == VIOLATED), UNDECIDED, worst)
        self.outcomes.update(VERDICTS[code] for code in worst)
        self._explain(rows, worst)
        counted = of["applies"] | of["uncertain"]
        self.tested += int(of["tests"].any(axis=1).sum())
        self.certified += int(((rows.bits > DOUBLE) & (worst > 0)).sum())
        self.elements += [x.sum(axis=1) @ weights for x in (counted, of["vacuous"] & counted)]
        some = counted.any(axis=1)
        self.weight[1] += weights[some].sum()
        for k, side in enumerate(("left", "right")):
            largest = np.where(counted, of[side], -np.inf).max(axis=1, initial=-np.inf)
            self.sums[k] += largest[some] @ weights[some]
        self._measure(of, counted)
        near = counted & ~of["unknown"]
        if not self.statement.equality:
            near &= of["codes"] == UNDECIDED
        if near.any():
            within = np.abs(of["slack"]) + of["error"]
            self.equal_within = float(np.fmax(self.equal_within, within[near].max()))

    def _explain(self, rows: _Rows, worst: np.ndarray) -> None:
        left = worst == UNDECIDED
        unsettled = rows.found["codes"] == UNDECIDED
        for name, flags in (
            (NOT_EVALUATED, rows.bits < PRECISIONS[-1]),
            (NOT_A_NUMBER, (rows.found["unknown"] & unsettled).any(axis=1)),
            (CONDITION, (rows.found["uncertain"] & unsettled).any(axis=1)),
            (EQUAL, left),
        ):
            if (left & flags).any():
                self.reasons[name] += int((left & flags).sum())
            left = left & ~flags

    def _measure(self, of: dict[str, np.ndarray], counted: np.ndarray) -> None:
        if not counted.any():
            return
        clear = counted & (of["right"] > 1e3 * of["error"])
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(clear, of["left"] / of["right"], np.nan)
            self.ratio = float(np.fmax(self.ratio, np.fmax.reduce(ratios, axis=None)))
        slack = np.where(np.isnan(of["slack"]), -np.inf, of["slack"])
        among = np.flatnonzero(counted)
        k = np.unravel_index(among[np.argmin(slack.ravel()[among])], slack.shape)
        if self.least is None or slack[k] < self.least:
            self.least = float(slack[k])
            self.worst = [float(of[name][k]) for name in ("slack", "left", "right", "error")]

    def finding(self) -> Finding:
        """Return the whole."""
        statement = self.statement
        can_be_vacuous = statement.quantity.ceiling is not None and not statement.equality
        with np.errstate(invalid="ignore"):  # NaN where it applies to none
            mean = self.sums / self.weight[1]
            vacuous = self.elements[1] / self.elements[0]
            applies = self.weight[1] / self.weight[0]
        slack, left, right, error = self.worst
        return Finding(
            statement=statement,
            group="",
            verdict=next(v for v in reversed(VERDICTS) if self.outcomes[v]),
            instances=sum(self.outcomes[v] for v in VERDICTS[1:]),
            tested=self.tested,
            applies=float(applies),
            outcomes={v: self.outcomes[v] for v in VERDICTS if self.outcomes[v]},
            reasons=dict(self.reasons),
            mean_left=float(mean[0]),
            mean_right=float(mean[1]),
            worst_ratio=math.nan if statement.equality else self.ratio,
            smallest_slack=slack,
            left=left,
            right=right,
            error_bound=error,
            vacuous_share=float(vacuous) if can_be_vacuous else math.nan,
            certified=self.certified,
            equal_within=self.equal_within,
        )
