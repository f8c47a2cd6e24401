"""Where each client lives: two Python environments, installed exactly as locked, and the packages from npm."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 400


def python_of(group: str) -> str:
    """The Python in which the clients of `group` are installed; installs them first where they are not."""
    lock, folder = HERE / f"{group}.lock", HERE / "environments" / group
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    marker = folder / "installed"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if not (marker.exists() and marker.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        uv = [sys.executable, "-m", "uv", "--quiet"]
        _run([*uv, "venv", "--python", sys.executable, str(folder)])
        _run([*uv, "pip", "install", "--python", str(python), "--require-hashes", "--no-deps", "-r", str(lock)])
        marker.write_text(wanted)
    return str(python)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}"
