"""A model as it is read: rounded weights, adapters, and which two specifications are one model."""

import copy
import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from tiny import saved, tiny

from llm_bridge.models.load import CausalLM, save
from llm_bridge.models.spec import ModelSpec
from llm_bridge.models.weights import quantise


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=264, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    return CausalLM(transformers.GPT2LMHeadModel(config).eval(), tiny().tokenizer, "gpt2")


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("make", "outputs"), [(tiny, 0), (gpt2, 1)])
def test_each_output_has_its_own_grid_and_the_head_stays(make, outputs, bits):
    """``w = s·k`` with whole ``|k| ≤ 2^{bits−1} − 1``, ``s = max|w|/(2^{bits−1} − 1)``, no further
    than s/2 from w.
    """
    lm = make()
    before = copy.deepcopy(lm.model)
    quantise(lm, bits)
    levels, rounded = 2 ** (bits - 1) - 1, 0
    for name, weight in lm.model.named_parameters():
        old = before.get_parameter(name).detach().double()
        new = weight.detach().double()
        linear = old.ndim == 2 and not any(
            word in name for word in ("embed", "wte", "wpe", "lm_head")
        )
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


SMALL = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}


def mixture(kind, **changes):
    """A random mixture of experts, with all of its parameters drawn (some are zero at first)."""
    config = getattr(transformers, f"{kind}Config")(**(SMALL | changes))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.1)
    return CausalLM(model, tiny().tokenizer, kind)


@pytest.mark.parametrize(
    ("kind", "inputs", "experts"),
    [
        ("Mixtral", 1, "gate_up_proj down_proj"),
        ("GptOss", 0, "gate_up_proj down_proj"),
        ("JetMoe", 1, "weight"),
    ],
)
def test_each_expert_of_a_mixture_is_rounded_as_a_layer_of_its_own(kind, inputs, experts):
    """Fused experts ``(E, out, in)``, or in GptOss ``(E, in, out)``; routers are rounded, their
    biases are not.
    """
    changes = {"GptOss": {"head_dim": 8}, "JetMoe": {"kv_channels": 8, "num_key_value_heads": 4}}
    lm = mixture(kind, **changes.get(kind, {}))
    before = copy.deepcopy(lm.model)
    quantise(lm, 4)
    fused = []
    for name, weight in lm.model.named_parameters():
        old, new = before.get_parameter(name).detach(), weight.detach()
        if old.ndim == 3:
            fused.append(name.split(".")[-1])
            for one, rounded in zip(old.numpy(), new.numpy(), strict=True):
                scale = np.abs(one).max(axis=inputs, keepdims=True) / 7
                np.testing.assert_allclose(rounded, scale * np.round(one / scale), atol=1e-6)
            assert not torch.equal(old, new)
        elif old.ndim == 2 and not any(word in name for word in ("embed", "lm_head", "bias")):
            scale = np.abs(old.numpy()).max(axis=1, keepdims=True) / 7
            np.testing.assert_allclose(
                new.numpy(), scale * np.round(old.numpy() / scale), atol=1e-6
            )
        else:
            assert torch.equal(old, new), name
    assert set(fused) == set(experts.split())
    assert any("router" in name or ".gate." in name for name, _ in lm.model.named_parameters())


def test_a_weight_that_is_no_linear_layers():
    """One whose outputs are not known is refused by name; what takes no product with inputs is left
    as it is.
    """
    lm = mixture("Llama4Text", head_dim=8, intermediate_size_mlp=48)
    place = (
        r"model.layers.0.feed_forward.experts.gate_up_proj of shape \(3, 32, 96\) in a "
        r"Llama4TextExperts"
    )
    before = copy.deepcopy(lm.model.state_dict())
    with pytest.raises(
        ValueError, match=rf"bits=4: Llama4Text has a weight that is no linear layer's: {place}"
    ):
        quantise(lm, 4)
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    mamba = mixture("Mamba")
    kept = {
        name: x.clone()
        for name, x in mamba.model.named_parameters()
        if "A_log" in name or "conv" in name
    }
    changed = mamba.model.get_parameter("backbone.layers.0.mixer.in_proj.weight").clone()
    quantise(mamba, 4)
    assert len(kept) == 6
    assert all(torch.equal(mamba.model.get_parameter(name), x) for name, x in kept.items())
    assert not torch.equal(
        mamba.model.get_parameter("backbone.layers.0.mixer.in_proj.weight"), changed
    )


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
    lm = ModelSpec(str(base)).load()
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
    variant = ModelSpec(str(base), adapter=str(tmp_path / "adapter"))
    found = variant.load().model(ids).logits.detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float((found - plain).abs().max()) > 0.01
    assert str(variant) == "float32, temperature 1, adapter adapter"
    other = saved(tmp_path / "other", context=64)
    wider = transformers.LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=256,
        eos_token_id=257,
    )
    save(CausalLM(transformers.LlamaForCausalLM(wider), tiny().tokenizer, "wider"), other)
    with pytest.raises(ValueError, match=r"adapter=.*: not one of other"):
        ModelSpec(str(other), adapter=str(tmp_path / "adapter")).load()


@pytest.fixture
def adapter(tmp_path):
    """A model, and a LoRA adapter of it that was drawn at random."""
    peft = pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(ModelSpec(str(base)).load().model, config)
    adapted.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def renamed(tensors):
    return {name.replace("layers.", "blocks."): x for name, x in tensors.items()}


def without_one(tensors):
    return {
        name: x for name, x in tensors.items() if "layers.1.self_attn.v_proj.lora_B" not in name
    }


def with_one_more(tensors):
    name = next(iter(tensors))
    return tensors | {name.replace("layers.0", "layers.2"): tensors[name].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            renamed,
            r"its file lacks 8 weights: base_model.model.model.layers.0.self_attn.q_proj.lora_A.*, "
            r"…\)",
        ),
        (
            without_one,
            r"its file lacks 1 weights: "
            r"base_model.model.model.layers.1.self_attn.v_proj.lora_B[a-z.]*\)",
        ),
        (
            with_one_more,
            r"the model has no place for 1 weights: base_model.model.model.layers.2.self_attn",
        ),
        (lambda tensors: {}, r"its file lacks 8 weights"),
    ],
)
def test_an_adapter_whose_weights_are_not_the_models_is_refused(change, message, adapter):
    """With ``init_lora_weights=False`` what the file lacks would be random, another model at each
    load.
    """
    base, folder = adapter
    variant = ModelSpec(str(base), adapter=str(folder))
    one, two = (variant.load().model(torch.arange(8)[None]).logits for _ in range(2))
    assert torch.equal(one, two)
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(ValueError, match=rf"adapter=.*adapter: not one of base \({message}"):
        variant.load()


def test_a_damaged_adapter_is_named(adapter):
    base, folder = adapter
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(OSError, match=r"adapter=.*adapter: cannot be loaded"):
        ModelSpec(str(base), adapter=str(folder)).load()


def test_only_lora_is_merged(adapter):
    base, folder = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "IA3", "task_type": config["task_type"]})
    )
    with pytest.raises(
        ValueError, match=r"adapter: not one of base \(its type is .*IA3, not LORA\)"
    ):
        ModelSpec(str(base), adapter=str(folder)).load()


def test_no_adapter_there(tmp_path):
    pytest.importorskip("peft")
    base = saved(tmp_path / "base")
    with pytest.raises(OSError, match="no adapter there; give a folder"):
        ModelSpec(str(base), adapter=str(base)).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, "bits=1: must be from 2 to 16"),
        ({"bits": 17}, "bits=17"),
        ({"temperature": 0.0}, "temperature=0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec("m", **changes)


def test_a_path_names_a_model_too(tmp_path):
    assert ModelSpec(tmp_path) == ModelSpec(str(tmp_path))


def test_only_the_temperature_differs(tmp_path):
    one = ModelSpec(str(saved(tmp_path / "one")))
    assert one.default_expert().temperature == 0.9
    assert ModelSpec("m", temperature=0.7).default_expert() == ModelSpec("m", temperature=1.0)
    lm, expert = one.load_pair(one.default_expert())
    assert lm is expert
    lm, expert = one.load_pair(ModelSpec(one.model, bits=3))
    assert lm is not expert
    assert not torch.equal(
        lm.model(torch.arange(4)[None]).logits, expert.model(torch.arange(4)[None]).logits
    )
