"""Gaps, distances and worst cases of a comparison against sums over every response, by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.check.comparison import compare
from theory.claims.instance import Instance
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

PATHS = [(a, b) for a in (0, 1) for b in (0, 1)]
WEIGHTS = (0.25, 0.75)

# Two prompts. By token greedy decoding of the first policy writes (0, 0), and its most probable
# response is (1, 1): 0.6·0.5 < 0.4·0.9.
REWARDS = (
    {(0,): 0.1, (1,): 0.2, (0, 0): 0.9, (0, 1): 0.0, (1, 0): 0.3, (1, 1): 0.5},
    {(0,): 0.6, (1,): 0.0, (0, 0): 0.2, (0, 1): 0.8, (1, 0): 1.0, (1, 1): 0.4},
)
PROBABILITIES = (
    {(0,): 0.6, (1,): 0.4, (0, 0): 0.5, (0, 1): 0.5, (1, 0): 0.1, (1, 1): 0.9},
    {(0,): 0.3, (1,): 0.7, (0, 0): 0.8, (0, 1): 0.2, (1, 0): 0.55, (1, 1): 0.45},
)


def total(table, path):
    return table[path[:1]] + table[path]


def law(weights):
    return {path: w / math.fsum(weights.values()) for path, w in weights.items()}


def mean(probabilities, table):
    return math.fsum(p * total(table, path) for path, p in probabilities.items())


def tables(tables_of_prompts):
    """Layers ``(2, n, 2)`` of a batch of two problems of one prompt."""
    return [
        np.array([[[t[(0,)], t[(1,)]]] for t in tables_of_prompts]),
        np.array([[[t[(a, b)] for b in (0, 1)] for a in (0, 1)] for t in tables_of_prompts]),
    ]


@pytest.fixture(scope="module")
def laws():
    """For each prompt the rewards, and what the expert, the policy and its square write."""
    found = []
    for rewards, p in zip(REWARDS, PROBABILITIES, strict=True):
        expert = law({path: math.exp(total(rewards, path)) for path in PATHS})  # α = 1
        policy = {path: p[path[:1]] * p[path] for path in PATHS}
        squared = law({path: q**2 for path, q in policy.items()})
        found.append((rewards, expert, policy, squared))
    return found


@pytest.fixture(scope="module")
def found():
    mdp = TokenMDP.tree(tables(REWARDS))
    policy = Policy.from_probs(mdp.dynamics, tables(PROBABILITIES))
    instance = Instance(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
    return compare([instance], weights=WEIGHTS)


def average(of_prompts):
    return math.fsum(w * x for w, x in zip(WEIGHTS, of_prompts, strict=True))


def test_each_gap_is_what_the_expert_gets_less_what_the_policy_gets(found, laws):
    greedy = [(0, 0), (1, 0)]
    probable = [max(policy, key=policy.get) for _, _, policy, _ in laws]
    assert probable == [(1, 1), (1, 0)]
    gets = {
        "sampling π̂": [mean(policy, r) for r, _, policy, _ in laws],
        "greedy decoding": [total(r, path) for (r, *_), path in zip(laws, greedy, strict=True)],
        "π̂², the anchored optimum at β = α": [mean(squared, r) for r, _, _, squared in laws],
        "π_RL, the most probable response": [
            total(r, path) for (r, *_), path in zip(laws, probable, strict=True)
        ],
        "best policy": [max(total(r, path) for path in PATHS) for r, *_ in laws],
    }
    expert = [mean(expert, r) for r, expert, _, _ in laws]
    for name, values in gets.items():
        assert found.gaps[name] == pytest.approx(average(expert) - average(values), abs=1e-12), name
    width = [max(total(r, p) for p in PATHS) - min(total(r, p) for p in PATHS) for r, *_ in laws]
    assert found.gaps["range of the return"] == pytest.approx(average(width))
    assert set(found.gaps) == {*gets, "range of the return"}


def test_distances_are_those_of_the_two_laws(found, laws):
    ratios = []
    for _, expert, policy, _ in laws:
        first = {a: (expert[a, 0] + expert[a, 1], policy[a, 0] + policy[a, 1]) for a in (0, 1)}
        ratios.append([abs(math.log(e / p)) for e, p in first.values()])
        ratios[-1] += [
            abs(math.log(expert[a, b] / first[a][0]) - math.log(policy[a, b] / first[a][1]))
            for a, b in PATHS
        ]
    largest = [max(each) for each in ratios]
    assert found.closeness["ε_π"] == pytest.approx(average(largest))
    assert found.closeness["ε_π, largest of a prompt"] == pytest.approx(max(largest))
    for name, one, other in (("KL(π_E‖π̂)", 1, 2), ("KL(π̂‖π_E)", 2, 1)):
        each = [
            math.fsum(p * math.log(p / x[other][path]) for path, p in x[one].items()) for x in laws
        ]
        assert found.closeness[name] == pytest.approx(average(each)), name


def test_quantiles_count_tokens_by_how_often_the_expert_writes_them(found, laws):
    """By the definition: the least ratio that at most the rest of the tokens exceeds."""
    for share in (0.5, 0.9, 0.99):
        each = []
        for _, expert, policy, _ in laws:
            tokens = []
            for a in (0, 1):
                e, p = expert[a, 0] + expert[a, 1], policy[a, 0] + policy[a, 1]
                tokens.append((abs(math.log(e / p)), e / 2))
                for b in (0, 1):
                    ratio = (expert[a, b] / e) / (policy[a, b] / p)
                    tokens.append((abs(math.log(ratio)), expert[a, b] / 2))
            each.append(
                min(x for x, _ in tokens if math.fsum(m for y, m in tokens if y > x) <= 1 - share)
            )
        name = f"{share:.0%} of the expert's tokens within"
        assert found.closeness[name] == pytest.approx(average(each)), share


def test_worst_cases_are_apart_by_what_the_expert_falls_short_of_the_best(found):
    for name, worst in found.worst.items():
        apart = worst["RL, against the best"] - worst["RL, against π_E"]
        assert apart == pytest.approx(-found.gaps["best policy"], abs=1e-12), name
        assert worst["cloning"] > 0
    assert found.worst["ε_π"]["cloning"] >= found.gaps["sampling π̂"]
    assert found.worst["ε_π"]["radius"] == pytest.approx(found.closeness["ε_π"])
    assert found.worst["median"]["radius"] == pytest.approx(
        found.closeness["50% of the expert's tokens within"]
    )
