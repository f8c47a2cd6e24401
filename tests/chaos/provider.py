"""The provider of the run's `ai_call`s: a real server on loopback, the limits of its endpoints, and what it saw of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.pool.rate_limit import MARGIN
from core.cloud.store.sqlite import SqliteStore
from core.network import UrlPolicy
from tests.support.llm_server import LlmServer, Step

HERE = UrlPolicy.parse("127.0.0.1")
ANSWERS_IN = 0.1
"""Seconds."""
TIMEOUT = 5.0
"""Seconds: long enough for a machine that is busy starting processes, so that a call that fails has failed for something else."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the endpoints allow."""

    minute: float = 2.0
    """Seconds of a window as the server counts; the pool's are longer by its margin."""
    each_minute: int = 25
    at_once: int = 12

    @property
    def window(self) -> float:
        return self.minute + MARGIN


@dataclass(frozen=True, slots=True)
class Seen:
    """What came to the server."""

    requests: int
    passed: int
    """Requests beyond a limit."""
    most: dict[str, str]
    """The most at one endpoint within a window, or at one time, of what it allows."""


class Provider:
    """`first` and `second` allow so many requests in each window, `few` so many at one time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._server = LlmServer()

    def start(self) -> None:
        self._server.start()
        for name in ("first", "second", "few"):
            self._server.script(name, Step(delay=ANSWERS_IN))

    def stop(self) -> None:
        self._server.stop()

    def add_to(self, store: SqliteStore) -> None:
        """Have the pool on `store` know the endpoints."""
        manager = pool(store, self.limits.window)
        rates = {"max_requests_per_minute": self.limits.each_minute}
        for name, priority, settings in (
            ("first", 1, rates),
            ("second", 2, rates),
            ("few", 3, {"max_requests_per_minute": 0, "max_concurrency": self.limits.at_once}),
        ):
            url = self._server.base_url(name)
            manager.add_endpoint(ApiEndpoint(name, url, "", "m", priority, timeout=TIMEOUT, **settings))
        manager.close()

    def prompts(self) -> set[str]:
        """What was asked."""
        return {arrival.body["messages"][-1]["content"] for arrival in self._server.arrivals()}

    def seen(self) -> Seen:
        limits, moments = self.limits, {name: [] for name in ("first", "second", "few")}
        for arrival in self._server.arrivals():
            moments[arrival.backend].append(arrival.at)
        counted = {
            "first": (most_within(moments["first"], limits.minute), limits.each_minute),
            "second": (most_within(moments["second"], limits.minute), limits.each_minute),
            "few": (most_within(moments["few"], ANSWERS_IN), limits.at_once),
        }
        return Seen(
            sum(map(len, moments.values())),
            sum(max(0, most - limit) for most, limit in counted.values()),
            {name: f"{most} of {limit}" for name, (most, limit) in counted.items()},
        )


def pool(store: SqliteStore, window: float) -> ApiManager:
    """A process's pool on `store`, whose minutes last `window` seconds."""
    store.pool.window = window
    return ApiManager(store.pool, url_policy=HERE)


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most of `moments` that lie within any `seconds`."""
    ordered, most, first = sorted(moments), 0, 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
