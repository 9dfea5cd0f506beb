"""Compute a causal LM's log-probabilities from its hidden states and its output head, in blocks.

With logits ``f`` at a position, ``V = log Σ_a exp f[a]`` and ``log π(a) = f[a] − V`` need one pass
over the vocabulary with a running maximum and sum: a table ``(batch, time, vocabulary)`` of logits
is never built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Head",
    "TokenStatistics",
    "block_size",
    "kept_logits",
    "token_statistics",
]

CHUNK = 4096
"""Tokens of the vocabulary in one block of logits, on a CPU."""

POSITIONS = 1024
"""Positions in one block of logits, on a CPU."""

ON_GPU = 4
"""Factor on both for a GPU, which would wait between kernels that are smaller."""


def block_size(device: torch.device) -> tuple[int, int]:
    """Return tokens of the vocabulary and positions of a block of logits on this device.

    Example:
        >>> block_size(torch.device("cpu")), block_size(torch.device("cuda"))
        ((4096, 1024), (16384, 4096))

    """
    factor = ON_GPU if device.type == "cuda" else 1
    return factor * CHUNK, factor * POSITIONS


def kept_logits(device: torch.device) -> int:
    """Return how many logits a gradient may keep; more are computed again in the backward pass.

    Example:
        >>> kept_logits(torch.device("cpu"))
        16777216

    """
    return 4 * math.prod(block_size(device))


class TokenStatistics(NamedTuple):
    """Statistics of one token at each of `n` positions.

    Attributes:
        log_probs: ``(n,)`` ``log π(a|s)``, nats.
        normalizers: ``(n,)`` ``log Σ_a exp f[a]``, nats.
        greedy: ``(n,)`` whether the token has the largest logit.

    """

    log_probs: np.ndarray
    normalizers: np.ndarray
    greedy: np.ndarray


def token_statistics(
    blocks: Iterable[tuple[slice, int, torch.Tensor]], tokens: torch.Tensor, like: torch.Tensor
) -> TokenStatistics:
    """Compute log-probabilities of `tokens` from logits that arrive block by block.

    At each position ``f[a]``, ``max f`` and ``Σ exp(f − max f)`` are kept, so that ``log π`` is not
    a difference of two large numbers.

    Args:
        blocks: positions, first token of the vocabulary, and logits, as `Head.blocks` yields them;
            the logits are overwritten.
        tokens: ``(n,)`` token ids.
        like: a tensor whose device is used, and whose precision if it is more than float32.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
        >>> found = token_statistics([(slice(0, 2), 0, logits)], torch.tensor([1, 1]), logits)
        >>> found.log_probs.round(4), found.greedy
        (array([-0.3133, -2.1269], dtype=float32), array([ True, False]))

    """
    tokens = tokens.to(like.device)
    dtype = torch.promote_types(like.dtype, torch.float32)
    top = torch.full_like(tokens, torch.finfo(dtype).min, dtype=dtype)
    chosen = top.clone()
    total = torch.zeros_like(top)
    for rows, start, block in blocks:
        logits = block.to(top)
        width = logits.shape[-1]
        index = tokens[rows] - start
        picked = logits.gather(-1, index.clamp(0, width - 1)[:, None])[:, 0]
        chosen[rows] = torch.where((index >= 0) & (index < width), picked, chosen[rows])
        higher = torch.maximum(top[rows], logits.amax(dim=-1))
        added = logits.sub_(higher[:, None]).exp_().sum(dim=-1)
        total[rows] = total[rows] * torch.exp(top[rows] - higher) + added
        top[rows] = higher
    log_total = torch.log(total)
    found = chosen - top - log_total, top + log_total, chosen == top
    return TokenStatistics(*(x.cpu().numpy() for x in found))


@dataclass(frozen=True)
class Head:
    """Output head of a language model: logits ``f = cap·tanh(scale·(W x + b)/cap)``.

    A plain linear head is sliced along the vocabulary and multiplied in float32 or better. Any
    other head (adapted, quantised, hooked, offloaded) is called as a whole, in its own precision.

    Attributes:
        module: module that maps hidden states to logits.
        vocab_size: logits that count; a padded head may have more.
        scale: factor on the logits.
        cap: bound of the logits; `None` for none.

    Example:
        >>> head = Head(torch.nn.Linear(2, 3, bias=False), vocab_size=3, scale=0.5)
        >>> hidden = torch.ones(1, 4, 2)
        >>> head.logits(hidden).shape
        torch.Size([1, 4, 3])
        >>> head.log_probs(hidden, torch.zeros(1, 4, dtype=torch.long)).shape
        torch.Size([1, 4])

    """

    module: Any
    vocab_size: int
    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the module is a linear layer whose weight can be sliced."""
        module = self.module
        hooked = module._forward_hooks or module._forward_pre_hooks
        # accelerate replaces `forward` too, but only to fetch the weights
        hooked = hooked or ("forward" in vars(module) and not hasattr(module, "_hf_hook"))
        linear = type(module) is torch.nn.Linear
        return linear and not hooked and module.weight.device.type != "meta"

    def blocks(self, hidden: torch.Tensor) -> Iterator[tuple[slice, int, torch.Tensor]]:
        """Yield positions, first token and logits of each block, for hidden states ``(n, width)``.

        The next block overwrites the logits.
        """
        V = self.vocab_size
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        plain = self.plain
        width, positions = block_size(hidden.device)
        if not plain:
            width, positions = V, max(1, width * positions // V)
        multiply = _Product(self.module, hidden, dtype) if plain else None
        for start in range(0, V, width):
            for first in range(0, len(hidden), positions):
                rows = slice(first, first + positions)
                if multiply is not None:
                    logits = multiply(hidden[rows], start, min(start + width, V))
                else:
                    logits = self.module(hidden[rows])[..., :V].to(dtype)
                if self.scale != 1.0:
                    logits = logits.mul_(self.scale)
                if self.cap is not None:
                    logits = logits.div_(self.cap).tanh_().mul_(self.cap)
                yield rows, start, logits

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits ``(…, V)`` of hidden states ``(…, width)``, in float32 or better.

        Gradients flow through them.
        """
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        module = self.module
        if self.plain:
            with torch.autocast(hidden.device.type, enabled=False):
                bias = None if module.bias is None else module.bias.to(dtype)
                logits = torch.nn.functional.linear(hidden.to(dtype), module.weight.to(dtype), bias)
        else:
            logits = module(hidden).to(dtype)
        logits = logits[..., : self.vocab_size]
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def log_probs(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Compute ``log π(a|s)`` ``(n, T)``, nats, with gradients.

        Args:
            hidden: ``(n, T, width)`` hidden states of the positions before the tokens.
            tokens: ``(n, T)`` token ids.

        """

        def of_block(hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor]:
            # the formula of `expectations`, so that equal models give equal bits
            log_policy = torch.log_softmax(self.logits(hidden), dim=-1)
            return (log_policy.gather(-1, tokens[:, None])[:, 0],)

        found: torch.Tensor = self._in_blocks(of_block, hidden, tokens)[0]
        return found

    def expectations(
        self,
        hidden: torch.Tensor,
        tokens: torch.Tensor,
        models: Sequence[tuple[Head, torch.Tensor, float]],
        own: float,
    ) -> tuple[torch.Tensor, ...]:
        """Compute `log_probs` and expected rewards of the policy, both ``(n, T)``, with gradients.

        The expected reward is ``Σ_a π(a|s) (Σ_i w_i log μ_i(a|s) − own·log π(a|s))``.

        Args:
            hidden: ``(n, T, width)`` hidden states of the policy.
            tokens: ``(n, T)`` token ids, for the log-probabilities.
            models: for each frozen `μ_i` its head, its hidden states ``(n, T, width)``, and `w_i`.
            own: weight of ``−log π``, an entropy bonus.

        """

        def of_block(
            hidden: torch.Tensor, tokens: torch.Tensor, *others: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            log_policy = torch.log_softmax(self.logits(hidden), dim=-1)
            rewards = -own * log_policy
            for (head, _, weight), states in zip(models, others, strict=True):
                with torch.no_grad():
                    reference = torch.log_softmax(head.logits(states), dim=-1)
                rewards = rewards + weight * reference
            chosen = log_policy.gather(-1, tokens[:, None])[:, 0]
            return chosen, (log_policy.exp() * rewards).sum(dim=-1)

        return self._in_blocks(of_block, hidden, tokens, *(states for _, states, _ in models))

    def _in_blocks(
        self, of_block: Any, hidden: torch.Tensor, tokens: torch.Tensor, *more: Any
    ) -> tuple[Any, ...]:
        """Apply `of_block` to blocks of positions and join its results to arrays ``(n, T)``.

        Logits of one block exist at a time. With several blocks, the backward pass computes them
        again.
        """
        pieces = math.ceil(tokens.numel() * self.vocab_size / kept_logits(hidden.device))
        parts = [x.flatten(0, 1).tensor_split(pieces) for x in (hidden, tokens, *more)]
        blocks = list(zip(*parts, strict=True))
        if len(blocks) == 1:
            found = [of_block(*blocks[0])]
        else:
            found = [checkpoint(of_block, *block, use_reentrant=False) for block in blocks]
        columns = [torch.cat(column) for column in zip(*found, strict=True)]
        return tuple(x.reshape(tokens.shape).clone() for x in columns)  # FSDP wants no views


class _Product:
    """Product ``W x + b`` for a range of tokens, in float32 or better even where TF32 is allowed.

    All blocks share one buffer: allocators would keep several of a size that comes again and again.
    """

    def __init__(self, module: Any, hidden: torch.Tensor, dtype: torch.dtype) -> None:
        self.weight = module.weight
        self.bias = module.bias
        self.dtype = dtype
        place = {"dtype": dtype, "device": module.weight.device}
        width, positions = block_size(module.weight.device)
        size = min(len(hidden), positions) * min(width, len(module.weight))
        self._logits = torch.empty(size, **place)
        # GPUs multiply 16-bit numbers and add in float32: as exact as casting them first
        exact = module.weight.is_cuda or module.weight.dtype == dtype
        needs_cast = not exact or hidden.dtype != module.weight.dtype
        self._cast = torch.empty(width, hidden.shape[-1], **place) if needs_cast else None
        self._start = -1

    def __call__(self, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return logits ``(n, stop − start)`` of these tokens, valid until the next call."""
        weight = self.weight[start:stop]
        if self._cast is not None:
            if start != self._start:
                self._cast[: stop - start].copy_(weight)
                self._start = start
            weight = self._cast[: stop - start]
        out = self._logits[: len(hidden) * (stop - start)].view(len(hidden), stop - start)
        hidden = hidden.to(self.weight.device)
        if weight.dtype != self.dtype:
            torch.mm(hidden, weight.T, out_dtype=self.dtype, out=out)
        else:
            with _full_precision():
                torch.mm(hidden.to(self.dtype), weight.T, out=out)
        return out if self.bias is None else out.add_(self.bias[start:stop])


@contextmanager
def _full_precision() -> Iterator[None]:
    all_backends: Any = torch.backends
    backends = all_backends.cuda.matmul, all_backends.mkldnn.matmul
    allowed = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, allowed, strict=True):
            backend.fp32_precision = precision
