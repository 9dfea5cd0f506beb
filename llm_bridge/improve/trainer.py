"""The trainer: rollouts, rewards, advantages and updates of PPO on an endogenous reward."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict as checkpoints
from torch.distributed.fsdp import fully_shard

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.ppo import (
    Targets,
    _explained,
    _last,
    gae,
    group_advantages,
    losses,
    penalised_rewards,
)
from llm_bridge.models.head import Head, device_of, evaluation
from llm_bridge.models.load import CausalLM, encode_prompt, fingerprint, require_same_vocabulary
from llm_bridge.models.processes import Workers
from llm_bridge.read.reward import EndogenousReward, find_end_tokens
from llm_bridge.read.rollout import Actor, Diverged, Ids, Rollout, TokenRewards, generate
from theory.storage.files import replacing

__all__ = ["Reward", "Trainer"]

Reward: TypeAlias = Callable[[Sequence[Ids], Sequence[Ids]], Sequence[np.ndarray]]
"""From prompts and responses, as ids, one reward for each token of each response, reward units.

A token's reward may depend on the tokens up to it; what depends on the whole response belongs to
its last token."""


class Trainer:
    """Trains a copy of a model on the model's own reward; `step` is one batch, `save` and `load` go
    on exactly.

    The model given is `π̂` and stays as it is; `Trainer.lm` is the policy `π`, `Trainer.done`
    counts batches and `Trainer.beta` is the coefficient now.

    Args:
        lm: `π̂`.
        prompts: texts, or token ids, to draw batches from.
        config: everything else.
        teacher: whose endogenous reward is maximised in place of `π̂`'s own; the optimum is ``∝ π̂
            · π_teacher^{α/β}`` (distillation; with an earlier or a later `π̂`, the schemes of
            `theory.solve.improve.SCHEMES`).
        extra: a reward of the tokens drawn that comes on top of the endogenous one, such as a
            checked answer; with ``config.alpha = 0`` there is no other.
        group: the processes of the run: each has its share of every batch, and a run is the same
            for any number of them up to rounding and to the order of minibatches.

    Raises:
        ValueError: no prompt, one that leaves no room for ``config.max_tokens``, batches that
            cannot be shared, or nothing to maximise.

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[str | Ids],
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
        self.config, self.extra, self.group, self.done, self.beta = (
            config,
            extra,
            group,
            0,
            config.beta,
        )
        self.prompts = [
            encode_prompt(lm, prompt, config.max_tokens)
            if isinstance(prompt, str)
            else [int(i) for i in prompt]
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
            self.lm,
            value_to_trunk=config.value_to_trunk,
            gradient_checkpointing=config.gradient_checkpointing,
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
        self.generator = torch.Generator().manual_seed(
            config.seed
        )  # the same draws in every process
        self.rollout: Rollout | None = None
        """This process's share of the last batch."""
        self.rewards: torch.Tensor = torch.empty(0)
        """``(N,)`` its rewards ``r(τ)`` without penalty."""

    def step(self) -> dict[str, float]:
        """One batch: sample, score, advantages, updates.

        Returns:
            Averages over the batch: ``reward`` without penalty, ``penalised_reward`` (an estimate
            of ``J``), ``kl`` to the frozen model and ``log_prob`` in nats a response, ``tokens`` of
            one, the share that ``ended``, the share of the variance of returns that the value head
            ``explained`` (NaN where they do not vary); ``beta``; losses, the ``gradient``'s norm
            before clipping, how far the updates ``moved`` the policy (nats a response), and the
            number of ``updates`` (without one, losses and norm are NaN).

        Raises:
            Diverged: a reward, a loss or a gradient is not finite, all responses are empty, or the
                policy left ``stop_kl``.

        """
        c = self.config
        if self.done >= c.steps:
            raise ValueError(f"steps={c.steps}: all of them are done")
        # 1. prompts, and `samples` responses to each in neighbouring rows
        chosen = torch.randperm(len(self.prompts), generator=self.generator).repeat(
            math.ceil(c.prompts_per_step / len(self.prompts))
        )[: c.prompts_per_step]
        uniforms = torch.rand(
            c.prompts_per_step * c.samples,
            c.max_tokens,
            generator=self.generator,
            dtype=torch.double,
        )
        mine, draws = (x.tensor_split(self.group.size)[self.group.rank] for x in (chosen, uniforms))
        with self._precision():
            self.rollout = rollout = generate(
                self.actor,
                [self.prompts[i] for i in mine.tolist()],
                c.max_tokens,
                self.end_tokens,
                uniforms=draws,
                samples=c.samples,
                group=self.group if self.sharded else Workers(),
            )
        # 2. what the frozen model says of them
        raw, reference, token_rewards = self._score(rollout)
        extra = self._extra(rollout)
        self.rewards = (raw + extra).sum(dim=1)
        # 3. the policy that wrote them, read as the updates will read it: the ratio starts at 1 in
        # any precision
        with torch.no_grad(), self._precision():
            read = [
                rollout.read(self.actor, rows, token_rewards)
                for rows in self._passes(torch.arange(len(draws)))
            ]
        log_probs, values, expected = (torch.cat(parts) for parts in zip(*read, strict=True))
        gap = self._require_sane(rollout, log_probs, reference)
        # 4. advantages
        written = rollout.response_mask
        rewards = penalised_rewards(raw + extra, log_probs, reference, written, self.beta, c)
        objective = rewards.sum(dim=1)
        if token_rewards is not None:  # what the state pays that a token leads to
            rewards = extra + torch.nn.functional.pad(expected[:, 1:], (0, 1))
            objective = (extra + expected).sum(dim=1)
        if c.whiten_rewards:
            unit = self._moments((rewards if token_rewards is None else extra + expected)[written])[
                1
            ]
            rewards, token_rewards = (
                rewards / unit,
                None if token_rewards is None else token_rewards.scaled(1 / unit),
            )
        dense = gae(rewards, values, written, c.gae_lambda)
        advantages = (
            dense if c.baseline == "value" else group_advantages(rewards, written, c.samples)
        )
        mean, deviation = self._moments(advantages[written])
        if c.normalise_advantages:
            advantages = (advantages - mean) / deviation * written
            token_rewards = None if token_rewards is None else token_rewards.scaled(1 / deviation)
        # 5. updates
        updates = self._update(
            rollout, token_rewards, Targets(log_probs, values, advantages, dense + values, written)
        )
        self.done += 1
        batch = {
            "reward": self.rewards.mean(),
            "penalised_reward": objective.mean(),
            "kl": (log_probs - reference).sum(dim=1).mean(),
            "log_prob": log_probs.sum(dim=1).mean(),
            "tokens": written.sum(dim=1).double().mean(),
            "ended": rollout.ended.double().mean(),
            "explained": _explained(dense[written], (dense + values)[written]),
        }
        row = dict(
            zip(batch, self.group.mean([float(value) for value in batch.values()]), strict=True)
        )
        row |= {
            "step": self.done,
            "beta": self.beta,
            "advantage_deviation": deviation,
            "generation_gap": gap,
        } | updates
        if c.adaptive_kl is not None:
            self.beta *= 1 + 0.1 * min(max(row["kl"] / c.adaptive_kl - 1, -0.2), 0.2)
        return row

    def _score(self, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor, TokenRewards | None]:
        """Rewards ``r̂(s,a)`` and ``log π̂(a|s)``, ``(N, T)``, 0 at padding; and what is token_rewards of
        every token.
        """
        c = self.config
        if c.reward == "expected":
            read = [self._read(actor, rollout) for actor in self._readers]
            (anchor, reference), (teacher, rewards) = read[0], read[-1]
            models: tuple[tuple[Head, torch.Tensor, float], ...] = (
                (*anchor, self.beta),
                (*teacher, c.alpha),
            )
            if len(read) == 1:  # one law instead of the same law twice
                models = ((*anchor, c.alpha + self.beta),)
            return c.alpha * rewards, reference, TokenRewards(models, self.beta + c.entropy)
        texts = rollout.texts()
        scored = [scorer.score_ids(*texts, progress=False) for scorer in self._readers]
        reference = self._table(
            rollout, "log-probabilities", [score.log_probs for score in scored[0]]
        )
        rewards = self._table(rollout, "rewards", [score.rewards for score in scored[-1]])
        return rewards * (c.alpha > 0), reference, None

    def _reader(self, lm: CausalLM) -> Actor | EndogenousReward:
        """What reads a frozen model: every token's law, or the rewards of the tokens drawn."""
        c = self.config
        if c.reward == "expected":
            return Actor(lm)
        return EndogenousReward(lm, reading=c.reading, end_tokens=self.end_tokens)

    def _read(
        self, actor: Actor, rollout: Rollout
    ) -> tuple[tuple[Head, torch.Tensor], torch.Tensor]:
        """Head and hidden states of a frozen model, and its log-probabilities of the tokens
        drawn.
        """
        passes = self._passes(torch.arange(len(rollout.ids)))
        with evaluation(actor.model):
            parts = [rollout.hidden(actor, rows) for rows in passes]
        hidden, written = torch.cat(parts), rollout.response_mask
        tokens = rollout.ids[:, -written.shape[1] :]
        with torch.no_grad():
            found = torch.cat([actor.head.log_probs(hidden[rows], tokens[rows]) for rows in passes])
        return (actor.head, hidden), self._finite(
            "log-probabilities", found.masked_fill(~written, 0)
        )

    def _extra(self, rollout: Rollout) -> torch.Tensor:
        """Rewards that are token_rewards of the tokens drawn only: ``(N, T)``, 0 at padding."""
        found = torch.zeros_like(rollout.log_probs)
        if self.extra is not None:
            found = self._table(rollout, "rewards", self.extra(*rollout.texts()))
        if self.end_tokens and self.config.missing_end:
            found = found - self.config.missing_end * (
                _last(rollout.response_mask) & ~rollout.ended[:, None]
            )
        return found

    def _table(self, rollout: Rollout, name: str, rows: Sequence[np.ndarray]) -> torch.Tensor:
        """One number for each token of each response: ``(N, T)``, 0 at padding."""
        lengths = rollout.response_mask.sum(dim=1).tolist()
        if [len(row) for row in rows] != lengths:
            raise ValueError(
                f"{name}: must be one for each token of each response; check the reward"
            )
        table = torch.zeros_like(rollout.log_probs)
        flat = np.concatenate([np.asarray(row, dtype=np.float32) for row in rows])
        table[rollout.response_mask] = torch.from_numpy(flat).to(table)
        return self._finite(name, table)

    def _finite(self, name: str, table: torch.Tensor) -> torch.Tensor:
        bad = table[~table.isfinite()]
        if self.group.any(len(bad) > 0):
            raise Diverged(
                f"{name} hold {float(bad[0]) if len(bad) else 'what is not finite'}; check the "
                "reward"
            )
        return table

    def _require_sane(
        self, rollout: Rollout, log_probs: torch.Tensor, reference: torch.Tensor
    ) -> float:
        """That the batch is worth learning from; returns how far reading a token is from generating
        it, nats.
        """
        tokens = rollout.response_mask.sum(dim=1)
        kl = (log_probs - reference).sum() / tokens.sum()
        gap = (log_probs - rollout.log_probs).abs().max()
        empty = (rollout.ended & (tokens == 1)).double().mean()
        kl_, gap_, empty_ = self.group.mean([float(kl), float(gap), float(empty)])
        if self.config.stop_kl is not None and not kl_ <= self.config.stop_kl:
            raise Diverged(
                f"KL to the frozen model is {kl_:.3g} nats a token, above "
                f"stop_kl={self.config.stop_kl}"
            )
        if empty_ == 1:
            raise Diverged(
                "every response is empty, its first token an end token; raise beta or check the "
                "prompts"
            )
        if self.config.dtype == "float32" and not gap_ <= MAX_GAP:
            what = (
                f"log-probabilities read at once differ by {gap_:.3g} nats from those of generation"
            )
            raise Diverged(
                f"{what}: {self.lm.name} does not handle the cache or left padding; give another "
                "model"
            )
        return gap_

    def _update(
        self, rollout: Rollout, token_rewards: TokenRewards | None, targets: Targets
    ) -> dict[str, float]:
        """Optimiser steps on minibatches, until all epochs are done or ``target_kl`` is passed."""
        c, logged = self.config, []
        for group, lr in zip(self.optimizer.param_groups, (c.lr, c.value_lr), strict=True):
            group["lr"] = (
                lr
                * min(1, (self.done + 1) / c.warmup)
                * (1 - self.done / c.steps if c.anneal else 1)
            )
        for minibatch in self._minibatches(len(rollout.ids)):
            self.optimizer.zero_grad()
            sums = torch.zeros(3)
            for rows in self._passes(minibatch):
                with self._precision():
                    new = rollout.read(self.actor, rows, token_rewards)
                parts = losses(new, Targets(*(table[rows] for table in targets)), c)
                policy, value, moved = (part / len(minibatch) for part in parts)
                (policy + value).backward()  # type: ignore[no-untyped-call]
                sums += torch.tensor([float(x.detach()) for x in (policy, value, moved)])
            row = self.group.mean(sums.tolist())
            _require_finite(*row)
            if c.target_kl is not None and row[2] > c.target_kl:
                break
            if not self.sharded:
                self.group.average(
                    [p.grad for g in self.optimizer.param_groups for p in g["params"]]
                )
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.max_grad_norm or math.inf)
            row.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
            _require_finite(*row)
            self.optimizer.step()
            logged.append(row)
        self.optimizer.zero_grad()
        none = [
            math.nan,
            math.nan,
            0.0,
            math.nan,
        ]  # without an update nothing moved, and there is no loss
        means = map(float, np.mean(logged or [none], axis=0))
        return dict(
            zip(("policy_loss", "value_loss", "moved", "gradient"), means, strict=True),
            updates=len(logged),
        )

    def _minibatches(self, n: int) -> Iterator[torch.Tensor]:
        """Rows of a minibatch, this process's share of it; each pass over its `n` responses is in a
        new order.
        """
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
        return mean, max(
            math.sqrt(self.group.mean([float((x.double() - mean).square().sum())])[0] / n), 1e-8
        )

    def _precision(self) -> Any:
        low = self.config.dtype == "bfloat16"
        return torch.autocast(device_of(self.actor).type, torch.bfloat16) if low else nullcontext()

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; a file that is there is replaced once all
        is written.
        """
        actor, optimizer = checkpoints.get_state_dict(
            self.actor, self.optimizer, options=self._whole()
        )
        if self.group.first:
            state = {
                "config": self.config.as_dict(),
                "model": self._identity,
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
        """Go on from there: on a CPU, to the same weights as if there had been no interruption, bit
        for bit.

        Raises:
            ValueError: it is of a run with another configuration or from another model.

        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        mine, its = self.config.as_dict(results_only=True), state["config"]
        for name in sorted(mine):
            if mine[name] != its.get(name):
                raise ValueError(
                    f"{name}={mine[name]!r}: {path} has {its.get(name)!r}; go on with that, or "
                    "start anew"
                )
        if state["model"][-1:] != self._identity[-1:]:
            raise ValueError(
                f"prompts: {path} is of a run on other prompts; give those, or start anew"
            )
        if state["model"] != self._identity:
            raise ValueError(
                f"lm: {path} is of a run from another model than {self.frozen[0].name}; give that "
                "one"
            )
        checkpoints.set_state_dict(
            self.actor,
            self.optimizer,
            model_state_dict=state["actor"],
            optim_state_dict=state["optimizer"],
            options=self._whole(),
        )
        self.generator.set_state(state["generator"])
        self.done, self.beta = state["done"], state["beta"]

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on: hyperparameters, and hashes of the models and of
        the prompts.
        """
        config = self.config.as_dict(results_only=True)
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
        what = (
            f"policy loss {policy:.3g}, value loss {value:.3g}, moved by {moved:.3g} nats, "
            f"gradient {gradient:.3g}"
        )
        raise Diverged(f"{what}; use a smaller lr")


MAX_GAP = 0.05
"""Nats; in float32 the two ways to read a token agree to about 1e-5."""


def _require_prompts(
    prompts: Sequence[Sequence[int]], models: Sequence[CausalLM], config: PPOConfig
) -> None:
    ids = [token for prompt in prompts for token in prompt] + list(config.end_tokens or ())
    for lm in models:
        longest = max(map(len, prompts)) + config.max_tokens - 1
        if not all(map(len, prompts)):
            raise ValueError(
                f"prompts[{list(map(len, prompts)).index(0)}]: empty, must have at least one token"
            )
        if min(ids) < 0 or max(ids) >= lm.vocab_size:
            raise ValueError(
                f"prompts and end_tokens: ids must be from 0 to {lm.vocab_size - 1} in {lm.name}"
            )
        if lm.context is not None and longest > lm.context:
            raise ValueError(
                f"prompts: the longest needs {longest} positions, {lm.name} has {lm.context}; "
                "shorten it"
            )


def _policy(model: Any, config: PPOConfig) -> Any:
    """A copy of the model to train: in float32, or with adapters on the model's own weights, which
    are not copied.

    In evaluation mode throughout: with dropout the ratio of new to old probability would not start
    at 1.
    """
    if config.lora is None:
        policy = copy.deepcopy(model).float().requires_grad_(True)
    else:
        try:
            from peft import LoraConfig
        except ImportError:
            raise ValueError(
                f"lora={config.lora}: peft is not installed: pip install 'endorm[train]'"
            ) from None
        # the same memory under other names: adapters freeze what they are put on
        shared = {
            id(p): torch.nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()
        }
        policy = copy.deepcopy(model, shared)
        adapters = LoraConfig(
            r=config.lora, lora_alpha=2 * config.lora, target_modules="all-linear"
        )
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter(
                "ignore"
            )  # of layers that store their weight transposed, which are found out
            torch.manual_seed(config.seed)
            policy.add_adapter(adapters)
        for parameter in policy.parameters():
            if parameter.requires_grad:  # in bfloat16 a small step would round to none
                parameter.data = parameter.data.float()
    for (
        part
    ) in policy.modules():  # some layers read these in training mode, which checkpointing needs
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return policy.eval()
