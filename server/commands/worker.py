"""`heablcoin-cloud worker`: run queued tasks without a client."""

import sys
from typing import NoReturn

from core.network import check_proxies
from server import logs
from server.configured_runtime import add_handlers, open_runtime
from server.serving.lifecycle import Life, until_ended
from server.settings import load_settings


def work(database: str | None, handlers: str | None) -> NoReturn:
    """Run tasks until a signal ends it."""
    settings = load_settings(database=database, handlers=handlers)
    logs.configure(settings.log_level)
    check_proxies()
    runtime = open_runtime(settings)
    life = Life(runtime)
    add_handlers(runtime, settings, failed=lambda: life.leave(1))
    if sys.stderr.isatty():
        print("Running tasks. Press Ctrl-C to leave.", file=sys.stderr)  # noqa: T201 - for the person at the terminal
    life.run(until_ended, linger=0.0, watch_parent=False)
