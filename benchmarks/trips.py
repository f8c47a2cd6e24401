"""How far a reader has to go to follow one task into the queue, and one call through the pool.

`python -m benchmarks.trips` prints, for each, the functions of ours that are called, the files they stand in, and how often the next call
stands in another file than the one before. In the calling thread; what runs in others is not on the way.
"""

import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.enhanced_publisher import EnhancedCloudTaskPublisher

ROOT = Path(__file__).resolve().parents[1]


def trip(work: Callable[[], object]) -> tuple[int, int, int]:
    """Functions, files, and changes of file."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith((f"{ROOT}/core/", f"{ROOT}/server/")):
            calls.append((code.co_filename, code.co_qualname))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    files = [file for file, _ in calls]
    return (
        len(set(calls)),
        len(set(files)),
        sum(before != after for before, after in pairwise(files)),
    )


def main() -> None:
    """Each after a first round, which loads and prepares what later ones find there."""
    with tempfile.TemporaryDirectory() as folder:
        publisher = EnhancedCloudTaskPublisher(str(Path(folder) / "queue.db"))
        manager = ApiManager()
        manager.add_endpoint(ApiEndpoint("a", "https://a.example"))
        for name, work in (
            ("publish", lambda: publisher.publish("echo", {"n": 1})),
            ("call_with_retry", lambda: manager.call_with_retry(lambda endpoint: endpoint.name)),
        ):
            work()
            functions, files, changes = trip(work)
            print(f"{name}: {functions} functions, {files} files, {changes} changes of file")
        manager.close()
        publisher.close()


if __name__ == "__main__":
    main()
