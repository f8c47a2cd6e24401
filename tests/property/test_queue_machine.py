"""The queue against a naive model of it: whatever users, worker processes and the clock do, both agree after each step.

The publisher is the real one, and the worker processes are the runner's own parts, moved a step at a time: they claim, run,
settle, renew, time out, keep the queue up, are suspended, stopped and killed, see the database fail, and come too late.

Twice: hypothesis searches and shrinks, and long seeded walks, on a file that each process opens for itself, reach crowded
states that short searches do not.
"""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.queue_world import QueueWorld

ANYTIME = ("publish", "publish", "publish_many", "publish_graph", "wait", "upkeep")
WORK = ("exchange",) * 4 + ("finish",) * 4 + ("deadlines", "renew", "run_by_hand", "claim", "agent_reports")
RARE = ("cancel", "retry", "report", "hear", "finish_too_late", "kill", "stop", "cleanup_expired", "look")
RAREST = ("refused", "purge", "import_again", "move_house")


def doing(name):
    """A rule that does one thing to the world."""

    def act(self, data):
        getattr(self.world, name)(lambda options: data.draw(st.sampled_from(options), label=name))

    ready = precondition(lambda self: hasattr(self, "world") and self.world.model.tasks)
    act.__name__ = name
    named = rule(data=st.data())(act)
    return named if name in ANYTIME else ready(named)


class QueueMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.world = QueueWorld()

    @invariant()
    def both_agree(self):
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self):
        if hasattr(self, "world"):
            self.world.close()


for _name in dict.fromkeys(ANYTIME + WORK + RARE + RAREST):
    setattr(QueueMachine, _name, doing(_name))

TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=40,
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
            names = ANYTIME if not world.model.tasks else (ANYTIME * 2 + WORK * 2 + RARE * 2 + RAREST)
            name = rng.choice(names)
            if len(world.model.tasks) > 40 and name.startswith("publish"):
                name = "purge"
            done.append(name)
            getattr(world, name)(rng.choice)
            world.check()
    except BaseException as error:
        error.add_note(f"seed {seed}, step {len(done)}; the last steps: {', '.join(done[-12:])}")
        raise
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_long_walk_keeps_the_queue_and_its_model_in_step(tmp_path, seed):
    walk(str(tmp_path / "queue.db"), seed, 300)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_many_long_walks_keep_the_queue_and_its_model_in_step(seed):
    walk(":memory:", seed, 1000)
