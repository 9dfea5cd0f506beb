"""Measure a policy in training by sampling, where its token tree is too large to enumerate.

The objective is that of the run, ``J(π) = V^π_r − β KL(π‖π̂) + η H(π)``, averaged over `P` fixed
prompts that are held out. Of each response that `π` writes, KL and entropy are those of the whole
distributions in its states, not of the tokens that were drawn: the same mean with less noise. So is
the reward where it is `π̂`'s own in the gauge ``"logprob"``: ``−α Σ_h (KL + H)``.

What training can reach is known without training (`llm_bridge.improve.target` has the formulas):

- *Enclosed.* Where the reward is `π̂`'s own, ``J* = (β+η) log Σ_τ π̂(τ)^κ`` with ``κ =
  (α+β)/(β+η)``. Any set of different responses bounds the sum from below. All others have a
  probability of at most some `q`, which a beam search knows, and together at most the rest `m` of
  the mass: they add at most ``m q^{κ−1}``.
- *Estimated.* For any reward, ``J* = (β+η) log E_π̂ exp((r − η log π̂)/(β+η))``, an average over
  responses that `π̂` has written. It is worth as much as it has effective samples, ``(Σw)²/Σw²``.

And what decoding gives without training is measured beside it: see `SampledTarget.start`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from llm_bridge.check.confidence import Estimate, mean_interval, share_interval
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.frozen import FrozenModels, expectations, precision
from llm_bridge.improve.policy import frozen_copy
from llm_bridge.improve.ppo import last_tokens
from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.processes import Workers
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.read.beam import Beam, beam_search
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.rollout import Actor, Rollout, generate
from llm_bridge.tasks.generated import Task
from llm_bridge.tasks.sampling import batches, rollout_texts, sample_texts

__all__ = ["EFFECTIVE", "SampledTarget", "enclosed_optimum", "weighted_optimum"]

CONFIDENCE = 0.95
"""Confidence of each interval."""

WIDTH = 16
"""Prefixes that the beam search for the most probable response keeps."""

EFFECTIVE = 4.0
"""Effective samples below which an average of weights says nothing: a few draws decide it."""


@dataclass(frozen=True, eq=False)
class Responses:
    """What a policy wrote, `k` responses to each of `P` prompts: arrays ``(P, k)``.

    Attributes:
        texts: `P` lists of `k` texts, without end tokens.
        tokens: `P` lists of `k` responses as token ids, end tokens included.
        rewards: rewards ``r(τ)`` of the tokens that were sampled, reward units.
        objective: numbers whose mean is ``J``, reward units.
        kl: KL to `π̂` in the states of the response, nats.
        entropy: entropy in the states of the response, nats.
        log_anchor: ``log π̂(τ)``, nats.
        right: whether the answer is right.
        cut: whether the response has no end token, where there are end tokens.

    """

    texts: list[list[str]]
    tokens: list[list[tuple[int, ...]]]
    rewards: np.ndarray
    objective: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    log_anchor: np.ndarray
    right: np.ndarray
    cut: np.ndarray


class SampledTarget:
    """Estimates of where a training run is, and of what it can reach, on a task held out.

    Args:
        lm: `π̂`.
        task: `P` prompts with right answers.
        config: hyperparameters of the run.
        teacher: teacher of the run, whose reward is maximised; `None` for `π̂` itself.
        samples: responses `k` to each prompt, at least 2.

    Raises:
        ValueError: there are fewer than 2 samples, or a prompt has no room.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> task = Task("letters", ("a", "b"), ("aa", "bb"))
        >>> config = PPOConfig(beta=1.0, max_tokens=2, end_tokens=())
        >>> found = SampledTarget(lm, task, config).report(lm)
        >>> found["letters/kl"], found["letters/objective"] < 0
        (0.0, True)

    """

    def __init__(
        self,
        lm: CausalLM,
        task: Task,
        config: PPOConfig,
        *,
        teacher: CausalLM | None = None,
        samples: int = 8,
    ) -> None:
        if samples < 2:
            raise ValueError(f"samples={samples}: must be at least 2, to know how they vary")
        self.task = task
        self.config = config
        self.samples = samples
        self.ends = find_end_tokens(lm, config.end_tokens)
        self.lm = frozen_copy(lm, config)
        self.prompts = [encode_prompt(lm, prompt, config.max_tokens) for prompt in task.prompts]
        models = [self.lm] if teacher is None else [self.lm, frozen_copy(teacher, config)]
        self.frozen = FrozenModels(models, config, self.ends, Workers())
        shape = len(self.prompts), samples, config.max_tokens
        generator = torch.Generator().manual_seed(config.seed)
        # the same numbers each time: policies that are alike write alike
        self._uniforms = torch.rand(*shape, generator=generator, dtype=torch.double)
        self._own = teacher is None and config.gauge == "logprob"

    def report(self, lm: CausalLM) -> dict[str, float]:
        """Measure a policy on the held-out prompts.

        Returns:
            By ``NAME/QUANTITY``, `NAME` that of the task: ``objective``, reward units; ``kl`` to
            `π̂` and ``entropy``, nats a response; ``sampled``, the probability of a right answer;
            ``cut``, that of a response without an end token. Each has an interval of 95 %
            confidence, ``QUANTITY_low`` and ``QUANTITY_high``: guaranteed for the two
            probabilities, approximate for the others (`llm_bridge.check.confidence`). Prompts are
            fixed, so the intervals are about sampling, not about other prompts. And ``greedy``, the
            share of right answers by greedy decoding, and what the task's `describe` returns for
            all responses together.

        """
        return self._named(self._measured(lm, self._sample(lm)))

    def start(self, lm: CausalLM) -> dict[str, float]:
        """Measure `π̂` before training: as `report`, and what decoding gives without training.

        Args:
            lm: the policy, still equal to `π̂`.

        Returns:
            What `report` returns, and shares of right answers: ``best``, the best of `k` responses
            by reward; ``vote``, the answer of most of `k`; ``cold``, tokens sampled at temperature
            ``(β+η)/(α+β)``, that is each from ``π̂(·|s)^κ``, normalised (unlike the optimum ``π̂^κ``,
            which weighs what a token leads to); ``map``, the most probable response that a beam
            found, with ``map_proven``, the share of prompts where it is proven to be that.
            ``optimum_low`` and ``optimum_high`` enclose ``J*`` where the reward is `π̂`'s own, and
            ``power_low`` and ``power_high`` the probability of a right answer of the optimum
            itself, that is of sampling from `π̂`'s power; ``optimum`` and ``optimum_sampled``
            estimate the two from weighted samples, NaN where a prompt has fewer than `EFFECTIVE`
            effective ones: ``effective_samples`` is the fewest of a prompt.

        Raises:
            ValueError: only checked answers are rewarded, and none is right.

        """
        drawn = self._sample(lm)
        c = self.config
        if c.checked and not c.alpha + c.entropy and not drawn.right.any():
            raise ValueError(
                f"{self.task.name}: none of {drawn.right.size} responses is right, so checked "
                "answers teach nothing; give an easier task, or a better model"
            )
        found = self._measured(lm, drawn)
        best = drawn.rewards.argmax(axis=1)
        rows = range(len(self.prompts))
        found |= _share("best", drawn.right[rows, best])
        votes = [self.task.vote(texts) for texts in drawn.texts]
        answers = zip(votes, self.task.answers, strict=True)
        found |= _share(
            "vote", np.array([v is not None and self.task.same(a, v) for v, a in answers])
        )
        with precision(lm.model, c):
            if c.alpha > 0 and c.beta + c.entropy > 0 and self._own:
                cold = sample_texts(
                    lm,
                    self.task.prompts,
                    c.max_tokens,
                    samples=self.samples,
                    end_tokens=self.ends,
                    seed=c.seed,
                    temperature=(c.beta + c.entropy) / (c.alpha + c.beta),
                )
                found |= _share("cold", self.task.correct(cold.texts))
        # in the weights' own precision, in which continuations can share the cache of their prefix
        beam = beam_search(self.lm, self.task.prompts, c.max_tokens, WIDTH, end_tokens=self.ends)
        texts = [
            lm.tokenizer.decode([t for t in row.tolist() if t not in self.ends])
            for row in beam.responses
        ]
        beam_right = self.task.correct(texts)
        found["map"] = float(beam_right.mean())
        found["map_proven"] = float(beam.proven.mean())
        return self._named(found | self._optimum(drawn, beam, beam_right))

    def _optimum(self, drawn: Responses, beam: Beam, beam_right: np.ndarray) -> dict[str, float]:
        """Enclose and estimate ``J*``, reward units, and estimate what else the optimum has."""
        c = self.config
        found: dict[str, float] = {}
        if c.adaptive_kl is not None:
            return found
        spread = c.beta + c.entropy
        missing = c.missing_end if self.ends else 0.0
        if self._own and not missing and not c.checked and c.alpha >= c.entropy:
            pairs = []
            rights = []
            for i, response in enumerate(beam.responses):
                known = dict(zip(drawn.tokens[i], drawn.log_anchor[i].tolist(), strict=True))
                judged = dict(zip(drawn.tokens[i], drawn.right[i].tolist(), strict=True))
                best = tuple(response.tolist())
                known[best] = float(beam.log_probs[i])
                judged[best] = bool(beam_right[i])
                most = max(float(beam.missed[i]), known[best])
                log_probs = list(known.values())
                pairs.append(enclosed_optimum(log_probs, most, c.alpha, c.beta, spread))
                if spread:
                    rights.append(
                        _enclosed_share(
                            log_probs, list(judged.values()), pairs[-1][1], c.alpha + c.beta, spread
                        )
                    )
            low, high = np.mean(pairs, axis=0)
            found |= {"optimum_low": float(low), "optimum_high": float(high)}
            if rights:
                low, high = np.mean(rights, axis=0)
                found |= {"power_low": float(low), "power_high": float(high)}
        if spread > 0:
            charged = drawn.rewards - c.entropy * drawn.log_anchor
            value, weights, effective = weighted_optimum(charged, spread)
            enough = bool((effective >= EFFECTIVE).all())
            found["effective_samples"] = float(effective.min())
            found["optimum"] = float(value.mean()) if enough else math.nan
            right = float((weights * drawn.right).sum(axis=1).mean())
            found["optimum_sampled"] = right if enough else math.nan
        return found

    def _measured(self, lm: CausalLM, drawn: Responses) -> dict[str, float]:
        with precision(lm.model, self.config):
            greedy = sample_texts(
                lm, self.task.prompts, self.config.max_tokens, seed=None, end_tokens=self.ends
            )
        found = {
            **_flat("objective", mean_interval([drawn.objective], CONFIDENCE)),
            **_flat("kl", mean_interval([drawn.kl], CONFIDENCE, low=0.0)),
            **_flat("entropy", mean_interval([drawn.entropy], CONFIDENCE, low=0.0)),
            **_share("sampled", drawn.right),
            "greedy": float(self.task.correct(greedy.texts).mean()),
        }
        if self.task.describe is not None:
            found |= self.task.describe([text for row in drawn.texts for text in row])
        return found | (_share("cut", drawn.cut) if self.ends else {})

    def _named(self, found: dict[str, float]) -> dict[str, float]:
        return {f"{self.task.name}/{name}": value for name, value in found.items()}

    def _sample(self, lm: CausalLM) -> Responses:
        """Sample `k` responses to each prompt, and read what they are worth."""
        c = self.config
        size = max(1, c.prompts_per_step * c.samples // self.samples)
        texts: list[list[str]] = [[] for _ in self.prompts]
        tokens: list[list[tuple[int, ...]]] = [[] for _ in self.prompts]
        numbers = {
            name: np.empty((len(self.prompts), self.samples))
            for name in ("rewards", "objective", "kl", "entropy", "log_anchor", "cut")
        }
        actor = Actor(lm)
        with evaluation(lm.model):
            for rows in batches(self.prompts, size):
                with precision(actor, c):
                    rollout = generate(
                        actor,
                        [self.prompts[i] for i in rows],
                        c.max_tokens,
                        self.ends,
                        uniforms=self._uniforms[rows].flatten(0, 1),
                        samples=self.samples,
                    )
                written = rollout_texts(lm, rollout, self.ends)
                ids = [tuple(row.tolist()) for row in rollout.texts()[1]]
                right = self._right(rows, written)
                for name, values in self._read(actor, rollout, right.ravel()).items():
                    numbers[name][rows] = values.reshape(len(rows), self.samples)
                for j, i in enumerate(rows):
                    of_one = slice(j * self.samples, (j + 1) * self.samples)
                    texts[i] = written[of_one]
                    tokens[i] = ids[of_one]
        return Responses(texts, tokens, **numbers, right=self.task.correct(texts))

    def _right(self, rows: Sequence[int], written: Sequence[str]) -> np.ndarray:
        """Return whether responses to some prompts are right: ``(len(rows), k)``."""
        by_prompt = [written[j * self.samples : (j + 1) * self.samples] for j in range(len(rows))]
        return self.task.take(rows).correct(by_prompt)

    def _read(self, actor: Actor, rollout: Rollout, right: np.ndarray) -> dict[str, np.ndarray]:
        """Return the numbers of `Responses` for a rollout, ``(N,)`` each."""
        c = self.config
        mask = rollout.response_mask
        raw, reference, distances = self.frozen.score_and_distances(rollout, c.beta)
        kl, entropy = (
            of_states.double().sum(dim=1)
            for of_states in expectations(actor, rollout, distances, c, Workers())
        )
        cut = (last_tokens(mask) & ~rollout.ended[:, None]).any(dim=1).double()
        extra = c.checked * torch.from_numpy(right).to(cut)
        if self.ends:
            extra = extra - c.missing_end * cut
        rewards = raw.double().sum(dim=1) + extra
        earned = -c.alpha * (kl + entropy) + extra if self._own else rewards
        columns = {
            "rewards": rewards,
            "objective": earned - c.beta * kl + c.entropy * entropy,
            "kl": kl,
            "entropy": entropy,
            "log_anchor": reference.double().sum(dim=1),
            "cut": cut,
        }
        return {name: column.cpu().numpy() for name, column in columns.items()}


def enclosed_optimum(
    log_probs: Sequence[float], most: float, alpha: float, beta: float, spread: float
) -> tuple[float, float]:
    """Bound ``J* = spread · log Σ_τ π̂(τ)^κ``, ``κ = (α + β)/spread``, from below and above.

    Args:
        log_probs: ``log π̂(τ)`` of different responses, nats.
        most: upper bound of ``log π̂(τ)`` of all others, ``-inf`` if there are none.
        alpha: temperature `α` of the reward.
        beta: coefficient `β` of the KL penalty.
        spread: ``β + η``, at most ``α + β``; 0 for the limit, ``α max log π̂``.

    Returns:
        Low and high bound, reward units.

    Example:
        >>> low, high = enclosed_optimum([np.log(0.5), np.log(0.25)], np.log(0.25), 1.0, 1.0, 1.0)
        >>> bool(low == np.log(0.3125)), bool(high == np.log(0.3125 + 0.25 * 0.25))
        (True, True)

    """
    known = np.asarray(log_probs, dtype=float)
    if not spread:
        return float(alpha * known.max()), float(alpha * max(known.max(), most))
    power = (alpha + beta) / spread
    found = float(logsumexp(power * known))
    rest = 1 - math.exp(min(float(logsumexp(known)), 0.0))
    if not rest or most == -math.inf:
        return spread * found, spread * found
    # the others have the mass `rest`, and none has more than all of it
    others = math.log(rest) + (power - 1) * min(most, math.log(rest))
    return spread * found, spread * float(np.logaddexp(found, others))


def _enclosed_share(
    log_probs: Sequence[float], right: Sequence[bool], high: float, scale: float, spread: float
) -> tuple[float, float]:
    """Bound the probability of a right answer under ``π̂^κ``, ``κ = scale/spread``: what is not
    known, at most the rest up to the upper bound `high` of ``J*``, may be all wrong or all right.
    """
    weights = np.exp((scale * np.asarray(log_probs) - high) / spread)
    known = float(weights[np.asarray(right, dtype=bool)].sum())
    rest = max(0.0, 1.0 - float(weights.sum()))
    return known, min(1.0, known + rest)


def weighted_optimum(
    charged: np.ndarray, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the optimum of each prompt from responses of `π̂`, by importance weights.

    Args:
        charged: ``(P, k)`` rewards ``r − η log π̂`` of the responses.
        spread: ``β + η``, above 0.

    Returns:
        Estimates of ``J*`` ``(P,)``, reward units; weights ``(P, k)``, which sum to 1 for each
        prompt; and effective samples ``(P,)``, from 1 to `k`.

    Example:
        >>> value, weights, effective = weighted_optimum(np.log([[1.0, 3.0]]), 1.0)
        >>> [float(x.round(4)) for x in (value[0], weights[0, 1], effective[0])]
        [0.6931, 0.75, 1.6]

    """
    scaled = charged / spread
    total = logsumexp(scaled, axis=1, keepdims=True)
    weights = np.exp(scaled - total)
    value = spread * (total[:, 0] - math.log(charged.shape[1]))
    return value, weights, 1 / (weights**2).sum(axis=1)


def _flat(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _share(name: str, events: np.ndarray) -> dict[str, float]:
    return _flat(name, share_interval(np.asarray(events, dtype=float), CONFIDENCE))
