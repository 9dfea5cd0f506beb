"""Groups of instances, and every statement decided on every group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import cloudpickle
import joblib
import numpy as np

from theory.claims.discounted import DISCOUNTED_STATEMENTS, DiscountedInstance
from theory.claims.findings import Finding, Group, decide_each
from theory.claims.instance import Instance
from theory.claims.own import choose_statements
from theory.claims.problem import POOL
from theory.claims.statement import Statement, Statements
from theory.claims.statements import STATEMENTS
from theory.mdp.discounted import DiscountedMDP
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.discounted import soft_value_iteration
from theory.solve.discounted import worst_clone as discounted_worst_clone
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.solve.worst_kl import worst_kl
from theory.solve.worst_map import worst_map
from theory.solve.worst_preference import preference_attaining_policy, worst_preference_pair
from theory.storage.files import number
from theory.storage.runs import RunFolder
from theory.studies import gallery
from theory.studies.engine import Engine, run_cells, signature

__all__ = ["FINDINGS", "exact_groups", "restricted", "run", "worst_instances"]

SHAPES: tuple[tuple[int, int, int, dict[str, int]], ...] = (
    (2, 1, 1, {}),
    (2, 3, 3, {}),
    (3, 2, 1, {}),
    (3, 4, 2, {"eos": 0}),
    (2, 6, 1, {"window": 2}),
    (4, 3, 2, {"eos": 3}),
    (4, 4, 1, {}),
    (4, 5, 1, {}),
)
"""Vocabulary, horizon and prompts of the random token MDPs: trees, unless there is a window; in
some an end token ends the response."""

FAMILY_HORIZONS = (2, 4, 16, 64)

DISCOUNTS = (0.5, 0.9, 0.99)

DISCOUNTED_ALPHAS = (0.3, 20.0)

DISCOUNTED_EPSILONS = (1e-2, 3.0)

MAX_DISCOUNTED = 64

ALPHAS = (0.05, 20.0)

FINDINGS = "findings.jsonl"
"""File of a run's folder with the findings of each group, until the report is written."""

EPSILONS = (1e-3, 3.0)


def exact_groups(seed: int = 0, *, n_instances: int = 256) -> list[Group]:
    """Make the groups that ``endorm verify`` examines: random token MDPs with a sampled policy and
    with the worst of the ball, the gallery's families, and discounted window MDPs.

    Args:
        seed: seed of rewards, temperatures, radii and policies.
        n_instances: how many random instances of each kind, at least one per shape.

    Example:
        >>> [len(group.instances) for group in exact_groups(n_instances=1)]
        [8, 30, 56, 1]

    """
    rng = np.random.default_rng(seed)
    batch = max(1, math.ceil(n_instances / len(SHAPES)))
    sampled = []
    adversarial = []
    for V, H, P, kind in SHAPES:
        mdp = _random_mdp((V, H, P), batch, rng, **kind)
        alpha = _log_uniform(rng, ALPHAS, batch)
        epsilon = _log_uniform(rng, EPSILONS, batch)
        expert = soft_optimal(mdp, alpha).policy
        drawn = Instance(mdp, expert, sample_log_ratio_ball(expert, epsilon, rng), alpha)
        sampled.append(_in_some_gauge(drawn, rng))
        adversarial += [
            _in_some_gauge(one, rng) for one in worst_instances(mdp, expert, alpha, epsilon)
        ]
    ranges = {
        "alpha": ALPHAS,
        "epsilon": EPSILONS,
        "shapes (V, H, prompts)": [
            (*shape, *(f"{name} {value}" for name, value in kind.items()))
            for *shape, kind in SHAPES
        ],
    }
    return [
        Group("random MDPs, sampled π̂", sampled, ranges, STATEMENTS),
        Group("random MDPs, worst π̂ of the ball", adversarial, ranges, STATEMENTS),
        Group(
            "extremal families of the gallery",
            [_in_some_gauge(one, rng) for one in _families()],
            {"horizons": FAMILY_HORIZONS},
            STATEMENTS,
        ),
        Group(
            "discounted, states that recur, worst π̂ of the ball",
            [_discounted(rng) for _ in range(min(n_instances, MAX_DISCOUNTED))],
            {
                "alpha": DISCOUNTED_ALPHAS,
                "epsilon": DISCOUNTED_EPSILONS,
                "discount": DISCOUNTS,
                "H": "1/(1 − discount)",
            },
            DISCOUNTED_STATEMENTS,
        ),
    ]


def _random_mdp(
    shape: tuple[int, int, int],
    batch: int,
    rng: np.random.Generator,
    window: int | None = None,
    eos: int | None = None,
) -> TokenMDP:
    """Uniform rewards, and prompts of unequal weights: a tree, or a window of tokens."""
    V, H, P = shape
    sizes = [P * V ** min(h, window or h) for h in range(H)]
    rewards = [rng.random((batch, n, V)) for n in sizes]
    weights = rng.dirichlet(np.ones(P))
    if window is None:
        return TokenMDP.tree(rewards, prompt_weights=weights, eos=eos)
    return TokenMDP.window(rewards, window, prompt_weights=weights, eos=eos)


def worst_instances(
    mdp: TokenMDP, expert: Policy, alpha: np.ndarray, epsilon: np.ndarray
) -> list[Instance]:
    """Return an instance with the policy of each adversary of the ball.

    They are those of cloning, of RL, of the divergence, and of the worst pair, which is searched
    for where all responses to a prompt are compared (see `Instance.responses`).

    Args:
        mdp: token MDPs with one batch axis.
        expert: their soft-optimal policies.
        alpha: temperatures, ``batch``.
        epsilon: radii in nats, ``batch``.

    Example:
        >>> mdp = TokenMDP.random(2, 2, batch=(3,), seed=0)
        >>> expert = soft_optimal(mdp, np.ones(3)).policy
        >>> [x.batch_shape for x in worst_instances(mdp, expert, np.ones(3), np.full(3, 0.1))]
        [(3,), (3,), (3,), (3,)]

    """
    tree = mdp.as_tree(), expert.as_tree()  # some adversaries do not forget what a window does
    mapped = worst_map(mdp, expert, epsilon)
    found = [
        Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, alpha),
        Instance(*tree, mapped.policy, alpha, chosen_rl_response=mapped.responses),
        Instance(mdp, expert, worst_kl(expert, epsilon).policy, alpha),
    ]
    if mdp.vocab_size**mdp.horizon <= POOL:
        centre = Instance(mdp, expert, expert, alpha)
        policies = []
        for k, eps in enumerate(epsilon):
            one = centre.take(k)
            ball = one.mdp, one.expert, eps, one.alpha
            _, first, second = worst_preference_pair(*ball)
            policies.append(preference_attaining_policy(*ball, first, second))
        tables = zip(*(policy.log_probs for policy in policies), strict=True)
        found.append(Instance(*tree, Policy(tree[0].dynamics, tuple(map(np.stack, tables))), alpha))
    return found


def _in_some_gauge(instance: Instance, rng: np.random.Generator) -> Instance:
    """The instance with `π̂` read from logits of random normalisers: without, its reward is ``α log
    π̂`` and the rows on gauges compare a number with itself.
    """
    policy = instance.policy
    gauge = tuple(rng.normal(size=(*policy.batch_shape, n)) for n in policy.dynamics.layer_sizes)
    return replace(instance, policy=replace(policy, log_normalizers=gauge))


def _log_uniform(rng: np.random.Generator, interval: tuple[float, float], n: int) -> np.ndarray:
    low, high = interval
    return np.exp(rng.uniform(math.log(low), math.log(high), n))


def _families() -> Iterator[Instance]:
    """Instances of the gallery on which a bound is attained or approached, with the policy that
    does it.
    """
    for horizon in FAMILY_HORIZONS:
        for alpha, epsilon in ((1.0, 0.01), (1.0, 0.1), (0.4, 0.3)):
            vote = gallery.majority_vote(horizon, alpha, epsilon)
            yield gallery.swapped_pair(horizon, alpha, epsilon)
            yield gallery.randomised_response(horizon, alpha, epsilon)
            yield _with_worst_clone(gallery.coin_payoff(horizon, alpha), alpha, epsilon)
            yield _with_worst_clone(vote, alpha, epsilon)
        # where α is free the stepwise bound is approached, and nothing is left of the paper's
        # square
        alpha = max(math.sqrt(horizon), 1.0) / 0.01
        yield _with_worst_clone(gallery.majority_vote(horizon, alpha, 0.01), alpha, 0.01)
        yield gallery.indifferent_learner(horizon, 0.7)


def _discounted(rng: np.random.Generator) -> DiscountedInstance:
    """A random window MDP without end, and the policy of the ball that is worst for cloning."""
    V = int(rng.integers(2, 5))
    size = int(rng.integers(1, 3))
    mdp = DiscountedMDP.window(rng.random((V**size, V)), size, float(rng.choice(DISCOUNTS)))
    alpha = _log_uniform(rng, DISCOUNTED_ALPHAS, 1).item()
    epsilon = _log_uniform(rng, DISCOUNTED_EPSILONS, 1).item()
    expert = soft_value_iteration(mdp, alpha).policy
    worst = discounted_worst_clone(mdp, expert, epsilon).policy
    return DiscountedInstance(mdp, worst, alpha, rng.normal(size=len(mdp.rewards)))


def _with_worst_clone(mdp: TokenMDP, alpha: float, epsilon: float) -> Instance:
    expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, worst_clone(mdp, expert, epsilon).policy, alpha)


def restricted(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """Return groups with only the statements of these names; those that have none are left out.

    Args:
        groups: the groups.
        names: as `theory.claims.own.choose_statements` reads them.

    Raises:
        ValueError: no statement has a name; says which come near.

    Example:
        >>> groups = restricted(exact_groups(n_instances=1), ["theorem-1", "rl-length"])
        >>> [group.statements.names for group in groups][2:]
        [['theorem-1', 'rl-length'], ['theorem-1']]

    """
    chosen = choose_statements(names)
    discounted = Statements(s for s in DISCOUNTED_STATEMENTS if s.name in chosen.names)
    return [
        replace(group, statements=statements)
        for group in groups
        for statements in [discounted if group.statements is DISCOUNTED_STATEMENTS else chosen]
        if statements
    ]


def run(
    groups: Sequence[Group],
    engine: Engine = Engine(),
    run: RunFolder | None = None,
) -> list[Finding]:
    """Check every statement on every group; a terminal shows the progress.

    Args:
        groups: the groups, with names of their own, each with one of the lists of statements.
        engine: where groups are decided, each by itself; the findings are the same everywhere.
        run: folder, entered, whose ``findings.jsonl`` gets a line for each group. What is there of
            the same instances, our same files and the same NumPy is not decided again.

    Raises:
        ValueError: two groups have one name, the folder has damaged lines, or groups failed.
        OSError: the engine is not there or is lost.

    Example:
        >>> from theory.studies.gallery import swapped_pair
        >>> pairs = [swapped_pair(H, alpha=1.0, epsilon=0.1) for H in (2, 4)]
        >>> found = run([Group("pairs", pairs, {}, STATEMENTS)])
        >>> len(found) == len(STATEMENTS), max(finding.instances for finding in found)
        (True, 2)

    """
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ValueError(
            f"groups: two are called {max(names, key=names.count)!r}; findings go by the name of "
            "their group"
        )
    lines = None if run is None else run.lines(FINDINGS, _found)
    decided_on = {group.name: _digest(group) for group in groups} if run else {}
    there = {name: found for name, on, found in lines or () if decided_on.get(name) == on}
    todo = {
        group.name: (group.statements, group.instances, group.name)
        for group in sorted(groups, key=_cost, reverse=True)
        if group.name not in there
    }
    for name, found in run_cells(_decided, todo, engine, what="groups", done=len(there)):
        there[name] = found
        if lines is not None:
            findings = [asdict(finding) for finding in found]
            lines.append({"group": name, "instances": decided_on[name], "findings": findings})
    return [
        replace(finding, statement=statement)
        for group in groups
        for statement, finding in zip(group.statements, there[group.name], strict=True)
    ]


def _cost(group: Group) -> int:
    return sum(instance.numbers * math.prod(instance.batch_shape) for instance in group.instances)


def _digest(group: Group) -> str:
    """What the findings of a group depend on, one's own statements included."""
    statements = cloudpickle.dumps(group.statements)
    digest: str = joblib.hash((signature(), group.instances, statements))
    return digest


def _decided(
    statements: Sequence[Statement[Any]], instances: Sequence[Any], name: str
) -> list[Finding]:
    """Decide, on a worker; the findings have no statement: whoever asked has it."""
    none: Any = None
    found = decide_each(statements, instances, group=name)
    return [replace(finding, statement=none) for finding in found]


def _found(row: Mapping[str, Any]) -> tuple[str, str, list[Finding]]:
    """Read the name of a group, the digest of what was decided on, and the findings."""
    findings = [
        Finding(**{name: number(value) for name, value in one.items()}) for one in row["findings"]
    ]
    return row["group"], row["instances"], findings
