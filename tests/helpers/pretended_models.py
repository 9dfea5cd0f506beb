"""Scores, and trains by PPO, a model that is not on the CPU; prints whether each finds what it
finds on the CPU.

A process of its own: a device that has a name stays registered.
"""

import numpy as np
import pretend
import torch
from tiny import tiny

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import CausalLM
from llm_bridge.read.reward import EndogenousReward

VARIANTS = [
    {},
    {"lora": 2},
    {"reward": "dense"},
    {"gradient_checkpointing": True, "baseline": "group"},
]


def score(lm):
    """Soft values of two texts."""
    return [
        found.soft_values
        for found in EndogenousReward(lm, end_tokens=()).score_ids([[1, 2], [3]], [[4, 5], [6]])
    ]


def train(lm, options):
    """What a batch says of itself."""
    sizes = {
        "prompts_per_step": 2,
        "samples": 2,
        "max_tokens": 3,
        "minibatch": 2,
        "microbatch": 1,
        "epochs": 1,
    }
    config = PPOConfig(end_tokens=(), steps=2, **sizes, **options)
    return Trainer(lm, [[1, 2, 3], [4]], config).step()


def main():
    pretend.backend()
    with pretend.pretended():
        lm = CausalLM(pretend.placed(tiny().model), None, "pretended")
        assert next(lm.model.parameters()).device == pretend.DEVICE
        assert lm.reader.decoding(20).how == "padded"  # and not the slow way, for a tensor's place
        found, trained = score(lm), [train(lm, options) for options in VARIANTS]
    for one, two in zip(found, score(tiny()), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    for options, one in zip(VARIANTS, trained, strict=True):
        two = train(tiny(), options)
        assert one["gradient"] > 0
        for name in two:
            np.testing.assert_allclose(
                one[name], two[name], rtol=1e-4, atol=1e-6, err_msg=f"{options}: {name}"
            )
    print("same", torch.__version__)


if __name__ == "__main__":
    main()
