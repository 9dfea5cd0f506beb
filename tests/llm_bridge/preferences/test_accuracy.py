"""Accuracy, its intervals, its nulls and the control for length, against brute force and known
models.
"""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from llm_bridge.preferences import accuracy, intervals, length
from llm_bridge.preferences.accuracy import domain_matrix
from llm_bridge.preferences.pairs import RM_BENCH_STYLES, Comparison, read_comparisons

SHARED = (
    Path(os.environ.get("ENDORM_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
)


def pair(n, chosen="good", rejected="bad", subset="s", prompt=None):
    return Comparison(f"{subset}/{n}", prompt or f"prompt {n}", (chosen,), (rejected,), subset)


def rm_bench(n, domain="chat", chosen=("a", "bb", "ccc"), rejected=("d", "ee", "fff")):
    styles = RM_BENCH_STYLES
    return Comparison(
        f"{domain}/{n}", f"{domain} {n}", chosen, rejected, domain, None, styles, styles
    )


def by_key(comparisons, seed=0, low=0, high=4):
    """Few different scores, so that there are ties."""
    rng = np.random.default_rng(seed)
    return {key: float(rng.integers(low, high)) for c in comparisons for key, _ in c.responses()}


def summary(comparisons, scores, **options):
    """`accuracy.summary`, of scores by key or of chosen and rejected ones of each comparison."""
    if isinstance(scores, list):
        numbers = [x for sides in scores for side in sides for x in side]
        keys = [key for c in comparisons for key, _ in c.responses()]
        scores = dict(zip(keys, numbers, strict=True))
    return accuracy.summary(comparisons, scores, **options)


def bootstrap(values, weights, strata=None, units=None, resamples=2000, seed=0):
    """`intervals.bootstrap`; by default one stratum, and each row a unit of its own."""
    n = len(values)
    strata = np.zeros(n) if strata is None else strata
    units = np.arange(n) if units is None else units
    return intervals.bootstrap(values, weights, strata, units, resamples=resamples, seed=seed)


def fit_length(wins, difference, weights=None, units=None):
    """`length.fit_length`; by default equal weights, and each pair a unit of its own."""
    n = len(wins)
    weights = np.ones(n) if weights is None else weights
    units = np.arange(n) if units is None else units
    return length.fit_length(wins, difference, weights, units, confidence=0.95)


small = st.integers(0, 3).map(float)


@given(st.lists(small, min_size=1, max_size=4), st.lists(small, min_size=1, max_size=4))
def test_wins_against_brute_force(chosen, rejected):
    comparison = Comparison("s/0", "q", tuple("c" * len(chosen)), tuple("r" * len(rejected)), "s")
    expected = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(chosen, rejected)]
    sides = [(chosen, rejected)]
    assert summary([comparison], sides, resamples=2)["accuracy"]["value"] == pytest.approx(
        np.mean(expected), abs=1e-15
    )


def test_infinite_scores_are_compared():
    tied = summary([pair(0)], [([-np.inf], [-np.inf])], resamples=2)
    assert tied["accuracy"]["value"] == 0.5


def test_nan_is_no_tie():
    for sides in (([np.nan], [1.0]), ([1.0], [np.nan])):
        with pytest.raises(ValueError, match="scores of s/0: NaN"):
            summary([pair(0)], [sides])


@given(st.lists(st.tuples(*[small] * 6), min_size=1, max_size=6))
def test_rm_bench_as_published(scores):
    """The published loop: strictly greater counts, hard above the diagonal of [chosen style,
    rejected style].
    """
    comparisons = [rm_bench(n) for n in range(len(scores))]
    matrix = np.zeros((3, 3))
    for row in scores:
        for i, j in product(range(3), range(3)):
            matrix[i, j] += row[i] > row[3 + j]
    matrix /= len(scores)
    report = summary(comparisons, [(row[:3], row[3:]) for row in scores], resamples=2)
    assert report["matrix"]["chosen_by_rejected"] == pytest.approx(matrix)
    assert report["hard"]["value"] == pytest.approx(np.triu(matrix, 1).sum() / 3)
    assert report["normal"]["value"] == pytest.approx(np.diag(matrix).mean())
    assert report["easy"]["value"] == pytest.approx(np.tril(matrix, -1).sum() / 3)
    assert report["accuracy"]["value"] == pytest.approx(
        np.mean([report[level]["value"] for level in ("hard", "normal", "easy")])
    )


def test_rm_bench_overall_is_the_mean_over_domains_with_safety_as_one():
    sizes = {"chat": 5, "code": 2, "safety-refuse": 3, "safety-response": 1}
    comparisons = [rm_bench(n, domain) for domain, size in sizes.items() for n in range(size)]
    report = summary(comparisons, by_key(comparisons), resamples=50)
    for name in ("accuracy", "hard", "normal", "easy"):
        of = {domain: report["subsets"][domain][name]["value"] for domain in sizes}
        safety = (of["safety-refuse"] + of["safety-response"]) / 2
        assert report[name]["value"] == pytest.approx((of["chat"] + of["code"] + safety) / 3)


def test_rm_bench_resamples_within_domains():
    """All of chat right and all of code wrong: no resample within the domains changes that, each
    has its own bound.
    """
    comparisons = [rm_bench(n, domain) for domain in ("chat", "code") for n in range(8)]
    scores = [([1] * 3, [0] * 3)] * 8 + [([0] * 3, [1] * 3)] * 8
    overall = summary(comparisons, scores, resamples=50)["accuracy"]
    bound = (0.025 / 2) ** (1 / 8)
    assert list(overall.values()) == pytest.approx([0.5, bound / 2, 1 - bound / 2])


def test_plain_overall_is_the_mean_over_comparisons():
    comparisons = [pair(n, subset=s) for s, size in (("a", 3), ("b", 1)) for n in range(size)]
    report = summary(comparisons, [([1], [0])] * 3 + [([0], [1])], resamples=50)
    assert report["accuracy"]["value"] == 0.75
    assert report["subsets"]["a"]["accuracy"]["value"] == 1
    assert report["subsets"]["b"]["accuracy"]["value"] == 0
    assert "hard" not in report
    assert "domains" not in report


def test_ties_are_counted_and_are_halves():
    report = summary(
        [pair(n) for n in range(4)], [([0], [0]), ([1], [0]), ([0], [0]), ([0], [1])], resamples=10
    )
    assert report["ties"] == 2
    assert report["accuracy"]["value"] == 0.5
    tied = summary([rm_bench(0)], [([0, 0, 0], [0, 0, 0])], resamples=10)
    assert tied["ties"] == 9
    assert tied["accuracy"]["value"] == 0


@pytest.mark.parametrize("make", [pair, rm_bench])
def test_the_order_does_not_matter(make):
    comparisons = [make(n) for n in range(12)]
    scores = by_key(comparisons)
    assert summary(comparisons, scores) == summary(comparisons[::-1], scores)


def test_a_summary_is_json_and_says_how_it_was_made():
    comparisons = [pair(n, "x" * (n + 1), "yyy") for n in range(15)] + [rm_bench(0)]
    report = summary(
        comparisons, by_key(comparisons), tolerance=0.2, resamples=30, seed=3, confidence=0.9
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert [report[k] for k in ("tolerance", "resamples", "seed", "confidence")] == [
        0.2,
        30,
        3,
        0.9,
    ]
    assert (report["comparisons"], report["pairs"]) == (16, 24)


def test_bootstrap_against_the_plain_loop():
    rng = np.random.default_rng(0)
    values = rng.random((40, 2))
    draws = bootstrap(values, np.ones(40), resamples=4000, seed=1)
    loop = np.array([values[rng.integers(40, size=40)].mean(0) for _ in range(4000)])
    assert draws.mean(0) == pytest.approx(values.mean(0), abs=0.005)
    assert draws.std(0) == pytest.approx(loop.std(0), rel=0.08)
    assert np.array_equal(draws, bootstrap(values, np.ones(40), resamples=4000, seed=1))
    assert not np.array_equal(draws, bootstrap(values, np.ones(40), resamples=4000, seed=2))


def test_bootstrap_draws_units_together_and_strata_apart():
    values = np.repeat([[0.0], [1.0]], 50, axis=0)
    fixed = bootstrap(values, np.ones(100), strata=["a"] * 50 + ["b"] * 50)
    assert fixed == pytest.approx(0.5)
    assert len(np.unique(fixed.round(12))) == 1
    together = bootstrap(values, np.ones(100), units=["a"] * 50 + ["b"] * 50, resamples=500)
    assert set(np.unique(together)) == {0, 0.5, 1}
    weighted = bootstrap(values, np.repeat([3.0, 1.0], 50), strata=["a"] * 50 + ["b"] * 50)
    assert weighted == pytest.approx(0.25)


def test_the_interval_covers():
    """Of Bernoulli draws with a known mean: about as often as it says."""
    rng, mean, n, covered = np.random.default_rng(0), 0.7, 100, 0
    for seed in range(400):
        wins = (rng.random((n, 1)) < mean).astype(float)
        low, high = np.quantile(
            bootstrap(wins, np.ones(n), resamples=400, seed=seed), [0.025, 0.975]
        )
        covered += low <= mean <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_the_interval_of_a_perfect_score_is_not_a_point():
    """`P(20 of 20 right) = 0.025` at the lower bound."""
    report = summary([pair(n) for n in range(20)], [([1], [0])] * 20)
    assert report["accuracy"]["value"] == report["accuracy"]["high"] == 1
    assert report["accuracy"]["low"] ** 20 == pytest.approx(0.025)
    report = summary([pair(n) for n in range(20)], [([0], [1])] * 20)
    assert (1 - report["accuracy"]["high"]) ** 20 == pytest.approx(0.025)


def test_an_interval_has_width_where_all_resamples_agree():
    """One prompt, or ties only: resampling shows nothing of what is not known."""
    tail = 0.025
    one = summary(
        [Comparison("s/0", "q", ("a", "bb"), ("c", "dd"), "s")], [([1.0, 3.0], [2.0, 0.0])]
    )
    assert one["accuracy"] == pytest.approx(
        {"value": 0.75, "low": 0.75 * tail, "high": 1 - 0.25 * tail}
    )
    above = one["nulls"]["shorter (characters)"]["accuracy_above"]  # of numbers from -1 to 1
    assert above == pytest.approx({"value": 0.25, "low": 1.25 * tail - 1, "high": 1 - 0.75 * tail})
    ties = summary([pair(n) for n in range(5)], [([1.0], [1.0])] * 5)["accuracy"]
    assert ties == pytest.approx(
        {"value": 0.5, "low": 0.5 * tail**0.2, "high": 1 - 0.5 * tail**0.2}
    )


def test_the_interval_of_a_rare_event_covers():
    """Where most samples hold no loss: it is in their intervals too."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        lost = rng.random(20) < 0.02
        found = summary(
            [pair(n) for n in range(20)], [([1.0], [2.0 * x]) for x in lost], resamples=200
        )["accuracy"]
        inside += found["low"] <= 0.98 <= found["high"]
    assert inside >= 190


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 1)), np.zeros(0)), r"values of shape \(0, 1\): must be at least one row"),
        ((np.array([[1.0], [np.nan]]), np.ones(2)), "all of it finite"),
        (
            (np.array([[1.0], [0.0]]), np.array([0.0, 1.0])),
            "weights=0.0: must be positive and finite",
        ),
    ],
)
def test_no_resample_has_a_mean_of_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(*arguments, resamples=50)
    with pytest.raises(ValueError, match="resamples=0: must be at least 1"):
        bootstrap(np.ones((2, 1)), np.ones(2), resamples=0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tolerance": np.nan}, "tolerance=nan: must be a share"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"confidence": np.nan}, "confidence=nan: must be between 0 and 1"),
        ({"confidence": 95}, "confidence=95"),
        ({"resamples": 0}, "resamples=0"),
    ],
)
def test_options_of_a_summary_are_in_range(option, message):
    with pytest.raises(ValueError, match=message):
        summary([pair(0)], [([1.0], [0.0])], **option)


def test_pairs_of_one_prompt_are_not_independent():
    """Each comparison ten times over: the interval must be that of the prompts."""
    once = [pair(n, prompt=f"p{n}") for n in range(30)]
    often = [pair(f"{n}-{k}", prompt=f"p{n}") for n in range(30) for k in range(10)]
    scores = [([float(n % 3 > 0)], [0.5]) for n in range(30)]
    narrow = summary(once, scores)["accuracy"]
    repeated = summary(often, [scores[n] for n in range(30) for _ in range(10)])["accuracy"]
    assert repeated["value"] == pytest.approx(narrow["value"])
    assert repeated["high"] - repeated["low"] == pytest.approx(
        narrow["high"] - narrow["low"], abs=0.04
    )


@pytest.mark.parametrize("make", [pair, rm_bench])
def test_a_random_score_is_in_its_range(make):
    comparisons = [make(n) for n in range(40)]
    random = summary(comparisons, by_key(comparisons), resamples=2)["nulls"]["random"]["accuracy"]
    rng, inside = np.random.default_rng(0), 0
    C, R = len(comparisons[0].chosen), len(comparisons[0].rejected)
    for _ in range(500):
        chosen, rejected = rng.normal(size=(40, C, 1)), rng.normal(size=(40, 1, R))
        inside += random["low"] <= (chosen > rejected).mean() <= random["high"]
    assert 0.92 <= inside / 500 <= 0.98


def test_nulls_by_hand():
    comparisons = [pair(0, "a", "bb"), pair(1, "aaa", "b"), pair(2, "aa", "bb"), pair(3, "a", "bb")]
    tokens = {
        key: (1.0 if key[1] == "chosen" else 2.0) for c in comparisons for key, _ in c.responses()
    }
    report = summary(comparisons, [([1], [0])] * 4, tokens=tokens, resamples=200)
    values = {name: null["accuracy"]["value"] for name, null in report["nulls"].items()}
    assert values == {
        "random": 0.5,
        "shorter (characters)": 0.625,
        "longer (characters)": 0.375,
        "shorter (tokens)": 1,
        "longer (tokens)": 0,
    }
    above = report["nulls"]["shorter (characters)"]["accuracy_above"]
    assert above["value"] == 0.375
    assert 0 <= above["low"] <= above["value"] <= above["high"]
    same = report["nulls"]["shorter (tokens)"][
        "accuracy_above"
    ]  # on four prompts, which is not yet on all
    assert same == pytest.approx({"value": 0, "low": 0.025**0.25 - 1, "high": 1 - 0.025**0.25})
    assert set(report["length_controlled"]) == {"characters", "tokens"}


@pytest.mark.parametrize(
    ("n", "chosen", "rejected", "variance"),
    [(100, 1, 1, 1 / 4), (50, 2, 3, 6 / (12 * 6)), (200, 3, 3, 7 / (12 * 9))],
)
def test_the_range_of_a_random_score_is_that_of_mann_and_whitneys_u(n, chosen, rejected, variance):
    """``(C + R + 1)/(12 C R)`` is the variance of the share of pairs that a random score orders."""
    rows = [Comparison(f"s/{k}", f"{k}", ("a",) * chosen, ("b",) * rejected, "s") for k in range(n)]
    scores = [(np.arange(chosen) + 0.5, np.arange(rejected))] * n
    random = summary(rows, scores, resamples=50)["nulls"]["random"]["accuracy"]
    half = 1.959964 * np.sqrt(variance / n)
    assert (random["low"], random["high"]) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize(("chosen", "rejected"), [(1, 3), (3, 1), (2, 3)])
def test_scores_of_pairs_are_read_row_by_row(chosen, rejected):
    """The pair of chosen `i` and rejected `j` of `R` is number ``i·R + j``."""
    row = Comparison("s/0", "Why?", ("a",) * chosen, ("b",) * rejected, "s")
    right = np.random.default_rng(0).random((chosen, rejected)) < 0.5
    scores = {
        ("s/0", "pair", i * rejected + j): 1.0 if right[i, j] else -1.0
        for i in range(chosen)
        for j in range(rejected)
    }
    assert summary([row], scores, resamples=50)["accuracy"]["value"] == right.mean()
    with pytest.raises(ValueError, match="scores"):
        summary([row], dict(list(scores.items())[:-1]), resamples=50)


def test_matched_pairs_by_hand():
    lengths = [(100, 90), (100, 89), (10, 10), (10, 1)]
    comparisons = [pair(n, "c" * a, "r" * b) for n, (a, b) in enumerate(lengths)]
    report = summary(comparisons, [([1], [0]), ([0], [1]), ([0], [1]), ([0], [1])], resamples=50)
    matched = report["length_controlled"]["characters"]["matched"]
    assert (matched["comparisons"], matched["pairs"], matched["value"]) == (2, 2, 0.5)
    assert matched["shorter"]["value"] == 0.25
    nothing = summary(comparisons[3:], [([1], [0])])["length_controlled"]["characters"]["matched"]
    assert (nothing["comparisons"], nothing["value"]) == (0, None)


def test_logistic_fit_finds_the_model_it_was_drawn_from():
    rng = np.random.default_rng(0)
    x = rng.normal(100, 300, size=40_000)
    y = (rng.random(40_000) < expit(0.8 - 0.005 * x)).astype(float)
    fit = fit_length(y, x)
    assert fit.value == pytest.approx(expit(0.8), abs=0.01)
    assert fit.log_odds_per_100 == pytest.approx(-0.5, abs=0.02)
    assert fit.low < expit(0.8) < fit.high
    assert fit.high - fit.low < 0.02
    assert fit.note == ""
    assert abs(y.mean() - fit.value) > 0.05  # the raw accuracy is another one


def test_logistic_fit_solves_its_equations():
    """At the maximum the residuals are orthogonal to 1 and to the difference; a tie is half a win,
    half a loss.
    """
    rng = np.random.default_rng(1)
    x, y, w = rng.standard_t(2, 200) * 500, rng.choice([0, 0.5, 1], 200), rng.random(200)
    fit = fit_length(y, x, w)
    p = expit(np.log(fit.value / (1 - fit.value)) + fit.log_odds_per_100 / 100 * x)
    assert w @ (y - p) == pytest.approx(0, abs=1e-9)
    assert (w * x) @ (y - p) == pytest.approx(0, abs=1e-6)
    split = fit_length(
        np.concatenate([np.ceil(y), np.floor(y)]),
        np.tile(x, 2),
        np.tile(w, 2) / 2,
        np.tile(np.arange(200), 2),
    )
    assert split.value == pytest.approx(fit.value, abs=1e-10)
    assert split.low == pytest.approx(fit.low, abs=1e-9)


def test_logistic_interval_covers_with_dependent_pairs():
    """Nine equal pairs a prompt: an interval that takes them for independent would cover about half
    the time.
    """
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.normal(size=80)
        y = (rng.random(80) < expit(0.5 + x)).astype(float)
        fit = fit_length(np.repeat(y, 9), np.repeat(x, 9), units=np.repeat(np.arange(80), 9))
        covered += fit.low <= expit(0.5) <= fit.high
    assert 0.91 <= covered / 300 <= 0.985


def test_in_the_fit_each_comparison_weighs_as_much_as_another():
    """Where all lengths are equal the fit is the accuracy, whatever the number of pairs."""
    one = [Comparison(f"s/{n}", f"p{n}", ("a",), ("b",), "s") for n in range(10)]
    many = [Comparison(f"s/{n}", f"p{n}", ("a", "c"), ("b", "d", "e"), "s") for n in range(10, 20)]
    report = summary(one + many, by_key(one + many), resamples=10)
    fit = report["length_controlled"]["characters"]["logistic"]
    assert fit["value"] == pytest.approx(report["accuracy"]["value"], abs=1e-12)
    assert fit["low"] < fit["value"] < fit["high"]


@pytest.mark.parametrize(
    ("wins", "difference", "value", "note"),
    [
        (
            [1, 1, 0, 0],
            [1, 2, -1, -2],
            None,
            "separated: wins where the length difference is above -1",
        ),
        (
            [1, 1, 0, 0],
            [-1, -2, 1, 2],
            None,
            "separated: wins where the length difference is below 1",
        ),
        ([1, 1, 0, 0], [1, 2, 1, -2], None, "separated"),
        ([1, 1, 0, 0], [-1, -2, -1, 2], None, "separated"),
        ([1, 0.5, 0], [3, 2, 1], None, "separated"),
        ([1, 1], [1, 2], 1, "every pair is won"),
        ([0, 0], [0, 2], 0, "every pair is lost"),
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.25, "4 independent prompts: too few"),
        ([1, 0], [7, 7], None, "the length difference is the same"),
    ],
)
def test_logistic_fit_says_what_the_data_do_not_determine(wins, difference, value, note):
    fit = fit_length(np.array(wins), np.array(difference))
    assert fit.value == (value if value is None else pytest.approx(value))
    assert (fit.low, fit.high) == (None, None)
    assert fit.note.startswith(note)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 0.5, 1])), min_size=1, max_size=30)
)
def test_logistic_fit_never_diverges(data):
    x, y = np.array(data, dtype=float).T
    fit = fit_length(y, x)
    assert fit.value is not None or fit.note.startswith(
        ("separated", "the length difference is the same")
    )
    mirrored = fit_length(1 - y, -x)
    assert (fit.value is None) == (mirrored.value is None)
    if fit.value is not None:
        assert mirrored.value == pytest.approx(1 - fit.value, abs=1e-8)


@pytest.mark.parametrize(
    ("wins", "difference", "weights", "message"),
    [
        ([], [], None, "weights: of 0 pairs none counts"),
        ([1.0, 0.0], [1.0, 2.0], [0.0, 0.0], "weights: of 2 pairs none counts"),
        ([1.0, np.nan], [1.0, 2.0], None, "wins hold nan: must be from 0 to 1"),
        (
            [1.0, 0.0, 0.0, 1.0],
            [1.0, np.nan, 3.0, 4.0],
            None,
            "difference hold nan: must be finite",
        ),
        ([1.0, 0.0], [1.0, 2.0], [1.0, -1.0], "weights hold -1: must be finite and not negative"),
    ],
)
def test_no_fit_of_nothing(wins, difference, weights, message):
    with pytest.raises(ValueError, match=message):
        fit_length(
            np.array(wins), np.array(difference), None if weights is None else np.array(weights)
        )


def test_pairs_of_weight_zero_do_not_count():
    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    y = (rng.random(60) < expit(x)).astype(float)
    more = np.r_[y, 1 - y[:5]], np.r_[x, 1e6 * np.ones(5)], np.r_[np.ones(60), np.zeros(5)]
    assert fit_length(*more) == fit_length(y, x)


def dsp(n, domains=("academy", "business", "normal")):
    for domain in domains:
        others = tuple(d for d in domains if d != domain)
        yield Comparison(
            f"{domain}/{n}", f"q{n}", (domain,), others, domain, domain, (domain,), others
        )


def test_a_domain_matrix_needs_the_domain_of_each_response():
    row = Comparison("a/0", "Why?", ("x",), ("y",), "a", None, ("a",), ())
    with pytest.raises(ValueError, match="a/0: 1 domains for 2 responses; give DSP's rows"):
        domain_matrix([row], {("a/0", "chosen", 0): 2.0, ("a/0", "rejected", 0): 1.0})


def test_domain_matrix_against_brute_force():
    comparisons = [c for n in range(7) for c in dsp(n)]
    scores = by_key(comparisons)
    sums = {}
    for c in comparisons:
        texts = {text: scores[key] for key, text in c.responses()}
        for name, other in product(texts, texts):
            if name != other:
                win = (
                    1.0
                    if texts[name] > texts[other]
                    else 0.5
                    if texts[name] == texts[other]
                    else 0.0
                )
                sums.setdefault((c.subset, name), []).append(win)
    matrix = domain_matrix(comparisons, scores)
    for (row, column), wins in sums.items():
        assert matrix[row][column] == pytest.approx(np.mean(wins))
    report = summary(comparisons, scores, resamples=10)
    assert report["domains"] == matrix
    for domain in matrix:
        assert report["subsets"][domain]["accuracy"]["value"] == pytest.approx(
            matrix[domain][domain]
        )


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, r"scores have nothing for \('s/0', 'chosen', 0\)"),
        ([([1], [np.nan])], "scores of s/0: NaN"),
    ],
)
def test_scores_that_do_not_fit(scores, message):
    with pytest.raises(ValueError, match=message):
        summary([pair(0)], scores)


def test_comparisons_that_cannot_be_summarised():
    with pytest.raises(ValueError, match="no comparison"):
        summary([], {})
    with pytest.raises(ValueError, match="2 comparisons have the id 's/0'"):
        accuracy.summary([pair(0), pair(0)], {})
    with pytest.raises(ValueError, match=r"tokens have nothing for"):
        summary([pair(0)], [([1], [0])], tokens={})


@pytest.mark.parametrize(
    ("domain", "published"), [("chat", (0.97, 0.64, 0.19)), ("code", (0.75, 0.48, 0.23))]
)
def test_shorter_wins_on_rm_bench(domain, published):
    path = SHARED / "rm-bench" / f"{domain}_filtered.json"
    if not path.is_file():
        pytest.skip(f"no {path}: set ENDORM_SHARED to the folder that holds data/")
    comparisons, problems = read_comparisons(path)
    shorter = {key: -float(len(text)) for c in comparisons for key, text in c.responses()}
    report = summary(comparisons, shorter, resamples=200)
    null = report["nulls"]["shorter (characters)"]
    levels = ("hard", "normal", "easy")
    assert problems == []
    assert [round(report[level]["value"], 2) for level in levels] == list(published)
    assert [null[level] for level in levels] == [report[level] for level in levels]
    assert report["length_controlled"]["characters"]["logistic"]["note"].startswith("separated")
