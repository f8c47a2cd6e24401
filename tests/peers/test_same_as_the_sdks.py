"""The same bytes, read by the pool and by the SDKs of OpenAI and Anthropic: every shape of the conformance table, and what LiteLLM sends.

Where the SDKs read a shape at all, the pool reads the same from it, but for what `READ_OTHERWISE` tells with its reason.
"""

import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from core.cloud.chat import ChatRequest
from core.cloud.endpoint import ApiEndpoint
from core.cloud.provider import ProviderError
from core.cloud.providers import provider_for
from core.cloud.providers.wire_format import finish_reason_of
from tests.peers.conftest import KEY
from tests.support.llm_server import LlmServer, Step
from tests.unit.providers.test_conformance import TOLERATED, WHOLE

REQUEST = ChatRequest([{"role": "user", "content": "hi"}], "m", max_tokens=50)
Ask = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


async def read(wire: str, url: str, *, stream: bool) -> dict[str, Any]:
    """What the pool's provider makes of the answer, in the words of sdks.py."""
    provider = provider_for(wire)
    endpoint = ApiEndpoint("alpha", url, "sk-peers-0123456789", "m", provider=wire)
    try:
        if stream:
            chunks = [chunk async for chunk in provider.stream(endpoint, REQUEST, 10)]
            usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None)
            text = "".join(chunk.text for chunk in chunks)
            reasoning = "".join(chunk.reasoning for chunk in chunks)
            finish_reason = chunks[-1].finish_reason
        else:
            answer = await provider.chat(endpoint, REQUEST, 10)
            text, reasoning, finish_reason = answer.text, answer.reasoning, answer.finish_reason
            usage = answer.usage if answer.usage.tokens_in or answer.usage.tokens_out else None
    except ProviderError as error:
        return {"error": error.kind, "says": str(error)}
    finally:
        await provider.aclose()
    return {
        "text": text,
        "reasoning": reasoning,
        "finish_reason": finish_reason,
        "tokens_in": usage and usage.tokens_in,
        "tokens_out": usage and usage.tokens_out,
    }


def compared(found: dict[str, Any], sdk: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where the two differ: ours, theirs."""
    theirs = {**sdk, "finish_reason": finish_reason_of(sdk["finish_reason"])}
    # The SDKs know reasoning by fewer names; where they show some, it is the same.
    names = [name for name in theirs if name != "reasoning" or theirs[name]]
    return {name: (found.get(name), theirs[name]) for name in names if found.get(name) != theirs[name]}


TOKENS = {"tokens_in", "tokens_out"}
READ_OTHERWISE: dict[str, tuple[set[str], str]] = {
    "usage after the end mark": (TOKENS, "the SDK reads no further than [DONE]"),
    "no empty line after the last event": (TOKENS, "the SDK drops an event that no empty line ends"),
    "usage as numeric texts": (TOKENS, "the SDK hands the texts on"),
    "usage as text": ({"tokens_in"}, "the SDK hands the text on"),
    "Anthropic's thinking alone": ({"tokens_in"}, "the SDK hands the text on"),
    "a refusal in place of content": ({"text"}, "the SDK keeps a refusal apart"),
    "a refusal": ({"text"}, "the SDK keeps a refusal apart"),
    "parts": ({"text"}, "the SDK hands the list on"),
    "thinking parts": ({"text"}, "the SDK hands the list on"),
    "the answer whole, as plain JSON": ({"text", "finish_reason", *TOKENS}, "the SDK finds no event in it, and says nothing"),
    "a tool call that claims to have stopped": ({"finish_reason"}, "the SDK hands on what the server claims"),
    "no finish reason": ({"finish_reason"}, "the SDK leaves it to the caller to take it for an end"),
}  # fmt: skip
"""What differs, and why. Each must differ just so: what the SDKs learn to read leaves this list."""


@pytest.mark.parametrize("stream", [True, False], ids=["streams", "whole answers"])
async def test_every_shape_that_the_sdks_can_read_is_read_as_they_do(
    llm_server: LlmServer, ask_sdks: Ask, stream: bool
) -> None:
    rows: dict[str, tuple[str, bytes]] = {}
    if stream:
        rows = {name: (wire, data) for name, (wire, data, _) in TOLERATED.items()}
    else:
        rows = {
            name: (wire, json.dumps(body).encode())
            for name, (wire, body, told) in WHOLE.items()
            if not isinstance(told, tuple)
        }
    asked = []
    for number, (wire, data) in enumerate(rows.values()):
        kind = "text/event-stream" if stream else "application/json"
        llm_server.script(f"row{number}", Step(raw=data, content_type=kind))
        asked.append({"wire": wire, "url": llm_server.base_url(f"row{number}"), "stream": stream})
    sdks = dict(zip(rows, ask_sdks(asked), strict=True))
    differ: dict[str, Any] = {}
    for name, one in zip(rows, asked, strict=True):
        found = await read(one["wire"], one["url"], stream=stream)
        assert "error" not in found, (name, found)
        if "error" not in sdks[name] and (difference := compared(found, sdks[name])):
            differ[name] = difference
    expected = {name: fields for name, (fields, _) in READ_OTHERWISE.items() if name in rows}
    assert {name: set(fields) for name, fields in differ.items()} == expected, json.dumps(differ, indent=1)
    read_by_sdks = [name for name, told in sdks.items() if "error" not in told]
    assert len(read_by_sdks) > len(rows) / 2


def recorded(litellm: str, wire: str, model: str, *, stream: bool) -> tuple[str, bytes]:
    """The content type and the bytes that the proxy answers with."""
    address = urlsplit(litellm)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    body["stream"] = stream
    if stream and wire == "openai":
        body["stream_options"] = {"include_usage": True}
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
    connection.request(
        "POST", "/v1/chat/completions" if wire == "openai" else "/v1/messages", json.dumps(body), headers
    )
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    connection.close()
    return response.headers.get("content-type", ""), data


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", ["plain", "forwarded"])
@pytest.mark.parametrize("wire", ["openai", "anthropic"])
async def test_what_the_proxy_sends_is_read_as_the_sdks_read_it(
    llm_server: LlmServer, upstream: LlmServer, litellm: str, ask_sdks: Ask, wire: str, model: str, stream: bool
) -> None:
    upstream.script("upstream", Step(text="one two three, 四", tokens_in=11, tokens_out=5))
    kind, data = recorded(litellm, wire, model, stream=stream)
    llm_server.script("replay", Step(raw=data, content_type=kind))
    url = llm_server.base_url("replay")
    (sdk,) = ask_sdks([{"wire": wire, "url": url, "stream": stream}])
    found = await read(wire, url, stream=stream)
    assert found["text"] in {"Hello from the mock, 世界", "one two three, 四"}
    if kind.startswith("application/json") and stream:
        # Its mocks do not stream in Anthropic's format, which the SDK does not forgive.
        assert (wire, model) == ("anthropic", "plain")
        return
    assert "error" not in sdk, sdk
    assert compared(found, sdk) == {}
