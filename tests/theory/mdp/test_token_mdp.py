"""Token MDPs: ends of responses, files, and everything that is refused."""

import io
import itertools
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from strategies import (
    alphas,
    brute_expectation,
    build,
    draw_sizes,
    enumerate_responses,
    random_policy,
    seeds,
    state_of,
    token_mdps,
)

from theory.mdp.policy import Policy
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import occupancy, plain_value, trajectory_entropy
from theory.solve.soft import plain_optimal, soft_optimal, soft_values

check = settings(derandomize=True, deadline=None, max_examples=30)


# --- Ends of responses ----------------------------------------------------------------------------


def ended_responses(base, prompt, eos):
    """Returns of every response that ends at `eos` or at the horizon, by its padded tokens."""
    found = {}
    for tokens in itertools.product(range(base.vocab_size), repeat=base.horizon):
        end = tokens.index(eos) + 1 if eos in tokens else base.horizon
        if any(t != eos for t in tokens[end:]):
            continue
        states = [state_of(base.dynamics, prompt, tokens[:h]) for h in range(end)]
        masks = base.dynamics.allowed
        if all(masks[h] is None or masks[h][s, tokens[h]] for h, s in enumerate(states)):
            found[tokens] = math.fsum(
                float(base.rewards[h][s, tokens[h]]) for h, s in enumerate(states)
            )
    return found


def padded_tree(base, eos):
    """The same by hand: a tree in which only `eos` follows `eos`, and pays nothing."""
    V, P = base.vocab_size, base.dynamics.n_prompts
    rewards, masks = [], []
    for h in range(base.horizon):
        prefixes = list(itertools.product(range(P), *(range(V) for _ in range(h))))
        reward, mask = np.zeros((len(prefixes), V)), np.ones((len(prefixes), V), bool)
        for i, (prompt, *prefix) in enumerate(prefixes):
            if eos in prefix:
                mask[i] = np.arange(V) == eos
                continue
            s = state_of(base.dynamics, prompt, tuple(prefix))
            reward[i] = base.rewards[h][s]
            mask[i] = True if base.dynamics.allowed[h] is None else base.dynamics.allowed[h][s]
        rewards.append(reward)
        masks.append(mask)
    return TokenMDP.tree(rewards, prompt_weights=base.dynamics.prompt_weights, allowed=masks)


@st.composite
def ended_mdps(draw):
    P, V, H = draw_sizes(draw)
    rule, seed, k = (
        draw(st.sampled_from(["tree", "window", "table"])),
        draw(seeds),
        draw(st.integers(1, 3)),
    )
    masked, eos = draw(st.booleans()), draw(st.integers(0, V - 1))
    base, ended = (
        build(rule, np.random.default_rng(seed), P, V, H, masked=masked, window=k, eos=e)
        for e in (None, eos)
    )
    return base, ended, eos


@check
@given(ended_mdps(), alphas, seeds)
def test_eos_is_the_padded_mdp(case, alpha, seed):
    base, mdp, eos = case
    padded = padded_tree(base, eos)
    weights = base.dynamics.prompt_weights
    soft = plain = entropy = value = 0.0
    for prompt, weight in enumerate(weights):
        by_tokens = ended_responses(base, prompt, eos)
        assert {tokens for tokens, _ in enumerate_responses(mdp.dynamics, prompt)} == set(by_tokens)
        sums = np.array(list(by_tokens.values()))
        log_p = sums / alpha - logsumexp(sums / alpha)
        soft += weight * alpha * logsumexp(sums / alpha)
        plain += weight * sums.max()
        entropy -= weight * float((np.exp(log_p) * log_p).sum())
        value += weight * float((np.exp(log_p) * sums).sum())
    for one in (mdp, padded):
        policy, values = soft_optimal(one, alpha)
        assert weights @ values[0] == pytest.approx(soft, rel=1e-11, abs=1e-12)
        assert weights @ plain_optimal(one).values[0] == pytest.approx(plain, abs=1e-12)
        assert trajectory_entropy(policy) == pytest.approx(entropy, abs=1e-9)
        assert plain_value(one, policy) == pytest.approx(value, abs=1e-9)
    # A policy of its own on the states that end, and the same one spread over the padded tree.
    policy = random_policy(mdp.dynamics, np.random.default_rng(seed))
    spread = [np.zeros((n, base.vocab_size)) for n in padded.dynamics.layer_sizes]
    for h, table in enumerate(spread):
        prefixes = itertools.product(
            range(base.dynamics.n_prompts), *(range(base.vocab_size) for _ in range(h))
        )
        for i, (prompt, *prefix) in enumerate(prefixes):
            end = prefix.index(eos) + 1 if eos in prefix else h
            if all(t == eos for t in prefix[end:]):
                row = policy.log_probs[h][state_of(mdp.dynamics, prompt, tuple(prefix))]
                # A prefix that is forbidden has no state of its own among those that end.
                table[i] = np.where(np.isfinite(row), row, 0.0)
    other = Policy.from_logits(padded.dynamics, spread)
    expected = brute_expectation(policy, lambda r, _: ended_responses_return(base, r, eos))
    assert plain_value(mdp, policy) == pytest.approx(expected, abs=1e-11)
    if all(mask is None for mask in base.dynamics.allowed):
        assert plain_value(padded, other) == pytest.approx(plain_value(mdp, policy), abs=1e-12)
        assert trajectory_entropy(other) == pytest.approx(trajectory_entropy(policy), abs=1e-12)


def ended_responses_return(base, response, eos):
    tokens, states = response
    prompt = states[0]
    end = tokens.index(eos) + 1 if eos in tokens else base.horizon
    return math.fsum(
        float(base.rewards[h][state_of(base.dynamics, prompt, tokens[:h]), tokens[h]])
        for h in range(end)
    )


def test_the_end_absorbs_and_the_end_token_counts():
    mdp = TokenMDP.window([np.full((2 ** min(h, 1), 2), 1.0) for h in range(4)], 1, eos=0)
    assert mdp.dynamics.eos == 0
    assert mdp.dynamics.layer_sizes == (1, 2, 2, 2)  # "1 so far", ended
    uniform = Policy.from_logits(mdp.dynamics, [np.zeros((n, 2)) for n in mdp.dynamics.layer_sizes])
    assert_allclose([v[-1] for v in occupancy(uniform)[1:]], [1 / 2, 3 / 4, 7 / 8])
    assert plain_value(mdp, uniform) == pytest.approx(1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert trajectory_entropy(uniform) == pytest.approx(math.log(2) * (1 + 1 / 2 + 1 / 4 + 1 / 8))


def test_zero_joins_the_reward_range_with_an_end():
    mdp = TokenMDP.tree([[[2.0, 3.0]], [[2.0, 3.0]] * 2], reward_range=(2, 3), eos=1)
    assert mdp.reward_range == (0.0, 3.0)
    assert mdp.reward_width == 3.0


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["tree", "window", "table"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eos", [None, 1])
@pytest.mark.parametrize("seed", range(5))
def test_saved_and_loaded_is_the_same(tmp_path, rule, masked, eos, seed):
    mdp = build(
        rule,
        np.random.default_rng(seed),
        3,
        3,
        4,
        masked=masked,
        window=2,
        eos=eos,
        reward_range=(-1, 2),
    )
    path = tmp_path / "mdp.npz"
    mdp.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["mdp.npz"]
    again = TokenMDP.load(path)
    assert again.dynamics.same_as(mdp.dynamics)
    assert type(again.dynamics.rule) is type(mdp.dynamics.rule)
    assert again.dynamics.eos == mdp.dynamics.eos
    assert again.reward_range == mdp.reward_range
    for h in range(4):
        assert (again.rewards[h] == mdp.rewards[h]).all()
        one, two = again.dynamics.allowed[h], mdp.dynamics.allowed[h]
        assert (one is None and two is None) or (one == two).all()
    assert_allclose(soft_values(again, 0.5)[0], soft_values(mdp, 0.5)[0], rtol=0)


@check
@given(token_mdps())
def test_building_again_from_its_parts_gives_the_same_dynamics(mdp):
    tree = mdp.as_tree()
    again = TokenMDP.tree(
        tree.rewards, prompt_weights=tree.dynamics.prompt_weights, allowed=tree.dynamics.allowed
    )
    assert (again.dynamics.prompt_weights == mdp.dynamics.prompt_weights).all()
    assert again.dynamics.same_as(tree.dynamics)


def test_a_failed_save_leaves_the_old_file_and_no_partial(tmp_path, monkeypatch):
    mdp = build("tree", np.random.default_rng(0), 1, 2, 2)
    path = tmp_path / "mdp.npz"
    mdp.save(path)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        mdp.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["mdp.npz"]
    assert path.read_bytes() == before


def test_truncated_and_damaged_files(tmp_path):
    mdp = build("table", np.random.default_rng(0), 1, 2, 3)
    path, bad = tmp_path / "mdp.npz", tmp_path / "bad.npz"
    mdp.save(path)
    refused = 0
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, **np.load(path))
    for source in (path, packed):
        whole = source.read_bytes()
        for keep in [0, 1, 4, 100, *np.linspace(5, len(whole) - 1, 40).astype(int)]:
            bad.write_bytes(whole[:keep])
            with pytest.raises(
                OSError, match=r"bad\.npz: not a whole \.npz file .*write it again"
            ) as caught:
                TokenMDP.load(bad)
            assert "\n" not in str(caught.value)
        for at in np.linspace(30, len(whole) - 60, 150).astype(int):
            bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            refusal = None
            try:  # some bytes do not matter
                TokenMDP.load(bad)
            except (OSError, ValueError) as error:
                refusal = str(error)
            assert refusal is None or "bad.npz: " in refusal
            refused += refusal is not None
    assert refused > 100


def test_other_files_are_refused(tmp_path):
    with pytest.raises(OSError, match=r"none\.npz: no such file"):
        TokenMDP.load(tmp_path / "none.npz")
    text, array = tmp_path / "text.npz", tmp_path / "array.npz"
    text.write_text("hello\n")
    with array.open("wb") as file:
        np.save(file, np.zeros(3))
    for path in (text, array):
        with pytest.raises(OSError, match=r"not a whole \.npz file"):
            TokenMDP.load(path)


R0, R1 = np.zeros((1, 2)), np.zeros((2, 2))
BAD_FILES = [
    ({"eos": np.array(1)}, "reward_0 is missing"),
    (
        {"reward_0": R0, "promt_weights": np.ones(1)},
        r"'promt_weights' is no array that TokenMDP\.save writes",
    ),
    ({"reward_0": R0, "alowed_0": R0 == 0}, r"'alowed_0' is no array that TokenMDP\.save writes"),
    ({"reward_0": R0, "allowed_1": R0 == 0}, "allowed_1 is not read: rule='tree', a horizon of 1"),
    (
        {"reward_0": R0, "next_0": R0.astype(int)},
        "next_0 is not read: rule='table', a horizon of 1",
    ),
    (
        {"reward_0": R0, "rule": np.array("tree"), "window": np.array(1)},
        "window is not read: rule='tree'",
    ),
    (
        {"reward_0": R0, "prompt_weights": np.array([1 + 1j])},
        "prompt_weights has dtype complex128: must hold real",
    ),
    ({"reward_0": R0, "window": np.timedelta64(1, "s")}, "window must be an integer scalar"),
    ({"reward_1": R1}, "reward_0 is missing"),
    ({"reward_0": R0, "reward_2": R1}, "reward_1 is missing"),
    (
        {"reward_0": R0, "rule": np.array("loop")},
        "rule='loop': must be 'tree', 'window' or 'table'",
    ),
    ({"reward_0": R0, "rule": np.array("window")}, "window must be an integer scalar"),
    ({"reward_0": R0, "window": np.array(1.5)}, "window must be an integer scalar"),
    ({"reward_0": R0, "eos": np.array([1])}, "eos must be an integer scalar"),
    ({"reward_0": R0, "eos": np.array(2)}, "eos=2 is not a token: give an index from 0 to 1"),
    (
        {"reward_0": R0, "reward_1": R1, "rule": np.array("table")},
        "next_states has 0 tables for 2 layers",
    ),
    ({"reward_0": R0, "reward_range": np.zeros(3)}, "reward_range must be two numbers"),
    ({"reward_0": R0 + 2}, r"rewards\[0\] holds 2 .*pass reward_range"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES)
def test_files_that_are_no_mdp(tmp_path, arrays, message):
    path = tmp_path / "given.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"given\.npz: {message}"):
        TokenMDP.load(path)


def test_members_that_are_no_array(tmp_path):
    path = tmp_path / "given.npz"
    np.savez(path, reward_0=R0)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("reward_1", b"no .npy in its name")
    with pytest.raises(
        OSError, match=r"given\.npz: not a whole \.npz file \(reward_1 is no array\)"
    ):
        TokenMDP.load(path)


def test_a_file_whose_arrays_fit_no_memory_is_refused_before_they_are_read(tmp_path, monkeypatch):
    """Ten megabytes in ten kilobytes, where eight can be used; then a header that lies."""
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, reward_0=np.zeros((1, 1_250_000)))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr("theory.mdp.token_mdp.usable_memory", lambda: 8_000_000)
    with pytest.raises(ValueError, match=r"zeros\.npz: its arrays take 10,000,128 bytes and 8,000"):
        TokenMDP.load(path)
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (1, 10**14)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("reward_0.npy", header.getvalue())
    with pytest.raises(OSError, match=r"zeros\.npz: not a whole \.npz file"):
        TokenMDP.load(path)


def test_files_by_hand_need_rewards_only(tmp_path):
    np.savez(tmp_path / "a.npz", reward_0=R0, reward_1=R1)
    assert TokenMDP.load(tmp_path / "a.npz").dynamics.same_as(TokenMDP.tree([R0, R1]).dynamics)
    np.savez(tmp_path / "b.npz", reward_0=R0, reward_1=R1, reward_2=R1, window=1, eos=0)
    expected = TokenMDP.window([R0, R1, R1], 1, eos=0)
    assert TokenMDP.load(tmp_path / "b.npz").dynamics.same_as(expected.dynamics)
    np.savez(tmp_path / "c.npz", reward_0=R0, reward_1=R0, next_0=np.zeros((1, 2), int))
    assert TokenMDP.load(tmp_path / "c.npz").dynamics.layer_sizes == (1, 1)


# --- Refusals -------------------------------------------------------------------------------------

TREE = [R0, R1]
LINK = np.array([[0, 1]])
BAD_MDPS = [
    (
        lambda: TokenMDP.tree([[[math.nan, 0.0]]]),
        r"rewards\[0\] holds nan at \(0, 0\): rewards must be finite",
    ),
    (
        lambda: TokenMDP.tree([R0, [[0, 0], [0, -math.inf]]]),
        r"rewards\[1\] holds -inf at \(1, 1\).*allowed=",
    ),
    (
        lambda: TokenMDP.tree([[[1.0, 1.5]]]),  # the end of the range is inside
        r"rewards\[0\] holds 1\.5 at \(0, 1\), outside reward_range=\(0, 1\): pass",
    ),
    (lambda: TokenMDP.tree([[[0.0, -0.5]]]), r"rewards\[0\] holds -0\.5 at \(0, 1\)"),
    (
        lambda: TokenMDP.tree([R0], reward_range=(1, 0)),
        r"reward_range=\(1, 0\): must be two finite",
    ),
    (lambda: TokenMDP.tree([R0], reward_range=(0, math.inf)), r"reward_range=\(0, inf\)"),
    (lambda: TokenMDP.tree([]), r"rewards is empty: the horizon must be at least 1"),
    (
        lambda: TokenMDP.tree([np.zeros((1, 0))]),
        r"rewards\[0\] has shape \(1, 0\): needs at least one prompt and one",
    ),
    (lambda: TokenMDP.tree([np.zeros((0, 2))]), r"rewards\[0\] has shape \(0, 2\): needs at least"),
    (lambda: TokenMDP.tree([np.zeros(2)]), r"rewards\[0\] has shape \(2,\): must be \(n_0, V\)"),
    (
        lambda: TokenMDP.tree([R0, R0]),
        r"rewards\[1\] has shape \(1, 2\): must be \(2, 2\) \(tree with 1 prompt",
    ),
    (
        lambda: TokenMDP.window([R0, R1, np.zeros((4, 2))], 1),
        r"rewards\[2\] has shape \(4, 2\): must be \(2, 2\)",
    ),
    (lambda: TokenMDP.window([R0], 0), "window=0: give the number of tokens"),
    (lambda: TokenMDP.window([R0], 1.5), r"window=1\.5"),
    (lambda: TokenMDP.table([R0, np.zeros((2, 3))], [LINK]), r"rewards\[1\] has shape \(2, 3\)"),
    (lambda: TokenMDP.table(TREE, []), "next_states has 0 tables for 2 layers"),
    (
        lambda: TokenMDP.table(TREE, [LINK + 1]),
        r"next_states\[0\] holds 1 to 2: layer 1 has states 0 to 1",
    ),
    (lambda: TokenMDP.table(TREE, [LINK - 1]), r"next_states\[0\] holds -1 to 0"),
    (
        lambda: TokenMDP.table(TREE, [LINK.T]),
        r"next_states\[0\] has shape \(2, 1\): must be \(1, 2\)",
    ),
    (
        lambda: TokenMDP.table(TREE, [LINK.astype(float)]),
        r"next_states\[0\] has dtype float64: must hold integer",
    ),
    (  # which NumPy counts among the integers
        lambda: TokenMDP.table(TREE, [LINK.astype("m8[s]")]),
        r"next_states\[0\] has dtype timedelta64\[s\]: must hold integer",
    ),
    (
        lambda: TokenMDP.tree([R1], prompt_weights=[0.5, 0.6]),
        r"prompt_weights must be .* sum to 1, got sum 1\.1",
    ),
    (
        lambda: TokenMDP.tree([R1], prompt_weights=[1.5, -0.5]),
        "prompt_weights must be non-negative",
    ),
    (lambda: TokenMDP.tree([R1], prompt_weights=[math.nan, 1]), "prompt_weights must be"),
    (
        lambda: TokenMDP.tree([R1], prompt_weights=[1.0]),
        r"prompt_weights has shape \(1,\): must be \(2,\)",
    ),
    (
        lambda: TokenMDP.tree(TREE, allowed=[None, np.array([[True, True], [False, False]])]),
        r"allowed\[1\].*of state 1",
    ),
    (lambda: TokenMDP.tree(TREE, allowed=[None]), "allowed has 1 entries for 2 layers"),
    (
        lambda: TokenMDP.tree([R0], allowed=[np.ones((1, 2))]),
        r"allowed\[0\] .*dtype float64: must be boolean \(1, 2\)",
    ),
    (lambda: TokenMDP.tree([R0], eos=2), "eos=2 is not a token: give an index from 0 to 1"),
    (lambda: TokenMDP.tree([R0], eos=-1), "eos=-1 is not a token"),
    (lambda: TokenMDP.tree([R0], eos="</s>"), "eos='</s>' is not a token"),
]


@pytest.mark.parametrize(("build_it", "message"), BAD_MDPS)
def test_bad_input_is_named(build_it, message):
    with pytest.raises(ValueError, match=message):
        build_it()


def test_forbidden_rewards_are_not_read():
    mdp = TokenMDP.tree([[[0.5, math.nan]]], allowed=[np.array([[True, False]])])
    assert mdp.rewards[0].tolist() == [[0.5, 0.0]]
    assert soft_values(mdp, 2.0)[0].tolist() == [0.5]


def test_prompt_weights_nearly_one_are_normalised():
    mdp = TokenMDP.tree([R1], prompt_weights=[0.5, 0.5 + 5e-10])
    assert mdp.dynamics.prompt_weights.sum() == pytest.approx(1.0, abs=1e-15)


def test_every_response_may_have_to_end_at_once():
    """Only the end token is allowed at first: no other state is left in the second layer."""
    only_end = [np.array([[False, True]]), None, None]
    mdp = TokenMDP.tree([np.full((2**h, 2), 0.5) for h in range(3)], allowed=only_end, eos=1)
    assert mdp.dynamics.layer_sizes == (1, 1, 1)
    assert soft_values(mdp, 1.0)[0].tolist() == [0.5]


@pytest.mark.parametrize("kind", ["u1", "u4", "u8", "i1", "i8"])
def test_successors_of_any_integer_type_are_the_same_mdp(kind):
    from theory.mdp.responses import map_response
    from theory.solve.soft import soft_optimal

    layers = [np.array([[0.0, 1.0]]), np.array([[0.0, 1.0], [3.0, 0.0]])]
    links = np.array([[1, 0]], dtype=kind)
    one = soft_optimal(TokenMDP.table(layers, [links], reward_range=(0, 3)), 1.0)
    assert map_response(one.policy).tokens.tolist() == [[0, 0]]  # 0 + 3, through state 1
    assert one.values[0].item() == pytest.approx(
        np.logaddexp(np.logaddexp(0, 3), 1 + np.logaddexp(0, 1)), rel=1e-14
    )
