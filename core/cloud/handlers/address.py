"""Where a handler's function is, so that a fresh interpreter can find it by name."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Address:
    """Where a child process finds a function: in a module it imports by name, or in a file it runs."""

    module: str
    file: str
    """'' when the module is importable by its name."""
    qualname: str


def address_of(name: str, func: Any) -> Address:
    """How a fresh interpreter finds `func`; InvalidArgument when it cannot."""
    module_name = getattr(func, "__module__", None)
    qualname = getattr(func, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(qualname, str) or _attribute(module, qualname) is not func:
        raise InvalidArgument(
            f'The handler for {name} cannot run with isolation="process": a child process could not find it by name.',
            "make it a plain function at the top level of a module or handlers file (no lambda, no inner function).",
        )
    file = getattr(module, "__file__", None)
    spec = getattr(module, "__spec__", None)
    if module_name == "__main__":
        if spec is not None and spec.name:
            return Address(spec.name, "", qualname)
        if not file:
            raise InvalidArgument(
                f'The handler for {name} cannot run with isolation="process": it was typed into a live session.',
                "put it into a file and register it from there.",
            )
        return Address("__heablcoin_main__", str(Path(file).resolve()), qualname)
    by_path = str(module_name).startswith("heablcoin_handlers_")
    return Address(str(module_name), str(Path(file).resolve()) if file and by_path else "", qualname)


def _attribute(module: object, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
