"""Estimates from draws against the exact tree: unbiased to rounding, and intervals that cover as
often as they say.
"""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from letters import biased, llama
from tiny import tiny

from llm_bridge.check import draws, sampled
from llm_bridge.check.comparison import compare
from llm_bridge.check.confidence import bounded_interval, mean_interval, share_interval
from llm_bridge.check.draws import Draws, DrawSetting, ModelPair, TemperedActor, draw
from llm_bridge.check.exact import model_instance
from llm_bridge.check.sampled import LE_CAM, estimates
from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.beam import beam_search
from llm_bridge.read.rollout import Actor, Rollout
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import addition
from theory.mdp.distances import kl
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.values import trajectory_entropy
from theory.solve.reward import preference_tv
from theory.storage.files import ascii_key

PROMPTS, H, ALPHA = ("A", "BAB"), 3, 0.7
ENDS = (4,)


def estimate(lm, expert, prompts, horizon, n, **options):
    others = {name: options.pop(name) for name in ("alpha", "confidence") if name in options}
    return sampled.estimate(lm, expert, prompts, DrawSetting(horizon, n, **options), **others)


@pytest.fixture(scope="module")
def models():
    return llama(1, spread=0.5), llama(2, spread=0.5)


@pytest.fixture(scope="module")
def instance(models):
    return model_instance(
        *models, PROMPTS, H, alpha=ALPHA, expert_temperature=0.8, end_tokens=ENDS
    ).instance


@pytest.fixture(scope="module")
def pair(models):
    lm, expert = models
    return ModelPair(TemperedActor(Actor(expert), 0.8), TemperedActor(Actor(lm), 1.0))


def exact(instance):
    """Every quantity averaged over prompts, pairs and laws by enumeration."""
    every = all_responses(instance.mdp.dynamics)
    log_e, log_p = (log_prob(x, every) for x in (instance.expert, instance.policy))
    found = {"KL(π_E‖π̂)": instance.kl_from_expert, "KL(π̂‖π_E)": instance.kl_to_expert}
    found |= {
        "entropy of π_E": trajectory_entropy(instance.expert),
        "entropy of π̂": trajectory_entropy(instance.policy),
    }
    found |= {"TV(π_E(τ), π̂(τ))": np.abs(np.exp(log_e) - np.exp(log_p)).sum(axis=-1) / 2}
    found |= {"affinity Σ √(π_E π̂)": np.exp((log_e + log_p) / 2).sum(axis=-1)}
    alpha = float(instance.alpha)
    mean_tv, mean_tanh, other_way = [], [], []
    for e, p in zip(log_e, log_p, strict=True):
        kept = e > np.log(1e-13)  # pairs of all others have less than 1e-8 between them
        e, p = e[kept], p[kept]
        mass = np.exp(e)[:, None] * np.exp(e)
        true, read = (alpha * (x[:, None] - x) for x in (e, p))
        mean_tv.append((mass * preference_tv(true, read)).sum())
        mean_tanh.append((mass * np.tanh(np.abs(true - read) / 4)).sum())
        other_way.append((mass * (true * read < 0)).sum())
    pairs = "pairs of the expert's responses"
    found |= {f"{pairs}: mean TV": mean_tv, f"{pairs}: mean tanh(α|D(τ)−D(τ')|/4)": mean_tanh}
    found |= {f"{pairs}: ordered the other way": other_way, "V^{π_E} − V^{π̂}": instance.clone_gap}
    value = -alpha * found["entropy of π_E"]
    found |= {
        "r*(τ) − V*(s₁) under π_E": value,
        "r*(τ) − V*(s₁) under π̂": value - instance.clone_gap,
    }
    badly = log_e - np.where(log_e > -np.inf, log_p, 0.0) >= np.log(4)
    found |= {"P_{π_E}[π_E ≥ 4π̂]": (np.exp(log_e) * badly).sum(axis=-1)}
    laws = np.exp(np.stack([log_e, log_p]))  # (2, P, N)
    both = laws.sum(axis=0)
    returned = np.where(log_e > -np.inf, alpha * log_e, 0.0)
    middle = (both * returned).sum(axis=-1, keepdims=True) / 2
    apart = np.divide((laws[0] - laws[1]) ** 2, both, out=np.zeros_like(both), where=both > 0)
    squares = (apart.sum(axis=-1), (both * (returned - middle) ** 2).sum(axis=-1))
    found |= {LE_CAM: np.sqrt(np.mean(squares[0]) * np.mean(squares[1]))}
    found |= {"α KL(π̂‖π_E), the regularised gap": alpha * instance.kl_to_expert}
    for name in (
        "V^{π_E} − r*(τ found)",
        "V^{π_E} − V^{π_RL}",
    ):  # of the response that is found, if it is proven
        found[name] = instance.expert_value - instance.rl_value
    rl = instance.rl_response
    ratio = (log_prob(instance.expert, rl) - log_prob(instance.policy, rl))[..., 0]
    found |= {"α KL(π_E‖π̂) − α D(τ found) + α shortfall": alpha * (instance.kl_from_expert - ratio)}
    return {name: float(np.mean(values)) for name, values in found.items()}


def rollout(prompt, tokens, ends):
    """Responses to one prompt, cut after an end token."""
    before = np.cumsum(np.isin(tokens, ends), axis=1) - np.isin(tokens, ends)
    written = torch.tensor(before == 0)
    ids = torch.cat([torch.tensor([prompt] * len(tokens)), torch.tensor(tokens) * written], dim=1)
    mask = torch.cat([torch.ones(len(tokens), len(prompt), dtype=torch.bool), written], dim=1)
    return Rollout(ids, mask, torch.zeros(written.shape), torch.ones(len(tokens), dtype=torch.bool))


def test_numbers_of_a_response_are_unbiased(models, pair, instance):
    """Weighted by the mixture of both laws, all responses give the exact values: each prompt, to
    rounding.
    """
    every = all_responses(instance.mdp.dynamics)
    laws = instance.expert, instance.policy
    for p, prompt in enumerate(PROMPTS):
        each = [log_prob(law, every)[p] for law in laws]
        kept = (
            each[0] > -np.inf
        )  # one copy of each response: after its end the tree writes the end token
        mass = sum(np.exp(x[kept]) for x in each) / 2
        written = rollout(encode_prompt(models[0], prompt, H), every.tokens[kept], ENDS)
        with torch.no_grad():
            log_e, log_p, *sums, largest, counts, ratios = draws._read(pair, written, 2**20)
        assert counts.tolist() == written.response_mask.sum(dim=1).tolist()
        assert len(ratios) == counts.sum()
        for found, log_law in ((log_e, each[0]), (log_p, each[1])):
            np.testing.assert_allclose(found, log_law[kept], atol=1e-5)
        score = float((np.exp(each[1][kept]) * each[0][kept]).sum())  # E_π̂ log π_E
        exact_sums = [
            kl(laws[0], laws[1])[p],
            kl(laws[1], laws[0])[p],
            *(trajectory_entropy(x)[p] for x in laws),
            score,
        ]
        for found, value in zip(sums, exact_sums, strict=True):
            assert mass @ found == pytest.approx(float(value), abs=1e-5)
        states = instance.mdp.dynamics.walk(every.prompts, every.tokens)
        rows = [
            [np.nan_to_num(law.log_probs[h][p, at], neginf=0.0) for h, at in enumerate(states)]
            for law in laws
        ]
        np.testing.assert_allclose(
            largest, np.abs(np.subtract(*rows)).max(axis=(0, 2))[kept], atol=1e-4
        )


NOMINAL = (0.93, 0.97)


def covered(found, truth):
    return {name: one.low <= truth[name] <= one.high for name, one in found.items()}


def as_often_as_they_say(found, shares):
    """Of 400 trials: guaranteed intervals at least so often, the others about so often."""
    assert sum(one.guaranteed for one in found.values()) == 6
    for name, share in shares.items():
        at_most = 1.0 if found[name].guaranteed or name == LE_CAM else NOMINAL[1]
        assert NOMINAL[0] <= share <= at_most, (name, share)


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say(models, pair, instance):
    """400 trials of 300 responses to each of two prompts, all drawn and read through the models.

    A share of 400 trials has a standard error of 0.011, and there are fifteen of them: over eight
    seeds they are 0.944 to 0.958, and this seed is one at which none is out by chance.
    """
    trials, n = 400, 300
    ids, truth = [encode_prompt(models[0], p, H) for p in PROMPTS], exact(instance)
    generator = torch.Generator().manual_seed(7)
    sampling = DrawSetting(H, trials * n, end_tokens=ENDS, memory=2**27)
    with torch.no_grad():
        drawn = [draw(pair, own, ids, sampling, generator) for own in (0, 1)]
    log_e, log_p = (
        log_prob(x, instance.rl_response)[:, 0] for x in (instance.expert, instance.policy)
    )
    hits = []
    for k in range(trials):
        one, two = (part(each, slice(k * n, (k + 1) * n)) for each in drawn)
        found = estimates(one, two, ALPHA, rl=(log_e, log_p, 0 * log_e))
        hits.append(covered(found, truth))
    shares = {name: float(np.mean([hit[name] for hit in hits])) for name in truth}
    assert set(shares) == set(hits[0])
    as_often_as_they_say(found, shares)


NAMES = (
    "log_expert",
    "log_policy",
    "kl_expert",
    "kl_policy",
    "entropy_expert",
    "entropy_policy",
    "score_policy",
)


def part(drawn, columns):
    return Draws(
        *(getattr(drawn, name)[:, columns] for name in (*NAMES, "largest_ratio")),
        drawn.token_ratios,
    )


def table_draws(instance, own, n, rng):
    """`Draws` of a batch of tabular policies: the same numbers by walks over tables, an independent
    path.
    """
    laws = instance.expert, instance.policy
    written = laws[own].sample(n, rng, prompts=np.zeros(n, dtype=int))
    P = written.tokens.shape[0]
    at, sums = np.arange(P)[:, None], {name: np.zeros((P, n)) for name in NAMES}
    for h, states in enumerate(instance.mdp.dynamics.walk(written.prompts, written.tokens)):
        e, q = (law.log_probs[h][at, np.broadcast_to(states, (P, n))] for law in laws)
        reached = np.exp(sums["log_expert"]), np.exp(sums["log_policy"])
        w_e, w_q = (2 * x / sum(reached) for x in reached)
        sums["kl_expert"] += w_e * (np.exp(e) * (e - q)).sum(axis=-1)
        sums["kl_policy"] += w_q * (np.exp(q) * (q - e)).sum(axis=-1)
        sums["entropy_expert"] -= w_e * (np.exp(e) * e).sum(axis=-1)
        sums["entropy_policy"] -= w_q * (np.exp(q) * q).sum(axis=-1)
        sums["score_policy"] += w_q * (np.exp(q) * e).sum(axis=-1)
        for name, law in (("log_expert", e), ("log_policy", q)):
            sums[name] += np.take_along_axis(law, written.tokens[..., h, None], axis=-1)[..., 0]
    return Draws(*(sums[name] for name in NAMES), np.zeros((P, n)), (np.zeros(1),) * P)


@pytest.mark.slow
def test_intervals_cover_between_real_models(shared_models):
    """`add-fair` against `add-teacher` on 20 sums, 400 trials of 200 responses of each to each."""
    lm, teacher = (ModelSpec(shared_models / name).load() for name in ("add-fair", "add-teacher"))
    instance = model_instance(lm, teacher, addition(20, seed=1).prompts, 4).instance
    truth, rng, hits, n, block = exact(instance), np.random.default_rng(0), [], 200, 20
    log_e, log_p = (
        log_prob(x, instance.rl_response)[:, 0] for x in (instance.expert, instance.policy)
    )
    for _ in range(400 // block):
        drawn = [table_draws(instance, own, block * n, rng) for own in (0, 1)]
        for k in range(block):
            one, two = (part(each, slice(k * n, (k + 1) * n)) for each in drawn)
            found = estimates(one, two, 1.0, rl=(log_e, log_p, 0 * log_e))
            hits.append(covered(found, truth))
    as_often_as_they_say(
        found, {name: float(np.mean([hit[name] for hit in hits])) for name in truth}
    )


@pytest.mark.parametrize("n_prompts", [1, 20])
@pytest.mark.parametrize("pairs", [50, 200, 1000])
@pytest.mark.parametrize("p", [0.001, 0.02, 0.3])
def test_intervals_of_rare_events_cover_at_least_as_often_as_they_say(p, pairs, n_prompts):
    """2,000 trials of events and of half of them: no share of 0 is certain, and none is missed more
    than 1 in 20 times.

    The probabilities of the prompts are the same, or ten of them have twice the average and ten
    have nothing.
    """
    rng, trials, missed = np.random.default_rng(0), 2000, 3 * np.sqrt(0.05 * 0.95 / 2000)
    laws = [np.full(n_prompts, p)] + (
        [np.tile([0.0, 2 * p], n_prompts // 2)] if n_prompts > 1 else []
    )
    for law in laws:
        counts = rng.binomial(pairs, law, (trials, n_prompts)).sum(axis=1)
        for of, mean in (
            (share_interval, 1.0),
            (lambda x, c: bounded_interval(x / 2, c), 0.5),
        ):
            found = {}
            for k in np.unique(counts):
                events = (np.arange(pairs * n_prompts) < k).astype(float).reshape(n_prompts, pairs)
                one = found[k] = of(events, 0.95)
                assert one.guaranteed
                assert 0 <= one.low <= one.value < one.high
                assert one.value == pytest.approx(mean * k / events.size)
                assert (one.low == 0) == (k == 0)
            inside = np.mean([found[k].low <= mean * p <= found[k].high for k in counts])
            assert inside >= 0.95 - missed, (of, law, inside)


def test_a_share_is_clopper_and_pearsons():
    """Figures of the binomial's tails: with k of n each end has the tail probability asked for."""
    events = np.zeros((2, 30))
    events[0, :4] = 1
    value, low, high, _ = share_interval(events, 0.9)
    assert value == pytest.approx(4 / 60)
    assert stats.binom.sf(3, 60, low) == pytest.approx(0.05)
    assert stats.binom.cdf(4, 60, high) == pytest.approx(0.05)
    assert share_interval(0 * events, 0.95) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 60), True))
    assert share_interval(1 + 0 * events, 0.95) == pytest.approx((1, 0.025 ** (1 / 60), 1, True))
    assert share_interval(events, 0.2) == share_interval(events, 0.5)  # tails of at most a quarter


def test_an_interval_of_bounded_numbers_is_that_of_bets_that_win_too_seldom():
    """The end is where the average of the bets' products is 1/tail; 0 and 1 are no certainty."""
    rng = np.random.default_rng(1)
    numbers = rng.beta(1, 10, (3, 70))
    value, low, high, guaranteed = bounded_interval(numbers, 0.9)
    assert guaranteed
    stakes = 0.5 ** np.arange(4 + 4)  # 2^4 is the least above √210
    for end, x in ((low, numbers), (1 - high, 1 - numbers)):
        wealth = np.mean([np.prod(1 + stake * (x / end - 1)) for stake in stakes])
        assert wealth == pytest.approx(1 / 0.05, rel=1e-6)
    assert low < value < high
    assert high - low < 0.6 * (lambda one: one.high - one.low)(
        share_interval(rng.random((3, 70)) < value, 0.9)
    )
    nothing = bounded_interval(np.zeros((1, 50)), 0.95)
    assert nothing[:2] == (0, 0)
    assert nothing.high == pytest.approx(1 - (0.025 / 7) ** (1 / 50), rel=0.02)
    assert bounded_interval(np.ones((1, 50)), 0.95) == pytest.approx((1, 1 - nothing.high, 1, True))


@pytest.mark.slow
def test_the_model_reads_what_the_tables_say(shared_models):
    """The same draws, through the models and through the tables of their trees."""
    lm, teacher = (ModelSpec(shared_models / name).load() for name in ("add-fair", "add-teacher"))
    prompts = addition(3, seed=2).prompts
    instance = model_instance(lm, teacher, prompts, 4).instance
    found = estimate(lm, teacher, prompts, 4, 400, seed=5)
    assert found.proven == 1.0
    assert found.estimates["V^{π_E} − V^{π_RL}"] == found.estimates["V^{π_E} − r*(τ found)"]
    truth = exact(instance)
    exactly = compare([instance]).closeness
    for share in ("50%", "90%", "99%"):  # the same number under the same name, up to the draws
        name = f"{share} of the expert's tokens within"
        assert found.closeness[name] == pytest.approx(exactly[name], rel=0.25), name
    off = {
        name: (one.value - truth[name]) / max((one.high - one.low) / 3.92, 1e-12)
        for name, one in found.estimates.items()
    }
    assert max(map(abs, off.values())) < 4, off
    assert found.closeness["largest in the states passed"] <= float(instance.epsilon.max()) + 1e-4


def test_one_model_at_two_temperatures_and_nothing_to_tell_apart(models):
    lm = models[0]
    same = estimate(lm, lm, PROMPTS, H, 8, end_tokens=ENDS)
    for name in ("KL(π_E‖π̂)", "KL(π̂‖π_E)"):
        assert same.estimates[name] == (0.0, 0.0, 0.0, False), name
    for name in (
        "TV(π_E(τ), π̂(τ))",
        f"{sampled.PAIRS}: mean TV",
        f"{sampled.PAIRS}: ordered the other way",
    ):
        one = same.estimates[name]
        assert one[:2] == (0.0, 0.0)
        assert 0.1 < one.high < 0.5, name  # of 16 pairs, or 32 responses
    assert same.estimates["affinity Σ √(π_E π̂)"].low < 0.9
    assert same.estimates[sampled.LE_CAM][:2] == (0.0, 0.0)
    temperatures = {"expert_temperature": 0.5, "temperature": 0.9, "end_tokens": ENDS}
    colder = estimate(lm, lm, PROMPTS, H, 2000, width=400, **temperatures)
    instance = model_instance(lm, lm, PROMPTS, H, **temperatures).instance
    for name, value in exact(instance).items():
        one = colder.estimates[name]
        assert abs(one.value - value) <= 2 * (one.high - one.low), name  # four standard errors
    _, low, high, _ = colder.estimates["KL(π_E‖π̂)"]
    assert low <= float(instance.kl_from_expert.mean()) <= high
    assert high - low < 0.2 * low


def test_a_variance_that_may_be_zero_has_an_interval_from_zero():
    """One response in fifty is worth anything: Student's interval alone would begin below zero."""
    log_expert = np.zeros((1, 50))
    log_expert[0, 0] = 1.0

    def drawn(log_policy):
        fields = dict.fromkeys((x.name for x in dataclasses.fields(Draws)), np.zeros((1, 50)))
        return Draws(**fields | {"log_expert": log_expert, "log_policy": log_policy})

    found = sampled._le_cam((drawn(log_expert - 3.0), drawn(log_expert + 3.0)), 1.0, 0.95)
    assert found.low == 0.0 < found.value < found.high
    distance = 2 * np.tanh(1.5) ** 2
    spread = 2 * np.var(np.concatenate([log_expert, log_expert]), ddof=1)
    assert found.value == pytest.approx(math.sqrt(distance * spread), rel=1e-12)


def test_four_times_as_probable_is_badly_covered():
    """At exactly four times, which the doubles of log 4 are."""
    log_policy = np.zeros((1, 4))
    log_expert = np.array([[0.0, 1.0, np.log(4), 2.0]])
    fields = dict.fromkeys((x.name for x in dataclasses.fields(Draws)), np.zeros((1, 4)))
    both = Draws(**fields | {"log_expert": log_expert, "log_policy": log_policy})
    found = estimates(both, both, 1.0, (np.zeros(1),) * 3)
    assert found["P_{π_E}[π_E ≥ 4π̂]"].value == 0.5


def test_what_is_close_is_of_the_tokens_that_the_expert_draws(models, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sampled,
        "draw",
        lambda *arguments, **options: drawn.append(draw(*arguments, **options)) or drawn[-1],
    )
    found = estimate(*models, PROMPTS, H, 50, expert_temperature=0.8).closeness
    for share in (0.5, 0.9, 0.99):
        expert, policy = (
            np.mean([quantile(x, share) for x in each.token_ratios]) for each in drawn
        )
        assert found[f"{share:.0%} of the expert's tokens within"] == pytest.approx(
            expert, rel=1e-12
        )
        assert expert != policy
        assert expert != quantile(np.concatenate(drawn[0].token_ratios), share)
    assert found["largest in the states passed"] == max(each.largest_ratio.max() for each in drawn)


def quantile(numbers, share):
    return np.quantile(numbers, share, method="inverted_cdf")


def test_quantiles_are_of_each_prompt():
    """The least number that at most the rest exceeds; of no tokens there is none."""
    numbers = np.array([4.0, 1.0, 3.0, 2.0, np.inf])
    assert sampled._quantiles(numbers).tolist() == [3.0, np.inf, np.inf]
    assert sampled._quantiles(np.arange(1.0, 101.0)[::-1]).tolist() == [50.0, 90.0, 99.0]
    assert np.isnan(sampled._quantiles(np.zeros(0))).all()


def test_blocks_do_not_matter(models, pair):
    ids = [encode_prompt(models[0], p, H) for p in PROMPTS]
    found = []
    for memory in (2**28, 2**15):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            found.append(
                draw(pair, 1, ids, DrawSetting(H, 6, end_tokens=ENDS, memory=memory), generator)
            )
    for name in (*NAMES, "largest_ratio"):
        np.testing.assert_allclose(*(getattr(each, name) for each in found), atol=1e-6)
    for one, two in zip(*(each.token_ratios for each in found), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    lengths = [len(ratios) for ratios in found[0].token_ratios]
    assert len(lengths) == len(PROMPTS)
    assert all(6 <= n <= 6 * H for n in lengths)


def test_a_pass_holds_what_both_models_need(models, monkeypatch):
    """The larger of the two says how many responses are written at once, whoever writes them."""
    lm, expert = models
    sizes, written = [], draws.generate

    def recorded(actor, prompts, *arguments, samples=1, **options):
        sizes.append(len(prompts) * samples)
        return written(actor, prompts, *arguments, samples=samples, **options)

    monkeypatch.setattr(draws, "generate", recorded)
    monkeypatch.setattr(draws, "_rows", lambda actor, *_: 3 if actor.model is lm.model else 50)
    estimate(lm, expert, PROMPTS, H, 8)
    assert sizes == [3, 3, 2] * 4


def test_a_model_of_16_bits_against_itself():
    """``D(τ_RL)`` is 0 to the last bit: both sides are read in the same way."""
    lm = tiny(seed=3)
    lm.model.bfloat16()
    found, beam = (
        estimate(lm, lm, ("ab", "the cat"), 6, 4, width=50),
        beam_search(lm, ("ab", "the cat"), 6, 50),
    )
    assert found.estimates["KL(π_E‖π̂)"] == (0.0, 0.0, 0.0, False)
    assert found.estimates["α KL(π_E‖π̂) − α D(τ found) + α shortfall"].value == pytest.approx(
        beam.shortfall.mean(), abs=1e-12
    )


def test_models_that_do_not_fit_together(models):
    lm, expert = models
    other = CausalLM(
        expert.model, letter_tokenizer(4, 3), "other"
    )  # as many tokens, which mean something else
    with pytest.raises(
        ValueError, match=r"llama-1 and other: different vocabularies .*; compare models that share"
    ):
        estimate(lm, other, PROMPTS, H, 8)
    with pytest.raises(
        ValueError, match="need 17 positions, tiny-1 has 16; use a shorter prompt or horizon"
    ):
        estimate(tiny(), tiny(seed=1, context=16), ("ab",), 15, 8)


def test_a_smaller_confidence_is_a_narrower_interval(models):
    """Of the same draws, in the ratio of Student's quantiles: 0.674 to 2.576 for many of them."""
    half, sure = (
        estimate(*models, PROMPTS, H, 400, end_tokens=ENDS, confidence=c).estimates
        for c in (0.5, 0.99)
    )
    for name in ("KL(π̂‖π_E)", "entropy of π̂", "V^{π_E} − V^{π̂}"):
        widths = [one[name].high - one[name].low for one in (half, sure)]
        assert widths[0] / widths[1] == pytest.approx(0.6745 / 2.5758, rel=0.03)
        assert half[name].value == sure[name].value


def test_long_responses_of_a_byte_model():
    """Forty tokens of a vocabulary of 264: no tree holds them."""
    found = estimate(
        tiny(seed=0), tiny(seed=1), ("ab", "the cat sat"), 40, 8, end_tokens=(257,), width=3
    )
    assert found.proven < 1.0
    value, low, high, _ = found.estimates["V^{π_E} − V^{π_RL}"]
    assert np.isnan(value)
    assert high == np.inf
    assert np.isfinite(low)
    plain = found.as_dict()
    assert json.loads(json.dumps(plain))["estimates"]["KL(pi_E||pi_hat)"]["low"] > 0
    assert plain["responses"] == 8
    assert (
        0.9
        < found.estimates["TV(π_E(τ), π̂(τ))"].value
        < found.estimates["TV(π_E(τ), π̂(τ))"].high
        <= 1.0
    )
    assert not plain["estimates"]["KL(pi_E||pi_hat)"]["guaranteed"]
    assert plain["estimates"][ascii_key("TV(π_E(τ), π̂(τ))")]["guaranteed"]


def test_what_is_known_of_the_most_probable_response(models):
    """Where it may be another than the one found, its gap has a lower end only, and the bound is of
    the one found.

    With ``r* = α log π_E + V*``: ``V^{π_E} − r*(τ) = −α H(π_E) − α log π_E(τ)``, at least ``−α
    H(π_E)`` for every `τ`.
    """
    instance = model_instance(*models, PROMPTS, H, alpha=ALPHA).instance
    rng, alpha, n = np.random.default_rng(3), ALPHA, 4000
    drawn = [table_draws(instance, own, n, rng) for own in (0, 1)]
    every = all_responses(instance.mdp.dynamics)
    log_e, log_p = (log_prob(x, every) for x in (instance.expert, instance.policy))
    order = np.argsort(-log_p, axis=1)
    rows, entropy = np.arange(len(log_e)), trajectory_entropy(instance.expert)
    for rank, unproven in ((0, []), (3, [0, 1]), (1, [1])):
        found_one = (
            order[:, rank] if len(unproven) != 1 else np.where(rows == 1, order[:, 1], order[:, 0])
        )
        e, p = log_e[rows, found_one], log_p[rows, found_one]
        shortfall = log_p.max(axis=1) - p
        assert np.flatnonzero(shortfall).tolist() == unproven
        found = estimates(*drawn, alpha, rl=(e, p, shortfall))
        gap, bound, of_rl = list(found.values())[-3:]
        assert gap.low <= float(np.mean(-alpha * (entropy + e))) <= gap.high
        truth = float(np.mean(alpha * (instance.kl_from_expert - (e - p) + shortfall)))
        assert bound.low <= truth <= bound.high
        assert truth >= np.mean(
            -alpha * (entropy + e)
        )  # the bound holds for the response that was found
        if not unproven:
            assert of_rl == gap
            continue
        assert np.isnan(of_rl.value)
        assert of_rl.high == np.inf
        nothing_known = -alpha * (entropy + np.where(shortfall > 0, 0.0, e))
        assert of_rl.low == pytest.approx(nothing_known.mean(), abs=0.05)
        for best in (
            order[:, 0],
            log_e.argmax(axis=1),
            log_e.argmin(axis=1),
        ):  # whichever response it is
            chosen = np.where(shortfall > 0, log_e[rows, best], e)
            assert of_rl.low <= float(np.mean(-alpha * (entropy + chosen)))


def test_tokens_that_a_model_forbids():
    """Logits of −∞: what the expert writes and `π̂` cannot makes one divergence infinite, and the
    other way round.
    """
    free = llama(2)
    token = int(token_tree(free, PROMPTS, 1).policy.log_probs[0].mean(axis=0).argmax())
    forbids, others = biased(token, -np.inf, seed=1), [a for a in range(7) if a != token]
    found = estimate(forbids, free, PROMPTS, H, 200)
    one = found.estimates
    assert one["KL(π_E‖π̂)"] == (np.inf, np.inf, np.inf, False)
    assert found.closeness["largest in the states passed"] == np.inf
    finite = model_instance(
        free, forbids, PROMPTS, H, tokens=others
    ).instance  # π̂ never leaves these
    assert one["entropy of π̂"].value == pytest.approx(
        float(trajectory_entropy(finite.expert).mean()), rel=0.2
    )
    assert 0 < one["KL(π̂‖π_E)"].low < one["KL(π̂‖π_E)"].value < np.inf
    assert one["TV(π_E(τ), π̂(τ))"].value < 1
    pairs = [value for name, value in one.items() if name.startswith(sampled.PAIRS)]
    assert len(pairs) == 3
    for value in pairs:  # two responses that π̂ forbids are in no order
        assert np.isnan(value[:3]).all()
    back = estimate(free, forbids, PROMPTS, H, 200).estimates
    assert back["V^{π_E} − V^{π̂}"] == (np.inf, np.inf, np.inf, False)
    assert back["KL(π̂‖π_E)"].value == np.inf
    assert np.isfinite(back["KL(π_E‖π̂)"]).all()
    assert np.isfinite(back[f"{sampled.PAIRS}: mean TV"]).all()


def test_an_interval_is_students():
    """Three numbers without skewness: mean ± t₂ s/√3, with t₂ = 4.3027 from a table."""
    numbers = np.array([[1.0, 2.0, 3.0]])
    value, low, high, guaranteed = mean_interval([numbers], 0.95)
    assert not guaranteed
    assert value == pytest.approx(2)
    assert high - value == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)
    assert value - low == pytest.approx(high - value)
    prompts = np.array(
        [[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]
    )  # the second adds no variance, nor degrees of freedom
    wide = mean_interval([prompts], 0.95)
    assert wide.high - wide.value == pytest.approx((high - value) / 2)
    assert mean_interval([prompts], 0.95, 3.0).low == 3.0
    assert mean_interval([numbers / 2, numbers / 2], 0.95).high - 2 == pytest.approx(
        2.7764 * np.sqrt(2 / 12), rel=1e-4
    )  # two parts, t₄


def test_rare_large_numbers_widen_an_interval_upwards():
    """With one number in twenty large, what was not seen is more likely to be large than small."""
    numbers = np.repeat([[0.0, 1.0]], [190, 10], axis=1)
    value, low, high, _ = mean_interval([numbers], 0.95)
    assert high - value > 1.2 * (value - low)
    mirrored = mean_interval([-numbers], 0.95)
    assert mirrored == pytest.approx((-value, -high, -low, False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 3}, "n=3: must be at least 4"),
        ({"horizon": 0}, "horizon=0"),
        ({"confidence": 1.0}, "confidence=1"),
        ({"alpha": 0.0}, "alpha=0"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"width": 0}, "width=0"),
        ({"expert_temperature": 0.0}, "expert_temperature=0"),
        ({"end_tokens": [7]}, "end_tokens: 7 is not an id"),
        (
            {"n": 10**11},
            r"n=100000000000: keeping 400,000,000,000 responses needs .* draw fewer, or from fewer",
        ),
    ],
)
def test_refusals(models, changes, message):
    options = {"horizon": H, "n": 8} | changes
    with pytest.raises(ValueError, match=message):
        estimate(*models, PROMPTS, options.pop("horizon"), options.pop("n"), **options)
