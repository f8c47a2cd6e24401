"""Why a task is not running, in words."""

from datetime import UTC, datetime, timedelta

import pytest

from core.cloud.gate import Closed
from core.cloud.queue.why import NOTHING, Means, explain, nobody_is_able
from core.cloud.store_contract import Situation
from core.cloud.task import TaskStatus
from tests.unit.test_task import MOMENT, a_task

NOW = MOMENT.timestamp()


def why(unfinished=(), workers=1, ahead=0, capability="work", means=NOTHING, before=0, closed=None, **task):
    situation = Situation(a_task(**task), list(unfinished), workers, ahead, before, capability)
    return explain(situation, NOW, means, closed)


def at(seconds):
    return datetime.fromtimestamp(NOW + seconds, UTC)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (why(), "It is ready and next in turn."),
        (why(ahead=3), "It is ready and waits for its turn behind 3 other task(s)."),
        (why(ahead=1000), "It is ready and waits for its turn behind 1,000 or more other task(s)."),
        (
            why(workers=0),
            "No live worker has a handler named 'work': start `heablcoin-cloud worker` with one, or claim it",
        ),
        (
            why(workers=0, means=Means(able=True)),
            "This process has a handler for it but runs no tasks, and nor does another: start `heablcoin-cloud worker`",
        ),
        (
            why(workers=0, name="ai_call", capability="ai_call@x"),
            "No running process can use the endpoint x: start `heablcoin-cloud worker`, or a server, where one with its key",
        ),
        (
            why(workers=0, name="ai_call", capability="ai_call"),
            "No running process can use an LLM endpoint: start `heablcoin-cloud worker`",
        ),
        (
            why(workers=0, name="ai_call", capability="ai_call", means=Means(runs=True, lacking="Do this.")),
            "No running process can use an LLM endpoint: Do this.",
        ),
        (why(workers=0, means=Means(able=True, runs=True)), "It is ready and next in turn."),
        (
            why(ahead=3, means=Means(able=True, runs=True, hindrance="Its threads are held.")),
            "It is ready and waits for its turn behind 3 other task(s). Its threads are held.",
        ),
        (
            why(workers=2, means=Means(able=True, runs=True, hindrance="Its threads are held.")),
            "It is ready and next in turn. Its threads are held. Another process may take it.",
        ),
        (why(workers=0, name="ask_user", capability="ask_user"), "It waits for the user's answer."),
        (
            why([("p1", TaskStatus.RUNNING)], workers=0, name="ask_user", capability="ask_user"),
            "It waits for p1 (running). It will then wait for the user's answer.",
        ),
        (why([("p1", TaskStatus.RUNNING)]), "It waits for p1 (running)."),
        (why([("p1", TaskStatus.FAILED)]), "A dependency that failed, expired or was cancelled must be retried"),
        (why([(f"p{n}", TaskStatus.PENDING) for n in range(9)]), "p4 (pending) and 4 more."),
        (why(run_at=at(60)), "It starts at 2026-11-23T20:01:00.250Z at the earliest."),
        (
            why(run_at=at(60), attempts=1, error="boom"),
            "It is tried again at 2026-11-23T20:01:00.250Z at the earliest. The last attempt failed: boom.",
        ),
        (why(expires_at=at(60)), "It expires at 2026-11-23T20:01:00.250Z."),
        (why(expires_at=at(0)), "It expired at 2026-11-23T20:00:00.250Z and will not start."),
        (
            why(status=TaskStatus.RUNNING, worker="w1", attempts=2, started_at=at(-5), lease_until=at(25)),
            "It is running since 2026-11-23T19:59:55.250Z, held by w1 (attempt 2). Its lease runs until",
        ),
        (
            why(status=TaskStatus.ACKNOWLEDGED, worker="w1", attempts=1, started_at=at(-5), lease_until=at(0)),
            "Its lease ended at 2026-11-23T20:00:00.250Z: it will be given to another worker.",
        ),
        (why(status=TaskStatus.COMPLETED, completed_at=at(0)), "Completed at 2026-11-23T20:00:00.250Z."),
        (why(status=TaskStatus.FAILED, completed_at=at(0), attempts=1, error="boom"), "after 1 attempt: boom."),
        (why(status=TaskStatus.FAILED, completed_at=at(0), attempts=4), "after 4 attempts: no reason given."),
        (
            why(status=TaskStatus.CANCELLED, completed_at=at(0), error="by hand"),
            "Cancelled at 2026-11-23T20:00:00.250Z: by hand.",
        ),
        (why(status=TaskStatus.EXPIRED, completed_at=at(0)), "before it could start. retry_task runs it again."),
        (
            why(
                status=TaskStatus.EXPIRED,
                completed_at=at(0),
                attempts=4,
                error="Expired before it could start again. Last error: boom",
            ),
            "Expired at 2026-11-23T20:00:00.250Z after 4 attempts, before it could start again. Last error: boom.",
        ),
        (
            why(status=TaskStatus.EXPIRED, completed_at=at(0), error="nobody wants it"),
            "Expired at 2026-11-23T20:00:00.250Z: nobody wants it. retry_task",
        ),
        (
            why(interruptions=3),
            "Its worker died 3 times while running it, so each process runs one such task at a time.",
        ),
    ],
)
def test_the_words_name_the_reason(said, words):
    assert words in said


def test_several_reasons_are_all_told():
    said = why([("p1", TaskStatus.PENDING)], workers=0, run_at=at(60), expires_at=at(600))
    assert "waits for p1" in said and "It starts at" in said and "No live worker" in said and "It expires at" in said


def test_a_ready_task_with_a_worker_never_blames_the_worker():
    assert "No live" not in why(created_at=MOMENT - timedelta(days=1))


@pytest.mark.parametrize(
    ("workers", "means", "nobody"),
    [
        (0, NOTHING, True),
        (0, Means(able=True), True),
        (0, Means(runs=True), True),
        (0, Means(able=True, runs=True), False),
        (1, NOTHING, False),
    ],
)
def test_this_process_counts_when_it_runs_tasks_and_is_able_to(workers, means, nobody):
    assert nobody_is_able(Situation(a_task(), [], workers, 0, 0, "work"), means) is nobody


@pytest.mark.parametrize(
    ("closed", "before", "said"),
    [
        (Closed("e's limit of 60 a minute", 35.0, 60, 61.0), 0, "e's limit of 60 a minute: about 35 s."),
        (Closed("e's limit of 60 a minute", 35.0, 60, 61.0), 59, "e's limit of 60 a minute: about 35 s, 59 before it."),
        (Closed("e's limit of 60 a minute", 35.0, 60, 61.0), 140, "about 3 min, 140 before it."),
        (Closed("e's limit of 60 a minute", 0.2, 60, 61.0), 0, "about 1 s."),
        (Closed("e's limit of 1 a minute", 0.0, 1, 61.0), 2_000, "about 33.9 h, 2,000 before it."),
        (Closed("e, which takes 1 call at a time", 0.1), 0, "e, which takes 1 call at a time: about 1 s."),
        (Closed("e, which takes 1 call at a time", 0.1), 7, "nobody knows how long, 7 before it."),
    ],
)
def test_a_limit_is_named_with_the_wait_and_how_many_go_before(closed, before, said):
    told = why(ahead=before, before=before, closed=closed)

    assert told.startswith("It waits for e")
    assert said in told
    assert "no retry" in told


def test_what_nobody_can_run_waits_for_nobodys_limit():
    assert "No live worker" in why(workers=0, closed=Closed("e's limit of 60 a minute", 35.0, 60, 61.0))
