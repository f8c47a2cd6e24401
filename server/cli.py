"""The command line: no arguments serve MCP on stdio."""

import argparse
import gc
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from server import DISTRIBUTION, package_version

TRANSPORTS = ("stdio", "streamable-http", "http", "sse")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
RUNTIME_OPTIONS = {"database": ("PATH", "the task database"), "handlers": ("FILE_OR_MODULE", "your own task handlers")}
"""Options that stand for a setting, with what they take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Serving does not return."""
    options = parser().parse_args(arguments)
    for name in RUNTIME_OPTIONS:
        if getattr(options, name) is not None and name not in options.takes:
            options.refuse(f"--{name} has no effect here: leave it out")
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        from core.errors import HeablcoinError
        from server.logs import redact

        if not isinstance(error, HeablcoinError):
            raise
        print(f"{DISTRIBUTION}: {redact(str(error))}", file=sys.stderr)  # noqa: T201 - the command line speaks on stderr
        return 1


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    root = argparse.ArgumentParser(
        prog=DISTRIBUTION,
        description="An MCP server with a pool of LLM APIs and a durable background task queue. "
        "Without a command it serves MCP on stdio.",
    )
    root.add_argument("--version", action="version", version=f"{DISTRIBUTION} {package_version()}")
    _runtime_options(root)
    root.set_defaults(run=_serve, transport="stdio", host=None, port=None)
    commands = root.add_subparsers(title="commands", metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve MCP to a client (the default)")
    serve.add_argument("--transport", choices=TRANSPORTS, default="stdio", help="the HTTP ones share one port")
    serve.add_argument("--host", help=f"address to listen on ({DEFAULT_HOST}); HTTP only")
    serve.add_argument("--port", type=_port, help=f"TCP port, 0 for any free one ({DEFAULT_PORT}); HTTP only")
    _runtime_options(serve, suppress=True)
    serve.set_defaults(run=_serve)

    worker = commands.add_parser("worker", help="run queued tasks without a client")
    _runtime_options(worker, suppress=True)
    worker.set_defaults(run=_worker)

    demo = commands.add_parser("demo", help="see it work, without a key or a network")
    _runtime_options(demo, takes=())
    demo.set_defaults(run=_demo)

    doctor = commands.add_parser("doctor", help="check this installation and say what is wrong")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    _runtime_options(doctor, suppress=True)
    doctor.set_defaults(run=_doctor)

    show = commands.add_parser("print-config", help="print what a client needs to start this server")
    clients = ("claude-desktop", "claude-code", "windsurf", "inspector")
    show.add_argument("client", choices=clients, metavar="CLIENT", help=f"one of: {', '.join(clients)}")
    _runtime_options(show, suppress=True)
    show.set_defaults(run=_print_config)

    key = commands.add_parser("set-key", help="keep an endpoint's API key (typed in, or read from a pipe)")
    key.add_argument("name", metavar="NAME", help="the endpoint's name")
    key.add_argument("--base-url", default="", metavar="URL", help="its address, for an endpoint not yet added")
    key.add_argument("--remove", action="store_true", help="forget the key instead")
    _runtime_options(key, suppress=True, takes=("database",))
    key.set_defaults(run=_set_key)

    tools = commands.add_parser("tools", help="list the tools that clients see")
    tools.add_argument("--json", action="store_true", help="as JSON: what a model is shown of each")
    _runtime_options(tools, takes=())
    tools.set_defaults(run=_tools)

    for name, text, stream in (
        ("import", "add tasks from a file", "input"),
        ("export", "write all tasks to a file", "output"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", metavar="FILE", help=f"its path, or - for standard {stream}")
        _runtime_options(command, suppress=True, takes=("database",))
        command.set_defaults(run=_import if name == "import" else _export)
    return root


def _runtime_options(
    command: argparse.ArgumentParser, *, suppress: bool = False, takes: Collection[str] = tuple(RUNTIME_OPTIONS)
) -> None:
    """Options that `command` takes; given after a command they replace those given before it."""
    for name in takes:
        metavar, text = RUNTIME_OPTIONS[name]
        command.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS if suppress else None, help=text)
    command.set_defaults(takes=takes, refuse=command.error)


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


@contextmanager
def _importing() -> Iterator[None]:
    """Importing makes many objects and no garbage: to look for any would take a fifth of the start-up time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _serve(options: argparse.Namespace) -> int:
    if options.transport == "stdio" and (options.host, options.port) != (None, None):
        options.refuse("--host and --port need --transport streamable-http or sse: stdio has neither")
    with _importing():
        from server.serving.start import serve
    host = DEFAULT_HOST if options.host is None else options.host
    port = DEFAULT_PORT if options.port is None else options.port
    return serve(options.transport, host, port, options.database, options.handlers)


def _worker(options: argparse.Namespace) -> int:
    with _importing():
        from server.commands import worker
    return worker.work(options.database, options.handlers)


def _demo(_options: argparse.Namespace) -> int:
    from server.demo import main as demo

    return int(demo() or 0)


def _doctor(options: argparse.Namespace) -> int:
    from server.commands import doctor

    return doctor.main(options.database, options.handlers, as_json=options.json)


def _print_config(options: argparse.Namespace) -> int:
    from server.commands import print_config

    return print_config.main(options.client, options.database, options.handlers)


def _set_key(options: argparse.Namespace) -> int:
    from server.commands import set_key

    return set_key.main(options.name, options.base_url, options.database, remove=options.remove)


def _tools(options: argparse.Namespace) -> int:
    from server.commands import list_tools

    return list_tools.main(as_json=options.json)


def _import(options: argparse.Namespace) -> int:
    from server.commands import import_export

    return import_export.import_tasks(options.file, options.database)


def _export(options: argparse.Namespace) -> int:
    from server.commands import import_export

    return import_export.write_out(options.file, options.database)
