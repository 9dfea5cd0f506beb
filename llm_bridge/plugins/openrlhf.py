"""OpenRLHF: a file with ``reward_func(queries, prompts, labels)``.

With ``ENDORM_MODEL`` set in every worker (`llm_bridge.plugins`):

    FILE=$(python -c "import llm_bridge.plugins.openrlhf as module; print(module.__file__)")
    python -m openrlhf.cli.train_ppo_ray --reward.remote_url $FILE …    # in older versions
    --remote_rm_url

or a file of one's own with ``reward_func = make_reward_func(EndogenousReward(…), how="mean")``. It
runs in the rollout workers: leave room beside vLLM (``--vllm.gpu_memory_utilization``), or set
``ENDORM_DEVICE=cpu``.

Rewards are unbounded, and ``scores`` are the rewards again: dynamic filtering needs a range that
suits them. OpenRLHF notes an error of a reward function at level INFO and goes on without the
reward, so it is logged here as an error.

A reward function has only text: ``queries`` are prompt and response, decoded with their special
tokens. The ids are the sampled ones wherever encoding undoes decoding. An agent has the ids
themselves (``--train.agent_func_path``):

    import asyncio
    from openrlhf.utils.agent import SingleTurnAgentExecutor
    from llm_bridge.plugins import from_environment, id_rewards

    class AgentExecutor(SingleTurnAgentExecutor):
        async def execute(self, *args, **kwargs):
            output = await super().execute(*args, **kwargs)
            ids, ((start, end),) = output["observation_tokens"], output["action_ranges"]
            rewards = id_rewards(*from_environment())
            (reward,) = await asyncio.to_thread(rewards, [ids[:start]], [ids[start:end]])
            return output | {"reward": reward, "scores": reward}

Follows ``SingleTurnAgentExecutor`` of OpenRLHF 0.11:
https://github.com/OpenRLHF/OpenRLHF/blob/main/openrlhf/utils/agent.py
https://github.com/OpenRLHF/OpenRLHF/blob/main/examples/python/reward_func.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llm_bridge.models.load import CausalLM
from llm_bridge.models.text import encode_joined, encode_text
from llm_bridge.plugins import from_environment, id_rewards, require_tokenizer
from llm_bridge.read.reward import Aggregation, EndogenousReward

__all__ = ["make_reward_func", "reward_func"]


def make_reward_func(
    reward: EndogenousReward, how: Aggregation = "sum"
) -> Callable[..., dict[str, Any]]:
    """Make a ``reward_func`` of a reward in hand.

    Args:
        reward: what scores, with a tokenizer, which is the policy's.
        how: ``"sum"``, ``"mean"`` or ``"logprob"``, as in `EndogenousReward.aggregate`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reward = EndogenousReward(letter_lm(4), end_tokens=())
        >>> log_prob = make_reward_func(reward, how="logprob")
        >>> found = log_prob(["caa", "cab", "cac", "cad"], ["ca"] * 4, labels=None)
        >>> round(float(found["rewards"].exp().sum()), 3)  # the four tokens that can follow "ca"
        1.0

    """
    require_tokenizer(reward)
    rewards = id_rewards(reward, how)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Any, **more: Any
    ) -> dict[str, Any]:
        with _logged_errors():
            rows = [
                _split(reward.lm, *pair, i)
                for i, pair in enumerate(zip(queries, prompts, strict=True))
            ]
            found = torch.tensor(
                rewards([prompt for prompt, _ in rows], [response for _, response in rows])
            )
        return {"rewards": found, "scores": found, "extra_logs": {}}

    return reward_func


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Any, **more: Any
) -> dict[str, Any]:
    """Return the reward of each query's response, from the model that the environment names."""
    with _logged_errors():
        function = make_reward_func(*from_environment())
    return function(queries, prompts, labels)


@contextmanager
def _logged_errors() -> Iterator[None]:
    try:
        yield
    except Exception:
        logging.getLogger(__name__).exception(
            "no endogenous reward, and OpenRLHF goes on without one"
        )
        raise


def _split(lm: CausalLM, query: str, prompt: str, index: int) -> tuple[list[int], list[int]]:
    """Ids of the prompt, and of the response after it in the query; the texts have their special
    tokens already.
    """
    ids = encode_text(lm, prompt, special=False, name=f"prompts[{index}]")
    start = lm.tokenizer.decode(ids, skip_special_tokens=False)
    if not query.startswith(start):
        raise ValueError(
            f"queries[{index}]: does not begin with its prompt, which was cut; raise the maximum "
            "length"
        )
    names = (f"prompts[{index}]", f"queries[{index}]")
    return encode_joined(lm, prompt, query[len(start) :], special=False, names=names)
