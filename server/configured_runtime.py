"""The runtime of this process as the settings describe it. Knows nothing of MCP: a worker starts without it."""

from collections.abc import Callable

from core.runtime import Runtime, RuntimeOptions
from server.handlers_file import HandlersFile
from server.settings import Settings


def open_runtime(settings: Settings) -> Runtime:
    """The runtime that these settings describe, not yet started and without the user's handlers."""
    return Runtime.open(
        RuntimeOptions(
            database=settings.database or None,
            concurrency=settings.concurrency,
            lease=settings.lease,
            synchronous=settings.synchronous,
            ageing=settings.ageing,
            retention_days=settings.retention_days,
            allow_hosts=settings.allow_hosts,
            keys=settings.keys,
            when_limited=settings.when_limited,
            max_per_minute=settings.max_per_minute,
            http_max_per_minute=settings.http_max_per_minute,
            endpoints_from_env=settings.endpoints_from_env,
        )
    )


def add_handlers(runtime: Runtime, settings: Settings, failed: Callable[[], object] | None = None) -> None:
    """Load the user's handlers. Raises InvalidArgument that says what is wrong with the file, if that shows soon."""
    if settings.handlers:
        try:
            HandlersFile(runtime, settings.handlers, failed).start()
        except BaseException:
            runtime.stop(0.0)
            raise
