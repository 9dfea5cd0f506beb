"""The statements on language models: a model's token tree where the tabular policy stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_bridge.model import load_model, require_same_vocabulary
from llm_bridge.train import train_on_demonstrations
from llm_bridge.tree import TokenTree, parse_tokens, token_tree
from theory.arrays import require_positive
from theory.gallery import random_tree
from theory.instance import Instance
from theory.reward import endogenous_reward
from theory.soft import soft_optimal
from theory.verify import Group

__all__ = ["model_group", "trained_group"]


def trained_group(
    *, seed: int = 0, vocab_size: int = 4, horizon: int = 5, n_prompts: int = 2, alpha: float = 0.5
) -> Group:
    """Train a small model on demonstrations of a known expert, and put it where `π̂` stands.

    The true reward is known here, so both theorems are checked against it and not against another model.
    """
    mdp = random_tree(vocab_size, horizon, n_prompts=n_prompts, seed=seed)
    expert = soft_optimal(mdp, alpha).policy
    lm = train_on_demonstrations(expert, seed=seed)
    prompts = [chr(ord("A") + p) for p in range(n_prompts)]
    tree = token_tree(lm, prompts, horizon, tokens=range(vocab_size))
    instance = Instance(mdp, expert, tree.policy, alpha)
    facts = {"model": f"Llama, {_parameters(lm.model):,} parameters, trained on the expert's demonstrations"}
    return Group("a model trained here, true reward known", [instance], facts | _facts(instance, tree))


def model_group(
    model: str,
    expert: str | None = None,
    *,
    prompts: Sequence[str],
    horizon: int = 4,
    tokens: str | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    expert_temperature: float | None = None,
    dtype: str = "float32",
    expert_dtype: str = "float32",
) -> Group:
    """A real model as `π̂` and another (or itself, at another temperature or dtype) as `π_E`.

    The true reward is the expert's endogenous reward in the gauge of its own logits, for which the expert is
    soft-optimal at `alpha`; its range on the tree is what the bounds are scaled with.

    Args:
        model: folder or hub id.
        expert: folder or hub id with the same vocabulary; `None` for `model` itself.
        prompts: one or more prompts.
        horizon: tokens of a response.
        tokens: sub-vocabulary, see `llm_bridge.tree.parse_tokens`; `None` for all of it.
        alpha: temperature of the reward.
        temperature: temperature at which the model is sampled.
        expert_temperature: likewise the expert; by default 1, or 0.9 where the two would otherwise be the same.
        dtype: dtype of the model's weights.
        expert_dtype: dtype of the expert's weights.

    Raises:
        OSError: a model cannot be loaded.
        ValueError: no prompt, a prompt or token that does not fit, vocabularies that differ, a tree too large.
    """
    alpha = float(require_positive("alpha", alpha))
    require_positive("temperature", temperature)
    require_positive("expert_temperature", 1.0 if expert_temperature is None else expert_temperature)
    if not prompts:
        raise ValueError("no prompt: --model needs at least one --prompt TEXT")
    same = expert is None and dtype == expert_dtype
    if expert_temperature is None:
        expert_temperature = 0.9 if same and temperature == 1.0 else 1.0
    lm = load_model(model, dtype=dtype)
    teacher = lm if same else load_model(expert or model, dtype=expert_dtype)
    require_same_vocabulary(lm, teacher)
    ids = None if tokens is None else parse_tokens(lm, tokens)
    tree = token_tree(lm, prompts, horizon, tokens=ids, temperature=temperature)
    expert_tree = token_tree(teacher, prompts, horizon, tokens=ids, temperature=expert_temperature)
    true_reward = endogenous_reward(expert_tree.policy, alpha)
    instance = Instance(true_reward, expert_tree.policy, tree.policy, alpha)
    facts: dict[str, Any] = {
        "model π̂": f"{lm.name} ({dtype}, temperature {temperature:g})",
        "expert π_E": f"{teacher.name} ({expert_dtype}, temperature {expert_temperature:g})",
        "prompts": list(prompts),
        "expert's mass outside the tokens, at most": expert_tree.max_left_out,
    }
    return Group(f"{lm.name} against {teacher.name}", [instance], facts | _facts(instance, tree))


def _facts(instance: Instance, tree: TokenTree) -> dict[str, Any]:
    (low, high), ids = instance.mdp.reward_range, tree.token_ids[0][0]
    return {
        "alpha": float(instance.alpha),
        "token ids": ids if len(ids) <= 32 else f"all {len(ids)}",
        "horizon, tokens, prefixes": (instance.horizon, len(ids), instance.mdp.dynamics.n_prefixes),
        "mass outside the tokens, at most": tree.max_left_out,
        "reward range": (round(low, 6), round(high, 6)),
        "ε_π (nats)": float(instance.epsilon),
        "KL(π_E‖π̂), KL(π̂‖π_E) (nats)": (
            round(float(instance.kl_from_expert), 6),
            round(float(instance.kl_to_expert), 6),
        ),
        "plain values of π_E, π̂, π_RL, best": tuple(
            round(float(v), 6)
            for v in (
                instance.expert_value,
                instance.expert_value - instance.clone_gap,
                instance.rl_value,
                instance.best_value,
            )
        ),
        "largest preference error (TV)": float(np.max(instance.pair_tv, initial=0.0)),
    }


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
