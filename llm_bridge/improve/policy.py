"""Make the policy that is trained from the model that is given, and put its adapters back."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import torch

from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.load import CausalLM

__all__ = ["frozen_copy", "merged_adapters", "trainable_copy"]

DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")
"""Attributes from which some layers take a dropout whenever they are in training mode."""


def trainable_copy(model: Any, config: PPOConfig) -> Any:
    """Copy a model to train it: in float32, or with adapters on the model's own weights.

    It stays in evaluation mode: with dropout the ratio of new to old probability would not start at
    1.

    Args:
        model: a ``transformers`` model; its weights are not changed.
        config: ``lora`` and ``seed`` are used.

    Raises:
        ValueError: ``lora`` is set, and the package peft is not installed.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> policy = trainable_copy(letter_lm(4).model, PPOConfig())
        >>> all(p.requires_grad and p.dtype == torch.float32 for p in policy.parameters())
        True

    """
    if config.lora is None:
        policy = copy.deepcopy(model).float().requires_grad_(True)
    else:
        policy = _with_adapters(model, config.lora, config.seed)
    for part in policy.modules():
        # gradient checkpointing puts layers in training mode
        for name in DROPOUTS:
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return policy.eval()


def frozen_copy(lm: CausalLM, config: PPOConfig) -> CausalLM:
    """Return a frozen model in the precision of the policy: itself, or a copy in float32.

    Where all weights are trained they are float32. A frozen model of 16-bit weights would round
    more often than its own copy, and be at a distance from it.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> frozen_copy(lm, PPOConfig()) is lm
        True

    """
    low = any(p.dtype.itemsize < 4 for p in lm.model.parameters() if p.is_floating_point())
    if config.lora is not None or not low:
        return lm
    return replace(lm, model=copy.deepcopy(lm.model).float())


def _with_adapters(model: Any, rank: int, seed: int) -> Any:
    try:
        from peft import LoraConfig
    except ImportError:
        raise ValueError(
            f"lora={rank}: peft is not installed: pip install 'endorm[train]'"
        ) from None
    # parameters of their own on the same memory: adapters freeze what they are put on
    shared = {
        id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()
    }
    policy = copy.deepcopy(model, shared)
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with warnings.catch_warnings(), torch.random.fork_rng():
        # peft warns of layers that store their weight transposed, and handles them
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        policy.add_adapter(adapters)
    for parameter in policy.parameters():
        if parameter.requires_grad:  # in bfloat16 a small step would round to none
            parameter.data = parameter.data.float()
    return policy


def merged_adapters(model: Any, policy: Any) -> Any:
    """Return a copy of a model with the adapters of its policy added to the weights.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> model = letter_lm(4).model
        >>> policy = trainable_copy(model, PPOConfig(lora=2))
        >>> for name, weight in policy.named_parameters():
        ...     if "lora_B" in name:  # zero before training
        ...         _ = torch.nn.init.normal_(weight)
        >>> merged, q_proj = merged_adapters(model, policy), "model.layers.0.self_attn.q_proj"
        >>> added = merged.get_submodule(q_proj).weight - model.get_submodule(q_proj).weight
        >>> int(torch.linalg.matrix_rank(added, atol=1e-4))
        2

    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(model)
    for name, layer in policy.named_modules():
        if isinstance(layer, BaseTunerLayer):
            weight = merged.get_submodule(name).weight
            weight.data += layer.get_delta_weight("default").to(weight)
    return merged
