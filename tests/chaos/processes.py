"""The processes that are killed: `python -m tests.chaos.processes worker|producer OPTIONS-AS-JSON`.

Each says `ready` on stdout, and ends when its stdin does.
"""

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.running.maintenance import Maintenance, TaskUpkeep
from core.cloud.running.runner import TaskRunner, new_worker_id
from core.cloud.running.wakeup import WakeUp
from core.cloud.store import open_store
from tests.chaos.event_log import DONE, START, EventLog

NEVER_POISON = 1_000_000


def isolated_step(payload: Any, context: Any) -> Any:
    """A handler for a child process."""
    time.sleep(payload["seconds"])
    return {"step": payload["step"]}


def worker(options: dict[str, Any]) -> None:
    """Run tasks until stdin ends."""
    from core.cloud.handlers.ai_call import register_ai_call
    from tests.chaos.provider import pool  # a producer, which is killed often, should not take long to come back

    events = EventLog(Path(options["log"]))
    store = open_store(options["database"], busy_timeout=30.0)
    wakeup = WakeUp(store.workers)
    worker_id = new_worker_id()
    registry = HandlerRegistry()

    async def async_step(payload: Any, context: Any) -> Any:
        events.write(START, context.task_id, context.attempt)
        await asyncio.sleep(payload["seconds"])
        events.write(DONE, context.task_id, context.attempt)
        return {"step": payload["step"], "of": sorted(context.results)}

    def sync_step(payload: Any, context: Any) -> Any:
        events.write(START, context.task_id, context.attempt)
        time.sleep(payload["seconds"])
        events.write(DONE, context.task_id, context.attempt)
        return {"step": payload["step"], "of": sorted(context.results)}

    manager = pool(store, options["window"])
    register_ai_call(registry, manager)
    registry.register("async_step", async_step)
    registry.register("sync_step", sync_step)
    registry.register("isolated_step", isolated_step, isolation="process")
    maintenance = Maintenance(
        store,
        [TaskUpkeep(store.tasks, poison_limit=NEVER_POISON)],
        worker=worker_id,
        wakeup=wakeup,
        leader_ttl=options["leader_ttl"],
    )
    runner = TaskRunner(
        store,
        registry,
        wakeup=wakeup,
        lease=options["lease"],
        maintenance=maintenance,
        worker_id=worker_id,
    )
    runner.start()
    _say("ready")
    sys.stdin.read()
    runner.stop(1.0)
    manager.close()


def producer(options: dict[str, Any]) -> None:
    """Publish the plan, batch by batch, each batch once however often this process is killed."""
    publisher = EnhancedCloudTaskPublisher(store=open_store(options["database"], busy_timeout=30.0))
    plan = json.loads(Path(options["plan"]).read_text())
    _say("ready")
    ids: dict[int, str] = {}
    for number, batch in enumerate(plan):
        wait_for_gate(Path(options["gate"]), number)
        # Keys make the repetition of a batch harmless: the tasks of the first time are returned.
        graph = {
            f"step-{task['step']}": {
                "name": task["name"],
                "payload": task["payload"],
                "priority": task["priority"],
                "depends_on": [ids.get(parent, f"step-{parent}") for parent in task["parents"]],
                "idempotency_key": f"step-{task['step']}",
            }
            for task in batch
        }
        made = publisher.publish_graph(graph)
        ids.update({task["step"]: made[f"step-{task['step']}"].task_id for task in batch})
    _say("published")


def wait_for_gate(gate: Path, number: int) -> None:
    """Until the harness, which writes how far it has got, lets batch `number` through: work lasts as long as the kills."""
    while len(gate.read_bytes()) < number:
        time.sleep(0.005)


def _say(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    {"worker": worker, "producer": producer}[sys.argv[1]](json.loads(sys.argv[2]))
