"""The publisher as scripts and the server use it, on a store in memory with a clock of the test's own."""

import asyncio
import itertools
import threading

import pytest

from core.clock import ManualClock
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher, TaskPriority, TaskStatus
from core.cloud.store import open_store
from core.cloud.store_contract import ClaimRequest, TaskQuery
from core.errors import (
    DependencyCycle,
    InvalidArgument,
    InvalidTransition,
    LeaseLost,
    NoHandler,
    Permanent,
    RetryLater,
    StoreError,
    UnknownTask,
)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def publisher(clock):
    ids = itertools.count(1)
    with EnhancedCloudTaskPublisher(":memory:", clock=clock, draw_id=lambda: f"{next(ids):016x}") as opened:
        yield opened


def test_a_name_is_enough_and_what_comes_back_is_what_was_stored(publisher):
    task = publisher.publish(name="ping", timeout=5.0)
    assert (task.payload, task.timeout, task.status) == ({}, 5.0, "pending")
    assert publisher.get_task(task.task_id) == task
    full = publisher.publish("x", {"a": (1, 2)}, 4, ["t"], 9, 60, [task], 1, 30, "key", "cancel")
    assert publisher.get_task(full.task_id) == full
    assert full.payload == {"a": [1, 2]}


def test_ids_are_sixteen_hex_digits_that_nobody_can_guess():
    with EnhancedCloudTaskPublisher(":memory:") as publisher:
        ids = {publisher.publish("x").task_id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in ids)


def test_a_bad_value_in_a_batch_or_a_graph_stores_nothing_and_names_its_place(publisher):
    with pytest.raises(InvalidArgument, match="Task 1: timeout"):
        publisher.publish_many([{"name": "a"}, {"name": "b", "timeout": -1}])
    with pytest.raises(InvalidArgument, match="Task 1 has 'nam'"):
        publisher.publish_many([{"name": "a"}, {"nam": "b"}])
    with pytest.raises(InvalidArgument, match="Task 'b': The priority"):
        publisher.publish_graph({"a": {"name": "a"}, "b": {"name": "b", "priority": 9}})
    with pytest.raises(UnknownTask):
        publisher.publish_graph({"a": {"name": "a"}, "b": {"name": "b", "depends_on": ["nowhere"]}})
    with pytest.raises(DependencyCycle, match=r"a -> b -> a|b -> a -> b"):
        publisher.publish_graph({"a": {"name": "a", "depends_on": ["b"]}, "b": {"name": "b", "depends_on": ["a"]}})
    assert publisher.get_stats()["total"] == 0


def test_a_graph_runs_in_order_and_hands_results_on(publisher):
    publisher.register_handler("fetch", lambda payload: {"rows": [1, 2, 3], "source": payload["source"]})
    publisher.register_handler("count", lambda payload: len(payload["rows"]))
    tasks = publisher.publish_graph(
        {
            "report": {"name": "echo", "payload": "${count} rows from ${fetch.source}", "depends_on": "count,fetch"},
            "count": {"name": "count", "payload": {"rows": "${fetch.rows}"}, "depends_on": ["fetch"]},
            "fetch": {"name": "fetch", "payload": {"source": "binance"}},
        }
    )
    assert list(tasks) == ["report", "count", "fetch"]
    order = []
    while ready := publisher.get_ready_tasks():
        order.append(ready[0].name)
        publisher.execute_task(ready[0])
    assert order == ["fetch", "count", "echo"]
    assert publisher.get_task(tasks["report"].task_id).result == "3 rows from binance"


def test_a_unique_prefix_of_an_id_will_do_everywhere(publisher):
    for task_id in ("abcd000000000000", "abce000000000000"):
        publisher._draw_id = lambda task_id=task_id: task_id
        publisher.publish("x")
    assert publisher.get_task(" abcd").task_id == "abcd000000000000"
    assert publisher.cancel_task("abcd").task_id == "abcd000000000000"
    assert publisher.retry_task("abcd").status == "pending"
    assert publisher.update_status("abcd", "running").status == "running"
    assert publisher.why("abcd").startswith("It is running")
    assert len(publisher.attempts("abcd")) == 1
    for unclear in ("abc", "ab", "", "zzzz"):
        with pytest.raises(UnknownTask, match="newest are abce000000000000, abcd000000000000"):
            publisher.get_task(unclear)
    with pytest.raises(InvalidArgument):
        publisher.get_task(5)


def test_lists_take_the_guides_arguments(publisher):
    high = publisher.publish("a", priority=TaskPriority.HIGH.value, tags=["analysis"])
    low = publisher.publish("b", priority=1)
    assert publisher.list_tasks(status=TaskStatus.PENDING.value) == [high, low]
    assert publisher.list_tasks(status="pending", priority_min=3, limit=10) == [high]
    assert publisher.list_tasks(tags=["analysis"]) == publisher.list_tasks(tags="analysis") == [high]
    assert publisher.list_tasks(name="b") == [low]
    assert publisher.get_ready_tasks(limit=1) == [high]


@pytest.mark.parametrize(
    "arguments",
    [
        {"status": "nope"},
        {"priority_min": 9},
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "5"},
        {"tags": [3]},
        {"name": ""},
    ],
)
def test_a_list_with_a_bad_condition_is_refused(publisher, arguments):
    with pytest.raises(InvalidArgument):
        publisher.list_tasks(**arguments)


def test_a_ready_list_shows_a_delayed_task_once_its_time_has_come_and_never_an_expired_one(publisher, clock):
    later = publisher.publish("a", delay=10)
    publisher.publish("b", expires_in=5)
    assert [task.name for task in publisher.get_ready_tasks()] == ["b"]
    clock.advance(10)
    assert [task.task_id for task in publisher.get_ready_tasks()] == [later.task_id]
    assert publisher.get_stats()["expired"] == 1


def test_statistics_have_the_guides_keys_and_every_status(publisher, clock):
    empty = publisher.get_stats()
    assert empty["avg_completion_time"] == 0.0
    assert set(empty["by_status"]) == {status.value for status in TaskStatus}
    task = publisher.publish("echo", 1, priority=3)
    publisher.update_status(task.task_id, "running")
    clock.advance(4)
    publisher.update_status(task.task_id, "completed")
    publisher.publish("x", delay=9)
    stats = publisher.get_stats()
    assert (stats["total"], stats["expired"], stats["avg_completion_time"]) == (2, 0, pytest.approx(4.0))
    assert (stats["by_status"]["completed"], stats["by_status"]["pending"], stats["later"]) == (1, 1, 1)
    assert stats["by_priority"] == {"LOW": 0, "NORMAL": 1, "HIGH": 1, "URGENT": 0}


def test_the_guides_way_of_setting_a_status_by_hand(publisher, clock):
    task = publisher.publish("x")
    held = publisher.update_status(task_id=task.task_id, status=TaskStatus.RUNNING.value)
    assert held.lease_until.timestamp() == clock.now() + 3600
    done = publisher.update_status(task_id=task.task_id, status=TaskStatus.COMPLETED.value, result={"success": True})
    assert (done.status, done.result) == (TaskStatus.COMPLETED, {"success": True})
    failed = publisher.publish("x", timeout=60)
    assert publisher.update_status(failed.task_id, TaskStatus.RUNNING).lease_until.timestamp() == clock.now() + 60
    assert publisher.update_status(failed.task_id, "failed", error="Connection timeout").error == "Connection timeout"
    with pytest.raises(InvalidTransition):
        publisher.update_status(failed.task_id, "running")


@pytest.mark.parametrize(
    "arguments",
    [
        {"status": "nope"},
        {"status": "failed", "result": 1},
        {"status": "completed", "error": "x"},
        {"status": "failed", "error": 5},
        {"status": "completed", "result": object()},
        {"status": "running", "progress": 1.5},
        {"status": "running", "progress": "half"},
        {"status": "completed", "progress": 0.5},
        {"status": "running", "worker": ""},
        {"status": "running", "worker": "a\nb"},
    ],
)
def test_a_report_that_makes_no_sense_changes_nothing(publisher, arguments):
    task = publisher.publish("x")
    with pytest.raises(InvalidArgument):
        publisher.update_status(task.task_id, **arguments)
    assert publisher.get_task(task.task_id) == task


def test_an_agent_claims_reports_and_is_refused_when_it_comes_too_late(publisher, clock):
    task = publisher.publish("write")
    [mine] = publisher.claim("claude-1", names=["write"], lease=60)
    assert (mine.task_id, mine.status, mine.worker, mine.attempts) == (task.task_id, "acknowledged", "claude-1", 1)
    assert publisher.claim("claude-2") == []
    halfway = publisher.update_status(
        mine.task_id, "running", worker="claude-1", attempt=1, progress=0.5, progress_message="half"
    )
    assert (halfway.progress, halfway.progress_message) == (0.5, "half")
    clock.advance(3600)
    [taken_over] = publisher.claim("claude-2")
    assert taken_over.attempts == 2
    with pytest.raises(LeaseLost):
        publisher.update_status(mine.task_id, "completed", result=1, worker="claude-1", attempt=1)
    assert publisher.update_status(mine.task_id, "completed", result=2, worker="claude-2", attempt=2).result == 2


def test_half_a_character_in_what_is_said_of_work_is_replaced(publisher):
    half = "\ud800"
    one, two, three = (publisher.publish("x") for _ in range(3))

    assert publisher.update_status(one.task_id, "running", progress_message=half).progress_message == "\ufffd"
    assert publisher.update_status(one.task_id, "failed", error=f"no {half}\0").error == "no \ufffd\ufffd"
    assert publisher.update_status(two.task_id, "completed", result={half: half}).result == {"\ufffd": "\ufffd"}
    assert publisher.cancel_task(three.task_id, half).error == "\ufffd"


def test_half_a_character_is_refused_wherever_a_text_comes_in(publisher):
    half = "\ud800"
    task = publisher.publish("x")
    for attempt in (
        lambda: publisher.publish("x", depends_on=half),
        lambda: publisher.publish("x", depends_on=[half]),
        lambda: publisher.get_task(half * 5),
        lambda: publisher.list_tasks(name=half),
        lambda: publisher.list_tasks(tags=[half]),
    ):
        with pytest.raises(InvalidArgument, match="half a character"):
            attempt()
    assert publisher.list_tasks() == [task]


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"lease": 0.5}, {"lease": 1e6}, {"names": [""]}, {"worker": ""}])
def test_a_claim_that_makes_no_sense_is_refused(publisher, arguments):
    with pytest.raises(InvalidArgument):
        publisher.claim(**{"worker": "w", **arguments})


def test_cleaning_up_expires_everything_that_is_due_and_counts_it(publisher, clock):
    publisher.publish_many([{"name": "x", "expires_in": 5}] * 1200)
    publisher.publish("x")
    assert publisher.cleanup_expired() == 0
    clock.advance(5)
    assert publisher.cleanup_expired() == 1200
    assert publisher.cleanup_expired() == 0
    assert publisher.get_stats()["by_status"]["pending"] == 1


def test_purging_goes_in_batches_and_a_dry_run_only_counts(publisher, clock):
    for task in publisher.publish_many([{"name": "x"}] * 25):
        publisher.cancel_task(task.task_id)
    clock.advance(100)
    assert publisher.purge(older_than=200).tasks == 0
    assert publisher.purge(older_than=50, dry_run=True).by_status == {"cancelled": 25}
    assert publisher.purge(["cancelled"], older_than=50, batch=10).tasks == 25
    assert publisher.get_stats()["total"] == 0
    with pytest.raises(InvalidArgument, match="ended"):
        publisher.purge(["pending"])
    for bad in ({"older_than": -1.0}, {"older_than": float("nan")}, {"batch": 0}):
        with pytest.raises(InvalidArgument):
            publisher.purge(**bad)


class TestExecuteTask:
    def test_the_handlers_value_comes_back_and_is_the_result(self, publisher):
        publisher.register_handler("double", lambda payload: payload["n"] * 2)
        task = publisher.publish("double", {"n": 4})
        assert publisher.execute_task(task) == 8
        assert publisher.get_task(task.task_id).result == 8
        assert [each.outcome.value for each in publisher.attempts(task.task_id)] == ["completed"]

    def test_an_async_handler_and_one_with_a_context_work_too(self, publisher):
        async def slowly(payload, context):
            await asyncio.sleep(0)
            context.progress(0.5, "half")
            return [context.task_id, context.attempt, context.name]

        publisher.register_handler("slowly", slowly)
        task = publisher.publish("slowly")
        assert publisher.execute_task(task.task_id) == [task.task_id, 1, "slowly"]
        assert publisher.get_task(task.task_id).progress == 0.5

    def test_a_failure_is_raised_and_the_task_waits_for_its_retry(self, publisher, clock):
        def broken(payload):
            raise ValueError("no luck")

        publisher.register_handler("broken", broken)
        task = publisher.publish("broken", max_retries=1)
        with pytest.raises(ValueError, match="no luck"):
            publisher.execute_task(task)
        after = publisher.get_task(task.task_id)
        assert (after.status, after.error) == ("pending", "ValueError: no luck")
        clock.advance(3600)
        with pytest.raises(ValueError, match="no luck"):
            publisher.execute_task(task)
        assert publisher.get_task(task.task_id).status == "failed"
        assert publisher.retry_task(task.task_id).status == "pending"

    @pytest.mark.parametrize(("error", "status"), [(Permanent("never"), "failed"), (RetryLater(60), "pending")])
    def test_what_a_handler_raises_says_what_happens_next(self, publisher, clock, error, status):
        def signal(payload):
            raise error

        publisher.register_handler("signal", signal)
        task = publisher.publish("signal")
        with pytest.raises(type(error)):
            publisher.execute_task(task)
        after = publisher.get_task(task.task_id)
        assert after.status == status
        if status == "pending":
            assert after.run_at.timestamp() == clock.now() + 60

    def test_a_value_that_is_no_json_fails_for_good(self, publisher):
        publisher.register_handler("odd", lambda payload: {"inside": object()})
        task = publisher.publish("odd")
        with pytest.raises(Permanent, match="cannot be written as JSON"):
            publisher.execute_task(task)
        assert publisher.get_task(task.task_id).status == "failed"

    def test_a_path_that_the_result_lacks_fails_the_task_for_good(self, publisher):
        first = publisher.publish("echo", {"a": 1})
        second = publisher.publish("echo", f"${{{first.task_id}.b}}", depends_on=[first])
        publisher.execute_task(first)
        with pytest.raises(Permanent, match="has no 'b'"):
            publisher.execute_task(second)
        assert publisher.get_task(second.task_id).status == "failed"

    def test_an_async_handler_is_stopped_at_its_timeout_and_the_attempt_says_so(self, publisher):
        stopped = []

        async def endless(payload):
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)

        publisher.register_handler("endless", endless)
        task = publisher.publish("endless", timeout=0.05, max_retries=0)
        with pytest.raises(TimeoutError, match="timed out after"):
            publisher.execute_task(task)
        assert stopped == [True]
        after = publisher.get_task(task.task_id)
        assert (after.status, after.error) == ("failed", "Timed out after 0.05 s.")
        assert [each.outcome.value for each in publisher.attempts(task.task_id)] == ["timed_out"]

    def test_a_sync_handler_is_told_of_its_timeout_and_what_it_returns_after_it_counts_for_nothing(self, publisher):
        def stubborn(payload, context):
            while not context.cancelled:
                threading.Event().wait(0.005)
            return "late"

        publisher.register_handler("stubborn", stubborn, timeout=0.05)
        task = publisher.publish("stubborn")
        with pytest.raises(TimeoutError):
            publisher.execute_task(task)
        after = publisher.get_task(task.task_id)
        assert (after.status, after.result) == ("pending", None)
        assert [each.outcome.value for each in publisher.attempts(task.task_id)] == ["timed_out"]

    def test_a_handlers_own_timeout_error_is_an_ordinary_failure(self, publisher):
        async def gives_up(payload):
            raise TimeoutError("the other side was slow")

        publisher.register_handler("gives_up", gives_up)
        task = publisher.publish("gives_up", timeout=60, max_retries=0)
        with pytest.raises(TimeoutError, match="the other side"):
            publisher.execute_task(task)
        assert [each.outcome.value for each in publisher.attempts(task.task_id)] == ["failed"]

    def test_a_handler_in_a_process_of_its_own_is_killed_at_its_timeout(self, publisher):
        import time

        publisher.register_handler("nap", time.sleep, isolation="process")
        task = publisher.publish("nap", 600, timeout=0.3, max_retries=0)
        with pytest.raises(TimeoutError):
            publisher.execute_task(task)
        assert publisher.get_task(task.task_id).error == "Timed out after 0.3 s."

    async def test_an_async_handler_is_not_run_inside_a_running_loop_but_beside_it(self, publisher):
        async def hello(payload):
            return "hello"

        publisher.register_handler("hello", hello)
        task = publisher.publish("hello")
        with pytest.raises(InvalidArgument, match="event loop runs in this thread"):
            publisher.execute_task(task)
        assert publisher.get_task(task.task_id).attempts == 0
        assert await asyncio.to_thread(publisher.execute_task, task) == "hello"

    def test_only_a_ready_task_with_a_handler_runs(self, publisher):
        with pytest.raises(NoHandler, match="unheard_of"):
            publisher.execute_task(publisher.publish("unheard_of"))
        parent = publisher.publish("echo")
        child = publisher.publish("echo", depends_on=[parent])
        with pytest.raises(InvalidTransition, match=f"waits for {parent.task_id}"):
            publisher.execute_task(child)
        publisher.update_status(parent.task_id, "running")
        with pytest.raises(InvalidTransition, match="held by manual"):
            publisher.execute_task(parent)
        with pytest.raises(UnknownTask):
            publisher.execute_task("unknown")

    def test_a_result_for_a_task_that_was_cancelled_meanwhile_counts_for_nothing(self, publisher):
        def cancels(payload):
            publisher.cancel_task(task.task_id)
            return "late"

        publisher.register_handler("cancels", cancels)
        task = publisher.publish("cancels")
        with pytest.raises(LeaseLost, match="counts for nothing"):
            publisher.execute_task(task)
        after = publisher.get_task(task.task_id)
        assert (after.status, after.result) == ("cancelled", None)

    def test_an_interruption_from_the_keyboard_gives_the_task_back(self, publisher):
        def interrupted(payload):
            raise KeyboardInterrupt

        publisher.register_handler("interrupted", interrupted)
        task = publisher.publish("interrupted")
        with pytest.raises(KeyboardInterrupt):
            publisher.execute_task(task)
        assert publisher.get_task(task.task_id).status == "pending"
        assert [each.outcome.value for each in publisher.attempts(task.task_id)] == ["interrupted"]


def test_every_change_is_told_with_its_id_until_unsubscribed(publisher):
    told = []
    stop = publisher.on_change(told.append)
    task = publisher.publish("echo")
    publisher.update_status(task.task_id, "running")
    publisher.update_status(task.task_id, "pending")
    publisher.execute_task(task)
    assert set(told) == {task.task_id} and len(told) >= 4
    stop()
    told.clear()
    publisher.publish("echo")
    assert told == []


def test_a_repeated_publish_wakes_nobody(publisher):
    publisher.publish("x", idempotency_key="k")
    told = []
    publisher.on_change(told.append)
    publisher.publish("x", idempotency_key="k")
    assert told == []


def test_waiting_ends_when_the_task_does(publisher):
    task = publisher.publish("echo", "hello")
    assert publisher.wait(task.task_id, timeout=0).status == "pending"
    runner = threading.Thread(target=publisher.execute_task, args=(task,))
    runner.start()
    done = publisher.wait(task.task_id, timeout=30, poll=30)
    runner.join()
    assert (done.done, done.result) == (True, "hello")


def test_threads_may_share_a_publisher(publisher):
    taken, errors = [], []

    def work(number):
        try:
            for _ in range(20):
                publisher.publish("echo", number)
            while ready := publisher.get_ready_tasks(1):
                try:
                    publisher.execute_task(ready[0])
                    taken.append(ready[0].task_id)
                except InvalidTransition:
                    continue
        except Exception as error:
            errors.append(error)

    publisher._draw_id = EnhancedCloudTaskPublisher(":memory:")._draw_id
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(taken) == len(set(taken)) == 80
    assert publisher.get_stats()["by_status"]["completed"] == 80


async def test_async_code_uses_it_through_threads(publisher):
    tasks = await asyncio.gather(*(asyncio.to_thread(publisher.publish, "echo") for _ in range(10)))
    assert len({task.task_id for task in tasks}) == 10


def test_closing_closes_what_it_opened_and_nothing_else(clock):
    own = EnhancedCloudTaskPublisher(":memory:")
    own.close()
    own.close()
    with pytest.raises(StoreError, match="closed"):
        own.get_stats()
    store = open_store(":memory:")
    with EnhancedCloudTaskPublisher(store=store, clock=clock) as lent:
        lent.publish("x")
    assert store.tasks.stats().ready == 1
    store.close()


def test_without_a_path_it_opens_the_users_database(tmp_path, monkeypatch):
    monkeypatch.setenv("HEABLCOIN_CLOUD_DATABASE", str(tmp_path / "mine" / "cloud.db"))
    with EnhancedCloudTaskPublisher() as publisher:
        task = publisher.publish("x")
    with EnhancedCloudTaskPublisher() as publisher:
        assert publisher.get_task(task.task_id) == task
    assert (tmp_path / "mine" / "cloud.db").exists()


def test_pages_lead_through_the_whole_list(publisher):
    made = [publisher.publish("x").task_id for _ in range(7)]
    first = publisher.page(TaskQuery(limit=5))
    rest = publisher.page(TaskQuery(limit=5, cursor=first.next_cursor))
    assert [task.task_id for task in first.tasks + rest.tasks] == made
    assert rest.next_cursor == ""


def test_why_tells_of_this_process_and_of_live_workers(publisher):
    task = publisher.publish("rare")
    assert "No live worker has a handler named 'rare'" in publisher.why(task.task_id)
    publisher.register_handler("rare", lambda payload: None)
    assert "runs no tasks, and nor does another" in publisher.why(task.task_id)
    publisher.store.tasks.exchange([], ClaimRequest("w", None, 1, 30.0), publisher._clock.now())
    assert "held by w" in publisher.why(task.task_id)
    with pytest.raises(UnknownTask):
        publisher.why("unknown")


@pytest.mark.parametrize("way", ["many", "graph"])
def test_more_tasks_than_one_transaction_should_hold_are_refused_and_none_is_stored(monkeypatch, way):
    monkeypatch.setattr("core.cloud.enhanced_publisher.LARGEST_GRAPH", 3)
    with EnhancedCloudTaskPublisher(":memory:") as publisher:
        tasks = {str(number): {"name": "n"} for number in range(4)}
        with pytest.raises(InvalidArgument, match="4 tasks were given; at most 3") as refused:
            publisher.publish_graph(tasks) if way == "graph" else publisher.publish_many(tasks.values())
        assert "in parts" in refused.value.fix
        assert publisher.get_stats()["total"] == 0
        assert len(publisher.publish_many(list(tasks.values())[:3])) == 3
