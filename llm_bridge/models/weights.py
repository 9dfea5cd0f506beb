"""What is done to weights once they are loaded: an adapter merged, matrices rounded."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.pytorch_utils import Conv1D

from llm_bridge.models.calls import first_line
from llm_bridge.models.hub import cache_without_hub
from llm_bridge.models.load import CausalLM

__all__ = ["merge_adapter", "quantise"]


def merge_adapter(lm: CausalLM, adapter: str) -> CausalLM:
    """Add a LoRA adapter's weights to a model's own.

    Every weight of the file must have its place and every place its weight: peft itself leaves the
    former out, and the latter as they were initialised, which is at random with
    ``init_lora_weights=false``.

    Args:
        lm: the model.
        adapter: folder or hub id of the adapter (peft).

    Raises:
        OSError: the adapter cannot be loaded.
        ValueError: it is not a LoRA adapter of this model, or lacks weights, or has more than the
            model takes; or peft is not installed.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm, tuned, folder = letter_lm(4), letter_lm(4).model, tempfile.mkdtemp()
        >>> tuned.add_adapter(LoraConfig(r=2, init_lora_weights=False))
        >>> tuned.save_pretrained(folder)
        >>> before = lm.model.model.layers[0].self_attn.q_proj.weight.clone()
        >>> after = merge_adapter(lm, folder).model.model.layers[0].self_attn.q_proj.weight
        >>> int(torch.linalg.matrix_rank(after - before, atol=1e-4))
        2

    """
    try:
        from peft import PeftConfig, PeftModel, PeftType
    except ImportError:
        raise ValueError(
            f"adapter={adapter}: peft is not installed: pip install 'endorm[train]'"
        ) from None
    if Path(adapter).exists() and not (Path(adapter) / "adapter_config.json").is_file():
        raise OSError(
            f"adapter={adapter}: no adapter there; give a folder with an adapter_config.json, or a "
            "hub id"
        )
    try:
        with warnings.catch_warnings(), cache_without_hub(local=Path(adapter).exists()):
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            config = PeftConfig.from_pretrained(adapter)
            if config.peft_type != PeftType.LORA:
                raise ValueError(f"its type is {config.peft_type}, not LORA")
            config.inference_mode = True
            adapted = PeftModel(lm.model, config)
            keys = adapted.load_adapter(adapter, "default")
            lacks = ("its file lacks", keys.missing_keys)
            more = ("the model has no place for", keys.unexpected_keys)
            for what, names in (lacks, more):
                if names:
                    shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
                    raise ValueError(f"{what} {len(names)} weights: {shown}")
            return replace(lm, model=adapted.merge_and_unload().eval())
    except (OSError, SafetensorError) as error:
        raise OSError(f"adapter={adapter}: cannot be loaded ({first_line(error)})") from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"adapter={adapter}: not one of {lm.name} ({first_line(error)})") from None


@torch.no_grad()
def quantise(lm: CausalLM, bits: int) -> None:
    """Round the matrices of all layers but the embeddings and the output head to `bits` bits, in
    place.

    Round to nearest, symmetric, with a scale for each output: ``w → s·round(w/s)``, ``s = max|w| /
    (2^{bits−1} − 1)``. What quantised inference computes with, at the precision of the model's own
    dtype. Of mixtures of experts each expert's matrices are rounded like those of a layer of its
    own, and the routers too.

    Raises:
        ValueError: the model has no such matrix, or one of which it is not known what its outputs
            are.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> quantise(lm, bits=2)
        >>> lm.model.model.layers[0].mlp.up_proj.weight[0].unique().sign().tolist()  # −s, 0 and s
        [-1.0, 0.0, 1.0]

    """
    head = lm.model.get_output_embeddings() if hasattr(lm.model, "get_output_embeddings") else None
    matrices: list[tuple[torch.Tensor, int]] = []
    for place, module in lm.model.named_modules():
        if module is head or isinstance(module, LEFT):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if (
                weight.is_floating_point()
                and weight.ndim > 1
                and not any(word in name for word in NO_MATRIX)
            ):
                inputs = _inputs(module, name, weight)
                if inputs is None:
                    where = (
                        f"{place}.{name} of shape {tuple(weight.shape)} in a "
                        f"{type(module).__name__}"
                    )
                    raise ValueError(
                        f"bits={bits}: {lm.name} has a weight that is no linear layer's: {where}"
                    )
                matrices.append((weight, inputs))
    if not matrices:
        raise ValueError(f"bits={bits}: {lm.name} has no linear layers to round")
    for weight, inputs in matrices:
        values = weight.double()
        scale = values.abs().amax(dim=inputs, keepdim=True) / (math.ldexp(1.0, bits - 1) - 1)
        weight.copy_(torch.where(scale > 0, scale * torch.round(values / scale), values))


LEFT = (torch.nn.Embedding, torch.nn.modules.conv._ConvNd)
"""Modules that quantised inference leaves as they are."""

NO_MATRIX = ("bias", "A_log", "time_mix")
"""In names of parameters that have several dimensions and take no product with inputs."""


def _inputs(module: torch.nn.Module, name: str, weight: torch.Tensor) -> int | None:
    """The dimension of a matrix, or of one matrix for each expert, that runs over its inputs;
    `None`: not known.
    """
    if isinstance(module, Conv1D):  # GPT-2 keeps its matrices transposed
        return 0
    if name == "weight" and weight.ndim == 2:  # linear layers and routers
        return 1
    if weight.ndim == 3 and hasattr(module, "is_transposed"):  # fused experts of transformers
        return 1 if module.is_transposed else 2
    if weight.ndim == 3 and name == "weight" and type(module).__name__.endswith("ParallelExperts"):
        return 2
    return None
