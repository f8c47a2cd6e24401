"""Requests that an endpoint cannot serve, models that it does not have, and what stays the caller's own fault.

Where each was reported: docs/field-faults.md, 2.
"""

import json
from types import SimpleNamespace

import pytest

from core.cloud.pool.outcome import OutcomeClass, classify
from core.cloud.provider import ProviderError
from core.cloud.replies.complaint import complaint_of
from core.cloud.replies.limit import Limit
from core.cloud.replies.refusal import told_by
from tests.support.refusals import NOW, SENT, openai

UNSUITED = {
    "openai: context": (
        400,
        openai(
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "context_length_exceeded",
            "messages",
        ),
        Limit.CONTEXT,
        8192,
    ),
    "vllm: context": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 16384 tokens. However, you"
            " requested 122946 tokens (112946 in the messages, 10000 in the completion).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        Limit.CONTEXT,
        16384,
    ),
    "vllm: context, told as a number below one": (
        400,
        {
            "object": "error",
            "message": "max_tokens must be at least 1, got -186.",
            "type": "BadRequestError",
            "code": 400,
        },
        Limit.CONTEXT,
        0,
    ),
    "anthropic: prompt": (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "prompt is too long: 208310 tokens > 200000 maximum"},
        },
        Limit.CONTEXT,
        200_000,
    ),
    "anthropic: prompt and answer": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "input length and"
                " `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
            },
        },
        Limit.CONTEXT,
        200_000,
    ),
    "anthropic: 413 for tokens": (
        413,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "Request size exceeds model context window"},
        },
        Limit.CONTEXT,
        0,
    ),
    "llama.cpp: context": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429,
                "n_ctx": 8192,
            }
        },
        Limit.CONTEXT,
        8192,
    ),
    "llama.cpp: context, with 500": (
        500,
        {
            "error": {
                "code": 500,
                "message": "the request exceeds the available context size.",
                "type": "exceed_context_size_error",
                "n_ctx": 256,
            }
        },
        Limit.CONTEXT,
        256,
    ),
    "gemini: context": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (3475108) exceeds the maximum number of"
                    " tokens allowed (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        Limit.CONTEXT,
        1_048_576,
    ),
    "zhipu: context": (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, Limit.CONTEXT, 0),
    "sglang: context": (
        400,
        {"message": "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."},
        Limit.CONTEXT,
        59_862,
    ),
    "azure: filter, with innererror": (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure"
                " OpenAI's content management policy.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"hate": {"filtered": True}},
                },
            }
        },
        Limit.FILTER,
        0,
    ),
    "azure: filter, without innererror": (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
            }
        },
        Limit.FILTER,
        0,
    ),
    "deepseek: filter": (400, openai("Content Exists Risk", "invalid_request_error"), Limit.FILTER, 0),
    "deepseek: filter, older": (400, {"detail": "Content Exists Risk"}, Limit.FILTER, 0),
    "dashscope: filter": (
        400,
        openai(
            "Input data may contain inappropriate content.", "data_inspection_failed", kind="data_inspection_failed"
        ),
        Limit.FILTER,
        0,
    ),
    "openai: filter of reasoning models": (
        400,
        openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", "invalid_prompt"),
        Limit.FILTER,
        0,
    ),
    "anthropic: bytes": (
        413,
        {"error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}},
        Limit.SIZE,
        0,
    ),
    "a proxy: bytes": (413, "<html><title>413 Request Entity Too Large</title></html>", Limit.SIZE, 0),
    "groq: more than a minute's tokens": (
        413,
        openai(
            "Request too large for model `x` on tokens per minute (TPM): Limit 6000,"
            " Requested 14368, please reduce your message size and try again.",
            "rate_limit_exceeded",
            kind="tokens",
        ),
        Limit.SIZE,
        0,
    ),
    "openai: more than a minute's tokens": (
        429,
        openai(
            "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested"
            " 342389. The input or output tokens must be reduced.",
            "rate_limit_exceeded",
            kind="tokens",
        ),
        Limit.SIZE,
        0,
    ),
    "openrouter: nobody takes images": (
        404,
        {"error": {"message": "No endpoints found that support image input", "code": 404}},
        Limit.FIELD,
        0,
    ),
    "a parameter, told to an SDK": (
        400,
        openai(
            "Unsupported parameter: 'logprobs' is not supported with this model.", "unsupported_parameter", "logprobs"
        ),
        Limit.FIELD,
        0,
    ),
}

SET_UP = {
    "deepseek: model": (400, openai("Model Not Exist", "invalid_request_error")),
    "openai: model": (
        404,
        openai("The model `gpt-9` does not exist or you do not have access to it.", "model_not_found"),
    ),
    "openai: model of a project": (403, openai("Project `x` does not have access to model `gpt-9`", "model_not_found")),
    "copilot: model": (400, openai("The requested model is not supported.", "model_not_supported", "model")),
    "groq: model": (
        400,
        openai("The model `gemma2-9b-it` has been decommissioned and is no longer supported.", "model_decommissioned"),
    ),
    "zhipu: model": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "code": "1211",
                "message": "[1211][模型不存在，请检查模型代码。][20260723]",
            },
        },
    ),
    "z.ai: model": (400, {"error": {"code": "1214", "message": "modelCode: does not exist"}}),
    "ollama: model": (
        404,
        {"error": {"message": 'model "llama9" not found, try pulling it first', "type": "api_error"}},
    ),
    "ollama: model, older, with 400": (400, {"error": "model 'llama9' not found, try pulling it first"}),
}

CALLERS = {
    "an empty message": (
        400,
        openai("Invalid value for 'content': expected a string, got null.", "invalid_type", "messages.[0].content"),
    ),
    "a role that does not exist": (
        400,
        openai(
            "Invalid value: 'banana'. Supported values are: 'system' and 'user'.", "invalid_value", "messages[0].role"
        ),
    ),
    "messages in the wrong order": (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": 'messages: first message must use the "user" role'},
        },
    ),
    "an image that cannot be read": (400, openai("Could not process image", "invalid_image")),
    "a missing field": (422, {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}),
    "text that talks of limits, quoted back": (
        422,
        {
            "detail": [
                {
                    "type": "string_type",
                    "loc": ["body", "messages", 0, "content"],
                    "msg": "Input should be a valid string",
                    "input": "maximum context length, content_filter, unsupported parameter",
                }
            ]
        },
    ),
    "nothing said": (400, ""),
    "nothing said with 422": (422, "{}"),
}


class SdkError(Exception):
    """As openai and anthropic raise it: openai keeps what stands in `error`, anthropic all."""

    def __init__(self, status, body):
        inner = body.get("error") if isinstance(body, dict) else None
        message = inner.get("message") if isinstance(inner, dict) else inner
        super().__init__(f"Error code: {status} - {body}")
        self.message = str(message or body)
        self.status_code = status
        self.body = inner if isinstance(inner, dict) else body
        self.code = inner.get("code") if isinstance(inner, dict) else None
        self.response = SimpleNamespace(status_code=status, headers={})


def both_ways(status, body):
    """The error as our own edge raises it, and as an SDK does."""
    raw = body if isinstance(body, str) else json.dumps(body)
    yield ProviderError("x", kind="status", status=status, told=told_by(status, complaint_of(raw.encode()), SENT))
    if not isinstance(body, str):
        yield SdkError(status, body)
        held = SimpleNamespace(status_code=status, headers={}, _content=raw.encode())
        yield type("HTTPStatusError", (Exception,), {"response": held})("refused")


@pytest.mark.parametrize("case", UNSUITED)
def test_a_request_that_this_endpoint_cannot_serve_is_nobodys_fault(case):
    status, body, limit, window = UNSUITED[case]
    for error in both_ways(status, body):
        outcome = classify(error, NOW)
        assert (outcome.kind, outcome.limit, outcome.window, outcome.same_again) == (
            OutcomeClass.UNSUITED,
            limit,
            window,
            False,
        ), error


@pytest.mark.parametrize("case", SET_UP)
def test_a_model_that_does_not_exist_is_the_endpoints_set_up_whatever_the_status(case):
    for error in both_ways(*SET_UP[case]):
        assert classify(error, NOW).kind is OutcomeClass.ENDPOINT_FAULT, error


@pytest.mark.parametrize("case", CALLERS)
def test_a_request_that_nobody_would_serve_stays_the_callers_fault(case):
    for error in both_ways(*CALLERS[case]):
        assert classify(error, NOW).kind is OutcomeClass.CALLER_FAULT, error
