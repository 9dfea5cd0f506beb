"""Instances at the edges of what the package takes, and what their enclosures miss of the oracle's
numbers.
"""

import mpmath
import numpy as np
from mpmath import mpf
from reference import Oracle, describe

from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import HOLDS, VIOLATED, check
from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

MAX_RESPONSES = 64
"""Responses to a prompt, at most: all of them are listed and compared."""

RULES = ("tree", "window", "table")


def extreme_instance(rng, *, longest=5, numbers=1e6):
    """A random instance: rewards and temperatures from ``1/numbers`` to `numbers`, offsets, masks,
    ends, rare prompts.

    Its policy is equal to the expert, near it, far from it, short of tokens, or of rows that do not
    sum to one.
    """
    vocab_size, prompts = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    most = (
        longest
        if vocab_size == 1
        else min(longest, int(np.log(MAX_RESPONSES) / np.log(vocab_size) + 1e-9))
    )
    mdp = extreme_mdp(rng, vocab_size, int(rng.integers(1, most + 1)), prompts, numbers)
    alpha = _between(rng, 1 / numbers, numbers)
    expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, extreme_policy(rng, expert), alpha)


def _between(rng, low, high):
    """Log-uniform; one in ten is a power of ten, where ties and exact results are."""
    value = np.log10(low) + rng.random() * np.log10(high / low)
    return float(10 ** (np.round(value) if rng.random() < 0.1 else value))


def extreme_mdp(rng, vocab_size, horizon, prompts, numbers):
    rule, scale = RULES[rng.integers(3)], _between(rng, 1 / numbers, numbers)
    offset = scale * float(rng.choice([0, 0, 1, -1, 1e3, -1e6]))
    if rule == "tree":
        sizes = [prompts * vocab_size**h for h in range(horizon)]
    elif rule == "window":
        sizes = [prompts * vocab_size ** min(h, 1) for h in range(horizon)]
    else:
        sizes = [prompts, *(int(n) for n in rng.integers(1, 4, horizon - 1))]
    kinds = ("uniform", "uniform", "equal", "binary", "tiny")
    kind = kinds[rng.integers(len(kinds))]
    shapes = [(n, vocab_size) for n in sizes]
    if kind == "uniform":
        tables = [rng.random(shape) for shape in shapes]
    elif kind == "equal":
        tables = [np.full(shape, 0.5) for shape in shapes]
    elif kind == "binary":
        tables = [rng.integers(0, 2, shape).astype(float) for shape in shapes]
    else:
        tables = [rng.random(shape) * 10.0 ** rng.integers(-12, 1, shape) for shape in shapes]
    masks = None
    if rng.random() < 0.4:
        masks = [rng.random(shape) < 0.7 for shape in shapes]
        for mask in masks:
            mask[np.arange(len(mask)), rng.integers(vocab_size, size=len(mask))] = True
    weights = None
    if prompts > 1 and rng.random() < 0.5:
        weights = rng.dirichlet(np.ones(prompts))
        weights[rng.integers(prompts)] = 0.0
        weights = weights / weights.sum()
    rewards = [np.clip(offset + scale * table, offset, offset + scale) for table in tables]
    options = {
        "reward_range": (offset, offset + scale * float(rng.choice([1, 1, 1, 10]))),
        "allowed": masks,
        "prompt_weights": weights,
        "eos": int(rng.integers(vocab_size)) if rng.random() < 0.25 else None,
    }
    if rule == "tree":
        return TokenMDP.tree(rewards, **options)
    if rule == "window":
        return TokenMDP.window(rewards, 1, **options)
    links = [rng.integers(0, sizes[h + 1], (sizes[h], vocab_size)) for h in range(horizon - 1)]
    return TokenMDP.table(rewards, links, **options)


def extreme_policy(rng, expert):
    dynamics, kind = expert.dynamics, rng.integers(8)
    epsilon = 10 ** rng.uniform(-12, 2)
    finite = [np.where(np.isfinite(t), t, -np.inf) for t in expert.log_probs]
    if kind == 0:
        return expert
    if kind <= 3:
        policy = Policy.from_logits(
            dynamics, [t + epsilon * rng.uniform(-1, 1, t.shape) for t in finite]
        )
    elif kind == 4:
        policy = Policy.from_logits(dynamics, [t * rng.uniform(0.2, 3) for t in finite])
    elif kind == 5:  # of tokens that the expert never writes, some are written
        policy = Policy.from_logits(dynamics, [epsilon * rng.normal(size=t.shape) for t in finite])
    else:  # some tokens are lacking
        tables = [t + epsilon * rng.uniform(-1, 1, t.shape) for t in finite]
        for table in tables:
            lacking = (rng.random(table.shape) < 0.2) & np.isfinite(table)
            table[
                lacking & (np.cumsum(np.isfinite(table) & ~lacking, axis=-1)[..., -1:] > 0)
            ] = -np.inf
        policy = Policy.from_logits(dynamics, tables)
    if rng.random() < 0.3:  # rows that do not quite sum to one, and no gauge
        tables = tuple(t + 5e-10 * rng.uniform(-1, 1) for t in policy.log_probs)
        policy = Policy(dynamics, tables, policy.log_normalizers if rng.random() < 0.5 else None)
    return policy


def one_state_layers(rng, horizon, alpha=0.3, epsilon=0.5, vocab_size=2):
    """One state a layer: `horizon` tokens that are independent, and a policy in the ball of radius
    `epsilon`.
    """
    links = [np.zeros((1, vocab_size), dtype=int)] * (horizon - 1)
    mdp = TokenMDP.table([rng.random((1, vocab_size)) for _ in range(horizon)], links)
    expert = soft_optimal(mdp, alpha).policy
    logits = [t + epsilon / 2 * rng.uniform(-1, 1, t.shape) for t in expert.log_probs]
    return Instance(mdp, expert, Policy.from_logits(mdp.dynamics, logits), alpha)


def faults(instance, bits=53, digits=60, statements=STATEMENTS):
    """What the enclosures of an instance get wrong, in words: nothing, if they are sound.

    Both sides of every statement hold the oracle's numbers wherever it may apply; what is certain
    to apply does, and what is certain not to does not; and what is decided of a statement is so.
    """
    oracle = Oracle(describe(instance), digits)
    prompts = instance.mdp.dynamics.n_prompts
    found = []
    with mpmath.workdps(digits + 30):
        for statement in statements:
            result = check(statement, instance, bits)
            for prompt in oracle.prompts:
                sides = oracle.sides(prompt)[statement.name]
                if sides is None:
                    continue
                applies = oracle.applies(prompt)[statement.name]
                problem = _fault(
                    statement, result, prompt, prompts, sides, applies, mpf(10) ** (10 - digits)
                )
                if problem:
                    found.append(f"{statement.name}, prompt {prompt}, {bits} bits: {problem}")
            if set(
                np.unique(result.codes[~np.repeat(instance.counts, len(result.codes) // prompts)])
            ) - {0}:
                found.append(f"{statement.name}: a prompt that cannot occur has a verdict")
    return found


def _fault(statement, result, prompt, prompts, sides, applies, within):
    """What is wrong of one statement on one prompt, or `None`."""
    n = len(result.codes) // prompts
    rows = slice(prompt * n, (prompt + 1) * n)
    columns = [
        x[rows].ravel().tolist()
        for x in (*result.ends, result.applies, result.uncertain, result.codes)
    ]
    lefts, rights = (s if isinstance(s, list) else [s] * len(columns[0]) for s in sides)
    elementwise = statement.name in ("theorem-1", "theorem-1-sharp", "preference-length")
    for left_low, left_high, right_low, right_high, certain, uncertain, code, left, right in zip(
        *columns, lefts, rights, strict=True
    ):
        if not elementwise and certain != applies and not uncertain:
            return f"it applies: {certain}, perhaps: {uncertain}; to the oracle: {applies}"
        if not certain and not uncertain:
            continue
        for name, low, high, exact in (
            ("left", left_low, left_high, left),
            ("right", right_low, right_high, right),
        ):
            slack = within * (1 + abs(exact)) if mpmath.isfinite(exact) else 0
            if low > exact + slack or high < exact - slack:
                return f"{name} is {mpmath.nstr(exact, 20)}, not in [{low!r}, {high!r}]"
        if mpmath.isnan(left) or mpmath.isnan(right):
            if code in (HOLDS, VIOLATED):
                return f"decided ({code}) of {left} and {right}"
            continue
        size = max(1, abs(left), abs(right))
        apart = mpf(0) if left == right else left - right
        true = abs(apart) <= within * size if statement.equality else apart <= within * size
        if code == (VIOLATED if true else HOLDS):
            return f"verdict {code} of {mpmath.nstr(left, 20)} and {mpmath.nstr(right, 20)}"
    return None
