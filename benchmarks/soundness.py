"""A million instances, random and climbed to where the bounds are tight: is any verdict wrong?

``python benchmarks/soundness.py --out DIR``       runs the jobs that have no file in DIR yet;
``python benchmarks/soundness.py --out DIR --report``  prints what they found.

Each job draws a batch of small token MDPs (trees, windows, tables; masks, prompts of weight zero,
offsets, rewards over twelve decades, temperatures over six around these) with policies from 1e-14
to 30 nats away, half of them climbed by random steps towards a large ``left/right`` of one bound.
On each instance every statement is decided as it stands, which must not be *violated*, and with its
right side moved past the left by 1, by 1e-9 or by 1e-13 of its size, which must not *hold*.
"""

import os
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from resumable import main, results

from theory.claims.findings import decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.reports.report import Column, Table
from theory.solve.soft import soft_optimal

BATCH, JOBS = 5_000, 200
SHAPES = ((2, 1), (1, 3), (3, 1), (2, 2), (4, 1), (2, 3), (3, 2))
"""Vocabulary and horizon: of the first half of the jobs all in turn, of the rest the first five,
which cost less.
"""

CLIMB = 40
DELTAS = {"1": 1.0, "1e-9": 1e-9, "1e-13": 1e-13}
BOUNDS = [
    s
    for s in STATEMENTS
    if not s.equality and s.name not in ("theorem-1-sharp", "preference-average")
]


def random_mdp(rng, vocab_size, horizon):
    """A batch of token MDPs on random dynamics."""
    prompts = int(rng.integers(1, 3))
    kind = rng.choice(["tree", "window", "table"])
    if kind == "tree":
        sizes = [prompts * vocab_size**h for h in range(horizon)]
    elif kind == "window":
        sizes = [prompts * vocab_size ** min(h, 1) for h in range(horizon)]
    else:
        sizes = [prompts, *(int(n) for n in rng.integers(1, 4, horizon - 1))]
    masks = None
    if vocab_size > 1 and rng.random() < 0.3:
        masks = [rng.random((n, vocab_size)) < 0.7 for n in sizes]
        for mask in masks:
            mask[np.arange(len(mask)), rng.integers(vocab_size, size=len(mask))] = True
    scale = 10.0 ** rng.uniform(-6, 6)
    low = scale * float(rng.choice([0.0, -1.0, 1e3]))
    weights = [1.0, 0.0] if prompts == 2 and rng.random() < 0.3 else None
    options = {"reward_range": (low, low + scale), "allowed": masks, "prompt_weights": weights}
    rewards = [
        np.clip(low + scale * rng.random((BATCH, n, vocab_size)), low, low + scale) for n in sizes
    ]
    if kind == "tree":
        return TokenMDP.tree(rewards, **options), scale
    if kind == "window":
        return TokenMDP.window(rewards, 1, **options), scale
    links = [rng.integers(0, sizes[h + 1], (sizes[h], vocab_size)) for h in range(horizon - 1)]
    return TokenMDP.table(rewards, links, **options), scale


def random_policy(rng, expert):
    """Policies from almost equal to far away, in the gauge of their own logits."""
    size = 10.0 ** rng.uniform(-14, 1.5, (BATCH, 1, 1))
    return Policy.from_logits(
        expert.dynamics, [t + size * rng.uniform(-1, 1, t.shape) for t in expert.log_probs]
    )


def climbed(rng, mdp, alpha, expert, policy):
    """Random steps of the policies, each kept where it raises ``left/right`` of one bound."""
    bound = BOUNDS[int(rng.integers(len(BOUNDS)))]

    def ratio(one):
        instance = Instance(mdp, expert, one, alpha)
        with np.errstate(all="ignore"):
            found = np.asarray(bound.quantity.of(instance) / bound.bound.of(instance))
        return np.nan_to_num(
            found.reshape(BATCH, -1).max(axis=1, initial=-np.inf), nan=-np.inf, posinf=-np.inf
        )

    best = ratio(policy)
    for _ in range(CLIMB):
        step = 10.0 ** rng.uniform(-3, 0.5)
        logits = [t + step * rng.normal(size=t.shape) for t in policy.log_probs]
        tried = Policy.from_logits(mdp.dynamics, logits)
        value = ratio(tried)
        better = (value > best)[:, None, None]
        tables = [
            np.where(better, a, b) for a, b in zip(tried.log_probs, policy.log_probs, strict=True)
        ]
        gauges = [
            np.where(better[..., 0], a, b)
            for a, b in zip(tried.log_normalizers, policy.log_normalizers, strict=True)
        ]
        policy, best = Policy(mdp.dynamics, tuple(tables), tuple(gauges)), np.maximum(best, value)
    return policy


def planted(statement, delta):
    """The statement with its right side on the wrong side of the left by `delta` of its size, or
    more.
    """

    def right(i):
        if statement.equality:
            true = statement.bound.of(i)
            return true + delta * (abs(true) + i.temperature * 1e-3)
        left = statement.quantity.of(i)
        return left - delta * (abs(left) + 1e-3)

    return replace(statement, bound=replace(statement.bound, of=right))


def run(job):
    """Verdicts of one batch."""
    rng = np.random.default_rng([2026, job])
    mdp, scale = random_mdp(rng, *SHAPES[job % (len(SHAPES) if job < JOBS // 2 else 5)])
    alpha = scale * 10.0 ** rng.uniform(-3, 3, BATCH)
    expert = soft_optimal(mdp, alpha).policy
    policy = random_policy(rng, expert)
    if job % 2:
        policy = climbed(rng, mdp, alpha, expert, policy)
    instance = Instance(mdp, expert, policy, alpha)
    name = list(DELTAS)[job // 2 % len(DELTAS)]
    variants = {
        "as it stands": STATEMENTS,
        name: tuple(planted(s, DELTAS[name]) for s in STATEMENTS),
    }
    flat = [s for statements in variants.values() for s in statements]
    summaries = iter(decide_each(flat, [instance], budget=np.inf))
    found = {
        name: {s.name: next(summaries) for s in statements} for name, statements in variants.items()
    }
    return {
        "instances": BATCH,
        "climbed": bool(job % 2),
        "outcomes": {
            name: {key: summary.outcomes for key, summary in each.items()}
            for name, each in found.items()
        },
        "reasons": {key: s.reasons for key, s in found["as it stands"].items() if s.reasons},
        "ratio": {
            key: s.worst_ratio
            for key, s in found["as it stands"].items()
            if s.worst_ratio == s.worst_ratio
        },
    }


def report(out):
    """Totals over all jobs."""
    total, instances, jobs_done = {}, 0, results(out)
    reasons = {}
    for found in jobs_done.values():
        instances += found["instances"]
        for variant, rows in found["outcomes"].items():
            for row in rows.values():
                for verdict, count in row.items():
                    key = variant, verdict
                    total[key] = total.get(key, 0) + count
        for name, why in found["reasons"].items():
            for reason, count in why.items():
                reasons[name, reason] = reasons.get((name, reason), 0) + count
    print(f"{instances:,} instances in {len(jobs_done)} jobs, {sum(total.values()):,} verdicts")
    wrong = total.get(("as it stands", "violated"), 0)
    wrong += sum(
        count
        for (variant, verdict), count in total.items()
        if variant != "as it stands" and verdict == "holds"
    )
    print(f"wrong verdicts: {wrong}")
    columns = [Column("claims"), Column("verdict"), Column("instances", ",", "right")]
    rows = [(*key, count) for key, count in sorted(total.items())]
    print(Table("", columns, rows).text(100))
    for (name, reason), count in sorted(reasons.items()):
        print(f"  undecided: {name} on {count:,} ({reason})")


def jobs():
    """One for each batch."""
    return {f"batch-{k:03d}": partial(run, k) for k in range(JOBS)}


if __name__ == "__main__":
    main(__doc__, jobs, report, processes=2)
