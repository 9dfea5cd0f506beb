"""Compressed rows against the same MDP with a dense mask, and layers that are given many times."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import alphas, epsilons, seeds

from theory.mdp.checks import once_each
from theory.mdp.distances import kl
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses, all_responses, log_prob, map_response
from theory.mdp.sparse import SparseLayer, SparseMDP
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy, plain_value, trajectory_entropy
from theory.solve.prompt_values import prompt_values, soft_value
from theory.solve.reward import endogenous_reward, returns
from theory.solve.soft import plain_optimal, soft_optimal, soft_values
from theory.solve.worst_clone import worst_clone

check = settings(derandomize=True, deadline=None, max_examples=30)


@st.composite
def both_ways(draw):
    """A random MDP in compressed rows, and with a dense mask; rows are not in order of tokens."""
    rng = np.random.default_rng(draw(seeds))
    V = draw(st.integers(1, 12))
    H = draw(st.integers(1, 4))
    most = draw(st.integers(1, min(V, 4)))
    sizes = [int(n) for n in rng.integers(1, 5, H)]
    layers, rewards, masks, links = [], [], [], []
    for h, n in enumerate(sizes):
        following = sizes[h + 1] if h + 1 < H else 1
        rows = [rng.permutation(V)[: rng.integers(1, most + 1)] for _ in range(n)]
        tokens = np.concatenate(rows)
        states = np.repeat(np.arange(n), [len(row) for row in rows])
        reward = rng.random(len(tokens))
        link = rng.integers(0, following, len(tokens))
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        layers.append(SparseLayer(indptr, tokens, reward, link if h + 1 < H else None))
        tables = np.zeros((n, V)), np.zeros((n, V), dtype=bool), np.zeros((n, V), dtype=int)
        for table, values in zip(tables, (reward, True, link), strict=True):
            table[states, tokens] = values
        rewards.append(tables[0])
        masks.append(tables[1])
        links.append(tables[2])
    weights = rng.dirichlet(np.ones(sizes[0]))
    sparse = SparseMDP.from_rows(layers, V, prompt_weights=weights)
    dense = TokenMDP.table(rewards, links[:-1], allowed=masks, prompt_weights=weights)
    return sparse, dense


def spread(tables, sparse, fill):
    """Tables over slots as tables over tokens."""
    found = []
    for table, names in zip(tables, sparse.tokens, strict=True):
        wide = np.full((len(table), sparse.vocab_size), fill)
        for s, a in zip(*np.nonzero(names >= 0), strict=True):
            wide[s, names[s, a]] = table[s, a]
        found.append(wide)
    return found


@check
@given(both_ways(), alphas, epsilons, seeds)
def test_every_function_gives_what_it_gives_with_a_dense_mask(two, alpha, epsilon, seed):
    sparse, dense = two
    mdp = sparse.mdp
    same = {"rtol": 1e-9, "atol": 1e-11}
    for one, other in zip(soft_values(mdp, alpha), soft_values(dense, alpha), strict=True):
        assert_allclose(one, other, **same)
    for one, other in zip(plain_optimal(mdp).values, plain_optimal(dense).values, strict=True):
        assert_allclose(one, other, **same)
    slots = soft_optimal(mdp, alpha).policy
    tokens = soft_optimal(dense, alpha).policy
    for one, other in zip(spread(slots.log_probs, sparse, -np.inf), tokens.log_probs, strict=True):
        assert_allclose(np.exp(one), np.exp(other), atol=1e-12)
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=table.shape) for table in mdp.rewards]
    learner = Policy.from_logits(mdp.dynamics, logits)
    wide = Policy.from_logits(dense.dynamics, spread(logits, sparse, -np.inf))
    for quantity in (
        lambda m, e, p: plain_value(m, p),
        lambda m, e, p: trajectory_entropy(p),
        lambda m, e, p: kl(p, e),
        lambda m, e, p: worst_clone(m, e, epsilon).values[0],
        lambda m, e, p: np.concatenate(occupancy(p)),
        lambda m, e, p: np.concatenate(prompt_values(m, alpha, policy=p)),
        lambda m, e, p: soft_value(endogenous_reward(p, alpha), alpha),
    ):
        assert_allclose(quantity(mdp, slots, learner), quantity(dense, tokens, wide), **same)


@check
@given(both_ways(), alphas)
def test_responses_go_from_slots_to_tokens_and_back(two, alpha):
    sparse, dense = two
    policy = soft_optimal(sparse.mdp, alpha).policy
    wide = soft_optimal(dense, alpha).policy
    every = all_responses(sparse.dynamics)
    possible = log_prob(policy, every) > -np.inf
    slots = Responses(every.prompts[possible], every.tokens[possible])
    tokens = sparse.to_tokens(slots)
    assert_array_equal(sparse.to_slots(tokens).tokens, slots.tokens)
    assert_allclose(log_prob(wide, tokens), log_prob(policy, slots), rtol=1e-9, atol=1e-11)
    assert_allclose(returns(dense, tokens), returns(sparse.mdp, slots), rtol=1e-12)
    if not possible.all():
        with pytest.raises(ValueError, match=r"the slot at .* is none of its state"):
            sparse.to_tokens(every)


def test_a_token_that_is_not_allowed_has_no_slot():
    sparse = SparseMDP.from_rows([SparseLayer([0, 2], [3, 1], [0.0, 1.0])], 5)
    assert sparse.to_slots(Responses(np.array([0]), np.array([[3]]))).tokens.tolist() == [[1]]
    with pytest.raises(ValueError, match=r"holds 2 at \(1, 0\): not allowed in that state"):
        sparse.to_slots(Responses(np.array([0, 0]), np.array([[1], [2]])))


GOOD = {"indptr": [0, 2], "tokens": [0, 4], "rewards": [0.0, 1.0], "next_states": [0, 0]}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"indptr": [0, 1]}, r"layers\[0\].indptr: must go from 0 to the number of tokens, 2"),
        ({"indptr": [0, 0, 2]}, r"layers\[0\].indptr: state 0 allows 0 tokens"),
        ({"indptr": [0, 3, 2]}, r"layers\[0\].indptr: state 1 allows -1 tokens"),
        ({"indptr": [0.0, 2.0]}, r"layers\[0\].indptr has shape \(2,\), dtype float64"),
        ({"tokens": [0, 5]}, r"layers\[0\].tokens holds 0 to 5: vocab_size=5"),
        ({"tokens": [4, 4]}, r"layers\[0\].tokens: state 0 has token 4 twice"),
        ({"rewards": [0.0]}, r"layers\[0\].rewards has shape \(1,\): must be \(2,\)"),
        ({"rewards": [0.0, np.nan]}, r"rewards\[0\] holds nan at \(0, 1\)"),
        ({"rewards": [0.0, 2.0]}, r"rewards\[0\] holds 2 at \(0, 1\), outside reward_range"),
        ({"rewards": [0, 1j]}, r"layers\[0\].rewards has dtype complex128"),
        ({"next_states": [0, 1]}, r"next_states\[0\] holds 0 to 1: layer 1 has states 0 to 0"),
        ({"next_states": None}, r"layers\[0\].next_states is None: only the last layer has none"),
        ({"next_states": [0]}, r"layers\[0\].next_states has shape \(1,\): must be \(2,\)"),
    ],
)
def test_rows_that_are_none_are_one_line(fault, message):
    layers = [SparseLayer(**(GOOD | fault)), SparseLayer([0, 1], [2], [0.5])]
    with pytest.raises(ValueError, match=message) as caught:
        SparseMDP.from_rows(layers, 5)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="layers is empty"):
        SparseMDP.from_rows([], 5)


def test_one_state_that_allows_everything_is_refused_where_slots_do_not_fit():
    n = 3_000_000
    tokens = np.concatenate([np.arange(50_000), np.zeros(n, dtype=int)])
    indptr = np.concatenate([[0], 50_000 + np.arange(n + 1)])
    layer = SparseLayer(indptr, tokens, np.zeros(len(tokens)))
    with pytest.raises(ValueError, match=r"each of the 50,000 tokens that some state allows, .*"):
        SparseMDP.from_rows([layer], 50_000)


# --- Layers that are given many times -------------------------------------------------------------


@check
@given(st.integers(1, 3), st.integers(1, 9), alphas, seeds)
def test_a_repeated_layer_is_the_same_as_copies_of_it(V, H, alpha, seed):
    rng = np.random.default_rng(seed)
    first, layer = rng.random((1, V)), rng.random((V, V))
    logits = rng.normal(size=(V, V))

    def build(again):
        mdp = TokenMDP.window([first, *[again(layer) for _ in range(H)]], 1)
        return mdp, Policy.from_logits(mdp.dynamics, [first, *[again(logits) for _ in range(H)]])

    repeated, policy = build(lambda table: table)
    explicit, copied = build(np.copy)
    assert len(set(map(id, repeated.rewards))) == 2
    assert len(set(map(id, policy.log_probs))) == 2
    assert len(set(map(id, explicit.rewards))) == H + 1
    for one, two in zip(
        prompt_values(repeated, alpha, policy=policy),
        prompt_values(explicit, alpha, policy=copied),
        strict=True,
    ):
        assert_array_equal(one, two)
    assert soft_value(repeated, alpha) == soft_values(explicit, alpha)[0].item()


@pytest.mark.slow
def test_a_long_mdp_is_not_written_layer_by_layer_until_the_disk_is_full(tmp_path):
    layer = np.zeros((4096, 2))
    mdp = TokenMDP.window([layer[: 2**h] for h in range(12)] + [layer] * 20_000_000, 12)
    with pytest.raises(OSError, match=r"20,000,012 layers are 1,310,720,\d+,\d+ bytes and .* free"):
        mdp.save(tmp_path / "mdp.npz")
    assert not any(tmp_path.iterdir())


def test_a_fault_in_a_repeated_layer_names_its_first_place():
    layer = np.array([[0.0, np.nan], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"rewards\[1\] holds nan"):
        TokenMDP.window([np.zeros((1, 2)), *[layer] * 5], 1)


def test_layers_that_are_made_when_asked_for_are_not_mixed_up():
    """A sequence that builds each layer anew may give two of them one address."""

    made = (np.full(1, h) for h in range(50))
    assert once_each(lambda h, table: float(table[0]), made) == tuple(range(50))


@pytest.mark.parametrize("H", [1, 50, 2000])
def test_long_horizons_against_closed_forms(H):
    """A reward that reads its token only: every token is chosen as in a horizon of one."""
    alpha = 0.3
    r = np.array([0.1, 0.9, 0.4])
    layer = np.tile(r, (3, 1))
    mdp = TokenMDP.window([layer[:1], *[layer] * (H - 1)], 1)
    logits = np.tile(np.array([1.0, 0.0, -1.0]), (3, 1))
    policy = Policy.from_logits(mdp.dynamics, [logits[:1], *[logits] * (H - 1)])
    found = prompt_values(mdp, alpha, policy=policy)
    expert = np.exp(r / alpha) / np.exp(r / alpha).sum()
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    log_ratio = np.log(p / expert)
    expected = {
        "soft_value": H * alpha * np.log(np.exp(r / alpha).sum()),
        "optimal_plain_value": H * 0.9,
        "expert_plain_value": H * expert @ r,
        "expert_entropy": -H * expert @ np.log(expert),
        "plain_value": H * p @ r,
        "entropy": -H * p @ np.log(p),
        "kl": H * p @ log_ratio,
        "expert_kl": -H * expert @ log_ratio,
        "max_log_ratio": np.abs(log_ratio).max(),
    }
    for name, value in expected.items():
        assert getattr(found, name).item() == pytest.approx(value, rel=1e-9), name
    assert soft_value(mdp, alpha) == pytest.approx(expected["soft_value"], rel=1e-9)


def test_a_hundred_thousand_tokens_in_the_memory_of_two_layers():
    """1.6 billion prefixes: 12 GiB of rewards if each layer were stored, 24 MiB are used."""
    n, H, alpha = 2**12, 100_000, 0.5
    layer = np.zeros((n, 4))
    layer[:, 2] = 1.0
    first = [layer[: 4 ** min(h, 6)] for h in range(6)]
    tracemalloc.start()
    mdp = TokenMDP.window([*first, *[layer] * (H - 6)], 6)
    built = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mdp.dynamics.n_prefixes > 1.6e9
    assert built < 24 * 2**20
    short = TokenMDP.window([*first, *[layer] * 94], 6)
    assert soft_value(short, alpha) == pytest.approx(
        100 * alpha * np.log(3 + np.exp(1 / alpha)), rel=1e-12
    )


def test_a_long_sparse_mdp_of_one_repeated_layer():
    """States in a ring; each allows to stay (reward 0) or to go on (reward 1): a closed form."""
    n, H, alpha = 20, 5000, 0.5
    ring = SparseLayer(
        2 * np.arange(n + 1),
        np.ravel([[49_999 - s, s] for s in range(n)]),
        np.tile([0.0, 1.0], n),
        np.ravel([[s, (s + 1) % n] for s in range(n)]),
    )
    sparse = SparseMDP.from_rows([ring] * H, 50_000)
    assert len(set(map(id, sparse.mdp.rewards))) == len(set(map(id, sparse.tokens))) == 1
    found = prompt_values(sparse.mdp, alpha)
    assert_allclose(found.soft_value, H * alpha * np.log1p(np.exp(1 / alpha)), rtol=1e-10)
    best = sparse.to_tokens(map_response(plain_optimal(sparse.mdp).policy))
    assert best.tokens[3, :3].tolist() == [3, 4, 5]
