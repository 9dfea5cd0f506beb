"""Torch's fake tensors on ``cuda`` without a GPU: they have shapes and a device, and no numbers.

What mixes devices fails, and so does what reads a number, which on a GPU waits for all that runs
there.
"""

import contextlib
from dataclasses import replace

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def fake_cuda():
    """Where tensors are fake; what is real and has axes is refused."""
    with FakeTensorMode(allow_non_fake_inputs=False), _WithoutGuards():
        yield


def fake(value):
    """An array, or whatever dataclass or tuple holds arrays, on ``cuda``; dynamics stay."""
    if isinstance(value, np.ndarray):
        dtype = torch.from_numpy(np.empty(0, value.dtype)).dtype
        return torch.empty(value.shape, dtype=dtype, device="cuda")
    if isinstance(value, tuple):
        made = map(fake, value)
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if hasattr(value, "log_probs"):
        normalizers = fake(value.log_normalizers)
        return replace(value, log_probs=fake(value.log_probs), log_normalizers=normalizers)
    return replace(value, rewards=fake(value.rewards)) if hasattr(value, "rewards") else value


class _WithoutGuards(TorchFunctionMode):
    """Methods that select the current device before fake tensors are seen: a CPU build has none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor):
            if function is torch.Tensor.__getitem__:
                return _indexed(*args)
            if function is torch.Tensor.__invert__:
                return torch.bitwise_not(*args)
            if function is torch.Tensor.contiguous:
                return torch.ops.aten.contiguous(*args)
            if function is torch.Tensor.to and isinstance(args[1], torch.dtype):
                return torch.ops.aten._to_copy(args[0], dtype=args[1])
            if function is torch.Tensor.new_tensor:
                return torch.tensor(args[1], dtype=args[0].dtype, device=args[0].device)
            if function in (torch.Tensor.__float__, torch.Tensor.__bool__, torch.Tensor.__int__):
                return torch.ops.aten._local_scalar_dense(args[0])
        return function(*args, **kwargs)


def _indexed(x, key):
    """``x[key]`` of views and one operation."""
    keys = list(key) if isinstance(key, tuple) else [key]
    named = sum(k is not None and k is not Ellipsis for k in keys)
    for at, k in enumerate(keys):
        if k is Ellipsis:
            keys[at : at + 1] = [slice(None)] * (x.ndim - named)
            break
    axis, indices = 0, {}
    for k in keys:
        if k is None:
            x = x.unsqueeze(axis)
        elif isinstance(k, int):
            x = x.select(axis, k)
            continue
        elif isinstance(k, slice):
            start, stop, _ = k.indices(x.shape[axis])
            x = torch.ops.aten.slice(x, axis, start, stop)
        else:
            indices[axis] = torch.as_tensor(k)
        axis += 1
    return torch.ops.aten.index(x, [indices.get(a) for a in range(axis)]) if indices else x
