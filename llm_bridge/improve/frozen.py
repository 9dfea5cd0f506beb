"""Read the frozen models of a training run: the reward, and the anchor of the KL penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch

from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.calls import device_of, evaluation
from llm_bridge.models.head import Head
from llm_bridge.models.load import CausalLM
from llm_bridge.models.processes import Workers
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.rollout import Actor, ActorOutput, Diverged, Rollout, TokenRewards

__all__ = [
    "FrozenModels",
    "expectations",
    "passes",
    "precision",
    "read_all",
    "require_finite",
    "token_table",
]

ENTROPY = TokenRewards((), 1.0)
"""``−log π(a|s)``, whose expectation in a state is the entropy."""

_Read: TypeAlias = tuple[tuple[Head, torch.Tensor], torch.Tensor]
"""Head and hidden states of a model, and its log-probabilities of the sampled tokens."""


class FrozenModels:
    """The anchor `π̂`, and the model whose endogenous reward is maximised, which may be the same.

    They are read as the policy is, the same rows in the same precision: a policy that has not moved
    from `π̂` is at a KL of exactly 0.

    Args:
        models: `π̂`, and the teacher if there is one.
        config: hyperparameters of the run.
        end_tokens: ids that end a response.
        group: processes of the run.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.read.rollout import generate
        >>> lm, config = letter_lm(4), PPOConfig(max_tokens=2, end_tokens=())
        >>> rollout = generate(Actor(lm), [[0], [1]], 2, uniforms=torch.rand(2, 2).double())
        >>> reference = FrozenModels([lm], config, (), Workers()).score(rollout, beta=0.1)[1]
        >>> torch.allclose(reference, rollout.log_probs)  # the policy has not moved from π̂
        True

    """

    def __init__(
        self,
        models: Sequence[CausalLM],
        config: PPOConfig,
        end_tokens: Sequence[int],
        group: Workers,
    ) -> None:
        self.models = models
        self.config = config
        self.group = group
        self._actors = [Actor(lm) for lm in models]
        self._reward = EndogenousReward(models[-1], reading=config.reading, end_tokens=end_tokens)

    def score(
        self, rollout: Rollout, beta: float
    ) -> tuple[torch.Tensor, torch.Tensor, TokenRewards | None]:
        """Score the tokens of a rollout.

        Args:
            rollout: responses to score.
            beta: coefficient of the KL penalty.

        Returns:
            Rewards ``r̂(s,a)`` and ``log π̂(a|s)``, ``(N, T)``, 0 at padding; and with
            ``reward="expected"`` the rewards of every token, penalty included.

        Raises:
            Diverged: a reward or log-probability is not finite.

        """
        return self._scored(rollout, beta, self._read_all(rollout))

    def score_and_distances(
        self, rollout: Rollout, beta: float
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[TokenRewards, TokenRewards]]:
        """Score the tokens of a rollout as they were sampled, and say how a policy is compared.

        Returns:
            Rewards and ``log π̂(a|s)`` as `score`, and the rewards of every token whose expectation
            under a policy is its KL to `π̂` in a state, and its entropy, nats.

        """
        read = self._read_all(rollout)
        rewards, reference, _ = self._scored(rollout, beta, read)
        (head, hidden), _ = read[0]
        return rewards, reference, (TokenRewards(((head, hidden, -1.0),), -1.0), ENTROPY)

    def _read_all(self, rollout: Rollout) -> list[_Read]:
        return [self._read(actor, rollout) for actor in self._actors]

    def _scored(
        self, rollout: Rollout, beta: float, read: Sequence[_Read]
    ) -> tuple[torch.Tensor, torch.Tensor, TokenRewards | None]:
        c = self.config
        reference = read[0][1]
        log_probs = read[-1][1]
        if c.reward != "expected":
            if c.gauge == "logprob":
                return c.alpha * log_probs, reference, None
            scored = self._reward.score_ids(*rollout.texts(), progress=False)
            rewards = [score.rewards for score in scored]
            table = token_table(rollout, "rewards", rewards, self.group)
            return table * (c.alpha > 0), reference, None
        # without a teacher one distribution instead of the same one twice
        weights = (c.alpha + beta,) if len(read) == 1 else (beta, c.alpha)
        models = tuple(
            (head, hidden, w) for ((head, hidden), _), w in zip(read, weights, strict=True)
        )
        return c.alpha * log_probs, reference, TokenRewards(models, beta + c.entropy)

    def _read(self, actor: Actor, rollout: Rollout) -> _Read:
        """Return head and hidden states of a model, and ``log π(a|s)`` of the sampled tokens."""
        some = passes(torch.arange(len(rollout.ids)), self.config, self.group)
        mask = rollout.response_mask
        tokens = rollout.ids[:, -mask.shape[1] :]
        with evaluation(actor.model), precision(actor, self.config):
            hidden = torch.cat([rollout.hidden(actor, rows) for rows in some])
            found = torch.cat([actor.head.log_probs(hidden[rows], tokens[rows]) for rows in some])
        log_probs = require_finite("log-probabilities", found.masked_fill(~mask, 0), self.group)
        return (actor.head, hidden), log_probs


def precision(model: torch.nn.Module, config: PPOConfig) -> Any:
    """Return the context in which the models of a run are read: products in ``config.dtype``.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> with precision(Actor(letter_lm(4)), PPOConfig(dtype="bfloat16")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16

    """
    low = config.dtype == "bfloat16"
    return torch.autocast(device_of(model).type, torch.bfloat16) if low else nullcontext()


def passes(rows: torch.Tensor, config: PPOConfig, group: Workers) -> Sequence[torch.Tensor]:
    """Split rows into those that go through a model at once.

    Example:
        >>> config = PPOConfig(minibatch=2)
        >>> [rows.tolist() for rows in passes(torch.arange(4), config, Workers())]
        [[0, 1], [2, 3]]

    """
    size = config.microbatch or max(1, config.minibatch // group.size)
    return rows.tensor_split(math.ceil(len(rows) / size))


@torch.no_grad()
def read_all(
    actor: Actor,
    rollout: Rollout,
    token_rewards: TokenRewards | None,
    config: PPOConfig,
    group: Workers,
) -> ActorOutput:
    """Read all responses of a rollout with a policy, as many at once as an update reads.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.read.rollout import generate
        >>> actor = Actor(letter_lm(4))
        >>> rollout = generate(actor, [[0], [1]], 2, uniforms=torch.rand(2, 2).double())
        >>> found = read_all(actor, rollout, ENTROPY, PPOConfig(), Workers())
        >>> bool((found.expected > 0).all())  # the entropy in each state
        True

    """
    with precision(actor, config):
        some = passes(torch.arange(len(rollout.ids)), config, group)
        read = [rollout.read(actor, rows, token_rewards) for rows in some]
    return ActorOutput(*(torch.cat(parts) for parts in zip(*read, strict=True)))


@torch.no_grad()
def expectations(
    actor: Actor,
    rollout: Rollout,
    rewards: Sequence[TokenRewards],
    config: PPOConfig,
    group: Workers,
) -> list[torch.Tensor]:
    """Return the expectation under a policy of each of several rewards in each state, ``(N, T)``
    each, 0 at padding; all from one reading.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.read.rollout import generate
        >>> actor = Actor(letter_lm(4))
        >>> rollout = generate(actor, [[0], [1]], 2, uniforms=torch.rand(2, 2).double())
        >>> (entropy,) = expectations(actor, rollout, [ENTROPY], PPOConfig(), Workers())
        >>> bool((entropy > 0).all())
        True

    """
    mask = rollout.response_mask
    tokens = rollout.ids[:, -mask.shape[1] :]
    parts = []
    with precision(actor, config):
        for rows in passes(torch.arange(len(rollout.ids)), config, group):
            hidden = rollout.hidden(actor, rows)
            parts.append(
                [actor.head.expectations(hidden, tokens[rows], *r.rows(rows))[1] for r in rewards]
            )
    return [torch.cat(found).masked_fill(~mask, 0) for found in zip(*parts, strict=True)]


def token_table(
    rollout: Rollout, name: str, rows: Sequence[np.ndarray], group: Workers
) -> torch.Tensor:
    """Arrange one number for each token of each response as ``(N, T)``, 0 at padding.

    Raises:
        ValueError: there is not one number for each token.
        Diverged: a number is not finite.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> rollout = Rollout(mask.long(), mask, torch.zeros(1, 2), torch.tensor([False]))
        >>> token_table(rollout, "rewards", [np.array([0.5])], Workers())
        tensor([[0.5000, 0.0000]])

    """
    lengths = rollout.response_mask.sum(dim=1).tolist()
    if [len(row) for row in rows] != lengths:
        raise ValueError(f"{name}: must be one for each token of each response; check the reward")
    table = torch.zeros_like(rollout.log_probs)
    flat = np.concatenate([np.asarray(row, dtype=np.float32) for row in rows])
    table[rollout.response_mask] = torch.from_numpy(flat).to(table)
    return require_finite(name, table, group)


def require_finite(name: str, table: torch.Tensor, group: Workers) -> torch.Tensor:
    """Return a table that is finite in every process, or raise `Diverged` in all of them.

    Example:
        >>> require_finite("rewards", torch.ones(2), Workers())
        tensor([1., 1.])

    """
    bad = table[~table.isfinite()]
    if group.any(len(bad) > 0):
        number = float(bad[0]) if len(bad) else "what is not finite"
        raise Diverged(f"{name} hold {number}; check the reward")
    return table
