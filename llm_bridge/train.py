"""A small language model trained on an expert's demonstrations: behaviour cloning with a real network.

The expert is a tabular policy, so its reward and every error of the clone are known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from llm_bridge.model import CausalLM
from theory.policy import Policy, sample

__all__ = ["train_on_demonstrations"]

LETTERS = 26


def train_on_demonstrations(
    policy: Policy,
    *,
    n_demonstrations: int = 50_000,
    steps: int = 800,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    batch: int = 256,
    lr: float = 3e-3,
    seed: int = 0,
) -> CausalLM:
    """Train a small Llama by next-token prediction on responses drawn from `policy`.

    Response token `a` of the policy has id ``a`` in the model, and prompt `p` is the single token ``V + p``, written
    ``"A"``, ``"B"``, …: ``token_tree(lm, ["A", "B"], H, tokens=range(V))`` is the clone on the expert's own tree (the
    dynamics are the same where prompts are equally likely).

    Args:
        policy: the expert `π_E`, without batch axes; at most 26 prompts.
        n_demonstrations: number of responses drawn; the model sees no others.
        steps: optimiser steps.
        hidden: width of the model, a multiple of ``2·heads``.
        layers: number of layers.
        heads: attention heads.
        batch: responses in a step.
        lr: peak learning rate.
        seed: seeds demonstrations, weights and batches; torch's global generator is left as it was.

    Raises:
        ValueError: a size is below 1, `hidden` does not fit `heads`, or the policy has a batch or too many prompts.

    """
    for name, size in (
        ("n_demonstrations", n_demonstrations), ("steps", steps), ("hidden", hidden), ("layers", layers),
        ("heads", heads), ("batch", batch),
    ):  # fmt: skip
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    if hidden % (2 * heads):
        raise ValueError(f"hidden={hidden}: must be a multiple of 2·heads={2 * heads}")
    P, V, H = policy.dynamics.n_prompts, policy.dynamics.vocab_size, policy.horizon
    if policy.batch_shape:
        raise ValueError(f"policy has batch axes {policy.batch_shape}: give the policy of one problem")
    if P > LETTERS:
        raise ValueError(f"policy has {P} prompts: at most {LETTERS}, one letter each")

    prompts, responses = sample(policy, n_demonstrations, seed)
    texts = torch.from_numpy(np.concatenate([V + prompts[:, None], responses], axis=1))
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(_config(V + P, H + 1, hidden, layers, heads))
        _fit(model, texts, steps, batch, lr)
    return CausalLM(model.eval(), _tokenizer(V, P), "trained")


@contextmanager
def _one_thread() -> Iterator[None]:
    """On matrices this small more threads take longer, and one gives the same sums on every machine's core count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(model: Any, texts: torch.Tensor, steps: int, batch: int, lr: float) -> None:
    """Minimise the cross-entropy of the response tokens; the prompt is read, not predicted."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, min(100, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    model.train()
    with tqdm(_batches(texts, batch, steps), total=steps, desc="training", disable=None, leave=False) as bar:
        for rows in bar:
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def _batches(texts: torch.Tensor, batch: int, steps: int) -> Iterator[torch.Tensor]:
    """`steps` batches; each pass over the demonstrations is in a new order."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(texts))])
        yield texts[order[:batch]]
        order = order[batch:]


def _config(vocab_size: int, context: int, hidden: int, layers: int, heads: int) -> Any:
    return transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=hidden**-0.5,  # the usual 0.02 is for wide models: a narrow one would hardly start
    )


def _tokenizer(vocab_size: int, n_prompts: int) -> Any:
    """One character a token: ``a, b, …`` in responses (CJK where the alphabet is too short), ``A, B, …`` as prompts."""
    first = ord("a") if vocab_size <= LETTERS else 0x4E00
    names = [chr(first + a) for a in range(vocab_size)] + [chr(ord("A") + p) for p in range(n_prompts)]
    # "<none>" is not in the vocabulary, so that an unknown character is an error and not a token
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
