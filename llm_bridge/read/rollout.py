"""A language model as an actor: sampling responses, and reading them with gradients.

A batch has prompts padded on the left and responses padded on the right, so that responses start in
one column:

    column      0 …            P−1      P      …  P+T−1
    token       (pad) prompt            a₁     …  a_T (pad)
    state       –              s₁       s₂     …  –              log π(a_h|s_h) and V(s_h) are read
    in column P+h−2 position    0 0 1 …                                          counts the tokens
    that are not padding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from llm_bridge.models.head import Head, device_of, find_head, require_distribution
from llm_bridge.models.load import CausalLM
from llm_bridge.models.processes import Workers

__all__ = ["Actor", "Diverged", "Ids", "Known", "NoDistribution", "Rollout", "generate"]

Ids: TypeAlias = Sequence[int] | np.ndarray


class Diverged(RuntimeError):
    """Training was stopped, for the reason given. Weights are those before the update at fault."""


class NoDistribution(Diverged):
    """A state has logits of no probability distribution.

    Attributes:
        reading: what to say where nothing is trained: the model, the tokens it had read, and its
            logits.

    """

    def __init__(self, reading: str) -> None:
        super().__init__("the policy's logits are NaN; use a smaller lr")
        self.reading = reading


class Known(NamedTuple):
    """What is known of *every* token at a state: ``k(s,a) = Σ_i w_i log μ_i(a|s) − own·log
    π(a|s)``, reward units.

    Attributes:
        models: for each `μ_i` its head, its last hidden states ``(n, T, width)``, and `w_i`.
        own: weight of ``log π``.

    """

    models: tuple[tuple[Head, torch.Tensor, float], ...]
    own: float

    def rows(self, rows: torch.Tensor | slice) -> Known:
        """Of these rows."""
        return Known(
            tuple((head, hidden[rows], weight) for head, hidden, weight in self.models), self.own
        )

    def scaled(self, factor: float) -> Known:
        """In another unit."""
        models = tuple((head, hidden, factor * weight) for head, hidden, weight in self.models)
        return Known(models, factor * self.own)


class Reading(NamedTuple):
    """Arrays ``(n, T)``, 0 where there is no token.

    Attributes:
        log_probs: ``log π(a_h|s_h)``, nats.
        values: of the value head, reward units.
        expected: ``Σ_a π(a|s_h) k(s_h,a)``, reward units; zeros where nothing is `Known`.

    """

    log_probs: torch.Tensor
    values: torch.Tensor
    expected: torch.Tensor


class Actor(torch.nn.Module):
    """The policy and, on its last hidden state, a linear value head that starts at zero.

    The output head is applied where it is read only, in float32, a block of positions at a time
    (`Head.log_probs`).

    Raises:
        ValueError: no hidden states and head reproduce the model's logits, or these are no
            distribution's.

    """

    def __init__(
        self, lm: CausalLM, *, value_to_trunk: bool = False, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        with torch.no_grad():
            decoder, head, _ = find_head(lm)
        if head is None:
            raise ValueError(
                f"{lm.name}: no hidden states and head give its logits; it can be scored, not "
                "trained"
            )
        self.name, self.model, self.head, self.value_to_trunk = (
            lm.name,
            lm.model,
            head,
            value_to_trunk,
        )
        self._decoder = [decoder]  # in a list, not to be registered twice
        self.layers = [
            part for part in decoder.modules() if isinstance(part, GradientCheckpointingLayer)
        ]
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:  # one name from transformers 5 on, another before
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            next(getattr(lm.model, name) for name in names if hasattr(lm.model, name))()
        width = lm.model.config.get_text_config().hidden_size
        self.value = torch.nn.Linear(width, 1, device=device_of(lm.model))
        for parameter in self.value.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        tokens: torch.Tensor | None = None,
        cache: Any = None,
        known: Known | None = None,
    ) -> Any:
        """What the model says of `tokens`, each after the column of `ids` that it belongs to, or of
        the next token.

        Args:
            ids: ``(n, k)`` the last `k` columns; with a `cache`, those that are not yet in it.
            mask: ``(n, K)`` whether there is a token, in all `K ≥ k` columns.
            tokens: ``(n, T)`` what followed each of the last `T` columns; `None` for the laws after
                the last one.
            cache: of the columns before `ids`.
            known: of every token in the states of `tokens`.

        Returns:
            A `Reading` of `tokens`. Without them: ``log π(·)``, ``(n, V)``, and the cache of all
            `K` columns.

        """
        for layer in (
            self.layers
        ):  # transformers checkpoints a layer in training mode; what is in it stays out of that
            layer.training = (
                self.gradient_checkpointing and tokens is not None and torch.is_grad_enabled()
            )
        if tokens is None:
            hidden, cache = self._hidden(ids, mask, cache, use_cache=True)
            return torch.log_softmax(self.head.logits(hidden[:, -1]), dim=-1), cache
        hidden = self._hidden(ids, mask)[0][:, -tokens.shape[1] :]
        with torch.autocast(hidden.device.type, enabled=False):
            values = self.value((hidden if self.value_to_trunk else hidden.detach()).float()).sum(
                dim=-1
            )
        if known is None:
            log_probs = self.head.log_probs(hidden, tokens)
            return Reading(log_probs, values, torch.zeros_like(log_probs))
        log_probs, expected = self.head.expectations(hidden, tokens, known.models, known.own)
        return Reading(log_probs, values, expected)

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, T: int) -> torch.Tensor:
        """Last hidden states of the last `T` columns, ``(n, T, width)``."""
        states: torch.Tensor = self._hidden(ids, mask)[0][:, -T:]
        return states

    def _hidden(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any = None, use_cache: bool = False
    ) -> Any:
        output = self._decoder[0](
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=use_cache,
        )
        return output[0], getattr(output, "past_key_values", None)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions are given to the model: left to itself, it may count the padding."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Rollout:
    """`N` prompts with a response to each, in the layout of the module's diagram.

    Attributes:
        ids: ``(N, P + T)`` token ids, 0 where there is none.
        mask: ``(N, P + T)`` whether there is one.
        log_probs: ``(N, T)`` ``log π(a_h|s_h)`` as it was when the token was drawn, nats; 0 where
            there is none.
        ended: ``(N,)`` whether the response has its end token, or was cut.

    """

    ids: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor

    @property
    def written(self) -> torch.Tensor:
        """``(N, T)`` whether there is a token of the response."""
        return self.mask[:, -self.log_probs.shape[1] :]

    def texts(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token ids of the prompts and of the responses, without padding."""
        ids, mask, P = (
            self.ids.cpu().numpy(),
            self.mask.cpu().numpy(),
            self.ids.shape[1] - self.log_probs.shape[1],
        )
        pairs = list(zip(ids, mask, strict=True))
        return [i[:P][m[:P]] for i, m in pairs], [i[P:][m[P:]] for i, m in pairs]

    def read(
        self,
        actor: torch.nn.Module,
        rows: torch.Tensor | slice = slice(None),
        known: Known | None = None,
    ) -> Reading:
        """These rows, as `actor` is now; the hidden states of `known` are those of all rows."""
        ids, mask, written = self.ids[rows], self.mask[rows], self.written[rows]
        known = None if known is None else known.rows(rows)
        # the last token is not fed: it predicts nothing, and needs a position
        reading = actor(ids[:, :-1], mask[:, :-1], ids[:, -written.shape[1] :], known=known)
        return Reading(*(table.masked_fill(~written, 0) for table in reading))

    def hidden(self, actor: Actor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """``(n, T, width)`` last hidden states in ``s₁ … s_T`` of these rows."""
        return actor.hidden(self.ids[rows, :-1], self.mask[rows, :-1], self.log_probs.shape[1])


@torch.no_grad()
def generate(
    actor: torch.nn.Module,
    prompts: Sequence[Ids],
    max_tokens: int,
    end_tokens: Sequence[int] = (),
    *,
    uniforms: torch.Tensor | None,
    samples: int = 1,
    temperature: float = 1.0,
    group: Workers = Workers(),  # noqa: B008
) -> Rollout:
    """Draw responses to prompts (token ids, of any length from 1 on), all at once, each token fed
    once.

    A response ends after one of `end_tokens`, or is cut after `max_tokens`. A token is where the
    cumulative probability passes a uniform number, so equal numbers give equal responses on any
    number of processes.

    Args:
        actor: an `Actor`.
        prompts: `N / samples` of them.
        max_tokens: `T`.
        end_tokens: none: each response has `T` tokens.
        uniforms: ``(N, T)`` independent in [0, 1), in double precision; `None` for the most
            probable token each time.
        samples: responses to each prompt, in neighbouring rows.
        temperature: at which tokens are drawn; `Rollout.log_probs` are then those of that law.
        group: processes among which the actor is sharded: they go on until all are done.

    Raises:
        NoDistribution: a logit is NaN or +∞, or all are −∞.

    """
    device, width = device_of(actor), max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :], mask[i, width - len(prompt) :] = (
            torch.as_tensor(prompt),
            True,
        )
    ids, mask = ids.to(device), mask.to(device)
    law, cache = actor(ids, mask)
    if samples > 1:  # a prompt is read once for all of its samples
        ids, mask, law = (x.repeat_interleave(samples, dim=0) for x in (ids, mask, law))
        cache.batch_repeat_interleave(samples)
    ends = torch.tensor(list(end_tokens), dtype=torch.long, device=device)
    alive = torch.ones(len(ids), dtype=torch.bool, device=device)
    log_probs: list[torch.Tensor] = []
    while True:
        _require_distribution(actor, law, ids, mask, alive)
        law = law if temperature == 1 else torch.log_softmax(law / temperature, dim=-1)
        token = _draw(
            law, None if uniforms is None else uniforms[:, len(log_probs), None].to(device)
        )
        log_probs.append(law.gather(1, token)[:, 0].masked_fill(~alive, 0))
        ids, mask = (
            torch.cat([ids, token * alive[:, None]], dim=1),
            torch.cat([mask, alive[:, None]], dim=1),
        )
        alive = alive & ~torch.isin(token[:, 0], ends)
        if len(log_probs) == max_tokens or not group.any(bool(alive.any())):
            break
        law, cache = actor(ids[:, -1:], mask, cache=cache)
    return Rollout(ids, mask, torch.stack(log_probs, dim=1), ~alive)


def _require_distribution(
    actor: torch.nn.Module,
    law: torch.Tensor,
    ids: torch.Tensor,
    mask: torch.Tensor,
    alive: torch.Tensor,
) -> None:
    """Raise `NoDistribution` where a response that goes on has no distribution of its next token."""
    name = getattr(actor, "name", "the policy")
    try:
        require_distribution(name, law[alive], lambda row: ids[alive][row][mask[alive][row]].tolist())
    except ValueError as error:
        raise NoDistribution(str(error)) from None


def _draw(law: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
    """The token at which the cumulative probability passes each number: ``(N, 1)``."""
    if uniforms is None:
        return law.argmax(dim=-1, keepdim=True)
    cumulative = law.double().exp().cumsum(dim=-1)
    token = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return token.clamp(max=law.shape[-1] - 1)
