"""Handlers of your own: `heablcoin-cloud --handlers examples/handlers.py` runs tasks with these names.

A handler takes the task's payload, or the payload and a context, and returns JSON. It may be `def` or `async def`.
"""

import asyncio
import statistics

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.task_context import TaskContext
from core.errors import Permanent, RetryLater
from core.json_types import Json, JsonObject


def market_analysis(payload: JsonObject) -> Json:
    """`{"symbol": "BTC/USDT", "closes": [..]}` -> mean and spread. Plain functions run in a thread."""
    closes = payload.get("closes")
    if not isinstance(closes, list) or not closes:
        raise Permanent("market_analysis needs closes.", 'publish it with {"symbol": "BTC/USDT", "closes": [1, 2]}.')
    numbers = [float(close) for close in closes if isinstance(close, (int, float))]
    return {"symbol": payload.get("symbol"), "mean": statistics.fmean(numbers), "spread": max(numbers) - min(numbers)}


async def watch_price(payload: JsonObject, context: TaskContext) -> Json:
    """Async handlers are stopped at once by a timeout or a cancellation, and may report progress."""
    for step in range(10):
        context.progress(step / 10, f"look {step + 1} of 10")
        await asyncio.sleep(0.1)
    if context.attempt == 1 and payload.get("flaky"):
        raise RetryLater(1.0, "The exchange asked to come back in a second.")
    return {"looked": 10, "built_on": list[Json](sorted(context.results))}


def backtest(payload: JsonObject) -> Json:
    """Long computations belong in a process of their own: it can be killed at the timeout, and blocks nothing."""
    rounds = payload.get("rounds", 1_000_000)
    total = sum(number * number % 7 for number in range(int(rounds) if isinstance(rounds, (int, float)) else 0))
    return {"total": total}


def register(publisher: EnhancedCloudTaskPublisher) -> None:
    """Called once when the file is loaded."""
    publisher.register_handler("market_analysis", market_analysis)
    publisher.register_handler("watch_price", watch_price, timeout=60.0)
    publisher.register_handler("backtest", backtest, isolation="process", timeout=300.0)
