"""Arrays: NumPy, torch or enclosures, one code for all, and the layout that makes sweeps fast.

Axes are those stated in `theory`. Every function computes in the array namespace of its input:
torch tensors stay torch tensors, on their device and with their gradients, and enclosures
(`theory.arrays.enclosure`) enclose every result. Sweeps of tensors on a CPU that need no gradient
are NumPy's, on the same memory (`theory.arrays.tensors`).

Tables are stored *token-major*: the memory order is that of ``(V, *batch, n_h)``, so that
reductions over tokens run along contiguous memory. That changes speed only, never a result.

Types of arrays: `Array` is `Any`, and shapes stand in docstrings. Annotations with shapes
(jaxtyping) were considered and left out: the size of the state axis differs from layer to layer
within one tuple, which they cannot say, and enclosures have no dtype, which they need. An alias for
each role would check nothing, and repeat the docstring.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from array_api_compat import device, is_numpy_array, is_torch_array

from theory.arrays.enclosure import NAMESPACE, is_enclosure
from theory.arrays.tensors import needs_gradient

__all__ = [
    "Array",
    "array_namespace",
    "as_array",
    "as_float",
    "constant",
    "exp",
    "expand",
    "forbid",
    "is_enclosure",
    "is_numpy_array",
    "is_torch_array",
    "like",
    "log_mean_exp",
    "pick",
    "require_positive",
    "require_positive_number",
    "root",
    "scatter_add",
    "soft_maximum",
    "token_major",
]

Array: TypeAlias = Any
"""A NumPy array, a torch tensor or an `Enclosure`: no static type covers them."""


def array_namespace(*arrays: Array) -> Any:
    """Return the array-API namespace of `arrays`: that of enclosures if one of them is one.

    Example:
        >>> array_namespace(np.zeros(2)).sum(np.ones(2)).item()
        2.0
    """
    return (
        NAMESPACE if any(map(is_enclosure, arrays)) else array_api_compat.array_namespace(*arrays)
    )


def exp(x: Array) -> Array:
    """Return ``e^x``, elementwise, in the namespace of `x`.

    Example:
        >>> exp(np.array([0.0, float("-inf")])).tolist()
        [1.0, 0.0]
    """
    return array_namespace(x).exp(x)


def as_array(values: Any) -> Array:
    """Return `values` as an array: torch tensors and enclosures as they are, the rest as NumPy's.

    Example:
        >>> as_array([1, 2]).shape
        (2,)
    """
    return values if is_torch_array(values) or is_enclosure(values) else np.asarray(values)


def constant(value: Any, reference: Array) -> Array:
    """Return `value` as an exact enclosure, a tensor or a NumPy array, like `reference`.

    Example:
        >>> constant(0.1, np.zeros(2)).tolist()
        0.1
    """
    if is_enclosure(reference):
        return type(reference).of(value)
    return (
        reference.new_tensor(value) if is_torch_array(reference) else np.asarray(value, dtype=float)
    )


def as_float(values: Any) -> Array:
    """Return `values` as a floating-point array.

    Torch tensors, ``float64``/``longdouble`` arrays and enclosures are left as they are, the rest
    is converted to ``float64``.

    Example:
        >>> as_float([1, 2]).tolist()
        [1.0, 2.0]
    """
    if is_torch_array(values):
        return values if values.dtype.is_floating_point else values.double()
    if is_enclosure(values):
        return values
    array = np.asarray(values)
    return array if array.dtype in (np.float64, np.longdouble) else array.astype(np.float64)


def token_major(table: Array) -> Array:
    """Return the same table ``(*batch, n, V)``, stored token-major; enclosures are left alone.

    Example:
        >>> token_major(np.zeros((3, 2))).strides  # the states of a token lie side by side
        (8, 24)
    """
    if is_torch_array(table):
        return table.movedim(-1, 0).contiguous().movedim(0, -1)
    if is_enclosure(table):
        return table
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(table, -1, 0)), 0, -1)


def like(values: Any, reference: Array) -> Array:
    """Return `values` in the namespace, dtype and device of `reference`.

    Integer and boolean dtypes are kept.

    Example:
        >>> like([0, 1], np.zeros(2)).tolist()
        [0, 1]
    """
    if not is_torch_array(reference):
        return as_array(values)
    place = device(reference)
    if not is_torch_array(values):
        array = array_namespace(reference).asarray(values, device=place)
    else:  # with its gradient, which `asarray` of some versions drops
        array = values if values.device == place else values.to(place)
    return array.to(reference.dtype) if array.dtype.is_floating_point else array


def expand(scalars: Array | float, axes: int) -> Array | float:
    """Append `axes` axes of length one to `scalars` of shape ``batch``; a number stays a number.

    Example:
        >>> expand(np.array([0.5, 2.0]), 2).shape
        (2, 1, 1)
    """
    return (
        scalars
        if isinstance(scalars, float) or not scalars.ndim
        else scalars[(..., *(None,) * axes)]
    )


def forbid(table: Array, allowed: np.ndarray | None) -> Array:
    """Set the tokens of a table ``(*batch, n, V)`` to ``-inf`` that the mask ``(n, V)`` forbids.

    Example:
        >>> forbid(np.array([[1.0, 2.0]]), np.array([[True, False]])).tolist()
        [[1.0, -inf]]
    """
    if allowed is None:
        return table
    return array_namespace(table).where(like(allowed, table), table, float("-inf"))


def pick(table: Array, states: Array, tokens: Array) -> Array:
    """Gather ``table[..., states, tokens]`` with the batch axes aligned: ``(*batch, N)``.

    Args:
        table: ``(*batch, n, V)``.
        states: ``(*batch, N)``, or ``(N,)`` for the whole batch.
        tokens: likewise.

    Example:
        >>> pick(np.array([[1, 2], [3, 4]]), np.array([0, 1]), np.array([1, 0])).tolist()
        [2, 3]
    """
    xp = array_namespace(table)
    batch = table.shape[:-2]
    grids = [
        like(np.arange(size).reshape((1,) * axis + (size,) + (1,) * (len(batch) - axis)), table)
        for axis, size in enumerate(batch)
    ]
    picked: Array = table[
        (*grids, xp.asarray(like(states, table)), xp.asarray(like(tokens, table)))
    ]
    return picked


def scatter_add(mass: Array, index: np.ndarray, size: int) -> Array:
    """Sum the last axis of `mass` ``(*batch, m)`` into `size` bins named by `index` ``(m,)``.

    Example:
        >>> scatter_add(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 0]), 3).tolist()
        [5.0, 0.0, 2.0]
    """
    if is_torch_array(mass):
        return mass.new_zeros((*mass.shape[:-1], size)).index_add(-1, like(index, mass), mass)
    batch = mass.shape[:-1]
    rows = mass.reshape(-1, mass.shape[-1])
    if rows.dtype == np.float64:
        offset_index = (index + size * np.arange(len(rows))[:, None]).reshape(-1)
        out = np.bincount(offset_index, weights=rows.reshape(-1), minlength=size * len(rows))
    else:
        out = np.zeros((len(rows), size), dtype=mass.dtype)
        for row, total in zip(rows, out, strict=True):
            np.add.at(total, index, row)
    return out.reshape(*batch, size)


def require_positive(name: str, value: Any) -> Array | float:
    """Return `value` as a float or floating-point array, all of it positive and finite.

    Raises:
        ValueError: names the argument and the value.

    Example:
        >>> require_positive("alpha", -1)
        Traceback (most recent call last):
        ValueError: alpha=-1.0: must be positive and finite
    """
    try:
        array = as_float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={str(value)[:80]}: must be a positive number") from None
    bad = ~((array > 0) & (array < float("inf")))
    if bool(bad.any()):
        shown = array if is_enclosure(array) else float(array[bad][0])
        raise ValueError(f"{name}={shown}: must be positive and finite")
    kept = array.ndim or is_enclosure(array) or needs_gradient(array)
    return array if kept else float(array)


def require_positive_number(name: str, value: Any) -> float:
    """Return `value` as one positive, finite number.

    Raises:
        ValueError: names the argument and the value, or its shape.

    Example:
        >>> require_positive_number("alpha", [1.0, 2.0])
        Traceback (most recent call last):
        ValueError: alpha has shape (2,): must be one number
    """
    number = require_positive(name, value)
    if not isinstance(number, float):
        raise ValueError(f"{name} has shape {number.shape}: must be one number")
    return number


def soft_maximum(q: Array, alpha: Array | float) -> Array:
    """Return the soft maximum over tokens, ``α log Σ_a exp(q_a/α)``, in log-space.

    Args:
        q: ``(*batch, n, V)`` in reward units; ``-inf`` marks a forbidden token (one token a state
            must be allowed).
        alpha: temperature, scalar or ``batch``.

    Returns:
        ``(*batch, n)`` in reward units.

    Example:
        >>> soft_maximum(np.array([[0.0, 1000.0, -np.inf]]), 1.0).tolist()
        [1000.0]
    """
    # 1-Lipschitz in the largest norm, so the widths of a sweep add up and do not multiply.
    if is_enclosure(q):
        return q.carry(lambda exact: _soft_maximum(exact, alpha), q.radius().max(axis=-1))
    return _soft_maximum(q, alpha)


def _soft_maximum(q: Array, alpha: Array | float) -> Array:
    xp = array_namespace(q)
    top = xp.max(q, axis=-1, keepdims=True)
    total = xp.sum(xp.exp((q - top) / expand(alpha, 2)), axis=-1)
    return top[..., 0] + expand(alpha, 1) * xp.log(total)


def root(x: Array) -> Array:
    """Square root of numbers known not to be negative, though rounding may make them so.

    Example:
        >>> root(np.array([4.0, -1e-20, float("nan")])).tolist()
        [2.0, 0.0, nan]
    """
    if is_enclosure(x):
        return x.root()
    xp = array_namespace(x)
    return xp.sqrt(xp.where(x <= 0, 0.0, x))  # what is not a number stays none


def log_mean_exp(log_probs: Array, x: Array) -> Array:
    """Return ``log Σ_a p(a) e^{x(a)}`` over tokens, without cancellation where it is near zero.

    Args:
        log_probs: ``log p``, ``(*batch, n, V)``, nats, rows that sum to one; ``-inf`` leaves a
            token out.
        x: nats, of the same shape; ``-inf`` where a token counts as nothing.

    Returns:
        ``(*batch, n)``, nats; ``-inf`` where no token is left.

    Example:
        >>> x = np.array([[1e-20, -1e-20]])
        >>> log_mean_exp(np.log([[0.75, 0.25]]), x).tolist()  # not log(1) = 0
        [...e-21]
    """
    if is_enclosure(x):  # 1-Lipschitz in `x`
        return x.carry(lambda exact: _log_mean_exp(log_probs, exact), x.radius().max(axis=-1))
    return _log_mean_exp(log_probs, x)


def _log_mean_exp(log_probs: Array, x: Array) -> Array:
    never = float("-inf")  # of a token that counts as nothing
    xp = array_namespace(log_probs, x)
    counted = ~(log_probs == never) & ~(x == never)
    exponent = xp.where(counted, x, 0.0)
    none = ~xp.any(counted, axis=-1)
    if is_enclosure(x) and not x.coarse:  # precision to spare: the plain formula will do
        mean = xp.sum(xp.where(counted, xp.exp(log_probs + exponent), 0.0), axis=-1)
        return xp.where(none, never, xp.log(xp.where(none, 1.0, mean)))
    # Where the mean is near one: log1p of the mean of expm1, whose terms are small.
    small = xp.where(xp.abs(exponent) < 1.0, exponent, 0.0)
    less_one = xp.sum(xp.exp(log_probs) * xp.where(counted, xp.expm1(small), -1.0), axis=-1)
    near = xp.all(~counted | (xp.abs(exponent) < 1.0), axis=-1) & (less_one > -0.5)
    total = soft_maximum(
        xp.where(counted, log_probs + exponent, xp.where(none[..., None], 0.0, never)), 1.0
    )
    return xp.where(none, never, xp.where(near, xp.log1p(xp.where(near, less_one, 0.0)), total))
