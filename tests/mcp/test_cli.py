"""The command line: what it prints, what it never does."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.keys.secrets import KeyStore
from core.cloud.store import open_store
from core.cloud.store.migrate import APPLICATION_ID
from core.errors import StoreReadOnly
from server import cli
from server.commands import doctor, print_config, set_key
from server.commands.clients import ClientFile, client_files, inspect
from server.commands.docs import pages
from tests.process.servers import ROOT, environment

KEY = "sk-canary-1f2e3d4c5b6a"


def run(*arguments: str, folder: Path, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(folder, **settings),
        cwd=folder,
        timeout=60,
        check=False,
    )


def test_version_and_help_need_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as left:
            cli.main([option])
        assert left.value.code == 0
    assert "heablcoin-cloud" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["serve", "--transport", "http", "--port", "99999"], ["serve", "--transport", "smoke"], ["fly"]]
)
def test_a_bad_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_port_that_is_no_number_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--transport", "http", "--port", "http"])
    assert "a port is a number from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--port", "8765"], ["--host", "0.0.0.0"]])
def test_an_address_without_an_http_transport_is_refused_not_ignored(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", *option])
    assert left.value.code == 2
    assert "need --transport streamable-http" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--database", "q.db", "tools"], "--database"),
        (["--handlers", "h.py", "demo"], "--handlers"),
        (["--handlers", "h.py", "export", "-"], "--handlers"),
        (["--handlers", "h.py", "set-key", "deepseek"], "--handlers"),
    ],
)
def test_an_option_without_effect_is_refused_not_ignored(
    arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert f"{option} has no effect here" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["set-key", "import", "export", "tools", "demo"])
def test_a_command_offers_no_handlers_that_it_would_not_load(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "--handlers" not in capsys.readouterr().out


def test_a_printed_configuration_carries_the_options_given_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEABLCOIN_CLOUD_LEASE", "20")
    assert cli.main(["print-config", "claude-desktop", "--handlers", "mine.py", "--database", "queue.db"]) == 0
    printed = capsys.readouterr()
    [entry] = json.loads(printed.out)["mcpServers"].values()
    given = entry["args"][-4:]
    assert given == ["--database", str(tmp_path / "queue.db"), "--handlers", str(tmp_path / "mine.py")]
    assert cli.parser().parse_args(given).handlers == str(tmp_path / "mine.py")
    assert "HEABLCOIN_CLOUD_LEASE" in printed.err
    assert print_config.options(":memory:", "my.module") == ["--database", ":memory:", "--handlers", "my.module"]
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "uv" / print_config.CACHE / "x"))
    assert cli.main(["print-config", "windsurf"]) == 0
    assert "uv tool install" in capsys.readouterr().err
    assert " -- " in print_config.config_text("inspector", "--handlers", "my.module")


def test_an_error_on_the_command_line_shows_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = tmp_path / "leaky.py"
    handlers.write_text(f"def register(publisher):\n    raise RuntimeError('{KEY}')\n", encoding="utf-8")
    database = str(tmp_path / "q.db")
    assert cli.main(["--database", database, "--handlers", str(handlers)]) == 1
    assert KEY not in (told := capsys.readouterr().err)
    assert "register function failed at line 2" in told
    assert cli.main(["doctor", "--database", database, "--handlers", str(handlers)]) == 1
    assert KEY not in "".join(capsys.readouterr())


def test_a_server_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Left(BaseException):
        pass

    def leave(_code: int) -> None:
        raise Left(_code)

    def refuse(_self: Any) -> None:
        raise StoreReadOnly("The database q.db is read-only; nothing was changed.", "make it writable.")

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("core.runtime.Runtime.start", refuse)
    monkeypatch.setattr("server.serving.lifecycle.Life._listen_to_signals", lambda _self: None)
    monkeypatch.setattr("server.serving.lifecycle._die_later", lambda _code: None)
    monkeypatch.setattr("server.logs.configure", lambda _level: None)
    with pytest.raises(Left) as left:
        cli.main(["worker", "--database", str(tmp_path / "q.db")])
    assert left.value.args == (1,)
    said = capsys.readouterr().err
    assert (
        said.splitlines()[-1]
        == "heablcoin-cloud: The database q.db is read-only; nothing was changed. Fix: make it writable."
    )
    assert "trace" not in said


def test_a_command_without_a_client_does_not_load_the_protocol(tmp_path: Path) -> None:
    asked = "import sys\nfrom server.commands import worker, set_key, import_export, doctor, print_config\nprint('mcp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, env=environment(tmp_path), timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_options_stand_before_or_after_the_command() -> None:
    parser = cli.parser()
    assert parser.parse_args(["--database", "a", "worker"]).database == "a"
    assert parser.parse_args(["worker", "--database", "b"]).database == "b"
    assert parser.parse_args([]).transport == "stdio"


def test_tools_are_listed_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["tools"]) == 0
    people = capsys.readouterr().out
    assert "publish_enhanced_task(name, payload" in people
    assert "legacy" in people
    assert "(off)" in people
    monkeypatch.setenv("HEABLCOIN_CLOUD_READ_ONLY", "true")
    assert cli.main(["tools", "--json"]) == 0
    names = [tool["name"] for tool in json.loads(capsys.readouterr().out)]
    assert "get_task_status" in names
    assert "cancel_task" not in names


@pytest.mark.parametrize("client", ["claude-desktop", "windsurf"])
def test_a_printed_configuration_is_json_with_an_absolute_command(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["print-config", client]) == 0
    printed = capsys.readouterr()
    [entry] = json.loads(printed.out)["mcpServers"].values()
    assert Path(entry["command"]).is_absolute()
    assert Path(entry["command"]).exists()
    assert "config.json" in printed.err


@pytest.mark.parametrize(
    ("client", "word"), [("claude-code", "claude mcp add"), ("inspector", "@modelcontextprotocol/inspector")]
)
def test_a_printed_command_names_the_server_by_an_absolute_path(client: str, word: str) -> None:
    text = print_config.config_text(client)
    assert word in text
    assert " /" in text or ":\\" in text


def test_the_printed_command_starts_the_server_with_a_short_path(tmp_path: Path) -> None:
    entry = print_config.client_entry()
    done = subprocess.run(
        [entry["command"], *entry["args"], "--version"],
        capture_output=True,
        text=True,
        env={**environment(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ""},
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("heablcoin-cloud ")


def test_what_is_printed_in_a_clone_that_is_not_installed_starts_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.symlink_to(sys.executable)  # no heablcoin-cloud beside it
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setenv("PATH", str(tmp_path))
    command, *arguments = print_config.launch_command()
    assert command == str(bare)
    started = subprocess.run(
        [command, "-S", *arguments, "--version"],  # -S: nothing that is installed, as if this were not
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.stdout.startswith("heablcoin-cloud "), started.stderr
    file = ClientFile("Claude Desktop", tmp_path / "config.json")
    file.path.write_text(print_config.config_text("claude-desktop"), encoding="utf-8")
    assert inspect(file).servers == ("heablcoin-cloud",)  # type: ignore[union-attr]


def test_the_example_configuration_is_what_print_config_prints() -> None:
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8"))
    [(name, entry)] = example["mcpServers"].items()
    assert name == print_config.SERVER_NAME
    assert entry.keys() == print_config.client_entry().keys()
    assert entry["command"].endswith("heablcoin-cloud")
    cli.parser().parse_args(entry["args"])
    assert "KEY" not in json.dumps(example)


def test_set_key_reads_the_key_from_a_pipe_and_never_shows_it(tmp_path: Path) -> None:
    arguments = ("set-key", "deepseek", "--base-url", "https://api.deepseek.com/v1")
    done = run(*arguments, folder=tmp_path, stdin=f"{KEY}\n", keys="file")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert KeyStore("file").get("deepseek", "https://api.deepseek.com/v1") == KEY
    assert KeyStore("file").get("deepseek", "https://elsewhere.example/v1") == ""
    gone = run("set-key", "deepseek", "--remove", folder=tmp_path, keys="file")
    assert gone.returncode == 0
    assert KeyStore("file").get("deepseek", "https://api.deepseek.com/v1") == ""
    assert run("set-key", "deepseek", "--remove", folder=tmp_path, keys="file").returncode == 1


def test_set_key_for_an_endpoint_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    done = run("set-key", "nobody", folder=tmp_path, stdin=KEY, keys="file")
    assert done.returncode == 1
    assert "--base-url" in done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize(
    ("name", "url", "mode", "said"),
    [
        ("bad name/..", "https://a.example/v1", "file", "An endpoint cannot be named"),
        ("deepseek", "nonsense", "file", "http or https URL"),
        ("deepseek", "https://a.example/v1", "process", "this one ends now"),
    ],
)
def test_a_key_that_could_never_be_used_is_not_said_to_be_kept(
    tmp_path: Path, name: str, url: str, mode: str, said: str
) -> None:
    done = run("set-key", name, "--base-url", url, folder=tmp_path, stdin=KEY, keys=mode)
    assert done.returncode == 1
    assert said in done.stderr
    assert "kept (" not in done.stderr


def test_the_end_of_input_at_the_question_for_a_key_is_an_empty_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", ended)
    assert set_key.read_key("deepseek") == ""


def test_a_queue_can_be_exported_and_imported_elsewhere(tmp_path: Path) -> None:
    from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with EnhancedCloudTaskPublisher(str(here / "queue.db")) as publisher:
        task = publisher.publish("nobody", {"n": "三"}, tags=["a"])
    file = tmp_path / "tasks.jsonl"
    assert run("export", str(file), folder=here).returncode == 0
    done = run("import", str(file), folder=there)
    assert done.returncode == 0, done.stderr
    assert "1 task" in done.stderr
    with EnhancedCloudTaskPublisher(str(there / "queue.db")) as publisher:
        assert publisher.get_task(task.task_id).payload == {"n": "三"}


def test_an_import_of_the_originals_file_says_what_was_left_out_and_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "cloud_tasks.json"
    file.write_text(json.dumps({"done-1": {"name": "echo"}, "bad-1": {"payload": {}}}), encoding="utf-8")
    first = run("import", str(file), folder=tmp_path)
    assert first.stderr.splitlines() == [
        "task bad-1: left out: it has no name",
        "1 task added; 1 note above on what was changed or left out.",
    ]
    assert "0 tasks added, 1 there already; 1 note above" in run("import", str(file), folder=tmp_path).stderr


def test_the_doctor_finds_a_new_installation_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--database", str(tmp_path / "new.db")]) == 0
    said = capsys.readouterr().out
    for word in ("heablcoin-cloud", "python", "apsw", "does not exist yet", "toolsets"):
        assert word in said
    assert not (tmp_path / "new.db").exists()


def test_the_doctor_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("HEABLCOIN_CLOUD_NONSENSE", "1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert cli.main(["doctor", "--json", "--database", str(tmp_path / "broken.db")]) == 1
    findings = json.loads(capsys.readouterr().out)
    bad = " ".join(finding["text"] for finding in findings if finding["level"] == "bad")
    assert "HEABLCOIN_CLOUD_NONSENSE" in bad
    assert "not a sound database" in bad
    assert "OPENAI_API_KEY" in str(findings)
    assert KEY not in str(findings)


def test_the_doctor_names_the_endpoints_and_where_their_keys_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = str(tmp_path / "q.db")
    store = open_store(database)
    manager = ApiManager(store.pool)
    for name in ("here", "absent"):
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.invalid/v1", api_key_env=f"{name.upper()}_API_KEY"))
    manager.close()
    store.close()
    monkeypatch.setenv("HERE_API_KEY", KEY)
    monkeypatch.setenv("HEABLCOIN_CLOUD_KEYS", "process")
    assert cli.main(["doctor", "--database", database]) == 0
    told = capsys.readouterr().out
    assert "here at https://here.invalid/v1, key from HERE_API_KEY" in told
    assert "absent has no key in this terminal: set ABSENT_API_KEY, or run `heablcoin-cloud set-key absent`" in told
    assert KEY not in told


def test_the_doctor_sees_the_live_twins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from core.runtime import Runtime, RuntimeOptions

    database = str(tmp_path / "twins.db")
    runtimes = [Runtime.open(RuntimeOptions(database=database, keys="process")) for _ in range(2)]
    for runtime in runtimes:
        runtime.start()
    try:
        assert cli.main(["doctor", "--database", database]) == 0
    finally:
        for runtime in runtimes:
            runtime.stop(0.5)
    assert capsys.readouterr().out.count("live process: ") == 2


def bad_lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("BAD")]


def test_the_doctor_says_that_a_database_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "q.db"
    open_store(str(database)).close()

    def read_only(*_given: Any, **_options: Any) -> Any:
        raise StoreReadOnly(f"The database {database} is read-only; nothing was changed.", "make it writable.")

    monkeypatch.setattr("core.cloud.store.database.Database.write", read_only)  # root may write read-only files
    assert cli.main(["doctor", "--database", str(database)]) == 1
    [line] = bad_lines(capsys.readouterr().out)
    assert "is read-only" in line
    assert "Fix: make it writable" in line


def test_the_doctor_says_that_a_database_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no directory")
    assert cli.main(["doctor", "--database", str(tmp_path / "file" / "q.db")]) == 1
    assert "Fix: " in bad_lines(capsys.readouterr().out)[0]
    monkeypatch.setattr("os.access", lambda *_given: False)
    assert cli.main(["doctor", "--database", str(tmp_path / "new" / "q.db")]) == 1
    assert "cannot be made. Fix: make" in bad_lines(capsys.readouterr().out)[0]


def test_the_doctor_says_that_a_directory_is_closed_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", closed)
    [finding] = [found for found in doctor.examine(str(tmp_path / "q.db"), None) if found.about == "database"]
    assert finding.level == "bad"
    assert "cannot be reached (Permission denied). Fix: " in finding.text


@pytest.mark.parametrize(("made", "word"), [(False, "schema 0"), (True, "schema 1; the next start")])
def test_the_doctor_leaves_an_older_database_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: bool, word: str
) -> None:
    database = tmp_path / "old.db"
    if made:
        old = apsw.Connection(str(database))
        old.execute(f"CREATE TABLE t (a); PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=1")
        old.close()
    else:
        database.touch()
    before = database.read_bytes()
    assert cli.main(["doctor", "--database", str(database)]) == 0
    assert word in capsys.readouterr().out
    assert database.read_bytes() == before


def test_the_doctor_looks_at_the_clients_even_with_a_bad_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / ".codeium" / "windsurf" / "mcp_config.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("HEABLCOIN_CLOUD_LEASE", "soon")
    assert cli.main(["doctor"]) == 1
    settings, client = bad_lines(capsys.readouterr().out)
    assert "HEABLCOIN_CLOUD_LEASE" in settings
    assert "not valid JSON (line 1). Fix: correct the file" in client


def test_handlers_that_print_and_fail_leave_the_doctors_json_whole(tmp_path: Path) -> None:
    handlers = tmp_path / "loud.py"
    handlers.write_text("print('hello')\ndef register(publisher, manager):\n    manager.nonsense()\n", encoding="utf-8")
    done = run("doctor", "--json", "--handlers", str(handlers), folder=tmp_path)
    [bad] = [finding for finding in json.loads(done.stdout) if finding["level"] == "bad"]
    assert bad["about"] == "handlers"
    assert "AttributeError" in bad["text"]


def test_a_check_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def explode() -> Any:
        raise RuntimeError(KEY)

    monkeypatch.setattr(doctor, "_clients", explode)
    findings = list(doctor.examine(str(tmp_path / "q.db"), None))
    assert findings[-1].level == "bad"
    assert KEY not in findings[-1].text
    assert any(finding.about == "database" for finding in findings)


def ours(**entry: Any) -> str:
    return json.dumps({"mcpServers": {"queue": {"command": "heablcoin-cloud", "args": [], **entry}}})


@pytest.mark.parametrize(
    ("text", "problem", "servers"),
    [
        (ours(), "", ("queue",)),
        ("\ufeff" + ours(), "", ("queue",)),
        (json.dumps({"mcpServers": {"other": {"command": "npx"}}}), "", ()),
        (
            json.dumps({"projects": {"/p": {"mcpServers": {"q": {"command": "uvx", "args": ["heablcoin-cloud"]}}}}}),
            "",
            ("q",),
        ),
        ("{", "not valid JSON (line 1)", ()),
        ("[]", "not a JSON object", ()),
        (json.dumps({"mcpServers": [{"command": "heablcoin-cloud"}]}), "object of objects", ()),
        (ours(command="/no/such/heablcoin-cloud"), "does not exist", ("queue",)),
        (ours(env={"HEABLCOIN_CLOUD_LEASE": 30}), "in quotes", ("queue",)),
        (ours(args="--database x"), "args must be a list", ("queue",)),
        (ours(args=["--database", 3]), "args must be a list", ("queue",)),
        (json.dumps({"mcpServers": {"heablcoin-cloud": {"args": []}}}), "has no command", ("heablcoin-cloud",)),
        (json.dumps({"mcpServers": {"heablcoin-cloud": {"url": "http://h/mcp"}}}), "", ("heablcoin-cloud",)),
    ],
)
def test_a_clients_file_is_judged(tmp_path: Path, text: str, problem: str, servers: tuple[str, ...]) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    finding = inspect(ClientFile("test", path))
    assert finding is not None
    assert problem in finding.problem
    assert bool(problem) == bool(finding.problem)
    assert finding.servers == servers


def test_a_client_without_a_file_is_no_finding(tmp_path: Path) -> None:
    assert inspect(ClientFile("test", tmp_path / "none.json")) is None


@pytest.mark.parametrize(
    ("platform", "environ", "path"),
    [
        ("darwin", {"HOME": "/Users/a"}, "/Users/a/Library/Application Support/Claude/claude_desktop_config.json"),
        ("linux", {"HOME": "/home/a"}, "/home/a/.config/Claude/claude_desktop_config.json"),
        ("linux", {"HOME": "/home/a", "XDG_CONFIG_HOME": "/x"}, "/x/Claude/claude_desktop_config.json"),
        ("win32", {"USERPROFILE": "C:/a", "APPDATA": "C:/a/r"}, "C:/a/r/Claude/claude_desktop_config.json"),
    ],
)
def test_each_platform_has_its_own_place(platform: str, environ: dict[str, str], path: str) -> None:
    assert client_files(environ, platform)[0].path == Path(path)


@pytest.mark.parametrize("name", pages())
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name], "run `make docs`"


def test_the_log_shows_no_key_and_no_foreign_text() -> None:
    import logging

    from core.redaction import KNOWN_SECRETS
    from server import logs

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    handler.addFilter(logs.Quiet())
    logger = logging.getLogger("server.test_the_log")
    logger.addHandler(handler)
    logger.propagate = False
    KNOWN_SECRETS.add("plainlookingsecret")
    try:
        try:
            raise ValueError("a caller's data")
        except ValueError:
            logger.exception("failed with %s and %s \ud800", KEY, "plainlookingsecret")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    line = json.loads(stream.getvalue())
    assert line["level"] == "error"
    assert KEY not in line["message"]
    assert "plainlooking" not in line["message"]
    assert line["trace"][0] == "ValueError"
    assert "caller's data" not in stream.getvalue()


def test_an_export_from_a_database_that_is_not_there_is_refused_and_makes_none(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "queue.db"
    done = run("export", str(tmp_path / "out.jsonl"), "--database", str(missing), folder=tmp_path)
    assert done.returncode == 1
    assert f"There is no database {missing}" in done.stderr
    assert list(tmp_path.glob("*.jsonl")) == []
    assert not missing.parent.exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"tasks": []}'])
def test_an_import_of_a_file_without_a_task_says_so_and_fails(tmp_path: Path, content: str) -> None:
    file = tmp_path / "empty.json"
    file.write_text(content, encoding="utf-8")
    done = run("import", str(file), folder=tmp_path)
    assert done.returncode == 1
    assert "There is no task in" in done.stderr


@pytest.mark.parametrize("content", ["", "\n\n", "# A page", "\ufeff"])
def test_an_import_of_what_is_no_queue_fails_with_a_reason(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    done = run("import", str(file), folder=tmp_path)
    assert done.returncode == 1
    assert "is not JSON. Fix: pass a file written by `heablcoin-cloud export`" in done.stderr


def test_print_config_warns_of_a_handlers_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["print-config", "claude-desktop", "--handlers", str(tmp_path / "nope.py")]) == 0
    told = capsys.readouterr()
    assert f"The handlers file {tmp_path / 'nope.py'} does not exist" in told.err
    json.loads(told.out)


@pytest.mark.parametrize(
    ("command", "warned"),
    [
        ("heablcoin-cloud", True),
        ("uvx", True),
        ("./heablcoin-cloud", True),
        ("venv/bin/heablcoin-cloud", True),
        (sys.executable, False),
        ("C:\\Users\\you\\heablcoin-cloud.exe", False),
    ],
)
def test_the_doctor_warns_of_a_command_that_a_client_may_not_find(tmp_path: Path, command: str, warned: bool) -> None:
    file = tmp_path / "claude_desktop_config.json"
    entry = {"command": command, "args": ["heablcoin-cloud"]}
    file.write_text(json.dumps({"mcpServers": {"heablcoin-cloud": entry}}), encoding="utf-8")
    finding = inspect(ClientFile("Claude Desktop", file))
    assert finding is not None
    assert finding.problem == ""
    assert finding.bare == ((command,) if warned else ())


def test_the_doctor_names_the_way_out_of_a_bare_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".codeium" / "windsurf" / "mcp_config.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"mcpServers": {"heablcoin-cloud": {"command": "heablcoin-cloud"}}}', encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cli.main(["doctor", "--database", str(tmp_path / "q.db")]) == 0
    assert "note Windsurf" in (said := capsys.readouterr().out)
    assert "`spawn heablcoin-cloud ENOENT`). Fix: use the absolute path" in said


def test_an_export_says_nothing_of_keys(tmp_path: Path) -> None:
    database = tmp_path / "queue.db"
    store = open_store(str(database))
    manager = ApiManager(store.pool, keys=KeyStore("file"))
    manager.add_endpoint(ApiEndpoint("ds", "https://api.example.com/v1", KEY))
    manager.add_endpoint(ApiEndpoint("ds", "https://api.example.org/v1"))  # its key is for the other address
    manager.close()
    store.close()
    done = run("export", "out.jsonl", "--database", str(database), folder=tmp_path, keys="file")
    assert (done.returncode, done.stderr) == (0, "0 tasks written.\n")
