"""Estimate from samples what is computed exactly where the token tree can be enumerated.

`N` responses of the expert `π_E` and `N` of the model `π̂` to each of `P` prompts are samples of
their mixture, and both models are read in every state ``s_h`` that is visited, with their
distributions over the whole vocabulary. So

    E_π Σ_h f(s_h) = E_mixture Σ_h w(s_h) f(s_h),    w(s) = 2 π(s)/(π_E(s) + π̂(s)) ≤ 2,

with ``π(s) = ∏ π(a_k|s_k)`` over the tokens before `s`. For ``KL(π_E‖π̂)``, ``π = π_E`` and ``f`` is
the divergence of the two distributions at `s`, which is computed and not sampled. Weights are
bounded, and what one policy seldom visits the other may visit often: samples of `π_E` alone would
give a narrower interval and, where few of them carry most of the sum, one that is too narrow. Every
estimate is unbiased.

The true reward is the expert's endogenous reward, ``r*(τ) = α log π_E(τ|s₁) + V*(s₁)``. What is
estimated is what `theory.claims.instance.Instance` has exactly.

There are two kinds of intervals. Those of shares and of numbers between 0 and 1 (total variation,
affinity) are guaranteed: they cover with the confidence asked for, however few samples there are
and however rare what they count. Those of unbounded numbers (divergences, entropies, values) are
Student's, stratified by prompt and corrected for skewness: approximate, and blind to what no sample
met, which can have a probability of about ``3/N``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit

from llm_bridge.check.comparison import SHARES, within
from llm_bridge.check.confidence import (
    Estimate,
    bounded_interval,
    mean_interval,
    share_interval,
)
from llm_bridge.check.draws import (
    DRAWS,
    Draws,
    DrawSetting,
    ModelPair,
    TemperedActor,
    draw,
    parse_block,
    response_log_probs,
)
from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM, require_same_vocabulary
from llm_bridge.models.prompts import Prompt, encode_prompt
from llm_bridge.read.beam import beam_search, parse_found
from llm_bridge.read.rollout import Actor
from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive
from theory.claims.bounds import preference_tv_of_pair
from theory.claims.instance import COVERED
from theory.solve.reward import preference_tv
from theory.storage.files import ascii_keys

if TYPE_CHECKING:
    from theory.storage.runs import RunFolder

__all__ = ["BEAM", "Sampled", "estimate", "estimates"]

BEAM = "beam.jsonl"
"""File of the responses that the beam has found: a line for each prompt."""


@dataclass(frozen=True)
class Sampled:
    """A model against an expert, estimated from samples.

    Attributes:
        prompts: number `P` of prompts.
        responses: number `N` of responses of each policy to each prompt.
        estimates: estimates by name, averaged over the prompts.
        closeness: nats, without intervals: the largest log-ratio over all tokens of the states
            visited (`ε_π` is at least that), and quantiles of the log-ratio of the expert's tokens,
            those of each prompt averaged.
        proven: share of prompts on which the response of RL is proven to be the most probable one.

    """

    prompts: int
    responses: int
    estimates: dict[str, Estimate]
    closeness: dict[str, float]
    proven: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, by name."""
        found = vars(self) | {
            "estimates": {name: one._asdict() for name, one in self.estimates.items()}
        }
        spelled: dict[str, Any] = ascii_keys(found)
        return spelled


def estimates(
    expert: Draws,
    policy: Draws,
    alpha: float,
    rl: tuple[np.ndarray, ...],
    *,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Estimate divergences, preference errors and gaps from samples of both policies.

    Preferences are those of independent pairs of the expert's responses (each response is in one
    pair). They are not defined (NaN) if `π̂` forbids both responses of a pair.

    Args:
        expert: responses of `π_E`.
        policy: responses of `π̂`, to the same prompts.
        alpha: temperature of the reward.
        rl: of the most probable response found, ``(P,)`` each: ``log π_E``, ``log π̂``, and the
            shortfall, nats by which another response may be more probable.
        confidence: confidence of each interval by itself.

    Example:
        >>> log_probs, zero = np.log([[0.5, 0.25, 0.25, 0.5]]), np.zeros((1, 4))
        >>> same = Draws(*[log_probs] * 2, *[zero] * 6, token_ratios=(np.zeros(4),))
        >>> rl = np.log([0.5]), np.log([0.5]), np.zeros(1)
        >>> estimates(same, same, 1.0, rl)["TV(π_E(τ), π̂(τ))"].value
        0.0

    """
    both = expert, policy

    def mixture(of: Callable[[Draws], np.ndarray], low: float = -np.inf) -> Estimate:
        return mean_interval([of(each) / 2 for each in both], confidence, low)

    def bounded(of: Callable[[Draws], np.ndarray]) -> Estimate:
        return bounded_interval(np.stack([of(each) for each in both]), confidence)

    with np.errstate(invalid="ignore"):  # two responses that π̂ forbids
        return {
            "KL(π_E‖π̂)": mixture(lambda d: d.kl_expert, 0.0),
            "KL(π̂‖π_E)": mixture(lambda d: d.kl_policy, 0.0),
            "entropy of π_E": mixture(lambda d: d.entropy_expert, 0.0),
            "entropy of π̂": mixture(lambda d: d.entropy_policy, 0.0),
            "TV(π_E(τ), π̂(τ))": bounded(
                lambda d: np.abs(np.tanh((d.log_expert - d.log_policy) / 2))
            ),
            "affinity Σ √(π_E π̂)": bounded(lambda d: _sech(d.log_expert - d.log_policy)),
            f"P_{{π_E}}[π_E ≥ {COVERED}π̂]": share_interval(
                expert.log_expert - expert.log_policy >= math.log(COVERED), confidence
            ),
            **_preferences(expert, alpha, confidence),
            "r*(τ) − V*(s₁) under π_E": mixture(lambda d: -alpha * d.entropy_expert),
            "r*(τ) − V*(s₁) under π̂": mixture(lambda d: alpha * d.score_policy),
            "V^{π_E} − V^{π̂}": mixture(lambda d: -alpha * (d.entropy_expert + d.score_policy)),
            LE_CAM: _le_cam(both, alpha, confidence),
            "α KL(π̂‖π_E), the regularised gap": mixture(lambda d: alpha * d.kl_policy, 0.0),
            **_gaps_of_rl(mixture, alpha, *rl),
        }


def _le_cam(both: tuple[Draws, Draws], alpha: float, confidence: float) -> Estimate:
    """Estimate ``√Σ(π_E−π̂)²/(π_E+π̂) · √Σ(π_E+π̂)(r*−c)²``, sums over responses to all prompts.

    Half of each sum is a mean over the mixture: of ``tanh²(D/2)``, and of the squared distance of
    ``r*`` from its mean `c` among the draws of a prompt. The interval is from both factors' own, so
    it covers more often than it says.
    """
    each = (1 + confidence) / 2
    ratios = np.stack([d.log_expert - d.log_policy for d in both])
    distance = bounded_interval(np.tanh(ratios / 2) ** 2, each)
    returns = alpha * np.stack([d.log_expert for d in both])
    with np.errstate(invalid="ignore"):
        centred = returns - returns.mean(axis=(0, 2), keepdims=True)
    finite = np.isfinite(returns).all(axis=(0, 2), keepdims=True)
    squares = np.where(finite, centred**2, np.inf)
    n = returns.shape[0] * returns.shape[2]
    spread = mean_interval([x / 2 * (n / (n - 1)) for x in squares], each, 0.0)
    ends = zip(distance[:3], spread[:3], strict=True)
    value, low, high = (2 * math.sqrt(x * y) if x and y else 0.0 for x, y in ends)
    return Estimate(value, low, high)


def _preferences(expert: Draws, alpha: float, confidence: float) -> dict[str, Estimate]:
    true, read = (_differences(alpha * x) for x in (expert.log_expert, expert.log_policy))
    wrong = np.where(np.isnan(read), np.nan, true * read < 0)
    return {
        f"{PAIRS}: mean TV": bounded_interval(preference_tv(true, read), confidence),
        f"{PAIRS}: mean tanh(α|D(τ)−D(τ')|/4)": bounded_interval(
            preference_tv_of_pair(true - read, 1.0), confidence
        ),
        f"{PAIRS}: ordered the other way": share_interval(wrong, confidence),
    }


def _gaps_of_rl(
    mixture: Callable[..., Estimate],
    alpha: float,
    log_expert: np.ndarray,
    log_policy: np.ndarray,
    shortfall: np.ndarray,
) -> dict[str, Estimate]:
    """Estimate the gap of ``π_RL``, which plays the most probable response of `π̂`.

    Let ``τ`` be the response that the beam found. Its gap ``V^{π_E} − r*(τ)`` is estimated without
    bias. As no response has a larger ``log π̂`` than ``log π̂(τ) + shortfall``, it is at most
    ``α KL(π_E‖π̂) − α D(τ) + α shortfall`` with ``D = log π_E − log π̂``. If another response may be
    the most probable one, its ``log π_E`` is only known to be at most 0. So the gap of ``π_RL`` is
    that of ``τ`` if every prompt's ``τ`` is proven, and otherwise has a lower end only.
    """
    log_expert, log_policy, shortfall = (x[:, None] for x in (log_expert, log_policy, shortfall))
    proven = shortfall <= 0
    gap = mixture(lambda d: -alpha * (d.entropy_expert + log_expert))
    bound = mixture(lambda d: alpha * (d.kl_expert - (log_expert - log_policy) + shortfall))
    least = mixture(lambda d: -alpha * (d.entropy_expert + np.where(proven, log_expert, 0.0)))
    return {
        "V^{π_E} − r*(τ found)": gap,
        "α KL(π_E‖π̂) − α D(τ found) + α shortfall": bound,
        "V^{π_E} − V^{π_RL}": gap if proven.all() else Estimate(math.nan, least.low, math.inf),
    }


LE_CAM = "√Σ(π_E−π̂)²/(π_E+π̂) · √Σ(π_E+π̂)(r*−c)²"
"""The bound of *clone-le-cam*, both sums over all prompts: no less than its average over them."""

PAIRS = "pairs of the expert's responses"
"""Distribution of the pairs whose preferences are averaged."""


def _differences(values: np.ndarray) -> np.ndarray:
    """Return ``x(τ) − x(τ')`` of neighbouring pairs: ``(P, N)`` to ``(P, ⌊N/2⌋)``."""
    pairs = values.shape[1] // 2
    return np.asarray(values[:, 0 : 2 * pairs : 2] - values[:, 1 : 2 * pairs : 2])


def _sech(x: np.ndarray) -> np.ndarray:
    """Return ``1/cosh(x/2)``, without overflow."""
    return np.asarray(2 * np.sqrt(expit(x) * expit(-x)))


def estimate(
    lm: CausalLM,
    expert: CausalLM,
    prompts: Sequence[Prompt],
    sampling: DrawSetting,
    *,
    alpha: float = 1.0,
    confidence: float = 0.95,
    run: RunFolder | None = None,
) -> Sampled:
    """Sample responses of two models, search for the response of RL, and estimate all quantities.

    Args:
        lm: `π̂`.
        expert: `π_E`, with the same vocabulary; may be `lm` itself.
        prompts: `P` texts or conversations.
        sampling: how responses are sampled and searched for.
        alpha: temperature of the reward.
        confidence: confidence of each interval by itself.
        run: folder of a run that depends on these arguments alone. It keeps what was found, in the
            files `BEAM` and `DRAWS`, and a resumed run continues there.

    Raises:
        ValueError: an argument is out of range, the vocabularies differ, a prompt does not fit, or
            no head gives a model's logits.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> sampling = DrawSetting(horizon=2, n=8, width=16)
        >>> found = estimate(letter_lm(4), letter_lm(4, seed=1), ["a"], sampling)
        >>> found.responses, found.proven, found.estimates["TV(π_E(τ), π̂(τ))"].guaranteed
        (8, 1.0, True)

    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: must be between 0 and 1")
    alpha = float(require_positive("alpha", alpha))
    horizon = sampling.horizon
    n = sampling.n
    if expert is not lm:
        require_same_vocabulary(lm, expert)
    for each in (expert.read_as(lm), lm):  # prompts must fit into both
        ids = [encode_prompt(each, prompt, horizon) for prompt in prompts]
    numbers = 2 * len(ids) * n * (2 * horizon + 3 * len(fields(Draws)))
    require_memory(
        8 * numbers,
        f"n={n}: keeping {2 * len(ids) * n:,} responses",
        "draw fewer, or from fewer prompts",
    )
    actor = Actor(lm)
    pair = ModelPair(
        TemperedActor(actor if expert is lm else Actor(expert), sampling.expert_temperature),
        TemperedActor(actor, sampling.temperature),
    )
    beam = beam_search(
        lm,
        prompts,
        horizon,
        sampling.width,
        end_tokens=sampling.end_tokens,
        temperature=sampling.temperature,
        memory=sampling.memory,
        lines=None if run is None else run.lines(BEAM, parse_found),
    )
    with evaluation(lm.model), evaluation(expert.model):
        generator = torch.Generator().manual_seed(sampling.seed)
        lines = [None if run is None else run.lines(name, parse_block) for name in DRAWS]
        of_expert, of_policy = (
            draw(pair, own, ids, sampling, generator, lines[own]) for own in (0, 1)
        )
        # both models are read here in the same way: the beam rounds differently
        log_probs = [response_log_probs(model, ids, beam.responses) for model in pair]
    largest = max(each.largest_ratio.max() for each in (of_expert, of_policy))
    closeness = {"largest in the states passed": float(largest)}
    closeness |= within(np.mean([_quantiles(ratios) for ratios in of_expert.token_ratios], axis=0))
    rl = (*log_probs, beam.shortfall)
    found = estimates(of_expert, of_policy, alpha, rl, confidence=confidence)
    return Sampled(len(ids), n, found, closeness, float(beam.proven.mean()))


def _quantiles(ratios: np.ndarray) -> np.ndarray:
    """Return, for each `s` of `SHARES`, the least ratio that at most a share ``1 − s`` exceeds.

    They are NaN for no ratios; `theory.claims.instance.Instance.log_ratio_quantiles` defines them.
    """
    if not len(ratios):
        return np.full(len(SHARES), np.nan)
    ranks = np.ceil(np.array(SHARES) * len(ratios) * (1 - 1e-12)).astype(int)
    return np.asarray(np.sort(ratios)[ranks - 1])
