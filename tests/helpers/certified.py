"""Small instances on which Coq evaluates the definitions that the theorems are about.

Python writes an instance of rational numbers, and the doubles that it finds for both sides of each
row, into a file. Coq-Interval proves that both sides of the row's theorem, read off the theorem
itself, are these numbers to 1e-12.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from theory.claims.instance import COVERED, Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

HORIZON = 2

Tokens = tuple[int, ...]

POLICIES = "expert p r n s"
BALL = f"eps lo width {POLICIES}"
READ = "alpha r p v n s"
RL = f"{READ} rl delta"

VARIABLES = {
    "soft-value": "alpha r n s",
    "telescoping": "alpha r n s",
    "endogenous-telescoping": "alpha p v n s",
    "soft-rl-fixed-point": "alpha p v n s q",
    "irl-saddle": "alpha p v n s",
    "irl-gap": "alpha p v n s expert",
    "inverse-soft-q": "alpha p v n s expert",
    "theorem-1": f"eps {READ} tau tau'",
    "theorem-1-sharp": f"eps {READ} shared rest rest'",
    "preference-length": f"eps {READ} shared rest rest'",
    "preference-average": f"{READ} pairs weight",
    "theorem-2-clone": BALL,
    "clone-elementary": BALL,
    "clone-three-halves": BALL,
    "clone-pinsker": POLICIES,
    "clone-stepwise": BALL,
    "clone-composition": BALL,
    "clone-entropy": "alpha eps vocab r p n s",
    "clone-tv": POLICIES,
    "clone-hellinger": POLICIES,
    "clone-one-response": POLICIES,
    "clone-variance": f"{POLICIES} c",
    "clone-le-cam": f"{POLICIES} c",
    "theorem-2-rl": f"eps {RL} width",
    "rl-expert": f"eps {RL}",
    "rl-length": f"eps {RL}",
    "rl-any-comparator": f"eps {RL} q",
    "rl-average": RL,
    "rl-anchored": f"eps {READ}",
    "anchored-two-ways": "alpha p v n s",
    "rl-anchored-renyi": READ,
    "rl-anchored-sharp": f"eps {READ}",
    "regularised-equality": "alpha r p n s",
    "kl-length": "eps expert p n s",
    "kl-ball": "eps expert p n s",
    "coverage": "ratio expert p n s",
    "best-of-n": "draws p ranked n s",
    "hellinger-ball": "eps expert p n s",
    "tv-composition": "eps expert p n s",
    "tv-affinity": "eps expert p n s",
}
"""The variables of each row's theorem; `_terms` has what they are."""

OF_RESPONSES = ("telescoping", "endogenous-telescoping", "soft-rl-fixed-point", "anchored-two-ways")
"""Rows with a number for each response. Their theorems end in "for every response"."""

OF_PAIRS = ("theorem-1", "theorem-1-sharp", "preference-length")
"""Rows with a number for each pair of responses."""

OF_LOGARITHMS = ("soft-rl-fixed-point", "anchored-two-ways")
"""Rows on log-probabilities whose theorems are about the probabilities."""


class Claim(NamedTuple):
    """Both sides of a row, for one response or pair where it is about these.

    Attributes:
        row: name of the statement.
        terms: what the theorem's variables are: Coq's terms by name.
        tau: the response, in Coq.
        left: left side, as Python finds it.
        right: right side.
    """

    row: str
    terms: dict[str, str]
    tau: str
    left: float
    right: float


def random_instance(seed: int) -> tuple[Instance, list[np.ndarray]]:
    """Return an instance of the paper's, ``V = 2``, ``H = 2``, of small rationals, and the logits
    of its policy by layer.
    """
    rng = np.random.default_rng(seed)
    shapes = [(2**h, 2) for h in range(HORIZON)]
    mdp = TokenMDP.tree([rng.integers(0, 17, shape) / 16 for shape in shapes])
    alpha = float(rng.integers(4, 17) / 8)
    expert = soft_optimal(mdp, alpha).policy
    logits = [
        np.round(16 * log_probs + rng.integers(-8, 9, log_probs.shape)) / 16
        for log_probs in expert.log_probs
    ]
    return Instance(mdp, expert, Policy.from_logits(mdp.dynamics, logits), alpha), logits


def number(x: float) -> str:
    """Write a double as the fraction that it is.

    >>> number(-0.375)
    '(-3 / 8)'
    """
    exact = Fraction(float(x))
    return f"({exact.numerator} / {exact.denominator})"


def word(tokens: Tokens) -> str:
    """Write tokens as a list of Coq.

    >>> word((0, 1))
    '[0; 1]%nat'
    """
    return f"[{'; '.join(map(str, tokens))}]%nat" if tokens else "(@nil nat)"


def claims(instance: Instance) -> Iterator[Claim]:
    """Both sides of each row, in doubles."""
    every = [tuple(map(int, tokens)) for tokens in np.asarray(instance.responses.tokens)]
    pairs = list(itertools.combinations(every, 2))
    listed = "; ".join(f"({word(one)}, {word(two)})" for one, two in pairs)
    rank = np.argsort(instance.policy_log_prob, axis=None)
    known = {
        "pairs": f"[{listed}]",
        "weight": f"(fun _ => 1 / {len(pairs)})",
        "ranked": f"[{'; '.join(word(every[k]) for k in rank)}]",
        **TERMS,
    }
    of_row = {"soft-rl-fixed-point": {"q": "resolved"}, **_centres(instance)}
    for statement in STATEMENTS:
        row = statement.name
        cases: list[tuple[str, dict[str, str]]] = [(word(()), {})]
        if row in OF_RESPONSES:
            cases = [(word(tokens), {}) for tokens in every]
        elif row in OF_PAIRS:
            cases = [(word(()), _pair(*pair)) for pair in pairs]
        both = np.broadcast_arrays(statement.quantity.of(instance), statement.bound.of(instance))
        sides = np.stack([np.ravel(side) for side in both], axis=-1)
        if row in OF_LOGARITHMS:
            sides = np.exp(sides)
        for (tau, more), (left, right) in zip(cases, sides, strict=True):
            all_terms = known | of_row.get(row, {}) | more
            terms = {name: all_terms[name] for name in VARIABLES[row].split()}
            yield Claim(row, terms, tau, left, right)


TERMS = {
    "alpha": "alpha",
    "eps": "eps",
    "lo": "0",
    "width": "1",
    "vocab": "2%nat",
    "delta": "0",
    "ratio": f"{COVERED}",
    "draws": f"{COVERED}%nat",
    "r": "rewards",
    "p": "learner",
    "expert": "expert",
    "v": "normaliser",
    "rl": "most_probable",
    "q": "best",
    "n": f"{HORIZON}%nat",
    "s": "[]",
}


def _centres(instance: Instance) -> dict[str, dict[str, str]]:
    """The best constant `c` of each row whose theorem is about all: a mean of the return."""
    one, two = np.exp(instance.expert_log_prob), np.exp(instance.policy_log_prob)
    weights = {"clone-variance": (np.sqrt(one) + np.sqrt(two)) ** 2, "clone-le-cam": one + two}
    return {
        row: {"c": number(np.average(instance.true_return, weights=weight))}
        for row, weight in weights.items()
    }


def _pair(one: Tokens, two: Tokens) -> dict[str, str]:
    k = next(h for h in range(HORIZON) if one[h] != two[h])
    return {
        "tau": word(one),
        "tau'": word(two),
        "shared": word(one[:k]),
        "rest": word(one[k:]),
        "rest'": word(two[k:]),
    }


def instance_file(
    instance: Instance, logits: list[np.ndarray], found: list[Claim], folder: str = "instances"
) -> str:
    """Write the file in which Coq proves what was found on an instance."""
    rl = np.asarray(instance.rl_response.tokens)[0]
    best = np.asarray(instance.responses.tokens)[int(np.argmax(instance.true_return))]
    lines = [
        f"From Endorm.{folder} Require Import Evaluate.",
        "Open Scope R_scope.",
        f"Definition alpha : R := {number(float(instance.alpha))}.",
        f"Definition eps : R := {number(float(instance.epsilon))}.",
        f"Definition rewards : table (list nat) nat := fun _ => {_table(instance.mdp.rewards)}.",
        f"Definition logits : list nat -> nat -> R := {_table(logits)}.",
        "Definition expert : table (list nat) nat := soft_policy alpha rewards.",
        "Definition learner : table (list nat) nat := fun _ s => softmax 1 (acts s) (logits s).",
        "Definition normaliser := gauge_of_logits alpha logits.",
        "Definition resolved : table (list nat) nat :=",
        "  soft_policy alpha (endogenous alpha learner normaliser).",
        f"Definition most_probable := plays {word(tuple(map(int, rl)))}.",
        f"Definition best := plays {word(tuple(map(int, best)))}.",
    ]
    ball = "log_ratio_ball ({}) expert learner 2%nat []"
    lines += [
        f"Goal {ball.format('eps + 1 / 1000000000000')}. Proof. evaluate_everywhere. Qed.",
        f"Goal {ball.format('eps - 1 / 1000000000000')}. Proof. Fail evaluate_everywhere. Abort.",
        "Goal reward_range 0 1 rewards 2%nat []. Proof. evaluate_everywhere. Qed.",
    ]
    for claim in found:
        given = " ".join(f"({name} := {term})" for name, term in claim.terms.items())
        lines += [
            f"Goal True. (* {claim.row} *)",
            f"pose proof @{claim.row.replace('-', '_')} as claim.",
            f"specialize (claim _ _ prefixes); specialize claim with {given}.",
            f"certify claim {claim.tau} {number(claim.left)} {number(claim.right)}.",
            "exact I. Qed.",
        ]
    return "\n".join(lines) + "\n"


def _table(layers: Any) -> str:
    """Numbers by prefix and token, as a function of Coq."""
    cases = [
        f"| [{'; '.join('O' if t == 0 else 'S O' for t in prefix)}], {token} => {number(x)}"
        for h, layer in enumerate(layers)
        for prefix, row in zip(itertools.product(range(2), repeat=h), layer, strict=True)
        for token, x in zip(("O", "S O"), row, strict=True)
    ]
    return f"fun s a => match s, a with {' '.join(cases)} | _, _ => 0 end"
