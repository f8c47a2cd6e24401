"""A script that a child process imports to find a handler in it must not do its work once more there."""

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import InvalidArgument


class DoneTwice(InvalidArgument):
    """Something was to be done at the top level of what a child process imports."""


_importing: list[str] = []


@contextmanager
def importing(what: str) -> Iterator[None]:
    """In a child process: what the block imports is there for its functions alone."""
    _importing.append(what)
    try:
        yield
    finally:
        _importing.pop()


def refuse_while_imported(deed: str) -> None:
    """Raise DoneTwice when `deed` ("publishes a task") happens at the top level of what a child process imports."""
    if _importing:
        raise DoneTwice(
            f"{_importing[-1]} {deed} while it is imported. A child process imports it to find its handler "
            '(isolation="process"), and so would do once more whatever stands at its top level. Nothing was done.',
            'put what the script does, but not its handlers, under: if __name__ == "__main__":',
        )
