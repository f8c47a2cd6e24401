"""Every error this project raises on purpose.

    HeablcoinError
    ├── InvalidArgument (ValueError)        a value given by the caller cannot be used
    │   ├── InvalidTransition               a task cannot go from its status to the one asked for
    │   ├── DependencyCycle                 a graph's tasks wait for each other
    │   ├── UrlRefused                      an address this installation may not call
    │   └── KeyUnusable                     a key that no request can carry
    ├── NotFound (LookupError)
    │   ├── UnknownTask, UnknownEndpoint, UnknownSchedule
    ├── LeaseLost                           the task is no longer this worker's
    ├── NoHandler                           nothing registered can run this task
    ├── AllEndpointsFailed (RuntimeError)   every attempt of a pool call failed
    ├── StoreError
    │   └── StoreBusy, StoreFull, StoreReadOnly, StoreReplaced, StoreCorrupt, StoreTooNew, StoreUnsafe, StoreRefused
    └── TaskSignal                          raised by a handler to say what should happen next
        └── Permanent, RetryLater

Each carries `message` (what happened) and `fix` (what to do next); `str(error)` is both. Each can be pickled and copied, with all it
carries, so that a process pool or a queue can hand it on; an error of your own that is one of these can too, whatever its arguments.
"""

from collections.abc import Mapping


class HeablcoinError(Exception):
    """Base of every deliberate error."""

    def __init__(self, message: str, fix: str = "") -> None:
        self.message = message
        self.fix = fix
        super().__init__(message, fix)

    def __reduce__(self) -> tuple[object, ...]:
        # Python would call the class with `args`, which fails for arguments that are needed and not among them.
        return _restored, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        # A message of several lines ends with data; the advice then has a line of its own.
        return (
            f"{self.message}{chr(10) if chr(10) in self.message else ' '}Fix: {self.fix}" if self.fix else self.message
        )


def _restored(kind: type[HeablcoinError], args: tuple[object, ...], state: Mapping[str, object]) -> HeablcoinError:
    """An error as it was when it was pickled or copied, without calling its constructor."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidArgument(HeablcoinError, ValueError):
    """A value given by the caller cannot be used; nothing was changed."""


class InvalidTransition(InvalidArgument):
    """A task cannot go from its present status to the one asked for."""


class DependencyCycle(InvalidArgument):
    """Tasks of one graph wait for each other, so none could ever start."""


class UrlRefused(InvalidArgument):
    """A URL leads to an address this installation may not call."""


class KeyUnusable(InvalidArgument):
    """A key holds what no request can carry, or is a placeholder; the message says where it is, never what it is."""


class NotFound(HeablcoinError, LookupError):
    """Nothing has the name or id that was given."""


class UnknownTask(NotFound):
    """No task has this id."""


class UnknownEndpoint(NotFound):
    """No endpoint has this name."""


class UnknownSchedule(NotFound):
    """No schedule has this name."""


class LeaseLost(HeablcoinError):
    """The task is no longer this worker's: its lease ended, or it was cancelled or given to another."""


class NoHandler(HeablcoinError):
    """No handler is registered here for the task's name."""


class AllEndpointsFailed(HeablcoinError, RuntimeError):
    """A pool call had no success; `attempts` holds one line per attempt, `retry_after` seconds until a slot or None."""

    def __init__(
        self,
        message: str,
        fix: str = "",
        *,
        attempts: tuple[object, ...] = (),
        retry_after: float | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message, fix)
        self.attempts = attempts
        self.retry_after = retry_after
        self.final = final
        """Every endpoint refused the request itself: asking again as before cannot help."""


class StoreError(HeablcoinError):
    """The database could not do what was asked; nothing was half done."""


class StoreBusy(StoreError):
    """Another process held the database for longer than the busy limit."""


class StoreFull(StoreError):
    """The disk (or the database's size limit) is full."""


class StoreReadOnly(StoreError):
    """The database file or its directory cannot be written."""


class StoreReplaced(StoreError):
    """The database file was deleted, moved or replaced while this process used it."""


class StoreCorrupt(StoreError):
    """The file is not a sound database of ours."""


class StoreTooNew(StoreError):
    """The database was written by a newer version than this one."""


class StoreUnsafe(StoreError):
    """Using the file here could corrupt it (network file system, affected SQLite library)."""


class StoreRefused(StoreError):
    """The database refused a change for what is in it; trying the same again cannot help."""


class TaskSignal(HeablcoinError):
    """Base of what a handler raises to say what should happen to its task.

    Heard inside a group of errors too, as asyncio.TaskGroup raises: one Permanent in it is final, else the longest RetryLater holds.
    """


class Permanent(TaskSignal):
    """The task failed for good: retrying cannot help."""


class RetryLater(TaskSignal):
    """Run the task again after `seconds` (0 or more); uses up one retry."""

    def __init__(self, seconds: float, message: str = "The handler asked to be run again later.") -> None:
        if not 0 <= seconds < float("inf"):
            raise InvalidArgument(
                f"RetryLater needs seconds of 0 or more, not {seconds!r}.", "give seconds, such as 60"
            )
        super().__init__(message)
        self.seconds = seconds
