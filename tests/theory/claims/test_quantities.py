"""Quantities of an instance against their definitions: sums over every response in plain Python."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from strategies import along, enumerate_responses, random_policy

from theory.claims.instance import COVERED, MAX_LEAVES, Instance
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

ALPHA = 0.6
WEIGHTS = (0.3, 0.7)


@pytest.fixture(scope="module")
def instance():
    """Two prompts, two tokens of three; a state with one token, a token that is forbidden."""
    rng = np.random.default_rng(5)
    masks = [np.ones((2, 3), bool), np.ones((6, 3), bool)]
    masks[1][1] = [True, False, False]
    masks[1][4] = [True, True, False]
    mdp = TokenMDP.tree(
        [rng.uniform(0, 1, (n, 3)) for n in (2, 6)], prompt_weights=WEIGHTS, allowed=masks
    )
    expert = soft_optimal(mdp, ALPHA).policy
    return Instance(mdp, expert, random_policy(mdp.dynamics, rng), ALPHA)


@pytest.fixture(scope="module")
def laws(instance):
    """For each prompt its responses, their returns, and both laws."""
    found = []
    for prompt in range(2):
        responses = enumerate_responses(instance.mdp.dynamics, prompt)
        returns = np.array([along(instance.mdp.rewards, x) for x in responses])
        expert = np.exp(returns / ALPHA)
        policy = np.exp([along(instance.policy.log_probs, x) for x in responses])
        found.append((responses, returns, expert / expert.sum(), policy))
    return found


def average(laws, of):
    return math.fsum(w * float(of(*law)) for w, law in zip(WEIGHTS, laws, strict=True))


def least_square(returns, mass):
    """``min_c Σ mass·(r − c)²``: the least is at the mean."""
    c = mass @ returns / mass.sum()
    return mass @ (returns - c) ** 2


DEFINITIONS = {
    "expert_value": lambda _, r, e, p: e @ r,
    "clone_gap": lambda _, r, e, p: (e - p) @ r,
    "best_value": lambda _, r, e, p: r.max(),
    "return_range": lambda _, r, e, p: r.max() - r.min(),
    "rl_value": lambda _, r, e, p: r[p.argmax()],
    "anchored_value": lambda _, r, e, p: p**2 @ r / (p**2).sum(),
    "soft_value": lambda _, r, e, p: ALPHA * np.log(np.exp(r / ALPHA).sum()),
    "kl_to_expert": lambda _, r, e, p: p @ np.log(p / e),
    "kl_from_expert": lambda _, r, e, p: e @ np.log(e / p),
    "renyi_to_expert": lambda _, r, e, p: np.log((p**2 / e).sum()),
    "hellinger": lambda _, r, e, p: 1 - np.sqrt(e * p).sum(),
    "trajectory_tv": lambda _, r, e, p: np.abs(e - p).sum() / 2,
    "coverage": lambda _, r, e, p: e[e >= COVERED * p].sum(),
    "clone_bound_of_le_cam": lambda _, r, e, p: np.sqrt(
        ((e - p) ** 2 / (e + p)).sum() * least_square(r, e + p)
    ),
    "clone_bound_of_variance": lambda _, r, e, p: np.sqrt(
        ((np.sqrt(e) - np.sqrt(p)) ** 2).sum() * least_square(r, (np.sqrt(e) + np.sqrt(p)) ** 2)
    ),
}


def of_one_response(_, returns, expert, policy):
    distance = 2 * (1 - np.sqrt(expert * policy).sum())
    return min(1.0, distance + 2 * math.sqrt((1 - expert.max()) * distance))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_quantity_is_its_definition(name, instance, laws):
    found = getattr(instance, name)
    assert float(found) == pytest.approx(average(laws, DEFINITIONS[name]), rel=1e-11), name


def test_quantities_of_each_prompt_are_its_own(instance, laws):
    for name, of in {
        "response_tv": DEFINITIONS["trajectory_tv"],
        "pinsker_tv": lambda *law: min(1.0, math.sqrt(DEFINITIONS["kl_to_expert"](*law) / 2)),
        "hellinger_tv": lambda _, r, e, p: math.sqrt(1 - np.sqrt(e * p).sum() ** 2),
        "tv_of_one_response": of_one_response,
    }.items():
        exact = [of(*law) for law in laws]
        np.testing.assert_allclose(getattr(instance, name), exact, rtol=1e-11, err_msg=name)
    tv = np.array([0.25, 0.5])
    exact = average(laws, DEFINITIONS["return_range"])
    assert float(instance.clone_bound(np.ones(2))) == pytest.approx(exact)
    exact = sum(w * x * np.ptp(r) for w, x, (_, r, *_) in zip(WEIGHTS, tv, laws, strict=True))
    assert float(instance.clone_bound(tv)) == pytest.approx(exact)


def test_what_is_read_of_either_policy(instance, laws):
    """Entropy, and both objectives of inverse learning, which are ``α E_{π_E} log π̂``."""
    for policy, law in ((instance.expert, 2), (instance.policy, 3)):
        entropy = average(laws, lambda *x, law=law: -x[law] @ np.log(x[law]))
        value = average(laws, lambda *x, law=law: x[law] @ x[1])
        assert float(instance.entropy(policy)) == pytest.approx(entropy)
        assert float(instance.regularised(policy)) == pytest.approx(value + ALPHA * entropy)
    exact = ALPHA * average(laws, lambda _, r, e, p: e @ np.log(p))
    assert float(instance.irl_dual(instance.expert)) == pytest.approx(exact)
    assert float(instance.inverse_soft_q_objective) == pytest.approx(exact)
    assert float(instance.soft_value) == pytest.approx(float(instance.regularised(instance.expert)))
    assert float(instance.rl_shortfall) == pytest.approx(0.0, abs=1e-14)


def test_best_of_n_is_the_best_by_the_policys_own_law(instance, laws):
    """``Pr[all N draws are at most as probable] − Pr[all are less]``, ties shared by none here."""

    def of(_, returns, expert, policy):
        order = np.argsort(policy)
        up_to = np.cumsum(policy[order])
        best = up_to**COVERED - np.concatenate([[0.0], up_to[:-1]]) ** COVERED
        return best @ np.log(best / policy[order])

    assert float(instance.best_of_n_kl) == pytest.approx(average(laws, of), rel=1e-10)


def test_choices_are_the_states_that_allow_more_than_one_token(instance, laws):
    masks = instance.mdp.dynamics.allowed

    def choices(response):
        return sum(masks[h][s].sum() > 1 for h, s in enumerate(response[1]))

    def of(law):
        return lambda x, r, e, p: {"π_E": e, "π̂": p}[law] @ [choices(y) for y in x]

    assert float(instance.choices(instance.expert)) == pytest.approx(average(laws, of("π_E")))
    assert float(instance.choices(instance.policy)) == pytest.approx(average(laws, of("π̂")))
    played = average(laws, lambda x, r, e, p: choices(x[int(p.argmax())]))
    assert float(instance.rl_choices) == pytest.approx(played)


def test_pairs_part_where_their_tokens_do():
    """Steps from there on, and the choices on them, of all pairs of responses to one prompt."""
    masks = [np.ones((2, 2), bool), np.array([[True, True], [True, False]] * 2)]
    mdp = TokenMDP.tree([np.zeros((2, 2)), np.zeros((4, 2))], allowed=masks)
    expert = soft_optimal(mdp, 1.0).policy
    instance = Instance(mdp, expert, expert, 1.0)
    assert instance.responses.tokens[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    steps = [1, 2, 2, 2, 2, 1]  # (00,01) (00,10) (00,11) (01,10) (01,11) (10,11)
    assert instance.diverging_steps.tolist() == [steps] * 2
    # after token 1 the second has no choice: 00 and 01 have two choices, 10 and 11 one
    assert instance.pair_choices.tolist() == [[2.0, 3.0, 3.0, 3.0, 3.0, 0.0]] * 2
    never = np.array([False, False, True, False, True, True])  # pairs of (1, 1)
    assert instance.pair_possible.tolist() == [(~never).tolist()] * 2
    assert instance.pair_counts.tolist() == [(~never).tolist()] * 2
    values = np.array([[1.0, 2.0, 99.0, 6.0, 99.0, 99.0]] * 2)
    assert instance.pair_mean(values).tolist() == [3.0, 3.0]
    numbers = np.arange(8.0) ** 2
    assert instance.differences(numbers)[0].tolist() == [-1.0, -4.0, -9.0, -3.0, -8.0, -5.0]


def test_a_response_that_is_there_twice_parts_nowhere():
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))])
    expert = soft_optimal(mdp, 1.0).policy
    twice = Responses(np.zeros(3, int), np.array([[0, 1], [0, 1], [1, 1]]))
    instance = Instance(mdp, expert, expert, 1.0, chosen_responses=twice)
    assert instance.diverging_steps.tolist() == [[0, 2, 2]]
    assert instance.pair_choices.tolist() == [[0.0, 4.0, 4.0]]
    assert instance.pair_counts.tolist() == [[False, True, True]]


def test_a_pair_is_judged_by_both_returns(instance, laws):
    """``|σ(r* − r*') − σ(α log π̂/π̂')|``, zero where a response is never written."""
    responses = list(itertools.product(range(3), repeat=2))
    for prompt, (written, returns, _, policy) in enumerate(laws):
        where = {tokens: k for k, (tokens, _) in enumerate(written)}
        exact = []
        for one, other in itertools.combinations(responses, 2):
            if one not in where or other not in where:
                exact.append(0.0)
                continue
            i, j = where[one], where[other]
            true = 1 / (1 + math.exp(returns[j] - returns[i]))
            exact.append(abs(true - 1 / (1 + (policy[j] / policy[i]) ** ALPHA)))
        np.testing.assert_allclose(instance.pair_tv[prompt], exact, atol=1e-14)


def test_a_response_telescopes_to_its_log_probability(instance, laws):
    """``r* = α log π_E + V*`` and ``r̂ = α log π̂`` (no gauge), each summed over the response."""
    written = [x for responses, *_ in laws for x in responses]
    returns = np.concatenate([r for _, r, *_ in laws])
    policy = np.concatenate([p for *_, p in laws])
    kept = instance.expert_log_prob > -np.inf
    assert kept.sum() == len(written)
    np.testing.assert_allclose(instance.true_return[kept], returns, rtol=1e-12)
    np.testing.assert_allclose(instance.telescoped[kept], returns, rtol=1e-11)
    assert not instance.telescoped[~kept].any()
    gauged = replace(instance, policy=Policy(
        instance.policy.dynamics, instance.policy.log_probs, None,
    ))  # fmt: skip
    np.testing.assert_allclose(gauged.endogenous_return[kept], ALPHA * np.log(policy), rtol=1e-11)
    np.testing.assert_allclose(
        gauged.endogenous_telescoped[kept], ALPHA * np.log(policy), rtol=1e-11
    )
    np.testing.assert_allclose(
        instance.endogenous_return, instance.endogenous_telescoped, atol=1e-12
    )
    np.testing.assert_allclose(instance.resolved_log_prob[kept], np.log(policy), atol=1e-11)


@pytest.mark.parametrize(
    ("horizon", "prompts", "sums"),
    [(17, 1, True), (17, 2, False), (18, 1, False), (16, 2, True)],
)
def test_sums_over_responses_are_made_up_to_so_many(horizon, prompts, sums):
    """``P·V^H`` responses: a window has as few states at any horizon, and as many responses."""
    assert MAX_LEAVES == 2**17
    rewards = [np.zeros((prompts * 2 ** min(h, 1), 2)) for h in range(horizon)]
    mdp = TokenMDP.window(rewards, 1)
    expert = soft_optimal(mdp, 1.0).policy
    policy = Policy.from_probs(mdp.dynamics, [np.full_like(r, 0.5) for r in rewards])
    instance = Instance(mdp, expert, policy, 1.0)
    assert instance.has_leaves is sums
    if not sums:  # the bounds that need no sum are there in their place
        assert float(instance.trajectory_tv) == float(instance.coverage) == 1.0
        assert float(instance.clone_bound_of_le_cam) == float(instance.return_range)
        assert float(instance.best_of_n_kl) == pytest.approx(horizon * math.log(2))
