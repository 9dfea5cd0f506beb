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

Read from the top: configuration, rewards and advantages, losses, the trainer. Sampling is
`llm_bridge.read.rollout`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.rollout import ActorOutput
from theory.solve.reward import Gauge, Terminal

__all__ = ["PPOConfig", "gae", "group_advantages", "losses", "penalised_rewards"]

DISCOUNT = 1.0
"""Not an option: ``r̂(τ)`` telescopes to ``α log π̂(τ) + V̂(s₁)`` without a discount only. With
one, the soft values in between would count, the best policy would depend on the gauge, and the
power policy would not be it."""


@dataclass(frozen=True)
class PPOConfig:
    """Everything that a run depends on, apart from model, prompts and reward. KL and entropy are in
    nats a response.
    """

    # the objective
    alpha: float = 1.0  # temperature α of the endogenous reward, reward units; 0 for none
    beta: float = 0.01  # reward units per nat; 0 for no KL penalty
    adaptive_kl: float | None = (
        None  # β follows this KL(π‖π̂) (Ziegler et al. 2019, section 2.2); None: β is fixed
    )
    entropy: float = (
        # reward units per nat; beta=0 with entropy=alpha is soft RL, whose optimum is π̂ itself
        0.0
    )
    reward: Literal["expected", "dense", "sum"] = (
        "expected"  # of all tokens, of the one drawn, or at the last one
    )
    gauge: Gauge = "logprob"  # of the reward, or "logits" (the paper's; noisier)
    # value of a state where a response was cut: "zero", or the model's own ("bootstrap")
    terminal: Terminal = "zero"
    # responses
    max_tokens: int = 16  # where a response is cut
    end_tokens: tuple[int, ...] | None = (
        None  # ids that end a response and belong to it; None: the tokenizer's own
    )
    missing_end: float = (
        0.0  # taken from the reward of a response that was cut, where there are end tokens
    )
    prompts_per_step: int = 512  # each drawn once, where there are enough
    samples: int = 2  # responses to each prompt of the batch
    # advantages
    baseline: Literal["value", "group"] = (
        "value"  # GAE on a value head, or the other samples' average return
    )
    gae_lambda: float = 1.0  # only at 1 does the end of training not depend on the gauge
    whiten_rewards: bool = (
        False  # divide penalised rewards by their deviation in the batch: J in another unit
    )
    normalise_advantages: bool = (
        False  # mean 0, deviation 1. Off: at the optimum it would blow up what is left
    )
    # updates
    clip: float | None = (
        0.2  # the ratio of new to old probability counts within 1 ± clip; None: unclipped
    )
    value_clip: float | None = (
        None  # new values count within that distance of the old, reward units; None: unclipped
    )
    value_to_trunk: bool = (
        False  # whether the value head's error changes the model, or the head alone
    )
    epochs: int = 2  # passes over a batch
    minibatch: int = 256  # responses in an optimiser step, those of all processes together
    microbatch: int | None = (
        None  # responses in a pass of the network; gradients add up. None: the whole minibatch
    )
    lr: float = 2e-4  # of the model (Adam)
    value_lr: float = 1e-2  # of the value head, which starts at zero and has far to go
    warmup: int = 1  # batches over which both rise to that: Adam's first steps are as long as any
    anneal: bool = True  # whether both then fall linearly, to zero after `steps`
    max_grad_norm: float | None = 1.0  # of the model; None: unclipped
    target_kl: float | None = None  # no more updates on a batch once KL(π_old‖π) is above it
    stop_kl: float | None = 5.0  # the run stops where KL(π‖π̂) is above it, nats *a token*
    steps: int = 100  # batches
    # machine
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of products; weights and log-sum-exp stay float32
    )
    lora: int | None = (
        None  # rank of adapters on all linear layers (peft), the model's weights stay; None: all
    )
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    shard: bool = (
        False  # split weights and optimiser over the processes (FSDP), or let each have them all
    )
    seed: int = 0  # of prompts, samples and minibatches

    def __post_init__(self) -> None:
        for name in (
            "max_tokens",
            "prompts_per_step",
            "samples",
            "epochs",
            "minibatch",
            "warmup",
            "steps",
        ):
            require_integer(name, getattr(self, name))
        for name in ("microbatch", "lora"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name))
        for names, needed in (
            ("alpha beta entropy missing_end", "0 or more"),
            ("lr value_lr", "positive"),
            (
                "adaptive_kl clip value_clip max_grad_norm target_kl stop_kl",
                "positive, or None for off",
            ),
        ):
            for name in names.split():
                value = getattr(self, name)
                if (value is None and "None" in needed) or (value == 0 and "0" in needed):
                    continue
                if value is None or not 0 < value < math.inf:
                    raise ValueError(f"{name}={value!r}: must be {needed}")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda={self.gae_lambda!r}: must be from 0 to 1")
        for name in (
            "whiten_rewards",
            "normalise_advantages",
            "value_to_trunk",
            "anneal",
            *SWITCHES,
        ):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be True or False")
        if (
            isinstance(self.seed, bool)
            or not isinstance(self.seed, int)
            or not 0 <= self.seed < 2**63
        ):
            raise ValueError(f"seed={self.seed!r}: must be an integer from 0 to 2^63 - 1")
        ends = () if self.end_tokens is None else self.end_tokens
        if not isinstance(ends, tuple) or not all(type(token) is int for token in ends):
            raise ValueError(
                f"end_tokens={ends!r}: must be a tuple of token ids, or None for the tokenizer's "
                "own"
            )
        if self.shard and self.lora is not None:
            raise ValueError(
                "shard=True: adapters are small, each process has them whole; leave it out with "
                "lora"
            )
        if self.adaptive_kl is not None and not self.beta:
            raise ValueError("beta=0: adaptive_kl multiplies it; start from a positive one")
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: must be one of {', '.join(map(repr, values))}"
                )
        if self.reward == "expected" and self.gauge == "logits":
            raise ValueError(
                "gauge='logits': reward='expected' is that of every token, α log π̂; use "
                "reward='dense'"
            )
        if self.gauge == "logprob" and self.terminal == "bootstrap":
            raise ValueError(
                "terminal='bootstrap': the logprob gauge has no values to keep; use gauge='logits'"
            )
        if self.baseline == "group" and self.samples < 2:
            raise ValueError(
                f"samples={self.samples}: baseline='group' compares samples of a prompt; use at "
                "least 2"
            )


SWITCHES = ("gradient_checkpointing", "shard")

CHOICES: dict[str, tuple[str, ...]] = {
    "gauge": get_args(Gauge),
    "terminal": get_args(Terminal),
    "reward": ("expected", "dense", "sum"),
    "baseline": ("value", "group"),
    "dtype": ("float32", "bfloat16"),
}


def penalised_rewards(
    rewards: torch.Tensor,
    log_probs: torch.Tensor,
    reference: torch.Tensor,
    written: torch.Tensor,
    beta: float,
    config: PPOConfig,
) -> torch.Tensor:
    """``r(s,a) − β log π(a|s)/π̂(a|s) − η log π(a|s)``: its expected sum is ``V^π_r − β KL(π‖π̂) +
    η H(π)``.

    The penalty is each token's own, also where ``config.reward="sum"`` puts all of the reward on
    the last one.
    """
    if config.reward == "sum":
        rewards = rewards.sum(dim=1, keepdim=True) * _last(written)
    return rewards - beta * (log_probs - reference) - config.entropy * log_probs


def _explained(errors: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Share of the variance of returns that a prediction with these errors explains; NaN where they
    do not vary.
    """
    if len(returns) < 2 or not returns.var() > 1e-12 * returns.square().mean():
        return torch.tensor(math.nan)
    return 1 - errors.square().mean() / returns.var()


def _last(written: torch.Tensor) -> torch.Tensor:
    """``(N, T)`` whether it is the last token of its response."""
    return written & (written.cumsum(dim=1) == written.sum(dim=1, keepdim=True))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, written: torch.Tensor, lam: float
) -> torch.Tensor:
    """Advantages ``A_h = δ_h + γλ A_{h+1}``, ``δ_h = r_h + γ V_{h+1} − V_h``; nothing comes after
    the last token.

    With ``λ = 1`` they are the rewards to go less ``V_h``, in gauge ``"logits"`` larger by
    ``V̂(s_h)`` than in gauge ``"logprob"``: by a function of the state, which no expected gradient
    sees.
    """
    advantages = torch.zeros_like(rewards)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    for h in reversed(range(rewards.shape[1])):
        delta = rewards[:, h] + DISCOUNT * next_value - values[:, h]
        advantage = (delta + DISCOUNT * lam * advantage) * written[:, h]
        next_value = values[:, h] * written[:, h]
        advantages[:, h] = advantage
    return advantages


def group_advantages(rewards: torch.Tensor, written: torch.Tensor, samples: int) -> torch.Tensor:
    """``r(τ)`` less the average of the other samples of its prompt, for every token: no gauge and
    no bias.

    Rows are the samples of one prompt, then those of the next.
    """
    returns = rewards.sum(dim=1).view(-1, samples)
    others = (returns.sum(dim=1, keepdim=True) - returns) / (samples - 1)
    return (returns - others).view(-1, 1) * written


class Targets(NamedTuple):
    """What the loss compares with, arrays ``(N, T)``: the policy that wrote the rollout, and what
    came of it.
    """

    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    written: torch.Tensor


def losses(new: ActorOutput, old: Targets, c: PPOConfig) -> tuple[torch.Tensor, ...]:
    """Policy loss, value loss and ``KL(π_old‖π)``, nats, summed over tokens and responses.

    What is known of a state counts as it is, without a ratio and without a clip: over many epochs
    only ``target_kl`` bounds how far it moves the policy.

    They are to be averaged over responses and not over tokens: what a token counts must not depend
    on its response's length.
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
    moved = (ratio - 1 - shift).detach()  # an estimate of the KL in which no term is negative
    policy, value, kl = (
        (x * old.written).sum() for x in (-gain - new.expected, 0.5 * error, moved)
    )
    return policy, value, kl


MACHINE = {"microbatch", "gradient_checkpointing", "shard"}
"""What a run goes on without."""
