"""The statements on language models: a model's token tree where the tabular policy stood.

Each prompt is an instance of its own, one of a batch: what holds for every prompt holds for any law
of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_bridge.models.chat import content
from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompt_format import Prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.tree import TokenTree, parse_tokens, token_tree
from theory.arrays.namespace import require_positive, token_major
from theory.claims.findings import Group
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import endogenous_reward
from theory.solve.soft import soft_optimal

__all__ = [
    "ModelInstance",
    "by_prompt",
    "facts",
    "model_group",
    "model_instance",
    "tabular_instance",
    "trained_group",
]


@dataclass(frozen=True, eq=False)
class ModelInstance:
    """A model as `π̂` against an expert, on `P` prompts.

    Attributes:
        instance: a batch ``(P,)`` of problems of one prompt each.
        tree: the model's.
        expert_tree: the expert's on the same tokens, where it is a model.
        weights: ``(P,)`` positive numbers with sum 1, the distribution of the prompts, for averages
            over them.

    """

    instance: Instance
    tree: TokenTree
    expert_tree: TokenTree | None
    weights: np.ndarray


def by_prompt(policy: Policy) -> Policy:
    """Return the policy of a token tree of `P` prompts as a batch ``(P,)`` of policies, one prompt
    each.

    Example:
        >>> policy = soft_optimal(TokenMDP.random(2, 3, n_prompts=4, seed=0), 1.0).policy
        >>> by_prompt(policy).batch_shape
        (4,)

    """
    dynamics, states = policy.dynamics.by_prompt()
    log_probs = tuple(token_major(t[own]) for t, own in zip(policy.log_probs, states, strict=True))
    if policy.log_normalizers is None:
        return Policy(dynamics, log_probs)
    return Policy(
        dynamics,
        log_probs,
        tuple(z[own] for z, own in zip(policy.log_normalizers, states, strict=False)),
    )


def model_instance(
    lm: CausalLM,
    expert: CausalLM,
    prompts: Sequence[Prompt],
    horizon: int,
    *,
    alpha: float = 1.0,
    temperature: float = 1.0,
    expert_temperature: float = 1.0,
    **layout: Any,
) -> ModelInstance:
    """Put a model as `π̂` beside another as `π_E`, on their whole token trees.

    The true reward is the expert's endogenous reward in the gauge of its own logits, for which the
    expert is soft-optimal at `alpha`; its range on the tree is what the bounds are scaled with.

    Args:
        lm: `π̂`; with `top_k`, its most probable tokens make the tree.
        expert: `π_E`, with the same vocabulary.
        prompts: one or more.
        horizon: tokens of a response.
        alpha: temperature of the reward.
        temperature: at which `lm` is sampled.
        expert_temperature: at which `expert` is sampled.
        layout: `tokens`, `rest`, `top_k`, `end_tokens` and `memory` of `token_tree`.

    Raises:
        ValueError: a prompt or token that does not fit, a tree too large, see `token_tree`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> found = model_instance(letter_lm(3), letter_lm(3, seed=1), ["a", "b"], horizon=2)
        >>> found.instance.batch_shape, found.weights.tolist()
        ((2,), [0.5, 0.5])

    """
    require_positive("alpha", alpha)
    tree = token_tree(lm, prompts, horizon, temperature=temperature, **layout)
    memory = {name: value for name, value in layout.items() if name == "memory"}
    expert_tree = token_tree(
        expert.read_as(lm),
        prompts,
        horizon,
        temperature=expert_temperature,
        like=tree,
        **memory,
    )
    policy = by_prompt(tree.policy)
    true = by_prompt(expert_tree.policy)
    true = replace(true, dynamics=policy.dynamics)  # equal ones: comparing them takes time
    instance = Instance(endogenous_reward(true, alpha), true, policy, float(alpha))
    P = len(tree.prompts)
    return ModelInstance(instance, tree, expert_tree, np.full(P, 1 / P))


def tabular_instance(
    lm: CausalLM,
    mdp: TokenMDP,
    prompts: Sequence[Prompt],
    alpha: float,
    *,
    tokens: Sequence[int] | None = None,
    temperature: float = 1.0,
    memory: int = 2**30,
) -> ModelInstance:
    """Put a model as `π̂` beside the soft-optimal policy of a token MDP, whose true reward is known.

    Args:
        lm: `π̂`.
        mdp: without batch axes and forbidden tokens; any successor rule. Its prompt weights are
            those of the instance, from which prompts of weight zero are left out.
        prompts: the text of each prompt of the MDP, in its order.
        alpha: temperature at which the expert is soft-optimal.
        tokens: the model's id of each token of the MDP, in its order; `None` where the vocabularies
            are the same.
        temperature: at which `lm` is sampled.
        memory: see `token_tree`.

    Raises:
        ValueError: prompts or tokens are not as many as the MDP's, or see `token_tree`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> found = tabular_instance(letter_lm(3), TokenMDP.random(3, 2, seed=0), ["a"], alpha=1.0)
        >>> found.instance.batch_shape, found.expert_tree
        ((1,), None)

    """
    dynamics = mdp.dynamics
    V = lm.vocab_size if tokens is None else len(tokens)
    if mdp.batch_shape or any(mask is not None for mask in dynamics.allowed):
        raise ValueError(
            "mdp: has batch axes or forbidden tokens; give one MDP in which every token is allowed"
        )
    if (len(prompts), V) != (dynamics.n_prompts, dynamics.vocab_size):
        raise ValueError(
            f"prompts: {len(prompts)}, and {dynamics.n_prompts} in the MDP; tokens: {V}, and "
            f"{dynamics.vocab_size} in the MDP: give both in the MDP's order"
        )
    kept = np.flatnonzero(dynamics.prompt_weights > 0)
    texts = [prompts[p] for p in kept.tolist()]
    tree = token_tree(lm, texts, mdp.horizon, tokens=tokens, temperature=temperature, memory=memory)
    policy = by_prompt(tree.policy)
    unrolled = mdp.as_tree()
    states = [own[kept] for own in unrolled.dynamics.by_prompt()[1]]
    rewards = tuple(token_major(r[own]) for r, own in zip(unrolled.rewards, states, strict=True))
    alone = TokenMDP(policy.dynamics, rewards, mdp.reward_range)
    instance = Instance(alone, soft_optimal(alone, alpha).policy, policy, float(alpha))
    weights = dynamics.prompt_weights[kept] / dynamics.prompt_weights[kept].sum()
    return ModelInstance(instance, tree, None, weights)


def trained_group(
    *, seed: int = 0, vocab_size: int = 4, horizon: int = 5, n_prompts: int = 2, alpha: float = 0.5
) -> Group:
    """Train a small model on demonstrations of a known expert, and put it where `π̂` stands.

    The true reward is known here, so both theorems are checked against it and not against another
    model.
    """
    mdp = TokenMDP.random(vocab_size, horizon, n_prompts=n_prompts, seed=seed)
    lm = train_on_demonstrations(soft_optimal(mdp, alpha).policy, seed=seed)
    prompts = [chr(ord("A") + p) for p in range(n_prompts)]
    found = tabular_instance(lm, mdp, prompts, alpha, tokens=range(vocab_size))
    size = sum(parameter.numel() for parameter in lm.model.parameters())
    about = {"model": f"Llama, {size:,} parameters, trained on the expert's demonstrations"}
    return Group(
        "a model trained here, true reward known",
        [found.instance],
        about | facts(found),
        STATEMENTS,
    )


def model_group(
    lm: CausalLM,
    expert: CausalLM,
    specs: tuple[ModelSpec, ModelSpec],
    *,
    tokens: str | None = None,
    **options: Any,
) -> Group:
    """Make a group of ``endorm verify``: a real model against another, or itself read otherwise.

    Args:
        lm: `π̂`.
        expert: `π_E`.
        specs: how the two are read, above all at which temperatures.
        tokens: sub-vocabulary, see `llm_bridge.read.tree.parse_tokens`; `None` for all of it.
        options: `prompts`, `horizon`, `alpha` and the layout of `model_instance`.

    Raises:
        ValueError: see `model_instance`.

    """
    ids = None if tokens is None else parse_tokens(lm, tokens)
    policy, other = specs
    options |= {"temperature": policy.temperature, "expert_temperature": other.temperature}
    found = model_instance(lm, expert, tokens=ids, **options)
    about = {"model π̂": f"{lm.name} ({policy})", "expert π_E": f"{expert.name} ({other})"}
    return Group(
        f"{lm.name} against {expert.name}", [found.instance], about | facts(found), STATEMENTS
    )


def facts(found: ModelInstance) -> dict[str, Any]:
    """Return what a reader should know of an instance, by name.

    Numbers are averages over prompts where nothing else is said.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> found = tabular_instance(letter_lm(3), TokenMDP.random(3, 2, seed=0), ["a"], alpha=1.0)
        >>> facts(found)["horizon, tokens, prefixes"]
        (2, 3, 12)

    """
    instance = found.instance
    tree = found.tree

    def average(values: Any) -> float:
        return float(f"{np.average(values, weights=found.weights):.7g}")

    (low, high), ids = instance.mdp.reward_range, tree.token_ids[0][0]
    own = any((layer != ids).any() for layer in tree.token_ids)
    tokens: Any = ids if len(ids) <= 32 else f"all {len(ids)}"
    if own:
        k = len(ids) - 1 - len(tree.end_tokens)
        tokens = (
            f"the {k} that π̂ likes best in each state, {len(tree.end_tokens)} end tokens, and "
            "the rest"
        )
    shown: dict[str, Any] = {
        "prompts": [_said(prompt) for prompt in tree.prompts]
        if len(tree.prompts) <= 8
        else f"{len(tree.prompts)}, each an instance",
        "alpha": float(instance.alpha),
        "token ids": tokens,
        "horizon, tokens, prefixes": (instance.horizon, len(ids), tree.policy.dynamics.n_prefixes),
        "mass outside the tokens, at most": tree.max_left_out,
        "reward range": (round(low, 6), round(high, 6)),
        "ε_π (nats), at most": float(np.max(instance.epsilon)),
        "KL(π_E‖π̂), KL(π̂‖π_E) (nats)": (
            average(instance.kl_from_expert),
            average(instance.kl_to_expert),
        ),
        "plain values of π_E, π̂, π_RL, best": tuple(
            average(v)
            for v in (
                instance.expert_value,
                instance.expert_value - instance.clone_gap,
                instance.rl_value,
                instance.best_value,
            )
        ),
        "largest preference error (TV)": float(np.max(instance.pair_tv))
        if instance.pair_tv.size
        else "no pairs",
    }
    if (found.weights != found.weights[0]).any():
        some = (
            found.weights.round(6).tolist()
            if len(found.weights) <= 8
            else f"{found.weights.min():g} at least"
        )
        shown["weights of the prompts"] = some
    if found.expert_tree is not None:
        shown["expert's mass outside the tokens, at most"] = found.expert_tree.max_left_out
    if tree.rest is not None:
        lost = int((instance.rl_response.tokens == tree.rest).any(axis=-1).sum())
        shown["prompts whose π_RL ends in the rest token"] = lost
    return shown


def _said(prompt: Prompt) -> str:
    """Return a prompt as text: of a conversation, what each message says."""
    if isinstance(prompt, str):
        return prompt
    return " / ".join(map(content, prompt))
