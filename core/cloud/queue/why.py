"""Why a task is not running, in words. Pure."""

import math
from dataclasses import dataclass

from core.clock import to_iso
from core.cloud.gate import Closed
from core.cloud.retry import SUSPECT_AFTER
from core.cloud.store_contract import Situation
from core.cloud.task import Task, TaskStatus

NAMED = 5
"""Dependencies that are named; the rest are counted."""


ASK_USER = "ask_user"
"""Name of a task that is a question: no process runs it, a person (or an agent) completes it."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the process that is asked could itself do about a task."""

    able: bool = False
    """It has a handler for it, and what that handler needs."""
    runs: bool = False
    """A runner of this process runs tasks."""
    lacking: str = ""
    """What it misses, in words; '' when there is nothing to tell."""
    hindrance: str = ""
    """What keeps it from beginning any task of this kind for now, in words; '' for nothing."""


NOTHING = Means()


def nobody_is_able(situation: Situation, means: Means) -> bool:
    """True when no live process could run the task, the one that is asked included."""
    return situation.able_workers == 0 and not (means.able and means.runs)


def explain(situation: Situation, now: float, means: Means = NOTHING, closed: Closed | None = None) -> str:
    """One or a few sentences. `closed` is the limit that it waits for, when it does."""
    task = situation.task
    if task.status is TaskStatus.COMPLETED:
        return f"Completed at {_iso(task.completed_at)}."
    if task.status is TaskStatus.FAILED:
        return f"Failed at {_iso(task.completed_at)} after {_times(task.attempts)}: {_reason(task)}. retry_task runs it again."
    if task.status is TaskStatus.CANCELLED:
        return f"Cancelled at {_iso(task.completed_at)}: {_reason(task)}. retry_task runs it again."
    if task.status is TaskStatus.EXPIRED:
        return _expired(task)
    if task.status in (TaskStatus.ACKNOWLEDGED, TaskStatus.RUNNING):
        return _held(situation, now)
    return " ".join(_pending(situation, now, means, closed))


def _expired(task: Task) -> str:
    after = f" after {_times(task.attempts)}" if task.attempts else ""
    said = _reason(task) if task.error else "Expired before it could start"
    comma = "," if after else ""
    why = f"{comma} {said.removeprefix('Expired ')}" if said.startswith("Expired ") else f": {said}"
    return f"Expired at {_iso(task.completed_at)}{after}{why}. retry_task runs it again."


def _reason(task: Task) -> str:
    return (task.error or "no reason given").rstrip(". ")


def _held(situation: Situation, now: float) -> str:
    task = situation.task
    lease = task.lease_until.timestamp() if task.lease_until else now
    since = f"It is {task.status} since {_iso(task.started_at)}, held by {task.worker} (attempt {task.attempts})."
    if lease <= now:
        return f"{since} Its lease ended at {_iso(task.lease_until)}: it will be given to another worker."
    return f"{since} Its lease runs until {_iso(task.lease_until)} and is renewed while its worker lives."


def _pending(situation: Situation, now: float, means: Means, closed: Closed | None) -> list[str]:
    task = situation.task
    said = []
    if task.expires_at is not None and task.expires_at.timestamp() <= now:
        return [f"It expired at {_iso(task.expires_at)} and will not start."]
    if situation.unfinished:
        named = ", ".join(f"{task_id} ({status})" for task_id, status in situation.unfinished[:NAMED])
        more = len(situation.unfinished) - NAMED
        said.append(f"It waits for {named}{f' and {more} more' if more > 0 else ''}.")
        if any(status in _STUCK for _, status in situation.unfinished):
            said.append("A dependency that failed, expired or was cancelled must be retried before this can start.")
    if task.run_at is not None and task.run_at.timestamp() > now:
        again = "It is tried again" if task.attempts else "It starts"
        said.append(f"{again} at {_iso(task.run_at)} at the earliest.")
        if task.error:
            said.append(f"The last attempt failed: {_reason(task)}.")
    if nobody_is_able(situation, means):
        said.append(_nobody(situation, means))
    elif not said:
        turn = _turn(situation) if closed is None else _limited(situation, closed)
        said += [turn, *_hindrance(situation, means)]
    if task.interruptions >= SUSPECT_AFTER:
        said.append(
            f"Its worker died {task.interruptions} times while running it, so each process runs one such task at a time."
        )
    if task.expires_at is not None:
        said.append(f"It expires at {_iso(task.expires_at)}.")
    return said


_STUCK = (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED)


def _nobody(situation: Situation, means: Means) -> str:
    task = situation.task
    if task.name == ASK_USER:
        return (
            "It waits for the user's answer."
            if not situation.unfinished
            else "It will then wait for the user's answer."
        )
    if means.able:
        return (
            "This process has a handler for it but runs no tasks, and nor does another: start `heablcoin-cloud worker`, "
            "or a server whose HEABLCOIN_CLOUD_CONCURRENCY is above 0."
        )
    if task.name == "ai_call":
        bound = situation.capability.partition("@")[2]
        what = f"the endpoint {bound}" if bound else "an LLM endpoint"
        missing = means.lacking or "start `heablcoin-cloud worker`, or a server, where one with its key is."
        return f"No running process can use {what}: {missing}"
    missing = means.lacking or "start `heablcoin-cloud worker` with one, or claim it and report its result."
    return f"No live worker has a handler named {task.name!r}: {missing}"


def _turn(situation: Situation) -> str:
    if situation.ahead == 0:
        return "It is ready and next in turn."
    count = f"{situation.ahead}" if situation.ahead < 1000 else "1,000 or more"
    return f"It is ready and waits for its turn behind {count} other task(s)."


def _hindrance(situation: Situation, means: Means) -> list[str]:
    if not means.hindrance:
        return []
    return [means.hindrance, "Another process may take it."] if situation.able_workers > 1 else [means.hindrance]


def _limited(situation: Situation, closed: Closed) -> str:
    wait = closed.starts_in(situation.before)
    when = f"about {_span(wait)}" if wait < math.inf else "nobody knows how long"
    before = f", {situation.before:,} before it" if situation.before else ""
    return f"It waits for {closed.what}: {when}{before}. Waiting uses up no retry and none of its timeout."


def _span(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _iso(moment: object) -> str:
    return to_iso(moment.timestamp()) if hasattr(moment, "timestamp") else "an unknown time"
