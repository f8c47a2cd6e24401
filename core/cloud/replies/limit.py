"""Why a server would not serve a request, read from its error: a limit of this endpoint, its model, a field it does not take. Pure."""

import re
from collections.abc import Callable
from enum import StrEnum

from core.cloud.replies.complaint import Complaint


class Limit(StrEnum):
    """What about an endpoint keeps it from serving a request that is in order."""

    NONE = ""
    CONTEXT = "context"
    """The request is longer than the model's context window."""
    FILTER = "filter"
    """A content filter refused it."""
    SIZE = "size"
    """Too large in bytes, or for the account's tokens a minute: no wait helps."""
    FIELD = "field"
    """It names a field, value or role that this endpoint does not take."""
    MODEL = "model"
    """The endpoint's model does not exist there."""
    CALLED_MODEL = "called_model"
    """The model that the call named does not exist there."""
    SETTING = "setting"
    """A field of the endpoint's own extra_body is refused, and it cannot be left out."""


WHY = {
    Limit.CONTEXT: "the request is longer than its context window",
    Limit.FILTER: "its content filter refused the request",
    Limit.SIZE: "the request is too large for it",
    Limit.FIELD: "it does not take a field of the request",
    Limit.MODEL: "it does not have the model",
    Limit.CALLED_MODEL: "it does not have the model that the call names",
    Limit.SETTING: "it refuses a field of its extra_body",
}
"""For the reader."""

FIXES = {
    Limit.CONTEXT: "shorten the messages, lower max_tokens, or add an endpoint whose model has a larger context window",
    Limit.FILTER: "change what the messages say, or add an endpoint of another provider",
    Limit.SIZE: "send less (shorter messages, smaller images, lower max_tokens), or add an endpoint with higher limits",
    Limit.FIELD: "leave out what the endpoint does not take, or add an endpoint that takes it",
    Limit.MODEL: "correct the endpoint's model: add it again with one that its provider offers",
    Limit.CALLED_MODEL: "leave model out to use each endpoint's own, or name one that they have",
    Limit.SETTING: "add the endpoint again without the field in extra_body that it refuses",
}
"""What the reader can do about it."""

REFUSALS = frozenset({400, 403, 404, 406, 413, 414, 422, 429, 451, 500})
"""Statuses whose body may tell of a limit."""

_CONTEXT_CODES = re.compile(r"context_length|context_size|context_window|max_length_exceeded|^1261$", re.IGNORECASE)
_CONTEXT = re.compile(
    r"maximum context|context[ _-]?(?:length|window|size|limit)|prompt (?:is )?too long|prompt exceeds"
    r"|input (?:is|was) too long|input length\b.{0,60}\bexceed|input tokens? exceed|input token count\b.{0,40}\bexceeds"
    r"|too many (?:input )?tokens|exceed(?:s|ed)? (?:the )?(?:model(?:'s)? )?(?:maximum )?(?:allowed )?(?:number of )?(?:input )?token"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)|requested tokens \(\d+\) exceed|range of input length should be"
    r"|max_tokens must be at least 1, got -|上下文|超过.{0,12}长度|长度超过|输入过长|超长",
    re.IGNORECASE,
)
_FILTER_CODES = re.compile(
    r"content_?filter|content_?policy|data_?inspection|invalid_prompt|prohibited_content|responsibleai|moderation"
    r"|content_blocked|safety_violation|^1301$",
    re.IGNORECASE,
)
_FILTER = re.compile(
    r"content (?:management|safety|usage) polic|content[ _]filter|content exists risk|inappropriate content|usage polic"
    r"|datainspectionfailed|flagged as|input was flagged|considered high risk|rejected (?:by|as a result of) (?:the|our) safety"
    r"|prohibited content|requires moderation|敏感|不安全|违规",
    re.IGNORECASE,
)
_SIZE_CODES = re.compile(r"request_too_large|payload_too_large|entity_too_large", re.IGNORECASE)
_SIZE = re.compile(
    r"request (?:is )?too large|(?:payload|entity|body) (?:is )?too large|request exceeds the maximum size"
    r"|exceeds the maximum (?:request|payload|body) size",
    re.IGNORECASE,
)
_MODEL_CODES = re.compile(
    r"model_?(?:not_?found|not_?supported|decommissioned|unavailable|not_exist)|(?:invalid|unknown|unsupported)_?model"
    r"|deployment_?not_?found|^1211$",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"\bmodel not exist|try pulling it|not a valid model|no such model|(?:unknown|invalid|unsupported) model\b"
    r"|\bmodel(?:code)?\b(?:(?! with | for | on )[^.\n]){0,80}?(?:does not exist|do not exist|not exist\b|(?:is |was )?not found"
    r"|(?:is |are )?not supported|has been (?:decommissioned|deprecated|removed|retired)|is no longer (?:available|supported)|is not available)"
    r"|does not work with the specified model|模型不存在|模型.{0,20}不存在",
    re.IGNORECASE,
)
_FIELD_CODES = re.compile(
    r"^(?:unsupported|unknown|unrecognized|unexpected|extra)_?(?:parameter|value|field|argument|forbidden|keyword)s?$",
    re.IGNORECASE,
)
REFUSED = re.compile(
    r"unsupported (?:param|parameter|value|field|argument)|requires --jinja|(?:not|n't|un) ?(?:yet |currently )?(?:be )?support|unrecogni[sz]ed"
    r"|unknown (?:parameter|name|field|argument|variant|key)|extra (?:inputs|fields) (?:are )?not permitted|not permitted"
    r"|not allowed|additional propert|unexpected (?:keyword|field|argument|property|message role)|cannot find field"
    r"|is deprecated|no longer (?:supported|accepted)|is unavailable|not available|only the default|only \S{1,20} is allowed"
    r"|can(?:not|'t) both be|may only be set to|is not enabled|invalid role|unexpected role|is not one of|invalid enum value"
    r"|does not match any of the expected tags|roles? (?:are|must)|response_format\.type' must be|不支持|不允许|未知参数",
    re.IGNORECASE,
)
"""Words that refuse what was sent, rather than find fault with its value."""

_NOT_BUILT_IN = re.compile(r"unsupported param: |param requires --jinja", re.IGNORECASE)
"""llama.cpp's words, said with 500."""
_NO_PROVIDER = re.compile(r"no endpoints found that", re.IGNORECASE)
"""OpenRouter's word for a model of which nobody takes the request's fields."""
_WINDOW = re.compile(
    r"maximum context length (?:is|of) (\d+)|tokens? > (\d+) maximum|context size \((\d+)|tokens allowed \((\d+)"
    r"|context limit: \d+ \+ \d+ > (\d+)|token limit: (\d+)|maximum allowed length \((\d+)|input length should be \[1, ?(\d+)"
    r"|context window of (\d+)|maximum input length is (\d+)",
    re.IGNORECASE,
)


def limit_of(status: int, complaint: Complaint) -> Limit:
    """Which limit an error tells of; NONE when it tells of none."""
    if status not in REFUSALS:
        return Limit.NONE
    return next((limit for limit, statuses, tells in _TELLS if status in statuses and tells(complaint)), Limit.NONE)


def _is_context(complaint: Complaint) -> bool:
    return _any(_CONTEXT_CODES, complaint) or bool(_CONTEXT.search(complaint.text))


def _is_filter(complaint: Complaint) -> bool:
    return _any(_FILTER_CODES, complaint) or bool(_FILTER.search(complaint.text))


def _is_size(complaint: Complaint) -> bool:
    return _any(_SIZE_CODES, complaint) or bool(_SIZE.search(complaint.text))


def _is_model_code(complaint: Complaint) -> bool:
    return _any(_MODEL_CODES, complaint)


def _is_model(complaint: Complaint) -> bool:
    return bool(_MODEL.search(complaint.text))


def _is_field(complaint: Complaint) -> bool:
    return _any(_FIELD_CODES, complaint) or _refuses_field(complaint)


_INVALID = frozenset({400, 422})
_TELLS: tuple[tuple[Limit, frozenset[int], Callable[[Complaint], bool]], ...] = (
    # A request that never fits is no matter of waiting, whatever its status says.
    (Limit.SIZE, frozenset({429}), lambda complaint: bool(_SIZE.search(complaint.text))),
    (Limit.CONTEXT, frozenset({400, 413, 414, 422, 500}), _is_context),
    (Limit.FILTER, frozenset({451}), lambda _: True),
    (Limit.FILTER, frozenset({400, 403, 422}), _is_filter),
    (Limit.SIZE, frozenset({413, 414}), lambda _: True),
    (Limit.SIZE, _INVALID, _is_size),
    (Limit.MODEL, frozenset({400, 403, 404, 406, 422}), _is_model_code),
    (Limit.FIELD, _INVALID, _is_field),
    (Limit.FIELD, frozenset({500}), lambda complaint: bool(_NOT_BUILT_IN.search(complaint.text))),
    (Limit.FIELD, frozenset({404}), lambda complaint: bool(_NO_PROVIDER.search(complaint.text))),
    (Limit.MODEL, frozenset({400, 403, 404, 406, 422}), _is_model),
)
"""In this order; the first that applies."""


def _refuses_field(complaint: Complaint) -> bool:
    text = complaint.text
    if any(kind == "extra_forbidden" for kind, _ in complaint.places) or _PLAIN_REFUSAL.search(text):
        return True
    named = [
        param for param in complaint.params if param.endswith("role") or not param.startswith(("messages", "model"))
    ]
    return bool(named and REFUSED.search(text))


_PLAIN_REFUSAL = re.compile(
    r"unsupported (?:param|parameter|value)\b|requires --jinja|unrecognized request argument|argument not supported|unknown parameter"
    r"|unknown name \"|property '[^']{1,60}' is unsupported|extra inputs are not permitted"
    r"|(?:system|developer) (?:role|messages?|prompts?|instruction)s? (?:is |are )?not (?:supported|enabled)"
    r"|does(?: not|n't) support (?:the )?(?:parameter|system|developer|image|vision|audio|video|tool|function)"
    r"|(?:image|vision|audio|video|file|tool|function)s?(?: input| call(?:s|ing)?| use)?s? (?:is |are )?not supported"
    r"|can(?:not|'t) both be specified|is deprecated for this model",
    re.IGNORECASE,
)


def _any(pattern: re.Pattern[str], complaint: Complaint) -> bool:
    return any(pattern.search(code) for code in complaint.codes)


def window_of(complaint: Complaint) -> int:
    """Tokens of the context window that an error names, 0 when it names none."""
    match = _WINDOW.search(complaint.text)
    found = next((int(number) for number in match.groups() if number), 0) if match else 0
    return min(complaint.window or found, 10**9)
