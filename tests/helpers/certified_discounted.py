"""As `certified`, without a last token.

Values are whatever solves their Bellman equations. Coq encloses each by numbers that nearly solve
it, which are found here with mpmath and need not be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from certified import number
from mpmath import mp, mpf

from theory.claims.discounted import DISCOUNTED_STATEMENTS, DiscountedInstance
from theory.mdp.discounted import DiscountedMDP
from theory.solve.discounted import soft_value_iteration

Table = list[list[Any]]

STATES = ("false", "true")

SOFT = "gamma alpha r soft"
READ = "gamma alpha policy gauge"
PAIR = f"{SOFT} policy gauge eps s tau tau' k u u' l l'"
CLONE = "gamma r expert policy lo width expert_value policy_value s"
RL = f"{SOFT} policy gauge eps rl true_value read_value best_read s"

VARIABLES = {
    "soft-value": f"{SOFT} w s",
    "telescoping": f"{SOFT} s tau u l",
    "endogenous-telescoping": f"{READ} s tau u l",
    "soft-rl-fixed-point": f"{READ} w s a",
    "theorem-1": PAIR,
    "theorem-1-sharp": PAIR,
    "theorem-2-clone": f"{CLONE} eps",
    "clone-elementary": f"{CLONE} eps",
    "clone-three-halves": f"{CLONE} eps",
    "clone-pinsker": f"{CLONE} kl_to_expert",
    "clone-stepwise": f"{CLONE} eps",
    "theorem-2-rl": f"{RL} expert_value width",
    "rl-expert": f"{RL} expert_value",
    "rl-any-comparator": f"{RL} best",
    "rl-anchored": f"{SOFT} policy eps expert_value anchor anchored_value k s",
    "regularised-equality": f"{SOFT} policy w w' k s",
    "kl-ball": f"{SOFT} policy eps k s",
}
"""The variables of each row's theorem."""

TERMS = {name: name for name in ("gamma", "alpha", "soft", "policy", "gauge", "expert")} | {
    "r": "rewards",
    "eps": "eps",
    "lo": "0",
    "width": "1",
    "s": "false",
    "a": "true",
    "k": "O",
    "expert_value": "expert_value",
    "policy_value": "policy_value",
    "kl_to_expert": "kl_to_expert",
    "rl": "(chooses rl)",
    "true_value": "rl_true",
    "read_value": "rl_read",
    "best_read": "best_read",
    "best": "best",
    "anchor": "anchor",
    "anchored_value": "anchored_value",
    "tau": "(follow first false)",
    "tau'": "(follow second true)",
    "u": "true_first",
    "u'": "true_second",
    "l": "read_first",
    "l'": "read_second",
}
"""What they are, where a row does not say otherwise in `OTHERWISE`."""

OTHERWISE = {
    "soft-value": {"w": "expert_regularised"},
    "telescoping": {"l": "expert_first"},
    "endogenous-telescoping": {"u": "read_first", "l": "policy_first"},
    "soft-rl-fixed-point": {"w": "resolved"},
    "rl-anchored": {"k": "kl_from_expert"},
    "regularised-equality": {
        "w": "expert_regularised",
        "w'": "policy_regularised",
        "k": "kl_to_expert",
    },
    "kl-ball": {"k": "kl_to_expert"},
}


class Solution(NamedTuple):
    """A variable of the file: a value or a return, and numbers near it.

    Attributes:
        name: its name.
        claim: what it is, without its name.
        near: the theorem that encloses it and what it reads, up to the variable.
        numbers: the numbers, in Coq.
        proofs: what the theorem is told beside that it is one.
        within: how near.
    """

    name: str
    claim: str
    near: str
    numbers: str
    proofs: str = ""
    within: str = "fine"


def random_instance(seed: int) -> tuple[DiscountedInstance, np.ndarray]:
    """Return an instance of small rationals whose states are the last of two tokens, and the logits
    of its policy.
    """
    rng = np.random.default_rng(seed)
    mdp = DiscountedMDP.window(rng.integers(0, 17, (2, 2)) / 16, 1, float(rng.integers(2, 6) / 8))
    alpha = float(rng.integers(4, 17) / 8)
    expert = soft_value_iteration(mdp, alpha).policy
    logits = np.round(16 * expert + rng.integers(-8, 9, expert.shape)) / 16
    policy = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gauge = rng.integers(-8, 9, 2) / 8
    return DiscountedInstance(mdp, policy, alpha, gauge), logits


class Numbers:
    """The values of an instance, to thirty digits, by iterating their Bellman equations."""

    def __init__(self, instance: DiscountedInstance, logits: np.ndarray) -> None:
        """Find the policies."""
        self.gamma, self.alpha = mpf(float(instance.discount)), mpf(instance.alpha)
        self.rewards = _exact(instance.rewards)
        self.policy = _softmax(_exact(logits))
        gauge = [mpf(float(x)) for x in instance.gauge]
        self.read = [
            [
                self.alpha * mp.log(self.policy[s][a]) + gauge[s] - self.gamma * gauge[a]
                for a in (0, 1)
            ]
            for s in (0, 1)
        ]
        self.expert = self.soft_policy(self.rewards)

    def solve(self, table: Table, reduce: Callable[[int, list[Any]], Any]) -> list[Any]:
        """The fixed point of ``V(s) = reduce(s, x(s,·) + γV(·))``."""
        values = [mpf(0), mpf(0)]
        for _ in range(400):
            values = [
                reduce(s, [table[s][a] + self.gamma * values[a] for a in (0, 1)]) for s in (0, 1)
            ]
        return values

    def soft(self, table: Table) -> list[Any]:
        """Soft values."""
        return self.solve(
            table, lambda s, q: self.alpha * mp.log(sum(mp.exp(x / self.alpha) for x in q))
        )

    def soft_policy(self, table: Table) -> Table:
        """The soft-optimal policy."""
        values = self.soft(table)
        return _softmax(
            [[(table[s][a] + self.gamma * values[a]) / self.alpha for a in (0, 1)] for s in (0, 1)]
        )

    def best(self, table: Table) -> list[Any]:
        """The greatest sums."""
        return self.solve(table, lambda s, q: max(q))

    def mean(self, policy: Table, table: Table) -> list[Any]:
        """The sums that a policy expects."""
        return self.solve(table, lambda s, q: sum(p * x for p, x in zip(policy[s], q, strict=True)))


def _exact(table: Any) -> Table:
    return [[mpf(float(x)) for x in row] for row in table]


def _softmax(rows: Table) -> Table:
    return [[mp.exp(x) / sum(map(mp.exp, row)) for x in row] for row in rows]


def _each(function: Callable[..., Any], *tables: Table) -> Table:
    return [
        [function(*entries) for entries in zip(*rows, strict=True)]
        for rows in zip(*tables, strict=True)
    ]


def decimal(x: Any) -> str:
    """Write a number of mpmath as a fraction, to twenty-five digits.

    >>> decimal(mpf(1) / 4)
    '(2500000000000000000000000 / 10000000000000000000000000)'
    """
    with mp.workdps(40):
        return f"({int(mp.nint(x * 10**25))} / {10**25})"


def choices(policy: Any) -> str:
    """Write a deterministic policy, a table of log-probabilities, as a function of Coq."""
    false, true = (STATES[int(np.argmax(row))] for row in np.asarray(policy))
    return f"fun s : bool => if s then {true} else {false}"


def solutions(
    instance: DiscountedInstance, logits: np.ndarray, pair: tuple[Any, Any]
) -> list[Solution]:
    """Every value and return that a row reads."""
    n = Numbers(instance, logits)
    log_expert, log_policy = (_each(mp.log, table) for table in (n.expert, n.policy))
    rl, first, second = (
        [[mpf(int(a == int(np.argmax(row)))) for a in (0, 1)] for row in np.asarray(policy)]
        for policy in (instance.continuations[1], *pair)
    )
    twice = _each(lambda x: 2 * n.alpha * x, log_policy)
    found: list[Solution] = []

    def soft(name: str, table: str, numbers: list[Any]) -> None:
        near = f"discounted_soft_value_near gamma gamma_range alpha {table}"
        claim = f"is_discounted_soft_value gamma alpha {table}"
        found.append(Solution(name, claim, near, _values(numbers), "alpha_pos", "finer"))

    def best(name: str, table: str, numbers: list[Any]) -> None:
        near = f"discounted_best_value_near gamma gamma_range {table}"
        found.append(
            Solution(name, f"is_discounted_best_value gamma {table}", near, _values(numbers))
        )

    def mean(name: str, policy: str, table: str, numbers: list[Any]) -> None:
        near = f"discounted_value_near gamma gamma_range {policy} {table}"
        proof = f"({policy.strip('()').split()[0]}_policy{' rl' if 'rl' in policy else ''})"
        claim = f"is_discounted_value gamma {policy} {table}"
        found.append(Solution(name, claim, near, _values(numbers), proof))

    def sums(name: str, which: str, a: int, policy: Table, table: str, exact: Table) -> None:
        after = n.mean(policy, exact)
        response = f"false (follow {which} {STATES[a]})"
        near = f"discounted_return_near gamma gamma_range {table} {response}"
        earned = decimal(exact[0][a] + n.gamma * after[a])
        numbers = f"(earns {which} {STATES[a]} {earned} {_values(after)})"
        found.append(
            Solution(name, f"is_discounted_return gamma {table} {response}", near, numbers)
        )

    soft("soft", "rewards", n.soft(n.rewards))
    soft("resolved", "read", n.soft(n.read))
    soft("anchor", "twice", n.soft(twice))
    best("best", "rewards", n.best(n.rewards))
    best("best_read", "read", n.best(n.read))
    mean("expert_value", "expert", "rewards", n.mean(n.expert, n.rewards))
    mean("policy_value", "policy", "rewards", n.mean(n.policy, n.rewards))
    mean("anchored_value", "anchored", "rewards", n.mean(n.soft_policy(twice), n.rewards))
    mean("rl_true", "(chooses rl)", "rewards", n.mean(rl, n.rewards))
    mean("rl_read", "(chooses rl)", "read", n.mean(rl, n.read))
    for name, log in (("expert", log_expert), ("policy", log_policy)):
        spent = _each(lambda x, y: x - n.alpha * y, n.rewards, log)
        table = f"(fun s a => rewards s a - alpha * ln ({name} s a))"
        mean(f"{name}_regularised", name, table, n.mean(getattr(n, name), spent))
    for name, one, two, ratio in (
        ("kl_to_expert", "policy", "expert", _each(lambda x, y: y - x, log_expert, log_policy)),
        ("kl_from_expert", "expert", "policy", _each(lambda x, y: x - y, log_expert, log_policy)),
    ):
        table = f"(fun s a => ln ({one} s a) - ln ({two} s a))"
        mean(name, one, table, n.mean(getattr(n, one), ratio))
    for which, a, policy in (("first", 0, first), ("second", 1, second)):
        sums(f"true_{which}", which, a, policy, "rewards", n.rewards)
        sums(f"read_{which}", which, a, policy, "read", n.read)
    sums("expert_first", "first", 0, first, "(fun s a => ln (expert s a))", log_expert)
    sums("policy_first", "first", 0, first, "(fun s a => ln (policy s a))", log_policy)
    return found


def _values(numbers: list[Any]) -> str:
    return f"(values {' '.join(map(decimal, numbers))})"


def instance_file(seed: int, rows: tuple[str, ...] | None = None, planted: float = 0.0) -> str:
    """Write the file in which Coq proves both sides of rows on a random instance.

    Args:
        seed: of the instance.
        rows: names of statements, all by default.
        planted: error that is added to each left side; Coq is then to reject the file.
    """
    with mp.workdps(40):
        instance, logits = random_instance(seed)
        at = int(np.argmax((instance.pairs[0] % 2 == 0) & (instance.pairs[1] % 2 == 1)))
        indices = [int(side[at]) for side in instance.pairs]
        pair = tuple(instance.continuations[i // 2] for i in indices)
        every = solutions(instance, logits, (pair[0], pair[1]))
    lines = [
        "From Endorm.instances Require Import EvaluateDiscounted.",
        "Open Scope R_scope.",
        f"Definition gamma : R := {number(float(instance.discount))}.",
        f"Definition alpha : R := {number(instance.alpha)}.",
        f"Definition eps : R := {number(float(instance.epsilon[0]))}.",
        f"Definition rewards := table_of {' '.join(map(number, np.ravel(instance.rewards)))}.",
        f"Definition logits := table_of {' '.join(map(number, np.ravel(logits)))}.",
        f"Definition gauge := values {' '.join(map(number, instance.gauge))}.",
        f"Definition rl := {choices(instance.continuations[1])}.",
        f"Definition first := {choices(pair[0])}.",
        f"Definition second := {choices(pair[1])}.",
        "Definition policy (s : bool) : bool -> R := softmax 1 (acts s) (logits s).",
        "Definition read : bool -> bool -> R := discounted_endogenous gamma alpha policy gauge.",
        "Definition twice (s a : bool) : R := 2 * alpha * ln (policy s a).",
        "Lemma gamma_range : 0 <= gamma < 1. Proof. unfold gamma. lra. Qed.",
        "Lemma alpha_pos : 0 < alpha. Proof. unfold alpha. lra. Qed.",
        "Lemma policy_policy : stationary_policy policy.",
        "Proof. intros s. apply Distributions.softmax_distribution, acts_nonempty. Qed.",
        "Section Instance.",
    ]
    for solution in every:
        name, numbers, within = solution.name, solution.numbers, solution.within
        kind, tactic = "bool", "enclose_by"
        goal = f"enclosed {within} {name} {numbers.removeprefix('(values ').removesuffix(')')}"
        if numbers.startswith("(earns"):
            kind, tactic = "nat", "enclose_return_by"
            goal = f"let x := {numbers} O in x - {within} <= {name} O <= x + {within}"
        lines += [
            f"Variable {name} : {kind} -> R.",
            f"Hypothesis {name}_is : {solution.claim} {name}.",
            f"Lemma {name}_enclosed : {goal}.",
            f"Proof. {_known(every, solution)}{tactic} ({solution.near} {name} {numbers} {within}"
            f" {solution.proofs} {name}_is). Qed.",
        ]
        if name in ("soft", "anchor"):
            policy, table = ("expert", "rewards") if name == "soft" else ("anchored", "twice")
            lines += [
                f"Definition {policy} := discounted_soft_policy gamma alpha {table} {name}.",
                f"Lemma {policy}_policy : stationary_policy {policy}.",
                "Proof. intros s. apply Distributions.softmax_distribution, acts_nonempty. Qed.",
            ]
    for statement in DISCOUNTED_STATEMENTS:
        if rows is not None and statement.name not in rows:
            continue
        left, right = (
            np.ravel(side)[_index(statement.name, instance, indices)]
            for side in np.broadcast_arrays(
                statement.quantity.of(instance), statement.bound.of(instance)
            )
        )
        terms = TERMS | OTHERWISE.get(statement.name, {})
        given = " ".join(f"({x} := {terms[x]})" for x in VARIABLES[statement.name].split())
        lines += [
            f"Goal True. (* {statement.name} *)",
            f"pose proof @discounted_{statement.name.replace('-', '_')} as claim.",
            f"specialize (claim _ _ window); specialize claim with {given}.",
            _known(every, None),
            f"certify_enclosed claim tt {number(left + planted)} {number(right)}.",
            "exact I. Qed.",
        ]
    return "\n".join([*lines, "End Instance."]) + "\n"


def _known(every: list[Solution], until: Solution | None) -> str:
    names = [solution.name for solution in every]
    known = names if until is None else names[: names.index(until.name)]
    return "".join(f"pose proof {name}_enclosed. " for name in known)


def _index(row: str, instance: DiscountedInstance, pair: list[int]) -> int:
    """Where the number of state 0 is: of its first response or pair where a row is about these, and
    of its second token.
    """
    if row == "soft-rl-fixed-point":
        return 1
    if row in ("telescoping", "endogenous-telescoping"):
        return pair[0]
    if row in ("theorem-1", "theorem-1-sharp"):
        first, second = instance.pairs
        return int(np.argmax((first == pair[0]) & (second == pair[1])))
    return 0
