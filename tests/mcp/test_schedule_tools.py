"""The tools for schedules."""

from typing import Any

import pytest

from core.runtime import Runtime


async def test_a_schedule_publishes_its_task_and_can_be_listed_and_removed(call: Any, runtime: Runtime) -> None:
    made = await call(
        "schedule_task", name="report", task="echo", payload='{"n": 1}', every=3600, tags="nightly", priority=3
    )
    assert made["schedule"]["task"] == "echo"
    assert made["schedule"]["when"] == "every 3600 s"
    [task_id] = runtime.scheduler.trigger_now("report")
    detail = await call("get_task_status", task_id=task_id)
    assert (detail["name"], detail["payload"], detail["tags"], detail["priority"]) == ("echo", {"n": 1}, ["nightly"], 3)
    listed = await call("list_schedules")
    assert [row["name"] for row in listed["schedules"]] == ["report"]
    assert await call("remove_schedule", name="report") == {"removed": "report", "remaining": []}


async def test_a_cron_schedule_is_read_in_its_time_zone(call: Any) -> None:
    made = await call("schedule_task", name="morning", cron="0 9 * * *", timezone="Asia/Shanghai")
    assert made["schedule"]["next_run"].endswith("T01:00:00.000Z")
    assert made["schedule"]["when"] == "0 9 * * * (Asia/Shanghai)"


async def test_a_schedule_can_be_paused_and_resumed(call: Any) -> None:
    await call("schedule_task", name="s", every=60)
    paused = await call("schedule_task", name="s", every=60, enabled=False)
    assert paused["schedule"]["enabled"] is False
    assert "next_run" not in paused["schedule"]
    resumed = await call("schedule_task", name="s", every=60, enabled=True)
    assert "next_run" in resumed["schedule"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"name": "s"}, "exactly one"),
        ({"name": "s", "every": 60, "cron": "@daily"}, "exactly one"),
        ({"name": "s", "cron": "61 * * * *"}, "cron"),
        ({"name": "s", "cron": "@daily", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"name": "s", "every": 0.5}, "1"),
        ({"name": "s", "every": 60, "missed": "perhaps"}, "'once'"),
        ({"name": "s", "every": 60, "payload": "{"}, "not valid JSON"),
    ],
)
async def test_a_bad_schedule_is_refused_and_not_kept(
    call: Any, refused: Any, arguments: dict[str, Any], hint: str
) -> None:
    text = await refused("schedule_task", **arguments)
    assert hint in text
    assert "Fix:" in text
    assert (await call("list_schedules"))["schedules"] == []


async def test_an_unknown_schedule_names_those_there_are(call: Any, refused: Any) -> None:
    await call("schedule_task", name="known", every=60)
    assert "use one of: known" in await refused("remove_schedule", name="other")
