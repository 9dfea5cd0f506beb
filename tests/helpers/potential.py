"""Whether two rewards differ by a potential only, which no policy sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from theory.arrays.namespace import Array
from theory.mdp.policy import require_same_dynamics
from theory.mdp.token_mdp import TokenMDP


class Potential(NamedTuple):
    """A potential ``Φ``, and the largest difference that it leaves unexplained.

    Example:
        >>> reward = TokenMDP.tree([[[0.0, 1.0]]])
        >>> potential_residual(reward, reward).residual.tolist()
        0.0
    """

    potential: tuple[np.ndarray, ...]
    """`H` arrays ``(*batch, n_h)``, reward units."""
    residual: Array
    """Largest ``|r₁ − r₂ − Φ(s⊕a) + Φ(s)|``: ``batch``, reward units."""


def potential_residual(
    one: TokenMDP, two: TokenMDP, visited: Sequence[np.ndarray] | None = None
) -> Potential:
    """Fit the potential of ``r₁(s,a) − r₂(s,a) = Φ(s⊕a) − Φ(s)``, ``Φ = 0`` after the last token.

    Layer by layer from the last, ``Φ(s)`` is halfway between the least and the greatest ``Φ(s⊕a) −
    r₁ + r₂`` of a row. If the rewards differ by a potential it is found and the residual is zero;
    if some ``Φ`` leaves a residual `δ`, this one leaves at most ``2Hδ``.

    Args:
        one: `r₁`.
        two: `r₂`, on the same dynamics.
        visited: the state-tokens to compare, `H` boolean tables ``(n_h, V)`` such as
            `Demonstrations.seen`: with a token, some token of its successor. All that both allow,
            by default.

    Raises:
        ValueError: the dynamics differ, or nothing is to be compared.

    Example:
        >>> one = TokenMDP.tree([[[0.0, 1.0]]])
        >>> shift, residual = potential_residual(one, TokenMDP.tree([[[0.0, 0.5]]]))
        >>> shift[0].tolist(), residual.tolist()  # r₁ − r₂ is 0 and ½
        ([-0.25], 0.25)
    """
    require_same_dynamics(one.dynamics, two.dynamics)
    dynamics = one.dynamics
    following: np.ndarray | None = None
    worst: list[np.ndarray] = []
    potential: list[np.ndarray] = []
    for h in reversed(range(one.horizon)):
        compared = np.ones((dynamics.layer_sizes[h], dynamics.vocab_size), dtype=bool)
        for mask in (
            one.dynamics.allowed[h],
            two.dynamics.allowed[h],
            None if visited is None else visited[h],
        ):
            compared = compared if mask is None else compared & mask
        wanted = dynamics.children(h, following) - (one.rewards[h] - two.rewards[h])
        least = np.where(compared, wanted, np.inf).min(axis=-1)
        greatest = np.where(compared, wanted, -np.inf).max(axis=-1)
        some = compared.any(axis=-1)
        following = np.where(
            some, (np.where(some, least, 0.0) + np.where(some, greatest, 0.0)) / 2, 0.0
        )
        potential.append(following)
        worst.append(np.where(some, greatest - least, -np.inf).max(axis=-1) / 2)
    residual = np.max(np.stack(worst), axis=0)
    if (residual < 0).any():
        raise ValueError(
            "visited: no state-token is left to compare; give at least one that both rewards allow"
        )
    return Potential(tuple(reversed(potential)), residual)
