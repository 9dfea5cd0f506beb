"""What is measured of a model is what the tables predict; a planted error shows where mathematics
says, only there.
"""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.check import points as points_module
from llm_bridge.check import truth as truth_module
from llm_bridge.check import validation as validation_module
from llm_bridge.check.points import (
    Point,
    Sampling,
    deviations,
    importance_mean,
    off_the_diagonal,
    share_point,
)
from llm_bridge.check.truth import (
    mdp_truth,
    model_truth,
    on_tree,
    over_all_pairs,
    reward_distance,
    task_truth,
)
from llm_bridge.check.validation import Validation
from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import RewardReading
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import Task, addition
from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import next_token_mle
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import bradley_terry, preference_tv, returns, shape_reward
from theory.solve.soft import soft_optimal
from theory.studies.gallery import coin_payoff
from theory.studies.sharpening import map_is_not_greedy

V, H, PROMPTS, ALPHA = 3, 4, ("A", "B"), 0.25
ENDS = (V, V + 1)
"""Ids of the prompts: a model that writes one has left the MDP."""

RANDOM = 2.0
"""Half-widths of a 95 % interval: about four standard errors."""

TOKENS = {"reward of a token", "reward of the last token", "reward of a response"}
PREFERENCES = {"preference agreement", "mean preference error (TV)"}
VALUES = {
    "value of sampling",
    "value of greedy decoding",
    "value of the MAP response",
    "value of π̂^2",
}


@pytest.fixture(scope="module")
def mdp():
    return TokenMDP.random(V, H, n_prompts=2, seed=3)


@pytest.fixture(scope="module")
def lm(mdp):
    """Trained for a moment: it has an opinion, and still writes tokens that the MDP does not
    have.
    """
    expert = soft_optimal(mdp, ALPHA).policy
    return train_on_demonstrations(
        expert, n_demonstrations=500, steps=25, hidden=16, layers=1, heads=2, lr=1e-2
    )


def validation(lm, reading, temperature=1.0, draws=600, **sampling):
    return Validation(
        lm,
        PROMPTS,
        H,
        reading=reading,
        temperature=temperature,
        end_tokens=ENDS,
        sampling=Sampling(draws=draws, pairs=800, **sampling),
    )


def points(lm, mdp, predicted, measured=None, temperatures=(1.0, 1.0), draws=600):
    """Of a model whose tree is read in one way and whose responses in another."""
    one = validation(lm, predicted, temperatures[0], draws)
    planted = one.planted(measured, temperatures[1])
    return planted.points(mdp_truth(lm, PROMPTS, mdp, ALPHA))


def off(found, limit=RANDOM):
    """Quantities with a point off the diagonal."""
    return {name for name, one in deviations(found).items() if one.largest > limit}


def of(found, quantity):
    return [point for point in found if point.quantity == quantity]


def test_all_quantities_are_there(lm, mdp):
    found = points(lm, mdp, RewardReading(ALPHA), draws=2)
    assert {point.quantity for point in found} == TOKENS | PREFERENCES | VALUES
    assert {point.unit for point in found} == {"reward", "probability", "value"}


@pytest.mark.parametrize(
    ("gauge", "terminal"), [("logits", "zero"), ("logits", "bootstrap"), ("logprob", "zero")]
)
def test_without_an_error_all_points_are_on_the_diagonal(lm, mdp, gauge, terminal):
    found = points(lm, mdp, RewardReading(ALPHA, gauge, terminal))
    assert not off(found)
    assert not off(
        [point for point in found if point.unit == "reward"], limit=1.0
    )  # not random: to rounding
    assert np.mean([point.deviation <= 1 for point in found]) > 0.9


def test_responses_that_leave_the_mdp(lm, mdp):
    one = validation(lm, RewardReading(ALPHA))
    ended = [len(ids) < H for _, ids in one._sampled[0]]
    assert 0.02 < np.mean(ended) < 0.9
    found = one.rewards(600)
    assert len(of(found, "reward of a response")) == 1200
    assert len(of(found, "reward of a token")) == sum(len(ids) - 1 for _, ids in one._sampled[0])
    assert not off(found, limit=1.0)
    assert not off(one.values(mdp_truth(lm, PROMPTS, mdp, ALPHA)))


@pytest.mark.slow
def test_coverage(lm, mdp):
    """Over seeds nineteen intervals of twenty hold what they should; the chance of fewer than 0.88
    is below 1e-3.
    """
    truth = mdp_truth(lm, PROMPTS, mdp, ALPHA)
    inside = []
    for seed in range(60):
        one = Validation(
            lm,
            PROMPTS,
            H,
            reading=RewardReading(ALPHA),
            end_tokens=ENDS,
            sampling=Sampling(draws=100, pairs=100, seed=seed),
        )
        found = [*one.preferences(truth), *one.values(truth)]
        inside += [
            p.deviation <= 1
            for p in found
            if p.quantity in PREFERENCES | {"value of sampling", "value of π̂^2"}
        ]
    assert len(inside) == 240
    assert np.mean(inside) > 0.88


# --- Planted errors -------------------------------------------------------------------------------


def test_gauge_moves_tokens_and_the_sum_by_a_constant_of_the_prompt(lm, mdp):
    found = points(lm, mdp, RewardReading(ALPHA, "logits"), RewardReading(ALPHA, "logprob"))
    assert off(found) == TOKENS
    values = ALPHA * token_tree(lm, PROMPTS, H, end_tokens=ENDS).policy.log_normalizers[0]
    for point in of(found, "reward of a response"):
        prompt = PROMPTS.index(point.label[1])
        assert point.predicted - point.measured == pytest.approx(values[prompt], abs=1e-5)


def test_gauge_moves_no_difference_of_responses(lm, mdp):
    one, two = (
        of(points(lm, mdp, RewardReading(ALPHA, gauge)), "mean preference error (TV)")
        for gauge in ("logits", "logprob")
    )
    assert one[0].predicted == pytest.approx(two[0].predicted, abs=1e-12)
    assert one[0].measured == pytest.approx(two[0].measured, abs=1e-6)


def test_terminal_rule_moves_the_last_token_and_what_is_summed(lm, mdp):
    found = points(
        lm, mdp, RewardReading(ALPHA, "logits", "zero"), RewardReading(ALPHA, "logits", "bootstrap")
    )
    assert off(found) & TOKENS == {"reward of the last token", "reward of a response"}
    assert not off(found) & VALUES
    assert [
        p.predicted - p.measured for p in of(found, "reward of the last token")
    ] == pytest.approx(
        [p.predicted - p.measured for p in of(found, "reward of a response")], abs=1e-5
    )


def test_terminal_rule_moves_preferences(lm, mdp):
    """``V̂`` after the last token differs from response to response. (Not by much here: hence
    exactly.)
    """
    zero, bootstrap = (
        points(lm, mdp, RewardReading(ALPHA, "logits", rule)) for rule in ("zero", "bootstrap")
    )
    (one,), (two,) = (of(found, "mean preference error (TV)") for found in (zero, bootstrap))
    assert abs(one.predicted - two.predicted) > 1e-4
    assert (two.measured - one.measured) == pytest.approx(two.predicted - one.predicted, abs=2e-3)


def test_temperature_of_the_tree_moves_all_but_the_greedy_response(lm, mdp):
    """Agreement and the MAP response move as far as the order of whole responses does."""
    right, found = (
        points(lm, mdp, RewardReading(ALPHA), temperatures=(t, 1.0), draws=3000) for t in (1.0, 0.5)
    )
    may = {"preference agreement", "value of the MAP response"}
    assert off(found) - may == (TOKENS | PREFERENCES | VALUES) - may - {"value of greedy decoding"}
    assert of(found, "value of greedy decoding") == of(right, "value of greedy decoding")
    for name in may:
        (one,), (other,) = of(found, name), of(right, name)
        assert abs(one.predicted - other.predicted) > 1e-4
        assert one.measured == other.measured


def test_temperature_can_move_the_map_response():
    """At ½ the law of `map_is_not_greedy` is squared token by token, and its first token
    decides.
    """
    mdp, alpha = map_is_not_greedy()
    lm = train_on_demonstrations(
        soft_optimal(mdp, alpha).policy,
        n_demonstrations=4000,
        steps=120,
        hidden=16,
        layers=1,
        heads=2,
    )
    truth = mdp_truth(lm, ["A"], mdp, alpha)
    one = Validation(
        lm,
        ["A"],
        2,
        temperature=0.5,
        end_tokens=(2,),
        sampling=Sampling(draws=2),
    )
    assert off(one.planted(temperature=1.0).values(truth)) >= {"value of the MAP response"}


def test_temperature_of_the_draws_moves_what_is_drawn(lm, mdp):
    """`EndogenousReward` reads the model at 1, whatever it was sampled at."""
    found = points(lm, mdp, RewardReading(ALPHA), temperatures=(1.0, 0.5), draws=3000)
    assert off(found) - {"value of the MAP response"} == {"value of sampling", "value of π̂^2"}


def test_mixing_the_two_temperatures(lm, mdp):
    """``softmax(f/α)`` and ``α·f``: the model sampled at `α` is not the one that `EndogenousReward`
    reads.
    """
    found = points(lm, mdp, RewardReading(ALPHA), temperatures=(ALPHA, 1.0), draws=3000)
    assert off(found) >= TOKENS | {
        "mean preference error (TV)",
        "value of sampling",
        "value of π̂^2",
    }
    assert "value of greedy decoding" not in off(found)


def test_a_factor_on_alpha_moves_no_order(lm, mdp):
    found = points(lm, mdp, RewardReading(4 * ALPHA), RewardReading(ALPHA))
    assert off(found) == TOKENS | {"mean preference error (TV)"}
    (one,), (other,) = (
        of(some, "preference agreement") for some in (found, points(lm, mdp, RewardReading(ALPHA)))
    )
    assert one.predicted == pytest.approx(other.predicted, abs=1e-12)
    assert one.measured == other.measured


def test_another_true_reward(lm, mdp):
    """Judged by another MDP than the table's: values and preferences, and no reward of the
    model.
    """
    truth = mdp_truth(lm, PROMPTS, mdp, ALPHA)
    other = mdp_truth(lm, PROMPTS, TokenMDP.random(V, H, n_prompts=2, seed=4), ALPHA)
    one = validation(lm, RewardReading(ALPHA))
    mixed = type(truth)(truth.mdp, other.judge, truth.unit, truth.bounds, truth.alpha)
    assert off([*one.preferences(mixed), *one.values(mixed)]) >= {
        "preference agreement",
        "value of greedy decoding",
    }


# --- Truths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mdp",
    [
        coin_payoff(5, 0.3),
        TokenMDP.window(
            [np.random.default_rng(h).random((2 * 2 ** min(h, 2), 2)) for h in range(5)], 2
        ),
    ],
    ids=["table", "window"],
)
def test_judged_on_its_own_states(mdp):
    """The prediction unrolls the MDP, the judge walks it as it is."""
    P = mdp.dynamics.n_prompts
    prompts, ends = PROMPTS[:P], range(2, 2 + P)
    expert = soft_optimal(mdp, 0.3).policy
    lm = train_on_demonstrations(
        expert, n_demonstrations=300, steps=10, hidden=16, layers=1, heads=2
    )
    truth = mdp_truth(lm, prompts, mdp, 0.3)
    every = all_responses(mdp.dynamics)
    texts = ["".join("ab"[a] for a in row) for row in every.tokens]
    judged = truth.judge([prompts[p] for p in every.prompts], texts)
    np.testing.assert_allclose(judged, returns(mdp, every), rtol=1e-12)
    one = Validation(
        lm,
        prompts,
        5,
        reading=RewardReading(0.3),
        end_tokens=ends,
        sampling=Sampling(draws=300),
    )
    known = on_tree(mdp, one.tree)
    assert plain_value(known, one.policy) < plain_value(
        mdp.as_tree(), soft_optimal(mdp.as_tree(), 0.3).policy
    )
    assert not off([*one.preferences(truth), *one.values(truth)])


def test_every_sampled_response_is_read(shared_models):
    """SentencePiece writes no space before a text that stands alone, and another model's text may
    have tokens other than those that were sampled.
    """
    lm = ModelSpec(shared_models / "stories260K").load()
    prompt = "Once upon a time"
    one = Validation(lm, [prompt], 2, sampling=Sampling(draws=2))
    there, letters = ids_of(lm, "▁there", "▁was"), ids_of(lm, "▁w", "a", "s")
    written = [(0, there), (0, letters)]
    assert one._texts(written)[1] == [" there was", " was"]
    assert one._readable(written)[1] == [" there was", letters]  # ▁was is a token
    for (_, ids), score in zip(written, one._scores(written), strict=True):
        assert tuple(score.ids) == ids
    assert "scored as the token ids that were sampled" in lm.text_notes.sentences()[0]


def ids_of(lm, *names):
    return tuple(lm.tokenizer.convert_tokens_to_ids(list(names)))


def test_a_response_earns_until_it_is_over(lm, mdp):
    judge = mdp_truth(lm, PROMPTS, mdp, ALPHA).judge
    whole, cut, again, nothing = judge(["B", "B", "B", "B"], ["abca", "abA", "abAa", "A"])
    first, second = mdp.rewards[0][1, 0], mdp.rewards[1][V, 1]
    assert (cut, again, nothing) == (
        pytest.approx(first + second),
        pytest.approx(first + second),
        0.0,
    )
    assert whole == pytest.approx(
        cut + mdp.rewards[2][(V + 0) * V + 1, 2] + mdp.rewards[3][((V + 0) * V + 1) * V + 2, 0]
    )


def test_another_model_as_the_truth(lm):
    """Its endogenous reward, in its own table and from its scores of texts."""
    truth = model_truth(lm, PROMPTS, 2, 0.5)
    every = all_responses(truth.mdp.dynamics)
    texts = ["".join("abcAB"[a] for a in row) for row in every.tokens]
    judged = truth.judge([PROMPTS[p] for p in every.prompts], texts)
    np.testing.assert_allclose(judged, returns(truth.mdp, every), atol=1e-5)
    assert truth.bounds[0] <= judged.min() < judged.max() <= truth.bounds[1]
    one = Validation(
        lm, PROMPTS, 2, reading=RewardReading(0.5), sampling=Sampling(draws=2, pairs=50)
    )
    agreement, error = one.preferences(truth)
    assert error.predicted == pytest.approx(0, abs=1e-12)
    assert agreement.predicted == pytest.approx(agreement.measured, abs=0.1)
    ties = [
        np.sum((0.5 / 25 + 0.5 * np.exp(x)) ** 2)
        for x in log_prob(one.policy, every).reshape(2, -1)
    ]
    assert agreement.predicted == pytest.approx(
        1 - np.mean(ties) / 2
    )  # it agrees with itself, but for equal ones


# --- Statistics -----------------------------------------------------------------------------------


def test_all_pairs_against_a_loop(monkeypatch):
    monkeypatch.setattr(truth_module, "BLOCK", 32)
    rng, n = np.random.default_rng(0), 150
    true, read = rng.integers(5, size=n) / 7, rng.normal(size=n)
    read[:20] = read[20:40]
    weights = rng.dirichlet(np.ones(n))
    agreement = error = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        delta, other = true[i] - true[j], read[i] - read[j]
        agreement += (
            weights[i] * weights[j] * (0.5 if delta * other == 0 else float(delta * other > 0))
        )
        error += weights[i] * weights[j] * abs(bradley_terry(delta) - bradley_terry(other))
    assert over_all_pairs(true, read, weights) == pytest.approx((agreement, error), abs=1e-12)


def test_reward_distance_is_up_to_the_gauge(mdp):
    """No potential moves it; it is the least RMS difference of returns, and that of pairs over
    √2.
    """
    rng, law = np.random.default_rng(0), soft_optimal(mdp, ALPHA).policy
    other = TokenMDP.tree(
        [r + 0.1 * rng.random(r.shape) for r in mdp.rewards], reward_range=(0.0, 2.0)
    )
    shaped = shape_reward(other, tuple(rng.normal(size=n) for n in mdp.dynamics.layer_sizes))
    assert max(np.abs(a - b).max() for a, b in zip(shaped.rewards, other.rewards, strict=True)) > 1
    assert reward_distance(mdp, shaped, law) == pytest.approx(reward_distance(mdp, other, law))
    assert reward_distance(other, shaped, law) == pytest.approx(0, abs=1e-6)
    every = all_responses(mdp.dynamics)
    gap = (returns(mdp, every) - returns(shaped, every)).reshape(2, -1)
    weights = np.exp(log_prob(law, every)).reshape(2, -1)
    best = gap - (weights * gap).sum(axis=1, keepdims=True)
    assert reward_distance(mdp, shaped, law) == pytest.approx(
        np.sqrt((weights * best**2).sum(axis=1).mean())
    )
    pairs = np.mean([w @ (g[:, None] - g) ** 2 @ w for g, w in zip(gap, weights, strict=True)])
    assert reward_distance(mdp, shaped, law) == pytest.approx(np.sqrt(pairs / 2))


def test_reward_distance_of_what_is_forbidden(mdp):
    """A fit without smoothing forbids what was not seen: far from the truth where the expert is,
    near where it is.
    """
    expert = soft_optimal(mdp, ALPHA).policy
    few = next_token_mle(Demonstrations.sample(expert, 30, 0), ALPHA)
    assert reward_distance(mdp, few.reward, expert) == np.inf
    assert 0 < reward_distance(mdp, few.reward, few.policy) < np.inf


def test_sums_in_another_order_tie():
    true = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])
    assert true[0] != true[1]
    assert over_all_pairs(true, np.array([0.0, 1.0]), np.array([0.5, 0.5]))[0] == 0.5


def test_what_is_never_written_counts_nowhere():
    """Neither in the scale that ties are told by, nor as 0·∞."""
    true, read = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    expected = over_all_pairs(true, read, np.array([0.5, 0.5]))
    assert expected[0] == 0.75
    for worth in (1e12, -np.inf, np.nan):
        assert (
            over_all_pairs(np.append(true, worth), np.append(read, 0.0), np.array([0.5, 0.5, 0.0]))
            == expected
        )


@pytest.mark.parametrize(
    ("true", "weights", "message"),
    [
        ([0.0, 1.0], [0.0, 0.0], "weights: must be non-negative and sum to 1, got sum 0"),
        ([0.0, 1.0], [1.0, 1.0], "got sum 2"),
        ([0.0, 1.0], [1.0, np.nan], "got sum nan"),
        ([], [], "got sum 0"),
        ([0.0, np.nan], [0.5, 0.5], "true holds nan"),
        ([0.0, -np.inf], [0.5, 0.5], "true holds -inf"),
    ],
)
def test_no_agreement_about_nothing(true, weights, message):
    with pytest.raises(ValueError, match=message):
        over_all_pairs(np.array(true), np.zeros(len(true)), np.array(weights))


def test_the_law_of_pairs(lm, mdp):
    """All of the expert, of a model that is nearly uniform: TV against draws of the expert's own
    pairs.
    """
    one = validation(lm, RewardReading(ALPHA), draws=2)
    truth = mdp_truth(lm, PROMPTS, mdp, ALPHA)
    every = all_responses(mdp.dynamics)
    true, read = returns(mdp, every).reshape(2, -1), returns(one.reward, every).reshape(2, -1)
    expert = np.exp((true - true.max(axis=1, keepdims=True)) / ALPHA)  # soft-optimal: ∝ exp(r*/α)
    expert /= expert.sum(axis=1, keepdims=True)
    for share in (0.0, 0.5, 1.0):
        law = (1 - share) / true.shape[1] + share * expert
        exact = [
            w @ preference_tv(t[:, None] - t, r[:, None] - r) @ w
            for t, r, w in zip(true, read, law, strict=True)
        ]
        found = of(one.preferences(truth, expert_share=share), "mean preference error (TV)")[0]
        assert found.predicted == pytest.approx(np.mean(exact), abs=1e-12)


def test_importance_weights():
    """The interval holds ``Σ p² x/Σ p²``; with few draws the plain ratio's bias is more than the
    interval's width.
    """
    rng = np.random.default_rng(0)
    p, x = np.array([0.5, 0.3, 0.15, 0.05]), np.array([1.0, 0.0, 0.0, 0.5])
    exact = (p**2 @ x) / (p**2).sum()
    drawn = rng.choice(4, p=p, size=(200_000, 12))
    value, error, _ = importance_mean(x[drawn], np.log(p)[drawn])
    weights = p[drawn]
    plain = ((weights * x[drawn]).sum(axis=1) / weights.sum(axis=1)).mean()
    assert abs(plain - exact) > 10 * error
    assert abs(value - exact) < abs(plain - exact) / 5
    spread = [
        importance_mean(x[some], np.log(p)[some])
        for some in drawn[:40_000, :].reshape(400, 100, 12)
    ]
    values, errors, _ = np.array(spread).T
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.15)


def test_intervals_of_shares_have_width():
    """All right in 50 draws: the probability of a wrong one may still be some percent."""
    point = share_point(("accuracy", ""), 0.98, np.ones((5, 10)), 0.95)
    assert (point.measured, point.high) == (1.0, 1.0)
    assert point.low == pytest.approx(1 / (1 + 1.959964**2 / 50))
    assert point.deviation < 1


def test_deviation():
    """Each side of the interval by itself."""
    point = Point("x", "", 1.0, 0.0, -4.0, 2.0, "value")
    assert (point.deviation, point._replace(predicted=-1.0).deviation) == (0.5, 0.25)
    sure = Point("y", "", 1.0, 1.0, 1.0, 1.0, "value")
    assert (sure.deviation, sure._replace(predicted=2.0).deviation) == (0.0, np.inf)
    assert deviations([point, point._replace(predicted=3.0), sure]) == {
        "x": (2, 0.5, 1.5, 3.0),
        "y": (1, 1.0, 0.0, 0.0),
    }
    for points in itertools.permutations([sure, sure._replace(measured=np.nan)]):
        found = deviations(points)["y"]
        assert (found.share, found.largest) == (0.5, np.inf)
        assert np.isnan(found.gap)


def test_a_tolerance_is_exceeded_as_seldom_as_it_says(monkeypatch):
    """Of rare and of common coins, at a probability that can be seen."""
    monkeypatch.setattr(points_module, "FALSE_ALARM", 0.02)
    rng, n = np.random.default_rng(0), 64
    for p in (0.003, 0.1, 0.5, 0.99):
        means = rng.binomial(n, p, size=20_000) / n
        allowed = points_module.chance(p, (0, 1), n)
        assert np.mean(np.abs(means - p) > allowed) <= 0.02
    point = Point("x", "", np.nan, 0.0, -1.0, 1.0, "value", tolerance=9.0)
    assert off_the_diagonal([point]) == [point]


def test_samples_that_all_agree_are_no_proof():
    """A model that is right in 99.5 % of its responses is right in all of 64 most of the time."""
    point = share_point(("accuracy", ""), 0.995, np.ones((1, 64)), 0.95)
    assert not off_the_diagonal([point])
    assert off_the_diagonal([point._replace(predicted=0.7)])


@pytest.mark.slow
def test_right_predictions_are_seldom_called_off(lm, mdp):
    """Of 60 validations without an error none is refused."""
    truth = mdp_truth(lm, PROMPTS, mdp, ALPHA)
    for seed in range(60):
        one = validation(lm, RewardReading(ALPHA), draws=50, seed=seed)
        assert not off_the_diagonal([*one.rewards(2), *one.values(truth)])


def test_a_beam_that_proves_nothing(monkeypatch):
    """Width 1 is greedy decoding, which misses this MAP response: the interval says that it may be
    worth anything.
    """
    mdp, alpha = map_is_not_greedy()
    expert = soft_optimal(mdp, alpha).policy
    lm = train_on_demonstrations(
        expert, n_demonstrations=4000, steps=120, hidden=16, layers=1, heads=2
    )
    one = Validation(
        lm, ["A"], 2, reading=RewardReading(alpha), end_tokens=(2,), sampling=Sampling(draws=2)
    )
    truth = mdp_truth(lm, ["A"], mdp, alpha)
    found = []
    for width in (1, 4):
        monkeypatch.setattr(validation_module, "WIDTH", width)
        found += of(one.values(truth), "value of the MAP response")
    narrow, wide = found
    assert (narrow.low, narrow.high) == pytest.approx(truth.bounds)
    assert narrow.predicted != pytest.approx(narrow.measured, abs=0.1)
    assert wide.predicted == pytest.approx(wide.measured)
    assert wide.high - wide.low < 1e-3


# --- Real models ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_addition(shared_models):
    lm, teacher, task = (
        ModelSpec(shared_models / "add-small").load(),
        ModelSpec(shared_models / "add-teacher").load(),
        addition(6, 5),
    )
    one = Validation(lm, task.prompts, 4, sampling=Sampling(draws=100))
    prefer = one.preferences(model_truth(teacher, task.prompts, 4), first=2)
    found = [*one.rewards(5), *prefer, *one.values(task_truth(lm, task))]
    assert not off(found)
    assert {p.unit for p in of(found, "value of sampling")} == {"probability"}
    wrong = one.planted(RewardReading(gauge="logprob"))
    assert off([*wrong.rewards(5), *wrong.values(task_truth(lm, task))]) == TOKENS


def test_addition_cut_short(shared_models):
    """Three tokens of four: the value after the last one counts, and the context has room to read
    it.
    """
    lm, prompts = ModelSpec(shared_models / "add-fair").load(), addition(6, 5).prompts
    reading = RewardReading(terminal="bootstrap")
    one = Validation(lm, prompts, 3, reading=reading, sampling=Sampling(draws=5))
    assert not off(one.rewards(5), limit=1.0)
    assert off(one.planted(RewardReading()).rewards(5)) == TOKENS - {"reward of a token"}


# --- Refusals -------------------------------------------------------------------------------------


def test_refusals(lm, mdp):
    with pytest.raises(ValueError, match="draws=1: must be at least 2"):
        Sampling(draws=1)
    with pytest.raises(ValueError, match="pairs=1: must be at least 2"):
        Sampling(pairs=1)
    with pytest.raises(ValueError, match="prompts: a text is given twice"):
        Validation(lm, ("A", "A"), H)
    one = validation(lm, RewardReading(), draws=2)
    truth = mdp_truth(lm, PROMPTS, mdp, ALPHA)
    with pytest.raises(ValueError, match=r"expert_share=1\.5: must be from 0 to 1"):
        one.preferences(truth, expert_share=1.5)
    with pytest.raises(ValueError, match="first=0: must be"):
        one.preferences(truth, first=0)
    with pytest.raises(ValueError, match="responses=0: must be"):
        one.rewards(0)
    with pytest.raises(
        ValueError, match="truth: 2 prompts, 3 tokens, horizon 4; must be one MDP of 2, 5"
    ):
        Validation(lm, PROMPTS, H).values(truth)
    with pytest.raises(ValueError, match=r"end_tokens=\(0, 4\): must come after the 3 tokens"):
        Validation(lm, PROMPTS, H, end_tokens=(0, 4)).values(truth)
    with pytest.raises(ValueError, match="task=odd: answers of different lengths"):
        task_truth(lm, Task("odd", PROMPTS, ("ab", "abc")))
    with pytest.raises(ValueError, match="prompts: a text is given twice"):
        task_truth(lm, Task("twice", ("A", "A"), ("ab", "ba")))
    with pytest.raises(ValueError, match="prompts: a text is given twice"):
        mdp_truth(lm, ("A", "A"), mdp, ALPHA)
