"""Keys out of text, by value and by looks."""

import io
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.redaction import MASK, KnownSecrets, RedactingFilter, excerpt, redact

SECRET = "myOwnSecretValue42"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"the key {SECRET} is wrong", f"the key {MASK} is wrong"),
        (f"{SECRET}{SECRET}", MASK * 2),
        ("Authorization: Bearer abcdef123456", f"Authorization: {MASK}"),
        ("bearer abcdef123456", f"bearer {MASK}"),
        ("sk-proj-abcDEF_123-456", MASK),
        ("gsk_abcdefghijk", MASK),
        ("AIzaSyA1234567890abcdef", MASK),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_123", MASK),
        ('{"api_key": "abcdef123456", "model": "m"}', f'{{"api_key": "{MASK}", "model": "m"}}'),
        ("?api-key=abcdef123456&x=1", f"?api-key={MASK}&x=1"),
        ("x-api-key: abcdef123456", f"x-api-key: {MASK}"),
        ("password=hunter2hunter2", f"password={MASK}"),
        (
            "nothing to hide: task 3f9a, 12 tokens, risk-free, keyboard",
            "nothing to hide: task 3f9a, 12 tokens, risk-free, keyboard",
        ),
        ("key-3ax6xnjp29jd6fds4gc373sgvjxteol0", MASK),
        ("set KEY_DEEPSEEK_PROD_2 to key_points_of_2026", "set KEY_DEEPSEEK_PROD_2 to key_points_of_2026"),
        ("https://api.example.com/v1/chat", "https://api.example.com/v1/chat"),
    ],
)
def test_keys_are_masked_and_the_rest_is_kept(text: str, clean: str) -> None:
    assert redact(text, [SECRET]) == clean


def test_a_short_secret_does_not_make_text_unreadable() -> None:
    assert redact("a test of tests", ["test"]) == "a test of tests"


def test_a_secret_inside_a_longer_one_leaves_no_rest() -> None:
    assert redact("abcdefgh12345678", ["abcdefgh", "abcdefgh12345678"]) == MASK


@given(st.text(max_size=50), st.text(max_size=400), st.integers(10, 60))
def test_no_cut_leaves_half_a_secret(before: str, after: str, limit: int) -> None:
    shown = excerpt(before + SECRET + after, [SECRET], limit)
    assert len(shown) <= max(limit, 3)
    assert SECRET[:8] not in shown or SECRET[:8] in before + after


def test_an_excerpt_is_one_printable_line() -> None:
    assert excerpt("a\n\tb\x00\x1b[31mc   d") == "a b [31mc d"
    assert excerpt("x" * 300).endswith("...")


def log_line(message: str, *args: object, exc_info: Any = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    secrets = KnownSecrets()
    secrets.add(SECRET)
    handler.addFilter(RedactingFilter(secrets))
    handler.handle(logging.LogRecord("tests", logging.WARNING, __file__, 1, message, args, exc_info))
    return stream.getvalue()


def test_a_log_line_shows_no_key_in_message_arguments_or_traceback() -> None:
    assert log_line("key %s and %d", SECRET, 5) == f"key {MASK} and 5\n"
    assert log_line("%(key)s", {"key": SECRET}) == f"{MASK}\n"
    try:
        raise ValueError(f"cannot use {SECRET}")
    except ValueError:
        line = log_line("failed", exc_info=sys.exc_info())
    assert SECRET not in line
    assert f"ValueError: cannot use {MASK}" in line


def test_a_log_line_whose_arguments_do_not_fit_is_still_a_log_line() -> None:
    assert "do not fit" in log_line("%d of %d", "x")
