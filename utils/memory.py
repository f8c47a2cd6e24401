"""What the process holds in memory, read without other packages."""

import os
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Memory at one moment, in bytes; None where this platform does not tell."""

    label: str
    taken_at: float
    """Seconds since the epoch, UTC."""
    resident: int | None
    """What the process occupies now."""
    resident_peak: int | None
    """The most it has occupied so far."""
    traced: int | None
    """What Python objects occupy; only after `tracemalloc.start()`."""
    traced_peak: int | None
    top: tuple[str, ...]
    """The ten source lines that hold most; only after `tracemalloc.start()`."""


def take_snapshot(label: str = "") -> MemorySnapshot:
    """Read it now. Cheap, unless tracemalloc is on."""
    traced, traced_peak = tracemalloc.get_traced_memory() if tracemalloc.is_tracing() else (None, None)
    top: tuple[str, ...] = ()
    if tracemalloc.is_tracing():
        top = tuple(str(line) for line in tracemalloc.take_snapshot().statistics("lineno")[:10])
    now, peak = resident(), resident_peak()
    if now is not None and peak is not None:
        peak = max(now, peak)  # the system notes a peak a little late
    return MemorySnapshot(label, time.time(), now, peak, traced, traced_peak, top)


def resident() -> int | None:
    """Bytes of memory the process occupies now (Linux), else None."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return None


def resident_peak() -> int | None:
    """The most bytes the process has occupied (POSIX), else None."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
