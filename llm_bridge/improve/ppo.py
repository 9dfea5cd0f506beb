"""PPO on a language model's own endogenous reward.

The model `π̂` that is given stays as it is: it supplies the reward `r̂` and anchors the policy `π`,
a copy of it, which is trained to maximise ``J_β(π) = V^π_r̂ − β KL(π‖π̂)``. The maximum is known:
the power policy ``π̂^{1+α/β}`` (`theory.solve.improve.kl_optimal`); where the token tree can be
enumerated, `llm_bridge.improve.target.ExactTarget` says how far from it `π` is. A run in a folder
(evaluation, metrics, checkpoints) is `llm_bridge.improve.run.train`.

Reward and penalty are known of every token, not only of the one that was drawn, so what a state
pays is known in closed form. With ``k(s,a) = (α + β) log π̂(a|s) − β log π(a|s)``,

    J_β(π) = E_π Σ_h k̄(s_h),      k̄(s) = Σ_a π(a|s) k(s,a),
    ∇J_β   = E_π Σ_h { ∇k̄(s_h) + ∇log π(a_h|s_h) · Σ_{j>h} k̄(s_j) },

and sampling is left with what comes after a token (``reward="expected"``). The usual ways, a reward
for the token drawn (``"dense"``) or for the whole response at its end (``"sum"``), have the same
expected gradient and more noise.

Read from the top: rewards, advantages, losses. Hyperparameters are `llm_bridge.improve.config`, the
training loop `llm_bridge.improve.trainer`, sampling `llm_bridge.read.rollout`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from llm_bridge.improve.config import PPOConfig
from llm_bridge.read.rollout import ActorOutput

__all__ = [
    "Targets",
    "explained_variance",
    "gae",
    "group_advantages",
    "last_tokens",
    "losses",
    "penalised_rewards",
]

DISCOUNT = 1.0
"""Not an option: ``r̂(τ)`` telescopes to ``α log π̂(τ) + V̂(s₁)`` without a discount only. With
one, the soft values in between would count, the best policy would depend on the gauge, and the
power policy would not be it."""


def penalised_rewards(
    rewards: torch.Tensor,
    log_probs: torch.Tensor,
    reference: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    config: PPOConfig,
) -> torch.Tensor:
    """Return ``r(s,a) − β log π(a|s)/π̂(a|s) − η log π(a|s)``, whose expected sum is ``V^π_r −
    β KL(π‖π̂) + η H(π)``.

    The penalty is each token's own, also where ``config.reward="sum"`` puts all of the reward on
    the last one.

    Example:
        >>> rewards, log_probs = torch.ones(1, 2), torch.tensor([[-1.0, -1.0]])
        >>> reference = torch.tensor([[-1.0, -3.0]])  # π̂ writes the second token less often
        >>> mask = rewards > 0
        >>> penalised_rewards(rewards, log_probs, reference, mask, 0.5, PPOConfig()).tolist()
        [[1.0, 0.0]]

    """
    if config.reward == "sum":
        rewards = rewards.sum(dim=1, keepdim=True) * last_tokens(mask)
    return rewards - beta * (log_probs - reference) - config.entropy * log_probs


def explained_variance(errors: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Return the share of the variance of returns that a prediction with these errors explains; NaN
    where they do not vary.

    Example:
        >>> returns = torch.tensor([1.0, 2.0, 3.0])
        >>> round(float(explained_variance(torch.zeros(3), returns)), 3)
        1.0

    """
    if len(returns) < 2 or not returns.var() > 1e-12 * returns.square().mean():
        return torch.tensor(math.nan)
    return 1 - errors.square().mean() / returns.var()


def last_tokens(mask: torch.Tensor) -> torch.Tensor:
    """Mark the last token of each response: ``(N, T)``.

    Example:
        >>> last_tokens(torch.tensor([[True, True, False]])).tolist()
        [[False, True, False]]

    """
    return mask & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, lam: float
) -> torch.Tensor:
    """Return advantages ``A_h = δ_h + γλ A_{h+1}``, ``δ_h = r_h + γ V_{h+1} − V_h``; nothing comes
    after the last token.

    With ``λ = 1`` they are the rewards to go less ``V_h``, in gauge ``"logits"`` larger by
    ``V̂(s_h)`` than in gauge ``"logprob"``: by a function of the state, which no expected gradient
    sees.

    Example:
        >>> values = torch.tensor([[0.5, 0.5]])
        >>> gae(torch.tensor([[1.0, 2.0]]), values, values > 0, lam=1.0).tolist()
        [[2.5, 1.5]]

    """
    advantages = torch.zeros_like(rewards)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    for h in reversed(range(rewards.shape[1])):
        delta = rewards[:, h] + DISCOUNT * next_value - values[:, h]
        advantage = (delta + DISCOUNT * lam * advantage) * mask[:, h]
        next_value = values[:, h] * mask[:, h]
        advantages[:, h] = advantage
    return advantages


def group_advantages(rewards: torch.Tensor, mask: torch.Tensor, samples: int) -> torch.Tensor:
    """Return ``r(τ)`` less the average of the other samples of its prompt, for every token: no
    gauge and no bias.

    Rows are the samples of one prompt, then those of the next.

    Example:
        >>> rewards = torch.tensor([[1.0], [3.0]])
        >>> group_advantages(rewards, rewards > 0, samples=2).tolist()
        [[-2.0], [2.0]]

    """
    returns = rewards.sum(dim=1).view(-1, samples)
    others = (returns.sum(dim=1, keepdim=True) - returns) / (samples - 1)
    return (returns - others).view(-1, 1) * mask


class Targets(NamedTuple):
    """What the loss compares with, arrays ``(N, T)``: the policy that sampled the rollout, and
    what came of it.
    """

    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    mask: torch.Tensor


def losses(new: ActorOutput, old: Targets, c: PPOConfig) -> tuple[torch.Tensor, ...]:
    """Return policy loss, value loss and ``KL(π_old‖π)``, nats, summed over tokens and responses.

    What is known of a state counts as it is, without a ratio and without a clip: over many epochs
    only ``target_kl`` bounds how far it moves the policy.

    They are to be averaged over responses and not over tokens: what a token counts must not depend
    on its response's length.

    Example:
        >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
        >>> old = Targets(zero, values=zero, advantages=one, returns=one, mask=one > 0)
        >>> [float(loss) for loss in losses(ActorOutput(zero, zero, zero), old, PPOConfig())]
        [-1.0, 0.5, 0.0]

    """
    shift = new.log_probs - old.log_probs
    ratio = torch.exp(shift)
    gain = ratio * old.advantages
    if c.clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - c.clip, 1 + c.clip) * old.advantages)
    error = (new.values - old.returns).square()
    if c.value_clip is not None:
        near = old.values + (new.values - old.values).clamp(-c.value_clip, c.value_clip)
        error = torch.maximum(error, (near - old.returns).square())
    kl = (ratio - 1 - shift).detach()  # an estimate of the KL in which no term is negative
    return tuple((x * old.mask).sum() for x in (-gain - new.expected, 0.5 * error, kl))
