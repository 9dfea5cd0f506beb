"""Features of a reward: one for each state and token, or given ones.

Both classes map weights `θ` to reward tables and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from theory.mdp.dynamics import Dynamics

__all__ = ["LinearFeatures", "TabularFeatures", "check_features"]


class TabularFeatures:
    """Tabular rewards: one weight for each state and token of `masks`.

    Example:
        >>> features = TabularFeatures([np.array([[True, False]]), np.array([[True, True]])])
        >>> [table.tolist() for table in features.tables(np.array([1.0, 2.0, 3.0]))]
        [[[1.0, 0.0]], [[2.0, 3.0]]]
    """

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        self.masks = masks
        self.ends = np.cumsum([0, *(int(mask.sum()) for mask in masks)])

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        """Return the reward of weights `θ`: `H` tables ``(n_h, V)``."""
        tables = []
        for mask, start, end in zip(self.masks, self.ends[:-1], self.ends[1:], strict=True):
            table = np.zeros(mask.shape)
            table[mask] = theta[start:end]
            tables.append(table)
        return tables

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``Σ w(s,a) φ(s,a)`` of `H` tables of weights: ``(k,)``."""
        return np.concatenate(
            [table[mask] for table, mask in zip(weights, self.masks, strict=True)]
        )

    square = expectation  # the features are zero or one


class LinearFeatures:
    """Linear rewards ``θ·φ(s,a)``; `φ` is zero on forbidden tokens.

    Example:
        >>> features = LinearFeatures([np.array([[[1.0], [2.0]]])], [np.array([[True, True]])])
        >>> features.tables(np.array([3.0]))[0].tolist()
        [[3.0, 6.0]]
    """

    def __init__(self, phi: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        self.phi = [
            np.where(mask[..., None], table, 0.0) for table, mask in zip(phi, masks, strict=True)
        ]

    def tables(self, theta: np.ndarray) -> list[np.ndarray]:
        """Return the reward of weights `θ`: `H` tables ``(n_h, V)``."""
        return [table @ theta for table in self.phi]

    def expectation(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``Σ w(s,a) φ(s,a)`` of `H` tables of weights: ``(k,)``."""
        return _weighted(weights, self.phi)

    def square(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Return ``Σ w(s,a) φ(s,a)²`` of `H` tables of weights: ``(k,)``."""
        return _weighted(weights, [table**2 for table in self.phi])


def _weighted(weights: Sequence[np.ndarray], phi: Sequence[np.ndarray]) -> np.ndarray:
    terms = (np.einsum("sa,sak->k", w, t) for w, t in zip(weights, phi, strict=True))
    return np.asarray(sum(terms))


def check_features(features: Sequence[Any], dynamics: Dynamics) -> list[np.ndarray]:
    """Return features as `H` tables ``(n_h, V, k)``; ValueError names the layer.

    Example:
        >>> from theory import TokenMDP
        >>> check_features([np.ones((1, 2))], TokenMDP.tree([[[0, 0]]]).dynamics)
        Traceback (most recent call last):
        ValueError: features[0] has shape (1, 2): must be (n_h, V, k), ...
    """
    tables = [np.asarray(table, dtype=np.float64) for table in features]
    if len(tables) != dynamics.horizon:
        raise ValueError(
            f"features has {len(tables)} tables for a horizon of {dynamics.horizon}: one per layer"
        )
    for h, table in enumerate(tables):
        expected = (dynamics.layer_sizes[h], dynamics.vocab_size, *tables[0].shape[2:])
        if table.ndim != 3 or table.shape != expected or not table.size:
            raise ValueError(
                f"features[{h}] has shape {table.shape}: must be (n_h, V, k), here {expected}"
            )
        if not np.isfinite(table).all():
            raise ValueError(
                f"features[{h}] holds {table[~np.isfinite(table)][0]}: features must be finite"
            )
    return tables
