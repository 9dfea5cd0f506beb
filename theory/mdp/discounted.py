"""Token MDPs without end: rewards discounted by `γ`, on states that recur.

A *stationary policy* is a table of log-probabilities ``(n, V)``; values are ``(n,)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

from theory.mdp.checks import check_reward_range, check_weights, first_index

__all__ = ["DiscountedMDP", "reachable", "require_stationary"]


@dataclass(frozen=True, eq=False)
class DiscountedMDP:
    """A token MDP without end. Build one with `table` or `window`, which check their arguments.

    Attributes:
        rewards: ``(n, V)``, reward units.
        next_states: ``(n, V)``, the state that each token leads to.
        discount: `γ`, between 0 and 1.
        initial_weights: ``(n,)``, the distribution of the first state.
        reward_range: the interval that every reward lies in. Bounds scale with its width.

    Example:
        >>> mdp = DiscountedMDP.window([[0.0, 1.0], [0.5, 0.5]], size=1, discount=0.9)
        >>> mdp.next_states.tolist(), round(mdp.effective_horizon, 6)
        ([[0, 1], [0, 1]], 10.0)
    """

    rewards: np.ndarray
    next_states: np.ndarray
    discount: float
    initial_weights: np.ndarray
    reward_range: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def table(
        cls,
        rewards: Any,
        next_states: Any,
        discount: float,
        *,
        initial_weights: Any = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> Self:
        """Build an MDP whose successors are given by table.

        Args:
            rewards: ``(n, V)``.
            next_states: ``(n, V)`` integers from 0 to ``n − 1``.
            discount: `γ`, strictly between 0 and 1.
            initial_weights: ``(n,)``, non-negative, of sum one; uniform by default.
            reward_range: interval that the rewards must lie in.

        Raises:
            ValueError: names the argument and the value.
        """
        table = np.asarray(rewards, dtype=np.float64)
        links = np.asarray(next_states)
        if table.ndim != 2 or 0 in table.shape:
            raise ValueError(
                f"rewards has shape {table.shape}: must be (n, V), states by tokens, both at least "
                "1"
            )
        if links.shape != table.shape or links.dtype.kind not in "iu":
            raise ValueError(
                f"next_states: {links.dtype} of shape {links.shape}, must be integers {table.shape}"
            )
        if links.min() < 0 or links.max() >= len(table):
            raise ValueError(
                f"next_states holds {links.min()} to {links.max()}: states are 0 to "
                f"{len(table) - 1}"
            )
        if not 0 < discount < 1:
            raise ValueError(
                f"discount={discount}: must be strictly between 0 and 1; for a fixed length use "
                "TokenMDP"
            )
        low, high = check_reward_range(reward_range)
        outside = ~((table >= low) & (table <= high))
        if outside.any():
            raise ValueError(
                f"rewards holds {table[outside][0]:.6g} at {first_index(outside)}, outside "
                f"reward_range=({low:g}, {high:g}): rewards must be finite; pass "
                "reward_range=(low, high)"
            )
        weights = check_weights("initial_weights", initial_weights, len(table))
        return cls(table, links.astype(np.intp), float(discount), weights, (low, high))

    @classmethod
    def window(cls, rewards: Any, size: int, discount: float, **options: Any) -> Self:
        """Build an MDP whose states are the last `size` tokens, read as a number in base `V`.

        The newest token is the last digit.

        Args:
            rewards: ``(V^size, V)``.
            size: how many tokens a state remembers, at least one.
            discount: see `table`.
            **options: see `table`.

        Raises:
            ValueError: names the argument and the value.
        """
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(
                f"size={size!r}: give the number of tokens a state remembers, 1 or more"
            )
        n, V = np.shape(rewards) if np.ndim(rewards) == 2 else (0, 0)
        if n == 0 or n != V**size:
            raise ValueError(
                f"rewards has shape {np.shape(rewards)}: must be (V^{size}, V) for size={size}"
            )
        return cls.table(
            rewards, (np.arange(n)[:, None] * V + np.arange(V)) % n, discount, **options
        )

    def __str__(self) -> str:
        """Sizes, discount and the range of the rewards, in words."""
        low, high = self.reward_range
        states, vocab_size = self.rewards.shape
        return f"{states:,} states, V={vocab_size}, γ={self.discount}, rewards in [{low}, {high}]"

    def __repr__(self) -> str:
        """One line: no arrays."""
        return f"<{type(self).__name__} {self}>"

    @property
    def vocab_size(self) -> int:
        """Number of tokens `V`."""
        return int(self.rewards.shape[1])

    @property
    def effective_horizon(self) -> float:
        """``1/(1−γ)``."""
        return 1 / (1 - self.discount)

    @property
    def reward_width(self) -> float:
        """Width of the reward range, the `R` that bounds scale with."""
        return self.reward_range[1] - self.reward_range[0]

    def average(self, values: np.ndarray) -> float:
        """Average of values ``(n,)`` over the first state."""
        return float(self.initial_weights @ values)

    def q_values(self, values: np.ndarray) -> np.ndarray:
        """``r(s,a) + γ V(s')``: ``(n, V)``."""
        table: np.ndarray = self.rewards + self.discount * values[self.next_states]
        return table

    def with_rewards(self, rewards: np.ndarray) -> Self:
        """Return the same states with rewards ``(n, V)`` and their range as `reward_range`."""
        return replace(
            self, rewards=rewards, reward_range=(float(rewards.min()), float(rewards.max()))
        )


def reachable(mdp: DiscountedMDP) -> np.ndarray:
    """Return whether state `t` is reached from state `s`, `s` itself included: ``(n, n)``, boolean.

    Example:
        >>> mdp = DiscountedMDP.table(np.zeros((2, 1)), [[1], [1]], discount=0.5)
        >>> reachable(mdp).tolist()
        [[True, True], [False, True]]
    """
    n, V = mdp.rewards.shape
    links = csr_matrix(
        (np.ones(n * V), mdp.next_states.ravel(), np.arange(0, n * V + 1, V)), shape=(n, n)
    )
    found: np.ndarray = np.isfinite(shortest_path(links, unweighted=True))
    return found


def require_stationary(name: str, log_probs: Any, mdp: DiscountedMDP) -> tuple[np.ndarray, float]:
    """Return a stationary policy and the largest distance of a row's sum from one.

    Raises:
        ValueError: `log_probs` has another shape than ``(n, V)``, or a row does not sum to one.

    Example:
        >>> mdp = DiscountedMDP.table(np.zeros((1, 2)), [[0, 0]], discount=0.5)
        >>> require_stationary("policy", np.log([[0.5, 0.25]]), mdp)
        Traceback (most recent call last):
        ValueError: policy: row 0 sums to 0.75, must be 1: give log-probabilities
    """
    table = np.asarray(log_probs, dtype=np.float64)
    if table.shape != mdp.rewards.shape:
        raise ValueError(
            f"{name} has shape {table.shape}: must be {mdp.rewards.shape}, log-probabilities"
        )
    off = np.abs(np.exp(table).sum(axis=1) - 1.0)
    if not (off <= 1e-9).all():
        state = int(np.argmin(off <= 1e-9))
        raise ValueError(
            f"{name}: row {state} sums to {np.exp(table[state]).sum():.12g}, must be 1: give "
            "log-probabilities"
        )
    return table, float(off.max())
