"""The facts printed of an instance, against sums over every response in plain Python."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.check.exact import facts, tabular_instance
from llm_bridge.models.cloned import letter_lm
from theory.mdp.token_mdp import TokenMDP

V, H, ALPHA = 3, 2, 0.7


@pytest.fixture(scope="module")
def found():
    mdp = TokenMDP.random(V, H, n_prompts=2, seed=3)
    mdp = replace(mdp, dynamics=replace(mdp.dynamics, prompt_weights=np.array([0.2, 0.8])))
    return tabular_instance(letter_lm(V), mdp, ["a", "b"], alpha=ALPHA)


def along(tables, prompt, tokens):
    """Sum of a quantity ``(2, V^h, V)`` a layer along a response."""
    return math.fsum(
        float(tables[h][prompt, sum(t * V ** (h - 1 - k) for k, t in enumerate(tokens[:h])), a])
        for h, a in enumerate(tokens)
    )


def laws(found):
    """For each prompt the returns, and both laws of a response."""
    responses = list(itertools.product(range(V), repeat=H))
    for prompt, weight in enumerate(found.weights):
        returns = [along(found.instance.mdp.rewards, prompt, x) for x in responses]
        policy = [math.exp(along(found.instance.policy.log_probs, prompt, x)) for x in responses]
        total = math.fsum(math.exp(r / ALPHA) for r in returns)
        yield weight, returns, [math.exp(r / ALPHA) / total for r in returns], policy


def test_values_and_divergences_are_averages_over_prompts(found):
    shown = facts(found)
    values, divergences = np.zeros(4), np.zeros(2)
    for weight, returns, expert, policy in laws(found):
        probable = returns[int(np.argmax(policy))]
        values += weight * np.array(
            [np.dot(expert, returns), np.dot(policy, returns), probable, max(returns)]
        )
        ratio = np.log(expert) - np.log(policy)
        divergences += weight * np.array([np.dot(expert, ratio), -np.dot(policy, ratio)])
    assert shown["plain values of π_E, π̂, π_RL, best"] == pytest.approx(tuple(values), rel=1e-6)
    assert shown["KL(π_E‖π̂), KL(π̂‖π_E) (nats)"] == pytest.approx(tuple(divergences), rel=1e-6)


def test_the_largest_preference_error_is_that_of_the_worst_pair(found):
    worst = 0.0
    for _, returns, _, policy in laws(found):
        for i, j in itertools.combinations(range(len(returns)), 2):
            true = 1 / (1 + math.exp(returns[j] - returns[i]))
            read = 1 / (1 + (policy[j] / policy[i]) ** ALPHA)
            worst = max(worst, abs(true - read))
    assert facts(found)["largest preference error (TV)"] == pytest.approx(worst, rel=1e-9)


def test_the_rest_is_read_off_the_tables(found):
    shown = facts(found)
    assert (shown["prompts"], shown["alpha"]) == (["a", "b"], ALPHA)
    assert shown["horizon, tokens, prefixes"] == (H, V, 2 * (V + V**2))
    ratios = [
        np.abs(e - p).max()
        for e, p in zip(found.instance.expert.log_probs, found.instance.policy.log_probs,
                        strict=True)
    ]  # fmt: skip
    assert shown["ε_π (nats), at most"] == max(ratios)
