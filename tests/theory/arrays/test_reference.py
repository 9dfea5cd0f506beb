"""The oracle of `reference` against sums over every response, closed forms, and the statements that
are theorems.
"""

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from mpmath import mp, mpf
from reference import (
    Description,
    DiscountedDescription,
    DiscountedOracle,
    Oracle,
    assumptions,
    brute_force,
    describe,
    describe_discounted,
    evaluate,
    evaluate_discounted,
    preference_tv,
    tv_randomised_response,
    tv_randomised_response_sum,
)

from theory.claims.statements import STATEMENTS
from theory.mdp.discounted import DiscountedMDP
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, map_response
from theory.mdp.token_mdp import TokenMDP

DIGITS = 60
INF = mpf("inf")
EQUALITIES = {
    "soft-value",
    "telescoping",
    "endogenous-telescoping",
    "soft-rl-fixed-point",
    "irl-saddle",
    "irl-gap",
    "inverse-soft-q",
    "anchored-two-ways",
    "regularised-equality",
}


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(100):
        yield


# --- Random instances -----------------------------------------------------------------------------


def tree_layers(V, H, P):
    """Sizes and successors of the full tree."""
    sizes = [P * V**h for h in range(H)]
    return sizes, [np.arange(n * V).reshape(n, V) for n in sizes[:-1]]


def table_layers(rng, V, H, P):
    """Layers of random sizes, linked at random: states meet, and some are never reached."""
    sizes = [P, *(int(n) for n in rng.integers(1, 5, H - 1))]
    return sizes, [rng.integers(0, m, (n, V)) for n, m in itertools.pairwise(sizes)]


def random_mask(rng, shape, share):
    """Every row allows something."""
    mask = rng.random(shape) > share
    mask[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = True
    return mask


def random_instance(seed, *, extreme=False, close=None, masks=None):
    """A small instance: tree or table, masks, a prompt of weight zero, tokens that only `π̂`
    forbids, a gauge, V = 1.
    """
    rng = np.random.default_rng(seed)
    V = int(rng.integers(1, 5))
    H = int(rng.integers(1, {1: 7, 2: 6, 3: 4, 4: 4}[V]))
    P = int(rng.integers(1, 4))
    sizes, links = tree_layers(V, H, P) if rng.random() < 0.5 else table_layers(rng, V, H, P)
    alpha = 10.0 ** rng.uniform(-6, 6) if extreme else 10.0 ** rng.uniform(-1.5, 1.5)
    size = 10.0 ** rng.uniform(-6, 6) if extreme else 1.0
    low = -size * rng.random()
    rewards = [low + (size - low) * rng.random((n, V)) for n in sizes]
    masked = rng.random() < 0.4 if masks is None else masks
    allowed = [
        random_mask(rng, (n, V), 0.3) if masked and rng.random() < 0.7 else None for n in sizes
    ]
    rewards = [
        r if m is None else np.where(m, r, 0.0) for r, m in zip(rewards, allowed, strict=True)
    ]
    given = Description(
        rewards,
        links,
        rewards,
        alpha,
        reward_range=(min(low, 0.0), max(size, 0.0)),
        allowed=allowed,
    )  # logits below
    if close is None:
        logs = [rng.normal(0, 1 if rng.random() < 0.7 else 30, (n, V)) for n in sizes]
    else:
        expert = Oracle(given, 20).expert
        logs = [
            np.array([[float(max(x, -1e300)) for x in row] for row in layer]) for layer in expert
        ]
        logs = [x + close * rng.uniform(-1, 1, x.shape) for x in logs]
    logs = [x if m is None else np.where(m, x, -np.inf) for x, m in zip(logs, allowed, strict=True)]
    if close is None and rng.random() < 0.3:  # tokens that only π̂ forbids
        logs = [
            np.where(
                random_mask(rng, x.shape, 0.2) | (x == x.max(axis=1, keepdims=True)), x, -np.inf
            )
            for x in logs
        ]
    weights = rng.dirichlet(np.ones(P))
    if P > 1 and rng.random() < 0.5:
        weights[rng.integers(P)] = 0.0
    gauge = [rng.normal(0, 3, n) for n in sizes] if rng.random() < 0.5 else None
    return Description(
        rewards,
        links,
        logs,
        alpha,
        weights,
        given.reward_range,
        allowed,
        gauge,
        rl_responses={0: any_response(rng, logs, links)},
    )


def any_response(rng, logs, links):
    """A response to prompt 0 that `π̂` can give: the bounds on RL are about any."""
    state, tokens = 0, []
    for h, table in enumerate(logs):
        tokens.append(int(rng.choice(np.flatnonzero(table[state] > -np.inf))))
        state = links[h][state, tokens[-1]] if h < len(links) else 0
    return tuple(tokens)


def same(one, two, digits=45):
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(
            same(x, y, digits) for x, y in zip(one, two, strict=True)
        )
    if abs(one) == INF or abs(two) == INF:
        return one == two
    return abs(one - two) <= mpf(10) ** -digits * max(1, abs(one), abs(two))


def flat(sides):
    """Pairs of numbers, however deep the lists."""
    left, right = sides
    if isinstance(left, list | tuple):
        return [pair for each in zip(left, right, strict=True) for pair in flat(each)]
    return [(left, right)]


def no_more(left, right):
    """``left ≤ right`` to 45 digits of their own size, and to the digits asked for of the numbers
    they come from.
    """
    size = max(abs(left), abs(right))
    return left <= right or (
        size < INF and left - right <= mpf(10) ** -45 * size + mpf(10) ** -DIGITS
    )


# --- Against sums over every response -------------------------------------------------------------


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_sweeps_are_sums_over_every_response(seed, extreme):
    given = random_instance(seed, extreme=extreme)
    oracle = Oracle(given, DIGITS)
    assert oracle.prompts == [p for p, w in enumerate(given.prompt_weights) if w > 0]
    for prompt in oracle.prompts:
        swept, summed = oracle.quantities(prompt), brute_force(given, prompt, DIGITS)
        assert swept.keys() == summed.keys()
        for name, value in summed.items():
            assert same(swept[name], value), (name, swept[name], value)


def test_instances_cover_what_they_should():
    every = [random_instance(seed, extreme=True) for seed in range(40)]
    assert any(g.rewards[0].shape[1] == 1 for g in every)
    assert any(0.0 in g.prompt_weights for g in every)
    assert any(m is not None and not m.all() for g in every for m in g.allowed)
    assert min(g.alpha for g in every) < 1e-5
    assert max(g.alpha for g in every) > 1e5
    found = [brute_force(g, 0) for g in every]
    assert any(q["kl_from_expert"] == INF for q in found)
    assert any(0 < q["epsilon"] < INF for q in found)


def test_a_prompt_of_weight_zero_is_left_out_and_changes_nothing():
    given = random_instance(3, masks=False)
    alone = Oracle(given, DIGITS).quantities(0)
    P = len(given.rewards[0])
    twice = Description(
        [
            np.concatenate([given.rewards[0], np.full_like(given.rewards[0], 0.5)]),
            *given.rewards[1:],
        ],
        [np.concatenate([t, t]) if h == 0 else t for h, t in enumerate(given.next_states)],
        [np.concatenate([given.log_probs[0], given.log_probs[0]]), *given.log_probs[1:]],
        given.alpha,
        [*given.prompt_weights, *[0.0] * P],
        given.reward_range,
        rl_responses=given.rl_responses,
    )
    oracle = Oracle(twice, DIGITS)
    assert all(p < P for p in oracle.prompts)
    assert oracle.quantities(0) == alone


def test_epsilon_is_of_what_can_follow_the_prompt():
    """Prompt 1 leads to a state in which the policies differ, prompt 0 never does; nor does a
    forbidden token count.
    """
    ever = np.array([[True, False], [True, True]])
    given = Description(
        rewards=[np.zeros((2, 2)), np.zeros((2, 2))],
        next_states=[np.array([[0, 1], [1, 1]])],
        log_probs=[np.where(ever, 0.0, -np.inf), np.array([[0.0, 0.0], [0.0, -np.inf]])],
        alpha=1.0,
        prompt_weights=[0.5, 0.5],
        allowed=[ever, None],
    )
    oracle = Oracle(given, DIGITS)
    assert oracle.quantities(0)["epsilon"] == 0
    assert oracle.quantities(1)["epsilon"] == INF
    assert oracle.quantities(1)["kl_to_expert"] < INF
    assert oracle.quantities(1)["kl_from_expert"] == INF


# --- Closed forms ---------------------------------------------------------------------------------


def test_one_token_by_hand():
    """Two tokens, one step: ``π_E = (p, 1 − p)``, ``p = σ((r_0 − r_1)/α)``, against ``π̂ = (¾,
    ¼)``.
    """
    given = Description([[[0.25, 1.0]]], [], [np.log([[3.0, 1.0]])], 0.5, reward_range=(0.0, 1.0))
    three = mp.exp(
        mpf(float(np.log(3.0)))
    )  # the stored logits are not log 3, but the double nearest to it
    a = three / (three + 1)
    p = 1 / (1 + mp.exp(mpf("1.5")))
    q = Oracle(given, DIGITS).quantities(0)
    assert same(q["soft_value"], mp.log(mp.exp(mpf("0.5")) + mp.exp(2)) / 2)
    assert same(q["epsilon"], max(abs(mp.log(p / a)), abs(mp.log((1 - p) / (1 - a)))))
    assert same(q["expert_value"], p / 4 + (1 - p))
    assert same(q["policy_value"], a / 4 + (1 - a))
    assert same(q["expert_entropy"], -p * mp.log(p) - (1 - p) * mp.log(1 - p))
    assert same(q["kl_from_expert"], p * mp.log(p / a) + (1 - p) * mp.log((1 - p) / (1 - a)))
    assert same(q["kl_to_expert"], a * mp.log(a / p) + (1 - a) * mp.log((1 - a) / (1 - p)))
    assert same(q["renyi_to_expert"], mp.log(a**2 / p + (1 - a) ** 2 / (1 - p)))
    assert same(q["trajectory_tv"], abs(a - p))
    assert same(q["affinity"], mp.sqrt(a * p) + mp.sqrt((1 - a) * (1 - p)))
    assert same(q["anchored_value"], (a**2 / 4 + (1 - a) ** 2) / (a**2 + (1 - a) ** 2))
    assert (q["rl_response"], q["rl_value"], q["rl_shortfall"]) == ((0,), 0.25, 0)
    assert q["best_value"] == 1
    assert q["return_range"] == 0.75
    pair = Oracle(given, DIGITS).sides(0)["theorem-1"]
    sigma = [1 / (1 + mp.exp(-x)) for x in (mpf("-0.75"), mpf("0.5") * mp.log(a / (1 - a)))]
    assert same(pair[0], [abs(sigma[0] - sigma[1])])
    assert same(pair[1], [q["epsilon"] / 4])


@pytest.mark.parametrize("horizon", [1, 7, pytest.param(500, marks=pytest.mark.slow)])
def test_independent_steps_add_up(horizon):
    """One state a layer: divergences and soft values are sums over the steps, affinities
    products.
    """
    rng = np.random.default_rng(horizon)
    rewards, logs = ([f((1, 3)) for _ in range(horizon)] for f in (rng.random, rng.standard_normal))
    links = [np.zeros((1, 3), dtype=int)] * (horizon - 1)
    whole = Oracle(Description(rewards, links, logs, 0.3), DIGITS).quantities(0)
    steps = [
        Oracle(Description([r], [], [x], 0.3), DIGITS).quantities(0)
        for r, x in zip(rewards, logs, strict=True)
    ]
    sums = (
        "soft_value",
        "expert_value",
        "policy_value",
        "best_value",
        "return_range",
        "anchored_value",
        "rl_value",
        "expert_entropy",
        "policy_entropy",
        "kl_from_expert",
        "kl_to_expert",
        "renyi_to_expert",
    )
    for name in sums:
        assert same(whole[name], mp.fsum(q[name] for q in steps)), name
    assert same(whole["affinity"], mp.fprod(q["affinity"] for q in steps))
    assert same(whole["epsilon"], max(q["epsilon"] for q in steps))
    assert whole["rl_response"] == tuple(a for q in steps for a in q["rl_response"])
    assert (whole["trajectory_tv"] is None) == (horizon > 7)


def test_randomised_response_in_fractions():
    """``ε = log 2``: ``p = 2/3``, and the printed sum is a fraction."""
    p, q = Fraction(2, 3), Fraction(1, 3)
    total = mpf(0)
    for H in range(1, 30):
        defining = sum(
            abs(p**k * q ** (H - k) - q**k * p ** (H - k)) * Fraction(int(mp.binomial(H, k)))
            for k in range(H + 1)
        )
        value = mpf(defining.numerator) / defining.denominator / 2
        assert same(tv_randomised_response(H, mp.log(2)), value)
        total += value
        assert same(tv_randomised_response_sum(H, mp.log(2)), total)


@pytest.mark.parametrize("epsilon", ["0", "1e-12", "0.03", "2", "50", "1e9"])
def test_both_forms_of_randomised_response(epsilon):
    eps = mpf(epsilon)
    by_step = [tv_randomised_response(h, eps) for h in range(1, 61)]
    assert same(tv_randomised_response_sum(60, eps), mp.fsum(by_step))
    assert same(by_step[0], mp.tanh(eps / 2))
    assert all(0 <= x <= y + mpf(10) ** -95 for x, y in itertools.pairwise([*by_step, mpf(1)]))


def test_bounds_at_the_ends():
    assert tv_randomised_response(5, INF) == 1
    assert tv_randomised_response_sum(5, INF) == 5
    assert tv_randomised_response(0, INF) == tv_randomised_response_sum(0, INF) - 0 == 0
    assert reference.log_growth(INF) == INF
    assert reference.times(0, INF) == 0
    for eps in (mpf(0), mpf("1e-9"), mpf(1), mpf(40)):
        assert same(reference.log_growth(eps), mp.log(2 * mp.cosh(eps) - 1))
        assert same(reference.log_growth(eps), mp.log(mp.cosh(3 * eps / 2) / mp.cosh(eps / 2)))


@pytest.mark.parametrize(
    ("delta", "other"), [(0, 0), (1, -2), (3, "3.0000001"), (200, 201), (-150, 150), (-90, -91)]
)
def test_preference_tv_is_the_difference_of_logistic_functions(delta, other):
    delta, other = mpf(delta), mpf(other)
    with mp.workdps(300):
        plain = abs(1 / (1 + mp.exp(-delta)) - 1 / (1 + mp.exp(-other)))
    found = preference_tv(delta, other)
    assert abs(found - plain) <= mpf(10) ** -80 * plain


def test_more_digits_are_the_same_digits():
    given = random_instance(11, extreme=True)
    few, many = (Oracle(given, digits).quantities(0) for digits in (40, 120))
    for name, value in many.items():
        assert same(few[name], value, digits=40), name


# --- The statements -------------------------------------------------------------------------------


def test_every_statement_has_its_two_sides():
    given = random_instance(1)
    names = {statement.name for statement in STATEMENTS}
    for found in (evaluate(given), assumptions(given)):
        assert all(set(by_name) == names for by_name in found.values())
    assert {statement.name for statement in STATEMENTS if statement.equality} == EQUALITIES


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.slow] * (n >= 24)) for n in range(120)]
)
def test_theorems_hold(seed):
    close = (None, 1e-12, 1e-3, 0.3, 2.0)[seed % 5]
    given = random_instance(1000 + seed, extreme=seed % 3 == 0, close=close)
    sides, applies = evaluate(given, DIGITS), assumptions(given, DIGITS)
    for prompt, name in ((p, n) for p in sides for n in sides[p] if applies[p][n]):
        for left, right in flat(sides[prompt][name]):
            if name in EQUALITIES:
                assert same(left, right), (name, prompt, left, right)
            else:
                assert no_more(left, right), (name, prompt, left, right)


def test_what_is_no_theorem_fails():
    """At ``α = 5`` the paper's row on RL is false: `π̂` is indifferent, and RL plays the worse
    token.
    """
    given = Description([[[1.0, 0.0]]], [], [[[0.0, 0.0]]], 5.0, rl_responses={0: (1,)})
    sides, applies = evaluate(given)[0], assumptions(given)[0]
    assert not applies["theorem-2-rl"]
    left, right = sides["theorem-2-rl"]
    assert left > 5 * right
    assert same(left, 1 / (1 + mp.exp(mpf("-0.2"))))
    assert sides["rl-expert"][0] <= sides["rl-expert"][1]


def test_what_is_attained():
    """Randomised responses attain *tv-composition*; the indifferent learner *rl-expert*."""
    eps, H = 0.7, 5
    links = tree_layers(2, H, 1)[1]
    p = [
        np.array([[eps, 0.0]] * 2**h) for h in range(H)
    ]  # π̂ has odds e^ε, π_E e^{−ε}: 2 log cosh apart
    given = Description([-x for x in p], links, p, 1.0, reward_range=(-eps, 0.0))
    found = Oracle(given, DIGITS)
    assert same(found.quantities(0)["epsilon"], mpf(eps))
    assert same(*found.sides(0)["tv-composition"])
    learner = Description(
        [[[-eps, 0.0]]], [], [[[0.0, 0.0]]], 1.0, reward_range=(-eps, 0.0), rl_responses={0: (0,)}
    )
    sides = Oracle(learner, DIGITS).sides(0)["rl-average"]
    assert same(*sides)


def test_pairs_follow_the_responses_listed():
    given = random_instance(8, masks=False)
    V, H = given.rewards[0].shape[1], len(given.rewards)
    listed = [tuple([a] * H) for a in (0, V - 1, 0)]
    few = Description(
        given.rewards,
        given.next_states,
        given.log_probs,
        given.alpha,
        given.prompt_weights,
        responses={0: listed},
    )
    sides = Oracle(few, DIGITS).sides(0)
    assert len(sides["telescoping"][0]) == 3
    tvs, sharp = sides["theorem-1-sharp"]
    assert (tvs[1], sharp[1]) == (0, 0)  # the first and the last are one response
    assert tvs[0] == tvs[2]
    assert same(sides["preference-average"][0], tvs[0])


# --- Descriptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tree", "window", "table", "eos"])
def test_an_instance_is_described(kind):
    rng = np.random.default_rng(5)
    V, H, P = 2, 3, 2
    sizes = [P * V ** min(h, 1 if kind in ("window", "table") else H) for h in range(H)]
    rewards = [rng.random((n, V)) for n in sizes]
    if kind == "window":
        mdp = TokenMDP.window(rewards, 1)
    elif kind == "table":
        mdp = TokenMDP.table(
            rewards, [rng.integers(0, m, (n, V)) for n, m in itertools.pairwise(sizes)]
        )
    else:
        mdp = TokenMDP.tree(rewards, eos=1 if kind == "eos" else None)
    d = mdp.dynamics
    policy = Policy.from_logits(d, [rng.normal(size=(n, V)) for n in d.layer_sizes])
    instance = SimpleNamespace(
        mdp=mdp,
        policy=policy,
        alpha=np.array(0.7),
        responses=all_responses(d),
        rl_response=map_response(policy),
    )
    given = describe(instance)
    assert [np.shape(t) for t in given.rewards] == [(n, V) for n in d.layer_sizes]
    assert len(given.responses[0]) == len(given.responses[1]) == V**H
    assert set(given.rl_responses) == {0, 1}
    assert given.reward_range == mdp.reward_range
    assert len(given.log_normalizers) == H
    for prompt in (0, 1):
        q = Oracle(given, DIGITS).quantities(prompt)
        assert q["rl_shortfall"] == 0
        assert same(q["kl_to_expert"], brute_force(given, prompt)["kl_to_expert"])
        if kind == "tree":  # the definition of a tree: prefix s, then a, is s·V + a
            total = sum(
                rewards[h][prompt * V**h + s, a] for h, s, a in ((0, 0, 1), (1, 1, 0), (2, 2, 1))
            )
            assert (
                abs(reference.Model(given).along(given.rewards, prompt, (1, 0, 1)) - total) < 1e-12
            )


def test_batches_are_refused():
    mdp = TokenMDP.tree([np.zeros((3, 1, 2))])
    policy = Policy.from_logits(mdp.dynamics, [np.zeros((3, 1, 2))])
    responses = Responses(np.zeros(1, dtype=int), np.zeros((1, 1), dtype=int))
    batch = SimpleNamespace(
        mdp=mdp, policy=policy, alpha=1.0, responses=responses, rl_response=responses
    )
    with pytest.raises(ValueError, match="batch"):
        describe(batch)


# --- Without end ----------------------------------------------------------------------------------


def random_discounted(seed, discount=None):
    rng = np.random.default_rng(seed)
    n, V = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    gamma = discount or (0.3, 0.9, 0.999, 1 - 1e-6)[seed % 4]
    alpha = 10.0 ** rng.uniform(-3, 2)
    rewards, links = rng.random((n, V)), rng.integers(0, n, (n, V))
    logs = rng.normal(0, 2, (n, V))
    if seed % 3 == 0:
        bare = DiscountedOracle(DiscountedDescription(rewards, links, gamma, alpha, logs), 20)
        logs = np.array([[float(x) for x in row] for row in bare.expert]) + 0.01 * rng.normal(
            size=(n, V)
        )
    gauge = rng.normal(size=n) if seed % 2 else None
    return DiscountedDescription(rewards, links, gamma, alpha, logs, gauge)


def test_one_state_in_closed_form():
    """One state: every value is that of one token over ``1 − γ``."""
    given = DiscountedDescription([[0.25, 1.0]], [[0, 0]], 1 - 1e-6, 0.5, [[0.5, 0.0]])
    once = Oracle(Description([[[0.25, 1.0]]], [], [[[0.5, 0.0]]], 0.5), DIGITS).quantities(0)
    h = 1 / (1 - mpf(1 - 1e-6))
    found = evaluate_discounted(given, DIGITS)
    for name in (
        "soft_value",
        "expert_value",
        "policy_value",
        "best_value",
        "rl_value",
        "kl_from_expert",
        "kl_to_expert",
    ):
        assert same(found[name], [h * once[name]]), name
    assert same(found["epsilon"], once["epsilon"])
    assert same(
        found["regularised_policy"], [h * (once["policy_value"] + once["policy_entropy"] / 2)]
    )
    doubled = Oracle(Description([[[1.0, 0.0]]], [], [[[0.0, 0.0]]], 1.0), DIGITS).quantities(0)[
        "expert_value"
    ]
    assert same(found["anchored_value"], [h * (doubled / 4 + 1 - doubled)])  # ∝ π̂²: odds e


@pytest.mark.parametrize("seed", range(4))
def test_soft_values_are_those_of_a_long_horizon(seed):
    """``γ = ¼``: after 120 backups of plain value iteration what is left is ``γ^120``, 72
    digits.
    """
    given = random_discounted(seed, discount=0.25)
    oracle = DiscountedOracle(given, DIGITS)
    soft, best, value = ([mpf(0)] * oracle.n for _ in range(3))
    for _ in range(120):
        soft = [
            oracle.alpha * mp.log(mp.fsum(mp.exp((x - max(row)) / oracle.alpha) for x in row))
            + max(row)
            for row in oracle.q_values(oracle.rewards, soft)
        ]
        best = [max(row) for row in oracle.q_values(oracle.rewards, best)]
        value = [
            mp.fsum(mp.exp(log) * x for log, x in zip(*rows, strict=True))
            for rows in zip(oracle.policy, oracle.q_values(oracle.rewards, value), strict=True)
        ]
    assert same(oracle.soft_value, soft)
    assert same(oracle.best_value, best)
    assert same(oracle.policy_value, value)


@pytest.mark.parametrize("seed", range(8))
def test_no_deterministic_policy_is_better(seed):
    oracle = DiscountedOracle(random_discounted(seed), DIGITS)
    for table, best in (
        (oracle.rewards, oracle.best_value),
        (oracle.policy, oracle.greatest_log_prob),
    ):
        if oracle.vocab_size**oracle.n > 300:
            continue
        every = [
            oracle.deterministic_value(tokens, table)
            for tokens in itertools.product(range(oracle.vocab_size), repeat=oracle.n)
        ]
        for s in range(oracle.n):
            assert same(max(values[s] for values in every), best[s])


def test_stepwise_cloning_is_the_discounted_sum():
    given = random_discounted(3, discount=0.25)
    oracle = DiscountedOracle(given, DIGITS)
    terms = (
        mpf(1) / 4 ** (h - 1) * tv_randomised_response(h, oracle.epsilon) for h in range(1, 110)
    )
    assert same(oracle.sides()["clone-stepwise"][1][0], mp.fsum(terms))


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.slow] * (n >= 12)) for n in range(40)]
)
def test_theorems_hold_without_end(seed):
    oracle = DiscountedOracle(random_discounted(seed), DIGITS)
    applies = oracle.applies()
    for name, sides in oracle.sides().items():
        for left, right in flat(sides) if applies[name] else ():
            holds = same(left, right) if name in EQUALITIES else no_more(left, right)
            assert holds, (name, left, right)


def test_a_stationary_instance_is_described():
    rng = np.random.default_rng(0)
    mdp = DiscountedMDP.window(rng.random((4, 2)), 2, 0.9)
    logs = np.log(rng.dirichlet(np.ones(2), size=4))
    greedy = np.where(np.eye(2)[[0, 1, 1, 0]] > 0, 0.0, -np.inf)
    others = greedy[[1, 1, 1, 1]], greedy[[0, 0, 0, 0]], greedy[::-1]
    continuations = (others[0], greedy, *others[1:])
    instance = SimpleNamespace(
        mdp=mdp, policy=logs, alpha=0.5, gauge=np.zeros(4), continuations=continuations
    )
    given = describe_discounted(instance)
    assert given.rl_policy == [0, 1, 1, 0]
    assert given.continuations == [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert np.array_equal(given.next_states, [[0, 1], [2, 3], [0, 1], [2, 3]])
    assert len(evaluate_discounted(given)["soft_value"]) == 4
