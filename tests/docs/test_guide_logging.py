"""Logging as the guide's troubleshooting chapter turns it on: what the pool and the queue decide, without keys."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CANARY = "sk-canary-3f9a2b7c5d1e4f60"

SCRIPT = """
from tests.docs.guide import Reader
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.running.runner import TaskRunner
from core.cloud.scheduler import CloudScheduler

KEY = "sk-canary-3f9a2b7c5d1e4f60"
reader = Reader()
manager = ApiManager()
for priority, name in enumerate(("first", "second")):
    manager.add_endpoint(ApiEndpoint(name, "https://api.example/v1", api_key=KEY, priority=priority))
reader.run("故障排查 / 问题1: API 调用总是失败", manager=manager)

def call(endpoint):
    if endpoint.name == "first":
        raise ConnectionError(f"refused with {endpoint.api_key}")
    return "served"

assert manager.call_with_retry(call)[1].name == "second"

publisher = EnhancedCloudTaskPublisher(":memory:")
scheduler = CloudScheduler(publisher)
scheduler.add_task("plan", every=3600)
(planned,) = scheduler.trigger_now("plan")

def breaks(payload):
    raise ValueError(f"the handler broke on {payload['key']}")

publisher.register_handler("breaks", breaks)
task = publisher.publish("breaks", {"key": KEY}, max_retries=0)
runner = TaskRunner(publisher.store, publisher.handlers, wakeup=publisher.wakeup)
runner.start()
assert publisher.wait(task.task_id, 20).status == "failed"
runner.stop(1)
manager.close()
publisher.close()
print(task.task_id, planned)
"""


def test_debug_logging_shows_what_the_pool_and_the_queue_decide_and_no_key() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    task_id, planned = done.stdout.splitlines()[-1].split()
    shown = [
        line for line in done.stderr.splitlines() if line.startswith(("DEBUG:core.", "INFO:core.", "WARNING:core."))
    ]

    def said(logger: str, *words: str) -> bool:
        return any(f":{logger}:" in line and all(word in line for word in words) for line in shown)

    assert said("core.cloud.pool.call", "attempt 1", "first"), done.stderr
    assert said("core.cloud.pool.call", "attempt 2", "second"), done.stderr
    assert said("core.cloud.enhanced_publisher", "published", task_id), done.stderr
    assert said("core.cloud.scheduler", "plan", planned), done.stderr
    assert any(task_id in line and ":core.cloud.running.settling:" in line for line in shown), done.stderr
    assert CANARY not in done.stderr + done.stdout
