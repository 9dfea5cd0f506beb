"""Backups of a layer as one Triton kernel each: a state reads its tokens once, on an NVIDIA GPU.

A reduction over an axis of four tokens, written in torch, runs at a few percent of the speed of a
GPU's memory, and every table in between travels there and back. These kernels read a layer's tables
once and write what is asked for. They are compiled once for each size of vocabulary, where
``torch.compile`` would compile every layer of every tree anew. No gradient passes through them:
gradients have their closed form (`theory.arrays.torch_kernels`, which also says what the kernels
take).

This module needs Triton, which comes with torch's builds for CUDA; ``TRITON_INTERPRET=1`` runs it
on a CPU.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["expectation", "soft_backup"]

TILE = 2048
"""Numbers of a table that one program holds, if they are more than a row."""

NEVER = tl.constexpr(float("-inf"))


def soft_backup(
    reward: Any, children: Any, alpha: float, *, policy: bool
) -> tuple[Any, Any | None]:
    """Return the soft maximum of ``reward + children`` over tokens, and its log-softmax if asked.

    Args:
        reward: ``(*batch, n, V)``, reward units; ``-inf`` is a forbidden token.
        children: the value of each successor, of the same shape; `None` after the last token.
        alpha: temperature in reward units.
        policy: whether to return the log-probabilities, token-major.
    """
    value = reward.new_empty(reward.shape[:-1])
    table = None
    if policy:
        table = reward.new_empty((reward.shape[-1], *reward.shape[:-1])).movedim(0, -1)
    # a Python number would reach the kernel in single precision
    temperature = reward.new_full((1,), alpha)
    _launch(_soft_backup, value, reward, children, table, temperature)
    return value, table


def expectation(log_probs: Any, table: Any, children: Any) -> Any:
    """Return ``Σ_a π(a|s) (x(s,a) + W(s⊕a))``; a token that is never chosen adds nothing.

    Args:
        log_probs: ``log π``, ``(*batch, n, V)``, nats.
        table: `x`, of the same shape.
        children: `W` of each successor, of the same shape; `None` after the last token.
    """
    value = table.new_empty(table.shape[:-1])
    _launch(_expectation, value, table, children, log_probs, value)
    return value


def _launch(kernel: Any, value: Any, table: Any, children: Any, other: Any, extra: Any) -> None:
    """Run a program for each `TILE` of a layer; batch axes are states too."""
    rows, below, beside = (
        None if x is None else x.reshape(-1, x.shape[-1]) for x in (table, children, other)
    )
    assert rows is not None
    n, V = rows.shape
    width = triton.next_power_of_2(V)
    block = max(1, TILE // width)
    kernel[(triton.cdiv(n, block),)](
        value,
        *(y for x in (rows, below, beside) for y in _pointer(x, value)),
        extra,
        n,
        V=V,
        WIDTH=width,
        BLOCK=block,
        CHILDREN=below is not None,
        OTHER=beside is not None,
    )


def _pointer(table: Any, anything: Any) -> tuple[Any, int, int]:
    return (anything, 0, 0) if table is None else (table, *table.stride())


@triton.jit  # type: ignore[untyped-decorator]
def _soft_backup(  # type: ignore[no-untyped-def]  # noqa: ANN202
    value, reward, r_state, r_token, children, c_state, c_token, log_probs, p_state, p_token,  # noqa: ANN001
    alpha, n,  # noqa: ANN001
    V: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    CHILDREN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    state = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.arange(0, WIDTH)[None, :]
    inside = (state < n)[:, None] & (token < V)
    q = tl.load(reward + state[:, None] * r_state + token * r_token, mask=inside, other=NEVER)
    if CHILDREN:
        q += tl.load(children + state[:, None] * c_state + token * c_token, mask=inside, other=0.0)
    temperature = tl.load(alpha)
    top = tl.where(state < n, tl.max(q, axis=1), 0.0)
    scaled = (q - top[:, None]) / temperature
    log_total = tl.log(tl.sum(tl.exp(scaled), axis=1))
    tl.store(value + state, top + temperature * log_total, mask=state < n)
    if OTHER:
        place = log_probs + state[:, None] * p_state + token * p_token
        tl.store(place, scaled - log_total[:, None], mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _expectation(  # type: ignore[no-untyped-def]  # noqa: ANN202
    value, table, x_state, x_token, children, c_state, c_token, log_probs, p_state, p_token,  # noqa: ANN001
    unused, n,  # noqa: ANN001
    V: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    CHILDREN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    state = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.arange(0, WIDTH)[None, :]
    inside = (state < n)[:, None] & (token < V)
    log_p = tl.load(
        log_probs + state[:, None] * p_state + token * p_token, mask=inside, other=NEVER
    )
    x = tl.load(table + state[:, None] * x_state + token * x_token, mask=inside, other=0.0)
    if CHILDREN:
        x += tl.load(children + state[:, None] * c_state + token * c_token, mask=inside, other=0.0)
    # an infinite `x` counts whole, also where the probability is too small for a number
    term = tl.where(tl.abs(x) == float("inf"), x, tl.exp(log_p) * x)
    tl.store(value + state, tl.sum(tl.where(log_p == NEVER, 0.0, term), axis=1), mask=state < n)
