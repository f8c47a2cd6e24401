"""`heablcoin-cloud set-key NAME`: keep an endpoint's key. It is typed in or read from a pipe, never given as an argument."""

import getpass
import sys

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.keys.key_text import stripped
from core.errors import InvalidArgument, UnknownEndpoint
from server.configured_runtime import open_runtime
from server.settings import load_settings


def main(name: str, base_url: str, database: str | None, *, remove: bool) -> int:
    """Keep or forget the key of endpoint `name`; it will only ever be sent to the endpoint's own address."""
    runtime = open_runtime(load_settings(database=database, concurrency=0))
    try:
        if remove:
            found = runtime.keys.delete(name)
            _say(f"The key of {name} is forgotten." if found else f"No key was kept for {name}.")
            return 0 if found else 1
        if runtime.keys.where() == "process":
            raise InvalidArgument(
                "With HEABLCOIN_CLOUD_KEYS=process a key is kept by the process it is given to, and this one ends now.",
                "set it to auto, keyring or file, or name an environment variable in the endpoint's api_key_env",
            )
        address = ApiEndpoint(name=name, base_url=base_url or _address_of(runtime.manager, name)).base_url
        text = read_key(name)
        place = runtime.keys.set(name, address, text)
    finally:
        runtime.stop(0)
    taken_off = " and ".join(stripped(text)[1])
    _say(
        f"The key of {name} is kept ({place}) and will be sent to {address} only."
        + (f" It was pasted with {taken_off} around it, which was taken off." if taken_off else "")
    )
    return 0


def read_key(name: str) -> str:
    """The key from the terminal, without echo, or the first line of what is piped in."""
    if sys.stdin.isatty():
        try:
            return getpass.getpass(f"Key of {name} (not shown): ")
        except EOFError:
            return ""
    return sys.stdin.readline(10_000)


def _address_of(manager: ApiManager, name: str) -> str:
    try:
        return manager.get_endpoint(name).base_url
    except UnknownEndpoint:
        raise InvalidArgument(
            f"There is no endpoint {name!r} yet, and a key is kept for one address only.",
            "add the endpoint first, or pass --base-url https://...",
        ) from None


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a command's output
