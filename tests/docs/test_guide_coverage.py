"""docs/guide-coverage.md has a row for each bullet of the guide, and every test it names exists."""

import ast
import re
from pathlib import Path

from tests.docs.guide import GUIDE, PYTHON, SENTENCES

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (?!guide|---)(.+?) \| (.*) \|$")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
OTHER_PAPERS = {"升级日志", "升级总结", "项目介绍", "API 参考"}
"""Links to papers of the original project."""


def rows() -> dict[str, list[tuple[str, str]]]:
    text = (ROOT / "docs" / "guide-coverage.md").read_text(encoding="utf-8")
    found = [match for line in text.splitlines() if (match := ROW.match(line))]
    assert len({match[1] for match in found}) == len(found)
    return {match[1]: TEST.findall(match[2]) for match in found}


def bullets() -> set[str]:
    """The features, checklist items, numbered chapters and chat sentences of the guide."""
    text = GUIDE.read_text(encoding="utf-8")
    features = set(re.findall(r"^- \*\*(.+?)\*\*", text, re.MULTILINE)) - OTHER_PAPERS
    items = set(re.findall(r"^\d\. (.+)$", text, re.MULTILINE))
    chapters = set(re.findall(r"^### \d\. (.+)$", text, re.MULTILINE))
    return features | items | chapters | set(SENTENCES.values())


def test_every_bullet_of_the_guide_has_a_row() -> None:
    assert len(bullets()) >= 11 + 11 + 7 + 4
    assert bullets() - set(rows()) == set()


def test_every_row_names_at_least_one_test_and_each_of_them_exists() -> None:
    defined: dict[str, set[str]] = {}
    for row, tests in rows().items():
        assert tests, f"{row} names no test"
        for file, name in tests:
            if file not in defined:
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                defined[file] = {
                    node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            assert name in defined[file], f"{row}: {file} has no {name}"


def test_the_count_of_blocks_is_what_the_page_says() -> None:
    page = (ROOT / "docs" / "guide-coverage.md").read_text(encoding="utf-8")
    assert f"each of its {len(PYTHON)} Python blocks" in page
