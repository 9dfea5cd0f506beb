"""Instance search: gradient ascent for the token MDP that comes nearest to a bound.

An *objective* maps ``(mdp, alpha, epsilon)`` to the attained fraction left/right of a bound at an
exact worst case, one number for each MDP of the batch, in NumPy or with torch gradients. The worst
case over the ball is solved inside it; `search` varies the rewards, and `α` where it is free. The
result is a lower bound on the largest fraction.

Only `search` itself needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from theory.arrays.namespace import Array, require_positive_number
from theory.mdp.dynamics import require_tree_memory
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone

__all__ = [
    "Ascent",
    "Found",
    "Objective",
    "clone_fraction",
    "search",
]

Objective = Callable[[TokenMDP, Any, float], Array]
"""``(mdp, alpha, epsilon)`` to the attained fraction of a bound, ``batch``; rewards in [0, 1]."""

LEARNING_RATE = 0.2
"""Adam's first step in logits of the rewards and in ``log α``; it falls to zero along a cosine."""

POLISHED = 8
"""Number of starts that are rounded and refined."""


class Ascent(NamedTuple):
    """Effort of a search: number of starts and steps, and the seed.

    Example:
        >>> Ascent(restarts=8)
        Ascent(restarts=8, steps=400, seed=0)
    """

    restarts: int = 64
    """Random starts, one batch."""
    steps: int = 400
    """Steps of Adam."""
    seed: int = 0
    """Seed of the starts."""


class Found(NamedTuple):
    """The best instance that a search found.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> Found(mdp, alpha=10.0, epsilon=0.1, ratio=1.0).ratio
        1.0
    """

    mdp: TokenMDP
    """On the tree, one prompt, rewards in [0, 1], NumPy."""
    alpha: float
    epsilon: float
    ratio: float
    """Attained fraction of the bound, recomputed in NumPy with the exact adversary."""


def clone_fraction(bound: Callable[[int, float], Array]) -> Objective:
    """Return the objective ``(V^{π_E} − min_π̂ V^π̂) / bound(H, ε)``: share of a cloning bound that
    is attained.

    Args:
        bound: a cloning bound of `theory.claims.bounds` in ``(H, ε)``, for instance
            `clone_gap_stepwise`.

    Example:
        >>> from theory.claims import bounds
        >>> fraction = clone_fraction(bounds.clone_gap_stepwise)
        >>> fraction(TokenMDP.tree([[[0.0, 1.0]]]), 10.0, 0.1).round(3).tolist()  # at ε = 1/α: 1
        1.0
    """

    def fraction(mdp: TokenMDP, alpha: Any, epsilon: float) -> Array:
        expert = soft_optimal(mdp, alpha).policy
        worst = mdp.dynamics.average(worst_clone(mdp, expert, epsilon).values[0])
        return (plain_value(mdp, expert) - worst) / float(bound(mdp.horizon, epsilon))

    return fraction


def search(
    objective: Objective,
    vocab_size: int,
    horizon: int,
    epsilon: float,
    *,
    alpha: float | None = None,
    ascent: Ascent = Ascent(),  # noqa: B008
) -> Found:
    """Search for the token MDP of largest `objective`: Adam on all rewards, then rounding.

    Rewards are logistic in free parameters, and all starts run as one batch. What the best
    `POLISHED` starts reached is taken as it is and with each reward rounded to 0 or 1 (extreme
    rewards are often best), with ``log α`` refined, and the best of all is returned. The same
    arguments give the same answer on one machine.

    Args:
        objective: what to maximise, see `Objective`.
        vocab_size: `V`.
        horizon: `H`; the tree has about ``V^H`` rewards.
        epsilon: radius of the ball, nats.
        alpha: temperature; free by default, started on a grid from 0.1 to ``10 H/ε``.
        ascent: number of starts and steps, and the seed.

    Raises:
        ValueError: a size is below 1, a parameter is not positive and finite, the trees do not fit
            into memory, or the objective is NaN on all that was found.
        ImportError: torch is not installed.

    Example:
        >>> from theory.claims import bounds
        >>> found = search(clone_fraction(bounds.clone_gap_stepwise), 2, 2, 0.1)  # doctest: +SKIP
        >>> round(found.ratio, 6)  # doctest: +SKIP
        1.0
    """
    restarts, steps, _ = ascent
    sizes = {"vocab_size": vocab_size, "horizon": horizon, "restarts": restarts, "steps": steps}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    radius = require_positive_number("epsilon", epsilon)
    fixed = None if alpha is None else require_positive_number("alpha", alpha)
    # Rewards, gradients, two moments and the backward sweep's tape: a few dozen numbers a prefix.
    require_tree_memory(vocab_size, horizon, restarts, "searching trees", bytes_per_prefix=8 * 32)
    tables, alphas = _ascend(objective, vocab_size, horizon, radius, fixed, ascent)
    scores = objective(TokenMDP.tree(tables), alphas, radius)
    found: list[Found] = []
    for i in np.argsort(-scores, kind="stable")[:POLISHED]:
        for finish in (np.asarray, np.round):
            mdp = TokenMDP.tree([finish(table[i]) for table in tables])
            tried = [float(alphas[i])]
            if fixed is None:
                tried.append(_refined(objective, mdp, tried[0], radius))
            found += [Found(mdp, a, radius, float(objective(mdp, a, radius))) for a in tried]
    ratios = [candidate.ratio for candidate in found]
    if np.isnan(ratios).all():
        raise ValueError(
            "objective: NaN on every instance found; it must be a number wherever rewards are in "
            "[0, 1]"
        )
    return found[int(np.nanargmax(ratios))]


def _ascend(
    objective: Objective,
    V: int,
    H: int,
    epsilon: float,
    alpha: float | None,
    ascent: Ascent,
) -> tuple[list[Array], Array]:
    """Rewards ``(restarts, V^h, V)`` by layer and temperatures ``(restarts,)`` after Adam."""
    import torch

    restarts, steps, seed = ascent
    rng = np.random.default_rng(seed)
    shapes = [(restarts, V**h, V) for h in range(H)]
    dynamics = TokenMDP.tree([np.zeros(shape[1:]) for shape in shapes]).dynamics
    logits = [torch.tensor(rng.normal(0.0, 2.0, shape), requires_grad=True) for shape in shapes]
    grid = (
        np.geomspace(0.1, max(10 * H / epsilon, 1.0), restarts)
        if alpha is None
        else np.full(restarts, alpha)
    )
    log_alpha = torch.tensor(np.log(grid), requires_grad=alpha is None)
    optimiser = torch.optim.Adam(
        [*logits, log_alpha] if alpha is None else logits, lr=LEARNING_RATE
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        mdp = TokenMDP(dynamics, tuple(torch.sigmoid(table) for table in logits))
        (-objective(mdp, torch.exp(log_alpha), epsilon)).sum().backward()
        optimiser.step()
        schedule.step()
    tables = [torch.sigmoid(table.detach()).numpy() for table in logits]
    return tables, np.exp(log_alpha.detach().numpy())


def _refined(objective: Objective, mdp: TokenMDP, alpha: float, epsilon: float) -> float:
    """The temperature of largest objective, at most a factor `e` from `alpha`."""

    def loss(log_alpha: float) -> float:
        return -float(objective(mdp, math.exp(log_alpha), epsilon))

    ends = (math.log(alpha) - 1, math.log(alpha) + 1)
    around = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-9})
    return math.exp(around.x)
