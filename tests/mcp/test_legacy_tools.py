"""The tools of version 1: the same queue and schedules under their old names."""

from typing import Any


async def test_an_old_caller_publishes_and_lists(call: Any) -> None:
    task = await call("publish_cloud_task", name="echo", payload='{"a": 1}', tags="x,y")
    waited = await call("wait_for_task", task_id=task["task_id"])
    assert waited["tasks"][0]["result"] == {"a": 1}
    assert [row["task_id"] for row in (await call("list_cloud_tasks", status="completed"))["tasks"]] == [
        task["task_id"]
    ]
    assert (await call("list_cloud_tasks", status="pending"))["tasks"] == []


async def test_an_old_caller_schedules_and_triggers(call: Any) -> None:
    await call("publish_cloud_task", name="echo", schedule="@daily")
    snapshot = await call("cloud_scheduler_snapshot")
    [schedule] = snapshot["schedules"]
    assert snapshot["running"] is True
    assert snapshot["next_run"] == schedule["next_run"]
    assert (await call("start_cloud_scheduler"))["schedules"] == snapshot["schedules"]
    [task_id] = (await call("trigger_cloud_queue", name=schedule["name"]))["task_ids"]
    assert (await call("get_task_status", task_id=task_id))["name"] == "echo"


async def test_seconds_may_come_as_text(call: Any) -> None:
    await call("publish_cloud_task", name="echo", schedule="3600")
    assert (await call("list_schedules"))["schedules"][0]["when"] == "every 3600 s"


async def test_a_schedule_that_is_none_is_refused_and_nothing_published(call: Any, refused: Any) -> None:
    text = await refused("publish_cloud_task", name="echo", schedule="every now and then")
    assert "Fix:" in text
    assert (await call("list_cloud_tasks"))["tasks"] == []
