"""docs/glossary.md: each word has its file, and those that were given up stand nowhere else."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:core|server|utils)/[^`]+)`", PAGE)))
RETIRED = re.findall(r"^\| (\w+) \|", PAGE.partition("## Retired")[2].partition("|---|---|")[2], re.MULTILINE)
HISTORY = (
    "docs/glossary.md",
    "docs/decisions/",
    "docs/field-faults.md",
    "core/cloud/store/sql/migrations/",
    "tests/docs/test_glossary.py",
)


def texts():
    for folder in ("core", "server", "utils", "tests", "benchmarks", "docs", "examples"):
        for suffix in ("*.py", "*.sql", "*.md"):
            yield from (ROOT / folder).rglob(suffix)


@pytest.mark.parametrize("file", FILES)
def test_the_file_of_a_word_exists(file):
    assert (ROOT / file).is_file()


def test_words_are_retired_at_all():
    assert "flight" in RETIRED
    assert len(RETIRED) >= 7


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_stands_nowhere_but_in_the_glossary(word):
    # "In flight" is the field's own word for a request that is under way.
    said = re.compile(rf"(?<!in )(?<!in_)(?<![a-z]){word}s?(?![a-z])|{word.capitalize()}s?(?![a-z])")
    found = [
        f"{name}: {match[0]}"
        for file in texts()
        if not (name := file.relative_to(ROOT).as_posix()).startswith(HISTORY)
        for match in [said.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert found == []
