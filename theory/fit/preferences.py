"""Preferences: pairs of responses to one prompt, of which one won.

Bradley–Terry (EndoRM, eq. 3): of two responses to one prompt the first wins with probability
``σ(r(τ) − r(τ'))``. Arrays are NumPy's, without batch axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from theory.mdp.dynamics import Dynamics
from theory.mdp.policy import Policy, Seed, require_same_dynamics
from theory.mdp.responses import Responses, check_responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import bradley_terry, returns

__all__ = ["Preferences", "sample_preferences"]

MAX_DRAWS = 1000
"""Times that a pair is sampled again because its two responses are the same."""


@dataclass(frozen=True, eq=False)
class Preferences:
    """Pairs of different responses to one prompt, and which of the two won. Build them with `of`.

    Attributes:
        dynamics: states, successors, forbidden tokens.
        prompts: ``(N,)`` indices of prompts.
        chosen: ``(N, H)`` tokens of the response that won.
        rejected: ``(N, H)`` tokens of the one that lost.

    Example:
        >>> dynamics = TokenMDP.tree([[[0, 0]]]).dynamics
        >>> zero, one = (Responses(np.array([0]), np.array([[token]])) for token in (0, 1))
        >>> Preferences.of(dynamics, chosen=one, rejected=zero).chosen.tolist()
        [[1]]
    """

    dynamics: Dynamics
    prompts: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @classmethod
    def of(cls, dynamics: Dynamics, chosen: Responses, rejected: Responses) -> Self:
        """Build the pairs ``chosen[i] ≻ rejected[i]``.

        Raises:
            ValueError: no pair; a response of the wrong length, with a token or prompt that does
                not exist, or with a token that is forbidden; a pair of responses to different
                prompts, or of equal ones. Names the argument, the index and the value.
        """
        prompts, tokens = check_responses("chosen", chosen, dynamics)
        others, losers = check_responses("rejected", rejected, dynamics)
        if len(prompts) != len(others):
            raise ValueError(
                f"rejected holds {len(others)} responses, chosen {len(prompts)}: give as many of "
                "both"
            )
        for i in np.flatnonzero(prompts != others)[:1]:
            raise ValueError(
                f"pair {i}: chosen answers prompt {prompts[i]}, rejected {others[i]}; compare "
                "within one"
            )
        for i in np.flatnonzero((tokens == losers).all(axis=1))[:1]:
            raise ValueError(
                f"pair {i}: chosen and rejected are both {tokens[i].tolist()}; leave equal "
                "responses out"
            )
        return cls(dynamics, prompts, tokens, losers)

    def __post_init__(self) -> None:
        check_responses("chosen", Responses(self.prompts, self.chosen), self.dynamics)
        check_responses("rejected", Responses(self.prompts, self.rejected), self.dynamics)


def sample_preferences(mdp: TokenMDP, policy: Policy, n: int, seed: Seed = None) -> Preferences:
    """Sample `n` pairs from a policy, and the winner of each by Bradley–Terry (eq. 3).

    A pair is two independent responses to one prompt, given that they differ: equal ones are
    sampled again.

    Args:
        mdp: the true reward.
        policy: the policy of the responses.
        n: number of pairs.
        seed: a seed or a `numpy.random.Generator`; the same seed gives the same pairs on one
            machine.

    Raises:
        ValueError: `n` is below 1; other dynamics; a policy that nearly always gives the same
            response.

    Example:
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]]])
        >>> fair = Policy.from_probs(mdp.dynamics, [[[0.5, 0.5]]])
        >>> pairs = sample_preferences(mdp, fair, 10_000, seed=0)
        >>> print(round(pairs.chosen.mean(), 2))  # σ(1) = 0.731
        0.73
    """
    require_same_dynamics(mdp.dynamics, policy.dynamics)
    if n < 1:
        raise ValueError(f"n={n}: draw at least one pair")
    rng = np.random.default_rng(seed)
    prompts, one = policy.sample(n, rng)
    two: np.ndarray = policy.sample(n, rng, prompts=prompts).tokens
    equal = np.arange(n)
    for _ in range(MAX_DRAWS):
        equal = equal[(one[equal] == two[equal]).all(axis=1)]
        if not len(equal):
            break
        for tokens in (one, two):
            tokens[equal] = policy.sample(len(equal), rng, prompts=prompts[equal]).tokens
    else:
        response = one[equal[0]].tolist()
        prompt = prompts[equal[0]]
        raise ValueError(
            f"policy: its responses to prompt {prompt} are always {response}; use one that varies"
        )
    delta = returns(mdp, Responses(prompts, one)) - returns(mdp, Responses(prompts, two))
    one_wins = (rng.random(n) < bradley_terry(delta))[:, None]
    chosen, rejected = np.where(one_wins, (one, two), (two, one))
    return Preferences(mdp.dynamics, prompts, chosen, rejected)
