"""Small random models over letters, and settings of PPO on them."""

import dataclasses

import torch
import transformers

from llm_bridge.improve import run
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM
from llm_bridge.models.processes import Workers


def llama(seed=0, spread=0.8):
    """Seven tokens, of which five are written ``a … e`` and two are prompts; double precision."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=7,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=None,
    )
    return CausalLM(
        transformers.LlamaForCausalLM(config).double().eval(),
        letter_tokenizer(5, 2),
        f"llama-{seed}",
    )


def biased(token, value, seed=0):
    """A model whose logit of a token (or of all) has `value` added to it in every state."""
    lm = llama(seed)
    lm.model.lm_head.bias = torch.nn.Parameter(torch.zeros(7, dtype=torch.double))
    with torch.no_grad():
        lm.model.lm_head.bias[token] = value
    return lm


PROMPTS = ["ab", "c", "dab", "bb"]


SMALL = PPOConfig(
    alpha=0.7,
    beta=0.5,
    max_tokens=3,
    prompts_per_step=4,
    samples=32,
    minibatch=64,
    epochs=2,
    end_tokens=(),
    steps=4,
    lr=2e-3,
)


def model(kind="llama", seed=0):
    torch.manual_seed(seed)
    shared = {"vocab_size": 4, "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_positions=5, n_embd=16, n_layer=2, n_head=2, **shared)
        made = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=9,
            **shared,
        )
        made = transformers.LlamaForCausalLM(config)
    return CausalLM(made.eval(), letter_tokenizer(4, 0), kind)


def changed(config, **changes):
    return dataclasses.replace(config, **changes)


def weights(trainer):
    return [p.detach() for p in trainer.actor.parameters()]


def train(lm, prompts, config, *, teacher=None, extra=None, group=Workers(), **options):  # noqa: B008
    """Train a new trainer."""
    trainer = Trainer(lm, prompts, config, teacher=teacher, extra=extra, group=group)
    return run.train(trainer, **options)
