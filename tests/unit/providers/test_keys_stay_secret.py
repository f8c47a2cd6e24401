"""A canary key goes through every failure and is found nowhere but in the request."""

import asyncio
import contextlib
import gc
import io
import logging
import traceback
from collections.abc import Iterator

import pytest

from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import Provider, ProviderError
from core.errors import HeablcoinError, KeyUnusable
from core.network import UrlPolicy, open_transport
from core.redaction import KNOWN_SECRETS
from tests.support.llm_server import LlmServer, Step
from tests.unit.providers.conftest import REQUEST

CANARY = "canary7KEYdoNOTshow3f9a1c"
PIECE = CANARY[6:]


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All that any library logs at DEBUG, unfiltered, as `logging.basicConfig(level=DEBUG)` would show it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def everything_shown(error: BaseException) -> str:
    """The error in every form somebody may print: text, repr, attributes, and its traceback with all local variables."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    chain = []
    one: BaseException | None = error
    while one is not None:
        chain += [str(one), repr(one), repr(vars(one)), repr(one.args)]
        one = one.__cause__ or one.__context__
    return "\n".join([*found.format(), *chain])


STEPS = [
    Step(),
    Step(headers={"x-request-id": f"for {CANARY}"}),
    Step(status=500, headers={"x-request-id": f"for {CANARY}"}),
    Step(status=401, code="invalid_api_key", echo_key=True, message="Incorrect API key provided"),
    Step(status=400, echo_key=True),
    Step(status=500, raw=f"<html>Bearer {CANARY}</html>".encode(), content_type="text/html"),
    Step(status=500, raw=f'{{"error": "{CANARY}"}}'.encode()),
    Step(status=500, raw=f'{{"error": {{"message": "{"x" * 190}{CANARY}"}}}}'.encode()),
    Step(status=500, raw=f'{{"error": {{"code": "{CANARY} is wrong"}}}}'.encode()),
    Step(raw=f'{{"error": {{"message": "{CANARY}"}}}}'.encode()),
    Step(content_type=f"text/{CANARY}"),
    Step(fault="redirect", location=f"https://elsewhere.example/?key={CANARY}"),
    Step(fault="reset"),
    Step(fault="close"),
    Step(fault="cut"),
    Step(fault="garbage"),
    Step(fault="html"),
    Step(fault="not_json"),
    Step(fault="no_choices"),
    Step(fault="empty"),
    Step(fault="hang"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.fault or f"{step.status}-{str(step.raw)[:12]}")
async def test_no_failure_shows_the_key(
    llm_server: LlmServer, provider: Provider, everything_logged: io.StringIO, step: Step, streamed: bool
) -> None:
    llm_server.script("alpha", Step(), step)
    endpoint = ApiEndpoint("alpha", llm_server.base_url("alpha"), CANARY, "m")
    shown = repr(endpoint) + repr(await provider.chat(endpoint, REQUEST, 5))
    try:
        if streamed:
            async for chunk in provider.stream(endpoint, REQUEST, 0.1 if step.fault == "hang" else 5):
                shown += repr(chunk)
        else:
            shown += repr(await provider.chat(endpoint, REQUEST, 0.1 if step.fault == "hang" else 5))
    except ProviderError as error:
        shown += everything_shown(error)
    assert PIECE in str(llm_server.arrivals("alpha")[0].headers)
    shown += everything_logged.getvalue() + repr(provider) + repr(vars(provider))
    assert PIECE not in shown.replace(str(step), "")


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:9/v1", "http://nothing-here.invalid/v1", "https://127.0.0.1:9/v1"]
)
async def test_no_failed_connection_shows_the_key(
    provider: Provider, everything_logged: io.StringIO, base_url: str
) -> None:
    with pytest.raises(HeablcoinError) as caught:
        await provider.chat(ApiEndpoint("alpha", base_url, CANARY, "m"), REQUEST, 5)
    assert PIECE not in everything_shown(caught.value) + everything_logged.getvalue()


async def test_a_refused_url_does_not_show_the_key(
    wire: str, transport_kind: str, everything_logged: io.StringIO
) -> None:
    from core.cloud.providers import provider_for

    transport = open_transport(UrlPolicy(), transport_kind)
    endpoint = ApiEndpoint("alpha", "https://localhost.example:1/v1", CANARY, "m")
    with pytest.raises(HeablcoinError) as caught:
        await provider_for(wire, transport=transport).chat(endpoint, REQUEST, 5)
    with pytest.raises(HeablcoinError) as refused:
        await provider_for(wire, transport=transport).chat(
            ApiEndpoint("alpha", "https://127.0.0.1/v1", CANARY, "m"), REQUEST, 5
        )
    assert PIECE not in everything_shown(caught.value) + everything_shown(refused.value) + everything_logged.getvalue()


async def test_a_key_http_cannot_carry_is_refused_without_being_shown(
    llm_server: LlmServer, provider: Provider, everything_logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHA_KEY", f"{CANARY}\nX-Injected: 1")
    endpoint = ApiEndpoint("alpha", llm_server.base_url("alpha"), model="m", api_key_env="ALPHA_KEY")
    with pytest.raises(KeyUnusable, match="variable ALPHA_KEY has a line break") as caught:
        await provider.chat(endpoint, REQUEST, 5)
    assert llm_server.arrivals() == []
    assert PIECE not in everything_shown(caught.value) + everything_logged.getvalue()


async def test_a_cancelled_call_does_not_leave_the_key_in_a_log(
    llm_server: LlmServer, provider: Provider, everything_logged: io.StringIO
) -> None:
    llm_server.script("alpha", Step(fault="hang"))
    endpoint = ApiEndpoint("alpha", llm_server.base_url("alpha"), CANARY, "m")
    task = asyncio.create_task(provider.chat(endpoint, REQUEST, 30))
    await asyncio.to_thread(llm_server.wait_for_arrivals, 1)
    assert PIECE not in repr(task)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    gc.collect()
    assert PIECE not in everything_logged.getvalue()


async def test_a_key_that_was_used_is_known_to_the_log_filter(llm_server: LlmServer, provider: Provider) -> None:
    await provider.chat(ApiEndpoint("alpha", llm_server.base_url("alpha"), CANARY, "m"), REQUEST, 5)
    assert CANARY in KNOWN_SECRETS.values()
    assert CANARY not in repr(KNOWN_SECRETS)
