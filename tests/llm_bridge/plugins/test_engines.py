"""Other engines on our reward: which objective their losses have, and where they end.

Exact expectations are taken over all 10,000 responses of the addition task. verl's own functions
take part where verl is installed, TRL's trainers where TRL is.
"""

import asyncio
import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.target import ExactTarget
from llm_bridge.models.spec import ModelSpec
from llm_bridge.plugins.trl import make_reward_func
from llm_bridge.plugins.verl import EndogenousRewardManager
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import addition
from theory.mdp.policy import Policy

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "docs" / "recipes"
MODEL = Path(os.environ.get("ENDORM_SHARED", ROOT.parent / "shared")) / "models" / "add-fair"
H, V, BETA, PROMPTS = 4, 10, 0.1, addition(32, seed=5).prompts

needs_model = pytest.mark.skipif(
    not MODEL.is_dir(), reason="no models/add-fair: set ENDORM_SHARED to the folder that has it"
)


@pytest.fixture(scope="module")
def anchor():
    return ModelSpec(MODEL).load()


def target(anchor, prompts, beta=BETA):
    return ExactTarget(anchor, prompts, PPOConfig(beta=beta, max_tokens=H, end_tokens=()))


def test_the_page_checks_the_reward():
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert len(set(names["given"])) == 10


# --- Where KL in the loss leads -------------------------------------------------------------------


def reverse(anchor, q, beta):
    """Maximise ``Σ π q − β KL(π‖π̂)`` in every state: where k3 with its ratio leads."""
    logits = anchor + q / beta
    return np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))


def forward(anchor, q, beta):
    """Maximise ``Σ π q − β KL(π̂‖π)``, whose gradient k3 has without that ratio: ``π = β π̂/(μ −
    q)``.
    """
    low = q.max(axis=-1, keepdims=True)
    high = low + beta
    for _ in range(100):  # bisection for μ, at which the probabilities sum to one
        middle = (low + high) / 2
        above = (beta * np.exp(anchor) / np.maximum(middle - q, 1e-300)).sum(
            axis=-1, keepdims=True
        ) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    found = beta * np.exp(anchor) / (high - q)
    return found / found.sum(axis=-1, keepdims=True)


def stationary(tree, step, beta):
    """Where an expected gradient vanishes in which a token's penalty does not reach the tokens
    before it: ``q`` is the reward to go alone, without later penalties.
    """
    tables, value = [], 0.0
    for logs in reversed(tree.log_probs):
        q = logs + np.reshape(value, (-1, V) if np.ndim(value) else ())
        tables.append(step(logs, q, beta))
        value = (tables[-1] * q).sum(axis=-1)
    return Policy.from_probs(tree.dynamics, tables[::-1])


def all_responses(tables, n):
    """``log π(a_h|s_h)`` of all ``V^H`` responses to each of `n` prompts, ``(n, V^H, H)``."""
    rows = [
        t.log_softmax(-1).reshape(n, -1, 1).expand(-1, -1, V**H // V ** (h + 1))
        for h, t in enumerate(tables)
    ]
    return torch.stack([row.reshape(n, -1) for row in rows], dim=-1)


def gradient(objective, tables):
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(objective, tables, retain_graph=True)]
    )


def leaves(log_probs):
    return [torch.tensor(np.asarray(t), dtype=torch.double, requires_grad=True) for t in log_probs]


@pytest.mark.slow
@needs_model
@pytest.mark.parametrize(
    ("step", "ratio", "shares"),
    [(reverse, True, (0.99997, 0.99998, 1.0)), (forward, False, (0.916, 0.931, 0.961))],
)
def test_where_grpo_ends(anchor, step, ratio, shares):
    """TRL's GRPO loss, its expectation over all responses: it has no gradient at `stationary`, and
    the shares of `docs/engines.md` are this policy's. ``use_bias_correction_kl`` is `ratio`.
    """
    few = target(anchor, PROMPTS[:2])
    reference = all_responses(leaves(few.anchor.log_probs), 2).detach()

    def expected_loss(tables):
        new = all_responses(tables, 2)
        old = new.detach()
        rewards = reference.sum(-1)
        advantages = (rewards - (old.sum(-1).exp() * rewards).sum(-1, keepdim=True))[..., None]
        weight = (new - old).exp()
        k3 = (reference - new).exp() - (reference - new) - 1
        loss = -weight * advantages + BETA * k3 * (weight if ratio else 1)
        return (old.sum(-1).exp() * loss.sum(-1)).sum() / 2

    start, end = (
        leaves(policy.log_probs) for policy in (few.anchor, stationary(few.anchor, step, BETA))
    )
    before, after = (gradient(expected_loss(t), t).norm() for t in (start, end))
    assert before > 0.1
    assert after < 1e-9
    for beta, share in zip((1.0, 0.3, 0.1), shares, strict=True):
        whole = target(anchor, PROMPTS, beta)
        found = whole.measure(stationary(whole.anchor, step, beta))["share"]
        assert found == pytest.approx(share, abs=6e-4 if step is forward else 6e-6)


# --- verl -----------------------------------------------------------------------------------------


def verl_recipe():
    """The recipe's options, composed and validated by verl."""
    hydra = pytest.importorskip("hydra", reason="needs verl 0.9 and what it imports")
    verl = pytest.importorskip("verl", reason="needs verl 0.9 and what it imports")
    from verl.utils.config import validate_config

    text = (RECIPES / "train_verl.sh").read_text(encoding="utf-8")
    options = re.findall(r"^  (\S+=.+?) \\$", text, re.MULTILINE)
    assert len(options) == text.split("main_ppo")[1].count("\\\n") - 1  # no line is missed
    options = [re.sub(r'"\$(\w+)"', r"\1", option) for option in options]
    folder = Path(verl.__file__).parent / "trainer" / "config"
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose("ppo_trainer", overrides=options)  # refuses an unknown key
    validate_config(config, use_reference_policy=True, use_critic=False)
    return config


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_verl_has_every_option_of_the_recipe():
    config = verl_recipe()
    from verl.trainer.ppo.reward import resolve_reward_manager_cls

    assert resolve_reward_manager_cls(config) is EndogenousRewardManager
    assert config.actor_rollout_ref.rollout.temperature == 1.0
    assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size


@needs_model
@pytest.mark.filterwarnings("ignore")
def test_verl_follows_the_exact_gradient(anchor):
    """verl's penalty, advantages and loss, with the recipe's options, on responses of a policy away
    from the optimum: the mean gradient is that of ``V^π_r̂ − β KL(π‖π̂)``, within sampling error, in
    the directions of both of its parts.
    """
    config = verl_recipe()
    core = pytest.importorskip("verl.trainer.ppo.core_algos")
    trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer")
    from verl import DataProto
    from verl.utils.config import omega_conf_to_dataclass

    beta, n, samples, batches = config.algorithm.kl_ctrl.kl_coef, 2, 32, 64
    rng = torch.Generator().manual_seed(0)
    tree = token_tree(anchor, PROMPTS[:n], H).policy
    reference = all_responses(leaves(tree.log_probs), n).detach()
    noisy = [t + 0.5 * torch.randn(t.shape, generator=rng) for t in leaves(tree.log_probs)]
    tables = [t.detach().requires_grad_() for t in noisy]
    probs = all_responses(tables, n).sum(-1).exp()
    value = (probs * reference.sum(-1)).sum() / n
    penalty = (probs * (probs.log() - reference.sum(-1))).sum() / n
    parts = [gradient(part, tables) for part in (value, penalty)]
    exact = parts[0] - beta * parts[1]

    drawn = torch.multinomial(probs.detach(), batches * samples, replacement=True, generator=rng)
    drawn = drawn.reshape(n, batches, samples).transpose(0, 1)
    prompt_ids = torch.tensor([[int(c) for c in p] for p in PROMPTS[:n]])
    manager = EndogenousRewardManager(tokenizer=anchor.tokenizer, reward=EndogenousReward(anchor))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    ctrl = core.get_kl_controller(config.algorithm.kl_ctrl)
    estimate = core.get_adv_estimator_fn(config.algorithm.adv_estimator)
    found = []
    for k, rows in enumerate(drawn):
        flat = rows.flatten()
        index = np.repeat(np.arange(n), samples)
        responses = flat[:, None] // V ** torch.arange(H - 1, -1, -1) % V
        data = DataProto.from_dict(
            {
                "prompts": prompt_ids[index],
                "responses": responses,
                "attention_mask": torch.ones(len(flat), 6 + H, dtype=torch.long),
                "response_mask": torch.ones(len(flat), H),
            },
            non_tensors={"index": index},
        )
        scores = manager(data)
        if not k:  # the reward loop's way: row by row, then joined
            single = [asyncio.run(manager.run_single(data[i : i + 1])) for i in range(10)]
            joined = manager.assemble_rm_scores(data[:10], [one["reward_score"] for one in single])
            torch.testing.assert_close(joined, scores[:10])
        new = all_responses(tables, n)[index, flat]
        data.batch["token_level_scores"] = scores
        data.batch["old_log_probs"], data.batch["ref_log_prob"] = (
            new.detach(),
            reference[index, flat],
        )
        data, _ = trainer.apply_kl_penalty(data, ctrl, config.algorithm.kl_penalty)
        mask = data.batch["response_mask"]
        advantages, _ = estimate(data.batch["token_level_rewards"], mask, index=index)
        loss, _ = core.compute_policy_loss_vanilla(
            new.detach(), new, advantages, mask, actor.loss_agg_mode, actor
        )
        found.append(-gradient(loss, tables))
    mean = torch.stack(found).mean(0)
    assert torch.cosine_similarity(mean, exact, 0) > 0.98
    for part in parts:
        along = torch.stack(found) @ part / part.norm()
        error = along.std() / batches**0.5
        assert abs(along.mean() - exact @ part / part.norm()) < 4 * error
        assert error < 0.1 * exact.norm()


# --- TRL ------------------------------------------------------------------------------------------


def trl_recipe():
    pytest.importorskip("trl", reason="needs TRL 1.16")
    spec = importlib.util.spec_from_file_location("train_trl", RECIPES / "train_trl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_model
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("trainer", ["rloo", "grpo"])
def test_trl_moves_toward_the_exact_optimum(anchor, trainer, tmp_path, monkeypatch):
    """A dozen steps on four prompts go a fifth of the way and more, and every reward that
    the trainer was given is the score of its response.
    """
    recipe, calls = trl_recipe(), []

    def recorded(reward):
        function = make_reward_func(reward)

        def endogenous_reward(prompts, completions, completion_ids, **columns):
            found = function(prompts, completions, completion_ids, **columns)
            calls.extend(zip(prompts, completions, found, strict=True))
            return found

        return endogenous_reward

    monkeypatch.setattr(recipe, "PROMPTS", PROMPTS[:4])
    monkeypatch.setattr(recipe, "SAMPLES", 16)
    monkeypatch.setattr(recipe, "make_reward_func", recorded)
    found = recipe.main(
        model=MODEL,
        trainer=trainer,
        beta=BETA,
        max_steps=12,
        learning_rate=1e-4,
        seed=0,
        out=tmp_path,
    )
    at = target(anchor, PROMPTS[:4])
    start = at.measure(at.anchor)
    assert found["share"] > 0.2
    assert found["kl_to_optimum"] < 0.8 * start["kl_to_optimum"]
    assert len(calls) == 12 * 4 * recipe.SAMPLES
    prompts, texts, rewards = zip(*calls[:: len(calls) // 20], strict=True)
    scores = EndogenousReward(anchor).score(prompts, texts)
    assert rewards == pytest.approx([score.reward_sum for score in scores], abs=1e-5)
