"""What `theory.instance.Instance` computes exactly, estimated from draws where the token tree is too large.

`N` responses of the expert `π_E` and `N` of the model `π̂` to each of `P` prompts are draws of their mixture, and both
models are read in every state ``s_h`` that is passed, with their laws over the whole vocabulary. So

    E_π Σ_h f(s_h) = E_mixture Σ_h w(s_h) f(s_h),    w(s) = 2 π(s)/(π_E(s) + π̂(s)) ≤ 2,    π(s) = ∏ π(a_k|s_k) before s,

with, for ``KL(π_E‖π̂)``, ``π = π_E`` and ``f`` the divergence of the two laws at `s`, which is known and not drawn.
Weights are bounded, and what one policy seldom visits the other may visit often: draws of `π_E` alone would give a
narrower interval and, where few of them carry most of the sum, one that is too narrow. Every estimate is unbiased.

The true reward is the expert's endogenous reward, ``r*(τ) = α log π_E(τ|s₁) + V*(s₁)``.

There are two kinds of intervals. Those of shares and of numbers between 0 and 1 (total variation, affinity) are
guaranteed: they cover with the confidence that is asked for, however few draws there are and however rare what they
count. Those of unbounded numbers (divergences, entropies, values) are Student's, stratified by prompt and corrected for
skewness: approximate, and blind to what no draw met, which can have a probability of about ``3/N``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import optimize, stats
from scipy.special import expit
from tqdm import tqdm

from llm_bridge.actor import Actor, NoLaw, Rollout, generate
from llm_bridge.beam import beam_search
from llm_bridge.comparison import SHARES, within
from llm_bridge.head import evaluation, require_law
from llm_bridge.model import CausalLM, encode_prompt, require_same_vocabulary
from llm_bridge.prefixes import require_integer
from theory.arrays import require_memory, require_positive
from theory.bounds import preference_tv_of_pair
from theory.files import number
from theory.reward import preference_tv

if TYPE_CHECKING:
    from theory.runs import Lines, RunFolder

__all__ = ["DRAWS", "Draws", "Estimate", "Sampled", "draw", "estimate", "estimates"]


class Estimate(NamedTuple):
    """A number and its confidence interval.

    Attributes:
        value: NaN where it is unknown or not defined.
        low: lower end.
        high: upper end.
        guaranteed: whether the interval holds with its confidence for any number of draws; else it is approximate, and
            knows nothing of what no draw met.

    """

    value: float
    low: float
    high: float
    guaranteed: bool = False


@dataclass(frozen=True, eq=False)
class Draws:
    """`N` responses of one policy to each of `P` prompts: arrays ``(P, N)``, nats.

    Attributes:
        log_expert: ``log π_E(τ|s₁)``.
        log_policy: ``log π̂(τ|s₁)``.
        kl_expert: ``Σ_h w(s_h) KL(π_E(·|s_h)‖π̂(·|s_h))``, `w` that of `π_E`.
        kl_policy: ``Σ_h w(s_h) KL(π̂(·|s_h)‖π_E(·|s_h))``, here and below `w` that of the policy named.
        entropy_expert: ``Σ_h w(s_h) H(π_E(·|s_h))``.
        entropy_policy: ``Σ_h w(s_h) H(π̂(·|s_h))``.
        score_policy: ``Σ_h w(s_h) Σ_a π̂(a|s_h) log π_E(a|s_h)``.
        largest_ratio: ``max |log π_E(a|s) − log π̂(a|s)|`` over the states passed and all tokens.
        token_ratios: for each prompt ``(M,)``, the same of each token that was drawn, in all its responses. A token
            that is the only one allowed in its state does not count.

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


@dataclass(frozen=True)
class Sampled:
    """A model against an expert, from draws.

    Attributes:
        prompts: `P`.
        responses: `N`, of each policy to each prompt.
        estimates: by name, averages over the prompts.
        closeness: nats, without intervals: the largest log-ratio in the states passed, over all tokens (`ε_π` is at
            least that), and quantiles of that of the expert's tokens, each prompt's, averaged over the prompts.
        proven: share of prompts on which the response of RL is proven to be the most probable one.

    """

    prompts: int
    responses: int
    estimates: dict[str, Estimate]
    closeness: dict[str, float]
    proven: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        found = asdict(self)
        return found | {"estimates": {name: one._asdict() for name, one in self.estimates.items()}}


# --- Statistics -----------------------------------------------------------------------------------------------------


def estimates(
    expert: Draws, policy: Draws, alpha: float, *, confidence: float = 0.95, rl: tuple[np.ndarray, ...] | None = None
) -> dict[str, Estimate]:
    """Estimate from draws of both policies.

    Preferences are those of pairs of the expert's responses, drawn independently (each response is in one pair). They
    are not defined (NaN) where `π̂` can write neither response of a pair.

    Let ``τ`` be the response that the beam found. ``V^{π_E} − r*(τ)`` is estimated without bias, and as no response has
    a larger ``log π̂`` than ``log π̂(τ) + shortfall``, it is at most ``α KL(π_E‖π̂) − α D(τ) + α shortfall`` with
    ``D = log π_E − log π̂``. That bounds the gap of ``τ``, not that of ``π_RL``, which plays the most probable response
    of all: where this may be another one, nothing is known of its ``log π_E`` but that it is at most 0. So the row of
    ``π_RL`` is that of ``τ`` where every prompt's ``τ`` is proven to be the most probable response, and otherwise has
    no value and a lower end only.

    Args:
        expert: drawn from `π_E`.
        policy: drawn from `π̂`, for the same prompts.
        alpha: temperature of the reward.
        confidence: of each interval by itself.
        rl: of the response that was found, ``(P,)`` each: ``log π_E``, ``log π̂``, and nats by which the most probable
            response may be more probable (the shortfall).

    Raises:
        ValueError: there are fewer than 4 responses to a prompt, two pairs.

    """
    both = expert, policy
    if min(each.log_expert.shape[1] for each in both) < 4:
        raise ValueError("fewer than 4 responses to each prompt; draw at least two pairs")

    def mixture(of: Callable[[Draws], np.ndarray], low: float = -np.inf) -> Estimate:
        return _interval([of(each) / 2 for each in both], confidence, low)

    def bounded(of: Callable[[Draws], np.ndarray]) -> Estimate:
        return _bounded(np.stack([of(each) for each in both]), confidence)

    with np.errstate(invalid="ignore"):  # two responses that π̂ forbids
        true, read = (_differences(alpha * x) for x in (expert.log_expert, expert.log_policy))
        wrong = np.where(np.isnan(read), np.nan, true * read < 0)
        found = {
            "KL(π_E‖π̂)": mixture(lambda d: d.kl_expert, 0.0),
            "KL(π̂‖π_E)": mixture(lambda d: d.kl_policy, 0.0),
            "entropy of π_E": mixture(lambda d: d.entropy_expert, 0.0),
            "entropy of π̂": mixture(lambda d: d.entropy_policy, 0.0),
            "TV(π_E(τ), π̂(τ))": bounded(lambda d: np.abs(np.tanh((d.log_expert - d.log_policy) / 2))),
            "affinity Σ √(π_E π̂)": bounded(lambda d: _sech(d.log_expert - d.log_policy)),
            f"{PAIRS}: mean TV": _bounded(preference_tv(true, read), confidence),
            f"{PAIRS}: mean tanh(α|D(τ)−D(τ')|/4)": _bounded(preference_tv_of_pair(true - read, 1.0), confidence),
            f"{PAIRS}: ordered the other way": _share(wrong, confidence),
            "r*(τ) − V*(s₁) under π_E": mixture(lambda d: -alpha * d.entropy_expert),
            "r*(τ) − V*(s₁) under π̂": mixture(lambda d: alpha * d.score_policy),
            "V^{π_E} − V^{π̂}": mixture(lambda d: -alpha * (d.entropy_expert + d.score_policy)),
            "α KL(π̂‖π_E), the regularised gap": mixture(lambda d: alpha * d.kl_policy, 0.0),
        }
    if rl is None:
        return found
    log_expert, log_policy, shortfall = (x[:, None] for x in rl)
    proven = shortfall <= 0
    gap = mixture(lambda d: -alpha * (d.entropy_expert + log_expert))
    least = mixture(lambda d: -alpha * (d.entropy_expert + np.where(proven, log_expert, 0.0)))
    return found | {
        "V^{π_E} − r*(τ found)": gap,
        "α KL(π_E‖π̂) − α D(τ found) + α shortfall": mixture(
            lambda d: alpha * (d.kl_expert - (log_expert - log_policy) + shortfall)
        ),
        "V^{π_E} − V^{π_RL}": gap if proven.all() else Estimate(math.nan, least.low, math.inf),
    }


PAIRS = "pairs of the expert's responses"
"""The distribution of the pairs whose preferences are averaged."""


def _differences(values: np.ndarray) -> np.ndarray:
    """``x(τ) − x(τ')`` of neighbouring pairs: ``(P, N)`` to ``(P, ⌊N/2⌋)``."""
    pairs = values.shape[1] // 2
    return np.asarray(values[:, 0 : 2 * pairs : 2] - values[:, 1 : 2 * pairs : 2])


def _sech(x: np.ndarray) -> np.ndarray:
    """``1/cosh(x/2)``, without overflow."""
    return np.asarray(2 * np.sqrt(expit(x) * expit(-x)))


def _interval(parts: Sequence[np.ndarray], confidence: float, low: float = -np.inf) -> Estimate:
    """Estimate the sum of the means of independent parts ``(P, n)``, each averaged over its prompts.

    Student's interval with Welch's degrees of freedom, corrected for the skewness `a` of the estimate (Hall 1992):
    ``t → 3/a·((1 + a(t − a/6))^{1/3} − 1)``. Without, sums of rare large numbers are covered too seldom.

    A state that was passed and adds ±∞ makes the mean ±∞ for certain.
    """
    value = sum(float(part.mean()) for part in parts)
    if not math.isfinite(value):
        return Estimate(value, value, value)
    centred = [part - part.mean(axis=1, keepdims=True) for part in parts]
    scale = [part.size for part in parts]  # each number counts 1/(P n)
    variances = np.concatenate(
        [(x**2).sum(axis=1) * x.shape[1] / (x.shape[1] - 1) / k**2 for x, k in zip(centred, scale, strict=True)]
    )
    total = float(variances.sum())
    if total == 0:
        return Estimate(value, value, value)
    freedom = np.concatenate([np.full(len(part), part.shape[1] - 1) for part in parts])
    degrees = total**2 / (variances**2 / freedom).sum()
    skewness = sum(float((x**3).sum()) / k**3 for x, k in zip(centred, scale, strict=True)) / total**1.5
    t = stats.t.ppf([(1 + confidence) / 2, (1 - confidence) / 2], degrees)
    ends = value - np.sqrt(total) * _without_skewness(t, skewness)
    return Estimate(value, max(float(ends[0]), low), float(ends[1]))


def _without_skewness(t: np.ndarray, skewness: float) -> np.ndarray:
    """Quantiles of the studentised estimate for those of a symmetric one."""
    if abs(skewness) < 1e-6:
        return t
    return np.asarray(3 / skewness * (np.cbrt(1 + skewness * (t - skewness / 6)) - 1))


def _share(events: np.ndarray, confidence: float) -> Estimate:
    """Estimate a share from independent events, as many for each prompt: an array of 0 and 1, of any shape.

    Clopper and Pearson's interval of the pooled count `k` of `n`. Probabilities differ from prompt to prompt, so `k` is
    not binomial, but its tails are no heavier: beyond `np ± 1`, `p` the average of the probabilities, they are at most
    those of ``Bin(n, p)`` (Hoeffding 1956). The ends are that far out for tails of at most a quarter, since a binomial
    number is at or above its mean with a probability of over a quarter, and at or below it too. The one end which is
    nearer, at `k = 1` (or `n − 1`), is missed with at most ``−log(1 − tail)``, and the other end then never is.
    """
    value, n, k = float(events.mean()), events.size, events.sum()
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = min((1 - confidence) / 2, 0.25)
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return Estimate(value, low, high, guaranteed=True)


def _bounded(values: np.ndarray, confidence: float) -> Estimate:
    """Estimate the mean of independent numbers from 0 to 1, as many for each prompt: an array of any shape.

    By betting (Waudby-Smith and Ramdas 2024) with constant stakes: if `m` is the mean, ``∏ (1 + λ(x_i − m))`` has an
    expectation of at most 1 for every fixed `λ` in ``[−1/(1−m), 1/m]``, as expectations ``m_i`` that differ but have
    the average `m` give ``∏ (1 + λ(m_i − m)) ≤ 1`` (means of logarithms). So has its average over several `λ`, and by
    Markov's inequality it exceeds ``1/tail`` with a probability of at most `tail`: such an `m` is not in the interval.
    """
    value = float(values.mean())
    if math.isnan(value):
        return Estimate(value, value, value)
    tail = (1 - confidence) / 2
    numbers, counts = np.unique(values, return_counts=True)
    low, high = _lower_end(numbers, counts, tail), 1 - _lower_end(1 - numbers, counts, tail)
    return Estimate(value, min(low, value), max(high, value), guaranteed=True)


def _lower_end(values: np.ndarray, counts: np.ndarray, tail: float) -> float:
    """The least mean against which bets on larger numbers, which are `values` so many times, win less than `1/tail`."""
    mean = values @ counts / counts.sum()
    if mean <= 0:
        return 0.0
    n_stakes = 4 + math.ceil(math.log2(counts.sum()) / 2)  # down to the best for n numbers with a variance of 1/4
    stakes = 0.5 ** np.arange(n_stakes)  # as shares of the largest, 1/m

    def excess(log_mean: float) -> float:
        with np.errstate(divide="ignore"):  # all is staked and lost
            won = np.log1p(stakes[:, None] * (values / math.exp(log_mean) - 1)) @ counts
        return float(np.logaddexp.reduce(won)) - math.log(n_stakes / tail)

    least = math.log(np.finfo(float).tiny)
    return math.exp(optimize.brentq(excess, least, math.log(mean))) if excess(least) > 0 else 0.0


# --- Reading models -------------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    """Both models, each with the temperature at which it is sampled."""

    expert: tuple[Actor, float]
    policy: tuple[Actor, float]


def estimate(
    lm: CausalLM, expert: CausalLM, prompts: Sequence[str], horizon: int, n: int, *, alpha: float = 1.0,
    temperature: float = 1.0, expert_temperature: float = 1.0, end_tokens: Sequence[int] = (), width: int = 64,
    confidence: float = 0.95, seed: int = 0, memory: int = 2**30, run: RunFolder | None = None,
) -> Sampled:  # fmt: skip
    """Draw `n` responses of each policy to each prompt, search for what RL plays, and estimate.

    Args:
        lm: `π̂`.
        expert: `π_E`, with the same vocabulary; may be `lm` itself.
        prompts: `P` texts.
        horizon: tokens `H` at which a response is cut.
        n: responses `N`, at least 4.
        alpha: temperature of the reward.
        temperature: at which `lm` is sampled.
        expert_temperature: at which `expert` is sampled.
        end_tokens: ids after which a response is over.
        width: of the beam that searches for the most probable response of `π̂`.
        confidence: of each interval by itself.
        seed: of the draws.
        memory: bytes that a pass may take, estimated.
        run: folder of a run that depends on these arguments alone: what is read of each block of responses is kept in
            the files `DRAWS`, and not drawn again.

    Raises:
        ValueError: an argument is out of range, the vocabularies differ, a prompt does not fit, or a model has no head
            that gives its logits.

    """
    for name, value in (("horizon", horizon), ("n", n), ("width", width), ("memory", memory)):
        require_integer(name, value)
    if n < 4:
        raise ValueError(f"n={n}: must be at least 4, two pairs of responses")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")
    alpha = float(require_positive("alpha", alpha))
    require_positive("temperature", temperature)
    require_positive("expert_temperature", expert_temperature)
    if expert is not lm:
        require_same_vocabulary(lm, expert)
    for each in (expert, lm):  # prompts must fit into both
        ids = [encode_prompt(each, prompt, horizon) for prompt in prompts]
    numbers = 2 * len(ids) * n * (2 * horizon + 3 * len(fields(Draws)))
    require_memory(8 * numbers, f"n={n}: keeping {2 * len(ids) * n:,} responses", "draw fewer, or from fewer prompts")
    actor = Actor(lm)
    pair = _Pair((actor if expert is lm else Actor(expert), expert_temperature), (actor, temperature))
    beam = beam_search(lm, prompts, horizon, width, end_tokens=end_tokens, temperature=temperature, memory=memory)
    with evaluation(lm.model), evaluation(expert.model):
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            draw(
                pair, own, ids, n, horizon, end_tokens=end_tokens, generator=generator, memory=memory,
                lines=None if run is None else run.lines(DRAWS[own], _block),
            )
            for own in (0, 1)
        ]  # fmt: skip
        # both are read here, in one way: those of the beam are rounded otherwise
        log_expert, log_policy = (_log_probs(*each, ids, beam.responses) for each in pair)
    rl = log_expert, log_policy, beam.shortfall
    closeness = {"largest in the states passed": float(max(each.largest_ratio.max() for each in drawn))}
    closeness |= within(np.mean([_quantiles(ratios) for ratios in drawn[0].token_ratios], axis=0))
    found = estimates(drawn[0], drawn[1], alpha, confidence=confidence, rl=rl)
    return Sampled(len(ids), n, found, closeness, float(beam.proven.mean()))


DRAWS = ("draws_expert.jsonl", "draws_policy.jsonl")
"""Files of what was read of the responses of each policy: a line for each block, as `_read` returns it."""


def draw(
    pair: _Pair, own: int, prompts: Sequence[Sequence[int]], n: int, horizon: int, *, end_tokens: Sequence[int],
    generator: torch.Generator, memory: int, lines: Lines[list[np.ndarray]] | None = None,
) -> Draws:  # fmt: skip
    """Draw from the expert (`own` 0) or from the model (1), and read both in every state that is passed.

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
            # drawn for a known block too: those of the next ones must not depend on where a run was stopped
            uniforms = torch.rand(len(some) * samples, horizon, generator=generator, dtype=torch.double)
            bar.update(len(uniforms))
            if k < known:
                continue
            texts = [prompts[p] for p in some]
            try:
                written = generate(
                    actor, texts, horizon, end_tokens, uniforms=uniforms, samples=samples, temperature=temperature
                )
            except NoLaw as error:
                raise ValueError(str(error.reading)) from None
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


def _quantiles(ratios: np.ndarray) -> np.ndarray:
    """The least ratios that at most a share ``1 − s`` of all exceeds, for each `s` of `SHARES`; NaN of none.

    As `theory.instance.Instance.log_ratio_quantiles` defines them.
    """
    if not len(ratios):
        return np.full(len(SHARES), np.nan)
    ranks = np.ceil(np.array(SHARES) * len(ratios) * (1 - 1e-12)).astype(int)
    return np.asarray(np.sort(ratios)[ranks - 1])


def _rows(actor: Actor, length: int, memory: int) -> int:
    """Responses in one pass: activations, keys and values, and a law of each model."""
    config, number = actor.model.config.get_text_config(), next(actor.model.parameters()).element_size()
    layers = getattr(config, "num_hidden_layers", 1)
    row = number * length * config.hidden_size * (16 + 2 * layers) + 6 * 8 * actor.head.vocab_size
    return max(1, memory // int(row))


def _blocks(n_prompts: int, n: int, rows: int) -> Iterator[tuple[range, int]]:
    """Prompts, and how many responses to each, of one pass after another; in the order of prompts and responses."""
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
    unique = Rollout(*(x[kept] for x in (written.ids, written.mask, written.log_probs, written.ended)))
    log_expert, log_policy, *states, largest, chosen = _states(pair, unique, memory)
    ratios = log_expert - log_policy
    prefix = np.zeros_like(ratios)  # of the tokens before each state
    np.cumsum(ratios[:, :-1], axis=1, out=prefix[:, 1:])
    expert, policy = 2 * expit(prefix), 2 * expit(-prefix)
    weights = expert, policy, expert, policy, policy
    # a state that a policy cannot reach adds nothing, were it infinite
    weighted = [np.multiply(w, x, out=np.zeros_like(x), where=w > 0) for w, x in zip(weights, states, strict=True)]
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
    alive = written.written
    T, V = alive.shape[1], pair.expert[0].head.vocab_size
    hidden = [written.hidden(actor)[alive] for actor, _ in pair]
    tokens = written.ids[:, -T:][alive]
    found, size = [], max(1, memory // (6 * 8 * V))
    for first in range(0, len(tokens), size):
        at = slice(first, first + size)
        logits = [actor.head.logits(states[at]) for (actor, _), states in zip(pair, hidden, strict=True)]
        for (actor, _), values in zip(pair, logits, strict=True):
            require_law(actor.name, values, partial(_before, written, first))
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
    row, step = (int(x) for x in written.written.nonzero()[first + k])
    columns = written.ids.shape[1] - written.log_probs.shape[1] + step
    tokens: list[int] = written.ids[row, :columns][written.mask[row, :columns]].tolist()
    return tokens


def _of_states(expert: torch.Tensor, policy: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """For laws ``(M, V)`` and tokens ``(M,)``, by state: ``(9, M)``.

    Both ``log π(a|s)``, what `Draws` sums, the largest ratio, and whether the expert has more than one token to choose.
    """

    def expected(law: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        p = law.exp()
        return torch.where(p > 0, p * x, 0.0).sum(dim=-1)  # a token that is never written has −∞

    ratio = torch.where(expert == policy, 0.0, expert - policy)
    found = [law.gather(1, tokens[:, None])[:, 0] for law in (expert, policy)]
    found += [expected(expert, ratio), expected(policy, -ratio), expected(expert, -expert), expected(policy, -policy)]
    found += [expected(policy, expert), ratio.abs().amax(dim=-1), ((expert > -torch.inf).sum(dim=-1) > 1).double()]
    return torch.stack(found)


def _log_probs(
    actor: Actor, temperature: float, prompts: Sequence[Sequence[int]], responses: Sequence[np.ndarray]
) -> np.ndarray:
    """``log π(τ|s₁)`` of a response to each prompt: ``(P,)``, nats."""
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        whole = [*prompt, *response.tolist()]
        ids = torch.tensor([whole], device=next(actor.model.parameters()).device)
        states = actor.hidden(ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), len(response))[0]
        logits = actor.head.logits(states)
        require_law(actor.name, logits, partial(_first, whole, len(prompt)))
        law = torch.log_softmax(logits.double() / temperature, dim=-1)
        found.append(float(law.gather(1, ids[0, -len(response) :, None]).sum()))
    return np.array(found)


def _first(tokens: list[int], n: int, more: int) -> list[int]:
    return tokens[: n + more]
