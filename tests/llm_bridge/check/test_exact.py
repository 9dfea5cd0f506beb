"""The statements on real models: instances by prompt, what is averaged, and figures that others
have published.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from planted import changed, claim
from tiny import tiny

from llm_bridge.check import exact as checks
from llm_bridge.check.comparison import compare
from llm_bridge.check.exact import by_prompt, facts, model_instance, tabular_instance, trained_group
from llm_bridge.improve.target import right
from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import addition
from theory.claims.findings import decide, decide_each
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import check
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward
from theory.solve.soft import power_policy, soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_map import worst_map
from theory.studies.gallery import coin_payoff

PROMPTS = ("ab", "the c", "x")
LAYOUTS = {
    "sub-vocabulary": {"tokens": [97, 98, 99]},
    "end token": {"tokens": [97, 98, 257], "end_tokens": [257]},
    "the rest too": {"tokens": [97, 98], "rest": True, "end_tokens": [257]},
    "top-k": {"top_k": 3, "end_tokens": [257]},
}


@pytest.fixture(scope="module")
def models():
    return tiny(seed=0), tiny(seed=1)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_each_prompt_is_the_instance_of_its_own_tree(models, layout):
    """Every statement's two sides, prompt by prompt: those of a tree of that prompt alone."""
    layout = dict(layout)
    if layout.get("rest"):
        layout["tokens"] = [*layout["tokens"], 257]
    found = model_instance(*models, PROMPTS, 3, alpha=0.7, expert_temperature=0.8, **layout)
    assert found.instance.batch_shape == (3,)
    for p, prompt in enumerate(PROMPTS):
        tree = token_tree(models[0], [prompt], 3, **layout)
        expert = token_tree(models[1], [prompt], 3, temperature=0.8, like=tree)
        true = endogenous_reward(expert.policy, 0.7)
        np.testing.assert_allclose(
            found.instance.expert_value[p], plain_value(true, expert.policy), rtol=1e-9
        )
        np.testing.assert_allclose(
            found.instance.kl_to_expert[p], kl(tree.policy, expert.policy), rtol=1e-9
        )
        np.testing.assert_allclose(
            found.instance.clone_gap[p],
            plain_value(true, expert.policy) - plain_value(true, tree.policy),
            rtol=1e-8,
            atol=1e-12,
        )
    for statement in STATEMENTS:
        summary = decide(statement, [found.instance])
        assert summary.verdict in ("holds", "does not apply"), statement.name


def test_lines_are_averages_over_prompts(models):
    found = model_instance(*models, PROMPTS, 3, tokens=[97, 98, 99])
    comparison = compare([found.instance])
    alone = [model_instance(*models, [p], 3, tokens=[97, 98, 99]).instance for p in PROMPTS]
    assert comparison.prompts == 3
    by_name = {line.statement.name: line for line in comparison.findings}
    assert list(by_name) == [statement.name for statement in STATEMENTS]
    for statement in STATEMENTS:
        if (
            statement.quantity.unit == "reward"
            and not statement.equality
            and "theorem-2" not in statement.name
        ):
            sides = [check(statement, one) for one in alone]
            line = by_name[statement.name]
            assert line.mean_left == pytest.approx(
                np.mean([s.left.max() for s in sides]), rel=1e-9
            ), statement.name
    gap = [float(one.clone_gap[0]) for one in alone]
    assert comparison.gaps["sampling π̂"] == pytest.approx(np.mean(gap))
    anchored = [
        one.expert_value - plain_value(one.mdp, power_policy(one.policy, 2.0)) for one in alone
    ]
    assert comparison.gaps["π̂², the anchored optimum at β = α"] == pytest.approx(np.mean(anchored))
    assert comparison.closeness["ε_π"] == pytest.approx(
        np.mean([float(one.epsilon[0]) for one in alone])
    )
    assert comparison.closeness["ε_π, largest of a prompt"] == max(
        float(one.epsilon[0]) for one in alone
    )
    for one in alone:
        assert one.epsilon_visited <= one.epsilon


def test_a_statement_that_applies_to_some_prompts_and_says_nothing_on_some(models):
    """Shares are of prompts and of pairs to which it applies, means are over these prompts."""
    instance = model_instance(*models, PROMPTS, 1, tokens=[97, 98]).instance
    right = np.array([[1.0, 5.0], [5.0, 5.0], [5.0, 5.0]])[:, None, :]
    applies = np.array([[True, False], [True, True], [False, False]])[:, None, :]
    planted = claim(
        "planted",
        lambda i: 0 * right,
        lambda i: right,
        when=lambda i: applies,
        ceiling=lambda i: 3.0,
    )
    found = decide(planted, [instance])
    assert (found.verdict, found.reasons, found.mean_right) == ("holds", {}, 3.0)
    assert (found.applies, found.vacuous_share) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    weighted = decide_each([planted], [instance], weights=[1.0, 3.0, 4.0])[0]
    assert (weighted.applies, weighted.mean_right) == (0.5, 4.0)
    assert weighted.vacuous_share == pytest.approx(6 / 7)
    low = replace(planted, quantity=replace(planted.quantity, ceiling=lambda i: 1.0))
    assert decide(low, [instance]).vacuous_share == 1.0
    never = decide(changed(planted, when=lambda i: applies & False), [instance])
    assert (never.verdict, never.reasons, never.applies) == ("does not apply", {}, 0.0)
    assert math.isnan(never.vacuous_share)
    assert math.isnan(never.mean_left)
    assert math.isnan(never.mean_right)


def test_blocks_of_prompts_make_one_comparison(models):
    together = compare([model_instance(*models, PROMPTS, 2, tokens=[97, 98]).instance]).as_dict()
    blocks = [
        model_instance(*models, part, 2, tokens=[97, 98]).instance
        for part in (PROMPTS[:2], PROMPTS[2:])
    ]
    apart = compare(blocks).as_dict()
    assert apart["prompts"] == together["prompts"] == 3
    for name, value in together["closeness"].items():
        assert apart["closeness"][name] == pytest.approx(value, rel=1e-9)
    for name, value in together["gaps"].items():
        assert apart["gaps"][name] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_worst_cases_are_those_of_each_prompt_and_no_member_of_the_ball_is_worse(models):
    found = model_instance(*models, PROMPTS, 2, tokens=[97, 98, 99]).instance
    comparison = compare([found])
    worst = comparison.worst["ε_π"]
    assert worst["radius"] == pytest.approx(found.epsilon.mean())
    alone = [model_instance(*models, [p], 2, tokens=[97, 98, 99]).instance for p in PROMPTS]
    cloned = [
        one.expert_value - worst_clone(one.mdp, one.expert, one.epsilon).values[0][..., 0]
        for one in alone
    ]
    assert worst["cloning"] == pytest.approx(np.mean(cloned), rel=1e-6)
    mapped = [
        one.best_value - worst_map(one.mdp, one.expert, one.epsilon).returns[..., 0]
        for one in alone
    ]
    assert worst["RL, against the best"] == pytest.approx(np.mean(mapped))
    assert worst["cloning"] >= comparison.gaps["sampling π̂"]
    assert worst["KL(π̂‖π_E)"] >= comparison.closeness["KL(π̂‖π_E)"] - 1e-9
    member = sample_log_ratio_ball(found.expert, found.epsilon, 0)
    assert worst["cloning"] >= float((found.expert_value - plain_value(found.mdp, member)).mean())
    assert comparison.worst["median"]["cloning"] < worst["cloning"]
    assert comparison.out_of_reach == {}


def test_what_is_out_of_reach_is_said(models):
    comparison = compare([model_instance(*models, ["ab"], 1, top_k=9).instance])
    assert math.isnan(comparison.worst["ε_π"]["KL(π̂‖π_E)"])
    assert comparison.out_of_reach == {"KL(π̂‖π_E)": "10 tokens; at most 8"}


def test_facts_say_where_the_most_probable_response_is_no_response(models):
    """With a rest token that holds most of the mass, MAP is the rest."""
    found = model_instance(*models, PROMPTS, 2, tokens=[97], rest=True)
    shown = facts(found)
    assert shown["prompts whose π_RL ends in the rest token"] == 3
    without = facts(model_instance(*models, PROMPTS, 2, tokens=[97, 98]))
    assert "prompts whose π_RL ends in the rest token" not in without
    top = facts(model_instance(*models, PROMPTS, 2, top_k=3, end_tokens=[257]))
    assert top["token ids"] == "the 3 that π̂ likes best in each state, 1 end tokens, and the rest"


def test_facts_of_one_response_have_no_error_of_pairs(models):
    shown = facts(model_instance(*models, PROMPTS, 2, tokens=[97]))
    assert shown["largest preference error (TV)"] == "no pairs"


@pytest.mark.parametrize("kind", ["tree", "window", "coin-payoff"])
def test_a_tabular_expert(kind):
    """The instance has the MDP's own reward, and the model that was trained on it is near."""
    if kind == "tree":
        mdp = TokenMDP.random(3, 3, n_prompts=2, seed=4)
    elif kind == "window":
        rng = np.random.default_rng(5)
        mdp = TokenMDP.window([rng.random((2 * 3 ** min(h, 1), 3)) for h in range(4)], 1)
    else:
        mdp = coin_payoff(4, 0.5)
    P, V, alpha = mdp.dynamics.n_prompts, mdp.vocab_size, 0.5
    expert = soft_optimal(mdp, alpha).policy
    lm = train_on_demonstrations(
        expert, n_demonstrations=3000, steps=150, hidden=32, layers=1, heads=2
    )
    found = tabular_instance(
        lm, mdp, [chr(65 + p) for p in range(P)], alpha, tokens=range(V)
    ).instance
    np.testing.assert_allclose(found.expert_value.mean(), plain_value(mdp, expert), rtol=1e-12)
    assert float(found.kl_from_expert.mean()) < 0.2
    for statement in STATEMENTS:
        summary = decide(statement, [found])
        assert summary.verdict in ("holds", "does not apply"), statement.name


def test_the_prompts_of_a_tabular_expert_have_its_weights(models):
    """A weight of zero is no prompt of the instance, and averages are those of the whole MDP."""
    weights = np.array([0.5, 0.0, 0.2, 0.3])
    mdp = TokenMDP.random(2, 3, n_prompts=4, seed=7)
    mdp = TokenMDP.tree(mdp.rewards, prompt_weights=weights)
    found = tabular_instance(models[0], mdp, ["a", "gone", "c", "d"], 0.5, tokens=[97, 98])
    assert found.tree.prompts == ("a", "c", "d")
    assert found.instance.batch_shape == (3,)
    np.testing.assert_allclose(found.weights, [0.5, 0.2, 0.3])
    expert = soft_optimal(mdp, 0.5).policy
    np.testing.assert_allclose(
        found.weights @ found.instance.expert_value, plain_value(mdp, expert), rtol=1e-12
    )
    policy = token_tree(models[0], ["a", "anything", "c", "d"], 3, tokens=[97, 98]).policy
    policy = Policy(mdp.dynamics, policy.log_probs)
    shown = facts(found)
    assert shown["KL(π_E‖π̂), KL(π̂‖π_E) (nats)"] == pytest.approx(
        (kl(expert, policy), kl(policy, expert)), abs=1e-5
    )
    assert shown["plain values of π_E, π̂, π_RL, best"][:2] == pytest.approx(
        (float(plain_value(mdp, expert)), float(plain_value(mdp, policy))), abs=1e-5
    )
    assert shown["weights of the prompts"] == [0.5, 0.2, 0.3]
    alike = tabular_instance(
        models[0], TokenMDP.random(2, 2, n_prompts=2, seed=7), ["a", "b"], 0.5, tokens=[97, 98]
    )
    np.testing.assert_array_equal(alike.weights, [0.5, 0.5])
    assert "weights of the prompts" not in facts(alike)
    np.testing.assert_allclose(
        model_instance(*models, PROMPTS, 2, tokens=[97, 98]).weights, np.full(3, 1 / 3)
    )


def test_a_tabular_expert_must_fit(models):
    mdp = TokenMDP.random(3, 2, n_prompts=2, seed=0)
    with pytest.raises(
        ValueError, match="prompts: 2, and 2 in the MDP; tokens: 2, and 3 in the MDP: give both"
    ):
        tabular_instance(models[0], mdp, ["a", "b"], 1.0, tokens=[97, 98])
    with pytest.raises(ValueError, match="mdp: has batch axes or forbidden tokens"):
        tabular_instance(
            models[0], TokenMDP.random(3, 2, batch=(2,), seed=0), ["a"], 1.0, tokens=[97, 98, 99]
        )


def test_by_prompt_keeps_the_gauge():
    policy = Policy.from_logits(
        TokenMDP.random(2, 2, n_prompts=3).dynamics, [np.arange(6.0).reshape(3, 2), np.ones((6, 2))]
    )
    alone = by_prompt(policy)
    np.testing.assert_array_equal(alone.log_normalizers[0][:, 0], policy.log_normalizers[0])
    assert by_prompt(Policy(policy.dynamics, policy.log_probs)).log_normalizers is None


def test_the_trained_group_has_an_instance_for_each_prompt(monkeypatch):
    monkeypatch.setattr(
        checks, "train_on_demonstrations", partial(train_on_demonstrations, steps=20)
    )
    group = trained_group(vocab_size=2, horizon=2, n_prompts=2)
    assert group.instances[0].batch_shape == (2,)
    assert group.facts["reward range"] == (0.0, 1.0)


PUBLISHED = {
    "add-fair": {
        "sampled": 0.541,
        "power 2": 0.653,
        "power 11": 0.694,
        "map": 0.703,
        "greedy": 0.700,
    },
    "add-small": {
        "sampled": 0.423,
        "power 2": 0.549,
        "power 11": 0.649,
        "map": 0.653,
        "greedy": 0.647,
    },
}
"""Of 300 random prompts, enumerated by others: README of the models."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_accuracies_on_other_prompts(name, shared_models):
    """Two samples of 300 prompts differ by their sampling error, here within four of its standard
    deviations.
    """
    lm, task = ModelSpec(shared_models / name).load(), addition(300, seed=11)
    policy = token_tree(lm, task.prompts, 4).policy
    answers = Responses(np.arange(300), np.array([[int(c) for c in a] for a in task.answers]))
    found = right(policy, answers)
    for power in (2, 11):
        found[f"power {power}"] = right(power_policy(policy, float(power)), answers)["sampled"]
    for how, value in PUBLISHED[name].items():
        error = found[how].std() * math.sqrt(2 / 300)
        assert abs(found[how].mean() - value) < 4 * error, how
    assert found["sampled"].mean() < found["power 2"].mean() < found["power 11"].mean()


@pytest.mark.slow
def test_between_real_models_only_the_average_case_says_anything(shared_models):
    """`add-fair` against `add-teacher`: ε_π is above ten nats, and what any ball of that size
    allows is nothing.
    """
    lm, teacher = (ModelSpec(shared_models / name).load() for name in ("add-fair", "add-teacher"))
    comparison = compare([model_instance(lm, teacher, addition(10, seed=3).prompts, 4).instance])
    vacuous = {line.statement.name: line.vacuous_share for line in comparison.findings}
    assert comparison.closeness["ε_π"] > 10
    for name in ("theorem-1", "theorem-2-clone", "theorem-2-rl", "clone-three-halves"):
        assert vacuous[name] == 1.0
    for name in ("preference-average", "clone-tv", "rl-average"):
        assert vacuous[name] == 0.0
    assert all(line.verdict in ("holds", "–") for line in comparison.findings)
