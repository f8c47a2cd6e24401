"""Named SQL: `sql/<noun>.sql` holds each statement under `-- name: ...` with a sentence of why."""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import apsw

Row = tuple[Any, ...]
Binding = str | int | float | None

_NAME = re.compile(r"^-- name: ([a-z0-9_]+)$", re.MULTILINE)


class Queries(Mapping[str, str]):
    """The statements of one noun by name, comments stripped."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        text = (resources.files(__package__) / "sql" / f"{noun}.sql").read_text(encoding="utf-8")
        parts = _NAME.split(text)
        self._statements: dict[str, str] = {}
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in self._statements:
                raise ValueError(f"{noun}.sql has two statements named {name}")
            lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
            self._statements[name] = "\n".join(lines).strip()

    def __getitem__(self, name: str) -> str:
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)


TASK = Queries("task")
DEPENDENCY = Queries("dependency")
ATTEMPT = Queries("attempt")
WORKER = Queries("worker")
LEADER = Queries("leader")
LIMIT = Queries("limit")


def rows(connection: apsw.Connection, statement: str, bindings: tuple[Binding, ...] = ()) -> list[Row]:
    """Every row of a statement."""
    return connection.execute(statement, bindings).fetchall()


def first(connection: apsw.Connection, statement: str, bindings: tuple[Binding, ...] = ()) -> Row | None:
    """The first row of a statement, None when it gives none."""
    return connection.execute(statement, bindings).fetchone()


def one(connection: apsw.Connection, statement: str, bindings: tuple[Binding, ...] = ()) -> Any:
    """The single value of a statement that always gives a row."""
    return next(connection.execute(statement, bindings))[0]


def many(connection: apsw.Connection, statement: str, bindings: Sequence[tuple[Binding, ...]]) -> list[Row]:
    """A statement once for each binding; all the rows they give."""
    return connection.executemany(statement, bindings).fetchall() if bindings else []
