"""What `theory.claims.instance.Instance` computes exactly, estimated from draws where the token
tree is too large.

`N` responses of the expert `π_E` and `N` of the model `π̂` to each of `P` prompts are draws of
their mixture, and both models are read in every state ``s_h`` that is passed, with their laws over
the whole vocabulary. So

    E_π Σ_h f(s_h) = E_mixture Σ_h w(s_h) f(s_h),    w(s) = 2 π(s)/(π_E(s) + π̂(s)) ≤ 2,    π(s) = ∏
    π(a_k|s_k) before s,

with, for ``KL(π_E‖π̂)``, ``π = π_E`` and ``f`` the divergence of the two laws at `s`, which is
known and not drawn. Weights are bounded, and what one policy seldom visits the other may visit
often: draws of `π_E` alone would give a narrower interval and, where few of them carry most of the
sum, one that is too narrow. Every estimate is unbiased.

The true reward is the expert's endogenous reward, ``r*(τ) = α log π_E(τ|s₁) + V*(s₁)``.

There are two kinds of intervals. Those of shares and of numbers between 0 and 1 (total variation,
affinity) are guaranteed: they cover with the confidence that is asked for, however few draws there
are and however rare what they count. Those of unbounded numbers (divergences, entropies, values)
are Student's, stratified by prompt and corrected for skewness: approximate, and blind to what no
draw met, which can have a probability of about ``3/N``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import expit

from llm_bridge.check.comparison import SHARES, within
from llm_bridge.models.head import evaluation
from llm_bridge.models.load import CausalLM, encode_prompt, require_same_vocabulary
from llm_bridge.read.beam import beam_search
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.rollout import Actor
from theory.arrays.memory import require_memory
from theory.arrays.namespace import require_positive
from theory.claims.bounds import preference_tv_of_pair
from theory.solve.reward import preference_tv

if TYPE_CHECKING:
    from theory.storage.runs import RunFolder
from llm_bridge.check.confidence import Estimate, _bounded, _interval, _share
from llm_bridge.check.draws import DRAWS, Draws, _block, _log_probs, _Pair, draw

__all__ = ["Sampled", "estimate", "estimates"]


@dataclass(frozen=True)
class Sampled:
    """A model against an expert, from draws.

    Attributes:
        prompts: `P`.
        responses: `N`, of each policy to each prompt.
        estimates: by name, averages over the prompts.
        closeness: nats, without intervals: the largest log-ratio in the states passed, over all
            tokens (`ε_π` is at least that), and quantiles of that of the expert's tokens, each
            prompt's, averaged over the prompts.
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


def estimates(
    expert: Draws,
    policy: Draws,
    alpha: float,
    *,
    confidence: float = 0.95,
    rl: tuple[np.ndarray, ...] | None = None,
) -> dict[str, Estimate]:
    """Estimate from draws of both policies.

    Preferences are those of pairs of the expert's responses, drawn independently (each response is
    in one pair). They are not defined (NaN) where `π̂` can write neither response of a pair.

    Let ``τ`` be the response that the beam found. ``V^{π_E} − r*(τ)`` is estimated without bias,
    and as no response has a larger ``log π̂`` than ``log π̂(τ) + shortfall``, it is at most ``α
    KL(π_E‖π̂) − α D(τ) + α shortfall`` with ``D = log π_E − log π̂``. That bounds the gap of ``τ``,
    not that of ``π_RL``, which plays the most probable response of all: where this may be another
    one, nothing is known of its ``log π_E`` but that it is at most 0. So the row of ``π_RL`` is
    that of ``τ`` where every prompt's ``τ`` is proven to be the most probable response, and
    otherwise has no value and a lower end only.

    Args:
        expert: drawn from `π_E`.
        policy: drawn from `π̂`, for the same prompts.
        alpha: temperature of the reward.
        confidence: of each interval by itself.
        rl: of the response that was found, ``(P,)`` each: ``log π_E``, ``log π̂``, and nats by
            which the most probable response may be more probable (the shortfall).

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
            "TV(π_E(τ), π̂(τ))": bounded(
                lambda d: np.abs(np.tanh((d.log_expert - d.log_policy) / 2))
            ),
            "affinity Σ √(π_E π̂)": bounded(lambda d: _sech(d.log_expert - d.log_policy)),
            f"{PAIRS}: mean TV": _bounded(preference_tv(true, read), confidence),
            f"{PAIRS}: mean tanh(α|D(τ)−D(τ')|/4)": _bounded(
                preference_tv_of_pair(true - read, 1.0), confidence
            ),
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


def estimate(
    lm: CausalLM,
    expert: CausalLM,
    prompts: Sequence[str],
    horizon: int,
    n: int,
    *,
    alpha: float = 1.0,
    temperature: float = 1.0,
    expert_temperature: float = 1.0,
    end_tokens: Sequence[int] = (),
    width: int = 64,
    confidence: float = 0.95,
    seed: int = 0,
    memory: int = 2**30,
    run: RunFolder | None = None,
) -> Sampled:
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
        run: folder of a run that depends on these arguments alone: what is read of each block of
            responses is kept in the files `DRAWS`, and not drawn again.

    Raises:
        ValueError: an argument is out of range, the vocabularies differ, a prompt does not fit, or
            a model has no head that gives its logits.

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
    require_memory(
        8 * numbers,
        f"n={n}: keeping {2 * len(ids) * n:,} responses",
        "draw fewer, or from fewer prompts",
    )
    actor = Actor(lm)
    pair = _Pair(
        (actor if expert is lm else Actor(expert), expert_temperature), (actor, temperature)
    )
    beam = beam_search(
        lm, prompts, horizon, width, end_tokens=end_tokens, temperature=temperature, memory=memory
    )
    with evaluation(lm.model), evaluation(expert.model):
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            draw(
                pair,
                own,
                ids,
                n,
                horizon,
                end_tokens=end_tokens,
                generator=generator,
                memory=memory,
                lines=None if run is None else run.lines(DRAWS[own], _block),
            )
            for own in (0, 1)
        ]
        # both are read here, in one way: those of the beam are rounded otherwise
        log_expert, log_policy = (_log_probs(*each, ids, beam.responses) for each in pair)
    rl = log_expert, log_policy, beam.shortfall
    closeness = {
        "largest in the states passed": float(max(each.largest_ratio.max() for each in drawn))
    }
    closeness |= within(np.mean([_quantiles(ratios) for ratios in drawn[0].token_ratios], axis=0))
    found = estimates(drawn[0], drawn[1], alpha, confidence=confidence, rl=rl)
    return Sampled(len(ids), n, found, closeness, float(beam.proven.mean()))


def _quantiles(ratios: np.ndarray) -> np.ndarray:
    """The least ratios that at most a share ``1 − s`` of all exceeds, for each `s` of `SHARES`; NaN
    of none.

    As `theory.claims.instance.Instance.log_ratio_quantiles` defines them.
    """
    if not len(ratios):
        return np.full(len(SHARES), np.nan)
    ranks = np.ceil(np.array(SHARES) * len(ratios) * (1 - 1e-12)).astype(int)
    return np.asarray(np.sort(ratios)[ranks - 1])
