"""When lost leases may be taken back: not right after all of them only looked lost."""

import pytest

from core.clock import ManualClock
from core.cloud.queue.patience import Patience

LEASE = 30.0

JUMPS = {
    "an hour forward": 3600.0,
    "to another century": 174 * 365 * 86_400.0,
    "a laptop that slept for a minute": 60.0,
    "just more than live holders have left": LEASE / 3 + 0.1,
    "a daylight-saving hour on a clock that runs on local time": 3600.0,
    "a clock that starts in 1970 and is then set": 1.75e9,
}


@pytest.mark.parametrize("jump", JUMPS.values(), ids=list(JUMPS))
def test_after_a_jump_live_holders_have_one_lease_to_renew(jump):
    clock = ManualClock(1000.0)
    patience = Patience(clock, LEASE)
    assert patience.may_take_back()
    clock.set_now(clock.now() + jump)
    assert not patience.may_take_back()
    clock.advance(LEASE - 0.1)
    assert not patience.may_take_back()
    clock.advance(0.2)
    assert patience.may_take_back()


def test_ordinary_time_small_corrections_and_a_clock_that_goes_back_stop_nothing():
    clock = ManualClock(1000.0)
    patience = Patience(clock, LEASE, regular=True)
    for step, correction in ((1.0, 0.0), (5.0, 2.0), (0.02, -1.0), (1.0, -3600.0), (9.0, 0.0)):
        clock.advance(step)
        clock.set_now(clock.now() + correction)
        assert patience.may_take_back(), (step, correction)


def test_a_standstill_counts_for_whoever_looks_regularly_and_not_for_others():
    clock = ManualClock(1000.0)
    upkeep, publisher = Patience(clock, LEASE, regular=True), Patience(clock, LEASE)
    clock.advance(LEASE)
    assert not upkeep.may_take_back()
    assert publisher.may_take_back()
