"""Loading language models, and writing prompts in their vocabulary."""

import json
import re
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llm_bridge.models.load import (
    CausalLM,
    fingerprint,
    require_same_vocabulary,
    save,
)
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec


@pytest.fixture
def nano(shared_models):
    return ModelSpec(shared_models / "nano-sort").load()


@pytest.fixture
def stories(shared_models):
    return ModelSpec(shared_models / "stories260K").load()


class SlowTokenizer:
    """A tokenizer without offsets that turns unknown letters into token 0."""

    is_fast, unk_token, unk_token_id = False, "?", 0

    def __call__(self, text, **_):
        return {"input_ids": ["?ab".find(c) if c in "?ab" else 0 for c in text]}

    def decode(self, ids, **_):
        return "".join("?ab"[i] for i in ids)


class DroppingTokenizer(SlowTokenizer):
    """A fast tokenizer that drops what it does not know."""

    is_fast, unk_token, unk_token_id = True, None, None

    def __call__(self, text, **_):
        kept = [i for i, c in enumerate(text) if c in "ab"]
        mask, offsets = [0 for _ in kept], [(i, i + 1) for i in kept]
        ids = ["?ab".index(text[i]) for i in kept]
        return {"input_ids": ids, "offset_mapping": offsets, "special_tokens_mask": mask}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loads_a_folder(nano, stories):
    assert (nano.name, nano.vocab_size, nano.context) == ("nano-sort", 3, 11)
    assert (stories.vocab_size, stories.context) == (512, 512)
    assert not nano.model.training
    assert next(nano.model.parameters()).dtype == torch.float32


def test_dtype_and_device(shared_models):
    lm = ModelSpec(str(shared_models / "nano-sort"), dtype="bfloat16", device="cpu").load()
    parameter = next(lm.model.parameters())
    assert parameter.dtype == torch.bfloat16
    assert parameter.device.type == "cpu"
    with pytest.raises(ValueError, match="dtype='float8': must be one of float16"):
        ModelSpec(str(shared_models / "nano-sort"), dtype="float8").load()


def test_no_context_where_the_model_has_none():
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, state_size=2)
    )
    assert CausalLM(model, None, "mamba").context is None


@pytest.mark.parametrize("path", ["./missing", "~/missing-model", "/no/such/folder", "a/b/c"])
def test_a_path_never_asks_the_hub(path, monkeypatch):
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("asked the hub")
    )
    with pytest.raises(OSError, match=r"no model there; give a folder with a config.json") as error:
        ModelSpec(path).load()
    one_line(error)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(OSError, match=re.escape(f"{tmp_path}: no model there")):
        ModelSpec(tmp_path).load()


def test_hub_failure_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("We couldn't connect.\nCheck your connection.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(
        OSError, match=r"someone/model: .*download it first or give a local folder"
    ) as error:
        ModelSpec("someone/model").load()
    one_line(error)


def test_damaged_weights(shared_models, tmp_path):
    folder = shutil.copytree(shared_models / "nano-sort", tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(
        OSError, match=r"damaged: cannot be loaded .* give a complete model folder"
    ) as error:
        ModelSpec(folder).load()
    one_line(error)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            '{"eos_token_id": [0, 1',
            OSError,
            r"damaged: cannot be loaded \(generation_config\.json: ",
        ),
        ("[" * 10**5, ValueError, "damaged: not a causal language model that can be used here"),
        ("[]", ValueError, "damaged: not a causal language model that can be used here"),
    ],
)
def test_a_damaged_generation_config(shared_models, tmp_path, text, kind, message):
    """Without a word, ``transformers`` goes on with the end tokens of the model's configuration."""
    folder = shutil.copytree(shared_models / "nano-sort", tmp_path / "damaged")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(kind, match=message) as error:
        ModelSpec(folder).load()
    one_line(error)


def test_no_code_of_the_folder_is_run(shared_models, tmp_path, monkeypatch):
    """Nor is the reader of standard input asked for leave, who may be ``yes``."""
    folder = shutil.copytree(shared_models / "nano-sort", tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="own: not a causal language model that can be used here"):
        ModelSpec(folder).load()
    assert not (tmp_path / "ran").exists()


def test_missing_weights(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=1, tie_word_embeddings=False
    )
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    tokenizer_of("abcde").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks 1 weights of a GPT2LMHeadModel \(lm_head"):
        ModelSpec(tmp_path).load()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "vit"},
        {"model_type": "no-such-model"},
        {},
    ],
)
def test_not_a_causal_language_model(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as error:
        ModelSpec(tmp_path).load()
    assert "causal language model" in one_line(error)


def test_same_vocabulary(nano, stories, shared_models, tmp_path):
    require_same_vocabulary(nano, nano)
    with pytest.raises(
        ValueError, match=r"nano-sort and stories260K: different vocabularies \(3 against 512"
    ):
        require_same_vocabulary(nano, stories)
    other = CausalLM(nano.model, tokenizer_of("ABD"), "other")
    with pytest.raises(ValueError, match=r"token 'C' has id 2 against None"):
        require_same_vocabulary(nano, other)


def test_encodes_prompts(nano, stories):
    assert encode_prompt(nano, "CAB", 6) == [2, 0, 1]
    assert encode_prompt(stories, "Once upon a time", 4) == [1, 403, 407, 261, 378]  # BOS first
    assert encode_prompt(stories, "é漢 x", 4)[0] == 1  # bytes where there is no piece
    assert encode_prompt(stories, "<unk>", 4)[-1] == 0  # written out, it is meant


def test_empty_prompt(nano, stories):
    with pytest.raises(ValueError, match="prompt='': must not be empty: nano-sort begins") as error:
        encode_prompt(nano, "", 1)
    one_line(error)
    assert encode_prompt(stories, "", 1) == [stories.tokenizer.bos_token_id]
    with pytest.raises(
        ValueError, match=r"prompt=\[\]: must not be empty; give at least one message"
    ):
        encode_prompt(stories, [], 1)


@pytest.mark.parametrize("text", ["AXB", "X", "A B", "a"])
def test_prompt_outside_the_vocabulary(nano, text):
    with pytest.raises(
        ValueError, match=f"prompt='{text}': the vocabulary of nano-sort has nothing for '.'; "
    ) as error:
        encode_prompt(nano, text, 1)
    one_line(error)


def test_tokenizers_that_hide_unknown_text(nano):
    slow, dropping = (CausalLM(nano.model, t(), "toy") for t in (SlowTokenizer, DroppingTokenizer))
    assert encode_prompt(slow, "ab", 1) == [1, 2]
    with pytest.raises(ValueError, match="prompt='axb': the vocabulary of toy has nothing for par"):
        encode_prompt(slow, "axb", 1)
    assert encode_prompt(dropping, "a a", 1) == [1, 1]
    with pytest.raises(ValueError, match="the tokenizer of toy drops 'xy'"):
        encode_prompt(dropping, "axyb", 1)
    with pytest.raises(ValueError, match="prompt=' ': has no token in toy"):
        encode_prompt(dropping, " ", 1)


def test_token_without_a_logit(nano):
    with pytest.raises(ValueError, match=r"token 3 has no logit in nano-sort \(V=3\)"):
        encode_prompt(CausalLM(nano.model, tokenizer_of("ABCD"), "nano-sort"), "D", 1)


def test_prompt_too_long(nano):
    assert len(encode_prompt(nano, "ABCABC", 6)) == 6  # 6 + 6 − 1 = 11 positions: exactly full
    with pytest.raises(
        ValueError, match="6 tokens and horizon=7 need 12 positions, nano-sort has 11"
    ) as error:
        encode_prompt(nano, "ABCABC", 7)
    one_line(error)


def test_save_and_load(nano, tmp_path):
    save(nano, tmp_path / "copy")
    copy = ModelSpec(tmp_path / "copy").load()
    require_same_vocabulary(nano, copy)
    ids = torch.tensor([[0, 2, 1]])
    assert torch.equal(nano.model(ids).logits, copy.model(ids).logits)


def tokenizer_of(characters):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<none>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_model_is_spread_by_a_device_map(shared_models):
    pytest.importorskip("accelerate")
    folder = shared_models / "nano-sort"
    with pytest.raises(ValueError, match="device and device_map: give one of them"):
        ModelSpec(folder, device="cpu", device_map="auto").load()
    one, two = ModelSpec(folder, device="cpu").load(), ModelSpec(folder, device_map="cpu").load()
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(("tokens", "belongs"), [(9, False), (8, True), (4, True), (3, False)])
def test_a_tokenizer_of_another_model_is_refused(tmp_path, tokens, belongs):
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    save(
        CausalLM(transformers.LlamaForCausalLM(config), tokenizer_of("abcdefghi"[:tokens]), "toy"),
        tmp_path,
    )
    if belongs:
        assert ModelSpec(tmp_path).load().vocab_size == 8
    else:
        message = f"its tokenizer has {tokens} tokens, the model 8, so they do not belong together"
        with pytest.raises(ValueError, match=message):
            ModelSpec(tmp_path).load()


def test_fingerprints_tell_checkpoints_apart(nano):
    before = fingerprint(nano)
    weight = next(nano.model.parameters())
    assert fingerprint(nano) == before
    with torch.no_grad():
        weight.mul_(1 + 1e-6)
        assert fingerprint(nano) != before
        weight.div_(1 + 1e-6)


def test_reward_models_have_one_label(tmp_path):
    shape = {
        "vocab_size": 4,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    for labels in (1, 2):
        config = transformers.LlamaConfig(**shape, num_labels=labels)
        model = transformers.LlamaForSequenceClassification(config)
        save(CausalLM(model, tokenizer_of("abcd"), "toy"), tmp_path / str(labels))
    assert (
        type(ModelSpec(tmp_path / "1").load(reward_model=True).model).__name__
        == "LlamaForSequenceClassification"
    )
    with pytest.raises(
        ValueError, match=r"not a reward model that can be used here .it has 2 labels"
    ):
        ModelSpec(tmp_path / "2").load(reward_model=True)
