"""The list of statements: each holds where it should, and a planted violation of each is found."""

import dataclasses

import numpy as np
import pytest

from theory.arrays.precision import precision
from theory.claims import bounds
from theory.claims.discounted import DISCOUNTED_STATEMENTS
from theory.claims.findings import decide
from theory.claims.instance import VISITED, Instance
from theory.claims.problem import POOL
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import check
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import (
    all_responses,
    greedy_response,
    log_prob,
    map_response,
    sample_log_ratio_ball,
)
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value, plain_values
from theory.solve.reward import endogenous_reward, returns, shape_reward
from theory.solve.soft import plain_optimal, power_policy, soft_optimal
from theory.studies.gallery import coin_payoff, swapped_pair
from theory.studies.sharpening import map_is_not_greedy
from theory.studies.sweep import fit_exponent, horizon_curve

BY_NAME = {statement.name: statement for statement in STATEMENTS}


def random_instances(seed=0, batch=16):
    rng = np.random.default_rng(seed)
    for V, H, P in ((3, 1, 1), (3, 4, 2), (2, 8, 1), (4, 3, 2)):
        mdp = TokenMDP.random(V, H, n_prompts=P, batch=(batch,), seed=rng)
        alpha, epsilon = (
            np.exp(rng.uniform(np.log(0.05), np.log(20), batch)),
            np.exp(rng.uniform(-7, 1, batch)),
        )
        expert = soft_optimal(mdp, alpha).policy
        yield Instance(mdp, expert, sample_log_ratio_ball(expert, epsilon, rng), alpha)


INSTANCES = list(random_instances())


@pytest.mark.parametrize("name", BY_NAME)
def test_statement_holds_on_random_instances(name):
    summary = decide(BY_NAME[name], INSTANCES)
    assert summary.verdict == "holds"
    assert summary.instances > 0
    assert summary.error_bound < 1e-5  # a bound this small cannot hide a mistake in a formula


def test_total_variation_of_one_binary_token_is_the_gap():
    """``gap = |p − q|·|r₀ − r₁|`` there: the two sides are one number, which no precision can call
    an inequality.
    """
    mdp = TokenMDP.random(2, 1, batch=(8,), seed=4)
    expert = soft_optimal(mdp, 0.5).policy
    summary = decide(
        BY_NAME["clone-tv"], [Instance(mdp, expert, sample_log_ratio_ball(expert, 1.0, 5), 0.5)]
    )
    assert (
        summary.verdict == "undecided" or summary.worst_ratio < 1
    )  # where `π̂` has the higher value
    assert summary.worst_ratio == pytest.approx(1, abs=1e-12)
    assert summary.equal_within < 1e-300


def test_return_range_is_the_same_in_every_gauge_and_at_most_that_of_the_rewards():
    instance = list(random_instances(seed=9, batch=4))[1]
    mdp, dynamics = instance.mdp, instance.mdp.dynamics
    every = returns(mdp, all_responses(dynamics)).reshape(4, dynamics.n_prompts, -1)
    of_prompt = every.max(axis=-1) - every.min(axis=-1)
    expected = of_prompt @ dynamics.prompt_weights
    np.testing.assert_allclose(instance.return_range, expected, rtol=1e-12)
    potential = [
        np.random.default_rng(h).normal(size=(4, n)) for h, n in enumerate(dynamics.layer_sizes)
    ]
    shaped = dataclasses.replace(instance, mdp=shape_reward(mdp, tuple(potential)))
    np.testing.assert_allclose(shaped.return_range, expected, rtol=1e-12)
    exact = instance.enclosed(53).return_range  # of each prompt
    assert (exact.lower() <= of_prompt + 1e-12).all()
    assert (exact.upper() >= of_prompt - 1e-12).all()
    assert (of_prompt <= instance.horizon * instance.width).all()
    assert (shaped.horizon * shaped.width > 2 * expected).all()  # what depends on the gauge


def test_how_near_two_policies_are_where_they_write():
    """Against plain loops over all states: ε of the tokens that are written, and weighted
    quantiles.
    """
    mdp = TokenMDP.random(3, 3, n_prompts=2, batch=(2,), seed=11)
    expert = soft_optimal(mdp, 0.05).policy  # sharp: many tokens are hardly ever written
    instance = Instance(mdp, expert, sample_log_ratio_ball(expert, 1.5, 12), 0.05)
    levels = instance.log_ratio_quantiles((0.5, 0.9, 1.0))
    for k in range(2):
        rows = []
        one = instance.take(k)
        for h, (p, q) in enumerate(zip(one.expert.log_probs, one.policy.log_probs, strict=True)):
            for s, a in np.ndindex(p.shape):
                path = [s // 3 ** (h - i) for i in range(h + 1)]  # states from the prompt on
                step = [path[i + 1] % 3 for i in range(h)] + [a]
                mass = [
                    0.5 * np.exp(sum(t.log_probs[i][path[i], step[i]] for i in range(h + 1)))
                    for t in (one.expert, one.policy)
                ]
                rows.append((abs(p[s, a] - q[s, a]), *mass))
        assert float(one.epsilon_visited) == pytest.approx(
            max(x for x, p, q in rows if max(p, q) >= VISITED)
        )
        assert one.epsilon_visited < one.epsilon
        np.testing.assert_allclose(instance.epsilon_visited[k], one.epsilon_visited)
        for share, level in zip((0.5, 0.9, 1.0), levels[k], strict=True):
            above = sum(p for x, p, _ in rows if x > level + 1e-12) / 3
            at_least = sum(p for x, p, _ in rows if x >= level - 1e-12) / 3
            assert above <= 1 - share + 1e-9
            assert at_least >= 1 - share - 1e-9
            assert any(abs(x - level) < 1e-12 for x, _, _ in rows)


def test_where_every_token_is_rare_none_is_visited():
    """Of 4,000 tokens each is written by fewer than `VISITED` of the responses."""
    mdp = TokenMDP.tree([np.zeros((1, 4000))])
    expert = soft_optimal(mdp, 1.0).policy
    other = Policy.from_logits(mdp.dynamics, [np.linspace(0.0, 1.0, 4000)[None]])
    instance = Instance(mdp, expert, other, 1.0)
    assert float(instance.epsilon) > 0.4
    assert float(instance.epsilon_visited) == 0.0


def test_what_follows_the_end_of_a_response_is_not_written():
    """With an end token, quantiles are those of the tokens up to it; here the two differ in the
    first token only.
    """
    mdp = TokenMDP.tree([np.zeros((1, 2)), np.zeros((2, 2)), np.zeros((4, 2))], eos=1)
    expert = soft_optimal(mdp, 1.0).policy
    other = [np.array(t) for t in expert.log_probs]
    other[0][0] = np.log([0.9, 0.1])
    instance = Instance(mdp, expert, Policy(mdp.dynamics, tuple(other)), 1.0)
    written = [1.0, float(np.exp(expert.log_probs[0][0, 0]))]
    written.append(written[1] * float(np.exp(expert.log_probs[1][0, 0])))
    first = written[0] / sum(written)  # share of the first layer
    high, low = (abs(expert.log_probs[0][0, a] - other[0][0, a]) for a in (1, 0))
    rare = float(np.exp(expert.log_probs[0][0, 1])) * first
    inside, outside = instance.log_ratio_quantiles((1 - first - 1e-6, 1 - rare + 1e-6))
    assert inside == 0.0
    assert outside == pytest.approx(max(high, low))


def test_responses_that_each_problem_of_a_batch_has_for_itself():
    """More than `POOL` responses: a third are drawn from each policy, and one of a batch has what
    the batch has.
    """
    mdp = TokenMDP.random(4, 4, batch=(3,), seed=6)
    expert = soft_optimal(mdp, 0.2).policy
    batch = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.7, 7), 0.2)
    assert batch.responses.tokens.shape == (3, POOL, 4)
    for name in ("theorem-1-sharp", "preference-average", "telescoping", "endogenous-telescoping"):
        together = check(BY_NAME[name], batch)
        for k in range(3):
            alone = check(BY_NAME[name], batch.take(k))
            np.testing.assert_allclose(together.left[k], alone.left, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(together.right[k], alone.right, rtol=1e-9, atol=1e-12)


def test_rounding_error_bound_covers_extended_precision():
    """The slack of the doubles differs from the slack in extended precision by less than the stated
    error.
    """
    for instance in random_instances(seed=3, batch=8):
        mdp = instance.mdp
        alpha = np.asarray(instance.alpha, dtype=np.longdouble)
        longer = TokenMDP.tree(
            [r.astype(np.longdouble) for r in mdp.rewards],
            prompt_weights=mdp.dynamics.prompt_weights,
        )
        expert = soft_optimal(longer, alpha).policy
        policy = Policy.from_logits(
            mdp.dynamics, [t.astype(np.longdouble) for t in instance.policy.log_probs]
        )
        policy = dataclasses.replace(policy, log_normalizers=instance.policy.log_normalizers)
        precise = Instance(longer, expert, policy, alpha, per_prompt=True)
        for name in (
            "soft-value",
            "clone-elementary",
            "rl-any-comparator",
            "rl-average",
            "regularised-equality",
            "kl-ball",
        ):
            statement, result = BY_NAME[name], check(BY_NAME[name], instance)
            left, right = (
                np.asarray(side(precise)) for side in (statement.quantity.of, statement.bound.of)
            )
            assert np.longdouble in (left.dtype, right.dtype)
            distance = np.abs((result.right - result.left) - (right - left))
            assert (distance <= result.error).all(), name
            assert (result.error < 1e-9 * (1 + np.abs(left))).all(), name


def test_vacuous_is_said_only_where_the_bound_cannot_fail():
    mdp = TokenMDP.random(2, 3, seed=0)
    expert = soft_optimal(mdp, 1.0).policy
    near, far = (
        Instance(mdp, expert, sample_log_ratio_ball(expert, e, 0), 1.0) for e in (0.01, 2.0)
    )
    assert not check(BY_NAME["theorem-1"], near).vacuous.any()
    assert check(BY_NAME["theorem-1"], far).vacuous.all()


def test_hidden_constant_of_theorem_2_contains_alpha():
    """`V^{π_E} − V^{π_RL} ≤ Hε` with constant 1 is false at large α: a finding about the paper's
    ≲.
    """
    instance = false_at_large_alpha()
    gap = instance.expert_value - instance.rl_value
    assert gap > 1.5 * instance.horizon * instance.epsilon
    assert check(BY_NAME["rl-any-comparator"], instance).verdicts == "holds"
    assert not check(BY_NAME["theorem-2-rl"], instance).applies


def false_at_large_alpha():
    """One token pays 1 and one 0; at α = 20 the expert hardly cares, and ε = 0.03 turns its
    preference round.
    """
    mdp, alpha, epsilon = TokenMDP.tree([np.array([[1.0, 0.0]])]), 20.0, 0.03
    expert = soft_optimal(mdp, alpha).policy
    logits = [expert.log_probs[0] + np.array([[-epsilon, epsilon]])]
    return Instance(mdp, expert, type(expert).from_logits(mdp.dynamics, logits), alpha)


def test_infinite_epsilon_is_vacuous_and_not_an_error():
    mdp = TokenMDP.random(2, 2, seed=1)
    solution = soft_optimal(mdp, 0.5)
    instance = Instance(mdp, solution.policy, plain_optimal(mdp).policy, 0.5)
    assert np.isinf(instance.epsilon)
    for name in ("theorem-1", "theorem-2-clone", "rl-any-comparator"):
        result = check(BY_NAME[name], instance)
        assert result.vacuous.all()
        # one response is all that the policy gives: there is no pair
        assert (result.verdicts == ("does not apply" if name == "theorem-1" else "holds")).all()


def test_infinite_epsilon_is_vacuous_for_the_pairs_that_both_policies_give():
    mdp = TokenMDP.random(2, 2, seed=1)
    expert = soft_optimal(mdp, 0.5).policy
    logits = [expert.log_probs[0], expert.log_probs[1].copy()]
    logits[1][0, 1] = -np.inf
    instance = Instance(mdp, expert, Policy.from_logits(mdp.dynamics, logits), 0.5)
    assert np.isinf(instance.epsilon)
    result = check(BY_NAME["theorem-1"], instance)
    never = [1 in pair for pair in zip(*instance.pairs, strict=True)]  # the response (0, 1)
    assert sum(never) == 3
    assert result.vacuous.all()
    assert (result.verdicts[0] == np.where(never, "does not apply", "holds")).all()


def test_missing_support_is_never_called_a_violation():
    """The expert forbids a token that the other policy writes: ε and KL are infinite, and nothing
    is violated.
    """
    policy = soft_optimal(TokenMDP.random(2, 2, seed=1), 0.5).policy
    logits = [policy.log_probs[0], policy.log_probs[1].copy()]
    logits[1][0, 1] = -np.inf
    expert = Policy.from_logits(policy.dynamics, logits)
    instance = Instance(endogenous_reward(expert, 1.0), expert, policy, 1.0)
    assert np.isinf(instance.kl_to_expert)
    for name in (
        "kl-ball",
        "theorem-1",
        "theorem-2-clone",
        "clone-pinsker",
        "regularised-equality",
    ):
        summary = decide(BY_NAME[name], [instance])
        assert summary.verdict in ("holds", "does not apply"), name
    assert decide(BY_NAME["regularised-equality"], [instance]).verdict == "does not apply"
    for statement in (
        STATEMENTS
    ):  # in enclosures too the divergence is infinite, and no statement is left open by it
        assert decide(statement, [instance]).verdict in ("holds", "does not apply"), statement.name
    for bits in (53, 128):
        with precision(bits):
            assert bool(instance.enclosed(bits).kl_to_expert == np.inf)


@pytest.mark.parametrize("horizon", [1, 2, 7, 50])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1.0, 0.01), (0.5, 0.2), (0.1, 0.3)])
def test_swapped_pair_attains_the_rl_bound(horizon, alpha, epsilon):
    instance = swapped_pair(horizon, alpha, epsilon, slack=1e-3)
    assert instance.epsilon == pytest.approx(epsilon, rel=1e-9)
    expert_likes, rl_plays = map_response(instance.expert), instance.rl_response
    assert expert_likes.tokens[0, 0] == 0
    assert rl_plays.tokens[0, 0] == 1
    gap = instance.best_value - instance.rl_value
    assert gap == pytest.approx(2 * alpha * horizon * epsilon * (1 - 1e-3), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_coin_payoff_expert_is_uniform_over_coins_and_indifferent(alpha):
    """Both outcomes have the same soft value; their plain values differ by ``α(log 2 − H(p))`` a
    step.
    """
    H = 9
    mdp = coin_payoff(H, alpha, coin_fraction=1 / 3)
    coins = next(h for h, size in enumerate(mdp.dynamics.layer_sizes) if h and size == 2 and h > 1)
    solution = soft_optimal(mdp, alpha)
    for h in range(coins):
        assert np.exp(solution.policy.log_probs[h]) == pytest.approx(0.5)
    lost, won = solution.values[coins]
    assert won == pytest.approx(lost)
    p = 1 / (1 + np.exp(-1 / alpha))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    plain = plain_values(mdp, solution.policy)[coins]
    assert plain[1] - plain[0] == pytest.approx((H - coins) * alpha * (np.log(2) - entropy))


def test_cloning_loses_three_halves_and_rl_loses_one():
    """The exponents of the README's figure, on fewer and larger horizons."""
    curve = horizon_curve((256, 512, 1024), alpha=0.25, vocab_size=2, epsilon=0.01)
    assert fit_exponent(curve.horizons, curve.clone).slope == pytest.approx(1.5, abs=0.02)
    assert fit_exponent(curve.horizons, curve.rl).slope == pytest.approx(1.0, abs=1e-6)
    assert all(
        exact <= bound for exact, bound in zip(curve.clone, curve.clone_composition, strict=True)
    )


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_average_case_bounds_against_enumeration(alpha):
    """Both average-case right-hand sides from lists of response probabilities."""
    mdp = TokenMDP.random(3, 3, seed=8)
    expert = soft_optimal(mdp, alpha).policy
    policy = sample_log_ratio_ball(expert, 1.0, 9)
    instance = Instance(mdp, expert, policy, alpha)
    log_e, log_p = (log_prob(x, all_responses(mdp.dynamics)) for x in (expert, policy))
    ratio = log_e - log_p
    forward, backward = (np.exp(log_e) * ratio).sum(), -(np.exp(log_p) * ratio).sum()
    rl = check(BY_NAME["rl-average"], instance)
    assert rl.right == pytest.approx(alpha * (forward - ratio[np.argmax(log_p)]))
    pinsker = check(BY_NAME["clone-pinsker"], instance)
    true = returns(mdp, all_responses(mdp.dynamics))
    assert pinsker.right == pytest.approx((true.max() - true.min()) * np.sqrt(backward / 2))
    tv = check(BY_NAME["clone-tv"], instance)
    assert tv.right == pytest.approx(
        (true.max() - true.min()) * np.abs(np.exp(log_e) - np.exp(log_p)).sum() / 2
    )
    pairs = np.tanh(alpha * np.abs(ratio[:, None] - ratio[None, :])[np.triu_indices(27, 1)] / 4)
    assert check(BY_NAME["preference-average"], instance).right == pytest.approx(pairs.mean())


def test_map_is_not_greedy():
    mdp, alpha = map_is_not_greedy()
    policy = soft_optimal(mdp, alpha).policy
    best, greedy = map_response(policy), greedy_response(policy)
    assert best.tokens.tolist() == [[1, 0]]
    assert greedy.tokens[0, 0] == 0
    assert np.exp(log_prob(policy, best)) == pytest.approx([0.36])
    assert np.exp(log_prob(policy, greedy)) == pytest.approx([0.30])


def test_instance_quantities_match_their_definitions():
    mdp = TokenMDP.random(3, 3, n_prompts=2, seed=5)
    expert = soft_optimal(mdp, 0.7).policy
    policy = sample_log_ratio_ball(expert, 0.4, 6)
    instance = Instance(mdp, expert, policy, 0.7)
    assert instance.epsilon == max_log_ratio(expert, policy)
    assert instance.clone_gap == plain_value(mdp, expert) - plain_value(mdp, policy)
    assert instance.kl_to_expert == kl(policy, expert)
    tokens = instance.responses.tokens.reshape(2, 27, 3)
    i, j = instance.pairs
    steps = [
        3 - next((k for k in range(3) if tokens[0, a, k] != tokens[0, b, k]), 3)
        for a, b in zip(i, j, strict=True)
    ]
    assert instance.diverging_steps[0].tolist() == steps


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 10.0])
def test_anchored_rl_at_every_strength_of_the_anchor(beta):
    """``V^{π_E} − V^{π_β} ≤ αHε + (α + β) KL(π_E‖π̂)``, `α` here per instance."""
    for instance in random_instances(seed=7, batch=8):
        alpha = np.asarray(instance.alpha)
        anchored = power_policy(instance.policy, 1 + alpha / beta)
        gap = instance.expert_value - plain_value(instance.mdp, anchored)
        fine = (
            alpha * (instance.horizon * instance.epsilon + instance.kl_from_expert)
            + beta * instance.kl_from_expert
        )
        coarse = bounds.rl_gap_anchored(instance.horizon, instance.epsilon, alpha, beta)
        assert (gap <= fine * (1 + 1e-9)).all()
        assert (fine <= coarse * (1 + 1e-9)).all()


def test_power_policy_is_the_power_of_every_response():
    instance = next(random_instances(seed=8, batch=2))
    every = all_responses(instance.mdp.dynamics)
    log_p, sharp = (
        log_prob(instance.policy, every),
        log_prob(power_policy(instance.policy, 2.5), every),
    )
    powered = np.exp(2.5 * log_p)
    np.testing.assert_allclose(
        np.exp(sharp), powered / powered.sum(axis=-1, keepdims=True), rtol=1e-12
    )


def test_a_bound_that_scales_with_the_range_of_rewards_says_so():
    rng = np.random.default_rng(0)
    rewards = [rng.random((3**h, 3)) for h in range(3)]
    read = []
    for width in (1.0, 2.0):
        mdp = TokenMDP.tree(rewards, reward_range=(0.0, width))
        expert = soft_optimal(mdp, 0.5).policy
        instance = Instance(mdp, expert, sample_log_ratio_ball(expert, 0.3, 0), 0.5)
        read.append({s.name: np.max(np.asarray(s.bound.of(instance))) for s in STATEMENTS})
    one, two = read  # rounding may differ with the range, too
    scaled = {name for name in one if not np.isclose(one[name], two[name], rtol=1e-9, atol=0)}
    assert scaled == {s.name for s in STATEMENTS if "R·" in s.bound.symbol}
    assert scaled


def test_bounds_without_a_last_token_are_written_as_they_are_computed():
    written = {s.name: s.bound.symbol for s in DISCOUNTED_STATEMENTS}
    assert written["theorem-1-sharp"] == "tanh(αγ^kHε/2)"
    assert written["clone-pinsker"] == "R·H·√(KL(π̂‖π_E)/2)"
    assert not any("H−k" in x or "R_τ" in x for x in written.values())
