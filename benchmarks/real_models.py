"""The theorems between real models, exactly: every prompt's whole token tree, every statement,
every bound's value.

    python benchmarks/real_models.py --out out/real_models            run what is not there yet
    python benchmarks/real_models.py --out out/real_models --report   the tables, as in
    docs/models.md

Models are read from ENDORM_SHARED (default ../shared). 1,000 random sums for the addition models
(10,000 responses each), all 729 words for nano-sort (729 responses each). No prompt is over a
budget: balls take about two minutes for nano-sort, and half an hour for each addition model.
"""

import math
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from resumable import main, results

from llm_bridge.check.comparison import compare
from llm_bridge.check.exact import model_instance
from llm_bridge.improve.target import right
from llm_bridge.models.spec import ModelSpec
from llm_bridge.tasks.generated import addition, sorting
from theory.mdp.responses import Responses
from theory.solve.soft import power_policy

SHARED = Path(os.environ.get("ENDORM_SHARED", "../shared")) / "models"
PROMPTS, BLOCK = 1000, 100
POWERS = (2.0, 11.0)


def pairs():
    """Model and expert, by name."""
    teacher = ModelSpec(str(SHARED / "add-teacher"))
    found = {
        name: (ModelSpec(str(SHARED / name)), teacher)
        for name in ("add-small", "add-fair", "add-good", "add-poor")
    }
    for name in ("add-teacher", "nano-sort"):
        one = ModelSpec(str(SHARED / name))
        found[f"{name}, colder"] = one, ModelSpec(one.model, temperature=0.9)
        found[f"{name}, bfloat16"] = ModelSpec(one.model, dtype="bfloat16"), one
        found[f"{name}, 8 bits"] = ModelSpec(one.model, bits=8), one
        found[f"{name}, 4 bits"] = ModelSpec(one.model, bits=4), one
    return found


def run(name):
    """Everything exact of one pair."""
    started = time.time()
    policy, expert = pairs()[name]
    task = sorting() if "nano-sort" in name else addition(PROMPTS, seed=2026)
    lm, teacher = policy.load_pair(expert)
    instances, accuracy = [], {}
    for start in range(0, len(task.prompts), BLOCK):
        block = task.take(range(start, min(start + BLOCK, len(task.prompts))))
        found = model_instance(
            lm,
            teacher,
            block.prompts,
            len(task.answers[0]),
            temperature=policy.temperature,
            expert_temperature=expert.temperature,
        )
        instances.append(found.instance)
        ids = np.array(lm.tokenizer(list(block.answers), add_special_tokens=False)["input_ids"])
        for who, one in (("model", found.tree.policy), ("expert", found.expert_tree.policy)):
            answers = Responses(np.arange(len(ids)), ids)
            shares = right(one, answers)
            for power in POWERS:
                shares[f"power {power:g}"] = right(power_policy(one, power), answers)["sampled"]
            for how, values in shares.items():
                accuracy.setdefault(who, {}).setdefault(how, []).extend(values.tolist())
    means = {
        who: {how: float(np.mean(x)) for how, x in shares.items()}
        for who, shares in accuracy.items()
    }
    return compare(instances, budget=math.inf).as_dict() | {
        "accuracy": means,
        "seconds": time.time() - started,
    }


def report(out):
    """The tables."""
    there = results(out)
    found = {name: there[name] for name in pairs() if name in there}
    print(
        "| model π̂ | sampled | power 2 | power 11 | MAP | greedy | KL(π_E‖π̂) | KL(π̂‖π_E) | ε_π "
        "| ε visited | median |"
    )
    print("|---|" + "---:|" * 10)
    for name, one in found.items():
        shares, near = one["accuracy"]["model"], list(one["closeness"].values())
        cells = [
            f"{shares[how]:.3f}" for how in ("sampled", "power 2", "power 11", "map", "greedy")
        ]
        cells += [number(x) for x in (near[-2], near[-1], near[0], near[2], near[3])]
        print(f"| {name} | {' | '.join(cells)} |")
    for family in ("add-", "add-teacher", "nano-sort"):
        teacher = family == "add-teacher"
        statements(
            {
                name: one
                for name, one in found.items()
                if name.startswith(family) and (teacher or "teacher" not in name)
            }
        )
    print()
    for name, one in found.items():
        verdicts = [line["verdict"] for line in one["statements"].values()]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts)))
        worst = {
            radius: [number(float(x)) for x in row.values()] for radius, row in one["worst"].items()
        }
        print(f"{name}: {one['prompts']} prompts, {counts}, {one['seconds']:.0f} s")
        print(f"  loses: { {policy: number(x) for policy, x in one['gaps'].items()} }")
        print(f"  worst (radius, cloning, RL, RL against the best, KL): {worst}")


def statements(found):
    """Both sides of every inequality: a column for each pair."""
    print(f"\n| statement | {' | '.join(found)} |\n|---|" + "---:|" * len(found))
    for lines in zip(*(one["statements"].values() for one in found.values()), strict=True):
        if " ≤ " in lines[0]["claim"]:
            cells = [
                f"{number(x['mean_left'])} ≤ {number(x['mean_right'])}"
                + empty(float(x["vacuous_share"]))
                for x in lines
            ]
            print(f"| *{lines[0]['statement']}* | {' | '.join(cells)} |")


def empty(share):
    """A mark where a bound says nothing, and on how many prompts if not on all."""
    if math.isnan(share) or share == 0:
        return ""
    return " ∅" if share == 1 else f" ∅ {share:.0%}" if share > 0.005 else " ∅ <1%"


def number(x):
    """Three digits."""
    return f"{float(x):.3g}"


def jobs():
    """One for each pair."""
    return {name: partial(run, name) for name in pairs()}


if __name__ == "__main__":
    main(__doc__, jobs, report)
