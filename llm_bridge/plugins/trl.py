"""TRL: a reward function of ``GRPOTrainer``, ``RLOOTrainer`` and the trainers that call rewards as
they do.

With a model in hand, or by its dotted name with ``ENDORM_MODEL`` set (`llm_bridge.plugins`):

    from llm_bridge.plugins.trl import make_reward_func

    reward = EndogenousReward(model, tokenizer, RewardReading(alpha=0.5))
    GRPOTrainer(model=policy, reward_funcs=make_reward_func(reward, how="mean"), …)

    ENDORM_MODEL=path/or/hub-id trl grpo --reward_funcs llm_bridge.plugins.trl.endogenous_reward …

The sampled ``completion_ids`` are scored, not the decoded completions, so none is re-tokenised.
Prompts come without ids and are encoded as the trainer does it; what
``GRPOConfig(chat_template_kwargs=…)``, ``tools`` or a chat template of one's own add there is given
to `make_reward_func` too. Its metrics are ``rewards/endogenous_reward/mean`` and ``/std``. Results
of tools are inside the completions, without a mask: what follows the first end token has no reward.

Follows ``_calculate_rewards`` and ``_tokenize_prompts`` of TRL 1.16:
https://github.com/huggingface/trl/blob/main/trl/trainer/grpo_trainer.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llm_bridge.plugins import Prompt, encode_prompts, from_environment, id_rewards
from llm_bridge.read.prefixes import Ids
from llm_bridge.read.reward import Aggregation, EndogenousReward

__all__ = ["endogenous_reward", "make_reward_func"]


def make_reward_func(
    reward: EndogenousReward, how: Aggregation = "sum", **chat_template_kwargs: Any
) -> Callable[..., list[float]]:
    """Make a reward function for ``reward_funcs``.

    Args:
        reward: what scores, with a tokenizer, which is the policy's.
        how: ``"sum"``, ``"mean"`` or ``"logprob"``, as in `EndogenousReward.aggregate`.
        chat_template_kwargs: for prompts that are conversations, as the trainer has them.

    Example:
        >>> import math
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(4), end_tokens=())
        >>> log_prob = make_reward_func(reward, how="logprob")
        >>> found = log_prob(["ca"] * 4, list("abcd"), completion_ids=[[0], [1], [2], [3]])
        >>> round(sum(map(math.exp, found)), 3)  # the four tokens that can follow "ca"
        1.0

    """
    rewards = id_rewards(reward, how)

    def endogenous_reward(
        prompts: Sequence[Prompt],
        completions: Sequence[Any],
        completion_ids: Sequence[Ids],
        **columns: Any,
    ) -> list[float]:
        return rewards(encode_prompts(reward, prompts, **chat_template_kwargs), completion_ids)

    return endogenous_reward


def endogenous_reward(
    prompts: Sequence[Prompt],
    completions: Sequence[Any],
    completion_ids: Sequence[Ids],
    **columns: Any,
) -> list[float]:
    """Return the reward of each completion, from the model that the environment names."""
    return make_reward_func(*from_environment())(prompts, completions, completion_ids)
