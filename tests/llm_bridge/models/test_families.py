"""Every causal architecture of ``transformers``, read by every part of the package, against the
model's own plain logits of one unpadded prefix at a time.

Numbers are right, or there are none and one line says why, with the model's name: never wrong, and
never a traceback from inside. The architectures of `CORE` always run; ``pytest -m slow`` runs the
others, and `make matrix` all of them and writes ``docs/architectures.md``.
"""

import copy
import functools

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families
import matrix
import numpy as np

from llm_bridge.models.load import CausalLM

pytestmark = pytest.mark.usefixtures("one_thread")  # several are slower on products this small

CORE = (
    "bart",
    "bert",
    "bloom",
    "cohere2",
    "deepseek_v3",
    "falcon_h1",
    "gemma2",
    "gemma3_text",
    "gemma3n_text",
    "git",
    "gpt2",
    "gpt_neox",
    "granite",
    "jamba",
    "lfm2",
    "llama",
    "llama-not-causal",
    "llama4_text",
    "mamba",
    "mamba2",
    "mistral",
    "olmo2",
    "opt",
    "phi3",
    "qwen2-window",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "roberta",
    "rwkv",
    "xlstm",
)
"""One of each way of being different: positions, windows, chunks, recurrent states, and heads."""

CASES = [
    pytest.param(name, check, marks=() if name in CORE else pytest.mark.slow)
    for name in families.names()
    for check in matrix.CHECKS
]


@functools.lru_cache(maxsize=1)
def subject(name):
    return matrix.subject(name)


def oracle_of(model):
    return matrix.Oracle(families.cast(copy.deepcopy(model), torch.float64).eval())


@pytest.mark.parametrize(("name", "check"), CASES)
def test_numbers_are_those_of_the_plain_model_or_refused_by_name(name, check):
    found = matrix.outcome(check, *subject(name))
    assert found.good, f"{name}, {check}: {found.kind}: {found.detail}"


def test_every_architecture_is_built_or_has_a_reason():
    known = set(transformers.AutoModelForCausalLM._model_mapping._model_mapping)
    assert set(families.UNBUILT) <= known
    assert known <= set(families.names()) | set(families.UNBUILT)
    assert set(families.VARIANTS).isdisjoint(known)
    assert set(CORE) <= set(families.names())


@pytest.mark.parametrize("name", CORE)
def test_a_family_can_tell_right_from_wrong(name):
    """Its logits differ between tokens and between prefixes, and forget neither early tokens."""
    _, oracle = subject(name)
    text = matrix.token_ids([14], 8)[0]
    logits = oracle.logits(text)
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0.3
    assert np.abs(oracle.log_probs(text) - oracle.log_probs(text[:-1])).max() > 0.1
    for other in ([*text[:-2], text[-2] ^ 1, text[-1]], text[-2:]):
        assert np.abs(oracle.log_probs(text) - oracle.log_probs(other)).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("gemma2", "sliding_window"),
        ("gemma3_text", "sliding_window"),
        ("gemma3n_text", "sliding_window"),
        ("llama4_text", "attention_chunk_size"),
        ("llama4_text", "floor_scale"),
        ("mistral", "sliding_window"),
        ("phi3", "original_max_position_embeddings"),
        ("qwen2-window", "sliding_window"),
        ("recurrent_gemma", "attention_window_size"),
    ],
)
def test_texts_cross_the_thresholds(name, threshold):
    """With a threshold out of reach, the texts that are read would have other numbers."""
    prompt, answer = matrix.token_ids((1, 12), 2)
    far = families.config(name)
    assert getattr(far, threshold) == families.THRESHOLD
    setattr(far, threshold, families.POSITIONS)
    if threshold == "original_max_position_embeddings":
        far.rope_parameters[threshold] = families.POSITIONS
    model = families.made(far, 0), families.made(families.config(name), 0)
    one, two = (matrix.Oracle(m).of_response(prompt, answer) for m in model)
    assert np.abs(one - two).max() > 1e-3


# --- The checks themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("check", matrix.CHECKS)
def test_a_check_finds_numbers_of_another_model_wrong(check):
    """Weights that differ by a thousandth."""
    lm, _ = subject("llama")
    model = families.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1.001
    found = matrix.outcome(check, lm, matrix.Oracle(model))
    assert found.kind == "wrong", f"{found.kind}: {found.detail}"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("llama: is not causal"), "refused"),
        (ValueError("index out of range"), "crash"),
        (ValueError("llamas are not causal"), "crash"),
        (ValueError("llama: is not\ncausal"), "crash"),
        (IndexError("llama: is not causal"), "crash"),
        (matrix.Diverged("llama: is not causal"), "refused"),
        (matrix.Diverged("logits are NaN"), "crash"),
    ],
)
def test_only_a_line_that_names_the_model_is_a_refusal(error, kind, monkeypatch):
    def fail(lm, oracle):
        raise error

    monkeypatch.setitem(matrix.CHECKS, "score", fail)
    assert matrix.outcome("score", *subject("llama")).kind == kind


@pytest.mark.parametrize(("apart", "kind"), [(0.0, "exact"), (2e-4, "wrong"), (np.nan, "wrong")])
def test_nan_and_more_than_the_tolerance_are_wrong(apart, kind, monkeypatch):
    monkeypatch.setitem(matrix.CHECKS, "score", lambda lm, oracle: matrix.Read(apart))
    assert matrix.outcome("score", *subject("llama")).kind == kind


def test_the_table_says_the_worst_of_a_family_and_why():
    good, bad = matrix.Outcome("exact", "1e-6", ("no cache",)), matrix.Outcome("wrong", "2 nats")
    page = matrix.table({"llama": dict.fromkeys(matrix.CHECKS, good) | {"beam": bad}})
    assert "| llama | exact; no cache | wrong; 2 nats | exact; no cache | exact; no cache |" in page
    for name, reason in families.UNBUILT.items():
        assert f"| {name} | cannot be built here ({reason})" in page


# --- Models that are not as their configuration or their caller says ------------------------------


@pytest.mark.parametrize("check", matrix.CHECKS)
def test_a_model_that_sees_later_tokens_is_refused(check):
    found = matrix.outcome(check, *subject("llama-not-causal"))
    assert found.kind == "refused", f"{found.kind}: {found.detail}"


@pytest.mark.parametrize("check", matrix.CHECKS)
@pytest.mark.parametrize("rows", [families.VOCABULARY - 4, families.VOCABULARY + 8])
def test_a_head_with_other_rows_than_the_configuration_says(rows, check):
    """All rows count, as they do in the model's own softmax."""
    lm = families.family("llama")
    head = torch.nn.Linear(lm.model.config.hidden_size, rows, bias=False)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        head.weight.normal_(std=lm.model.config.hidden_size**-0.5)
    lm.model.lm_head = head
    found = matrix.outcome(check, lm, oracle_of(lm.model))
    assert found.good, f"{found.kind}: {found.detail}"


@pytest.mark.parametrize("check", matrix.CHECKS)
def test_dropout_of_a_model_in_training_mode_changes_nothing(check):
    model = families.build("gpt2", torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    lm = CausalLM(model, families.family("gpt2").tokenizer, "training")
    found = matrix.outcome(check, lm, oracle_of(model))
    assert found.kind == "exact", f"{found.kind}: {found.detail}"
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("check", matrix.CHECKS)
@pytest.mark.parametrize("where", ["lm_head", "model.layers.1.self_attn.q_proj"])
def test_a_weight_that_is_nan_is_refused(where, check):
    lm = families.family("llama")
    with torch.no_grad():
        lm.model.get_submodule(where).weight[3, 0] = torch.nan
    found = matrix.outcome(check, lm, oracle_of(lm.model))
    assert found.kind == "refused", f"{found.kind}: {found.detail}"
