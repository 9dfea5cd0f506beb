"""Where PPO must end, exactly, on prompts whose token tree can be enumerated, and how far from
there a policy is.
"""

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
    """Where training must end on `P` prompts, equally likely: ``J_β`` is highest at ``π̂^{1+α/β}``.

    Args:
        lm: `π̂`.
        prompts: `P` texts.
        config: of the run; ``max_tokens`` is the horizon `H`.
        teacher: of the run; the optimum is then ``∝ π̂ · π_teacher^{α/β}``, and no entropy bonus is
            possible.
        answers: the right response to each prompt, texts of `H` tokens, for the accuracies.

    Attributes:
        anchor: `π̂` on the tree.
        optimum: ``π̂^{(α+β)/(β+η)}``, `η` the entropy bonus: with ``η = 0`` the power policy
            ``π̂^{1+α/β}``.
        reward: ``α log π̂``: in another gauge all objectives are larger by ``E V̂(s₁)``, and their
            differences the same.

    Raises:
        ValueError: responses can end early, there is no optimum to converge to, an answer has
            another length, or see `token_tree`.

    """

    def __init__(
        self,
        lm: CausalLM,
        prompts: Sequence[str],
        config: PPOConfig,
        answers: Sequence[str] | None = None,
        teacher: CausalLM | None = None,
    ) -> None:
        ends = find_end_tokens(lm, config.end_tokens)
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
        self.prompts, self.config = tuple(prompts), config
        self.anchor = token_tree(lm, prompts, config.max_tokens).policy
        self.reward = endogenous_reward(self.anchor, config.alpha, gauge="logprob")
        self.optimum = power_policy(
            self.anchor, (config.alpha + config.beta) / (config.beta + config.entropy)
        )
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
        """``J_β(π) = V^π_r̂ − β KL(π‖π̂) + η H(π)``, averaged over prompts, reward units."""
        penalty = self.config.beta * kl(
            policy, self.anchor
        ) - self.config.entropy * trajectory_entropy(policy)
        return float(plain_value(self.reward, policy) - penalty)

    def report(self, lm: CausalLM) -> dict[str, float]:
        """`measure` of a model as it is."""
        return self.measure(token_tree(lm, self.prompts, self.config.max_tokens).policy)

    def measure(self, policy: Policy) -> dict[str, float]:
        """Exact objective, its start and its optimum, the share of the way, KLs (nats), entropy,
        three accuracies.

        The share is left out where `π̂` is the optimum itself.
        """
        start, best = self._ends
        now = self.objective(policy)
        found = {"objective": now, "objective_start": start, "objective_optimum": best}
        if best - start > 1e-9:
            found["share"] = (now - start) / (best - start)
        found |= {
            "kl_to_anchor": float(kl(policy, self.anchor)),
            "kl_to_optimum": float(kl(policy, self.optimum)),
        }
        return found | {"entropy": float(trajectory_entropy(policy))} | self.accuracies(policy)

    def accuracies(self, policy: Policy) -> dict[str, float]:
        """Probability of the right answer, and how often the greedy and the most probable response
        are right.
        """
        return {
            f"accuracy_{name}": float(found.mean()) for name, found in self.right(policy).items()
        }

    def right(self, policy: Policy) -> dict[str, np.ndarray]:
        """`right` of the answers, where there are any."""
        return {} if self.answers is None else right(policy, self.answers)


def right(policy: Policy, answers: Responses) -> dict[str, np.ndarray]:
    """For each of `P` prompts, ``(P,)``: probability of its right answer; whether MAP and greedy
    response are right.
    """
    found = {"sampled": np.exp(log_prob(policy, answers))}
    for name, response in (("map", map_response(policy)), ("greedy", greedy_response(policy))):
        found[name] = (response.tokens == answers.tokens).all(axis=-1).astype(float)
    return found
