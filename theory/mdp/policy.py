"""Policies: one table of log-probabilities for each layer.

Values come in two kinds, and every name of the package says which:

- *plain* value ``V^π_r = E_π[r(τ)]``;
- *regularised* value ``V^π_{r,α} = E_π[r(τ)] + α·H(π(τ))``, ``H`` the trajectory entropy in nats.

Functions that end in ``_values`` return one array ``(*batch, n_h)`` per layer (the value from that
state on); their singular averages the first layer over the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from theory.arrays.namespace import (
    Array,
    array_namespace,
    as_float,
    exp,
    expand,
    forbid,
    is_enclosure,
    like,
    require_positive,
    token_major,
)
from theory.arrays.tensors import numpy_can_read, through_numpy
from theory.mdp.checks import once_each
from theory.mdp.dynamics import Dynamics

__all__ = ["Policy", "Responses"]

Seed = int | np.random.Generator | None

NEVER = float("-inf")
"""Log-probability of a token that is never chosen."""


class Responses(NamedTuple):
    """Responses to prompts: the prompt of each and its tokens.

    Example:
        >>> Responses(np.array([0, 0]), np.array([[1, 0], [1, 1]])).tokens.shape  # N = 2, H = 2
        (2, 2)
    """

    prompts: Array
    """``(N,)`` indices of prompts."""
    tokens: Array
    """``(N, H)``, or ``(*batch, N, H)`` where each problem of a batch has its own."""


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy ``π(a|s)``. Build one with `from_logits`, `from_log_probs` or `from_probs`.

    A layer that is given several times as the same array is stored once.

    Log-probabilities are stored as given and read as exact logits; ``-inf`` is a token that is
    never chosen.

    Attributes:
        dynamics: the dynamics it acts on.
        log_probs: `H` tables ``(*batch, n_h, V)``, nats.
        log_normalizers: ``log Σ_a exp(logits)`` for each state, `H` arrays ``(*batch, n_h)`` (or `H
            + 1`, the last for the states after the last token), where the policy was read from
            logits. They are the *gauge* in which `theory.solve.reward.endogenous_reward` reads its
            reward; the policy itself does not depend on them.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0.0, 1.0]]]).dynamics
        >>> policy = Policy.from_logits(dynamics, [[[0.0, 2.0]]], temperature=2.0)
        >>> np.exp(policy.log_probs[0]).round(3).tolist()  # softmax of (0, 1)
        [[0.269, 0.731]]
    """

    dynamics: Dynamics
    log_probs: tuple[Array, ...]
    log_normalizers: tuple[Array, ...] | None = None

    @classmethod
    def from_logits(cls, dynamics: Dynamics, logits: Sequence[Any], temperature: Any = 1.0) -> Self:
        """Build ``softmax(logits/temperature)``; its normalisers are kept as the gauge.

        Args:
            dynamics: the dynamics to act on.
            logits: `H` tables ``(*batch, n_h, V)``; ``-inf`` forbids a token.
            temperature: the temperature at which the logits are sampled, scalar or ``batch``.

        Raises:
            ValueError: a shape does not fit, a logit is NaN or ``+inf``, a state has no token left.
        """
        if numpy_can_read(tuple(logits), temperature):
            return through_numpy(cls.from_logits, dynamics, tuple(logits), temperature)
        temperature = require_positive("temperature", temperature)

        def normalised(h: int, table: Array, mask: np.ndarray | None) -> tuple[Array, Array]:
            xp = array_namespace(table)
            unit = isinstance(temperature, float) and temperature == 1.0
            scaled = forbid(table if unit else table / expand(temperature, 2), mask)
            if bool(xp.any(xp.isnan(scaled) | (scaled == float("inf")))):
                raise ValueError(
                    f"logits[{h}] holds NaN or +inf: logits must be finite, or -inf for a "
                    "forbidden token"
                )
            top = xp.max(scaled, axis=-1, keepdims=True)
            if bool(xp.any(top == float("-inf"))):
                raise ValueError(
                    f"logits[{h}] forbids every token of some state: at least one must be allowed"
                )
            shifted = scaled - top
            log_total = xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
            return token_major(shifted - log_total), (top + log_total)[..., 0]

        tables = _check_tables("logits", logits, dynamics)
        log_probs, log_normalizers = zip(
            *once_each(normalised, tables, dynamics.allowed), strict=True
        )
        return cls(dynamics, log_probs, log_normalizers)

    @classmethod
    def from_log_probs(cls, dynamics: Dynamics, log_probs: Sequence[Any]) -> Self:
        """Build a policy from its log-probabilities, which are kept as they are.

        Raises:
            ValueError: a shape does not fit, or a row does not sum to one within 1e-9 (4e-6 in
                single precision); names the layer.
        """
        tables = _check_tables("log_probs", log_probs, dynamics)

        def check(h: int, table: Array, mask: np.ndarray | None) -> Array:
            xp = array_namespace(table)
            total = xp.sum(xp.exp(table), axis=-1)
            eps = 0.0 if is_enclosure(table) else float(xp.finfo(table.dtype).eps)
            off = ~(xp.abs(total - 1.0) <= max(1e-9, 32 * eps))  # also where the sum is NaN
            if bool(xp.any(off)):
                raise ValueError(
                    f"log_probs[{h}]: a row sums to {float(total[off][0]):.12g}, must be 1; use "
                    "Policy.from_logits"
                )
            if mask is not None and bool(xp.any(xp.exp(table) * like(~mask, table) > 0)):
                raise ValueError(
                    f"log_probs[{h}] gives probability to a forbidden token: use -inf there"
                )
            return token_major(table)

        return cls(dynamics, once_each(check, tables, dynamics.allowed))

    @classmethod
    def from_probs(cls, dynamics: Dynamics, probs: Sequence[Any]) -> Self:
        """Build a policy from its probabilities.

        Raises:
            ValueError: as `from_log_probs`, or a probability is negative.
        """
        tables = _check_tables("probs", probs, dynamics)

        def logarithm(h: int, table: Array) -> Array:
            if bool((table < 0).any()):
                raise ValueError(f"probs[{h}] holds a negative probability")
            return array_namespace(table).log(table)

        with np.errstate(divide="ignore"):
            logs = once_each(logarithm, tables)
        return cls.from_log_probs(dynamics, logs)

    def __repr__(self) -> str:
        """One line: no arrays."""
        gauge = "" if self.log_normalizers is None else ", read from logits"
        batch = f", batch {self.batch_shape}" if self.batch_shape else ""
        return f"<{type(self).__name__} {self.dynamics}{gauge}{batch}>"

    @property
    def probs(self) -> tuple[Array, ...]:
        """``π(a|s)``: `H` tables ``(*batch, n_h, V)``."""
        return tuple(map(exp, self.log_probs))

    def sample(self, n: int, seed: Seed = None, *, prompts: Any = None) -> Responses:
        """Sample `n` responses of a NumPy policy.

        Without batch axes or with them: each problem of a batch draws its own tokens.

        Args:
            n: number of responses.
            seed: a seed or a `numpy.random.Generator`; the same seed gives the same responses on
                one machine.
            prompts: ``(n,)`` indices; sampled from the prompt distribution by default.

        Example:
            >>> from theory import TokenMDP
            >>> policy = Policy.from_probs(TokenMDP.tree([[[0, 0]]]).dynamics, [[[0.25, 0.75]]])
            >>> print(round(policy.sample(100_000, seed=0).tokens.mean(), 2))
            0.75
        """
        rng = np.random.default_rng(seed)
        dynamics = self.dynamics
        if prompts is None:
            prompts = rng.choice(dynamics.n_prompts, size=n, p=dynamics.prompt_weights)
        prompts = np.asarray(prompts)
        batch = self.batch_shape
        tokens = np.empty((*batch, n, self.horizon), dtype=np.int64)
        states = np.broadcast_to(prompts, (*batch, n))
        grids = np.ix_(*(np.arange(size) for size in batch), np.arange(1))[:-1]
        for h in range(self.horizon):
            rows = self.log_probs[h][(*grids, states)]
            cumulative = np.cumsum(np.exp(rows), axis=-1)
            # The last token with probability catches a draw that rounding puts past the end.
            last = self.log_probs[h].shape[-1] - 1 - np.argmax(rows[..., ::-1] > -np.inf, axis=-1)
            draw = rng.random((*batch, n, 1)) * cumulative[..., -1:]
            tokens[..., h] = np.minimum((cumulative <= draw).sum(axis=-1), last)
            if h + 1 < self.horizon:
                states = dynamics.rule.step(h, states, tokens[..., h], dynamics.vocab_size)
        return Responses(prompts, tokens)

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.dynamics.horizon

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for a single policy."""
        return tuple(self.log_probs[0].shape[:-2])

    def as_tree(self) -> Policy:
        """Return the same policy with every prefix a state of its own.

        Raises:
            ValueError: the tree does not fit into memory.
        """
        states = self.dynamics.prefix_states()
        log_probs = tuple(
            token_major(t[..., s, :]) for t, s in zip(self.log_probs, states, strict=True)
        )
        normalizers = self.log_normalizers
        if normalizers is not None:
            normalizers = tuple(z[..., s] for z, s in zip(normalizers, states, strict=False))
        return Policy(self.dynamics.as_tree(), log_probs, normalizers)


def require_same_dynamics(one: Dynamics, two: Dynamics) -> None:
    """Raise `ValueError` unless both are the same dynamics."""
    if not one.same_as(two):
        raise ValueError(
            f"different dynamics: layers {one.layer_sizes[:4]}…, V={one.vocab_size} against layers "
            f"{two.layer_sizes[:4]}…, V={two.vocab_size}; build both on the same TokenMDP.dynamics"
        )


def _check_tables(name: str, tables: Sequence[Any], dynamics: Dynamics) -> tuple[Array, ...]:
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"{name} has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer"
        )
    arrays = once_each(lambda h, table: as_float(table), tables)
    for h, table in enumerate(arrays):
        expected = (*arrays[0].shape[:-2], dynamics.layer_sizes[h], dynamics.vocab_size)
        if table.ndim < 2 or tuple(table.shape) != expected:
            raise ValueError(f"{name}[{h}] has shape {tuple(table.shape)}: must be {expected}")
    return arrays
