"""Self-improvement beyond text: a GPT-2 that writes molecules, judged exactly by RDKit.

``python benchmarks/molecules.py --out DIR`` runs every job that ``DIR`` does not have yet, one at a
time on one thread; ``--report`` prints the tables of ``docs/molecules.md`` and draws its figures.
The models ``smiles-small`` and ``smiles-large`` are read from ``ENDORM_SHARED/models``.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import collections
import contextlib
import io
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from molecules_report import report
from resumable import main

from llm_bridge.commands.main import main as endorm
from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.beam import beam_search
from llm_bridge.read.prefixes import PrefixReader, select
from llm_bridge.read.reward import EndogenousReward, find_end_tokens
from llm_bridge.read.rollout import Actor, generate
from llm_bridge.tasks.molecules import molecule_metrics, molecules, read_molecule

SHARED = Path(os.environ.get("ENDORM_SHARED", Path(__file__).parents[2] / "shared")) / "models"
BASE = PPOConfig(max_tokens=74, prompts_per_step=1, samples=128, minibatch=32, steps=40, lr=2e-4)
H = BASE.max_tokens
BETAS = {"own": (0.01, 0.03, 0.1, 0.3, 1.0), "large": (0.01, 0.1, 1.0)}
TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
SEEDS = {"own": 2, "soft-large": 2, "large": 1}
DRAWS = 4000
"""Untrained samples whose rewards are compared with the verifier."""

LEAST = {"small": -12.5, "large": -11.5}
"""Nats: responses that are at least so probable are enumerated, all of them."""

MEASURED = 1000
"""Samples of every policy that is compared: uniqueness depends on their number."""


def load(name):
    """Load one of the two models."""
    return ModelSpec(SHARED / f"smiles-{name}").load()


def sample(lm, n, *, temperature=1.0, seed=1):
    """Sample `n` responses to the empty prompt: their ids, texts and ``log π``, nats."""
    [prompt] = (encode_prompt(lm, text, H) for text in molecules().prompts)
    numbers = torch.rand(n, H, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    ends = find_end_tokens(lm)
    rollout = generate(
        Actor(lm), [prompt], H, ends, uniforms=numbers, samples=n, temperature=temperature
    )
    return (*read(lm, rollout), rollout.log_probs.sum(dim=1).double().numpy())


def read(lm, rollout):
    """Return the ids of sampled responses, and their texts."""
    ids = [row.tolist() for row in rollout.texts()[1]]
    ends = find_end_tokens(lm)
    texts = lm.tokenizer.batch_decode([[t for t in row if t not in ends] for row in ids])
    return ids, texts


def scores(lm, ids):
    """Score responses to the empty prompt with a model's endogenous reward."""
    prompt = encode_prompt(lm, "", H)
    return EndogenousReward(lm).score_ids([prompt] * len(ids), ids, progress=False)


def measured(lm, ids, texts, own_log_probs):
    """Measure samples of a policy as molecules, and how far from `lm` (`π̂`) the policy is."""
    log_ratio = own_log_probs - np.array([s.log_prob for s in scores(lm, ids)])
    valid = [m for m in map(read_molecule, texts) if m is not None]
    names = collections.Counter(m.smiles for m in valid).most_common(3)
    return molecule_metrics(texts) | {
        "samples": len(texts),
        "n_valid": len(valid),
        "kl": float(log_ratio.mean()),
        "tokens": [len(row) for row in ids],
        "heavy": [m.heavy_atoms for m in valid],
        "qeds": [m.qed for m in valid],
        "most_common": [[name, count / len(texts)] for name, count in names],
        "first": texts[:6],
    }


# --- Jobs: each returns what is to be written -----------------------------------------------------


def untrained():
    """What a model of molecules knows: rewards of its own samples beside the verifier."""
    small = load("small")
    ids, texts, _ = sample(small, DRAWS, seed=0)
    found = [read_molecule(text) for text in texts]
    columns = {
        "tokens": [len(row) for row in ids],
        "valid": [m is not None for m in found],
        "smiles": [None if m is None else m.smiles for m in found],
        "qed": [None if m is None else m.qed for m in found],
        "heavy_atoms": [None if m is None else m.heavy_atoms for m in found],
    }
    for name in ("small", "large"):
        of_all = scores(load(name), ids)
        columns |= {
            f"{name}_reward": [s.reward_sum for s in of_all],
            f"{name}_log_prob": [s.log_prob for s in of_all],
            f"{name}_mean": [s.log_prob / len(s.log_probs) for s in of_all],
            f"{name}_worst": [float(s.log_probs.min()) for s in of_all],
        }
    return {"columns": columns, "ended": [row[-1] in find_end_tokens(small) for row in ids]}


def temperatures():
    """What sharpening every token gives with no training, and the larger model as it is."""
    small = load("small")
    found = {}
    for temperature in TEMPERATURES:
        found[f"{temperature:g}"] = measured(
            small, *sample(small, MEASURED, temperature=temperature)
        )
    found["large"] = measured(small, *sample(load("large"), MEASURED))
    return {"temperatures": found}


def most_probable():
    """The greedy response, and the most probable one that a beam of 512 finds."""
    found = {}
    for name in ("small", "large"):
        lm = load(name)
        ends = find_end_tokens(lm)
        rollout = generate(Actor(lm), [encode_prompt(lm, "", H)], H, ends, uniforms=None)
        ids, texts = read(lm, rollout)
        beam = beam_search(lm, [""], H, 512, end_tokens=ends)
        best = [int(token) for token in beam.responses[0]]
        [text] = lm.tokenizer.batch_decode([[t for t in best if t not in ends]])
        for how, row, smiles in (("greedy", ids[0], texts[0]), ("beam", best, text)):
            molecule = read_molecule(smiles)
            found[f"{name}-{how}"] = {
                "smiles": smiles,
                "valid": molecule is not None,
                "qed": None if molecule is None else molecule.qed,
                "log_prob": scores(lm, [row])[0].log_prob,
                "tokens": len(row),
                "proven": bool(beam.proven[0]) if how == "beam" else None,
            }
    return {"responses": found}


@torch.no_grad()
def enumerated(name):
    """All responses with ``log π ≥ LEAST``: a prefix below that has none, and is left out.

    Any probability in these models is exact, so the list is whole: the first is the most probable
    response, and for small β the optimum of PPO is among them (see ``optimum`` in the report).
    """
    lm = load(name)
    [end] = find_end_tokens(lm)
    reader = PrefixReader(lm, H, 2**31)
    todo = [(torch.tensor([encode_prompt(lm, "", H)]), torch.zeros(1, dtype=torch.double), None)]
    found = []
    n_prefixes = 0
    while todo:  # depth first, a block of prefixes at a time: the caches of all would be gigabytes
        ids, log_probs, cache = todo.pop()
        n_prefixes += len(ids)
        logits, cache = reader.logits(ids.numpy(), cache, keep=True)
        children = log_probs[:, None] + torch.log_softmax(logits, dim=-1)
        found += [row[1:] for row in ids[children[:, end] >= LEAST[name]].tolist()]
        children[:, end] = -torch.inf
        if ids.shape[1] == H:  # the next token is the last: responses without an end token
            assert children.max() < LEAST[name]
            continue
        parent, token = (children >= LEAST[name]).nonzero(as_tuple=True)
        for some in torch.arange(len(parent)).split(1024) if len(parent) else ():
            longer = torch.cat([ids[parent[some]], token[some, None]], dim=1)
            kept = children[parent[some], token[some]]
            todo.append((longer, kept, select(cache, parent[some])))
    ids = [[*row, end] for row in found]
    by = {n: [s.log_prob for s in scores(load(n), ids)] for n in ("small", "large")}
    return {"smiles": lm.tokenizer.batch_decode(found), "prefixes": n_prefixes, **by}


def check(*options):
    """Run ``endorm check`` of the small model against the large one, from the empty prompt."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as text:
        words = ["--model", str(SHARED / "smiles-small"), "--expert", str(SHARED / "smiles-large")]
        code = endorm(["check", *words, "--prompt", "", *options, "--out", folder])
        found = json.loads((Path(folder) / "check.json").read_text())
    return {"code": code, "text": text.getvalue(), "check": found}


def ppo(teacher=None, seed=0, **changes):
    """Train the small model; the curve is that of the batches themselves, as they were sampled."""
    small = load("small")
    config = replace(BASE, seed=seed, **changes)
    trainer = Trainer(
        small, molecules().prompts, config, teacher=None if teacher is None else load(teacher)
    )
    curve = []
    for batch in range(config.steps):
        row = trainer.step()
        row = {name: row[name] for name in ("reward", "kl", "tokens", "log_prob", "update_kl")}
        if batch % 2 == 0:  # sampled before the update
            row |= molecule_metrics(read(trainer.lm, trainer.rollout)[1])
        curve.append({"batch": batch} | row)
    return {"curve": curve, "after": measured(small, *sample(trainer.lm, MEASURED))}


def jobs():
    """By name, the most wanted first."""
    found = {"untrained": untrained, "temperatures": temperatures, "most-probable": most_probable}
    trained = {}
    for seed in range(SEEDS["own"]):
        for beta in BETAS["own"]:
            trained[f"own-{beta:g}-{seed}"] = partial(ppo, None, seed, beta=beta)
    for seed in range(SEEDS["soft-large"]):
        trained[f"soft-large-{seed}"] = partial(ppo, "large", seed, beta=0.0, entropy=1.0)
    for seed in range(SEEDS["large"]):
        for beta in BETAS["large"]:
            trained[f"large-{beta:g}-{seed}"] = partial(ppo, "large", seed, beta=beta)
    found |= {name: job for name, job in trained.items() if name.endswith("-0")}
    found |= {f"enumerated-{name}": partial(enumerated, name) for name in LEAST}
    found["check-exact"] = partial(check, "--horizon", "3")
    found["check-sampled"] = partial(
        check, "--horizon", str(H), "--sampled", "1000", "--beam", "256"
    )
    return found | trained


if __name__ == "__main__":
    main(__doc__, jobs, report, processes=1)
