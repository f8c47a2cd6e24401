"""One of several processes that share a limit: `python -m benchmarks.pool.limited DATABASE URL SECONDS CALLERS`."""

import asyncio
import sys
import time

from benchmarks.pool.callers import Pooled, Target
from core.cloud.store import open_store
from core.errors import AllEndpointsFailed


async def main() -> None:
    database, url, seconds, callers = sys.argv[1:5]
    store = open_store(database)
    pooled = Pooled([Target("only", url, per_minute=60)], store=store.pool, attempts=1)
    ends = time.monotonic() + float(seconds)

    async def ask() -> None:
        while (left := ends - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(pooled.call(), left)
            except (AllEndpointsFailed, TimeoutError):
                await asyncio.sleep(0.1)

    await asyncio.gather(*(ask() for _ in range(int(callers))))
    await pooled.close()
    store.close()


if __name__ == "__main__":
    asyncio.run(main())
