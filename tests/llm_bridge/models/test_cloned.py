"""A model trained on an expert's demonstrations becomes that expert."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.models.cloned import letter_tokenizer, train_on_demonstrations
from llm_bridge.models.load import save
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.tree import token_tree
from theory.mdp.distances import kl
from theory.mdp.policy import Policy, require_same_dynamics
from theory.mdp.responses import Responses, greedy_response, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

TINY = {"n_demonstrations": 4000, "steps": 150, "hidden": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def expert():
    return soft_optimal(TokenMDP.random(3, 2, n_prompts=2, seed=1), 0.2).policy


@pytest.fixture(scope="module")
def trained(expert):
    return train_on_demonstrations(expert, **TINY)


def clone(lm):
    return token_tree(lm, ["A", "B"], 2, tokens=range(3))


def test_clones_the_expert(expert, trained):
    tree = clone(trained)
    require_same_dynamics(expert.dynamics, tree.policy.dynamics)
    uniform = Policy.from_logits(
        expert.dynamics, [np.zeros_like(table) for table in expert.log_probs]
    )
    assert kl(expert, tree.policy) < 0.02 < 0.5 < kl(expert, uniform)
    assert tree.max_left_out < 0.01
    assert trained.name == "trained"
    assert not trained.model.training


@pytest.mark.slow
def test_same_seed_same_model(expert, trained):
    state = torch.random.get_rng_state()
    again = clone(train_on_demonstrations(expert, **TINY)).policy
    other = clone(train_on_demonstrations(expert, **TINY, seed=1)).policy
    assert torch.equal(state, torch.random.get_rng_state())
    for one, two, three in zip(
        clone(trained).policy.log_probs, again.log_probs, other.log_probs, strict=True
    ):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_saved_and_loaded(trained, tmp_path):
    save(trained, tmp_path)
    for one, two in zip(
        clone(trained).policy.log_probs,
        clone(ModelSpec(tmp_path).load()).policy.log_probs,
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_vocabulary(trained):
    assert trained.tokenizer.get_vocab() == {"a": 0, "b": 1, "c": 2, "A": 3, "B": 4}
    assert trained.tokenizer.decode([3, 0, 2]) == "Aac"
    with pytest.raises(ValueError, match="the vocabulary of trained has nothing for 'C'"):
        encode_prompt(trained, "C", 1)
    large = letter_tokenizer(30, 2)
    assert len(large.get_vocab()) == 32
    assert large(large.decode(list(range(32))))["input_ids"] == list(range(32))


@pytest.mark.parametrize(
    "name", ["n_demonstrations", "steps", "hidden", "layers", "heads", "batch"]
)
def test_sizes_are_checked(expert, name):
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        train_on_demonstrations(expert, **{name: 0})


def test_refusals(expert):
    with pytest.raises(ValueError, match="hidden=30: must be a multiple of 2·heads=8"):
        train_on_demonstrations(expert, hidden=30)
    batch = soft_optimal(TokenMDP.random(2, 2, batch=(3,), seed=0), 1.0).policy
    with pytest.raises(
        ValueError, match=r"policy has batch axes \(3,\): give the policy of one problem"
    ):
        train_on_demonstrations(batch)
    many = soft_optimal(TokenMDP.random(2, 1, n_prompts=27, seed=0), 1.0).policy
    with pytest.raises(ValueError, match="policy has 27 prompts: at most 26"):
        train_on_demonstrations(many)


def test_reports_while_it_trains(expert, trained):
    """At the steps asked for, in evaluation mode, and whatever is drawn there changes nothing."""
    seen = {}

    def evaluate(step, lm):
        torch.rand(step + 1)
        assert not lm.model.training
        seen[step] = clone(lm).policy

    again = train_on_demonstrations(expert, **TINY, evaluate=evaluate, eval_steps=(150, 0, 20))
    assert list(seen) == [0, 20, 150]
    assert kl(expert, seen[0]) > kl(expert, seen[20]) > kl(expert, seen[150])
    assert not again.model.training
    for one, two, three in zip(
        clone(trained).policy.log_probs,
        clone(again).policy.log_probs,
        seen[150].log_probs,
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(
            one, three, atol=1e-5
        )  # read in there on one thread, here perhaps on more


def test_its_demonstrations_are_those_of_the_seed(expert):
    """Fitted to a single response it says that response: the one `sample` draws with the seed."""
    (prompt,), (tokens,) = expert.sample(1, 5)
    lm = train_on_demonstrations(expert, **TINY | {"n_demonstrations": 1}, seed=5)
    np.testing.assert_array_equal(greedy_response(clone(lm).policy).tokens[prompt], tokens)
    assert np.exp(log_prob(clone(lm).policy, Responses(np.array([prompt]), tokens[None]))) > 0.9


def test_evaluation_is_checked(expert):
    with pytest.raises(
        ValueError, match=r"eval_steps=\[1\]: nothing is called at them; give evaluate"
    ):
        train_on_demonstrations(expert, **TINY, eval_steps=(1,))
    with pytest.raises(ValueError, match="evaluate: is never called; give eval_steps"):
        train_on_demonstrations(expert, **TINY, evaluate=print)
    with pytest.raises(
        ValueError, match="eval_steps: 151 is not from 0 to steps=150; leave it out"
    ):
        train_on_demonstrations(expert, **TINY, evaluate=print, eval_steps=(3, 151))
