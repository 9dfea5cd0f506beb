"""Verdicts: a statement on instances, in doubles with an error bound, and in balls where that decides nothing.

A statement *holds*, is *violated*, or stays *undecided*. In floating point each slack ``right − left`` carries a bound
on its rounding error. Where the slack is inside it, and wherever a violation shows, the two sides are evaluated again
in rigorous ball arithmetic (`theory.intervals`), with more bits until the sign of the slack is certain or `PRECISIONS`
is used up. No tolerance turns *undecided* into *holds*.

What is evaluated is exact by definition: rewards and temperature as they are stored, `π_E` the soft-optimal policy of
these, `π̂` the softmax of its stored log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from theory.arrays import Array, expand
from theory.instance import Instance, Unit, single
from theory.intervals import ball, balls, precision
from theory.mdp import TokenMDP
from theory.policy import Policy
from theory.soft import soft_optimal

__all__ = ["Certificate", "Check", "Statement", "Summary", "Verdict", "certify", "check", "exactly", "summarise"]

Verdict = Literal["holds", "violated", "undecided"]

PRECISIONS = (128, 256, 512, 1024)
"""Bits of the balls, tried in turn."""

EQUAL_WITHIN = 1e-30
"""An equality holds when ball arithmetic bounds the difference of its sides by this much of their size (at least 1)."""

MAX_BALLS = 30_000
"""Rewards in a token MDP up to which it is evaluated in balls."""

MAX_CERTIFIED = 64
"""Instances of one statement that are evaluated in balls, those of least slack first."""


@dataclass(frozen=True)
class Statement:
    """One claim: ``left ≤ right`` (or ``left = right``) on every instance that satisfies `assumes`."""

    name: str
    source: str
    claim: str
    left: Callable[[Any], Array]
    right: Callable[[Any], Array]
    unit: Unit = "reward"
    equality: bool = False
    assumes: Callable[[Any], Array] | None = None
    ceiling: Callable[[Any], Array | float] | None = None
    """The most that `left` can ever be; a `right` at or above it says nothing (*vacuous*)."""
    root: bool = False
    """Whether `right` is `ceiling` times the square root of a quantity in nats, which near zero magnifies rounding."""


# --- In floating point ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Both sides of a statement on an instance, elementwise, and what follows from them in floating point."""

    statement: Statement
    left: Array
    right: Array
    error: Array
    applies: Array
    vacuous: Array

    @property
    def slack(self) -> Array:
        """``right − left``, or ``−|right − left|`` for an equality. An infinite bound leaves infinite slack."""
        with np.errstate(invalid="ignore"):
            slack = self.right - self.left
        return -np.abs(slack) if self.statement.equality else np.where(np.isposinf(self.right), np.inf, slack)

    @property
    def verdicts(self) -> Array:
        """``holds``, ``violated`` or ``undecided`` elementwise.

        An inequality whose slack is smaller than its rounding error is undecided. An equality holds, here, when its
        sides agree to within the rounding error. What is not a number is undecided.
        """
        slack = self.slack
        inside = "holds" if self.statement.equality else "undecided"
        decided = np.where(slack > self.error, "holds", np.where(slack < -self.error, "violated", inside))
        return np.where(np.isnan(slack), "undecided", decided)


def check(statement: Statement, instance: Any) -> Check:
    """Evaluate both sides of `statement` on `instance` (a batch of instances elementwise) in floating point."""
    left, right = np.broadcast_arrays(np.asarray(statement.left(instance)), np.asarray(statement.right(instance)))
    inner = left.ndim - len(instance.batch_shape)

    def spread(values: Any) -> Array:
        array = np.asarray(values)
        return np.broadcast_to(array if array.ndim in (0, left.ndim) else expand(array, inner), left.shape)

    quantity, bound = instance.rounding(statement.unit)
    error = spread(quantity if statement.equality else quantity + bound)
    applies = spread(True if statement.assumes is None else statement.assumes(instance))
    ceiling = statement.ceiling
    vacuous = right >= spread(ceiling(instance)) if ceiling is not None else np.zeros(left.shape, dtype=bool)
    if statement.root and ceiling is not None:
        # |c√(x ± δ) − c√x| is at most c√δ, and at most c²δ / c√x
        top, delta = spread(ceiling(instance)), spread(instance.rounding("nats")[0])
        error = error + np.minimum(top * np.sqrt(delta), top**2 * delta / np.maximum(right, 1e-300))
    return Check(statement, left, right, error, applies, vacuous)


# --- In balls -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """What ball arithmetic says of a statement on one instance."""

    verdict: Verdict
    bits: int
    """Precision at which it was decided, or the last that was tried."""
    least_slack: float
    """A lower bound on ``right − left``; for an equality minus an upper bound on ``|right − left|``."""


def certify(statement: Statement, instance: Instance, applies: Any = True) -> Certificate:
    """Decide `statement` on a single instance rigorously.

    Args:
        statement: the statement.
        instance: an instance without batch axes.
        applies: where the statement's assumptions hold, broadcastable to its two sides.

    Raises:
        ValueError: the instance has batch axes (take `theory.instance.single`).

    """
    if instance.batch_shape:
        raise ValueError(f"instance has batch axes {instance.batch_shape}: certify theory.instance.single(instance, k)")
    for bits in PRECISIONS:
        with precision(bits):
            exact = exactly(instance, bits)
            left, right = np.broadcast_arrays(
                *(np.asarray(side(exact), dtype=object) for side in (statement.left, statement.right))
            )
            where = np.broadcast_to(applies, left.shape)
            if statement.assumes is not None:  # in doubles an assumption may seem to hold by an ulp: here for certain
                certain = np.asarray(statement.assumes(exact), dtype=bool)
                where = where & np.broadcast_to(certain, left.shape)
            decided = [_decide(statement, a, b) for a, b in zip(left[where], right[where], strict=True)]
        verdicts = {verdict for verdict, _ in decided}
        if "violated" in verdicts or "undecided" not in verdicts:
            break
    slack = min((slack for _, slack in decided), default=float("inf"))
    return Certificate(_worst(verdicts or {"holds"}), bits, slack)


def _decide(statement: Statement, left: Any, right: Any) -> tuple[Verdict, float]:
    """Verdict on two balls, and a lower bound on the slack."""
    slack = ball(right) - ball(left)
    if not statement.equality:
        least = math.nextafter(float(slack.lower()), -math.inf)  # float() rounds to nearest
        return ("holds" if slack >= 0 else "violated" if slack < 0 else "undecided"), least
    apart = math.nextafter(float(slack.abs_upper()), math.inf)
    size = max(1.0, float(ball(left).abs_upper()))
    if not slack.contains(0):
        return "violated", -apart
    return ("holds" if apart <= EQUAL_WITHIN * size else "undecided"), -apart


@lru_cache(maxsize=16)
def exactly(instance: Instance, bits: int) -> Instance:
    """`instance` in balls of `bits` bits, by the definition at the head of this module; evaluate it in `precision`."""
    with precision(bits):
        weights = balls(instance.mdp.dynamics.prompt_weights)
        weights = weights / weights.sum()  # in doubles they sum to one up to rounding only
        mdp = TokenMDP(
            replace(instance.mdp.dynamics, prompt_weights=weights),
            tuple(map(balls, instance.mdp.rewards)),
            (ball(instance.mdp.reward_range[0]), ball(instance.mdp.reward_range[1])),
        )
        alpha = balls(instance.alpha)
        dynamics = replace(instance.policy.dynamics, prompt_weights=weights)
        gauge = instance.policy.log_normalizers
        policy = replace(
            Policy.from_logits(dynamics, [balls(table) for table in instance.policy.log_probs]),
            log_normalizers=None if gauge is None else tuple(map(balls, gauge)),
        )
        expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, policy, alpha, instance.responses, instance.rl_response)


# --- Over many instances --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A statement over many instances."""

    statement: Statement
    instances: int
    worst_ratio: float
    """Largest ``left/right`` where the right side is well above its rounding error; NaN for an equality."""
    smallest_slack: float
    left: float
    right: float
    """The two sides where the slack is smallest."""
    error_bound: float
    verdict: Verdict
    vacuous_share: float
    certified: int
    """Instances that were evaluated in balls: all that floating point left undecided or found violated (up to
    `MAX_CERTIFIED` of them, none above `MAX_BALLS` rewards), and for an equality the one whose sides differ most.
    """
    equal_within: float
    """What ball arithmetic bounds the difference of the two sides by: for an equality, and for an inequality that even
    balls leave undecided, as they must where its sides are the same number. NaN where there is none of these."""


def summarise(statement: Statement, instances: Iterable[Any]) -> Summary | None:
    """Evaluate a statement over instances; `None` where its assumptions hold on none of them."""
    cases = [case for instance in instances for case in _cases(check(statement, instance), instance)]
    if not cases:
        return None
    certificates = _certify_open(statement, cases)
    worst = min(cases, key=lambda case: case.slack.min())
    k = int(np.argmin(worst.slack))
    ratio = max((case.ratio for case in cases if not np.isnan(case.ratio)), default=float("nan"))
    return Summary(
        statement,
        len(cases),
        float("nan") if statement.equality else ratio,
        float(worst.slack[k]),
        float(worst.left[k]),
        float(worst.right[k]),
        float(worst.error[k]),
        _worst({case.verdict for case in cases}),
        float(np.mean(np.concatenate([case.vacuous for case in cases]))),
        len(certificates),
        max((-c.least_slack for c in certificates if statement.equality or c.verdict == "undecided"), default=math.nan),
    )


@dataclass(eq=False)
class _Case:
    """A statement on one instance of a batch, where its assumptions hold: flat arrays."""

    instance: Any
    index: int
    applies: Array
    left: Array
    right: Array
    slack: Array
    error: Array
    vacuous: Array
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """Largest ``left/right`` where the right side is well above its rounding error."""
        known = self.right > 1e3 * self.error  # below that, rounding is all there is
        with np.errstate(invalid="ignore"):
            ratios = self.left[known] / self.right[known]
        return float(np.nanmax(ratios)) if not np.isnan(ratios).all() else float("nan")

    @property
    def urgency(self) -> float:
        """Least slack in units of its error; what is not a number comes first."""
        with np.errstate(invalid="ignore", divide="ignore"):
            least = float(np.min(self.slack / self.error))
        return -np.inf if np.isnan(least) else least

    @property
    def certifiable(self) -> bool:
        """Whether the instance can be evaluated in balls, and is small enough for it."""
        if not isinstance(self.instance, Instance) or self.instance.mdp.dynamics.n_prefixes > MAX_BALLS:
            return False
        tables = (*self.instance.mdp.rewards, *self.instance.policy.log_probs)
        return all(isinstance(table, np.ndarray) and table.dtype == np.float64 for table in tables)


def _cases(result: Check, instance: Any) -> list[_Case]:
    """One case for each instance of the batch on which the assumptions hold somewhere."""
    inner = result.applies.shape[len(instance.batch_shape) :]
    n = int(np.prod(instance.batch_shape))
    columns = [
        np.reshape(x, (n, -1))
        for x in (result.left, result.right, result.slack, result.error, result.vacuous, result.verdicts)
    ]
    cases = []
    for index, applies in enumerate(result.applies.reshape(n, -1)):
        if applies.any():
            left, right, slack, error, vacuous, verdicts = (column[index][applies] for column in columns)
            verdict = _worst(set(verdicts.tolist()))
            cases.append(_Case(instance, index, applies.reshape(inner), left, right, slack, error, vacuous, verdict))
    return cases


def _certify_open(statement: Statement, cases: list[_Case]) -> list[Certificate]:
    """Evaluate in balls what floating point left open, and set those cases' verdicts. A violation ends the search."""
    open_cases = [case for case in cases if case.verdict != "holds"]
    if statement.equality:
        furthest = min(cases, key=lambda case: case.urgency)
        open_cases += [] if furthest in open_cases else [furthest]
    certificates: list[Certificate] = []
    for case in sorted((c for c in open_cases if c.certifiable), key=lambda case: case.urgency)[:MAX_CERTIFIED]:
        certificates.append(certify(statement, single(case.instance, case.index), case.applies))
        case.verdict = certificates[-1].verdict
        if case.verdict == "violated":
            break
    return certificates


def _worst(verdicts: Iterable[str]) -> Verdict:
    order: tuple[Verdict, ...] = ("violated", "undecided", "holds")
    return next(verdict for verdict in order if verdict in verdicts)
