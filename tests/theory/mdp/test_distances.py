"""Distances between the laws of a response, against sums over all responses."""

import itertools

import numpy as np
import pytest

from theory.mdp.distances import best_of_n_kl, coverage_profile, le_cam, overlap, squared_hellinger
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP


def two_policies(seed, forbidden=0.0):
    rng = np.random.default_rng(seed)
    tables = [np.zeros((2 * 3**h, 3)) for h in range(3)]
    dynamics = TokenMDP.tree(tables).dynamics
    made = []
    for _ in range(2):
        logits = [rng.normal(size=t.shape, scale=2.0) for t in tables]
        for table in logits:
            never = rng.random(table.shape) < forbidden
            never[np.arange(len(never)), rng.integers(3, size=len(never))] = False
            table[never] = -np.inf
        made.append(Policy.from_logits(dynamics, logits))
    return made


@pytest.mark.parametrize("forbidden", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_against_all_responses(seed, forbidden):
    one, two = two_policies(seed, forbidden)
    responses = all_responses(one.dynamics)
    p, q = (np.exp(log_prob(x, responses)).reshape(2, -1) for x in (one, two))
    both = p + q
    terms = np.divide((p - q) ** 2, both, out=np.zeros_like(both), where=both > 0)
    np.testing.assert_allclose(le_cam(one, two), terms.sum(axis=-1), atol=1e-13)
    for ratio in (1.5, 4.0):
        share = np.where(p >= ratio * q, p, 0.0).sum(axis=-1)
        np.testing.assert_allclose(coverage_profile(one, two, ratio), share, atol=1e-13)
    between, log_affinity = overlap(one, two)
    affinity = np.sqrt(p * q).sum(axis=-1)
    np.testing.assert_allclose(np.exp(log_affinity), affinity, atol=1e-13)
    np.testing.assert_allclose(1 - squared_hellinger(one, two), affinity, atol=1e-13)
    law = np.exp(log_prob(between, responses)).reshape(2, -1)
    for k in range(2):
        if affinity[k] > 0:
            np.testing.assert_allclose(law[k], np.sqrt(p * q)[k] / affinity[k], atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_best_of_n_against_every_draw(seed, n):
    """All `n` draws of four responses, the best of which is kept."""
    rng = np.random.default_rng(seed)
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    policy = Policy.from_logits(dynamics, [rng.normal(size=(1, 2)), rng.normal(size=(2, 2))])
    law = np.exp(log_prob(policy, all_responses(dynamics)))
    best = np.zeros(4)
    for draws in itertools.product(range(4), repeat=n):
        best[max(draws, key=law.__getitem__)] += np.prod(law[list(draws)])
    expected = (best * np.log(best / law)).sum()
    np.testing.assert_allclose(best_of_n_kl(policy, n), [expected], atol=1e-13)


def test_best_of_n_of_equally_probable_responses():
    """Many of them approach the bound; which of two is drawn first does not matter."""
    dynamics = TokenMDP.window([np.zeros((1, 2))] + [np.zeros((2, 2))] * 9, window=1).dynamics
    fair = Policy.from_logits(dynamics, [np.zeros((1, 2))] + [np.zeros((2, 2))] * 9)
    share = float(best_of_n_kl(fair, 4)[0]) / (np.log(4) - 0.75)
    assert 0.995 < share < 1


def test_policies_that_share_no_response():
    dynamics = TokenMDP.tree([[[0, 0]], [[0, 0]] * 2]).dynamics
    one = Policy.from_probs(dynamics, [[[0.5, 0.5]], [[1.0, 0.0]] * 2])
    two = Policy.from_probs(dynamics, [[[0.5, 0.5]], [[0.0, 1.0]] * 2])
    between, log_affinity = overlap(one, two)
    assert log_affinity.tolist() == [-np.inf]
    for mine, own in zip(between.log_probs, one.log_probs, strict=True):
        np.testing.assert_array_equal(np.exp(mine).sum(axis=-1), np.exp(own).sum(axis=-1))
    assert le_cam(one, two).tolist() == [2.0]
    assert coverage_profile(one, two, 4.0).tolist() == [1.0]


def test_a_ratio_that_covers_all():
    one, two = two_policies(0)
    with pytest.raises(ValueError, match="ratio - 1"):
        coverage_profile(one, two, 1.0)
