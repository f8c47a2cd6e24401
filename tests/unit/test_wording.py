"""What users read: a fix names the value wanted and the way out, and nothing reads oddly."""

import ast
import logging
from pathlib import Path

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.files import load_handlers
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.queue.importing import import_file
from core.cloud.store import open_store
from core.errors import HeablcoinError
from core.paths import MEMORY
from server.settings import load_settings
from server.tools.task_graph import publish_task_graph
from server.tools.tasks import list_enhanced_tasks, publish_enhanced_task, wait_for_task
from server.tools.tool_registry import Arguments

ROOT = Path(__file__).parents[2]
KINDS = {
    "InvalidArgument", "Permanent", "UrlRefused", "InvalidTransition", "UnknownTask", "UnknownEndpoint", "UnknownSchedule",
    "NotFound", "NoHandler", "LeaseLost", "AllEndpointsFailed", "KeyStoreError", "StoreError", "StoreBusy", "StoreFull",
    "StoreReadOnly", "StoreCorrupt", "StoreTooNew", "StoreUnsafe", "BadArguments",
}  # fmt: skip
QUOTES_OTHERS = {
    "core/cloud/handlers/http_request.py": "the server's own words",
    "core/cloud/running/process_executor.py": "what the child said, its fix included",
    "core/cloud/queue/legacy_import.py": "parts of a note",
    "core/network/policy.py": "never shown",
}


def without_a_fix(file: Path) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in KINDS
        and len(node.args) < 2
        and not any(isinstance(each, ast.Starred) for each in node.args)
        and not any(each.arg in {"fix", None} for each in node.keywords)
    ]


def test_every_error_says_what_to_do_next():
    files = [file for top in ("core", "server") for file in sorted((ROOT / top).rglob("*.py"))]
    assert len(files) > 100
    found = [
        line
        for file in files
        if str(file.relative_to(ROOT).as_posix()) not in QUOTES_OTHERS
        for line in without_a_fix(file)
    ]
    assert found == []


def refusal(action) -> str:
    with pytest.raises(HeablcoinError) as refused:
        action()
    return str(refused.value)


def argument(tool, **given) -> str:
    return refusal(lambda: Arguments.of(tool).check(tool.__name__, given))


def setting(name, text, monkeypatch) -> str:
    monkeypatch.setenv(f"HEABLCOIN_CLOUD_{name}", text)
    return refusal(load_settings)


ARGUMENTS = [
    (publish_enhanced_task, {"name": "x", "depends_on": ["a"] * 10_001}, "`depends_on` has 10,001 entries; at most 10,000 are allowed. Fix: put a task in between"),
    (wait_for_task, {"task_id": ["a"] * 1_001}, "`task_id` has 1,001 entries; at most 1,000 are allowed. Fix: wait for a part"),
    (publish_task_graph, {"tasks": [{"key": "a"}] * 1_001}, "`tasks` has 1,001 entries; at most 1,000 are allowed. Fix: publish it in parts"),
    (list_enhanced_tasks, {"status": "finished"}, "Fix: give one of: any, pending, acknowledged"),
    (list_enhanced_tasks, {"status": "complete"}, "Fix: did you mean completed?"),
    (list_enhanced_tasks, {"limit": 500}, "`limit` is 500; at most 200 is allowed. Fix: give a whole number from 1 to 200"),
    (list_enhanced_tasks, {"limit": "many"}, "`limit` must be a whole number, not 'many'. Fix: give a whole number from 1 to 200"),
    (list_enhanced_tasks, {"ready": "perhaps"}, "`ready` must be true or false, not 'perhaps'. Fix: give true or false"),
    (publish_enhanced_task, {"name": "x" * 300}, "`name` has 300 characters; at most 200 are allowed. Fix: shorten it"),
    (publish_enhanced_task, {"name": 5}, "`name` must be text, not 5. Fix: give a text in quotes"),
    (publish_enhanced_task, {"name": "x", "tags": {"a": 1}}, "`tags` must be a list, not an object. Fix: give a list in [ ]"),
    (publish_enhanced_task, {}, "`name` is required. Fix: pass it (Handler that runs it"),
    (publish_enhanced_task, {"name": "x", "payload": "{nope"}, "at character 2). Fix: write JSON, names and texts in double quotes"),
    (publish_enhanced_task, {"name": "x", "timeout": 1e9}, "`timeout` is 1000000000; at most 604800 is allowed. Fix: give a number from 0 to 604,800"),
    (publish_enhanced_task, {"name": "x", "priority": 9, "timeout": -1}, "Fix: `priority`: give a whole number from 1 to 4"),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "given", "words"), ARGUMENTS)
def test_a_refused_argument_is_told_the_value_wanted(tool, given, words):
    assert words in argument(tool, **given)


def test_a_value_that_may_be_a_key_is_never_repeated():
    key = "sk-live-0123456789abcdef"
    for given in (
        {"priority": key},
        {"max_retries": key},
        {"on_dependency_failure": key},
        {"timeout": key},
        {"tags": {key: key}},
    ):
        assert key[:9] not in argument(publish_enhanced_task, name="x", **given)


SETTINGS = [
    ("LOG_LEVEL", "loud", "must be one of 'DEBUG', 'INFO', 'WARNING' or 'ERROR', not 'LOUD'. Fix: give one of: DEBUG, INFO"),
    ("LOG_LEVEL", "debgu", "Fix: did you mean DEBUG?"),
    ("CONCURRENCY", "many", "must be a whole number, not 'many'. Fix: give a whole number from 0 to 1,000."),
    ("CONCURRENCY", "2000", "is 2000; at most 1000 is allowed. Fix: give a whole number from 0 to 1,000."),
    ("LEASE", "soon", "must be a number, not 'soon'. Fix: give a number from 2 to 3,600."),
    ("READ_ONLY", "perhaps", "must be true or false, not 'perhaps'. Fix: give true or false."),
    ("TOOLSETS", "tasks,nope", "names a toolset that is not there: 'nope'. Fix: use: tasks, workers"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), SETTINGS)
def test_a_refused_setting_is_told_the_value_wanted(monkeypatch, name, text, words):
    assert words in setting(name, text, monkeypatch)


def transition():
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        task = publisher.publish("work")
        publisher.update_status(task.task_id, "running")
        publisher.update_status(task.task_id, "failed", error="x")
        publisher.update_status(task.task_id, "completed")


def none_as_task():
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        publisher.execute_task(None)


def unanswered():
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "http://127.0.0.1:9/v1", "key"))
    try:
        manager.call_with_retry(lambda _: 1 / 0, max_retries=1)
    finally:
        manager.close()


def not_json(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("# A page\n", encoding="utf-8")
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        import_file(publisher.store.tasks, file, 0.0)


SENTENCES = [
    ("an endpoint of an empty pool", lambda _: ApiManager().get_endpoint("zzz"), "The pool is empty. Fix: add 'zzz' with add_endpoint"),
    ("an unknown strategy", lambda _: ApiManager().call_with_retry(print, strategy="fastest"), "There is no strategy 'fastest'."),
    ("an unknown provider", lambda _: ApiEndpoint("a", "https://x.example", provider="a b"), "There is no provider 'a b'."),
    ("an endpoint's name", lambda _: ApiEndpoint("a b", "https://x.example"), "An endpoint cannot be named 'a b'."),
    ("a task that is None", lambda _: none_as_task(), "A task is named by its id, a text, not by None."),
    ("a failed task completed", lambda _: transition(), "Fix: retry_task puts it back in the queue."),
    ("a handlers file that is not there", lambda _: load_handlers("/nope.py", HandlerRegistry()), "The handlers file /nope.py does not exist. Fix: check the path."),
    ("a page as an export", not_json, "is not JSON. Fix: pass a file written by `heablcoin-cloud export`"),
    ("a call that nobody answered", lambda _: unanswered(), "division by zero\nFix: "),
]  # fmt: skip


@pytest.mark.parametrize(("action", "words"), [row[1:] for row in SENTENCES], ids=[row[0] for row in SENTENCES])
def test_a_sentence_reads_well_and_leads_on(action, words, tmp_path):
    assert words in refusal(lambda: action(tmp_path))


@pytest.mark.parametrize(
    "said", [{"error": "boom"}, {"error": {"message": "boom"}}, {"error": {"message": "boom", "code": 503}}]
)
def test_a_status_that_nobody_sent_is_not_quoted(said):
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "http://127.0.0.1:9/v1", "key"))
    text = refusal(lambda: manager.call_with_retry(lambda _: said, max_retries=1))
    manager.close()
    assert "the answer reports an error: boom" in text
    assert "HTTP" not in text


def test_a_fresh_database_is_created_and_not_migrated(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        open_store(str(tmp_path / "queue.db")).close()
    told = [record.getMessage() for record in caplog.records]
    assert any("creating" in line for line in told)
    assert not any("migrating" in line for line in told)
