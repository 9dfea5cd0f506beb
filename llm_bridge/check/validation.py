"""What the tables predict of a language model, and what is measured of it without them: points of
one picture.

*Predicted* is computed by `theory` from the model's token tree. *Measured* is what the model's own
code gives to a user who has no tree: texts that it sampled, scored by `EndogenousReward` and
judged. If both are right, every point lies on the diagonal, within its interval.

    quantity                    predicted                             measured
    rewards of tokens           `RewardReading.of_policy`, a table    `EndogenousReward.score` of
                                                                      texts that the model sampled
    preferences                 all pairs of responses, weighted      pairs sampled, scored, judged
    value of sampling           ``E_π̂ r*``, exact                    texts sampled, judged
    … of greedy decoding        first best token of every row         greedy text of `generate`
    … of the MAP response       `map_response`                        text that `beam_search` found
    … of ``π̂²``                `power_policy`, exact                 sampled texts, weighted by `π̂`

A quantity that an error leaves alone says so by mathematics: the gauge moves no difference of
responses, the terminal rule no token but the last, a positive factor on `α` no order, and
temperature no greedy response.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch

from llm_bridge.check.points import (
    Point,
    Sampling,
    chance,
    exact_point,
    importance_mean,
    interval_point,
    mean_point,
    share_point,
)
from llm_bridge.check.truth import Answer, Truth, as_ids, on_tree, order, over_all_pairs
from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, decode_answer, encode_answer, encode_prompt
from llm_bridge.read.beam import beam_search
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.reward import EndogenousReward, RewardReading, Score
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.read.tree import TokenTree, token_tree
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, greedy_response, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, plain_value
from theory.solve.reward import preference_tv, returns
from theory.solve.soft import power_policy, soft_optimal

__all__ = ["Validation"]

Response: TypeAlias = tuple[int, tuple[int, ...]]
"""Number of the prompt, and token ids."""

AS_IDS = "responses are scored as the token ids that were sampled, since their texts have others"

ROWS = 8192
"""Responses that are generated at once."""

WIDTH = 16
"""Of the beam that searches for the MAP response."""


class Validation:
    """Hold a model on `P` prompts, equally likely, with its token tree on one side and responses it
    sampled on the other.

    Args:
        lm: the model.
        prompts: `P` different texts or conversations.
        horizon: tokens `H` of a response.
        reading: how the reward is read, on both sides.
        sampling: how much is sampled.
        temperature: of the policy ``softmax(f/temperature)``, on both sides. `EndogenousReward`
            reads the model at 1 always, so that at another temperature its rewards are not those
            of the tree.
        end_tokens: ids after which a response is over.

    Raises:
        ValueError: an argument is out of range, or the tree does not fit into memory.

    Example:
        >>> from llm_bridge.check.truth import model_truth
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm, expert = letter_lm(3), letter_lm(3, seed=1)
        >>> points = Validation(lm, ["a", "b"], 2).points(model_truth(expert, ["a", "b"], 2))
        >>> all(abs(p.predicted - p.measured) <= p.tolerance for p in points)
        True

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[Prompt],
        horizon: int,
        *,
        reading: RewardReading = RewardReading(),  # noqa: B008
        sampling: Sampling = Sampling(),  # noqa: B008
        temperature: float = 1.0,
        end_tokens: Sequence[int] = (),
    ) -> None:
        if len({repr(prompt) for prompt in prompts}) < len(prompts):
            raise ValueError("prompts: a text is given twice; give each once")
        self.lm = lm
        self.prompts = tuple(prompts)
        self.horizon = horizon
        self.reading = reading
        self.sampling = sampling
        self.end_tokens = tuple(end_tokens)
        self.temperature = temperature
        self._measured = reading
        self._measured_temperature = temperature
        self._ids = [encode_prompt(lm, prompt, horizon) for prompt in prompts]
        self._actor = Actor(lm)

    def planted(
        self, reading: RewardReading | None = None, temperature: float | None = None
    ) -> Validation:
        """Return the same predictions beside measurements with an error, to see it found.

        Args:
            reading: how the measured rewards are read; `None` as the predicted ones.
            temperature: at which responses are sampled and searched for; `None` as the tree's.

        """
        other = copy.copy(self)
        other.__dict__.pop("_sampled", None)
        if reading is not None:
            other._measured = reading
        if temperature is not None:
            other._measured_temperature = temperature
        return other

    def points(self, truth: Truth) -> list[Point]:
        """Return all quantities of the module's table.

        Args:
            truth: what responses are worth.

        Raises:
            ValueError: see `Validation`.

        """
        return [*self.rewards(), *self.preferences(truth), *self.values(truth)]

    # --- Predicted and measured ---

    @cached_property
    def tree(self) -> TokenTree:
        """Return the model's token tree."""
        return token_tree(
            self.lm,
            self.prompts,
            self.horizon,
            end_tokens=self.end_tokens,
            temperature=self.temperature,
            terminal_layer=self.reading.terminal == "bootstrap",
        )

    @property
    def policy(self) -> Policy:
        """Return `π̂` on the tree."""
        return self.tree.policy

    @cached_property
    def reward(self) -> TokenMDP:
        """Return the predicted endogenous reward."""
        return self.reading.of_policy(self.policy)

    def rewards(self, responses: int = 1) -> list[Point]:
        """Compare the reward of every token, and their sum, of the first `responses` sampled to
        each prompt: reward units.

        The last token has a name of its own: only there and in the sum does the terminal rule act.
        A response that the model ended counts as one whose last token is the end token.
        """
        require_integer("responses", responses)
        draws = self.sampling.draws
        first = [one for k, one in enumerate(self._sampled[0]) if k % draws < responses]
        points = []
        for prompt, text, predicted, score in zip(
            *self._texts(first), self._predicted_tokens(first), self._scores(first), strict=True
        ):
            label = f"{prompt!r} {text!r}"
            names = ["reward of a token"] * (len(predicted) - 1) + ["reward of the last token"]
            for h, each in enumerate(zip(names, predicted, score.rewards, strict=True)):
                name, one, other = each
                points.append(exact_point(name, f"{label} {h}", one, float(other), "reward"))
            total = float(predicted.sum())
            points.append(
                exact_point("reward of a response", label, total, score.reward_sum, "reward")
            )
        return points

    def preferences(
        self, truth: Truth, *, expert_share: float = 0.5, first: int | None = None
    ) -> list[Point]:
        """Compare how often the model's reward orders two responses as the true one does, and the
        mean Bradley–Terry TV.

        Distribution of pairs: a prompt, all equally likely; two independent responses to it, each
        the expert's with probability `expert_share` and else uniform over the responses of
        ``truth.mdp``. A tie in either reward, such as a response sampled twice, is half an
        agreement.

        Args:
            truth: whose expert, and whose reward.
            expert_share: from 0 to 1.
            first: compare on so many of the prompts. All pairs of ``V^H`` responses are predicted
                from: 10⁴ of them take a second or two a prompt.

        """
        if not 0 <= expert_share <= 1:
            raise ValueError(f"expert_share={expert_share}: must be from 0 to 1")
        pairs = self.sampling.pairs
        P = len(self.prompts)
        if first is not None:
            require_integer("first", first)
            P = min(first, P)
        rng = np.random.default_rng([self.sampling.seed, 1, round(1e6 * expert_share)])
        tokens = np.indices((truth.mdp.vocab_size,) * self.horizon).reshape(self.horizon, -1).T
        expert = soft_optimal(truth.mdp, truth.alpha).policy
        known = self._with_ends(truth.mdp)
        exact: list[tuple[float, float]] = []
        chosen: list[Response] = []
        for p in range(P):
            every = Responses(np.full(len(tokens), p), tokens)
            weights = (1 - expert_share) / len(tokens) + expert_share * np.exp(
                log_prob(expert, every)
            )
            exact.append(
                over_all_pairs(returns(known, every), returns(self.reward, every), weights)
            )
            rows = rng.choice(len(tokens), size=2 * pairs, p=weights / weights.sum())
            chosen += [(p, tuple(ids)) for ids in tokens[rows].tolist()]
        predicted = np.mean(exact, axis=0)
        true = self._judged(truth, chosen).reshape(P, pairs, 2)
        read = self._once(
            chosen, lambda some: np.array([score.reward_sum for score in self._scores(some)])
        ).reshape(P, pairs, 2)
        delta = true[..., 0] - true[..., 1]
        other = read[..., 0] - read[..., 1]
        signs = order(delta, np.abs(true).max()) * np.sign(other)
        label = f"pairs, {expert_share:.0%} of the expert"
        agreement = ("preference agreement", label)
        error = ("mean preference error (TV)", label)
        tv = preference_tv(delta, other)
        confidence = self.sampling.confidence
        allowed = chance(predicted[1], (0.0, 1.0), P * pairs)
        return [
            share_point(agreement, predicted[0], (1 + signs) / 2, confidence),
            mean_point(error, predicted[1], tv, "probability", confidence, allowed),
        ]

    def values(self, truth: Truth) -> list[Point]:
        """Compare the plain value, averaged over the prompts, of sampling, greedy decoding, the
        MAP response and ``π̂²``.

        That of ``π̂²`` is measured by self-normalised importance sampling, ``Σ w_i x_i / Σ w_i``
        with ``w = π̂`` of the draws, for each prompt by itself. Its bias is of order ``1/N``,
        the same sign on every prompt, and so does not average out; its first order is estimated and
        taken off, which leaves ``1/N²``.

        Where the beam has not proven the MAP response, the interval holds whatever it may be worth.

        Args:
            truth: what responses are worth.

        """
        mdp = self._with_ends(truth.mdp)
        unit = truth.unit
        sampled_ids, log_probs = self._sampled
        P, draws = log_probs.shape
        confidence = self.sampling.confidence
        worth = self._judged(truth, sampled_ids).reshape(P, draws)
        estimate, error, n = importance_mean(worth, log_probs)
        power = float(plain_value(mdp, power_policy(self.policy, 2.0)))
        sampled = float(plain_value(mdp, self.policy))
        name = ("value of sampling", "")
        if unit == "probability":
            sampling = share_point(name, sampled, worth, confidence)
        else:
            spread = self.policy.dynamics.average(covariance(self.policy, mdp.rewards, mdp.rewards))
            allowed = chance(sampled, truth.bounds, P * draws, float(spread))
            sampling = mean_point(name, sampled, worth, unit, confidence, allowed)
        greedy, best = (
            float(returns(mdp, find(self.policy)).mean())
            for find in (greedy_response, map_response)
        )
        beam = beam_search(
            self.lm,
            self.prompts,
            self.horizon,
            WIDTH,
            end_tokens=self.end_tokens,
            temperature=self._measured_temperature,
        )
        found = [(p, tuple(ids.tolist())) for p, ids in enumerate(beam.responses)]
        powered = ("value of π̂^2", "")
        allowed = chance(power, truth.bounds, n)
        return [
            sampling,
            self._of_one_response(truth, "greedy decoding", greedy, self._generated(1, None)[0]),
            self._of_one_response(truth, "the MAP response", best, found, beam.proven),
            interval_point(powered, power, estimate, error, unit, confidence, allowed),
        ]

    # --- Tables ---

    def _with_ends(self, mdp: TokenMDP) -> TokenMDP:
        P = len(self.prompts)
        V = self.lm.vocab_size - len(self.end_tokens)
        known = mdp.dynamics
        if (known.n_prompts, known.vocab_size, mdp.horizon) != (
            P,
            V,
            self.horizon,
        ) or mdp.batch_shape:
            have = f"{known.n_prompts} prompts, {known.vocab_size} tokens, horizon {mdp.horizon}"
            raise ValueError(
                f"truth: {have}; must be one MDP of {P}, {V} (those that go on) and {self.horizon}"
            )
        if any(end < V for end in self.end_tokens):
            raise ValueError(
                f"end_tokens={self.end_tokens}: must come after the {V} tokens that the true "
                "reward has"
            )
        return on_tree(mdp, self.tree)

    def _predicted_tokens(self, written: Sequence[Response]) -> list[np.ndarray]:
        """Return the rewards of the tokens of each response, from the table."""
        # after the end any token: it is not kept
        tokens = np.zeros((len(written), self.horizon), dtype=int)
        for row, (_, ids) in zip(tokens, written, strict=True):
            row[: len(ids)] = ids
        states = self.policy.dynamics.walk(np.array([p for p, _ in written]), tokens)
        paid = np.stack(
            [r[s, a] for r, s, a in zip(self.reward.rewards, states, tokens.T, strict=True)], axis=1
        )
        return [row[: len(ids)] for row, (_, ids) in zip(paid, written, strict=True)]

    # --- The model as a user has it ---

    @cached_property
    def _sampled(self) -> tuple[list[Response], np.ndarray]:
        generator = torch.Generator().manual_seed(self.sampling.seed)
        return self._generated(self.sampling.draws, generator)

    def _generated(
        self, samples: int, generator: torch.Generator | None
    ) -> tuple[list[Response], np.ndarray]:
        """Return `samples` responses to each prompt, in a row, and ``log π̂(τ)``, ``(P,
        samples)``; greedy ones without a generator.
        """
        written: list[Response] = []
        log_probs: list[np.ndarray] = []
        with evaluation(self.lm.model):
            size = max(1, ROWS // samples)
            for start in range(0, len(self._ids), size):
                prompts = self._ids[start : start + size]
                uniforms = None
                if generator is not None:
                    shape = len(prompts) * samples, self.horizon
                    uniforms = torch.rand(shape, generator=generator, dtype=torch.double)
                rollout = generate(
                    self._actor,
                    prompts,
                    self.horizon,
                    self.end_tokens,
                    uniforms=uniforms,
                    samples=samples,
                    temperature=self._measured_temperature,
                )
                written += [
                    (start + k // samples, tuple(ids.tolist()))
                    for k, ids in enumerate(rollout.texts()[1])
                ]
                log_probs.append(rollout.log_probs.double().sum(dim=1).view(-1, samples).numpy())
        return written, np.concatenate(log_probs)

    def _of_one_response(
        self,
        truth: Truth,
        name: str,
        predicted: float,
        written: Sequence[Response],
        proven: np.ndarray | bool = True,
    ) -> Point:
        """Compare the value of one response to each prompt; those that are not proven may be worth
        anything.
        """
        worth = self._judged(truth, written)
        least, most = (float(np.where(proven, worth, bound).mean()) for bound in truth.bounds)
        point = exact_point(f"value of {name}", "", predicted, float(worth.mean()), truth.unit)
        low = min(point.low, least)
        high = max(point.high, most)
        tolerance = max(point.measured - low, high - point.measured)
        return point._replace(low=low, high=high, tolerance=tolerance)

    def _texts(self, written: Sequence[Response]) -> tuple[list[Prompt], list[str]]:
        """Return the prompts and the texts of the responses."""
        texts = [decode_answer(self.lm, self._ids[p], ids) for p, ids in written]
        return [self.prompts[p] for p, _ in written], texts

    def _readable(self, written: Sequence[Response]) -> tuple[list[Prompt], list[Answer]]:
        """Return the prompts and the responses: texts, or token ids where a text has others."""
        prompts, texts = self._texts(written)
        answers: list[Answer] = []
        for prompt, text, (_, ids) in zip(prompts, texts, written, strict=True):
            try:
                same = encode_answer(self.lm, prompt, text, "response") == list(ids)
            except ValueError:  # such as a part of a character
                same = False
            if not same:
                self.lm.text_notes.add(AS_IDS, (repr(prompt), ids), f"{ids} for {text!r}")
            answers.append(text if same else ids)
        return prompts, answers

    def _scores(self, written: Sequence[Response]) -> list[Score]:
        """Score responses as they are read from their texts."""
        scorer = EndogenousReward(self.lm, reading=self._measured, end_tokens=self.end_tokens)
        answers = [
            as_ids(self.lm, prompt, answer)
            for prompt, answer in zip(*self._readable(written), strict=True)
        ]
        return scorer.score_ids([self._ids[p] for p, _ in written], answers)

    def _judged(self, truth: Truth, written: Sequence[Response]) -> np.ndarray:
        """Judge each response: ``r*(τ)``, ``(n,)``."""
        return self._once(written, lambda some: truth.judge(*self._readable(some)))

    @staticmethod
    def _once(
        written: Sequence[Response], of: Callable[[list[Response]], np.ndarray]
    ) -> np.ndarray:
        """Call `of` for the different ones among responses: a response that comes again has the
        same number to the last bit.
        """
        different = list(dict.fromkeys(written))
        number = dict(zip(different, of(different), strict=True))
        return np.array([number[one] for one in written])
