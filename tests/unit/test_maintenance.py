"""Upkeep, stepped by hand with a clock of the test's own: who leads, what is done when."""

import pytest

from core.clock import ManualClock
from core.cloud.queue.patience import Patience
from core.cloud.running.maintenance import LEADER_TTL, OVERDUE, Maintenance, Retention, Schedules, TaskUpkeep
from core.cloud.running.wakeup import WakeUp
from core.cloud.store_contract import Maintained, Purged


class Leaders:
    """The leader table."""

    def __init__(self):
        self.held = {}

    def lead(self, duty, worker, ttl, now):
        holder, until = self.held.get(duty, ("", 0.0))
        if holder not in ("", worker) and until > now:
            return False
        self.held[duty] = (worker, now + ttl)
        return True

    def resign(self, duty, worker):
        if self.held.get(duty, ("", 0))[0] == worker:
            del self.held[duty]

    def alive(self, since):
        return []


class Store:
    def __init__(self):
        self.workers = Leaders()


class Job:
    """A duty that notes when it was done."""

    name = "job"

    def __init__(self, due, *, by_anyone=True, work=True):
        self.due = due
        self.by_anyone = by_anyone
        self.work = work
        self.done = []

    def next_due(self):
        return self.due

    def run(self, now):
        self.done.append(now)
        self.due = None
        return self.work


@pytest.fixture
def clock():
    return ManualClock(1000.0)


@pytest.fixture
def store():
    return Store()


def maintenance(store, clock, duty, worker="a", wakeup=None):
    return Maintenance(store, [duty], worker=worker, wakeup=wakeup or WakeUp(), clock=clock)


def test_the_leader_does_what_is_due_and_looks_again_exactly_when_more_is(store, clock):
    duty = Job(1000.25)
    upkeep = maintenance(store, clock, duty)

    assert upkeep.step() == pytest.approx(0.25)
    assert duty.done == []
    clock.advance(0.25)
    upkeep.step()
    assert duty.done == [1000.25]


def test_what_became_ready_is_told_and_what_did_not_is_not(store, clock):
    for work, times in ((True, 1), (False, 0)):
        told = []
        wakeup = WakeUp()
        wakeup.subscribe(told.append)
        maintenance(store, clock, Job(0.0, work=work), wakeup=wakeup).step()
        assert len(told) == times


def test_one_leads_and_the_other_takes_over_when_its_time_ran_out(store, clock):
    first, second = maintenance(store, clock, one := Job(None), "a"), maintenance(store, clock, two := Job(None), "b")
    first.step()
    second.step()
    one.due = two.due = 1000.0
    first.step()
    second.step()
    assert (len(one.done), len(two.done)) == (1, 0)

    clock.advance(LEADER_TTL)
    one.due, two.due = None, 1010.0
    second.step()
    assert two.done == [1010.0]
    one.due = 1010.0
    first.step()
    assert len(one.done) == 1, "the old leader goes on although another leads"


def test_what_is_overdue_is_done_by_anyone_though_another_leads(store, clock):
    store.workers.lead("upkeep", "dead", 1e9, 1000.0)
    shared, single = Job(1000.0), Job(1000.0, by_anyone=False)
    upkeep = Maintenance(store, [shared, single], worker="b", wakeup=WakeUp(), clock=clock)

    assert 0 < upkeep.step() <= OVERDUE
    assert shared.done == []
    clock.advance(OVERDUE)
    upkeep.step()

    assert shared.done == [1001.0]
    assert single.done == []


def test_a_started_upkeep_can_be_stopped_twice_and_gives_its_lead_back(store):
    upkeep = maintenance(store, None, Job(None))
    upkeep.start()
    upkeep.start()
    upkeep.stop()
    upkeep.stop()

    assert store.workers.held == {}


class Tasks:
    def __init__(self, rounds):
        self.rounds = list(rounds)
        self.calls = []

    def next_due(self, *, take_back=True):
        return 5.0 if take_back else None

    def maintain(self, now, poison_limit, limit, *, take_back):
        self.calls.append((now, poison_limit, limit) if take_back else (now, "leases left alone"))
        return self.rounds.pop(0) if self.rounds else Maintained()

    def purge(self, statuses, older_than, *, dry_run, limit):
        self.calls.append((older_than, dry_run, limit))
        return self.rounds.pop(0)


def test_tasks_are_kept_up_in_rounds_until_nothing_is_left():
    tasks = Tasks([Maintained(expired=500), Maintained(promoted=3)])

    assert TaskUpkeep(tasks, poison_limit=2).run(7.0) is True
    assert tasks.calls == [(7.0, 2, 500)] * 3
    assert TaskUpkeep(Tasks([])).run(7.0) is False


def test_leases_are_left_alone_for_one_lease_after_the_clock_jumped():
    clock = ManualClock(1000.0)
    tasks = Tasks([])
    duty = TaskUpkeep(tasks, patience=Patience(clock, 30.0, regular=True))
    assert duty.next_due() == 5.0
    clock.set_now(4600.0)
    assert duty.next_due() is None
    duty.run(4600.0)
    assert tasks.calls == [(4600.0, "leases left alone")]


def test_retention_comes_back_soon_for_more_and_else_in_an_hour():
    tasks = Tasks([Purged(tasks=500), Purged(tasks=2)])
    retention = Retention(tasks, days=2.0)

    retention.run(now := 1_000_000.0)
    assert retention.next_due() == now + 1
    retention.run(now + 1)
    assert retention.next_due() == now + 1 + 3600
    assert tasks.calls[0] == (now - 2 * 86_400, False, 500)


def test_schedules_are_driven_by_their_source():
    class Source:
        fired = ()

        def next_due(self):
            return 12.0

        def fire_due(self, now):
            self.fired = (*self.fired, now)

    source = Source()
    duty = Schedules(source)

    assert duty.next_due() == 12.0
    assert duty.run(12.5) is True
    assert source.fired == (12.5,)
