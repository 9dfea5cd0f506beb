"""Sweeps on torch tensors: gradients in closed form, and fused kernels on a GPU.

The gradient of a soft value by a reward is how often the soft-optimal policy comes there, and that
of an expected sum is how often its policy does. So the backward pass of a backward sweep is a
forward sweep of occupancy. It keeps inputs and values only, and is made of torch operations, so
that gradients of gradients come out of it too.

Where none is wanted, the backup of a layer is one kernel on a GPU (`theory.arrays.
triton_kernels`), and torch operations elsewhere, with the same results.

This module needs torch; it is loaded where a tensor is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from theory.arrays.namespace import Array, expand, forbid, token_major

__all__ = ["expectation", "expected_sums", "soft_backup", "soft_values"]

NEVER = float("-inf")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs its kernels on a CPU, slowly: what the tests of them do."""

BLOCK = 16_384
"""States per block of a backward pass on a CPU."""

MOST_TOKENS = 4096
"""Vocabularies up to which a kernel holds whole rows; torch is good at reducing larger ones."""


def soft_values(solve: Callable[..., Any], mdp: Any, alpha: Any) -> tuple[Array, ...]:
    """Return ``solve(mdp, alpha)``, the soft values, with gradients by rewards and temperature.

    Args:
        solve: `theory.solve.soft.soft_values`; called where no gradient is recorded.
        mdp: the token MDP, of tensors.
        alpha: temperature in reward units, a number or a tensor.

    Example:
        >>> from theory.mdp.token_mdp import TokenMDP
        >>> from theory.solve import soft
        >>> rewards = torch.tensor([[0.0, 1.0]], requires_grad=True)
        >>> soft_values(soft.soft_values, TokenMDP.tree([rewards]), 1.0)[0].sum().backward()
        >>> rewards.grad  # how often the soft-optimal policy takes each token
        tensor([[0.2689, 0.7311]])
    """
    found: tuple[Array, ...] = _SoftValues.apply(  # type: ignore[no-untyped-call]
        solve, mdp, alpha, *mdp.rewards
    )
    return found


def expected_sums(
    solve: Callable[..., Any], policy: Any, tables: Sequence[Array]
) -> tuple[Array, ...]:
    """Return ``solve(policy, tables)``, expected sums, with gradients by log-probabilities and
    tables.

    Args:
        solve: `theory.mdp.values.expected_sums`; called where no gradient is recorded.
        policy: the policy, of tensors.
        tables: `H` tables ``(*batch, n_h, V)``.

    Example:
        >>> from theory import TokenMDP
        >>> from theory.mdp import policy, values
        >>> x = torch.tensor([[0.0, 1.0]], requires_grad=True)
        >>> fair = policy.Policy.from_logits(TokenMDP.tree([x]).dynamics, [torch.zeros(1, 2)])
        >>> expected_sums(values.expected_sums, fair, [x])[0].sum().backward()
        >>> x.grad
        tensor([[0.5000, 0.5000]])
    """
    found: tuple[Array, ...] = _ExpectedSums.apply(  # type: ignore[no-untyped-call]
        solve, policy, *policy.log_probs, *tables
    )
    return found


def soft_backup(
    reward: Any, children: Any, alpha: Any, *, policy: bool = False
) -> tuple[Any, Any | None]:
    """Return the soft maximum of ``reward + children`` over tokens, and its log-softmax if asked.

    Args:
        reward: ``(*batch, n, V)``, reward units; ``-inf`` is a forbidden token.
        children: the value of each successor, ``(*batch, n, V)``, or 0.
        alpha: temperature in reward units, a number or ``batch``.
        policy: whether to return the log-probabilities too.

    Example:
        >>> value, rows = soft_backup(torch.zeros(1, 2), 0.0, 1.0, policy=True)
        >>> value, rows
        (tensor([0.6931]), tensor([[-0.6931, -0.6931]]))
    """
    if isinstance(alpha, float) and _kernel_takes(reward, children):
        from theory.arrays import triton_kernels

        below = None if isinstance(children, float) else children
        return triton_kernels.soft_backup(reward, below, alpha, policy=policy)
    q = reward + children
    top = q.amax(-1, keepdim=True)
    scaled = (q - top) / expand(alpha, 2)
    log_total = torch.log(torch.exp(scaled).sum(-1))
    rows = token_major(scaled - log_total[..., None]) if policy else None
    return top[..., 0] + expand(alpha, 1) * log_total, rows


def expectation(log_probs: Any, table: Any, children: Any) -> Any:
    """Return ``Σ_a π(a|s) (x(s,a) + W(s⊕a))``; a token that is never chosen adds nothing.

    Args:
        log_probs: ``log π``, ``(*batch, n, V)``, nats.
        table: `x`, ``(*batch, n, V)``.
        children: `W` of each successor, ``(*batch, n, V)``, or 0.

    Example:
        >>> expectation(torch.tensor([[0.0, float("-inf")]]), torch.tensor([[1.0, 5.0]]), 2.0)
        tensor([3.])
    """
    if log_probs.shape == table.shape and _kernel_takes(table, children, log_probs):
        from theory.arrays import triton_kernels

        below = None if isinstance(children, float) else children
        return triton_kernels.expectation(log_probs, table, below)
    x = table + children
    infinite = torch.isinf(x)
    term = torch.where(infinite, x, torch.exp(log_probs) * torch.where(infinite, 0.0, x))
    return torch.where(log_probs == NEVER, 0.0, term).sum(-1)


def _kernel_takes(table: Any, children: Any, *others: Any) -> bool:
    tensors = (table, *others) if isinstance(children, float) else (table, children, *others)
    return (
        (table.is_cuda or INTERPRETED)
        and table.shape[-1] <= MOST_TOKENS
        and table.dtype in (torch.float32, torch.float64)
        and all(type(x) is torch.Tensor and x.dtype == table.dtype for x in tensors)
        and all(x.shape == table.shape for x in tensors)
        and _triton_is_there()
    )


@cache
def _triton_is_there() -> bool:
    return find_spec("triton") is not None


class _SoftValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Any, mdp: Any, alpha: Any, *rewards: Any) -> Any:
        values = solve(mdp, alpha)
        ctx.dynamics = mdp.dynamics
        ctx.alpha = None if torch.is_tensor(alpha) else alpha
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*((alpha,) if ctx.alpha is None else ()), *rewards, *values)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        d = ctx.dynamics
        alpha = ctx.saved_tensors[0] if ctx.alpha is None else ctx.alpha
        saved = ctx.saved_tensors[ctx.alpha is None :]
        rewards = saved[: d.horizon]
        values = (*saved[d.horizon :], None)
        by_alpha: Any = None
        by_reward: list[Any] = []
        mass: Any = None  # how often each state of the layer is come to
        for h, reward in enumerate(rewards):
            mass = _sum(mass, gradients[h])
            if mass is None:
                by_reward.append(None)
                continue
            children = d.children(h, values[h + 1])
            flow = _soft_flow(reward, children, d.allowed[h], values[h], mass, alpha)
            if ctx.alpha is None:
                # d(α log Σ e^{q/α})/dα is the entropy of the row
                surprise = (values[h][..., None] - reward - children) / expand(alpha, 2)
                found = (flow * surprise).sum(-1).sum(-1)
                by_alpha = _sum(by_alpha, _sum_to(found, alpha.shape))
            by_reward.append(_sum_to(flow, reward.shape))
            mass = d.push(h, flow) if h + 1 < d.horizon else None
        return None, None, by_alpha, *by_reward


class _ExpectedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Any, policy: Any, *tables: Any) -> Any:
        H = policy.horizon
        sums = solve(replace(policy, log_probs=tables[:H]), tables[H:])
        ctx.dynamics = policy.dynamics
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tables, *sums)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        d = ctx.dynamics
        H = d.horizon
        wanted = ctx.needs_input_grad[2:]
        saved = ctx.saved_tensors
        sums = (*saved[2 * H :], None)
        by_log_prob: list[Any] = []
        by_table: list[Any] = []
        mass: Any = None
        for h, (log_probs, table) in enumerate(zip(saved[:H], saved[H : 2 * H], strict=True)):
            mass = _sum(mass, gradients[h])
            if mass is None:
                by_log_prob.append(None)
                by_table.append(None)
                continue
            children = d.children(h, sums[h + 1]) if wanted[h] else None
            flow, found = _expected_flow(log_probs, table, children, mass)
            by_log_prob.append(None if found is None else _sum_to(found, log_probs.shape))
            by_table.append(_sum_to(flow, table.shape) if wanted[H + h] else None)
            mass = d.push(h, flow) if h + 1 < H else None
        return None, None, *by_log_prob, *by_table


def _sum(one: Any, two: Any) -> Any:
    return two if one is None else one if two is None else one + two


def _sum_to(x: Any, shape: Any) -> Any:
    return x if x.shape == shape else x.sum_to_size(shape)


def _soft_flow(reward: Any, children: Any, allowed: Any, value: Any, mass: Any, alpha: Any) -> Any:
    """``mass(s)·exp((Q(s,a) − V(s))/α)``, a row's sum its mass: ``(*batch, n, V)``.

    Rows are normalised, because the rounding of `V`, divided by a small `α`, would add up.
    """
    if torch.is_grad_enabled():
        gap = (reward + children - value[..., None]) / expand(alpha, 2)
        law = torch.exp(forbid(gap, allowed))
        return law * (mass / law.sum(-1))[..., None]
    scale = 1.0 / expand(alpha, 1)
    flow = reward.new_empty((*value.shape, reward.shape[-1]))
    tables = [flow, forbid(reward, allowed)]
    tables += [] if isinstance(children, float) else [children]  # none after the last token
    for top, share, out, here, *rest in _blocks([value, mass], tables):
        law = here - top
        for following in rest:
            law += following
        law = law.mul_(scale).exp_()
        torch.mul(law, share / law.sum(0), out=out)
    return flow


def _expected_flow(log_probs: Any, table: Any, children: Any, mass: Any) -> tuple[Any, Any]:
    """``mass(s)·π(a|s)``, and that times ``x(s,a) + W(s⊕a)`` unless `children` is None.

    The product is zero for a token that is never chosen, whose `x` may be infinite.
    """
    if torch.is_grad_enabled():
        flow = torch.exp(log_probs) * mass[..., None]
        if children is None:
            return flow, None
        return flow, flow * torch.where(log_probs == NEVER, 0.0, table + children)
    flow = log_probs.new_empty((*mass.shape, log_probs.shape[-1]))
    if children is None:
        for share, out, here in _blocks([mass], [flow, log_probs]):
            torch.mul(torch.exp(here), share, out=out)
        return flow, None
    found = torch.empty_like(flow)
    following = [] if isinstance(children, float) else [children]  # none after the last token
    for share, out, product, here, x, *rest in _blocks(
        [mass], [flow, found, log_probs, table, *following]
    ):
        law = torch.exp(here).mul_(share)
        out.copy_(law)
        for more in rest:
            x = x + more
        torch.mul(law, x, out=product)
        if product.device.type != "cpu" or not bool(product.sum().isfinite()):
            product.masked_fill_(here == NEVER, 0.0)
    return flow, found


def _blocks(values: list[Any], tables: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield pieces of values and, token-major, of tables that fit a CPU's cache; a GPU takes all.

    They are broadcast to the shape of the first table, ``(*batch, n, V)``.
    """
    shape = tables[0].shape
    rows = [x.expand(shape[:-1]) for x in values] + [x.expand(shape).movedim(-1, 0) for x in tables]
    states = BLOCK if tables[0].device.type == "cpu" else max(1, shape[-2])
    return zip(*(x.split(states, dim=-1) for x in rows), strict=True)
