"""A served model has the log-probabilities of the same model here, or is refused in one line."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from completions import Completions, serving
from tiny import saved, tiny

from llm_bridge.models import served
from llm_bridge.models.load import load_tokenizer
from llm_bridge.models.served import connect
from llm_bridge.models.spec import ModelSpec
from llm_bridge.read.reading import RewardReading
from llm_bridge.read.reward import EndogenousReward

LOGPROB = RewardReading(alpha=0.7, gauge="logprob")
PROMPTS = [[256, 65, 66, 67], [256, 97], [256, *range(40, 90)]]
RESPONSES = [[68, 69, 257], [98], [70, 200, 30, 31, 257, 99]]


@pytest.fixture(scope="module")
def lm():
    return tiny()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(served, "WAITS", (0.0, 0.0))


def connected(completions, url):
    return connect(url, completions.lm.tokenizer, completions.lm.model.generation_config)


@pytest.mark.parametrize("kind", ["echo", "forced"])
def test_scores_are_those_of_the_model_here(lm, kind):
    expected = EndogenousReward(lm, reading=LOGPROB).score_ids(PROMPTS, RESPONSES, progress=False)
    completions = Completions(lm, kind)
    with serving(completions) as url:
        there = connected(completions, url)
        assert there.model.way == kind
        found = EndogenousReward(there, reading=LOGPROB).score_ids(PROMPTS, RESPONSES)
    for one, own in zip(found, expected, strict=True):
        assert one.ids.tolist() == own.ids.tolist()  # up to the first end token
        assert one.log_probs.dtype == own.log_probs.dtype
        np.testing.assert_allclose(one.log_probs, own.log_probs, atol=2e-5)
        np.testing.assert_allclose(one.rewards, 0.7 * own.log_probs, atol=2e-5)
        assert one.log_prob == pytest.approx(own.log_prob, abs=1e-4)
        assert one.reward_sum == pytest.approx(0.7 * own.log_prob, abs=1e-4)
        assert one.greedy.tolist() == own.greedy.tolist()
        assert np.isnan(one.soft_values).all()


@pytest.mark.parametrize("kind", ["echo", "forced"])
def test_greedy_tokens_are_told_from_others(lm, kind):
    row = [256, 65, 66]
    for _ in range(3):
        row.append(int(lm.model(torch.tensor([row])).logits[0, -1].argmax()))
    row[-1] = (row[-1] + 1) % 256
    completions = Completions(lm, kind)
    with serving(completions) as url:
        found = connected(completions, url).model.read(row, 3)
    assert [greedy for _, greedy in found] == [True, True, False]


@pytest.mark.parametrize("kind", ["echo", "forced"])
def test_tokens_that_may_follow_are_those_of_the_model_here(lm, kind):
    tokens = [5, 65, 257]
    expected, _ = EndogenousReward(lm).next_tokens(PROMPTS, tokens)
    completions = Completions(lm, kind)
    with serving(completions) as url:
        reward = EndogenousReward(connected(completions, url), reading=LOGPROB)
        found, values = reward.next_tokens(PROMPTS, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.isnan(values).all()


def test_requests_are_one_a_text_or_one_a_token(lm):
    for kind, count in (("echo", len(RESPONSES)), ("forced", 3 + 1 + 5)):
        completions = Completions(lm, kind)
        with serving(completions) as url:
            reward = EndogenousReward(connected(completions, url), reading=LOGPROB)
            completions.asked.clear()
            reward.score_ids(PROMPTS, RESPONSES)
        assert len(completions.asked) == count


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("silent", "echo: the server gives no log-probabilities; forced: the server gives no"),
        ("shifted", r"echo: log π of '.+' is .+, and .+ where it is written"),
        (
            "stubborn",
            r"echo: the server repeats 1 tokens of 16 and one more; forced: the server does not",
        ),
        ("leading", r"echo: the server reads 17 tokens where 16 are sent"),
        ("biased", r"forced: log π of '.+' is -?0.000, and .+ where it is written"),
    ],
)
def test_a_server_that_gives_other_numbers_is_not_read(lm, kind, reason):
    completions = Completions(lm, kind)
    no = "gives no log-probabilities of tokens"
    with serving(completions) as url, pytest.raises(ValueError, match=f"{url}: {no}.*{reason}"):
        connected(completions, url)


@pytest.mark.parametrize("kind", ["echo", "forced"])
def test_another_vocabulary_is_refused(lm, kind):
    completions = Completions(lm, kind)
    completions.texts = lambda token: lm.tokenizer.decode([(token + 1) % 256])
    with serving(completions) as url, pytest.raises(ValueError, match="in the tokenizer"):
        connected(completions, url)


def test_what_reads_logits_is_refused_by_name(lm):
    completions = Completions(lm)
    with serving(completions) as url:
        there = connected(completions, url)
    with pytest.raises(ValueError, match=r"gauge='logits': tiny has no soft values"):
        EndogenousReward(there)
    with pytest.raises(ValueError, match=r"tiny: a server shows log-prob.*give the model's folder"):
        there.reader  # noqa: B018
    with pytest.raises(ValueError, match=f"{url}: logits are read here.*give the model's folder"):
        ModelSpec(url).load()


@pytest.mark.parametrize("name", ["dtype", "bits", "adapter", "device", "device_map"])
def test_a_server_has_its_weights_already(name):
    value = {"dtype": "bfloat16", "bits": 4}.get(name, "auto")
    with pytest.raises(ValueError, match=f"{name}.* is not read with model at a server"):
        ModelSpec("http://127.0.0.1/v1", **{name: value})


def test_a_model_is_chosen_where_there_are_several(lm):
    completions = Completions(lm)
    data = [{"id": "tiny", "max_model_len": 100}, {"id": "other"}]
    completions.models = lambda: {"data": data}
    with serving(completions) as url:
        with pytest.raises(ValueError, match=f"has the models tiny, other; give {url}#NAME"):
            connected(completions, url)
        with pytest.raises(ValueError, match="has the models tiny, other"):
            connected(completions, f"{url}#third")
        there = connected(completions, f"{url}#tiny")
        # a text has one token more than the model reads, and the server writes one
        assert (there.name, there.context) == ("tiny", 98)
        data[:] = []
        with pytest.raises(ValueError, match="has the models none"):
            connected(completions, url)


def test_the_room_that_is_stated_is_there_and_no_more(lm):
    completions = Completions(lm, room=20)
    with serving(completions) as url:
        there = connected(completions, url)
        reward = EndogenousReward(there, reading=LOGPROB)
        row = [65] * (there.context + 1)  # the last token is not fed, so it needs no position here
        assert len(reward.score_ids([row[:1]], [row[1:]])[0].ids) == there.context
        with pytest.raises(ValueError, match="need 19 positions, tiny has 18"):
            reward.score_ids([row[:1]], [[*row[1:], 65]])
        with pytest.raises(ValueError, match="400 20 tokens and 1, 20 fit"):
            there.model.read([*row, 65], 1)


@pytest.mark.parametrize("number", [-3.4e38, -9999.0, float("nan"), None])
def test_what_is_no_log_probability_is_refused(lm, number):
    completions = Completions(lm, "forced")
    with serving(completions) as url:
        there = connected(completions, url)
        told = {"id": 65, "token": "A", "logprob": number, "top_logprobs": []}
        completions.complete = lambda _: (200, {"choices": [{"logprobs": {"content": [told]}}]})
        with pytest.raises(ValueError, match=r"says .+ of token 65, which is no log-probability"):
            there.model.read([256, 65], 1)


class _Without(Completions):
    """Leaves out the tokens 256 of what it repeats, as some servers do."""

    def complete(self, body):
        code, found = super().complete(body)
        logprobs = found["choices"][0]["logprobs"]
        kept = [at for at, text in enumerate(logprobs["tokens"]) if text != "<s>"]
        return code, {
            "choices": [{"logprobs": {k: [v[at] for at in kept] for k, v in logprobs.items()}}]
        }


def test_an_echo_that_is_not_whole_is_not_read(lm):
    completions = _Without(lm)
    with serving(completions) as url:
        reward = EndogenousReward(connected(completions, url), reading=LOGPROB)
        with pytest.raises(OSError, match=r"repeats 6 tokens of 6 and one more.*nothing is scored"):
            reward.score_ids([[256, 65, 65]], [[66, 67, 68]])


def test_a_model_that_is_no_longer_there_ends_the_run_and_refuses_no_row(lm):
    completions = Completions(lm)
    with serving(completions) as url:
        there = connected(completions, url)
        completions.complete = lambda _: (404, {"error": {"message": "no such model"}})
        with pytest.raises(OSError, match=r"404 no such model.*nothing is scored twice"):
            there.model.read([256, 65], 1)
        completions.complete = lambda _: (200, {"choices": [{"logprobs": None}]})
        with pytest.raises(OSError, match=r"no log-probabilities.*nothing is scored twice"):
            there.model.read([256, 65], 1)


def test_a_server_whose_words_are_not_known_cannot_be_tried(lm):
    completions = Completions(lm)
    plain = completions.complete

    def complete(body):
        code, found = plain(body)
        tops = found["choices"][0]["logprobs"]["top_logprobs"]
        tops[-1] = {f"#{text}": log_prob for text, log_prob in tops[-1].items()}
        return code, found

    completions.complete = complete
    with serving(completions) as url, pytest.raises(ValueError, match="no token that it would"):
        connected(completions, url)


def test_a_busy_server_is_asked_again_and_a_server_that_is_gone_is_named(lm):
    completions = Completions(lm)
    with serving(completions) as url:
        reward = EndogenousReward(connected(completions, url), reading=LOGPROB)
        completions.busy = 2
        assert len(reward.score_ids(PROMPTS, RESPONSES)) == len(PROMPTS)
        completions.answers = len(completions.asked)
        with pytest.raises(OSError, match=f"{url}/completions: no answer .*same command again"):
            reward.score_ids(PROMPTS, RESPONSES)
    with pytest.raises(OSError, match=f"{url}/models: no answer .*Connection refused"):
        connected(completions, url)


def test_a_key_is_taken_from_the_environment(lm, monkeypatch):
    completions = Completions(lm, key="secret")
    with serving(completions) as url:
        with pytest.raises(
            OSError, match=r"refused \(401 no key\); give its key in ENDORM_API_KEY"
        ):
            connected(completions, url)
        monkeypatch.setenv("ENDORM_API_KEY", "secret")
        assert connected(completions, url).name == "tiny"


def test_an_url_without_such_an_api_is_refused(lm):
    with serving(Completions(lm)) as url:
        wrong = url.removesuffix("/v1")
        with pytest.raises(ValueError, match=f"{wrong}: has no list of models .*404.*ends in /v1"):
            connect(wrong, lm.tokenizer)


def test_the_tokenizer_of_a_folder_is_that_of_the_loaded_model(tmp_path):
    saved(tmp_path, chat=True)
    lm = ModelSpec(tmp_path).load()
    tokenizer, generation = load_tokenizer(str(tmp_path))
    assert tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert tokenizer.chat_template == lm.tokenizer.chat_template
    assert generation.eos_token_id == lm.model.generation_config.eos_token_id == 257
    (tmp_path / "generation_config.json").unlink()
    assert load_tokenizer(str(tmp_path))[1].eos_token_id == 257
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(OSError, match=r"no tokenizer there .*generation_config\.json"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(OSError, match="no tokenizer there"):
        load_tokenizer(str(tmp_path / "missing"))


@pytest.mark.slow
def test_the_tokenizer_of_a_gguf_file_is_that_of_the_converted_model(shared_models):
    pytest.importorskip("gguf")
    (file,) = (shared_models / "smollm2-135m-instruct").glob("*.gguf")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is converted to")  # where no test did it before
        lm = ModelSpec(file).load()
    tokenizer, generation = load_tokenizer(str(file))
    assert tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert tokenizer.chat_template == lm.tokenizer.chat_template
    texts = ["Once upon a time,", " 12345  naïve\n\n\tdéjà vu 🦙", "<|im_start|>user\nHi<|im_end|>"]
    for text in texts:
        assert tokenizer(text)["input_ids"] == lm.tokenizer(text)["input_ids"]
    ends = np.atleast_1d(lm.model.generation_config.eos_token_id).tolist()
    assert np.atleast_1d(generation.eos_token_id).tolist() == ends
