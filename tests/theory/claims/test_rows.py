"""Rows by length, by the spread of the return and in closed form: where they are attained, and what
they are when little is allowed.
"""

import numpy as np
import pytest
from planted import changed

from theory.claims import bounds
from theory.claims.findings import decide
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.studies.gallery import randomised_response

BY_NAME = {statement.name: statement for statement in STATEMENTS}


def one_choice(alpha, probs):
    mdp = TokenMDP.tree([[[1.0, 0.0]]])
    policy = Policy.from_probs(mdp.dynamics, [[probs]])
    return Instance(mdp, soft_optimal(mdp, alpha).policy, policy, alpha)


@pytest.mark.parametrize("name", ["clone-variance", "clone-le-cam"])
@pytest.mark.parametrize("probs", [(0.2, 0.8), (0.999, 0.001)])
def test_one_choice_between_two_tokens_attains_cauchy_schwarz(name, probs):
    instance = one_choice(0.7, probs)
    found = BY_NAME[name]
    assert float(found.bound.of(instance)) == pytest.approx(
        abs(float(found.quantity.of(instance))), rel=1e-12
    )


def test_an_expert_of_one_response_attains_its_bound():
    found = decide(BY_NAME["clone-one-response"], [one_choice(0.01, (0.999, 0.001))])
    assert found.verdict == "holds"
    assert found.worst_ratio == pytest.approx(1, abs=3e-4)
    # with the square of the distance halved, the row is false
    half = changed(
        BY_NAME["clone-one-response"],
        right=lambda i: i.return_range * bounds.tv_of_one_response(i.hellinger / 2, 0.0),
    )
    assert decide(half, [one_choice(0.01, (0.999, 0.001))]).verdict == "violated"


def test_a_rare_response_attains_coverage():
    """`π_E` writes it four times as often as `π̂`."""
    rare = 1e-5
    mdp = TokenMDP.tree([np.log([[4 * rare, 1 - 4 * rare]])], reward_range=(-20, 0))
    policy = Policy.from_probs(mdp.dynamics, [[[rare * 0.999, 1 - rare * 0.999]]])
    instance = Instance(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
    found = decide(BY_NAME["coverage"], [instance])
    assert found.verdict == "holds"
    assert found.left == pytest.approx(4 * rare)
    assert found.worst_ratio == pytest.approx(1, abs=2e-3)
    assert float(bounds.coverage(0.1, 4)) < 0.1 / np.log(4 / np.e)


@pytest.mark.parametrize("horizon", [1, 4, 9])
@pytest.mark.parametrize("epsilon", [0.1, 2.0])
def test_randomised_responses_attain_hellinger_ball(horizon, epsilon):
    instance = randomised_response(horizon, 0.3, epsilon)
    assert float(instance.hellinger) == pytest.approx(
        float(bounds.hellinger_ball(horizon, epsilon)), rel=1e-12
    )


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 0.7, 5.0, 80.0, np.inf])
@pytest.mark.parametrize("horizon", [1, 2, 30, 1000])
def test_closed_forms(horizon, epsilon):
    exact = float(bounds.tv_randomised_response(horizon, epsilon))
    closed = float(bounds.tv_affinity(horizon, epsilon))
    assert exact <= closed * (1 + 1e-12)
    assert closed <= min(1.0, np.sqrt(horizon) * np.tanh(epsilon / 2)) * (1 + 1e-12)
    assert closed <= np.sqrt(2) * exact * (1 + 1e-6)  # equal for two steps and small ε
    if epsilon < 50:
        assert float(bounds.hellinger_ball(horizon, epsilon)) == pytest.approx(
            -np.expm1(-horizon * np.log(np.cosh(epsilon / 2))), rel=1e-7
        )


def ended(seed=0, alpha=0.5):
    """Responses that an end token, 0, may end early; forbidden tokens beside it."""
    rng = np.random.default_rng(seed)
    rewards = [rng.random((3**h, 3)) for h in range(3)]
    noise = [rng.uniform(-0.5, 0.5, (3**h, 3)) for h in range(3)]
    return built(rewards, noise, alpha)


def built(rewards, noise, alpha):
    mdp = TokenMDP.tree(rewards, eos=0)
    expert = soft_optimal(mdp, alpha).policy
    logits = [
        np.where(np.isfinite(t), t + x[..., : t.shape[-2], :], t)
        for t, x in zip(expert.log_probs, noise, strict=True)
    ]
    return Instance(mdp, expert, Policy.from_logits(expert.dynamics, logits), alpha)


@pytest.mark.parametrize("seed", range(5))
def test_length_is_what_is_written_before_the_end(seed):
    instance = ended(seed)
    every = all_responses(instance.mdp.dynamics)

    def length(tokens):
        return next((k + 1 for k, a in enumerate(tokens) if a == 0), len(tokens))

    lengths = np.array([length(t) for t in every.tokens.tolist()])
    for policy in (instance.expert, instance.policy):
        law = np.exp(log_prob(policy, every))
        assert float(instance.choices(policy)) == pytest.approx(law @ lengths, rel=1e-12)
    rl = instance.rl_response.tokens[0].tolist()
    assert float(instance.rl_choices) == length(rl)
    i, j = instance.pairs
    tokens = instance.responses.tokens
    parted = np.array([np.argmax(tokens[a] != tokens[b]) for a, b in zip(i, j, strict=True)])
    mine = np.array([length(t) for t in tokens.tolist()])
    expected = np.maximum(mine[i] - parted, 0) + np.maximum(mine[j] - parted, 0)
    kept = np.asarray(instance.pair_counts)[0]
    np.testing.assert_array_equal(instance.pair_choices[0][kept], expected[kept])


@pytest.mark.parametrize(
    ("name", "coarser"),
    [
        ("kl-length", "kl-ball"),
        ("rl-length", "rl-expert"),
        ("preference-length", "theorem-1-sharp"),
    ],
)
def test_bounds_by_length_are_below_those_by_the_cut(name, coarser):
    less = False
    for seed in range(5):
        instance = ended(seed)
        short, long = (np.asarray(BY_NAME[x].bound.of(instance)) for x in (name, coarser))
        kept = instance.pair_counts if "preference" in name else ...
        assert (short[kept] <= long[kept] * (1 + 1e-12)).all()
        less |= bool((short[kept] < 0.999 * long[kept]).any())
        assert decide(BY_NAME[name], [instance]).verdict == "holds"
    assert less


def test_problems_of_a_batch_have_their_own():
    rng = np.random.default_rng(0)
    rewards, noise = ([rng.random((2, 3**h, 3)) for h in range(3)] for _ in range(2))
    both = built(rewards, noise, 0.5)
    for k in range(2):
        one = built([r[k] for r in rewards], [x[k] for x in noise], 0.5)
        np.testing.assert_array_equal(both.pair_choices, one.pair_choices)
        for name in ("clone_bound_of_variance", "clone_bound_of_le_cam", "rl_choices", "hellinger"):
            shared = np.broadcast_to(getattr(both, name), 2)
            assert float(shared[k]) == pytest.approx(float(getattr(one, name)), rel=1e-12), name
