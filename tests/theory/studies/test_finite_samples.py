"""The guarantee of maximum likelihood, against data sets listed in order and drawn ones."""

import itertools
import math

import numpy as np
import pytest

from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.studies.finite_samples import finite_sample


def problem(seed, n_others=5, scale=0.7):
    rng = np.random.default_rng(seed)
    mdp = TokenMDP.tree([rng.random((1, 2)), rng.random((2, 2))])
    expert = soft_optimal(mdp, 0.5).policy
    others = [
        Policy.from_logits(
            mdp.dynamics, [t + scale * rng.normal(size=t.shape) for t in expert.log_probs]
        )
        for _ in range(n_others)
    ]
    return mdp, expert, others


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("delta", [0.05, 0.5, 0.9])
def test_it_fails_no_more_often_than_it_says(seed, delta):
    found = [finite_sample(*problem(seed), n=n, delta=delta) for n in (1, 5, 40)]
    for one in found:
        assert 0 <= one.gap_failure <= one.failure <= delta
    assert found[0].radius == pytest.approx(40 * found[2].radius)


def test_the_guarantee_can_fail():
    failures = [finite_sample(*problem(seed), n=80, delta=0.5).failure for seed in range(4)]
    assert 1e-4 < max(failures) < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_against_every_sequence_of_responses(seed):
    """n = 4 draws in order: 4⁴ sequences."""
    mdp, expert, others = problem(seed, n_others=3, scale=2.0)
    responses = all_responses(mdp.dynamics)
    laws = [np.exp(log_prob(policy, responses)) for policy in (expert, *others)]
    paid = [float(mdp.rewards[0][0, a] + mdp.rewards[1][a, b]) for a in range(2) for b in range(2)]
    value = [float(law @ paid) for law in laws]
    n, delta = 4, 0.6
    radius = 2 * math.log(len(laws) / delta) / n
    failure = mean_gap = 0.0
    for data in itertools.product(range(4), repeat=n):
        likelihood = [math.prod(law[x] for x in data) for law in laws]
        best = max(range(len(laws)), key=likelihood.__getitem__)
        distance = sum(
            (math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(laws[0], laws[best], strict=True)
        )
        failure += likelihood[0] * (distance > radius)
        mean_gap += likelihood[0] * abs(value[best] - value[0])
    found = finite_sample(mdp, expert, others, n=n, delta=delta)
    assert found.radius == pytest.approx(radius)
    assert found.failure == pytest.approx(failure, abs=1e-12)
    assert found.mean_gap == pytest.approx(mean_gap, abs=1e-12)


def test_against_drawn_data():
    mdp, expert, others = problem(1)
    n, trials = 20, 4000
    found = finite_sample(mdp, expert, others, n=n, delta=0.5)
    drawn = expert.sample(n * trials, 0)
    likelihoods = np.stack(
        [log_prob(policy, drawn).reshape(trials, n).sum(axis=1) for policy in (expert, *others)]
    )
    chosen = likelihoods.argmax(axis=0)
    responses = all_responses(mdp.dynamics)
    paid = mdp.rewards[0][0, :, None] + mdp.rewards[1]
    values = [np.exp(log_prob(p, responses)) @ paid.ravel() for p in (expert, *others)]
    gaps = np.abs(np.array(values) - values[0])[chosen]
    assert found.mean_gap == pytest.approx(gaps.mean(), abs=5 * gaps.std() / math.sqrt(trials))


def test_bad_input():
    mdp, expert, others = problem(0)
    with pytest.raises(ValueError, match="delta=1"):
        finite_sample(mdp, expert, others, n=3, delta=1.0)
    with pytest.raises(ValueError, match="0 other policies"):
        finite_sample(mdp, expert, [], n=3, delta=0.1)
    with pytest.raises(ValueError, match="data sets are more"):
        finite_sample(mdp, expert, others, n=1000, delta=0.1)
