"""Call a causal language model, and check the logits that it returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = [
    "call",
    "device_of",
    "evaluation",
    "evaluation_mode",
    "first_line",
    "require_distribution",
]


def require_distribution(
    name: str, logits: torch.Tensor, tokens_before: Callable[[int], Sequence[int]]
) -> None:
    """Raise unless every row of logits has a softmax.

    A logit of −∞ forbids its token. NaN, +∞, or −∞ for every token are refused.

    Args:
        name: name of the model, for the message.
        logits: ``(n, V)`` logits or log-probabilities.
        tokens_before: gives the token ids that the model had read before a row, for the message.

    Raises:
        ValueError: a row has no softmax; names the tokens before it.

    Example:
        >>> require_distribution("gpt2", torch.tensor([[0.0, -torch.inf]]), lambda row: [7])
        >>> require_distribution("gpt2", torch.tensor([[0.0, torch.nan]]), lambda row: [7])
        Traceback (most recent call last):
        ValueError: gpt2: its logits after the tokens 7 are NaN; give another model or dtype

    """
    top = logits.amax(dim=-1)  # NaN where one is
    bad = (~top.isfinite()).nonzero()
    if len(bad):
        row = int(bad[0])
        worst = float(top[row])
        tokens = [int(token) for token in tokens_before(row)]
        what = "NaN" if math.isnan(worst) else "+∞" if worst > 0 else "−∞ for every token"
        ids = f"{'… ' if len(tokens) > 16 else ''}{' '.join(map(str, tokens[-16:]))}"
        raise ValueError(
            f"{name}: its logits after the tokens {ids} are {what}; give another model or dtype"
        )


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's text, without a full stop; its type where it has none.

    Example:
        >>> first_line(ValueError("no such file.\nSee …")), first_line(KeyError())
        ('no such file', 'KeyError')

    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def call(module: Any, ids: torch.Tensor, **options: Any) -> Any:
    """Run a model on token ids, passing only the options that its `forward` accepts.

    The attention mask is all ones by default: no token sees the padding after it, and a sliding
    window that holds only masked tokens gives NaN in some models.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> ids = torch.tensor([[0, 1, 2]])
        >>> call(letter_lm(4).model, ids, logits_to_keep=1, no_such_option=True).logits.shape
        torch.Size([1, 1, 4])

    """
    known = inspect.signature(module.forward).parameters
    ids = ids.to(device_of(module))
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False} | options
    return module(input_ids=ids, **{name: x for name, x in options.items() if name in known})


def device_of(module: Any) -> torch.device:
    """Return the device on which a module takes its input.

    Example:
        >>> device_of(torch.nn.Linear(2, 2))
        device(type='cpu')

    """
    device: torch.device = next(module.parameters()).device
    if device.type != "meta":
        return device
    # offloaded weights are on "meta" until a hook of accelerate fetches them to its device
    hooks = [getattr(part, "_hf_hook", None) for part in module.modules()]
    places = [getattr(hook, "execution_device", None) for hook in hooks]
    return next((torch.device(place) for place in places if place is not None), device)


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """Put a model in evaluation mode without gradients; restore every training flag afterwards.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        >>> with evaluation(model):
        ...     model.training
        False
        >>> model.training
        True

    """
    off = torch.autocast(device_of(model).type, enabled=False)
    with evaluation_mode(model), torch.inference_mode(), off:
        yield


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put a model in evaluation mode; restore every training flag afterwards.

    Example:
        >>> model = torch.nn.Dropout(0.5)
        >>> with evaluation_mode(model):
        ...     model.training
        False

    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
