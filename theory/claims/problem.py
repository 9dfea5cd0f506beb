"""A problem: a token MDP, its soft-optimal policy, and a policy that should be close to it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from theory.arrays.namespace import (
    Array,
    as_array,
    expand,
    is_enclosure,
)
from theory.arrays.precision import enclose, precision
from theory.claims.checks import validate
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    map_response,
)
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

__all__ = ["POOL", "Problem"]

POOL = 128
"""Responses per prompt among which all pairs are compared: all of them where there are no more."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A token MDP, its soft-optimal policy, and a policy that should be close to it.

    Attributes:
        mdp: the true reward `r*`.
        expert: `π_E`, soft-optimal for `mdp` at `alpha`.
        policy: `π̂`, whose endogenous reward is judged.
        alpha: temperature, scalar or ``batch``.
        chosen_responses: the responses to compare; `responses` says which by default.
        chosen_rl_response: what RL on `r̂` plays; the most probable response of `π̂` by default.
        per_prompt: whether quantities are one for each prompt, ``(*batch, P)``, and not averages
            ``batch``.

    Raises:
        ValueError: names the argument: the dynamics or batches do not fit, an array holds NaN,
            `alpha` is not positive and finite, or `expert` is not soft-optimal for `mdp` at
            `alpha`.

    """

    mdp: TokenMDP
    expert: Policy
    policy: Policy
    alpha: Any
    chosen_responses: Responses | None = None
    chosen_rl_response: Responses | None = None
    per_prompt: bool = False

    def __post_init__(self) -> None:
        """Validate, where the arrays are a person's."""
        if not is_enclosure(self.mdp.rewards[0]):
            validate(self)

    def __repr__(self) -> str:
        """One line: no arrays."""
        alpha = (
            self.alpha if isinstance(self.alpha, float | int) else f"{self._alpha.shape} numbers"
        )
        return f"<{type(self).__name__} {self.mdp}, α: {alpha}>"

    @property
    def horizon(self) -> int:
        """Number of tokens `H` of a response."""
        return self.mdp.horizon

    @property
    def width(self) -> Any:
        """Width `R` of the reward range."""
        return self.mdp.reward_width

    @property
    def temperature(self) -> Array:
        """`alpha` as an array that broadcasts with a quantity: ``batch``, or ``(*batch, 1)`` with
        `per_prompt`.
        """
        return expand(self._alpha, 1) if self.per_prompt else self._alpha

    @property
    def _alpha(self) -> Array:
        return as_array(self.alpha)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes: ``()`` for a single instance."""
        shapes = [x.batch_shape for x in (self.mdp, self.expert, self.policy)] + [self._alpha.shape]
        return np.broadcast_shapes(*shapes)

    @property
    def counts(self) -> np.ndarray:
        """Prompts that can occur, those of positive weight: ``(P,)``, boolean."""
        possible: np.ndarray = self.mdp.dynamics.prompt_weights > 0
        return possible

    @property
    def numbers(self) -> int:
        """Rewards of one problem of the batch, what its evaluation costs grows with."""
        return self.mdp.dynamics.n_prefixes

    def take(self, index: Any) -> Self:
        """Some problems of the batch, counted through it in C order, with the responses that the
        batch compares.

        Args:
            index: an integer, for an instance without batch axes, or integers ``(n,)`` for a batch
                of these.

        """
        if not self.batch_shape:
            return self

        def chosen(array: Array, inner: int) -> Array:
            """Of an array with `inner` axes beside those of the batch; as it is without those."""
            if array.ndim == inner:
                return array
            whole = self._whole(array, inner)
            return whole.reshape(-1, *whole.shape[len(self.batch_shape) :])[index]

        def chosen_policy(policy: Policy) -> Policy:
            gauge = policy.log_normalizers
            return replace(
                policy,
                log_probs=tuple(chosen(table, 2) for table in policy.log_probs),
                log_normalizers=None if gauge is None else tuple(chosen(z, 1) for z in gauge),
            )

        def chosen_responses(responses: Responses) -> Responses:
            return Responses(responses.prompts, chosen(responses.tokens, 2))

        some = object.__new__(type(self))  # parts of what was validated
        some.__dict__.update(
            mdp=replace(self.mdp, rewards=tuple(chosen(r, 2) for r in self.mdp.rewards)),
            expert=chosen_policy(self.expert),
            policy=chosen_policy(self.policy),
            alpha=chosen(self._alpha, 0),
            chosen_responses=chosen_responses(self.responses),
            chosen_rl_response=chosen_responses(self.rl_response),
            per_prompt=self.per_prompt,
        )
        return some

    def _whole(self, array: Array, inner: int) -> Array:
        """An array with `inner` axes of its own and all axes of the batch before them."""
        return np.broadcast_to(array, (*self.batch_shape, *array.shape[array.ndim - inner :]))

    def alike(self) -> list[Self]:
        """The batch, or its problems one by one where their policies have different supports.

        The endogenous reward forbids what its policy never writes, and dynamics are those of a
        whole batch.
        """
        tables = [t.reshape(-1, *t.shape[-2:]) == float("-inf") for t in self.policy.log_probs]
        if not self.batch_shape or all((never == never[:1]).all() for never in tables):
            return [self]
        return [self.take([k]) for k in range(math.prod(self.batch_shape))]

    def enclosed(self, bits: int) -> Self:
        """The instance in enclosures of `bits` bits, with one quantity for each prompt.

        It is exact by definition: rewards and `alpha` as they are stored, `π_E` the soft-optimal
        policy of these, `π̂` the softmax of its stored log-probabilities. Read its quantities
        inside ``precision(bits)``.
        """
        with precision(bits):

            def enclosed(arrays: Iterable[Array], inner: int) -> tuple[Any, ...]:
                """With all axes of the batch, which a quantity of some arrays alone would lack."""
                return tuple(enclose(self._whole(x, inner), bits) for x in arrays)

            reward_range: Any = tuple(enclose(end, bits) for end in self.mdp.reward_range)
            mdp = replace(
                self.mdp, rewards=enclosed(self.mdp.rewards, 2), reward_range=reward_range
            )
            (alpha,), gauge = enclosed([self._alpha], 0), self.policy.log_normalizers
            policy = replace(
                Policy.from_logits(self.policy.dynamics, enclosed(self.policy.log_probs, 2)),
                log_normalizers=None if gauge is None else enclosed(gauge, 1),
            )
            expert, values = soft_optimal(mdp, alpha)
        exact = type(self)(
            mdp, expert, policy, alpha, self.responses, self.rl_response, per_prompt=True
        )
        exact.__dict__["soft_values"] = values
        return exact

    @cached_property
    def rl_response(self) -> Responses:
        """What RL on `r̂` plays: the most probable response of `π̂`, one per prompt."""
        return self.chosen_rl_response or map_response(self.policy)

    @cached_property
    def responses(self) -> Responses:
        """Responses that are compared, prompt by prompt: all, or `POOL` a prompt where there are
        more.
        """
        if self.chosen_responses is not None:
            return self.chosen_responses
        dynamics = self.mdp.dynamics
        V = dynamics.vocab_size
        H = self.horizon
        P = dynamics.n_prompts
        if V**H <= POOL:
            return all_responses(dynamics)
        rng = np.random.default_rng(0)
        third = POOL // 3
        tokens = np.array(self._whole(rng.integers(V, size=(P, POOL, H)), 3))
        prompts = np.arange(P)
        # a third of each policy, the most probable response among it, and the unlikely rest
        for first, policy in ((0, self.expert), (third, self.policy)):
            drawn = policy.sample(P * third, rng, prompts=np.repeat(prompts, third)).tokens
            drawn = drawn.reshape((*policy.batch_shape, P, third, H))
            tokens[..., first : first + third, :] = drawn
            tokens[..., first, :] = map_response(policy).tokens
        return Responses(np.repeat(prompts, POOL), tokens.reshape((*self.batch_shape, P * POOL, H)))
