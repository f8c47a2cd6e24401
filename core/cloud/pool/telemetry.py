"""OpenTelemetry spans of attempts, by the GenAI semantic conventions. Nothing is imported or made unless an exporter is configured."""

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core.cloud.chat import ChatAnswer
from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.outcome import status_of
from core.cloud.replies.token_counts import tokens_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

NAME = "heablcoin-cloud"


def begin(endpoint: ApiEndpoint) -> "Span | None":
    """A span for an attempt that starts now; None when nobody exports spans, or the exporter fails."""
    # Who configures an exporter has imported the API: looking for it costs a dictionary access, importing it would cost milliseconds.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        span: Span = provider.get_tracer(NAME).start_span(
            f"chat {endpoint.model}".strip(), kind=trace.SpanKind.CLIENT, attributes=_request_attributes(endpoint)
        )
        return span
    except Exception:
        log.debug("no span could be started", exc_info=True)
        return None


def end(span: "Span", result: object, error: BaseException | None) -> None:
    """The attempt is over. Of an error only its kind is told: its text may quote a key. Never raises."""
    try:
        if error is None:
            span.set_attributes(_answer_attributes(result))
        else:
            from opentelemetry.trace import Status, StatusCode

            span.set_attribute("error.type", str(status_of(error) or type(error).__name__))
            span.set_status(Status(StatusCode.ERROR))
        span.end()
    except Exception:
        log.debug("a span could not be ended", exc_info=True)


def _request_attributes(endpoint: ApiEndpoint) -> dict[str, Any]:
    address = urlsplit(endpoint.base_url)
    attributes: Mapping[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": endpoint.provider,
        "gen_ai.request.model": endpoint.model,
        "server.address": address.hostname or "",
        "server.port": address.port or (443 if address.scheme == "https" else 80),
        "heablcoin.endpoint": endpoint.name,
    }
    return {name: value for name, value in attributes.items() if value != ""}


def _answer_attributes(result: object) -> dict[str, Any]:
    tokens_in, tokens_out = tokens_of(result)
    attributes: dict[str, Any] = {}
    if tokens_in or tokens_out:
        attributes |= {"gen_ai.usage.input_tokens": tokens_in, "gen_ai.usage.output_tokens": tokens_out}
    if isinstance(result, ChatAnswer):
        attributes |= {"gen_ai.response.model": result.model, "gen_ai.response.finish_reasons": [result.finish_reason]}
    return attributes
