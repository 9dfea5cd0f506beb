"""What a policy does, against the list of every response."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import chisquare
from strategies import (
    along,
    brute_expectation,
    build,
    enumerate_responses,
    epsilons,
    policies,
    policies_in_ball,
    random_policy,
    same_mdp_three_ways,
    seeds,
    spread_by_prefix,
    states_by_prefix,
    token_mdps,
)

import theory.arrays.memory
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    Responses,
    all_responses,
    greedy_response,
    log_prob,
    map_response,
    sample_log_ratio_ball,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import (
    occupancy,
    plain_value,
    plain_values,
    regularised_value,
    trajectory_entropy,
)
from theory.solve.reward import returns
from theory.solve.soft import plain_optimal

check = settings(derandomize=True, deadline=None, max_examples=30)


def coin(*probs):
    """One-step dynamics and a policy with these probabilities."""
    dynamics = TokenMDP.tree([np.zeros((1, len(probs)))]).dynamics
    return Policy.from_probs(dynamics, [[list(probs)]])


# --- Values, entropy, KL --------------------------------------------------------------------------


@check
@given(token_mdps(), st.data())
def test_plain_value_and_entropy_are_averages_over_responses(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    value = brute_expectation(policy, lambda response, _: along(mdp.rewards, response))
    entropy = brute_expectation(policy, lambda _, log_p: -log_p)
    assert plain_value(mdp, policy) == pytest.approx(value, rel=1e-12, abs=1e-13)
    assert trajectory_entropy(policy) == pytest.approx(entropy, rel=1e-12, abs=1e-13)
    assert regularised_value(mdp, policy, 0.7) == pytest.approx(
        value + 0.7 * entropy, rel=1e-12, abs=1e-13
    )


@check
@given(token_mdps(), st.data())
def test_plain_values_from_every_state(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    values = plain_values(mdp, policy)
    for h, value in enumerate(values):
        link = mdp.dynamics.successors(h) if h + 1 < mdp.horizon else None
        for s in range(len(value)):
            total = 0.0
            for a in range(mdp.vocab_size):
                following = 0.0 if link is None else values[h + 1][link[s, a]]
                total += math.exp(policy.log_probs[h][s, a]) * (mdp.rewards[h][s, a] + following)
            assert value[s] == pytest.approx(total, abs=1e-12)


@check
@given(token_mdps(), st.data())
def test_kl_is_an_average_over_responses(mdp, data):
    one, two = data.draw(policies(mdp.dynamics)), data.draw(policies(mdp.dynamics))
    expected = brute_expectation(
        one, lambda response, log_p: log_p - along(two.log_probs, response)
    )
    assert kl(one, two) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert kl(one, two) >= -1e-12
    assert kl(one, one) == 0.0
    assert mdp.dynamics.prompt_weights @ kl(one, two, per_prompt=True) == pytest.approx(
        expected, rel=1e-10, abs=1e-12
    )


def test_golden_entropy_and_kl():
    half, skew = coin(0.5, 0.5), coin(0.25, 0.75)
    assert trajectory_entropy(half) == pytest.approx(math.log(2), rel=1e-15)
    assert kl(half, skew) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-14)
    assert max_log_ratio(half, skew) == pytest.approx(math.log(2), rel=1e-15)


def test_kl_is_infinite_where_support_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kl(coin(0.5, 0.5), coin(1.0, 0.0)) == math.inf
        assert kl(coin(1.0, 0.0), coin(0.5, 0.5)) == pytest.approx(math.log(2))
        assert kl(coin(1.0, 0.0), coin(1.0, 0.0)) == 0.0
        assert max_log_ratio(coin(1.0, 0.0), coin(0.5, 0.5)) == math.inf
        assert max_log_ratio(coin(1.0, 0.0), coin(1.0, 0.0)) == 0.0


def test_missing_support_below_a_token_never_chosen_costs_nothing():
    """π never enters the branch in which π' lacks support, and π' would: (−∞) + ∞ must not become
    NaN.
    """
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    one = Policy.from_probs(dynamics, [[[1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])
    two = Policy.from_probs(dynamics, [[[0.5, 0.5]], [[0.5, 0.5], [1.0, 0.0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kl(one, two) == pytest.approx(math.log(2))


def test_a_prompt_of_weight_zero_does_not_count():
    dynamics = TokenMDP.tree([np.zeros((2, 2))], prompt_weights=[1.0, 0.0]).dynamics
    one = Policy.from_probs(dynamics, [[[0.5, 0.5], [0.5, 0.5]]])
    two = Policy.from_probs(dynamics, [[[0.5, 0.5], [1.0, 0.0]]])
    assert kl(one, two) == 0.0
    assert_allclose(kl(one, two, per_prompt=True), [0.0, np.inf])


@check
@given(token_mdps(masked=False), st.data())
def test_max_log_ratio_is_the_largest_difference(mdp, data):
    one, two = data.draw(policies(mdp.dynamics)), data.draw(policies(mdp.dynamics))
    largest = max(
        abs(float(one.log_probs[h][s, a]) - float(two.log_probs[h][s, a]))
        for h in range(mdp.horizon)
        for s in range(mdp.dynamics.layer_sizes[h])
        for a in range(mdp.vocab_size)
    )
    assert max_log_ratio(one, two) == max_log_ratio(two, one) == largest


# --- Occupancy ------------------------------------------------------------------------------------


@check
@given(token_mdps(), st.data())
def test_occupancy(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    visits = occupancy(policy)
    expected = [np.zeros(n) for n in mdp.dynamics.layer_sizes]
    for prompt, weight in enumerate(mdp.dynamics.prompt_weights):
        for response in enumerate_responses(mdp.dynamics, prompt):
            mass = weight * math.exp(along(policy.log_probs, response))
            for h, s in enumerate(response[1]):
                expected[h][s] += mass
    value = 0.0
    for h, visit in enumerate(visits):
        assert visit.sum() == pytest.approx(1.0, abs=1e-13)
        assert_allclose(visit, expected[h], atol=1e-13)
        value += float((visit[:, None] * np.exp(policy.log_probs[h]) * mdp.rewards[h]).sum())
    assert value == pytest.approx(plain_value(mdp, policy), abs=1e-12)


# --- Responses ------------------------------------------------------------------------------------


@check
@given(token_mdps(), st.data())
def test_log_probability_and_return_of_every_response(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    for prompt in range(mdp.dynamics.n_prompts):
        responses = enumerate_responses(mdp.dynamics, prompt)
        listed = Responses(
            np.full(len(responses), prompt), np.array([tokens for tokens, _ in responses])
        )
        expected = [along(policy.log_probs, response) for response in responses]
        assert_allclose(log_prob(policy, listed), expected, atol=1e-12)
        assert_allclose(
            returns(mdp, listed), [along(mdp.rewards, r) for r in responses], atol=1e-13
        )
    every = all_responses(mdp.dynamics)
    assert len(
        {(p, *t) for p, t in zip(every.prompts.tolist(), every.tokens.tolist(), strict=True)}
    ) == len(every[0])
    assert len(every[0]) == mdp.dynamics.n_prompts * mdp.vocab_size**mdp.horizon
    mass = np.exp(log_prob(policy, every)) * mdp.dynamics.prompt_weights[every.prompts]
    assert mass.sum() == pytest.approx(1.0, abs=1e-12)


@check
@given(token_mdps(), st.data())
def test_map_and_greedy_responses(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    best, greedy = map_response(policy), greedy_response(policy)
    assert best.prompts.tolist() == greedy.prompts.tolist() == list(range(mdp.dynamics.n_prompts))
    for prompt in range(mdp.dynamics.n_prompts):
        responses = dict(enumerate_responses(mdp.dynamics, prompt))
        chances = {
            tokens: along(policy.log_probs, (tokens, states))
            for tokens, states in responses.items()
        }
        tokens = tuple(best.tokens[prompt].tolist())
        assert chances[tokens] == pytest.approx(max(chances.values()), abs=1e-12)
        tokens = tuple(greedy.tokens[prompt].tolist())
        for h, s in enumerate(responses[tokens]):
            assert policy.log_probs[h][s, tokens[h]] == policy.log_probs[h][s].max()


def test_the_most_probable_response_is_not_the_greedy_one():
    """0.6 · 0.5 = 0.30 along the greedy path against 0.4 · 0.9 = 0.36."""
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    policy = Policy.from_probs(dynamics, [[[0.6, 0.4]], [[0.5, 0.5], [0.1, 0.9]]])
    assert greedy_response(policy).tokens.tolist() == [[0, 0]]
    best = map_response(policy)
    assert best.tokens.tolist() == [[1, 1]]
    assert math.exp(log_prob(policy, best)[0]) == pytest.approx(0.36)
    assert math.exp(log_prob(policy, greedy_response(policy))[0]) == pytest.approx(0.30)


def test_of_equals_the_first_token_is_taken():
    dynamics = TokenMDP.tree([np.zeros((1, 3)), np.zeros((3, 3))]).dynamics
    uniform = Policy.from_logits(dynamics, [np.zeros((1, 3)), np.zeros((3, 3))])
    assert (
        map_response(uniform).tokens.tolist()
        == greedy_response(uniform).tokens.tolist()
        == [[0, 0]]
    )


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_samples_follow_the_exact_law(rule):
    mdp = build(rule, np.random.default_rng(4), 2, 3, 3, masked=True, window=1)
    policy = random_policy(mdp.dynamics, np.random.default_rng(5), 0.5)
    n = 20_000
    drawn = policy.sample(n, 17)
    counted, chances = [], []
    for prompt, weight in enumerate(mdp.dynamics.prompt_weights):
        mine = drawn.tokens[drawn.prompts == prompt]
        for response in enumerate_responses(mdp.dynamics, prompt):
            counted.append(int((mine == np.array(response[0])).all(axis=1).sum()))
            chances.append(weight * math.exp(along(policy.log_probs, response)))
    assert sum(counted) == n  # nothing forbidden was drawn
    assert chisquare(counted, n * np.array(chances)).pvalue > 1e-3
    again = policy.sample(n, 17)
    assert (again.tokens == drawn.tokens).all()
    assert (again.prompts == drawn.prompts).all()
    assert (policy.sample(n, 18).tokens != drawn.tokens).any()


def test_samples_of_a_batch_and_of_given_prompts():
    dynamics = TokenMDP.window([np.zeros((2, 2)), np.zeros((4, 2))], 1).dynamics
    rng = np.random.default_rng(0)
    policy = Policy.from_logits(
        dynamics, [rng.normal(size=(3, 2, n, 2)) for n in dynamics.layer_sizes]
    )
    n = 5000
    drawn = policy.sample(n, 1, prompts=np.ones(n, dtype=int))
    assert drawn.tokens.shape == (3, 2, n, 2)
    for i in np.ndindex(3, 2):
        law = [
            np.exp(policy.log_probs[0][i][1, a] + policy.log_probs[1][i][2 + a, b])
            for a in range(2)
            for b in range(2)
        ]
        code = drawn.tokens[i] @ [2, 1]
        assert chisquare(np.bincount(code, minlength=4), n * np.array(law)).pvalue > 1e-4


def test_impossible_tokens_are_never_drawn():
    policy = coin(0.0, 0.3, 0.0, 0.7, 0.0)
    assert set(np.unique(policy.sample(5000, 0).tokens)) == {1, 3}


# --- Building a policy ----------------------------------------------------------------------------


@check
@given(token_mdps(), seeds, st.sampled_from([0.1, 1.0, 7.0]))
def test_from_logits_is_softmax_at_the_temperature(mdp, seed, temperature):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(n, mdp.vocab_size)) for n in mdp.dynamics.layer_sizes]
    policy = Policy.from_logits(mdp.dynamics, logits, temperature)
    for h, mask in enumerate(mdp.dynamics.allowed):
        for s in range(len(logits[h])):
            legal = [a for a in range(mdp.vocab_size) if mask is None or mask[s, a]]
            total = math.fsum(math.exp(logits[h][s, a] / temperature) for a in legal)
            assert policy.log_normalizers[h][s] == pytest.approx(math.log(total), abs=1e-12)
            for a in range(mdp.vocab_size):
                p = math.exp(logits[h][s, a] / temperature) / total if a in legal else 0.0
                assert math.exp(policy.log_probs[h][s, a]) == pytest.approx(p, rel=1e-12)


def test_minus_infinity_forbids_a_token():
    dynamics = TokenMDP.tree([np.zeros((1, 3))]).dynamics
    policy = Policy.from_logits(dynamics, [[[1.0, -np.inf, 1.0]]])
    assert_allclose(np.exp(policy.log_probs[0]), [[0.5, 0.0, 0.5]])
    assert trajectory_entropy(policy) == pytest.approx(math.log(2))


BAD_LOGITS = [
    ([[[math.nan, 0.0]]], r"logits\[0\] holds NaN"),
    ([[[math.inf, 0.0]]], r"logits\[0\] holds NaN or \+inf"),
    ([[[-math.inf, -math.inf]]], r"logits\[0\] forbids every token"),
    ([[[0.0, 0.0, 0.0]]], r"logits\[0\] has shape .*must be \(1, 2\)"),
    ([[[0.0, 0.0]], [[0.0, 0.0]]], r"logits has 2 tables for a horizon of 1"),
    ([[0.0, 0.0]], r"logits\[0\] has shape"),
]


@pytest.mark.parametrize(("logits", "message"), BAD_LOGITS)
def test_bad_logits(logits, message):
    with pytest.raises(ValueError, match=message):
        Policy.from_logits(TokenMDP.tree([np.zeros((1, 2))]).dynamics, logits)


BAD_PROBS = [
    ([[[0.5, 0.6]]], r"sums to 1\.1, must be 1"),
    ([[[-0.5, 1.5]]], "negative"),
    ([[[math.nan, 1]]], "nan"),
]


@pytest.mark.parametrize(("probs", "message"), BAD_PROBS)
def test_bad_probabilities(probs, message):
    with pytest.raises(ValueError, match=message):
        Policy.from_probs(TokenMDP.tree([np.zeros((1, 2))]).dynamics, probs)


def test_probability_on_a_forbidden_token():
    dynamics = TokenMDP.tree([np.zeros((1, 2))], allowed=[np.array([[True, False]])]).dynamics
    with pytest.raises(ValueError, match=r"log_probs\[0\] gives probability to a forbidden token"):
        Policy.from_probs(dynamics, [[[0.5, 0.5]]])
    assert trajectory_entropy(Policy.from_probs(dynamics, [[[1.0, 0.0]]])) == 0.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*positive and finite"):
        Policy.from_logits(TokenMDP.tree([np.zeros((1, 2))]).dynamics, [[[0.0, 0.0]]], temperature)


def test_policies_on_different_dynamics_are_not_mixed():
    one, two = TokenMDP.tree([np.zeros((1, 2))]), TokenMDP.tree([np.zeros((1, 3))])
    policy, other = plain_optimal(one).policy, plain_optimal(two).policy
    for mixed in (kl, max_log_ratio):
        with pytest.raises(ValueError, match="different dynamics"):
            mixed(policy, other)
    with pytest.raises(ValueError, match="different dynamics"):
        plain_value(two, policy)


def test_listing_more_responses_than_fit_is_refused(monkeypatch):
    dynamics = TokenMDP.window(
        [np.zeros((1, 2)), *(np.zeros((2, 2)) for _ in range(59))], 1
    ).dynamics
    with pytest.raises(ValueError, match=r"listing every response: .*use a smaller horizon"):
        all_responses(dynamics)


# --- The log-ratio ball ---------------------------------------------------------------------------


@check
@given(token_mdps(min_vocab=2), epsilons, st.data())
def test_ball_samples_stay_in_the_ball(mdp, epsilon, data):
    policy = data.draw(policies(mdp.dynamics))
    near = data.draw(policies_in_ball(policy, epsilon))
    for one, two in zip(policy.log_probs, near.log_probs, strict=True):
        assert_allclose(np.exp(two).sum(axis=-1), 1.0, rtol=1e-13)
        assert ((one > -np.inf) == (two > -np.inf)).all()
    assert max_log_ratio(policy, near) <= epsilon * (1 + 1e-9)


def test_ball_samples_reach_the_boundary():
    mdp = build("tree", np.random.default_rng(0), 2, 4, 3)
    policy = random_policy(mdp.dynamics, np.random.default_rng(1))
    for seed in range(10):
        near = sample_log_ratio_ball(policy, 0.3, seed)
        assert max_log_ratio(policy, near) >= 0.3 * (1 - 1e-9)
    one, two = sample_log_ratio_ball(policy, 0.3, 5), sample_log_ratio_ball(policy, 0.3, 5)
    assert max_log_ratio(one, two) == 0.0
    assert max_log_ratio(one, near) > 0.1


def test_ball_of_a_batch_has_a_radius_each():
    dynamics = TokenMDP.tree([np.zeros((1, 3))]).dynamics
    policy = Policy.from_logits(dynamics, [np.random.default_rng(0).normal(size=(2, 1, 3))])
    near = sample_log_ratio_ball(policy, np.array([0.01, 1.0]), 3, spread=20.0)
    assert_allclose(max_log_ratio(policy, near), [0.01, 1.0], rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, math.nan, math.inf, "wide"])
def test_bad_radius(epsilon):
    with pytest.raises(ValueError, match=r"epsilon=.*must be"):
        sample_log_ratio_ball(coin(0.5, 0.5), epsilon, 0)


# --- Three rules, trees, torch --------------------------------------------------------------------


@check
@given(same_mdp_three_ways(), seeds)
def test_tree_window_and_table_agree_on_one_policy(three, seed):
    rng = np.random.default_rng(seed)
    tree, window, table = three
    logits, other = (
        [rng.normal(size=(n, tree.vocab_size)) for n in window.dynamics.layer_sizes]
        for _ in range(2)
    )
    one, two = [], []
    for mdp in (window, table):
        one.append(Policy.from_logits(mdp.dynamics, logits))
        two.append(Policy.from_logits(mdp.dynamics, other))
    one.append(Policy.from_logits(tree.dynamics, spread_by_prefix(logits, window.dynamics)))
    two.append(Policy.from_logits(tree.dynamics, spread_by_prefix(other, window.dynamics)))
    every = all_responses(tree.dynamics)
    whole = occupancy(one[2])
    for mdp, p, q in zip((window, table), one, two, strict=False):
        assert plain_value(mdp, p) == pytest.approx(plain_value(tree, one[2]), abs=1e-12)
        assert trajectory_entropy(p) == pytest.approx(trajectory_entropy(one[2]), abs=1e-12)
        assert kl(p, q) == pytest.approx(kl(one[2], two[2]), abs=1e-11)
        assert max_log_ratio(p, q) == pytest.approx(
            max_log_ratio(one[2], two[2]), rel=1e-13, nan_ok=False
        )
        assert_allclose(log_prob(p, every), log_prob(one[2], every), atol=1e-12)
        assert_allclose(
            np.exp(log_prob(p, map_response(p))),
            np.exp(log_prob(one[2], map_response(one[2]))),
            rtol=1e-12,
        )
        assert (greedy_response(p).tokens == greedy_response(one[2]).tokens).all()
        for h, visit in enumerate(occupancy(p)):  # mass of a state is the mass of its prefixes
            merged = np.zeros_like(visit)
            states = states_by_prefix(mdp.dynamics, h)
            for s, mass in zip(states, whole[h], strict=True):
                merged[s] += mass
            assert_allclose(visit, merged, atol=1e-13)
        unrolled = p.as_tree()
        for h in range(mdp.horizon):
            assert_allclose(unrolled.log_probs[h], one[2].log_probs[h], atol=1e-13)
            assert_allclose(unrolled.log_normalizers[h], one[2].log_normalizers[h], atol=1e-13)


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_torch_policies_give_numpy_numbers(rule):
    torch = pytest.importorskip("torch")
    mdp = build(rule, np.random.default_rng(2), 2, 3, 3, masked=True, window=1)
    rng = np.random.default_rng(3)
    logits = [rng.normal(size=(n, 3)) for n in mdp.dynamics.layer_sizes]
    other = [rng.normal(size=(n, 3)) for n in mdp.dynamics.layer_sizes]
    tensor = TokenMDP(
        mdp.dynamics, tuple(torch.tensor(np.ascontiguousarray(r)) for r in mdp.rewards)
    )
    p, q = Policy.from_logits(mdp.dynamics, logits), Policy.from_logits(mdp.dynamics, other)
    tp, tq = (
        Policy.from_logits(mdp.dynamics, [torch.tensor(t) for t in tables])
        for tables in (logits, other)
    )
    every = all_responses(mdp.dynamics)
    torch_every = Responses(torch.tensor(every.prompts), torch.tensor(every.tokens))
    pairs = [
        (plain_value(tensor, tp), plain_value(mdp, p)),
        (trajectory_entropy(tp), trajectory_entropy(p)),
        (kl(tp, tq), kl(p, q)),
        (max_log_ratio(tp, tq), max_log_ratio(p, q)),
        (log_prob(tp, torch_every), log_prob(p, every)),
        (map_response(tp).tokens, map_response(p).tokens),
        (greedy_response(tp).tokens, greedy_response(p).tokens),
    ]
    for ours, reference in pairs:
        assert isinstance(ours, torch.Tensor)
        assert_allclose(ours.numpy(), reference, rtol=1e-12)


def test_memory_is_asked_before_a_tree_is_unrolled(monkeypatch):
    policy = random_policy(
        build("window", np.random.default_rng(0), 1, 3, 5, window=1).dynamics,
        np.random.default_rng(0),
    )
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: 1000)
    with pytest.raises(ValueError, match="unrolling these dynamics to a tree"):
        policy.as_tree()


# --- What a random number chooses -----------------------------------------------------------------


class Fixed(np.random.Generator):
    """A generator whose numbers are all the one it is given."""

    def __init__(self, number):
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size):
        return np.full(size, self.number)


def test_a_token_that_is_never_written_is_not_drawn_at_either_end():
    """0 is a random number, and the one below 1 is."""
    rows = np.array([[0.0, 0.25, 0.75, 0.0]])
    policy = Policy.from_probs(TokenMDP.tree([np.zeros((1, 4))]).dynamics, [rows])
    chosen = {
        number: policy.sample(1, Fixed(number)).tokens[0, 0]
        for number in (0.0, 0.2499, 0.25, 0.9, np.nextafter(1.0, 0.0))
    }
    assert list(chosen.values()) == [1, 1, 2, 2, 2]


def test_a_random_number_is_a_share_of_what_a_row_sums_to():
    """A row may miss one by its rounding: each token has its share of the row all the same."""
    dynamics = TokenMDP.tree([np.zeros((1, 2))]).dynamics
    short = Policy(dynamics, (np.log([[0.5, 0.5]]) + np.log1p(-1e-3),))
    for number, token in ((0.4999, 0), (0.5001, 1)):
        assert short.sample(1, Fixed(number)).tokens[0, 0] == token


def test_probabilities_are_the_exponentials():
    probs = [np.array([[0.25, 0.75]]), np.array([[0.5, 0.5], [0.0, 1.0]])]
    policy = Policy.from_probs(TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics, probs)
    for found, exact in zip(policy.probs, probs, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-15)


def test_the_first_layer_says_what_the_batch_is():
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    tables = [np.zeros((3, 1, 2)), np.zeros((2, 2))]
    with pytest.raises(ValueError, match=r"logits\[1\] has shape \(2, 2\): must be \(3, 2, 2\)"):
        Policy.from_logits(dynamics, tables)
