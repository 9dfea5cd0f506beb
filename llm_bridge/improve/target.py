"""Compute the exact optimum of PPO on a token tree, and how far from it a policy is.

With reward `r` (of `π̂` or of a teacher), KL coefficient `β` and entropy bonus `η` the objective is

    J(π) = V^π_r − β KL(π‖π̂) + η H(π) = V^π_{r − η log π̂} − (β + η) KL(π‖π̂),

which `theory.solve.improve.kl_optimal` maximises. With ``r = α log π̂`` the maximum is the power
policy ``π̂^{(α+β)/(β+η)}``, with a teacher and ``η = 0`` it is ``∝ π̂ · π_teacher^{α/β}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_answer
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.tree import token_tree
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, greedy_response, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value, trajectory_entropy
from theory.solve.improve import hybrid_reward, kl_optimal
from theory.solve.reward import endogenous_reward

__all__ = ["ExactTarget", "right"]


class ExactTarget:
    """Exact optimum of a training run on `P` equally likely prompts.

    Args:
        lm: `π̂`.
        prompts: `P` texts.
        config: hyperparameters of the run; ``max_tokens`` is the horizon `H`.
        answers: right response to each prompt, a text of `H` tokens, for the accuracies.
        teacher: teacher of the run, whose reward is maximised; `None` for `π̂` itself.

    Attributes:
        anchor: `π̂` on the tree.
        reward: reward that is maximised. If its value after the last token is zero, it is in gauge
            ``"logprob"`` whatever the run's: in the other one all objectives are larger by ``E
            V(s₁)``, and their differences are the same.
        optimum: policy at which training must end.

    Raises:
        ValueError: responses can end early, there is no single optimum, an answer has another
            length, or see `token_tree`.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(3)
        >>> target = ExactTarget(lm, ["a"], PPOConfig(max_tokens=2, end_tokens=()))
        >>> found = target.report(lm)
        >>> found["share"], found["kl_to_anchor"]
        (0.0, 0.0)

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[Prompt],
        config: PPOConfig,
        answers: Sequence[str] | None = None,
        teacher: CausalLM | None = None,
    ) -> None:
        self.prompts = tuple(prompts)
        self.config = config
        _require_optimum(find_end_tokens(lm, config.end_tokens), config)
        self.anchor = token_tree(lm, prompts, config.max_tokens).policy
        self.reward = self._reward(teacher or lm)
        log_anchor = endogenous_reward(self.anchor, 1.0, gauge="logprob")
        charged = hybrid_reward(self.reward, log_anchor, -config.entropy)
        self.optimum = kl_optimal(charged, self.anchor, config.beta + config.entropy).policy
        self.answers: Responses | None = None
        if answers is not None:
            pairs = zip(prompts, answers, strict=False)  # counted below
            ids = [encode_answer(lm, prompt, answer) for prompt, answer in pairs]
            if len(answers) != len(prompts) or any(len(row) != config.max_tokens for row in ids):
                raise ValueError(
                    f"answers: must be {len(prompts)} texts of max_tokens={config.max_tokens} "
                    "tokens each"
                )
            self.answers = Responses(np.arange(len(ids)), np.array(ids))
        self._ends = self.objective(self.anchor), self.objective(self.optimum)

    def _reward(self, lm: CausalLM) -> TokenMDP:
        """Return the reward on the tree, read as the configuration says."""
        reading = self.config.reading
        if reading.terminal == "zero":
            reading = replace(reading, gauge="logprob")
        further = reading.terminal == "bootstrap"
        tree = token_tree(lm, self.prompts, self.config.max_tokens, terminal_layer=further)
        return reading.of_policy(tree.policy)

    def objective(self, policy: Policy) -> float:
        """Return ``V^π_r − β KL(π‖π̂) + η H(π)``, averaged over prompts, reward units."""
        penalty = self.config.beta * kl(policy, self.anchor)
        bonus = self.config.entropy * trajectory_entropy(policy)
        return float(plain_value(self.reward, policy) - (penalty - bonus))

    def report(self, lm: CausalLM) -> dict[str, float]:
        """Measure a model as it is now, see `measure`."""
        return self.measure(token_tree(lm, self.prompts, self.config.max_tokens).policy)

    def measure(self, policy: Policy) -> dict[str, float]:
        """Measure a policy exactly.

        Returns:
            ``objective`` of the policy, ``objective_start`` of `π̂`, ``objective_optimum``, and
            ``share``, how much of the way the policy has gone (left out if `π̂` is the optimum);
            ``kl_to_anchor`` and ``kl_to_optimum``, and ``entropy``, nats; and averages of `right`
            over the prompts, by ``accuracy_NAME``.

        """
        start, best = self._ends
        now = self.objective(policy)
        found = {"objective": now, "objective_start": start, "objective_optimum": best}
        if best - start > 1e-9:
            found["share"] = (now - start) / (best - start)
        found["kl_to_anchor"] = float(kl(policy, self.anchor))
        found["kl_to_optimum"] = float(kl(policy, self.optimum))
        found["entropy"] = float(trajectory_entropy(policy))
        return found | {
            f"accuracy_{name}": float(x.mean()) for name, x in self.right(policy).items()
        }

    def right(self, policy: Policy) -> dict[str, np.ndarray]:
        """Return `right` for each prompt; nothing if there are no answers."""
        return {} if self.answers is None else right(policy, self.answers)


def right(policy: Policy, answers: Responses) -> dict[str, np.ndarray]:
    """Return how right a policy is on each prompt, arrays ``(P,)``.

    Args:
        policy: policy on a token tree.
        answers: right response to each of its `P` prompts.

    Returns:
        ``sampled``, the probability of the right answer; ``map`` and ``greedy``, whether the most
        probable and the greedy response are right (0 or 1).

    Example:
        >>> from theory.mdp.dynamics import Dynamics, Tree
        >>> one = Dynamics(2, (1,), Tree(), np.ones(1), (None,))
        >>> policy = Policy.from_probs(one, [np.array([[0.75, 0.25]])])
        >>> found = right(policy, Responses(np.array([0]), np.array([[0]])))
        >>> {name: round(float(x[0]), 3) for name, x in found.items()}
        {'sampled': 0.75, 'map': 1.0, 'greedy': 1.0}

    """
    found = {"sampled": np.exp(log_prob(policy, answers))}
    for name, response in (("map", map_response(policy)), ("greedy", greedy_response(policy))):
        found[name] = (response.tokens == answers.tokens).all(axis=-1).astype(float)
    return found


def _require_optimum(ends: Sequence[int], config: PPOConfig) -> None:
    """Raise unless the run has one optimum, and its responses all have the same length."""
    if ends:
        raise ValueError(
            f"end_tokens={ends}: every response of the tree has max_tokens tokens; use ()"
        )
    if config.adaptive_kl is not None:
        raise ValueError(
            f"adaptive_kl={config.adaptive_kl}: where β moves, so does the optimum; use a "
            "fixed beta"
        )
    if not config.alpha:
        raise ValueError(
            "alpha=0.0: without the endogenous reward the optimum is the frozen model itself"
        )
    if config.beta + config.entropy == 0:
        raise ValueError(
            "beta=0.0: without KL penalty and entropy bonus there is no one optimum; give one "
            "of them"
        )
