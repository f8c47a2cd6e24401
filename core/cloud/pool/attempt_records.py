"""The attempts of one pool call, and the error that tells about them."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.cloud.pool.outcome import OutcomeClass
from core.cloud.replies.limit import FIXES, WHY, Limit
from core.errors import AllEndpointsFailed

KEYLESS = "its key is not known to this process"
STAYS = 'not asked: when_limited="wait" stays with the endpoints of a lower priority number'
SMALLER = (
    "send less (shorter messages, lower max_tokens), or add the endpoint again with a higher max_tokens_per_minute."
)

MOST_SKIPPED = 20
"""Skipped endpoints that are listed; of more, the rest is counted."""


@dataclass(slots=True)  # not frozen: that takes several times as long to make
class AttemptRecord:
    """One attempt of a call, for the reader."""

    endpoint: str
    outcome: OutcomeClass
    reason: str
    """'' for a success; never holds a key."""
    latency: float
    """Seconds."""
    status: int = 0
    """HTTP status, 0 when there was none."""
    hedged: bool = False
    """It was a second call beside one that was slow."""
    limit: Limit = Limit.NONE
    """What about the endpoint kept it from serving the request."""

    def __reduce__(self) -> tuple[object, ...]:
        # The oldest pickle protocols know nothing of slots.
        return type(self), tuple(getattr(self, name) for name in self.__slots__)

    def __str__(self) -> str:
        beside = " (beside a slow one)" if self.hedged else ""
        return f"{self.endpoint}{beside}: {self.outcome} after {self.latency:.2f}s{': ' if self.reason else ''}{self.reason}"


def exhausted(
    attempts: tuple[AttemptRecord, ...],
    skipped: Mapping[str, str],
    retry_after: float | None,
    *,
    later: bool = True,
    too_large: bool = False,
) -> AllEndpointsFailed:
    """The error for a call that nobody answered: one line per attempt and per endpoint that was not asked.

    `later`: an endpoint that was not asked may serve the call at another time. `too_large`: some endpoint's tokens a minute are fewer than
    the call may take.
    """
    lines = [f"  {number}. {record}" for number, record in enumerate(attempts, 1)]
    names = list(skipped)
    lines += [f"  - {name}: {skipped[name]}" for name in names[:MOST_SKIPPED]]
    if len(names) > MOST_SKIPPED:
        lines.append(f"  - and {len(names) - MOST_SKIPPED} more")
    if not lines:
        return AllEndpointsFailed("The pool has no endpoint to ask.", "add one with add_endpoint.")
    count = len(attempts)
    never = not later and (bool(refusals_of(attempts)) or (too_large and not attempts))
    head = (
        f"No endpoint answered after {count} attempt{'' if count == 1 else 's'}{_limits(attempts)}:"
        if count
        else "No endpoint can take the call now:"
    )
    return AllEndpointsFailed(
        "\n".join([head, *lines]),
        SMALLER if never and not attempts else _fix(attempts, skipped, retry_after),
        attempts=attempts,
        retry_after=retry_after,
        final=never,
    )


def refusals_of(attempts: tuple[AttemptRecord, ...]) -> list[AttemptRecord]:
    """Each endpoint's last attempt, where all have refused the request for a limit of theirs; else nothing."""
    last = {record.endpoint: record for record in attempts}
    refused = all(record.outcome is OutcomeClass.UNSUITED for record in last.values())
    return list(last.values()) if refused else []


def _limits(attempts: tuple[AttemptRecord, ...]) -> str:
    """Which limit it was, where all endpoints that were asked have refused the request for one."""
    told = "; ".join(dict.fromkeys(WHY[record.limit] for record in refusals_of(attempts)))
    return f" ({told})" if told else ""


def _fix(attempts: tuple[AttemptRecord, ...], skipped: Mapping[str, str], retry_after: float | None) -> str:
    limits = {record.limit for record in refusals_of(attempts)}
    if limits:
        return "; ".join(FIXES[limit] for limit in Limit if limit in limits) + "."
    if attempts and all(record.outcome is OutcomeClass.LOCAL_FAULT for record in attempts):
        return (
            "check this machine's network; where a proxy is named above, HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and NO_PROXY "
            "for what needs none."
        )
    if retry_after is not None:
        last = 'use when_limited="next"' if STAYS in skipped.values() else "add another endpoint"
        return f"try again in {retry_after:.1f} seconds, allow a longer deadline, or {last}."
    if any(record.outcome is OutcomeClass.ENDPOINT_FAULT for record in attempts):
        return "check the key, model, base_url and account of the endpoints above; adding one again clears its hold."
    keyless = [name for name, why in skipped.items() if why == KEYLESS]
    if keyless and len(keyless) == len(skipped) and not attempts:
        return f"run `heablcoin-cloud set-key {keyless[0]}`, or name the key's variable in api_key_env."
    return "look at get_stats(), try again later, or add another endpoint."
