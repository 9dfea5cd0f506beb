"""The Bradley–Terry fit and its calibration against plain loops and a general optimiser."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.reward_head import (
    PENALTIES,
    Pairs,
    RewardHead,
    calibration,
    fit_head,
    split,
)


def sample(n=30, width=4, seed=0):
    """Comparisons of two prompts each, some with several responses, and features of them."""
    rng = np.random.default_rng(seed)
    rows = [
        Comparison(f"s/{k}", f"{k // 2}?", ("a",) * (1 + k % 2), ("b",) * (1 + k % 3), "s")
        for k in range(n)
    ]
    true = np.arange(width) - 1.0
    features = {}
    for row in rows:
        for key, _ in row.responses():
            x = rng.normal(size=width) * np.array([1.0, 10.0, 0.1, 1.0, 2.0, 3.0][:width])
            features[key] = x + (0.3 if key[1] == "chosen" else 0) * np.sign(true)
    return rows, features


def loss(theta, rows, features, penalty, scale):
    """Mean over comparisons of the mean over pairs, and the penalty in standardised features."""
    total = 0.0
    for row in rows:
        terms = []
        for i in range(len(row.chosen)):
            for j in range(len(row.rejected)):
                d = features[row.id, "chosen", i] - features[row.id, "rejected", j]
                terms.append(math.log1p(math.exp(-float(theta @ d))))
        total += sum(terms) / len(terms) / len(rows)
    return total + penalty / 2 * float(((theta * scale) ** 2).sum())


def scale_of(rows, features):
    squares = []
    for row in rows:
        ds = [
            features[row.id, "chosen", i] - features[row.id, "rejected", j]
            for i in range(len(row.chosen))
            for j in range(len(row.rejected))
        ]
        squares.append(np.mean([d**2 for d in ds], axis=0))
    return np.sqrt(np.mean(squares, axis=0))


@pytest.mark.parametrize("width", [2, 4])
def test_the_fit_is_the_minimum_of_the_penalised_likelihood(width):
    rows, features = sample(width=width)
    theta, chosen = fit_head(Pairs.of(rows, features))
    scale, penalty = scale_of(rows, features), chosen["penalty"]
    start = np.zeros(width)
    best = minimize(
        loss,
        start,
        args=(rows, features, penalty, scale),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000},
    )
    np.testing.assert_allclose(theta * scale, best.x * scale, atol=1e-5)
    for k in range(width):  # and no direction goes down
        for step in (1e-4, -1e-4):
            moved = theta + step * np.eye(width)[k] / scale
            assert loss(moved, rows, features, penalty, scale) > loss(
                theta, rows, features, penalty, scale
            )


def test_more_features_than_pairs():
    """In the span of the pairs the minimum is the one of all features."""
    rows, _ = sample(n=10)
    rng = np.random.default_rng(1)
    features = {key: rng.normal(size=60) for row in rows for key, _ in row.responses()}
    pairs = Pairs.of(rows, features)
    theta, chosen = fit_head(pairs)
    scale, penalty = scale_of(rows, features), chosen["penalty"]
    gradient = np.zeros(60)
    for d, w in zip(pairs.differences, pairs.weights, strict=True):
        gradient -= w * d / (1 + math.exp(float(theta @ d)))
    np.testing.assert_allclose(gradient / scale + penalty * theta * scale, 0, atol=1e-10)


def test_the_penalty_is_that_of_the_least_held_out_loss():
    rows, features = sample(n=24)
    pairs = Pairs.of(rows, features)
    _, chosen = fit_head(pairs, folds=3)
    scale = scale_of(rows, features)
    prompts = sorted({row.prompt for row in rows}, key=lambda text: f'"{text}"')
    expected = {}
    for penalty in PENALTIES:
        total = 0.0
        for fold in range(3):
            train = [row for row in rows if prompts.index(row.prompt) % 3 != fold]
            held = [row for row in rows if prompts.index(row.prompt) % 3 == fold]
            # the penalty of a fold is on the scale of all
            best = minimize(
                loss,
                np.zeros(4),
                args=(train, features, penalty, scale),
                method="BFGS",
                options={"gtol": 1e-9},
            )
            total += loss(best.x, held, features, 0.0, scale) * len(held) / len(rows)
        expected[f"{penalty:g}"] = total
    assert chosen["log_loss"] == pytest.approx(expected, abs=1e-6)
    assert f"{chosen['penalty']:g}" == min(expected, key=expected.get)


def test_a_split_keeps_prompts_together_and_depends_on_nothing_else():
    rows, _ = sample(n=40)
    train, held = split(rows, 0.5, seed=3)
    assert not {row.prompt for row in train} & {row.prompt for row in held}
    assert {row.id for row in train} | {row.id for row in held} == {row.id for row in rows}
    fewer, _ = split(rows[::-1][:30], 0.5, seed=3)
    assert {row.id for row in fewer} == {row.id for row in train} & {r.id for r in rows[10:]}
    assert [row.id for row in split(rows, 0.5, seed=4)[0]] != [row.id for row in train]
    with pytest.raises(
        ValueError, match=r"of 2 comparisons none is held-out data .*: give more rows"
    ):
        split(rows[:2], 1 - 1e-12, seed=0)


def test_calibration_is_counted_by_hand():
    rng = np.random.default_rng(5)
    margins, weights = rng.normal(size=200) * 2, rng.uniform(0.5, 1.5, size=200)
    found = calibration(margins, weights, np.arange(200), bins=5, resamples=100)
    total = sum(weights)
    logs = briers = right = 0.0
    bins = {}
    for m, w in zip(margins.tolist(), weights.tolist(), strict=True):
        p = 1 / (1 + math.exp(-m))
        logs -= w * math.log(p) / total
        briers += w * (1 - p) ** 2 / total
        right += w * (m > 0) / total
        bins.setdefault(int((max(p, 1 - p) - 0.5) * 10), []).append((w, max(p, 1 - p), m > 0))
    assert found["log_loss"]["value"] == pytest.approx(logs)
    assert found["brier"]["value"] == pytest.approx(briers)
    assert found["accuracy"]["value"] == pytest.approx(right)
    assert len(found["reliability"]) == len(bins)
    for k, one in zip(sorted(bins), found["reliability"], strict=True):
        share = sum(w for w, _, _ in bins[k])
        assert one["pairs"] == len(bins[k])
        assert (one["from"], one["to"]) == pytest.approx((0.5 + k / 10, 0.5 + (k + 1) / 10))
        assert one["confidence"] == pytest.approx(sum(w * c for w, c, _ in bins[k]) / share)
        assert one["accuracy"]["value"] == pytest.approx(sum(w * r for w, _, r in bins[k]) / share)
    for name in ("accuracy", "log_loss", "brier"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_the_true_reward_is_calibrated():
    """Winners drawn with the probabilities of the margins: each bin is as right as confident."""
    rng = np.random.default_rng(0)
    margins = rng.normal(size=20_000) * 2
    won = rng.uniform(size=len(margins)) < 1 / (1 + np.exp(-margins))
    ones = np.ones(len(margins))
    found = calibration(np.where(won, margins, -margins), ones, np.arange(len(margins)))
    for one in found["reliability"]:
        assert one["accuracy"]["value"] == pytest.approx(one["confidence"], abs=0.03)


def test_another_file_is_no_head(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.ones((2, 2)), model=np.array("m"))
    with pytest.raises(ValueError, match="no reward head; give one written by endorm train-reward"):
        RewardHead.load(tmp_path / "other.npz")
    with pytest.raises(OSError, match="no such file"):
        RewardHead.load(tmp_path / "nowhere.npz")
