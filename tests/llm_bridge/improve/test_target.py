"""The exact optimum of a run, against sums over every response."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from strategies import along, enumerate_responses, random_policy

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.ppo import explained_variance
from llm_bridge.improve.target import ExactTarget, right
from llm_bridge.models.cloned import letter_lm
from theory.mdp.dynamics import Dynamics, Tree
from theory.mdp.responses import Responses

PROMPTS = ("a", "cb")


@pytest.fixture(scope="module")
def lm():
    return letter_lm(3, seed=1)


def soft_value(lm, text):
    """``log Σ exp`` of the logits after a text."""
    ids = lm.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(torch.logsumexp(lm.model(ids).logits[0, -1].double(), dim=-1))


@pytest.mark.parametrize("terminal", ["zero", "bootstrap"])
def test_the_reward_of_a_response_telescopes(lm, terminal):
    """``α log π̂(τ)``; with a value after the last token, ``+ V̂(s₁) − V̂(s_{H+1})``."""
    config = PPOConfig(
        max_tokens=2,
        end_tokens=(),
        alpha=0.7,
        reward="dense",
        gauge="logits",
        terminal=terminal,
    )
    target = ExactTarget(lm, PROMPTS, config)
    for p, prompt in enumerate(PROMPTS):
        for tokens, states in enumerate_responses(target.reward.dynamics, p):
            expected = along(target.anchor.log_probs, (tokens, states))
            if terminal == "bootstrap":
                text = prompt + "".join("abc"[token] for token in tokens)
                expected += soft_value(lm, prompt) - soft_value(lm, text)
            found = along(target.reward.rewards, (tokens, states))
            assert found == pytest.approx(0.7 * expected, abs=1e-5)


def test_every_answer_has_as_many_tokens_as_a_response(lm):
    config = PPOConfig(max_tokens=2, end_tokens=())
    ExactTarget(lm, PROMPTS, config, ["ab", "ca"])
    for answers in (["ab", "c"], ["a", "ca"], ["ab"], ["ab", "ca", "bb"]):
        with pytest.raises(
            ValueError, match="answers: must be 2 texts of max_tokens=2 tokens each"
        ):
            ExactTarget(lm, PROMPTS, config, answers)


def test_how_right_a_policy_is_on_each_prompt():
    """By looking at every response; an answer that is right in part is not right."""
    dynamics = Dynamics(2, (2, 4), Tree(), np.array([0.5, 0.5]), (None, None))
    policy = random_policy(dynamics, np.random.default_rng(3))
    for answers in itertools.product(itertools.product(range(2), repeat=2), repeat=2):
        found = right(policy, Responses(np.arange(2), np.array(answers)))
        for p, answer in enumerate(answers):
            probs = {
                tokens: np.exp(along(policy.log_probs, (tokens, states)))
                for tokens, states in enumerate_responses(dynamics, p)
            }
            assert found["sampled"][p] == pytest.approx(probs[answer])
            assert found["map"][p] == (max(probs, key=probs.get) == answer)
            first = int(np.argmax(policy.log_probs[0][p]))
            greedy = (first, int(np.argmax(policy.log_probs[1][2 * p + first])))
            assert found["greedy"][p] == (greedy == answer)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_share_that_a_prediction_explains_has_no_unit(scale):
    returns = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    errors = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    found = float(explained_variance(scale * errors, scale * returns))
    assert found == pytest.approx(1 - (0.5 / 3) / np.var([1.0, 2.0, 4.0], ddof=1))
    assert np.isnan(float(explained_variance(scale * errors, scale * torch.ones(3))))
    assert np.isnan(float(explained_variance(scale * errors[:1], scale * returns[:1])))
