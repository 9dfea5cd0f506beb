"""A model's token tree against direct scoring of whole sequences."""

import itertools
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read import prefixes as module
from llm_bridge.read.reward import EndogenousReward, RewardReading
from llm_bridge.read.tree import REST, parse_tokens, token_tree
from theory.mdp.distances import kl, max_log_ratio, renyi, trajectory_tv
from theory.mdp.dynamics import Table, Tree
from theory.mdp.responses import Responses, all_responses, log_prob, map_response
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import trajectory_entropy
from theory.solve.reward import endogenous_reward, returns

V_MODEL, HORIZON = 7, 3  # letters a…e are tokens 0…4, prompts are written with A, B (5, 6)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    torch.manual_seed(0)
    if request.param == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V_MODEL,
            n_positions=9,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=V_MODEL,
            max_position_embeddings=9,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
        )
        model = transformers.LlamaForCausalLM(config)
    return CausalLM(model.double().eval(), letter_tokenizer(5, 2), request.param)


def llama(seed=1, context=16, **changes):
    """A Llama that is surer of its tokens than `lm`'s, in double precision."""
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.LlamaConfig(
        vocab_size=V_MODEL,
        max_position_embeddings=context,
        initializer_range=0.6,
        bos_token_id=None,
        eos_token_id=None,
        **(shape | changes),
    )
    return CausalLM(
        transformers.LlamaForCausalLM(config).double().eval(),
        letter_tokenizer(5, 2),
        f"llama-{seed}",
    )


def memory_for(lm, length, layers, branching, rows):
    """The `memory` at which `rows` prefixes go through the model in one pass."""
    reader = module.TreeReader(lm, layers, branching, 1)
    with pytest.raises(ValueError, match=r"memory=1: a prefix of .* tokens takes") as error:
        reader.at_once([[0] * length])
    return rows * int(str(error.value).split(" takes ")[1].split()[0])


def reread(lm, tree, prompt, path, temperature=1.0):
    """Log-probabilities ``(H, vocabulary)`` along a path of one prompt: each prefix encoded from
    its start.
    """
    ids, state, found = lm.tokenizer(tree.prompts[prompt])["input_ids"], prompt, []
    for h, a in enumerate(path):
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        found.append((state, torch.log_softmax(logits / temperature, dim=-1).numpy()))
        ids = [*ids, int(tree.token_ids[h][state, a])]
        state = (
            int(tree.policy.dynamics.rule.step(h, state, a, tree.policy.dynamics.vocab_size))
            if h + 1 < len(path)
            else 0
        )
    return found


def direct_scores(lm, prompt, response, tokens, temperature):
    """Scores of one response from one pass over the sequence: log-probabilities, normalisers, mass
    left out.
    """
    ids = lm.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        logits = (
            lm.model(torch.tensor([[*ids, *response]])).logits[0, len(ids) - 1 :].double()
            / temperature
        )
    inside = torch.logsumexp(logits[:, tokens], dim=-1)
    left_out = 1 - torch.exp(inside - torch.logsumexp(logits, dim=-1))
    chosen = logits[torch.arange(len(response)), list(response)]
    return (chosen - inside[:-1]).numpy(), inside.numpy(), left_out.numpy()[:-1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tokens", [None, [3, 0, 4]])
def test_tree_equals_direct_scoring(lm, tokens, temperature):
    prompts = ["A", "BA", "B", "AaB"]  # lengths 1, 2, 1, 3
    options = {
        "memory": memory_for(lm, 3, HORIZON + 1, len(tokens or range(V_MODEL)), 5),
        "terminal_layer": True,
    }
    tree = token_tree(lm, prompts, HORIZON, tokens=tokens, temperature=temperature, **options)
    ids = list(range(V_MODEL)) if tokens is None else tokens
    V, policy = len(ids), tree.policy
    assert [each.tolist() for each in tree.token_ids] == [
        [ids] * n for n in policy.dynamics.layer_sizes
    ]
    assert policy.dynamics.rule == Tree()
    assert tree.rest is None
    assert len(policy.log_normalizers) == HORIZON + 1
    for p, prompt in enumerate(prompts):
        for response in list(itertools.product(range(V), repeat=HORIZON))[::5]:
            expected = direct_scores(lm, prompt, [ids[a] for a in response], ids, temperature)
            state = p
            for h, a in enumerate(response):
                row = (
                    policy.log_probs[h][state, a],
                    policy.log_normalizers[h][state],
                    tree.left_out[h][state],
                )
                np.testing.assert_allclose(
                    row, [expected[0][h], expected[1][h], expected[2][h]], atol=1e-10
                )
                state = state * V + a
            assert policy.log_normalizers[HORIZON][state] == pytest.approx(
                expected[1][HORIZON], abs=1e-10
            )
    if tokens is None:
        assert tree.max_left_out == 0.0
    else:
        assert 0 < tree.max_left_out < 1


def test_rows_sum_to_one_in_double_precision(lm):
    for table in token_tree(lm, ["A"], HORIZON).policy.log_probs:
        np.testing.assert_allclose(np.exp(table).sum(axis=-1), 1.0, atol=1e-14)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_endogenous_reward_telescopes(lm, alpha):
    tokens = [0, 1, 2]
    policy = token_tree(lm, ["A", "BA"], HORIZON, tokens=tokens, temperature=alpha).policy
    found = returns(endogenous_reward(policy, alpha), all_responses(policy.dynamics)).reshape(2, -1)
    for p, prompt in enumerate(["A", "BA"]):
        for i, response in enumerate(itertools.product(tokens, repeat=HORIZON)):
            logs, normalizers, _ = direct_scores(lm, prompt, response, tokens, alpha)
            assert found[p, i] == pytest.approx(alpha * (logs.sum() + normalizers[0]), abs=1e-10)


@pytest.mark.parametrize("options", [{}, {"end_tokens": [2]}, {"top_k": 3, "end_tokens": [2]}])
def test_batches_do_not_matter(options):
    lm = llama()
    prompts, first = ["A", "BA", "B", "AbBa"], None
    for rows in (1, 2, 3, 7, 10_000):
        memory = memory_for(lm, 4, 3, 3, rows)
        tree = token_tree(lm, prompts, 3, memory=memory, **options)
        first = first or tree
        for a, b in zip(first.policy.log_probs, tree.policy.log_probs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
        for a, b in zip(first.token_ids, tree.token_ids, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": [3, 0, 4], "rest": True},
        {"end_tokens": [2, 5]},
        {"tokens": [3, 2, 0], "end_tokens": [2, 5]},
        {"top_k": 2},
        {"top_k": 3, "end_tokens": [2, 5]},
        {"top_k": 1, "end_tokens": [2]},
    ],
)
def test_every_prefix_equals_encoding_it_again(options):
    lm = llama()
    tree = token_tree(
        lm,
        ["A", "BA", "B", "AbBa"],
        4,
        memory=memory_for(lm, 4, 4, 3, 6),
        temperature=0.8,
        **options,
    )
    ids, ends, V = tree.token_ids[0][0], tree.end_tokens, tree.policy.dynamics.vocab_size
    goes_on = [a for a in range(V) if ids[a] != REST and ids[a] not in ends]
    paths = list(itertools.product(range(4), itertools.product(goes_on, repeat=4)))
    for prompt, path in paths[:: max(1, len(paths) // 50)]:
        for h, (state, log_probs) in enumerate(reread(lm, tree, prompt, path, 0.8)):
            ids = tree.token_ids[h][state]
            inside, outside = ids[ids != REST], np.setdiff1d(np.arange(V_MODEL), ids)
            expected, left_out = np.exp(log_probs[inside]), np.exp(log_probs[outside]).sum()
            expected = np.append(expected, left_out) if tree.rest else expected / expected.sum()
            np.testing.assert_allclose(
                np.exp(tree.policy.log_probs[h][state]), expected, rtol=1e-10
            )
            np.testing.assert_allclose(tree.left_out[h][state], left_out, rtol=1e-10, atol=1e-300)
            if "top_k" in options:
                others = np.setdiff1d(np.arange(V_MODEL), ends)
                best = others[np.argsort(-log_probs[others])][: options["top_k"]]
                assert ids.tolist() == [*best, *ends, REST]


@pytest.mark.parametrize("name", ["add-teacher", "nano-sort"])
def test_real_models_equal_encoding_again(shared_models, name, monkeypatch):
    lm = ModelSpec(shared_models / name).load()
    prompts = ["ABCABC", "CCBBAA"] if name == "nano-sort" else ["123456", "998877"]
    cached = token_tree(lm, prompts, 3)
    monkeypatch.setattr(module.TreeReader, "shares_cache", lambda *_: False)
    again = token_tree(lm, prompts, 3)
    for a, b in zip(cached.policy.log_probs, again.policy.log_probs, strict=True):
        np.testing.assert_allclose(np.exp(a), np.exp(b), atol=2e-6)


def fed(lm, *arguments, **options):
    """Shapes of the ids that the model's embedding gets, and the tree."""
    shapes = []
    hook = lm.model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    try:
        tree = token_tree(lm, *arguments, **options)
    finally:
        hook.remove()
    return [shape for shape in shapes if len(shape) == 2], tree


@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize(
    ("options", "branching", "layers"),
    [
        ({}, 7, 3),
        ({"terminal_layer": True, "tokens": [0, 1]}, 2, 4),
        ({"end_tokens": [2, 5]}, 5, 3),
        ({"tokens": [3, 0], "rest": True}, 2, 3),
        ({"top_k": 2, "end_tokens": [2]}, 2, 3),
    ],
)
def test_each_prefix_is_read_once(lm, options, branching, layers, rows, monkeypatch):
    prompts, lengths = ["A", "BA", "B", "AaB"], [1, 2, 1, 3]
    memory = memory_for(lm, 3, layers, branching, rows)
    checked, _ = fed(lm, prompts, 3, memory=memory, **options)
    monkeypatch.setattr(module.TreeReader, "shares_cache", lambda *_: True)
    measured = cache_bytes(lm)
    monkeypatch.setattr(module.TreeReader, "_cache_bytes", lambda _: measured)
    shapes, _ = fed(lm, prompts, 3, memory=memory, **options)
    below = sum(branching**h for h in range(1, layers))
    assert sum(n for n, _ in shapes) == len(prompts) * (1 + below)
    assert sum(n * length for n, length in shapes) == sum(lengths) + len(prompts) * below
    if rows == 1:
        assert {n for n, _ in shapes} == {1}
    # the check: one token; for each of three lengths a prompt, two children at each layer, and the
    # last prefix again
    extra = sum(n * length for n, length in checked) - sum(n * length for n, length in shapes)
    assert extra == 1 + sum(length + 2 * (layers - 1) + length + layers - 1 for length in (1, 2, 3))


def cache_bytes(lm):
    return module.TreeReader(lm, 2, 2, 1).cache_bytes


def test_the_cache_of_a_token_is_measured():
    assert cache_bytes(llama()) == 2 * 2 * 16 * 8  # layers, keys and values, width, bytes
    assert cache_bytes(llama(num_key_value_heads=1)) == 2 * 2 * 8 * 8


@pytest.mark.parametrize(("top_k", "rows"), [(None, 1), (None, 5), (None, 1000), (1, 4)])
def test_caches_stay_within_memory(top_k, rows, monkeypatch):
    lm, alive, most = llama(context=40), weakref.WeakSet(), 0
    layers = 4 if top_k is None else 20
    memory = memory_for(lm, 4, layers, top_k or V_MODEL, rows)
    forward, select = lm.model.forward, module.select

    def count(cache, n_logits):
        nonlocal most
        alive.update(cache.layers if cache else ())
        tensors = {t.data_ptr(): t.nbytes for layer in alive for t in (layer.keys, layer.values)}
        most = max(most, sum(tensors.values()) + 6 * 8 * V_MODEL * n_logits)

    def watched(
        input_ids, attention_mask=None, past_key_values=None, use_cache=None, logits_to_keep=0
    ):
        output = forward(
            input_ids, attention_mask, past_key_values=past_key_values, use_cache=use_cache
        )
        count(output.past_key_values, len(input_ids))
        return output

    def selected(cache, rows):
        found = select(cache, rows)
        count(found, len(rows))
        return found

    monkeypatch.setattr(lm.model, "forward", watched)
    monkeypatch.setattr(module, "select", selected)
    token_tree(lm, ["AbBa"] * 3, layers, top_k=top_k, memory=memory)
    activations = 16 * 8 * (4 + layers - 1) * 16  # of a prefix, which nobody counts here
    assert memory / 20 < most <= memory - rows * activations


def test_one_prefix_must_fit_into_memory(lm, monkeypatch):
    need = memory_for(lm, 2, 3, V_MODEL, 1)
    token_tree(lm, ["BA", "A"], 3, memory=need)
    monkeypatch.setattr("llm_bridge.read.tree._Tables", None)  # nothing is allocated
    with pytest.raises(
        ValueError,
        match=rf"memory={need - 1}: a prefix of 4 tokens takes {need} bytes; give at least",
    ):
        token_tree(lm, ["BA", "A"], 3, memory=need - 1)


class Plain(torch.nn.Module):
    """A model without cache, mask and `logits_to_keep`."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config
        self.eval()

    def forward(self, input_ids):
        return self.inner(input_ids)


def forgetful(model):
    """A model that continues from its cache without what is in it."""
    forward = model.forward

    def wrong(input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        if past_key_values is not None and past_key_values.get_seq_length():
            for layer in past_key_values.layers:
                layer.values = 0 * layer.values
        return forward(input_ids, past_key_values=past_key_values, use_cache=use_cache)

    model.forward = wrong
    return model


def sliding(model):
    config = transformers.MistralConfig(
        **{k: v for k, v in model.config.to_dict().items() if k in SHAPE}, sliding_window=3
    )
    torch.manual_seed(0)
    return transformers.MistralForCausalLM(config).double().eval()


SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "initializer_range",
)


def state_space(model):
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=V_MODEL, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.6
    )
    return transformers.MambaForCausalLM(config).double().eval()


@pytest.mark.parametrize("change", [Plain, forgetful, sliding, state_space])
def test_models_whose_cache_is_of_no_use(change):
    lm = llama()
    lm = CausalLM(change(lm.model), lm.tokenizer, "other")
    assert (cache_bytes(lm) is None) == (change is not forgetful)
    tree = token_tree(lm, ["AbBa", "A"], 3, memory=memory_for(lm, 4, 3, V_MODEL, 9))
    for prompt, text in enumerate(tree.prompts):
        ids = lm.tokenizer(text)["input_ids"]
        for path in list(itertools.product(range(V_MODEL), repeat=3))[::5]:
            with torch.no_grad():
                logits = lm.model(torch.tensor([[*ids, *path[:-1]]])).logits[0, -3:]
            state = prompt
            for h, a in enumerate(path):
                expected = torch.log_softmax(logits[h].double(), dim=-1).numpy()
                tolerance = (
                    1e-5 if logits.dtype == torch.float32 else 1e-10
                )  # Mamba's are, whatever its weights
                np.testing.assert_allclose(
                    tree.policy.log_probs[h][state], expected, atol=tolerance
                )
                state = state * V_MODEL + a


@pytest.mark.parametrize("options", [{"tokens": [3, 0, 4]}, {"top_k": 2}, {"top_k": 5}])
@pytest.mark.parametrize("ends", [(), (2,)])
def test_divergences_with_the_rest_are_lower_bounds(options, ends):
    lm, expert, prompts = llama(), llama(2), ["A", "BA"]
    full = token_tree(expert, prompts, 3, end_tokens=ends)
    full = full.policy, token_tree(lm, prompts, 3, like=full).policy
    tree = token_tree(expert, prompts, 3, **{"rest": True} | options, end_tokens=ends)
    like = token_tree(lm, prompts, 3, like=tree)
    assert like.token_ids is tree.token_ids
    assert like.policy.dynamics is tree.policy.dynamics
    part = tree.policy, like.policy
    for policy in part:
        for table in policy.log_probs:
            np.testing.assert_allclose(np.exp(table).sum(axis=-1), 1.0, atol=1e-14)
    for divergence in (kl, trajectory_tv, max_log_ratio, lambda p, q: renyi(p, q, 2.0)):
        for order in (1, -1):
            low, high = divergence(*part[::order]), divergence(*full[::order])
            assert (low > 0).all()
            assert (low <= high + 1e-12).all()
    assert 0 < trajectory_entropy(part[0]) < trajectory_entropy(full[0])
    # a response without rest token is as probable as before
    responses = all_responses(full[0].dynamics)
    ids, states = tree.token_ids, tree.policy.dynamics.n_prompts
    for p, tokens in zip(responses.prompts[::7], responses.tokens[::7], strict=True):
        state, path = p, []
        for h, token in enumerate(tokens):
            if state == tree.policy.dynamics.layer_sizes[h] - 1 and h:
                path.append(tree.rest)
            elif token in ids[h][state]:
                path.append(int(np.flatnonzero(ids[h][state] == token)[0]))
            else:
                break
            if h + 1 < 3:
                state = int(tree.policy.dynamics.rule.step(h, state, path[-1], len(ids[0][0])))
        else:
            found = log_prob(tree.policy, Responses(np.array([p]), np.array([path])))
            expected = log_prob(full[0], Responses(np.array([p]), tokens[None]))
            if tree.rest not in path or not np.isinf(expected).any():
                np.testing.assert_allclose(found, expected, atol=1e-12)
    assert states == 2


def test_an_ended_response_is_scored_as_by_endogenous_reward():
    lm, H, ends = llama(), 3, (2, 4)
    for terminal in ("zero", "bootstrap"):
        tree = token_tree(
            lm, ["A", "BA"], H, end_tokens=ends, terminal_layer=terminal == "bootstrap"
        )
        dynamics = tree.policy.dynamics
        assert isinstance(dynamics.rule, Table)
        assert dynamics.layer_sizes == (2, 2 * 5 + 1, 2 * 25 + 1)
        mdp = endogenous_reward(tree.policy, 0.7, terminal=terminal)
        reward = EndogenousReward(
            lm, reading=RewardReading(0.7, terminal=terminal), end_tokens=ends
        )
        for answer in ([0, 1, 3], [1, 2], [4], [0, 0, 2], [6, 5, 4]):
            [scores] = reward.score_ids([lm.tokenizer("BA")["input_ids"]], [answer], progress=False)
            padded = answer + [4] * (H - len(answer))
            response = Responses(np.array([1]), np.array([padded]))
            states = dynamics.walk(*response)
            found = [
                float(mdp.rewards[h][state[0], a])
                for h, (state, a) in enumerate(zip(states, padded, strict=True))
            ]
            np.testing.assert_allclose(
                found, [*scores.rewards, *[0.0] * (H - len(answer))], atol=1e-6
            )
            assert np.isfinite(log_prob(tree.policy, response)).all()
            wrong = answer + [0] * (H - len(answer))
            never = np.isneginf(log_prob(tree.policy, Responses(np.array([1]), np.array([wrong]))))
            assert never.all() == (len(answer) < H)


def test_one_end_token_is_that_of_token_mdp():
    tree = token_tree(llama(), ["A", "BA"], 3, end_tokens=[2])
    expected = TokenMDP.tree([np.zeros((2 * 7**h, 7)) for h in range(3)], eos=2).dynamics
    found = tree.policy.dynamics
    assert found.same_as(expected)
    assert found.eos == 2
    for one, two in zip(found.allowed, expected.allowed, strict=True):
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two)


def test_every_token_may_end():
    tree = token_tree(llama(), ["A", "B"], 3, tokens=[1, 2], end_tokens=[1, 2], rest=True)
    assert tree.policy.dynamics.layer_sizes == (2, 1, 1)
    assert kl(tree.policy, tree.policy) == 0.0


def test_long_responses_of_the_most_probable_token():
    lm = llama(context=80)
    tree = token_tree(lm, ["A", "BA"], 60, top_k=1)
    for prompt, text in enumerate(tree.prompts):
        ids = lm.tokenizer(text)["input_ids"]
        with torch.no_grad():
            expected = lm.model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=60, eos_token_id=None
            )
        assert [int(each[prompt, 0]) for each in tree.token_ids] == expected[0, len(ids) :].tolist()


def test_hundreds_of_prompts(shared_models):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ABC"), n)) for n in rng.integers(1, 8, 300)]
    lm = ModelSpec(shared_models / "nano-sort").load()
    tree = token_tree(lm, words, 3, end_tokens=[2])
    for p in rng.choice(300, 12, replace=False):
        alone = token_tree(lm, [words[p]], 3, end_tokens=[2]).policy
        for h, table in enumerate(alone.log_probs):
            mine = tree.policy.log_probs[h][p * 2**h : (p + 1) * 2**h]
            np.testing.assert_allclose(np.exp(mine), np.exp(table[: 2**h]), atol=1e-6)


def test_training_mode_and_weights_stay(lm):
    assert lm.reader.batches  # checked before, in evaluation mode
    lm.model.train()
    try:
        token_tree(lm, ["A"], 2)
        assert all(part.training for part in lm.model.modules())
    finally:
        lm.model.eval()


@pytest.mark.slow
def test_nano_sort_sorts_every_word(shared_models):
    words = ["".join(word) for word in itertools.product("ABC", repeat=6)]
    tree = token_tree(ModelSpec(shared_models / "nano-sort").load(), words, 6)
    answers = np.array([["ABC".index(c) for c in sorted(word)] for word in words])
    assert np.array_equal(map_response(tree.policy).tokens, answers)
    probability = np.exp(log_prob(tree.policy, Responses(np.arange(len(words)), answers)))
    assert probability.mean() == pytest.approx(0.99932, abs=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon=0: must be an integer of at least 1"),
        ({"horizon": 2.0}, "horizon=2.0: must be an integer"),
        ({"horizon": True}, "horizon=True: must be an integer"),
        ({"memory": 0}, "memory=0: must be an integer of at least 1"),
        ({"top_k": 0}, "top_k=0: must be an integer of at least 1"),
        ({"top_k": 7}, "top_k=7: leaves no token for the rest; give at most 6, or none"),
        (
            {"top_k": 6, "end_tokens": [0]},
            "top_k=6: leaves no token for the rest; give at most 5, or none",
        ),
        ({"top_k": 2, "tokens": [0]}, r"top_k=2 and tokens=\[0\]: give one of them"),
        ({"rest": True}, "rest=True: no token of .* is left; give tokens=, fewer than 7"),
        ({"end_tokens": [7]}, "end_tokens: 7 is not an id of .*; use ids from 0 to 6"),
        ({"end_tokens": [1, 1]}, "end_tokens: 1 is given twice"),
        ({"end_tokens": [0.5]}, r"end_tokens=\[0.5\]: must be a sequence of token ids"),
        ({"temperature": 0}, "temperature=0.0: must be positive"),
        ({"temperature": float("nan")}, "temperature=nan: must be positive"),
        ({"prompts": []}, r"prompts=\[\]: must be a sequence of at least one text"),
        ({"prompts": "A"}, "prompts='A': must be a sequence"),
        ({"prompts": ["A", "?"]}, r"prompt='\?': the vocabulary of \w+ has nothing for '\?'"),
        ({"tokens": []}, r"tokens=\[\]: must be a sequence of at least one token id"),
        ({"tokens": [0.5]}, "must be a sequence of token ids"),
        ({"tokens": [0, 7]}, "tokens: 7 is not an id of .*; use ids from 0 to 6"),
        ({"tokens": [-1]}, "tokens: -1 is not an id"),
        ({"tokens": [1, 2, 1]}, "tokens: 1 is given twice"),
        ({"horizon": 10}, "need 10 positions, .* has 9"),
        ({"horizon": 9, "terminal_layer": True, "tokens": [0]}, "need 10 positions"),
        ({"horizon": 60}, "the token tree of .*vocab_size=7, horizon=60, prompts=1.* needs about"),
    ],
)
def test_refusals(lm, change, message):
    arguments = {"prompts": ["A"], "horizon": 2} | change
    with pytest.raises(ValueError, match=message) as error:
        token_tree(lm, **arguments)
    assert "\n" not in str(error.value)


def test_the_whole_vocabulary_can_be_too_large(shared_models):
    with pytest.raises(
        ValueError, match=r"the token tree of stories260K: .*vocab_size=512, horizon=5"
    ):
        token_tree(ModelSpec(shared_models / "stories260K").load(), ["Once"], 5)


def test_a_batch_can_be_too_large(lm, monkeypatch):
    monkeypatch.setattr("llm_bridge.read.tree.require_tree_memory", lambda *_, **__: None)
    monkeypatch.setattr("theory.arrays.memory.available_memory", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"reading 49 prefixes at once needs .* use a smaller memory"
    ):
        token_tree(lm, ["A"], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompts": ["B"]},
            r"like: a tree of other prompts or another horizon \(1 prompts, horizon 2\); give the "
            r"same",
        ),
        ({"horizon": 3}, "like: a tree of other prompts or another horizon"),
        (
            {"tokens": [1]},
            "like: has tokens of its own; leave out tokens, rest, top_k and end_tokens",
        ),
        ({"top_k": 1}, "like: has tokens of its own"),
        ({"end_tokens": [1]}, "like: has tokens of its own"),
        ({"lm": None}, "like: 6 is not an id of small; compare models"),
    ],
)
def test_refusals_of_like(lm, change, message):
    arguments = {
        "lm": lm,
        "prompts": ["A"],
        "horizon": 2,
        "like": token_tree(lm, ["A"], 2),
    } | change
    if change.get("lm", lm) is None:
        config = transformers.GPT2Config(
            vocab_size=6, n_positions=9, n_embd=16, n_layer=1, n_head=2
        )
        arguments["lm"] = CausalLM(
            transformers.GPT2LMHeadModel(config).eval(), lm.tokenizer, "small"
        )
    with pytest.raises(ValueError, match=message):
        token_tree(**arguments)


def test_parse_tokens(lm, shared_models):
    assert parse_tokens(lm, "0, 3,1") == [0, 3, 1]
    assert parse_tokens(lm, "2,") == [2]
    assert parse_tokens(lm, "cab") == [2, 0, 1]
    assert parse_tokens(ModelSpec(shared_models / "add-fair").load(), "0142") == [
        0,
        1,
        4,
        2,
    ]  # characters: no comma
    stories = ModelSpec(shared_models / "stories260K").load()
    assert stories.tokenizer.convert_ids_to_tokens(parse_tokens(stories, "tea")) == ["t", "e", "a"]
    for text, character in (("aXb", "X"), ("a,b", ",")):
        with pytest.raises(
            ValueError, match=f"'{character}' is not a single token of {lm.name}; give ids"
        ):
            parse_tokens(lm, text)
    with pytest.raises(ValueError, match="'漢' is not a single token of stories260K"):
        parse_tokens(stories, "a漢")
    with pytest.raises(ValueError, match="tokens='': give ids"):
        parse_tokens(lm, "")
