"""The results of a task's dependencies, read when somebody asks for them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from core.cloud.store_contract import TaskStore
from core.json_types import Json, loads

FEW = 16
"""Dependencies whose results are read at once, into a plain dict: as a result is 1 MiB at most, they are no burden."""
REMEMBERED = 4
"""Results kept at hand: a payload may name one of them many times."""


def results_of(tasks: TaskStore, task_ids: Sequence[str]) -> Mapping[str, Json]:
    """The results of completed tasks by their ids; those of many are read when they are looked at."""
    if len(task_ids) > FEW:
        return StoredResults(task_ids, lambda task_id: loads(tasks.results([task_id])[task_id]))
    return {task_id: loads(text) for task_id, text in tasks.results(task_ids).items()} if task_ids else {}


class StoredResults(Mapping[str, Json]):
    """Results by task id. Hundreds of large ones cost memory one at a time; each look at another calls `read`.

    A running task's dependencies are completed, and completed tasks neither change nor go before it has ended. Looking may
    raise a StoreError. A copy, or what is pickled for another process, is a plain dict with all of them.
    """

    __slots__ = ("_read", "_recent", "_task_ids")

    def __init__(self, task_ids: Sequence[str], read: Callable[[str], Json]) -> None:
        self._read = read
        self._task_ids = dict.fromkeys(task_ids)
        self._recent: OrderedDict[str, Json] = OrderedDict()

    def __getitem__(self, task_id: str) -> Json:
        if task_id not in self._task_ids:
            raise KeyError(task_id)
        recent = self._recent
        try:
            return recent[task_id]
        except KeyError:
            value = self._read(task_id)
        recent[task_id] = value
        while len(recent) > REMEMBERED:
            recent.popitem(last=False)
        return value

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._task_ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._task_ids)

    def __len__(self) -> int:
        return len(self._task_ids)

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._task_ids)!r})"
