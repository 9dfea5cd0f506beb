"""What never ends is ended, in any thread, and nothing is raised afterwards."""

import threading
import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from llm_bridge.models import chat
from llm_bridge.models.chat import render
from llm_bridge.models.cloned import letter_lm
from llm_bridge.models.limit import TooLongError, time_limit

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def for_ever():
    with time_limit(0.05):
        while True:
            pass


def test_a_loop_is_ended():
    with pytest.raises(TooLongError, match=r"it takes more than 0\.05 s"):
        for_ever()


def test_a_loop_in_another_thread_is_ended_there():
    found = []

    def work():
        try:
            for_ever()
        except TooLongError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == ["it takes more than 0.05 s"]


def test_what_ends_in_time_is_left_alone_and_so_is_what_follows():
    with time_limit(0.05):
        kept = sum(range(10))
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        kept += 0
    assert kept == 45


def test_errors_of_the_block_are_its_own():
    with pytest.raises(KeyError, match="mine"), time_limit(5.0):
        raise KeyError("mine")


def test_time_that_is_up_as_the_block_ends_is_not_raised_later():
    for _ in range(200):
        try:
            with time_limit(0.0005):
                time.sleep(0.0005)
        except TooLongError:
            pass
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("where", ["", "{{ messages[0]['content'] }}"])
def test_a_template_that_does_not_end_is_refused(monkeypatch, where):
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    lm = letter_lm(4)
    lm.tokenizer.chat_template = where + ENDLESS
    message = r"the chat template refuses it \(it takes more than 0\.2 s\)"
    with pytest.raises(ValueError, match=message):
        render(lm, [{"role": "user", "content": "a"}], generation=True)
