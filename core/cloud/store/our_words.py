"""SQLite's errors in our words: what each means here and what to do about it."""

from types import TracebackType

import apsw

from core.errors import (
    HeablcoinError,
    InvalidArgument,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
)


class OurWords:
    """Turns what SQLite raises inside the block into our errors. A class, because each transaction passes through it."""

    __slots__ = ("_location",)

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, apsw.Error):
            raise in_our_words(error, self._location) from error
        if isinstance(error, UnicodeEncodeError):
            raise InvalidArgument(
                "A text holds half a character (a lone surrogate); nothing was changed.",
                "send whole Unicode characters.",
            ) from error


def in_our_words(error: apsw.Error, location: str) -> Exception:
    """What an SQLite error means here and what to do about it."""
    for kinds, our_error, message, fix in _MEANINGS:
        if isinstance(error, kinds):
            return our_error(message.format(location), fix)
    lasting = isinstance(error, (apsw.ConstraintError, apsw.MismatchError, apsw.RangeError))
    return (StoreRefused if lasting else StoreError)(
        f"The database {location} refused a change ({type(error).__name__}: {error}); nothing was changed.",
        "this should not happen: please report it, with the log.",
    )


_MEANINGS: tuple[tuple[tuple[type[apsw.Error], ...], type[HeablcoinError], str, str], ...] = (
    (
        (apsw.BusyError, apsw.LockedError),
        StoreBusy,
        "Another process held the database too long; nothing was changed.",
        "try again; if it goes on, `heablcoin-cloud doctor` names the processes that use it.",
    ),
    (
        (apsw.FullError,),
        StoreFull,
        "The disk that holds {} is full; nothing was changed.",
        "free some space (or purge old tasks), then try again.",
    ),
    (
        (apsw.ReadOnlyError, apsw.PermissionsError),
        StoreReadOnly,
        "The database {} is read-only; nothing was changed.",
        "make the file and its directory writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
    ),
    (
        (apsw.CorruptError, apsw.NotADBError),
        StoreCorrupt,
        "The file {} is not a sound database.",
        "stop all servers, move the file away (a backup lies beside it if one was made), and start again.",
    ),
    (
        (apsw.CantOpenError,),
        StoreReadOnly,
        "The database {} cannot be opened.",
        "check that its directory exists and is writable, or set HEABLCOIN_CLOUD_DATABASE to another path.",
    ),
    (
        (apsw.TooBigError,),
        InvalidArgument,
        "A value is larger than the database {} can hold.",
        "store it elsewhere and pass a reference.",
    ),
    (
        (apsw.IOError,),
        StoreError,
        "The disk failed while the database {} was used; nothing was changed.",
        "check the disk and its free space, then try again.",
    ),
)
