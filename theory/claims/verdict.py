"""Verdicts: what is proved of a statement on instances, in enclosures of doubles, then in balls.

A statement *holds*, is *violated*, stays *undecided*, or *does not apply*. Both sides are
enclosures (`theory.arrays.enclosure`): intervals that contain the exact number, rounding included.
Where the slack ``right − left`` may have either sign they are evaluated again with more bits, until
the sign is certain or `PRECISIONS` is used up. So no tolerance turns *undecided* into *holds*, and
nothing is read off an empty set: an assumption is yes, no or uncertain, and what is not a number,
or was not evaluated, is *undecided* with its reason.

What is evaluated is exact by definition: rewards and temperature as they are stored, `π_E` the
soft-optimal policy of these, `π̂` the softmax of its stored log-probabilities; each prompt that can
occur by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from tqdm import tqdm

from theory.arrays.enclosure import Enclosure
from theory.arrays.namespace import Array, as_array, is_enclosure
from theory.arrays.precision import DOUBLE, enclose, precision
from theory.arrays.truth import Truth, Undecided

__all__ = [
    "Check",
    "Contradiction",
    "Statement",
    "Summary",
    "Verdict",
    "check",
    "summarise",
    "summarise_each",
]

Verdict = Literal["violated", "undecided", "holds", "does not apply"]

VERDICTS: tuple[Verdict, ...] = ("does not apply", "holds", "undecided", "violated")
"""From the mildest to the worst: a set of cases has the worst verdict of its cases."""

PRECISIONS = (DOUBLE, 128, 256, 512, 1024)
"""Bits of the enclosures, tried in turn."""

EQUAL_WITHIN = 1e-30
"""An equality holds when its sides are proved to differ by no more than this, and by no more than
this share of the largest number that they have on the prompt."""

BUDGET = 1_000_000
"""Rewards, over all instances of one call, up to which balls are used where doubles decide nothing:
a minute or two.
"""

AT_ONCE = 50_000
"""Rewards of a batch that are evaluated in balls at once."""

THIN, LONG = 32, 256
"""Where the layers of a batch have fewer rewards and there are more of them, balls are as fast as
doubles, which wait for NumPy: the first evaluation is in balls, of `LONG_BITS`, which so many
layers take."""

LONG_BITS = 256


class Contradiction(ArithmeticError):
    """Two precisions prove different things: an error of the program, which must stop it."""


class Evaluable(Protocol):
    """What a verdict asks of an instance: finite (`theory.claims.instance`) or discounted
    (`theory.claims.discounted`).
    """

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of every quantity."""

    @property
    def counts(self) -> np.ndarray:
        """Prompts (first states) that can occur, ``(P,)``, boolean: the axis after the batch's."""

    @property
    def numbers(self) -> int:
        """Rewards of one problem of the batch."""

    @property
    def horizon(self) -> Any:
        """Tokens of a response, or ``1/(1−γ)``."""

    def enclosed(self, bits: int) -> Any:
        """The instance whose quantities are enclosures, one for each prompt."""

    def take(self, index: Any) -> Self:
        """Some problems of the batch, counted through it in C order."""

    def alike(self) -> Sequence[Self]:
        """Batches that can be evaluated at once, which together are this one."""


@dataclass(frozen=True)
class Statement:
    """One claim: ``left ≤ right`` (or ``left = right``) on every instance that satisfies `assumes`.

    Attributes:
        name: how it is called.
        source: where it is from.
        claim: the claim as text.
        left: of an instance, a quantity for each prompt or for each of its responses or pairs.
        right: likewise.
        unit: of both sides.
        equality: whether ``left = right`` is claimed.
        assumes: where it applies: booleans, or a comparison of quantities.
        ceiling: the most that `left` can ever be; a `right` at or above it says nothing
            (*vacuous*).

    Raises:
        ValueError: a side is no function of an instance.

    """

    name: str
    source: str
    claim: str
    left: Callable[[Any], Array]
    right: Callable[[Any], Array]
    unit: Literal["reward", "nats", "probability"] = "reward"
    equality: bool = False
    assumes: Callable[[Any], Array] | None = None
    ceiling: Callable[[Any], Array | float] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("left", "right", "assumes", "ceiling"):
            side = getattr(self, name)
            if not callable(side) and not (side is None and name in ("assumes", "ceiling")):
                raise ValueError(
                    f"statement {self.name!r}: {name}={side!r} must be a function of an instance"
                )


# --- One instance, or a batch ---------------------------------------------------------------------

HOLDS, UNDECIDED, VIOLATED = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Check:
    """Both sides of a statement on an instance, elementwise, and what is proved of them: arrays of
    one shape.

    Attributes:
        statement: the statement.
        bits: precision of the enclosures.
        left: midpoint of the left side.
        right: midpoint of the right side.
        error: what ``right − left`` may be off by: half the width of its enclosure.
        applies: where the assumptions are certain to hold, on prompts that can occur.
        uncertain: where they may hold, and may not.
        vacuous: where `right` is certain to be no less than the statement's ceiling.
        codes: of the verdict, an index into `VERDICTS`.
        unknown: where a side is not a number.
        ends: lower and upper ends of both sides, for `Contradiction`.

    """

    statement: Statement
    bits: int
    left: np.ndarray
    right: np.ndarray
    error: np.ndarray
    applies: np.ndarray
    uncertain: np.ndarray
    vacuous: np.ndarray
    codes: np.ndarray
    unknown: np.ndarray
    ends: np.ndarray

    @property
    def slack(self) -> np.ndarray:
        """``right − left``, or ``−|right − left|`` for an equality. An infinite bound leaves
        infinite slack.
        """
        with np.errstate(invalid="ignore"):
            slack = self.right - self.left
        found: np.ndarray = (
            -np.abs(slack)
            if self.statement.equality
            else np.where(np.isposinf(self.right), np.inf, slack)
        )
        return found

    @property
    def verdicts(self) -> np.ndarray:
        """The verdict of each element."""
        return np.asarray(np.array(VERDICTS)[self.codes])

    @property
    def verdict(self) -> Verdict:
        """The worst of all elements."""
        return VERDICTS[int(self.codes.max(initial=0))]


def check(statement: Statement, instance: Any, bits: int = DOUBLE) -> Check:
    """Evaluate both sides of `statement` on `instance`, a batch of instances elementwise, in
    enclosures.

    Args:
        statement: the statement.
        instance: an `Evaluable`.
        bits: precision: 53 for doubles, above for balls.

    """
    with precision(bits):
        exact = _enclosed(instance, bits)
        left, right = (_part(statement, name, exact, bits) for name in ("left", "right"))
        b = len(instance.batch_shape)
        axes = max(
            left.ndim, right.ndim, b + 1
        )  # of the batch and the prompts, and of their responses or pairs
        left, right, all_of_batch = (
            _with_axes(x, axes) for x in (left, right, np.empty((*instance.batch_shape, 1)))
        )
        shape = np.broadcast_shapes(left.shape, right.shape, all_of_batch.shape)
        left, right = (_spread(side, shape) for side in (left, right))

        def spread(values: Any) -> Truth:
            truth = Truth.of(values)
            return Truth(*(_spread(x, shape) for x in (truth.certain, truth.possible)))

        occurs = (
            np.repeat(instance.counts, shape[b] // len(instance.counts))
            if shape[b] > 1
            else instance.counts.any()
        )
        assumed = spread(
            Truth.of(True)
            if statement.assumes is None
            else _part(statement, "assumes", exact, bits)
        )
        assumed = Truth.of(assumed & np.reshape(occurs, (-1, *(1,) * (len(shape) - b - 1))))
        vacuous = np.zeros(shape, bool)
        if statement.ceiling is not None:
            ceiling = _spread(_part(statement, "ceiling", exact, bits), shape)
            vacuous = spread(right >= ceiling).certain
        return _judged(statement, bits, left, right, assumed, vacuous, b, len(instance.counts))


def _part(statement: Statement, name: str, exact: Any, exact_bits: int) -> Any:
    """A side of the statement or its ceiling, enclosed, or what it assumes; an exception says of
    which statement.
    """
    bits = None if name == "assumes" else exact_bits
    try:
        found = getattr(statement, name)(exact)
        return _as_truth(found) if bits is None else _as_enclosure(found, bits)
    except Undecided:  # a comparison that this precision leaves open: nothing is known
        return Truth(False, True) if bits is None else enclose(np.nan, exact_bits)
    except Exception as error:
        error.add_note(f"while {name} of {statement.name!r} was evaluated")
        raise


def _as_truth(values: Any) -> Truth:
    if isinstance(values, Truth):
        return values
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{values!r}: an assumption must be true or false, or a comparison of quantities"
        )
    return Truth.of(array)


def _as_enclosure(values: Any, bits: int) -> Enclosure:
    array = as_array(values)
    return array if is_enclosure(array) else enclose(array, bits)


def _spread(values: Any, shape: tuple[int, ...]) -> Any:
    """Of a batch, of its prompts, or of their responses or pairs, to `shape`: axes are added at the
    end.
    """
    values = _with_axes(values, len(shape))
    if is_enclosure(values):
        return values._each(lambda part: np.broadcast_to(part, shape))
    return np.broadcast_to(values, shape)


def _with_axes(values: Any, axes: int) -> Any:
    """`values`, unless they are one number, with `axes` axes: those that are missing are added at
    the end.
    """
    return values.reshape((*values.shape, *(1,) * (axes - values.ndim))) if values.ndim else values


def _judged(
    statement: Statement,
    bits: int,
    left: Enclosure,
    right: Enclosure,
    assumed: Truth,
    vacuous: np.ndarray,
    b: int,
    prompts: int,
) -> Check:
    slack = right - left
    one, other, (low, high) = ((side.lower(), side.upper()) for side in (left, right, slack))
    unknown = left.is_nan() | right.is_nan()
    if statement.equality:
        equal = Truth.of(left == right)
        same = equal.certain  # both are the same infinity, or the same exact number
        apart = np.maximum(np.abs(low), np.abs(high))
        violated = ~equal.possible
        holds = same | (apart <= EQUAL_WITHIN * _size(one, other, assumed.possible, b, prompts))
    else:
        endless = Truth.of(right == np.inf).certain | Truth.of(left == -np.inf).certain
        signs = Truth.of(slack >= 0)
        holds = signs.certain | endless
        violated = ~signs.possible & ~endless
    codes = np.where(
        unknown, UNDECIDED, np.where(violated, VIOLATED, np.where(holds, HOLDS, UNDECIDED))
    )
    # where it is uncertain whether the statement applies, only what holds in any case is decided
    uncertain = assumed.possible & ~assumed.certain
    codes = np.where(uncertain & (codes == VIOLATED), UNDECIDED, codes)
    codes = np.where(assumed.possible, codes, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        error = high / 2 - low / 2
        left_, right_ = (np.where(a == z, a, a / 2 + z / 2) for a, z in (one, other))
    return Check(
        statement,
        bits,
        left_,
        right_,
        np.where(np.isnan(error), 0.0, error),
        assumed.certain,
        uncertain,
        vacuous,
        codes,
        unknown,
        np.stack([*one, *other]),
    )


def _size(one: Any, other: Any, counted: np.ndarray, b: int, prompts: int) -> np.ndarray:
    """What an equality's difference is compared with: the largest number that its sides are certain
    to have, or 1.

    Over the elements of one prompt, since a return of zero is a sum of terms as large as those of
    others. At most 1, so that a difference is small by itself too.
    """
    size = np.max([np.maximum(low, -high) for low, high in (one, other)], axis=0)
    size = np.where(counted & np.isfinite(size), np.maximum(size, 0.0), 0.0)
    own = size.reshape((*size.shape[:b], prompts if size.shape[b] > 1 else 1, -1))
    largest = np.minimum(own.max(axis=-1, keepdims=True), 1.0)
    return np.asarray(np.broadcast_to(largest, own.shape).reshape(size.shape))


def _enclosed(instance: Any, bits: int) -> Any:
    """`instance.enclosed(bits)`, the same object while the instance lives, so that what it computed
    is kept.
    """
    kept = instance.__dict__.setdefault("_enclosures", {})
    if bits not in kept:
        kept.clear()
        kept[bits] = instance.enclosed(bits)
    return kept[bits]


# --- Over many instances --------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A statement over many instances.

    Attributes:
        statement: the statement.
        instances: on how many it applies.
        outcomes: how many instances have each verdict.
        reasons: why instances are undecided, and how many: their sides are equal, not a number, an
            assumption is, or they were not evaluated in balls.
        worst_ratio: largest ``left/right`` where the right side is well above its error; NaN for an
            equality.
        smallest_slack: least ``right − left``; for an equality ``−|right − left|``.
        left: the left side where the slack is smallest.
        right: the right side there.
        error_bound: what that slack may be off by.
        verdict: the worst of all instances.
        vacuous_share: share of the elements to which it applies on which it says nothing; NaN where
            there are none.
        certified: instances that were evaluated in balls: all that doubles left open.
        equal_within: what the difference of the two sides is proved to be at most: for an equality,
            and for an inequality that stays undecided, as it must where its sides are the same
            number. NaN elsewhere.

    """

    statement: Statement
    instances: int
    outcomes: dict[str, int]
    reasons: dict[str, int]
    worst_ratio: float
    smallest_slack: float
    left: float
    right: float
    error_bound: float
    verdict: Verdict
    vacuous_share: float
    certified: int
    equal_within: float


def summarise(statement: Statement, instances: Iterable[Any], budget: float = BUDGET) -> Summary:
    """Decide a statement on instances; see `summarise_each`."""
    return summarise_each([statement], instances, budget)[0]


def summarise_each(
    statements: Sequence[Statement], instances: Iterable[Any], budget: float = BUDGET
) -> list[Summary]:
    """Decide each statement on all instances, batches of them one by one. Progress is shown on a
    terminal.

    Args:
        statements: the statements; quantities that they share are computed once.
        instances: `Evaluable` ones.
        budget: rewards, over all instances, that are evaluated in balls at most, those of the first
            instances. What is over it stays *undecided* where doubles decide nothing, with that
            reason.

    Raises:
        ValueError: there are no instances.
        Contradiction: two precisions exclude each other.

    """
    tallies = [_Tally(statement) for statement in statements]
    if not budget >= 0:
        raise ValueError(f"budget={budget}: must be a number of rewards, 0 or more")
    instances, left = list(instances), budget
    if not instances:
        raise ValueError("instances is empty: there is nothing to check the statements on")
    total = sum(math.prod(instance.batch_shape) for instance in instances)
    with tqdm(total=total, desc="instances", disable=None, leave=False) as progress:
        for instance in instances:
            for part in instance.alike():
                left -= _examine(tallies, part, left)
            progress.update(math.prod(instance.batch_shape))
    return [tally.summary() for tally in tallies]


def _examine(tallies: Sequence[_Tally], instance: Any, budget: float) -> float:
    """Add an instance, or a batch, to the tallies; returns the rewards that were evaluated in
    balls.
    """
    n, spent = math.prod(instance.batch_shape), 0.0
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
            part.__dict__.pop("_enclosures", None)
    for tally, each in zip(tallies, rows, strict=True):
        tally.add(each)
    return spent


class _Rows:
    """What is known of a statement on the `n` problems of a batch: of each, its elements flat,
    ``(n, m)``.
    """

    def __init__(self, statement: Statement, n: int) -> None:
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
        known = mine & (self.bits[index] > 0)
        if known.any():
            self._require_overlap(flat, index, known, found.bits)
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
        before, now = self.found["ends"][index], flat["ends"]
        counted = where[:, None] & (flat["applies"] | flat["uncertain"])
        with np.errstate(invalid="ignore"):
            apart = (before[..., 0::2] > now[..., 1::2]) | (now[..., 0::2] > before[..., 1::2])
        apart = apart.any(axis=-1) & counted
        if apart.any():
            k, m = (int(x) for x in np.argwhere(apart)[0])
            one, two = (
                f"left in [{e[0]:.17g}, {e[1]:.17g}], right in [{e[2]:.17g}, {e[3]:.17g}]"
                for e in (before[k, m], now[k, m])
            )
            raise Contradiction(
                f"{self.statement.name}, problem {index[k]}, element {m}: {one} with "
                f"{self.bits[index[k]]} bits, and "
                f"{two} with {bits}: an error of the program, or a side that depends on the "
                "precision it is computed in"
            )


_COLUMNS = (
    "left",
    "right",
    "error",
    "slack",
    "applies",
    "uncertain",
    "vacuous",
    "codes",
    "unknown",
)

EQUAL, NOT_A_NUMBER, ASSUMPTION, NOT_EVALUATED = (
    "its sides are not separated",
    "a side is not a number",
    "an assumption is undecided",
    "over the budget of balls",
)


class _Tally:
    """What is known of a statement over all instances so far."""

    def __init__(self, statement: Statement) -> None:
        self.statement = statement
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.ratio = -math.inf
        self.worst = (math.inf, math.nan, math.nan, math.nan)
        self.elements = self.vacuous = self.certified = 0
        self.equal_within = math.nan

    def add(self, rows: _Rows) -> None:
        """Add the problems of a batch."""
        if not rows.found:  # none was evaluated
            self.outcomes["undecided"] += len(rows.bits)
            self.reasons[NOT_EVALUATED] += len(rows.bits)
            return
        of = rows.found
        worst = of["codes"].max(axis=1, initial=0)
        worst = np.where(
            rows.open & (worst == VIOLATED), UNDECIDED, worst
        )  # seen in doubles, and not confirmed
        for code, count in zip(*np.unique(worst, return_counts=True), strict=True):
            self.outcomes[VERDICTS[code]] += int(count)
        self._explain(rows, worst)
        counted = of["applies"] | of["uncertain"]
        self.certified += int(((rows.bits > DOUBLE) & (worst > 0)).sum())
        self.elements += int(counted.sum())
        self.vacuous += int((of["vacuous"] & counted).sum())
        self._measure(of, counted)
        near = counted & ~of["unknown"]
        if not self.statement.equality:
            near &= of["codes"] == UNDECIDED
        if near.any():
            within = np.abs(of["slack"]) + of["error"]
            self.equal_within = float(np.fmax(self.equal_within, within[near].max()))

    def _explain(self, rows: _Rows, worst: np.ndarray) -> None:
        left = worst == UNDECIDED
        for name, flags in (
            (NOT_EVALUATED, rows.bits < PRECISIONS[-1]),
            (
                NOT_A_NUMBER,
                (rows.found["unknown"] & (rows.found["codes"] == UNDECIDED)).any(axis=1),
            ),
            (
                ASSUMPTION,
                (rows.found["uncertain"] & (rows.found["codes"] == UNDECIDED)).any(axis=1),
            ),
            (EQUAL, left),
        ):
            if (left & flags).any():
                self.reasons[name] += int((left & flags).sum())
            left = left & ~flags

    def _measure(self, of: dict[str, np.ndarray], counted: np.ndarray) -> None:
        if not counted.any():
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(
                counted & (of["right"] > 1e3 * of["error"]), of["left"] / of["right"], np.nan
            )
        if not np.isnan(ratios).all():
            self.ratio = max(self.ratio, float(np.nanmax(ratios)))
        slack = np.where(counted, np.where(np.isnan(of["slack"]), -np.inf, of["slack"]), np.inf)
        k = np.unravel_index(int(np.argmin(slack)), slack.shape)
        if slack[k] < self.worst[0] or math.isnan(self.worst[1]):
            slack_, left, right, error = (
                float(of[name][k]) for name in ("slack", "left", "right", "error")
            )
            self.worst = (slack_, left, right, error)

    def summary(self) -> Summary:
        """The whole."""
        worst = next(v for v in reversed(VERDICTS) if self.outcomes[v])
        applies = sum(self.outcomes[v] for v in VERDICTS[1:])
        ratio = math.nan if self.statement.equality or self.ratio == -math.inf else self.ratio
        vacuous = self.vacuous / self.elements if self.elements else math.nan
        slack, left, right, error = self.worst if self.elements else (math.nan,) * 4
        return Summary(
            self.statement,
            applies,
            {v: self.outcomes[v] for v in VERDICTS if self.outcomes[v]},
            dict(self.reasons),
            ratio,
            slack,
            left,
            right,
            error,
            worst,
            vacuous,
            self.certified,
            self.equal_within,
        )
