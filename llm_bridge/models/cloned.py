"""Train a small language model on an expert's demonstrations: behaviour cloning with a network.

The expert is a tabular policy, so its reward and every error of the clone are known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from llm_bridge.models.load import CausalLM
from theory.mdp.policy import Policy

__all__ = ["letter_lm", "letter_tokenizer", "train_on_demonstrations"]

LETTERS = 26
"""Most prompts of a letter model, one capital letter each."""


def letter_lm(
    vocab_size: int,
    n_prompts: int = 0,
    *,
    context: int = 16,
    hidden: int = 16,
    layers: int = 1,
    heads: int = 2,
    seed: int | None = 0,
) -> CausalLM:
    """Make a small random Llama whose tokens are letters.

    Args:
        vocab_size: response tokens, see `letter_tokenizer`.
        n_prompts: prompt tokens after them.
        context: positions.
        hidden: width, a multiple of ``2·heads``.
        layers: number of layers.
        heads: attention heads.
        seed: seed of the weights; `None` to take them from torch's global generator.

    Example:
        >>> lm = letter_lm(4)
        >>> lm.vocab_size, lm.tokenizer("cab")["input_ids"]
        (4, [2, 0, 1])

    """
    config = transformers.LlamaConfig(
        vocab_size=vocab_size + n_prompts,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
        # the usual 0.02 is for wide models: a narrow one would hardly start to learn
        initializer_range=hidden**-0.5,
    )
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config).eval()
    return CausalLM(model, letter_tokenizer(vocab_size, n_prompts), "letters")


def letter_tokenizer(vocab_size: int, n_prompts: int = 0) -> Any:
    """Make a tokenizer of one character a token: ``a, b, …`` in responses, ``A, B, …`` in prompts.

    More than 26 response tokens are CJK characters instead. An unknown character raises.

    Example:
        >>> letter_tokenizer(3, 2)("Bca")["input_ids"]
        [4, 2, 0]

    """
    first = ord("a") if vocab_size <= LETTERS else 0x4E00
    names = [chr(first + a) for a in range(vocab_size)]
    names += [chr(ord("A") + p) for p in range(n_prompts)]
    # "<none>" is not in the vocabulary: an unknown character is an error and not a token
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


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
    evaluate: Callable[[int, CausalLM], None] | None = None,
    eval_steps: Sequence[int] = (),
) -> CausalLM:
    """Train a small Llama by next-token prediction on responses sampled from `policy`.

    Response token `a` of the policy has id ``a`` in the model, and prompt `p` is the single token
    ``V + p``, written ``"A"``, ``"B"``, …: ``token_tree(lm, ["A", "B"], H, tokens=range(V))`` reads
    the clone on the expert's own tree, if prompts are equally likely.

    Args:
        policy: the expert `π_E`, without batch axes; at most 26 prompts.
        n_demonstrations: number of demonstrations, those of
            ``theory.mdp.responses.sample(policy, n_demonstrations, seed)``.
        steps: optimiser steps.
        hidden: width of the model, a multiple of ``2·heads``.
        layers: number of layers.
        heads: attention heads.
        batch: responses in a step.
        lr: peak learning rate.
        seed: seed of demonstrations, weights and batches; torch's global generator is left as it
            was.
        evaluate: called with a number of steps and the model after them, in evaluation mode. Random
            numbers used in it do not change the training.
        eval_steps: numbers of steps, from 0 (untrained) to `steps`, at which to call `evaluate`.

    Raises:
        ValueError: a size is below 1, `hidden` does not fit `heads`, the policy has a batch or too
            many prompts, or only one of `evaluate` and `eval_steps` is given.

    Example:
        >>> from theory.mdp.dynamics import Dynamics, Tree
        >>> one = Dynamics(2, (1,), Tree(), np.ones(1), (None,))
        >>> expert = Policy.from_probs(one, [np.array([[0.9, 0.1]])])
        >>> lm = train_on_demonstrations(expert, n_demonstrations=8, steps=2, hidden=8)
        >>> lm.tokenizer.tokenize("Aab")
        ['A', 'a', 'b']

    """
    for name, size in (
        ("n_demonstrations", n_demonstrations),
        ("steps", steps),
        ("hidden", hidden),
        ("layers", layers),
        ("heads", heads),
        ("batch", batch),
    ):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    if hidden % (2 * heads):
        raise ValueError(f"hidden={hidden}: must be a multiple of 2·heads={2 * heads}")
    P = policy.dynamics.n_prompts
    V = policy.dynamics.vocab_size
    H = policy.horizon
    if policy.batch_shape:
        raise ValueError(
            f"policy has batch axes {policy.batch_shape}: give the policy of one problem"
        )
    if P > LETTERS:
        raise ValueError(f"policy has {P} prompts: at most {LETTERS}, one letter each")
    _check_evaluation(evaluate, eval_steps, steps)

    prompts, responses = policy.sample(n_demonstrations, seed)
    texts = torch.from_numpy(np.concatenate([V + prompts[:, None], responses], axis=1))
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(seed)
        shape = {"context": H + 1, "hidden": hidden, "layers": layers, "heads": heads}
        lm = replace(letter_lm(V, P, **shape, seed=None), name="trained")
        model = lm.model
        # the batches continue the generator that gave the weights
        for step in _fit(model, texts, steps, batch, lr):
            if evaluate is not None and step in eval_steps:
                with torch.random.fork_rng():
                    model.eval()
                    evaluate(step, lm)
                model.train()
    model.eval()
    return lm


def _check_evaluation(
    evaluate: Callable[[int, CausalLM], None] | None, eval_steps: Sequence[int], steps: int
) -> None:
    if evaluate is None and len(eval_steps):
        raise ValueError(f"eval_steps={list(eval_steps)}: nothing is called at them; give evaluate")
    if evaluate is not None and not len(eval_steps):
        raise ValueError("evaluate: is never called; give eval_steps")
    for step in eval_steps:
        if not 0 <= step <= steps:
            raise ValueError(f"eval_steps: {step} is not from 0 to steps={steps}; leave it out")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: faster on small matrices, and sums do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(model: Any, texts: torch.Tensor, steps: int, batch: int, lr: float) -> Iterator[int]:
    """Minimise the cross-entropy of the response tokens; yield 0 and the number of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, min(100, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    model.train()
    yield 0
    batches = _batches(texts, batch, steps)
    with tqdm(batches, total=steps, desc="training", disable=None, leave=False) as bar:
        for step, rows in enumerate(bar, start=1):
            # column 0 is the prompt: it is read, and not predicted
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
            yield step


def _batches(texts: torch.Tensor, batch: int, steps: int) -> Iterator[torch.Tensor]:
    """Yield `steps` batches; each pass over the demonstrations is in a new order."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(texts))])
        yield texts[order[:batch]]
        order = order[batch:]
