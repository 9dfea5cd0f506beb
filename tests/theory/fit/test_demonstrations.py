"""Demonstrations: counting, the law of counts drawn directly, files, smoothed models."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import chi2
from strategies import (
    build,
    policies,
    random_policy,
    same_mdp_three_ways,
    seeds,
    state_of,
    token_mdps,
)

import theory.arrays.memory
from theory.fit.demonstrations import Demonstrations
from theory.fit.smoothing import fitted_model
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy
from theory.solve.soft import soft_optimal

check = settings(derandomize=True, deadline=None, max_examples=20)


def counted_by_hand(dynamics, responses):
    """Counts from the definition of each rule, one token at a time."""
    counts = [np.zeros((n, dynamics.vocab_size), dtype=int) for n in dynamics.layer_sizes]
    for prompt, tokens in zip(responses.prompts, responses.tokens, strict=True):
        for h, token in enumerate(tokens):
            counts[h][state_of(dynamics, int(prompt), tuple(map(int, tokens[:h]))), token] += 1
    return counts


def total_variation(one, two, visited):
    """Largest total variation of a visited state's row."""
    gaps = [
        np.abs(np.exp(a) - np.exp(b)).sum(axis=-1) / 2
        for a, b in zip(one.log_probs, two.log_probs, strict=True)
    ]
    return max(float(gap[v].max(initial=0.0)) for gap, v in zip(gaps, visited, strict=True))


# --- Counting -------------------------------------------------------------------------------------


@check
@given(token_mdps(), seeds, st.integers(1, 40))
def test_responses_are_counted_state_by_state(mdp, seed, n):
    rng = np.random.default_rng(seed)
    policy = random_policy(mdp.dynamics, rng)
    responses = policy.sample(n, rng)
    data = Demonstrations.from_responses(mdp.dynamics, responses)
    for h, expected in enumerate(counted_by_hand(mdp.dynamics, responses)):
        assert data.counts[h].dtype == np.int64
        assert (data.counts[h] == expected).all()
        assert (data.state_counts[h] == expected.sum(axis=1)).all()
        assert (data.visited[h] == (expected.sum(axis=1) > 0)).all()
        assert (data.seen[h] == (expected > 0)).all()
        assert data.frequencies[h].sum() == pytest.approx(1.0, abs=1e-12)
    assert data.n == n
    # The counts suffice for the log-likelihood.
    assert data.log_likelihood(policy) == pytest.approx(
        log_prob(policy, responses).mean(), rel=1e-11
    )


@check
@given(token_mdps(), seeds)
def test_pieces_add_up(mdp, seed):
    rng = np.random.default_rng(seed)
    prompts, tokens = random_policy(mdp.dynamics, rng).sample(30, rng)
    whole = Demonstrations.from_responses(mdp.dynamics, Responses(prompts, tokens))
    streamed = Demonstrations.from_responses(mdp.dynamics, Responses(prompts[:4], tokens[:4]))
    first = streamed
    for piece in (slice(4, 5), slice(5, 30)):
        some = Responses(prompts[piece], tokens[piece])
        streamed = streamed + Demonstrations.from_responses(mdp.dynamics, some)
    for one, two in zip(streamed.counts, whole.counts, strict=True):
        assert (one == two).all()
    assert (first.n, streamed.n) == (4, 30)  # what was added to stays as it was
    assert ((whole + whole).counts[0] == 2 * whole.counts[0]).all()


def test_a_batch_of_responses_is_a_batch_of_data_sets():
    mdp = build("window", np.random.default_rng(11), 2, 3, 4, window=2, masked=True)
    policy = random_policy(mdp.dynamics, np.random.default_rng(1))
    prompts = np.random.default_rng(2).integers(2, size=50)
    tokens = np.stack(
        [policy.sample(50, seed, prompts=prompts).tokens for seed in range(6)]
    ).reshape(2, 3, 50, 4)
    data = Demonstrations.from_responses(mdp.dynamics, Responses(prompts, tokens))
    assert data.batch_shape == (2, 3)
    assert (data.n == 50).all()
    for i, j in itertools.product(range(2), range(3)):
        one = Demonstrations.from_responses(mdp.dynamics, Responses(prompts, tokens[i, j]))
        for h in range(4):
            assert (data[i, j].counts[h] == one.counts[h]).all()
        assert data.log_likelihood(policy)[i, j] == pytest.approx(
            one.log_likelihood(policy), rel=1e-12
        )
    assert data[1].batch_shape == (3,)
    with pytest.raises(IndexError, match="index"):
        data[0, 0, 0]
    with pytest.raises(IndexError, match="index 0 for data sets of batch"):
        one[0]


@check
@given(same_mdp_three_ways(), seeds)
def test_counts_of_a_quotient_are_sums_of_counts_of_the_tree(three, seed):
    tree, *quotients = three
    responses = random_policy(tree.dynamics, np.random.default_rng(seed)).sample(25, seed)
    by_prefix = Demonstrations.from_responses(tree.dynamics, responses)
    for mdp in quotients:
        data = Demonstrations.from_responses(mdp.dynamics, responses)
        for h, states in enumerate(mdp.dynamics.prefix_states()):
            summed = np.zeros(data.counts[h].shape, dtype=int)
            np.add.at(summed, states, by_prefix.counts[h])
            assert (summed == data.counts[h]).all()


def test_responses_that_end_are_counted():
    mdp = build("tree", np.random.default_rng(0), 1, 3, 3, eos=2)
    tokens = np.array([[2, 2, 2], [0, 2, 2], [1, 0, 1]])
    data = Demonstrations.from_responses(mdp.dynamics, Responses(np.zeros(3, dtype=int), tokens))
    assert data.state_counts[2][-1] == 2  # the absorbing state
    with pytest.raises(
        ValueError, match=r"responses.tokens\[0, 1\] is 0, forbidden in state 2 of layer 1"
    ):
        Demonstrations.from_responses(
            mdp.dynamics, Responses(np.zeros(1, dtype=int), np.array([[2, 0, 0]]))
        )


# --- The law of sampled counts --------------------------------------------------------------------


def small_expert(rule):
    """Two tokens, two steps, two prompts; the table sends different prefixes to one state."""
    rng = np.random.default_rng(5)
    rewards = [np.zeros((2, 2)), np.zeros((2 if rule == "table" else 4, 2))]
    mdp = {
        "tree": lambda: TokenMDP.tree(rewards),
        "window": lambda: TokenMDP.window(rewards, 1),
        "table": lambda: TokenMDP.table(rewards, [np.array([[0, 1], [1, 0]])]),
    }[rule]()
    last = rng.choice([0.125, 0.5, 0.75], (mdp.dynamics.layer_sizes[1], 1))
    return Policy.from_probs(
        mdp.dynamics, [np.array([[0.25, 0.75], [0.5, 0.5]]), np.hstack([last, 1 - last])]
    )


def multinomial_law(expert, n):
    """Law of the counts by layers of multinomials, in exact fractions: ``{counts:
    probability}``.
    """
    dynamics = expert.dynamics
    probs = [
        np.vectorize(lambda p: Fraction(round(p * 64), 64), otypes=[object])(np.exp(t))
        for t in expert.log_probs
    ]

    def splits(total, row):
        for left in range(total + 1):
            yield (
                (left, total - left),
                math.comb(total, left) * row[0] ** left * row[1] ** (total - left),
            )

    law = Counter()
    half = Fraction(1, 2)
    for arrived, p in splits(n, (half, half)):
        for rows in itertools.product(
            *(list(splits(k, r)) for k, r in zip(arrived, probs[0], strict=True))
        ):
            first = np.array([row for row, _ in rows])
            following = np.zeros(dynamics.layer_sizes[1], dtype=int)
            np.add.at(following, dynamics.successors(0), first)
            for lasts in itertools.product(
                *(list(splits(k, r)) for k, r in zip(following, probs[1], strict=True))
            ):
                key = (tuple(first.ravel()), tuple(np.ravel([row for row, _ in lasts])))
                law[key] += p * math.prod(q for _, q in rows) * math.prod(q for _, q in lasts)
    return law


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_layers_of_multinomials_are_the_law_of_counts(rule):
    """Against every set of three responses, in exact fractions."""
    expert = small_expert(rule)
    responses = [(p, a, b) for p in range(2) for a in range(2) for b in range(2)]
    each = [Responses(np.array([p]), np.array([[a, b]])) for p, a, b in responses]
    mass = [Fraction(round(float(np.exp(log_prob(expert, r)[0])) * 4096), 8192) for r in each]
    assert sum(mass) == 1
    law = Counter()
    for drawn in itertools.product(range(8), repeat=3):
        together = Responses(
            *(np.concatenate([np.asarray(each[i][k]) for i in drawn]) for k in range(2))
        )
        counts = Demonstrations.from_responses(expert.dynamics, together).counts
        law[tuple(tuple(map(int, t.ravel())) for t in counts)] += math.prod(mass[i] for i in drawn)
    assert law == multinomial_law(expert, 3)


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("direct", [True, False])
def test_sampled_counts_have_that_law(rule, direct):
    """Chi-square of 20,000 data sets of three responses, at fixed seeds; drawn directly, and from
    responses.
    """
    expert, sets = small_expert(rule), 20_000
    if direct:
        data = Demonstrations.sample(expert, np.full(sets, 3), 12)
    else:
        prompts, tokens = expert.sample(3 * sets, 12)
        every = [
            Demonstrations.from_responses(
                expert.dynamics, Responses(prompts[i : i + 3], tokens[i : i + 3])
            )
            for i in range(0, 3 * 2000, 3)
        ]
        sets = len(every)
        data = Demonstrations(
            expert.dynamics, tuple(np.stack([d.counts[h] for d in every]) for h in range(2))
        )
    first, last = (t.reshape(sets, -1) for t in data.counts)
    found = Counter(zip(map(tuple, first.tolist()), map(tuple, last.tolist()), strict=True))
    law = multinomial_law(expert, 3)
    assert set(found) <= set(law)
    expected = np.array([float(p) * sets for p in law.values()])
    observed = np.array([found[key] for key in law])
    large = expected >= 5
    expected = np.append(expected[large], expected[~large].sum())
    observed = np.append(observed[large], observed[~large].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert 0.001 < chi2.sf(statistic, len(expected) - 1) < 0.999


@check
@given(token_mdps(), st.data())
def test_mean_of_sampled_counts(mdp, data):
    """``E n(s,a) = n ρ_h(s) π(a|s)``, within five standard errors of 4,000 data sets."""
    policy = data.draw(policies(mdp.dynamics))
    drawn = Demonstrations.sample(policy, np.full(4000, 10), data.draw(seeds))
    for h, visits in enumerate(occupancy(policy)):
        p = visits[:, None] * np.exp(policy.log_probs[h])
        slack = 5 * np.sqrt(10 * p * (1 - p).clip(min=0) / 4000) + 5 / 4000
        assert (np.abs(drawn.counts[h].mean(axis=0) - 10 * p) <= slack).all()


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_a_billion_responses_cost_no_more_than_ten(rule):
    mdp = build(rule, np.random.default_rng(0), 2, 3, 4, window=2, masked=True)
    expert = soft_optimal(mdp, 0.3).policy
    for n in (10**9, 10**15):
        data = Demonstrations.sample(expert, n, 3)
        assert data.n == n
        assert total_variation(
            fitted_model(data), expert, [m > 1e-4 for m in occupancy(expert)]
        ) < 5e2 / math.sqrt(n)


def test_what_is_never_chosen_is_never_drawn():
    """NumPy gives what rounding leaves of a row's probabilities to its last token, here a forbidden
    one.
    """
    mask = [np.array([[True, True, True, False]])]
    dynamics = TokenMDP.tree([np.zeros((1, 4))], allowed=mask).dynamics
    expert = Policy.from_logits(dynamics, [np.random.default_rng(0).normal(size=(500, 1, 4))])
    rows = np.exp(expert.log_probs[0][:, 0])
    assert (
        np.random.default_rng(1)
        .multinomial(2**62, rows / rows.sum(axis=-1, keepdims=True))[:, 3]
        .any()
    )
    data = Demonstrations.sample(expert, 2**62, 1)
    assert not data.counts[0][..., 3].any()
    assert (data.n == 2**62).all()


def test_sample_broadcasts_numbers_experts_and_seeds():
    mdp = build("tree", np.random.default_rng(0), 1, 3, 3)
    alphas = np.array([0.2, 1.0])
    batch = TokenMDP(mdp.dynamics, tuple(np.stack([r, r]) for r in mdp.rewards))
    experts = soft_optimal(batch, alphas).policy
    data = Demonstrations.sample(experts, np.array([[10], [1000], [100_000]]), 0)
    assert data.batch_shape == (3, 2)
    assert (data.n == [[10, 10], [1000, 1000], [100_000, 100_000]]).all()
    for k, alpha in enumerate(alphas):
        expert = soft_optimal(mdp, float(alpha)).policy
        assert (
            total_variation(fitted_model(data[2, k]), expert, [m > 0.05 for m in occupancy(expert)])
            < 0.03
        )
    assert Demonstrations.sample(experts, np.full((7, 2), 5), 0).batch_shape == (7, 2)
    again, once = (Demonstrations.sample(experts, np.full((7, 2), 5), 0) for _ in range(2))
    assert all((a == b).all() for a, b in zip(again.counts, once.counts, strict=True))
    with pytest.raises(
        ValueError,
        match=r"n of shape \(3,\), an expert of batch \(2,\) do not broadcast",
    ):
        Demonstrations.sample(experts, np.full(3, 5), 0)


# --- Weights --------------------------------------------------------------------------------------


@check
@given(token_mdps(), st.data())
def test_the_population_gives_the_policy_back(mdp, data):
    policy = data.draw(policies(mdp.dynamics))
    population = Demonstrations.of_policy(policy)
    assert population.counts[0].dtype == np.float64
    assert population.n == pytest.approx(1.0)
    assert total_variation(fitted_model(population), policy, population.visited) < 1e-12
    # The limit of many responses.
    many = Demonstrations.sample(policy, 10**16, 0)
    for one, two in zip(many.frequencies, population.frequencies, strict=True):
        assert_allclose(one, two, atol=1e-6)


def test_counts_and_weights_together_are_weights():
    mdp = build("tree", np.random.default_rng(0), 1, 2, 2)
    expert = soft_optimal(mdp, 1.0).policy
    counts, weights = Demonstrations.sample(expert, 3, 0), Demonstrations.of_policy(expert)
    both = counts + weights
    assert both.counts[1].dtype == np.float64
    assert both.n == pytest.approx(4.0)
    assert (counts + counts).counts[0].dtype == np.int64
    small = Demonstrations(mdp.dynamics, tuple(t.astype(np.int8) for t in counts.counts))
    assert small.counts[0].dtype == np.int64
    mixed = Demonstrations(mdp.dynamics, (counts.counts[0], counts.counts[1].astype(np.float32)))
    assert mixed.counts[0].dtype == np.float64


# --- Smoothed models ------------------------------------------------------------------------------


@check
@given(token_mdps(), seeds, st.sampled_from([0.0, 0.5, 3.0]))
def test_add_lambda_by_hand(mdp, seed, smoothing):
    data = Demonstrations.sample(random_policy(mdp.dynamics, np.random.default_rng(seed)), 6, seed)
    model = fitted_model(data, smoothing)
    for h, counts in enumerate(data.counts):
        for s, row in enumerate(counts):
            mask = mdp.dynamics.allowed[h]
            legal = [a for a in range(mdp.vocab_size) if mask is None or mask[s, a]]
            total = sum(int(row[a]) + smoothing for a in legal)
            for a in range(mdp.vocab_size):
                expected = (
                    0.0
                    if a not in legal
                    else (row[a] + smoothing) / total
                    if total
                    else 1 / len(legal)
                )
                assert math.exp(model.log_probs[h][s, a]) == pytest.approx(expected, abs=1e-14)
            assert model.log_normalizers[h][s] == pytest.approx(
                math.log(total or len(legal)), abs=1e-13
            )


def witten_bell_by_hand(dynamics, responses, h, prompt, suffix, token):
    """The recursion over suffixes, from the responses themselves; no tokens forbidden."""
    V = dynamics.vocab_size

    def after(prompt, suffix):
        """Tokens of step `h` after these last tokens (of any prompt: `None`)."""
        return [
            int(tokens[h])
            for p, tokens in zip(responses.prompts, responses.tokens, strict=True)
            if prompt in (None, p) and tuple(map(int, tokens[h - len(suffix) : h])) == suffix
        ]

    found = after(prompt, suffix)
    if prompt is None:
        lower = 1 / V
    elif suffix:
        lower = witten_bell_by_hand(dynamics, responses, h, prompt, suffix[1:], token)
    else:
        lower = witten_bell_by_hand(dynamics, responses, h, None, (), token)
    if not found:
        return lower
    t = len(set(found))
    return (found.count(token) + t * lower) / (len(found) + t)


@pytest.mark.parametrize(("rule", "window"), [("tree", 9), ("window", 1), ("window", 2)])
def test_witten_bell_by_hand(rule, window):
    mdp = build(rule, np.random.default_rng(0), 2, 3, 4, window=window)
    responses = random_policy(mdp.dynamics, np.random.default_rng(1)).sample(12, 2)
    data = Demonstrations.from_responses(mdp.dynamics, responses)
    assert not all(v.all() for v in data.visited)
    model = fitted_model(data, "witten-bell")
    for h in range(4):
        for prompt in range(2):
            for prefix in itertools.product(range(3), repeat=h):
                s = state_of(mdp.dynamics, prompt, prefix)
                for a in range(3):
                    expected = witten_bell_by_hand(
                        mdp.dynamics, responses, h, prompt, prefix[max(0, h - window) :], a
                    )
                    assert math.exp(model.log_probs[h][s, a]) == pytest.approx(expected, rel=1e-12)


def window_without_oldest(data, h, state):
    """``p(·|s')`` where nothing is forbidden, from uniform up: all prompts, the prompt, then a
    token more at a time.
    """
    V, m = data.dynamics.vocab_size, min(h, data.dynamics.rule.size)
    counts = data.counts[h].reshape(-1, *(V,) * m, V)
    suffixes = [counts.sum(axis=tuple(range(m + 1)))]
    for k in range(m):
        suffixes.append(
            counts[state // V**m].sum(axis=tuple(range(m - k))).reshape(V**k, V)[state % V**k]
        )
    lower = np.full(V, 1 / V)
    for row in suffixes:
        t = (row > 0).sum()
        lower = (row + t * lower) / (row.sum() + t) if t else lower
    return lower


def test_witten_bell_of_a_batch_with_forbidden_tokens():
    mdp = build("window", np.random.default_rng(11), 2, 3, 4, window=2, masked=True)
    assert all(mask is not None for mask in mdp.dynamics.allowed)
    data = Demonstrations.sample(
        random_policy(mdp.dynamics, np.random.default_rng(1)), np.full((2, 2), 9), 2
    )
    model = fitted_model(data, "witten-bell")
    free = replace(mdp.dynamics, allowed=(None,) * 4)
    for h, table in enumerate(model.log_probs):
        assert_allclose(np.exp(table).sum(axis=-1), 1.0, rtol=1e-13)
        mask = mdp.dynamics.allowed[h]
        assert (
            mask is None or (np.isneginf(table) == ~mask).all()
        )  # each allowed token has probability, no other
        # One step of the formula: p(·|s') is restricted to what is allowed in s.
        plain = Demonstrations(free, data[1, 0].counts)
        for s, counts in enumerate(data[1, 0].counts[h]):
            shorter = window_without_oldest(plain, h, s)
            legal = shorter if mask is None else shorter * mask[s] / (shorter * mask[s]).sum()
            t = (counts > 0).sum()
            expected = (counts + t * legal) / (counts.sum() + t) if t else legal
            assert_allclose(np.exp(table[1, 0, s]), expected, atol=1e-13)
        assert_allclose(
            table[1, 0], fitted_model(data[1, 0], "witten-bell").log_probs[h], rtol=1e-12
        )


def test_back_off_carries_over_what_shorter_suffixes_tell():
    """A tree of prefixes mostly unvisited, and an expert who reads one token and is nearly sure of
    the next.
    """
    tree = build("window", np.random.default_rng(3), 1, 4, 5, window=1).as_tree()
    expert = soft_optimal(tree, 0.02).policy
    data, held_out = Demonstrations.sample(expert, 20, 0), Demonstrations.of_policy(expert)
    scores = {
        s: held_out.log_likelihood(fitted_model(data, s))
        for s in (0.0, 0.03, 0.1, 0.3, 1.0, "witten-bell")
    }
    best = scores.pop("witten-bell")
    assert scores[0.0] == -np.inf  # a token of the expert that was never seen
    assert max(scores.values()) + 0.02 < best < held_out.log_likelihood(expert)


# --- Refusals -------------------------------------------------------------------------------------


def _responses(prompts, tokens):
    return Responses(np.array(prompts), np.array(tokens))


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (
            _responses([], np.zeros((0, 2), dtype=int)),
            "responses is empty: give at least one response",
        ),
        (_responses([0], [[0, 1, 0]]), r"responses has shapes \(1,\) and \(1, 3\): .*\(N, 2\)"),
        (_responses([0], [0, 1]), r"responses has shapes \(1,\) and \(2,\)"),
        (_responses([0], [[0, 2]]), r"responses.tokens\[0, 1\] is 2: must be from 0 to 1"),
        (
            _responses([0, 0], [[0, 1], [-1, 0]]),
            r"responses.tokens\[1, 0\] is -1: must be from 0 to 1",
        ),
        (_responses([0, 3], [[0, 1], [1, 0]]), r"responses.prompts\[1\] is 3: must be from 0 to 1"),
        (_responses([0], [[0, 1], [1, 0]]), r"responses has shapes \(1,\) and \(2, 2\)"),
        (
            _responses([0], [[0.0, 1.0]]),
            "responses.tokens has dtype float64: must hold integers from 0 to 1",
        ),
        (
            _responses([0], [[1, 1]]),
            r"responses.tokens\[0, 0\] is 1, forbidden in state 0 of layer 0: leave",
        ),
    ],
)
def test_bad_responses_are_named(responses, message):
    masks = [np.array([[True, False], [True, True]]), None]
    mdp = TokenMDP.tree([np.zeros((2, 2)), np.zeros((4, 2))], allowed=masks)
    with pytest.raises(ValueError, match=message):
        Demonstrations.from_responses(mdp.dynamics, responses)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[[1, 1]]], "counts has 1 tables for a horizon of 2"),
        ([[[1, 1]], [[1, 0]]], r"counts\[1\] has shape \(1, 2\): must be \(2, 2\)"),
        ([[[1, 1]], [[1, 0], [2, -1]]], r"counts\[1\] holds -1 at \(1, 1\)"),
        ([[[1.0, np.nan]], [[1, 0], [0, 1]]], r"counts\[0\] holds nan at \(0, 1\)"),
        (
            [[[0, 0]], [[0, 0], [0, 0]]],
            r"counts\[0\] sums to 0: a data set needs at least one response",
        ),
        (
            [[[1, 1]], [[2, 0], [1, 0]]],
            r"counts\[1\] has 2 tokens in state \(0,\) where counts\[0\] sends 1 responses",
        ),
        ([[["a", "b"]], [[1, 0], [0, 1]]], r"counts\[0\] has dtype <U1"),
        (
            [[[1, 1]], [[0, 1], [1, 0]]],
            r"counts\[1\] holds 1 at \(0, 1\), a forbidden token: must be 0 there",
        ),
    ],
)
def test_bad_counts_are_named(counts, message):
    mdp = TokenMDP.tree(
        [np.zeros((1, 2)), np.zeros((2, 2))],
        allowed=[None, np.array([[True, False], [True, True]])],
    )
    with pytest.raises(ValueError, match=message):
        Demonstrations(mdp.dynamics, tuple(np.array(table) for table in counts))


@pytest.mark.parametrize("n", [0, -3, 2.5, [10, 0], "many"])
def test_bad_numbers_of_responses(n):
    expert = soft_optimal(build("tree", np.random.default_rng(0), 1, 2, 2), 1.0).policy
    with pytest.raises(ValueError, match=r"n=.*must be one positive integer"):
        Demonstrations.sample(expert, n, 0)


def test_other_refusals(monkeypatch):
    mdp, other = (build("tree", np.random.default_rng(0), P, 2, 2) for P in (1, 2))
    data = Demonstrations.sample(soft_optimal(mdp, 1.0).policy, 5, 0)
    with pytest.raises(ValueError, match="different dynamics"):
        data + Demonstrations.sample(soft_optimal(other, 1.0).policy, 5, 0)
    with pytest.raises(TypeError):
        data + 1
    table = TokenMDP.table(mdp.rewards, [np.array([[0, 1]])])
    for smoothing, message in [
        (-1.0, "smoothing=-1.0: must be a number, 0 or more"),
        (math.nan, "smoothing=nan"),
        ("kneser-ney", "smoothing='kneser-ney': must be a number, 0 or more, or 'witten-bell'"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted_model(data, smoothing)
    with pytest.raises(ValueError, match="states of a table have no suffixes"):
        fitted_model(Demonstrations.sample(soft_optimal(table, 1.0).policy, 5, 0), "witten-bell")
    with pytest.raises(ValueError, match="needs counts, and the demonstrations hold weights"):
        fitted_model(Demonstrations.of_policy(soft_optimal(mdp, 1.0).policy), "witten-bell")
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"the table of counts needs .*use fewer data sets or states"
    ):
        Demonstrations.sample(fitted_model(data), np.full(100, 5), 0)


def test_responses_of_different_lengths_are_refused():
    dynamics = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2))]).dynamics
    with pytest.raises(ValueError, match="responses of different lengths: each must have 2 tokens"):
        Demonstrations.from_responses(dynamics, Responses([0, 0], [[0, 1], [1]]))
