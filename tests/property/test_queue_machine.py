"""The queue against a naive model of it: whatever users, worker processes and the clock do, both agree after each step.

The publisher is the real one, and the worker processes are the runner's own parts, moved a step at a time: they claim, run,
settle, renew, time out, keep the queue up, are suspended, stopped and killed, see the database fail, and come too late.

Twice: hypothesis searches and shrinks, and long seeded walks reach crowded states that short searches do not. Every fourth
walk is on a file, which each process opens for itself; the rest share a store in memory.
"""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.examples import examples
from tests.support.queue_world import QueueWorld

ANYTIME = ("publish", "publish", "publish_many", "publish_graph", "wait", "wait", "upkeep", "upkeep")
WORK = (
    ("exchange",) * 5
    + ("finish",) * 4
    + ("deadlines", "deadlines", "renew", "renew", "progress", "run_by_hand", "claim", "agent_reports")
)
RARE = (
    "cancel",
    "retry",
    "report",
    "report",
    "hear",
    "finish_too_late",
    "cleanup_expired",
    "look",
    "suspend",
    "suspend",
    "clock_jumps",
)
RAREST = ("kill", "stop", "stop_in_haste", "refused", "purge", "import_again", "move_house")
USUAL = ANYTIME * 5 + WORK * 5 + RARE * 2 + RAREST

NOT_EMPTY = precondition(lambda self: hasattr(self, "world") and self.world.model.tasks)


def doing(name):
    """A rule that does one thing to the world."""

    def act(self, data):
        getattr(self.world, name)(lambda options: data.draw(st.sampled_from(options), label=name))

    act.__name__ = name
    named = rule(data=st.data())(act)
    return named if name in ANYTIME else NOT_EMPTY(named)


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.world = QueueWorld()

    @invariant()
    def both_agree(self):
        if hasattr(self, "world"):
            self.world.check()

    @NOT_EMPTY
    @rule(data=st.data())
    def work(self, data):
        """What happens most: else half of the steps would be unusual ones."""
        getattr(self.world, data.draw(st.sampled_from(WORK)))(lambda options: data.draw(st.sampled_from(options)))

    more_work = still_more_work = work

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()


for _name in dict.fromkeys(ANYTIME + WORK + RARE + RAREST):
    setattr(QueueMachine, _name, doing(_name))

TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=examples(60),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def walk(location, seed, steps):
    rng = random.Random(seed)
    world = QueueWorld(location)
    done = []
    try:
        for _ in range(steps):
            name = rng.choice(USUAL if world.model.tasks else ANYTIME)
            if len(world.model.tasks) > 30 and name.startswith("publish"):
                name = rng.choice(("retry", "purge", "exchange"))
            done.append(name)
            getattr(world, name)(rng.choice)
            if len(done) % 4 == 0:
                world.check()
        world.check()
    except BaseException as error:
        error.add_note(f"seed {seed}, step {len(done)}; the last steps: {', '.join(done[-12:])}")
        raise
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(24))
def test_a_long_walk_keeps_the_queue_and_its_model_in_step(tmp_path, seed):
    walk(str(tmp_path / "queue.db") if seed % 4 == 0 else ":memory:", seed, 400)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_long_walks_keep_the_queue_and_its_model_in_step(seed):
    walk(":memory:", seed, 3000)
