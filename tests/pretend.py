"""A device that is not there: its tensors hold numbers, and what mixes them up with the CPU's fails, as on a GPU."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""Under another name a CPU build of torch refuses to index; nothing of the theory asks for it."""

MOVES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_"}
"""Here a GPU takes the CPU's indices too."""


class Pretended(torch.Tensor):
    """Numbers on the CPU that say that they are on `DEVICE`."""

    @staticmethod
    def __new__(cls, numbers):
        options = {"dtype": numbers.dtype, "device": DEVICE, "requires_grad": numbers.requires_grad}
        made = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, numbers.stride(), **options)
        made.numbers = numbers.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    def new_tensor(self, data, **options):
        """Made below what can be seen from here."""
        return torch.tensor(data, **({"dtype": self.dtype, "device": self.device} | options))

    def tolist(self):
        return self.numbers.tolist()


def dispatch(function, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Pretended)]
    here = [x for x in tensors if not isinstance(x, Pretended) and x.ndim]
    name = function._schema.name
    if there and here and name not in MOVES | INDEXED:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {DEVICE} and cpu")
    if name in INDEXED and not isinstance(args[0], Pretended):
        raise RuntimeError(f"{name}: indices on {DEVICE} for a tensor on cpu")
    device = kwargs.get("device")
    wrap = bool(there) if device is None else torch.device(device) == DEVICE
    if name == "aten::copy_":
        wrap = isinstance(args[0], Pretended)
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map(lambda x: x.numbers if isinstance(x, Pretended) else x, (args, kwargs))
    found = function(*args, **kwargs)
    known = {id(x.numbers): x for x in there}  # in place: the same tensor again
    if not wrap:
        return found
    return tree_map(lambda x: known[id(x)] if id(x) in known else _wrapped(x), found)


def _wrapped(x):
    return Pretended(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) else x


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


@contextlib.contextmanager
def pretended():
    """Where tensors may be made on `DEVICE`."""
    with _Factories():
        yield


def there(array):
    """A NumPy array or tensor, on the device."""
    return Pretended(torch.as_tensor(array).clone())


def back(value):
    """Whatever holds such tensors, with NumPy arrays in their place."""
    return tree_map(lambda x: x.numbers.numpy() if isinstance(x, Pretended) else x, value)
