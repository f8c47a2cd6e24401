"""What must be true of the database of a world of limits, after each step and as time passes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from core.cloud.pool.health import Health, HoldKind
from core.cloud.retry import POISON_LIMIT, SUSPECT_AFTER
from core.cloud.store.pool_rows import read_health
from core.cloud.store_contract import Claim
from tests.support.limits_model import FOREVER, LimitsModel, Tried
from tests.support.limits_process import Process

WAITING = ("ready", "later")

ROWS = """
SELECT seq, task.id, capability, state, priority, attempt, interruptions, forgiven, owner, lease_until,
    max(created_at, coalesce(run_at, 0)), expires_at
FROM task CROSS JOIN kind ON kind.id = task.kind ORDER BY seq
"""
ATTEMPTS = "SELECT task.id, number, outcome FROM attempt CROSS JOIN task ON task.seq = attempt.task"


class Row(NamedTuple):
    seq: int
    task_id: str
    capability: str
    state: str
    priority: int
    attempt: int
    interruptions: int
    forgiven: int
    owner: str | None
    lease_until: float | None
    since: float
    expires_at: float | None


class Checks:
    store: Any
    clock: Any
    model: LimitsModel
    processes: list[Process]
    published: dict[str, Any]
    ageing: float | None
    when_limited: str
    broken: AssertionError | None

    def rows(self) -> list[Row]:
        with self.store.database.read() as connection:
            return [Row(*values) for values in connection.execute(ROWS)]

    def health(self, name: str) -> Health:
        """As the database has it, and as it counts after the clock was put back."""
        with self.store.database.read() as connection:
            health = read_health(connection, name)
        assert health is not None
        health.rewind(self.clock.now())
        return health

    # After each step

    def check(self, _choose: object = None) -> None:
        if self.broken is not None:
            raise self.broken
        rows = self.rows()
        assert {row.task_id for row in rows} == set(self.published), "a task is gone"
        with self.store.database.read() as connection:
            ended: dict[str, dict[int, str]] = {row.task_id: {} for row in rows}
            for task_id, number, outcome in connection.execute(ATTEMPTS):
                ended[task_id][number] = outcome
        held = {process.name: process.held() for process in self.processes}
        for row in rows:
            self.check_attempts(row, ended[row.task_id])
            self.check_state(row, list(ended[row.task_id].values()))
            if row.owner in held:
                assert (row.task_id, row.attempt) in held[row.owner], "a task is held by a process that does not run it"
        for process in self.processes:
            waits = [
                attempt for attempt in process.runner._attempts.all() if attempt.claim.grant and not attempt.has_slot
            ]
            assert not waits, "a task got a slot of an endpoint, and none of its process"
        self.notice_what_is_given_back()

    def notice_what_is_given_back(self) -> None:
        """The slots of attempts that are over, in a process that lives, and of which nothing was sent."""
        held = {process.name: process.held() for process in self.processes}
        for start in self.model.starts:
            unsent = start.attempt is not None and not (start.sent or start.free)
            if unsent and start.process in held and start.attempt not in held[start.process]:
                self.model.gives_back(start)

    def check_attempts(self, row: Row, outcomes: dict[int, str]) -> None:
        running = row.state == "running"
        assert sorted(outcomes) == list(range(1, row.attempt + (not running))), (
            "an attempt was counted and not recorded"
        )
        for number, outcome in outcomes.items():
            tried = self.model.tried[row.task_id, number]
            if row.capability != "plain":
                assert self.came_of_it(tried, outcome), f"{outcome}, though {tried}"
        free = sum(outcome == "interrupted" for outcome in outcomes.values())
        assert row.interruptions + row.forgiven == free, "what cost no retry is counted wrong"

    def came_of_it(self, tried: Tried, outcome: str) -> bool:
        """Whether an attempt's outcome is that of what was sent for it."""
        if outcome == "completed":
            return tried.ends[-1:] == ["ok"]
        if outcome == "failed":
            return tried.met_a_fault
        if outcome == "timed_out":
            return tried.met_a_fault or "cut" in tried.ends
        # A lease that looked over, for a clock that was put forward, interrupts what had met a fault as well.
        return outcome == "cancelled" or tried.lost or not tried.met_a_fault or self.model.era > 0

    def check_state(self, row: Row, outcomes: Sequence[str]) -> None:
        counted = sum(outcome in ("failed", "timed_out") for outcome in outcomes)
        allowed = self.published[row.task_id].max_retries
        if row.state in WAITING:
            assert row.owner is None and row.lease_until is None
            assert counted <= allowed, "it has no retry left, and waits"
            assert counted or row.state != "later", "it was put off, though nothing failed"
        elif row.state == "failed":
            assert counted == allowed + 1 or row.interruptions > POISON_LIMIT, "it failed with retries left"
        elif row.state == "expired":
            expires_at = self.published[row.task_id].expires_at
            assert expires_at is not None
            assert expires_at <= self.clock.now() or self.model.put_back_at > -FOREVER, "it expired too early"
        elif row.state == "completed":
            assert outcomes.count("completed") == 1

    # Order

    def check_order(self, process: Process, claims: Sequence[Claim]) -> None:
        """Nothing that goes before a task was left when that got a slot which the other could have used."""
        if not claims:
            return
        rows = {row.task_id: row for row in self.rows()}
        waiting = self.first_in_line([row for row in rows.values() if self.may_start(row)], rows, claims)
        for claim in claims:
            row = rows[claim.task_id]
            assert row.expires_at is None or row.expires_at > self.clock.now(), "an expired task was begun"
            for left in waiting:
                if self.rank(left) < self.rank(row):
                    name = claim.grant.member.name if claim.grant is not None else ""
                    assert name not in self.first_choices(left), f"{left} was left, and {row} got a slot of {name}"
                    assert name or left.capability != "plain"

    def first_in_line(self, waiting: list[Row], rows: dict[str, Row], claims: Sequence[Claim]) -> list[Row]:
        """Those of them that stand behind no other of their kind: with ageing the queue knows no order within a priority but that of coming."""
        if self.ageing is None:
            return waiting
        taken = [rows[claim.task_id] for claim in claims]

        def stands_behind(row: Row) -> bool:
            return any(
                other.seq < row.seq and (other.capability, other.priority) == (row.capability, row.priority)
                for other in (*waiting, *taken)
            )

        return [row for row in waiting if not stands_behind(row)]

    def check_patience(self, process: Process, claims: Sequence[Claim]) -> None:
        """Who waits for the best endpoints got none of the others while only a limit kept it from those."""
        rows = {row.task_id: row for row in self.rows()} if self.model.all_know_the_settings() else {}
        pool = process.manager._pool
        for claim in claims:
            if claim.task_id in rows and claim.grant is not None and self.waits_for_the_best(rows[claim.task_id]):
                better = [
                    each
                    for each in pool.members.values()
                    if each.endpoint.priority < claim.grant.member.endpoint.priority and each.able(pool.time())
                ]
                assert not better, f"{better[0].name} was able, and {claim.grant.member.name} was asked"

    def rank(self, row: Row) -> tuple[float, int]:
        if self.ageing is None:
            return -row.priority, row.seq
        return row.since - self.ageing * row.priority, row.seq

    def may_start(self, row: Row) -> bool:
        unexpired = row.expires_at is None or row.expires_at > self.clock.now()
        return row.state == "ready" and unexpired and row.interruptions < SUSPECT_AFTER

    def waits_for_the_best(self, row: Row) -> bool:
        said = row.capability.partition(":")[2]
        return said == "wait" or (row.capability == "ai_call" and self.when_limited == "wait")

    def first_choices(self, row: Row) -> set[str]:
        """Endpoints that a task may use in any case."""
        settings = self.model.settings
        bound = row.capability.partition("@")[2]
        if row.capability == "plain" or bound:
            return {bound} & set(settings)
        if not self.waits_for_the_best(row):
            return set(settings)
        best = min((each.priority for each in settings.values()), default=0)
        known = self.model.all_know_the_settings()
        return {name for name, each in settings.items() if each.priority == best and known}

    # Use

    def owed(self) -> set[tuple[str, str, str, int]]:
        """Tasks that could start now, where, in which process, and how many started there so far."""
        found = set()
        rows = [row for row in self.rows() if self.may_start(row)]
        free = [
            process for process in self.processes if process.has_room() and not process.manager._pool.wait_queue.waiters
        ]
        self.model.wants({name for row in rows for name in self.choices(row)})
        names = [
            name
            for name in self.model.settings
            if self.model.certain(name) and self.model.room(name) and self.opens(name)
        ]
        for row in rows if free else ():
            if row.capability == "plain":
                found |= {(row.task_id, "", process.name, 0) for process in free}
            for name in self.choices(row).intersection(names):
                started = self.model.started(self.model.settings if self.model.pool_limit else [name])
                found |= {
                    (row.task_id, name, process.name, started)
                    for process in free
                    if self.model.told_of_free_slots(process.name, name)
                }
        return found

    def opens(self, name: str) -> bool:
        """No hold keeps everybody from it. A soft one is ignored where there is nothing better."""
        now = self.clock.now()
        return self.health(name).opens_at(now, last_resort=True) <= now

    def choices(self, row: Row) -> set[str]:
        """Endpoints that a task may use as things are."""
        if not self.waits_for_the_best(row):
            return self.first_choices(row)
        able = [each.priority for name, each in self.model.settings.items() if self.able(name)]
        best = min(able, default=max((each.priority for each in self.model.settings.values()), default=0))
        return {name for name, each in self.model.settings.items() if each.priority <= best}

    def able(self, name: str) -> bool:
        """Nothing but a limit keeps it from taking calls."""
        health = self.health(name)
        return health.kind is HoldKind.RATE_LIMITED or health.opens_at(self.clock.now()) <= self.clock.now()
