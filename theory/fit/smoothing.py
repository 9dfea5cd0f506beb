"""Next-token models of counts, smoothed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from theory.fit.demonstrations import Demonstrations
from theory.mdp.dynamics import Table, Window
from theory.mdp.policy import Policy

__all__ = ["Smoothing", "fitted_model"]

Smoothing = float | Literal["witten-bell"]


def fitted_model(demonstrations: Demonstrations, smoothing: Smoothing = 0.0) -> Policy:
    """Return the next-token model of the counts, ``π̂(a|s) = n(s,a)/n(s)``, or of smoothed ones.

    Args:
        demonstrations: one data set or a batch.
        smoothing: ``0`` for none; ``λ > 0`` for ``π̂(a|s) = (n(s,a) + λ)/(n(s) + λ m(s))`` over the
            ``m(s)`` allowed tokens; ``"witten-bell"`` for back-off over windows on tree or window
            dynamics,

                p(a|s) = (n(s,a) + t(s) p(a|s'))/(n(s) + t(s)),

            with ``t(s)`` the number of different tokens seen in `s`, and `s'` without its oldest
            token; after the last token the prompt is dropped, and then ``p`` is uniform. Counts of
            `s'` are those of the same step; where tokens are forbidden in `s`, ``p(·|s')`` is
            restricted to the allowed ones.

    Returns:
        A policy whose logits are the logarithms of the smoothed counts: its gauge is ``log n(s)``
        (0 for ``"witten-bell"``). A row without counts is uniform over the allowed tokens.

    Raises:
        ValueError: `smoothing` is none of these, or back-off has no windows or no counts.

    Example:
        >>> from theory import TokenMDP
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 0]]),))
        >>> [np.exp(fitted_model(data, s).log_probs[0]).round(4).tolist() for s in (0, 1)]
        [[[1.0, 0.0]], [[0.8, 0.2]]]
    """
    dynamics = demonstrations.dynamics
    known = smoothing == "witten-bell" if isinstance(smoothing, str) else 0 <= smoothing < np.inf
    if not known:
        raise ValueError(f"smoothing={smoothing!r}: must be a number, 0 or more, or 'witten-bell'")
    weights: Sequence[np.ndarray]
    if isinstance(smoothing, str):
        weights = _witten_bell(demonstrations)
    else:
        weights = [table + float(smoothing) for table in demonstrations.counts]
    logits = []
    for table in weights:
        table = np.where(table.sum(axis=-1, keepdims=True) > 0, table, 1.0)
        with np.errstate(divide="ignore"):
            logits.append(np.log(table))
    return Policy.from_logits(dynamics, logits)


def _witten_bell(demonstrations: Demonstrations) -> list[np.ndarray]:
    """Return the rows of the formula in `fitted_model`: `H` tables ``(*batch, n_h, V)``."""
    dynamics = demonstrations.dynamics
    P = dynamics.n_prompts
    V = dynamics.vocab_size
    rule = dynamics.rule
    if isinstance(rule, Table):
        raise ValueError(
            "smoothing='witten-bell': states of a table have no suffixes; give a number to add to "
            "counts"
        )
    if demonstrations.counts[0].dtype != np.int64:
        raise ValueError(
            "smoothing='witten-bell': needs counts, and the demonstrations hold weights; use those "
            "of responses"
        )

    def mixed(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
        different = (counts > 0).sum(axis=-1, keepdims=True)
        total = counts.sum(axis=-1, keepdims=True) + different
        # A state that was never visited, n = t = 0, takes over the row of its suffix.
        return np.where(total > 0, (counts + different * lower) / np.maximum(total, 1), lower)

    def backed_off(counts: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Back off counts ``(*batch, P, V^m, V)``; `mask` restricts the first suffix."""
        *batch, P, windows, _ = counts.shape
        if windows > 1:
            by_oldest = counts.reshape(*batch, P, V, windows // V, V)
            lower = np.repeat(
                backed_off(by_oldest.sum(axis=-3))[..., None, :, :], V, axis=-3
            ).reshape(counts.shape)
        else:
            lower = mixed(counts.sum(axis=-3, keepdims=True), np.full(V, 1.0 / V))
        if mask is not None:
            lower = lower * mask
            lower = lower / lower.sum(axis=-1, keepdims=True)
        return mixed(counts, lower)

    rows = []
    for h, counts in enumerate(demonstrations.counts):
        windows = V ** (min(h, rule.size) if isinstance(rule, Window) else h)
        shape = (*demonstrations.batch_shape, P, windows, V)
        mask = dynamics.allowed[h]
        mask = None if mask is None else mask.reshape(P, windows, V)
        rows.append(backed_off(counts.reshape(shape), mask).reshape(counts.shape))
    return rows
