"""A model's token tree against direct scoring of whole sequences."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm_bridge.model import CausalLM, load_model  # noqa: E402
from llm_bridge.train import _tokenizer  # noqa: E402
from llm_bridge.tree import parse_tokens, token_tree  # noqa: E402
from theory.policy import Responses, all_responses, log_prob, map_response  # noqa: E402
from theory.reward import endogenous_reward, returns  # noqa: E402

V_MODEL, HORIZON = 7, 3  # letters a…e are tokens 0…4, prompts are written with A, B (5, 6)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    torch.manual_seed(0)
    if request.param == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V_MODEL, n_positions=9, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            vocab_size=V_MODEL, max_position_embeddings=9, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, initializer_range=0.5, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    return CausalLM(model.eval(), _tokenizer(5, 2), request.param)


def direct_scores(lm, prompt, response, tokens, temperature):
    """Scores of one response from one pass over the sequence: log-probabilities, normalisers, mass left out."""
    ids = lm.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*ids, *response]])).logits[0, len(ids) - 1 :].double() / temperature
    inside = torch.logsumexp(logits[:, tokens], dim=-1)
    left_out = 1 - torch.exp(inside - torch.logsumexp(logits, dim=-1))
    chosen = logits[torch.arange(len(response)), list(response)]
    return (chosen - inside[:-1]).numpy(), inside.numpy(), left_out.numpy()[:-1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tokens", [None, [3, 0, 4]])
def test_tree_equals_direct_scoring(lm, tokens, temperature):
    prompts = ["A", "BA", "B", "AaB"]  # lengths 1, 2, 1, 3
    tree = token_tree(lm, prompts, HORIZON, tokens=tokens, temperature=temperature, batch_size=5, terminal_layer=True)
    ids = list(range(V_MODEL)) if tokens is None else tokens
    V, policy = len(ids), tree.policy
    assert tree.token_ids.tolist() == ids
    assert len(policy.log_normalizers) == HORIZON + 1
    for p, prompt in enumerate(prompts):
        for response in itertools.product(range(V), repeat=HORIZON):
            expected = direct_scores(lm, prompt, [ids[a] for a in response], ids, temperature)
            state = p
            for h, a in enumerate(response):
                row = policy.log_probs[h][state, a], policy.log_normalizers[h][state], tree.left_out[h][state]
                np.testing.assert_allclose(row, [expected[0][h], expected[1][h], expected[2][h]], atol=1e-5)
                state = state * V + a
            assert policy.log_normalizers[HORIZON][state] == pytest.approx(expected[1][HORIZON], abs=1e-5)
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
            assert found[p, i] == pytest.approx(alpha * (logs.sum() + normalizers[0]), abs=1e-5)


def test_batches_do_not_matter(lm):
    one, two = (token_tree(lm, ["A", "B"], HORIZON, batch_size=n).policy for n in (1, 10_000))
    for a, b in zip(one.log_probs, two.log_probs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_model_without_logits_to_keep(lm):
    class Plain(torch.nn.Module):
        config, device = lm.model.config, lm.model.device

        def forward(self, input_ids):
            return lm.model(input_ids)

    expected = token_tree(lm, ["A"], 2).policy
    plain = token_tree(CausalLM(Plain(), lm.tokenizer, "plain"), ["A"], 2).policy
    for a, b in zip(expected.log_probs, plain.log_probs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_nano_sort_sorts_every_word(shared_models):
    words = ["".join(word) for word in itertools.product("ABC", repeat=6)]
    tree = token_tree(load_model(shared_models / "nano-sort"), words, 6)
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
        ({"batch_size": 0}, "batch_size=0: must be an integer of at least 1"),
        ({"temperature": 0}, "temperature=0.0: must be positive"),
        ({"temperature": float("nan")}, "temperature=nan: must be positive"),
        ({"prompts": []}, r"prompts=\[\]: must be a sequence of at least one text"),
        ({"prompts": "A"}, "prompts='A': must be a sequence"),
        ({"prompts": ["A", "?"]}, r"prompt='\?': cannot be encoded"),
        ({"tokens": []}, r"tokens=\[\]: must be a sequence of at least one token id"),
        ({"tokens": [0.5]}, "must be a sequence of at least one token id"),
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
    with pytest.raises(ValueError, match=r"the token tree of stories260K: .*vocab_size=512, horizon=5"):
        token_tree(load_model(shared_models / "stories260K"), ["Once"], 5)


def test_a_batch_can_be_too_large(lm, monkeypatch):
    monkeypatch.setattr("llm_bridge.tree.require_tree_memory", lambda *_, **__: None)
    monkeypatch.setattr("theory.arrays.available_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"the logits of 49 prefixes needs .* use a smaller batch_size"):
        token_tree(lm, ["A"], 3)


def test_parse_tokens(lm, shared_models):
    assert parse_tokens(lm, "0, 3,1") == [0, 3, 1]
    assert parse_tokens(lm, "2,") == [2]
    assert parse_tokens(lm, "cab") == [2, 0, 1]
    assert parse_tokens(load_model(shared_models / "add-fair"), "0142") == [0, 1, 4, 2]  # characters: no comma
    stories = load_model(shared_models / "stories260K")
    assert stories.tokenizer.convert_ids_to_tokens(parse_tokens(stories, "tea")) == ["t", "e", "a"]
    for text, character in (("aXb", "X"), ("a,b", ",")):
        with pytest.raises(ValueError, match=f"'{character}' is not a single token of {lm.name}; give ids"):
            parse_tokens(lm, text)
    with pytest.raises(ValueError, match="'漢' is not a single token of stories260K"):
        parse_tokens(stories, "a漢")
    with pytest.raises(ValueError, match="tokens='': give ids"):
        parse_tokens(lm, "")
