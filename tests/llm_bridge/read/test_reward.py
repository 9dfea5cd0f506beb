"""The endogenous reward of causal language models against full logits in double precision."""

import itertools
import math
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.utils._python_dispatch import TorchDispatchMode

from llm_bridge.models import head as module
from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reward import EndogenousReward, RewardReading, batches
from llm_bridge.read.tree import token_tree

V, CONTEXT = 83, 48
SHAPE = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ARCHITECTURES = {
    "Llama": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": 4},
    "Gemma2": {
        "head_dim": 8,
        "final_logit_softcapping": 3.0,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
    },
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 5.0},
    "Phi": {},  # the head has a bias
}
KINDS = [
    *itertools.product(["Llama", "Qwen2", "Mistral", "Gemma2", "GPT2"], [True, False]),
    ("Cohere", True),
    ("Granite", False),
    ("Phi", False),
]
GAUGES = [("logits", "zero"), ("logits", "bootstrap"), ("logprob", "zero")]


def build(name, tied=False, **changes):
    torch.manual_seed(len(name))
    if name == "GPT2":
        options = {
            "vocab_size": V,
            "n_positions": CONTEXT,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        config = transformers.GPT2Config(**options | {"tie_word_embeddings": tied} | changes)
        model = transformers.GPT2LMHeadModel(config)
    else:
        options = SHAPE | ARCHITECTURES[name] | {"tie_word_embeddings": tied} | changes
        config = getattr(transformers, f"{name}Config")(**options)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    if name == "Phi":
        torch.nn.init.normal_(model.lm_head.bias)
    return model.eval()


def texts(n=7, seed=0, size=V, longest=12):
    rng = np.random.default_rng(seed)
    draw = [
        [rng.integers(size, size=rng.integers(1, longest)).tolist() for _ in range(n)]
        for _ in range(2)
    ]
    return draw[0], draw[1]


def reference(model, prompt, answer):
    """``log π`` and ``log Σ exp f`` of one response, from all logits of the model in double
    precision.
    """
    double = model if model.dtype == torch.float64 else type(model)(model.config).eval().double()
    if double is not model:
        double.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = double(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :].double()
    normalizers = torch.logsumexp(logits, dim=-1)
    return (
        logits[torch.arange(len(answer)), answer] - normalizers[:-1]
    ).numpy(), normalizers.numpy()


def error(scores, model, alpha=1.0):
    """Largest error of the log-probabilities and soft values."""
    found = 0.0
    for s in scores:
        logs, normalizers = reference(model, s.prompt_ids.tolist(), s.ids.tolist())
        found = max(
            found,
            np.abs(s.log_probs - logs).max(),
            np.abs(s.soft_values / alpha - normalizers[:-1]).max(),
        )
    return found


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 32)
    monkeypatch.setattr(module, "POSITIONS", 8)


@pytest.fixture(scope="module")
def llama():
    return build("Llama")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "tied"), KINDS)
def test_equals_full_logits_in_double_precision(name, tied, dtype):
    model = build(name, tied).to(dtype)
    reward = EndogenousReward(model, batch_tokens=60)
    scores = reward.score_ids(*texts())
    assert reward.lm.reader.head is not None
    # Gemma-2's attention is a float32 softmax whatever the model's precision
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-6 if name == "Gemma2" else 1e-12}
    assert error(scores, model) <= tolerance[dtype]
    assert all(
        s.log_probs.dtype == s.soft_values.dtype == s.rewards.dtype == np.dtype(str(dtype)[6:])
        for s in scores
    )


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Granite", "Phi"])
def test_the_head_alone_is_exact_to_1e_minus_5(name):
    model = build(name)
    head = EndogenousReward(model).lm.reader.head
    hidden, tokens = 3 * torch.randn(50, 32), torch.arange(50)
    f = torch.nn.functional.linear(
        hidden.double(), *(x.detach().double() for x in model.lm_head.parameters())
    )
    f = f / 5 if name == "Granite" else 3 * torch.tanh(f / 3) if name == "Gemma2" else f
    with torch.no_grad():
        logs, normalizers, _ = module.token_statistics(head.blocks(hidden), tokens, hidden)
    np.testing.assert_allclose(normalizers, torch.logsumexp(f, -1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logs, torch.log_softmax(f, -1)[tokens, tokens], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """The weights are rounded first, so what is left is the rounding of the hidden states, not of
    the head.
    """
    model = build("Llama").to(dtype)
    scores = EndogenousReward(model).score_ids(*texts())
    assert error(scores, model) <= 24 * torch.finfo(dtype).eps
    assert all(s.log_probs.dtype == np.float32 for s in scores)


def test_the_head_of_a_half_precision_model_is_read_in_float32():
    model = build("Llama").bfloat16()
    head = EndogenousReward(model).lm.reader.head
    hidden = torch.randn(20, 32).bfloat16()
    with torch.no_grad():
        _, normalizers, _ = module.token_statistics(
            head.blocks(hidden), torch.zeros(20, dtype=torch.long), hidden
        )
        exact = torch.logsumexp(hidden.double() @ model.lm_head.weight.double().T, -1)
    np.testing.assert_allclose(normalizers, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_batches_and_padding_do_not_matter(name):
    model, (prompts, answers) = build(name), texts(9)
    alone = [
        EndogenousReward(model).score_ids([p], [a])[0]
        for p, a in zip(prompts, answers, strict=True)
    ]
    for limit in (1, 37, 10_000):
        scores = EndogenousReward(model, batch_tokens=limit).score_ids(prompts, answers)
        for one, s, p, a in zip(alone, scores, prompts, answers, strict=True):
            assert (s.prompt_ids.tolist(), s.ids.tolist(), s.n_tokens) == (p, a, len(a))
            for array in ("log_probs", "soft_values", "rewards"):
                np.testing.assert_allclose(
                    getattr(s, array), getattr(one, array), rtol=0, atol=1e-5
                )


def test_batches_are_sorted_and_limited():
    assert list(batches([2, 20, 6, 5, 4, 3], 12)) == [[1], [2, 3], [4, 5], [0]]
    assert list(batches([5, 5], 0)) == [[0], [1]]  # nothing is too large to go alone
    assert list(batches([], 12)) == []


@pytest.mark.parametrize("batch_tokens", [1, 8192])
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Hooked"])
def test_next_tokens_and_greedy_tokens(name, batch_tokens):
    model = build("Llama" if name == "Hooked" else name)
    if name == "Hooked":
        model.register_forward_hook(
            lambda module, args, output: setattr(output, "logits", output.logits * 2)
        )
    prompts, _ = texts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reward = EndogenousReward(model, batch_tokens=batch_tokens)
    tokens = [5, 0, V - 1, 5]
    with torch.no_grad():
        logits = [model(torch.tensor([prompt])).logits[0, -1].double() for prompt in prompts]
    found, values = reward.next_tokens(prompts, tokens)
    expected = np.array([torch.log_softmax(f, -1)[tokens].numpy() for f in logits])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(values, [float(f.logsumexp(-1)) for f in logits], rtol=0, atol=1e-5)
    modes = [[int(f.argmax())] for f in logits]
    assert all(s.greedy.tolist() == [True] for s in reward.score_ids(prompts, modes))
    others = [[(mode + 1) % V] for (mode,) in modes]
    assert not any(s.greedy.any() for s in reward.score_ids(prompts, others))


def test_next_tokens_refuses_what_it_cannot_read(llama):
    reward = EndogenousReward(llama)
    assert reward.next_tokens([], [1, 2])[0].shape == (0, 2)
    with pytest.raises(ValueError, match=r"prompts\[1\]: empty"):
        reward.next_tokens([[1], []], [1])
    with pytest.raises(ValueError, match=f"tokens: ids must be from 0 to {V - 1}"):
        reward.next_tokens([[1]], [V])
    with pytest.raises(
        ValueError, match=rf"prompts\[0\]: .* need {CONTEXT + 1} positions, .* has {CONTEXT}"
    ):
        reward.next_tokens([[1] * (CONTEXT + 1)], [1])


def test_products_of_the_head_are_exact_where_others_need_not_be():
    found = []
    with torch.no_grad():
        hidden, linear = torch.randn(50, 512), torch.nn.Linear(512, 200)
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            try:
                found.append(
                    [logits.clone() for _, _, logits in module.Head(linear, 200).blocks(hidden)]
                )
                assert torch.get_float32_matmul_precision() == precision
            finally:
                torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize(("gauge", "terminal"), GAUGES)
def test_rewards_telescope(llama, gauge, terminal, alpha):
    reward = EndogenousReward(llama, reading=RewardReading(alpha, gauge, terminal))
    for s in reward.score_ids(*texts()):
        logs, normalizers = reference(llama, s.prompt_ids.tolist(), s.ids.tolist())
        values = alpha * normalizers
        end = values[-1] if terminal == "bootstrap" else 0.0
        following = np.append(values[1:-1], end)
        expected = alpha * logs + (values[:-1] - following if gauge == "logits" else 0.0)
        np.testing.assert_allclose(s.rewards, expected, atol=4e-5)
        assert s.reward_sum == pytest.approx(s.rewards.sum(), abs=1e-4)
        difference = s.soft_value_prompt - s.end_value if gauge == "logits" else 0.0
        assert s.reward_sum == pytest.approx(alpha * s.log_prob + difference, abs=1e-5)
        assert s.end_value == pytest.approx(end if gauge == "logits" else 0.0, abs=1e-5)
        assert s.soft_value_prompt == pytest.approx(values[0], abs=1e-5)


@pytest.mark.parametrize(("gauge", "terminal"), GAUGES)
def test_agrees_with_the_token_tree(terminal, gauge):
    H, A, alpha = 3, 5, 0.7
    lm = CausalLM(build("Llama", vocab_size=7), letter_tokenizer(A, 2), "tree")
    policy = token_tree(lm, ["A"], H, terminal_layer=terminal == "bootstrap").policy
    reading = RewardReading(alpha, gauge, terminal)
    mdp = reading.of_policy(policy)
    answers = list(itertools.product(range(7), repeat=H))[::11]
    words = ["".join("abcdeAB"[a] for a in answer) for answer in answers]
    reward = EndogenousReward(lm, reading=reading)
    for answer, s in zip(answers, reward.score(["A"] * len(words), words), strict=True):
        states = [sum(a * 7 ** (h - 1 - i) for i, a in enumerate(answer[:h])) for h in range(H)]
        expected = [mdp.rewards[h][states[h], answer[h]] for h in range(H)]
        np.testing.assert_allclose(s.rewards, expected, atol=1e-5)
        assert s.reward_sum == pytest.approx(sum(expected), abs=1e-5)


def test_stories(shared_models):
    lm = ModelSpec(shared_models / "stories260K").load()
    prompts = ["Once upon a time", "", "Lily and Tom went to the park."]
    scores = EndogenousReward(lm).score(
        prompts, [" there was a girl.", "Once", " They saw 漢."], eos=True
    )
    assert error(scores, lm.model) <= 1e-5
    assert [s.prompt_ids[0] for s in scores] == [1, 1, 1]  # BOS by the tokenizer's own rule
    assert len(scores[1].prompt_ids) == 1
    assert [s.ids[-1] for s in scores] == [2, 2, 2]
    assert all(1 not in s.ids for s in scores)


def test_rows_beyond_the_tokenizer_count():
    model = build("Llama", vocab_size=20)  # the tokenizer names 7
    reward = EndogenousReward(model, letter_tokenizer(5, 2))
    scores = reward.score(["A"], ["abc"])
    assert reward.vocab_size == 20
    assert error(scores, model) <= 1e-5


class Adapted(torch.nn.Module):
    """A head with a low-rank update, as LoRA has it: there is no weight to slice."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, torch.nn.Linear(base.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, base.out_features, bias=False)

    def forward(self, hidden):
        return self.base(hidden) + self.up(self.down(hidden))


def own_logits(model, s):
    with torch.no_grad():
        logits = (
            model(torch.tensor([[*s.prompt_ids, *s.ids]]))
            .logits[0, len(s.prompt_ids) - 1 : -1]
            .double()
        )
    return torch.log_softmax(logits, -1)[torch.arange(s.n_tokens), s.ids], torch.logsumexp(
        logits, -1
    )


@pytest.mark.parametrize("hooked", [False, True])
def test_heads_that_cannot_be_sliced(hooked):
    model = build("Gemma2")
    sizes = []
    if hooked:
        model.lm_head.register_forward_hook(lambda _, __, out: out + 1.0)
    else:
        model.lm_head = Adapted(model.lm_head)
    reward = EndogenousReward(model)
    reward.score_ids(*texts())  # once, so that the model is checked before it is watched
    model.lm_head.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[0]))
    scores = reward.score_ids(*texts())
    assert sizes
    assert max(sizes) * V <= module.CHUNK * module.POSITIONS
    for s in scores:
        logs, normalizers = own_logits(model, s)
        np.testing.assert_allclose(s.log_probs, logs, atol=1e-5)
        np.testing.assert_allclose(s.soft_values, normalizers, atol=1e-5)


class Unknown(transformers.LlamaForCausalLM):
    """An architecture whose logits are not those of its head."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.sin(output.logits)
        return output


def test_an_unknown_architecture_is_read_from_its_logits():
    model = Unknown(build("Llama").config).eval()
    with pytest.warns(
        UserWarning, match="Unknown: no hidden states and head give its logits, which are read as"
    ):
        reward = EndogenousReward(model)
    for s in reward.score_ids(*texts()):
        logs, normalizers = own_logits(model, s)
        np.testing.assert_allclose(s.log_probs, logs, atol=1e-5)
        np.testing.assert_allclose(s.soft_values, normalizers, atol=1e-5)


@pytest.mark.parametrize("scaling", [7.0, -7.0])
def test_a_declared_factor_is_used_as_the_model_uses_it(scaling, monkeypatch):
    model = build("Granite", logits_scaling=abs(scaling))
    if scaling < 0:  # what some models multiply by others divide by
        forward = type(model).forward

        def multiplied(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.logits = output.logits * scaling**2
            return output

        monkeypatch.setattr(type(model), "forward", multiplied)
    head = EndogenousReward(model).lm.reader.head
    assert head.scale == pytest.approx(7.0 if scaling < 0 else 1 / 7.0)


class Largest(TorchDispatchMode):
    """The largest tensor that is computed, parameters and their slices aside."""

    def __init__(self, model):
        super().__init__()
        self.size, self.own = 0, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.own:
                self.size = max(self.size, x.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_batch_are_never_built(dtype):
    vocabulary, batch, time = 2000, 6, 24
    model = build("Llama", vocab_size=vocabulary).to(dtype)
    reward = EndogenousReward(model)
    prompts = np.random.default_rng(0).integers(vocabulary, size=(batch, 1)).tolist()
    answers = np.random.default_rng(1).integers(vocabulary, size=(batch, time)).tolist()
    reward.lm.reader.prepare(time)  # checked before it is watched
    with Largest(model) as found:
        reward.score_ids(prompts, answers)
    # activations: batch·time·(intermediate size); a slice of the head in float32: CHUNK·(hidden
    # size)
    assert (
        0
        < found.size
        <= max(batch * (time + 1) * 48, module.CHUNK * 32)
        < batch * time * vocabulary / 25
    )


def test_only_response_positions_go_through_the_head(llama, monkeypatch):
    seen = []
    blocks = module.Head.blocks
    reward = EndogenousReward(llama)
    monkeypatch.setattr(
        module.Head, "blocks", lambda self, x: seen.append(len(x)) or blocks(self, x)
    )
    prompts, answers = texts()
    reward.score_ids(prompts, answers)
    assert sum(seen) == sum(map(len, answers))


def test_the_context_is_used_to_the_last_position(llama):
    prompt, answer = [1] * 8, [2] * (CONTEXT - 7)  # the last token is read, not fed
    assert EndogenousReward(llama).score_ids([prompt], [answer])[0].n_tokens == CONTEXT - 7
    with pytest.raises(
        ValueError, match=rf"responses\[1\]: .* need {CONTEXT + 1} positions, .* has {CONTEXT}"
    ):
        EndogenousReward(llama, reading=RewardReading(terminal="bootstrap")).score_ids(
            [[1], prompt], [[2], answer]
        )


def test_training_flags_are_left_as_found():
    model = build("GPT2", attn_pdrop=0.5, resid_pdrop=0.5)
    prompts, answers = texts()
    quiet = EndogenousReward(model).score_ids(prompts, answers)
    model.train()
    model.transformer.h[0].eval()
    flags = [m.training for m in model.modules()]
    with pytest.warns(UserWarning, match="was in training mode: it is read in evaluation mode"):
        loud = EndogenousReward(model).score_ids(prompts, answers)
    assert [m.training for m in model.modules()] == flags
    assert [s.reward_sum for s in loud] == pytest.approx([s.reward_sum for s in quiet], abs=1e-5)
    assert model(torch.tensor([[1, 2]])).logits.requires_grad


def test_aggregations(llama):
    prompts, answers = texts()
    reward, other = (
        EndogenousReward(llama, reading=RewardReading(0.5)),
        EndogenousReward(build("Qwen2")),
    )
    scores = reward.score_ids(prompts, answers)
    sums = [reference(llama, p, a) for p, a in zip(prompts, answers, strict=True)]
    anchors = [
        reference(other.lm.model, p, a)[0].sum() for p, a in zip(prompts, answers, strict=True)
    ]
    logs = np.array([x.sum() for x, _ in sums])
    total = 0.5 * (logs + np.array([z[0] for _, z in sums]))
    np.testing.assert_allclose(reward.aggregate(scores), total, atol=1e-4)
    np.testing.assert_allclose(
        reward.aggregate(scores, "mean"), total / [len(a) for a in answers], atol=1e-4
    )
    np.testing.assert_allclose(reward.aggregate(scores, "logprob"), 0.5 * logs, atol=1e-4)
    np.testing.assert_allclose(
        reward.aggregate(scores, "anchored", other), 0.5 * (logs - anchors), atol=1e-4
    )
    np.testing.assert_allclose(reward.aggregate(scores, "anchored", reward), 0.0, atol=1e-12)
    base = EndogenousReward(llama).score_ids([p[:1] for p in prompts], answers)
    plain = [reference(llama, p[:1], a)[0].sum() for p, a in zip(prompts, answers, strict=True)]
    np.testing.assert_allclose(
        reward.aggregate(scores, "lift", without=base), 0.5 * (logs - plain), atol=1e-4
    )
    with pytest.raises(ValueError, match="without: must have the same tokens as scores"):
        reward.aggregate(scores, "lift", without=base[::-1])
    assert reward.aggregate([]).shape == (0,)
    assert reward.score_ids([], []) == []


WORDS = ["<s>", "</s>", "<turn>", "<end>", "\n", "user", "assistant", "system", *"abcdefgh"]
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}"
    "{{ '<turn> ' + m.role + ' ' + m.content + ' <end> \\n ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn> assistant ' }}{% endif %}"
)


def chat_tokenizer(template=TEMPLATE, *, bos=True, eos="<end>"):
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    if bos:  # and an end of sequence, which some tokenizers put after every text
        special = [("<s>", 0), ("</s>", 1)]
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=special
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos
    )
    tokenizer.chat_template = template
    return tokenizer


def ids(text):
    return [WORDS.index(w) for w in text.split(" ")]


@pytest.fixture(scope="module")
def chat():
    return build("Llama", vocab_size=len(WORDS))


def test_texts_are_tokenised_as_one(chat):
    reward = EndogenousReward(chat, chat_tokenizer())
    one, two, three = reward.score(["a b", "", "c"], [" c d", "e", "<end>"])
    assert (one.prompt_ids.tolist(), one.ids.tolist()) == (ids("<s> a b"), ids("c d"))
    assert (two.prompt_ids.tolist(), three.ids.tolist()) == (ids("<s>"), ids("<end>"))
    (ended, empty) = reward.score(["a", "a"], [" b c", ""], eos=True)
    assert (ended.ids.tolist(), empty.ids.tolist()) == (ids("b c <end>"), ids("<end>"))


def test_no_reward_after_the_end(chat):
    answer = ids("a b <end> c <end>")
    reward = EndogenousReward(chat, chat_tokenizer())
    assert reward.score_ids([[0]], [answer])[0].ids.tolist() == ids("a b <end>")
    assert (
        EndogenousReward(chat, chat_tokenizer(), end_tokens=())
        .score_ids([[0]], [answer])[0]
        .n_tokens
        == 5
    )
    chat.generation_config.eos_token_id = [1, WORDS.index("b")]
    try:
        assert EndogenousReward(chat).score_ids([[0]], [answer])[0].ids.tolist() == ids("a b")
    finally:
        chat.generation_config.eos_token_id = None


def test_messages(chat):
    tokenizer = chat_tokenizer()
    question = [{"role": "system", "content": "h"}, {"role": "user", "content": "a b"}]
    for eos, expected in ((True, "c d <end>"), (False, "c d")):
        (s,) = EndogenousReward(chat, tokenizer).score_messages([question], ["c d"], eos=eos)
        assert s.prompt_ids.tolist() == ids(
            "<s> <turn> system h <end> \n <turn> user a b <end> \n <turn> assistant"
        )
        assert s.ids.tolist() == ids(expected)
        assert error([s], chat) <= 1e-5


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"prompts\[0\]: messages, and .* has no chat template; use texts"),
        (
            "{{ raise_exception('no system') }}",
            r"prompts\[0\]: the chat template refuses it \(no system\)",
        ),
        (
            "<s> {{ messages[0].content }} "
            "{% if messages[1:] %}c {{ messages[1].content }}{% else %}b{% endif %}",
            r"responses\[0\]: the chat template rewrites the prompt once a response follows: "
            "'b' becomes 'c '",
        ),
        (
            "<s> {{ messages[0].content }}",
            r"responses\[0\]: the chat template drops the assistant's turn",
        ),
        ("<s> a", r"prompts\[0\]: the chat template drops the user message"),
    ],
)
def test_refused_messages(chat, template, message):
    with pytest.raises(ValueError, match=message):
        EndogenousReward(chat, chat_tokenizer(template)).score_messages(
            [[{"role": "user", "content": "a"}]], ["b"]
        )


def call(method, *args, model=None, tokenizer=None, **kwargs):
    return lambda chat: getattr(
        EndogenousReward(model or chat, tokenizer or chat_tokenizer()), method
    )(*args, **kwargs)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            lambda _: RewardReading(alpha=0),
            "alpha=0: must be from 1e-09 to 1e.09 reward units",
        ),
        (lambda _: RewardReading(gauge="q"), "gauge='q': must be one of logits, logprob"),
        (
            lambda _: RewardReading(terminal="end"),
            "terminal='end': must be one of zero, bootstrap",
        ),
        (
            lambda m: EndogenousReward(m, batch_tokens=0),
            "batch_tokens=0: must be an integer of at least 1",
        ),
        (
            lambda m: EndogenousReward(m).score(["a"], ["b"]),
            "was given without a tokenizer; use score_ids",
        ),
        (lambda m: EndogenousReward(m).aggregate([], "max"), "how='max': must be one of 'sum', "),
        (lambda m: EndogenousReward(m).aggregate([], "anchored"), "how='anchored' needs reference"),
        (lambda m: EndogenousReward(m).aggregate([], "lift"), "how='lift' needs without"),
        (
            lambda m: EndogenousReward(m).aggregate([], "sum", without=[]),
            "how='sum' takes no without",
        ),
        (call("score", "a", ["b"]), r"one text is \[text\]"),
        (call("score", ["a"], ["b", "c"]), "1 prompts and 2 responses"),
        (
            call("score", ["a", ""], ["b", "b"], tokenizer=chat_tokenizer(bos=False)),
            r"prompts\[1\]: empty",
        ),
        (call("score", ["a", "a"], ["b", ""]), r"responses\[1\]: empty"),
        (call("score", ["a"], [" b ?"]), r"responses\[0\]: the vocabulary of .* nothing for '\?'"),
        (
            call("score", ["a"], ["b"], eos=True, tokenizer=chat_tokenizer(eos=None)),
            "eos=True: .* use eos=False",
        ),
        (call("score_ids", [[1]], [[]]), r"responses\[0\]: empty, must have at least one token"),
        (call("score_ids", [[]], [[1]]), r"prompts\[0\]: empty"),
        (
            call("score_ids", [[1]], [[len(WORDS)]]),
            rf"responses\[0\]: ids must be from 0 to {len(WORDS) - 1}",
        ),
        (call("score_ids", [[1], [-1]], [[0], [0]]), r"prompts\[1\]: ids must be from 0"),
        (
            call("score_ids", [[0]], [[0] * 60]),
            r"responses\[0\]: prompt and response need 60 positions",
        ),
    ],
)
def test_refusals(chat, refused, message):
    with pytest.raises(ValueError, match=message) as raised:
        refused(chat)
    assert "\n" not in str(raised.value)


def test_other_refusals(chat):
    with pytest.raises(ValueError, match="LlamaForCausalLM and other: different vocabularies"):
        EndogenousReward(chat, chat_tokenizer()).aggregate(
            [], "anchored", EndogenousReward(CausalLM(chat, letter_tokenizer(5, 2), "other"))
        )
    seq2seq = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ValueError, match="an encoder-decoder does not continue its prompt"):
        EndogenousReward(seq2seq)
    model = build("Llama")
    reward = EndogenousReward(model)
    model.model.embed_tokens.weight.data[3] = math.inf
    with pytest.raises(ValueError, match=r"responses\[1\]: .* overflows there"):
        reward.score_ids([[1], [1]], [[2, 2], [3, 2]])


@pytest.mark.parametrize("where", ["hooked", "offloaded"])
def test_weights_that_accelerate_moves(where):
    """Modules of a model spread over devices get hooks; those of an offloaded one are without
    weights until called.
    """
    accelerate = pytest.importorskip("accelerate")
    model = build("Qwen2")
    expected = EndogenousReward(model).score_ids(*texts())
    if where == "hooked":
        hook = accelerate.hooks.AlignDevicesHook(execution_device="cpu")
        accelerate.hooks.add_hook_to_module(model.lm_head, hook)
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert model.device.type == "meta"
    reward = EndogenousReward(model)
    assert reward.lm.reader.head.plain == (where == "hooked")
    for one, two in zip(expected, reward.score_ids(*texts()), strict=True):
        np.testing.assert_allclose(one.rewards, two.rewards, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_adapters(targets):
    """Low-rank adapters of attention and of the head itself, against all logits of the adapted
    model.
    """
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    model = peft.get_peft_model(build("Llama"), config).eval()
    reward = EndogenousReward(model)
    assert reward.lm.reader.head.plain == ("lm_head" not in targets)
    for s in reward.score_ids(*texts()):
        with torch.no_grad():
            logits = model(torch.tensor([[*s.prompt_ids.tolist(), *s.ids.tolist()]])).logits[
                0, len(s.prompt_ids) - 1 :
            ]
        logs = torch.log_softmax(logits.double(), -1)[torch.arange(s.n_tokens), s.ids]
        np.testing.assert_allclose(s.log_probs, logs, rtol=0, atol=1e-5)
