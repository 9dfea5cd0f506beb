"""Beam search against the most probable response of the whole tree, and its certificate against
every response.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from letters import biased, llama

from llm_bridge.check.draws import DrawSetting
from llm_bridge.check.sampled import estimate
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read import beam as module
from llm_bridge.read.beam import Beam, _largest, beam_search
from llm_bridge.read.tree import token_tree
from llm_bridge.tasks.generated import addition
from theory.mdp.responses import all_responses, greedy_response, log_prob, map_response

V, H = 7, 4
PROMPTS = ("A", "ABAB", "BA")


def exact(lm, ends=(), temperature=1.0):
    """Most probable response of each prompt as token ids up to the end token, and its
    log-probability.
    """
    tree = token_tree(lm, PROMPTS, H, end_tokens=ends, temperature=temperature)
    best = map_response(tree.policy)
    return [cut(tokens, ends) for tokens in best.tokens], log_prob(tree.policy, best)


def cut(tokens, ends):
    stop = next((k + 1 for k, a in enumerate(tokens) if a in ends), len(tokens))
    return tokens[:stop].tolist()


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.integers(0, 30),
    st.sampled_from([1, 2, 3, 5, 20, 400]),
    st.sampled_from([(), (3,), (0, 5)]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_what_is_proven_is_the_most_probable_response(seed, width, ends, temperature):
    lm = llama(seed)
    found = beam_search(lm, PROMPTS, H, width, end_tokens=ends, temperature=temperature)
    responses, best = exact(lm, ends, temperature)
    for p in range(len(PROMPTS)):
        assert found.log_probs[p] <= best[p] + 1e-9
        assert (
            max(found.log_probs[p], found.missed[p]) >= best[p] - 1e-9
        )  # what was missed is within the bound
        if found.proven[p]:
            assert found.log_probs[p] == pytest.approx(best[p], abs=1e-9)
            assert found.responses[p].tolist() == responses[p]
            assert found.shortfall[p] == 0
        else:
            assert found.shortfall[p] == pytest.approx(found.missed[p] - found.log_probs[p])
    if width >= V ** (H - 1):
        assert found.proven.all()


@pytest.mark.slow
def test_a_width_of_one_is_greedy_and_can_be_wrong():
    wrong = 0
    for seed in range(12):
        lm = llama(seed)
        found = beam_search(lm, PROMPTS, H, 1)
        greedy = greedy_response(token_tree(lm, PROMPTS, H).policy).tokens
        assert [r.tolist() for r in found.responses] == greedy.tolist()
        wrong += sum(
            r.tolist() != best for r, best in zip(found.responses, exact(lm)[0], strict=True)
        )
    assert wrong > 0


def test_the_log_probability_is_that_of_the_response():
    lm = llama(3)
    found = beam_search(lm, PROMPTS, H, 4, end_tokens=(2,))
    tree = token_tree(lm, PROMPTS, H)
    every = all_responses(tree.policy.dynamics)
    laws = log_prob(tree.policy, every).reshape(len(PROMPTS), -1)
    tokens = every.tokens[: V**H]
    for p, response in enumerate(found.responses):
        begins = (tokens[:, : len(response)] == response).all(axis=1)
        assert found.log_probs[p] == pytest.approx(np.log(np.exp(laws[p, begins]).sum()), abs=1e-9)
        assert len(response) == H or response[-1] == 2
        assert 2 not in response[:-1]


def test_with_and_without_the_cache_and_in_blocks(monkeypatch):
    lm = llama(5)
    whole = beam_search(lm, PROMPTS, H, 6)
    monkeypatch.setattr(module.PrefixReader, "shares_cache", lambda *_: False)
    apart = beam_search(lm, PROMPTS, H, 6)
    monkeypatch.setattr(module.PrefixReader, "rows", lambda *_: 2)
    blocks = beam_search(lm, PROMPTS, H, 6)
    assert np.isfinite(whole.missed).all()
    for other in (apart, blocks):
        same(other, whole)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_response_can_come_from_any_block(seed, monkeypatch):
    lm = llama(seed)
    for ends in ((), (0, 5)):
        monkeypatch.undo()
        whole = beam_search(lm, PROMPTS, H, 9, end_tokens=ends)
        monkeypatch.setattr(module.PrefixReader, "rows", lambda *_: 1)
        same(beam_search(lm, PROMPTS, H, 9, end_tokens=ends), whole)


def same(one, two):
    np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-12)
    np.testing.assert_allclose(one.missed, two.missed, atol=1e-12)
    assert [r.tolist() for r in one.responses] == [r.tolist() for r in two.responses]


@pytest.mark.parametrize("ends", [(), (3,), (0, 5)])
def test_of_a_wide_beam_the_continuations_of_one_pass_exist_at_once(ends, monkeypatch):
    lm = llama(7, spread=0.3)  # unsure of its tokens
    wide = [beam_search(lm, PROMPTS, H, width, end_tokens=ends) for width in (9, 60)]
    shapes, largest_of = [], module._largest_of

    def recorded(going, children, *more):
        found = largest_of(going, children, *more)
        shapes.append((len(found[0]), len(children)))
        return found

    monkeypatch.setattr(module, "_largest_of", recorded)
    monkeypatch.setattr(module.PrefixReader, "rows", lambda *_: 4)
    for width, expected in zip((9, 60), wide, strict=True):
        same(beam_search(lm, PROMPTS, H, width, end_tokens=ends), expected)
    kept, read = map(max, zip(*shapes, strict=True))
    assert read <= 4
    assert kept <= 61
    if not ends:  # a response that has ended leaves fewer that can still win
        assert (kept, read) == (61, 4)


def test_a_model_of_16_bits_is_read_through_its_head_in_float32():
    lm = llama(8, spread=1.0)
    lm.model.bfloat16()
    with torch.no_grad():
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"] for prompt in ("AB", "BA")])
        states = lm.model.get_decoder()(ids)[0][:, -1].float()
        exact = torch.log_softmax(
            (states @ lm.model.lm_head.weight.float().T).double(), dim=-1
        ).numpy()
        rounded = torch.log_softmax(lm.model(ids).logits[:, -1].double(), dim=-1).numpy()
        assert module.PrefixReader(lm, H, 2**30).shares_cache(ids[:1].numpy())
    assert np.abs(exact - rounded).max() > 0.01
    found, policy = beam_search(lm, ("AB", "BA"), 1, 1), token_tree(lm, ("AB", "BA"), 1).policy
    np.testing.assert_allclose(found.log_probs, exact.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(policy.log_probs[0], exact, atol=1e-5)


def test_a_kept_prefix_is_read_once_with_the_cache():
    lm, fed = llama(6), []
    forward = lm.model.forward

    def counted(input_ids, *arguments, **options):
        fed.append(tuple(input_ids.shape))
        return forward(input_ids, *arguments, **options)

    counted.__signature__ = __import__("inspect").signature(forward)
    lm.model.forward = counted
    beam_search(lm, ["ABAB"], H, 3)
    assert fed[-H:] == [(1, 4), *[(3, 1)] * (H - 1)]


READ = {
    "tree": lambda lm: token_tree(lm, PROMPTS, 3),
    "beam": lambda lm: beam_search(lm, PROMPTS, 3, 9),
    "beam in blocks": lambda lm: beam_search(lm, PROMPTS, 3, 9, memory=60_000),
    "sampled": lambda lm: estimate(lm, llama(1), PROMPTS, DrawSetting(3, 20)),
    "sampled expert": lambda lm: estimate(llama(1), lm, PROMPTS, DrawSetting(3, 20)),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize(
    ("token", "value", "what"),
    [
        (2, np.nan, "NaN"),
        (2, np.inf, "(.∞|NaN)"),
        (slice(None), -np.inf, "(−∞ for every token|NaN)"),
    ],
)
def test_logits_of_no_distribution_are_refused_by_model_and_place(read, token, value, what):
    """An actor sees log-probabilities, in which every kind has become NaN."""
    with pytest.raises(
        ValueError, match=rf"llama-0: its logits after the tokens [\d ]+ are {what}; give another"
    ):
        READ[read](biased(token, value))


@pytest.mark.parametrize("read", READ)
def test_the_place_is_the_prefix_at_which_the_model_breaks(read):
    """Token 4 has an embedding of NaN: prompts are read, and what follows it is not."""
    lm = llama(0)
    # checked while it is whole: the check would meet token 4 itself
    assert lm.reader.decoding(9).how == "padded"
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[4] = torch.nan
    with pytest.raises(
        ValueError, match=r"llama-0: its logits after the tokens [56 ]+ ([0-6] )?4 are NaN; give"
    ):
        READ[read](lm)


def test_a_logit_of_minus_infinity_forbids_its_token():
    """The response is that of the tree without the token, whether caches are shared or not."""
    lm = biased(2, -np.inf, seed=4)
    tokens = [token for token in range(V) if token != 2]
    tree = token_tree(lm, PROMPTS, H, tokens=tokens)
    best = map_response(tree.policy)
    found = beam_search(lm, PROMPTS, H, 400)
    assert module.PrefixReader(lm, H, 2**30).shares_cache(
        np.array([lm.tokenizer("AB")["input_ids"]])
    )
    assert [r.tolist() for r in found.responses] == np.array(tokens)[best.tokens].tolist()
    assert found.proven.all()


def test_a_cache_without_layers_is_not_copied(monkeypatch):
    cache = SimpleNamespace(layers=[])
    monkeypatch.setattr(module.PrefixReader, "logits", lambda *_: (None, cache))
    assert module.PrefixReader(llama(), H, 2**30).cache_bytes is None


def test_nothing_is_proven_by_a_response_of_probability_zero():
    assert not Beam(
        (np.zeros(0, dtype=int),), np.array([-np.inf]), np.array([-np.inf])
    ).proven.any()
    assert not Beam((np.zeros(0, dtype=int),), np.array([np.nan]), np.array([-np.inf])).proven.any()


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=12), st.integers(1, 8))
def test_largest(values, n):
    found = _largest(np.array(values, dtype=float), n).tolist()
    assert found == sorted(range(len(values)), key=lambda k: (-values[k], k))[:n]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0: must be an integer of at least 1"),
        ({"horizon": 0}, "horizon=0"),
        ({"memory": 1}, "memory=1: a prefix of"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"prompts": "A"}, "prompts='A': must be a sequence"),
        ({"prompts": []}, "prompts="),
        ({"horizon": 40}, "positions"),
        ({"end_tokens": [7]}, "end_tokens: 7 is not an id of .*; use ids from 0 to 6"),
        ({"end_tokens": [2.5]}, r"end_tokens=\[2.5\]: must be a sequence of token ids"),
    ],
)
def test_refusals(changes, message):
    options = {"prompts": PROMPTS, "horizon": H, "width": 2} | changes
    with pytest.raises(ValueError, match=message):
        beam_search(llama(), **options)


@pytest.mark.slow
def test_real_models(shared_models):
    """On 200 sums `add-small` has nearly all proven by a beam of four, and some are not what greedy
    decoding gives.
    """
    lm, prompts = ModelSpec(shared_models / "add-small").load(), addition(200, seed=4).prompts
    policy = token_tree(lm, prompts, 4).policy
    found, best = beam_search(lm, prompts, 4, 4), map_response(policy)
    tokens = np.stack(found.responses)
    assert found.proven.mean() > 0.9
    assert (tokens[found.proven] == best.tokens[found.proven]).all()
    assert (np.maximum(found.log_probs, found.missed) >= log_prob(policy, best) - 1e-5).all()
    assert (greedy_response(policy).tokens != best.tokens).any()
