"""Successor rules against their definitions."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from strategies import build, same_mdp_three_ways, seeds, state_of, states_by_prefix, token_mdps

import theory.arrays.kernels
import theory.arrays.memory
from theory.arrays.kernels import blocks
from theory.arrays.namespace import pick, scatter_add, soft_maximum, token_major
from theory.mdp.dynamics import Tree, require_tree_memory
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value, plain_values

check = settings(derandomize=True, deadline=None, max_examples=30)


@check
@given(token_mdps(min_horizon=2), seeds)
def test_children_push_and_step_follow_the_definition(mdp, seed):
    dynamics, V = mdp.dynamics, mdp.vocab_size
    rng = np.random.default_rng(seed)
    for h in range(mdp.horizon - 1):
        n, size = dynamics.layer_sizes[h : h + 2]
        value, mass = rng.normal(size=(2, size)), rng.uniform(0, 1, (2, n, V))
        children, pushed = dynamics.children(h, value), dynamics.push(h, mass)
        link = dynamics.successors(h)
        # Reached states: the successor of a prefix's state is the state of the longer prefix.
        for prompt in range(dynamics.n_prompts):
            for prefix in itertools.product(range(V), repeat=h):
                s = state_of(dynamics, prompt, prefix)
                assert [state_of(dynamics, prompt, (*prefix, a)) for a in range(V)] == link[
                    s
                ].tolist()
        expected = np.zeros((2, size))
        for s in range(n):
            for a in range(V):
                assert (children[:, s, a] == value[:, link[s, a]]).all()
                expected[:, link[s, a]] += mass[:, s, a]
        assert_allclose(pushed, expected, atol=1e-13)
        # Reading values and pushing mass are adjoint.
        assert (mass * children).sum() == pytest.approx((pushed * value).sum(), rel=1e-11)


@check
@given(token_mdps(), seeds)
def test_walk_visits_the_states_of_the_prefixes(mdp, seed):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, mdp.dynamics.n_prompts, 5)
    tokens = rng.integers(0, mdp.vocab_size, (5, mdp.horizon))
    states = mdp.dynamics.walk(prompts, tokens)
    for i in range(5):
        for h in range(mdp.horizon):
            assert states[h][i] == state_of(
                mdp.dynamics, int(prompts[i]), tuple(tokens[i, :h].tolist())
            )


@check
@given(same_mdp_three_ways())
def test_as_tree(three):
    tree, window, table = three
    for mdp in (window, table, tree):
        unrolled = mdp.as_tree()
        assert unrolled.dynamics.same_as(tree.dynamics)
        assert unrolled.dynamics.layer_sizes == tree.dynamics.layer_sizes
        for h in range(tree.horizon):
            assert (unrolled.rewards[h] == tree.rewards[h]).all()
            assert (mdp.dynamics.prefix_states()[h] == states_by_prefix(mdp.dynamics, h)).all()
            one, two = unrolled.dynamics.allowed[h], tree.dynamics.allowed[h]
            assert (one is None and two is None) or (one == two).all()
    assert window.dynamics.same_as(table.dynamics)


def test_same_as_sees_every_difference():
    def at(weights=(0.5, 0.5), link=((0, 1), (1, 0)), vocab=2):
        rewards = [np.zeros((2, vocab)), np.zeros((2, vocab))]
        return TokenMDP.table(rewards, [np.array(link)], prompt_weights=weights).dynamics

    assert at().same_as(at())
    assert not at().same_as(at(weights=(0.4, 0.6)))
    assert not at().same_as(at(link=((0, 1), (1, 1))))
    assert not at().same_as(at(link=((0, 1, 0), (1, 0, 0)), vocab=3))
    assert not at().same_as(TokenMDP.tree([np.zeros((2, 2)), np.zeros((4, 2))]).dynamics)


def test_numbers_of_prefixes():
    assert build("tree", np.random.default_rng(0), 2, 3, 4).dynamics.n_prefixes == 2 * (
        3 + 9 + 27 + 81
    )
    assert build("window", np.random.default_rng(0), 2, 3, 4, window=1).dynamics.layer_sizes == (
        2,
        6,
        6,
        6,
    )


@pytest.mark.parametrize(("vocab_size", "horizon"), [(50257, 100), (4, 10_000)])
def test_trees_that_cannot_fit_are_refused_before_they_are_made(vocab_size, horizon):
    with pytest.raises(
        ValueError, match=rf"x: about 10\^\d+ prefixes \(vocab_size={vocab_size}, .*smaller horizon"
    ):
        require_tree_memory(vocab_size, horizon, 1, "x")


def test_memory_needed_is_counted_exactly(monkeypatch):
    needed = 8 * 3 * (2 + 4 + 8)
    monkeypatch.setattr(theory.arrays.memory, "MEMORY_SHARE", 1.0)
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: needed)
    require_tree_memory(2, 3, 3, "x")
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match="x: 42 prefixes"):
        require_tree_memory(2, 3, 3, "x")
    monkeypatch.setattr(theory.arrays.memory, "available_memory", lambda: 8 * 5)
    require_tree_memory(1, 5, 1, "x")
    with pytest.raises(ValueError, match="x: 6 prefixes"):
        require_tree_memory(1, 6, 1, "x")


@pytest.mark.parametrize("vocab_size", [3, 50_257])
def test_the_size_of_a_tree_beyond_all_memory_is_right_to_its_power_of_ten(vocab_size):
    for horizon in (500, 10_000, 999_999, 10**13):
        power = round(horizon * math.log10(vocab_size) + math.log10(vocab_size / (vocab_size - 1)))
        with pytest.raises(ValueError, match="about 10") as refused:
            require_tree_memory(vocab_size, horizon, 1, "x")
        found = re.search(r"about 10\^(\d+) prefixes", str(refused.value))
        assert abs(int(found[1]) - power) <= 1


def test_a_long_window_is_not_refused_but_its_tree_is():
    mdp = TokenMDP.window([np.zeros((4 ** min(h, 1), 4)) for h in range(300)], 1)
    assert mdp.dynamics.n_prefixes == 4 * (1 + 299 * 4)
    with pytest.raises(
        ValueError, match=r"unrolling these dynamics to a tree: about 10\^181 prefixes"
    ):
        mdp.as_tree()


# --- Arrays ---------------------------------------------------------------------------------------


def test_free_memory_is_a_real_figure():
    assert 2**20 < theory.arrays.memory.available_memory() < 2**50


@check
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 17))
def test_blocks_cover_every_state_once(vocab_size, n, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory.arrays.kernels, "BLOCK", block)
        assert [i for part in blocks(vocab_size, n) for i in range(n)[part]] == list(range(n))


def test_token_major_changes_the_memory_and_not_the_numbers():
    table = np.random.default_rng(0).normal(size=(2, 5, 3))
    stored = token_major(table)
    assert (stored == table).all()
    assert np.moveaxis(stored, -1, 0).flags.c_contiguous


def test_pick_and_scatter_add_with_batch_axes():
    rng = np.random.default_rng(0)
    table, states, tokens = (
        rng.normal(size=(2, 3, 5, 4)),
        rng.integers(0, 5, (2, 3, 7)),
        rng.integers(0, 4, (2, 3, 7)),
    )
    mass, index = rng.normal(size=(2, 3, 6)), rng.integers(0, 4, 6)
    picked, shared, summed = (
        pick(table, states, tokens),
        pick(table, states[0, 0], tokens[0, 0]),
        np.zeros((2, 3, 4)),
    )
    for i, j in np.ndindex(2, 3):
        for k in range(7):
            assert picked[i, j, k] == table[i, j, states[i, j, k], tokens[i, j, k]]
            assert shared[i, j, k] == table[i, j, states[0, 0, k], tokens[0, 0, k]]
        for k in range(6):
            summed[i, j, index[k]] += mass[i, j, k]
    assert_allclose(scatter_add(mass, index, 4), summed, atol=1e-14)
    assert_allclose(
        scatter_add(mass.astype(np.longdouble), index, 4).astype(float), summed, atol=1e-14
    )


def test_soft_maximum_of_large_numbers_and_forbidden_tokens():
    q = np.array([[1e6, 1e6, -np.inf]])
    assert soft_maximum(q, 0.5)[0] == pytest.approx(1e6 + 0.5 * np.log(2), rel=1e-15)
    assert soft_maximum(-1e6 + 0 * q[:, :2], 1e-3)[0] == pytest.approx(
        -1e6 + 1e-3 * np.log(2), rel=1e-15
    )


@pytest.mark.parametrize("kind", ["tree", "window", "eos"])
def test_by_prompt_gives_each_prompt_a_problem_of_its_own(kind):
    """Plain values of a random policy, prompt by prompt: those of the whole."""
    rng, (P, V, H) = np.random.default_rng(3), (3, 2, 4)
    sizes = [P * V ** min(h, 1 if kind == "window" else h) for h in range(H)]
    rewards = [rng.random((n, V)) for n in sizes]
    mdp = (
        TokenMDP.window(rewards, 1)
        if kind == "window"
        else TokenMDP.tree(rewards, eos=1 if kind == "eos" else None)
    )
    policy = Policy.from_logits(mdp.dynamics, [rng.normal(size=r.shape) for r in mdp.rewards])
    alone, states = mdp.dynamics.by_prompt()
    assert alone.n_prompts == 1
    assert [own.shape for own in states] == [(P, n) for n in alone.layer_sizes]
    assert isinstance(alone.rule, Tree) == (kind == "tree")
    batch = TokenMDP(alone, tuple(r[s] for r, s in zip(mdp.rewards, states, strict=True)))
    each = Policy(alone, tuple(t[s] for t, s in zip(policy.log_probs, states, strict=True)))
    assert_allclose(plain_value(batch, each), plain_values(mdp, policy)[0], rtol=1e-13)
    responses = Responses(np.zeros(V**H, dtype=int), all_responses(mdp.dynamics).tokens[: V**H])
    together = log_prob(policy, all_responses(mdp.dynamics)).reshape(P, -1)
    assert_allclose(log_prob(each, responses), together)


def test_by_prompt_refuses_prompts_that_differ():
    apart = TokenMDP.table([np.zeros((2, 2)), np.zeros((3, 2))], [np.array([[2, 2], [0, 1]])])
    with pytest.raises(ValueError, match="layer 1: responses meet in a state"):
        apart.dynamics.by_prompt()
    masks = [np.array([[True, True], [True, False]])]
    with pytest.raises(ValueError, match="layer 0: one prompt forbids"):
        TokenMDP.tree([np.zeros((2, 2))], allowed=masks).dynamics.by_prompt()
