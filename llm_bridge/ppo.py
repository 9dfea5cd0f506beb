"""PPO on a language model's own endogenous reward.

The model `π̂` that is given stays as it is: it supplies the reward `r̂` and anchors the policy `π`, a copy of it, which
is trained to maximise ``J_β(π) = V^π_r̂ − β KL(π‖π̂)``. The maximum is known: the power policy ``π̂^{1+α/β}``
(`theory.improve.kl_optimal`); where the token tree can be enumerated, `llm_bridge.target.ExactTarget` says how far from
it `π` is. A run in a folder (evaluation, metrics, checkpoints) is `llm_bridge.training.train`.

Reward and penalty are known of every token, not only of the one that was drawn, so what a state pays is known in closed
form. With ``k(s,a) = (α + β) log π̂(a|s) − β log π(a|s)``,

    J_β(π) = E_π Σ_h k̄(s_h),      k̄(s) = Σ_a π(a|s) k(s,a),
    ∇J_β   = E_π Σ_h { ∇k̄(s_h) + ∇log π(a_h|s_h) · Σ_{j>h} k̄(s_j) },

and sampling is left with what comes after a token (``reward="expected"``). The usual ways, a reward for the token drawn
(``"dense"``) or for the whole response at its end (``"sum"``), have the same expected gradient and more noise.

Read from the top: configuration, rewards and advantages, losses, the trainer. Sampling is `llm_bridge.actor`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict as checkpoints
from torch.distributed.fsdp import fully_shard

from llm_bridge.actor import Actor, Diverged, Ids, Known, Reading, Rollout, generate
from llm_bridge.head import Head, device_of, evaluation
from llm_bridge.model import CausalLM, encode_prompt, fingerprint, require_same_vocabulary
from llm_bridge.prefixes import require_integer
from llm_bridge.score import EndogenousReward, find_end_tokens
from llm_bridge.workers import Workers
from theory.files import replacing
from theory.reward import Gauge, Terminal

__all__ = ["PPOConfig", "Reward", "Trainer", "gae", "group_advantages", "losses", "penalised_rewards"]

DISCOUNT = 1.0
"""Not an option: ``r̂(τ)`` telescopes to ``α log π̂(τ) + V̂(s₁)`` without a discount only. With one, the soft values in
between would count, the best policy would depend on the gauge, and the power policy would not be it."""

Reward: TypeAlias = Callable[[Sequence[Ids], Sequence[Ids]], Sequence[np.ndarray]]
"""From prompts and responses, as ids, one reward for each token of each response, reward units.

A token's reward may depend on the tokens up to it; what depends on the whole response belongs to its last token."""


@dataclass(frozen=True)
class PPOConfig:
    """Everything that a run depends on, apart from model, prompts and reward. KL and entropy are in nats a response."""

    # the objective
    alpha: float = 1.0  # temperature α of the endogenous reward, reward units; 0 for none
    beta: float = 0.01  # reward units per nat; 0 for no KL penalty
    adaptive_kl: float | None = None  # β follows this KL(π‖π̂) (Ziegler et al. 2019, section 2.2); None: β is fixed
    entropy: float = 0.0  # reward units per nat; beta=0 with entropy=alpha is soft RL, whose optimum is π̂ itself
    reward: Literal["expected", "dense", "sum"] = "expected"  # of all tokens, of the one drawn, or at the last one
    gauge: Gauge = "logprob"  # of the reward, or "logits" (the paper's; noisier)
    terminal: Terminal = "zero"  # value of a state where a response was cut: "zero", or the model's own ("bootstrap")
    # responses
    max_tokens: int = 16  # where a response is cut
    end_tokens: tuple[int, ...] | None = None  # ids that end a response and belong to it; None: the tokenizer's own
    missing_end: float = 0.0  # taken from the reward of a response that was cut, where there are end tokens
    prompts_per_step: int = 512  # each drawn once, where there are enough
    samples: int = 2  # responses to each prompt of the batch
    # advantages
    baseline: Literal["value", "group"] = "value"  # GAE on a value head, or the other samples' average return
    gae_lambda: float = 1.0  # only at 1 does the end of training not depend on the gauge
    whiten_rewards: bool = False  # divide penalised rewards by their deviation in the batch: J in another unit
    normalise_advantages: bool = False  # mean 0, deviation 1. Off: at the optimum it would blow up what is left
    # updates
    clip: float | None = 0.2  # the ratio of new to old probability counts within 1 ± clip; None: unclipped
    value_clip: float | None = None  # new values count within that distance of the old, reward units; None: unclipped
    value_to_trunk: bool = False  # whether the value head's error changes the model, or the head alone
    epochs: int = 2  # passes over a batch
    minibatch: int = 256  # responses in an optimiser step, those of all processes together
    microbatch: int | None = None  # responses in a pass of the network; gradients add up. None: the whole minibatch
    lr: float = 2e-4  # of the model (Adam)
    value_lr: float = 1e-2  # of the value head, which starts at zero and has far to go
    warmup: int = 1  # batches over which both rise to that: Adam's first steps are as long as any
    anneal: bool = True  # whether both then fall linearly, to zero after `steps`
    max_grad_norm: float | None = 1.0  # of the model; None: unclipped
    target_kl: float | None = None  # no more updates on a batch once KL(π_old‖π) is above it
    stop_kl: float | None = 5.0  # the run stops where KL(π‖π̂) is above it, nats *a token*
    steps: int = 100  # batches
    # machine
    dtype: Literal["float32", "bfloat16"] = "float32"  # of products; weights and log-sum-exp stay float32
    lora: int | None = None  # rank of adapters on all linear layers (peft), the model's weights stay; None: all
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    shard: bool = False  # split weights and optimiser over the processes (FSDP), or let each have them all
    seed: int = 0  # of prompts, samples and minibatches

    def __post_init__(self) -> None:
        for name in ("max_tokens", "prompts_per_step", "samples", "epochs", "minibatch", "warmup", "steps"):
            require_integer(name, getattr(self, name))
        for name in ("microbatch", "lora"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name))
        for names, needed in (
            ("alpha beta entropy missing_end", "0 or more"), ("lr value_lr", "positive"),
            ("adaptive_kl clip value_clip max_grad_norm target_kl stop_kl", "positive, or None for off"),
        ):  # fmt: skip
            for name in names.split():
                value = getattr(self, name)
                if (value is None and "None" in needed) or (value == 0 and "0" in needed):
                    continue
                if value is None or not 0 < value < math.inf:
                    raise ValueError(f"{name}={value!r}: must be {needed}")
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda={self.gae_lambda!r}: must be from 0 to 1")
        for name in ("whiten_rewards", "normalise_advantages", "value_to_trunk", "anneal", *SWITCHES):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be True or False")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed!r}: must be an integer from 0 to 2^63 - 1")
        ends = () if self.end_tokens is None else self.end_tokens
        if not isinstance(ends, tuple) or not all(type(token) is int for token in ends):
            raise ValueError(f"end_tokens={ends!r}: must be a tuple of token ids, or None for the tokenizer's own")
        if self.shard and self.lora is not None:
            raise ValueError("shard=True: adapters are small, each process has them whole; leave it out with lora")
        if self.adaptive_kl is not None and not self.beta:
            raise ValueError("beta=0: adaptive_kl multiplies it; start from a positive one")
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(map(repr, values))}")
        if self.reward == "expected" and self.gauge == "logits":
            raise ValueError("gauge='logits': reward='expected' is that of every token, α log π̂; use reward='dense'")
        if self.gauge == "logprob" and self.terminal == "bootstrap":
            raise ValueError("terminal='bootstrap': the logprob gauge has no values to keep; use gauge='logits'")
        if self.baseline == "group" and self.samples < 2:
            raise ValueError(f"samples={self.samples}: baseline='group' compares samples of a prompt; use at least 2")


SWITCHES = ("gradient_checkpointing", "shard")

CHOICES: dict[str, tuple[str, ...]] = {
    "gauge": get_args(Gauge), "terminal": get_args(Terminal), "reward": ("expected", "dense", "sum"),
    "baseline": ("value", "group"), "dtype": ("float32", "bfloat16"),
}  # fmt: skip


# --- Rewards, advantages and losses: arrays (N, T), 0 at padding ----------------------------------------------------


def penalised_rewards(
    rewards: torch.Tensor, log_probs: torch.Tensor, reference: torch.Tensor, written: torch.Tensor, beta: float,
    config: PPOConfig,
) -> torch.Tensor:  # fmt: skip
    """``r(s,a) − β log π(a|s)/π̂(a|s) − η log π(a|s)``: its expected sum is ``V^π_r − β KL(π‖π̂) + η H(π)``.

    The penalty is each token's own, also where ``config.reward="sum"`` puts all of the reward on the last one.
    """
    if config.reward == "sum":
        rewards = rewards.sum(dim=1, keepdim=True) * _last(written)
    return rewards - beta * (log_probs - reference) - config.entropy * log_probs


def _explained(errors: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """Share of the variance of returns that a prediction with these errors explains; NaN where they do not vary."""
    if len(returns) < 2 or not returns.var() > 1e-12 * returns.square().mean():
        return torch.tensor(math.nan)
    return 1 - errors.square().mean() / returns.var()


def _last(written: torch.Tensor) -> torch.Tensor:
    """``(N, T)`` whether it is the last token of its response."""
    return written & (written.cumsum(dim=1) == written.sum(dim=1, keepdim=True))


def gae(rewards: torch.Tensor, values: torch.Tensor, written: torch.Tensor, lam: float) -> torch.Tensor:
    """Advantages ``A_h = δ_h + γλ A_{h+1}``, ``δ_h = r_h + γ V_{h+1} − V_h``; nothing comes after the last token.

    With ``λ = 1`` they are the rewards to go less ``V_h``, in gauge ``"logits"`` larger by ``V̂(s_h)`` than in gauge
    ``"logprob"``: by a function of the state, which no expected gradient sees.
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
    """``r(τ)`` less the average of the other samples of its prompt, for every token: no gauge and no bias.

    Rows are the samples of one prompt, then those of the next.
    """
    returns = rewards.sum(dim=1).view(-1, samples)
    others = (returns.sum(dim=1, keepdim=True) - returns) / (samples - 1)
    return (returns - others).view(-1, 1) * written


class Targets(NamedTuple):
    """What the loss compares with, arrays ``(N, T)``: the policy that wrote the rollout, and what came of it."""

    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    written: torch.Tensor


def losses(new: Reading, old: Targets, c: PPOConfig) -> tuple[torch.Tensor, ...]:
    """Policy loss, value loss and ``KL(π_old‖π)``, nats, summed over tokens and responses.

    What is known of a state counts as it is, without a ratio and without a clip: over many epochs only ``target_kl``
    bounds how far it moves the policy.

    They are to be averaged over responses and not over tokens: what a token counts must not depend on its response's
    length.
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
    policy, value, kl = ((x * old.written).sum() for x in (-gain - new.expected, 0.5 * error, moved))
    return policy, value, kl


# --- The trainer ----------------------------------------------------------------------------------------------------


class Trainer:
    """Trains a copy of a model on the model's own reward; `step` is one batch, `save` and `load` go on exactly.

    The model given is `π̂` and stays as it is; `Trainer.lm` is the policy `π`, `Trainer.done` counts batches and
    `Trainer.beta` is the coefficient now.

    Args:
        lm: `π̂`.
        prompts: texts, or token ids, to draw batches from.
        config: everything else.
        teacher: whose endogenous reward is maximised in place of `π̂`'s own; the optimum is ``∝ π̂ · π_teacher^{α/β}``
            (distillation; with an earlier or a later `π̂`, the schemes of `theory.improve.SCHEMES`).
        extra: a reward of the tokens drawn that comes on top of the endogenous one, such as a checked answer; with
            ``config.alpha = 0`` there is no other.
        group: the processes of the run: each has its share of every batch, and a run is the same for any number of
            them up to rounding and to the order of minibatches.

    Raises:
        ValueError: no prompt, one that leaves no room for ``config.max_tokens``, batches that cannot be shared, or
            nothing to maximise.

    """

    def __init__(
        self, lm: CausalLM, prompts: Sequence[str | Ids], config: PPOConfig, *, teacher: CausalLM | None = None,
        extra: Reward | None = None, group: Workers = Workers(),  # noqa: B008
    ) -> None:  # fmt: skip
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"prompts={prompts!r}: must be a sequence of at least one text")
        if config.prompts_per_step % group.size:
            raise ValueError(
                f"prompts_per_step={config.prompts_per_step}: must be a multiple of {group.size} processes"
            )
        if not config.alpha + config.entropy and extra is None:
            raise ValueError("alpha=0: without the endogenous reward there is nothing to maximise; give extra=")
        self.config, self.extra, self.group, self.done, self.beta = config, extra, group, 0, config.beta
        self.prompts = [
            encode_prompt(lm, prompt, config.max_tokens) if isinstance(prompt, str) else [int(i) for i in prompt]
            for prompt in prompts
        ]
        self.frozen = [lm] if teacher is None else [lm, teacher]
        """`π̂` first; last the model whose reward is maximised, which may be the same."""
        _require_prompts(self.prompts, self.frozen, config)
        if teacher is not None:
            require_same_vocabulary(lm, teacher)
        self.end_tokens = find_end_tokens(lm, config.end_tokens)
        self._readers: list[Any] = [self._reader(model) for model in self.frozen]
        self.lm = CausalLM(_policy(lm.model, config), lm.tokenizer, f"{lm.name} (trained)")
        self.actor = Actor(
            self.lm, value_to_trunk=config.value_to_trunk, gradient_checkpointing=config.gradient_checkpointing
        )
        self.sharded = config.shard and group.size > 1
        if self.sharded:
            for part in (*self.actor.layers, self.actor):
                fully_shard(part)
        self.parameters = [p for p in self.lm.model.parameters() if p.requires_grad]
        groups = [(self.parameters, config.lr), (self.actor.value.parameters(), config.value_lr)]
        self.optimizer = torch.optim.Adam(
            [{"params": list(p), "lr": lr} for p, lr in groups], betas=(0.9, 0.95), fused=True
        )
        self.generator = torch.Generator().manual_seed(config.seed)  # the same draws in every process
        self.rollout: Rollout | None = None
        """This process's share of the last batch."""
        self.rewards: torch.Tensor = torch.empty(0)
        """``(N,)`` its rewards ``r(τ)`` without penalty."""

    def step(self) -> dict[str, float]:
        """One batch: sample, score, advantages, updates.

        Returns:
            Averages over the batch: ``reward`` without penalty, ``penalised_reward`` (an estimate of ``J``), ``kl`` to
            the frozen model and ``log_prob`` in nats a response, ``tokens`` of one, the share that ``ended``, the share
            of the variance of returns that the value head ``explained`` (NaN where they do not vary); ``beta``;
            losses, the ``gradient``'s norm before clipping, how far the updates ``moved`` the policy (nats a response),
            and the number of ``updates`` (without one, losses and norm are NaN).

        Raises:
            Diverged: a reward, a loss or a gradient is not finite, all responses are empty, or the policy left
                ``stop_kl``.

        """
        c = self.config
        if self.done >= c.steps:
            raise ValueError(f"steps={c.steps}: all of them are done")
        # 1. prompts, and `samples` responses to each in neighbouring rows
        chosen = torch.randperm(len(self.prompts), generator=self.generator).repeat(
            math.ceil(c.prompts_per_step / len(self.prompts))
        )[: c.prompts_per_step]
        uniforms = torch.rand(
            c.prompts_per_step * c.samples, c.max_tokens, generator=self.generator, dtype=torch.double
        )
        mine, draws = (x.tensor_split(self.group.size)[self.group.rank] for x in (chosen, uniforms))
        with self._precision():
            self.rollout = rollout = generate(
                self.actor, [self.prompts[i] for i in mine.tolist()], c.max_tokens, self.end_tokens,
                uniforms=draws, samples=c.samples, group=self.group if self.sharded else Workers(),
            )  # fmt: skip
        # 2. what the frozen model says of them
        raw, reference, known = self._score(rollout)
        extra = self._extra(rollout)
        self.rewards = (raw + extra).sum(dim=1)
        # 3. the policy that wrote them, read as the updates will read it: the ratio starts at 1 in any precision
        with torch.no_grad(), self._precision():
            read = [rollout.read(self.actor, rows, known) for rows in self._passes(torch.arange(len(draws)))]
        log_probs, values, expected = (torch.cat(parts) for parts in zip(*read, strict=True))
        gap = self._require_sane(rollout, log_probs, reference)
        # 4. advantages
        written = rollout.written
        rewards = penalised_rewards(raw + extra, log_probs, reference, written, self.beta, c)
        objective = rewards.sum(dim=1)
        if known is not None:  # what the state pays that a token leads to
            rewards = extra + torch.nn.functional.pad(expected[:, 1:], (0, 1))
            objective = (extra + expected).sum(dim=1)
        if c.whiten_rewards:
            unit = self._moments((rewards if known is None else extra + expected)[written])[1]
            rewards, known = rewards / unit, None if known is None else known.scaled(1 / unit)
        dense = gae(rewards, values, written, c.gae_lambda)
        advantages = dense if c.baseline == "value" else group_advantages(rewards, written, c.samples)
        mean, deviation = self._moments(advantages[written])
        if c.normalise_advantages:
            advantages = (advantages - mean) / deviation * written
            known = None if known is None else known.scaled(1 / deviation)
        # 5. updates
        updates = self._update(rollout, known, Targets(log_probs, values, advantages, dense + values, written))
        self.done += 1
        batch = {
            "reward": self.rewards.mean(), "penalised_reward": objective.mean(),
            "kl": (log_probs - reference).sum(dim=1).mean(), "log_prob": log_probs.sum(dim=1).mean(),
            "tokens": written.sum(dim=1).double().mean(), "ended": rollout.ended.double().mean(),
            "explained": _explained(dense[written], (dense + values)[written]),
        }  # fmt: skip
        row = dict(zip(batch, self.group.mean([float(value) for value in batch.values()]), strict=True))
        row |= {"step": self.done, "beta": self.beta, "advantage_deviation": deviation, "generation_gap": gap} | updates
        if c.adaptive_kl is not None:
            self.beta *= 1 + 0.1 * min(max(row["kl"] / c.adaptive_kl - 1, -0.2), 0.2)
        return row

    def _score(self, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor, Known | None]:
        """Rewards ``r̂(s,a)`` and ``log π̂(a|s)``, ``(N, T)``, 0 at padding; and what is known of every token."""
        c = self.config
        if c.reward == "expected":
            read = [self._read(actor, rollout) for actor in self._readers]
            (anchor, reference), (teacher, rewards) = read[0], read[-1]
            models: tuple[tuple[Head, torch.Tensor, float], ...] = ((*anchor, self.beta), (*teacher, c.alpha))
            if len(read) == 1:  # one law instead of the same law twice
                models = ((*anchor, c.alpha + self.beta),)
            return c.alpha * rewards, reference, Known(models, self.beta + c.entropy)
        texts = rollout.texts()
        scored = [scorer.score_ids(*texts, progress=False) for scorer in self._readers]
        reference = self._table(rollout, "log-probabilities", [score.log_probs for score in scored[0]])
        rewards = self._table(rollout, "rewards", [score.rewards for score in scored[-1]])
        return rewards * (c.alpha > 0), reference, None

    def _reader(self, lm: CausalLM) -> Actor | EndogenousReward:
        """What reads a frozen model: every token's law, or the rewards of the tokens drawn."""
        c = self.config
        if c.reward == "expected":
            return Actor(lm)
        return EndogenousReward(lm, None, c.alpha or 1.0, c.gauge, c.terminal, end_tokens=self.end_tokens)

    def _read(self, actor: Actor, rollout: Rollout) -> tuple[tuple[Head, torch.Tensor], torch.Tensor]:
        """Head and hidden states of a frozen model, and its log-probabilities of the tokens drawn."""
        passes = self._passes(torch.arange(len(rollout.ids)))
        with evaluation(actor.model):
            parts = [rollout.hidden(actor, rows) for rows in passes]
        hidden, written = torch.cat(parts), rollout.written
        tokens = rollout.ids[:, -written.shape[1] :]
        with torch.no_grad():
            found = torch.cat([actor.head.log_probs(hidden[rows], tokens[rows]) for rows in passes])
        return (actor.head, hidden), self._finite("log-probabilities", found.masked_fill(~written, 0))

    def _extra(self, rollout: Rollout) -> torch.Tensor:
        """Rewards that are known of the tokens drawn only: ``(N, T)``, 0 at padding."""
        found = torch.zeros_like(rollout.log_probs)
        if self.extra is not None:
            found = self._table(rollout, "rewards", self.extra(*rollout.texts()))
        if self.end_tokens and self.config.missing_end:
            found = found - self.config.missing_end * (_last(rollout.written) & ~rollout.ended[:, None])
        return found

    def _table(self, rollout: Rollout, name: str, rows: Sequence[np.ndarray]) -> torch.Tensor:
        """One number for each token of each response: ``(N, T)``, 0 at padding."""
        lengths = rollout.written.sum(dim=1).tolist()
        if [len(row) for row in rows] != lengths:
            raise ValueError(f"{name}: must be one for each token of each response; check the reward")
        table = torch.zeros_like(rollout.log_probs)
        flat = np.concatenate([np.asarray(row, dtype=np.float32) for row in rows])
        table[rollout.written] = torch.from_numpy(flat).to(table)
        return self._finite(name, table)

    def _finite(self, name: str, table: torch.Tensor) -> torch.Tensor:
        bad = table[~table.isfinite()]
        if self.group.any(len(bad) > 0):
            raise Diverged(f"{name} hold {float(bad[0]) if len(bad) else 'what is not finite'}; check the reward")
        return table

    def _require_sane(self, rollout: Rollout, log_probs: torch.Tensor, reference: torch.Tensor) -> float:
        """That the batch is worth learning from; returns how far reading a token is from generating it, nats."""
        tokens = rollout.written.sum(dim=1)
        kl = (log_probs - reference).sum() / tokens.sum()
        gap = (log_probs - rollout.log_probs).abs().max()
        empty = (rollout.ended & (tokens == 1)).double().mean()
        kl_, gap_, empty_ = self.group.mean([float(kl), float(gap), float(empty)])
        if self.config.stop_kl is not None and not kl_ <= self.config.stop_kl:
            raise Diverged(f"KL to the frozen model is {kl_:.3g} nats a token, above stop_kl={self.config.stop_kl}")
        if empty_ == 1:
            raise Diverged("every response is empty, its first token an end token; raise beta or check the prompts")
        if self.config.dtype == "float32" and not gap_ <= MAX_GAP:
            what = f"log-probabilities read at once differ by {gap_:.3g} nats from those of generation"
            raise Diverged(f"{what}: {self.lm.name} does not handle the cache or left padding; give another model")
        return gap_

    def _update(self, rollout: Rollout, known: Known | None, targets: Targets) -> dict[str, float]:
        """Optimiser steps on minibatches, until all epochs are done or ``target_kl`` is passed."""
        c, logged = self.config, []
        for group, lr in zip(self.optimizer.param_groups, (c.lr, c.value_lr), strict=True):
            group["lr"] = lr * min(1, (self.done + 1) / c.warmup) * (1 - self.done / c.steps if c.anneal else 1)
        for minibatch in self._minibatches(len(rollout.ids)):
            self.optimizer.zero_grad()
            sums = torch.zeros(3)
            for rows in self._passes(minibatch):
                with self._precision():
                    new = rollout.read(self.actor, rows, known)
                parts = losses(new, Targets(*(table[rows] for table in targets)), c)
                policy, value, moved = (part / len(minibatch) for part in parts)
                (policy + value).backward()  # type: ignore[no-untyped-call]
                sums += torch.tensor([float(x.detach()) for x in (policy, value, moved)])
            row = self.group.mean(sums.tolist())
            _require_finite(*row)
            if c.target_kl is not None and row[2] > c.target_kl:
                break
            if not self.sharded:
                self.group.average([p.grad for g in self.optimizer.param_groups for p in g["params"]])
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.max_grad_norm or math.inf)
            row.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            _require_finite(*row)
            self.optimizer.step()
            logged.append(row)
        self.optimizer.zero_grad()
        none = [math.nan, math.nan, 0.0, math.nan]  # without an update nothing moved, and there is no loss
        means = map(float, np.mean(logged or [none], axis=0))
        return dict(zip(("policy_loss", "value_loss", "moved", "gradient"), means, strict=True), updates=len(logged))

    def _minibatches(self, n: int) -> Iterator[torch.Tensor]:
        """Rows of a minibatch, this process's share of it; each pass over its `n` responses is in a new order."""
        count = math.ceil(n * self.group.size / self.config.minibatch)
        for _ in range(self.config.epochs):
            # one draw for any number of processes
            order = torch.randperm(n * self.group.size, generator=self.generator)
            yield from (order[order // n == self.group.rank] % n).tensor_split(min(count, n))

    def _passes(self, rows: torch.Tensor) -> Sequence[torch.Tensor]:
        size = self.config.microbatch or max(1, self.config.minibatch // self.group.size)
        return rows.tensor_split(math.ceil(len(rows) / size))

    def _moments(self, x: torch.Tensor) -> tuple[float, float]:
        """Mean and deviation over all processes."""
        n, total = self.group.mean([len(x), float(x.double().sum())])
        mean = total / n
        return mean, max(math.sqrt(self.group.mean([float((x.double() - mean).square().sum())])[0] / n), 1e-8)

    def _precision(self) -> Any:
        low = self.config.dtype == "bfloat16"
        return torch.autocast(device_of(self.actor).type, torch.bfloat16) if low else nullcontext()

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; a file that is there is replaced once all is written."""
        actor, optimizer = checkpoints.get_state_dict(self.actor, self.optimizer, options=self._whole())
        if self.group.first:
            state = {
                "config": asdict(self.config), "model": self._identity, "done": self.done,
                "beta": self.beta, "actor": actor, "optimizer": optimizer, "generator": self.generator.get_state(),
            }  # fmt: skip
            with replacing(path) as file:
                torch.save(state, file)
        self.group.wait()

    def load(self, path: Path) -> None:
        """Go on from there: on a CPU, to the same weights as if there had been no interruption, bit for bit.

        Raises:
            ValueError: it is of a run with another configuration or from another model.

        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        mine, its = asdict(self.config), state["config"]
        for name in sorted(mine.keys() - MACHINE):
            if mine[name] != its.get(name):
                raise ValueError(f"{name}={mine[name]!r}: {path} has {its.get(name)!r}; go on with that, or start anew")
        if state["model"][-1:] != self._identity[-1:]:
            raise ValueError(f"prompts: {path} is of a run on other prompts; give those, or start anew")
        if state["model"] != self._identity:
            raise ValueError(f"lm: {path} is of a run from another model than {self.frozen[0].name}; give that one")
        checkpoints.set_state_dict(
            self.actor, self.optimizer, model_state_dict=state["actor"], optim_state_dict=state["optimizer"],
            options=self._whole(),
        )  # fmt: skip
        self.generator.set_state(state["generator"])
        self.done, self.beta = state["done"], state["beta"]

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on: hyperparameters, and hashes of the models and of the prompts."""
        config = {name: value for name, value in asdict(self.config).items() if name not in MACHINE}
        return config | dict(zip(("lm", "reward_of", "prompts"), self._identity, strict=True))

    @cached_property
    def _identity(self) -> list[str]:
        """Of `π̂`, of the model whose reward is maximised, and of the prompts."""
        prompts = hashlib.sha256(repr(self.prompts).encode()).hexdigest()
        return [fingerprint(self.frozen[0]), fingerprint(self.frozen[-1]), prompts]

    def _whole(self) -> checkpoints.StateDictOptions:
        some = self.config.lora is not None
        return checkpoints.StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=some, strict=not some
        )


def _require_finite(policy: float, value: float, moved: float, gradient: float = 0.0) -> None:
    if not all(map(math.isfinite, (policy, value, moved, gradient))):
        what = f"policy loss {policy:.3g}, value loss {value:.3g}, moved by {moved:.3g} nats, gradient {gradient:.3g}"
        raise Diverged(f"{what}; use a smaller lr")


MACHINE = {"microbatch", "gradient_checkpointing", "shard"}
"""What a run goes on without."""

MAX_GAP = 0.05
"""Nats; in float32 the two ways to read a token agree to about 1e-5."""


def _require_prompts(prompts: Sequence[Sequence[int]], models: Sequence[CausalLM], config: PPOConfig) -> None:
    ids = [token for prompt in prompts for token in prompt] + list(config.end_tokens or ())
    for lm in models:
        longest = max(map(len, prompts)) + config.max_tokens - 1
        if not all(map(len, prompts)):
            raise ValueError(f"prompts[{list(map(len, prompts)).index(0)}]: empty, must have at least one token")
        if min(ids) < 0 or max(ids) >= lm.vocab_size:
            raise ValueError(f"prompts and end_tokens: ids must be from 0 to {lm.vocab_size - 1} in {lm.name}")
        if lm.context is not None and longest > lm.context:
            raise ValueError(f"prompts: the longest needs {longest} positions, {lm.name} has {lm.context}; shorten it")


def _policy(model: Any, config: PPOConfig) -> Any:
    """A copy of the model to train: in float32, or with adapters on the model's own weights, which are not copied.

    In evaluation mode throughout: with dropout the ratio of new to old probability would not start at 1.
    """
    if config.lora is None:
        policy = copy.deepcopy(model).float().requires_grad_(True)
    else:
        try:
            from peft import LoraConfig
        except ImportError:
            raise ValueError(f"lora={config.lora}: peft is not installed: pip install 'endorm[train]'") from None
        # the same memory under other names: adapters freeze what they are put on
        shared = {id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
        policy = copy.deepcopy(model, shared)
        adapters = LoraConfig(r=config.lora, lora_alpha=2 * config.lora, target_modules="all-linear")
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")  # of layers that store their weight transposed, which are found out
            torch.manual_seed(config.seed)
            policy.add_adapter(adapters)
        for parameter in policy.parameters():
            if parameter.requires_grad:  # in bfloat16 a small step would round to none
                parameter.data = parameter.data.float()
    for part in policy.modules():  # some layers read these in training mode, which checkpointing needs
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return policy.eval()
