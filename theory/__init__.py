"""Token MDPs solved exactly: endogenous rewards, the theorems about them, and their true worst cases."""

from theory.instance import Instance
from theory.mdp import TokenMDP
from theory.policy import Policy, Responses
from theory.reward import endogenous_reward
from theory.soft import plain_optimal, soft_optimal, soft_values
from theory.statements import STATEMENTS

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
