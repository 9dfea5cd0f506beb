"""Both sides of every statement against the oracle of 60 digits, on instances that take no time.

`test_soundness` has the extreme ones. Here no two of horizon, width, radius and temperature are
equal, and of the radii one is so small that no bound saturates.
"""

import numpy as np
import pytest
from extreme import faults

from theory.claims.instance import Instance
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal


@pytest.mark.parametrize("epsilon", [0.04, 0.9])
def test_both_sides_of_every_statement_are_the_oracles(epsilon):
    rng = np.random.default_rng(2)
    rewards = [rng.uniform(0, 1.3, (2, 3)), rng.uniform(0, 1.3, (6, 3))]
    mdp = TokenMDP.tree(rewards, reward_range=(0.0, 1.3), prompt_weights=[0.2, 0.8])
    expert = soft_optimal(mdp, 0.6).policy
    logits = [t + epsilon * rng.uniform(-1, 1, t.shape) for t in expert.log_probs]
    assert not faults(Instance(mdp, expert, Policy.from_logits(mdp.dynamics, logits), 0.6))
