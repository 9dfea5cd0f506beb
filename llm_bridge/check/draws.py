"""Sample responses of two models, and read both models in every state that is visited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from tqdm import tqdm

from llm_bridge.models.calls import require_distribution
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.rollout import Actor, NoDistribution, Rollout, generate
from theory.arrays.namespace import require_positive
from theory.storage.files import number

if TYPE_CHECKING:
    from theory.storage.runs import Lines

__all__ = [
    "DRAWS",
    "DrawSetting",
    "Draws",
    "ModelPair",
    "TemperedActor",
    "draw",
    "parse_block",
    "response_log_probs",
]

DRAWS = ("draws_expert.jsonl", "draws_policy.jsonl")
"""Files of what was read of each policy's responses: a line for each block, as `_read` returns it.
"""


@dataclass(frozen=True)
class DrawSetting:
    """How responses of two models are sampled.

    Attributes:
        horizon: most tokens `H` of a response.
        n: responses `N` of each policy to each prompt, at least 4.
        temperature: temperature at which `π̂` is sampled.
        expert_temperature: temperature at which `π_E` is sampled.
        end_tokens: ids after which a response is over.
        width: width of the beam that searches for the most probable response of `π̂`.
        seed: seed of the samples.
        memory: bytes that one pass may take, estimated.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> DrawSetting(horizon=20, n=2)
        Traceback (most recent call last):
        ValueError: n=2: must be at least 4, two pairs of responses

    """

    horizon: int
    n: int
    temperature: float = 1.0
    expert_temperature: float = 1.0
    end_tokens: Sequence[int] = ()
    width: int = 64
    seed: int = 0
    memory: int = 2**30

    def __post_init__(self) -> None:
        for name in ("horizon", "n", "width", "memory"):
            require_integer(name, getattr(self, name))
        if self.n < 4:
            raise ValueError(f"n={self.n}: must be at least 4, two pairs of responses")
        for name in ("temperature", "expert_temperature"):
            require_positive(name, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Draws:
    """Statistics of `N` responses of one policy to each of `P` prompts: arrays ``(P, N)``, nats.

    The weights ``w`` are those of `llm_bridge.check.sampled`.

    Attributes:
        log_expert: ``log π_E(τ|s₁)``.
        log_policy: ``log π̂(τ|s₁)``.
        kl_expert: ``Σ_h w(s_h) KL(π_E(·|s_h)‖π̂(·|s_h))`` with the weights of `π_E`.
        kl_policy: ``Σ_h w(s_h) KL(π̂(·|s_h)‖π_E(·|s_h))`` with the weights of `π̂`.
        entropy_expert: ``Σ_h w(s_h) H(π_E(·|s_h))`` with the weights of `π_E`.
        entropy_policy: ``Σ_h w(s_h) H(π̂(·|s_h))`` with the weights of `π̂`.
        score_policy: ``Σ_h w(s_h) Σ_a π̂(a|s_h) log π_E(a|s_h)`` with the weights of `π̂`.
        largest_ratio: ``max |log π_E(a|s) − log π̂(a|s)|`` over all tokens of the states visited.
        token_ratios: for each prompt ``(M,)``, this ratio of each sampled token in all responses;
            without tokens that are the only one allowed in their state.

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


NAMES = tuple(field.name for field in fields(Draws))[:-1]
"""Names of the tables ``(P, N)`` of `Draws`."""


class TemperedActor(NamedTuple):
    """A model and the temperature at which it is sampled."""

    actor: Actor
    temperature: float

    def log_probs(
        self, hidden: torch.Tensor, tokens_before: Callable[[int], Sequence[int]]
    ) -> torch.Tensor:
        """Return ``log π(·|s)`` ``(n, V)`` in double precision for hidden states ``(n, width)``.

        `tokens_before` names a state in an error, see `require_distribution`.
        """
        logits = self.actor.head.logits(hidden)
        require_distribution(self.actor.name, logits, tokens_before)
        return torch.log_softmax(logits.double() / self.temperature, dim=-1)


class ModelPair(NamedTuple):
    """The expert `π_E` and the model `π̂`."""

    expert: TemperedActor
    policy: TemperedActor


def draw(
    pair: ModelPair,
    own: int,
    prompts: Sequence[Sequence[int]],
    sampling: DrawSetting,
    generator: torch.Generator,
    lines: Lines[list[np.ndarray]] | None = None,
) -> Draws:
    """Sample responses of one model, and read both models in every state that is visited.

    Args:
        pair: both models.
        own: which one is sampled: 0 for the expert, 1 for the policy.
        prompts: `P` prompts, token ids.
        sampling: see `DrawSetting`.
        generator: source of random numbers.
        lines: blocks that are known already; new ones are added.

    Raises:
        ValueError: logits of a state have no softmax.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> models = [TemperedActor(Actor(letter_lm(4, seed=seed)), 1.0) for seed in (0, 1)]
        >>> with torch.no_grad():
        ...     found = draw(ModelPair(*models), 0, [[0]], DrawSetting(3, 8), torch.Generator())
        >>> found.kl_expert.shape
        (1, 8)

    """
    actor, temperature = pair[own]
    horizon = sampling.horizon
    n = sampling.n
    longest = max(map(len, prompts)) + horizon
    rows = min(_rows(each.actor, longest, sampling.memory) for each in pair)
    found = list(lines or ())
    known = len(found)
    with tqdm(total=len(prompts) * n, desc="responses", disable=None, leave=False) as bar:
        for k, (some, samples) in enumerate(_blocks(len(prompts), n, rows)):
            # taken for a known block too, so that the next blocks do not depend on it being known
            shape = len(some) * samples, horizon
            uniforms = torch.rand(*shape, generator=generator, dtype=torch.double)
            bar.update(len(uniforms))
            if k < known:
                continue
            try:
                rollout = generate(
                    actor,
                    [prompts[p] for p in some],
                    horizon,
                    sampling.end_tokens,
                    uniforms=uniforms,
                    samples=samples,
                    temperature=temperature,
                )
            except NoDistribution as error:
                raise ValueError(error.detail) from None
            found.append(_read(pair, rollout, sampling.memory))
            if lines is not None:
                lines.append(found[-1])
    *columns, lengths, ratios = (np.concatenate(column) for column in zip(*found, strict=True))
    of_prompt = np.split(ratios, np.cumsum(lengths.reshape(len(prompts), n).sum(axis=1))[:-1])
    tables = dict(zip(NAMES, (x.reshape(len(prompts), n) for x in columns), strict=True))
    return Draws(**tables, token_ratios=tuple(of_prompt))


def _rows(actor: Actor, length: int, memory: int) -> int:
    """Return how many responses fit into one pass: activations, cache, and a row of each model."""
    config = actor.model.config.get_text_config()
    number = next(actor.model.parameters()).element_size()
    layers = getattr(config, "num_hidden_layers", 1)
    row = number * length * config.hidden_size * (16 + 2 * layers) + 6 * 8 * actor.head.vocab_size
    return max(1, memory // int(row))


def _blocks(n_prompts: int, n: int, rows: int) -> Iterator[tuple[range, int]]:
    """Yield the prompts of each pass, and how many responses to each, in order."""
    at_once = max(1, rows // n)
    samples = min(n, rows)
    for first in range(0, n_prompts, at_once):
        prompts = range(first, min(first + at_once, n_prompts))
        for start in range(0, n, samples):
            yield prompts, min(samples, n - start)


def _read(pair: ModelPair, rollout: Rollout, memory: int) -> list[np.ndarray]:
    """Return the columns of `Draws` for one block of responses, ``(B,)`` each.

    Then come the numbers of tokens of each response that have a ratio ``(B,)``, and these ratios
    ``(M,)``.
    """
    # equal responses are read once
    texts = torch.where(rollout.mask, rollout.ids, -1).cpu().numpy()
    _, kept, again = np.unique(texts, axis=0, return_index=True, return_inverse=True)
    unique = Rollout(
        *(x[kept] for x in (rollout.ids, rollout.mask, rollout.log_probs, rollout.ended))
    )
    log_expert, log_policy, *states, largest, chosen = _states(pair, unique, memory)
    ratios = log_expert - log_policy
    prefix = np.zeros_like(ratios)  # log-ratio of the tokens before each state
    np.cumsum(ratios[:, :-1], axis=1, out=prefix[:, 1:])
    expert = 2 * expit(prefix)
    policy = 2 * expit(-prefix)
    weights = expert, policy, expert, policy, policy
    # a state that a policy cannot reach adds nothing, even if its number is infinite
    weighted = [
        np.multiply(w, x, out=np.zeros_like(x), where=w > 0)
        for w, x in zip(weights, states, strict=True)
    ]
    totals = [x.sum(axis=1) for x in (log_expert, log_policy, *weighted)]
    counts = chosen > 0
    columns = [x[again] for x in (*totals, largest.max(axis=1), counts.sum(axis=1))]
    return [*columns, np.abs(ratios)[again][counts[again]]]


def parse_block(row: list[list[Any]]) -> list[np.ndarray]:
    """Parse a line of one of the files `DRAWS`.

    Raises:
        ValueError: it is not a block of responses.

    Example:
        >>> parse_block([])
        Traceback (most recent call last):
        ValueError: no block of responses

    """
    columns = [np.array([number(x) for x in column]) for column in row]
    if len(columns) != len(NAMES) + 2 or len({len(column) for column in columns[:-1]}) > 1:
        raise ValueError("no block of responses")
    return columns


def _states(pair: ModelPair, rollout: Rollout, memory: int) -> np.ndarray:
    """Return `_of_states` of every state that is visited: ``(9, B, T)``, 0 at padding."""
    visited = rollout.response_mask
    V = pair.expert.actor.head.vocab_size
    hidden = [rollout.hidden(model.actor)[visited] for model in pair]
    tokens = rollout.ids[:, -visited.shape[1] :][visited]
    found = []
    size = max(1, memory // (6 * 8 * V))
    for first in range(0, len(tokens), size):
        at = slice(first, first + size)
        before = partial(_before, rollout, first)
        expert, policy = (
            model.log_probs(states[at], before) for model, states in zip(pair, hidden, strict=True)
        )
        found.append(_of_states(expert, policy, tokens[at]))
    table = torch.zeros(9, *visited.shape, dtype=torch.double, device=tokens.device)
    table[:, visited] = torch.cat(found, dim=1)
    return np.asarray(table.cpu().numpy())


def _before(rollout: Rollout, first: int, k: int) -> list[int]:
    """Return the tokens before state ``first + k`` of those visited."""
    row, step = (int(x) for x in rollout.response_mask.nonzero()[first + k])
    columns = rollout.ids.shape[1] - rollout.log_probs.shape[1] + step
    tokens: list[int] = rollout.ids[row, :columns][rollout.mask[row, :columns]].tolist()
    return tokens


def _of_states(expert: torch.Tensor, policy: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Compute statistics of states from log-probabilities ``(M, V)`` and tokens ``(M,)``.

    Returns:
        ``(9, M)``: both ``log π(a|s)``, the five terms that `Draws` sums, the largest ratio, and
        whether the expert can choose among tokens.

    """

    def expected(log_probs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p = log_probs.exp()
        return torch.where(p > 0, p * x, 0.0).sum(dim=-1)  # x is −∞ for a forbidden token

    ratio = torch.where(expert == policy, 0.0, expert - policy)
    return torch.stack(
        [
            expert.gather(1, tokens[:, None])[:, 0],
            policy.gather(1, tokens[:, None])[:, 0],
            expected(expert, ratio),
            expected(policy, -ratio),
            expected(expert, -expert),
            expected(policy, -policy),
            expected(policy, expert),
            ratio.abs().amax(dim=-1),
            ((expert > -torch.inf).sum(dim=-1) > 1).double(),
        ]
    )


def response_log_probs(
    model: TemperedActor, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute ``log π(τ|s₁)`` ``(P,)``, nats, of a response to each prompt.

    Raises:
        ValueError: logits of a state have no softmax.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> model = TemperedActor(Actor(letter_lm(4)), 1.0)
        >>> with torch.no_grad():
        ...     response_log_probs(model, [[0]], [np.array([1, 2])]).shape
        (1,)

    """
    return np.array([_log_prob(model, *each) for each in zip(prompts, responses, strict=True)])


def _log_prob(model: TemperedActor, prompt: Sequence[int], response: np.ndarray) -> float:
    actor = model.actor
    T = len(response)
    whole = [*prompt, *response.tolist()]
    ids = torch.tensor([whole], device=next(actor.model.parameters()).device)
    mask = torch.ones_like(ids[:, :-1], dtype=torch.bool)
    hidden = actor.hidden(ids[:, :-1], mask, T)[0]
    log_probs = model.log_probs(hidden, lambda row: whole[: len(prompt) + row])
    return float(log_probs.gather(1, ids[0, -T:, None]).sum())
