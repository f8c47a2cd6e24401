"""How the benchmarks count: percentiles, what the rest of the machine was doing, tables, results on disk."""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""One JSON file a suite, not committed."""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
"""The figures that are quoted; written by `--write`."""


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; nan of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, max(0, round(share * (len(ordered) - 1))))]


def median(values: Iterable[float]) -> float:
    return percentile(values, 0.5)


def timed(action: Callable[[], object]) -> float:
    """Seconds `action` took."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def resident_mb() -> float:
    """Resident memory of this process in MB; nan where the platform does not say."""
    try:
        with Path("/proc/self/status").open(encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


class Noise:
    """The share of one core that processes other than ours used since `start()`; nan outside Linux."""

    def __init__(self) -> None:
        self._began = self._read()

    def start(self) -> None:
        self._began = self._read()

    def share(self) -> float:
        at, busy, mine = self._read()
        return max(0.0, (busy - self._began[1]) - (mine - self._began[2])) / max(1e-6, at - self._began[0])

    def _read(self) -> tuple[float, float, float]:
        own = os.times()
        mine = own.user + own.system + own.children_user + own.children_system
        try:
            with Path("/proc/stat").open(encoding="ascii") as file:
                fields = [int(field) for field in file.readline().split()[1:9]]
        except OSError:
            return time.perf_counter(), float("nan"), mine
        tick = os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), (sum(fields) - fields[3] - fields[4]) / tick, mine + _children(tick)


def _children(tick: int) -> float:
    """CPU seconds of running direct children, which os.times() counts only once they have ended."""
    used, me = 0.0, str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[1] == me:
                used += (int(fields[11]) + int(fields[12])) / tick
    return used


@dataclass
class Table:
    """Rows of one comparison, printed as they come in markdown."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])
        print("  ", *self.rows[-1], sep="  ", flush=True)

    def __str__(self) -> str:
        lines = [list(self.columns), *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        out = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        out.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return f"\n### {self.title}\n\n" + "\n".join(out)


_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def over_runs(runs: Sequence[Sequence[Table]]) -> list[Table]:
    """The tables of several runs as one: each figure is the median of its runs, the first of a cell with its range.

    `3,219 [2,950 to 3,400] (p50 0.29 ms)`: the run in the middle, the lowest and the highest. Runs of one suite have the
    same tables; a row that some run lacks is left out, with a line on stderr.
    """
    if len(runs) == 1:
        return list(runs[0])
    merged = []
    for at, first in enumerate(runs[0]):
        table = Table(first.title, first.columns)
        others = [run[at] for run in runs]
        for row, key in zip(first.rows, _keys(first), strict=True):
            same = [other.rows[keys.index(key)] for other in others if key in (keys := _keys(other))]
            if len(same) == len(runs):
                table.rows.append([_over(cells) for cells in zip(*same, strict=True)])
            else:
                print(f"left out, not in every run: {first.title}, {row[0]}", file=sys.stderr)
        merged.append(table)
    return merged


def _keys(table: Table) -> list[tuple[str, int]]:
    """What tells the rows of a table apart: the first cell, and the how manieth row with it this is."""
    names = [row[0] for row in table.rows]
    return [(name, names[:at].count(name)) for at, name in enumerate(names)]


def _over(cells: Sequence[str]) -> str:
    """One cell for those of all runs."""
    if len(set(cells)) == 1:
        return cells[0]
    numbers = [_NUMBER.findall(cell) for cell in cells]
    if not numbers[0] or len({len(each) for each in numbers}) > 1:
        return " / ".join(dict.fromkeys(cells))
    shown = [sorted(each, key=lambda text: float(text.replace(",", ""))) for each in zip(*numbers, strict=True)]
    middles = iter([each[(len(each) - 1) // 2] for each in shown])
    text = _NUMBER.sub(lambda _: next(middles), cells[0])
    first = _NUMBER.search(text)
    assert first is not None
    unit = re.match(r"x|%", text[first.end() :])
    after = first.end() + (unit.end() if unit else 0)
    low, high = shown[0][0], shown[0][-1]
    return text if low == high else f"{text[:after]} [{low} to {high}]{text[after:]}"


def save(suite: str, tables: Sequence[Table]) -> Path:
    """Keep a suite's tables, with when and where they were taken, for docs/benchmarks.md."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{suite}.json"
    payload = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "tables": [
            {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
            for table in tables
        ],
    }
    file.write_text(json.dumps(payload, indent=1), encoding="utf-8")
    return file


def put_into_docs(suite: str, tables: Sequence[Table], runs: int, page: Path = PAGE) -> None:
    """Replace what stands between the suite's two marks in docs/benchmarks.md by these tables and when they were taken."""
    begin, end = f"<!-- {suite} -->", f"<!-- /{suite} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no marks {begin} and {end}")
    taken = f"\nTaken {time.strftime('%Y-%m-%d')} with Python {sys.version.split()[0]} on {os.cpu_count()} cores ({platform.system()}); {runs} run{'' if runs == 1 else 's'}.\n"
    body = "\n".join(str(table) for table in tables)
    page.write_text(f"{before}{begin}\n{taken}{body}\n\n{end}{after}", encoding="utf-8")


def rate(value: float) -> str:
    return f"{value:,.0f}"


def ratio(ours: float, floor: float) -> str:
    return f"{ours / floor:.2f}x" if floor else "-"
