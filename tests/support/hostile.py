"""Handlers that end in every way a handler can, each described by a JSON payload so that a child process can do it too."""

import asyncio
import dataclasses
import enum
import os
import threading
from collections import deque
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from core.errors import HeablcoinError, InvalidArgument, Permanent, RetryLater


class StrRaises(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class StrExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class StrIsNoText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class StrIsEndless(Exception):
    def __str__(self) -> str:
        return str(self)


class ReprRaises(Exception):
    def __init__(self) -> None:
        super().__init__(self)

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Huge(Exception):
    def __str__(self) -> str:
        return "x" * 20_000_000


class ClassLies(Exception):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return Permanent


class ClassRaises(Exception):
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


class EveryAttributeRaises(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class HintRaises(Exception):
    @property
    def retry_after(self) -> float:
        raise KeyboardInterrupt


class HintIsOdd(Exception):
    retry_after = "soon"


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class NamelessType(Exception, metaclass=Meta):
    pass


class CannotBePickled(Exception):
    def __init__(self, needed: str, also: str) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle")


class NoMessage(HeablcoinError):
    def __init__(self) -> None:
        pass


class NoSeconds(RetryLater):
    def __init__(self) -> None:
        self.message, self.fix = "later", ""


class OwnBase(BaseException):
    pass


def cyclic() -> BaseException:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    one.__context__, other.__context__ = other, one
    return one


def deep_chain() -> BaseException:
    error: BaseException = ValueError("last")
    for number in range(3_000):
        outer = ValueError(f"number {number}")
        outer.__cause__ = error
        error = outer
    return error


def deep_group() -> BaseException:
    error: Exception = ValueError("inmost")
    for _ in range(300):
        error = ExceptionGroup("in", [error])
    return error


ERRORS = {
    "StrRaises": StrRaises,
    "StrExits": StrExits,
    "StrIsNoText": StrIsNoText,
    "StrIsEndless": StrIsEndless,
    "ReprRaises": ReprRaises,
    "Huge": Huge,
    "ClassLies": ClassLies,
    "ClassRaises": ClassRaises,
    "EveryAttributeRaises": EveryAttributeRaises,
    "HintRaises": HintRaises,
    "HintIsOdd": HintIsOdd,
    "NamelessType": NamelessType,
    "CannotBePickled": lambda: CannotBePickled("a", "b"),
    "NoMessage": NoMessage,
    "NoSeconds": NoSeconds,
    "OwnBase": OwnBase,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "ValueError": cyclic,
    "ValueError ": deep_chain,
    "ExceptionGroup": deep_group,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("many", [KeyboardInterrupt(), StrRaises()]),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "OSError": lambda: OSError(2_000, "none", os.fsdecode(b"caf\xe9.txt")),
    "TimeoutError": TimeoutError,
}
"""By the name of the type that the task's error is to tell, cut at a space."""


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: float
    when: date


class Model(BaseModel):
    name: str
    price: Decimal


class Array:
    """What NumPy's arrays and scalars have in common, without NumPy."""

    def __init__(self, held: object) -> None:
        self.held = held

    def tolist(self) -> object:
        return self.held


class Opaque:
    pass


class ReprIsHuge:
    def __repr__(self) -> str:
        return "y" * 20_000_000


class ReprRaisesToo:
    def __repr__(self) -> str:
        raise SystemExit(4)


class ToListRaises:
    def tolist(self) -> object:
        raise KeyboardInterrupt


class DictLies(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("no items")


def holds_itself() -> object:
    value: list[object] = []
    value.append(value)
    return value


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


NAN = float("nan")
WRITTEN = {
    "datetime": (lambda: datetime(2026, 11, 25, 9, 30, tzinfo=UTC), "2026-11-25T09:30:00Z"),
    "date": (lambda: date(2026, 11, 25), "2026-11-25"),
    "timedelta": (lambda: timedelta(hours=1), "PT1H"),
    "decimal": (lambda: Decimal("1.10"), "1.10"),
    "uuid": (lambda: UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "path": (lambda: Path("/data/x"), "/data/x"),
    "enum": (lambda: [Colour.RED, Number.ONE], ["red", 1]),
    "dataclass": (lambda: Point(NAN, date(2026, 1, 2)), {"x": None, "when": "2026-01-02"}),
    "model": (lambda: [Model(name="a", price=Decimal("0.5"))], [{"name": "a", "price": "0.5"}]),
    "set": (lambda: {3}, [3]),
    "frozenset in a dict": (lambda: {"of": frozenset({"a"})}, {"of": ["a"]}),
    "deque": (lambda: deque([1, 2]), [1, 2]),
    "generator": (lambda: (n for n in range(3)), [0, 1, 2]),
    "range": (lambda: range(2), [0, 1]),
    "array": (lambda: Array([[1.5, NAN], [float("inf"), 2.0]]), [[1.5, None], [None, 2.0]]),
    "scalar": (lambda: {"n": Array(7)}, {"n": 7}),
    "nan": (lambda: NAN, None),
    "infinities": (lambda: {"a": float("inf"), "b": [-float("inf")]}, {"a": None, "b": [None]}),
    "bytes": (lambda: b"text", "text"),
    "bytes that are no text": (lambda: [b"\xff", b"ok"], ["_w==", "b2s="]),
    "keys": (lambda: {1: "a", (2, 3): "b", date(2026, 1, 2): "c"}, {"1": "a", "2,3": "b", "2026-01-02": "c"}),
    "surrogate": (lambda: os.fsdecode(b"caf\xe9"), "caf�"),
    "surrogate in a key": (lambda: {"\ud800": {1}}, {"�": [1]}),
    "two halves of one character": (lambda: "\ud83d\ude00", "\U0001f600"),
    "nul": (lambda: "a\0b", "a\0b"),
    "tuple": (lambda: (1, (2,)), [1, [2]]),
    "nothing": (lambda: None, None),
}
"""Results that can be written, and as what."""

UNWRITABLE = {
    "an object": Opaque,
    "huge repr": ReprIsHuge,
    "repr that exits": ReprRaisesToo,
    "tolist that raises": ToListRaises,
    "an exception": lambda: ValueError("as a value"),
    "a type": lambda: int,
    "a module": lambda: os,
    "a lock": threading.Lock,
    "itself": holds_itself,
    "too deep": lambda: nested(100_000),
    "a huge number": lambda: 10**5_000,
    "a function": lambda: nested,
    "a lying dict": lambda: {"inside": {DictLies(a=1).items}},
    "a coroutine": lambda: asyncio.sleep,
}
"""Results that cannot."""


def text_of_points(points: list[int]) -> str:
    return "".join(map(chr, points))


def act(payload: Any, context: Any) -> object:
    """Do what the payload says."""
    how, what = payload["how"], payload.get("what", "")
    if how == "raise":
        error = ERRORS[what]()
        raise error
    if how == "say":
        raise ValueError(text_of_points(what))
    if how == "permanent":
        raise Permanent(text_of_points(what))
    if how == "progress":
        context.progress(NAN, text_of_points(what))
        context.progress(0.5, Opaque())
        return "went on"
    if how == "return text":
        return {text_of_points(what): [text_of_points(what)]}
    return (WRITTEN[what][0] if how == "return" else UNWRITABLE[what])()


async def act_async(payload: Any, context: Any) -> object:
    await asyncio.sleep(0)
    return act(payload, context)


async def group(payload: Any) -> object:
    """Raise the errors that the payload names from inside a TaskGroup, with one more level for each list."""

    async def fail(said: Any) -> None:
        if isinstance(said, list):
            await group(said)
        raise {
            "permanent": Permanent("never"),
            "later": RetryLater(0.01, "soon"),
            "later still": RetryLater(0.02, "later"),
            "argument": InvalidArgument("no good"),
            "connection": ConnectionError("refused"),
            "value": ValueError("odd"),
        }[said]

    async with asyncio.TaskGroup() as tasks:
        for said in payload:
            tasks.create_task(fail(said))
    return None
