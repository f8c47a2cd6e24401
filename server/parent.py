"""Whether the process that started this one still lives: a host that is killed may leave its pipes open behind it."""

import os
import sys

import anyio
from anyio import to_thread

POLL_SECONDS = 1.0


async def parent_died() -> None:
    """Return when the parent has ended; never, where that cannot be known."""
    if sys.platform == "win32":
        await to_thread.run_sync(_wait_for_windows_parent, abandon_on_cancel=True)
        return
    parent = os.getppid()
    while os.getppid() == parent:
        await anyio.sleep(POLL_SECONDS)


def _wait_for_windows_parent() -> None:
    """Wait for the parent's process handle; where none can be had, for ever."""
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes
    import threading

    synchronize, infinite = 0x00100000, 0xFFFFFFFF
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    handle = kernel.OpenProcess(synchronize, False, os.getppid())
    if not handle:
        threading.Event().wait()
    kernel.WaitForSingleObject(handle, infinite)
