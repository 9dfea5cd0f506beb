"""Gradient ascent on two kinds of tokens: the gap is the exact adversary's, the gradient is that of
finite differences, and a step up is one.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from theory.mdp.values import plain_value
from theory.solve.climb import TwoKinds, climb
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone

EPSILON, ALPHA = 0.3, 0.7


def random_instance(seed, V=5):
    """Three layers of 1, 3 and 2 states, so that two states share a child."""
    rng = np.random.default_rng(seed)
    n = (1, 3, 2)
    first = [rng.integers(1, V, (k, 1)) for k in n]
    return TwoKinds(
        [rng.random((k, 2)) for k in n],
        [np.array([[0, 2]]), np.array([[0, 1], [1, 1], [1, 0]])],
        [np.concatenate([a, V - a], axis=1) for a in first],
    )


def exact(one):
    mdp = one.token_mdp()
    expert = soft_optimal(mdp, ALPHA).policy
    return plain_value(mdp, expert) - worst_clone(mdp, expert, EPSILON).values[0][0]


@pytest.mark.parametrize("seed", range(8))
def test_the_gap_is_that_of_the_exact_adversary(seed):
    one = random_instance(seed)
    assert one.gap(ALPHA, EPSILON)[0] == pytest.approx(exact(one), rel=1e-10)
    for smoothing in (1e-1, 1e-2, 1e-3):  # rounds the clone's gain off
        smoothed = one.gap(ALPHA, EPSILON, smoothing)[0]
        assert -1e-12 <= exact(one) - smoothed <= 3 * smoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.02])
@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_finite_differences(seed, smoothing):
    one = random_instance(seed)
    _, gradient = one.gap(ALPHA, EPSILON, smoothing)
    for h, table in enumerate(one.rewards):
        for place in np.ndindex(table.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [r.copy() for r in one.rewards]
                moved[h][place] += step
                ends.append(
                    TwoKinds(moved, one.children, one.sizes).gap(ALPHA, EPSILON, smoothing)[0]
                )
            assert_allclose(gradient[h][place], (ends[0] - ends[1]) / 2e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_climbing_goes_up_and_keeps_to_the_range(seed):
    start = random_instance(seed)
    top = climb(start, ALPHA, EPSILON)
    assert exact(top) > 1.2 * exact(start)
    assert all(((table >= 0) & (table <= 1)).all() for table in top.rewards)
    assert exact(climb(top, ALPHA, EPSILON)) >= exact(top)
