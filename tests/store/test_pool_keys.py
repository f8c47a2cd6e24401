"""Keys of a shared pool: in the key store, in this process, and nowhere else."""

import logging

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.keys.secrets import KeyStore
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed, UrlRefused
from core.network import UrlPolicy
from tests.support.pool_world import HttpError

KEY = "sk-canary-0123456789abcdef"


@pytest.fixture
def opened(tmp_path):
    """Opens managers on one database, each with a key store of its own on one directory: as processes would."""
    closers = []

    def open_manager(mode="file"):
        store = open_store(str(tmp_path / "data" / "cloud.db"))
        manager = ApiManager(store.pool, keys=KeyStore(mode, directory=tmp_path / "config"))
        closers.extend([store.close, manager.close])
        return manager

    yield open_manager
    for close in reversed(closers):
        close()


def endpoint(name="a", **settings):
    return ApiEndpoint(name, f"https://{name}.example/v1", **settings)


def test_a_key_reaches_the_twin_process_through_the_key_store(opened):
    opened().add_endpoint(endpoint(api_key=KEY))
    twin = opened()
    assert twin.usable() == {"a"}
    assert twin.call_with_retry(lambda one: one.api_key)[0] == KEY


def test_an_endpoint_whose_key_is_not_here_is_left_out_and_says_so(opened):
    opened("process").add_endpoint(endpoint(api_key=KEY))
    twin = opened("process")
    assert twin.usable() == set()
    assert not twin.get_stats()["endpoints"]["a"]["usable"]
    with pytest.raises(
        AllEndpointsFailed, match=r"(?s)a: its key is not known to this process.*`heablcoin-cloud set-key a`"
    ):
        twin.call_with_retry(lambda one: None)


def test_a_key_set_in_another_terminal_is_used_without_a_restart(opened, tmp_path):
    manager = opened()
    manager.add_endpoint(endpoint(api_key_env="A_KEY"))
    assert manager.usable() == set()
    KeyStore("file", directory=tmp_path / "config").set("a", "https://a.example/v1", KEY)
    manager._membership.refresh()
    assert manager.call_with_retry(lambda one: one.api_key)[0] == KEY


def test_the_environment_goes_before_the_key_store(opened, monkeypatch):
    manager = opened()
    manager.add_endpoint(endpoint(api_key=KEY, api_key_env="A_KEY"))
    monkeypatch.setenv("A_KEY", "from-the-environment")
    assert manager.get_endpoint("a").api_key == "from-the-environment"


def test_a_stored_key_does_not_follow_its_endpoint_to_another_host(opened):
    opened().add_endpoint(endpoint(api_key=KEY))
    other = opened()
    other.add_endpoint(ApiEndpoint("a", "https://evil.example/v1"))
    assert other.get_endpoint("a").api_key == ""


def test_removing_an_endpoint_forgets_its_key(opened):
    manager = opened()
    manager.add_endpoint(endpoint(api_key=KEY))
    manager.remove_endpoint("a")
    manager.add_endpoint(endpoint())
    assert manager.get_endpoint("a").api_key == ""
    assert manager.usable() == {"a"}


def test_an_endpoint_at_a_private_address_is_refused_and_not_kept(opened):
    manager = opened()
    manager._membership._url_policy = UrlPolicy.parse("")
    with pytest.raises(UrlRefused):
        manager.add_endpoint(ApiEndpoint("inside", "http://169.254.169.254/v1", KEY))
    assert manager.endpoints == []


def test_a_key_is_found_in_no_byte_but_the_key_files_after_every_kind_of_failure(opened, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    manager = opened()
    for name in "abc":
        manager.add_endpoint(endpoint(name, api_key=KEY))
    for failure in (400, 401, 402, 404, 408, 429, 500, 529, 0):

        def work(one, failure=failure):
            if failure:
                error = HttpError(failure, {"retry-after": "1"}, code=f"bad key {one.api_key}")
                error.args = (f"Incorrect API key provided: {one.api_key}",)
                raise error
            raise ConnectionError(f"https://a.example?api_key={one.api_key}")

        with pytest.raises((AllEndpointsFailed, HttpError)):
            manager.call_with_retry(work, deadline=0.5)
        manager.reset_stats()
        with pytest.raises((AllEndpointsFailed, HttpError)):
            manager.call_with_retry(work, deadline=0.5)
    told = f"{manager.get_stats()} {manager.endpoints} {caplog.text}"
    manager.close()
    assert KEY not in told
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    holders = [path.name for path in files if KEY.encode() in path.read_bytes()]
    assert any(path.name.startswith("cloud.db") for path in files)
    assert holders == ["keys.json"]
