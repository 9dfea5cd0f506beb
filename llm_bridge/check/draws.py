"""Responses drawn from two models, and what each model says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from tqdm import tqdm

from llm_bridge.models.head import require_distribution
from llm_bridge.read.rollout import Actor, NoDistribution, Rollout, generate
from theory.storage.files import number

if TYPE_CHECKING:
    from theory.storage.runs import Lines

__all__ = ["DRAWS", "Draws", "draw"]


@dataclass(frozen=True, eq=False)
class Draws:
    """`N` responses of one policy to each of `P` prompts: arrays ``(P, N)``, nats.

    Attributes:
        log_expert: ``log π_E(τ|s₁)``.
        log_policy: ``log π̂(τ|s₁)``.
        kl_expert: ``Σ_h w(s_h) KL(π_E(·|s_h)‖π̂(·|s_h))``, `w` that of `π_E`.
        kl_policy: ``Σ_h w(s_h) KL(π̂(·|s_h)‖π_E(·|s_h))``, here and below `w` that of the policy
            named.
        entropy_expert: ``Σ_h w(s_h) H(π_E(·|s_h))``.
        entropy_policy: ``Σ_h w(s_h) H(π̂(·|s_h))``.
        score_policy: ``Σ_h w(s_h) Σ_a π̂(a|s_h) log π_E(a|s_h)``.
        largest_ratio: ``max |log π_E(a|s) − log π̂(a|s)|`` over the states passed and all tokens.
        token_ratios: for each prompt ``(M,)``, the same of each token that was drawn, in all its
            responses. A token that is the only one allowed in its state does not count.

    """

    log_expert: np.ndarray
    log_policy: np.ndarray
    kl_expert: np.ndarray
    kl_policy: np.ndarray
    entropy_expert: np.ndarray
    entropy_policy: np.ndarray
    score_policy: np.ndarray
    largest_ratio: np.ndarray
    token_ratios: tuple[np.ndarray, ...]


class _Pair(NamedTuple):
    """Both models, each with the temperature at which it is sampled."""

    expert: tuple[Actor, float]
    policy: tuple[Actor, float]


DRAWS = ("draws_expert.jsonl", "draws_policy.jsonl")
"""Files of what was read of the responses of each policy: a line for each block, as `_read` returns
it.
"""


def draw(
    pair: _Pair,
    own: int,
    prompts: Sequence[Sequence[int]],
    n: int,
    horizon: int,
    *,
    end_tokens: Sequence[int],
    generator: torch.Generator,
    memory: int,
    lines: Lines[list[np.ndarray]] | None = None,
) -> Draws:
    """Draw from the expert (`own` 0) or from the model (1), and read both in every state that is
    passed.

    Args:
        pair: both models.
        own: whose responses.
        prompts: `P` prompts, token ids.
        n: responses to each.
        horizon: tokens of a response at most.
        end_tokens: ids after which a response is over.
        generator: of the draws.
        memory: bytes of a pass.
        lines: blocks that are known already; the others are added.

    """
    actor, temperature = pair[own]
    rows = min(_rows(each, max(map(len, prompts)) + horizon, memory) for each, _ in pair)
    found = list(lines or ())
    known = len(found)
    with tqdm(total=len(prompts) * n, desc="responses", disable=None, leave=False) as bar:
        for k, (some, samples) in enumerate(_blocks(len(prompts), n, rows)):
            # drawn for a known block too: those of the next ones must not depend on where a run was
            # stopped
            uniforms = torch.rand(
                len(some) * samples, horizon, generator=generator, dtype=torch.double
            )
            bar.update(len(uniforms))
            if k < known:
                continue
            texts = [prompts[p] for p in some]
            try:
                written = generate(
                    actor,
                    texts,
                    horizon,
                    end_tokens,
                    uniforms=uniforms,
                    samples=samples,
                    temperature=temperature,
                )
            except NoDistribution as error:
                raise ValueError(str(error.detail)) from None
            found.append(_read(pair, written, memory))
            if lines is not None:
                lines.append(found[-1])
    *columns, lengths, ratios = (np.concatenate(column) for column in zip(*found, strict=True))
    names = [field.name for field in fields(Draws)][: len(columns)]
    of_prompt = np.split(ratios, np.cumsum(lengths.reshape(len(prompts), n).sum(axis=1))[:-1])
    return Draws(
        **{name: x.reshape(len(prompts), n) for name, x in zip(names, columns, strict=True)},
        token_ratios=tuple(of_prompt),
    )


def _rows(actor: Actor, length: int, memory: int) -> int:
    """Responses in one pass: activations, keys and values, and a law of each model."""
    config, number = (
        actor.model.config.get_text_config(),
        next(actor.model.parameters()).element_size(),
    )
    layers = getattr(config, "num_hidden_layers", 1)
    row = number * length * config.hidden_size * (16 + 2 * layers) + 6 * 8 * actor.head.vocab_size
    return max(1, memory // int(row))


def _blocks(n_prompts: int, n: int, rows: int) -> Iterator[tuple[range, int]]:
    """Prompts, and how many responses to each, of one pass after another; in the order of prompts
    and responses.
    """
    if n <= rows:
        for first in range(0, n_prompts, rows // n):
            yield range(first, min(first + rows // n, n_prompts)), n
        return
    for p in range(n_prompts):
        for first in range(0, n, rows):
            yield range(p, p + 1), min(rows, n - first)


def _read(pair: _Pair, written: Rollout, memory: int) -> list[np.ndarray]:
    """The columns of `Draws` of one block of responses, ``(B,)`` each.

    Then how many tokens of each response have a ratio, ``(B,)``, and these ratios, ``(M,)``.
    """
    # what was drawn more than once is read once
    texts = torch.where(written.mask, written.ids, -1).cpu().numpy()
    _, kept, again = np.unique(texts, axis=0, return_index=True, return_inverse=True)
    unique = Rollout(
        *(x[kept] for x in (written.ids, written.mask, written.log_probs, written.ended))
    )
    log_expert, log_policy, *states, largest, chosen = _states(pair, unique, memory)
    ratios = log_expert - log_policy
    prefix = np.zeros_like(ratios)  # of the tokens before each state
    np.cumsum(ratios[:, :-1], axis=1, out=prefix[:, 1:])
    expert, policy = 2 * expit(prefix), 2 * expit(-prefix)
    weights = expert, policy, expert, policy, policy
    # a state that a policy cannot reach adds nothing, were it infinite
    weighted = [
        np.multiply(w, x, out=np.zeros_like(x), where=w > 0)
        for w, x in zip(weights, states, strict=True)
    ]
    totals = [x.sum(axis=1) for x in (log_expert, log_policy, *weighted)]
    counts = chosen > 0
    columns = [x[again] for x in (*totals, largest.max(axis=1), counts.sum(axis=1))]
    return [*columns, np.abs(ratios)[again][counts[again]]]


def _block(row: list[list[Any]]) -> list[np.ndarray]:
    """Turn a line of `DRAWS` into what `_read` returns."""
    columns = [np.array([number(x) for x in column]) for column in row]
    if len(columns) != len(fields(Draws)) + 1 or len({len(column) for column in columns[:-1]}) > 1:
        raise ValueError("no block of responses")
    return columns


def _states(pair: _Pair, written: Rollout, memory: int) -> np.ndarray:
    """`_of_states` of every state that is passed: ``(9, B, T)``, 0 where there is none."""
    alive = written.response_mask
    T, V = alive.shape[1], pair.expert[0].head.vocab_size
    hidden = [written.hidden(actor)[alive] for actor, _ in pair]
    tokens = written.ids[:, -T:][alive]
    found, size = [], max(1, memory // (6 * 8 * V))
    for first in range(0, len(tokens), size):
        at = slice(first, first + size)
        logits = [
            actor.head.logits(states[at]) for (actor, _), states in zip(pair, hidden, strict=True)
        ]
        for (actor, _), values in zip(pair, logits, strict=True):
            require_distribution(actor.name, values, partial(_before, written, first))
        laws = [
            torch.log_softmax(values.double() / temperature, dim=-1)
            for (_, temperature), values in zip(pair, logits, strict=True)
        ]
        found.append(_of_states(laws[0], laws[1], tokens[at]))
    table = torch.zeros(9, *alive.shape, dtype=torch.double, device=tokens.device)
    table[:, alive] = torch.cat(found, dim=1)
    return np.asarray(table.cpu().numpy())


def _before(written: Rollout, first: int, k: int) -> list[int]:
    """The tokens before the `k`-th state after the first so many of all that are passed."""
    row, step = (int(x) for x in written.response_mask.nonzero()[first + k])
    columns = written.ids.shape[1] - written.log_probs.shape[1] + step
    tokens: list[int] = written.ids[row, :columns][written.mask[row, :columns]].tolist()
    return tokens


def _of_states(expert: torch.Tensor, policy: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """For laws ``(M, V)`` and tokens ``(M,)``, by state: ``(9, M)``.

    Both ``log π(a|s)``, what `Draws` sums, the largest ratio, and whether the expert has more than
    one token to choose.
    """

    def expected(law: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p = law.exp()
        return torch.where(p > 0, p * x, 0.0).sum(dim=-1)  # a token that is never written has −∞

    ratio = torch.where(expert == policy, 0.0, expert - policy)
    found = [law.gather(1, tokens[:, None])[:, 0] for law in (expert, policy)]
    found += [
        expected(expert, ratio),
        expected(policy, -ratio),
        expected(expert, -expert),
        expected(policy, -policy),
    ]
    found += [
        expected(policy, expert),
        ratio.abs().amax(dim=-1),
        ((expert > -torch.inf).sum(dim=-1) > 1).double(),
    ]
    return torch.stack(found)


def _log_probs(
    actor: Actor,
    temperature: float,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[np.ndarray],
) -> np.ndarray:
    """``log π(τ|s₁)`` of a response to each prompt: ``(P,)``, nats."""
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        whole = [*prompt, *response.tolist()]
        ids = torch.tensor([whole], device=next(actor.model.parameters()).device)
        states = actor.hidden(
            ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), len(response)
        )[0]
        logits = actor.head.logits(states)
        require_distribution(actor.name, logits, partial(_first, whole, len(prompt)))
        law = torch.log_softmax(logits.double() / temperature, dim=-1)
        found.append(float(law.gather(1, ids[0, -len(response) :, None]).sum()))
    return np.array(found)


def _first(tokens: list[int], n: int, more: int) -> list[int]:
    return tokens[: n + more]
