"""Intrinsic rewards, which a model reads off itself, and what RL on each of them must end at.

Six rewards that have been proposed for training a model without checked answers, each read off the
frozen `π̂`. RL on a reward `u` with a KL anchor at coefficient `β` ends at ``π̂ e^{u/β}``,
normalised, which a sweep gives exactly; so what each reward sharpens, and whether that helps, is no
matter of experiment. At first the true value moves with ``Cov_π̂(r(τ), u(τ))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.arrays.namespace import require_positive_number
from theory.claims.instance import Instance
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import (
    covariance,
    expected_sums,
    occupancy,
    plain_value,
    trajectory_entropy,
)
from theory.solve.improve import kl_optimal
from theory.solve.reward import endogenous_reward, with_rewards
from theory.solve.soft import soft_optimal

__all__ = ["IntrinsicRow", "careful_or_sure", "compare_intrinsic", "intrinsic_rewards"]


@dataclass(frozen=True)
class IntrinsicRow:
    """What RL on one intrinsic reward ends at, averaged over prompts.

    Attributes:
        reward: name of the reward.
        value: true plain value ``V^π_r``, reward units.
        covariance: ``Cov_π̂(r, u)``: the slope of `value` in ``1/β`` at the start, reward units².
        map_mass: probability of the most probable response of `π̂`.
        log_likelihood: ``E_π log π̂(τ)``, nats.
        entropy: entropy of the response, nats.
        divergence: ``KL(π‖π̂)``, nats.

    """

    reward: str
    value: float
    covariance: float
    map_mass: float
    log_likelihood: float
    entropy: float
    divergence: float


def intrinsic_rewards(
    policy: Policy, alpha: float = 1.0, discount: float = 0.95
) -> dict[str, TokenMDP]:
    """Read every intrinsic reward off a policy, as token MDPs by name.

    An answer is the last token; the majority's is the most probable of each prompt.

    Args:
        policy: `π̂`, built from logits, with every token allowed.
        alpha: temperature of the endogenous reward.
        discount: `γ` of the discounted sums.

    Raises:
        ValueError: `alpha` or `discount` is not a positive number, or see `endogenous_reward`.

    Example:
        >>> list(intrinsic_rewards(careful_or_sure().policy))[:3]
        ['endogenous', 'token entropy', 'self-certainty']

    """
    alpha = require_positive_number("alpha", alpha)
    discount = require_positive_number("discount", discount)
    endogenous = endogenous_reward(policy, alpha).rewards
    likelihood = endogenous_reward(policy, alpha, gauge="logprob").rewards
    tables = policy.log_probs
    entropies = [(np.exp(t) * t).sum(axis=-1, keepdims=True) for t in tables]
    uniform = [-np.log(t.shape[-1]) - t.mean(axis=-1, keepdims=True) for t in tables]
    found: dict[str, Any] = {
        "endogenous": endogenous,
        "token entropy": [x + 0 * t for x, t in zip(entropies, tables, strict=True)],
        "self-certainty": [x + 0 * t for x, t in zip(uniform, tables, strict=True)],
        "majority vote": _majority(policy),
        f"discounted, γ = {discount:g}": [discount**h * r for h, r in enumerate(endogenous)],
        "the same in gauge logprob": [discount**h * r for h, r in enumerate(likelihood)],
        "clipped at 0": [np.maximum(r, 0.0) for r in endogenous],
    }
    return {name: with_rewards(policy.dynamics, tuple(rewards)) for name, rewards in found.items()}


def _majority(policy: Policy) -> list[np.ndarray]:
    """1 for the last token that is the most probable of all last tokens of its prompt."""
    tables = [np.zeros_like(t) for t in policy.log_probs]
    P = policy.dynamics.n_prompts
    tree = policy.as_tree()
    mass = occupancy(tree)[-1][:, None] * np.exp(tree.log_probs[-1])
    votes = mass.reshape(P, -1, mass.shape[-1]).sum(axis=1).argmax(axis=-1)
    states = policy.dynamics.prefix_states()[-1].reshape(P, -1)
    for prompt, token in enumerate(votes):
        tables[-1][states[prompt], token] = 1.0
    return tables


def compare_intrinsic(
    instance: Instance, beta: float, discount: float = 0.95
) -> list[IntrinsicRow]:
    """Solve RL with a KL anchor on every intrinsic reward of an instance's policy, exactly.

    The first row is `π̂` itself.

    Args:
        instance: `r*` is the true reward, `π̂` the model; a single problem.
        beta: KL coefficient, reward units per nat.
        discount: `γ` of the discounted sums.

    Raises:
        ValueError: `beta` is not a positive number, or see `intrinsic_rewards`.

    Example:
        >>> rows = compare_intrinsic(careful_or_sure(), beta=1.0)
        >>> [row.reward for row in rows if row.value > rows[0].value]  # what helps
        ['majority vote']

    """
    beta = require_positive_number("beta", beta)
    alpha = float(instance.alpha)
    policy = instance.policy
    rows = [_row("(none)", instance, policy, None)]
    for name, reward in intrinsic_rewards(policy, alpha, discount).items():
        rows.append(_row(name, instance, kl_optimal(reward, policy, beta).policy, reward))
    return rows


def _row(name: str, instance: Instance, policy: Policy, reward: TokenMDP | None) -> IntrinsicRow:
    average = instance.mdp.dynamics.average
    first = instance.policy
    slope = 0.0
    if reward is not None:
        slope = float(average(covariance(first, instance.mdp.rewards, reward.rewards)))
    return IntrinsicRow(
        name,
        value=float(plain_value(instance.mdp, policy)),
        covariance=slope,
        map_mass=float(average(np.exp(log_prob(policy, map_response(first))))),
        log_likelihood=float(average(expected_sums(policy, first.log_probs)[0])),
        entropy=float(trajectory_entropy(policy)),
        divergence=float(kl(policy, first)),
    )


def careful_or_sure() -> Instance:
    """Make an instance on which votes help and every other intrinsic reward harms.

    V = 4, H = 3; the last token is the answer, and 0 is right. `π̂` begins with token 0 (*careful*,
    probability 0.7): then any second token, and the right answer with 0.8. Or it begins with token
    1 (*sure*, 0.3): the second token and the answer are nearly certain, and the answer is 1, wrong.
    Most responses are right, but no right one is as probable as the one wrong one.

    Example:
        >>> instance = careful_or_sure()
        >>> instance.rl_response.tokens.tolist(), float(plain_value(instance.mdp, instance.policy))
        ([[1, 1, 1]], 0.572...)

    """
    first = np.array([[0.68, 0.3, 0.01, 0.01]])
    spread = [0.25, 0.25, 0.25, 0.25]
    sure = [0.01, 0.97, 0.01, 0.01]
    right = [0.8, 0.1, 0.05, 0.05]
    second = np.array([spread, sure, spread, spread])
    answers = np.array([right] * 4 + [[0.04, 0.94, 0.01, 0.01]] * 4 + [right] * 8)
    pays = [np.zeros((1, 4)), np.zeros((4, 4)), np.zeros((16, 4))]
    pays[-1][:, 0] = 1.0
    mdp = TokenMDP.tree(pays)
    soft_values = [np.array([[1.0]]), np.array([[0.0], [3.0], [0.0], [0.0]]), np.ones((16, 1))]
    tables = zip((first, second, answers), soft_values, strict=True)
    policy = Policy.from_logits(mdp.dynamics, [np.log(t) + value for t, value in tables])
    return Instance(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
