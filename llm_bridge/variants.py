"""A model as it is read: its own temperature, dtype, adapter and quantisation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from llm_bridge.model import CausalLM, first_line, load_model, require_same_vocabulary
from theory.arrays import require_positive

__all__ = ["Variant", "default_expert", "load_pair", "load_variant", "quantise"]

BITS = (2, 16)


@dataclass(frozen=True)
class Variant:
    """Which model, and how it is read. Two variants of one model are an expert and its imperfect copy.

    Attributes:
        model: folder or hub id. A checkpoint that is quantised on disk is loaded as its configuration says.
        temperature: at which it is sampled.
        dtype: of the weights.
        bits: the weights of its linear layers are rounded to so many bits, see `quantise`; `None`: as they are.
        adapter: folder or hub id of a LoRA adapter (peft) that is merged into the weights.

    Raises:
        ValueError: a number is out of range.

    """

    model: str
    temperature: float = 1.0
    dtype: str = "float32"
    bits: int | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        if self.bits is not None and not BITS[0] <= self.bits <= BITS[1]:
            raise ValueError(f"bits={self.bits}: must be from {BITS[0]} to {BITS[1]}")

    @property
    def weights(self) -> tuple[Any, ...]:
        """What tells its weights from those of another variant."""
        return self.model, self.dtype, self.bits, self.adapter

    def __str__(self) -> str:
        parts = [self.dtype, f"temperature {self.temperature:g}"]
        parts += [] if self.bits is None else [f"weights of {self.bits} bits"]
        parts += [] if self.adapter is None else [f"adapter {Path(self.adapter).name}"]
        return ", ".join(parts)


def load_variant(variant: Variant, *, device: str | None = None) -> CausalLM:
    """Load the model, merge the adapter, round the weights.

    Raises:
        OSError: the model or the adapter cannot be loaded.
        ValueError: see `load_model`; or the adapter is not one of this model, or there is nothing to round.

    """
    lm = load_model(variant.model, dtype=variant.dtype, device=device)
    if variant.adapter is not None:
        lm = CausalLM(_merged(lm, variant.adapter), lm.tokenizer, lm.name)
    if variant.bits is not None:
        quantise(lm, variant.bits)
    return lm


def default_expert(policy: Variant) -> Variant:
    """The expert where none is named: the same model, colder where the model itself is read at temperature 1."""
    return replace(policy, temperature=0.9 if policy.temperature == 1.0 else 1.0)


def load_pair(policy: Variant, expert: Variant) -> tuple[CausalLM, CausalLM]:
    """Both models; the same object twice where only the temperature differs.

    Raises:
        OSError: a model cannot be loaded.
        ValueError: see `load_variant`; or the vocabularies differ.

    """
    lm = load_variant(policy)
    teacher = lm if policy.weights == expert.weights else load_variant(expert)
    require_same_vocabulary(lm, teacher)
    return lm, teacher


def _merged(lm: CausalLM, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise ValueError(f"adapter={adapter}: peft is not installed: pip install 'endorm[train]'") from None
    if Path(adapter).exists() and not (Path(adapter) / "adapter_config.json").is_file():
        raise OSError(f"adapter={adapter}: no adapter there; give a folder with an adapter_config.json, or a hub id")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            return PeftModel.from_pretrained(lm.model, adapter).merge_and_unload().eval()
    except OSError as error:
        raise OSError(f"adapter={adapter}: cannot be loaded ({first_line(error)})") from None
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"adapter={adapter}: not one of {lm.name} ({first_line(error)})") from None


@torch.no_grad()
def quantise(lm: CausalLM, bits: int) -> None:
    """Round the weights of all linear layers but the output head to `bits` bits, in place.

    Round to nearest, symmetric, with a scale for each output: ``w → s·round(w/s)``, ``s = max|w| / (2^{bits−1} − 1)``.
    What quantised inference computes with, at the precision of the model's own dtype.

    Raises:
        ValueError: the model has no such layer.

    """
    head = lm.model.get_output_embeddings() if hasattr(lm.model, "get_output_embeddings") else None
    layers = [m for m in lm.model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    if not layers:
        raise ValueError(f"bits={bits}: {lm.name} has no linear layers to round")
    for layer in layers:
        inputs = 0 if isinstance(layer, Conv1D) else 1  # GPT-2 keeps its matrices transposed
        weight = layer.weight.double()
        scale = weight.abs().amax(dim=inputs, keepdim=True) / (math.ldexp(1.0, bits - 1) - 1)
        layer.weight.copy_(torch.where(scale > 0, scale * torch.round(weight / scale), weight))
