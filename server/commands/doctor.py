"""`heablcoin-cloud doctor`: is this installation sound, and if not, what to do. Shows no key and changes nothing."""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import HeablcoinError, KeyUnusable
from core.paths import MEMORY, config_dir, data_dir, database_path
from server import DISTRIBUTION, package_version
from server.commands.clients import client_files, inspect
from server.logs import redact
from server.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from core.cloud.store.sqlite import SqliteStore

Level = Literal["ok", "note", "bad"]
MARKS: dict[Level, str] = {"ok": "ok  ", "note": "note", "bad": "BAD "}
NEW_LINE, INDENTED = "\n", "\n       "
TWIN_SECONDS = 60.0
"""A process that was seen within this time counts as live."""
CORRECT_IT = (
    f"correct the file (`{DISTRIBUTION} print-config` prints what our entry should be), then restart the client"
)
TOP_LEVEL = ("server", "core", "utils")
LIBRARIES = ("mcp", "apsw", "httpx2", "pydantic", "anyio", "keyring", "aiohttp")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    about: str
    text: str


def main(database: str | None, handlers: str | None, *, as_json: bool) -> int:
    """Print the report; 1 when something is bad."""
    findings = [replace(found, text=redact(found.text)) for found in examine(database, handlers)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))  # noqa: T201
    else:
        for finding in findings:
            print(f"{MARKS[finding.level]} {finding.about}: {finding.text.replace(NEW_LINE, INDENTED)}")  # noqa: T201 - a command's output
    return int(any(finding.level == "bad" for finding in findings))


def examine(database: str | None, handlers: str | None) -> Iterator[Finding]:
    """Every check in turn; one that breaks is itself a finding."""
    yield from _guarded("versions", _versions)
    yield from _guarded("packages", _packages)
    try:
        settings = load_settings(database=database, handlers=handlers)
    except HeablcoinError as error:
        yield Finding("bad", "settings", str(error))
        yield from _guarded("clients", _clients)
        return
    yield from _guarded("settings", lambda: _settings(settings))
    yield from _guarded("handlers", lambda: _handlers(settings))
    yield from _guarded("database", lambda: _database(settings))
    yield from _guarded("keys", lambda: _keys(settings))
    yield from _guarded("proxy", _proxies)
    yield from _guarded("clients", _clients)


def _guarded(about: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except HeablcoinError as error:
        yield Finding("bad", about, str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
        yield Finding("bad", about, f"this check failed itself ({type(error).__name__})")


def _versions() -> Iterator[Finding]:
    yield Finding("ok", DISTRIBUTION, f"{package_version()} in {Path(__file__).resolve().parents[2]}")
    yield Finding("ok", "python", f"{platform.python_version()} at {sys.executable} on {platform.platform()}")
    for name in LIBRARIES:
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if name == "aiohttp":
                yield Finding("note", name, "not installed; the extra `fast` makes calls to LLMs faster")
            else:
                yield Finding("bad", name, f"not installed; install {DISTRIBUTION} anew")


def _packages() -> Iterator[Finding]:
    """Our top-level names are common ones: another distribution that brings them would be mixed up with ours."""
    owners = importlib.metadata.packages_distributions()
    others = {name: sorted({o for o in owners.get(name, []) if o != DISTRIBUTION}) for name in TOP_LEVEL}
    for name, found in others.items():
        if found:
            yield Finding(
                "bad",
                "packages",
                f"{', '.join(found)} also installs `{name}`; install {DISTRIBUTION} by itself (uv tool, pipx)",
            )
    if not any(others.values()):
        yield Finding("ok", "packages", "nothing else here installs server, core or utils")


def _settings(settings: Settings) -> Iterator[Finding]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    unknown = [name for name in given if name not in known and not name.startswith(f"{PREFIX}FAILPOINT")]
    yield Finding(
        "ok", "settings", f"set in the environment: {', '.join(name for name in given if name in known) or 'none'}"
    )
    if unknown:
        yield Finding("bad", "settings", f"no such setting: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    yield Finding(
        "ok", "tools", f"toolsets {', '.join(settings.toolsets)}{' (read-only)' if settings.read_only else ''}"
    )


def _handlers(settings: Settings) -> Iterator[Finding]:
    """Whether the user's own handlers load, as they would at a start."""
    if settings.handlers:
        from core.cloud.api_manager import ApiManager
        from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher
        from core.cloud.handlers.files import load_handlers

        manager = ApiManager()
        try:
            with EnhancedCloudTaskPublisher(MEMORY) as publisher:
                names = load_handlers(settings.handlers, publisher, manager)
        finally:
            manager.close()
        yield Finding("ok", "handlers", f"{settings.handlers} registers {', '.join(names) or 'nothing'}")


def _database(settings: Settings) -> Iterator[Finding]:
    from core.cloud.store import open_store

    location = settings.database or database_path()
    yield Finding("ok", "directories", f"data {data_dir()}, configuration {config_dir()}")
    if location != MEMORY and (before_use := _not_to_be_opened(Path(location).expanduser().absolute())):
        yield before_use
        return
    store = open_store(location)
    try:
        now = time.time()
        health = store.health()
        size = f"{health.bytes / 1_000_000:.1f} MB"
        text = f"{health.location}, {health.kind} {health.library}, schema {health.schema_version}, {size}"
        yield Finding("ok" if health.sound else "bad", "database", text if health.sound else f"{text}: {health.detail}")
        stats = store.tasks.stats()
        counts = ", ".join(f"{count} {status}" for status, count in stats.by_status.items() if count)
        yield Finding("ok", "tasks", counts or "none")
        alive = store.workers.alive(now - TWIN_SECONDS)
        for worker in alive:
            can = ", ".join(worker.capabilities) or "nothing"
            yield Finding("ok", "live process", f"{worker.worker} (pid {worker.pid} on {worker.host}) runs {can}")
        if not alive:
            yield Finding(
                "note",
                "live process",
                "none; tasks run when a client starts the server, or in `heablcoin-cloud worker`",
            )
        yield from _endpoints(store, settings)
    finally:
        store.close()


def _not_to_be_opened(file: Path) -> Finding | None:
    """What to say of a file that is not there or would be changed by opening it; None for one of this version."""
    from core.cloud.store.database import schema_of

    elsewhere = f"or set {PREFIX}DATABASE to another path"
    try:
        if not file.exists():
            nearest = next(folder for folder in file.parents if folder.exists())
            if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
                return Finding("note", "database", f"{file} does not exist yet; the first start makes it")
            return Finding(
                "bad", "database", f"{file} cannot be made. Fix: make {nearest} a directory you can write, {elsewhere}"
            )
    except OSError as error:
        return Finding(
            "bad",
            "database",
            f"{file} cannot be reached ({error.strerror}). Fix: make its directory yours to read and write, {elsewhere}",
        )
    if file.is_dir():
        return None
    found, known = schema_of(str(file))
    if found >= known:
        return None
    copied = ", after making a copy" if found else ""
    return Finding("note", "database", f"{file} has schema {found}; the next start brings it to {known}{copied}")


def _endpoints(store: "SqliteStore", settings: Settings) -> Iterator[Finding]:
    """The pool's endpoints, and where the key of each comes from, by name."""
    from core.cloud.api_manager import ApiManager
    from core.cloud.keys.secrets import KeyStore

    manager = ApiManager(store.pool, keys=KeyStore(settings.keys))
    try:
        usable = manager.usable()
        for endpoint in manager.endpoints:
            variable, command = endpoint.api_key_env, f"`{DISTRIBUTION} set-key {endpoint.name}`"
            if endpoint.name not in usable:
                ways = f"set {variable}, or run {command}" if variable else f"run {command}"
                yield Finding("note", "endpoint", f"{endpoint.name} has no key in this terminal: {ways}")
                continue
            set_here = bool(variable and os.environ.get(variable, "").strip())
            try:
                key = f"key from {variable}" if set_here else "stored key" if endpoint.api_key else "no key"
                endpoint.known_key()
            except KeyUnusable as error:
                yield Finding("bad", "endpoint", f"{endpoint.name}: {error}")
                continue
            yield Finding("ok", "endpoint", f"{endpoint.name} at {endpoint.base_url}, {key}")
    finally:
        manager.close()


def _keys(settings: Settings) -> Iterator[Finding]:
    from core.cloud.pool.discovery import discover

    found = sorted({endpoint.api_key_env for endpoint in discover(os.environ)})
    used = "used" if settings.endpoints_from_env else f"not used; {PREFIX}ENDPOINTS_FROM_ENV=true would"
    yield Finding(
        "ok", "keys", f"in the environment: {', '.join(found)} ({used})" if found else "none known in the environment"
    )


def _proxies() -> Iterator[Finding]:
    from core.network import check_proxies

    for scheme, proxy in check_proxies().items():
        yield Finding("ok", "proxy", f"{scheme}:// goes through {proxy}, but for NO_PROXY and this machine")


def _clients() -> Iterator[Finding]:
    seen = False
    for file in client_files():
        finding = inspect(file)
        if finding is None:
            continue
        seen = True
        if finding.problem:
            yield Finding("bad", file.client, f"{file.path}: {finding.problem}. Fix: {CORRECT_IT}")
        elif finding.bare:
            yield Finding(
                "note",
                file.client,
                f"{file.path} starts this server as `{finding.bare[0]}`, which a client whose PATH is shorter than your "
                f"terminal's does not find (`spawn {finding.bare[0]} ENOENT`). Fix: use the absolute path that "
                f"`{DISTRIBUTION} print-config` prints",
            )
        elif finding.servers:
            yield Finding("ok", file.client, f"{file.path} starts this server as {', '.join(finding.servers)}")
        else:
            yield Finding(
                "note", file.client, f"{file.path} does not mention this server; see `{DISTRIBUTION} print-config`"
            )
    if not seen:
        yield Finding("note", "clients", "no client's configuration file found")
