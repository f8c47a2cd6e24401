"""The READMEs, CONTRIBUTING and SECURITY say nothing that is not so."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import apsw
import pytest
from pydantic import SecretStr

from benchmarks.measure import Table, over_runs
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
from core.cloud.handlers.files import load_handlers
from core.cloud.store import open_store
from core.cloud.store.database import Database
from core.cloud.store.place import refuse_network_file_system
from core.errors import HeablcoinError
from core.network import UrlPolicy, check_url
from core.paths import MEMORY
from core.runtime import Runtime, RuntimeOptions
from server.answers.error_text import unknown_arguments
from server.cli import parser
from server.demo.verdict import Observed, facts
from server.serving.guard import check_bind
from server.settings import PREFIX, Settings
from server.tools import all_toolsets

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (*READMES, "CONTRIBUTING.md", "SECURITY.md", "docs/decisions/README.md", "docs/benchmarks.md")
PROGRAM = "heablcoin-cloud"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Every command of the page's shell blocks, in words, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_something(page):
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        headings = (
            re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if file.is_file() and anchor
            else []
        )
        if not file.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", READMES)
def test_the_first_screen_shows_the_problem_the_two_commands_and_what_one_sees(page):
    top = "\n".join(text_of(page).splitlines()[:50])
    assert "make demo" in top
    assert "make test" in top
    promised = {fact.text for fact in facts(Observed())}
    shown = re.findall(r"^ ✓ (.*)$", text_of(page), re.MULTILINE)
    assert shown
    assert set(shown) <= promised


@pytest.mark.parametrize("page", READMES)
def test_every_json_block_is_valid_and_a_client_can_use_it(page):
    found = [json.loads(block) for block in blocks(page, "json")]
    assert found
    for config in found:
        for entry in config["mcpServers"].values():
            assert isinstance(entry["command"], str)
            assert all(isinstance(argument, str) for argument in entry["args"])
            assert all(isinstance(value, str) for value in entry.get("env", {}).values())


def test_the_example_configuration_is_valid_and_needs_no_key():
    config = json.loads(text_of("claude_desktop_config.example.json"))
    assert list(config) == ["mcpServers"]
    assert "KEY" not in json.dumps(config["mcpServers"][PROGRAM].get("env", {}))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", [*READMES, "CONTRIBUTING.md"])
def test_every_command_is_one_that_exists_and_takes_these_arguments(page):
    assert commands(page)
    for words in commands(page):
        match words:
            case ["make", *targets]:
                assert set(targets) <= make_targets(), words
            case ["heablcoin-cloud", *arguments]:
                assert callable(parser().parse_args(arguments).run), words
            case (
                ["uv", "tool", "install", what]
                | ["pipx", "install", what]
                | ["uvx", "--from", what, "heablcoin-cloud", "demo"]
            ):
                extra = what.partition("[")[2].rstrip("]")
                assert what[0] == ".", words
                assert (
                    not extra or extra in tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
                ), words
            case ["npx", "@modelcontextprotocol/inspector", "--cli", "heablcoin-cloud", "--method", "tools/list"]:
                assert "inspector" in make_targets(), words
            case [".ci/run"]:
                assert (ROOT / ".ci/run").is_file()
            case _:
                pytest.fail(f"no test knows the command {shlex.join(words)}")


def test_print_config_prints_what_the_readme_says_for_each_client(tmp_path):
    for client in re.findall(r"print-config ([a-z-]+)", "\n".join(blocks("README.md", "sh"))):
        command = [sys.executable, "-m", "server", "print-config", client]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, check=True)
        if client in {"claude-desktop", "windsurf"}:
            entry = json.loads(done.stdout)["mcpServers"][PROGRAM]
            assert Path(entry["command"]).is_absolute()
        else:
            assert done.stdout.startswith(
                {"claude-code": "claude mcp add ", "inspector": "npx @modelcontextprotocol/"}[client]
            )


def test_the_handlers_file_of_the_readme_runs(tmp_path):
    (source,) = blocks("README.md", "python")
    (tmp_path / "readme_handlers.py").write_text(source, encoding="utf-8")
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        assert load_handlers(str(tmp_path / "readme_handlers.py"), publisher) == ["market_analysis"]
        task = publisher.publish("market_analysis", {"symbol": "BTC/USDT"})
        assert publisher.execute_task(task) == {"symbol": "BTC/USDT", "attempt": 1}
        assert publisher.get_task(task.task_id).status == "completed"


def shown_default(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("page", READMES)
def test_the_settings_table_has_every_setting_with_its_default(page):
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", text_of(page), re.MULTILINE)
    wanted = {PREFIX + name.upper(): shown_default(field.default) for name, field in Settings.model_fields.items()}
    assert {name: default for name, default, _ in rows} == wanted
    if page == "README.md":
        assert {name: text for name, _, text in rows} == {
            PREFIX + name.upper(): field.description for name, field in Settings.model_fields.items()
        }


@pytest.mark.parametrize("page", READMES)
def test_the_tool_table_has_every_tool_of_every_toolset(page):
    rows = dict(re.findall(r"^\| (\w+)[^|]* \| ((?:`\w+`).*) \|$", text_of(page), re.MULTILINE))
    shown = {name: re.findall(r"`(\w+)`", tools) for name, tools in rows.items() if not name.startswith(PREFIX)}
    wanted = {toolset.name: sorted(spec.name for spec in toolset.specs) for toolset in all_toolsets()}
    assert {name: sorted(tools) for name, tools in shown.items() if name in wanted} == wanted


def said(action) -> str:
    """The error that `action` raises, or what it returns."""
    try:
        return str(action())
    except HeablcoinError as error:
        return str(error)


def no_worker(tmp_path):
    with EnhancedCloudTaskPublisher(MEMORY) as publisher:
        return publisher.why(publisher.publish("market_analysis").task_id)


def no_key(tmp_path):
    runtime = Runtime.open(RuntimeOptions(database=MEMORY, keys="process"))
    try:
        runtime.manager.add_endpoint(
            ApiEndpoint("a", "https://api.example.com/v1", api_key_env="NO_SUCH_KEY_IN_THE_ENVIRONMENT")
        )
        return said(lambda: runtime.manager.chat("hello"))
    finally:
        runtime.stop(0)


def unanswered(tmp_path):
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "http://127.0.0.1:9/v1", "key"))
    try:
        return said(lambda: manager.call_with_retry(lambda _: 1 / 0, max_retries=1))
    finally:
        manager.close()


def held_too_long(tmp_path):
    file = tmp_path / "queue.db"
    store = open_store(str(file), busy_timeout=0.05)
    other = apsw.Connection(str(file))
    other.execute("BEGIN IMMEDIATE")
    try:
        with EnhancedCloudTaskPublisher(store=store) as publisher:
            return said(lambda: publisher.publish("echo"))
    finally:
        other.close()
        store.close()


def too_new(tmp_path):
    file = tmp_path / "queue.db"
    open_store(str(file)).close()
    apsw.Connection(str(file)).execute("PRAGMA user_version=999")
    return said(lambda: open_store(str(file)))


def full_disk(tmp_path):
    file = tmp_path / "queue.db"
    open_store(str(file)).close()
    database = Database(str(file))
    try:
        with database.read() as connection:
            (pages,) = next(connection.execute("PRAGMA page_count"))

        def write():
            with database.write() as connection:
                connection.execute(f"PRAGMA max_page_count={pages}")
                connection.execute("CREATE TABLE big(text)")
                connection.execute("INSERT INTO big VALUES(zeroblob(10000000))")

        return said(write)
    finally:
        database.close()


def network_disk(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/export {tmp_path} nfs4 rw 0 0\n", encoding="utf-8")
    return said(lambda: refuse_network_file_system(tmp_path / "queue.db", mounts))


PROVOKED = {
    "No live worker has a handler named": no_worker,
    "The pool has no endpoint to ask": lambda _: said(lambda: ApiManager().call_with_retry(print)),
    "its key is not known to this process": no_key,
    "No endpoint answered after": unanswered,
    "leads to a loopback address": lambda _: said(lambda: check_url("http://127.0.0.1:11434/v1", UrlPolicy())),
    "leads to a private address": lambda _: said(lambda: check_url("http://192.168.1.2/v1", UrlPolicy())),
    "has no argument": lambda _: str(unknown_arguments("publish_enhanced_task", {"nam"}, ["name"])),
    "Another process held the database too long": held_too_long,
    "lies on a network file system": network_disk,
    "this version knows up to": too_new,
    "is full; nothing was changed": full_disk,
    "Listening on 0.0.0.0 lets other machines in": lambda _: said(lambda: check_bind("0.0.0.0", "", ())),
}
HOSTS_OWN = {"spawn heablcoin-cloud ENOENT", "spawn uvx ENOENT"}
"""What a client says, not we."""


@pytest.mark.parametrize("page", READMES)
def test_each_text_under_troubleshooting_can_be_provoked(page):
    table = re.search(r"^\|[^\n]*\n\|---\|---\|---\|\n(\| (?:`spawn).*?)\n\n", text_of(page), re.MULTILINE | re.DOTALL)
    assert table is not None
    quoted = {text for row in table[1].splitlines() for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    assert quoted == {*PROVOKED, *HOSTS_OWN}


@pytest.mark.parametrize("text", PROVOKED)
def test_troubleshooting_quotes_the_error_as_it_is(text, tmp_path):
    assert text in PROVOKED[text](tmp_path)


def test_both_readmes_show_the_same_commands_configurations_and_handlers():
    english, chinese = READMES
    assert commands(english) == commands(chinese)
    assert blocks(english, "json") == blocks(chinese, "json")
    assert [re.sub(r"#.*", "", block) for block in blocks(english, "python")] == [
        re.sub(r"#.*", "", block) for block in blocks(chinese, "python")
    ]


def test_the_decision_index_lists_every_record():
    records = sorted(file.name for file in (ROOT / "docs/decisions").glob("0*.md"))
    assert re.findall(r"\]\((0[^)]+)\)", text_of("docs/decisions/README.md")) == records


def test_the_picture_shows_what_a_run_of_the_demo_said():
    picture = ET.parse(ROOT / "docs/demo.svg").getroot()
    lines = [node.text or "" for node in picture if node.tag.endswith("text")]
    seen = [line.removeprefix(" ✓ ") for line in lines if line.startswith(" ✓ ")]
    assert seen == [fact.text for fact in facts(Observed())], "run `make picture`"
    assert any("KILL -9" in line for line in lines)
    assert not any(str(Path.home()) in line or "/work" in line or "/tmp" in line for line in lines)


def test_the_registrys_entry_and_the_readmes_agree_on_the_settings():
    entry = json.loads(text_of("server.json"))["packages"][0]["environmentVariables"]
    proposed = {
        each["name"]: each["default"] for each in entry if each["name"].startswith(PREFIX) and "default" in each
    }
    own = {PREFIX + name.upper(): shown_default(field.default) for name, field in Settings.model_fields.items()}
    differing = {name for name, value in proposed.items() if value != own[name]}
    assert differing <= {f"{PREFIX}ENDPOINTS_FROM_ENV"}
    for page in READMES:
        assert all(f"`{name}={proposed[name]}`" in text_of(page) for name in differing)


def test_published_figures_are_medians_with_their_range():
    runs = [
        [
            Table(
                "Rates",
                ["what", "ours"],
                [["one", f"{value} (p50 {value / 10} ms)"], ["two", f"{value / 100}x"], ["two", "-"]],
            )
        ]
        for value in (30, 10, 20, 50, 40)
    ]
    (merged,) = over_runs(runs)
    assert merged.rows == [["one", "30 [10 to 50] (p50 3.0 ms)"], ["two", "0.3x [0.1 to 0.5]"], ["two", "-"]]
