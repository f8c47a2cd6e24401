"""What the demo promises, checked against what it saw. Pure: nothing here shows, waits or calls."""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from core.json_types import Json, JsonObject
from server.demo.standin import Served

CHAIN = ("fetch_data", "analyze_data", "generate_report")
URGENT = "price_alert"
BUSY = "sleep"
"""The task that keeps the one worker busy while the others are published."""


@dataclass(slots=True)
class Observed:
    """All that was seen. Tasks and statistics are as a server told them over MCP."""

    ids: dict[str, str] = field(default_factory=dict)
    """Task ids by the demo's labels, in the order they were published."""
    keys: dict[str, str] = field(default_factory=dict)
    """The API key given for each endpoint."""
    killed_pid: int = 0
    tasks: dict[str, JsonObject] = field(default_factory=dict)
    """Each task in full once all had ended, by label."""
    stats: JsonObject = field(default_factory=dict)
    tasks_after_restart: dict[str, JsonObject] = field(default_factory=dict)
    stats_after_restart: JsonObject = field(default_factory=dict)
    served: dict[str, list[Served]] = field(default_factory=dict)
    """Requests as the stand-ins saw them."""
    said: str = ""
    """Everything the servers said: results, errors, log lines."""
    database: bytes = b""
    report_file: bytes = b""


@dataclass(frozen=True, slots=True)
class Fact:
    """One promise."""

    text: str
    seen: bool


def facts(seen: Observed) -> list[Fact]:
    """Every promise, and whether it was seen."""
    return [
        Fact("every task completed, and none was completed twice", completed_once(seen)),
        Fact("the urgent task, published last, ran before all that waited", urgent_first(seen)),
        Fact("fetch_data, analyze_data and generate_report ran in that order", chain_in_order(seen)),
        Fact("primary answered, failed with 500, limited with 429, and died", primary_failed_every_way(seen)),
        Fact("primary was left alone for as long as its Retry-After said", retry_after_respected(seen)),
        Fact("the statistics show primary's failures and backup's answers", failover_in_statistics(seen)),
        Fact("the attempt cut by kill -9 is on record, and a second one finished", interrupted_then_done(seen)),
        Fact("the report holds the analysis, and the PDF holds the report", report_holds_analysis(seen)),
        Fact("a later task was given the report's text (${task_id.text})", reference_filled_in(seen)),
        Fact(
            "after the restart every task reads as before", bool(seen.tasks) and seen.tasks == seen.tasks_after_restart
        ),
        Fact("after the restart the statistics read as before", statistics_kept(seen)),
        Fact("both keys were sent, and stand in no result, log or database", keys_stayed_secret(seen)),
    ]


def completed_once(seen: Observed) -> bool:
    """Each task has exactly one completed attempt, and it is the last."""
    outcomes = [[attempt["outcome"] for attempt in attempts(seen, label)] for label in seen.ids]
    return bool(outcomes) and all(each.count("completed") == 1 and each[-1] == "completed" for each in outcomes)


def urgent_first(seen: Observed) -> bool:
    """It was published last, and ended before any other started but the one that was running."""
    if list(seen.ids)[-1:] != [URGENT]:
        return False
    ended = when(seen.tasks.get(URGENT, {}).get("completed_at"))
    return all(ended <= started(seen, label) < float("inf") for label in seen.ids if label not in {URGENT, BUSY})


def chain_in_order(seen: Observed) -> bool:
    """No step's first attempt began before the step before it was done."""
    return all(
        when(seen.tasks.get(before, {}).get("completed_at")) <= started(seen, after) < float("inf")
        for before, after in pairwise(CHAIN)
    )


def primary_failed_every_way(seen: Observed) -> bool:
    return {200, 500, 429, 0} <= {served.step.status for served in seen.served.get("primary", [])}


def retry_after_respected(seen: Observed) -> bool:
    """After each 429 the next request, if any, came no sooner than Retry-After."""
    served = seen.served.get("primary", [])
    limited = [at for at, each in enumerate(served) if each.step.status == 429]
    followed = [(served[at], served[at + 1]) for at in limited if at + 1 < len(served)]
    return bool(followed) and all(after.at - before.at >= before.step.retry_after for before, after in followed)


def failover_in_statistics(seen: Observed) -> bool:
    """Each kind of answer that primary gave is counted, and backup's count is that of the results it gave."""
    sent = [served.step.status for served in seen.served.get("primary", [])]
    counted = outcomes(seen.stats, "primary")
    by_backup = sum(result(seen, label).get("endpoint") == "backup" for label in seen.ids)
    return (
        counted.get("ok") == sent.count(200) > 0
        and counted.get("rate_limited") == sent.count(429) > 0
        and counted.get("transient", 0) >= sent.count(500) + sent.count(0) > 0
        and outcomes(seen.stats, "backup").get("ok", 0) >= by_backup > 0
    )


def statistics_kept(seen: Observed) -> bool:
    """Counts and tokens of each endpoint are what they were; status and cool-down move with the time."""
    before, after = (
        {name: counts(stats, name) for name in seen.keys} for stats in (seen.stats, seen.stats_after_restart)
    )
    return bool(seen.keys) and before == after and all(each.get("calls") for each in before.values())


def interrupted_then_done(seen: Observed) -> bool:
    """The attempt of the killed process ended as interrupted, and another process completed the task."""
    history = attempts(seen, "generate_report")
    if [attempt["outcome"] for attempt in history] != ["interrupted", "completed"]:
        return False
    pids = [pid_of(str(attempt.get("worker", ""))) for attempt in history]
    return pids[0] == seen.killed_pid != 0 and pids[1] not in {0, seen.killed_pid}


def report_holds_analysis(seen: Observed) -> bool:
    analysis, report = result(seen, "analyze_data"), result(seen, "generate_report")
    comment, text = analysis.get("comment"), report.get("text")
    if not isinstance(comment, str) or not isinstance(text, str) or not comment or comment not in text:
        return False
    return text.split("\n")[0].encode("latin-1", "replace") in seen.report_file.replace(b"\\", b"")


def reference_filled_in(seen: Observed) -> bool:
    """A request that reached a provider carried the report's text, which no payload held."""
    text = result(seen, "generate_report").get("text")
    prompts = [served.prompt for each in seen.served.values() for served in each]
    return isinstance(text, str) and any(text in prompt for prompt in prompts)


def keys_stayed_secret(seen: Observed) -> bool:
    if not seen.keys or not seen.said or not seen.database:
        return False
    for endpoint, key in seen.keys.items():
        if not any(served.authorization == f"Bearer {key}" for served in seen.served.get(endpoint, [])):
            return False
        if key in seen.said or key.encode() in seen.database:
            return False
    return True


def attempts(seen: Observed, label: str) -> list[JsonObject]:
    """The attempts of a task, oldest first."""
    rows = seen.tasks.get(label, {}).get("attempts")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def result(seen: Observed, label: str) -> JsonObject:
    """The result of a task; {} when it has none."""
    value = seen.tasks.get(label, {}).get("result")
    return value if isinstance(value, dict) else {}


def endpoint_stats(stats: JsonObject, name: str) -> JsonObject:
    """The statistics of one endpoint; {} when there are none."""
    endpoints = stats.get("endpoints")
    row = endpoints.get(name) if isinstance(endpoints, dict) else None
    return row if isinstance(row, dict) else {}


def outcomes(stats: JsonObject, name: str) -> dict[str, int]:
    """How often an endpoint was called with each outcome."""
    found = endpoint_stats(stats, name).get("outcomes")
    return {kind: count for kind, count in found.items() if isinstance(count, int)} if isinstance(found, dict) else {}


def counts(stats: JsonObject, name: str) -> JsonObject:
    """What an endpoint's statistics add up, without what changes by itself."""
    row = endpoint_stats(stats, name)
    return {key: row.get(key) for key in ("calls", "successes", "failures", "outcomes", "tokens_in", "tokens_out")}


def started(seen: Observed, label: str) -> float:
    """When a task's first attempt began, in epoch seconds; never when it did not."""
    history = attempts(seen, label)
    return when(history[0].get("started_at")) if history else float("inf")


def when(moment: Json) -> float:
    """ISO 8601 as epoch seconds; infinity for anything else."""
    try:
        return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else float("inf")
    except ValueError:
        return float("inf")


def pid_of(worker: str) -> int:
    """The process id in a worker's name (`host-pid-random`); 0 when there is none."""
    parts = worker.rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0
