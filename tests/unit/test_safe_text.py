"""The text of values that nobody vouches for: it never raises and is never longer than asked for."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.safe_text import LONGEST_TEXT, describe, encodable, is_group, leaves, origin_of, repr_of, text_of, type_name
from tests.support.hostile import ERRORS, UNWRITABLE, deep_group


@pytest.mark.parametrize("name", ERRORS)
def test_every_hostile_error_is_described_by_the_name_of_its_type(name: str) -> None:
    error = ERRORS[name]()
    text = describe(error)

    assert text.startswith(name.split(maxsplit=1)[0])
    assert len(text) < 2 * LONGEST_TEXT
    text.encode()
    assert origin_of(error) == "an unknown place"


@pytest.mark.parametrize("name", UNWRITABLE)
def test_every_hostile_value_has_a_short_repr(name: str) -> None:
    value = UNWRITABLE[name]()

    assert 0 < len(repr_of(value, 80)) <= 80
    assert type_name(value).isidentifier() or " " in type_name(value)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**8,
        b"x" * 10**8,
        bytearray(10**7),
        list(range(10**6)),
        {n: n for n in range(10**5)},
        tuple([[0] * 10**6] * 50),
    ],
    ids=["text", "bytes", "bytearray", "list", "dict", "tuple"],
)
def test_the_repr_of_a_large_value_is_not_built_whole(value: object) -> None:
    assert len(repr_of(value)) <= 500


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_is_made_such_as_every_store_can_hold_and_whole_text_stays_as_it_is(text: str) -> None:
    held = encodable(text)

    held.encode()
    assert "\0" not in held
    assert encodable(held) == held
    if "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text):
        assert held == text


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (os.fsdecode(b"caf\xe9.txt"), "caf\ufffd.txt"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("a\0b", "a\ufffdb"),
        ("\udcff" * 3, "\ufffd" * 3),
        ("whole", "whole"),
    ],
)
def test_halves_of_characters_meet_or_are_replaced(text: str, held: str) -> None:
    assert encodable(text) == held
    assert text_of(ValueError(text)) == held


def test_the_errors_of_a_group_are_named_in_their_order_and_the_rest_counted() -> None:
    inner = ExceptionGroup("inner", [KeyError("b"), ValueError("c" * 1000)])
    group = ExceptionGroup("outer", [OSError("a"), inner, *(IndexError(str(n)) for n in range(9))])

    text = describe(group)

    assert is_group(group)
    assert [type(each) for each in leaves(group)][:3] == [OSError, KeyError, ValueError]
    assert text.startswith("ExceptionGroup: outer (11 sub-exceptions): OSError: a; KeyError: 'b'; ValueError: ccc")
    assert text.endswith("IndexError: 0; IndexError: 1; and 7 more")
    assert len(list(leaves(deep_group()))) == 1


def test_where_an_error_was_raised_is_told_by_file_and_line() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        assert 1 / 0

    assert origin_of(raised.value).rpartition(":")[0] == __file__
