"""Every error of ours survives pickling, copying and a process pool, with all it carries."""

import concurrent.futures
import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil

import pytest

import core
import server
import utils
from core.cloud.api_manager import ApiEndpoint, ApiManager
from core.cloud.chat import Usage
from core.cloud.pool.attempt_records import AttemptRecord
from core.cloud.pool.outcome import OutcomeClass
from core.cloud.provider import ProviderError
from core.cloud.replies.complaint import complaint_of
from core.cloud.replies.limit import Limit
from core.cloud.replies.refusal import Told
from core.errors import AllEndpointsFailed, HeablcoinError, Permanent, RetryLater, UrlRefused

ARGUMENTS = {
    "message": "what happened, 发生了什么",
    "text": "ValueError: no",
    "fix": "do this",
    "kind": "status",
    "status": 503,
    "code": "overloaded_error",
    "headers": {"retry-after": "7"},
    "partial": "half an ans",
    "detail": "the provider's words",
    "retry_after": 1.5,
    "seconds": 3.0,
    "attempts": (AttemptRecord("a", OutcomeClass.TRANSIENT, "HTTP 503", 0.25, 503),),
    "usage": Usage(3, 4),
    "told": Told(Limit.CONTEXT, 8192),
    "tokens": (3, 4),
    "complaint": complaint_of({"error": {"code": "overloaded_error", "message": "later"}}, "later"),
    "start": '{"rows": [',
    "final": True,
    "timed_out": True,
}


def classes():
    found = set()
    for package in (core, server, utils):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                    if issubclass(kind, BaseException) and kind.__module__.split(".")[0] in {"core", "server", "utils"}:
                        found.add(kind)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def made(kind):
    """An error of that class, with something in every argument."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    named = [one for one in parameters if one.name != "self" and one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}]
    if not named:
        return kind("message")
    positional = [ARGUMENTS[one.name] for one in named if one.kind is not one.KEYWORD_ONLY]
    return kind(*positional, **{one.name: ARGUMENTS[one.name] for one in named if one.kind is one.KEYWORD_ONLY})


ERRORS = classes()


def test_all_errors_are_found():
    assert {ProviderError, UrlRefused, AllEndpointsFailed, RetryLater, Permanent} <= set(ERRORS)
    assert len(ERRORS) > 20


WAYS = {
    **{f"pickle {protocol}": protocol for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def sent(way, error):
    return pickle.loads(pickle.dumps(error, way)) if isinstance(way, int) else way(error)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_it_arrives_as_it_left(kind):
    error = made(kind)
    error.add_note("a note")
    for way in WAYS.values():
        arrived = sent(way, error)
        assert type(arrived) is kind
        assert str(arrived) == str(error)
        assert arrived.args == error.args
        assert vars(arrived) == vars(error)
        assert sent(way, arrived).args == error.args


class TwoWords(Permanent):
    """A user's error whose constructor takes other arguments than `args`."""

    def __init__(self, order: int, *, reason: str) -> None:
        super().__init__(f"Order {order}: {reason}")
        self.order, self.reason = order, reason


class Checked(HeablcoinError):
    """A user's error whose constructor refuses what `args` would give it."""

    def __init__(self, number: int) -> None:
        if number != 7:
            raise ValueError(number)
        super().__init__("seven")
        self.number = number


USERS = {"other arguments": TwoWords(3, reason="no stock"), "a checking constructor": Checked(7)}


@pytest.mark.parametrize("error", USERS.values(), ids=USERS)
def test_a_users_own_error_arrives_as_it_left(error):
    for way in WAYS.values():
        arrived = sent(way, error)
        assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))


def fail(kind):
    raise made(kind)


def ask_in_vain():
    def work(endpoint):
        raise ProviderError(
            "Endpoint a: the answer is HTTP 503.", kind="status", status=503, headers={"retry-after": "1"}
        )

    manager = ApiManager()
    manager.add_endpoint(ApiEndpoint("a", "https://a.example", api_key="sk-secret-secret"))
    manager.call_with_retry(work, max_retries=1)


def test_a_process_pool_goes_on_after_each_error_of_ours():
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for kind in ERRORS:
            with pytest.raises(kind) as caught:
                pool.submit(fail, kind).result(60)
            assert vars(caught.value) == vars(made(kind))
        with pytest.raises(AllEndpointsFailed) as failed:
            pool.submit(ask_in_vain).result(60)
        assert [(each.endpoint, each.status) for each in failed.value.attempts] == [("a", 503)]
        assert "sk-secret" not in repr(failed.value.__reduce__())
        assert pool.submit(abs, -3).result(60) == 3
