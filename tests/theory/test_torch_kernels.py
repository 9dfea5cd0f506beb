"""Sweeps of torch tensors: gradients in closed form, and a layer's backup as one kernel."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
from strategies import build, enumerate_responses

from theory.arrays import tensors
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy, plain_value, regularised_value
from theory.solve.soft import soft_optimal, soft_values

ALPHA = 0.5
RULES = [("tree", False), ("tree", True), ("window", True), ("table", True)]


def problem(rule, masked, dtype=torch.float64, H=3):
    """An MDP of leaves, and those leaves."""
    mdp = build(rule, np.random.default_rng(3), 2, 3, H, masked=masked, window=1)
    leaves = [torch.tensor(np.ascontiguousarray(r), dtype=dtype) for r in mdp.rewards]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    return TokenMDP(mdp.dynamics, tuple(leaves)), leaves


def on(mdp, rewards):
    return TokenMDP(mdp.dynamics, tuple(rewards))


@pytest.mark.parametrize("alpha", [1e-3, 0.5, 20.0])
@pytest.mark.parametrize(("rule", "masked"), RULES)
def test_the_gradient_of_a_soft_value_is_the_occupancy(rule, masked, alpha):
    mdp, leaves = problem(rule, masked)
    value = mdp.dynamics.average(soft_values(mdp, alpha)[0])
    gradients = torch.autograd.grad(value, leaves)
    plain = on(mdp, [np.asarray(leaf.detach()) for leaf in leaves])
    expert = soft_optimal(plain, alpha).policy
    for found, states, rows in zip(gradients, occupancy(expert), expert.log_probs, strict=True):
        assert_allclose(found, states[:, None] * np.exp(rows), rtol=1e-9, atol=1e-14)
        assert_allclose(float(found.sum()), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("rule", "masked"), RULES)
def test_gradients_agree_with_enumerated_responses(rule, masked):
    """The soft value over all responses, differentiated by torch: no sweep."""
    mdp, leaves = problem(rule, masked)
    found = torch.autograd.grad(soft_values(mdp, ALPHA)[0].sum(), leaves)
    total = 0.0
    for prompt in range(mdp.dynamics.n_prompts):
        returns = [
            sum(leaves[h][s, a] for h, (a, s) in enumerate(zip(tokens, states, strict=True)))
            for tokens, states in enumerate_responses(mdp.dynamics, prompt)
        ]
        total = total + ALPHA * torch.logsumexp(torch.stack(returns) / ALPHA, dim=0)
    for one, two in zip(found, torch.autograd.grad(total, leaves), strict=True):
        assert_allclose(one, two, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("second", [False, True], ids=["gradient", "gradient of the gradient"])
@pytest.mark.parametrize(("rule", "masked"), RULES)
def test_gradients_agree_with_finite_differences(rule, masked, second):
    check = torch.autograd.gradgradcheck if second else torch.autograd.gradcheck
    mdp, leaves = problem(rule, masked)
    for alpha in (torch.tensor([0.3, 0.7]), torch.tensor(0.4)):
        alpha = alpha.double().requires_grad_()
        assert check(lambda a, *r: soft_values(on(mdp, r), a), (alpha, *leaves))
        assert check(lambda a, *r: regularised(mdp, r, a), (alpha, *leaves, *leaves))
        fixed = alpha.detach()  # then both terms go backward in one sweep
        assert check(lambda *r, a=fixed: regularised(mdp, r, a), (*leaves, *leaves))
        recorded = regularised(mdp, (*leaves, *leaves), fixed)
        with torch.no_grad():
            plain = regularised(mdp, (*leaves, *leaves), fixed)
        assert_allclose(recorded.detach(), plain, rtol=1e-13)


def regularised(mdp, tables, alpha):
    policy = Policy.from_logits(mdp.dynamics, tables[mdp.horizon :])
    return regularised_value(on(mdp, tables[: mdp.horizon]), policy, alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1.0])
def test_no_gradient_is_nan_where_tokens_are_forbidden(alpha, dtype):
    mdp, leaves = problem("tree", True, dtype)
    solution = soft_optimal(mdp, alpha)
    value = solution.values[0].sum() + plain_value(mdp, solution.policy)
    for leaf, gradient in zip(leaves, torch.autograd.grad(value, leaves), strict=True):
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()
        assert gradient.shape == leaf.shape
    for mask, gradient in zip(
        mdp.dynamics.allowed, torch.autograd.grad(soft_values(mdp, alpha)[0].sum(), leaves),
        strict=True,
    ):  # fmt: skip
        assert mask is None or (gradient[torch.from_numpy(~mask)] == 0).all()


def test_single_precision_loses_no_probability_at_a_small_temperature():
    """Rounding of values of 8, divided by 1e-4, is 1 % of a probability; layers would add up."""
    mdp = build("tree", np.random.default_rng(0), 1, 3, 8)
    leaves = [torch.tensor(np.ascontiguousarray(r)).float() for r in mdp.rewards]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    gradients = torch.autograd.grad(soft_values(on(mdp, leaves), 1e-4)[0].sum(), leaves)
    for gradient in gradients:
        assert math.isclose(float(gradient.sum()), 1.0, rel_tol=1e-5)


def test_the_gradient_reaches_what_the_user_gave():
    rewards = [torch.rand(3**h, 3, dtype=torch.float64, requires_grad=True) for h in range(3)]
    mdp = TokenMDP.tree(rewards)
    assert mdp.rewards[2].stride() == (1, 9)  # token-major, like NumPy's
    soft_values(mdp, ALPHA)[0].sum().backward()
    assert all(math.isclose(float(leaf.grad.sum()), 1.0) for leaf in rewards)


def test_what_records_keeps_out_of_numpy():
    x = torch.zeros(2, 2, requires_grad=True)
    assert tensors.needs_gradient([x])
    assert not tensors.numpy_can_read([x])
    with torch.no_grad():
        assert tensors.numpy_can_read([x])
        assert not tensors.needs_gradient([x])
    assert not tensors.numpy_can_read([torch.zeros(2, 2, device="meta")])
    assert not tensors.numpy_can_read([torch.zeros(2, 2, dtype=torch.bfloat16)])
    seen = []
    torch.func.vmap(lambda y: seen.append(tensors.numpy_can_read([y])) or y)(torch.zeros(2, 2))
    with torch.autograd.forward_ad.dual_level():
        seen.append(tensors.numpy_can_read([torch.zeros(2, 2)]))
    assert seen == [False, False]


def test_a_cpu_tensor_is_read_where_it_is():
    x = torch.zeros(2, 2)
    assert tensors.numbers(x).ctypes.data == x.data_ptr()
    assert tensors.through_numpy(lambda y: y, x).data_ptr() == x.data_ptr()


INTERPRETED = """
import itertools, torch
from theory.arrays import torch_kernels as kernels

assert kernels.INTERPRETED and kernels._triton_is_there()

def both(call):
    kernels.INTERPRETED = True
    one = call()
    kernels.INTERPRETED = False
    return one, call()

def compare(one, two, dtype):
    close = 1e-13 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(one, two, rtol=close, atol=close, equal_nan=False)
    assert one.dtype == dtype and one.shape == two.shape

torch.manual_seed(0)
shapes = [(1, 1), (5, 2), (1300, 4), (7, 9), (2, 3, 5, 4)]
for shape, dtype, major in itertools.product(shapes, (torch.float32, torch.float64), (0, 1)):
    place = (lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1)) if major else (lambda x: x)
    reward, children = (torch.rand(shape, dtype=dtype) for _ in range(2))
    reward[..., 1:][torch.rand(shape, dtype=dtype)[..., 1:] < 0.3] = float("-inf")
    log_probs = place(torch.log_softmax(reward, -1))
    reward = place(reward)
    for below in (0.0, children):
        for alpha in (1e-3, 0.5):
            for policy in (False, True):
                one, two = both(lambda: kernels.soft_backup(reward, below, alpha, policy=policy))
                compare(one[0], two[0], dtype)
                assert (one[1] is None) == (two[1] is None) == (not policy)
                if policy:
                    close = 1e-10 if dtype == torch.float64 else 2e-3
                    torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=close)
                    assert one[1].stride() == two[1].stride()
        table = place(torch.rand(shape, dtype=dtype))
        table[..., -1] = float("inf")
        for x in (table, place(torch.rand(shape, dtype=dtype)), reward):
            compare(*both(lambda: kernels.expectation(log_probs, x, below)), dtype)
print("same")
"""


def test_triton_kernels_compute_what_torch_does():
    if not importlib.util.find_spec("triton"):
        pytest.skip("triton is not installed: it comes with torch's builds for CUDA")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr
