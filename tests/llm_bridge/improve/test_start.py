"""A run starts well: the value head at the mean return, rates by size, no KL before an update."""

import copy
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from letters import PROMPTS, SMALL, changed, model

from llm_bridge.improve.config import learning_rate
from llm_bridge.improve.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
SPARSE = changed(SMALL, samples=8, minibatch=16, steps=6, alpha=5.0)


def loud(factor):
    """The same distributions, from hidden states `factor` times as large."""
    lm = model()
    lm = replace(lm, model=copy.deepcopy(lm.model))
    lm.model.model.norm.weight.data *= factor
    lm.model.lm_head.weight.data /= factor
    return replace(model(), model=lm.model)


@pytest.mark.parametrize("changes", [{}, {"whiten_rewards": True}, {"reward": "dense"}])
def test_the_value_head_explains_the_mean_of_the_first_batch(changes):
    """Values of zero would explain less than nothing: returns are a few units below it."""
    trainer = Trainer(model(), PROMPTS, changed(SPARSE, **changes))
    row = trainer.step()
    assert -1e-6 < row["explained"] < 0.02
    rewards = trainer.rewards
    assert float(rewards.mean()) < -1.5 * float(rewards.std())  # so it would have been


def test_large_hidden_states_do_not_throw_values_about():
    losses = {}
    for factor, value_lr in ((1, None), (1000, None), (1000, 1e-2)):
        trainer = Trainer(loud(factor), PROMPTS, changed(SPARSE, value_lr=value_lr))
        losses[factor, value_lr] = max(trainer.step()["value_loss"] for _ in range(3))
    assert losses[1000, None] < 4 * losses[1, None]
    assert losses[1000, 1e-2] > 50 * losses[1, None]  # what a rate that knows nothing does


def test_rates_by_size_unless_they_are_given():
    config = changed(SMALL, lr=None)
    trainer = Trainer(model(), PROMPTS, config)
    assert (trainer.config.lr, trainer.config.value_lr) == (2e-4, 1e-2)
    assert trainer.optimizer.param_groups[0]["lr"] == 2e-4
    assert trainer.identity["lr"] == 2e-4
    given = Trainer(loud(1000), PROMPTS, changed(SMALL, lr=1e-5, value_lr=0.5))
    assert given.rates == (1e-5, 0.5)
    # 16 hidden states of a few hundred: the sum of their sizes, times the rate, is about 1
    rate = Trainer(loud(1000), PROMPTS, config).config.value_lr
    assert 1 / (16 * 1000) / 3 < rate < 3 / (16 * 1000)


def test_the_rate_falls_with_size_and_is_ten_times_as_large_for_adapters():
    sizes = [10**n for n in range(4, 12)]
    rates = [learning_rate(n) for n in sizes]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 2e-4
    assert 9e-6 < learning_rate(134_515_008) < 1e-5
    assert learning_rate(7 * 10**9, lora=8) == pytest.approx(10 * learning_rate(7 * 10**9))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_there_is_no_kl_before_the_first_update(dtype, weights):
    lm = model()
    lm = replace(lm, model=lm.model.to(weights))
    row = Trainer(lm, PROMPTS, changed(SMALL, dtype=dtype)).step()
    assert row["kl"] == 0
