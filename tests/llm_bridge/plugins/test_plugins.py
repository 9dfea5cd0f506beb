"""Each library's call, replayed, against full logits in double precision; TRL and lm-eval for real
where installed.
"""

import ast
import asyncio
import importlib.util
import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, processors

from llm_bridge import plugins
from llm_bridge.models.load import CausalLM, save
from llm_bridge.models.spec import ModelSpec
from llm_bridge.plugins import lm_eval, openrlhf, skyrl, trl, verl
from llm_bridge.read.reward import EndogenousReward, RewardReading

SPECIAL = ["<pad>", "<s>", "<end>", "<system>", "<user>", "<bot>"]
VOCABULARY = [*SPECIAL, *"abcdefgh ", "ab", "cd", " a", "abcd"]
PAD, BOS, END = 0, 1, 2
CONTEXT, ALPHA = 32, 0.5
TEMPLATE = (
    "<s>{% if messages[0].role != 'system' %}<system>h<end>{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% if brief %}h{% endif %}{% endif %}"
)
QUESTION = [{"role": "user", "content": "ab c"}]


def ids(*tokens):
    return [VOCABULARY.index(token) for token in tokens]


ASKED = ids("<s>", "<system>", "h", "<end>", "<user>", "ab", " ", "c", "<end>", "<bot>")


def make_tokenizer(bos=True, names=VOCABULARY, **changes):
    merges = [("a", "b"), ("c", "d"), (" ", "a"), ("ab", "cd")]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    backend.decoder = decoders.Fuse()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    special = {
        "bos_token": "<s>",
        "eos_token": "<end>",
        "pad_token": "<pad>",
        "additional_special_tokens": SPECIAL[3:],
    }
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special | changes)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build(name="Llama", **changes):
    torch.manual_seed(0)
    options = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    config = getattr(transformers, f"{name}Config")(**options | changes)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def reward(model):
    return EndogenousReward(model, make_tokenizer(), RewardReading(ALPHA))


@dataclass
class Reference:
    """Everything from all logits of the model in double precision."""

    log_probs: np.ndarray
    values: np.ndarray
    greedy: np.ndarray

    def total(self, how="sum"):
        log_prob = ALPHA * self.log_probs.sum()
        total = log_prob + self.values[0]
        return {"sum": total, "mean": total / len(self.log_probs), "logprob": log_prob}[how]

    @property
    def rewards(self):
        return ALPHA * self.log_probs + self.values - np.append(self.values[1:], 0.0)


def reference(model, prompt, answer):
    double = type(model)(model.config).eval().double()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = double(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    logs = torch.log_softmax(logits, -1)[torch.arange(len(answer)), list(answer)]
    return Reference(
        logs.numpy(),
        ALPHA * torch.logsumexp(logits, -1).numpy(),
        (logits.argmax(-1) == torch.tensor(answer)).numpy(),
    )


def totals(model, prompts, answers, how="sum"):
    return pytest.approx(
        [reference(model, p, a).total(how) for p, a in zip(prompts, answers, strict=True)], abs=1e-5
    )


def test_no_library_is_imported():
    for path in Path(plugins.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = [
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        ]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        roots = {name.split(".")[0] for name in names}
        assert roots - sys.stdlib_module_names <= {"llm_bridge", "numpy", "theory", "torch"}, path


COMPLETIONS = [
    ids("a", "b", "<end>"),
    ids("cd", "c", "d"),
    ids("<end>"),
    ids("e", "<end>", "<pad>", "<pad>"),
]
"""The first and second are not what their text encodes to, the second is truncated, the last is
padded.
"""

REWARDED = [*COMPLETIONS[:3], ids("e", "<end>")]


def trl_call(function, prompts, completion_ids, **columns):
    """As ``GRPOTrainer._calculate_rewards`` of TRL 1.16 calls a reward function."""
    tokenizer = make_tokenizer()
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    if not isinstance(prompts[0], str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    kwargs = columns | {"trainer_state": None, "log_extra": print, "log_metric": print}
    return function(prompts=prompts, completions=texts, completion_ids=completion_ids, **kwargs)


@pytest.mark.parametrize("how", ["sum", "mean", "logprob"])
@pytest.mark.parametrize(
    ("prompt", "seen"), [("ab c", ids("<s>", "ab", " ", "c")), (QUESTION, ASKED)]
)
def test_trl_scores_the_sampled_ids(model, reward, prompt, seen, how):
    function = trl.make_reward_func(reward, how)
    found = trl_call(function, [prompt] * 4, COMPLETIONS, solution=[None] * 4, reward=["x"] * 4)
    assert found == totals(model, [seen] * 4, REWARDED, how)
    assert all(type(value) is float for value in found)
    assert function.__name__ == "endogenous_reward"


def test_trl_renders_prompts_as_the_trainer_is_told_to(model, reward):
    function = trl.make_reward_func(reward, brief=True)
    assert trl_call(function, [QUESTION], [ids("e")]) == totals(
        model, [[*ASKED, *ids("h")]], [ids("e")]
    )


def test_the_default_system_prompt_stands_in_the_prompt_alone(reward):
    told = [{"role": "system", "content": "e"}, *QUESTION]
    expected = ids("<s>", "<system>", "e", "<end>", "<user>", "ab", " ", "c", "<end>", "<bot>")
    assert plugins.encode_prompts(reward, [QUESTION, told, "e"]) == [
        ASKED,
        expected,
        ids("<s>", "e"),
    ]


@pytest.mark.parametrize("how", ["sum", "mean", "logprob"])
def test_an_empty_response_is_an_immediate_end(model, reward, how):
    rewards = plugins.id_rewards(reward, how)
    found = rewards([ASKED, ASKED], [[], ids("e")])
    assert found == totals(model, [ASKED, ASKED], [[END], ids("e")], how)
    bare = EndogenousReward(build(), reading=RewardReading(ALPHA))
    with pytest.raises(
        ValueError,
        match=r"responses\[1\]: empty, and LlamaForCausalLM has no end-of-sequence token",
    ):
        plugins.id_rewards(bare)([ASKED, ASKED], [ids("e"), []])
    bare.lm.model.generation_config.eos_token_id = [END, BOS]
    assert plugins.id_rewards(bare, how)([ASKED], [[]]) == pytest.approx(found[:1], abs=1e-5)


def test_rewards_do_not_depend_on_the_batch(model, reward):
    prompts = [ASKED, ids("a"), ids("<s>", "c"), ASKED[:4]]
    together = plugins.id_rewards(reward)(prompts, COMPLETIONS)
    for limit in (1, 20):
        one = plugins.id_rewards(
            EndogenousReward(reward.lm, reading=reward.reading, batch_tokens=limit)
        )
        assert one(prompts, COMPLETIONS) == pytest.approx(together, abs=1e-5)


def test_threads_do_not_disturb_each_other():
    """A reward in training mode is put into evaluation mode and back, which another pass must not
    see.
    """
    noisy = build("Llama", attention_dropout=0.5)
    rewards = plugins.id_rewards(EndogenousReward(noisy, make_tokenizer(), RewardReading(ALPHA)))
    quiet = rewards([ASKED] * 4, COMPLETIONS)
    noisy.train()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: rewards([ASKED] * 4, COMPLETIONS), range(40)))
    assert all(one == pytest.approx(quiet, abs=1e-5) for one in found)
    assert all(module.training for module in noisy.modules())


@pytest.fixture
def environment(model, tmp_path, monkeypatch):
    save(CausalLM(model, make_tokenizer(), "tiny"), tmp_path)
    monkeypatch.setenv("ENDORM_MODEL", str(tmp_path))
    monkeypatch.setenv("ENDORM_ALPHA", str(ALPHA))
    monkeypatch.setenv("ENDORM_DEVICE", "cpu")
    return monkeypatch


def test_the_environment_names_the_model(model, environment):
    environment.setenv("ENDORM_HOW", "mean")
    found = trl_call(pickle.loads(pickle.dumps(trl.endogenous_reward)), [QUESTION] * 4, COMPLETIONS)
    assert found == totals(model, [ASKED] * 4, REWARDED, "mean")
    environment.setenv("ENDORM_HOW", "sum")
    environment.setenv("ENDORM_GAUGE", "logprob")
    environment.setenv("ENDORM_DTYPE", "float64")
    found = trl_call(trl.endogenous_reward, [QUESTION] * 4, COMPLETIONS)
    assert found == totals(model, [ASKED] * 4, REWARDED, "logprob")
    reward, _ = plugins.from_environment()
    assert reward.reading == RewardReading(ALPHA, "logprob")
    assert reward.lm.model.dtype == torch.float64


def test_the_model_is_loaded_once(environment, monkeypatch):
    loaded = []
    load = ModelSpec.load
    monkeypatch.setattr(ModelSpec, "load", lambda spec: loaded.append(spec) or load(spec))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: plugins.from_environment()[0], range(8)))
    assert len(loaded) == len(set(map(id, found))) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"MODEL": ""},
            ValueError,
            "ENDORM_MODEL is not set: give the scoring model's folder or hub id, in every",
        ),
        (
            {"MODEL": "./nowhere"},
            OSError,
            "nowhere: no model there; give a folder with a config.json",
        ),
        ({"ALPHA": "hot"}, ValueError, "^ENDORM_ALPHA=hot: must be a number"),
        ({"ALPHA": "-1"}, ValueError, "^ENDORM_ALPHA=-1: must be from 1e-09 to"),
        ({"GAUGE": "q"}, ValueError, "^ENDORM_GAUGE=q: must be one of logits, logprob"),
        ({"DTYPE": "int4"}, ValueError, "^ENDORM_DTYPE=int4: must be one of float16, bfloat16"),
        (
            {"GAUGE": "logprob", "TERMINAL": "bootstrap"},
            ValueError,
            "^ENDORM_TERMINAL=bootstrap: must be zero with ENDORM_GAUGE=logprob",
        ),
        ({"HOW": "max"}, ValueError, "^ENDORM_HOW=max: must be one of sum, mean, logprob"),
        ({"HOW": "anchored"}, ValueError, "^ENDORM_HOW=anchored: must be one of sum, mean"),
    ],
)
def test_a_wrong_environment_is_one_line(environment, changes, error, message):
    for name, value in changes.items():
        environment.setenv(f"ENDORM_{name}", value)
    calls = [
        lambda: trl.endogenous_reward(prompts=["a"], completions=["b"], completion_ids=[ids("b")]),
        lambda: verl.compute_score("", "b", None, {"prompt": "a"}),
        lambda: verl.EndogenousRewardManager(
            config=None, tokenizer=make_tokenizer(), compute_score=None
        ),
        lambda: openrlhf.reward_func(["<s>ab"], ["<s>a"], [None]),
    ]
    for call in calls:
        with pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


@dataclass
class Data:
    """As much of verl's ``DataProto`` and ``DataProtoItem`` as reward managers read."""

    batch: dict
    non_tensor_batch: dict = field(default_factory=dict)
    meta_info: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.batch["responses"])

    def __getitem__(self, item):
        parts = (
            {key: x[item] for key, x in part.items()}
            for part in (self.batch, self.non_tensor_batch)
        )
        return Data(*parts)


def padded(prompts, answers):
    """As in verl's batches: prompts padded on the left, responses on the right, one mask for
    both.
    """
    P, T = max(map(len, prompts)) + 1, max(map(len, answers)) + 2
    left = [[ids("e")[0]] * (P - len(p)) + p for p in prompts]  # whatever stands there
    right = [a + [ids("f")[0]] * (T - len(a)) for a in answers]
    mask = [
        [0] * (P - len(p)) + [1] * (len(p) + len(a)) + [0] * (T - len(a))
        for p, a in zip(prompts, answers, strict=True)
    ]
    n = len(prompts)
    return Data(
        {
            "prompts": torch.tensor(left),
            "responses": torch.tensor(right),
            "attention_mask": torch.tensor(mask),
        },
        {
            "data_source": np.array(["x"] * n),
            "reward_model": np.array([{"ground_truth": None}] * n),
            "extra_info": np.array([{}] * n),
        },
    )


PROMPTS = [ASKED, ids("<s>", "a"), ids("<s>", "c", "e"), ASKED]
ANSWERS = [*REWARDED[:3], []]


def test_verl_rewards_stand_on_the_last_token_and_never_on_padding(model, reward):
    manager = verl.EndogenousRewardManager(
        tokenizer=make_tokenizer(), num_examine=0, compute_score=None, reward=reward
    )
    data = padded(PROMPTS, ANSWERS)
    result = manager(data, return_dict=True)
    expected = torch.zeros(4, data.batch["responses"].shape[1])
    for i, answer in enumerate(ANSWERS[:3]):
        expected[i, len(answer) - 1] = reference(model, PROMPTS[i], answer).total()
    torch.testing.assert_close(result["reward_tensor"], expected, atol=1e-5, rtol=0)
    assert result["reward_extra_info"] == {}
    assert torch.equal(manager(data), result["reward_tensor"])
    assert torch.equal(result["reward_tensor"][3], torch.zeros_like(expected[3]))


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_verl_reward_loop(model, reward, how):
    """As ``RewardLoopWorker`` makes the manager and calls it by row, and ``RewardLoopManager``
    joins the rewards.
    """
    kwargs = {
        "config": {},
        "tokenizer": make_tokenizer(),
        "compute_score": print,
        "reward_router_address": None,
    }
    manager = verl.EndogenousRewardManager(
        **kwargs, reward_model_tokenizer=None, reward=reward, how=how
    )
    data = padded(PROMPTS, ANSWERS)

    async def compute_score_batch():
        return await asyncio.gather(
            *(manager.run_single(data[i : i + 1]) for i in range(len(data)))
        )

    outputs = asyncio.run(compute_score_batch())
    scores = [output["reward_score"] for output in outputs]
    assert scores == totals(model, PROMPTS, [*ANSWERS[:3], [END]], how)
    assert [output["reward_extra_info"] for output in outputs] == [{}] * 4
    placed = verl.EndogenousRewardManager.assemble_rm_scores(data, scores)
    assert placed.dtype == torch.float32
    assert placed.sum(dim=1).tolist() == pytest.approx([*scores[:3], 0.0], abs=1e-5)
    assert [int(row.nonzero()) for row in placed[:3]] == [len(answer) - 1 for answer in ANSWERS[:3]]


def test_verl_scores_the_last_output_of_an_agent(model, reward):
    """As ``AgentLoopWorker._compute_score`` pads them: each part on the right, and the mask as a
    whole.
    """
    prompts, answers = [ASKED, ids("<s>", "a")], [ids("e"), ids("a", "b", "<end>")]

    def pad(rows):
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=0
        )

    data = Data(
        {
            "prompts": pad(prompts),
            "responses": pad(answers),
            "attention_mask": pad(
                [[1] * (len(p) + len(a)) for p, a in zip(prompts, answers, strict=True)]
            ),
        },
        {
            "prompt_len": np.array([len(p) for p in prompts]),
            "response_len": np.array([len(a) for a in answers]),
        },
    )
    output = asyncio.run(verl.EndogenousRewardManager(reward=reward).run_single(data))
    assert [output["reward_score"]] == totals(model, prompts[1:], answers[1:])


def test_verl_refuses_a_policy_with_other_ids(reward):
    other = make_tokenizer(names=[*SPECIAL, *"abcdefg h", *VOCABULARY[15:]])
    with pytest.raises(ValueError, match="LlamaForCausalLM and the policy: different vocabularies"):
        verl.EndogenousRewardManager(tokenizer=other, reward=reward)


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        (QUESTION, ASKED),
        (np.array(QUESTION, dtype=object), ASKED),
        ("ab c", ids("<s>", "ab", " ", "c")),
    ],
)
@pytest.mark.parametrize(("text", "answer"), [("dab", ids("d", "ab")), ("", [END])])
def test_verl_compute_score(model, reward, prompt, seen, text, answer):
    if isinstance(prompt, str) and text:  # "ab c" and "dab" are one text, in which cd is a token
        seen, answer = ids("<s>", "ab", " "), ids("cd", "ab")
    info = {"index": 0, "prompt": prompt, "num_turns": None, "rollout_reward_scores": {}}
    call = {"data_source": "x", "solution_str": text, "ground_truth": None, "extra_info": info}
    found = verl.make_compute_score(reward)(
        **call, reward_router_address=None, reward_model_tokenizer=None
    )
    assert [found] == totals(model, [seen], [answer])


@pytest.mark.parametrize(
    ("info", "found"), [(None, r"\[\]"), ({"question": "a"}, r"\['question'\]")]
)
def test_verl_compute_score_needs_the_prompt(reward, info, found):
    with pytest.raises(
        ValueError, match=rf"extra_info: no 'prompt' among {found}; add the row's messages"
    ):
        verl.make_compute_score(reward)(
            data_source="x", solution_str="a", ground_truth=None, extra_info=info
        )


def openrlhf_load(path):
    """As ``SingleTurnAgentExecutor`` of OpenRLHF 0.11 loads a file."""
    spec = importlib.util.spec_from_file_location("reward_func", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reward_func


def openrlhf_call(function, prompts, sampled):
    """As it calls the function: one decoded query at a time."""
    tokenizer = make_tokenizer()
    results = []
    for prompt, action in zip(prompts, sampled, strict=True):
        observation = tokenizer(text=prompt, add_special_tokens=False)["input_ids"] + action
        query = tokenizer.decode(observation, skip_special_tokens=False)
        results.append(function([query], [prompt], [""]))
    return results


def test_openrlhf_loads_the_file(model, environment):
    prompt = make_tokenizer().apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True
    )
    sampled = [ids("ab", "cd", "e", "<end>"), ids("<end>"), []]
    results = openrlhf_call(openrlhf_load(openrlhf.__file__), [prompt] * 3, sampled)
    kept = [
        ids("abcd", "e", "<end>"),
        [END],
        [END],
    ]  # text does not say that the first was sampled in two tokens
    assert [float(result["rewards"]) for result in results] == totals(model, [ASKED] * 3, kept)
    for result in results:
        assert torch.tensor([result["rewards"]]).shape == (1,)  # what OpenRLHF makes of it
        assert torch.equal(result["scores"], result["rewards"])
        assert result["extra_logs"] == {}


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [("<s>ca", ids("<s>", "c", "a"), ids("b", "e")), ("<s>c", ids("<s>", "c"), ids("e", "ab"))],
)
def test_openrlhf_reads_prompt_and_response_as_one_text(model, reward, prompt, before, after):
    (result,) = openrlhf_call(openrlhf.make_reward_func(reward), [prompt], [after])
    read = (before, after)
    if prompt == "<s>ca":  # the text cabe has the token ab, which is scored with the response
        read = (ids("<s>", "c"), ids("ab", "e"))
    assert result["rewards"].tolist() == totals(model, [read[0]], [read[1]])
    batch = openrlhf.make_reward_func(reward, "mean")([prompt + "e", prompt], [prompt] * 2, None)
    assert batch["rewards"].tolist() == totals(model, [before] * 2, [ids("e"), [END]], "mean")


def test_openrlhf_errors_are_logged_and_raised(environment, caplog):
    """OpenRLHF itself notes them at level INFO."""
    function = openrlhf_load(openrlhf.__file__)
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ValueError, match=r"queries\[0\]: does not begin with its prompt"),
    ):
        function(["b<end>"], ["<s>ab"], [None])
    environment.setenv("ENDORM_MODEL", "")
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="ENDORM_MODEL is not set"):
        function(["<s>ab"], ["<s>a"], [None])
    assert [record.exc_info[0] for record in caplog.records] == [ValueError] * 2


def test_openrlhf_agents_have_the_ids(model, environment):
    """The class of the module's docstring, run on what its base class returns."""

    class SingleTurnAgentExecutor:
        async def execute(self, prompt, **_):
            answer = ids("a", "b", "<end>")
            return {
                "observation_tokens": prompt + answer,
                "action_ranges": [(len(prompt), len(prompt + answer))],
            }

    lines = openrlhf.__doc__.split("    import asyncio\n")[1].split("\nFollows")[0]
    source = "import asyncio\n" + "\n".join(
        line[4:] for line in lines.split("\n") if "openrlhf.utils" not in line
    )
    names = {"SingleTurnAgentExecutor": SingleTurnAgentExecutor}
    exec(compile(source, "docstring", "exec", dont_inherit=True), names)
    output = asyncio.run(names["AgentExecutor"]().execute(ASKED, label=None))
    assert (
        [output["reward"]] == [output["scores"]] == totals(model, [ASKED], [ids("a", "b", "<end>")])
    )


def test_skyrl_rewards_every_chosen_token_of_every_turn(model, reward):
    turns = ids("a", "b", "<end>", "<user>", "c", "<end>", "<bot>", "d", "<end>")
    output = {
        "prompt_token_ids": [ASKED, ids("<s>"), ASKED, ids("<s>")],
        "response_ids": [turns, ids("e", "cd"), ids("<end>"), []],
        "rewards": [0.0] * 4,
        "loss_masks": [[1, 1, 1, 0, 0, 0, 0, 1, 1], [1, 1], [1], []],
        "stop_reasons": ["stop", "length", "stop", "abort"],
        "rollout_metrics": None,
        "rollout_logprobs": None,
    }
    found = skyrl.make_token_rewards(reward)(output)
    assert [len(row) for row in found] == [
        len(row) for row in output["response_ids"]
    ]  # or SkyRL stops
    assert found[3] == []
    for i in range(3):
        expected = reference(
            model, output["prompt_token_ids"][i], output["response_ids"][i]
        ).rewards
        assert found[i] == pytest.approx((expected * output["loss_masks"][i]).tolist(), abs=1e-5)
    assert sum(found[1]) == pytest.approx(
        reference(model, ids("<s>"), ids("e", "cd")).total(), abs=1e-5
    )


def test_a_token_that_the_model_rules_out_is_no_reward():
    """A padding token with logit −∞, as in models whose head has more rows than there are tokens;
    no trainer has −∞.
    """
    model = build()
    model.lm_head = torch.nn.Linear(16, len(VOCABULARY))
    with torch.no_grad():
        model.lm_head.bias[PAD] = -torch.inf
    reward = EndogenousReward(model, make_tokenizer(), RewardReading(ALPHA), end_tokens=(END,))
    prompts, answers = [ASKED, ASKED], [ids("a"), ids("a", "<pad>", "b")]
    for how in ("sum", "mean", "logprob"):
        with pytest.raises(
            ValueError, match=r"responses\[1\]: reward -inf: .* rules one of its tokens out"
        ):
            plugins.id_rewards(reward, how)(prompts, answers)
    output = {"prompt_token_ids": prompts, "response_ids": answers, "loss_masks": [[1], [1, 1, 1]]}
    with pytest.raises(ValueError, match=r"responses\[1\]: reward \[.*-inf"):
        skyrl.make_token_rewards(reward)(output)
    ((first,), (_, observed, _)) = skyrl.make_token_rewards(reward)(
        output | {"loss_masks": [[1], [1, 0, 1]]}
    )
    assert np.isfinite(first)
    assert observed == 0  # not the policy's own


def test_skyrl_from_the_environment(model, environment):
    output = {
        "prompt_token_ids": [ASKED],
        "response_ids": [ids("e", "<end>")],
        "loss_masks": [[1, 1]],
    }
    (found,) = skyrl.token_rewards(output)
    assert found == pytest.approx(
        reference(model, ASKED, ids("e", "<end>")).rewards.tolist(), abs=1e-5
    )


def requests(*args):
    """As much of the harness's ``Instance`` as a model reads."""
    return [SimpleNamespace(args=one) for one in args]


@pytest.mark.parametrize(
    ("context", "continuation", "before", "after"),
    [
        ("c", "e ab", ids("<s>", "c"), ids("e", " ", "ab")),
        ("c ", "ab", ids("<s>", "c"), ids(" ", "ab")),
        ("ab", "cd", ids("<s>"), ids("abcd")),  # one token of the text: all of it is scored
        ("<s>c", "e", ids("<s>", "c"), ids("e")),
        ("c", "e<end>f", ids("<s>", "c"), ids("e", "<end>", "f")),
        ("", "ef", ids("<s>"), ids("e", "f")),
        (" ", "ef", ids("<s>"), ids(" ", "e", "f")),
        ("", "<s>ef", ids("<s>"), ids("e", "f")),
    ],
)
def test_lm_eval_loglikelihood(model, reward, context, continuation, before, after):
    ((found, greedy),) = lm_eval.EndogenousLM(reward).loglikelihood(
        requests((context, continuation))
    )
    expected = reference(model, before, after)
    assert found == pytest.approx(expected.log_probs.sum(), abs=1e-5)
    assert greedy is bool(expected.greedy.all())


def test_lm_eval_words_after_a_context_are_not_at_the_start_of_a_text(model):
    """Some tokenizers write a word otherwise there; this one puts an h before every text, and
    takes it off again in decoding.
    """
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("h")
    strip = decoders.Strip("h", 1, 0)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.Fuse(), strip])
    ((found, _),) = lm_eval.EndogenousLM(EndogenousReward(model, tokenizer)).loglikelihood(
        requests(("c", "eb"))
    )
    assert found == pytest.approx(
        reference(model, ids("<s>", "h", "c"), ids("e", "b")).log_probs.sum(), abs=1e-5
    )


def test_lm_eval_greedy_is_the_most_probable_token(model, reward):
    pairs = [("c", token) for token in VOCABULARY] + [("c", token + "e") for token in SPECIAL]
    found = lm_eval.EndogenousLM(reward).loglikelihood(requests(*pairs))
    best = max(found[: len(VOCABULARY)])
    assert [greedy for _, greedy in found[: len(VOCABULARY)]] == [
        one == best for one in found[: len(VOCABULARY)]
    ]
    assert [greedy for _, greedy in found[len(VOCABULARY) :]] == [
        bool(reference(model, ids("<s>", "c"), [VOCABULARY.index(token), *ids("e")]).greedy.all())
        for token in SPECIAL
    ]


def test_lm_eval_cuts_contexts_from_the_left(model, reward):
    lm = lm_eval.EndogenousLM(
        EndogenousReward(reward.lm, reading=RewardReading(terminal="bootstrap"))
    )
    with pytest.warns(UserWarning, match="the first 13 of 42 tokens of a context do not fit: cut"):
        ((found, _),) = lm.loglikelihood(requests(("e" * 41, "efgh")))
    expected = reference(model, ids(*"e" * 29), ids(*"efgh"))  # 29 + 4 − 1 positions
    assert found == pytest.approx(expected.log_probs.sum(), abs=1e-5)
    with pytest.raises(ValueError, match=r"responses\[0\]: prompt and response need 34 positions"):
        lm.loglikelihood(requests(("e", "e" * 33)))


@pytest.mark.parametrize("length", [0, 1, 30, 31, 32, 63, 80])
def test_lm_eval_rolls_in_disjoint_windows(model, reward, length):
    text = "".join(np.random.default_rng(length).choice(list("efgh"), length))
    tokens = ids(*text)  # log π(text|<s>): the token <s> is the condition, and not predicted too
    fed = [BOS, *tokens]
    double = type(model)(model.config).eval().double()
    double.load_state_dict(model.state_dict())
    expected = 0.0
    for t, token in enumerate(tokens):  # each by itself, from its window's first position on
        stop = min((t // CONTEXT + 1) * CONTEXT, len(tokens))
        with torch.no_grad():
            logits = double(torch.tensor([fed[max(0, stop - CONTEXT) : t + 1]])).logits[0, -1]
        expected += float(torch.log_softmax(logits, -1)[token])
    found = lm_eval.EndogenousLM(reward).loglikelihood_rolling(
        requests((text,), ("ef",)), disable_tqdm=True
    )
    assert found[0] == pytest.approx(expected, abs=1e-4)
    assert found[1] == pytest.approx(
        reference(model, [BOS], ids("e", "f")).log_probs.sum(), abs=1e-5
    )


def test_lm_eval_refusals(model, reward, environment):
    assert lm_eval.EndogenousLM().loglikelihood(requests(("c", "e")))
    with pytest.raises(NotImplementedError, match="only log-likelihoods are scored"):
        lm_eval.EndogenousLM(reward).generate_until([])
    with pytest.raises(
        ValueError, match="reward: LlamaForCausalLM has no tokenizer to read texts with"
    ):
        lm_eval.EndogenousLM(EndogenousReward(model))
    bare = make_tokenizer(bos=False, bos_token=None, eos_token=None)
    with pytest.raises(
        ValueError, match="has no token to begin or end a text with; set its bos_token"
    ):
        lm_eval.EndogenousLM(EndogenousReward(model, bare))


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "message"),
    [
        (
            QUESTION,
            make_tokenizer(chat_template=None),
            r"prompts\[1\]: messages, and the tokenizer of LlamaForCausalLM has no chat template",
        ),
        (QUESTION, None, "reward: LlamaForCausalLM has no tokenizer to read texts with"),
    ],
)
def test_prompts_that_cannot_be_encoded(model, prompt, tokenizer, message):
    if tokenizer is not None:
        tokenizer.chat_template = None
    with pytest.raises(ValueError, match=message) as raised:
        plugins.encode_prompts(EndogenousReward(model, tokenizer), ["e", prompt])
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_lm_eval_gives_the_numbers_of_the_harness(model, reward):
    harness = pytest.importorskip("lm_eval.models.huggingface")
    base = pytest.importorskip("lm_eval.api.model")

    class Endorm(lm_eval.EndogenousLM, base.LM):
        pass

    own = Endorm(reward)
    other = harness.HFLM(pretrained=model, tokenizer=make_tokenizer(), batch_size=2, device="cpu")
    pairs = requests(
        ("c", "e ab"),
        ("c ", "ab"),
        ("<s>c", "e"),
        ("", "ef"),
        ("e" * 40, "f"),
        ("c", "e<end>f"),
        ("", "<s>e"),
    )
    texts = requests(("e" * 80,), ("fg",), ("",), ("h" * 32,))
    assert own.rank == 0
    for found, expected in zip(own.loglikelihood(pairs), other.loglikelihood(pairs), strict=True):
        assert found == (pytest.approx(expected[0], abs=1e-5), expected[1])
    # by default the harness predicts the <s> that the tokenizer adds after its own
    once = harness.HFLM(
        pretrained=model,
        tokenizer=make_tokenizer(),
        batch_size=2,
        device="cpu",
        add_bos_token=False,
    )
    assert own.loglikelihood_rolling(texts) == pytest.approx(
        once.loglikelihood_rolling(texts), abs=1e-4
    )


@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
@pytest.mark.parametrize("prompt", ["ab c", QUESTION])
def test_trl_trains(model, reward, tmp_path, monkeypatch, name, prompt):
    """What the trainer logs is the reward of the ids that the policy generated after the ids that
    it was given.
    """
    library = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    policy, rollouts = build("Qwen2"), []
    generate = policy.generate

    def recorded(input_ids, attention_mask, **kwargs):
        output = generate(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        for row, mask, answer in zip(
            input_ids, attention_mask.bool(), output[:, input_ids.shape[1] :].tolist(), strict=True
        ):
            rollouts.append(
                (row[mask].tolist(), answer[: answer.index(END) + 1] if END in answer else answer)
            )
        return output

    monkeypatch.setattr(policy, "generate", recorded)
    config = getattr(library, f"{name}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        max_steps=2,
        logging_steps=1,
        learning_rate=1e-2,
        beta=0.0,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
    )
    rows = [
        {"prompt": prompt, "solution": None},
        {
            "prompt": "e" if isinstance(prompt, str) else [{"role": "user", "content": "e"}],
            "solution": None,
        },
    ]
    trainer = getattr(library, f"{name}Trainer")(
        model=policy,
        reward_funcs=trl.make_reward_func(reward, "mean"),
        args=config,
        processing_class=make_tokenizer(),
        train_dataset=datasets.Dataset.from_list(rows),
    )
    trainer.train()
    assert len(rollouts) == 8
    logged = [
        log["rewards/endogenous_reward/mean"]
        for log in trainer.state.log_history
        if "reward" in log
    ]
    expected = [reference(model, *rollout).total("mean") for rollout in rollouts]
    assert logged == pytest.approx([np.mean(expected[:4]), np.mean(expected[4:])], abs=1e-5)
    assert len({tuple(answer) for _, answer in rollouts}) > 4
