"""Text of values that nobody vouches for: what a handler raised or returned. Never raises, never longer than asked for. Pure.

Whatever is asked of a stranger's object can raise, lie or be endless: `__str__`, `__repr__`, `__class__`, any attribute. So
types are read with `type()`, never with `isinstance`, which asks `__class__`.
"""

import reprlib
from collections.abc import Iterator
from types import TracebackType

LONGEST_TEXT = 20_000
"""Characters of an error's own text that are looked at; what is kept is far shorter."""
LONGEST_REPR = 500
MOST_INNER = 5
"""Errors of a group that are named; the rest are counted."""
MOST_LEAVES = 1_000
DEEPEST_GROUP = 50

_TYPE_NAME = type.__dict__["__name__"]
_GROUPED = BaseExceptionGroup.__dict__["exceptions"]
_TRACEBACK = BaseException.__dict__["__traceback__"]


def encodable(text: str, nul: str = "\ufffd") -> str:
    """`text` as any store or stream can hold it: lone surrogates become U+FFFD, halves of one character meet, NUL becomes `nul`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", nul) if "\0" in text else text


def type_name(value: object) -> str:
    """The name of the type that `value` really has."""
    return encodable(str.__str__(_TYPE_NAME.__get__(type(value))))[:100]


def text_of(value: object, limit: int = LONGEST_TEXT) -> str:
    """`str(value)`, cut at `limit`; says so when it cannot be had."""
    try:
        text = value if type(value) is str else str(value)
        return encodable(str.__getitem__(text, slice(limit)))
    except BaseException as error:  # noqa: BLE001  # a stranger's __str__ may raise anything
        return f"(its text cannot be had: {type_name(error)})"


def repr_of(value: object, limit: int = LONGEST_REPR) -> str:
    """`repr(value)` of at most `limit` characters, without building the whole of a large one where that can be helped."""
    try:
        text = _Short(limit).repr(value)
        text = encodable(str.__getitem__(text, slice(limit + 1)))
    except BaseException as error:  # noqa: BLE001  # a stranger's __repr__ may raise anything
        return f"<{type_name(value)}, whose repr raises {type_name(error)}>"[:limit]
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Short(reprlib.Repr):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 6
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 20
        self.maxarray = 20
        self.maxstring = self.maxother = self.maxlong = limit

    def repr1(self, x: object, level: int) -> str:
        if type(x) in (bytes, bytearray):
            return repr(x[: self.maxstring])  # type: ignore[index]  # reprlib would write all of it and cut that
        return super().repr1(x, level)


def describe(error: BaseException) -> str:
    """An error in one text: its type and its message, and of a group the errors inside it.

    At most about `LONGEST_TEXT` characters an error, and `MOST_INNER` errors of a group.
    """
    name, text = type_name(error), text_of(error).strip()
    said = f"{name}: {text}" if text else name
    inner = list(leaves(error)) if is_group(error) else []
    if not inner:
        return said
    named = "; ".join(_shorter(describe(leaf)) for leaf in inner[:MOST_INNER])
    more = len(inner) - MOST_INNER
    return f"{said}: {named}{f'; and {more} more' if more > 0 else ''}"


def _shorter(text: str) -> str:
    return text if len(text) <= LONGEST_REPR else text[: LONGEST_REPR - 3] + "..."


def is_group(error: BaseException | None) -> bool:
    """True for an ExceptionGroup (as asyncio.TaskGroup raises) or a BaseExceptionGroup."""
    return issubclass(type(error), BaseExceptionGroup)


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """The errors inside a group, of its groups too, in their order; of any other error itself."""
    waiting: list[tuple[BaseException | None, int]] = [(error, 0)]
    found = 0
    while waiting and found < MOST_LEAVES:
        one, depth = waiting.pop()
        if is_group(one) and depth < DEEPEST_GROUP:
            waiting.extend((each, depth + 1) for each in reversed(_GROUPED.__get__(one)))
        elif one is not None:
            found += 1
            yield one


def origin_of(error: BaseException) -> str:
    """Where an error was raised, as `file:line`, for the log."""
    trace: TracebackType | None = _TRACEBACK.__get__(error)
    if trace is None:
        return "an unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return encodable(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
