"""What publish() accepts and refuses."""

import math
from datetime import date

import pytest

from core.cloud.queue.submission import Submission, from_arguments, new_graph, new_task
from core.cloud.task import TaskPriority
from core.errors import DependencyCycle, InvalidArgument

NOW = 1_750_000_000.0


def check(**arguments):
    return new_task(Submission(**{"name": "work", **arguments}), "f" * 16, NOW)


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def holds_itself():
    value = {"inner": []}
    value["inner"].append(value)
    return value


def test_a_name_alone_is_enough():
    task = check()
    assert (task.name, task.payload, task.priority, task.tags, task.depends_on) == ("work", "{}", 2, (), ())
    assert (task.timeout, task.run_at, task.expires_at, task.max_retries) == (None, None, None, 3)


@pytest.mark.parametrize(
    ("given", "field", "kept"),
    [
        ({"priority": TaskPriority.URGENT}, "priority", 4),
        ({"tags": "a, b ,,a"}, "tags", ("a", "b")),
        ({"tags": ["x", "x", "y"]}, "tags", ("x", "y")),
        ({"tags": None}, "tags", ()),
        ({"depends_on": "t1, t2"}, "depends_on", ("t1", "t2")),
        ({"depends_on": ["t1", "t1"]}, "depends_on", ("t1",)),
        ({"delay": 5}, "run_at", NOW + 5),
        ({"delay": 0}, "run_at", None),
        ({"expires_in": 0.5}, "expires_at", NOW + 0.5),
        ({"timeout": 604_800}, "timeout", 604_800.0),
        ({"max_retries": 0}, "max_retries", 0),
        ({"idempotency_key": ""}, "idempotency_key", None),
        ({"payload": [1, "é"]}, "payload", '[1,"é"]'),
        ({"payload": nested(100)}, "payload", "[" * 100 + "1" + "]" * 100),
        ({"payload": "x" * 1_048_574}, "payload", '"' + "x" * 1_048_574 + '"'),
        ({"name": "日本 語"}, "name", "日本 語"),
        ({"payload": {"x": math.nan}}, "payload", '{"x":null}'),
        ({"payload": {"x": -math.inf}}, "payload", '{"x":null}'),
        ({"payload": {"x": "\ud800"}}, "payload", '{"x":"\ufffd"}'),
        ({"payload": {1}}, "payload", "[1]"),
        ({"payload": b"bytes"}, "payload", '"bytes"'),
        ({"payload": {"day": date(2026, 11, 25)}}, "payload", '{"day":"2026-11-25"}'),
    ],
)
def test_what_can_be_used_is_kept(given, field, kept):
    assert getattr(check(**given), field) == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "name must be"),
        ({"name": "   "}, "name must be"),
        ({"name": "x" * 101}, "name must be"),
        ({"name": "a\nb"}, "name must be"),
        ({"name": "a\u2028b"}, "name must be"),
        ({"name": 5}, "name must be"),
        ({"name": "\ud800"}, "half a character"),
        ({"payload": object()}, "payload cannot be written"),
        ({"payload": {"x": ValueError}}, "payload cannot be written"),
        ({"payload": "x" * 1_048_575}, "1,048,577 bytes"),
        ({"payload": "é" * 600_000}, "1,200,002 bytes"),
        ({"payload": nested(101)}, "deeper than 100"),
        ({"payload": nested(5000)}, "deeper than 100"),
        ({"payload": nested(100_000)}, "deeper than 100"),
        ({"payload": holds_itself()}, "deeper than 100"),
        ({"priority": 0}, "priority must be"),
        ({"priority": 5}, "priority must be"),
        ({"priority": "3"}, "whole number"),
        ({"priority": True}, "whole number"),
        ({"priority": 2.0}, "whole number"),
        ({"tags": ["a,b"]}, "cannot be used"),
        ({"tags": [" a"]}, "cannot be used"),
        ({"tags": [""]}, "cannot be used"),
        ({"tags": [5]}, "cannot be used"),
        ({"tags": ["x" * 101]}, "cannot be used"),
        ({"tags": [str(n) for n in range(51)]}, "at most 50 tags"),
        ({"tags": {"a": 1}}, "not a list"),
        ({"tags": 7}, "not a list"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": 604_801}, "at most 604,800"),
        ({"timeout": "60"}, "number of seconds"),
        ({"timeout": math.nan}, "number of seconds"),
        ({"expires_in": 0}, "expires_in is 0"),
        ({"expires_in": math.inf}, "number of seconds"),
        ({"delay": -0.1}, "0 or more"),
        ({"delay": 1e12}, "at most"),
        ({"max_retries": -1}, "0 to 100"),
        ({"max_retries": 101}, "0 to 100"),
        ({"max_retries": 1.5}, "whole number"),
        ({"depends_on": [1]}, "not a task id"),
        ({"depends_on": [""]}, "not a task id"),
        ({"depends_on": 5}, "not a list"),
        ({"depends_on": [str(n) for n in range(10_001)]}, "at most 10,000"),
        ({"idempotency_key": "x" * 201}, "idempotency key"),
        ({"idempotency_key": 5}, "idempotency key"),
        ({"on_dependency_failure": "panic"}, "no on_dependency_failure"),
        ({"payload": "${0123456789abcdef}"}, "not among the task's dependencies"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_fix(given, message):
    with pytest.raises(InvalidArgument, match=message) as refused:
        check(**given)
    assert refused.value.fix


def test_an_unknown_argument_is_refused_by_name_with_the_known_ones():
    with pytest.raises(InvalidArgument, match=r"'colour'.*does not know") as refused:
        from_arguments({"name": "x", "colour": "red"}, "Task 3")
    assert "payload" in refused.value.fix
    with pytest.raises(InvalidArgument, match="Task 3 has no name"):
        from_arguments({}, "Task 3")
    with pytest.raises(InvalidArgument, match="not an object"):
        from_arguments(["x"], "Task 3")


@pytest.mark.parametrize(
    ("name", "payload", "capability"),
    [
        ("work", {"endpoint": "x"}, "work"),
        ("ai_call", {"prompt": "hi"}, "ai_call"),
        ("ai_call", {"endpoint": "openai"}, "ai_call@openai"),
        ("ai_call", {"endpoint": ""}, "ai_call"),
        ("ai_call", {"endpoint": "${HOME}"}, "ai_call"),
        ("ai_call", ["endpoint"], "ai_call"),
    ],
)
def test_a_call_bound_to_an_endpoint_needs_a_process_that_has_it(name, payload, capability):
    assert check(name=name, payload=payload).capability == capability


def graph(**tasks):
    said = {key: from_arguments({"name": "work", **arguments}, key) for key, arguments in tasks.items()}
    return dict(new_graph(said, {key: f"{index:016x}" for index, key in enumerate(tasks)}, NOW))


def test_local_keys_become_ids_in_dependencies_and_references():
    made = graph(b={"depends_on": ["a", "c" * 16], "payload": {"x": "${a.rows} $${a} $${HOME}"}}, a={})
    assert list(made) == ["a", "b"]
    assert made["b"].depends_on == ("0000000000000001", "c" * 16)
    assert made["b"].payload == '{"x":"${0000000000000001.rows} $${a} $${HOME}"}'


def test_a_reference_to_a_task_of_the_graph_that_is_no_dependency_is_refused_by_key():
    with pytest.raises(InvalidArgument, match=r"Task 'b': .*\$\{a\}"):
        graph(a={}, b={"payload": "${a}"})


def test_a_bad_value_deep_in_a_graph_names_its_task():
    with pytest.raises(InvalidArgument, match="Task 'b': timeout"):
        graph(a={}, b={"timeout": -1})
    with pytest.raises(DependencyCycle):
        graph(a={"depends_on": ["b"]}, b={"depends_on": ["a"]})
    with pytest.raises(InvalidArgument, match="local key 'a b'"):
        graph(**{"a b": {}})
