"""Handlers with limits against a model that knows no index: what starts is exactly what may, in order, whoever asks."""

import itertools
import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.cloud.handler_limits import HandlerLimits
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.store import open_store
from core.cloud.store_contract import ClaimRequest, NewTask, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
from tests.support.examples import examples

LEASE = 30.0
CUSTOMERS = st.sampled_from(["a", "b", "c", None])
LIMITS = st.one_of(
    st.builds(
        HandlerLimits,
        max_per_minute=st.integers(0, 4),
        max_concurrency=st.integers(1, 3),
        key=st.sampled_from(["", "customer", "exchange"]),
    ),
    st.builds(HandlerLimits, max_per_minute=st.integers(1, 4), key=st.sampled_from(["", "customer", "exchange"])),
    st.just(HandlerLimits()),
)


class LimitedQueue(RuleBasedStateMachine):
    """Two processes, two handlers with limits and one without."""

    names = ("report", "order", "work")

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        location = str(Path(self.folder.name) / "queue.db")
        self.stores = {worker: open_store(location, synchronous="NORMAL") for worker in ("w1", "w2")}
        self.tasks = self.stores["w1"].tasks
        self.now = 1_000_000.0
        self.ids = itertools.count(1)
        self.limits = {name: HandlerLimits() for name in self.names}
        self.ready = {}
        """(name, payload, priority, age) by task, as the model has them; so are the others."""
        self.held = {}
        self.starts = []

    def teardown(self):
        if hasattr(self, "stores"):
            for store in self.stores.values():
                store.close()
            self.folder.cleanup()

    def group(self, name, payload):
        return name, self.limits[name].key, payload.get(self.limits[name].key)

    def opens(self, group):
        """When its window lets one more start (0.0: it does), and whether as many run as may."""
        limits = self.limits[group[0]]
        most = limits.max_per_minute
        times = [at for at, each in self.starts if each == group]
        opens = times[-most] + WINDOW if most and len(times) >= most else 0.0
        running = sum(self.group(task[0], task[1]) == group for _, task in self.held.values())
        return opens if opens > self.now else 0.0, bool(limits.max_concurrency and running >= limits.max_concurrency)

    def may_start(self, limit):
        """What is to be claimed now, marked as started; and when windows open before which others wait, given that it is not all.

        Those are in two parts: where nothing else keeps a task, and where as many run as may (an end comes first, which is a reason to look).
        """
        chosen, only_window, both = [], {math.inf}, {math.inf}
        for task_id, task in sorted(self.ready.items(), key=lambda item: (-item[1][2], item[1][3])):
            if len(chosen) == limit:
                return chosen, None
            group = self.group(task[0], task[1])
            opens, full = self.opens(group)
            if opens or full:
                (both if full else only_window).add(opens - self.now if opens else math.inf)
                continue
            chosen.append(task_id)
            self.held[task_id] = (None, self.ready.pop(task_id))
            if self.limits[task[0]].max_per_minute:
                self.starts.append((self.now, group))
        return chosen, (min(only_window), both | only_window)

    @rule(
        name=st.sampled_from(names),
        customer=CUSTOMERS,
        exchange=CUSTOMERS,
        priority=st.integers(1, 4),
        count=st.integers(1, 5),
    )
    def publish(self, name, customer, exchange, priority, count):
        payload = {} if customer is None else {"customer": customer}
        payload |= {} if exchange is None else {"exchange": exchange}
        for _ in range(count):
            number = next(self.ids)
            task = NewTask(f"{number:016x}", name, json.dumps(payload), name, priority=priority)
            self.tasks.publish([task], self.now)
            self.ready[task.task_id] = (name, payload, priority, number)

    @rule(worker=st.sampled_from(["w1", "w2"]), limit=st.integers(1, 6))
    def claim(self, worker, limit):
        expected, openings = self.may_start(limit)
        done = self.stores[worker].tasks.exchange([], self.request(worker, limit), self.now)
        self.check(done, worker, expected, openings)

    @rule(data=st.data(), limit=st.integers(1, 6), again=st.booleans(), looks=st.integers(0, 2))
    def end_and_claim(self, data, limit, again, looks):
        """One that runs ends, for good or to be tried again, and the same transaction claims; its worker may have looked in vain before."""
        if not self.held:
            return
        task_id = data.draw(st.sampled_from(sorted(self.held)))
        for _ in range(looks):
            self.claim(self.held[task_id][0].worker, 6)
        claim, task = self.held.pop(task_id)
        outcome, status = AttemptOutcome.COMPLETED, TaskStatus.COMPLETED
        if again:
            outcome, status = AttemptOutcome.FAILED, TaskStatus.PENDING
            self.ready[task_id] = task
        end = Settlement(task_id, claim.attempt, claim.worker, outcome, status)
        expected, openings = self.may_start(limit)
        done = self.stores[claim.worker].tasks.exchange([end], self.request(claim.worker, limit), self.now)
        assert done.refused == []
        self.check(done, claim.worker, expected, openings)

    @rule(data=st.data())
    def cancel(self, data):
        if self.ready:
            task_id = data.draw(st.sampled_from(sorted(self.ready)))
            del self.ready[task_id]
            self.tasks.cancel(task_id, self.now, "no")

    @rule(seconds=st.sampled_from([0.5, 7.0, 20.0, WINDOW]))
    def time_passes(self, seconds):
        self.now += seconds
        held = [(task_id, claim) for task_id, (claim, _) in self.held.items()]
        for worker in ("w1", "w2"):
            pairs = [(task_id, claim.attempt) for task_id, claim in held if claim.worker == worker]
            assert self.tasks.renew(worker, pairs, LEASE, self.now) == []

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def a_worker_dies(self, worker):
        """Its tasks run as far as anybody knows until their leases end."""
        lost = [task_id for task_id, (claim, _) in self.held.items() if claim.worker == worker]
        self.time_passes_for_others(worker)
        self.tasks.maintain(self.now, 1_000)
        for task_id in lost:
            self.ready[task_id] = self.held.pop(task_id)[1]

    def time_passes_for_others(self, worker):
        self.now += LEASE
        other = "w2" if worker == "w1" else "w1"
        pairs = [(task_id, claim.attempt) for task_id, (claim, _) in self.held.items() if claim.worker == other]
        assert self.tasks.renew(other, pairs, LEASE, self.now) == []

    @rule(name=st.sampled_from(["report", "order"]), limits=LIMITS, worker=st.sampled_from(["w1", "w2"]))
    def register(self, name, limits, worker):
        self.limits[name] = limits
        self.stores[worker].tasks.set_limits({name: limits}, self.now)

    @invariant()
    def what_waits_is_pending_and_holds_nothing(self):
        if hasattr(self, "stores"):
            assert self.tasks.stats().ready == len(self.ready)

    def request(self, worker, limit):
        return ClaimRequest(worker, self.names, limit, LEASE, limited=("report", "order"))

    def check(self, done, worker, expected, openings):
        assert [claim.task_id for claim in done.claims] == expected
        for claim in done.claims:
            claim_of = type("Held", (), {"attempt": claim.attempt, "worker": worker})
            self.held[claim.task_id] = (claim_of, self.held[claim.task_id][1])
        if openings is not None:
            first, possible = openings
            assert done.opens_in <= first + 1e-6
            assert any(done.opens_in == pytest.approx(each) for each in possible)


TestLimitedQueue = LimitedQueue.TestCase
TestLimitedQueue.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
