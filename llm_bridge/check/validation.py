"""What the tables predict of a language model, and what is measured of it without them: points of
one picture.

*Predicted* is computed by `theory` from the model's token tree. *Measured* is what the model's own
code gives to a user who has no tree: texts that it wrote, scored by `EndogenousReward` and judged.
If both are right, every point lies on the diagonal, within its interval.

    quantity               predicted                              measured
    rewards of tokens      `endogenous_reward`, its table         `EndogenousReward.score` of texts
    the model wrote preferences            all pairs of responses, weighted       pairs drawn,
    scored and judged value of sampling      ``E_π̂ r*``, exact                      texts drawn,
    judged … of greedy decoding   first best token of every row          the text of `generate`
    without draws, judged … of the MAP response  `map_response`                         the text
    that `beam_search` found, judged … of ``π̂^κ``           `power_policy`, exact
    the drawn texts, weighted by ``π̂^{κ−1}``

A quantity that an error leaves alone says so by mathematics: the gauge moves no difference of
responses, the terminal rule no token but the last, a positive factor on `α` no order, and
temperature no greedy response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from llm_bridge.check.truth import Truth, Unit, on_tree, order, over_all_pairs
from llm_bridge.models.head import evaluation
from llm_bridge.models.load import CausalLM, encode_prompt
from llm_bridge.read.beam import beam_search
from llm_bridge.read.prefixes import require_integer
from llm_bridge.read.reward import EndogenousReward, Score
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.read.tree import token_tree
from theory.arrays.namespace import require_positive
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, greedy_response, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import Gauge, Terminal, endogenous_reward, preference_tv, returns
from theory.solve.soft import power_policy, soft_optimal

__all__ = [
    "Deviation",
    "Point",
    "Reading",
    "Validation",
    "deviations",
    "predicted_and_measured",
]

NORMAL = 1.959963984540054
"""Of 95 %, two-sided."""

ROUNDING = 2e-5
"""What is not random is measured in float32: to this fraction of itself, or of one unit where it is
smaller.
"""

ROWS = 8192
"""Responses that are written at once."""


class Point(NamedTuple):
    """A quantity as it is predicted and as it was measured.

    Attributes:
        quantity: what it is, such as ``"value of greedy decoding"``.
        label: of what, where there are many: the prompt, the response, the token.
        predicted: from tables, exact.
        measured: from the model.
        low: lower end of the measured number's 95 % interval, or of its rounding where it is not
            random.
        high: upper end.
        unit: ``"reward"`` (of tokens and responses), ``"probability"`` or ``"value"`` (reward
            units).

    """

    quantity: str
    label: str
    predicted: float
    measured: float
    low: float
    high: float
    unit: Unit

    @property
    def deviation(self) -> float:
        """Distance from the diagonal as a multiple of that side of the interval: up to 1 the point
        is on it.
        """
        gap = self.predicted - self.measured
        side = self.high - self.measured if gap > 0 else self.measured - self.low
        return abs(gap) / side if side > 0 else 0.0 if gap == 0 else float("inf")


class Deviation(NamedTuple):
    """How far points are from the diagonal: their number, the share on it, the largest deviation
    and gap.
    """

    points: int
    share: float
    largest: float
    gap: float


def deviations(points: Sequence[Point]) -> dict[str, Deviation]:
    """The deviations by quantity. With 95 % intervals, one random point in twenty is off the
    diagonal by a little.
    """
    found = {}
    for quantity in dict.fromkeys(point.quantity for point in points):
        some = [point for point in points if point.quantity == quantity]
        off = np.array([point.deviation for point in some])
        gap = np.abs(
            [point.predicted - point.measured for point in some]
        ).max()  # NaN, where one of them is
        found[quantity] = Deviation(
            len(some), float((off <= 1).mean()), float(off.max()), float(gap)
        )
    return found


@dataclass(frozen=True)
class Reading:
    """How a policy and its reward are read from logits `f`.

    Attributes:
        alpha: temperature of the reward.
        gauge: see `theory.solve.reward.endogenous_reward`.
        terminal: likewise.
        temperature: of the policy ``softmax(f/temperature)``. The tree is read at it, and responses
            are drawn and searched for at it; `EndogenousReward` always reads the model at 1, as the
            soft-optimal policy of ``α·f``.

    """

    alpha: float = 1.0
    gauge: Gauge = "logits"
    terminal: Terminal = "zero"
    temperature: float = 1.0


# --- Predicted and measured -----------------------------------------------------------------------


class Validation:
    """A model on `P` prompts, equally likely, with its token tree on one side and responses it
    wrote on the other.

    Args:
        lm: the model.
        prompts: `P` different texts.
        horizon: tokens `H` of a response.
        predicted: how the tree is read.
        measured: how the model is; as `predicted` unless an error is to be planted.
        end_tokens: ids after which a response is over.
        draws: responses drawn to each prompt, `N`.
        seed: of all draws.

    Raises:
        ValueError: an argument is out of range, the tree does not fit into memory, or a text that
            the model wrote is read back as other tokens.

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[str],
        horizon: int,
        *,
        predicted: Reading = Reading(),
        measured: Reading | None = None,
        end_tokens: Sequence[int] = (),
        draws: int = 64,
        seed: int = 0,
    ) -> None:
        require_integer("draws", draws)
        if draws < 2:
            raise ValueError(f"draws={draws}: must be at least 2 a prompt, for an interval")
        if len(set(prompts)) < len(prompts):
            raise ValueError("prompts: a text is given twice; give each once")
        self.lm, self.prompts, self.horizon = lm, tuple(prompts), horizon
        self.predicted, self.measured = predicted, predicted if measured is None else measured
        self.end_tokens, self.draws, self.seed = tuple(end_tokens), draws, seed
        read = self.predicted
        further = read.gauge == "logits" and read.terminal == "bootstrap"
        self.tree = token_tree(
            lm,
            prompts,
            horizon,
            end_tokens=end_tokens,
            temperature=read.temperature,
            terminal_layer=further,
        )
        self._ids, self._actor = (
            [encode_prompt(lm, prompt, horizon) for prompt in prompts],
            Actor(lm),
        )

    @property
    def policy(self) -> Policy:
        """`π̂` on the tree."""
        return self.tree.policy

    @cached_property
    def reward(self) -> TokenMDP:
        """The predicted endogenous reward."""
        read = self.predicted
        return endogenous_reward(self.policy, read.alpha, gauge=read.gauge, terminal=read.terminal)

    def rewards(self, responses: int = 1) -> list[Point]:
        """Rewards of every token, and their sum, of the first `responses` drawn to each prompt:
        reward units.

        The last token has a name of its own: only there and in the sum does the terminal rule act.
        A response that the model ended counts as one whose last token is the end token.
        """
        require_integer("responses", responses)
        rows = (
            np.arange(len(self.prompts))[:, None] * self.draws
            + np.arange(min(responses, self.draws))
        ).reshape(-1)
        prompts, ids = rows // self.draws, [self._drawn[0][row] for row in rows]
        points = []
        for p, own, predicted, score in zip(
            prompts,
            ids,
            self._predicted_tokens(prompts, ids),
            self._scores(prompts, ids),
            strict=True,
        ):
            label = f"{self.prompts[p]!r} {self.lm.tokenizer.decode(own)!r}"
            for h, (one, other) in enumerate(zip(predicted, score.rewards, strict=True)):
                name = (
                    "reward of the last token" if h == len(predicted) - 1 else "reward of a token"
                )
                points.append(_exact(name, f"{label} {h}", one, float(other), "reward"))
            total = float(predicted.sum())
            points.append(_exact("reward of a response", label, total, score.reward_sum, "reward"))
        return points

    def preferences(
        self, truth: Truth, *, pairs: int = 64, expert_share: float = 0.5, first: int | None = None
    ) -> list[Point]:
        """How often the model's reward orders two responses as the true one does, and the mean
        Bradley–Terry TV.

        The law of pairs: a prompt, all equally likely; two independent responses to it, each the
        expert's with probability `expert_share` and else uniform over the responses of
        ``truth.mdp``. A tie in either reward, such as a response drawn twice, is half an agreement.

        Args:
            truth: whose expert, and whose reward.
            pairs: drawn for each prompt, at least two, for an interval.
            expert_share: from 0 to 1.
            first: compare on so many of the prompts. All pairs of ``V^H`` responses are predicted
                from: 10⁴ of them take a second or two a prompt.

        """
        if not 0 <= expert_share <= 1:
            raise ValueError(f"expert_share={expert_share}: must be from 0 to 1")
        require_integer("pairs", pairs)
        if pairs < 2:
            raise ValueError(f"pairs={pairs}: must be at least 2 a prompt, for an interval")
        P = len(self.prompts)
        if first is not None:
            require_integer("first", first)
            P = min(first, P)
        rng = np.random.default_rng([self.seed, 1, round(1e6 * expert_share)])
        tokens = np.indices((truth.mdp.vocab_size,) * self.horizon).reshape(self.horizon, -1).T
        expert, known = soft_optimal(truth.mdp, truth.alpha).policy, self._with_ends(truth.mdp)
        exact, chosen = [], []
        for p in range(P):
            every = Responses(np.full(len(tokens), p), tokens)
            weights = (1 - expert_share) / len(tokens) + expert_share * np.exp(
                log_prob(expert, every)
            )
            exact.append(
                over_all_pairs(returns(known, every), returns(self.reward, every), weights)
            )
            chosen.append(rng.choice(len(tokens), size=2 * pairs, p=weights / weights.sum()))
        predicted = np.mean(exact, axis=0)
        prompts, ids = np.repeat(np.arange(P), 2 * pairs), list(tokens[np.concatenate(chosen)])
        true = self._judged(truth, prompts, ids).reshape(P, pairs, 2)
        read = self._scored(prompts, ids).reshape(P, pairs, 2)
        delta, other = true[..., 0] - true[..., 1], read[..., 0] - read[..., 1]
        signs = order(delta, np.abs(true).max()) * np.sign(other)
        law = f"pairs, {expert_share:.0%} of the expert"
        return [
            _share("preference agreement", law, predicted[0], (1 + signs) / 2),
            _mean(
                "mean preference error (TV)",
                law,
                predicted[1],
                preference_tv(delta, other),
                "probability",
            ),
        ]

    def values(self, truth: Truth, *, exponent: float = 2.0, width: int = 16) -> list[Point]:
        """Plain value, averaged over the prompts, of sampling, greedy decoding, the MAP response
        and ``π̂^κ``.

        That of ``π̂^κ`` is measured by self-normalised importance sampling, ``Σ w_i x_i / Σ w_i``
        with ``w = π̂^{κ−1}`` of the draws, for each prompt by itself. Its bias is of order ``1/N``,
        the same sign on every prompt, and so does not average out; its first order is estimated and
        taken off, which leaves ``1/N²``.

        Where the beam has not proven the MAP response, the interval holds whatever it may be worth.

        Args:
            truth: what responses are worth.
            exponent: `κ`.
            width: of the beam.

        """
        require_positive("exponent", exponent)
        mdp, unit = self._with_ends(truth.mdp), truth.unit
        known = {
            "greedy decoding": greedy_response(self.policy),
            "the MAP response": map_response(self.policy),
        }
        predicted = {
            name: float(returns(mdp, responses).mean()) for name, responses in known.items()
        }
        ids, log_probs = self._drawn
        worth = self._judged(truth, np.repeat(np.arange(len(self.prompts)), self.draws), ids)
        worth = worth.reshape(len(self.prompts), self.draws)
        estimate, error = _importance(worth, log_probs * (exponent - 1))
        power = float(plain_value(mdp, power_policy(self.policy, exponent)))
        sampled = float(plain_value(mdp, self.policy))
        name = f"value of π̂^{exponent:g}"
        return [
            _share("value of sampling", "", sampled, worth)
            if unit == "probability"
            else _mean("value of sampling", "", sampled, worth, unit),
            self._of_one_response(truth, "greedy decoding", predicted, self._generated(1, None)[0]),
            self._of_one_response(truth, "the MAP response", predicted, *self._searched(width)),
            _interval(name, "", power, estimate, error, unit),
        ]

    # --- Tables ---

    def _with_ends(self, mdp: TokenMDP) -> TokenMDP:
        P, V, known = len(self.prompts), self.lm.vocab_size - len(self.end_tokens), mdp.dynamics
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

    def _predicted_tokens(self, prompts: np.ndarray, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Rewards of the tokens of each response, from the table."""
        tokens = np.zeros((len(ids), self.horizon), dtype=int)  # after the end any: it is not kept
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = own
        states = self.policy.dynamics.walk(prompts, tokens)
        paid = np.stack(
            [r[s, a] for r, s, a in zip(self.reward.rewards, states, tokens.T, strict=True)], axis=1
        )
        return [row[: len(own)] for row, own in zip(paid, ids, strict=True)]

    # --- The model as a user has it ---

    @cached_property
    def _drawn(self) -> tuple[list[np.ndarray], np.ndarray]:
        return self._generated(self.draws, torch.Generator().manual_seed(self.seed))

    def _generated(
        self, samples: int, generator: torch.Generator | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of `samples` responses to each prompt, in a row, and ``log π̂(τ)``, ``(P, samples)``;
        or greedy ones.
        """
        ids: list[np.ndarray] = []
        log_probs = []
        with evaluation(self.lm.model):
            for rows in _chunks(len(self.prompts), max(1, ROWS // samples)):
                size = (len(self._ids[rows]) * samples, self.horizon)
                uniforms = (
                    None
                    if generator is None
                    else torch.rand(size, generator=generator, dtype=torch.double)
                )
                rollout = generate(
                    self._actor,
                    self._ids[rows],
                    self.horizon,
                    self.end_tokens,
                    uniforms=uniforms,
                    samples=samples,
                    temperature=self.measured.temperature,
                )
                ids += rollout.texts()[1]
                log_probs.append(rollout.log_probs.double().sum(dim=1).view(-1, samples).numpy())
        return ids, np.concatenate(log_probs)

    def _searched(self, width: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The best response that a beam finds to each prompt, and whether it is proven to be the
        MAP.
        """
        beam = beam_search(
            self.lm,
            self.prompts,
            self.horizon,
            width,
            end_tokens=self.end_tokens,
            temperature=self.measured.temperature,
        )
        return list(beam.responses), beam.proven

    def _of_one_response(
        self,
        truth: Truth,
        name: str,
        predicted: dict[str, float],
        ids: list[np.ndarray],
        proven: np.ndarray | None = None,
    ) -> Point:
        """The value of one response to each prompt; those that are not proven may be worth
        anything.
        """
        worth = self._judged(truth, np.arange(len(self.prompts)), ids)
        low, high = (
            (worth if proven is None else np.where(proven, worth, bound)).mean()
            for bound in truth.bounds
        )
        point = _exact(f"value of {name}", "", predicted[name], float(worth.mean()), truth.unit)
        return point._replace(low=min(point.low, float(low)), high=max(point.high, float(high)))

    def _texts(self, ids: Sequence[np.ndarray]) -> list[str]:
        return [self.lm.tokenizer.decode(row) for row in ids]

    def _asked(self, prompts: np.ndarray) -> list[str]:
        return [self.prompts[p] for p in prompts]

    def _scores(self, prompts: np.ndarray, ids: Sequence[np.ndarray]) -> list[Score]:
        """Of the texts of responses, which must be the responses again."""
        read, texts = self.measured, self._texts(ids)
        scorer = EndogenousReward(
            self.lm,
            alpha=read.alpha,
            gauge=read.gauge,
            terminal=read.terminal,
            end_tokens=self.end_tokens,
        )
        scores = scorer.score(self._asked(prompts), texts)
        for text, own, score in zip(texts, ids, scores, strict=True):
            if not np.array_equal(own, score.ids):
                raise ValueError(
                    f"{self.lm.name} wrote {own} and reads {text!r} as {score.ids}; give other "
                    "prompts"
                )
        return scores

    def _judged(self, truth: Truth, prompts: np.ndarray, ids: Sequence[np.ndarray]) -> np.ndarray:
        """``r*(τ)`` of each response, ``(n,)``."""
        return self._once(
            prompts, ids, lambda prompts, some: truth.judge(self._asked(prompts), self._texts(some))
        )

    def _scored(self, prompts: np.ndarray, ids: Sequence[np.ndarray]) -> np.ndarray:
        """``r̂(τ)`` of each response, ``(n,)``."""
        return self._once(
            prompts,
            ids,
            lambda prompts, some: np.array([one.reward_sum for one in self._scores(prompts, some)]),
        )

    @staticmethod
    def _once(
        prompts: np.ndarray,
        ids: Sequence[np.ndarray],
        of: Callable[[np.ndarray, list[np.ndarray]], np.ndarray],
    ) -> np.ndarray:
        """`of` the different ones among responses: a response that comes again has the same number
        to the last bit.
        """
        keys = [(p, own.tobytes()) for p, own in zip(prompts.tolist(), ids, strict=True)]
        places = {key: i for i, key in enumerate(keys)}
        found = of(prompts[list(places.values())], [ids[i] for i in places.values()])
        number = dict(zip(places, found, strict=True))
        return np.array([number[key] for key in keys])


def predicted_and_measured(
    lm: CausalLM,
    prompts: Sequence[str],
    horizon: int,
    truth: Truth,
    *,
    preference_truth: Truth | None = None,
    predicted: Reading = Reading(),
    measured: Reading | None = None,
    end_tokens: Sequence[int] = (),
    draws: int = 64,
    pairs: int = 64,
    seed: int = 0,
) -> list[Point]:
    """All quantities of the module's table, as `Validation` gives them.

    Args:
        lm: the model.
        prompts: `P` different texts.
        horizon: tokens `H` of a response.
        truth: what responses are worth, for the values.
        preference_truth: for the preferences, where it is another.
        predicted: how the tree is read.
        measured: how the model is; as `predicted` unless an error is to be planted.
        end_tokens: ids after which a response is over.
        draws: responses drawn to each prompt.
        pairs: pairs of responses drawn to each prompt.
        seed: of all draws.

    Raises:
        ValueError: see `Validation`.

    """
    one = Validation(
        lm,
        prompts,
        horizon,
        predicted=predicted,
        measured=measured,
        end_tokens=end_tokens,
        draws=draws,
        seed=seed,
    )
    return [
        *one.rewards(),
        *one.preferences(preference_truth or truth, pairs=pairs),
        *one.values(truth),
    ]


# --- Statistics -----------------------------------------------------------------------------------


def _exact(quantity: str, label: str, predicted: float, measured: float, unit: Unit) -> Point:
    half = ROUNDING * max(1.0, abs(measured))
    return Point(
        quantity, label, float(predicted), measured, measured - half, measured + half, unit
    )


def _interval(
    quantity: str, label: str, predicted: float, measured: float, error: float, unit: Unit
) -> Point:
    """Normal, of a standard error."""
    low, high = measured - NORMAL * error, measured + NORMAL * error
    return Point(quantity, label, float(predicted), measured, low, high, unit)


def _mean(quantity: str, label: str, predicted: float, values: np.ndarray, unit: Unit) -> Point:
    """Of values ``(P, N)``, stratified by prompt."""
    error = np.sqrt((values.var(axis=1, ddof=1) / values.shape[1]).mean() / len(values))
    return _interval(quantity, label, predicted, float(values.mean()), float(error), unit)


def _share(quantity: str, label: str, predicted: float, values: np.ndarray) -> Point:
    """Of values in [0, 1], Wilson's: no draw in a stratum varies more than a coin of the overall
    mean.
    """
    share, n = float(values.mean()), values.size
    scale = 1 + NORMAL**2 / n
    middle = (share + NORMAL**2 / (2 * n)) / scale
    half = NORMAL / scale * float(np.sqrt(share * (1 - share) / n + NORMAL**2 / (4 * n**2)))
    low, high = min(middle - half, share), max(middle + half, share)
    return Point(quantity, label, float(predicted), share, low, high, "probability")


def _importance(values: np.ndarray, log_weights: np.ndarray) -> tuple[float, float]:
    """``Σ w x / Σ w`` of each row of ``(P, N)``, averaged, less its bias to first order; and its
    standard error.

    With ``R`` the ratio, ``w̄`` the mean weight and residuals ``e_i = w_i (x_i − R)``: variance ``Σ
    e_i²/(N−1)/(N w̄²)`` and bias ``−Σ e_i w_i/(N−1)/(N w̄²)``, by Taylor's expansion (Tin 1965).
    """
    N = values.shape[1]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    mean = weights.mean(axis=1)
    ratio = (weights * values).mean(axis=1) / mean
    residuals = weights * (values - ratio[:, None])
    bias = -(residuals * weights).sum(axis=1) / (N - 1) / (N * mean**2)
    variance = (residuals**2).sum(axis=1) / (N - 1) / (N * mean**2)
    return float((ratio - bias).mean()), float(np.sqrt(variance.mean() / len(values)))


def _chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
