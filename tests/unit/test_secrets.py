"""Keys: where they are kept, who may have them, what happens when a place fails."""

import logging
import os
import stat
import threading
from pathlib import Path

import pytest
from keyring.backend import KeyringBackend

from core.cloud.keys.os_keyring import KeyStoreError, OsKeyring
from core.cloud.keys.secrets import KeyStore
from core.errors import InvalidArgument

KEY = "sk-canary-0123456789abcdef"
URL = "https://api.example.com/v1"

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


class MemoryKeyring(KeyringBackend):
    """A keyring as an operating system would have one."""

    priority = 5  # type: ignore[assignment]

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.secrets: dict[tuple[str, str], str] = {}
        self.broken = broken

    def _check(self) -> None:
        if self.broken:
            raise OSError("the collection is locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.secrets.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.secrets[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        del self.secrets[service, username]


def key_file(directory: Path) -> Path:
    return directory / "keys.json"


def test_a_key_is_not_given_for_another_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore("file", directory=tmp_path)
    store.set("main", URL, KEY)
    with caplog.at_level(logging.DEBUG):
        assert store.get("main", "https://evil.example/v1") == ""
    assert "https://api.example.com" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    "other", ["http://api.example.com/v1", "https://api.example.com:8443/v1", "https://api.example.com.evil.example/v1"]
)
def test_a_key_is_not_given_for_another_scheme_port_or_longer_name(tmp_path: Path, other: str) -> None:
    store = KeyStore("file", directory=tmp_path)
    store.set("main", URL, KEY)
    assert store.get("main", other) == ""


def test_a_key_is_given_for_another_path_of_the_same_origin(tmp_path: Path) -> None:
    store = KeyStore("file", directory=tmp_path)
    store.set("main", URL, KEY)
    assert store.get("main", "https://API.example.com:443/v2?x=1") == KEY


def test_a_key_outlives_the_process_and_reaches_its_twin(tmp_path: Path) -> None:
    first, twin = KeyStore("file", directory=tmp_path), KeyStore("file", directory=tmp_path)
    assert twin.get("main", URL) == ""
    first.set("main", URL, KEY)
    assert twin.get("main", URL) == KEY
    first.set("main", URL, KEY + "-new")
    assert twin.get("main", URL) == KEY + "-new"
    assert first.delete("main")
    assert twin.get("main", URL) == ""
    assert not twin.delete("main")


@posix_only
def test_the_key_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "config"
    KeyStore("file", directory=directory).set("main", URL, KEY)
    assert stat.S_IMODE(key_file(directory).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@posix_only
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    KeyStore("file", directory=tmp_path).set("main", URL, KEY)
    key_file(tmp_path).chmod(mode)
    store = KeyStore("file", directory=tmp_path)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        store.get("main", URL)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        store.set("other", URL, KEY)


@posix_only
def test_a_key_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyStore("file", directory=tmp_path).set("main", URL, KEY)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(KeyStoreError, match="another user"):
        KeyStore("file", directory=tmp_path).get("main", URL)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"keys": {}}', '{"version": 1, "keys": {"a": "b"}}', '{"version": 2, "keys": {}}']
)
def test_a_damaged_key_file_is_an_error_and_is_never_overwritten(tmp_path: Path, text: str) -> None:
    path = key_file(tmp_path)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    store = KeyStore("file", directory=tmp_path)
    with pytest.raises(KeyStoreError):
        store.set("main", URL, KEY)
    assert path.read_text(encoding="utf-8") == text


@posix_only
def test_permissions_widened_while_a_process_runs_are_noticed_at_the_next_key(tmp_path: Path) -> None:
    store = KeyStore("file", directory=tmp_path)
    store.set("main", URL, KEY)
    assert store.get("main", URL) == KEY
    key_file(tmp_path).chmod(0o644)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        store.get("main", URL)


def test_a_failed_write_leaves_the_old_keys_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = KeyStore("file", directory=tmp_path)
    store.set("main", URL, KEY)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyStoreError, match="No space left"):
        store.set("main", URL, KEY + "-new")
    assert KeyStore("file", directory=tmp_path).get("main", URL) == KEY
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["keys.json", "keys.json.lock"]


def test_many_stores_that_set_keys_at_once_lose_none(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def add(number: int) -> None:
        store = KeyStore("file", directory=tmp_path)
        start.wait(10)
        for turn in range(5):
            store.set(f"e{number}-{turn}", URL, f"{KEY}-{number}-{turn}")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(KeyStore("file", directory=tmp_path).names()) == 40


def test_process_mode_writes_nothing(tmp_path: Path) -> None:
    store = KeyStore("process", directory=tmp_path / "config")
    assert store.set("main", URL, KEY) == "process"
    assert store.get("main", URL) == KEY
    assert store.names() == {"main": "https://api.example.com"}
    assert not (tmp_path / "config").exists()
    assert store.delete("main")
    assert store.get("main", URL) == ""


def test_a_real_keyring_is_preferred_and_the_index_holds_no_key(tmp_path: Path) -> None:
    backend = MemoryKeyring()
    store = KeyStore(directory=tmp_path, keyring=OsKeyring(backend))
    assert store.set("main", URL, KEY) == "keyring"
    assert KEY not in key_file(tmp_path).read_text(encoding="utf-8")
    twin = KeyStore(directory=tmp_path, keyring=OsKeyring(backend))
    assert twin.get("main", URL) == KEY
    assert twin.names() == {"main": "https://api.example.com"}
    store.set("main", URL, KEY + "-new")
    assert twin.get("main", URL) == KEY + "-new"
    assert twin.delete("main")
    assert backend.secrets == {}


def test_editing_the_index_cannot_bind_a_keyring_key_to_another_host(tmp_path: Path) -> None:
    backend = MemoryKeyring()
    KeyStore(directory=tmp_path, keyring=OsKeyring(backend)).set("main", URL, KEY)
    path = key_file(tmp_path)
    text = path.read_text(encoding="utf-8").replace("https://api.example.com", "https://evil.example")
    path.write_text(text, encoding="utf-8")
    store = KeyStore(directory=tmp_path, keyring=OsKeyring(backend))
    assert store.get("main", "https://evil.example/v1") == ""


def test_without_a_real_keyring_the_file_is_used(tmp_path: Path) -> None:
    store = KeyStore(directory=tmp_path)
    assert store.set("main", URL, KEY) == "file"
    assert store.where() == "file"


def test_a_locked_keyring_falls_back_to_the_file_unless_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keyring = OsKeyring(MemoryKeyring(broken=True))
    with caplog.at_level(logging.WARNING):
        assert KeyStore(directory=tmp_path / "a", keyring=keyring).set("main", URL, KEY) == "file"
    assert "key file instead" in caplog.text
    strict = KeyStore("keyring", directory=tmp_path / "b", keyring=keyring)
    with pytest.raises(KeyStoreError, match="HEABLCOIN_CLOUD_KEYS=file"):
        strict.set("main", URL, KEY)
    assert strict.names() == {}


def test_keyring_mode_without_a_keyring_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="HEABLCOIN_CLOUD_KEYS=file"):
        KeyStore("keyring", directory=tmp_path).set("main", URL, KEY)


def test_a_key_that_moves_from_keyring_to_file_is_removed_from_the_keyring(tmp_path: Path) -> None:
    backend = MemoryKeyring()
    KeyStore(directory=tmp_path, keyring=OsKeyring(backend)).set("main", URL, KEY)
    moved = KeyStore("file", directory=tmp_path, keyring=OsKeyring(backend))
    moved.set("main", URL, KEY + "-new")
    assert backend.secrets == {}
    assert moved.get("main", URL) == KEY + "-new"


@pytest.mark.parametrize("key", ["", "  ", "two\nlines", "schlüssel-0123456", "a" * 9000, "nul\x00byte"])
def test_what_cannot_be_a_key_is_refused_without_being_repeated(tmp_path: Path, key: str) -> None:
    store = KeyStore("file", directory=tmp_path)
    with pytest.raises(InvalidArgument) as caught:
        store.set("main", URL, key)
    assert not key.strip() or key not in str(caught.value)
    assert store.names() == {}


def test_an_unknown_place_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="auto, keyring, file, process"):
        KeyStore("disk")  # type: ignore[arg-type]


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    store = KeyStore("process")
    store.set("main", URL, KEY)
    assert KEY not in repr(store)
    assert KEY not in repr(vars(store))
