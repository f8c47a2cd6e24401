"""Everything one process needs, wired once: store, pool, publisher, scheduler, runner, upkeep."""

import logging
import os
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from core.clock import Clock, SystemClock
from core.cloud.api_manager import ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.ai_call import register_ai_call
from core.cloud.handlers.builtin import builtin_handlers
from core.cloud.handlers.files import load_handlers
from core.cloud.keys.secrets import KeyStore
from core.cloud.pool.discovery import discover
from core.cloud.running.maintenance import Maintenance, Schedules, standard_duties
from core.cloud.running.runner import TaskRunner, new_worker_id
from core.cloud.running.wakeup import WakeUp
from core.cloud.scheduler import CloudScheduler
from core.cloud.store import open_store
from core.cloud.store.sqlite import SqliteStore
from core.network import UrlPolicy

log = logging.getLogger(__name__)

KeysMode = Literal["auto", "keyring", "file", "process"]


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What a process may choose about its runtime; `server.settings` reads these from the environment."""

    database: str | None = None
    """A path or `:memory:`; None is the one every process of this user shares."""
    handlers: str | None = None
    """A `.py` file or module whose `register(publisher)` adds the user's own handlers."""
    concurrency: int = 10
    """Tasks run at once; 0 runs none in this process, which still hears of changes and offers to do the upkeep."""
    lease: float = 30.0
    """Seconds after which the tasks of a process that died are given back."""
    ageing: float = 0.0
    """Seconds of waiting that count as much as one step of priority; 0: priority first, however long the others wait."""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    retention_days: float = 30.0
    """Finished tasks are removed after this; 0 keeps them for ever."""
    allow_hosts: Sequence[str] = ()
    """Private hosts that may be called all the same: host, host:port or network."""
    keys: KeysMode = "auto"
    """Where API keys given to the pool are kept."""
    when_limited: Literal["next", "wait"] = "next"
    """What calls of the pool do that do not say: ask the next endpoint when a limit is used up, or wait for the best ones."""
    max_per_minute: int = 0
    """Requests of the whole pool in any 60 s, over all processes that set it; 0 for no limit."""
    http_max_per_minute: int | None = None
    """`http_request` tasks that start in any 60 s for each host, over all processes; 0 for no limit, None for what another said."""
    endpoints_from_env: bool = False
    """Add an endpoint for each known `*_API_KEY` in the environment."""


class Runtime:
    """The parts of one process. `start` begins to run tasks, `stop` gives back what is unfinished; both may be repeated."""

    def __init__(
        self,
        options: RuntimeOptions,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Open the store and wire the parts. Raises StoreError, and InvalidArgument for unusable options."""
        self.options = options
        self.clock: Clock = clock or SystemClock()
        self.worker_id = new_worker_id()
        self.url_policy = UrlPolicy.parse(",".join(options.allow_hosts))
        self.store: SqliteStore = open_store(options.database, synchronous=options.synchronous)
        try:
            self._wire(rng or random.Random(), os.environ if environ is None else environ)
        except BaseException:
            self.store.close()
            raise
        self._lock = threading.Lock()
        self._stopped = False

    @classmethod
    def open(cls, options: RuntimeOptions | None = None) -> Self:
        """A runtime with the machine's own clock, not yet started."""
        return cls(options or RuntimeOptions())

    def _wire(self, rng: random.Random, environ: Mapping[str, str]) -> None:
        options = self.options
        self.wakeup = WakeUp(self.store.workers, clock=self.clock)
        self.keys = KeyStore(options.keys)
        self.manager = ApiManager(
            store=self.store.pool,
            clock=self.clock,
            rng=rng,
            url_policy=self.url_policy,
            keys=self.keys,
            when_limited=options.when_limited,
            max_per_minute=options.max_per_minute,
        )
        if options.endpoints_from_env:
            for endpoint in discover(environ):
                self.manager.add_endpoint(endpoint)
        self.handlers = builtin_handlers(self.url_policy, options.http_max_per_minute)
        register_ai_call(self.handlers, self.manager)
        self.publisher = EnhancedCloudTaskPublisher(
            store=self.store, clock=self.clock, handlers=self.handlers, wakeup=self.wakeup
        )
        if options.handlers:
            load_handlers(options.handlers, self.publisher, self.manager)
        self.scheduler = CloudScheduler(self.publisher, clock=self.clock)
        duties = standard_duties(
            self.store.tasks, retention_days=options.retention_days or None, clock=self.clock, lease=options.lease
        )
        self._maintenance = Maintenance(
            self.store,
            [*duties, Schedules(self.scheduler)],
            worker=self.worker_id,
            wakeup=self.wakeup,
            clock=self.clock,
        )
        self.runner = TaskRunner(
            self.store,
            self.handlers,
            wakeup=self.wakeup,
            concurrency=options.concurrency,
            lease=options.lease,
            ageing=options.ageing or None,
            maintenance=self._maintenance,
            clock=self.clock,
            rng=rng,
            worker_id=self.worker_id,
        )

    def start(self) -> None:
        """Listen for wake-ups, offer to do the upkeep, and run tasks."""
        self.runner.start()
        self._maintenance.start()

    def stop(self, grace: float = 2.5) -> None:
        """Stop claiming, give running tasks `grace` seconds, give back the rest, close everything."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self._maintenance.stop()
        self.runner.stop(grace)
        self.manager.close()
        self.wakeup.close()
        self.store.close()
