"""Handlers of the user's own, from a Python file or an importable module."""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

from core.cloud.handlers.registry import HandlerFunction, HandlerRegistry, Isolation
from core.errors import HeablcoinError, InvalidArgument
from core.main_script import DoneTwice

log = logging.getLogger(__name__)

EXAMPLE = 'def register(publisher):\n    publisher.register_handler("market_analysis", analyse)'


class Registrar(Protocol):
    """What `register` is given: a publisher, or a bare HandlerRegistry."""

    def register_handler(
        self,
        name: str,
        func: HandlerFunction,
        *,
        isolation: Isolation = "thread",
        timeout: float | None = None,
        max_per_minute: int = 0,
        max_concurrency: int = 0,
        key: str = "",
    ) -> None: ...


def load_handlers(spec: str, target: Registrar, manager: object | None = None) -> list[str]:
    """Load the file or module `spec` and let its `register(publisher)` register handlers on `target`.

    A `register(publisher, manager)` is given the pool of LLM endpoints too, so that handlers can ask it.
    `spec` is a path that ends in `.py`, or a dotted module name. Returns the names that were registered. Raises
    InvalidArgument that says what is wrong with the file. Whatever the file prints goes to stderr: stdout may be the
    MCP protocol's.
    """
    wanted = spec.strip()
    if not wanted:
        raise InvalidArgument("No handlers file was named.", "give the path of a .py file or the name of a module.")
    registry: object = target if isinstance(target, HandlerRegistry) else getattr(target, "handlers", None)
    if not isinstance(registry, HandlerRegistry):
        raise InvalidArgument(
            "Handlers can be loaded into a publisher or a HandlerRegistry only.", "pass one of these as target."
        )
    before = registry.snapshot()
    with contextlib.redirect_stdout(sys.stderr):
        module = import_file(wanted) if looks_like_a_path(wanted) else _import_module(wanted)
        _call_register(module, wanted, target, manager)
    now = registry.snapshot()
    names = sorted(name for name, handler in now.items() if before.get(name) is not handler)
    if not names:
        raise InvalidArgument(
            f"The handlers file {wanted} registered nothing.", f"call register_handler in register:\n{EXAMPLE}"
        )
    log.info("handlers from %s: %s", wanted, ", ".join(names))
    return names


def looks_like_a_path(spec: str) -> bool:
    """True for what names a file, False for a dotted module name."""
    return spec.endswith(".py") or "/" in spec or "\\" in spec


def import_file(path: str, name: str = "") -> ModuleType:
    """The module of a Python file, run once a process; modules beside it can be imported by it.

    Raises InvalidArgument that says why it cannot be run.
    """
    file = Path(path).expanduser().resolve()
    name = name or module_name_of(file)
    known = sys.modules.get(name)
    if known is not None:
        return known
    if not file.is_file():
        raise InvalidArgument(f"The handlers file {file} does not exist.", "check the path.")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidArgument(f"The handlers file {file} is not a Python file.", "give a path that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _unusable(str(file), error) from error
    return module


def module_name_of(file: Path) -> str:
    """The name under which a handlers file is kept in sys.modules: its own stem could be another module's."""
    return f"heablcoin_handlers_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InvalidArgument(
                f"There is no module {name!r} to take handlers from.",
                "give a module that this Python can import, or the path of a .py file.",
            ) from error
        raise _unusable(name, error) from error
    except BaseException as error:
        raise _unusable(name, error) from error


def _call_register(module: ModuleType, spec: str, target: Registrar, manager: object | None) -> None:
    register = getattr(module, "register", None)
    if register is None:
        raise InvalidArgument(f"The handlers file {spec} has no function register.", f"add one:\n{EXAMPLE}")
    arguments: tuple[object, ...] = (target, manager)
    if not _takes(register, arguments):
        arguments = (target,)
    if not _takes(register, arguments):
        raise InvalidArgument(
            f"register in the handlers file {spec} takes neither (publisher) nor (publisher, manager).",
            f"write it so:\n{EXAMPLE}",
        )
    try:
        register(*arguments)
    except BaseException as error:
        raise _unusable(spec, error, "its register function") from error


def _takes(function: Callable[..., object], arguments: tuple[object, ...]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def _unusable(spec: str, error: BaseException, part: str = "it") -> BaseException:
    """The error to raise for a file that failed with `error`; an exit asked for by Ctrl-C is left alone, as what is said clearly already."""
    if isinstance(error, (KeyboardInterrupt, MemoryError, DoneTwice)):
        return error
    place = ""
    if isinstance(error, SyntaxError) and error.lineno:
        place = f" at line {error.lineno}"
    else:
        trace = error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if not file.startswith("<") and Path(file).name == Path(spec).name:
                place = f" at line {trace.tb_lineno}"
            trace = trace.tb_next
    text = error.message if isinstance(error, HeablcoinError) else str(error)
    return InvalidArgument(
        f"The handlers file {spec} cannot be used: {part} failed{place} with {type(error).__name__}: {text[:500].rstrip('.')}.",
        "correct the file and start again.",
    )
