"""Train by PPO on an endogenous reward: rollouts, rewards, advantages and updates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict as checkpoints
from torch.distributed.fsdp import FSDPModule, fully_shard

from llm_bridge.improve.checkpoint import read_checkpoint
from llm_bridge.improve.config import VALUE_LR, PPOConfig, learning_rate, rounded
from llm_bridge.improve.frozen import FrozenModels, passes, precision, read_all, token_table
from llm_bridge.improve.policy import frozen_copy, trainable_copy
from llm_bridge.improve.ppo import (
    Targets,
    explained_variance,
    gae,
    group_advantages,
    last_tokens,
    losses,
    penalised_rewards,
)
from llm_bridge.models.calls import device_of, evaluation, first_line
from llm_bridge.models.load import CausalLM, fingerprint, require_same_vocabulary
from llm_bridge.models.processes import Workers
from llm_bridge.models.prompts import Prompt, encode_prompt, is_prompt
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.rollout import (
    Actor,
    Diverged,
    Ids,
    Rollout,
    TokenRewards,
    generate,
)
from theory.storage.files import replacing

__all__ = ["Reward", "Trainer"]

Reward: TypeAlias = Callable[[Sequence[Ids], Sequence[Ids]], Sequence[np.ndarray]]
"""Gives, for prompts and responses (token ids), a reward of each token of each response.

A token's reward may depend on the tokens up to it. One that depends on the whole response belongs
to its last token. Reward units."""

VALUE_PROMPTS = 4
"""Prompts whose hidden states tell how large the value head's inputs are."""

MAX_GAP = {"float32": 0.002, "bfloat16": 0.2}
"""Nats by which generating and reading a token may differ, in root mean square over a batch. What
rounding gives is about 1e-5 in float32 and 0.03 in bfloat16, where the largest of a thousand tokens
may be off by a whole nat and no fault."""


class Trainer:
    """Trains a copy of a model on an endogenous reward; `step` is one batch.

    On a CPU, a trainer that was saved and loaded goes on to the same weights, bit for bit.

    Args:
        lm: `π̂`, which is not changed.
        prompts: texts, conversations or token ids, from which batches are sampled.
        config: hyperparameters.
        teacher: model whose endogenous reward is maximised instead of `π̂`'s own, read as
            ``config.reading`` says: on-policy distillation, with optimum ``∝ π̂ · π_teacher^{α/β}``
            (with an earlier or a later `π̂` as teacher, the schemes of
            `theory.solve.improve.SCHEMES`). `π̂` still anchors the KL penalty.
        extra: reward added to the endogenous one, such as a checked answer
            (`llm_bridge.tasks.sampling.checked_reward`); with ``config.alpha = 0`` it is the only
            one.
        group: processes of the run, each with its share of every batch. A run is the same for any
            number of them, up to rounding and the order of minibatches.

    Attributes:
        config: hyperparameters, with the learning rates that were chosen where none were given.
        lm: the policy `π`.
        frozen: `π̂`, and the teacher if there is one, with the reward that they give.
        done: number of batches done.
        beta: coefficient of the KL penalty now.
        rollout: this process's share of the last batch.
        rewards: ``(N,)`` its rewards ``r(τ)`` without penalty.

    Raises:
        ValueError: there is no prompt, one leaves no room for ``config.max_tokens``, batches cannot
            be shared, or there is nothing to maximise.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> config = PPOConfig(max_tokens=2, prompts_per_step=2, minibatch=4, end_tokens=())
        >>> trainer = Trainer(letter_lm(4), ["a", "b"], config)
        >>> row = trainer.step()
        >>> row["step"], round(row["kl"], 6), row["tokens"]
        (1, 0.0, 2.0)

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[Prompt | Ids],
        config: PPOConfig,
        *,
        teacher: CausalLM | None = None,
        extra: Reward | None = None,
        group: Workers = Workers(),  # noqa: B008
    ) -> None:
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"prompts={prompts!r}: must be a sequence of at least one text")
        if config.prompts_per_step % group.size:
            raise ValueError(
                f"prompts_per_step={config.prompts_per_step}: must be a multiple of {group.size} "
                "processes"
            )
        if not config.alpha + config.entropy and extra is None:
            raise ValueError(
                "alpha=0: without the endogenous reward there is nothing to maximise; give extra="
            )
        if config.checked and extra is None:
            raise ValueError(
                f"checked={config.checked}: nothing checks the answers; give extra=, such as "
                "checked_reward"
            )
        self.config = config
        self.extra = extra
        self.group = group
        self.done = 0
        self.beta = config.beta
        self.prompts = [
            encode_prompt(lm, prompt, config.max_tokens)
            if is_prompt(prompt)
            else np.asarray(prompt, dtype=np.int64).tolist()
            for prompt in prompts
        ]
        models = [frozen_copy(each, config) for each in (lm, teacher) if each is not None]
        _require_prompts(self.prompts, models, config)
        if teacher is not None:
            require_same_vocabulary(lm, teacher)
        self.end_tokens = find_end_tokens(lm, config.end_tokens)
        self.frozen = FrozenModels(models, config, self.end_tokens, group)
        policy = trainable_copy(lm.model, config)
        self.lm = replace(lm, model=policy, name=f"{lm.name} (trained)")
        self.actor = Actor(
            self.lm,
            value_to_trunk=config.value_to_trunk,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        # now: of a sharded model every process must take part in a pass
        self.actor.reader.decoding(max(map(len, self.prompts)) + config.max_tokens)
        self.rates = (
            config.lr or learning_rate(sum(p.numel() for p in lm.model.parameters()), config.lora),
            config.value_lr or _value_rate(self.actor, self.prompts[:VALUE_PROMPTS]),
        )
        self.config = replace(config, lr=self.rates[0], value_lr=self.rates[1])
        self.sharded = config.shard and group.size > 1
        reader = self.actor.reader
        if self.sharded and (reader.switches or not reader.batches):
            raise ValueError(
                f"shard=True: {lm.name} reads rows in several passes, as many as their lengths ask "
                "for, and sharded processes must all make the same; train without shard"
            )
        if self.sharded:
            for part in (*self.actor.layers, self.actor):
                fully_shard(part)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        groups = (self.parameters, self.actor.value.parameters())
        self.optimizer = torch.optim.Adam(
            [{"params": list(p), "lr": lr} for p, lr in zip(groups, self.rates, strict=True)],
            betas=(0.9, 0.95),
            fused=True,
        )
        # every process takes the same numbers, and of these its share
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rollout: Rollout | None = None
        self.rewards: torch.Tensor = torch.empty(0)

    def step(self) -> dict[str, float]:
        """Train on one batch: sample, score, read, advantages, updates.

        Returns:
            Averages over the batch: ``reward`` without penalty; ``penalised_reward``, an estimate
            of ``J``; ``kl`` to the frozen model and ``log_prob``, nats a response; ``tokens`` of a
            response; the share that ``ended``; ``explained``, the share of the variance of returns
            that the value head explains (NaN if they do not vary). Then ``step``, ``beta``,
            ``advantage_deviation``, ``generation_gap`` (nats between generating and reading a
            token), the losses, the ``gradient``'s norm before clipping, ``update_kl`` of the
            updates (nats a response), and the number of ``updates`` (without one, losses and norm
            are NaN).

        Raises:
            Diverged: a reward, a loss or a gradient is not finite, all responses are empty, or the
                KL is above ``stop_kl``.

        """
        c = self.config
        if self.done >= c.steps:
            raise ValueError(f"steps={c.steps}: all of them are done")
        # 1. Sample responses.
        self.rollout = rollout = self._sample()
        mask = rollout.response_mask
        # 2. Score them with the frozen models.
        raw, reference, token_rewards = self.frozen.score(rollout, self.beta)
        extra = self._extra(rollout)
        self.rewards = (raw + extra).sum(dim=1)
        # 3. Read them with the policy as the updates will, so that the ratio starts at exactly 1.
        log_probs, values, expected = read_all(self.actor, rollout, token_rewards, c, self.group)
        gap = self._require_sane(rollout, log_probs, reference)
        # 4. Compute advantages.
        if token_rewards is None:
            paid = penalised_rewards(raw + extra, log_probs, reference, mask, self.beta, c)
            rewards = paid
        else:  # a state pays its expected reward, so a token earns that of the state it leads to
            paid = extra + expected
            rewards = extra + torch.nn.functional.pad(expected[:, 1:], (0, 1))
        scale = 1.0
        if c.whiten_rewards:
            scale = self._moments(paid[mask])[1]
            rewards = rewards / scale
        if not self.done:  # a head at zero would have as far to go as returns are large
            to_go = gae(rewards, torch.zeros_like(values), mask, lam=1.0)[mask]
            start = self._moments(to_go)[0]
            # of a sharded actor the head is whole after a pass, and what is set there is lost
            if isinstance(self.actor, FSDPModule):
                self.actor.reshard()
            torch.nn.init.constant_(self.actor.value.bias, start)
            values = values + start * mask
        dense = gae(rewards, values, mask, c.gae_lambda)
        returns = dense + values
        advantages = dense if c.baseline == "value" else group_advantages(rewards, mask, c.samples)
        mean, deviation = self._moments(advantages[mask])
        if c.normalise_advantages:
            advantages = (advantages - mean) / deviation * mask
            scale *= deviation
        # 5. Update the policy and the value head.
        if token_rewards is not None and scale != 1:
            token_rewards = token_rewards.scaled(1 / scale)
        targets = Targets(log_probs, values, advantages, returns, mask)
        updates = self._update(rollout, token_rewards, targets)
        self.done += 1
        columns = {
            "reward": self.rewards,
            "penalised_reward": paid.sum(dim=1),
            "kl": (log_probs - reference).sum(dim=1),
            "log_prob": log_probs.sum(dim=1),
            "tokens": mask.sum(dim=1).double(),
            "ended": rollout.ended.double(),
            "explained": explained_variance(dense[mask], returns[mask]),
        }
        means = self.group.mean([float(column.mean()) for column in columns.values()])
        row = dict(zip(columns, means, strict=True)) | {"step": self.done, "beta": self.beta}
        row |= {"advantage_deviation": deviation, "generation_gap": gap} | updates
        if c.adaptive_kl is not None:
            self.beta *= 1 + 0.1 * min(max(row["kl"] / c.adaptive_kl - 1, -0.2), 0.2)
        return row

    def _sample(self) -> Rollout:
        """Choose prompts, and sample responses to each in neighbouring rows."""
        c = self.config
        order = torch.randperm(len(self.prompts), generator=self.generator)
        repeats = math.ceil(c.prompts_per_step / len(self.prompts))
        chosen = order.repeat(repeats)[: c.prompts_per_step]
        shape = c.prompts_per_step * c.samples, c.max_tokens
        uniforms = torch.rand(*shape, generator=self.generator, dtype=torch.double)
        mine, numbers = (
            x.tensor_split(self.group.size)[self.group.rank] for x in (chosen, uniforms)
        )
        with precision(self.actor, self.config):
            return generate(
                self.actor,
                [self.prompts[i] for i in mine.tolist()],
                c.max_tokens,
                self.end_tokens,
                uniforms=numbers,
                samples=c.samples,
                group=self.group if self.sharded else Workers(),
            )

    def _extra(self, rollout: Rollout) -> torch.Tensor:
        """Return the rewards of sampled tokens that are not endogenous: ``(N, T)``."""
        found = torch.zeros_like(rollout.log_probs)
        if self.extra is not None:
            rows = self.extra(*rollout.texts())
            found = token_table(rollout, "rewards", rows, self.group)
        if self.end_tokens and self.config.missing_end:
            cut = last_tokens(rollout.response_mask) & ~rollout.ended[:, None]
            found = found - self.config.missing_end * cut
        return found

    def _require_sane(
        self, rollout: Rollout, log_probs: torch.Tensor, reference: torch.Tensor
    ) -> float:
        """Raise `Diverged` if the batch is not worth learning from; return the generation gap."""
        tokens = rollout.response_mask.sum(dim=1)
        kl, square, empty = self.group.mean(
            [
                float((log_probs - reference).sum() / tokens.sum()),
                float((log_probs - rollout.log_probs).square().sum() / tokens.sum()),
                float((rollout.ended & (tokens == 1)).double().mean()),
            ]
        )
        # comparisons are written so that NaN fails them
        if self.config.stop_kl is not None and not kl <= self.config.stop_kl:
            raise Diverged(
                f"KL to the frozen model is {kl:.3g} nats a token, above "
                f"stop_kl={self.config.stop_kl}"
            )
        if empty == 1:
            raise Diverged(
                "every response is empty, its first token an end token; raise beta or check the "
                "prompts"
            )
        gap = math.sqrt(square) if square >= 0 else math.nan
        limit = MAX_GAP[self.config.dtype]
        if not gap <= limit:
            raise Diverged(
                f"log-probabilities read at once differ by {gap:.3g} nats (root mean square) from "
                f"those of generation, above {limit:g}, which rounding in {self.config.dtype} "
                f"stays below: {self.lm.name} decodes otherwise than it reads; try dtype=float32, "
                "or give another model"
            )
        return gap

    def _update(
        self, rollout: Rollout, token_rewards: TokenRewards | None, targets: Targets
    ) -> dict[str, float]:
        """Take optimiser steps on minibatches, until all epochs are done or ``target_kl``."""
        c = self.config
        decay = min(1, (self.done + 1) / c.warmup) * (1 - self.done / c.steps if c.anneal else 1)
        for group, lr in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * decay
        logged = []
        for minibatch in self._minibatches(len(rollout.ids)):
            self.optimizer.zero_grad()
            row = self._backward(rollout, minibatch, token_rewards, targets)
            _require_finite(*row)
            if c.target_kl is not None and row[2] > c.target_kl:
                break
            if not self.sharded:
                gradients = [p.grad for g in self.optimizer.param_groups for p in g["params"]]
                self.group.average(gradients)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.max_grad_norm or math.inf)
            row.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            _require_finite(*row)
            self.optimizer.step()
            logged.append(row)
        self.optimizer.zero_grad()
        none = [math.nan, math.nan, 0.0, math.nan]  # without an update there is no loss
        means = map(float, np.mean(logged or [none], axis=0))
        names = ("policy_loss", "value_loss", "update_kl", "gradient")
        return dict(zip(names, means, strict=True), updates=len(logged))

    def _backward(
        self,
        rollout: Rollout,
        minibatch: torch.Tensor,
        token_rewards: TokenRewards | None,
        targets: Targets,
    ) -> list[float]:
        """Add the gradient of a minibatch; return policy loss, value loss and KL of the update."""
        sums = torch.zeros(3)
        for rows in passes(minibatch, self.config, self.group):
            with precision(self.actor, self.config):
                new = rollout.read(self.actor, rows, token_rewards)
            parts = losses(new, Targets(*(table[rows] for table in targets)), self.config)
            policy, value, update_kl = (part / len(minibatch) for part in parts)
            try:
                (policy + value).backward()  # type: ignore[no-untyped-call]
            except (AssertionError, NotImplementedError) as error:
                raise Diverged(
                    f"{self.lm.name} has no gradient ({first_line(error)}); give another model"
                ) from error
            sums += torch.tensor([float(x.detach()) for x in (policy, value, update_kl)])
        return self.group.mean(sums.tolist())

    def _minibatches(self, n: int) -> Iterator[torch.Tensor]:
        """Yield this process's rows of each minibatch, of its `n` responses, in a new order."""
        count = math.ceil(n * self.group.size / self.config.minibatch)
        for _ in range(self.config.epochs):
            # one permutation for any number of processes
            order = torch.randperm(n * self.group.size, generator=self.generator)
            yield from (order[order // n == self.group.rank] % n).tensor_split(min(count, n))

    def _moments(self, x: torch.Tensor) -> tuple[float, float]:
        """Return mean and standard deviation (at least 1e-8) over all processes."""
        n, total = self.group.mean([len(x), float(x.double().sum())])
        mean = total / n
        variance = self.group.mean([float((x.double() - mean).square().sum())])[0] / n
        return mean, max(math.sqrt(variance), 1e-8)

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on, replacing the file once all is written.

        Every process takes part, and the first one writes.
        """
        actor, optimizer = checkpoints.get_state_dict(
            self.actor, self.optimizer, options=self._state_options()
        )
        if self.group.first:
            state = {
                "identity": self.identity,
                "done": self.done,
                "beta": self.beta,
                "actor": actor,
                "optimizer": optimizer,
                "generator": self.generator.get_state(),
            }
            with replacing(path) as file:
                torch.save(state, file)
        self.group.wait()

    def load(self, path: Path) -> None:
        """Go on from a file that `save` has written.

        Raises:
            ValueError: the file is damaged, or of a run with another configuration, model or
                prompts.

        """
        state = read_checkpoint(path, self.identity)
        checkpoints.set_state_dict(
            self.actor,
            self.optimizer,
            model_state_dict=state["actor"],
            optim_state_dict=state["optimizer"],
            options=self._state_options(),
        )
        self.generator.set_state(state["generator"])
        self.done = state["done"]
        self.beta = state["beta"]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what the result depends on: hyperparameters, hashes of both models and prompts."""
        return self.config.as_dict(results_only=True) | {
            "lm": fingerprint(self.frozen.models[0]),
            "reward_of": fingerprint(self.frozen.models[-1]),
            "prompts": hashlib.sha256(repr(self.prompts).encode()).hexdigest(),
            "model_findings": list(self.lm.reader.findings),
            **({} if self.lm.format.date is None else {"date": self.lm.format.date}),
        }

    def _state_options(self) -> checkpoints.StateDictOptions:
        adapters = self.config.lora is not None
        return checkpoints.StateDictOptions(
            full_state_dict=True,
            cpu_offload=True,
            ignore_frozen_params=adapters,
            strict=not adapters,
        )


@torch.no_grad()
def _value_rate(actor: Actor, prompts: Sequence[Sequence[int]]) -> float:
    """Return the learning rate at which a step of Adam changes a value by a reward unit at most.

    Adam changes each weight of the value head by about its rate, so a value by up to the rate times
    the sum of the absolute hidden states.
    """
    sizes = []
    with evaluation(actor.model):
        for prompt in prompts:
            states = actor.reader.states(torch.tensor([prompt], device=device_of(actor)))
            sizes.append(float(states[0, -1].abs().sum(dtype=torch.double)))
    return min(VALUE_LR, rounded(1 / max(float(np.mean(sizes)), 1e-6)))


def _require_finite(policy: float, value: float, update_kl: float, gradient: float = 0.0) -> None:
    if not all(map(math.isfinite, (policy, value, update_kl, gradient))):
        raise Diverged(
            f"policy loss {policy:.3g}, value loss {value:.3g}, KL of the update {update_kl:.3g} "
            f"nats, gradient {gradient:.3g}; use a smaller lr"
        )


def _require_prompts(
    prompts: Sequence[Sequence[int]], models: Sequence[CausalLM], config: PPOConfig
) -> None:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompts[{i}]: empty, must have at least one token")
    ids = [token for prompt in prompts for token in prompt] + list(config.end_tokens or ())
    longest = max(map(len, prompts)) + config.max_tokens - 1
    for lm in models:
        if min(ids) < 0 or max(ids) >= lm.vocab_size:
            raise ValueError(
                f"prompts and end_tokens: ids must be from 0 to {lm.vocab_size - 1} in {lm.name}"
            )
        if lm.context is not None and longest > lm.context:
            raise ValueError(
                f"prompts: the longest needs {longest} positions, {lm.name} has {lm.context}; "
                "shorten it"
            )
