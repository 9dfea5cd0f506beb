"""Demonstrations: how often an expert chose each token in each state.

The log-likelihood of a policy, the feature expectations of MaxEnt IRL and the objective of inverse
soft-Q learning are sums over demonstrated tokens, so the counts by state are a sufficient
statistic: all that any route to a reward reads. They form a *flow*: as many responses arrive in a
state as tokens are chosen in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from theory.arrays.memory import require_memory
from theory.arrays.namespace import Array, token_major
from theory.mdp.checks import first_index
from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy, Seed, require_same_dynamics
from theory.mdp.responses import Responses, check_responses
from theory.mdp.values import occupancy

__all__ = ["Demonstrations"]

ROUNDING = 1e-9
"""Weights are a flow if arrivals and departures agree to this fraction of the total weight."""


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Counts of tokens by state. Build them with `from_responses`, `sample`, `of_policy` or counts.

    Counted responses are ``int64`` and exact; weights, such as the probabilities of `of_policy`,
    are ``float64``. The sum of the two is one of weights. Every function takes either, except where
    it says that it needs counts.

    Attributes:
        dynamics: states, successors, forbidden tokens, prompts.
        counts: `H` tables ``(*batch, n_h, V)``: a data set, or a batch of them.

    Raises:
        ValueError: a shape does not fit, a count is negative or not finite, a forbidden token was
            chosen, a data set is empty, or the counts are not a flow. Names the layer and the
            value.

    Example:
        >>> from theory import TokenMDP
        >>> dynamics = TokenMDP.tree([[[0, 0]], [[0, 0]] * 2]).dynamics
        >>> responses = Responses(np.array([0, 0, 0]), np.array([[0, 1], [0, 0], [1, 1]]))
        >>> data = Demonstrations.from_responses(dynamics, responses)
        >>> [table.tolist() for table in data.counts]
        [[[2, 1]], [[1, 1], [0, 1]]]
    """

    dynamics: Dynamics
    counts: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        tables = tuple(_as_counts(h, table) for h, table in enumerate(self.counts))
        if len({table.dtype for table in tables}) > 1:
            tables = tuple(table.astype(np.float64) for table in tables)
        object.__setattr__(self, "counts", tuple(token_major(table) for table in tables))
        _check_counts(self.dynamics, self.counts)

    @classmethod
    def from_responses(cls, dynamics: Dynamics, responses: Responses) -> Self:
        """Count the tokens of responses.

        Args:
            dynamics: the dynamics whose states are counted.
            responses: ``prompts (N,)`` and ``tokens (N, H)``, or ``(*batch, N, H)`` for a batch of
                data sets.

        Raises:
            ValueError: no responses, a wrong length, a token or a prompt that is not there, or a
                forbidden token.
        """
        prompts, tokens = check_responses("responses", responses, dynamics, batch=True)
        V = dynamics.vocab_size
        batch = tokens.shape[:-2]
        sets = int(np.prod(batch))
        counts = []
        for h, states in enumerate(dynamics.walk(prompts, tokens)):
            size = dynamics.layer_sizes[h] * V
            chosen = np.broadcast_to(states * V + tokens[..., h], tokens.shape[:-1]).reshape(
                sets, -1
            )
            found = np.bincount(
                (chosen + size * np.arange(sets)[:, None]).reshape(-1), minlength=size * sets
            )
            counts.append(found.reshape(*batch, -1, V))
        return cls(dynamics, tuple(counts))

    @classmethod
    def sample(cls, expert: Policy, n: Any, seed: Seed = None) -> Self:
        """Sample the counts of `n` independent responses of `expert`, not the responses.

        Of the responses in a state, the numbers that choose each token are multinomial,
        independently of how they came there; so the counts of a layer give those of the next, with
        exactly the distribution of `from_responses` of `n` sampled responses. The cost does not
        depend on `n`.

        Args:
            expert: a NumPy policy, without or with batch axes.
            n: number of responses, an integer or an array of them (``batch``), one for each
                independent data set; its axes broadcast with those of `expert`.
            seed: a seed or a `numpy.random.Generator`.

        Raises:
            ValueError: `n` is not a positive integer, the axes do not broadcast, or the counts do
                not fit into memory.
        """
        rng = np.random.default_rng(seed)
        dynamics = expert.dynamics
        numbers = np.asarray(n)
        if numbers.dtype.kind not in "iu" or (numbers < 1).any():
            raise ValueError(
                f"n={n!r}: must be one positive integer per data set, the number of responses"
            )
        try:
            batch = np.broadcast_shapes(numbers.shape, expert.batch_shape)
        except ValueError:
            shapes = f"n of shape {numbers.shape}, an expert of batch {expert.batch_shape}"
            raise ValueError(f"{shapes} do not broadcast: give axes that do") from None
        require_memory(
            16 * int(np.prod(batch)) * dynamics.n_prefixes,
            "the table of counts",
            "use fewer data sets or states",
        )
        arrived = _multinomial(rng, np.broadcast_to(numbers, batch), dynamics.prompt_weights)
        counts = []
        for h, log_probs in enumerate(expert.log_probs):
            counts.append(
                _multinomial(rng, arrived, np.exp(np.asarray(log_probs, dtype=np.float64)))
            )
            if h + 1 < dynamics.horizon:
                arrived = dynamics.push(h, counts[-1])
        return cls(dynamics, tuple(counts))

    @classmethod
    def of_policy(cls, policy: Policy) -> Self:
        """Weights in the limit of infinitely many responses: ``ρ_h(s) π(a|s)``.

        Args:
            policy: a NumPy policy, without or with batch axes.
        """
        visits = occupancy(policy)
        return cls(
            policy.dynamics,
            tuple(m[..., None] * np.exp(t) for m, t in zip(visits, policy.log_probs, strict=True)),
        )

    def __add__(self, other: Demonstrations) -> Demonstrations:
        """Join both data sets; batch axes broadcast."""
        if not isinstance(other, Demonstrations):
            return NotImplemented
        require_same_dynamics(self.dynamics, other.dynamics)
        return Demonstrations(
            self.dynamics, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        )

    def __getitem__(self, index: Any) -> Demonstrations:
        """Return data sets of a batch: `index` goes to the leading axes."""
        at = index if isinstance(index, tuple) else (index,)
        if len(at) > len(self.batch_shape):
            raise IndexError(f"index {index!r} for data sets of batch {self.batch_shape}")
        return Demonstrations(self.dynamics, tuple(table[at] for table in self.counts))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for one data set."""
        return tuple(self.counts[0].shape[:-2])

    @cached_property
    def n(self) -> Array:
        """Number of responses, or their total weight: ``batch``."""
        return self.counts[0].sum(axis=(-2, -1))

    @cached_property
    def state_counts(self) -> tuple[np.ndarray, ...]:
        """How often each state was visited: `H` arrays ``(*batch, n_h)``."""
        return tuple(table.sum(axis=-1) for table in self.counts)

    @property
    def visited(self) -> tuple[np.ndarray, ...]:
        """Whether each state was visited: `H` boolean arrays ``(*batch, n_h)``."""
        return tuple(count > 0 for count in self.state_counts)

    @property
    def seen(self) -> tuple[np.ndarray, ...]:
        """Whether each token was chosen in each state: `H` boolean tables ``(*batch, n_h, V)``."""
        return tuple(table > 0 for table in self.counts)

    @property
    def frequencies(self) -> tuple[np.ndarray, ...]:
        """Occupancy in the data, ``counts/n``: `H` tables ``(*batch, n_h, V)``, each of sum one."""
        return tuple(table / self.n[..., None, None] for table in self.counts)

    def log_likelihood(self, policy: Policy) -> Array:
        """Mean log-likelihood of a response, ``(1/n) Σ_D log π(a|s)``: ``batch``, nats (eq. 2).

        Minus infinity where a token was demonstrated that `policy` never chooses.
        """
        require_same_dynamics(self.dynamics, policy.dynamics)
        total: Array = 0.0
        for share, log_probs in zip(self.frequencies, policy.log_probs, strict=True):
            total = total + (share * np.where(share > 0, log_probs, 0.0)).sum(axis=(-2, -1))
        return total


def _multinomial(rng: np.random.Generator, n: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Sample counts of `n` ``(*shape,)`` draws from rows ``(*shape, V)``: ``(*shape, V)``."""
    drawn: np.ndarray = rng.multinomial(n, probs / probs.sum(axis=-1, keepdims=True))
    # NumPy gives what rounding leaves over to the last token, which may have probability zero:
    # such counts are given to the most probable token.
    stray = np.where(probs > 0, 0, drawn)
    if stray.any():
        drawn = drawn - stray
        likeliest = np.arange(probs.shape[-1]) == probs.argmax(axis=-1)[..., None]
        drawn = drawn + likeliest * stray.sum(axis=-1, keepdims=True)
    return drawn


def _as_counts(h: int, table: Any) -> np.ndarray:
    array = np.asarray(table)
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"counts[{h}] has dtype {array.dtype}: must hold integer counts or floating-point "
            "weights"
        )
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64, copy=False)


def _check_counts(dynamics: Dynamics, counts: Sequence[np.ndarray]) -> None:
    if len(counts) != dynamics.horizon:
        raise ValueError(
            f"counts has {len(counts)} tables for a horizon of {dynamics.horizon}: one per layer"
        )
    batch = counts[0].shape[:-2]
    arrived = None
    for h, table in enumerate(counts):
        expected = (*batch, dynamics.layer_sizes[h], dynamics.vocab_size)
        if table.ndim < 2 or table.shape != expected or 0 in batch:
            raise ValueError(
                f"counts[{h}] has shape {table.shape}: must be {expected}, states by tokens"
            )
        bad = ~((table >= 0) & np.isfinite(table))
        if bad.any():
            raise ValueError(
                f"counts[{h}] holds {table[bad][0]} at {first_index(bad)}: counts must be "
                "finite, not negative"
            )
        mask = dynamics.allowed[h]
        if mask is not None and (table * ~mask).any():
            where = first_index((table > 0) & ~mask)
            raise ValueError(
                f"counts[{h}] holds {table[where]} at {where}, a forbidden token: must be 0 there"
            )
        left = table.sum(axis=-1)
        total = left.sum(axis=-1)
        if (total == 0).any():
            raise ValueError(f"counts[{h}] sums to 0: a data set needs at least one response")
        slack = 0 if table.dtype == np.int64 else ROUNDING * total[..., None]
        if arrived is not None and (np.abs(left - arrived) > slack).any():
            where = first_index(np.abs(left - arrived) > slack)
            raise ValueError(
                f"counts[{h}] has {left[where]} tokens in state {where} where counts[{h - 1}] "
                f"sends {arrived[where]} "
                "responses: count whole responses, on these dynamics"
            )
        arrived = dynamics.push(h, table) if h + 1 < len(counts) else None
