"""The one-click bundle: what is in it, and that a host can start the server from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.process.servers import ROOT, StdioServer, command
from tests.support import node

BUILD = ROOT / "packaging" / "build_mcpb.py"
TOOL = ROOT / "packaging" / "mcpb"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KEYS = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, unpacked."""
    folder = tmp_path_factory.mktemp("bundle")
    packed = folder / "heablcoin-cloud.mcpb"
    build = [sys.executable, str(BUILD), "--no-node", "--output", str(packed)]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)
    return unpacked


def manifest_of(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "manifest.json").read_text(encoding="utf-8")))


def launch(bundle: Path, **filled: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment as a host makes them of the manifest, with Python in the place of uv."""
    config = manifest_of(bundle)["server"]["mcp_config"]

    def fill(text: str) -> str:
        text = text.replace("${__dirname}", str(bundle))
        return re.sub(r"\$\{user_config\.(\w+)\}", lambda match: filled.get(match[1], match[0]), text)

    arguments = [fill(argument) for argument in config["args"]]
    python = arguments.index("python")
    environment = {name: fill(value) for name, value in config["env"].items()}
    return [sys.executable, *arguments[python + 1 :]], environment


class Started(StdioServer):
    """A server started as the manifest says, in its bundle."""

    def __init__(self, bundle: Path, folder: Path, **filled: str) -> None:
        unpacked = folder / "extension"
        shutil.copytree(bundle, unpacked)
        started, env = launch(unpacked, **filled)
        assert started == command(), "what StdioServer starts, in the folder that --directory names"
        base = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        super().__init__(unpacked, env={**base, **env, "HEABLCOIN_CLOUD_KEYS": "process"})


def test_the_bundle_holds_the_sources_and_the_lock_and_nothing_of_this_machine(bundle: Path) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {"manifest.json", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"} <= files
    assert {"server/__main__.py", "core/runtime.py", "utils/async_helper.py"} <= files
    assert any(name.endswith(".sql") for name in files), "the queries are data, and needed"
    tops = {name.partition("/")[0] for name in files}
    assert tops == {
        "manifest.json",
        "pyproject.toml",
        "requirements.lock",
        "README.md",
        "LICENSE",
        "server",
        "core",
        "utils",
    }
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc") or "/." in name]
    for name in files:
        assert str(ROOT) not in (bundle / name).read_text(encoding="utf-8", errors="replace"), name


def test_the_manifest_asks_for_keys_as_secrets_and_names_every_default_tool(bundle: Path) -> None:
    from server.app import selected_tools
    from server.settings import Settings

    manifest = manifest_of(bundle)
    assert manifest["manifest_version"] == "0.4"
    assert manifest["version"] == PROJECT["version"]
    assert manifest["server"]["type"] == "uv"
    assert (bundle / manifest["server"]["entry_point"]).is_file()
    assert [tool["name"] for tool in manifest["tools"]] == [spec.name for spec in selected_tools(Settings())]
    environment = manifest["server"]["mcp_config"]["env"]
    for key in KEYS:
        asked = manifest["user_config"][environment[key].removeprefix("${user_config.").removesuffix("}")]
        assert asked["sensitive"] is True, key
        assert asked["required"] is False, key
    used = set(re.findall(r"\$\{user_config\.(\w+)\}", json.dumps(environment)))
    assert used == set(manifest["user_config"]), "every field the user fills in is passed on"
    settings = {f"HEABLCOIN_CLOUD_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in environment if name.startswith("HEABLCOIN_")} <= settings


def test_a_host_can_start_the_server_from_the_bundle(bundle: Path, tmp_path: Path) -> None:
    database = tmp_path / "queue.db"
    with Started(bundle, tmp_path, database=str(database), openai_api_key="sk-test-0123456789") as server:
        task = server.call("publish_enhanced_task", name="echo", payload='{"x": 1}')
        done = server.call("wait_for_task", task_id=task["task_id"], timeout=20)
        stats = server.call("get_api_manager_stats")
    assert done["tasks"][0]["result"] == {"x": 1}
    assert database.exists()
    assert list(stats["endpoints"]) == ["openai"], "a key that was filled in is an endpoint of the pool"


def test_fields_left_empty_leave_the_defaults(bundle: Path, tmp_path: Path) -> None:
    with Started(bundle, tmp_path) as server:
        assert server.call("get_api_manager_stats")["total_endpoints"] == 0
        assert server.call("get_enhanced_task_stats")["total"] == 0
        version = server.request("tools/list")["tools"]
    assert len(version) == len(manifest_of(bundle)["tools"])


def test_the_registry_entry_says_what_the_project_says() -> None:
    from server.settings import Settings

    entry = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
    (package,) = entry["packages"]
    assert entry["version"] == package["version"] == PROJECT["version"]
    assert package["identifier"] == PROJECT["name"]
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert f"<!-- mcp-name: {entry['name']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")
    variables = {variable["name"]: variable for variable in package["environmentVariables"]}
    assert all(variables[key]["isSecret"] for key in KEYS)
    settings = {f"HEABLCOIN_CLOUD_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in variables if name.startswith("HEABLCOIN_")} <= settings


@pytest.fixture(scope="session")
def npm_environment() -> dict[str, str]:
    try:
        node.find(TOOL, 20)
        node.install(TOOL)
    except node.NodeMissingError as error:
        pytest.skip(f"the bundle's tool cannot be run: {error}")
    return dict(os.environ)


@pytest.mark.inspector
def test_the_official_tool_validates_and_packs_the_bundle(npm_environment: dict[str, str], tmp_path: Path) -> None:
    packed = tmp_path / "official.mcpb"
    build = [sys.executable, str(BUILD), "--output", str(packed)]
    done = subprocess.run(build, env=npm_environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(packed) as archive:
        assert json.loads(archive.read("manifest.json"))["name"] == "heablcoin-cloud"
        assert not [name for name in archive.namelist() if ".venv" in name or "node_modules" in name]


@pytest.mark.inspector
def test_uv_starts_the_server_from_the_bundle_as_the_manifest_says(
    npm_environment: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed beside this Python")
    config = manifest_of(bundle)["server"]["mcp_config"]
    arguments = [argument.replace("${__dirname}", str(bundle)) for argument in config["args"]]
    probe = [str(uv), *arguments, "--version"]
    done = subprocess.run(
        probe, env=npm_environment, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    if "error sending request" in done.stderr.lower() or "failed to fetch" in done.stderr.lower():
        pytest.skip("no package index within reach")
    assert done.returncode == 0, done.stderr
    assert PROJECT["version"] in done.stdout
