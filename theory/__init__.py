"""Token MDPs solved exactly: endogenous rewards, the theorems about them, and their true worst
cases.
"""

from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import endogenous_reward
from theory.solve.soft import plain_optimal, soft_optimal, soft_values

__all__ = [
    "STATEMENTS",
    "Instance",
    "Policy",
    "Responses",
    "TokenMDP",
    "endogenous_reward",
    "plain_optimal",
    "soft_optimal",
    "soft_values",
]

__version__ = "0.1.0"
