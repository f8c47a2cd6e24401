"""An endpoint of the pool: where an LLM API is, what it costs, how much it may be used. Pure."""

import copy
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, urlsplit

from core.cloud.keys.key_text import check_key, judged, stripped
from core.cloud.replies.adaptation import Adaptation
from core.errors import InvalidArgument, KeyUnusable, UrlRefused
from core.json_types import Json, dumps
from core.network.headers import header_fault
from core.network.url import parse_url

NAME = re.compile(r"[^\W_][\w.:/@-]{0,99}")
"""Letters and digits of any script."""
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SECRET_WORD = re.compile(
    r"authorization|cookie|secret|passw|credential|(^|[-_])(api)?-?_?(keys?|token)($|[-_])", re.IGNORECASE
)
UNFIT = re.compile(r"""["<>^`{|}]""")
"""What RFC 3986 allows nowhere in a URL; here it is mostly a placeholder such as `{account_id}`."""
MOST_COST = 1e12
LOCAL_PROVIDERS = frozenset({"fake"})
"""Providers that send nothing over a network, so that `base_url` may be anything."""


class ApiStatus(StrEnum):
    """How an endpoint is doing."""

    ACTIVE = "active"
    DEGRADED = "degraded"
    """Recent failures; still used, after the sound ones."""
    FAILED = "failed"
    """Not used, but for one probe at a time after a growing cool-down."""
    RATE_LIMITED = "rate_limited"
    """Not used until its limit lets the next request through."""


@dataclass(frozen=True)
class ApiEndpoint:
    """One API that can answer a call. The fields up to `timeout` are the guide's, in its order.

    Every value is checked when it is made: InvalidArgument names the field. The key is no dataclass field, so `repr`,
    `asdict`, `==` and logs never show it; `endpoint.api_key` gives it to whoever makes the request.
    """

    name: str
    """Letters, digits and `._:/@-`, up to 100."""
    base_url: str
    """Up to and without `/chat/completions`, such as `https://api.openai.com/v1`."""
    if TYPE_CHECKING:
        api_key: str = ""
    else:
        # An argument that is no field, and beside it an attribute of the same name (the property) that is not stored.
        api_key: InitVar[str] = ""

        @property
        def api_key(self) -> str:  # noqa: F811
            """The key: from `api_key_env` when that is set here, else the one given; '' when there is none.

            Raises KeyUnusable when the one found is no key that a request can carry.
            """
            return self.known_key()

    model: str = ""
    priority: int = 1
    """1 is preferred over 2. Any whole number."""
    max_requests_per_minute: int = 60
    """In any 60 seconds, over all processes that share the store; 0 means no limit."""
    timeout: float = 30.0
    """Seconds one attempt may take, above 0."""
    provider: str = "openai"
    """The wire format: `openai` (and everything compatible), `anthropic`, `fake`."""
    api_key_env: str = ""
    """Environment variable that holds the key; read each time, and preferred over any other source."""
    weight: float = 1.0
    """Share of the calls under `weighted` and `least_busy`, above 0."""
    max_concurrency: int = 0
    """Calls at the same time, over all processes that share the store; 0 means no limit."""
    cost_per_million_in: float = 0.0
    """Price of a million prompt tokens, in any one currency."""
    cost_per_million_out: float = 0.0
    max_requests_per_day: int = 0
    """Per UTC day; 0 means no limit. The same holds for the two below, which calls already under way may overshoot."""
    max_tokens_per_day: int = 0
    max_cost_per_day: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """Sent with each request. They are stored, so those that carry a secret are refused."""
    extra_body: Mapping[str, Json] = field(default_factory=dict, repr=False, hash=False)
    """Merged into each request's JSON body."""
    context_window: int = 0
    """Tokens the model takes in all; 0 where it is not known. A request that is too long for one endpoint goes to those with a larger one."""
    max_tokens_per_minute: int = 0
    """Prompt and answer together, in any 60 seconds, over all processes that share the store; 0 means no limit. Reserved by an estimate
    before a call (exact if it sets `max_tokens`), corrected after it."""
    adapted: ClassVar[tuple[Adaptation, ...]] = ()
    """What its requests are changed by, because it refuses them otherwise: learned, no setting."""

    def __post_init__(self, api_key: object = "") -> None:  # noqa: RUF033 - the argument is an InitVar at run time
        # Without an argument the default is what the class attribute is by then: the property below.
        given = "" if isinstance(api_key, property) else api_key
        if not isinstance(given, str):
            raise InvalidArgument(
                "The api_key must be text.", "pass the key itself, or name its variable in api_key_env"
            )
        key, taken_off = stripped(given) if given.strip() else ("", ())
        object.__setattr__(self, "_key", _Secret(key, taken_off=taken_off))
        if self.provider not in LOCAL_PROVIDERS:
            object.__setattr__(self, "base_url", str(self.base_url).strip().rstrip("/"))
        for name in ("timeout", "weight", "cost_per_million_in", "cost_per_million_out", "max_cost_per_day"):
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
        _check(self)

    def known_key(self) -> str:
        """What `api_key` gives."""
        key, wrong, where = self._found()
        if wrong:
            del key  # no traceback that shows local variables may show it
            raise KeyUnusable(f"The key {where} {wrong}.", "copy it again from the provider, alone and whole")
        return key

    @property
    def found_key(self) -> str:
        """The key that was found, whether or not it can be used: for keeping it out of texts, and to know that there is one."""
        return self._found()[0]

    def _found(self) -> tuple[str, str, str]:
        """The key, what is wrong with it, and where it is, in words."""
        if self.api_key_env:
            key, wrong = judged(os.environ.get(self.api_key_env, ""))
            if key or wrong:
                self._secret.found(key)
                return key, wrong, f"in the environment variable {self.api_key_env}" if wrong else ""
        secret = self._secret
        key, wrong = judged(secret.kept())
        if key or wrong:
            secret.found(key)
            return key, wrong, f"that is kept for {self.name}" if wrong else ""
        secret.found(secret.given())
        return secret.given(), "", ""

    @property
    def key_version(self) -> int:
        """A number that has grown when another key was found than the time before. In this process only; it says nothing about the key."""
        version: int = self._key.version  # type: ignore[attr-defined]
        return version

    @property
    def key_note(self) -> str:
        """What was taken off the key that was given, in words; '' when it was given as it is."""
        return " and ".join(self._secret.taken_off)

    @property
    def given_key(self) -> str:
        """The key given directly, wherever else one may be found; '' when there is none."""
        return self._secret.given()

    def with_key_from(self, kept: Callable[[], str]) -> "ApiEndpoint":
        """The same endpoint, whose key `kept` is asked for each time; it goes before a key given directly."""
        other = copy.copy(self)
        object.__setattr__(other, "_key", _Secret(self.given_key, kept, self._secret.taken_off))
        return other

    def adapted_by(self, adaptations: tuple[Adaptation, ...]) -> "ApiEndpoint":
        """The same endpoint, whose requests are changed by `adaptations`."""
        if adaptations == self.adapted:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "adapted", adaptations)
        return other

    @property
    def _secret(self) -> "_Secret":
        secret: _Secret = self._key  # type: ignore[attr-defined]
        return secret

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What this many tokens cost here; never more than MOST_COST, whatever the figures and the prices."""
        try:
            cost = (tokens_in * self.cost_per_million_in + tokens_out * self.cost_per_million_out) / 1_000_000
        except OverflowError:
            return MOST_COST
        return min(MOST_COST, cost)


class _Secret:
    """A key that shows itself only when asked to; neither printing nor pickling it tells it."""

    __slots__ = ("_given", "_kept", "_latest", "taken_off", "version")

    def __init__(self, given: str, kept: Callable[[], str] | None = None, taken_off: tuple[str, ...] = ()) -> None:
        self._given, self._kept, self.taken_off = given, kept, taken_off
        self._latest: str | None = None
        self.version = 0

    def given(self) -> str:
        return self._given

    def kept(self) -> str:
        return self._kept() if self._kept is not None else ""

    def found(self, key: str) -> None:
        """The key is this one now."""
        if key != self._latest:
            if self._latest is not None:
                self.version += 1
            self._latest = key

    def __repr__(self) -> str:
        return "<key>" if self._given or self._kept else "<no key>"

    def __deepcopy__(self, memo: object) -> "_Secret":
        return self

    def __reduce__(self) -> tuple[type["_Secret"], tuple[str]]:
        return _Secret, ("",)


def is_whole(value: object) -> bool:
    """A whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check(endpoint: ApiEndpoint) -> None:
    for name in ("name", "base_url", "model", "provider", "api_key_env"):
        if not isinstance(getattr(endpoint, name), str):
            raise InvalidArgument(f"The endpoint's {name} must be text.", f"pass {name} as a str")
    if not NAME.fullmatch(endpoint.name):
        raise InvalidArgument(
            f"An endpoint cannot be named {endpoint.name[:40]!r}.",
            "use 1 to 100 letters, digits and ._:/@- (starting with a letter or digit)",
        )
    if not NAME.fullmatch(endpoint.provider):
        raise InvalidArgument(f"There is no provider {endpoint.provider[:40]!r}.", "use openai or anthropic")
    if len(endpoint.model) > 200 or any(ord(char) < 32 for char in endpoint.model):
        raise InvalidArgument(
            "The model name must be one line of at most 200 characters.",
            "give it as the provider writes it, such as deepseek-chat",
        )
    if endpoint.api_key_env and not ENV_NAME.fullmatch(endpoint.api_key_env):
        # The value is not repeated: somebody may have put the key itself there.
        raise InvalidArgument(
            "api_key_env must be the name of an environment variable.",
            "pass a name such as OPENAI_API_KEY; the key itself goes into api_key",
        )
    if endpoint.given_key or endpoint.key_note:
        check_key(endpoint.given_key, "The api_key")
    _check_numbers(endpoint)
    _check_url(endpoint)
    _check_headers(endpoint.headers)
    _check_body(endpoint.extra_body)


def _check_numbers(endpoint: ApiEndpoint) -> None:
    for name, least in (
        ("priority", -1_000_000),
        ("max_requests_per_minute", 0),
        ("max_concurrency", 0),
        ("max_requests_per_day", 0),
        ("max_tokens_per_day", 0),
        ("max_tokens_per_minute", 0),
        ("context_window", 0),
    ):
        value = getattr(endpoint, name)
        if not is_whole(value) or not least <= value <= 10**12:
            raise InvalidArgument(
                f"{name} must be a whole number of at least {least}, not {value!r}.", f"pass an int of {least} or more"
            )
    for name in ("timeout", "weight"):
        value = getattr(endpoint, name)
        if not (isinstance(value, float) and 0 < value <= 1e6):
            raise InvalidArgument(
                f"{name} must be a number above 0 (and at most 1,000,000), not {value!r}.", "pass a number such as 30"
            )
    for name in ("cost_per_million_in", "cost_per_million_out", "max_cost_per_day"):
        value = getattr(endpoint, name)
        if not (isinstance(value, float) and 0 <= value < math.inf):
            raise InvalidArgument(f"{name} must be a number of at least 0, not {value!r}.", "pass 0 or more")


def _check_url(endpoint: ApiEndpoint) -> None:
    if endpoint.provider in LOCAL_PROVIDERS:
        return
    fix = "pass the API's address up to and without /chat/completions, such as https://api.openai.com/v1"
    try:
        parse_url(endpoint.base_url)
    except UrlRefused as error:
        raise InvalidArgument(f"base_url must be an http or https URL. {error.message}", error.fix or fix) from None
    parts = urlsplit(endpoint.base_url)
    if "#" in endpoint.base_url:
        raise InvalidArgument("base_url must not hold a fragment (#...).", "remove everything from the # on")
    if unfit := sorted(set(UNFIT.findall(parts.path + parts.query))):
        raise InvalidArgument(
            f"base_url holds {' '.join(unfit)}, which no URL does.",
            "put the real values where it has placeholders, and percent-encode what is left",
        )
    if any(SECRET_WORD.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise InvalidArgument(
            "base_url must not hold a key.", "pass the key in api_key, or its variable's name in api_key_env"
        )


def _check_headers(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise InvalidArgument("headers must be an object of texts.", 'pass for example {"x-title": "my app"}')
    seen: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(
                "headers must have texts as names and values.", 'pass for example {"x-title": "my app"}'
            )
        if wrong := header_fault(name, value):
            raise InvalidArgument(f"headers: {name[:40]!r} {wrong}.", "leave it out, or correct it")
        if name.lower() in seen:
            raise InvalidArgument(f"headers: {name[:40]!r} is there twice.", "keep one of them")
        seen.add(name.lower())
        if SECRET_WORD.search(name):
            raise InvalidArgument(
                f"headers: {name[:40]!r} looks like a secret, and headers are stored.",
                "pass the key in api_key, or its variable's name in api_key_env",
            )


def _check_body(body: object) -> None:
    if not isinstance(body, Mapping):
        raise InvalidArgument("extra_body must be an object.", 'pass for example {"top_p": 0.9}')
    dumps(dict(body), "extra_body")
