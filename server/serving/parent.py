"""Whether the process that started this one still lives: a host that is killed may leave its pipes open behind it."""

import os
import sys

import anyio
from anyio import to_thread

POLL_SECONDS = 1.0


async def parent_died() -> None:
    """Return when the parent has ended; never, where that cannot be known."""
    parent = os.getppid()
    if sys.platform == "win32":
        # There a process keeps the id of a dead parent, so its handle is waited for instead.
        await to_thread.run_sync(_wait_for_handle, parent, abandon_on_cancel=True)
        return
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells a process of this but looking
        await anyio.sleep(POLL_SECONDS)


if sys.platform == "win32":

    def _wait_for_handle(process: int) -> None:
        import ctypes

        synchronize, infinite = 0x00100000, 0xFFFFFFFF
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(synchronize, False, process)
        kernel.WaitForSingleObject(handle, infinite)
