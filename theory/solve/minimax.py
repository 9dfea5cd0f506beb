"""The minimax constant: what the worst policy of the ball loses on the worst token MDP.

No family of instances and no sampling. For every horizon there is a certified upper value, which no
token MDP with rewards in [0, 1] exceeds, and a certified lower one, which a token MDP attains that
is made here. Proofs are in ``docs/minimax.md``.

A state of the worst case is the pair ``(u, t)``: `u` is its soft value above that of zero rewards,
``t = π̂/π_E`` the likelihood ratio of its prefix. With `E` the expert's plain value and `W` the
clone's, ``q_a = u + α log(V π_a)`` and ``s_a = tτ_a``,

    ``F_h(u,t) = sup E − tW − (1 − t)u = sup Σ_a π_a[(1 − s_a)(q_a − u) + M_h(q_a, s_a)]``,
    ``M_h(q,s) = sup {F_{h−1}(x, s): q − 1 ≤ x ≤ q}``, ``Σ π_a = Σ π_a τ_a = 1``, ``|log τ_a| ≤ ε``.

The constant is ``max_u F_H(u, 1)``. `F` is convex in `t`, and moving every soft value to a mesh
changes rewards by less than a step of it: that is what makes the computed values bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter1d

from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive_number
from theory.mdp.token_mdp import TokenMDP
from theory.solve.climb import TwoKinds, climb

__all__ = ["Ball", "Mesh", "Minimax", "require_mesh"]

ROUNDING = 2.0**-40
"""Share of the size of its terms that each backup adds: over a thousand times what rounding can
take away.
"""

NEAR = 1e-9
"""Steps of the mesh within which a soft value counts as lying on it, and so in both cells."""

LARGEST_EXPONENT = 600.0
"""Of what probabilities and likelihood ratios are powers of `e` in: far from overflow."""

FINEST = 1e5
"""Steps of the mesh in `α`, up to which rounding is far below `NEAR`."""

BLOCK = 2_000_000
"""States times splits that are compared at once."""


class Mesh(NamedTuple):
    """Steps of soft values in a unit of reward, and of likelihood ratios in a factor ``e^ε``.

    What the upper value loses is at most twice the step of the soft values, of its own size, and
    quadratic in the step of the ratios.

    Example:
        >>> Mesh(per_reward=32).per_epsilon
        8
    """

    per_reward: int = 128
    per_epsilon: int = 8


class Ball(NamedTuple):
    """What the constant depends on besides the horizon.

    Example:
        >>> Ball(vocab_size=2, alpha=1.0, epsilon=0.1).alpha
        1.0
    """

    vocab_size: int
    """Number of tokens `V`."""
    alpha: float
    """Temperature of the expert, reward units."""
    epsilon: float
    """Radius in nats."""


class Split(NamedTuple):
    """One way to divide the tokens of a state into two groups of equal tokens.

    Soft values of the groups are those of the state plus ``offset`` steps of the mesh, or up to one
    step more; ``crossing`` groups lie on a step.
    """

    shares: tuple[float, float]
    """Of the vocabulary, in each group."""
    masses: tuple[float, float]
    """The expert's, on each group; apart, since one may be below the last digit of the other."""
    log_tilts: tuple[float, float]
    offsets: tuple[int, int]
    crossing: tuple[bool, bool]


class Minimax:
    """The recursion for one ball, up to a horizon: upper values, and token MDPs that nearly attain
    them.

    Args:
        ball: tokens, temperature and radius.
        horizon: `H`; shorter horizons come with it.
        mesh: see `Mesh`.

    Raises:
        ValueError: a parameter is out of range, or the mesh does not fit into memory.

    Example:
        >>> worst = Minimax(Ball(2, alpha=1.0, epsilon=0.1), horizon=4)
        >>> [round(worst.upper(H), 3) for H in (1, 2, 3, 4)]
        [0.028, 0.058, 0.089, 0.122]
        >>> worst.hardest_mdp(4).dynamics.layer_sizes
        (1, 2, 4, 7)
    """

    def __init__(self, ball: Ball, horizon: int, mesh: Mesh = Mesh()) -> None:  # noqa: B008
        require_mesh(ball, horizon, mesh)
        self.ball = ball
        self.mesh = mesh
        self._tables = [np.zeros((2 * horizon * mesh.per_epsilon + 1, 1))]
        for h in range(1, horizon + 1):
            self._tables.append(_backup(self._tables[-1], ball, horizon, h, mesh))

    def upper(self, horizon: int) -> float:
        """Return a number that no cloning gap of two tokens exceeds, reward units: certified.

        It holds for every token MDP with rewards in [0, 1] and no token forbidden, an expert that
        is soft-optimal at `α`, and a policy within `ε` of it. It tends to the largest gap as the
        mesh is refined.

        Raises:
            ValueError: there are more than two tokens, or the horizon is not in the tables.
        """
        self._require(horizon)
        if self.ball.vocab_size != 2:
            raise ValueError(
                f"vocab_size={self.ball.vocab_size}: must be 2; for more, see theory.claims.bounds"
            )
        return float(_at_root(self._tables[horizon]).max())

    def hardest_mdp(self, horizon: int) -> TokenMDP:
        """Make a token MDP on which the worst clone loses nearly that: rewards in [0, 1].

        It has one prompt. Its states are those that the recursion reaches, pairs of a soft value
        and a likelihood ratio, and recur. In every state its tokens are of two kinds. Gradient
        steps on the rewards make up for what the mesh has lost.

        Raises:
            ValueError: the horizon is not in the tables.
        """
        self._require(horizon)
        start = self._followed(horizon)
        return climb(start, self.ball.alpha, self.ball.epsilon).token_mdp()

    def _require(self, horizon: int) -> None:
        if not 0 < horizon < len(self._tables):
            raise ValueError(f"horizon={horizon}: must be from 1 to {len(self._tables) - 1}")

    def _followed(self, horizon: int) -> TwoKinds:
        """Take the best split in every state that is reached, and in it the best legal rewards."""
        splits = _Splits.of(list(_splits(self.ball, horizon, self.mesh.per_reward)))
        states = np.array([[int(_at_root(self._tables[horizon]).argmax()), 0]])
        found = TwoKinds([], [], [])
        for h in range(horizon, 0, -1):
            table = self._tables[h - 1]
            taken = splits.take(_best_splits(table, states, splits, self.ball, h, self.mesh))
            rewards, children = _moves(table, states, taken, self.ball, self.mesh)
            states, index = np.unique(children.reshape(-1, 2), axis=0, return_inverse=True)
            found.rewards.append(rewards)
            found.children.append(index.reshape(-1, 2))
            found.sizes.append(np.rint(taken.shares * self.ball.vocab_size).astype(int))
        return found


def require_mesh(ball: Ball, H: int, mesh: Mesh) -> None:
    """Raise unless the recursion runs in doubles and fits into memory.

    Raises:
        ValueError: names the argument, the value and the remedy.

    Example:
        >>> require_mesh(Ball(1, alpha=1.0, epsilon=0.1), 4, Mesh())
        Traceback (most recent call last):
        ValueError: vocab_size=1: must be at least 2
    """
    for name, value, least in (
        ("vocab_size", ball.vocab_size, 2),
        ("horizon", H, 1),
        ("per_reward", mesh.per_reward, 1),
        ("per_epsilon", mesh.per_epsilon, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    alpha = require_positive_number("alpha", ball.alpha)
    epsilon = require_positive_number("epsilon", ball.epsilon)
    if (H + 1) / alpha + H * epsilon > LARGEST_EXPONENT:
        raise ValueError(
            f"alpha={alpha:g}, epsilon={epsilon:g}, horizon={H}: (H + 1)/alpha + H·epsilon must be "
            f"at most {LARGEST_EXPONENT:g} to stay within doubles: take a shorter horizon"
        )
    if alpha * mesh.per_reward > FINEST:
        raise ValueError(
            f"per_reward={mesh.per_reward}: times alpha={alpha:g} must be at most {FINEST:g}: take "
            "a coarser mesh"
        )
    numbers = H**3 * mesh.per_reward * mesh.per_epsilon / 3  # of all tables
    what = f"horizon={H}, per_reward={mesh.per_reward}, per_epsilon={mesh.per_epsilon}"
    require_memory(int(16 * numbers), what, "take a shorter horizon or a coarser mesh")


def _at_root(table: np.ndarray) -> np.ndarray:
    """The row at ``t = 1``."""
    row: np.ndarray = table[len(table) // 2]
    return row


def _ratios(horizon: int, h: int, epsilon: float, mesh: Mesh) -> np.ndarray:
    """Likelihood ratios `t` of the prefixes that leave `h` tokens, on the mesh."""
    n = (horizon - h) * mesh.per_epsilon
    ratios: np.ndarray = np.exp(epsilon / mesh.per_epsilon * np.arange(-n, n + 1))
    return ratios


# --- The best next soft value ---------------------------------------------------------------------


def _best_child(table: np.ndarray, n: int, below: int, above: int) -> np.ndarray:
    """``M``: the largest entry ``k − below … k + above`` of each row, for `n` cells `k`."""
    size = below + above + 1
    padded = np.full((len(table), n + 2 * size), -np.inf)
    padded[:, size : size + table.shape[1]] = table
    found: np.ndarray = maximum_filter1d(padded, size, axis=1, mode="constant", cval=-np.inf)
    start = size + size // 2 - below
    return found[:, start : start + n]


def _best_beside(cells: np.ndarray) -> np.ndarray:
    """The larger of the two cells that meet at each step of the mesh."""
    inner = np.maximum(cells[:, :-1], cells[:, 1:])
    return np.concatenate([cells[:, :1], inner, cells[:, -1:]], axis=1)


# --- One backup -----------------------------------------------------------------------------------


def _backup(table: np.ndarray, ball: Ball, H: int, h: int, mesh: Mesh) -> np.ndarray:
    N, J = mesh
    t = _ratios(H, h, ball.epsilon, mesh)
    n = h * N + 1
    cells = _best_child(table, n, N, 1)
    tables = cells, _best_beside(cells)
    found = np.full((len(t), n), -np.inf)
    for split in _splits(ball, h, N):
        valid = _valid(split, n)
        if valid is None:
            continue
        gain = _entropy_gain(split, t, ball.alpha)[:, None]
        for group, mass in enumerate(split.masses):
            at = tables[split.crossing[group]]
            columns = slice(valid.start + split.offsets[group], valid.stop + split.offsets[group])
            gain = gain + mass * _at_ratio(
                at[:, columns], split.log_tilts[group], ball.epsilon, J, len(t)
            )
        np.maximum(found[:, valid], gain, out=found[:, valid])
    found += _slack(ball, t, h, mesh, cells)
    return found


def _splits(ball: Ball, h: int, N: int) -> Iterator[Split]:
    """Splits between which the objective is convex, but for `_slack`: those where a group's soft
    value crosses a step of the mesh, and the one where the ball's constraint changes sides.
    """
    step = 1 / (N * ball.alpha)
    turn = 1 / (1 + math.exp(ball.epsilon))
    for share in _shares(ball.vocab_size):
        yield _split((share, 1 - share), (turn, 1 - turn), step, ball.epsilon)
        for own, first in ((share, True), (1 - share, False)):
            offsets = np.arange(-h * N - 1, math.floor(-math.log(own) / step) + 1)
            for mass in (own * np.exp(step * offsets)).tolist():
                if mass < 1:
                    masses = (mass, 1 - mass) if first else (1 - mass, mass)
                    yield _split((share, 1 - share), masses, step, ball.epsilon)


def _shares(V: int) -> list[float]:
    """Sizes of the first group over `V`: all up to 8 tokens, else about half a power of two apart,
    and what they leave.
    """
    sizes = {round(2 ** (i / 2)) for i in range(2 * V.bit_length())} if V > 8 else set(range(1, V))
    sizes = {n for n in sizes if n < V}
    return sorted(n / V for n in sizes | {V - n for n in sizes})


def _split(
    shares: tuple[float, float], masses: tuple[float, float], step: float, epsilon: float
) -> Split:
    """The split in which the first group is raised as far as the ball allows."""
    p, rest = masses
    if p <= 1 / (1 + math.exp(epsilon)):
        tilts = epsilon, max(math.log1p(-p * math.expm1(epsilon) / rest), -epsilon)
    else:
        tilts = min(math.log1p(-rest * math.expm1(-epsilon) / p), epsilon), -epsilon
    steps = [math.log(mass / share) / step for mass, share in zip(masses, shares, strict=True)]
    near = [abs(x - round(x)) < NEAR for x in steps]
    first, second = (round(x) if on else math.floor(x) for x, on in zip(steps, near, strict=True))
    return Split(shares, masses, tilts, (first, second), (near[0], near[1]))


def _valid(split: Split, n: int) -> slice | None:
    """The states `i` for which both groups have soft values that some tree has."""
    first = max(0, -min(split.offsets))
    last = min(
        n + crossing - offset
        for offset, crossing in zip(split.offsets, split.crossing, strict=True)
    )
    last = min(last, n)
    return slice(first, last) if first < last else None


def _entropy_gain(split: Split, t: Any, alpha: float) -> Any:
    """``Σ_a π_a(1 − s_a)(q_a − u)``, which no soft value enters."""
    return sum(
        alpha * mass * math.log(mass / share) * (1 - t * math.exp(tilt))
        for mass, share, tilt in zip(split.masses, split.shares, split.log_tilts, strict=True)
    )


def _at_ratio(table: np.ndarray, log_tilt: float, epsilon: float, J: int, n: int) -> np.ndarray:
    """Rows at ``tτ`` for each of the `n` ratios `t` in the middle of the table: a chord between two
    rows, and so above a function that is convex in the ratio.
    """
    row = min(math.floor(log_tilt / epsilon * J), J - 1)
    ends = math.exp(epsilon * row / J), math.exp(epsilon * (row + 1) / J)
    weight = min(max((math.exp(log_tilt) - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
    low = table[J + row : J + row + n]
    high = table[J + row + 1 : J + row + 1 + n]
    if weight < NEAR**2 or weight == 1.0:
        return high if weight == 1.0 else low
    return (1 - weight) * low + weight * high


def _slack(ball: Ball, t: np.ndarray, h: int, mesh: Mesh, cells: np.ndarray) -> np.ndarray:
    """What is added to each row: by how far the objective may rise between two splits, and more
    than all rounding: ``(ratios, 1)``.
    """
    up, down = math.exp(ball.epsilon), math.exp(-ball.epsilon)
    curvature = ball.alpha * math.expm1(1 / (mesh.per_reward * ball.alpha)) ** 2 / 8
    between = curvature * (2 * np.maximum(t * up - 1, 0) + np.maximum(1 - t * down, 0))
    finite = cells[np.isfinite(cells)]
    size = (ball.alpha * (1 + math.log(ball.vocab_size)) + h) * (1 + t * up) + np.abs(finite).max()
    slack: np.ndarray = between + ROUNDING * size
    return slack[:, None]


# --- A token MDP that attains what is claimed -----------------------------------------------------


class _Splits(NamedTuple):
    """The fields of many a `Split`, each ``(n, 2)``."""

    shares: np.ndarray
    masses: np.ndarray
    log_tilts: np.ndarray
    offsets: np.ndarray
    crossing: np.ndarray

    @classmethod
    def of(cls, splits: Sequence[Split]) -> _Splits:
        return cls(*(np.array(column) for column in zip(*splits, strict=True)))

    def take(self, index: np.ndarray) -> _Splits:
        return _Splits(*(column[index] for column in self))


def _best_splits(
    table: np.ndarray, states: np.ndarray, splits: _Splits, ball: Ball, h: int, mesh: Mesh
) -> np.ndarray:
    """Index of the best split in each state ``(soft value, ratio)``, counted in steps."""
    N, J = mesh
    n = h * N + 1
    best = np.stack([_best_child(table, n, N - 1, 0), _best_child(table, n, N, 0)])
    steps = splits.log_tilts / ball.epsilon * J
    rows = np.minimum(np.floor(steps).astype(int), J - 1)
    entropy = ball.alpha * splits.masses * np.log(splits.masses / splits.shares)
    found = []
    for block in np.array_split(states, math.ceil(len(states) * len(rows) / BLOCK)):
        t = np.exp(ball.epsilon / J * block[:, 1:])
        value = np.zeros((len(block), len(rows)))
        for group in (0, 1):
            column = block[:, :1] + splits.offsets[:, group]
            possible = (column >= 0) & (column < n)
            column = np.where(possible, column, 0)
            row = len(table) // 2 + block[:, 1:] + rows[:, group]
            crossing = splits.crossing[:, group].astype(int)
            low = best[crossing, row, column]
            with np.errstate(invalid="ignore"):
                change = (best[crossing, row + 1, column] - low) * (steps - rows)[:, group]
            at = np.where(possible & np.isfinite(low), low + change, -np.inf)
            value += splits.masses[:, group] * at
            value += entropy[:, group] * (1 - t * np.exp(splits.log_tilts[:, group]))
        found.append(value.argmax(axis=1))
    return np.concatenate(found)


def _moves(
    table: np.ndarray, states: np.ndarray, splits: _Splits, ball: Ball, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards ``(n, 2)`` of the two groups, and their children, ``(n, 2, 2)``."""
    N, J = mesh
    ratios = states[:, 1:] + np.rint(splits.log_tilts / ball.epsilon * J).astype(int)
    cells = states[:, :1] + splits.offsets
    first = cells - N + ~splits.crossing
    window = first[..., None] + np.arange(N + 1)
    legal = (window >= 0) & (window <= cells[..., None]) & (window < table.shape[1])
    values = table[len(table) // 2 + ratios[..., None], np.where(legal, window, 0)]
    best = np.where(legal, values, -np.inf).argmax(axis=-1)
    child = np.take_along_axis(window, best[..., None], axis=-1)[..., 0]
    soft = states[:, :1] + N * ball.alpha * np.log(splits.masses / splits.shares)
    return np.clip((soft - child) / N, 0.0, 1.0), np.stack([child, ratios], axis=-1)
