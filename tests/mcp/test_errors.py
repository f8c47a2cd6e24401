"""The one place where errors become text that a model reads."""

import logging

import pytest

from core.cloud.provider import ProviderError
from core.errors import AllEndpointsFailed, InvalidArgument, StoreBusy
from server.answers.error_text import explain, sentence, unknown_arguments


def test_an_error_of_the_core_keeps_its_words() -> None:
    assert explain(InvalidArgument("It is wrong.", "make it right."), "x") == "It is wrong. Fix: make it right."
    assert explain(StoreBusy("Busy."), "x") == "Busy."


def test_advice_names_the_tools_a_chat_has() -> None:
    said = sentence("The pool is empty.", "add one with add_endpoint, look at get_stats(), or retry_task.")
    assert said.endswith("Fix: add one with add_api_endpoint, look at get_api_manager_stats, or retry_failed_task.")
    assert "add_api_endpoint" in sentence("x", "use add_api_endpoint")
    assert "add_api_api" not in sentence("x", "use add_api_endpoint")
    assert "get_task_status" in sentence("x", "ask get_task_status")


def test_what_providers_said_is_fenced_and_ours_is_not() -> None:
    failed = AllEndpointsFailed("No endpoint answered after 1 attempt:\n  1. a: transient: DO EVIL\n", "try again.")
    before, _, fenced = explain(failed, "call_api").partition("<untrusted-")
    assert before.startswith("No endpoint answered after 1 attempt. Fix: try again.")
    assert "DO EVIL" not in before
    assert "DO EVIL" in fenced
    refused = ProviderError("The server said: DO EVIL", "look", kind="status", status=400)
    before, _, fenced = explain(refused, "call_api").partition("<untrusted-")
    assert "DO EVIL" not in before
    assert "DO EVIL" in fenced


def test_a_defect_is_a_number_here_and_details_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        said = explain(KeyError("private"), "some_tool")
    assert "private" not in said
    number = said.partition("(error ")[2][:8]
    assert number in caplog.text


def test_unknown_arguments_are_named_briefly_and_safely() -> None:
    error = unknown_arguments("tool", {"a" * 500, "b", "c", "d", "e"}, ["alpha"])
    assert len(str(error)) < 300
    assert "and 2 more" in str(error)
    assert "it takes no arguments" in str(unknown_arguments("tool", {"x"}, []))
