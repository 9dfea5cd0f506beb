"""PPO against what it must do exactly: the enumerated tree, plain loops, and itself
uninterrupted.
"""

import copy
import itertools
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from letters import PROMPTS, SMALL, changed, model, train

from llm_bridge.improve import trainer as module
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.ppo import (
    Targets,
    gae,
    group_advantages,
    losses,
    penalised_rewards,
)
from llm_bridge.improve.target import ExactTarget
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import CausalLM
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.rollout import Actor, ActorOutput, Diverged, Rollout, generate
from llm_bridge.read.tree import token_tree
from theory.mdp.distances import kl
from theory.mdp.responses import Responses, log_prob
from theory.solve.improve import distil, hybrid_reward, kl_optimal, regularised_objective
from theory.solve.reward import endogenous_reward, with_rewards

V, H = 4, 3


@pytest.fixture(scope="module")
def lm():
    return model()


def uniforms(n, seed=0):
    return torch.rand(n, H, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# --- Sampling and reading -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("ends", [(), (2,), (0, 1)])
def test_sampled_log_probabilities_are_those_of_a_plain_pass(kind, ends):
    lm = model(kind)
    prompts = [[0, 1], [2], [3, 0, 1], [1, 1]] * 8
    actor, draws = Actor(lm), uniforms(2 * len(prompts))
    rollout = generate(actor, prompts, H, ends, uniforms=draws, samples=2)
    found_prompts, responses = rollout.texts()
    with torch.no_grad():
        read, values, expected = rollout.read(actor)
    assert not values.any()
    assert not expected.any()
    assert rollout.ended.tolist() == [response[-1] in ends for response in responses]
    for i, (prompt, response) in enumerate(zip(found_prompts, responses, strict=True)):
        assert prompt.tolist() == prompts[i // 2]
        cut = next((j + 1 for j, a in enumerate(response) if a in ends), H)
        assert len(response) == cut
        with torch.no_grad():  # alone, without padding, mask, positions or cache
            logits = lm.model(torch.tensor([[*prompt, *response[:-1]]]), use_cache=False).logits[0]
        plain = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 :].gather(
            1, torch.as_tensor(response)[:, None]
        )[:, 0]
        for row in (rollout.log_probs[i], read[i]):
            torch.testing.assert_close(row[:cut], plain, atol=1e-5, rtol=0)
            assert not row[cut:].any()


# --- Rewards and advantages -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    """Random rewards and values of responses of different lengths."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 1, 3, 5, 2, 4])
    written = torch.arange(5) < lengths[:, None]
    return (
        torch.randn(6, 5, generator=random) * written,
        torch.randn(6, 5, generator=random) * written,
        written,
    )


@pytest.mark.parametrize("lam", [0.0, 0.4, 0.95, 1.0])
def test_gae_is_its_definition(table, lam):
    """``A_h = Σ_{k≥h} λ^{k−h} (r_k + V_{k+1} − V_k)``, by two loops."""
    rewards, values, written = table
    found = gae(rewards, values, written, lam)
    for i, length in enumerate(written.sum(dim=1).tolist()):
        v = [*values[i, :length].tolist(), 0.0]
        for h in range(5):
            terms = [
                lam ** (k - h) * (float(rewards[i, k]) + v[k + 1] - v[k]) for k in range(h, length)
            ]
            assert float(found[i, h]) == pytest.approx(sum(terms), abs=1e-5)


def test_group_advantages_leave_the_own_sample_out(table):
    rewards, _, written = table
    found, returns = group_advantages(rewards, written, 3), rewards.sum(dim=1)
    for i in range(6):
        others = [j for j in range(6) if j // 3 == i // 3 and j != i]
        expected = (returns[i] - returns[others].mean()) * written[i]
        torch.testing.assert_close(found[i], expected)


def test_penalties(table):
    rewards, log_probs, written = table
    reference = torch.roll(log_probs, 1, dims=0) * written
    dense = penalised_rewards(
        rewards, log_probs, reference, written, 0.5, changed(SMALL, entropy=0.2)
    )
    torch.testing.assert_close(dense, rewards - 0.5 * (log_probs - reference) - 0.2 * log_probs)
    at_end = penalised_rewards(
        rewards, log_probs, reference, written, 0.0, changed(SMALL, reward="sum")
    )
    torch.testing.assert_close(at_end.sum(dim=1), rewards.sum(dim=1))
    assert ((at_end != 0).sum(dim=1) == 1).all()
    assert at_end[1, 0] != 0


def test_clipping_is_off_where_it_is_none():
    old = Targets(*(torch.tensor([[x]]) for x in (0.0, 0.0, 1.0, 2.0)), torch.tensor([[True]]))
    new = ActorOutput(torch.tensor([[1.0]]), torch.tensor([[1.5]]), torch.tensor([[0.25]]))
    policy, value, moved = losses(new, old, changed(SMALL, clip=None))
    assert float(policy) == pytest.approx(-np.e - 0.25)
    assert float(value) == pytest.approx(0.5 * 0.5**2)
    assert float(moved) == pytest.approx(np.e - 2)
    policy, value, _ = losses(new, old, changed(SMALL, clip=0.2, value_clip=0.1))
    assert float(policy) == pytest.approx(-1.2 - 0.25)
    assert float(value) == pytest.approx(0.5 * 1.9**2)


@pytest.mark.parametrize(("advantage", "flat"), [(1.0, "above"), (-1.0, "below")])
def test_a_clipped_ratio_has_no_gradient_on_one_side_only(advantage, flat):
    """``min(ρA, clip(ρ)A)``: what is good is not made likelier beyond 1.2, what is bad not rarer
    below 0.8.
    """
    gradients = {}
    for name, shift in (("below", -1.0), ("inside", 0.1), ("above", 1.0)):
        log_probs = torch.tensor([[shift]], requires_grad=True)
        zero = torch.zeros(1, 1)
        old = Targets(zero, zero, torch.tensor([[advantage]]), zero, torch.tensor([[True]]))
        losses(ActorOutput(log_probs, zero, zero), old, changed(SMALL, clip=0.2))[0].backward()
        gradients[name] = float(log_probs.grad)
        if name != flat:
            assert gradients[name] == pytest.approx(-advantage * np.exp(shift))
    assert gradients[flat] == 0.0


@pytest.mark.parametrize("reward", ["dense", "sum", "expected"])
def test_without_alpha_nothing_is_endogenous(lm, reward):
    config = changed(SMALL, reward=reward, steps=1)
    found = {}
    for alpha in (0.0, 0.7):
        trainer = Trainer(
            lm,
            PROMPTS,
            changed(config, alpha=alpha),
            extra=lambda p, r: [np.zeros(len(x)) for x in r],
        )
        ids = [lm.tokenizer(p)["input_ids"] for p in PROMPTS]
        uniforms = torch.rand(4, H, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        written = generate(Actor(lm), ids, H, uniforms=uniforms)
        with torch.no_grad():
            found[alpha] = trainer.frozen.score(written, 0.0)[0]
    assert (found[0.0] == 0).all()
    assert (found[0.7] != 0).all()


# --- The exact expected gradient, over every response ---------------------------------------------


def everything(trainer, beta=None):
    """Every response to every prompt, its rewards and advantages with a value head of zeros, and
    ``log π``.
    """
    c = trainer.config
    responses = list(itertools.product(range(V), repeat=H))
    width = max(map(len, trainer.prompts))
    rows = [
        ([0] * (width - len(p)) + p + list(r), len(p) + H)
        for p in trainer.prompts
        for r in responses
    ]
    ids = torch.tensor([row for row, _ in rows])
    mask = torch.stack([torch.arange(width + H) >= width + H - length for _, length in rows])
    rollout = Rollout(ids, mask, torch.zeros(len(ids), H), torch.zeros(len(ids), dtype=torch.bool))
    raw, reference, known = trainer.frozen.score(rollout, trainer.beta)
    log_probs, values, expected = rollout.read(trainer.actor, token_rewards=known)
    if known is None:
        rewards = penalised_rewards(
            raw, log_probs.detach(), reference, rollout.response_mask, beta or c.beta, c
        )
    else:
        rewards = torch.nn.functional.pad(expected.detach()[:, 1:], (0, 1))
    advantages = gae(rewards, values.detach(), rollout.response_mask, c.gae_lambda)
    return Exact(advantages, rewards, log_probs, expected, reference)


class Exact(NamedTuple):
    advantages: torch.Tensor
    rewards: torch.Tensor
    log_probs: torch.Tensor
    expected: torch.Tensor
    reference: torch.Tensor


def exact_gradient(trainer):
    """``E_π Σ_h A_h ∇ log π(a_h|s_h)``, averaged over prompts."""
    advantages, _, log_probs, expected, _ = everything(trainer)
    chance = log_probs.detach().sum(dim=1, keepdim=True).exp()
    loss = (chance * (advantages * log_probs + expected)).sum() / len(trainer.prompts)
    grads = torch.autograd.grad(loss, list(trainer.lm.model.parameters()))
    return torch.cat([g.flatten() for g in grads])


def moved(lm, config):
    """A trainer whose policy is no longer the frozen model."""
    trainer = Trainer(lm, PROMPTS, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.lm.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trainer


WAYS = [("expected", "logprob"), ("dense", "logprob"), ("dense", "logits"), ("sum", "logits")]


@pytest.mark.parametrize(("reward", "gauge"), WAYS)
def test_soft_rl_without_anchor_stays(lm, reward, gauge):
    soft = changed(SMALL, beta=0.0, entropy=SMALL.alpha, gauge=gauge, reward=reward)
    assert float(exact_gradient(Trainer(lm, PROMPTS, soft)).norm()) < 1e-4
    assert float(exact_gradient(moved(lm, soft)).norm()) > 0.05
    plain = changed(soft, entropy=0.0)
    assert float(exact_gradient(Trainer(lm, PROMPTS, plain)).norm()) > 0.05


def test_gauges_differ_by_a_function_of_the_state(lm):
    """So the expected gradient is one, and so are group advantages, sample by sample."""
    one, two = (
        moved(lm, changed(SMALL, reward="dense", gauge=gauge)) for gauge in ("logits", "logprob")
    )
    (a, r, *_), (b, s, *_) = everything(one), everything(two)
    gap = (a - b).detach().view(len(PROMPTS), V, V, V, H)
    assert (
        float(gap[..., 0].flatten(1).std(dim=1).max()) < 1e-5
    )  # at the first token: one constant a prompt
    assert (
        float(gap[..., 1].flatten(2).std(dim=2).max()) < 1e-5
    )  # at the second: one for each first token, …
    assert float(gap[..., 2].std(dim=3).max()) < 1e-5
    assert float(gap[..., 1].std(dim=1).max()) > 0.01
    torch.testing.assert_close(exact_gradient(one), exact_gradient(two), atol=1e-4, rtol=1e-3)
    pair = [
        group_advantages(x, torch.ones_like(x, dtype=torch.bool), V**H).detach() for x in (r, s)
    ]
    torch.testing.assert_close(*pair, atol=1e-4, rtol=0)
    short = [
        exact_gradient(moved(lm, changed(SMALL, reward="dense", gauge=g, gae_lambda=0.0)))
        for g in ("logits", "logprob")
    ]
    assert float((short[0] - short[1]).norm()) > 0.05  # below λ = 1 they part


def test_what_is_known_of_a_state(lm):
    """``k̄(s)`` is the average over tokens of ``α log π̂ − β log π/π̂ − η log π``, and sums to the
    exact objective.
    """
    config = changed(SMALL, entropy=0.2)
    trainer = moved(lm, config)
    _, _, log_probs, expected, reference = everything(trainer)
    tables = [
        x.detach().view(len(PROMPTS), V, V, V, H).double() for x in (log_probs, reference, expected)
    ]
    for h, of_token in enumerate(
        [(0, slice(None), 0, 0), (0, 2, slice(None), 0), (0, 2, 1, slice(None))]
    ):
        own, frozen, found = (table[of_token][:, h] for table in tables)
        k = 0.7 * frozen - 0.5 * (own - frozen) - 0.2 * own
        assert float((own.exp() * k).sum()) == pytest.approx(float(found[0]), abs=1e-5)
    chance = log_probs.detach().sum(dim=1).exp()
    average = float((chance * expected.detach().sum(dim=1)).sum()) / len(PROMPTS)
    assert average == pytest.approx(
        ExactTarget(lm, PROMPTS, config).report(trainer.lm)["objective"], abs=1e-4
    )


def test_expected_rewards_have_less_noise(lm):
    """The same expected gradient, and a smaller variance of what one response says of it."""
    found, noise = [], []
    for reward in ("expected", "dense"):
        trainer = moved(lm, changed(SMALL, reward=reward))
        found.append(exact_gradient(trainer))
        advantages, _, log_probs, expected, _ = everything(trainer)
        chance = log_probs.detach().sum(dim=1).exp()
        parameter = trainer.actor.head.module.weight
        terms = (advantages * log_probs + expected).sum(dim=1)
        grads = [
            torch.autograd.grad(term, parameter, retain_graph=True)[0].flatten()
            for term in terms[: V**H]
        ]
        rows, weights = torch.stack(grads), chance[: V**H, None]
        noise.append(float((weights * (rows - (weights * rows).sum(dim=0)) ** 2).sum()))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)
    assert noise[0] < 0.5 * noise[1]


@pytest.mark.parametrize(("reward", "gauge"), WAYS)
def test_gradient_is_that_of_the_exact_objective(lm, reward, gauge):
    """Along a direction, ``J`` of the enumerated tree rises as the expected gradient says."""
    trainer = moved(lm, changed(SMALL, reward=reward, gauge=gauge))
    target = ExactTarget(lm, PROMPTS, SMALL)
    gradient, step = exact_gradient(trainer), 1e-2
    parameters = list(trainer.lm.model.parameters())
    direction = gradient / gradient.norm()
    found = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(parameters).detach() + sign * step * direction,
            parameters,
        )
        found.append(target.report(trainer.lm)["objective"])
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(parameters).detach() - sign * step * direction,
            parameters,
        )
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


# --- The exact target -----------------------------------------------------------------------------


def test_target_is_the_library_s_optimum(lm):
    target = ExactTarget(lm, PROMPTS, SMALL, answers=["abc", "aaa", "ddd", "bca"])
    solution = kl_optimal(target.reward, target.anchor, SMALL.beta)
    assert float(kl(target.optimum, solution.policy)) == pytest.approx(0, abs=1e-10)
    policy = ExactTarget(model(seed=3), PROMPTS, SMALL).anchor
    found = target.measure(policy)
    expected = regularised_objective(target.reward, policy, target.anchor, SMALL.beta)
    assert found["objective"] == pytest.approx(float(expected))
    assert found["objective_optimum"] == pytest.approx(float(solution.values[0].mean()))
    # below the optimum by β KL(π‖π_β)
    gap = found["objective_optimum"] - found["objective"]
    assert gap == pytest.approx(SMALL.beta * found["kl_to_optimum"])
    assert 0 < found["accuracy_sampled"] < 1
    assert target.measure(target.anchor)["share"] == 0
    assert target.measure(target.optimum)["share"] == 1


def test_target_of_soft_rl_is_the_model_itself(lm):
    target = ExactTarget(lm, PROMPTS, changed(SMALL, beta=0.0, entropy=SMALL.alpha))
    found = target.report(lm)
    assert found["kl_to_optimum"] == pytest.approx(0, abs=1e-10)
    assert "share" not in found


@pytest.mark.parametrize(
    ("reward", "gauge"),
    [WAYS[0], *(pytest.param(*way, marks=pytest.mark.slow) for way in WAYS[1:])],
)
@pytest.mark.parametrize("baseline", ["value", pytest.param("group", marks=pytest.mark.slow)])
def test_closes_the_gap(lm, reward, gauge, baseline):
    """Measured: 0.97 to 0.98 of the way from `π̂` to the optimum in 60 batches."""
    config = changed(SMALL, reward=reward, gauge=gauge, baseline=baseline, steps=60, warmup=5)
    target = ExactTarget(lm, PROMPTS, config)
    found = target.report(train(lm, PROMPTS, config).lm)
    assert found["objective_optimum"] - found["objective_start"] > 0.1
    assert found["share"] > 0.9
    assert found["share"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["expected", "dense"])
@pytest.mark.parametrize("switch", ["normalise_advantages", "whiten_rewards"])
def test_other_units_have_the_same_end(lm, switch, reward):
    """Both halves of the gradient must be in one unit: with one of them scaled the end is another
    policy.
    """
    config = changed(SMALL, reward=reward, steps=80, warmup=5, **{switch: True})
    assert ExactTarget(lm, PROMPTS, config).report(train(lm, PROMPTS, config).lm)["share"] > 0.95


def test_adaptive_coefficient_follows_the_kl(lm):
    """Up while the KL is above its target, down while it is below, by 2 % at most."""
    high, low = (
        Trainer(lm, PROMPTS, changed(SMALL, adaptive_kl=kl, steps=6)) for kl in (1e-4, 10.0)
    )
    for trainer in (high, low):
        rows = [trainer.step() for _ in range(4)]
        assert rows[0]["beta"] == 0.5
    assert high.beta == pytest.approx(
        0.5 * 0.98 * 1.02**3
    )  # before the first update the KL is zero
    assert low.beta == pytest.approx(0.5 * 0.98**4)
    trainer = moved(lm, changed(SMALL, beta=0.5))
    trainer.beta = 2.0
    now, expected = (
        everything(t, beta=2.0).expected for t in (trainer, moved(lm, changed(SMALL, beta=2.0)))
    )
    torch.testing.assert_close(now, expected)


@pytest.mark.parametrize("reward", ["expected", "dense", "sum"])
def test_a_reward_of_ones_own_is_paid_on_top_of_the_endogenous(lm, reward):
    """The same responses, paid 2 a token more: both averages rise by that."""
    config = changed(SMALL, reward=reward, normalise_advantages=False)
    paid = Trainer(lm, PROMPTS, config, extra=lambda p, r: [np.full(len(x), 2.0) for x in r])
    alone = Trainer(lm, PROMPTS, config)
    row, other = paid.step(), alone.step()
    assert (paid.rollout.response_mask == alone.rollout.response_mask).all()
    assert row["tokens"] == other["tokens"]
    for name in ("reward", "penalised_reward"):
        assert row[name] - other[name] == pytest.approx(2 * row["tokens"], rel=1e-5), name
    tokens = paid.rollout.response_mask.sum(dim=1)
    torch.testing.assert_close(paid.rewards - alone.rewards, 2.0 * tokens)


def test_a_missing_end_costs(lm):
    config = changed(SMALL, end_tokens=(1,), missing_end=0.8)
    trainer = Trainer(lm, PROMPTS, config)
    trainer.step()
    rollout = trainer.rollout
    assert 0 < rollout.ended.double().mean() < 1
    charged = trainer._extra(rollout).sum(dim=1)
    assert charged.tolist() == pytest.approx([0.0 if ended else -0.8 for ended in rollout.ended])
    last = rollout.response_mask.sum(dim=1) - 1
    assert (trainer._extra(rollout).gather(1, last[:, None])[:, 0] == charged).all()


def test_batches_of_empty_responses_stop(lm):
    trainer = Trainer(lm, PROMPTS, changed(SMALL, end_tokens=(0, 1, 2, 3)))
    with pytest.raises(Diverged, match="every response is empty"):
        trainer.step()


@pytest.mark.slow
@pytest.mark.parametrize(("reward", "gauge"), WAYS)
def test_distils_a_teacher(lm, reward, gauge):
    """To ``∝ π̂ · π_teacher^{α/β}``, at whose expense one reward or the other counts."""
    teacher, config = model(seed=3), changed(SMALL, reward=reward, gauge=gauge, steps=60, warmup=5)
    target = ExactTarget(lm, PROMPTS, config, teacher=teacher)
    expert = ExactTarget(teacher, PROMPTS, config).anchor
    expected = regularised_objective(
        endogenous_reward(expert, 0.7, gauge="logprob"), expert, target.anchor, 0.5
    )
    assert target.objective(expert) == pytest.approx(float(expected))
    assert float(
        kl(target.optimum, distil(target.anchor, expert, 0.7, 0.5).policy)
    ) == pytest.approx(0, abs=1e-10)
    found = target.report(train(lm, PROMPTS, config, teacher=teacher).lm)
    assert 0.9 < found["share"] <= 1
    assert found["objective_optimum"] - found["objective"] == pytest.approx(
        0.5 * found["kl_to_optimum"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"entropy": 0.2},
        {"beta": 0.0, "entropy": 0.8},
        {"reward": "dense", "gauge": "logits", "terminal": "bootstrap"},
    ],
    ids=["entropy", "entropy alone", "bootstrap"],
)
@pytest.mark.parametrize("taught", [True, False])
def test_the_exact_end_of_training(lm, changes, taught):
    """No response can take probability from another and gain: ``r(τ) + β log π̂(τ) − (β+η) log
    π(τ)`` is the same for all responses to a prompt; and training towards a teacher gets there.
    """
    teacher = model(seed=3) if taught else None
    config = changed(SMALL, steps=60, warmup=5, **changes)
    target = ExactTarget(lm, PROMPTS, config, teacher=teacher)
    reward = EndogenousReward(teacher or lm, reading=config.reading, end_tokens=())
    every = list(itertools.product(range(V), repeat=H))
    asked = [lm.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    for p, ids in enumerate(asked):
        scores = reward.score_ids([ids] * len(every), every, progress=False)
        responses = Responses(np.full(len(every), p), np.array(every))
        gains = (
            np.array([score.reward_sum for score in scores])
            + config.beta * log_prob(target.anchor, responses)
            - (config.beta + config.entropy) * log_prob(target.optimum, responses)
        )
        np.testing.assert_allclose(gains, gains[0], atol=1e-5)
    if taught:
        found = target.report(train(lm, PROMPTS, config, teacher=teacher).lm)
        assert 0.85 < found["share"] <= 1


@pytest.mark.slow
def test_a_checked_answer_comes_on_top(lm):
    """``∝ π̂^{1+α/β} exp(w·check/β)``, here with the check that the last letter is b."""

    def check(prompts, responses):
        return [np.append(np.zeros(H - 1), response[-1] == 1) for response in responses]

    config = changed(SMALL, steps=60, warmup=5)
    target = ExactTarget(lm, PROMPTS, config)
    rewards = [np.zeros_like(table) for table in target.reward.rewards]
    rewards[-1][:, 1] = 1.0
    reward = hybrid_reward(target.reward, with_rewards(target.reward.dynamics, tuple(rewards)), 1.0)
    best = kl_optimal(reward, target.anchor, config.beta).policy
    found = target_policy(train(lm, PROMPTS, config, extra=check).lm)
    start, end, now = (
        float(regularised_objective(reward, p, target.anchor, 0.5))
        for p in (target.anchor, best, found)
    )
    assert 0.9 < (now - start) / (end - start) <= 1
    alone = target_policy(train(lm, PROMPTS, changed(config, alpha=0.0), extra=check).lm)
    assert float(kl(alone, found)) > 0.05


def target_policy(policy):
    return token_tree(policy, PROMPTS, H).policy


def test_a_strong_anchor_holds(lm):
    free, held = (changed(SMALL, beta=beta, steps=20, lr=5e-4) for beta in (0.1, 1e3))
    away = [
        ExactTarget(lm, PROMPTS, c).report(train(lm, PROMPTS, c).lm)["kl_to_anchor"]
        for c in (free, held)
    ]
    assert away[1] < 5e-3  # what Adam's steps leave: it makes any gradient one of size lr
    assert away[0] > 0.05


# --- Switches and guards --------------------------------------------------------------------------


def test_the_model_given_stays(lm):
    before = [p.clone() for p in lm.model.parameters()]
    trainer = Trainer(lm, PROMPTS, SMALL)
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, lm.model.parameters(), strict=True))
    assert not all(
        torch.equal(a, b) for a, b in zip(before, trainer.lm.model.parameters(), strict=True)
    )


def test_guards(lm):
    with pytest.raises(Diverged, match=r"KL to the frozen model is .*, above stop_kl=1e-06"):
        train(lm, PROMPTS, changed(SMALL, stop_kl=1e-6, steps=20))
    held = Trainer(lm, PROMPTS, changed(SMALL, target_kl=1e-4, epochs=8))
    assert 1 <= held.step()["updates"] < 16
    with pytest.raises(ValueError, match="rewards: must be one for each token"):
        train(lm, PROMPTS, SMALL, extra=lambda prompts, responses: [np.zeros(1)] * len(responses))
    broken = Trainer(lm, PROMPTS, SMALL)
    with torch.no_grad():
        next(broken.lm.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="logits are NaN; use a smaller lr"):
        broken.step()


def test_returns_that_do_not_vary_have_no_share_explained(lm):
    """Where every answer is wrong all returns are zero, and a value head that says so explains
    nothing.
    """
    config = changed(SMALL, alpha=0.0, beta=0.0, reward="dense", steps=1)

    def wrong(prompts, responses):
        return [np.zeros(len(response)) for response in responses]

    assert np.isnan(Trainer(lm, PROMPTS, config, extra=wrong).step()["explained"])
    one = changed(config, max_tokens=1, prompts_per_step=1, samples=1, minibatch=1)
    assert np.isnan(Trainer(lm, PROMPTS, one, extra=wrong).step()["explained"])


def test_a_policy_that_has_gone_is_no_early_stop(lm, monkeypatch):
    """KL(π_old‖π) is infinite where a ratio overflows: above target_kl, and yet not the end of an
    ordinary batch.
    """
    zero = torch.zeros((), requires_grad=True)
    monkeypatch.setattr(module, "losses", lambda *_: (zero, zero, torch.tensor(torch.inf)))
    with pytest.raises(Diverged, match=r"KL of the update inf nats.*use a smaller lr"):
        Trainer(lm, PROMPTS, changed(SMALL, target_kl=0.1)).step()


def test_a_gap_that_is_nan_is_no_small_one(lm):
    trainer = Trainer(lm, PROMPTS, changed(SMALL, stop_kl=None))
    trainer.step()
    read = torch.full_like(trainer.rollout.log_probs, torch.nan)
    with pytest.raises(Diverged, match="differ by nan nats"):
        trainer._require_sane(trainer.rollout, read, trainer.rollout.log_probs)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalise_advantages": True},
        {"whiten_rewards": True, "value_clip": 0.2},
        {"clip": None, "max_grad_norm": None, "anneal": False},
        {"dtype": "bfloat16"},
        {"reward": "sum", "gae_lambda": 0.9},
        {
            "reward": "dense",
            "gauge": "logits",
            "terminal": "bootstrap",
            "end_tokens": (0,),
            "missing_end": 1.0,
        },
        {"end_tokens": (1,), "prompts_per_step": 6},
    ],
)
def test_switches(lm, changes):
    trainer = Trainer(lm, PROMPTS, changed(SMALL, steps=2, **changes))
    trainer.step()
    row = trainer.step()
    with pytest.raises(ValueError, match="steps=2: all of them are done"):
        trainer.step()
    assert all(np.isfinite(value) for value in row.values())
    assert row["generation_gap"] < (0.1 if changes.get("dtype") else 1e-5)


@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "reward", [{}, {"reward": "dense"}, {"reward": "sum", "gauge": "logits"}], ids=str
)
def test_a_policy_that_has_not_moved_is_at_no_distance(lm, reward, dtype, loaded, lora):
    """Whatever the weights are and the products: `π̂` is read as the policy is, to the bit."""
    if lora is not None:
        pytest.importorskip("peft")
    frozen = CausalLM(copy.deepcopy(lm.model).to(loaded), lm.tokenizer, "frozen")
    trainer = Trainer(frozen, PROMPTS, changed(SMALL, dtype=dtype, lora=lora, **reward))
    assert trainer.step()["kl"] == 0
    assert trainer.step()["kl"] != 0


@pytest.mark.parametrize(
    ("dtype", "rows", "by"),
    [("float32", slice(1), 0.06), ("bfloat16", slice(None), 0.6)],
)
def test_writing_and_reading_must_agree_in_every_precision(lm, dtype, rows, by, monkeypatch):
    """What a forgotten state does: responses are said to be more probable than they are."""
    trainer = Trainer(lm, PROMPTS, changed(SMALL, dtype=dtype))
    off(trainer, rows, by, monkeypatch)
    with pytest.raises(Diverged, match=r"differ by 0\.\d+ nats .* of generation, above .*; try"):
        trainer.step()


def test_one_token_that_is_rounded_badly_stops_no_run(lm, monkeypatch):
    """SmolLM2 in bfloat16 on a GPU: of some thousand tokens one is off by 0.5 to 1.3 nats."""
    trainer = Trainer(lm, PROMPTS, changed(SMALL, dtype="bfloat16", prompts_per_step=64))
    off(trainer, slice(1), 1.0, monkeypatch)
    assert 0.005 < trainer.step()["generation_gap"] < 0.2


def off(trainer, rows, by, monkeypatch):
    """Let the last token of some responses seem more probable to who writes it than it is."""
    sample = trainer._sample

    def forgetful():
        rollout = sample()
        rollout.log_probs[rows, -1] += by
        return rollout

    monkeypatch.setattr(trainer, "_sample", forgetful)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1.0}, "beta=-1.0: must be at least 0 reward units per nat"),
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
        ({"clip": 0.0}, "clip=0.0: must be above 0, or none for off"),
        ({"alpha": float("nan")}, "alpha=nan: must be from 0 to 1e\\+09 reward units"),
        ({"anneal": "False"}, "anneal='False': must be True or False"),
        ({"seed": 1.5}, "seed=1.5: must be a whole number, from 0 to 2"),
        ({"end_tokens": 2}, "end_tokens=2: must be a tuple of whole numbers"),
        ({"shard": True, "lora": 2}, "shard means nothing with lora: adapters are small"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"gae_lambda": 1.5}, "gae_lambda=1.5: must be from 0 to 1"),
        ({"gauge": "q"}, "gauge='q': must be one of logits, logprob"),
        ({"gauge": "logits"}, "gauge='logits': reward=expected is that of every token"),
        ({"reward": "dense", "terminal": "bootstrap"}, "terminal='bootstrap': the logprob gauge"),
        ({"baseline": "group", "samples": 1}, "samples=1: baseline=group"),
    ],
)
def test_configurations_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


def test_targets_are_checked(lm):
    with pytest.raises(ValueError, match=r"end_tokens=\(1,\): every response"):
        ExactTarget(lm, PROMPTS, changed(SMALL, end_tokens=(1,)))
    with pytest.raises(ValueError, match=r"beta=0.0: without KL penalty"):
        ExactTarget(lm, PROMPTS, changed(SMALL, beta=0.0))
    with pytest.raises(ValueError, match="answers: must be 4 texts of max_tokens=3"):
        ExactTarget(lm, PROMPTS, SMALL, answers=["abc"])
    with pytest.raises(ValueError, match=r"alpha=0.0: without the endogenous reward"):
        ExactTarget(lm, PROMPTS, changed(SMALL, alpha=0.0))
    with pytest.raises(ValueError, match=r"adaptive_kl=0.1: where β moves"):
        ExactTarget(lm, PROMPTS, changed(SMALL, adaptive_kl=0.1))
    with pytest.raises(ValueError, match=r"prompts\[1\]: empty"):
        Trainer(lm, [[1], []], SMALL)
    with pytest.raises(ValueError, match="prompts and end_tokens: ids must be from 0 to 3"):
        Trainer(lm, [[1], [4]], SMALL)
    with pytest.raises(ValueError, match="the longest needs 10 positions, llama has 9"):
        Trainer(lm, [[1] * 8], SMALL)
    with pytest.raises(ValueError, match="prompts='ab': must be a sequence"):
        Trainer(lm, "ab", SMALL)
    with pytest.raises(ValueError, match="alpha=0: without the endogenous reward"):
        Trainer(lm, PROMPTS, changed(SMALL, alpha=0.0))
