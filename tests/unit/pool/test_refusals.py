"""What providers say when they refuse a request, and what is made of it. Where each was reported: docs/field-faults.md, 1."""

import json

import pytest

from core.cloud.pool.outcome import OutcomeClass, classify
from core.cloud.provider import ProviderError
from core.cloud.replies.adaptation import Adaptation, How, adapt
from core.cloud.replies.complaint import complaint_of
from core.cloud.replies.limit import Limit
from core.cloud.replies.refusal import told_by
from tests.support.refusals import NOW, SENT, openai


def pydantic(*places, kind="extra_forbidden", msg="Extra inputs are not permitted"):
    return [{"type": kind, "loc": list(place), "msg": msg, "input": "temperature top_p stop"} for place in places]


def google(*names):
    text = "\n".join(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.' for name in names)
    return [{"error": {"code": 400, "message": text, "status": "INVALID_ARGUMENT", "details": []}}]


def omit(*names):
    return tuple(Adaptation(How.OMIT, name) for name in names)


def rename(name, to):
    return (Adaptation(How.RENAME, name, to),)


def role(name, to):
    return (Adaptation(How.ROLE, name, to),)


DEVELOPER = {**SENT, "messages": [{"role": "developer", "content": "Be brief."}, *SENT["messages"][1:]]}
NEWER = {**{name: value for name, value in SENT.items() if name != "max_tokens"}, "max_completion_tokens": 50_000}
NESTED = {
    **SENT,
    "messages": [*SENT["messages"], {"role": "assistant", "content": "x", "reasoning_content": "y", "name": "z"}],
}

ADAPTED = {
    "openai: max_tokens has a successor": (
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "unsupported_parameter",
            "max_tokens",
        ),
        SENT,
        rename("max_tokens", "max_completion_tokens"),
    ),
    "a gateway quotes the same and loses the code": (
        400,
        openai(
            "litellm.BadRequestError: AzureException - Unsupported parameter: 'max_tokens' is not supported with this"
            " model. Use 'max_completion_tokens' instead.. Received Model Group=x",
            "400",
            None,
            None,
        ),
        SENT,
        rename("max_tokens", "max_completion_tokens"),
    ),
    "azure, older version: the successor is unknown": (
        400,
        openai("Unrecognized request argument supplied: max_completion_tokens"),
        NEWER,
        rename("max_completion_tokens", "max_tokens"),
    ),
    "mistral: the successor is unknown": (
        422,
        {"object": "error", "message": {"detail": pydantic(("body", "max_completion_tokens"))}},
        NEWER,
        rename("max_completion_tokens", "max_tokens"),
    ),
    "openai: only the default temperature": (
        400,
        openai(
            "Unsupported value: 'temperature' does not support 1.7 with this model. Only the default (1) value is supported.",
            "unsupported_value",
            "temperature",
        ),
        SENT,
        omit("temperature"),
    ),
    "moonshot: only one temperature": (
        400,
        openai("invalid temperature: only 1 is allowed for this model"),
        SENT,
        omit("temperature"),
    ),
    "anthropic: temperature is deprecated": (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."},
        },
        SENT,
        omit("temperature"),
    ),
    "anthropic: thinking fixes the temperature": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.",
            },
        },
        SENT,
        omit("temperature"),
    ),
    "anthropic: one of two": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            },
        },
        SENT,
        (Adaptation(How.UNLESS, "top_p", "temperature"),),
    ),
    "bedrock behind litellm: one of two": (
        400,
        openai(
            'litellm.BadRequestError: BedrockException - {"message":"The model returned the following errors: `temperature`'
            ' and `top_p` cannot both be specified for this model. Please use only one."}'
        ),
        SENT,
        (Adaptation(How.UNLESS, "top_p", "temperature"),),
    ),
    "azure: unknown stream_options": (
        400,
        openai("Unknown parameter: 'stream_options'.", "unknown_parameter", "stream_options"),
        SENT,
        omit("stream_options"),
    ),
    "azure, older version: unrecognized stream_options": (
        400,
        openai("Unrecognized request argument supplied: stream_options. Please contact us.", None, ""),
        SENT,
        omit("stream_options"),
    ),
    "mistral: stream_options, at the bottom of a path": (
        422,
        {"object": "error", "message": {"detail": pydantic(("body", "stream_options", "include_usage"))}},
        SENT,
        omit("stream_options"),
    ),
    "mistral, with the list as text": (
        422,
        {"object": "error", "message": json.dumps({"detail": pydantic(("body", "frequency_penalty"))}), "code": "1000"},
        SENT,
        omit("frequency_penalty"),
    ),
    "serverless azure: a path in the text": (
        400,
        {"error": {"code": 400, "message": "Validation error at #/stream_options: Extra inputs are not permitted"}},
        SENT,
        omit("stream_options"),
    ),
    "gemini: fields it cannot find, all at once": (
        400,
        google("frequency_penalty", "top_k"),
        SENT,
        omit("frequency_penalty", "top_k"),
    ),
    "gemini: a field we do not send": (400, google("web_search_options"), SENT, ()),
    "groq: a property": (
        400,
        openai("property 'store' is unsupported, did you mean 'stop'?"),
        SENT,
        omit("store"),
    ),
    "groq: a value": (
        400,
        openai("`reasoning_effort` must be one of `none` or `default`"),
        SENT,
        (Adaptation(How.VALUE, "reasoning_effort", '"high"'),),
    ),
    "zhipu: a value outside an open interval": (
        400,
        {"error": {"code": "1214", "message": "temperature参数非法。请检查文档。"}},
        SENT,
        (Adaptation(How.VALUE, "temperature", "1.7"),),
    ),
    "zhipu behind a gateway": (
        400,
        openai("[1214][top_p参数非法。请检查文档。]"),
        SENT,
        (Adaptation(How.VALUE, "top_p", "0.9"),),
    ),
    "ollama: a way of thinking": (
        400,
        {"error": {"message": 'think value "high" is not supported for this model', "type": "api_error"}},
        SENT,
        omit("reasoning_effort"),
    ),
    "ollama: no thinking": (
        400,
        {
            "error": {
                "message": '"registry.ollama.ai/library/gemma3n:e4b" does not support thinking',
                "type": "api_error",
            }
        },
        SENT,
        omit("reasoning_effort"),
    ),
    "vllm, printed as Python prints it": (
        400,
        {
            "object": "error",
            "message": str(
                [
                    {
                        "type": "extra_forbidden",
                        "loc": ("body", "stream_options"),
                        "msg": "Extra inputs are not permitted",
                        "input": {"temperature": "top_p"},
                    }
                ]
            ),
            "type": "BadRequestError",
            "code": 400,
        },
        SENT,
        omit("stream_options"),
    ),
    "vllm, older: the successor is unknown": (
        400,
        {
            "object": "error",
            "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not"
            " permitted', 'input': 64}]",
            "type": "BadRequestError",
            "code": 400,
        },
        NEWER,
        rename("max_completion_tokens", "max_tokens"),
    ),
    "vllm: a field of messages, as pydantic prints it": (
        400,
        openai(
            "1 validation error for ChatCompletionRequest\nmessages.2.assistant.name\n  Extra inputs are not permitted"
            " [type=extra_forbidden, input_value='z', input_type=str]"
        ),
        NESTED,
        (Adaptation(How.INSIDE, "name"),),
    ),
    "bedrock behind litellm: a field of its own": (
        400,
        openai(
            'litellm.BadRequestError: BedrockException - {"message":"The model returned the following errors: top_k: Extra'
            ' inputs are not permitted"}. Received Model Group=x'
        ),
        SENT,
        omit("top_k"),
    ),
    "openai: stop": (
        400,
        openai("Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter", "stop"),
        SENT,
        omit("stop"),
    ),
    "xai: stop, in a shape of its own": (
        400,
        {"code": "Client specified an invalid argument", "error": "Argument not supported on this model: stop"},
        SENT,
        omit("stop"),
    ),
    "openai: top_p": (
        400,
        openai("Unsupported parameter: 'top_p' is not supported with this model.", "unsupported_parameter", "top_p"),
        SENT,
        omit("top_p"),
    ),
    "openai: streaming": (
        400,
        openai(
            "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported.",
            "unsupported_value",
            "stream",
        ),
        SENT,
        omit("stream"),
    ),
    "openai: json mode": (
        400,
        openai(
            "Invalid parameter: 'response_format' of type 'json_object' is not supported with this model.",
            None,
            "response_format",
        ),
        SENT,
        omit("response_format"),
    ),
    "deepseek: json mode by another name": (
        400,
        openai("deepseek-reasoner does not support Json Output.", "invalid_request_error"),
        SENT,
        omit("response_format"),
    ),
    "deepseek: a type of response_format": (
        400,
        openai("This response_format type is unavailable now", "invalid_request_error"),
        SENT,
        omit("response_format"),
    ),
    "lm studio: only a schema": (
        400,
        {"error": "'response_format.type' must be 'json_schema'"},
        SENT,
        omit("response_format"),
    ),
    "deepseek: a parameter of the model": (
        400,
        openai("deepseek-reasoner does not support the parameter `frequency_penalty`", "invalid_request_error"),
        SENT,
        omit("frequency_penalty"),
    ),
    "deepseek: max_tokens above its range": (
        400,
        openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "invalid_request_error"),
        SENT,
        (Adaptation(How.CAP, "max_tokens", "8192"),),
    ),
    "groq: max_tokens above the model's": (
        400,
        openai(
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the"
            " `context_window` for this model"
        ),
        SENT,
        (Adaptation(How.CAP, "max_tokens", "8192"),),
    ),
    "openai: max_tokens above the model's": (
        400,
        openai(
            "max_tokens is too large: 50000. This model supports at most 4096 completion tokens, whereas you provided 50000.",
            "invalid_value",
            "max_tokens",
        ),
        SENT,
        (Adaptation(How.CAP, "max_tokens", "4096"),),
    ),
    "anthropic: max_tokens above the model's": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "max_tokens: 50000 > 8192, which is the maximum"
                " allowed number of output tokens for claude-x",
            },
        },
        SENT,
        (Adaptation(How.CAP, "max_tokens", "8192"),),
    ),
    "mistral: temperature above its range": (
        422,
        {
            "object": "error",
            "message": {
                "detail": pydantic(
                    ("body", "temperature"), kind="less_than_equal", msg="Input should be less than or equal to 1.5"
                )
            },
        },
        SENT,
        (Adaptation(How.CAP, "temperature", "1.5"),),
    ),
    "openai: no system role": (
        400,
        openai(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "unsupported_value",
            "messages[0].role",
        ),
        SENT,
        role("system", "user"),
    ),
    "openai: no developer role": (
        400,
        openai(
            "Unsupported value: 'messages[0].role' does not support 'developer' with this model.",
            "unsupported_value",
            "messages[0].role",
        ),
        DEVELOPER,
        role("developer", "system"),
    ),
    "deepseek: an unknown role": (
        400,
        openai(
            "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant `developer`,"
            " expected one of `system`, `user`, `assistant`, `tool` at line 1 column 60",
            "invalid_request_error",
        ),
        DEVELOPER,
        role("developer", "system"),
    ),
    "dashscope: an unknown role": (
        400,
        openai("developer is not one of ['system', 'assistant', 'user', 'tool', 'function'] - 'messages.['0].role'"),
        DEVELOPER,
        role("developer", "system"),
    ),
    "vercel: an unknown role": (
        400,
        openai(
            "Invalid enum value. Expected 'system' | 'user' | 'assistant' | 'tool', received 'developer'",
            "invalid_request_error",
            "messages.0.role",
        ),
        DEVELOPER,
        role("developer", "system"),
    ),
    "vllm: a template without a system role": (
        400,
        {
            "object": "error",
            "message": "System role not supported",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        SENT,
        role("system", "user"),
    ),
    "a template that fails with 500": (
        500,
        {"error": {"code": 500, "message": "System role not supported", "type": "server_error"}},
        SENT,
        role("system", "user"),
    ),
    "gemini: gemma takes no instruction": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "Developer instruction is not enabled for models/gemma-3-27b-it",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        SENT,
        role("system", "user"),
    ),
    "mistral: a field of messages": (
        422,
        {"detail": pydantic(("body", "messages", 2, "assistant", "reasoning_content"))},
        NESTED,
        (Adaptation(How.INSIDE, "reasoning_content"),),
    ),
    "groq: a field of messages": (
        400,
        openai(
            "'messages.2' : for 'role:assistant' the following must be satisfied[('messages.2' : property"
            " 'reasoning_content' is unsupported)]"
        ),
        NESTED,
        (Adaptation(How.INSIDE, "reasoning_content"),),
    ),
    "openrouter: what the provider said, inside": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "provider_name": "x",
                    "raw": json.dumps(
                        openai(
                            "Unsupported parameter: 'temperature' is not supported with this model.",
                            "unsupported_parameter",
                            "temperature",
                        )
                    ),
                },
            }
        },
        SENT,
        omit("temperature"),
    ),
}


@pytest.mark.parametrize("case", ADAPTED)
def test_a_refusal_that_names_what_was_sent_tells_what_to_change(case):
    status, body, sent, expected = ADAPTED[case]
    told = told_by(status, complaint_of(json.dumps(body).encode()), sent)
    assert told.adaptations == expected
    assert told.limit is (Limit.FIELD if expected else told.limit)
    if expected:
        error = ProviderError("x", kind="status", status=status, told=told)
        outcome = classify(error, NOW)
        assert (outcome.kind, outcome.adaptations) == (OutcomeClass.UNSUITED, expected)


@pytest.mark.parametrize("case", [case for case, row in ADAPTED.items() if row[3]])
def test_the_change_is_one_of_the_request_that_was_refused(case):
    status, body, sent, expected = ADAPTED[case]
    changed = json.loads(json.dumps(sent))
    assert adapt(changed, expected) == tuple(one.name for one in expected)
    assert changed != sent
    again = json.loads(json.dumps(changed))
    adapt(again, expected)
    assert again == changed
    # The same refusal of what is sent now would ask for another change or for none: it never goes round in circles.
    assert told_by(status, complaint_of(json.dumps(body).encode()), changed, expected).adaptations != expected


@pytest.mark.parametrize("said", ["Unsupported param: tools", "tools param requires --jinja flag"])
def test_tools_that_a_server_was_not_built_for_are_the_endpoints_set_up_though_it_says_500(said):
    body = {"error": {"code": 500, "message": said, "type": "server_error"}}
    told = told_by(500, complaint_of(json.dumps(body)), {**SENT, "tools": []}, fixed={"tools"})
    assert classify(ProviderError("x", kind="status", status=500, told=told), NOW).kind is OutcomeClass.ENDPOINT_FAULT


def test_a_value_that_is_refused_is_left_out_and_others_are_sent():
    refused = (Adaptation(How.VALUE, "temperature", "0"),)
    for value, kept in ((0, False), (0.7, True), (1, True)):
        body = {"model": "m", "temperature": value}
        adapt(body, refused)
        assert ("temperature" in body) is kept


def test_a_field_of_the_endpoints_own_settings_that_gives_answers_their_meaning_is_its_set_up():
    body = openai(
        "Unsupported parameter: 'response_format' is not supported with this model.",
        "unsupported_parameter",
        "response_format",
    )
    told = told_by(400, complaint_of(json.dumps(body)), SENT, fixed={"response_format"})
    assert (told.limit, told.adaptations) == (Limit.SETTING, ())
    assert classify(ProviderError("x", kind="status", status=400, told=told), NOW).kind is OutcomeClass.ENDPOINT_FAULT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b"{" * 100_000,
        b"\xff\xfe",
        b'{"error": {"loc": 5, "param": {}, "code": []}}',
        json.dumps({"error": [{"error": [{"error": [{}] * 500}] * 50}] * 50}).encode(),
        json.dumps({"message": "retry " * 20_000}).encode(),
        json.dumps({"message": "model " * 20_000 + "1" * 20_000}).encode(),
        json.dumps({"message": ("context maximum input length tokens exceed " * 3_000)}).encode(),
    ],
    ids=range(11),
)
def test_an_error_of_any_shape_is_read_or_left_alone(body):
    told_by(400, complaint_of(body), SENT)
