"""Rewards fitted to preferences, and RLHF's policy, against dense matrices, enumeration and closed
forms.
"""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import brentq, linprog, minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logit
from scipy.stats import binom, chi2
from strategies import (
    along,
    build,
    enumerate_responses,
    policies,
    random_policy,
    same_mdp_three_ways,
    seeds,
    shaped_pairs,
    state_of,
    token_mdps,
)

from theory.fit.preferences import Preferences, sample_preferences
from theory.fit.reward_fit import fit_reward, separable_pairs
from theory.fit.rlhf import rlhf
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward, returns, shape_reward, with_rewards
from theory.solve.soft import plain_optimal
from theory.studies.sharpening import verifier_disagreement

check = settings(derandomize=True, deadline=None, max_examples=30)


# --- Oracle ---------------------------------------------------------------------------------------


def dense_design(dynamics, prompts, one, other, features=None):
    """``φ(τ) − φ(τ')`` from the definition, one column for each (state, token) or feature."""
    V = dynamics.vocab_size
    first = [V * sum(dynamics.layer_sizes[:h]) for h in range(dynamics.horizon)]
    design = np.zeros((len(prompts), V * sum(dynamics.layer_sizes)))
    for row, prompt, *pair in zip(design, prompts, one, other, strict=True):
        for tokens, sign in zip(pair, (1.0, -1.0), strict=True):
            for h, a in enumerate(tokens):
                row[first[h] + state_of(dynamics, prompt, tuple(tokens[:h])) * V + a] += sign
    return (
        design
        if features is None
        else design @ np.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    )


def oracle_design(p, features=None):
    return dense_design(p.dynamics, p.prompts, p.chosen, p.rejected, features)


def random_pairs(mdp, seed, n):
    """`n` random pairs of allowed responses; `None` if no prompt has two."""
    rng = np.random.default_rng(seed)
    per_prompt = [
        [r[0] for r in enumerate_responses(mdp.dynamics, prompt)]
        for prompt in range(mdp.dynamics.n_prompts)
    ]
    prompts = [i for i, found in enumerate(per_prompt) if len(found) > 1]
    if not prompts:
        return None
    prompts = rng.choice(prompts, n)
    pairs = [rng.choice(len(per_prompt[i]), 2, replace=False) for i in prompts]
    one, other = (
        [per_prompt[i][pair[k]] for i, pair in zip(prompts, pairs, strict=True)] for k in (0, 1)
    )
    return Preferences.of(
        mdp.dynamics, Responses(prompts, np.array(one)), Responses(prompts, np.array(other))
    )


@st.composite
def preferences(draw, largest=40, **options):
    mdp = draw(token_mdps(min_vocab=2, **options))
    found = random_pairs(mdp, draw(seeds), draw(st.integers(1, largest)))
    assume(found is not None)
    return found


def random_features(dynamics, rng, k=2):
    return [rng.normal(size=(n, dynamics.vocab_size, k)) for n in dynamics.layer_sizes]


def both_ways(p):
    """Every pair, and once more with the other winner: never separable."""
    prompts = np.concatenate([p.prompts, p.prompts])
    one, other = np.concatenate([p.chosen, p.rejected]), np.concatenate([p.rejected, p.chosen])
    return Preferences.of(p.dynamics, Responses(prompts, one), Responses(prompts, other))


def pairs_of(dynamics, wins, prompt=0):
    """Preferences from ``{(winner, loser): times}``."""
    one, other = zip(*[pair for pair, times in wins.items() for _ in range(times)], strict=True)
    prompts = [prompt] * len(one)
    return Preferences.of(dynamics, Responses(prompts, one), Responses(prompts, other))


def uniform_policy(dynamics):
    return Policy.from_logits(
        dynamics, [np.zeros((n, dynamics.vocab_size)) for n in dynamics.layer_sizes]
    )


def tree(V, H, seed=0, P=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return TokenMDP.tree(
        [scale * rng.random((P * V**h, V)) for h in range(H)], reward_range=(0, scale)
    )


# --- The fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "losses"), [(1, 1), (3, 1), (70, 30), (10**5, 1)])
def test_one_comparison_in_closed_form(wins, losses):
    """The fitted difference is the logit of the share of wins, its variance ``1/(n p (1 − p))``."""
    dynamics = tree(2, 2).dynamics
    fit = fit_reward(pairs_of(dynamics, {((0, 1), (1, 1)): wins, ((1, 1), (0, 1)): losses}))
    found = fit.contrast(Responses([0], [[0, 1]]), Responses([0], [[1, 1]]))
    n, p = wins + losses, wins / (wins + losses)
    assert found.estimate[0] == pytest.approx(logit(p), rel=1e-9, abs=1e-12)
    assert found.standard_error[0] == pytest.approx(1 / math.sqrt(n * p * (1 - p)), rel=1e-8)
    assert fit.rank == 1
    assert fit.log_likelihood == pytest.approx(
        wins * math.log(p) + losses * math.log1p(-p), rel=1e-12
    )
    # Least norm: four (state, token)s share the difference equally.
    assert_allclose(
        sorted(fit.weights), [-logit(p) / 4] * 2 + [0] * 2 + [logit(p) / 4] * 2, atol=1e-9
    )


@check
@given(preferences(), st.floats(1e-3, 10), st.booleans(), seeds)
def test_gradient_vanishes_where_an_oracle_takes_it(p, l2, with_features, seed):
    """With a penalty what is maximised is strictly concave: no gradient means *the* maximum."""
    features = random_features(p.dynamics, np.random.default_rng(seed)) if with_features else None
    fit = fit_reward(p, features, l2)
    X = oracle_design(p, features)
    gradient = X.T @ expit(-(X @ fit.weights)) - l2 * fit.weights
    size = np.abs(X).sum() + 1
    assert np.linalg.norm(gradient) <= 1e-10 * size
    assert fit.log_likelihood == pytest.approx(
        -np.logaddexp(0, -(X @ fit.weights)).sum(), rel=1e-12
    )
    for h, table in enumerate(fit.reward.rewards):
        mask = p.dynamics.allowed[h]
        rewards = (
            fit.weights
            if features is None
            else np.concatenate([f.reshape(-1, 2) for f in features]) @ fit.weights
        )
        start = p.dynamics.vocab_size * sum(p.dynamics.layer_sizes[:h])
        expected = rewards[start : start + table.size].reshape(table.shape)
        assert_allclose(
            table, expected if mask is None else np.where(mask, expected, 0.0), atol=1e-12
        )


@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_fit_equals_a_dense_optimiser(with_features, l2):
    mdp = tree(3, 2, seed=1)
    p = sample_preferences(mdp, uniform_policy(mdp.dynamics), 600, 3)
    features = random_features(mdp.dynamics, np.random.default_rng(0), 3) if with_features else None
    X = oracle_design(p, features)

    def loss(w):
        return np.logaddexp(0, -(X @ w)).sum() + l2 * w @ w / 2, -X.T @ expit(-(X @ w)) + l2 * w

    solved = minimize(loss, np.zeros(X.shape[1]), jac=True, options={"gtol": 1e-9})
    fit = fit_reward(p, features, l2)
    # Started at zero, BFGS stays in the span of gradients, so it too ends at the maximiser of least
    # norm.
    assert_allclose(fit.weights, solved.x, atol=1e-6)
    assert -fit.log_likelihood + l2 * fit.weights @ fit.weights / 2 <= solved.fun + 1e-9


@check
@given(preferences(largest=25), seeds)
def test_without_a_penalty_least_norm_and_the_limit_of_small_penalties(p, seed):
    p = both_ways(p)
    extra = np.random.default_rng(seed).integers(0, len(p.prompts), 30)
    p = Preferences(
        p.dynamics, *(np.concatenate([x, x[extra]]) for x in (p.prompts, p.chosen, p.rejected))
    )
    fit, nearly = fit_reward(p), fit_reward(p, l2=1e-8)
    X = oracle_design(p)
    assert np.linalg.norm(X.T @ expit(-(X @ fit.weights))) <= 1e-8
    assert_allclose(
        np.linalg.pinv(X) @ (X @ fit.weights), fit.weights, atol=1e-9
    )  # nothing in the null space
    assert_allclose(nearly.weights, fit.weights, atol=1e-4)
    assert fit.rank == np.linalg.matrix_rank(X)
    assert_allclose(fit.row_space.T @ fit.row_space, np.eye(fit.rank), atol=1e-12)
    outside = np.delete(X, fit.columns, axis=1)
    assert not outside.any()
    assert X[:, fit.columns].any(axis=0).all()
    assert_allclose(
        X[:, fit.columns] @ fit.row_space @ fit.row_space.T, X[:, fit.columns], atol=1e-12
    )


# --- What is identified ---------------------------------------------------------------------------


def identifiable_rank(dynamics):
    """Reachable (state, token) pairs less reachable states, see `RewardFit.rank`."""
    rank = 0
    reached = np.ones(dynamics.n_prompts, dtype=bool)
    for h, mask in enumerate(dynamics.allowed):
        usable = reached[:, None] & (
            np.ones((len(reached), dynamics.vocab_size), dtype=bool) if mask is None else mask
        )
        rank += int(usable.sum()) - int(reached.sum())
        if h + 1 < dynamics.horizon:
            reached = dynamics.push(h, usable.astype(float)) > 0
    return rank


@check
@given(token_mdps(min_vocab=1))
def test_rank_of_every_comparison_is_the_identifiable_rank(mdp):
    dynamics = mdp.dynamics
    found = [
        [r[0] for r in enumerate_responses(dynamics, prompt)]
        for prompt in range(dynamics.n_prompts)
    ]
    prompts, one, other = [], [], []
    for prompt, responses in enumerate(found):
        for response in responses[1:]:  # all differences are sums of these
            prompts, one, other = [*prompts, prompt], [*one, responses[0]], [*other, response]
    rank = np.linalg.matrix_rank(dense_design(dynamics, prompts, one, other)) if prompts else 0
    assert identifiable_rank(dynamics) == rank
    if prompts:
        both = both_ways(
            Preferences.of(dynamics, Responses(prompts, one), Responses(prompts, other))
        )
        assert fit_reward(both).rank == rank


@check
@given(shaped_pairs(min_vocab=2), seeds)
def test_shaping_changes_no_preference_and_no_fit(pair, seed):
    mdp, shaped, _ = pair
    if all(
        len(enumerate_responses(mdp.dynamics, prompt)) > 1
        for prompt in range(mdp.dynamics.n_prompts)
    ):
        one, other = (
            sample_preferences(m, uniform_policy(m.dynamics), 50, seed) for m in (mdp, shaped)
        )
        assert (one.chosen == other.chosen).all()
        assert (one.rejected == other.rejected).all()
        assert (fit_reward(one, l2=0.1).weights == fit_reward(other, l2=0.1).weights).all()
    # Potentials are in the null space of every comparison.
    p = random_pairs(mdp, seed, 30)
    if p is not None:
        moved = [s - r for s, r in zip(shaped.rewards, mdp.rewards, strict=True)]
        assert_allclose(
            oracle_design(p) @ np.concatenate([m.reshape(-1) for m in moved]), 0.0, atol=1e-12
        )


@check
@given(preferences(), st.data(), st.sampled_from([0.0, 0.5]), st.booleans(), seeds)
def test_standard_errors_from_the_dense_fisher_information(p, data, l2, with_features, seed):
    p = both_ways(p)
    rng = np.random.default_rng(seed)
    features = random_features(p.dynamics, rng) if with_features else None
    fit = fit_reward(p, features, l2)
    X = oracle_design(p, features)
    margins = X @ fit.weights
    F = X.T @ (X * (expit(margins) * expit(-margins))[:, None])
    bread = np.linalg.pinv(
        F + l2 * X.T @ np.linalg.pinv(X.T), rcond=1e-10
    )  # the penalty on the row space
    other = random_pairs(TokenMDP(p.dynamics, fit.reward.rewards), data.draw(seeds), 20)
    one, two = Responses(other.prompts, other.chosen), Responses(other.prompts, other.rejected)
    found = fit.contrast(one, two)
    for c, estimate, error in zip(oracle_design(other, features), *found, strict=True):
        assert estimate == pytest.approx(c @ fit.weights, abs=1e-9)
        if np.linalg.norm(c - np.linalg.pinv(X) @ X @ c) <= 1e-6 * np.linalg.norm(c):
            assert error == pytest.approx(math.sqrt(c @ bread @ F @ bread @ c), rel=1e-6, abs=1e-9)
        else:
            assert error == math.inf
    # Of two responses, as of a response and itself, the order does not matter.
    swapped = fit.contrast(two, one)
    assert_allclose(swapped.estimate, -found.estimate, atol=1e-14)
    assert_allclose(swapped.standard_error, found.standard_error, rtol=1e-12)
    assert_allclose(fit.contrast(one, one), 0.0, atol=0)


def test_what_no_chain_of_comparisons_ties_has_no_standard_error():
    dynamics = tree(2, 2, P=2).dynamics
    A, B, C, D = (0, 0), (0, 1), (1, 0), (1, 1)
    p = pairs_of(dynamics, {(A, B): 2, (B, A): 1, (C, D): 1, (D, C): 1})
    error = (
        fit_reward(p)
        .contrast(Responses([0] * 4, [A, A, C, A]), Responses([0, 0, 0, 1], [B, C, D, A]))
        .standard_error
    )
    assert np.isfinite(error[[0, 2]]).all()
    assert np.isinf(error[[1, 3]]).all()  # between the two sets, and between prompts


def test_a_shared_state_ties_responses_that_were_never_compared():
    """With a window of one token the last step is worth the same whatever came before."""
    mdp = build("window", np.random.default_rng(0), 1, 2, 3, window=1)
    p = pairs_of(mdp.dynamics, {((0, 0, 0), (0, 0, 1)): 3, ((0, 0, 1), (0, 0, 0)): 1})
    fit = fit_reward(p)
    found = fit.contrast(Responses([0], [[1, 0, 0]]), Responses([0], [[1, 0, 1]]))
    assert found.estimate[0] == pytest.approx(math.log(3), rel=1e-9)
    assert found.standard_error[0] == pytest.approx(math.sqrt(4 / 3), rel=1e-8)


@check
@given(same_mdp_three_ways(min_vocab=2), seeds)
def test_window_and_table_give_the_same_fit(three, seed):
    _, window, table = three
    one = random_pairs(window, seed, 20)
    assume(one is not None)
    other = Preferences.of(
        table.dynamics, Responses(one.prompts, one.chosen), Responses(one.prompts, one.rejected)
    )
    assert_allclose(fit_reward(other, l2=0.1).weights, fit_reward(one, l2=0.1).weights, atol=1e-12)
    assert (separable_pairs(one) == separable_pairs(other)).all()


# --- Statistics -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("with_features", [False, True])
def test_intervals_cover_as_often_as_they_say(with_features):
    mdp = tree(2, 2, seed=4, scale=1.0)
    features = None
    if with_features:  # the true reward is linear in them
        rng = np.random.default_rng(2)
        features = [rng.normal(size=(n, 2, 2)) for n in mdp.dynamics.layer_sizes]
        mdp = with_rewards(mdp.dynamics, tuple(f @ np.array([0.5, -0.8]) for f in features))
    pairs = np.array([[[0, 0], [0, 1], [1, 0]], [[1, 1], [1, 0], [1, 1]]])
    one, other = (Responses(np.zeros(3, int), tokens) for tokens in pairs)
    truth = returns(mdp, one) - returns(mdp, other)
    covered = np.zeros(3)
    for seed in range(400):
        p = sample_preferences(mdp, uniform_policy(mdp.dynamics), 300, seed)
        estimate, error = fit_reward(p, features).contrast(one, other)
        covered += np.abs(estimate - truth) <= 1.959963985 * error
    assert (covered >= binom.ppf(1e-3, 400, 0.95)).all()
    assert (covered <= binom.ppf(1 - 1e-3, 400, 0.95)).all()


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
def test_many_pairs_find_the_true_differences(rule):
    mdp = build(rule, np.random.default_rng(5), 2, 2, 3, window=1)
    everything = all_responses(mdp.dynamics)
    fits = []
    for n in (10_000, 90_000):
        fit = fit_reward(
            sample_preferences(
                mdp, random_policy(mdp.dynamics, np.random.default_rng(1), 0.5), n, 11
            )
        )
        rows = np.flatnonzero(np.arange(16) % 8)
        one, other = (
            Responses(everything.prompts[i], everything.tokens[i]) for i in (rows, rows // 8 * 8)
        )
        estimate, error = fit.contrast(one, other)
        off = np.abs(estimate - (returns(mdp, one) - returns(mdp, other)))
        assert (off <= 4 * error + 1e-12).all()
        assert fit.rank == identifiable_rank(mdp.dynamics)
        fits.append(error.max())
    assert fits[1] < 0.15
    assert fits[0] / fits[1] == pytest.approx(3.0, rel=0.1)


def test_pairs_and_winners_have_the_law_they_should():
    mdp = tree(2, 2, seed=7, P=2, scale=2.0)
    policy = random_policy(mdp.dynamics, np.random.default_rng(3), 1.0)
    n = 40_000
    p = sample_preferences(mdp, policy, n, 5)
    seen = Counter(zip(p.prompts, map(tuple, p.chosen), map(tuple, p.rejected), strict=True))
    statistic, cells = 0.0, 0
    for prompt in range(2):
        law = {}
        for response in enumerate_responses(mdp.dynamics, prompt):
            law[response[0]] = (
                math.exp(along(policy.log_probs, response)),
                along(mdp.rewards, response),
            )
        differ = 1 - sum(mass**2 for mass, _ in law.values())
        for (a, (mass_a, r_a)), (b, (mass_b, r_b)) in itertools.permutations(law.items(), 2):
            expected = (
                n
                * mdp.dynamics.prompt_weights[prompt]
                * 2
                * mass_a
                * mass_b
                / differ
                / (1 + math.exp(r_b - r_a))
            )
            statistic += (seen[prompt, a, b] - expected) ** 2 / expected
            cells += 1
    assert chi2.sf(statistic, cells - 1) > 1e-3
    again = sample_preferences(mdp, policy, n, 5)
    assert (again.chosen == p.chosen).all()
    assert not np.array_equal(sample_preferences(mdp, policy, n, 6).chosen, p.chosen)


# --- Separable pairs ------------------------------------------------------------------------------

A, B, C, D = (0, 0), (0, 1), (1, 0), (1, 1)


@pytest.mark.parametrize(
    ("wins", "separable"),
    [
        ({(A, B): 1}, [True]),
        ({(A, B): 2, (B, A): 1}, [False] * 3),
        ({(A, B): 1, (B, C): 1, (C, A): 1}, [False] * 3),  # a cycle
        ({(A, B): 1, (B, C): 1, (A, C): 1}, [True] * 3),  # complete separation
        ({(A, B): 1, (B, A): 1, (B, C): 1}, [False, False, True]),  # quasi-complete separation
        ({(A, B): 1, (B, C): 1, (C, A): 1, (D, B): 5}, [False] * 3 + [True] * 5),
        ({(A, B): 1, (B, A): 1, (C, D): 1, (D, C): 1}, [False] * 4),  # two sets, each whole
    ],
)
def test_separable_pairs_in_known_cases(wins, separable):
    p = pairs_of(tree(2, 2).dynamics, wins)
    assert separable_pairs(p).tolist() == separable
    if any(separable):
        message = (
            f"{sum(separable)} of {len(separable)} pairs are separable, first pair "
            f"{separable.index(True)},"
        )
        with pytest.raises(ValueError, match=message):
            fit_reward(p)
    else:
        assert np.isfinite(fit_reward(p).weights).all()
    assert np.isfinite(fit_reward(p, l2=1e-3).weights).all()


@check
@given(preferences(largest=30, rules=("tree",)))
def test_on_a_tree_a_fit_exists_iff_every_tied_set_is_strongly_connected(p):
    keys = [
        (int(i), *map(int, t))
        for tokens in (p.chosen, p.rejected)
        for i, t in zip(p.prompts, tokens, strict=True)
    ]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    edges = np.array([number[key] for key in keys]).reshape(2, -1)
    beats = np.zeros((len(number), len(number)))
    beats[edges[0], edges[1]] = 1
    component = connected_components(beats, connection="strong")[1]
    assert (separable_pairs(p) == (component[edges[0]] != component[edges[1]])).all()


@check
@given(preferences(largest=12), seeds, st.sampled_from([1e-12, 1.0, 1e12]))
def test_separable_pairs_against_one_linear_program_each(p, seed, scale):
    """HiGHS reads coefficients below 1e-9 as zero; the size of the features must not decide."""
    features = random_features(p.dynamics, np.random.default_rng(seed), 3)
    X = oracle_design(p, features)
    best = [-linprog(-x, A_ub=-X, b_ub=np.zeros(len(X)), bounds=(-1, 1)).fun for x in X]
    found = separable_pairs(p, [scale * f for f in features])
    assert (found == (np.array(best) > 1e-7)).all()


@pytest.mark.parametrize(
    ("differences", "separable"),
    [
        ([[0.0, 1e-10]], [True]),
        ([[1.0, 0.0], [-1e-10, 0.0]], [False, False]),  # a small row contradicts a large one
        (
            [[1.0, 0.0], [-1.0, 1e-10]],
            [True, True],
        ),  # w = (1, 2e10): only the small column tells the rows apart
        ([[1.0, 0.0], [-1.0, 1e-10], [0.0, -1e-10]], [False, False, False]),
    ],
)
def test_small_features_decide_too(differences, separable):
    """Token 1 has no features, and token 0 those of the difference, of one prompt for each pair."""
    n = len(differences)
    dynamics = TokenMDP.tree([np.zeros((n, 2))]).dynamics
    prompts, zeros = np.arange(n), np.zeros((n, 1), int)
    p = Preferences.of(dynamics, Responses(prompts, zeros), Responses(prompts, zeros + 1))
    features = [np.stack([np.array(differences), np.zeros((n, 2))], axis=1)]
    assert separable_pairs(p, features).tolist() == separable


def test_equal_features_are_equal_in_any_order():
    """0.1 + 0.7 + 0.3 in two orders differs by rounding, which must not count as a difference."""
    dynamics = tree(3, 3).dynamics
    size = np.array([0.1, 0.7, 0.3])
    features = [np.broadcast_to(size[:, None], (n, 3, 1)) for n in dynamics.layer_sizes]
    p = pairs_of(
        dynamics, {((0, 1, 2), (2, 1, 0)): 1, ((0, 0, 0), (1, 0, 0)): 2, ((1, 0, 0), (0, 0, 0)): 1}
    )
    assert separable_pairs(p, features).tolist() == [False] * 4
    assert fit_reward(p, features).weights[0] == pytest.approx(math.log(2) / -0.6, rel=1e-8)
    with pytest.raises(ValueError, match="features: the same for both"):
        fit_reward(pairs_of(dynamics, {((0, 1, 2), (2, 1, 0)): 1}), features)


# --- RLHF -----------------------------------------------------------------------------------------


@check
@given(preferences(), st.data(), st.floats(math.log(1e-2), math.log(1e2)).map(math.exp))
def test_policy_is_anchor_times_exponential_return(p, data, beta):
    anchor = data.draw(policies(p.dynamics))
    policy, reward, fit = rlhf(p, anchor, beta, l2=0.1)
    assert reward is fit.reward
    for prompt in range(p.dynamics.n_prompts):
        responses = enumerate_responses(p.dynamics, prompt)
        log_mass = np.array(
            [along(anchor.log_probs, r) + along(reward.rewards, r) / beta for r in responses]
        )
        mass = np.exp(log_mass - log_mass.max())
        found = np.exp([along(policy.log_probs, r) for r in responses])
        assert_allclose(found, mass / mass.sum(), rtol=1e-9, atol=1e-14)


def test_limits_in_beta_and_a_batch_of_them():
    mdp = tree(3, 3, seed=2, P=2)
    p = sample_preferences(mdp, uniform_policy(mdp.dynamics), 500, 0)
    logits = [np.random.default_rng(1).normal(size=r.shape) for r in mdp.rewards]
    best = map_response(plain_optimal(fit_reward(p, l2=0.1).reward).policy).tokens
    logits[0][[0, 1], best[:, 0]] = -np.inf  # the anchor never writes the best response
    anchor = Policy.from_logits(mdp.dynamics, logits)
    everything = all_responses(mdp.dynamics)
    with np.errstate(divide="ignore"):
        prior = np.exp(log_prob(anchor, everything))
    cold, warm = rlhf(p, anchor, 1e-5, l2=0.1), rlhf(p, anchor, 1e8, l2=0.1)
    assert_allclose(np.exp(log_prob(warm.policy, everything)), prior, atol=1e-6)
    reachable = np.where(prior > 0, returns(cold.reward, everything), -np.inf).reshape(2, -1)
    assert plain_value(cold.reward, cold.policy) == pytest.approx(
        reachable.max(axis=1).mean(), abs=1e-6
    )
    assert (
        returns(cold.reward, everything).reshape(2, -1).max(axis=1) > reachable.max(axis=1) + 1e-3
    ).all()
    both = rlhf(p, anchor, np.array([1e-5, 1e8]), l2=0.1).policy
    for i, one in enumerate((cold.policy, warm.policy)):
        for h in range(3):
            assert_allclose(np.exp(both.log_probs[h][i]), np.exp(one.log_probs[h]), atol=1e-12)


def test_the_policy_does_not_depend_on_the_gauge_of_the_reward():
    """`rlhf` on features that span a shaped reward: another reward, the same policy."""
    mdp = tree(2, 3, seed=3)
    p = sample_preferences(mdp, uniform_policy(mdp.dynamics), 400, 1)
    anchor = random_policy(mdp.dynamics, np.random.default_rng(0))
    rng = np.random.default_rng(4)
    shaped = shape_reward(mdp, tuple(rng.normal(size=n) for n in mdp.dynamics.layer_sizes))
    one, other = (
        rlhf(p, anchor, 0.3, features=[r[..., None] for r in m.rewards]) for m in (mdp, shaped)
    )
    assert one.fit.weights == pytest.approx(other.fit.weights, rel=1e-9)
    for h in range(3):
        assert np.abs(one.reward.rewards[h] - other.reward.rewards[h]).max() > 0.1
        assert_allclose(other.policy.log_probs[h], one.policy.log_probs[h], atol=1e-9)


def test_many_pairs_lead_to_the_best_response():
    mdp = tree(3, 2, seed=8, P=2)
    anchor = uniform_policy(mdp.dynamics)
    found = rlhf(sample_preferences(mdp, anchor, 60_000, 2), anchor, 1e-3)
    best = plain_optimal(mdp)
    assert plain_value(mdp, found.policy) == pytest.approx(
        mdp.dynamics.average(best.values[0]), abs=1e-6
    )
    assert (map_response(found.policy).tokens == map_response(best.policy).tokens).all()


# --- A verifier -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [(0.4, 0.7), (1e-3, 0.999), (0.5, 0.5000001)])
@pytest.mark.parametrize(("lead", "alpha"), [(1.0, 1.0), (1e-3, 0.2), (5.0, 3.0)])
def test_logit_and_probability_of_yes_disagree(accept, lead, alpha):
    found = verifier_disagreement(accept, lead, alpha)
    assert_allclose(np.exp(found.policy.log_probs[0][:, 0]), accept, rtol=1e-12)
    assert_allclose(found.log_probs, alpha * np.log(accept), rtol=1e-12)
    assert_allclose(found.logits, found.log_probs + found.soft_values, atol=1e-12)
    assert found.logits[0] - found.logits[1] == pytest.approx(lead, rel=1e-12)
    assert found.log_probs[0] < found.log_probs[1]
    L, dV = found.logits[0] - found.logits[1], found.soft_values[0] - found.soft_values[1]
    assert L * (L - dV) < 0
    for gauge, expected in (("logits", found.logits), ("logprob", found.log_probs)):
        reward = endogenous_reward(found.policy, alpha, gauge=gauge)
        assert_allclose(
            returns(reward, Responses(np.arange(2), np.zeros((2, 1), int))), expected, atol=1e-12
        )


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        (([], []), ([], []), "chosen is empty"),
        (([0], np.zeros((1, 0), int)), ([0], [[0, 1]]), "chosen is empty"),
        (([0], [[0, 1]]), ([], []), "rejected is empty"),
        (([0], [[0, 1]]), ([0], [[0, 1, 1]]), r"rejected has shapes \(1,\) and \(1, 3\).*\(N, 2\)"),
        (([0, 0], [[0, 1]]), ([0], [[0, 1]]), r"chosen has shapes \(2,\) and \(1, 2\)"),
        (
            ([0, 0], [[0, 1], [1]]),
            ([0], [[0, 1]]),
            "chosen.tokens holds responses of different lengths: .* 2 tokens",
        ),
        (
            ([0, 0], [[0, 1], [0, 3]]),
            ([0, 0], [[1, 1], [1, 1]]),
            r"chosen.tokens\[1, 1\] is 3: must be from 0 to 2",
        ),
        (([0], [[0, 1]]), ([0], [[-1, 1]]), r"rejected.tokens\[0, 0\] is -1"),
        (
            ([0, 2], [[0, 1], [0, 1]]),
            ([0, 1], [[1, 1], [1, 1]]),
            r"chosen.prompts\[1\] is 2: must be from 0 to 1",
        ),
        (([0], [[0.0, 1.0]]), ([0], [[1, 1]]), "chosen.tokens has dtype float64"),
        (([0.0], [[0, 1]]), ([0], [[1, 1]]), "chosen.prompts has dtype float64"),
        (
            ([0, 1], [[0, 1], [0, 1]]),
            ([0, 0], [[1, 1], [1, 1]]),
            "pair 1: chosen answers prompt 1, rejected 0",
        ),
        (([0, 1], [[0, 1], [0, 1]]), ([0, 1], [[1, 1], [0, 1]]), r"pair 1: .* both \[0, 1\]"),
        (([0, 1], [[0, 1], [0, 1]]), ([0], [[1, 1]]), "rejected holds 1 responses, chosen 2"),
        (([1], [[2, 1]]), ([1], [[1, 1]]), r"chosen.tokens\[0, 0\] is 2, forbidden"),
    ],
)
def test_bad_pairs(chosen, rejected, message):
    mask = np.array([[True] * 3, [True, True, False]])
    dynamics = TokenMDP.tree([np.zeros((2, 3)), np.zeros((6, 3))], allowed=[mask, None]).dynamics
    with pytest.raises(ValueError, match=message):
        Preferences.of(dynamics, Responses(*chosen), Responses(*rejected))


def test_bad_contrast_features_penalty_and_beta():
    mdp = tree(2, 2)
    p = pairs_of(mdp.dynamics, {(A, B): 1, (B, A): 1})
    with pytest.raises(ValueError, match=r"other.tokens\[0, 1\] is 2"):
        fit_reward(p).contrast(Responses([0], [[0, 0]]), Responses([0], [[0, 2]]))
    with pytest.raises(ValueError, match="other holds 2 responses, one 1"):
        fit_reward(p).contrast(Responses([0], [[0, 0]]), Responses([0, 0], [[0, 1], [1, 1]]))
    good = [np.ones((1, 2, 3)), np.ones((2, 2, 3))]
    for features, message in [
        (good[:1], "features has 1 tables for a horizon of 2"),
        ([good[0], good[1][..., 0]], r"features\[1\] has shape \(2, 2\)"),
        ([good[0][..., 0], good[1]], r"features\[0\] has shape \(1, 2\)"),
        ([good[0], good[1][..., :2]], r"features\[1\] has shape \(2, 2, 2\): .* \(2, 2, 3\)"),
        ([good[0][..., :0], good[1][..., :0]], r"features\[0\] has shape"),
        ([good[0], good[1] * np.nan], r"features\[1\] holds nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_reward(p, features)
    for l2 in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"l2={l2}"):
            fit_reward(p, l2=l2)
    with pytest.raises(ValueError, match="beta"):
        rlhf(p, uniform_policy(mdp.dynamics), 0.0)
    with pytest.raises(ValueError, match="different dynamics"):
        rlhf(p, uniform_policy(tree(2, 3).dynamics), 1.0)


def test_bad_draws_and_verifiers():
    mdp = tree(2, 2)
    with pytest.raises(ValueError, match="n=0"):
        sample_preferences(mdp, uniform_policy(mdp.dynamics), 0)
    with pytest.raises(ValueError, match=r"policy: its responses to prompt 0 are always"):
        sample_preferences(mdp, plain_optimal(mdp).policy, 5, 0)
    with pytest.raises(ValueError, match="different dynamics"):
        sample_preferences(mdp, uniform_policy(tree(2, 3).dynamics), 5)
    for accept in [(0.7, 0.4), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0)]:
        with pytest.raises(ValueError, match="accept="):
            verifier_disagreement(accept)
    for options in ({"lead": 0.0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            verifier_disagreement(**options)


def test_a_fit_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr("theory.arrays.memory.available_memory", lambda: 100)
    with pytest.raises(ValueError, match="fitting 1 comparisons of 4 weights"):
        fit_reward(pairs_of(tree(2, 2).dynamics, {(A, C): 1}), l2=1.0)


@pytest.mark.parametrize("l2", [1e-3, 1e-6, 1e-10, 1e-14, 1e-30])
def test_a_small_penalty_places_a_pair_that_is_always_won(l2):
    """``σ(−2Hw) = l2·w`` for each of the 2H weights that tell two responses apart: the root, not
    where gains end.
    """
    mdp = TokenMDP.tree([np.zeros((1, 2))])
    one = Responses(np.array([0]), np.array([[0]]))
    other = Responses(np.array([0]), np.array([[1]]))
    fit = fit_reward(Preferences.of(mdp.dynamics, one, other), l2=l2)
    root = brentq(lambda w: math.log(l2 * w) + np.logaddexp(0.0, 2 * w), 1e-9, 1e4)
    assert fit.contrast(one, other)[0] == pytest.approx(2 * root, rel=1e-6)


def test_what_is_not_preferences_is_refused():
    mdp = TokenMDP.tree([np.zeros((1, 2))], allowed=[np.array([[True, False]])])
    free = Policy.from_probs(TokenMDP.tree([np.zeros((1, 2))]).dynamics, [np.array([[0.5, 0.5]])])
    with pytest.raises(ValueError, match=r"tokens\[\d+, 0\] is 1, forbidden in state 0"):
        sample_preferences(mdp, free, 20, 0)
    with pytest.raises(ValueError, match=r"chosen\.tokens\[0, 0\] is 9: must be from 0 to 1"):
        Preferences(free.dynamics, np.array([0]), np.array([[9]]), np.array([[1]]))
