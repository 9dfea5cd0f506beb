"""Compute the exact optimum of PPO on a token tree, and how far from it a policy is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_bridge.improve.config import PPOConfig
from llm_bridge.models.load import CausalLM
from llm_bridge.read.reward import find_end_tokens
from llm_bridge.read.tree import token_tree
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, greedy_response, log_prob, map_response
from theory.mdp.values import plain_value, trajectory_entropy
from theory.solve.improve import distil
from theory.solve.reward import endogenous_reward
from theory.solve.soft import power_policy

__all__ = ["ExactTarget", "right"]


class ExactTarget:
    """Exact optimum of a training run on `P` equally likely prompts.

    ``J_β`` is highest at the power policy ``π̂^{1+α/β}`` (`theory.solve.improve.kl_optimal`).

    Args:
        lm: `π̂`.
        prompts: `P` texts.
        config: hyperparameters of the run; ``max_tokens`` is the horizon `H`.
        teacher: teacher of the run; the optimum is then ``∝ π̂ · π_teacher^{α/β}``, and there can be
            no entropy bonus.
        answers: right response to each prompt, a text of `H` tokens, for the accuracies.

    Attributes:
        anchor: `π̂` on the tree.
        optimum: ``π̂^{(α+β)/(β+η)}`` with the entropy bonus `η`; the power policy if ``η = 0``.
        reward: ``α log π̂``; in another gauge all objectives are larger by ``E V̂(s₁)``, and their
            differences are the same.

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
        prompts: Sequence[str],
        config: PPOConfig,
        answers: Sequence[str] | None = None,
        teacher: CausalLM | None = None,
    ) -> None:
        self.prompts = tuple(prompts)
        self.config = config
        _require_optimum(find_end_tokens(lm, config.end_tokens), config)
        self.anchor = token_tree(lm, prompts, config.max_tokens).policy
        self.reward = endogenous_reward(self.anchor, config.alpha, gauge="logprob")
        power = (config.alpha + config.beta) / (config.beta + config.entropy)
        self.optimum = power_policy(self.anchor, power)
        if teacher is not None:
            if config.entropy:
                raise ValueError(
                    f"entropy={config.entropy}: with a teacher there is no exact optimum here; use "
                    "0"
                )
            expert = token_tree(teacher, prompts, config.max_tokens).policy
            self.reward = endogenous_reward(expert, config.alpha, gauge="logprob")
            self.optimum = distil(self.anchor, expert, config.alpha, config.beta).policy
        self.answers: Responses | None = None
        if answers is not None:
            ids = [
                lm.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers
            ]
            if len(ids) != len(prompts) or any(len(row) != config.max_tokens for row in ids):
                raise ValueError(
                    f"answers: must be {len(prompts)} texts of max_tokens={config.max_tokens} "
                    "tokens each"
                )
            self.answers = Responses(np.arange(len(ids)), np.array(ids))
        self._ends = self.objective(self.anchor), self.objective(self.optimum)

    def objective(self, policy: Policy) -> float:
        """Return ``J_β(π) = V^π_r̂ − β KL(π‖π̂) + η H(π)``, averaged over prompts, reward units."""
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
            ``kl_to_anchor`` and ``kl_to_optimum``, and ``entropy``, nats; and `accuracies`.

        """
        start, best = self._ends
        now = self.objective(policy)
        found = {"objective": now, "objective_start": start, "objective_optimum": best}
        if best - start > 1e-9:
            found["share"] = (now - start) / (best - start)
        found["kl_to_anchor"] = float(kl(policy, self.anchor))
        found["kl_to_optimum"] = float(kl(policy, self.optimum))
        found["entropy"] = float(trajectory_entropy(policy))
        return found | self.accuracies(policy)

    def accuracies(self, policy: Policy) -> dict[str, float]:
        """Average `right` over the prompts, by ``accuracy_NAME``."""
        return {
            f"accuracy_{name}": float(found.mean()) for name, found in self.right(policy).items()
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
    if config.terminal != "zero":
        raise ValueError(
            f"terminal={config.terminal!r}: the power policy is the optimum for 'zero' alone"
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
