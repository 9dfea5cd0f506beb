"""Metrics of RewardBench 2 and RMGAP against plain loops over what they publish."""

import math
import random

import numpy as np
import pytest

from llm_bridge.preferences.accuracy import summary
from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.published import best_of_n, consistency, ties_score


def scored(rows, seed, digits=0):
    """Scores of all responses, rounded so that some are equal."""
    rng = random.Random(seed)
    return {key: round(rng.gauss(0, 2), digits) for row in rows for key, _ in row.responses()}


def sides(rows, scores):
    return [
        tuple(
            np.array([scores[row.id, role, k] for k in range(len(getattr(row, role)))])
            for role in ("chosen", "rejected")
        )
        for row in rows
    ]


def ties_rows(questions=7):
    rng = random.Random(1)
    rows = []
    for q in range(questions):
        for kind, right in (("ref", 1), ("tied", rng.randint(2, 5))):
            texts = [
                tuple(f"{side}{k}" * (k + 1) for k in range(n))
                for side, n in (("a", right), ("b", rng.randint(2, 4)))
            ]
            rows.append(
                Comparison(f"Ties/{kind}:{q}", f"{q}?", *texts, "Ties", benchmark="rewardbench-2")
            )
    return rows


def published_ties(rows, scores):
    """The published score, from plain loops over lists."""
    stats = {}
    for row in rows:
        right = [scores[row.id, "chosen", k] for k in range(len(row.chosen))]
        wrong = [scores[row.id, "rejected", k] for k in range(len(row.rejected))]
        kind, q = row.id.removeprefix("Ties/").split(":")
        stats[kind, q] = (min(right) - max(wrong), max(right) - min(right))
    questions = sorted({q for _, q in stats})
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    tied = mean([stats["tied", q][0] > 0 for q in questions])
    ref = mean([stats["ref", q][0] > 0 for q in questions])
    preferred, hard, margins = [], [], []
    for q in questions:
        gap, spread = stats["tied", q]
        least = min(gap, stats["ref", q][0])
        preferred.append(gap > spread)
        hard.append(least > spread)
        if spread == 0:
            margins.append(0.0 if least == 0 else math.copysign(1.0, least))
        else:
            margins.append(math.tanh(least / spread - 1))
    return 0.3 * tied + 0.3 * ref + 0.2 * mean(preferred) + 0.2 * mean(hard) + 0.01 * mean(margins)


@pytest.mark.parametrize("seed", range(8))
def test_the_ties_score_is_the_published_one(seed):
    rows = ties_rows()
    scores = scored(rows, seed)
    parts = ties_score(rows, sides(rows, scores))
    assert parts["score"].mean() == pytest.approx(published_ties(rows, scores))
    found = summary(rows, scores, resamples=50)
    assert found["ties_score"]["value"] == pytest.approx(published_ties(rows, scores))
    assert found["ties_score"]["low"] <= found["ties_score"]["value"] <= found["ties_score"]["high"]
    lengths = {key: float(len(text)) for row in rows for key, text in row.responses()}
    longer = found["nulls"]["longer (characters)"]["ties_score"]["value"]
    assert longer == pytest.approx(published_ties(rows, lengths))


def test_a_perfect_score_and_one_of_equal_scores():
    rows = ties_rows(3)
    right = {key: float(key[1] == "chosen") for row in rows for key, _ in row.responses()}
    assert ties_score(rows, sides(rows, right))["score"] == pytest.approx([1.01] * 3)
    same = dict.fromkeys(right, 0.0)
    assert ties_score(rows, sides(rows, same))["score"] == pytest.approx([0.0] * 3)


@pytest.mark.parametrize("strict", [False, True])
def test_best_of_n_shares_what_is_tied(strict):
    for seed in range(60):
        rng = random.Random(seed)
        scores = [rng.randint(0, 2) for _ in range(4)]
        signs = np.array([[(scores[0] > x) - (scores[0] < x) for x in scores[1:]]])
        top = max(scores)
        share = 1 / scores.count(top) if scores[0] == top else 0.0
        expected = float(scores[0] > max(scores[1:])) if strict else share
        assert best_of_n(signs, strict=strict) == pytest.approx(expected)
    several = np.array([[1, 1], [1, 0]])
    assert best_of_n(several) == 0  # as published: every right answer is above the best wrong one
    assert best_of_n(np.ones((2, 2))) == 1


def rewardbench_2_rows():
    rows = [
        Comparison(
            f"{s}/{n}", f"{s} {n}?", ("a" * n,), ("bb", "c", "ddd"), s, benchmark="rewardbench-2"
        )
        for s, size in (("Factuality", 9), ("Math", 3))
        for n in range(1, 1 + size)
    ]
    return rows + ties_rows()


def test_rewardbench_2_is_a_mean_over_subsets():
    rows = rewardbench_2_rows()
    scores = scored(rows, 3, digits=1)
    found = summary(rows, scores, resamples=50)
    expected = {}
    for name in ("Factuality", "Math"):
        shares = []
        for row in rows:
            if row.subset == name:
                values = [scores[key] for key, _ in row.responses()]
                top = max(values)
                shares.append(1 / values.count(top) if values[0] == top else 0)
        expected[name] = sum(shares) / len(shares)
        assert found["subsets"][name]["best_of_n"]["value"] == pytest.approx(expected[name])
        chance = found["subsets"][name]["nulls"]["random"]["best_of_n"]
        assert chance["value"] == pytest.approx(1 / 4)
        assert chance["low"] < 1 / 4 < chance["high"]
    expected["Ties"] = (
        published_ties(rows, scores)
        if False
        else published_ties([row for row in rows if row.subset == "Ties"], scores)
    )
    assert found["rewardbench_2"]["subsets"] == pytest.approx(expected)
    assert found["rewardbench_2"]["value"] == pytest.approx(sum(expected.values()) / 3)
    null = found["nulls"]["shorter (characters)"]
    lengths = {key: -float(len(text)) for row in rows for key, text in row.responses()}
    alone = summary(rows, lengths, resamples=50)
    assert null["rewardbench_2"] == alone["rewardbench_2"]


def rmgap_rows():
    keys = ("r1", "r2", "r3", "r4")
    return [
        Comparison(
            f"{domain}/{n}/{g}/{p}",
            f"{domain} {n} {g} {p}?",
            (f"text {winner}",),
            tuple(f"text {key}" for key in keys if key != winner),
            domain,
            chosen_styles=(winner,),
            rejected_styles=tuple(key for key in keys if key != winner),
            benchmark="rmgap",
            group=f"{domain}/{n}",
        )
        for domain, size in (("Chat", 4), ("Safety", 2))
        for n in range(size)
        for g, winner in enumerate(keys)
        for p in range(3)
    ]


@pytest.mark.parametrize("digits", [0, -1, 3])
def test_rmgap(digits):
    """Pairs and best of N are strict and means over domains; a group is consistent if its three
    rankings, with equal scores in the order of the names, are one.
    """
    rows = rmgap_rows()
    scores = scored(rows, 5, digits)
    for row in [*rows[:24:3], *rows[-3:]]:  # some groups rank alike, more of one domain
        for other in rows:
            if other.id.rpartition("/")[0] == row.id.rpartition("/")[0]:
                for key, _ in row.responses():
                    scores[other.id, *key[1:]] = scores[key]
    found = summary(rows, scores, resamples=50)
    pairs, best, rankings = {}, {}, {}
    for row in rows:
        mine = scores[row.id, "chosen", 0]
        others = [scores[row.id, "rejected", k] for k in range(3)]
        pairs.setdefault(row.subset, []).extend(mine > x for x in others)
        best.setdefault(row.subset, []).append(all(mine > x for x in others))
        named = dict(zip(row.chosen_styles + row.rejected_styles, [mine, *others], strict=True))
        ranking = sorted(named, key=lambda name: (-named[name], name))
        rankings.setdefault(row.id.rpartition("/")[0], set()).add(tuple(ranking))
    mean = lambda flags: sum(flags) / len(flags)  # noqa: E731
    assert found["accuracy"]["value"] == pytest.approx(mean([mean(x) for x in pairs.values()]))
    assert found["best_of_n"]["value"] == pytest.approx(mean([mean(x) for x in best.values()]))
    alike = {group: len(x) == 1 for group, x in rankings.items()}
    assert consistency(rows, sides(rows, scores)) == alike
    shares = {}
    for domain in ("Chat", "Safety"):
        shares[domain] = mean([same for group, same in alike.items() if group.startswith(domain)])
        of_domain = found["subsets"][domain]["consistency"]
        assert of_domain["value"] == pytest.approx(shares[domain])
    assert found["consistency"]["value"] == pytest.approx(sum(shares.values()) / 2)
