"""Handlers from the user's files: what is wrong with a file is said, with its line."""

import sys

import pytest

from core.cloud.handlers.files import load_handlers
from core.cloud.handlers.registry import HandlerRegistry
from core.errors import InvalidArgument

GOOD = """
from helper_beside import answer

def analyse(payload):
    return {"answer": answer}

def register(publisher):
    print("loading")
    publisher.register_handler("analyse", analyse, timeout=5)
"""


@pytest.fixture(autouse=True)
def leave_no_modules():
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("heablcoin_handlers_", "helper_beside", "handlers_module")):
            del sys.modules[name]
    sys.path[:] = path


def test_a_file_registers_its_handlers_and_imports_what_lies_beside_it(tmp_path, capsys):
    (tmp_path / "helper_beside.py").write_text("answer = 42\n")
    file = tmp_path / "my handlers ü.py"
    file.write_text(GOOD)
    registry = HandlerRegistry()

    assert load_handlers(str(file), registry) == ["analyse"]
    assert registry.require("analyse").call({}, None) == {"answer": 42}
    assert registry.require("analyse").timeout == 5
    # stdout may be the MCP protocol's.
    assert capsys.readouterr().out == ""


def test_a_module_registers_its_handlers(tmp_path, monkeypatch):
    (tmp_path / "helper_beside.py").write_text("answer = 1\n")
    (tmp_path / "handlers_module.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert load_handlers("handlers_module", HandlerRegistry()) == ["analyse"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def register(publisher:\n    pass\n", "line 1 with SyntaxError"),
        ("x = 1\nimport not_installed_anywhere\n", "line 2 with ModuleNotFoundError"),
        ("y = 1\n", "has no function register"),
        ("def register():\n    pass\n", "takes neither"),
        ("register = 5\n", "takes neither"),
        ("def register(publisher):\n    pass\n", "registered nothing"),
        ("def register(publisher):\n    x = 1\n    raise ValueError('boom')\n", "line 3 with ValueError: boom"),
        ("def register(publisher):\n    publisher.register_handler('', print)\n", "name must be 1 to 100"),
        ("raise SystemExit(3)\n", "line 1 with SystemExit"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    file = tmp_path / "handlers.py"
    file.write_text(text)
    registry = HandlerRegistry()

    with pytest.raises(InvalidArgument) as caught:
        load_handlers(str(file), registry)

    assert said in str(caught.value)
    assert "handlers.py" in str(caught.value)
    assert registry.names() == []


@pytest.mark.parametrize("spec", ["", "  ", "no_such_module", "no.such.module", "/no/such/file.py"])
def test_what_is_not_there_is_said(spec):
    with pytest.raises(InvalidArgument):
        load_handlers(spec, HandlerRegistry())


def test_a_broken_file_can_be_corrected_and_loaded_again(tmp_path):
    file = tmp_path / "handlers.py"
    file.write_text("raise ValueError\n")
    registry = HandlerRegistry()
    with pytest.raises(InvalidArgument):
        load_handlers(str(file), registry)

    file.write_text("def register(publisher):\n    publisher.register_handler('now', lambda payload: 1)\n")

    assert load_handlers(str(file), registry) == ["now"]
