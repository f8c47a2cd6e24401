"""An event loop in a daemon thread, for sync code that calls async code."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from core.errors import HeablcoinError

R = TypeVar("R")


class Portal:
    """Runs coroutines for callers in other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pool-portal", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R], seconds: float) -> R:
        """The coroutine's result; a caller that is interrupted cancels it.

        Raises HeablcoinError when it is not over after `seconds`, whatever it says about its own deadline: the loop may be stuck.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            over = future.done()
            future.cancel()
            if over:
                raise
            raise HeablcoinError(
                f"The pool's event loop gave no answer within {seconds:.1f} s.",
                "something blocks it: look for functions that wait without `await`, such as in a provider of your own.",
            ) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()
