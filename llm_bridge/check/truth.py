"""What responses are really worth, and how far another reward is from that.

A `Truth` holds the same worth twice: as a table to predict from, and as a judge of texts for a user
who has no table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.special import expit

from llm_bridge.check.points import PointUnit
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_answer, encode_prompt
from llm_bridge.read.reward import EndogenousReward, RewardReading
from llm_bridge.read.tree import TokenTree, token_tree
from llm_bridge.tasks.generated import Task
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import covariance, occupancy
from theory.solve.reward import endogenous_reward

__all__ = [
    "Answer",
    "Truth",
    "as_ids",
    "mdp_truth",
    "model_truth",
    "on_tree",
    "order",
    "over_all_pairs",
    "reward_distance",
    "task_truth",
]

Answer: TypeAlias = str | Sequence[int]
"""A response as its text, or as token ids where its text has others."""

TIE = 1e-9
"""Returns that differ by less than this fraction of the largest are the same, added in another
order.
"""

BLOCK = 512
"""Responses that are compared with all others at once."""


# --- The truth ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Truth:
    """Say what responses are worth, to a table and to a judge of texts.

    Attributes:
        mdp: the true reward `r*` on the tokens ``0 … V−1`` of the model, its prompts in the model's
            order.
        judge: ``r*(τ)``: prompts and responses to them, `n` texts (or token ids) each, to ``(n,)``.
        unit: of a response's worth: ``"probability"`` if it is right or wrong, ``"value"``
            otherwise.
        bounds: no response is worth less or more.
        alpha: temperature at which the expert is soft-optimal for `mdp`.

    """

    mdp: TokenMDP
    judge: Callable[[Sequence[Prompt], Sequence[Answer]], np.ndarray]
    unit: PointUnit
    bounds: tuple[float, float]
    alpha: float = 1.0


def mdp_truth(lm: CausalLM, prompts: Sequence[Prompt], mdp: TokenMDP, alpha: float) -> Truth:
    """Take the return of a token MDP as the truth; a response is over, and earns nothing more, at
    a token that the MDP does not have.

    Args:
        lm: its tokenizer says which tokens a text has: id `a` is the MDP's token `a`.
        prompts: the text of each prompt of the MDP, in its order.
        mdp: without batch axes, any successor rule: texts are judged on it as it is, and not on its
            tree.
        alpha: temperature at which the expert is soft-optimal.

    Raises:
        ValueError: a prompt is given twice.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])  # the second token earns 1
        >>> truth = mdp_truth(letter_lm(2, 1), ["A"], mdp, alpha=1.0)
        >>> truth.judge(["A", "A"], ["a", "b"]).tolist()
        [0.0, 1.0]

    """
    _require_different(prompts)
    place, (low, high) = {repr(one): p for p, one in enumerate(prompts)}, mdp.reward_range

    def judge(prompts: Sequence[Prompt], responses: Sequence[Answer]) -> np.ndarray:
        ids = [
            np.array(as_ids(lm, prompt, response), dtype=int)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        tokens = np.full((len(ids), mdp.horizon), mdp.vocab_size)
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = own
        alive = np.cumprod(tokens < mdp.vocab_size, axis=1)
        tokens = tokens * alive
        states = mdp.dynamics.walk(np.array([place[repr(one)] for one in prompts]), tokens)
        paid = [r[s, a] for r, s, a in zip(mdp.rewards, states, tokens.T, strict=True)]
        return np.asarray((np.stack(paid, axis=1) * alive).sum(axis=1))

    return Truth(mdp, judge, "value", (min(mdp.horizon * low, 0.0), mdp.horizon * high), alpha)


def task_truth(lm: CausalLM, task: Task) -> Truth:
    """Take right and wrong as the truth: 1 for the answer, all of the response, 0 for any other.

    Raises:
        ValueError: the answers have different lengths in tokens or tokens that the model does not
            have, or a prompt is given twice.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> truth = task_truth(letter_lm(4), Task("letters", ("a", "b"), ("aa", "bb")))
        >>> truth.judge(["a", "a"], ["aa", "ab"]).tolist()
        [1.0, 0.0]

    """
    _require_different(task.prompts)
    try:
        pairs = zip(task.prompts, task.answers, strict=True)
        answers = [encode_answer(lm, prompt, text) for prompt, text in pairs]
    except ValueError as error:
        raise ValueError(
            f"task={task.name}: its answers are no texts of {lm.name} ({error}); give another task"
        ) from None
    if len({len(ids) for ids in answers}) > 1:
        raise ValueError(
            f"task={task.name}: answers of different lengths; a tree has one horizon, give those "
            "of one"
        )
    tokens = np.array(answers)
    P = len(answers)
    V = lm.vocab_size
    H = tokens.shape[1]
    known = dict(zip(map(repr, task.prompts), task.answers, strict=True))
    right = dict(zip(map(repr, task.prompts), map(tuple, answers), strict=True))
    rewards = [np.zeros((P * V**h, V)) for h in range(H)]
    last = np.arange(P)
    for h in range(H - 1):
        last = last * V + tokens[:, h]
    rewards[-1][last, tokens[:, -1]] = 1.0

    def judge(prompts: Sequence[Prompt], responses: Sequence[Answer]) -> np.ndarray:
        pairs = zip(prompts, responses, strict=True)
        return np.array(
            [
                float(
                    task.judge(response, known[repr(prompt)])
                    if isinstance(response, str)
                    else tuple(response) == right[repr(prompt)]
                )
                for prompt, response in pairs
            ]
        )

    return Truth(TokenMDP.tree(rewards), judge, "probability", (0.0, 1.0))


def as_ids(lm: CausalLM, prompt: Prompt, response: Answer) -> list[int]:
    """Return the token ids of a response to a prompt.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> as_ids(letter_lm(4), "a", "cb"), as_ids(letter_lm(4), "a", (2, 1))
        ([2, 1], [2, 1])

    """
    if isinstance(response, str):
        return encode_answer(lm, prompt, response, "response")
    return list(response)


def _require_different(prompts: Sequence[Prompt]) -> None:
    if len({repr(prompt) for prompt in prompts}) < len(prompts):
        raise ValueError(
            "prompts: a text is given twice, and a response is judged by its prompt's; give each "
            "once"
        )


def model_truth(
    expert: CausalLM, prompts: Sequence[Prompt], horizon: int, alpha: float = 1.0
) -> Truth:
    """Take another model's endogenous reward as the truth, for which that model is soft-optimal at
    `alpha`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> truth = model_truth(letter_lm(3), ["a"], horizon=2)
        >>> truth.mdp.horizon, truth.judge(["a"], ["bc"]).shape
        (2, (1,))

    """
    mdp = endogenous_reward(token_tree(expert, prompts, horizon).policy, alpha)
    scorer = EndogenousReward(expert, reading=RewardReading(alpha), end_tokens=())

    def judge(prompts: Sequence[Prompt], responses: Sequence[Answer]) -> np.ndarray:
        asked = [encode_prompt(expert, prompt, horizon) for prompt in prompts]
        pairs = zip(prompts, responses, strict=True)
        answers = [as_ids(expert, prompt, response) for prompt, response in pairs]
        return np.array([score.reward_sum for score in scorer.score_ids(asked, answers)])

    low, high = mdp.reward_range
    return Truth(mdp, judge, "value", (horizon * min(low, 0.0), horizon * high), alpha)


def on_tree(mdp: TokenMDP, tree: TokenTree) -> TokenMDP:
    """Put a reward on a model's tree, where tokens unknown to it end the response unpaid.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> tree = token_tree(letter_lm(3), ["a"], 1)
        >>> on_tree(TokenMDP.tree([[[0.5, 1.0]]]), tree).rewards[0].tolist()
        [[0.5, 1.0, 0.0]]

    """
    dynamics = tree.policy.dynamics
    unrolled = mdp.as_tree()
    rewards = []
    for h, table in enumerate(unrolled.rewards):
        whole = np.zeros((dynamics.layer_sizes[h], dynamics.vocab_size))
        whole[: len(table), : mdp.vocab_size] = table
        rewards.append(whole)
    low, high = mdp.reward_range
    return TokenMDP(dynamics, tuple(rewards), (min(low, 0.0), max(high, 0.0)))


# --- Another reward -------------------------------------------------------------------------------


def reward_distance(one: TokenMDP, other: TokenMDP, policy: Policy) -> float:
    """Measure how far two rewards are apart up to the gauge: ``√ E_ρ Var_{τ ~ π} [r₁(τ) −
    r₂(τ)]``, reward units.

    A potential moves every ``r(τ)`` by the same ``Φ(s₁)``, and on a tree two rewards differ by a
    potential if and only if the differences of responses to one prompt agree. So this is the RMS
    difference of ``r(τ)`` under the potential that makes it least, and ``1/√2`` of the RMS
    difference of ``Δ`` over independent pairs. What `policy` never samples does not count;
    infinite where it samples a token that is forbidden in one of the two.

    Example:
        >>> mdp, moved, other = (
        ...     TokenMDP.tree([[row]], reward_range=(0, 3)) for row in ([0, 1], [1, 2], [0, 3])
        ... )
        >>> fair = Policy.from_probs(mdp.dynamics, [[[0.5, 0.5]]])
        >>> reward_distance(mdp, moved, fair), reward_distance(mdp, other, fair)
        (0.0, 1.0)

    """
    require_same_dynamics(one.dynamics, other.dynamics)
    for h, (visits, log_probs) in enumerate(zip(occupancy(policy), policy.log_probs, strict=True)):
        sampled = visits[:, None] * np.exp(log_probs) > 0
        masks = one.dynamics.allowed[h], other.dynamics.allowed[h]
        if any(mask is not None and (sampled & ~mask).any() for mask in masks):
            return float("inf")
    tables = [first - second for first, second in zip(one.rewards, other.rewards, strict=True)]
    return float(np.sqrt(max(policy.dynamics.average(covariance(policy, tables, tables)), 0.0)))


def over_all_pairs(true: np.ndarray, read: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Compute preference agreement and mean TV of two rewards over all pairs of independent
    responses.

    Args:
        true: ``r*(τ)`` of the responses to a prompt, ``(n,)``.
        read: ``r̂(τ)`` of them.
        weights: their distribution. What has probability 0 counts nowhere.

    Returns:
        The probability that both rewards order the two alike, a tie in either one half; and the
        mean of ``|σ(Δ*) − σ(Δ̂)|``.

    Raises:
        ValueError: weights that are no distribution, or a return that is not finite.

    Example:
        >>> both = np.array([0.5, 0.5])
        >>> agreement, tv = over_all_pairs(np.array([0.0, 2.0]), np.array([0.0, 1.0]), both)
        >>> (float(agreement), round(float(tv), 4))
        (0.75, 0.0749)

    """
    if not ((weights >= 0).all() and abs(weights.sum() - 1) <= TIE):
        raise ValueError(
            f"weights: must be non-negative and sum to 1, got sum {weights.sum():.12g}"
        )
    true, read, weights = (array[weights > 0] for array in (true, read, weights))
    for name, array in (("true", true), ("read", read)):
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} holds {array[~np.isfinite(array)][0]}: returns must be finite to be "
                "compared"
            )
    scale = float(np.abs(true).max())
    agreement = 0.0
    error = 0.0
    for start in range(0, len(true), BLOCK):
        rows = slice(start, start + BLOCK)
        other = slice(start, None)
        twice = weights[other] * np.where(np.arange(start, len(true)) < rows.stop, 1.0, 2.0)
        delta = true[rows, None] - true[other]
        gap = read[rows, None] - read[other]
        agreement += float(weights[rows] @ (order(delta, scale) * np.sign(gap)) @ twice)
        error += float(weights[rows] @ np.abs(expit(delta) - expit(gap)) @ twice)
    return (1 + agreement) / 2, error


def order(delta: np.ndarray, scale: float) -> np.ndarray:
    """Return the signs of differences of returns, 0 if within rounding of the largest return.

    Example:
        >>> order(np.array([0.3 - (0.1 + 0.2), -0.5]), scale=1.0)
        array([ 0., -1.])

    """
    return np.where(np.abs(delta) <= TIE * scale, 0.0, np.sign(delta))
