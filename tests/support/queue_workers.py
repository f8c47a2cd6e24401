"""What worker processes do to a queue and to its model: claim, run, settle, renew, keep it up, stop, die."""

from tests.support.queue_model import COMPLETED, RUNNING, Ending, Hole, ModelTask
from tests.support.queue_parts import ENDS, LEASE, NAMES, Choose, Held, QueueParts, Worker

ABILITIES = (NAMES, NAMES, NAMES[:2], NAMES[1:])
PROGRESS_INTERVAL = 0.25
OVERDUE = 1.0
"""Seconds after which any process does what the leader should have done."""


class Workers(QueueParts):
    def busy_worker(self, choose: Choose) -> Worker:
        return choose([each for each in self.workers if each.held or each.ended] or self.workers)

    # Claiming and settling

    def exchange(self, choose: Choose) -> None:
        worker = choose(self.workers)
        trouble = choose([""] * 12 + ["busy", "broken", "killed"])
        self.make_exchange(worker, poll=choose([True, True, True, False]), trouble=trouble)
        if choose([True, True, False]):
            for held in list(worker.held):
                self.begin(worker, held)

    def make_exchange(self, worker: Worker, *, poll: bool, trouble: str = "") -> None:
        process = worker.process
        surely = poll or bool(worker.ended)
        room = process.slots - len(worker.held)
        outcome = process.exchange(poll=poll, trouble=trouble)
        if outcome == "busy":
            return  # and nothing is lost: the same ends are written by a later exchange
        ended, worker.ended = worker.ended, []
        for ending in ended:
            self.model.settle(ending, worker.name)
        if outcome == "broken":
            return
        runs = any(held.key == worker.suspect for held in worker.held)
        ready = self.model.ready_for(process.names, room, suspect_runs=runs)
        if process.claimed or surely:
            assert [claim.task_id for claim in process.claimed] == [each.task_id for each in ready]
            for task, claim in zip(ready, process.claimed, strict=True):
                self.model.begin(task, worker.name, RUNNING, LEASE)
                if task.interruptions >= 2:
                    worker.suspect = (task.task_id, task.attempt)
                assert claim.attempt == task.attempt
                assert claim.interruptions == task.attempt - 1 - task.failures, "an attempt that was free was counted"
                if outcome != "killed":
                    self.take(worker, task)
        if outcome == "killed":
            self.replace(worker, NAMES)

    def take(self, worker: Worker, task: ModelTask) -> None:
        try:
            given = self.model.input_of(task)
        except Hole:
            worker.ended.append(self.ending(task, task.attempt, "hole", None))
            return
        now = self.clock.monotonic()
        deadline = float("inf") if task.timeout is None else now + task.timeout
        call = worker.process.calls[task.task_id, task.attempt]
        worker.held.append(Held(task, task.attempt, call, given, deadline, self.clock.now() + LEASE))

    # Running

    def begin(self, worker: Worker, held: Held) -> None:
        """Its handler is called; not when its lease ended while it waited, as in a process that was suspended."""
        if held.call.thread_started:
            return
        held.call.begin()
        assert held.call.begun == (self.clock.now() < held.lease_until)
        if held.call.begun:
            assert held.call.payload == held.given
            parents = [self.store.tasks.get(each) for each in held.task.depends_on]
            assert all(parent.status is COMPLETED for parent in parents)
        else:
            self.over(worker, held, self.ending(held.task, held.attempt, "interrupted", None))

    def over(self, worker: Worker, held: Held, ending: Ending | None) -> None:
        """The process has no more to do with it, except to have its end written."""
        worker.held.remove(held)
        if held.call.begun:
            worker.left_behind.append(held.call)
        if ending is not None:
            worker.ended.append(ending)

    def finish(self, choose: Choose) -> None:
        worker = self.busy_worker(choose)
        if not worker.held:
            self.exchange(choose)
        else:
            self.finish_one(worker, choose(worker.held), choose(ENDS), {"n": choose([1, 2])})

    def finish_one(self, worker: Worker, held: Held, end: str, value: object) -> None:
        self.begin(worker, held)
        if held in worker.held:
            held.call.finish(end, value)
            self.over(worker, held, self.ending(held.task, held.attempt, end, value))
            worker.left_behind.remove(held.call)

    def finish_too_late(self, choose: Choose) -> None:
        """A handler that was left behind returns at last: it counts for nothing."""
        late = [worker for worker in self.workers if worker.left_behind]
        if late:
            worker = choose(late)
            call = choose(worker.left_behind)
            call.finish("returns", "too late")
            worker.left_behind.remove(call)

    def deadlines(self, choose: Choose) -> None:
        worker, now = self.busy_worker(choose), self.clock.monotonic()
        worker.process.deadlines()
        for held in sorted(worker.held, key=lambda each: each.deadline):
            if held.deadline <= now:
                self.over(worker, held, self.ending(held.task, held.attempt, "timed_out", None))

    # Leases

    def progress(self, choose: Choose) -> None:
        worker = self.busy_worker(choose)
        begun = [held for held in worker.held if held.call.begun]
        if begun:
            held, share = choose(begun), choose([0.25, 0.75])
            held.call.context.progress(share)
            worker.reports[held.key] = share

    def renew(self, choose: Choose) -> None:
        """A round of the lease keeper: it writes progress and renews."""
        self.keep_leases(self.busy_worker(choose), asked=choose([True, True, False]))

    def keep_leases(self, worker: Worker, *, asked: bool) -> None:
        worker.process.renew(asked=asked)
        asked, worker.asked = asked or worker.asked, False
        if worker.reports and self.clock.monotonic() >= worker.write_at:
            worker.write_at = self.clock.monotonic() + PROGRESS_INTERVAL
            reports, worker.reports = worker.reports, {}
            for held in [each for each in worker.held if each.key in reports]:
                if held.task.held_by(worker.name, held.attempt):
                    held.task.progress = reports[held.key]
                else:
                    self.over(worker, held, None)
        if asked or self.clock.monotonic() >= worker.renew_at:
            self.renewed(worker)

    def renewed(self, worker: Worker, again_in: float | None = LEASE / 3) -> None:
        now = self.clock.now()
        if again_in is not None:
            worker.renew_at = self.clock.monotonic() + again_in
        for task, attempt in [
            *((each.task, each.attempt) for each in worker.held),
            *(each[:2] for each in worker.ended),
        ]:
            if task.held_by(worker.name, attempt):
                task.lease_until = now + LEASE
        for held in list(worker.held):
            if held.task.held_by(worker.name, held.attempt):
                held.lease_until = now + LEASE
            else:
                self.over(worker, held, None)

    def hear(self, choose: Choose) -> None:
        """A hint that a task changed: the process looks after its leases at once, when it runs that task."""
        worker = self.busy_worker(choose)
        task = choose([*(held.task for held in worker.held), self.some_task(choose)])
        worker.process.hear(task.task_id)
        worker.asked = any(held.task is task for held in worker.held)
        self.keep_leases(worker, asked=False)

    # Upkeep

    def upkeep(self, choose: Choose) -> None:
        worker = choose(self.workers)
        overdue = self.model.something_due(self.clock.now() - OVERDUE)
        ran = worker.process.upkeep()
        assert ran or not overdue
        if ran:
            if self.each_has_a_store and self.model.leases_are_over():
                self.renewed(worker, again_in=None)  # nobody takes back from himself what he still runs
            self.model.tidy_up()

    def clock_jumps(self, choose: Choose) -> None:
        """Forward, without that any time passes: every lease looks over, and its holder still runs."""
        self.clock.set_now(self.clock.now() + choose([LEASE + 1, 3600.0]))
        self.upkeep(choose)

    def suspend(self, choose: Choose) -> None:
        """Nobody renews for longer than a lease; then others are there first, or those who slept, as if nothing had been."""
        self.clock.advance(LEASE + 1)
        for _ in range(choose([1, 2])):
            getattr(self, choose(["upkeep", "upkeep", "run_by_hand"]))(choose)
            self.make_exchange(choose(self.workers), poll=True)

    # Ends of processes

    def kill(self, choose: Choose) -> None:
        """Between claim and settle, with ends not yet written: the leases say the rest."""
        self.replace(choose(self.workers), choose(ABILITIES))

    def stop(self, choose: Choose) -> None:
        """A shutdown: handlers that end within the grace count, what has not ended is given back."""
        worker, graceful = self.busy_worker(choose), choose([True, False])
        worker.process.stop()
        for held in list(worker.held):
            if graceful and held.call.begun:
                self.finish_one(worker, held, choose(["returns", "killed"]), {"n": 1})
        worker.process.leave()
        for held in list(worker.held):
            self.over(worker, held, self.ending(held.task, held.attempt, "interrupted", None))
        for ending in worker.ended:
            self.model.settle(ending, worker.name)
        self.replace(worker, NAMES)

    def stop_in_haste(self, choose: Choose) -> None:
        """The process leaves without its last exchange: whatever is in its name is given back, also what had ended."""
        worker = self.busy_worker(choose)
        worker.process.farewell()
        for task in self.model.tasks.values():
            if task.owner == worker.name:
                self.model.give_back(task)
        self.replace(worker, NAMES)

    def replace(self, worker: Worker, names: tuple[str, ...]) -> None:
        self.dead.append(worker.process)
        self.workers[self.workers.index(worker)] = self.new_worker(names)
