"""What every test gets; see tests/support/fixtures.py."""

from tests.support.fixtures import anyio_backend, llm_server, own_environment, own_logging

__all__ = ["anyio_backend", "llm_server", "own_environment", "own_logging"]
