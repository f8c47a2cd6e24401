"""When each task started and ended, written by the workers themselves: the same figures for every queue."""

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

RECORD = struct.Struct("<qqq")
"""Task index, start, end; the times in nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share."""

FOLDER_ENV = "BENCH_RECORDS"

_files: dict[int, int] = {}


def write(index: int, started: int) -> None:
    """Note that task `index` began at `started` and has just ended."""
    pid = os.getpid()
    file = _files.get(pid)
    if file is None:
        path = Path(os.environ[FOLDER_ENV]) / f"{pid}.records"
        file = _files[pid] = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(file, RECORD.pack(index, started, time.monotonic_ns()))


def start_in(folder: Path) -> None:
    """Have this process, and those it starts, write to `folder` from now on."""
    os.environ[FOLDER_ENV] = str(folder)
    for file in _files.values():
        os.close(file)
    _files.clear()


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of one task."""

    index: int
    started: int
    ended: int
    pid: int


def count(folder: Path) -> int:
    """How many tasks have ended."""
    return sum(file.stat().st_size for file in folder.glob("*.records")) // RECORD.size


def read(folder: Path) -> list[Run]:
    """All executions, by their end."""
    runs = []
    for file in folder.glob("*.records"):
        data = file.read_bytes()
        whole = data[: len(data) // RECORD.size * RECORD.size]
        runs += [Run(index, started, ended, int(file.stem)) for index, started, ended in RECORD.iter_unpack(whole)]
    return sorted(runs, key=lambda run: run.ended)


def per_second(runs: list[Run]) -> float:
    """Tasks a second between the first start and the last end."""
    span = (runs[-1].ended - min(run.started for run in runs)) / 1e9
    return len(runs) / span
