"""Judges of responses against what full logits in double precision say of the same token ids."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny import byte_tokenizer, tiny

from llm_bridge.models.prompts import PAIRWISE, POINTWISE, VERIFIER, Question
from llm_bridge.preferences import judges, scorers
from llm_bridge.preferences.pairs import Comparison
from llm_bridge.preferences.scorers import Conversation
from llm_bridge.read.reward import EndogenousReward, RewardReading

COMPARISON = Comparison(
    "a/0", "What is ½?", ("One half.", "0.5"), ("Two — no", "x", "three"), "a", system="Be brief."
)
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "2+2?"},
]


def ids(text):
    return byte_tokenizer()(text, add_special_tokens=False)["input_ids"]


def log_softmax(lm, row):
    """``log π`` and ``log Σ exp f`` after every prefix of a row of ids, all logits in double
    precision.
    """
    double = type(lm.model)(lm.model.config).eval().double()
    double.load_state_dict(lm.model.state_dict())
    with torch.no_grad():
        logits = double(torch.tensor([row])).logits[0]
    return torch.log_softmax(logits, -1).numpy(), torch.logsumexp(logits, -1).numpy()


def answers(lm, prompt, response):
    """Log-probabilities of a response after a prompt (ids), and the soft value of the prompt."""
    logs, values = log_softmax(lm, [*prompt, *response])
    places = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
    return logs[places, response], values[len(prompt) - 1]


def ask(scorer, comparison=COMPARISON):
    requests = scorer.requests(comparison)
    records = scorer.records(requests)
    assert len(records) == len(requests)
    return requests, records


PLAIN = [256, *ids("Be brief.\n\nWhat is ½?\n\n")]
TEMPLATE = [256, *ids("<s>Be brief."), 257, *ids("<u>What is ½?"), 257, *ids("<a>")]


@pytest.mark.parametrize("eos", [None, True, False])
@pytest.mark.parametrize("chat", [False, True])
def test_endogenous_rewards(chat, eos):
    lm, other = tiny(chat=chat), tiny(chat=chat, seed=1)
    reward, reference = (
        EndogenousReward(lm, reading=RewardReading(0.7)),
        EndogenousReward(other, end_tokens=()),
    )
    scorer = scorers.Endogenous(reward, Conversation(lm, chat, eos=eos), reference)
    requests, records = ask(scorer)
    assert [request.key for request in requests] == [key for key, _ in COMPARISON.responses()]
    ended = chat if eos is None else eos
    for (_, text), record in zip(COMPARISON.responses(), records, strict=True):
        response = [*ids(text), *([257] if ended else [])]
        logs, value = answers(lm, TEMPLATE if chat else PLAIN, response)
        assert record["token_ids"] == response
        assert record["tokens"] == len(response)
        assert record["log_prob"] == pytest.approx(logs.sum(), abs=1e-4)
        assert record["soft_value_prompt"] == pytest.approx(0.7 * value, abs=1e-4)
        assert record["reward_sum"] == pytest.approx(0.7 * (logs.sum() + value), abs=1e-4)
        assert record["reference_log_prob"] == pytest.approx(
            answers(other, TEMPLATE if chat else PLAIN, response)[0].sum(), abs=1e-4
        )
        np.testing.assert_allclose(record["log_probs"], logs, rtol=0, atol=1e-5)
        assert sum(record["rewards"]) == pytest.approx(record["reward_sum"], abs=1e-4)


def test_system_prompts_are_replaced_or_left_out():
    lm = tiny(chat=True)
    texts = {
        system: Conversation(lm, False, system).prompt(COMPARISON) for system in (None, "New", "")
    }
    assert texts == {
        None: "Be brief.\n\nWhat is ½?\n\n",
        "New": "New\n\nWhat is ½?\n\n",
        "": "What is ½?\n\n",
    }
    roles = {
        system: [m["role"] for m in Conversation(lm, True, system).prompt(COMPARISON)]
        for system in (None, "")
    }
    assert roles == {None: ["system", "user"], "": ["user"]}


def test_conversations_of_several_turns_need_a_template():
    comparison = Comparison("a/1", TURNS, ("4",), ("5",), "a")
    lm = tiny(chat=True)
    assert Conversation(lm, True).prompt(comparison) == TURNS
    with pytest.raises(
        ValueError,
        match="prompt: 3 messages, and the model is given plain text: a chat template is needed",
    ):
        Conversation(lm, False).prompt(comparison)
    assert (
        Conversation(lm, False).prompt(Comparison("a/2", TURNS[:1], ("4",), ("5",), "a"))
        == "Hi\n\n"
    )
    assert (
        Conversation(lm, False).question(comparison) == "user: Hi\n\nassistant: Hello\n\nuser: 2+2?"
    )


@pytest.mark.parametrize("terminal", ["zero", "bootstrap"])
def test_responses_are_kept_to_the_last_position(terminal):
    lm = tiny(context=40)
    conversation, reward = (
        Conversation(lm, False),
        EndogenousReward(lm, reading=RewardReading(terminal=terminal)),
    )
    room = 40 - len([256, *ids("q\n\n")]) + (terminal == "zero")
    fits = Comparison("a/0", "q", ("x" * room,), ("y",), "a")
    longer = Comparison("a/1", "q", ("x" * (room + 1),), ("y",), "a")
    assert [r["tokens"] for r in ask(scorers.Endogenous(reward, conversation), fits)[1]] == [
        room,
        1,
    ]
    with pytest.raises(
        ValueError,
        match=rf"chosen\[0\]: prompt and response have 4 \+ {room + 1} tokens, tiny-0 has 40",
    ):
        scorers.Endogenous(reward, conversation).requests(longer)
    scorer = scorers.Endogenous(reward, conversation, truncate=True)
    assert [(r["tokens"], r["cut"]) for r in ask(scorer, longer)[1]] == [(room, 1), (1, 0)]
    with pytest.raises(ValueError, match=r"chosen\[0\]: prompt and response have \d+ \+ 1 tokens"):
        scorer.requests(Comparison("a/2", "q" * 40, ("x",), ("y",), "a"))


def test_a_reference_must_share_the_tokenizer_and_its_context_counts():
    lm, short = tiny(), tiny(context=10, seed=1)
    with pytest.raises(
        ValueError, match=r"chosen\[0\]: prompt and response have 4 \+ 12 tokens, tiny-0 has 10"
    ):
        scorers.Endogenous(
            EndogenousReward(lm), Conversation(lm, False), EndogenousReward(short)
        ).requests(Comparison("a/0", "q", ("x" * 12,), ("y",), "a"))
    short.tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match="tiny-0 and tiny-1: different vocabularies"):
        scorers.Endogenous(EndogenousReward(lm), Conversation(lm, False), EndogenousReward(short))


def question(lm, chat, text):
    return [256, *ids(f"<u>{text}"), 257, *ids("<a>")] if chat else [256, *ids(f"{text}\n\n")]


@pytest.mark.parametrize("chat", [False, True])
def test_verifier(chat):
    """The generative reward is the endogenous reward of "Yes": its logit keeps ``V(s₁)``, which
    differs by response.
    """
    lm = tiny(chat=chat, context=1024)
    scorer = judges.GenerativeVerifier(EndogenousReward(lm), Conversation(lm, chat))
    _, records = ask(scorer)
    for (_, text), record in zip(COMPARISON.responses(), records, strict=True):
        asked = VERIFIER.text.format(prompt="Be brief.\n\nWhat is ½?", response=text)
        logs, values = log_softmax(lm, question(lm, chat, asked))
        yes, no = (logs[-1, ids(letter)[0]] for letter in "YN")
        assert record["log_prob"] == pytest.approx(yes, abs=1e-4)
        assert record["reward_sum"] == pytest.approx(yes + values[-1], abs=1e-4)
        assert record["log_odds"] == pytest.approx(yes - no, abs=1e-4)
        assert record["tokens"] == len(ids(text))
    assert np.ptp([record["soft_value_prompt"] for record in records]) > 1e-3


def test_pointwise():
    lm = tiny(context=1024)
    scorer = judges.Pointwise(EndogenousReward(lm), Conversation(lm, False))
    _, records = ask(scorer)
    for (_, text), record in zip(COMPARISON.responses(), records, strict=True):
        asked = POINTWISE.text.format(prompt="Be brief.\n\nWhat is ½?", response=text)
        p = np.exp(log_softmax(lm, question(lm, False, asked))[0][-1, [ids(d)[0] for d in "12345"]])
        assert record["mass"] == pytest.approx(p.sum(), rel=1e-4)
        assert record["rating"] == pytest.approx(p @ [1, 2, 3, 4, 5] / p.sum(), rel=1e-4)


def test_a_rating_of_answers_that_underflow():
    """A model that gives all five next to nothing still has a rating of them."""
    lm = tiny(context=1024)
    scorer = judges.Pointwise(EndogenousReward(lm), Conversation(lm, False))
    requests = scorer.requests(COMPARISON)
    log_probs = np.array([[-800.0, -801.0, -802.0, -803.0, -804.0]] * len(requests))
    scorer._answers = lambda requests: (log_probs, None)
    (first, *_) = scorer.records(requests)
    p = np.exp([0, -1, -2, -3, -4])
    assert first["mass"] == 0
    assert first["rating"] == pytest.approx(p @ [1, 2, 3, 4, 5] / p.sum())


def test_pairwise_asks_in_both_orders():
    lm = tiny(context=1024)
    scorer = judges.Pairwise(EndogenousReward(lm), Conversation(lm, False))
    requests, records = ask(scorer)
    assert [request.key for request in requests] == [("a/0", "pair", k) for k in range(6)]
    a, b = ids("A")[0], ids("B")[0]

    def odds(first, second):
        asked = PAIRWISE.text.format(prompt="Be brief.\n\nWhat is ½?", first=first, second=second)
        logs = log_softmax(lm, question(lm, False, asked))[0][-1]
        return logs[a] - logs[b]

    pairs = [(chosen, rejected) for chosen in COMPARISON.chosen for rejected in COMPARISON.rejected]
    for (chosen, rejected), record in zip(pairs, records, strict=True):
        assert record["first"] == pytest.approx(odds(chosen, rejected), abs=1e-4)
        assert record["second"] == pytest.approx(-odds(rejected, chosen), abs=1e-4)
        assert record["log_odds"] == pytest.approx((record["first"] + record["second"]) / 2)


def test_a_judge_needs_tokens_that_tell_its_answers_apart():
    class Vague(judges.Pointwise):
        question = Question("{prompt}{response}", ("1", "10"))

    class Begun(judges.Pointwise):
        question = Question("{prompt}{response}", ("is 1", "is 2"))

    lm = tiny()
    with pytest.raises(
        ValueError, match="tiny-0: no token tells the answers 1, 10 apart; use another --method"
    ):
        Vague(EndogenousReward(lm), Conversation(lm, False))
    requests, (record, _) = ask(
        Begun(EndogenousReward(lm), Conversation(lm, False)),
        Comparison("a/0", "q", ("x",), ("y",), "a"),
    )
    assert requests[0].rows[0].tolist() == [256, *ids("qx\n\nis ")]
    logs = log_softmax(lm, requests[0].rows[0].tolist())[0][-1, [ids(d)[0] for d in "12"]]
    assert record["mass"] == pytest.approx(np.exp(logs).sum(), rel=1e-4)


def test_a_question_too_long_for_the_model():
    lm = tiny(context=100)
    with pytest.raises(
        ValueError, match=r"chosen\[0\]: question and texts need \d+ positions, tiny-0 has 100"
    ):
        judges.GenerativeVerifier(EndogenousReward(lm), Conversation(lm, False)).requests(
            COMPARISON
        )


@pytest.mark.parametrize("pad", [None, 258])
@pytest.mark.parametrize("chat", [False, True])
def test_reward_models(chat, pad):
    lm = tiny("ForSequenceClassification", chat=chat, pad=pad, num_labels=1)
    _, records = ask(scorers.RewardModel(lm, Conversation(lm, chat)))
    for (_, text), record in zip(COMPARISON.responses(), records, strict=True):
        row = [*TEMPLATE, *ids(text), 257] if chat else [*PLAIN, *ids(text)]
        with torch.no_grad():
            alone = lm.model(torch.tensor([row])).logits[0, 0]
        assert record["score"] == pytest.approx(float(alone), abs=1e-5)
    short = tiny("ForSequenceClassification", context=10, num_labels=1)
    with pytest.raises(ValueError, match=r"chosen\[0\]: .* need \d+ positions, tiny-0 has 10"):
        scorers.RewardModel(short, Conversation(short, False)).requests(COMPARISON)
