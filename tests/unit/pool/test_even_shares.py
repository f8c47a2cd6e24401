"""Shares of endpoints when some of them rest: those that do not share what is left evenly, and no neighbour has more."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.member import Member
from core.cloud.pool.pool_state import Listing
from core.cloud.pool.private_state import PrivatePoolState
from core.cloud.pool.selection import FEW, Roster

EVEN = ["round_robin", "priority", "least_busy", "random", "weighted", "least_latency"]
"""Strategies that have no reason to prefer one of several equal endpoints."""


def roster(size, seed=1, **settings):
    store, members = PrivatePoolState(), []
    for index in range(size):
        endpoint = ApiEndpoint(f"e{index}", f"https://e{index}.example", priority=1, **settings)
        store.save(Listing(endpoint, needs_key=False))
        members.append(Member(endpoint, store.open(endpoint)))
    return Roster(members, random.Random(seed))


def shares(chosen, strategy, picks, avoid=()):
    return Counter(chosen.choose(strategy, 100.0, avoid).name for _ in range(picks))


@pytest.mark.parametrize("strategy", EVEN)
@pytest.mark.parametrize("resting", range(3))
def test_two_of_three_have_the_same_share_whichever_rests(strategy, resting):
    three = roster(3)
    three.members[resting].ready_at = 1e9
    counts = shares(three, strategy, 6000)
    assert len(counts) == 2
    assert max(counts.values()) - min(counts.values()) < 6000 * 0.06


@pytest.mark.parametrize("strategy", ["round_robin", "priority"])
@pytest.mark.parametrize("resting", range(3))
def test_turns_are_shared_exactly_among_few(strategy, resting):
    three = roster(3)
    three.members[resting].ready_at = 1e9
    assert set(shares(three, strategy, 600).values()) == {300}


@pytest.mark.parametrize("strategy", EVEN)
@pytest.mark.parametrize(
    ("size", "resting"), [(4, {1, 2}), (5, {0}), (5, {0, 1, 2}), (8, {3}), (10, {0, 1, 2, 3, 4}), (30, {7})]
)
def test_those_that_work_share_evenly(strategy, size, resting):
    some = roster(size)
    for index in resting:
        some.members[index].ready_at = 1e9
    working = size - len(resting)
    counts = shares(some, strategy, 3000 * working)
    assert len(counts) == working
    # Six standard deviations of an even choice.
    assert all(abs(count - 3000) < 6 * 3000**0.5 for count in counts.values()), counts


@pytest.mark.parametrize("strategy", ["round_robin", "priority", "least_busy"])
def test_endpoints_to_avoid_leave_their_share_to_all_others(strategy):
    some = roster(4)
    counts = shares(some, strategy, 9000, avoid={some.members[2]})
    assert len(counts) == 3
    assert max(counts.values()) - min(counts.values()) < 9000 * 0.06


@given(
    size=st.integers(1, 40),
    resting=st.sets(st.integers(0, 39)),
    strategy=st.sampled_from(EVEN),
    seed=st.integers(0, 999),
)
def test_who_rests_is_never_chosen_and_who_works_always_found(size, resting, strategy, seed):
    some = roster(size, seed)
    for index in resting:
        if index < size:
            some.members[index].ready_at = 1e9
    able = {member.name for member in some.members if member.ready_at <= 100.0}
    for _ in range(20):
        member = some.choose(strategy, 100.0)
        assert (member.name if member else None) in (able or {None})


@pytest.mark.parametrize("strategy", EVEN)
def test_a_choice_looks_at_few_of_many(strategy):
    looked = Counter()

    class Watched(frozenset):
        def __contains__(self, member):
            looked[member] += 1
            return False

    many = roster(2000)
    for member in many.members[::10]:
        member.ready_at = 1e9
    for _ in range(100):
        many.choose(strategy, 100.0, Watched())
    assert sum(looked.values()) < 100 * (FEW + 4)
