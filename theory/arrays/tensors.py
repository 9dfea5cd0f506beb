"""Torch tensors on a CPU that need no gradient, computed by NumPy on the same memory.

Such a tensor and a NumPy array are the same bytes, and NumPy's kernels go through them block by
block. So a sweep has one fast form on a CPU, for arrays and tensors alike, and their numbers are
equal to the last bit. Gradients and other devices take the form in torch
(`theory.arrays.torch_kernels`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from typing import Any, ParamSpec, TypeVar

import numpy as np
from array_api_compat import is_torch_array

__all__ = ["needs_gradient", "numbers", "numpy_can_read", "through_numpy"]

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def numpy_can_read(*values: Any) -> bool:
    """Say whether `values`, arrays, layers of arrays or numbers, are tensors for NumPy to compute.

    They are if they lie on the CPU, in single or double precision, and nothing is to be recorded:
    no gradient, no transform of ``torch.func``, no compilation.

    Example:
        >>> numpy_can_read(np.zeros(2))  # NumPy has it already
        False
    """
    if "torch" not in sys.modules or not any(map(_starts_with_tensor, values)):
        return False
    return _nothing_else_listens() and all(_is_plain(x) for x in _flat(values) if is_torch_array(x))


def needs_gradient(*values: Any) -> bool:
    """Say whether a gradient of one of `values`, arrays, layers of arrays or numbers, is recorded.

    Example:
        >>> needs_gradient(np.zeros(2), 0.5)
        False
    """
    if "torch" not in sys.modules or not any(map(_starts_with_tensor, values)):
        return False
    import torch

    return torch.is_grad_enabled() and any(
        is_torch_array(x) and x.requires_grad for x in _flat(values)
    )


def numbers(array: Any) -> Any:
    """Return a tensor without its gradient, on a CPU as NumPy's view; other arrays as they are.

    Example:
        >>> numbers(np.zeros(2)).tolist()
        [0.0, 0.0]
    """
    if not is_torch_array(array):
        return array
    plain = array.detach()
    return plain.numpy() if numpy_can_read(plain) else plain


def through_numpy(
    function: Callable[_Given, _Found], *arguments: _Given.args, **options: _Given.kwargs
) -> _Found:
    """Call `function` with NumPy arrays in place of tensors, and return tensors for its arrays.

    Args:
        function: of NumPy arrays.
        *arguments: with tensors that `numpy_can_read`, also in tuples and dataclasses.
        **options: likewise.

    Returns:
        What `function` returns; its floating-point arrays in the precision of the tensors. The
        ``dynamics`` of an MDP or a policy keep their NumPy arrays.

    Example:
        >>> through_numpy(sum, [1, 2])  # nothing to translate
        3
    """
    import torch

    precisions: list[Any] = []

    def as_numpy(x: Any) -> Any:
        if not is_torch_array(x):
            return x
        if x.dtype.is_floating_point:
            precisions.append(x.dtype)
        return x.detach().numpy()

    def as_tensor(x: Any) -> Any:
        if not isinstance(x, np.ndarray | np.generic):
            return x
        array = np.asarray(x)
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()  # torch has neither
        tensor = torch.from_numpy(array)
        return tensor.to(precision) if tensor.dtype.is_floating_point else tensor

    given = _mapped(as_numpy, (arguments, options))
    precision = reduce(torch.promote_types, precisions, torch.float32)
    found: _Found = _mapped(as_tensor, function(*given[0], **given[1]))
    return found


def _flat(values: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found.extend(value if isinstance(value, tuple | list) else (value,))
    return found


def _starts_with_tensor(value: Any) -> bool:
    return bool(is_torch_array(value[0] if isinstance(value, tuple | list) and value else value))


def _is_plain(tensor: Any) -> bool:
    import torch

    return bool(
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
        and not (tensor.requires_grad and torch.is_grad_enabled())
    )


def _nothing_else_listens() -> bool:
    import torch
    from torch.autograd import forward_ad

    return bool(
        forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.compiler.is_compiling()
    )


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with `function` of every array in it; the arrays of dynamics are left as they are."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(function, x) for x in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(function, x) for x in value)
    if isinstance(value, dict):
        return {name: _mapped(function, x) for name, x in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {
            each.name: _mapped(function, getattr(value, each.name))
            for each in fields(value)
            if each.name != "dynamics" and each.init
        }
        return replace(value, **changes) if hasattr(value, "dynamics") else value
    return function(value)
