"""Spans of attempts, as an exporter would see them."""

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, Tracer, TracerProvider

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.providers.fake import FakeProvider, FakeStep

KEY = "sk-canary-0123456789"


class RecordedSpan(NonRecordingSpan):
    def __init__(self, name, attributes):
        super().__init__(trace.INVALID_SPAN_CONTEXT)
        self.name, self.attributes, self.status, self.ended = name, dict(attributes), None, False

    def set_attributes(self, attributes):
        self.attributes.update(attributes)

    def set_attribute(self, key, value):
        self.attributes[key] = value

    def set_status(self, status, description=None):
        self.status = status

    def end(self, end_time=None):
        self.ended = True


class Recorder(TracerProvider, Tracer):
    def __init__(self):
        self.spans = []

    def get_tracer(self, *args, **kwargs):
        return self

    def start_span(self, name, context=None, kind=trace.SpanKind.INTERNAL, attributes=None, **kwargs) -> Span:
        assert kind is trace.SpanKind.CLIENT
        self.spans.append(RecordedSpan(name, attributes))
        return self.spans[-1]

    def start_as_current_span(self, *args, **kwargs):
        raise NotImplementedError


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", recorder)
    return recorder


async def test_each_attempt_is_a_span_by_the_genai_conventions(recorder):
    provider = FakeProvider({"a": [FakeStep(status=503)], "b": [FakeStep(tokens_in=7, tokens_out=3)]})
    manager = ApiManager(providers={"openai": provider})
    for priority, name in enumerate("ab"):
        manager.add_endpoint(ApiEndpoint(name, f"https://{name}.example/v1", KEY, "m", priority))
    await manager.achat("Hello")
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "server.port": 443,
    }
    failed, answered = recorder.spans
    assert failed.name == answered.name == "chat m"
    assert failed.attributes == {
        **common,
        "server.address": "a.example",
        "heablcoin.endpoint": "a",
        "error.type": "503",
    }
    assert answered.attributes == {
        **common,
        "server.address": "b.example",
        "heablcoin.endpoint": "b",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
    }
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert failed.status.description is None
    assert failed.ended
    assert answered.ended


def test_a_failure_whose_text_quotes_the_key_leaves_no_trace_of_it(recorder):
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", KEY))

    def work(endpoint):
        raise ConnectionError(endpoint.api_key)

    with pytest.raises(RuntimeError):
        manager.call_with_retry(work, max_retries=1)
    (span,) = recorder.spans
    assert span.attributes["error.type"] == "ConnectionError"
    assert KEY not in str(vars(span))


def test_without_an_exporter_no_span_is_made(monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace.ProxyTracerProvider, "get_tracer", lambda *args: pytest.fail("a span was begun"))
    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "https://a.example"))
    assert manager.call_with_retry(lambda endpoint: 1)[0] == 1
