"""docs/architecture.md speaks of files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"(?:server|core|utils|tests)/[a-z_/]*(?:\.py)?", PAGE)))


@pytest.mark.parametrize("path", NAMED)
def test_every_path_of_the_architecture_page_exists(path: str):
    assert (ROOT / path).exists()


def test_every_package_of_the_core_is_on_the_page():
    packages = [each.parent.relative_to(ROOT).as_posix() for each in (ROOT / "core").rglob("__init__.py")]
    absent = [package for package in packages if f"{package}/" not in PAGE]
    assert absent == []
