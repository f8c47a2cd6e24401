"""However a handler ends, its attempt is settled once, truthfully and at once: in a loop, in a thread, in a child process."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.running.settling import KEPT_OF_A_LARGE_RESULT, LARGEST_RESULT, LONGEST_ERROR
from core.cloud.task import Task
from core.json_types import dumps
from tests.process.queue_setup import Queue, queue
from tests.support.hostile import ERRORS, UNWRITABLE, WRITTEN, act, act_async, group, text_of_points

__all__ = ["queue"]

HERE = ("act", "act_async")


def play(queue: Queue, names: tuple[str, ...], payloads: list[Any], **options: Any) -> list[tuple[Any, Task]]:
    """Each payload once by each handler, with the task as it ended."""
    if not queue.runners:
        queue.handlers.register("act", act)
        queue.handlers.register("act_async", act_async)
        queue.handlers.register("act_apart", act, isolation="process")
        queue.run()
    published = [
        (payload, queue.publisher.publish(name, payload, **{"max_retries": 0, **options}))
        for payload in payloads
        for name in names
    ]
    return [(payload, queue.finished(task)) for payload, task in published]


def told_once(queue: Queue, task: Task) -> bool:
    return [attempt.number for attempt in queue.publisher.attempts(task.task_id)] == [1]


def check_failure(queue: Queue, what: str, task: Task) -> None:
    assert task.status == "failed", what
    assert queue.outcomes(task) == ["failed"], what
    assert task.error is not None
    assert len(task.error) <= LONGEST_ERROR
    assert what.split(maxsplit=1)[0] in task.error, what


def test_every_hostile_error_fails_its_attempt_at_once_under_its_own_name(queue: Queue) -> None:
    for payload, task in play(queue, HERE, [{"how": "raise", "what": name} for name in ERRORS]):
        what = payload["what"]
        if task.name == "act_async" and what == "StopIteration":
            what = "RuntimeError"  # what Python itself makes of it in a coroutine
        check_failure(queue, what, task)


def some(table: Any, *names: str) -> list[Any]:
    """A few of a table in the usual run, since each takes a child process, and the others in the long one."""
    rest = [name for name in table if name not in names]
    return [list(names), *(pytest.param(rest[n::4], marks=pytest.mark.soak) for n in range(4))]


@pytest.mark.parametrize(
    "names",
    some(ERRORS, "StrRaises", "ClassRaises", "EveryAttributeRaises", "CannotBePickled", "NoSeconds", "GeneratorExit"),
)
def test_every_hostile_error_of_a_child_process_is_told_by_its_own_name(queue: Queue, names: list[str]) -> None:
    for payload, task in play(queue, ("act_apart",), [{"how": "raise", "what": name} for name in names]):
        check_failure(queue, payload["what"], task)


def test_what_pydantics_json_mode_can_write_is_the_result(queue: Queue) -> None:
    for payload, task in play(queue, HERE, [{"how": "return", "what": name} for name in WRITTEN]):
        assert (task.status, task.result) == ("completed", WRITTEN[payload["what"]][1]), payload
        assert told_once(queue, task)


@pytest.mark.parametrize("names", some(WRITTEN, "dataclass", "model", "array", "surrogate"))
def test_a_child_process_writes_its_result_itself_so_that_the_parent_needs_none_of_its_types(
    queue: Queue, names: list[str]
) -> None:
    for payload, task in play(queue, ("act_apart",), [{"how": "return", "what": name} for name in names]):
        assert (task.status, task.result) == ("completed", WRITTEN[payload["what"]][1]), payload


def test_what_cannot_be_written_fails_for_good_with_the_start_of_its_repr(queue: Queue) -> None:
    payloads = [{"how": "return what cannot be written", "what": name} for name in UNWRITABLE]
    for payload, task in play(queue, HERE, payloads, max_retries=3):
        check_failure(queue, "Permanent: What the handler returned cannot be written as JSON", task)
        assert "Its repr begins: " in task.error, payload


@pytest.mark.parametrize("names", some(UNWRITABLE, "an object", "repr that exits", "too deep"))
def test_a_child_process_tells_what_it_cannot_write(queue: Queue, names: list[str]) -> None:
    payloads = [{"how": "return what cannot be written", "what": name} for name in names]
    for _, task in play(queue, ("act_apart",), payloads, max_retries=3):
        check_failure(queue, "Permanent: What the handler returned cannot be written as JSON", task)


points = st.lists(
    st.one_of(
        st.sampled_from([0, 9, 10, 0x7F, 0xD800, 0xDBFF, 0xDC00, 0xDCE9, 0xDFFF, 0xFFFD, 0xFFFF, 0x1F600, 0x10FFFF]),
        st.integers(0, 0x10FFFF),
    ),
    max_size=30,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    said=st.lists(
        st.tuples(st.sampled_from(["say", "permanent", "progress", "return text"]), points), min_size=1, max_size=8
    )
)
def test_any_text_in_errors_results_and_progress_is_stored_in_one_run(queue: Queue, said: list[Any]) -> None:
    payloads = [{"how": how, "what": what} for how, what in said]
    for payload, task in play(queue, HERE, payloads):
        how, text = payload["how"], text_of_points(payload["what"])
        assert told_once(queue, task)
        if how in ("say", "permanent"):
            assert task.status == "failed"
            assert task.error.startswith("ValueError" if how == "say" else "Permanent")
            assert plain(text).strip() in task.error or "[redacted]" in task.error
        elif how == "progress":
            assert (task.status, task.result) == ("completed", "went on")
        else:
            assert task.status == "completed"
            (key, [value]) = next(iter(task.result.items()))
            assert key == value == whole(text)


def whole(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def plain(text: str) -> str:
    return whole(text).replace("\0", "�")


GROUPS: list[tuple[list[Any], int, float | None, list[str]]] = [
    (["permanent"], 1, None, ["Permanent: never"]),
    (["argument"], 1, None, ["InvalidArgument: no good"]),
    (["connection"], 3, None, ["ConnectionError: refused"]),
    (["later"], 3, 0.01, ["RetryLater: soon"]),
    (["later", "later still"], 3, 0.02, ["RetryLater: soon", "RetryLater: later"]),
    (["value", "later", "permanent"], 1, None, ["ValueError: odd", "RetryLater: soon", "Permanent: never"]),
    ([["permanent"], "value"], 1, None, ["Permanent: never", "ValueError: odd"]),
    ([[["later"]], "connection"], 3, 0.01, ["RetryLater: soon", "ConnectionError: refused"]),
]


@pytest.mark.parametrize(
    ("raised", "attempts", "wait", "named", "isolation"),
    [(*case, "thread") for case in GROUPS] + [(*case, "process") for case in GROUPS[5:]],
)
def test_errors_inside_a_task_group_are_named_and_honoured(
    queue: Queue, raised: list[Any], attempts: int, wait: float | None, named: list[str], isolation: Any
) -> None:
    queue.handlers.register("group", group, isolation=isolation)
    queue.run()

    task = queue.finished(queue.publisher.publish("group", raised, max_retries=2))

    assert task.attempts == attempts
    assert "ExceptionGroup: unhandled errors in a TaskGroup" in task.error
    assert all(each in task.error for each in named)
    if wait is not None:
        first, second, *_ = queue.publisher.attempts(task.task_id)
        assert (second.started_at - first.ended_at).total_seconds() >= wait


LARGE = {
    "one long text": "x",
    "characters of several bytes": "\u20ac",
    "characters outside the first plane": "\U0001f600",
    "what JSON escapes": '"',
    "lines": "line\n",
    "many fields": None,
}


def returns_much(payload: Any) -> Any:
    if LARGE[payload] is None:
        return {f"field {number}": [number] * 10 for number in range(60_000)}
    return {"paid": "for", "all": LARGE[payload] * 1_200_000}


async def returns_much_too(payload: Any) -> Any:
    return returns_much(payload)


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, place) for place in ("thread", "loop") for kind in LARGE]
    + [("lines", "process"), ("many fields", "process")],
)
def test_of_a_result_that_is_too_large_the_start_stays_readable(queue: Queue, kind: str, place: str) -> None:
    handler = returns_much_too if place == "loop" else returns_much
    queue.handlers.register("much", handler, isolation="process" if place == "process" else "thread")
    queue.run()

    task = queue.finished(queue.publisher.publish("much", kind, max_retries=3))

    whole_text = dumps(returns_much(kind))
    size = len(whole_text.encode())
    assert (task.status, task.attempts) == ("failed", 1)
    assert task.error.startswith(
        f"Permanent: The handler returned {size:,} bytes of JSON; a result may have 1,048,576."
    )
    assert "return its path" in task.error
    assert isinstance(task.result, str)
    assert whole_text.startswith(task.result)
    assert KEPT_OF_A_LARGE_RESULT - 4 < len(task.result.encode()) <= KEPT_OF_A_LARGE_RESULT < LARGEST_RESULT


def test_what_is_kept_of_a_large_result_is_no_result_for_others_goes_through_an_export_and_goes_with_a_retry(
    queue: Queue, tmp_path: Path
) -> None:
    queue.handlers.register("much", returns_much)
    queue.run()
    task = queue.finished(queue.publisher.publish("much", "lines"))
    child = queue.publisher.publish("echo", f"${{{task.task_id}}}", depends_on=[task])
    file, copy = tmp_path / "queue.jsonl", EnhancedCloudTaskPublisher(str(tmp_path / "copy.db"))

    queue.publisher.export(file)
    copy.import_(file)

    assert queue.publisher.get_task(child.task_id).status == "pending"
    assert queue.store.tasks.results([task.task_id]) == {}
    assert copy.get_task(task.task_id).result == task.result
    copy.close()
    queue.handlers.register("much", lambda payload: "less")
    queue.publisher.retry_task(task.task_id)
    assert queue.finished(child).result == "less"
    assert queue.publisher.get_task(task.task_id).error is None
