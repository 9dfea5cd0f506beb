"""Log-probabilities and soft values of a causal language model from its hidden states and slices of
its head.

``V = log Σ exp f`` and ``log π(a) = f[a] − V`` at a position need one pass over the vocabulary with
a running maximum and sum: ``(batch, time, vocabulary)`` logits never exist.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from llm_bridge.models.load import CausalLM

__all__ = [
    "Head",
    "TokenStatistics",
    "call",
    "device_of",
    "evaluation",
    "find_head",
    "largest_difference",
    "require_law",
    "token_statistics",
]

CHUNK, POSITIONS = 4096, 1024
"""Logits that exist at once: so many tokens of the vocabulary by so many positions."""

ON_GPU = 4
"""A GPU's blocks have so many times the tokens and positions: it would wait between kernels that
are smaller.
"""


def block_size(device: torch.device) -> tuple[int, int]:
    """Tokens of the vocabulary and positions of a block of logits on this device."""
    factor = ON_GPU if device.type == "cuda" else 1
    return factor * CHUNK, factor * POSITIONS


def kept_logits(device: torch.device) -> int:
    """Logits that a gradient may keep; where there are more, they are computed twice instead."""
    return 4 * math.prod(block_size(device))


FACTORS = {"logit_scale": 1, "lm_head_multiplier": 1, "output_multiplier": 1, "logits_scaling": -1}
"""What configurations call the factor on a head's output, and the power at which it is one."""

CAPS = ("final_logit_softcapping", "logits_soft_cap")


class TokenStatistics(NamedTuple):
    """At each of `n` positions, arrays ``(n,)``: the token's ``log π(a|s)``, ``log Σ exp f``, and
    ``f[a] = max f``.
    """

    log_probs: np.ndarray
    normalizers: np.ndarray
    greedy: np.ndarray


def token_statistics(
    blocks: Iterable[tuple[slice, int, torch.Tensor]], tokens: torch.Tensor, like: torch.Tensor
) -> TokenStatistics:
    """Of `tokens` ``(n,)``, the logits arriving in blocks of positions and vocabulary, which are
    overwritten.

    Kept at each position: ``f[a]``, ``max f`` and ``Σ exp(f − max f)``; so ``log π`` is no
    difference of large numbers.
    """
    tokens, dtype = tokens.to(like.device), torch.promote_types(like.dtype, torch.float32)
    top = torch.full_like(tokens, torch.finfo(dtype).min, dtype=dtype)
    chosen, total = top.clone(), torch.zeros_like(top)
    for rows, start, block in blocks:
        logits = block.to(top)
        index, width = tokens[rows] - start, logits.shape[-1]
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
    """Logits ``f = cap·tanh(scale·(W x + b)/cap)``, a block at a time.

    A plain linear head is sliced, and its products are in float32 at least. Any other (adapted,
    quantised, hooked, offloaded) is called as it is, in its own precision, on fewer positions and
    the whole vocabulary.
    """

    module: Any
    vocab_size: int
    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the module is a weight and a bias and no more, apart from a hook that moves
        tensors.
        """
        module = self.module
        hooked = module._forward_hooks or module._forward_pre_hooks
        hooked = hooked or ("forward" in vars(module) and not hasattr(module, "_hf_hook"))
        return (
            type(module) is torch.nn.Linear and not hooked and module.weight.device.type != "meta"
        )

    def blocks(self, hidden: torch.Tensor) -> Iterator[tuple[slice, int, torch.Tensor]]:
        """Positions, first token and logits of each block, for hidden states ``(n, width)``.

        The logits may be overwritten, and are by the next block.
        """
        V, dtype, plain = (
            self.vocab_size,
            torch.promote_types(hidden.dtype, torch.float32),
            self.plain,
        )
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
                yield (
                    rows,
                    start,
                    logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap),
                )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """All logits, in float32 at least and with gradients: ``(…, V)`` for hidden states ``(…,
        width)``.
        """
        dtype, module = torch.promote_types(hidden.dtype, torch.float32), self.module
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
        """``log π(a|s)`` with gradients, nats: ``(n, T)`` for hidden states ``(n, T, width)`` and
        tokens ``(n, T)``.
        """

        def of_block(hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor]:
            logits = self.logits(hidden)
            return (logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1),)

        found: torch.Tensor = self._in_blocks(of_block, hidden, tokens)[0]
        return found

    def expectations(
        self,
        hidden: torch.Tensor,
        tokens: torch.Tensor,
        models: Sequence[tuple[Head, torch.Tensor, float]],
        own: float,
    ) -> tuple[torch.Tensor, ...]:
        """`log_probs`, and ``Σ_a π(a|s) (Σ_i w_i log μ_i(a|s) − own·log π(a|s))`` with gradients:
        two ``(n, T)``.

        Each model is a head that reads `μ_i` from its own hidden states, without gradients, and
        `w_i`.
        """

        def of_block(
            hidden: torch.Tensor, tokens: torch.Tensor, *others: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            law = torch.log_softmax(self.logits(hidden), dim=-1)
            rewards = -own * law
            for (head, _, weight), states in zip(models, others, strict=True):
                with torch.no_grad():
                    reference = torch.log_softmax(head.logits(states), dim=-1)
                rewards = rewards + weight * reference
            return law.gather(-1, tokens[:, None])[:, 0], (law.exp() * rewards).sum(dim=-1)

        return self._in_blocks(of_block, hidden, tokens, *(states for _, states, _ in models))

    def _in_blocks(
        self, of_block: Any, hidden: torch.Tensor, tokens: torch.Tensor, *more: Any
    ) -> tuple[Any, ...]:
        """Arrays ``(n, T)`` computed from blocks of positions.

        The logits of a block exist at once; where there are several blocks, they are computed again
        for the gradient.
        """
        pieces = math.ceil(tokens.numel() * self.vocab_size / kept_logits(hidden.device))
        parts = [
            x.tensor_split(pieces)
            for x in (hidden.flatten(0, 1), tokens.flatten(), *(x.flatten(0, 1) for x in more))
        ]
        blocks = list(zip(*parts, strict=True))
        if len(blocks) == 1:
            return tuple(
                x.reshape(tokens.shape).clone() for x in of_block(*blocks[0])
            )  # FSDP wants no views
        found = [checkpoint(of_block, *block, use_reentrant=False) for block in blocks]
        return tuple(
            torch.cat(column).reshape(tokens.shape).clone() for column in zip(*found, strict=True)
        )


class _Product:
    """``W x + b`` for a range of tokens, in float32 at least, whatever the process allows elsewhere
    (TF32).

    One piece of memory holds every block: allocators keep many of a size that comes again and
    again.
    """

    def __init__(self, module: Any, hidden: torch.Tensor, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.dtype = module.weight, module.bias, dtype
        place = {"dtype": dtype, "device": module.weight.device}
        width, positions = block_size(module.weight.device)
        self._logits = torch.empty(
            min(len(hidden), positions) * min(width, len(module.weight)), **place
        )
        # GPUs multiply 16-bit numbers and add the products in float32: no less exact than after a
        # cast
        exact = module.weight.is_cuda or module.weight.dtype == dtype
        self._cast = (
            None
            if exact and hidden.dtype == module.weight.dtype
            else torch.empty(width, hidden.shape[-1], **place)
        )
        self._start = -1

    def __call__(self, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Logits ``(n, stop − start)`` of tokens ``start … stop − 1``, valid until the next
        call.
        """
        weight = self.weight[start:stop]
        if self._cast is not None:
            if start != self._start:
                self._cast[: stop - start].copy_(weight)
            weight, self._start = self._cast[: stop - start], start
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


def find_head(lm: CausalLM) -> tuple[Any, Head | None, int]:
    """Decoder and head that reproduce the model's own logits on a few tokens, or `None`; and the
    number of logits.

    Some models leave what the configuration declares unused, or use it inversely: their logits
    decide.

    Raises:
        ValueError: an encoder-decoder, or the logits are no distribution's, see `require_law`.

    """
    model, config = lm.model, lm.model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{lm.name}: an encoder-decoder does not continue its prompt; give a decoder"
        )
    probe = torch.arange(min(4, lm.context or 4))[None] % lm.vocab_size
    own = call(model, probe).logits[0]
    V, tolerance = own.shape[-1], max(1e-4, 4 * torch.finfo(own.dtype).eps)
    module = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    decoders = [model.get_decoder()] if hasattr(model, "get_decoder") else []
    decoders += [getattr(model, name) for name in ("base_model", "model") if hasattr(model, name)]
    factors = [(getattr(config, name, None), power) for name, power in FACTORS.items()]
    scales = [
        float(x) ** sign
        for x, power in factors
        if isinstance(x, int | float) and x
        for sign in (power, -power)
    ]
    caps = [float(x) for name in CAPS if (x := getattr(config, name, None))]
    for decoder, cap, scale in itertools.product(
        decoders if module is not None else (), (*caps, None), (*scales, 1.0)
    ):
        head, found = (
            Head(module, V, scale, cap),
            torch.full_like(own, torch.nan, dtype=torch.double),
        )
        try:
            for rows, start, logits in head.blocks(call(decoder, probe)[0][0]):
                found[rows, start : start + logits.shape[-1]] = logits
            apart, scale = largest_difference(found, own)
            if apart <= tolerance * scale:
                return decoder, head, V
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
            continue  # not a decoder with this head
    require_law(lm.name, own, lambda row: probe[0, : row + 1].tolist())
    return None, None, V


def require_law(
    name: str, logits: torch.Tensor, tokens_before: Callable[[int], Sequence[int]]
) -> None:
    """Raise `ValueError` unless every row of logits ``(n, V)`` is a probability distribution's.

    A logit of −∞ forbids its token. NaN, +∞, and −∞ of all tokens are refused, wherever a model is
    read: no number that is made from them means anything.

    Args:
        name: of the model.
        logits: or log-probabilities.
        tokens_before: the token ids that the model had read, for a row's number.

    """
    top = logits.amax(dim=-1)  # NaN where one is
    bad = (~top.isfinite()).nonzero()
    if len(bad):
        row = int(bad[0])
        tokens, worst = [int(token) for token in tokens_before(row)], float(top[row])
        what = "NaN" if math.isnan(worst) else "+∞" if worst > 0 else "−∞ for every token"
        ids = f"{'… ' if len(tokens) > 16 else ''}{' '.join(map(str, tokens[-16:]))}"
        raise ValueError(
            f"{name}: its logits after the tokens {ids} are {what}; give another model or dtype"
        )


def largest_difference(one: torch.Tensor, two: torch.Tensor) -> tuple[float, float]:
    """The largest ``|one − two|``, 0 where both are −∞, and the largest finite ``|two|``."""
    apart = torch.where(one == two, 0.0, one - two).detach()
    scale = torch.where(two.isfinite(), two, 0.0).detach()
    return float(apart.abs().max()), float(scale.abs().max())


def call(module: Any, ids: torch.Tensor, **options: Any) -> Any:
    """The module's output for `ids`, with those of the `options` that it knows.

    The mask is ones throughout: no token sees the padding after it, and where a sliding window
    holds only what is masked some models give NaN, which spreads along the row.
    """
    known, ids = inspect.signature(module.forward).parameters, ids.to(device_of(module))
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False} | options
    return module(input_ids=ids, **{name: x for name, x in options.items() if name in known})


def device_of(module: Any) -> torch.device:
    """Where the module takes its input; of weights kept elsewhere until needed, the hook that
    fetches them says.
    """
    device: torch.device = next(module.parameters()).device
    hooks = (
        [getattr(part, "_hf_hook", None) for part in module.modules()]
        if device.type == "meta"
        else []
    )
    places = [getattr(hook, "execution_device", None) for hook in hooks]
    return next((torch.device(place) for place in places if place is not None), device)


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """The model in evaluation mode, without gradients; every module's training flag as found
    afterwards.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device_of(model).type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True
