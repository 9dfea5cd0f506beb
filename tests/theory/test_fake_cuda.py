"""Everything that takes torch tensors works where they are not on the CPU, and gives NumPy's
numbers.

No GPU is needed. A device that is made up (`pretend`) holds real numbers, so that what is read back
from it, such as whether a reward is finite, decides as it would on a GPU; torch's own fake tensors
stop there, and on a CPU build cannot be indexed where they claim to be CUDA's
(`test_torch_knows_a_mixed_up_device`). What takes NumPy arrays by design is not here: `sample`,
`sample_log_ratio_ball`, `best_exponent`, the worst cases of KL, MAP and preferences, what fits
demonstrations or comparisons, files, and enclosures.
"""

import importlib.util
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("torch")
import torch
from pretend import DEVICE, Pretended, back, pretended, there
from strategies import build

from theory.claims import bounds
from theory.mdp.distances import (
    divergence_terms,
    kl,
    max_log_ratio,
    renyi,
    squared_hellinger,
    trajectory_tv,
)
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, greedy_response, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import (
    covariance,
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
)
from theory.solve.soft import plain_optimal, power_policy, soft_optimal, soft_q_values, soft_values
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
    "divergences": lambda x: divergence_terms(x.policy.log_probs[0], x.other.log_probs[0], x.ratio),
    "squared_hellinger": lambda x: squared_hellinger(x.policy, x.other),
    "trajectory_tv": lambda x: trajectory_tv(x.policy, x.other),
    "renyi": lambda x: renyi(x.policy, x.other, x.alpha + 1),
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


def test_torch_knows_a_mixed_up_device():
    """Torch's fake tensors: what stays on the device of its input passes; a number that is read
    ends it.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=False):
        x = torch.zeros(4, 3, dtype=torch.float64, device=DEVICE)
        mdp = TokenMDP(build("tree", np.random.default_rng(0), 4, 3, 1).dynamics, (x,))
        for found in (
            *soft_values(mdp, ALPHA),
            *tables(soft_optimal(mdp, ALPHA)),
            *tables(plain_optimal(mdp)),
        ):
            assert found.device == DEVICE
        with pytest.raises(DataDependentOutputException):
            plain_value(mdp, soft_optimal(mdp, ALPHA).policy)
        gpu = torch.zeros(4, 3, device="cuda")
        if not torch.backends.cuda.is_built():
            with pytest.raises(RuntimeError, match="not linked"):
                gpu[0]


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
