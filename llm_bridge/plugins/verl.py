"""verl: a reward manager, which scores the sampled ids, and a ``compute_score``, which has only
text.

With ``ENDORM_MODEL`` set in every worker (`llm_bridge.plugins`), the manager is

    reward.reward_manager.source=importlib
    reward.reward_manager.name=EndogenousRewardManager
    reward.reward_manager.module.path=pkg://llm_bridge.plugins.verl
    reward.num_workers=1    # each loads the model, on the CPU where Ray gives it no GPU
    +ray_kwargs.ray_init.runtime_env.env_vars.ENDORM_MODEL=path/or/hub-id

and in a verl before the reward loop
``verl.workers.reward_manager.register("endorm")(EndogenousRewardManager)`` and
``reward_model.reward_manager=endorm``. The function is for where another manager has to stay:

    reward.custom_reward_function.path=pkg://llm_bridge.plugins.verl
    reward.custom_reward_function.name=compute_score

It is given the response decoded without special tokens: the ids are lost, and whether it ended. Its
prompt is ``extra_info["prompt"]``, the row's messages as they are or a text. verl's
``rate_limited`` manager makes a reward of 0 out of every error; its others and this one let it
through.

Follows ``run_single`` and ``assemble_rm_scores`` of verl 0.9, and the call of the managers before
them: https://github.com/verl-project/verl/tree/main/verl/experimental/reward_loop/reward_manager
https://github.com/verl-project/verl/blob/main/verl/workers/reward_manager/naive.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from llm_bridge.models.load import CausalLM, require_same_vocabulary
from llm_bridge.models.text import encode_joined
from llm_bridge.plugins import (
    from_environment,
    id_rewards,
    prompt_of_policy,
    require_tokenizer,
)
from llm_bridge.read.reward import Aggregation, EndogenousReward

__all__ = ["EndogenousRewardManager", "compute_score", "make_compute_score"]


class EndogenousRewardManager:
    """Rewards of rollouts from their ids, each on the last token of its response.

    The response's padding is excluded by the attention mask. In the batch tensors an empty response
    has no reward: none of its tokens could carry it, and the last column is padding.

    Args:
        tokenizer: the policy's, whose ids must mean the same to the model that scores.
        reward: what scores, `None` for the model that the environment names; a subclass can hand
            one over.
        how: ``"sum"``, ``"mean"`` or ``"logprob"``; not read where `reward` is `None`.
        ignored: what else verl gives a manager.

    Example:
        >>> from types import SimpleNamespace
        >>> from llm_bridge.models.cloned import letter_lm
        >>> batch = {
        ...     "prompts": torch.tensor([[2]]),
        ...     "responses": torch.tensor([[0, 1, 0]]),
        ...     "attention_mask": torch.tensor([[1, 1, 1, 0]]),
        ... }
        >>> manager = EndogenousRewardManager(reward=EndogenousReward(letter_lm(4), end_tokens=()))
        >>> manager.assemble_rm_scores(SimpleNamespace(batch=batch), [0.5]).tolist()
        [[0.0, 0.5, 0.0]]

    """

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        reward: EndogenousReward | None = None,
        how: Aggregation = "sum",
        **ignored: Any,
    ) -> None:
        if reward is None:
            reward, how = from_environment()
        if tokenizer is not None and reward.lm.tokenizer is not None:
            require_same_vocabulary(reward.lm, CausalLM(reward.lm.model, tokenizer, "the policy"))
        self._rewards = id_rewards(reward, how)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of the last row, as in verl's own managers; the event loop goes on
        meanwhile.
        """
        prompt, response = _ids(data[len(data) - 1])
        (reward,) = await asyncio.to_thread(self._rewards, [prompt], [response])
        return {"reward_score": reward, "reward_extra_info": {}}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[float]) -> torch.Tensor:
        """Float32 ``(rows, response length)`` with each score on the last token of its response."""
        responses = data.batch["responses"]
        sizes = data.batch["attention_mask"][:, data.batch["prompts"].shape[1] :].sum(dim=1)
        rewards = torch.zeros_like(responses, dtype=torch.float32)
        some = sizes > 0
        rewards[some, sizes[some] - 1] = rewards.new_tensor(scores)[some]
        return rewards

    def __call__(self, data: Any, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
        """The rewards of a whole batch, as managers were called before the reward loop."""
        rows = [_ids(data[i]) for i in range(len(data))]
        scores = self._rewards([prompt for prompt, _ in rows], [response for _, response in rows])
        rewards = self.assemble_rm_scores(data, scores)
        return {"reward_tensor": rewards, "reward_extra_info": {}} if return_dict else rewards


def _ids(item: Any) -> tuple[list[int], list[int]]:
    """Ids of prompt and response of a row, without their padding."""
    prompt, response, mask = (item.batch[key] for key in ("prompts", "responses", "attention_mask"))
    sizes = item.non_tensor_batch
    if (
        "prompt_len" in sizes
    ):  # outputs of one agent: the mask is padded as a whole, and does not align with the parts
        kept = prompt[: int(sizes["prompt_len"])], response[: int(sizes["response_len"])]
    else:
        kept = prompt[mask[: len(prompt)].bool()], response[mask[len(prompt) :].bool()]
    return kept[0].tolist(), kept[1].tolist()


def make_compute_score(reward: EndogenousReward, how: Aggregation = "sum") -> Callable[..., float]:
    """Make a ``compute_score`` of a reward in hand.

    Args:
        reward: what scores, with a tokenizer.
        how: ``"sum"``, ``"mean"`` or ``"logprob"``, as in `EndogenousReward.aggregate`.

    Example:
        >>> import math
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(4), end_tokens=())
        >>> log_prob = make_compute_score(reward, how="logprob")
        >>> found = [log_prob("", token, None, {"prompt": "ca"}) for token in "abcd"]
        >>> round(sum(map(math.exp, found)), 3)  # the four tokens that can follow "ca"
        1.0

    """
    require_tokenizer(reward)
    rewards = id_rewards(reward, how)

    def compute_score(
        data_source: Any,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> float:
        info = extra_info or {}
        if info.get("prompt") is None:
            raise ValueError(
                f"extra_info: no 'prompt' among {sorted(info)}; add the row's messages (or text) "
                "to it"
            )
        names = ("extra_info['prompt']", "solution_str")
        text, plain = prompt_of_policy(reward, info["prompt"], names[0])
        before, ids = encode_joined(
            reward.lm, text, solution_str, special=plain, keep=not plain, names=names
        )
        return rewards([before], [ids])[0]

    return compute_score


def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **more: Any,
) -> float:
    """Return the reward of one response's text, from the model that the environment names."""
    return make_compute_score(*from_environment())(
        data_source, solution_str, ground_truth, extra_info
    )
