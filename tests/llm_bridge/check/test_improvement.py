"""Where a training run is and what it can reach, by sampling: held against the exact tree."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from letters import PROMPTS, SMALL, changed, model, train
from tiny import saved

from llm_bridge.check.improvement import SampledTarget, enclosed_optimum, weighted_optimum
from llm_bridge.improve.target import ExactTarget
from llm_bridge.models.spec import ModelSpec
from llm_bridge.tasks.generated import Task
from llm_bridge.tasks.sampling import checked_reward

pytestmark = pytest.mark.usefixtures("one_thread")
ANSWERS = ("abc", "add", "bbb", "cab")
TASK = Task("letters", tuple(PROMPTS), ANSWERS)


@pytest.fixture(scope="module")
def lm():
    return model()


def exact(lm, config):
    return ExactTarget(lm, PROMPTS, config, ANSWERS)


@pytest.mark.parametrize("changes", [{}, {"reward": "dense"}, {"beta": 0.1, "entropy": 0.05}])
def test_every_quantity_is_the_exact_one_within_its_interval(lm, changes):
    """Before training and after it: the tree of 64 responses is the oracle."""
    config = changed(SMALL, steps=6, lr=1e-2, **changes)
    target = SampledTarget(lm, TASK, config, samples=300)
    trained = train(lm, PROMPTS, config).lm
    oracle = exact(lm, config)
    for policy in (lm, trained):
        found = target.report(policy)
        wanted = oracle.report(policy)
        for name, at in (
            ("objective", "objective"),
            ("kl", "kl_to_anchor"),
            ("entropy", "entropy"),
            ("sampled", "accuracy_sampled"),
        ):
            low, high = (found[f"letters/{name}_{end}"] for end in ("low", "high"))
            assert low - 1e-6 <= wanted[at] <= high + 1e-6, name
            assert high - low < 0.25, name
        assert found["letters/greedy"] == wanted["accuracy_greedy"]
    assert oracle.report(trained)["kl_to_anchor"] > 0.05  # else nothing was told apart


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say(lm):
    """Of 60 seeds, at most the share that a binomial number of misses allows (7 of 60)."""
    config = changed(SMALL, steps=4, lr=1e-2)
    trained = train(lm, PROMPTS, config).lm
    wanted = exact(lm, config).report(trained)
    missed = dict.fromkeys(("objective", "kl", "entropy", "sampled"), 0)
    keys = {"kl": "kl_to_anchor", "sampled": "accuracy_sampled"}
    for seed in range(60):
        found = SampledTarget(lm, TASK, changed(config, seed=seed), samples=40).report(trained)
        for name in missed:
            low, high = (found[f"letters/{name}_{end}"] for end in ("low", "high"))
            missed[name] += not low <= wanted[keys.get(name, name)] <= high
    assert all(count <= 7 for count in missed.values()), missed


def test_at_the_start_the_distance_is_exactly_zero(lm):
    found = SampledTarget(lm, TASK, SMALL).report(lm)
    assert [found[f"letters/kl{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.05])
def test_the_optimum_is_enclosed_and_estimated(lm, beta):
    config = changed(SMALL, alpha=1.0, beta=beta)
    best = exact(lm, config)
    found = SampledTarget(lm, TASK, config, samples=400).start(lm)
    optimum = best.objective(best.optimum)
    low, high = found["letters/optimum_low"], found["letters/optimum_high"]
    assert low - 1e-6 <= optimum <= high + 1e-6
    assert high - low < 0.05 * (optimum - best.objective(best.anchor))
    assert found["letters/effective_samples"] > 4
    assert found["letters/optimum"] == pytest.approx(optimum, abs=0.15 * beta)
    right = best.measure(best.optimum)["accuracy_sampled"]
    assert found["letters/optimum_sampled"] == pytest.approx(right, abs=0.1)
    low, high = found["letters/power_low"], found["letters/power_high"]
    assert low - 1e-6 <= right <= high + 1e-6
    assert high - low < 0.05
    assert abs(right - best.measure(best.anchor)["accuracy_sampled"]) > 0.02  # it is another one


def test_few_effective_samples_are_no_estimate(lm):
    config = changed(SMALL, alpha=1.0, beta=0.01)
    found = SampledTarget(lm, TASK, config, samples=2).start(lm)
    assert found["letters/effective_samples"] <= 2
    assert math.isnan(found["letters/optimum"])
    assert math.isnan(found["letters/optimum_sampled"])
    best = exact(lm, config)  # which is enclosed all the same
    optimum = best.objective(best.optimum)
    assert found["letters/optimum_low"] - 1e-6 <= optimum <= found["letters/optimum_high"] + 1e-6
    right = best.measure(best.optimum)["accuracy_sampled"]
    assert found["letters/power_low"] - 1e-6 <= right <= found["letters/power_high"] + 1e-6


def test_what_decoding_gives_is_that_of_the_tree(lm):
    config = changed(SMALL, alpha=1.0, beta=0.5)
    oracle = exact(lm, config)
    wanted = oracle.measure(oracle.anchor)
    found = SampledTarget(lm, TASK, config, samples=400).start(lm)
    assert found["letters/map"] == wanted["accuracy_map"]
    assert found["letters/map_proven"] == 1
    assert found["letters/greedy"] == wanted["accuracy_greedy"]
    assert found["letters/best"] == wanted["accuracy_map"]  # of 400 draws of 64 responses
    # tokens at temperature β/(α+β) = 1/3, written out
    cold = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
        total = 0.0
        for token in lm.tokenizer(answer)["input_ids"]:
            logits = lm.model(ids).logits[0, -1].double() * 3
            total += float(torch.log_softmax(logits, -1)[token].detach())
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        cold.append(math.exp(total))
    low, high = (found[f"letters/cold_{end}"] for end in ("low", "high"))
    assert low <= np.mean(cold) <= high


def test_a_teacher_and_checked_answers_count(lm):
    teacher = model(seed=1)
    config = changed(SMALL, alpha=1.0, beta=0.5, steps=1)
    oracle = ExactTarget(lm, PROMPTS, config, ANSWERS, teacher)
    found = SampledTarget(lm, TASK, config, teacher=teacher, samples=600).start(lm)
    low, high = (found[f"letters/objective_{end}"] for end in ("low", "high"))
    assert low <= oracle.objective(oracle.anchor) <= high
    assert "letters/optimum_low" not in found  # nothing encloses it
    assert found["letters/optimum"] == pytest.approx(oracle.objective(oracle.optimum), abs=0.1)
    # a right answer earns 2 with the probability that it is written with
    checked = SampledTarget(lm, TASK, replace(config, checked=2.0), samples=600).report(lm)
    plain = SampledTarget(lm, TASK, config, samples=600).report(lm)
    gained = checked["letters/objective"] - plain["letters/objective"]
    assert gained == pytest.approx(2 * plain["letters/sampled"], abs=1e-6)


def test_end_tokens_and_cuts(tmp_path):
    """Responses of several lengths: entropy against a plain sum over the responses of a tree."""
    lm = ModelSpec(saved(tmp_path / "tiny")).load()
    config = changed(SMALL, alpha=1.0, beta=0.5, max_tokens=2, end_tokens=None, missing_end=0.25)
    task = Task("one", ("x", "another"), ("", "q"))
    found = SampledTarget(lm, task, config, samples=400).start(lm)
    end = lm.tokenizer.eos_token_id
    cuts, entropies = [], []
    lm.model.requires_grad_(False)
    for prompt in task.prompts:
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
        first = torch.log_softmax(lm.model(ids).logits[0, -1, : lm.vocab_size].double(), -1)
        rows = torch.cat([ids.expand(len(first), -1), torch.arange(len(first))[:, None]], dim=1)
        second = torch.log_softmax(lm.model(rows).logits[:, -1, : lm.vocab_size].double(), -1)
        going = first.exp()
        going[end] = 0
        cuts.append(float((going * (1 - second[:, end].exp())).sum()))
        own = -(first.exp() * first).sum()
        entropies.append(float(own + (going * -(second.exp() * second).sum(-1)).sum()))
    for name, wanted in (("cut", np.mean(cuts)), ("entropy", np.mean(entropies))):
        low, high = (found[f"one/{name}_{end}"] for end in ("low", "high"))
        assert low <= wanted <= high
    low, high = (found[f"one/objective_{end}"] for end in ("low", "high"))
    assert low <= -np.mean(entropies) - 0.25 * np.mean(cuts) <= high
    assert "one/optimum_low" not in found  # a response that was cut earns less: no power policy


def test_no_interval_from_one_response(lm):
    with pytest.raises(ValueError, match=r"^samples=1: must be at least 2, to know how they vary$"):
        SampledTarget(lm, TASK, SMALL, samples=1)


def test_the_enclosure_holds_for_any_part_of_any_distribution():
    """Against the plain sum, for every set of known responses of small distributions."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.dirichlet(np.full(5, 0.4))
        alpha, beta, bonus = rng.uniform(0.1, 2, 3)
        bonus = min(bonus, alpha)
        power = (alpha + beta) / (beta + bonus)
        optimum = (beta + bonus) * math.log((p**power).sum())
        for n in range(1, 6):
            for known in itertools.combinations(range(5), n):
                others = [p[i] for i in range(5) if i not in known]
                most = math.log(max(others)) if others else -math.inf
                low, high = enclosed_optimum(
                    np.log(p[list(known)]), most, alpha, beta, beta + bonus
                )
                assert low - 1e-9 <= optimum <= high + 1e-9
    assert enclosed_optimum([-1.0, -2.0], -1.5, 2.0, 0.0, 0.0) == (-2.0, -2.0)


def test_weights_are_those_of_the_optimum():
    """With every response of a uniform π̂ seen once the estimate is exact."""
    rewards = np.array([[0.3, -1.0, 2.0, 0.0]])
    value, weights, effective = weighted_optimum(rewards, 0.5)
    gibbs = np.exp(rewards / 0.5) / np.exp(rewards / 0.5).sum()
    assert weights == pytest.approx(gibbs)
    uniform = np.full((1, 4), 0.25)
    objective = (gibbs * rewards).sum() - 0.5 * (gibbs * np.log(gibbs / uniform)).sum()
    assert value[0] == pytest.approx(objective)
    assert effective[0] == pytest.approx(1 / (gibbs**2).sum())


def test_a_prompt_with_two_right_answers_is_refused(lm):
    """A reward knows a response by its prompt alone; the same answer twice is no conflict."""
    config = changed(SMALL, checked=1.0)
    checked_reward(lm, Task("letters", ("a", "a"), ("bcd", "bcd")), config)
    conflict = r"prompts\[1\]: has the tokens of one before it and another answer, 'add' in place"
    with pytest.raises(ValueError, match=conflict):
        checked_reward(lm, Task("letters", ("a", "a"), ("bcd", "add")), config)
