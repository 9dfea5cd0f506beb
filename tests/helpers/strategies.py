"""Random token MDPs and policies for Hypothesis, and an oracle that shares no code with the
package.

The oracle reads states from their definition (a prefix, its last tokens, a table that is followed)
and enumerates every response in plain Python.
"""

import itertools
import math

import numpy as np
from hypothesis import strategies as st
from scipy.special import logsumexp

from theory.mdp.dynamics import Table, Window
from theory.mdp.policy import Policy
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.reward import shape_reward

MAX_RESPONSES = 260
seeds = st.integers(0, 2**32 - 1)
alphas = st.floats(math.log(1e-2), math.log(1e2)).map(math.exp)
epsilons = st.floats(math.log(1e-3), math.log(5.0)).map(math.exp)


# --- Oracle ---------------------------------------------------------------------------------------


def read_number(tokens, base):
    number = 0
    for token in tokens:
        number = number * base + token
    return number


def state_of(dynamics, prompt, prefix):
    """State after `prefix`, from the definition of each rule."""
    if isinstance(dynamics.rule, Table):
        state = prompt
        for h, token in enumerate(prefix):
            state = int(dynamics.rule.next_states[h][state, token])
        return state
    m = min(len(prefix), dynamics.rule.size) if isinstance(dynamics.rule, Window) else len(prefix)
    kept = prefix[len(prefix) - m :]
    return prompt * dynamics.vocab_size**m + read_number(kept, dynamics.vocab_size)


def enumerate_responses(dynamics, prompt):
    """Every allowed response as ``(tokens, states)``."""
    V, H = dynamics.vocab_size, dynamics.horizon
    found = []
    for tokens in itertools.product(range(V), repeat=H):
        states = [state_of(dynamics, prompt, tokens[:h]) for h in range(H)]
        masks = dynamics.allowed
        if all(masks[h] is None or masks[h][states[h], tokens[h]] for h in range(H)):
            found.append((tokens, states))
    return found


def along(tables, response):
    """Sum of a per-token quantity along one response."""
    tokens, states = response
    return math.fsum(
        float(tables[h][s, a]) for h, (s, a) in enumerate(zip(states, tokens, strict=True))
    )


def brute_soft_value(mdp, alpha, prompt):
    sums = [along(mdp.rewards, response) for response in enumerate_responses(mdp.dynamics, prompt)]
    return alpha * logsumexp(np.array(sums) / alpha)


def brute_expectation(policy, quantity):
    """``E_π[quantity(response, log-probability)]`` over all responses that have probability."""
    total = 0.0
    for prompt, weight in enumerate(policy.dynamics.prompt_weights):
        for response in enumerate_responses(policy.dynamics, prompt):
            log_p = sum(
                float(policy.log_probs[h][s, a])
                for h, (a, s) in enumerate(zip(*response, strict=True))
            )
            if log_p > -math.inf:
                total += weight * math.exp(log_p) * quantity(response, log_p)
    return total


# --- Strategies -----------------------------------------------------------------------------------


def random_rewards(rng, shape, kind):
    if kind == "uniform":
        return rng.uniform(0, 1, shape)
    if kind == "equal":
        return np.full(shape, 0.5)
    if kind == "binary":
        return rng.integers(0, 2, shape).astype(float)
    return np.where(rng.uniform(0, 1, shape) < 0.15, rng.uniform(0, 1, shape), 0.0)  # sparse


def random_mask(rng, n, vocab_size):
    mask = rng.uniform(0, 1, (n, vocab_size)) < 0.6
    mask[np.arange(n), rng.integers(0, vocab_size, n)] = True
    return mask


def draw_sizes(draw, min_vocab=1, min_horizon=1):
    V = draw(st.integers(min_vocab, 4))
    longest = 5 if V == 1 else min(5, int(math.log(MAX_RESPONSES, V) + 1e-9))
    return draw(st.integers(1, 3)), V, draw(st.integers(min_horizon, longest))


def build(rule, rng, P, V, H, kind="uniform", masked=False, window=1, **options):
    """A random MDP under the successor rule named."""
    if rule == "tree":
        sizes = [P * V**h for h in range(H)]
    elif rule == "window":
        sizes = [P * V ** min(h, window) for h in range(H)]
    else:
        sizes = [P, *(int(n) for n in rng.integers(1, 6, H - 1))]
    rewards = [random_rewards(rng, (n, V), kind) for n in sizes]
    masks = (
        [random_mask(rng, n, V) if rng.uniform() < 0.7 else None for n in sizes] if masked else None
    )
    weights = rng.dirichlet(np.ones(P))
    options = {"prompt_weights": weights, "allowed": masks} | options
    if rule == "tree":
        return TokenMDP.tree(rewards, **options)
    if rule == "window":
        return TokenMDP.window(rewards, window, **options)
    links = [rng.integers(0, sizes[h + 1], (sizes[h], V)) for h in range(H - 1)]
    return TokenMDP.table(rewards, links, **options)


@st.composite
def token_mdps(draw, masked=None, min_vocab=1, min_horizon=1, rules=("tree", "window", "table")):
    P, V, H = draw_sizes(draw, min_vocab, min_horizon)
    rule = draw(st.sampled_from(rules))
    kind = draw(st.sampled_from(["uniform", "uniform", "equal", "binary", "sparse"]))
    masked = draw(st.booleans()) if masked is None else masked
    rng = np.random.default_rng(draw(seeds))
    return build(rule, rng, P, V, H, kind, masked, window=draw(st.integers(1, 3)))


def random_policy(dynamics, rng, scale=1.5):
    return Policy.from_logits(
        dynamics, [scale * rng.normal(size=(n, dynamics.vocab_size)) for n in dynamics.layer_sizes]
    )


@st.composite
def policies(draw, dynamics):
    return random_policy(
        dynamics, np.random.default_rng(draw(seeds)), draw(st.sampled_from([0.1, 1.5, 6.0]))
    )


@st.composite
def policies_in_ball(draw, policy, epsilon):
    return sample_log_ratio_ball(
        policy, epsilon, draw(seeds), spread=draw(st.sampled_from([0.5, 4.0, 20.0]))
    )


@st.composite
def shaped_pairs(draw, **options):
    """``(mdp, the same shaped by a random potential, the potential)``."""
    mdp = draw(token_mdps(**options))
    rng = np.random.default_rng(draw(seeds))
    potential = tuple(rng.normal(size=n) for n in mdp.dynamics.layer_sizes)
    return mdp, shape_reward(mdp, potential), potential


def states_by_prefix(dynamics, h):
    """State of every prefix of length `h`, from the definition of the rule."""
    prefixes = itertools.product(
        range(dynamics.n_prompts), *(range(dynamics.vocab_size) for _ in range(h))
    )
    return np.array([state_of(dynamics, prompt, tuple(prefix)) for prompt, *prefix in prefixes])


def spread_by_prefix(tables, dynamics):
    """Tables on the states of `dynamics`, copied to every prefix; ``None`` stays."""
    return [None if t is None else t[states_by_prefix(dynamics, h)] for h, t in enumerate(tables)]


@st.composite
def same_mdp_three_ways(draw, min_vocab=1, min_horizon=1):
    """``(tree, window, table)``: one random window MDP written in each of the three rules."""
    P, V, H = draw_sizes(draw, min_vocab, min_horizon)
    k = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    window = build("window", rng, P, V, H, masked=draw(st.booleans()), window=k)
    dynamics = window.dynamics
    links = []
    for h in range(H - 1):
        link = np.empty((dynamics.layer_sizes[h], V), dtype=int)
        for prompt in range(P):
            for prefix in itertools.product(range(V), repeat=h):
                for a in range(V):
                    link[state_of(dynamics, prompt, prefix), a] = state_of(
                        dynamics, prompt, (*prefix, a)
                    )
        links.append(link)
    weights = dynamics.prompt_weights
    masks = spread_by_prefix(dynamics.allowed, dynamics)
    tree = TokenMDP.tree(
        spread_by_prefix(window.rewards, dynamics), prompt_weights=weights, allowed=masks
    )
    table = TokenMDP.table(window.rewards, links, prompt_weights=weights, allowed=dynamics.allowed)
    return tree, window, table
