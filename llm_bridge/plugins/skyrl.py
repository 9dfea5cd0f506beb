"""SkyRL: the reward of every token, for the ``rewards`` of a generator's output.

In an entry point of one's own, with ``ENDORM_MODEL`` set (`llm_bridge.plugins`) or
`make_token_rewards` of a reward in hand:

    from llm_bridge.plugins.skyrl import token_rewards

    class EndogenousGenerator(SkyRLGymGenerator):
        async def generate(self, input_batch):
            output = await super().generate(input_batch)
            output["rewards"] = await asyncio.to_thread(token_rewards, output)
            return output

    class Experiment(BasePPOExp):
        def get_generator(self, cfg, tokenizer, client):
            return EndogenousGenerator(…)

Every token that the policy chose is rewarded, over all turns: end tokens inside a trajectory end
nothing, and tokens with a loss mask of 0 (observations, tool results) have reward 0. The rewards of
a response without such tokens sum to ``r(τ)``. SkyRL's ``pass_at_n`` is the share of last tokens
with a positive reward, which means nothing here.

Follows ``GeneratorOutput`` and ``postprocess_generator_output`` of SkyRL 0.3 and of its main branch
in 2026: https://github.com/NovaSky-AI/SkyRL/blob/main/skyrl/train/generators/base.py
https://github.com/NovaSky-AI/SkyRL/blob/main/skyrl/train/trainer.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llm_bridge.plugins import from_environment, require_finite, score_rollouts
from llm_bridge.read.reward import EndogenousReward

__all__ = ["make_token_rewards", "token_rewards"]


def make_token_rewards(
    reward: EndogenousReward,
) -> Callable[[Mapping[str, Any]], list[list[float]]]:
    """Make a function from a ``GeneratorOutput`` to ``rewards``, as long as its ``response_ids``;
    an empty one has none.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> rewards = make_token_rewards(EndogenousReward(letter_lm(4)))
        >>> ids = {"prompt_token_ids": [[2]], "response_ids": [[0, 1, 3]]}
        >>> [row] = rewards(ids | {"loss_masks": [[1, 0, 1]]})  # the policy did not choose token 1
        >>> [reward != 0 for reward in row]
        [True, False, True]

    """
    every = EndogenousReward(
        reward.lm, reading=reward.reading, batch_tokens=reward.batch_tokens, end_tokens=()
    )

    def token_rewards(output: Mapping[str, Any]) -> list[list[float]]:
        responses = output["response_ids"]
        masks = output["loss_masks"]
        scores = score_rollouts(every, output["prompt_token_ids"], responses)
        found = [
            np.where(mask, score.rewards[: len(ids)], 0.0).tolist()
            for score, ids, mask in zip(scores, responses, masks, strict=True)
        ]
        require_finite(reward, found)
        return found

    return token_rewards


def token_rewards(output: Mapping[str, Any]) -> list[list[float]]:
    """Rewards of each response's tokens, from the model that the environment names."""
    return make_token_rewards(from_environment()[0])(output)
