"""A device that is not there: its tensors hold numbers, and what mixes them up with the CPU's
fails, as on a GPU.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""As CUDA's, a CPU build of torch refuses to index tensors; nothing of the theory asks for the
name. Models do.
"""

MOVES = {"aten::_to_copy", "aten::to", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_"}
"""Here a GPU takes the CPU's indices too."""


class Pretended(torch.Tensor):
    """Numbers on the CPU that say that they are on `DEVICE`."""

    @staticmethod
    def __new__(cls, numbers):
        options = {"dtype": numbers.dtype, "device": DEVICE, "requires_grad": numbers.requires_grad}
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls, numbers.shape, numbers.stride(), **options
            )
        made.numbers = numbers.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        torch.Tensor.data.__set__(self, other)
        self.numbers = other.numbers

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
    if there and name in INDEXED and not isinstance(args[0], Pretended):
        raise RuntimeError(f"{name}: indices on {DEVICE} for a tensor on cpu")
    devices = [torch.device(x) for x in (*args, *kwargs.values()) if isinstance(x, torch.device)]
    wrap = DEVICE in devices if devices else bool(there)
    if name == "aten::copy_":
        wrap = isinstance(args[0], Pretended)
    args, kwargs = tree_map(
        lambda x: torch.device("cpu") if isinstance(x, torch.device) else x, (args, kwargs)
    )
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


class _FromNumbers(TorchFunctionMode):
    """``torch.tensor`` moves what it makes below what a dispatch mode can see."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return function(*args, **(kwargs | {"device": "cpu"})).to(DEVICE)
        return function(*args, **kwargs)


@contextlib.contextmanager
def pretended():
    """Where tensors may be made on `DEVICE`."""
    with _Factories(), _FromNumbers():
        yield


def backend():
    """Make `DEVICE` one with a name of its own, for this process: models are read, and gradients
    taken, there.
    """
    global DEVICE
    from torch.utils import backend_registration

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16, torch.float16]

        def get_rng_state(self, *_):
            return torch.get_rng_state()

        def set_rng_state(self, state, *_):
            pass

    backend_registration._setup_privateuseone_for_python_backend("pretend", backend_module=Module())
    DEVICE = torch.device("pretend:0")


def placed(model):
    """The model, with weights of its own on the device; what was one weight stays one."""
    done = {}
    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = done.setdefault(
                    id(weight), torch.nn.Parameter(there(weight.detach()))
                )
        part._buffers |= {name: there(x) for name, x in part._buffers.items() if x is not None}
    return model


def there(array):
    """A NumPy array or tensor, on the device."""
    return Pretended(torch.as_tensor(array).clone())


def back(value):
    """Whatever holds such tensors, with NumPy arrays in their place."""
    return tree_map(lambda x: x.numbers.numpy() if isinstance(x, Pretended) else x, value)
