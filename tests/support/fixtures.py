"""Fixtures every test may use."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.llm_server import LlmServer

HOME_VARIABLES = {
    "HOME": "home",
    "USERPROFILE": "home",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_RUNTIME_DIR": "runtime",
    "APPDATA": "config",
    "LOCALAPPDATA": "data",
}
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's keys, settings, proxies or files, or leaves any of its own."""
    for name in list(os.environ):
        upper = name.upper()
        ours = upper.startswith("HEABLCOIN_CLOUD_")
        if ours or upper.endswith(("_API_KEY", "_BASE_URL", "_MODEL")) or upper in PROXY_VARIABLES:
            monkeypatch.delenv(name)
    for name, folder in HOME_VARIABLES.items():
        path = tmp_path / ".environment" / folder
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv("HEABLCOIN_CLOUD_DATABASE", str(tmp_path / ".environment" / "data" / "cloud.db"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a command under test sets up for a whole process ends with its test."""
    loggers = [logging.getLogger(name) for name in (None, "core", "server", "utils")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def llm_server() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server
