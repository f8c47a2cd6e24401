# ruff: noqa: INP001, T201 - a script for the terminal
"""Builds dist/heablcoin-cloud.mcpb, the one-click bundle for Claude Desktop and other hosts.

    python packaging/build_mcpb.py [--no-node] [--output FILE]

The bundle holds the sources, pyproject.toml and the hashed lock; the host's `uv` fetches Python and the dependencies on
the first start. `mcpb` (from npm, pinned in packaging/mcpb) validates the manifest and packs; with --no-node the bundle,
which is a zip archive, is packed here and not validated.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "packaging" / "mcpb"
BUNDLE = ROOT / "dist" / "heablcoin-cloud.mcpb"

FOLDERS = ("server", "core", "utils")
FILES = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*")
NPM_SECONDS = 300


def main() -> int:
    """Build the bundle; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-node", action="store_true", help="pack without npm, and without validating")
    parser.add_argument("--output", type=Path, default=BUNDLE, help="where to write it (default: dist/)")
    options = parser.parse_args()
    bundle: Path = options.output.resolve()
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mcpb-") as temporary:
        folder = Path(temporary) / "bundle"
        stage(folder)
        try:
            if options.no_node:
                zip_folder(folder, bundle)
            else:
                pack(folder, bundle)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or getattr(error, "stdout", None) or error
            print(f"The bundle was not built: {said}", file=sys.stderr)
            return 1
    print(f"{bundle}: {bundle.stat().st_size:,} bytes{' (not validated)' if options.no_node else ''}")
    return 0


def stage(folder: Path) -> None:
    """Put everything that goes into the bundle into `folder`."""
    folder.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def manifest() -> dict[str, Any]:
    """The template with the version and the tools of this tree."""
    filled: dict[str, Any] = json.loads((TOOL / "manifest.template.json").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    filled["version"] = project["version"]
    filled["compatibility"]["runtimes"]["python"] = project["requires-python"]
    filled["tools"] = tools()
    return filled


def tools() -> list[dict[str, str]]:
    """Name and first sentence of each tool that is on by default."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from server.app import selected_tools
    from server.settings import Settings

    return [
        {"name": spec.name, "description": spec.description.partition("\n")[0]} for spec in selected_tools(Settings())
    ]


def pack(folder: Path, bundle: Path) -> None:
    """Validate and pack with the official tool. Raises CalledProcessError with what it said."""
    npm = shutil.which("npm")
    node = shutil.which("node")
    if npm is None or node is None:
        raise FileNotFoundError("Node and npm are not installed; --no-node packs without them.")
    run(npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", cwd=TOOL)
    mcpb = TOOL / "node_modules" / "@anthropic-ai" / "mcpb" / "dist" / "cli" / "cli.js"
    run(node, str(mcpb), "validate", str(folder / "manifest.json"), cwd=folder)
    run(node, str(mcpb), "pack", str(folder), str(bundle), cwd=folder)


def run(*command: str, cwd: Path) -> None:
    """Run one command, quietly unless it fails."""
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=NPM_SECONDS)  # noqa: S603


def zip_folder(folder: Path, bundle: Path) -> None:
    """Pack `folder` as a zip archive."""
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())


if __name__ == "__main__":
    sys.exit(main())
