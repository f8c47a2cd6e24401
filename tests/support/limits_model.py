"""What the documents promise of limits, reckoned the dullest way: lists of what started, looked through for every question.

It is told what is claimed, admitted, sent and ended, and by whom; it knows nothing of rings, gates, pool state or SQL.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from core.clock import ManualClock
from core.cloud.api_manager import ApiEndpoint
from core.cloud.pool.pool_state import PROBE_GRACE
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.tally import day_of

UNCERTAIN = 2 * WINDOW + 10.0
"""Seconds in which starts may count for longer than they should, once somebody asks after the clock was put back: from then on
those that lie in the future count as having happened at that moment."""
ROUNDING = 1e-4
"""Seconds by which the two readings of the clock drift apart in a walk: each step is added to numbers of different size."""
UNNOTICED = 1.6
"""Seconds within which every process knows what another one changed."""
FAULTS = frozenset({"500", "401", "timeout"})
FOREVER = float("inf")


@dataclass(eq=False)
class Start:
    """A slot that was taken for a request."""

    endpoint: str
    process: str
    token: int
    at: float
    """By the wall clock, as the processes agree on it."""
    monotonic: float
    day: int
    era: int
    """Grows when the wall clock jumps ahead: what was before looks long ago then."""
    in_window: bool
    in_pool: bool
    in_flight: bool
    """The endpoint had a limit of this kind when it was taken."""
    expires: float
    """Monotonic: when it counts as lost, should its process be."""
    attempt: tuple[str, int] | None = None
    sent: bool = False
    over: bool = False
    written: bool = False
    """The others can know that it is over."""
    asked_until: float = 0.0
    """Monotonic: so long its server asked to be left alone."""
    asked_at: float = 0.0
    """Monotonic: when it did."""
    answered: bool = False
    current: bool = True
    """The endpoint's settings and the clock are still those of its beginning, and its process knew them."""
    free: bool = False
    """It was given back: all is as if it had not been taken."""
    freed_at: float = -FOREVER
    freed_by: str = ""


@dataclass(eq=False)
class Tried:
    """An attempt at a task: what was sent for it, and what came of that."""

    process: str
    sent: int = 0
    ends: list[str] = field(default_factory=list)
    lost: bool = False
    """Its process is gone."""

    @property
    def met_a_fault(self) -> bool:
        return bool(FAULTS & set(self.ends))


class LimitsModel:
    def __init__(self, clock: ManualClock, pool_limit: int) -> None:
        self.clock, self.pool_limit = clock, pool_limit
        self.era = 0
        self.put_back_at = -FOREVER
        """Monotonic: when the wall clock was last put back."""
        self._wanted: dict[str, float] = {}
        """Monotonic: since when somebody asks for an endpoint, after the clock was put back."""
        self.uncounted: set[str] = set()
        """Endpoints that were removed, or of which a process that died had ends to write: their totals are not known."""
        self.starts: list[Start] = []
        self.tried: dict[tuple[str, int], Tried] = {}
        self.settings: dict[str, ApiEndpoint] = {}
        self._closed: dict[str, tuple[float, float, float]] = {}
        """Monotonic: until when servers asked to be left alone, since when all can know, and when it was said."""
        self._changed_at: dict[str, float] = {}
        self._past: list[tuple[float, ApiEndpoint]] = []
        """Settings that held until then (monotonic)."""

    # What happens

    def changes(self, name: str, endpoint: ApiEndpoint | None) -> None:
        if name in self.settings:
            self._past.append((self.clock.monotonic(), self.settings.pop(name)))
        self._closed.pop(name, None)
        self._changed_at[name] = self.clock.monotonic()
        for start in self.starts:
            start.current = start.current and start.endpoint != name
        if endpoint is not None:
            self.settings[name] = endpoint
        else:
            self.uncounted.add(name)

    def clock_jumps(self, seconds: float) -> None:
        now = self.clock.now()
        self._closed = {}
        for start in self.starts:
            start.current = False
        if seconds > 0:
            self.era += 1
        else:
            self.put_back_at = self.clock.monotonic()
            self._wanted = {}
            for start in self.starts:
                start.at = min(start.at, now)

    def sleeps(self, seconds: float) -> None:
        """Nobody moves for so long: what was under way looks lost to whoever wakes first."""
        self.era += 1
        self._wanted = {name: since + seconds for name, since in self._wanted.items()}

    def wants(self, names: Iterable[str]) -> None:
        """Tasks are waiting for these endpoints."""
        for name in names:
            self._wanted.setdefault(name, self.clock.monotonic())

    def certain(self, name: str) -> bool:
        """Whether it is known when the starts that count happened."""
        since = self._wanted.get(name, FOREVER)
        return self.put_back_at == -FOREVER or self.clock.monotonic() >= since + UNCERTAIN

    def takes(self, process: str, endpoint: ApiEndpoint, token: int, attempt: tuple[str, int] | None = None) -> Start:
        """A slot is taken: with a claim, or by a call that is under way."""
        monotonic, now = self.clock.monotonic(), self.clock.now()
        start = Start(
            endpoint.name,
            process,
            token,
            now,
            monotonic,
            day_of(now),
            self.era,
            endpoint.max_requests_per_minute > 0,
            self.pool_limit > 0,
            endpoint.max_concurrency > 0,
            monotonic + endpoint.timeout + PROBE_GRACE,
            attempt,
            current=self._changed_at.get(endpoint.name, -FOREVER) < monotonic - UNNOTICED,
        )
        self.within_the_days_budget(start)
        self.leaves_alone_who_asks_for_it(start)
        self.starts.append(start)
        return start

    def sends(self, start: Start) -> None:
        """Its request leaves."""
        assert not start.free and not start.sent, "a request left in a slot that was given back, or twice in one"
        start.sent = True
        self.within_the_window(start)
        self.within_the_concurrency(start)

    def gives_back(self, start: Start) -> None:
        start.free, start.freed_at, start.freed_by = True, self.clock.monotonic(), start.process

    def writes(self, process: str) -> None:
        """What ended in a process is in the database now."""
        for start in self.starts:
            if start.over and start.process == process and not start.written:
                start.written = True
                until, _, said = self._closed.get(start.endpoint, (0.0, 0.0, 0.0))
                if start.asked_until > 0.0 and start.current:
                    latest = max(start.asked_until, until), max(start.asked_at, said)
                    self._closed[start.endpoint] = latest[0], self.clock.monotonic(), latest[1]

    def dies(self, process: str) -> None:
        self.uncounted |= {each.endpoint for each in self.starts if each.process == process and not each.written}
        for tried in self.tried.values():
            tried.lost = tried.lost or tried.process == process

    # What must hold when a request leaves

    def in_force(self, name: str) -> list[ApiEndpoint]:
        """Settings that a process may go by now."""
        since = self.clock.monotonic() - UNNOTICED
        past = [endpoint for until, endpoint in self._past if until >= since and endpoint.name == name]
        return [*past, *([self.settings[name]] if name in self.settings else [])]

    def all_know_the_settings(self) -> bool:
        since = self.clock.monotonic() - UNNOTICED
        return all(until < since for until, _ in self._past)

    def _allowed(self, name: str, limit: str) -> float:
        return max((getattr(each, limit) or FOREVER for each in self.in_force(name)), default=FOREVER)

    def within_the_window(self, start: Start) -> None:
        since = self.clock.monotonic() - WINDOW + ROUNDING
        recent = [each for each in self.starts if each.sent and each.monotonic > since and each.era == self.era]
        if start.in_window:
            mine = [each for each in recent if each.endpoint == start.endpoint and each.in_window]
            assert len(mine) <= self._allowed(start.endpoint, "max_requests_per_minute"), "a window was passed"
        if start.in_pool:
            assert len([each for each in recent if each.in_pool]) <= self.pool_limit, "the pool's window was passed"

    def within_the_concurrency(self, start: Start) -> None:
        if start.in_flight:
            under_way = [each for each in self.under_way(start.endpoint) if each.era == self.era and self.lives(each)]
            assert len(under_way) <= self._allowed(start.endpoint, "max_concurrency"), "too many calls at once"

    def within_the_days_budget(self, start: Start) -> None:
        allowed = self._allowed(start.endpoint, "max_requests_per_day")
        assert self.spent(start.endpoint, start.day) < allowed, "the day's budget was passed"

    def leaves_alone_who_asks_for_it(self, start: Start) -> None:
        """A call of an endpoint without limits asks no database first: it learns what others met within a moment."""
        until, known, said = self._closed.get(start.endpoint, (0.0, 0.0, 0.0))
        if start.token < 0:
            known += UNNOTICED
        now = start.monotonic + ROUNDING
        left_alone = now >= until or now < known
        assert left_alone or self.served_since(start, said), (
            "an endpoint was asked before the time that its server had told"
        )

    def served_since(self, start: Start, said: float) -> bool:
        """Whether the process of `start` can know of a call that began after that and was answered all the same: it lifts what was said."""
        return any(
            each.answered and each.current and each.monotonic > said and (each.written or each.process == start.process)
            for each in self.starts
            if each.endpoint == start.endpoint
        )

    # What is left

    def under_way(self, name: str) -> list[Start]:
        return [
            each for each in self.starts if each.endpoint == name and each.sent and not each.over and each.in_flight
        ]

    def lives(self, start: Start) -> bool:
        return start.process in self.living

    living: frozenset[str] = frozenset()

    def spent(self, name: str, day: int) -> int:
        return sum(each.endpoint == name and each.day == day and not each.free for each in self.starts)

    def room(self, name: str) -> bool:
        """Whether an endpoint's limits let another request start now."""
        endpoint, now, monotonic = self.settings[name], self.clock.now(), self.clock.monotonic()
        taken = [each for each in self.starts if not each.free]
        mine = [each for each in taken if each.endpoint == name]
        recent = [each for each in mine if each.in_window and each.at + WINDOW > now]
        in_pool = [each for each in taken if each.in_pool and each.at + WINDOW > now]
        busy = [
            each
            for each in mine
            if each.in_flight
            and not (each.over if self.lives(each) else each.written or each.expires + UNNOTICED <= monotonic)
        ]
        return (
            _less(len(recent), endpoint.max_requests_per_minute)
            and _less(len(in_pool), self.pool_limit)
            and _less(len(busy), endpoint.max_concurrency)
            and _less(self.spent(name, day_of(now)), endpoint.max_requests_per_day)
        )

    def told_of_free_slots(self, process: str, name: str) -> bool:
        """Whether a process knows of all that was given back: others come when they were told to."""
        since = self.clock.monotonic() - WINDOW - UNNOTICED
        return all(
            each.freed_by == process
            for each in self.starts
            if each.freed_at > since and (each.endpoint == name or self.pool_limit)
        )

    def ended(self, name: str) -> int:
        return sum(each.endpoint == name and each.over for each in self.starts)

    def started(self, names: Iterable[str]) -> int:
        wanted = set(names)
        return sum(each.endpoint in wanted for each in self.starts)


def _less(count: int, limit: int) -> bool:
    return not limit or count < limit
