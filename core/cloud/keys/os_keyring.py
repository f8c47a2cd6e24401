"""The operating system's keyring, as little of it as is needed. Imported when first used: it costs a quarter second."""

import logging
from typing import TYPE_CHECKING

from core.errors import HeablcoinError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

log = logging.getLogger(__name__)

SERVICE = "heablcoin-cloud"
LEAST_PRIORITY = 1
"""What the keyring library itself recommends; below are plain-text files and the stand-ins for no keyring at all."""


class KeyStoreError(HeablcoinError):
    """Keys could not be read or written; none was lost."""


class OsKeyring:
    """Secrets by name under one service. Every failure of a backend is a KeyStoreError."""

    def __init__(self, backend: "KeyringBackend | None" = None) -> None:
        self._backend = backend
        self._looked = backend is not None

    def available(self) -> bool:
        """True when there is a backend that really keeps secrets."""
        return self._find() is not None

    def get(self, name: str) -> str | None:
        backend = self._required()
        try:
            return backend.get_password(SERVICE, name)
        except Exception as error:  # noqa: BLE001  # backends raise whatever D-Bus or the platform raises
            raise _failed("read", error) from None

    def set(self, name: str, secret: str) -> None:
        backend = self._required()
        try:
            backend.set_password(SERVICE, name, secret)
        except Exception as error:  # noqa: BLE001
            raise _failed("written", error) from None

    def delete(self, name: str) -> None:
        """Remove the secret if it is there."""
        backend = self._find()
        if backend is None:
            return
        try:
            backend.delete_password(SERVICE, name)
        except Exception as error:  # noqa: BLE001
            log.debug("the keyring did not delete an entry (%s)", type(error).__name__)

    def _required(self) -> "KeyringBackend":
        backend = self._find()
        if backend is None:
            raise KeyStoreError(
                "This system has no keyring that can be used.",
                "set HEABLCOIN_CLOUD_KEYS=file, or install and unlock a keyring (GNOME Keyring, KWallet).",
            )
        return backend

    def _find(self) -> "KeyringBackend | None":
        if not self._looked:
            self._looked = True
            try:
                import keyring

                found = keyring.get_keyring()
                self._backend = found if found.priority >= LEAST_PRIORITY else None
            except Exception as error:  # noqa: BLE001
                log.debug("no keyring here (%s)", type(error).__name__)
        return self._backend


def _failed(what: str, error: Exception) -> KeyStoreError:
    return KeyStoreError(
        f"The operating system's keyring could not be {what} ({type(error).__name__}).",
        "unlock it and try again, or set HEABLCOIN_CLOUD_KEYS=file.",
    )
