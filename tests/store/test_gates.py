"""What every task store promises about tasks that have to pass limits: claimed with a grant each, or left as they are."""

import math

import pytest

from core.cloud.store_contract import ClaimRequest, Settlement
from core.cloud.task import AttemptOutcome, TaskStatus
from core.errors import StoreError


class Slot:
    def __init__(self, gate):
        self.gate, self.returned = gate, 0

    def give_back(self):
        self.returned += 1


class SlotGate:
    """So many slots; `opens` is what it says when it has none."""

    def __init__(self, slots=0, opens=7.0):
        self.slots, self.opens = slots, opens
        self.given, self.asked = [], []

    def wait(self, capability):
        return 0.0 if self.slots else self.opens

    def take(self, capability, payload):
        self.asked.append((capability, payload))
        if not self.slots:
            return None
        self.slots -= 1
        self.given.append(Slot(self))
        return self.given[-1]


def request(gates, *names, limit=10, **fields):
    return ClaimRequest("w1", names or ("work", *gates), limit, 30.0, gates=gates, **fields)


def test_a_task_whose_gate_is_closed_stays_as_it_is_and_the_moment_of_its_opening_is_told(queue):
    task = queue.publish("limited")
    before = queue.tasks.get(task)

    exchanged = queue.tasks.exchange([], request({"limited": SlotGate(0, opens=7.0)}), queue.now)

    assert (exchanged.claims, exchanged.opens_in) == ([], 7.0)
    assert queue.tasks.get(task) == before
    assert before.status == "pending"


def test_each_slot_of_a_gate_goes_to_one_task_with_its_grant_in_the_order_of_the_queue(queue):
    tasks = [queue.publish("limited", priority=priority) for priority in (2, 1, 4, 2)]
    gate = SlotGate(3)

    exchanged = queue.tasks.exchange([], request({"limited": gate}), queue.now)

    assert [claim.task_id for claim in exchanged.claims] == [tasks[2], tasks[0], tasks[3]]
    assert [claim.grant for claim in exchanged.claims] == gate.given
    assert [queue.status(task) for task in tasks] == ["running", "pending", "running", "running"]
    assert exchanged.opens_in == 7.0


def test_an_urgent_task_passes_ten_thousand_that_wait_for_the_same_gate(queue):
    from core.cloud.store_contract import NewTask

    queue.tasks.publish(
        [
            NewTask(task_id=f"n{number:015}", name="limited", payload="{}", capability="limited")
            for number in range(10_000)
        ],
        queue.now,
    )
    urgent = queue.publish("limited", priority=4)

    [claim] = queue.tasks.exchange([], request({"limited": SlotGate(1)}), queue.now).claims

    assert claim.task_id == urgent


def test_what_waits_for_one_gate_delays_no_other_task(queue):
    waiting = [queue.publish("limited", priority=4) for _ in range(20)]
    free, other = queue.publish("work", priority=1), queue.publish("other", priority=1)
    gates = {"limited": SlotGate(0), "other": SlotGate(5)}

    exchanged = queue.tasks.exchange([], request(gates, limit=2), queue.now)

    assert [claim.task_id for claim in exchanged.claims] == [free, other]
    assert {queue.status(task) for task in waiting} == {"pending"}


def test_a_gate_that_has_less_than_it_said_leaves_the_rest_of_its_tasks_and_nobody_elses(queue):
    first, second = queue.publish("limited", priority=4), queue.publish("limited", priority=4)
    free = queue.publish("work", priority=1)

    class Surprised(SlotGate):
        def wait(self, capability):
            return 0.0 if not self.asked else 3.0

    gate = Surprised(1)
    exchanged = queue.tasks.exchange([], request({"limited": gate}), queue.now)

    assert [claim.task_id for claim in exchanged.claims] == [first, free]
    assert (queue.status(second), exchanged.opens_in, len(gate.asked)) == ("pending", 3.0, 2)


@pytest.mark.parametrize("granted", [0, 1, 2])
def test_no_more_tasks_with_a_grant_are_taken_than_asked_for(queue, granted):
    for _ in range(3):
        queue.publish("limited", priority=4)
    free = [queue.publish() for _ in range(3)]
    gate = SlotGate(10)

    claims = queue.tasks.exchange([], request({"limited": gate}, granted=granted), queue.now).claims

    assert [claim.name for claim in claims] == ["limited"] * granted + ["work"] * 3
    assert [claim.task_id for claim in claims[granted:]] == free
    assert len(gate.given) == granted


def test_what_ended_is_settled_and_what_it_freed_passes_its_gate_in_the_same_exchange(queue):
    parent = queue.publish()
    child = queue.publish("limited", depends_on=[parent], payload='{"prompt":"hi"}')
    held = queue.take()
    gate = SlotGate(1)

    end = Settlement(held.task_id, held.attempt, "w1", AttemptOutcome.COMPLETED, TaskStatus.COMPLETED, '"done"')
    exchanged = queue.tasks.exchange([end], request({"limited": gate}), queue.now)

    assert [(claim.task_id, claim.depends_on, claim.grant) for claim in exchanged.claims] == [
        (child, (parent,), gate.given[0])
    ]
    assert gate.asked == [("limited", '{"prompt":"hi"}')]


def test_with_ageing_the_one_that_waited_longest_gets_the_slot(queue):
    old = queue.publish("limited", priority=1)
    queue.later(1000)
    queue.publish("limited", priority=2)

    [claim] = queue.tasks.exchange([], request({"limited": SlotGate(1)}, ageing=60.0), queue.now).claims

    assert claim.task_id == old


def test_a_gate_without_ready_tasks_is_not_asked_and_closes_nothing(queue):
    queue.publish("limited", run_at=queue.now + 60)
    gate = SlotGate(0)

    assert queue.tasks.exchange([], request({"limited": gate}), queue.now).opens_in == math.inf
    free = queue.publish()
    exchanged = queue.tasks.exchange([], request({"limited": gate}), queue.now)
    assert ([claim.task_id for claim in exchanged.claims], exchanged.opens_in) == ([free], math.inf)
    assert gate.asked == []


def test_an_expired_task_gets_no_slot(queue):
    queue.publish("limited", expires_at=queue.now + 1)
    alive = queue.publish("limited", expires_at=queue.now + 100)
    queue.later(5)
    gate = SlotGate(2)

    assert [claim.task_id for claim in queue.tasks.exchange([], request({"limited": gate}), queue.now).claims] == [
        alive
    ]
    assert len(gate.given) == 1


@pytest.mark.parametrize("second", [StoreError("the disk is full"), KeyboardInterrupt(), RuntimeError("boom")])
def test_a_claim_that_fails_takes_nothing_and_gives_back_every_grant(queue, second):
    tasks = [queue.publish("limited") for _ in range(2)]

    class Failing(SlotGate):
        def take(self, capability, payload):
            if self.given:
                raise second
            return super().take(capability, payload)

    gate = Failing(5)
    with pytest.raises(type(second)):
        queue.tasks.exchange([], request({"limited": gate}), queue.now)

    assert [slot.returned for slot in gate.given] == [1]
    assert [queue.status(task) for task in tasks] == ["pending", "pending"]


def test_an_agent_that_can_do_anything_needs_no_grant(queue):
    task = queue.publish("limited")

    [claim] = queue.claim(capabilities=None)

    assert (claim.task_id, claim.grant) == (task, None)
