"""Requests that an endpoint refuses in part: changed, asked again at once, remembered. Over real HTTP."""

import asyncio
import json
import logging
from functools import partial

import pytest

from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.handlers.ai_call import as_result, register_ai_call
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.provider import ProviderError
from core.cloud.store.database import Database
from core.cloud.store.sqlite_pool_state import SqlitePoolState
from core.errors import AllEndpointsFailed, Permanent
from tests.support.llm_server import Step
from tests.support.waiting import wait_until

KEY = "sk-canary-0123456789"


def refusing(message, param=None, code="unsupported_parameter", status=400):
    body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
    return Step(status=status, raw=json.dumps(body).encode())


MAX_TOKENS = refusing(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "max_tokens",
)
TEMPERATURE = refusing(
    "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
    "temperature",
    "unsupported_value",
)
JSON_MODE = refusing("'response_format' of type 'json_object' is not supported with this model.", "response_format")
CONTEXT = refusing("This model's maximum context length is 8192 tokens.", "messages", "context_length_exceeded")
FILTER = refusing("The response was filtered.", "prompt", "content_filter")


@pytest.fixture
def manager():
    manager = ApiManager()
    yield manager
    manager.close()


def add(manager, server, name, *steps, priority=1, key=KEY, **settings):
    server.script(name, *(steps or (Step(text=f"from {name}"),)))
    manager.add_endpoint(ApiEndpoint(name, server.base_url(name), key, "m", priority=priority, **settings))


def bodies(server, name):
    return [arrival.body for arrival in server.arrivals(name)]


def row(manager, name="first"):
    return manager.get_stats()["endpoints"][name]


async def collected(stream):
    return [chunk async for chunk in stream]


async def test_a_refused_parameter_is_renamed_and_asked_again_at_the_same_endpoint_at_once(manager, llm_server, caplog):
    add(manager, llm_server, "first", MAX_TOKENS, Step(text="hello"))
    add(manager, llm_server, "second", priority=2)
    with caplog.at_level(logging.WARNING):
        result = await manager.achat("hi", max_tokens=50, max_retries=1)
        await manager.achat("hi", max_tokens=60)
    assert (result.endpoint, result.text, result.adapted) == ("first", "hello", ("max_tokens",))
    sent = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in bodies(llm_server, "first")]
    assert sent == [(50, None), (None, 50), (None, 60)]
    assert not llm_server.arrivals("second")
    assert [attempt.outcome for attempt in result.attempts] == ["unsuited", "ok"]
    assert (row(manager)["status"], row(manager)["failures"], row(manager)["success_rate"]) == ("active", 0, "100.0%")
    assert row(manager)["adapted"] == ["max_tokens sent as max_completion_tokens"]
    told = [record for record in caplog.records if "max_completion_tokens" in record.getMessage()]
    assert len(told) == 1
    assert KEY not in caplog.text


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_both_formats_adapt_whole_answers_and_streams(manager, llm_server, provider, way):
    add(manager, llm_server, "first", TEMPERATURE, Step(text="one two"), provider=provider)
    if way == "whole":
        result = await manager.achat("hi", temperature=0.2)
        text, adapted = result.text, result.adapted
    else:
        chunks = await collected(manager.astream("hi", temperature=0.2))
        text, adapted = "".join(chunk.text for chunk in chunks), chunks[-1].adapted
    assert (text, adapted) == ("one two", ("temperature",))
    assert ["temperature" in body for body in bodies(llm_server, "first")] == [True, False]
    assert (await manager.achat("hi")).adapted == (), "nothing was left out of a request that had none of it"


async def test_several_refusals_one_after_the_other_cost_no_attempt(manager, llm_server):
    steps = (
        MAX_TOKENS,
        TEMPERATURE,
        refusing("Unknown parameter: 'top_p'.", "top_p", "unknown_parameter"),
        Step(text="at last"),
    )
    add(manager, llm_server, "first", *steps, extra_body={"top_p": 0.9})
    result = await manager.achat("hi", max_tokens=5, temperature=0.2, max_retries=1)
    assert result.text == "at last"
    assert set(result.adapted) == {"max_tokens", "temperature", "top_p"}
    assert set(bodies(llm_server, "first")[-1]) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_server_that_goes_on_refusing_what_was_left_out_is_asked_no_more(manager, llm_server, provider):
    add(manager, llm_server, "first", TEMPERATURE, provider=provider)
    add(manager, llm_server, "second", priority=2)
    assert (await manager.achat("hi", temperature=0.2)).endpoint == "second"
    assert len(llm_server.arrivals("first")) == 2
    assert row(manager)["status"] == "active"


async def test_a_server_that_renames_in_circles_is_asked_a_few_times_only(manager, llm_server):
    back = refusing("Unrecognized request argument supplied: max_completion_tokens. Use 'max_tokens' instead.")
    add(manager, llm_server, "first", *[MAX_TOKENS, back] * 20)
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hi", max_tokens=5)
    assert len(llm_server.arrivals("first")) <= 5


async def test_the_system_role_is_folded_into_the_users_message(manager, llm_server):
    refused = refusing(
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role"
    )
    add(manager, llm_server, "first", refused, Step())
    result = await manager.achat([{"role": "user", "content": "hi"}], system="Be brief.")
    assert bodies(llm_server, "first")[1]["messages"] == [{"role": "user", "content": "Be brief.\n\nhi"}]
    assert result.adapted == ("system role",)


async def test_json_is_asked_of_the_others_first_and_left_out_where_none_can(manager, llm_server):
    add(manager, llm_server, "first", JSON_MODE, Step(text="{}"))
    add(manager, llm_server, "second", JSON_MODE, Step(status=503), priority=2)
    result = await manager.achat("hi", json=True, max_retries=2)
    assert (result.endpoint, result.adapted) == ("first", ("response_format",))
    assert [attempt.endpoint for attempt in result.attempts] == ["first", "second", "first"]
    last = bodies(llm_server, "first")[-1]
    assert "response_format" not in last
    assert "JSON" in json.dumps(last["messages"]), "it is asked for in words"


async def test_an_endpoint_that_cannot_do_json_is_asked_last_for_it_and_in_turn_for_all_else(manager, llm_server):
    add(manager, llm_server, "first", JSON_MODE, Step(text="{}"))
    add(manager, llm_server, "second", priority=2)
    assert [(await manager.achat("hi", json=True)).endpoint for _ in range(3)] == ["second"] * 3
    assert len(llm_server.arrivals("first")) == 1, "it is known from the first refusal on"
    assert (await manager.achat("hi")).endpoint == "first"
    llm_server.script("second", Step(status=500))
    result = await manager.achat("hi", json=True)
    assert (result.endpoint, result.adapted) == ("first", ("response_format",))
    only = await manager.achat("hi", json=True, endpoint="first")
    assert only.adapted == ("response_format",)


async def test_a_schema_in_the_endpoints_own_settings_is_not_left_out_but_a_fault_of_them(manager, llm_server):
    add(manager, llm_server, "first", JSON_MODE, extra_body={"response_format": {"type": "json_schema"}})
    add(manager, llm_server, "second", priority=2)
    result = await manager.achat("hi")
    assert (result.endpoint, result.attempts[0].outcome) == ("second", "endpoint_fault")
    assert "extra_body" in result.attempts[0].reason
    assert row(manager)["adapted"] == []


async def test_each_request_that_is_asked_again_takes_a_slot_of_the_limit(manager, llm_server):
    add(manager, llm_server, "first", TEMPERATURE, Step(text="hello"), max_requests_per_minute=1)
    add(manager, llm_server, "second", priority=2)
    assert (await manager.achat("hi", temperature=0.2)).endpoint == "second"
    assert len(llm_server.arrivals("first")) == 1
    assert row(manager)["rate_limit"] == "1/1"


async def test_what_one_model_refuses_is_not_left_out_for_another(manager, llm_server):
    add(manager, llm_server, "first", TEMPERATURE, Step(text="hello"))
    assert (await manager.achat("hi", temperature=0.2, model="o9")).adapted == ("temperature",)
    assert (await manager.achat("hi", temperature=0.2)).adapted == ()
    assert (await manager.achat("hi", temperature=0.2, model="o9")).adapted == ("temperature",)
    assert ["temperature" in body for body in bodies(llm_server, "first")] == [True, False, True, False]
    assert row(manager)["adapted"] == ["temperature left out (o9)"]


async def test_a_context_window_of_another_model_is_not_taken_for_the_endpoints_own(manager, llm_server):
    add(manager, llm_server, "first", CONTEXT, Step())
    add(manager, llm_server, "second", CONTEXT, Step(), priority=2)
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hi", model="small")
    assert [manager._pool.get(name).window for name in ("first", "second")] == [0, 0]


@pytest.mark.parametrize("way", ["whole", "stream"])
async def test_an_answer_that_was_filtered_away_sends_the_call_on_and_blames_nobody(manager, llm_server, way):
    add(manager, llm_server, "first", Step(fault="empty", finish_reason="content_filter"))
    add(manager, llm_server, "second", priority=2)
    if way == "whole":
        assert (await manager.achat("hi")).endpoint == "second"
    else:
        assert (await collected(manager.astream("hi")))[-1].endpoint == "second"
    assert (row(manager)["status"], row(manager)["outcomes"]) == ("active", {"unsuited": 1})


async def test_a_hedge_that_is_refused_is_mended_while_the_first_is_still_at_work(manager, llm_server):
    gate = llm_server.gate()
    add(manager, llm_server, "first", Step(text="slow", gate=gate))
    add(manager, llm_server, "second", TEMPERATURE, Step(text="fast"), priority=2)
    asked = asyncio.ensure_future(manager.achat("hi", temperature=0.2, hedge_after=0.02))
    await asyncio.to_thread(llm_server.wait_for_arrivals, 1, "second")
    gate.open()
    assert (await asked).text in {"slow", "fast"}
    assert (row(manager, "second")["status"], row(manager, "second")["in_flight"]) == ("active", 0)


async def test_a_function_of_the_users_own_goes_to_the_next_endpoint(manager, llm_server):
    class BadRequestError(Exception):
        status_code = 400
        body = json.loads(TEMPERATURE.raw)["error"]

    for name in ("first", "second"):
        add(manager, llm_server, name, priority=1 if name == "first" else 2)

    def ask(endpoint):
        if endpoint.name == "first":
            raise BadRequestError("Error code: 400")
        return "ok"

    assert manager.call_with_retry(ask)[1].name == "second"
    assert row(manager)["status"] == "active"


def test_an_ai_call_tells_what_was_left_out(llm_server):
    with ApiManager() as manager:
        add(manager, llm_server, "first", TEMPERATURE, Step(text="hello"))
        answer = manager.chat("hi", temperature=0.2)
        assert as_result(answer, wants_json=False)["adapted"] == ["temperature"]
        assert "adapted" not in as_result(manager.chat("hi"), wants_json=False)


class Sharing:
    """Managers on one database, as several processes have them."""

    def __init__(self, path):
        self.path, self.opened = str(path), []

    def manager(self):
        database = Database(self.path)
        store = SqlitePoolState(database)
        manager = ApiManager(store)
        self.opened.append((manager, store, database))
        return manager

    def close(self):
        for manager, store, database in self.opened:
            manager.close()
            store.close()
            database.close()


@pytest.fixture
def sharing(tmp_path):
    shared = Sharing(tmp_path / "pool.db")
    yield shared
    shared.close()


def test_another_process_knows_what_one_has_learned_until_the_endpoint_is_changed(sharing, llm_server, caplog):
    mine, theirs = sharing.manager(), sharing.manager()
    add(mine, llm_server, "first", Step(text="hello"), key="")
    assert theirs.chat("hi").adapted == ()
    llm_server.script("first", TEMPERATURE, Step(text="hello"))
    assert mine.chat("hi", temperature=0.2).adapted == ("temperature",)
    wait_until(lambda: row(theirs)["adapted"] == ["temperature left out"], "the other process to know")
    sent = len(llm_server.arrivals("first"))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert theirs.chat("hi", temperature=0.2).adapted == ("temperature",)
    assert len(llm_server.arrivals("first")) == sent + 1
    assert not caplog.records, "it was in the log of the process that found it"
    later = sharing.manager()
    assert later.chat("hi", temperature=0.2).adapted == ("temperature",)

    add(theirs, llm_server, "first", Step(text="hello"), key="")
    assert row(theirs)["adapted"] == []
    wait_until(lambda: row(mine)["adapted"] == [], "the other process to forget")
    assert mine.chat("hi", temperature=0.2).adapted == ()
    assert bodies(llm_server, "first")[-1]["temperature"] == 0.2


def test_what_is_learned_of_settings_that_were_changed_meanwhile_is_not_kept(sharing, llm_server):
    mine, theirs = sharing.manager(), sharing.manager()
    add(mine, llm_server, "first", TEMPERATURE, Step(text="hello"), key="")
    old = mine._pool.get("first")
    theirs.add_endpoint(ApiEndpoint("first", llm_server.base_url("first"), model="another model"))
    mine.chat("hi", temperature=0.2)
    assert old.endpoint.adapted or mine._pool.get("first") is not old
    assert row(theirs)["adapted"] == []
    mine.close()
    assert row(theirs)["adapted"] == []


def test_a_private_pool_forgets_when_the_endpoint_is_added_again_or_removed(manager, llm_server):
    add(manager, llm_server, "first", TEMPERATURE, Step(text="hello"))
    manager.chat("hi", temperature=0.2)
    assert row(manager)["adapted"]
    manager.add_endpoint(manager.get_endpoint("first"))
    assert row(manager)["adapted"] == []
    manager.remove_endpoint("first")
    add(manager, llm_server, "first")
    assert row(manager)["adapted"] == []


# Item 2: requests that one endpoint cannot serve


@pytest.mark.parametrize("way", ["whole", "stream"])
@pytest.mark.parametrize("refused", [CONTEXT, FILTER], ids=["context", "filter"])
async def test_a_request_that_one_endpoint_cannot_serve_goes_to_the_next_and_blames_nobody(
    manager, llm_server, refused, way
):
    add(manager, llm_server, "first", refused)
    add(manager, llm_server, "second", priority=2)
    for _ in range(4):
        if way == "whole":
            assert (await manager.achat("hi")).endpoint == "second"
        else:
            assert (await collected(manager.astream("hi")))[-1].endpoint == "second"
    stats = row(manager)
    assert (stats["status"], stats["failures"], stats["cooldown_seconds"]) == ("active", 0, 0.0)
    assert stats["outcomes"] == {"unsuited": 4}


async def test_a_filter_that_speaks_up_in_a_stream_sends_the_call_on_and_blames_nobody(manager, llm_server):
    error = {"error": {"message": "The response was filtered.", "code": "content_filter"}}
    event = f"data: {json.dumps(error)}\n\n".encode()
    add(manager, llm_server, "first", Step(raw=event, content_type="text/event-stream"))
    add(manager, llm_server, "second", priority=2)
    assert (await collected(manager.astream("hi")))[-1].endpoint == "second"
    assert (row(manager)["status"], row(manager)["outcomes"]) == ("active", {"unsuited": 1})


@pytest.mark.parametrize(
    ("refused", "limit", "fix"),
    [
        (CONTEXT, "context window", "larger context window"),
        (FILTER, "content filter", "another provider"),
        (Step(status=413, raw=b"{}"), "too large", "send less"),
        (refusing("Unsupported parameter: 'logprobs'.", "logprobs"), "field", "leave out"),
    ],
    ids=["context", "filter", "size", "field"],
)
async def test_when_all_refuse_the_error_says_which_limit_and_what_to_change(manager, llm_server, refused, limit, fix):
    for name in ("first", "second"):
        add(manager, llm_server, name, refused)
    with pytest.raises(AllEndpointsFailed) as failure:
        await manager.achat("hi", max_retries=5)
    assert limit in failure.value.message.partition("\n")[0]
    assert fix in failure.value.fix
    assert failure.value.retry_after is None
    assert isinstance(failure.value.__cause__, ProviderError)
    assert [len(llm_server.arrivals(name)) for name in ("first", "second")] == [1, 1]


async def test_the_one_endpoint_that_can_is_asked_however_many_refuse_before_it(manager, llm_server):
    for number in range(6):
        add(manager, llm_server, f"small-{number}", FILTER, priority=number)
    add(manager, llm_server, "able", priority=9)
    assert (await manager.achat("hi", max_retries=2)).endpoint == "able"
    with pytest.raises(AllEndpointsFailed):
        await manager.achat("hi", max_retries=1)


async def test_a_task_whose_request_no_endpoint_can_serve_is_not_tried_again(manager, llm_server):
    registry = HandlerRegistry()
    register_ai_call(registry, manager)
    ask = partial(registry.require("ai_call").func, context=TaskContext("t", "ai_call", 1))
    add(manager, llm_server, "first", CONTEXT)
    with pytest.raises(Permanent, match="context window"):
        await ask({"prompt": "hi"})
    add(manager, llm_server, "second", Step(status=401), priority=2)
    with pytest.raises(AllEndpointsFailed) as failure:
        await ask({"prompt": "hi"})
    assert not failure.value.final
    with pytest.raises(AllEndpointsFailed) as failure:
        await ask({"prompt": "hi"})
    assert not failure.value.final, "the second is only held"


async def test_a_request_that_is_too_long_goes_to_a_larger_window_and_not_to_a_smaller_one(manager, llm_server):
    add(manager, llm_server, "first", CONTEXT)
    add(manager, llm_server, "unknown", priority=2)
    add(manager, llm_server, "small", priority=2, context_window=4096)
    add(manager, llm_server, "large", priority=3, context_window=100_000)
    result = await manager.achat("hi")
    assert (result.endpoint, len(result.attempts)) == ("large", 2)
    llm_server.script("large", Step(status=500))
    llm_server.script("unknown", CONTEXT)
    with pytest.raises(AllEndpointsFailed) as failure:
        await manager.achat("hi", max_retries=3)
    assert not llm_server.arrivals("small")
    assert "context window of 4096 tokens" in str(failure.value)


async def test_a_wrong_model_is_the_endpoints_set_up_and_one_that_the_call_named_is_not(manager, llm_server):
    wrong = refusing("Model Not Exist", None, "invalid_request_error")
    add(manager, llm_server, "first", wrong)
    add(manager, llm_server, "second", priority=2)
    result = await manager.achat("hi")
    assert (result.endpoint, row(manager)["status"]) == ("second", "failed")
    add(manager, llm_server, "first", wrong)
    result = await manager.achat("hi", model="gpt-99")
    assert (result.endpoint, row(manager)["status"]) == ("second", "active")
    with pytest.raises(AllEndpointsFailed) as failure:
        await manager.achat("hi", model="gpt-99", endpoint="first")
    assert "leave model out" in failure.value.fix


@pytest.mark.parametrize("status", [400, 422])
async def test_a_400_that_is_the_callers_is_raised_at_once_and_costs_one_request(manager, llm_server, status):
    add(manager, llm_server, "first", refusing("Could not process image.", None, "invalid_image", status))
    add(manager, llm_server, "second", priority=2)
    with pytest.raises(ProviderError):
        await manager.achat("hi", temperature=0.2)
    assert [len(llm_server.arrivals(name)) for name in ("first", "second")] == [1, 0]
    assert row(manager)["status"] == "active"


def test_context_windows_are_whole_numbers_of_tokens():
    for value in (-1, 1.5, True, "8k"):
        with pytest.raises(ValueError, match="context_window"):
            ApiEndpoint("a", "https://a.example", context_window=value)
