"""Sample responses of a language model, and read them with gradients.

A batch is kept with prompts padded on the left and responses padded on the right, so that all
responses start in one column. Each token belongs to the column before it (diagram in
`llm_bridge.read.prefixes`):

    column       0 …           P−1    P     …   P+T−2   P+T−1
    token        (pad) prompt         a₁    …   a_{T−1} a_T (pad)
    state        –             s₁     s₂    …   s_T     –          log π(a_h|s_h) and V(s_h) are
                                                                   in column P+h−2

The model itself reads rows that begin with their first token (`llm_bridge.models.gate.aligned`): of
a causal model no distribution depends on the padding after it. Only decoding from a cache pads
prompts on the left, where the model was found to allow it (`llm_bridge.models.gate.Decoding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_layers import GradientCheckpointingLayer

from llm_bridge.models.calls import (
    device_of,
    evaluation,
    evaluation_mode,
    require_distribution,
)
from llm_bridge.models.gate import Decoding, aligned, context_of
from llm_bridge.models.head import Head
from llm_bridge.models.load import CausalLM
from llm_bridge.models.processes import Workers
from llm_bridge.read.prefixes import Ids

__all__ = [
    "Actor",
    "ActorOutput",
    "Diverged",
    "Ids",
    "NoDistribution",
    "Rollout",
    "TokenRewards",
    "generate",
]


class Diverged(RuntimeError):
    """Training was stopped, for the reason given; weights are those before the failed update."""


class NoDistribution(Diverged):
    """The logits of a state have no softmax.

    Attributes:
        detail: message for callers that train nothing: the model, the tokens it had read, and what
            is wrong with its logits.

    """

    def __init__(self, detail: str) -> None:
        super().__init__("the policy's logits are NaN; use a smaller lr")
        self.detail = detail


class TokenRewards(NamedTuple):
    """A reward known for *every* token of a state, from the distributions of frozen models.

    ``k(s,a) = Σ_i w_i log μ_i(a|s) − own·log π(a|s)``, reward units, with `π` the policy trained.

    Attributes:
        models: for each `μ_i` its head, its last hidden states ``(n, T, width)``, and `w_i`.
        own: weight of ``−log π``, an entropy bonus.

    """

    models: tuple[tuple[Head, torch.Tensor, float], ...]
    own: float

    def rows(self, rows: torch.Tensor | slice) -> TokenRewards:
        """Return the rewards of some responses."""
        models = tuple((head, hidden[rows], weight) for head, hidden, weight in self.models)
        return TokenRewards(models, self.own)

    def scaled(self, factor: float) -> TokenRewards:
        """Return these rewards times a factor."""
        models = tuple((head, hidden, factor * weight) for head, hidden, weight in self.models)
        return TokenRewards(models, factor * self.own)


class ActorOutput(NamedTuple):
    """Output of an `Actor` for responses: arrays ``(n, T)``, 0 where there is no token.

    Attributes:
        log_probs: ``log π(a_h|s_h)``, nats.
        values: output of the value head, reward units.
        expected: ``Σ_a π(a|s_h) k(s_h,a)``, reward units, for given `TokenRewards`; else zeros.

    """

    log_probs: torch.Tensor
    values: torch.Tensor
    expected: torch.Tensor


class Actor(torch.nn.Module):
    """A policy with a linear value head on its last hidden state, whose weights are zero at first.

    The output head is applied in float32, a block of positions at a time (`Head.log_probs`).

    Args:
        lm: language model; its weights are used and not copied.
        value_to_trunk: let the gradient of the value head change the language model too.
        gradient_checkpointing: compute each layer's activations again in the backward pass.

    Raises:
        ValueError: no hidden states and head reproduce the model's logits, or these have no
            softmax.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> actor = Actor(letter_lm(4))
        >>> ids = torch.tensor([[0, 1, 2]])
        >>> output = actor(ids[:, :-1], torch.ones(1, 2, dtype=torch.bool), ids[:, 1:])
        >>> output.log_probs.shape, output.values.tolist()
        (torch.Size([1, 2]), [[0.0, 0.0]])

    """

    def __init__(
        self, lm: CausalLM, *, value_to_trunk: bool = False, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        if lm.reader.head is None:
            raise ValueError(
                f"{lm.name}: no hidden states and head give its logits; it can be scored, not "
                "trained"
            )
        self.name = lm.name
        self.model = lm.model
        self.reader = lm.reader
        self.head = lm.reader.head
        self.value_to_trunk = value_to_trunk
        self.layers = [
            part
            for part in self.reader.decoder.modules()
            if isinstance(part, GradientCheckpointingLayer)
        ]
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:  # transformers 5 renamed the method
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            next(getattr(lm.model, name) for name in names if hasattr(lm.model, name))()
        with evaluation(lm.model):
            width = self.reader.states(torch.zeros(1, 1, dtype=torch.long)).shape[-1]
        self.value = torch.nn.Linear(width, 1, device=device_of(lm.model))
        for parameter in self.value.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        tokens: torch.Tensor | None = None,
        cache: Any = None,
        token_rewards: TokenRewards | None = None,
        how: str = "whole",
    ) -> Any:
        """Read given tokens, or the distribution of the next token.

        Args:
            ids: ``(n, K)`` token ids.
            mask: ``(n, K)`` whether there is a token.
            tokens: ``(n, T)`` token after each of the last `T` columns; `None` for the
                distribution after the last column.
            cache: cache of all columns but the last, for the next token.
            token_rewards: rewards in the states of `tokens`.
            how: how the next token is read, see `llm_bridge.models.gate.Decoding`.

        Returns:
            An `ActorOutput` of `tokens`; without them ``log π(·)`` ``(n, V)``, nats, and the cache
            of all `K` columns.

        """
        checkpointed = (
            self.gradient_checkpointing and tokens is not None and torch.is_grad_enabled()
        )
        for layer in self.layers:
            # transformers checkpoints a layer if this is set; its parts stay in evaluation mode
            layer.training = checkpointed
        if tokens is None:
            last, cache = self.reader.next(ids, mask, cache, how)
            return torch.log_softmax(self.head.logits(last), dim=-1), cache
        hidden = self.hidden(ids, mask, tokens.shape[1])
        with torch.autocast(hidden.device.type, enabled=False):
            features = hidden if self.value_to_trunk else hidden.detach()
            values = self.value(features.float()).sum(dim=-1)
        if token_rewards is None:
            log_probs = self.head.log_probs(hidden, tokens)
            return ActorOutput(log_probs, values, torch.zeros_like(log_probs))
        log_probs, expected = self.head.expectations(hidden, tokens, *token_rewards)
        return ActorOutput(log_probs, values, expected)

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, T: int) -> torch.Tensor:
        """Return the last hidden states of the last `T` columns: ``(n, T, width)``.

        They are undefined in columns without a token.
        """
        self.reader.prepare(ids.shape[1])
        rows, first = aligned(ids, mask)
        states = self.reader.states(rows)
        columns = torch.arange(ids.shape[1] - T, ids.shape[1], device=ids.device) - first[:, None]
        columns = columns.clamp(0, rows.shape[1] - 1)
        return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))


@dataclass(frozen=True, eq=False)
class Rollout:
    """`N` prompts with a response each, laid out as in the module's diagram.

    Attributes:
        ids: ``(N, P + T)`` token ids, 0 at padding.
        mask: ``(N, P + T)`` whether there is a token.
        log_probs: ``(N, T)`` ``log π(a_h|s_h)`` of the policy that sampled, nats; 0 at padding.
        ended: ``(N,)`` whether the response has its end token; else it was cut.

    """

    ids: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor

    @property
    def response_mask(self) -> torch.Tensor:
        """``(N, T)`` whether there is a token of the response."""
        return self.mask[:, -self.log_probs.shape[1] :]

    def texts(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the token ids of the prompts and of the responses, without padding."""
        ids = self.ids.cpu().numpy()
        mask = self.mask.cpu().numpy()
        P = ids.shape[1] - self.log_probs.shape[1]
        pairs = list(zip(ids, mask, strict=True))
        return [i[:P][m[:P]] for i, m in pairs], [i[P:][m[P:]] for i, m in pairs]

    def read(
        self,
        actor: torch.nn.Module,
        rows: torch.Tensor | slice = slice(None),
        token_rewards: TokenRewards | None = None,
    ) -> ActorOutput:
        """Read some responses with `actor` as it is now; `token_rewards` are those of all rows."""
        ids = self.ids[rows]
        mask = self.mask[rows]
        responses = self.response_mask[rows]
        if token_rewards is not None:
            token_rewards = token_rewards.rows(rows)
        # the last token is not fed: its output predicts nothing, and it would need a position
        output = actor(
            ids[:, :-1], mask[:, :-1], ids[:, -responses.shape[1] :], token_rewards=token_rewards
        )
        return ActorOutput(*(table.masked_fill(~responses, 0) for table in output))

    def hidden(self, actor: Actor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Return the last hidden states in ``s₁ … s_T`` of some rows: ``(n, T, width)``."""
        return actor.hidden(self.ids[rows, :-1], self.mask[rows, :-1], self.log_probs.shape[1])


@torch.no_grad()
def generate(
    actor: Any,
    prompts: Sequence[Ids],
    max_tokens: int,
    end_tokens: Sequence[int] = (),
    *,
    uniforms: torch.Tensor | None,
    samples: int = 1,
    temperature: float = 1.0,
    group: Workers = Workers(),  # noqa: B008
) -> Rollout:
    """Sample responses to prompts, all at once, feeding each token once.

    A response ends after one of `end_tokens`, or is cut after `max_tokens`. A token is where the
    cumulative probability passes a uniform number, so equal numbers give equal responses on any
    number of processes.

    Args:
        actor: an `Actor`.
        prompts: ``N / samples`` prompts, token ids, of any lengths from 1 on.
        max_tokens: most tokens `T` of a response.
        end_tokens: ids that end a response; if none, each response has `T` tokens.
        uniforms: ``(N, T)`` independent numbers in [0, 1), in double precision; `None` for the most
            probable token each time.
        samples: responses to each prompt, in neighbouring rows.
        temperature: temperature of sampling; `Rollout.log_probs` are of that distribution.
        group: processes over which the actor is sharded: they continue until all are done.

    Raises:
        NoDistribution: a logit is NaN or +∞, or all are −∞.
        ValueError: the model has too few positions.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> actor = Actor(letter_lm(4))
        >>> rollout = generate(actor, [[0], [1, 2]], 3, uniforms=torch.rand(2, 3).double())
        >>> [len(ids) for ids in rollout.texts()[1]], rollout.log_probs.shape
        ([3, 3], torch.Size([2, 3]))

    """
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.max()) + max_tokens
    context = context_of(actor.model)
    if context is not None and longest - 1 > context:
        raise ValueError(
            f"prompts: the longest and max_tokens={max_tokens} need {longest - 1} positions, "
            f"{actor.name} has {context}; shorten them"
        )
    decoding = actor.reader.decoding(longest)
    if decoding.how == "equal" and group.size > 1:  # processes of one actor take the same steps
        decoding = Decoding("whole", repeats=False)
    if decoding.how == "equal" and len(set(lengths)) > 1:
        numbers = None if uniforms is None else uniforms.view(len(lengths), samples, -1)
        parts = []
        order = np.argsort(lengths, kind="stable")
        for some in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            part = generate(
                actor,
                [prompts[i] for i in some],
                max_tokens,
                end_tokens,
                uniforms=None if numbers is None else numbers[some].flatten(0, 1),
                samples=samples,
                temperature=temperature,
            )
            parts.append(part)
        return _joined(parts, (order[:, None] * samples + np.arange(samples)).ravel())

    with evaluation_mode(actor.model):
        device = device_of(actor)
        texts = [torch.as_tensor(prompt, dtype=torch.long) for prompt in prompts]
        ids, mask = (
            pad_sequence(rows, batch_first=True, padding_side="left").to(device)
            for rows in (texts, [torch.ones_like(text, dtype=torch.bool) for text in texts])
        )
        if not decoding.repeats:
            ids, mask = (x.repeat_interleave(samples, dim=0) for x in (ids, mask))
        log_policy, cache = actor(ids, mask, how=decoding.how)
        if decoding.repeats and samples > 1:  # a prompt is read once for all of its samples
            ids, mask, log_policy = (
                x.repeat_interleave(samples, dim=0) for x in (ids, mask, log_policy)
            )
            cache[1].batch_repeat_interleave(samples)
        ends = torch.tensor(list(end_tokens), dtype=torch.long, device=device)
        alive = torch.ones(len(ids), dtype=torch.bool, device=device)
        read = torch.arange(len(ids), device=device)  # rows that are still read
        log_probs: list[torch.Tensor] = []
        while True:
            going = alive[read]
            _require_distribution(actor, log_policy, ids[read], mask[read], going)
            if temperature != 1:
                log_policy = torch.log_softmax(log_policy / temperature, dim=-1)
            column = None
            if uniforms is not None:
                column = uniforms[:, len(log_probs), None].to(device)[read]
            sampled = _sample(log_policy, column)
            found = log_policy.gather(1, sampled)[:, 0].masked_fill(~going, 0)
            log_probs.append(found.new_zeros(len(ids)).index_put((read,), found))
            token = ids.new_zeros(len(ids)).index_put((read,), sampled[:, 0] * going)
            ids = torch.cat([ids, token[:, None]], dim=1)
            mask = torch.cat([mask, alive[:, None]], dim=1)
            alive = alive & ~torch.isin(token, ends)
            if len(log_probs) == max_tokens or not group.any(bool(alive.any())):
                break
            going = alive[read]
            # copying the cache costs something, so rows that are over are left in a few at a time
            if decoding.repeats and 0 < 4 * int(going.sum()) <= 3 * len(read):
                cache[1].batch_select_indices(going.nonzero()[:, 0])
                read = read[going]
            log_policy, cache = actor(ids[read], mask[read], cache=cache, how=decoding.how)
        return Rollout(ids, mask, torch.stack(log_probs, dim=1), ~alive)


def _joined(parts: Sequence[Rollout], places: np.ndarray) -> Rollout:
    """Join rollouts of prompts of different lengths; ``places[i]`` is the place of row `i`."""
    T = max(part.log_probs.shape[1] for part in parts)
    P = max(part.ids.shape[1] - part.log_probs.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    rows = []
    for part in parts:
        t = part.log_probs.shape[1]
        margins = P - (part.ids.shape[1] - t), T - t
        log_probs = pad(part.log_probs, (0, T - t))
        rows.append((pad(part.ids, margins), pad(part.mask, margins), log_probs, part.ended))
    order = torch.from_numpy(np.argsort(places))
    return Rollout(*(torch.cat(column)[order] for column in zip(*rows, strict=True)))


def _require_distribution(
    actor: torch.nn.Module,
    log_policy: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """Raise `NoDistribution` unless every response that continues has a next-token distribution."""
    name = getattr(actor, "name", "the policy")
    try:
        require_distribution(
            name, log_policy[alive], lambda row: ids[alive][row][mask[alive][row]].tolist()
        )
    except ValueError as error:
        raise NoDistribution(str(error)) from None


def _sample(log_policy: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
    """Return the token ``(N, 1)`` at which the cumulative probability passes each number."""
    if uniforms is None:
        return log_policy.argmax(dim=-1, keepdim=True)
    cumulative = log_policy.double().exp().cumsum(dim=-1)
    token = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return token.clamp(max=log_policy.shape[-1] - 1)
