"""Where API keys given to this installation live, and to whom each may be sent.

    keyring   the operating system's own store (default where there is a real one)
    file      keys.json in the configuration directory, readable by its owner alone (default elsewhere)
    process   this process's memory; nothing is written

A key is bound to the origin (scheme, host, port) of the base URL it was added for and is given for no other, so a changed
base URL cannot carry it away. keys.json is also the index of what the keyring holds, without the keys themselves.
"""

import json
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from core.cloud.keys.key_file import KeyFile
from core.cloud.keys.key_text import check_key
from core.cloud.keys.os_keyring import KeyStoreError, OsKeyring
from core.errors import InvalidArgument, UrlRefused
from core.fork import ForkAware, tell_of_forks
from core.json_types import Json
from core.network import parse_url
from core.paths import config_dir
from core.redaction import KNOWN_SECRETS

log = logging.getLogger(__name__)

KeysMode = Literal["auto", "keyring", "file", "process"]

KEYS_ENV = "HEABLCOIN_CLOUD_KEYS"
FILE_NAME = "keys.json"


@dataclass(frozen=True, slots=True)
class _Held:
    """A key as this process knows it."""

    origin: str
    key: str = field(repr=False)
    stamp: str
    """Drawn anew at each change, so that other processes see theirs is old."""


class KeyStore(ForkAware):
    """The keys of this installation, by endpoint name. Thread-safe, and safe to share by processes.

    `auto` is the keyring where the operating system has a real one, else the file. Methods may raise KeyStoreError.
    """

    def __init__(
        self, mode: KeysMode = "auto", *, directory: Path | None = None, keyring: OsKeyring | None = None
    ) -> None:
        if mode not in get_args(KeysMode):
            raise InvalidArgument(
                f"{KEYS_ENV} is {str(mode)[:20]!r}.", f"set it to one of: {', '.join(get_args(KeysMode))}."
            )
        self._mode: KeysMode = mode
        self._directory = directory
        self._keyring = keyring or OsKeyring()
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._opened: KeyFile | None = None
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()

    def get(self, name: str, base_url: str) -> str:
        """The key added for `name` and the origin of `base_url`; '' when there is none, or it is bound to another."""
        held = self._find(name)
        if held is None:
            return ""
        origin = origin_of(base_url)
        if held.origin != origin:
            log.warning("the key of %s was added for %s and is not given for %s", name, held.origin, origin)
            return ""
        KNOWN_SECRETS.add(held.key)
        return held.key

    def set(self, name: str, base_url: str, key: str) -> str:
        """Keep `key` for `name`, bound to the origin of `base_url`; replaces an earlier one. Returns where it is kept.

        Raises InvalidArgument when the key or URL cannot be one.
        """
        key = check_key(key)
        held = _Held(origin_of(base_url), key, secrets.token_hex(8))
        KNOWN_SECRETS.add(key)
        with self._lock:
            place = self._place()
            if place == "process":
                self._held[name] = held
                return place
            with self._file.change() as entries:
                before = entries.get(name)
                if place == "keyring":
                    place = self._put_in_keyring(name, held)
                entries[name] = {"origin": held.origin, "stamp": held.stamp, "in": place}
                if place == "file":
                    entries[name]["key"] = key
                    self._drop_from_keyring(name, before)
            self._held[name] = held
        log.info("the key of %s for %s is kept in the %s", name, held.origin, place)
        return place

    def delete(self, name: str) -> bool:
        """Forget the key of `name` wherever it is; False when there was none."""
        with self._lock:
            known = self._held.pop(name, None) is not None
            if self._mode == "process":
                return known
            if name not in self._file.entries():
                return False
            with self._file.change() as entries:
                before = entries.pop(name, None)
                self._drop_from_keyring(name, before)
            return before is not None

    def names(self) -> dict[str, str]:
        """Endpoint names that have a key, each with the origin it is bound to."""
        with self._lock:
            if self._mode == "process":
                return {name: held.origin for name, held in self._held.items()}
            return {name: entry.get("origin", "") for name, entry in self._file.entries().items()}

    def where(self) -> str:
        """Where a key set now would be kept: keyring, file or process."""
        return self._place()

    def __repr__(self) -> str:
        return f"<KeyStore {self._mode}>"

    @property
    def _file(self) -> KeyFile:
        if self._opened is None:
            self._opened = KeyFile((self._directory or config_dir()) / FILE_NAME)
        return self._opened

    def _find(self, name: str) -> _Held | None:
        with self._lock:
            held = self._held.get(name)
            if self._mode == "process":
                return held
            entry = self._file.find(name)
            if entry is None:
                self._held.pop(name, None)
                return None
            if held is None or held.stamp != entry.get("stamp"):
                held = self._read(name, entry)
                if held is not None:
                    self._held[name] = held
            return held

    def _read(self, name: str, entry: Mapping[str, str]) -> _Held | None:
        if entry.get("in") != "keyring":
            return _Held(entry.get("origin", ""), entry.get("key", ""), entry.get("stamp", ""))
        found = self._keyring.get(name)
        try:
            value: Json = json.loads(found) if found else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            return None
        # The origin beside the key counts, not the index: who can write the file cannot send the key elsewhere.
        return _Held(str(value.get("origin", "")), str(value.get("key", "")), entry.get("stamp", ""))

    def _place(self) -> Literal["keyring", "file", "process"]:
        if self._mode == "auto":
            return "keyring" if self._keyring.available() else "file"
        return self._mode

    def _put_in_keyring(self, name: str, held: _Held) -> Literal["keyring", "file"]:
        try:
            self._keyring.set(name, json.dumps({"origin": held.origin, "key": held.key}))
            return "keyring"
        except KeyStoreError:
            if self._mode == "keyring":
                raise
            log.warning("the keyring took no key; it is kept in the key file instead")
            return "file"

    def _drop_from_keyring(self, name: str, before: Mapping[str, str] | None) -> None:
        if before is not None and before.get("in") == "keyring":
            self._keyring.delete(name)


@lru_cache(maxsize=256)
def origin_of(base_url: str) -> str:
    """What a key for `base_url` is bound to, such as `https://api.openai.com`. Raises InvalidArgument."""
    try:
        return parse_url(base_url).origin
    except UrlRefused as error:
        raise InvalidArgument(error.message, error.fix) from None
