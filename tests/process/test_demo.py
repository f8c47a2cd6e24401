"""The demo: its parts alone, and the whole of it as a newcomer runs it."""

import io
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from copy import deepcopy
from pathlib import Path

import pytest

from core.json_types import JsonObject
from server.demo import main, watch
from server.demo.pdf import text_to_pdf
from server.demo.scenario import Plan
from server.demo.screen import Screen, columns, wrap
from server.demo.standin import Served, StandIn, Step, reply
from server.demo.verdict import Observed, facts

ROOT = Path(__file__).parents[2]


def ask(stand_in: StandIn, prompt: str) -> tuple[int, dict[str, str], object]:
    request = urllib.request.Request(
        stand_in.base_url + "/chat/completions",
        data=json.dumps({"model": "any", "messages": [{"role": "user", "content": prompt}]}).encode(),
        headers={"Authorization": "Bearer sk-test", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.load(error)


def test_a_stand_in_fails_as_scripted_then_dies_and_refuses_connections():
    with StandIn("primary", [Step(500), Step(429, retry_after=3), Step(), Step(0)]) as stand_in:
        assert ask(stand_in, "one")[0] == 500
        status, headers, body = ask(stand_in, "two")
        assert (status, headers["Retry-After"]) == (429, "3")
        assert body["error"]["code"] == "rate_limit_exceeded"
        status, _, body = ask(stand_in, "add 2 and 40")
        assert status == 200
        assert body["choices"][0]["message"]["content"] == reply("stand-in-primary", "add 2 and 40")
        with pytest.raises(OSError):
            ask(stand_in, "four")
        stand_in._thread.join(10)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", stand_in.port), timeout=5)
        assert [served.step.status for served in stand_in.served] == [500, 429, 200, 0]
        assert {served.authorization for served in stand_in.served} == {"Bearer sk-test"}


def test_a_stand_ins_answer_is_drawn_from_the_prompt():
    assert "from 40.00 to 65,123.50" in reply("m", "between 65,123.5 and 40")
    assert reply("m", "one two three") != reply("m", "one two")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def shown(raw: str) -> list[str]:
    """What a terminal shows after `raw`, for the two escape codes that move."""
    rows: list[str] = [""]
    at = 0
    while raw:
        if raw.startswith("\x1b["):
            end = next(index for index, char in enumerate(raw) if char.isalpha())
            number, kind = raw[2:end], raw[end]
            if kind == "A":
                at -= int(number)
            elif kind == "J":
                rows[at:] = [""]
            raw = raw[end + 1 :]
            continue
        if raw[0] == "\n":
            at += 1
            if at == len(rows):
                rows.append("")
        else:
            rows[at] += raw[0]
        raw = raw[1:]
    return rows


def test_in_a_terminal_the_panel_is_redrawn_below_the_lines_and_lines_stay():
    terminal = Terminal()
    screen = Screen(terminal, {})
    screen.say("first")
    screen.panel(["a task  pending", "another"])
    screen.say("second")
    screen.panel(["a task  running"])
    screen.say("third")
    assert shown(terminal.getvalue()) == ["first", "second", "third", "a task  running", ""]
    screen.panel([])
    assert shown(terminal.getvalue()) == ["first", "second", "third", ""]


def test_in_a_pipe_only_plain_lines_are_written():
    pipe = io.StringIO()
    screen = Screen(pipe, {})
    screen.panel(["never seen"])
    screen.say("seen", "good")
    assert pipe.getvalue() == "seen\n"


def test_no_color_leaves_the_escape_codes_that_colour_out():
    coloured, plain = Terminal(), Terminal()
    Screen(coloured, {}).say("text", "good")
    Screen(plain, {"NO_COLOR": "1"}).say("text", "good")
    assert coloured.getvalue() == "\x1b[32mtext\x1b[0m\n"
    assert plain.getvalue() == "text\n"


def test_a_console_that_cannot_show_the_marks_gets_words():
    class Ascii(Terminal):
        encoding = "ascii"

    console = Ascii()
    screen = Screen(console, {})
    assert (screen.yes, screen.no, screen.arrow) == ("ok", "NO", "->")
    screen.say("北京")
    assert console.getvalue() == "??\n"


@pytest.mark.parametrize("text", ["word " * 60, "  indented " + "word " * 60, "x" * 300, "价格 " * 60, ""])
def test_wrapped_lines_fit_and_keep_every_word(text):
    lines = wrap(text.rstrip(), 80)
    assert all(columns(line) <= 80 for line in lines)
    if "x" * 300 not in text:
        assert " ".join(lines).split() == text.split()


def test_a_report_becomes_a_pdf_whose_offsets_lead_to_its_objects():
    pdf = text_to_pdf("\n".join(f"line {number} (of many) \\ ✓" for number in range(130)))
    assert pdf.startswith(b"%PDF-1.4\n")
    assert pdf.endswith(b"%%EOF\n")
    assert pdf.count(b"/Type /Page ") == 3
    assert b"(line 129 \\(of many\\) \\\\ ?) Tj" in pdf
    table = pdf[int(pdf.split(b"startxref\n")[1].split()[0]) :].split(b"\n")
    for number, entry in enumerate(table[3 : 2 + int(table[1].split()[1])], 1):
        assert pdf[int(entry.split()[0]) :].startswith(b"%d 0 obj" % number)


def moment(seconds: float) -> str:
    return f"2026-11-23T20:00:{seconds:06.3f}Z"


def task(start: float, end: float, result: object, worker: str = "host-7002-b") -> JsonObject:
    attempt = {
        "number": 1,
        "outcome": "completed",
        "worker": worker,
        "started_at": moment(start),
        "ended_at": moment(end),
    }
    return {"status": "completed", "completed_at": moment(end), "attempts": [attempt], "result": result}


def good() -> Observed:
    """Everything as the demo should see it."""
    cut = {
        "number": 1,
        "outcome": "interrupted",
        "worker": "host-7001-a",
        "started_at": moment(4),
        "ended_at": moment(7),
    }
    redone = {
        "number": 2,
        "outcome": "completed",
        "worker": "host-7002-b",
        "started_at": moment(7),
        "ended_at": moment(8),
    }
    report = {"text": "MARKET REPORT\nup, they say", "endpoint": "backup"}
    tasks = {
        "sleep": task(0, 1, {}),
        "fetch_data": task(2, 3, {"closes": [1]}),
        "analyze_data": task(3, 4, {"comment": "up, they say", "endpoint": "primary"}),
        "generate_report": {
            "status": "completed",
            "completed_at": moment(8),
            "attempts": [cut, redone],
            "result": report,
        },
        "translation": task(8, 9, {"text": "...", "endpoint": "backup"}),
        "price_alert": task(1, 2, {"text": "calm"}),
    }
    counted = {"calls": 4, "outcomes": {"ok": 1, "rate_limited": 1, "transient": 2}, "cooldown_seconds": 1.0}
    stats = {"endpoints": {"primary": counted, "backup": {"calls": 2, "outcomes": {"ok": 2}}}}

    def served(at: float, endpoint: str, step: Step, prompt: str = "?") -> Served:
        return Served(at, f"Bearer sk-{endpoint}", prompt, step)

    return Observed(
        ids={label: f"id-{label}" for label in tasks},
        keys={"primary": "sk-primary", "backup": "sk-backup"},
        killed_pid=7001,
        tasks=tasks,
        stats=stats,
        tasks_after_restart=deepcopy(tasks),
        stats_after_restart=deepcopy(stats),
        served={
            "primary": [
                served(at, "primary", step)
                for at, step in enumerate((Step(), Step(500), Step(429, retry_after=1), Step(0)))
            ],
            "backup": [served(9, "backup", Step(), f"Translate: {report['text']}")],
        },
        said="what the server said",
        database=b"SQLite format 3",
        report_file=b"%PDF-1.4 (MARKET REPORT) Tj",
    )


def test_a_good_run_shows_every_fact():
    assert [fact.text for fact in facts(good()) if not fact.seen] == []


def test_nothing_observed_shows_no_fact():
    assert [fact.text for fact in facts(Observed()) if fact.seen] == []


def twice(seen):
    seen.tasks["fetch_data"]["attempts"] *= 2
    seen.tasks_after_restart = deepcopy(seen.tasks)


def change(path, value):
    """Set what `path` leads to, in the tasks or statistics before and after the restart alike."""

    def apply(seen):
        for each in (
            {"tasks": seen.tasks, "stats": seen.stats},
            {"tasks": seen.tasks_after_restart, "stats": seen.stats_after_restart},
        ):
            *way, last = path
            target = each
            for step in way:
                target = target[step]
            target[last] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "unseen"),
    [
        (change(("tasks", "translation", "attempts", 0, "outcome"), "failed"), "every task completed"),
        (twice, "every task completed"),
        (change(("tasks", "price_alert", "completed_at"), moment(2.001)), "the urgent task"),
        (lambda seen: seen.ids.update(later=seen.ids.pop("price_alert")), "the urgent task"),
        (
            change(("tasks", "fetch_data", "completed_at"), moment(3.001)),
            "fetch_data, analyze_data and generate_report",
        ),
        (lambda seen: seen.served["primary"].pop(1), "primary answered, failed"),
        (lambda seen: seen.served["primary"].insert(3, Served(2.99, "", "", Step(0))), "primary was left alone"),
        (change(("stats", "endpoints", "primary", "outcomes", "rate_limited"), 0), "the statistics show"),
        (change(("stats", "endpoints", "backup", "outcomes", "ok"), 1), "the statistics show"),
        (lambda seen: setattr(seen, "killed_pid", 7003), "the attempt cut by kill -9"),
        (change(("tasks", "generate_report", "attempts", 0, "outcome"), "failed"), "the attempt cut by kill -9"),
        (change(("tasks", "generate_report", "attempts", 1, "worker"), "host-7001-a"), "the attempt cut by kill -9"),
        (change(("tasks", "analyze_data", "result", "comment"), "down, they say"), "the report holds"),
        (lambda seen: setattr(seen, "report_file", b"%PDF-1.4"), "the report holds"),
        (lambda seen: seen.served["backup"].clear(), "a later task was given"),
        (lambda seen: seen.tasks_after_restart["sleep"].update(status="failed"), "after the restart every task"),
        (
            lambda seen: seen.stats_after_restart["endpoints"]["backup"].update(calls=1),
            "after the restart the statistics",
        ),
        (lambda seen: seen.stats_after_restart.clear(), "after the restart the statistics"),
        (lambda seen: setattr(seen, "said", "log: sk-primary"), "both keys were sent"),
        (lambda seen: setattr(seen, "database", b"...sk-backup..."), "both keys were sent"),
    ],
)
def test_a_run_in_which_something_went_wrong_does_not_show_that_fact(spoil, unseen):
    seen = good()
    spoil(seen)
    missing = [fact.text for fact in facts(seen) if not fact.seen]
    assert any(text.startswith(unseen) for text in missing), missing


def test_time_alone_does_not_make_the_statistics_differ():
    seen = good()
    seen.stats_after_restart["endpoints"]["primary"]["cooldown_seconds"] = 0.0
    assert all(fact.seen for fact in facts(seen))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The demo of the wheel that users install, in an empty home, with its output going to a pipe."""
    home, built = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(built)]
    subprocess.run(build, cwd=ROOT, capture_output=True, timeout=60, check=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(built)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(built), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "server", "demo"]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, encoding="utf-8", timeout=100, check=False
    )
    return done, home


def test_the_demo_sees_all_it_promises_and_exits_0(whole_run):
    done, _ = whole_run
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("✓") == len(facts(good()))
    assert "✗" not in done.stdout


def test_the_demo_writes_plain_lines_of_80_columns_into_a_pipe(whole_run):
    lines = whole_run[0].stdout.splitlines()
    assert "\x1b" not in whole_run[0].stdout
    assert [line for line in lines if columns(line) > 80] == []


def test_the_demo_leaves_nothing_in_the_users_home(whole_run):
    assert list(whole_run[1].iterdir()) == []


def test_a_demo_in_which_no_endpoint_fails_says_what_it_did_not_see_and_exits_1():
    pipe = io.StringIO()
    steady = Plan(primary=(Step(delay=0.1), Step(delay=1.5), Step(delay=0.1)), backup=(Step(),))
    assert main(steady, Screen(pipe, {})) == 1
    unseen = [line.removeprefix(" NO ") for line in pipe.getvalue().splitlines() if line.startswith(" NO ")]
    assert any(text.startswith("primary answered, failed with 500") for text in unseen)
    assert any(text.startswith("the statistics show primary's failures") for text in unseen)
    assert not any(text.startswith(("every task completed", "the report holds")) for text in unseen)


def test_a_demo_that_cannot_go_on_says_why_with_the_servers_last_words_and_exits_1(monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 3.0)
    pipe = io.StringIO()
    assert main(Plan(primary=(Step(0),), backup=(Step(0),)), Screen(pipe, {})) == 1
    assert "TimeoutError: nothing more was seen for 3 s" in pipe.getvalue()
    assert "   server: {" in pipe.getvalue()
