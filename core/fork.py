"""What a process does not share with the one it was forked from (gunicorn with preload, multiprocessing by fork).

A child has its parent's memory and none of its threads, and each lock is as it was at that moment: held for ever, if a thread held it.
Whoever owns threads, locks or connections says here how to begin anew.
"""

import logging
import os
import weakref
from collections.abc import Callable

log = logging.getLogger(__name__)


class ForkAware:
    """Has something that must not be used on both sides of a fork. All three are called in the thread that forks."""

    def before_fork(self) -> None:
        """Let go of what a child must not even inherit. Bounded in time."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew: no other thread is there. What belongs to the parent is left alone, not closed."""


_AWARE: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()
_FORKING: list[ForkAware] = []
_ABANDONED: list[object] = []


def tell_of_forks(one: ForkAware) -> None:
    """Call `one` at each fork, for as long as somebody else refers to it."""
    _AWARE.add(one)


def abandon(*things: object) -> None:
    """Keep what belongs to the parent from being collected: closing it here could be felt there."""
    _ABANDONED.extend(things)


def _before() -> None:
    _FORKING[:] = list(_AWARE)
    for one in _FORKING:
        _call(one.before_fork)


def _in_parent() -> None:
    for one in reversed(_FORKING):
        _call(one.after_fork_in_parent)
    _FORKING.clear()


def _in_child() -> None:
    for one in reversed(_FORKING):
        _call(one.after_fork_in_child)
    _FORKING.clear()


def _call(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:
        log.exception("a step around a fork failed")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
