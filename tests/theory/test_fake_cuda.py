"""Everything that takes torch tensors works where they are not on the CPU, and gives NumPy's
numbers.

No GPU is needed. A device that is made up (`pretend`) holds real numbers, so that what is read back
from it, such as whether a reward is finite, decides as it would on a GPU. Torch's own fake tensors
on ``cuda`` (`fake_cuda`) have no numbers: they find what a sweep reads back, which on a GPU waits
for all that runs there. What takes NumPy arrays by design is not here, `NUMPY_ONLY` and the rooms
and modules that `MODULES` leaves out: discounted MDPs, the worst cases of KL, MAP and preferences,
what fits demonstrations or comparisons, files, and enclosures.
"""

import importlib
import importlib.util
import inspect
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("torch")
import torch
from fake_cuda import fake, fake_cuda
from pretend import DEVICE, Pretended, back, pretended, there
from strategies import build

from theory.claims import bounds
from theory.mdp.distances import (
    best_of_n_kl,
    coverage_profile,
    divergence_terms,
    kl,
    le_cam,
    log_ratios,
    max_log_ratio,
    overlap,
    renyi,
    squared_hellinger,
    trajectory_tv,
)
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    best_continuations,
    best_response,
    best_sums,
    greedy_path,
    greedy_response,
    log_prob,
    map_response,
    response_sum,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import (
    covariance,
    expectation,
    expected_sums,
    occupancy,
    plain_value,
    plain_values,
    regularised_value,
    trajectory_entropy,
)
from theory.solve import improve
from theory.solve.ball import extreme_tilt
from theory.solve.reward import (
    bradley_terry,
    endogenous_reward,
    preference_tv,
    returns,
    shape_reward,
    with_rewards,
)
from theory.solve.soft import (
    greedy_rows,
    log_softmax,
    plain_optimal,
    power_policy,
    soft_optimal,
    soft_q_values,
    soft_values,
)
from theory.solve.worst_clone import best_clone, worst_clone
from theory.studies.search import clone_fraction

ALPHA, BETA, EPSILON = 0.7, 0.4, 0.3

CALLS = {
    "soft_values": lambda x: soft_values(x.mdp, x.alpha),
    "soft_q_values": lambda x: soft_q_values(x.mdp, x.alpha),
    "soft_optimal": lambda x: tables(soft_optimal(x.mdp, x.alpha)),
    "plain_optimal": lambda x: tables(plain_optimal(x.mdp)),
    "power_policy": lambda x: power_policy(x.policy, x.alpha).log_probs,
    "plain_values": lambda x: plain_values(x.mdp, x.policy),
    "plain_value": lambda x: plain_value(x.mdp, x.policy),
    "regularised_value": lambda x: regularised_value(x.mdp, x.policy, x.alpha),
    "trajectory_entropy": lambda x: trajectory_entropy(x.policy),
    "kl": lambda x: [kl(x.policy, x.other), kl(x.policy, x.other, per_prompt=True)],
    "divergence_terms": lambda x: divergence_terms(
        x.policy.log_probs[0], x.other.log_probs[0], x.ratio
    ),
    "squared_hellinger": lambda x: squared_hellinger(x.policy, x.other),
    "trajectory_tv": lambda x: trajectory_tv(x.policy, x.other),
    "renyi": lambda x: renyi(x.policy, x.other, x.alpha + 1),
    "le_cam": lambda x: le_cam(x.policy, x.other),
    "coverage_profile": lambda x: coverage_profile(x.policy, x.other, 1.5),
    "best_of_n_kl": lambda x: best_of_n_kl(x.policy, 3),
    "overlap": lambda x: [overlap(x.policy, x.other)[0].log_probs, overlap(x.policy, x.other)[1]],
    "log_ratios": lambda x: log_ratios(x.policy, x.other),
    "expected_sums": lambda x: expected_sums(x.policy, x.mdp.rewards),
    "expectation": lambda x: expectation(
        x.exp(x.policy.log_probs[0]), x.policy.log_probs[0], x.mdp.rewards[0]
    ),
    "best_continuations": lambda x: best_continuations(x.mdp.dynamics, x.mdp.rewards),
    "best_sums": lambda x: best_sums(x.mdp.dynamics, x.mdp.rewards),
    "best_response": lambda x: list(best_response(x.mdp.dynamics, x.mdp.rewards)),
    "greedy_path": lambda x: list(greedy_path(x.mdp.dynamics, x.mdp.rewards)),
    "response_sum": lambda x: response_sum(x.mdp.dynamics, x.mdp.rewards, x.every),
    "greedy_rows": lambda x: greedy_rows(x.mdp.rewards[0]),
    "log_softmax": lambda x: log_softmax(x.mdp.rewards[0], ALPHA),
    "with_rewards": lambda x: with_rewards(x.mdp.dynamics, x.mdp.rewards).rewards,
    "tree": lambda x: [
        TokenMDP.tree([t[None, :2] for t in x.mdp.rewards[:1]], eos=eos).rewards
        for eos in (None, 1)
    ],
    "covariance": lambda x: covariance(x.policy, x.mdp.rewards, x.policy.log_probs),
    "max_log_ratio": lambda x: [
        max_log_ratio(x.policy, x.other),
        max_log_ratio(x.policy, x.other, per_prompt=True),
    ],
    "occupancy": lambda x: occupancy(x.policy),
    "log_prob": lambda x: log_prob(x.policy, x.every),
    "returns": lambda x: returns(x.mdp, x.every),
    "map_response": lambda x: list(map_response(x.policy)),
    "greedy_response": lambda x: list(greedy_response(x.policy)),
    "as_tree": lambda x: [x.mdp.as_tree().rewards, x.policy.as_tree().log_probs],
    "from_logits": lambda x: (
        Policy.from_logits(x.mdp.dynamics, x.policy.log_probs, x.alpha).log_normalizers
    ),
    "from_log_probs": lambda x: Policy.from_log_probs(x.mdp.dynamics, x.policy.log_probs).log_probs,
    "from_probs": lambda x: (
        Policy.from_probs(x.mdp.dynamics, [x.exp(t) for t in x.policy.log_probs]).log_probs
    ),
    "endogenous_reward": lambda x: [
        endogenous_reward(x.policy, x.alpha, gauge=gauge).rewards for gauge in ("logits", "logprob")
    ],
    "shape_reward": lambda x: shape_reward(x.mdp, plain_values(x.mdp, x.policy)).rewards,
    "bradley_terry": lambda x: bradley_terry(returns(x.mdp, x.every)),
    "preference_tv": lambda x: preference_tv(returns(x.mdp, x.every), -returns(x.mdp, x.every)),
    "worst_clone": lambda x: tables(worst_clone(x.mdp, x.policy, x.epsilon)),
    "best_clone": lambda x: tables(best_clone(x.mdp, x.policy, x.epsilon)),
    "extreme_tilt": lambda x: extreme_tilt(x.policy.log_probs[0], x.mdp.rewards[0], EPSILON),
    "kl_optimal": lambda x: tables(improve.kl_optimal(x.mdp, x.policy, x.beta)),
    "regularised_objective": lambda x: improve.regularised_objective(
        x.mdp, x.policy, x.other, x.beta
    ),
    "distil": lambda x: tables(improve.distil(x.policy, x.other, x.alpha, x.beta)),
    "hybrid_reward": lambda x: improve.hybrid_reward(x.mdp, x.mdp, x.alpha).rewards,
    "iterate": lambda x: [
        p.log_probs for p in islice(improve.iterate(x.policy, x.alpha, x.beta), 3)
    ],
    "scheme_exponent": lambda x: improve.scheme_exponent("compound", x.alpha, x.beta, 3),
    "sharpening_slope": lambda x: improve.sharpening_slope(x.mdp, x.policy, x.alpha),
    "sharpening_curve": lambda x: list(
        vars(improve.sharpening_curve(x.mdp, x.policy, ALPHA, x.exponents)).values()
    ),
    "clone_fraction": lambda x: clone_fraction(bounds.clone_gap_elementary)(
        x.one_prompt, x.alpha, EPSILON
    ),
}


NUMPY_ONLY = {
    "all_responses": "takes dynamics",
    "by_layer": "takes a function",
    "check_responses": "checks what a caller gave, on the host",
    "sample": "NumPy's generator",
    "sample_log_ratio_ball": "NumPy's generator",
    "best_exponent": "SciPy's search",
}
"""Public functions of `MODULES` that take no tensors, and why."""

MODULES = (
    "mdp.distances", "mdp.responses", "mdp.values", "solve.improve", "solve.reward", "solve.soft",
    "solve.worst_clone",
)  # fmt: skip

MAKES_AN_MDP = "the range of its rewards and its mask are the host's"
READS = {
    "from_logits": "checks what a caller gave",
    "from_log_probs": "checks what a caller gave",
    "from_probs": "checks what a caller gave",
    "tree": "checks what a caller gave",
    "kl_optimal": "one number: whether a prompt has a response left",
    "sharpening_curve": "checks each exponent",
    **dict.fromkeys(
        ("endogenous_reward", "power_policy", "shape_reward", "with_rewards", "hybrid_reward",
         "distil", "iterate", "sharpening_slope"),
        MAKES_AN_MDP,
    ),
}  # fmt: skip
"""What reads numbers back from the device, and why; nothing else does."""


def tables(solution):
    return [*solution.policy.log_probs, *solution.values]


class Problem:
    """One MDP, two policies of it and every response, with arrays that `place` has made."""

    def __init__(self, place, rule, masked, V, batch, exp):
        rng = np.random.default_rng(5)
        mdp = build(rule, rng, 2, V, 3, masked=masked, window=1)
        logits = [[rng.normal(size=(n, V)) for n in mdp.dynamics.layer_sizes] for _ in range(2)]
        self.mdp = TokenMDP(mdp.dynamics, tuple(map(place, mdp.rewards)), mdp.reward_range)
        self.policy, self.other = (
            Policy.from_logits(mdp.dynamics, list(map(place, each))) for each in logits
        )
        # where a token is forbidden to both, their ratio is no number
        self.ratio = place(np.nan_to_num(logits[0][0] - logits[1][0]))
        self.every = Responses(*map(place, all_responses(mdp.dynamics)))
        alone = build(rule, np.random.default_rng(6), 1, V, 3, masked=masked, window=1)
        self.one_prompt = TokenMDP(
            alone.dynamics, tuple(map(place, alone.rewards)), alone.reward_range
        )
        number = (lambda x: place(np.array([x, 2 * x]))) if batch else float
        self.alpha, self.beta, self.epsilon = number(ALPHA), number(BETA), number(EPSILON)
        self.exponents, self.exp = place(np.array([0.5, 1.0, 2.0])), exp


@pytest.mark.parametrize("batch", [False, True], ids=["scalars", "batch"])
@pytest.mark.parametrize(
    ("rule", "masked", "V"),
    [("tree", False, 3), ("window", True, 3), ("table", True, 3), ("tree", False, 9)],
)
@pytest.mark.parametrize("name", CALLS)
def test_solver_on_another_device(name, rule, masked, V, batch):
    expected = CALLS[name](Problem(np.asarray, rule, masked, V, batch, np.exp))
    with pretended():
        found = CALLS[name](Problem(there, rule, masked, V, batch, torch.exp))
    leaves, wanted = (torch.utils._pytree.tree_leaves(x) for x in (found, expected))
    if name != "scheme_exponent" or batch:  # of numbers alone it makes a number
        assert all(isinstance(leaf, Pretended) for leaf in leaves)
    for one, two in zip(back(leaves), wanted, strict=True):
        assert_allclose(one, two, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("batch", [False, True], ids=["scalars", "batch"])
@pytest.mark.parametrize(
    ("rule", "masked", "V"),
    [("tree", False, 3), ("window", True, 3), ("table", True, 3), ("tree", False, 9)],
)
@pytest.mark.parametrize("name", CALLS)
def test_solver_on_tensors_of_a_cpu(name, rule, masked, V, batch):
    """Where gradients are recorded, where they are not, and in single precision."""
    expected = CALLS[name](Problem(np.asarray, rule, masked, V, batch, np.exp))
    wanted = torch.utils._pytree.tree_leaves(expected)
    for dtype, recorded in ((torch.float64, False), (torch.float64, True), (torch.float32, False)):

        def place(array, dtype=dtype, recorded=recorded):
            tensor = torch.from_numpy(np.array(array))
            return tensor.to(dtype).requires_grad_(recorded) if array.dtype.kind == "f" else tensor

        found = CALLS[name](Problem(place, rule, masked, V, batch, torch.exp))
        leaves = torch.utils._pytree.tree_leaves(found)
        single = dtype == torch.float32
        for one, two in zip(leaves, wanted, strict=True):
            if name == "scheme_exponent" and not batch:
                continue
            assert isinstance(one, torch.Tensor)
            assert one.dtype in (dtype, torch.int64)
            tolerance = {"rtol": 1e-4, "atol": 2e-5} if single else {"rtol": 1e-12, "atol": 1e-14}
            assert_allclose(one.detach().numpy(), two, **tolerance)


def test_gradients_on_another_device():
    """Automatic differentiation is what the search for worst cases has."""
    mdp = build("tree", np.random.default_rng(0), 1, 3, 3)
    with pretended():
        rewards = [there(table).requires_grad_(True) for table in mdp.rewards]
        objective = clone_fraction(bounds.clone_gap_elementary)
        objective(
            TokenMDP(mdp.dynamics, tuple(rewards)), there(np.array(ALPHA)), EPSILON
        ).backward()
        assert all(
            isinstance(table.grad, Pretended) and table.grad.numbers.isfinite().all()
            for table in rewards
        )


def test_what_is_mixed_up_is_found():
    with pretended():
        x = there(np.ones((2, 3)))
        assert x.device == DEVICE
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.where(torch.ones(3) > 0, x, 0.0),
            lambda: np.asarray(x),
        ):
            with pytest.raises(RuntimeError):
                mixed()
        assert (
            (x * torch.tensor(2.0)).device == x[np.arange(2)].device == DEVICE
        )  # what a GPU takes too


@pytest.mark.parametrize(
    ("rule", "masked", "V"),
    [("tree", False, 3), ("window", True, 3), ("table", True, 3), ("tree", False, 9)],
)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "scheme_exponent"])
def test_what_a_sweep_computes_stays_on_the_gpu(name, rule, masked, V):
    from torch._subclasses.fake_tensor import DataDependentOutputException

    x = Problem(np.asarray, rule, masked, V, False, torch.exp)
    expected = torch.utils._pytree.tree_leaves(
        CALLS[name](Problem(np.asarray, rule, masked, V, False, np.exp))
    )
    with fake_cuda():
        for part in ("mdp", "policy", "other", "ratio", "every", "one_prompt", "exponents"):
            setattr(x, part, fake(getattr(x, part)))
        if name in READS:
            with pytest.raises(DataDependentOutputException):
                CALLS[name](x)
            return
        leaves = torch.utils._pytree.tree_leaves(CALLS[name](x))
        assert all(leaf.device.type == "cuda" for leaf in leaves)
        assert [leaf.shape for leaf in leaves] == [np.shape(leaf) for leaf in expected]


def test_fake_tensors_know_a_mixed_up_device():
    with fake_cuda():
        x = fake(np.ones((2, 3)))
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.where(torch.ones(3) > 0, x, 0.0),
            lambda: np.asarray(x),
        ):
            with pytest.raises(Exception, match=r"device|numpy|Fake"):
                mixed()


@pytest.mark.parametrize("name", MODULES)
def test_every_function_of_tensors_is_here(name):
    module = importlib.import_module(f"theory.{name}")
    functions = {f for f in module.__all__ if inspect.isfunction(getattr(module, f))}
    assert functions - NUMPY_ONLY.keys() <= CALLS.keys()
    assert READS.keys() <= CALLS.keys()


@pytest.mark.slow
def test_models_are_scored_and_trained_on_another_device():
    """Apart from bfloat16: a device that is made up has no autocast."""
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} registers no device from Python")
    if not all(map(importlib.util.find_spec, ("transformers", "peft"))):
        pytest.skip("transformers or peft is not installed")
    script = Path(__file__).resolve().parents[1] / "helpers" / "pretended_models.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout.startswith("same"), done.stderr
