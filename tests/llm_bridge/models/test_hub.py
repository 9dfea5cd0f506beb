"""A hub that does not answer is not asked again and again: what is on disk is read at once."""

import socket

import pytest
from huggingface_hub import constants

from llm_bridge.models import hub
from llm_bridge.models.hub import cache_without_hub
from llm_bridge.models.load import load_checkpoint, load_tokenizer
from llm_bridge.models.spec import ModelSpec
from llm_bridge.preferences.rows import hub_rows


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setattr(hub, "getproxies", dict)


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


def test_a_proxy_is_asked_in_place_of_the_hub(monkeypatch, nobody, asked):
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    with cache_without_hub():
        assert not constants.HF_HUB_OFFLINE
    assert not asked


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
