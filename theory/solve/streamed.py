"""Values of a tree past memory: subtree by subtree, on several threads, resumable.

A block of subtrees is solved in memory and leaves one row of numbers for each of its roots; the
layers above are then solved with these rows as what follows their last token. Memory is that of a
block for each thread, and of the roots. The numbers do not depend on the number of threads, nor on
whether a run was stopped and went on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from theory.arrays.namespace import require_positive_number
from theory.mdp.dynamics import Dynamics, Tree
from theory.mdp.streamed import StreamedTree
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_values
from theory.storage.files import number
from theory.storage.runs import Lines, RunFolder

__all__ = ["fold_subtrees", "soft_layers", "top_soft_values"]

LINES = "subtrees.jsonl"


def top_soft_values(
    tree: StreamedTree, alpha: Any, *, threads: int = 1, run: RunFolder | None = None
) -> tuple[np.ndarray, ...]:
    """Return the soft values of the layers of a streamed tree down to the cut.

    Args:
        tree: the tree.
        alpha: temperature, a number, reward units.
        threads: blocks that are solved at the same time; changes no bit of the result.
        run: folder in which each block is noted when it is finished, so that a run that was stopped
            goes on; None keeps nothing.

    Returns:
        ``cut + 1`` arrays ``(P·V^h,)``, reward units: the first of what `soft_values` returns of
        the tree in memory, to the bit.

    Raises:
        ValueError: `alpha` or `threads` is not positive, a block of rewards is none, or the folder
            has another run.

    Example:
        >>> def rewards(h, first, last):
        ...     return np.full((last - first, 2), 0.5)
        >>> tree = StreamedTree(vocab_size=2, horizon=20, rewards=rewards, block=2**12)
        >>> values = top_soft_values(tree, alpha=1.0)
        >>> len(values), round(values[0].item(), 9)  # 20 (½ + log 2)
        (10, 23.862943611)
    """
    alpha = require_positive_number("alpha", alpha)

    def solve(first: int, last: int) -> np.ndarray:
        value: np.ndarray = soft_values(tree.subtree(first, last), alpha)[0]
        return value[None]

    identity = {"numbers": "soft values", "alpha": alpha}
    [value] = fold_subtrees(tree, solve, 1, identity, threads, run)
    top = tree.top()
    above = [] if top is None else list(soft_layers(top[0], alpha, value, tree.horizon - tree.cut))
    return (*reversed(above), value)


def soft_layers(
    mdp: TokenMDP, alpha: float, value: np.ndarray | None = None, steps: int = 0
) -> Iterator[np.ndarray]:
    """Yield the soft values of each layer, the last layer first; none is kept.

    The numbers are those of `soft_values`, to the bit.

    Args:
        mdp: the token MDP, of NumPy arrays without batch axes.
        alpha: temperature, reward units.
        value: soft values of the states after the last layer; None where they are 0.
        steps: how many tokens follow the last layer.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> [value.round(4).tolist() for value in soft_layers(mdp, 0.5)]
        [[0.7187, 1.0635], [2.0963]]
    """
    V = mdp.vocab_size
    largest_reward = max(map(abs, mdp.reward_range))
    for h in reversed(range(mdp.horizon)):
        steps += 1
        q = mdp.rewards[h]
        if value is not None:
            children = mdp.dynamics.rule.children(h, value, V)
            q = np.add(q.T, children.T, order="C").T  # token-major
        # The bound of the whole MDP, so that the same formula is chosen and the bits are the same.
        largest_q = steps * largest_reward + (steps - 1) * alpha * math.log(V)
        [value] = soft_values(_one_layer(mdp, h, q, largest_q), alpha)
        yield value


def _one_layer(mdp: TokenMDP, h: int, q: np.ndarray, largest_q: float) -> TokenMDP:
    """Layer `h` as a token MDP of one token, to whose reward the value of what follows is added."""
    n = len(q)
    mask = mdp.dynamics.allowed[h]
    dynamics = Dynamics(mdp.vocab_size, (n,), Tree(), np.full(n, 1.0 / n), (mask,))
    return TokenMDP(dynamics, (q,), (-largest_q, largest_q))


class _Row(NamedTuple):
    """Numbers of the roots of one finished block."""

    first: int
    numbers: np.ndarray
    """``(k, roots)``."""

    @classmethod
    def from_row(cls, row: Any) -> _Row:
        numbers = [[float(number(x)) for x in line] for line in row["numbers"]]
        return cls(int(row["first"]), np.array(numbers))


def fold_subtrees(
    tree: StreamedTree,
    solve: Callable[[int, int], np.ndarray],
    n_numbers: int,
    identity: dict[str, Any],
    threads: int = 1,
    run: RunFolder | None = None,
) -> np.ndarray:
    """Return what `solve` finds for every root of the subtrees: ``(n_numbers, n_roots)``.

    Args:
        tree: the tree.
        solve: maps the roots ``first … last − 1`` to ``(n_numbers, last − first)``.
        n_numbers: how many numbers it finds for a root.
        identity: what they depend on beside the tree.
        threads: blocks that are solved at the same time.
        run: folder in which finished blocks are noted, and from which they are taken.

    Example:
        >>> tree = StreamedTree(2, 3, lambda h, first, last: np.ones((last - first, 2)), block=6)
        >>> fold_subtrees(tree, lambda first, last: np.arange(first, last)[None], 1, {})
        array([[0., 1.]])
    """
    if not isinstance(threads, int | np.integer) or threads < 1:
        raise ValueError(f"threads={threads!r}: must be an integer, 1 or more")
    blocks = tree.blocks()
    found = np.empty((n_numbers, tree.n_roots))
    done: set[int] = set()
    lines = None
    if run is not None:
        run.identify(identity | _tree_identity(tree), lines=(LINES,))
        lines = run.lines(LINES, _Row.from_row)
        ends = dict(blocks)
        for row in lines:
            last = ends.get(row.first, -1)
            if row.numbers.shape != (n_numbers, last - row.first):
                raise ValueError(f"{lines.path}: no block begins at {row.first}: remove the folder")
            found[:, row.first : last] = row.numbers
            done.add(row.first)
    todo = [block for block in blocks if block[0] not in done]
    with tqdm(
        total=len(blocks), initial=len(done), desc="subtrees", disable=None, leave=False
    ) as progress:
        for (first, last), numbers in _solved(solve, todo, threads):
            found[:, first:last] = numbers
            if lines is not None:
                _note(lines, {"first": first, "numbers": found[:, first:last]})
            progress.update()
    return found


def _note(lines: Lines[_Row], row: dict[str, Any]) -> None:
    try:
        lines.append(row)
    except OSError as error:
        raise OSError(
            f"{lines.path}: {error.strerror}; what was finished is kept: make room and run it again"
        ) from None


def _tree_identity(tree: StreamedTree) -> dict[str, Any]:
    return {
        "vocab_size": tree.vocab_size,
        "horizon": tree.horizon,
        "n_prompts": tree.n_prompts,
        "reward_range": tree.reward_range,
        "block": tree.block,
        "digest": tree.digest(),
    }


def _solved(
    solve: Callable[[int, int], np.ndarray], blocks: list[tuple[int, int]], threads: int
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield each block with its numbers, as they are finished."""
    if threads == 1:
        for block in blocks:
            yield block, solve(*block)
        return
    todo = iter(blocks)
    running: dict[Future[np.ndarray], tuple[int, int]] = {}
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                # a block a thread and one that waits: what is in memory stays bounded
                for block in islice(todo, threads + 1 - len(running)):
                    running[pool.submit(solve, *block)] = block
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
