"""Estimate what a PPO run takes: memory by formula, time by measuring the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.calls import device_of
from llm_bridge.models.head import kept_logits
from llm_bridge.models.load import CausalLM

__all__ = ["Cost", "cost"]

GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Cost of one process.

    Attributes:
        memory: bytes by purpose: frozen weights, trained weights (with gradients and Adam's two
            moments), cache of keys and values, activations, hidden states, logits.
        operations: floating-point operations of a batch.
        seconds: least time of a batch, at the speed of this machine's matrix products and memory;
            small models take several times as long.

    """

    memory: dict[str, float]
    operations: float
    seconds: float

    def lines(self, config: PPOConfig) -> list[str]:
        """Describe the cost in two lines of text."""
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.memory.items())
        total = self.seconds * config.steps
        return [
            f"memory, estimated: {sum(self.memory.values()) / GIB:.3g} GiB ({parts})",
            f"time, at least: {self.seconds:.2g} s a batch ({self.operations:.2g} operations), "
            f"{total / 60:.2g} min for {config.steps} batches without evaluations",
        ]


def cost(lm: CausalLM, config: PPOConfig, prompt_tokens: float, processes: int = 1) -> Cost:
    """Estimate memory and time of one process of a run.

    Activations are those of a Llama layer: for each token 14 numbers of the model's width and 4 of
    the feed-forward's, without attention scores, which flash attention never stores; with gradient
    checkpointing one of the width, and one layer twice. Logits are kept 6 times: of the policy, of
    the reference, their products and gradients. Within 10 % of what is measured on a CPU.

    Args:
        lm: model to be trained.
        config: hyperparameters.
        prompt_tokens: average number of tokens of a prompt.
        processes: number of processes of the run.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> found = cost(letter_lm(4), PPOConfig(steps=10), prompt_tokens=3)
        >>> len(found.lines(PPOConfig(steps=10))), found.seconds > 0
        (2, True)

    """
    text = lm.model.config.get_text_config()
    low = 2 if config.dtype == "bfloat16" else 4
    n = sum(p.numel() for p in lm.model.parameters())
    frozen = n * (4 if config.lora is None else low)
    layers = text.num_hidden_layers
    width = text.hidden_size
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    kv = kv_heads * (getattr(text, "head_dim", None) or width // heads)
    # adapters of rank r on q, k, v, o and the feed-forward: some 20·r·width numbers in a layer
    trained = n if config.lora is None else 20 * config.lora * width * layers
    trained /= processes if config.shard else 1
    rows = config.prompts_per_step * config.samples / processes
    tokens = rows * (prompt_tokens + config.max_tokens)
    rows_in_pass = min(rows, config.microbatch or config.minibatch / processes)
    in_pass = rows_in_pass * (prompt_tokens + config.max_tokens)
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
    kept = 14 * width + 4 * inner
    if config.gradient_checkpointing:
        kept = width + 2 * kept / layers
    states = rows_in_pass * config.max_tokens
    memory = {
        "frozen weights": float(frozen),
        "trained": trained * 16 + (trained * low if config.dtype == "bfloat16" else 0),
        "cache": tokens * layers * 2 * kv * low,
        "activations": in_pass * layers * kept * low,
        "hidden states": rows * config.max_tokens * width * low * (config.reward == "expected"),
        "logits": 6.0 * 4 * min(kept_logits(device_of(lm.model)), states * lm.vocab_size),
    }
    update = (6 if config.lora is None else 4) + 2 * config.gradient_checkpointing
    operations = 2 * n * tokens * (3 + config.epochs * update / 2)  # sampled, scored and read once
    products, bandwidth = _speed(device_of(lm.model), torch.bfloat16 if low == 2 else torch.float32)
    sampling = config.max_tokens * frozen / bandwidth  # every token needs all weights once
    return Cost(memory, operations, max(operations / products, sampling))


def _speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure operations a second of a matrix product, and bytes a second of reading memory."""
    matrix = torch.randn(1024, 1024, device=device, dtype=dtype)
    memory = torch.zeros(2**26, device=device, dtype=torch.uint8)
    products = 2 * 1024**3 / _least(lambda: matrix @ matrix, device)
    return products, memory.numel() / _least(memory.any, device)


def _least(work: Any, device: torch.device) -> float:
    """Return the shortest time, in seconds, of five tries."""
    found = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found)
