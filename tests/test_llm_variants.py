"""A model as it is read: rounded weights, adapters, and which two variants are one model."""

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny import saved, tiny  # noqa: E402

from llm_bridge.model import CausalLM, save  # noqa: E402
from llm_bridge.variants import Variant, default_expert, load_pair, load_variant, quantise  # noqa: E402


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=264, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    return CausalLM(transformers.GPT2LMHeadModel(config).eval(), tiny().tokenizer, "gpt2")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("make", "outputs"), [(tiny, 0), (gpt2, 1)])
def test_each_output_has_its_own_grid_and_the_head_stays(make, outputs, bits):
    """``w = s·k`` with whole ``|k| ≤ 2^{bits−1} − 1``, ``s = max|w|/(2^{bits−1} − 1)``, no further than s/2 from w."""
    lm = make()
    before = copy.deepcopy(lm.model)
    quantise(lm, bits)
    levels, rounded = 2 ** (bits - 1) - 1, 0
    for name, weight in lm.model.named_parameters():
        old = before.get_parameter(name).detach().double()
        new = weight.detach().double()
        linear = old.ndim == 2 and not any(word in name for word in ("embed", "wte", "wpe", "lm_head"))
        if not linear:
            assert torch.equal(old, new), name
            continue
        rounded += 1
        scale = old.abs().amax(dim=1 - outputs, keepdim=True) / levels
        whole = new / scale
        assert float((whole - whole.round()).abs().max()) < 1e-4 * levels
        assert float(whole.abs().max()) == pytest.approx(levels, rel=1e-5)
        assert float(((new - old).abs() / scale).max()) <= 0.5 + 1e-4
    assert rounded == {tiny: 14, gpt2: 8}[make]


def test_more_bits_are_nearer():
    ids, lm = torch.arange(8)[None], tiny()
    exact = lm.model(ids).logits.detach()
    apart = []
    for bits in (4, 8, 16):
        one = CausalLM(copy.deepcopy(lm.model), lm.tokenizer, "copy")
        quantise(one, bits)
        apart.append(float((one.model(ids).logits.detach() - exact).abs().max()))
    assert apart[0] > 4 * apart[1] > 16 * apart[2] > 0


def test_nothing_to_round():
    model = torch.nn.Embedding(4, 4)
    with pytest.raises(ValueError, match="bits=4: none has no linear layers to round"):
        quantise(CausalLM(model, None, "none"), 4)


def test_a_merged_adapter_is_the_adapted_model(tmp_path):
    peft = pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    lm = load_variant(Variant(str(base)))
    ids = torch.arange(8)[None]
    plain = lm.model(ids).logits.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        adapted = peft.get_peft_model(lm.model, peft.LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:  # zero until trained
            torch.nn.init.normal_(weight, std=0.1)
    expected = adapted.eval()(ids).logits.detach()
    adapted.save_pretrained(tmp_path / "adapter")
    variant = Variant(str(base), adapter=str(tmp_path / "adapter"))
    found = load_variant(variant).model(ids).logits.detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float((found - plain).abs().max()) > 0.01
    assert str(variant) == "float32, temperature 1, adapter adapter"
    other = saved(tmp_path / "other", context=64)
    wider = transformers.LlamaConfig(vocab_size=264, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                                     num_attention_heads=4, bos_token_id=256, eos_token_id=257)  # fmt: skip
    save(CausalLM(transformers.LlamaForCausalLM(wider), tiny().tokenizer, "wider"), other)
    with pytest.raises(ValueError, match=r"adapter=.*: not one of other"):
        load_variant(Variant(str(other), adapter=str(tmp_path / "adapter")))


def test_no_adapter_there(tmp_path):
    pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    with pytest.raises(OSError, match="no adapter there; give a folder"):
        load_variant(Variant(str(base), adapter=str(base)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bits": 1}, "bits=1: must be from 2 to 16"), ({"bits": 17}, "bits=17"), ({"temperature": 0.0}, "temperature=0")],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        Variant("m", **changes)


def test_only_the_temperature_differs(tmp_path):
    one = Variant(str(saved(tmp_path / "one")))
    assert default_expert(one).temperature == 0.9
    assert default_expert(Variant("m", temperature=0.7)) == Variant("m", temperature=1.0)
    lm, expert = load_pair(one, default_expert(one))
    assert lm is expert
    lm, expert = load_pair(one, Variant(one.model, bits=3))
    assert lm is not expert
    assert not torch.equal(lm.model(torch.arange(4)[None]).logits, expert.model(torch.arange(4)[None]).logits)
