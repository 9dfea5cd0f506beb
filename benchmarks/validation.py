"""Real models against tabular predictions: rewards, preferences and values, predicted and measured.

Two families: models of addition trained by other people, and transformers of three sizes trained
here on demonstrations of experts whose MDP is known, against the tabular fit of the same
demonstrations.

    python benchmarks/validation.py --out out/validation             run what is not there yet
    python benchmarks/validation.py --out out/validation --report    tables and figures of what is
    there

Models are read from ENDORM_SHARED (default ../shared).
"""

import os
import time
import zlib
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from resumable import main
from validation_report import report

from llm_bridge.check.points import Sampling
from llm_bridge.check.truth import (
    mdp_truth,
    model_truth,
    over_all_pairs,
    reward_distance,
    task_truth,
)
from llm_bridge.check.validation import Validation
from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import RewardReading
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import addition
from theory.fit.demonstrations import Demonstrations
from theory.fit.imitation import next_token_mle
from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, greedy_response, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.reward import endogenous_reward, returns
from theory.solve.soft import plain_optimal, power_policy, soft_optimal
from theory.studies.gallery import coin_payoff

SHARED = Path(os.environ.get("ENDORM_SHARED", "../shared")) / "models"
MODELS = ("add-small", "add-fair", "add-good", "add-poor", "add-teacher")
SIZES = {"4k": (16, 1, 2), "40k": (36, 2, 2), "260k": (64, 4, 4)}  # hidden, layers, heads
NUMBERS, SEEDS, DATA_SETS = (300, 3000, 30_000), (0, 1), 20
SMOOTHING = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
STEPS, BATCH, EVALUATED = 800, 128, (25, 50, 100, 200, 400, 800)
PROMPTS = ("A", "B")


# --- The addition family --------------------------------------------------------------------------


def addition_family(name):
    """Points of one model on 200 prompts: both gauges and terminal rules, pairs of two
    distributions, values of four policies.

    The true reward of the preferences is the teacher's endogenous reward, on the first 6 prompts;
    values are probabilities that the answer is right.
    """
    lm, task = ModelSpec(SHARED / name).load(), addition(200, seed=11)
    few = task.take(range(50))
    one = Validation(lm, task.prompts, 4, sampling=Sampling(draws=256, seed=own_seed(name)))
    points = named(one.rewards(), "logits, zero") + named(one.values(task_truth(lm, task)), "")
    # with bootstrap three tokens of four: the context has no position for a tenth
    for gauge, terminal, horizon in (("logprob", "zero", 4), ("logits", "bootstrap", 3)):
        other = Validation(
            lm,
            few.prompts,
            horizon,
            reading=RewardReading(gauge=gauge, terminal=terminal),
            sampling=Sampling(draws=4, seed=own_seed(name, gauge)),
        )
        points += named(other.rewards(2), f"{gauge}, {terminal}")
    return {"points": points + compared(lm, task, own_seed(name, "pairs"))}


def compared(lm, task, seed, shares=(0.0, 0.5), **wrong):
    """Preferences of a model of addition, on the first 6 prompts: 10⁸ pairs of responses to each
    are predicted from.
    """
    prompts = task.prompts[:6]
    sampling = Sampling(draws=2, pairs=600, seed=seed)
    one = Validation(lm, prompts, 4, sampling=sampling).planted(**wrong)
    truth = model_truth(ModelSpec(SHARED / "add-teacher").load(), prompts, 4)
    return [
        row
        for s in shares
        for row in named(one.preferences(truth, expert_share=s), f"expert {s:g}")
    ]


def planted(name):
    """The same on 50 prompts with an error in what is measured: another gauge, terminal rule,
    temperature, `α`.
    """
    lm, task = ModelSpec(SHARED / name).load(), addition(200, seed=11).take(range(50))
    found = {}
    for what, wrong, horizon in (
        ("gauge", {"reading": RewardReading(gauge="logprob")}, 4),
        ("terminal rule", {"reading": RewardReading(terminal="bootstrap")}, 3),
        ("sampled at ½", {"temperature": 0.5}, 4),
        ("half of α", {"reading": RewardReading(alpha=0.5)}, 4),
    ):
        sampling = Sampling(draws=256, seed=own_seed(name, what))
        one = Validation(lm, task.prompts, horizon, sampling=sampling).planted(**wrong)
        found[what] = named(one.rewards(2), what)
        if horizon == 4:
            found[what] += named(one.values(task_truth(lm, task)), what)
            found[what] += compared(lm, task, own_seed(name, what), (0.0,), **wrong)
    return {"planted": found}


def own_seed(*names):
    """Of the draws of one job: intervals of different jobs are independent."""
    return zlib.crc32(repr(names).encode())


def named(points, how):
    """As rows of a file."""
    return [{"how": how} | point._asdict() for point in points]


# --- The self-trained family ----------------------------------------------------------------------


class Problem(NamedTuple):
    """A known MDP, its states as they are and as a tree, and its expert."""

    mdp: TokenMDP
    tree: TokenMDP
    expert: Policy
    alpha: float
    prompts: tuple[str, ...]


@cache
def problems():
    """By name."""
    rng = np.random.default_rng(0)
    windows = [rng.random((2 * 3**h, 3)) for h in range(3)]
    found = {
        "tree": (TokenMDP.random(4, 5, n_prompts=2, seed=0), 0.2),
        "window": (TokenMDP.window([windows[min(h, 2)] for h in range(6)], 2), 0.2),
        "coin": (coin_payoff(8, 0.5), 0.5),
    }
    made = {}
    for name, (mdp, alpha) in found.items():
        tree = mdp.as_tree()
        made[name] = Problem(
            mdp, tree, soft_optimal(tree, alpha).policy, alpha, PROMPTS[: tree.dynamics.n_prompts]
        )
    return made


def four_values(mdp, policy):
    """Plain values of what can be made of a policy, exact."""
    return {
        "sampling": float(plain_value(mdp, policy)),
        "greedy": float(mdp.dynamics.average(returns(mdp, greedy_response(policy)))),
        "map": float(mdp.dynamics.average(returns(mdp, map_response(policy)))),
        "power": float(plain_value(mdp, power_policy(policy, 2.0))),
    }


def distances(problem, policy, data=None):
    """How far a policy on the tree is from the expert, and from the maximum-likelihood fit of the
    data; exact.
    """
    reward, expert = endogenous_reward(policy, problem.alpha, gauge="logprob"), problem.expert
    every = all_responses(problem.tree.dynamics)
    P = problem.tree.dynamics.n_prompts
    true, read, law = (
        x.reshape(P, -1)
        for x in (returns(problem.tree, every), log_prob(policy, every), log_prob(expert, every))
    )
    found = {
        "to_truth": reward_distance(problem.tree, reward, expert),
        "kl": float(kl(expert, policy)),
        "epsilon": float(max_log_ratio(expert, policy)),
        "values": four_values(problem.tree, policy),
    }
    for share in (0.0, 0.5):
        weights = (1 - share) / true.shape[1] + share * np.exp(law)
        with np.errstate(
            invalid="ignore"
        ):  # a fit without smoothing never writes some responses: −∞ less −∞
            pairs = [
                over_all_pairs(t, problem.alpha * r, w)
                for t, r, w in zip(true, read, weights, strict=True)
            ]
        found |= {
            f"agreement_{share:g}": float(np.mean(pairs, axis=0)[0]),
            f"tv_{share:g}": float(np.mean(pairs, axis=0)[1]),
        }
    if data is not None:
        fit = next_token_mle(data, problem.alpha)
        found |= {
            "to_fit": reward_distance(fit.reward, reward, fit.policy),
            "fit": float(data.log_likelihood(policy)),
        }
    return found


def counted(problem, n, seed):
    """The demonstrations that a model is trained on with this seed: on the tree, and on the MDP's
    own states.
    """
    drawn = problem.expert.sample(n, seed)
    return tuple(
        Demonstrations.from_responses(mdp.dynamics, drawn) for mdp in (problem.tree, problem.mdp)
    )


def smoothed_distance(problem, data, added):
    """To the truth, of the counts of prefixes with a number added to each."""
    return reward_distance(
        problem.tree, next_token_mle(data, problem.alpha, smoothing=added).reward, problem.expert
    )


def tabular(name, n):
    """The tabular fits of `DATA_SETS` data sets, the first of which the models see too."""
    problem, rows = problems()[name], []
    for seed in range(DATA_SETS):
        data, own = counted(problem, n, seed)
        ways = {
            "prefixes": next_token_mle(data, problem.alpha, smoothing=0.5).policy,
            "back-off": next_token_mle(data, problem.alpha, smoothing="witten-bell").policy,
            "states": next_token_mle(own, problem.alpha, smoothing=0.5).policy.as_tree(),
        }
        row = {way: distances(problem, policy, data) for way, policy in ways.items()}
        row["smoothing"] = {added: smoothed_distance(problem, data, added) for added in SMOOTHING}
        plain = next_token_mle(data, problem.alpha)
        row["unsmoothed"] = {
            "epsilon": float(max_log_ratio(problem.expert, plain.policy)),
            "on_its_own": reward_distance(problem.tree, plain.reward, plain.policy),
            "visited": float(np.mean(np.concatenate(plain.visited))),
        }
        rows.append(row)
    best = float(problem.tree.dynamics.average(plain_optimal(problem.tree).values[0]))
    return {"rows": rows, "expert": four_values(problem.tree, problem.expert), "best": best}


def self_trained(name, size, n, seed, steps=STEPS):
    """One training run: exact distances on the way, and points of the model in the end."""
    problem, curve = problems()[name], []
    data, _ = counted(problem, n, seed)
    V, H, P = problem.tree.vocab_size, problem.tree.horizon, len(problem.prompts)

    def evaluate(step, lm):
        tree = token_tree(lm, problem.prompts, H, tokens=range(V))
        curve.append(
            {"step": step, "left_out": tree.max_left_out} | distances(problem, tree.policy, data)
        )

    hidden, layers, heads = SIZES[size]
    started = time.process_time()
    lm = train_on_demonstrations(
        problem.expert,
        n_demonstrations=n,
        steps=steps,
        hidden=hidden,
        layers=layers,
        heads=heads,
        batch=BATCH,
        seed=seed,
        evaluate=evaluate,
        eval_steps=[step * steps // STEPS for step in EVALUATED],
    )
    found = {"curve": curve, "parameters": sum(x.numel() for x in lm.model.parameters())}
    truth = mdp_truth(lm, problem.prompts, problem.mdp, problem.alpha)
    own = own_seed(name, size, n, seed, steps)
    one = Validation(
        lm,
        problem.prompts,
        H,
        reading=RewardReading(problem.alpha),
        sampling=Sampling(draws=1000, pairs=1000, seed=own),
        end_tokens=range(V, V + P),
    )
    points = named(one.rewards(5), "logits, zero") + named(one.values(truth), "")
    for share in (0.0, 0.5):
        points += named(one.preferences(truth, expert_share=share), f"expert {share:g}")
    return found | {"points": points, "seconds": time.process_time() - started}


# --- Running --------------------------------------------------------------------------------------


def jobs():
    """By name."""
    found = {f"addition-{name}": partial(addition_family, name) for name in MODELS}
    found["planted-add-fair"] = partial(planted, "add-fair")
    found |= {
        f"tabular-{name}-{n}": partial(tabular, name, n) for name in problems() for n in NUMBERS
    }
    for seed in SEEDS:
        for name in problems():
            for n in NUMBERS:
                for size in SIZES:
                    found[f"trained-{name}-{size}-{n}-{seed}"] = partial(
                        self_trained, name, size, n, seed
                    )
    found["long-tree-260k-30000-0"] = partial(self_trained, "tree", "260k", 30_000, 0, 3 * STEPS)
    return found


if __name__ == "__main__":
    main(__doc__, jobs, report)
