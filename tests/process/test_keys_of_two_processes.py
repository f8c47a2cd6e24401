"""Two processes that set keys at once, as twin servers do: none is lost, and neither sees half a file."""

import os
import subprocess
import sys
from pathlib import Path

from core.cloud.keys.secrets import KeyStore

PROGRAM = """
import sys
from pathlib import Path
from core.cloud.keys.secrets import KeyStore

name, directory = sys.argv[1], Path(sys.argv[2])
store = KeyStore("file", directory=directory)
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    store.set(f"{name}-{number}", "https://api.example.com", f"key-of-{name}-{number}")
    store.get(f"{name}-{number}", "https://api.example.com")
"""


def test_two_processes_that_set_keys_at_once_lose_none(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ.copy(),
            cwd=Path(__file__).parents[2],
        )
        for name in ("one", "two")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(30) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    store = KeyStore("file", directory=tmp_path)
    for name in ("one", "two"):
        for number in range(25):
            assert store.get(f"{name}-{number}", "https://api.example.com/v1") == f"key-of-{name}-{number}"
