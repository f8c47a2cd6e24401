"""Daemon threads that are used again: starting one costs more than most calls."""

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE = 5.0
"""Seconds that a thread waits for its next call before it ends."""

Work = Callable[[], Callable[[], None]]
"""What a thread is to do; it returns what tells the caller, done once the thread can be used again."""

_idle: deque[SimpleQueue[Work]] = deque()
"""The inboxes of the threads that wait, the latest last."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a fork has none of its parent's threads


def start_in_thread(work: Work) -> None:
    """Run `work` in a daemon thread that has nothing to do, or in a new one: there is no limit and no queue."""
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="heablcoin-call", daemon=True).start()
    inbox.put(work)


def _serve(inbox: SimpleQueue[Work]) -> None:
    while True:
        try:
            work = inbox.get(timeout=IDLE)
        except Empty:
            try:
                _idle.remove(inbox)
            except ValueError:  # chosen at this very moment: the call is on its way
                continue
            return
        answer = work()
        _idle.append(inbox)
        answer()
        del work, answer  # keep nothing of the call alive while waiting
