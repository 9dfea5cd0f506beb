"""The gate: what is refused, what is read more slowly, and that the numbers are then right.

`test_families` holds every architecture against plain logits; here are the kinds of fault, one by
one, with the messages that users see.
"""

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families
from matrix import Oracle

from llm_bridge.models import gate
from llm_bridge.models.cloned import letter_lm, letter_tokenizer
from llm_bridge.models.load import CausalLM, save
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.rollout import Actor, generate

PROMPTS = [[3], [4, 5, 6], list(range(2, 16))]
ANSWERS = [[7, 8, 9, 10, 11], [12, 13, 14] * 4, [5, 6]]


def llama(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**{"vocab_size": 40, **sizes, **heads, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


def scored(model, **options):
    reward = EndogenousReward(model, end_tokens=(), **options)
    return [score.log_probs for score in reward.score_ids(PROMPTS, ANSWERS)]


def expected(model):
    oracle = Oracle(copy.deepcopy(model).double())
    return [oracle.of_response(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]


def close(found, wanted):
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_sound_model_has_no_findings_and_decodes_in_one_batch():
    reader = gate.inspect(llama(), "sound")
    assert (reader.findings, reader.switches, reader.batches) == ([], [], True)
    assert reader.decoding(20) == gate.Decoding("padded", repeats=True)


def test_a_model_that_sees_later_tokens_is_refused_when_it_is_loaded(tmp_path):
    """Its numbers look like numbers: they are off by 0.2 to 2.3 nats a token."""
    model = llama(vocab_size=26)
    model.config.is_causal = False
    model = transformers.LlamaForCausalLM(model.config).eval()
    save(CausalLM(model, letter_tokenizer(26), "open"), tmp_path)
    with pytest.raises(ValueError, match=r"not causal, its last of 12 tokens .*; give a model of"):
        ModelSpec(tmp_path).load()


@pytest.mark.parametrize("more", [3, 0])
def test_all_rows_of_the_head_count_whatever_the_configuration_says(more):
    """−4.2422 where −4.2860 is right, when the rows beyond the vocabulary were left out."""
    model = llama()
    oracle = expected(model)
    model.config.vocab_size = 40 - more
    lm = CausalLM(model, letter_tokenizer(26, 14), "padded")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert lm.vocab_size == 40
    assert [str(warning.message) for warning in said] == (
        ["padded: has 40 logits, its configuration says 37: all count"] if more else []
    )
    close(scored(lm), oracle)
    rollout = generate(Actor(lm), PROMPTS, 4, uniforms=torch.full((3, 4), 0.999).double())
    assert int(rollout.ids.max()) < 40


def test_a_model_that_cannot_read_what_it_writes_is_refused():
    model = llama()
    model.model.embed_tokens = torch.nn.Embedding(30, 16)
    with pytest.raises(ValueError, match=r"lm: has logits for 40 tokens and embeddings for 30, .*"):
        gate.inspect(model, "lm")


def test_a_weight_that_is_no_number_is_refused_with_the_tokens_before_it():
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"lm: its logits after the tokens [\d ]+ are NaN; give"):
        gate.inspect(model, "lm")


def test_training_mode_is_left_and_said():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.5
        )
    )
    wanted = expected(model.eval())
    model.train()
    with pytest.warns(UserWarning, match="was in training mode: it is read in evaluation mode"):
        found = scored(model)
    close(found, wanted)
    assert model.training


def longrope(threshold=8):
    model = families.family("phi3")
    assert model.model.config.rope_parameters["original_max_position_embeddings"] == threshold
    return model


def test_where_positions_are_scaled_no_score_depends_on_what_it_is_read_with():
    """Beyond 8 tokens the positions of all are others: −20.79 alone was −21.34 in a batch."""
    lm = longrope()
    with pytest.warns(UserWarning, match="change once a row has more than 8 tokens"):
        alone = scored(lm, batch_tokens=1)
    close(alone, expected(lm.model))
    close(scored(lm, batch_tokens=1000), alone)
    assert lm.reader.switches == [8]


@pytest.mark.parametrize("name", ["bart", "mamba2", "rwkv", "lfm2", "jamba", "recurrent_gemma"])
@pytest.mark.parametrize("samples", [1, 3])
def test_what_is_written_has_the_probability_that_is_said(name, samples):
    """Prompts of 1, 3 and 14 tokens in one call: states are kept, or rows are read again."""
    lm = families.family(name)
    oracle = Oracle(families.build(name, torch.float64))
    uniforms = torch.rand(3 * samples, 5, dtype=torch.double, generator=torch.manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of transformers, too
        rollout = generate(Actor(lm), PROMPTS, 5, uniforms=uniforms, samples=samples)
    prompts, answers = rollout.texts()
    assert [p.tolist() for p in prompts[::samples]] == PROMPTS
    close(
        rollout.log_probs.numpy(),
        [oracle.of_response(p, a) for p, a in zip(prompts, answers, strict=True)],
    )


def test_rollouts_of_prompts_of_different_lengths_are_joined_in_order():
    """Equal uniforms give equal responses, however the prompts are batched."""
    lm = families.family("bart")
    assert lm.reader.decoding(20).how == "equal"
    uniforms = torch.rand(6, 7, dtype=torch.double, generator=torch.manual_seed(2))
    ends = (3, 9, 21)
    actor = Actor(lm)
    together = generate(actor, PROMPTS, 7, ends, uniforms=uniforms, samples=2)
    for i, prompt in enumerate(PROMPTS):
        some = slice(2 * i, 2 * i + 2)
        alone = generate(actor, [prompt], 7, ends, uniforms=uniforms[some], samples=2)
        for k in range(2):
            assert together.texts()[1][2 * i + k].tolist() == alone.texts()[1][k].tolist()
            assert together.ended[2 * i + k] == alone.ended[k]


@pytest.mark.parametrize("least", [2, 3])
def test_a_batch_whose_rows_change_each_other_is_read_row_by_row(least):
    model = llama()
    wanted = expected(model)
    with pytest.warns(UserWarning, match="rows of a batch change each other: each is read alone"):
        found = scored(mixing(model, least))
    close(found, wanted)


def test_a_model_with_several_distributions_after_one_row_is_refused():
    """Its attention depends on how long the row is, so that no pass reads all prefixes."""
    model = llama()
    own = model.model.forward

    def forward(input_ids, **kwargs):
        output = own(input_ids=input_ids, **kwargs)
        output.last_hidden_state = output[0] * (1 + 0.1 * input_ids.shape[1])
        return output

    model.model.forward = forward
    with pytest.raises(ValueError, match=r"lm: gives another .* after 1 tokens .* in a row of 12"):
        gate.inspect(model, "lm")


def test_lengths_at_which_the_rules_change_are_tried_when_a_row_reaches_them():
    """A window that the mask forgets only beyond its length: nothing shows in shorter rows."""
    model = llama(sliding_window=20)
    own = model.model.forward

    def forward(input_ids, **kwargs):
        output = own(input_ids=input_ids, **kwargs)
        if input_ids.shape[1] > 20:
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden + hidden[:, -1:]
        return output

    model.model.forward = forward
    reader = gate.inspect(model, "lm")
    reader.prepare(20)
    with pytest.raises(ValueError, match="lm: not causal, its last of 22 tokens changes"):
        reader.prepare(21)


@pytest.mark.parametrize("bias", [-1e9, -5e4, -40.0])
def test_tokens_that_are_masked_hide_nothing(bias):
    """A quarter of the tokens is forbidden by a large number, which would be most of any scale."""
    config = transformers.PhiConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        is_causal=False,
    )
    model = transformers.PhiForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.bias[:10] = bias
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=r"lm: not causal, .* by up to [\d.]+ nats"):
            gate.inspect(model.to(dtype), "lm")


def test_what_is_off_at_the_token_that_is_scored_is_not_averaged_out():
    """A model that sees its next token and is 0.01 nats surer of it, among 50,000 tokens."""
    model = llama(vocab_size=50_000, tie_word_embeddings=False)
    own = model.forward

    def forward(input_ids, **kwargs):
        output = own(input_ids=input_ids, **kwargs)
        logits = output.logits.clone()
        logits[:, :-1].scatter_add_(-1, input_ids[:, 1:, None], torch.full_like(logits, 0.01))
        output.logits = logits
        return output

    model.forward = forward
    with pytest.raises(ValueError, match="lm: not causal"):
        gate.inspect(model, "lm")


def mixing(model, least):
    """Rows of a batch of at least so many change each other."""
    layer = model.model.layers[0]
    own = layer.forward

    def mixed(hidden, *args, **kwargs):
        if len(hidden) >= least:
            hidden = hidden + 0.5 * (hidden.mean(dim=0, keepdim=True) - hidden)
        return own(hidden, *args, **kwargs)

    layer.forward = mixed
    return model


def blocks(model, width):
    """Tokens see all of their block of `width` tokens; the first block is causal."""
    own = model.model.forward

    def forward(input_ids, **kwargs):
        output = own(input_ids=input_ids, **kwargs)
        hidden = output.last_hidden_state.clone()
        for start in range(width, hidden.shape[1], width):
            block = hidden[:, start : start + width]
            hidden[:, start : start + width] = block + block.mean(dim=1, keepdim=True)
        output.last_hidden_state = hidden
        return output

    model.model.forward = forward
    return model


@pytest.mark.parametrize("length", [18, 20, 30, 48, 60])
def test_a_row_of_the_length_that_is_read_is_tried(length):
    reader = gate.inspect(blocks(llama(), 16), "lm")
    reader.prepare(16)  # all of the first block, in which nothing is wrong
    with pytest.raises(ValueError, match=r"lm: (not causal|gives another distribution)"):
        reader.prepare(length)


def test_the_gate_reads_few_tokens():
    """Below one in twenty of what 1,000 responses of a dozen tokens take: 12 prompts of them."""
    model = llama()
    read = []
    model.model.register_forward_pre_hook(
        lambda module, args, options: read.append(options["input_ids"].numel()), with_kwargs=True
    )
    reader = gate.inspect(model, "lm")
    reader.decoding(24)
    assert 0 < sum(read) < 0.05 * 1000 * 24


@pytest.mark.parametrize(
    ("one", "two", "share"),
    [
        ([[0.0, 1.0, 2.0]], [[5.0, 6.0, 7.0]], 0.0),  # a constant changes no distribution
        ([[0.0, -np.inf]], [[0.0, -np.inf]], 0.0),  # a token that neither allows
        ([[0.0, np.nan]], [[0.0, 1.0]], np.inf),
        ([[0.0, -np.inf]], [[0.0, 0.0]], np.inf),
    ],
)
def test_disagreement(one, two, share):
    assert gate.disagreement(torch.tensor(one), torch.tensor(two)) == share


def test_letters_of_one_position_pass():
    assert letter_lm(4, context=1).reader.findings == []
