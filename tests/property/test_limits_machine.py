"""Where the pool meets the queue: limits, holds, budgets, priorities, several processes, crashes and jumps of the clock, in any order.

After each step: no window, no budget and no number of calls at once was passed; what waits holds nothing; no attempt was counted
that did not leave; nothing that was published is lost. Whenever something starts, nothing was left that goes before it and
could have used its slot. And as time passes, whatever could start has started, with nobody telling anybody to look.

Twice, as in test_queue_machine: hypothesis searches and shrinks, and seeded walks reach crowded states.
"""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.limits_world import LimitsWorld

USUAL = ("publish",) * 4 + ("wait",) * 5 + ("end_calls",) * 6 + ("look",) * 2
RARE = (
    "direct_call",
    "cancel",
    "change_endpoint",
    "remove_endpoint",
    "crash",
    "commit_fails",
    "clock_jumps",
    "next_day",
)
SOMETIMES = (None, None, None, "clock_jumps", "next_day")
"""Of most walks both are left out: what they excuse is then checked all the way."""


def doing(name):
    """A rule that does one thing to the world."""

    def act(self, data):
        self.do(name, lambda options: data.draw(st.sampled_from(options), label=name))

    act.__name__ = name
    return rule(data=st.data())(act)


class LimitsMachine(RuleBasedStateMachine):
    world = None

    @initialize(
        seed=st.integers(0, 99),
        pool_limit=st.sampled_from([0, 0, 4]),
        ageing=st.sampled_from([None, None, 20.0]),
        when_limited=st.sampled_from(["next", "next", "wait"]),
    )
    def start(self, seed, pool_limit, ageing, when_limited):
        self.world = LimitsWorld(seed, pool_limit=pool_limit, ageing=ageing, when_limited=when_limited)
        self.failed = False

    def do(self, name, choose):
        try:
            getattr(self.world, name)(choose)
        except BaseException:
            self.failed = True
            raise

    @rule(data=st.data())
    def work(self, data):
        """What happens most: else half of the steps would be unusual ones."""
        self.do(data.draw(st.sampled_from(USUAL)), lambda options: data.draw(st.sampled_from(options)))

    more_work = still_more_work = yet_more_work = work

    @invariant()
    def limits_hold_and_nothing_is_lost(self):
        if self.world is not None:
            self.do("check", None)

    def teardown(self):
        if self.world is not None:
            try:
                if not self.failed:
                    self.world.come_to_an_end()
            finally:
                self.world.close()


for _name in RARE:
    setattr(LimitsMachine, _name, doing(_name))

TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def walk(seed, steps):
    rng = random.Random(seed)
    rules = [*USUAL * 2, *RARE[:6], *(name for name in (rng.choice(SOMETIMES), rng.choice(SOMETIMES)) if name)]
    world = LimitsWorld(
        seed,
        pool_limit=rng.choice([0, 0, 4]),
        ageing=rng.choice([None, None, 20.0]),
        when_limited=rng.choice(["next", "next", "wait"]),
    )
    done = []
    try:
        for _ in range(steps):
            done.append(rng.choice(rules))
            getattr(world, done[-1])(rng.choice)
            world.check()
        world.come_to_an_end()
    except BaseException as error:
        error.add_note(f"seed {seed}, step {len(done)}; the last steps: {', '.join(done[-12:])}")
        raise
    finally:
        world.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_through_limits_keeps_what_is_promised_of_them(seed):
    walk(seed, 60)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_many_walks_through_limits_keep_what_is_promised_of_them(seed):
    walk(seed, 150)
