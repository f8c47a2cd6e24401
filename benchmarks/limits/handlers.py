"""A task without limits that notes when it began; also a handlers file for the server."""

import time
from typing import Any

from benchmarks.queue import records
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher

UNLIMITED = "noop"


async def noop(payload: Any) -> None:
    records.write(int(payload["i"]), time.monotonic_ns())


def register(publisher: EnhancedCloudTaskPublisher) -> None:
    publisher.register_handler(UNLIMITED, noop)
