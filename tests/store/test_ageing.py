"""What every task store promises about waiting that counts: nobody starves, and without it priority is all."""

import random

import pytest

STEP = 60.0


def order(queue, ageing, limit=1000, **fields):
    return [claim.task_id for claim in queue.claim(limit=limit, ageing=ageing, **fields)]


def test_without_ageing_low_waits_as_long_as_there_is_anything_more_urgent(queue):
    low = queue.publish(priority=1)
    queue.later(10**6)
    urgent = [queue.publish(priority=4) for _ in range(3)]
    assert order(queue, None) == [*urgent, low]


@pytest.mark.parametrize(
    ("priority", "waited", "first"),
    [
        (1, 3 * STEP + 1, True),
        (1, 3 * STEP - 1, False),
        (2, 2 * STEP + 1, True),
        (2, 2 * STEP - 1, False),
        (3, STEP + 1, True),
        (3, STEP - 1, False),
        (4, 1, True),
    ],
)
def test_each_step_of_priority_is_made_up_for_by_so_much_waiting(queue, priority, waited, first):
    old = queue.publish(priority=priority)
    queue.later(waited)
    urgent = queue.publish(priority=4)
    assert order(queue, STEP) == ([old, urgent] if first else [urgent, old])


def test_under_a_constant_stream_of_urgent_work_the_low_task_runs_when_its_waiting_makes_up_for_it(queue):
    low = queue.publish(priority=1)
    began = queue.now
    while queue.now < began + 1000:
        queue.publish(priority=4)
        queue.publish(priority=4)  # more than is done
        [claim] = queue.claim(ageing=STEP)
        queue.settle(claim)
        if claim.task_id == low:
            break
        queue.later(10)
    else:
        pytest.fail("the low task never ran")
    # All that was published in its first three minutes goes first: twice as much as is done in that time.
    assert 3 * STEP <= queue.now - began <= 6 * STEP + 20


def test_a_delayed_task_waits_from_the_time_at_which_it_may_start(queue):
    late = queue.publish(priority=1, run_at=queue.now + 1000)
    queue.later(1000)
    queue.maintain()
    urgent = queue.publish(priority=4)
    assert order(queue, STEP) == [urgent, late]


def test_what_expired_or_cannot_be_run_here_holds_up_nobody(queue):
    queue.publish(priority=1, expires_at=queue.now + 1)
    elsewhere = queue.publish("other", priority=1)
    here = queue.publish(priority=2)
    queue.later(10_000)
    assert order(queue, STEP) == [here]
    assert order(queue, STEP, capabilities=("work", "other")) == [elsewhere]


def test_suspects_come_one_at_a_time_here_too(queue):
    ids = [queue.publish() for _ in range(2)]
    for _ in range(2):
        queue.claim(limit=9, lease=1)
        queue.later(2)
        queue.maintain()
    assert order(queue, STEP, suspects=1) == ids[:1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_any_queue_is_claimed_in_the_order_of_waiting_and_priority(queue, seed, limit):
    rng = random.Random(seed)
    expected = []
    for number in range(60):
        priority, name = rng.randint(1, 4), rng.choice(["work", "other"])
        task_id = queue.publish(name, priority=priority)
        expected.append((queue.now - STEP * priority, number, task_id))
        queue.later(rng.choice([0, 1, 30, 200]))
    found = []
    while claimed := order(queue, STEP, limit, capabilities=("work", "other")):
        found += claimed
    assert found == [task_id for _, _, task_id in sorted(expected)]
