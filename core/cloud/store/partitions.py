"""Which tasks of handlers with limits may start: claimed as far as their limits let them, a value of the key by itself.

Ready tasks that were sorted (see `sorting`) stand in partitions, one for each value and priority. A look costs a step in an index for each
partition, whatever the number of tasks; a partition whose limit is known to be used up until some moment costs no more than that.
Starts are counted in the pool's table of windows, those that run by the tasks that are held.
"""

import heapq
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import apsw

from core.cloud.handler_limits import HandlerLimits
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.store.pool_windows import HANDLERS, opens_at, take_start
from core.cloud.store.queries import LIMIT, first, one, rows
from core.cloud.store.sorting import Resolve, forget_unused, sort, sort_held

SORTED_AT_ONCE = 500
"""Tasks sorted in one transaction; it takes a few milliseconds."""
FORGET_EVERY = 1000
"""New values after which those that no task waits for are forgotten."""
MOST_REMEMBERED = 100_000
"""Kinds that a process keeps in mind."""

ONE_OF_OURS = -1
"""Stands for a suspect that is to be found among the tasks with limits."""

limits_of = lru_cache(maxsize=1000)(HandlerLimits)


@dataclass(slots=True)
class Share:
    """Tasks that share a limit: those of one sorted kind."""

    kind: int
    name: str
    row: str
    """Under which their starts stand."""
    limits: HandlerLimits


class Known:
    """What a process knows of kinds, as long as these limits count, and which windows are full until when.

    Whatever other processes do, none opens earlier.
    """

    __slots__ = ("full", "limits", "quiet", "shares", "stale")

    def __init__(self, limits: Mapping[str, HandlerLimits]) -> None:
        self.limits = limits
        self.shares: dict[int, Share | None] = {}
        """By kind, None for those that this process does not run or that were sorted by another key. A number never stands for another."""
        self.stale: dict[int, str] = {}
        """Those last ones, with their handler."""
        self.full: dict[int, float] = {}
        """By kind: the epoch seconds at which its window opens."""
        self.quiet = (-1, 0.0, 0.0)
        """The version of the partitions in which none was open, when that was seen, and until when it stays so."""

    def share(self, connection: apsw.Connection, kind: int) -> Share | None:
        """What a kind stands for; None for what does not concern this process now."""
        if kind in self.shares:
            return self.shares[kind]
        name, key = first(connection, LIMIT["kind"], (kind,)) or ("", "")
        limits = self.limits.get(name)
        found = None
        if limits is not None and limits.sorts(key):
            found = Share(kind, name, row_name(name, key), limits)
        elif limits is not None:
            self.stale[kind] = name
        self.shares[kind] = found
        return found


class PartitionMemory:
    """What a process keeps in mind from one look to the next."""

    __slots__ = ("_known", "added", "window")

    def __init__(self, window: float = WINDOW) -> None:
        self.window = window
        self.added = 0
        """Kinds this process has made since it last dropped those that nobody needs."""
        self._known = Known({})

    def known(self, limits: Mapping[str, HandlerLimits]) -> Known:
        """What is known while these count."""
        if limits != self._known.limits or len(self._known.shares) >= MOST_REMEMBERED:
            self._known = Known(limits)
        return self._known

    def forget(self) -> None:
        """Believe nothing: what was seen may have been taken back."""
        self._known = Known({})


class Partitions:
    """The tasks with limits as one transaction sees them, and what it takes."""

    def __init__(
        self, connection: apsw.Connection, memory: PartitionMemory, names: Collection[str], now: float
    ) -> None:
        """`names` are the handlers of this process that may have limits."""
        self._connection = connection
        self._memory = memory
        self._now = now
        self.limits: dict[str, HandlerLimits] = {}
        """Of those handlers that have some now."""
        self.opens_in = math.inf
        """Seconds until the first closed partition may open; `inf` when that takes the end of a task."""
        self._unsorted: dict[int, str] = {}
        """Kinds with ready tasks that have to be sorted before any other task of that handler starts."""
        self._closed: set[int] = set()
        """Kinds of which no more may start now."""
        self._held: dict[int, int] = {}
        """Held tasks by kind, when a limit goes by them."""
        self._suspect: int | None = None
        self._ageing: float | None = None
        self._heads: list[tuple[float, int, int]] = []
        self._version = -1
        for name, *said, self._version, base in rows(
            connection, LIMIT["of_names"], (json.dumps(list(names), ensure_ascii=False),)
        ):
            self.limits[name] = limits_of(*said)
            if base is not None:
                self._unsorted[base] = name
        self._known = memory.known(self.limits)
        self._counts = any(limits.max_concurrency for limits in self.limits.values())

    def any_open(self) -> bool:
        """Whether it is worth a transaction that writes: something may start, or has to be sorted. Reads only."""
        if self._unsorted:
            return True
        if self._quiet():
            return False
        for share in self._shares():
            most = share.limits.max_per_minute
            opens = opens_at(self._connection, share.row, most, self._now, self._memory.window) if most else 0.0
            if not opens:
                return True
            self._close(share, opens)
        if self._unsorted:
            return True
        self._keep_quiet()
        return False

    def prepare(self, suspect: int | None, ageing: float | None, resolve: Resolve | None) -> None:
        """Sort, and find the head of each partition. Until all tasks of a handler are sorted none of them is a head, so that order holds.

        `suspect` is the one that may be claimed, ONE_OF_OURS for one that is found here, None for any.
        """
        if not self._unsorted and self._quiet():
            return
        if self._counts:
            self._memory.added += sort_held(self._connection, self.limits, resolve=resolve)
        room = self._sort(SORTED_AT_ONCE, resolve)
        found = list(self._partitions())
        if self._unsorted and room:  # of a handler whose key is another now
            self._sort(room, resolve)
            found = list(self._partitions())
        if self._unsorted:
            self.opens_in = 0.0
            behind = set(self._unsorted.values())
            found = [(partition, share) for partition, share in found if share.name not in behind]
        self._ageing = ageing
        self._suspect = self._next_suspect({share.kind for _, share in found}) if suspect == ONE_OF_OURS else suspect
        if not found and not self._unsorted:
            self._keep_quiet()
        if found:
            asked = (json.dumps([partition for partition, _ in found]), self._now, self._suspect)
            heads = rows(self._connection, LIMIT["heads"], asked)
            self._heads = [self._head(partition, seq) for partition, seq in heads if seq is not None]
            heapq.heapify(self._heads)

    def _quiet(self) -> bool:
        """Whether nothing may start since an earlier look found that nothing may."""
        version, since, until = self._known.quiet
        if version != self._version or not since <= self._now < until:
            return False
        self.opens_in = until - self._now
        return True

    def _keep_quiet(self) -> None:
        """All are closed. The version is that of before the look, so that no change is overlooked."""
        self._known.quiet = (self._version, self._now, self._now + self.opens_in)

    def first(self) -> tuple[float, int] | None:
        """What the next task that may start is ordered by, and its number; None when there is none."""
        return self._heads[0][:2] if self._heads else None

    def take_first(self) -> bool:
        """Have that task start, if its limit still lets it; the next is another in any case."""
        _, seq, partition = heapq.heappop(self._heads)
        share = self._known.share(self._connection, kind_of(partition))
        if share is None or not self._start(share):
            return False
        if seq == self._suspect:
            self._suspect = 0
        following = first(self._connection, LIMIT["next_head"], (partition, self._now, self._suspect, seq))
        if following is not None:
            heapq.heappush(self._heads, self._head(partition, following[0]))
        return True

    def _head(self, partition: int, seq: int) -> tuple[float, int, int]:
        priority = -partition % 8
        if self._ageing is None:
            return -priority, seq, partition
        return one(self._connection, LIMIT["waits_since"], (seq,)) - self._ageing * priority, seq, partition

    def _start(self, share: Share) -> bool:
        kind, limits = share.kind, share.limits
        if kind in self._closed:
            return False
        running = self._held.get(kind, 0)
        if limits.max_concurrency and running >= limits.max_concurrency:
            self._closed.add(kind)
            return False
        if limits.max_per_minute:
            opens = take_start(self._connection, share.row, limits.max_per_minute, self._now, self._memory.window)
            if opens:
                self._close(share, opens)
                return False
        self._held[kind] = running + 1
        return True

    def _close(self, share: Share, opens: float) -> None:
        self._known.full[share.kind] = opens
        self._closed.add(share.kind)
        self.opens_in = min(self.opens_in, opens - self._now)

    def _shares(self) -> Iterator[Share]:
        """Those with a ready task that may start as far as is known."""
        seen = None
        for _, share in self._partitions():
            if share is not seen:
                yield share
            seen = share

    def _partitions(self) -> Iterator[tuple[int, Share]]:
        """The partitions whose tasks may start as far as is known without a look at their windows."""
        known, now = self._known, self._now
        latest = now + self._memory.window  # a window that opens later than this was seen with another clock
        first_opening = self.opens_in + now
        if self._counts:
            self._held = dict(rows(self._connection, LIMIT["held_by_kind"]))
        for (partition,) in self._connection.execute(LIMIT["partitions"]):
            kind = -(-partition // 8)
            opens = known.full.get(kind, 0.0)
            if now < opens <= latest:
                first_opening = min(first_opening, opens)
                continue
            share = known.share(self._connection, kind)
            if share is None:
                if kind in known.stale:
                    self._unsorted[kind] = known.stale[kind]
                continue
            most = share.limits.max_concurrency
            if not (most and self._held.get(kind, 0) >= most):
                yield partition, share
        self.opens_in = min(self.opens_in, first_opening - now)

    def _sort(self, most: int, resolve: Resolve | None) -> int:
        """How many more may be sorted in this transaction."""
        for kind, name in list(self._unsorted.items()):
            if most < 1:
                break
            count, added = sort(self._connection, kind, name, self.limits[name], most, resolve=resolve)
            self._memory.added += added
            if count < most:
                del self._unsorted[kind]
            most -= count
        if self._memory.added >= FORGET_EVERY:
            self._memory.added = 0
            forget_unused(self._connection, self._now, self._memory.window)
        return most

    def _next_suspect(self, kinds: Collection[int]) -> int:
        return next((seq for seq, kind in rows(self._connection, LIMIT["suspects"], (self._now,)) if kind in kinds), 0)


def row_name(name: str, key: str) -> str:
    """Under which the starts of tasks of this handler stand that share this limit."""
    return f"{HANDLERS}{name}\n{key}"


def kind_of(partition: int) -> int:
    """The kind of the tasks in a partition."""
    return -(-partition // 8)  # a partition's number is its kind's times 8, less the priority
