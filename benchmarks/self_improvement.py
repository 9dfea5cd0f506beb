"""The paper's third experiment in small: models of addition improved by PPO on their own reward,
and the exact ends.

Every number is exact on the enumerated token trees of held-out prompts; what varies from seed to
seed is the training.

    python benchmarks/self_improvement.py --out out/self_improvement   what is not there yet, two
                                                                       jobs at a time
    python benchmarks/self_improvement.py --out … --report             tables and figures of what is

Models are read from ENDORM_SHARED (default ../shared).
"""

import copy
import os
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from resumable import main
from self_improvement_report import report

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.run import train
from llm_bridge.improve.target import ExactTarget
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import CausalLM
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.prefixes import PrefixReader, select
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import ADDITION_LEVELS, addition, addition_answer, sorting
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.solve.soft import log_softmax, power_policy

SHARED = Path(os.environ.get("ENDORM_SHARED", "../shared")) / "models"
STUDENTS, SEEDS, PER_LEVEL = ("add-small", "add-fair", "add-good", "add-poor"), (0, 1, 2), 60
POWERS = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0, 11.0, 20.0, 50.0, 101.0)
BASE = PPOConfig(beta=0.1, max_tokens=4, end_tokens=(), steps=100)


@cache
def held_out():
    """Prompts of graded difficulty, `PER_LEVEL` of each level in a row."""
    return tuple(
        p for level in ADDITION_LEVELS for p in addition(PER_LEVEL, seed=99, level=level).prompts
    )


def prompts(seed):
    """To train on: 50,000 random ones without those held out."""
    held = set(held_out())
    return [p for p in addition(50_000, seed=1000 + seed).prompts if p not in held]


def target(lm, config, teacher=None):
    """The exact target on the held-out prompts."""
    return ExactTarget(lm, held_out(), config, list(map(addition_answer, held_out())), teacher)


def by_level(right):
    """Accuracies of each level and their average, from one number a prompt."""
    levels = {
        level: float(x.mean())
        for level, x in zip(ADDITION_LEVELS, right.reshape(5, -1), strict=True)
    }
    return levels | {"average": float(right.mean())}


def measured(at, policy):
    """All that is exact of a policy, and its accuracies by level."""
    levels = {f"levels_{how}": by_level(right) for how, right in at.right(policy).items()}
    return at.measure(policy) | {"kl_from_optimum": float(kl(at.optimum, policy))} | levels


# --- Jobs: each returns what is to be written -----------------------------------------------------


def improve(model, seed=0, curve=False, teacher=None, extra=None, watch=5, **changes):
    """One run; the curve is that of every fifth (`watch`) of the held-out prompts, beside the
    powers' own on these.
    """
    lm = ModelSpec(SHARED / model).load()
    other = None if teacher is None else ModelSpec(SHARED / teacher).load()
    config = _replace(seed, changes)
    rows, few = [], held_out()[::watch]
    start = time.time()
    watched = ExactTarget(lm, few, BASE, list(map(addition_answer, few))) if curve else None

    def evaluate(policy):
        rows.append(watched.report(policy))
        return {}

    made = {
        "checked": checked,
        "right": right_answer,
        "bradley-terry": partial(bradley_terry, lm, seed),
    }
    reward = None if extra is None else made[extra]()
    trainer = train(
        Trainer(lm, prompts(seed), config, teacher=other, extra=reward),
        evaluate=evaluate if curve else None,
        eval_every=20,
    )
    seconds = time.time() - start
    at = target(lm, BASE if not config.alpha else config, other)
    policy = token_tree(trainer.lm, held_out(), 4).policy
    found = {
        "before": measured(at, at.anchor),
        "after": measured(at, policy),
        "optimum": measured(at, at.optimum),
    }
    powers = (
        [{"exponent": k} | watched.measure(power_policy(watched.anchor, k)) for k in POWERS]
        if curve
        else []
    )
    return found | {"curve": rows, "powers": powers, "seconds": seconds}


def _replace(seed, changes):
    return replace(BASE, seed=seed, **changes)


def right_answer():
    """1 for the right answer, at its last token."""

    def reward(prompts, responses):
        pairs = zip(prompts, responses, strict=True)
        good = ["".join(map(str, r)) == addition_answer("".join(map(str, p))) for p, r in pairs]
        return [np.array([0.0, 0.0, 0.0, float(g)]) for g in good]

    return reward


def checked():
    """The same for one prompt in a hundred, always the same ones."""
    whole = right_answer()

    def reward(prompts, responses):
        some = [int("".join(map(str, p))) * 2654435761 % 2**32 < 2**32 / 100 for p in prompts]
        return [r * s for r, s in zip(whole(prompts, responses), some, strict=True)]

    return reward


def bradley_terry(lm, seed):
    """The reward of a model trained on pairs of responses of which one is right: the student's
    body, a scalar head.
    """
    actor, generator = Actor(lm), torch.Generator().manual_seed(seed)
    body = Actor(type(lm)(copy.deepcopy(lm.model), lm.tokenizer, "reward model"))
    head = torch.nn.Linear(128, 10)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.Adam([*body.model.parameters(), *head.parameters()], lr=3e-4)
    pool = [[int(c) for c in p] for p in prompts(seed)]

    def scores(ids):
        """Of the last token in the state before it, ``(n,)``: the models have no position for a
        tenth token.
        """
        states = body.hidden(ids[:, :-1], torch.ones_like(ids[:, :-1], dtype=torch.bool), 1)
        return head(states[:, 0]).gather(1, ids[:, -1:])[:, 0]

    for _ in range(300):
        some = torch.randint(len(pool), (256,), generator=generator).tolist()
        draws = torch.rand(512, 4, generator=generator, dtype=torch.double)
        written = generate(actor, [pool[i] for i in some], 4, uniforms=draws, samples=2)
        good = torch.tensor(
            [r[-1] for r in right_answer()(*written.texts())], dtype=torch.bool
        ).view(-1, 2)
        use = good[:, 0] != good[:, 1]
        margins = scores(written.ids).view(-1, 2)[use]
        sign = torch.where(good[use][:, 0], 1, -1)
        loss = -torch.nn.functional.logsigmoid(sign * (margins[:, 0] - margins[:, 1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def reward(prompts, responses):
        ids = torch.tensor(np.concatenate([np.array(prompts), np.array(responses)], axis=1))
        return [np.array([0.0, 0.0, 0.0, s]) for s in scores(ids).tolist()]

    return reward


def iterate(scheme, rounds=2, beta=1.0, model="add-fair"):
    """The three schemes of ``theory.solve.improve.SCHEMES`` by PPO, each round from the policy of
    the last.
    """
    from theory.solve.improve import scheme_exponent

    lm = last = ModelSpec(SHARED / model).load()
    at, rows = target(lm, _replace(0, {"beta": beta})), []
    for round_ in range(1, rounds + 1):
        anchor = lm if scheme == "reread" else last
        teacher = lm if scheme == "anchor" else last
        config = _replace(round_, {"beta": beta, "steps": 50})
        teacher = None if teacher is anchor else teacher
        last = train(Trainer(anchor, prompts(round_), config, teacher=teacher)).lm
        exponent = float(scheme_exponent(scheme, 1.0, beta, round_))
        found, policy = power_policy(at.anchor, exponent), token_tree(last, held_out(), 4).policy
        rows.append(
            {"exponent": exponent, "exact": measured(at, found), "ppo": measured(at, policy)}
        )
    return {"rounds": rows}


def decoding(model):
    """What decoding alone gives, exactly (majority votes: of 4,000 draws of each)."""
    lm = ModelSpec(SHARED / model).load()
    at = target(lm, BASE)
    P, V = len(held_out()), 10
    table = log_prob(at.anchor, all_responses(at.anchor.dynamics)).reshape(P, V**4)
    answers = np.array(
        [int(addition_answer(p)) for p in held_out()]
    )  # responses are in order of their digits
    found = {"sampled": np.exp(table[np.arange(P), answers])}
    logits = at.anchor.log_probs
    for temperature in (0.5, 0.2):
        cold = Policy(at.anchor.dynamics, tuple(log_softmax(x / temperature, 1.0) for x in logits))
        found[f"temperature {temperature}"] = at.right(cold)["sampled"]
    for beta in (1.0, 0.3, 0.1, 0.01):
        found[f"power 1+α/{beta:g}"] = at.right(power_policy(at.anchor, 1 + 1 / beta))["sampled"]
    right = at.right(at.anchor)
    found |= {"greedy": right["greedy"], "most probable": right["map"]}
    order = np.argsort(-table, axis=1)
    mass = np.take_along_axis(np.exp(table), order, axis=1)
    tail = np.clip(1 - np.cumsum(mass, axis=1), 0, 1)
    above = np.concatenate([np.ones((P, 1)), tail[:, :-1]], axis=1)
    rank = np.argmax(order == answers[:, None], axis=1)
    rng = np.random.default_rng(0)
    for n in (8, 64):
        found[f"best of {n}"] = (above**n - tail**n)[np.arange(P), rank]
        votes = rng.multinomial(n, mass / mass.sum(axis=1, keepdims=True), size=(200, P))
        # ties among the most frequent are broken evenly
        top = votes == votes.max(axis=-1, keepdims=True)
        found[f"majority of {n}"] = (top[:, np.arange(P), rank] / top.sum(axis=-1)).mean(axis=0)
    return {"decoding": {name: by_level(x) for name, x in found.items()}}


def small_sets(model, beta):
    """A few dozen prompts that are trained on and measured: how near the optimum a run ends."""
    lm = ModelSpec(SHARED / model).load()
    task = sorting(32, seed=5) if model == "nano-sort" else addition(32, seed=5)
    config = _replace(
        0,
        {
            "beta": beta,
            "max_tokens": len(task.answers[0]),
            "prompts_per_step": 32,
            "samples": 16,
            "minibatch": 256,
            "steps": 150,
            "lr": 5e-4,
        },
    )
    at = ExactTarget(lm, task.prompts, config, task.answers)
    return {"after": at.report(train(Trainer(lm, task.prompts, config)).lm)}


# What supervised learning of the optimum reaches


def limit(model, batches, size=512, pool=400, lr=1e-3):
    """`π̂`'s weights fitted to the rows of ``π* = π̂^{1+α/β}`` where `π*` goes: ``E_π* Σ_h
    KL(π*(·|s_h)‖π_θ(·|s_h))``.

    As many batches as six minutes of one core allow, of one response a prompt, drawn from `π*` anew
    each time; from `pool` batches on the prompts come again. Adam, cosine schedule.
    """
    lm, held = ModelSpec(SHARED / model).load(), set(held_out())
    exponent, reader = 1 + BASE.alpha / BASE.beta, PrefixReader(lm, 4, 2**30)
    generator = torch.Generator().manual_seed(0)
    some = [p for p in addition(pool * size + len(held), seed=2000).prompts if p not in held]
    ids = torch.tensor([[int(c) for c in p] for p in some[: pool * size]]).split(size)
    exact = power_policy(token_tree(lm, some[:20], 4).policy, exponent)
    gap = np.abs(
        Kept(reader, ids[0][:20], exponent).tables[0].exp().numpy() - np.exp(exact.log_probs[0])
    ).max()
    assert gap < 1e-5, gap
    net = copy.deepcopy(lm.model).eval()  # no dropout
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.95))
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1, (k + 1) / 20) * (1 + np.cos(np.pi * k / batches)) / 2
    )
    start, reading, targets = time.process_time(), 0.0, []
    for k in range(batches):
        if k < pool:
            before = time.process_time()
            targets.append(Kept(reader, ids[k], exponent))
            reading += time.process_time() - before
        texts, rows = targets[k % pool].draw(generator)
        own = torch.log_softmax(net(texts[:, :-1]).logits[:, 5:], dim=-1)
        loss = -(rows * own).sum(dim=(1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        pace.step()
    seconds = {"targets": reading, "training": time.process_time() - start - reading}
    at = target(lm, BASE)
    after = measured(at, token_tree(CausalLM(net, lm.tokenizer, model), held_out(), 4).policy)
    return {
        "after": after,
        "optimum": measured(at, at.optimum),
        "drawn": batches * size,
        "seconds": seconds,
    }


class Kept:
    """``π̂^κ`` on prompts ``(n, 6)``, without the prefixes that it as good as never writes.

    A prefix that `π̂` finds 2.5 nats less probable than the whole greedy response weighs, with all
    that comes after it, less than ``e^{-2.5κ}`` of the normaliser: at ``κ = 11`` 1e-12. Some ten
    prefixes of 1,111 are left.
    """

    @torch.no_grad()
    def __init__(self, reader, ids, exponent, gap=2.5):
        self.ids, self.steps, n = ids, [], len(ids)
        logits, prompt = reader.logits(ids.numpy(), None, True)
        texts, cache, least = (
            ids,
            select(prompt, torch.arange(n)),
            torch.full((n,), -gap, dtype=torch.double),
        )
        first = law = logits.log_softmax(dim=-1)
        for h in range(4):
            best, token = law.max(dim=-1)
            texts, least = torch.cat([texts, token[:, None]], dim=1), least + best
            if h < 3:
                logits, cache = reader.logits(texts.numpy(), cache, True)
                law = logits.log_softmax(dim=-1)
        texts, law, cache, owner, total = (
            ids,
            first,
            prompt,
            torch.arange(n),
            torch.zeros(n, dtype=torch.double),
        )
        for h in range(4):
            children = total[:, None] + law
            parent, token = (children >= least[owner][:, None]).nonzero(as_tuple=True)
            self.steps.append((len(texts), parent, token))
            texts, owner = torch.cat([texts[parent], token[:, None]], dim=1), owner[parent]
            total = children[parent, token]
            if h < 3:
                logits, cache = reader.logits(texts.numpy(), select(cache, parent), True)
                law = logits.log_softmax(dim=-1)
        value, self.tables = exponent * total, []  # log π*(a|s) of the prefixes kept, by layer
        for n, parent, token in reversed(self.steps):
            table = torch.full((n, 10), -torch.inf, dtype=torch.double)
            table[parent, token] = value
            value = table.logsumexp(dim=-1)
            self.tables.insert(0, table - value[:, None])

    def draw(self, generator):
        """A response to each prompt, prompt included, ``(n, 10)``, and the rows ``(n, 4, 10)`` it
        was drawn from.
        """
        texts, rows, node = [self.ids], [], torch.arange(len(self.ids))
        for (n, parent, token), table in zip(self.steps, self.tables, strict=True):
            rows.append(table[node].exp())
            texts.append(torch.multinomial(rows[-1], 1, generator=generator))
            child = torch.zeros(n, 10, dtype=torch.long)
            child[parent, token] = torch.arange(len(parent))
            node = child[node, texts[-1][:, 0]]
        return torch.cat(texts, dim=1), torch.stack(rows, dim=1).float()


def jobs():
    """By name, the most wanted first."""
    found = {f"decoding-{model}": partial(decoding, model) for model in STUDENTS}
    found |= {f"improve-{model}-0": partial(improve, model, curve=True) for model in STUDENTS}
    ways = {}
    for gauge in ("logprob", "logits"):
        for lam in (1.0, 0.9):
            changes = {"reward": "dense", "gauge": gauge, "gae_lambda": lam}
            ways[f"way-dense-{gauge}-{lam:g}"] = partial(improve, "add-fair", curve=True, **changes)
    found |= {name: job for name, job in ways.items() if name.endswith("-1")}
    found |= {f"improve-{model}-1": partial(improve, model, 1) for model in STUDENTS[:2]}
    for extra, alpha in (("right", 0.0), ("bradley-terry", 0.0), ("checked", 1.0)):
        found[f"extra-{extra}"] = partial(improve, "add-fair", extra=extra, alpha=alpha)
    found["distil-add-fair"] = partial(improve, "add-fair", teacher="add-teacher")
    found |= {f"improve-{model}-2": partial(improve, model, 2) for model in STUDENTS[:2]}
    found |= {
        f"few-nano-sort-{beta:g}": partial(small_sets, "nano-sort", beta)
        for beta in (1.0, 0.3, 0.1)
    }
    found |= {
        f"few-add-fair-{beta:g}": partial(small_sets, "add-fair", beta) for beta in (1.0, 0.3, 0.1)
    }
    found |= {f"improve-{model}-1": partial(improve, model, 1) for model in STUDENTS[2:]}
    found["beta-0.01"] = partial(improve, "add-fair", curve=True, beta=0.01)
    found |= {
        f"iterate-{scheme}": partial(iterate, scheme) for scheme in ("compound", "reread", "anchor")
    }
    found |= ways
    found["distil-add-small"] = partial(improve, "add-small", teacher="add-teacher")
    found |= {f"improve-{model}-2": partial(improve, model, 2) for model in STUDENTS[2:]}
    found |= {f"beta-{beta:g}": partial(improve, "add-fair", beta=beta) for beta in (0.3, 1.0)}
    found |= {
        f"long-{model}": partial(improve, model, curve=True, watch=1, steps=400)
        for model in STUDENTS
    }
    found |= {
        f"limit-{m}": partial(limit, m, n)
        for m, n in zip(STUDENTS, (1400, 1100, 800, 400), strict=True)
    }
    return found


if __name__ == "__main__":
    main(__doc__, jobs, report, processes=2)
