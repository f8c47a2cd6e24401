"""Messages written in one provider's way and sent in the other's: what goes out, without a network."""

import json
from typing import Any

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.chat import ChatRequest
from core.cloud.providers.anthropic import Anthropic
from core.cloud.providers.anthropic_messages import NO_BEGINNING, for_anthropic
from core.cloud.providers.openai_compatible import OpenAiCompatible
from core.cloud.replies.adaptation import JSON_INSTRUCTION
from core.errors import InvalidArgument
from tests.support.llm_server import LlmServer

HI = {"role": "user", "content": "hi"}
CACHED = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}
PNG = "iVBORw0KGgoAAAANSUhEUg=="
JPEG = "/9j/4AAQSkZJRg=="
ENDPOINT = ApiEndpoint("a", "https://api.example.com/v1", "sk-x", "m")


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


def base64(kind: str, data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def call(call_id: str, name: str = "look", arguments: Any = '{"at": 1}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def use(call_id: str, name: str = "look", given: Any = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {"at": 1} if given is None else given}


def result(call_id: str, content: Any = "seen") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, **({"content": content} if content else {})}


SYSTEMS: dict[str, tuple[list[Any], dict[str, Any], Any, list[Any]]] = {
    "a list of parts with cache_control": ([{"role": "system", "content": [CACHED]}, HI], {}, [CACHED], [HI]),
    "text before a list of parts": (
        [{"role": "system", "content": "Short."}, {"role": "system", "content": [CACHED]}, HI],
        {},
        [text("Short."), CACHED],
        [HI],
    ),
    "the request's own text before them": (
        [{"role": "system", "content": [CACHED]}, HI],
        {"system": "Zero."},
        [text("Zero."), CACHED],
        [HI],
    ),
    "JSON mode after what is cached": (
        [{"role": "system", "content": [CACHED]}, HI],
        {"json": True},
        [CACHED, text(JSON_INSTRUCTION)],
        [HI],
    ),
    "the role developer": ([{"role": "developer", "content": "Be brief."}, HI], {}, "Be brief.", [HI]),
    "in the middle": (
        [HI, {"role": "assistant", "content": "ho"}, {"role": "system", "content": "Be brief."}, HI],
        {},
        "Be brief.",
        [HI, {"role": "assistant", "content": "ho"}, HI],
    ),
    "in the middle, between two of the user's": (
        [HI, {"role": "developer", "content": "Be brief."}, HI],
        {},
        "Be brief.",
        [{"role": "user", "content": [text("hi"), text("hi")]}],
    ),
    "blank": ([{"role": "system", "content": " \n"}, {"role": "system", "content": [text("")]}, HI], {}, [], [HI]),
    "null": ([{"role": "system", "content": None}, HI], {}, "", [HI]),
    "nothing else": ([{"role": "system", "content": "Say hi."}], {}, "", [{"role": "user", "content": "Say hi."}]),
    "nothing else, in JSON mode": (
        [{"role": "system", "content": "Say hi."}],
        {"json": True},
        JSON_INSTRUCTION,
        [{"role": "user", "content": "Say hi."}],
    ),
}


@pytest.mark.parametrize(("messages", "more", "system", "sent"), SYSTEMS.values(), ids=SYSTEMS)
def test_system_text_goes_to_anthropic_where_it_takes_it(
    messages: list[Any], more: dict[str, Any], system: Any, sent: list[Any]
) -> None:
    assert for_anthropic(ChatRequest(messages, "m", **more)) == (system, sent)


TO_ANTHROPIC: dict[str, tuple[list[Any], list[Any]]] = {
    "plain messages stay as they are": (
        [HI, {"role": "assistant", "content": "ho"}, HI],
        [HI, {"role": "assistant", "content": "ho"}, HI],
    ),
    "an image in the URL": (
        [{"role": "user", "content": [text("What?"), image({"url": f"data:image/png;base64,{PNG}", "detail": "low"})]}],
        [{"role": "user", "content": [text("What?"), base64("image/png", PNG)]}],
    ),
    "an image at a URL": (
        [{"role": "user", "content": [image({"url": "https://a.example/x.png"})]}],
        [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}}]}],
    ),
    "the URL as a bare text": (
        [{"role": "user", "content": [image("data:image/gif;base64,R0lGODdh")]}],
        [{"role": "user", "content": [base64("image/gif", "R0lGODdh")]}],
    ),
    "image/jpg": (
        [{"role": "user", "content": [image({"url": "data:image/jpg;base64,QUJD"})]}],
        [{"role": "user", "content": [base64("image/jpeg", "QUJD")]}],
    ),
    "a kind that the data belies": (
        [{"role": "user", "content": [image({"url": f"data:image/png;base64,{JPEG}"})]}],
        [{"role": "user", "content": [base64("image/jpeg", JPEG)]}],
    ),
    "a data URL with a parameter and capitals": (
        [{"role": "user", "content": [image({"url": f"DATA:Image/PNG;charset=utf-8;base64,{PNG}"})]}],
        [{"role": "user", "content": [base64("image/png", PNG)]}],
    ),
    "a cached image": (
        [
            {
                "role": "user",
                "content": [{**image({"url": "https://a.example/x"}), "cache_control": {"type": "ephemeral"}}],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "url", "url": "https://a.example/x"},
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            }
        ],
    ),
    "a PDF": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}}
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                    }
                ],
            }
        ],
    ),
    "the parts of OpenAI's newer API": (
        [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://b"}],
            }
        ],
        [{"role": "user", "content": [text("a"), {"type": "image", "source": {"type": "url", "url": "https://b"}}]}],
    ),
    "Anthropic's own blocks": (
        [{"role": "user", "content": [base64("image/png", PNG), CACHED]}],
        [{"role": "user", "content": [base64("image/png", PNG), CACHED]}],
    ),
    "a tool call and its result": (
        [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call("call_1")]},
            {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
        ],
        [HI, {"role": "assistant", "content": [use("call_1")]}, {"role": "user", "content": [result("call_1")]}],
    ),
    "text beside a tool call": (
        [HI, {"role": "assistant", "content": "I look.", "tool_calls": [call("c")]}, {"role": "tool", "content": "x"}],
        [
            HI,
            {"role": "assistant", "content": [text("I look."), use("c")]},
            {"role": "user", "content": [result("c", "x")]},
        ],
    ),
    "results of parallel calls, and what the user says after them": (
        [
            HI,
            {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "user", "content": "go on"},
        ],
        [
            HI,
            {"role": "assistant", "content": [use("a"), use("b")]},
            {"role": "user", "content": [result("a", "1"), result("b", "2"), text("go on")]},
        ],
    ),
    "a result given as a list of parts": (
        [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call("a")]},
            {"role": "tool", "tool_call_id": "a", "content": [text("x"), image({"url": "https://b"})]},
        ],
        [
            HI,
            {"role": "assistant", "content": [use("a")]},
            {
                "role": "user",
                "content": [result("a", [text("x"), {"type": "image", "source": {"type": "url", "url": "https://b"}}])],
            },
        ],
    ),
    "an empty result": (
        [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call("a")]},
            {"role": "tool", "tool_call_id": "a", "content": ""},
        ],
        [HI, {"role": "assistant", "content": [use("a")]}, {"role": "user", "content": [result("a", None)]}],
    ),
    "ids with other characters": (
        [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call("functions.look:0")]},
            {"role": "tool", "tool_call_id": "functions.look:0", "content": "seen"},
        ],
        [
            HI,
            {"role": "assistant", "content": [use("functions_look_0")]},
            {"role": "user", "content": [result("functions_look_0")]},
        ],
    ),
    "arguments that are empty, an object, or no JSON": (
        [
            HI,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call("a", arguments=""), call("b", arguments={"x": 2}), call("c", arguments='{"cut')],
            },
            HI,
        ],
        [
            HI,
            {
                "role": "assistant",
                "content": [use("a", given={}), use("b", given={"x": 2}), use("c", given={"arguments": '{"cut'})],
            },
            HI,
        ],
    ),
    "the older function_call": (
        [
            HI,
            {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": 1}'}},
            {"role": "function", "name": "look", "content": "seen"},
        ],
        [HI, {"role": "assistant", "content": [use("look")]}, {"role": "user", "content": [result("look")]}],
    ),
    "the same role in a row": (
        [HI, {"role": "user", "content": [text("there")]}, HI],
        [{"role": "user", "content": [text("hi"), text("there"), text("hi")]}],
    ),
    "empty and blank messages": (
        [
            HI,
            {"role": "assistant", "content": ""},
            {"role": "user", "content": " \n"},
            HI,
            {"role": "user", "content": []},
        ],
        [{"role": "user", "content": [text("hi"), text("hi")]}],
    ),
    "blank parts beside others": (
        [{"role": "user", "content": [text(""), text("hi"), text(" \n"), "there"]}],
        [{"role": "user", "content": [text("hi"), text("there")]}],
    ),
    "an assistant that begins": (
        [{"role": "assistant", "content": "Welcome!"}, HI],
        [{"role": "user", "content": NO_BEGINNING}, {"role": "assistant", "content": "Welcome!"}, HI],
    ),
    "white space at the end of an answer to go on with": (
        [HI, {"role": "assistant", "content": "Once upon \n"}],
        [HI, {"role": "assistant", "content": "Once upon"}],
    ),
    "the same in parts": (
        [HI, {"role": "assistant", "content": [text("Once "), text("upon ")]}],
        [HI, {"role": "assistant", "content": [text("Once "), text("upon")]}],
    ),
    "fields only OpenAI has": (
        [
            {"role": "user", "content": "hi", "name": "me"},
            {"role": "assistant", "content": "ho", "refusal": None, "tool_calls": None, "annotations": []},
            HI,
        ],
        [HI, {"role": "assistant", "content": "ho"}, HI],
    ),
    "a refusal": (
        [HI, {"role": "assistant", "content": None, "refusal": "I will not."}, HI],
        [HI, {"role": "assistant", "content": [text("I will not.")]}, HI],
    ),
}


@pytest.mark.parametrize(("messages", "sent"), TO_ANTHROPIC.values(), ids=TO_ANTHROPIC)
def test_messages_go_to_anthropic_in_its_own_shape(messages: list[Any], sent: list[Any]) -> None:
    before = json.dumps(messages)
    request = Anthropic().request(ENDPOINT, ChatRequest(messages, "m"), stream=False)
    assert json.loads(request.body)["messages"] == sent
    assert json.dumps(messages) == before  # the caller's own messages are left alone


@pytest.mark.parametrize("messages", [[{"role": "user", "content": ""}], [{"role": "system", "content": " "}]])
def test_messages_without_any_content_are_refused_before_anything_is_sent(messages: list[Any]) -> None:
    with pytest.raises(InvalidArgument, match="hold nothing"):
        for_anthropic(ChatRequest(messages, "m"))


TO_OPENAI: dict[str, tuple[list[Any], list[Any]]] = {
    "plain messages and parts stay as they are": (
        [HI, {"role": "user", "content": [CACHED, image({"url": "https://b"})]}],
        [HI, {"role": "user", "content": [CACHED, image({"url": "https://b"})]}],
    ),
    "an image in base64": (
        [{"role": "user", "content": [base64("image/png", PNG), text("What?")]}],
        [{"role": "user", "content": [image({"url": f"data:image/png;base64,{PNG}"}), text("What?")]}],
    ),
    "an image at a URL": (
        [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://b"}}]}],
        [{"role": "user", "content": [image({"url": "https://b"})]}],
    ),
    "a document in base64 and one of text": (
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "title": "a.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                    },
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
                    text("words"),
                ],
            }
        ],
    ),
    "tool calls and results": (
        [
            HI,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, text("I look."), use("t1")]},
            {"role": "user", "content": [result("t1"), text("go on")]},
        ],
        [
            HI,
            {"role": "assistant", "content": "I look.", "tool_calls": [call("t1", arguments='{"at":1}')]},
            {"role": "tool", "tool_call_id": "t1", "content": "seen"},
            {"role": "user", "content": [text("go on")]},
        ],
    ),
    "only a call, with an empty input": (
        [
            HI,
            {"role": "assistant", "content": [use("t1", given={})]},
            {"role": "user", "content": [result("t1", None)]},
        ],
        [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call("t1", arguments="{}")]},
            {"role": "tool", "tool_call_id": "t1", "content": ""},
        ],
    ),
    "a result of blocks": (
        [HI, {"role": "user", "content": [result("t1", [text("a"), text("b")])]}],
        [HI, {"role": "tool", "tool_call_id": "t1", "content": "ab"}],
    ),
    "thinking beside an answer": (
        [
            HI,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, text("ho")]},
            HI,
        ],
        [HI, {"role": "assistant", "content": "ho"}, HI],
    ),
}


@pytest.mark.parametrize(("messages", "sent"), TO_OPENAI.values(), ids=TO_OPENAI)
def test_messages_go_to_openai_in_its_own_shape(messages: list[Any], sent: list[Any]) -> None:
    before = json.dumps(messages)
    request = OpenAiCompatible().request(ENDPOINT, ChatRequest(messages, "m"), stream=False)
    assert json.loads(request.body)["messages"] == sent
    assert json.dumps(messages) == before


def test_one_conversation_is_answered_by_either_kind_of_endpoint(llm_server: LlmServer) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": [CACHED]},
        {"role": "user", "content": [text("What?"), image({"url": f"data:image/png;base64,{PNG}"})]},
        {"role": "assistant", "content": None, "tool_calls": [call("functions.look:0")]},
        {"role": "tool", "tool_call_id": "functions.look:0", "content": "seen"},
    ]
    with ApiManager() as manager:
        for wire in ("openai", "anthropic"):
            manager.add_endpoint(ApiEndpoint(wire, llm_server.base_url(wire), "sk-x", "m", provider=wire))
        assert [manager.chat(messages, endpoint=wire).endpoint for wire in ("openai", "anthropic")] == [
            "openai",
            "anthropic",
        ]
    sent = [llm_server.arrivals(wire)[0].body for wire in ("openai", "anthropic")]
    assert sent[0]["messages"] == messages
    assert sent[1]["system"] == [CACHED]
    assert [message["role"] for message in sent[1]["messages"]] == ["user", "assistant", "user"]
