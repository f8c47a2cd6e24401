"""The queue against a naive model of it: whatever users, several workers and the clock do, both agree after each step.

Twice: hypothesis searches and shrinks, and long seeded walks reach crowded states that short searches do not.
"""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.queue_world import QueueWorld

USUAL = ("publish", "publish_graph", "claim", "claim", "settle_what_is_held", "settle_what_is_held", "wait", "maintain")
RARE = ("cancel", "retry", "report", "settle_what_was_ever_held", "renew", "release")


def doing(name):
    """A rule that does one thing to the world."""

    def act(self, data):
        getattr(self.world, name)(lambda options: data.draw(st.sampled_from(options), label=name))

    ready = precondition(lambda self: hasattr(self, "world") and self.world.model)
    act.__name__ = name
    named = rule(data=st.data())(act)
    return named if name.startswith(("publish", "wait", "maintain")) else ready(named)


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


for _name in dict.fromkeys(USUAL + RARE):
    setattr(QueueMachine, _name, doing(_name))

TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("seed", range(12))
def test_a_long_walk_keeps_the_queue_and_its_model_in_step(seed):
    rng = random.Random(seed)
    world = QueueWorld()
    try:
        world.publish(rng.choice)
        for step in range(300):
            crowd = len(world.model)
            name = rng.choice(USUAL * 2 + RARE)
            if crowd > 40 and name.startswith("publish"):
                name = "settle_what_is_held"
            getattr(world, name)(rng.choice)
            if step % 5 == 0:
                world.check()
        world.check()
    finally:
        world.close()
