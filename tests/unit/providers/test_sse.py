"""The event stream decoder, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cloud.providers import sse
from core.cloud.providers.sse import Event, EventError, SseDecoder


def decode(*chunks: bytes) -> list[Event]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [Event("message", "a")]),
        (b"data:a\n\n", [Event("message", "a")]),
        (b"data:  a\n\n", [Event("message", " a")]),
        (b"data: a\r\n\r\n", [Event("message", "a")]),
        (b"data: a\r\rdata: b\r\r\n", [Event("message", "a"), Event("message", "b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("message", "a")]),
        (b"data: a\ndata: b\n\n", [Event("message", "a\nb")]),
        (b"event: ping\ndata: a\n\ndata: b\n\n", [Event("ping", "a"), Event("message", "b")]),
        (b": keep-alive\n\ndata: a\n\n", [Event("message", "a")]),
        (b"event: empty\n\n", []),
        (b"id: 1\nretry: 5\ndata\n\n", [Event("message", "")]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
    ],
)
def test_a_stream_gives_these_events(stream: bytes, events: list[Event]) -> None:
    assert decode(stream) == events


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(EventError, match="UTF-8"):
        decode(b"data: \xff\xfe\n\n")


@pytest.mark.parametrize("chunk", [b"x" * 64, b"data: x\n" * 8])
def test_an_event_that_never_ends_is_refused(chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EventError, match="4 MiB"):
        decode(*[chunk] * 20)


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)


@given(
    st.lists(st.tuples(st.sampled_from(["", "ping", "delta"]), st.lists(texts, min_size=1, max_size=3)), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_the_events_do_not_depend_on_where_the_bytes_are_cut(
    written: list[tuple[str, list[str]]], end: str, data: st.DataObject
) -> None:
    lines = []
    for name, parts in written:
        lines += [f"event: {name}"] * bool(name) + [f"data: {part}" for part in parts] + [": comment", ""]
    # A lone \r at the very end could be half of \r\n, so it is followed by one more line.
    stream = "".join(line + end for line in [*lines, ": end"]).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [Event(name or "message", "\n".join(parts)) for name, parts in written]
    found = decode(*chunks)
    assert found == decode(stream)
    # A byte order mark at the very start of the stream is not part of it.
    assert [event.data.lstrip("\ufeff") for event in found] == [event.data.lstrip("\ufeff") for event in expected]
    assert [event.name for event in found] == [event.name for event in expected]
