"""Trees that are read block by block against those in memory, and runs that are stopped."""

import doctest
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from strategies import alphas, brute_expectation, brute_soft_value, seeds, token_mdps

from theory.mdp.distances import kl, max_log_ratio
from theory.mdp.policy import Policy
from theory.mdp.streamed import StreamedTree
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import expected_sums, plain_values
from theory.solve.prompt_values import prompt_values, soft_value
from theory.solve.soft import plain_optimal, soft_optimal, soft_values
from theory.solve.streamed import top_soft_values
from theory.storage.runs import RunFolder

check = settings(derandomize=True, deadline=None, max_examples=40)


def layers(tables):
    return lambda h, first, last: tables[h][first:last]


@st.composite
def trees(draw):
    """The same random tree in memory and streamed, and a policy on it."""
    V = draw(st.integers(1, 5))
    H = draw(st.integers(1, 6 if V < 3 else 4))
    P = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    sizes = [P * V**h for h in range(H)]
    rewards = [rng.uniform(-2, 3, (n, V)) for n in sizes]
    logits = [rng.normal(size=(n, V)) * draw(st.sampled_from([0.1, 5.0])) for n in sizes]
    for table in logits:
        table[rng.uniform(size=table.shape) < draw(st.sampled_from([0.0, 0.2]))] = -np.inf
        table[:, 0] = np.where(np.isinf(table).all(axis=1), 0.0, table[:, 0])
    options = {"prompt_weights": rng.dirichlet(np.ones(P)), "reward_range": (-2, 3)}
    mdp = TokenMDP.tree(rewards, **options)
    block = draw(st.integers(1, 2 * mdp.dynamics.n_prefixes))
    streamed = StreamedTree(
        V, H, layers(rewards), layers(logits), n_prompts=P, block=block, **options
    )
    return mdp, streamed, Policy.from_logits(mdp.dynamics, logits)


@check
@given(trees(), alphas, st.integers(1, 3))
def test_soft_values_are_those_of_the_tree_in_memory_to_the_bit(three, alpha, threads):
    mdp, streamed, _ = three
    found = top_soft_values(streamed, alpha, threads=threads)
    assert len(found) == streamed.cut + 1
    for ours, whole in zip(found, soft_values(mdp, alpha), strict=False):
        assert_array_equal(ours, whole)
    assert soft_value(streamed, alpha) == pytest.approx(soft_value(mdp, alpha), rel=1e-15)


def test_the_layers_above_take_the_largest_entry_out_where_the_whole_tree_does():
    """|Q|/α passes what doubles can exponentiate in the top layers only, where 6 tokens follow."""
    alpha = 0.009
    rng = np.random.default_rng(0)
    rewards = [rng.random((2**h, 2)) for h in range(8)]
    streamed = StreamedTree(2, 8, layers(rewards), block=62)
    assert streamed.cut == 3
    whole = soft_values(TokenMDP.tree(rewards), alpha)
    for ours, theirs in zip(top_soft_values(streamed, alpha), whole, strict=False):
        assert_array_equal(ours, theirs)


@check
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 4), st.integers(1, 400))
def test_blocks_cover_every_root_once_and_are_no_larger_than_asked(V, H, P, block):
    tree = StreamedTree(V, H, lambda h, first, last: None, n_prompts=P, block=block)
    below = [sum(V**k for k in range(1, H - h + 1)) for h in range(H)]
    roots = [root for first, last in tree.blocks() for root in range(first, last)]
    assert roots == list(range(P * V**tree.cut))
    largest = max(last - first for first, last in tree.blocks()) * below[tree.cut]
    assert largest <= max(block, V)  # a state's tokens are not split
    assert tree.cut == 0 or below[tree.cut - 1] > block
    assert tree.n_prefixes == P * below[0]


@check
@given(trees(), alphas)
def test_all_numbers_are_those_of_the_functions_in_memory(three, alpha):
    mdp, streamed, policy = three
    expert, values = soft_optimal(mdp, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = {
            "soft_value": values[0],
            "optimal_plain_value": plain_optimal(mdp).values[0],
            "expert_plain_value": plain_values(mdp, expert)[0],
            "expert_entropy": expected_sums(expert, [-t for t in expert.log_probs])[0],
            "plain_value": plain_values(mdp, policy)[0],
            "entropy": expected_sums(policy, [-t for t in policy.log_probs])[0],
            "kl": kl(policy, expert, per_prompt=True),
            "expert_kl": kl(expert, policy, per_prompt=True),
            "max_log_ratio": max_log_ratio(policy, expert, per_prompt=True),
        }
    alone = replace(streamed, logits=None)
    for found in (prompt_values(alone, alpha), prompt_values(mdp, alpha)):
        assert found.plain_value is None
        for name in list(expected)[:4]:
            assert_allclose(getattr(found, name), expected[name], rtol=1e-11, atol=1e-12)
    for found in (
        prompt_values(streamed, alpha, threads=2),
        prompt_values(mdp, alpha, policy=policy),
    ):
        for name, value in expected.items():
            assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-12, err_msg=name)


@check
@given(token_mdps(), alphas, seeds)
def test_numbers_against_every_response_in_plain_python(mdp, alpha, seed):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=table.shape) for table in mdp.rewards]
    policy = Policy.from_logits(mdp.dynamics, logits)
    found = prompt_values(mdp, alpha, policy=policy)
    expert = soft_optimal(mdp, alpha).policy
    assert_allclose(found.max_log_ratio, max_log_ratio(policy, expert, per_prompt=True), rtol=1e-9)
    weights = mdp.dynamics.prompt_weights

    def reward(response, _):
        tokens, states = response
        return sum(
            float(mdp.rewards[h][s, a]) for h, (s, a) in enumerate(zip(states, tokens, strict=True))
        )

    best = [brute_soft_value(mdp, alpha, prompt) for prompt in range(mdp.dynamics.n_prompts)]
    assert_allclose(found.soft_value, best, rtol=1e-9, atol=1e-9)
    plain = brute_expectation(policy, reward)
    entropy = brute_expectation(policy, lambda _, log_p: -log_p)
    assert found.plain_value @ weights == pytest.approx(plain, rel=1e-9, abs=1e-9)
    assert found.entropy @ weights == pytest.approx(entropy, rel=1e-9, abs=1e-9)
    # V* − V^π_{r,α} = α KL(π‖π_E)
    assert alpha * (found.kl @ weights) == pytest.approx(
        weights @ best - plain - alpha * entropy, rel=1e-7, abs=1e-8
    )


@pytest.mark.parametrize("vocab_size", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 6, 30, 1000])
def test_subtrees_are_cut_at_the_highest_layer_where_they_fit(vocab_size, block):
    """By adding up every layer; and a horizon of a million costs no more than one of ten."""
    for horizon in range(1, 12):
        tree = StreamedTree(vocab_size, horizon, None, block=block)
        sizes = [sum(vocab_size**k for k in range(1, horizon - h + 1)) for h in range(horizon)]
        fits = [h for h, size in enumerate(sizes) if size <= block]
        assert tree.cut == (fits[0] if fits else horizon - 1)
        assert tree.n_prefixes == sizes[0]
    if vocab_size > 1:
        long = StreamedTree(vocab_size, 10**6, None, block=block)
        assert 10**6 - long.cut == max(1, next(n for n in range(1, 12) if sum(
            vocab_size**k for k in range(1, n + 1)) > block) - 1)  # fmt: skip
        with pytest.raises(ValueError, match="fit no memory; use a larger block"):
            long.blocks()


def test_memory_is_that_of_a_block_and_of_the_roots():
    """22 million prefixes, 170 MiB of rewards, in less than a tenth of that."""

    def rewards(h, first, last):
        return np.broadcast_to(np.linspace(0, 1, last - first)[:, None], (last - first, 4))

    tree = StreamedTree(4, 12, rewards, block=2**16)
    tracemalloc.start()
    top_soft_values(tree, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tree.n_prefixes == 22_369_620
    assert peak < 16 * 2**20


def test_the_page_about_sizes_runs_as_it_stands():
    page = Path(__file__).parents[3] / "docs" / "solver.md"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert found.attempted > 20
    assert not found.failed


# --- Blocks that are none ------------------------------------------------------------------------


def with_fault(fault):
    def rewards(h, first, last):
        table = np.zeros((last - first, 2))
        return fault(table) if (h, first) == (3, 4) else table

    return StreamedTree(2, 4, rewards, block=6)


def planted(value):
    def fault(table):
        table[1, 1] = value
        return table

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda t: t[:1], r"^rewards\(h=3, first=4, last=6\) has shape \(1, 2\): must be \(2, 2\)"),
        (lambda t: t + 1j, r"^rewards\(h=3, first=4, last=6\) has dtype complex128: must hold"),
        (lambda t: t.astype(object), r"has dtype object: must hold real numbers"),
        (planted(np.nan), r"^rewards\(h=3, first=4, last=6\) holds nan at prefix 5, token 1: must"),
        (planted(-np.inf), r"holds -inf at prefix 5, token 1: must be finite"),
        (planted(1.5), r"holds 1.5 at prefix 5, token 1: .*reward_range=\(0, 1\)"),
        (lambda t: None, r"has shape \(\): must be \(2, 2\)"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_that_is_none_is_one_line_that_names_layer_and_block(fault, message, threads):
    tree = with_fault(fault)
    for solve in (top_soft_values, prompt_values):
        with pytest.raises(ValueError, match=message) as caught:
            solve(tree, 1.0, threads=threads)
        assert "\n" not in str(caught.value)


def test_logits_that_are_none():
    def tree(value):
        return StreamedTree(
            2,
            2,
            lambda h, first, last: np.zeros((last - first, 2)),
            lambda h, first, last: np.full((last - first, 2), value),
        )

    with pytest.raises(ValueError, match=r"logits\(h=0, first=0, last=1\) holds nan"):
        prompt_values(tree(np.nan), 1.0)
    with pytest.raises(ValueError, match="forbids every token"):
        prompt_values(tree(-np.inf), 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("vocab_size", 0), ("horizon", 2.5), ("n_prompts", -1), ("block", 0), ("horizon", "2")],
)
def test_sizes_that_are_none_are_refused(name, value):
    arguments = {"vocab_size": 2, "horizon": 2, "rewards": lambda h, first, last: None}
    with pytest.raises(ValueError, match=f"^{name}={value!r}: must be an integer, 1 or more"):
        StreamedTree(**(arguments | {name: value}))


def test_what_is_for_a_streamed_tree_only_is_refused_elsewhere(tmp_path):
    mdp = TokenMDP.tree([[[0.0, 1.0]]])
    uniform = Policy.from_logits(mdp.dynamics, [np.zeros((1, 2))])
    tree = StreamedTree(2, 1, layers([np.zeros((1, 2))]))
    with pytest.raises(ValueError, match="threads and run are for a StreamedTree"):
        prompt_values(mdp, 1.0, threads=2)
    with pytest.raises(ValueError, match="threads and run are for a StreamedTree"):
        soft_value(mdp, 1.0, run=RunFolder(tmp_path))
    with pytest.raises(ValueError, match="policy is given: a StreamedTree has"):
        prompt_values(tree, 1.0, policy=uniform)
    with pytest.raises(ValueError, match="threads=0: must be an integer"):
        prompt_values(tree, 1.0, threads=0)
    batch = TokenMDP.tree([np.zeros((3, 1, 2))])
    with pytest.raises(ValueError, match=r"mdp has batch axes \(3,\)"):
        prompt_values(batch, 1.0)


def test_a_top_that_does_not_fit_is_refused_before_anything_is_read():
    def never(h, first, last):
        raise AssertionError

    with pytest.raises(ValueError, match=r"block=4\): .* prefixes .* use a larger block"):
        top_soft_values(StreamedTree(4, 30, never, block=4), 1.0)


# --- Runs that are stopped ------------------------------------------------------------------------

PROGRAM = textwrap.dedent(
    """
    import sys, time
    import numpy as np
    from theory.mdp.streamed import StreamedTree
    from theory.solve.prompt_values import prompt_values
    from theory.storage.runs import RunFolder

    def rewards(h, first, last):
        time.sleep(float(sys.argv[2]))
        x = (np.arange(2 * first, 2 * last) * 2654435761 + h) % 2**32 / 2**32
        return x.reshape(-1, 2)

    tree = StreamedTree(2, 11, rewards, rewards, block=62)
    try:
        with RunFolder(sys.argv[1]) as run:
            found = prompt_values(tree, 0.25, threads=2, run=run)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print([value.tobytes().hex() for value in found])
    """
)


def start(folder, wait, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(wait)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out, error = start(tmp_path_factory.mktemp("whole"), 0).communicate(timeout=120)
    assert out, error
    return out


@pytest.mark.parametrize("n_lines", [0, 1, 17])
def test_a_run_that_is_killed_goes_on_and_ends_at_the_same_bits(tmp_path, undisturbed, n_lines):
    folder = tmp_path / "run"
    lines = folder / "subtrees.jsonl"
    killed = start(folder, 0.005)
    deadline = time.monotonic() + 60
    while not lines.exists() or lines.read_bytes().count(b"\n") < n_lines:
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = lines.read_bytes()
    # killed in the middle of a line, too
    lines.write_bytes(before + b'{"first": 3, "numb')
    kept = before[: before.rfind(b"\n") + 1]
    out, error = start(folder, 0).communicate(timeout=120)
    assert out == undisturbed, error
    after = lines.read_bytes()
    assert after.startswith(kept)
    assert kept.count(b"\n") < 64 == after.count(b"\n")
    assert len({json.loads(line)["first"] for line in after.splitlines()}) == 64


def limited():
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits of file sizes here")
def test_a_disk_that_is_full_in_the_middle_is_one_line_and_nothing_is_lost(tmp_path, undisturbed):
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    out, error = start(folder, 0, preexec_fn=limited, env=environment).communicate(timeout=120)
    assert not out
    assert error.strip().count("\n") == 0
    assert "subtrees.jsonl: File too large; what was finished is kept: make room" in error
    kept = (folder / "subtrees.jsonl").read_bytes()
    assert 0 < kept.count(b"\n") < 64
    out, error = start(folder, 0).communicate(timeout=120)
    assert out == undisturbed, error
    assert (folder / "subtrees.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


def test_another_run_is_refused(tmp_path):
    def tree(value=0.5, **options):
        return StreamedTree(
            **{"vocab_size": 2, "horizon": 4, "block": 6}
            | {"rewards": lambda h, first, last: np.full((last - first, 2), value)}
            | options
        )

    with RunFolder(tmp_path) as run:
        prompt_values(tree(), 0.5, run=run)
    for other, alpha, name in [
        (tree(), 0.25, "alpha"),
        (tree(horizon=5), 0.5, "horizon"),
        (tree(block=14), 0.5, "block"),
        (tree(value=0.75), 0.5, "digest"),
        (tree(reward_range=(0, 2)), 0.5, "reward_range"),
    ]:
        with (
            RunFolder(tmp_path) as run,
            pytest.raises(ValueError, match=f"has a run with {name} = .*give another --out"),
        ):
            prompt_values(other, alpha, run=run)
    with (
        RunFolder(tmp_path) as run,
        pytest.raises(ValueError, match='numbers = "prompt values", not "soft values"'),
    ):
        top_soft_values(tree(), 0.5, run=run)


def test_a_damaged_line_is_named(tmp_path):
    tree = StreamedTree(2, 4, lambda h, first, last: np.zeros((last - first, 2)), block=6)
    for damage, message in [
        ('{"first": 0}\n', "subtrees.jsonl:1: not a line of a run"),
        ('{"first": 1, "numbers": [[1.0, 2.0]]}\n', "no block begins at 1"),
        ('{"first": 0, "numbers": [[1.0, 2.0]]}\n', "no block begins at 0"),
    ]:
        (tmp_path / "subtrees.jsonl").unlink(missing_ok=True)
        with RunFolder(tmp_path) as run:
            top_soft_values(tree, 0.5, run=run)
        (tmp_path / "subtrees.jsonl").write_text(damage)
        with RunFolder(tmp_path) as run, pytest.raises(ValueError, match=message):
            top_soft_values(tree, 0.5, run=run)
