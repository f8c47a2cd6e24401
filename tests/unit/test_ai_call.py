"""ai_call: what a payload may say, and what a result holds."""

import pytest

from core.cloud.handlers.ai_call import AnswerNotJsonError, json_of, parse, register_ai_call
from core.cloud.handlers.registry import HandlerRegistry
from core.cloud.handlers.task_context import TaskContext
from core.cloud.pool.attempt_records import AttemptRecord
from core.cloud.pool.chat_call import ChatResult
from core.cloud.pool.outcome import OutcomeClass
from core.cloud.pool.pool import ReportedUsage
from core.errors import AllEndpointsFailed, Permanent


class Pool:
    """Answers with a text, or fails."""

    def __init__(self, text="4", error=None, usable=("a", "b"), finish_reason="stop", reasoning=""):
        self.text, self.error, self.names = text, error, set(usable)
        self.finish_reason, self.reasoning = finish_reason, reasoning
        self.asked = []

    def usable(self):
        return self.names

    def lacking(self, endpoint=""):
        return ""

    def on_usable(self, changed):
        """Its endpoints never change."""

    def gate(self, changed):
        """It has no limits."""

    async def achat(self, messages, *, grant=None, **options):
        self.asked.append((messages, options))
        if self.error:
            raise self.error
        attempts = (
            AttemptRecord("a", OutcomeClass.TRANSIENT, "503", 0.1),
            AttemptRecord("b", OutcomeClass.OK, "", 0.25),
        )
        return ChatResult(
            self.text, "b", "model-1", ReportedUsage(3, 5), 0.01, 0.25, attempts, self.finish_reason, self.reasoning
        )


async def call(pool, payload):
    registry = HandlerRegistry()
    register_ai_call(registry, pool)
    return await registry.require("ai_call").func(payload, TaskContext("t", "ai_call", 1))


async def test_the_result_says_who_answered_and_what_was_tried():
    assert await call(Pool(), {"prompt": "2 + 2"}) == {
        "text": "4",
        "endpoint": "b",
        "model": "model-1",
        "usage": {"tokens_in": 3, "tokens_out": 5},
        "cost": 0.01,
        "latency": 0.25,
        "finish_reason": "stop",
        "attempts": [
            {"endpoint": "a", "outcome": "transient", "reason": "503", "latency": 0.1},
            {"endpoint": "b", "outcome": "ok", "reason": "", "latency": 0.25},
        ],
    }


async def test_options_reach_the_pool_and_unset_ones_do_not():
    pool = Pool()
    await call(pool, {"messages": [{"role": "user", "content": "hi"}], "model": "m", "max_tokens": 9, "system": None})

    assert pool.asked == [([{"role": "user", "content": "hi"}], {"model": "m", "max_tokens": 9})]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (7, "not an object"),
        ({}, "either a prompt or messages"),
        ({"prompt": "a", "messages": []}, "either a prompt or messages"),
        ({"prompt": "a", "promt": "b"}, "does not know 'promt'"),
        ({"prompt": "a", "model": 3}, "model that is not text"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens that is not a number"),
        ({"prompt": "a", "temperature": True}, "temperature that is not a number"),
        ({"prompt": "a", "json": "yes"}, "json that is not true or false"),
        ({"messages": "hello"}, "messages that are not a list"),
    ],
)
def test_a_payload_that_cannot_work_is_refused_for_good(payload, said):
    with pytest.raises(Permanent, match=said):
        parse(payload)


def test_a_text_is_a_prompt_and_an_object_from_another_task_becomes_its_json():
    assert parse("hello") == ("hello", {})
    assert parse({"prompt": {"closes": [1, 2]}}) == ('{"closes":[1,2]}', {})


async def test_json_is_parsed_into_data():
    answer = await call(Pool('```json\n{"sum": 4}\n```'), {"prompt": "2 + 2", "json": True})

    assert answer["data"] == {"sum": 4}


@pytest.mark.parametrize("text", ["four", "", "{", '{"a": NaN}', "[" * 100_000])
def test_what_is_not_json_can_be_asked_again(text):
    with pytest.raises(AnswerNotJsonError):
        json_of(text)


@pytest.mark.parametrize(
    ("finish_reason", "reasoning", "said", "fix"),
    [
        ("length", "Let me see", "all 5 tokens went into reasoning", "raise max_tokens (it was 5)"),
        ("length", "", "all 5 tokens were spent before the first word", "raise max_tokens (it was 5)"),
        ("tool_calls", "", "it called a tool instead", "take the tools out"),
        ("content_filter", "", "the provider filtered it", "put the request otherwise"),
        ("stop", "Let me see", "it stopped (stop) after reasoning", "say in the prompt"),
        ("pause_turn", "", "it stopped (pause_turn)", "say in the prompt"),
    ],
)
async def test_an_answer_without_text_fails_for_good_and_says_what_to_change(finish_reason, reasoning, said, fix):
    pool = Pool(" \n", finish_reason=finish_reason, reasoning=reasoning)

    with pytest.raises(Permanent) as failure:
        await call(pool, {"prompt": "2 + 2", "max_tokens": 5})
    assert said in failure.value.message
    assert "b (model-1)" in failure.value.message
    assert fix in failure.value.fix
    assert len(pool.asked) == 1


async def test_reasoning_stands_beside_the_text():
    answer = await call(Pool(reasoning="2 and 2"), {"prompt": "2 + 2"})

    assert (answer["text"], answer["reasoning"]) == ("4", "2 and 2")


async def test_json_that_the_limit_cut_off_is_not_asked_for_again():
    with pytest.raises(Permanent, match="cut off") as failure:
        await call(Pool('{"sum": ', finish_reason="length"), {"prompt": "2 + 2", "json": True})
    assert "raise max_tokens" in failure.value.fix


async def test_a_failed_pool_passes_its_error_on():
    error = AllEndpointsFailed("all limited", retry_after=12.0)

    with pytest.raises(AllEndpointsFailed) as caught:
        await call(Pool(error=error), {"prompt": "hi"})
    assert caught.value.retry_after == 12.0


def test_a_process_claims_ai_calls_only_for_endpoints_it_has_the_key_of():
    pool = Pool(usable=())
    registry = HandlerRegistry()
    register_ai_call(registry, pool)

    assert registry.capabilities() == set()
    pool.names = {"a"}
    assert registry.capabilities() == {"ai_call", "ai_call:next", "ai_call:wait", "ai_call@a"}
