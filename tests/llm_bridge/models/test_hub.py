"""A hub that does not answer is not asked again and again: what is on disk is read at once."""

import socket
import threading

import pytest
from huggingface_hub import constants

from llm_bridge.models import hub
from llm_bridge.models.hub import cache_without_hub
from llm_bridge.models.load import load_checkpoint, load_tokenizer
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.rows import hub_rows


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """No proxy, and nothing found before."""
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "_FOUND", {})


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def nobody(monkeypatch):
    """The hub's address is that of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def asked(monkeypatch):
    """The addresses that were tried."""
    tried, connect = [], socket.create_connection

    def noted(address, *more, **options):
        tried.append(address)
        return connect(address, *more, **options)

    monkeypatch.setattr(socket, "create_connection", noted)
    return tried


def test_only_the_cache_is_read_while_nothing_answers(nobody):
    with cache_without_hub():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(monkeypatch, listening):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening}")
    with cache_without_hub():
        assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("scheme", ["http", "all"])
def test_a_proxy_is_asked_in_place_of_the_hub(monkeypatch, nobody, asked, scheme):
    monkeypatch.setattr(hub, "getproxies", lambda: {scheme: "http://proxy:3128"})
    monkeypatch.setattr(hub, "proxy_bypass", lambda host: False)
    with cache_without_hub():
        assert not constants.HF_HUB_OFFLINE
    assert not asked


@pytest.mark.parametrize(
    ("proxies", "bypassed"),
    [({"no": "localhost"}, False), ({"ftp": "http://proxy"}, False), ({"http": "http://p"}, True)],
)
def test_a_proxy_for_others_is_none_for_the_hub(monkeypatch, nobody, asked, proxies, bypassed):
    monkeypatch.setattr(hub, "getproxies", lambda: proxies)
    monkeypatch.setattr(hub, "proxy_bypass", lambda host: bypassed)
    with cache_without_hub():
        assert constants.HF_HUB_OFFLINE
    assert len(asked) == 1


def test_what_was_found_is_not_tried_again_at_once(nobody, asked):
    for _ in range(3):
        with cache_without_hub():
            assert constants.HF_HUB_OFFLINE
    assert len(asked) == 1


def test_blocks_of_two_threads_may_overlap(nobody):
    """The first that ends does not let the other ask; the last puts back what was there."""
    one, two = cache_without_hub(), cache_without_hub()
    one.__enter__()
    two.__enter__()
    with cache_without_hub(local=True):
        pass
    one.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE
    two.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_never_answers_is_waited_for_once_in_all(monkeypatch):
    monkeypatch.setattr(hub, "WAIT", 0.1)
    let_go = threading.Event()

    def silent(*_):
        let_go.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", silent)
    with cache_without_hub():
        assert constants.HF_HUB_OFFLINE
    let_go.set()


@pytest.mark.parametrize("offline", [False, True])
def test_the_users_own_setting_stays_also_after_an_error(monkeypatch, nobody, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ValueError, match="damaged"), cache_without_hub():
        raise ValueError("damaged" if constants.HF_HUB_OFFLINE else "the hub was asked")
    assert constants.HF_HUB_OFFLINE is offline


def test_the_address_is_that_of_the_hub_itself(monkeypatch, asked):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    with cache_without_hub():
        pass
    assert asked == [("hub.invalid", 443)]


def test_names_that_nobody_has_are_refused(nobody):
    for load in (
        lambda: load_checkpoint(ModelSpec("nobody/model"), reward_model=False),
        lambda: load_tokenizer("nobody/model"),
    ):
        with pytest.raises(OSError, match=r"^nobody/model: .*; (download|give)"):
            load()
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=r"cannot be loaded .*; give hub:NAME"):
        list(hub_rows("hub:nobody/data"))


def test_a_folder_asks_nothing_of_any_network(asked, tmp_path):
    with pytest.raises(OSError, match="no model there"):
        load_checkpoint(ModelSpec(str(tmp_path)), reward_model=False)
    load_checkpoint(ModelSpec("letters"), reward_model=False)
    assert not asked
