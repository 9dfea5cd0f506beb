"""Verdicts: what is proved of a statement on one instance, or on each of a batch.

A statement *holds*, is *violated*, stays *undecided*, or *does not apply*. Both sides are
enclosures (`theory.arrays.enclosure`): intervals that contain the exact number, rounding included.
A verdict is read off their ends, so no tolerance turns *undecided* into *holds*; and nothing is
read off an empty set: a condition is yes, no or uncertain, and what is not a number, or was not
evaluated, is *undecided*.

What is evaluated is exact by definition: rewards and temperature as they are stored, `π_E` the
soft-optimal policy of these, `π̂` the softmax of its stored log-probabilities; each prompt that can
occur by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np

from theory.arrays.enclosure import Enclosure
from theory.arrays.namespace import as_array, is_enclosure
from theory.arrays.precision import DOUBLE, enclose, precision
from theory.arrays.truth import Truth, Undecided
from theory.claims.quantities import Evaluable
from theory.claims.statement import Statement

__all__ = ["VERDICTS", "Check", "Contradiction", "Verdict", "check"]

E = TypeVar("E", bound=Evaluable)

Verdict = Literal["violated", "undecided", "holds", "does not apply"]

VERDICTS: tuple[Verdict, ...] = ("does not apply", "holds", "undecided", "violated")
"""From the mildest to the worst: a set of cases has the worst verdict of its cases."""

HOLDS = 1
UNDECIDED = 2
VIOLATED = 3
"""Indices into `VERDICTS`."""

EQUAL_WITHIN = 1e-30
"""An equality holds when its sides are proved to differ by no more than this, and by no more than
this share of the largest number that they have on the prompt."""

NEARLY = 1 - 1e-9
"""A bound of this share of the ceiling says nothing: bounds that saturate only approach it."""

ROUNDING = 1e-12
"""A left side or term of no more than this may be nothing but rounding in what was stored, as the
gauge of logits that were normalised before: a statement is not *tested* there."""


class Contradiction(ArithmeticError):
    """Two precisions prove different things: an error of the program, which must stop it."""


@dataclass(frozen=True, eq=False)
class Check:
    """Both sides of a statement and what is proved of them, elementwise: arrays of one shape.

    Attributes:
        statement: the statement.
        bits: precision of the enclosures.
        left: midpoint of the left side.
        right: midpoint of the right side.
        error: half the width of the enclosure of ``right − left``.
        applies: where the condition is certain to hold, on prompts that can occur.
        uncertain: where the condition may hold, and may not.
        vacuous: where `right` is certain to be no less than the quantity's ceiling.
        tests: where the statement is certain to apply and could fail: an equality whose `term` is
            not zero; an inequality that is not vacuous, and false for some multiple of its bound.
        codes: of the verdict, an index into `VERDICTS`.
        unknown: where a side is not a number.
        ends: lower and upper ends of both sides, for `Contradiction`.

    """

    statement: Statement[Any]
    bits: int
    left: np.ndarray
    right: np.ndarray
    error: np.ndarray
    applies: np.ndarray
    uncertain: np.ndarray
    vacuous: np.ndarray
    tests: np.ndarray
    codes: np.ndarray
    unknown: np.ndarray
    ends: np.ndarray

    @property
    def slack(self) -> np.ndarray:
        """``right − left``, or ``−|right − left|`` for an equality; infinite for an infinite
        bound.
        """
        with np.errstate(invalid="ignore"):
            slack: np.ndarray = self.right - self.left
        if self.statement.equality:
            return np.asarray(-np.abs(slack))
        return np.asarray(np.where(np.isposinf(self.right), np.inf, slack))

    @property
    def verdicts(self) -> np.ndarray:
        """The verdict of each element."""
        return np.asarray(np.array(VERDICTS)[self.codes])

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all elements."""
        return VERDICTS[int(self.codes.max(initial=0))]


def check(statement: Statement[E], instance: E, bits: int = DOUBLE) -> Check:
    """Evaluate both sides of a statement in enclosures, elementwise.

    Args:
        statement: the statement.
        instance: an instance, or a batch of them.
        bits: precision: 53 for doubles, above for balls.

    >>> from theory.claims.statements import STATEMENTS
    >>> from theory.studies.gallery import swapped_pair
    >>> gap = next(s for s in STATEMENTS if s.name == "rl-expert")
    >>> found = check(gap, swapped_pair(4, alpha=1.0, epsilon=0.1))
    >>> found.verdict
    'holds'

    """
    with precision(bits):
        exact: E = enclosed(instance, bits)

        def read(part: str, of: Callable[[E], Any], kind: Callable[[Any, int], Any]) -> Any:
            try:
                return kind(of(exact), bits)
            except Undecided:  # a comparison that this precision leaves open: nothing is known
                return Truth(False, True) if kind is _as_truth else enclose(np.nan, bits)
            except Exception as error:
                error.add_note(f"while {part} of {statement.name!r} was evaluated")
                raise

        left = read("quantity", statement.quantity.of, _as_enclosure)
        right = read("bound", statement.bound.of, _as_enclosure)
        # axes of the batch and the prompts, and then of their responses or pairs
        axes = max(left.ndim, right.ndim, len(instance.batch_shape) + 1)
        sides = (left, right, np.empty((*instance.batch_shape, 1)))
        shape = np.broadcast_shapes(*(_with_axes(x, axes).shape for x in sides))
        left = _spread(left, shape)
        right = _spread(right, shape)
        assumed = _occurs(instance, shape)
        if statement.when is not None:
            when = read("condition", statement.when.of, _as_truth)
            assumed = Truth.of(_spread_truth(when, shape) & assumed)
        vacuous = np.zeros(shape, bool)
        if statement.quantity.ceiling is not None and not statement.equality:
            ceiling = read("ceiling", statement.quantity.ceiling, _as_enclosure)
            vacuous = _spread_truth(right >= _spread(ceiling, shape) * NEARLY, shape).certain
        if not statement.equality:
            could_fail = (left.lower() > ROUNDING) | (right.upper() < -ROUNDING)
        elif statement.term is None:
            could_fail = _is_not_zero(left)
        else:
            term = read("term", statement.term.of, _as_enclosure)
            could_fail = _of_prompts(_is_not_zero(term), shape, instance)
        tests = assumed.certain & ~vacuous & could_fail
        return _judged(statement, instance, bits, (left, right), assumed, vacuous, tests)


def _is_not_zero(values: Enclosure) -> np.ndarray:
    return np.asarray((values.lower() > ROUNDING) | (values.upper() < -ROUNDING))


def _of_prompts(flags: np.ndarray, shape: tuple[int, ...], instance: Evaluable) -> np.ndarray:
    """Whether any flag of a prompt is set, at each of the elements `shape` of that prompt."""
    b = len(instance.batch_shape)
    P = len(instance.counts)
    own = flags.reshape((*flags.shape[:b], P, -1)).any(axis=-1)
    if shape[b] == 1:
        own = own.any(axis=-1, keepdims=True)
    else:
        own = np.repeat(own, shape[b] // P, axis=-1)
    return np.broadcast_to(own.reshape((*own.shape, *(1,) * (len(shape) - b - 1))), shape)


def _as_truth(values: Any, _: int) -> Truth:
    if isinstance(values, Truth):
        return values
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{values!r}: a condition must be true or false, or a comparison of quantities"
        )
    return Truth.of(array)


def _as_enclosure(values: Any, bits: int) -> Enclosure:
    array = as_array(values)
    return array if is_enclosure(array) else enclose(array, bits)


def _occurs(instance: Evaluable, shape: tuple[int, ...]) -> Truth:
    """Elements of prompts that can occur, broadcastable to `shape`."""
    b = len(instance.batch_shape)
    occurs: Any = instance.counts.any()
    if shape[b] > 1:
        occurs = np.repeat(instance.counts, shape[b] // len(instance.counts))
    return Truth.of(np.broadcast_to(np.reshape(occurs, (-1, *(1,) * (len(shape) - b - 1))), shape))


def _spread(values: Any, shape: tuple[int, ...]) -> Any:
    """Broadcast values of a batch, of its prompts, or of their responses: axes are added last."""
    values = _with_axes(values, len(shape))
    if is_enclosure(values):
        return values._each(lambda part: np.broadcast_to(part, shape))
    return np.broadcast_to(values, shape)


def _spread_truth(values: Any, shape: tuple[int, ...]) -> Truth:
    truth = Truth.of(values)
    return Truth(_spread(truth.certain, shape), _spread(truth.possible, shape))


def _with_axes(values: Any, axes: int) -> Any:
    """Add axes of length one at the end, up to `axes`, unless the values are one number."""
    return values.reshape((*values.shape, *(1,) * (axes - values.ndim))) if values.ndim else values


def _judged(
    statement: Statement[Any],
    instance: Evaluable,
    bits: int,
    sides: tuple[Enclosure, Enclosure],
    assumed: Truth,
    vacuous: np.ndarray,
    tests: np.ndarray,
) -> Check:
    """Read the verdict off the ends of both sides and of their difference."""
    left, right = sides
    slack = right - left
    one = (left.lower(), left.upper())
    other = (right.lower(), right.upper())
    low = slack.lower()
    high = slack.upper()
    unknown = left.is_nan() | right.is_nan()
    if statement.equality:
        equal = Truth.of(left == right)
        same = equal.certain  # both are the same infinity, or the same exact number
        apart = np.maximum(np.abs(low), np.abs(high))
        violated = ~equal.possible
        holds = same | (apart <= EQUAL_WITHIN * _size(one, other, assumed.possible, instance))
    else:
        endless = Truth.of(right == np.inf).certain | Truth.of(left == -np.inf).certain
        signs = Truth.of(slack >= 0)
        holds = signs.certain | endless
        violated = ~signs.possible & ~endless
    decided = np.where(violated, VIOLATED, np.where(holds, HOLDS, UNDECIDED))
    codes = np.where(unknown, UNDECIDED, decided)
    # where it is uncertain whether the statement applies, only what holds in any case is decided
    uncertain = assumed.possible & ~assumed.certain
    codes = np.where(uncertain & (codes == VIOLATED), UNDECIDED, codes)
    codes = np.where(assumed.possible, codes, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        error = high / 2 - low / 2
        middles = [np.where(a == z, a, a / 2 + z / 2) for a, z in (one, other)]
    return Check(
        statement,
        bits,
        middles[0],
        middles[1],
        np.where(np.isnan(error), 0.0, error),
        assumed.certain,
        uncertain,
        vacuous,
        tests | (codes == VIOLATED),
        codes,
        unknown,
        np.stack([*one, *other]),
    )


def _size(one: Any, other: Any, counted: np.ndarray, instance: Evaluable) -> np.ndarray:
    """Size that an equality's difference is compared with: the largest number that its sides are
    certain to have on the prompt, and at most 1.

    Over the elements of one prompt, since a return of zero is a sum of terms as large as those of
    others. At most 1, so that a difference is small by itself too.
    """
    size = np.max([np.maximum(low, -high) for low, high in (one, other)], axis=0)
    size = np.where(counted & np.isfinite(size), np.maximum(size, 0.0), 0.0)
    b = len(instance.batch_shape)
    own = size.reshape((*size.shape[:b], len(instance.counts) if size.shape[b] > 1 else 1, -1))
    largest = np.minimum(own.max(axis=-1, keepdims=True), 1.0)
    return np.asarray(np.broadcast_to(largest, own.shape).reshape(size.shape))


@lru_cache(maxsize=1)
def enclosed(instance: Any, bits: int) -> Any:
    """Return ``instance.enclosed(bits)``, and the same for the next statement, which may read what
    this one has computed. It is kept, and the instance with it, until ``enclosed.cache_clear()``.
    """
    return instance.enclosed(bits)
