"""What is asked of each prompt, without a policy or the values of other layers being kept.

One sweep carries every number from a layer to the one before, so that memory is that of two layers:
horizons of 100,000 tokens on shared layers (`TokenMDP.window`), and trees that are read block by
block (`StreamedTree`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from theory.arrays.namespace import (
    Array,
    forbid,
    is_numpy_array,
    require_positive_number,
)
from theory.mdp.distances import divergence_terms
from theory.mdp.policy import NEVER, Policy, require_same_dynamics
from theory.mdp.streamed import StreamedTree
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expectation
from theory.solve.streamed import fold_subtrees, soft_layers, top_soft_values
from theory.storage.runs import RunFolder

__all__ = ["PromptValues", "averages", "prompt_values", "soft_value"]


class PromptValues(NamedTuple):
    """Numbers of each prompt, arrays ``(P,)``. `π_E` is the soft-optimal policy.

    Example:
        >>> values = prompt_values(TokenMDP.tree([[[0.0, 1.0]]]), alpha=1.0)
        >>> values.optimal_plain_value - values.expert_plain_value  # 1 − σ(1)
        array([0.26894142])
    """

    soft_value: Array
    """``V*(s₁)``, reward units."""
    optimal_plain_value: Array
    """``max_π V^π_r(s₁)``, reward units."""
    expert_plain_value: Array
    """``V^{π_E}_r(s₁)``, reward units."""
    expert_entropy: Array
    """Entropy of the responses of `π_E`, nats."""
    plain_value: Array | None = None
    """``V^π̂_r(s₁)``, reward units; like all below, None where no policy was given."""
    entropy: Array | None = None
    """Entropy of the responses of `π̂`, nats."""
    kl: Array | None = None
    """``KL(π̂‖π_E)`` of the responses, nats."""
    expert_kl: Array | None = None
    """``KL(π_E‖π̂)`` of the responses, nats."""
    max_log_ratio: Array | None = None
    """``ε = max |log π̂(a|s) − log π_E(a|s)|`` over what can happen, nats."""


def soft_value(
    mdp: TokenMDP | StreamedTree, alpha: Any, *, threads: int = 1, run: RunFolder | None = None
) -> float:
    """Return the soft value ``E V*(s₁)``, averaged over prompts: a number, reward units.

    It is that of `soft_values`; no other layer's values are kept.

    Args:
        mdp: the token MDP.
        alpha: temperature, a number, reward units.
        threads: of a streamed tree, see `top_soft_values`.
        run: of a streamed tree, likewise.

    Raises:
        ValueError: as `prompt_values`.

    Example:
        A thousand tokens of the same layer, which is stored once:

        >>> layer = np.full((2, 2), 0.5)
        >>> mdp = TokenMDP.window([layer[:1], *[layer] * 999], window=1)
        >>> round(soft_value(mdp, alpha=1.0), 6)  # 1000 (½ + log 2)
        1193.147181
    """
    alpha = require_positive_number("alpha", alpha)
    if isinstance(mdp, StreamedTree):
        first = top_soft_values(mdp, alpha, threads=threads, run=run)[0]
        return float(first @ mdp.prompt_weights)
    _require_single(mdp, threads, run)
    layers = tqdm(
        soft_layers(mdp, alpha), total=mdp.horizon, desc="layers", disable=None, leave=False
    )
    [value] = deque(layers, maxlen=1)
    return float(mdp.dynamics.average(value))


def prompt_values(
    mdp: TokenMDP | StreamedTree,
    alpha: Any,
    *,
    policy: Policy | None = None,
    threads: int = 1,
    run: RunFolder | None = None,
) -> PromptValues:
    """Return values, entropies and divergences of each prompt, with two layers in memory.

    Args:
        mdp: the token MDP; the logits of a `StreamedTree` are its policy `π̂`.
        alpha: temperature, a number, reward units.
        policy: `π̂`, to be compared with the soft-optimal policy; not of a streamed tree.
        threads: of a streamed tree, see `top_soft_values`.
        run: of a streamed tree, likewise.

    Raises:
        ValueError: `alpha` is no positive number, the MDP has batch axes or holds no NumPy arrays,
            the dynamics of `policy` differ, or an argument is not for this kind of MDP.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> uniform = Policy.from_logits(mdp.dynamics, [np.zeros((1, 2)), np.zeros((2, 2))])
        >>> found = prompt_values(mdp, alpha=1.0, policy=uniform)
        >>> for name, value in found._asdict().items():
        ...     print(name, value.round(4).item())
        soft_value 2.5632
        optimal_plain_value 2.0
        expert_plain_value 1.4306
        expert_entropy 1.1327
        plain_value 0.925
        entropy 1.3863
        kl 0.2519
        expert_kl 0.2536
        max_log_ratio 0.8157
    """
    alpha = require_positive_number("alpha", alpha)
    if isinstance(mdp, StreamedTree):
        if policy is not None:
            raise ValueError("policy is given: a StreamedTree has its policy's logits, logits=")
        return _streamed(mdp, alpha, threads, run)
    _require_single(mdp, threads, run)
    if policy is not None:
        require_same_dynamics(mdp.dynamics, policy.dynamics)
        if policy.batch_shape or not is_numpy_array(policy.log_probs[0]):
            raise ValueError("policy: must be a single one, of NumPy arrays")
    return _sweep_back(mdp, alpha, policy, None, progress=True)


def averages(values: PromptValues, prompt_weights: np.ndarray) -> dict[str, float]:
    """Return the numbers averaged over the prompts; of ``max_log_ratio`` the largest.

    A prompt of weight zero does not count.

    Args:
        values: of `prompt_values`.
        prompt_weights: ``(P,)``.

    Example:
        >>> values = PromptValues(*np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 4.0], [0.0, np.inf]]))
        >>> list(averages(values, np.array([1.0, 0.0])).values())
        [1.0, 1.0, 0.0, 0.0]
    """
    counted = prompt_weights > 0
    weights = prompt_weights[counted]
    return {
        name: float(value[counted].max() if name == "max_log_ratio" else value[counted] @ weights)
        for name, value in values._asdict().items()
        if value is not None
    }


def _require_single(mdp: TokenMDP, threads: int, run: RunFolder | None) -> None:
    if mdp.batch_shape:
        raise ValueError(f"mdp has batch axes {mdp.batch_shape}: take one MDP at a time")
    if not is_numpy_array(mdp.rewards[0]):
        raise ValueError("mdp: its rewards must be NumPy arrays")
    if run is not None or threads != 1:
        raise ValueError("threads and run are for a StreamedTree: leave them out")


def _streamed(
    tree: StreamedTree, alpha: float, threads: int, run: RunFolder | None
) -> PromptValues:
    def solve(first: int, last: int) -> np.ndarray:
        mdp = tree.subtree(first, last)
        policy = tree.subtree_policy(mdp.dynamics, first, last)
        found = _sweep_back(mdp, alpha, policy, None)
        return np.stack([value for value in found if value is not None])

    n_numbers = len(PromptValues._fields) if tree.logits is not None else 4
    identity = {"numbers": "prompt values", "alpha": alpha}
    values = PromptValues(*fold_subtrees(tree, solve, n_numbers, identity, threads, run))
    top = tree.top()
    return values if top is None else _sweep_back(top[0], alpha, top[1], values)


def _sweep_back(
    mdp: TokenMDP,
    alpha: float,
    policy: Policy | None,
    after: PromptValues | None,
    *,
    progress: bool = False,
) -> PromptValues:
    """Carry all numbers to the first layer; `after` are those that follow the last token."""
    dynamics = mdp.dynamics
    layers = tqdm(
        reversed(range(mdp.horizon)),
        total=mdp.horizon,
        desc="layers",
        disable=None if progress else True,
        leave=False,
    )
    for h in layers:

        def below(value: Array | None, h: int = h) -> Array | float:
            if value is None:
                return 0.0
            return dynamics.rule.children(h, value, dynamics.vocab_size)

        log_probs = None if policy is None else policy.log_probs[h]
        following = PromptValues(*[None] * 9) if after is None else after
        after = _layer(mdp.rewards[h], dynamics.allowed[h], alpha, log_probs, following, below)
    assert after is not None
    return after


def _layer(
    reward: Array,
    allowed: np.ndarray | None,
    alpha: float,
    log_probs: Array | None,
    after: PromptValues,
    below: Callable[[Array | None], Array | float],
) -> PromptValues:
    """Carry all numbers over one layer; `below` gives those of the successors."""
    q = forbid(reward + below(after.soft_value), allowed)
    top = q.max(axis=-1, keepdims=True)
    expert = (q - top) / alpha
    p_expert = np.exp(expert)
    total = p_expert.sum(axis=-1, keepdims=True)
    log_total = np.log(total)
    p_expert /= total
    expert -= log_total  # log π_E
    best = forbid(reward + below(after.optimal_plain_value), allowed)
    plain = reward + below(after.expert_plain_value)
    information = _information(expert, allowed) + below(after.expert_entropy)
    found = PromptValues(
        soft_value=(top + alpha * log_total)[..., 0],
        optimal_plain_value=best.max(axis=-1),
        expert_plain_value=(p_expert * plain).sum(axis=-1),
        expert_entropy=(p_expert * information).sum(axis=-1),
    )
    if log_probs is None:
        return found
    p = np.exp(log_probs)
    information = _information(log_probs, log_probs != NEVER)
    chosen = ~((log_probs == NEVER) & (expert == NEVER))
    with np.errstate(invalid="ignore"):
        ratio = np.where(chosen, log_probs - expert, 0.0)
    largest = np.where(chosen, np.maximum(np.abs(ratio), below(after.max_log_ratio)), 0.0)
    terms = divergence_terms(log_probs, expert, ratio).sum(axis=-1)
    expert_terms = divergence_terms(expert, log_probs, -ratio).sum(axis=-1)
    kl_below = np.broadcast_to(below(after.kl), reward.shape)
    expert_kl_below = np.broadcast_to(below(after.expert_kl), reward.shape)

    return found._replace(
        plain_value=expectation(p, log_probs, reward + below(after.plain_value)),
        entropy=expectation(p, log_probs, information + below(after.entropy)),
        kl=terms + expectation(p, log_probs, kl_below),
        expert_kl=expert_terms + expectation(p_expert, expert, expert_kl_below),
        max_log_ratio=largest.max(axis=-1),
    )


def _information(log_probs: Array, chosen: np.ndarray | None) -> Array:
    """``−log π(a|s)``; 0 for a token that is never chosen."""
    return -log_probs if chosen is None else np.where(chosen, -log_probs, 0.0)
