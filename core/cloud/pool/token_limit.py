"""An exact limit of tokens a minute: what a call may take is reserved before it and corrected after it. Pure.

A reservation counts from its start for one window, with what was estimated, and from the call's end on with what it took. A call starts
when the reservations that count and its own estimate stay within the limit together; else the same figures say when they will. So a call
that takes no more than its estimate never makes a window hold more than the limit; one that takes more delays those after it.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, nextafter
from typing import TYPE_CHECKING

from core.cloud.pool.outcome import ALIVE, OutcomeClass
from core.cloud.pool.rate_limit import WINDOW
from core.cloud.pool.tally import Report

if TYPE_CHECKING:
    from core.cloud.chat import ChatRequest
    from core.cloud.endpoint import ApiEndpoint

BYTES_PER_TOKEN = 3
"""Of text in UTF-8. English has more (about 4), Chinese as many, so that an estimate is rather too high than too low."""
TOKENS_PER_MESSAGE = 4
"""For its role and separators."""
TOKENS_PER_PART = 1_500
"""For a part of a message that is no text, such as an image."""
FIRST_ANSWER = 500
FIRST_CALL = 1_000
"""Tokens that are reserved for what nothing is known of, before the endpoint answered for the first time."""
NEWEST = 0.1
"""Weight of the newest call in moving averages."""
LOOK_AGAIN = 0.1
"""Seconds after which a caller looks whether calls under way ended with fewer tokens than reserved; those of its own process wake it."""
_OUTPUT_FIELDS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Need:
    """What a request may take, as far as it says."""

    tokens_in: int
    tokens_out: int = 0
    """0 where it sets no bound."""


def need_of(request: "ChatRequest") -> Need:
    """From the length of its texts and its max_tokens."""
    tokens = sum(_tokens_of_message(message) for message in request.messages)
    if request.system:
        tokens += TOKENS_PER_MESSAGE + tokens_of_text(request.system)
    return Need(tokens, request.max_tokens or 0)


def need_of_task(payload: object) -> Need:
    """Of an `ai_call` as it was published: what the results hold that it refers to is not known yet."""
    if not isinstance(payload, Mapping):
        return Need(TOKENS_PER_MESSAGE + tokens_of_text(str(payload)))
    messages, system = payload.get("messages"), payload.get("system")
    listed = messages if isinstance(messages, list) else [{"content": str(payload.get("prompt", ""))}]
    tokens = sum(_tokens_of_message(one) for one in listed if isinstance(one, Mapping))
    if isinstance(system, str) and system:
        tokens += TOKENS_PER_MESSAGE + tokens_of_text(system)
    return Need(tokens, _whole(payload.get("max_tokens")))


def tokens_of_text(text: str) -> int:
    """About how many tokens a text has."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return ceil(size / BYTES_PER_TOKEN)


def _tokens_of_message(message: Mapping[str, object]) -> int:
    tokens = TOKENS_PER_MESSAGE
    for name, value in message.items():
        if isinstance(value, str):
            tokens += tokens_of_text(value) if name != "role" else 0
        elif name == "content" and isinstance(value, Sequence):
            tokens += sum(_tokens_of_part(part) for part in value)
        elif value is not None:
            tokens += tokens_of_text(str(value))
    return tokens


def _tokens_of_part(part: object) -> int:
    text = part.get("text") if isinstance(part, Mapping) else part
    return tokens_of_text(text) if isinstance(text, str) else TOKENS_PER_PART


class Average:
    """A moving average, and how far from it the figures were."""

    __slots__ = ("mean", "spread")

    def __init__(self) -> None:
        self.mean = self.spread = 0.0

    def add(self, figure: int) -> None:
        if not self.mean:
            self.mean, self.spread = float(figure), figure / 2
            return
        self.spread += NEWEST * (abs(figure - self.mean) - self.spread)
        self.mean += NEWEST * (figure - self.mean)

    def guess(self, first: int) -> int:
        """What the next one will hardly exceed; `first` before there was any."""
        return ceil(self.mean + 2 * self.spread) if self.mean else first


class Habits:
    """What an endpoint's calls took lately, in this process."""

    __slots__ = ("answers", "calls")

    def __init__(self) -> None:
        self.answers, self.calls = Average(), Average()

    def learn(self, report: Report) -> None:
        if report.outcome.kind is OutcomeClass.OK and report.tokens_in + report.tokens_out:
            self.answers.add(report.tokens_out)
            self.calls.add(report.tokens_in + report.tokens_out)


def estimate(need: Need | None, habits: Habits, endpoint: "ApiEndpoint") -> int:
    """Tokens to reserve for a call of `endpoint`; `need` is None where nothing is known of the request.

    More than the endpoint's limit only where the request itself says so: a guess is no reason to refuse a call, nor to have it wait until
    nothing else counts. So a guess takes half the limit at most.
    """
    limit = endpoint.max_tokens_per_minute
    half = max(1, limit // 2)
    if need is None:
        return min(half, habits.calls.guess(FIRST_CALL))
    bounds = [need.tokens_out, *(_whole(endpoint.extra_body.get(name)) for name in _OUTPUT_FIELDS)]
    certain = need.tokens_in + max(bounds)
    if max(bounds) or certain > limit:
        return certain
    return max(certain, min(half, certain + habits.answers.guess(FIRST_ANSWER)))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def taken(report: Report) -> int | None:
    """What a call took, now that it is over; None when nobody knows, so that what was reserved stays.

    One that never left, or that its server refused, took nothing unless it says otherwise.
    """
    told = report.tokens_in + report.tokens_out
    outcome = report.outcome
    if told or outcome.kind is OutcomeClass.OK:
        return told or None
    refused = outcome.kind in ALIVE or outcome.kind is OutcomeClass.ENDPOINT_FAULT or outcome.status >= 400
    return 0 if refused or outcome.unsent or outcome.kind is OutcomeClass.LOCAL_FAULT else None


def opens_at(
    reserved: Iterable[tuple[float, int, bool]], excess: int, now: float, window: float, *, loose: int
) -> float:
    """When `excess` tokens will be free, of reservations (when, how much, whether its call is under way) from the oldest on.

    Exact when no call is under way. Of the `loose` tokens of those that are, the end of a call may free some at any moment: then it is
    time to look again before. Looks at no more reservations than have to leave the window.
    """
    left = settled = 0
    soonest = now if loose >= excess else None
    for at, tokens, under_way in reserved:
        left += tokens
        settled += 0 if under_way else tokens
        if soonest is None and loose + settled >= excess:
            soonest = at + window
        if left >= excess:
            exact = max(at + window, nextafter(now, inf))
            return exact if soonest is None or soonest >= exact else min(exact, max(soonest, now + LOOK_AGAIN))
    return now + window


@dataclass(slots=True)
class _Reservation:
    at: float
    tokens: int
    under_way: bool = True


class TokenWindow:
    """The reservations of one process, for one endpoint."""

    __slots__ = ("_by_call", "_in_order", "_loose", "_used", "window")

    def __init__(self, window: float = WINDOW) -> None:
        self.window = window
        self._in_order: deque[tuple[int, _Reservation]] = deque()
        self._by_call: dict[int, _Reservation] = {}
        self._used = 0
        self._loose = 0
        """Of calls under way."""

    def used(self, now: float) -> int:
        """Tokens that count now."""
        while self._in_order and self._in_order[0][1].at + self.window <= now:
            call, reservation = self._in_order.popleft()
            self._used -= reservation.tokens
            self._loose -= reservation.tokens if reservation.under_way else 0
            del self._by_call[call]
        return self._used

    def opens(self, tokens: int, limit: int, now: float) -> float:
        """When so many may be reserved: `now` or earlier when they may at once."""
        excess = self.used(now) + tokens - limit
        if excess <= 0:
            return now
        rows = ((one.at, one.tokens, one.under_way) for _, one in self._in_order)
        return opens_at(rows, excess, now, self.window, loose=self._loose)

    def reserve(self, call: int, tokens: int, now: float) -> None:
        """Only after `opens` said that they may be."""
        reservation = self._by_call[call] = _Reservation(now, tokens)
        self._in_order.append((call, reservation))
        self._used += tokens
        self._loose += tokens

    def correct(self, call: int, tokens: int | None) -> None:
        """The call is over and took so many; None: nobody knows."""
        reservation = self._by_call.get(call)
        if reservation is not None and reservation.under_way:
            reservation.under_way = False
            self._loose -= reservation.tokens
            if tokens is not None:
                self._used += tokens - reservation.tokens
                reservation.tokens = tokens

    def begin_anew(self) -> None:
        """In a forked child: the calls under way are the parent's, and their ends are never told here."""
        self._loose = 0
        for reservation in self._by_call.values():
            reservation.under_way = False
