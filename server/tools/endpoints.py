"""Tools of the API pool: add and remove endpoints, look at them, ask one now."""

from typing import Annotated, Any, Literal, Required, TypedDict, cast

from core.cloud.endpoint import ApiEndpoint
from core.cloud.pool.chat_call import check_has_text
from core.errors import InvalidArgument
from server.answers.records import LimitRow, filled, limit_row
from server.answers.schema import UNTRUSTED
from server.tools.arguments import DEFAULT_WAIT, MAX_WAIT, choice, number, text, whole
from server.tools.tool_registry import READS, REMOVES, REPLACES, STARTS_WORK, ToolCall, Toolset

ENDPOINTS = Toolset("endpoints", "The pool of LLM APIs.")

NAME = "Name of the endpoint."
STRATEGY = "How to choose among endpoints."
WhenLimited = Literal["default", "next", "wait"]
Strategy = Literal["priority", "least_latency", "round_robin", "random", "weighted", "least_busy"]

SEEN = (
    "The key was given in a tool call, so this chat's model and its host's logs have seen it. "
    "Prefer api_key_env, or `heablcoin-cloud set-key {name}` in a terminal; consider replacing the key."
)


def asked_when_limited(said: str) -> str:
    """What a tool's `when_limited` means to the pool: '' for its own setting, which no host's enum can say."""
    return "" if said == "default" else said


class EndpointAdded(TypedDict, total=False):
    """An endpoint that is now in the pool."""

    name: Required[str]
    base_url: Required[str]
    model: Required[str]
    provider: Required[str]
    priority: Required[int]
    max_requests_per_minute: Required[int]
    timeout: Required[float]
    key: Required[Annotated[str, "where the key is, never the key"]]
    usable: Required[Annotated[bool, "false: its key is not to be had in this process"]]
    warnings: list[str]
    next: str


@ENDPOINTS.tool("Add an LLM endpoint", REPLACES)
async def add_api_endpoint(
    call: ToolCall,
    *,
    name: Annotated[str, text("Name to call it by; the same name again replaces it.", least=1, most=100)],
    base_url: Annotated[
        str, text("API address without /chat/completions, e.g. https://api.deepseek.com/v1.", least=1, most=2_000)
    ],
    api_key: Annotated[str, text("The key itself. The model sees it: prefer api_key_env.", most=10_000)] = "",
    model: Annotated[str, text("Model to ask for, e.g. deepseek-chat.", least=1)],
    priority: Annotated[int, whole("1 is preferred over 2.", 0, 1_000_000)] = 1,
    max_requests_per_minute: Annotated[
        int, whole("Exact limit for any 60 s, over all processes; 0: none.", 0, 10**6)
    ] = 60,
    max_tokens_per_minute: Annotated[
        int, whole("Tokens in any 60 s, reserved by an estimate; 0: no limit.", 0, 10**9)
    ] = 0,
    timeout: Annotated[float, number("Seconds one attempt may take.", 0.1, 3600)] = 30.0,
    provider: Annotated[
        Literal["openai", "anthropic", "fake"], choice("Wire format: openai fits all compatible APIs.")
    ] = "openai",
    api_key_env: Annotated[str, text("Environment variable that holds the key, e.g. DEEPSEEK_API_KEY.")] = "",
    weight: Annotated[float, number("Share under strategy weighted.", 0.001, 1_000)] = 1.0,
    max_concurrency: Annotated[int, whole("Calls at once; 0: no limit.", 0, 10_000)] = 0,
    cost_per_million_in: Annotated[float, number("Price of a million prompt tokens.", 0, 10**6)] = 0.0,
    cost_per_million_out: Annotated[float, number("Price of a million answer tokens.", 0, 10**6)] = 0.0,
) -> EndpointAdded:
    """Add an LLM API to the pool or replace the one of that name. Kept over restarts; used by ai_call tasks and call_api."""
    refuse_misplaced_key(call, api_key, name=name, base_url=base_url, model=model, api_key_env=api_key_env)
    refuse_whole_path(base_url)

    def add() -> EndpointAdded:
        manager = call.app.runtime.manager
        endpoint = ApiEndpoint(
            name=name,
            base_url=base_url,
            api_key=api_key,
            model=model,
            priority=priority,
            max_requests_per_minute=max_requests_per_minute,
            max_tokens_per_minute=max_tokens_per_minute,
            timeout=timeout,
            provider=provider,
            api_key_env=api_key_env,
            weight=weight,
            max_concurrency=max_concurrency,
            cost_per_million_in=cost_per_million_in,
            cost_per_million_out=cost_per_million_out,
        )
        warnings = manager.add_endpoint(endpoint)
        call.app.changes.announce()
        kept = call.app.runtime.keys.where() if endpoint.given_key else ""
        return added(manager.get_endpoint(name), name in manager.usable(), kept, warnings)

    return await call.app.store(add)


def refuse_misplaced_key(call: ToolCall, api_key: str, **texts: str) -> None:
    """Raise InvalidArgument when a key stands in an argument that is stored and shown."""
    for argument, value in texts.items():
        if (api_key and api_key in value) or call.app.redact(value) != value:
            raise InvalidArgument(
                f"The {argument} looks like an API key; nothing was added.",
                "pass the key in api_key, or better the name of its environment variable in api_key_env",
            )


def refuse_whole_path(base_url: str) -> None:
    """Raise InvalidArgument for the address of one method of an API, to which the same path would be added again."""
    bare = base_url.strip().rstrip("/")
    for path in ("/chat/completions", "/completions", "/responses", "/messages"):
        if bare.endswith(path):
            raise InvalidArgument(
                f"The base_url ends in {path}; nothing was added.",
                "pass it without that, up to the API's version such as /v1; the rest of the path is added to each call",
            )


def added(endpoint: ApiEndpoint, usable: bool, kept: str, warnings: list[str]) -> EndpointAdded:
    """What the caller is told of a new endpoint: everything but the key. `kept`: where a key that was given is."""
    told = list(warnings)
    if kept:
        told.append(SEEN.format(name=endpoint.name))
    if not usable:
        told.append(
            f"This process has no key for it, so it is not used. Set {endpoint.api_key_env or 'api_key_env'} where the"
            f" server starts, or run `heablcoin-cloud set-key {endpoint.name}`."
        )
    answer: EndpointAdded = {
        "name": endpoint.name,
        "base_url": endpoint.base_url,
        "model": endpoint.model,
        "provider": endpoint.provider,
        "priority": endpoint.priority,
        "max_requests_per_minute": endpoint.max_requests_per_minute,
        "timeout": endpoint.timeout,
        "key": f"given, kept in the {kept}"
        if kept
        else f"from ${endpoint.api_key_env}"
        if endpoint.api_key_env
        else "none",
        "usable": usable,
        "next": "call_api tries it; get_api_manager_stats shows it"
        if usable
        else "tell the user what is missing (see warnings); tasks may be published meanwhile, they wait for the key",
    }
    if told:
        answer["warnings"] = told
    return answer


class EndpointRemoved(TypedDict):
    """An endpoint that is no longer in the pool."""

    removed: str
    remaining: list[str]


@ENDPOINTS.tool("Remove an LLM endpoint", REMOVES)
async def remove_api_endpoint(call: ToolCall, name: Annotated[str, text(NAME, least=1, most=100)]) -> EndpointRemoved:
    """Take an endpoint out of the pool and forget its stored key."""

    def remove() -> EndpointRemoved:
        manager = call.app.runtime.manager
        manager.remove_endpoint(name)
        call.app.changes.announce()
        return {"removed": name, "remaining": sorted(endpoint.name for endpoint in manager.endpoints)}

    return await call.app.store(remove)


class EndpointStats(TypedDict, total=False):
    """One endpoint in figures; more than these where there is more to tell."""

    status: Required[Annotated[str, "active, degraded, failed or rate_limited"]]
    success_rate: Required[str]
    avg_latency: Required[str]
    rate_limit: Required[Annotated[str, "used in the last 60 s / allowed"]]
    token_limit: Annotated[str, "tokens reserved or used in the last 60 s / allowed, where it has such a limit"]
    last_error: Annotated[str, UNTRUSTED]
    adapted: Annotated[list[str], "what its requests are changed by, because it refuses it"]


class PoolStats(TypedDict, total=False):
    """The pool in figures."""

    total_endpoints: Required[int]
    rate_limit: Annotated[str, "of the whole pool, where it has a limit"]
    endpoints: Required[dict[str, EndpointStats]]
    waiting_for_limits: list[LimitRow]
    next: str


@ENDPOINTS.tool("API statistics", READS)
async def get_api_manager_stats(call: ToolCall) -> PoolStats:
    """Show every endpoint: status, success rate, latency, rate limit, tokens, cost, cool-down left, last error."""
    stats = await call.app.store(call.app.runtime.manager.get_stats)
    waiting = await call.app.store(call.app.runtime.publisher.waiting_for_limits)
    told = pruned(dict(stats))
    if waiting:
        told["waiting_for_limits"] = [limit_row(each) for each in waiting]
    told.setdefault("endpoints", {})
    if not told["endpoints"]:
        told["next"] = "the pool is empty; add_api_endpoint adds an endpoint"
    return cast(PoolStats, told)


def pruned(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics without what is unknown or empty, and limits that are not set, at any depth."""
    limited = {name: value for name, value in stats.items() if value or not name.startswith("max_")}
    whole = {name: pruned(value) if isinstance(value, dict) else value for name, value in limited.items()}
    return cast(dict[str, Any], filled(whole))


class StatsReset(TypedDict):
    """Whose figures start anew."""

    reset: list[str]


@ENDPOINTS.tool("Reset API statistics", REMOVES)
async def reset_api_stats(
    call: ToolCall, name: Annotated[str, text("Only this endpoint; empty: all.", most=100)] = ""
) -> StatsReset:
    """Set the statistics of one or all endpoints to zero and end their cool-downs."""

    def reset() -> StatsReset:
        manager = call.app.runtime.manager
        manager.reset_stats(name or None)
        call.app.changes.announce()
        return {"reset": [name] if name else sorted(endpoint.name for endpoint in manager.endpoints)}

    return await call.app.store(reset)


class Usage(TypedDict):
    """Tokens a call was charged for."""

    tokens_in: int
    tokens_out: int


class ChatAnswer(TypedDict, total=False):
    """An LLM's answer."""

    text: Required[Annotated[str, UNTRUSTED]]
    endpoint: Required[str]
    model: Required[str]
    usage: Required[Usage]
    cost: float
    latency: Required[Annotated[float, "seconds"]]
    finish_reason: str
    reasoning: Annotated[str, UNTRUSTED]
    attempts: Annotated[list[str], UNTRUSTED]
    adapted: Annotated[list[str], "fields left out or sent otherwise: the endpoint refuses them"]


@ENDPOINTS.tool("Ask an LLM of the pool", STARTS_WORK)
async def call_api(
    call: ToolCall,
    *,
    prompt: Annotated[str, text("What to ask.", least=1, most=1_000_000)],
    system: Annotated[str, text("System message.", most=100_000)] = "",
    model: Annotated[str, text("Model instead of the endpoint's own.")] = "",
    endpoint: Annotated[str, text("Only this endpoint; empty: any.", most=100)] = "",
    strategy: Annotated[Strategy, choice(STRATEGY)] = "priority",
    when_limited: Annotated[
        WhenLimited, choice("At a rate limit of the best endpoint: ask the next, or wait for it.")
    ] = "default",
    max_tokens: Annotated[int, whole("Most tokens to answer; 0: the provider's default.", 0, 10**6)] = 0,
    temperature: Annotated[float, number("0 to 2; -1: the model's default.", -1, 2)] = -1.0,
    json: Annotated[bool, choice("Ask for one JSON object.")] = False,
    timeout: Annotated[float, number("Seconds in all, fail-over included.", 1, MAX_WAIT)] = DEFAULT_WAIT,
) -> ChatAnswer:
    """Ask an LLM of the pool now and return its answer, failing over between endpoints.

    For longer answers publish an ai_call task instead: a call here ends after 55 s.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    answer = await call.app.runtime.manager.achat(
        messages,
        model=model,
        endpoint=endpoint,
        strategy=strategy,
        when_limited=asked_when_limited(when_limited),
        max_tokens=max_tokens or None,
        temperature=None if temperature < 0 else temperature,
        json=json,
        deadline=timeout,
    )
    call.app.changes.announce()
    check_has_text(answer, max_tokens)
    told: ChatAnswer = {
        "text": answer.text,
        "endpoint": answer.endpoint,
        "model": answer.model,
        "usage": {"tokens_in": answer.usage.tokens_in, "tokens_out": answer.usage.tokens_out},
        "latency": round(answer.latency, 3),
    }
    if answer.cost:
        told["cost"] = answer.cost
    if answer.finish_reason:
        told["finish_reason"] = answer.finish_reason
    if answer.reasoning:
        told["reasoning"] = answer.reasoning
    if answer.adapted:
        told["adapted"] = list(answer.adapted)
    if len(answer.attempts) > 1:
        told["attempts"] = [str(attempt) for attempt in answer.attempts]
    return told
